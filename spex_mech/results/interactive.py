"""Interactive pictures (plotly), drawn from the numbers of ``maps``: hovering gives labels, values
and errors.

Colours and styles are those of ``plots``. A figure shows itself in a notebook;
``figure.write_html("map.html")`` writes a page.
"""

from html import escape
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from spex_mech.results.interactions import Interactions
from spex_mech.results.maps import (
    Edge,
    edge_curve,
    folded_numbers,
    layer_energy,
    map_numbers,
    metric_unit,
    network_numbers,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_RED, _BLUE, _UNMEASURED = "#b2182b", "#2166ac", "#cccccc"
_DASHES = {"AND-like": "solid", "OR-like": "dash"}


def interactive_map(
    found: Interactions, by: Literal["unit", "layer"] = "unit", most: int = 64
) -> "Figure":
    """:func:`spex_mech.plot_map` with the value, its error and reading where the pointer is.

    Raises:
        ImportError: plotly is missing (the extra ``viz``).
        ValueError: no pairs were measured, or units carry no layer.
    """
    numbers = map_numbers(found, by, most)
    texts = _pair_texts(found) if by == "unit" else {}
    figure = _heat(numbers.values, numbers.names, metric_unit(found), texts)
    for border in numbers.borders:
        figure.add_hline(border - 0.5, line={"color": "black", "width": 0.7})
        figure.add_vline(border - 0.5, line={"color": "black", "width": 0.7})
    return figure.update_layout(title="Pair interactions")


def interactive_layers(found: Interactions) -> "Figure":
    """:func:`spex_mech.plot_layers`: the energy of the pairs between any two layers.

    Raises:
        ImportError: plotly is missing (the extra ``viz``).
        ValueError: no pairs were measured, or units carry no layer.
    """
    numbers = layer_energy(found)
    graph = _plotly()
    share = 100 * numbers.energy / (numbers.total or 1.0)
    heat = graph.Heatmap(
        z=np.where(numbers.n_pairs > 0, share, np.nan),
        x=numbers.names,
        y=numbers.names,
        colorscale="Greys",
        zmin=0,
        customdata=np.stack([numbers.energy, numbers.n_pairs], axis=-1),
        hovertemplate="%{y} x %{x}: %{z:.1f} %<br>energy %{customdata[0]:.3g}, "
        "%{customdata[1]} pairs<extra></extra>",
        colorbar={"title": "% of energy"},
    )
    title = f"Energy by layer: {100 * numbers.share_within:.0f} % within layers"
    return _square(graph.Figure(heat), len(numbers.names)).update_layout(title=title)


def interactive_neurons(found: Interactions, share: float = 0.9, most: int = 24) -> "Figure":
    """:func:`spex_mech.plot_neurons`, with the value and its error where the pointer is.

    Raises:
        ImportError: plotly is missing (the extra ``viz``).
        ValueError: there are no pairs or no neurons.
    """
    numbers = folded_numbers(found, share, most)
    figure = _heat(numbers.values, numbers.names, metric_unit(found), _pair_texts(found))
    title = f"Rows of their own hold {100 * numbers.kept:.0f} % of the neurons' energy"
    return figure.update_layout(title=title)


def interactive_network(found: Interactions, k: int = 20) -> "Figure":
    """:func:`spex_mech.plot_network`; an edge is told by hovering over its middle, and the legend
    hides and shows the AND-like, the OR-like and the other pairs.

    Raises:
        ImportError: plotly is missing (the extra ``viz``).
        ValueError: no pairs were measured.
    """
    numbers = network_numbers(found, k)
    graph = _plotly()
    nodes = {node.label: node for node in numbers.nodes}
    largest = max(abs(edge.value) for edge in numbers.edges) or 1.0
    figure, listed = graph.Figure(), set()
    for edge in reversed(numbers.edges):
        (x0, y0), (xc, yc), (x1, y1) = edge_curve(nodes[edge.a], nodes[edge.b])
        t = np.linspace(0, 1, 25)
        colour = _RED if edge.value > 0 else _BLUE
        kind = edge.reading if edge.reading in _DASHES else "neither"
        figure.add_scatter(
            x=(1 - t) ** 2 * x0 + 2 * t * (1 - t) * xc + t**2 * x1,
            y=(1 - t) ** 2 * y0 + 2 * t * (1 - t) * yc + t**2 * y1,
            mode="lines",
            line={
                "color": colour,
                "dash": _DASHES.get(kind, "dot"),
                "width": 0.6 + 4.4 * abs(edge.value) / largest,
            },
            name=kind,
            legendgroup=kind,
            showlegend=kind not in listed,
            hoverinfo="skip",
        )
        figure.add_scatter(
            x=[(x0 + 2 * xc + x1) / 4],
            y=[(y0 + 2 * yc + y1) / 4],
            mode="markers+text",
            marker={"size": 13, "color": "white", "line": {"color": colour, "width": 1}},
            text="+" if edge.value > 0 else "\N{MINUS SIGN}",
            textfont={"color": colour},
            legendgroup=kind,
            showlegend=False,
            hovertext=[edge_text(edge)],
            hoverinfo="text",
        )
        listed.add(kind)
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
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False, autorange="reversed")
    return figure.update_layout(
        template="plotly_white", title=f"The {len(numbers.edges)} strongest pairs"
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


def _pair_texts(found: Interactions) -> dict[tuple[str, str], str]:
    rows = np.flatnonzero(found.order == 2)
    readings, texts = found.readings, {}
    for row in rows:
        a, b = (found.labels[unit] for unit in found.units[row, :2])
        value, error = float(found.mean[row]), float(found.stderr[row])
        text = edge_text(Edge(a, b, value, error, float(found.q_value[row]), readings[row]))
        texts[a, b] = texts[b, a] = text
    return texts


def _heat(
    values: Float[np.ndarray, "row row"],
    names: list[str],
    unit: str,
    texts: dict[tuple[str, str], str],
) -> "Figure":
    largest = np.nan_to_num(abs(values)).max() or 1.0

    def text(row: int, column: int) -> str:
        a, b, value = names[row], names[column], values[row, column]
        known = "not measured" if np.isnan(value) else f"energy, signed by the sum: {value:+.3g}"
        return texts.get((a, b), f"{escape(a)} x {escape(b)}<br>{known}")

    cells = range(len(names))
    graph = _plotly()
    heat = graph.Heatmap(
        z=values,
        colorscale="RdBu_r",
        zmin=-largest,
        zmax=largest,
        hovertext=[[text(row, column) for column in cells] for row in cells],
        hoverinfo="text",
        colorbar={"title": unit},
    )
    figure = graph.Figure(heat)
    # Places with names beside them, not categories: two units may bear one name.
    ticks = {"tickvals": [*cells], "ticktext": [escape(name) for name in names]}
    figure.update_xaxes(ticks)
    figure.update_yaxes(ticks)
    return _square(figure, len(names))


def _square(figure: Any, n_names: int) -> "Figure":
    side = 460 + 10 * n_names
    figure.update_xaxes(tickangle=-90, showgrid=False, constrain="domain")
    figure.update_yaxes(
        autorange="reversed", scaleanchor="x", showgrid=False, zeroline=False, constrain="domain"
    )
    figure.update_xaxes(zeroline=False)
    return figure.update_layout(
        template="plotly_white", plot_bgcolor=_UNMEASURED, width=side + 90, height=side
    )


def _plotly() -> Any:
    try:
        import plotly.graph_objects as graph
    except ImportError as error:
        raise ImportError(
            "interactive pictures need plotly: pip install 'spex_mech[viz]'"
        ) from error
    return graph
