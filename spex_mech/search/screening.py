"""Candidates from gradients: which pairs the slopes say interact, corrected by what was measured.

The gradient at the model without unit i gives the slope of every other unit j. Its difference to
the slope at the intact model, ``s_ij = g_j(N) - g_j(N without i)``, is the interaction of i and j
if j acts linearly. One gradient so predicts a whole row. Where i and j both have a row, the larger
of ``|s_ij|`` and ``|s_ji|`` is the prediction: saturation makes one of them vanish, hardly both.

Slopes come by block of prompts. A pair may help on some prompts and hurt on others, or be saturated
on average, and the mean of ``s_ij`` vanish where its blocks do not: the predicted size is
``|mean| + 0.3 * root mean square over blocks``. On the 260K story model (900 units, all rows) the
first 600 predictions then hold 0.95 of the true top 100, against 0.92 by the mean alone; positions
within prompts, kept apart too, add nothing.

Which rows to ask for: those of large norm. A ridge regression of the log-norms of the rows so far
on what is known of every unit (attribution, slope, how soon its slope changes with all gates, how
much the rows so far lean on it) and on its group (layer and kind) ranks the rest. On that model
150 rows so chosen and 1,100 pairs find 0.86 of the top 500; chosen by strength and by what rows
lean on, 0.79.

What the rows miss is where both units are saturated on all prompts. Second reference points (all
gates at 0.9, 0.75 or 0.5; random halves ablated), a ridge regression on main effects and
self-curvatures, a term for each unit, and a network fitted to all slopes and values were tried on
that model and found no more. Each round corrects predictions by how far they were off between two
groups of units (layers), a shrunk mean log-ratio: it changes little there, and guards against a
layer whose slopes lie.

Without gradients, where units are very uneven, a pair's size goes roughly with the product of a
strength of each of its units: its main effect to begin with, then what its measured pairs say.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from spex_mech.search.ledger import Ledger, Set

_SHRINK = 10.0  # pairs that a group's correction is shrunk by
_LEAST_MEASURED = 40
_BY_BLOCK = 0.3
_TINY = 1e-12


def size(by_block: Float[np.ndarray, "block unit"]) -> Float[np.ndarray, " unit"]:
    """How large slopes are: of their mean over blocks of prompts, and a part of their root mean
    square, which does not vanish where blocks cancel."""
    return abs(by_block.mean(0)) + _BY_BLOCK * np.sqrt((by_block**2).mean(0))


class Rows:
    """Predicted sizes of interactions for the units whose gradient row was asked for.

    Args:
        intact: the gradient at the intact model, by block of prompts.
        features: sizes that say how much a unit may matter, the best of them first.
        groups: the group of each unit (say, its layer); default: all in one.
    """

    def __init__(
        self,
        intact: Float[np.ndarray, "block unit"],
        features: Sequence[Float[np.ndarray, " unit"]] = (),
        groups: Int[np.ndarray, " unit"] | None = None,
    ) -> None:
        self.n = intact.shape[1]
        self._features = [*features, size(intact)]
        self._groups = np.zeros(self.n, dtype=np.int64) if groups is None else groups
        self.asked: list[int] = []
        self._intact = intact.astype(np.float64)
        self._sizes = np.empty((16, self.n), dtype=np.float32)
        self._means = np.empty((16, self.n), dtype=np.float32)
        self._squares = np.zeros(self.n)
        self._place = np.full(self.n, -1)

    def add(self, unit: int, gradient: Float[np.ndarray, "block unit"]) -> None:
        """The gradient at the model without ``unit``, by block of prompts."""
        row = self._intact - gradient
        row[:, unit] = 0.0
        place = len(self.asked)
        if place == len(self._sizes):
            self._sizes = np.concatenate([self._sizes, np.empty_like(self._sizes)])
            self._means = np.concatenate([self._means, np.empty_like(self._means)])
        self._place[unit] = place
        self._sizes[place] = size(row)
        self._means[place] = row.mean(0)
        self._squares += self._sizes[place].astype(np.float64) ** 2
        self.asked.append(unit)

    def matrix(self) -> Float[np.ndarray, "row unit"]:
        """The predicted sizes, in the order in which the rows were asked for."""
        return self._sizes[: len(self.asked)]

    def slopes(self) -> dict[Set, Float[np.ndarray, " unit"]]:
        """The gradients asked for, by what was ablated (0 for the ablated unit itself)."""
        intact = self._intact.mean(0)
        return {(): intact, **{(u,): intact - self._means[self._place[u]] for u in self.asked}}

    def next_rows(self, count: int) -> list[int]:
        """The units whose rows promise most: the first by the first feature, then by a ridge
        regression of the log-norm of the rows so far on the features, what the rows lean on, and
        the group."""
        score = np.log(self._features[0] + _TINY)
        if self.asked:
            x = np.log(np.stack([*self._features, self.leaned_on()], axis=1) + _TINY)
            x = (x - x.mean(0)) / np.where(x.std(0) > 0, x.std(0), 1.0)
            x = np.concatenate([x, self._groups[:, None] == np.unique(self._groups)], axis=1)
            known, norms = x[self.asked], np.linalg.norm(self.matrix(), axis=1)
            norms = np.log(norms + _TINY)
            gram = known.T @ known + np.eye(x.shape[1])
            score = x @ np.linalg.solve(gram, known.T @ (norms - norms.mean()))
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

    def predict(self, pairs: Int[np.ndarray, "pair 2"]) -> Float[np.ndarray, " pair"]:
        """The larger of the sizes of ``s_ij`` and ``s_ji``; NaN where neither unit has a row."""
        if not self.asked:
            return np.full(len(pairs), np.nan)
        rows = self.matrix()
        both = []
        for i, j in ((0, 1), (1, 0)):
            place = self._place[pairs[:, i]]
            value = rows[place, pairs[:, j]].astype(np.float64)
            both.append(np.where(place >= 0, value, np.nan))
        return np.fmax(*both)

    def strongest(self, count: int) -> Int[np.ndarray, "pair 2"]:
        """The pairs of largest prediction, strongest first, without forming an n x n matrix."""
        n = self.n
        others = np.arange(n)
        keys, sizes = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        new: list[tuple[np.ndarray, np.ndarray]] = []
        waiting, floor = 0, 0.0
        for place, (unit, row) in enumerate(zip(self.asked, self.matrix(), strict=True)):
            keep = np.flatnonzero((row >= floor) & (others != unit))
            new.append((np.minimum(unit, keep) * n + np.maximum(unit, keep), row[keep]))
            waiting += len(keep)
            if waiting > 2 * count or place == len(self.asked) - 1:
                keys = np.concatenate([keys, *(k for k, _ in new)])
                sizes = np.concatenate([sizes, *(v for _, v in new)])
                keys, sizes = _largest(keys, sizes, count)
                new, waiting = [], 0
                floor = float(sizes[-1]) if len(sizes) == count else 0.0
        return np.stack([keys // n, keys % n], axis=1)


def _largest(
    keys: Int[np.ndarray, " entry"], sizes: Float[np.ndarray, " entry"], count: int
) -> tuple[Int[np.ndarray, " kept"], Float[np.ndarray, " kept"]]:
    """Each key once, with its largest size; the ``count`` largest, largest first."""
    order = np.lexsort((keys, -sizes))
    _, first = np.unique(keys[order], return_index=True)
    chosen = order[np.sort(first)][:count]
    return keys[chosen], sizes[chosen]


class Recalibration:
    """Predicted log-size of an interaction, corrected by group for what was measured.

    Args:
        rows: the gradient rows (none asked for, where the game has no gradient).
        strength: each unit's absolute main effect; what ranks pairs where no row predicts them.
        groups: the group of each unit (say, its layer); default: all in one.
    """

    def __init__(
        self,
        rows: Rows,
        strength: Float[np.ndarray, " unit"],
        groups: Int[np.ndarray, " unit"] | None = None,
    ) -> None:
        self.rows = rows
        self._groups = np.zeros(len(strength), dtype=np.int64) if groups is None else groups
        n_groups = int(self._groups.max()) + 1
        self._terms = np.zeros((n_groups, n_groups))
        self._strength = strength
        self._floor = 1e-6 * float(rows.matrix().max(initial=0.0)) or 1e-300

    @property
    def informed(self) -> bool:
        return bool(self.rows.asked)

    def strongest(self, count: int) -> Int[np.ndarray, "pair 2"]:
        return self.rows.strongest(count)

    def slopes(self) -> dict[Set, Float[np.ndarray, " unit"]]:
        return self.rows.slopes() if self.rows.asked else {}

    def fit(self, ledger: Ledger) -> None:
        """Learn from all pairs measured so far how far off predictions are, by pair of groups."""
        measured = ledger.interaction
        pairs = np.array([s for s in measured if len(s) == 2], dtype=np.int64).reshape(-1, 2)
        sizes = np.array([abs(v) for s, v in measured.items() if len(s) == 2])
        predicted = self.rows.predict(pairs)
        usable = (predicted > 0) & (sizes > 0)
        if usable.sum() < _LEAST_MEASURED:
            return
        off = np.log(sizes[usable] / predicted[usable])
        a, b = np.sort(self._groups[pairs[usable]], axis=1).T
        total, count = np.zeros_like(self._terms), np.full_like(self._terms, _SHRINK)
        np.add.at(total, (a, b), off - off.mean())
        np.add.at(count, (a, b), 1.0)
        terms = total / count
        self._terms = np.triu(terms) + np.triu(terms, 1).T

    def score(self, pairs: Int[np.ndarray, "pair 2"]) -> Float[np.ndarray, " pair"]:
        """Predicted log-size, up to a constant."""
        if not self.rows.asked:
            return self._strength[pairs].sum(axis=1)
        larger = self.rows.predict(pairs)
        larger = np.where(np.isnan(larger), self.rows.extrapolate(pairs), larger)
        a, b = self._groups[pairs].T
        return np.log(larger + self._floor) + self._terms[a, b]


class Strengths:
    """Sizes of pairs as products of unit strengths, learned from the pairs that were measured.

    Args:
        main: each unit's absolute main effect, the prior of its strength.
    """

    def __init__(self, main: Float[np.ndarray, " unit"]) -> None:
        largest = float(main.max())
        self._prior = main / largest + 1e-3 if largest else np.ones_like(main)
        self._strength = self._prior.copy()

    def fit(self, measured: dict[Set, float]) -> None:
        """Scale each unit by how large its pairs are against what was expected, shrunk."""
        pairs = np.array([s for s in measured if len(s) == 2], dtype=np.int64).reshape(-1, 2)
        sizes = np.array([abs(v) for s, v in measured.items() if len(s) == 2])
        expected = self._prior[pairs].prod(axis=1)
        if not sizes.any():
            return
        sizes = sizes * expected.sum() / sizes.sum()
        self._strength = self._prior.copy()
        for _ in range(5):
            seen, due = np.zeros((2, len(self._prior)))
            expected = self._strength[pairs].prod(axis=1)
            for column in (0, 1):
                np.add.at(seen, pairs[:, column], sizes)
                np.add.at(due, pairs[:, column], expected)
            weight = 3.0 * float(np.median(due[due > 0]))
            self._strength *= np.sqrt((seen + weight) / (due + weight))

    def strongest(self, count: int, known: dict[Set, float]) -> list[Set]:
        """The unmeasured pairs of largest product, strongest first, without all pairs at once."""
        order = np.argsort(-self._strength, kind="stable")
        products: list[tuple[float, Set]] = []
        wanted = count + len(known)
        # With rank r, only so many partners can be among the wanted: each of the r stronger units
        # makes a pair at least as large with each of them.
        for r, u in enumerate(order):
            partners = order[r + 1 : r + 1 + wanted // (r + 1)]
            if not len(partners):
                break
            for v in partners:
                s = (int(min(u, v)), int(max(u, v)))
                if s not in known:
                    products.append((float(self._strength[u] * self._strength[v]), s))
        products.sort(key=lambda item: (-item[0], item[1]))
        return [s for _, s in products[:count]]
