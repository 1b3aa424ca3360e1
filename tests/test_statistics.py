"""Standard errors, p-values and q-values against scipy's, and against what they promise."""

import numpy as np
import pytest
from scipy import stats

from spex_mech.results.statistics import p_values, q_values, standard_errors


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
