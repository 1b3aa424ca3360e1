"""What an adaptive search is made of: a source of candidates, and a ranker of untested pairs."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from spex_mech.masks import Set
from spex_mech.search.budget import Budget, Context
from spex_mech.search.ledger import Asking, Ledger
from spex_mech.search.settings import SearchSettings


@runtime_checkable
class PairRanker(Protocol):
    """Predicted sizes of pairs that were not measured."""

    def kind_of(self, pairs: Int[np.ndarray, "pair 2"]) -> Int[np.ndarray, " pair"]:
        """What each pair's prediction is made of, by number; the audit draws from each kind."""
        ...

    @property
    def exhausted(self) -> bool:
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

    def higher_order(self, order: int, count: int) -> list[Set]:
        """About so many sets of this many units that are predicted to interact; none by default."""
        ...


class NoRanker:
    """Nothing is predicted: what a ranker is before anything was learned."""

    exhausted = False

    def fit(self, ledger: Ledger) -> None:
        pass

    def strongest(self, count: int) -> Int[np.ndarray, "pair 2"]:
        return np.empty((0, 2), dtype=np.int64)

    def score(self, pairs: Int[np.ndarray, "pair 2"]) -> Float[np.ndarray, " pair"]:
        return np.zeros(len(pairs))

    def kind_of(self, pairs: Int[np.ndarray, "pair 2"]) -> Int[np.ndarray, " pair"]:
        return np.zeros(len(pairs), dtype=np.int64)

    def slopes(self) -> dict[Set, Float[np.ndarray, " unit"]]:
        return {}

    def higher_order(self, order: int, count: int) -> list[Set]:
        return []


@runtime_checkable
class CandidateSource(Protocol):
    """How candidates are found: what tells one adaptive search from another."""

    name: str
    gradients: bool  # whether it asks for gradients
    renumbers: bool  # whether units may be numbered anew, so that the seed breaks ties
    notes: dict[str, Any]  # what the result should state of it

    def minimum_budget(self, n: int, settings: SearchSettings = ...) -> int:
        """The evaluations without which it cannot begin."""
        ...

    def default_budget(self, n: int) -> int:
        """The evaluations that it takes where none are said."""
        ...

    def candidates(self, context: Context, budget: Budget) -> Asking[PairRanker]:
        """Find out what predicts pairs, within the budget."""
        ...

    def higher_fraction(self, context: Context) -> Asking[float]:
        """Without gradients, the largest share of units that a test of higher order may ablate."""
        ...
