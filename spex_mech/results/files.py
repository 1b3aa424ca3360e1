"""Files of results: written whole or not at all, and opened with one clear error."""

import codecs
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from threading import get_ident

from spex_mech.arguments import file_of

STORE_BEGINS = b"SQLite format 3\0"
# What a file begins with, and has near its start, that nothing of another kind may replace.
_PRECIOUS = {
    "a store of evaluations": (STORE_BEGINS, b""),
    "a result that was saved": (b"PK\x03\x04", b"about.npy"),
    "an .npz that is no result": (b"PK\x03\x04", b""),
    "a circuit that was saved": (b'{\n "kind": "spex_mech circuit"', b""),
}
_START = 64  # bytes


def write_whole(path: str | os.PathLike[str], write: Callable[[BufferedIOBase], object]) -> Path:
    """Write beside the file, then put it in its place; folders are made. Where ``write`` fails,
    what was there before stays.

    Raises:
        OSError: it cannot be written there.
        ValueError: the path is none, or what is there is a store, a result or a circuit, and what
            would replace it is of another kind.
    """
    path = file_of("path", path)
    place = Path(os.path.realpath(path))  # a link stays one
    temporary = place.with_name(f"{place.name}.{os.getpid()}-{get_ident()}.partial")
    with explained(path):
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                write(file)
            check_replaces(path, temporary)
            os.replace(temporary, place)
        except BaseException:
            if os.path.isdir(place.parent):
                temporary.unlink(missing_ok=True)
            raise
    return path


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """The same, of a text in UTF-8."""
    data = text.encode("utf-8", "backslashreplace")
    return write_whole(path, lambda file: file.write(data))


def check_replaces(path: Path, new: Path) -> None:
    """Raises:
    ValueError: a store, a result or a circuit would be replaced by something else.
    """
    if not os.path.isfile(path):
        return
    before, after = (_kind(file) for file in (path, new))
    if before is not None and after != before:
        raise ValueError(f"{path} is {before}, which this would replace; give another path")


def _kind(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(_START)
    kinds = (kind for kind, (first, near) in _PRECIOUS.items()
             if start.startswith(first) and near in start)  # fmt: skip
    return next(kinds, None)


def text_in(path: str | os.PathLike[str], name: str = "path") -> str:
    """The text of a file: UTF-8, with a byte-order mark or without, or UTF-16 with one.

    Raises:
        FileNotFoundError, OSError, ValueError: as of :func:`opened`, or it is no such text.
    """
    with opened(path, name) as file:
        held = file.read()
    is_utf_16 = held.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return held.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file in UTF-8 or UTF-16: {error}") from error


@contextmanager
def opened(path: str | os.PathLike[str], name: str = "path") -> Iterator[BufferedIOBase]:
    """A file to read.

    Args:
        name: what the argument is called, for the error.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: the path is none.
    """
    path = file_of(name, path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except OSError as error:
        raise type(error)(f"{path} cannot be read: {error.strerror}") from error
    with file:
        try:
            yield file
        except OSError as error:
            if error.strerror is None or error.filename is not None:  # told already, or of another
                raise
            raise type(error)(f"{path} cannot be read: {error.strerror}") from error


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """The system's errors with the file that was to be written, and that nothing is lost.

    Raises:
        OSError: of the same type.
    """
    try:
        yield
    except OSError as error:
        if error.strerror is None:  # not of the system
            raise
        raise type(error)(
            f"{path} cannot be written: {reason(error)}; what was there before stays"
        ) from error


def reason(error: OSError) -> str:
    """What the system says, in words."""
    if isinstance(error, FileExistsError):  # of a folder that is to be made
        return f"{error.filename} is a file and no folder"
    return error.strerror or str(error)
