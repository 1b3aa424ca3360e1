"""Whether attention and the MLP of a layer stand beside each other, found out by running it."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from spex_mech.engine.passes import Taps
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.sites import Key, Place


@torch.no_grad()
def are_blocks_parallel(
    places: Mapping[Key, Place], taps: Callable[[Sequence[Place]], Taps], prompts: Prompts
) -> bool | None:
    """Whether the MLP of a layer reads the same whatever the heads of its layer give; of the first
    layer that has both. None: no layer has.

    Args:
        taps: what passes through some places run through.
    """
    layers = [layer for kind, layer in places if kind == "head" and ("neuron", layer) in places]
    if not layers:
        return None
    both = taps([places["head", min(layers)], places["neuron", min(layers)]])
    before: dict[int, Tensor] = {}
    after: dict[int, Tensor] = {}

    def shifted(act: Tensor) -> Tensor:
        return act + 1 + act.abs().max()

    with both.installed():
        both.run(prompts, seen=before)
        both.run(prompts, {0: shifted}, seen=after)
    return torch.equal(before[1], after[1])
