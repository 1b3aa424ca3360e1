"""All 46,350 heads and neurons of SmolLM2-135M: which of the strongest pairs a search measures.

    python -m benchmarks.smollm2_units --only sets       # the truth, two hours, once
    python -m benchmarks.smollm2_units --only searches   # 40 minutes on one core

Nobody can measure 1.07 billion pairs here. ``sets`` measures all pairs among the 150 units of the
largest attribution (the slope of the gate) at the intact model, among the 80 of the largest mean
slope with half of all units ablated, where backups are at work, and among the 150 of the largest
measured effect of ablating one of the 5,000 units of the largest attribution; and some 10,000
random pairs: all pairs within five groups of 64 units that were drawn evenly. ``searches`` says
what share of the true top 50 and 100 of each set SPEX measured, and how many of the random pairs
are at least as large as the 100th that it found. The prompts are the first 8 of two tasks of
``map_tasks.py``. What is stopped goes on from its store in the folder of temporary files. Writes
``truth/smollm2_units_*.npz`` and ``results/smollm2_units.json``.
"""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch

import spex_mech as sm
from benchmarks.frame import HERE, Options, Row, provenance, script
from benchmarks.games import pairs_of, recall, strongest
from benchmarks.map_tasks import map_task

N_PROMPTS, N_HALVES = 8, 16
N_GROUPS, IN_GROUP = 5, 64  # of units drawn evenly
TASKS = ("ioi", "capitals")
SETS = {"attribution": 150, "half": 80, "effects": 150}  # units
N_SINGLES = 5000
DRAWN = "drawn"
BUDGETS = (600, 1200, 2400)
KS = (50, 100)


def file_of(task: str, chosen: str) -> Path:
    """The file of all pairs of one set of units."""
    return HERE / "truth" / f"smollm2_units_{task}_{chosen}.npz"


def games(options: Options) -> Iterator[tuple[str, sm.ModelGame]]:
    """Each task, with the model's heads and neurons as its units."""
    options.must_be_full()
    model = sm.load_model(sm.models.SMOLLM2)
    for task in TASKS:
        searched, _ = map_task(task, model).split(N_PROMPTS)
        yield task, sm.ModelGame(model, searched, "heads+neurons")


def groups_of(chosen: str, game: sm.ModelGame) -> np.ndarray:
    """The units of a set, or of each group of drawn ones, ascending: ``[group unit]``."""
    rng = np.random.default_rng(0)
    if chosen == DRAWN:
        return np.sort(rng.choice(len(game), (N_GROUPS, IN_GROUP), replace=False))
    masks = torch.ones(1, len(game), dtype=torch.bool)
    if chosen == "half":
        masks = torch.from_numpy(rng.random((N_HALVES, len(game))) < 0.5)
    sizes = np.abs(game.gradient(masks).double().numpy()).mean(0)
    if chosen == "effects":
        some = np.argsort(-sizes, kind="stable")[:N_SINGLES]
        sizes[:] = 0
        sizes[some] = np.abs(effects_of(game, some))
    return np.sort(np.argsort(-sizes, kind="stable")[: SETS[chosen]])[None]


def effects_of(game: sm.ModelGame, units: np.ndarray) -> np.ndarray:
    """What the mean metric loses or gains by ablating each of these units alone: ``[unit]``."""
    masks = torch.ones(len(units) + 1, len(game), dtype=torch.bool)
    masks[torch.arange(len(units)), torch.from_numpy(units)] = False
    values = game(masks).double().numpy().mean(1)
    return values[:-1] - values[-1]


def sets(options: Options) -> Iterator[Row]:
    """Measure all pairs of each set whose file is not there yet."""
    for task, game in games(options):
        for chosen in (*SETS, DRAWN):
            found = pairs_among(game, task, chosen)
            sizes = np.sort(abs(found.mean))[::-1]
            named = np.unique(found.units[:, :2])
            row: Row = {"task": task, "set": chosen, "units": len(named), "pairs": len(found)}
            row["heads"] = sum(found.unit_table.kinds[unit] == "head" for unit in named)
            yield row | {f"size_of_{k}th": float(sizes[k - 1]) for k in (1, 10, 100)}


def pairs_among(game: sm.ModelGame, task: str, chosen: str) -> sm.Interactions:
    """The pairs of a set, from its file where there is one."""
    file = file_of(task, chosen)
    if not file.exists():
        groups = groups_of(chosen, game)
        pairs = np.concatenate([np.array(list(combinations(group, 2))) for group in groups])
        store = Path(gettempdir()) / f"smollm2_units_{task}.sqlite"  # sets share pairs
        found = sm.measure(game, pairs, store=store, masks_per_batch=game.masks_per_batch)
        found.about["benchmark"] = provenance()
        found.save(file)
    return sm.Interactions.load(file)


def searches(options: Options) -> Iterator[Row]:
    """SPEX at three budgets, untouched, judged by each set and by the drawn pairs."""
    for task, game in games(options):
        for budget in BUDGETS:
            found = sm.discover(game, budget=budget, seed=0, progress=False)
            have, sizes = pairs_of(found), np.sort(abs(found.mean))[::-1]
            row: Row = {"task": task, "budget": budget, "seconds": found.cost["seconds"]}
            row |= {"evaluations": found.cost["evaluations"], "measured": len(have)}
            row["size_of_100th"] = float(sizes[99])
            drawn = sm.Interactions.load(file_of(task, DRAWN))
            row |= {"drawn": len(drawn), "as_strong": int((abs(drawn.mean) >= sizes[99]).sum())}
            for chosen in SETS:
                truth = strongest(sm.Interactions.load(file_of(task, chosen)))
                row |= {f"{chosen}@{k}": recall(have, truth, k) for k in KS}
            yield row | {"audit": found.audit}


PARTS = {"sets": sets, "searches": searches}

if __name__ == "__main__":
    script(__doc__, "smollm2_units", PARTS, n_prompts=N_PROMPTS)
