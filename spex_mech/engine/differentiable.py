"""Whether values have slopes, and whether these are the slopes of the values."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from spex_mech.engine.checks import ROUNDINGS_ALONE, eps_of, rounded
from spex_mech.engine.device import is_out_of_memory
from spex_mech.engine.plain import NoSlopes, PlainEngine, Setup
from spex_mech.engine.running import one_line
from spex_mech.notices import warn

_STEP = 0.05  # of gates, from one half; and half of it
_DIRECTIONS = 2
_OFF = 0.1  # by which a difference and a slope may differ, of the length of all slopes
_OF_NOISE = 4  # the same, times what passes differ by that round otherwise
_OF_CURVATURE = 4  # the same, times that by which a step and half of it differ


def why_no_slopes(setup: Setup) -> str:
    """Why there is no gradient; empty: there is one.

    Args:
        setup: of the prompts to try; one will do.

    Warns:
        UserWarning: there is one, and values change otherwise than it says.
    """
    gates = torch.full((2, setup.n_units), 0.5, device="cpu")
    gates[1] = 0
    labels = setup.measure.labels
    try:
        values, slopes = PlainEngine(setup).slopes(gates)
    except NoSlopes as error:
        return str(error)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        if "nference tensors" in str(error):
            return (
                "a model whose weights were made in torch.inference_mode() has no gradient; make "
                "it outside of that, or say discover(..., gradients=False)"
            )
        # Values are had without gradients: what fails here is asked of gradients alone.
        return (
            f"the model or the metric {setup.measure.name} fails where a gradient is asked for "
            f"({one_line(error)}); mend that, or say discover(..., gradients=False)"
        )
    if not slopes.isfinite().all():
        return not_finite(slopes, labels)
    still = (slopes == 0).flatten(0, 1).all(dim=0)
    if still.any():
        gates[1] = gates[0].where(~still, 0.0)
        values = PlainEngine(setup).slopes(gates)[0]
        # Equal rows of a batch may be rounded otherwise.
        if bool((values[0] - values[1]).abs().max() > _rounding(setup, values)):
            return (
                f"no gradient of the metric {setup.measure.name} reaches {int(still.sum())} of the "
                f"{len(still)} units ({labels[int(still.nonzero()[0])]}, ...), though ablating "
                "them changes it (quantised layers, torch.utils.checkpoint or a detach lie "
                "between); say discover(..., gradients=False)"
            )
    _compare_with_differences(setup, slopes[0].sum(dim=0))
    return ""


def not_finite(slopes: Float[Tensor, "mask block unit"], labels: Sequence[str]) -> str:
    """Of which unit a slope is not finite, and what to do."""
    unit = int((~slopes.isfinite()).flatten(0, -2).any(dim=0).nonzero()[0])
    return (
        f"the slope of {labels[unit]} is not finite, as where an activation or what replaces it is "
        "infinite; say discover(..., gradients=False)"
    )


def _compare_with_differences(setup: Setup, slopes: Float[Tensor, " unit"]) -> None:
    """Whether values change as the slopes say where all gates move a little, some up, some down.

    Two steps tell how far a difference can be trusted: where values bend or jump, the two disagree.
    """
    generator = torch.Generator().manual_seed(0)
    sign = torch.rand(_DIRECTIONS, setup.n_units, generator=generator, device="cpu")
    sign = (sign > 0.5).to(slopes) * 2 - 1
    steps = torch.tensor([_STEP, -_STEP, _STEP / 2, -_STEP / 2], device="cpu").to(slopes)
    gates = 0.5 + steps[:, None, None] * sign
    gates = gates.flatten(0, 1).float()
    values = PlainEngine(setup).slopes(gates)[0].mean(dim=1)
    with rounded(setup, eps_of(setup)):  # small values may be differences of large ones
        otherwise = PlainEngine(setup).slopes(gates)[0].mean(dim=1)
    rounding = _OF_NOISE * float((values - otherwise).abs().max()) + _rounding(setup, values)
    far, far_below, near, near_below = values.unflatten(0, (4, _DIRECTIONS))
    wide, narrow = (far - far_below) / (2 * _STEP), (near - near_below) / _STEP
    size = slopes.square().sum().sqrt()
    allowed = _OFF * size + _OF_CURVATURE * (wide - narrow).abs()
    allowed = allowed + 2 * rounding / _STEP
    said = sign @ slopes
    if bool(((said - narrow).abs() > allowed).any()):
        worst = int((said - narrow).abs().argmax())
        warn(
            f"the gradient of the metric {setup.measure.name} is not how its values change: where "
            f"all gates move a little, a change of {narrow[worst]:.3g} for each unit of the gate "
            f"is measured and {said[worst]:.3g} is what the gradient says (a backward hook, a "
            "detach, or a function whose backward pass is another one lies between); a search "
            "with gradients measures what it reports, and may propose the wrong sets: take it "
            "away, or say discover(..., gradients=False)"
        )


def _rounding(setup: Setup, values: Tensor) -> float:
    return ROUNDINGS_ALONE * eps_of(setup) * float(values.abs().max())
