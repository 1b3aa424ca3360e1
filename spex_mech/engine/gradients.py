"""Gradients of many masks by replay: what the masks share is run once.

One backward pass gives the slopes of all units at one mask. Up to the first layer that a mask
ablates its forward pass is the intact one, so that part is run once, kept with what a backward
pass needs, and every mask sends its own slopes back through it; only what comes after is run for
each mask. For the gradients at ``N`` without one unit, over all units, that saves half of the
forward passes.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spex_mech.engine.blocks import Intact, Residual
from spex_mech.engine.device import in_batches, is_out_of_memory
from spex_mech.engine.plain import Setup, Slopes, slopes_of
from spex_mech.engine.replay import Replay

_WORTH = 1.5  # times the cost of the shared part that sharing must save


class Gradients:
    """The values and slopes of gates, as ``ModelGame.value_and_slopes`` gives them.

    Args:
        rows: of a batch.
        n_blocks: of prompts, whose slopes are kept apart.
    """

    def __init__(self, replay: Replay, setup: Setup, rows: int, n_blocks: int) -> None:
        self.replay, self.setup = replay, setup
        self.rows, self.n_blocks = rows, n_blocks
        self.first = min(site.layer for site in replay.blocks.sites)  # nothing is rewritten before

    @torch.no_grad()
    def __call__(self, gates: Tensor) -> Slopes:
        n_prompts = len(self.replay.prompts)
        double = {"dtype": torch.float64, "device": "cpu"}
        values = torch.empty(len(gates), n_prompts, **double)
        slopes = torch.zeros(len(gates), self.n_blocks, gates.shape[1], **double)
        first = self.replay.order.first_layers((gates != 1).numpy())
        order = np.argsort(first, kind="stable")
        size = min(self.rows, n_prompts)
        todo = [(a, min(a + size, n_prompts)) for a in range(0, n_prompts, size)]
        with self.replay.blocks.installed():
            while todo:
                start, stop = todo.pop(0)
                try:
                    part = self._of_prompts(start, stop, gates, first, order, values)
                except (torch.OutOfMemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error) or stop - start == 1:
                        raise
                    middle = (start + stop) // 2
                    todo[:0] = [(start, middle), (middle, stop)]
                else:  # only now: a block of prompts may be shared with the range before
                    slopes[:, self._blocks(start, stop)] += part
        return values, slopes

    def _blocks(self, start: int, stop: int) -> slice:
        n_prompts = len(self.replay.prompts)
        block = lambda prompt: prompt * self.n_blocks // n_prompts  # noqa: E731
        return slice(block(start), block(stop - 1) + 1)

    def _of_prompts(
        self,
        start: int,
        stop: int,
        gates: Tensor,
        first: Int[np.ndarray, " mask"],
        order: Int[np.ndarray, " mask"],
        values: Float[Tensor, "mask prompt"],
    ) -> Float[Tensor, "mask some_blocks unit"]:
        """The slopes of the blocks that these prompts are of; their values are written."""
        n_prompts = len(self.replay.prompts)
        blocks = self._blocks(start, stop)
        of_block = torch.arange(start, stop, device="cpu") * self.n_blocks // n_prompts
        of_block = of_block - blocks.start
        n_here = blocks.stop - blocks.start
        slopes = torch.zeros(len(gates), n_here, gates.shape[1], dtype=torch.float64, device="cpu")
        intact = self.replay.intact(start, stop)
        size = max(1, self.rows // (stop - start))
        cuts = first[order[::size]]
        shares = cuts.sum() > _WORTH * cuts.max()
        shared: Shared | None = None

        def run(part: slice) -> None:
            nonlocal shared
            masks = torch.from_numpy(order[part])
            cut = int(first[order[part]].min()) if shares else 0
            if cut <= self.first:
                cut = 0
            elif shared is None or len(shared.leaf) < len(masks):
                shared = None  # before the new one takes memory
                last = int(cuts.max())
                shared = Shared(self, len(masks), start, of_block, intact, last, gates)
            rows = _Rows(self, gates[masks], start, of_block)
            begin = cut or self.first
            stream = intact.streams[begin].repeat(len(masks), 1, 1)
            stream.requires_grad_(cut > 0)
            with torch.enable_grad():
                last = len(self.replay.blocks.layers)
                final = rows.through(begin, last, stream, intact)[-1]
                of_prompt = start + rows.of_prompt.to(final.device)
                measured = self.replay.measure(final, of_prompt)
            keep = gates[masks].repeat_interleave(stop - start, dim=0) > 0
            self.setup.check_finite(measured.detach(), start + rows.of_prompt, keep)
            asked = [rows.leaf, stream] if cut else [rows.leaf]
            scale = self.n_blocks / n_prompts
            slope, *before = slopes_of(measured, asked, scale, self.setup.measure.name)
            if cut and shared is not None:
                slope = slope + shared.slopes(cut, *before)
            values[masks, start:stop] = measured.detach().cpu().double().reshape(len(masks), -1)
            slopes[masks] = slope.cpu().double()

        in_batches(len(order), size, run)
        return slopes


class _Rows:
    """Masks on some prompts, and their gates as a leaf: ``[mask block unit]``."""

    def __init__(
        self, of: Gradients, gates: Tensor, start: int, of_block: Int[Tensor, " prompt"]
    ) -> None:
        device = of.replay.prompts.tokens.device
        exact = torch.float64 if gates.dtype == torch.float64 else torch.float32
        n_blocks = int(of_block[-1]) + 1
        leaf = gates.to(device, exact)[:, None].repeat(1, n_blocks, 1)
        self.of, self.start, self.leaf = of, start, leaf.requires_grad_()
        self.of_block = of_block.to(device)
        self.of_prompt = torch.arange(len(of_block), device="cpu").repeat(len(gates))

    def through(self, first: int, last: int, stream: Residual, intact: Intact) -> list[Residual]:
        """The stream before and after each of some blocks."""
        blocks = self.of.replay.blocks
        padded = torch.cat([self.leaf, self.leaf.new_ones(*self.leaf.shape[:2], 1)], dim=2)
        gate = padded[:, self.of_block].flatten(0, 1)
        hooks = self.of.setup.hooks(gate, self.start + self.of_prompt)
        streams = [stream]
        for layer in range(first, last):
            of_prompt = self.of_prompt.to(stream.device)
            stream = blocks.step(layer, stream, intact.calls[layer], of_prompt, hooks)
            streams.append(stream)
        return streams


class Shared:
    """The intact run of so many masks' worth of rows, kept for backward passes through it."""

    def __init__(
        self,
        of: Gradients,
        n_masks: int,
        start: int,
        of_block: Int[Tensor, " prompt"],
        intact: Intact,
        last: int,
        like: Tensor,
    ) -> None:
        ones = torch.ones(n_masks, like.shape[1], dtype=like.dtype, device="cpu")
        rows = _Rows(of, ones, start, of_block)
        self.leaf, self.first = rows.leaf, of.first
        stream = intact.streams[of.first].repeat(n_masks, 1, 1)
        with torch.enable_grad():
            self.streams = rows.through(of.first, last, stream, intact)

    def slopes(
        self, cut: int, slope: Float[Tensor, "row pos d_model"]
    ) -> Float[Tensor, "mask block unit"]:
        """What slopes of the stream that block ``cut`` is given make of the gates before it."""
        stream = self.streams[cut - self.first]
        n_masks = len(slope) // (len(stream) // len(self.leaf))
        padded = slope.new_zeros(stream.shape)
        padded[: len(slope)] = slope
        (found,) = torch.autograd.grad(stream, self.leaf, padded.to(stream), retain_graph=True)
        return found[:n_masks]
