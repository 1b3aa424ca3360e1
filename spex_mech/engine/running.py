"""What every pass needs: evaluation mode, marks on what we put on a model, tensors in outputs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no compiled forwards, then every module as it was again.

    Raises:
        RuntimeError: it was put into training mode within.
    """
    training = [module for module in model.modules() if module.training]
    compiled = [m for m in model.modules() if m._compiled_call_impl is not None]
    calls = [module._compiled_call_impl for module in compiled]
    for module in training:
        module.training = False
    for module in compiled:  # hooks that come after compiling are ignored by it
        module._compiled_call_impl = None
    try:
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


def first_tensor(output: Any) -> Tensor:
    """Of an output, whatever holds it."""
    return next(tensors_in(output))


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
