"""Static pictures of interactions (matplotlib), drawn from the numbers of ``maps``.

Colours diverge around 0: red for positive interactions (damage overlaps, AND-like for units that
help), blue for negative ones (damage compounds, OR-like). The two also differ without colour: a
plus or a minus in a cell of a map, a solid or a dashed line, marked with a plus or a minus, in a
network.
"""

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spex_mech.plots.numbers import (
    Edge,
    Node,
    edge_curve,
    folded_numbers,
    layer_energy,
    layer_of,
    map_numbers,
    metric_unit,
    network_numbers,
)
from spex_mech.results.interactions import Interactions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RED, BLUE = "#b2182b", "#2166ac"


def plot_map(
    found: Interactions, by: Literal["unit", "layer"] = "unit", most: int = 64
) -> "Figure":
    """A heat map of the pair interactions, unit by unit or layer by layer.

    Args:
        by: "unit", or "layer": the energy between two layers, signed by the sum.
        most: units that are shown, those of most energy.

    Returns:
        A matplotlib figure; save it with ``.savefig("map.png")`` or ``"map.svg"``.

    Raises:
        ValueError: no pairs were measured, units without layers for "layer", ``most`` under 2.
        ImportError: matplotlib is missing (the extra ``viz``).
    """
    numbers = map_numbers(found, by, most)
    n_names = len(numbers.names)
    figure, axes = new_figure(max(6.4, 2.4 + (0.42 if n_names <= 16 else 0.2) * n_names))
    what = "interaction" if by == "unit" else "energy between layers, signed by the sum"
    _heat(figure, axes, numbers.values, numbers.names, f"{what} ({metric_unit(found)})")
    _borders(axes, numbers.borders)
    marked = by == "unit" and len(numbers.borders) > 0
    if marked:
        _layer_marks(axes, numbers.names, numbers.borders)
    cut = f"the {n_names} strongest of {len(found.labels)} units"
    is_cut = by == "unit" and n_names < len(found.labels)
    axes.set_title(_title(found, cut if is_cut else ""), fontsize=10, pad=18 if marked else 6)
    return figure


def plot_layers(found: Interactions) -> "Figure":
    """Where the energy of the pair interactions lies: between which two layers (left, in per cent
    of the total), and within and across layers (right; half of what two layers share goes to each).

    Raises:
        ImportError: matplotlib is missing (the extra ``viz``).
        ValueError: no pairs were measured, or units carry no layer.
    """
    numbers = layer_energy(found)
    n, total = len(numbers.names), numbers.total or 1.0
    figure, (left, right) = new_figure(max(8.4, 3.5 + 0.8 * n), max(3.9, 1.6 + 0.4 * n), n_axes=2)
    share = np.where(numbers.n_pairs > 0, 100 * numbers.energy / total, np.nan)
    largest = np.nan_to_num(share).max() or 1.0
    image = left.imshow(share, cmap="Greys", vmin=0, vmax=largest)
    left.set_facecolor("#dce6f2")  # not measured: no grey
    for row, column in np.argwhere(share >= 0.5):
        dark = share[row, column] > 0.55 * largest
        left.text(
            column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=8,
            color="white" if dark else "black",
        )  # fmt: skip
    left.set_xticks(range(n), numbers.names)
    left.set_yticks(range(n), numbers.names)
    figure.colorbar(image, ax=left, shrink=0.8).set_label("per cent of the energy")
    left.set_title("between two layers", fontsize=10)
    within, across = 100 * numbers.within / total, 100 * numbers.across / total
    right.bar(range(n), within, color="#404040", label="within the layer")
    right.bar(
        range(n), across, bottom=within, color="white", edgecolor="#404040", hatch="///",
        label="across layers",
    )  # fmt: skip
    right.set_xticks(range(n), numbers.names)
    right.set_ylabel("per cent of the energy")
    right.spines[["top", "right"]].set_visible(False)
    right.margins(y=0.25)
    right.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    right.set_title(f"{100 * numbers.share_within:.0f} % within layers", fontsize=10)
    figure.suptitle(_title(found, "").replace("Pair", "Energy of the pair"), fontsize=10)
    return figure


def plot_neurons(found: Interactions, share: float = 0.9, most: int = 24) -> "Figure":
    """A map of the heads and the neurons that matter; each layer's other neurons are folded into
    one row, whose cells are energies signed by the sum (as in ``plot_map(found, by="layer")``).

    Args:
        share: the part of the neurons' energy that gets rows of its own.
        most: so many neurons get them at most.

    Raises:
        ImportError: matplotlib is missing (the extra ``viz``).
        ValueError: there are no pairs or no neurons.
    """
    numbers = folded_numbers(found, share, most)
    n_names = len(numbers.names)
    figure, axes = new_figure(max(6.4, 2.8 + (0.42 if n_names <= 16 else 0.22) * n_names))
    label = f"interaction; energy for blocks ({metric_unit(found)})"
    _heat(figure, axes, numbers.values, numbers.names, label)
    _borders(axes, numbers.borders)
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        for tick, block in zip(ticks, numbers.is_block, strict=True):
            tick.set_style("italic" if block else "normal")
    what = f"rows of their own hold {100 * numbers.kept:.0f} % of the neurons' energy"
    axes.set_title(_title(found, what), fontsize=10)
    return figure


def plot_network(found: Interactions, k: int = 20) -> "Figure":
    """The k strongest pairs as a network, layers from left to right (units without layers stand in
    a circle). Positive interactions are solid red lines marked with a plus, negative ones dashed
    blue lines marked with a minus, as wide as they are strong; where the units do not jointly help,
    so that neither AND-like nor OR-like fits, lines are dotted. A node is as large as its main
    effect.

    Args:
        k: pairs that are drawn; those under the noise floor are left out.

    Raises:
        ValueError: no pairs were measured.
        ImportError: matplotlib is missing (the extra ``viz``).
    """
    numbers = network_numbers(found, k)
    nodes = {node.label: node for node in numbers.nodes}
    x, y = (np.array([getattr(node, axis) for node in numbers.nodes]) for axis in "xy")
    columns, in_column = np.unique(x.round(6), return_counts=True)
    layered = any(node.layer >= 0 for node in numbers.nodes)
    width, height = max(7.5, 0.9 * len(columns)), max(5.5, 1.5 + 0.55 * in_column.max())
    figure, axes = new_figure(width, height) if layered else new_figure(7.5, 7.5)
    largest = max(abs(edge.value) for edge in numbers.edges) or 1.0
    for edge in reversed(numbers.edges):  # the strongest on top
        _draw_edge(axes, edge, nodes[edge.a], nodes[edge.b], largest)
    mains = np.nan_to_num(np.array([node.main_effect for node in numbers.nodes]))
    sizes = 60 + 540 * abs(mains) / (abs(mains).max() or 1.0)
    axes.scatter(x, y, s=sizes, color="white", edgecolor="black", zorder=3)
    for node, size in zip(numbers.nodes, sizes, strict=True):
        axes.annotate(
            node.label, (node.x, node.y), xytext=(0, -np.sqrt(size) / 2 - 2),
            textcoords="offset points", ha="center", va="top", fontsize=8, zorder=5,
            bbox={"boxstyle": "square,pad=0.1", "color": "white", "alpha": 0.7, "linewidth": 0},
        )  # fmt: skip
    axes.plot([], [], color=RED, marker="+", label="positive: damage overlaps (AND-like)")
    axes.plot(
        [], [], color=BLUE, marker="_", linestyle="--",
        label="negative: damage compounds (OR-like)",
    )  # fmt: skip
    if any(edge.reading not in ("AND-like", "OR-like") for edge in numbers.edges):
        axes.plot([], [], color="black", linestyle=":", label="neither fits (mixed or noise)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, frameon=False, fontsize=8)
    axes.set_axis_off()
    axes.margins(0.12)
    axes.invert_yaxis()  # the first unit of a layer on top, as in a map
    axes.set_title(_title(found, f"the {len(numbers.edges)} strongest pairs"), fontsize=10)
    return figure


def _draw_edge(axes: Any, edge: Edge, start: Node, end: Node, largest: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    (x0, y0), (xc, yc), (x1, y1) = curve = edge_curve(start, end)
    clear = edge.reading in ("AND-like", "OR-like")
    style = ":" if not clear else "-" if edge.value > 0 else (0, (4, 2))
    colour = RED if edge.value > 0 else BLUE
    axes.add_patch(
        PathPatch(
            Path(curve, [Path.MOVETO, Path.CURVE3, Path.CURVE3]), fill=False, edgecolor=colour,
            linestyle=style, linewidth=0.6 + 4.4 * abs(edge.value) / largest, alpha=0.85,
        )
    )  # fmt: skip
    middle = (x0 + 2 * xc + x1) / 4, (y0 + 2 * yc + y1) / 4
    axes.scatter(*middle, s=70, color="white", edgecolor=colour, linewidth=0.8, zorder=4)
    axes.scatter(*middle, s=30, color=colour, marker="+" if edge.value > 0 else "_", zorder=4)


def _heat(figure: "Figure", axes: Any, values: np.ndarray, names: list[str], label: str) -> None:
    """A diverging map with a plus or a minus in its strong cells."""
    n_names = len(names)
    roomy = n_names <= 16
    largest = np.nan_to_num(abs(values)).max() or 1.0
    image = axes.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest)
    axes.set_facecolor("#cccccc")  # not measured: neither 0 nor a colour
    size = 9 if roomy else 7
    axes.set_xticks(range(n_names), names, rotation=90, fontsize=size)
    axes.set_yticks(range(n_names), names, fontsize=size)
    digits = max(0, 1 - int(np.floor(np.log10(largest))))
    for row, column in np.argwhere(abs(values) > 0.25 * largest):
        value = values[row, column]
        sign = "+" if value > 0 else "\N{MINUS SIGN}"
        axes.text(
            column, row, f"{sign}{abs(value):.{digits}f}" if roomy and digits < 4 else sign,
            ha="center", va="center", fontsize=7,
            color="white" if abs(value) > 0.6 * largest else "black",
        )  # fmt: skip
    figure.colorbar(image, ax=axes, shrink=0.8).set_label(label)


def _borders(axes: Any, borders: list[int]) -> None:
    for border in borders:
        axes.axhline(border - 0.5, color="black", linewidth=0.5)
        axes.axvline(border - 0.5, color="black", linewidth=0.5)


def _layer_marks(axes: Any, names: list[str], borders: list[int]) -> None:
    """The name of each layer over its columns."""
    edges = [0, *borders, len(names)]
    for start, stop in pairwise(edges):
        layer = layer_of(names[start])
        if layer >= 0:
            axes.text(
                (start + stop - 1) / 2, -0.62, f"layer {layer}" if stop - start > 3 else f"{layer}",
                ha="center", va="bottom", fontsize=7, color="#555555",
            )  # fmt: skip


def new_figure(width: float, height: float | None = None, n_axes: int = 1) -> tuple["Figure", Any]:
    """A figure and its axes (inches; several axes side by side).

    Raises:
        ImportError: matplotlib is missing (the extra ``viz``).
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install 'spex_mech[viz]'") from error
    # A figure of its own, not pyplot's: no global state, and no window on a server.
    figure = Figure(figsize=(width, height or width * 0.86), layout="constrained")
    return figure, figure.subplots(1, n_axes)


def _title(found: Interactions, what: str) -> str:
    words = [str(found.about[key]) for key in ("model", "task", "ablation") if key in found.about]
    where = f"{', '.join(words)} ablation" if len(words) == 3 else ""
    return "\n".join(["Pair interactions", *(line for line in (where, what) if line)])
