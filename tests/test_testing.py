"""The public checks, on this package's games and searches, and on some that are wrong."""

from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.game import Answer, FunctionGame, Game, no_tick
from spex_mech.masks import MaskBatch
from spex_mech.proxies.gaussian_process import GaussianProcess
from spex_mech.proxies.student import Student
from spex_mech.proxies.table import CompleteTable
from spex_mech.search.adaptive import Adaptive
from spex_mech.search.contract import Findings
from spex_mech.search.exhaustive import Exhaustive
from spex_mech.search.spex import Spex
from spex_mech.testing import check_game, check_proxy, check_search
from spex_mech.units import Units
from tests.test_proxyspex import Quadratic, trees


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


def student(n: int) -> Student:
    game = FunctionGame(
        lambda masks: (~masks[:, :2]).all(dim=1).double(), [str(u) for u in range(n)]
    )
    return Student(game, [((0, 1), 1.0)], {"evaluations": 4})


def process() -> GaussianProcess:
    return GaussianProcess(steps=5)


@pytest.mark.parametrize("n", [5, 12])
@pytest.mark.parametrize(
    "make", [process, CompleteTable, trees, student, Quadratic],
    ids=["distilled", "table", "trees", "student", "stranger"],
)  # fmt: skip
def test_proxies_of_this_package_and_a_strangers(make: Any, n: int) -> None:
    if make is CompleteTable and n > 10:
        pytest.skip("a complete table needs all masks, which are shown of few units only")
    check_proxy((lambda: student(n)) if make is student else make, n=n)


class Mutated(Quadratic):
    """A stranger's proxy that breaks one rule."""

    broken = ""

    def fit(self, masks: np.ndarray, values: np.ndarray) -> None:
        before = getattr(self, "weights", 0.0)
        super().fit(masks, values)
        match self.broken:
            case "keeps what it learned before":
                self.weights = self.weights + 0.1 * before
            case "changes what it is given":
                values *= 2
            case "random":
                self.weights = self.weights * np.random.default_rng().normal()
            case "not plain":
                self.about = {"learned": self.weights}
            case "other words":
                self.about = {"seconds": float(np.random.default_rng().random())}

    def predict(self, masks: np.ndarray) -> np.ndarray:
        found = super().predict(masks)
        match self.broken:
            case "changes what it is asked":
                masks[0] = False
            case "shape":
                return found[:, None]
            case "nan":
                return np.full_like(found, np.nan)
            case "by place":
                return found + np.arange(len(found))
            case "counts":
                self.calls = getattr(self, "calls", 0) + 1
                return found + self.calls
        return found

    def propose(self, k: int, order: int = 2) -> Any:
        found = super().propose(k, order)
        match self.broken:
            case "more":
                return super().propose(k + 1, order)
            case "order":
                return [((0, 1, 2), 1.0)]
            case "twice":
                return [found[0], found[0]]
            case "descending":
                return [(s[::-1], v) for s, v in found]
            case "weakest first":
                return found[::-1]
            case "infinite":
                return [((0, 1), np.inf)]
            case "sign":
                return [(s, -v) for s, v in found]
        return found

    def uncertainty(self, masks: np.ndarray) -> np.ndarray:
        unsure = super().uncertainty(masks)
        match self.broken:
            case "uncertain shape":
                return unsure[:, None]
            case "uncertain nan":
                return unsure * np.nan
        return unsure


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        ("keeps what it learned before", "had learned from other values before"),
        ("changes what it is given", "fit changed the masks or values"),
        ("changes what it is asked", "predict changed the masks"),
        ("random", "two that learned the same say different"),
        ("other words", "two that learned the same say other things"),
        ("shape", r"predictions have the shape \[\d+, 1\]"),
        ("nan", "a prediction is not finite"),
        ("by place", "masks in another order change predictions"),
        ("counts", "asked again, it says different"),
        ("more", "asked for 5 interactions, it proposed 6"),
        ("order", "it proposed more than 2 units"),
        ("twice", "it proposed one interaction twice"),
        ("descending", "in ascending order, 0 to 5"),
        ("weakest first", "the strongest must come first"),
        ("infinite", "a proposed size is not finite"),
        ("sign", "the signed size is the alternating sum"),
        ("uncertain shape", r"uncertainty has the shape \[\d+, 1\]"),
        ("uncertain nan", "an uncertainty is not finite"),
    ],
)
def test_proxies_that_are_wrong(broken: str, text: str) -> None:
    def make() -> Mutated:
        proxy = Mutated()
        proxy.broken = broken
        return proxy

    with pytest.raises(AssertionError, match=text):
        check_proxy(make)


def test_a_proxy_whose_words_are_not_plain() -> None:
    def make() -> Mutated:
        proxy = Mutated()
        proxy.broken = "not plain"
        return proxy

    with pytest.raises(AssertionError, match="about holds what is not plain"):
        check_proxy(make)
