"""What went wrong in researchers' first hour, each with others of its kind: the result is right, or
one sentence says what is wrong. (Functions, arguments and labels: ``test_functions``; files:
``test_tasks`` and ``test_files``; claims: ``test_claims`` and ``test_report``; workers and stores:
``test_losses``, ``test_store_file``, ``test_interrupts``.)"""

import csv
import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech import cli

ROOT = Path(__file__).parents[1]


def product(*units: int) -> Callable[[Any], Any]:
    """Worth 1 where all of these are kept."""
    return lambda masks: masks[:, list(units)].all(dim=1).double()


def listed(found: sm.Interactions) -> dict[tuple[str, ...], float]:
    return dict(zip(found.names, found.mean.tolist(), strict=True))


@pytest.mark.parametrize(("n", "order"), [(4, 3), (5, 3), (5, 4), (3, 3)])
def test_no_order_is_left_out_of_any_table(n: int, order: int, tmp_path: Path) -> None:
    """Triples vanished from the CSV without a word."""
    found = sm.discover(product(*range(order)), "exhaustive", n=n, order=order, progress=False)
    from spex_mech.report.folder import write_all

    write_all(found, tmp_path)
    rows = [*csv.DictReader(io.StringIO((tmp_path / "interactions.csv").read_text()))]
    units = [f"unit_{letter}" for letter in "abcd"[:order]]
    for table in (rows, found.frame().fillna("").to_dict("records")):
        got = {tuple(row[u] for u in units if row[u] != ""): float(row["value"]) for row in table}
        assert got == pytest.approx(listed(found))
    sets = [s for k in range(2, order + 1) for s in itertools.combinations(map(str, range(n)), k)]
    assert {*listed(found)} == {*sets} and f"{len(sets)} interactions" in repr(found)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("n_units", [4, 6])
def test_the_largest_order_is_the_number_of_units(order: int, n_units: int) -> None:
    """Order 10 of 10 units died of ``cannot convert float NaN to integer``."""
    for method in ("spex", "exhaustive", "proxyspex"):
        found = sm.discover(product(*range(order)), method, n=order, order=order, progress=False)
        assert found.value(*map(str, range(order))) == pytest.approx((-1.0) ** order)
    told = f"interactions of order {n_units + 1} among {n_units}"
    with pytest.raises(ValueError, match=told):
        sm.discover(product(0, 1), n=n_units, order=n_units + 1, progress=False)


def test_order_10_of_10_units() -> None:
    found = sm.discover(product(*range(10)), n=10, order=10, progress=False)
    assert abs(found.top(1).mean[0]) == pytest.approx(1.0)
    whole = sm.discover(product(*range(10)), n=10, order=10, budget=1040, progress=False)
    assert whole.value(*map(str, range(10))) == pytest.approx(1.0) and len(whole) == 1013


@pytest.mark.parametrize("draw", [sm.plot_map])
@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
@pytest.mark.parametrize("by", ["layers", "bogus", "", "Unit"])
def test_a_misspelt_choice_draws_nothing(draw: Any, backend: str, by: str) -> None:
    """``by="layers"`` drew the map of units."""
    found = sm.discover(product(0, 1), n=3, labels=["L0H0", "L0H1", "L1H0"], progress=False)
    with pytest.raises(ValueError, match=f"by is '{by}'; choose 'unit' or 'layer'"):
        draw(found, by=by, backend=backend)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_sign_of_odd_orders_is_said(order: int) -> None:
    """``to_shapiq`` turned the sign of main effects and triples and did not say so."""
    pytest.importorskip("shapiq", reason="shapiq is not installed")
    found = sm.discover(product(*range(order)), "exhaustive", n=4, order=order, progress=False)
    values = sm.to_shapiq(found)
    for names, value in listed(found).items():
        assert values[tuple(map(int, names))] == pytest.approx((-1) ** len(names) * value)
    for unit, value in enumerate(found.main_effects):
        assert values[(unit,)] == pytest.approx(-value)
    assert "sign" in (sm.to_shapiq.__doc__ or "")


@pytest.mark.parametrize("classes", [(-1, 1), (1, 2), (0.5, 1), (3, 7)])
def test_any_two_classes_are_those_of_0_and_1(classes: tuple[float, float]) -> None:
    """Labels of -1 and 1 gave garbage without a word."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 3)), rng.permutation(np.resize([0, 1], 12))
    named = np.array(classes)[y]
    want = sm.TrainingGame.logistic(x, y, x_test=x[:4], y_test=y[:4])
    game = sm.TrainingGame.logistic(x, named, x_test=x[:4], y_test=named[:4])
    masks = rng.random((5, 12)) < 0.7
    np.testing.assert_allclose(game(masks), want(masks), atol=1e-9)
    with pytest.raises(ValueError, match="which y has not"):
        sm.TrainingGame.logistic(x, named, x_test=x[:2], y_test=[classes[0], 99])
    with pytest.raises(ValueError, match="two classes apart, and y has 3"):
        sm.TrainingGame.logistic(x, [*named[:11], 99], x_test=x[:2], y_test=named[:2])


@pytest.mark.parametrize("rows", [(12, 5, 2, 2), (12, 12, 2, 1), (12, 12, 1, 2), (12, 13, 2, 2)])
def test_shapes_that_do_not_fit_are_not_broadcast(rows: tuple[int, int, int, int]) -> None:
    """Two test points and one target went through."""
    rng = np.random.default_rng(0)
    x, x_test = rng.random((rows[0], 3)), rng.random((rows[2], 3))
    y, y_test = np.resize([0.0, 1.0], rows[1]), np.resize([0.0, 1.0], rows[3])
    for learner in (sm.TrainingGame.ridge, sm.TrainingGame.logistic):
        with pytest.raises(ValueError, match=r"y(_test)? has|rows|examples|targets"):
            learner(x, y, x_test=x_test, y_test=y_test)


class Other:
    """Another game, of units of its own."""

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        return masks.double().prod(dim=1)


@pytest.mark.parametrize("labels", [["0", "7", "8"], ["0"], ["x", "1"], ["00", "1", "2"]])
def test_a_game_that_lacks_a_unit_confirms_nothing(labels: list[str]) -> None:
    found = sm.discover(product(0, 1), n=3, progress=False)
    with pytest.raises(ValueError, match=r"unknown unit '[01]'; this game's units are \["):
        sm.confirm(found, Other(labels), k=1, progress=False)


def causal(text: str, answer: str, **options: Any) -> sm.TokenGame:
    from tests.prompt_files import word_tokenizer

    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tokenizer = word_tokenizer()
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=16, vocab_size=len(tokenizer), n_positions=24,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    task = sm.text_task(model, text, answer, tokenizer=tokenizer)
    return sm.TokenGame(model, task, tokenizer=tokenizer, **options)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("he lives in the city of", " Rome"),
        ("she sees a", " dog"),
        ("a dog of Paris", " sees"),
        ("the cat lives in New", " York"),
    ],
)
def test_a_text_of_a_causal_model_needs_no_option(text: str, answer: str) -> None:
    """A model without a mask token refused the very first call."""
    game = causal(text, answer)
    found = sm.discover(game, "exhaustive", progress=False)
    assert len(game) >= len(text.split()) - 1 and np.isfinite(found.mean).all()
    assert all(word in "".join(game.labels) for word in text.split()[1:])


@pytest.mark.parametrize(
    "words",
    [
        ["discover", "--order", "2.5"], ["discover", "--budget", "x"], ["discover", "--seed", "a"],
        ["discover", "--budget", "0"], ["discover", "--order", "1"], ["discover", "--store", ""],
        ["discover", "--method", "spx"], ["discover", "--task", "inducton"],
        ["discover", "--lens", "data", "--examples", "nosuch.npz"], ["report", "nosuch.npz"],
        ["discover", "--units", "L9H9"], ["discover", "--workers", "0"], ["store", "nosuch.db"],
        ["sweep", "nosuch.toml"], ["sweep", "."], ["sweep", "/proc/nothing/x.toml"],
        ["sweep", "--models", "demo", "--task", "x"], ["sweep", "--models", ""],
        ["report", "."], ["report", "/proc/self/mem"], ["report", "n" * 300],
        ["store", "."], ["store", "/proc/self/mem"], ["store", "n" * 300], ["status", "n" * 300],
        ["discover", "--out", "n" * 300], ["discover", "--out", "/proc/nothing"],
        ["discover", "--store", "/proc/nothing/x"], ["discover", "--store", "."],
        ["discover", "--store", "/proc/self/mem"], ["discover", "--model", "n" * 300],
        ["discover", "--model", ""], ["discover", "--model", "/proc/self/mem"],
        ["discover", "--lens", "data", "--examples", "."], ["demo", "--out", "/proc/nothing"],
        ["discover", "--n-prompts", "-1"], ["status", "nosuch"], ["sweep", "--methods", "spx"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_command_line_says_it_in_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(words)
    except SystemExit as stop:  # of the parser
        code = stop.code
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("spex-mech"), (code, lines)
    assert "Errno" not in lines[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
