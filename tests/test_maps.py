"""The numbers of layer energies, networks and folded maps, exactly; their plotly figures."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import spex_mech as sm
from spex_mech.plots.interactive import edge_text
from spex_mech.plots.network import Edge, Node, edge_curve, network_numbers
from spex_mech.plots.numbers import folded_numbers, layer_energy, map_numbers, metric_unit
from spex_mech.plots.words import with_error

NAN = np.nan
UNITS = ["L0H0", "L0N5", "L0N6", "L1H2", "L1N7", "L1N8"]
VALUES = {
    ("L0H0", "L0N5"): 3.0,
    ("L0H0", "L1H2"): -4.0,
    ("L0N6", "L1H2"): 0.5,
    ("L1N7", "L1N8"): 1.0,
    ("L0N6", "L1N8"): -2.0,
}


MAIN = -4.0  # of each unit: it helps, whatever the other does


def a_result(
    values: dict[tuple[str, str], float], labels: list[str], spread: float = 0.5, n: int = 2
) -> sm.Interactions:
    """Each pair measured on n prompts, half of its size above and below its mean in turn."""
    units = np.array([[labels.index(a), labels.index(b)] for a, b in values])
    means = np.array(list(values.values()))
    return sm.Interactions(
        labels,
        units,
        np.stack([(1 - spread) * means, (1 + spread) * means] * (n // 2), axis=1),
        np.full((len(labels), n), MAIN),
        np.ones(n),
        about={"metric": "log_prob"},
    )


def test_layer_energy() -> None:
    numbers = layer_energy(a_result(VALUES, UNITS))
    assert numbers.names == ["L0", "L1"]
    np.testing.assert_array_equal(numbers.energy, [[9, 20.25], [20.25, 1]])
    np.testing.assert_array_equal(numbers.n_pairs, [[1, 3], [3, 1]])
    np.testing.assert_array_equal(numbers.within, [9, 1])
    np.testing.assert_array_equal(numbers.across, [10.125, 10.125])
    assert numbers.total == 30.25
    assert numbers.share_within == pytest.approx(10 / 30.25)
    # A pair's standard error is half its size: the errors alone give a quarter of the energy.
    assert numbers.by_error == pytest.approx(30.25 / 4)


def test_layer_energy_of_nothing() -> None:
    numbers = layer_energy(a_result({("L0H0", "L1H2"): 0.0}, UNITS))
    assert numbers.total == 0 and np.isnan(numbers.share_within)


def test_network() -> None:
    numbers = network_numbers(a_result(VALUES, UNITS, n=40), k=2)
    assert [(e.a, e.b, e.value, e.reading) for e in numbers.edges] == [
        ("L0H0", "L1H2", -4.0, "OR-like"),
        ("L0H0", "L0N5", 3.0, "AND-like"),
    ]
    assert [e.stderr for e in numbers.edges] == pytest.approx(np.array([2.0, 1.5]) / np.sqrt(39))
    top = a_result(VALUES, UNITS, n=40).top(2)
    assert [e.half for e in numbers.edges] == pytest.approx(top.intervals()[:, 1] - top.mean)
    assert [e.line for e in numbers.edges] == ["dashed", "solid"] and not numbers.edges[0].pale
    assert [(n.label, n.layer, n.main_effect, n.stderr) for n in numbers.nodes] == [
        ("L0H0", 0, MAIN, 0.0),
        ("L0N5", 0, MAIN, 0.0),
        ("L1H2", 1, MAIN, 0.0),
    ]


def test_a_network_leaves_noise_out_unless_there_is_nothing_else() -> None:
    found = replace(a_result(VALUES, UNITS), noise_floor=1.5)
    assert [abs(e.value) for e in network_numbers(found).edges] == [4, 3, 2]
    noise = replace(found, noise_floor=10.0)
    assert {e.reading for e in network_numbers(noise).edges} == {"noise"}
    assert len(network_numbers(noise).edges) == 5


def test_edges_within_a_layer_are_arcs_on_both_sides() -> None:
    a, b, c, d = (
        Node(n, 0, x, y, -1.0, 0.0)
        for n, x, y in (("a", 0.0, 0.0), ("b", 0.0, 1.0), ("c", 1.0, 0.0), ("d", 0.0, 0.5))
    )
    # To the right where damage overlaps, to the left where it compounds, wider if further apart.
    assert edge_curve(a, b, True) == ((0, 0), (0.8, 0.5), (0, 1))
    assert edge_curve(a, b, False) == ((0, 0), (-0.8, 0.5), (0, 1))
    assert edge_curve(a, d, True)[1] == (0.5, 0.25)
    assert edge_curve(a, c, True) == ((0, 0), (0.5, -0.08), (1, 0))


def test_pairs_of_one_layer_do_not_lie_on_each_other() -> None:
    """All pairs of eight heads of one layer: the middles, where the marks are, stay apart."""
    heads = [f"L5H{head}" for head in range(8)]
    pairs = {(a, b): 1.0 + i for i, a in enumerate(heads) for b in heads[i + 1 :]}
    signed = {pair: value * (-1) ** i for i, (pair, value) in enumerate(pairs.items())}
    numbers = network_numbers(a_result(signed, heads), k=28)
    at = {node.label: node for node in numbers.nodes}
    curves = [edge_curve(at[edge.a], at[edge.b], edge.overlaps) for edge in numbers.edges]
    middles = np.array([[(a[i] + 2 * c[i] + b[i]) / 4 for i in (0, 1)] for a, c, b in curves])
    apart = np.linalg.norm(middles[:, None] - middles, axis=-1) + np.eye(len(middles))
    assert apart.min() > 0.05


def test_folded_neurons() -> None:
    # Energies of the neurons: L0N5 9, L0N6 4.25, L1N7 1, L1N8 5; of 19.25, 70 % are two of them.
    numbers = folded_numbers(a_result(VALUES, UNITS), share=0.7)
    assert numbers.names == ["L0H0", "L0N5", "L0, 1 N", "L1H2", "L1N8", "L1, 1 N"]
    assert numbers.sizes.tolist() == [1] * 6
    assert numbers.is_block.tolist() == [False, False, True, False, False, True]
    assert numbers.borders == [3]
    assert numbers.kept == pytest.approx(14 / 19.25)
    np.testing.assert_array_equal(
        numbers.values,
        [
            [NAN, 3, NAN, -4, NAN, NAN],
            [3, NAN, NAN, NAN, NAN, NAN],
            [NAN, NAN, NAN, 0.5, -2, NAN],
            [-4, NAN, 0.5, NAN, NAN, NAN],
            [NAN, NAN, -2, NAN, NAN, 1],
            [NAN, NAN, NAN, NAN, 1, NAN],
        ],
    )


def test_folding_adds_squares_and_signs_by_the_sum() -> None:
    numbers = folded_numbers(a_result(VALUES, UNITS), most=1)
    assert numbers.names == ["L0H0", "L0N5", "L0, 1 N", "L1H2", "L1, 2 N"]
    assert numbers.sizes.tolist() == [1, 1, 1, 1, 2]
    assert numbers.values[2, 4] == -2 and numbers.values[4, 4] == 1
    both = {("L0H0", "L1N7"): 3.0, ("L0H0", "L1N8"): -4.0, ("L0H0", "L0N5"): 9.0}
    assert folded_numbers(a_result(both, UNITS), most=1).values[0, -1] == -5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"share": 1.5}, "share is 1.5; give a part"),
        ({"most": 0}, "most is 0; it must be a whole number of at least 1"),
    ],
)
def test_folding_refuses(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        folded_numbers(a_result(VALUES, UNITS), **options)


def test_folding_needs_neurons() -> None:
    with pytest.raises(ValueError, match="no neuron to fold: plot_map shows heads"):
        folded_numbers(a_result({("L0H0", "L1H2"): 1.0}, ["L0H0", "L1H2"]))


def test_metric_units() -> None:
    assert metric_unit(a_result(VALUES, UNITS)) == "nats"
    assert metric_unit(replace(a_result(VALUES, UNITS), about={})) == "change of the metric"


# -- drawing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [sm.plot_layers, sm.plot_neurons])
@pytest.mark.parametrize("kind", ["png", "svg"])
def test_figures_are_drawn_and_saved(draw: Any, kind: str, tmp_path: Any) -> None:
    figure = draw(a_result(VALUES, UNITS))
    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / f"f.{kind}", dpi=30)
    start = (tmp_path / f"f.{kind}").read_bytes()[:400]
    assert start.startswith(b"\x89PNG") if kind == "png" else b"<svg" in start


def test_a_figure_by_layer_shows_its_numbers() -> None:
    figure = sm.plot_layers(a_result(VALUES, UNITS))
    left, right = figure.axes[:2]
    np.testing.assert_allclose(
        left.images[0].get_array(), np.array([[9, 20.25], [20.25, 1]]) / 0.3025
    )
    heights = [bar.get_height() * 0.3025 for bar in right.patches]
    np.testing.assert_allclose(heights, [9, 1, 10.125, 10.125])
    assert right.get_title() == "33 % within layers"


def test_interactive_map_has_the_same_numbers() -> None:
    plotly = pytest.importorskip("plotly", reason="plotly is not installed")
    assert plotly.__version__
    found = a_result(VALUES, UNITS)
    heat = sm.plot_map(found, backend="plotly").data[0]
    np.testing.assert_array_equal(np.array(heat.z, float), map_numbers(found).values)
    texts = np.array(heat.hovertext)
    assert texts[0, 1] == "L0H0 x L0N5<br>+3 +- 9.5<br>not significant<br>q = 0.5"
    assert texts[0, 0] == "L0H0 x L0H0<br>not measured"


def test_interactive_network_has_an_edge_and_a_badge_a_pair() -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    figure = sm.plot_network(a_result(VALUES, UNITS), k=2, backend="plotly")
    dashes = {line.name: line.line.dash for line in figure.data if line.mode == "lines"}
    overlaps, compounds = "damage overlaps, not significant", "damage compounds, not significant"
    assert dashes == {overlaps: "solid", compounds: "dash"}
    clear = sm.plot_network(a_result(VALUES, UNITS, n=40), k=2, backend="plotly")
    dashes = {line.name: line.line.dash for line in clear.data if line.mode == "lines"}
    assert dashes == {"AND-like, strong": "solid", "OR-like, strong": "dash"}
    badges = [trace.hovertext[0] for trace in figure.data if trace.hovertext is not None]
    assert badges[0].startswith("L0H0 x L0N5<br>+3")
    assert badges[-1] == "L0H0<br>main effect -4 +- 0"


def test_interactive_layers_and_neurons() -> None:
    pytest.importorskip("plotly", reason="plotly is not installed")
    found = a_result(VALUES, UNITS)
    share = np.array(sm.plot_layers(found, backend="plotly").data[0].z, float)
    np.testing.assert_allclose(share, layer_energy(found).energy / 0.3025)
    heat = sm.plot_neurons(found, share=0.7, backend="plotly").data[0]
    np.testing.assert_array_equal(np.array(heat.z, float), folded_numbers(found, 0.7).values)
    # A cell of one pair tells of it, also where it stands for a layer's folded neurons.
    assert heat.hovertext[2][4] == "L0N6 x L1N8<br>-2 +- 6.3<br>not significant<br>q = 0.5"


def test_plotly_reads_no_tag_in_a_name() -> None:
    edge = Edge("<b>x</b>", "y", 1.0, NAN, NAN, "mixed")
    assert edge_text(edge) == "&lt;b&gt;x&lt;/b&gt; x y<br>+1<br>mixed"
    assert with_error(NAN, NAN) == "not measured"


@pytest.mark.parametrize(
    "draw",
    [sm.plot_map, sm.plot_layers, sm.plot_network, sm.plot_neurons],
)
def test_without_plotly_the_cure_is_said(monkeypatch: pytest.MonkeyPatch, draw: Any) -> None:
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ImportError, match=r"need plotly: pip install 'spex_mech\[viz\]'"):
        draw(a_result(VALUES, UNITS), backend="plotly")
