"""Masks that are asked again: what shows that a function, or a model, varies.

A sampled language model, a judge, dropout or a kernel that is not deterministic gives the same mask
another value each time, and every interaction is then made of that. Nothing in the values tells it
apart from a true interaction; only asking again does. So any search runs inside ``AskAgain``:

1. The search asks what it asks. Of all masks that it was told without slopes, some are drawn at
   random, each with the same chance, and the intact model is always among them.
2. At the end these are asked again, in another order and so in other company. Where they differ,
   and the budget was not given, more are asked again, so that the size of it is better known.

*The floor.* What the prompt means of one mask differ by, over all masks that were asked again,
gives the standard deviation ``s`` of one value, with as many degrees of freedom as masks were asked
again. The interaction of a pair is made of four values: its standard deviation is ``2 s``. The
largest of m interactions that are nothing but noise must lie under the floor, so that the floor is
``2 s`` times the quantile of Student's t at ``1 - 0.002 / 2m`` (Bonferroni), m being all sets that
could have been chosen. So small a chance, as where the noise is large nothing true is over the
floor, and any noise over it would be all that is found. The floor is at least twice the largest
difference, for noise that is rarely large. Of k units it is ``2^(k - 2)`` times as high
(``Interactions.is_noise``), more than the ``2^(k/2 - 1)`` that the noise grows by.

Cost: 0.03 of the budget, from 8 to 200 evaluations, within it; of a default budget that pays for
all sets, in addition to them. Where a budget leaves room for fewer, fewer are asked again. When it
fails: noise that is the same in both calls (a cache, a seed set in the function), or so rare that
no drawn mask met it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from spex_mech.masks import MaskBatch
from spex_mech.search.contract import Findings, Question, Search
from spex_mech.search.settings import DEFAULTS, SearchSettings

_ALARM = 0.002  # chance that one of all interactions that are noise is over the floor
_DIFFERS = 1e-6  # of the largest value: more is no rounding, also in float32
_OF_PAIR = 2.0  # the standard deviation of a pair's interaction over that of one value


class AskAgain(Search):
    """A search, some of whose masks are asked again at the end.

    Args:
        search: the search.
        count: masks that are asked again.
        more: masks that are asked again besides, where the first differ.
    """

    def __init__(self, search: Search, count: int, more: int = 0) -> None:
        self.search, self.count, self.more = search, count, more
        self.name, self.planned = search.name, 0
        if search.planned:
            self.planned = search.planned + count
        # Whatever the search's seed: searches that share a store then ask the same masks again.
        self._rng = np.random.default_rng(0x5EED)
        self._drawn: list[tuple[float, tuple[int, ...]]] = []
        self._values: dict[tuple[int, ...], list[float]] = {}  # prompt means of drawn masks
        self._n = 0  # units, once there was a question
        self.n_again = 0  # masks that were asked again
        self._largest = 0.0  # of all values
        self._question: Question | None = None

    def ask(self) -> Question | None:
        if self._question is None:
            self._question = self.search.ask() or self._again()
        return self._question

    def tell(
        self,
        values: Float[np.ndarray, "mask prompt"],
        gradients: Float[np.ndarray, "mask block unit"] | None = None,
    ) -> None:
        question, self._question = self.ask(), None
        assert question is not None
        self._largest = max(self._largest, float(abs(values).max(initial=0.0)))
        if not question.masks.again:
            self._draw(question, values)
            self.search.tell(values, gradients)
            return
        for units, value in zip(question.masks.sets(), values.mean(axis=1).tolist(), strict=True):
            self._values[units].append(value)
        self.n_again += len(values)

    def findings(self) -> Findings:
        return self.search.findings()

    def best(self, k: int) -> list[tuple[tuple[int, ...], float]]:
        return self.search.best(k)

    def chosen_from(self) -> dict[int, int]:
        return self.search.chosen_from()

    def largest_difference(self) -> float:
        """The largest difference of two values of one mask, averaged over prompts."""
        return max((max(of) - min(of) for of in self._values.values()), default=0.0)

    @property
    def varies(self) -> bool:
        """Whether a mask had another value when it was asked again, by more than rounding makes."""
        return self.largest_difference() > _DIFFERS * self._largest

    def floor(self, n_sets: int) -> float:
        """The size under which the interaction of a pair may be made of what values differ by.

        Args:
            n_sets: of how many sets the largest must lie under it.
        """
        from scipy.special import stdtrit

        if not (largest := self.largest_difference()):
            return 0.0
        # In units of the largest, as squares of very large and small numbers are no numbers.
        squares = sum(len(of) * np.var(np.array(of) / largest) for of in self._values.values())
        deviation = largest * np.sqrt(squares / self.n_again)
        quantile = float(stdtrit(self.n_again, 1 - _ALARM / (2 * max(1, n_sets))))
        return float(max(_OF_PAIR * deviation * quantile, 2 * largest))

    def _draw(self, question: Question, values: Float[np.ndarray, "mask prompt"]) -> None:
        """Keep a sample of all masks so far: those with the smallest of random numbers."""
        wanted = self.count + self.more if self.count else 0
        if question.gradient or not wanted:
            return
        self._n = question.masks.n_units
        drawn = self._rng.random(len(values))
        drawn[(question.masks.ablated < 0).all(axis=1)] = -1.0  # the intact model always
        most = self._drawn[-1][0] if len(self._drawn) == wanted else 2.0
        sets, means = question.masks.sets(), values.mean(axis=1)
        # No more than the smallest of this question can come in.
        for row in np.argsort(drawn, kind="stable")[: 2 * wanted].tolist():
            if drawn[row] < most and sets[row] not in self._values:
                self._drawn.append((float(drawn[row]), sets[row]))
                self._values[sets[row]] = [float(means[row])]
        self._drawn.sort()
        for _, units in self._drawn[wanted:]:
            del self._values[units]
        del self._drawn[wanted:]

    def _again(self) -> Question | None:
        """Drawn masks, a few at first and more where these differed, in a random order."""
        wanted = self.count + self.more if self.varies else min(self.count, len(self._drawn))
        wanted -= self.n_again
        if not self._drawn or wanted <= 0:
            return None
        start = self.n_again % len(self._drawn)  # all of them, before one is asked a third time
        some = [units for _, units in self._drawn[start : start + wanted]]
        sets = [some[at] for at in self._rng.permutation(len(some))]
        masks = replace(MaskBatch.of_sets(sets, self._n), again=self.n_again + 1)
        return Question(masks, stage="asking masks again")


def with_masks_asked_again(
    make: Callable[[int | None], Search],
    budget: int | None,
    full: int,
    settings: SearchSettings = DEFAULTS,
) -> AskAgain:
    """A search of a budget, out of which some masks are asked again.

    Args:
        make: makes the search of so many evaluations; None: of its default.
        budget: evaluations in all; None: the default.
        full: evaluations that all sets take, beyond which a search asks nothing.

    Raises:
        ValueError: a budget that is too small for the search.
    """
    search = make(budget)
    planned = search.planned
    count = int(np.clip(settings.again_share * planned, settings.min_again, settings.max_again))
    more = max(0, settings.enough_again - count)
    if planned >= full:  # all sets come first
        count = count if budget is None else min(count, budget - planned)
        left = budget is None or budget - planned - count >= more
        return AskAgain(search, count, more if left else 0)
    for fewer in (count, settings.min_again):
        try:
            return AskAgain(make(planned - fewer), fewer, more if budget is None else 0)
        except ValueError:  # too small with so many kept back
            continue
    return AskAgain(search, 0)
