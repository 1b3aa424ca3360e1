"""What may be said of a measured interaction.

Three things are kept apart, wherever a result is shown:

- **resolved**: the value is larger than what rounding and repetition can make (the noise floor);
- **significant**: the prompts agree on it, beyond chance and beyond having been chosen (q at most
  0.05);
- **confirmed**: it has the same sign and is significant again on other prompts.

Only what is resolved and significant is given a reading (AND-like, OR-like). A result of a single
prompt, or of a function with one value per mask, has no q. There a pair is given a reading only if
it stands out from the others: a function that is nothing but noise has interactions of some size
everywhere, and its largest one says nothing.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

SIGNIFICANT = 0.05  # the largest q that is called significant
NOT_SIGNIFICANT, TOO_FEW = "not significant", "too few prompts"
NO_STANDOUT, ONE_VALUE = "does not stand out", "a single value"
# What the median tells of a normal distribution's spread: its size there, and how many values of a
# standard deviation it is worth as much as (its asymptotic efficiency).
_MEDIAN_OF_SIZES, _EFFICIENCY = 0.6745, 0.37


def floors_of(
    noise_floor: float, orders: Int[np.ndarray, " interaction"]
) -> Float[np.ndarray, " interaction"]:
    """The noise floor of interactions of so many units: that of a pair, and twice as much for each
    unit more, whose alternating sum has twice as many terms."""
    return noise_floor * 2.0 ** (orders - 2)


def is_significant(
    is_noise: Bool[np.ndarray, " interaction"], q_value: Float[np.ndarray, " interaction"]
) -> Bool[np.ndarray, " interaction"]:
    """True where an interaction is resolved and significant over the prompts."""
    with np.errstate(invalid="ignore"):
        return ~is_noise & (q_value <= SIGNIFICANT)


def verdicts(
    readings: Sequence[str],
    is_noise: Bool[np.ndarray, " interaction"],
    is_finding: Bool[np.ndarray, " interaction"],
    q_value: Float[np.ndarray, " interaction"],
    n_prompts: int,
    n_measured: int,
) -> list[str]:
    """The reading of each interaction that may be given one, and of each other one why not."""
    words = []
    for reading, noise, finding, q in zip(readings, is_noise, is_finding, q_value, strict=True):
        if noise or finding:
            words.append(reading)
        elif n_prompts < 2:
            words.append(NO_STANDOUT if n_measured > 1 else ONE_VALUE)
        else:
            words.append(TOO_FEW if np.isnan(q) else NOT_SIGNIFICANT)
    return words


def stand_out(
    sizes: Float[np.ndarray, " row"], floor: Float[np.ndarray, " row"]
) -> Bool[np.ndarray, " row"]:
    """True for sizes that are too large to belong to the distribution of the others.

    Each is compared with the median of the others, as a value of Student's t with as many degrees
    of freedom as that median is worth, at 0.05 for all of them together (Bonferroni). A size
    beside others that are all at or below the ``floor`` stands out; a single one never does.
    """
    from scipy.special import stdtr

    n = len(sizes)
    if n < 2:
        return np.zeros(n, dtype=bool)
    ranked = np.sort(sizes)
    rank = np.searchsorted(ranked, sizes)
    middle = (n - 1) // 2  # of the n - 1 others; the upper one of two middles
    of_others = np.where(rank <= middle, ranked[np.minimum(middle + 1, n - 1)], ranked[middle])
    spread = of_others / _MEDIAN_OF_SIZES
    t = np.divide(sizes, spread, out=np.full(n, np.inf), where=spread > 0)
    p = 2 * stdtr(max(1.0, _EFFICIENCY * (n - 1)), -t)
    return (sizes > floor) & ((of_others <= floor) | (n * p <= SIGNIFICANT))


def stand_out_by_order(
    sizes: Float[np.ndarray, " row"],
    floor: Float[np.ndarray, " row"],
    order: Int[np.ndarray, " row"],
) -> Bool[np.ndarray, " row"]:
    """The same, each row among the others of its order."""
    out = np.zeros(len(sizes), dtype=bool)
    for size in np.unique(order):
        rows = order == size
        out[rows] = stand_out(sizes[rows], floor[rows])
    return out
