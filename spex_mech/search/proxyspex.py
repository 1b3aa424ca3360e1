"""ProxySPEX: a small distilled model screens interactions, the large one confirms them.

1. *Sizes.* Two masks each of several sizes tell how much may be ablated before the metric stops
   telling masks apart.
2. *Masks to learn from*, of random sizes up to that (near the intact model, where interactions are
   defined), or pairs of complements that ablate half of the units each. Some are held out. A proxy
   that reads slopes gets gradient rows as SPEX asks for them; one that needs no masks of its own
   (``distilled`` without gradients) gets what group tests or single ablations tell; one that was
   searched itself (a student model) gets a few, for its scale; any other gets a share of the
   budget, the later parts where it is least sure.
3. *Distil*: the proxy is fitted; its R² on the held-out masks is part of the result, and so is the
   rank correlation of predicted with confirmed sizes, as predicted before they were measured.
4. *Screen and confirm*, *higher orders*, *audit* (``adaptive``); what each round measured teaches
   the proxy again.

Costs the budget, by default 2 evaluations a unit with gradients, 4 without, 1 for a student (and
100). The name
and the idea of a proxy are those of Butler et al. 2025 (arXiv 2505.17495), whose proxy is boosted
trees (``trees``) on masks of half of the units, and who confirm nothing. What was learned here:
near the intact model of a dense game, random masks tell little of any pair (a mask of a tenth of
900 units holds 4,000 pairs), so that a budget is better spent on rows of slopes, or where there are
none, on measuring the pairs of units that proved strong.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.search.adaptive import Screen
from spex_mech.search.contract import GRADIENT_COST
from spex_mech.search.ledger import Asking, Ledger, Set
from spex_mech.search.random_masks import (
    MOST_SLOTS,
    PER_SHARE,
    SHARES,
    SMALL,
    Examples,
    half_masks,
    telling_fraction,
)
from spex_mech.search.screening import RowScreen, Strengths
from spex_mech.search.spex import (
    LEAST_DEEP,
    SPARSE,
    gradient_rows,
    without_gradients,
    without_gradients_least,
)

_SHARE_VALUES, _LEAST_VALUES, _MOST_VALUES = 0.025, 4, 200  # of masks to learn values from
_SHARE_HELD, _LEAST_HELD, _MOST_HELD = 0.012, 6, 60
_SHARE_LEARNED = 0.4  # of the budget, for a proxy that learns from masks alone
_SHARE_FIRST = 0.6  # of those, at random
_CANDIDATES = 8  # masks to choose one from where the proxy is unsure
_MOST_CANDIDATES = 20_000
_MOST_PROPOSED = 20_000
_GROWN = 1.25  # a proxy is fitted again when it can learn from so many times as many masks
_MOST_EXAMPLES = 1500  # singles and pairs that the distilled proxy learns from


@runtime_checkable
class Proxy(Protocol):
    """A small model of a set function. Anything with these methods can be ``proxy=``."""

    def fit(
        self, masks: Bool[np.ndarray, "mask unit"], values: Float[np.ndarray, "mask prompt"]
    ) -> None:
        """Learn from all masks so far (True = kept) and their values; called several times."""
        ...

    def predict(self, masks: Bool[np.ndarray, "mask unit"]) -> Float[np.ndarray, "mask ..."]:
        """Values, on each prompt or on average."""
        ...

    def propose(self, k: int, order: int = 2) -> list[tuple[Set, float]]:
        """The k strongest interactions of 2 to ``order`` units at the intact model: unit numbers in
        ascending order, and the signed size."""
        ...

    def uncertainty(self, masks: Bool[np.ndarray, "mask unit"]) -> Float[np.ndarray, " mask"]:
        """How unsure the predictions are; only their order matters."""
        ...


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
    max_fraction: float = field(default=0.15, init=False)  # of units ablated; measured
    notes: dict[str, Any] = field(default_factory=dict)
    name: str = "proxyspex"

    def higher_fraction(self, ledger: Ledger, rng: np.random.Generator) -> Asking[float]:
        """Measured with the candidates, where there were any."""
        if "largest_share_ablated" not in self.notes:
            self.max_fraction = yield from telling_fraction(ledger, rng, Examples(ledger.n))
            self.notes["largest_share_ablated"] = self.max_fraction
        return self.max_fraction

    def __post_init__(self) -> None:
        # As long as nothing was distilled: "candidates" says why, where nothing ever is.
        name = getattr(self.proxy, "name", type(self.proxy).__name__)
        self.notes |= {"proxy": name, "proxy_r2": None, "rank_correlation": None}

    def minimum_budget(self, n: int) -> int:
        fixed = 1 + PER_SHARE * len(SHARES) + _LEAST_VALUES + _LEAST_HELD
        if self._searched:
            return fixed + 60
        if self.gradients:
            return fixed + GRADIENT_COST * (1 + LEAST_DEEP) + 60
        return fixed + without_gradients_least(n)

    def default_budget(self, n: int) -> int:
        return (1 if self._searched else 2 if self.gradients else 4) * n + 100

    @property
    def _searched(self) -> bool:
        return getattr(self.proxy, "searched", False)

    def candidates(self, ledger: Ledger, rng: np.random.Generator, keep: int) -> Asking[Screen]:
        yield from ledger.values_of([()], "intact model")
        room = ledger.left - keep
        examples, held = Examples(ledger.n), Examples(ledger.n)
        self.max_fraction = yield from telling_fraction(ledger, rng, examples)
        count = int(np.clip(_SHARE_HELD * room, _LEAST_HELD, _MOST_HELD))
        yield from held.ask(ledger, self._masks(ledger.n, count, rng), "held-out masks")
        if getattr(self.proxy, "learns_from_search", False):
            screen = yield from self._distil(ledger, rng, keep, examples, self.proxy)
        elif self._searched:
            masks = self._masks(ledger.n, self._count_of_values(ledger.left - keep), rng)
            yield from examples.ask(ledger, masks, "masks to learn from")
            screen = ProposalScreen(self.proxy, examples)
            screen.fit(ledger)
        else:
            until = ledger.budget - keep - int((1 - _SHARE_LEARNED) * room)
            yield from self._learn(ledger, rng, until, examples)
            screen = ProposalScreen(self.proxy, examples)
            screen.fit(ledger)
        self.notes |= {
            "proxy_about": getattr(self.proxy, "about", {}),
            "proxy_r2": r_squared(*held.all(), self.proxy),
            "held_out_masks": len(held),
            "largest_share_ablated": self.max_fraction,
            "evaluations_of_candidates": ledger.spent,
        }
        return screen

    def _distil(
        self,
        ledger: Ledger,
        rng: np.random.Generator,
        keep: int,
        examples: "Examples",
        proxy: Any,
    ) -> Asking[Screen]:
        """Masks of all sizes for the values; for pairs, rows of slopes, or without gradients what
        group tests or single ablations tell."""
        masks = self._masks(ledger.n, self._count_of_values(ledger.left - keep), rng)
        yield from examples.ask(ledger, masks, "masks to learn from")
        rows, screen = None, None
        if self.gradients:
            rows = yield from gradient_rows(ledger, rng, keep, self.max_fraction)
            screen = RowScreen(rows)
            self.notes |= {"gradient_rows": len(rows.asked), "candidates": "gradient rows"}
        else:
            way = yield from without_gradients(ledger, rng, keep, self.max_fraction)
            screen = Strengths(ledger.main_effects_by_prompt(), complete=way == SPARSE)
            self.notes["candidates"] = way
        proxy.fit(*examples.all(ledger, _MOST_EXAMPLES), rows)
        return screen

    def _count_of_values(self, room: int) -> int:
        return int(np.clip(_SHARE_VALUES * room, _LEAST_VALUES, _MOST_VALUES))

    def _learn(
        self, ledger: Ledger, rng: np.random.Generator, until: int, examples: "Examples"
    ) -> Asking[None]:
        """Random masks, then those of many random ones where the proxy is least sure."""
        room = until - ledger.spent
        first = self._masks(ledger.n, int(_SHARE_FIRST * room), rng)
        yield from examples.ask(ledger, first, "masks to learn from")
        rest = until - ledger.spent
        if rest < 2:
            return
        self.proxy.fit(*examples.all(ledger))
        new = self._masks(ledger.n, min(_CANDIDATES * rest, _MOST_CANDIDATES), rng)
        least_sure = np.argsort(-self.proxy.uncertainty(new), kind="stable")
        if self.half:  # with their complements
            chosen = list(dict.fromkeys((least_sure // 2).tolist()))[: rest // 2]
            least_sure = np.array([[2 * c, 2 * c + 1] for c in chosen], dtype=np.int64).ravel()
        yield from examples.ask(ledger, new[least_sure[:rest]], "masks to learn from")

    def _masks(self, n: int, count: int, rng: np.random.Generator) -> Bool[np.ndarray, "mask unit"]:
        if self.half:
            return half_masks(n, count, rng)
        # Small sets are for the validation, which must not meet one that was held out.
        least = SMALL + 1.0
        most = max(least, self.max_fraction * n)
        sizes = np.exp(rng.uniform(np.log(least), np.log(most), count)).round().astype(int)
        masks = np.ones((count, n), dtype=bool)
        for mask, size in zip(masks, np.minimum(sizes, n), strict=True):
            mask[rng.permutation(n)[:size]] = False
        return masks


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


class ProposalScreen:
    """Ranks pairs by what a proxy proposes; the others behind, by the strengths of their units,
    which begin as the main effects that the proxy predicts."""

    informed = False  # proposals say nothing of the pairs that are not among them
    complete = False

    def __init__(self, proxy: Proxy, examples: Examples) -> None:
        self.proxy, self._examples = proxy, examples
        self._fitted_to = 0
        self._proposed: dict[Set, float] = {}
        self._main = np.zeros((examples.n, 1))
        self._others = Strengths(self._main)

    def fit(self, ledger: Ledger) -> None:
        """Fit the proxy again where it can learn from many more masks."""
        count = len(self._examples) + len(ledger.value)
        if count >= _GROWN * self._fitted_to:
            self._fitted_to = count
            self.proxy.fit(*self._examples.all(ledger))
            self._proposed = {}
            self._main = predicted_main_effects(self.proxy, ledger.n)
        known = ledger.main_effects_by_prompt()
        self._others = Strengths(np.where(np.isnan(known), self._main, known))
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

    def slopes(self) -> dict[Set, Float[np.ndarray, " unit"]]:
        return {}

    def larger(self, order: int, count: int) -> list[Set]:
        proposed = self._propose(count, order)
        found = [s for s in proposed if len(s) == order]
        return sorted(found, key=lambda s: -abs(proposed[s]))[:count]

    def _propose(self, count: int, order: int) -> dict[Set, float]:
        new = self.proxy.propose(min(count, _MOST_PROPOSED), order)
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
