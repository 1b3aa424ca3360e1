"""What a store holds, for people to look at, and its evaluations in a file of their own.

Nothing is written to the store, and it may be in use: then it is shown as of its last carrying-over
(half a minute ago at most, while it is filled).
"""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from spex_mech.masks import MaskBatch
from spex_mech.results.files import write_whole
from spex_mech.runs import marks
from spex_mech.runs.holder import is_held, words_of
from spex_mech.runs.store import check_format, explained, place_of, unpacked
from spex_mech.search.contract import cost_of_mask


def contents(path: str | os.PathLike[str]) -> str:
    """What a store holds: a line each for the game, its searches and the file.

    Raises:
        FileNotFoundError: there is none.
        BlockingIOError: a run has just begun to fill it, so that there is nothing to show yet.
        ValueError: it is no store, a damaged one, or a copy without the ``-wal`` that it needs.
    """
    path = place_of(path)
    with _opened(path) as file:
        game = _identity(file, path)
        lines = [f"{path}: {_counts(file)}", f"game: {_game_words(game)}"]
        asked = (
            "SELECT identity, (SELECT count(*) FROM batches WHERE search = id), (SELECT "
            "sum(asked) FROM batches WHERE search = id), seconds, result IS NOT NULL FROM searches"
        )
        for identity, batches, masks, seconds, finished in file.execute(asked):
            if not batches and (kept := _kept_words(identity)):
                lines.append(f"kept: {kept}, worked out in {seconds:.3g} s")
                continue
            state = "finished" if finished else "not finished"
            lines.append(
                f"search: {_search_words(identity)}: {masks or 0:,} masks asked in {batches:,} "
                f"batches and {seconds:.3g} s, {state}"
            )
        lacks_wal = marks.lacks_wal(file, path)
    held, wal = is_held(path), marks.wal_of(path)
    if held:
        lines.append(
            f"in use by {words_of(held)}; shown is what it has carried into {path.name}, half a "
            "minute ago at most"
        )
    elif lacks_wal:
        lines.append(f"{_without_wal(path)} are not shown")
    elif wal.is_file() and wal.stat().st_size:
        lines.append(f"its last run was killed; {wal.name} belongs to it, so copy both")
    return "\n".join(lines)


def export(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> int:
    """Write masks and values as an ``.npz``, whatever version the store is of; returns how many.

    ``masks`` is ``[mask unit]`` (True = kept) and ``values`` ``[mask prompt]``: what
    ``sm.explain(masks, values)`` and ``spex-mech discover --lens data --examples`` take.

    Raises:
        FileNotFoundError: there is no such store.
        ValueError: it is no store, is damaged, or holds no evaluations; or ``out`` is a folder, a
            store or a circuit.
        OSError: it cannot be written.
    """
    path = place_of(path)
    with _opened(path) as file:
        n = int(_identity(file, path)["n_units"])
        rows: dict[bytes, np.ndarray] = {}
        for table in ("evaluations", "gradients"):
            for key, value in file.execute(f"SELECT mask, value FROM {table} ORDER BY rowid"):
                if key[:1] != b"\2":  # of masks that were asked again, the first values
                    rows.setdefault(key, unpacked(path, value, key))
    if not rows:
        raise ValueError(f"{path} holds no evaluations yet")
    masks, values = MaskBatch.of_keys([*rows], n).kept(), np.stack([*rows.values()])
    write_whole(out, lambda file: np.savez_compressed(file, masks=masks, values=values))
    return len(rows)


def evaluations_in(path: str | os.PathLike[str]) -> int:
    """How many evaluations a store holds, of which a gradient is three; 0 where there is none.

    Raises:
        ValueError: it is no store, or is damaged.
    """
    path = Path(os.path.realpath(path))
    if not os.path.isfile(path):
        return 0
    with _opened(path) as file:
        counts = {
            slopes: file.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table, slopes in (("evaluations", False), ("gradients", True))
        }
    return sum(cost_of_mask(slopes) * count for slopes, count in counts.items())


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The file as it is, or with what is beside it a copy of both."""
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"no such store: there is no file {path}; a search with store= (--store) writes one"
        )
    try:
        with _read(path) as file:
            yield file
    except ValueError as error:
        if not (held := is_held(path)):
            raise
        raise BlockingIOError(
            f"{path} is in use by {words_of(held)}, and cannot be read while that writes: {error}"
        ) from error


@contextmanager
def _read(path: Path) -> Iterator[sqlite3.Connection]:
    wal = marks.wal_of(path)
    with tempfile.TemporaryDirectory() as folder, explained(path):
        if wal.is_file() and wal.stat().st_size and not is_held(path):
            marks.check_pair(path)
            copy = Path(folder) / path.name
            shutil.copy(path, copy)
            shutil.copy(wal, marks.wal_of(copy))
            connection = sqlite3.connect(copy)
        else:
            connection = marks.read_only(path)
        with closing(connection) as file:
            check_format(file, path)
            yield file


def _identity(file: sqlite3.Connection, path: Path) -> dict[str, Any]:
    row = file.execute("SELECT identity FROM game").fetchone()
    if row is None and (held := is_held(path)):
        raise BlockingIOError(
            f"{path} is in use by {words_of(held)}, and what it holds can be shown in half a minute"
        )
    if row is None and marks.lacks_wal(file, path):
        raise ValueError(f"{_without_wal(path)} are all that it had; bring it beside the file")
    try:
        return dict(json.loads("" if row is None else row[0]))
    except (TypeError, ValueError) as error:
        raise ValueError("the store does not say of which game it is; it is damaged") from error


def _without_wal(path: Path) -> str:
    wal = marks.wal_of(path).name
    return f"{path} was copied or moved without {wal}: its newest evaluations, which were in there,"


def _counts(file: sqlite3.Connection) -> str:
    values, gradients = (
        file.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0] or 0
        for table in ("evaluations", "gradients")
    )
    words = f"{values + gradients * cost_of_mask(True):,} evaluations"
    return words + (f", of them {gradients:,} gradients" if gradients else "")


def _game_words(game: dict[str, Any]) -> str:
    plain = {key: value for key, value in game.items() if isinstance(value, str | int | float)}
    return ", ".join(f"{key} {value}" for key, value in plain.items())


def _kept_words(identity: str) -> str:
    """What an array is; nothing: it is a search."""
    try:
        return json.loads(identity).get("kept", "")
    except (ValueError, AttributeError):
        return ""


def _search_words(identity: str) -> str:
    try:
        told = json.loads(identity)
    except ValueError:
        return identity[:60]
    plain = {
        key: value for key, value in told.items() if isinstance(value, str | int | float | bool)
    }
    return ", ".join(f"{key} {value}" for key, value in plain.items())
