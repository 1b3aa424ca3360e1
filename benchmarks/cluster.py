"""What spreading a run costs: the driver's pace, the overhead, memory (a store: ``store_size.py``).

    python -m benchmarks.cluster           # some 5 minutes on two cores, no models needed

Workers are simulated by threads that sleep as a GPU would compute. Writes ``results/cluster.json``.
"""

import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from benchmarks.common import Options, Row, script, show
from spex_mech.game import Answer, as_game
from spex_mech.runs.store import opened
from spex_mech.runs.workers import RemoteGame, started
from spex_mech.search.contract import Question


class Sleeping:
    """A game that takes its time: ``seconds`` a batch."""

    def __init__(self, n: int, seconds: float, masks_per_batch: int, n_prompts: int = 1) -> None:
        self.n, self.seconds, self.masks_per_batch = n, seconds, masks_per_batch
        self.labels = [str(i) for i in range(n)]
        self.weights = np.random.default_rng(0).normal(size=(n + 1, n_prompts))

    def __len__(self) -> int:
        return self.n

    def ablating(self, lost: np.ndarray, tick: Any = None) -> torch.Tensor:
        time.sleep(self.seconds)
        padded = np.vstack([self.weights[:-1], np.zeros_like(self.weights[:1])])
        return torch.from_numpy(padded[lost].sum(axis=1) ** 2)

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        return {"sleeping": self.n}


class Threads:
    """Simulated workers, which share one game."""

    def __init__(self, game: Sleeping, n_workers: int) -> None:
        self.game, self.n_workers = as_game(game), n_workers
        self.executor = ThreadPoolExecutor(n_workers)
        self.busy = 0.0

    def submit(self, function: Any, *arguments: Any) -> Any:
        return self.executor.submit(function, self.game, *arguments)


def memory_mb() -> float:
    """What this process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def most_memory_mb() -> float:
    """The most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(measure: Callable[..., Row], *arguments: Any) -> Row:
    """In a process of its own, whose memory is only that of this."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def pace(n_workers: int, batches: int, masks: int) -> Row:
    """Batches a second through the driver, and the share of what so many workers could do."""
    game = Sleeping(2000, 0.1, masks)
    remote = RemoteGame(Threads(game, n_workers))
    started_at = time.perf_counter()
    found = sm.discover(remote, "exhaustive", budget=batches * masks, progress=False)
    seconds = time.perf_counter() - started_at
    done = found.cost["evaluations"] / masks
    made = {"workers": n_workers, "masks_per_batch": masks}
    made |= {"batches_per_second": done / seconds}
    return made | {"share": done / seconds / (n_workers / game.seconds)}


def driver_memory(evaluations: int) -> Row:
    """So many evaluations among 40,000 units, without a store."""
    before = most_memory_mb()
    game = Sleeping(40_000, 0.0, 4096)
    started_at = time.perf_counter()
    found = sm.discover(game, "exhaustive", budget=evaluations, progress=False)
    made = {"n": 40_000, "evaluations": found.cost["evaluations"]}
    made |= {"seconds": time.perf_counter() - started_at}
    return made | {"mb_before": before, "mb_most": most_memory_mb()}


def flat_memory(folder: Path, batches: int) -> Row:
    """Many batches with a store: what the process holds after a tenth of them and after all."""
    game = Sleeping(1000, 0.0, 16, n_prompts=8)
    held: list[float] = []
    with opened(folder / "flat.sqlite", game) as store:
        run = store.search({"flat": True}, game, 16)
        rng = np.random.default_rng(0)
        for batch in range(batches):
            lost = rng.integers(0, 1000, (16, 3))
            question = Question(np.sort(lost, axis=1))
            run.answer(question, lambda rest: Answer(game.ablating(rest.ablated).numpy()))
            if batch in (batches // 10, batches - 1):
                held.append(memory_mb())
    return {"batches": batches, "mb_after_a_tenth": held[0], "mb_after": held[1]}


def sleeping_second() -> Sleeping:
    return Sleeping(100, 1.0, 16)


def overhead(batches: int) -> Row:
    """One worker process against none, batches of a second."""
    options: Any = {"method": "exhaustive", "budget": 16 * batches, "progress": False}
    started_at = time.perf_counter()
    here = sm.discover(sleeping_second(), **options)
    local = time.perf_counter() - started_at
    with started(sleeping_second, 1) as remote:  # the worker's start is not a matter of batches
        started_at = time.perf_counter()
        far = sm.discover(remote, **options)
        there = time.perf_counter() - started_at
    same = bool((here.values == far.values).all())
    return {"workers": 1, "same": same, "ratio": there / local}


def paces(options: Options) -> list[Row]:
    batches = 100 if options.quick else 800
    return [pace(8, batches, 64), pace(64, 8 * batches, 64)]


def load(options: Options) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return [alone(flat_memory, Path(folder), 2000 if options.quick else 20_000)]


PARTS = {
    "pace": (paces, False),
    "overhead": (lambda options: [overhead(8 if options.quick else 25)], False),
    "load": (load, False),
    "memory": (lambda o: [alone(driver_memory, 50_000 if o.quick else 1_000_000)], False),
}


def run(options: Options) -> dict[str, Any]:
    out = options.parts("cluster", PARTS)
    for row in out["rows"]:
        show(row)
    return out


if __name__ == "__main__":
    script(__doc__, run, PARTS)
