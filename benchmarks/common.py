"""What every benchmark shares: arguments, where figures come from, where they are kept."""

import argparse
import json
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
RIVALS = (
    "shapiq", "spectralexplain", "scikit-learn", "lightgbm",
    "captum", "nnsight", "pyvene", "transformer-lens", "transformers",
)  # fmt: skip

Row = dict[str, Any]
Part = tuple[Callable[[Any], Iterable[Row]], bool]  # what measures it, whether it needs models


@dataclass(frozen=True)
class Options:
    """What a benchmark is run with: the folder of models, reduced sizes or all, where to write.

    The committed figures are those of the full mode; the quick one writes elsewhere.
    """

    data: Path | None = None
    quick: bool = False
    out: Path = HERE
    only: tuple[str, ...] = ()

    def keep(self, name: str, figures: dict[str, Any]) -> Path:
        """Write ``results/<name>.json``, with None for NaN, as JSON has no such number. Called
        after each part, so that an interrupted run leaves what it measured."""
        file = self.out / "results" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(plain(figures), indent=1, allow_nan=False)
        file.write_text(text + "\n", encoding="utf-8")
        return file

    def picture(self, name: str) -> Path:
        """Where to draw ``pictures/<name>``."""
        file = self.out / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def kept(self, name: str) -> dict[str, Any]:
        """What ``results/<name>.json`` holds; empty where there is none."""
        file = self.out / "results" / f"{name}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def parts(self, name: str, parts: Mapping[str, Part], **about: Any) -> dict[str, Any]:
        """Run the parts that are wanted and keep their rows as they come, each part with where its
        figures come from; what ``only`` leaves out stays as it was measured before."""
        before = self.kept(name) if self.only else {}
        out: dict[str, Any] = {"parts": before.get("parts", {}), **about}
        out["rows"] = [row for row in before.get("rows", []) if row["part"] in out["parts"]]
        for part, (measure, needs_data) in parts.items():
            if self.only and part not in self.only:
                continue
            if needs_data and self.data is None:
                print(f"{name}: {part} needs the folder of models (--data); left out", flush=True)
                continue
            out["parts"][part] = provenance()
            out["rows"] = [row for row in out["rows"] if row["part"] != part]
            for row in measure(self):
                out["rows"].append({"part": part, **row})
                self.keep(name, out)
            self.keep(name, out)
        return out


def parser(doc: str | None, parts: Iterable[str] = ()) -> argparse.ArgumentParser:
    """A parser of the arguments that all have, and of ``--only``, which names one of the parts;
    ``options_of`` reads what it parsed."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", type=Path, help="the folder of models")
    made.add_argument("--quick", action="store_true", help="reduced sizes, for a look or a test")
    made.add_argument(
        "--out", type=Path, help="where results/ and pictures/ go (default: here; quick: out/)"
    )
    if parts:
        made.add_argument(
            "--only", choices=list(parts), action="append",
            help="this one (repeatable); the figures of the others stay",
        )  # fmt: skip
    return made


def options_of(parsed: argparse.Namespace) -> Options:
    elsewhere = HERE.parent / "out" / "benchmarks"
    out = parsed.out or (elsewhere if parsed.quick else HERE)
    return Options(parsed.data, parsed.quick, out, tuple(getattr(parsed, "only", None) or ()))


def script(doc: str | None, run: Callable[[Options], Any], parts: Iterable[str] = ()) -> None:
    """What a benchmark does as a command; ``parts`` can be named by ``--only``."""
    run(options_of(parser(doc, parts).parse_args()))


def show(row: dict[str, Any], keys: Iterable[str] = ()) -> None:
    """A line of a table; of ``keys``, or of all that a row has."""
    chosen = [row[key] for key in keys or row if row.get(key) is not None]
    print("  ".join(f"{x:.4g}" if isinstance(x, float) else f"{x}" for x in chosen), flush=True)


def provenance() -> dict[str, Any]:
    """Where a figure comes from: commit, machine, versions."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD") or "unknown",
        "changed_since": bool(_git("status", "--porcelain", "--", "spex_mech", "benchmarks/*.py")),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def versions(names: Iterable[str] = RIVALS) -> dict[str, str]:
    """The rivals' versions, or that one is not installed."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


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


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=HERE.parent)
    except OSError:
        return ""
    return done.stdout.strip()
