"""What a store's file and the ``-wal`` beside it say of each other.

SQLite keeps what is new in ``NAME-wal`` until it is carried over. A copy of the file alone lacks
it, and the ``-wal`` of a killed run would be carried into a backup that was put in its place. So a
word that is new with each carrying-over stands in the file, and then in the ``-wal``; and the file
says whether it is open.
"""

import sqlite3
import urllib.parse
import uuid
from contextlib import closing, suppress
from pathlib import Path

from spex_mech.notices import warn

TABLE = """
CREATE TABLE mark (opened INTEGER NOT NULL, token TEXT NOT NULL, again INTEGER NOT NULL);
INSERT INTO mark VALUES (0, '', 0);
"""


def wal_of(path: Path) -> Path:
    """The file beside it that holds what is new."""
    return path.with_name(f"{path.name}-wal")


def check_pair(path: Path) -> bool:
    """Whether a ``-wal`` that is not empty is there; before the file is opened.

    Raises:
        ValueError: it belongs to another state of the file.
    """
    wal = wal_of(path)
    if not wal.is_file():
        return False
    if not wal.stat().st_size:  # a run that is killed leaves none that is empty
        return False
    if not _holds_a_page(wal):  # of a run that was killed as it began one: nothing is lost
        return True
    token = _token(path)
    if token and token.encode() not in wal.read_bytes():
        raise ValueError(
            f"{wal} does not belong to this {path.name}, and would damage it: it was left by "
            f"another run than the one that {path.name} is of (a backup that was put back?). Move "
            f"{wal.name} away to take {path.name} as it is, or bring the two that belong together"
        )
    return True


def _holds_a_page(wal: Path) -> bool:
    """Whether one page was written whole. SQLite writes a header of 32 bytes first, and waits for
    the disk; then 24 bytes before each page. A page's size is the header's third number."""
    with wal.open("rb") as file:
        page = int.from_bytes(file.read(12)[8:], "big")
    return wal.stat().st_size >= 32 + 24 + page


def begin(connection: sqlite3.Connection, path: Path, had_wal: bool) -> None:
    """The file is open from now on. It warns where a copy lacks its ``-wal``."""
    if _is_open(connection) and not had_wal:
        warn(
            f"{path} was copied or moved without {path.name}-wal, which held the newest "
            "evaluations: they are asked again, unless you bring it beside the file and call anew",
        )
    carry_over(connection)


def lacks_wal(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the ``-wal`` that held what is new is not beside a file that is only read."""
    wal = wal_of(path)
    has = wal.is_file() and wal.stat().st_size > 0
    with suppress(sqlite3.Error, TypeError):  # of an older format, which does not say it
        return _is_open(connection) and not has
    return False


def _is_open(connection: sqlite3.Connection) -> bool:
    """Whether the file says that it was left open, and what is new is not in it."""
    opened, again = connection.execute("SELECT opened, again FROM mark").fetchone()
    return bool(opened and not again)


def carry_over(connection: sqlite3.Connection) -> None:
    """Bring all that is new into the file, and begin a ``-wal`` that belongs to it."""
    # The file's present word is in the -wal before a new one is: a run may be killed between.
    connection.execute("UPDATE mark SET again = 1 - again")
    connection.execute("UPDATE mark SET opened = 1, token = ?, again = 0", (uuid.uuid4().hex,))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    # In the -wal alone, unless another program (a viewer) brings that into the file.
    connection.execute("UPDATE mark SET again = 1")


def end(connection: sqlite3.Connection) -> None:
    """The file is whole: nothing is left beside it."""
    with suppress(sqlite3.Error):  # a full disk: the -wal stays, and is found again
        connection.execute("UPDATE mark SET opened = 0")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def read_only(path: Path) -> sqlite3.Connection:
    """The file as it is, without what is beside it, and without a lock or a trace."""
    name = urllib.parse.quote(str(path))
    return sqlite3.connect(f"file:{name}?immutable=1", uri=True, isolation_level=None)


def _token(path: Path) -> str:
    with suppress(sqlite3.Error, TypeError), closing(read_only(path)) as file:
        return file.execute("SELECT token FROM mark").fetchone()[0]
    return ""
