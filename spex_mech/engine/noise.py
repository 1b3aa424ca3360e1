"""The noise floor of a game of a model: below which size an interaction may be rounding alone.

Two things round. The model does: the same masks are asked again by plain passes that are put off
by parts of a rounding (``checks.rounded``). And a metric of the user's may, on its way to a value
whose type does not show it: ``logits.half()``, probabilities in half precision, decimals. Along a
line through an output a smooth metric changes the less, the shorter the line; one that rounds
changes in steps.
"""

from collections.abc import Callable
from math import hypot
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spex_mech.engine.checks import eps_of, rounded
from spex_mech.engine.device import is_out_of_memory
from spex_mech.engine.metrics import KL, ReadingMetric
from spex_mech.engine.plain import Engine, Numbers, PlainEngine, Setup
from spex_mech.engine.rounding import off_by, with_first
from spex_mech.engine.running import with_tensors
from spex_mech.game import Coarse
from spex_mech.masks import MaskBatch

# Masks that are asked twice, and how many more are where single values jump.
_MASKS, _MORE_MASKS = 24, 72
# By how many times the usual difference one is a jump, as where a token goes to another expert.
_JUMP = 10
_OF_LARGEST = 1.5  # times the largest difference of a mask, that the floor is at least
_ROUNDINGS, _SIGMAS = 4, 3
# Of lines through outputs: how many, the points on one, how often the part of it that changes most
# is halved, over how many halvings a step must stay, and the fewest steps that rounding makes.
_LINES, _POINTS, _HALVED, _STAYS, _FEWEST_STEPS = 8, 9, 15, 4, 2
_MOST_COUNTED = 100
_OF_STEP = 0.5  # one rounding is off by a step over sqrt(12); a metric makes a few
# In a type that no default of the user's makes coarser than what it rounds.
_EXACT: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}


def noise_floor(engine: Engine, plain: PlainEngine, of_metric: float, has_experts: bool) -> float:
    """The size under which an interaction cannot be told from rounding, in the metric's unit.

    The same masks are asked twice, the second time by plain passes that are rounded otherwise, at
    other places of batches of another size; ``sigma`` is the root mean square of the difference
    over sqrt(2). An interaction adds four such values (2 sigma); the floor is three times that, and
    at least four roundings of the metric. Where a token may go to another expert few values jump
    far: then, and wherever one value is seen to jump, more masks are asked. The largest difference
    counts as well.

    Args:
        of_metric: what the metric itself rounds of the value of a prompt.
        has_experts: tokens are sent to experts, which in half precision may be others.
    """
    setup = plain.setup
    off, largest = _differences(engine, plain, _MASKS, seed=0)
    rounding = torch.finfo(torch.float32).eps * largest
    may_jump = has_experts and eps_of(setup) > torch.finfo(torch.float32).eps
    if may_jump or _jumps(off, _ROUNDINGS * rounding):
        off = torch.cat([off, _differences(engine, plain, _MORE_MASKS, seed=1)[0]])
    means = off.mean(1)
    sigma = means.square().mean().sqrt().item() / np.sqrt(2)
    sigma = hypot(sigma, of_metric / np.sqrt(len(setup.prompts)))
    most = _OF_LARGEST * means.abs().max().item()
    return max(2 * _SIGMAS * sigma, most, _ROUNDINGS * rounding)


def _differences(
    engine: Engine, plain: PlainEngine, n_masks: int, seed: int
) -> tuple[Float[Tensor, "mask prompt"], float]:
    """By how much values differ where passes are rounded otherwise, and their largest mean."""
    setup, generator = plain.setup, torch.Generator().manual_seed(seed)
    n_units, n_prompts = setup.n_units, len(setup.prompts)
    masks = torch.rand(n_masks, n_units, generator=generator, **_EXACT)
    masks = masks > min(0.5, 2 / n_units)
    masks[0] = True
    batch = MaskBatch.of_kept(masks.numpy())
    there = torch.from_numpy(engine.values(batch.ablated))
    # A third of what fits, and less where all masks would fit in one batch.
    size = max(1, min(plain.rows() // 3, len(masks) * n_prompts // 3))
    with rounded(setup, eps_of(setup), seed):
        read = _measured_rounded(setup, generator)
        back = plain.numbers(batch.ablated[::-1].copy(), read, rows=size).flip(0)
    return there - back, there.mean(1).abs().max().item()


def _jumps(off: Float[Tensor, "mask prompt"], least: float) -> bool:
    """Whether single values differ far more than most do."""
    size = off.abs()
    usual = size.median().item() / 0.6745  # of a normal distribution: its standard deviation
    return size.max().item() > max(_JUMP * usual, least)


def _measured_rounded(setup: Setup, generator: torch.Generator) -> Numbers:
    """The metric of an output that is off by part of a rounding in the type in which its numbers
    are, and is itself rounded to the type in which the metric gives it."""
    eps = torch.finfo(setup.output_type).eps
    half = eps > torch.finfo(torch.float32).eps

    def read(output: Any, rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        output = with_first(output, off_by(eps, generator)) if half else output
        value = setup.measure(output, setup.some_prompts(rows))
        if not value.is_floating_point() or value.dtype.itemsize >= 4:
            return value
        return off_by(torch.finfo(value.dtype).eps, generator)(value.float())

    return read


def rounding_of_metric(setup: Setup) -> float:
    """What the metric itself rounds of the value of a prompt: 0 for the metrics of this package. Of
    outputs in half precision it is in how they are put off."""
    if isinstance(setup.metric, ReadingMetric | KL) or setup.output_type.itemsize < 4:
        return 0.0
    some = setup.prompts[:_LINES]
    with torch.no_grad(), setup.taps.installed():
        return rounding_within(lambda output: setup.measure(output, some), setup.taps.run(some))


def coarse_metric(name: str, rounding: float) -> Coarse | None:
    """Why a metric's values are less exact than float32; None: they are not.

    Args:
        rounding: what it rounds of the value of a row.
    """
    if not rounding:
        return None
    return Coarse(
        f"the metric {name}, which changes in steps of about {rounding / _OF_STEP:.2g},",
        "have it compute in float32; where it counts, let it give whole numbers",
    )


@torch.no_grad()
def rounding_within(measure: Callable[[Any], Float[Tensor, " row"]], output: Any) -> float:
    """What a metric rounds of the value of a row, about as a standard deviation: half of the height
    of the steps in which it changes along lines through an output. 0 where it changes smoothly,
    where one step is all the change, where it counts (whole numbers, or shares of at most 100
    things; those of 4, 8, 16 ... are told from no rounding), and where the metric refuses outputs
    that are off.

    Args:
        measure: the metric, of outputs of the same rows.
        output: of some rows, in float32 or more.
    """
    try:
        n_rows = len(measure(output))
        lines = [_line(measure, output, n_rows, line) for line in range(-(-_LINES // n_rows))]
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return 0.0
    step = torch.cat([heights for heights, _ in lines]).median().item()
    return 0.0 if _are_counts(torch.cat([v for _, v in lines]), step) else _OF_STEP * step


def _line(
    measure: Callable[[Any], Tensor], output: Any, n_rows: int, line: int
) -> tuple[Float[Tensor, " row"], Float[Tensor, "point row"]]:
    """How high the step is where a metric changes most along a line, 0 where it is smooth there;
    and its values along the line."""

    def value_at(place: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        moved = with_tensors(output, _moved(place, torch.Generator().manual_seed(line)))
        return measure(moved).double().cpu().nan_to_num()

    places = torch.linspace(-1, 1, _POINTS, **_EXACT)
    along = torch.stack([value_at(place.expand(n_rows)) for place in places])
    at = along.diff(dim=0).abs().argmax(dim=0)
    below, above = places[at], places[at + 1]
    first, last = (along.gather(0, (at + k)[None])[0] for k in (0, 1))
    heights = []
    for _ in range(_HALVED):
        middle = (below + above) / 2
        value = value_at(middle)
        lower = (value - first).abs() >= (last - value).abs()
        below, above = below.where(lower, middle), middle.where(lower, above)
        first, last = first.where(lower, value), value.where(lower, last)
        heights.append((last - first).abs())
    # A smooth change is halved each time; a step stays.
    is_step = heights[-1] >= 0.5 * heights[-1 - _STAYS]
    change = along.amax(dim=0) - along.amin(dim=0)
    is_step &= change >= _FEWEST_STEPS * heights[-1]
    return heights[-1].where(is_step, 0.0), along


def _are_counts(values: Float[Tensor, "point row"], step: float) -> bool:
    """Whether values in steps are whole numbers or shares of few things. Half formats have steps of
    powers of two."""
    for of in range(1, _MOST_COUNTED + 1):
        counts = values * of
        if step * of > 0.9 and bool(((counts - counts.round()).abs() < 1e-3).all()):
            return of <= 2 or of.bit_count() > 1
    return False


def _moved(place: Float[Tensor, " row"], chance: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Puts each number of each row off by a part of itself, at most all, some up, some down."""

    def change(x: Tensor) -> Tensor:
        if not x.is_floating_point() or not x.ndim or len(x) != len(place):
            return x
        part = torch.rand(x.shape, generator=chance, **_EXACT) * 2 - 1
        return x * (1 + place.view(-1, *[1] * (x.ndim - 1)) * part).to(x)

    return change
