"""What a step of a search may spend, and what every step of an adaptive search is handed."""

from dataclasses import dataclass

import numpy as np

from spex_mech.search.ledger import Ledger
from spex_mech.search.settings import DEFAULTS, SearchSettings


@dataclass(frozen=True)
class Budget:
    """Evaluations that a step may spend out of the ledger's.

    Args:
        ledger: books what was spent.
        stop: the step may spend until the ledger has spent so many evaluations in all.

    >>> whole = Budget.whole(Ledger(n=10, budget=100))
    >>> first = whole.reserve(30)
    >>> whole.left, first.left, first.reserved, first.allot(20).left
    (100, 70, 30, 20)
    """

    ledger: Ledger
    stop: int

    @staticmethod
    def whole(ledger: Ledger) -> "Budget":
        """All that the ledger may spend."""
        return Budget(ledger, ledger.budget)

    @property
    def left(self) -> int:
        """Evaluations that may still be spent."""
        return self.stop - self.ledger.spent

    @property
    def reserved(self) -> int:
        """Evaluations that must be left to the ledger at the end."""
        return self.ledger.budget - self.stop

    def reserve(self, evaluations: int) -> "Budget":
        """The same with so many left for a later step."""
        return Budget(self.ledger, self.stop - evaluations)

    def allot(self, evaluations: int) -> "Budget":
        """At most so many of it, from now on."""
        return Budget(self.ledger, min(self.stop, self.ledger.spent + evaluations))


@dataclass(frozen=True)
class Context:
    """What every step of an adaptive search is handed.

    Args:
        ledger: what was measured.
        rng: draws everything random.
        settings: the constants.
    """

    ledger: Ledger
    rng: np.random.Generator
    settings: SearchSettings = DEFAULTS

    @property
    def budget(self) -> Budget:
        """All that the ledger may spend."""
        return Budget.whole(self.ledger)
