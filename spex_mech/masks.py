"""What passes between a search, its driver, a store and a game: masks."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

Set = tuple[int, ...]  # units in ascending order


@dataclass(frozen=True, eq=False)
class MaskBatch:
    """Masks over n units, each as the list of the units that it ablates.

    Almost all masks of a search ablate few units of many, so this is the short form, and the only
    one between search, store, driver and game. :meth:`kept` gives the long form at the end.

    Args:
        ablated: one row per mask: the units that it ablates in ascending order, none twice, padded
            with -1 on the right. A row of -1 alone is the intact model.
        n_units: how many units there are.
        again: which time the same masks are asked again; 0: the first time. A store takes them for
            other masks, so that it does not answer with what it was told first.

    >>> batch = MaskBatch.of_kept(np.array([[True, False, False], [True, True, True]]))
    >>> batch.ablated.tolist()
    [[1, 2], [-1, -1]]
    >>> batch.kept().tolist()
    [[True, False, False], [True, True, True]]
    """

    ablated: Int[np.ndarray, "mask slot"]
    n_units: int
    again: int = 0

    @staticmethod
    def of_kept(kept: Bool[np.ndarray, "mask unit"]) -> "MaskBatch":
        """Masks from the long form, True = kept."""
        row, unit = np.nonzero(~kept)
        counts = np.bincount(row, minlength=len(kept))
        ablated = np.full((len(kept), int(counts.max(initial=0))), -1)
        first = np.cumsum(counts) - counts
        ablated[row, np.arange(len(row)) - first[row]] = unit
        return MaskBatch(ablated, kept.shape[1])

    @staticmethod
    def of_sets(sets: Sequence[Iterable[int]], n_units: int) -> "MaskBatch":
        """Masks that ablate these sets of units, which may come in any order.

        Raises:
            ValueError: a set names a unit twice, or one that does not exist.
        """
        rows = [sorted(units) for units in sets]
        ablated = np.full((len(rows), max(map(len, rows), default=0)), -1)
        for row, units in zip(ablated, rows, strict=True):
            if units and not (0 <= units[0] and units[-1] < n_units):
                raise ValueError(f"a mask ablates {units}; the units are 0 to {n_units - 1}")
            if len(set(units)) < len(units):
                raise ValueError(f"a mask ablates {units}, which names a unit twice")
            row[: len(units)] = units
        return MaskBatch(ablated, n_units)

    @staticmethod
    def of_rows(rows: Int[np.ndarray, "mask slot"], n_units: int) -> "MaskBatch":
        """Masks from rows of units in any order, padded with -1 anywhere."""
        ordered = np.sort(np.where(rows < 0, n_units, rows), axis=1)
        twice = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] < n_units)
        if twice.any():  # once is enough to be ablated
            ordered[:, 1:][twice] = n_units
            ordered.sort(axis=1)
        return MaskBatch(np.where(ordered == n_units, -1, ordered), n_units)

    def __len__(self) -> int:
        return len(self.ablated)

    def kept(self) -> Bool[np.ndarray, "mask unit"]:
        """The long form, True = kept."""
        kept = np.ones((len(self), self.n_units + 1), dtype=bool)
        kept[np.arange(len(self))[:, None], self.ablated] = False  # -1 hits the spare column
        return kept[:, :-1]

    def keys(self) -> list[bytes]:
        """Each mask as bytes that tell it from any other, in the shorter of two forms, which the
        first byte tells apart: 0 and the units that it ablates (two bytes each, four from 65,537
        units on), or 1 and one bit per unit, 1 = ablated. Of masks that are asked again a 2 and the
        number of times, in four bytes, come before that."""
        narrow = _key_type(self.n_units)
        shorter = -(-self.n_units // 8)
        keys: list[bytes] = []
        before = b"\2" + self.again.to_bytes(4, "little") if self.again else b""
        for row, count in zip(self.ablated, (self.ablated >= 0).sum(axis=1), strict=True):
            units = row[:count]
            if count * narrow.itemsize <= shorter:
                keys.append(before + b"\0" + units.astype(narrow).tobytes())
            else:
                lost = np.zeros(self.n_units, dtype=bool)
                lost[units] = True
                keys.append(before + b"\1" + np.packbits(lost).tobytes())
        return keys

    @staticmethod
    def of_keys(keys: Sequence[bytes], n_units: int) -> "MaskBatch":
        """The masks of these keys of :meth:`keys`, all asked for the first time."""
        sets = []
        for key in keys:
            if key[:1] == b"\0":
                sets.append(np.frombuffer(key[1:], _key_type(n_units)).tolist())
            else:
                bits = np.unpackbits(np.frombuffer(key[1:], np.uint8))[:n_units]
                sets.append(np.flatnonzero(bits).tolist())
        return MaskBatch.of_sets(sets, n_units)

    def sets(self) -> list[Set]:
        """The units that each mask ablates."""
        counts = (self.ablated >= 0).sum(axis=1).tolist()
        return [tuple(row[:n]) for row, n in zip(self.ablated.tolist(), counts, strict=True)]

    def names(self, row: int, labels: Sequence[str]) -> str:
        """The first few units that a mask ablates, for an error's text."""
        return names_of(labels, self.rows([row]).sets()[0])

    def part(self, start: int, stop: int) -> "MaskBatch":
        """The masks from ``start`` up to ``stop``."""
        return MaskBatch(self.ablated[start:stop], self.n_units, self.again)

    def rows(self, rows: Sequence[int]) -> "MaskBatch":
        """The masks in these rows, in this order."""
        return MaskBatch(self.ablated[list(rows)], self.n_units, self.again)

    def split(self, size: int) -> Iterator["MaskBatch"]:
        """All masks in parts of at most ``size``."""
        for start in range(0, len(self), size):
            yield self.part(start, start + size)


def _key_type(n_units: int) -> np.dtype:
    """The type of a unit's number in a mask's key."""
    return np.dtype("<u2" if n_units <= 2**16 else "<u4")


def names_of(labels: Sequence[str], lost: Sequence[int]) -> str:
    """The first few units that a mask ablates, for an error's text."""
    names = ", ".join(labels[u] for u in lost[:4]) + (", ..." if len(lost) > 4 else "")
    return names or "nothing"
