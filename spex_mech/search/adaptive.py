"""What adaptive searches share: a budget, exact validation in rounds, higher orders, an audit.

A strategy (SPEX, ProxySPEX) brings candidates; the rest is here, in this order:

1. With a budget for all sets, all sets are measured, and nothing else (``exhaustive``); with one
   for all pairs and a quarter more, where triples are asked for, all pairs and then higher orders.
2. *Candidates*: the strategy's way to a ``Screen``, which ranks untested pairs.
3. *Validation*. Exact pair ablations in order of predicted size, in rounds; what each round
   measured teaches the screen, which ranks the rest again. Some budget is kept for the next step,
   and what that leaves is spent on pairs again.
4. *Higher orders*. With gradients, grown from the strongest pairs by the gradient without both
   units. Without, half goes to group tests that find sets whatever their subsets do, if they are
   few; the rest to what the screen predicts and to unions of strong pairs that share a unit. A
   tenth goes to sets of strong units whose pairs are weak.
5. *Audit*. Pairs never tested, drawn at random, are tested, with all that is left.
"""

from collections.abc import Iterator
from itertools import combinations, zip_longest
from math import comb
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from spex_mech.search.audit import Audit, audit
from spex_mech.search.contract import GRADIENT_COST, Findings, Question, check_order
from spex_mech.search.exhaustive import Exhaustive
from spex_mech.search.group_tests import higher_tree
from spex_mech.search.ledger import Answer, Asking, Ledger, Set, pair, subsets

_ROUNDS = 12
_MOST_CANDIDATES = 300_000
_SHARE_AUDIT = 0.03
_SHARE_HIGHER = 0.25
_SHARE_HIGHER_IF_COMPLETE = 0.8
_LEAST_AUDIT, _MOST_AUDIT = 30, 400


@runtime_checkable
class Screen(Protocol):
    """Predicted sizes of pairs that were not measured."""

    @property
    def informed(self) -> bool:
        """Whether scores mean anything; without, the audit has one stratum."""
        ...

    @property
    def complete(self) -> bool:
        """Whether the strong pairs are thought to be measured already."""
        ...

    def fit(self, ledger: Ledger) -> None:
        """Learn from all that was measured so far."""
        ...

    def strongest(self, count: int) -> Int[np.ndarray, "pair 2"]:
        """About so many pairs of largest prediction, measured ones among them."""
        ...

    def score(self, pairs: Int[np.ndarray, "pair 2"]) -> Float[np.ndarray, " pair"]:
        """Predicted log-size, up to a constant."""
        ...

    def slopes(self) -> dict[Set, Float[np.ndarray, " unit"]]:
        """The gradients known, by what was ablated; empty where there are none."""
        ...

    def larger(self, order: int, count: int) -> list[Set]:
        """About so many sets of this many units that are predicted to interact; none by default."""
        ...


class Unscreened:
    """Nothing is predicted: what a screen is before anything was learned."""

    informed = complete = False

    def fit(self, ledger: Ledger) -> None:
        pass

    def strongest(self, count: int) -> Int[np.ndarray, "pair 2"]:
        return np.empty((0, 2), dtype=np.int64)

    def score(self, pairs: Int[np.ndarray, "pair 2"]) -> Float[np.ndarray, " pair"]:
        return np.zeros(len(pairs))

    def slopes(self) -> dict[Set, Float[np.ndarray, " unit"]]:
        return {}

    def larger(self, order: int, count: int) -> list[Set]:
        return []


@runtime_checkable
class Strategy(Protocol):
    """How candidates are found: what tells one adaptive search from another."""

    name: str
    gradients: bool  # whether it asks for gradients
    notes: dict[str, Any]  # what the result should state of it

    def minimum_budget(self, n: int) -> int:
        """The evaluations without which it cannot begin."""
        ...

    def default_budget(self, n: int) -> int:
        """The evaluations that it takes where none are said."""
        ...

    def candidates(self, ledger: Ledger, rng: np.random.Generator, keep: int) -> Asking[Screen]:
        """Find out what predicts pairs, and leave at least ``keep`` of the budget."""
        ...

    def higher_fraction(self, ledger: Ledger, rng: np.random.Generator) -> Asking[float]:
        """Without gradients, the largest share of units that a test of higher order may ablate."""
        ...


class Adaptive:
    """The strongest interactions among n units, by adaptive exploration.

    Args:
        strategy: ``Spex`` or ``ProxySpex``.
        n: how many units.
        order: the largest order, 2 by default.
        budget: evaluations; default: the strategy's (and not more than all sets take).
        seed: of everything random.
        top: how many pairs the audit's recall is about.

    Raises:
        ValueError: fewer than two units, or a budget under the minimum (the text states it).
    """

    def __init__(
        self,
        strategy: Strategy,
        n: int,
        order: int = 2,
        budget: int | None = None,
        seed: int = 0,
        top: int = 100,
    ) -> None:
        check_order(n, order)
        if top < 1:
            raise ValueError(f"top is {top}; the audit's recall is of at least the top 1")
        self._all_sets = _count_of_sets(n, order)
        least = min(self._all_sets, strategy.minimum_budget(n))
        if budget is not None and budget < least:
            raise ValueError(
                f"a budget of {budget} evaluations is too small: {strategy.name} needs at least "
                f"{least} for {n} units {'with' if strategy.gradients else 'without'} gradients"
            )
        self.n, self.order, self.top, self._strategy = n, order, top, strategy
        wanted = budget if budget is not None else max(least, strategy.default_budget(n))
        self.planned = min(wanted, self._all_sets)
        self.ledger = Ledger(n, self.planned)
        self._rng = np.random.default_rng(seed)
        self._audit: Audit | None = None
        self._whole: Exhaustive | None = None
        if self.planned == self._all_sets:
            self._whole = Exhaustive(n, order)
            strategy.notes["candidates"] = "all sets"
            return
        self._steps = self._run()
        self._question: Question | None = next(self._steps)

    def ask(self) -> Question | None:
        return self._whole.ask() if self._whole else self._question

    def tell(
        self,
        values: Float[np.ndarray, "mask prompt"],
        gradients: Float[np.ndarray, "mask block unit"] | None = None,
    ) -> None:
        if self._whole:
            self._whole.tell(values)
            return
        try:
            self._question = self._steps.send(Answer(values.astype(np.float64), gradients))
        except StopIteration:
            self._question = None

    def best(self, k: int) -> list[tuple[tuple[int, ...], float]]:
        return self._whole.best(k) if self._whole else self.ledger.best(k)

    def findings(self) -> Findings:
        found = self._whole.findings() if self._whole else self.ledger.findings()
        audited = self._audit.as_dict() if self._audit else None
        return Findings(
            found.units,
            found.values,
            found.main_effects_by_prompt,
            found.intact_by_prompt,
            audited,
            dict(self._strategy.notes),
        )

    # -- the steps, in order --------------------------------------------------------------------

    def _run(self) -> Asking[None]:
        ledger, n = self.ledger, self.n
        if self.order > 2 and ledger.budget >= 1.25 * _count_of_sets(n, 2):
            self._strategy.notes["candidates"] = "all pairs"
            yield from ledger.values_of([()], "intact model")
            yield from ledger.measure(list(combinations(range(n), 2)), "all pairs")
            yield from self._higher_orders(0, Unscreened())
            yield from self._fill(0)
            return
        least = min(_LEAST_AUDIT, ledger.budget // 20)
        n_audit = int(np.clip(_SHARE_AUDIT * ledger.budget, least, _MOST_AUDIT))
        higher = int(_SHARE_HIGHER * ledger.budget) if self.order > 2 else 0
        keep = 2 * n_audit  # an audited pair may need its singles too
        screen = yield from self._strategy.candidates(ledger, self._rng, keep + higher)
        if np.isfinite(ledger.main_effects()).all():
            keep = n_audit
        if self.order > 2 and screen.complete:
            higher = max(higher, int(_SHARE_HIGHER_IF_COMPLETE * (ledger.left - keep)))
        predicted: dict[Set, float] = {}
        yield from validate(ledger, screen, keep + higher, predicted)
        if self.order > 2:
            yield from self._higher_orders(keep, screen)
            yield from self._fill(keep)
        yield from validate(ledger, screen, keep, predicted)
        sizes = [abs(ledger.interaction[s]) for s in predicted]
        correlation = rank_correlation(np.array(list(predicted.values())), np.array(sizes))
        self._strategy.notes["rank_correlation"] = correlation
        # Last, so that what it says is of the result as it stands; it takes all that is left.
        ledger.record_known_pairs()
        self._audit = yield from audit(ledger, self._rng, self.top, screen.score, screen.informed)
        unknown = [(u,) for u in range(n) if not ledger.knows_single(u)]
        yield from ledger.values_of(unknown[: ledger.left], "single ablations")

    def _higher_orders(self, keep: int, screen: Screen) -> Asking[None]:
        """Grow sets by one unit, order by order."""
        ledger = self.ledger
        if self.n <= (ledger.left - keep) // 4:
            yield from ledger.values_of([(u,) for u in range(self.n)], "single ablations")
        slopes = screen.slopes()  # those that are asked for are kept for the next order
        for order in range(3, self.order + 1):
            room = (ledger.left - keep) // (self.order + 1 - order)
            stop = ledger.left - room
            if not self._strategy.gradients:
                fraction = yield from self._strategy.higher_fraction(ledger, self._rng)
                until = ledger.spent + int((0.9 if screen.complete else 0.5) * room)
                yield from higher_tree(ledger, self._rng, order, until, fraction)
                room = ledger.left - stop
            parents = [s for s, _ in ledger.best(len(ledger.interaction)) if len(s) == order - 1]
            if self._strategy.gradients:
                grown = yield from self._grown_by_gradients(parents, room, slopes)
            else:
                grown = self._grown_by_sharing(parents, order, room)
            guessed = screen.larger(order, room // 2)
            grown = list(dict.fromkeys(s for both in _in_turn(guessed, grown) for s in both))
            weak = self._weak_sets(order, max(2, room // 10))
            cut = max(1, len(grown) - len(weak))
            yield from ledger.measure(grown[:cut] + weak + grown[cut:], "higher orders", stop)

    def _fill(self, keep: int) -> Asking[None]:
        """Spend what is left on sets of the highest order."""
        ledger = self.ledger
        for _ in range(_ROUNDS):
            sets = self._weak_sets(self.order, max(4, ledger.left - keep))
            if not sets or not (yield from ledger.measure(sets, "higher orders", keep)):
                return

    def _grown_by_gradients(
        self, parents: list[Set], room: int, slopes: dict[Set, Float[np.ndarray, " unit"]]
    ) -> Asking[list[Set]]:
        """The gradient without a strong set predicts how it interacts with every other unit."""
        ledger = self.ledger
        parents = parents[: max(1, room // (4 * GRADIENT_COST))]
        needed = list(dict.fromkeys(part for s in parents for part in subsets(s)))
        n_known = len(slopes)
        for part in needed:
            if part in slopes:
                continue
            if (
                ledger.spent + GRADIENT_COST > ledger.budget
                or (len(slopes) - n_known) * GRADIENT_COST > room // 2
            ):
                break
            at = np.array([part], dtype=np.int64).reshape(1, len(part))
            answer = yield from ledger.ask(Question(at, gradient=True, stage="higher orders"))
            assert answer.gradients is not None
            ledger.value.setdefault(part, answer.values[0])
            slopes[part] = answer.gradients[0].mean(0)
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

    def _grown_by_sharing(self, parents: list[Set], order: int, room: int) -> list[Set]:
        """Unions of two strong sets that share all but one unit, strongest first."""
        predicted: dict[Set, float] = {}
        strong = parents[: max(8, int(2 * np.sqrt(room)))]
        for a, b in combinations(strong, 2):
            union = tuple(sorted({*a, *b}))
            if len(union) == order:
                size = abs(self.ledger.interaction[a] * self.ledger.interaction[b])
                predicted[union] = max(predicted.get(union, 0.0), size)
        return sorted(predicted, key=lambda s: -predicted[s])

    def _weak_sets(self, order: int, count: int) -> list[Set]:
        """Sets of strong units, whatever their subsets do: the strongest, and random ones."""
        main = np.nan_to_num(abs(self.ledger.main_effects()))
        ranked = np.argsort(-main, kind="stable")
        n_strong = order
        while comb(n_strong, order) < 4 * count and n_strong < self.n:
            n_strong += 1
        sets = [tuple(sorted(int(u) for u in s)) for s in combinations(ranked[:n_strong], order)]
        sets = [s for s in sets if s not in self.ledger.interaction]
        sets.sort(key=lambda s: -float(np.prod(main[list(s)])))
        first, rest = sets[: count // 2], sets[count // 2 :]
        drawn = self._rng.permutation(len(rest))[: count - len(first)]
        return first + [rest[i] for i in drawn]


def _in_turn(first: list[Set], second: list[Set]) -> Iterator[tuple[Set, ...]]:
    """One of each list in turn."""
    for pair_of_sets in zip_longest(first, second):
        yield tuple(s for s in pair_of_sets if s is not None)


def validate(
    ledger: Ledger, screen: Screen, keep: int, predicted: dict[Set, float]
) -> Asking[None]:
    """Exact pair ablations, best first, in rounds that teach the next.

    Args:
        predicted: is told what was predicted of each pair before it was measured.
    """
    for n_round in range(_ROUNDS):
        room = ledger.left - keep
        if room < 1:
            return
        share = room if n_round == _ROUNDS - 1 else max(40, room // (_ROUNDS - n_round))
        screen.fit(ledger)
        candidates = _pool(ledger, screen, min(20 * (room + share), _MOST_CANDIDATES))
        if not len(candidates):
            return
        scores = screen.score(candidates)
        order = np.argsort(-scores, kind="stable")[: 2 * share]
        best = [pair(int(a), int(b)) for a, b in candidates[order]]
        measured = yield from ledger.measure(best, "validating", keep + max(0, room - share))
        of_pair = dict(zip(best, scores[order].tolist(), strict=True))
        predicted |= {s: of_pair[s] for s in measured}


def rank_correlation(a: Float[np.ndarray, " x"], b: Float[np.ndarray, " x"]) -> float | None:
    """Spearman's; None where there are fewer than three, or one side is all alike."""
    from scipy.stats import rankdata

    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _pool(ledger: Ledger, screen: Screen, count: int) -> Int[np.ndarray, "pair 2"]:
    """Untested pairs worth a look: the strongest predictions, and pairs of strong units."""
    n = ledger.n
    main = np.nan_to_num(abs(ledger.main_effects()))
    count += len(ledger.interaction)  # those are taken out again
    n_strong = max(8, int(np.sqrt(2 * count)))
    strong = np.sort(np.argsort(-main, kind="stable")[:n_strong])
    among = strong[np.stack(np.triu_indices(len(strong), 1), axis=1)]
    pool = np.concatenate([screen.strongest(count), among])
    keys = np.unique(pool[:, 0].astype(np.int64) * n + pool[:, 1])
    known = [a * n + b for a, b in (s for s in ledger.interaction if len(s) == 2)]
    keys = np.setdiff1d(keys, np.array(known, dtype=np.int64))
    return np.stack([keys // n, keys % n], axis=1)


def _count_of_sets(n: int, order: int) -> int:
    """Evaluations that all interactions up to an order take."""
    return sum(comb(n, size) for size in range(order + 1))
