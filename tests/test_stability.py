"""Bootstrap over prompts and the comparison of two results: known cases, exactly."""

from dataclasses import replace

import numpy as np
import pytest

import spex_mech as sm


def result(values: dict[tuple[str, str], list[float]], labels: str = "abcd") -> sm.Interactions:
    table = np.array(list(values.values()), dtype=np.float32)
    units = np.array([[labels.index(u) for u in pair] for pair in values])
    n_prompts = table.shape[1]
    return sm.Interactions(
        [*labels], units, table, -np.ones((len(labels), n_prompts)), np.ones(n_prompts)
    )


STEADY = {
    ("a", "b"): [5.0, 5, 5, 5],
    ("a", "c"): [4.0, 4, 4, 4],
    ("b", "c"): [1.0, 1, 1, 1],
}


def test_what_every_prompt_says_is_stable() -> None:
    stable = sm.stability(result(STEADY), k=2, n_boot=50)
    assert stable.kept.tolist() == [1, 1] and (stable.jaccard == 1).all()
    assert stable.frame()["units"].tolist() == ["a x b", "a x c"]
    assert "Jaccard 1.00" in repr(stable)


def test_what_one_prompt_of_four_says_is_not() -> None:
    """Without that prompt the pair is 0; a redraw misses it with probability (3/4)^4 = 0.316."""
    shaky = {**STEADY, ("c", "d"): [40.0, 0, 0, 0]}
    stable = sm.stability(result(shaky), k=1, n_boot=4000, seed=1)
    assert stable.top.units.tolist() == [[2, 3]]
    assert stable.kept[0] == pytest.approx(1 - 0.75**4, abs=0.03)
    assert stable.jaccard.mean() == pytest.approx(stable.kept[0])  # of one: shared or not


def test_the_seed_decides() -> None:
    noisy = {pair: [3.0, -3, 1, i] for i, pair in enumerate(STEADY)}
    one, same, other = (sm.stability(result(noisy), 1, 100, seed).jaccard for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_compare_by_label() -> None:
    again = {("b", "a"): [-1.0, -3], ("c", "b"): [1.0, 1], ("a", "c"): [0.0, 1], ("c", "d"): [9, 9]}
    both = sm.compare(result(STEADY), result(again, "badc"), k=2)
    assert both.labels == [("a", "b"), ("a", "c"), ("b", "c")]
    np.testing.assert_allclose(both.a, [5, 4, 1])
    np.testing.assert_allclose(both.b, [-2, 0.5, 1])
    assert both.rank_correlation == pytest.approx(-1)
    # Tops: {ab, ac} and {cd, ab}.
    assert both.jaccard == pytest.approx(1 / 3) and (both.n_a, both.n_b) == (3, 4)
    table = both.frame()
    assert table["units"].tolist() == ["a x b", "a x c", "b x c"]
    assert table["difference"].tolist() == [-7, -3.5, 0]
    assert table["z"][0] == pytest.approx(-7)  # errors 0 and 1
    assert "3 interactions measured in both (of 3 and 4)" in repr(both)


def test_a_result_is_like_itself() -> None:
    same = sm.compare(result(STEADY), result(STEADY))
    assert same.jaccard == 1 and same.rank_correlation == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"k": 0}, "k is 0"), ({"n_boot": 1}, "n_boot is 1")],
)
def test_no_bootstrap_of_nothing(options: dict[str, int], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        sm.stability(result(STEADY), **options)


def test_one_prompt_cannot_be_redrawn() -> None:
    with pytest.raises(ValueError, match="at least 2 prompts; this result has 1"):
        sm.stability(result({("a", "b"): [1.0]}))


def test_results_without_a_common_unit() -> None:
    with pytest.raises(ValueError, match="share no unit"):
        sm.compare(result(STEADY), result({("w", "x"): [1.0]}, "wxyz"))
    with pytest.raises(ValueError, match="k is 0"):
        sm.compare(result(STEADY), result(STEADY), k=0)


def test_the_first_rows_of_a_comparison_do_not_pretend() -> None:
    """Two samples of one population: of the ten rows shown first, q calls hardly any; and a pair
    that differs comes first."""
    called = first = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        labels = "abcdefghijklmnopqrst"
        pairs = [(a, b) for i, a in enumerate(labels) for b in labels[i + 1 :]]
        one, two = ({p: rng.standard_normal(32) for p in pairs} for _ in "ab")
        table = sm.compare(result(one, labels), result(two, labels)).frame()
        called += bool((table["q_value"][:10] <= 0.05).any())
        two[("c", "k")] = two[("c", "k")] + 3
        table = sm.compare(result(one, labels), result(two, labels)).frame()
        first += table["units"][0] == "c x k" and table["q_value"][0] <= 0.05
    assert called <= 1 + 2 * 1.0 and first == 20


def test_prompts_that_come_twice_are_redrawn_together() -> None:
    rng = np.random.default_rng(3)
    pairs = [(a, b) for i, a in enumerate("abcdefgh") for b in "abcdefgh"[i + 1 :]]
    once = {p: rng.standard_normal(10) for p in pairs}
    doubled = {p: np.repeat(v, 2) for p, v in once.items()}
    a, b = (sm.stability(result(x, "abcdefgh"), 5, 400, 0) for x in (once, doubled))
    assert abs(a.jaccard.mean() - b.jaccard.mean()) < 0.05


def test_two_metrics_are_not_compared_in_silence() -> None:
    """Of log_prob and loss, which is minus it, every difference was called significant."""
    nats, loss = (replace(result(STEADY), about={"metric": name}) for name in ("log_prob", "loss"))
    with pytest.warns(UserWarning, match="measure 'log_prob' and 'loss': where"):
        sm.compare(nats, loss)
    sm.compare(nats, nats)


def test_a_difference_under_the_noise_floor_is_none() -> None:
    first = replace(result(STEADY), noise_floor=0.01)
    by = np.array([[1e-3], [0.5], [0.015]])
    moved = replace(first, values=first.values.astype(np.float64) + by)
    compared = sm.compare(first, moved)
    assert (compared.q_value <= 0.05).all() and compared.differs.tolist() == [False, True, False]
    assert compared.frame().units.tolist()[0] == "a x c" and "1 differ" in repr(compared)


def test_the_floor_of_a_difference_of_triples_is_that_of_a_triple() -> None:
    """An alternating sum over three units has eight values, and so twice the rounding."""
    floor, by = 0.01, np.array([[0.015, 0.02], [0.03, 0.04], [0.03, 0.04], [0.05, 0.06]])
    units = np.array([[0, 1, -1], [0, 2, -1], [0, 1, 2], [1, 2, 3]])
    values = np.array([[5.0, 5, 5, 5], [4, 4, 4, 4], [3, 3, 3, 3], [2, 2, 2, 2]])
    first = sm.Interactions([*"abcd"], units, values, -np.ones((4, 4)), np.ones(4), floor)
    moved = replace(first, values=values + np.tile(by, 2))
    compared = sm.compare(first, moved)
    assert (compared.q_value <= 0.05).all()
    # The floor of two results is 0.02 for a pair and 0.04 for a triple.
    assert compared.differs.tolist() == [False, True, False, True]


def test_what_shapiq_read_is_not_compared_with_what_was_measured_in_silence() -> None:
    measured = result(STEADY)
    shapley = replace(measured, about={"method": "shapiq", "index": "SII"})
    with pytest.warns(UserWarning, match="interactions at the intact model and shapiq's SII"):
        compared = sm.compare(measured, shapley)
    assert compared.two_metrics
    sm.compare(shapley, shapley)
    sm.compare(measured, replace(measured, about={"method": "shapiq", "index": "Co-Moebius"}))
