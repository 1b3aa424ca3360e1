"""In which floating types a model computes, and what their rounding does to its values.

A model whose weights are float32 may compute in half precision all the same: under an autocast in
its forward, or in one part; and it may round its output and give it in float32. So types are those
that are seen in a pass, and the output's is that in which all its numbers are.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spex_mech.engine.device import narrowest
from spex_mech.engine.running import first_tensor, is_float, ours, with_tensors

_LOOKED_AT, _FEWEST = 4096, 16  # numbers of an output; that are needed to tell its format
_LAST_BIT = 0.2  # the share of them that uses the last bit, where a half format was used
Change = Callable[[Tensor], Tensor]


@contextmanager
def types_seen(model: nn.Module) -> Iterator[set[torch.dtype]]:
    """The floating types that parts of the model give in the passes within."""
    seen: set[torch.dtype] = set()

    def look(module: nn.Module, args: Any, output: Any) -> None:
        if is_float(output):
            seen.add(output.dtype)

    handles = [part.register_forward_hook(ours(look)) for part in _parts_of(model)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def type_of_output(output: Any) -> torch.dtype:
    """The type in which all numbers of an output are, which may be narrower than its own."""
    numbers = first_tensor(output).detach().flatten()
    if not numbers.is_floating_point() or numbers.dtype.itemsize < 4:
        return narrowest([numbers.dtype])
    some = numbers[:: max(1, len(numbers) // _LOOKED_AT)]
    found = (kind for kind in (torch.bfloat16, torch.float16) if _are_of(some, kind))
    return next(found, numbers.dtype)


def _are_of(numbers: Tensor, kind: torch.dtype) -> bool:
    """Whether all are numbers of a half format, and enough use its last bit to show that it is that
    one: halves and small integers do not."""
    known = torch.finfo(kind)
    normal = numbers[numbers.isfinite() & (numbers.abs() >= known.tiny)]
    if len(normal) < _FEWEST:
        return False
    steps = torch.frexp(normal.abs()).mantissa * (2 / known.eps)
    return bool((steps == steps.round()).all() and (steps % 2 == 1).float().mean() > _LAST_BIT)


def eps_of_type(kind: torch.dtype) -> float:
    """One rounding, of 1, in a type; float32's at least, as models in float64 normalise in it."""
    return max(torch.finfo(kind).eps, torch.finfo(torch.float32).eps)


def off_by(eps: float, generator: torch.Generator) -> Change:
    """Puts numbers off by random parts of a rounding."""

    def change(x: Tensor) -> Tensor:
        # In a type that no default of the user's makes coarser than what it rounds.
        part = torch.rand(x.shape, generator=generator, dtype=torch.float32, device="cpu") - 0.5
        return (x * (1 + eps * part.to(x.device))).to(x.dtype)

    return change


@contextmanager
def parts_rounded(model: nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Every part of the model that gives half precision has what it reads and gives put off by
    random parts of a rounding."""

    def reads(module: nn.Module, args: tuple[Any, ...]) -> Any:
        kind = gave.get(module)
        if kind is None:
            return None
        change = off_by(torch.finfo(kind).eps, generator)
        return tuple(change(x) if is_float(x) else x for x in args)

    def gives(module: nn.Module, args: Any, output: Any) -> Any:
        if not is_float(output) or output.dtype.itemsize >= 4:
            return None
        gave[module] = output.dtype
        return off_by(torch.finfo(output.dtype).eps, generator)(output)

    gave: dict[nn.Module, torch.dtype] = {}
    parts = _parts_of(model)
    handles = [part.register_forward_pre_hook(ours(reads)) for part in parts]
    handles += [part.register_forward_hook(ours(gives)) for part in parts]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_first(output: Any, change: Change) -> Any:
    """The output with its first tensor changed; the output itself is left."""
    first = first_tensor(output)
    return with_tensors(output, lambda x: change(x) if x is first else x)


def _parts_of(model: nn.Module) -> list[nn.Module]:
    """The modules that hold no others."""
    return [part for part in model.modules() if next(part.children(), None) is None]
