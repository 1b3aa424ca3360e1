"""Random functions, arguments, labels and files, tried without the tests' own type checks, as a
user would: each gives the right value, compared with a plain loop in float64, or an error that the
package raises itself. ``python -m tests.fuzz FIRST COUNT FOLDER`` prints a JSON line per case."""

import io
import json
import linecache
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import spex_mech as sm
from tests.prompt_files import prompt_file_case

HERE = str(Path(__file__).parent)
ROUNDING = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "int64": 1e-12}


class Function:
    """A random set function of known values, returned in some type and shape.

    Args:
        rng: makes it.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.n, self.n_prompts = int(rng.integers(2, 7)), int(rng.choice([1, 1, 1, 3]))
        self.dtype = str(rng.choice(["float64"] * 4 + ["float32", "float16", "int64"]))
        powers = [0, 0, 0, 39, -46, 120, 200, -160] if self.dtype == "float64" else [0]
        power = int(rng.choice(powers))
        self.too_far = abs(power) > 140
        terms = [set_ for size in range(4) for set_ in combinations(range(self.n), size)]
        self.terms = [s for s in terms if rng.random() < 0.5]
        self.weights = rng.integers(-4, 5, size=(len(self.terms), self.n_prompts)) * 10.0**power
        self.many, self.torch = bool(rng.random() < 0.6), bool(rng.random() < 0.5)
        kinds = WRONG_KINDS if rng.random() < 0.15 else RETURNED
        self.kind = str(rng.choice([*kinds]))
        self.noise = float(rng.choice([0, 0, 0, 0, 1])) if self.dtype == "float64" else 0.0
        self.bad = float(rng.choice([np.nan, np.inf])) if rng.random() < 0.1 else 0.0
        self._rng = np.random.default_rng(int(rng.integers(1 << 30)))

    @property
    def is_good(self) -> bool:
        """Whether there is nothing in it to refuse."""
        return self.kind in RETURNED and not self.bad and not self.too_far

    def truth(self, kept: np.ndarray) -> np.ndarray:
        """``[prompt]`` of one mask, without noise."""
        gone = ~kept
        on = np.array([all(gone[u] for u in s) for s in self.terms], dtype=float)
        return on @ self.weights if len(self.terms) else np.zeros(self.n_prompts)

    def __call__(self, masks: Any) -> Any:
        if self.many:
            masks[:, 0]  # a function of many masks, which takes no single one
        else:
            bool(masks[0])  # and the other way round
        if self.torch:
            masks.dim()
        kept = np.array(masks, dtype=bool)
        values = np.array([self.truth(row) for row in kept.reshape(-1, self.n)])
        values = values.astype(self.dtype)
        if self.noise:
            scale = abs(self.weights).max(initial=1.0)
            values = values + scale * self._rng.normal(size=values.shape)
        if self.bad and not kept.all():
            values = np.where(kept.reshape(-1, self.n).all(axis=1)[:, None], values, self.bad)
        if self.n_prompts == 1:
            values = values[:, 0]
        return {**RETURNED, **WRONG_KINDS}[self.kind](values if self.many else values[0])

    def __repr__(self) -> str:
        shown = ("n", "n_prompts", "dtype", "many", "torch", "kind", "noise", "bad")
        return ", ".join(f"{name}={getattr(self, name)}" for name in shown)


def _tensor(values: Any) -> torch.Tensor:
    return torch.as_tensor(np.asarray(values))


RETURNED: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda v: v,
    "tensor": _tensor,
    "list": lambda v: np.asarray(v).tolist(),
    "tuple": lambda v: tuple(v) if np.ndim(v) else v.item(),
    "with a gradient": lambda v: _tensor(v).double().requires_grad_(),
    "read only": lambda v: np.broadcast_to(v, np.shape(v)),
    "pandas": lambda v: pd.Series(v) if np.ndim(v) == 1 else pd.DataFrame(v) if np.ndim(v) else v,
    "objects that are numbers": lambda v: np.asarray(v).astype(object),
    "sparse": lambda v: _tensor(v).to_sparse() if np.ndim(v) else v,
    "list of tensors": lambda v: [_tensor(one) for one in v] if np.ndim(v) else v,
}
WRONG_KINDS: dict[str, Callable[[Any], Any]] = {
    "dict": lambda v: {"score": v},
    "generator": lambda v: (one for one in np.atleast_1d(v)),
    "text": lambda v: np.asarray(v).astype(str),
    "complex": lambda v: np.asarray(v) * 1j,
    "meta": lambda v: _tensor(v).to("meta"),
    "none": lambda v: None,
    "three axes": lambda v: np.asarray(v).reshape(1, 1, -1),
    "empty": lambda v: np.asarray(v)[..., None][..., :0],
    "objects": lambda v: [object() for _ in np.atleast_1d(v)],
    "nested": lambda v: [[one, [one]] for one in np.atleast_1d(v)],
}
ARGUMENTS: dict[str, list[Any]] = {
    "method": ["exhaustive", "spex", "proxyspex", "magic", 3, None],
    "budget": [None, 7, 40, 500, np.int64(200), 10**9, 0, -3, 2.5, "many", True, np.nan],
    "order": [2, 3, np.int32(2), 6, 1, 0, -1, 2.0, "2", None, True],
    "seed": [0, 5, np.uint8(3), -1, 1.5, "a", None, 10**30],
    "vectorized": [None, True, False, "yes"],
}
LABELS: list[Callable[[int], Any]] = [
    lambda n: None,
    lambda n: [f"u{i}" for i in range(n)],
    lambda n: np.array([f"\u00fc\u2192{i}" for i in range(n)]),
    lambda n: pd.Index([f'<b>{i}</b>, "x"' for i in range(n)]),
    lambda n: list(range(n)),
    lambda n: tuple(f"{i}:a x b" for i in range(n)),
    lambda n: ["same"] * n,
    lambda n: [f"u{i}" for i in range(n + 1)],
    lambda n: [""] * n,
    lambda n: ["a\r\nb", *map(str, range(1, n))],
    lambda n: [None] * n,
    lambda n: [["a"]] * n,
    lambda n: 3,
    lambda n: [float(i) for i in range(n)],
]


def right(found: Any, function: Function) -> str:
    """What is wrong with a result; empty: nothing."""
    if not len(found.values):
        return ""
    wide = {"": function.truth(np.ones(function.n, dtype=bool))}

    def value(units: tuple[int, ...]) -> np.ndarray:
        key = ",".join(map(str, units))
        if key not in wide:
            kept = np.ones(function.n, dtype=bool)
            kept[list(units)] = False
            wide[key] = function.truth(kept)
        return wide[key]

    if function.noise:
        varies = found.about["asked_again"]["varies"] or not found.about["asked_again"]["masks"]
        return "" if varies else "a function that varies, and nothing is said"
    for row, units in enumerate(found.units.tolist()):
        units = tuple(u for u in units if u >= 0)
        want = sum(
            (-1) ** (len(units) - len(part)) * value(part)
            for size in range(len(units) + 1)
            for part in combinations(units, size)
        )
        largest = max(abs(each).max() for each in wide.values())
        if not (abs(found.values[row] - want) <= 16 * ROUNDING[function.dtype] * largest).all():
            return f"{units}: {found.values[row]}, and the loop gives {want}"
        if (
            found.is_noise[row]
            and abs(want.mean()) > 0.01 * largest
            and function.dtype != "float16"
        ):
            return f"{units}: {want} is called noise, floor {found.noise_floor}"
    if found.intact_by_prompt.tolist() != value(()).astype(function.dtype).tolist():
        return f"intact {found.intact_by_prompt}"
    return ""


def shown_and_kept(found: Any, rng: np.random.Generator, folder: Path) -> str:
    """Whether all that shows or keeps a result says the same."""
    table = found.frame()
    if len(table) != len(found) or not (repr(found) and found._repr_html_()):
        return "the table lacks rows"
    path = found.save(folder / "found.npz")
    again = sm.Interactions.load(path)
    if again.values.tobytes() != found.values.tobytes() or again.labels != found.labels:
        return "the file says something else"
    text = table.to_csv(index=False)
    pd.testing.assert_frame_equal(
        pd.read_csv(io.StringIO(text))[["value"]], table[["value"]], rtol=1e-12
    )
    if rng.random() < 0.1:
        sm.write_report(found, folder / "report.html")
    content = bytearray(path.read_bytes())
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(content[: int(rng.integers(len(content) // 2, len(content) + 1))]))
    try:
        again = sm.Interactions.load(path)
    except ValueError:
        return ""
    return "" if again.values.tobytes() == found.values.tobytes() else "a damaged file was read"


def picked(rng: np.random.Generator, of: list[Any]) -> Any:
    """Mostly the first, which is the usual one."""
    return of[0] if rng.random() < 0.8 else of[int(rng.integers(len(of)))]


def function_case(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    """What was tried, and what is wrong with it."""
    function = Function(rng)
    given = {name: picked(rng, of) for name, of in ARGUMENTS.items()}
    labels = picked(rng, LABELS)(function.n)
    given |= {} if labels is None else {"labels": labels}
    stores: list[Any] = [None, folder / "run.sqlite", folder, "", ":memory:", folder / "text"]
    given["store"] = picked(rng, stores)
    (folder / "text").write_text("no store")
    what = f"{function}; {given}"
    try:
        found = sm.discover(function, n=function.n, progress=False, **given)
    except ValueError as error:
        usual = labels is None and all(
            repr(given[name]) == repr(of[0]) for name, of in ARGUMENTS.items()
        )
        if usual and given["store"] is None and function.is_good:
            return what, f"it was refused: {error}"
        raise
    if function.kind in WRONG_KINDS or (function.bad and len(found)):
        return what, f"it gave a result: {found!r}"[:300]
    return what, right(found, function) or shown_and_kept(found, rng, folder)


def case(seed: int, folder: Path) -> dict[str, Any]:
    """One case as a row: what was tried, what came, and what is wrong."""
    rng = np.random.default_rng([20, seed])
    row: dict[str, Any] = {"seed": seed, "wrong": "", "came": "a result"}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        make = prompt_file_case if seed % 4 == 3 else function_case
        row["what"], row["wrong"] = make(rng, folder)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        line = linecache.getline(last.filename, last.lineno or 0).strip()
        row["came"] = f"{type(error).__name__}: {error}"
        own = "spex_mech" in last.filename and not last.filename.startswith(HERE)
        if not (own and line.startswith("raise") and str(error)):
            row["wrong"] = "".join(traceback.format_tb(error.__traceback__)[-3:])
    return row


def main(first: int, count: int, folder: Path) -> None:
    warnings.simplefilter("ignore")  # of files of prompts and of values that vary, told by design
    torch.set_num_threads(1)
    for seed in range(first, first + count):
        print(json.dumps(case(seed, folder / "case")), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
