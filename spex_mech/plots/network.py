"""The numbers of a network: its units, its pairs and where they stand, apart from any drawing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spex_mech.plots.numbers import layer_of, pairs_of, pale
from spex_mech.results.interactions import Interactions
from spex_mech.results.statistics import standard_errors

# Of the distance of two layers, which is 1: how far an arc's control point is from its layer, and
# how much further for nodes at the two ends of it. Half of that is what the arc reaches.
_ARC, _ARC_BY_DISTANCE = 0.2, 0.6
_BEND = 0.08  # of a line between two layers, as a part of its length


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
    pale: bool = False


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
    rows = zip(
        pairs.mean, pairs.stderr, pairs.q_value, pairs.readings, pale(pairs).tolist(), strict=True
    )
    return [
        Edge(a, b, float(value), float(error), float(q), reading, is_pale)
        for (a, b), (value, error, q, reading, is_pale) in zip(pairs.names, rows, strict=True)
    ]


def strongest_pairs(found: Interactions, k: int) -> Interactions:
    """The k strongest pairs, strongest first, without those under the noise floor, unless there
    are no others.

    Raises:
        ValueError: no pairs were measured.
    """
    pairs_of(found)
    top = found.top(k, order=2)
    n_clear = int((~top.is_noise).sum())
    return top.top(n_clear or k)


def edge_curve(start: Node, end: Node, value: float) -> tuple[tuple[float, float], ...]:
    """Start, control point and end of the curve that joins two nodes. Between layers it is bent a
    little, so that lines between three nodes in a row stay apart. Within a layer it is an arc: to
    the right for a positive interaction and to the left for a negative one, and wider the further
    apart the two are, so that no two arcs lie on each other."""
    dx, dy = end.x - start.x, end.y - start.y
    middle = (start.x + end.x) / 2, (start.y + end.y) / 2
    if start.layer >= 0 and start.x == end.x:
        reach = _ARC + _ARC_BY_DISTANCE * abs(dy)
        control = middle[0] + (reach if value > 0 else -reach), middle[1]
    else:
        control = middle[0] + _BEND * dy, middle[1] - _BEND * dx
    return (start.x, start.y), control, (end.x, end.y)


def network_positions(found: Interactions, k: int = 20) -> dict[str, tuple[float, float]]:
    """Where :func:`plot_network` puts each unit: x by layer, y spread within the layer; in a circle
    where no unit has a layer.

    Raises:
        ValueError: no pairs were measured.
    """
    units = sorted({int(u) for u in strongest_pairs(found, k).units[:, :2].ravel()})
    shown = [found.labels[unit] for unit in units]
    if not any(layer_of(name) >= 0 for name in shown):
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
