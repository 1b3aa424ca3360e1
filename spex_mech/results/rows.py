"""The rows of a result, also of one that was put together by hand: arrays that fit, values that are
numbers, and each set of units once, in the order in which it is looked up."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from spex_mech.arguments import shown

_LARGEST_KEY = 2**62


def checked_rows(labels: Sequence[str], given: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a result as it keeps them: ``units``, whole numbers in ascending order, padded
    with -1 on the right; ``values``, ``main_effects_by_prompt`` and ``intact_by_prompt``, floats.

    Raises:
        ValueError: something else than numbers, shapes that do not fit together, a unit that there
            is not or that is twice in a row, a set of units that has two rows, or a value that is
            not finite.

    >>> arrays = {"units": [[1, 0]], "values": [[2]], "main_effects_by_prompt": [[0], [0]],
    ...           "intact_by_prompt": [1]}
    >>> checked_rows(["a", "b"], arrays)["units"].tolist()
    [[0, 1]]
    """
    arrays = {name: np.asarray(value) for name, value in given.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{name} holds {array.dtype}; it must hold real numbers")
    units = arrays.pop("units")
    if units.dtype.kind not in "iu":
        if units.size:
            raise ValueError(f"units hold {shown(units.ravel()[0].item())}; give whole numbers")
        units = np.zeros((0, 2), dtype=np.int64)
    floats = {n: a if a.dtype.kind == "f" else a.astype(np.float64) for n, a in arrays.items()}
    _check_shapes(len(labels), units, **floats)
    units = _in_order(units, len(labels))
    _check_sets(units, labels)
    _check_finite(units, floats["values"], labels)
    return {"units": units, **floats}


def _check_shapes(n: int, units: np.ndarray, **arrays: np.ndarray) -> None:
    values, mains = arrays["values"], arrays["main_effects_by_prompt"]
    intact = arrays["intact_by_prompt"]
    fits = (
        units.ndim == values.ndim == 2
        and len(units) == len(values)
        and mains.shape == (n, values.shape[1])
        and intact.shape == (values.shape[1],)
    )
    if not fits:
        shapes = {name: array.shape for name, array in {"units": units, **arrays}.items()}
        raise ValueError(
            f"shapes of {n} units that do not fit: {shapes}; they must be units [row order], "
            "values [row prompt], main_effects_by_prompt [unit prompt], intact_by_prompt [prompt]"
        )
    if units.size and not (-1 <= units.min() and units.max() < n):
        raise ValueError(f"a unit beyond the {n}: {units.min()} to {units.max()}")


def _in_order(units: Int[np.ndarray, "row order"], n: int) -> Int[np.ndarray, "row order"]:
    """Each row in ascending order, with what is no unit at its end."""
    last = np.where(units < 0, n, units)
    if (last[:, 1:] >= last[:, :-1]).all():
        return units
    ordered = np.sort(last, axis=1)
    return np.where(ordered == n, -1, ordered).astype(units.dtype)


def _check_sets(units: Int[np.ndarray, "row order"], labels: Sequence[str]) -> None:
    same = (units[:, 1:] == units[:, :-1]) & (units[:, 1:] >= 0)
    if same.any():
        row, place = np.argwhere(same)[0].tolist()
        label = labels[int(units[row, place])]
        raise ValueError(f"row {row} holds the unit {label!r} twice")
    keys, n = np.zeros(len(units), dtype=np.int64), len(labels) + 1
    if n ** units.shape[1] < _LARGEST_KEY:
        for column in units.T:
            keys = keys * n + column + 1
    else:
        keys = np.unique(units, axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(keys[order[1:]] == keys[order[:-1]])
    if len(again):
        first, second = sorted(order[again[0] : again[0] + 2].tolist())
        raise ValueError(
            f"{_name(units[first], labels)} stands in two rows, {first} and {second}, and tables "
            "and maps would count it as two; leave one of them out"
        )


def _check_finite(
    units: Int[np.ndarray, "row order"],
    values: Float[np.ndarray, "row prompt"],
    labels: Sequence[str],
) -> None:
    if np.isfinite(values).all():
        return
    row, prompt = np.argwhere(~np.isfinite(values))[0].tolist()
    raise ValueError(
        f"the value of {_name(units[row], labels)} on prompt {prompt} is {values[row, prompt]}; "
        "leave this prompt out of values, main_effects_by_prompt and intact_by_prompt, or the row "
        "out of units and values"
    )


def _name(units: Int[np.ndarray, " order"], labels: Sequence[str]) -> str:
    return " x ".join(labels[int(u)] for u in units if u >= 0)
