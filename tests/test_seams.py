"""What a user brings: a game, a search of their own."""

from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

import spex_mech as sm
from spex_mech.game import Answer, FunctionGame, as_game, no_tick
from spex_mech.masks import MaskBatch
from spex_mech.search.contract import Findings, Question
from spex_mech.units import Unit, Units


class Product(sm.Game):
    """The product of gates 0 and 1 minus half of gate 2; on a second prompt, twice that."""

    units = Units([Unit("a", "head", 0), Unit("b", "head", 1), Unit("c", "neuron", 1)])
    has_slopes = True

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Any = no_tick) -> Answer:
        answer = self.slopes_at(torch.from_numpy(masks.kept()))
        return answer if slopes else Answer(answer.values)

    def slopes_at(self, gates: Tensor) -> Answer:
        a, b, c = gates.double().T.numpy()
        value = a * b - c / 2
        slope = np.stack([b, a, np.full_like(c, -0.5)], axis=1)
        return Answer(np.stack([value, 2 * value], 1), np.stack([slope, 2 * slope], 1))


class FirstPairs(sm.Search):
    """The pairs of unit 0, in one question."""

    told: ClassVar[list[int]] = []  # masks of each answer; a copy of the search is driven

    def __init__(self, n: int) -> None:
        self.n, self.planned = n, 2 * n
        self.values: np.ndarray | None = None

    def ask(self) -> Question | None:
        if self.values is not None:
            return None
        singles = [(u,) for u in range(self.n)]
        pairs = [(0, u) for u in range(1, self.n)]
        masks = MaskBatch.of_sets([(), *singles, *pairs], self.n)
        return Question(masks, stage="first pairs")

    def tell(self, values: np.ndarray, gradients: np.ndarray | None = None) -> None:
        self.told.append(len(values))
        self.values = values

    def findings(self) -> Findings:
        assert self.values is not None
        intact, singles, pairs = (
            self.values[0],
            self.values[1 : self.n + 1],
            self.values[self.n + 1 :],
        )
        found = pairs - singles[0] - singles[1:] + intact
        units = np.array([(0, u) for u in range(1, self.n)])
        return Findings(units, found, singles - intact, intact, notes={"first": True})

    def chosen_from(self) -> dict[int, int]:
        return {2: 1000}


def test_a_game_of_ones_own_by_its_type() -> None:
    game = Product()
    found = sm.discover(game, method="exhaustive", progress=False)
    assert found.labels == ["a", "b", "c"] and found.unit_table == game.units
    assert found.value("a", "b") == 1.5 and found.value("a", "c") == 0
    masks = torch.tensor([[True, True, False], [False, True, True]])
    assert game(masks).tolist() == [[1, 2], [-0.5, -1]]
    assert game.mean(masks).tolist() == [1.5, -0.75]
    assert game.gradient(masks).tolist() == [[1.5, 1.5, -0.75], [1.5, 0, -0.75]]
    assert game.gradient(torch.full((1, 3), 0.5)).tolist() == [[0.75, 0.75, -0.75]]
    assert (
        game(masks.double()).tolist() == game(masks.long().numpy()).tolist() == [[1, 2], [-0.5, -1]]
    )
    with pytest.raises(
        ValueError, match=r"masks hold 0\.5 at mask 0, unit 0; they must be True and"
    ):
        game(masks / 2)


def test_slopes_of_a_game_that_has_none() -> None:
    game = FunctionGame(lambda masks: masks.all(dim=1), ["a", "b"])
    assert not game.has_slopes
    with pytest.raises(ValueError, match="FunctionGame has no slopes; give gradients=False"):
        game.gradient(torch.ones(1, 2))
    with pytest.raises(ValueError, match="has no gradient"):
        sm.discover(game, gradients=True, progress=False)


class Wrong(Product):
    """It answers what ``answer`` says."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Any = no_tick) -> Answer:
        return self.answer


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (Answer(np.ones((2, 1))), r"Wrong answered values of shape \[2, 1\] for 1 masks"),
        (Answer(np.full((1, 1), np.nan)), "the game's value is nan with nothing ablated"),
    ],
)
def test_an_answer_that_is_wrong_is_refused(answer: Answer, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sm.discover(Wrong(answer), method="exhaustive", progress=False)


def test_a_search_of_ones_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = rng.normal(size=(6, 6))

    def function(masks: Tensor) -> Tensor:
        lost = (~masks).double()
        value = torch.einsum("mi,ij,mj->m", lost, torch.from_numpy(sizes), lost)
        return value[:, None] * torch.tensor([1.0, 1.5, 0.25])

    game = as_game(function, 6)
    search = FirstPairs(6)
    FirstPairs.told.clear()
    found = sm.discover(game, method=search, progress=False)
    want = sm.discover(game, method="exhaustive", progress=False)
    assert found.value("0", "3") == pytest.approx(want.value("0", "3"))
    assert found.about["method"] == "FirstPairs" and found.about["first"]
    assert FirstPairs.told == [12] and search.values is None
    assert found.cost["evaluations"] == 20  # 8 are asked again
    # q-values count all that the search says it could choose from.
    alone = sm.measure(game, found.names, progress=False)
    assert found.n_choices == 1000 and alone.n_choices == 5
    assert (found.q_value > alone.q_value).all()
    with pytest.raises(ValueError, match="brings its own budget"):
        sm.discover(game, method=FirstPairs(6), budget=9, progress=False)

    store = tmp_path / "run.sqlite"
    kept = sm.discover(game, method=FirstPairs(6), store=store, progress=False)
    FirstPairs.told.clear()
    again = sm.discover(game, method=FirstPairs(6), store=store, progress=False)
    assert again.values.tolist() == kept.values.tolist()
    assert FirstPairs.told == [12]  # its code may have changed: it runs again, on kept values


def test_one_search_of_ones_own_is_used_for_two_games() -> None:
    """The second call once returned what the first game had said."""
    search = FirstPairs(6)
    for size in (1.0, -2.0):
        planted = lambda masks, size=size: size * (~masks[:, [0, 2]]).all(dim=1).double()  # noqa: E731
        found = sm.discover(planted, search, n=6, progress=False)
        assert found.value("0", "2") == size and found.cost["evaluations"] > 12


class Locked(FirstPairs):
    """Holds what no copy can be made of."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.lock = Lock()


def test_a_search_that_cannot_be_copied_is_used_itself_and_once() -> None:
    search = Locked(6)
    sm.discover(lambda masks: masks.double().sum(1), search, n=6, progress=False)
    assert search.values is not None
    with pytest.raises(ValueError, match=r"a Locked was used by an earlier call, .*lock"):
        sm.discover(lambda masks: masks.double().sum(1), search, n=6, progress=False)


SIZES = np.random.default_rng(0).normal(size=(6, 6))


class Counting(sm.Game):
    """Pairs of any size, on three prompts; it counts what it is asked."""

    units = Units.of_labels("abcdef")

    def __init__(self) -> None:
        self.asked = 0

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Any = no_tick) -> Answer:
        self.asked += len(masks)
        lost = (~masks.kept()).astype(float)
        values = np.einsum("mi,ij,mj->m", lost, SIZES, lost)
        return Answer(values[:, None] * np.array([1.0, 1.5, 0.25]))

    def identity(self) -> dict[str, Any]:
        return {"counting": 1}


def test_measure_confirm_and_distill_keep_their_evaluations(tmp_path: Path) -> None:
    store = tmp_path / "run.sqlite"
    game = Counting()
    found = sm.discover(game, method="exhaustive", store=store, progress=False)
    opening, again = 3, 8  # evaluations, at each call with a store; masks that are asked again
    assert game.asked == 22 + again + opening
    measured = sm.measure(game, [("a", "b"), ("c", "f")], store=store, progress=False)
    n_again = measured.about["asked_again"]["masks"]
    assert measured.cost["reused"] >= measured.cost["evaluations"] - n_again == 7
    asked = game.asked
    assert asked + measured.cost["reused"] == 30 + 2 * opening + measured.cost["evaluations"]
    sm.measure(game, [("a", "b"), ("c", "f")], store=store, progress=False)
    assert game.asked == asked + opening
    assert measured.value("c", "f") == found.value("c", "f")
    with pytest.warns(UserWarning, match="confirms nothing"):
        again = sm.confirm(found, game, k=3, store=store, progress=False)
    assert len(again) == 3
    assert game.asked <= asked + 2 * opening + again.about["asked_again"]["masks"]
    before = game.asked
    small = sm.distill(game, 40, store=store, progress=False)
    asked = game.asked
    assert before < asked - opening <= before + 40
    assert sm.distill(game, 40, store=store, progress=False).frame().equals(small.frame())
    assert game.asked == asked + opening


def test_measure_and_distill_on_workers() -> None:
    alone = sm.measure(Counting(), [("a", "b")], progress=False)
    there = sm.measure(Counting, [("a", "b")], workers=1, progress=False)
    assert there.values.tolist() == alone.values.tolist() and there.about["workers"] == 1
    small = sm.distill(Counting, 40, workers=1, progress=False)
    assert small.frame().equals(sm.distill(Counting(), 40, progress=False).frame())


def test_the_search_of_a_student_is_kept_beside_the_store(tmp_path: Path) -> None:
    store, student = tmp_path / "run.sqlite", Counting()
    options: dict[str, Any] = {"method": "proxyspex", "proxy": student, "progress": False}
    sm.discover(Counting(), store=store, **options)
    assert student.asked == 30 + 3 and len([*tmp_path.glob("run.sqlite.student-????????")]) == 1
    sm.discover(Counting(), store=store, **options, seed=1)
    assert student.asked == 30 + 2 * 3


class OnlyAtMasks:
    """An object with a gradient at any gates, and values at masks alone."""

    labels: ClassVar = ["a", "b", "c", "d"]

    def __len__(self) -> int:
        return 4

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        assert masks.dtype == torch.bool
        kept = masks.double()
        return kept[:, 0] * kept[:, 1] + kept[:, 2]

    def gradient(self, gates: torch.Tensor) -> torch.Tensor:
        g = gates.double()
        return torch.stack([g[:, 1], g[:, 0], torch.ones(len(g)), torch.zeros(len(g))], dim=1)


def test_an_object_with_slopes_at_gates_needs_no_values_there() -> None:
    game = as_game(OnlyAtMasks())
    gates = torch.tensor([[0.5, 0.25, 1.0, 0.0]])
    assert game.gradient(gates).tolist() == [[0.25, 0.5, 1.0, 0.0]]
    found = sm.discover(OnlyAtMasks(), progress=False)
    circuit = sm.find_circuit(OnlyAtMasks(), found, size=3, progress=False)
    assert set(circuit.units) == {"a", "b", "c"}


def test_a_question_of_rows_or_of_another_number_of_units_is_refused() -> None:
    with pytest.raises(TypeError, match="MaskBatch"):
        Question([[0, 1]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="asks for masks of 4 units; the game has 3"):
        sm.discover(lambda m: m.double().sum(1), FirstPairs(4), n=3, progress=False)
