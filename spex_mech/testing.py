"""What every game and every search must keep, as checks that anyone can run on their own.

``check_game(game)`` and ``check_search(make_search, n)`` raise an ``AssertionError`` in words where
one does not. The tests of this package run them on all of its games and searches.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from spex_mech.driver import evaluate_batch
from spex_mech.game import as_game
from spex_mech.masks import MaskBatch
from spex_mech.search.contract import Question, Search

_MOST_QUESTIONS = 100_000


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
        assert again is not None and np.array_equal(again.ablated, question.ablated), (
            "ask() gave another question before the first was answered"
        )
        assert isinstance(question, Question) and len(question), "a question must hold masks"
        batch = question.batch(n)
        assert batch.ablated.max(initial=-1) < n, f"it asks for a unit beyond the {n}"
        if asked is not None:
            asked.append((question.gradient, tuple(batch.keys())))
        spent += question.cost
        kept = batch.kept()
        search.tell(value(kept), slopes(kept) if question.gradient else None)
    raise AssertionError(f"it asked more than {_MOST_QUESTIONS} questions without an end")
