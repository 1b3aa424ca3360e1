"""Workers: the result of any number of them, lost ones, errors, stores, Ray."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.driver import drive
from spex_mech.game import as_game
from spex_mech.masks import MaskBatch
from spex_mech.runs.errors import WorkerError
from spex_mech.runs.pools import ProcessPool
from spex_mech.runs.store import Run, opened
from spex_mech.runs.workers import RemoteGame, started
from spex_mech.search.random_masks import EvaluateOnly
from tests.workers import (
    Planted,
    SlowSlopes,
    busy,
    failing_game,
    one_at_a_time,
    pid,
    slopes_of,
    values_of,
)  # fmt: skip

OPTIONS: dict[str, Any] = {"budget": 150, "seed": 0, "progress": False}


def same(one: sm.Interactions, two: sm.Interactions) -> None:
    np.testing.assert_array_equal(one.units, two.units)
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.main_effects_by_prompt, two.main_effects_by_prompt)
    assert one.audit == two.audit and one.cost["evaluations"] == two.cost["evaluations"]


def near(one: sm.Interactions, two: sm.Interactions) -> None:
    """The same but for rounding, which depends on the masks that share a batch."""
    np.testing.assert_array_equal(one.units, two.units)
    np.testing.assert_allclose(one.values, two.values, atol=1e-7)
    assert one.cost["evaluations"] == two.cost["evaluations"]


def test_any_number_of_workers_gives_the_same(tmp_path: Path) -> None:
    of_eight = {**OPTIONS, "masks_per_batch": 8}
    alone = sm.discover(Planted(), **of_eight)
    for workers in (1, 3):
        found = sm.discover(Planted, workers=workers, **of_eight)
        same(alone, found)
        assert found.about["workers"] == workers
        assert found.noise_floor == alone.noise_floor > 0
    near(alone, sm.discover(Planted, workers=2, **OPTIONS))


class Parts(RemoteGame):
    """Notes the batches that are asked of workers."""

    def start(self, masks: MaskBatch, slopes: bool, tick: Any) -> Any:
        self.asked.append(len(masks))
        return super().start(masks, slopes, tick)


def test_each_worker_gets_its_part_of_a_question() -> None:
    for n_workers in (1, 4, 64):
        game = Parts(Ahead(n_workers))
        game.asked = []
        sm.discover(game, "exhaustive", masks_per_batch=None, progress=False)
        n_pairs = len(game) * (len(game) - 1) // 2
        part = min(game.masks_per_batch, -(-n_pairs // n_workers))
        assert max(game.asked) == part
        assert len([size for size in game.asked if size == part]) >= min(n_workers, 3)
    game = Parts(Ahead(4))
    game.asked = []
    sm.discover(game, "exhaustive", masks_per_batch=5, progress=False)
    assert max(game.asked) == 5


@pytest.mark.slow
def test_a_model_on_two_workers() -> None:
    factory = sm.GameFactory("demo", n_prompts=4)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = sm.discover(factory(), progress=False)
    finally:
        torch.set_num_threads(threads)
    found = sm.discover(factory, workers=2, progress=False)
    same(alone, found)
    assert found.noise_floor == alone.noise_floor > 0
    assert found.about["weights_sha256"] == alone.about["weights_sha256"]


def test_gradients_and_calls_of_a_remote_game() -> None:
    factory = sm.GameFactory("demo", units="heads+neurons", n_prompts=4)
    game = factory()
    masks = torch.rand(5, len(game), generator=torch.Generator().manual_seed(0)) > 0.2
    with started(factory, 1) as remote:
        torch.testing.assert_close(remote(masks), game(masks), rtol=1e-5, atol=1e-6)
        values, slopes = remote.value_and_slopes(masks)
        torch.testing.assert_close(slopes, game.value_and_slopes(masks)[1], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(remote.gradient(masks), slopes.mean(1))
        torch.testing.assert_close(values, remote(masks), rtol=1e-5, atol=1e-6)
        gates = torch.full((3, len(game)), 0.5)
        torch.testing.assert_close(
            remote.gradient(gates), game.gradient(gates), rtol=1e-4, atol=1e-6
        )
        assert (remote.gradient(gates)[0] - remote.gradient(gates > 0)[0]).abs().max() > 1e-3
        with pytest.raises(ValueError, match="masks hold gates"):
            remote(gates)


@pytest.mark.slow
def test_a_lost_worker_is_replaced_and_its_batch_asked_again(tmp_path: Path) -> None:
    alone = sm.discover(Planted(), **OPTIONS)
    dead = tmp_path / "dead"
    found = sm.discover(partial(Planted, dead), workers=2, **OPTIONS)
    assert dead.exists()
    near(alone, found)


def test_the_games_own_error_arrives() -> None:
    with pytest.raises(ValueError, match="two are too many"):
        sm.discover(failing_game, workers=2, progress=False)


@pytest.mark.slow
def test_workers_fill_a_store_and_go_on_from_it(tmp_path: Path) -> None:
    store = tmp_path / "run.sqlite"
    alone = sm.discover(Planted(), **OPTIONS)
    sm.discover(Planted(), store=store, budget=120, seed=0, progress=False)
    kept = sm.discover(Planted, workers=2, store=store, **OPTIONS)
    np.testing.assert_allclose(kept.values, alone.values, atol=1e-7)
    assert kept.cost["reused"] > 15
    fresh = sm.discover(Planted, workers=2, store=tmp_path / "new.sqlite", **OPTIONS)
    np.testing.assert_allclose(fresh.values, alone.values, atol=1e-7)  # of smaller batches
    near(fresh, sm.discover(Planted(), store=tmp_path / "one.sqlite", **OPTIONS))
    same(fresh, sm.discover(Planted(), store=tmp_path / "new.sqlite", **OPTIONS))


class Ahead:
    """A pool that notes how many batches are on their way."""

    def __init__(self, n_workers: int) -> None:
        self.n_workers, self.game = n_workers, as_game(Planted())
        self.labels: list[str] = []
        self.waiting, self.most = 0, 0

    def submit(self, function: Any, *arguments: Any) -> Any:
        self.waiting += 1
        self.most = max(self.most, self.waiting)

        class Done:
            def result(done) -> Any:
                self.waiting -= 1
                return function(self.game, *arguments)

        return Done()


def test_no_more_is_on_its_way_than_workers_want() -> None:
    pool = Ahead(2)
    found = sm.discover(RemoteGame(pool), method="exhaustive", progress=False)
    same(sm.discover(Planted(), method="exhaustive", progress=False), found)
    assert pool.most == 6 and pool.waiting == 0


def test_with_a_store_each_batch_is_looked_up_once_and_no_mask_is_asked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bytes] = []
    find = Run._find

    def noted(run: Run, gradient: bool, hash: int, key: bytes) -> Any:
        looked.append(key)
        return find(run, gradient, hash, key)

    monkeypatch.setattr(Run, "_find", noted)
    asked: list[int] = []
    call = Planted.__call__
    monkeypatch.setattr(
        Planted, "__call__", lambda game, masks: asked.append(len(masks)) or call(game, masks)
    )
    # Batches of 8 masks: the second and the third hold masks of the first, all on their way.
    masks = np.random.default_rng(0).random((24, 30)) < 0.7
    masks[[9, 17, 18]] = masks[[1, 2, 10]]
    values = []
    for name, game in {"ahead": RemoteGame(Ahead(2)), "alone": as_game(Planted())}.items():
        sample = EvaluateOnly(masks)
        with opened(tmp_path / f"{name}.sqlite", game, check=False) as store:
            drive(game, sample, False, store.search({"of": "test"}, game, 8))
        values.append(sample.values)
        assert asked == [8, 7, 6]
        n_looked = 24 + (3 if name == "ahead" else 0)  # and those of a batch on its way
        assert len(looked) == n_looked
        asked.clear()
        looked.clear()
    np.testing.assert_array_equal(*values)
    np.testing.assert_array_equal(values[0][[9, 17, 18]], values[0][[1, 2, 10]])


@pytest.mark.parametrize(
    ("game", "options", "text"),
    [
        (Planted(), {"workers": 2}, "give a factory, such as"),
        (Planted, {"workers": 0}, "workers is 0; it must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_is_said(game: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sm.discover(game, progress=False, **options)


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ImportError, match=r"needs Ray: pip install 'spex_mech\[cluster\]'"):
        sm.discover(Planted, address="auto", progress=False)


def test_a_pool_ends_its_processes() -> None:
    pool = ProcessPool(Planted, 2)
    number = pool.submit(pid).result()
    pool.close()
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_a_pool_ends_workers_that_compute_and_cancels_what_waits(tmp_path: Path) -> None:
    pool = ProcessPool(partial(busy, tmp_path), 1)
    masks = MaskBatch.of_sets([(0,)], 600)  # for ever
    computing, waiting = (pool.submit(values_of, masks) for _ in range(2))
    until = time.monotonic() + 60
    while not (pids := [int(path.name) for path in tmp_path.iterdir()]):
        assert time.monotonic() < until
        time.sleep(0.05)
    pool.close()
    assert waiting.cancelled() and len(pids) == 1
    with pytest.raises(WorkerError, match="the workers were ended"):
        computing.result(5)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_interrupts_are_not_for_workers() -> None:
    pool = ProcessPool(Planted, 1)
    try:
        number = pool.submit(pid).result()
        os.kill(number, signal.SIGINT)
        assert pool.submit(pid).result() == number
    finally:
        pool.close()


@pytest.mark.slow
def test_a_slope_may_take_as_long_as_three_evaluations() -> None:
    pool = ProcessPool(SlowSlopes, 1, timeout=0.3)
    try:
        pool.labels = list("abcdef")
        masks = MaskBatch.of_sets([(), (0,)], 6)
        assert pool.submit(slopes_of, masks, True).result() == 2  # 1 s of 1.8
    finally:
        pool.close()


def test_a_functions_own_timeout_is_an_error_of_its_own() -> None:
    """It takes one mask at a time, and says so by an error that a pool has too."""
    found = sm.discover(one_at_a_time, method="exhaustive", workers=1, progress=False)
    assert found.value("a", "b") == 1.0
    assert found.cost["checks"] == 3  # what finding that out took


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_workers_and_one_that_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    of_eight = {**OPTIONS, "masks_per_batch": 8}
    alone = sm.discover(Planted(), **of_eight)
    on_ray = {**of_eight, "workers": 2, "address": "local"}
    same(alone, sm.discover(Planted, **on_ray))
    dead = tmp_path / "dead"
    same(alone, sm.discover(partial(Planted, dead), **on_ray))
    assert dead.exists()
    with pytest.raises(ValueError, match="two are too many"):
        sm.discover(failing_game, workers=1, address="local", progress=False)
