"""Menus and clicks of the plotly figures: what each shows, by the numbers and in a browser."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spex_mech as sm
from spex_mech.plots.filters import layer_filters, pair_filters, pairs_by_cell
from spex_mech.plots.network import network_numbers
from spex_mech.plots.numbers import folded_numbers, layer_energy, map_numbers
from spex_mech.units import Unit, Units

pytest.importorskip("plotly", reason="plotly is not installed")

NAN = np.nan
UNITS = ["L0H0", "L0N5", "L0N6", "L1H2", "L1N7", "L1N8"]
VALUES = {
    ("L0H0", "L1H2"): -4.0,
    ("L0H0", "L0N5"): 3.0,
    ("L0N6", "L1N8"): -2.0,
    ("L1N7", "L1N8"): 1.0,
    ("L0N6", "L1H2"): 0.5,
    ("L0N5", "L0N6"): 0.01,
}
CLEAR = {("L0H0", "L1H2"), ("L1N7", "L1N8")}  # small errors; those of the others are large


N_PROMPTS = 12


def a_result(noise_floor: float = 0.1) -> sm.Interactions:
    units = np.array([[UNITS.index(a), UNITS.index(b)] for a, b in VALUES])
    means = np.array(list(VALUES.values()))
    # As many prompts as q-values need, none like another; the wide ones say nothing.
    spread = np.array([0.001 if pair in CLEAR else 3.0 for pair in VALUES])
    offsets = np.linspace(-1, 1, N_PROMPTS)
    return sm.Interactions(
        UNITS,
        units,
        means[:, None] * (1 + spread[:, None] * offsets),
        -np.ones((len(UNITS), N_PROMPTS)),
        np.ones(N_PROMPTS),
        noise_floor=noise_floor,
        about={"metric": "log_prob"},
    )


def menu(figure: Any, number: int = 0) -> dict[str, dict[str, Any]]:
    """What each choice of a menu changes."""
    return {button.label: button.args[0] for button in figure.layout.updatemenus[number].buttons}


def grid(rows: Any, n: int) -> Any:
    """Rows of a trace that may end early, and hold texts where there is nothing."""
    table = np.full((n, n), NAN)
    for row, line in enumerate(rows):
        for column, value in enumerate(line):
            table[row, column] = NAN if value in ("", None) else value
    return table


def cells_in(figure: Any, name: str) -> Any:
    """The values of a map that a choice shows: of cells of one pair those that it does not cover,
    and those that it gives to cells of several."""
    button = next(b for b in figure.layout.updatemenus[0].buttons if b.label == name)
    n = len(figure.data[0].z)
    values = np.array(figure.data[0].z, dtype=float)
    (cover, *changed), traces = button.args[0]["z"], list(button.args[1])
    assert traces == [2, 3, 4][: len(traces)] and len(traces) == len(changed) + 1
    values[grid(cover, n) == 1] = NAN
    if not changed:
        return values
    several = grid(changed[0], n)
    assert (np.isnan(values) | np.isnan(several)).all()
    return np.where(np.isnan(several), values, several)


def names_in(values: Any, names: list[str]) -> set[tuple[str, str]]:
    """The pairs of a map that have a value."""
    table = np.array(values, dtype=float)
    np.testing.assert_array_equal(table, table.T)
    return {(names[a], names[b]) for a, b in np.argwhere(~np.isnan(table)) if a <= b}


# What each choice shows, worked out by hand.
WANTED = {
    "all pairs (6)": set(VALUES),
    "AND-like (1)": {("L1N7", "L1N8")},
    "OR-like (1)": {("L0H0", "L1H2")},
    "not significant (3)": {("L0H0", "L0N5"), ("L0N6", "L1N8"), ("L0N6", "L1H2")},
    "above the noise floor (5)": set(VALUES) - {("L0N5", "L0N6")},
    **{f"q at most {q} (2)": CLEAR for q in (0.001, 0.01, 0.05)},
    "q at most 0.2 (5)": set(VALUES) - {("L0N5", "L0N6")},
    "heads x heads (1)": {("L0H0", "L1H2")},
    "heads x neurons (2)": {("L0H0", "L0N5"), ("L0N6", "L1H2")},
    "neurons x neurons (3)": {("L0N6", "L1N8"), ("L1N7", "L1N8"), ("L0N5", "L0N6")},
}


def test_filters_of_pairs() -> None:
    found = a_result()
    chosen = {
        f"{name} ({int(rows.sum())})": {found.names[row] for row in np.flatnonzero(rows)}
        for name, rows in pair_filters(found).items()
    }
    assert chosen == WANTED


def test_filters_that_would_show_nothing_are_left_out() -> None:
    found, one = a_result(), slice(0, 1)
    one_prompt = replace(
        found,
        values=found.values[:, one],
        main_effects_by_prompt=found.main_effects_by_prompt[:, one],
        intact_by_prompt=np.ones(1),
    )
    assert "q at most 0.05" not in pair_filters(one_prompt)
    assert "above the noise floor" not in pair_filters(a_result(noise_floor=9.0))
    words = replace(a_result(), labels=["HN", "N", "c", "d", "e", "f"])
    assert not any(" x " in name for name in [*pair_filters(words), *layer_filters(words)])


def test_filters_by_q_count_what_has_such_a_q() -> None:
    found = a_result()
    qs = np.array([0.0005, 0.004, 0.03, 0.15, 0.3, 0.15])  # the last lies under the noise floor
    vars(found)["q_value"] = qs
    shown = {name: int(rows.sum()) for name, rows in pair_filters(found).items() if "q at" in name}
    assert shown == {f"q at most {q}": n + 1 for n, q in enumerate((0.001, 0.01, 0.05, 0.2))}
    vars(found)["q_value"] = np.ones(6)
    assert [name for name in pair_filters(found) if "q at" in name] == ["q at most 0.05"]


def test_filters_of_layers() -> None:
    found = a_result()
    chosen = {
        name: {found.names[row] for row in np.flatnonzero(rows)}
        for name, rows in layer_filters(found).items()
    }
    assert chosen == {
        "all layers": set(VALUES),
        "L0 x L0": {("L0H0", "L0N5"), ("L0N5", "L0N6")},
        "L0 x L1": {("L0H0", "L1H2"), ("L0N6", "L1N8"), ("L0N6", "L1H2")},
        "L1 x L1": {("L1N7", "L1N8")},
    }


def test_a_cell_holds_its_strongest_pairs() -> None:
    found = a_result()
    cells = pairs_by_cell(map_numbers(found, "layer").row_of, found, most=2)
    edges, count = cells[0, 1]
    assert cells[1, 0] == cells[0, 1] and count == 3
    assert [(e.a, e.b, e.value) for e in edges] == [
        ("L0H0", "L1H2", pytest.approx(-4)),
        ("L0N6", "L1N8", pytest.approx(-2)),
    ]
    assert {cell: held[1] for cell, held in cells.items()} == {
        (0, 0): 2, (0, 1): 3, (1, 0): 3, (1, 1): 1,
    }  # fmt: skip


def test_a_choice_shows_its_cells_of_a_map() -> None:
    found = a_result()
    figure, numbers = sm.plot_map(found, backend="plotly"), map_numbers(found)
    shown = {name: names_in(cells_in(figure, name), numbers.names) for name in menu(figure)}
    assert shown == WANTED
    np.testing.assert_array_equal(cells_in(figure, "all pairs (6)"), numbers.values)
    values = cells_in(figure, "OR-like (1)")
    np.testing.assert_array_equal(values, np.where(numbers.values < -3, numbers.values, NAN))
    # A cell that is hidden does not tell its value all the same, nor that it was not measured; one
    # of a unit with itself stays white.
    heat, veil, cover = figure.data
    assert heat.hoverongaps is None and (cover.hoverinfo, cover.hoverongaps) == ("none", False)
    hidden = grid(menu(figure)["OR-like (1)"]["z"][0], 6) == 1
    np.testing.assert_array_equal(hidden, np.isnan(values) & ~np.eye(6, dtype=bool))
    assert not any(menu(figure)["all pairs (6)"]["z"][0])
    assert (np.diag(grid(veil.z, 6)) == 0).all()


def test_what_is_significant_bears_its_sign_in_a_map() -> None:
    """A weak pair that is significant was as pale as one that is not."""
    found = a_result()
    figure = sm.plot_map(found, backend="plotly")
    signs = {
        (UNITS[row], UNITS[column]): sign
        for row, line in enumerate(figure.data[0].text)
        for column, sign in enumerate(line)
        if sign and row < column
    }
    assert signs == {("L0H0", "L1H2"): "\u2212", ("L1N7", "L1N8"): "+"}
    # A cell of several pairs has the sign of those that are chosen.
    by_layer = menu(sm.plot_map(found, by="layer", backend="plotly"))
    texts = {name: new["text"][1] for name, new in by_layer.items()}
    assert texts["OR-like (1)"] == [["", "\u2212"], ["\u2212"]]  # to the last sign of a row
    assert texts["AND-like (1)"] == [[], []]  # its cell has one pair, whose sign stays
    assert sm.plot_map(found, by="layer", backend="plotly").data[0].text[1][1] == "+"
    assert texts["not significant (3)"] == [[], []]


def test_a_heading_says_what_is_in_the_picture_and_nothing_else() -> None:
    def heading(name: str) -> str:
        return getattr(sm, f"plot_{name}")(a_result(), backend="plotly").layout.title.text

    for name in ("map", "neurons"):
        assert "grey: not measured, or left out by the menu" in heading(name), name
        assert "pale, without a sign: not significant" in heading(name), name
    assert "grey" not in heading("network") and "pale: not significant" in heading("network")
    # Its colours are greys: pale is little energy there.
    assert "blue-grey: no pair was measured" in heading("layers")
    assert "pale" not in heading("layers") and ">grey" not in heading("layers")


def test_a_choice_goes_to_the_pairs_of_two_layers() -> None:
    ranges = menu(sm.plot_map(a_result(), backend="plotly"), 1)
    assert list(ranges) == ["all layers", "L0 x L0", "L0 x L1", "L1 x L1"]
    assert ranges["L0 x L1"] == {"xaxis.range": [2.5, 5.5], "yaxis.range": [2.5, -0.5]}
    assert ranges["all layers"] == {"xaxis.range": [-0.5, 5.5], "yaxis.range": [5.5, -0.5]}


def test_a_choice_adds_up_its_pairs_of_a_layer_map() -> None:
    found = a_result()
    figure: Any = sm.plot_map(found, by="layer", backend="plotly")
    across = -4
    by_layer = cells_in(figure, "OR-like (1)")
    np.testing.assert_allclose(by_layer, [[NAN, across], [across, NAN]])
    whole = map_numbers(found, "layer").values
    np.testing.assert_allclose(cells_in(figure, "all pairs (6)"), whole, rtol=0.005)
    heat = figure.data[3]
    assert heat.hovertext[0][1] == "L0 x L1<br>energy, signed by the sum: "
    assert heat.z[0][1] == -4.5 and "%{z:+.3" in heat.hovertemplate and not heat.hoverongaps
    energy = menu(sm.plot_layers(found, backend="plotly"))["OR-like (1)"]
    share = 100 * 16 / layer_energy(found).total
    np.testing.assert_allclose(np.array(energy["z"][0], float), [[NAN, share], [share, NAN]])
    assert energy["hovertext"][0][1][0].endswith("<br>energy 16, 1 pairs")


def test_a_choice_adds_up_its_pairs_of_folded_neurons() -> None:
    found = a_result()
    figure, numbers = (
        sm.plot_neurons(found, most=1, backend="plotly"),
        folded_numbers(found, most=1),
    )
    assert numbers.names == ["L0H0", "L0N5", "L0, 1 N", "L1H2", "L1, 2 N"]
    z = cells_in(figure, "q at most 0.05 (2)")
    assert z[0, 3] == pytest.approx(-4) and z[4, 4] == pytest.approx(1)
    assert np.isnan(z).sum() == 25 - 3


def shown_edges(figure: Any, new: dict[str, Any], key: str, on: Any) -> set[str]:
    """The pairs whose badge is shown; their lines must be shown as well, and no others."""
    values = new[key]
    assert len(values) == len(figure.data)
    names = set()
    for at, trace in enumerate(figure.data):
        if trace.mode != "markers+text" or len(trace.hovertext) > 1:
            continue
        assert (values[at] == on) == (values[at - 1] == on), "a badge without its line"
        if values[at] == on:
            names.add(trace.hovertext[0].split("<br>")[0])
    return names


def test_a_choice_shows_its_edges_of_a_network() -> None:
    # Of its five pairs: what is noise is no edge.
    figure = sm.plot_network(a_result(), backend="plotly")
    clear = set(VALUES) - {("L0N5", "L0N6")}
    for name, new in menu(figure).items():
        wanted = next(
            pairs for other, pairs in WANTED.items() if other.split(" (")[0] == name.split(" (")[0]
        )
        got = shown_edges(figure, new, "visible", True)
        assert got == {" x ".join(pair) for pair in wanted & clear}, name
        assert name.endswith(f"({len(got)})")
        assert new["visible"][-1] is True  # the nodes
    assert len(menu(figure)) == len(WANTED)


def test_a_choice_of_layers_fades_the_other_edges() -> None:
    figure = sm.plot_network(a_result(), backend="plotly")
    new = menu(figure, 1)["L0 x L1 (3)"]
    pairs = {"L0H0 x L1H2", "L0N6 x L1N8", "L0N6 x L1H2"}
    assert shown_edges(figure, new, "opacity", 1.0) == pairs
    told = {
        trace.hovertext[0].split("<br>")[0]
        for trace, hover in zip(figure.data, new["hoverinfo"], strict=True)
        if trace.hovertext is not None and len(trace.hovertext) == 1 and hover == "text"
    }
    assert told == pairs
    lines = [h for t, h in zip(figure.data, new["hoverinfo"], strict=True) if t.mode == "lines"]
    assert set(lines[-5:]) == {"skip"}


def test_the_legend_groups_by_reading_and_strength() -> None:
    figure = sm.plot_network(a_result(), backend="plotly")
    groups = {
        trace.hovertext[0].split("<br>")[0]: trace.legendgroup
        for trace in figure.data
        if trace.hovertext is not None and len(trace.hovertext) == 1
    }
    assert groups == {
        "L0H0 x L1H2": "OR-like, strong",
        "L1N7 x L1N8": "AND-like, weaker",
        "L0H0 x L0N5": "damage overlaps, not significant",  # large, but so is its error
        "L0N6 x L1N8": "damage compounds, not significant",
        "L0N6 x L1H2": "damage overlaps, not significant",
    }
    listed = [trace.name for trace in figure.data if trace.showlegend is not False]
    assert listed == sorted(set(groups.values()))


def test_what_a_click_lists() -> None:
    figure = sm.plot_layers(a_result(), backend="plotly")
    notes = {(note.yclick, note.xclick): note for note in figure.layout.annotations}
    assert set(notes) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert not any(note.visible for note in notes.values())
    half = a_result().intervals()[:, 1] - a_result().mean
    assert notes[0, 1].text.split("<br>") == [
        "<b>L0 x L1</b>: 3 pairs",
        f"L0H0 x L1H2  -4 +- {half[0]:.2g}  OR-like",
        f"L0N6 x L1N8  -2 +- {half[2]:.2g}  not significant",
        f"L0N6 x L1H2  +0.5 +- {half[4]:.2g}  not significant",
    ]


@pytest.mark.parametrize("draw", [sm.plot_map, sm.plot_layers, sm.plot_network])
def test_one_pair_needs_no_menu_that_chooses_nothing(draw: Any) -> None:
    found = replace(
        a_result(), units=np.array([[0, 3]]), values=np.zeros((1, N_PROMPTS)), noise_floor=0.0
    )
    for drop_down in draw(found, backend="plotly").layout.updatemenus:
        assert len(drop_down.buttons) > 1


def test_names_in_menus_and_lists_are_no_tags() -> None:
    found = a_result()
    found = replace(found, labels=[f"<b>{name}" for name in UNITS])
    assert "<b>L0" not in sm.plot_map(found, backend="plotly").to_json()
    assert "<b>L0" not in sm.plot_network(found, backend="plotly").to_json()


@pytest.mark.parametrize("name", ["map", "layers", "neurons", "network"])
def test_the_old_names_warn_and_draw_the_same(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f'call plot_{name}.found, backend="plotly"'):
        old = getattr(sm, f"interactive_{name}")(a_result())
    assert old.to_json() == getattr(sm, f"plot_{name}")(a_result(), backend="plotly").to_json()
    assert f"interactive_{name}" not in sm.__all__


@pytest.mark.parametrize("draw", [sm.plot_map, sm.plot_layers, sm.plot_neurons, sm.plot_network])
def test_another_backend_is_refused(draw: Any) -> None:
    with pytest.raises(ValueError, match="backend is 'bokeh'; choose 'matplotlib' or 'plotly'"):
        draw(a_result(), backend="bokeh")


@pytest.mark.parametrize("name", ["map", "layers", "neurons", "network"])
def test_a_page_is_small_and_plotly_lies_beside_it(name: str, tmp_path: Path) -> None:
    figure = getattr(sm, f"plot_{name}")(a_result(), backend="plotly")
    figure.write_html(tmp_path / "shared.html")
    assert (tmp_path / "shared.html").stat().st_size < 1_000_000
    assert (tmp_path / "plotly.min.js").stat().st_size > 1_000_000
    figure.write_html(str(tmp_path / "alone.html"), include_plotlyjs=True)
    assert (tmp_path / "alone.html").stat().st_size > 1_000_000


@pytest.mark.parametrize("strength", [0.3, 3.0])  # some are significant, and most of them
@pytest.mark.parametrize("draw", ["map", "neurons", "network"])
def test_a_page_of_many_units_and_choices_is_small(
    draw: str, strength: float, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    letters, units = "HNE", 64
    labels = [f"L{i // 8}{letters[i % 3]}{i}" for i in range(units)]
    pairs = np.array([(i, j) for i in range(units) for j in range(i + 1, units)])
    values = rng.standard_normal((len(pairs), N_PROMPTS))
    values += strength * rng.standard_normal((len(pairs), 1))
    found = sm.Interactions(
        labels, pairs, values, rng.standard_normal((units, N_PROMPTS)), np.ones(N_PROMPTS),
        noise_floor=0.01,
    )  # fmt: skip
    vars(found)["confirmed"] = rng.integers(0, 2, len(pairs)).astype(np.int8)
    options = {"map": {"most": units}, "neurons": {"share": 0.5, "most": units}, "network": {}}
    figure = getattr(sm, f"plot_{draw}")(found, backend="plotly", **options[draw])
    figure.write_html(tmp_path / "page.html")
    assert len(menu(figure)) > (14 if strength > 1 else 12) or draw == "network"
    assert (tmp_path / "page.html").stat().st_size < 1_000_000


def test_layers_and_kinds_are_those_of_the_table_not_of_the_names() -> None:
    found = a_result()
    named = replace(found, labels=["a", "b", "c", "d", "e", "f"])
    told = replace(named, unit_table=Units(
        Unit(label, "head" if label in "ad" else "neuron", 0 if label in "abc" else 1)
        for label in named.labels
    ))  # fmt: skip
    assert list(layer_filters(told)) == list(layer_filters(found))
    assert list(pair_filters(told)) == list(pair_filters(found))
    for numbers in (map_numbers(told, "layer"), layer_energy(told), folded_numbers(told)):
        assert len(numbers.names) > 1
    nodes = network_numbers(told).nodes
    assert [node.layer for node in nodes] == [node.layer for node in network_numbers(found).nodes]
    with pytest.raises(ValueError, match="the unit 'a' has no layer"):
        map_numbers(named, "layer")


# -- in a browser ---------------------------------------------------------------------------------

Open = Callable[..., Any]


def choose(page: Any, menu: int, label: str) -> None:
    page.locator(".updatemenu-header").nth(menu).click()
    page.locator(".updatemenu-dropdown-button", has_text=label).click()


def place(page: Any, row: float, column: float) -> tuple[float, float]:
    return page.evaluate(
        """([row, column]) => {
          const plot = document.querySelector('.js-plotly-plot'), at = plot.getBoundingClientRect();
          const {xaxis: x, yaxis: y} = plot._fullLayout;
          return [at.x + x._offset + x.d2p(column), at.y + y._offset + y.d2p(row)];
        }""",
        [row, column],
    )


def hover(page: Any, row: int, column: int) -> tuple[float, float]:
    x, y = place(page, row, column)
    page.mouse.move(x, y)
    page.wait_for_function(
        """([row, column]) => {
          const [at] = document.querySelector('.js-plotly-plot')._hoverdata ?? [];
          return at?.x === column && at?.y === row;
        }""",
        arg=[row, column],
    )
    return x, y


def colour_at(page: Any, row: int, column: int) -> Any:
    """The colour near a corner of a cell, beside its sign."""
    from io import BytesIO

    from PIL import Image

    x, y = place(page, row + 0.3, column - 0.3)
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)
    picture = Image.open(BytesIO(page.screenshot())).convert("RGB")
    return picture.getpixel((round(x), round(y)))


def hovered(page: Any, row: int, column: int) -> str:
    hover(page, row, column)
    return page.locator(".hoverlayer .hovertext").text_content()


def click_cell(page: Any, row: int, column: int) -> None:
    x, y = hover(page, row, column)
    page.wait_for_timeout(400)  # or plotly takes two clicks for a double one
    page.mouse.click(x, y)


@pytest.mark.slow
def test_a_saved_network_is_filtered_by_clicks(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "network.html"
    sm.plot_network(a_result(), backend="plotly").write_html(path, include_plotlyjs=True)
    at = opened(path)
    page = at.page
    lines = page.locator(".scatterlayer .trace:has(path.js-line)")
    total = lines.count()
    choose(page, 0, "OR-like")
    page.wait_for_function(
        "n => document.querySelectorAll('.scatterlayer .trace:has(path.js-line)').length < n",
        arg=total,
    )
    assert lines.count() == 1
    choose(page, 1, "L0 x L0")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.scatterlayer .trace:has(path.js-line)')]"
        ".every(trace => trace.style.opacity === '0')"
    )
    choose(page, 0, "all pairs")
    page.locator(".legendtoggle").first.click()  # AND-like: its entry, a line and a badge
    page.wait_for_function(
        "() => document.querySelector('.js-plotly-plot').data"
        ".filter(trace => trace.visible === 'legendonly').length === 3"
    )
    assert at.wrong == []


@pytest.mark.slow
def test_a_click_on_a_saved_map_lists_the_pairs_of_a_cell(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "layers.html"
    sm.plot_layers(a_result(), backend="plotly").write_html(path, include_plotlyjs=True)
    at = opened(path)
    notes = at.page.locator(".annotation")
    assert notes.count() == 0
    click_cell(at.page, 1, 0)
    notes.wait_for()
    assert "L0N6 x L1N8" in notes.text_content() and "3 pairs" in notes.text_content()
    click_cell(at.page, 0, 0)
    at.page.locator(".annotation", has_text="2 pairs").wait_for()
    assert notes.count() == 1
    assert at.wrong == []


@pytest.mark.slow
def test_a_saved_map_is_filtered_by_clicks(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "map.html"
    sm.plot_map(a_result(), backend="plotly").write_html(path, include_plotlyjs=True)
    at = opened(path)
    covered = (
        "n => document.querySelector('.js-plotly-plot').data[2].z.flat()"
        ".filter(value => value === 1).length === n"
    )
    at.page.wait_for_function(covered, arg=0)
    assert hovered(at.page, 0, 1) == "L0H0 x L0N5+3 +- 3.1not significantq = 0.11"
    choose(at.page, 0, "AND-like")
    at.page.wait_for_function(covered, arg=28)
    assert hovered(at.page, 4, 5).startswith("L1N7 x L1N8+1")
    for row, column in ((0, 1), (0, 4)):  # left out, and not measured
        at.page.mouse.move(*place(at.page, row, column))
        at.page.wait_for_timeout(300)
        assert at.page.locator(".hoverlayer .hovertext").count() == 0
    assert colour_at(at.page, 0, 1) == colour_at(at.page, 0, 4) == (204, 204, 204)
    assert colour_at(at.page, 2, 2) == (255, 255, 255) and colour_at(at.page, 4, 5)[2] < 250
    choose(at.page, 0, "all pairs")
    at.page.wait_for_function(covered, arg=0)
    at.page.wait_for_timeout(300)
    assert hovered(at.page, 0, 1).startswith("L0H0 x L0N5+3")
    assert colour_at(at.page, 0, 1) != (204, 204, 204) == colour_at(at.page, 0, 4)
    assert at.wrong == []


@pytest.mark.slow
def test_a_cell_of_many_pairs_tells_the_value_that_is_chosen(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "map.html"
    sm.plot_map(a_result(), by="layer", backend="plotly").write_html(path, include_plotlyjs=True)
    at = opened(path)
    assert hovered(at.page, 0, 1) == "L0 x L1energy, signed by the sum: -4.5"
    choose(at.page, 0, "OR-like")
    at.page.wait_for_timeout(300)
    at.page.mouse.move(0, 0)
    assert hovered(at.page, 0, 1) == "L0 x L1energy, signed by the sum: -4"
    assert at.wrong == []


def test_labels_stand_as_they_are() -> None:
    """plotly reads tags, a few entities (none for quotation marks) and, where there is MathJax,
    formulas."""
    labels = ["<b>", '"q"', "it's", "$x$", "a&amp;b"]
    means = np.arange(1.0, 11)[:, None] * (1 + np.linspace(-0.1, 0.1, N_PROMPTS))
    pairs = np.array(np.triu_indices(5, 1)).T
    found = sm.Interactions(labels, pairs, means, -np.ones((5, N_PROMPTS)), np.ones(N_PROMPTS))
    figure = sm.plot_map(found, backend="plotly")
    told = ["&lt;b&gt;", '"q"', "it's", "&#36;x&#36;", "a&amp;amp;b"]
    assert list(figure.layout.xaxis.ticktext) == list(figure.layout.yaxis.ticktext) == told
    assert figure.data[0].hovertext[1][3].startswith(f"{told[1]} x {told[3]}<br>")
    nodes = sm.plot_network(found, backend="plotly").data[-1]
    assert {*nodes.text} == {*told}
