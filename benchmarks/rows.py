"""Rows of results, how they are chosen, and how their numbers are written on a page."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.frame import Options, Row, rows_of


class Rows(list[Row]):
    """Rows of results."""

    def where(self, **values: Any) -> "Rows":
        """Those that have these values; a function says which values are meant."""
        tests = {key: of for key, of in values.items() if callable(of)}
        same = {key: of for key, of in values.items() if key not in tests}
        return Rows(
            row
            for row in rows_of(self, **same)
            if all(key in row and test(row[key]) for key, test in tests.items())
        )

    def the(self, **values: Any) -> Row:
        """The one row that has these values."""
        (row,) = self.where(**values)
        return row

    def each(self, key: str, **values: Any) -> list[Any]:
        """What the rows with these values have, where it is known."""
        return [row[key] for row in self.where(**values) if row.get(key) is not None]

    def mean(self, key: str, **values: Any) -> float | None:
        """Over the rows that have the key; None where none has."""
        found = self.each(key, **values)
        return float(np.mean(found)) if found else None

    def kinds(self, key: str) -> list[Any]:
        """Its values, each once, in their order."""
        return list(dict.fromkeys(row[key] for row in self))


def kept(name: str) -> Rows:
    """The rows of a benchmark's results."""
    return Rows(Options().kept(name)["rows"])


# -- values of ``Rows.where``, and how numbers are written -----------------------------------------


def has(word: str) -> Any:
    """Whether a text has this word."""
    return lambda value: word in value


def among(*values: Any) -> Any:
    return lambda value: value in values


def over(least: float) -> Any:
    return lambda value: value > least


def text(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def span(values: Iterable[float | None], digits: int = 2) -> str:
    """The least and the largest; one number where they read the same."""
    found = [value for value in values if value is not None]
    low, high = text(min(found), digits), text(max(found), digits)
    return low if low == high else f"{low} to {high}"


def slashed(values: Iterable[float]) -> str:
    return " / ".join(map(text, values))


def share(values: Iterable[float]) -> str:
    """The least share in words where it is all or none, in digits where it is neither."""
    least = min(float(value) for value in values)
    return {1.0: "all", 0.0: "none"}.get(least, text(least))


def under(value: float) -> str:
    """The next power of ten, which the value stays below."""
    power = int(np.ceil(np.log10(value)))
    return f"1e{power}" if power < -2 else f"{10.0**power:g}"
