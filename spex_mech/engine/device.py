"""The one place that knows number types, devices, memory, and what happens when it runs out.

A model computes in a precision (:func:`computing`), on a device (:func:`device_of`). How many rows
a pass takes is one number, which all that runs the model shares (:class:`Rows`): it is found once,
halved when memory runs out, and kept. Host tensors name their device, so that a default device or
type which a user has set changes nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

T = TypeVar("T")

AUTO = "auto"  # of these, the cheapest that resolves what there is
PRECISIONS = ("float32", "tf32", "bfloat16")
# A batch on the CPU: large enough to feed the matrix products, small enough for the caches.
_CPU_TOKENS = 2048
_CPU_BYTES = 256 * 2**20
_CUDA_SHARE = 0.33  # of the free memory; a replay holds more beside it
_TRIED_ROWS = 16
_CPU_KEPT_BYTES = 2 * 2**30  # of activations that are kept for a backward pass
_KEPT = 6  # numbers that are kept for each that a head or neuron is
_BACKWARD = 8  # times the memory of a forward pass that one with gradients needs
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
_FLOAT_TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Rows:
    """How many rows (masks x prompts) a forward pass takes: shared by all that runs one model."""

    limit: int | None = None


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that a replay may hold.

    Args:
        states: the streams that are carried together.
        intact: the intact activations, kept between calls.
        logits: what comes after the last block.
    """

    states: int
    intact: int
    logits: int

    @staticmethod
    def of(device: torch.device) -> "MemoryPlan":
        """Fixed on a CPU, shares of what is free on a GPU."""
        if device.type != "cuda":
            return MemoryPlan(512 * 2**20, 2**30, 16 * 2**20)
        free = torch.cuda.mem_get_info(device)[0]
        return MemoryPlan(int(0.3 * free), int(0.15 * free), int(0.1 * free))


def default_device() -> str:
    """Where a model goes that nobody places: the first GPU, if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def n_gpus() -> int:
    return torch.cuda.device_count()


def is_gpu(device: torch.device) -> bool:
    """Whether it is a GPU of CUDA (or ROCm, which torch calls so)."""
    return device.type == "cuda"


def gpus_of(model: nn.Module) -> list[torch.device]:
    """The GPUs on which a model's weights are, each once."""
    return sorted({p.device for p in model.parameters() if is_gpu(p.device)}, key=str)


def alone(number: int) -> None:
    """Of workers, numbered from 0: one GPU for each; without GPUs one thread, whatever their
    number, as sums of more threads may differ in the last bits."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number % n_gpus())
    else:
        torch.set_num_threads(1)


class GpuMemory:
    """The most memory that torch held on a GPU, from the making of this on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if is_gpu(device):
            torch.cuda.reset_peak_memory_stats(device)

    def most(self) -> float | None:
        """In GB; None on a CPU."""
        return torch.cuda.max_memory_reserved(self.device) / 1e9 if is_gpu(self.device) else None


def device_of(model: nn.Module) -> torch.device:
    """Where the model's inputs go: the device of its first weight that is loaded, or where the
    hooks of accelerate run a module whose weights wait elsewhere."""
    for module in model.modules():
        place = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
        if place is not None:
            return (
                torch.device(place) if not isinstance(place, int) else torch.device("cuda", place)
            )
        for weight in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if weight.device.type != "meta":
                return weight.device
    return torch.device("cpu")


def float_type_of(model: nn.Module) -> torch.dtype:
    """The narrowest floating type among the weights: the one whose rounding shows."""
    return narrowest(p.dtype for p in model.parameters())


def input_type_of(model: nn.Module) -> torch.dtype:
    """The floating type that a model's inputs have: that of its first weight."""
    types = (p.dtype for p in model.parameters() if p.dtype in _FLOAT_TYPES)
    return next(types, torch.float32)


def narrowest(types: Iterable[torch.dtype]) -> torch.dtype:
    """The floating type among these whose rounding shows; float32, where there is none."""
    found = {dtype for dtype in types if dtype in _FLOAT_TYPES}
    return max(found, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def widest(device: torch.device) -> torch.dtype:
    """The widest floating type of a device: float64, but for Apple's, which have none."""
    return torch.float32 if device.type == "mps" else torch.float64


def at_least_float32(x: Tensor) -> Tensor:
    """The same in float32, or as it is where it is wider."""
    return x.float() if x.dtype.itemsize < 4 else x


def check_precision(device: torch.device, precision: str, own: torch.dtype) -> None:
    """Raises:
    ValueError: there is no such precision, or not on this device, or it changes nothing in a model
        of this type.
    """
    if precision not in PRECISIONS:
        choices = ", ".join((*PRECISIONS, AUTO))
        raise ValueError(f"precision={precision!r}; choose one of {choices}")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(
            f"precision='tf32' is of CUDA devices, and the model is on {device}; use "
            "'float32' or 'bfloat16'"
        )
    # Autocast leaves float64 as it is, and mixes float16 with bfloat16.
    if precision != "float32" and own not in (torch.float32, torch.bfloat16):
        name = str(own).removeprefix("torch.")
        raise ValueError(
            f"precision={precision!r} is of models in float32, and this one is in {name}: leave "
            f"precision out to compute in {name}, or load the model in float32"
        )


@contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """The model's passes in a precision. "float32" is the model's own types: an autocast or a TF32
    mode that stands around the call is switched off within."""
    with ExitStack() as stack:
        if device.type == "cuda":
            stack.enter_context(_products_in(precision == "tf32"))
        if precision == "bfloat16":
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        elif torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield


@contextmanager
def _products_in(tf32: bool) -> Iterator[None]:
    """CUDA's products of float32 in TF32, or not."""
    matmul = torch.backends.cuda.matmul
    try:
        name, before, within = "allow_tf32", matmul.allow_tf32, tf32
    except RuntimeError:  # the user has set it by the newer name, and then the older cannot be read
        name, before = "fp32_precision", matmul.fp32_precision
        within = "tf32" if tf32 else "ieee"
    setattr(matmul, name, within)
    try:
        yield
    finally:
        setattr(matmul, name, before)


@contextmanager
def as_the_user(device: torch.device) -> Iterator[None]:
    """A metric in its own types, inside :func:`computing`: without autocast."""
    if not torch.is_autocast_enabled(device.type):
        yield
        return
    # Nested, so that autocast's copies of the weights are kept for the next pass.
    with torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def out_of_inference_mode() -> Iterator[None]:
    """Tensors made within may be used in a gradient, whatever mode stands around the call."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False):
        yield


def is_out_of_memory(error: BaseException) -> bool:
    """Of any device."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(t in text for t in _OUT_OF_MEMORY)


def batches(n_items: int, size: int, run: Callable[[slice], T]) -> Iterator[tuple[int, T]]:
    """Run all items, ``size`` at a time. A part that runs out of memory is asked again in halves;
    what was done is not done again.

    Returns:
        of each part the size that was used by then, and what it gave.
    """
    start = 0
    while start < n_items:
        part = slice(start, min(start + size, n_items))
        done: list[T] = []
        try:
            done.append(run(part))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or part.stop - start == 1:
                raise
        if done:
            start = part.stop
            yield size, done.pop()
            continue
        size = (part.stop - start) // 2
        if torch.cuda.is_available():  # only now: the error held the tensors of the failed pass
            torch.cuda.empty_cache()


def in_batches(n_items: int, size: int, run: Callable[[slice], None]) -> int:
    """The same, of what gives nothing.

    Returns:
        the size that was used at last.
    """
    for used, _ in batches(n_items, size, run):
        size = used
    return size


def rows_on_cpu(n_pos: int, n_outputs: int) -> int:
    """How many rows a pass on a CPU takes."""
    tokens = min(_CPU_TOKENS, _CPU_BYTES // (4 * n_outputs))
    return max(1, tokens // n_pos)


@torch.no_grad()
def rows_that_fit(device: torch.device, run: Callable[[int], None]) -> int:
    """How many rows use a third of a GPU's free memory, by what a few of them use."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run(_TRIED_ROWS)
    per_row = (torch.cuda.max_memory_allocated(device) - before) / _TRIED_ROWS
    free = torch.cuda.mem_get_info(device)[0]
    return max(1, int(_CUDA_SHARE * free / max(per_row, 1)))


def rows_with_gradients(rows: int, device: torch.device, n_numbers: int) -> int:
    """How many rows a pass takes that keeps every activation for a backward pass.

    Args:
        rows: that a pass without takes.
        n_numbers: of a row, that heads and neurons are, at all positions and in all layers.
    """
    if device.type == "cuda":
        return max(1, rows // _BACKWARD)
    return max(1, min(rows, _CPU_KEPT_BYTES // (4 * _KEPT * max(1, n_numbers))))


def on(numbers: Shaped[np.ndarray, "..."], like: Tensor) -> Shaped[Tensor, "..."]:
    """Numbers of the host on a tensor's device, without waiting for it."""
    there = torch.from_numpy(numbers)
    if like.device.type != "cuda":
        return there.to(like.device)
    return there.pin_memory().to(like.device, non_blocking=True)


def first_numbers(n: int, device: Any = "cpu") -> Tensor:
    """0, 1, ..., n - 1."""
    return torch.arange(n, device=device)
