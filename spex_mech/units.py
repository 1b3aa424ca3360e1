"""Units: what the columns of a mask are, as a table that games declare and results carry.

Nothing else in the package reads a label to learn a layer or a kind.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from spex_mech.arguments import label_list

JOINED = " + "  # between the labels of units that were taken as one (``spex_mech.together``)
# What results that were written before they had a table can mean: L9H6, L3N1024, L9G1.
_LABEL = re.compile(r"L(\d+)([HNGE])(\d+)")
_KINDS = {"H": "head", "N": "neuron", "G": "kv_group", "E": "expert"}
# Of a model's units: decoder.L0XH3 is a head of cross attention, pooler.H3 lies in no block.
_IN_A_BLOCK = re.compile(r"(?:(?P<stack>.+)\.)?L(?P<number>\d+)X?[HNGE]\d+\*?")
_IN_NO_BLOCK = re.compile(r"(?P<stack>.+)\.[HNGE]\d+\*?")


@dataclass(frozen=True)
class Unit:
    """One column of a mask.

    Args:
        label: its name, which no other unit of the game has.
        kind: "head", "neuron", "kv_group", "expert", "group", "token", "example", or "unit", where
            nothing more is known.
        layer: the layer that it lies in; None where it lies in none, or in several.
        slots: the places that it covers, by name: heads and neurons, positions, examples.
    """

    label: str
    kind: str = "unit"
    layer: int | None = None
    slots: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.slots:
            object.__setattr__(self, "slots", (self.label,))

    @property
    def stack(self) -> str:
        """The stack that it lies in, in a model of several (``decoder.L0H3``); otherwise empty."""
        return "" if self.layer is None else self._block[0]

    @property
    def _block(self) -> tuple[str, int]:
        """The stack and the number of the block in it; below zero where it lies in no block, one
        number for each layer."""
        layer = -1 if self.layer is None else self.layer
        if match := _IN_A_BLOCK.fullmatch(self.slots[0]):  # of a group, one of its members
            return match["stack"] or "", int(match["number"])
        if match := _IN_NO_BLOCK.fullmatch(self.slots[0]):
            return match["stack"], ~layer
        return "", layer


@dataclass(frozen=True, eq=False)
class Blocks:
    """The layers of a game's units as people write them. In a model of several stacks, a layer is a
    block of one of them: all that a decoder's first block holds, cross attention too, lies in
    ``decoder 0``.

    Args:
        of_unit: the number of each unit's block in ``names``; -1 where it lies in none, or in
            several.
        names: of each block in short, in the order of a pass: ``L3``, or ``decoder 3``.
        stacks: the stack of each block; empty where there is only one.
        numbers: of each block in its stack; -1 where it lies in none, as a pooler.
    """

    of_unit: Int[np.ndarray, " unit"]
    names: list[str]
    stacks: list[str]
    numbers: list[int]

    @staticmethod
    def of(units: Iterable[Unit]) -> "Blocks":
        """The blocks that hold some units, and those of lower numbers in the same stacks."""
        given = list(units)
        numbers: dict[str, set[int]] = {}
        for unit in sorted((u for u in given if u.layer is not None), key=lambda u: u.layer or 0):
            stack, number = unit._block
            numbers.setdefault(stack, set()).update({number}, range(number))
        names: dict[tuple[str, int], str] = {}
        for stack, held in numbers.items():
            alone = sum(number < 0 for number in held) == 1
            for number in sorted(held, key=lambda n: max(n, ~n)):
                begins = f"{stack}.L" if stack[-1:].isdigit() else f"{stack} " if stack else "L"
                name = f"{begins}{number}"
                outside = stack if alone else f"{stack} {~number}"
                names[stack, number] = outside if number < 0 else name
        row_of = {block: row for row, block in enumerate(names)}
        of_unit = [-1 if unit.layer is None else row_of[unit._block] for unit in given]
        return Blocks(
            of_unit=np.array(of_unit, dtype=np.int64),
            names=[*names.values()],
            stacks=[stack for stack, _ in names],
            numbers=[max(number, -1) for _, number in names],
        )

    def said(self, block: int) -> str:
        """A block's name in a sentence: ``layer 3``, or ``decoder 3``; empty for -1."""
        if block < 0:
            return ""
        return self.names[block] if self.stacks[block] else f"layer {self.numbers[block]}"


class Units(Sequence[Unit]):
    """The units of a game, in the order of a mask's columns.

    Args:
        units: one per column.

    Raises:
        ValueError: two units have one label, or a label is empty or holds a line break.

    >>> units = Units.of_labels(["L0H1", "L2N7", "the"])
    >>> [(unit.kind, unit.layer) for unit in units]
    [('head', 0), ('neuron', 2), ('unit', None)]
    >>> units.layers.tolist()
    [0, 2, -1]
    """

    def __init__(self, units: Iterable[Unit]) -> None:
        self._units = tuple(units)
        label_list(self.labels)

    @staticmethod
    def of_labels(labels: Iterable[str], n: int | None = None) -> "Units":
        """Units of which labels are all that is known: a function's, or those of a result that was
        written before results had a table. ``L9H6``, ``L3N1024`` and ``L9G1`` are taken for heads,
        neurons and key-value groups; any other label says nothing of layer and kind."""
        return Units(_unit_of(label) for label in label_list(labels, n))

    @staticmethod
    def of_columns(labels: Sequence[str], columns: Mapping[str, Any]) -> "Units":
        """The table that :meth:`as_columns` gave, with its labels."""
        slots = columns["slots"]
        return Units(
            Unit(label, kind, layer, tuple(slots.get(label, ())))
            for label, kind, layer in zip(labels, columns["kind"], columns["layer"], strict=True)
        )

    def as_columns(self) -> dict[str, Any]:
        """Kind and layer of each unit, and the slots of those that are not named after their only
        one; for JSON."""
        own = {u.label: list(u.slots) for u in self._units if u.slots != (u.label,)}
        return {"kind": self.kinds, "layer": [u.layer for u in self._units], "slots": own}

    def __len__(self) -> int:
        return len(self._units)

    def __iter__(self) -> Iterator[Unit]:
        return iter(self._units)

    def __getitem__(self, key: Any) -> Any:
        """One unit by its column, or a slice of them."""
        return Units(self._units[key]) if isinstance(key, slice) else self._units[key]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Units) and self._units == other._units

    def __hash__(self) -> int:
        return hash(self._units)

    def __repr__(self) -> str:
        shown = ", ".join(self.labels[:4]) + (", ..." if len(self) > 4 else "")
        return f"Units({len(self)}: {shown})"

    @cached_property
    def column(self) -> dict[str, int]:
        """The column of each label."""
        return {unit.label: number for number, unit in enumerate(self._units)}

    @property
    def labels(self) -> list[str]:
        """The label of each unit, in a new list."""
        return [unit.label for unit in self._units]

    @property
    def kinds(self) -> list[str]:
        """The kind of each unit."""
        return [unit.kind for unit in self._units]

    @cached_property
    def layers(self) -> Int[np.ndarray, " unit"]:
        """The layer of each unit; -1 where it lies in none, or in several."""
        return np.array([-1 if u.layer is None else u.layer for u in self._units], dtype=np.int64)

    @cached_property
    def blocks(self) -> Blocks:
        """The layers of the units as people write them, with the stack where there are several."""
        return Blocks.of(self._units)

    def other_groups(self, others: "Units") -> list[str]:
        """The labels of groups that the others have too, and that hold other members there.

        >>> one, other = (Units([Unit("late", "group", 1, (f"L1H{i}",))]) for i in range(2))
        >>> one.other_groups(other), one.other_groups(one)
        (['late'], [])
        """
        groups = ({u.label: {*u.slots} for u in of if u.kind == "group"} for of in (self, others))
        ours, theirs = groups
        return [label for label, held in ours.items() if theirs.get(label, held) != held]

    def places(self) -> list[dict[str, str | int]]:
        """Of each unit its layer, where it lies in one, and where there are several stacks, the
        stack in which layers are counted: ``{"layer": 0, "stack": "decoder"}``."""
        blocks = self.blocks
        found: list[dict[str, str | int]] = [{} for _ in self]
        for place, block in zip(found, blocks.of_unit.tolist(), strict=True):
            if block >= 0 and blocks.numbers[block] >= 0:
                place["layer"] = blocks.numbers[block]
            if block >= 0 and blocks.stacks[block]:
                place["stack"] = blocks.stacks[block]
        return found


def cure_of_joined(label: object, known: Collection[str]) -> str:
    """What makes a unit of several that a game has one by one, for the error that it has none of
    this label; empty where that is no such unit.

    >>> cure_of_joined("L0H3 + L1H0", ["L0H3", "L0H4", "L1H0"])
    "; it is several of them as one: give sm.together(game, ['L0H3', 'L1H0'])"
    """
    parts = label.split(JOINED) if isinstance(label, str) else []
    if len(parts) < 2 or not {*parts} <= {*known}:
        return ""
    return f"; it is several of them as one: give sm.together(game, {parts})"


def _unit_of(label: str) -> Unit:
    if match := _LABEL.fullmatch(label):
        return Unit(label, _KINDS[match[2]], int(match[1]))
    return Unit(label)
