"""A search on a game, with workers and a store where they are asked for.

What every verb has in common (``discover``, ``measure``, ``confirm``, ``distill``, the circuits'),
and any other search that wants both::

    how = RunSettings(store="run.sqlite", workers=4)
    with how.game_of(game) as ready:
        cost = how.driven(ready, search, {"method": "mine"})
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from spex_mech.arguments import file_of, shown, switch, text_of, whole
from spex_mech.driver import Unchanged, Watcher, Watchers, drive
from spex_mech.game import Game, as_game
from spex_mech.masks import MaskBatch
from spex_mech.runs.interrupts import Log, told
from spex_mech.runs.store import KeptArray, Run, Store, opened
from spex_mech.runs.workers import started
from spex_mech.search.contract import Search


@dataclass(frozen=True)
class RunSettings:
    """What computes a search and what is kept of it: every verb takes these, by these names.

    Args:
        progress, store, workers, address, masks_per_batch, timeout: as for ``discover``.

    Raises:
        ValueError: one is not what it must be, or there is a timeout without workers.
    """

    progress: bool = True
    store: str | os.PathLike[str] | None = None
    workers: int | None = None
    address: str | None = None
    masks_per_batch: int | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        if self.store is not None:
            object.__setattr__(self, "store", file_of("store", self.store))
        switch("progress", self.progress)
        if self.address is not None:
            text_of("address", self.address, "auto")
        for name in ("workers", "masks_per_batch"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole(name, value, 1))
        if self.timeout is None:
            return
        number = isinstance(self.timeout, int | float) and not isinstance(self.timeout, bool)
        if not number or not self.timeout > 0:
            unit = f"{self.timeout:g} s" if number else shown(self.timeout)
            raise ValueError(f"timeout is {unit}; it must be more than 0 seconds")
        if not self.far:
            raise ValueError(
                "timeout= needs workers=1 or more: only a process of its own can be ended while it "
                "computes"
            )

    @property
    def far(self) -> bool:
        """Whether workers compute, which make the game themselves."""
        return self.workers is not None or self.address is not None

    @contextmanager
    def game_of(
        self,
        game: Any,
        n: int | None = None,
        labels: Sequence[str] | None = None,
        vectorized: bool | None = None,
    ) -> Iterator[Game]:
        """A user's game, function or factory as a game, for the time of the block.

        Args:
            game: with workers a factory, such as a ``GameFactory``; otherwise what ``as_game``
                takes.
            n, labels, vectorized: of a function.

        Raises:
            ValueError: it is no game, or no factory.
        """
        if not self.far:
            yield as_game(game, n, labels, vectorized)
            return
        if not callable(game):
            raise ValueError(
                f"with workers, game is what makes the game, and {shown(game)} is no such"
            )
        with started(game, self.workers, self.address, self.timeout) as remote:
            yield as_game(remote, n, labels, vectorized)

    @contextmanager
    def session(
        self, game: Game, log: Log | None = None, ending: Callable[[], str] = str
    ) -> Iterator["Session"]:
        """The game with its store, where there is one, for the time of the block.

        Args:
            log: what an interrupt keeps where that is of another session; default: of this one.
            ending: of the file that an interrupt leaves (``runs.interrupts.Log``).

        Raises:
            KeyboardInterrupt: with what it leaves (``runs.interrupts``).
        """
        unchanged = Unchanged(game)
        store = opened(self.store, game, progress=self.progress) if self.store else nullcontext()
        own = Log(
            game, None if self.store is None else Path(self.store), self.masks_per_batch, ending
        )
        with store as kept, told(own if log is None else log, self.progress):
            for check in () if kept is None else kept.checks:
                unchanged.see(len(check.values), MaskBatch.of_sets([check.ablated], len(game)))
            yield Session(game, self, kept, unchanged, own)

    def driven(
        self,
        game: Game,
        search: Search,
        identity: dict[str, Any],
        watcher: Watcher | None = None,
    ) -> dict[str, int | float]:
        """Drive a search to its end: what it cost. The search then has its findings.

        Args:
            identity: what the search is, for the store: a search of the same identity goes on where
                it was. Plain values, arrays and objects whose content can be hashed.
            watcher: hears what happens.
        """
        with self.session(game) as session:
            return session.drive(search, session.run(identity), watcher)


@dataclass(frozen=True, eq=False)
class Session:
    """A game and its store, which is open. Made by :meth:`RunSettings.session`."""

    game: Game
    how: RunSettings
    store: Store | None
    unchanged: Unchanged
    log: Log  # what was measured without a store, for an interrupt

    def run(self, identity: dict[str, Any]) -> Run | None:
        """A search's part of the store, where there is one; for ``identity`` see ``driven``."""
        self.log.begins(identity)
        if self.store is None:
            return None
        return self.store.search(identity, self.game, self.how.masks_per_batch)

    def array(
        self, name: str, owner: dict[str, Any], make: Callable[[], Float[np.ndarray, " x"]]
    ) -> KeptArray:
        """Numbers that a store keeps for all searches of a game (``Store.array``); without one they
        are worked out.

        Raises:
            RuntimeError: what the game is made from changed meanwhile.
        """

        def checked() -> Float[np.ndarray, " x"]:
            values = make()
            self.unchanged.check()
            return values

        if self.store is not None:
            return self.store.array(name, owner, checked)
        began = time.perf_counter()
        values = checked()
        self.log.array(name, owner, values)
        return KeptArray(values, time.perf_counter() - began, False)

    def drive(
        self, search: Search, run: Run | None, watcher: Watcher | None = None
    ) -> dict[str, int | float]:
        """Drive a search to its end: what it cost."""
        self.log.plans(search.planned)
        cost = drive(
            self.game,
            search,
            self.how.progress,
            run,
            self.log if watcher is None else Watchers((self.log, watcher)),
            self.unchanged,
            self.how.masks_per_batch,
        )
        if run is not None:
            run.end()
        if tried := self.log.new_trials():
            cost["checks"] = cost.get("checks", 0) + tried
        return cost
