"""ProxySPEX: a small distilled model ranks interactions, the large one confirms them.

1. *Sizes.* Two masks each of several sizes tell how much may be ablated before the metric stops
   telling masks apart.
2. *Masks to learn from*, of random sizes up to that (near the intact model, where interactions are
   defined), or pairs of complements that ablate half of the units each. Some are held out. A proxy
   that reads slopes gets gradient rows as SPEX asks for them; one that learns from the search
   itself (``distilled``) gets without gradients what group tests or single ablations tell; one that
   was searched already (a student model) gets a few, for its scale; any other gets a share of the
   budget, the later parts where it is least sure.
3. *Distil*: the proxy is fitted; its R² on the held-out masks is part of the result, and so is the
   rank correlation of predicted with confirmed sizes, as predicted before they were measured.
4. *Rank and confirm*, *higher orders*, *audit* (``adaptive``); what each round measured teaches
   the proxy again.

Costs the budget, by default 2 evaluations per unit with gradients, 4 without, 1 for a student (and
100). The name
and the idea of a proxy are those of Butler et al. 2025 (arXiv 2505.17495), whose proxy is boosted
trees (``trees``) on masks of half of the units, and who confirm nothing. What was learned here:
near the intact model of a dense game, random masks tell little of any pair (a mask of a tenth of
900 units holds 4,000 pairs), so that a budget is better spent on rows of slopes, or where there are
none, on measuring the pairs of units that proved strong.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.masks import Set
from spex_mech.pairs.gradient_rows import GradientRows
from spex_mech.proxy import Proxy, name_of
from spex_mech.search.budget import Budget, Context
from spex_mech.search.choose import Way, minimum_without_gradients, without_gradients
from spex_mech.search.contract import GRADIENT_COST
from spex_mech.search.gradient_rows import RowRanker, gradient_rows
from spex_mech.search.ledger import Asking, Ledger
from spex_mech.search.random_masks import (
    LEDGER_ORDER,
    MOST_SLOTS,
    EvaluatedMasks,
    complementary_masks,
    largest_informative_fraction,
)
from spex_mech.search.rankers import PairRanker
from spex_mech.search.settings import DEFAULTS, SearchSettings
from spex_mech.search.spex import VALIDATED_AT_LEAST
from spex_mech.search.strengths import Strengths


@dataclass
class ProxySpex:
    """Candidates from a proxy that learned from masked runs.

    Args:
        proxy: what learns.
        gradients: whether the game gives gradients, and the proxy reads them.
        half: learn from pairs of complementary masks of half of the units, as Fourier coefficients
            at p = 1/2 want them; not from masks near the intact model.
    """

    proxy: Proxy
    gradients: bool = False
    half: bool = False
    max_fraction: float = field(default=1.0, init=False)  # of units ablated; measured
    notes: dict[str, Any] = field(default_factory=dict)
    name: str = "proxyspex"
    renumbers: bool = field(default=False, init=False)

    def higher_fraction(self, context: Context) -> Asking[float]:
        """Measured with the candidates, where there were any."""
        if "largest_share_ablated" not in self.notes:
            self.max_fraction = yield from largest_informative_fraction(
                context, EvaluatedMasks(context.ledger.n), context.settings.per_share
            )
            self.notes["largest_share_ablated"] = self.max_fraction
        return self.max_fraction

    def __post_init__(self) -> None:
        # A proxy of one's own, and a student, may know the units by their numbers.
        self.renumbers = self.proxy.learns_from_search
        # As long as nothing was distilled: "candidates" says why, where nothing ever is.
        self.notes |= {"proxy": name_of(self.proxy), "proxy_r2": None, "rank_correlation": None}

    def minimum_budget(self, n: int, settings: SearchSettings = DEFAULTS) -> int:
        fixed = 1 + settings.per_share * len(settings.shares)
        fixed += settings.min_values + settings.min_held
        if self.proxy.searched:
            return fixed + VALIDATED_AT_LEAST
        if self.gradients:
            return fixed + GRADIENT_COST * (1 + settings.min_deep) + VALIDATED_AT_LEAST
        return fixed + minimum_without_gradients(n)

    def default_budget(self, n: int) -> int:
        return (1 if self.proxy.searched else 2 if self.gradients else 4) * n + 100

    def candidates(self, context: Context, budget: Budget) -> Asking[PairRanker]:
        ledger, settings = context.ledger, context.settings
        yield from ledger.values_of([()], "intact model")
        room = budget.left
        examples, held = EvaluatedMasks(ledger.n), EvaluatedMasks(ledger.n)
        self.max_fraction = yield from largest_informative_fraction(
            context, examples, settings.per_share
        )
        n_held = int(np.clip(settings.held_share * room, settings.min_held, settings.max_held))
        yield from held.ask(ledger, self._masks(context, n_held), "held-out masks")
        ranker: PairRanker
        if self.proxy.learns_from_search:
            ranker = yield from self._distil(context, budget, examples)
        else:
            rows = None
            if self.proxy.searched:
                yield from self._ask_values(context, budget, examples)
            elif self.gradients:
                yield from self._ask_values(context, budget, examples)
                rows = yield from self._rows(context, budget)
            else:
                rest = int((1 - settings.learned_share) * room)
                yield from self._learn(context, budget.reserve(rest), examples)
            ranker = ProposalRanker(self.proxy, examples, settings, rows)
            ranker.fit(ledger)
        self.notes |= {
            "proxy_about": dict(self.proxy.about),
            "proxy_r2": r_squared(*held.all(), self.proxy),
            "held_out_masks": len(held),
            "largest_share_ablated": self.max_fraction,
            "evaluations_of_candidates": ledger.spent,
        }
        return ranker

    def _distil(
        self, context: Context, budget: Budget, examples: EvaluatedMasks
    ) -> Asking[PairRanker]:
        """Masks of all sizes for the values; for pairs, rows of slopes, or without gradients what
        group tests or single ablations tell."""
        ledger, settings = context.ledger, context.settings
        yield from self._ask_values(context, budget, examples)
        rows, ranker = None, None
        if self.gradients:
            rows = yield from self._rows(context, budget)
            ranker = RowRanker(rows, settings)
        else:
            way = yield from without_gradients(context, budget, self.max_fraction)
            main = ledger.main_effects_by_prompt()
            ranker = Strengths(main, exhausted=way is Way.TREE, settings=settings)
            self.notes["candidates"] = str(way)
        fit(self.proxy, *examples.all(ledger, settings.max_examples), rows)
        return ranker

    def _rows(self, context: Context, budget: Budget) -> Asking[GradientRows]:
        rows = yield from gradient_rows(context, budget, self.max_fraction)
        self.notes |= {"gradient_rows": len(rows.asked), "candidates": "gradient rows"}
        return rows

    def _ask_values(
        self, context: Context, budget: Budget, examples: EvaluatedMasks
    ) -> Asking[None]:
        """A few masks of all sizes, for the values themselves."""
        settings = context.settings
        wanted = settings.value_share * budget.left
        count = int(np.clip(wanted, settings.min_values, settings.max_values))
        yield from examples.ask(context.ledger, self._masks(context, count), "masks to learn from")

    def _learn(self, context: Context, budget: Budget, examples: EvaluatedMasks) -> Asking[None]:
        """Random masks, then those of many random ones where the proxy is least sure."""
        ledger, settings = context.ledger, context.settings
        first = self._masks(context, int(settings.first_share * budget.left))
        yield from examples.ask(ledger, first, "masks to learn from")
        rest = budget.left
        if rest < 2:
            return
        self.proxy.fit(*examples.all(ledger))
        new = self._masks(context, min(settings.unsure_candidates * rest, settings.max_unsure))
        least_sure = np.argsort(-self.proxy.uncertainty(new), kind="stable")
        if self.half:  # with their complements
            chosen = list(dict.fromkeys((least_sure // 2).tolist()))[: rest // 2]
            least_sure = np.array([[2 * c, 2 * c + 1] for c in chosen], dtype=np.int64).ravel()
        yield from examples.ask(ledger, new[least_sure[:rest]], "masks to learn from")

    def _masks(self, context: Context, count: int) -> Bool[np.ndarray, "mask unit"]:
        n, rng = context.ledger.n, context.rng
        if self.half:
            return complementary_masks(n, count, rng)
        # Small sets are for the validation, which must not meet one that was held out.
        least = LEDGER_ORDER + 1.0
        most = max(least, self.max_fraction * n)
        sizes = np.exp(rng.uniform(np.log(least), np.log(most), count)).round().astype(int)
        masks = np.ones((count, n), dtype=bool)
        for mask, size in zip(masks, np.minimum(sizes, n), strict=True):
            mask[rng.permutation(n)[:size]] = False
        return masks


def fit(
    proxy: Proxy,
    masks: Bool[np.ndarray, "mask unit"],
    values: Float[np.ndarray, "mask prompt"],
    rows: GradientRows | None,
) -> None:
    """Fit a proxy to values, and to slopes where there are any."""
    if rows is None:
        proxy.fit(masks, values)
    else:
        proxy.fit_with_slopes(masks, values, rows)


def r_squared(
    masks: Bool[np.ndarray, "mask unit"], values: Float[np.ndarray, "mask prompt"], proxy: Proxy
) -> float | None:
    """Of the prompt mean; None where all values are alike."""
    truth = values.mean(axis=1)
    predicted = np.asarray(proxy.predict(masks), dtype=np.float64).reshape(len(masks), -1)
    spread = float(((truth - truth.mean()) ** 2).sum())
    if spread <= 1e-18 * float((truth**2).sum()):
        return None
    return 1 - float(((truth - predicted.mean(axis=1)) ** 2).sum()) / spread


class ProposalRanker:
    """Ranks pairs by what a proxy proposes; the others behind, by the strengths of their units,
    which begin as the main effects that the proxy predicts."""

    exhausted = False

    def __init__(
        self,
        proxy: Proxy,
        examples: EvaluatedMasks,
        settings: SearchSettings = DEFAULTS,
        rows: GradientRows | None = None,
    ) -> None:
        self.proxy, self._examples, self._settings, self._rows = proxy, examples, settings, rows
        self._fitted_to = 0
        self._proposed: dict[Set, float] = {}
        self._main = np.zeros((examples.n, 1))
        self._others = Strengths(self._main, settings=settings)

    def fit(self, ledger: Ledger) -> None:
        """Fit the proxy again where it can learn from many more masks."""
        count = len(self._examples) + len(ledger.value)
        if count >= self._settings.refit_factor * self._fitted_to:
            self._fitted_to = count
            fit(self.proxy, *self._examples.all(ledger), self._rows)
            self._proposed = {}
            self._main = predicted_main_effects(self.proxy, ledger.n)
        known = ledger.main_effects_by_prompt()
        main = np.where(np.isnan(known), self._main, known)
        self._others = Strengths(main, settings=self._settings)
        self._others.fit(ledger)

    def strongest(self, count: int) -> Int[np.ndarray, "pair 2"]:
        proposed = [s for s in self._propose(count, 2) if len(s) == 2]
        others = self._others.strongest(count)
        return np.concatenate([np.array(proposed, dtype=np.int64).reshape(-1, 2), others])

    def score(self, pairs: Int[np.ndarray, "pair 2"]) -> Float[np.ndarray, " pair"]:
        """Predicted log-size, up to a constant."""
        sizes = [abs(self._proposed.get(s, 0.0)) for s in map(tuple, pairs.tolist())]
        behind = self._others.score(pairs)
        least = min((v for v in map(abs, self._proposed.values()) if v > 0), default=1.0)
        behind = behind - behind.max(initial=-700.0) + np.log(least) - 1.0
        return np.where(np.array(sizes) > 0, np.log(np.maximum(sizes, least)), behind)

    def kind_of(self, pairs: Int[np.ndarray, "pair 2"]) -> Int[np.ndarray, " pair"]:
        """All predictions are made of the same."""
        return np.zeros(len(pairs), dtype=np.int64)

    def slopes(self) -> dict[Set, Float[np.ndarray, " unit"]]:
        return {} if self._rows is None else self._rows.slopes()

    def higher_order(self, order: int, count: int) -> list[Set]:
        proposed = self._propose(count, order)
        found = [s for s in proposed if len(s) == order]
        return sorted(found, key=lambda s: -abs(proposed[s]))[:count]

    def _propose(self, count: int, order: int) -> dict[Set, float]:
        new = self.proxy.propose(min(count, self._settings.max_unsure), order)
        self._proposed |= {check_set(s, self._examples.n): float(v) for s, v in new}
        return self._proposed


def predicted_main_effects(proxy: Proxy, n: int) -> Float[np.ndarray, "unit ..."]:
    """What the proxy says of every unit's ablation alone, on each prompt or on average."""
    parts = []
    for units in np.array_split(np.arange(n), max(1, n * n // MOST_SLOTS)):
        masks = np.ones((len(units) + 1, n), dtype=bool)
        masks[np.arange(len(units)), units] = False
        values = np.asarray(proxy.predict(masks), dtype=np.float64).reshape(len(masks), -1)
        parts.append(values[:-1] - values[-1])
    return np.concatenate(parts)


def check_set(units: Any, n: int) -> Set:
    """Raises:
    ValueError: a proxy proposed what is no set of units.
    """
    s = tuple(int(u) for u in units)
    if len(s) < 2 or any(a >= b for a, b in pairwise(s)) or s[0] < 0 or s[-1] >= n:
        raise ValueError(
            f"the proxy proposed {tuple(units)}; an interaction is a tuple of two or more units in "
            f"ascending order, 0 to {n - 1}"
        )
    return s
