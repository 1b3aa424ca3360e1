"""Pruning heads, and knocking a task out: ours against LASSO, random subsets and greedy ablation.

**Pruning**, as in the ProxySPEX paper (Butler et al. 2025, on a Llama): of a group of heads (three
layers jointly, or all) keep 75, 50 and 25 %, so that the task's metric is as large as possible on
the prompts of the selection; all other heads of the group are ablated by their mean over those
prompts. Scored on held-out prompts: the recovered share (metric - all of the group ablated) /
(intact - all of the group ablated), and the share of prompts that are answered right. A group whose
ablation lowers the metric by less than a tenth in some draw does nothing for the task that could be
recovered: it is left out, and named.

- *search*: ``discover``, then ``faithfulness_curve(aim="recover")``: B masks for the three levels
  together. *surrogate*, as in the paper: ``distill`` with B half masks, then the subset that the
  small model predicts to be best (swaps from random starts); nothing is corrected by ablations.
  *surrogate, corrected*: ``explain`` half of B masks, drawn at the three levels; then, three times,
  run the subsets that it predicts to be best and learn from them too; the best that was run stays.
- *LASSO* on indicators of kept heads (strength by cross-validation): the heads with the largest
  coefficients stay. It learns, for each level, from masks of just that level. *best of random*: the
  best of the same masks. Both with 10 B and with B masks for the three levels together.
- *main effects*: n + 1 masks. *greedy*: the head that matters least given what is gone goes next;
  all n(n+1)/2 masks.

**Knock-out**: the fewest heads whose joint ablation leaves at most a tenth of the recovered share,
on the prompts of the selection. *search*: ``subsets.knock_out``, with B masks. *LASSO*, linear
compressed sensing: three sets of masks that keep 90, 75 and 50 %, 10 B together; heads go in the
order of their coefficients until the task is gone; the best of the three counts. *main effects*:
the same by single ablations. *greedy*: the head goes whose loss hurts most given what is gone.

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
from benchmarks.frame import Options, Row, panels, script, timed
from benchmarks.games import Watched, passages, prompts, singles
from benchmarks.subsets import KEPT, LEVELS, Pool
from spex_mech.results.statistics import ratios, standard_errors

LEAST = 0.1  # of the intact metric: a group that does less is left out
N_SELECT, N_HELD, N_QUICK = 16, 60, 8
QUICK = (("agreement", (3, 5)), ("agreement", None))  # task and layers
PER_UNIT = 6  # masks per head for ours: B
RIVALS = 10  # times as many masks for rivals
MAIN, CORRECTED, RIVAL = "search", "surrogate, corrected", "LASSO, 10 B"

Layers = tuple[int, int] | None
Method = Callable[[], Any]


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


def methods_of(game: Watched, pool: Pool, seed: int) -> dict[str, tuple[Method, int | None]]:
    """Each method of pruning, and its masks where the game does not count them."""
    budget, sizes = PER_UNIT * len(game), subsets.sizes_of(len(game))
    methods: dict[str, tuple[Method, int | None]] = {
        MAIN: (lambda: subsets.by_search(game, budget, seed), None),
        "surrogate, distilled": (
            lambda: subsets.by_surrogate(game, budget, seed, "distilled"),
            None,
        ),
        "surrogate, trees": (lambda: subsets.by_surrogate(game, budget, seed, "trees"), None),
        CORRECTED: (lambda: subsets.by_corrected(game, budget, seed), None),
        "main effects": (lambda: subsets.by_main_effects(game), None),
        "greedy": (lambda: subsets.by_greedy(game), None),
        "a random one": (lambda: np.array([pool(size)[0][0] for size in sizes]), 0),
    }
    for name, few in (("10 B", many(game)), ("B", many(game) // RIVALS)):
        spent = few * len(LEVELS)
        methods[f"LASSO, {name}"] = partial(subsets.by_lasso, pool, sizes, few, seed), spent
        methods[f"best of random, {name}"] = (
            partial(subsets.by_best_random, pool, sizes, few),
            spent,
        )
    return methods


def prune(game: Watched, held: Any, pool: Pool, seed: int) -> Row:
    """A draw: each method's recovered share on held-out prompts, each prompt's pull on it (for
    errors), the share of right answers, and what it paid."""
    n, kept, masks, seconds = len(game), {}, {}, {}
    for name, (method, spent) in methods_of(game, pool, seed).items():
        before = game.evaluations
        kept[name], seconds[name] = timed(method)
        masks[name] = game.evaluations - before if spent is None else spent
    every = np.concatenate([subsets.ablating(n, [[], range(n)]), *kept.values()])
    values = held(torch.from_numpy(every)).double().numpy()
    whole, empty = values[:2]
    share, pulls = ratios(values - empty, whole - empty)
    # A log-probability is never above 0, so that nothing is "right" in the sense of a difference.
    differs = held.task.metric_name == "logit_diff"
    right = (values > 0).mean(axis=1) if differs else np.full(len(values), np.nan)
    rows = {name: np.arange(3) + 2 + 3 * at for at, name in enumerate(kept)}
    ends = {"intact": float(whole.mean()), "ablated": float(empty.mean())}
    ends |= {"intact_right": float(right[0]), "ablated_right": float(right[1])}
    figures = {"share": share, "pulls": pulls, "right": right}
    of_each = {key: {name: x[r] for name, r in rows.items()} for key, x in figures.items()}
    return {**of_each, "masks": masks, "ends": ends, "seconds": seconds}


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
            "right": np.mean([draw["right"][name] for draw in draws], axis=0),
            "masks": draws[0]["masks"][name],
        }
        for ours in {MAIN, CORRECTED} - {name}:
            gains, off = (
                [draw[key][ours] - draw[key][name] for draw in draws] for key in ("share", "pulls")
            )
            gain, error = np.mean(gains, axis=0), error_of(gains, off)
            ahead, behind = gain > 2 * error + 1e-9, gain < -2 * error - 1e-9
            methods[name][f"{ours} gains"] = {
                "mean": gain, "stderr": error,
                "ahead": int(ahead.sum()), "behind": int(behind.sum()),
            }  # fmt: skip
    ends = {key: np.mean([draw["ends"][key] for draw in draws]) for key in draws[0]["ends"]}
    seconds = {key: round(sum(draw["seconds"][key] for draw in draws), 1)
               for key in draws[0]["seconds"]}  # fmt: skip
    return {**ends, "seconds": seconds, "methods": methods}


def knocked(game: Watched, held: Any, pool: Pool, seed: int) -> Row:
    """Each method's knock-out: how many heads, on which prompts it holds, what it paid."""
    n, budget = len(game), PER_UNIT * len(game)
    methods: dict[str, Method] = {
        MAIN: lambda: subsets.by_knock_out(game, budget, seed),
        "main effects": lambda: subsets.in_order(game, -singles(game)),
        "greedy": lambda: subsets.greedy_knock_out(game),
    }
    spent: dict[str, int] = {}
    for name, few in (("LASSO, 10 B", many(game)), ("LASSO, B", many(game) // RIVALS)):
        methods[name] = partial(subsets.linear_knock_out, game, pool, few, seed)
        spent[name] = len(KEPT) * (few + n + 1)  # with those of the orders
    rows: Row = {}
    for name, method in methods.items():
        before = game.evaluations
        kept, masks = method(), game.evaluations - before
        rows[name] = {"masks": spent.get(name, masks)}
        if kept is None:
            rows[name] |= {"heads": None, "failure": "no such set within the budget"}
            continue
        ends = torch.from_numpy(np.array([np.ones_like(kept), np.zeros_like(kept), kept]))
        whole, empty, left = game.game(ends).double().mean(1).tolist()
        fresh = held(ends).double().numpy()
        share, pulls = ratios(fresh - fresh[1], fresh[0] - fresh[1])
        rows[name] |= {
            "heads": int((~kept).sum()),
            "units": [game.labels[u] for u in np.flatnonzero(~kept)],
            "share": (left - empty) / (whole - empty),
            "held_out_share": share[2],
            "held_out_stderr": standard_errors(pulls)[2],
        }
    return {"seed": seed, "methods": rows}


def measured(name: str, task: str, layers: Layers, options: Options) -> Iterator[Row]:
    """One group of heads: all methods, and if it is all heads, the knock-out too."""
    if options.quick and (task, layers) not in QUICK:
        return
    model = sm.load_model(options.models / name)
    games = [games_of(options, model, task, layers, seed) for seed in options.seeds]
    least = min(share_lost(game) for game, _ in games)
    if least < LEAST:
        print(f"{name}, {task}: left out, as ablating all takes {100 * least:.1f} %")
        yield {"left_out": least}
        return
    draws, knocks = [], []
    for seed, (game, held) in zip(options.seeds, games, strict=True):
        pool = subsets.pool_of(game, many(game), seed)
        draws.append(prune(game, held, pool, seed))
        knocks += [knocked(game, held, pool, seed)] if layers is None else []
    game, held = games[0]
    row = {**together(draws), "knock_out": knocks}
    row |= {"n_units": len(game), "held_out_prompts": len(held.prompts)}
    yield row | {"selection_prompts": N_QUICK if options.quick else N_SELECT}


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


def parts() -> Iterator[tuple[str, Any]]:
    groups: list[tuple[str, str, Layers]] = [
        ("stories260k", "object_copy", None),
        ("stories260k", "text", None),
        ("stories3m", "object_copy", None),
    ]
    for task in ("agreement", "pronoun", "ioi"):  # the dearest last
        groups += [("stories3m", task, layers) for layers in (None, (0, 2), (3, 5))]
    for model, task, layers in groups:
        which = "all heads" if layers is None else f"layers {layers[0]}-{layers[1]}"
        yield f"{model}, {task}, {which}", partial(measured, model, task, layers)


PARTS = dict(parts())

if __name__ == "__main__":
    script(__doc__, "pruning", PARTS, draw, levels=list(LEVELS))
