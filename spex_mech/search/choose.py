"""Which way to take without gradients: group tests for a sparse truth or a dense tail, products of
strengths for uneven units.

Cases, in the order in which they are tried:

==============================  ===================  =============================================
what is seen                    way                  why
==============================  ===================  =============================================
few units, and the budget pays  products of          compiled ``and2`` (31 units): 0.62 of the top
for a large part of all pairs,  strengths            50 by group tests, all of them this way.
and of the first pairs not                           **Fitted** to such programs, and so is 64;
most are nothing                                     they are no test of this rule. It costs 0.09
                                                     of the recall over a dense tail of 50 units
                                                     (``benchmarks/sensitivity.py``).
few cells of a table hold       group tests (tree)   3,000 units with 60 pairs: 0.95 and more at
anything                                             2 evaluations per unit
of few units nothing of that    products of          nine kinds of pair games, 4 evaluations per
                                strengths            unit: 0.37 of the top 15 of 35 units and 0.34
                                                     of 60, in place of 0.35 and 0.31
pairs of strong units hold far  products of          the 260K story model: 0.76 of the top 100 at
more than random pairs          strengths            4 evaluations per unit
otherwise                       group tests (split)  400 units, 20 pairs of 30 times the tail: 0.95
                                                     at 15 evaluations per unit
==============================  ===================  =============================================
"""

from enum import StrEnum

import numpy as np

from spex_mech.search.budget import Budget, Context
from spex_mech.search.group_tests import Candidates, probe_groups, tree
from spex_mech.search.halving import split
from spex_mech.search.ledger import Asking, pair
from spex_mech.search.random_masks import EvaluatedMasks, largest_informative_fraction
from spex_mech.search.strengths import Strengths


class Way(StrEnum):
    """How candidates are found without gradients."""

    PRODUCTS = "products of strengths"
    TREE = "group tests (tree)"  # the way that leaves nothing strong behind
    SPLIT = "group tests (split)"


def minimum_without_gradients(n: int) -> int:
    """Evaluations without which nothing can be found where there are no gradients: the single
    ablations of most units, and a table of groups."""
    return min(n, 500) + min(max(n, 80), 200)


def without_gradients(context: Context, budget: Budget, max_fraction: float | None) -> Asking[Way]:
    """Find candidates and measure them.

    Args:
        max_fraction: of the units, that a group test may ablate; None: the largest at which values
            still vary, which eight masks tell where there are more tests than those that choose
            the way. (These ablate a sixteenth.)

    Returns:
        the way that was taken; what it found is in the ledger.
    """
    ledger = context.ledger
    yield from ledger.values_of([()], "intact model")
    if (yield from _first_pairs_are_something(context, budget)):
        return Way.PRODUCTS
    tests = budget.reserve(max(8, budget.left // 25))  # the rest measures what they find
    least = min(context.settings.shares)
    table = yield from probe_groups(context, tests, max_fraction or least)
    if table is None and (yield from _is_uneven(context, tests)):
        return Way.PRODUCTS
    if max_fraction is None:
        masks, per_share = EvaluatedMasks(ledger.n), context.settings.per_share
        max_fraction = yield from largest_informative_fraction(context, masks, per_share)
    found: Candidates
    if table is not None:
        way = Way.TREE
        found = yield from tree(context, tests, table, max_fraction)
    else:
        way = Way.SPLIT
        found = yield from split(context, tests, max_fraction)
    ranked = sorted(found, key=lambda s: -abs(found[s]))
    yield from ledger.measure(ranked, "measuring likely pairs", budget.reserved)
    return way


def _first_pairs_are_something(context: Context, budget: Budget) -> Asking[bool]:
    """Of few units, whether so large a part of so few pairs can be measured that tests of groups
    do not pay; unless, of the first pairs, three in four hold nothing."""
    ledger, settings, n = context.ledger, context.settings, context.ledger.n
    many = budget.left - n > settings.large_part * n * (n - 1) / 2
    if n > settings.few_units or not many:
        return False
    yield from ledger.values_of([(u,) for u in range(n)], "ablating single units")
    main = ledger.main_effects_by_prompt()
    strongest = Strengths(main, settings=settings).strongest(settings.first_pairs)
    first = [pair(int(a), int(b)) for a, b in strongest]
    measured = yield from ledger.measure(first, "measuring likely pairs", budget.reserved)
    sizes = [abs(ledger.interaction[s]) for s in measured]
    typical = np.quantile(sizes, settings.first_quantile)
    return bool(typical > settings.nothing * abs(main).max())


def _is_uneven(context: Context, budget: Budget) -> Asking[bool]:
    """Whether pairs of strong units typically hold far more energy than pairs drawn at random:
    medians, as one strong pair among those probed says nothing of the others. Of few units it is
    supposed, as such a comparison would take most of what is left."""
    ledger, rng, settings = context.ledger, context.rng, context.settings
    n = ledger.n
    if budget.left < min(1.05 * n + settings.first_pairs, 1.5 * n):
        return False  # exact singles would take all of the budget; of few units, most of it
    yield from ledger.values_of([(u,) for u in range(n)], "ablating single units")
    if n <= settings.few_units:
        return True
    wanted = int(settings.probe_share * budget.left)
    count = int(np.clip(wanted, settings.min_probe_pairs, settings.max_probe_pairs))
    strengths = Strengths(ledger.main_effects_by_prompt(), settings=settings)
    strong = [pair(int(a), int(b)) for a, b in strengths.strongest(count)]
    drawn = np.sort(rng.integers(0, n, (2 * count, 2)), axis=1)
    others = [pair(int(a), int(b)) for a, b in drawn if a != b][:count]
    typical = []
    for sets in (strong, others):
        measured = yield from ledger.measure(sets, "testing pairs", budget.reserved)
        sizes = [ledger.interaction[s] ** 2 for s in measured]
        typical.append(float(np.median(sizes)) if sizes else 0.0)
    return typical[0] > settings.uneven_ratio * typical[1]
