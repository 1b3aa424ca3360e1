"""Learners: right, or they say that they are not. Against scikit-learn on the same subsets."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spex_mech as sm
from spex_mech.games.learners import kernel_ridge, logistic, network, ridge

pytest.importorskip("sklearn", reason="scikit-learn is not installed: nothing to compare to")
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge

N, POINTS = 14, 4
TABLES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "normal": lambda r: r.normal(size=(N, 3)),
    "counts": lambda r: r.poisson(4, size=(N, 3)).astype(float),
    "heavy tails": lambda r: np.exp(2.5 * r.normal(size=(N, 3))),
    "constant column": lambda r: np.column_stack([r.normal(size=(N, 2)), np.full(N, 7.0)]),
    "duplicates": lambda r: np.repeat(r.normal(size=(N // 2, 3)), 2, axis=0),
    "far apart": lambda r: r.normal(size=(N, 3)) * [1.0, 1e3, 1e-3],
}


def subsets(rng: np.random.Generator, count: int = 50) -> np.ndarray:
    masks = rng.random((count, N)) < rng.uniform(0.3, 0.9, size=(count, 1))
    masks[~masks.any(axis=1), 0] = True
    return masks


def weights_of(masks: np.ndarray) -> Tensor:
    return torch.from_numpy(masks).double()


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("options", ["plain", "weights and intercept"])
def test_ridge_is_scikit_learns(table: str, options: str) -> None:
    """300 subsets: 50 of each table."""
    rng = np.random.default_rng(0)
    x, y = TABLES[table](rng), rng.normal(size=N)
    base = rng.uniform(0.2, 3, size=N) if options != "plain" else np.ones(N)
    own = {} if options == "plain" else {"sample_weight": base, "intercept": True}
    masks = subsets(rng)
    got = ridge(x, y, x[:POINTS], y[:POINTS], 0.3, **own)(weights_of(masks)).numpy()
    for mask, values in zip(masks, got, strict=True):
        model = Ridge(alpha=0.3, fit_intercept="intercept" in own, solver="cholesky")
        model.fit(x[mask], y[mask], sample_weight=base[mask])
        want = -((model.predict(x[:POINTS]) - y[:POINTS]) ** 2)
        np.testing.assert_allclose(values, want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("table", TABLES)
def test_kernel_ridge_is_scikit_learns(table: str) -> None:
    rng = np.random.default_rng(1)
    x, y, base = TABLES[table](rng), rng.normal(size=N), rng.uniform(0.2, 3, size=N)
    k = x @ x.T + np.exp(-((x[:, None] - x[None]) ** 2).sum(-1))
    masks = subsets(rng)
    game = kernel_ridge(k, y, k[:POINTS], y[:POINTS], 0.3, sample_weight=base)
    for mask, values in zip(masks, game(weights_of(masks)).numpy(), strict=True):
        at = np.flatnonzero(mask)
        model = KernelRidge(alpha=0.3, kernel="precomputed")
        model.fit(k[np.ix_(at, at)], y[at], sample_weight=base[at])
        want = -((model.predict(k[:POINTS, at]) - y[:POINTS]) ** 2)
        np.testing.assert_allclose(values, want, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("penalty", [1.0, 1e-4])
def test_logistic_is_scikit_learns(table: str, penalty: float) -> None:
    """300 subsets at each penalty; those of one class too, which scikit-learn refuses."""
    rng = np.random.default_rng(2)
    x, y = TABLES[table](rng), (rng.random(N) < 0.5).astype(int)
    y[:2] = 0, 1
    masks = subsets(rng)
    masks[0] = y == 1
    got = logistic(x, y, x[:POINTS], y[:POINTS], penalty)(weights_of(masks)).numpy()
    for mask, values in zip(masks, got, strict=True):
        if len(set(y[mask])) == 2:
            model = LogisticRegression(
                C=1 / penalty, fit_intercept=False, solver="newton-cholesky", tol=1e-12,
                max_iter=10_000,
            ).fit(x[mask], y[mask])  # fmt: skip
            beta = model.coef_[0]
        else:
            beta = one_class(x[mask], 2 * y[mask] - 1, penalty)
        want = -np.logaddexp(0, -(2 * y[:POINTS] - 1) * (x[:POINTS] @ beta))
        np.testing.assert_allclose(values, want, rtol=1e-5, atol=1e-9)


def one_class(x: np.ndarray, sign: np.ndarray, penalty: float) -> np.ndarray:
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(beta: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign * (x @ beta)
        slope = penalty * beta - (sign * expit(-margin)) @ x
        return float(np.logaddexp(0, -margin).sum() + penalty / 2 * beta @ beta), slope

    options = {"gtol": 1e-13, "maxiter": 10_000}
    scale = 1 / abs(x).max(axis=0).clip(1e-9)  # or features far apart take for ever

    def scaled(gamma: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = loss(scale * gamma)
        return value, scale * slope

    found = minimize(scaled, np.zeros(x.shape[1]), jac=True, method="BFGS", options=options)
    return scale * found.x


def test_logistic_weights_and_intercept() -> None:
    rng = np.random.default_rng(3)
    x, base = rng.normal(size=(N, 3)) + 2, rng.uniform(0.2, 3, size=N)
    y = (x[:, 0] + rng.normal(size=N) > 2).astype(int)
    masks = subsets(rng, 40)
    masks = masks[[len(set(y[m])) == 2 for m in masks]]
    assert len(masks) > 25
    own = {"sample_weight": base, "intercept": True}
    got = logistic(x, y, x[:POINTS], y[:POINTS], 0.5, **own)(weights_of(masks)).numpy()
    for mask, values in zip(masks, got, strict=True):
        model = LogisticRegression(C=2.0, solver="newton-cholesky", tol=1e-12)
        model.fit(x[mask], y[mask], sample_weight=base[mask])
        margin = model.decision_function(x[:POINTS]) * (2 * y[:POINTS] - 1)
        np.testing.assert_allclose(values, -np.logaddexp(0, -margin), rtol=1e-6)


@pytest.mark.parametrize("learner", [ridge, logistic])
def test_examples_of_no_weight_are_nothing_to_train_on(learner: Any) -> None:
    """With an intercept the equations had no solution, where on nothing at all they have."""
    rng = np.random.default_rng(4)
    x, y, base = rng.normal(size=(6, 2)), np.array([0, 1, 0, 1, 1, 0]), np.ones(6)
    base[4:] = 0
    train = learner(x, y, x[:3], y[:3], 0.5, sample_weight=base, intercept=True)
    masks = torch.zeros(2, 6, dtype=torch.float64)
    masks[1, 4:] = 1
    nothing, weightless = train(masks)
    assert torch.equal(nothing, weightless)
    expected = np.full(3, -np.log(2)) if learner is logistic else -(y[:3].astype(float) ** 2)
    np.testing.assert_allclose(weightless, expected, atol=1e-12)


def squares_by_qr(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Coefficients of least squares, from the table itself and not from its squares."""
    rows = np.vstack([x, np.sqrt(penalty) * np.eye(x.shape[1])])
    q, r = np.linalg.qr(rows)
    return np.linalg.solve(r, q.T @ np.concatenate([y, np.zeros(x.shape[1])]))


def nearly_dependent(kind: str) -> tuple[np.ndarray, np.ndarray, float]:
    rng = np.random.default_rng(11)
    wide = kind == "more features than examples"
    x, y = rng.normal(size=(12, 16 if wide else 3)), rng.normal(size=12)
    return (x, y, 1e-10) if wide else (x + 1e6, y, 0.5)


@pytest.mark.parametrize("kind", ["more features than examples", "far from zero"])
def test_ridge_of_nearly_dependent_features_loses_no_digits(kind: str) -> None:
    """Squares alone lose half of them, and all interactions with them."""
    x, y, penalty = nearly_dependent(kind)
    intercept = kind == "far from zero"
    game = sm.TrainingGame.ridge(x[2:], y[2:], x[:2], y[:2], penalty, intercept=intercept)
    masks = np.ones((4, 10), dtype=bool)
    masks[1, 3] = masks[2, 7] = masks[3, 3] = masks[3, 7] = False
    for mask, values in zip(masks, game(masks).numpy(), strict=True):
        some, targets = x[2:][mask], y[2:][mask]
        middle, mean = (some.mean(0), targets.mean()) if intercept else (0.0, 0.0)
        beta = squares_by_qr(some - middle, targets - mean, penalty)
        want = -(((x[:2] - middle) @ beta + mean - y[:2]) ** 2)
        np.testing.assert_allclose(values, want, rtol=1e-7)
    gates = torch.full((1, 10), 0.8, dtype=torch.float64)
    slopes = game.gradient(gates)[0]
    for unit in (0, 9):
        up, down = gates.clone(), gates.clone()
        up[:, unit] += 1e-3
        down[:, unit] -= 1e-3
        finite = (game.slopes_at(up).values - game.slopes_at(down).values).mean() / 2e-3
        assert slopes[unit].item() == pytest.approx(finite, rel=1e-3, abs=1e-9)


def test_what_rounding_would_decide_is_an_error_or_a_stated_value() -> None:
    rng = np.random.default_rng(12)
    x, y = rng.normal(size=(4, 3)), rng.normal(size=4)
    masks = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    game = sm.TrainingGame.ridge(x, y, x[:2], y[:2], penalty=0.0)
    with pytest.raises(ValueError, match=r"without 2, 3.*penalty=0.*larger penalty"):
        game(masks)  # two examples do not settle three coefficients
    stated = sm.TrainingGame.ridge(x, y, x[:2], y[:2], penalty=0.0, failed=-9.0)(masks)
    assert (stated[2] == -9).all() and (stated[:2] > -9).all()
    twice = np.column_stack([x, x[:, 0] * 0.7])
    with pytest.raises(ValueError, match=r"trained on everything.*larger penalty"):
        sm.TrainingGame.ridge(twice, y, twice, y, penalty=1e-16)(masks[:1])
    # Two examples that are the same and have other targets.
    kernel = np.exp(-((x[:, None] - x[None]) ** 2).sum(-1))
    kernel[3], kernel[:, 3] = kernel[2], kernel[2][:, None].T
    kernel[3, 3] = kernel[2, 2]
    other = np.exp(-((rng.normal(size=(2, 1, 3)) - x[None]) ** 2).sum(-1))
    other[:, 3] = other[:, 2]
    with pytest.raises(ValueError, match=r"penalty=1e-12.*larger penalty"):
        sm.TrainingGame.kernel_ridge(kernel, y, other, y[:2], 1e-12)(masks[:1])
    assert sm.TrainingGame.kernel_ridge(kernel, y, other, y[:2], 1e-4)(masks).isfinite().all()


def test_counts_and_separable_data_converge() -> None:
    first = [[2, 2, 4], [1, 7, 1], [1, 2, 2], [72, 19, 300], [6, 3, 1], [300, 198, 1]]
    last = [[188, 1, 2], [1, 8, 1], [1, 1, 1], [25, 29, 300], [3, 3, 3], [1, 1, 1]]
    x = np.array(first + last)
    y = np.array([0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1])
    model = LogisticRegression(C=1.0, fit_intercept=False, max_iter=10_000, tol=1e-10).fit(x, y)
    values = logistic(x, y, x, y)(torch.ones(1, 12).double())[0].numpy()
    np.testing.assert_allclose(values, model.predict_log_proba(x)[range(12), y], atol=1e-5)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3))
    y = (x[:, 0] > 0) * 1
    for penalty in (1e-2, 1e-6, 1e-8):
        model = LogisticRegression(
            C=1 / penalty, fit_intercept=False, solver="newton-cholesky", tol=1e-12, max_iter=10_000
        ).fit(x, y)
        value = logistic(x, y, x[:1], 1 - y[:1], penalty)(torch.ones(1, 30).double()).item()
        margin = abs((x[:1] @ model.coef_[0]).item())  # of the class that it is not
        assert value == pytest.approx(-np.logaddexp(0, margin), rel=1e-6)


def test_what_has_no_optimum_is_an_error_or_a_stated_value() -> None:
    x, y = np.array([[1.0], [2.0], [-1.0], [-2.0]]), [1, 1, 0, 0]
    game = sm.TrainingGame.logistic(x, y, x[:1], y[:1], penalty=0.0)
    with pytest.raises(ValueError, match=r"trained on everything.*has not converged in 100 steps"):
        game(torch.ones(1, 4, dtype=torch.bool))
    # An intercept goes to infinity where only one class is left.
    options = {"intercept": True, "steps": 60}
    game = sm.TrainingGame.logistic(x, y, x[:1], y[:1], **options)
    masks = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    with pytest.raises(ValueError, match=r"without 2, 3.*has not converged in 60 steps"):
        game(masks)
    stated = sm.TrainingGame.logistic(x, y, x[:1], y[:1], failed=-5.0, **options)
    values = stated(masks)[:, 0]
    assert values[1] == -5 and values[2] == pytest.approx(np.log(0.5)) and -0.7 < values[0] < 0


@pytest.mark.parametrize(
    ("y", "y_test"),
    [
        ([0, 1, 1, 0], [1, 0]),
        ([-1, 1, 1, -1], [1, -1]),
        ([1.0, 2.0, 2.0, 1.0], [2.0, 1.0]),
        ([False, True, True, False], [True, False]),
        (["ham", "spam", "spam", "ham"], ["spam", "ham"]),
        (torch.tensor([3, 7, 7, 3]), torch.tensor([7, 3])),
    ],
)
def test_two_classes_of_any_name(y: Any, y_test: Any) -> None:
    x = np.random.default_rng(0).normal(size=(4, 2))
    want = logistic(x, [0, 1, 1, 0], x[:2], [1, 0])(torch.ones(1, 4).double())
    got = logistic(x, y, x[:2], y_test)(torch.ones(1, 4).double())
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    ("y", "y_test", "text"),
    [
        ([0, 1, 2, 0], [0], "two classes apart, and y has 3: 0, 1, 2; for more use network"),
        ([-1, 1, 1, -1], [0], "y_test has the class 0, which y has not: -1, 1"),
        ([5, 5, 5, 5], [5], "y has 1: 5"),
        ([0, 1, np.nan, 0], [0], "y is nan at example 2"),
        ([0, 1, 1], [0], "x has 4 rows and y has 3"),
        ([0, 1, 1, 0], [0, 1], "x_test has 1 rows and y_test has 2"),
        ([[0], [1], [1], [0]], [0], r"y has shape \(4, 1\); it must be \[example\]"),
    ],
)
def test_other_classes_are_refused(y: Any, y_test: Any, text: str) -> None:
    x = np.random.default_rng(0).normal(size=(4, 2))
    with pytest.raises(ValueError, match=text):
        logistic(x, y, x[:1], y_test)


@pytest.mark.parametrize("gone", [None, float("nan"), "pandas"])
def test_a_missing_word_is_found_at_the_door(gone: Any) -> None:
    """The words beside it were said to be wrong, and a NaN in a list was a class called "nan"."""
    pd = pytest.importorskip("pandas")
    y = pd.Series(["ham", "spam", pd.NA if gone == "pandas" else gone, "ham"], dtype=object)
    with pytest.raises(ValueError, match="y is missing at example 2"):
        logistic(np.eye(4), y, np.eye(4), ["ham", "spam", "ham", "ham"])
    with pytest.raises(ValueError, match="y_test is missing at point 2"):
        logistic(np.eye(4), ["ham", "spam", "ham", "ham"], np.eye(4), list(y))
    with pytest.raises(ValueError, match="y is missing at example 1"):
        logistic(np.eye(3), ["ham", list(y)[2], "ham"], np.eye(3), ["ham"] * 3)


def test_one_class_of_zero_and_one_is_enough() -> None:
    x = np.random.default_rng(0).normal(size=(4, 2))
    for y_test in ([1], [0]):
        assert logistic(x, [1, 1, 1, 1], x[:1], y_test)(torch.ones(1, 4).double()).isfinite().all()


@pytest.mark.parametrize("learner", [ridge, logistic])
def test_shapes_never_broadcast(learner: Any) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)), np.arange(12) % 2
    for brought, text in [
        ((x, y[:, None], x[:5], y[:5]), r"y has shape \(12, 1\)"),
        ((x, y, x[:5], y[:5, None]), r"y_test has shape \(5, 1\); it must be \[point\]"),
        ((x, y, x[:5], y[:1]), "x_test has 5 rows and y_test has 1"),
        ((x, y[:5], x[:5], y[:5]), "x has 12 rows and y has 5"),
        ((x, y, x[:5, :2], y[:5]), "x has 3 features and x_test has 2"),
        ((x[:, 0], y, x[:5], y[:5]), r"x has shape \(12,\); it must be \[example feature\]"),
        ((x, y, x[:0], y[:0]), "x_test 0 points"),
    ]:
        with pytest.raises(ValueError, match=text):
            learner(*brought)
    with pytest.raises(ValueError, match=r"penalty is -1.0; it must be a number from 0 on"):
        learner(x, y, x[:5], y[:5], -1.0)
    for weight, text in [([1.0] * 3, "sample_weight has 3"), ([-1.0] + [1.0] * 11, "goes from -1")]:
        with pytest.raises(ValueError, match=text):
            learner(x, y, x[:5], y[:5], sample_weight=weight)


def test_a_kernel_is_a_kernel() -> None:
    k, y = np.eye(4) + 0.1, np.arange(4.0)
    for brought, text in [
        ((k[:, :3], y, k, y), r"kernel has shape \(4, 3\) and must be a symmetric table"),
        ((np.triu(np.ones((4, 4))), y, k, y), "symmetric table of all pairs"),
        ((k, y, k[:, :3], y), r"kernel_test has shape \(4, 3\); it must be \[point example\]"),
        ((k, y, k[:2], y), "x_test has 2 rows and y_test has 4"),
    ]:
        with pytest.raises(ValueError, match=text):
            kernel_ridge(*brought)
    with pytest.raises(ValueError, match=r"penalty is 0\.0; kernel ridge needs a positive one"):
        kernel_ridge(k, y, k, y, 0.0)


@pytest.mark.parametrize("kind", ["ridge", "kernel_ridge", "logistic", "network"])
def test_a_missing_number_is_found_at_the_door(kind: str) -> None:
    x, y = np.random.default_rng(0).normal(size=(12, 12)), np.arange(12) % 2
    x = (x + x.T) / 2
    first = (nn.Linear(12, 2),) if kind == "network" else ()
    name = "kernel" if kind == "kernel_ridge" else "x"
    wrong = x.copy()
    wrong[4, 1] = np.nan
    make = getattr(sm.TrainingGame, kind)
    with pytest.raises(ValueError, match=f"^{name} is nan at (example|row) 4"):
        make(*first, wrong, y, x[:3], y[:3], failed=-1.0)
    with pytest.raises(ValueError, match=f"{name}_test is inf"):
        make(*first, x, y, np.full((3, 12), np.inf), y[:3], failed=-1.0)


@pytest.mark.parametrize("container", ["sparse", "Float64", "object", "frame", "shifted", "torch"])
@pytest.mark.parametrize("kind", ["ridge", "logistic", "network"])
def test_examples_in_any_container(kind: str, container: str) -> None:
    pd = pytest.importorskip("pandas")
    sparse = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)).astype("f4"), np.arange(12) % 2
    torch.manual_seed(0)
    first = (nn.Linear(3, 2),) if kind == "network" else ()
    make = getattr(sm.TrainingGame, kind)
    index = range(50, 62)
    held_x, held_y = {
        "sparse": (sparse.csr_matrix(x), y.tolist()),
        "Float64": (pd.DataFrame(x).astype("Float64"), pd.Series(y, dtype="Int64")),
        "object": (pd.DataFrame(x).astype(object), y.astype(object)),
        "frame": (pd.DataFrame(x), pd.Series(y)),
        "shifted": (pd.DataFrame(x, index=index), pd.Series(y, index=index)),
        "torch": (torch.tensor(x, requires_grad=True), torch.tensor(y)),
    }[container]
    masks = torch.from_numpy(subsets(rng, 4)[:, :12])
    got = make(*first, held_x, held_y, x[:3], y[:3])(masks)
    torch.testing.assert_close(got, make(*first, x, y, x[:3], y[:3])(masks))


def test_classes_of_a_network() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 3)).astype("f4"), np.arange(12) % 3
    torch.manual_seed(0)
    module, one = nn.Linear(3, 3), torch.ones(1, 12)
    want = network(module, x, y, x[:3], y[:3])(one)
    # Whole numbers are classes, whatever their type: a column with a gap is of floats in pandas.
    torch.testing.assert_close(
        network(module, x, y.astype(float), x[:3], y[:3].astype(float))(one), want
    )
    assert (want < 0).all() and not torch.allclose(
        want, -((module(torch.from_numpy(x[:3]))[:, 0]) ** 2)
    )
    for classes, text in [
        (y + 0.5, r"y holds 0\.5; of a module with 3 outputs classes are the whole numbers 0 to 2"),
        (y + 1, r"y holds 3\.0; of a module with 3 outputs"),
        (y - 1, r"y holds -1\.0"),
    ]:
        with pytest.raises(ValueError, match=text):
            network(module, x, classes, x[:3], y[:3])
    single = nn.Linear(3, 1)
    with pytest.raises(ValueError, match="two classes, and the module has one output"):
        network(single, x, y % 2, x[:3], y[:3] % 2)
    assert network(single, x, y / 2, x[:3], y[:3] / 2)(one).shape == (1, 3)
    with pytest.raises(ValueError, match=r"gives shape \(1,\) for one example"):
        network(nn.Sequential(single, nn.Flatten(0)), x, y / 2, x[:3], y[:3] / 2)


def test_networks_with_sample_weights_are_those_trained_alone() -> None:
    rng = np.random.default_rng(0)
    x, y, base = rng.normal(size=(8, 3)), np.arange(8) % 2, rng.uniform(0.2, 3, size=8)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    masks = rng.random((6, 8)) < 0.6
    own = {"steps": 20, "learning_rate": 0.05}
    got = network(module, x, y, x[:3], y[:3], sample_weight=base, **own)(weights_of(masks))
    for mask, values in zip(masks, got, strict=True):
        alone = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        alone.load_state_dict(module.state_dict())
        steps = torch.optim.AdamW(alone.parameters(), lr=0.05, weight_decay=0.0)
        share = torch.from_numpy(base * mask / (base * mask).sum()).float()
        for _ in range(20):
            steps.zero_grad()
            losses = nn.functional.cross_entropy(
                alone(torch.from_numpy(x).float()), torch.from_numpy(y), reduction="none"
            )
            (losses * share).sum().backward()
            steps.step()
        with torch.no_grad():
            log_probs = alone(torch.from_numpy(x[:3]).float()).log_softmax(1)
        want = log_probs[range(3), y[:3]]
        torch.testing.assert_close(values, want, rtol=1e-4, atol=1e-5)


def test_slopes_of_a_converged_fit_are_exact_where_a_step_is_not() -> None:
    """At a small penalty the curvature changes much from step to step."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10, 3)) * 5
    y = (x[:, 0] + rng.normal(size=10) > 0) * 1
    game = sm.TrainingGame.logistic(x, y, x[:3], y[:3], 1e-3, intercept=False)
    gates = torch.rand(2, 10, generator=torch.Generator().manual_seed(0)).double() * 0.5 + 0.4
    slopes = game.gradient(gates)
    for unit in range(10):
        up, down = gates.clone(), gates.clone()
        up[:, unit] += 1e-5
        down[:, unit] -= 1e-5
        finite = (game.value_and_slopes(up)[0] - game.value_and_slopes(down)[0]).mean(1) / 2e-5
        torch.testing.assert_close(slopes[:, unit], finite, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("table", ["normal", "counts", "duplicates"])
@pytest.mark.parametrize("targets", ["classes", "numbers"])
def test_a_small_network_is_torchs_own_on_300_subsets(table: str, targets: str) -> None:
    """50 subsets each, refitted one by one by torch's AdamW on those rows alone."""
    rng = np.random.default_rng(8)
    x, numbers = TABLES[table](rng), rng.normal(size=N)
    y: Any = (numbers > 0).astype(int) if targets == "classes" else numbers
    y[:2] = 0, 1
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2 if y.dtype == int else 1))
    options = {"steps": 12, "learning_rate": 0.05, "decay": 0.1}
    game = sm.TrainingGame.network(module, x, y, x[:POINTS], y[:POINTS], **options)
    masks = subsets(rng)
    got = game(masks)

    def losses(model: nn.Module, rows: np.ndarray) -> Tensor:
        out = model(torch.from_numpy(x[rows]).float())
        if targets == "classes":
            return nn.functional.cross_entropy(out, torch.from_numpy(y[rows]), reduction="none")
        return (out[:, 0] - torch.from_numpy(y[rows]).float()) ** 2

    for mask, values in zip(masks, got, strict=True):
        alone = copy.deepcopy(module)
        steps = torch.optim.AdamW(alone.parameters(), lr=0.05, weight_decay=0.1)
        for _ in range(12):
            steps.zero_grad()
            losses(alone, np.flatnonzero(mask)).mean().backward()
            steps.step()
        want = -losses(alone, np.arange(POINTS)).double()
        torch.testing.assert_close(values, want, rtol=1e-4, atol=1e-5)
