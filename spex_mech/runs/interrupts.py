"""What an interrupt leaves of a search: with a store all that it holds; without one, a store.

What a search without a store has measured is in memory alone, so an interrupt would cost all of it.
It is written to a new store instead, ``interrupted-DATE-TIME.sqlite`` in the current folder (where
that cannot be written, in the one for temporary files), and the interrupt's text names it: the same
call with ``store=`` that file goes on. Nothing is asked of the game for that, as it may be what
hangs. A second interrupt ends at once, and leaves no file. What took less than some seconds is not
worth a file, and what takes more memory than ``_MOST`` is not held: the text says so.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from spex_mech.driver import Watcher
from spex_mech.game import Answer, Game
from spex_mech.masks import MaskBatch
from spex_mech.runs.checks import Check
from spex_mech.runs.errors import Interruption
from spex_mech.runs.marks import wal_of
from spex_mech.runs.store import opened
from spex_mech.search.contract import Question, cost_of_mask

_WORTH = 5.0  # seconds; what took less is begun anew
_MOST = 500_000_000  # bytes that are held for an interrupt
_N_CHECKS = 3


@dataclass(frozen=True, eq=False)
class _Batch:
    """A batch that was answered."""

    masks: MaskBatch
    slopes: bool
    stage: str
    answer: Answer
    seconds: float

    @property
    def n_bytes(self) -> int:
        slopes = 0 if self.answer.slopes is None else self.answer.slopes.nbytes
        return self.masks.ablated.nbytes + self.answer.values.nbytes + slopes


@dataclass(frozen=True, eq=False)
class _Search:
    """A search, and the batches that it was told."""

    identity: dict[str, Any]
    batches: list[_Batch] = field(default_factory=list)


class Log(Watcher):
    """What the searches of a game have measured so far.

    Args:
        game: which is asked.
        store: the file that keeps it all; None: there is none.
        masks_per_batch: as the user gave it.
        ending: gives what is added to the name of the store that the call will be given, where this
            game is kept beside it (``discover.student_of``).
    """

    def __init__(
        self,
        game: Game,
        store: Path | None = None,
        masks_per_batch: int | None = None,
        ending: Callable[[], str] = str,
    ) -> None:
        self.game, self.store, self._masks_per_batch = game, store, masks_per_batch
        self._ending = ending
        self._searches: list[_Search] = []
        self._arrays: list[tuple[str, dict[str, Any], Float[np.ndarray, " x"]]] = []
        self._n_bytes, self.is_full = 0, False
        self._began = self._since = time.perf_counter()
        self._n_tried = game.n_tried
        self._planned = self._count = 0  # evaluations of the present search

    def begins(self, identity: dict[str, Any]) -> None:
        """A search begins."""
        self._searches.append(_Search(identity))

    def plans(self, planned: int) -> None:
        """So many evaluations will be asked for by it; 0: not known."""
        self._planned, self._count = planned, 0

    def new_trials(self) -> int:
        """Evaluations that it took to find out how the game is called, since the last call."""
        before, self._n_tried = self._n_tried, self.game.n_tried
        return self._n_tried - before

    def array(self, name: str, owner: dict[str, Any], values: Float[np.ndarray, " x"]) -> None:
        """Numbers that a store would keep for all searches."""
        self._hold(values.nbytes)
        if not self.is_full:
            self._arrays.append((name, owner, values))

    def asked(self, question: Question, game: Game) -> None:
        self._since = time.perf_counter()

    def has(self, masks: MaskBatch, question: Question, answer: Answer) -> None:
        self._count += len(masks) * cost_of_mask(question.gradient)
        if self.store is not None or self.is_full or not self._searches:
            return
        now = time.perf_counter()
        seconds, self._since = (now - self._since) * (self.game.n_workers or 1), now
        batch = _Batch(masks, question.gradient, question.stage, answer, seconds)
        self._hold(batch.n_bytes)
        if not self.is_full:
            self._searches[-1].batches.append(batch)

    def _hold(self, n_bytes: int) -> None:
        self._n_bytes += n_bytes
        if self._n_bytes > _MOST:
            self.is_full = True
            self._arrays.clear()
            for search in self._searches:
                search.batches.clear()

    # -- once it is interrupted -------------------------------------------------------------------

    def interrupted(self, say: bool = False) -> Interruption:
        """What an interrupt leaves, once all is kept that can be.

        Args:
            say: that it is being kept, while it is.
        """
        of = f" of {self._planned:,}" if self._planned else ""
        count = f"interrupted after {self._count:,}{of} evaluations"
        if self.store is not None:
            kept = f"they are kept in {self.store}"
            return Interruption(count, kept, self.store, "the same call goes on")
        seconds = time.perf_counter() - self._began
        if self.is_full:
            kept = f"they are not kept, as they take more than {_MOST / 1e6:,.0f} MB: give store="
        elif not any(search.batches for search in self._searches) or seconds < _WORTH:
            kept = f"they are not kept, as they took {seconds:.1f} s"
        else:
            if say:
                print("interrupted: what was measured is being kept", file=sys.stderr)
            try:
                path = self._kept()
            except Exception as error:  # the interrupt is what must reach the user
                kept = f"they could not be kept: {' '.join(str(error).split())}"
            else:
                kept = f"they are kept in {path}"
                on = f"the same call with store={str(path)!r} goes on"
                return Interruption(count, kept, path, on)
        return Interruption(count, kept)

    def _kept(self) -> Path:
        """The store that goes on, once all is kept."""
        named = _free_path()
        path = named.with_name(named.name + self._ending())
        try:
            with opened(path, self.game, check=False) as store:
                # It is whole or removed, so that nothing need be waited for in between.
                store.connection.execute("PRAGMA synchronous = OFF")
                store.keep_checks(self._checks())
                for name, owner, values in self._arrays:
                    store.array(name, owner, lambda values=values: values)
                for search in self._searches:
                    run = store.search(search.identity, self.game, self._masks_per_batch)
                    for of in search.batches:
                        run.take(of.masks, of.slopes, of.stage, of.answer, of.seconds)
                store.connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            path.unlink(missing_ok=True)
            wal_of(path).unlink(missing_ok=True)
            raise
        return named

    def _checks(self) -> Sequence[Check]:
        """The masks that ablate fewest and most units, and one in between, with their values."""
        known = [(of, row) for search in self._searches for of in search.batches[:50]
                 for row in range(len(of.masks))]  # fmt: skip
        sizes = np.array([int((of.masks.ablated[row] >= 0).sum()) for of, row in known])
        order = np.argsort(sizes, kind="stable")
        chosen = dict.fromkeys(
            order[np.linspace(0, len(order) - 1, _N_CHECKS).astype(int)].tolist()
        )
        return [
            Check(known[at][0].masks.rows([known[at][1]]).sets()[0],
                  known[at][0].answer.values[known[at][1]])
            for at in chosen
        ]  # fmt: skip


@contextmanager
def told(log: Log, say: bool) -> Iterator[None]:
    """Within the block an interrupt keeps what the log holds, and says where.

    Args:
        say: say on stderr that it is being kept, while it is.

    Raises:
        KeyboardInterrupt: with an ``Interruption``. What else ends a process (SIGTERM on the
            command line) is raised as it is, with a note.
    """
    try:
        yield
    except (Exception, GeneratorExit):
        raise
    except KeyboardInterrupt as stop:
        if Interruption.of(stop) is not None:
            raise
        raise KeyboardInterrupt(log.interrupted(say)) from None
    except BaseException as stop:
        stop.add_note(str(log.interrupted(say)))
        raise


def _free_path() -> Path:
    """A name that nothing has, in the current folder or in that for temporary files."""
    try:
        folder = Path.cwd()
    except FileNotFoundError:  # it is gone
        folder = Path(tempfile.gettempdir())
    if not os.access(folder, os.W_OK):
        folder = Path(tempfile.gettempdir())
    name, number = time.strftime("interrupted-%Y%m%d-%H%M%S"), 1
    path = folder / f"{name}.sqlite"
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}.sqlite"
    return path
