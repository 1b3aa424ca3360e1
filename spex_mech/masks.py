"""What games of every lens do with masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor


def mask_table(masks: Any, n_units: int) -> Tensor:
    """Masks or gates from a tensor, an array or lists: ``[mask unit]``, detached, on the CPU.

    Raises:
        ValueError: another shape.
    """
    masks = torch.as_tensor(masks).detach().cpu()
    if masks.ndim != 2 or masks.shape[1] != n_units:
        raise ValueError(
            f"masks have shape {tuple(masks.shape)}; they need [mask unit] with {n_units} units"
        )
    return masks


def lists_of(keep: Bool[Tensor, "mask unit"]) -> Int[np.ndarray, "mask k"]:
    """What each mask ablates, padded with -1."""
    lost = ~keep.numpy()
    width = int(lost.sum(axis=1).max(initial=0))
    lists = np.full((len(lost), width), -1)
    row, unit = np.nonzero(lost)
    first = np.searchsorted(row, np.arange(len(lost)))
    lists[row, np.arange(len(row)) - first[row]] = unit
    return lists


def unit_of_places(groups: Sequence[Sequence[int]], n_places: int) -> Int[Tensor, " place"]:
    """The unit of each place (a position, an example); in none: one more than the last unit."""
    unit_of = torch.full((n_places,), len(groups))
    for unit, group in enumerate(groups):
        unit_of[list(group)] = unit
    return unit_of


def spread(gates: Tensor, unit_of: Int[Tensor, " place"]) -> Tensor:
    """Each place has its unit's gate; places of no unit are kept."""
    return torch.cat([gates, gates.new_ones(len(gates), 1)], dim=1)[:, unit_of]


def names_of(labels: Sequence[str], lost: Sequence[int]) -> str:
    """The first few units that a mask ablates, for an error's text."""
    names = ", ".join(labels[u] for u in lost[:4]) + (", ..." if len(lost) > 4 else "")
    return names or "nothing"
