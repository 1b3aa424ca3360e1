"""Functions of masks as users write them: any way of calling, any kind of answer, numbers of any
size, and what varies. Right, or refused in words."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.game import as_game

ROOT = Path(sm.__file__).parents[1]


def exhaustive(function: Callable[[Any], Any], n: int = 6, **options: Any) -> sm.Interactions:
    return sm.discover(function, "exhaustive", n=n, progress=False, **options)


def true(masks: Any) -> np.ndarray:
    """One pair, (0, 1): +3."""
    kept = np.asarray(masks, dtype=np.float64)
    return 3 * (1 - kept[..., 0]) * (1 - kept[..., 1]) + kept.sum(-1)


def whole_kept(masks: Any) -> Any:
    masks |= np.array([False, False, True, True, True, True])
    return true(masks)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "torch, many": lambda m: 3 * (~m[:, 0] & ~m[:, 1]).double() + m.sum(dim=1),
    "numpy, many": lambda m: true(m.astype(float)),
    "numpy's copy": lambda m: true(m.copy()),
    "writes into its masks": whole_kept,
    "a list": lambda m: true(m).tolist(),
    "a tuple of 0-d arrays": lambda m: tuple(np.array(v) for v in true(m)),
    "a list of tensors": lambda m: [torch.tensor(v) for v in true(m)],
    "a column": lambda m: true(m)[:, None],
    "one, if": lambda m: 3.0 if not m[0] and not m[1] else 0.0,
    "one, and": lambda m: 3 * bool(not m[0] and not m[1]),
    "one, sum": lambda m: m.sum() + 3 * (not m[0] and not m[1]),
    "one, tensors": lambda m: 3 * (~m[0] & ~m[1]).double() + m.sum(),
    "one, 0-d": lambda m: np.array(true(m)) if m.ndim == 1 else 1 / 0,
    "one, 1 element": lambda m: [float(true(m))],
    "one, integers": lambda m: int(3 * (1 - int(m[0])) * (1 - int(m[1]))),
    "one, python's sum": lambda m: sum(m) + 3 * (1 - int(m[0])) * (1 - int(m[1])),
    "one, prompts": lambda m: [float(true(m)), 2 * float(true(m))],
    "products of numpy": lambda m: 3 * np.prod(1 - m[:, :2], axis=1),
}


@pytest.mark.parametrize("n", [2, 3, 4, 6])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_user_writes_works(name: str, n: int) -> None:
    if name.startswith("writes") and n != 6:
        return
    found = exhaustive(FUNCTIONS[name], n)
    want = 4.5 if name == "one, prompts" else 3
    assert found.value("0", "1") == pytest.approx(want)
    assert abs(found.mean).sum() == pytest.approx(want)
    assert not found.about["asked_again"]["varies"]


@pytest.mark.parametrize(
    "function",
    [
        lambda m: m.sum(),  # a number of a batch, as of a mask
        lambda m: 1.0 * (m[0] & m[1]),  # the first two masks of a batch
        lambda m: [1.0 * m[0], 1.0 * m[1], 1.0 * m[2], 1.0 * m[3]],  # four prompts, or four masks
        lambda m: m.astype(float).mean(axis=-1) * len(m),
        lambda m: np.cumsum(m, axis=0)[-1] * 1.0,
        lambda m: np.sort(m, axis=0)[0] * 1.0 + m[1],
        lambda m: np.where(np.arange(len(m)) % 2, m[0], m[1]).sum() * 1.0,
    ],
)
@pytest.mark.parametrize("n", [4, 5])
def test_a_function_of_one_mask_is_not_taken_for_one_of_many(
    function: Callable[[Any], Any], n: int
) -> None:
    """Also where a batch is as large as the number of units."""
    game, kept = as_game(function, n), np.random.default_rng(0).random((n, n)) < 0.6
    want = np.array([np.ravel(np.asarray(function(row.copy()), dtype=float)) for row in kept])
    np.testing.assert_array_equal(game(kept).numpy(), want)


def test_it_can_be_said_how_a_function_is_called() -> None:
    def both(masks: Any) -> Any:
        return np.asarray(masks, dtype=float).sum(axis=-1) * np.ndim(masks)

    with pytest.raises(ValueError, match="takes both many masks and one, and says something else"):
        exhaustive(both)
    assert exhaustive(both, vectorized=True).intact == 12
    assert exhaustive(both, vectorized=False).intact == 6
    with pytest.raises(ValueError, match=r"depends on the masks that it is asked with: -?\d"):
        exhaustive(lambda m: m[:, 0].double() - m[:, 0].double().mean())
    with pytest.raises(ValueError, match="vectorized goes with a plain function"):
        as_game(as_game(both, 3), vectorized=True)
    found = sm.measure(true, [(0, 1), ("2", "3")], n=6, vectorized=True, progress=False)
    assert found.mean.tolist() == [3, 0]
    assert sm.distill(lambda m: float(m[0] and m[1]), 64, n=6, progress=False).exact
    assert sm.confirm(found, lambda m: 2 * true(m), k=1, progress=False).mean.tolist() == [6]


def test_an_error_of_the_function_itself_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        exhaustive(lambda m: 1 / 0)
    with pytest.raises(ValueError, match=r"It was tried with many masks as a bool.*with one"):
        exhaustive(lambda m: m.nosuch if m.ndim == 2 else m[99])


def test_each_wrong_argument_label_and_answer_is_named(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.wrong", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    cases = [json.loads(line) for line in run.stdout.splitlines()]
    kinds = {"argument", "label", "answer", "model", "circuit", "later", "sweep", "game"}
    assert {case["kind"] for case in cases} == kinds
    assert len(cases) > 110
    wrong = [case for case in cases if case["text"] not in case["came"] or not case["own"]]
    assert not wrong
    assert not any(path.name in ("~", ":memory:", "") for path in ROOT.iterdir())


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = exhaustive(true, store="~/a/run.sqlite")
    assert found.save("~/a/found.npz") == tmp_path / "a" / "found.npz"
    assert sm.Interactions.load("~/a/found.npz").mean.tolist() == found.mean.tolist()
    sm.write_report(found, "~/a/report.html")
    sm.plot_text(found).save("~/a/text.html")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"run.sqlite", "found.npz", "report.html", "text.html"}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("method", ["exhaustive", "spex", "proxyspex"])
@pytest.mark.parametrize("size", [1e39, 1e-46, 1e140, 1e-140, 1.0])
def test_numbers_keep_their_size(size: float, method: str, tmp_path: Path) -> None:
    function = lambda m: (size * true(m))[:, None] * np.array([[1.0, 1.5]])  # noqa: E731
    given: dict[str, Any] = {"n": 6, "progress": False}
    found = sm.discover(function, method, store=tmp_path / "run.sqlite", **given)
    found.save(tmp_path / "found.npz")
    again = sm.discover(function, method, store=tmp_path / "run.sqlite", **given)
    for one in (found, again, sm.Interactions.load(tmp_path / "found.npz")):
        assert one.values.dtype == np.float64
        np.testing.assert_allclose(one.value("0", "1"), 3.75 * size, rtol=1e-14)
        assert not one.is_noise[one.order == 2][abs(one.mean) > size].any()
        assert repr(one) and one.frame().value.notna().all()


def test_large_integers_are_not_rounded() -> None:
    found = exhaustive(lambda m: 2.0**52 + true(m))
    assert found.value("0", "1") == 3


# -- what varies ----------------------------------------------------------------------------------


def noisy(sigma: float, n: int, seed: int) -> tuple[Callable[[Any], Any], set[tuple[int, ...]]]:
    """Four planted pairs of size 1, and noise that is new in each call."""
    rng, noise = np.random.default_rng([seed, n]), np.random.default_rng([seed, n, 1])
    pairs: set[tuple[int, ...]] = set()
    while len(pairs) < 4:
        pairs.add(tuple(sorted(rng.choice(n, 2, replace=False).tolist())))
    weights = rng.normal(size=n)

    def function(masks: Any) -> Any:
        kept = np.asarray(masks, dtype=np.float64)
        value = kept @ weights + sum((1 - kept[:, a]) * (1 - kept[:, b]) for a, b in pairs)
        return value + sigma * noise.normal(size=len(value))

    return function, pairs


def false_and_true(sigma: float, n: int, method: str, seed: int, **options: Any) -> tuple[int, int]:
    function, pairs = noisy(sigma, n, seed)
    found = sm.discover(function, method, n=n, seed=seed, progress=False, **options)
    called = {tuple(units) for units in found.units[~found.is_noise].tolist()}
    return len(called - pairs), len(called & pairs)


@pytest.mark.parametrize("method", ["exhaustive", "spex", "proxyspex"])
def test_a_function_that_varies_is_told(method: str, tmp_path: Path) -> None:
    function, _ = noisy(1.0, 8, 0)
    found = sm.discover(function, method, n=8, progress=False)
    again = found.about["asked_again"]
    assert again["varies"] and again["masks"] >= 8 and found.cost["evaluations"] > 37
    assert found.noise_floor > 2 * again["largest_difference"] > 2
    assert set(found.verdicts) == {"noise"}
    size = f"{again['largest_difference']:.2g}"
    said = f"this function varies: the same mask gave values that differ by up to {size}"
    assert said in repr(found) and repr(found).startswith("Nothing was found")
    page = sm.write_report(found, tmp_path / "r.html").read_text()
    assert said[1:] in page
    few = sm.discover(function, method, n=8, progress=False, budget=37)
    assert "whether values vary is unknown" in repr(few)


def test_a_function_that_does_not_vary_is_asked_a_few_more(tmp_path: Path) -> None:
    for method, budget in (("exhaustive", None), ("spex", 400), ("exhaustive", 300)):
        found = sm.discover(true, method, budget, n=30, progress=False)
        again = found.about["asked_again"]
        assert 8 <= again["masks"] <= 0.031 * found.cost["evaluations"] + 8
        assert again["largest_difference"] == 0 and "varies" not in repr(found)
        assert budget is None or found.cost["evaluations"] <= budget


def test_what_was_asked_again_is_kept_in_a_store(tmp_path: Path) -> None:
    function, _ = noisy(0.3, 8, 0)
    game = as_game(function, 8)
    store = tmp_path / "run.sqlite"
    first = sm.discover(function, "exhaustive", n=8, store=store, progress=False)
    with pytest.warns(UserWarning, match="the game's values vary from call to call"):
        other = sm.discover(function, "exhaustive", n=8, seed=1, store=store, progress=False)
    assert first.noise_floor == other.noise_floor > 1 and other.cost["reused"] > 60
    assert len(game) == 8


def test_a_model_that_varies_is_told() -> None:
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, n_prompts=4)
    rng = np.random.default_rng(0)

    def judge(output: Any, prompts: Any) -> Any:
        rows = output[:, -1, 0].double()
        return rows + torch.from_numpy(rng.normal(size=len(rows)))

    game = sm.ModelGame(model, sm.Task(task.prompts, judge), replay=False)
    found = sm.discover(game, "exhaustive", progress=False)
    assert found.about["asked_again"]["varies"] and "this model varies" in repr(found)
    assert not found.is_finding.any() and found.noise_floor > 1
    plain = sm.discover(sm.ModelGame(model, task), "exhaustive", progress=False)
    assert not plain.about["asked_again"]["varies"]


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.1, 0.3, 1.0])
@pytest.mark.parametrize(
    ("n", "method", "budget"),
    [(8, "exhaustive", None), (16, "spex", None), (40, "exhaustive", None), (100, "spex", 2000)],
)
def test_false_discoveries_of_a_function_that_varies(
    sigma: float, n: int, method: str, budget: int | None
) -> None:
    """Planted pairs of size 1: of all that is not called noise in 50 runs at most a tenth is false.

    Of the 200 planted pairs of 50 runs were called more than noise (and the typical floor), while
    no false one was:

    =====  ==============  ===========  =================  =============
    noise  8, exhaustive   16, spex     40, exhaustive     100, spex
    =====  ==============  ===========  =================  =============
    0.1    149 (0.86)      112 (0.92)   90 (1.06)          29 (1.20)
    0.3    1 (2.59)        0 (2.77)     0 (3.17)           0 (3.59)
    1.0    0 (8.64)        0 (9.24)     0 (10.56)          0 (11.96)
    =====  ==============  ===========  =================  =============

    The last column was measured with the default budget.
    """
    runs = [false_and_true(sigma, n, method, seed, budget=budget) for seed in range(50)]
    false, found = np.sum(runs, axis=0)
    assert false <= 0.1 * (false + found)
