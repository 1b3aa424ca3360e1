"""All 46,350 heads and neurons of SmolLM2-135M: which of the strongest pairs a search measures.

    python -m benchmarks.smollm2_units --only sets       # the truth, two hours on one core, once
    python -m benchmarks.smollm2_units --only searches   # some 20 minutes on one core

Nobody can measure 1.07 billion pairs here. ``sets`` measures all 3,160 pairs among 80 units, for
three choices of these 80: by attribution (gate times slope) at the intact model, by the mean
size of that with half of all units ablated, and by measured single effects among the 2,000 units
of the largest attribution. Units that do nothing at the intact model, as backups, can be among the
second. It also measures all pairs among 80 units drawn at random. ``searches`` runs SPEX and says
what share of the true top 50 and 100 of each set it measured. The prompts are the first 8 of
``map_tasks.py``. What is stopped goes on from the store. Writes ``truth/smollm2_units_*.npz`` and
``results/smollm2_units.json``.
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
from benchmarks.map_tasks import TASKS, map_task

N_PROMPTS = 8
STRONG, SINGLES, DRAWN, HALVES = 80, 2000, 80, 16
SETS = ("attribution", "half", "singles", "drawn")
BUDGETS = (600, 1200, 2400)
KS = (50, 100)


def file_of(task: str, chosen: str) -> Path:
    """The file of all pairs of one set of units."""
    return HERE / "truth" / f"smollm2_units_{task}_{chosen}.npz"


def game_of(task: str, model: torch.nn.Module) -> sm.ModelGame:
    """The model's heads and neurons on the first prompts of a task."""
    searched, _ = map_task(task, model).split(N_PROMPTS)
    return sm.ModelGame(model, searched, "heads+neurons")


def units_of(chosen: str, game: sm.ModelGame) -> np.ndarray:
    """The units of a set, ascending."""
    n, rng = len(game), np.random.default_rng(0)
    if chosen == "drawn":
        return np.sort(rng.choice(n, DRAWN, replace=False))
    masks = torch.ones(1, n, dtype=torch.bool)
    if chosen == "half":
        masks = torch.from_numpy(rng.random((HALVES, n)) < 0.5)
    sizes = np.abs(game.gradient(masks).double().numpy()).mean(0)
    strong = np.argsort(-sizes, kind="stable")
    if chosen != "singles":
        return np.sort(strong[:STRONG])
    among = np.sort(strong[:SINGLES])
    alone = game.ablating(among[:, None]).numpy().mean(1) - game(torch.ones(1, n) > 0).mean().item()
    return np.sort(among[np.argsort(-abs(alone), kind="stable")[:STRONG]])


def sets(options: Options) -> Iterator[Row]:
    """Measure all pairs of each set whose file is not there yet."""
    options.must_be_full()
    model = sm.load_model(sm.models.SMOLLM2)
    for task in TASKS:
        game = game_of(task, model)
        for chosen in SETS:
            store = Path(gettempdir()) / f"smollm2_units_{task}_{chosen}.sqlite"
            if not file_of(task, chosen).exists():
                units = units_of(chosen, game)
                pairs = np.array(list(combinations(units, 2)))
                found = sm.measure(game, pairs, store=store, masks_per_batch=game.masks_per_batch)
                found.about["benchmark"] = provenance()
                found.save(file_of(task, chosen))
            found = sm.Interactions.load(file_of(task, chosen))
            sizes = np.sort(abs(found.mean))[::-1]
            named = np.unique(found.units[:, :2])
            row: Row = {"task": task, "set": chosen, "units": len(named), "pairs": len(found)}
            row["heads"] = sum(found.labels[unit].count("H") for unit in named)
            row |= {f"size_of_{k}th": float(sizes[k - 1]) for k in (1, 10, 100)}
            yield row | {"noise_floor": found.noise_floor, "intact": found.intact}


def searches(options: Options) -> Iterator[Row]:
    """SPEX at three budgets, untouched, judged by each set that was measured."""
    options.must_be_full()
    model = sm.load_model(sm.models.SMOLLM2)
    for task in TASKS:
        files = {chosen: file for chosen in SETS if (file := file_of(task, chosen)).exists()}
        if not files:
            continue
        truths = {chosen: sm.Interactions.load(file) for chosen, file in files.items()}
        game = game_of(task, model)
        for budget in BUDGETS:
            found = sm.discover(game, budget=budget, seed=0, progress=False)
            have = pairs_of(found)
            kth = float(np.sort(abs(found.mean))[::-1][99])
            row: Row = {"task": task, "budget": budget, "seconds": found.cost["seconds"]}
            row |= {"evaluations": found.cost["evaluations"], "size_of_100th": kth}
            for chosen, truth in truths.items():
                row |= {f"{chosen}@{k}": recall(have, strongest(truth), k) for k in KS}
                row[f"{chosen}_above"] = int((abs(truth.mean) >= kth).sum())
            yield row | {"audit": found.audit}


PARTS = {"sets": sets, "searches": searches}

if __name__ == "__main__":
    script(__doc__, "smollm2_units", PARTS, n_prompts=N_PROMPTS)
