"""Pictures: the numbers that they show, exactly; that they are drawn; what they refuse."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

import spex_mech as sm
from spex_mech.plots.network import network_positions
from spex_mech.plots.numbers import map_numbers

NAN = np.nan


def a_result(
    values: dict[tuple[str, ...], float], labels: list[str], **about: str
) -> sm.Interactions:
    width = max(map(len, values))
    units = [[labels.index(u) for u in s] + [-1] * (width - len(s)) for s in values]
    means = np.array(list(values.values()), dtype=np.float32)
    # As many prompts as q-values need, none like another; their means are exact.
    offsets = np.array([*range(-6, 0), *range(1, 7)], dtype=np.float32) / 1024
    return sm.Interactions(
        labels,
        np.array(units),
        means[:, None] * (1 + offsets),
        np.full((len(labels), len(offsets)), -4.0),  # each unit helps, whatever the other does
        np.ones(len(offsets)),
        about=about,
    )


HEADS = ["L0H0", "L0H1", "L1H0", "L2H5"]
VALUES = {
    ("L0H0", "L0H1"): 3.0,
    ("L0H0", "L1H0"): -4.0,
    ("L0H1", "L1H0"): 0.5,
    ("L1H0", "L2H5"): 0.25,
}


def fake(labels: list[str]) -> sm.Interactions:
    rng = np.random.default_rng(0)
    n = len(labels)
    pairs = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
    values = dict(zip(pairs, rng.standard_normal(n * (n - 1) // 2), strict=True))
    about = {"model": "GPT2LMHeadModel", "task": "ioi", "ablation": "mean", "metric": "logit_diff"}
    return a_result(values, labels, **about)


def heads(n_layers: int, n_heads: int) -> list[str]:
    return [f"L{layer}H{head}" for layer in range(n_layers) for head in range(n_heads)]


# -- the numbers ----------------------------------------------------------------------------------


def test_map_by_unit() -> None:
    numbers = map_numbers(a_result(VALUES, HEADS))
    np.testing.assert_array_equal(
        numbers.values,
        [
            [NAN, 3, -4, NAN],
            [3, NAN, 0.5, NAN],
            [-4, 0.5, NAN, 0.25],
            [NAN, NAN, 0.25, NAN],
        ],
    )
    assert numbers.names == HEADS
    assert numbers.borders == [2, 3]
    assert numbers.by == "unit"


def test_map_leaves_triples_out() -> None:
    with_triple = {**VALUES, ("L0H0", "L0H1", "L1H0"): 9.0}
    got, want = map_numbers(a_result(with_triple, HEADS)), map_numbers(a_result(VALUES, HEADS))
    np.testing.assert_array_equal(got.values, want.values)
    got = map_numbers(a_result(with_triple, HEADS), by="layer")
    np.testing.assert_array_equal(
        got.values, map_numbers(a_result(VALUES, HEADS), by="layer").values
    )


def test_map_of_the_strongest_units() -> None:
    # Sums of squares: 25, 9.25, 16.3125, 0.0625.
    numbers = map_numbers(a_result(VALUES, HEADS), most=2)
    assert numbers.names == ["L0H0", "L1H0"]
    np.testing.assert_array_equal(numbers.values, [[NAN, -4], [-4, NAN]])
    assert numbers.borders == [1]
    assert map_numbers(a_result(VALUES, HEADS), most=3).names == HEADS[:3]


def test_map_orders_heads_and_neurons_by_layer() -> None:
    labels = ["L0H0", "L1H0", "L0N7", "L1N3"]
    numbers = map_numbers(a_result({("L0H0", "L1N3"): 1.0, ("L1H0", "L0N7"): 2.0}, labels))
    assert numbers.names == ["L0H0", "L0N7", "L1H0", "L1N3"]
    assert numbers.borders == [2]
    np.testing.assert_array_equal(
        numbers.values,
        [[NAN, NAN, NAN, 1], [NAN, NAN, 2, NAN], [NAN, 2, NAN, NAN], [1, NAN, NAN, NAN]],
    )


def test_map_of_units_without_layers_has_no_borders() -> None:
    numbers = map_numbers(a_result({("b", "a"): 1.0}, ["b", "a", "Lx"]))
    assert numbers.names == ["b", "a", "Lx"] and numbers.borders == []


def test_map_by_layer() -> None:
    numbers = map_numbers(a_result(VALUES, HEADS), by="layer")
    across = -np.sqrt(16.25)  # -4 and 0.5: the sum is negative
    np.testing.assert_array_equal(
        numbers.values, [[3, across, NAN], [across, NAN, 0.25], [NAN, 0.25, NAN]]
    )
    assert numbers.names == ["L0", "L1", "L2"] and numbers.borders == []


def test_map_by_layer_shows_energy_that_cancels() -> None:
    labels = ["L0H0", "L0N1", "L2G1"]
    numbers = map_numbers(
        a_result({("L0H0", "L2G1"): 3.0, ("L0N1", "L2G1"): -3.0}, labels), "layer"
    )
    assert numbers.values[0, 2] == numbers.values[2, 0] == np.sqrt(18)
    assert np.isnan(numbers.values[1]).all()  # no unit there


def test_network_positions_by_layer() -> None:
    positions = network_positions(a_result(VALUES, HEADS), k=3)
    # The three strongest pairs leave layer 2 out.
    assert list(positions) == HEADS[:3]
    x = [positions[name][0] for name in HEADS[:3]]
    assert x == [0, 0, 1]
    assert positions["L0H0"][1] < positions["L0H1"][1]
    assert network_positions(a_result(VALUES, HEADS), k=4)["L2H5"][0] == 2


def test_network_positions_are_all_different() -> None:
    for labels in (heads(5, 8), [f"word{i}" for i in range(30)]):
        positions = network_positions(fake(labels), k=60)
        points = np.array(list(positions.values()))
        distances = np.linalg.norm(points[:, None] - points, axis=-1) + np.eye(len(points))
        assert distances.min() > 0.05
        assert list(positions) == [name for name in labels if name in positions]


def test_network_positions_without_layers_are_a_circle() -> None:
    positions = network_positions(a_result({("a", "b"): 1.0, ("b", "c"): 2.0}, ["a", "b", "c"]))
    np.testing.assert_allclose(np.hypot(*np.array(list(positions.values())).T), 1)


# -- the drawing ----------------------------------------------------------------------------------


def texts_of(figure: Figure) -> str:
    return " ".join(
        text.get_text() for text in figure.findobj(match=lambda a: hasattr(a, "get_text"))
    )


@pytest.mark.parametrize(
    "labels", [heads(3, 4), heads(5, 8), heads(8, 12), [f"word{i}" for i in range(12)]], ids=len
)
def test_figures_are_drawn_and_saved(labels: list[str], tmp_path: Path) -> None:
    found = fake(labels)
    figures = [sm.plot_map(found), sm.plot_network(found, k=15)]
    if labels[0].startswith("L"):
        figures.append(sm.plot_map(found, by="layer"))
    for i, figure in enumerate(figures):
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{i}.png", dpi=30)
        assert (tmp_path / f"{i}.png").read_bytes().startswith(b"\x89PNG")


def test_a_map_shows_its_numbers_and_names() -> None:
    figure = sm.plot_map(a_result(VALUES, HEADS, metric="log_prob"))
    image = figure.axes[0].images[0]
    np.testing.assert_array_equal(
        np.ma.getmaskarray(image.get_array()), np.isnan(map_numbers(a_result(VALUES, HEADS)).values)
    )
    assert image.get_clim() == (-4, 4)
    texts = texts_of(figure)
    assert "+3.0" in texts and "\N{MINUS SIGN}4.0" in texts
    assert all(name in texts for name in HEADS)
    assert "interaction (nats)" in texts
    assert "strongest of" not in texts


def test_a_cut_map_says_so() -> None:
    found = fake(heads(8, 12))
    assert "the 64 strongest of 96 units" in texts_of(sm.plot_map(found))
    assert "strongest" not in texts_of(sm.plot_map(found, by="layer"))
    assert "GPT2LMHeadModel, ioi, mean ablation" in texts_of(sm.plot_map(found))


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e6])
def test_a_flat_map_is_drawn(value: float, tmp_path: Path) -> None:
    found = a_result({("L0H0", "L0H1"): value, ("L0H0", "L1H0"): value}, HEADS)
    for figure in (sm.plot_map(found), sm.plot_map(found, by="layer"), sm.plot_network(found)):
        figure.savefig(tmp_path / "flat.png", dpi=30)


def test_a_map_of_units_never_measured_together(tmp_path: Path) -> None:
    found = a_result({("a", "x"): 2.0, ("b", "y"): 2.0}, [*"abxy"])
    numbers = map_numbers(found, most=2)
    assert numbers.names == ["a", "b"] and np.isnan(numbers.values).all()
    sm.plot_map(found, most=2).savefig(tmp_path / "empty.png", dpi=30)


def lines_of(figure: Figure) -> list[tuple[Any, Any, float]]:
    """Colour, style and width of each edge, the weakest first, as they are drawn."""
    edges = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    return [(e.get_edgecolor(), e.get_linestyle(), e.get_linewidth()) for e in edges]


def test_a_network_tells_signs_apart_without_colour() -> None:
    figure = sm.plot_network(a_result(VALUES, HEADS), k=2)
    (weak, solid, narrow), (strong, dashed, wide) = lines_of(figure)
    assert wide == 5 and narrow == pytest.approx(0.6 + 4.4 * 3 / 4)
    assert dashed != "-" and solid == "-"
    assert strong[2] > strong[0] and weak[0] > weak[2]  # blue, red
    texts = texts_of(figure)
    assert "L1H0" in texts and "L2H5" not in texts
    assert "AND-like" in texts and "OR-like" in texts and "the 2 strongest pairs" in texts
    assert "no reading" not in texts


def test_a_pair_that_is_neither_is_dotted() -> None:
    found = a_result({("L0H0", "L0H1"): 3.0}, HEADS)
    hurting = replace(found, main_effects_by_prompt=-found.main_effects_by_prompt)
    assert hurting.readings == ["mixed"]
    figure = sm.plot_network(hurting)
    assert lines_of(figure)[0][1] == ":"
    assert "no reading: damage overlaps" in texts_of(figure)


def test_main_effects_that_were_not_measured_do_not_matter(tmp_path: Path) -> None:
    found = sm.measure(_game(), [("L0H0", "L1H0")])
    assert np.isnan(found.main_effects).any()
    sm.plot_network(found).savefig(tmp_path / "n.png", dpi=30)
    sm.plot_map(found).savefig(tmp_path / "m.png", dpi=30)


def _game() -> Any:
    from spex_mech.discover import CallableGame

    return CallableGame(lambda masks: masks.all(dim=1).double(), HEADS)


def test_drawing_leaves_matplotlib_as_it_is(tmp_path: Path) -> None:
    import matplotlib
    import matplotlib.pyplot as plt

    before = dict(matplotlib.rcParams)
    sm.plot_map(fake(heads(2, 3))).savefig(tmp_path / "m.png", dpi=30)
    sm.plot_network(fake(heads(2, 3)))
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []


def test_a_figure_shows_itself_without_a_magic_word() -> None:
    """IPython asks for ``_repr_png_`` where no one told it about matplotlib's figures."""
    formatters = pytest.importorskip("IPython.core.formatters", reason="IPython is not installed")
    shown, _ = formatters.DisplayFormatter().format(sm.plot_map(a_result(VALUES, HEADS)))
    assert shown["image/png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
def test_a_layer_without_a_pair_in_it_is_unmeasured(backend: str) -> None:
    """On the diagonal of a map by unit there is no pair; of one by layer, none was measured."""
    found = a_result({("L0H0", "L1H0"): -4.0}, HEADS)
    for by, white in (("unit", True), ("layer", False)):
        figure = sm.plot_map(found, by=by, backend=backend)
        if backend == "plotly":
            rows = enumerate(figure.data[1].z)  # each up to its last veil; 2 is clear
            veil = [line[row] if row < len(line) else 2 for row, line in rows]
            assert {*veil} == ({0} if white else {2})
        else:
            assert bool(figure.axes[0].lines) == white


def test_prompts_of_one_cluster_make_nothing_significant_in_a_picture() -> None:
    found = fake(heads(2, 2))
    one = replace(found, about={**found.about, "clusters": [0] * found.values.shape[1]})
    assert map_numbers(found).pale.sum() < map_numbers(one).pale.sum() == 16
    assert "no reading" not in str(legend_of(sm.plot_network(one)))
    assert not one.is_finding.any() and "12 prompts of one cluster do not tell" in str(one)


def legend_of(figure: Figure) -> list[str]:
    legend = figure.axes[0].get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_what_is_significant_has_a_sign_however_small() -> None:
    rng = np.random.default_rng(0)
    base = a_result({("L0H0", "L0H1"): 3.0, ("L0H0", "L1H0"): -0.05, ("L0H1", "L1H0"): 0.2}, HEADS)
    noise = np.array([[0.01], [0.001], [2.0]]) * rng.standard_normal((3, 20))
    found = replace(
        base, values=base.mean[:, None] + noise - noise.mean(axis=1, keepdims=True),
        main_effects_by_prompt=-np.ones((4, 20)), intact_by_prompt=np.ones(20),
    )  # fmt: skip
    assert found.is_significant.tolist() == [True, True, False]
    figure = sm.plot_map(found)
    in_cells = sorted(text.get_text() for text in figure.axes[0].texts)[:4]
    assert in_cells == ["+3.0", "+3.0", "0", "1"]  # both ways round, and the names of layers
    assert [t.get_text() for t in figure.axes[0].texts].count("\N{MINUS SIGN}") == 2
    assert "pale, without a sign: not significant" in texts_of(figure)


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", [map_numbers, sm.plot_map, sm.plot_network])
def test_no_pair_to_draw(draw: Any) -> None:
    found = a_result({("L0H0", "L0H1", "L1H0"): 1.0}, HEADS)
    with pytest.raises(ValueError, match="no interaction of order 2 was measured"):
        draw(found)


def test_a_map_by_layer_needs_layers() -> None:
    with pytest.raises(ValueError, match="has no layer: a map by layer needs units of a model"):
        map_numbers(a_result({("L0H0", "word"): 1.0}, ["L0H0", "word"]), by="layer")


@pytest.mark.parametrize("by", ["layers", "bogus"])
@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
def test_a_map_by_something_else_is_refused(by: str, backend: str) -> None:
    with pytest.raises(ValueError, match=f"by is '{by}'; choose 'unit' or 'layer'"):
        sm.plot_map(a_result(VALUES, HEADS), by=by, backend=backend)


def test_a_network_of_no_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="k is 0; it must be a whole number of at least 1"):
        sm.plot_network(a_result(VALUES, HEADS), k=0)


@pytest.mark.parametrize("most", [1, 0, -3])
def test_a_map_of_fewer_than_two_units(most: int) -> None:
    with pytest.raises(ValueError, match=f"most is {most}; it must be a whole number"):
        map_numbers(a_result(VALUES, HEADS), most=most)


@pytest.mark.parametrize("draw", [sm.plot_map, sm.plot_network])
def test_without_matplotlib_the_cure_is_said(monkeypatch: pytest.MonkeyPatch, draw: Any) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install 'spex_mech\[viz\]'"):
        draw(a_result(VALUES, HEADS))


def test_long_labels_are_cut_in_the_middle_and_stay_in_the_picture() -> None:
    """A sentence as a unit left no room for the map, and ran out of the picture."""
    labels = [f"{n}:{'a sentence of many words ' * 9}ends {n}" for n in range(3)]
    found = sm.discover(
        lambda masks: masks[:, :2].all(dim=1).double(), "exhaustive", labels=labels, progress=False
    )
    figure = sm.plot_map(found)
    axes = figure.axes[0]
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    assert [len(name) for name in names] == [32] * 3
    assert [name[:2] + name[-6:] for name in names] == [f"{n}:ends {n}" for n in range(3)]
    figure.draw_without_rendering()
    for tick in [*axes.get_yticklabels(), *axes.get_xticklabels()]:
        box = tick.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0
    texts = [text.get_text() for text in sm.plot_network(found).axes[0].texts]
    assert sorted(texts) == names[:2]


def test_what_was_not_measured_is_grey_in_a_map_and_nothing_else_is() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    labels = ["L0H0", "L0H1", "L1H0"]
    game = lambda m: 1.0 * (m[:, 0] & m[:, 1]) + 0.5 * (m[:, 0] & m[:, 2])  # noqa: E731
    found = sm.discover(game, n=3, labels=labels, progress=False)
    figure = sm.plot_map(found.take(np.flatnonzero(found.units[:, 0] == 0)))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes, pixels = figure.axes[0], np.asarray(canvas.buffer_rgba())[::-1, :, :3].astype(int)

    def colour(column: float, row: float) -> tuple[int, ...]:
        x, y = axes.transData.transform((column, row)).astype(int)
        return tuple(pixels[y, x])

    for column, row in ((1, 2), (2, 1)):
        assert colour(column + 0.3, row + 0.1) == (0xCC, 0xCC, 0xCC)
    for column, row in ((0, 1), (1, 0), (0, 2), (2, 0)):
        red, green, blue = colour(column + 0.3, row + 0.3)
        assert max(red, green, blue) - min(red, green, blue) > 40
    assert colour(1.3, 1.1) == (255, 255, 255)  # a unit with itself


@pytest.mark.parametrize("draw", [sm.plot_map, sm.plot_network])
def test_dollar_signs_are_letters_and_no_formula(draw: Any, tmp_path: Path) -> None:
    """What is no formula stopped the drawing, and what looked like one lost its spaces."""
    labels = ["5:from $5 to $10", "9:$z_{", "x$"]
    figure = draw(fake(labels))
    path = tmp_path / "map.svg"
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(path)
    drawn = path.read_text(encoding="utf-8")
    assert all(f">{label}</text>" in drawn for label in labels)
    figure.suptitle(r"what a user adds: $\alpha$")  # is a formula still
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(path)
    assert ">\N{GREEK SMALL LETTER ALPHA}<" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("size", "text"), [(12345.0, "+12345"), (1e20, "+")])
def test_a_number_stands_in_a_cell_that_has_room_for_it(size: float, text: str) -> None:
    """Those of twenty digits ran over the whole map."""
    texts = texts_of(sm.plot_map(a_result({("L0H0", "L0H1"): size}, HEADS))).split()
    assert text in texts and max(map(len, texts)) < 20
