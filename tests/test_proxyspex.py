"""ProxySPEX: what each proxy finds, what the result states, what is refused."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import spex_mech as sm
from spex_mech.pairs.gradient_rows import GradientRows
from spex_mech.proxies.gaussian_process import Distilled
from spex_mech.proxies.trees import Trees
from spex_mech.proxy import as_proxy
from spex_mech.search.adaptive import Adaptive, rank_correlation
from spex_mech.search.budget import Context
from spex_mech.search.contract import Search
from spex_mech.search.ledger import Answer, Ledger
from spex_mech.search.proxyspex import ProxySpex, r_squared
from spex_mech.search.random_masks import (
    EvaluatedMasks,
    complementary_masks,
    largest_informative_fraction,
)
from tests.planted import Planted, planted_game
from tests.test_spex import EDGE_GAMES, Saturating, edge_game, run, values_of


class Quadratic:
    """A user's own proxy: ridge regression on products, for few units."""

    fits = 0  # of all of them; a copy of the proxy learns

    def fit(self, masks: np.ndarray, values: np.ndarray) -> None:
        type(self).fits += 1
        x = self._features(masks)
        y = values.mean(axis=1)
        self.weights = np.linalg.solve(x.T @ x + 1e-3 * np.eye(x.shape[1]), x.T @ y)

    def predict(self, masks: np.ndarray) -> np.ndarray:
        return self._features(masks) @ self.weights

    def propose(self, k: int, order: int = 2) -> list[tuple[Sequence[int], float]]:
        i, j = np.triu_indices(self.n, 1)
        pairs = self.weights[1 + self.n :]
        return [((i[r], j[r]), pairs[r]) for r in np.argsort(-abs(pairs))[:k]]

    def uncertainty(self, masks: np.ndarray) -> np.ndarray:
        return masks.sum(axis=1)

    def _features(self, masks: np.ndarray) -> np.ndarray:
        lost = ~masks
        self.n = masks.shape[1]
        i, j = np.triu_indices(self.n, 1)
        return np.c_[np.ones(len(masks)), lost, lost[:, i] * lost[:, j]].astype(float)


class RowsOnly(sm.Proxy):
    """A user's own proxy that knows what slopes say, and nothing else."""

    reads_slopes = True
    last: ClassVar[list[GradientRows]] = []  # that any was given; a copy of the proxy learns

    def __init__(self) -> None:
        self.rows: GradientRows | None = None

    def fit(self, masks: np.ndarray, values: np.ndarray) -> None:
        self.mean = float(values.mean())

    def fit_with_slopes(self, masks: np.ndarray, values: np.ndarray, rows: GradientRows) -> None:
        self.fit(masks, values)
        self.rows = rows
        self.last[:] = [rows]

    def predict(self, masks: np.ndarray) -> np.ndarray:
        return np.full(len(masks), self.mean)

    def propose(self, k: int, order: int = 2) -> list[tuple[tuple[int, ...], float]]:
        if self.rows is None:
            return []
        pairs = self.rows.strongest(k)
        sizes = self.rows.predict(pairs).mean(axis=1)
        return list(zip(map(tuple, pairs.tolist()), sizes.tolist(), strict=True))


class Stranger:
    """The same without the type."""

    def __init__(self) -> None:
        own = RowsOnly()
        self.own, self.fit, self.fit_with_slopes = own, own.fit, own.fit_with_slopes
        self.predict, self.propose = own.predict, own.propose


@pytest.mark.parametrize("make", [RowsOnly, Stranger])
def test_a_proxy_of_ones_own_may_read_slopes(make: Any) -> None:
    game, proxy = Saturating(100, 0), make()
    found = run(game, method="proxyspex", budget=400, proxy=proxy)
    assert found.about["proxy"] == make.__name__
    assert found.about["candidates"] == "gradient rows" and found.about["gradient_rows"] >= 4
    (rows,) = RowsOnly.last
    assert len(rows.asked) == found.about["gradient_rows"]
    best = {tuple(sorted(pair)) for pair in rows.strongest(20).tolist()}
    assert len(best & {tuple(pair) for pair in found.units.tolist()}) >= 19  # they were measured
    without = run(game, method="proxyspex", budget=500, proxy=make(), gradients=False)
    assert without.cost["gradients"] == 0 and "gradient_rows" not in without.about


def trees() -> Trees:
    return Trees(n_trees=(40, 80), learning_rates=(0.1, 0.3))


@pytest.mark.parametrize("proxy", ["distilled", "distilled, values", "trees", "half trees", "own"])
def test_every_value_is_exact_the_cost_is_what_was_asked_and_no_mask_comes_twice(
    proxy: str,
) -> None:
    game = Saturating(40, 0)
    truth = values_of(run(game, method="exhaustive"))
    game.asked.clear()
    seen: list[bytes] = []

    class Watched(Saturating):
        def __call__(self, masks: Tensor) -> Tensor:
            seen.extend(mask.numpy().tobytes() for mask in masks)
            return super().__call__(masks)

    watched = Watched(40, 0)
    options: dict[str, Any] = {
        "distilled": {},
        "distilled, values": {"gradients": False},
        "trees": {"proxy": trees()},
        "half trees": {"proxy": trees(), "masks": "half"},
        "own": {"proxy": Quadratic()},
    }[proxy]
    found = run(watched, method="proxyspex", budget=480, **options)
    assert sum(watched.asked) == found.cost["evaluations"] == 480
    assert (found.cost["gradients"] > 0) == (proxy == "distilled")
    values = values_of(found)
    assert len(values) > 60
    for s, value in values.items():
        assert value == pytest.approx(truth[s], abs=1e-6)
    # With gradients, a mask's value may be asked for beside its gradient, and not again.
    extra = found.cost["gradients"] + found.about["asked_again"]["masks"]
    assert len(seen) - len(set(seen)) <= extra
    about = found.about
    assert about["proxy"] == {"own": "Quadratic"}.get(proxy, proxy.split(",")[0].split()[-1])
    assert about["proxy_r2"] <= 1 and about["held_out_masks"] >= 6
    if proxy != "distilled, values":  # group tests predict by measuring
        assert -1 <= about["rank_correlation"] <= 1
    assert 0 < about["evaluations_of_candidates"] < 480


def test_the_distilled_proxy_finds_the_strongest_of_a_saturating_game() -> None:
    for seed in range(3):
        game = Saturating(60, seed)
        strongest = {tuple(u) for u in run(game, method="exhaustive").top(30).units.tolist()}
        found = run(game, method="proxyspex", budget=450, seed=seed)
        assert len(strongest & set(values_of(found))) / 30 >= 0.9
        assert found.about["rank_correlation"] > 0.3


@pytest.mark.slow
def test_a_proxy_that_learns_from_masks_finds_planted_pairs() -> None:
    """Trees vary much with the seed and with a few evaluations (0.58 to 1 of the pairs for budgets
    of 940 to 1050), so that theirs is a mean over seeds."""
    dense = planted_game(60, 12, seed=0, ratio=30)
    game = Planted(60, 0.1 * dense.main_effects, dense.planted, dense.tail)

    def recall(proxy: Any, seed: int) -> float:
        found = run(game, method="proxyspex", budget=1000, proxy=proxy, seed=seed)
        assert len(found) / 1770 < 1 / 3  # what chance would find
        return float(np.mean([s in values_of(found) for s in game.planted]))

    before = Quadratic.fits
    assert recall(Quadratic(), 0) >= 0.9
    assert Quadratic.fits >= before + 3  # before and after the unsure masks, and as pairs come in
    assert np.mean([recall(trees(), seed) for seed in range(3)]) >= 2 / 3


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_sparse_pairs_among_thousands_take_few_evaluations(seed: int) -> None:
    game = planted_game(3000, 60, seed)
    found = run(game, method="proxyspex", budget=2500, seed=seed)
    assert game.recall(values_of(found)) == 1.0
    assert found.about["evaluations_of_candidates"] < 1800  # 4.5 million pairs


@pytest.mark.slow
def test_triples_without_pairs_are_found() -> None:
    recalls = []
    for seed in range(4):
        game = planted_game(300, 10, seed, n_triples=10)
        found = values_of(run(game, method="proxyspex", budget=6000, order=3, seed=seed))
        recalls.append(game.recall(found))
        triples = [s for s in found if len(s) == 3 and s not in game.planted]
        assert abs(np.array([found[s] for s in triples])).max() < 1e-9  # nothing made up
    # One search in six finds the pairs alone (12 seeds); all others find everything.
    assert np.mean(recalls) >= 0.75


def test_a_proxys_triples_are_measured() -> None:
    class Knows(Quadratic):
        def propose(self, k: int, order: int = 2) -> list[tuple[Sequence[int], float]]:
            return [((3, 11, 19), 1.0)] if order > 2 else []

    game = Planted(25, np.linspace(-1, 1, 25), {(3, 11, 19): 2.0, (0, 1): 0.5}, np.ones((25, 25)))
    found = run(game, method="proxyspex", budget=330, order=3, proxy=Knows())
    assert values_of(found)[3, 11, 19] == pytest.approx(2.0)


def test_all_sets_where_the_budget_reaches() -> None:
    found = run(Saturating(12, 0), method="proxyspex", budget=5000)
    assert len(found) == 66 and found.about["candidates"] == "all sets"
    # Nothing was distilled, and the result says so.
    assert found.about["proxy"] == "distilled" and found.about["proxy_r2"] is None
    assert found.about["rank_correlation"] is None


@pytest.mark.parametrize("method", ["spex", "proxyspex"])
@pytest.mark.parametrize("order", [2, 3])
def test_a_budget_for_all_sets_is_the_exhaustive_search(method: str, order: int) -> None:
    game = Saturating(12, 0)
    every = run(game, method="exhaustive", order=order)
    found = run(game, method=method, order=order, budget=every.cost["evaluations"])
    np.testing.assert_array_equal(found.units, every.units)
    np.testing.assert_array_equal(found.values, every.values)
    assert found.cost["evaluations"] == every.cost["evaluations"] and found.audit is None


def test_same_seed_same_result() -> None:
    for options in ({}, {"gradients": False}, {"proxy": "trees"}):
        options = {"method": "proxyspex", "budget": 150, **options}
        one, two = (run(Saturating(14, 5), seed=3, **options) for _ in "12")
        assert (one.units == two.units).all() and (one.values == two.values).all()
        assert one.about["proxy_r2"] == two.about["proxy_r2"]


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("kind", EDGE_GAMES)
def test_edge_games(kind: str, gradients: bool) -> None:
    game = edge_game(kind)
    budget = None if len(game) == 2 else 400
    found = run(game, method="proxyspex", budget=budget, gradients=gradients)
    want = 1.0 if kind in ("all pairs equal", "two units") else 0.0
    np.testing.assert_allclose(found.mean, want, atol=1e-9)
    assert len(found) >= 1 and found.cost["evaluations"] <= 820
    if kind in ("constant", "zero"):
        assert found.about["proxy_r2"] is None


@pytest.mark.parametrize("kind", ["additive", "constant"])
def test_edge_games_with_trees(kind: str) -> None:
    size = 1.0 if kind == "additive" else 0.0
    game = Planted(30, size * np.linspace(-1, 1, 30), {})
    found = run(game, method="proxyspex", budget=400, proxy=trees())
    np.testing.assert_allclose(found.mean, 0.0, atol=1e-9)


def test_refusals() -> None:
    game = Saturating(100, 0)
    with pytest.raises(ValueError, match=r"a budget of 200 evaluations.*proxyspex needs at least"):
        run(game, method="proxyspex", budget=200, gradients=False)
    with pytest.raises(
        ValueError, match=r"unknown proxy 'forest'; choose one of distilled .*trees"
    ):
        run(game, method="proxyspex", proxy="forest")
    with pytest.raises(ValueError, match="the proxy object has no method 'fit'"):
        run(game, method="proxyspex", proxy=object())
    with pytest.raises(ValueError, match="gradients=True, but the proxy trees reads no gradients"):
        run(game, method="proxyspex", proxy="trees", gradients=True)
    with pytest.raises(ValueError, match="unknown masks 'all'; choose one of near, half"):
        run(game, method="proxyspex", masks="all")
    with pytest.raises(ValueError, match=r"order 2 among 1 unit\(s\)"):
        run(Saturating(1, 0), method="proxyspex")

    class Broken(Saturating):
        def __call__(self, masks: Tensor) -> Tensor:
            return torch.where(~masks[:, 3:4] & ~masks[:, 5:6], torch.nan, 1.0).double()

    with pytest.raises(ValueError, match="the game's value is nan with"):
        run(Broken(60, 0), method="proxyspex", gradients=False, budget=500)

    class Wrong(Quadratic):
        def propose(self, k: int, order: int = 2) -> list[tuple[Sequence[int], float]]:
            return [((5, 2), 1.0)]

    with pytest.raises(ValueError, match=r"the proxy proposed \(5, 2\).*ascending order, 0 to 29"):
        run(planted_game(30, 3, 0), method="proxyspex", budget=380, proxy=Wrong())


def test_the_strategy_knows_integers_only() -> None:
    search = Adaptive(ProxySpex(Distilled(), gradients=True), 50, budget=400)
    assert isinstance(search, Search)
    question = search.ask()
    assert question is not None and not question.gradient and question.cost == 1


def test_complements_follow_each_other() -> None:
    masks = complementary_masks(9, 6, np.random.default_rng(0))
    assert masks.shape == (6, 9)
    np.testing.assert_array_equal(masks[::2], ~masks[1::2])


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


def test_sizes_that_tell_masks_apart_are_measured() -> None:
    rng = np.random.default_rng(0)

    def fraction(value: Any) -> float:
        ledger, examples = Ledger(80, 100), EvaluatedMasks(80)
        drive(ledger.values_of([()], "intact"), value)
        return drive(largest_informative_fraction(Context(ledger, rng), examples, 2), value)[0]

    assert fraction(lambda s: -float(len(s))) == 0.5  # each unit counts as much
    assert fraction(lambda s: -float(min(len(s), 10))) == 0.125  # ten break it
    assert fraction(lambda s: -float(len(s) > 2)) == 0.0625  # three do


def test_examples_ask_nothing_twice_and_know_small_sets() -> None:
    ledger, examples = Ledger(6, 100), EvaluatedMasks(6)
    value = lambda s: float(len(s) ** 2)  # noqa: E731
    drive(ledger.values_of([(), (2,)], "sets"), value)
    masks = np.ones((5, 6), dtype=bool)
    masks[1, 2] = masks[2, :5] = masks[3, :5] = masks[4, 4:] = False
    _, asked = drive(examples.ask(ledger, masks, "masks"), value)
    assert asked == [(0, 1, 2, 3, 4), (4, 5)] and len(examples) == 1 and (4, 5) in ledger.value
    assert drive(examples.ask(ledger, masks, "again"), value)[1] == []
    known, values = examples.all(ledger)
    np.testing.assert_array_equal(values[:, 0], (~known).sum(axis=1) ** 2)
    assert len(known) == 4 and len(examples.all(ledger, 1)[0]) == 2


def test_r_squared_and_rank_correlation() -> None:
    class Fixed(Quadratic):
        def predict(self, masks: np.ndarray) -> np.ndarray:
            return np.array([1.0, 2.0, 3.0, 5.0])

    masks = np.ones((4, 3), dtype=bool)
    values = np.array([[1.0, 1.0], [2.0, 2.0], [2.0, 4.0], [3.0, 5.0]])
    assert r_squared(masks, values, as_proxy(Fixed())) == pytest.approx(1 - 1 / 5)
    assert r_squared(masks, np.ones((4, 2)), as_proxy(Fixed())) is None
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(a, np.exp(a)) == pytest.approx(1.0)
    assert rank_correlation(a, -a) == pytest.approx(-1.0)
    assert rank_correlation(a, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(0.8)
    assert rank_correlation(a, np.ones(4)) is None and rank_correlation(a[:2], a[:2]) is None
