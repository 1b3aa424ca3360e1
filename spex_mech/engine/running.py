"""What every pass needs: evaluation mode, marks on what we put on a model, tensors in outputs."""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no compiled forwards, then every module as it was again.

    Raises:
        RuntimeError: it was put into training mode within.
    """
    modules = [*model.modules()]
    training = [module for module in modules if module.training]
    compiled = [m for m in modules if m._compiled_call_impl is not None]
    calls = [module._compiled_call_impl for module in compiled]
    for module in training:
        module.training = False
    for module in compiled:  # hooks that come after compiling are ignored by it
        module._compiled_call_impl = None
    try:
        with _nothing_compiled(modules):
            yield
        if any(module.training for module in model.modules()):
            raise RuntimeError(
                "the training mode changed while the game was running the model, so that its "
                "values are of neither; let nothing change the model during a call, and ask again"
            )
    finally:
        for module in training:
            module.training = True
        for module, impl in zip(compiled, calls, strict=True):
            module._compiled_call_impl = impl


@contextmanager
def _nothing_compiled(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Blocks and forwards that were compiled one by one run as they were written: hooks that come
    after compiling are ignored by some of them, and make others compile again and again."""
    library = sys.modules.get("torch._dynamo")
    if library is None or not any(_is_compiled(module) for module in modules):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _is_compiled(module: nn.Module) -> bool:
    own = vars(module)
    return "_orig_mod" in own.get("_modules", {}) or "_torchdynamo_orig_callable" in vars(
        own.get("forward", module)
    )


def ours(function: Callable[..., Any], had: Any = None) -> Callable[..., Any]:
    """Marks what this package puts on a model for the time of a call.

    Args:
        had: what stood there before.
    """
    function.spex_mech_had = had  # type: ignore[attr-defined]
    return function


def is_ours(function: Any) -> bool:
    """Whether this package put it there."""
    return hasattr(function, "spex_mech_had")


def one_line(error: BaseException) -> str:
    """What an error says, in short."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}"[:300]


def logits_in(output: Any) -> Tensor | None:
    """What an output calls its logits, by attribute or key, or a tensor itself; None: nothing."""
    if isinstance(output, Tensor):
        return output
    by_key = output.get("logits") if isinstance(output, Mapping) else None
    logits = getattr(output, "logits", by_key)
    return logits if isinstance(logits, Tensor) else None


def first_tensor(output: Any) -> Tensor:
    """Of an output, whatever holds it: its logits, where something is called so.

    Raises:
        ValueError: it holds none.
    """
    logits = logits_in(output)
    first = next(tensors_in(output), None) if logits is None else logits
    if first is None:
        raise ValueError(
            f"the model returned {type(output).__name__}, in which no tensor is found; wrap it in "
            "a module that returns a tensor, or a tuple, list, dict or dataclass that holds some"
        )
    return first


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Every tensor in an output, in the order in which it holds them."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_in(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors_in(value)
    elif is_dataclass(output):
        for part in fields(output):
            yield from tensors_in(getattr(output, part.name))


def with_tensors(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The output with every tensor changed; the output itself is left."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, Mapping):
        new: Any = copy.copy(output)
        for key in output:
            new[key] = with_tensors(output[key], change)
        return new
    if isinstance(output, list | tuple):
        parts = [with_tensors(part, change) for part in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    if is_dataclass(output):
        new = copy.copy(output)
        for part in fields(output):  # also of one that is frozen
            value = with_tensors(getattr(output, part.name), change)
            object.__setattr__(new, part.name, value)
        return new
    return output


def is_float(value: Any) -> bool:
    """Whether it is a tensor of floating numbers."""
    return isinstance(value, Tensor) and value.is_floating_point()
