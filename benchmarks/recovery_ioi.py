"""SPEX and ProxySPEX on 3,108 units of a real model on indirect object identification: 4.8 million
pairs, whose truth nobody can measure exhaustively here. They are judged by three other means:

1. their own audit;
2. 20,000 pairs drawn at random and measured exactly: what energy do they say there is in all, and
   how many of them reach the size of the 100th pair that was found?
3. all 11,175 pairs among the 150 units of largest main effect, measured exactly: how many of their
   strongest were found?

    python -m benchmarks.recovery_ioi --data ../shared/data     # some 30 minutes on two cores
"""

import json
from itertools import combinations
from typing import Any

import numpy as np

import spex_mech as sm
from benchmarks.common import Options, provenance, script

RUNS = (("spex", 1.0), ("spex", 1.5), ("proxyspex", 1.0), ("proxyspex", 1.5))
N_RANDOM, N_STRONG, N_PROMPTS = 20_000, 150, 6


def run(options: Options) -> dict[str, Any]:
    data = options.data
    if data is None:
        print("recovery_ioi needs the folder of models (--data); left out", flush=True)
        return {}
    n_random, n_strong = (500, 20) if options.quick else (N_RANDOM, N_STRONG)
    model = sm.load_model(data / "stories3m")
    task = sm.load_task(str(data / "prompts" / "ioi.json"), model, n_prompts=N_PROMPTS, seed=0)
    units = sm.Components.heads(model) + sm.Components.neurons(model)
    game = sm.ModelGame(model, task, units)
    n = len(game)
    out = {**provenance(), "n_units": n, "n_prompts": N_PROMPTS, "runs": []}

    runs = {}
    for method, per_unit in RUNS[:1] if options.quick else RUNS:
        found = sm.discover(game, method=method, budget=int(per_unit * n), seed=0)
        runs[method, per_unit] = found
        print(found, found.cost, found.audit, sep="\n", flush=True)

    random = sm.discover(game, method="exhaustive", budget=1 + n + n_random, seed=0)
    main_effects = random.main_effects
    strong = np.argsort(-abs(main_effects), kind="stable")[:n_strong]
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
            figures[f"found_of_top_{k}_among_{n_strong}_strong_units"] = float(
                np.mean([pair in have for pair in top])
            )
        out["runs"].append(figures)
        print(json.dumps(figures, indent=1), flush=True)
    options.keep("recovery_ioi", out)
    return out


if __name__ == "__main__":
    script(__doc__, run)
