"""SPEX: adaptive exploration of pairs, exact and close to linear in the number of units.

1. *Single ablations.* Of the units that a pair needs; all n only where units are very uneven and
   there are no gradients (step 2).
2. *Candidates.* With gradients: rows ``s_ij = g_j(N) - g_j(N without i)`` for the units that
   interact most, as slopes at a few random masks say (``gradient_rows``). Without: group tests
   with halving (``group_tests``, ``halving``), or, where a probe shows that units are very uneven,
   pairs by the product of their units' strengths (``strengths``); ``choose`` says which.
3. *Validation*, *higher orders*, *audit*: exact, in rounds (``adaptive``).

With N all units kept, ``I_ij = f(N without i, j) - f(N without i) - f(N without j) + f(N)``; every
reported value is measured. Cost: the budget, by default 4 evaluations per unit and 100 (a gradient
counts 3). It fails where both units of a pair are saturated, so that no slope moves, and neither
has strong partners; a few tests of the audit cannot notice that either, and say so. The
name is that of Kang et al. 2025, whose spectral algorithm estimates another quantity (Fourier
coefficients with half the units gone).
"""

from dataclasses import dataclass, field
from typing import Any

from spex_mech.search.budget import Budget, Context
from spex_mech.search.choose import Way, minimum_without_gradients, without_gradients
from spex_mech.search.contract import GRADIENT_COST
from spex_mech.search.gradient_rows import RowRanker, gradient_rows
from spex_mech.search.ledger import Asking
from spex_mech.search.random_masks import EvaluatedMasks, largest_informative_fraction
from spex_mech.search.rankers import PairRanker
from spex_mech.search.settings import DEFAULTS, SearchSettings
from spex_mech.search.strengths import Strengths

VALIDATED_AT_LEAST = 60  # pairs and audit, without which gradients are no use


@dataclass
class Spex:
    """Candidates from gradient rows, or, without gradients, from group tests.

    Args:
        gradients: whether the game gives gradients (``game.gradient``).
        max_fraction: without gradients, the largest share of units a group test may ablate.
            Default: the largest at which values still vary, which eight masks tell.
    """

    gradients: bool = False
    max_fraction: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    name: str = "spex"
    renumbers: bool = field(default=True, init=False)

    def minimum_budget(self, n: int, settings: SearchSettings = DEFAULTS) -> int:
        if self.gradients:
            return GRADIENT_COST * (1 + settings.min_deep) + VALIDATED_AT_LEAST
        return minimum_without_gradients(n)

    def default_budget(self, n: int) -> int:
        return 4 * n + 100

    def higher_fraction(self, context: Context) -> Asking[float]:
        """The largest share of units for tests of three and more."""
        masks, settings = EvaluatedMasks(context.ledger.n), context.settings
        informative = yield from largest_informative_fraction(
            context, masks, settings.per_share_higher
        )
        self.notes["largest_share_ablated"] = max(self.max_fraction or 0.0, informative)
        return self.notes["largest_share_ablated"]

    def candidates(self, context: Context, budget: Budget) -> Asking[PairRanker]:
        ledger = context.ledger
        if self.gradients:
            rows = yield from gradient_rows(context, budget)
            self.notes |= {"gradient_rows": len(rows.asked), "candidates": "gradient rows"}
            return RowRanker(rows, context.settings)
        way = yield from without_gradients(context, budget, self.max_fraction)
        self.notes |= {"candidates": str(way), "evaluations_of_candidates": ledger.spent}
        main = ledger.main_effects_by_prompt()
        return Strengths(main, exhausted=way is Way.TREE, settings=context.settings)
