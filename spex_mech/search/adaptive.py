"""What adaptive searches share: a budget, exact validation in rounds, higher orders, an audit.

A source of candidates (SPEX, ProxySPEX) brings candidates; the rest is here, in this order:

1. With a budget for all sets, all sets are measured, and nothing else (``exhaustive``); with one
   for all pairs and a quarter more, where triples are asked for, all pairs and then higher orders.
2. *Candidates*: the source's way to a ranker of untested pairs.
3. *Validation*. Exact pair ablations in order of predicted size, in rounds; what each round
   measured teaches the ranker, which ranks the rest again. Some budget is kept for the next step,
   and what that leaves is spent on pairs again.
4. *Higher orders* (``higher_orders``).
5. *Audit*. Pairs never tested, drawn at random, are tested, with all that is left.
"""

from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Float, Int

from spex_mech.masks import MaskBatch, Set
from spex_mech.search.audit import Audit
from spex_mech.search.audit import audit as audited
from spex_mech.search.budget import Budget, Context
from spex_mech.search.contract import Findings, Question, Search, check_order, count_of_sets
from spex_mech.search.exhaustive import Exhaustive
from spex_mech.search.higher_orders import HigherOrders
from spex_mech.search.ledger import Answer, Asking, Ledger, pair
from spex_mech.search.rankers import CandidateSource, NoRanker, PairRanker
from spex_mech.search.settings import DEFAULTS, SearchSettings

_OWN = 0x5BE7  # with the user's seed: a stream of numbers that nothing else draws from
_ENOUGH_STRONG = 8  # units whose pairs are always candidates


class Adaptive(Search):
    """The strongest interactions among n units, by adaptive exploration.

    Args:
        source: ``Spex`` or ``ProxySpex``.
        n: how many units.
        order: the largest order, 2 by default.
        budget: evaluations; default: the source's (and not more than all sets take).
        seed: of everything random.
        top: how many pairs the audit's recall is about.
        settings: the constants.
        audit: of the budget, the part that is kept for the audit's tests, with single ablations
            that these need; default: 0.03, and 30 to 400 evaluations (less than a tenth of any
            budget).

    Raises:
        ValueError: fewer than two units, or a budget under the minimum (the text states it).
    """

    def __init__(
        self,
        source: CandidateSource,
        n: int,
        order: int = 2,
        budget: int | None = None,
        seed: int = 0,
        top: int = 100,
        settings: SearchSettings = DEFAULTS,
        audit: float | None = None,
    ) -> None:
        check_order(n, order)
        if top < 1:
            raise ValueError(f"top is {top}; the audit's recall is of at least the top 1")
        if audit is not None and not 0 <= audit < 1:
            raise ValueError(f"audit is {audit}; it is a part of the budget, from 0 to less than 1")
        self._audit_share = audit
        self._all_sets = count_of_sets(n, order)
        least = min(self._all_sets, source.minimum_budget(n, settings))
        if budget is not None and budget < least:
            raise ValueError(
                f"a budget of {budget} evaluations is too small: {source.name} needs at least "
                f"{least} for {n} units {'with' if source.gradients else 'without'} gradients"
            )
        self.n, self.order, self.top, self._source = n, order, top, source
        wanted = budget if budget is not None else max(least, source.default_budget(n))
        if budget is None and order > 2 and self._all_sets <= settings.few_sets:
            wanted = self._all_sets
        self.planned = min(wanted, self._all_sets)
        self.ledger = Ledger(n, self.planned)
        # Numbers that no game draws that is made by the same seed: it would decide the ties below.
        rng = np.random.default_rng([_OWN, seed])
        # The steps break ties by the order of units; here that is an order drawn from the seed.
        self._unit = rng.permutation(n) if source.renumbers else np.arange(n)
        self._context = Context(self.ledger, rng, settings)
        self._audit: Audit | None = None
        self._whole: Exhaustive | None = None
        if self.planned == self._all_sets:
            self._whole = Exhaustive(n, order)
            source.notes["candidates"] = "all sets"
            return
        self._steps = self._run()
        self._question: Question | None = self._outside(next(self._steps))

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
        if gradients is not None:
            gradients = gradients[..., self._unit]
        try:
            question = self._steps.send(Answer(values.astype(np.float64), gradients))
            self._question = self._outside(question)
        except StopIteration:
            self._question = None

    def best(self, k: int) -> list[tuple[tuple[int, ...], float]]:
        if self._whole:
            return self._whole.best(k)
        unit = self._unit.tolist()
        return [(tuple(sorted(unit[u] for u in s)), value) for s, value in self.ledger.best(k)]

    def _outside(self, question: Question) -> Question:
        """A question of the steps, with the game's own numbers of the units."""
        rows = _renumbered(question.masks.ablated, self._unit)
        masks = MaskBatch.of_rows(rows, self.n)
        return Question(masks, question.gradient, question.stage)

    def chosen_from(self) -> dict[int, int]:
        return {order: comb(self.n, order) for order in range(2, self.order + 1)}

    def findings(self) -> Findings:
        audited = self._audit.as_dict() if self._audit else None
        if self._whole:
            found = self._whole.findings()
            units, main_effects = found.units, found.main_effects_by_prompt
        else:
            found = self.ledger.findings()
            units = _renumbered(found.units, self._unit)
            main_effects = np.empty_like(found.main_effects_by_prompt)
            main_effects[self._unit] = found.main_effects_by_prompt
        return Findings(
            units,
            found.values,
            main_effects,
            found.intact_by_prompt,
            audited,
            dict(self._source.notes),
        )

    # -- the steps, in order --------------------------------------------------------------------

    def _run(self) -> Asking[None]:
        context, ledger, settings = self._context, self.ledger, self._context.settings
        budget, notes = context.budget, self._source.notes
        if self.order > 2 and budget.left >= settings.all_pairs_factor * count_of_sets(self.n, 2):
            notes["candidates"] = "all pairs"
            yield from self._all_pairs_first()
            return
        n_audit = self._n_audit(budget)
        higher = int(settings.higher_share * budget.left) if self.order > 2 else 0
        # A tested pair may need its single ablations too. A share that is asked for holds them.
        singles = n_audit if self._audit_share is None else 0
        spendable = budget.reserve(n_audit + singles)
        ranker = yield from self._source.candidates(context, spendable.reserve(higher))
        if np.isfinite(ledger.main_effects()).all():
            spendable = budget.reserve(n_audit)
        if self.order > 2 and ranker.exhausted:
            higher = max(higher, int(settings.higher_share_exhausted * spendable.left))
        predicted: dict[Set, float] = {}
        yield from validate(context, spendable.reserve(higher), ranker, predicted)
        if self.order > 2:
            higher_orders = HigherOrders(context, self.order, self._source, ranker)
            yield from higher_orders.run(spendable)
            yield from higher_orders.fill(spendable)
        yield from validate(context, spendable, ranker, predicted)
        sizes = [abs(ledger.interaction[s]) for s in predicted]
        notes["rank_correlation"] = rank_correlation(
            np.array(list(predicted.values())), np.array(sizes)
        )
        # Last, so that what it says is of the result as it stands; it takes all that is left.
        ledger.record_known_pairs()
        self._audit = yield from audited(context, self.top, ranker)
        unknown = [(u,) for u in range(self.n) if not ledger.knows_single(u)]
        yield from ledger.values_of(unknown[: ledger.left], "ablating single units")

    def _n_audit(self, budget: Budget) -> int:
        """Tests that are kept for the audit."""
        settings = self._context.settings
        if self._audit_share is not None:
            return int(self._audit_share * budget.left)
        least = min(settings.min_audit, budget.left // 20)
        return int(np.clip(settings.audit_share * budget.left, least, settings.max_audit))

    def _all_pairs_first(self) -> Asking[None]:
        """Where the budget pays for all pairs: those, and then higher orders."""
        context, ledger = self._context, self.ledger
        yield from ledger.values_of([()], "intact model")
        yield from ledger.measure(list(combinations(range(self.n), 2)), "all pairs")
        higher_orders = HigherOrders(context, self.order, self._source, NoRanker())
        yield from higher_orders.run(context.budget)
        yield from higher_orders.fill(context.budget)


def validate(
    context: Context, budget: Budget, ranker: PairRanker, predicted: dict[Set, float]
) -> Asking[None]:
    """Exact pair ablations, best first, in rounds that teach the next.

    Args:
        predicted: gets what was predicted of each pair before it was measured.
    """
    ledger, settings = context.ledger, context.settings
    for n_round in range(settings.n_rounds):
        room = budget.left
        if room < 1:
            return
        last = n_round == settings.n_rounds - 1
        share = room if last else max(settings.min_round, room // (settings.n_rounds - n_round))
        ranker.fit(ledger)
        wanted = settings.candidates_per_test * (room + share)
        candidates = _pool(ledger, ranker, min(wanted, settings.max_candidates))
        if not len(candidates):
            return
        scores = ranker.score(candidates)
        order = np.argsort(-scores, kind="stable")[: 2 * share]
        best = [pair(int(a), int(b)) for a, b in candidates[order]]
        reserved = budget.allot(share).reserved
        measured = yield from ledger.measure(best, "measuring likely pairs", reserved)
        score_of = dict(zip(best, scores[order].tolist(), strict=True))
        predicted |= {s: score_of[s] for s in measured}


def rank_correlation(a: Float[np.ndarray, " x"], b: Float[np.ndarray, " x"]) -> float | None:
    """Spearman's; None where there are fewer than three, or one side is all alike."""
    from scipy.stats import rankdata

    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def _pool(ledger: Ledger, ranker: PairRanker, count: int) -> Int[np.ndarray, "pair 2"]:
    """Untested pairs worth a look: the strongest predictions, and pairs of strong units."""
    n = ledger.n
    main = np.nan_to_num(abs(ledger.main_effects()))
    count += len(ledger.interaction)  # those are taken out again
    n_strong = max(_ENOUGH_STRONG, int(np.sqrt(2 * count)))
    strong = np.sort(np.argsort(-main, kind="stable")[:n_strong])
    among = strong[np.stack(np.triu_indices(len(strong), 1), axis=1)]
    pool = np.concatenate([ranker.strongest(count), among])
    keys = np.sort(pool[:, 0].astype(np.int64) * n + pool[:, 1])  # faster than np.unique
    keys = keys[np.append(True, np.diff(keys) > 0)]
    known = np.array([s[0] * n + s[1] for s in ledger.interaction if len(s) == 2], dtype=np.int64)
    at = np.searchsorted(keys, known)
    there = at < len(keys)
    there[there] = keys[at[there]] == known[there]
    keys = np.delete(keys, at[there])
    return np.stack([keys // n, keys % n], axis=1)


def _renumbered(
    sets: Int[np.ndarray, "set slot"], unit: Int[np.ndarray, " unit"]
) -> Int[np.ndarray, "set slot"]:
    """Sets of units under other numbers, in ascending order, padded with -1 on the right."""
    numbers = np.append(unit, len(unit))[sets]  # -1 takes the last
    numbers.sort(axis=1)
    return np.where(numbers == len(unit), -1, numbers).astype(sets.dtype)
