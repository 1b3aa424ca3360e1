"""Batches that shrink when memory runs out."""

from collections.abc import Callable

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Of any device."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        "DefaultCPUAllocator" in text or "out of memory" in text
    )


def in_batches(n_items: int, size: int, run: Callable[[slice], None]) -> int:
    """Run all items, ``size`` at a time. A part that runs out of memory is asked again in halves;
    what was done is not done again.

    Returns:
        the size that was used at last.
    """
    start = 0
    while start < n_items:
        part = slice(start, min(start + size, n_items))
        try:
            run(part)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or part.stop - start == 1:
                raise
            size = (part.stop - start) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        start = part.stop
    return size
