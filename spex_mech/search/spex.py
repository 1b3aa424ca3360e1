"""SPEX: adaptive exploration of pairs, exact and close to linear in the number of units.

1. *Single ablations.* Without gradients, of the units that a pair needs, or all n (step 2). With
   gradients, an attribution over a few gate values (integrated gradients, Sundararajan et al. 2017)
   stands in for those that no row and no pair asks for.
2. *Candidates.* With gradients: rows ``s_ij = g_j(N) - g_j(N without i)`` for the units that matter
   first (``screening``). Without: group tests with halving (``group_tests``), or, where a probe
   shows that units are very uneven, pairs by the product of their units' learned strengths.
3. *Validation.* Exact pair ablations in order of predicted size, in rounds; what each round
   measured re-ranks the rest.
4. *Higher orders.* Triples grown from the strongest pairs: by the gradient without both units, or
   from pairs that share a unit; a part goes to triples of strong units whose pairs are weak.
5. *Audit.* Pairs never tested, drawn at random, are tested; the result states what may be missed.

With N all units kept, ``I_ij = f(N without i, j) - f(N without i) - f(N without j) + f(N)``; every
reported value is measured. Cost: the budget, by default 4 evaluations a unit and 100 (a gradient
counts 3). It fails where both units of a pair are saturated, so that no slope moves, and neither
has strong partners; the audit is there to notice. The name is that of Kang et al. 2025, whose
spectral algorithm estimates another quantity (Fourier coefficients with half the units gone).
"""

from collections.abc import Sequence
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Float

from spex_mech.search.audit import Audit, audit
from spex_mech.search.group_tests import Candidates, probe_groups, split, tree
from spex_mech.search.ledger import Answer, Asking, Ledger, Set, pair, subsets
from spex_mech.search.question import GRADIENT_COST, Findings, Question, check_order
from spex_mech.search.screening import Recalibration, Rows, Strengths, size

_LEVELS = (0.75, 0.5, 0.25, 0.0)  # gates of the attribution
_FIRST_ROWS = 32
_ROWS_AT_A_TIME = 16
_ROUNDS = 6
_SHARE_ROWS = 0.4
_MOST_CANDIDATES = 300_000
_MOST_ROW_ENTRIES = 100_000_000  # 0.8 GB of rows
_SHARE_AUDIT = 0.03
_SHARE_HIGHER = 0.25
_LEAST_AUDIT, _MOST_AUDIT = 30, 400
_UNEVEN = 5.0  # energy of pairs of strong units over that of random pairs


class Spex:
    """The strongest interactions among n units, by adaptive exploration.

    Args:
        n: how many units.
        order: the largest order, 2 by default.
        budget: evaluations; default 4 a unit and 100 (and not more than all sets take).
        seed: of everything random.
        gradients: whether the game gives gradients (``game.gradient``).
        gates: whether its gradient takes gates between 0 and 1, not only masks.
        top: how many pairs the audit's recall is about.
        groups: the group of each unit (layers); predictions are corrected by pair of groups.
        max_fraction: without gradients, the largest share of units a group test may ablate.

    Raises:
        ValueError: fewer than two units, or a budget under the minimum (the text states it).
    """

    def __init__(
        self,
        n: int,
        order: int = 2,
        budget: int | None = None,
        seed: int = 0,
        gradients: bool = False,
        gates: bool = False,
        top: int = 100,
        max_fraction: float = 0.15,
        groups: Sequence[int] | None = None,
    ) -> None:
        check_order(n, order)
        if top < 1:
            raise ValueError(f"top is {top}; the audit's recall is of at least the top 1")
        least = minimum_budget(n, gradients, order)
        if budget is not None and budget < least:
            raise ValueError(
                f"a budget of {budget} evaluations is too small: spex needs at least {least} for "
                f"{n} units {'with' if gradients else 'without'} gradients"
            )
        self.n, self.order, self.gradients, self.top = n, order, gradients, top
        self._all_sets = _count_of_sets(n, order)
        wanted = budget if budget is not None else max(least, 4 * n + 100)
        self.planned = min(wanted, self._all_sets)
        self.ledger = Ledger(n, self.planned)
        self._rng = np.random.default_rng(seed)
        self._max_fraction = max_fraction
        self._levels = _LEVELS if gates else ()
        self._rows: Rows | None = None
        self._groups = None if groups is None else np.array(groups, dtype=np.int64)
        self._notes: dict[str, object] = {}
        self._audit: Audit | None = None
        self._steps = self._run()
        self._question: Question | None = next(self._steps)

    def ask(self) -> Question | None:
        return self._question

    def tell(
        self,
        values: Float[np.ndarray, "mask prompt"],
        gradients: Float[np.ndarray, "mask block unit"] | None = None,
    ) -> None:
        try:
            self._question = self._steps.send(Answer(values.astype(np.float64), gradients))
        except StopIteration:
            self._question = None

    def best(self, k: int) -> list[tuple[tuple[int, ...], float]]:
        return self.ledger.best(k)

    def findings(self) -> Findings:
        found = self.ledger.findings()
        audited = self._audit.as_dict() if self._audit else None
        return Findings(
            found.units, found.values, found.main_effects, found.intact, audited, self._notes
        )

    # -- the steps, in order --------------------------------------------------------------------

    def _run(self) -> Asking[None]:
        ledger, n = self.ledger, self.n
        if ledger.budget >= self._all_sets:
            yield from ledger.values_of([()], "intact model")
            for size in range(2, self.order + 1):
                yield from ledger.measure(list(combinations(range(n), size)), f"sets of {size}")
            return
        if self.order > 2 and ledger.budget >= 1.25 * _count_of_sets(n, 2):
            yield from ledger.values_of([()], "intact model")
            yield from ledger.measure(list(combinations(range(n), 2)), "all pairs")
            yield from self._higher_orders(0)
            yield from self._fill(0)
            return
        n_audit = int(np.clip(_SHARE_AUDIT * ledger.budget, _LEAST_AUDIT, _MOST_AUDIT))
        n_audit = min(n_audit, ledger.budget // 5)
        higher = int(_SHARE_HIGHER * ledger.budget) if self.order > 2 else 0
        keep = 2 * n_audit  # an audited pair may need its singles too
        if self.gradients:
            recalibration = yield from self._by_gradients(keep + higher)
        else:
            recalibration = yield from self._without_gradients(keep + higher)
        if self.order > 2:
            yield from self._higher_orders(keep)
            yield from self._fill(keep)
        yield from self._validate(recalibration, keep)
        # Last, so that what it says is of the result as it stands; it takes all that is left.
        ledger.record_known_pairs()
        predicted = bool(recalibration.rows.asked)
        self._audit = yield from audit(ledger, self._rng, self.top, recalibration.score, predicted)
        unknown = [(u,) for u in range(n) if not ledger.knows_single(u)]
        yield from ledger.values_of(unknown[: ledger.left], "single ablations")

    def _by_gradients(self, keep: int) -> Asking[Recalibration]:
        ledger, n = self.ledger, self.n
        rows = self._rows = yield from self._attribution()
        # A row brings its unit's single ablation with it. Asking for all singles first was tried:
        # it ranks the rows better, but costs more than it saves.
        n_rows = int(max(4, _SHARE_ROWS * (ledger.left - keep) / GRADIENT_COST))
        n_rows = min(n, n_rows, max(4, _MOST_ROW_ENTRIES // n))
        while len(rows.asked) < n_rows:
            step = min(_ROWS_AT_A_TIME if rows.asked else _FIRST_ROWS, n_rows - len(rows.asked))
            yield from self._ask_rows(rows, rows.next_rows(step))
        recalibration = Recalibration(rows, np.ones(n), self._groups)
        self._notes |= {"gradient_rows": len(rows.asked), "candidates": "gradient rows"}
        yield from self._validate(recalibration, keep)
        return recalibration

    def _attribution(self) -> Asking[Rows]:
        """The slopes at the intact model, and what a few gate values tell of each unit."""
        ledger, n = self.ledger, self.n
        nothing = np.empty((1, 0), dtype=np.int64)
        answer = yield from ledger.ask(Question(nothing, gradient=True, stage="intact model"))
        assert answer.gradients is not None
        ledger.value[()] = answer.values[0]
        slopes = [answer.gradients[0]]
        everything = np.arange(n)[None]
        for level in self._levels:
            question = Question(everything, gradient=True, gate=level, stage="attribution")
            answer = yield from ledger.ask(question)
            assert answer.gradients is not None
            slopes.append(answer.gradients[0])
        if not self._levels:
            return Rows(slopes[0], groups=self._groups)
        # Trapezoid rule along the diagonal from kept to ablated; and how soon slopes change.
        weights = np.array([0.5, *[1.0] * (len(_LEVELS) - 1), 0.5]) / len(_LEVELS)
        path = np.tensordot(weights, np.array(slopes), axes=1)
        changes = [size(slope - slopes[0]) for slope in slopes[1:3]]
        features = [size(path) + 0.5 * size(slopes[0]), size(path), *changes]
        return Rows(slopes[0], features, self._groups)

    def _ask_rows(self, rows: Rows, units: list[int]) -> Asking[None]:
        at = np.array(units)[:, None]
        answer = yield from self.ledger.ask(Question(at, gradient=True, stage="gradient rows"))
        assert answer.gradients is not None
        for unit, value, gradient in zip(units, answer.values, answer.gradients, strict=True):
            self.ledger.value[(unit,)] = value
            rows.add(unit, gradient)

    def _without_gradients(self, keep: int) -> Asking[Recalibration]:
        """Group tests for a sparse truth or an even tail, products for uneven units."""
        ledger, n = self.ledger, self.n
        yield from ledger.values_of([()], "intact model")
        until = ledger.budget - keep - max(8, (ledger.left - keep) // 25)
        table = yield from probe_groups(ledger, self._rng, until, self._max_fraction)
        found: Candidates = {}
        if table is not None:
            way = "group tests (tree)"
            found = yield from tree(ledger, self._rng, table, until, self._max_fraction)
        elif (yield from self._is_uneven(until)):
            way = "products of strengths"
            yield from self._by_strengths(keep)
        else:
            way = "group tests (split)"
            found = yield from split(ledger, self._rng, until)
        ranked = sorted(found, key=lambda s: -abs(found[s]))
        yield from ledger.measure(ranked, "validating", keep)
        self._notes |= {"candidates": way, "evaluations_of_candidates": ledger.spent}
        strength = np.nan_to_num(abs(self._main_effects()))
        return Recalibration(Rows(np.zeros((1, n))), strength, self._groups)

    def _is_uneven(self, until: int) -> Asking[bool]:
        """Whether pairs of strong units hold far more energy than pairs drawn at random."""
        ledger, n = self.ledger, self.n
        if until - ledger.spent < 1.2 * n:
            return False  # exact singles would take most of the budget
        yield from ledger.values_of([(u,) for u in range(n)], "single ablations")
        count = int(np.clip((until - ledger.spent) // 10, 24, 200))
        strong = Strengths(abs(self._main_effects())).strongest(count, ledger.interaction)
        drawn = np.sort(self._rng.integers(0, n, (2 * count, 2)), axis=1)
        others = [pair(int(a), int(b)) for a, b in drawn if a != b][:count]
        means = []
        for sets in (strong, others):
            measured = yield from ledger.measure(sets, "probing pairs", ledger.budget - until)
            sizes = [ledger.interaction[s] ** 2 for s in measured]
            means.append(float(np.mean(sizes)) if sizes else 0.0)
        return means[0] > _UNEVEN * means[1]

    def _by_strengths(self, keep: int) -> Asking[None]:
        ledger = self.ledger
        strengths = Strengths(abs(self._main_effects()))
        room = ledger.left - keep
        while ledger.left > keep:
            strengths.fit(ledger.interaction)
            step = min(max(40, room // 12), ledger.left - keep)
            best = strengths.strongest(step, ledger.interaction)
            if not best:
                return
            yield from ledger.measure(best, "validating", keep)

    def _validate(self, recalibration: Recalibration, keep: int) -> Asking[None]:
        """Exact pair ablations, best first, in rounds that teach the next."""
        ledger = self.ledger
        rows = recalibration.rows
        for n_round in range(_ROUNDS):
            room = ledger.left - keep
            if room < 1:
                return
            share = room if n_round == _ROUNDS - 1 else max(40, room // (_ROUNDS - n_round))
            recalibration.fit(ledger.interaction)
            candidates = self._pool(rows, min(20 * (room + share), _MOST_CANDIDATES))
            if not len(candidates):
                return
            order = np.argsort(-recalibration.score(candidates), kind="stable")
            best = [pair(int(a), int(b)) for a, b in candidates[order[: 2 * share]]]
            yield from ledger.measure(best, "validating", keep=keep + max(0, room - share))

    def _pool(self, rows: Rows, count: int) -> np.ndarray:
        """Untested pairs worth a look: the strongest predictions, and pairs of strong units."""
        n = self.n
        main = np.nan_to_num(abs(self._main_effects()))
        count += len(self.ledger.interaction)  # those are taken out again
        n_strong = max(8, int(np.sqrt(2 * count)))
        strong = np.sort(np.argsort(-main, kind="stable")[:n_strong])
        among = strong[np.stack(np.triu_indices(len(strong), 1), axis=1)]
        pool = np.concatenate([rows.strongest(count), among])
        keys = np.unique(pool[:, 0].astype(np.int64) * n + pool[:, 1])
        known = [a * n + b for a, b in (s for s in self.ledger.interaction if len(s) == 2)]
        keys = np.setdiff1d(keys, np.array(known, dtype=np.int64))
        return np.stack([keys // n, keys % n], axis=1)

    def _higher_orders(self, keep: int) -> Asking[None]:
        """Grow sets by one unit, order by order."""
        ledger = self.ledger
        if self.n <= (ledger.left - keep) // 4:
            yield from ledger.values_of([(u,) for u in range(self.n)], "single ablations")
        for order in range(3, self.order + 1):
            room = (ledger.left - keep) // (self.order + 1 - order)
            stop = ledger.left - room
            parents = [s for s, _ in ledger.best(len(ledger.interaction)) if len(s) == order - 1]
            if self.gradients:
                grown = yield from self._grown_by_gradients(parents, room)
            else:
                grown = self._grown_by_sharing(parents, order, room)
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

    def _grown_by_gradients(self, parents: list[Set], room: int) -> Asking[list[Set]]:
        """The gradient without a strong set predicts how it interacts with every other unit."""
        ledger = self.ledger
        parents = parents[: max(1, room // (4 * GRADIENT_COST))]
        needed = list(dict.fromkeys(part for s in parents for part in subsets(s)))
        slopes: dict[Set, np.ndarray] = self._rows.slopes() if self._rows else {}
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
        main = np.nan_to_num(abs(self._main_effects()))
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

    def _main_effects(self) -> Float[np.ndarray, " unit"]:
        main = np.full(self.n, np.nan)
        for s in self.ledger.value:
            if len(s) == 1:
                main[s[0]] = self.ledger.main_effect(s[0])
        return main


def minimum_budget(n: int, gradients: bool, order: int = 2) -> int:
    """The evaluations without which the search cannot begin."""
    enough = GRADIENT_COST * (1 + len(_LEVELS)) + 60 if gradients else min(n, 500) + 200
    return min(_count_of_sets(n, order), enough)


def _count_of_sets(n: int, order: int) -> int:
    """Evaluations that all interactions up to an order take."""
    return sum(comb(n, size) for size in range(order + 1))
