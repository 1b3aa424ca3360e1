"""How much is lost when a run is killed: batches grow until one takes some seconds."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import spex_mech as sm
from spex_mech.runs import batches
from spex_mech.runs.batches import SECONDS, Sizes, Timed

POSIX = pytest.mark.skipif(os.name != "posix", reason="forks and kills")


class Slow:
    """Each mask takes so long; in the last bits of a value is what shared its batch."""

    def __init__(self, seconds: float = 0.0, dies_after: int | None = None, n: int = 40) -> None:
        self.seconds, self.dies_after = seconds, dies_after
        self.labels = tuple(str(i) for i in range(n))
        self.sizes: list[int] = []

    def __len__(self) -> int:
        return len(self.labels)

    def identity(self) -> dict[str, Any]:
        return {"slow": 1}

    def __call__(self, masks: Tensor) -> Tensor:
        self.sizes.append(len(masks))
        if self.dies_after is not None and sum(self.sizes) > self.dies_after:
            raise KeyboardInterrupt
        time.sleep(self.seconds * len(masks))
        exact = (masks[:, 0] & masks[:, 1]).double() + masks.double() @ torch.arange(
            len(self), dtype=torch.float64
        )
        return exact + 1e-9 * len(masks)


def run(game: Any, store: Path | None, **options: Any) -> sm.Interactions:
    return sm.discover(game, "exhaustive", 400, store=store, progress=False, **options)


def logged(store: Path) -> list[int]:
    with closing(sqlite3.connect(store)) as file:
        return [n for (n,) in file.execute("SELECT masks FROM batches ORDER BY search, number")]


@POSIX
@pytest.mark.slow
def test_a_slow_function_gets_on_however_often_it_is_preempted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "slow.db"
    monkeypatch.setattr(batches, "SECONDS", 0.2)
    monkeypatch.setattr(batches, "SHARE", 0.0)
    kept = [0]
    run(Slow(), tmp_path / "warm.db")  # all that is imported late
    for _ in range(3):
        ready, tell = os.pipe()
        if (child := os.fork()) == 0:
            os.write(tell, b"x")
            run(Slow(0.02), store)
            os._exit(0)
        os.read(ready, 1)
        time.sleep(2)  # of some 100 masks, and a batch of a game is 256
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        kept.append(sum(logged(store)))
    assert all(after >= before + 15 for before, after in itertools.pairwise(kept)), kept


def test_batches_begin_with_one_mask_and_stop_growing_at_some_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "SECONDS", 0.08)
    monkeypatch.setattr(batches, "SHARE", 0.0)
    game = Slow(0.005)
    run(game, tmp_path / "run.db")
    opening, rest = game.sizes[:3], game.sizes[3:]
    assert opening == [1, 1, 1]
    # The first question is the intact mask alone, the next are the 40 units and the pairs.
    assert rest[:4] == [1, 2, 4, 8] and max(rest) <= 16 and rest.count(max(rest)) > 10
    fast = Slow()
    run(fast, tmp_path / "fast.db")
    assert fast.sizes[3:8] == [1, 2, 4, 8, 16] and max(fast.sizes) > 100
    alone = Slow()
    run(alone, None)
    assert alone.sizes[:2] == [1, 40]


def test_the_longer_a_search_takes_the_longer_its_batches_may() -> None:
    """Masks of a large batch share work; what a kill costs is a twentieth of what was spent."""
    sizes, left, spent, largest = Sizes(512, []), 20_000, 0.0, []
    while left:
        n = sizes.next(left, 1)
        took = 0.25 * n
        assert took <= max(2 * batches.SECONDS, 2 * batches.SHARE * spent)
        sizes.took(Timed(n, n, took))
        left, spent = left - n, spent + took
        largest.append(n)
    assert max(largest[:40]) == 8  # two seconds
    assert 100 < max(largest) <= 512


def test_a_search_that_goes_on_has_the_batches_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow machine first, then on a fast one."""
    monkeypatch.setattr(batches, "SECONDS", 0.03)
    monkeypatch.setattr(batches, "SHARE", 0.0)
    store = tmp_path / "run.db"
    with pytest.raises(KeyboardInterrupt):
        run(Slow(0.005, dies_after=150), store)
    first = logged(store)
    assert max(first) <= 8 and 100 < sum(first) < 150
    again = Slow()
    found = run(again, store)
    assert logged(store)[: len(first)] == first and max(logged(store)) > 8
    assert sum(again.sizes[3:]) + sum(first) == 400  # nothing that was committed is asked again
    assert np.array_equal(run(Slow(), store).values, found.values)


def test_a_fast_search_is_the_same_bit_for_bit_wherever_it_was_killed(tmp_path: Path) -> None:
    whole = run(Slow(), tmp_path / "whole.db")
    for dies_after in (5, 40, 60, 200, 390):
        store = tmp_path / f"{dies_after}.db"
        with pytest.raises(KeyboardInterrupt):
            run(Slow(dies_after=dies_after), store)
        assert np.array_equal(run(Slow(), store).values, whole.values)
        assert logged(store) == logged(tmp_path / "whole.db")


@pytest.mark.parametrize("seed", range(5))
def test_sizes_after_a_kill_are_those_without_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    questions, log, sizes = [1, 40, *rng.integers(1, 300, 12).tolist()], [], []
    paces = 10.0 ** rng.uniform(-4, 1, 10_000)
    whole = Sizes(64, [])
    for masks in questions:
        left = masks
        while left:
            size = whole.next(left, 1)
            left -= size
            log.append(Timed(size, size, float(paces[len(log) // 7] * size)))
            sizes.append(size)
            whole.took(log[-1])
    assert max(sizes) > 16 and min(sizes[10:]) < 8
    for killed in range(0, len(log), 3):
        again, got = Sizes(64, log[:killed]), []
        for masks in questions:
            left = masks
            while left:
                got.append(again.next(left, 1))
                left -= got[-1]
                if len(got) > killed:
                    again.took(log[len(got) - 1])
        assert got == sizes, killed


def test_the_size_can_be_given(tmp_path: Path) -> None:
    game = Slow()
    run(game, tmp_path / "run.db", masks_per_batch=7)
    assert game.sizes[3:6] == [1, 7, 7] and max(game.sizes) == 7
    alone = Slow()
    run(alone, None, masks_per_batch=7)
    assert alone.sizes[:3] == [1, 7, 7] and max(alone.sizes) == 7
    with pytest.raises(ValueError, match="masks_per_batch is 0"):
        run(Slow(), None, masks_per_batch=0)


def test_the_pace_of_an_earlier_search_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that finds its first masks in the store does not run into batches of minutes."""
    monkeypatch.setattr(batches, "SECONDS", 0.05)
    monkeypatch.setattr(batches, "SHARE", 0.0)
    store = tmp_path / "run.db"
    run(Slow(0.005), store)
    game = Slow(0.005)
    sm.discover(game, "exhaustive", 500, store=store, progress=False)
    assert len(game.sizes) > 5 and max(game.sizes) <= 2 * 0.05 / 0.005
    assert SECONDS > 0.5


COSTS = """
import sys, time
import numpy as np
import spex_mech as sm
from tests.test_batches import Slow
def seconds(store):
    started = time.perf_counter()
    cost = sm.discover(Slow(0.001, n=44), "exhaustive", store=store, progress=False).cost
    assert cost["evaluations"] == 1020 and cost.get("checks", 0) == (0 if store is None else 3)
    return time.perf_counter() - started
seconds(f"{sys.argv[1]}/warm.db")
pairs = [(seconds(None), seconds(f"{sys.argv[1]}/{pair}.db")) for pair in range(7)]
alone, kept = zip(*pairs)
print(min(kept) / min(alone), np.median([kept / alone for alone, kept in pairs]))
"""


@pytest.mark.slow
def test_a_store_costs_little(tmp_path: Path) -> None:
    """Of 1,020 evaluations of 1 ms each a tenth at most: the best of seven runs each, which take
    turns, as the machine may be busy; in a process of its own, as types are checked at each call in
    this one. An opening asks three masks."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores:
        pytest.skip(f"the machine is busy (load {load:.1f} on {cores} cores): nothing can be timed")
    run = subprocess.run(
        [sys.executable, "-c", COSTS, str(tmp_path)], cwd=Path(__file__).parents[1], text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    best, _ = map(float, run.stdout.split())
    assert 1.0 < best < 1.1
