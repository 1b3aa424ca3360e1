"""SPEX: what it finds on games whose interactions are known, what it costs, and what it refuses."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import spex_mech as sm
from spex_mech.search.adaptive import Adaptive
from spex_mech.search.budget import Context
from spex_mech.search.contract import Question
from spex_mech.search.ledger import Answer, Ledger
from spex_mech.search.settings import DEFAULTS
from spex_mech.search.spex import Spex
from tests.planted import Planted, planted_game


class Saturating:
    """``sum of a_k tanh(w_k . ablated + b_k)``: smooth, saturating, with gradients; sparse w."""

    def __init__(self, n: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        w = rng.standard_normal((2 * n, n)) * (rng.random((2 * n, n)) < 4 / n)
        self.w = torch.tensor(w * np.exp(rng.standard_normal(n)))
        self.a, self.b = (torch.tensor(rng.standard_normal(2 * n)) for _ in "ab")
        self.labels = [str(unit) for unit in range(n)]
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def value(self, gates: Tensor) -> Tensor:
        return (torch.tanh((1 - gates) @ self.w.T + self.b) @ self.a)[:, None]

    def __call__(self, masks: Tensor) -> Tensor:
        self.asked.append(len(masks))
        return self.value(masks.double())

    def gradient(self, masks: Tensor) -> Tensor:
        self.asked.append(2 * len(masks))  # with the value that is asked for beside it, 3
        gates = masks.double().clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.value(gates).sum(), gates)
        return slope


def values_of(found: sm.Interactions) -> dict[tuple[int, ...], float]:
    return {
        tuple(int(u) for u in units if u >= 0): float(value)
        for units, value in zip(found.units, found.mean, strict=True)
    }


def run(game: Any, **options: Any) -> sm.Interactions:
    return sm.discover(game, progress=False, **options)


@pytest.mark.parametrize("gradients", [True, False])
def test_every_value_is_exact_and_the_cost_is_what_was_asked(gradients: bool) -> None:
    game = Saturating(40, 0)
    truth = values_of(run(game, method="exhaustive"))
    game.asked.clear()
    found = run(game, budget=420, gradients=gradients)
    assert sum(game.asked) == found.cost["evaluations"] == 420
    assert (found.cost["gradients"] > 0) == gradients
    values = values_of(found)
    assert len(values) > 60
    for s, value in values.items():
        assert value == pytest.approx(truth[s], abs=1e-6)


def test_gradients_find_the_strongest_of_a_saturating_game() -> None:
    for seed in range(4):
        game = Saturating(60, seed)
        exact = run(game, method="exhaustive")
        strongest = {tuple(u) for u in exact.top(30).units.tolist()}
        found = values_of(run(game, budget=450, seed=seed))
        products = np.argsort(-abs(np.outer(exact.main_effects, exact.main_effects))[
            np.triu_indices(60, 1)
        ])[: 450 - 61]  # fmt: skip
        pairs = list(combinations(range(60), 2))
        naive = len(strongest & {pairs[i] for i in products}) / 30
        assert len(strongest & set(found)) / 30 >= 0.9 > naive


@pytest.mark.parametrize("seed", [0, 1])
def test_group_tests_find_sparse_pairs_among_thousands(seed: int) -> None:
    game = planted_game(3000, 60, seed)
    found = run(game, budget=6000, seed=seed)
    assert game.recall(values_of(found)) >= 0.95
    assert found.about["candidates"] == "group tests (tree)"
    assert found.about["evaluations_of_candidates"] < 4000  # 4.5 million pairs


def test_group_tests_find_pairs_over_a_dense_tail() -> None:
    game = planted_game(400, 20, 0, ratio=30)
    found = run(game, budget=6000)
    assert game.recall(values_of(found)) >= 0.95
    assert found.about["candidates"] == "group tests (split)"


def test_a_budget_far_below_the_number_of_units_is_used_sensibly() -> None:
    game = planted_game(1500, 5, 0, ratio=1000)
    dense = planted_game(1500, 20, 0, ratio=20)
    for planted in (game, dense):
        found = run(planted, budget=900)
        assert found.cost["evaluations"] <= 900
        assert len(found) >= 3
        for s, value in values_of(found).items():
            exact = planted.planted.get(s, planted.tail[s] if planted.tail is not None else 0.0)
            assert value == pytest.approx(exact, abs=1e-5)


def test_noise_and_triples_do_not_mislead_group_tests() -> None:
    game = planted_game(1000, 30, 3, noise=0.01, n_triples=30)
    values = values_of(run(game, budget=8000))
    pairs = [s for s in game.planted if len(s) == 2]
    assert np.mean([s in values for s in pairs]) >= 0.9
    strong = [s for s, v in values.items() if abs(v) > 0.3]
    assert set(strong) <= set(game.planted)  # nothing made up


def test_a_backup_pair_that_singles_miss_is_found() -> None:
    """Two units that do the same, saturating; and a dormant one that wakes when the other goes."""

    class Backups:
        def __init__(self) -> None:
            self.labels = [str(unit) for unit in range(50)]
            self.m = -torch.rand(50, generator=torch.Generator().manual_seed(0)).double()

        def __len__(self) -> int:
            return 50

        def value(self, gates: Tensor) -> Tensor:
            either = torch.tanh(3 * (gates[:, 7] + gates[:, 30]))
            dormant = gates[:, 11] + gates[:, 42] * (1 - gates[:, 11]) * 0.95
            return ((1 - gates) @ (0.2 * self.m) + 2 * either + 2 * dormant)[:, None]

        def __call__(self, masks: Tensor) -> Tensor:
            return self.value(masks.double())

        def gradient(self, masks: Tensor) -> Tensor:
            gates = masks.double().clone().requires_grad_()
            return torch.autograd.grad(self.value(gates).sum(), gates)[0]

    for options in ({}, {"gradients": False}):
        found = run(Backups(), budget=400, **options)
        top = found.top(2)
        assert {tuple(u) for u in top.units.tolist()} == {(7, 30), (11, 42)}
        assert top.readings == ["OR-like", "OR-like"]
        assert abs(found.main_effects[[7, 30, 42]]).max() < 0.25  # singles see none of them


@pytest.mark.parametrize("gradients", [True, False])
def test_triples_are_grown_and_exact(gradients: bool) -> None:
    game = Saturating(24, 1)
    truth = values_of(run(game, method="exhaustive", order=3))
    found = run(game, order=3, budget=700, gradients=gradients)
    values = values_of(found)
    triples = {s: v for s, v in values.items() if len(s) == 3}
    assert len(triples) > 30
    for s, value in values.items():
        assert value == pytest.approx(truth[s], abs=1e-6)
    strongest = sorted((s for s in truth if len(s) == 3), key=lambda s: -abs(truth[s]))[:10]
    chance = len(triples) / 2024
    assert np.mean([s in triples for s in strongest]) > 3 * chance


def test_higher_orders_without_strong_pairs_are_looked_for() -> None:
    planted = {(0, 1, 2): 3.0}  # its pairs are nothing, its units the strongest
    game = Planted(30, np.where(np.arange(30) < 4, 5.0, 0.1), planted)
    found = run(game, order=3, budget=900)
    assert values_of(found)[0, 1, 2] == pytest.approx(3.0)


def test_all_pairs_are_measured_where_the_budget_reaches() -> None:
    found = run(Saturating(12, 0), budget=5000)
    assert len(found) == 66 and found.audit is None and found.cost["evaluations"] == 79 + 8


def test_same_seed_same_result_and_other_seeds_nearly_the_same_top() -> None:
    game = Saturating(60, 5)
    runs = [run(game, budget=500, seed=seed) for seed in (0, 0, 1, 2)]
    assert (runs[0].units == runs[1].units).all() and (runs[0].values == runs[1].values).all()
    tops = [{tuple(u) for u in r.top(50).units.tolist()} for r in runs]
    for other in tops[2:]:
        assert len(tops[0] & other) / len(tops[0] | other) > 0.9  # Jaccard


EDGE_GAMES = ["additive", "constant", "zero", "all pairs equal", "two units"]


def edge_game(kind: str) -> Saturating:
    n = 2 if kind == "two units" else 40
    game = Saturating(n, 0)

    def value(gates: Tensor) -> Tensor:
        lost = 1 - gates
        if kind == "additive":
            return lost.sum(1, keepdim=True)
        if kind == "all pairs equal":
            return (lost.sum(1, keepdim=True) ** 2 - (lost**2).sum(1, keepdim=True)) / 2
        if kind == "two units":
            return lost.prod(1, keepdim=True)
        return 0 * lost.sum(1, keepdim=True) + (3.0 if kind == "constant" else 0.0)

    game.value = value  # type: ignore[method-assign]
    return game


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("kind", EDGE_GAMES)
def test_edge_games(kind: str, gradients: bool) -> None:
    game = edge_game(kind)
    found = run(game, budget=None if len(game) == 2 else 400, gradients=gradients)
    want = 1.0 if kind in ("all pairs equal", "two units") else 0.0
    np.testing.assert_allclose(found.mean, want, atol=1e-9)
    assert len(found) >= 1 and found.cost["evaluations"] <= 820
    if found.audit and kind in ("constant", "zero", "additive"):
        assert found.audit["nothing_found"] and found.audit["cannot_tell"]
        assert found.audit["energy_missed"] < 1e-20 and found.audit["energy_low"] < 1e-20


@pytest.mark.parametrize("n", [45, 64, 100, 330])
def test_the_stated_minimum_without_gradients_is_kept(n: int) -> None:
    budget, recalls = Spex().minimum_budget(n), []
    for seed in range(4):
        game = planted_game(n, 3, seed)
        found = run(game, budget=budget, seed=seed)
        assert found.cost["evaluations"] <= budget
        recalls.append(game.recall(values_of(found)))
    assert np.mean(recalls) >= 0.6  # 0.8 to 1 over many seeds; by chance 0.05


def test_refusals() -> None:
    game = Saturating(100, 0)
    least = Spex(gradients=True).minimum_budget(100)
    assert len(run(game, budget=least)) > 5
    with pytest.raises(ValueError, match=f"budget of {least - 1} evaluations.*at least {least}"):
        run(game, budget=least - 1)
    with pytest.raises(ValueError, match="at least 200 for 100 units without gradients"):
        run(game, budget=199, gradients=False)
    with pytest.raises(ValueError, match=r"order 2 among 1 unit\(s\)"):
        run(Saturating(1, 0))
    with pytest.raises(ValueError, match="order is 1; it must be a whole number of at least 2"):
        run(game, order=1)

    class Broken(Saturating):
        def __call__(self, masks: Tensor) -> Tensor:
            return torch.where(~masks[:, 3:4] & ~masks[:, 5:6], torch.nan, 1.0).double()

    with pytest.raises(ValueError, match="the game's value is nan with 3, 5"):
        sm.discover(Broken(12, 0), progress=False, gradients=False)

    class Crooked(Saturating):
        def gradient(self, masks: Tensor) -> Tensor:
            return torch.zeros(len(masks), 3)

    with pytest.raises(ValueError, match=r"gradient has shape \[1, (1, )?3\].*gradients=False"):
        run(Crooked(100, 0), budget=300)


def test_ask_and_tell_know_integers_only() -> None:
    search = Adaptive(Spex(gradients=True), 50, budget=400)
    question = search.ask()
    assert isinstance(question, Question) and question.gradient and question.cost == 3
    search.tell(np.zeros((1, 2)), np.zeros((1, 1, 50)))
    assert search.ask() is not question


def test_the_ledger_asks_nothing_twice_and_stays_in_its_budget() -> None:
    ledger = Ledger(5, budget=9)
    asked: list[tuple[int, ...]] = []

    def drive(steps: Any) -> Any:
        try:
            question = next(steps)
            while True:
                rows = question.masks.sets()
                asked.extend(rows)
                values = np.array([[float(len(r) ** 2)] for r in rows])
                question = steps.send(Answer(values, None))
        except StopIteration as done:
            return done.value

    drive(ledger.values_of([()], "intact"))
    assert drive(ledger.measure([(0, 1), (1, 2), (0, 2), (3, 4)], "pairs")) == [
        (0, 1), (1, 2), (0, 2),
    ]  # fmt: skip
    assert ledger.spent == 7 and ledger.left == 2  # (3, 4) would need three
    drive(ledger.measure([(0, 1), (0, 1, 2)], "again"))
    assert len(asked) == len(set(asked)) == 8
    assert ledger.interaction[0, 1] == 4 - 1 - 1 and ledger.interaction[0, 1, 2] == 9 - 12 + 3


def test_few_units_of_which_a_third_of_the_strong_pairs_interact() -> None:
    """As in compiled programs: single ablations tell which units count, and most pairs of those do
    nothing; with half of all pairs' budget they are measured rather than searched by groups."""
    rng = np.random.default_rng(0)
    mains = np.where(np.arange(31) < 18, rng.uniform(0.5, 2.0, 31), 0.0)
    pairs = {
        (a, b): float(rng.uniform(0.1, 1.0))
        for a, b in combinations(range(18), 2)
        if a % 3 == b % 3
    }
    game = Planted(31, mains, pairs)
    for seed in range(3):
        found = run(game, budget=248, seed=seed, gradients=False)
        assert found.about["candidates"] == "products of strengths"
        assert game.recall(values_of(found)) == 1.0


@pytest.mark.slow
def test_triples_are_found_by_groups_as_large_as_still_tell() -> None:
    recalls, shares = [], []
    for seed in range(24):
        game = planted_game(100, 15, seed, n_triples=5)
        found = run(game, budget=1500, seed=seed, order=3)
        shares.append(found.about["largest_share_ablated"])
        triples = [s for s in game.planted if len(s) == 3]
        recalls.append(np.mean([s in values_of(found) for s in triples]))
    assert np.mean(recalls) >= 0.45  # 0.60 over 40 seeds, of a spread of 0.44; by chance 0.01
    assert np.mean(shares) >= 0.25  # each is a measurement, of 16 masks


@pytest.mark.slow
def test_story_model_top_pairs_at_three_evaluations_a_unit(shared_data: Path) -> None:
    from benchmarks.games import load_truth, story_game

    truth = load_truth()
    found = sm.discover(story_game(shared_data), budget=3600)
    have = set(values_of(found))
    top = [tuple(int(u) for u in pair[:2]) for pair in truth["units"][:500]]
    assert np.mean([pair in have for pair in top[:100]]) >= 0.95
    assert np.mean([pair in have for pair in top]) >= 0.88
    for pair, value in zip(top[:100], truth["values"].mean(1), strict=False):
        if pair in have:
            assert values_of(found)[pair] == pytest.approx(value, abs=1e-5)


def sums_of(planted: dict[tuple[int, ...], float]) -> Any:
    """A set function's value: dense main effects and what was planted."""

    def value(s: tuple[int, ...]) -> float:
        return sum(0.1 * (u % 7) for u in s) + sum(v for p, v in planted.items() if {*p} <= {*s})

    return value


def drive(steps: Any, value: Any) -> tuple[Any, list[tuple[int, ...]]]:
    """Answer a generator's questions; what it returns, and the sets that it asked for."""
    asked: list[tuple[int, ...]] = []
    try:
        question = next(steps)
        while True:
            rows = question.masks.sets()
            asked += rows
            question = steps.send(Answer(np.array([[value(r)] for r in rows], dtype=float), None))
    except StopIteration as done:
        return done.value, asked


def test_many_cells_are_halved_in_one_test() -> None:
    """Five pairs whose sizes tell their subsets apart take hardly more tests than one."""
    from spex_mech.search.group_tests import Partition, tree

    def cost(planted: dict[tuple[int, ...], float]) -> int:
        ledger = Ledger(256, 10_000)
        value = sums_of(planted)
        drive(ledger.values_of([()], "intact"), value)
        table = Partition(np.arange(256), 16)
        context = Context(ledger, np.random.default_rng(0))
        steps = tree(context, context.budget, table, 0.5)
        found, asked = drive(steps, value)
        assert found == pytest.approx(planted)
        assert len(asked) == len(set(asked))
        return ledger.spent

    one = {(3, 200): 1.0}
    five = {(3, 200): 1.0, (20, 60): -0.61, (90, 130): 2.3, (160, 240): 0.27, (40, 110): 3.7}
    equal = dict.fromkeys(five, 1.0)
    tables = 16 * 17 // 2
    assert cost(five) < 2.5 * (cost(one) - 2 * tables) + 2 * tables < cost(equal)


@pytest.mark.parametrize("order", [3, 4])
def test_sets_without_strong_subsets_are_found_by_group_tests(order: int) -> None:
    from spex_mech.search.group_tests import higher_tree

    rng = np.random.default_rng(order)
    planted = {
        tuple(sorted(rng.choice(200, order, replace=False).tolist())): float(value)
        for value in (1.5, -0.7, 2.2)
    }
    pairs = {(int(a), int(a) + 1): 1.0 for a in range(0, 60, 6)}
    context = Context(Ledger(200, 20_000), rng)
    ledger = context.ledger
    value = sums_of({**planted, **pairs})
    drive(ledger.values_of([()], "intact"), value)
    found, asked = drive(higher_tree(context, context.budget, order, 0.6), value)
    assert found == pytest.approx(planted)
    assert len(asked) < 3000  # of 1.3 or 65 million sets


def test_a_dense_truth_stops_group_tests_of_higher_order() -> None:
    from spex_mech.search.group_tests import higher_tree

    rng = np.random.default_rng(0)
    weights = rng.standard_normal((40, 3))
    context = Context(Ledger(40, 3000), rng)
    ledger = context.ledger
    value = lambda s: float(np.tanh(weights[list(s)].sum(0)).sum())  # noqa: E731
    drive(ledger.values_of([()], "intact"), value)
    found, asked = drive(higher_tree(context, context.budget, 3, 0.5), value)
    assert found == {} and len(asked) < 1500


def test_a_small_budget_halves_the_strongest_cells_to_their_end() -> None:
    game = planted_game(2000, 80, 0)
    found = values_of(run(game, budget=1100))
    strongest = sorted(game.planted, key=lambda s: -abs(game.planted[s]))
    have = [s in found for s in strongest]
    assert 0.3 < np.mean(have) < 1  # not all can be, but what can be is finished
    assert np.mean(have[:20]) > np.mean(have[20:])


def test_slopes_at_random_masks_tell_which_rows_to_ask_for() -> None:
    """Half of the units do not interact: no row is asked for them."""
    game = Saturating(60, 0)
    alive = torch.arange(60) < 20
    value = game.value
    game.value = lambda gates: value(torch.where(alive, gates, 1.0)) + gates.sum(1)[:, None]  # type: ignore[method-assign]
    found = run(game, budget=300)
    rows = found.about["gradient_rows"]
    singles = np.flatnonzero(np.isfinite(found.main_effects))
    assert 15 <= rows <= 25
    pairs = found.top(30).units
    assert pairs.max() < 20 and set(range(15)) <= set(singles.tolist())


def measured(n: int, main: float, pairs: dict[tuple[int, int], list[float]]) -> Ledger:
    """A ledger in which all singles and these pairs are known."""
    ledger = Ledger(n, 10_000)
    n_prompts = len(next(iter(pairs.values())))
    ledger.value = {(): np.zeros(n_prompts), **{(u,): np.full(n_prompts, main) for u in range(n)}}
    for s, value in pairs.items():
        ledger.value[s] = 2 * main + np.array(value)
        ledger.interaction[s] = float(np.mean(value))
    return ledger


def test_what_was_measured_corrects_rows_by_unit_and_prompt() -> None:
    """Rows of units 0 and 1 predict 1 everywhere; those of unit 1 prove too small on a prompt."""
    from spex_mech.pairs.gradient_rows import GradientRows
    from spex_mech.search.gradient_rows import RowRanker

    rows = GradientRows(np.zeros((2, 60)), block_weight=DEFAULTS.block_weight)
    for unit in (0, 1):
        rows.add(unit, -np.ones((2, 60)))
    ranker = RowRanker(rows)
    untested = np.array([[0, 50], [1, 50]])
    assert np.ptp(ranker.score(untested)) == 0
    pairs = {(0, j): [1.0, 1.0] for j in range(2, 40)}
    ranker.fit(measured(60, 0.0, {**pairs, **{(1, j): [1.0, 5.0] for j in range(2, 40)}}))
    right, too_small = ranker.score(untested)
    assert too_small > right + 0.2


def test_strengths_learn_which_units_matter_on_which_prompt() -> None:
    from spex_mech.search.strengths import Strengths

    main = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.3, 0.3]])
    first = [tuple(p) for p in Strengths(main).strongest(10).tolist()]
    assert set(first[:2]) == {(0, 1), (2, 3)} and len(first) == 10

    strengths = Strengths(np.ones((30, 2)))
    untested = np.array([[0, 20], [15, 20]])
    assert np.ptp(strengths.score(untested)) == 0
    large = {(0, j): [10.0, 0.1] for j in range(1, 9)}
    small = {(j, j + 1): [0.1, 0.1] for j in range(9, 19)}
    strengths.fit(measured(30, 1.0, {**large, **small}))
    strong, weak = strengths.score(untested)
    assert strong > weak + 0.5
    assert (strengths.strongest(5) == 0).any(axis=1).all()


def test_largest_pairs_are_those_of_a_full_sort() -> None:
    from spex_mech.pairs.largest import largest_products

    rng = np.random.default_rng(0)
    factors = rng.gamma(0.3, size=(50, 3))
    full = np.triu(factors @ factors.T, 1)
    i, j = np.triu_indices(50, 1)
    wanted = np.argsort(-full[i, j], kind="stable")[:40]
    for pairs_at_once in (4_000_000, 49):  # one block, and many that can be passed over
        found = largest_products(factors, lambda a, b: a @ b.T, 40, 8 * pairs_at_once)
        assert found.tolist() == np.stack([i[wanted], j[wanted]], 1).tolist()
    assert largest_products(factors, lambda a, b: a @ b.T, 0, 800).shape == (0, 2)


# -- the central ideas, each by itself ------------------------------------------------------------


def test_blocks_of_prompts_that_cancel_still_count() -> None:
    """A pair of +3 and -3 on two blocks goes before one of 0.5 on both."""
    from spex_mech.pairs.gradient_rows import GradientRows

    rows = GradientRows(np.zeros((2, 10)), block_weight=DEFAULTS.block_weight)
    gradient = np.zeros((2, 10))
    gradient[:, 5], gradient[:, 6] = [3, -3], [0.5, 0.5]
    rows.add(0, gradient)
    assert rows.strongest(2).tolist() == [[0, 5], [0, 6]]


def test_rows_are_asked_for_units_that_other_rows_lean_on() -> None:
    from spex_mech.pairs.gradient_rows import GradientRows

    rows = GradientRows(
        np.zeros((1, 12)), np.ones((3, 1, 12)), block_weight=DEFAULTS.block_weight
    )  # random masks tell nothing
    gradient = np.full((1, 12), 0.1)
    gradient[0, 7] = 2.0
    rows.add(0, gradient)
    assert rows.next_rows(1) == [7]


def test_rows_are_asked_for_units_of_large_slopes_and_of_none() -> None:
    """Of two that random masks and rows tell as much of, that of the larger slope goes first; a
    unit that is saturated, and has no slope, is not out of the running."""
    from spex_mech.pairs.gradient_rows import GradientRows

    intact = np.ones((1, 12))
    intact[0, 4], intact[0, 9] = 3.0, 0.0
    deep = np.repeat(intact[None] + 1.0, 3, axis=0)
    deep[:, 0, 9] = 40.0
    rows = GradientRows(intact, deep, block_weight=DEFAULTS.block_weight)
    assert rows.next_rows(2) == [9, 4]


@pytest.mark.parametrize(("overstated", "factor"), [(2.25, 1.5), (16, 2), (0.01, 0.5)])
def test_a_unit_whose_slope_is_not_its_ablation_has_its_pairs_corrected(
    overstated: float, factor: float
) -> None:
    """Units 2 and 3 have the same predicted pairs with unit 0; the slope of 2 is so many times what
    its ablation does. The correction is the root, and 2 at most."""
    from spex_mech.pairs.gradient_rows import GradientRows
    from spex_mech.search.gradient_rows import RowRanker

    rows = GradientRows(np.full((1, 6), -1.0), block_weight=DEFAULTS.block_weight)
    rows.add(0, np.array([[-1.0, -1.0, -1.5, -1.5, -1.0, -1.0]]))
    ranker, ledger = RowRanker(rows), Ledger(6, 100)
    pairs = np.array([[0, 2], [0, 3]])
    ranker.fit(ledger)
    assert np.ptp(ranker.score(pairs)) == 0  # nothing was measured
    value = lambda s: -sum(1 / overstated if unit == 2 else 1.0 for unit in s)  # noqa: E731
    drive(ledger.values_of([(), *((unit,) for unit in range(6))], "singles"), value)
    ranker.fit(ledger)
    smaller, larger = ranker.score(pairs)
    assert larger - smaller == pytest.approx(np.log(factor), rel=1e-3)


def after_validation(ranker: Any, pairs: dict[tuple[int, ...], float], left: int) -> Ledger:
    """What a validation measures where singles are known and this much may be spent."""
    from spex_mech.search.adaptive import validate

    n = 80
    ledger = Ledger(n, 1 + n + left)
    value = lambda s: sum(v for p, v in pairs.items() if {*p} <= {*s}) - sum(s) / n  # noqa: E731
    drive(ledger.values_of([(), *((u,) for u in range(n))], "singles"), value)
    context = Context(ledger, np.random.default_rng(0))
    drive(validate(context, context.budget, ranker, {}), value)
    return ledger


def test_what_a_round_measured_ranks_the_next() -> None:
    """Rows of two units predict alike; the pairs of one prove five times as large as predicted."""
    from spex_mech.pairs.gradient_rows import GradientRows
    from spex_mech.search.gradient_rows import RowRanker

    sizes = np.linspace(0.5, 1.0, 80)
    sizes[:2] = 10  # what no row says is guessed to be small beside this
    rows = GradientRows(np.zeros((1, 80)), block_weight=DEFAULTS.block_weight)
    for unit in (0, 1):
        rows.add(unit, -sizes[None])
    pairs = {(0, j): float(sizes[j]) for j in range(2, 80)}
    pairs |= {(1, j): 5 * float(sizes[j]) for j in range(2, 80)}
    ledger = after_validation(RowRanker(rows), pairs, 100)
    of_second = sum(1 in s for s in ledger.interaction)
    assert len(ledger.interaction) == 100 and of_second > 55  # 50 without the first round


def test_pairs_of_strong_units_are_always_candidates() -> None:
    """Whatever is predicted, here nothing: the units of largest main effect are looked at."""
    from spex_mech.search.rankers import NoRanker

    ledger = after_validation(NoRanker(), {}, 30)
    assert len(ledger.interaction) == 30
