"""Names of units as other tools write them, and which unit of a game each one means.

A head of layer 9 is ``L9H6`` here; ``a9.h6`` in EAP-IG and in the Mechanistic Interpretability
Benchmark, ``A9.6`` in auto-circuit, ``9.6`` in papers, ``(9, 6)`` in code,
``blocks.9.attn.hook_z[6]`` or ``blocks.9.attn.hook_result[6]`` in TransformerLens and ACDC, and
``layer 9 head 6`` in prose. Neurons are ``L3N1024``, ``m3.n1024``, ``N3.1024``,
``blocks.3.mlp.hook_post[1024]`` or ``layer 3 neuron 1024``; whole MLPs ``L3MLP``, ``m3``,
``MLP 3`` or ``blocks.3.hook_mlp_out``.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from spex_mech.units import Units, cure_of_joined


@dataclass(frozen=True)
class Place:
    """A place in a model that a name means: a head, a neuron, or a whole MLP (index -1)."""

    kind: str
    layer: int
    index: int


_HOOK = r"blocks\.(\d+)\."
_SPELLINGS = {
    "head": (
        r"L(\d+)[. ]?H(\d+)",
        r"a(\d+)\.?h(\d+)",
        r"A(\d+)\.(\d+)",
        r"(\d+)\.(\d+)",
        r"\(?(\d+), ?(\d+)\)?",
        _HOOK + r"attn\.hook_(?:z|result)(?:\[:, ?:, ?|\[|\.)(\d+)\]?",
        r"layer (\d+),? head (\d+)",
    ),
    "neuron": (
        r"L(\d+)[. ]?N(\d+)",
        r"m(\d+)\.n(\d+)",
        r"N(\d+)\.(\d+)",
        _HOOK + r"mlp\.hook_post(?:\[:, ?:, ?|\[|\.)(\d+)\]?",
        r"layer (\d+),? neuron (\d+)",
    ),
    "kv_group": (r"L(\d+)[. ]?G(\d+)",),
    "expert": (r"L(\d+)[. ]?E(\d+)",),
    "mlp": (r"L(\d+)[. ]?MLP()", r"m(\d+)()", r"MLP ?(\d+)()", _HOOK + r"hook_mlp_out()"),
}


def place_of(name: Any) -> Place | None:
    """What a name means in any of the spellings above; None: it is no such name."""
    if isinstance(name, tuple) and len(name) == 2 and all(isinstance(x, int) for x in name):
        return Place("head", *name)
    for kind, patterns in _SPELLINGS.items():
        for pattern in patterns:
            if match := re.fullmatch(pattern, str(name).strip(), re.IGNORECASE):
                return Place(kind, int(match[1]), int(match[2] or -1))
    return None


def places_of(units: Units) -> list[Place | None]:
    """What each unit covers, where that is one place of a model."""
    return [place_of(unit.slots[0]) if len(unit.slots) == 1 else None for unit in units]


def columns_of(names: Iterable[Any], units: Units, where: str) -> list[int]:
    """The column of each name among these units: a label, or another spelling of what it covers.

    Args:
        where: what holds the names, for errors: "order" or "circuit".

    Raises:
        ValueError: no unit is called so, or two names mean one unit.

    >>> columns_of(["a0.h3", (1, 0)], Units.of_labels(["L0H3", "L1H0"]), "order")
    [0, 1]
    """
    labels, by_label = units.labels, units.column
    by_place = {place: column for column, place in enumerate(places_of(units)) if place}
    columns: dict[int, Any] = {}
    for name in names:
        column = by_label.get(name) if isinstance(name, str) else None
        if column is None and (place := place_of(name)) is not None:
            column = by_place.get(place)
        if column is None:
            raise ValueError(
                f"unknown unit {name!r} in the {where}; units are "
                f"{', '.join(map(repr, labels[:4]))}{', ...' if len(labels) > 4 else ''} (heads "
                f"also as 'a0.h3', '0.3' or (0, 3)){cure_of_joined(name, by_label)}"
            )
        if column in columns:
            also = "" if columns[column] == name else f" (also as {columns[column]!r})"
            raise ValueError(f"the {where} names {name!r} twice{also}")
        columns[column] = name
    return list(columns)
