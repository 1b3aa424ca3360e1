"""All 46,350 heads and neurons of SmolLM2-135M: which of the strongest pairs a search measures.

    python -m benchmarks.smollm2_units --only sets       # the truth, two hours, once
    python -m benchmarks.smollm2_units --only searches   # 40 minutes on one core
    python -m benchmarks.smollm2_units --only growth     # half an hour
    python -m benchmarks.smollm2_units --only circuit    # an hour; not run to its end yet

Nobody can measure 1.07 billion pairs here. ``sets`` measures all pairs among the 150 units of the
largest attribution (the slope of the gate) at the intact model, among the 80 of the largest mean
slope with half of all units ablated, where backups are at work, and among the 150 of the largest
measured effect of ablating one of the 5,000 units of the largest attribution; and some 10,000
random pairs: all pairs within five groups of 64 units that were drawn evenly. ``searches`` says
what share of the true top 50 and 100 of each set SPEX measured, and how many of the random pairs
are at least as large as the 100th that it found. ``growth`` does the same for all heads with the
neurons of two layers, some 3,000 units between the 270 heads and all. ``circuit`` finds the heads
and neurons that do a task: every head and the neurons of the largest slopes are a unit each, and
the other neurons of each layer one unit together, so that nothing is left out.

The prompts are the first 8 of two tasks of ``map_tasks.py``. What is stopped goes on from its store
in the folder of temporary files. Writes ``truth/smollm2_units_*.npz`` and
``results/smollm2_units.json``.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from tempfile import gettempdir

import numpy as np
import torch

import spex_mech as sm
from benchmarks.frame import HERE, Options, Row, provenance, script
from benchmarks.games import pairs_of, recall, strongest
from benchmarks.map_tasks import KINDS, map_task

N_PROMPTS, N_HALVES = 8, 16
N_GROUPS, IN_GROUP = 5, 64  # of units drawn evenly
TASKS = ("ioi", "capitals")
SETS = {"attribution": 150, "half": 80, "effects": 150}  # units
N_SINGLES = 5000
DRAWN = "drawn"
BUDGETS = (600, 1200, 2400)
KS = (50, 100)
LAYERS, WIDE_BUDGETS = (10, 11), (300, 600, 1200)  # of the units between
ROLES = ("head", "neuron", "group")
N_NEURONS, CIRCUIT_BUDGET = 480, 4800  # neurons that are a unit each; evaluations to select


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
    sizes = slopes_at(game, masks)
    if chosen == "effects":
        some = np.argsort(-sizes, kind="stable")[:N_SINGLES]
        sizes[:] = 0
        sizes[some] = np.abs(effects_of(game, some))
    return np.sort(np.argsort(-sizes, kind="stable")[: SETS[chosen]])[None]


def slopes_at(game: sm.ModelGame, masks: torch.Tensor) -> np.ndarray:
    """The size of each unit's slope, over these masks: ``[unit]``."""
    return np.abs(game.gradient(masks).double().numpy()).mean(0)


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


def growth(options: Options) -> Iterator[Row]:
    """All heads and the neurons of two layers: SPEX at three budgets, judged by all pairs among the
    150 units of the largest attribution."""
    options.must_be_full()
    model = sm.load_model(sm.models.SMOLLM2)
    searched, _ = map_task("ioi", model).split(N_PROMPTS)
    units = sm.Components.heads(model) + sm.Components.neurons(model, layers=LAYERS)
    game = sm.ModelGame(model, searched, units)
    truth = strongest(pairs_among(game, f"ioi_{len(game)}", "attribution"))
    for budget in WIDE_BUDGETS:
        found = sm.discover(game, budget=budget, seed=0, progress=False)
        row: Row = {"task": "ioi", "units": len(game), "budget": budget}
        row |= {key: found.cost[key] for key in ("evaluations", "seconds")}
        yield row | {f"recall@{k}": recall(pairs_of(found), truth, k) for k in KS}


def mixed_units(game: sm.ModelGame) -> sm.Components:
    """Every head, the neurons of the largest slopes, and of each layer the other neurons."""
    neurons = np.array([kind == "neuron" for kind in game.units.kinds])
    rng = np.random.default_rng(0)
    masks = torch.from_numpy(rng.random((N_HALVES, len(game))) < 0.5)
    masks[0] = True  # the intact model, and half-ablated ones
    sizes = slopes_at(game, masks) * neurons
    alone = np.zeros(len(game), dtype=bool)
    alone[np.argsort(-sizes, kind="stable")[:N_NEURONS]] = True
    layers = game.units.layers
    units = game.components[np.flatnonzero(alone | ~neurons)]
    for layer in np.unique(layers):
        rest = np.flatnonzero(neurons & ~alone & (layers == layer))
        units = units + game.components[rest].group(f"L{layer} others")
    return units


def circuit(options: Options) -> Iterator[Row]:
    """The heads and neurons that do the first task, scored on other prompts; against as many units
    of the largest single effects."""
    task, whole = next(games(options))
    units, model = mixed_units(whole), whole.model
    on = {kind: sm.ModelGame(model, map_task(task, model, kind), units) for kind in KINDS}
    game = on["searched"]
    found = sm.discover(game, budget=2 * len(game), seed=0, progress=False)
    ours = sm.find_circuit(
        game, found, held_out=on["same"], budget=CIRCUIT_BUDGET, seed=0, progress=False
    )
    mains = np.nan_to_num(abs(found.main_effects))  # of units whose ablation was not asked for
    rival = [game.labels[unit] for unit in np.argsort(-mains, kind="stable")[: len(ours)]]
    row: Row = {"task": task, "what": "circuit", "units": len(game), "size": len(ours)}
    kind_of = dict(zip(game.labels, game.units.kinds, strict=True))
    row |= {kind: sum(kind_of[unit] == kind for unit in ours.units) for kind in ROLES}
    row["evaluations"] = found.cost["evaluations"] + ours.cost["evaluations"]
    row["not_among_largest_singles"] = len(set(ours.units) - set(rival))
    yield row | {"members": ours.units}
    for name, named in (("ours", ours.units), ("largest single effects", rival)):
        row = {"task": task, "what": "faithfulness", "of": name}
        yield row | {kind: kept_by(on[kind], named) for kind in KINDS}


def kept_by(game: sm.ModelGame, units: Sequence[str]) -> float:
    """The share of what all units do that is there with these alone."""
    gone = np.flatnonzero(~np.isin(game.labels, units))[None]
    every, no_one = np.arange(len(game))[None], np.full((1, 1), -1)
    part, none, whole = (game.ablating(sets).mean().item() for sets in (gone, every, no_one))
    return (part - none) / (whole - none)


PARTS = {"sets": sets, "searches": searches, "growth": growth, "circuit": circuit}

if __name__ == "__main__":
    script(__doc__, "smollm2_units", PARTS, n_prompts=N_PROMPTS)
