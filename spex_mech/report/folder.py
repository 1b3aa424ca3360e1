"""A result's files in a folder: all of them, or those that were there before."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spex_mech.arguments import path_of
from spex_mech.report.page import write_report
from spex_mech.results.files import reason, write_text
from spex_mech.results.interactions import Interactions

if TYPE_CHECKING:
    from spex_mech.circuits.circuit import Circuit
    from spex_mech.engine.task import Task

# What the command line writes into a folder.
_NAMES = (
    "interactions.npz", "interactions.csv", "map.png", "report.html", "text.html", "examples.html",
    "estimates.csv", "confirmed.npz", "network.png",
)  # fmt: skip


def check_folder(folder: Path, option: str = "--out") -> None:
    """Try to write in a folder, before the work and not after it; nothing is left there.

    Raises:
        ValueError: nothing can be written there; the text says why.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
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
            if (
                made.absolute() == nearest.absolute()
                or not os.path.isdir(made)
                or any(made.iterdir())
            ):
                break
            made.rmdir()


def write_all(
    found: Interactions,
    folder: str | os.PathLike[str],
    *,
    task: "Task | None" = None,
    command: str | None = None,
    title: str | None = None,
    keep_others: bool = False,
) -> tuple[list[str], list[str]]:
    """Write a result's files into a folder, which is made: ``interactions.npz``,
    ``interactions.csv``, ``map.png`` and ``report.html``.

    They are written into a folder beside the old ones first and take their places together, so that
    a full disk leaves no mixture of two results.

    Args:
        task, command, title: as of :func:`write_report`.
        keep_others: move the files of another result that are there into a folder ``earlier-1``.

    Returns:
        the names of the files, and remarks: why the map is not among them, if it cannot be drawn,
        and where another result is now.

    Raises:
        OSError: they cannot be written there. The text says where the result is instead.
    """
    remarks: list[str] = []

    def write(place: Path) -> None:
        found.save(place / "interactions.npz")
        (place / "interactions.csv").write_text(found.frame().to_csv(index=False), encoding="utf-8")
        if (why := _write_map(found, place)) is not None:
            remarks.append(why)
        write_report(found, place / "report.html", task=task, command=command, title=title)

    folder = path_of("folder", folder)

    def before() -> None:
        if keep_others and (place := set_aside(found, folder)) is not None:
            remarks.append(f"the other result that was in {folder} is now in {place}")

    try:
        return write_together(folder, write, before), remarks
    except OSError as error:
        kept = found.save(Path(tempfile.mkdtemp(prefix="spex-mech-")) / "interactions.npz")
        raise OSError(
            f"{folder} cannot be written to ({reason(error)}); what was there before "
            f"stays, and the result is in {kept}"
        ) from error


def write_circuit(circuit: "Circuit", folder: Path) -> tuple[list[str], list[str]]:
    """Write a circuit into a folder: ``circuit.json`` (``Circuit.load`` reads it), ``circuit.csv``,
    ``circuit.graphml``, ``circuit_mib.json`` (the benchmark's format) and ``circuit.png``.

    Returns:
        the names of the files, and remarks: why one of them is not there.
    """
    from spex_mech.circuits.plots import plot_circuit

    remarks = []

    def write(place: Path) -> None:
        circuit.save(place / "circuit.json")
        write_text(place / "circuit.csv", circuit.frame().to_csv(index=False))
        for name, one in (
            ("circuit_mib.json", lambda file: write_text(file, json.dumps(circuit.to_mib()))),
            ("circuit.graphml", circuit.save_graphml),
            ("circuit.png", lambda file: plot_circuit(circuit).savefig(file, dpi=160)),
        ):
            try:
                one(place / name)
            except (ImportError, ValueError) as error:
                remarks.append(f"no {name}: {error}")

    return write_together(folder, write), remarks


def set_aside(found: Interactions, folder: Path) -> Path | None:
    """Move the files of another result, or of another hand, out of the way of a result that is to
    be written into the folder; files of the same result stay, to be replaced.

    Returns:
        the folder in it where they are now; None: there was nothing to move.
    """
    held = [folder / name for name in _NAMES if (folder / name).is_file()]
    if not held or _is_of(found, folder / "interactions.npz"):
        return None
    number = 1
    while (place := folder / f"earlier-{number}").exists():
        number += 1
    place.mkdir()
    for file in held:
        os.replace(file, place / file.name)
    return place


def free_name(path: Path, content: bytes) -> Path:
    """The path, or where it holds something else already, the path with the next free number."""
    number, free = 2, path
    while free.exists() and (not free.is_file() or free.read_bytes() != content):
        free = path.with_stem(f"{path.stem}-{number}")
        number += 1
    return free


def _is_of(found: Interactions, file: Path) -> bool:
    """Whether a file holds the same measurements."""
    try:
        held = Interactions.load(file)
    except (OSError, ValueError):
        return False
    pairs = ((held.units, found.units), (held.values, found.values))
    return held.labels == found.labels and all(np.array_equal(a, b) for a, b in pairs)


def write_together(
    folder: Path, write: Callable[[Path], object], before: Callable[[], object] = lambda: None
) -> list[str]:
    """Let ``write`` fill a folder beside, call ``before``, then move all its files into ``folder``;
    their names in the order in which they were written."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        write(beside)
        before()
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
