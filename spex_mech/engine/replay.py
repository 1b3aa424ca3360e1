"""Masked forward passes that compute nothing twice: a tree of residual streams.

A mask's stream up to a layer depends only on what it ablates before that layer. So masks are sorted
and carried through the layers together (``engine.plan`` decides how). A single starts at its layer;
a pair runs from its *second* unit on, as the single of the first was run for all its pairs. In the
layer where a state branches, attention is not run again, and where a projection only adds to the
stream, nothing is: a neuron's ablation is then a column of its weight (see ``engine.blocks``).

Over all pairs of heads that is about a third of what plain passes do, where starting at the first
ablated layer would still do two thirds. Logits are computed where the metric reads them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spex_mech.engine.blocks import Blocks, Intact, Residual
from spex_mech.engine.device import (
    MemoryPlan,
    Rows,
    first_numbers,
    in_batches,
    is_out_of_memory,
    on,
    widest,
)
from spex_mech.engine.experts import Replaced
from spex_mech.engine.passes import Hook
from spex_mech.engine.plan import (
    Ablated,
    Branches,
    LayerFacts,
    LayerPlan,
    Order,
    Parts,
    plan_layer,
    wave_shape,
)
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.references import replacing

_FEW_SLOTS = 16  # up to which neurons are ablated column by column
_COPIES = 4  # tensors of the size of the stream that a state needs at once

States = Float[Tensor, "state prompt pos d_model"]
NewStates = Float[Tensor, "new_state prompt pos d_model"]
# The metric of final streams and each row's prompt, or several numbers of each row.
Measuring = Callable[[Residual, Int[Tensor, " row"]], Float[Tensor, "row ..."]]


class Replay:
    """See the module's text.

    Args:
        blocks: of the model.
        prompts: the game's.
        references: of each site, ``[prompt_or_1 pos_or_1 width]``.
        parts: what of each unit lies in which layer.
        measure: the metric of final streams.
        rows: how many rows a call of a block takes.
        memory: what may be held. Intact activations that need more are computed again for each
            group of prompts.
        tail_rows: how many rows ``measure`` takes.
        exact: an activation or a reference is infinite.
    """

    def __init__(
        self,
        blocks: Blocks,
        prompts: Prompts,
        references: list[Tensor],
        parts: Parts,
        measure: Measuring,
        *,
        rows: Rows,
        memory: MemoryPlan,
        tail_rows: int,
        exact: bool = False,
    ) -> None:
        self.blocks, self.prompts, self.measure = blocks, prompts, measure
        self.rows, self.memory, self.tail_rows = rows, memory, tail_rows
        self.references, self.exact = references, exact
        self.order = Order(parts, len(blocks.layers))
        self._facts = [facts_of(blocks, layer, parts) for layer in range(len(blocks.layers))]
        self._kept: Intact | None = None

    def shape(self, n_masks: int) -> tuple[int, int]:
        """How many masks and prompts a wave holds."""
        n_prompts, n_pos = self.prompts.tokens.shape
        per_row = _COPIES * n_pos * self.blocks.bytes_per_position
        most_rows = max(1, self.memory.states // per_row)
        return wave_shape(n_masks, n_prompts, most_rows, self.rows.limit or 1)

    @torch.no_grad()
    def values(
        self, ablated: Ablated, tick: Callable[[float], None] = lambda done: None
    ) -> Float[np.ndarray, "mask prompt ..."]:
        """The metric of each mask on each prompt, in float64.

        Args:
            tick: called with how many masks' worth of work was done.
        """
        n_prompts = len(self.prompts)
        # What is found stays on the device until the end: nothing waits for it on the way.
        found: list[tuple[Int[np.ndarray, " mask"], int, int, Tensor]] = []
        order, ablated = self.order.sorted(ablated)
        n_masks, at_once = self.shape(len(ablated))
        with self.blocks.installed():
            for start in range(0, n_prompts, at_once):
                for a in range(0, len(ablated), n_masks):
                    part = ablated[a : a + n_masks]
                    todo = [(start, min(start + at_once, n_prompts))]
                    while todo:
                        first, last = todo.pop(0)
                        try:
                            wave = self._wave(part, first, last)
                        except (torch.OutOfMemoryError, RuntimeError) as error:
                            if not is_out_of_memory(error) or last - first == 1:
                                raise
                            middle = (first + last) // 2  # fewer prompts at once
                            todo[:0] = [(first, middle), (middle, last)]
                            continue
                        found.append((order[a : a + n_masks], first, last, wave))
                        tick(len(part) * (last - first) / n_prompts)
        numbers = found[0][3].shape[2:] if found else ()
        values = np.empty((len(ablated), n_prompts, *numbers))
        for masks, first, last, wave in found:
            values[masks, first:last] = wave.cpu().numpy()
        return values

    def _wave(self, ablated: Ablated, start: int, stop: int) -> Float[Tensor, "mask prompt ..."]:
        """All layers for some masks on some prompts."""
        intact = self.intact(start, stop)
        layer_of = self.order.layers_of(ablated)
        state = np.zeros(len(ablated), dtype=np.int64)
        live: States = intact.streams[0][None][:0]
        for layer, facts in enumerate(self._facts):
            here = np.where(layer_of == layer, ablated, -1)
            plan = plan_layer(facts, here, state, len(live))
            live = Layer(self, layer, facts, plan, live, intact, start).run()
            state = plan.state
        n_prompts = stop - start
        prompts = first_numbers(n_prompts, live.device) + start
        measured = self._measured(intact.streams[-1], prompts)
        if len(live):
            others = self._measured(live.flatten(0, 1), prompts.repeat(len(live)))
            measured = torch.cat([measured, others])
        return measured.unflatten(0, (-1, n_prompts))[on(state, measured)]

    def _measured(
        self, final: Residual, prompt_of: Int[Tensor, " row"]
    ) -> Float[Tensor, "row ..."]:
        parts: list[Tensor] = []

        def run(part: slice) -> None:
            value = self.measure(final[part], prompt_of[part])
            parts.append(value.to(widest(value.device)))

        self.in_parts(len(final), 1, run, tail=True)
        return torch.cat(parts).to(final.device)

    @torch.no_grad()
    def looked_at(self) -> "Replay":
        """Itself, after the intact model was run on every prompt, and each block by itself.

        Raises:
            CannotReplay: its blocks are called otherwise for some of them than for others, or give
                something else for some.
        """
        n_prompts, at_once = len(self.prompts), self.shape(1)[1]
        with self.blocks.installed():
            for start in range(0, n_prompts, at_once):
                self.blocks.check(self.intact(start, min(start + at_once, n_prompts)))
        self._facts = [facts_of(self.blocks, n, self.order.parts) for n in range(len(self._facts))]
        return self

    def intact(self, start: int, stop: int) -> Intact:
        """The intact run of some prompts: kept for all where they fit."""
        if self._kept is None:
            run = self._run_intact(start, stop)
            if run.n_bytes() * len(self.prompts) / (stop - start) > self.memory.intact:
                return run
            self._kept = run if len(self.prompts) == stop - start else self._run_all()
        return self._kept.prompts(start, stop, self.blocks.varies)

    def _run_all(self) -> Intact:
        return self._run_intact(0, len(self.prompts))

    def _run_intact(self, start: int, stop: int) -> Intact:
        parts: list[Intact] = []

        def run(part: slice) -> None:
            rows = torch.arange(start + part.start, start + part.stop, device="cpu")
            parts.append(self.blocks.intact(self.prompts[rows.to(self.prompts.tokens.device)]))

        self.in_parts(stop - start, 1, run)
        return Intact.joined(parts, self.blocks.varies)

    def in_parts(
        self, n_items: int, rows_each: int, run: Callable[[slice], None], tail: bool = False
    ) -> None:
        """Run all items in parts of so many rows as fit, smaller ones when they did not."""
        size = max(1, (self.tail_rows if tail else self.rows.limit or 1) // rows_each)
        used = in_batches(n_items, size, run)
        if used < size and tail:
            self.tail_rows = used * rows_each
        elif used < size:
            self.rows.limit = used * rows_each


def facts_of(blocks: Blocks, layer: int, parts: Parts) -> LayerFacts:
    """What a plan must know of one layer."""
    sites = [i for i, site in enumerate(blocks.sites) if site.layer == layer]
    here = np.flatnonzero(parts.layer == layer)
    column = np.full(parts.n_units + 1, len(here))  # of no unit here: the last
    column[parts.unit[here]] = np.arange(len(here))
    return LayerFacts(
        units=tuple(here.tolist()),
        columns={i: column[blocks.sites[i].slot_unit.numpy()] for i in sites},
        heads=next((i for i in sites if blocks.sites[i].kind == "head"), None),
        adds=frozenset(blocks.layers[layer].adds),
        skips_attention=blocks.layers[layer].attention is not None,
    )


@dataclass
class Layer:
    """Applies the plan of one layer to the streams of one wave."""

    replay: Replay
    number: int
    facts: LayerFacts
    plan: LayerPlan
    live: States
    intact: Intact
    start: int

    def run(self) -> NewStates:
        """The streams after the layer."""
        like = self.intact.streams[self.number + 1]  # may be on another device than the first
        self.after = like.new_empty((self.plan.n_after, *like.shape))
        self.n_prompts = like.shape[0]
        self.prompts = self.start + np.arange(self.n_prompts)
        self.z: Tensor | None = None
        if self.plan.n_after:
            self._run_parents()
            self._add_to_intact()
            self._run_reusing_attention()
            self._run_full()
        return self.after

    def _run_parents(self) -> None:
        """The live states that go on, or whose output or attention branches share."""
        plan, adding = self.plan, self.plan.adding
        of_live = np.flatnonzero(adding.parent > 0)

        def run(part: slice) -> None:
            here = plan.whole[part]
            seen: dict[int, Tensor] = {}
            out = self._step(self._streams(here), len(here), seen=seen)
            goes = np.flatnonzero(plan.whole_to[part] >= 0)
            self._put(plan.whole_to[part][goes], out[_rows(goes, out)])
            seen = {site: act.unflatten(0, out.shape[:2]) for site, act in seen.items()}
            if plan.n_z and self.facts.heads is not None:
                self._keep_heads(here, seen[self.facts.heads])
            some = of_live[np.isin(adding.parent[of_live], here)]
            self._add(adding.at(some), np.searchsorted(here, adding.parent[some]), out, seen)

        self.replay.in_parts(len(plan.whole), self.n_prompts, run)

    def _keep_heads(
        self, states: Int[np.ndarray, " state"], z: Float[Tensor, "state prompt pos width"]
    ) -> None:
        if self.z is None:
            self.z = z.new_empty((self.plan.n_z, *z.shape[1:]))
        shared = np.flatnonzero(self.plan.z_row[states] >= 0)
        self.z[_rows(self.plan.z_row[states[shared]], z)] = z[_rows(shared, z)]

    def _add_to_intact(self) -> None:
        """Branches of the intact model that only add to its output."""
        branches = self.plan.adding.at(np.flatnonzero(self.plan.adding.parent == 0))
        seen = {site: self.intact.seen[site][None] for site in self.facts.adds}
        out = self.intact.streams[self.number + 1][None]
        self._add(branches, np.zeros(len(branches), dtype=np.int64), out, seen)

    def _run_reusing_attention(self) -> None:
        """Branches for which the parent's attention holds."""

        def run(part: slice) -> None:
            here = self.plan.skipping.at(part)
            assert self.facts.heads is not None
            rows = self.plan.z_row[here.parent]
            z = self._gather(here.parent, self.intact.seen[self.facts.heads], self.z, rows)
            streams = self._streams(here.parent)
            out = self._step(streams, len(here), self._replacing(here), z.flatten(0, 1))
            self._put(here.to, out)

        self.replay.in_parts(len(self.plan.skipping), self.n_prompts, run)

    def _run_full(self) -> None:
        """The other branches: the whole block."""

        def run(part: slice) -> None:
            here = self.plan.running.at(part)
            out = self._step(self._streams(here.parent), len(here), self._replacing(here))
            self._put(here.to, out)

        self.replay.in_parts(len(self.plan.running), self.n_prompts, run)

    def _step(
        self,
        stream: Residual,
        n_states: int,
        replace: Mapping[int, Hook] | None = None,
        z: Tensor | None = None,
        seen: dict[int, Tensor] | None = None,
    ) -> States:
        prompt_of = first_numbers(self.n_prompts, stream.device).repeat(n_states)
        arguments = self.intact.calls[self.number]
        out = self.replay.blocks.step(self.number, stream, arguments, prompt_of, replace, z, seen)
        return out.unflatten(0, (n_states, self.n_prompts))

    def _streams(self, states: Int[np.ndarray, " state"]) -> Residual:
        intact = self.intact.streams[self.number]
        return self._gather(states, intact, self.live, states - 1).flatten(0, 1)

    def _gather(
        self,
        states: Int[np.ndarray, " state"],
        intact: Float[Tensor, "prompt pos width"],
        live: Tensor | None,
        at: Int[np.ndarray, " state"],
    ) -> Float[Tensor, "state prompt pos width"]:
        """What belongs to states, of which 0 is the intact model."""
        if (states == 0).all() or live is None:
            return intact.expand(len(states), *intact.shape)
        if (states > 0).all():
            return live[_rows(at, live)]
        gathered = live[on(np.maximum(at, 0), live)]
        gathered[on(np.flatnonzero(states == 0), live)] = intact
        return gathered

    def _put(
        self, to: Int[np.ndarray, " state"], out: Float[Tensor, "state prompt pos d_model"]
    ) -> None:
        self.after[_rows(to, self.after)] = out.to(self.after)

    def _replacing(self, branches: Branches) -> dict[int, Hook]:
        lost = {site: slots for site, slots in branches.ablated.items() if slots.any()}
        return {site: self._blending(site, slots) for site, slots in lost.items()}

    def _blending(self, site: int, lost: Bool[np.ndarray, "branch slot"]) -> Hook:
        reference = self.replay.references[site]
        keep = on(np.repeat(~lost, self.n_prompts, axis=0), reference)
        prompt_of = on(np.tile(self.prompts, len(lost)), reference)
        kind = self.replay.blocks.sites[site].kind
        return replacing(keep, reference, prompt_of, self.replay.exact, kind)

    def _add(
        self,
        branches: Branches,
        at: Int[np.ndarray, " branch"],
        parents: Float[Tensor, "parent prompt pos d_model"],
        seen: Mapping[int, Tensor],  # [parent prompt pos width]
    ) -> None:
        """The parents' outputs and, through the weights, the changes of what is ablated."""
        weights = self.replay.blocks.layers[self.number].adds

        def run(part: slice) -> None:
            here, parent = branches.at(part), on(at[part], parents)
            out = parents[parent]
            for site, lost in here.ablated.items():
                if not lost.any():
                    continue
                act, weight = seen[site], weights[site].to(out)
                if lost.shape[1] == act.shape[-1] and lost.sum(axis=1).max() <= _FEW_SLOTS:
                    out += self._few(site, lost, act, parent, weight)
                    continue
                whole = act[parent].flatten(0, 1)
                blending = self._blending(site, lost)
                assert not isinstance(blending, Replaced)  # experts add through no weight
                change = blending(whole)
                assert change is not None
                out += ((change - whole) @ weight).unflatten(0, out.shape[:2])
            self._put(here.to, out)

        self.replay.in_parts(len(branches), self.n_prompts, run)

    def _few(
        self,
        site: int,
        lost: Bool[np.ndarray, "branch slot"],
        act: Float[Tensor, "parent prompt pos width"],
        parent: Int[Tensor, " branch"],
        weight: Float[Tensor, "width d_model"],
    ) -> States:
        """A few neurons of each branch: their columns of the weight times what changes."""
        row, lost_slot = np.nonzero(lost)
        place = np.arange(len(row)) - np.searchsorted(row, row)
        slots = np.zeros((len(lost), int(place.max()) + 1), dtype=np.int64)
        real = np.zeros(slots.shape, dtype=bool)
        slots[row, place], real[row, place] = lost_slot, True
        slot = on(slots, act)
        now = act[parent[:, None], :, :, slot]  # [branch k prompt pos]
        reference = self._reference(site).to(act)[:, :, slot].permute(2, 3, 0, 1)
        change = (reference - now) * on(real, act).to(act.dtype)[:, :, None, None]
        return torch.einsum("fkpt,fkd->fptd", change, weight[slot])

    def _reference(self, site: int) -> Float[Tensor, "prompt_or_1 pos_or_1 width"]:
        reference = self.replay.references[site]
        return reference if len(reference) == 1 else reference[on(self.prompts, reference)]


def _rows(numbers: Int[np.ndarray, " row"], like: Tensor) -> Int[Tensor, " row"] | slice:
    """The same on a tensor's device, as a slice where they follow one another: a view, no copy."""
    n = len(numbers)
    if n and numbers[-1] - numbers[0] == n - 1 and (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return on(numbers, like)
