"""Interactions of three units and more.

1. Without gradients, a part goes to group tests that find sets whatever their subsets do, if they
   are few (``group_tests.higher_tree``).
2. Strong sets are grown by one unit. With gradients: the gradient without the set predicts how it
   interacts with every other unit. Without: unions of two strong sets that share all but one unit,
   and what the ranker proposes.
3. A share goes to sets of strong units whose subsets are weak.
"""

from collections.abc import Iterator
from itertools import combinations, zip_longest
from math import comb

import numpy as np
from jaxtyping import Float

from spex_mech.masks import MaskBatch, Set
from spex_mech.search.budget import Budget, Context
from spex_mech.search.contract import GRADIENT_COST, Question
from spex_mech.search.group_tests import higher_tree
from spex_mech.search.ledger import Asking, subsets
from spex_mech.search.rankers import CandidateSource, PairRanker

_TREE, _TREE_IF_EXHAUSTED = 0.5, 0.9  # of what one order may spend, for group tests


class HigherOrders:
    """Grows sets, order by order.

    Args:
        context: ledger, randomness and constants.
        order: the largest order.
        source: says whether gradients may be asked for.
        ranker: proposes sets, and has gradients that were asked for already.
    """

    def __init__(
        self, context: Context, order: int, source: CandidateSource, ranker: PairRanker
    ) -> None:
        self._context, self._ledger = context, context.ledger
        self._order, self._source, self._ranker = order, source, ranker

    def run(self, budget: Budget) -> Asking[None]:
        """Measure sets of 3 to ``order`` units."""
        ledger = self._ledger
        if ledger.n <= budget.left // 4:
            yield from ledger.values_of([(u,) for u in range(ledger.n)], "ablating single units")
        slopes = self._ranker.slopes()  # those that are asked for are kept for the next order
        for order in range(3, self._order + 1):
            mine = budget.allot(budget.left // (self._order + 1 - order))
            if not self._source.gradients:
                yield from self._tree(mine, order)
            room = mine.left
            sets = [s for s, _ in ledger.best(len(ledger.interaction)) if len(s) == order - 1]
            if self._source.gradients:
                grown = yield from self._grown_by_gradients(sets, room, slopes)
            else:
                grown = self._grown_by_sharing(sets, order, room)
            proposed = self._ranker.higher_order(order, room // 2)
            grown = list(dict.fromkeys(s for both in _in_turn(proposed, grown) for s in both))
            n_weak = int(self._context.settings.weak_share * room)
            weak = self.weak_sets(order, max(2, n_weak))
            cut = max(1, len(grown) - len(weak))
            wanted = grown[:cut] + weak + grown[cut:]
            yield from ledger.measure(wanted, "higher orders", mine.reserved)

    def fill(self, budget: Budget) -> Asking[None]:
        """Spend what is left on sets of the highest order, and where those are out of reach or all
        measured, of the next lower one."""
        for order in range(self._order, 1, -1):
            wider = 1
            for _ in range(self._context.settings.n_rounds):
                if budget.left < 1:
                    return
                sets = self.weak_sets(order, wider * max(4, budget.left))
                measured = yield from self._ledger.measure(sets, "higher orders", budget.reserved)
                if not measured and sets:
                    break
                wider *= 1 if measured else 4

    def _tree(self, budget: Budget, order: int) -> Asking[None]:
        room, settings = budget.left, self._context.settings
        if room < len(settings.shares) * settings.per_share_higher:  # what the fraction may cost
            return
        fraction = yield from self._source.higher_fraction(self._context)
        share = _TREE_IF_EXHAUSTED if self._ranker.exhausted else _TREE
        yield from higher_tree(self._context, budget.allot(int(share * room)), order, fraction)

    def _grown_by_gradients(
        self, parents: list[Set], room: int, slopes: dict[Set, Float[np.ndarray, " unit"]]
    ) -> Asking[list[Set]]:
        """The gradient without a strong set predicts how it interacts with every other unit."""
        parents = parents[: max(1, room // (4 * GRADIENT_COST))]
        yield from self._ask_slopes(parents, room // 2, slopes)
        predicted: dict[Set, float] = {}
        for s in parents:
            parts = list(subsets(s))
            if any(p not in slopes for p in parts):
                continue
            # A unit's effect is minus its slope: the alternating sum of slopes, negated.
            signs = [(-1) ** (len(s) - len(p)) for p in parts]
            change = -(np.array(signs) @ np.array([slopes[p] for p in parts]))
            for unit in np.argsort(-abs(change))[: 4 * room // max(1, len(parents)) + 8]:
                if unit not in s:
                    grown = tuple(sorted((*s, int(unit))))
                    predicted[grown] = max(predicted.get(grown, 0.0), abs(float(change[unit])))
        return sorted(predicted, key=lambda s: -predicted[s])

    def _ask_slopes(
        self, parents: list[Set], most: int, slopes: dict[Set, Float[np.ndarray, " unit"]]
    ) -> Asking[None]:
        """The gradients without each subset of these sets, for at most so many evaluations."""
        ledger, n_known = self._ledger, len(slopes)
        needed = list(dict.fromkeys(part for s in parents for part in subsets(s)))
        for part in needed:
            if part in slopes:
                continue
            spent = (len(slopes) - n_known) * GRADIENT_COST
            if ledger.spent + GRADIENT_COST > ledger.budget or spent > most:
                return
            without = MaskBatch.of_sets([part], ledger.n)
            answer = yield from ledger.ask(Question(without, gradient=True, stage="higher orders"))
            assert answer.gradients is not None
            ledger.value.setdefault(part, answer.values[0])
            slopes[part] = answer.gradients[0].mean(0)

    def _grown_by_sharing(self, parents: list[Set], order: int, room: int) -> list[Set]:
        """Unions of two strong sets that share all but one unit, strongest first."""
        predicted: dict[Set, float] = {}
        strong = parents[: max(8, int(2 * np.sqrt(max(0, room))))]
        for a, b in combinations(strong, 2):
            union = tuple(sorted({*a, *b}))
            if len(union) == order:
                size = abs(self._ledger.interaction[a] * self._ledger.interaction[b])
                predicted[union] = max(predicted.get(union, 0.0), size)
        return sorted(predicted, key=lambda s: -predicted[s])

    def weak_sets(self, order: int, count: int) -> list[Set]:
        """Sets of strong units, whatever their subsets do: the strongest, and random ones."""
        ledger = self._ledger
        main = np.nan_to_num(abs(ledger.main_effects()))
        ranked = np.argsort(-main, kind="stable")
        n_strong = order
        while comb(n_strong, order) < 4 * count and n_strong < ledger.n:
            n_strong += 1
        sets = [tuple(sorted(int(u) for u in s)) for s in combinations(ranked[:n_strong], order)]
        sets = [s for s in sets if s not in ledger.interaction]
        sets.sort(key=lambda s: -float(np.prod(main[list(s)])))
        first, rest = sets[: count // 2], sets[count // 2 :]
        drawn = self._context.rng.permutation(len(rest))[: count - len(first)]
        return first + [rest[i] for i in drawn]


def _in_turn(first: list[Set], second: list[Set]) -> Iterator[tuple[Set, ...]]:
    """One of each list in turn."""
    for both in zip_longest(first, second):
        yield tuple(s for s in both if s is not None)
