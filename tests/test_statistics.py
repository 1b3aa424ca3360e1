"""Standard errors, p-values and q-values against scipy's, and against what they promise."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

import spex_mech as sm
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
    if n_prompts < 8:  # signs alone could not make it smaller
        want = np.maximum(want, 2.0 ** (1 - n_prompts))
    np.testing.assert_allclose(p_values(values), want, rtol=1e-9)


def test_a_constant_row_is_no_proof() -> None:
    """All of one sign has the probability 2^(1 - n), and may be chance."""
    values = np.array([[0.0, 0, 0], [2, 2, 2], [-0.5, -0.5, -0.5]])
    np.testing.assert_allclose(p_values(values), [1, 0.25, 0.25])
    many = np.ones((1, 20))
    np.testing.assert_allclose(p_values(many), 2.0**-19)


def test_discrete_values_get_exact_sign_tests() -> None:
    """Ten of one sign, two of the other, and prompts on which nothing happens."""
    row = np.array([[1.0] * 10 + [-1.0] * 2 + [0.0] * 8])
    assert p_values(row)[0] == pytest.approx(stats.binomtest(2, 12).pvalue)
    assert p_values(row)[0] > stats.ttest_1samp(row[0], 0).pvalue
    continuous = row + np.linspace(0.01, 0.2, 20)
    assert p_values(continuous)[0] == pytest.approx(stats.ttest_1samp(continuous[0], 0).pvalue)


@pytest.mark.parametrize("n_prompts", [4, 8, 16, 64])
def test_nothing_is_called_where_values_of_accuracy_are_chance(n_prompts: int) -> None:
    """Values -1, 0, 1 of no effect, 435 pairs: a call at 0.05 in at most one run of twenty."""
    rng = np.random.default_rng(n_prompts)
    wrong = 0
    for _ in range(100):
        values = rng.choice([-1.0, 0, 1], (435, n_prompts), p=[0.3, 0.4, 0.3])
        wrong += bool((q_values(p_values(values)) <= 0.05).any())
    assert wrong <= 5 + 2 * 2.2


def test_errors_by_cluster_are_those_of_a_sandwich() -> None:
    """Against the sum over pairs of prompts of a cluster, and plain errors for clusters of one."""
    rng = np.random.default_rng(4)
    values, clusters = rng.standard_normal((3, 10)), np.array([0, 0, 0, 1, 1, 2, 3, 3, 3, 3])
    centred = values - values.mean(1, keepdims=True)
    same = clusters[:, None] == clusters
    want = np.sqrt(4 / 3 * np.einsum("ri,rj,ij->r", centred, centred, same)) / 10
    np.testing.assert_allclose(standard_errors(values, clusters), want)
    alone = standard_errors(values, np.arange(10))
    np.testing.assert_allclose(alone, standard_errors(values))
    assert np.isnan(standard_errors(values, np.zeros(10, dtype=int))).all()
    low, high = intervals(values, 0.9, clusters=clusters)
    np.testing.assert_allclose((high - low) / 2, stats.t.ppf(0.95, 3) * want)


def test_clustered_prompts_are_no_more_prompts_than_clusters() -> None:
    """32 prompts in clusters of 4 that correlate by 0.3 (by templates, say), nothing real: a call
    in nearly every run, unless the clusters are known."""
    rng = np.random.default_rng(6)
    clusters = np.repeat(np.arange(8), 4)
    wrong = {"unknown": 0, "known": 0}
    for _ in range(100):
        shared = np.repeat(rng.standard_normal((435, 8)), 4, axis=1)
        values = np.sqrt(0.3) * shared + np.sqrt(0.7) * rng.standard_normal((435, 32))
        for name, of in (("unknown", None), ("known", clusters)):
            wrong[name] += bool((q_values(p_values(values, of)) <= 0.05).any())
    assert wrong["unknown"] > 60 and wrong["known"] <= 5 + 2 * 2.2


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


# -- what a result says of its prompts ------------------------------------------------------------


def pairs_of(values: np.ndarray, n: int, about: dict[str, Any] | None = None) -> sm.Interactions:
    """A result of all pairs of n units; main effects are normal."""
    rng = np.random.default_rng(9)
    units = np.stack(np.triu_indices(n, 1), axis=1)
    n_prompts = values.shape[1]
    mains = rng.standard_normal((n, n_prompts)) - 2
    labels = [str(unit) for unit in range(n)]
    intact = rng.standard_normal(n_prompts)
    return sm.Interactions(
        labels, units, values.astype(np.float32), mains, intact, about=about or {}
    )


def twice(found: sm.Interactions) -> sm.Interactions:
    both = lambda x: np.concatenate([x, x], axis=-1)  # noqa: E731
    return sm.Interactions(
        found.labels,
        found.units,
        both(found.values),
        both(found.main_effects_by_prompt),
        both(found.intact_by_prompt),
    )


def test_prompts_that_come_twice_count_once() -> None:
    once = pairs_of(np.random.default_rng(7).standard_normal((105, 12)), 15)
    doubled = twice(once)
    assert once.clusters is None and once.cautions == []
    np.testing.assert_allclose(doubled.stderr, once.stderr, rtol=1e-5)
    np.testing.assert_allclose(doubled.q_value, once.q_value, rtol=1e-4)
    assert doubled.cautions == ["12 of 24 prompts repeat others; errors and q count them as one"]
    assert doubled.cautions[0] in repr(doubled)
    np.testing.assert_allclose(doubled.top(5).intervals(), once.top(5).intervals(), rtol=1e-4)


def test_clusters_that_a_game_states_are_used() -> None:
    values = np.random.default_rng(8).standard_normal((105, 32))
    plain = pairs_of(values, 15)
    clustered = pairs_of(values, 15, {"clusters": np.repeat(np.arange(8), 4).tolist()})
    want = standard_errors(values.astype(np.float32), np.repeat(np.arange(8), 4))
    np.testing.assert_allclose(clustered.stderr, want)
    assert (clustered.stderr != plain.stderr).all()
    assert "errors and q are those of 8 clusters of 32 prompts" in clustered.cautions
    with pytest.raises(ValueError, match="3 clusters for 32 prompts"):
        _ = pairs_of(values, 15, {"clusters": [0, 1, 2]}).clusters


def test_few_discrete_and_skewed_prompts_are_warned_of() -> None:
    rng = np.random.default_rng(10)
    few = pairs_of(rng.standard_normal((105, 4)), 15)
    assert few.cautions[0].startswith("4 prompts are few: no p can be under 0.12")
    discrete = pairs_of(rng.choice([-1.0, 0, 1], (105, 32)), 15)
    assert "exact sign tests" in discrete.cautions[0]
    for n_prompts in (8, 64):
        skewed = pairs_of(rng.exponential(size=(105, n_prompts)) - 1, 15)
        assert "skewed" in skewed.cautions[0] and "confirm()" in skewed.cautions[0]
        assert pairs_of(rng.standard_normal((105, n_prompts)), 15).cautions == []


@pytest.mark.parametrize(("sign", "less"), [(1.0, False), (-1.0, True)])
def test_readings_are_tested_for_both_signs(sign: float, less: bool) -> None:
    """f11 = 1, f10 = f01 = 0, f00 = 1.5: each unit hurts on the average over the other."""
    f = lambda a, b: a * b + 1.5 * (1 - a) * (1 - b)  # noqa: E731
    about = {"less_is_better": less}

    def of(function: Any) -> str:
        keep = [(1, 1), (0, 1), (1, 0), (0, 0)]
        intact, no_a, no_b, none = (sign * function(*k) for k in keep)
        value = none - no_a - no_b + intact
        mains = np.array([[no_a - intact], [no_b - intact]])
        return sm.Interactions(
            ["a", "b"], np.array([[0, 1]]), np.array([[value]]), mains, np.array([intact]),
            about=about,
        ).readings[0]  # fmt: skip

    assert of(f) == "mixed"
    assert of(lambda a, b: a * b) == "AND-like"
    assert of(lambda a, b: max(a, b)) == "OR-like"
    assert of(lambda a, b: 1.0 * (a == b)) == "mixed"  # XNOR
    assert of(lambda a, b: 1.0 * (a != b)) == "mixed"


def test_the_chance_that_a_reading_is_wrong_is_shown() -> None:
    """Main effects of nearly nothing: other prompts may turn their sign."""
    rng = np.random.default_rng(11)
    units, n = np.array([[0, 1], [2, 3]]), 64
    noise = rng.standard_normal((4, n))
    noise -= noise.mean(1, keepdims=True)
    mains = np.array([[-0.1], [-3.0], [-3.0], [-3.0]]) + noise
    values = 3 + 0.1 * rng.standard_normal((2, n))
    values[0] -= 2.95
    found = sm.Interactions([*"abcd"], units, values.astype(np.float32), mains, np.ones(n))
    assert found.readings == ["AND-like", "AND-like"]
    assert 0.1 < found.doubts[0] < 0.6 and found.doubts[1] < 1e-6
    assert "AND-like (wrong in up to 0." in repr(found)
    assert repr(found).count("wrong in up to") == 1
