"""A complete table as a proxy: where every mask's value is known, nothing needs to be estimated."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.masks import Set
from spex_mech.proxies.inputs import check_examples
from spex_mech.proxy import Proxy
from spex_mech.setfunctions import of_table

MOST_UNITS = 20
_ROUNDING = 1e-9  # of the largest value: two values of one mask that differ by less are the same


class CompleteTable(Proxy):
    """A function of few units whose value of every mask is known. All that it says is exact.

    After ``fit``, ``about`` holds the number of masks.
    """

    name = "table"

    def __init__(self) -> None:
        self.about: Mapping[str, Any] = {}
        self._values: np.ndarray | None = None  # [set prompt], by the number that a mask is in bits
        self._n = 0

    @staticmethod
    def holds(
        masks: Bool[np.ndarray, "mask unit"], values: Float[np.ndarray, "mask prompt"]
    ) -> bool:
        """Whether these are all masks, and copies of a mask have one value."""
        n = masks.shape[1]
        if n > MOST_UNITS or len(masks) < 2**n:
            return False
        places = _places(masks)
        if len(np.unique(places)) < 2**n:
            return False
        table = np.empty((2**n, values.shape[1]))
        table[places] = values
        return bool(abs(table[places] - values).max() <= _ROUNDING * abs(values).max())

    def fit(
        self,
        masks: Bool[np.ndarray, "mask unit"],
        values: Float[np.ndarray, "mask prompt"] | Float[np.ndarray, " mask"],
    ) -> None:
        """Keep the value of every mask (True = kept).

        Raises:
            ValueError: a mask is missing, or has two values.
        """
        check_examples(masks, values)
        table = values.reshape(len(masks), -1).astype(np.float64)
        if not self.holds(masks, table):
            raise ValueError(
                f"{len(masks)} masks of {masks.shape[1]} units are no complete table: it has each "
                "mask, with one value"
            )
        self._n = masks.shape[1]
        self._values = np.empty((2**self._n, table.shape[1]))
        self._values[_places(masks)] = table
        self.about = {"n_masks": 2**self._n}

    def predict(self, masks: Bool[np.ndarray, "mask unit"]) -> Float[np.ndarray, "mask prompt"]:
        """The values on each prompt, as they are."""
        return self._fitted()[_places(masks)]

    def propose(self, k: int, order: int = 2) -> list[tuple[Set, float]]:
        """The k strongest interactions of 2 to ``order`` units at the intact model."""
        floor = _ROUNDING * float(abs(self._fitted()).max())
        terms = self.indices("intact", order)
        found = [(s, v) for s, v in terms.items() if len(s) > 1 and abs(v) > floor]
        return sorted(found, key=lambda item: (-abs(item[1]), item[0]))[:k]

    def uncertainty(self, masks: Bool[np.ndarray, "mask unit"]) -> Float[np.ndarray, " mask"]:
        """None: every value is known."""
        self._fitted()
        return np.zeros(len(masks))

    def indices(self, kind: str, order: int = 2, k: int | None = None) -> dict[Set, float]:
        """All coefficients of a kind (``setfunctions``) of the prompt mean, up to ``order`` units;
        ``k`` is not needed, as there are few.

        Raises:
            ValueError: an unknown kind.
        """
        found = of_table(self._fitted().mean(axis=1), kind)
        sets = (tuple(u for u in range(self._n) if number >> u & 1) for number in range(len(found)))
        terms = {s: v for s, v in zip(sets, found.tolist(), strict=True) if len(s) <= order}
        return dict(sorted(terms.items(), key=lambda item: (len(item[0]), item[0])))

    def _fitted(self) -> Float[np.ndarray, "set prompt"]:
        if self._values is None:
            raise ValueError("this table is empty: call fit(masks, values) first")
        return self._values


def _places(masks: Bool[np.ndarray, "mask unit"]) -> np.ndarray:
    """The number that each mask is in bits, its first unit the lowest."""
    return masks @ (1 << np.arange(masks.shape[1], dtype=np.int64))
