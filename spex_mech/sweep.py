"""Sweeps: models x tasks x unit kinds x ablations x methods, a folder a cell, all of it resumable.

Each cell's folder holds its store, result, table, map, report, its state (``cell.json``) and log.
A cell that is done is not done again, one that was killed goes on from its store, one that failed
is tried again and does not end the sweep. At the end ``summary.csv`` (and ``summary.parquet`` where
pyarrow is installed) has a row a cell.
"""

import json
import os
import re
import time
import tomllib
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spex_mech.runs.factory import GameFactory

if TYPE_CHECKING:
    import pandas as pd

AXES = ("models", "tasks", "units", "ablations", "methods")
_DONE, _RUNNING, _FAILED, _WAITING, _KILLED = "done", "running", "failed", "waiting", "killed"


@dataclass(frozen=True)
class Cell:
    """One search of a sweep.

    Args:
        game: what makes its game; the search has the same seed.
        method, budget, order: as of ``discover``.
    """

    game: GameFactory
    method: str = "spex"
    budget: int | None = None
    order: int = 2

    @property
    def name(self) -> str:
        """Of its folder."""
        game = self.game
        parts = (game.model, game.task, game.units, game.ablation, self.method)
        return "__".join(re.sub(r"[^\w.+-]+", "_", Path(part).name or part) for part in parts)

    def row(self) -> dict[str, Any]:
        """All that it is, by name: what ``cell.json`` and the summary hold."""
        return {**asdict(self.game), **{name: getattr(self, name) for name in _OF_SEARCH}}


_OF_SEARCH = ("method", "budget", "order")


def cells_of(axes: Mapping[str, Sequence[str]], **common: Any) -> list[Cell]:
    """All combinations.

    Args:
        axes: "models", "tasks", "units", "ablations", "methods", each a list; those left out have
            one value, the default of ``GameFactory`` or ``Cell``.
        common: of every cell: what else ``GameFactory`` takes (``n_prompts``, ``seed``, ``file``,
            ``precision``, ``batch_size``, ``bridge``), ``budget`` and ``order``.

    Raises:
        ValueError: an unknown or empty axis or option, no models, or two cells of one folder.

    >>> [cell.name for cell in cells_of({"models": ["demo"], "methods": ["spex", "exhaustive"]})]
    ['demo__induction__heads__mean__spex', 'demo__induction__heads__mean__exhaustive']
    """
    known = {f.name for f in fields(GameFactory)} | {*_OF_SEARCH}
    known -= {name.removesuffix("s") for name in AXES} | {"units"}
    for name in axes:
        if name not in AXES:
            raise ValueError(f"a sweep has no {name!r}; it has {', '.join(AXES)}")
    for name in common:
        if name not in known:
            raise ValueError(
                f"a sweep has no {name!r}; it has {', '.join((*AXES, *sorted(known)))}"
            )
    if not axes.get("models"):
        raise ValueError("a sweep needs models: a list of bundled names, folders or hub names")
    if empty := [name for name, values in axes.items() if not values]:
        raise ValueError(f"{empty[0]} is empty; leave it out for the default")
    names = [name if name == "units" else name.removesuffix("s") for name in axes]
    cells = []
    for values in product(*axes.values()):
        given = {**dict(zip(names, values, strict=True)), **common}
        of_search = {name: given.pop(name) for name in _OF_SEARCH if name in given}
        cells.append(Cell(GameFactory(**given), **of_search))
    folders = [cell.name for cell in cells]
    if len(set(folders)) < len(folders):
        twice = next(name for name in folders if folders.count(name) > 1)
        raise ValueError(f"two cells would share the folder {twice!r}; name them differently")
    return cells


def cells_from_toml(path: str | Path) -> list[Cell]:
    """A sweep's file: a list for each axis, and what all cells have in common.

    Raises:
        ValueError: it is no TOML, or names what a sweep has not.
    """
    try:
        settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    axes = {name: settings.pop(name) for name in AXES if name in settings}
    lists = {name: [value] if isinstance(value, str) else value for name, value in axes.items()}
    return cells_of(lists, **settings)


def sweep(
    cells: Sequence[Cell],
    folder: str | Path,
    *,
    resume: bool = True,
    workers: int | None = None,
    address: str | None = None,
    progress: bool = True,
) -> "pd.DataFrame":
    """Run all cells, one after the other, and write the summary.

    Args:
        folder: gets a folder a cell.
        resume: leave out what is done, and go on where a cell was killed; False: all anew.
        workers, address, progress: as of ``discover``.

    Returns:
        ``status`` of the folder: a row a cell.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        place = root / cell.name
        if not resume:
            for name in ("run.sqlite", "run.sqlite-wal", "cell.json"):
                (place / name).unlink(missing_ok=True)
        state = _read(place)
        if state.get("state") == _DONE and state.get("cell") == cell.row():
            continue
        place.mkdir(exist_ok=True)
        _write(place, cell, _WAITING)
    for number, cell in enumerate(cells, start=1):
        if _read(root / cell.name).get("state") == _DONE:
            continue
        if progress:
            print(f"[{number}/{len(cells)}] {cell.name}", flush=True)
        _run(cell, root / cell.name, workers, address, progress)
        summarise(root)
    return summarise(root)


def status(folder: str | Path) -> "pd.DataFrame":
    """A row a cell: its state ("done", "running", "killed", "failed", "waiting"), what it cost, its
    strongest interaction, and the error if it failed.

    Raises:
        ValueError: the folder holds no sweep.
    """
    import pandas as pd

    rows = [
        _row(state)
        for place in sorted(Path(folder).glob("*/cell.json"))
        if (state := _read(place.parent))
    ]
    if not rows:
        raise ValueError(f"{folder} holds no sweep: no cell in it has a cell.json")
    return pd.DataFrame(rows)


def summarise(folder: str | Path) -> "pd.DataFrame":
    """Write ``summary.csv``, and ``summary.parquet`` where pyarrow is installed."""
    table = status(folder)
    table.to_csv(Path(folder) / "summary.csv", index=False)
    with suppress(ImportError):
        table.to_parquet(Path(folder) / "summary.parquet", index=False)
    return table


def _run(cell: Cell, place: Path, workers: int | None, address: str | None, progress: bool) -> None:
    from spex_mech.discover import discover
    from spex_mech.report.folder import write_all

    _write(place, cell, _RUNNING, pid=os.getpid())
    _log(place, f"started, process {os.getpid()}")
    try:
        far = bool(workers or address)  # then workers make the game, and no one here
        game: Any = cell.game if far else cell.game()
        found = discover(
            game,
            cell.method,
            cell.budget,
            cell.order,
            cell.game.seed,
            store=place / "run.sqlite",
            workers=workers,
            address=address,
            progress=progress,
        )
        _, lacking = write_all(found, place, task=None if far else game.task)
        for reason in lacking:
            _log(place, reason)
    except Exception as error:
        _log(place, traceback.format_exc())
        _write(place, cell, _FAILED, error=f"{type(error).__name__}: {error}")
        return
    _log(place, f"done\n{found}")
    best = found.top(1)
    labels = best.names[0] if len(best) else ()
    strongest = {
        "strongest": " x ".join(labels),
        "value": float(best.mean[0]) if labels else None,
        "stderr": float(best.stderr[0]) if labels else None,
    }
    counts = {"n_units": len(found.labels), "n_interactions": len(found)}
    _write(place, cell, _DONE, **counts, **found.cost, **strongest)


def _row(state: dict[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in state["cell"].items() if value is not None}
    rest = {name: value for name, value in state.items() if name not in ("cell", "pid")}
    if rest["state"] == _RUNNING and not _alive(state.get("pid", 0)):
        rest["state"] = _KILLED
    return {**own, **rest}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _read(place: Path) -> dict[str, Any]:
    try:
        return json.loads((place / "cell.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):  # never begun, or killed while it was written
        return {}


def _write(place: Path, cell: Cell, state: str, **more: Any) -> None:
    text = json.dumps({"state": state, "cell": cell.row(), **more}, indent=1, default=str)
    new = place / "cell.json.new"
    new.write_text(text + "\n", encoding="utf-8")
    new.replace(place / "cell.json")  # the old one or the new one, whenever it is killed


def _log(place: Path, text: str) -> None:
    with (place / "log.txt").open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
