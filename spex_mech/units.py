"""Units: what the columns of a mask are, as a table that games declare and results carry.

Nothing else in the package reads a label to learn a layer or a kind.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from spex_mech.arguments import label_list

# What results that were written before they had a table can mean: L9H6, L3N1024, L9G1.
_LABEL = re.compile(r"L(\d+)([HNGE])(\d+)")
_KINDS = {"H": "head", "N": "neuron", "G": "kv_group", "E": "expert"}


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
        return "" if self.layer is None else self.label.rpartition(".")[0]


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


def _unit_of(label: str) -> Unit:
    if match := _LABEL.fullmatch(label):
        return Unit(label, _KINDS[match[2]], int(match[1]))
    return Unit(label)
