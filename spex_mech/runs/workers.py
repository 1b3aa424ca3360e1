"""The same search on several workers: processes of this machine, or Ray actors of many machines.

Every worker makes its own game from a factory, one worker a GPU (or, without GPUs, one a CPU core
with one thread). A question's batches are those that one worker alone would get: each is computed
as a whole by one worker, and answers are taken, and committed to a store, in the order of the
questions. So the result does not depend on how many workers there are. A few batches a worker are
on their way at a time, and the rest wait. A worker that is lost is replaced, and what it was
computing is asked again.

Ray's own documentation tells how to start a cluster (``ray start --head``, then ``ray start
--address=...`` on every other machine); ``discover(factory, address="auto")`` on the head joins it.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from multiprocessing import get_context
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spex_mech.driver import evaluate_batch
from spex_mech.game import (
    Answer,
    Coarse,
    Game,
    Pending,
    Tick,
    as_game,
    is_game,
    mask_table,
    no_tick,
)
from spex_mech.masks import MaskBatch
from spex_mech.runs.store import identity_of
from spex_mech.units import Units

Factory = Callable[[], Any]
_AHEAD = 3  # batches on their way, for each worker
_MOST_LOSSES = 5  # of workers, without an answer between them


@dataclass(frozen=True)
class GameInfo:
    """What a game that is elsewhere declares of itself."""

    units: Units
    masks_per_batch: int
    has_slopes: bool
    why_no_slopes: str
    coarse: Coarse | None
    provenance: dict[str, Any]
    identity: dict[str, Any]


@runtime_checkable
class Pool(Protocol):
    """Workers that hold a game each."""

    n_workers: int

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Pending:
        """Have ``function(game, *arguments)`` computed by one of them."""
        ...


class RemoteGame(Game):
    """A game whose batches are computed by workers: ``discover`` takes it like any other.

    Args:
        pool: the workers.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._info: GameInfo = pool.submit(info_of).result()
        self.n_ahead, self.n_workers = _AHEAD * pool.n_workers, pool.n_workers

    @property
    def units(self) -> Units:
        return self._info.units

    @property
    def masks_per_batch(self) -> int:
        return self._info.masks_per_batch

    @property
    def has_slopes(self) -> bool:
        return self._info.has_slopes

    @property
    def why_no_slopes(self) -> str:
        return self._info.why_no_slopes

    @property
    def coarse(self) -> Coarse | None:
        return self._info.coarse

    @property
    def noise_floor(self) -> float | None:
        """The game's own, measured by one worker; None if it has none."""
        return self._noise_floor

    @cached_property
    def _noise_floor(self) -> float | None:
        return self.pool.submit(noise_floor).result()

    def start(self, masks: MaskBatch, slopes: bool, tick: Tick) -> Pending:
        """One batch, as one worker will compute it."""
        return self.pool.submit(evaluate_batch, masks, slopes)

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Tick = no_tick) -> Answer:
        """The same, by all workers: in batches as a driver would ask them."""
        parts = list(masks.split(self.masks_per_batch))
        return joined(self._gathered(evaluate_batch, [(part, slopes) for part in parts]))

    def __call__(self, masks: Any) -> Float[Tensor, "mask prompt"]:
        """The values of masks (True = kept), computed by all workers."""
        table = mask_table(masks, len(self))
        if not _are_masks(table):
            raise ValueError("masks hold gates between 0 and 1; True = kept, False = ablated")
        return super().__call__(table.bool())

    def slopes_at(self, gates: Tensor) -> Answer:
        if _are_masks(gates):
            return self.evaluate(MaskBatch.of_kept(gates.bool().numpy()), slopes=True)
        parts = gates.split(self.masks_per_batch)
        return joined(self._gathered(slopes_at, [(part,) for part in parts]))

    def provenance(self) -> dict[str, Any]:
        """What the game says of itself, and how many workers computed it."""
        return {**self._info.provenance, "workers": self.pool.n_workers}

    def identity(self) -> dict[str, Any]:
        """The game's own: a store may be filled by any number of workers."""
        return {**self._info.identity, "workers": None}

    def _gathered(self, function: Callable[..., Any], calls: Iterable[Any]) -> list[Any]:
        """A function of a worker's game at each part; all are sent before one is awaited."""
        return [pending.result() for pending in [self.pool.submit(function, *c) for c in calls]]


def info_of(game: Game) -> GameInfo:
    """What a worker says of its game."""
    return GameInfo(
        game.units,
        game.masks_per_batch,
        game.has_slopes,
        game.why_no_slopes,
        game.coarse,
        game.provenance(),
        identity_of(game),
    )


def slopes_at(game: Game, gates: Tensor) -> Answer:
    """Values and slopes at gates, on a worker."""
    return game.slopes_at(gates)


def noise_floor(game: Game) -> float | None:
    """Of a worker's game; None if it has none."""
    return game.noise_floor


def joined(answers: Sequence[Answer]) -> Answer:
    """Answers to the parts of a batch as one."""
    slopes = [answer.slopes for answer in answers if answer.slopes is not None]
    values = np.concatenate([answer.values for answer in answers])
    return Answer(values, np.concatenate(slopes) if slopes else None)


def _are_masks(table: Tensor) -> bool:
    return table.dtype == torch.bool or bool(((table == 0) | (table == 1)).all())


@contextmanager
def started(
    factory: Factory, workers: int | None = None, address: str | None = None
) -> Iterator[RemoteGame]:
    """Workers for the time of the block.

    Args:
        factory: makes the game; it is sent to every worker, so it must be picklable: a
            ``GameFactory``, or a function of a module.
        workers: how many; default: one a GPU, or without GPUs one a CPU core.
        address: of a Ray cluster ("auto": the one of this machine); None: processes here.

    Raises:
        ValueError: no factory, or no workers.
        ImportError: an address without Ray.
    """
    if is_game(factory) or not callable(factory):
        raise ValueError(
            "workers make their own games: give a factory, such as "
            "sm.GameFactory('demo', 'induction'), not a game"
        )
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1")
    pool = (
        ProcessPool(factory, workers) if address is None else _ray_pool(factory, workers, address)
    )
    try:
        yield RemoteGame(pool)
    finally:
        pool.close()


class ProcessPool:
    """Processes of this machine, each with its own game.

    Args:
        factory, workers: as of :func:`started`.
    """

    def __init__(self, factory: Factory, workers: int | None) -> None:
        self._factory = factory
        self.n_workers = workers or torch.cuda.device_count() or os.cpu_count() or 1
        self._losses, self._generation = 0, 0
        self._executor = self._start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "ProcessPending":
        """See ``Pool``."""
        call = (function, *arguments)
        return ProcessPending(self, call, *self.send(call))

    def send(self, call: tuple[Any, ...]) -> tuple["Future[Any]", int]:
        """To a process of the present generation, and which that is."""
        try:
            return self._executor.submit(_run, *call), self._generation
        except BrokenProcessPool:
            self.replace(self._generation)
            return self._executor.submit(_run, *call), self._generation

    def replace(self, generation: int) -> None:
        """New processes for those of a generation that lost one.

        Raises:
            RuntimeError: they are lost again and again.
        """
        if generation != self._generation:
            return  # done already, when another answer was missed
        self._losses += 1
        if self._losses > _MOST_LOSSES:
            raise RuntimeError(
                f"{self._losses} workers were lost without an answer between them (out of memory?);"
                " try fewer workers or a smaller batch_size"
            )
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._executor, self._generation = self._start(), self._generation + 1

    def came(self) -> None:
        """An answer came: workers are fine."""
        self._losses = 0

    def close(self) -> None:
        """End the processes."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        context = get_context("spawn")  # CUDA does not survive a fork
        counter = context.Value("i", 0)
        made = (self._factory, counter)
        return ProcessPoolExecutor(self.n_workers, context, _make_game, made)


@dataclass
class ProcessPending:
    """An answer of a process; asked again when the process is lost."""

    pool: ProcessPool
    call: tuple[Any, ...]
    future: "Future[Any]"
    generation: int

    def result(self) -> Any:
        """See ``Pending``."""
        while True:
            try:
                answer = self.future.result()
            except BrokenProcessPool:
                self.pool.replace(self.generation)
                self.future, self.generation = self.pool.send(self.call)
                continue
            self.pool.came()
            return answer


_GAME: list[Any] = []  # of a worker's process


def _make_game(factory: Factory, counter: Any) -> None:
    with counter.get_lock():
        number = counter.value
        counter.value += 1
    _alone(number)
    _GAME[:] = [as_game(factory())]


def _alone(number: int) -> None:
    """One GPU for each; without GPUs one thread, whatever the number of workers, as sums of more
    threads may differ in the last bits."""
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    else:
        torch.set_num_threads(1)


def _run(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(_GAME[0], *arguments)


class _Actor:
    """A game on a Ray worker."""

    def __init__(self, factory: Factory) -> None:
        _alone(0)  # Ray shows each actor its own GPU only
        self._game = as_game(factory())

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self._game, *arguments)


class RayPool:
    """Ray actors, each with its own game; Ray restarts those that are lost, and asks them again.

    Args:
        factory, workers, address: as of :func:`started`.
        ray: the module.
    """

    def __init__(self, ray: Any, factory: Factory, workers: int | None, address: str) -> None:
        self._ray = ray
        self._joined = not ray.is_initialized()
        if self._joined:
            where = {} if address == "local" else {"address": address}
            ray.init(**where, log_to_driver=False, include_dashboard=False)
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        self.n_workers = workers or gpus or cpus
        needs = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        make = ray.remote(max_restarts=-1, max_task_retries=-1, **needs)(_Actor)
        self.actors = [make.remote(factory) for _ in range(self.n_workers)]
        self.waiting = [0] * self.n_workers

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "RayPending":
        """To the actor that has the least to do; see ``Pool``."""
        least = self.waiting.index(min(self.waiting))
        self.waiting[least] += 1
        return RayPending(self, least, self.actors[least].run.remote(function, *arguments))

    def get(self, reference: Any) -> Any:
        """The answer, or the game's own error."""
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def close(self) -> None:
        """End the actors, and leave the cluster if it was joined for this."""
        for actor in self.actors:
            self._ray.kill(actor)
        if self._joined:
            self._ray.shutdown()


@dataclass
class RayPending:
    """An answer of an actor."""

    pool: RayPool
    actor: int
    reference: Any
    taken: bool = False

    def result(self) -> Any:
        """See ``Pending``."""
        try:
            return self.pool.get(self.reference)
        finally:
            if not self.taken:
                self.pool.waiting[self.actor] -= 1
                self.taken = True


def _ray_pool(factory: Factory, workers: int | None, address: str) -> RayPool:
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            f"address={address!r} needs Ray: pip install 'spex_mech[cluster]'; or leave it out, "
            "for processes of this machine"
        ) from error
    return RayPool(ray, factory, workers, address)
