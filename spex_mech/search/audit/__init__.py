"""The audit: what may have been missed, by pairs drawn at random among those never tested.

It comes last, with all of the budget that is left, and rests on its tests alone: on chances that
are known because the audit made them, not on what a search predicts of pairs. So it holds however
wrong predictions are, and it says so where a few tests cannot tell.

1. ``draw``: untested pairs at random, each with the same chance, in proportion from the strata in
   which predictions mean different things.
2. ``recall``: the share of the true top k that was measured, with a 90 % interval by exact bounds
   of hypergeometric counts. Where the interval is wider than one half, the audit cannot tell.
3. ``energy``: an estimate of the sum of squares missed, and a lower bound of it. There is no upper
   bound: a few pairs that no test met may hold any energy.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from spex_mech.search.audit.draw import Drawn, draw
from spex_mech.search.audit.energy import energy_missed
from spex_mech.search.audit.recall import CountBounds, Recall, recall_of_top, tests_needed
from spex_mech.search.budget import Context
from spex_mech.search.ledger import Asking
from spex_mech.search.rankers import PairRanker
from spex_mech.search.resolution import Resolution

__all__ = ["Audit", "audit"]

_WIDEST = 0.5  # of an interval of recall that still tells something


@dataclass(frozen=True)
class Audit:
    """What is known of the pairs that were not tested.

    Args:
        n_tested: pairs that the audit tested.
        n_untested: pairs that stay untested.
        k: the recall is of the true top so many (fewer, where fewer pairs are more than rounding).
        recall: estimated share of the true top k that was measured; NaN where nothing was found.
        recall_low, recall_high: its 90 % interval, by the tests alone.
        recall_by_tests: the same as ``recall_low``, under the name that earlier versions had for a
            bound by the tests alone.
        cannot_tell: whether the interval is wider than one half, or nothing was found.
        tests_needed: about how many tests would make it narrower than that, as many pairs being
            missed as the interval allows.
        nothing_found: whether all that was measured is no more than rounding.
        largest_tested: the largest size that the audit's own tests met, and
        n_larger: at most so many of the untested pairs are larger than that (95 %).
        energy_missed, energy_low: sum of squares of the untested pairs: an estimate, and what it is
            at least (95 %).
        energy_high: infinite, as no number of tests bounds what they did not meet.
        energy_found: of the pairs that were measured.
    """

    n_tested: int
    n_untested: int
    k: int
    recall: float
    recall_low: float
    recall_high: float
    recall_by_tests: float
    cannot_tell: bool
    tests_needed: int
    nothing_found: bool
    largest_tested: float
    n_larger: int
    energy_missed: float
    energy_low: float
    energy_high: float
    energy_found: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def audit(context: Context, k: int, ranker: PairRanker) -> Asking[Audit | None]:
    """Test untested pairs at random with all of the budget that is left.

    Args:
        k: the recall is of the true top so many.
        ranker: says which pairs are predicted to be large, and what the predictions are made of.

    Returns:
        None where no pair is left untested, or no test could be paid for.
    """
    ledger = context.ledger
    drawn = yield from draw(context, ranker)
    if drawn is None:
        return None
    resolution = Resolution()
    resolution.see(np.array(list(ledger.value.values())))
    sizes = np.array([abs(v) for s, v in ledger.interaction.items() if len(s) == 2])
    bounds = CountBounds(drawn.n_pairs, drawn.n_tested)
    recall = recall_of_top(k, sizes, drawn, bounds, resolution.floor)
    missed, at_least = energy_missed(drawn)
    return _stated(drawn, bounds, recall, missed, at_least, sizes)


def _stated(
    drawn: Drawn,
    bounds: CountBounds,
    recall: Recall,
    missed: float,
    at_least: float,
    sizes: np.ndarray,
) -> Audit:
    n_tested = drawn.n_tested
    nothing = bool(np.isnan(recall.estimate))
    return Audit(
        n_tested=n_tested,
        n_untested=drawn.n_pairs - n_tested,
        k=recall.k,
        recall=recall.estimate,
        recall_low=recall.low,
        recall_high=recall.high,
        recall_by_tests=recall.low,
        cannot_tell=nothing or recall.high - recall.low >= _WIDEST,
        tests_needed=tests_needed(recall, drawn),
        nothing_found=nothing,
        largest_tested=float(abs(drawn.values).max()),
        n_larger=int(bounds.upper(np.zeros(1, dtype=np.int64))[0]),
        energy_missed=missed,
        energy_low=at_least,
        energy_high=float("inf"),
        energy_found=float((sizes**2).sum()),
    )
