"""All 630 pairs of the 3M story model's 36 heads on indirect object identification, by three
ablations: maps, and whether the strongest pairs hold on prompts that were not used to find them.

    python -m benchmarks.ioi_maps --data ../shared/data
"""

from typing import Any

import numpy as np

import spex_mech as sm
from benchmarks.common import Options, provenance, script

N_SEARCHED, N_HELD_OUT, K = 32, 32, 20


def run(options: Options) -> dict[str, Any]:
    data = options.data
    if data is None:
        print("ioi_maps needs the folder of models (--data); left out", flush=True)
        return {}
    model = sm.load_model(data / "stories3m")
    file = str(data / "prompts" / "ioi.json")
    task = sm.load_task(file, model, n_prompts=N_SEARCHED + N_HELD_OUT, seed=0)
    searched, held_out = task.split(N_SEARCHED)
    out = {**provenance(), "prompts": [N_SEARCHED, N_HELD_OUT], "seed": 0, "ablations": {}}
    for ablation in ("mean",) if options.quick else ("zero", "mean", "resample"):
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
            figure.savefig(options.picture(f"ioi_stories3m_{ablation}_{by}.png"), dpi=110)
        if ablation == "mean":
            figure = sm.plot_network(found, k=20)
            figure.savefig(options.picture("ioi_stories3m_mean_network.png"), dpi=110)
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
    options.keep("ioi_maps", out)
    return out


if __name__ == "__main__":
    script(__doc__, run)
