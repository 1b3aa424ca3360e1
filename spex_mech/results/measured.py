"""What a result holds, for functions below the result's own file."""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int


@runtime_checkable
class Measured(Protocol):
    """The fields of ``Interactions`` that were measured."""

    units: Int[np.ndarray, "interaction order"]
    values: Float[np.ndarray, "interaction prompt"]
    main_effects_by_prompt: Float[np.ndarray, "unit prompt"]
    intact_by_prompt: Float[np.ndarray, " prompt"]
    noise_floor: float
    about: dict[str, Any]
