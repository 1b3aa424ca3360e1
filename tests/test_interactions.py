"""Interactions: what a result says of itself, and what it keeps."""

import json
import os
import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spex_mech as sm
from spex_mech.discover import as_game
from spex_mech.results.confirmation import confirmation
from spex_mech.results.interactions import from_bytes, to_bytes
from spex_mech.results.printed import q_text
from spex_mech.results.verdicts import stand_out
from spex_mech.units import Unit, Units

LABELS = ["L0H0", "L0H1", "L1H0", "L1H1"]
PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (2, 3)]  # (1, 3) was not measured
MEANS = np.array([0.25, -0.5, 0.01, 0.125, -0.0625])
MAINS = np.array([-1.0, -0.5, 0.25, np.nan])


def a_result(n_prompts: int = 3, triple: bool = False, **changes: Any) -> sm.Interactions:
    """Means and main effects as above, exact in float32; errors differ by row."""
    spread = np.linspace(-1, 1, n_prompts) if n_prompts > 1 else np.zeros(1)
    width = 3 if triple else 2
    units = np.array([[*pair, -1][:width] for pair in PAIRS] + [[0, 1, 2]] * triple)
    means = np.append(MEANS, [2.0] * triple)
    values = means[:, None] + spread * 2.0 ** -np.arange(4, 4 + len(means))[:, None]
    options: dict[str, Any] = {
        "noise_floor": 0.02,
        "cost": {"evaluations": 1234, "gradients": 0, "seconds": 0.5},
        "about": {"method": "listed sets", "seed": 0, "model": "none"},
    }
    return sm.Interactions(
        LABELS,
        units,
        values.astype(np.float32),
        MAINS[:, None] + 0.5 * spread,
        2 + spread,
        **{**options, **changes},
    )


def test_the_noise_floor_of_larger_sets_is_higher() -> None:
    """A triple's alternating sum has twice as many terms as a pair's."""
    units = np.array([[0, 1, -1], [0, 1, 2]])
    found = sm.Interactions(
        list("abc"), units, np.full((2, 1), 1.5), np.zeros((3, 1)), np.ones(1), noise_floor=1.0
    )
    assert found.is_noise.tolist() == [False, True]


def test_what_is_said_of_a_game_need_not_be_json(tmp_path: Path) -> None:
    found = replace(a_result(), about={"file": Path("some") / "where", "count": np.int64(3)})
    loaded = sm.Interactions.load(found.save(tmp_path / "a.npz"))
    assert loaded.about == {"file": str(Path("some") / "where"), "count": 3}


def test_numbers_of_a_result() -> None:
    found = a_result(triple=True)
    assert len(found) == 6
    np.testing.assert_allclose(found.mean, [*MEANS, 2], rtol=0, atol=1e-9)
    np.testing.assert_allclose(found.stderr, 2.0 ** -np.arange(4, 10) / np.sqrt(3), rtol=1e-6)
    np.testing.assert_array_equal(found.order, [2, 2, 2, 2, 2, 3])
    np.testing.assert_array_equal(found.main_effects, MAINS)
    np.testing.assert_array_equal(found.is_noise, [False, False, True, False, False, False])
    assert found.intact == 2
    # Differing spreads order the rows by how sure they are.
    assert found.q_value[5] == found.q_value.min() and found.q_value[2] > 0.05


def test_one_prompt_has_no_error() -> None:
    found = a_result(n_prompts=1)
    assert np.isnan(found.stderr).all() and np.isnan(found.q_value).all()
    assert "+-" not in repr(found)


def test_top_is_by_absolute_value() -> None:
    found = a_result(triple=True)
    assert found.top(3).units.tolist() == [[0, 1, 2], [0, 2, -1], [0, 1, -1]]
    assert found.top(2, order=2).units.tolist() == [[0, 2, -1], [0, 1, -1]]
    assert found.top(99, order=3).units.tolist() == [[0, 1, 2]]
    assert len(found.top(0)) == 0
    top = found.top(2)
    assert top.labels == LABELS and top.cost == found.cost
    np.testing.assert_array_equal(top.main_effects_by_prompt, found.main_effects_by_prompt)


def test_top_keeps_ties_in_order() -> None:
    found = a_result()
    same = np.ones_like(found.values)
    tied = sm.Interactions(LABELS, found.units, same, found.main_effects_by_prompt, np.ones(3))
    assert tied.top(3).units.tolist() == [list(pair) for pair in PAIRS[:3]]


def test_a_q_value_belongs_to_all_that_was_tested(tmp_path: Path) -> None:
    found = a_result()
    whole = dict(zip(map(tuple, found.units), found.q_value, strict=True))
    top = found.top(2)
    for part in (top, top.top(1), sm.Interactions.load(top.save(tmp_path / "top.npz"))):
        want = [whole[tuple(row)] for row in part.units]
        np.testing.assert_array_equal(part.q_value, want)
    # The test can tell: by themselves the two would have other q-values.
    alone = sm.Interactions(
        LABELS, top.units, top.values, top.main_effects_by_prompt, top.intact_by_prompt
    )
    assert not np.array_equal(alone.q_value, top.q_value)


def test_frame() -> None:
    found = a_result()
    frame = found.frame()
    assert list(frame) == [
        "unit_a", "unit_b", "value", "stderr", "q_value", "main_a", "main_b", "reading",
        "is_noise", "verdict", "is_significant", "confirmed",
    ]  # fmt: skip
    pairs = list(zip(frame.unit_a, frame.unit_b, strict=True))
    assert pairs == [
        ("L0H0", "L1H0"), ("L0H0", "L0H1"), ("L0H1", "L1H0"), ("L1H0", "L1H1"), ("L0H0", "L1H1"),
    ]  # fmt: skip
    rows = [1, 0, 3, 4, 2]
    np.testing.assert_array_equal(frame.value, found.mean[rows])
    np.testing.assert_array_equal(frame.stderr, found.stderr[rows])
    np.testing.assert_array_equal(frame.q_value, found.q_value[rows])
    np.testing.assert_array_equal(frame.main_a, MAINS[[0, 0, 1, 2, 0]])
    np.testing.assert_array_equal(frame.main_b, MAINS[[2, 1, 2, 3, 3]])
    assert frame.is_noise.tolist() == [False] * 4 + [True]
    assert frame.reading.tolist() == [found.readings[row] for row in rows]


def test_frame_of_single_units() -> None:
    """Main effects were to be had as an array alone, without labels and errors."""
    found = a_result()
    mains = found.main_effects_by_prompt
    frame = found.frame(order=1)
    assert list(frame) == ["unit", "value", "stderr"]
    assert frame.unit.tolist() == LABELS  # by size, and what was not measured comes last
    np.testing.assert_array_equal(frame.value, MAINS)
    errors = mains.std(axis=1, ddof=1) / mains.shape[1] ** 0.5
    np.testing.assert_allclose(frame.stderr, errors)
    turned = replace(found, main_effects_by_prompt=mains[::-1].copy())
    assert turned.frame(order=1).unit.tolist() == [*LABELS[:0:-1], LABELS[0]]
    assert turned.frame(order=1).value.tolist()[:3] == MAINS[:3].tolist()
    again = confirmation(found.top(2), found)
    assert again.frame(order=1).equals(found.frame(order=1))


def test_frame_of_triples() -> None:
    frame = a_result(triple=True).frame(order=3)
    assert list(frame)[:3] == ["unit_a", "unit_b", "unit_c"]
    assert frame[["unit_a", "unit_b", "unit_c"]].to_numpy().tolist() == [LABELS[:3]]
    np.testing.assert_array_equal(frame[["main_a", "main_b", "main_c"]], [MAINS[:3]])
    assert len(a_result(triple=True).frame(order=2)) == 5


def test_a_frame_leaves_no_order_out() -> None:
    found = a_result(triple=True)
    frame = found.frame()
    assert len(frame) == len(found) == 6
    units = frame[["unit_a", "unit_b", "unit_c"]].to_numpy().tolist()
    assert units[:2] == [["L0H0", "L0H1", "L1H0"], ["L0H0", "L1H0", ""]]
    assert frame.main_c.tolist()[0] == 0.25 and frame.main_c.isna().sum() == 5
    assert frame.value.tolist() == sorted(frame.value, key=abs, reverse=True)


@pytest.mark.parametrize("order", [3, 4])
def test_an_order_that_was_not_measured(order: int) -> None:
    text = f"no interaction of order {order} was measured, but of order 2; frame"
    for asked in (lambda: a_result().frame(order), lambda: a_result().top(3, order)):
        with pytest.raises(ValueError, match=text):
            asked()
    with pytest.raises(ValueError, match="was measured, but of order 2 and 3; frame"):
        a_result(triple=True).top(3, order=5)
    with pytest.raises(ValueError, match=r"order 1 was measured.*frame\(order=1\) has the main"):
        a_result().top(3, order=1)
    assert len(a_result().take([]).top(3, order=2)) == 0


@pytest.mark.parametrize("order", [True, 0])
def test_an_order_that_cannot_be_is_refused(order: int) -> None:
    with pytest.raises(ValueError, match=f"order is {order!r}"):
        a_result().frame(order)


@pytest.mark.parametrize("triple", [False, True])
def test_matrix_is_symmetric_and_nan_where_nothing_was_measured(triple: bool) -> None:
    matrix = a_result(triple=triple).matrix()
    a, b, c, d, e = MEANS
    nan = np.nan
    np.testing.assert_allclose(
        matrix,
        [[nan, a, b, c], [a, nan, d, nan], [b, d, nan, e], [c, nan, e, nan]],
        rtol=0,
        atol=1e-9,
    )


def test_value_by_labels_in_any_order() -> None:
    found = a_result(triple=True)
    assert found.value("L0H0", "L1H0") == found.value("L1H0", "L0H0") == pytest.approx(-0.5)
    assert found.value("L1H0", "L0H0", "L0H1") == pytest.approx(2)
    assert found[["L1H0", "L0H0"]] == found["L0H0", "L1H0"]
    assert ["L1H0", "L0H0"] in found and {"L1H0", "L0H0"} in found
    assert ["L0H1", "L1H1"] not in found


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (("L0H1", "L1H1"), "the interaction of L0H1 and L1H1 was not measured"),
        (("L0H0", "L0H1", "L1H0"), "L0H0 and L0H1 and L1H0 was not measured"),
        (
            ("L0H0", "L9H9"),
            "no unit is called 'L9H9'; the labels are texts: 'L0H0', 'L0H1', 'L1H0'",
        ),
        ((0, 1), "no unit is called 0, an int; the labels are texts: 'L0H0', "),
        (("L0H0",), r"of two units or more, and these are 'L0H0'; what one does alone is found\["),
        (("L0H0", "L0H0"), "of two units or more, and these are 'L0H0', 'L0H0'"),
        ((), "of two units or more, and these are none"),
    ],
)
def test_value_that_is_not_there(labels: tuple[Any, ...], match: str) -> None:
    with pytest.raises(KeyError, match=match):
        a_result().value(*labels)


def reading_of(main_a: float, main_b: float, value: float, noise_floor: float = 0.01) -> str:
    found = sm.Interactions(
        ["a", "b"],
        np.array([[0, 1]]),
        np.full((1, 2), value, dtype=np.float32),
        np.array([[main_a] * 2, [main_b] * 2], dtype=np.float64),
        np.ones(2),
        noise_floor=noise_floor,
    )
    return found.readings[0]


@pytest.mark.parametrize(
    ("main_a", "main_b", "value", "reading"),
    [
        (-1, -1, 1, "AND-like"),  # f = a and b
        (0, 0, -1, "OR-like"),  # f = a or b
        (-0.5, -0.25, -0.5, "OR-like"),
        (0.5, 0.5, 1, "mixed"),  # both hurt
        (1, 1, -1, "mixed"),  # f = 1 - (a and b)
        (-3, 0.5, -2, "OR-like"),  # the second hurts a little, and helps much without the first
        (-3, 1.5, -2, "mixed"),  # it hurts more than it helps
        (1.5, -3, -2, "mixed"),
        (-3, 0.5, 2, "mixed"),  # it does no damage that could overlap
        (-3, -0.1, 0.15, "AND-like"),
        (-3, -0.1, 2, "mixed"),  # without the first, the second hurts by 1.9
        (-1, -1, 0.009, "noise"),
        (-1, -1, -0.01, "noise"),
        (np.nan, -1, 1, "mixed"),  # a main effect is not known
    ],
)
def test_readings(main_a: float, main_b: float, value: float, reading: str) -> None:
    assert reading_of(main_a, main_b, value) == reading


@pytest.mark.parametrize("about", [{"metric": "loss"}, {"less_is_better": True}])
@pytest.mark.parametrize(
    ("main_a", "main_b", "value", "reading"),
    [
        (1, 1, -1, "AND-like"),
        (0, 0, 1, "OR-like"),
        (-3, 1.5, 2, "mixed"),
        (-1, -1, 1, "mixed"),
        (1, 1, 0.009, "noise"),
    ],
)
def test_readings_where_less_is_better(
    main_a: float, main_b: float, value: float, reading: str, about: dict[str, Any]
) -> None:
    found = sm.Interactions(
        ["a", "b"],
        np.array([[0, 1]]),
        np.full((1, 2), value, dtype=np.float32),
        np.array([[main_a] * 2, [main_b] * 2], dtype=np.float64),
        np.ones(2),
        noise_floor=0.01,
        about=about,
    )
    assert found.less_is_better and found.readings == [reading]
    assert not replace(found, about={"metric": "loss", "less_is_better": False}).less_is_better


def test_readings_without_a_floor_call_only_zero_noise() -> None:
    assert reading_of(-1, -1, 0, noise_floor=0.0) == "noise"
    assert reading_of(-1, -1, 1e-9, noise_floor=0.0) == "AND-like"


def test_three_units_are_not_read_by_their_sign() -> None:
    """Three in series and three backups both have a triple interaction of -1."""
    for function in (lambda m: m.all(dim=1), lambda m: m.any(dim=1)):
        found = sm.discover(lambda m, f=function: f(m).double(), n=3, order=3, method="exhaustive")
        assert found.value("0", "1", "2") == -1
        assert found.readings[-1] == "beyond pairs"


def test_printed() -> None:
    """q, and a reading for what is significant alone; +- is that of ``intervals``."""
    found = a_result(9, triple=True)
    lines = repr(found).splitlines()
    assert lines[0] == (
        "6 interactions among 4 units, 1,234 evaluations (listed sets), noise floor 2.0e-02; "
        "5 significant (q <= 0.05)"
    )
    half = (found.intervals()[1, 1] - found.intervals()[1, 0]) / 2
    q = q_text(float(found.q_value[1])).split()[1]
    want = ["L0H0", "x", "L1H0", "-0.5", "+-", f"{half:.2g}", "q", q, "mixed"]
    assert lines[2].split() == want
    assert lines[3].split()[-1] == "AND-like" and lines[6].split()[-1] == "noise"
    assert lines[7:] == ["  +-: half of a 90 % interval over the prompts"]


def noisy(n_prompts: int = 8, seed: int = 0) -> sm.Interactions:
    """Nothing but noise, far over the noise floor."""
    values = np.random.default_rng(seed).standard_normal((5, n_prompts))
    return replace(
        a_result(n_prompts), values=values, main_effects_by_prompt=-np.ones((4, n_prompts))
    )


def test_where_nothing_is_significant_that_comes_first() -> None:
    found = noisy()
    assert set(found.readings) & {"AND-like", "OR-like"}  # by their signs they would be
    assert found.verdicts == ["not significant"] * 5
    for text in (repr(found), repr(found.top(2)), found._repr_html_()):
        start = text.removeprefix("<div><b>")
        assert start.startswith("Nothing is significant: no q is 0.05 or less over 8 prompts.")
        assert "-like" not in text
    silent = replace(found, noise_floor=99.0)
    assert repr(silent).startswith("Nothing was found: every value is at or under the noise floor.")
    one = replace(
        found, values=found.values[:, :1], main_effects_by_prompt=-np.ones((4, 1)),
        intact_by_prompt=np.ones(1),
    )  # fmt: skip
    assert repr(one).startswith("Nothing stands out: of one prompt, no pair is larger than")
    assert one.verdicts == ["does not stand out"] * 5


def test_a_part_says_what_it_is_a_part_of(tmp_path: Path) -> None:
    found = a_result(9, triple=True, audit=None)
    top = found.top(2)
    for part in (top, sm.Interactions.load(top.save(tmp_path / "top.npz"))):
        assert repr(part).startswith("2 of 6 interactions among 4 units")
        assert part.verdicts == found.top(2).verdicts
    assert repr(top.top(1)).startswith("1 of 6 interactions")
    few = found.pairs_of(found.labels[0])  # not the strongest
    assert repr(few).startswith(f"{len(few)} of 6 interactions")
    assert repr(found.top(2, order=2)).startswith("2 of 5 interactions")
    audited = a_result(audit={"n_tested": 1, "k": 1, "recall": 1.0, "recall_low": 0.5,
                              "recall_high": 1.0, "energy_found": 1.0, "energy_missed": 0.0,
                              "energy_low": 0.0, "energy_high": 1.0})  # fmt: skip
    assert "audit" in repr(audited) and "audit" not in repr(audited.top(2))


def test_printing_many_names_the_rest() -> None:
    found = sm.discover(lambda masks: masks.all(dim=1).double(), n=6)
    lines = repr(found).splitlines()
    assert "  ... 5 more: .frame(), .top(k), .matrix()" in lines
    assert lines[-1] == "  one prompt: no standard error and no q; other prompts may differ"
    assert len(lines) == 14  # all pairs are equal: none stands out


def test_a_table_for_a_notebook() -> None:
    found = replace(a_result(triple=True), labels=["<b>", "L0H1", "L1H0", "L1H1"])
    html = found._repr_html_()
    assert "&lt;b&gt; x L1H0" in html and "<b> x" not in html
    assert html.count("<tr") == 7 and f"q {found.q_value[1]:.2g}" in html
    widths = [float(width) for width in re.findall(r"width:(\d+)px;background", html)]
    assert widths[:2] == [80, 20]  # 2 and 0.5


def test_looking_up() -> None:
    found = a_result(triple=True)
    assert found["L1H0", "L0H0"] == found.value("L0H0", "L1H0") == pytest.approx(-0.5)
    assert found["L0H0", "L0H1", "L1H0"] == pytest.approx(2)
    assert found["L0H1"] == found.main_effect("L0H1") == -0.5
    of = found.pairs_of("L0H1")
    assert of.names == [("L0H0", "L0H1"), ("L0H1", "L1H0")]
    assert len(found.pairs_of("L1H1")) == 2
    assert dict(found)[("L0H0", "L1H0")] == pytest.approx(-0.5) and len(list(found)) == 6
    for look in (found.pairs_of, found.main_effect, found.__getitem__):
        with pytest.raises(KeyError, match="no unit is called 'L9H9'"):
            look("L9H9")


@pytest.mark.parametrize("k", [-1, -3, True])
def test_a_top_of_no_size_is_refused(k: Any) -> None:
    with pytest.raises(ValueError, match=f"k is {k}(, a bool)?; it must be a whole number of at"):
        a_result().top(k)


# -- what stands out, of one prompt ---------------------------------------------------------------


def test_one_value_stands_out_of_many() -> None:
    sizes = np.array([1.0, 0.9, 1.1, 0.8, 1.2, 40.0])
    assert stand_out(sizes, np.zeros(6)).tolist() == [False] * 5 + [True]
    sparse = np.array([0.0, 1e-17, 0.3, 0.0, 0.2])  # all others are rounding
    assert stand_out(sparse, np.full(5, 1e-15)).tolist() == [False, False, True, False, True]
    assert stand_out(np.array([5.0]), np.zeros(1)).tolist() == [False]
    assert stand_out(np.array([5.0, 0.0]), np.zeros(2)).tolist() == [True, False]
    assert stand_out(np.zeros(0), np.zeros(0)).tolist() == []


@pytest.mark.parametrize("n", [2, 6, 66, 500])
def test_noise_stands_out_of_noise_as_rarely_as_said(n: int) -> None:
    rng = np.random.default_rng(n)
    wrong = [stand_out(abs(rng.standard_normal(n)), np.zeros(n)).any() for _ in range(300)]
    assert np.mean(wrong) <= 0.09


def test_a_table_of_more_units_than_the_alphabet_has_letters_names_them_all() -> None:
    n = 30
    units = np.array([[0, 1, *[-1] * (n - 2)], [*range(n)]])
    mains = np.arange(n, dtype=np.float64)[:, None] + np.zeros((n, 3))
    found = sm.Interactions([f"u{i}" for i in range(n)], units, np.ones((2, 3)), mains, np.ones(3))
    row = found.frame(order=n).iloc[0]
    told = [row[name] for name in row.index if name.startswith("unit_")]
    assert told == found.labels and (row["unit_z"], row["unit_aa"]) == ("u25", "u26")
    assert [row[name] for name in row.index if name.startswith("main_")] == mains[:, 0].tolist()
    assert list(found.frame(order=2).columns)[:3] == ["unit_a", "unit_b", "value"]


# -- confirmation ---------------------------------------------------------------------------------


def planted(seed: int, n_prompts: int = 40, pair: float = 1.0) -> Any:
    """A game of four units with one pair, which differs by prompt; another seed, other prompts."""
    size = pair + 0.3 * np.random.default_rng(seed).standard_normal(n_prompts)
    noise = np.random.default_rng(100 + seed).standard_normal((16, n_prompts))

    def value(masks: Any) -> Any:
        kept = masks.numpy()
        row = kept @ (2 ** np.arange(4))
        return (kept[:, :2].all(axis=1))[:, None] * size + 0.2 * noise[row]

    return as_game(value, None, LABELS)


def test_confirmation_says_what_holds() -> None:
    found = sm.discover(planted(0), method="exhaustive", progress=False)
    again = sm.confirm(found, planted(1), k=3, progress=False)
    assert again.names == found.top(3).names  # in the order of the search
    assert again.holds.tolist() == [True, False, False] and again.n_shared == 0
    assert again.same_sign[0] and again.within_error[0]
    frame = again.frame()
    assert frame.searched.tolist()[0] == found.top(1).mean[0] and frame.holds.tolist()[0]
    lines = repr(again).splitlines()
    assert lines[0].startswith("1 of 3 hold on 40 other prompts: the same sign and q <= 0.05;")
    assert f"searched {found.top(1).mean[0]:+.3g}, now +" in lines[1] and lines[1].endswith("holds")
    assert lines[2].endswith(("other sign", "not significant"))
    assert again.top(1).searched.names == again.names[:1]
    # What is confirmed is part of the result, in tables and on disk.
    both = found.confirmed_by(again)
    assert both.top(3).confirmed.tolist() == [1, 0, 0] and (both.confirmed == -1).sum() == 3
    assert "AND-like, confirmed" in repr(both)
    saved = from_bytes(to_bytes(both))
    np.testing.assert_array_equal(saved.confirmed, both.confirmed)
    assert both.frame().confirmed.tolist()[0] == 1
    assert (found.confirmed == -1).all()


def test_a_second_confirmation_keeps_what_the_first_one_said() -> None:
    """Of what it did not measure; of the rest it has the last word."""
    found = sm.discover(planted(0), method="exhaustive", progress=False)
    strong = sm.confirm(found.top(1), planted(1), progress=False)
    rest = found.take(np.argsort(-abs(found.mean))[1:])
    with pytest.raises(ValueError, match=r"rows is 0, an int; give a list, as in take\(\[0, 1\]\)"):
        found.take(0)
    weak = sm.confirm(rest, planted(2), progress=False)
    both = found.confirmed_by(strong).confirmed_by(weak).top(6)
    assert both.confirmed.tolist() == [1, 0, 0, 0, 0, 0]
    assert found.confirmed_by(weak).confirmed_by(strong).top(6).confirmed.tolist() == [1] + [0] * 5
    none = sm.confirm(found.top(1), planted(3, pair=0.0), progress=False)
    assert found.confirmed_by(strong).confirmed_by(none).top(1).confirmed.tolist() == [0]


@pytest.mark.parametrize("shared", ["all", "some"])
def test_confirming_on_the_prompts_of_the_search_warns(shared: str) -> None:
    found = sm.discover(planted(0), method="exhaustive", progress=False)
    one, other = planted(0), planted(1)
    some = as_game(lambda m: np.concatenate([other(m), one(m)[:, :10]], axis=1), None, LABELS)
    game, text = {"all": (one, "the prompts"), "some": (some, "10 of 50 prompts")}[shared]
    with pytest.warns(UserWarning, match=f"{text} are those of the search.*confirms nothing"):
        again = sm.confirm(found, game, k=2, progress=False)
    assert repr(again).startswith(f"Nothing is confirmed: {text} are those of the search.")
    assert (found.confirmed_by(again).confirmed == -1).all()


def test_confirming_nothing_is_refused() -> None:
    found = sm.discover(planted(0), method="exhaustive", progress=False)
    with pytest.raises(ValueError, match="k is -1; it must be a whole number of at least 1"):
        sm.confirm(found, planted(1), k=-1)
    other = sm.measure(planted(1), [("L1H0", "L1H1")], progress=False)
    with pytest.raises(ValueError, match="L0H0 x L0H1 was not measured again"):
        confirmation(found.top(1), other)
    with pytest.raises(ValueError, match="none of these interactions was measured again"):
        found.top(1).confirmed_by(confirmation(other, other))


# -- on disk --------------------------------------------------------------------------------------


def test_save_and_load_give_the_same(tmp_path: Path) -> None:
    found = a_result(triple=True, audit={"missed": [0.1, 0.2], "note": "ö"})
    path = found.save(tmp_path / "deep" / "run.npz")
    assert path == tmp_path / "deep" / "run.npz"
    again = sm.Interactions.load(str(path))
    for name in ("units", "values", "main_effects_by_prompt", "intact_by_prompt", "q_value"):
        got, want = getattr(again, name), getattr(found, name)
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype
    for name in ("labels", "noise_floor", "cost", "audit", "about"):
        assert getattr(again, name) == getattr(found, name)
    assert [p.name for p in path.parent.iterdir()] == ["run.npz"]


def test_a_measured_result_survives_the_disk(tmp_path: Path) -> None:
    found = sm.discover(lambda m: m.all(dim=1).double(), n=4, method="exhaustive", budget=8, seed=1)
    again = sm.Interactions.load(found.save(tmp_path / "run.npz"))
    assert again.about == found.about and again.about["budget"] == 8
    assert repr(again) == repr(found)


def test_numbers_of_numpy_are_kept_as_plain_ones(tmp_path: Path) -> None:
    about = {"budget": np.int64(8), "rates": np.array([0.5, 1.0])}
    again = sm.Interactions.load(a_result(about=about).save(tmp_path / "run.npz"))
    assert again.about == {"budget": 8, "rates": [0.5, 1.0]}


def test_nothing_is_pickled(tmp_path: Path) -> None:
    path = a_result().save(tmp_path / "run.npz")
    with np.load(path, allow_pickle=False) as file:
        assert all(file[name].dtype.kind in "uif" for name in file)
        about = json.loads(file["about"].tobytes())
    assert about["labels"] == LABELS and about["format"] == 2


def test_a_result_is_as_readable_as_other_files(tmp_path: Path) -> None:
    path = a_result().save(tmp_path / "run.npz")
    (tmp_path / "other").write_text("x")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [None, b"the run before"])
def test_save_is_all_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, before: bytes | None
) -> None:
    path = tmp_path / "run.npz"
    if before is not None:
        path.write_bytes(before)

    def fail(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        assert len(os.listdir(tmp_path)) == 1 + (before is not None)
        raise error

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(type(error)):
        a_result().save(path)
    assert os.listdir(tmp_path) == ([] if before is None else ["run.npz"])
    assert before is None or path.read_bytes() == before


def test_load_of_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        sm.Interactions.load(tmp_path / "none.npz")


def test_load_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, x=np.ones(3))
    with pytest.raises(
        ValueError, match=r"other.npz is not a spex_mech result .*holds x, and no result"
    ):
        sm.Interactions.load(path)
    np.savez(path, about=np.frombuffer(b"[1, 2]", dtype=np.uint8))
    with pytest.raises(ValueError, match=r"other.npz is not a spex_mech result"):
        sm.Interactions.load(path)
    np.savez(path, about=np.array([{"pickled": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"other.npz is not a spex_mech result .*allow_pickle"):
        sm.Interactions.load(path)
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(ValueError, match=r"one.npy is not a spex_mech result"):
        sm.Interactions.load(tmp_path / "one.npy")


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04garbage", b"{}"])
def test_load_of_garbage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"bad.npz is not a spex_mech result"):
        sm.Interactions.load(tmp_path / "bad.npz")


def test_load_of_a_damaged_file(tmp_path: Path) -> None:
    whole = a_result().save(tmp_path / "run.npz").read_bytes()
    path = tmp_path / "damaged.npz"
    seen = 0
    for at in range(0, len(whole), 13):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(content)
            try:  # some bytes (of dates, say) do not matter
                again = sm.Interactions.load(path)
            except ValueError as error:
                assert "damaged.npz is not a spex_mech result" in str(error)
                seen += 1
            else:
                np.testing.assert_array_equal(again.values, a_result().values)
    assert seen > len(whole) // 13


def test_load_of_a_newer_format(tmp_path: Path) -> None:
    path = a_result().save(tmp_path / "run.npz")
    with np.load(path) as file:
        about = {**json.loads(file["about"].tobytes()), "format": 3, "more": []}
        values = file["values"]
    # A newer format may lack what this one needs.
    np.savez(path, about=np.frombuffer(json.dumps(about).encode(), np.uint8), values=values)
    with pytest.raises(ValueError, match=r"run.npz was written by a newer spex_mech; upgrade"):
        sm.Interactions.load(path)


def test_a_result_is_compressed(tmp_path: Path) -> None:
    path = a_result().save(tmp_path / "run.npz")
    with zipfile.ZipFile(path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_DEFLATED}


def test_q_values_count_all_that_a_search_could_choose_from() -> None:
    listed, chosen = a_result(), a_result(chosen_from={2: 6})
    np.testing.assert_allclose(chosen.q_value, (listed.q_value * 6 / 5).clip(max=1), rtol=1e-12)
    assert (listed.q_value < 0.5).any()  # or the line above says little


def test_intervals_are_wider_where_the_strongest_were_chosen() -> None:
    found = a_result(about={"method": "listed sets"})
    all_of_them, best = found.intervals(0.9), found.top(2).intervals(0.9)
    assert found.n_choices == len(found) == found.top(2).n_choices == 5
    half = 2.91999 * found.stderr  # Student's t with two degrees of freedom, 0.95
    np.testing.assert_allclose(all_of_them.T, [found.mean - half, found.mean + half], rtol=1e-4)
    half = 4.84873 * found.top(2).stderr  # at 0.98: 2 of 5 were chosen
    np.testing.assert_allclose((best[:, 1] - best[:, 0]) / 2, half, rtol=1e-4)
    assert a_result(chosen_from={2: 6}).n_choices == 6
    with pytest.raises(ValueError, match="between 0 and 1"):
        found.intervals(90.0)


def test_a_part_knows_what_it_was_chosen_from_after_it_was_saved(tmp_path: Path) -> None:
    part = a_result().top(2)
    again = sm.Interactions.load(part.save(tmp_path / "top.npz"))
    assert again.n_choices == part.n_choices == 5
    np.testing.assert_array_equal(again.intervals(), part.intervals())


def test_a_file_carries_the_table_of_units_and_what_was_chosen_from(tmp_path: Path) -> None:
    units = Units([Unit("a", "head", 3), Unit("b", "group", None, ("L0H1", "L2H0"))])
    found = sm.Interactions(
        ["a", "b"], np.array([[0, 1]]), np.ones((1, 3)), np.ones((2, 3)), np.ones(3),
        chosen_from={2: 7}, unit_table=units,
    )  # fmt: skip
    again = sm.Interactions.load(found.save(tmp_path / "run.npz"))
    assert again.unit_table == units and again.top(1).unit_table == units
    assert again.chosen_from == {2: 7} and again.n_choices == 7
    renamed = replace(found, labels=["a", "L4N2"])
    assert renamed.unit_table == Units([Unit("a"), Unit("L4N2", "neuron", 4)])


def test_a_file_from_before_there_was_a_table_of_units(tmp_path: Path) -> None:
    path = a_result(about={"method": "spex"}).save(tmp_path / "run.npz")
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(arrays["about"].tobytes())
    assert about.pop("format") == 2 and about.pop("chosen_from") == {}
    labels = [f"L{u}H1" for u in range(len(about["labels"]))]
    about |= {"format": 1, "labels": labels}
    del about["unit_table"]
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
    del arrays["n_choices"], arrays["q_value"]
    np.savez(path, **arrays)
    old = sm.Interactions.load(path)
    assert old.unit_table.kinds == ["head"] * len(labels)
    assert old.unit_table.layers.tolist() == list(range(len(labels)))
    assert old.n_choices == len(labels) * (len(labels) - 1) // 2
