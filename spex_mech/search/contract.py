"""What a search and its driver say to each other: integers and values, no model.

A search never evaluates anything. The driver asks it for a question, has the masks evaluated, and
tells it the values, until there is no further question; so progress, budget, store, resume and
cluster are the driver's business alone.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from math import comb
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from spex_mech.arguments import shown, whole
from spex_mech.masks import MaskBatch

MASKS_PER_QUESTION = 16_384  # many workers wait for the slowest at the end of each question
GRADIENT_COST = 3  # evaluations that one gradient at one mask counts for


def cost_of_mask(slopes: bool) -> int:
    """Evaluations that one mask counts for, with or without slopes."""
    return GRADIENT_COST if slopes else 1


@dataclass(frozen=True, eq=False)
class Question:
    """Masks to evaluate.

    Args:
        masks: of all units of the game, such as ``MaskBatch.of_sets([(), (3,), (3, 5)], n)``: the
            intact model, and without unit 3, and without 3 and 5.
        gradient: ask for the gradient with respect to every unit's gate too.
        stage: what a progress bar calls it.

    Raises:
        TypeError: ``masks`` is no ``MaskBatch``.
    """

    masks: MaskBatch
    gradient: bool = False
    stage: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.masks, MaskBatch):
            raise TypeError(
                f"a question holds {shown(self.masks)}; give MaskBatch.of_sets(sets, n_units)"
            )

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def cost(self) -> int:
        """In evaluations."""
        return len(self) * cost_of_mask(self.gradient)


@dataclass(frozen=True, eq=False)
class Findings:
    """What a search measured, in units' numbers.

    Args:
        units: each interaction's units in ascending order, padded with -1 on the right.
        values: each interaction on each prompt.
        main_effects_by_prompt: of each unit on each prompt, NaN where it was not measured.
        intact_by_prompt: the metric of the intact model on each prompt.
        audit: what is known of the pairs that were not measured, if they were audited.
        notes: whatever else the result should state.
    """

    units: Int[np.ndarray, "interaction order"]
    values: Float[np.ndarray, "interaction prompt"]
    main_effects_by_prompt: Float[np.ndarray, "unit prompt"]
    intact_by_prompt: Float[np.ndarray, " prompt"]
    audit: Any = None
    notes: dict[str, Any] = field(default_factory=dict)


class Search(ABC):
    """Which masks to ask for: the contract that every search keeps, and the way to write one.

    A driver calls :meth:`ask`, has the masks evaluated, calls :meth:`tell` with the answer, and so
    on until :meth:`ask` gives None; then it calls :meth:`findings`::

        while (question := search.ask()) is not None:
            values, slopes = ...            # evaluated by a game, or taken from a store
            search.tell(values, slopes)     # slopes are None unless question.gradient
        found = search.findings()

    ``discover(game, method=search)`` takes any of them. A search must be deterministic given the
    answers: one that goes on from a store asks as it did before. ``testing.check_search`` tries
    what this text demands.
    """

    name: str = ""  # what a result calls it; default: the name of the class
    planned: int = 0  # evaluations that it will ask for in all; 0: not known

    @abstractmethod
    def ask(self) -> Question | None:
        """The next question; None when the search is over. The same until it is answered."""

    @abstractmethod
    def tell(
        self,
        values: Float[np.ndarray, "mask prompt"],
        gradients: Float[np.ndarray, "mask block unit"] | None = None,
    ) -> None:
        """The answer to the last question; gradients by block of prompts, their mean over blocks
        being that of the prompt mean."""

    @abstractmethod
    def findings(self) -> Findings:
        """What was measured."""

    def best(self, k: int) -> list[tuple[tuple[int, ...], float]]:
        """The strongest interactions measured so far, for the progress bar."""
        return []

    def chosen_from(self) -> dict[int, int]:
        """Of each order (2: pairs), how many sets there were to choose from, where the search chose
        what it measured by sizes on these prompts: q-values and intervals then count all of them.
        An order is left out where all sets were measured, or they were listed or drawn at random.
        """
        return {}


def count_of_sets(n: int, order: int) -> int:
    """Evaluations that all interactions up to an order take."""
    return sum(comb(n, size) for size in range(order + 1))


def check_order(n: int, order: int) -> None:
    """Raises:
    ValueError: there are no interactions of this order among so many units.
    """
    whole("order", order, 2)
    if n < 2 or not 2 <= order <= n:
        cure = "two units or more" if n < 2 else f"order={n} or less"
        raise ValueError(
            f"interactions of order {order} among {n} unit(s): the order must be at least 2 and at "
            f"most the number of units; give {cure}"
        )
