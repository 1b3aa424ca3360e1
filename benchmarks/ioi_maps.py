"""All 630 pairs of the 3M story model's 36 heads on indirect object identification, by three
ablations: maps, and whether the strongest pairs hold on prompts that were not used to find them.

    python benchmarks/ioi_maps.py --data ../shared/data
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

import spex_mech as sm

sys.path.insert(0, str(Path(__file__).parent))
from truth import HERE, provenance

N_SEARCHED, N_HELD_OUT, K = 32, 32, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    model = sm.load_model(data / "stories3m")
    file = str(data / "prompts" / "ioi.json")
    task = sm.load_task(file, model, n_prompts=N_SEARCHED + N_HELD_OUT, seed=0)
    searched, held_out = task.split(N_SEARCHED)
    out = {**provenance(), "prompts": [N_SEARCHED, N_HELD_OUT], "seed": 0, "ablations": {}}
    for ablation in ("zero", "mean", "resample"):
        game = sm.ModelGame(model, searched, ablation=ablation)
        found = sm.discover(game, method="exhaustive")
        again = sm.confirm(found, sm.ModelGame(model, held_out, ablation=ablation), k=K)
        labels = np.array(found.labels)
        first = np.array([found.value(*labels[units]) for units in again.units])
        held = (np.sign(first) == np.sign(again.mean)) & (again.q_value <= 0.05)
        print(f"\n{ablation}: intact {found.intact:.2f}, held-out {again.intact:.2f}\n{found}")
        print(
            f"of the strongest {K}, {held.sum()} hold on {N_HELD_OUT} other prompts (same sign, "
            f"q <= 0.05); correlation of sizes {np.corrcoef(first, again.mean)[0, 1]:.3f}"
        )
        for by in ("unit", "layer"):
            figure = sm.plot_map(found, by=by)
            path = HERE / "pictures" / f"ioi_stories3m_{ablation}_{by}.png"
            path.parent.mkdir(exist_ok=True)
            figure.savefig(path, dpi=110)
        if ablation == "mean":
            sm.plot_network(found, k=20).savefig(
                HERE / "pictures" / "ioi_stories3m_mean_network.png", dpi=110
            )
        top = found.top(10)
        out["ablations"][ablation] = {
            "intact": found.intact,
            "top": [
                [*labels[units], round(float(value), 4), round(float(error), 4)]
                for units, value, error in zip(top.units, top.mean, top.stderr, strict=True)
            ],
            f"held_of_{K}": int(held.sum()),
            "correlation_held_out": round(float(np.corrcoef(first, again.mean)[0, 1]), 4),
        }
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "ioi_maps.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
