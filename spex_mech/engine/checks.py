"""A game's replay, compared with plain passes before it is used."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from spex_mech.engine.architectures import Architecture
from spex_mech.engine.blocks import Blocks, Residual, forward_of
from spex_mech.engine.components import Site
from spex_mech.engine.metrics import (
    Metric,
    logits_of,
    narrowed,
    read_positions,
    read_tokens,
    renumbered,
)
from spex_mech.engine.passes import answers_of, first_tensor, forward
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.replay import Replay
from spex_mech.masks import MaskBatch

# What a replay may hold: of states, of intact activations, of logits.
_CPU_BYTES = (512 * 2**20, 2**30, 16 * 2**20)
_CUDA_SHARES = (0.3, 0.15, 0.1)  # of what is free
_MOST_TAIL_ROWS = 4096
_LEAST_READ = 256  # positions at a time, or reading the unembedding takes longer than using it
_COMPARED = 2  # prompts on which a replay is compared with plain passes
_ROUNDINGS = 500  # by which the two may differ, but in half precision
_EPS = {"float32": 2**-23, "tf32": 2**-15, "bfloat16": 2**-12}

# What plain passes give: (masks, value of an output, given each row's prompt and mask, number of
# prompts).
Plain = Callable[
    [Bool[Tensor, "mask unit"], Callable[[Any, Tensor, Tensor], Tensor], int],
    Float[Tensor, "mask prompt"],
]


@dataclass(frozen=True)
class Tail:
    """What comes after the last block: logits where a metric reads them, and the metric.

    ``read_at`` holds the positions and ``tokens`` the tokens that are read, None: all.
    """

    blocks: Blocks
    prompts: Prompts
    metric: Metric
    read_at: Int[Tensor, "prompt k"] | None
    tokens: Int[Tensor, " token"] | None

    def __call__(self, final: Residual, rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        rows = rows.to(self.prompts.tokens.device)
        prompts = self.prompts[rows]
        if self.read_at is not None:
            at = self.read_at[rows]
            final = _at_positions(final, at)
            prompts = narrowed(prompts, at)
        if self.tokens is None:
            return self.metric(self.blocks.output(final, prompts), prompts)
        with _only(self.blocks.model, self.tokens):
            output = self.blocks.output(final, prompts)
        return self.metric(output, renumbered(prompts, self.tokens))


def compared_replay(
    model: Any,
    architecture: Architecture,
    sites: list[Site],
    prompts: Prompts,
    references: list[Tensor],
    unit_layer: Int[np.ndarray, " unit"],
    metric: Metric,
    metric_name: Metric | str,
    rows: int,
    precision: str,
    compiled: bool,
    plain: Plain,
) -> Replay:
    """Cut the model at its blocks, and compare what comes out with plain passes.

    Args:
        metric_name: the metric as the task gave it; tells which logits it reads.
        rows: of a batch.
        precision: to compute in.
        compiled: run norms and activation functions compiled.

    Raises:
        CannotReplay: the model cannot be cut.
        RuntimeError: it can, and gives something else.
    """
    read_at = _positions(model, prompts, metric_name)
    tokens = None
    if read_at is not None and _unembedding(model) is not None:
        tokens = read_tokens(metric_name, prompts)
    blocks = Blocks(model, architecture, sites, prompts, precision, compiled)
    sizes = _sizes(prompts.tokens.device)
    n_read = prompts.tokens.shape[1] if read_at is None else read_at.shape[1]
    n_answers = (answers_of(model) or 1024) if tokens is None else len(tokens)
    least = -(-_LEAST_READ // n_read)
    tail_rows = min(_MOST_TAIL_ROWS, max(least, int(sizes[2] / (12 * n_read * n_answers))))

    def make(prompts: Prompts, metric: Metric) -> Replay:
        return Replay(
            blocks,
            prompts,
            references,
            unit_layer,
            Tail(blocks, prompts, metric, read_at, tokens),
            rows=rows,
            wave_bytes=int(sizes[0]),
            kept_bytes=int(sizes[1]),
            tail_rows=tail_rows,
        )

    def sketch_of_plain(output: Any, of_prompt: Tensor, _: Tensor) -> Tensor:
        if read_at is not None:
            output = _at_positions(logits_of(output), read_at[of_prompt.to(read_at.device)])
            if tokens is not None:
                output = output[:, :, tokens.to(output.device)]
        return sketch(output, prompts)

    masks = _masks_to_compare(unit_layer)
    got = torch.from_numpy(
        make(prompts[:_COMPARED], sketch).values(MaskBatch.of_kept(masks.numpy()).ablated)
    )
    want = plain(masks, sketch_of_plain, _COMPARED)
    off = ((got - want).abs().max() / want.abs().max().clamp(min=1e-30)).item()
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    # Models in float64 normalise in float32.
    eps = max(torch.finfo(dtype).eps, _EPS[precision])
    if not off <= _ROUNDINGS * eps:
        raise RuntimeError(f"its outputs differ by {off:.2g} of their size")
    return make(prompts, metric)


def sketch(output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
    """One number a row that any change of the output changes: a metric to compare passes with."""
    flat = first_tensor(output).flatten(1).float()
    weights = torch.arange(flat.shape[1], device=flat.device).mul(0.7).cos()
    return flat @ weights / flat.shape[1] ** 0.5


def _at_positions(
    x: Float[Tensor, "row pos width"], at: Int[Tensor, "row k"]
) -> Float[Tensor, "row k width"]:
    return x.gather(1, at.to(x.device)[:, :, None].expand(-1, -1, x.shape[2]))


def _unembedding(model: Any) -> nn.Linear | None:
    """The module that gives logits, where it is a plain linear one."""
    found = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return found if type(found) is nn.Linear else None


@contextmanager
def _only(model: Any, tokens: Int[Tensor, " token"]) -> Iterator[None]:
    """Logits of some tokens alone."""
    module = _unembedding(model)
    assert module is not None

    def forward(_: Any, x: Tensor) -> Tensor:
        rows = tokens.to(module.weight.device)
        bias = None if module.bias is None else module.bias[rows]
        return nn.functional.linear(x, module.weight[rows], bias)

    with forward_of(module, forward):
        yield


def _sizes(device: torch.device) -> tuple[float, ...]:
    """Bytes for states, for intact activations, for logits."""
    if device.type != "cuda":
        return tuple(float(size) for size in _CPU_BYTES)
    free = torch.cuda.mem_get_info(device)[0]
    return tuple(share * free for share in _CUDA_SHARES)


def _positions(
    model: Any, prompts: Prompts, metric: Metric | str
) -> Int[Tensor, "prompt k"] | None:
    """Where the metric reads logits, for models that give logits position by position."""
    one = prompts[:1]
    with torch.no_grad():
        output = forward(model, one, {})
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != one.tokens.shape:
        return None
    return read_positions(metric, prompts)


def _masks_to_compare(unit_layer: Int[np.ndarray, " unit"]) -> Bool[Tensor, "mask unit"]:
    """All and nothing, dense ones, singles, and pairs that share a unit of the first layer."""
    generator = torch.Generator().manual_seed(0)
    n_units = len(unit_layer)
    some = torch.randperm(n_units, generator=generator)[:6]
    masks = torch.ones(5 + 2 * len(some), n_units, dtype=torch.bool)
    masks[1] = False
    masks[2:4] = torch.rand(2, n_units, generator=generator) > 0.3
    first = int(unit_layer.argmin())
    masks[4, first] = False
    for row, unit in enumerate(some.tolist(), start=5):
        masks[row, [first, unit]] = False
        masks[row + len(some), unit] = False
    return masks
