"""The public checks, on this package's games and searches, and on some that are wrong."""

from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.game import Answer, Game, no_tick
from spex_mech.masks import MaskBatch
from spex_mech.search.adaptive import Adaptive
from spex_mech.search.contract import Findings
from spex_mech.search.exhaustive import Exhaustive
from spex_mech.search.spex import Spex
from spex_mech.testing import check_game, check_search
from spex_mech.units import Units


def test_games_of_this_package() -> None:
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, n_prompts=3)
    check_game(sm.ModelGame(model, task))
    check_game(sm.ModelGame(model, task, replay=False))
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    check_game(sm.TrainingGame.ridge(x, x[:, 0], x[:4], x[:4, 1]))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Exhaustive(12, order=3),
        lambda: Exhaustive(30, budget=200, seed=1),
        lambda: Adaptive(Spex(), 40, budget=300),
        lambda: Adaptive(Spex(gradients=True), 40, budget=300),
        lambda: Adaptive(Spex(gradients=True), 40, order=3, budget=300),
    ],
)
def test_searches_of_this_package(make: Any) -> None:
    check_search(make, make().n)


class ByPlace(Game):
    """It gives what a mask's place in its batch is worth."""

    units = Units.of_labels("abc")

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Any = no_tick) -> Answer:
        return Answer(np.arange(len(masks), dtype=np.float64)[:, None])


def test_a_game_that_depends_on_its_batch() -> None:
    with pytest.raises(AssertionError, match="in another order has values that differ by"):
        check_game(ByPlace())


class Random(Exhaustive):
    def __init__(self) -> None:
        super().__init__(30, budget=200, seed=int(np.random.default_rng().integers(1 << 30)))


class Guesses(Exhaustive):
    def findings(self) -> Findings:
        found = super().findings()
        return Findings(
            found.units, 1.1 * found.values, found.main_effects_by_prompt, found.intact_by_prompt
        )


def test_searches_that_are_wrong() -> None:
    with pytest.raises(AssertionError, match="the search is not determined"):
        check_search(Random, 30)
    with pytest.raises(AssertionError, match="it must be measured, not predicted"):
        check_search(lambda: Guesses(8), 8)
