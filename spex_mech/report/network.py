"""The network of a report: numbers to places and texts, which the page's template draws."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from spex_mech.plots.network import Edge, Network, Node, edge_curve, network_numbers
from spex_mech.plots.style import PALE_OPACITY, sign_of
from spex_mech.plots.words import strongest_text
from spex_mech.report.words import cut_name, value_text
from spex_mech.results.interactions import Interactions
from spex_mech.results.printed import confirmed_text

_MOST_PAIRS = 20
_DASHES = {"solid": "", "dashed": "7 4", "dotted": "2 4"}


def network(found: Interactions) -> dict[str, Any]:
    """Places and texts of the strongest pairs and their units, in pixels."""
    numbers = network_numbers(found, _MOST_PAIRS)
    at = _scaled(numbers)
    nodes = {node.label: node for node in numbers.nodes}
    largest = max(abs(edge.value) for edge in numbers.edges) or 1.0
    edges = [_edge(edge, nodes, at, largest) for edge in reversed(numbers.edges)]
    strongest = np.nanmax([0.0, *(abs(node.main_effect) for node in numbers.nodes)]) or 1.0
    shown = [_node(node, at, strongest) for node in numbers.nodes]
    layered = any(node.layer >= 0 for node in numbers.nodes)
    columns = sorted({(node.x, node.said) for node in numbers.nodes}) if layered else []
    readings = {edge.reading for edge in numbers.edges}
    (left, top), (right, bottom) = _frame(edges, shown)
    return {
        "left": left,
        "top": top,
        "width": right - left,
        "height": bottom - top,
        "edges": edges,
        "nodes": shown,
        "layers": [{"x": at((place, 0.0))[0], "text": text} for place, text in columns],
        "and_like": "AND-like" in readings,
        "or_like": "OR-like" in readings,
        "unclear": any(edge.line == "dotted" for edge in numbers.edges),
        "any_pale": any(edge.pale for edge in numbers.edges),
        "caption": f"{strongest_text(len(edges)).capitalize()}. A line is as wide as its "
        "interaction is strong, a circle as large as the main effect of its unit.",
    }


Point = tuple[float, float]


def _frame(
    edges: list[dict[str, Any]], nodes: list[dict[str, Any]]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The corners of what holds every node with its name, and every curve with its badge."""
    curves = np.concatenate([edge["points"] for edge in edges])
    low, high = (curves.min(axis=0) - 15).round(), (curves.max(axis=0) + 15).round()
    right, bottom = (max(node[at] for node in nodes) for at in ("x", "y"))
    # Over the nodes is a line with the names of their layers.
    top = min(0, int(low[1]) - 15 if low[1] < 15 else 0)
    return (min(0, int(low[0])), top), (
        max(round(right + 75), int(high[0])),
        max(round(bottom + 45), int(high[1])),
    )


def _scaled(numbers: Network) -> Callable[[Point], Point]:
    """From the places of a network to pixels."""
    layered = any(node.layer >= 0 for node in numbers.nodes)
    x = np.array([node.x for node in numbers.nodes])
    columns, in_column = np.unique(x.round(6), return_counts=True)
    wide = max(150, round(480 / max(len(columns) - 1, 1))) if layered else 210
    high = 46 * max(int(in_column.max()), 4) if layered else 210
    shift = (90, 40) if layered else (290, 250)

    def at(point: Point) -> Point:
        return round(shift[0] + wide * point[0], 1), round(shift[1] + high * point[1], 1)

    return at


def _edge(
    edge: Edge, nodes: dict[str, Node], at: Callable[[Point], Point], largest: float
) -> dict[str, Any]:
    start, control, end = map(at, edge_curve(nodes[edge.a], nodes[edge.b], edge.overlaps))
    t = np.linspace(0, 1, 25)[:, None]
    points = (1 - t) ** 2 * [start] + 2 * t * (1 - t) * [control] + t**2 * [end]
    return {
        "points": points,
        "tip": f"{edge.a} x {edge.b}\n{value_text(edge.value, edge.half)}\n{edge.reading}"
        f"{confirmed_text(edge.confirmed)}",
        "filter": f"{edge.a} {edge.b}",
        "kind": "p" if edge.overlaps else "n",
        "pale": edge.pale,
        "opacity": PALE_OPACITY if edge.pale else 0.85,
        "path": f"M{start[0]} {start[1]}Q{control[0]} {control[1]} {end[0]} {end[1]}",
        "width": round(1 + 5 * abs(edge.value) / largest, 2),
        "dash": _DASHES[edge.line],
        "sign": sign_of(edge.value),
        "x": round((start[0] + 2 * control[0] + end[0]) / 4, 1),
        "y": round((start[1] + 2 * control[1] + end[1]) / 4, 1),
    }


def _node(node: Node, at: Callable[[Point], Point], strongest: float) -> dict[str, Any]:
    size = 0.0 if math.isnan(node.main_effect) else abs(node.main_effect) / strongest
    x, y = at((node.x, node.y))
    return {
        "tip": f"{node.label}\nmain effect {value_text(node.main_effect, node.stderr)}",
        "filter": node.label,
        "text": cut_name(node.label),
        "x": x,
        "y": y,
        "radius": round(5 + 9 * math.sqrt(size), 1),
    }
