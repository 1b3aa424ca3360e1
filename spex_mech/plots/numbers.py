"""The numbers of the maps: small frozen data, apart from any drawing.

Every picture (matplotlib, plotly, the report) is drawn from what these functions return.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, islice
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.results.interactions import Interactions
from spex_mech.results.statistics import standard_errors

_MOST_HEADS = 40  # of a folded map


@dataclass(frozen=True, eq=False)
class MapNumbers:
    """What a map shows: ``values[row column]``, the names of both, where a new layer starts, and
    the row that each unit is in (-1: in none)."""

    values: Float[np.ndarray, "row column"]
    names: list[str]
    borders: list[int]
    by: Literal["unit", "layer"]
    row_of: Int[np.ndarray, " unit"]


def map_numbers(
    found: Interactions, by: Literal["unit", "layer"] = "unit", most: int = 64
) -> MapNumbers:
    """The numbers of a map.

    Args:
        by: "unit": the pair interactions among the ``most`` units with the largest sum of squared
            interactions, in layer order, NaN where nothing was measured. "layer": the root of the
            summed squares of all pairs between two layers (the energy), signed by the sum; NaN
            between layers without a measured pair.

    Raises:
        ValueError: no pairs were measured, units carry no layer, or ``most`` is under 2.
    """
    if most < 2:
        raise ValueError(f"most is {most}; a map needs at least 2 units")
    pairs, means, _ = _pairs(found)
    if by == "layer":
        layers = _layers_of(found.labels)
        n_layers = int(layers.max()) + 1
        values = _signed_energy(layers[pairs], means, n_layers)
        return MapNumbers(values, [f"L{layer}" for layer in range(n_layers)], [], "layer", layers)
    layers = np.array([layer_of(label) for label in found.labels])
    strength = np.zeros(len(found.labels))
    np.add.at(strength, pairs[:, 0], means**2)
    np.add.at(strength, pairs[:, 1], means**2)
    shown = np.argsort(-strength, kind="stable")[:most]
    shown = shown[np.lexsort((shown, layers[shown]))]
    row_of = np.full(len(found.labels), -1)
    row_of[shown] = np.arange(len(shown))
    values = _signed_energy(row_of[pairs], means, len(shown))  # of one pair: its value
    names = [found.labels[u] for u in shown]
    borders = np.flatnonzero(np.diff(layers[shown])) + 1
    return MapNumbers(values, names, borders.tolist(), "unit", row_of)


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
    pairs, means, errors = _pairs(found)
    layers = _layers_of(found.labels)
    n_layers = int(layers.max()) + 1
    energy, n_pairs = np.zeros((n_layers, n_layers)), np.zeros((n_layers, n_layers), dtype=int)
    low, high = np.sort(layers[pairs], axis=1).T
    np.add.at(energy, (low, high), means**2)
    np.add.at(n_pairs, (low, high), 1)
    within, between = energy.diagonal().copy(), np.triu(energy, 1)
    return LayerEnergy(
        names=[f"L{layer}" for layer in range(n_layers)],
        energy=energy + between.T,
        n_pairs=n_pairs + np.triu(n_pairs, 1).T,
        within=within,
        across=(between.sum(axis=0) + between.sum(axis=1)) / 2,
        by_error=float((errors**2).sum()),
        row_of=layers,
    )


@dataclass(frozen=True)
class Node:
    """A unit of a network: where it stands, and its main effect (NaN where not measured)."""

    label: str
    layer: int
    x: float
    y: float
    main_effect: float
    stderr: float


@dataclass(frozen=True)
class Edge:
    """A pair of a network, by its units' labels."""

    a: str
    b: str
    value: float
    stderr: float
    q_value: float
    reading: str


@dataclass(frozen=True)
class Network:
    """Units and the strongest pairs among them, strongest first."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]


def network_numbers(found: Interactions, k: int = 20) -> Network:
    """The k strongest pairs above the noise floor (under it, if there are no others), and their
    units, placed as in :func:`network_positions`.

    Raises:
        ValueError: no pairs were measured.
    """
    top = strongest_pairs(found, k)
    errors = standard_errors(found.main_effects_by_prompt)
    nodes = []
    for label, (x, y) in network_positions(found, k).items():
        unit = found.labels.index(label)
        main, error = float(found.main_effects[unit]), float(errors[unit])
        nodes.append(Node(label, layer_of(label), x, y, main, error))
    return Network(tuple(nodes), tuple(edges_of(top)))


def edges_of(pairs: Interactions) -> list[Edge]:
    """Each of the pairs by its labels, in their order."""
    rows = zip(pairs.mean, pairs.stderr, pairs.q_value, pairs.readings, strict=True)
    return [
        Edge(a, b, float(value), float(error), float(q), reading)
        for (a, b), (value, error, q, reading) in zip(pairs.names, rows, strict=True)
    ]


def strongest_pairs(found: Interactions, k: int) -> Interactions:
    """The k strongest pairs, strongest first, without those under the noise floor, unless there
    are no others.

    Raises:
        ValueError: no pairs were measured.
    """
    _pairs(found)
    top = found.top(k, order=2)
    n_clear = int((~top.is_noise).sum())
    return top.top(n_clear or k)


def pair_filters(pairs: Interactions) -> dict[str, Bool[np.ndarray, " pair"]]:
    """Which pairs each choice of an interactive picture shows: all, those of each reading, those
    above the noise floor, those with a q-value of 0.05 at most, and, where there are units of
    several kinds, those of each two kinds. Choices that would show nothing are left out."""
    readings = np.array(pairs.readings, dtype=object)
    chosen = {"all pairs": np.ones(len(pairs), dtype=bool)}
    chosen |= {reading: readings == reading for reading in sorted({*readings} - {"noise"})}
    chosen["above the noise floor"] = ~pairs.is_noise
    chosen["q at most 0.05"] = pairs.q_value <= 0.05
    kinds = sorted({_kind_of(label) for label in pairs.labels})
    if len(kinds) > 1:
        of_unit = np.array([kinds.index(_kind_of(label)) for label in pairs.labels])
        of_pair = np.sort(of_unit[pairs.units[:, :2]], axis=1)
        for a, b in combinations_with_replacement(range(len(kinds)), 2):
            chosen[f"{kinds[a]} x {kinds[b]}"] = (of_pair == (a, b)).all(axis=1)
    return {name: rows for name, rows in chosen.items() if rows.any()}


def layer_filters(pairs: Interactions) -> dict[str, Bool[np.ndarray, " pair"]]:
    """Which pairs join which two layers (``L0 x L2``); nothing but all of them where units have no
    layers or all pairs join the same two."""
    chosen = {"all layers": np.ones(len(pairs), dtype=bool)}
    of_unit = np.array([layer_of(label) for label in pairs.labels])
    layers = np.sort(of_unit[pairs.units[:, :2]], axis=1)
    both = np.unique(layers, axis=0)
    if (layers < 0).any() or len(both) < 2:
        return chosen
    return chosen | {f"L{a} x L{b}": (layers == (a, b)).all(axis=1) for a, b in both.tolist()}


def filtered_values(
    numbers: "MapNumbers | Folded", pairs: Interactions, shown: Bool[np.ndarray, " pair"]
) -> Float[np.ndarray, "row row"]:
    """A map's values by some of the pairs alone; NaN where there are none of them."""
    places = numbers.row_of[pairs.units[shown][:, :2]]
    return _signed_energy(places, pairs.mean[shown], len(numbers.names))


def pairs_by_cell(
    row_of: Int[np.ndarray, " unit"], pairs: Interactions, most: int = 8
) -> dict[tuple[int, int], tuple[list[Edge], int]]:
    """Of every cell of a map (row and column, both ways round): its strongest pairs, strongest
    first, ``most`` at most, and how many pairs it has."""
    ranked = pairs.top(len(pairs))
    places = np.sort(row_of[ranked.units[:, :2]], axis=1)
    inside = np.flatnonzero(places[:, 0] >= 0)
    found, cell_of, counts = np.unique(
        places[inside], axis=0, return_inverse=True, return_counts=True
    )
    by_cell = inside[np.argsort(cell_of.ravel(), kind="stable")]
    starts = np.concatenate([[0], np.cumsum(counts)])
    shown = [
        by_cell[start : start + min(most, n)] for start, n in zip(starts, counts, strict=False)
    ]
    edges = iter(edges_of(ranked.take(np.concatenate([*shown, np.empty(0, dtype=int)]))))
    cells = {}
    for (row, column), rows, count in zip(found.tolist(), shown, counts.tolist(), strict=True):
        cells[row, column] = cells[column, row] = list(islice(edges, len(rows))), count
    return cells


def edge_curve(start: Node, end: Node) -> tuple[tuple[float, float], ...]:
    """Start, control point and end of the curve that joins two nodes: bent, so that lines between
    three nodes in a row, or within a layer, stay apart."""
    bend = 0.35 if start.x == end.x else 0.08
    dx, dy = end.x - start.x, end.y - start.y
    control = (start.x + end.x) / 2 + bend * dy, (start.y + end.y) / 2 - bend * dx
    return (start.x, start.y), control, (end.x, end.y)


@dataclass(frozen=True, eq=False)
class Folded:
    """A map in which each layer's weak neurons are one block.

    ``values`` is NaN where no pair was measured. A cell of two units is their interaction; one of a
    block is the root of the summed squares of its pairs, signed by their sum. ``sizes`` says how
    many units a row stands for, ``row_of`` the row that each unit is in (-1: in none), ``kept`` the
    share of the neurons' energy that is in rows of their own.
    """

    values: Float[np.ndarray, "row row"]
    names: list[str]
    sizes: Int[np.ndarray, " row"]
    is_block: Bool[np.ndarray, " row"]
    borders: list[int]
    row_of: Int[np.ndarray, " unit"]
    kept: float


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
    if most < 1:
        raise ValueError(f"most is {most}; give at least 1 neuron")
    pairs, means, _ = _pairs(found)
    layers = _layers_of(found.labels)
    is_neuron = np.array(["N" in label for label in found.labels])
    if not is_neuron.any():
        raise ValueError("there is no neuron to fold: plot_map shows heads")
    strength = np.zeros(len(found.labels))
    for column in pairs.T:
        np.add.at(strength, column, means**2)
    order = np.argsort(-strength, kind="stable")
    neurons, others = order[is_neuron[order]], order[~is_neuron[order]][:_MOST_HEADS]
    grown = np.cumsum(strength[neurons])
    n_kept = int(np.searchsorted(grown, share * grown[-1] * (1 - 1e-12))) + 1
    neurons = neurons[: min(n_kept, most)]
    single = np.sort(np.concatenate([others, neurons]))
    rest = np.setdiff1d(np.flatnonzero(is_neuron), neurons)
    blocks = np.unique(layers[rest])
    rows = [(int(layers[unit]), 0, int(unit)) for unit in single]
    rows = sorted(rows + [(int(layer), 1, -1) for layer in blocks])
    row_of = np.full(len(found.labels), -1)
    names, sizes = [], []
    for row, (layer, block, unit) in enumerate(rows):
        members = rest[layers[rest] == layer] if block else np.array([unit])
        row_of[members] = row
        names.append(f"L{layer}, {len(members)} N" if block else found.labels[unit])
        sizes.append(len(members))
    of_layer = np.array([layer for layer, _, _ in rows])
    return Folded(
        values=_signed_energy(row_of[pairs], means, len(rows)),
        names=names,
        sizes=np.array(sizes),
        is_block=np.array([bool(block) for _, block, _ in rows]),
        borders=(np.flatnonzero(np.diff(of_layer)) + 1).tolist(),
        row_of=row_of,
        kept=float(strength[neurons].sum() / grown[-1]) if grown[-1] else 1.0,
    )


def network_positions(found: Interactions, k: int = 20) -> dict[str, tuple[float, float]]:
    """Where :func:`plot_network` puts each unit: x by layer, y spread within the layer; in a circle
    where no unit has a layer.

    Raises:
        ValueError: no pairs were measured.
    """
    units = sorted({int(u) for u in strongest_pairs(found, k).units[:, :2].ravel()})
    shown = [found.labels[unit] for unit in units]
    if not _layered(shown):
        angles = 2 * np.pi * np.arange(len(shown)) / len(shown)
        return {
            name: (float(np.sin(angle)), float(-np.cos(angle)))
            for name, angle in zip(shown, angles, strict=True)
        }
    return in_columns(shown, [layer_of(name) for name in shown])


def in_columns(names: Sequence[str], layers: Sequence[int]) -> dict[str, tuple[float, float]]:
    """A column a layer, its units spread over it from 0 to 1."""
    columns: dict[int, list[str]] = {}
    for name, layer in zip(names, layers, strict=True):
        columns.setdefault(layer, []).append(name)
    positions = {}
    for x, layer in enumerate(sorted(columns)):
        for i, name in enumerate(columns[layer]):
            # Columns are shifted a little against one another so that lines do not pass through.
            y = (i + 0.5) / len(columns[layer]) + 0.06 * (x % 2)
            positions[name] = (float(x), y)
    return positions


def _signed_energy(
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


def _pairs(
    found: Interactions,
) -> tuple[Int[np.ndarray, "pair 2"], Float[np.ndarray, " pair"], Float[np.ndarray, " pair"]]:
    """The pairs' units, means and standard errors."""
    rows = found.order == 2
    if not rows.any():
        raise ValueError("there is no pair to draw: no interaction of order 2 was measured")
    return found.units[rows][:, :2], found.mean[rows], found.stderr[rows]


def _layers_of(labels: list[str]) -> Int[np.ndarray, " unit"]:
    layers = np.array([layer_of(label) for label in labels])
    if (layers < 0).any():
        raise ValueError("a map by layer needs labels such as L9H6 or L3N1024")
    return layers


def _layered(names: Iterable[str]) -> bool:
    return any(layer_of(name) >= 0 for name in names)


def layer_of(label: str) -> int:
    """The layer in a label such as L9H6; -1 where there is none."""
    digits = label[1:].split("H")[0].split("N")[0].split("G")[0]
    return int(digits) if label.startswith("L") and digits.isdigit() else -1


def _kind_of(label: str) -> str:
    kinds = {"H": "heads", "N": "neurons", "G": "key-value groups"}
    letters = [letter for letter in label[1:] if letter in kinds]
    return kinds[letters[0]] if layer_of(label) >= 0 and letters else "units"


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
