"""The energy missed: the sum of squared interactions of the pairs that stay untested."""

import numpy as np
from jaxtyping import Float

from spex_mech.search.audit.draw import Drawn

_LEVEL = 0.05  # chance that the bound fails


def energy_missed(drawn: Drawn) -> tuple[float, float]:
    """An estimate, and what the energy is at least (95 %).

    The estimate is that of Horvitz and Thompson: a tested pair stands for ``N / n`` pairs, itself
    among them. The bound is Anderson's (1969) for the mean of what is never negative: the true
    distribution lies within ``sqrt(log(1 / level) / 2 n)`` of the sample's (Dvoretzky, Kiefer,
    Wolfowitz; Massart), and in the worst case the largest of the sample are what it overstates. An
    upper bound there cannot be: pairs that no test met may hold any energy.
    """
    squares = drawn.values**2
    estimate = float(squares.mean()) * (drawn.n_pairs - drawn.n_tested)
    of_all = drawn.n_pairs * mean_at_least(squares, _LEVEL)
    return estimate, max(0.0, of_all - float(squares.sum()))


def mean_at_least(values: Float[np.ndarray, " value"], level: float) -> float:
    """A lower bound of the mean of a distribution of values that are never negative.

    >>> mean_at_least(np.ones(50), 0.05)  # 1 - sqrt(log(20) / 100)
    0.826...
    """
    n = len(values)
    ordered = np.sort(values)
    above = (n - np.arange(n)) / n  # the share of the sample that is at least the i-th
    sure = np.maximum(0.0, above - np.sqrt(np.log(1 / level) / (2 * n)))
    return float((np.diff(ordered, prepend=0.0) * sure).sum())
