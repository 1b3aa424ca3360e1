"""Sweeps: models x tasks x unit kinds x ablations x methods, a folder per cell, all resumable.

Each cell's folder holds its store, result, table, map, report, its state (``cell.json``) and log.
A cell that is done is not done again, once three of its evaluations were asked again and had the
values that they had; one that was killed or interrupted goes on from its store,
and one that failed is tried again and does not end the sweep. Two sweeps in one folder take turns:
a cell that another process runs is waited for. At the end ``summary.csv`` (and ``summary.parquet``
where pyarrow is installed) has a row per cell.
"""

import hashlib
import json
import os
import re
import socket
import time
import tomllib
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spex_mech.arguments import first_twice, one_of, path_of, shown, switch, text_of, whole
from spex_mech.fingerprints import metric_recorded
from spex_mech.results.files import text_in
from spex_mech.runs.factory import GameFactory, metric_named

if TYPE_CHECKING:
    import pandas as pd

    from spex_mech.runs.session import RunSettings

_SUCH = {
    "models": "demo", "tasks": "ioi", "units": "heads", "ablations": "mean", "methods": "spex",
}  # fmt: skip
AXES = tuple(_SUCH)
_DONE, _RUNNING, _FAILED, _WAITING, _KILLED = "done", "running", "failed", "waiting", "killed"
_INTERRUPTED = "interrupted"
_READS_FILE = "text"  # the task of the text file
_LONGEST_NAME = 120  # characters of a folder's name; file systems take 255 bytes
_RESULT = "interactions.npz"
_OF_METRIC = ("metric_sha256", "metric_python")
_SUMMARIES = ("summary.csv", "summary.parquet")
_POLL = 1.0  # seconds between two looks at a cell that another process runs


@dataclass(frozen=True)
class Cell:
    """One search of a sweep.

    Args:
        game: what makes its game; the search has the same seed.
        method, budget, order: as of ``discover``.

    Raises:
        ValueError: one of them is of another type, or a number is too small.
    """

    game: GameFactory
    method: str = "spex"
    budget: int | None = None
    order: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", text_of("method", self.method, "spex"))
        object.__setattr__(self, "order", whole("order", self.order, 2))
        if self.budget is not None:
            object.__setattr__(self, "budget", whole("budget", self.budget, 1))

    @property
    def name(self) -> str:
        """Of its folder: what it is, and everything else that is not the default, so that another
        seed or budget is another cell. A long name is cut, and ends with a hash of the whole."""
        game = self.game
        parts = [game.model, game.task, game.units, game.ablation, self.method]
        words = [re.sub(r"[^\w.+-]+", "_", Path(part).name or part) for part in parts]
        plain = {**asdict(GameFactory(game.model)), "budget": None, "order": 2}
        for key, value in self.row().items():
            if key in plain and key not in _NAMED_FIRST and value != plain[key]:
                short = re.sub(r"[^\w.+-]+", "_", Path(str(value)).name)
                words.append(f"{key}-{short}")
        name = "__".join(words)
        if len(name.encode()) <= _LONGEST_NAME:
            return name
        digest = hashlib.sha256(name.encode()).hexdigest()[:10]
        cut = name.encode()[: _LONGEST_NAME - 12].decode(errors="ignore")
        return f"{cut}__{digest}"

    def row(self) -> dict[str, Any]:
        """All that it is, by name: what ``cell.json`` and the summary hold."""
        return {**asdict(self.game), **{name: getattr(self, name) for name in _OF_SEARCH}}


_OF_SEARCH = ("method", "budget", "order")
_NAMED_FIRST = ("model", "task", "units", "ablation")
_PATHS = ("model", "task", "file")  # of which a folder's name has the last part


def cells_of(axes: Mapping[str, Any], **common: Any) -> list[Cell]:
    """All combinations.

    Args:
        axes: "models", "tasks", "units", "ablations", "methods", each a list of texts; those left
            out have one value, the default of ``GameFactory`` or ``Cell``.
        common: of every cell: what else ``GameFactory`` takes (``n_prompts``, ``seed``, ``file``,
            ``precision``, ``batch_size``, ``bridge``), ``budget`` and ``order``. ``file`` goes to
            the task "text" alone, where that is one of several.

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
    if axes.get("models", []) == []:
        raise ValueError("a sweep needs models: a list of bundled names, folders or hub names")
    names = [name if name == "units" else name.removesuffix("s") for name in axes]
    lists = {name: _listed(name, values) for name, values in axes.items()}
    reads_file = _READS_FILE in lists.get("tasks", [])  # others take no file
    cells = []
    for values in product(*lists.values()):
        given = {**dict(zip(names, values, strict=True)), **common}
        if given.get("task", GameFactory.task) != _READS_FILE and reads_file:
            given.pop("file", None)
        of_search = {name: given.pop(name) for name in _OF_SEARCH if name in given}
        cells.append(Cell(GameFactory(**given), **of_search))
    _check_folders(cells)
    return cells


def _check_folders(cells: Sequence[Cell]) -> None:
    """Raises:
    ValueError: two cells have one folder, so that one would take the place of the other.
    """
    if (twice := first_twice([cell.name for cell in cells])) is not None:
        raise ValueError(
            f"two cells would share the folder {twice!r}; name them differently, or sweep them "
            "into two folders"
        )


def _listed(axis: str, values: Any) -> list[str]:
    """The values of an axis.

    Raises:
        ValueError: they are no list of texts, or none.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise ValueError(f"{axis} is {shown(values)}; it must be a list of texts")
    if not values:
        raise ValueError(f"{axis} is empty; leave it out for the default")
    return [text_of(f"one of {axis}", value, _SUCH[axis]) for value in values]


def cells_from_toml(path: str | Path) -> list[Cell]:
    """A sweep's file: a list for each axis, and what all cells have in common.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no TOML, names what a sweep has not, or a value is of another type.
    """
    try:
        settings = tomllib.loads(text_in(path, "config"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    axes = {name: settings.pop(name) for name in AXES if name in settings}
    lists = {name: [value] if isinstance(value, str) else value for name, value in axes.items()}
    try:
        return cells_of(lists, **settings)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def sweep(
    cells: Iterable[Cell],
    folder: str | Path,
    *,
    resume: bool = True,
    workers: int | None = None,
    address: str | None = None,
    progress: bool = True,
    masks_per_batch: int | None = None,
    timeout: float | None = None,
) -> "pd.DataFrame":
    """Run all cells, one after the other, and write the summary.

    Args:
        cells: as ``cells_of`` makes them; all that they read is looked for before any runs.
        folder: gets a folder per cell.
        resume: leave out what is done, and go on where a cell was killed; False: all anew.
        workers, address, progress, masks_per_batch, timeout: as of ``discover``.

    Returns:
        ``status`` of the folder: a row per cell, other sweeps' cells included.

    Raises:
        ValueError: there is no cell, two have one folder, one cannot be what it says, or its model
            is not to be had (before anything runs), a cell that is done was done with other files
            than there are now or has other values now, or with ``resume=False`` a cell is running.
    """
    from spex_mech.report.folder import check_folder
    from spex_mech.runs.session import RunSettings

    how = RunSettings(progress, None, workers, address, masks_per_batch, timeout)
    root, resume, cells = path_of("folder", folder), switch("resume", resume), _all_cells(cells)
    check_folder(root, "folder")
    for cell in cells:
        _check(cell)
    _check_inputs(cells, root, resume)
    waiting = [cell for cell in cells if not (resume and _is_done(root / cell.name, cell))]
    if address is None:  # what a cluster's machines hold is not known here
        _check_metrics(waiting)
        _check_models(waiting)
        _check_tokenizers(waiting)
    if resume:
        _check_values(cells, root, how)
    root.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        place = root / cell.name
        place.mkdir(exist_ok=True)
        with _holding(place) as held:
            if held and not resume:
                for name in ("run.sqlite", "run.sqlite-wal", "cell.json"):
                    (place / name).unlink(missing_ok=True)
            if held and not _is_done(place, cell):
                _write(place, cell, _WAITING)
            elif held:  # nothing of it is run now
                _all_reused(place)
    waiting = [cell for cell in cells if not _is_done(root / cell.name, cell)]
    for number, cell in enumerate(_in_turn(waiting, root), start=1):
        if progress:
            print(f"[{number}/{len(waiting)}] {cell.name}", flush=True)
        _run(cell, root / cell.name, how)
        summarise(root)
    return summarise(root)


def _all_cells(cells: Any) -> list[Cell]:
    """Raises:
    ValueError: what was given are no cells, or none, or two have one folder.
    """
    given = list(cells) if isinstance(cells, Iterable) else [cells]
    if isinstance(cells, str) or not all(isinstance(cell, Cell) for cell in given):
        raise ValueError(f"cells is {shown(cells)}; give a list of Cell, as cells_of makes it")
    if not given:
        raise ValueError("cells is empty, so that there is nothing to run; cells_of makes them")
    _check_folders(given)
    return given


def _in_turn(cells: Sequence[Cell], root: Path) -> Iterator[Cell]:
    """The cells one by one, each while no other process runs it; those that another process runs
    come last, and are left out where it finished them."""
    later: list[Cell] = []
    for cell in cells:
        with _holding(root / cell.name) as held:
            if not held:
                later.append(cell)
            elif not _is_done(root / cell.name, cell):
                yield cell
    for cell in later:
        place = root / cell.name
        pid = _read(place).get("pid", "unknown")
        print(f"waiting for {cell.name}, which another sweep runs (process {pid})", flush=True)
        while True:
            with _holding(place) as held:
                if held:
                    if not _is_done(place, cell):
                        yield cell
                    break
            time.sleep(_POLL)


def _is_done(place: Path, cell: Cell) -> bool:
    """Whether a cell was done; where its result was removed and its store is there, the result is
    to be written again."""
    state = _read(place)
    is_of_cell = state.get("state") == _DONE and state.get("cell") == cell.row()
    return is_of_cell and ((place / _RESULT).is_file() or not (place / "run.sqlite").is_file())


@contextmanager
def _holding(place: Path) -> Iterator[bool]:
    """Whether this is the only process that runs a cell, for as long as the block lasts. The lock
    goes with its process, however that ends."""
    try:
        import fcntl
    except ImportError:  # without such locks, sweeps in one folder are the user's to keep apart
        yield True
        return
    path = place / "cell.lock"
    while True:
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            yield False
            return
        # Whoever had it may have removed the file in between: then this lock locks nothing.
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            break
        file.close()
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)
        file.close()


def _is_running(place: Path) -> bool:
    if not (place / "cell.lock").is_file():
        return False
    with _holding(place) as free:
        return not free


def _check(cell: Cell) -> None:
    """Raises:
    ValueError: a cell names what there is not; nothing has run yet.
    """
    from spex_mech.discover import METHODS
    from spex_mech.engine.device import PRECISIONS
    from spex_mech.engine.metrics import METRICS
    from spex_mech.engine.references import ABLATIONS
    from spex_mech.tasks import TASKS

    game = cell.game
    one_of("method", cell.method, METHODS)
    one_of("ablation", game.ablation, ABLATIONS)
    one_of("precision", game.precision, PRECISIONS)
    if game.task not in TASKS and not path_of("task", game.task).is_file():
        raise ValueError(
            f"unknown task {game.task!r}; choose one of {', '.join(TASKS)}, or give a prompt file"
        )
    if game.file is not None and not path_of("file", game.file).is_file():
        raise ValueError(f"no text file {game.file}")
    if (game.file is None) == (game.task == _READS_FILE):
        raise ValueError(
            f"the task {_READS_FILE!r} reads a text file, and no other one does; file is "
            f"{shown(game.file)}, and the task {game.task!r}"
        )
    if game.metric is not None and ":" not in game.metric:
        one_of("metric", game.metric, [*METRICS, "kl"])


def _check_metrics(cells: Sequence[Cell]) -> None:
    """Raises:
    ValueError: a metric is no function that can be had; each is looked for once.
    """
    for metric in dict.fromkeys(cell.game.metric for cell in cells):
        if metric is not None:
            metric_named(metric)


def _check_models(cells: Sequence[Cell]) -> None:
    """Raises:
    ValueError: models that are not to be had, each of which would fail in each of its cells; each
        is looked for once.
    """
    from spex_mech.models import check_model

    lacking = []
    for model in dict.fromkeys(cell.game.model for cell in cells):
        try:
            check_model(model)
        except (ImportError, ValueError) as error:
            n = sum(cell.game.model == model for cell in cells)
            lacking.append(f"{error} [{n} cell{'s' * (n > 1)}]")
    if lacking:
        raise ValueError(f"nothing was run: {'; '.join(lacking)}")


def _check_tokenizers(cells: Sequence[Cell]) -> None:
    """Raises:
    ValueError: a task of words is asked of a model without a tokenizer, or of one that is not to be
        had; each model is tried once.
    """
    from spex_mech.models import load_tokenizer

    asked = {cell.game.model: cell.game.task for cell in cells if cell.game.task != "induction"}
    for model, task in asked.items():
        if load_tokenizer(model) is None:
            raise ValueError(
                f"the task {task!r} needs a tokenizer, and the model {model!r} brings none; leave "
                "one of them out, or give a model folder that holds a tokenizer"
            )


def _check_inputs(cells: Sequence[Cell], root: Path, resume: bool) -> None:
    """Raises:
    ValueError: a cell is done, but its model's or prompts' files are others now; its folder holds
        another cell, whose files have the same name; or all is to be done anew while a cell runs.
    """
    for cell in cells:
        place = root / cell.name
        if not place.is_dir():
            continue
        if not resume and _is_running(place):
            raise ValueError(
                f"{cell.name} is running (process {_read(place).get('pid', 'unknown')}), and "
                "everything was to be done anew; wait for it, or stop it"
            )
        state = _read(place)
        if resume and _is_done(place, cell) and _have_changed(cell, state):
            raise ValueError(
                f"{cell.name} is done, but the files of its model or prompts have changed since; "
                "do all anew (--fresh), or give another folder"
            )
        if resume and state.get("state") == _DONE and (other := _other_inputs(cell, state)):
            raise ValueError(
                f"the folder {cell.name} holds what was done for {other}; give another folder, or "
                "do all anew (--fresh)"
            )


def _have_changed(cell: Cell, state: Mapping[str, Any]) -> bool:
    """Whether the files that a cell read are others now. Older sweeps noted more of a model's
    folder: all that lay below it."""
    now, before = _inputs_of(cell), state.get("inputs", {})
    model = path_of("model", cell.game.model)
    below = {name for name in before if model in Path(name).parents and Path(name).parent != model}
    return {name: held for name, held in before.items() if name in now or name not in below} != now


def _other_inputs(cell: Cell, state: Mapping[str, Any]) -> str:
    """The model, task or text of what a folder holds, where it has the name of this cell's and is
    another one; "" where it is the same."""
    before, now = state["cell"], cell.row()
    odd = [name for name in _PATHS if before.get(name) != now[name]]
    # The same files may be named from another place.
    if not odd or {*state.get("inputs", {}).values()} == {*_inputs_of(cell).values()}:
        return ""
    return f"the {odd[0]} {before.get(odd[0])!r}, not {now[odd[0]]!r}"


def _check_values(cells: Sequence[Cell], root: Path, how: "RunSettings") -> None:
    """Ask the store of each cell that is done whether the game's values are still those: three
    evaluations, and its model is loaded.

    Raises:
        ValueError: they are others now.
    """
    from spex_mech.runs.store import opened

    for cell in cells:
        place = root / cell.name
        if not _is_done(place, cell):
            continue
        if not (place / "run.sqlite").is_file():
            _check_metric(cell, _read(place))
            continue
        try:
            with (
                how.game_of(cell.game if how.far else cell.game()) as game,
                opened(place / "run.sqlite", game),
            ):
                pass
        except ValueError as error:
            raise ValueError(
                f"{cell.name} is done, but {error}; do all anew (--fresh), or give another folder"
            ) from error


def _check_metric(cell: Cell, state: Mapping[str, Any]) -> None:
    """Of a cell whose store is gone, so that nothing can be asked again.

    Raises:
        ValueError: its metric is a function, and another one now.
    """
    metric = cell.game.metric
    if metric is None or ":" not in metric:
        return
    now = metric_recorded(metric_named(metric))
    before = {name: state.get(name) for name in now}
    if before["metric_python"] == now["metric_python"] and before != now:
        raise ValueError(
            f"{cell.name} is done, and its metric {metric} is another function now: its code, or "
            "what it reads, has changed; do all anew (--fresh), or give another folder"
        )


def _inputs_of(cell: Cell) -> dict[str, str]:
    """Hashes of the files that a cell reads: a local model's, a prompt file, a text."""
    from spex_mech.models import BUNDLED
    from spex_mech.tasks import TASKS

    game, files = cell.game, []
    names = [None if game.model in BUNDLED else game.model]
    names += [None if game.task in TASKS else game.task, game.file]
    for path in (path_of("input", name) for name in names if name is not None):
        files += sorted(_files_of_model(path)) if path.is_dir() else [path]
    return {str(file): _file_sha256(file) for file in files if file.is_file()}


def _files_of_model(folder: Path) -> list[Path]:
    """What is read of a model's folder. What a sweep writes into it is not, nor are checkpoints and
    results in folders of their own."""
    own = [file for file in folder.iterdir() if file.name not in _SUMMARIES]
    return [*own, *folder.glob("*/*.gguf")]


def _file_sha256(file: Path) -> str:
    with file.open("rb") as held:
        return hashlib.file_digest(held, "sha256").hexdigest()


def status(folder: str | Path) -> "pd.DataFrame":
    """A row per cell: its state ("done", "running", "killed", "interrupted", "failed", "waiting"),
    its folder, what it cost, its strongest interaction, and the error if it failed. Of its
    ``evaluations``, ``reused`` were in its store when the last sweep came to it: all of a cell that
    was done by then.

    Raises:
        ValueError: the folder holds no sweep.
    """
    import pandas as pd

    rows = [
        _row(state, place.parent)
        for place in sorted(path_of("folder", folder).glob("*/cell.json"))
        if (state := _read(place.parent))
    ]
    if not rows:
        raise ValueError(f"{folder} holds no sweep: no cell in it has a cell.json")
    return pd.DataFrame(rows)


def summarise(folder: str | Path) -> "pd.DataFrame":
    """Write ``summary.csv``, and ``summary.parquet`` where pyarrow is installed."""
    folder = path_of("folder", folder)
    table = status(folder)
    csv, parquet = (folder / name for name in _SUMMARIES)
    table.to_csv(csv, index=False)
    with suppress(ImportError):
        table.to_parquet(parquet, index=False)
    return table


def _run(cell: Cell, place: Path, how: "RunSettings") -> None:
    from spex_mech.discover import discover
    from spex_mech.report.folder import write_all

    inputs = _inputs_of(cell)  # before they are read
    kept = _kept(place)
    _write(place, cell, _RUNNING, pid=os.getpid(), host=socket.gethostname())
    _log(place, f"started, process {os.getpid()}")
    try:
        # With workers they make the game, and no one here.
        game: Any = cell.game if how.far else cell.game()
        found = discover(
            game,
            cell.method,
            cell.budget,
            cell.order,
            cell.game.seed,
            **asdict(replace(how, store=place / "run.sqlite")),
        )
        _, lacking = write_all(found, place, task=None if how.far else game.task)
        for reason in lacking:
            _log(place, reason)
    except Exception as error:
        _log(place, traceback.format_exc())
        _write(place, cell, _FAILED, error=f"{type(error).__name__}: {error}")
        return
    except BaseException as error:
        _log(place, f"interrupted by {type(error).__name__}")
        _write(place, cell, _INTERRUPTED)
        raise
    _log(place, f"done\n{found}")
    best = found.top(1)
    labels = best.names[0] if len(best) else ()
    strongest = {
        "strongest": " x ".join(labels),
        "value": float(best.mean[0]) if labels else None,
        "stderr": float(best.stderr[0]) if labels else None,
    }
    told = {
        "n_units": len(found.labels),
        "n_interactions": len(found),
        "metric": cell.game.metric or found.about.get("metric"),
        **{name: found.about[name] for name in _OF_METRIC if name in found.about},
    }
    # Its store is its own: none of another search is in it, and what was in it is of this one.
    cost = {**found.cost, "reused": min(kept, int(found.cost["evaluations"]))}
    _write(place, cell, _DONE, inputs=inputs, **told, **cost, **strongest)


def _kept(place: Path) -> int:
    """The evaluations that a cell's store holds already."""
    from spex_mech.runs.contents import evaluations_in

    with suppress(OSError, ValueError):  # the search says what is the matter with it
        return evaluations_in(place / "run.sqlite")
    return 0


def _row(state: dict[str, Any], place: Path) -> dict[str, Any]:
    own = {name: value for name, value in state["cell"].items() if value is not None}
    hidden = ("cell", "pid", "host", "inputs", *_OF_METRIC)
    rest = {name: value for name, value in state.items() if name not in hidden}
    if rest["state"] == _RUNNING and not _is_running(place):
        rest["state"] = _KILLED
    return {**own, **rest, "folder": place.name}


def _read(place: Path) -> dict[str, Any]:
    try:
        state = json.loads((place / "cell.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # never begun, or killed while it was written
        return {}
    # Another program's cell.json is not ours.
    is_ours = isinstance(state, dict) and isinstance(state.get("cell"), dict) and "state" in state
    return state if is_ours else {}


def _write(place: Path, cell: Cell, state: str, **more: Any) -> None:
    _write_text(place, {"state": state, "cell": cell.row(), **more})


def _write_text(place: Path, state: dict[str, Any]) -> None:
    text = json.dumps(state, indent=1, default=str)
    new = place / "cell.json.new"
    new.write_text(text + "\n", encoding="utf-8")
    new.replace(place / "cell.json")  # the old one or the new one, whenever it is killed


def _all_reused(place: Path) -> None:
    """Say of a cell that is done that none of it is run this time."""
    state = _read(place)
    _write_text(place, {**state, "reused": state.get("evaluations", 0)})


def _log(place: Path, text: str) -> None:
    with (place / "log.txt").open("a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
