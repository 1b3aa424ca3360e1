"""SmolLM2's heads beyond pairs on two tasks: a third task, triples, and a circuit.

    python -m benchmarks.smollm2_more --only third     # fifteen minutes on one core
    python -m benchmarks.smollm2_more --only triples   # half an hour, once; then minutes
    python -m benchmarks.smollm2_more --only circuit   # half an hour

``third`` measures pairs on pronouns ("When Mary was young,"), compares those of 60 heads with both
maps, and runs SPEX on a task that was not looked at before. ``triples`` measures all triples
of the first 40 of these heads on indirect object identification: how large they are beside pairs,
how much of the joint effect of many heads they explain, and which of them a search of the 270 heads
measures. ``circuit`` finds the heads that do the task, on the searched prompts, and scores them on
other prompts and in other templates, against as many heads of the largest single effects. What is
stopped goes on from its store in the folder of temporary files. Writes
``results/smollm2_more.json``, ``truth/smollm2_pronouns.npz`` and ``truth/smollm2_ioi_triples.npz``.
"""

from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from tempfile import gettempdir

import numpy as np

import spex_mech as sm
from benchmarks.frame import SEEDS, Options, Row, provenance, script
from benchmarks.games import recall, strongest, values_of
from benchmarks.head_map import ZERO, heads_of_the_strongest
from benchmarks.map_tasks import KINDS, map_task
from benchmarks.smollm2_heads import TRUTH, kept, map_of
from benchmarks.smollm2_units import kept_by
from spex_mech.masks import MaskBatch
from spex_mech.pairs.gradient_rows import GradientRows
from spex_mech.search.settings import DEFAULTS

TASK, N_HEADS = "ioi", 40
N_LIKELY, N_DRAWN_PAIRS = 1500, 300  # pairs of the third task
BUDGETS, KS = (540, 1080), (20, 100)
SIZES, N_DRAWN = (5, 10, 20), 20  # of sets of the 40 heads
SIZE_BUDGET = 10  # evaluations per head, of the selection of the circuit


def game_on(task: str, kind: str = "searched") -> sm.ModelGame:
    """All heads, on prompts of a kind."""
    model = sm.load_model(sm.models.SMOLLM2)
    return sm.ModelGame(model, map_task(task, model, kind), "heads")


def measured(game: sm.ModelGame, sets: np.ndarray, name: str) -> sm.Interactions:
    """The sets as the file of that name has them; else measured, and kept in it."""
    file = TRUTH / f"{name}.npz"
    if not file.exists():
        store = Path(gettempdir()) / f"{name}.sqlite"
        found = sm.measure(game, sets, store=store, masks_per_batch=game.masks_per_batch)
        found.about["benchmark"] = provenance()
        found.save(file)
    return sm.Interactions.load(file)


def third(options: Options) -> Iterator[Row]:
    """Whether the pairs of one task are those of another; and SPEX on a task on which nothing of it
    was tried. The truth: all pairs of the 60 heads, and of all heads those that gradients of every
    head predict to be largest; some drawn from the others say what is missing."""
    options.must_be_full()
    game = game_on("pronouns")
    rng, listed = np.random.default_rng(0), by_prediction(game)
    among = [*combinations(heads_of_the_strongest(map_of(TASK), ZERO), 2)]
    likely = {*listed[:N_LIKELY], *among}
    others = [pair for pair in listed if pair not in likely]
    drawn = [others[at] for at in rng.choice(len(others), N_DRAWN_PAIRS, replace=False)]
    found = measured(game, np.array(sorted(likely | {*drawn})), "smollm2_pronouns")
    values, sizes = values_of(found), np.sort(abs(found.mean))[::-1]
    row: Row = {"task": "pronouns", "what": "map", "pairs": len(found), "intact": found.intact}
    row["largest_drawn"] = max(abs(values[pair]) for pair in drawn)
    yield row | {f"size_of_{k}th": float(sizes[k - 1]) for k in (1, 10, 100)}
    for task in ("ioi", "capitals"):
        other, shared = values_of(map_of(task)), found.take([pair in among for pair in values])
        row = {"task": "pronouns", "what": "against", "other": task}
        top = [
            {*sorted(among, key=lambda of: -abs(of_task[of]))[:100]} for of_task in (values, other)
        ]
        row["of_top_100"] = len(top[0] & top[1]) / 100
        yield row | kept(map_of(task), shared)
    for pair in found.top(8).names:
        row = {"task": "pronouns", "what": "pair", "pair": " x ".join(pair)}
        elsewhere = {task: map_of(task).value(*pair) for task in ("ioi", "capitals")}
        yield row | {"value": found.value(*pair)} | elsewhere
    for budget, seed in product((270, 350, 540), SEEDS):
        ran = sm.discover(game, budget=budget, seed=seed, progress=False)
        row = {"task": "pronouns", "what": "search", "budget": budget, "seed": seed}
        yield row | {"recall@100": recall(values_of(ran), strongest(found), 100)}


def by_prediction(game: sm.ModelGame) -> list[tuple[int, ...]]:
    """All pairs, those first that the gradients without one head each predict to be largest."""
    n = len(game)
    gone = MaskBatch.of_sets([(), *((head,) for head in range(n))], n)
    slopes = np.concatenate([game.evaluate(part, slopes=True).slopes for part in gone.split(30)])
    rows = GradientRows(slopes[0], block_weight=DEFAULTS.block_weight)
    for head in range(n):
        rows.add(head, slopes[1 + head])
    return [tuple(pair) for pair in rows.strongest(n * (n - 1) // 2).tolist()]


def triples(options: Options) -> Iterator[Row]:
    """All triples of 40 heads, and what a search measures of them."""
    options.must_be_full()
    game, pairs = game_on(TASK), map_of(TASK)
    heads = heads_of_the_strongest(pairs, N_HEADS)
    found = measured(game, np.array(list(combinations(heads, 3))), f"smollm2_{TASK}_triples")
    found = found.take(found.order == 3)  # their pairs were measured on the way
    threes = values_of(found)
    twos = {pair: value for pair, value in values_of(pairs).items() if set(pair) <= set(heads)}
    sizes = {order: np.sort(np.abs([*of.values()]))[::-1] for order, of in ((2, twos), (3, threes))}
    row: Row = {"task": TASK, "what": "triples", "heads": len(heads), "triples": len(threes)}
    for order, of in sizes.items():
        row |= {f"order_{order}_size_of_{k}th": float(of[k - 1]) for k in (1, 10, 100)}
        row[f"order_{order}_energy"] = float((of**2).sum())
    row["significant"] = float((found.q_value <= 0.05).mean())
    strong = sorted(threes, key=lambda of: -abs(threes[of]))
    largest = {pair for pair in twos if abs(twos[pair]) >= sizes[2][99]}
    held = [sum(pair in largest for pair in combinations(of, 2)) for of in strong[:100]]
    yield row | {f"top_100_with_{n}_of_100_pairs": held.count(n) / 100 for n in range(4)}
    yield from of_joint_effects(game, pairs, heads, twos, threes)
    for budget in BUDGETS:
        ran = sm.discover(game, budget=budget, order=3, seed=0, progress=False)
        have = values_of(ran)
        row = {"task": TASK, "what": "search", "budget": budget}
        row |= {"evaluations": ran.cost["evaluations"], "measured": sum(len(x) == 3 for x in have)}
        yield row | {f"recall@{k}": float(np.mean([of in have for of in strong[:k]])) for k in KS}


def of_joint_effects(
    game: sm.ModelGame,
    pairs: sm.Interactions,
    heads: list[int],
    *orders: dict[tuple[int, ...], float],
) -> Iterator[Row]:
    """How far the joint effect of a set of the heads is from its singles, with pairs, with triples:
    the mean size of the joint effect and of what is missed, over drawn sets."""
    rng = np.random.default_rng(0)
    for size in SIZES:
        lost = np.sort([rng.choice(heads, size, replace=False) for _ in range(N_DRAWN)])
        joint = game.ablating(lost).numpy().mean(1) - pairs.intact
        said = pairs.main_effects[lost].sum(1)
        row: Row = {"task": TASK, "what": "set", "size": size}
        row |= {
            "together": float(abs(joint).mean()),
            "missed_by_1": float(abs(joint - said).mean()),
        }
        for order, values in enumerate(orders, start=2):
            said = said + [sum(values[of] for of in combinations(s, order)) for s in lost.tolist()]
            row[f"missed_by_{order}"] = float(abs(joint - said).mean())
        yield row


def circuit(options: Options) -> Iterator[Row]:
    """The heads that do the task, and how they do elsewhere."""
    options.must_be_full()
    game = game_on(TASK)
    found = sm.discover(game, budget=540, seed=0, progress=False)
    same, other = (game_on(TASK, kind) for kind in KINDS[1:])
    ours = sm.find_circuit(
        game, found, faithfulness=0.9, held_out=same, budget=SIZE_BUDGET * len(game), progress=False
    )
    by_size = np.argsort(-abs(found.main_effects), kind="stable")
    rival = [game.labels[unit] for unit in by_size[: len(ours)]]
    row: Row = {"task": TASK, "what": "circuit", "size": len(ours), "heads": ours.units}
    row |= {"evaluations": found.cost["evaluations"] + ours.cost["evaluations"]}
    row["not_among_largest_singles"] = len(set(ours.units) - set(rival))
    yield row
    on = dict(zip(KINDS, (game, same, other), strict=True))
    for name, units in (("ours", ours.units), ("largest single effects", rival)):
        row = {"task": TASK, "what": "faithfulness", "of": name}
        yield row | {kind: kept_by(on[kind], units) for kind in KINDS}


PARTS = {"third": third, "triples": triples, "circuit": circuit}

if __name__ == "__main__":
    script(__doc__, "smollm2_more", PARTS)
