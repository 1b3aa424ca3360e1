"""What masks can tell apart: a proxy answers any question, and some of the answers are guesses.

Of a unit that no mask leaves out (or that every mask does) nothing is known. Two units that are the
same in every mask, or opposite in every mask, are one thing to whatever learns from these. And of
the interaction of two units nothing is known unless masks show all four states of the two: both
kept, either one left out, both left out.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from spex_mech.masks import Set, names_of

_CONSTANT = -1
_AT_ONCE = 20_000_000  # entries of masks
_MOST_SUMS = 1000  # units, of which sums that never change are looked for
_NO_SPREAD = 1e-9  # of the largest spread of a sum over units: it is the same in every mask


@dataclass(frozen=True, eq=False)
class Seen:
    """The masks that were learned from.

    Args:
        masks: ``[mask unit]``, True = kept.

    >>> seen = Seen(np.array([[True, True, False, True], [True, False, True, False]]))
    >>> seen.units, seen.constant, seen.groups
    ([1], [0], {1: [2, 3]})
    """

    masks: Bool[np.ndarray, "mask unit"]

    @cached_property
    def first(self) -> Int[np.ndarray, " unit"]:
        """The first unit that is the same, or the opposite, in every mask: mostly the unit itself.
        -1: it is in one state in every mask."""
        turned = self.masks ^ self.masks[0]  # in the first mask all are False
        columns = np.packbits(turned, axis=0).T
        known: dict[bytes, int] = {}
        first = np.full(len(columns), _CONSTANT)
        for unit in np.flatnonzero(turned.any(axis=0)).tolist():
            first[unit] = known.setdefault(columns[unit].tobytes(), unit)
        return first

    @cached_property
    def units(self) -> list[int]:
        """The units that masks tell apart: of each group the first one."""
        return np.flatnonzero(self.first == np.arange(len(self.first))).tolist()

    @property
    def all_apart(self) -> bool:
        return len(self.units) == len(self.first)

    @cached_property
    def constant(self) -> list[int]:
        """The units that are in one state in every mask."""
        return np.flatnonzero(self.first == _CONSTANT).tolist()

    @cached_property
    def groups(self) -> dict[int, list[int]]:
        """Of a unit that stands for others, these others."""
        found: dict[int, list[int]] = {}
        for unit in np.flatnonzero(self.first != np.arange(len(self.first))).tolist():
            if (first := int(self.first[unit])) != _CONSTANT:
                found.setdefault(first, []).append(unit)
        return found

    def shown(self, masks: Bool[np.ndarray, "mask unit"]) -> Bool[np.ndarray, " mask"]:
        """Of which masks something is known: what never changed stands as it did, and what changed
        together still does."""
        turned = masks ^ self.masks[0]
        wanted = np.where(self.first == _CONSTANT, False, turned[:, self.first])
        return (turned == wanted).all(axis=1)

    def name(self, unit: int, labels: Sequence[str]) -> str:
        """Its label, with those of the units that it stands for."""
        together = [unit, *self.groups.get(unit, [])]
        start = self.masks[0]
        return "+".join(f"{'' if start[u] == start[unit] else 'not '}{labels[u]}" for u in together)

    def in_full(self, sets: Iterable[Set]) -> list[bool]:
        """Whether masks show all four states of every two units of a set."""
        sets = list(sets)
        pairs = sorted({(a, b) for s in sets for i, a in enumerate(s) for b in s[i + 1 :]})
        lacking: set[tuple[int, int]] = set()
        step = max(1, _AT_ONCE // len(self.masks))
        for start in range(0, len(pairs), step):
            part = np.array(pairs[start : start + step])
            a, b = self.masks[:, part[:, 0]], self.masks[:, part[:, 1]]
            states = [(x & y).any(axis=0) for x in (a, ~a) for y in (b, ~b)]
            bad = ~np.logical_and.reduce(states)
            lacking.update((int(x), int(y)) for x, y in part[bad])
        return [
            not any((a, b) in lacking for i, a in enumerate(s) for b in s[i + 1 :]) for s in sets
        ]

    def warnings(self, labels: Sequence[str]) -> list[str]:
        """What masks do not tell apart, in words."""
        said: list[str] = []
        for kept, how in ((True, "no mask leaves out"), (False, "every mask leaves out")):
            units = [u for u in self.constant if bool(self.masks[0, u]) == kept]
            if units:
                said.append(
                    f"{len(units)} of {len(labels)} units, which {how}, are in no result: nothing "
                    f"is known of {names_of(labels, units)}"
                )
        if self.groups:
            groups = [self.name(u, labels) for u in self.groups]
            said.append(
                f"nothing parts the units {names_of(groups, range(len(groups)))}, which masks keep "
                "and leave out together ('not': always the opposite): each such group is taken for "
                "one unit, under its first name in indices"
            )
        return said + self._same_sums()

    def _same_sums(self) -> list[str]:
        """What masks of one size, or with as many units of each class, do not tell, in words."""
        table = self.masks[:, self.units]
        n = table.shape[1]
        if not 1 < n <= _MOST_SUMS or len(table) <= n:  # of fewer masks nobody takes it for known
            return []
        centred = table - table.mean(axis=0)
        spread = np.linalg.eigvalsh(centred.T @ centred)
        if not (count := int((spread <= _NO_SPREAD * spread[-1]).sum())):
            return []
        kept = table.sum(axis=1)
        if count == 1 and (kept == kept[0]).all():
            why = f"every mask keeps {kept[0]} of the {n} units"
            which = "one number, which is the same for all of them"
        else:
            why = f"{count} sums over units are the same in every mask (so many of each class?)"
            which = "a number for each such sum, which is the same for its units"
        return [
            f"{why}, so that nothing tells what these do together: estimates of single units are "
            f"right but for {which} (differences hold, and signs may be wrong), and values with "
            "all units or with none are guesses; give masks that keep more, and fewer"
        ]
