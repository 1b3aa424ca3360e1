"""Circuits through the one driver: stores, kills, workers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.discover import CallableGame
from tests.workers import Planted


class Counted:
    """A sum with interactions among 10 units over 5 prompts; counts what it is asked, and stops
    where it is told to."""

    masks_per_batch = 8

    def __init__(self, seed: int = 0, stops_after: int | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.labels = [f"L{u // 4}H{u % 4}" for u in range(10)]
        self.w = torch.tensor(rng.normal(0.5, 1, (10, 1)) + rng.normal(0, 0.05, (10, 5)))
        self.pairs, self.seed = torch.tensor(np.random.default_rng(9).normal(size=(10, 10))), seed
        self.asked, self.stops_after = 0, stops_after

    def __len__(self) -> int:
        return 10

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        self.asked += len(masks)
        if self.stops_after is not None and self.asked > self.stops_after:
            raise KeyboardInterrupt
        m = masks.double()
        return m @ self.w + torch.einsum("mi,ij,mj->m", m, self.pairs, m)[:, None]

    def identity(self) -> dict[str, Any]:
        return {"counted": self.seed}


def same(one: sm.Circuit, two: sm.Circuit) -> None:
    assert one.units == two.units and one.groups == two.groups
    assert repr(one.links) == repr(two.links)
    for name in ("faithfulness", "completeness", "minimality", "stability"):
        assert repr(getattr(one, name)) == repr(getattr(two, name))
    np.testing.assert_array_equal(one.importance, two.importance)
    assert one.cost["evaluations"] == two.cost["evaluations"]


@pytest.mark.parametrize("stops_after", [5, 120, 251])
def test_a_killed_search_goes_on_where_it_was(tmp_path: Path, stops_after: int) -> None:
    found = sm.discover(Counted(), progress=False)
    alone_game, held_out = Counted(), Counted(1)
    options: dict[str, Any] = {"progress": False, "scores_budget": 64}
    alone = sm.find_circuit(alone_game, found, held_out=held_out, **options)
    store = tmp_path / "run.sqlite"
    first, second, fresh = Counted(stops_after=stops_after), Counted(), Counted(1)
    with pytest.raises(KeyboardInterrupt):
        sm.find_circuit(first, found, held_out=fresh, store=store, **options)
    again = sm.find_circuit(second, found, held_out=fresh, store=store, **options)
    same(alone, again)
    # Whole batches that were answered before the stop were kept.
    assert second.asked <= alone_game.asked - (stops_after - 3 - 8) + 3
    assert (tmp_path / "run.held_out.sqlite").exists()
    third = Counted()
    same(alone, sm.find_circuit(third, found, held_out=fresh, store=store, **options))
    # Each opening asks three masks again.
    assert third.asked == 3 and fresh.asked == held_out.asked + 2 * 3
    # A curve and a given circuit use what is there.
    curve = sm.faithfulness_curve(third, found, store=store, progress=False)
    asked = third.asked
    assert curve.cost["reused"] == curve.cost["evaluations"] - (asked - 6) > 100
    sm.score_circuit(third, alone.units, found, store=store, progress=False, scores_budget=64)
    assert third.asked - asked < 64


def test_another_game_is_refused_by_the_store(tmp_path: Path) -> None:
    found, store = sm.discover(Counted(), progress=False), tmp_path / "run.sqlite"
    sm.score_circuit(Counted(), ["a0.h1"], found, store=store, progress=False)
    with pytest.raises(ValueError, match="is the store of another game"):
        sm.score_circuit(Counted(1), ["a0.h1"], found, store=store, progress=False)


def test_workers_give_the_same() -> None:
    found = sm.discover(Planted(), budget=150, progress=False)
    options: dict[str, Any] = {"budget": 200, "scores_budget": 32, "progress": False}
    alone = sm.find_circuit(Planted(), found, size=4, **options)
    same(alone, sm.find_circuit(Planted, found, size=4, workers=2, **options))
    curve = sm.faithfulness_curve(Planted, found, sizes=[3], workers=2, budget=100, progress=False)
    one = sm.faithfulness_curve(Planted(), found, sizes=[3], budget=100, progress=False)
    np.testing.assert_array_equal(curve.values, one.values)
    scored = sm.score_circuit(Planted, ["u1", "u2"], workers=1, progress=False)
    assert scored.units == ["u1", "u2"]


def test_workers_need_a_function_that_makes_the_game() -> None:
    game = CallableGame(lambda m: m[:, 0].double(), ["a", "b"])
    with pytest.raises(ValueError, match="workers make their own games: give a factory"):
        sm.find_circuit(game, sm.discover(game), workers=1)
