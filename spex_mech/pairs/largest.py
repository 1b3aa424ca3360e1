"""The largest of all pairs, found block by block, without a table of all of them."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

_ROUNDING = 1e-12  # of a product against the product of norms that bounds it
_BYTES_PER_PAIR = 8


def largest_products(
    factors: Float[np.ndarray, "unit factor"],
    product: Callable[[np.ndarray, np.ndarray], np.ndarray],
    count: int,
    block_bytes: int,
) -> Int[np.ndarray, "pair 2"]:
    """The pairs of units whose factors have the largest product, block by block.

    Units go by falling norm, and by Cauchy and Schwarz a block whose norms' product is below the
    smallest that is kept, or no more than it but for rounding, can be passed over: where all units
    are alike, one block is enough.

    Args:
        product: of two blocks of factors; bounded by the product of their norms.
        block_bytes: memory of one block of products.
    """
    n = len(factors)
    norms = np.linalg.norm(factors, axis=1)
    order = np.argsort(-norms, kind="stable")
    step = max(1, min(n, int(np.sqrt(block_bytes // _BYTES_PER_PAIR))))
    kept_from = [-1.0]

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for top in range(0, n, step):
            for left in range(top, n, step):
                rows, columns = order[top : top + step], order[left : left + step]
                most = norms[rows[0]] * norms[columns[0]]
                if most <= kept_from[0] * (1 + _ROUNDING):
                    break
                values = product(factors[rows], factors[columns])
                if top == left:
                    values[np.tril_indices(len(rows))] = -1.0
                # Not repeated in memory: only those of the pairs that are kept are read.
                yield (
                    np.broadcast_to(rows[:, None], values.shape),
                    np.broadcast_to(columns, values.shape),
                    values,
                )

    return largest_pairs(blocks(), n, count, kept_from)


def largest_pairs(
    parts: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]],
    n: int,
    count: int,
    kept_from: list[float] | None = None,
) -> Int[np.ndarray, "pair 2"]:
    """The pairs of largest size among parts ``(first units, second units, sizes)``, of one shape
    each, every pair once with its largest size; sizes below zero do not count.

    Args:
        kept_from: told, in its only place, the smallest size that is still among the largest; -1
            while there are fewer.
    """
    keys, sizes = np.empty(0, dtype=np.int64), np.empty(0)
    if count < 1:
        return np.empty((0, 2), dtype=np.int64)
    new: list[tuple[np.ndarray, np.ndarray]] = []
    waiting, floor = 0, 0.0

    def merge() -> None:
        nonlocal keys, sizes, new, waiting, floor
        keys = np.concatenate([keys, *(k for k, _ in new)])
        sizes = np.concatenate([sizes, *(v for _, v in new)])
        order = np.lexsort((keys, -sizes))
        _, first = np.unique(keys[order], return_index=True)
        chosen = order[np.sort(first)][:count]
        keys, sizes, new, waiting = keys[chosen], sizes[chosen], [], 0
        floor = float(sizes[-1]) if len(sizes) == count else 0.0
        if kept_from is not None:
            kept_from[0] = floor if len(sizes) == count else -1.0

    for first, second, values in parts:
        keep = np.flatnonzero(values >= floor)
        sizes_here = values.ravel()[keep]
        if len(keep) > 2 * count:
            largest = np.argpartition(-sizes_here, 2 * count)[: 2 * count]
            keep, sizes_here = keep[largest], sizes_here[largest]
        at = np.unravel_index(keep, values.shape)
        a, b = first[at].astype(np.int64), second[at].astype(np.int64)
        new.append((np.minimum(a, b) * n + np.maximum(a, b), sizes_here.astype(np.float64)))
        waiting += len(keep)
        if waiting > 2 * count:
            merge()
    if new:
        merge()
    return np.stack([keys // n, keys % n], axis=1)
