"""Attention patterns: which positions each head reads from, with and without other units.

The weights are read where the model computes them, in one plain pass. transformers' faster
attention functions do not return them, so that pass runs the "eager" function; it must give what
the model gives without it.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spex_mech.engine.architectures import is_hooked
from spex_mech.engine.components import Component, Components
from spex_mech.engine.discovery import block_of, handed_out
from spex_mech.engine.plain import Setup
from spex_mech.engine.running import first_tensor
from spex_mech.engine.sites import Key, Place

_CURE = "its attention patterns cannot be read here"
# By how much outputs of two attention functions may be off, of their size.
_NEAR, _ROUNDINGS = 1e-3, 30


def patterns_of(
    setup: Setup,
    places: Mapping[Key, Place],
    heads: Components,
    prompt: int,
    ablated: Sequence[int],
) -> Float[np.ndarray, "head query key"]:
    """The attention weights of heads on one prompt.

    Args:
        places: where heads are read, by kind and layer.
        prompt: its number.
        ablated: the numbers of the units that are ablated meanwhile.

    Raises:
        ValueError: one that is no head, heads whose patterns have unlike shapes, or weights that
            cannot be seen.
    """
    units = [unit for unit in heads if isinstance(unit, Component) and unit.kind == "head"]
    if len(units) < len(heads):
        other = next(str(unit) for unit in heads if unit not in units)
        raise ValueError(f"{other} is no attention head, and has no attention pattern")
    model = setup.taps.model
    keep = torch.ones(1, setup.n_units + 1, dtype=torch.bool, device="cpu")
    keep[0, list(ablated)] = False
    row = torch.tensor([prompt], device="cpu")
    seen: dict[str, list[Tensor]] = {}
    watching = _hooked_weights if is_hooked(model) else _function_weights
    with torch.no_grad(), setup.taps.installed():
        own = setup.taps.run(setup.some_prompts(row), setup.hooks(keep, row))
        with watching(model, seen):
            watched = setup.taps.run(setup.some_prompts(row), setup.hooks(keep, row))
    _check_same(first_tensor(own), first_tensor(watched), setup.float_type, model)
    found = []
    for unit in units:
        weights = _at(places["head", unit.layer], seen, model)
        n_heads = setup.architecture.count("head", unit.layer)
        if len(weights) != n_heads:
            raise ValueError(f"{unit}: {len(weights)} patterns were seen for {n_heads} heads")
        found.append(weights[unit.index])
    for unit, weights in zip(units, found, strict=True):
        if weights.shape != found[0].shape:
            shapes = (f"{n_query} x {n_key}" for n_query, n_key in (found[0].shape, weights.shape))
            raise ValueError(
                f"{units[0]} and {unit} have patterns of unlike shapes, {' and '.join(shapes)} "
                "positions; ask for each by itself"
            )
    return torch.stack(found).numpy()


def _check_same(own: Tensor, watched: Tensor, float_type: torch.dtype, model: Any) -> None:
    """Raises:
    ValueError: the pass whose weights were seen is another one than the model's own.
    """
    own, watched = (x.detach().double().nan_to_num() for x in (own, watched))
    near = max(_NEAR, _ROUNDINGS * torch.finfo(float_type).eps)
    if (off := float(abs(own - watched).max() / max(float(abs(own).max()), 1e-30))) > near:
        raise ValueError(
            f"the attention function of this {type(model).__name__} is another one than "
            f'transformers\' "eager", which shows its weights: outputs differ by {off:.2g} of '
            f"their size; {_CURE}"
        )


def _at(place: Place, seen: dict[str, list[Tensor]], model: Any) -> Float[Tensor, "head query key"]:
    """The weights of the attention whose heads a place reads: the nearest of its block by name."""
    near = {name: _shared(name, place.name) for name in seen if _of_one_block(name, place.name)}
    nearest = [name for name in near if near[name] == max(near.values())]
    if len(nearest) != 1 or near[nearest[0]] == 0:
        raise ValueError(
            f"{type(model).__name__} computes its attention by itself at {place.name}, and not by "
            f"one of transformers' attention functions: {_CURE}"
        )
    calls = seen[nearest[0]]
    if place.call >= len(calls) or calls[place.call].ndim != 4 or len(calls[place.call]) != 1:
        raise ValueError(f"{nearest[0]} gave no weights [row head query key]: {_CURE}")
    return calls[place.call][0].float().cpu()


def _of_one_block(attention: str, read: str) -> bool:
    """Whether an attention stands in the block of a place that is read, also where blocks lie in
    blocks: every number in its name is in the other's too."""
    parts = attention.split(".")
    n_numbered = max((at + 1 for at, part in enumerate(parts) if part.isdecimal()), default=0)
    return (
        block_of(attention) == block_of(read) and parts[:n_numbered] == read.split(".")[:n_numbered]
    )


def _shared(one: str, other: str) -> int:
    """How many parts of two dotted names are the same from the left, as far as the block."""
    n = 0
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if a != b:
            break
        n += 1
    return n


@contextmanager
def _function_weights(model: Any, seen: dict[str, list[Tensor]]) -> Iterator[None]:
    """Keeps the weights of every attention function that transformers hands out."""
    names = {id(module): name for name, module in model.named_modules()}
    thread = threading.get_ident()

    def around(function: Any, *args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        module = args[0] if args else kwargs.get("module")
        weights = result[1] if isinstance(result, tuple) and len(result) > 1 else None
        if threading.get_ident() == thread and isinstance(weights, Tensor):
            seen.setdefault(names.get(id(module), ""), []).append(weights.detach())
        return result

    with _eager(model), handed_out(around):
        yield


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """The model's own attention function, which returns its weights; then what it had."""
    configs = [m.config for m in model.modules() if "config" in vars(m)]
    for config in configs:  # a config's parts follow it, and are restored after it
        parts = [getattr(config, name, None) for name in getattr(config, "sub_configs", ())]
        configs.extend(part for part in parts if part is not None)
    had = [(config, getattr(config, "_attn_implementation", None)) for config in configs]
    try:
        for config, name in had:
            if name is not None:
                config._attn_implementation = "eager"
        yield
    finally:
        for config, name in had:
            if name is not None:
                config._attn_implementation = name


@contextmanager
def _hooked_weights(model: Any, seen: dict[str, list[Tensor]]) -> Iterator[None]:
    """Keeps what passes TransformerLens's ``hook_pattern``."""

    def keeping(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen.setdefault(name, []).append(output.detach())

        return hook

    with ExitStack() as stack:
        for name, point in model.hook_dict.items():
            if name.endswith(".hook_pattern"):
                handle = point.register_forward_hook(keeping(name.removesuffix(".hook_pattern")))
                stack.callback(handle.remove)
        yield
