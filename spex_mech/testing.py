"""What every game, search and proxy must keep, as checks that anyone can run on their own.

``check_game(game)``, ``check_search(make_search, n)`` and ``check_proxy(make_proxy, n=n)`` raise an
``AssertionError`` in words where one does not. The tests of this package run them on all of its
games, searches and proxies.
"""

import json
from collections.abc import Callable
from itertools import chain, combinations
from typing import Any

import numpy as np
import torch

from spex_mech.driver import evaluate_batch
from spex_mech.game import as_game
from spex_mech.masks import MaskBatch
from spex_mech.pairs.gradient_rows import GradientRows
from spex_mech.proxy import Proxy, as_proxy, name_of
from spex_mech.search.contract import Question, Search
from spex_mech.search.proxyspex import check_set, fit
from spex_mech.search.settings import DEFAULTS

_MOST_QUESTIONS = 100_000
_ALL_MASKS = 10  # units up to which a proxy is shown all masks, as a complete table needs
_SIGNED = 1e-3  # of the largest value: smaller interactions may have either sign


def check_game(game: Any, *, seed: int = 0, tolerance: float = 1e-4) -> None:
    """Try what ``Game`` demands, with some 20 evaluations.

    Args:
        game: what ``as_game`` takes, with at least two units.
        seed: of the masks.
        tolerance: how far values may differ, as a share of the largest, where only the batch in
            which a mask is asked differs.

    Raises:
        AssertionError: what the game does not keep.

    >>> from spex_mech.game import FunctionGame
    >>> check_game(FunctionGame(lambda masks: masks.sum(dim=1), ["a", "b", "c"]))
    """
    game = as_game(game)
    n = len(game)
    assert n >= 2, f"the game has {n} units; a check needs two"
    assert len(set(game.labels)) == n, "two units have one label"
    assert game.masks_per_batch >= 1, f"masks_per_batch is {game.masks_per_batch}"
    kept = np.random.default_rng(seed).random((6, n)) < 0.7
    kept[0] = True
    masks = MaskBatch.of_kept(kept)
    values = evaluate_batch(game, masks).values
    assert values.dtype == np.float64, f"values are {values.dtype}; they must be float64"
    close = tolerance * max(abs(values).max(), 1e-12)
    for name, rows in {"alone": [0], "in another order": [5, 3, 1, 0]}.items():
        again = evaluate_batch(game, masks.rows(rows)).values
        off = abs(again - values[rows]).max()
        assert off <= close, f"a mask asked {name} has values that differ by {off:.3g}"
    off = abs(game(torch.from_numpy(kept)).numpy() - values).max()
    assert off <= close, f"game(masks) and evaluate differ by {off:.3g}"
    assert isinstance(game.provenance(), dict), "provenance() must be a dict of plain values"
    if game.has_slopes:
        _check_slopes(game, masks, values, close)


def _check_slopes(game: Any, masks: MaskBatch, values: np.ndarray, close: float) -> None:
    answer = evaluate_batch(game, masks, slopes=True)
    off = abs(answer.values - values).max()
    assert off <= close, f"values asked with slopes differ by {off:.3g}"
    assert answer.slopes is not None
    gradient = game.gradient(torch.from_numpy(masks.kept())).numpy()
    off = abs(answer.slopes.mean(axis=1) - gradient).max()
    most = close + 1e-4 * abs(gradient).max()
    assert off <= most, f"the mean of slopes over blocks is not the gradient: {off:.3g} apart"


def check_search(make_search: Callable[[], Search], n: int, *, n_prompts: int = 3) -> None:
    """Run a search twice on a game of pairs, and once more with what it asked compared.

    Args:
        make_search: makes the search anew, for n units.
        n: how many units.
        n_prompts: of the game that it is run on.

    Raises:
        AssertionError: what the search does not keep.

    >>> from spex_mech.search.exhaustive import Exhaustive
    >>> check_search(lambda: Exhaustive(6), 6)
    """
    sizes = np.random.default_rng(0).normal(size=(n, n))
    scale = np.linspace(0.5, 1.5, n_prompts)

    def value(kept: np.ndarray) -> np.ndarray:
        lost = (~kept).astype(float)
        return (np.einsum("mi,ij,mj->m", lost, sizes, lost))[:, None] * scale

    def slopes(kept: np.ndarray) -> np.ndarray:
        lost = (~kept).astype(float)
        return (-lost @ (sizes + sizes.T))[:, None] * scale[None, :, None]

    first, second = (_asked(make_search(), n, value, slopes) for _ in range(2))
    assert first == second, "the same answers led to other questions: the search is not determined"
    search = make_search()
    spent = _told(search, n, value, slopes)
    found = search.findings()
    assert search.planned >= 0, f"planned is {search.planned}"
    assert not search.planned or spent <= search.planned, (
        f"it asked for {spent} evaluations and had planned {search.planned}"
    )
    assert found.intact_by_prompt.shape == (n_prompts,), "intact_by_prompt must be [prompt]"
    assert found.main_effects_by_prompt.shape == (n, n_prompts), (
        "main_effects_by_prompt must be [unit prompt]"
    )
    assert found.values.shape == (len(found.units), n_prompts), (
        "values must be [interaction prompt]"
    )
    for units, values in zip(found.units.tolist(), found.values, strict=True):
        own = [u for u in units if u >= 0]
        assert own == sorted(set(own)) and units[: len(own)] == own, (
            f"an interaction has the units {units}; they must ascend, padded with -1 on the right"
        )
        want = sizes[own[0], own[1]] + sizes[own[1], own[0]] if len(own) == 2 else 0.0
        off = abs(values - want * scale).max()
        assert off <= 1e-4 * max(1.0, abs(sizes).max()), (
            f"the interaction of {own} is off by {off:.3g}: it must be measured, not predicted"
        )
    for order, count in search.chosen_from().items():
        n_found = int(((found.units >= 0).sum(axis=1) == order).sum())
        assert count >= n_found, f"it chose {n_found} sets of {order} out of {count}"


def _asked(search: Search, n: int, value: Any, slopes: Any) -> list[tuple[Any, ...]]:
    asked: list[tuple[Any, ...]] = []
    _told(search, n, value, slopes, asked)
    return asked


def _told(
    search: Search, n: int, value: Any, slopes: Any, asked: list[tuple[Any, ...]] | None = None
) -> int:
    """Answer all questions: the evaluations that they cost."""
    spent = 0
    for _ in range(_MOST_QUESTIONS):
        question = search.ask()
        if question is None:
            return spent
        again = search.ask()
        assert again is not None and again.masks.keys() == question.masks.keys(), (
            "ask() gave another question before the first was answered"
        )
        assert isinstance(question, Question) and len(question), "a question must hold masks"
        batch = question.masks
        assert batch.n_units == n, f"it asks for masks of {batch.n_units} units, which are {n}"
        assert batch.ablated.max(initial=-1) < n, f"it asks for a unit beyond the {n}"
        if asked is not None:
            asked.append((question.gradient, tuple(batch.keys())))
        spent += question.cost
        kept = batch.kept()
        search.tell(value(kept), slopes(kept) if question.gradient else None)
    raise AssertionError(f"it asked more than {_MOST_QUESTIONS} questions without an end")


def check_proxy(make_proxy: Callable[[], Any], *, n: int = 6, n_prompts: int = 3) -> None:
    """Fit a proxy to the values of a game of pairs, twice, and hear what it says of them.

    How well it predicts is not checked: a proxy may be poor, and the result of a search says so.

    Args:
        make_proxy: makes the proxy anew, for n units: what ``as_proxy`` takes.
        n: how many units; from 11 on a proxy is not shown all masks.
        n_prompts: of the values.

    Raises:
        AssertionError: what the proxy does not keep.

    >>> from spex_mech.proxies.table import CompleteTable
    >>> check_proxy(CompleteTable)
    """
    assert n >= 3, f"n is {n}; a check needs three units"
    game = _Pairs(n, n_prompts)
    masks = game.masks()
    values, other = game.values(masks), game.values(masks)[:, ::-1] ** 2 + 1.0
    rows = game.rows()
    proxy, second, taught_before = (as_proxy(make_proxy()) for _ in range(3))
    assert isinstance(name_of(proxy), str), f"its name is {proxy.name!r}; it must be a text"
    _fitted(proxy, masks, values, rows)
    _fitted(second, masks, values, rows)
    _fitted(taught_before, masks, other, None)
    _fitted(taught_before, masks, values, rows)
    try:
        told = json.dumps([dict(proxy.about), dict(second.about)])
    except TypeError as error:
        raise AssertionError(f"about holds what is not plain, as JSON is: {error}") from error
    first_about, second_about = json.loads(told)
    assert first_about == second_about, "two that learned the same say other things in about"
    said = _said(proxy, masks, n_prompts)
    _compare(said, _said(second, masks, n_prompts), "two that learned the same say different")
    text = "one that had learned from other values before says different"
    _compare(said, _said(taught_before, masks, n_prompts), text)
    _compare(said, _said(proxy, masks, n_prompts), "asked again, it says different")
    order = np.random.default_rng(1).permutation(len(masks))
    shuffled = _predicted(proxy, masks[order], n_prompts)
    off = abs(shuffled - said["predictions"][order]).max()
    assert off <= 1e-6 * abs(values).max(), (
        f"masks in another order change predictions by {off:.3g}"
    )
    for most_units in (2, 3):
        _check_proposals(proxy, n, most_units, abs(values).max())
    if proxy.reads_slopes:
        _fitted(proxy, masks, values, None)  # a game may have none
        _said(proxy, masks, n_prompts)
    alike = as_proxy(make_proxy())
    _fitted(alike, masks, np.full_like(values, 2.0), None)
    _said(alike, masks, n_prompts)
    _check_proposals(alike, n, 2, 2.0)


class _Pairs:
    """A game whose every pair interacts, the first most."""

    def __init__(self, n: int, n_prompts: int) -> None:
        rng = np.random.default_rng(0)
        self.n, self.scale = n, np.linspace(0.5, 1.5, n_prompts)
        self.main, self.sizes = -rng.random(n), np.triu(rng.normal(size=(n, n)), 1) / n
        self.sizes[0, 1] = 3.0

    def masks(self) -> np.ndarray:
        """All of them; of many units the intact model, single ablations, and random ones."""
        if self.n <= _ALL_MASKS:
            return ~((np.arange(2**self.n)[:, None] >> np.arange(self.n)) & 1).astype(bool)
        rng = np.random.default_rng(0)
        shares = rng.random((100, 1))
        drawn = rng.random((100, self.n)) >= shares
        return np.concatenate(
            [np.ones((1, self.n), dtype=bool), ~np.eye(self.n, dtype=bool), drawn]
        )

    def values(self, kept: np.ndarray) -> np.ndarray:
        lost = (~kept).astype(float)
        value = lost @ self.main + np.einsum("mi,ij,mj->m", lost, self.sizes, lost)
        return value[:, None] * self.scale

    def rows(self) -> GradientRows:
        """The slopes at the intact model and at every single ablation."""
        both = self.sizes + self.sizes.T
        intact = -self.main[None] * self.scale[:, None]
        rows = GradientRows(intact, block_weight=DEFAULTS.block_weight)
        for unit in range(self.n):
            rows.add(unit, intact - both[unit] * self.scale[:, None])
        return rows


def _fitted(proxy: Proxy, masks: np.ndarray, values: np.ndarray, rows: GradientRows | None) -> None:
    own_masks, own_values = masks.copy(), values.copy()
    fit(proxy, own_masks, own_values, rows if proxy.reads_slopes else None)
    same = np.array_equal(own_masks, masks) and np.array_equal(own_values, values)
    assert same, "fit changed the masks or values that it was given"


def _predicted(proxy: Proxy, masks: np.ndarray, n_prompts: int) -> np.ndarray:
    own = masks.copy()
    found = np.asarray(proxy.predict(own), dtype=np.float64)
    assert np.array_equal(own, masks), "predict changed the masks that it was given"
    assert found.shape in ((len(masks),), (len(masks), n_prompts)), (
        f"predictions have the shape {list(found.shape)} for {len(masks)} masks and {n_prompts} "
        "prompts; they must be [mask prompt], or [mask] for the mean over prompts"
    )
    assert np.isfinite(found).all(), "a prediction is not finite"
    return found


def _said(proxy: Proxy, masks: np.ndarray, n_prompts: int) -> dict[str, np.ndarray]:
    """What it predicts, how unsure it is, and what it proposes."""
    unsure = np.asarray(proxy.uncertainty(masks), dtype=np.float64)
    assert unsure.shape == (len(masks),), (
        f"uncertainty has the shape {list(unsure.shape)}; it must be [mask]"
    )
    assert np.isfinite(unsure).all(), "an uncertainty is not finite"
    proposed = proxy.propose(10, 3)
    sets = np.array([[*s, *[-1] * (3 - len(s))] for s, _ in proposed]).reshape(-1, 3)
    return {
        "predictions": _predicted(proxy, masks, n_prompts),
        "uncertainty": unsure,
        "proposals": np.c_[sets, [v for _, v in proposed]],
    }


def _compare(first: dict[str, np.ndarray], second: dict[str, np.ndarray], text: str) -> None:
    for name, a in first.items():
        b = second[name]
        same = a.shape == b.shape and np.allclose(a, b, rtol=1e-6, atol=1e-9)
        assert same, f"{text} {name}: it is not determined by what it learned from"


def _check_proposals(proxy: Proxy, n: int, order: int, largest: float) -> None:
    """Of their form; and the first must have the sign that the proxy's own predictions say."""
    proposed = proxy.propose(5, order)
    assert len(proposed) <= 5, f"asked for 5 interactions, it proposed {len(proposed)}"
    try:
        sets = [check_set(units, n) for units, _ in proposed]
    except ValueError as error:
        raise AssertionError(str(error)) from error
    assert len(set(sets)) == len(sets), "it proposed one interaction twice"
    assert all(len(s) <= order for s in sets), f"it proposed more than {order} units: {sets}"
    sizes = np.array([value for _, value in proposed], dtype=np.float64)
    assert np.isfinite(sizes).all(), "a proposed size is not finite"
    assert (np.diff(abs(sizes)) <= 0).all(), f"the strongest must come first; the sizes are {sizes}"
    if not sets:
        return
    parts = list(chain.from_iterable(combinations(sets[0], k) for k in range(len(sets[0]) + 1)))
    masks = MaskBatch.of_sets(parts, n).kept()
    signs = np.array([(-1.0) ** (len(sets[0]) - len(part)) for part in parts])
    predicted = np.asarray(proxy.predict(masks), dtype=np.float64).reshape(len(masks), -1)
    alternating = float(signs @ predicted.mean(axis=1))
    clear = min(abs(alternating), abs(sizes[0])) > _SIGNED * largest
    assert not clear or alternating * sizes[0] > 0, (
        f"it proposes {sets[0]} with the size {sizes[0]:.3g}, and its predictions at the intact "
        f"model say {alternating:.3g}: the signed size is the alternating sum over what is ablated"
    )
