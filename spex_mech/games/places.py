"""Units that cover several places: positions of a text, training examples."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


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
