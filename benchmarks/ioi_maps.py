"""All 630 pairs of the 3M story model's 36 heads on indirect object identification, by three
ablations: maps, and whether the strongest pairs hold on prompts that were not used to find them.

    python -m benchmarks.ioi_maps --data ../shared/data
"""

from collections.abc import Iterator

import numpy as np

import spex_mech as sm
from benchmarks.frame import Options, Row, script
from benchmarks.games import prompts

N_SEARCHED, N_HELD_OUT, K = 32, 32, 20


def ablations(options: Options) -> Iterator[Row]:
    model = sm.load_model(options.models / "stories3m")
    task = prompts(options.models, model, "ioi", N_SEARCHED + N_HELD_OUT)
    searched, held_out = task.split(N_SEARCHED)
    for ablation in ("mean",) if options.quick else ("zero", "mean", "resample"):
        found = sm.discover(sm.ModelGame(model, searched, ablation=ablation), method="exhaustive")
        again = sm.confirm(found, sm.ModelGame(model, held_out, ablation=ablation), k=K)
        print(found)
        labels = np.array(found.labels)
        first = np.array([found.value(*labels[units]) for units in again.units])
        held = (np.sign(first) == np.sign(again.mean)) & (again.q_value <= 0.05)
        figures = {by: sm.plot_map(found, by=by) for by in ("unit", "layer")}
        if ablation == "mean":
            figures["network"] = sm.plot_network(found, k=20)
        for by, figure in figures.items():
            figure.savefig(options.picture(f"ioi_stories3m_{ablation}_{by}.png"), dpi=110)
        top = found.top(10)
        yield {
            "ablation": ablation,
            "intact": found.intact,
            "intact_held_out": again.intact,
            "top": [
                [*labels[units], round(float(value), 4), round(float(error), 4)]
                for units, value, error in zip(top.units, top.mean, top.stderr, strict=True)
            ],
            f"held_of_{K}": int(held.sum()),  # the same sign, and q <= 0.05
            "correlation_held_out": round(float(np.corrcoef(first, again.mean)[0, 1]), 4),
        }


PARTS = {"ablations": ablations}

if __name__ == "__main__":
    script(__doc__, "ioi_maps", PARTS, prompts=[N_SEARCHED, N_HELD_OUT], seed=0)
