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
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LassoCV

import spex_mech as sm
from benchmarks.common import Options, Part, Row, script, versions
from spex_mech.game import as_table
from spex_mech.results.statistics import ratios, standard_errors
from spex_mech.search.contract import GRADIENT_COST

SEEDS = (0, 1, 2)
LEVELS = (0.75, 0.5, 0.25)
KEPT = (0.9, 0.75, 0.5)  # of the masks of the linear knock-out
GONE = 0.1  # of the recovered share: the task is knocked out
LEAST = 0.1  # of the intact metric: a group that does less is left out
N_SELECT, N_HELD, N_QUICK = 16, 60, 8
PER_UNIT, RIVALS = 6, 10  # masks a head for ours; so many times as many for rivals
MIN_DISCOVER = 75  # that ``discover`` asks for at least
LARGEST = 3  # heads of the exhaustive reference
MAIN, CORRECTED, RIVAL = "search", "surrogate, corrected", "LASSO, 10 B"

Masks = np.ndarray  # Bool[mask unit], True = kept
Values = Callable[[Masks], np.ndarray]  # -> Float[mask]


class Counted:
    """A game that counts what it is asked for."""

    def __init__(self, game: Any) -> None:
        self.game, self.labels, self.spent = game, list(game.labels), 0

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, masks: Any) -> Any:
        self.spent += len(masks)
        return self.game(masks)

    def gradient(self, masks: Any) -> Any:
        self.spent += GRADIENT_COST * len(masks)
        return self.game.gradient(masks)

    def value_and_slopes(self, masks: Any) -> Any:
        self.spent += GRADIENT_COST * len(masks)
        return self.game.value_and_slopes(masks)

    def mean(self, masks: Masks) -> np.ndarray:
        """The metric of masks, averaged over prompts."""
        values = self(torch.from_numpy(np.ascontiguousarray(masks)))
        return as_table(values, len(masks)).mean(axis=1)


@dataclass
class Chosen:
    """What a method keeps at each level, and what it paid."""

    kept: Masks
    masks: int


# -- pruning ------------------------------------------------------------------------------------


def sizes_of(n: int) -> list[int]:
    return [round(level * n) for level in LEVELS]


def by_search(game: Counted, budget: int, seed: int) -> Chosen:
    before, n = game.spent, len(game)
    found = sm.discover(game, budget=max(MIN_DISCOVER, budget // 2), seed=seed, progress=False)
    left = budget - (game.spent - before)
    fake_held = _Nothing(game.labels)
    curve = sm.faithfulness_curve(
        game, found, sizes=sizes_of(n), held_out=fake_held, aim="recover", budget=left,
        progress=False,
    )  # fmt: skip
    kept = {int(mask.sum()): mask for mask in curve.circuits}
    return Chosen(np.array([kept[size] for size in sizes_of(n)]), game.spent - before)


@dataclass
class _Nothing:
    """Stands for held-out prompts where only the selected sets are of interest."""

    labels: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, masks: Any) -> Any:
        return torch.arange(2)[None].expand(len(masks), -1).double()


def by_surrogate(game: Counted, budget: int, seed: int, proxy: str) -> Chosen:
    before = game.spent
    small = sm.distill(game, budget, proxy, seed=seed, progress=False)
    rng = np.random.default_rng(seed)
    kept = [best_subset(predicting(small), len(game), size, rng) for size in sizes_of(len(game))]
    return Chosen(np.array(kept), game.spent - before)


def predicting(small: Any) -> Values:
    return lambda masks: small.predict(masks).reshape(len(masks), -1).mean(axis=1)


def by_corrected(game: Counted, budget: int, seed: int, rounds: int = 3) -> Chosen:
    before, n = game.spent, len(game)
    rng, sizes = np.random.default_rng([seed, 3]), sizes_of(n)
    each = budget // (2 * len(sizes))
    masks = np.concatenate([of_size(n, size, each, rng) for size in sizes])
    values = game.mean(masks)
    for _ in range(rounds):
        small = sm.explain(masks, values, seed=seed)
        seen, new = {mask.tobytes() for mask in masks}, []
        for size in sizes:
            best = best_subset(predicting(small), n, size, rng, starts=4)
            ran = masks[masks.sum(axis=1) == size]
            measured = ran[int(values[masks.sum(axis=1) == size].argmax())]
            near = np.concatenate([best[None], swapped(best), swapped(measured)])
            near = np.unique([m for m in near if m.tobytes() not in seen], axis=0)
            order = np.argsort(-predicting(small)(near), kind="stable")
            new.append(near[order[: each // rounds]])
        values = np.concatenate([values, game.mean(np.concatenate(new))])
        masks = np.concatenate([masks, *new])
    at = [np.flatnonzero(masks.sum(axis=1) == size) for size in sizes]
    kept = [masks[rows[int(values[rows].argmax())]] for rows in at]
    return Chosen(np.array(kept), game.spent - before)


def swapped(kept: np.ndarray) -> Masks:
    """All sets with one unit out and another in."""
    swaps = np.array([(i, j) for i in np.flatnonzero(kept) for j in np.flatnonzero(~kept)])
    masks = np.repeat(kept[None], len(swaps), axis=0)
    np.put_along_axis(masks, swaps[:, :1], False, axis=1)
    np.put_along_axis(masks, swaps[:, 1:], True, axis=1)
    return masks


def best_subset(
    value: Values, n: int, size: int, rng: np.random.Generator, starts: int = 8
) -> np.ndarray:
    """The subset of a size (not all, not none) with the largest value, by the best swap until none
    helps."""
    best, most = np.zeros(n, dtype=bool), -np.inf
    for _ in range(starts):
        kept = np.zeros(n, dtype=bool)
        kept[rng.permutation(n)[:size]] = True
        at = float(value(kept[None])[0])
        while True:
            masks = swapped(kept)
            values = value(masks)
            if values.max() <= at + 1e-12:
                break
            kept, at = masks[int(values.argmax())], float(values.max())
        if at > most:
            best, most = kept, at
    return best


def of_size(n: int, size: int, count: int, rng: np.random.Generator) -> Masks:
    """Random masks that keep so many units."""
    masks = np.zeros((count, n), dtype=bool)
    for mask in masks:
        mask[rng.permutation(n)[:size]] = True
    return masks


def linear(masks: Masks, values: np.ndarray, seed: int) -> np.ndarray:
    """Each unit's LASSO coefficient; those that are 0 are told apart by the difference of means,
    which is far too small to change the order of others."""
    model = LassoCV(cv=5, random_state=seed, max_iter=5000).fit(masks.astype(float), values)
    n_kept = masks.sum(axis=0)
    with_, without = values @ masks, values @ ~masks
    apart = with_ / np.maximum(n_kept, 1) - without / np.maximum(len(masks) - n_kept, 1)
    return model.coef_ + 1e-9 * apart


def top(scores: np.ndarray, size: int) -> np.ndarray:
    kept = np.zeros(len(scores), dtype=bool)
    kept[np.argsort(-scores, kind="stable")[:size]] = True
    return kept


class Pools:
    """Random masks that keep a share of the heads, measured once for all methods that use them."""

    def __init__(self, game: Counted, count: int, seed: int) -> None:
        self.game, self.count, self.seed = game, count, seed
        self.known: dict[int, tuple[Masks, np.ndarray]] = {}

    def __call__(self, size: int) -> tuple[Masks, np.ndarray]:
        if size not in self.known:
            rng = np.random.default_rng([self.seed, size])
            masks = of_size(len(self.game), size, self.count, rng)
            self.known[size] = masks, self.game.mean(masks)
        return self.known[size]


def by_sampling(pools: Pools, seed: int) -> dict[str, Chosen]:
    """LASSO and best of random on masks of each level, and what a tenth of the masks gives them."""
    count, out = pools.count, {}
    measured = [(size, *pools(size)) for size in sizes_of(len(pools.game))]
    for name, few in (("10 B", count), ("B", count // RIVALS)):
        lasso = [top(linear(m[:few], v[:few], seed), size) for size, m, v in measured]
        best = [m[int(v[:few].argmax())] for _, m, v in measured]
        out[f"LASSO, {name}"] = Chosen(np.array(lasso), few * len(LEVELS))
        out[f"best of random, {name}"] = Chosen(np.array(best), few * len(LEVELS))
    out["a random one"] = Chosen(np.array([m[0] for _, m, _ in measured]), 0)
    return out


def singles(game: Counted) -> np.ndarray:
    """What each unit's ablation takes away from the intact model."""
    masks = np.concatenate([~np.eye(len(game), dtype=bool), np.ones((1, len(game)), dtype=bool)])
    values = game.mean(masks)
    return values[-1] - values[:-1]


def by_main_effects(game: Counted) -> Chosen:
    before = game.spent
    worth = singles(game)
    kept = [top(worth, size) for size in sizes_of(len(game))]
    return Chosen(np.array(kept), game.spent - before)


def by_greedy(game: Counted) -> Chosen:
    before, n = game.spent, len(game)
    kept, at = np.ones(n, dtype=bool), {}
    while kept.sum() > min(sizes_of(n)):
        masks = without_one_more(kept)
        kept = masks[int(game.mean(masks).argmax())]
        at[int(kept.sum())] = kept
    return Chosen(np.array([at[size] for size in sizes_of(n)]), game.spent - before)


def without_one_more(kept: np.ndarray) -> Masks:
    units = np.flatnonzero(kept)
    masks = np.repeat(kept[None], len(units), axis=0)
    masks[np.arange(len(units)), units] = False
    return masks


# -- knock-out ----------------------------------------------------------------------------------


@dataclass
class KnockOuts:
    """The recovered share without so many units, each set run once, while the budget lasts."""

    values: Values
    n: int
    budget: int
    share: dict[frozenset[int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ends = np.array([[True] * self.n, [False] * self.n])
        intact, self.empty = self.values(ends).tolist()
        self.span = intact - self.empty
        self.spent = 2
        self.share[frozenset()] = 1.0

    def ask(self, sets: Sequence[frozenset[int]]) -> list[frozenset[int]]:
        """Run those that are new, as far as the budget goes; those of them that are known now."""
        new = [s for s in dict.fromkeys(sets) if s not in self.share][: self.budget - self.spent]
        if new:
            masks = np.ones((len(new), self.n), dtype=bool)
            for mask, lost in zip(masks, new, strict=True):
                mask[list(lost)] = False
            self.spent += len(new)
            shares = (self.values(masks) - self.empty) / self.span
            self.share |= dict(zip(new, shares.tolist(), strict=True))
        return [s for s in dict.fromkeys(sets) if s in self.share]

    def smallest(self) -> frozenset[int] | None:
        """The smallest set that knocks the task out; of several the most thorough."""
        done = [s for s, share in self.share.items() if share <= GONE]
        return min(done, key=lambda s: (len(s), self.share[s]), default=None)


def knock_out(
    values: Values,
    main: np.ndarray,
    pairs: dict[tuple[int, int], float],
    budget: int,
    width: int = 8,
) -> KnockOuts:
    """The fewest units whose joint ablation knocks the task out, within a budget of masks.

    Ablating S is predicted to change the value by the main effects of its units and the
    interactions of the pairs that it holds.

    1. The order in which units hurt most by that, given those before, is run until the task is
       gone. Units that the set does not need are left out again, one at a time.
    2. Up from single units: from the ``width`` best sets that were run of one size less, and of
       two, the sets with one unit more, or with a pair more that does more damage than its units
       one by one (backups), are predicted: what was measured + what that adds. The best are run.
    3. The rest of the budget goes to sets of one unit less than the smallest that was found.

    Args:
        values: masks (True = kept) -> the metric.
        main: what ablating each unit changes, at the intact model.
        pairs: interactions of the pairs that were measured, there too.
    """
    n = len(main)
    sets = KnockOuts(values, n, budget)
    effect = np.asarray(main) / sets.span
    joint = np.zeros((n, n))
    for (a, b), value in pairs.items():
        joint[a, b] = joint[b, a] = value / sets.span

    backups = sorted((s for s in pairs if pairs[s] * sets.span < 0),
                     key=lambda s: joint[s])[: 4 * width]  # fmt: skip
    moves = [(unit,) for unit in range(n)] + backups

    def run_best(size: int, width: int, count: int) -> bool:
        """Run some sets of this size; False where all that can be grown were run."""
        said: dict[frozenset[int], list[float]] = {}
        for less in (1, 2):
            known = [s for s in sets.share if len(s) == size - less]
            for parent in sorted(known, key=lambda s: sets.share[s])[:width]:
                adds = effect + joint[list(parent)].sum(axis=0)
                for move in moves:
                    if len(move) == less and not parent.intersection(move):
                        change = adds[list(move)].sum() + (joint[move] if less == 2 else 0.0)
                        said.setdefault(parent.union(move), []).append(sets.share[parent] + change)
        predicted = {s: float(np.mean(p)) for s, p in said.items() if s not in sets.share}
        sets.ask(sorted(predicted, key=lambda s: predicted[s])[:count])
        return bool(predicted)

    def leave_out() -> None:
        while (best := sets.smallest()) is not None and sets.spent < budget:
            sets.ask([best - {unit} for unit in best])
            if sets.smallest() == best:
                return

    gone: frozenset[int] = frozenset()
    while len(gone) < n and sets.smallest() is None and sets.spent < budget:
        adds = effect + joint[list(gone)].sum(axis=0)
        gone |= {min(set(range(n)) - gone, key=lambda unit: adds[unit])}
        sets.ask([gone])
    leave_out()
    size = 1
    while (best := sets.smallest()) is not None and size < len(best) and sets.spent < budget:
        run_best(size, width, max(width, (budget - sets.spent) // (len(best) - size)))
        size += 1
        if sets.smallest() != best:
            leave_out()
    while sets.spent < budget and (best := sets.smallest()) is not None:
        # Where all that can be grown were run, first more to grow from.
        if not any(run_best(k, 4 * width, 2 * width) for k in range(len(best) - 1, 0, -1)):
            break
        leave_out()
    return sets


def by_knock_out(game: Counted, budget: int, seed: int) -> tuple[np.ndarray | None, int]:
    before = game.spent
    found = sm.discover(game, budget=budget // 2, seed=seed, progress=False)
    main = np.nan_to_num(found.main_effects)
    pairs = {
        (int(row[0]), int(row[1])): float(value)
        for row, value in zip(found.units, found.mean, strict=True)
        if (row >= 0).sum() == 2
    }
    sets = knock_out(game.mean, main, pairs, budget - (game.spent - before))
    lost = sets.smallest()
    if lost is None:
        return None, game.spent - before
    kept = np.ones(len(game), dtype=bool)
    kept[list(lost)] = False
    return kept, game.spent - before


def in_order(game: Counted, worth: np.ndarray) -> np.ndarray:
    """Ablate the largest first, until the task is gone: the first such prefix."""
    order = np.argsort(-worth, kind="stable")
    masks = np.ones((len(order) + 1, len(order)), dtype=bool)
    for row in range(len(order)):
        masks[row + 1 :, order[row]] = False
    values = game.mean(masks)
    shares = (values - values[-1]) / (values[0] - values[-1])
    return masks[int(np.flatnonzero(shares <= GONE)[0])]


def linear_knock_out(pools: Pools, few: int, seed: int) -> tuple[np.ndarray, int]:
    """The best of the three (see the module), from the first ``few`` masks of each; and how many
    masks that takes with those of the orders."""
    found, n = [], len(pools.game)
    for kept in KEPT:
        masks, values = pools(round(kept * n))
        found.append(in_order(pools.game, linear(masks[:few], values[:few], seed)))
    return max(found, key=lambda mask: mask.sum()), len(KEPT) * (few + n + 1)


def greedy_knock_out(game: Counted) -> np.ndarray:
    kept = np.ones(len(game), dtype=bool)
    whole, empty = game.mean(np.array([kept, ~kept]))
    while kept.any():
        masks = without_one_more(kept)
        values = game.mean(masks)
        kept = masks[int(values.argmin())]
        if (values.min() - empty) / (whole - empty) <= GONE:
            break
    return kept


def exhaustive(game: Counted, smaller_than: int) -> tuple[np.ndarray | None, int]:
    """The best of the smallest sets that do it, of all with fewer units (where these are more than
    ``LARGEST``, of one less than that); and the largest size that was run in full."""
    n = len(game)
    most = smaller_than - 1 if smaller_than <= LARGEST + 1 else LARGEST - 1
    whole, empty = game.mean(np.array([[True] * n, [False] * n]))
    for size in range(1, most + 1):
        lost = np.array(list(combinations(range(n), size)))
        masks = np.ones((len(lost), n), dtype=bool)
        np.put_along_axis(masks, lost, False, axis=1)
        shares = (game.mean(masks) - empty) / (whole - empty)
        if shares.min() <= GONE:
            return masks[int(shares.argmin())], size
    return None, most


# -- games --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    model: str
    task: str
    layers: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        group = "all heads" if self.layers is None else f"layers {self.layers[0]}-{self.layers[1]}"
        return f"{self.model}, {self.task}, {group}"

    def games(self, data: Path, model: Any, seed: int, n_select: int) -> tuple[Counted, Any]:
        """For selection and held out; heads that are gone are replaced by the same means."""
        if self.task == "text":
            text = data / "text" / "tinystories_valid_head.txt"
            options: dict[str, Any] = {"file": text, "n_tokens": 32}
            task = sm.load_task("text", model, n_select + N_HELD, seed, **options)
        else:
            count = 60 if self.task == "pronoun" else n_select + N_HELD  # all that there are
            task = sm.load_task(str(data / "prompts" / f"{self.task}.json"), model, count, seed)
        heads = sm.Components.heads(model)
        if self.layers is not None:
            heads = heads.select(f"L[{self.layers[0]}-{self.layers[1]}]H*")
        first, rest = task.split(n_select)
        held = sm.ModelGame(model, rest, heads, reference=first.prompts)
        return Counted(sm.ModelGame(model, first, heads)), held


def settings(quick: bool) -> Iterator[Setting]:
    if quick:
        yield Setting("stories3m", "agreement", (3, 5))
        yield Setting("stories3m", "agreement")
        return
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
    values = as_table(held(torch.from_numpy(np.concatenate(kept))), sum(map(len, kept)))
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


def prune(game: Counted, held: Any, pools: Pools, seed: int) -> Scored:
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


def knocked(game: Counted, held: Any, pools: Pools, seed: int, reference: bool) -> dict[str, Any]:
    """Each method's knock-out: how many heads, on which prompts it holds, what it paid."""
    budget = PER_UNIT * len(game)
    rows: dict[str, dict[str, Any]] = {}

    def enter(name: str, method: Callable[[], Any]) -> None:
        before = game.spent
        kept, masks = method(), game.spent - before
        if isinstance(kept, tuple):
            kept, masks = kept
        rows[name] = {"masks": masks}
        if kept is None:
            rows[name] |= {"heads": None, "failure": "no such set within the budget"}
            return
        ends = np.array([np.ones_like(kept), np.zeros_like(kept), kept])
        whole, empty, left = game.game(torch.from_numpy(ends)).double().mean(1).tolist()
        fresh = as_table(held(torch.from_numpy(ends)), 3)
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
    enter("main effects", lambda: in_order(game, singles(game)))
    enter("greedy", lambda: greedy_knock_out(game))
    out: dict[str, Any] = {"seed": seed, "methods": rows}
    if reference:
        fewest = min(row["heads"] for row in rows.values() if row["heads"] is not None)
        before = game.spent
        kept, size = exhaustive(game, fewest)
        out["exhaustive"] = {
            "all_sets_up_to": size,
            "fewest": fewest if kept is None and size == fewest - 1 else None,
            "masks": game.spent - before,
        }
        if kept is not None:
            units = [game.labels[u] for u in np.flatnonzero(~kept)]
            out["exhaustive"] |= {"fewest": size, "units": units}
    return out


def measured(setting: Setting, options: Options) -> Iterator[Row]:
    """One group of heads: all methods, and if it is all heads, the knock-out too."""
    data = Path(options.data or ".")
    model = sm.load_model(data / setting.model)
    seeds = SEEDS[: 1 if options.quick else None]
    n_select = N_QUICK if options.quick else N_SELECT
    games = [setting.games(data, model, seed, n_select) for seed in seeds]
    least = min(share_lost(game) for game, _ in games)
    if least < LEAST:
        print(f"{setting.name}: left out, as ablating all takes {100 * least:.1f} %")
        yield {"left_out": least}
        return
    draws, knocks = [], []
    for seed, (game, held) in zip(seeds, games, strict=True):
        count = RIVALS * PER_UNIT * len(game) // len(LEVELS)
        pools = Pools(game, count, seed)
        draws.append(prune(game, held, pools, seed))
        if setting.layers is None:
            first = seed == seeds[0] and not options.quick
            knocks.append(knocked(game, held, pools, seed, first))
    game, held = games[0]
    row = {"n_units": len(game), "held_out_prompts": len(held.prompts), **together(draws)}
    show_pruning(setting.name, row)
    if knocks:
        show_knock_out(setting.name, knocks)
    yield row | {"knock_out": knocks}


def parts_of(quick: bool) -> dict[str, Part]:
    return {setting.name: (partial(measured, setting), True) for setting in settings(quick)}


def run(options: Options) -> dict[str, Any]:
    out = options.parts(
        "pruning", parts_of(options.quick), versions=versions(("scikit-learn", "lightgbm")),
        levels=list(LEVELS), selection_prompts=N_QUICK if options.quick else N_SELECT,
    )  # fmt: skip
    rows = {row["part"]: row for row in out["rows"] if "methods" in row}
    if rows:
        for ours, counts in overall(rows).items():
            for name, at in counts.items():
                print(f"{ours} against {name}: ahead {at['ahead']}, behind {at['behind']}")
        draw(rows, options.picture("pruning.png"))
    return out


def share_lost(game: Counted) -> float:
    """By how much the ablation of all lowers the metric, as a share of the intact one."""
    n = len(game)
    whole, empty = game.mean(np.array([[True] * n, [False] * n])).tolist()
    return (whole - empty) / abs(whole)


def overall(rows: dict[str, Any]) -> dict[str, dict[str, dict[str, int]]]:
    """Of all games and levels, at how many ours are ahead and behind."""
    methods = list(next(iter(rows.values()))["methods"])
    return {
        ours: {
            name: {
                which: sum(row["methods"][name][f"{ours} gains"][which] for row in rows.values())
                for which in ("ahead", "behind")
            }
            | {"of": len(LEVELS) * len(rows)}
            for name in methods
            if name != ours
        }
        for ours in (MAIN, CORRECTED)
    }


def show_pruning(name: str, row: dict[str, Any]) -> None:
    print(
        f"{name}: {row['n_units']} heads, intact {row['intact']:.3g}, ablated "
        f"{row['ablated']:.3g}; recovered share (and right) with 75, 50, 25 % kept; levels "
        "at which search, and the corrected surrogate, are ahead : behind"
    )
    for method, at in row["methods"].items():
        cells = "  ".join(
            f"{s:6.3f} +- {e:.3f} ({r:.2f})"
            for s, e, r in zip(at["share"], at["stderr"], at["right"], strict=True)
        )
        counts = [at.get(f"{ours} gains", {}) for ours in (MAIN, CORRECTED)]
        versus = "".join(f"  {c.get('ahead', '-'):>2}:{c.get('behind', '-')}" for c in counts)
        print(f"  {method:<22} {at['masks']:>5} masks  {cells}{versus}", flush=True)


def show_knock_out(name: str, knocks: list[dict[str, Any]]) -> None:
    print(f"{name}: heads that knock the task out, in each draw (held-out share)")
    for method in knocks[0]["methods"]:
        rows = [knock["methods"][method] for knock in knocks]
        cells = ", ".join(
            f"{r['heads']} ({r['held_out_share']:.2f})" if r["heads"] else "none" for r in rows
        )
        print(f"  {method:<22} {rows[0]['masks']:>5} masks  {cells}", flush=True)
    if "exhaustive" in knocks[0]:
        print(f"  exhaustive, first draw: {knocks[0]['exhaustive']}", flush=True)


STYLES = {
    MAIN: ("C3", "-", "o"),
    CORRECTED: ("C1", "-", "s"),
    "surrogate, distilled": ("C1", ":", "s"),
    RIVAL: ("C0", "-", "^"),
    "best of random, 10 B": ("C2", "-", "v"),
    "main effects": ("0.55", "-", "x"),
    "greedy": ("C4", ":", "d"),
}


def draw(rows: dict[str, Any], file: Path) -> None:
    from matplotlib.figure import Figure

    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
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


if __name__ == "__main__":
    script(__doc__, run, parts_of(quick=False))
