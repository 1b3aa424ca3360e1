"""Units that cover several places: positions of a text, training examples."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from spex_mech.arguments import shown


def places_of(name: str, units: Any, place: str) -> list[tuple[int, ...]]:
    """The places of each unit, from lists, tuples, arrays or tensors of whole numbers.

    Args:
        name: what an error calls them, "spans" or "groups".
        place: what it calls one of them, "a position".

    Raises:
        ValueError: a unit is no list of whole numbers.

    >>> places_of("groups", torch.tensor([[0, 2], [1, 3]]), "an example")
    [(0, 2), (1, 3)]
    """
    found = [tuple(_listed(name, unit)) for unit in _listed(name, units)]
    for one in (one for unit in found for one in unit):
        if not isinstance(one, Integral) or isinstance(one, bool):
            raise ValueError(f"{name} hold {shown(one)} as {place}; it must be a whole number")
    return [tuple(int(one) for one in unit) for unit in found]


def _listed(name: str, value: Any) -> list[Any]:
    held = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(held, str | bytes) or not hasattr(held, "__iter__"):
        raise ValueError(
            f"{name} hold {shown(value)} where a list belongs; give one list of whole numbers for "
            "each unit, such as [[0, 1], [2]]"
        )
    return list(held)


@torch.inference_mode(False)  # slopes index by it, whatever mode the caller has set
def unit_of_places(groups: Sequence[Sequence[int]], n_places: int) -> Int[Tensor, " place"]:
    """The unit of each place (a position, an example); in none: one more than the last unit."""
    unit_of = torch.full((n_places,), len(groups))
    for unit, group in enumerate(groups):
        unit_of[list(group)] = unit
    return unit_of


def spread(gates: Tensor, unit_of: Int[Tensor, " place"]) -> Tensor:
    """Each place has its unit's gate; places of no unit are kept."""
    return torch.cat([gates, gates.new_ones(len(gates), 1)], dim=1)[:, unit_of]
