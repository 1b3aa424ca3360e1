"""A search written as one coroutine, and driven like any other.

A coroutine yields the masks that it wants to know the values of, and is sent these values; so a
search for circuits reads from top to bottom, and still it never evaluates anything. ``StepSearch``
gives it the ``ask`` and ``tell`` of ``search.contract``, so that the one driver carries its
questions, with store, workers and progress bar.
"""

from collections.abc import Generator, Sequence
from typing import Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.masks import MaskBatch
from spex_mech.results.statistics import by_cluster
from spex_mech.search.contract import Findings, Question, Search

Masks = Bool[np.ndarray, "mask unit"]
Values = Float[np.ndarray, "mask prompt"]
T = TypeVar("T")
_BESIDE = "its scores, beside the budget"  # what a progress bar calls what was not planned
Steps = Generator[Masks, Values, T]


class StepSearch(Search, Generic[T]):
    """The coroutine as a search.

    Args:
        steps: yields masks ``[mask unit]`` (True = kept), is sent values ``[mask prompt]``, and
            returns a result.
        n: how many units there are.
        planned: evaluations that it will ask for in all, as far as that is known.
        stage: what a progress bar calls it.
        clusters: the number of each prompt's cluster; the coroutine is then sent a value per
            cluster (``results.statistics.by_cluster``). None: every prompt stands for itself.
    """

    def __init__(
        self,
        steps: Steps[T],
        n: int,
        planned: int,
        stage: str,
        clusters: Sequence[int] | None = None,
    ) -> None:
        self.planned = planned
        self._steps, self._n, self._stage = steps, n, stage
        self._clusters = None if clusters is None else np.asarray(clusters)
        self._values: Values | None = None
        self._question: Question | None = None  # that is not answered yet
        self._result: list[T] = []
        self._n_asked = 0

    def ask(self) -> Question | None:
        """The next question; None when the search is over."""
        if self._question is not None or self._result:
            return self._question
        try:
            masks = next(self._steps) if self._values is None else self._steps.send(self._values)
        except StopIteration as end:
            self._result = [end.value]
            return None
        stage = self._stage if self._n_asked < self.planned else _BESIDE
        self._question = Question(MaskBatch.of_kept(masks), stage=stage)
        self._n_asked += len(masks)
        return self._question

    def tell(
        self, values: Values, gradients: Float[np.ndarray, "mask block unit"] | None = None
    ) -> None:
        """The answer to the last question."""
        if self._clusters is not None:
            values = by_cluster(values, self._clusters)
        self._values, self._question = values, None

    def findings(self) -> Findings:
        """A search for circuits measures no interactions."""
        nothing = np.zeros((0, 1))
        return Findings(
            units=np.zeros((0, 2), dtype=np.int64),
            values=nothing,
            main_effects_by_prompt=np.full((self._n, 1), np.nan),
            intact_by_prompt=np.full(1, np.nan),
        )

    @property
    def result(self) -> T:
        """What the coroutine returned.

        Raises:
            RuntimeError: the search is not over.
        """
        if not self._result:
            raise RuntimeError("the search is not over; drive it first")
        return self._result[0]
