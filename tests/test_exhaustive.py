"""Exhaustive search against plain enumeration; the driver: any callable, its errors, its cost."""

import sys
from functools import partial
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import spex_mech as sm
from spex_mech.discover import CallableGame
from spex_mech.search.exhaustive import Exhaustive, minimum_budget

exhaustive = partial(sm.discover, method="exhaustive")


class TableGame:
    """A random value for every mask on every prompt; remembers what it was asked."""

    def __init__(self, n: int, n_prompts: int = 3, seed: int = 0) -> None:
        self.labels = [f"u{i}" for i in range(n)]
        self.values = np.random.default_rng(seed).standard_normal((2**n, n_prompts))
        self.asked: list[int] = []
        self.batches: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, masks: Tensor) -> np.ndarray:
        rows = (masks.long() @ (2 ** torch.arange(len(self)))).numpy()
        self.asked += rows.tolist()
        self.batches.append(len(rows))
        return self.values[rows]

    def of(self, lost: tuple[int, ...]) -> np.ndarray:
        return self.values[2 ** len(self) - 1 - sum(2**u for u in lost)]

    def interaction(self, units: tuple[int, ...]) -> np.ndarray:
        """The alternating sum over all subsets, term by term."""
        return sum(
            (-1) ** (len(units) - size) * self.of(subset)
            for size in range(len(units) + 1)
            for subset in combinations(units, size)
        )


def sets_of(found: sm.Interactions) -> list[tuple[int, ...]]:
    return [tuple(u for u in row if u >= 0) for row in found.units.tolist()]


@pytest.mark.parametrize(
    ("n", "order"), [(2, 2), (3, 2), (3, 3), (5, 2), (5, 3), (5, 4), (8, 2), (8, 3), (8, 4)]
)
def test_equals_enumeration(n: int, order: int) -> None:
    game = TableGame(n)
    found = exhaustive(game, order=order)
    every = [s for size in range(2, order + 1) for s in combinations(range(n), size)]
    assert sets_of(found) == every
    want = np.array([game.interaction(units) for units in every])
    assert found.values.dtype == np.float64
    np.testing.assert_allclose(found.values, want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.mean, want.mean(1), rtol=0, atol=1e-12)
    mains = np.array([game.of((u,)) - game.of(()) for u in range(n)])
    np.testing.assert_array_equal(found.main_effects_by_prompt, mains)
    np.testing.assert_array_equal(found.intact_by_prompt, game.of(()))
    # Each mask was asked once and a few once more, and all are counted.
    every_mask = sum(comb(n, size) for size in range(order + 1))
    again = game.asked[every_mask:]
    assert len({*game.asked}) == len({*game.asked[:every_mask]}) == every_mask
    assert len({*again}) == len(again) == found.about["asked_again"]["masks"] == min(8, every_mask)
    assert found.cost["evaluations"] == len(game.asked) and not found.about["asked_again"]["varies"]
    assert found.cost["gradients"] == 0


def test_does_not_depend_on_how_masks_are_batched() -> None:
    want = exhaustive(TableGame(8))
    game = TableGame(8)
    game.masks_per_batch = 5  # type: ignore[attr-defined]
    got = exhaustive(game)
    assert max(game.batches) == 5
    np.testing.assert_array_equal(got.values, want.values)


def test_many_questions_are_one_result(monkeypatch: pytest.MonkeyPatch) -> None:
    want = exhaustive(TableGame(8), order=3)
    monkeypatch.setattr("spex_mech.search.exhaustive.MASKS_PER_QUESTION", 5)
    got = exhaustive(TableGame(8), order=3)
    np.testing.assert_array_equal(got.values, want.values)
    np.testing.assert_array_equal(got.units, want.units)


# -- a budget -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "budget"), [(2, 10), (2, 25), (2, 36), (3, 38), (3, 60)])
def test_a_smaller_budget_is_spent_exactly(order: int, budget: int) -> None:
    game = TableGame(8)
    found = exhaustive(game, order=order, budget=budget, seed=1)
    assert len(game.asked) == found.cost["evaluations"] == budget
    assert Exhaustive(8, order, budget).planned == budget
    sets = sets_of(found)
    assert len({*sets}) == len(sets) and sets == sorted(sets, key=lambda s: (len(s), s))
    n_again = found.about["asked_again"]["masks"]
    assert n_again == (8 if budget - 8 >= minimum_budget(8, order) else 0)
    n_last = budget - n_again - minimum_budget(8, order) + 1
    assert [len(s) for s in sets].count(order) == n_last
    want = np.array([game.interaction(units) for units in sets])
    np.testing.assert_allclose(found.values, want, rtol=0, atol=2e-6)
    assert not np.isnan(found.main_effects).any()


@pytest.mark.parametrize("budget", [37, 1000, None])
def test_a_budget_that_is_enough_measures_all(budget: int | None) -> None:
    assert len(exhaustive(TableGame(8), budget=budget)) == 28


def test_the_sample_is_fixed_by_its_seed() -> None:
    once, again, other = (
        sets_of(exhaustive(TableGame(8), budget=20, seed=seed)) for seed in (0, 0, 1)
    )
    assert once == again != other


@pytest.mark.parametrize("n_pairs", [3, 12])  # below and above a quarter of all: two ways to draw
def test_the_sample_is_uniform(n_pairs: int) -> None:
    n_draws = 2000
    counts = np.zeros((6, 6))
    for seed in range(n_draws):
        search = Exhaustive(6, budget=1 + 6 + n_pairs, seed=seed)
        pairs = search._plan[2]
        assert len(np.unique(pairs, axis=0)) == n_pairs
        counts[pairs[:, 0], pairs[:, 1]] += 1
    upper = counts[np.triu_indices(6, 1)]
    assert counts.sum() == upper.sum()
    # Each of 15 pairs: binomial, within four and a half standard deviations.
    p = n_pairs / 15
    assert abs(upper - n_draws * p).max() < 4.5 * np.sqrt(n_draws * p * (1 - p))


def test_all_but_one_of_many_is_drawn_at_once() -> None:
    n = 1500
    search = Exhaustive(n, budget=n + comb(n, 2))
    assert len(search._plan[2]) == comb(n, 2) - 1


# -- listed sets, confirmation --------------------------------------------------------------------


def test_measures_listed_sets_and_what_they_need() -> None:
    game = TableGame(7)
    found = sm.measure(game, [("u5", "u1"), ("u2", "u6", "u4")])
    sets = [(1, 5), (2, 4, 6), (2, 4), (2, 6), (4, 6)]  # as they were listed, and then the rest
    assert sets_of(found) == sets
    want = np.array([game.interaction(units) for units in sets])
    np.testing.assert_allclose(found.values, want, rtol=0, atol=1e-6)
    assert len({*game.asked}) == 1 + 5 + 5
    assert len(game.asked) == found.cost["evaluations"] == 1 + 5 + 5 + 8  # some are asked again
    measured = ~np.isnan(found.main_effects)
    assert np.flatnonzero(measured).tolist() == [1, 2, 4, 5, 6]
    assert found.about["method"] == "listed sets"
    assert found.value("u6", "u2", "u4") == pytest.approx(game.interaction((2, 4, 6)).mean())


def test_a_single_unit_may_be_listed_too() -> None:
    game = TableGame(4)
    found = sm.measure(game, [("u0", "u1"), ("u3",), ("u1", "u0")])
    assert sets_of(found) == [(0, 1)]
    assert found.main_effects[3] == pytest.approx((game.of((3,)) - game.of(())).mean())


@pytest.mark.parametrize(
    ("sets", "match"),
    [
        ([("u0", "u9")], r"unknown unit 'u9'; this game's units are \['u0'"),
        ([("u0", "u1"), ("u2", "u2")], r"the set \('u2', 'u2'\) holds a unit twice"),
        ([], "no sets to measure"),
        ([()], "no sets to measure"),
        ([("u0",)], "no sets to measure: give at least one set of two"),
    ],
)
def test_measure_errors(sets: Any, match: str) -> None:
    game = TableGame(4)
    with pytest.raises(ValueError, match=match):
        sm.measure(game, sets)
    assert game.asked == []


@pytest.mark.parametrize("sets", [[[2, 2]], [[1, 2, 1]]])
def test_a_search_refuses_a_unit_twice(sets: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="holds one of them twice"):
        Exhaustive(4, order=3, sets=np.array(sets))


def test_a_set_too_large_to_be_numbered_is_refused() -> None:
    with pytest.raises(ValueError, match="order 12 among 100 units is out of reach"):
        Exhaustive(100, order=12, sets=np.arange(12)[None])


def test_confirm_measures_the_strongest_on_another_game() -> None:
    found = exhaustive(TableGame(6), order=3)
    other = TableGame(6, n_prompts=5, seed=1)
    again = sm.confirm(found, other, k=4)
    wanted = {*sets_of(found.top(4))}
    assert {*sets_of(again)} == wanted
    want = np.array([other.interaction(units) for units in sets_of(again)])
    np.testing.assert_allclose(again.values, want, rtol=0, atol=1e-6)
    assert len(other.asked) == again.cost["evaluations"] < 1 + 6 + 15 + 20


# -- the driver -----------------------------------------------------------------------------------


def series(masks: Tensor) -> Tensor:
    return masks.all(dim=1).double()


def test_and_and_or_have_their_signs() -> None:
    found = exhaustive(series, n=3)
    assert found.mean.tolist() == [1, 1, 1] and found.main_effects.tolist() == [-1, -1, -1]
    backup = exhaustive(lambda masks: masks.any(dim=1).double(), n=2)
    assert backup.mean.tolist() == [-1] and backup.main_effects.tolist() == [0, 0]


def test_masks_say_what_is_kept() -> None:
    seen: list[Tensor] = []

    def game(masks: Tensor) -> Tensor:
        seen.append(masks)
        return masks.sum(dim=1)

    found = exhaustive(game, n=3)
    assert all(masks.dtype == torch.bool for masks in seen)
    assert [[True, True, True]] in [masks.tolist() for masks in seen]
    assert any(masks.tolist()[0] == [False, True, True] for masks in seen if masks.ndim == 2)
    assert found.intact == 3
    assert found.mean.tolist() == [0, 0, 0]  # a sum has no interaction


@pytest.mark.parametrize(
    "answer",
    [
        lambda m: m.all(dim=1),
        lambda m: m.all(dim=1).long(),
        lambda m: m.all(dim=1).numpy(),
        lambda m: m.all(dim=1).tolist(),
        lambda m: m.all(dim=1)[:, None].double(),
        lambda m: m.all(dim=1).bfloat16(),
        lambda m: m.all(dim=1).float().requires_grad_(),
        lambda m: [value.double() for value in m.all(dim=1)],
    ],
)
def test_any_kind_of_answer_will_do(answer: Any) -> None:
    found = exhaustive(answer, n=3)
    assert found.mean.tolist() == [1, 1, 1] and found.values.shape == (3, 1)


def test_prompts_are_columns() -> None:
    found = exhaustive(lambda m: torch.stack([series(m), -2 * series(m)], dim=1), n=2)
    assert found.values.tolist() == [[1, -2]] and found.intact_by_prompt.tolist() == [1, -2]


def test_labels_of_a_function() -> None:
    assert exhaustive(series, n=3).labels == ["0", "1", "2"]
    assert exhaustive(series, labels=("x", "y", "z")).value("x", "z") == 1


def test_a_game_of_ones_own_needs_only_three_things() -> None:
    class Game:
        labels = ("x", "y")

        def __len__(self) -> int:
            return 2

        def __call__(self, masks: Tensor) -> Tensor:
            return series(masks)

    assert exhaustive(Game()).value("x", "y") == 1
    assert exhaustive(Game(), n=2, labels=["x", "y"]).labels == ["x", "y"]


@pytest.mark.parametrize(
    ("game", "options", "match"),
    [
        (series, {}, "give n=, the number of its units"),
        (series, {"n": 1}, r"order 2 among 1 unit\(s\): .*; give two units or more"),
        (series, {"n": 0}, "n is 0; it must be a whole number of at least 1"),
        (
            series,
            {"n": 3, "order": 4},
            r"order 4 among 3 unit\(s\): .* at most the number of units; give order=3",
        ),
        (
            series,
            {"n": 3, "order": 1},
            "order is 1; it must be a whole number of at least 2",
        ),
        (series, {"n": 3, "labels": ["x", "y"]}, "2 labels for 3 units"),
        (series, {"labels": ["x", "y", "x"]}, "two units are called 'x'"),
        (
            series,
            {"n": 3, "method": "guess"},
            "unknown method 'guess'; choose one of spex, proxyspex, exhaustive",
        ),
        (
            series,
            {"n": 3, "method": "spex", "proxy": "trees"},
            "'spex' takes no 'proxy'; it takes gradients, top",
        ),
        (
            series,
            {"n": 3, "method": "exhaustive", "top": 5},
            "'exhaustive' takes no 'top'; it takes no options",
        ),
        (series, {"n": 9, "budget": 10}, r"a budget of 10 .* at least 11 \(46 for all of them\)"),
        (series, {"n": 9, "order": 3, "budget": 46}, r"at least 47 \(130 for all of them\)"),
        (series, {"n": 40_000}, "799,980,000 sets of 2 among 40,000 units are too many|40000"),
        (7, {"n": 3}, "int is not a game"),
        (TableGame(3), {"n": 4}, "brings its own 3 units: leave out n= and labels="),
        (TableGame(3), {"labels": ["x", "y", "z"]}, "brings its own 3 units"),
    ],
)
def test_discover_errors(game: Any, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        exhaustive(game, **options)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_names_the_units(bad: float) -> None:
    def game(masks: Tensor) -> Tensor:
        values = masks.sum(dim=1).double()
        values[~masks[:, 1] & ~masks[:, 2]] = bad
        return values

    with pytest.raises(ValueError, match=f"value is {bad} with b, c ablated; it must be finite"):
        exhaustive(game, labels=["a", "b", "c"])
    with pytest.raises(ValueError, match="with nothing ablated"):
        exhaustive(lambda masks: masks.sum(dim=1) * float("nan"), n=3)


@pytest.mark.parametrize(
    ("answer", "shape"),
    [
        (lambda m: m[:, 0, None, None].double(), "4, 1, 1"),
        (lambda m: torch.zeros(len(m) + 1), "5"),
        (lambda m: torch.zeros(2, len(m)), "2, 4"),
        (lambda m: torch.zeros(len(m), 0), "4, 0"),
        (lambda m: 0.5, ""),
    ],
)
def test_an_answer_of_the_wrong_shape(answer: Any, shape: str) -> None:
    match = rf"the function returned shape \[{shape}\] for [34] masks; it must return \[mask\]"
    with pytest.raises(ValueError, match=match):
        exhaustive(answer, n=3, vectorized=True)


def test_an_error_of_the_game_comes_through() -> None:
    def broken(masks: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        exhaustive(broken, n=3)


@pytest.mark.parametrize("progress", [True, False])
def test_a_fast_run_prints_nothing(capfd: pytest.CaptureFixture[str], progress: bool) -> None:
    exhaustive(series, n=6, progress=progress)
    assert capfd.readouterr() == ("", "")


def test_a_slow_run_shows_where_it_is(monkeypatch: Any, capfd: Any) -> None:
    import tqdm.auto

    def at_once(*arguments: Any, **options: Any) -> Any:
        return tqdm.auto.tqdm(*arguments, **{**options, "delay": 0, "mininterval": 0})

    monkeypatch.setattr(sys.modules["spex_mech.driver"], "tqdm", at_once)
    exhaustive(series, n=6)
    shown = capfd.readouterr().err
    assert (
        "30/30" in shown and "asking masks again" in shown and "sets of 2" in shown and "x" in shown
    )
    exhaustive(series, n=6, progress=False)
    assert capfd.readouterr().err == ""


def test_the_strongest_so_far_are_known_on_the_way() -> None:
    game = TableGame(8, seed=5)
    search = Exhaustive(8, order=3)
    assert search.best(2) == []
    while (question := search.ask()) is not None:
        values = game(torch.from_numpy(question.masks.kept()))
        search.tell(values)
    found = [(s, game.interaction(s).mean()) for r in (2, 3) for s in combinations(range(8), r)]
    found.sort(key=lambda pair: -abs(pair[1]))
    assert len({value > 0 for _, value in found[:5]}) == 2  # or the order could be by sign
    assert [units for units, _ in search.best(5)] == [units for units, _ in found[:5]]
    np.testing.assert_allclose(
        [value for _, value in search.best(5)], [value for _, value in found[:5]], atol=1e-6
    )


def test_what_a_result_knows_of_its_run() -> None:
    found = exhaustive(series, n=4, budget=9, seed=5)
    about = {k: found.about[k] for k in ("method", "order", "budget", "seed")}
    assert about == {"method": "exhaustive", "order": 2, "budget": 9, "seed": 5}
    assert {*found.about["versions"]} == {"spex_mech", "torch", "numpy"}
    assert found.cost["seconds"] >= 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["exhaustive", "spex"])
def test_rounding_of_a_function_is_noise(dtype: torch.dtype, method: str) -> None:
    weights = torch.rand(30, dtype=dtype, generator=torch.Generator().manual_seed(0))

    def additive(masks: Tensor) -> Tensor:
        return masks.to(dtype) @ weights

    found = sm.discover(additive, n=30, method=method, progress=False)
    assert abs(found.mean).max() > 0  # it is rounded
    assert set(found.readings) == {"noise"}
    eps, largest = torch.finfo(dtype).eps, weights.sum().item()
    assert found.noise_floor == pytest.approx(4 * 4 * eps * largest, rel=1e-6)
    assert found.about["resolution"] == str(dtype).removeprefix("torch.")

    # A search takes what is under 1e-5 of the main effects for nothing, and looks elsewhere.
    size = 20 * found.noise_floor if method == "exhaustive" else max(20 * found.noise_floor, 1e-3)

    def with_a_pair(masks: Tensor) -> Tensor:
        return additive(masks) - size * masks[:, [3, 7]].any(dim=1).to(dtype)

    found = sm.discover(with_a_pair, n=30, method=method, progress=False)
    clear = found.top(int((~found.is_noise).sum()))
    assert clear.names == [("3", "7")]


def test_the_floor_is_that_of_a_pair_whatever_the_order() -> None:
    pairs, triples = (
        sm.discover(series, n=4, method="exhaustive", order=k, progress=False) for k in (2, 3)
    )
    assert triples.noise_floor == pairs.noise_floor > 0


def test_a_game_that_knows_its_floor_keeps_it() -> None:
    class Own(CallableGame):
        noise_floor = 0.125

    found = sm.discover(Own(series, [*"abcd"]), method="exhaustive", progress=False)
    assert found.noise_floor == 0.125 and "resolution" not in found.about
