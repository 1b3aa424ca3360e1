"""Pictures of interactions that answer to the pointer (plotly), drawn from the numbers of
``numbers`` and ``network`` in the colours of ``style``.

Hovering gives labels, values and errors, menus choose which pairs are shown, and a click opens a
cell of many pairs. Menus and clicks are plotly's own: they need no Python behind them.
"""

from dataclasses import dataclass, replace
from functools import cache
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.plots import style
from spex_mech.plots.filters import filtered_values, layer_filters, pair_filters, pairs_by_cell
from spex_mech.plots.network import (
    Edge,
    Network,
    Node,
    edge_curve,
    network_numbers,
    strongest_pairs,
)
from spex_mech.plots.numbers import (
    Folded,
    LayerEnergy,
    MapNumbers,
    folded_numbers,
    is_marked,
    layer_energy,
    map_numbers,
    metric_unit,
    pale_cells,
)
from spex_mech.plots.words import (
    MEANING,
    PALE,
    PALE_UNSIGNED,
    heading,
    strongest_text,
    with_error,
)
from spex_mech.results.interactions import Interactions
from spex_mech.results.printed import confirmed_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_DASHES = {"solid": "solid", "dashed": "dash", "dotted": "dot"}
_CLEAR = 2  # of a cell that no veil lies over
_STRONG = 0.5  # of the strongest pair: from there on the legend calls a pair strong
_DIGITS = 3  # of a value that is a colour; more would make a page of many choices large
_MANY = 40  # units: a map of more shows some of the names, and more of them when one zooms in
# Pixels: for the colours above a map, from one menu to the next, for the names beside a map at
# least, and under it for what a click opens.
_COLOURS, _LINE, _NAMES, _LIST = 55, 38, 70, 190
_GREY, _BLUE_GREY = "grey: not measured", "blue-grey: no pair was measured"


def draw_map(found: Interactions, by: str, most: int) -> "Figure":
    """What :func:`spex_mech.plot_map` draws by plotly."""
    numbers = map_numbers(found, by, most)
    figure = _map(found, numbers)
    for border in numbers.borders:
        figure.add_hline(border - 0.5, line={"color": "black", "width": 0.7})
        figure.add_vline(border - 0.5, line={"color": "black", "width": 0.7})
    notes = (*PALE_UNSIGNED, *_hidden(figure, _GREY))
    if by == "layer":
        return _headed(figure, found, "By layer: click a cell for its pairs", notes)
    _add_zoom(figure, found, numbers)
    n, n_all = len(numbers.names), len(found.labels)
    # Through the cells of a unit with itself, as in the still picture.
    ends = {"x0": -0.5, "y0": -0.5, "x1": n - 0.5, "y1": n - 0.5}
    figure.add_shape(type="line", line={"color": "#999999", "width": 0.5}, **ends)
    cut = f"the {n} strongest of {n_all:,} units" if n < n_all else ""
    return _headed(figure, found, cut, notes)


def draw_layers(found: Interactions) -> "Figure":
    """What :func:`spex_mech.plot_layers` draws by plotly."""
    numbers, graph = layer_energy(found), _plotly()
    pairs = found.top(len(found), order=2)
    heat = graph.Heatmap(
        **_energy(numbers, numbers.total),
        colorscale="Greys",
        zmin=0,
        zmax=100 * numbers.energy.max() / (numbers.total or 1.0) or 1.0,
        hoverinfo="text",
        colorbar=_colour_bar("% of energy"),
    )
    figure = _square(_figure(heat), numbers.names)
    choices = {}
    for name, shown in pair_filters(pairs).items():
        part = _energy(_part(numbers, pairs, shown), numbers.total)
        new = {"z": [_plain(part["z"])], "hovertext": [part["hovertext"]]}
        choices[f"{name} ({int(shown.sum()):,})"] = [new]
    _add_menu(figure, choices, "restyle")
    _add_clicks(figure, pairs_by_cell(numbers.row_of, pairs), numbers.names)
    what = f"{100 * numbers.share_within:.0f} % within layers. Click a cell for its pairs"
    figure.update_layout(plot_bgcolor=style.UNMEASURED_IN_GREYS)
    return _headed(figure, found, what, _hidden(figure, _BLUE_GREY), "Energy by layer")


def draw_neurons(found: Interactions, share: float, most: int) -> "Figure":
    """What :func:`spex_mech.plot_neurons` draws by plotly."""
    numbers = folded_numbers(found, share, most)
    figure = _map(found, numbers)
    what = f"Rows of their own hold {100 * numbers.kept:.0f} % of the neurons' energy"
    click = ". Click a folded cell for its pairs" if numbers.is_block.any() else ""
    return _headed(figure, found, what + click, (*PALE_UNSIGNED, *_hidden(figure, _GREY)))


def draw_network(found: Interactions, k: int) -> "Figure":
    """What :func:`spex_mech.plot_network` draws by plotly."""
    numbers = network_numbers(found, k)
    nodes = {node.label: node for node in numbers.nodes}
    largest = max(abs(edge.value) for edge in numbers.edges) or 1.0
    figure = _figure()
    groups: dict[str, list[Edge]] = {}
    for edge in numbers.edges:
        groups.setdefault(_group(edge, largest), []).append(edge)
    for name in sorted(groups):  # the legend, which no menu changes
        line = _legend_line(name, groups[name])
        figure.add_scatter(x=[None], y=[None], mode="lines", line=line, name=name, legendgroup=name)
    for edge in reversed(numbers.edges):
        _add_edge(figure, edge, edge_curve(nodes[edge.a], nodes[edge.b], edge.overlaps), largest)
    _add_nodes(figure, numbers)
    _add_choices(figure, strongest_pairs(found, k), len(groups))
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, autorange="reversed")
    figure.update_layout(
        template="plotly_white",
        height=max(480, 140 + 50 * _most_in_column(numbers)),  # without its heading
        legend={"orientation": "h", "y": -0.02, "yanchor": "top"},
        margin={"l": 20, "r": 20, "b": 20},
    )
    return _headed(figure, found, strongest_text(len(numbers.edges)), PALE)


def _most_in_column(numbers: Network) -> int:
    places = np.array([round(node.x, 6) for node in numbers.nodes if node.layer >= 0])
    return int(np.unique(places, return_counts=True)[1].max(initial=0))


def _add_nodes(figure: "Figure", numbers: Network) -> None:
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
        text=[_told(node.label) for node in numbers.nodes],
        textposition="bottom center",
        hovertext=[_node_text(node) for node in numbers.nodes],
        hoverinfo="text",
        showlegend=False,
    )


def _node_text(node: Node) -> str:
    effect = with_error(node.main_effect, node.stderr)
    return f"{_told(node.label)}<br>main effect {effect}"


def _add_choices(figure: "Figure", pairs: Interactions, n_groups: int) -> None:
    """The two menus of a network: which pairs, and of which layers."""

    def traces(of_edges: np.ndarray, others: Any) -> list[Any]:
        """One entry per trace: the legend's, each edge's line and badge, the nodes'."""
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
    _add_menu(figure, where, "restyle")


def _group(edge: Edge, largest: float) -> str:
    """The legend's entry of a pair."""
    meaning = MEANING[edge.overlaps]
    if edge.pale:
        return f"{meaning}, not significant"
    strength = "strong" if abs(edge.value) >= _STRONG * largest else "weaker"
    clear = edge.line != "dotted"
    return f"{edge.reading if clear else f'{meaning}, no reading'}, {strength}"


def _legend_line(group: str, edges: list[Edge]) -> dict[str, Any]:
    """The line of a legend's entry, by any of its edges."""
    return _line(edges[0], 1.0) | {"width": 4 if group.endswith("strong") else 1.7}


def _line(edge: Edge, largest: float) -> dict[str, Any]:
    colour = style.colour_of(edge.overlaps)
    return {
        "color": _faded(colour) if edge.pale else colour,
        "dash": _DASHES[edge.line],
        "width": 0.6 + 4.4 * abs(edge.value) / largest,
    }


def _faded(colour: str) -> str:
    return f"rgba{(*style.rgb(colour), style.PALE_OPACITY)}"


def _add_edge(
    figure: "Figure", edge: Edge, curve: tuple[tuple[float, float], ...], largest: float
) -> None:
    """A curve, and a badge on its middle that tells of it."""
    (x0, y0), (xc, yc), (x1, y1) = curve
    t = np.linspace(0, 1, 25)
    line, group = _line(edge, largest), _group(edge, largest)
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
        text=style.sign_of(edge.value),
        textfont={"color": line["color"]},
        legendgroup=group,
        showlegend=False,
        hovertext=[edge_text(edge)],
        hoverinfo="text",
    )


def _told(text: str) -> str:
    """A text that plotly shows as it is. It reads tags, and where a page has MathJax formulas
    between dollar signs; of quotation marks it knows no entities, and would show them as such."""
    return escape(text, quote=False).replace("$", "&#36;")


def edge_text(edge: Edge) -> str:
    """What hovering over a pair shows."""
    q = "" if np.isnan(edge.q_value) else f"<br>q = {edge.q_value:.2g}"
    value = with_error(edge.value, edge.half)
    held = confirmed_text(edge.confirmed)
    return f"{_told(edge.a)} x {_told(edge.b)}<br>{value}<br>{edge.reading}{held}{q}"


def _map(found: Interactions, numbers: MapNumbers | Folded) -> "Figure":
    """A heat map with its menu; a click lists the pairs of a cell of several."""
    pairs = found.top(len(found), order=2)
    inside = (numbers.row_of[pairs.units[:, :2]] >= 0).all(axis=1)
    pairs = pairs.take(np.flatnonzero(inside))
    cells = pairs_by_cell(numbers.row_of, pairs)
    many = {cell: held for cell, held in cells.items() if held[1] > 1}
    several = np.zeros_like(numbers.pale)
    several[tuple(np.array([*many], dtype=int).reshape(-1, 2).T)] = True
    drawn = _Cells(found, numbers, pairs, several)
    texts = _cell_texts(numbers.names, cells, many)
    figure = _square(_figure(drawn.traces(texts)), numbers.names)
    choices = {
        f"{name} ({int(shown.sum()):,})": drawn.chosen(shown)
        for name, shown in pair_filters(pairs).items()
    }
    _add_menu(figure, choices, "restyle")
    _add_clicks(figure, many, numbers.names)
    return figure


@dataclass(frozen=True, eq=False)
class _Cells:
    """The cells of a map, as traces that a menu changes.

    Cells of one pair keep their value, and a choice covers those that it leaves out; cells of
    several have another value for each choice. So a menu holds the values of the latter alone, and
    a page of many units and choices stays small.

    Args:
        pairs: those that are in the map.
        several: True for the cells of several pairs.
    """

    found: Interactions
    numbers: MapNumbers | Folded
    pairs: Interactions
    several: Bool[np.ndarray, "row row"]

    @property
    def one_unit(self) -> Bool[np.ndarray, " row"]:
        numbers = self.numbers
        return ~numbers.is_block if isinstance(numbers, Folded) else numbers.is_unit

    def traces(self, texts: list[list[str]]) -> list[Any]:
        """Cells of one pair, what makes the pale ones pale, and what covers those that are left
        out; then, where there are any, cells of several and what makes those pale."""
        values, pale = self.numbers.values, self.numbers.pale
        one = np.where(self.several, np.nan, values)
        signs = _signs(values, pale, self.found, ~self.several)
        all_pairs = np.ones(len(self.pairs), dtype=bool)
        traces = [
            self._heat(z=one, text=signs, hovertext=texts, hovertemplate="%{hovertext}"),
            _veil(pale, one, self.one_unit),
            self._cover(all_pairs, values),
        ]
        if not self.several.any():
            return traces
        change, veil = self._changing(all_pairs, values)
        told = [[t if m else "" for t, m in zip(*row, strict=True)]
                for row in zip(texts, self.several.tolist(), strict=True)]  # fmt: skip
        bar = {"showscale": False}
        worth = "%{hovertext}%{z:+.3~g}"
        more = self._heat(**change, **bar, hovertext=told, hovertemplate=worth, hoverongaps=False)
        return [*traces, more, veil]

    def chosen(self, shown: Bool[np.ndarray, " pair"]) -> list[Any]:
        """What a choice changes, and in which traces."""
        values = filtered_values(self.numbers, self.pairs, shown)
        cover = self._cover(shown, values).z
        if not self.several.any():
            return [{"z": [cover]}, [2]]
        change, veil = self._changing(shown, values)
        return [{"z": [cover, change["z"], veil.z], "text": ["", change["text"], ""]}, [2, 3, 4]]

    def _heat(self, **given: Any) -> Any:
        largest = np.nan_to_num(abs(self.numbers.values)).max(initial=0.0) or 1.0
        given["hovertemplate"] += "<extra></extra>"
        return _plotly().Heatmap(
            colorscale="RdBu" if self.found.less_is_better else "RdBu_r",
            zmin=-largest,
            zmax=largest,
            texttemplate="%{text}",
            colorbar=_colour_bar(metric_unit(self.found)),
            **given,
        )

    def _changing(
        self, shown: Bool[np.ndarray, " pair"], values: Float[np.ndarray, "row row"]
    ) -> tuple[dict[str, Any], Any]:
        """Values and signs of the cells of several pairs, and what makes the pale ones pale."""
        numbers = self.numbers
        pale = pale_cells(numbers.row_of, self.pairs, len(numbers.names), shown)
        signs = _signs(values, pale, self.found, self.several)
        values = np.where(self.several, values, np.nan)
        z = [
            [float(f"{value:.{_DIGITS}g}") if value == value else "" for value in row]
            for row in values.tolist()
        ]
        return {"z": z, "text": signs}, _veil(pale, values, np.zeros(len(values), dtype=bool))

    def _cover(self, shown: Bool[np.ndarray, " pair"], values: Float[np.ndarray, "row row"]) -> Any:
        """Grey over the cells that a choice leaves out. It tells nothing, so that hovering over
        them does not either; cells of a unit with itself stay white."""
        seen = ~np.isnan(values) | np.diag(self.one_unit) | shown.all()
        rows = [np.trim_zeros(row, "b").tolist() for row in ~seen]
        return _plotly().Heatmap(
            z=[[1 if cell else "" for cell in row] for row in rows],  # "" is short for none
            colorscale=[[0, style.UNMEASURED], [1, style.UNMEASURED]],
            zmin=0,
            zmax=1,
            showscale=False,
            hoverinfo="none",
            hoverongaps=False,
        )


def _veil(
    pale: Bool[np.ndarray, "row row"],
    values: Float[np.ndarray, "row row"],
    one_unit: Bool[np.ndarray, " row"],
) -> Any:
    """A white veil over the cells of which no pair is significant, and white over those of a unit
    with itself, which are no pairs and not to be taken for unmeasured ones."""
    itself = np.diag(one_unit) & np.isnan(values)
    cells = np.where(itself, 0, np.where(pale & ~np.isnan(values), 1, _CLEAR))
    # Digits, which are shorter in a page than that there is none; each row up to its last veil.
    rows = [(np.trim_zeros(row - _CLEAR, "b") + _CLEAR).tolist() for row in cells]
    clear = "rgba(255,255,255,0)"
    return _plotly().Heatmap(
        z=rows,
        zmin=0,
        zmax=_CLEAR,
        colorscale=[[0, "white"], [0.5, f"rgba(255,255,255,{1 - style.PALE_OPACITY})"], [1, clear]],
        showscale=False,
        hoverinfo="skip",
        hoverongaps=False,
    )


def _colour_bar(title: str) -> dict[str, Any]:
    """Above the picture: beside it a narrow page has no room."""
    return {
        "title": {"text": title, "side": "right"}, "orientation": "h", "thickness": 10, "ypad": 4,
        "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "len": 260, "lenmode": "pixels",
    }  # fmt: skip


Cells = dict[tuple[int, int], tuple[list[Edge], int]]


def _cell_texts(names: list[str], cells: Cells, many: Cells) -> list[list[str]]:
    """What hovering tells: of a pair all, of a cell of many what its value is."""

    def text(row: int, column: int) -> str:
        cell = row, column
        named = f"{_told(names[row])} x {_told(names[column])}<br>"
        if cell in many:
            return f"{named}energy, signed by the sum: "
        return edge_text(cells[cell][0][0]) if cell in cells else f"{named}not measured"

    rows = range(len(names))
    return [[text(row, column) for column in rows] for row in rows]


def _signs(
    values: Float[np.ndarray, "row row"],
    pale: Bool[np.ndarray, "row row"],
    found: Interactions,
    of: Bool[np.ndarray, "row row"],
) -> list[list[str]]:
    """The signs in some cells of a map, as in the still picture; each row up to its last one."""
    marked = is_marked(values, pale, found.values.shape[1]) & of
    return [
        [style.sign_of(values[row, column]) if shown else "" for column, shown in enumerate(line)]
        for row, line in enumerate(np.trim_zeros(cells, "b").tolist() for cells in marked)
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


def _part(
    numbers: LayerEnergy, pairs: Interactions, shown: Bool[np.ndarray, " pair"]
) -> LayerEnergy:
    """The energy of some of the pairs, which may be none."""
    if shown.any():
        return layer_energy(pairs.take(np.flatnonzero(shown)))
    nothing = np.zeros_like(numbers.energy)
    return replace(numbers, energy=nothing, n_pairs=nothing.astype(int))


def _plain(values: Float[np.ndarray, "row row"], digits: int = 17) -> list[list[float | None]]:
    """For JSON, which has no NaN; a menu's numbers are not converted by plotly."""
    return [
        [None if np.isnan(value) else float(f"{value:.{digits}g}") for value in row]
        for row in values.tolist()
    ]


def _add_menu(figure: Any, choices: dict[str, list[Any]], method: str) -> None:
    """A drop-down menu above the picture, under those that are there already, unless there is
    nothing to choose from. One menu per line: side by side they overlap on a narrow page."""
    if len(choices) < 2:
        return
    buttons = [
        {"label": name, "method": method, "args": arguments} for name, arguments in choices.items()
    ]
    place = {"x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom"}
    menu = {"buttons": buttons, "showactive": True, **place}
    figure.update_layout(updatemenus=[*figure.layout.updatemenus, menu])


def _add_zoom(figure: "Figure", found: Interactions, numbers: MapNumbers) -> None:
    """A menu that goes to the rows of one layer and the columns of another."""
    starts = [0, *numbers.borders, len(numbers.names)]
    names = [*numbers.blocks.names, ""]  # the last for units of no layer
    span = {
        names[numbers.layers[start]]: (start - 0.5, stop - 0.5) for start, stop in pairwise(starts)
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
    _add_menu(figure, choices, "relayout")


def _add_clicks(figure: Any, cells: Cells, names: list[str]) -> None:
    """Beside the map, what a click on a cell opens: its strongest pairs."""
    if not cells:
        return
    notes = []
    for (row, column), (edges, count) in cells.items():
        held = f"{count:,} pair{'s' * (count > 1)}"
        lines = [f"<b>{_told(names[row])} x {_told(names[column])}</b>: {held}"]
        lines += [
            f"{_told(edge.a)} x {_told(edge.b)}  {with_error(edge.value, edge.half)}  "
            f"{edge.reading}{confirmed_text(edge.confirmed)}"
            for edge in edges
        ]
        lines += [f"... {count - len(edges):,} weaker ones"] if count > len(edges) else []
        notes.append(
            {
                "text": "<br>".join(lines), "visible": False, "clicktoshow": "onout",
                "xclick": column, "yclick": row, "x": -0.5, "y": len(names) - 0.5,
                "xref": "x", "yref": "y", "xanchor": "left", "yanchor": "top",
                "yshift": -_room(names), "align": "left", "showarrow": False,
                "bgcolor": "white", "bordercolor": "black",
            }
        )  # fmt: skip
    figure.update_layout(annotations=notes, height=figure.layout.height + _LIST)
    figure.update_layout(margin_b=figure.layout.margin.b + _LIST)


def _square(figure: Any, names: list[str]) -> "Figure":
    n_names = len(names)
    # Places with names beside them, not categories: two units may bear one name. Ranges of their
    # own: what a click opens under the map must not make room for itself in it.
    same: dict[str, Any] = {"showgrid": False, "zeroline": False, "constrain": "domain"}
    same["tickfont"] = {"size": 12 if n_names <= 16 else 8}
    if n_names <= _MANY:
        same |= {"tickvals": [*range(n_names)], "ticktext": [_told(name) for name in names]}
    else:  # as many names as there is room for, more when one zooms in
        same |= {"labelalias": {str(row): _told(name) for row, name in enumerate(names)}}
        same |= {"tickformat": "d", "nticks": _MANY}
    figure.update_xaxes(tickangle=-90, range=[-0.5, n_names - 0.5], constraintoward="left", **same)
    figure.update_yaxes(range=[n_names - 0.5, -0.5], scaleanchor="x", constraintoward="top", **same)
    return figure.update_layout(
        template="plotly_white",
        plot_bgcolor=style.UNMEASURED,
        height=min(340 + 10 * n_names, 680) + _room(names),  # without its heading
        margin={"l": _room(names), "r": 20, "b": _room(names)},
    )


def _room(names: list[str]) -> int:
    """Pixels for the names beside and under a map."""
    letter = 7 if len(names) <= 16 else 5
    return min(max(_NAMES, 20 + letter * max(map(len, names), default=0)), 3 * _NAMES)


def _hidden(figure: Any, grey: str) -> tuple[str]:
    """What is grey in a map: also what its first menu, where it has one, leaves out."""
    menus = figure.layout.updatemenus
    return (f"{grey}, or left out by the menu" if menus else grey,)


def _headed(
    figure: Any,
    found: Interactions,
    what: str,
    notes: tuple[str, ...],
    subject: str = "Pair interactions",
) -> "Figure":
    """With a heading, under it ``notes`` on what is pale or grey, then the menus and colours."""
    lines = [_told(line) for line in heading(found, what, subject).split("\n")]
    lines = [f"<b>{lines[0]}</b>", *lines[1:]]
    lines += [f"<span style='font-size:11px'>{_told(line)}</span>" for line in notes]
    menus = [menu.to_plotly_json() for menu in figure.layout.updatemenus]
    room = _COLOURS if any(trace.type == "heatmap" for trace in figure.data) else 10
    for line, menu in enumerate(reversed(menus)):
        menu["pad"] = {"b": room + _LINE * line}
    top = 40 + 17 * len(lines) + _LINE * len(menus) + room
    title = {"text": "<br>".join(lines), "font": {"size": 13}, "x": 0, "xref": "paper"}
    return figure.update_layout(
        title=title | {"y": 1, "yanchor": "top", "pad": {"t": 26}},
        updatemenus=menus,
        margin_t=top,
        height=figure.layout.height + top,
    )


def _figure(*content: Any) -> Any:
    """A figure whose pages share plotly, which is 4.7 MB, with those beside them."""
    return _shared(_plotly().Figure)(*content)


@cache
def _shared(figure: Any) -> Any:
    class Picture(figure):
        def write_html(self, file: Any, *args: Any, **kwargs: Any) -> None:
            """Write a page. ``include_plotlyjs`` is "directory" unless it is given: plotly is a
            file beside the page, once for all pages of a folder, and the page needs no network.
            With ``include_plotlyjs=True`` the page holds plotly and stands alone."""
            if len(args) < 3:  # of the arguments by position, it is the third after the file
                kwargs.setdefault("include_plotlyjs", "directory")
            super().write_html(file, *args, **kwargs)

    return Picture


def _plotly() -> Any:
    try:
        import plotly.graph_objects as graph
    except ImportError as error:
        raise ImportError(
            "interactive pictures need plotly: pip install 'spex_mech[viz]'"
        ) from error
    return graph
