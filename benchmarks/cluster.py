"""What spreading a run costs: the driver's pace, the overhead, memory (a store: ``store_size.py``).

    python -m benchmarks.cluster           # some 5 minutes on two cores, no models needed

Workers are simulated by threads that sleep as a GPU would compute. Writes ``results/cluster.json``.
"""

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import spex_mech as sm
from benchmarks.frame import Options, Row, alone, memory_mb, script, timed
from spex_mech.game import Answer, Game
from spex_mech.masks import MaskBatch
from spex_mech.runs.store import opened
from spex_mech.runs.workers import RemoteGame, started
from spex_mech.search.contract import cost_of_mask
from spex_mech.units import Units
from tests.pair_games import PairGame, pair_game


class Sleeping(Game):
    """A game that takes its time: ``seconds`` a batch."""

    def __init__(self, n: int, seconds: float, masks_per_batch: int, n_prompts: int = 1) -> None:
        self.n, self.seconds, self._per_batch = n, seconds, masks_per_batch
        self.weights = np.random.default_rng(0).normal(size=(n + 1, n_prompts))
        self.weights[-1] = 0.0  # of no unit

    @property
    def units(self) -> Units:
        return Units.of_labels([str(unit) for unit in range(self.n)])

    @property
    def masks_per_batch(self) -> int:
        return self._per_batch

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Any = None) -> Answer:
        time.sleep(self.seconds)
        return Answer(self.weights[masks.ablated].sum(axis=1) ** 2)

    def identity(self) -> dict[str, Any]:
        return {"sleeping": self.n}


class Threads:
    """Simulated workers, which share one game."""

    def __init__(self, game: Game, n_workers: int) -> None:
        self.game, self.n_workers = game, n_workers
        self.executor = ThreadPoolExecutor(n_workers)
        self.busy = 0.0

    def submit(self, function: Any, *arguments: Any) -> Any:
        return self.executor.submit(function, self.game, *arguments)


def search(game: Any, budget: int) -> tuple[sm.Interactions, float]:
    """A search of all pairs as far as the budget goes, and its seconds."""
    return timed(lambda: sm.discover(game, "exhaustive", budget=budget, progress=False))


def pace(options: Options) -> Iterator[Row]:
    """Batches a second through the driver, and the share of what so many workers could do."""
    masks, batches = 64, 100 if options.quick else 800
    for n_workers, count in ((8, batches), (64, 8 * batches)):
        game = Sleeping(2000, 0.1, masks)
        found, seconds = search(RemoteGame(Threads(game, n_workers)), count * masks)
        rate = found.cost["evaluations"] / masks / seconds
        yield {"workers": n_workers, "share": rate / (n_workers / game.seconds)}


class SleepingPairs(Game):
    """A game of pairs with slopes that takes its time: ``seconds`` an evaluation."""

    has_slopes = True  # type: ignore[assignment]
    masks_per_batch = 512  # type: ignore[assignment]

    def __init__(self, pairs: PairGame, seconds: float) -> None:
        self.pairs, self.seconds = pairs, seconds

    @property
    def units(self) -> Units:
        return Units.of_labels([str(unit) for unit in range(len(self.pairs.main))])

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Any = None) -> Answer:
        time.sleep(self.seconds * len(masks) * cost_of_mask(slopes))
        values = self.pairs.values(masks.ablated)
        return Answer(values, self.pairs.gradients(masks.ablated) if slopes else None)


def wide(options: Options) -> Iterator[Row]:
    """How many workers a search with gradients uses."""
    n = 300 if options.quick else 3108
    game = SleepingPairs(pair_game("hubs", n, 0, "off"), 0.05)
    for n_workers in (8, 64):
        remote = RemoteGame(Threads(game, n_workers))
        found, seconds = timed(lambda remote=remote: sm.discover(remote, "spex", progress=False))
        share = found.cost["evaluations"] * game.seconds / (n_workers * seconds)
        yield {"workers": n_workers, "n": n, "share": share}


def sleeping_second() -> Sleeping:
    return Sleeping(100, 1.0, 16)


def overhead(options: Options) -> Iterator[Row]:
    """One worker process against none, batches of a second."""
    budget = 16 * (8 if options.quick else 25)
    here, local = search(sleeping_second(), budget)
    with started(sleeping_second, 1) as remote:  # the worker's start is not a matter of batches
        far, there = search(remote, budget)
    same = bool((here.values == far.values).all())
    yield {"same": same, "ratio": there / local}


def flat_memory(batches: int) -> Row:
    """Many batches with a store: what the process holds after a tenth of them and after all."""
    game, held = Sleeping(1000, 0.0, 16, n_prompts=8), []
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder) / "a.sqlite", game) as store:
        run = store.search({"flat": True}, game, 16)
        rng = np.random.default_rng(0)
        for batch in range(batches):
            asked = MaskBatch.of_rows(rng.integers(0, 1000, (16, 3)), 1000)
            run.answer(asked, False, "", None, lambda asked=asked: game.evaluate(asked))
            if batch in (batches // 10, batches - 1):
                held.append(memory_mb(most=False))
    return {"batches": batches, "mb_after_a_tenth": held[0], "mb_after": held[1]}


def driver_memory(evaluations: int) -> Row:
    """So many evaluations among 40,000 units, without a store."""
    before = memory_mb()
    found, seconds = search(Sleeping(40_000, 0.0, 4096), evaluations)
    about = {"n": 40_000, "evaluations": found.cost["evaluations"], "seconds": seconds}
    return about | {"mb_before": before, "mb_most": memory_mb()}


def load(options: Options) -> Iterator[Row]:
    yield alone(flat_memory, 2000 if options.quick else 20_000)


def memory(options: Options) -> Iterator[Row]:
    yield alone(driver_memory, 50_000 if options.quick else 1_000_000)


PARTS = {
    "pace": pace,
    "wide": wide,
    "overhead": overhead,
    "load": load,
    "memory": memory,
}

if __name__ == "__main__":
    script(__doc__, "cluster", PARTS)
