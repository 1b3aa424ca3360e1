"""Single heads ablated to zero by what others offer: each gives the same numbers, each at its best.

Every peer is a function ``(transformers model, tokens, answers, masks) -> values [mask prompt]``,
where a mask is a list of (layer, head), answers ``[prompt 2]`` a right and a wrong one, and the
value the difference of their logits at the last position.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

import spex_mech as sm

Mask = list[tuple[int, int]]
Peer = Callable[[Any, Tensor, Tensor, list[Mask]], np.ndarray]
ROWS = 128  # of a batch, where a peer takes one


def read(logits: Tensor, answers: Tensor) -> Tensor:
    """Right minus wrong answer's logit, at the last position."""
    both = logits[:, -1].gather(1, answers)
    return both[:, 0] - both[:, 1]


def batches(
    tokens: Tensor, answers: Tensor, masks: list[Mask], n_layers: int, n_heads: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Many masks at a time: the gates [row layer head], tokens and answers of the rows."""
    keep = torch.ones(len(masks), n_layers, n_heads)
    for m, mask in enumerate(masks):
        for layer, head in mask:
            keep[m, layer, head] = 0
    for part in keep.split(max(1, ROWS // len(tokens))):
        gates = part.repeat_interleave(len(tokens), 0)
        yield gates, tokens.repeat(len(part), 1), answers.repeat(len(part), 1)


def by_hand(model: Any, tokens: Tensor, answers: Tensor, masks: list[Mask]) -> np.ndarray:
    """Plain transformers, pre-hooks written by hand, many masks in a batch."""
    layers, n_heads = model.transformer.h, model.config.n_head
    values, gate = [], [torch.empty(0)]

    def hook_for(layer: int) -> Callable[..., Any]:
        def hook(module: Any, args: Any) -> Any:
            g = gate[0][:, layer].to(args[0])
            act = args[0].unflatten(-1, (n_heads, -1)) * g[:, None, :, None]
            return (act.flatten(-2),)

        return hook

    handles = [b.attn.c_proj.register_forward_pre_hook(hook_for(i)) for i, b in enumerate(layers)]
    try:
        with torch.no_grad():
            for gate[0], rows, right in batches(tokens, answers, masks, len(layers), n_heads):
                logits = model(rows, use_cache=False, logits_to_keep=1).logits
                values.append(read(logits, right).reshape(-1, len(tokens)))
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(values).float().cpu().numpy()


@lru_cache
def bridge_of(model: Any) -> Any:
    """TransformerLens's model of the same weights, made once, outside the timing."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return sm.load_model(folder, bridge=True)


def transformer_lens_each(
    model: Any, tokens: Tensor, answers: Tensor, masks: list[Mask]
) -> np.ndarray:
    """run_with_hooks, a mask at a time on all prompts."""
    bridge, values = bridge_of(model), []

    def hook_for(head: int) -> Callable[..., Tensor]:
        def hook(z: Tensor, hook: Any) -> Tensor:
            z[:, :, head] = 0
            return z

        return hook

    for mask in masks:
        hooks = [(f"blocks.{layer}.attn.hook_z", hook_for(head)) for layer, head in mask]
        with torch.no_grad():
            values.append(read(bridge.run_with_hooks(tokens, fwd_hooks=hooks), answers))
    return torch.stack(values).float().cpu().numpy()


def transformer_lens_batched(
    model: Any, tokens: Tensor, answers: Tensor, masks: list[Mask]
) -> np.ndarray:
    """run_with_hooks with a mask a row."""
    bridge, values = bridge_of(model), []
    n_layers, n_heads = bridge.cfg.n_layers, bridge.cfg.n_heads

    def hook_for(gate: Tensor) -> Callable[..., Tensor]:
        return lambda z, hook: z * gate[:, None, :, None]

    for gates, rows, right in batches(tokens, answers, masks, n_layers, n_heads):
        hooks = [
            (f"blocks.{layer}.attn.hook_z", hook_for(gates[:, layer]))
            for layer in range(n_layers)
            if not gates[:, layer].all()
        ]
        with torch.no_grad():
            logits = bridge.run_with_hooks(rows, fwd_hooks=hooks)
        values.append(read(logits, right).reshape(-1, len(tokens)))
    return torch.cat(values).float().cpu().numpy()


def activation_patch(model: Any, tokens: Tensor, answers: Tensor, masks: list[Mask]) -> np.ndarray:
    """transformer_lens.patching.generic_activation_patch, setting a head's z to zero."""
    import pandas as pd
    from transformer_lens import patching

    bridge, values = bridge_of(model), []

    def metric(logits: Tensor) -> Tensor:
        values.append(read(logits, answers))
        return values[-1].mean()

    def zero(z: Tensor, index: Any, cache: Any) -> Tensor:
        z[:, :, index[1]] = 0
        return z

    frame = pd.DataFrame([mask[0] for mask in masks], columns=["layer", "head"])
    cache: Any = {f"blocks.{i}.attn.hook_z": None for i in range(bridge.cfg.n_layers)}
    with torch.no_grad():
        patching.generic_activation_patch(bridge, tokens, cache, metric, zero, "z", index_df=frame)
    return torch.stack(values[-len(masks) :]).float().cpu().numpy()


def captum(
    model: Any, tokens: Tensor, answers: Tensor, masks: list[Mask], at_once: int = 6
) -> np.ndarray:
    """LayerFeatureAblation at the output projection's input, layer by layer (single heads)."""
    from captum.attr import LayerFeatureAblation

    n_heads, width, values = model.config.n_head, model.config.n_embd, {}
    slot = torch.arange(width, device=tokens.device) // (width // n_heads)

    def forward(rows: Tensor) -> Tensor:
        logits = model(rows, use_cache=False, logits_to_keep=1).logits
        return read(logits, answers.repeat(len(rows) // len(answers), 1))

    with torch.no_grad():
        intact = forward(tokens)
        for layer, block in enumerate(model.transformer.h):
            effect = LayerFeatureAblation(forward, block.attn.c_proj).attribute(
                tokens, layer_mask=slot.expand(1, tokens.shape[1], width),
                attribute_to_layer_input=True, perturbations_per_eval=at_once,
            )  # fmt: skip
            for head in range(n_heads):
                values[layer, head] = intact - effect[:, 0, head * (width // n_heads)]
    return torch.stack([values[mask[0]] for mask in masks]).float().cpu().numpy()


def nnsight(model: Any, tokens: Tensor, answers: Tensor, masks: list[Mask]) -> np.ndarray:
    """A trace a mask, which sets a slice of the output projection's input."""
    from nnsight import NNsight

    wrapped, values = NNsight(model), []
    width = model.config.n_embd // model.config.n_head
    with torch.no_grad():
        for ((layer, head),) in masks:
            with wrapped.trace(tokens, use_cache=False, logits_to_keep=1):
                act = wrapped.transformer.h[layer].attn.c_proj.input.clone()
                act[:, :, head * width : (head + 1) * width] = 0
                wrapped.transformer.h[layer].attn.c_proj.input = act
                out = wrapped.output.logits.save()
            values.append(read(out, answers))
    return torch.stack(values).float().cpu().numpy()


def pyvene(model: Any, tokens: Tensor, answers: Tensor, masks: list[Mask]) -> np.ndarray:
    """An IntervenableModel a layer, its zero intervention at each head in turn."""
    import pyvene as pv

    about = {"component": "head_attention_value_output", "unit": "h.pos"}
    about |= {"intervention_type": pv.ZeroIntervention}
    models = [
        pv.IntervenableModel({"layer": layer, **about}, model=model)
        for layer in range(model.config.n_layer)
    ]
    everywhere, values = [list(range(tokens.shape[1]))] * len(tokens), []
    with torch.no_grad():
        for ((layer, head),) in masks:
            where = [[[[head]] * len(tokens), everywhere]]
            _, out = models[layer]({"input_ids": tokens}, unit_locations={"base": where})
            values.append(read(out.logits, answers))
    return torch.stack(values).float().cpu().numpy()


PEERS: dict[str, Peer] = {
    "pre-hooks by hand, batched": by_hand,
    "TransformerLens run_with_hooks, batched": transformer_lens_batched,
    "TransformerLens run_with_hooks, each": transformer_lens_each,
    "TransformerLens generic_activation_patch": activation_patch,
    "captum LayerFeatureAblation": captum,
    "nnsight": nnsight,
    "pyvene": pyvene,
}
