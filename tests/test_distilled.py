"""The distilled proxy: closed forms against enumeration, what it learns, what it refuses."""

import subprocess
import sys
from itertools import chain, combinations, product

import numpy as np
import pytest
import torch

from spex_mech.pairs.gradient_rows import GradientRows
from spex_mech.proxies import closed_forms
from spex_mech.proxies.gaussian_process import GaussianProcess, _slopes_of_misfit
from spex_mech.search.settings import DEFAULTS
from spex_mech.setfunctions import parities
from tests.planted import planted_game

N = 8
EVERY = np.array(list(product([False, True], repeat=N)))


def values_of(masks: np.ndarray) -> np.ndarray:
    """Two prompts; main effects, a pair, a triple, and something that no polynomial is."""
    lost = ~masks
    main = lost @ np.linspace(-1, 1, N)
    first = main + 3 * lost[:, 1] * lost[:, 4] - 2 * lost[:, 2] * lost[:, 3] * lost[:, 5]
    return np.stack([first, np.tanh(main) - lost[:, 0] * lost[:, 7]], axis=1)


def learned(seed: int, share: float, n_masks: int = 150) -> GaussianProcess:
    rng = np.random.default_rng(seed)
    masks = rng.random((n_masks, N)) > share
    masks[0] = True
    proxy = GaussianProcess()
    proxy.fit(masks, values_of(masks))
    return proxy


def r2(truth: np.ndarray, predicted: np.ndarray) -> float:
    return 1 - float(((truth - predicted) ** 2).mean() / truth.var())


@pytest.mark.parametrize("share", [0.15, 0.5])
def test_interactions_are_alternating_sums_of_the_predictions(share: float) -> None:
    proxy = learned(0, share)
    found = proxy.propose(1000, order=3)
    sizes = [abs(v) for _, v in found]
    assert sizes == sorted(sizes, reverse=True) and {len(s) for s, _ in found} == {2, 3}
    for s, value in found[:40]:
        parts = list(chain.from_iterable(combinations(s, k) for k in range(len(s) + 1)))
        masks = np.array([[u not in part for u in range(N)] for part in parts])
        signs = np.array([(-1) ** (len(s) - len(part)) for part in parts])
        assert value == pytest.approx(float(signs @ proxy.predict(masks).mean(1)), abs=1e-6)


def test_fourier_coefficients_are_those_of_the_predictions() -> None:
    proxy = learned(1, 0.5)
    terms = proxy.fourier(100)
    assert len(terms) == 1 + N + N * (N - 1) // 2
    exact = parities(EVERY, list(terms)).T @ proxy.predict(EVERY).mean(1) / len(EVERY)
    np.testing.assert_allclose(list(terms.values()), exact, atol=1e-6)
    with pytest.raises(ValueError, match=r"learned near the intact model.*distill\(game, budget\)"):
        learned(1, 0.15).fourier()


@pytest.mark.parametrize("share", [0.15, 0.5])
def test_it_learns_each_prompt(share: float) -> None:
    fresh = np.random.default_rng(9).random((400, N)) > share
    predicted = learned(2, share, 300).predict(fresh)
    for prompt in (0, 1):
        assert r2(values_of(fresh)[:, prompt], predicted[:, prompt]) > 0.93


def test_the_planted_pair_is_the_strongest_proposal() -> None:
    (s, value), *_ = learned(3, 0.5).propose(1)
    assert s == (1, 4) and value == pytest.approx(1.5, abs=0.2)  # the mean of two prompts


def test_uncertainty_is_larger_far_from_what_was_learned() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((80, 30)) > 0.05
    proxy = GaussianProcess()
    proxy.fit(masks, (~masks) @ rng.standard_normal(30))
    near, far = masks[:20], rng.random((20, 30)) > 0.6
    assert proxy.uncertainty(near).max() < proxy.uncertainty(far).min()


def test_scales_tell_units_that_matter() -> None:
    """Of 200 units two matter: 200 masks suffice for all pairs, which flat scales could not do."""
    rng = np.random.default_rng(0)
    masks = rng.random((200, 200)) > 0.5
    game = lambda m: 4.0 * (~m[:, 3]) * (~m[:, 90]) + (~m[:, 3])  # noqa: E731
    proxy = GaussianProcess()
    proxy.fit(masks, game(masks))
    fresh = rng.random((200, 200)) > 0.5
    assert r2(game(fresh), proxy.predict(fresh)[:, 0]) > 0.99
    assert proxy.propose(1)[0][0] == (3, 90)
    flat = GaussianProcess(steps=0)
    flat.fit(masks, game(masks))
    assert r2(game(fresh), flat.predict(fresh)[:, 0]) < 0.9
    assert set(proxy.about) == {"n_masks", "main", "pairs", "rest", "noise"}


def test_rows_of_slopes_take_the_place_of_pair_effects() -> None:
    game = planted_game(40, 12, seed=0)
    intact, pairs = game.main_effects, game.planted

    def slopes(lost: int | None) -> np.ndarray:
        extra = np.zeros(40)
        for (a, b), value in pairs.items():
            extra[a] += value * (lost == b)
            extra[b] += value * (lost == a)
        return -(intact + extra)[None]  # with respect to the gates

    rows = GradientRows(slopes(None), block_weight=DEFAULTS.block_weight)
    for unit in range(40):
        rows.add(unit, slopes(unit))
    masks = np.ones((1, 40), dtype=bool)
    proxy = GaussianProcess()
    proxy.fit(masks, game(torch.from_numpy(masks)).numpy(), rows)
    top = dict(proxy.propose(12))
    assert set(top) == set(pairs)
    for s, value in top.items():
        assert value == pytest.approx(pairs[s], rel=1e-4)
    singles = ~np.eye(40, dtype=bool)  # as the tangent says, and more data than one mask
    np.testing.assert_allclose(
        proxy.predict(singles)[:, 0], 3 + intact, atol=0.05 * abs(intact).max()
    )


def test_the_same_seed_gives_the_same_fit() -> None:
    one, two = learned(5, 0.5), learned(5, 0.5)
    np.testing.assert_array_equal(one.predict(EVERY), two.predict(EVERY))


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_a_constant_game(value: float) -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((30, 6)) > 0.5
    proxy = GaussianProcess()
    proxy.fit(masks, np.full(30, value))
    assert proxy.about["constant"] and proxy.propose(10, order=3) == []
    np.testing.assert_array_equal(proxy.predict(masks[:4]), np.full((4, 1), value))
    assert np.isfinite(proxy.uncertainty(masks)).all()


@pytest.mark.parametrize("n_masks", [1, 2, 5])
def test_few_masks_and_one_unit(n_masks: int) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 12):
        masks = rng.random((n_masks, n)) > 0.5
        proxy = GaussianProcess()
        proxy.fit(masks, rng.standard_normal(n_masks))
        assert np.isfinite(proxy.predict(masks)).all()
        assert all(len(s) == 2 for s, _ in proxy.propose(5))


def test_many_units_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan over all pairs in several blocks finds what one block finds."""
    proxy = learned(6, 0.5)
    whole = proxy.propose(60, order=3)
    monkeypatch.setattr(closed_forms, "_AT_ONCE", 9)
    monkeypatch.setattr(closed_forms, "_EXACT_ENTRIES", 64)
    assert [s for s, _ in proxy.propose(60, order=3)] == [s for s, _ in whole]


FORTY_THOUSAND = """
import resource
import numpy as np
from spex_mech.proxies.gaussian_process import GaussianProcess

masks = np.random.default_rng(0).random((200, 40_000)) > 0.5
proxy = GaussianProcess(steps=5)
proxy.fit(masks, 5.0 * masks[:, 7] * masks[:, 39_999] + masks[:, 7])
print(len(proxy.propose(20)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_forty_thousand_units_stay_in_memory() -> None:
    """The scan over 800 million pairs never holds an n x n matrix (6.4 GB and more). In a process
    of its own, as the most that this one ever held may be another test's."""
    ended = subprocess.run(
        [sys.executable, "-c", FORTY_THOUSAND], check=True, capture_output=True, text=True
    )
    n_found, kilobytes = map(int, ended.stdout.split())
    assert n_found == 20
    assert 200_000 < kilobytes < 4_000_000


def test_errors_name_the_value_and_the_cure() -> None:
    masks = np.ones((4, 3), dtype=bool)
    with pytest.raises(ValueError, match=r"learned nothing yet: call fit\(masks, values\) first"):
        GaussianProcess().predict(masks)
    with pytest.raises(ValueError, match="value of mask 2 is nan: leave out"):
        GaussianProcess().fit(masks, np.array([0.0, 1.0, np.nan, 2.0]))
    with pytest.raises(ValueError, match=r"nothing to learn from: masks have the shape \(0, 3\)"):
        GaussianProcess().fit(masks[:0], np.zeros(0))


def test_slopes_of_the_likelihood_are_those_of_the_normal_density() -> None:
    """As torch differentiates its own density."""
    torch.manual_seed(0)
    root = torch.randn(12, 12, dtype=torch.float64)
    covariance = (root @ root.T + torch.eye(12)).requires_grad_()
    y = torch.randn(12, 3, dtype=torch.float64)
    normal = torch.distributions.MultivariateNormal(torch.zeros(12).double(), covariance)
    (-normal.log_prob(y.T).sum()).backward()
    slopes = _slopes_of_misfit(torch.linalg.cholesky(covariance.detach()), y)
    torch.testing.assert_close(slopes, covariance.grad)
