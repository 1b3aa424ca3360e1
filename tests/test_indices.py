"""Every index is what it is called: all kinds and orders, against their definitions."""

from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.proxies import closed_forms
from spex_mech.proxies.gaussian_process import GaussianProcess
from spex_mech.proxies.table import CompleteTable
from spex_mech.setfunctions import KINDS, convert, derivative_means, of_table
from tests.test_fourier import by_definition, subsets
from tests.test_proxyspex import trees


def every_mask(n: int) -> np.ndarray:
    """All masks; the place of each is the number that it is in bits, the first unit the lowest."""
    return np.array([mask[::-1] for mask in product([False, True], repeat=n)])


def as_sets(values: np.ndarray, n: int) -> dict[tuple[int, ...], float]:
    return {
        tuple(np.flatnonzero(mask).tolist()): float(value)
        for mask, value in zip(every_mask(n), values, strict=True)
    }


def game_of(values: np.ndarray) -> Any:
    """A function whose values at all masks are given."""
    n = len(values).bit_length() - 1
    return lambda masks: torch.from_numpy(values)[masks.long() @ (2 ** torch.arange(n))]


@pytest.mark.parametrize("kind", KINDS)
def test_distilled_tables_are_exact(kind: str) -> None:
    """200 random functions, all orders up to 4, with the default proxy."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        n = int(rng.integers(5, 6))
        values = rng.standard_normal(2**n)
        small = sm.distill(game_of(values), 2**n, n=n, progress=False)
        assert small.exact and small.r2 == 1.0 and small.n_masks == 2**n
        f = as_sets(values, n)
        for order in (1, 4):
            frame = small.frame(10_000, order=order, kind=kind)
            found = dict(zip(frame.units, frame.estimate, strict=True))
            sets = [s for s in f if (len(s) == 1 if order == 1 else 2 <= len(s) <= 4)]
            assert found.keys() == {" x ".join(map(str, s)) for s in sets}
            for s in sets:
                want = by_definition(f, kind, s, n)
                assert found[" x ".join(map(str, s))] == pytest.approx(want, abs=1e-10)


@pytest.mark.parametrize("centre", [0.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_closed_forms_of_the_process_are_those_of_its_predictions(kind: str, centre: float) -> None:
    """200 random functions in all, of which it saw half: what it predicts, enumerated."""
    rng = np.random.default_rng(1)
    n = 6
    masks = every_mask(n)
    for _ in range(40 if centre else 2):
        seen = rng.permutation(2**n)[: 2 ** (n - 1)]
        if not centre:
            seen = np.argsort(masks.sum(axis=1))[-12:]
        proxy = GaussianProcess(steps=int(rng.integers(1, 4)))
        proxy.fit(masks[seen], rng.standard_normal((2**n, 2))[seen])
        if not centre and kind != "intact":
            with pytest.raises(ValueError, match=f"near the intact model, and kind='{kind}'"):
                proxy.indices(kind)
            continue
        found = proxy.indices(kind, order=4)
        exact = of_table(proxy.predict(masks).mean(axis=1), kind)
        assert len(found) == sum(len(s) <= 4 for s in subsets(tuple(range(n))))
        for s, value in found.items():
            assert value == pytest.approx(exact[sum(2**u for u in s)], abs=1e-9)


def test_the_process_learns_the_index_and_not_another() -> None:
    """An AND of four among eight units, from half of the masks: four numbers, not one."""
    small = sm.distill(lambda m: m[:, :4].all(dim=1).double(), 128, n=8, progress=False)
    assert not small.exact and isinstance(small.proxy, GaussianProcess)
    right = {"banzhaf": 1 / 4, "shapley": 1 / 3, "mobius": 0.0, "intact": 1.0, "fourier": 1 / 16}
    for kind, want in right.items():
        frame = small.frame(10_000, kind=kind)
        found = dict(zip(frame.units, frame.estimate, strict=True))
        assert found["0 x 1"] == pytest.approx(want, abs=0.02)
    singles = small.frame(10, order=1, kind="shapley")
    assert {*singles.units[:4]} == {"0", "1", "2", "3"}
    assert singles.estimate[:4].to_numpy() == pytest.approx(np.full(4, 1 / 4), abs=0.01)
    four = small.frame(1000, order=4, kind="mobius")
    assert four.units[0] == "0 x 1 x 2 x 3" and four.estimate[0] == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_trees_give_the_index_of_their_terms(kind: str) -> None:
    small = sm.distill(lambda m: m[:, :4].all(dim=1).double(), 200, trees(), n=8, progress=False)
    terms = small.proxy.fourier
    assert small.frame(10_000, order=3, kind=kind).shape[0] > 10
    exact = of_table(small.proxy.predict(every_mask(8)), kind)
    for s, value in convert(terms, "fourier", kind, 3).items():
        assert value == pytest.approx(exact[sum(2**u for u in s)], abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_a_table_is_its_definition(kind: str, n: int) -> None:
    values = np.random.default_rng(n).standard_normal(2**n)
    f = as_sets(values, n)
    found = as_sets(of_table(values, kind), n)
    for s in f:
        assert found[s] == pytest.approx(by_definition(f, kind, s, n), abs=1e-12)


def test_shapley_of_many_units_is_integrated_closely() -> None:
    """Of more than 126 units the nodes are fewer than the polynomial's degree asks for."""
    rng = np.random.default_rng(0)
    masks = rng.random((60, 300)) < 0.5
    proxy = GaussianProcess(steps=10)
    proxy.fit(masks, rng.standard_normal(60))
    proxy._fit.kernel.log_sizes[4] += 3  # products that bend more than what it learned
    posterior = proxy._posterior()
    sets = [(3, 8), (1, 200), (5, 7, 299)]
    few = posterior.values(sets, "shapley")
    nodes, weights = np.polynomial.legendre.leggauss(151)
    exact = sum(
        w / 2 * posterior._values(torch.tensor([sets[2]]), means_at((p + 1) / 2)).item()
        for p, w in zip(nodes, weights, strict=True)
    )
    assert few[2] == pytest.approx(exact, rel=1e-9)


def means_at(p: float) -> Any:
    found = derivative_means("banzhaf", 4)
    return type(found)(np.array([p]), found.weights, found.scale)


def test_larger_sets_are_grown_where_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((100, 10)) < 0.5
    proxy = GaussianProcess(steps=15)
    proxy.fit(masks, 5.0 * masks[:, [2, 5, 9]].all(axis=1) + masks @ rng.standard_normal(10))
    whole = proxy.indices("banzhaf", order=3, k=40)
    monkeypatch.setattr(closed_forms, "_MOST_SETS", 10)
    grown = proxy.indices("banzhaf", order=3, k=40)
    assert (2, 5, 9) in whole and grown[2, 5, 9] == pytest.approx(whole[2, 5, 9])
    assert {s for s in grown if len(s) == 2} == {s for s in whole if len(s) == 2}
    assert all(grown[s] == pytest.approx(whole[s]) for s in grown.keys() & whole.keys())


def test_orders_and_counts_that_cannot_be() -> None:
    small = sm.distill(lambda m: m.double().sum(1), 60, n=6, progress=False)
    for options in ({"order": 0}, {"order": -1}, {"k": 0}, {"k": True}):
        (name, value), *_ = options.items()
        with pytest.raises(
            ValueError, match=f"{name} is {value}(, a bool)?; it must be a whole number"
        ):
            small.frame(**options)
    assert len(small.frame(10_000, order=99)) == 2**6 - 1 - 6  # there are no larger sets


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_units_are_known_whole(n: int) -> None:
    both = lambda m: (m[:, 0] & m[:, 1]).double()  # noqa: E731
    small = sm.distill(both, 100, n=n, progress=False)
    assert small.n_masks == 2**n == small.cost["evaluations"]
    assert small.frame(1, kind="banzhaf").to_numpy().tolist() == [["0 x 1", 1.0]]
    masks = every_mask(n)
    np.testing.assert_allclose(small.predict(masks)[:, 0], masks[:, 0] & masks[:, 1])
    constant = sm.distill(lambda m: torch.full((len(m),), 3.0), 100, n=n, progress=False)
    assert constant.r2 is None and abs(constant.frame().estimate).max() == 0


def test_a_complete_table_is_explained_exactly() -> None:
    masks = np.repeat(every_mask(5), 2, axis=0)
    values = np.random.default_rng(0).standard_normal(32)
    found = sm.explain(masks, np.repeat(values, 2))
    f = as_sets(values, 5)
    assert found.exact and found.n_masks == 32
    frame = found.frame(10_000, order=3, kind="shapley")
    for units, estimate in frame.to_numpy():
        s = tuple(map(int, units.split(" x ")))
        assert estimate == pytest.approx(by_definition(f, "shapley", s, 5), abs=1e-10)
    # Copies of a mask that differ are no table: what they have in common is estimated.
    noisy = np.repeat(values, 2) + np.random.default_rng(1).standard_normal(64)
    assert not sm.explain(masks, noisy).exact


def test_a_table_of_a_function_that_varies_is_not_exact() -> None:
    """Each mask was asked once, so that noise was called exact, with an R² of 1."""
    rng = np.random.default_rng(0)

    def noisy(masks: torch.Tensor) -> np.ndarray:
        return masks[:, 0].numpy() + 0.3 * rng.normal(size=len(masks))

    with pytest.warns(UserWarning, match="the same mask gave values that differ"):
        small = sm.distill(noisy, 64, n=6, vectorized=True, progress=False)
    assert not small.exact and small.r2 is not None and small.r2 < 0.99
    assert small.cost["evaluations"] == 64 and small.cost["checks"] > 0
    by_rounding = sm.distill(
        lambda masks: masks[:, 0].numpy() + 1e-9 * rng.normal(size=len(masks)),
        64, n=6, vectorized=True, progress=False,
    )  # fmt: skip
    assert by_rounding.exact


def test_a_table_refuses_what_is_none() -> None:
    masks = every_mask(3)
    with pytest.raises(ValueError, match="7 masks of 3 units are no complete table"):
        CompleteTable().fit(masks[1:], np.zeros(7))
    with pytest.raises(ValueError, match=r"table is empty: call fit\(masks, values\) first"):
        CompleteTable().predict(masks)
    table = CompleteTable()
    table.fit(masks, masks.all(axis=1).astype(float))
    assert table.propose(10, order=3)[0] == ((0, 1), 1.0) and len(table.propose(10, order=3)) == 4
    assert table.uncertainty(masks).max() == 0


def test_copies_of_a_mask_are_never_on_both_sides() -> None:
    """Of pure noise nothing can be predicted; masks that come twice must not say otherwise."""
    rng = np.random.default_rng(0)
    for n, n_masks in ((8, 300), (7, 120)):
        masks = rng.random((n_masks, n)) < 0.5
        table = rng.standard_normal(2**n)
        found = sm.explain(masks, table[masks @ (2 ** np.arange(n))])
        assert found.r2 is not None and found.r2 < 0.3
    with pytest.warns(UserWarning, match=r"nothing parts the units 0\+not 1"):
        two = sm.explain(np.repeat([[1, 0], [0, 1]], 15, axis=0), np.arange(30) % 2)
    assert two.r2 is None


@pytest.mark.slow
def test_against_shapiqs_exact_computer() -> None:
    shapiq = pytest.importorskip("shapiq", reason="shapiq is not installed: nothing to compare to")
    model = sm.load_model("sentiment")
    task = sm.text_task(model, "The film was not good.", "negative")
    game = sm.TokenGame(model, task, tokenizer=sm.load_tokenizer(model))
    n = len(game)
    exact = shapiq.ExactComputer(game=lambda c: game.mean(np.asarray(c).astype(bool)), n_players=n)
    small = sm.distill(game, 2**n, progress=False)
    signs = {"intact": -1}
    names = {"banzhaf": "BII", "shapley": "SII", "mobius": "Moebius", "intact": "Co-Moebius"}
    for kind, name in names.items():
        right = exact(name, order=n)
        frame = small.frame(10_000, order=4, kind=kind)
        assert len(frame) == sum(len(s) in (2, 3, 4) for s in subsets(tuple(range(n))))
        found = dict(zip(frame.units, frame.estimate, strict=True))
        for size in (2, 3, 4):
            for s in combinations(range(n), size):
                value = found[" x ".join(small.labels[u] for u in s)]
                want = signs.get(kind, 1) ** size * float(right[s])
                assert value == pytest.approx(want, abs=1e-5)


def test_what_is_no_mask_is_not_explained() -> None:
    masks = np.random.default_rng(0).random((300, 6)) < 0.5
    values = (masks[:, 0] & masks[:, 1]) + 0.5 * masks[:, 2]
    for given in (2 * masks - 1, masks + 1, np.where(masks, 1.0, np.nan)):
        with pytest.raises(ValueError, match=r"masks hold .* they must be True and False, or 1"):
            sm.explain(given, values)
    with pytest.raises(TypeError, match=r"masks holds '(True|False)', a str"):
        sm.explain(np.where(masks, "True", "False"), values)
    found = sm.explain(masks.astype(int).tolist(), values)
    with pytest.raises(ValueError, match="masks hold -1"):
        found.predict(2 * masks - 1)
    with pytest.raises(ValueError, match=r"masks have shape \(300, 5\)"):
        found.predict(masks[:, :5])


def test_functions_of_arrays_of_one_mask_and_complex_values() -> None:
    for function in (lambda m: (m[:, 0] * m[:, 1]).astype(float), lambda m: float(m[0] and m[1])):
        assert sm.discover(function, n=5, progress=False).value("0", "1") == 1.0
    for function in (lambda m: m[:, 0] * 1j, lambda m: np.asarray(m[:, 0]) * 1j):
        with pytest.raises(ValueError, match="complex"):
            sm.discover(function, n=5, progress=False)


def test_the_process_by_its_own_name() -> None:
    both = lambda m: m[:, :2].all(dim=1).double()  # noqa: E731
    one, other = (sm.distill(both, 60, name, n=8, progress=False) for name in ("gp", "distilled"))
    assert isinstance(one.proxy, GaussianProcess)
    assert one.frame(3).equals(other.frame(3))
