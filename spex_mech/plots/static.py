"""Still pictures of interactions (matplotlib), drawn from the numbers of ``numbers`` and
``network`` in the colours of ``style``.

The figures belong to no window and no global state of matplotlib, and show themselves in a notebook
without ``%matplotlib``.
"""

from collections.abc import Callable
from functools import cache, wraps
from io import BytesIO
from typing import TYPE_CHECKING, Any, ParamSpec, cast

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.plots import style
from spex_mech.plots.network import Edge, Network, Node, edge_curve, network_numbers
from spex_mech.plots.numbers import (
    STRONG,
    LayerEnergy,
    Mark,
    folded_numbers,
    is_marked,
    layer_energy,
    layer_marks,
    map_numbers,
    metric_unit,
)
from spex_mech.plots.words import MEANING, PALE_UNSIGNED, heading, shortened, strongest_text
from spex_mech.results.interactions import Interactions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_Asked = ParamSpec("_Asked")
_ROOMY = 16  # a map of at most this many units has numbers in its cells
_LONGEST_NUMBER = 99_999.5  # what is larger has more digits than a cell has room for


def as_written(draw: "Callable[_Asked, Figure]") -> "Callable[_Asked, Figure]":
    """A drawing whose words stand as they are: what a unit or a task is called may hold dollar
    signs, between which matplotlib would read a formula."""

    @wraps(draw)
    def drawn(*args: _Asked.args, **options: _Asked.kwargs) -> "Figure":
        figure = draw(*args, **options)
        from matplotlib.text import Text

        for text in figure.findobj(Text):
            cast(Text, text).set_parse_math(False)
        return figure

    return drawn


@as_written
def draw_map(found: Interactions, by: str, most: int) -> "Figure":
    """What :func:`spex_mech.plot_map` draws by matplotlib."""
    numbers = map_numbers(found, by, most)
    n_names = len(numbers.names)
    figure, axes = new_figure(max(6.4, 2.4 + (0.42 if n_names <= _ROOMY else 0.2) * n_names))
    what = "interaction" if by == "unit" else "energy between layers, signed by the sum"
    label = f"{what} ({metric_unit(found)})"
    _heat(figure, axes, numbers.values, numbers.pale, numbers.names, label, found)
    _borders(axes, numbers.borders)
    marks = layer_marks(numbers, roomy=4, letters=2.5 if n_names > _ROOMY else 5.0)
    _layer_marks(axes, marks)
    if by == "unit":
        _diagonal(axes, n_names)
    cut = f"the {n_names} strongest of {len(found.labels)} units"
    is_cut = by == "unit" and n_names < len(found.labels)
    pad = 29 if any(mark.is_stack for mark in marks) else 18 if marks else 6
    axes.set_title(heading(found, cut if is_cut else ""), fontsize=10, pad=pad)
    return figure


@as_written
def draw_layers(found: Interactions) -> "Figure":
    """What :func:`spex_mech.plot_layers` draws by matplotlib."""
    numbers = layer_energy(found)
    n = len(numbers.names)
    figure, (left, right) = new_figure(max(8.4, 3.5 + 0.8 * n), max(3.9, 1.6 + 0.4 * n), n_axes=2)
    _energy_map(figure, left, numbers)
    _energy_bars(right, numbers)
    figure.suptitle(heading(found, "", "Energy of the pair interactions"), fontsize=10)
    return figure


def _energy_map(figure: "Figure", axes: Any, numbers: LayerEnergy) -> None:
    n, total = len(numbers.names), numbers.total or 1.0
    share = np.where(numbers.n_pairs > 0, 100 * numbers.energy / total, np.nan)
    largest = np.nan_to_num(share).max() or 1.0
    image = axes.imshow(share, cmap="Greys", vmin=0, vmax=largest)
    axes.set_facecolor(style.UNMEASURED_IN_GREYS)
    for row, column in np.argwhere(share >= 0.5):
        dark = share[row, column] > 0.55 * largest
        axes.text(
            column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=8,
            color="white" if dark else "black",
        )  # fmt: skip
    _name_columns(axes, numbers.names)
    axes.set_yticks(range(n), numbers.names)
    if np.isnan(share).any():
        axes.set_xlabel("blue-grey: no pair was measured", fontsize=8, color="#555555")
    figure.colorbar(image, ax=axes, shrink=0.8).set_label("per cent of the energy")
    axes.set_title("between two layers", fontsize=10)


def _name_columns(axes: Any, names: list[str]) -> None:
    """Upright where they would run into one another."""
    is_long = max(map(len, names), default=0) > 4
    axes.set_xticks(range(len(names)), names, rotation=90 if is_long else 0)


def _energy_bars(axes: Any, numbers: LayerEnergy) -> None:
    n, total = len(numbers.names), numbers.total or 1.0
    within, across = 100 * numbers.within / total, 100 * numbers.across / total
    axes.bar(range(n), within, color="#404040", label="within the layer")
    axes.bar(
        range(n), across, bottom=within, color="white", edgecolor="#404040", hatch="///",
        label="across layers",
    )  # fmt: skip
    _name_columns(axes, numbers.names)
    axes.set_ylabel("per cent of the energy")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.25)
    axes.legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    axes.set_title(f"{100 * numbers.share_within:.0f} % within layers", fontsize=10)


@as_written
def draw_neurons(found: Interactions, share: float, most: int) -> "Figure":
    """What :func:`spex_mech.plot_neurons` draws by matplotlib."""
    numbers = folded_numbers(found, share, most)
    n_names = len(numbers.names)
    figure, axes = new_figure(max(6.4, 2.8 + (0.42 if n_names <= _ROOMY else 0.22) * n_names))
    label = f"interaction; energy for blocks ({metric_unit(found)})"
    _heat(figure, axes, numbers.values, numbers.pale, numbers.names, label, found)
    _borders(axes, numbers.borders)
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        for tick, block in zip(ticks, numbers.is_block, strict=True):
            tick.set_style("italic" if block else "normal")
    what = f"rows of their own hold {100 * numbers.kept:.0f} % of the neurons' energy"
    axes.set_title(heading(found, what), fontsize=10)
    return figure


@as_written
def draw_network(found: Interactions, k: int) -> "Figure":
    """What :func:`spex_mech.plot_network` draws by matplotlib."""
    numbers = network_numbers(found, k)
    nodes = {node.label: node for node in numbers.nodes}
    places = np.array([node.x for node in numbers.nodes])
    columns, in_column = np.unique(places.round(6), return_counts=True)
    layered = any(node.layer >= 0 for node in numbers.nodes)
    width, height = max(7.5, 1.3 * len(columns)), max(5.5, 1.5 + 0.55 * in_column.max())
    figure, axes = new_figure(width, height) if layered else new_figure(7.5, 7.5)
    largest = max(abs(edge.value) for edge in numbers.edges) or 1.0
    for edge in reversed(numbers.edges):  # the strongest on top
        _draw_edge(axes, edge, nodes[edge.a], nodes[edge.b], largest)
    _draw_nodes(axes, numbers)
    _network_legend(axes, numbers)
    axes.set_axis_off()
    axes.margins(0.12)
    axes.invert_yaxis()  # the first unit of a layer on top, as in a map
    axes.set_title(heading(found, strongest_text(len(numbers.edges))), fontsize=10)
    return figure


def _draw_nodes(axes: Any, numbers: Network) -> None:
    mains = np.nan_to_num(np.array([node.main_effect for node in numbers.nodes]))
    sizes = 60 + 540 * abs(mains) / (abs(mains).max() or 1.0)
    x, y = [node.x for node in numbers.nodes], [node.y for node in numbers.nodes]
    axes.scatter(x, y, s=sizes, color="white", edgecolor="black", zorder=3)
    for node, size in zip(numbers.nodes, sizes, strict=True):
        axes.annotate(
            shortened(node.label), (node.x, node.y), xytext=(0, -np.sqrt(size) / 2 - 2),
            textcoords="offset points", ha="center", va="top", fontsize=8, zorder=5,
            bbox={"boxstyle": "square,pad=0.1", "color": "white", "alpha": 0.7, "linewidth": 0},
        )  # fmt: skip


def _draw_edge(axes: Any, edge: Edge, start: Node, end: Node, largest: float) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    (x0, y0), (xc, yc), (x1, y1) = curve = edge_curve(start, end, edge.overlaps)
    line = {"solid": "-", "dashed": (0, (4, 2)), "dotted": ":"}[edge.line]
    colour, opacity = style.colour_of(edge.overlaps), style.PALE_OPACITY if edge.pale else 0.85
    axes.add_patch(
        PathPatch(
            Path(curve, [Path.MOVETO, Path.CURVE3, Path.CURVE3]), fill=False, edgecolor=colour,
            linestyle=line, linewidth=0.6 + 4.4 * abs(edge.value) / largest, alpha=opacity,
        )
    )  # fmt: skip
    middle = (x0 + 2 * xc + x1) / 4, (y0 + 2 * yc + y1) / 4
    mark = "+" if edge.value > 0 else "_"
    axes.scatter(*middle, s=70, color="white", edgecolor=colour, linewidth=0.8, zorder=4)
    axes.scatter(*middle, s=30, color=colour, marker=mark, zorder=4, alpha=opacity)


def _network_legend(axes: Any, numbers: Network) -> None:
    """A line of the legend for each kind of line that is drawn."""
    for overlaps, line in ((True, "-"), (False, "--")):
        of_colour = [edge for edge in numbers.edges if edge.overlaps == overlaps]
        colour, meaning = style.colour_of(overlaps), MEANING[overlaps]
        for drawn, reading in (("solid", "AND-like: "), ("dashed", "OR-like: ")):
            if any(edge.line == drawn and not edge.pale for edge in of_colour):
                axes.plot([], [], color=colour, linestyle=line, label=f"{reading}{meaning}")
        if any(edge.line == "dotted" for edge in of_colour):
            axes.plot([], [], color=colour, linestyle=":", label=f"no reading: {meaning}")
        if any(edge.pale for edge in of_colour):
            label = f"pale: {meaning}, not significant"
            opacity = style.PALE_OPACITY
            axes.plot([], [], color=colour, linestyle=line, alpha=opacity, label=label)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, frameon=False, fontsize=8)


def _heat(
    figure: "Figure",
    axes: Any,
    values: Float[np.ndarray, "row row"],
    pale: Bool[np.ndarray, "row row"],
    names: list[str],
    label: str,
    found: Interactions,
) -> None:
    """A diverging map, with signs in the cells of :func:`numbers.is_marked`."""
    n_names = len(names)
    roomy = n_names <= _ROOMY
    largest = np.nan_to_num(abs(values)).max() or 1.0
    opacity = np.where(pale, style.PALE_OPACITY, 1.0)
    cmap = "RdBu" if found.less_is_better else "RdBu_r"
    image = axes.imshow(values, cmap=cmap, vmin=-largest, vmax=largest, alpha=opacity)
    # Under it, white where a value is seen through, and grey where there is none.
    under = np.ones((*values.shape, 3))
    under[_unmeasured(values)] = np.array(style.rgb(style.UNMEASURED)) / 255
    axes.imshow(under, zorder=-1)
    size = 9 if roomy else 7
    short = [shortened(name) for name in names]
    axes.set_xticks(range(n_names), short, rotation=90, fontsize=size)
    axes.set_yticks(range(n_names), short, fontsize=size)
    digits = max(0, 1 - int(np.floor(np.log10(largest))))
    fits = roomy and digits < 4 and largest < _LONGEST_NUMBER
    strong = STRONG * largest
    for row, column in np.argwhere(is_marked(values, pale, found.values.shape[1])):
        value = float(values[row, column])
        sign = style.sign_of(value)
        number = f"{abs(value):.{digits}f}" if abs(value) > strong and fits else ""
        axes.text(
            column, row, f"{sign}{number}", ha="center", va="center", fontsize=7,
            color="white" if abs(value) > 0.6 * largest else "black",
        )  # fmt: skip
    figure.colorbar(image, ax=axes, shrink=0.8).set_label(label)
    _explain(axes, values, pale)


def _unmeasured(values: Float[np.ndarray, "row row"]) -> Bool[np.ndarray, "row row"]:
    """Pairs without a value; the diagonal holds no pairs."""
    return np.isnan(values) & ~np.eye(len(values), dtype=bool)


def _explain(axes: Any, values: np.ndarray, pale: np.ndarray) -> None:
    """Says under the map what is grey and what is pale, where there is any of it."""
    words = ["grey: not measured"] if _unmeasured(values).any() else []
    words += [" ".join(PALE_UNSIGNED)] if (pale & ~np.isnan(values)).any() else []
    axes.set_xlabel("; ".join(words), fontsize=8, color="#555555")


def _diagonal(axes: Any, n: int) -> None:
    """A line through the cells of a unit with itself, which are no pairs."""
    axes.plot([-0.5, n - 0.5], [-0.5, n - 0.5], color="#999999", linewidth=0.5)


def _borders(axes: Any, borders: list[int]) -> None:
    for border in borders:
        axes.axhline(border - 0.5, color="black", linewidth=0.5)
        axes.axvline(border - 0.5, color="black", linewidth=0.5)


def _layer_marks(axes: Any, marks: list[Mark]) -> None:
    """The names of layers and stacks over their columns."""
    for mark in marks:
        axes.annotate(
            mark.text, ((mark.start + mark.stop - 1) / 2, -0.62), xytext=(0, 11 * mark.is_stack),
            textcoords="offset points", ha="center", va="bottom", fontsize=7, color="#555555",
            annotation_clip=False,
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
    figure = _shown(Figure)(figsize=(width, height or width * 0.86), layout="constrained")
    return figure, figure.subplots(1, n_axes)


@cache
def _shown(figure: Any) -> Any:
    """Figures that a notebook shows, also one that no ``%matplotlib`` has told about figures."""

    class Picture(figure):
        def _repr_png_(self) -> bytes:
            file = BytesIO()
            self.savefig(file, format="png", dpi=110)
            return file.getvalue()

    return Picture
