"""What comes after the last block for a metric alone."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from spex_mech.engine.blocks import Blocks, Residual
from spex_mech.engine.device import MemoryPlan
from spex_mech.engine.facts import answers_of
from spex_mech.engine.metrics import Metric, narrowed, read_positions, read_tokens, renumbered
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.running import logits_in

_MOST_ROWS = 4096
_LEAST_READ = 256  # positions at a time, or reading the unembedding takes longer than using it
_UNKNOWN_OUTPUTS = 1024


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
