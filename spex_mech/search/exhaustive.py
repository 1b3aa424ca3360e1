"""Exhaustive search: every interaction up to an order, or a listed or random part, exactly.

1. The intact model, then every single ablation.
2. Every pair (triple, ...) in lexicographic order; where the budget does not reach that far, a
   uniform random sample of the last order instead.
3. The interaction of a set is what its subsets do not explain (a Moebius transform at the intact
   model): ``I_S = f(N\\S) - f(N) - sum of I_T over the proper non-empty subsets T of S``.

Cost: ``1 + n + n(n-1)/2`` evaluations for pairs, and ``n choose k`` for order k. It cannot fail,
only be too dear; it is the truth that the other searches are judged by.
"""

from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Float, Int

from spex_mech.masks import MaskBatch
from spex_mech.search.contract import (
    MASKS_PER_QUESTION,
    Findings,
    Question,
    Search,
    check_order,
)

_MOST_SETS = 60_000_000
_SHOWN = 8

# Rows of unit numbers; the underscores: sets of several sizes go through one function.
Sets = Int[np.ndarray, "_set _size"]


class Exhaustive(Search):
    """All interactions of 2 to ``order`` units among ``n``.

    Args:
        n: how many units.
        order: the largest order, 2 by default.
        budget: evaluations; below the full cost, a random sample of the last order is measured.
        seed: of that sample.
        sets: measure these sets (rows of unit numbers, padded with -1) and what they need instead.

    Raises:
        ValueError: fewer than two units, or a budget that cannot measure even one interaction.
    """

    def __init__(
        self,
        n: int,
        order: int = 2,
        budget: int | None = None,
        seed: int = 0,
        sets: Int[np.ndarray, "set order"] | None = None,
    ) -> None:
        self.n, self.order = n, order
        check_order(n, order)
        if n**order > 2**62:  # sets are told apart by one integer each
            raise ValueError(
                f"order {order} among {n} units is out of reach; ask for a lower order"
            )
        if sets is None:
            self._plan = _all_sets(n, order, budget, np.random.default_rng(seed))
        else:
            self._plan = _closed(sets, n)
        self.planned = 1 + sum(len(s) for s in self._plan.values())
        self._values: dict[int, Float[np.ndarray, "set prompt"]] = {}
        self._told: list[Float[np.ndarray, "set prompt"]] = []
        self._best: list[tuple[tuple[int, ...], float]] = []
        self._asking = (0, 0)  # order and how many of its sets were asked

    def ask(self) -> Question | None:
        size, start = self._asking
        if size == 0:
            return Question(MaskBatch.of_sets([()], self.n), stage="intact model")
        if size > max(self._plan):
            return None
        sets = self._plan[size][start : start + MASKS_PER_QUESTION]
        stage = "ablating single units" if size == 1 else f"sets of {size}"
        return Question(MaskBatch.of_rows(sets, self.n), stage=stage)

    def tell(
        self,
        values: Float[np.ndarray, "mask prompt"],
        gradients: Float[np.ndarray, "mask unit"] | None = None,
    ) -> None:
        size, start = self._asking
        if size == 0:
            self._intact = values[0].astype(np.float64)
            self._asking = (1, 0)
            return
        rows = slice(start, start + len(values))
        effects = values.astype(np.float64) - self._intact
        for smaller in range(1, size):
            for slots in combinations(range(size), smaller):
                at = self._find(self._plan[size][rows][:, slots])
                effects -= self._values[smaller][at]
        self._told.append(effects)
        if size > 1:
            self._note(self._plan[size][rows], effects.mean(axis=1))
        start += len(values)
        if start == len(self._plan[size]):
            self._values[size] = np.concatenate(self._told)
            self._told, size, start = [], size + 1, 0
        self._asking = (size, start)

    def best(self, k: int) -> list[tuple[tuple[int, ...], float]]:
        return self._best[:k]

    def findings(self) -> Findings:
        width = max(self._plan)
        units, values = [], []
        for size in range(2, width + 1):
            sets = self._plan[size]
            units.append(np.pad(sets, ((0, 0), (0, width - size)), constant_values=-1))
            values.append(self._values[size])
        main_effects = np.full((self.n, len(self._intact)), np.nan)
        main_effects[self._plan[1][:, 0]] = self._values[1]
        return Findings(np.concatenate(units), np.concatenate(values), main_effects, self._intact)

    def _note(self, sets: Int[np.ndarray, "set size"], means: Float[np.ndarray, " set"]) -> None:
        for row in np.argsort(-abs(means))[:_SHOWN]:
            self._best.append((tuple(int(u) for u in sets[row]), float(means[row])))
        self._best = sorted(self._best, key=lambda found: -abs(found[1]))[:_SHOWN]

    def _find(self, sets: Int[np.ndarray, "set size"]) -> Int[np.ndarray, " set"]:
        known = self._plan[sets.shape[1]]
        return np.searchsorted(_keys(known, self.n), _keys(sets, self.n))


def minimum_budget(n: int, order: int) -> int:
    """The evaluations that a random sample of one interaction of this order needs."""
    return 2 + sum(comb(n, size) for size in range(1, order))


def _all_sets(n: int, order: int, budget: int | None, rng: np.random.Generator) -> dict[int, Sets]:
    full = 1 + sum(comb(n, size) for size in range(1, order + 1))
    least = minimum_budget(n, order)
    if budget is not None and budget < least:
        raise ValueError(
            f"a budget of {budget} evaluations is too small: order {order} among {n} units needs "
            f"at least {least} ({full} for all of them)"
        )
    n_last = comb(n, order) if budget is None else min(comb(n, order), budget - least + 1)
    if n_last > _MOST_SETS:
        raise ValueError(
            f"{comb(n, order):,} sets of {order} among {n} units are too many to measure "
            "exhaustively; give a budget (a random sample is measured) or use method='spex'"
        )
    plan = {size: _every(n, size) for size in range(1, order)}
    plan[order] = _every(n, order) if n_last == comb(n, order) else _some(n, order, n_last, rng)
    return plan


def _every(n: int, size: int) -> Int[np.ndarray, "set size"]:
    if size == 2:
        return np.stack(np.triu_indices(n, 1), axis=1).astype(np.int32)
    flat = np.fromiter((u for s in combinations(range(n), size) for u in s), dtype=np.int32)
    return flat.reshape(-1, size)


def _some(n: int, size: int, count: int, rng: np.random.Generator) -> Int[np.ndarray, "set size"]:
    """A uniform sample without repetition, in lexicographic order."""
    if count > comb(n, size) // 4:  # drawing until enough are new would take ever longer
        return _every(n, size)[np.sort(rng.choice(comb(n, size), count, replace=False))]
    keys = np.empty(0, dtype=np.int64)
    while len(keys) < count:
        drawn = np.sort(rng.integers(0, n, (2 * (count - len(keys)) + 8, size)), axis=1)
        drawn = drawn[(np.diff(drawn, axis=1) > 0).all(axis=1)]
        fresh = np.setdiff1d(_keys(drawn, n), keys)
        keys = np.concatenate([keys, rng.permutation(fresh)[: count - len(keys)]])
    return _sets(np.sort(keys), n, size)


def _closed(sets: Int[np.ndarray, "set order"], n: int) -> dict[int, Sets]:
    """The given sets and all their non-empty subsets, by size."""
    if sets.size == 0 or not ((sets >= 0).sum(axis=1) > 1).any():
        raise ValueError("no sets to measure: give at least one set of two units")
    sets = np.sort(np.where(sets < 0, n, sets), axis=1)  # the padding goes to the end
    if ((np.diff(sets, axis=1) == 0) & (sets[:, 1:] < n)).any():
        raise ValueError("a set of units holds one of them twice")
    plan: dict[int, Sets] = {}
    for size in range(sets.shape[1], 0, -1):
        exactly = sets[(sets < n).sum(axis=1) == size][:, :size]
        if size + 1 in plan:
            larger = plan[size + 1]
            faces = [larger[:, list(slots)] for slots in combinations(range(size + 1), size)]
            exactly = np.concatenate([exactly, *faces])
        if len(exactly):
            plan[size] = _sets(np.unique(_keys(exactly, n)), n, size)
    return dict(sorted(plan.items()))


def _keys(sets: Int[np.ndarray, "set size"], n: int) -> Int[np.ndarray, " set"]:
    """Sets as integers, in lexicographic order."""
    keys = np.zeros(len(sets), dtype=np.int64)
    for column in sets.T:
        keys = keys * n + column
    return keys


def _sets(keys: Int[np.ndarray, " set"], n: int, size: int) -> Int[np.ndarray, "set size"]:
    columns = []
    for _ in range(size):
        columns.append(keys % n)
        keys = keys // n
    return np.stack(columns[::-1], axis=1)
