"""What is done around a search over a day: rows and tables joined by hand, cells run again in
another order, files edited in between. Each number is compared with a loop by hand, or refused."""

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import spex_mech as sm
from spex_mech.sweep import cells_of, status, sweep

LABELS = list("abcdef")
PAIRS = np.random.default_rng(1).normal(size=(12, 6, 6))


def game(masks: torch.Tensor) -> torch.Tensor:
    """Pairs whose interactions differ by prompt."""
    lost = (~masks).double()
    values = 3.0 - lost.sum(dim=1, keepdim=True).repeat(1, len(PAIRS))
    for a, b in combinations(range(6), 2):
        values += lost[:, a, None] * lost[:, b, None] * torch.from_numpy(PAIRS[:, a, b])
    return values


def truth(a: str, b: str) -> float:
    first, second = sorted((LABELS.index(a), LABELS.index(b)))
    return float(PAIRS[:, first, second].mean())


@pytest.fixture(scope="module")
def found() -> sm.Interactions:
    return sm.discover(game, "exhaustive", labels=LABELS, progress=False)


# -- rows and tables ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sets",
    [
        [("f", "e"), ("a", "b"), ("c", "d")],
        [("f", "a", "e"), ("e", "f"), ("b", "a")],
        [(5, 0), ("a", "c"), (0, 5)],
    ],
)
def test_listed_sets_are_measured_in_their_order(sets: list[Any]) -> None:
    measured = sm.measure(game, sets, labels=LABELS, progress=False)
    asked = [tuple(sorted(LABELS[u] if isinstance(u, int) else u for u in s)) for s in sets]
    once = list(dict.fromkeys(asked))
    assert measured.names[: len(once)] == once
    for names, value in measured:
        if len(names) == 2:
            assert value == pytest.approx(truth(*names))


def test_rows_of_a_table_are_not_taken_for_rows_of_another_order(found: sm.Interactions) -> None:
    """A complete search has its rows in the order of the units, and its table has not."""
    table: Any = found.frame()
    for rows in (table["value"] > 0, table.index[table["value"] > 0]):
        with pytest.raises(ValueError, match=r"take rows of found.top\(len\(found\)\)"):
            found.take(rows)
    ranked = found.top(len(found))
    for rows in (
        table["value"] > 0,
        table.index[table["value"] > 0],
        table.sort_values("q_value")["value"] > 0,
    ):
        part = ranked.take(rows)
        assert {*part.names} == {n for n, value in found if value > 0}
    assert found.take(pd.Series([2, 0]).to_numpy()).names == [found.names[2], found.names[0]]


def test_rows_of_a_table_of_one_order_are_not_taken_for_those_of_all() -> None:
    both = sm.discover(game, labels=LABELS, order=3, budget=60, progress=False)
    both = both.top(len(both))
    pairs: Any = both.frame(order=2)
    with pytest.raises(ValueError, match="interactions of several orders"):
        both.take(pairs.index[:2])
    assert len(both.take(both.frame()["value"] > 0)) == (both.mean > 0).sum()


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([99], "no row 99 among 15"),
        ([True, False], "2 entries of True and False for 15"),
        ([0.5], "give whole numbers"),
        ([0, 0], "stands in two rows, 0 and 1"),
        (3, r"give a list, as in take\(\[0, 1\]\)"),
    ],
)
def test_rows_that_there_are_not(found: sm.Interactions, rows: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        found.take(rows)


def test_no_row_may_be_taken(found: sm.Interactions) -> None:
    assert len(found.take([])) == 0 and found.take([-1]).names == [found.names[-1]]


def test_two_results_joined_by_hand_hold_no_pair_twice(found: sm.Interactions) -> None:
    """A map had the root of two times its value in the cell of such a pair."""
    one, two = found.take([0, 1, 2]), found.take([2, 3])
    arrays = {
        name: np.concatenate([getattr(r, name) for r in (one, two)]) for name in ("units", "values")
    }
    with pytest.raises(ValueError, match="a x d stands in two rows, 2 and 3"):
        replace(found, **arrays)
    joined = replace(found, **{name: array[[0, 1, 2, 4]] for name, array in arrays.items()})
    assert len(joined) == 4 and joined["a", "e"] == pytest.approx(truth("a", "e"))


def test_units_of_a_row_stand_in_any_order(found: sm.Interactions) -> None:
    turned = replace(found, units=found.units[:, ::-1])
    assert turned["c", "f"] == found["c", "f"] and ("f", "c") in turned
    padded = np.insert(found.units, 0, -1, axis=1)
    assert replace(found, units=padded)["f", "c"] == found["c", "f"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (lambda f: {"values": np.where(f.values == f.values[3, 2], np.nan, f.values)},
         "value of a x e on prompt 2 is nan; leave this prompt out"),
        (lambda f: {"units": f.units + 4}, "a unit beyond the 6"),
        (lambda f: {"units": f.units[:, [0, 0]]}, "row 0 holds the unit 'a' twice"),
    ],
)  # fmt: skip
def test_arrays_by_hand_that_cannot_be(
    found: sm.Interactions, changes: Callable[[Any], dict[str, Any]], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        replace(found, **changes(found))


def test_a_file_with_a_missing_number_is_refused(found: sm.Interactions, tmp_path: Path) -> None:
    file = found.save(tmp_path / "found.npz")
    with np.load(file) as held:
        arrays = dict(held)
    arrays["values"][1, 0] = np.nan
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=r"found.npz .*value of a x c on prompt 0 is nan"):
        sm.load(file)


# -- words that mislead ---------------------------------------------------------------------------


def test_all_that_was_measured_is_not_called_stable(found: sm.Interactions) -> None:
    """It was said that 15 of 15 pairs stay on top in every redraw, of whatever values."""
    with pytest.warns(UserWarning, match="the 15 strongest of 15 interactions: every redraw"):
        stable = sm.stability(found, k=20)
    assert "nothing is known of their stability" in repr(stable)
    assert "Jaccard" in repr(sm.stability(found, k=5))


def test_the_stability_of_a_part_is_said_to_be_too_high(found: sm.Interactions) -> None:
    with pytest.warns(UserWarning, match="only 6 of the 15 that were measured could come up"):
        part = sm.stability(found.top(6), k=5)
    assert part.jaccard.mean() > sm.stability(found, k=5).jaccard.mean()
    assert "only 6 of the 15" in repr(part)


def test_tops_of_all_that_was_measured_are_not_said_to_agree(found: sm.Interactions) -> None:
    other = replace(found, values=-found.values[::-1])
    assert "neither has more than 20" in repr(sm.compare(found, other))
    assert "share 1.00 (Jaccard)" not in repr(sm.compare(found, other))
    assert "the two top 5 share" in repr(sm.compare(found, other, k=5))


# -- columns of pandas ----------------------------------------------------------------------------


def test_texts_of_examples_are_paired_by_place() -> None:
    x = np.random.default_rng(0).normal(size=(6, 2))
    data = sm.TrainingGame.ridge(x, x[:, 0], x[:2], x[:2, 0])
    result = sm.discover(data, "exhaustive", progress=False)
    texts = [f"text {n}" for n in range(6)]
    of_a_sample = pd.Series(texts, index=[17, 4, 99, 23, 8, 11])
    want = sm.plot_examples(result, texts).html
    assert sm.plot_examples(result, of_a_sample).html == want
    assert sm.plot_examples(result, np.array(texts)).html == want
    with pytest.raises(ValueError, match="the index of texts has the order"):
        sm.plot_examples(result, pd.Series(texts, index=[5, 4, 3, 2, 1, 0]))
    with pytest.raises(ValueError, match="give a list with one for each unit"):
        sm.plot_examples(result, dict(enumerate(texts)))


def test_columns_of_two_tables_are_not_paired_by_position() -> None:
    tokenizer = sm.load_tokenizer(sm.load_model("sentiment"))
    texts = pd.Series(["the film was", "a good film", "not bad"], index=[2, 0, 1])
    words = pd.Series(["good", "bad", "film"])
    with pytest.raises(ValueError, match=r"answers\.loc\[texts\.index\]"):
        sm.Prompts.from_text(tokenizer, texts, words)
    with pytest.raises(ValueError, match=r"clusters\.loc\[texts\.index\]"):
        sm.Prompts.from_text(tokenizer, texts, clusters=pd.Series([0, 0, 1]))
    held = sm.Prompts.from_text(tokenizer, texts, clusters=pd.Series([0, 0, 1]).loc[texts.index])
    assert held.clusters is not None and held.clusters.tolist() == [1, 0, 0]


@pytest.mark.parametrize("by_class", [False, True])
def test_subsets_of_one_size_do_not_tell_what_all_examples_do(by_class: bool) -> None:
    """Every example helps by about 1; from subsets of half of them their mean effect came out as 0,
    and half of the signs were wrong, with an R2 of 0.93 and no word."""
    rng = np.random.default_rng(0)
    effects = 1 + 0.1 * rng.normal(size=20)
    masks = np.zeros((400, 20), dtype=bool)
    for mask in masks:
        for part in np.split(np.arange(20), 2 if by_class else 1):
            mask[rng.permutation(part)[: len(part) // 2]] = True
    told = "2 sums over units" if by_class else "every mask keeps 10 of the 20 units"
    with pytest.warns(UserWarning, match=f"{told}.*signs may be wrong"):
        sm.explain(masks, masks @ effects)
    masks = rng.random((400, 20)) < 0.5
    known = sm.explain(masks, masks @ effects)  # of all sizes: no warning
    mains: Any = known.frame(20, order=1, kind="banzhaf").estimate
    assert mains.mean() == pytest.approx(effects.mean(), abs=0.02)


# -- what a metric reads --------------------------------------------------------------------------

SCALE = {"by": 1.0}
BY = 1.0


def scaled(logits: torch.Tensor, prompts: sm.Prompts) -> torch.Tensor:
    rows = torch.arange(len(logits))
    right = logits[rows, prompts.last].log_softmax(-1)
    return BY * right[rows, prompts.tokens[:, 0]]


def test_a_number_that_a_metric_reads_is_another_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell that sets it was run between two searches with the same task and the same game."""
    model = sm.load_model("demo")
    task = sm.Task(sm.load_task("induction", model, n_prompts=4).prompts, scaled)
    one = sm.ModelGame(model, task)
    first = sm.discover(one, budget=45, progress=False)
    monkeypatch.setitem(globals(), "BY", 1000.0)
    second = sm.discover(one, budget=45, progress=False)
    np.testing.assert_allclose(second.top(1).mean, 1000 * first.top(1).mean, rtol=1e-4)
    assert second.noise_floor == pytest.approx(1000 * first.noise_floor, rel=0.01)
    with pytest.warns(UserWarning, match="two functions called 'scaled', whose code, or what"):
        assert sm.compare(first, second).two_metrics


# -- sweeps and files of one's own ----------------------------------------------------------------


def test_a_result_that_was_removed_is_written_again(tmp_path: Path) -> None:
    cells = cells_of({"models": ["demo"]}, n_prompts=2)
    sweep(cells, tmp_path, progress=False)
    file = next(tmp_path.glob("*/interactions.npz"))
    before = sm.load(file)
    file.unlink()
    table = sweep(cells, tmp_path, progress=False)
    np.testing.assert_array_equal(sm.load(file).values, before.values)
    assert table["state"].tolist() == ["done"] == status(tmp_path)["state"].tolist()


METRIC = """
def margin(logits, prompts):
    rows = range(len(logits))
    return {by} * logits[rows, prompts.last].log_softmax(-1)[rows, prompts.tokens[:, 0]]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def metric_of(by: str) -> float:
    """What the intact model has by the metric that is now in this folder."""
    return float(
        sm.GameFactory("demo", n_prompts=2, metric="my_own_margin:margin")().mean(torch.ones(1, 8))[
            0
        ]
    )


def test_a_file_that_was_edited_is_read_again(folder: Path) -> None:
    """In a notebook the function of the first reading went on being used."""
    file = folder / "my_own_margin.py"
    file.write_text(METRIC.format(by="1"))
    once = metric_of("1")
    file.write_text(METRIC.format(by="100"))
    assert metric_of("100") == pytest.approx(100 * once)
    other = folder / "other"
    other.mkdir()
    os.chdir(other)
    (other / "my_own_margin.py").write_text(METRIC.format(by="10"))
    assert metric_of("10") == pytest.approx(10 * once)
    os.chdir(folder)
    assert metric_of("100") == pytest.approx(100 * once)


def test_a_cell_without_its_store_is_not_done_by_another_metric(folder: Path) -> None:
    file = folder / "margin_of_a_sweep.py"
    file.write_text(METRIC.format(by="1"))
    cells = cells_of({"models": ["demo"]}, n_prompts=2, metric="margin_of_a_sweep:margin")
    sweep(cells, folder / "out", progress=False)
    for store in (folder / "out").glob("*/run.sqlite"):
        store.unlink()
    assert sweep(cells, folder / "out", progress=False)["state"].tolist() == ["done"]
    file.write_text(METRIC.format(by="2 *  1"))
    with pytest.raises(ValueError, match="its metric margin_of_a_sweep:margin is another function"):
        sweep(cells, folder / "out", progress=False)
