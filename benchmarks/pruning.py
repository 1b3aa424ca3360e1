"""Pruning heads, and knocking a task out: ours against LASSO, random subsets and greedy ablation.

**Pruning**, as in the ProxySPEX paper (Butler et al. 2025, on a Llama): of a group of heads (three
layers jointly, or all) keep 75, 50 and 25 %, so that the task's metric is as large as possible on
the prompts of the selection; all other heads of the group are ablated by their mean over those
prompts. Scored on held-out prompts: the recovered share (metric - all of the group ablated) /
(intact - all of the group ablated). A group whose ablation lowers the metric by less than a tenth
in some draw does nothing for the task that could be recovered: it is left out, and named.

- *search*: ``discover``, then ``faithfulness_curve(aim="recover")``: B masks for the three levels
  together. *surrogate*, as in the paper: ``distill`` with B half masks, then the subset that the
  small model predicts to be best (swaps from random starts); nothing is corrected by ablations.
  *surrogate, corrected*: ``explain`` half of B masks, drawn at the three levels; then, three times,
  run the subsets that it predicts to be best and learn from them too; the best that was run stays.
- *LASSO* on indicators of kept heads (strength by cross-validation): the heads with the largest
  coefficients stay. It learns, for each level, from masks of just that level, 10 B or B for the
  three levels together. *best of random*: the best of the same masks.
- *main effects*: n + 1 masks. *greedy*: the head that matters least given what is gone goes next;
  all n(n+1)/2 masks.

**Knock-out**: the fewest heads whose joint ablation leaves at most a tenth of the recovered share,
on the prompts of the selection. *search*: ``subsets.knock_out``, with B masks. *LASSO*, linear
compressed sensing: three sets of masks that keep 90, 75 and 50 %, 10 B together; heads go in the
order of their coefficients until the task is gone; the best of the three counts. *greedy*: the head
goes whose loss hurts most given what is gone.

Every draw takes other prompts for selection (of the small prompt files: another division, so that
draws overlap). A figure is the mean over draws; its error is the larger one of that over prompts
and that over draws. Of two methods one is ahead if the paired difference is over two such errors.
Masks are counted by the game itself; a gradient counts as three.

    python -m benchmarks.pruning --data ../shared/data     # half an hour on two cores
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from benchmarks import subsets
from benchmarks.frame import LeftOut, Options, Row, panels, script
from benchmarks.games import Watched, passages, prompts
from benchmarks.subsets import KEPT, LEVELS, Pool
from spex_mech.results.statistics import ratios, standard_errors

LEAST = 0.1  # of the intact metric: a group that does less is left out
N_SELECT, N_HELD, N_QUICK = 16, 60, 8
PER_UNIT = 6  # masks per head for ours: B
RIVALS = 10  # times as many masks for rivals
MAIN, CORRECTED, RIVAL = "search", "surrogate, corrected", "LASSO, 10 B"

Layers = tuple[int, int] | None
Method = tuple[Callable[[], Any], int | None]  # and its masks where the game does not count them


def games_of(
    options: Options, model: Any, name: str, layers: Layers, seed: int
) -> tuple[Watched, sm.ModelGame]:
    """For selection and held out; heads that are gone are replaced by the same means."""
    n_select = N_QUICK if options.quick else N_SELECT
    if name == "text":
        task = passages(options.models, model, n_select + N_HELD, seed)
    else:
        count = 60 if name == "pronoun" else n_select + N_HELD  # all that there are
        task = prompts(options.models, model, name, count, seed)
    heads = sm.Components.heads(model)
    if layers is not None:
        heads = heads.select(f"L[{layers[0]}-{layers[1]}]H*")
    first, rest = task.split(n_select)
    held = sm.ModelGame(model, rest, heads, reference=first.prompts)
    return Watched(sm.ModelGame(model, first, heads)), held


def many(game: Watched) -> int:
    """Masks of each size for rivals: 10 B for all levels together."""
    return RIVALS * PER_UNIT * len(game) // len(LEVELS)


def methods_of(game: Watched, pool: Pool, seed: int) -> dict[str, Method]:
    """Each method of pruning."""
    budget, sizes, most = PER_UNIT * len(game), subsets.sizes_of(len(game)), many(game)
    few, spent = most // RIVALS, most * len(LEVELS)
    best_random = partial(subsets.by_best_random, pool, sizes, most)
    return {
        MAIN: (partial(subsets.by_search, game, budget, seed), None),
        "surrogate, distilled": (
            partial(subsets.by_surrogate, game, budget, seed, "distilled"), None),
        "surrogate, trees": (partial(subsets.by_surrogate, game, budget, seed, "trees"), None),
        CORRECTED: (partial(subsets.by_corrected, game, budget, seed), None),
        "main effects": (partial(subsets.by_main_effects, game), None),
        "greedy": (partial(subsets.by_greedy, game), None),
        RIVAL: (partial(subsets.by_lasso, pool, sizes, most, seed), spent),
        "LASSO, B": (partial(subsets.by_lasso, pool, sizes, few, seed), few * len(LEVELS)),
        "best of random, 10 B": (best_random, spent),
    }  # fmt: skip


def knock_outs_of(game: Watched, pool: Pool, seed: int) -> dict[str, Method]:
    """Each method of knocking out; the game does not count the masks of the pool."""
    spent = len(KEPT) * (many(game) + len(game) + 1)  # with those of the orders
    return {
        MAIN: (partial(subsets.by_knock_out, game, PER_UNIT * len(game), seed), None),
        "greedy": (partial(subsets.greedy_knock_out, game), None),
        RIVAL: (partial(subsets.linear_knock_out, game, pool, many(game), seed), spent),
    }


def chosen_by(game: Watched, methods: dict[str, Method]) -> Iterator[tuple[str, Any, int]]:
    """Each method's name, what it keeps, and the masks that it took."""
    for name, (method, spent) in methods.items():
        before = game.evaluations
        kept = method()
        yield name, kept, game.evaluations - before if spent is None else spent


def prune(game: Watched, held: Any, pool: Pool, seed: int) -> Row:
    """A draw: each method's recovered share on held-out prompts, each prompt's pull on it (for
    errors), and what it paid."""
    names, kept, masks = zip(*chosen_by(game, methods_of(game, pool, seed)), strict=True)
    every = np.concatenate([subsets.ablating(len(game), [[], range(len(game))]), *kept])
    values = held(torch.from_numpy(every)).double().numpy()
    found = ratios(values - values[1], values[0] - values[1])
    share, pulls = (dict(zip(names, np.split(x[2:], len(names)), strict=True)) for x in found)
    return {"share": share, "pulls": pulls, "masks": dict(zip(names, masks, strict=True))}


def error_of(values: Sequence[np.ndarray], pulls: Sequence[np.ndarray]) -> np.ndarray:
    """Of a mean over draws: the larger one of the error over prompts and that over draws."""
    draws = len(values)
    over_prompts = np.sqrt(sum(standard_errors(p) ** 2 for p in pulls)) / draws
    over_draws = np.std(values, axis=0, ddof=1) / np.sqrt(draws) if draws > 1 else 0.0
    return np.maximum(over_prompts, over_draws)


def together(draws: list[Row]) -> Row:
    """Means over draws, errors, and at how many levels ours are ahead and behind."""
    methods: Row = {}
    for name in draws[0]["share"]:
        shares, pulls = ([draw[key][name] for draw in draws] for key in ("share", "pulls"))
        methods[name] = {
            "share": np.mean(shares, axis=0),
            "stderr": error_of(shares, pulls),
            "masks": draws[0]["masks"][name],
        }
        for ours in {MAIN, CORRECTED} - {name}:
            gains, off = (
                [draw[key][ours] - draw[key][name] for draw in draws] for key in ("share", "pulls")
            )
            gain, error = np.mean(gains, axis=0), error_of(gains, off)
            ahead, behind = gain > 2 * error + 1e-9, gain < -2 * error - 1e-9
            methods[name][f"{ours} gains"] = {
                "ahead": int(ahead.sum()), "behind": int(behind.sum()),
            }  # fmt: skip
    return methods


def knocked(game: Watched, held: Any, pool: Pool, seed: int) -> Row:
    """Each method's knock-out: how many heads, whether it holds elsewhere, what it paid."""
    rows: Row = {}
    for name, kept, masks in chosen_by(game, knock_outs_of(game, pool, seed)):
        rows[name] = {"masks": masks, "heads": None}  # no such set within the budget
        if kept is not None:
            ends = torch.from_numpy(np.array([np.ones_like(kept), np.zeros_like(kept), kept]))
            fresh = held(ends).double().numpy()
            share, _ = ratios(fresh - fresh[1], fresh[0] - fresh[1])
            rows[name] |= {"heads": int((~kept).sum()), "held_out_share": share[2]}
    return {"seed": seed, "methods": rows}


def measured(name: str, task: str, layers: Layers, options: Options) -> Iterator[Row]:
    """One group of heads: all methods, and if it is all heads, the knock-out too."""
    if options.quick and task != "agreement":
        raise LeftOut("the quick mode has one task")
    model = sm.load_model(options.models / name)
    games = [games_of(options, model, task, layers, seed) for seed in options.seeds]
    least = min(share_lost(game) for game, _ in games)
    if least < LEAST:
        yield {"left_out": least}
        return
    draws, knocks = [], []
    for seed, (game, held) in zip(options.seeds, games, strict=True):
        pool = subsets.pool_of(game, many(game), seed)
        draws.append(prune(game, held, pool, seed))
        knocks += [knocked(game, held, pool, seed)] if layers is None else []
    yield {"methods": together(draws), "knock_out": knocks, "n_units": len(games[0][0])}


def share_lost(game: Watched) -> float:
    """By how much the ablation of all lowers the metric, as a share of the intact one."""
    whole, empty = game.mean(subsets.ablating(len(game), [[], range(len(game))])).tolist()
    return (whole - empty) / abs(whole)


STYLES = {
    MAIN: ("C3", "-", "o"),
    CORRECTED: ("C1", "-", "s"),
    "surrogate, distilled": ("C1", ":", "s"),
    RIVAL: ("C0", "-", "^"),
    "best of random, 10 B": ("C2", "-", "v"),
    "main effects": ("0.55", "-", "x"),
    "greedy": ("C4", ":", "d"),
}


def draw(rows: list[Row], file: Path) -> None:
    """The recovered share of the metric on held-out prompts, over the heads that are kept."""
    groups = [row for row in rows if "methods" in row]
    kept = 100 * np.array(LEVELS)
    with panels(file, -(-len(groups) // 4), 4, (13, 9)) as axes:
        for ax, row in zip(axes, groups, strict=False):
            for place, (method, (color, style, marker)) in enumerate(STYLES.items()):
                of = row["methods"][method]
                # Side by side, as many choose the same heads; the search on top.
                look = {"color": color, "ls": style, "marker": marker, "ms": 4, "lw": 1.2}
                at, order = kept + place - 3, 9 - place
                ax.errorbar(at, of["share"], of["stderr"], label=method, zorder=order, **look)
            ax.axhline(1, color="0.8", lw=0.8, zorder=0)
            ax.set(title=row["part"], xticks=[25, 50, 75], xlabel="% of the heads kept")
        for ax in axes[len(groups) :]:
            ax.axis("off")


GROUPS: list[tuple[str, str, Layers]] = [
    ("stories260k", "object_copy", None),
    ("stories260k", "text", None),
    ("stories3m", "object_copy", None),
    *(
        ("stories3m", task, layers)
        for task in ("agreement", "pronoun", "ioi")  # the dearest last
        for layers in (None, (0, 2), (3, 5))
    ),
]
PARTS = {
    f"{model}, {task}, {f'layers {layers[0]}-{layers[1]}' if layers else 'all heads'}": partial(
        measured, model, task, layers
    )
    for model, task, layers in GROUPS
}

if __name__ == "__main__":
    script(__doc__, "pruning", PARTS, draw, levels=list(LEVELS))
