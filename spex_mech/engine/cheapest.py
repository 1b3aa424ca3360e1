"""``precision="auto"``: the cheapest precision that resolves what a search would report.

What will be reported is not known before the search, so it is guessed from pairs that are drawn:
their interactions are measured in the model's own types, and a cheaper precision is taken if its
noise floor is under the size that one in ten of them exceeds. The strongest pairs of a search are
larger than that. Where few pairs interact, drawn ones say little, and nothing cheaper is taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from spex_mech.engine.derived import Asked, Current
from spex_mech.engine.device import Rows, device_of, float_type_of, is_gpu
from spex_mech.game import no_tick

_PAIRS, _QUANTILE = 32, 0.9
_OWN = "float32"  # the model's own types


@dataclass(frozen=True)
class Choice:
    """A precision, and why it was taken.

    Args:
        why: one sentence.
    """

    precision: str
    why: str


def cheaper_than_float32(device: torch.device, dtype: torch.dtype) -> tuple[str, ...]:
    """What costs less than a model's own types on a device, the cheapest first. On a CPU autocast
    is slower than float32 as often as not; a model in half precision has nothing cheaper, and one
    in float64 stays in it."""
    return ("bfloat16", "tf32") if is_gpu(device) and dtype == torch.float32 else ()


def choose_precision(asked: Asked, cheaper: Sequence[str] | None = None) -> Choice:
    """The cheapest precision whose noise floor is small enough. It costs about a hundred
    evaluations in the model's own types, and some twenty in each precision that is tried.

    Args:
        asked: what the game is of; its own precision does not matter.
        cheaper: what to try, the cheapest first; default: what costs less on its device.

    Raises:
        ValueError: as of a game.
    """
    if cheaper is None:
        device = device_of(asked.model)
        cheaper = cheaper_than_float32(device, float_type_of(asked.model))
        if not cheaper:
            return Choice(_OWN, f"nothing is reliably cheaper on {device} than its own types")
    reported = _typical_size(_in(asked, _OWN))
    told = []
    for precision in cheaper:
        with _in(asked, precision).as_it_is() as derived:
            floor = derived.noise_floor
        if floor < reported:
            return Choice(precision, f"{_floor(precision, floor)} is under {_size(reported)}")
        told.append(_floor(precision, floor))
    return Choice(_OWN, f"{', and '.join(told)}, is not under {_size(reported)}")


def _in(asked: Asked, precision: str) -> Current:
    """The game in a precision; how many rows fit is found out for each."""
    return Current(replace(asked, precision=precision, rows=Rows(asked.rows.limit)))


def _floor(precision: str, floor: float) -> str:
    return f"the noise floor of {precision}, {floor:.2g}"


def _size(reported: float) -> str:
    return f"{reported:.2g}, the size that one in ten of {_PAIRS} drawn pairs exceeds"


def _typical_size(current: Current) -> float:
    """The size that one in ten drawn pairs exceeds; 0 of fewer than two units."""
    n = len(current.asked.components)
    if n < 2:
        return 0.0
    rng = np.random.default_rng(0)
    pairs = np.array([rng.choice(n, 2, replace=False) for _ in range(_PAIRS)])
    nothing = np.full((1, 2), -1)
    alone = np.stack([pairs.ravel(), np.full(pairs.size, -1)], axis=1)
    with current.as_it_is() as derived:
        values = derived.values(np.concatenate([nothing, alone, np.sort(pairs)]), no_tick)
    means = values.mean(axis=1)
    intact, single, both = np.split(means, [1, 1 + pairs.size])
    sizes = abs(both - single.reshape(-1, 2).sum(axis=1) + intact)
    return float(np.quantile(sizes, _QUANTILE))
