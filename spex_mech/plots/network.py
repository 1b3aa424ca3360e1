"""The numbers of a network: its units, its pairs and where they stand, apart from any drawing."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spex_mech.plots.numbers import pairs_of, pale
from spex_mech.results.interactions import Interactions
from spex_mech.results.printed import halves
from spex_mech.results.statistics import standard_errors

# Of the distance of two layers, which is 1: how far an arc's control point is from its layer, and
# how much further for nodes at the two ends of it. Half of that is what the arc reaches.
_ARC, _ARC_BY_DISTANCE = 0.2, 0.6
_BEND = 0.08  # of a line between two layers, as a part of its length


@dataclass(frozen=True)
class Node:
    """A unit of a network: where it stands, and its main effect (NaN where not measured). ``layer``
    is its number in the order of a pass (-1: none), ``said`` what people call it."""

    label: str
    layer: int
    x: float
    y: float
    main_effect: float
    stderr: float
    said: str = ""


@dataclass(frozen=True)
class Edge:
    """A pair of a network, by its units' labels.

    Args:
        stderr: standard error over the prompts.
        reading: what may be said of the pair (``Interactions.verdicts``).
        half: half of its 90 % interval, which is wider where the pairs that are shown were chosen.
        pale: whether it is not significant, or under the noise floor.
        overlaps: whether the damage of the two units overlaps (otherwise it compounds).
        confirmed: 1 if it held on other prompts, 0 if it did not, -1 if that was not tried.
    """

    a: str
    b: str
    value: float
    stderr: float
    q_value: float
    reading: str
    half: float = math.nan
    pale: bool = False
    overlaps: bool = True
    confirmed: int = -1

    @property
    def line(self) -> Literal["solid", "dashed", "dotted"]:
        """How its line is drawn: solid where damage overlaps, dashed where it compounds, dotted
        where it is significant and neither reading fits."""
        if self.reading not in ("AND-like", "OR-like") and not self.pale:
            return "dotted"
        return "solid" if self.overlaps else "dashed"


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
    errors = standard_errors(found.main_effects_by_prompt, found.clusters)
    nodes, blocks = [], found.unit_table.blocks
    for label, (x, y) in network_positions(found, k).items():
        unit = found.labels.index(label)
        main, error = float(found.main_effects[unit]), float(errors[unit])
        layer = int(blocks.of_unit[unit])
        nodes.append(Node(label, layer, x, y, main, error, blocks.said(layer)))
    return Network(tuple(nodes), tuple(edges_of(top)))


def edges_of(pairs: Interactions) -> list[Edge]:
    """Each of the pairs by its labels, in their order."""
    columns = (pairs.mean, pairs.stderr, pairs.q_value, halves(pairs))
    rows = zip(*(column.tolist() for column in columns), strict=True)
    said = zip(pairs.verdicts, pale(pairs).tolist(), pairs.confirmed.tolist(), strict=True)
    turned = pairs.less_is_better
    return [
        Edge(a, b, value, error, q, verdict, half, is_pale, (value > 0) != turned, confirmed)
        for (a, b), (value, error, q, half), (verdict, is_pale, confirmed) in zip(
            pairs.names, rows, said, strict=True
        )
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


def edge_curve(start: Node, end: Node, overlaps: bool) -> tuple[tuple[float, float], ...]:
    """Start, control point and end of the curve that joins two nodes. Between layers it is bent a
    little, so that lines between three nodes in a row stay apart. Within a layer it is an arc: to
    the right where damage overlaps and to the left where it compounds, and wider the further apart
    the two are, so that no two arcs lie on each other."""
    dx, dy = end.x - start.x, end.y - start.y
    middle = (start.x + end.x) / 2, (start.y + end.y) / 2
    if start.layer >= 0 and start.x == end.x:
        reach = _ARC + _ARC_BY_DISTANCE * abs(dy)
        control = middle[0] + (reach if overlaps else -reach), middle[1]
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
    layers = found.unit_table.blocks.of_unit[units].tolist()
    if max(layers) < 0:
        angles = 2 * np.pi * np.arange(len(shown)) / len(shown)
        return {
            name: (float(np.sin(angle)), float(-np.cos(angle)))
            for name, angle in zip(shown, angles, strict=True)
        }
    return in_columns(shown, layers)


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
