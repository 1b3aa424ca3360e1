"""Whole forward passes, one per row: what every model can do, and what replays are compared with.

Masks become rows (one mask on one prompt), rows become batches, and each batch is one forward pass
whose hooks replace what each row ablates (``references.blend``).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from spex_mech.engine.architectures import Architecture
from spex_mech.engine.components import Site
from spex_mech.engine.device import (
    Rows,
    in_batches,
    is_gpu,
    rows_on_cpu,
    rows_that_fit,
    rows_with_gradients,
    widest,
)
from spex_mech.engine.facts import answers_of
from spex_mech.engine.measure import Measure
from spex_mech.engine.metrics import Metric
from spex_mech.engine.passes import Hook, Taps
from spex_mech.engine.plan import Ablated, Parts
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.references import References, replacing

MOST_BLOCKS = 8  # of prompts, in slopes by block
_UNKNOWN_OUTPUTS = 1024
_BATCHES_AT_ONCE = 4

Tick = Callable[[float], None]
# The number or numbers of each row of an output, given each row's prompt.
Numbers = Callable[[Any, Int[Tensor, " row"]], Float[Tensor, "row ..."]]
Slopes = tuple[Float[Tensor, "mask prompt"], Float[Tensor, "mask block unit"]]


class Engine(ABC):
    """How a model answers masks."""

    @abstractmethod
    def values(
        self, ablated: Ablated, tick: Tick = lambda done: None
    ) -> Float[np.ndarray, "mask prompt"]:
        """The metric of each mask on each prompt, in float64.

        Raises:
            ValueError: a value that is not finite, or not one per row.
        """

    @abstractmethod
    def slopes(self, gates: Shaped[Tensor, "mask unit"]) -> Slopes:
        """Values, and their slopes by each gate, by block of prompts."""

    @abstractmethod
    def masks_per_batch(self) -> int:
        """How many masks a driver should ask at a time."""


@dataclass(frozen=True)
class Setup:
    """What every engine works with: all of it derives from the model as it is.

    Args:
        references: what replaces activations, one per site.
        exact: an activation or a reference is infinite.
        float_type: the narrowest that the model's weights and activations have.
        output_type: that in which all numbers of its output are.
        metric: as the task says, without checks.
    """

    taps: Taps
    architecture: Architecture
    sites: Sequence[Site]
    parts: Parts
    prompts: Prompts
    references: References
    exact: bool
    float_type: torch.dtype
    output_type: torch.dtype
    metric: Metric
    measure: Measure
    rows: Rows

    @property
    def device(self) -> torch.device:
        """Where the prompts are."""
        return self.prompts.tokens.device

    @property
    def n_units(self) -> int:
        """How many units a mask has."""
        return self.parts.n_units

    @property
    def numbers_of_row(self) -> int:
        """Numbers that heads and neurons of a prompt are, at all positions and in all layers."""
        return self.prompts.tokens.shape[1] * self.architecture.width

    def some_prompts(self, rows: Int[Tensor, " row"]) -> Prompts:
        """The prompts of these rows."""
        return self.prompts[rows.to(self.device)]

    def hooks(self, gate: Tensor, prompt_of: Int[Tensor, " row"]) -> dict[int, Hook]:
        """What each hook does for these rows.

        Args:
            gate: ``[row unit+1]``, bool or between 0 and 1; the last column is 1.
        """
        hooks: dict[int, Hook] = {}
        for index, site in enumerate(self.sites):
            at_site = gate[:, site.slot_unit.to(gate.device)]
            if at_site.dtype == torch.bool and at_site.all():
                continue
            asked = (at_site, self.references[index], prompt_of, self.exact)
            hooks[index] = replacing(*asked, kind=site.kind)
        return hooks

    def check_finite(
        self, values: Tensor, prompt_of: Int[Tensor, " row"], kept: Tensor
    ) -> Float[Tensor, " row"]:
        """Raises:
        ValueError: a value is not finite; the text names the mask.
        """
        if not values.isfinite().all():
            row = int((~values.isfinite()).nonzero()[0])
            lost = (~kept[row, : self.n_units]).nonzero()[:, 0].tolist()
            self.measure.not_finite(values[row].item(), int(prompt_of[row]), lost)
        return values


class PlainEngine(Engine):
    """See the module's text."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    def masks_per_batch(self) -> int:
        """A few full batches."""
        return max(1, _BATCHES_AT_ONCE * self.rows() // len(self.setup.prompts))

    def values(
        self, ablated: Ablated, tick: Tick = lambda done: None
    ) -> Float[np.ndarray, "mask prompt"]:
        """The metric of each mask on each prompt, in float64.

        Raises:
            ValueError: a value that is not finite, or not one per row.
        """
        return self.numbers(ablated, tick=tick).numpy()

    def numbers(
        self,
        ablated: Ablated,
        read: Numbers | None = None,
        n_prompts: int | None = None,
        rows: int | None = None,
        tick: Tick = lambda done: None,
    ) -> Float[Tensor, "mask prompt ..."]:
        """What is read of plain passes.

        Args:
            read: default: the metric, checked.
            n_prompts: the first few alone; default: all.
            rows: of a batch.
        """
        setup, n_prompts = self.setup, n_prompts or len(self.setup.prompts)
        parts: list[Tensor] = []

        def run(part: slice) -> None:
            row = torch.arange(part.start, part.stop, device="cpu")
            keep = self._keep(ablated[row.numpy() // n_prompts])
            prompt_of = row % n_prompts
            with torch.no_grad():
                hooks = setup.hooks(keep, prompt_of)
                output = setup.taps.run(setup.some_prompts(prompt_of), hooks)
                if read is None:
                    value = setup.measure(output, setup.some_prompts(prompt_of))
                    value = setup.check_finite(value, prompt_of, keep)
                else:
                    value = read(output, prompt_of)
                parts.append(value.to(widest(value.device)).cpu().double())
            tick(len(row) / n_prompts)

        size = rows or self.rows()
        with setup.taps.installed():
            used = in_batches(len(ablated) * n_prompts, size, run)
        if used < size:
            setup.rows.limit = used
        if not parts:
            return torch.empty(0, n_prompts, dtype=torch.float64, device="cpu")
        return torch.cat(parts).unflatten(0, (-1, n_prompts))

    def slopes(self, gates: Tensor) -> Slopes:
        """Values, and their slopes by each gate, by block of prompts."""
        setup, n_prompts = self.setup, len(self.setup.prompts)
        n_blocks = min(n_prompts, MOST_BLOCKS)
        double = {"dtype": torch.float64, "device": "cpu"}
        values = torch.empty(len(gates) * n_prompts, **double)
        slopes = torch.zeros(len(gates) * n_blocks, setup.n_units, **double)

        def run(part: slice) -> None:
            rows = torch.arange(part.start, part.stop, device="cpu")
            mask_of, prompt_of = rows // n_prompts, rows % n_prompts
            leaf_of = mask_of * n_blocks + prompt_of * n_blocks // n_prompts
            asked, row_leaf = leaf_of.unique(return_inverse=True)
            exact = torch.float64 if gates.dtype == torch.float64 else torch.float32
            leaf = gates[asked // n_blocks].to(setup.device, exact).requires_grad_()
            with torch.enable_grad():  # whatever mode the caller has set
                padded = torch.cat([leaf, leaf.new_ones(len(leaf), 1)], dim=1)
                hooks = setup.hooks(padded[row_leaf.to(setup.device)], prompt_of)
                output = setup.taps.run(setup.some_prompts(prompt_of), hooks)
                measured = setup.measure(output, setup.some_prompts(prompt_of))
                setup.check_finite(measured.detach(), prompt_of, gates[mask_of] > 0)
                (slope,) = slopes_of(measured, [leaf], n_blocks / n_prompts, setup.measure.name)
            values[rows] = measured.detach().cpu().double()
            slopes[asked] += slope.cpu().double()

        size = rows_with_gradients(self.rows(), setup.device, setup.numbers_of_row)
        with setup.taps.installed():
            in_batches(len(values), size, run)
        return values.reshape(-1, n_prompts), slopes.reshape(len(gates), n_blocks, -1)

    def rows(self) -> int:
        """How many rows a pass takes: found at the first time."""
        setup = self.setup
        if setup.rows.limit is None:
            setup.rows.limit = self._find_rows()
        return setup.rows.limit

    def _find_rows(self) -> int:
        setup = self.setup
        if not is_gpu(setup.device):
            n_outputs = answers_of(setup.taps.model) or _UNKNOWN_OUTPUTS
            return rows_on_cpu(setup.prompts.tokens.shape[1], n_outputs)

        def run(rows: int) -> None:
            keep = torch.zeros(rows, setup.n_units + 1, dtype=torch.bool, device="cpu")
            prompt_of = torch.arange(rows, device="cpu") % len(setup.prompts)
            prompts = setup.some_prompts(prompt_of)
            with setup.taps.installed():
                setup.measure(setup.taps.run(prompts, setup.hooks(keep, prompt_of)), prompts)

        return rows_that_fit(setup.device, run)

    def _keep(self, ablated: Ablated) -> Tensor:
        """Masks of lists, with the column that is always kept."""
        keep = torch.ones(len(ablated), self.setup.n_units + 1, dtype=torch.bool, device="cpu")
        keep[torch.arange(len(ablated), device="cpu")[:, None], torch.from_numpy(ablated)] = False
        keep[:, -1] = True
        return keep


def slopes_of(
    measured: Float[Tensor, " row"], asked: list[Tensor], scale: float, name: str
) -> tuple[Tensor, ...]:
    """The gradients of the summed metric; no parameter's ``.grad`` is touched.

    Raises:
        NoSlopes: the metric, or the model, has no gradient, or it works out its activations again
            for it, when our hooks no longer stand.
    """
    if not measured.requires_grad:
        raise NoSlopes(
            f"the metric {name} has no gradient: it, or the model's forward pass, is not "
            "differentiable (a count, an argmax, torch.no_grad, integer weights); say "
            "discover(..., gradients=False)"
        )
    with torch.enable_grad():
        total = measured.sum() * scale
    try:
        return torch.autograd.grad(total, asked, materialize_grads=True)
    except CheckpointError as error:
        raise NoSlopes(
            "the model works out its activations a second time for a gradient "
            "(torch.utils.checkpoint), when nothing is ablated any more; switch checkpointing off, "
            "or say discover(..., gradients=False)"
        ) from error


class NoSlopes(ValueError):
    """The game has values and no slopes; the text says why."""
