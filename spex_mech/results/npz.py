"""A result as an npz file: arrays and JSON, no pickles."""

import json
import zipfile
import zlib
from io import BufferedIOBase
from math import comb
from typing import Any

import numpy as np

from spex_mech.results.measured import Stored
from spex_mech.units import Units

_FORMAT = 2
_ARRAYS = ("units", "values", "main_effects_by_prompt", "intact_by_prompt")
# What belongs to all that was tested, not to the part that is shown or kept.
OF_WHOLE_BY_ROW = ("q_value", "stands_out", "confirmed")
_OF_WHOLE = (*OF_WHOLE_BY_ROW, "n_choices", "n_measured")
# What reading a file that is no npz, or a damaged one, is seen to raise.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, AttributeError, EOFError,
    OSError, NotImplementedError,
)  # fmt: skip


def write(found: Stored, file: BufferedIOBase) -> None:
    """Write a result into an open file."""
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
    arrays = {name: getattr(found, name) for name in (*_ARRAYS, *_OF_WHOLE)}
    arrays["stands_out"] = arrays["stands_out"].astype(np.uint8)
    np.savez_compressed(file, about=text, **arrays)


def read(raw: BufferedIOBase, path: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file holds: the fields of a result, and what belongs to the whole that it may be a
    part of.

    Raises:
        ValueError: it is not a result, or of a newer format; ``path`` is what the error calls it.
    """
    try:
        with np.load(raw, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            format = about.pop("format")
            newer = format > _FORMAT
            arrays = {} if newer else {name: file[name] for name in _ARRAYS}
            of_whole = {name: file[name] for name in _OF_WHOLE if name in file and not newer}
    except _DAMAGED as error:
        raise ValueError(f"{path} is not a spex_mech result (npz): {error}") from error
    if newer:
        raise ValueError(f"{path} was written by a newer spex_mech; upgrade to read it")
    for name in ("n_choices", "n_measured"):
        if name in of_whole:
            of_whole[name] = int(of_whole[name])
    if "stands_out" in of_whole:
        of_whole["stands_out"] = of_whole["stands_out"].astype(bool)
    labels = about["labels"]
    if format == 1:  # before results had a table, and said what they were chosen from
        chosen = about["about"].get("method") in ("spex", "proxyspex")
        orders = range(2, arrays["units"].shape[1] + 1)
        about["chosen_from"] = {o: comb(len(labels), o) for o in orders} if chosen else {}
        about["unit_table"] = Units.of_labels(labels)
    else:
        about["chosen_from"] = {int(o): n for o, n in about["chosen_from"].items()}
        about["unit_table"] = Units.of_columns(labels, about["unit_table"])
    return about | arrays, of_whole
