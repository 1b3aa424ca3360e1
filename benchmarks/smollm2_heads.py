"""What all 36,315 pairs of SmolLM2's heads show, and how much of it a search measures.

    python -m benchmarks.head_map capitals --store capitals.sqlite   # the truth, an hour, once
    python -m benchmarks.smollm2_heads                               # this, an hour on two cores
    python -m benchmarks.smollm2_heads --only facts                  # seconds: the files alone

``facts`` reads the files of ``benchmarks/head_map.py``: how the energy is spread, where the strong
pairs lie, which of them hold on other prompts and with zero ablation, and what single ablations
would have said. ``sink`` and ``roles`` look at attention, ``sets`` ablates many heads together.
``searches``, ``rivals`` and ``audits`` run the model anew; of our searches, single heads and pairs
are taken from the map. ``audits`` says how often the audit's intervals hold over 30 seeds. Recall
is the share of the true strongest pairs that were measured; of a rival, of those that are among as
many predictions as the budget could measure. Writes ``results/smollm2_heads.json`` and
``pictures/smollm2_heads.png``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import spex_mech as sm
from benchmarks.calibration import audited, over_audits
from benchmarks.frame import HERE, SEEDS, Options, Row, panels, rows_of, script, show_in_docs
from benchmarks.games import Around, strongest, values_of
from benchmarks.map_tasks import map_task
from benchmarks.recovery import Case, draw_recall
from spex_mech.game import Answer, no_tick
from spex_mech.masks import MaskBatch

TRUTH = HERE / "truth"
TASKS = ("capitals", "ioi")
KS = (100, 500)
BUDGETS = (100, 135, 270, 350, 540, 1080)  # up to 4 evaluations per head; ProxySPEX needs 94
WITH_SEEDS = (270, 350, 540)  # three seeds of these
# Budget and the audit's share of it: as it is, and so large that its tests can tell something.
AUDITS, N_AUDITS = ((270, None), (540, None), (5400, 0.5)), 30
RIVALS = (
    "Hessian-vector products",
    "attribution patching, products",
    "LASSO on pairs, near intact",
)


def map_of(task: str, kind: str = "") -> sm.Interactions:
    """The truth: of the searched prompts, or "same", "other", "zero"."""
    return sm.Interactions.load(TRUTH / f"smollm2_{task}{'_' if kind else ''}{kind}.npz")


def game_of(task: str) -> sm.ModelGame:
    model = sm.load_model(sm.models.SMOLLM2)
    return sm.ModelGame(model, map_task(task, model), "heads")


def facts(options: Options) -> Iterator[Row]:
    """What the files say."""
    for task in TASKS:
        found = map_of(task)
        yield {"task": task, "what": "map", **spread(found), **by_layer(found), **hidden(found)}
        yield from taken_apart(task, found)
        case = Case(task, found.labels, strongest(found), found.main_effects, KS)
        for budget in BUDGETS:  # a ranking by single ablations needs no model
            yield from case.of_no_search(budget)
        again = {kind: map_of(task, kind) for kind in ("same", "other", "zero")}
        for kind, other in again.items():
            yield {"task": task, "what": kind, **kept(found, other)}
        for pair in found.top(20).names:
            elsewhere = {kind: again[kind].value(*pair) for kind in ("same", "other")}
            row = {"task": task, "what": "pair", "pair": " x ".join(pair)}
            yield row | {"value": found.value(*pair)} | elsewhere


def taken_apart(task: str, found: sm.Interactions) -> Iterator[Row]:
    """The strongest pair: the metric with neither head, one, or both ablated, over the prompts of
    each template. (Those of "capitals" alternate between two.)"""
    strong = found.top(1)
    one, other = strong.units[0, :2]
    intact, effects = found.intact_by_prompt, found.main_effects_by_prompt
    both = intact + effects[one] + effects[other] + strong.values[0]
    names = [found.labels[one], found.labels[other]]
    parts = {"": intact, names[0]: intact + effects[one], names[1]: intact + effects[other]}
    for ablated, values in {**parts, " and ".join(names): both}.items():
        row: Row = {"task": task, "what": "apart", "ablated": ablated}
        yield row | {"even": float(values[::2].mean()), "odd": float(values[1::2].mean())}


def sink(options: Options) -> Iterator[Row]:
    """Of capitals: how much attention goes to the first token, by the heads from layer 3 on, with
    the strongest pair of the map intact, halved and gone. (Heads that find nothing to read rest
    there.)"""
    options.must_be_full()
    pair, game = map_of("capitals").top(1).names[0], game_of("capitals")
    later = [u.label for u in game.units if u.layer is not None and u.layer >= 3]
    real = game.task.prompts.real.cpu().numpy()
    for ablated in ((), pair[:1], pair[1:], pair):
        shares = []
        for prompt in range(len(real)):
            seen = game.attention_patterns(later, prompt, ablated)
            queries = np.flatnonzero(real[prompt])[1:]  # the first can read only itself
            shares.append(float(seen[:, queries, 0].mean()))
        row: Row = {"task": "capitals", "what": "sink", "ablated": " and ".join(ablated)}
        yield row | {"even": float(np.mean(shares[::2])), "odd": float(np.mean(shares[1::2]))}


def roles(options: Options) -> Iterator[Row]:
    """Of indirect object identification: where the heads look that matter most or are in the
    strongest pairs. IO is the name to be told, S the one that stands twice. Means over prompts of
    the share of attention: of the last token on IO and on S, of the second S on the first and on
    the token after it, of all tokens on the one before."""
    options.must_be_full()
    found, game = map_of("ioi"), game_of("ioi")
    by_size = np.argsort(-abs(found.main_effects), kind="stable")
    top = found.top(100).units[:, :2]
    heads = [*dict.fromkeys([*by_size[:20].tolist(), *top[:30].ravel().tolist()])]
    labels = [game.labels[unit] for unit in heads]
    looks = [looks_of(game, labels, prompt) for prompt in range(len(game.prompts))]
    for at, (unit, label) in enumerate(zip(heads, labels, strict=True)):
        row: Row = {"task": "ioi", "what": "role", "head": label}
        row |= {"alone": float(found.main_effects[unit]), "pairs": int((top == unit).sum())}
        row["rank"] = int(np.flatnonzero(by_size == unit)[0]) + 1
        yield row | {key: float(np.mean([look[key][at] for look in looks])) for key in looks[0]}


def looks_of(game: sm.ModelGame, heads: list[str], prompt: int) -> dict[str, np.ndarray]:
    """Shares of attention ``[head]`` on one prompt."""
    prompts = game.task.prompts
    tokens, real = prompts.tokens[prompt].cpu().numpy(), prompts.real[prompt].cpu().numpy()
    assert prompts.answers is not None and prompts.wrong_answers is not None
    (io,) = np.flatnonzero(tokens == int(prompts.answers[prompt]))
    first, second = np.flatnonzero(tokens == int(prompts.wrong_answers[prompt]))
    read = np.flatnonzero(real)
    seen, last = game.attention_patterns(heads, prompt), read[-1]
    return {
        "io": seen[:, last, io], "s": seen[:, last, first] + seen[:, last, second],
        "duplicate": seen[:, second, first], "induction": seen[:, second, first + 1],
        "previous": seen[:, read[1:], read[:-1]].mean(1),
    }  # fmt: skip


def sets(options: Options) -> Iterator[Row]:
    """What many heads do together, against the sum of what each does alone, and that with all
    pairs: the heads of the largest single effects, and drawn ones."""
    options.must_be_full()
    rng = np.random.default_rng(0)
    for task in TASKS:
        found, game = map_of(task), game_of(task)
        pairs = found.matrix()
        strong = np.argsort(-abs(found.main_effects), kind="stable")
        for size in (5, 10, 20, 40):
            drawn = [rng.choice(len(game), size, replace=False) for _ in range(10)]
            chosen = [("strongest", strong[:size]), *(("drawn", units) for units in drawn)]
            lost = np.stack([units for _, units in chosen])
            joint = game.ablating(lost).numpy().mean(1) - found.intact
            for (how, units), together in zip(chosen, joint, strict=True):
                alone = found.main_effects[units].sum()
                two = np.triu(pairs[np.ix_(units, units)], 1).sum()
                row: Row = {"task": task, "what": "set", "size": size, "heads": how}
                yield row | {"together": together, "alone": alone, "with_pairs": alone + two}


def spread(found: sm.Interactions) -> Row:
    """How few pairs hold how much of the energy, and what is above the noise floor."""
    sizes = np.sort(abs(found.mean))[::-1]
    energy = np.cumsum(sizes**2) / (sizes**2).sum()
    return {
        "units": len(found.labels), "pairs": len(sizes), "prompts": found.values.shape[1],
        "intact": found.intact,
        "significant": float((found.q_value <= 0.05).mean()),
        **{f"size_of_{k}th": float(sizes[k - 1]) for k in (1, 10, 100, 1000)},
        **{f"energy_of_top_{k}": float(energy[k - 1]) for k in (10, 100, 1000)},
    }  # fmt: skip


def by_layer(found: sm.Interactions) -> Row:
    """How pairs within a layer compare with pairs across layers."""
    layers = found.unit_table.layers
    apart = abs(np.diff(layers[found.units[:, :2]], axis=1)[:, 0])
    sizes = abs(found.mean)
    top = np.argsort(-sizes, kind="stable")[:100]
    return {
        "mean_size_within_a_layer": float(sizes[apart == 0].mean()),
        "mean_size_across_layers": float(sizes[apart > 0].mean()),
        "pairs_within_a_layer": float((apart == 0).mean()),
        "top_100_within_a_layer": float((apart[top] == 0).mean()),
        "median_layers_apart_of_top_100": float(np.median(apart[top])),
        "heads_in_top_100": len(np.unique(found.units[top, :2])),
        "top_100_positive": float((found.mean[top] > 0).mean()),
    }


def hidden(found: sm.Interactions) -> Row:
    """What one ablation at a time cannot see: how many of the strongest pairs are larger than what
    one of their heads does alone, and how far products of main effects rank the pairs."""
    main = abs(found.main_effects)
    units = found.units[:, :2]
    product = np.argsort(-main[units[:, 0]] * main[units[:, 1]], kind="stable")
    true = np.argsort(-abs(found.mean), kind="stable")
    larger = abs(found.mean[true[:100]]) > main[units[true[:100]]].min(axis=1)
    return {
        "top_100_larger_than_the_smaller_main_effect": float(larger.mean()),
        **{f"products_{k}": float(np.isin(true[:k], product[:k]).mean()) for k in KS},
    }


def kept(found: sm.Interactions, again: sm.Interactions) -> Row:
    """How the pairs of another game compare with those of the map."""
    pairs = [tuple(pair) for pair in again.names if len(pair) == 2]
    first = np.array([found.value(*pair) for pair in pairs])
    then = np.array([again.value(*pair) for pair in pairs])
    q = {tuple(pair): value for pair, value in zip(again.names, again.q_value, strict=True)}
    same = first * then > 0
    holds = same & np.array([q[pair] <= 0.05 for pair in pairs])
    order = np.argsort(-abs(first), kind="stable")
    row: Row = {"pairs": len(pairs), "intact": again.intact}
    for start, end in ((0, 100), (100, 500)):
        part = order[start:end]
        row[f"same_sign_{start}_{end}"] = float(same[part].mean())
        row[f"holds_{start}_{end}"] = float(holds[part].mean())
    top = order[:100]
    row["correlation_0_100"] = float(np.corrcoef(first[top], then[top])[0, 1])
    row["size_ratio_0_100"] = float(abs(then[top]).mean() / abs(first[top]).mean())
    return row


def case_of(task: str, game: Any) -> Case:
    """A game, with its truth."""
    truth = map_of(task)
    return Case(task, game, strongest(truth), truth.main_effects, KS)


def searches(options: Options) -> Iterator[Row]:
    """Both searches at up to 4 evaluations per head."""
    options.must_be_full()
    for case in (case_of(task, OfMap(game_of(task), map_of(task))) for task in TASKS):
        for budget in BUDGETS:
            seeds = SEEDS if budget in WITH_SEEDS else (0,)
            yield from case.of_ours(budget, ("spex", "proxyspex"), seeds)


def rivals(options: Options) -> Iterator[Row]:
    """What others predict with one and two evaluations per head."""
    options.must_be_full()
    for case in (case_of(task, game_of(task)) for task in TASKS):
        for budget in WITH_SEEDS[::2]:
            yield from case.of_rivals(budget, RIVALS, (0,), 3000)


class OfMap(Around):
    """A game whose singles and pairs are taken from a map; what else was asked is remembered."""

    def __init__(self, game: sm.ModelGame, found: sm.Interactions) -> None:
        super().__init__(game)
        self.intact, self.alone = found.intact_by_prompt, found.main_effects_by_prompt
        self.row = {tuple(pair): row for row, pair in enumerate(found.units[:, :2].tolist())}
        self.pairs = found.values
        self.asked: dict[tuple[tuple[int, ...], bool], Answer] = {}

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Any = no_tick) -> Answer:
        sets = [tuple(unit for unit in row if unit >= 0) for row in masks.ablated.tolist()]
        asked = [s for s in dict.fromkeys(sets) if slopes or len(s) > 2]
        new = [s for s in asked if (s, slopes) not in self.asked]
        if new:
            answer = self.game.evaluate(MaskBatch.of_sets(new, len(self.units)), slopes)
            for at, units in enumerate(new):
                own = None if answer.slopes is None else answer.slopes[at]
                self.asked[units, slopes] = Answer(answer.values[at], own)
        if slopes:
            told = [self.asked[s, slopes] for s in sets]
            return Answer(np.stack([a.values for a in told]), np.stack([a.slopes for a in told]))
        return Answer(np.stack([self._value(s) for s in sets]))

    def _value(self, units: tuple[int, ...]) -> np.ndarray:
        if len(units) > 2:
            return self.asked[units, False].values
        pair = self.pairs[self.row[units]] if len(units) == 2 else 0.0
        return self.intact + self.alone[list(units)].sum(axis=0) + pair


def audits(options: Options) -> Iterator[Row]:
    """The audit of SPEX, seed by seed, against all pairs."""
    options.must_be_full()
    for task in TASKS:
        found = map_of(task)
        truth = values_of(found)
        game = OfMap(game_of(task), found)
        for budget, share in AUDITS:
            how = {"budget": budget, "audit": share, "progress": False}
            runs = [sm.discover(game, seed=seed, **how) for seed in range(N_AUDITS)]
            row: Row = {"task": task, "what": "audit", "budget": budget, "runs": N_AUDITS}
            row["tests"] = float(np.median([run.audit["n_tested"] for run in runs]))
            row["needed"] = float(np.median([run.audit["tests_needed"] for run in runs]))
            row["cannot_tell"] = float(np.mean([run.audit["cannot_tell"] for run in runs]))
            mine = [audited(run, truth) for run in runs]
            row["recall_true"] = float(np.mean([of["recall_true"] for of in mine]))
            yield row | over_audits(mine)


def draw(rows: list[Row], file: Path) -> None:
    map_picture = file.with_name("smollm2_map.png")
    sm.plot_map(map_of("capitals"), most=40).savefig(map_picture, dpi=110)
    show_in_docs(map_picture)
    # 270 evaluations leave rivals no pair to name.
    ran = [row for row in rows if row.get("n_pairs") or row.get("method") not in RIVALS]
    marks = {"spex": "o-", "proxyspex": "s--", "products of main effects": "^:"}
    marks |= dict(zip(RIVALS, "DPX", strict=True))
    with panels(file, 1, 2, (11, 4.2)) as axes:
        for ax, task in zip(axes, ("ioi", "capitals"), strict=True):
            draw_recall(ax, rows_of(ran, game=task), marks)
            ax.set(xlabel="evaluations (all pairs: 36,586)", ylim=(-0.02, 1.02), xscale="log")
            ax.set_title(f"SmolLM2-135M, 270 heads, {task}")
        axes[0].set_ylabel("share of the true top 100 pairs found")


PARTS = {
    "facts": facts,
    "sink": sink,
    "roles": roles,
    "sets": sets,
    "searches": searches,
    "rivals": rivals,
    "audits": audits,
}

if __name__ == "__main__":
    script(__doc__, "smollm2_heads", PARTS, draw)
