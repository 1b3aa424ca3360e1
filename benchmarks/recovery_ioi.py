"""SPEX and ProxySPEX on 3,108 units of a real model on indirect object identification: 4.8 million
pairs, whose truth nobody can measure exhaustively here. They are judged by three other means:

1. their own audit;
2. 20,000 pairs drawn at random and measured exactly: what energy do they say there is in all, and
   how many of them reach the size of the 100th pair that was found?
3. all 11,175 pairs among the 150 units of largest main effect, measured exactly: how many of their
   strongest were found?

    python benchmarks/recovery_ioi.py --data ../shared/data     # some 30 minutes on two cores
"""

import argparse
import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np

import spex_mech as sm

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from truth import provenance  # noqa: E402

RUNS = (("spex", 1.0), ("spex", 1.5), ("proxyspex", 1.0), ("proxyspex", 1.5))
N_RANDOM, N_STRONG, N_PROMPTS = 20_000, 150, 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    model = sm.load_model(data / "stories3m")
    task = sm.load_task(str(data / "prompts" / "ioi.json"), model, n_prompts=N_PROMPTS, seed=0)
    units = sm.Components.heads(model) + sm.Components.neurons(model)
    game = sm.ModelGame(model, task, units)
    n = len(game)
    out = {**provenance(), "n_units": n, "n_prompts": N_PROMPTS, "runs": []}

    runs = {}
    for method, per_unit in RUNS:
        found = sm.discover(game, method=method, budget=int(per_unit * n), seed=0)
        runs[method, per_unit] = found
        print(found, found.cost, found.audit, sep="\n", flush=True)

    random = sm.discover(game, method="exhaustive", budget=1 + n + N_RANDOM, seed=0)
    main_effects = random.main_effects
    strong = np.argsort(-abs(main_effects), kind="stable")[:N_STRONG]
    sets = [[game.labels[a], game.labels[b]] for a, b in combinations(np.sort(strong), 2)]
    among = sm.measure(game, sets)
    n_pairs = n * (n - 1) // 2
    energy = float((random.mean**2).mean() * n_pairs)

    for (method, per_unit), found in runs.items():
        have = {tuple(pair) for pair in found.units[:, :2].tolist()}
        kth = float(np.sort(abs(found.mean))[::-1][99])
        beyond = [
            tuple(pair)
            for pair, value in zip(random.units.tolist(), random.mean, strict=True)
            if abs(value) >= kth
        ]
        figures = {
            "method": method,
            "evaluations_per_unit": per_unit,
            "evaluations": found.cost["evaluations"],
            "seconds": found.cost["seconds"],
            "audit": found.audit,
            "size_of_100th_pair": kth,
            "energy_found": float((found.mean**2).sum()),
            "energy_of_all_by_random_pairs": energy,
            "random_pairs_as_strong_as_the_100th": len(beyond),
            "of_which_found": sum(pair in have for pair in beyond),
        }
        for k in (50, 100):
            top = [tuple(pair) for pair in among.top(k).units.tolist()]
            figures[f"found_of_top_{k}_among_{N_STRONG}_strong_units"] = float(
                np.mean([pair in have for pair in top])
            )
        out["runs"].append(figures)
        print(json.dumps(figures, indent=1), flush=True)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "recovery_ioi.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
