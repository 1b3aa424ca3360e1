"""Training examples as units: closed forms against training by hand, gradients, made cases."""

import copy
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spex_mech as sm
from spex_mech.distill import explain
from spex_mech.games.features import frozen_features
from spex_mech.games.training_game import example_groups
from tests.families import build

RNG = np.random.default_rng(0)
X, X_TEST = RNG.normal(size=(12, 4)), RNG.normal(size=(5, 4))
W = np.array([1.0, -2.0, 0.5, 0.0])
Y, Y_TEST = X @ W + 0.3 * RNG.normal(size=12), X_TEST @ W
CLASS, CLASS_TEST = (Y > 0).astype(float), (Y_TEST > 0).astype(float)


def rbf(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * ((a[:, None] - b[None]) ** 2).sum(-1))


def games() -> dict[str, sm.TrainingGame]:
    return {
        "ridge": sm.TrainingGame.ridge(X, Y, X_TEST, Y_TEST, 0.7),
        "kernel ridge": sm.TrainingGame.kernel_ridge(
            rbf(X, X), Y, rbf(X_TEST, X), Y_TEST, 0.3, batch_size=3
        ),
        "logistic": sm.TrainingGame.logistic(X, CLASS, X_TEST, CLASS_TEST, 0.5),
    }


def by_hand(kind: str, kept: np.ndarray) -> np.ndarray:
    """Train on the kept examples alone, evaluate on the test points."""
    x, y = X[kept], Y[kept]
    if kind == "ridge":
        w = np.linalg.solve(x.T @ x + 0.7 * np.eye(4), x.T @ y)
        return -((X_TEST @ w - Y_TEST) ** 2)
    if kind == "kernel ridge":
        a = np.linalg.solve(rbf(x, x) + 0.3 * np.eye(len(x)), y)
        return -((rbf(X_TEST, x) @ a - Y_TEST) ** 2)
    from scipy.optimize import minimize

    sign = 2 * CLASS[kept] - 1

    def objective(w: np.ndarray) -> float:
        return float(np.logaddexp(0, -sign * (x @ w)).sum() + 0.25 * w @ w)

    w = minimize(objective, np.zeros(4), tol=1e-12).x
    return -np.logaddexp(0, -(2 * CLASS_TEST - 1) * (X_TEST @ w))


@pytest.mark.parametrize("kind", ["ridge", "kernel ridge", "logistic"])
def test_equals_training_on_the_subset(kind: str) -> None:
    game = games()[kind]
    masks = np.random.default_rng(1).random((8, 12)) < 0.6
    masks[0], masks[1] = True, False
    got = game(masks)
    assert got.shape == (8, 5)
    for mask, values in zip(masks, got.numpy(), strict=True):
        if mask.any():
            tolerance = 1e-5 if kind == "logistic" else 1e-9
            np.testing.assert_allclose(
                values, by_hand(kind, np.flatnonzero(mask)), atol=tolerance, rtol=tolerance
            )


@pytest.mark.parametrize("kind", ["ridge", "kernel ridge", "logistic"])
def test_gradient_is_the_slope_of_the_weights(kind: str) -> None:
    game = games()[kind]
    gates = torch.rand(3, 12, generator=torch.Generator().manual_seed(0)).double() * 0.8 + 0.1
    values, slopes = game.value_and_slopes(gates)
    assert values.shape == (3, 5) and slopes.shape == (3, 5, 12)
    torch.testing.assert_close(game.gradient(gates), slopes.mean(1))
    for unit in range(12):
        up, down = gates.clone(), gates.clone()
        up[:, unit] += 1e-5
        down[:, unit] -= 1e-5
        finite = (game.value_and_slopes(up)[0] - game.value_and_slopes(down)[0]) / 2e-5
        torch.testing.assert_close(slopes[:, :, unit], finite, rtol=1e-5, atol=1e-7)


def test_interactions_of_ridge_are_those_of_the_closed_form() -> None:
    found = sm.discover(games()["ridge"], method="exhaustive", progress=False)
    everything = np.arange(12)

    def value(*lost: int) -> float:
        return float(by_hand("ridge", np.setdiff1d(everything, lost)).mean())

    for a, b in combinations(range(12), 2):
        want = value(a, b) - value(a) - value(b) + value()
        assert found.value(str(a), str(b)) == pytest.approx(want, abs=1e-6)


def test_duplicates_are_or_like_and_complements_and_like() -> None:
    # Examples 0 and 1 are the same; 2 and 3 together determine what neither does alone.
    x = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 1], [0, 1, 0]])
    y = np.array([1.0, 1, 1, 0])
    twice = sm.TrainingGame.ridge(x, y, [[1.0, 0, 0]], [1.0], 1e-3)
    found = sm.discover(twice, method="exhaustive", progress=False)
    assert found.value("0", "1") < -0.9
    assert all(abs(found.main_effects[[0, 1]]) < 1e-3)
    both = sm.TrainingGame.ridge(x, y, [[0.0, 0, 1]], [1.0], 1e-3)
    found = sm.discover(both, method="exhaustive", progress=False)
    assert found.value("2", "3") == pytest.approx(0.25, abs=0.01)
    assert (found.main_effects[[2, 3]] < -0.2).all()


def test_groups_are_ablated_together() -> None:
    groups = [[0, 1], [5], [7, 8, 9]]
    game = sm.TrainingGame.ridge(X, Y, X_TEST, Y_TEST, 0.7, groups=groups)
    assert game.labels == ["0+1", "5", "7+8+9"]
    kept = np.setdiff1d(np.arange(12), [0, 1, 7, 8, 9])
    np.testing.assert_allclose(game([[False, True, False]])[0], by_hand("ridge", kept))


def test_own_training_function_without_gradients() -> None:
    def train(weights: Tensor) -> Tensor:
        return torch.stack([w.sum() * torch.ones(2) for w in weights])

    game = sm.TrainingGame(train, 4, differentiable=False, labels=["a", "b", "c", "d"])
    assert not game.has_slopes
    found = sm.discover(game, progress=False)
    assert abs(found.mean).max() == 0
    assert found.about["lens"] == "data"


@pytest.mark.slow
def test_digits_pairs_of_a_subset() -> None:
    """Recall of the exhaustive top 50 of 200 examples at a quarter of its cost."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    data = datasets.load_digits()
    chosen = np.flatnonzero(np.isin(data.target, (3, 8)))
    x, y = data.data[chosen] / 16, np.where(data.target[chosen] == 8, 1.0, -1.0)
    game = sm.TrainingGame.ridge(x[:200], y[:200], x[200:], y[200:], 1.0)
    full = sm.discover(game, method="exhaustive", progress=False)
    best = {tuple(units) for units in full.top(50).units[:, :2].tolist()}
    budget = full.cost["evaluations"] // 4
    found = sm.discover(game, budget=budget, seed=0, progress=False)
    have = {tuple(units) for units in found.units[:, :2].tolist()}
    assert len(best & have) >= 45


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"groups": [[0, 1], [1]]}, "an example is in two groups"),
        ({"groups": [[12]]}, "there is no example 12 among 12"),
        ({"groups": []}, "no units"),
        ({"groups": [0, 1]}, r"groups hold 0, an int where a list belongs; give one list of"),
        ({"groups": [[0.7], [1]]}, "groups hold 0.7, a float as an example; it must be a whole"),
        ({"groups": [[True], [2]]}, "groups hold True, a bool as an example; it must be a whole"),
        ({"failed": float("nan")}, "failed is nan, a float; it must be a finite number, or None"),
        ({"labels": ["a"]}, "1 labels for 12 units"),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sm.TrainingGame.ridge(X, Y, X_TEST, Y_TEST, **options)


@pytest.mark.parametrize(
    "groups", [np.array([[0, 2], [1, 3]]), torch.tensor([[0, 2], [1, 3]]), [{0, 2}, (1, 3)]]
)
def test_groups_come_in_any_container(groups: Any) -> None:
    game = sm.TrainingGame.ridge(X, Y, X_TEST, Y_TEST, groups=groups)
    same = sm.TrainingGame.ridge(X, Y, X_TEST, Y_TEST, groups=[[0, 2], [1, 3]])
    masks = torch.tensor([[True, False], [False, True], [False, False]])
    assert game.labels == ["0+2", "1+3"] and torch.equal(game(masks), same(masks))


def test_a_wrong_training_function_is_named() -> None:
    game = sm.TrainingGame(lambda weights: weights.sum(1), 3)
    with pytest.raises(ValueError, match="it must return \\[mask point\\]"):
        game([[True, True, True]])


def test_training_that_fails_is_an_error_or_a_stated_value() -> None:
    def train(weights: Tensor) -> Tensor:
        if (weights.sum(dim=1) == 0).any():
            raise RuntimeError("nothing to fit")
        value = weights.sum(dim=1)
        return torch.stack([value, value.where(weights[:, 0] > 0, torch.nan)], dim=1)

    masks = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 1, 1], [0, 0, 0]]).bool()
    game = sm.TrainingGame(train, 3, differentiable=False)
    with pytest.raises(ValueError, match=r"fails when trained on nothing: RuntimeError: nothing"):
        game(masks[:2])
    with pytest.raises(ValueError, match=r"nan at test point 1 when trained without 0"):
        game(masks[1:3])
    game = sm.TrainingGame(train, 3, differentiable=False, failed=-7.0)
    assert game(masks).tolist() == [[-7, -7], [3, 3], [-7, -7], [-7, -7]]
    # On all examples it works: so the number of test points is known from there.
    game = sm.TrainingGame(train, 3, differentiable=False, failed=0.0)
    assert game(masks[[0, 0]]).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("way", ["numpy", "detach"])
def test_a_training_of_ones_own_that_has_no_gradient_is_searched_without(way: str) -> None:
    """It is a loop over scikit-learn more often than not, and differentiable=True is the default:
    a search of many examples ended in an error of autograd, or told to give failed=."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 40, 3, generator=generator, dtype=torch.float64)

    def train(weights: Tensor) -> np.ndarray:
        rows = (weights.detach() if way == "detach" else weights).numpy().astype(bool)
        return np.stack([(x.numpy()[row].sum(0) * y.numpy()[row].sum(0)) for row in rows])

    said = "fails with weights that need a gradient" if way == "numpy" else "do not depend on the"
    for options in ({}, {"failed": 0.0}):
        game = sm.TrainingGame(train, 40, **options)
        with pytest.warns(UserWarning, match=f"without gradients: autograd cannot .*{said}"):
            found = sm.discover(game, budget=150, progress=False)
        assert not game.has_slopes and found.cost["gradients"] == 0
        quiet = sm.TrainingGame(train, 40, differentiable=False, **options)
        again = sm.discover(quiet, budget=150, progress=False)
        np.testing.assert_array_equal(found.values, again.values)
    a, b = found.units[0]
    want = x[a] * y[b] + x[b] * y[a]  # of a product of sums, by hand
    torch.testing.assert_close(torch.from_numpy(found.values[0]), want)


def test_what_fails_on_all_examples_is_not_cured_by_failed() -> None:
    def never(weights: Tensor) -> Tensor:
        raise RuntimeError("no solver")

    with pytest.raises(ValueError, match=r"trained on everything: RuntimeError: no solver$"):
        sm.discover(sm.TrainingGame(never, 40), progress=False)


def test_failed_never_hides_that_all_failed() -> None:
    def never(weights: Tensor) -> Tensor:
        raise RuntimeError("no solver")

    options = {"differentiable": False, "failed": -1.0}
    game = sm.TrainingGame(never, 3, **options)
    with pytest.raises(ValueError, match=r"fails when trained on everything: RuntimeError: no sol"):
        sm.discover(game, progress=False)
    game = sm.TrainingGame(lambda w: torch.full((len(w), 2), torch.nan), 3, **options)
    with pytest.raises(
        ValueError,
        match=r"gives nan at test point 0 when trained on everything; it must be finite$",
    ):
        sm.discover(game, progress=False)

    def whole_only(weights: Tensor) -> Tensor:
        return weights.prod(dim=1, keepdim=True).where(weights.all(dim=1, keepdim=True), torch.nan)

    game = sm.TrainingGame(whole_only, 8, **options)
    with pytest.warns(UserWarning, match=r"failed on all \d+ subsets so far.*mean nothing"):
        sm.discover(game, method="exhaustive", progress=False)
    fine = sm.TrainingGame(lambda w: 1 / (w.sum(1, keepdim=True) - 3), 8, **options)
    sm.discover(fine, method="exhaustive", progress=False)  # few fail: no warning


def test_weights_outside_0_to_1_are_refused() -> None:
    game = games()["ridge"]
    gates = 2.0 * torch.ones(1, 12)
    with pytest.raises(ValueError, match=r"gates go from 2 to 2; they are weights of examples"):
        game.value_and_slopes(gates)
    with pytest.raises(ValueError, match="masks hold -1 at mask 0, unit 0"):
        game(-torch.ones(1, 12, dtype=torch.long))


def test_rows_are_grouped_as_what_they_are() -> None:
    assert example_groups(np.array([[2**53], [2**53 + 1], [7]])) == [[0], [1], [2]]
    assert example_groups([2**70, 2**70 + 1, 2**70]) == [[0, 2], [1]]
    assert example_groups([[np.nan, 1], [np.nan, 1], [1, np.nan]]) == [[0, 1], [2]]
    assert example_groups([[0.0], [-0.0], [1.0]]) == [[0, 1], [2]]
    assert example_groups(torch.tensor([[1, 2], [1, 2]], dtype=torch.uint8)) == [[0, 1]]
    twice = np.repeat([[0.0], [1.0]], 5, axis=0)
    with pytest.raises(ValueError, match="n_clusters is 4; it must be 1 to 2, the number of diff"):
        example_groups(twice, 4)
    apart = np.random.default_rng(0).normal(size=(30, 2))
    for count in (1, 7, 29):
        found = example_groups(apart, count)
        assert len(found) == count and sorted(i for g in found for i in g) == [*range(30)]
    with pytest.raises(ValueError, match="x is nan at row 0, column 0"):
        example_groups([[np.nan, 1], [2, 1]], 2)
    with pytest.raises(TypeError, match="x holds 'a', a str"):
        example_groups([["a"], ["b"]])


@pytest.mark.parametrize("targets", ["classes", "floats"])
def test_networks_of_many_masks_are_those_trained_alone(targets: str) -> None:
    torch.manual_seed(0)
    classes = targets == "classes"
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2 if classes else 1))
    y, y_test = (CLASS.astype(int), CLASS_TEST.astype(int)) if classes else (Y, Y_TEST)
    options = {"steps": 30, "learning_rate": 0.05, "decay": 0.1}
    game = sm.TrainingGame.network(module, X, y, X_TEST, y_test, **options)
    masks = torch.rand(5, 12, generator=torch.Generator().manual_seed(0)) > 0.4
    masks[0], masks[1] = True, False
    got = game(masks)
    for mask, values in zip(masks, got, strict=True):
        alone = copy.deepcopy(module)
        steps = torch.optim.AdamW(alone.parameters(), lr=0.05, weight_decay=0.1)
        x = torch.from_numpy(X)[mask].float()

        def losses(x: Tensor, y: Tensor, alone: nn.Module = alone) -> Tensor:
            if classes:
                return nn.functional.cross_entropy(alone(x), y, reduction="none")
            return (alone(x)[:, 0] - y.float()) ** 2

        for _ in range(30 if mask.any() else 0):
            steps.zero_grad()
            losses(x, torch.from_numpy(y)[mask]).mean().backward()
            steps.step()
        want = -losses(torch.from_numpy(X_TEST).float(), torch.from_numpy(y_test))
        torch.testing.assert_close(values, want.double(), rtol=1e-4, atol=1e-5)
    assert not game.has_slopes


def test_groups_of_equal_examples_and_clusters() -> None:
    x = [[0.0, 1], [2, 2], [0, 1], [2, 2.1]]
    assert example_groups(x) == [[0, 2], [1], [3]]
    assert example_groups(x, 2) == [[0, 2], [1, 3]]
    with pytest.raises(ValueError, match="n_clusters is 5; it must be 1 to 3"):
        example_groups(x, 5)
    with pytest.raises(ValueError, match=r"x has shape \(0,\), and so no number to group by"):
        example_groups([])


def test_a_head_on_frozen_features() -> None:
    model = build("llama")
    tokens = torch.randint(0, 61, (14, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(14, 6, dtype=torch.bool)
    mask[3, 4:] = False
    prompts = sm.Prompts(tokens, attention_mask=mask)
    seen: list[Tensor] = []
    handle = model.model.layers[1].register_forward_hook(lambda m, a, out: seen.append(out))
    with torch.no_grad():
        model(tokens, attention_mask=mask.long())
    handle.remove()
    whole = seen[0]
    last = frozen_features(model, prompts, pool="last", batch_size=3)
    torch.testing.assert_close(last[3], whole[3, 3], rtol=1e-5, atol=1e-5)
    mean = frozen_features(model, prompts, batch_size=5)
    torch.testing.assert_close(mean[3], whole[3, :4].mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mean[4], whole[4].mean(0), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="there is no layer 2; the model has 2"):
        frozen_features(model, prompts, layer=2)
    with pytest.raises(ValueError, match="pool='max'"):
        frozen_features(model, prompts, pool="max")
    game = sm.TrainingGame.logistic(mean[:12], CLASS, mean[12:], [0.0, 1.0])
    assert game(torch.ones(1, 12, dtype=torch.bool)).shape == (1, 2)


def test_known_masks_are_explained_without_questions() -> None:
    game = games()["ridge"]
    masks = np.random.default_rng(5).random((600, 12)) < 0.5
    found = explain(masks, game(masks).numpy(), labels=[f"e{u}" for u in range(12)])
    assert found.r2 is not None and found.r2 > 0.8
    assert found.cost == {"evaluations": 0} and 535 < found.n_masks < 545
    every = (np.arange(4096)[:, None] >> np.arange(12)) & 1
    values, signs = game(every.astype(bool)).mean(dim=1).numpy(), 1 - 2 * every
    true = {
        f"e{a} x e{b}": float((values * signs[:, a] * signs[:, b]).mean())
        for a, b in combinations(range(12), 2)
    }
    largest = sorted(true, key=lambda pair: -abs(true[pair]))
    top = found.frame(5)
    assert top.units[0] == largest[0] and set(top.units) <= set(largest[:10])
    for units, estimate in top.to_numpy():
        assert estimate == pytest.approx(true[units], abs=0.25 * abs(true[largest[0]]))
    with pytest.raises(ValueError, match="19 masks are too few"):
        explain(masks[:19], np.zeros(19))
    with pytest.raises(ValueError, match=r"values of shape \(3,\)"):
        explain(masks, np.zeros(3))


@pytest.mark.parametrize("learner", ["ridge", "kernel_ridge", "logistic", "network"])
def test_confirm_knows_other_training(learner: str) -> None:
    """Test points may be others; the examples, their order and the learner's settings may not."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 3)), np.array([1.0, -1, 1, -1, 1, 1])
    points, targets = rng.normal(size=(12, 3)), np.sign(rng.normal(size=12))

    def game(order: Any = slice(None), rows: Any = slice(0, 6), **options: Any) -> sm.TrainingGame:
        a, b = x[order], points[rows]
        if learner == "kernel_ridge":
            a, b = a @ a.T, b @ a.T
        given = (a, y[order], b, targets[rows])
        if learner == "network":
            torch.manual_seed(0)
            module = torch.nn.Linear(3, 1)
            return sm.TrainingGame.network(module, *given, **{"steps": 20, **options}, failed=0.0)
        return getattr(sm.TrainingGame, learner)(*given, **options, failed=0.0)

    found = sm.discover(game(), "exhaustive", progress=False)
    sm.confirm(found, game(rows=slice(6, 12)), progress=False)  # a warning is an error here
    changed = {"steps": 21} if learner == "network" else {"penalty": 1.5}
    for other in (game([1, 0, 2, 3, 4, 5], slice(6, 12)), game(rows=slice(6, 12), **changed)):
        with pytest.warns(UserWarning, match="trains on other examples"):
            sm.confirm(found, other, progress=False)
