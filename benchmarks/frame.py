"""The frame of every benchmark: arguments, parts, rows and where they come from, jobs, errors.

A benchmark's file says what is compared: functions of ``Options`` that yield rows, and at its end

    PARTS = {"one": one, "other": other}

    if __name__ == "__main__":
        script(__doc__, "name", PARTS, draw, seeds=list(SEEDS))

Everything else is here: each row is printed and kept in ``results/name.json`` as it comes, with the
commit, machine and versions of its part; a part can be measured again while the others stay
(``--only``); what needs models is left out without them, and what has no reduced size in the quick
mode, which writes elsewhere. Games are in ``games.py``, what others offer in ``rivals.py`` and
``peers.py``.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
SEEDS = (0, 1, 2)
OTHERS = (
    "shapiq", "spectralexplain", "scikit-learn", "lightgbm",
    "captum", "nnsight", "pyvene", "transformer-lens", "transformers",
)  # fmt: skip

Row = dict[str, Any]
Measure = Callable[["Options"], Iterable[Row]]
Draw = Callable[[list[Row], Path], None]  # a picture of the rows, to this file
Case = TypeVar("Case")


class LeftOut(Exception):
    """A part, or the rest of it, cannot be measured as it is asked: why."""


@dataclass(frozen=True)
class Options:
    """What a benchmark is run with: the folder of models, reduced sizes or all, where to write.

    The committed figures are those of the full mode; the quick one writes elsewhere.
    """

    data: Path | None = None
    quick: bool = False
    out: Path = HERE
    only: tuple[str, ...] = ()

    @property
    def models(self) -> Path:
        """The folder of models, for a part that needs it."""
        if self.data is None:
            raise LeftOut("it needs the folder of models (--data)")
        return self.data

    def must_be_full(self) -> None:
        """For a part that has no reduced size."""
        if self.quick:
            raise LeftOut("it has no reduced size")

    @property
    def seeds(self) -> tuple[int, ...]:
        """All, or in the quick mode the first."""
        return tuple(self.some(SEEDS))

    def some(self, cases: Iterable[Case], quick: int = 1) -> Iterator[Case]:
        """All, or in the quick mode the first few."""
        return islice(cases, quick if self.quick else None)

    def keep(self, name: str, figures: dict[str, Any]) -> None:
        """Write ``results/<name>.json``, with None for NaN, as JSON has no such number. Called
        after each row, so that an interrupted run leaves what it measured."""
        file = self.out / "results" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(plain(figures), indent=1, allow_nan=False)
        file.write_text(text + "\n", encoding="utf-8")

    def picture(self, name: str) -> Path:
        """Where to draw ``pictures/<name>``."""
        file = self.out / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def kept(self, name: str) -> dict[str, Any]:
        """What ``results/<name>.json`` holds; empty where there is none."""
        file = self.out / "results" / f"{name}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def parts(self, name: str, parts: Mapping[str, Measure], **about: Any) -> dict[str, Any]:
        """Run the parts that are wanted and keep their rows as they come, each part with where its
        figures come from; what is left out stays as it was measured before."""
        before = self.kept(name)
        sources = {part: of for part, of in before.get("parts", {}).items() if part in parts}
        out: dict[str, Any] = {"parts": sources, **about}
        out["rows"] = [row for row in before.get("rows", []) if row["part"] in sources]
        for part in self.only or parts:
            print(f"-- {name}: {part}", flush=True)
            source, others = provenance(), [row for row in out["rows"] if row["part"] != part]
            mine: list[Row] = []
            try:
                for row in parts[part](self):
                    show(row)
                    mine.append({"part": part, **row})
                    out["parts"][part], out["rows"] = source, others + mine
                    self.keep(name, out)
            except LeftOut as why:
                print(f"left out: {why}", flush=True)
        self.keep(name, out)
        return out


def options_of(doc: str | None, parts: Iterable[str] = ()) -> Options:
    """The options of the command line; ``--only`` names one of the parts."""

    def absolute(path: str) -> Path:
        return Path(path).resolve()

    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=absolute, help="the folder of models")
    parser.add_argument("--quick", action="store_true", help="reduced sizes, for a look or a test")
    where = "where results/ and pictures/ go (default: here; quick: out/)"
    parser.add_argument("--out", type=absolute, help=where)
    only = "this one (repeatable); the figures of the others stay"
    parser.add_argument("--only", choices=list(parts), action="append", help=only)
    parsed = parser.parse_args()
    elsewhere = HERE.parent / "out" / "benchmarks"
    out = parsed.out or (elsewhere if parsed.quick else HERE)
    return Options(parsed.data, parsed.quick, out, tuple(parsed.only or ()))


def script(
    doc: str | None,
    name: str,
    parts: Mapping[str, Measure],
    draw: Draw | None = None,
    **about: Any,
) -> dict[str, Any]:
    """What a benchmark does as a command: ``about`` is kept beside the rows, and the picture is
    that of the full mode."""
    options = options_of(doc, parts)
    out = options.parts(name, parts, **about)
    if draw is not None and not options.quick:
        draw(out["rows"], options.picture(f"{name}.png"))
    return out


def show(row: Row, indent: str = "") -> None:
    """A row in one line, each word and number with its key; below it the tables that it holds."""
    short = (
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
        if isinstance(value, str | int | float | np.number)
    )
    print(indent + "  ".join(short), flush=True)
    for key, value in row.items():
        if isinstance(value, dict):
            print(f"{indent}  {key}:")
            show(value, indent + "    ")


# -- where figures come from -----------------------------------------------------------------------


def provenance() -> Row:
    """Where a figure comes from: commit, machine, versions, also of what others offer."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD") or "unknown",
        "changed_since": bool(_git("status", "--porcelain", "--", "spex_mech", "benchmarks/*.py")),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "others": {name: _version(name) for name in OTHERS},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=HERE.parent)
    except OSError:
        return ""
    return done.stdout.strip()


def plain(nest: Any) -> Any:
    """Lists and numbers that JSON has; None for NaN and the infinite."""
    if isinstance(nest, dict):
        return {str(key): plain(value) for key, value in nest.items()}
    if isinstance(nest, (list, tuple)):
        return [plain(value) for value in nest]
    if isinstance(nest, (np.ndarray, np.generic)):
        return plain(nest.tolist())
    if isinstance(nest, float) and not np.isfinite(nest):
        return None
    return nest


# -- a picture -------------------------------------------------------------------------------------


@contextmanager
def panels(file: Path, lines: int, columns: int, size: tuple[float, float]) -> Iterator[list[Any]]:
    """Axes to draw in, line by line; labels make a legend, and all is written to the file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    yield axes
    for ax in axes:
        ax.title.set_fontsize(9)
        ax.tick_params(labelsize=7)
    labelled = [ax for ax in axes if ax.get_legend_handles_labels()[1]]
    if len({tuple(ax.get_legend_handles_labels()[1]) for ax in labelled}) == 1:
        handles = labelled[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=len(handles[1]), fontsize=8)
    else:
        for ax in labelled:
            ax.legend(fontsize=7)
    figure.savefig(file, dpi=110)


def show_in_docs(file: Path) -> None:
    """The docs have a copy of the picture, unless it was drawn elsewhere than the kept ones."""
    if file.is_relative_to(HERE):
        shutil.copy(file, HERE.parent / "docs" / file.name)


# -- jobs in processes of their own ----------------------------------------------------------------


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the seconds that it took."""
    started = time.perf_counter()
    return run(), time.perf_counter() - started


def repeated(
    options: Options, work: Callable[..., Row], plans: Iterable[tuple[Any, ...]], reps: int
) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    """Each plan and its results: of ``work``, called with the plan and the number of a repetition,
    by two processes of one thread. In the quick mode the first plans a few times, in this one."""
    listed, reps = list(options.some(plans, 2)), min(reps, 3) if options.quick else reps
    jobs = [(*plan, seed) for plan in listed for seed in range(reps)]
    if options.quick:
        runs = [work(*job) for job in jobs]
    else:
        size = max(1, min(8, len(jobs) // 8))
        with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            runs = list(pool.map(work, *zip(*jobs, strict=True), chunksize=size))
    for at, plan in enumerate(listed):
        yield plan, runs[at * reps : (at + 1) * reps]


def alone(measure: Callable[..., Any], *arguments: Any) -> Any:
    """In a process of its own with one thread, whose memory is only that of this."""
    kept = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            return pool.submit(measure, *arguments).result()
    finally:
        os.environ.clear()
        os.environ.update(kept)


def memory_mb(most: bool = True) -> float:
    """The most that this process has held, or what it holds now (Linux). Not ``ru_maxrss``, which
    begins with what the parent held."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [x for x in status.splitlines() if x.startswith("VmHWM" if most else "VmRSS")]
    return int(line.split()[1]) / 1024


# -- means and errors ------------------------------------------------------------------------------


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    """The mean of those that are finite, and its standard error."""
    listed = np.array([v for v in values if np.isfinite(v)], dtype=np.float64)
    if not len(listed):
        return float("nan"), float("nan")
    error = listed.std(ddof=1) / np.sqrt(len(listed)) if len(listed) > 1 else float("nan")
    return float(listed.mean()), float(error)


def means(rows: Sequence[Row], *keys: str) -> Row:
    """Of each key the mean over rows and its standard error."""
    found: Row = {}
    for key in keys:
        found[key], found[f"{key}_error"] = mean_and_error(row[key] for row in rows)
    return found


def coverage(held: Iterable[float], nominal: float = 0.9) -> Row:
    """The mean over repetitions of what share was covered, and its standard error (binomial at the
    nominal rate where a repetition is one yes or no)."""
    listed = np.array(list(held), dtype=np.float64)
    share, error = mean_and_error(listed)
    if np.isin(listed, (0, 1)).all():
        error = float(np.sqrt(nominal * (1 - nominal) / len(listed)))
    return {"coverage": share, "error": error}


def rows_of(rows: Iterable[Row], **where: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in where.items())]
