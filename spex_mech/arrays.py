"""The one door for numbers, masks and classes that a user brings.

It takes numpy arrays (memory maps and masked arrays too), torch tensors, pandas tables and columns
(nullable ones too; rows and columns are taken in order), scipy's sparse matrices,
whatever has ``__array__``, and lists of numbers. All else is refused by name, and so are words,
dates, complex numbers and rows of unequal length.
"""

from collections.abc import Sequence
from numbers import Number
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.arguments import kind_of, labels_of, plain_tensor, same_order, shown

HALF_FORMATS = ("bfloat16", "float16")
_PLACES = ("row", "column")


def own_array(name: str, value: Any) -> np.ndarray:
    """An array of numbers in its own type: integers stay integers. A value that is missing (None,
    pandas' NA, a masked entry) becomes NaN.

    Args:
        name: what the argument is called, for the error.

    Raises:
        TypeError: what holds the numbers is none of the kinds that are known here, or holds
            something else than real numbers.
        ValueError: rows of unequal length.
    """
    array = _plain(name, value)
    if array.dtype.kind == "O":
        return _of_objects(name, array)
    if array.dtype.kind not in "biuf":
        raise _not_numbers(name, array.ravel()[0].item() if array.size else array.dtype)
    return array


def numbers(
    name: str, value: Any, axes: Sequence[str] = (), *, finite: bool = True
) -> Float[np.ndarray, "..."]:
    """An array of numbers in float64.

    Args:
        axes: what each axis is called; default: any number of axes.
        finite: refuse NaN and infinities.

    Raises:
        TypeError: as of :func:`own_array`.
        ValueError: another number of axes, or a number that is missing or infinite, with its place.

    >>> numbers("x", [[1, 2], [3, 4]], ["example", "feature"]).dtype
    dtype('float64')
    """
    array = own_array(name, value).astype(np.float64)
    if axes and array.ndim != len(axes):
        raise ValueError(f"{name} has shape {array.shape}; it must be [{' '.join(axes)}]")
    if finite and not (good := np.isfinite(array)).all():
        place = np.argwhere(~good)[0].tolist()
        names = axes or [*_PLACES[: array.ndim], *("axis" for _ in range(array.ndim - 2))]
        where = ", ".join(f"{axis} {at}" for axis, at in zip(names, place, strict=True))
        raise ValueError(
            f"{name} is {array[tuple(place)]} at {where or 'its only place'}; leave it out or fill "
            "it in"
        )
    return array


def mask_array(
    name: str, value: Any, n_units: int | None = None, labels: Sequence[str] | None = None
) -> Bool[np.ndarray, "mask unit"]:
    """Masks, True = kept: booleans, or the numbers 0 and 1. Nothing else is taken for a mask: of -1
    and 1, or words, every entry would count as kept.

    Args:
        labels: the names of the units, which a table's columns must not name in another order.

    Raises:
        TypeError: as of :func:`own_array`.
        ValueError: another shape, an entry that is neither 0 nor 1, or columns in another order.

    >>> mask_array("masks", [[1, 0]]).tolist()
    [[True, False]]
    """
    array = own_array(name, value)
    if array.ndim != 2 or (n_units is not None and array.shape[1] != n_units):
        units = "" if n_units is None else f" with {n_units} units"
        raise ValueError(f"{name} have shape {array.shape}; they need [mask unit]{units}")
    check_units(name, value, labels)
    if array.dtype.kind == "b":
        return array
    good = (array == 0) | (array == 1)
    if not good.all():
        row, unit = np.argwhere(~good)[0].tolist()
        raise ValueError(
            f"{name} hold {array[row, unit]} at mask {row}, unit {unit}; they must be True and "
            "False, or 1 (kept) and 0 (ablated)"
        )
    return array == 1


def check_units(name: str, value: Any, labels: Sequence[str] | None) -> None:
    """Raises:
    ValueError: the columns of a table of masks name the units in another order.
    """
    columns = labels_of(value, "columns")
    same_order(
        f"the table of {name}",
        None if columns is None else [str(column) for column in columns],
        "the labels of the units",
        labels,
        f"columns are paired with units by position: give {name}[labels], or {name}.to_numpy() "
        "where they belong together as they are",
    )


class AnswerError(ValueError):
    """What a function of masks returned is no answer.

    Args:
        text: why not.
        shape: its numbers are of another shape; False: it holds no real numbers.
    """

    def __init__(self, text: str, shape: bool = False) -> None:
        super().__init__(text)
        self.shape = shape


def answer_table(value: Any, n_masks: int) -> Float[np.ndarray, "mask prompt"]:
    """What a function of many masks returned, ``[mask]`` or ``[mask prompt]``, in float64; of one
    mask a single number will do.

    Raises:
        AnswerError: something else than real numbers, or another shape; the text begins with
            "returned".

    >>> answer_table([1, 2], 2).tolist()
    [[1.0], [2.0]]
    """
    table = _answer(value)
    if table.ndim == 0 and n_masks == 1:
        table = table[None]
    if table.ndim not in (1, 2) or len(table) != n_masks or not table.size:
        raise AnswerError(
            f"returned shape {list(table.shape)} for {n_masks} masks; it must return [mask] or "
            f"[mask prompt]. It returned {described(value)}",
            shape=True,
        )
    return table.reshape(n_masks, -1)


def answer_of_one(value: Any, n_masks: int = 1) -> Float[np.ndarray, "1 prompt"]:
    """What a function of one mask returned, one number or ``[prompt]``, in float64.

    Raises:
        AnswerError: as of :func:`answer_table`.

    >>> answer_of_one(3).tolist()
    [[3.0]]
    """
    table = _answer(value)
    if table.ndim == 2 and len(table) == 1:
        table = table[0]
    if table.ndim > 1 or not table.size:
        raise AnswerError(
            f"returned shape {list(table.shape)} for one mask; it must return one number or "
            f"[prompt]. It returned {described(value)}",
            shape=True,
        )
    return table.reshape(1, -1)


def _answer(value: Any) -> Float[np.ndarray, "..."]:
    try:
        return own_array("the answer", value).astype(np.float64)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        why = "" if value is None or isinstance(value, dict) else f" ({error})"
        raise AnswerError(
            f"returned {described(value)}; it must return real numbers, [mask] or [mask prompt]"
            f"{why}"
        ) from error


def described(value: Any) -> str:
    """What came, for an error's text: its type, and its shape or content.

    >>> described(np.zeros((2, 3), dtype=complex)), described({"a": 1})
    ('an ndarray of shape [2, 3] (complex128)', "{'a': 1}, a dict")
    """
    try:
        shape, dtype = [int(size) for size in value.shape], value.dtype
    except (AttributeError, TypeError, RuntimeError):  # of a nested tensor
        return shown(value)
    return f"{kind_of(value)} of shape {shape} ({dtype})"


def half_format(value: Any) -> str | None:
    """The name of the half format that numbers came in; None: another type, or no array.

    >>> half_format(np.zeros(2, np.float16)), half_format([1.0, 2.0])
    ('float16', None)
    """
    if isinstance(value, list | tuple) and value:
        return half_format(value[0])
    name = str(getattr(value, "dtype", "")).removeprefix("torch.")
    return name if name in HALF_FORMATS else None


def same_length(**arrays: np.ndarray) -> None:
    """Raises:
    ValueError: two arrays have not as many rows.
    """
    (first, one), *rest = arrays.items()
    for name, other in rest:
        if len(other) != len(one):
            raise ValueError(f"{first} has {len(one)} rows and {name} has {len(other)}")


def _plain(name: str, value: Any) -> np.ndarray:
    """An array of whatever holds it, in its own type."""
    if isinstance(value, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(value), np.nan, value.data.astype(np.float64))
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    if isinstance(value, list | tuple):
        try:
            return np.asarray([_plain(name, v) if _holds(v) else v for v in value])
        except ValueError as error:
            raise ValueError(f"{name} has rows of unequal length; give a table of one width") from (
                error
            )
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # a torch tensor, on any device
        value = plain_tensor(name, value).detach().cpu()
        short = value.is_floating_point() and value.dtype.itemsize < 4  # bfloat16 is not numpy's
        return (value.float() if short else value).resolve_conj().numpy()
    if hasattr(value, "toarray"):  # scipy's sparse matrices
        return np.asarray(value.toarray())
    if hasattr(value, "to_numpy"):  # pandas
        return np.asarray(value.to_numpy())
    if hasattr(value, "__array__"):
        return np.asarray(value)
    if isinstance(value, Number):
        return np.asarray(value)
    raise TypeError(
        f"{name} is a {type(value).__name__}; give a numpy array, a torch tensor, a pandas table "
        "or column, a scipy sparse matrix or a list of numbers"
    )


def _holds(value: Any) -> bool:
    """Whether an element of a list is a container itself."""
    return not isinstance(value, Number | str | bytes | type(None))


def _of_objects(name: str, array: np.ndarray) -> np.ndarray:
    """Numbers that pandas or numpy keep as objects, in the narrowest type that has them all."""
    flat = array.ravel().tolist()
    missing = [v is None or type(v).__name__ == "NAType" for v in flat]
    for value, gone in zip(flat, missing, strict=True):
        real = isinstance(value, Number | np.bool_) and not isinstance(value, complex)
        if not gone and not real:
            raise _not_numbers(name, value)
    flat = [np.nan if gone else v for v, gone in zip(flat, missing, strict=True)]
    found = np.array(flat)
    if found.dtype.kind == "O" and not all(isinstance(v, int) for v in flat):
        found = found.astype(np.float64)  # whole numbers beyond 64 bits stay Python's own
    return found.reshape(array.shape)


def _not_numbers(name: str, value: Any) -> TypeError:
    return TypeError(
        f"{name} holds {value!r}, a {type(value).__name__}; it must hold real numbers (encode "
        "words and dates as numbers first)"
    )
