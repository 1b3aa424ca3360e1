"""The one place that checks plain arguments: whole numbers, shares, words, switches, labels, paths,
and whether tables that belong together name their rows and columns in one order.

Each error is a ``ValueError`` that names the argument, the value that came with its type, and what
is allowed. Numbers in tables, masks and answers have their door in ``arrays``.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

_LONGEST = 60  # characters of a value that an error shows
_MOST_LISTED = 8  # labels of a table that an error shows
# Line breaks, tabs and other control characters, and halves of characters that no file can hold.
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")


def shown(value: Any) -> str:
    """A value and its type, for an error's text.

    >>> shown("a"), shown(2.5)
    ("'a', a str", '2.5, a float')
    """
    text = repr(value)
    if "\n" in text:  # of an array or a tensor
        text = " ".join(text.split())
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 4]} ..."
    return "None" if value is None else f"{text}, {kind_of(value)}"


def kind_of(value: Any) -> str:
    """Its type with an article.

    >>> kind_of(1), kind_of("a")
    ('an int', 'a str')
    """
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiouAEIOU' or kind == 'ndarray' else 'a'} {kind}"


def counted(number: int, thing: str) -> str:
    """So many things.

    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number of Python or numpy.

    Raises:
        ValueError: it is none, or out of bounds.

    >>> whole("order", np.int64(3), 2)
    3
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if number >= least and (most is None or number <= most):
            return number
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    known = isinstance(value, int) and not isinstance(value, bool)
    said = str(value) if known else shown(value)
    raise ValueError(f"{name} is {said}; it must be a whole number {bounds}")


def share(name: str, value: Any) -> float:
    """A part of something, from 0 to less than 1.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < 1:
        return float(value)
    raise ValueError(f"{name} is {shown(value)}; it must be a number from 0 to less than 1")


def switch(name: str, value: Any) -> bool:
    """True or False, also of numpy.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {shown(value)}; it must be True or False")
    return bool(value)


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """One of some words.

    Raises:
        ValueError: it is none of them.
    """
    choices = tuple(choices)
    if isinstance(value, str) and value in choices:
        return value
    said = f"unknown {name} {value!r}" if isinstance(value, str) else f"{name} is {shown(value)}"
    raise ValueError(f"{said}; choose one of {', '.join(choices)}")


def text_of(name: str, value: Any, such: str) -> str:
    """A text that is not empty; a path becomes its text.

    Args:
        such: an example, for the error.

    Raises:
        ValueError: it is none.

    >>> text_of("model", Path("models/mine"), "demo")
    'models/mine'
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError(f"{name} is {shown(value)}; it must be a text such as {such!r}")
    return value


def path_of(name: str, value: Any) -> Path:
    """A path, with ``~`` as the home folder.

    Raises:
        ValueError: it is no path, is empty, or names memory or an address and no file.
    """
    if isinstance(value, bool | bytes) or not isinstance(value, str | os.PathLike):
        raise ValueError(f"{name} is {shown(value)}; it must be a path, such as 'out/run.sqlite'")
    text = os.fspath(value)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ValueError(f"{name} is {shown(text)}; it must be a path that can be written")
    if text.startswith((":memory:", "file:")) or "://" in text:
        raise ValueError(f"{name} is {text!r}, which is no file; give the path of a file")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} is {text!r}, and there is no such home folder: {error}") from None


def file_of(name: str, value: Any) -> Path:
    """The same, of a file.

    Raises:
        ValueError: as of :func:`path_of`, or it is a folder, a device or a pipe.
    """
    path = path_of(name, value)
    if os.path.isdir(path):
        raise ValueError(f"{name} {path} is a folder; give a file in it")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{name} {path} is a device or a pipe; give the path of a file")
    return path


def label_list(labels: Any, n: int | None = None) -> list[str]:
    """The names of units as strings (of one string, its letters). Numbers become their text.

    Raises:
        ValueError: they are not ``n``, one is empty, comes twice, holds a line break or another
            control character, or is neither a string nor a whole number.

    >>> label_list(["a", 7], 2)
    ['a', '7']
    """
    unordered = isinstance(labels, bytes | set | frozenset | dict)
    if unordered or not isinstance(labels, Iterable):
        raise ValueError(f"labels is {shown(labels)}; it must be a list of strings, one per unit")
    names = [_label(number, label) for number, label in enumerate(labels)]
    if n is not None and len(names) != n:
        raise ValueError(f"{len(names)} labels for {n} units; give one for each")
    if (twice := first_twice(names)) is not None:
        raise ValueError(f"two units are called {twice!r}; a label must name one")
    return names


def first_twice(names: Sequence[str]) -> str | None:
    """The first name that comes a second time."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _label(number: int, label: Any) -> str:
    if isinstance(label, Integral) and not isinstance(label, bool):
        return str(int(label))
    if not isinstance(label, str):
        raise ValueError(f"the label of unit {number} is {shown(label)}; it must be a string")
    if not label.strip():
        raise ValueError(f"the label of unit {number} is {label!r}; it must not be empty")
    if unprintable(label):
        raise ValueError(
            f"the label of unit {number} is {label!r}, which holds a line break or another control "
            "character; leave it out"
        )
    return str(label)


def unprintable(text: str) -> bool:
    """Whether a text holds what no table can: line breaks, control characters, half characters."""
    if text.isprintable():  # most are, and this is quick
        return False
    return any(unicodedata.category(character) in _UNPRINTABLE for character in text)


def printable(text: str) -> str:
    """A text with what no table can hold written as Python writes it.

    >>> printable("a\\nb")
    'a\\\\nb'
    """
    return "".join(c if not unprintable(c) else ascii(c)[1:-1] for c in text)


# -- pandas tables that belong together ------------------------------------------------------------


def labels_of(table: Any, axis: str) -> list[Any] | None:
    """The labels of a table's rows ("index") or "columns"; None: it has none, as an array.

    >>> labels_of(np.zeros((2, 2)), "columns") is None
    True
    """
    if not hasattr(table, "to_numpy"):  # lists have an ``index`` too, which is a method
        return None
    try:
        found = getattr(table, axis)
    except AttributeError:
        return None
    return None if callable(found) else list(found)


def same_columns(**tables: Any) -> None:
    """Two tables of the same features, whose columns are paired by position, as scikit-learn pairs
    them. A table that has no names, or the default ones 0, 1, 2, ..., goes with any other.

    Raises:
        ValueError: the columns have other names, or the same ones in another order.
    """
    (first, one), (second, other) = tables.items()
    names, found = labels_of(one, "columns"), labels_of(other, "columns")
    if names is None or found is None or names == found:
        return
    if Counter(names) == Counter(found):
        cure = f"columns are paired by position: give {second}[{first}.columns]"
    elif _default(names) or _default(found) or len(names) != len(found):
        return  # of unequal numbers of columns there is an error of its own
    else:
        cure = "they are paired by position: give tables of the same columns, or .to_numpy()"
    raise ValueError(
        f"{first} has the columns {_listed(names)} and {second} has {_listed(found)}; {cure}"
    )


def same_order(name: str, labels: Any, other_name: str, other: Any, cure: str) -> None:
    """Labels of things that are paired by position: what both name must stand at the same place.
    Default ones, 0, 1, 2, ..., are told to be wrong only where the others are the same numbers.

    Args:
        labels, other: lists, or None where there are no labels.

    Raises:
        ValueError: it stands at another place, with ``cure`` at the end.
    """
    if labels is None or other is None or (labels := list(labels)) == (other := list(other)):
        return
    if Counter(labels) != Counter(other):
        if _default(labels) or _default(other):
            return
        known = set(labels)
        if not any(a != b and b in known for a, b in zip(labels, other, strict=False)):
            return
    raise ValueError(
        f"{name} has the order {_listed(labels)} and {other_name} has {_listed(other)}; {cure}"
    )


def same_rows(**tables: Any) -> None:
    """Tables or columns of the same rows, the others beside the first.

    Raises:
        ValueError: pandas' labels of the rows stand in another order.

    >>> same_rows(x=np.zeros((3, 2)), y=[1, 2, 3])
    """
    (first, one), *beside = tables.items()
    for second, other in beside:
        same_order(
            f"the index of {first}",
            labels_of(one, "index"),
            f"that of {second}",
            labels_of(other, "index"),
            f"rows are paired by position: give {second}.loc[{first}.index], or .to_numpy() of "
            "both where the rows belong together as they are",
        )


def _default(labels: Sequence[Any]) -> bool:
    return [str(label) for label in labels] == [str(number) for number in range(len(labels))]


def _listed(labels: Sequence[Any]) -> str:
    more = ", ..." if len(labels) > _MOST_LISTED else ""
    return f"[{', '.join(map(repr, labels[:_MOST_LISTED]))}{more}]"


def plain_tensor(name: str, value: Any) -> Any:
    """A torch tensor as a table of numbers, where it is: of a sparse one with its zeros.

    Raises:
        ValueError: it has no numbers, or rows that may differ in length.
    """
    if value.is_meta:
        raise ValueError(f"{name} is on the device meta: it has a shape and no numbers")
    if value.is_nested:
        raise ValueError(f"{name} is a nested tensor, of rows of any length; give a table")
    if value.is_quantized:
        value = value.dequantize()
    return value if str(value.layout) == "torch.strided" else value.to_dense()
