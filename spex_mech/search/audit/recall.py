"""The share of the true top k that was measured, from how often tests at random hit large pairs.

Let ``total(t)`` be how many of all pairs are at least as large as t, and ``measured(t)`` how many
of those were measured. The true top k are the pairs from the smallest t with ``total(t) <= k``, and
the recall is ``measured(t) / k`` there. Of ``total(t)`` the untested part is not known, but
bounded: the tests are a random sample of it, so that the count of large ones has exact
hypergeometric bounds (strata in proportion make them hold more often). An upper bound of the total
gives a lower one of the recall, and the other way round. As both are monotone in t, bounds that
hold at one t suffice for all.

Pairs that are no more than rounding belong to no top: where fewer than k are more, the recall is of
those.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from spex_mech.search.audit.draw import Drawn

_LEVEL = 0.05  # chance that a bound fails, of either end
_FORGIVEN = 1e-9  # of a chance: rounding


@dataclass(frozen=True)
class Recall:
    """An estimate with a 90 % interval.

    Args:
        k: the recall is of the true top so many.
        estimate: NaN where nothing was found.
        low, high: the interval.
    """

    k: int
    estimate: float
    low: float
    high: float


class CountBounds:
    """95 % bounds of how many untested pairs are large, from how many of the tested are.

    Args:
        n_pairs: pairs.
        n_tested: how many of them were tested, at random.
    """

    def __init__(self, n_pairs: int, n_tested: int) -> None:
        self._upper = _upper(n_pairs, n_tested, _LEVEL)
        self._lower = _lower(n_pairs, n_tested, _LEVEL)
        self._each = n_pairs / n_tested

    def upper(self, hits: Int[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
        """At most so many are large, the tested among them."""
        return self._upper[hits]

    def lower(self, hits: Int[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
        """At least so many are."""
        return self._lower[hits]

    def estimate(self, hits: Int[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
        """Each hit stands for as many pairs as its chance says (Horvitz and Thompson)."""
        return hits * self._each


def _upper(n_pairs: int, n_tested: int, level: float) -> Float[np.ndarray, " hits"]:
    """For each number of hits, the largest count with so few hits not too improbable."""
    hits = np.arange(n_tested + 1)
    low, high = hits.astype(np.int64), n_pairs - (n_tested - hits).astype(np.int64)
    while (low < high).any():
        middle = (low + high + 1) // 2
        few = np.tril(chances(n_pairs, middle, n_tested)).sum(axis=1)
        likely = few >= level * (1 - _FORGIVEN)
        low, high = np.where(likely, middle, low), np.where(likely, high, middle - 1)
    return low.astype(np.float64)


def _lower(n_pairs: int, n_tested: int, level: float) -> Float[np.ndarray, " hits"]:
    """For each number of hits, the smallest count with so many hits not too improbable."""
    hits = np.arange(n_tested + 1)
    low, high = hits.astype(np.int64), n_pairs - (n_tested - hits).astype(np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        many = np.triu(chances(n_pairs, middle, n_tested)).sum(axis=1)
        likely = many >= level * (1 - _FORGIVEN)
        low, high = np.where(likely, low, middle + 1), np.where(likely, middle, high)
    return low.astype(np.float64)


def chances(
    n_pairs: int, n_large: Int[np.ndarray, " row"], n_tested: int
) -> Float[np.ndarray, "row hits"]:
    """Of each number of hits among the tests, where so many pairs are large: hypergeometric. Ratios
    of falling factorials, as differences of log-gammas are no numbers for 100 billion pairs, and
    scipy's sums take minutes there."""
    drawn = np.arange(n_tested)
    hits = np.arange(n_tested + 1)
    orders = np.append(0.0, np.cumsum(np.log((n_tested - drawn) / (drawn + 1))))
    large = _log_falling(n_large[:, None] - drawn)
    small = _log_falling((n_pairs - n_large)[:, None] - drawn)
    every = _log_falling(n_pairs - drawn[None])[:, -1]
    return np.exp(orders + large[:, hits] + small[:, n_tested - hits] - every[:, None])


def _log_falling(factors: Int[np.ndarray, "row factor"]) -> Float[np.ndarray, "row count"]:
    """The logarithm of the product of the first 0, 1, 2, ... factors; -inf from a 0 on."""
    logs = np.log(np.maximum(factors, 0.0), where=factors > 0, out=np.full(factors.shape, -np.inf))
    return np.concatenate([np.zeros((len(factors), 1)), np.cumsum(logs, axis=1)], axis=1)


def recall_of_top(
    k: int,
    sizes: Float[np.ndarray, " measured"],
    drawn: Drawn,
    bounds: CountBounds,
    floor: float,
) -> Recall:
    """The recall of the true top k.

    Args:
        sizes: of all measured pairs, the audit's among them.
        floor: what is no larger is rounding.
    """
    ordered = np.sort(sizes[sizes > floor])[::-1]
    if not len(ordered):
        return Recall(k, float("nan"), 0.0, 1.0)
    # Sizes that only rounding parts are one threshold: that of the last of them.
    measured = np.append(np.flatnonzero(ordered[:-1] - ordered[1:] > floor), len(ordered) - 1) + 1
    tested = np.sort(abs(drawn.values))
    hits = drawn.n_tested - np.searchsorted(tested, ordered[measured - 1], side="left")
    # Above the first threshold nothing was measured, and something may be.
    measured, hits = np.append(0, measured), np.append(0, hits)
    before = measured - hits
    totals = [before + bound(hits) for bound in (bounds.upper, bounds.lower, bounds.estimate)]
    low, high, estimate = (_share(k, measured, total) for total in totals)
    k_real = int(max(1, min(k, round(float(totals[2][-1])))))
    estimate = min(max(estimate, low), high)
    return Recall(k_real, estimate, low, high)


def _share(
    k: int, measured: Int[np.ndarray, " threshold"], total: Float[np.ndarray, " threshold"]
) -> float:
    """The recall, were ``total`` how many of all pairs reach each threshold (falling).

    Of ties that reach beyond k any may be called the top, so that as large a share of them counts
    as was measured. Both bounds stay bounds: more pairs before the ties or among them, and the
    share is smaller.
    """
    of = min(float(k), float(total[-1]))
    last = int(np.searchsorted(total, k, side="right")) - 1
    if last < 0:
        return 0.0
    top = float(measured[last])
    if last + 1 < len(total) and measured[last + 1] - measured[last] > 1:
        ties = (measured[last + 1] - measured[last]) / (total[last + 1] - total[last])
        top += (k - float(total[last])) * float(ties)
    return min(1.0, top / of)


def tests_needed(recall: Recall, drawn: Drawn) -> int:
    """About how many tests, drawn evenly, would make the interval narrower than one half, as many
    pairs being missed as the interval allows.

    Without hits, n of N tests leave at most 3 N / n pairs; with them, the count of the missed has a
    standard error of ``sqrt(N missed (1 / n - 1 / N))``. (What so few tests as there were met says
    too little of how many are missed to go by that.)
    """
    n_pairs, half = drawn.n_pairs, recall.k / 2
    without_hits = 3 * n_pairs / half
    missed = max(recall.k * (1 - recall.low), 1.0)
    with_hits = (2 * 1.645 / half) ** 2 * n_pairs * missed
    return int(min(n_pairs, np.ceil(max(without_hits, 1 / (1 / with_hits + 1 / n_pairs)))))
