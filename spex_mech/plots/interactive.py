"""Interactive pictures (plotly), drawn from the numbers of ``maps``: hovering gives labels, values
and errors, menus choose which pairs are shown, and a click opens a cell of many pairs.

Colours and styles are those of ``plots``. A figure shows itself in a notebook;
``figure.write_html("map.html")`` writes a page. Menus and clicks are plotly's own: they need
no Python behind them.
"""

from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from spex_mech.plots.numbers import (
    Edge,
    Folded,
    LayerEnergy,
    MapNumbers,
    edge_curve,
    filtered_values,
    folded_numbers,
    layer_energy,
    layer_filters,
    layer_of,
    map_numbers,
    metric_unit,
    network_numbers,
    pair_filters,
    pairs_by_cell,
    strongest_pairs,
)
from spex_mech.plots.static import BLUE, RED
from spex_mech.results.interactions import Interactions

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_UNMEASURED, _NO_GREY = "#cccccc", "#dce6f2"  # where cells are colours, and where they are greys
_DASHES = {"AND-like": "solid", "OR-like": "dash"}
_STRONG = 0.5  # of the strongest pair: from there on the legend calls a pair strong
_BAR, _BESIDE = 120, 360  # pixels beside a map: its colours, and what a click opens


def interactive_map(
    found: Interactions, by: Literal["unit", "layer"] = "unit", most: int = 64
) -> "Figure":
    """:func:`spex_mech.plot_map` with the value, its error and reading where the pointer is.

    One menu shows only some of the pairs (a reading, above the noise floor, q at most 0.05, kinds
    of units). By unit, another one goes to the pairs of two layers; by layer, a click on a cell
    lists its strongest pairs.

    Raises:
        ImportError: plotly is missing (the extra ``viz``).
        ValueError: no pairs were measured, or units carry no layer.
    """
    numbers = map_numbers(found, by, most)
    figure = _map(found, numbers)
    for border in numbers.borders:
        figure.add_hline(border - 0.5, line={"color": "black", "width": 0.7})
        figure.add_vline(border - 0.5, line={"color": "black", "width": 0.7})
    if by == "layer":
        return figure.update_layout(title="Pair interactions by layer: click a cell for its pairs")
    _add_zoom(figure, found, numbers)
    return figure.update_layout(title="Pair interactions")


def interactive_layers(found: Interactions) -> "Figure":
    """:func:`spex_mech.plot_layers`: the energy of the pairs between any two layers, in per cent of
    that of all pairs. A menu shows the energy of some of the pairs; a click on a cell lists its
    strongest pairs.

    Raises:
        ImportError: plotly is missing (the extra ``viz``).
        ValueError: no pairs were measured, or units carry no layer.
    """
    numbers, graph = layer_energy(found), _plotly()
    pairs = found.top(len(found), order=2)
    heat = graph.Heatmap(
        **_energy(numbers, numbers.total),
        colorscale="Greys",
        zmin=0,
        zmax=100 * numbers.energy.max() / (numbers.total or 1.0) or 1.0,
        hoverinfo="text",
        colorbar={"title": "% of energy"},
    )
    figure = _square(graph.Figure(heat), numbers.names)
    choices = {}
    for name, shown in pair_filters(pairs).items():
        part = _energy(layer_energy(pairs.take(np.flatnonzero(shown))), numbers.total)
        new = {"z": [_plain(part["z"])], "hovertext": [part["hovertext"]]}
        choices[f"{name} ({int(shown.sum()):,})"] = [new]
    _add_menu(figure, choices, "restyle")
    _add_clicks(figure, pairs_by_cell(numbers.row_of, pairs), numbers.names)
    title = f"Energy by layer: {100 * numbers.share_within:.0f} % within layers"
    return figure.update_layout(title=f"{title}. Click a cell for its pairs", plot_bgcolor=_NO_GREY)


def interactive_neurons(found: Interactions, share: float = 0.9, most: int = 24) -> "Figure":
    """:func:`spex_mech.plot_neurons`, with the value and its error where the pointer is. A menu
    shows only some of the pairs; a click on a cell of folded neurons lists its strongest pairs.

    Raises:
        ImportError: plotly is missing (the extra ``viz``).
        ValueError: there are no pairs or no neurons.
    """
    numbers = folded_numbers(found, share, most)
    figure = _map(found, numbers)
    title = f"Rows of their own hold {100 * numbers.kept:.0f} % of the neurons' energy"
    click = ". Click a folded cell for its pairs" if numbers.is_block.any() else ""
    return figure.update_layout(title=title + click)


def interactive_network(found: Interactions, k: int = 20) -> "Figure":
    """:func:`spex_mech.plot_network`; an edge is told by hovering over its middle.

    One menu shows only some of the pairs (a reading, above the noise floor, q at most 0.05, kinds
    of units), another one those of two layers, and the legend hides and shows them by reading and
    strength (strong: from half of the strongest on). The three go together, but for the first
    menu, which shows again what the legend hid.

    Raises:
        ImportError: plotly is missing (the extra ``viz``).
        ValueError: no pairs were measured.
    """
    numbers, graph = network_numbers(found, k), _plotly()
    nodes = {node.label: node for node in numbers.nodes}
    largest = max(abs(edge.value) for edge in numbers.edges) or 1.0
    figure = graph.Figure()
    groups = {_group(edge, largest): edge for edge in reversed(numbers.edges)}
    for name in sorted(groups):  # the legend, which no menu changes
        style = _line(groups[name], 0.75 * largest if "strong" in name else 0.25 * largest, largest)
        figure.add_scatter(
            x=[None], y=[None], mode="lines", line=style, name=name, legendgroup=name
        )
    n_groups = len(groups)
    for edge in reversed(numbers.edges):
        _add_edge(figure, edge, edge_curve(nodes[edge.a], nodes[edge.b]), largest)
    mains = np.nan_to_num(np.array([node.main_effect for node in numbers.nodes]))
    figure.add_scatter(
        x=[node.x for node in numbers.nodes],
        y=[node.y for node in numbers.nodes],
        mode="markers+text",
        marker={
            "size": 12 + 16 * abs(mains) / (abs(mains).max() or 1.0),
            "color": "white",
            "opacity": 1,
            "line": {"color": "black", "width": 1.5},
        },
        text=[escape(node.label) for node in numbers.nodes],
        textposition="bottom center",
        hovertext=[
            f"{escape(node.label)}<br>main effect {with_error(node.main_effect, node.stderr)}"
            for node in numbers.nodes
        ],
        hoverinfo="text",
        showlegend=False,
    )
    pairs = strongest_pairs(found, k)

    def traces(of_edges: np.ndarray, others: Any) -> list[Any]:
        """One entry a trace: the legend's, each edge's line and badge, the nodes'."""
        return [others] * n_groups + np.repeat(of_edges[::-1], 2).tolist() + [others]

    which, where = {}, {}
    for name, shown in pair_filters(pairs).items():
        which[f"{name} ({int(shown.sum())})"] = [{"visible": traces(shown, True)}]
    for name, shown in layer_filters(pairs).items():
        hover = traces(np.where(shown, "text", "skip"), "text")
        hover[n_groups:-1:2] = ["skip"] * len(pairs)  # an edge is told by its badge
        where[f"{name} ({int(shown.sum())})"] = [
            {"opacity": traces(shown.astype(float), 1.0), "hoverinfo": hover}
        ]
    _add_menu(figure, which, "restyle")
    _add_menu(figure, where, "restyle", x=0.4)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, autorange="reversed")
    return figure.update_layout(
        template="plotly_white", title=f"The {len(numbers.edges)} strongest pairs", margin_t=120
    )


def _group(edge: Edge, largest: float) -> str:
    """The legend's entry of a pair."""
    strength = "strong" if abs(edge.value) >= _STRONG * largest else "weaker"
    return f"{edge.reading if edge.reading in _DASHES else 'neither'}, {strength}"


def _line(edge: Edge, size: float, largest: float) -> dict[str, Any]:
    return {
        "color": RED if edge.value > 0 else BLUE,
        "dash": _DASHES.get(edge.reading, "dot"),
        "width": 0.6 + 4.4 * size / largest,
    }


def _add_edge(
    figure: "Figure", edge: Edge, curve: tuple[tuple[float, float], ...], largest: float
) -> None:
    """A curve, and a badge on its middle that tells of it."""
    (x0, y0), (xc, yc), (x1, y1) = curve
    t = np.linspace(0, 1, 25)
    line, group = _line(edge, abs(edge.value), largest), _group(edge, largest)
    figure.add_scatter(
        x=(1 - t) ** 2 * x0 + 2 * t * (1 - t) * xc + t**2 * x1,
        y=(1 - t) ** 2 * y0 + 2 * t * (1 - t) * yc + t**2 * y1,
        mode="lines",
        line=line,
        name=group,
        legendgroup=group,
        showlegend=False,
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=[(x0 + 2 * xc + x1) / 4],
        y=[(y0 + 2 * yc + y1) / 4],
        mode="markers+text",
        marker={"size": 13, "color": "white", "line": {"color": line["color"], "width": 1}},
        text="+" if edge.value > 0 else "\N{MINUS SIGN}",
        textfont={"color": line["color"]},
        legendgroup=group,
        showlegend=False,
        hovertext=[edge_text(edge)],
        hoverinfo="text",
    )


def with_error(value: float, stderr: float) -> str:
    """A value with its standard error: ``+5.3 +- 0.088``."""
    if np.isnan(value):
        return "not measured"
    return f"{value:+.3g}" if np.isnan(stderr) else f"{value:+.3g} +- {stderr:.2g}"


def edge_text(edge: Edge) -> str:
    """What hovering over a pair shows; names are escaped, as plotly reads tags in texts."""
    q = "" if np.isnan(edge.q_value) else f"<br>q = {edge.q_value:.2g}"
    value = with_error(edge.value, edge.stderr)
    return f"{escape(edge.a)} x {escape(edge.b)}<br>{value}<br>{edge.reading}{q}"


def _map(found: Interactions, numbers: MapNumbers | Folded) -> "Figure":
    """A heat map with its menu; a click lists the pairs of a cell of several."""
    pairs = found.top(len(found), order=2)
    inside = (numbers.row_of[pairs.units[:, :2]] >= 0).all(axis=1)
    pairs = pairs.take(np.flatnonzero(inside))
    cells = pairs_by_cell(numbers.row_of, pairs)
    many = {cell: held for cell, held in cells.items() if held[1] > 1}
    largest = np.nan_to_num(abs(numbers.values)).max(initial=0.0) or 1.0
    graph = _plotly()
    heat = graph.Heatmap(
        z=numbers.values,
        colorscale="RdBu_r",
        zmin=-largest,
        zmax=largest,
        hovertext=_cell_texts(numbers.names, cells, many),
        text=_sums(numbers.values, many),
        hovertemplate="%{hovertext}%{text}<extra></extra>",
        colorbar={"title": metric_unit(found)},
    )
    figure = _square(graph.Figure(heat), numbers.names)
    choices = {}
    for name, shown in pair_filters(pairs).items():
        values = filtered_values(numbers, pairs, shown)
        # What is not measured says so; what a choice hides says nothing.
        new: dict[str, Any] = {"z": [_plain(values)], "hoverongaps": [bool(shown.all())]}
        if many:
            new["text"] = [_sums(values, many)]
        choices[f"{name} ({int(shown.sum()):,})"] = [new]
    _add_menu(figure, choices, "restyle")
    _add_clicks(figure, many, numbers.names)
    return figure


Cells = dict[tuple[int, int], tuple[list[Edge], int]]


def _cell_texts(names: list[str], cells: Cells, many: Cells) -> list[list[str]]:
    """What hovering tells: of a pair all, of a cell of many what its value is."""

    def text(row: int, column: int) -> str:
        cell = row, column
        named = f"{escape(names[row])} x {escape(names[column])}<br>"
        if cell in many:
            return f"{named}energy, signed by the sum: "
        return edge_text(cells[cell][0][0]) if cell in cells else f"{named}not measured"

    rows = range(len(names))
    return [[text(row, column) for column in rows] for row in rows]


def _sums(values: Float[np.ndarray, "row row"], many: Cells) -> list[list[str]]:
    """The value of each cell of many pairs, which changes with what is chosen."""
    return [
        [f"{value:+.3g}" if (row, column) in many else "" for column, value in enumerate(line)]
        for row, line in enumerate(values)
    ]


def _energy(numbers: LayerEnergy, total: float) -> dict[str, Any]:
    """Per cent of a total, and what hovering tells."""
    share = np.where(numbers.n_pairs > 0, 100 * numbers.energy / (total or 1.0), np.nan)
    texts = [
        [
            f"{a} x {b}: {share[row, column]:.1f} %<br>energy {numbers.energy[row, column]:.3g}, "
            f"{numbers.n_pairs[row, column]:,} pairs"
            for column, b in enumerate(numbers.names)
        ]
        for row, a in enumerate(numbers.names)
    ]
    return {"z": share, "hovertext": texts}


def _plain(values: Float[np.ndarray, "row row"]) -> list[list[float | None]]:
    """For JSON, which has no NaN; a menu's numbers are not converted by plotly."""
    return [[None if np.isnan(value) else value for value in row] for row in values.tolist()]


def _add_menu(figure: Any, choices: dict[str, list[Any]], method: str, x: float = 0.0) -> None:
    """A drop-down menu above the picture, unless there is nothing to choose from."""
    if len(choices) < 2:
        return
    buttons = [
        {"label": name, "method": method, "args": arguments} for name, arguments in choices.items()
    ]
    place = {"x": x, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    menus = [*figure.layout.updatemenus, {"buttons": buttons, "showactive": True, **place}]
    figure.update_layout(updatemenus=menus)


def _add_zoom(figure: "Figure", found: Interactions, numbers: MapNumbers) -> None:
    """A menu that goes to the rows of one layer and the columns of another."""
    starts = [0, *numbers.borders, len(numbers.names)]
    span = {
        f"L{layer_of(numbers.names[start])}": (start - 0.5, stop - 0.5)
        for start, stop in pairwise(starts)
    }
    pairs = found.top(len(found), order=2)
    shown = (numbers.row_of[pairs.units[:, :2]] >= 0).all(axis=1)
    whole = (-0.5, len(numbers.names) - 0.5)
    choices = {}
    for name in layer_filters(pairs.take(np.flatnonzero(shown))) if shown.any() else ():
        rows, columns = name.split(" x ") if " x " in name else ("", "")
        low, high = span.get(rows, whole)
        ranges = {"xaxis.range": [*span.get(columns, whole)], "yaxis.range": [high, low]}
        choices[name] = [ranges]
    _add_menu(figure, choices, "relayout", x=0.45)


def _add_clicks(figure: Any, cells: Cells, names: list[str]) -> None:
    """Beside the map, what a click on a cell opens: its strongest pairs."""
    if not cells:
        return
    notes = []
    for (row, column), (edges, count) in cells.items():
        held = f"{count:,} pair{'s' * (count > 1)}"
        lines = [f"<b>{escape(names[row])} x {escape(names[column])}</b>: {held}"]
        lines += [
            f"{escape(edge.a)} x {escape(edge.b)}  {with_error(edge.value, edge.stderr)}  "
            f"{edge.reading}"
            for edge in edges
        ]
        lines += [f"... {count - len(edges):,} weaker ones"] if count > len(edges) else []
        notes.append(
            {
                "text": "<br>".join(lines), "visible": False, "clicktoshow": "onout",
                "xclick": column, "yclick": row, "x": len(names) - 0.5, "y": -0.5,
                "xref": "x", "yref": "y", "xanchor": "left", "yanchor": "top", "xshift": _BAR,
                "align": "left", "showarrow": False, "bgcolor": "white", "bordercolor": "black",
            }
        )  # fmt: skip
    figure.update_layout(
        annotations=notes, width=figure.layout.width + _BESIDE, margin_r=_BAR + _BESIDE
    )


def _square(figure: Any, names: list[str]) -> "Figure":
    n_names = len(names)
    side = 460 + 10 * n_names
    # Places with names beside them, not categories: two units may bear one name. Ranges of their
    # own: what a click opens beside the map must not make room for itself in it.
    ticks = {"tickvals": [*range(n_names)], "ticktext": [escape(name) for name in names]}
    same = {"showgrid": False, "zeroline": False, "constrain": "domain", **ticks}
    side_by_side = {"constraintoward": "right"}  # the colours and lists beside it stay near
    figure.update_xaxes(tickangle=-90, range=[-0.5, n_names - 0.5], **side_by_side, **same)
    figure.update_yaxes(range=[n_names - 0.5, -0.5], scaleanchor="x", **same)
    return figure.update_layout(
        template="plotly_white",
        plot_bgcolor=_UNMEASURED,
        width=side + 90,
        height=side + 40,
        margin_t=120,
    )


def _plotly() -> Any:
    try:
        import plotly.graph_objects as graph
    except ImportError as error:
        raise ImportError(
            "interactive pictures need plotly: pip install 'spex_mech[viz]'"
        ) from error
    return graph
