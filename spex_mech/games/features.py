"""Frozen features of a transformer, for a head that is trained on them (``TrainingGame``)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from spex_mech.arguments import whole
from spex_mech.engine.architectures import Architecture, architecture_of
from spex_mech.engine.blocks import block_name
from spex_mech.engine.device import device_of, in_batches
from spex_mech.engine.passes import call
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.references import real_positions
from spex_mech.engine.running import evaluating, first_tensor

_ROWS = 64


@torch.no_grad()
def frozen_features(
    model: Any,
    prompts: Prompts,
    *,
    layer: int | None = None,
    pool: str = "mean",
    architecture: Architecture | None = None,
    batch_size: int = _ROWS,
) -> Float[Tensor, "prompt d_model"]:
    """The residual stream after a layer, one vector a prompt, on the CPU.

    Args:
        layer: default: the last.
        model: a Hugging Face or TransformerLens model.
        prompts: their tokens, on any device.
        pool: "mean" (over real tokens) or "last" (where the answer is read: the last real token,
            unless the prompts have ``answer_pos``).
        batch_size: prompts at a time; halved where they do not fit.
        architecture: as for ``ModelGame``.

    Raises:
        ValueError: there is no such layer or pooling.
    """
    arch = architecture_of(model, architecture, prompts)
    layer = arch.n_layers - 1 if layer is None else layer
    if not 0 <= layer < arch.n_layers:
        raise ValueError(f"there is no layer {layer}; the model has {arch.n_layers}, from 0")
    if pool not in ("mean", "last"):
        raise ValueError(f"pool={pool!r}; choose 'mean' or 'last'")
    prompts = prompts.to(device_of(model))
    parts: list[Tensor] = []
    seen: list[Tensor] = []
    block = model.get_submodule(block_name(arch, layer))
    handle = block.register_forward_hook(lambda _, args, out: seen.append(first_tensor(out)))

    def run(part: slice) -> None:
        some = prompts[torch.arange(part.start, part.stop, device=prompts.tokens.device)]
        seen.clear()
        with evaluating(model):
            call(model, some)
        if pool == "last":
            found = seen[0][torch.arange(len(some)), some.last]
        else:
            real = real_positions(seen[0], some.real)[:, :, None].to(seen[0])
            found = (seen[0] * real).sum(dim=1) / real.sum(dim=1)
        parts.append(found.float().cpu())

    try:
        in_batches(len(prompts), whole("batch_size", batch_size, 1), run)
    finally:
        handle.remove()
    return torch.cat(parts)
