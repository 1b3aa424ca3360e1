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
on the prompts of the selection. *search*: ``knock_out`` below, with B masks. *LASSO*, linear
compressed sensing: three sets of masks that keep 90, 75 and 50 %, 10 B together; heads go in the
order of their coefficients until the task is gone; the best of the three counts. *main effects*:
the same by single ablations. *greedy*: the head goes whose loss hurts most given what is gone.
*exhaustive* (first draw): whether fewer heads do it: of all pairs, and of all triples where the
fewest that were found are four, so that it settles the optimum.

Every draw takes other prompts for selection (of the small prompt files: another division, so that
draws overlap). A figure is the mean over draws; its error is the larger one of that over prompts
and that over draws. Of two methods one is ahead if the paired difference is over two such errors.
Masks are counted by the game itself; a gradient counts as three.

    python -m benchmarks.pruning --data ../shared/data     # half an hour on two cores
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from benchmarks.frame import SEEDS, Options, Row, script, versions
from benchmarks.games import Watched, passages, prompts, singles
from benchmarks.subsets import (
    LEVELS,
    RIVALS,
    Chosen,
    Pools,
    by_corrected,
    by_greedy,
    by_knock_out,
    by_main_effects,
    by_sampling,
    by_search,
    by_surrogate,
    exhaustive,
    greedy_knock_out,
    in_order,
    linear_knock_out,
)
from spex_mech.results.statistics import ratios, standard_errors

LEAST = 0.1  # of the intact metric: a group that does less is left out
N_SELECT, N_HELD, N_QUICK = 16, 60, 8
QUICK = (("agreement", (3, 5)), ("agreement", None))  # task and layers
PER_UNIT = 6  # masks a head for ours
MAIN, CORRECTED, RIVAL = "search", "surrogate, corrected", "LASSO, 10 B"

# -- games -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    model: str
    task: str
    layers: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        group = "all heads" if self.layers is None else f"layers {self.layers[0]}-{self.layers[1]}"
        return f"{self.model}, {self.task}, {group}"

    def games(self, data: Path, model: Any, seed: int, n_select: int) -> tuple[Watched, Any]:
        """For selection and held out; heads that are gone are replaced by the same means."""
        if self.task == "text":
            task = passages(data, model, n_select + N_HELD, seed)
        else:
            count = 60 if self.task == "pronoun" else n_select + N_HELD  # all that there are
            task = prompts(data, model, self.task, count, seed)
        heads = sm.Components.heads(model)
        if self.layers is not None:
            heads = heads.select(f"L[{self.layers[0]}-{self.layers[1]}]H*")
        first, rest = task.split(n_select)
        held = sm.ModelGame(model, rest, heads, reference=first.prompts)
        return Watched(sm.ModelGame(model, first, heads)), held


def settings() -> Iterator[Setting]:
    for task in ("object_copy", "text"):
        yield Setting("stories260k", task)
    for task in ("object_copy", "agreement", "pronoun", "ioi"):  # the dearest last
        yield Setting("stories3m", task)
        if task != "object_copy":
            yield Setting("stories3m", task, (0, 2))
            yield Setting("stories3m", task, (3, 5))


# -- measuring ----------------------------------------------------------------------------------


@dataclass
class Scored:
    """A draw: each method's recovered share on held-out prompts, each prompt's pull on it (for
    errors), the share of right answers, and what it paid."""

    share: dict[str, np.ndarray]  # Float[level]
    pulls: dict[str, np.ndarray]  # Float[level prompt]
    right: dict[str, np.ndarray]
    masks: dict[str, int]
    ends: dict[str, float]
    seconds: dict[str, float]


def scored(held: Any, chosen: dict[str, Chosen], seconds: dict[str, float]) -> Scored:
    n = len(held)
    kept = [np.array([[True] * n, [False] * n]), *(choice.kept for choice in chosen.values())]
    values = held(torch.from_numpy(np.concatenate(kept))).double().numpy()
    whole, empty = values[:2]
    share, pulls = ratios(values - empty, whole - empty)
    # A log-probability is never above 0, so that nothing is "right" in the sense of a difference.
    differs = held.task.metric_name == "logit_diff"
    right = (values > 0).mean(axis=1) if differs else np.full(len(values), np.nan)
    rows = np.split(np.arange(2, len(values)), np.cumsum([len(k) for k in kept[1:]])[:-1])
    at = dict(zip(chosen, rows, strict=True))
    return Scored(
        {name: share[r] for name, r in at.items()},
        {name: pulls[r] for name, r in at.items()},
        {name: right[r] for name, r in at.items()},
        {name: choice.masks for name, choice in chosen.items()},
        {"intact": float(whole.mean()), "ablated": float(empty.mean()),
         "intact_right": float(right[0]), "ablated_right": float(right[1])},
        seconds,
    )  # fmt: skip


def prune(game: Watched, held: Any, pools: Pools, seed: int) -> Scored:
    budget = PER_UNIT * len(game)
    chosen, seconds = {}, {}

    def timed(name: str, method: Callable[[], Any]) -> None:
        started = time.perf_counter()
        out = method()
        chosen.update(out if isinstance(out, dict) else {name: out})
        seconds[name] = time.perf_counter() - started

    timed(MAIN, lambda: by_search(game, budget, seed))
    timed("surrogate, distilled", lambda: by_surrogate(game, budget, seed, "distilled"))
    timed("surrogate, trees", lambda: by_surrogate(game, budget, seed, "trees"))
    timed(CORRECTED, lambda: by_corrected(game, budget, seed))
    timed("sampling", lambda: by_sampling(pools, seed))
    timed("main effects", lambda: by_main_effects(game))
    timed("greedy", lambda: by_greedy(game))
    return scored(held, chosen, seconds)


def error_of(values: Sequence[np.ndarray], pulls: Sequence[np.ndarray]) -> np.ndarray:
    """Of a mean over draws: the larger one of the error over prompts and that over draws."""
    draws = len(values)
    over_prompts = np.sqrt(sum(standard_errors(p) ** 2 for p in pulls)) / draws
    over_draws = np.std(values, axis=0, ddof=1) / np.sqrt(draws) if draws > 1 else 0.0
    return np.maximum(over_prompts, over_draws)


def together(draws: list[Scored]) -> dict[str, Any]:
    """Means over draws, errors, and at how many levels ours are ahead and behind."""
    methods: dict[str, Any] = {}
    for name in draws[0].share:
        shares = [draw.share[name] for draw in draws]
        row = {
            "share": np.mean(shares, axis=0),
            "stderr": error_of(shares, [draw.pulls[name] for draw in draws]),
            "right": np.mean([draw.right[name] for draw in draws], axis=0),
            "masks": draws[0].masks[name],
        }
        for ours in {MAIN, CORRECTED} - {name}:
            gains = [draw.share[ours] - draw.share[name] for draw in draws]
            pulls = [draw.pulls[ours] - draw.pulls[name] for draw in draws]
            gain, error = np.mean(gains, axis=0), error_of(gains, pulls)
            row[f"{ours} gains"] = {
                "mean": gain,
                "stderr": error,
                "ahead": int((gain > 2 * error + 1e-9).sum()),
                "behind": int((gain < -2 * error - 1e-9).sum()),
            }
        methods[name] = row
    ends = {key: np.mean([draw.ends[key] for draw in draws]) for key in draws[0].ends}
    seconds = {key: round(sum(draw.seconds[key] for draw in draws), 1) for key in draws[0].seconds}
    return {**ends, "seconds": seconds, "methods": methods}


def knocked(game: Watched, held: Any, pools: Pools, seed: int, reference: bool) -> dict[str, Any]:
    """Each method's knock-out: how many heads, on which prompts it holds, what it paid."""
    budget = PER_UNIT * len(game)
    rows: dict[str, dict[str, Any]] = {}

    def enter(name: str, method: Callable[[], Any]) -> None:
        before = game.evaluations
        kept, masks = method(), game.evaluations - before
        if isinstance(kept, tuple):
            kept, masks = kept
        rows[name] = {"masks": masks}
        if kept is None:
            rows[name] |= {"heads": None, "failure": "no such set within the budget"}
            return
        ends = np.array([np.ones_like(kept), np.zeros_like(kept), kept])
        whole, empty, left = game.game(torch.from_numpy(ends)).double().mean(1).tolist()
        fresh = held(torch.from_numpy(ends)).double().numpy()
        share, pulls = ratios(fresh - fresh[1], fresh[0] - fresh[1])
        rows[name] |= {
            "heads": int((~kept).sum()),
            "units": [game.labels[u] for u in np.flatnonzero(~kept)],
            "share": (left - empty) / (whole - empty),
            "held_out_share": share[2],
            "held_out_stderr": standard_errors(pulls)[2],
        }

    enter(MAIN, lambda: by_knock_out(game, budget, seed))
    enter("LASSO, 10 B", lambda: linear_knock_out(pools, pools.count, seed))
    enter("LASSO, B", lambda: linear_knock_out(pools, pools.count // RIVALS, seed))
    enter("main effects", lambda: in_order(game, -singles(game)))
    enter("greedy", lambda: greedy_knock_out(game))
    out: dict[str, Any] = {"seed": seed, "methods": rows}
    if reference:
        fewest = min(row["heads"] for row in rows.values() if row["heads"] is not None)
        before = game.evaluations
        kept, size = exhaustive(game, fewest)
        out["exhaustive"] = {
            "all_sets_up_to": size,
            "fewest": fewest if kept is None and size == fewest - 1 else None,
            "masks": game.evaluations - before,
        }
        if kept is not None:
            units = [game.labels[u] for u in np.flatnonzero(~kept)]
            out["exhaustive"] |= {"fewest": size, "units": units}
    return out


def measured(setting: Setting, options: Options) -> Iterator[Row]:
    """One group of heads: all methods, and if it is all heads, the knock-out too."""
    if options.quick and (setting.task, setting.layers) not in QUICK:
        return
    model = sm.load_model(options.models / setting.model)
    n_select = N_QUICK if options.quick else N_SELECT
    games = [setting.games(options.models, model, seed, n_select) for seed in options.seeds]
    least = min(share_lost(game) for game, _ in games)
    if least < LEAST:
        print(f"{setting.name}: left out, as ablating all takes {100 * least:.1f} %")
        yield {"left_out": least}
        return
    draws, knocks = [], []
    for seed, (game, held) in zip(options.seeds, games, strict=True):
        count = RIVALS * PER_UNIT * len(game) // len(LEVELS)
        pools = Pools(game, count, seed)
        draws.append(prune(game, held, pools, seed))
        if setting.layers is None:
            first = seed == SEEDS[0] and not options.quick
            knocks.append(knocked(game, held, pools, seed, first))
    game, held = games[0]
    row = {"n_units": len(game), "held_out_prompts": len(held.prompts),
           "selection_prompts": n_select, **together(draws)}  # fmt: skip
    yield row | {"knock_out": knocks}


def share_lost(game: Watched) -> float:
    """By how much the ablation of all lowers the metric, as a share of the intact one."""
    n = len(game)
    whole, empty = game.mean(np.array([[True] * n, [False] * n])).tolist()
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


def draw(all_rows: list[Row], file: Path) -> None:
    from matplotlib.figure import Figure

    rows = {row["part"]: row for row in all_rows if "methods" in row}
    columns, lines = min(4, len(rows)), -(-len(rows) // 4)
    figure = Figure(figsize=(3.2 * columns, 2.7 * lines + 0.8), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(rows) :]:
        axes.axis("off")
    kept = 100 * np.array(LEVELS)
    for axes, (name, row) in zip(grid.flat, rows.items(), strict=False):
        for place, (method, (color, style, marker)) in enumerate(STYLES.items()):
            at = row["methods"][method]
            # Side by side, as many choose the same heads; the search on top.
            axes.errorbar(kept + place - 3, at["share"], yerr=at["stderr"], color=color,
                          linestyle=style, marker=marker, markersize=4, linewidth=1.2, capsize=2,
                          label=method, zorder=9 - place)  # fmt: skip
        axes.axhline(1, color="0.8", linewidth=0.8, zorder=0)
        axes.set_title(name, fontsize=8)
        axes.set_xticks([25, 50, 75])
        axes.tick_params(labelsize=7)
    figure.supxlabel("heads of the group that are kept (%)", fontsize=9)
    figure.supylabel("recovered share of the metric, held-out prompts", fontsize=9)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    places = min(len(STYLES), 2 * columns)
    figure.legend(handles, labels, loc="outside upper center", ncols=places, fontsize=8)
    figure.savefig(file, dpi=130)


PARTS = {setting.name: (partial(measured, setting), True) for setting in settings()}

if __name__ == "__main__":
    about = {"versions": versions(("scikit-learn", "lightgbm")), "levels": list(LEVELS)}
    script(__doc__, "pruning", PARTS, draw, **about)
