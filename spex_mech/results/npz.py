"""A result as an npz file: arrays and JSON, no pickles."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from math import comb
from typing import Any

import numpy as np

from spex_mech.arguments import printable
from spex_mech.results.measured import Stored
from spex_mech.results.rows import checked_rows
from spex_mech.units import Units

_FORMAT = 2
ARRAYS = ("units", "values", "main_effects_by_prompt", "intact_by_prompt")
# What belongs to all that was tested, not to the part that is shown or kept.
OF_WHOLE_BY_ROW = ("q_value", "stands_out", "confirmed")
_OF_WHOLE = (*OF_WHOLE_BY_ROW, "n_choices", "n_measured")
_ZIP = b"PK"  # how an npz begins


def write(found: Stored, file: BufferedIOBase, **beside: np.ndarray) -> None:
    """Write a result into an open file, and arrays beside it that :func:`beside` reads."""
    about = {
        "format": _FORMAT,
        "labels": found.labels,
        "noise_floor": found.noise_floor,
        "cost": found.cost,
        "audit": found.audit,
        "about": found.about,
        "chosen_from": found.chosen_from,
        "unit_table": found.unit_table.as_columns(),
    }
    # Numbers of numpy, such as a budget, become plain ones.
    plain = lambda value: value.tolist() if hasattr(value, "tolist") else str(value)  # noqa: E731
    text = np.frombuffer(json.dumps(about, default=plain).encode(), dtype=np.uint8)
    arrays = {name: getattr(found, name) for name in (*ARRAYS, *_OF_WHOLE)}
    arrays["stands_out"] = arrays["stands_out"].astype(np.uint8)
    every: dict[str, Any] = {"about": text, **arrays, **beside}
    np.savez_compressed(file, **every)


def beside(raw: BufferedIOBase, path: Any, *names: str) -> list[np.ndarray] | None:
    """Arrays that were written beside a result that was read already; None where one is missing.

    Raises:
        ValueError: the file is damaged.
    """
    raw.seek(0)
    with _damage_told(path), np.load(raw, allow_pickle=False) as file:
        return [file[name] for name in names] if {*names} <= {*file.files} else None


def read(raw: BufferedIOBase, path: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file holds: the fields of a result, and what belongs to the whole that it may be a
    part of. Nothing in it is unpickled.

    Raises:
        ValueError: it is not a result, is damaged, or of a newer format; ``path`` is what the error
            calls it.
    """
    start = raw.read(len(_ZIP))
    raw.seek(0)
    if start != _ZIP:
        raise ValueError(f"{path} is not a spex_mech result (npz): it {_begins(start)}")
    with _damage_told(path):
        return _fields(raw)


@contextmanager
def _damage_told(path: Any) -> Iterator[None]:
    try:
        yield
    except _NewerError:
        raise ValueError(f"{path} was written by a newer spex_mech; upgrade to read it") from None
    # Whatever zipfile, zlib, numpy or json raise of some changed byte.
    except Exception as error:
        why = error if isinstance(error, _OddError) else f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{path} is not a spex_mech result (npz), or a damaged one ({why}); search again, or "
            "take a copy"
        ) from error


class _NewerError(Exception):
    """A newer version wrote it."""


class _OddError(Exception):
    """What it holds does not fit together."""


def _begins(start: bytes) -> str:
    return f"begins with {start!r}" if start else "is empty"


def _fields(raw: BufferedIOBase) -> tuple[dict[str, Any], dict[str, Any]]:
    with np.load(raw, allow_pickle=False) as file:
        if "about" not in file:
            raise _OddError(f"it holds {', '.join(file.files[:4])}, and no result")
        about = json.loads(file["about"].tobytes())
        if not isinstance(about, dict) or not isinstance(about.get("format"), int):
            raise _OddError("it says nothing of its format")
        format = about.pop("format")
        if format > _FORMAT:
            raise _NewerError
        arrays = {name: file[name] for name in ARRAYS}
        of_whole = {name: file[name] for name in _OF_WHOLE if name in file}
    for name in ("n_choices", "n_measured"):
        if name in of_whole:
            of_whole[name] = int(of_whole[name])
    if "stands_out" in of_whole:
        of_whole["stands_out"] = of_whole["stands_out"].astype(bool)
    # Before labels were checked they could hold line breaks.
    about["labels"] = labels = [printable(label) for label in about["labels"]]
    _check(labels, arrays, of_whole)
    if format == 1:  # before results had a table, and said what they were chosen from
        chosen = about["about"].get("method") in ("spex", "proxyspex")
        orders = range(2, arrays["units"].shape[1] + 1)
        about["chosen_from"] = {o: comb(len(labels), o) for o in orders} if chosen else {}
        about["unit_table"] = Units.of_labels(labels)
    else:
        about["chosen_from"] = {int(o): n for o, n in about["chosen_from"].items()}
        about["unit_table"] = Units.of_columns(labels, about["unit_table"])
    return about | arrays, of_whole


def _check(labels: list[str], arrays: dict[str, np.ndarray], of_whole: dict[str, Any]) -> None:
    """Raises:
    _OddError: arrays whose shapes or contents do not fit together.
    """
    kinds = [arrays[name].dtype.kind for name in ARRAYS]
    if kinds[0] not in "iu" or {*kinds[1:]} != {"f"}:
        raise _OddError("arrays of other types than numbers")
    try:
        checked_rows(labels, arrays)
    except ValueError as error:
        raise _OddError(str(error)) from error
    rows = {name: of_whole[name].shape for name in OF_WHOLE_BY_ROW if name in of_whole}
    if any(shape != (len(arrays["units"]),) for shape in rows.values()):
        raise _OddError(f"shapes of {len(arrays['units'])} rows that do not fit: {rows}")
