"""A search on a game, with workers and a store where they are asked for.

What ``discover``, ``measure``, ``confirm`` and ``distill`` have in common, and any other search
that wants both: ``with game_from(...) as game: cost = driven(game, search, ...)``.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from spex_mech.arguments import shown, whole
from spex_mech.driver import Unchanged, Watcher, drive
from spex_mech.game import Game, as_game
from spex_mech.runs.store import opened
from spex_mech.runs.workers import started
from spex_mech.search.contract import Search

Path = str | os.PathLike[str]


@contextmanager
def game_from(
    game: Any,
    n: int | None = None,
    labels: Sequence[str] | None = None,
    workers: int | None = None,
    address: str | None = None,
    timeout: float | None = None,
    vectorized: bool | None = None,
) -> Iterator[Game]:
    """A user's game, function or factory as a game, for the time of the block.

    Args:
        game: with ``workers`` or ``address`` a factory, such as a ``GameFactory``; otherwise what
            ``as_game`` takes.
        n, labels, vectorized: of a function.
        workers, address, timeout: as for ``discover``.

    Raises:
        ValueError: it is no game, or no factory; or a timeout without workers.
    """
    if workers is None and address is None:
        if timeout is not None:
            raise ValueError(
                "timeout= needs workers=1 or more: only a process of its own can be ended while it "
                "computes"
            )
        yield as_game(game, n, labels, vectorized)
        return
    if workers is not None:
        whole("workers", workers, 1)
    if not callable(game):
        raise ValueError(f"with workers, game is what makes the game, and {shown(game)} is no such")
    with started(game, workers, address, timeout) as remote:
        yield as_game(remote, n, labels, vectorized)


def driven(
    game: Game,
    search: Search,
    identity: dict[str, Any],
    *,
    progress: bool = True,
    store: Path | None = None,
    watcher: Watcher | None = None,
) -> dict[str, int | float]:
    """Drive a search to its end: what it cost. The search then has its findings.

    Args:
        identity: what the search is, for the store: a search of the same identity goes on where it
            was. Plain values, arrays and objects whose content can be hashed.
        store: a file that keeps every evaluation; None: none is kept.
        watcher: hears what happens.
    """
    if store is None:
        return drive(game, search, progress, None, watcher)
    unchanged = Unchanged(game)
    with opened(store, game, progress=progress) as kept:
        run = kept.search(identity, game)
        return drive(game, search, progress, run, watcher, unchanged)
