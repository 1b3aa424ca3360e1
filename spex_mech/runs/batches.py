"""How many masks a batch of a search with a store holds.

A batch is kept as a whole or not at all, so what a kill costs is a batch. They begin with one mask
and double until one takes two seconds, or a twentieth of the time that the search has taken so far:
of a replayed model the masks of a large batch share most of their work. The number depends on the
pace of the machine, so it is in the log, with the seconds: a search that goes on has the batches
that it had, and then those that it would have had. A game whose largest batch takes less than two
seconds has the same batches on every machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

SECONDS = 2.0  # that a batch should take; one of twice as many is made smaller
SHARE = 0.05  # of the seconds so far that a batch may take where that is more


@dataclass(frozen=True)
class Timed:
    """A batch of the log.

    Args:
        n_masks: how many it holds.
        cost: evaluations that it asked.
        seconds: that they took; None: not known.
    """

    n_masks: int
    cost: int
    seconds: float | None


class Sizes:
    """Says how many masks each batch holds.

    Args:
        most: masks that a batch may hold.
        log: the batches of earlier sittings.
        pace: seconds per evaluation, as far as an earlier search has shown it.
        fixed: every new batch holds ``most``.

    >>> sizes = Sizes(8, [])
    >>> [sizes.next(left, each=1) for left in (100, 99, 97, 93, 3, 100)]
    [1, 2, 4, 8, 3, 8]
    >>> sizes.took(Timed(n_masks=8, cost=8, seconds=40.0))
    >>> sizes.next(100, each=1), sizes.next(100, each=1)
    (1, 1)
    """

    def __init__(
        self, most: int, log: Sequence[Timed], pace: float | None = None, fixed: bool = False
    ) -> None:
        self._most, self._log, self._pace, self._fixed = most, list(log), pace, fixed
        self._seconds = 0.0  # of all batches
        self._level = 0  # masks that the last batch held, or would have without its question's end
        self._at = 0

    def next(self, left: int, each: int) -> int:
        """How many masks of the ``left`` ones of a question the next batch holds.

        Args:
            each: evaluations that a mask costs.
        """
        level = self._wanted(each)
        if self._at < len(self._log):
            logged = self._log[self._at]
            self._at += 1
            size = min(logged.n_masks, left)
            self.took(logged)
            self._level = level if size == min(level, left) else size
            return size
        self._level = level
        return min(level, left)

    def took(self, batch: Timed) -> None:
        """A batch was answered."""
        if batch.seconds is not None and batch.cost:
            self._pace = batch.seconds / batch.cost
            self._seconds += batch.seconds

    def forget(self, kept: int) -> None:
        """Only so many batches of the log are those of this search."""
        self._log = self._log[:kept]

    def _wanted(self, each: int) -> int:
        if self._fixed:
            return self._most
        level = min(max(1, 2 * self._level), self._most)
        if self._pace is None or self._level == 0:
            return level
        pace, level = self._pace * each, min(self._level, self._most)
        seconds = max(SECONDS, SHARE * self._seconds)
        if min(2 * level, self._most) * pace <= seconds:
            return min(2 * level, self._most)
        if level * pace > 2 * seconds:
            while level > 1 and level * pace > seconds:
                level //= 2
        return level
