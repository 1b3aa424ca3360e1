"""What a result holds and says, for functions below the result's own file."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, Int8

from spex_mech.arguments import kind_of
from spex_mech.units import Units


@runtime_checkable
class Measured(Protocol):
    """The fields of ``Interactions`` that were measured."""

    @property
    def units(self) -> Int[np.ndarray, "interaction order"]: ...

    @property
    def values(self) -> Float[np.ndarray, "interaction prompt"]: ...

    @property
    def main_effects_by_prompt(self) -> Float[np.ndarray, "unit prompt"]: ...

    @property
    def intact_by_prompt(self) -> Float[np.ndarray, " prompt"]: ...

    @property
    def noise_floor(self) -> float: ...

    @property
    def about(self) -> dict[str, Any]: ...


@runtime_checkable
class Stored(Measured, Protocol):
    """What a file keeps of a result, beside what was measured."""

    @property
    def labels(self) -> list[str]: ...

    @property
    def cost(self) -> dict[str, int | float]: ...

    @property
    def audit(self) -> dict[str, Any] | None: ...

    @property
    def chosen_from(self) -> Mapping[int, int]: ...

    @property
    def unit_table(self) -> Units: ...


@runtime_checkable
class Shown(Stored, Protocol):
    """What a table or a page reads of a result."""

    def __len__(self) -> int: ...

    @property
    def names(self) -> list[tuple[str, ...]]: ...

    @property
    def order(self) -> Int[np.ndarray, " interaction"]: ...

    @property
    def mean(self) -> Float[np.ndarray, " interaction"]: ...

    @property
    def stderr(self) -> Float[np.ndarray, " interaction"]: ...

    @property
    def q_value(self) -> Float[np.ndarray, " interaction"]: ...

    @property
    def main_effects(self) -> Float[np.ndarray, " unit"]: ...

    @property
    def clusters(self) -> Int[np.ndarray, " prompt"] | None: ...

    @property
    def is_noise(self) -> Bool[np.ndarray, " interaction"]: ...

    @property
    def is_significant(self) -> Bool[np.ndarray, " interaction"]: ...

    @property
    def is_finding(self) -> Bool[np.ndarray, " interaction"]: ...

    @property
    def readings(self) -> list[str]: ...

    @property
    def verdicts(self) -> list[str]: ...

    @property
    def doubts(self) -> Float[np.ndarray, " interaction"]: ...

    @property
    def confirmed(self) -> Int8[np.ndarray, " interaction"]: ...

    @property
    def cautions(self) -> list[str]: ...

    @property
    def n_choices(self) -> int: ...

    @property
    def n_measured(self) -> int: ...

    @property
    def less_is_better(self) -> bool: ...

    def intervals(self, level: float = 0.9) -> Float[np.ndarray, "interaction 2"]: ...

    def top(self, k: int = 20, order: int | None = None) -> "Shown": ...


def check_again(again: Any) -> None:
    """Raises:
    ValueError: it is no other measurement.
    """
    if not isinstance(again, Again):
        raise ValueError(f"again is {kind_of(again)}; give what confirm returned")


@runtime_checkable
class Again(Protocol):
    """Another measurement of some of the same interactions."""

    @property
    def about(self) -> Mapping[str, Any]: ...

    @property
    def searched(self) -> Any: ...

    def said_of(self, found: Any) -> Int8[np.ndarray, " interaction"]:
        """Of each interaction of a result, whether it is confirmed (1, 0; -1: not measured)."""
        ...
