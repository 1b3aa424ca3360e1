"""Circuits through the one driver: stores, kills, workers."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.circuits.gates import gate_attribution
from spex_mech.discover import CallableGame, as_game
from spex_mech.runs.contents import contents
from spex_mech.runs.errors import WorkerError
from tests.workers import Planted, SlopesEnd, hangs_at_some


class Counted:
    """A sum with interactions among 10 units over 5 prompts; counts what it is asked, and stops
    where it is told to."""

    masks_per_batch = 8

    def __init__(self, seed: int = 0, stops_after: int | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.labels = [f"L{u // 4}H{u % 4}" for u in range(10)]
        # Of some binary places, so that no sum is rounded, in whatever order a machine adds.
        binary = lambda x: torch.tensor(np.round(x * 2**16) / 2**16)  # noqa: E731
        self.w = binary(rng.normal(0.5, 1, (10, 1)) + rng.normal(0, 0.05, (10, 5)))
        self.pairs, self.seed = binary(np.random.default_rng(9).normal(size=(10, 10))), seed
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


class Sloped(Counted):
    """It has gradients too, and counts those."""

    def __init__(self, stops_after: int | None = None) -> None:
        super().__init__(0, stops_after)
        self.gradients = 0

    def gradient(self, gates: torch.Tensor) -> torch.Tensor:
        self.gradients += len(gates)
        pairs = self.pairs + self.pairs.T
        return self.w.mean(dim=1) + gates.double() @ pairs


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


def test_gradients_of_a_circuit_are_kept(tmp_path: Path) -> None:
    found = sm.discover(Counted(), progress=False)
    store = tmp_path / "run.sqlite"
    options: dict[str, Any] = {"budget": 200, "scores_budget": 32, "progress": False}
    alone = sm.find_circuit(Sloped(), found, **options)
    assert alone.cost["gradients"] == 8
    first, second = Sloped(stops_after=40), Sloped()
    with pytest.raises(KeyboardInterrupt):
        sm.find_circuit(first, found, store=store, **options)
    again = sm.find_circuit(second, found, store=store, **options)
    same(alone, again)
    assert first.gradients == 8 and second.gradients == 0
    # They are this search's own, though an earlier sitting paid for them.
    assert again.cost["gradients"] == 8 and again.cost["reused"] == 0
    third = Sloped()
    curve = sm.faithfulness_curve(third, found, store=store, budget=150, progress=False)
    assert third.gradients == 0 and curve.cost["gradients"] == 8
    without = sm.faithfulness_curve(Sloped(), found, budget=150, progress=False)
    np.testing.assert_array_equal(curve.values, without.values)
    assert curve.cost["reused"] == curve.cost["evaluations"] - (third.asked - 3) > 24
    assert "kept: slopes of the gates, 8 steps" in contents(store)


def test_kept_gradients_that_changed_on_the_disk_are_refused(tmp_path: Path) -> None:
    found, store = sm.discover(Counted(), progress=False), tmp_path / "run.sqlite"
    options: dict[str, Any] = {"budget": 200, "store": store, "progress": False}
    sm.find_circuit(Sloped(), found, **options)
    for at in (3, -12):  # whose they are, and a number
        with closing(sqlite3.connect(store)) as file, file:
            (data,) = file.execute("SELECT result FROM searches WHERE result NOT NULL").fetchone()
            wrong = bytearray(data)
            wrong[at] ^= 1
            change = "UPDATE searches SET result = ? WHERE result NOT NULL"
            file.execute(change, (bytes(wrong),))
        with pytest.raises(ValueError, match="a value does not fit its checksum"):
            sm.find_circuit(Sloped(), found, **options)
        with closing(sqlite3.connect(store)) as file, file:
            file.execute(change, (data,))
    sm.find_circuit(Sloped(), found, **options)


def test_gradients_that_are_no_numbers_are_refused() -> None:
    game = Sloped()
    game.w[3] = torch.nan
    with pytest.raises(ValueError, match="by the gate of L0H3 is not finite"):
        gate_attribution(as_game(game))


def test_what_opening_costs_is_told(tmp_path: Path) -> None:
    found = sm.discover(Counted(), progress=False)
    options: dict[str, Any] = {"scores_budget": 32}
    one, two = tmp_path / "one.db", tmp_path / "two.db"
    alone = sm.find_circuit(Counted(), found, store=one, progress=False, **options)
    assert alone.cost["checks"] == 3
    both = sm.find_circuit(
        Counted(), found, held_out=Counted(1), store=two, progress=False, **options
    )
    assert both.cost["checks"] == 6
    assert "checks" not in sm.find_circuit(Counted(), found, progress=False, **options).cost


VERBS: dict[str, Any] = {
    "measure": lambda game, found, **how: sm.measure(game, [("u3", "u5")], **how),
    "confirm": lambda game, found, **how: sm.confirm(found, game, 5, **how),
    "distill": lambda game, found, **how: sm.distill(game, 40, proxy=Reads(), **how),
    "find_circuit": lambda game, found, **how: sm.find_circuit(game, found, **how),
    "score_circuit": lambda game, found, **how: sm.score_circuit(game, ["u3", "u5"], **how),
    "faithfulness_curve": lambda game, found, **how: sm.faithfulness_curve(game, found, **how),
}


class Reads:
    """A proxy that only listens."""

    def fit(self, masks: Any, values: Any) -> None:
        self.mean = values.mean(axis=0)

    def predict(self, masks: Any) -> Any:
        return np.repeat(self.mean[None], len(masks), axis=0)

    def propose(self, n: int) -> Any:
        return np.zeros((0, 2), dtype=np.int64)


class Named(Counted):
    """Its units have the names of those of ``hangs_at_some``; it keeps the sizes of batches."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__(seed)
        self.labels, self.sizes = [f"u{unit}" for unit in range(10)], set[int]()

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        self.sizes.add(len(masks))
        return super().__call__(masks)


@pytest.fixture(scope="module")
def named() -> sm.Interactions:
    return sm.discover(Named(0), progress=False)


@pytest.mark.parametrize("verb", VERBS)
def test_the_size_of_batches_can_be_given(
    verb: str, named: sm.Interactions, tmp_path: Path
) -> None:
    usual, small, kept = Named(), Named(), Named()
    VERBS[verb](usual, named, progress=False)
    assert max(usual.sizes) > 3  # or a size of three would show nothing
    VERBS[verb](small, named, progress=False, masks_per_batch=3)
    assert max(small.sizes) == 3 and small.asked == usual.asked
    VERBS[verb](kept, named, progress=False, masks_per_batch=3, store=tmp_path / "run.db")
    assert max(kept.sizes) == 3
    # The same call goes on from the store, and asks nothing but what opening it asks.
    again = Named()
    VERBS[verb](again, named, progress=False, masks_per_batch=3, store=tmp_path / "run.db")
    assert again.asked == 3


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"timeout": 1.0}, "timeout= needs workers=1 or more"),
        ({"timeout": float("nan"), "workers": 1}, "timeout is nan s; it must be more than 0"),
        ({"masks_per_batch": 0}, "masks_per_batch is 0; it must be a whole number of at least 1"),
        ({"workers": 0}, "workers is 0; it must be a whole number of at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_every_verb(
    verb: str, named: sm.Interactions, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        VERBS[verb](Named(), named, progress=False, **options)


def test_a_size_of_numpy_is_a_number_in_a_store_too(tmp_path: Path) -> None:
    store = tmp_path / "run.db"
    script = (  # a process of its own, as tests check types
        "import sys, numpy as np, spex_mech as sm\n"
        "game = lambda masks: masks.double().sum(dim=1)\n"
        "sm.discover(game, n=4, store=sys.argv[1], masks_per_batch=np.int64(4), progress=False)"
    )
    subprocess.run([sys.executable, "-c", script, str(store)], check=True)
    with closing(sqlite3.connect(store)) as file:
        assert file.execute("SELECT masks_per_batch FROM searches").fetchone() == (4,)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_an_evaluation_that_hangs_is_named_by_every_verb(verb: str, named: sm.Interactions) -> None:
    with pytest.raises(TimeoutError, match=r"ablated an evaluation takes longer than timeout=0\.2"):
        VERBS[verb](hangs_at_some, named, progress=False, workers=1, timeout=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("game", "error", "told"),
    [
        (partial(SlopesEnd, False), TimeoutError, "gradients with .* take longer than timeout=0.2"),
        (
            partial(SlopesEnd, True),
            WorkerError,
            r"gradients with .* lose every worker \(exit code 7",
        ),
    ],
)
def test_gradients_that_hang_or_kill_are_named(
    game: Any, error: type[Exception], told: str, named: sm.Interactions
) -> None:
    with pytest.raises(error, match=told):
        sm.find_circuit(game, named, budget=200, progress=False, workers=1, timeout=0.2)


def test_another_game_is_refused_by_the_store(tmp_path: Path) -> None:
    found, store = sm.discover(Counted(), progress=False), tmp_path / "run.sqlite"
    sm.score_circuit(Counted(), ["a0.h1"], found, store=store, progress=False)
    with pytest.raises(ValueError, match="is the store of another game"):
        sm.score_circuit(Counted(1), ["a0.h1"], found, store=store, progress=False)


@pytest.mark.slow
def test_workers_give_the_same() -> None:
    found = sm.discover(Planted(), budget=150, progress=False)
    of_eight: dict[str, Any] = {
        "masks_per_batch": 8,
        "progress": False,
    }  # else the parts depend on the workers
    options: dict[str, Any] = {"budget": 200, "scores_budget": 32, **of_eight}
    alone = sm.find_circuit(Planted(), found, size=4, **options)
    same(alone, sm.find_circuit(Planted, found, size=4, workers=2, **options))
    curve = sm.faithfulness_curve(Planted, found, sizes=[3], workers=2, budget=100, **of_eight)
    one = sm.faithfulness_curve(Planted(), found, sizes=[3], budget=100, **of_eight)
    np.testing.assert_array_equal(curve.values, one.values)
    scored = sm.score_circuit(Planted, ["u1", "u2"], workers=1, progress=False)
    assert scored.units == ["u1", "u2"]


def test_workers_need_a_function_that_makes_the_game() -> None:
    game = CallableGame(lambda m: m[:, 0].double(), ["a", "b"])
    with pytest.raises(ValueError, match="workers make their own games: give a factory"):
        sm.find_circuit(game, sm.discover(game), workers=1)
