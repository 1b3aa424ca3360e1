"""Standard errors, p-values and q-values against scipy's, and against what they promise."""

import numpy as np
import pytest
from scipy import stats

from spex_mech.results.statistics import intervals, p_values, q_values, standard_errors


def some_values(n_rows: int = 50, n_prompts: int = 12, dtype: str = "float64") -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((n_rows, n_prompts)) + rng.standard_normal((n_rows, 1))).astype(
        dtype
    )


@pytest.mark.parametrize("n_prompts", [2, 12])
def test_standard_errors(n_prompts: int) -> None:
    values = some_values(n_prompts=n_prompts)
    np.testing.assert_allclose(standard_errors(values), stats.sem(values, axis=1), rtol=1e-13)


def test_standard_errors_of_float32_are_computed_in_float64() -> None:
    values = (1000 + some_values(dtype="float32") * 1e-2).astype(np.float32)
    want = stats.sem(values.astype(np.float64), axis=1)
    np.testing.assert_allclose(standard_errors(values), want, rtol=1e-12)


@pytest.mark.parametrize("n_prompts", [2, 3, 12, 500])
def test_p_values_are_the_t_tests(n_prompts: int) -> None:
    values = some_values(n_prompts=n_prompts)
    want = stats.ttest_1samp(values, 0, axis=1).pvalue
    np.testing.assert_allclose(p_values(values), want, rtol=1e-9)


def test_p_values_of_constant_rows() -> None:
    values = np.array([[0.0, 0, 0], [2, 2, 2], [-0.5, -0.5, -0.5]])
    np.testing.assert_array_equal(p_values(values), [1, 0, 0])


def test_one_prompt_has_no_error() -> None:
    values = some_values(n_prompts=1)
    assert np.isnan(standard_errors(values)).all()
    assert np.isnan(p_values(values)).all()
    assert np.isnan(q_values(p_values(values))).all()


@pytest.mark.parametrize("n_rows", [1, 2, 1000])
def test_q_values_are_benjamini_and_hochbergs(n_rows: int) -> None:
    p = np.random.default_rng(1).random(n_rows) ** 3
    np.testing.assert_allclose(q_values(p), stats.false_discovery_control(p), rtol=1e-12)


def test_q_values_of_ties_and_extremes() -> None:
    p = np.array([0.02, 0.02, 1, 0, 0.5, 1, 0.02])
    np.testing.assert_allclose(q_values(p), stats.false_discovery_control(p), rtol=1e-12)
    assert q_values(np.empty(0)).shape == (0,)


def test_false_discoveries_are_as_rare_as_promised() -> None:
    """2,000 interactions, a tenth of them real, 16 prompts, 40 times over. Benjamini and Hochberg's
    expected rate is 0.05 times the share of the true nulls: 0.045."""
    rng = np.random.default_rng(2)
    real = np.zeros((2000, 1))
    real[:200] = 1.5
    rates, found = [], []
    for _ in range(40):
        called = q_values(p_values(rng.standard_normal((2000, 16)) + real)) <= 0.05
        rates.append(called[200:].sum() / max(called.sum(), 1))
        found.append(called[:200].mean())
    # The mean of 40 runs has a standard error of about 0.0025.
    assert abs(np.mean(rates) - 0.045) < 0.0075
    assert np.mean(found) > 0.9


@pytest.mark.parametrize("n_prompts", [2, 12])
def test_intervals_are_the_t_tests(n_prompts: int) -> None:
    values = some_values(n_prompts=n_prompts)
    want = stats.ttest_1samp(values, 0, axis=1).confidence_interval(0.9)
    np.testing.assert_allclose(intervals(values), want, rtol=1e-9)
    chosen = stats.ttest_1samp(values, 0, axis=1).confidence_interval(1 - 0.2 * 50 / 400)
    np.testing.assert_allclose(intervals(values, 0.8, selected_of=400), chosen, rtol=1e-9)


def test_intervals_refuse() -> None:
    assert np.isnan(intervals(some_values(n_prompts=1))).all()
    with pytest.raises(ValueError, match="level is 90"):
        intervals(some_values(), 90.0)
    with pytest.raises(ValueError, match="50 rows cannot be selected of 49"):
        intervals(some_values(), selected_of=49)
    with pytest.raises(ValueError, match="3 rows cannot be selected of 2"):
        q_values(np.full(3, 0.5), selected_of=2)


def test_intervals_of_few_prompts_and_of_the_strongest_hold_the_truth() -> None:
    """500 means of spread 0.3, 6 prompts of spread 1, 100 times: intervals of all hold 90 %; of the
    10 that look strongest far fewer, and at least 90 % where the choice is counted."""
    rng = np.random.default_rng(5)
    held: dict[str, list[float]] = {"all": [], "strongest": [], "counted": []}
    for _ in range(100):
        truth = 0.3 * rng.standard_normal(500)
        values = truth[:, None] + rng.standard_normal((500, 6))
        top = np.argsort(-abs(values.mean(1)))[:10]
        for name, rows, of in (
            ("all", np.arange(500), None),
            ("strongest", top, None),
            ("counted", top, 500),
        ):
            low, high = intervals(values[rows], 0.9, of)
            held[name].append(float(((low <= truth[rows]) & (truth[rows] <= high)).mean()))
    shares = {name: np.mean(each) for name, each in held.items()}
    assert abs(shares["all"] - 0.9) < 0.006  # 50,000 intervals: standard error 0.0013
    assert shares["strongest"] < 0.5 and shares["counted"] >= 0.9


def test_q_values_of_what_was_selected_count_the_rest() -> None:
    p = np.array([0.001, 0.2, 0.01])
    padded = q_values(np.concatenate([p, np.ones(97)]))[:3]
    np.testing.assert_allclose(q_values(p, selected_of=100), padded, rtol=1e-12)
    np.testing.assert_array_equal(q_values(p, selected_of=3), q_values(p))


def test_false_discoveries_among_the_selected() -> None:
    """Nothing is real, and the 50 largest of 1,000 are looked at: something is called in nearly
    every run, unless the choice is counted."""
    rng = np.random.default_rng(3)
    called = {None: 0, 1000: 0}
    for _ in range(200):
        values = rng.standard_normal((1000, 8))
        chosen = values[np.argsort(-abs(values.mean(1)))[:50]]
        for of in called:
            called[of] += bool((q_values(p_values(chosen), of) <= 0.1).any())
    assert called[None] > 150
    assert called[1000] <= 0.1 * 200 + 2 * 4.3  # a rate of 0.1 has a standard error of 4.3 runs
