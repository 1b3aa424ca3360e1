"""What checks types and shapes in all other tests lets no wrong one through."""

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

import spex_mech as sm
from tests.checked import checked_2

Rows = Float[Tensor, "row unit"]


@checked_2
def as_text(number: int, give: Any = None) -> str:
    return str(number) if give is None else give


@checked_2
def later(number: "int") -> "Unknown":  # type: ignore[name-defined]  # noqa: F821
    return number


@checked_2
def product(x: Rows, y: Float[Tensor, " unit"], give: Any = None) -> Float[Tensor, " row"]:
    return transposed(x).T @ y if give is None else give


@checked_2
def transposed(x: Float[Tensor, "unit row"]) -> Float[Tensor, "row unit"]:
    """Its axes are called as those of its caller, and are others."""
    return x.T


@checked_2
def rows_of(x: Rows, numbers: list[Int[Tensor, " row"]] | None = None) -> Iterator[Tensor]:
    yield from x


@checked_2
def joined(x: list[Rows], y: Rows | None) -> Any:
    return x, y


@checked_2
def counted(n: int) -> Iterator[int]:
    yield from range(n)


@checked_2
@dataclass(frozen=True)
class Table:
    x: Rows
    y: Float[Tensor, " row"]
    name: str = ""

    @checked_2
    def value(self, row: int) -> float:
        return self.y[row].item()


X, OF_A_ROW, OF_AN_UNIT = torch.rand(2, 3), torch.rand(2), torch.rand(3)
WRONG: dict[str, Callable[[], Any]] = {
    "an argument": lambda: as_text("three"),
    "a result": lambda: as_text(3, give=4),
    "written as text": lambda: later("three"),
    "the number of axes": lambda: product(OF_AN_UNIT, OF_AN_UNIT),
    "integers": lambda: product(X.long(), OF_AN_UNIT),
    "two sizes of one axis": lambda: product(X, OF_A_ROW),
    "an axis of the result": lambda: product(X, OF_AN_UNIT, give=OF_AN_UNIT),
    "one within a list": lambda: next(rows_of(X, [OF_AN_UNIT.long()])),
    "axes within other types": lambda: joined([X], X.T),
    "what a loop is given": lambda: next(counted("three")),
    "a field": lambda: Table(X, OF_A_ROW, name=3),  # type: ignore[arg-type]
    "fields beside each other": lambda: Table(X, OF_AN_UNIT),
    "a method": lambda: Table(X, OF_A_ROW).value("first"),
}


def test_what_is_right_passes() -> None:
    assert as_text(3) == "3" and later(3) == 3
    torch.testing.assert_close(product(X, OF_AN_UNIT), X @ OF_AN_UNIT)
    assert product(X.double(), OF_AN_UNIT.double()).dtype == torch.float64
    assert joined([X], X) and joined([X], None)
    assert len([*rows_of(X, [OF_A_ROW.long()])]) == 2 and [*counted(2)] == [0, 1]
    assert isinstance(Table(X, OF_A_ROW).value(1), float)


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused(what: str) -> None:
    with pytest.raises(TypeError, match=r"[Tt]ype|violates"):
        WRONG[what]()


def test_every_function_of_the_package_is_checked() -> None:
    """And the fields of every dataclass: each that takes or gives a number or a text."""
    assert sm.discover and sm.ModelGame  # which loads them
    loaded = [module for name, module in [*sys.modules.items()] if name.startswith("spex_mech.")]
    classes = [x for module in loaded for x in vars(module).values() if inspect.isclass(x)]
    found = {
        f"{made.__module__}.{made.__qualname__}": made
        for holder in (*loaded, *classes)
        for made in vars(holder).values()
        if inspect.isfunction(made) and made.__module__.startswith("spex_mech.")
        if {int, str, bool, float} & {*made.__annotations__.values()}
    }
    assert len(found) > 500 and "spex_mech.units.Unit.__init__" in found
    assert [name for name, made in found.items() if inspect.unwrap(made) is made] == []
