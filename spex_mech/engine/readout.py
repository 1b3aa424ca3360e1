"""What a metric reads: the metric, checked, and what comes after the last block for it alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from jaxtyping import Float, Int
from torch import Tensor

from spex_mech.engine.blocks import Blocks, Residual
from spex_mech.engine.device import MemoryPlan, as_the_user
from spex_mech.engine.facts import answers_of
from spex_mech.engine.metrics import (
    Metric,
    absent_for,
    narrowed,
    read_positions,
    read_tokens,
    renumbered,
)
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.running import logits_in
from spex_mech.masks import names_of

_MOST_ROWS = 4096
_LEAST_READ = 256  # positions at a time, or reading the unembedding takes longer than using it
_UNKNOWN_OUTPUTS = 1024


@dataclass(frozen=True)
class Measure:
    """A task's metric, whose answers are checked.

    Args:
        labels: of the units, for errors.
    """

    metric: Metric
    name: str
    labels: Sequence[str]
    device: torch.device

    def __call__(self, output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
        """Raises:
        ValueError: not one value per row, or a model's output is looked for in its logits.
        """
        try:
            with as_the_user(self.device):
                values = self.metric(output, prompts)
        except (AttributeError, TypeError, IndexError) as error:
            if absent := absent_for(self.metric, prompts):
                raise ValueError(f"the metric {self.name} failed ({error}): {absent}") from error
            if not isinstance(error, AttributeError) or not isinstance(output, Tensor):
                raise
            if error.obj is not output:
                raise
            raise ValueError(
                f"the metric {self.name} asks for output.{error.name}, and output is a tensor of "
                f"shape {list(output.shape)}: of a causal model the logits [row pos vocab] "
                "themselves"
            ) from error
        if not isinstance(values, Tensor) or values.shape != (len(prompts),):
            shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"the metric {self.name} returned {shape} for {len(prompts)} rows; it must "
                "return one value per row, a tensor of shape [row]"
                + (f"; {absent}" if (absent := absent_for(self.metric, prompts)) else "")
            )
        if values.layout != torch.strided:
            values = values.to_dense()
        if values.is_complex():
            raise ValueError(
                f"the metric {self.name} returned complex numbers, of which it is not known what "
                "should be compared; return their real part or their size"
            )
        return values

    def not_finite(self, value: float, prompt: int, ablated: Sequence[int]) -> NoReturn:
        """Raise the error that names the mask."""
        raise ValueError(
            f"the metric {self.name} is {value} for prompt {prompt} with "
            f"{names_of(self.labels, ablated)} ablated; it must be finite"
        )


@dataclass(frozen=True)
class Readout:
    """What comes after the last block: logits where a metric reads them, and the metric.

    Args:
        read_at: the positions that are read, ``[prompt k]``; None: all.
        tokens: the tokens whose logits are read; None: all.
    """

    blocks: Blocks
    prompts: Prompts
    measure: Metric
    read_at: Int[Tensor, "prompt k"] | None
    tokens: Int[Tensor, " token"] | None

    @staticmethod
    def of(
        blocks: Blocks, prompts: Prompts, metric: Metric, measure: Metric, by_position: bool
    ) -> "Readout":
        """Reads what the metric says that it reads.

        Args:
            measure: the same, checked.
            by_position: the model gives logits position by position.
        """
        # Of other inputs it is not known which part belongs to which position.
        by_position = by_position and not prompts.inputs
        read_at = read_positions(metric, prompts) if by_position else None
        tokens = None
        if read_at is not None and blocks.unembedding is not None:
            tokens = read_tokens(metric, prompts)
        return Readout(blocks, prompts, measure, read_at, tokens)

    def __call__(self, final: Residual, rows: Int[Tensor, " row"]) -> Float[Tensor, "row ..."]:
        prompts = self.prompts[rows.to(self.prompts.tokens.device)]
        if self.read_at is not None:
            at = self.read_at[rows.to(self.read_at.device)]
            final = at_positions(final, at)
            prompts = narrowed(prompts, at)
        output = self.blocks.output(final, prompts, self.tokens)
        if self.tokens is not None:
            prompts = renumbered(prompts, self.tokens)
        return self.measure(output, prompts)

    def narrowed_output(self, logits: Tensor, rows: Int[Tensor, " row"]) -> Tensor:
        """Of a whole output's logits what this one computes."""
        if self.read_at is not None:
            logits = at_positions(logits, self.read_at[rows.to(self.read_at.device)])
            if self.tokens is not None:
                logits = logits[:, :, self.tokens.to(logits.device)]
        return logits

    def rows(self, memory: MemoryPlan) -> int:
        """How many rows it takes at a time."""
        n_read = (self.prompts.tokens if self.read_at is None else self.read_at).shape[1]
        n_outputs = answers_of(self.blocks.model) or _UNKNOWN_OUTPUTS
        n_outputs = n_outputs if self.tokens is None else len(self.tokens)
        least = -(-_LEAST_READ // n_read)
        return min(_MOST_ROWS, max(least, int(memory.logits / (12 * n_read * n_outputs))))


def gives_logits_by_position(output: Any, prompts: Prompts) -> bool:
    """Whether an output is logits at each of the prompts' positions."""
    logits = logits_in(output)
    return logits is not None and logits.ndim == 3 and logits.shape[:2] == prompts.tokens.shape


def at_positions(
    x: Float[Tensor, "row pos width"], at: Int[Tensor, "row k"]
) -> Float[Tensor, "row k width"]:
    """What a tensor holds at some positions of each row."""
    return x.gather(1, at.to(x.device)[:, :, None].expand(-1, -1, x.shape[2]))
