"""What a replay does, decided before it does it: numbers only, no model.

Masks are carried through the layers as **states**: those that ablate the same units so far are one
state. State 0 is the intact model, which was run once; state ``s`` is row ``s - 1`` of the streams
that are carried along. In one layer (:func:`plan_layer`)

1. states that lose nothing here in some mask *go on*;
2. masks that lose units here make *branches*: the distinct pairs of a state and what it loses;
3. each branch goes the cheapest way that gives it exactly. It only **adds** to its parent's output,
   through a weight, where all that it loses does so; else it runs the block **without attention**,
   where the layer's attention can be left out; else it **runs** the block.
4. A parent that does not go on runs only if it saves its branches more than its own run costs.

After the layer come the states that went on, in their order, then the branches.

>>> facts = LayerFacts(units=(0, 1), columns={0: np.array([0, 1])}, heads=0, adds=frozenset(),
...                    skips_attention=True)
>>> plan = plan_layer(facts, np.array([[0, -1], [0, 1], [-1, -1]]), np.array([0, 0, 0]), n_live=0)
>>> plan.n_after, plan.state.tolist(), plan.skipping.parent.tolist()
(2, [1, 2, 0], [0, 0])
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

_SORTED_BY = 16  # units of a mask; masks of more share little
_ATTENTION = 0.3  # of a block's work, which a branch saves that skips it
_MASKS_FIRST = 512  # that many masks should share a wave before prompts do

Ablated = Int[np.ndarray, "mask slot"]  # the units, or parts, that a mask ablates, padded with -1


@dataclass(frozen=True)
class Parts:
    """What of each unit lies in which layer: a unit of one layer is one part, and one that spans
    several layers is a part in each. A plan goes layer by layer, and knows parts alone.

    Args:
        unit: of each part, ascending.
        layer: of each part.

    >>> parts = Parts.of_layers([[0], [0, 2], [2]])
    >>> parts.of(np.array([[1, 2], [0, -1]])).tolist()
    [[1, 2, 3], [0, -1, -1]]
    """

    unit: Int[np.ndarray, " part"]
    layer: Int[np.ndarray, " part"]
    n_units: int

    @staticmethod
    def of_layers(layers: Sequence[Sequence[int]]) -> "Parts":
        """From the layers of each unit, ascending."""
        unit = np.repeat(np.arange(len(layers)), [len(own) for own in layers])
        return Parts(unit, np.array([layer for own in layers for layer in own]), len(layers))

    def of(self, ablated: Ablated) -> Int[np.ndarray, "mask part"]:
        """The parts of the units that each mask ablates, padded with -1 on the right."""
        if len(self.unit) == self.n_units:  # each unit is one part, and has its number
            return ablated
        place = np.arange(len(self.unit)) - np.searchsorted(self.unit, self.unit)
        table = np.full((self.n_units + 1, int(place.max()) + 1), -1)  # -1 finds the last
        table[self.unit, place] = np.arange(len(self.unit))
        found = table[ablated].reshape(len(ablated), -1)
        found = np.sort(np.where(found < 0, len(self.unit), found), axis=1)
        most = int((found < len(self.unit)).sum(axis=1).max(initial=0))
        return np.where(found == len(self.unit), -1, found)[:, :most]


@dataclass(frozen=True)
class LayerFacts:
    """What a plan must know of one layer.

    Args:
        units: the parts of units in this layer.
        columns: of each site here, which column of a branch's ``ablated`` each slot has: the place
            of its part in ``units``; one more than the last where it is in none.
        heads: the site of the heads.
        adds: sites whose change goes to the block's output through a weight alone.
        skips_attention: whether the block can run on given outputs of its heads.
    """

    units: tuple[int, ...]
    columns: Mapping[int, Int[np.ndarray, " slot"]]
    heads: int | None
    adds: frozenset[int]
    skips_attention: bool


@dataclass(frozen=True)
class Branches:
    """States that come out of a layer's ablations.

    Args:
        parent: the state before the layer.
        to: the row of the streams after the layer.
        ablated: the slots that it loses, of each site.
    """

    parent: Int[np.ndarray, " branch"]
    to: Int[np.ndarray, " branch"]
    ablated: Mapping[int, Bool[np.ndarray, "branch slot"]]

    def __len__(self) -> int:
        return len(self.parent)

    def at(self, which: Int[np.ndarray, " some"] | slice) -> "Branches":
        """Some of them."""
        ablated = {site: slots[which] for site, slots in self.ablated.items()}
        return Branches(self.parent[which], self.to[which], ablated)


@dataclass(frozen=True)
class LayerPlan:
    """One layer of one wave.

    Args:
        n_after: states after the layer, but for the intact one.
        state: of each mask after the layer.
        whole: states (from 1) whose block runs as it is, ascending.
        whole_to: the row of each of them in the streams after the layer; -1 where it does not go
            on.
        z_row: the row of each live state among those whose heads' outputs are kept; -1: not kept.
        n_z: how many are kept.
        adding, skipping, running: the branches on each of the three ways.
    """

    n_after: int
    state: Int[np.ndarray, " mask"]
    whole: Int[np.ndarray, " whole"]
    whole_to: Int[np.ndarray, " whole"]
    z_row: Int[np.ndarray, " state"]
    n_z: int
    adding: Branches
    skipping: Branches
    running: Branches


@dataclass(frozen=True)
class Order:
    """The order in which masks share the most, and what they ablate in the order of the layers."""

    parts: Parts
    n_layers: int

    def sorted(
        self, ablated: Ablated
    ) -> tuple[Int[np.ndarray, " mask"], Int[np.ndarray, "mask part"]]:
        """Which mask comes when, and the parts that they ablate, in that order."""
        in_order = np.argsort(self.parts.layer, kind="stable")
        rank = np.append(np.argsort(in_order), len(in_order))  # -1 finds the last
        ranks = np.sort(rank[self.parts.of(ablated)], axis=1)
        keys = ranks[:, :_SORTED_BY].T[::-1]
        order = np.lexsort(keys) if len(keys) else np.arange(len(ablated))
        return order, np.append(in_order, -1)[ranks[order]]

    def layers_of(self, parts: Ablated) -> Int[np.ndarray, "mask slot"]:
        """The layer of each part; of none: the number of layers."""
        return np.append(self.parts.layer, self.n_layers)[parts]

    def first_layers(self, ablated: Bool[np.ndarray, "mask unit"]) -> Int[np.ndarray, " mask"]:
        """The first layer in which each mask loses a unit; of none: the number of layers."""
        first = np.full(self.parts.n_units, self.n_layers)
        np.minimum.at(first, self.parts.unit, self.parts.layer)
        layers = np.where(ablated, first, self.n_layers)
        return layers.min(axis=1, initial=self.n_layers)


def wave_shape(n_masks: int, n_prompts: int, most_rows: int, block_rows: int) -> tuple[int, int]:
    """How many masks and how many prompts are carried together.

    Args:
        most_rows: how many rows fit.
        block_rows: how many a call of a block takes.
    """
    for_masks = most_rows // max(1, min(n_masks, _MASKS_FIRST))
    at_once = min(n_prompts, block_rows, max(1, for_masks))
    at_once = -(-n_prompts // -(-n_prompts // at_once))  # groups of one size
    return max(1, most_rows // at_once), at_once


def plan_layer(
    facts: LayerFacts, here: Ablated, state: Int[np.ndarray, " mask"], n_live: int
) -> LayerPlan:
    """See the module's text.

    Args:
        here: the parts in this layer that each mask ablates, padded with -1.
        state: of each mask before the layer.
        n_live: how many states there are, but for the intact one.
    """
    loses = (here >= 0).any(axis=1)
    going = np.unique(state[~loses])
    going = going[going > 0]
    parent, lost, branch_of = _branches(facts, here[loses], state[loses])
    to = len(going) + np.arange(len(parent))
    after = np.zeros(n_live + 1, dtype=np.int64)
    after[going] = np.arange(1, len(going) + 1)
    new_state = after[state]
    new_state[loses] = 1 + len(going) + branch_of

    ablated = {site: lost[:, columns] for site, columns in facts.columns.items()}
    adds, skips, runs_whole = _ways(facts, parent, ablated, going, n_live)
    branches = Branches(parent, to, ablated)
    sharing = np.unique(parent[skips])
    sharing = sharing[sharing > 0]
    z_row = np.full(n_live + 1, -1)
    z_row[sharing] = np.arange(len(sharing))
    whole = np.flatnonzero(runs_whole)[1:]
    return LayerPlan(
        n_after=len(going) + len(parent),
        state=new_state,
        whole=whole,
        whole_to=after[whole] - 1,
        z_row=z_row,
        n_z=len(sharing),
        adding=branches.at(np.flatnonzero(adds)),
        skipping=branches.at(np.flatnonzero(skips)),
        running=branches.at(np.flatnonzero(~adds & ~skips)),
    )


def _branches(
    facts: LayerFacts, ablated: Ablated, parent: Int[np.ndarray, " mask"]
) -> tuple[Int[np.ndarray, " branch"], Bool[np.ndarray, "branch column"], Int[np.ndarray, " mask"]]:
    """The distinct pairs of a parent and what it loses, ordered by parent; the last column is of
    no unit. And which of them each mask becomes."""
    most = max(facts.units, default=-1)
    column = np.full(most + 2, len(facts.units))
    column[list(facts.units)] = np.arange(len(facts.units))
    bits = np.zeros((len(ablated), len(facts.units) + 1), dtype=bool)
    row, slot = np.nonzero(ablated >= 0)
    bits[row, column[ablated[row, slot]]] = True
    of_parent = parent.astype(">i4").view(np.uint8).reshape(len(parent), 4)
    keys = np.concatenate([of_parent, np.packbits(bits, axis=1)], axis=1)
    _, first, branch_of = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return parent[first], bits[first], branch_of.ravel()


def _ways(
    facts: LayerFacts,
    parent: Int[np.ndarray, " branch"],
    ablated: Mapping[int, Bool[np.ndarray, "branch slot"]],
    going: Int[np.ndarray, " going"],
    n_live: int,
) -> tuple[
    Bool[np.ndarray, " branch"], Bool[np.ndarray, " branch"], Bool[np.ndarray, " live_and_intact"]
]:
    """Which branches add, which skip attention, and which states run whole for that."""
    adds = np.ones(len(parent), dtype=bool)
    for site, lost in ablated.items():
        if site not in facts.adds:
            adds &= ~lost.any(axis=1)
    skips = ~adds & (facts.skips_attention and facts.heads is not None)
    saved = np.zeros(n_live + 1)
    np.add.at(saved, parent, np.where(adds, 1.0, np.where(skips, _ATTENTION, 0.0)))
    whole = saved > 1
    whole[going] = True
    whole[0] = True  # the intact model was run
    return adds & whole[parent], skips & whole[parent], whole
