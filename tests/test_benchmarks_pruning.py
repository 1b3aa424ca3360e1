"""The pruning benchmark's own logic, on games whose best subsets are known."""

import numpy as np
import pytest

from benchmarks.pruning import error_of
from benchmarks.subsets import (
    KnockOuts,
    best_subset,
    greedy_knock_out,
    in_order,
    knock_out,
    linear,
    of_size,
    top,
)


class Planted:
    """Units 3 and 7 back one another up (both gone: nothing is left); every other unit is worth a
    little by itself."""

    n_masks = 0

    def __len__(self) -> int:
        return 10

    def mean(self, masks: np.ndarray) -> np.ndarray:
        self.n_masks += len(masks)
        works = masks[:, 3] | masks[:, 7]
        others = np.delete(masks, [3, 7], axis=1).mean(axis=1)
        return works * (0.1 + 0.9 * others)

    def effects(self) -> tuple[np.ndarray, dict[tuple[int, int], float]]:
        """Of ablation, at the intact model."""
        units = [(u,) for u in range(10)]
        pairs = [(a, b) for a in range(10) for b in range(a)]
        masks = np.ones((len(units) + len(pairs) + 1, 10), dtype=bool)
        for mask, lost in zip(masks, [*units, *pairs], strict=False):
            mask[list(lost)] = False
        values = self.mean(masks)
        main = values[:10] - values[-1]
        joint = zip(pairs, values[10:-1] - values[-1], strict=True)
        return main, {(a, b): float(v - main[a] - main[b]) for (a, b), v in joint}


def test_knock_out_finds_a_backup_pair_that_greedy_does_not() -> None:
    game = Planted()
    sets = knock_out(game.mean, *game.effects(), budget=60)
    assert sets.smallest() == {3, 7}
    assert (~greedy_knock_out(game)).sum() > 2  # type: ignore[arg-type]


def test_knock_out_without_interactions_is_corrected_by_ablations() -> None:
    """The prediction is blind to the pair; sets that were run with one of the two are not."""
    game = Planted()
    main, _ = game.effects()
    sets = knock_out(game.mean, main, {}, budget=300)
    assert sets.smallest() == {3, 7}


def test_knock_out_keeps_to_its_budget() -> None:
    game = Planted()
    effects = game.effects()
    game.n_masks = 0
    sets = knock_out(game.mean, *effects, budget=13)
    assert game.n_masks == sets.spent == 13
    few = KnockOuts(game.mean, 10, budget=4)
    assert few.ask([frozenset({u}) for u in range(5)]) == [{0}, {1}] and few.spent == 4


def test_sets_are_run_once() -> None:
    game = Planted()
    sets = KnockOuts(game.mean, 10, 20)
    assert sets.ask([frozenset({3, 7}), frozenset({1})]) == [{3, 7}, {1}]
    spent = game.n_masks
    assert sets.ask([frozenset({3, 7})]) == [{3, 7}] and game.n_masks == spent
    assert sets.share[frozenset({3, 7})] == pytest.approx(0)


def test_rivals_are_right_where_the_game_is_linear() -> None:
    worth = np.array([0.2, 3.0, -1.0, 0.0, 2.0, 0.5, 1.0, -0.3])
    masks = of_size(8, 4, 120, np.random.default_rng(0))
    assert (masks.sum(axis=1) == 4).all()
    coefficients = linear(masks, masks @ worth, seed=0)
    best = np.zeros(8, dtype=bool)
    best[[1, 4, 5, 6]] = True
    assert (top(coefficients, 4) == best).all()
    found = best_subset(lambda m: m @ worth, 8, 4, np.random.default_rng(1), starts=1)
    assert (found == best).all()

    class Linear:
        def mean(self, masks: np.ndarray) -> np.ndarray:
            return masks @ np.array([5.0, 1.0, 3.0, 0.5])

    kept = in_order(Linear(), np.array([5.0, 1.0, 3.0, 0.5]))  # type: ignore[arg-type]
    # 5 + 3 of 9.5 leave 0.16; 5 + 3 + 1 leave 0.05.
    assert kept.tolist() == [False, False, False, True]


def test_the_error_is_the_larger_one_of_prompts_and_draws() -> None:
    pulls = [np.array([[0.1, -0.1, 0.1, -0.1]])] * 2
    alike = error_of([np.array([1.0]), np.array([1.0])], pulls)
    apart = error_of([np.array([1.0]), np.array([2.0])], pulls)
    assert alike[0] == pytest.approx(np.std(pulls[0], ddof=1) / 2 / np.sqrt(2))
    assert apart[0] == pytest.approx(0.5)
