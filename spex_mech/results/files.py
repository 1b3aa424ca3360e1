"""Files of results: written whole or not at all, and opened with one clear error."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

from spex_mech.arguments import file_of


def write_whole(path: str | os.PathLike[str], write: Callable[[BufferedIOBase], object]) -> Path:
    """Write beside the file, then put it in its place; folders are made. Where ``write`` fails,
    what was there before stays.

    Raises:
        OSError: it cannot be written there.
        ValueError: the path is none.
    """
    path = file_of("path", path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with explained(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                write(file)
            os.replace(temporary, path)
        except BaseException:
            if temporary.parent.is_dir():
                temporary.unlink(missing_ok=True)
            raise
    return path


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """The same, of a text in UTF-8."""
    data = text.encode("utf-8", "backslashreplace")
    return write_whole(path, lambda file: file.write(data))


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BufferedIOBase]:
    """A file to read.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
        ValueError: the path is none.
    """
    path = file_of("path", path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except OSError as error:
        raise type(error)(f"{path} cannot be read: {error.strerror}") from error
    with file:
        yield file


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
            f"{path} cannot be written: {error.strerror}; what was there before stays"
        ) from error
