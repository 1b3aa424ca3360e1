"""Writing a file whole or not at all."""

import os
from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path


def write_whole(path: str | os.PathLike[str], write: Callable[[BufferedIOBase], object]) -> Path:
    """Write beside the file, then put it in its place; folders are made. Where ``write`` fails,
    what was there before stays."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            write(file)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
