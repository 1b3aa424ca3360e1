"""Conversions of set functions against their definitions, by full enumeration."""

from itertools import chain, combinations
from math import comb

import numpy as np
import pytest

from spex_mech.setfunctions import KINDS, Set, convert, parities


def subsets(units: Set) -> list[Set]:
    return list(chain.from_iterable(combinations(units, k) for k in range(len(units) + 1)))


def random_terms(n: int, n_terms: int, seed: int) -> dict[Set, float]:
    rng = np.random.default_rng(seed)
    sets = [tuple(np.flatnonzero(rng.random(n) < rng.uniform(0.1, 0.9)).tolist()) for _ in "x" * n]
    return {s: float(rng.standard_normal()) for s in [(), *sets[:n_terms]]}


def values_by_set(mobius: dict[Set, float], n: int) -> dict[Set, float]:
    """f at every set of kept units, from the definition of Möbius coefficients."""
    every = subsets(tuple(range(n)))
    return {s: sum(v for t, v in mobius.items() if {*t} <= {*s}) for s in every}


def derivative(f: dict[Set, float], at: set[int], of: Set) -> float:
    sign = (-1) ** len(of)
    return sum(sign * (-1) ** len(p) * f[tuple(sorted(at | {*p}))] for p in subsets(of))


def by_definition(f: dict[Set, float], kind: str, t: Set, n: int) -> float:
    everything, rest = set(range(n)), tuple(sorted({*range(n)} - {*t}))
    match kind:
        case "mobius":
            return derivative(f, set(), t)
        case "intact":
            terms = ((-1) ** (len(t) - len(a)) * f[tuple(sorted(everything - {*a}))]
                     for a in subsets(t))  # fmt: skip
            return sum(terms)
        case "fourier":
            return float(np.mean([v * (-1) ** len({*s} & {*t}) for s, v in f.items()]))
        case "banzhaf":
            return float(np.mean([derivative(f, {*s}, t) for s in subsets(rest)]))
        case _:  # "shapley"
            m = len(rest)
            return sum(derivative(f, {*s}, t) / ((m + 1) * comb(m, len(s))) for s in subsets(rest))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 4, 7])
def test_every_kind_is_its_definition(kind: str, n: int) -> None:
    mobius = random_terms(n, 5, seed=n)
    f = values_by_set(mobius, n)
    found = convert(mobius, "mobius", kind)
    for t in f:
        assert found.get(t, 0.0) == pytest.approx(by_definition(f, kind, t, n), abs=1e-11)


def test_twelve_units_by_enumeration() -> None:
    mobius = random_terms(12, 8, seed=3)
    f = values_by_set(mobius, 12)
    masks = np.array([[u in s for u in range(12)] for s in f])
    values = np.array(list(f.values()))
    fourier = convert(mobius, "mobius", "fourier")
    np.testing.assert_allclose(
        parities(masks, list(fourier)) @ np.array(list(fourier.values())), values, atol=1e-10
    )
    every = parities(masks, list(f)).T @ values / len(f)
    np.testing.assert_allclose([fourier.get(t, 0.0) for t in f], every, atol=1e-10)
    intact = convert(fourier, "fourier", "intact")
    for t in [(), (0,), (2, 5), (1, 4, 9), (0, 3, 7, 11)]:
        assert intact.get(t, 0.0) == pytest.approx(by_definition(f, "intact", t, 12), abs=1e-10)


@pytest.mark.parametrize("source", KINDS)
@pytest.mark.parametrize("target", KINDS)
def test_there_and_back(source: str, target: str) -> None:
    terms = random_terms(9, 6, seed=1)
    back = convert(convert(terms, source, target), target, source)
    for t in {*terms, *back}:
        assert back.get(t, 0.0) == pytest.approx(terms.get(t, 0.0), abs=1e-9)


def test_order_leaves_out_larger_sets_only() -> None:
    terms = random_terms(30, 6, seed=2)
    whole = convert({s[:8]: v for s, v in terms.items()}, "fourier", "intact")
    short = convert({s[:8]: v for s, v in terms.items()}, "fourier", "intact", order=2)
    assert short == {s: v for s, v in whole.items() if len(s) <= 2} != whole


def test_far_units_cost_nothing() -> None:
    assert convert({(7, 39_999): 1.0}, "fourier", "intact") == {
        (): 1.0, (7,): -2.0, (39_999,): -2.0, (7, 39_999): 4.0,
    }  # fmt: skip
    masks = np.zeros((2, 40_000), dtype=bool)
    masks[1, 39_999] = True
    np.testing.assert_array_equal(parities(masks, [(), (7, 39_999)]), [[1, 1], [1, -1]])


def test_errors_name_the_value_and_the_cure() -> None:
    with pytest.raises(ValueError, match=r"units of a set must ascend: \(2, 1\)"):
        convert({(2, 1): 1.0}, "mobius", "fourier")
    with pytest.raises(ValueError, match=r"must ascend: \(3, 3\)"):
        convert({(3, 3): 1.0}, "mobius", "fourier")
    with pytest.raises(
        ValueError, match="unknown kind 'walsh'; choose one of mobius, intact, fourier"
    ):
        convert({}, "mobius", "walsh")


@pytest.mark.parametrize(("kind", "index"), [("shapley", "SII"), ("banzhaf", "BII")])
def test_against_shapiq(kind: str, index: str) -> None:
    shapiq = pytest.importorskip("shapiq", reason="shapiq is not installed: nothing to compare to")
    n, mobius = 8, random_terms(8, 6, seed=5)
    f = values_by_set(mobius, n)

    def values(masks: np.ndarray) -> np.ndarray:
        return np.array([f[tuple(np.flatnonzero(mask).tolist())] for mask in masks])

    theirs = shapiq.ExactComputer(game=values, n_players=n)(index, order=n)
    ours = convert(mobius, "mobius", kind)
    for t in f:
        if t:
            assert ours.get(t, 0.0) == pytest.approx(float(theirs[t]), abs=1e-9)
