"""Boosted trees as a proxy: exact terms, a fair choice, no interaction that is not there."""

import sys
from itertools import chain, combinations

import lightgbm
import numpy as np
import pytest
import torch
from planted import Planted, planted_game

from spex_mech.masks import Set
from spex_mech.proxies import trees as module
from spex_mech.proxies.trees import Trees, fourier_of_trees
from spex_mech.setfunctions import parities

QUICK = {"n_trees": (40, 80), "learning_rates": (0.1, 0.3)}


def halves(n_masks: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n_masks, n)) < 0.5


def values_of(game: Planted, masks: np.ndarray) -> np.ndarray:
    return game(torch.from_numpy(masks))[:, 0].numpy()


def learned(game: Planted, n_masks: int, **options) -> Trees:
    proxy = Trees(**{**QUICK, **options})
    masks = halves(n_masks, len(game))
    proxy.fit(masks, values_of(game, masks))
    return proxy


def r2(values: np.ndarray, predicted: np.ndarray) -> float:
    return 1 - float(((values - predicted) ** 2).mean() / values.var())


@pytest.mark.parametrize(("n", "depth"), [(6, 3), (6, 5), (1_030, 5)])
def test_the_terms_are_the_trees(n: int, depth: int) -> None:
    masks = halves(300, n)
    game = planted_game(min(n, 100), 5, seed=0)
    values = values_of(game, masks[:, : len(game)])
    parameters = Trees()._parameters(depth, 0.1)
    data = lightgbm.Dataset(masks.astype(np.float32), values, params=parameters)
    booster = lightgbm.train(parameters, data, 12)
    fresh = halves(50, n, seed=1)
    for n_trees in (5, 12):
        terms = fourier_of_trees(booster, n_trees)
        assert max(map(len, terms)) > 1
        assert all(list(s) == sorted(set(s)) for s in terms)
        np.testing.assert_allclose(
            parities(fresh, list(terms)) @ np.array(list(terms.values())),
            booster.predict(fresh.astype(np.float32), num_iteration=n_trees),
            atol=1e-10,
        )


def test_proposals_are_alternating_sums_of_the_predictions() -> None:
    n = 8
    proxy = learned(planted_game(n, 6, seed=1, n_triples=2), 250)
    sets = list(chain.from_iterable(combinations(range(n), k) for k in (2, 3)))
    exact: dict[Set, float] = {}
    for s in sets:
        parts = list(chain.from_iterable(combinations(s, k) for k in range(len(s) + 1)))
        masks = np.array([[u not in part for u in range(n)] for part in parts])
        signs = [(-1) ** (len(s) - len(part)) for part in parts]
        exact[s] = float(signs @ proxy.predict(masks))
    found = proxy.propose(1_000, order=3)
    sizes = [abs(v) for _, v in found]
    assert sizes == sorted(sizes, reverse=True) and {len(s) for s, _ in found} == {2, 3}
    for s in sets:
        assert dict(found).get(s, 0.0) == pytest.approx(exact[s], abs=1e-7)
    assert proxy.propose(3) == [(s, v) for s, v in found if len(s) == 2][:3]


def test_planted_pairs_are_found_with_their_values() -> None:
    game = planted_game(20, 10, seed=0)
    proxy = learned(game, 1_000)
    top = proxy.propose(10)
    assert {s for s, _ in top} == {*game.planted}
    for s, value in top:
        assert value == pytest.approx(game.planted[s], rel=1e-3)
    fresh = halves(500, 20, seed=9)
    assert r2(values_of(game, fresh), proxy.predict(fresh)) > 0.999
    assert proxy.about["kept"] == "refit" and proxy.about["cv_r2_kept"] > proxy.about["cv_r2"]
    assert proxy.about["n_coefficients"] == len(proxy.fourier) <= 1 + 20 + 200


def test_the_choice_is_that_of_plain_cross_validation() -> None:
    game = planted_game(12, 8, seed=2, noise=0.5)
    masks = halves(300, 12)
    values = values_of(game, masks)
    proxy = Trees(seed=3, n_trees=(20, 60))
    proxy.fit(masks, values)
    folds = module._folds(masks, 5, np.random.default_rng(3))
    errors = {}
    for depth, n_trees, rate in proxy.grid:
        parameters = proxy._parameters(depth, rate)
        whole = lightgbm.Dataset(masks.astype(np.float32), values, params=parameters).construct()
        squares = np.empty(300)
        for fold in folds:
            rest = whole.subset(np.setdiff1d(np.arange(300), fold))
            booster = lightgbm.train(parameters, rest, n_trees)
            squares[fold] = (values[fold] - booster.predict(masks[fold].astype(np.float32))) ** 2
        errors[depth, n_trees, rate] = squares.mean()
    about = proxy.about
    best = min(errors, key=lambda setting: errors[setting])
    assert (about["max_depth"], about["n_trees"], about["learning_rate"]) == best
    assert about["cv_r2"] == pytest.approx(1 - errors[best] / values.var())


def test_copies_of_a_mask_share_a_fold() -> None:
    masks = np.repeat(halves(40, 10), 3, axis=0)
    folds = module._folds(masks, 5, np.random.default_rng(0))
    assert sorted(np.concatenate(folds).tolist()) == list(range(120))
    homes = [{masks[row].tobytes() for row in fold} for fold in folds]
    assert not any(a & b for a, b in combinations(homes, 2))


def test_a_seed_gives_one_result_whatever_the_threads() -> None:
    game = planted_game(15, 5, seed=0, noise=0.3)
    first, again, other = (
        learned(game, 200, seed=s, threads=t) for s, t in ((0, 1), (0, 3), (1, 1))
    )
    assert first.fourier == again.fourier and first.about == again.about
    assert first.about["cv_r2"] != other.about["cv_r2"]


def test_uncertainty_is_the_spread_over_folds() -> None:
    game = planted_game(15, 5, seed=0, noise=0.3)
    proxy, fresh = learned(game, 200), halves(50, 15, seed=4)
    floats = fresh.astype(np.float32)
    each = [b.predict(floats, num_iteration=n) for b, n in proxy._of_folds]
    assert len(each) == 5
    np.testing.assert_allclose(proxy.uncertainty(fresh), np.std(each, axis=0))
    assert proxy.uncertainty(fresh).min() > 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_an_additive_game_has_no_interactions(seed: int, noise: float) -> None:
    proxy = learned(planted_game(20, 0, seed=seed, noise=noise), 400)
    assert proxy.propose(10, order=3) == []
    assert proxy.about["kept"] == "main effects"


@pytest.mark.parametrize("values", [np.zeros(100), np.full(100, 0.1), 1e6 + np.zeros(100)])
def test_a_constant_game(values: np.ndarray) -> None:
    proxy, masks = Trees(**QUICK), halves(100, 12)
    proxy.fit(masks, values)
    assert proxy.propose(5) == []
    np.testing.assert_allclose(proxy.predict(masks), values)
    np.testing.assert_array_equal(proxy.uncertainty(masks), np.zeros(100))


def test_pure_noise_has_no_interactions() -> None:
    proxy = Trees(**QUICK)
    proxy.fit(halves(300, 15), np.random.default_rng(7).standard_normal(300))
    assert proxy.propose(5) == []


def test_one_unit() -> None:
    proxy, masks = Trees(**QUICK), halves(100, 1)
    proxy.fit(masks, np.where(masks[:, 0], 2.0, 5.0))
    assert proxy.propose(5, order=3) == []
    np.testing.assert_allclose(proxy.predict(np.array([[True], [False]])), [2, 5], atol=1e-4)


@pytest.mark.parametrize("n_masks", [1, 2, 3, 4, 30])
def test_few_masks(n_masks: int) -> None:
    masks = halves(n_masks, 10)
    values = np.arange(n_masks, dtype=np.float64)
    proxy = Trees(**QUICK)
    proxy.fit(masks, values)
    assert proxy.propose(5) == []
    assert np.isfinite(proxy.predict(masks)).all() and np.isfinite(proxy.uncertainty(masks)).all()


def test_one_mask_many_times() -> None:
    proxy, masks = Trees(**QUICK), np.ones((50, 6), dtype=bool)
    proxy.fit(masks, np.random.default_rng(0).standard_normal(50))
    assert proxy.about["kept"] == "constant" and proxy.propose(5) == []


@pytest.mark.parametrize("n", [1_030, pytest.param(40_000, marks=pytest.mark.slow)])
def test_many_units(n: int) -> None:
    game = Planted(n, np.zeros(n), {(3, n - 1): 4.0, (7, n // 2): -4.0})
    proxy = learned(game, 200, depths=(3,), n_trees=(10,), learning_rates=(0.3,), n_folds=2)
    assert {s for s, _ in proxy.propose(2)} == {*game.planted}


def test_errors_name_the_value_and_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    masks, values = halves(50, 5), np.zeros(50)
    with pytest.raises(ValueError, match=r"learned nothing yet: call fit\(masks, values\) first"):
        Trees().predict(masks)
    with pytest.raises(ValueError, match=r"nothing to learn from: masks have the shape \(0, 5\)"):
        Trees().fit(masks[:0], values[:0])
    values[7] = np.nan
    with pytest.raises(ValueError, match="value of mask 7 is nan: leave out masks without"):
        Trees().fit(masks, values)
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(ImportError, match=r"need LightGBM: pip install 'spex_mech\[trees\]'"):
        Trees().fit(masks, np.zeros(50))
