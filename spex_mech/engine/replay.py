"""Masked forward passes that compute nothing twice: a tree of residual streams.

A mask's stream up to a layer depends only on what it ablates before that layer. So masks are sorted
and carried through the layers together: those that ablate the same units so far are one **state**,
and those that ablate nothing yet are the intact model, which was run once. A single starts at its
layer; a pair runs from its *second* unit on, as the single of the first was run for all its pairs.
In the layer where a state forks, attention is not run again, and where a projection only adds to
the stream, nothing is: a neuron's ablation is then a column of its weight (see ``engine.blocks``).

Over all pairs of heads that is about a third of what plain passes do, where starting at the first
ablated layer would still do two thirds. Logits are computed where the metric reads them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from spex_mech.engine.blocks import Blocks, Intact, Residual
from spex_mech.engine.device import in_batches, is_out_of_memory
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.references import replacing

_FEW_SLOTS = 16  # up to which neurons are ablated column by column
_MASKS_FIRST = 512  # that many masks should share a wave before prompts do
_SORTED_BY = 16  # units of a mask; masks of more share little
_ATTENTION = 0.3  # of a block's work, which a fork saves that skips it
_COPIES = 4  # tensors of the size of the stream that a state needs at once

Lost = Int[np.ndarray, "mask k"]  # the units that a mask ablates, padded with -1
States = Float[Tensor, "state prompt pos d_model"]
NewStates = Float[Tensor, "new_state prompt pos d_model"]


class Replay:
    """See the module's text.

    Args:
        blocks: of the model.
        prompts: the game's.
        references: of each site, ``[prompt_or_1 pos_or_1 width]``.
        unit_layer: the layer of each unit.
        measure: the metric of final streams ``[row pos d_model]`` and each row's prompt: ``[row]``.
        rows: how many rows a call of a block takes; halved when memory runs out.
        wave_bytes: for the states that are carried together.
        kept_bytes: for the intact activations; where they need more, they are computed again for
            each group of prompts.
        tail_rows: how many rows ``measure`` takes.
    """

    def __init__(
        self,
        blocks: Blocks,
        prompts: Prompts,
        references: list[Tensor],
        unit_layer: Int[np.ndarray, " unit"],
        measure: Callable[[Residual, Int[Tensor, " row"]], Float[Tensor, " row"]],
        *,
        rows: int,
        wave_bytes: int,
        kept_bytes: int,
        tail_rows: int,
    ) -> None:
        self.blocks, self.prompts, self.measure = blocks, prompts, measure
        self.rows, self.tail_rows = rows, tail_rows
        self.wave_bytes, self.kept_bytes = wave_bytes, kept_bytes
        self.references = references
        self._unit_layer = np.append(unit_layer, len(blocks.layers))  # -1 finds the last
        in_order = np.argsort(unit_layer, kind="stable")
        self._in_order = np.append(in_order, -1)
        self._rank = np.append(np.argsort(in_order), len(unit_layer))
        self._forking = [Forking(blocks, layer, unit_layer) for layer in range(len(blocks.layers))]
        self._kept: Intact | None = None
        self._kept_for: object = None

    def shape(self, n_masks: int) -> tuple[int, int]:
        """How many masks and prompts a wave holds."""
        n_prompts, n_pos = self.prompts.tokens.shape
        per_row = _COPIES * n_pos * self.blocks.bytes_per_position
        most_rows = max(1, self.wave_bytes // per_row)
        for_masks = most_rows // max(1, min(n_masks, _MASKS_FIRST))
        at_once = min(n_prompts, self.rows, max(1, for_masks))
        at_once = -(-n_prompts // -(-n_prompts // at_once))  # groups of one size
        return max(1, most_rows // at_once), at_once

    @torch.no_grad()
    def values(
        self, lost: Lost, tick: Callable[[float], None] = lambda done: None
    ) -> Float[np.ndarray, "mask prompt"]:
        """The metric of each mask on each prompt, in float64.

        Args:
            tick: called with how many masks' worth of work was done.
        """
        n_prompts = len(self.prompts)
        # What is found stays on the device until the end: nothing waits for it on the way.
        found: list[tuple[Int[np.ndarray, " mask"], int, int, Tensor]] = []
        ranks = np.sort(self._rank[lost], axis=1)
        keys = ranks[:, :_SORTED_BY].T[::-1]
        order = np.lexsort(keys) if len(keys) else np.arange(len(lost))
        lost = self._in_order[ranks[order]]
        n_masks, at_once = self.shape(len(lost))
        with self.blocks.standing():
            for start in range(0, n_prompts, at_once):
                for a in range(0, len(lost), n_masks):
                    part = lost[a : a + n_masks]
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
        values = np.empty((len(lost), n_prompts))
        for masks, first, last, wave in found:
            values[masks, first:last] = wave.cpu().numpy()
        return values

    def first_layers(self, lost: Bool[Tensor, "mask unit"]) -> Int[np.ndarray, " mask"]:
        """The first layer in which each mask loses a unit; of none: the number of layers."""
        none = len(self.blocks.layers)
        return np.where(lost.numpy(), self._unit_layer[:-1], none).min(axis=1, initial=none)

    def _wave(self, lost: Lost, start: int, stop: int) -> Float[Tensor, "mask prompt"]:
        """All layers for some masks on some prompts."""
        intact = self.intact(start, stop)
        layer_of = self._unit_layer[lost]
        state = np.zeros(len(lost), dtype=np.int64)  # 0: the intact model; s: live[s - 1]
        live: States = intact.streams[0][None][:0]
        for layer, forking in enumerate(self._forking):
            here = np.where(layer_of == layer, lost, -1)
            state, live = self._through(forking, here, state, live, intact, start)
        n_prompts = stop - start
        measured = live.new_empty((1 + len(live)) * n_prompts, dtype=torch.float64)
        rows = torch.arange(n_prompts, device=live.device)
        self._measure_into(measured[:n_prompts], intact.streams[-1], start + rows)
        of_prompt = start + rows.repeat(len(live))
        self._measure_into(measured[n_prompts:], live.flatten(0, 1), of_prompt)
        return measured.reshape(-1, n_prompts)[torch.from_numpy(state).to(live.device)]

    def _measure_into(
        self, into: Float[Tensor, " row"], final: Residual, of_prompt: Int[Tensor, " row"]
    ) -> None:
        def run(part: slice) -> None:
            into[part] = self.measure(final[part], of_prompt[part]).double()

        self.in_parts(len(final), 1, run, tail=True)

    def _through(
        self,
        forking: "Forking",
        here: Lost,
        state: Int[np.ndarray, " mask"],
        live: States,
        intact: Intact,
        start: int,
    ) -> tuple[Int[np.ndarray, " mask"], NewStates]:
        """One layer for all states: those that go on, and those that its ablations make."""
        loses = (here >= 0).any(axis=1)
        going = np.unique(state[~loses])
        going = going[going > 0]
        number = np.zeros(len(live) + 1, dtype=np.int64)
        number[going] = np.arange(1, len(going) + 1)
        forks, of_fork = forking.forks(here[loses], state[loses])
        n_new = len(going) + len(forks.parent)
        like = intact.streams[forking.layer + 1]  # may be on another device than the first
        after = like.new_empty((n_new, *like.shape))
        if n_new:
            run = LayerRun(self, forking, forks, going, live, intact, start, after)
            run.whole()
            run.added_to_intact()
            run.without_attention()
            run.directly()
        new_state = number[state]
        new_state[loses] = 1 + len(going) + of_fork
        return new_state, after

    def intact(self, start: int, stop: int) -> Intact:
        """The intact run of some prompts: kept for all where they fit."""
        parameters = self.blocks.model.parameters()
        version = [p._version for p in parameters if not p.is_inference()]
        if self._kept is None or self._kept_for != version:
            self._kept, self._kept_for = None, version
            run = self._run_intact(start, stop)
            if run.n_bytes() * len(self.prompts) / (stop - start) > self.kept_bytes:
                return run
            self._kept = self._run_intact(0, len(self.prompts))
        return self._kept.prompts(start, stop, self.blocks.varies)

    def _run_intact(self, start: int, stop: int) -> Intact:
        parts: list[Intact] = []

        def run(part: slice) -> None:
            rows = torch.arange(start + part.start, start + part.stop)
            parts.append(self.blocks.intact(self.prompts[rows.to(self.prompts.tokens.device)]))

        self.in_parts(stop - start, 1, run)
        return Intact.joined(parts, self.blocks.varies)

    def in_parts(
        self, n_items: int, rows_each: int, run: Callable[[slice], None], tail: bool = False
    ) -> None:
        """Run all items in parts of so many rows as fit, smaller ones when they did not."""
        size = max(1, (self.tail_rows if tail else self.rows) // rows_each)
        used = in_batches(n_items, size, run)
        if used < size and tail:
            self.tail_rows = used * rows_each
        elif used < size:
            self.rows = used * rows_each


@dataclass(frozen=True)
class Forks:
    """States that the ablations of one layer make: the parent of each, and what it loses."""

    parent: Int[np.ndarray, " fork"]
    # A column a unit of the layer, and one that is never lost.
    lost: Bool[np.ndarray, "fork column"]


class Forking:
    """What one layer's ablations make of states, in numbers only."""

    def __init__(self, blocks: Blocks, layer: int, unit_layer: Int[np.ndarray, " unit"]) -> None:
        self.layer = layer
        self.sites = [i for i, site in enumerate(blocks.sites) if site.layer == layer]
        self.heads = next((i for i in self.sites if blocks.sites[i].kind == "head"), None)
        units = np.flatnonzero(unit_layer == layer)
        self._n_units = len(units)
        self._column = np.full(len(unit_layer) + 1, len(units))  # of no unit here: the last
        self._column[units] = np.arange(len(units))
        self._slots = {i: self._column[blocks.sites[i].slot_unit.cpu().numpy()] for i in self.sites}

    def forks(
        self, lost: Lost, parent: Int[np.ndarray, " mask"]
    ) -> tuple[Forks, Int[np.ndarray, " mask"]]:
        """The distinct states, ordered by parent, and which of them each mask becomes."""
        bits = np.zeros((len(lost), self._n_units + 1), dtype=bool)
        row, slot = np.nonzero(lost >= 0)
        bits[row, self._column[lost[row, slot]]] = True
        of_parent = parent.astype(">i4").view(np.uint8).reshape(len(parent), 4)
        keys = np.concatenate([of_parent, np.packbits(bits, axis=1)], axis=1)
        _, first, of_fork = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        return Forks(parent[first], bits[first]), of_fork.ravel()

    def lost_slots(self, forks: Forks, site: int) -> Bool[np.ndarray, "fork slot"]:
        return forks.lost[:, self._slots[site]]


class LayerRun:
    """One layer of one wave: fills ``after`` with the states that go on unchanged, then the forks,
    each on the cheapest way that gives it exactly."""

    def __init__(
        self,
        replay: Replay,
        forking: Forking,
        forks: Forks,
        going: Int[np.ndarray, " going"],
        live: States,
        intact: Intact,
        start: int,
        after: NewStates,
    ) -> None:
        self.replay, self.layer, self.forks = replay, forking.layer, forks
        self.sites, self.heads = forking.sites, forking.heads
        self.going, self.live, self.intact, self.after = going, live, intact, after
        self.n_prompts = live.shape[1]
        self.prompts = start + np.arange(self.n_prompts)
        self.lost = {site: forking.lost_slots(forks, site) for site in forking.sites}
        self._z: Tensor | None = None
        self._choose()

    def _choose(self) -> None:
        """Which forks only add to their parent's output, which only skip attention, and which run
        directly; and which live states have to run whole for that."""
        layer = self.replay.blocks.layers[self.layer]
        parent = self.forks.parent
        adds = np.ones(len(parent), dtype=bool)
        for site, lost in self.lost.items():
            if site not in layer.adds:
                adds &= ~lost.any(axis=1)
        skips = ~adds & (layer.attention is not None and self.heads is not None)
        # A parent that does not go on must save its forks more than its own run costs.
        saved = np.zeros(len(self.live) + 1)
        np.add.at(saved, parent, np.where(adds, 1.0, np.where(skips, _ATTENTION, 0.0)))
        whole = saved > 1
        whole[self.going] = True
        whole[0] = True
        self.adds, self.skips = adds & whole[parent], skips & whole[parent]
        self.whole_states = np.flatnonzero(whole)[1:]

    def whole(self) -> None:
        """Run the live states that go on, or whose output or attention forks share."""
        states = self.whole_states
        adding = np.flatnonzero(self.adds & (self.forks.parent > 0))
        skipping = np.unique(self.forks.parent[self.skips])
        skipping = skipping[skipping > 0]
        number = np.zeros(len(self.live) + 1, dtype=np.int64)
        number[self.going] = np.arange(1, len(self.going) + 1)
        self._z_at = np.zeros(len(self.live) + 1, dtype=np.int64)
        self._z_at[skipping] = np.arange(len(skipping))

        def run(part: slice) -> None:
            here = states[part]
            seen: dict[int, Tensor] = {}
            out = self._step(self._streams(here), len(here), seen=seen)
            goes = np.flatnonzero(number[here])
            self.after[_rows(number[here[goes]] - 1, self.after)] = out[_rows(goes, out)].to(
                self.after
            )
            if len(skipping):
                assert self.heads is not None
                z = seen[self.heads].unflatten(0, out.shape[:2])
                if self._z is None:
                    self._z = z.new_empty((len(skipping), *z.shape[1:]))
                shares = np.flatnonzero(np.isin(here, skipping))
                self._z[_rows(self._z_at[here[shares]], z)] = z[_rows(shares, z)]
            forks = adding[np.isin(self.forks.parent[adding], here)]
            at = np.searchsorted(here, self.forks.parent[forks])
            self._add(forks, at, out, {s: a.unflatten(0, out.shape[:2]) for s, a in seen.items()})

        self.replay.in_parts(len(states), self.n_prompts, run)

    def added_to_intact(self) -> None:
        """Forks of the intact model that only add to its output."""
        forks = np.flatnonzero(self.adds & (self.forks.parent == 0))
        seen = {site: self.intact.seen[site][None] for site in self.sites}
        out = self.intact.streams[self.layer + 1][None]
        self._add(forks, np.zeros(len(forks), dtype=np.int64), out, seen)

    def without_attention(self) -> None:
        """Forks for which the parent's attention holds."""
        forks = np.flatnonzero(self.skips)

        def run(part: slice) -> None:
            here = forks[part]
            parents = self.forks.parent[here]
            assert self.heads is not None
            z = self._gather(
                parents, self.intact.seen[self.heads], self._z, self._z_at[parents]
            ).flatten(0, 1)
            out = self._step(self._streams(parents), len(here), self._replacing(here), z)
            self._put(here, out)

        self.replay.in_parts(len(forks), self.n_prompts, run)

    def directly(self) -> None:
        """The other forks: the whole block."""
        forks = np.flatnonzero(~self.adds & ~self.skips)

        def run(part: slice) -> None:
            here = forks[part]
            stream = self._streams(self.forks.parent[here])
            self._put(here, self._step(stream, len(here), self._replacing(here)))

        self.replay.in_parts(len(forks), self.n_prompts, run)

    def _step(
        self,
        stream: Residual,
        n_states: int,
        replace: Mapping[int, Callable[[Tensor], Tensor]] | None = None,
        z: Tensor | None = None,
        seen: dict[int, Tensor] | None = None,
    ) -> States:
        of_prompt = torch.arange(self.n_prompts, device=stream.device).repeat(n_states)
        arguments = self.intact.calls[self.layer]
        out = self.replay.blocks.step(self.layer, stream, arguments, of_prompt, replace, z, seen)
        return out.unflatten(0, (n_states, self.n_prompts))

    def _streams(self, states: Int[np.ndarray, " state"]) -> Residual:
        return self._gather(states, self.intact.streams[self.layer], self.live, states - 1).flatten(
            0, 1
        )

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
        gathered = live[_on(np.maximum(at, 0), live)]
        gathered[_on(np.flatnonzero(states == 0), live)] = intact
        return gathered

    def _put(
        self, forks: Int[np.ndarray, " fork"], out: Float[Tensor, "fork prompt pos d_model"]
    ) -> None:
        self.after[_rows(len(self.going) + forks, self.after)] = out.to(self.after)

    def _replacing(self, forks: Int[np.ndarray, " fork"]) -> dict[int, Callable[[Tensor], Tensor]]:
        replace = {}
        for site in self.sites:
            lost = self.lost[site][forks]
            if lost.any():
                replace[site] = self._mixing(site, lost)
        return replace

    def _mixing(self, site: int, lost: Bool[np.ndarray, "fork slot"]) -> Callable[[Tensor], Tensor]:
        reference = self.replay.references[site]
        keep = _on(np.repeat(~lost, self.n_prompts, axis=0), reference)
        return replacing(keep, reference, _on(np.tile(self.prompts, len(lost)), reference))

    def _reference(self, site: int) -> Float[Tensor, "prompt_or_1 pos_or_1 width"]:
        reference = self.replay.references[site]
        return reference if len(reference) == 1 else reference[_on(self.prompts, reference)]

    def _add(
        self,
        forks: Int[np.ndarray, " fork"],
        at: Int[np.ndarray, " fork"],
        parents: Float[Tensor, "parent prompt pos d_model"],
        seen: dict[int, Float[Tensor, "parent prompt pos width"]],
    ) -> None:
        """The parents' outputs and, through the weights, the changes of what is ablated."""
        weights = self.replay.blocks.layers[self.layer].adds

        def run(part: slice) -> None:
            here, parent = forks[part], _on(at[part], parents)
            out = parents[parent]
            for site in self.sites:
                lost = self.lost[site][here]
                if not lost.any():
                    continue
                act, weight = seen[site], weights[site].to(out)
                most = int(lost.sum(axis=1).max())
                if lost.shape[1] == act.shape[-1] and most <= _FEW_SLOTS:
                    out += self._few(site, lost, most, act, parent, weight)
                    continue
                whole = act[parent].flatten(0, 1)
                change = self._mixing(site, lost)(whole) - whole
                out += (change @ weight).unflatten(0, out.shape[:2])
            self._put(here, out)

        self.replay.in_parts(len(forks), self.n_prompts, run)

    def _few(
        self,
        site: int,
        lost: Bool[np.ndarray, "fork slot"],
        most: int,
        act: Float[Tensor, "parent prompt pos width"],
        parent: Int[Tensor, " fork"],
        weight: Float[Tensor, "width d_model"],
    ) -> States:
        """A few neurons of each fork: their columns of the weight times what changes."""
        slots = np.argsort(~lost, axis=1, kind="stable")[:, :most]
        real = torch.from_numpy(np.take_along_axis(lost, slots, axis=1)).to(act)
        slot = _on(slots, act)
        now = act[parent[:, None], :, :, slot]  # [fork k prompt pos]
        reference = self._reference(site).to(act)[:, :, slot].permute(2, 3, 0, 1)
        change = (reference - now) * real[:, :, None, None]
        return torch.einsum("fkpt,fkd->fptd", change, weight[slot])


def _on(numbers: Shaped[np.ndarray, "..."], like: Tensor) -> Shaped[Tensor, "..."]:
    """The same on a tensor's device, without waiting for it."""
    there = torch.from_numpy(numbers)
    if like.device.type != "cuda":
        return there.to(like.device)
    return there.pin_memory().to(like.device, non_blocking=True)


def _rows(numbers: Int[np.ndarray, " row"], like: Tensor) -> Int[Tensor, " row"] | slice:
    """The same, as a slice where they follow one another: a view, not a copy."""
    n = len(numbers)
    if n and numbers[-1] - numbers[0] == n - 1 and (np.diff(numbers) == 1).all():
        return slice(int(numbers[0]), int(numbers[-1]) + 1)
    return _on(numbers, like)
