"""A result's files in a folder: all of them, or those that were there before."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from spex_mech.arguments import path_of
from spex_mech.report.page import write_report
from spex_mech.results.interactions import Interactions

if TYPE_CHECKING:
    from spex_mech.engine.task import Task


def check_folder(folder: Path, option: str = "--out") -> None:
    """Try to write in a folder, before the work and not after it; nothing is left there.

    Raises:
        ValueError: nothing can be written there; the text says why.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise ValueError(f"{option} {folder}: {nearest} is a file; give a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{option} {folder}: nothing can be written there ({error.strerror}); give another "
            "folder"
        ) from error
    finally:
        for made in (folder, *folder.absolute().parents):
            if made.absolute() == nearest.absolute() or not made.is_dir() or any(made.iterdir()):
                break
            made.rmdir()


def write_all(
    found: Interactions,
    folder: str | os.PathLike[str],
    *,
    task: "Task | None" = None,
    command: str | None = None,
) -> tuple[list[str], list[str]]:
    """Write a result's files into a folder, which is made: ``interactions.npz``,
    ``interactions.csv``, ``map.png`` and ``report.html``.

    They are written into a folder beside the old ones first and take their places together, so that
    a full disk leaves no mixture of two results.

    Args:
        task, command: as of :func:`write_report`.

    Returns:
        the names of the files, and why the map is not among them, if it cannot be drawn.

    Raises:
        OSError: they cannot be written there. The text says where the result is instead.
    """
    lacking: list[str] = []

    def write(place: Path) -> None:
        found.save(place / "interactions.npz")
        (place / "interactions.csv").write_text(found.frame().to_csv(index=False), encoding="utf-8")
        if (why := _write_map(found, place)) is not None:
            lacking.append(why)
        write_report(found, place / "report.html", task=task, command=command)

    folder = path_of("folder", folder)
    try:
        return write_together(folder, write), lacking
    except OSError as error:
        kept = found.save(Path(tempfile.mkdtemp(prefix="spex-mech-")) / "interactions.npz")
        raise OSError(
            f"{folder} cannot be written to ({error.strerror or error}); what was there before "
            f"stays, and the result is in {kept}"
        ) from error


def write_together(folder: Path, write: Callable[[Path], object]) -> list[str]:
    """Let ``write`` fill a folder beside, then move all its files into ``folder``; their names in
    the order in which they were written."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        write(beside)
        files = sorted(beside.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        for file in files:
            os.replace(file, folder / file.name)
        return [file.name for file in files]
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_map(found: Interactions, place: Path) -> str | None:
    """Why there is no map, where it cannot be drawn."""
    from spex_mech.plots.pictures import plot_map

    try:
        plot_map(found).savefig(place / "map.png", dpi=160)
    except (ImportError, ValueError) as error:
        return f"no map: {error}"
    return None
