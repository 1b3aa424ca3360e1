"""A run on disk: what was evaluated is kept, so that a killed search goes on where it was.

One SQLite file per game. It holds every evaluation by its mask (values per prompt, and gradients
where they were asked for), the log of each search's batches, and each finished result.

*Exactly.* A value may depend in its last bits on which masks shared its batch, so two rules hold:

1. What a search is told is what the file holds: a batch is committed, whole, before its answer is
   passed on, and a mask's first answer is never replaced. Values that came with a gradient are
   kept apart, as the two passes may differ in the last bits; they serve as values too where no
   other was asked for first.
2. A search asks for the same batches however often it was killed. It is deterministic given the
   answers, a batch is committed as a whole or not at all, and the number of masks of each batch is
   in its log: from one upwards, until a batch takes some seconds (``runs.batches``). So a search
   that starts again finds what is committed, and asks for the first batch that is missing as it
   would have without the kill.

Another search on the same game finds masks that are there already, and asks for the rest of each
batch. It may then differ in the last bits from what it would have found alone, as may a search that
goes on after another one has written to the file in between; every value is one that was measured.

*Nothing stale.* Three masks are asked at each opening (``runs.checks``), and where their values are
no longer those of the first opening the store is refused. They cost three evaluations a call, which
are not of the budget. With them and all commits, a search of 1,000 evaluations of 1 ms each took
1.05 times as long as without a store (median of seven pairs of runs, one core).

*What may be lost.* Nothing that was committed: a transaction a batch, in a write-ahead log that is
synchronised at each commit (a few milliseconds, of batches that take longer). A process that is
killed leaves a file that opens. A second process is refused while the first one lives: by SQLite's
own lock on the file, and by ``NAME.holder`` beside it where such locks do nothing or are lost.

*The file.* While it is filled, what is new is in ``NAME-wal`` beside it: copy both. A copy without
it, a ``-wal`` of another state of the file, and a file that is moved meanwhile are noticed
(``runs.marks``). A run that ends leaves one file. After an upgrade it goes on with a warning, where
the three values are the same; a place that cannot be written gives finished results. ``spex-mech
store FILE`` shows what is in it, and exports its evaluations.

*Size.* A mask is the list of the units that it ablates, in two bytes each, or a bit a unit,
whichever is smaller; values are float64, or float32 where that is exact (as for models that compute
in it). Gradients take ``4 * blocks * units`` bytes, or 8. Nothing is unpickled: JSON and numbers.
"""

import ctypes
import errno
import json
import os
import sqlite3
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float

from spex_mech.arguments import file_of, whole
from spex_mech.driver import Unchanged
from spex_mech.fingerprints import function_identity, version_of
from spex_mech.game import Answer, Game, as_game
from spex_mech.masks import MaskBatch
from spex_mech.notices import warn
from spex_mech.results.files import explained as written
from spex_mech.results.interactions import Interactions, from_bytes, to_bytes
from spex_mech.runs import marks
from spex_mech.runs.batches import Sizes, Timed
from spex_mech.runs.checks import Check, compare, first_checks
from spex_mech.runs.holder import Holder
from spex_mech.search.contract import cost_of_mask

_APPLICATION = 0x73706578  # marks the file as one of these
_FORMAT = 3
_PAGE = 8192  # bytes; dense masks of 10,000 units, of which 4,096 would hold two or three
_TOGETHER = 1000  # checks of this number and more were not asked alone
_LONGEST = 238  # bytes of its name; that of its lock has 17 more
_OWNER = 16  # bytes that tell which search worked an array out
_MOST_BLOB = 900_000_000  # SQLite takes a little more
_TYPES = {b"f": np.dtype("<f4"), b"d": np.dtype("<f8")}
_VERSIONS = ("spex_mech", "torch", "numpy", "transformers", "transformer-lens")
_NAMED_VERSIONS = {f"version of {name}": name for name in _VERSIONS}
_TABLES = """
CREATE TABLE game (identity TEXT NOT NULL);
CREATE TABLE searches (
    id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE, masks_per_batch INTEGER NOT NULL,
    batch_size INTEGER, seconds REAL NOT NULL DEFAULT 0, result BLOB);
CREATE TABLE batches (
    search INTEGER NOT NULL, number INTEGER NOT NULL, stage TEXT NOT NULL, gradient INTEGER NOT
    NULL, masks INTEGER NOT NULL, asked INTEGER NOT NULL, digest BLOB NOT NULL,
    seconds REAL, PRIMARY KEY (search, number)) WITHOUT ROWID;
CREATE TABLE evaluations (
    hash INTEGER NOT NULL, search INTEGER NOT NULL, mask BLOB NOT NULL, value BLOB NOT NULL);
CREATE INDEX evaluations_by_hash ON evaluations (hash);
CREATE TABLE gradients (
    hash INTEGER NOT NULL, search INTEGER NOT NULL, mask BLOB NOT NULL, value BLOB NOT NULL,
    gradient BLOB NOT NULL);
CREATE INDEX gradients_by_hash ON gradients (hash);
"""
_SINCE_2 = """
CREATE TABLE checks (number INTEGER PRIMARY KEY, units TEXT NOT NULL, value BLOB NOT NULL);
"""
# What is run on a file of each format, to make it one of the next.
_NEXT = {
    0: _TABLES + _SINCE_2 + marks.TABLE,
    1: "ALTER TABLE batches ADD COLUMN seconds REAL;" + _SINCE_2 + marks.TABLE,
    2: marks.TABLE,
}
_CARRIED_OVER = 4_000_000, 30.0  # bytes beside the file, and seconds, after which they go into it


@dataclass(frozen=True, eq=False)
class KeptArray:
    """Numbers that a store keeps for all searches of its game.

    Args:
        values: the numbers.
        seconds: that it took to work them out.
        is_reused: another search had left them.
    """

    values: Float[np.ndarray, " x"]
    seconds: float
    is_reused: bool


@contextmanager
def opened(
    path: str | os.PathLike[str], game: Any, check: bool = True, progress: bool = False
) -> Iterator["Store"]:
    """The store of a game, made where there is none, and held until the end of the block.

    Args:
        check: ask three masks, of a store that is not new again (``runs.checks``).
        progress: say whether it is a new store, or how many evaluations it holds.

    A file that cannot be written is read: what it holds of finished results can be had, and every
    search else is refused.

    Raises:
        ValueError: the file is no store, is damaged, of a newer format, or of another game; or the
            game's values are no longer those that it holds.
        BlockingIOError: another process holds it.
        OSError: the file cannot be written.
    """
    path = place_of(path)  # wherever the game goes meanwhile
    if (length := len(os.fsencode(path.name))) > _LONGEST:
        raise ValueError(
            f"the store's name {path.name[:20]}... has {length} bytes; give one of at most "
            f"{_LONGEST}, as files beside it have longer names"
        )
    if path.is_file() and not all(os.access(at, os.W_OK) for at in (path.parent, path)):
        with _read_only(path, game, check) as store:
            yield store
        return
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        _not_writable(path)
    holder = Holder(path)
    try:
        had_wal = marks.check_pair(path)
        with explained(path):
            connection = sqlite3.connect(path, timeout=1, isolation_level=None)
        try:
            with explained(path):
                _prepare(connection, path)
                marks.begin(connection, path, had_wal)
            try:
                store = Store(path, holder, connection, len(game), _Was(path.stat()))
                store._open(as_game(game), check, progress)
                yield store
            finally:
                if not holder.is_fork:
                    marks.end(connection)
        finally:
            if holder.is_fork:
                _never_closed(connection)
            else:
                connection.close()
    finally:
        holder.release()


def place_of(path: str | os.PathLike[str]) -> Path:
    """Where a store is, behind links: what SQLite keeps beside it is there.

    Raises:
        ValueError: the path is none.
    """
    return Path(os.path.realpath(file_of("store", path)))


def _never_closed(connection: sqlite3.Connection) -> None:
    """Of a fork of the process that fills the file: closing it, also when the fork ends, would
    carry the ``-wal`` over and remove it while the other process goes on, which spoils the file."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


@contextmanager
def _read_only(path: Path, game: Any, check: bool) -> Iterator["Store"]:
    """A store that cannot be written: its finished results can be had."""
    with explained(path):
        connection = marks.read_only(path)
    try:
        with explained(path):
            check_format(connection, path)
        store = Store(path, None, connection, len(game), _Was(path.stat()))
        store._open(as_game(game), check, progress=False)
        yield store
    finally:
        connection.close()


def identity_of(game: Any) -> dict[str, Any]:
    """What tells this game's values from those of any other, as far as it can be known.

    A game says it by ``provenance()`` and ``identity()``. Of a function or a game without an
    ``identity()`` of its own, the code and what it holds are hashed (``fingerprints``): what it
    reads from files or asks of a server is not seen, and a list that it fills as it goes makes it
    another game.
    """
    game = as_game(game)
    labels = blake2b(json.dumps(game.labels).encode(), digest_size=8).hexdigest()
    units = {"n_units": len(game), "labels_hash": labels}
    versions = {of: version_of(name) for of, name in _NAMED_VERSIONS.items()}
    own = {**game.provenance(), **game.identity()}
    # From the rest, or from what the code does.
    for follows in ("experts", "metric_python", "prompt_hashes", "cluster_ids"):
        own.pop(follows, None)
    return json.loads(json.dumps({**own, **units, **versions}, default=str))


@dataclass(frozen=True, eq=False)
class Store:
    """An open file. Made by :func:`opened`."""

    path: Path
    holder: Holder | None  # None: it is only read
    connection: sqlite3.Connection
    n: int
    was: "_Was"
    checks: list[Check] = field(default_factory=list)  # that this opening asked

    def search(
        self, identity: dict[str, Any], game: Any, masks_per_batch: int | None = None
    ) -> "Run":
        """The part of one search, which goes on if it was here before.

        Args:
            identity: what it was called with; JSON.
            masks_per_batch: how many masks every new batch holds; None: from one upwards, until a
                batch takes long enough or holds as many as the game wants (``runs.batches``).
        """
        text = json.dumps(identity, sort_keys=True, default=option_identity)
        own = as_game(game).masks_per_batch
        most = whole("masks_per_batch", masks_per_batch or own, 1)
        if self.holder is None:
            return self._finished(text, game)
        with self.transaction():
            row = self._search_row(text)
            if row is None:
                new = "INSERT INTO searches (identity, masks_per_batch) VALUES (?, ?)"
                self.connection.execute(new, (text, most))
                row = self._search_row(text)
        assert row is not None
        number, kept, size, seconds = row
        game = as_game(game)
        if isinstance(size, int):  # what memory left room for then; never more
            game.limit_pass_size(size)
        sizes = Sizes(masks_per_batch or kept, *self._paces(number), bool(masks_per_batch))
        return Run(self, number, sizes, seconds, game)

    def array(
        self, name: str, owner: dict[str, Any], make: Callable[[], Float[np.ndarray, " x"]]
    ) -> "KeptArray":
        """Numbers that are worked out once for all searches of this game, such as gradients at
        gates, which are no masks.

        Args:
            name: what they are.
            owner: the identity of the search that asks.
            make: works them out.

        Raises:
            PermissionError: they are not there, and the file cannot be written.
        """
        text = json.dumps({"kept": name})
        told = json.dumps(owner, sort_keys=True, default=option_identity).encode()
        mine = blake2b(told, digest_size=_OWNER).digest()
        with explained(self.path):
            asked = "SELECT seconds, result FROM searches WHERE identity = ?"
            row = self.connection.execute(asked, (text,)).fetchone()
        if row is not None:
            whose, key = row[1][:_OWNER], text.encode() + row[1][:_OWNER]
            return KeptArray(unpacked(self.path, row[1][_OWNER:], key), row[0], whose != mine)
        if self.holder is None:
            _not_writable(self.path)
        began = time.perf_counter()
        values = make()
        seconds = time.perf_counter() - began
        new = (
            "INSERT INTO searches (identity, masks_per_batch, seconds, result) VALUES (?, 0, ?, ?)"
        )
        with self.transaction():
            data = mine + packed(values, text.encode() + mine)
            self.connection.execute(new, (text, seconds, data))
        return KeptArray(values, seconds, False)

    def _finished(self, text: str, game: Any) -> "Run":
        """A search of a store that is only read.

        Raises:
            PermissionError: it is not finished.
        """
        with explained(self.path):
            row = self._search_row(text)
        if row is not None:
            run = Run(self, row[0], Sizes(row[1], []), row[3], as_game(game))
            if run.result() is not None:
                warn(
                    f"{self.path} cannot be written: its finished result is returned, and nothing "
                    "is kept",
                )
                return run
        _not_writable(self.path)

    def _paces(self, number: int) -> tuple[list[Timed], float | None]:
        """The batches of a search, and the seconds per evaluation of the search before it."""
        execute = self.connection.execute
        cost = f"asked * CASE gradient WHEN 0 THEN 1 ELSE {cost_of_mask(True)} END"
        with explained(self.path):
            own = f"SELECT masks, {cost}, seconds FROM batches WHERE search = ? ORDER BY number"
            log = [Timed(*row) for row in execute(own, (number,)).fetchall()]
            before = (
                f"SELECT seconds / ({cost}) FROM batches WHERE search < ? AND asked > 0 AND "
                "seconds IS NOT NULL ORDER BY search DESC, number DESC LIMIT 1"
            )
            row = execute(before, (number,)).fetchone()
        return log, None if row is None else row[0]

    def _search_row(self, text: str) -> tuple[int, int, int | None, float] | None:
        asked = "SELECT id, masks_per_batch, batch_size, seconds FROM searches WHERE identity = ?"
        return self.connection.execute(asked, (text,)).fetchone()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written inside, or nothing."""
        if self.holder is not None:
            self.holder.check()
        with explained(self.path):
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise
            self._look_after()

    def _look_after(self) -> None:
        """Whether the file is where it was, and enough is beside it to be carried over."""
        try:
            here = os.path.samestat(self.path.stat(), self.was.first)
        except FileNotFoundError:
            here = False
        if not here and not self.was.is_told:
            self.was.is_told = True
            warn(
                f"{self.path} was moved, removed or replaced while it was filled. The search goes "
                "on; what it evaluates is kept in the file where that is now, if it is anywhere",
            )
        size, seconds = _CARRIED_OVER
        wal, now = marks.wal_of(self.path), time.monotonic()
        large = wal.is_file() and wal.stat().st_size > size
        if large or now - self.was.carried_over > seconds:
            self.was.carried_over = now
            marks.carry_over(self.connection)

    def n_evaluations(self) -> int:
        """How many it holds; a gradient counts as three."""
        with explained(self.path):
            values, gradients = (
                self.connection.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0] or 0
                for table in ("evaluations", "gradients")
            )
        return values + gradients * cost_of_mask(True)

    def _open(self, game: Game, check: bool, progress: bool) -> None:
        """Whether it is a store of this game, and still so."""
        others = self._of_game(identity_of(game))
        if progress:
            count = self.n_evaluations()
            what = f"going on with {count:,} evaluations" if count else "new store"
            print(f"{self.path}: {what}", file=sys.stderr)
        if check:
            self._check(game)
        if others:
            warn(
                f"{self.path} was filled with other versions: {'; '.join(others)}. "
                + ("The values that were asked again are the same" if check else "It is used"),
            )

    def _check(self, game: Game) -> None:
        """Whether the game's values are still those of the store; see ``runs.checks``."""
        rows: list[tuple[str, bytes, int]] = []
        with explained(self.path):
            if self.connection.execute("PRAGMA user_version").fetchone()[0] > 1:
                asked = "SELECT units, value, number FROM checks ORDER BY number"
                rows = self.connection.execute(asked).fetchall()
        together = bool(rows) and rows[0][2] >= _TOGETHER
        if rows:
            try:
                units = [tuple(json.loads(u)) for u, _, _ in rows]
            except (TypeError, ValueError) as error:
                _damaged(self.path, "it does not say which masks it was checked with", error)
            kept = [
                Check(ablated, unpacked(self.path, v, u.encode()))
                for ablated, (u, v, _) in zip(units, rows, strict=True)
            ]
            compare(self.path, game, kept, together)
            self.checks.extend(kept)
        if self.holder is not None and (together or not rows):
            unchanged = Unchanged(game)
            first = first_checks(game)
            unchanged.check()  # or the store would hold values of another model
            self.checks.extend(first)
            self._write_checks(first)

    def keep_checks(self, checks: Sequence[Check]) -> None:
        """Keep the values of some masks that were asked with others: the next opening compares
        them, and then keeps some that it asks alone."""
        self._write_checks(checks, _TOGETHER)

    def _write_checks(self, checks: Sequence[Check], start: int = 0) -> None:
        with self.transaction():
            self.connection.execute("DELETE FROM checks")
            for number, check in enumerate(checks, start):
                units = json.dumps(check.ablated)
                row = (number, units, packed(check.values, units.encode()))
                self.connection.execute("INSERT INTO checks VALUES (?, ?, ?)", row)

    def _of_game(self, own: dict[str, Any]) -> list[str]:
        """Which versions differ from those that it was filled with.

        Raises:
            ValueError: something else differs, or what it says cannot be read.
        """
        with explained(self.path):
            row = self.connection.execute("SELECT identity FROM game").fetchone()
        if row is None and self.holder is not None:
            with self.transaction():
                self.connection.execute("INSERT INTO game VALUES (?)", (json.dumps(own),))
            return []
        try:
            kept = dict(json.loads("" if row is None else row[0]))
        except (TypeError, ValueError) as error:
            _damaged(self.path, "it does not say of which game it is", error)
        differs = dict(_differences(own, kept))
        others = {name: text for name, text in differs.items() if name not in _NAMED_VERSIONS}
        if others:
            shown = list(others.values())
            more = f", and {len(shown) - 3} more" if len(shown) > 3 else ""
            raise ValueError(
                f"{self.path} is the store of another game: {'; '.join(shown[:3])}{more}. Give "
                "another file"
            )
        return list(differs.values())


@dataclass
class _Was:
    """The file as it was opened."""

    first: os.stat_result
    carried_over: float = field(default_factory=time.monotonic)
    is_told: bool = False


@dataclass(frozen=True, eq=False)
class Looked:
    """A batch as it was looked up in a store.

    Args:
        keys, hashes: of its masks.
        found: the value and gradient of each mask that is there.
        missing: the rows to ask for: those not there that no batch on its way asks for.
        since: when it was.
    """

    keys: list[bytes]
    hashes: list[int]
    found: list[tuple[Any, Any] | None]
    missing: list[int]
    since: float


@dataclass(frozen=True)
class _Batch:
    """A line of a search's log."""

    slopes: bool
    stage: str
    n_masks: int
    digest: bytes
    seconds: float


class Run:
    """One search's part of a store: answers what is there, keeps what is not.

    Args:
        number: of the search in the store.
        sizes: how many masks its batches hold.
        seconds: of earlier sittings.
    """

    def __init__(self, store: Store, number: int, sizes: Sizes, seconds: float, game: Game) -> None:
        self.store, self.number, self._sizes = store, number, sizes
        self.reused, self.checks = 0, len(store.checks)
        self.seconds = seconds
        self._game, self._since = game, time.perf_counter()
        self._batch, self._answered = 0, 0.0
        self._on_their_way: set[bytes] = set()  # masks of batches that were looked up ahead
        count = "SELECT count(*) FROM batches WHERE search = ?"
        with explained(store.path):
            self._logged: int = self._one(count, number)

    def next_size(self, left: int, slopes: bool) -> int:
        """How many masks the next batch holds, of those that are left of a question."""
        return self._sizes.next(left, cost_of_mask(slopes))

    def look(self, masks: MaskBatch, slopes: bool) -> Looked:
        """What of a batch is in the store, for :meth:`answer` later; batches that are looked up
        ahead are answered in the same order."""
        keys = masks.keys()
        hashes = [_hash(key) for key in keys]
        with explained(self.store.path):
            found = [self._find(slopes, *of) for of in zip(hashes, keys, strict=True)]
        unknown = [row for row, known in enumerate(found) if known is None]
        missing = [row for row in unknown if keys[row] not in self._on_their_way]
        self._on_their_way.update(keys[row] for row in missing)
        return Looked(keys, hashes, found, missing, time.perf_counter())

    def answer(
        self,
        masks: MaskBatch,
        slopes: bool,
        stage: str,
        looked: Looked | None,
        ask: Callable[[], Answer],
    ) -> Answer:
        """The answer to a batch: what is in the store, and what ``ask`` gives for the rows that are
        missing there, once it is committed.

        Args:
            stage: what the log calls it.
            looked: as it was looked up; None: look now.
        """
        looked = looked or self.look(masks, slopes)
        keys, hashes, found, missing = looked.keys, looked.hashes, looked.found, looked.missing
        digest = _digest(slopes, hashes)
        self._check_log(digest)
        with explained(self.store.path):
            asked = {*missing}
            for row, known in enumerate(found):
                if known is None and row not in asked:  # a batch before this one asked for it
                    found[row] = self._find(slopes, hashes[row], keys[row])
        first: dict[bytes, int] = {}
        if missing:
            new = ask()
            for at, row in enumerate(missing):  # a mask that is asked twice has its first answer
                at = first.setdefault(keys[row], at)
                found[row] = (new.values[at], None if new.slopes is None else new.slopes[at])
        now = time.perf_counter()
        # Of each of the workers that compute side by side.
        seconds = (now - max(looked.since, self._answered)) * (self._game.n_workers or 1)
        self._answered = now
        rows = [missing[at] for at in first.values()]
        answers = [known for known in found if known is not None]
        if rows or self._batch >= self._logged:
            batch = _Batch(slopes, stage, len(masks), digest, seconds)
            self._commit(batch, keys, hashes, answers, rows)
            self._sizes.took(Timed(len(masks), len(rows) * cost_of_mask(slopes), seconds))
        self._on_their_way.difference_update(first)
        self._batch += 1
        values = np.stack([value for value, _ in answers])
        if not slopes:
            return Answer(values)
        return Answer(values, np.stack([slope for _, slope in answers if slope is not None]))

    def take(
        self, masks: MaskBatch, slopes: bool, stage: str, answer: Answer, seconds: float
    ) -> None:
        """Keep a batch that was answered without this store.

        Args:
            seconds: that it took.
        """
        looked = self.look(masks, slopes)
        answers: list[tuple[Any, Any]] = [
            (value, None if answer.slopes is None else answer.slopes[row])
            for row, value in enumerate(answer.values)
        ]
        first: dict[bytes, int] = {}
        for row in looked.missing:
            first.setdefault(looked.keys[row], row)
        digest = _digest(slopes, looked.hashes)
        batch = _Batch(slopes, stage, len(masks), digest, seconds)
        self.seconds, self._since = self.seconds + seconds, time.perf_counter()
        self._commit(batch, looked.keys, looked.hashes, answers, [*first.values()])
        self._on_their_way.clear()
        self._batch += 1

    def result(self) -> Interactions | None:
        """The finished result, if there is one."""
        with explained(self.store.path):
            data = self._one("SELECT result FROM searches WHERE id = ?", self.number)
        return from_bytes(data, f"{self.store.path}: result") if data else None

    def end(self) -> None:
        """Note that the search ended, also where its result is none that is kept."""
        if self.store.holder is not None:
            ended = "UPDATE searches SET result = coalesce(result, x'') WHERE id = ?"
            with self.store.transaction():
                self._write(ended, self.number)

    def finish(self, found: Interactions) -> Interactions:
        """Keep the result; it comes back as a later call will give it."""
        data = to_bytes(found)
        # A larger one is worked out again, from what was evaluated.
        if self.store.holder is not None and len(data) < _MOST_BLOB:
            with self.store.transaction():
                self._write("UPDATE searches SET result = ? WHERE id = ?", data, self.number)
        return from_bytes(data)

    def _find(self, gradient: bool, hash: int, key: bytes) -> tuple[Any, Any] | None:
        asked = "SELECT search, value{} FROM {} WHERE hash = ? AND mask = ?"
        execute, at = self.store.connection.execute, (hash, key)
        row = None
        if not gradient:
            row = execute(asked.format("", "evaluations"), at).fetchone()
        if row is None:  # a gradient has its value beside it
            columns = ", gradient" if gradient else ""
            row = execute(asked.format(columns, "gradients"), at).fetchone()
        if row is None:
            return None
        if row[0] != self.number:
            self.reused += cost_of_mask(gradient)
        value = unpacked(self.store.path, row[1], key)
        if not gradient:
            return value, None
        return value, unpacked(self.store.path, row[2], key).reshape(-1, self.store.n)

    def _commit(
        self,
        batch: "_Batch",
        keys: list[bytes],
        hashes: list[int],
        answers: list[tuple[Any, Any]],
        rows: list[int],
    ) -> None:
        now = time.perf_counter()
        seconds = self.seconds + now - self._since
        with self.store.transaction():
            new: list[tuple[Any, ...]] = []
            for row in rows:
                value, gradient = answers[row]
                at = (hashes[row], self.number, keys[row], packed(value, keys[row]))
                new.append((*at, packed(gradient.ravel(), keys[row])) if batch.slopes else at)
            table, places = ("gradients", 5) if batch.slopes else ("evaluations", 4)
            marked = ", ".join("?" * places)
            self.store.connection.executemany(f"INSERT INTO {table} VALUES ({marked})", new)
            self._write(
                "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                self.number,
                self._batch,
                batch.stage,
                int(batch.slopes),
                batch.n_masks,
                len(rows),
                batch.digest,
                batch.seconds,
            )
            changed = "UPDATE searches SET seconds = ?, batch_size = ? WHERE id = ?"
            self._write(changed, seconds, self._game.pass_size(), self.number)
        self.seconds, self._since = seconds, now

    def _check_log(self, digest: bytes) -> None:
        """A search that goes on must ask as it did before."""
        if self._batch >= self._logged:
            return
        asked = "SELECT digest FROM batches WHERE search = ? AND number = ?"
        if self._one(asked, self.number, self._batch) == digest:
            return
        warn(
            f"{self.store.path}: the search asks for other masks than before from batch "
            f"{self._batch} on, so it does not only go on (a proxy of your own without a seed?); "
            "what was evaluated is used all the same",
        )
        with self.store.transaction():
            gone = "DELETE FROM batches WHERE search = ? AND number >= ?"
            self._write(gone, self.number, self._batch)
        self._logged = self._batch
        self._sizes.forget(self._batch)

    def _one(self, asked: str, *values: Any) -> Any:
        return self.store.connection.execute(asked, values).fetchone()[0]

    def _write(self, statement: str, *values: Any) -> None:
        self.store.connection.execute(statement, values)


def packed(values: Float[np.ndarray, " x"], key: bytes) -> bytes:
    """Numbers as bytes, in float32 where that is exact, with a checksum of mask and numbers."""
    with np.errstate(over="ignore"):
        short = values.astype("<f4")
    exact = bool((short == values).all())
    body = (b"f" + short.tobytes()) if exact else (b"d" + values.astype("<f8").tobytes())
    return body + zlib.crc32(key + body).to_bytes(4, "little")


def unpacked(path: Path, data: Any, key: bytes) -> Float[np.ndarray, " x"]:
    """Numbers as they were before ``packed``.

    Raises:
        ValueError: they do not fit their checksum.
    """
    if not isinstance(data, bytes):
        _damaged(path, "a value is none")
    body, check = data[:-4], data[-4:]
    if zlib.crc32(key + body).to_bytes(4, "little") != check or body[:1] not in _TYPES:
        _damaged(path, "a value does not fit its checksum")
    return np.frombuffer(body[1:], dtype=_TYPES[body[:1]]).astype(np.float64)


def option_identity(value: Any) -> Any:
    """What tells a search's option from others that is no plain value: a student, a proxy."""
    if isinstance(value, np.generic):
        return value.item()
    return identity_of(value) if isinstance(value, Game) else function_identity(value)


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little", signed=True)


def _digest(slopes: bool, hashes: list[int]) -> bytes:
    kind = b"gradient" if slopes else b"value"
    return blake2b(kind + np.array(hashes, dtype="<i8").tobytes(), digest_size=16).digest()


def _differences(own: dict[str, Any], kept: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name in {**own, **kept}:
        here, there = own.get(name), kept.get(name)
        if here != there:
            yield name, f"{name} is {_shown(here)}, the store has {_shown(there)}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Lock the file, look whether it is a store, and make it one if it is new."""
    execute = connection.execute
    execute(f"PRAGMA page_size = {_PAGE}")
    # With this the lock is held from the first access on, and there is no shared-memory file, so
    # that network file systems do as well.
    execute("PRAGMA locking_mode = EXCLUSIVE")
    format = check_format(connection, path)
    execute("PRAGMA journal_mode = WAL")
    execute("PRAGMA synchronous = FULL")
    execute("PRAGMA wal_autocheckpoint = 0")  # ``marks.carry_over`` does it
    if format < _FORMAT:
        execute("BEGIN IMMEDIATE")
        for statement in _NEXT[format].split(";")[:-1]:
            execute(statement)
        execute(f"PRAGMA application_id = {_APPLICATION}")
        execute(f"PRAGMA user_version = {_FORMAT}")
        execute("COMMIT")
    execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages, size = (execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if path.stat().st_size != pages * size:
        _damaged(path, f"it has {path.stat().st_size:,} bytes of {pages * size:,}")


def check_format(connection: sqlite3.Connection, path: Path) -> int:
    """The format of the file; 0: it is empty.

    Raises:
        ValueError: it is no store, or of a newer version.
    """
    execute = connection.execute
    application = execute("PRAGMA application_id").fetchone()[0]
    format = execute("PRAGMA user_version").fetchone()[0]
    tables = execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if application != _APPLICATION and (tables or application):
        raise ValueError(f"{path} is an SQLite file of something else; give another file")
    if format > _FORMAT:
        raise ValueError(f"{path} was written by a newer spex_mech; upgrade to read it")
    return format if tables else 0


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """SQLite's errors as those of Python, with what to do."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            if not _locks_work(path.parent):
                raise OSError(
                    errno.ENOLCK,
                    "the file system has no locks; give a file on a local disk",
                    str(path),
                ) from error
            raise BlockingIOError(
                f"another program has {path} open (a viewer, a backup?), or a run of an older "
                "version; close it and call again"
            ) from error
        if name.startswith("SQLITE_FULL"):
            raise OSError(
                errno.ENOSPC,
                "no room left on the disk: free some and call again; what was committed is kept",
                str(path),
            ) from error
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            _not_writable(path, error)
        if name.startswith("SQLITE_IOERR"):
            raise OSError(
                errno.EIO,
                f"the store cannot be read or written ({error}); is the disk full? What was "
                "committed is kept",
                str(path),
            ) from error
        _damaged(path, str(error), error)


def _locks_work(folder: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return True
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno != errno.ENOLCK
    return True


def _not_writable(path: Path, cause: BaseException | None = None) -> NoReturn:
    raise PermissionError(
        errno.EACCES, "the store cannot be written; give a file in a folder that can be", str(path)
    ) from cause


def _damaged(path: Path, why: str, cause: BaseException | None = None) -> NoReturn:
    raise ValueError(
        f"{path} is not a store, or a damaged one: {why}. Give another file, or move this one away "
        "to begin anew"
    ) from cause
