"""Gradient rows: what slopes predict of every pair that has a unit whose row was asked for.

``search.gradient_rows`` tells what a row is, which are asked for, and why.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from spex_mech.masks import Set
from spex_mech.pairs.largest import largest_pairs

_ROOM = 4  # rows, before more are reserved
_SLOPES = 0.15  # the weight of a unit's slopes in its promise, chosen on nine games
_MORE = 8  # strongest pairs are kept for so many parts of them more


class GradientRows:
    """Predicted interactions for the units whose gradient row was asked for.

    Args:
        intact: the gradient at the intact model, by block of prompts.
        deep: gradients at random masks, by block of prompts: they say how much a unit interacts.
        block_weight: of the root mean square over blocks, beside the mean, in a slope's size.
    """

    def __init__(
        self,
        intact: Float[np.ndarray, "block unit"],
        deep: Float[np.ndarray, "mask block unit"] | None = None,
        *,
        block_weight: float,
    ) -> None:
        self.n_blocks, self.n = intact.shape
        self.block_weight = block_weight
        self.intact = intact.astype(np.float64)
        self._promise = np.zeros(self.n)
        nothing = np.zeros_like(self.intact)[None]
        for gradient in nothing if deep is None or not len(deep) else deep:
            # Relative: a mask that breaks the model must not outweigh those that do not.
            size = self.magnitude(gradient - self.intact)
            self._promise += (size / (size.mean() or 1.0)) ** 2
        self._promise = np.sqrt(self._promise)
        self.asked: list[int] = []
        self._slopes = np.empty((0, self.n_blocks, self.n), dtype=np.float32)
        self._sizes = np.empty((0, self.n), dtype=np.float32)
        self.reserve(_ROOM)
        self._squares = np.zeros(self.n)
        self._place = np.full(self.n, -1)
        self._strongest: tuple[int, np.ndarray] | None = None  # how many were asked for, and found

    def magnitude(
        self, by_block: Float[np.ndarray, "... block unit"]
    ) -> Float[np.ndarray, "... unit"]:
        """How large slopes are: of their mean over blocks of prompts, and a part of their root mean
        square, which does not vanish where blocks cancel."""
        spread = np.sqrt((by_block**2).mean(-2))
        return abs(by_block.mean(-2)) + self.block_weight * spread

    @staticmethod
    def bytes_of_row(n: int, n_blocks: int) -> int:
        """Memory of one row: a slope for each unit and block, and a size for each unit."""
        return np.dtype(np.float32).itemsize * n * (n_blocks + 1)

    def reserve(self, count: int) -> None:
        """Have room for so many rows."""
        more = count - len(self._sizes)
        if more > 0:
            room = np.zeros((more, self.n_blocks, self.n), dtype=np.float32)
            self._slopes = np.concatenate([self._slopes, room]) if len(self._slopes) else room
            self._sizes = np.concatenate([self._sizes, np.zeros((more, self.n), dtype=np.float32)])

    def add(self, unit: int, gradient: Float[np.ndarray, "block unit"]) -> None:
        """The gradient at the model without ``unit``, by block of prompts."""
        row = self.intact - gradient
        row[:, unit] = 0.0
        place = len(self.asked)
        if place == len(self._sizes):
            self.reserve(2 * place)
        self._place[unit] = place
        self._slopes[place], self._sizes[place] = row, self.magnitude(row)
        self._squares += self._sizes[place].astype(np.float64) ** 2
        self.asked.append(unit)
        self._strongest = None

    def matrix(self) -> Float[np.ndarray, "row unit"]:
        """The predicted sizes, in the order in which the rows were asked for."""
        return self._sizes[: len(self.asked)]

    def slopes(self) -> dict[Set, Float[np.ndarray, " unit"]]:
        """The gradients asked for, by what was ablated (the ablated unit's own as if intact)."""
        intact = self.intact.mean(0)
        means = self._slopes[: len(self.asked)].mean(1)
        return {(): intact, **{(u,): intact - means[self._place[u]] for u in self.asked}}

    def next_rows(self, count: int) -> list[int]:
        """The units whose rows promise most: by what random masks change of their slopes, by their
        columns in the rows known so far, and, with less weight, by their slopes themselves. The sum
        of the roots: a sign that knows nothing of a unit, as the slope of one that is saturated,
        then takes less from it than it would from a product, and one alone gives less than to a
        plain sum."""
        slopes = self.magnitude(self.intact)
        score = _roots(self._promise, self._promise) + _SLOPES * _roots(slopes, slopes)
        if self.asked:
            columns = self.column_rms()
            score += _roots(columns, columns[self.asked])
        score[self.asked] = -np.inf
        best = np.argsort(-score, kind="stable")[:count]
        return [int(u) for u in best if score[u] > -np.inf]

    def column_rms(self) -> Float[np.ndarray, " unit"]:
        """The root mean square of each unit's column over the rows."""
        return np.sqrt(self._squares / max(1, len(self.asked)))

    def extrapolate(self, pairs: Int[np.ndarray, "pair 2"]) -> Float[np.ndarray, " pair"]:
        """A guess where neither unit has a row: the product of the root mean squares of both
        columns, scaled so that it would be right on average for a unit that has a row."""
        rms = self.column_rms()
        scale = np.sqrt(np.square(rms[self.asked]).mean())
        return rms[pairs].prod(axis=1) / (scale or 1.0)

    def n_rows_of(self, pairs: Int[np.ndarray, "pair 2"]) -> Int[np.ndarray, " pair"]:
        """How many of each pair's two units have a row."""
        return (self._place[pairs] >= 0).sum(axis=1)

    def predict(
        self,
        pairs: Int[np.ndarray, "pair 2"],
        of_unit: Float[np.ndarray, " unit"] | None = None,
    ) -> Float[np.ndarray, "pair block"]:
        """The larger of ``s_ij`` and ``s_ji`` in each block; NaN where neither unit has a row.

        Args:
            of_unit: by which a unit's own slopes are to be multiplied: ``s_ij`` by that of j.
        """
        if not self.asked:
            return np.full((len(pairs), self.n_blocks), np.nan)
        both = []
        for i, j in ((0, 1), (1, 0)):
            place = self._place[pairs[:, i]]
            value = self._slopes[place, :, pairs[:, j]].astype(np.float64)
            if of_unit is not None:
                value *= of_unit[pairs[:, j], None]
            both.append(np.where(place[:, None] >= 0, value, np.nan))
        first, second = both
        larger = np.isnan(first) | (abs(second) > abs(first))
        return np.where(larger, second, first)

    def strongest(self, count: int) -> Int[np.ndarray, "pair 2"]:
        """The pairs of largest predicted size, strongest first, without an n x n matrix."""
        if self._strongest is None or self._strongest[0] < count:
            some_more = count + count // _MORE  # as each round of a search asks for some more
            self._strongest = some_more, largest_pairs(self._by_row(), self.n, some_more)
        return self._strongest[1][:count]

    def _by_row(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        others = np.arange(self.n)
        for unit, row in zip(self.asked, self.matrix(), strict=True):
            yield np.full(self.n, unit), others, np.where(others == unit, -1.0, row)


def _roots(
    sizes: Float[np.ndarray, " unit"], usual: Float[np.ndarray, " one"]
) -> Float[np.ndarray, " unit"]:
    """The roots of sizes over the mean of those that are usual, whatever the scale."""
    return np.sqrt(sizes / (float(usual.mean()) or 1.0))
