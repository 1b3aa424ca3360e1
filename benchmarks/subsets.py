"""Which units to keep, and which knock a task out: ours, LASSO, random subsets, greedy ablation.

A method of pruning gives the masks (True = kept) that it chose, one for each of ``LEVELS``; one of
knocking out a mask whose ablated units leave at most ``GONE`` of the task. What a method pays, the
game that it is given counts. ``pruning.py`` says what each is and compares them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LassoCV

import spex_mech as sm
from benchmarks.games import Watched, singles, values_of

LEVELS = (0.75, 0.5, 0.25)
KEPT = (0.9, 0.75, 0.5)  # of the masks of the linear knock-out
GONE = 0.1  # of the recovered share: the task is knocked out
MIN_DISCOVER = 75  # that ``discover`` asks for at least

Masks = np.ndarray  # Bool[mask unit], True = kept
Values = Callable[[Masks], np.ndarray]  # -> Float[mask]
Pool = Callable[[int], tuple[Masks, np.ndarray]]  # so many units kept: random masks, their values


def sizes_of(n: int) -> list[int]:
    return [round(level * n) for level in LEVELS]


def ablating(n: int, sets: Iterable[Iterable[int]]) -> Masks:
    """A mask for each set of units, which it ablates."""
    listed = [list(lost) for lost in sets]
    masks = np.ones((len(listed), n), dtype=bool)
    for mask, lost in zip(masks, listed, strict=True):
        mask[lost] = False
    return masks


def one_by_one(game: Any, worst: Callable[[np.ndarray], Any]) -> Iterator[tuple[np.ndarray, float]]:
    """What is kept, and its value, as one unit after another is ablated: of the values without one
    more unit each, ``worst`` says which is taken."""
    kept = np.ones(len(game), dtype=bool)
    while kept.any():
        masks = kept & ablating(len(kept), [[unit] for unit in np.flatnonzero(kept).tolist()])
        values = game.mean(masks)
        at = int(worst(values))
        kept = masks[at]
        yield kept, float(values[at])


def swapped(kept: np.ndarray) -> Masks:
    """All sets with one unit out and another in."""
    swaps = np.array([(i, j) for i in np.flatnonzero(kept) for j in np.flatnonzero(~kept)])
    masks = np.repeat(kept[None], len(swaps), axis=0)
    np.put_along_axis(masks, swaps[:, :1], False, axis=1)
    np.put_along_axis(masks, swaps[:, 1:], True, axis=1)
    return masks


def of_size(n: int, size: int, count: int, rng: np.random.Generator) -> Masks:
    """Random masks that keep so many units."""
    masks = np.zeros((count, n), dtype=bool)
    for mask in masks:
        mask[rng.permutation(n)[:size]] = True
    return masks


def top(scores: np.ndarray, size: int) -> np.ndarray:
    """The mask that keeps the units of highest score."""
    kept = np.zeros(len(scores), dtype=bool)
    kept[np.argsort(-scores, kind="stable")[:size]] = True
    return kept


def pool_of(game: Watched, count: int, seed: int) -> Pool:
    """Random masks, measured once for all methods that use them."""

    @cache
    def pool(size: int) -> tuple[Masks, np.ndarray]:
        masks = of_size(len(game), size, count, np.random.default_rng([seed, size]))
        return masks, game.mean(masks)

    return pool


# -- pruning ---------------------------------------------------------------------------------------


def by_search(game: Watched, budget: int, seed: int) -> Masks:
    before, sizes = game.evaluations, sizes_of(len(game))
    found = sm.discover(game, budget=max(MIN_DISCOVER, budget // 2), seed=seed, progress=False)
    left = budget - (game.evaluations - before)
    curve = sm.faithfulness_curve(
        game, found, sizes=sizes, held_out=_Nothing(game.labels), aim="recover", budget=left,
        progress=False,
    )  # fmt: skip
    kept = {int(mask.sum()): mask for mask in curve.circuits}
    return np.array([kept[size] for size in sizes])


@dataclass
class _Nothing:
    """Stands for held-out prompts where only the selected sets are of interest: its value is the
    share of the units that are kept."""

    labels: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, masks: Any) -> Any:
        return torch.as_tensor(masks).double().mean(dim=1, keepdim=True).expand(-1, 2)


def by_surrogate(game: Watched, budget: int, seed: int, proxy: str) -> Masks:
    small = sm.distill(game, budget, proxy, seed=seed, progress=False)
    rng, n = np.random.default_rng(seed), len(game)
    return np.array([best_subset(predicting(small), n, size, rng) for size in sizes_of(n)])


def predicting(small: Any) -> Values:
    return lambda masks: small.predict(masks).reshape(len(masks), -1).mean(axis=1)


def by_corrected(game: Watched, budget: int, seed: int, rounds: int = 3) -> Masks:
    n, sizes, rng = len(game), sizes_of(len(game)), np.random.default_rng([seed, 3])
    each = budget // (2 * len(sizes))
    masks = np.concatenate([of_size(n, size, each, rng) for size in sizes])
    values = game.mean(masks)

    def best_measured(size: int) -> np.ndarray:
        rows = np.flatnonzero(masks.sum(axis=1) == size)
        return masks[rows[int(values[rows].argmax())]]

    for _ in range(rounds):
        predict = predicting(sm.explain(masks, values, seed=seed))
        seen, new = {mask.tobytes() for mask in masks}, []
        for size in sizes:
            best = best_subset(predict, n, size, rng, starts=4)
            near = np.concatenate([best[None], swapped(best), swapped(best_measured(size))])
            near = np.unique([m for m in near if m.tobytes() not in seen], axis=0)
            order = np.argsort(-predict(near), kind="stable")
            new.append(near[order[: each // rounds]])
        values = np.concatenate([values, game.mean(np.concatenate(new))])
        masks = np.concatenate([masks, *new])
    return np.array([best_measured(size) for size in sizes])


def best_subset(
    value: Values, n: int, size: int, rng: np.random.Generator, starts: int = 8
) -> np.ndarray:
    """The subset of a size (not all, not none) with the largest value, by the best swap until none
    helps."""
    best, most = np.zeros(n, dtype=bool), -np.inf
    for _ in range(starts):
        kept = of_size(n, size, 1, rng)[0]
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


def linear(masks: Masks, values: np.ndarray, seed: int) -> np.ndarray:
    """Each unit's LASSO coefficient; those that are 0 are told apart by the difference of means,
    which is far too small to change the order of others."""
    model = LassoCV(cv=5, random_state=seed, max_iter=5000).fit(masks.astype(float), values)
    n_kept = masks.sum(axis=0)
    with_, without = values @ masks, values @ ~masks
    apart = with_ / np.maximum(n_kept, 1) - without / np.maximum(len(masks) - n_kept, 1)
    return model.coef_ + 1e-9 * apart


def by_lasso(pool: Pool, sizes: Sequence[int], few: int, seed: int) -> Masks:
    """From the first ``few`` masks of each size."""
    measured = [(size, *pool(size)) for size in sizes]
    return np.array([top(linear(m[:few], v[:few], seed), size) for size, m, v in measured])


def by_best_random(pool: Pool, sizes: Sequence[int], few: int) -> Masks:
    """Of the first ``few`` masks of each size."""
    return np.array([m[int(v[:few].argmax())] for m, v in map(pool, sizes)])


def by_main_effects(game: Watched) -> Masks:
    worth = -singles(game)
    return np.array([top(worth, size) for size in sizes_of(len(game))])


def by_greedy(game: Watched) -> Masks:
    sizes, at = sizes_of(len(game)), {}
    for kept, _ in one_by_one(game, np.argmax):
        at[int(kept.sum())] = kept
        if kept.sum() == min(sizes):
            break
    return np.array([at[size] for size in sizes])


# -- knock-out -------------------------------------------------------------------------------------


@dataclass
class KnockOuts:
    """The recovered share without so many units, each set run once, while the budget lasts."""

    values: Values
    n: int
    budget: int
    share: dict[frozenset[int], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        intact, self.empty = self.values(ablating(self.n, [[], range(self.n)])).tolist()
        self.span = intact - self.empty
        self.spent = 2
        self.share[frozenset()] = 1.0

    def ask(self, sets: Sequence[frozenset[int]]) -> list[frozenset[int]]:
        """Run those that are new, as far as the budget goes; those of them that are known now."""
        new = [s for s in dict.fromkeys(sets) if s not in self.share][: self.budget - self.spent]
        if new:
            self.spent += len(new)
            shares = (self.values(ablating(self.n, new)) - self.empty) / self.span
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
    backups = sorted((s for s in pairs if joint[s] < 0), key=lambda s: joint[s])[: 4 * width]
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


def by_knock_out(game: Watched, budget: int, seed: int) -> np.ndarray | None:
    """None where the budget does not find such a set."""
    before = game.evaluations
    found = sm.discover(game, budget=budget // 2, seed=seed, progress=False)
    main = np.nan_to_num(found.main_effects)
    pairs = {(s[0], s[1]): value for s, value in values_of(found).items() if len(s) == 2}
    lost = knock_out(game.mean, main, pairs, budget - (game.evaluations - before)).smallest()
    return None if lost is None else ablating(len(game), [lost])[0]


def in_order(game: Watched, worth: np.ndarray) -> np.ndarray:
    """Ablate the largest first, until the task is gone: the first such prefix."""
    order = np.argsort(-worth, kind="stable")
    masks = ablating(len(order), [order[:count] for count in range(len(order) + 1)])
    values = game.mean(masks)
    shares = (values - values[-1]) / (values[0] - values[-1])
    return masks[int(np.flatnonzero(shares <= GONE)[0])]


def linear_knock_out(game: Watched, pool: Pool, few: int, seed: int) -> np.ndarray:
    """The best of three, from the first ``few`` masks that keep each of ``KEPT``."""
    pools = [pool(round(kept * len(game))) for kept in KEPT]
    found = [in_order(game, linear(m[:few], v[:few], seed)) for m, v in pools]
    return max(found, key=lambda mask: mask.sum())


def greedy_knock_out(game: Watched) -> np.ndarray:
    whole, empty = game.mean(ablating(len(game), [[], range(len(game))]))
    steps = one_by_one(game, np.argmin)
    return next(kept for kept, value in steps if (value - empty) / (whole - empty) <= GONE)
