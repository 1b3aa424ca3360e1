"""What a result holds, for functions below the result's own file."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int


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
