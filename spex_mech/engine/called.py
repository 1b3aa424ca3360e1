"""What the blocks of a model are called with, beside the stream: which of it has a row for each
prompt, and whether it is the same for all prompts but for that.

A replay calls a block with what the intact run called it with. So what is handed to it must be
known: tensors of which each row is of one prompt, or what is the same for all of them.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

_DEEP = 6  # objects within objects that are looked into
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


class CannotReplay(Exception):
    """The model cannot be cut at its blocks; the text says why."""


def grows(two: Any, three: Any) -> Any:
    """The same nest of arguments, True where a tensor has a row per prompt.

    Args:
        two, three: of two rows and of three.

    Raises:
        CannotReplay: something else grows with the rows, so that those of one prompt are not known.
    """
    if type(two) is not type(three):
        raise _called_otherwise(two, three)
    if isinstance(two, Tensor):
        if two.ndim > 0 and three.ndim > 0 and (len(two), len(three)) == (2, 3):
            return True
        if two.shape != three.shape:
            shapes = f"{list(two.shape)} and {list(three.shape)}"
            raise CannotReplay(
                "a block is called with a tensor that has no row for each prompt, and grows with "
                f"them: of two and three it is {shapes}"
            )
        return False
    if isinstance(two, tuple | list) and len(two) == len(three):
        return [grows(a, b) for a, b in zip(two, three, strict=True)]
    if isinstance(two, Mapping) and two.keys() == three.keys():
        return {key: grows(two[key], three[key]) for key in two}
    if [x.shape for x in _held(two)] != [x.shape for x in _held(three)]:
        raise CannotReplay(
            f"a block is called with a {type(two).__name__} that holds rows of prompts, which "
            "cannot be taken out of it"
        )
    return False


def check_called(known: Any, now: Any, varies: Any, n_rows: int) -> None:
    """Whether blocks are called for other prompts as it is known of a few rows.

    Args:
        known: the nest of arguments of those rows.
        now: that of this pass.
        varies: what has a row for each prompt.

    Raises:
        CannotReplay: they are called otherwise, such as with a mask for some prompts alone.
    """
    if varies is True:
        fits = isinstance(now, Tensor) and now.ndim == known.ndim and len(now) == n_rows
        if not fits or now.dtype != known.dtype:
            raise _called_otherwise(known, now)
        return
    if isinstance(known, tuple | list):
        if type(now) is not type(known) or len(now) != len(known):
            raise _called_otherwise(known, now)
        for a, b, v in zip(known, now, varies, strict=True):
            check_called(a, b, v, n_rows)
    elif isinstance(known, Mapping):
        if not isinstance(now, Mapping) or known.keys() != now.keys():
            raise _called_otherwise(known, now)
        for key in known:
            check_called(known[key], now[key], varies[key], n_rows)
    elif not _same(known, now):
        raise _called_otherwise(known, now)


def _called_otherwise(known: Any, now: Any) -> CannotReplay:
    return CannotReplay(
        f"its blocks are called otherwise for some prompts than for others ({_in_words(known)} "
        f"and {_in_words(now)})"
    )


def _in_words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)}"
    return repr(value)[:60] if isinstance(value, _PLAIN) else f"a {type(value).__name__}"


def _same(known: Any, now: Any) -> bool:
    """Whether two arguments that have no rows are the same."""
    if isinstance(known, _PLAIN):
        return type(now) is type(known) and now == known
    if type(now) is not type(known):
        return False
    own, other = [*_held(known)], [*_held(now)]
    return len(own) == len(other) and all(_equal(a, b) for a, b in zip(own, other, strict=True))


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)


def _held(value: Any, deep: int = _DEEP, seen: set[int] | None = None) -> Iterator[Tensor]:
    """The tensors that a value holds, also where it is an object or a function."""
    seen = set() if seen is None else seen
    if isinstance(value, Tensor):
        yield value
        return
    skipped = isinstance(value, (*_PLAIN, nn.Module, type, ModuleType))
    if skipped or not deep or id(value) in seen:
        return
    seen.add(id(value))
    inner: list[Any] = []
    if isinstance(value, Mapping):
        inner = [*value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inner = [*value]
    elif isinstance(value, FunctionType):
        inner = [_in_cell(cell) for cell in value.__closure__ or ()]
    elif isinstance(value, MethodType):
        inner = [value.__self__, value.__func__]
    elif isinstance(value, partial):
        inner = [value.func, value.args, value.keywords]
    else:
        holder = value
        slots = (getattr(holder, name, None) for name in vars(type(value)).get("__slots__", ()))
        inner = [*getattr(holder, "__dict__", {}).values(), *slots]
    for one in inner:
        yield from _held(one, deep - 1, seen)


def _in_cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing was put in yet
        return None


def rows_of(nest: Any, rows: Int[Tensor, " row"] | slice, varies: Any) -> Any:
    """Some rows of every tensor that has a row per prompt."""
    if varies is True:
        return nest[rows if isinstance(rows, slice) else rows.to(nest.device)]
    if isinstance(nest, tuple | list):
        return _like(nest, [rows_of(a, rows, v) for a, v in zip(nest, varies, strict=True)])
    if isinstance(nest, Mapping):
        return {key: rows_of(value, rows, varies[key]) for key, value in nest.items()}
    return nest


def joined(nests: list[Any], varies: Any) -> Any:
    """Several groups of prompts as one."""
    first = nests[0]
    if varies is True:
        return torch.cat(nests)
    if isinstance(first, tuple | list):
        columns = zip(*nests, strict=True)
        return _like(first, [joined(list(c), v) for c, v in zip(columns, varies, strict=True)])
    if isinstance(first, Mapping):
        return {key: joined([nest[key] for nest in nests], varies[key]) for key in first}
    return first


def _like(nest: Any, values: list[Any]) -> Any:
    """A tuple or a list of the same class, also where its fields have names."""
    return type(nest)(*values) if "_fields" in vars(type(nest)) else type(nest)(values)
