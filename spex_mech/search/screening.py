"""Candidates from slopes and strengths: which pairs interact, corrected by what was measured.

*Rows.* The gradient at the model without unit i gives the slope of every other unit j. Its
difference to the slope at the intact model, ``s_ij = g_j(N) - g_j(N without i)``, is the
interaction of i and j if j acts linearly. One gradient so predicts a whole row. Where i and j both
have a row, the larger of ``s_ij`` and ``s_ji`` is the prediction: saturation makes one of them
vanish, hardly both.

Slopes come by block of prompts. A pair may help on some prompts and hurt on others, or be saturated
on average, and the mean of ``s_ij`` vanish where its blocks do not: the predicted size is
``|mean| + 0.3 * root mean square over blocks``. On the 260K story model (900 units, all rows) the
first 600 predictions then hold 0.95 of the true top 100, against 0.92 by the mean alone; positions
within prompts, kept apart too, add nothing.

Which rows to ask for: how much a unit's slope changes at random masks (30 % of units ablated) tells
how much it interacts with all others, by symmetry the norm of its own row. Of that model's 40 rows
of largest norm, 8 such gradients put 34 among their first 80; an attribution over gates 22, slopes
21. As rows come in, how much they lean on each unit is added.

What the rows miss is where both units are saturated on all prompts. Rows at other reference points
(gates at 0.95, 0.9, 0.75; random masks), a regression on main effects and self-curvatures, and a
learned ranking by boosted trees were tried on four games and found no more at equal cost. What is
measured teaches one thing: a factor for each unit and block of prompts, as on some prompts a unit
comes to a cliff and all its slopes understate.

*Strengths.* Without gradients, where units are very uneven, a pair's size on a prompt goes roughly
with the product of a strength of each of its units on that prompt: its main effect to begin with,
then what its measured pairs say. By prompt, because units that matter on the same prompts interact:
on that model 3,600 evaluations find 0.76 of the top 100, against 0.64 by products of mean effects.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

from spex_mech.search.ledger import Ledger, Set

_BY_BLOCK = 0.3
_FACTOR_PRIOR = 30.0  # median predictions that a factor is shrunk by
_STRENGTH_PRIOR = 10.0  # measured pairs, likewise
_TINY = 1e-12
_ROUNDING = 1e-12  # of a product against the product of norms that bounds it
_SCANNED_AT_ONCE = 4_000_000  # pairs


def size(by_block: Float[np.ndarray, "... block unit"]) -> Float[np.ndarray, "... unit"]:
    """How large slopes are: of their mean over blocks of prompts, and a part of their root mean
    square, which does not vanish where blocks cancel."""
    return abs(by_block.mean(-2)) + _BY_BLOCK * np.sqrt((by_block**2).mean(-2))


class Rows:
    """Predicted interactions for the units whose gradient row was asked for.

    Args:
        intact: the gradient at the intact model, by block of prompts.
        deep: gradients at random masks, by block of prompts: they say how much a unit interacts.
    """

    def __init__(
        self,
        intact: Float[np.ndarray, "block unit"],
        deep: Float[np.ndarray, "mask block unit"] | None = None,
    ) -> None:
        self.n_blocks, self.n = intact.shape
        self.intact = intact.astype(np.float64)
        changes = self.intact[None] if deep is None or not len(deep) else deep - self.intact
        self._energy = np.sqrt((size(changes) ** 2).mean(0))
        self.asked: list[int] = []
        self._slopes = np.zeros((16, self.n_blocks, self.n), dtype=np.float32)
        self._sizes = np.empty((16, self.n), dtype=np.float32)
        self._squares = np.zeros(self.n)
        self._place = np.full(self.n, -1)

    def add(self, unit: int, gradient: Float[np.ndarray, "block unit"]) -> None:
        """The gradient at the model without ``unit``, by block of prompts."""
        row = self.intact - gradient
        row[:, unit] = 0.0
        place = len(self.asked)
        if place == len(self._sizes):
            self._slopes = np.concatenate([self._slopes, np.zeros_like(self._slopes)])
            self._sizes = np.concatenate([self._sizes, np.empty_like(self._sizes)])
        self._place[unit] = place
        self._slopes[place], self._sizes[place] = row, size(row)
        self._squares += self._sizes[place].astype(np.float64) ** 2
        self.asked.append(unit)

    def matrix(self) -> Float[np.ndarray, "row unit"]:
        """The predicted sizes, in the order in which the rows were asked for."""
        return self._sizes[: len(self.asked)]

    def slopes(self) -> dict[Set, Float[np.ndarray, " unit"]]:
        """The gradients asked for, by what was ablated (the ablated unit's own as if intact)."""
        intact = self.intact.mean(0)
        means = self._slopes[: len(self.asked)].mean(1)
        return {(): intact, **{(u,): intact - means[self._place[u]] for u in self.asked}}

    def next_rows(self, count: int) -> list[int]:
        """The units whose rows promise most."""
        score = self._energy.copy()
        if self.asked:
            leaned_on = self.leaned_on()
            score /= score[self.asked].mean() + _TINY
            score += leaned_on / (leaned_on[self.asked].mean() + _TINY)
        score[self.asked] = -np.inf
        best = np.argsort(-score, kind="stable")[:count]
        return [int(u) for u in best if score[u] > -np.inf]

    def leaned_on(self) -> Float[np.ndarray, " unit"]:
        """The root mean square of each unit's column: how much the rows lean on it."""
        return np.sqrt(self._squares / max(1, len(self.asked)))

    def extrapolate(self, pairs: Int[np.ndarray, "pair 2"]) -> Float[np.ndarray, " pair"]:
        """A guess where neither unit has a row: the product of how much rows lean on both, scaled
        so that it would be right on average for a unit that has one."""
        leaned_on = self.leaned_on()
        scale = np.sqrt(np.square(leaned_on[self.asked]).mean())
        return leaned_on[pairs].prod(axis=1) / (scale or 1.0)

    def predict(self, pairs: Int[np.ndarray, "pair 2"]) -> Float[np.ndarray, "pair block"]:
        """The larger of ``s_ij`` and ``s_ji`` in each block; NaN where neither unit has a row."""
        if not self.asked:
            return np.full((len(pairs), self.n_blocks), np.nan)
        both = []
        for i, j in ((0, 1), (1, 0)):
            place = self._place[pairs[:, i]]
            value = self._slopes[place, :, pairs[:, j]].astype(np.float64)
            both.append(np.where(place[:, None] >= 0, value, np.nan))
        here, there = both
        larger = np.isnan(here) | (abs(there) > abs(here))
        return np.where(larger, there, here)

    def strongest(self, count: int) -> Int[np.ndarray, "pair 2"]:
        """The pairs of largest predicted size, strongest first, without an n x n matrix."""
        others = np.arange(self.n)

        def of_rows() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
            for unit, row in zip(self.asked, self.matrix(), strict=True):
                yield np.full(self.n, unit), others, np.where(others == unit, -1.0, row)

        return largest_pairs(of_rows(), self.n, count)


class RowScreen:
    """Ranks pairs by gradient rows, corrected for what was measured.

    Where neither unit has a row, a pair is ranked by how much the rows lean on both.
    """

    informed = True
    complete = False

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self._factors = np.ones((rows.n, rows.n_blocks))
        self._floor = 1e-6 * float(rows.matrix().max(initial=0.0)) or 1e-300

    def strongest(self, count: int) -> Int[np.ndarray, "pair 2"]:
        return self.rows.strongest(count)

    def slopes(self) -> dict[Set, Float[np.ndarray, " unit"]]:
        return self.rows.slopes()

    def larger(self, order: int, count: int) -> list[Set]:
        return []

    def fit(self, ledger: Ledger) -> None:
        """A factor for each unit and block of prompts: how much larger its measured pairs are than
        predicted, shrunk towards that of all pairs."""
        sets = [s for s in ledger.interaction if len(s) == 2]
        pairs = np.array(sets, dtype=np.int64).reshape(-1, 2)
        predicted = abs(self.rows.predict(pairs))
        known = np.isfinite(predicted).all(axis=1)
        if not known.any() or not predicted[known].any():
            return
        n_blocks = self.rows.n_blocks
        values = np.array([ledger.effect(sets[at]) for at in np.flatnonzero(known)])
        block = np.arange(values.shape[1]) * n_blocks // values.shape[1]
        sizes = abs(np.stack([values[:, block == b].mean(1) for b in range(n_blocks)], axis=1))
        pairs, predicted = pairs[known], predicted[known]
        overall = sizes.sum() / predicted.sum()
        prior = _FACTOR_PRIOR * np.median(predicted[predicted > 0])
        seen, due = np.zeros_like(self._factors), np.zeros_like(self._factors)
        for unit in pairs.T:
            np.add.at(seen, unit, sizes)
            np.add.at(due, unit, predicted)
        self._factors = (seen / (overall or 1.0) + prior) / (due + prior)

    def score(self, pairs: Int[np.ndarray, "pair 2"]) -> Float[np.ndarray, " pair"]:
        """Predicted log-size, up to a constant."""
        factors = np.maximum(*self._factors[pairs.T])
        predicted = size((self.rows.predict(pairs) * factors)[:, :, None])[:, 0]
        unknown = np.isnan(predicted)
        predicted[unknown] = self.rows.extrapolate(pairs[unknown])
        return np.log(predicted + self._floor)


class Strengths:
    """Ranks pairs by products of unit strengths, prompt by prompt, learned from measured pairs.

    Args:
        main: each unit's main effect on each prompt, the prior of its strength (NaN: unknown).
        complete: whether the strong pairs are thought to be measured already.
    """

    informed = False  # learned on the pairs that it chose: no measure of the others

    def __init__(self, main: Float[np.ndarray, "unit prompt"], complete: bool = False) -> None:
        self.complete = complete
        sizes = np.nan_to_num(abs(main))
        sizes += np.sqrt((sizes**2).mean(axis=1, keepdims=True))
        largest = float(sizes.max(initial=0.0))
        self._prior = sizes / largest + 1e-3 if largest else np.ones_like(sizes)
        self._strength = self._prior.copy()

    def slopes(self) -> dict[Set, Float[np.ndarray, " unit"]]:
        return {}

    def larger(self, order: int, count: int) -> list[Set]:
        return []

    def fit(self, ledger: Ledger) -> None:
        """Scale each strength by how large its pairs are against what was expected, shrunk."""
        sets = [s for s in ledger.interaction if len(s) == 2]
        if not sets:
            return
        pairs = np.array(sets, dtype=np.int64)
        sizes = abs(np.array([ledger.effect(s) for s in sets]))
        expected = self._prior[pairs].prod(axis=1)
        total = sizes.sum(axis=0)
        sizes *= np.where(total > 0, expected.sum(axis=0) / np.where(total > 0, total, 1.0), 1.0)
        self._strength = self._prior.copy()
        for _ in range(5):
            seen, due = np.zeros_like(self._prior), np.zeros_like(self._prior)
            expected = self._strength[pairs].prod(axis=1)
            for unit in pairs.T:
                np.add.at(seen, unit, sizes)
                np.add.at(due, unit, expected)
            prior = _STRENGTH_PRIOR * float(np.median(expected))
            self._strength *= np.sqrt((seen + prior) / (due + prior))

    def score(self, pairs: Int[np.ndarray, "pair 2"]) -> Float[np.ndarray, " pair"]:
        """Predicted log-size, up to a constant."""
        squares = (self._strength[pairs].prod(axis=1) ** 2).mean(axis=1)
        return 0.5 * np.log(squares + 1e-300)

    def strongest(self, count: int) -> Int[np.ndarray, "pair 2"]:
        """The pairs of largest predicted size, strongest first, without an n x n matrix."""
        squares = self._strength**2
        return largest_products(squares, lambda a, b: a @ b.T, count)


def largest_products(
    factors: Float[np.ndarray, "unit factor"],
    product: Callable[[np.ndarray, np.ndarray], np.ndarray],
    count: int,
) -> Int[np.ndarray, "pair 2"]:
    """The pairs of units whose factors have the largest product, block by block.

    Units go by falling norm, and by Cauchy and Schwarz a block whose norms' product is below the
    smallest that is kept, or no more than it but for rounding, can be passed over: where all units
    are alike, one block is enough.

    Args:
        product: of two blocks of factors; bounded by the product of their norms.
    """
    n = len(factors)
    norms = np.linalg.norm(factors, axis=1)
    order = np.argsort(-norms, kind="stable")
    step = max(1, min(n, int(np.sqrt(_SCANNED_AT_ONCE))))
    kept_from = [-1.0]

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for top in range(0, n, step):
            for left in range(top, n, step):
                rows, columns = order[top : top + step], order[left : left + step]
                most = norms[rows[0]] * norms[columns[0]]
                if most <= kept_from[0] * (1 + _ROUNDING):
                    break
                values = product(factors[rows], factors[columns])
                if top == left:
                    values[np.tril_indices(len(rows))] = -1.0
                # Not repeated in memory: only those of the pairs that are kept are read.
                yield (
                    np.broadcast_to(rows[:, None], values.shape),
                    np.broadcast_to(columns, values.shape),
                    values,
                )

    return largest_pairs(blocks(), n, count, kept_from)


def largest_pairs(
    parts: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]],
    n: int,
    count: int,
    kept_from: list[float] | None = None,
) -> Int[np.ndarray, "pair 2"]:
    """The pairs of largest size among parts ``(first units, second units, sizes)``, of one shape
    each, every pair once with its largest size; sizes below zero do not count.

    Args:
        kept_from: told, in its only place, the smallest size that is still among the largest; -1
            while there are fewer.
    """
    keys, sizes = np.empty(0, dtype=np.int64), np.empty(0)
    if count < 1:
        return np.empty((0, 2), dtype=np.int64)
    new: list[tuple[np.ndarray, np.ndarray]] = []
    waiting, floor = 0, 0.0

    def merge() -> None:
        nonlocal keys, sizes, new, waiting, floor
        keys = np.concatenate([keys, *(k for k, _ in new)])
        sizes = np.concatenate([sizes, *(v for _, v in new)])
        order = np.lexsort((keys, -sizes))
        _, first = np.unique(keys[order], return_index=True)
        chosen = order[np.sort(first)][:count]
        keys, sizes, new, waiting = keys[chosen], sizes[chosen], [], 0
        floor = float(sizes[-1]) if len(sizes) == count else 0.0
        if kept_from is not None:
            kept_from[0] = floor if len(sizes) == count else -1.0

    for first, second, values in parts:
        keep = np.flatnonzero(values >= floor)
        sizes_here = values.ravel()[keep]
        if len(keep) > 2 * count:
            largest = np.argpartition(-sizes_here, 2 * count)[: 2 * count]
            keep, sizes_here = keep[largest], sizes_here[largest]
        at = np.unravel_index(keep, values.shape)
        a, b = first[at].astype(np.int64), second[at].astype(np.int64)
        new.append((np.minimum(a, b) * n + np.maximum(a, b), sizes_here.astype(np.float64)))
        waiting += len(keep)
        if waiting > 2 * count:
            merge()
    if new:
        merge()
    return np.stack([keys // n, keys % n], axis=1)
