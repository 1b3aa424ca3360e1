"""The demo model with planted backups: two heads that do the same."""

from typing import Any

import torch

import spex_mech as sm


def demo_with_backup(head: int, spare: int, layer: int = 1) -> Any:
    """Head ``spare`` becomes a copy of ``head`` in the same layer, and both outputs are halved.

    Together they do exactly what the head did. Alone each still does half, which is enough: the
    right token stays far ahead, so that the log-probability hardly falls (it saturates). Only
    without both the model fails. That is what makes them backups of one another.
    """
    model = sm.load_model("demo")
    plant_backup(model, head, spare, layer)
    return model


def plant_backup(model: Any, head: int, spare: int, layer: int, strength: float = 0.5) -> None:
    """In this GPT-2, ``spare`` becomes a copy of ``head``, and each does it so strongly: 0.5 is
    half of what the head did, from 1 on each alone is enough, and its loss costs next to nothing.
    """
    attention = model.transformer.h[layer].attn
    width, d_head = attention.embed_dim, attention.head_dim
    to, of = (slice(h * d_head, (h + 1) * d_head) for h in (spare, head))
    with torch.no_grad():
        for part in range(3):  # queries, keys, values
            at = part * width
            for tensor in (attention.c_attn.weight, attention.c_attn.bias):
                tensor[..., at + to.start : at + to.stop] = tensor[
                    ..., at + of.start : at + of.stop
                ]
        attention.c_proj.weight[of] *= strength
        attention.c_proj.weight[to] = attention.c_proj.weight[of]
