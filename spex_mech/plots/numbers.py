"""The numbers of the maps: small frozen data, apart from any drawing.

Every picture (matplotlib, plotly, the report) is drawn from what these functions return.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.arguments import whole
from spex_mech.results.interactions import Interactions
from spex_mech.units import Blocks, Units

_MOST_HEADS = 40  # of a folded map
STRONG = 0.25  # of the largest value of a map: what has its number in its cell


@dataclass(frozen=True, eq=False)
class MapNumbers:
    """What a map shows: ``values[row column]``, the names and layers of both (-1: of none, else a
    number among ``blocks``), where a new layer starts, and the row that each unit is in (-1: in
    none). A cell is ``pale`` where none of its pairs is significant."""

    values: Float[np.ndarray, "row column"]
    pale: Bool[np.ndarray, "row column"]
    names: list[str]
    layers: Int[np.ndarray, " row"]
    borders: list[int]
    by: str
    row_of: Int[np.ndarray, " unit"]
    blocks: Blocks

    @property
    def is_unit(self) -> Bool[np.ndarray, " row"]:
        """True for the rows of one unit, which has no pair with itself."""
        return np.full(len(self.names), self.by == "unit")


def map_numbers(found: Interactions, by: str = "unit", most: int = 64) -> MapNumbers:
    """The numbers of a map.

    Args:
        by: "unit": the pair interactions among the ``most`` units with the largest sum of squared
            interactions, in layer order, NaN where nothing was measured. "layer": the root of the
            summed squares of all pairs between two layers (the energy), signed by the sum; NaN
            between layers without a measured pair.

    Raises:
        ValueError: no pairs were measured, units carry no layer, ``by`` is another word, or
            ``most`` is under 2.
    """
    if by not in ("unit", "layer"):
        raise ValueError(f"by is {by!r}; choose 'unit' or 'layer'")
    whole("most", most, 2)
    pairs, means, _ = pairs_of(found)
    if by == "layer":
        blocks = _blocks_of(found)
        layers, names = blocks.of_unit, blocks.names
        values = signed_energy(layers[pairs], means, len(names))
        pale = pale_cells(layers, found, len(names))
        rows = np.arange(len(names))
        return MapNumbers(values, pale, names, rows, [], "layer", layers, blocks)
    blocks = found.unit_table.blocks
    layers = blocks.of_unit
    strength = np.zeros(len(found.labels))
    np.add.at(strength, pairs[:, 0], means**2)
    np.add.at(strength, pairs[:, 1], means**2)
    shown = np.argsort(-strength, kind="stable")[:most]
    shown = shown[np.lexsort((shown, layers[shown]))]
    row_of = np.full(len(found.labels), -1)
    row_of[shown] = np.arange(len(shown))
    values = signed_energy(row_of[pairs], means, len(shown))  # of one pair: its value
    names = [found.labels[u] for u in shown]
    borders = np.flatnonzero(np.diff(layers[shown])) + 1
    pale = pale_cells(row_of, found, len(shown))
    return MapNumbers(values, pale, names, layers[shown], borders.tolist(), "unit", row_of, blocks)


@dataclass(frozen=True, eq=False)
class LayerEnergy:
    """How the energy (summed squares of pair interactions) lies among the layers.

    ``energy`` is symmetric: between two layers stands the energy of all pairs that join them, and
    on the diagonal that within a layer. ``across`` gives half of the energy between two layers to
    each of them, so that ``within`` and ``across`` together add up to the total. ``by_error`` is
    what errors over the prompts alone would give (summed squares of the standard errors; NaN for
    one prompt): an energy near it says nothing. ``row_of`` is the layer of each unit.
    """

    names: list[str]
    energy: Float[np.ndarray, "layer layer"]
    n_pairs: Int[np.ndarray, "layer layer"]
    within: Float[np.ndarray, " layer"]
    across: Float[np.ndarray, " layer"]
    by_error: float
    row_of: Int[np.ndarray, " unit"]

    @property
    def total(self) -> float:
        """The energy of all pairs measured."""
        return float(self.within.sum() + self.across.sum())

    @property
    def share_within(self) -> float:
        """The part of the energy that lies within layers (NaN where there is no energy)."""
        return float(self.within.sum()) / self.total if self.total else float("nan")


def layer_energy(found: Interactions) -> LayerEnergy:
    """Energy within and across layers, of the pairs that were measured (Butler et al. 2025,
    "ProxySPEX", arXiv 2505.17495, the figure on attention heads).

    Raises:
        ValueError: no pairs were measured, or units carry no layer.
    """
    pairs, means, errors = pairs_of(found)
    blocks = _blocks_of(found)
    layers, n_layers = blocks.of_unit, len(blocks.names)
    energy, n_pairs = np.zeros((n_layers, n_layers)), np.zeros((n_layers, n_layers), dtype=int)
    low, high = np.sort(layers[pairs], axis=1).T
    np.add.at(energy, (low, high), means**2)
    np.add.at(n_pairs, (low, high), 1)
    within, between = energy.diagonal().copy(), np.triu(energy, 1)
    return LayerEnergy(
        names=blocks.names,
        energy=energy + between.T,
        n_pairs=n_pairs + np.triu(n_pairs, 1).T,
        within=within,
        across=(between.sum(axis=0) + between.sum(axis=1)) / 2,
        by_error=float((errors**2).sum()),
        row_of=layers,
    )


@dataclass(frozen=True, eq=False)
class Folded:
    """A map in which each layer's weak neurons are one block.

    ``values`` is NaN where no pair was measured. A cell of two units is their interaction; one of a
    block is the root of the summed squares of its pairs, signed by their sum. ``sizes`` says how
    many units a row stands for, ``row_of`` the row that each unit is in (-1: in none), ``kept`` the
    share of the neurons' energy that is in rows of their own. A cell is ``pale`` where none of its
    pairs is significant.
    """

    values: Float[np.ndarray, "row row"]
    pale: Bool[np.ndarray, "row row"]
    names: list[str]
    sizes: Int[np.ndarray, " row"]
    is_block: Bool[np.ndarray, " row"]
    layers: Int[np.ndarray, " row"]
    borders: list[int]
    row_of: Int[np.ndarray, " unit"]
    kept: float
    blocks: Blocks


def folded_numbers(found: Interactions, share: float = 0.9, most: int = 24) -> Folded:
    """Heads, and the fewest neurons that hold ``share`` of the neurons' energy (at most ``most``);
    the other neurons of a layer are one block.

    A neuron's energy is the summed squares of its pairs. Heads beyond the 40 strongest are
    left out.

    Raises:
        ValueError: there are no pairs or no neurons, ``share`` is not in 0 to 1, or ``most`` < 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; give a part of the energy from 0 to 1")
    whole("most", most, 1)
    pairs, means, _ = pairs_of(found)
    blocks = _blocks_of(found)
    layers = blocks.of_unit
    is_neuron = np.array(found.unit_table.kinds) == "neuron"
    if not is_neuron.any():
        raise ValueError("there is no neuron to fold: plot_map shows heads")
    strength = np.zeros(len(found.labels))
    for column in pairs.T:
        np.add.at(strength, column, means**2)
    single, neurons, kept = _of_their_own(strength, is_neuron, share, most)
    rest = np.setdiff1d(np.flatnonzero(is_neuron), neurons)
    rows = [(int(layers[unit]), 0, int(unit)) for unit in single]
    rows = sorted(rows + [(int(layer), 1, -1) for layer in np.unique(layers[rest])])
    row_of = np.full(len(found.labels), -1)
    names, sizes = [], []
    for row, (layer, block, unit) in enumerate(rows):
        members = rest[layers[rest] == layer] if block else np.array([unit])
        row_of[members] = row
        names.append(f"{blocks.names[layer]}, {len(members)} N" if block else found.labels[unit])
        sizes.append(len(members))
    of_layer = np.array([layer for layer, _, _ in rows])
    return Folded(
        values=signed_energy(row_of[pairs], means, len(rows)),
        pale=pale_cells(row_of, found, len(rows)),
        names=names,
        sizes=np.array(sizes),
        is_block=np.array([bool(block) for _, block, _ in rows]),
        layers=of_layer,
        borders=(np.flatnonzero(np.diff(of_layer)) + 1).tolist(),
        row_of=row_of,
        kept=kept,
        blocks=blocks,
    )


def _of_their_own(
    strength: Float[np.ndarray, " unit"],
    is_neuron: Bool[np.ndarray, " unit"],
    share: float,
    most: int,
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " neuron"], float]:
    """The units that get rows of their own, the neurons among them, and the share of the neurons'
    energy that these hold."""
    order = np.argsort(-strength, kind="stable")
    neurons, others = order[is_neuron[order]], order[~is_neuron[order]][:_MOST_HEADS]
    grown = np.cumsum(strength[neurons])
    n_kept = int(np.searchsorted(grown, share * grown[-1] * (1 - 1e-12))) + 1
    neurons = neurons[: min(n_kept, most)]
    kept = float(strength[neurons].sum() / grown[-1]) if grown[-1] else 1.0
    return np.sort(np.concatenate([others, neurons])), neurons, kept


def signed_energy(
    places: Int[np.ndarray, "pair 2"], means: Float[np.ndarray, " pair"], n: int
) -> Float[np.ndarray, "row row"]:
    """Root of the summed squares of the pairs at each place, signed by the sum; NaN without any."""
    inside = (places >= 0).all(axis=1)
    low, high = np.sort(places[inside], axis=1).T
    energy, total, count = np.zeros((3, n, n))
    np.add.at(energy, (low, high), means[inside] ** 2)
    np.add.at(total, (low, high), means[inside])
    np.add.at(count, (low, high), 1)
    values = np.where(count > 0, np.sqrt(energy) * np.where(total < 0, -1, 1), np.nan)
    return np.where(np.tri(n, k=-1, dtype=bool), values.T, values)


def pale(found: Interactions) -> Bool[np.ndarray, " interaction"]:
    """True for what is shown pale: what lies under the noise floor, and what is not significant
    over the prompts, as nothing is where all are one cluster. Of a single prompt it is not known
    what is significant."""
    return found.is_noise if found.values.shape[1] < 2 else ~found.is_significant


def pale_cells(
    row_of: Int[np.ndarray, " unit"],
    found: Interactions,
    n: int,
    shown: Bool[np.ndarray, " pair"] | None = None,
) -> Bool[np.ndarray, "row row"]:
    """True for the cells of a map of which no pair is significant; of all pairs, or of those
    ``shown``."""
    cells = np.ones((n, n), dtype=bool)
    is_pair = found.order == 2
    places = row_of[found.units[is_pair][:, :2]]
    clear = (places >= 0).all(axis=1) & ~pale(found)[is_pair]
    a, b = places[clear if shown is None else clear & shown].T
    cells[a, b] = cells[b, a] = False
    return cells


def is_marked(
    values: Float[np.ndarray, "row row"], pale: Bool[np.ndarray, "row row"], n_prompts: int
) -> Bool[np.ndarray, "row row"]:
    """True for the cells of a map that bear their sign: over several prompts what is significant,
    of one prompt what is strong, which is a quarter of the largest and more."""
    largest = np.nan_to_num(abs(values)).max(initial=0.0) or 1.0
    return (abs(values) > (0.0 if n_prompts > 1 else STRONG * largest)) & ~pale


def pairs_of(
    found: Interactions,
) -> tuple[Int[np.ndarray, "pair 2"], Float[np.ndarray, " pair"], Float[np.ndarray, " pair"]]:
    """The pairs' units, means and standard errors."""
    rows = found.order == 2
    if not rows.any():
        raise ValueError("there is no pair to draw: no interaction of order 2 was measured")
    return found.units[rows][:, :2], found.mean[rows], found.stderr[rows]


@dataclass(frozen=True)
class Mark:
    """The name of a layer, or in a model of several stacks of a stack, over the columns ``start``
    to ``stop`` of a map; ``is_stack`` where it stands over the layers' own."""

    start: int
    stop: int
    text: str
    is_stack: bool = False


def layer_marks(numbers: MapNumbers | Folded, roomy: int, letters: float) -> list[Mark]:
    """What stands over a map: of each layer ``layer 3``, or its number where it has fewer than
    ``roomy`` columns; where there are several stacks, numbers alone, and over them the name of each
    stack, cut to the ``letters`` that a column has room for.
    """
    if not numbers.borders:
        return []
    blocks, n = numbers.blocks, len(numbers.names)
    stacks = [blocks.stacks[block] if block >= 0 else "" for block in numbers.layers.tolist()]
    marks = []
    for start, stop in pairwise([0, *numbers.borders, n]):
        if (block := int(numbers.layers[start])) >= 0:
            is_long = stop - start >= roomy and not stacks[start]
            number = f"{blocks.numbers[block]}" if blocks.numbers[block] >= 0 else ""
            marks.append(Mark(start, stop, blocks.said(block) if is_long else number))
    edges = [0, *(at for at in range(1, n) if stacks[at] != stacks[at - 1]), n]
    for start, stop in pairwise(edges if any(stacks) else []):
        most = int(letters * (stop - start))
        name = stacks[start]
        text = name if len(name) <= most else f"{name[: max(most - 1, 1)]}\N{HORIZONTAL ELLIPSIS}"
        marks += [Mark(start, stop, text, is_stack=True)] if name else []
    return marks


def _blocks_of(found: Interactions) -> Blocks:
    blocks = found.unit_table.blocks
    layers = blocks.of_unit
    if (layers < 0).any():
        unit = found.unit_table[int(np.flatnonzero(layers < 0)[0])]
        if unit.kind == "group" and len(unit.slots) > 1:
            raise ValueError(
                f"the group {unit.label!r} lies in no single layer, and has no place in a map by "
                "layer: draw plot_map, or search without it"
            )
        raise ValueError(
            f"the unit {unit.label!r} has no layer: a map by layer needs units of a model, such as "
            "L9H6 or L3N1024"
        )
    return blocks


def layer_of(label: str) -> int:
    """The layer in a label such as L9H6; -1 where there is none. For what has no table of units."""
    return int(Units.of_labels([label]).layers[0])


def metric_unit(found: Interactions) -> str:
    """What the values are counted in."""
    units = {
        "prob_diff": "difference of probabilities",
        "log_prob": "nats",
        "loss": "nats",
        "kl": "nats",
        "logit_diff": "logit difference",
    }
    return units.get(found.about.get("metric", ""), "change of the metric")
