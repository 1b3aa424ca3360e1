"""The same search on several workers: processes of this machine, or Ray actors of many machines.

Every worker makes its own game from a factory, one worker a GPU (or, without GPUs, one a CPU core
with one thread). Of each question every worker gets a part, as a batch, and answers are taken, and
committed to a store, in the order of the questions. So the result does not depend on which worker
is how fast. It is the same for any number of workers where a mask's value does not depend on the
masks beside it; a model's depends on them by rounding, and with ``masks_per_batch`` not at all. A
few batches per worker are on their way at a time, and the rest wait. A worker that is lost is
replaced, and what it was computing is asked again (``runs.pools``). Workers end with the process
that started them.

Ray's own documentation tells how to start a cluster (``ray start --head``, then ``ray start
--address=...`` on every other machine); ``discover(factory, address="auto")`` on the head joins it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spex_mech.calls import Called, Table, Way
from spex_mech.driver import evaluate_batch, share
from spex_mech.game import (
    Answer,
    Coarse,
    FunctionGame,
    Game,
    Pending,
    Tick,
    is_game,
    mask_table,
    no_tick,
)
from spex_mech.masks import MaskBatch
from spex_mech.runs.errors import WorkerError, WorkerTrace
from spex_mech.runs.pools import ProcessPool, RayPool
from spex_mech.runs.store import identity_of
from spex_mech.units import Units

Factory = Callable[[], Any]
_AHEAD = 3  # batches on their way, for each worker


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
    is_function: bool  # of which it is found out how it is called
    vectorized: bool | None


@runtime_checkable
class Pool(Protocol):
    """Workers that hold a game each."""

    n_workers: int
    labels: list[str]  # of the game's units, for the texts of errors

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
        pool.labels = self._info.units.labels
        self.n_ahead, self.n_workers = _AHEAD * pool.n_workers, pool.n_workers
        self._called = _RemoteCalled(pool, self._info) if self._info.is_function else None

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
    def n_tried(self) -> int:
        return 0 if self._called is None else self._called.n_tried

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

    @property
    def _way(self) -> Way | None:
        """How the function of a worker is called: what one has tried, all do."""
        return None if self._called is None else self._called.tried()

    def start(self, masks: MaskBatch, slopes: bool, tick: Tick) -> Pending:
        """One batch, as one worker will compute it."""
        return self.pool.submit(answer_of, masks, slopes, self._way)

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Tick = no_tick) -> Answer:
        """The same, by all workers: in batches as a driver would ask them."""
        size = min(self.masks_per_batch, share(len(masks), self.pool.n_workers) or 1)
        parts, way = list(masks.split(size)), self._way
        return joined(self._gathered(answer_of, [(part, slopes, way) for part in parts]))

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


class _RemoteCalled(Called):
    """A function of workers, and how it is called: each trial is asked of one of them, so that a
    mask that it cannot bear is named as of any batch."""

    def __init__(self, pool: Pool, info: GameInfo) -> None:
        super().__init__(lambda _: None, info.units.labels, info.vectorized)
        self.pool = pool

    def tried(self) -> Way:
        """How it is called.

        Raises:
            WorkerError, TimeoutError: a trial loses its workers, or takes too long.
        """
        try:
            return self.way()
        except _Stop as stop:
            stop.why.add_note(
                "The mask was asked to find out how the function is called; vectorized=True (it "
                "takes tensors of many masks) does without."
            )
            raise stop.why from None

    def asked(self, way: Way, masks: MaskBatch) -> Table:
        """The values of some masks, asked in this way of a worker."""
        try:
            return self.pool.submit(asked_in, masks, way).result()
        except (WorkerError, TimeoutError) as error:
            if isinstance(error.__cause__, WorkerTrace):
                raise  # the function's own
            raise _Stop(error) from error


class _Stop(BaseException):
    """Workers were lost on a trial: no other way is tried."""

    def __init__(self, why: Exception) -> None:
        super().__init__(str(why))
        self.why = why


def asked_in(game: Game, masks: MaskBatch, way: Way) -> Table:
    """The values that a worker's function gives, called in this way."""
    assert isinstance(game, FunctionGame)
    return game.called.asked(way, masks)


def answer_of(game: Game, masks: MaskBatch, slopes: bool, way: Way | None) -> Answer:
    """A worker's answer to a batch; of a function, called in this way."""
    if way is not None and isinstance(game, FunctionGame):
        game.called.found(way)
    return evaluate_batch(game, masks, slopes)


def info_of(game: Game) -> GameInfo:
    """What a worker says of its game."""
    tried = isinstance(game, FunctionGame) and not game.called.vectorized
    return GameInfo(
        game.units,
        game.masks_per_batch,
        game.has_slopes,
        game.why_no_slopes,
        game.coarse,
        game.provenance(),
        identity_of(game),
        tried,
        game.called.vectorized if isinstance(game, FunctionGame) else None,
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
    factory: Factory,
    workers: int | None = None,
    address: str | None = None,
    timeout: float | None = None,
) -> Iterator[RemoteGame]:
    """Workers for the time of the block.

    Args:
        factory: makes the game; it is sent to every worker, so it must be picklable: a
            ``GameFactory``, or a function of a module.
        workers: how many; default: one per GPU, or without GPUs one per CPU core.
        address: of a Ray cluster ("auto": the one of this machine); None: processes here.
        timeout: seconds that one evaluation may take (a batch so many times as long); a worker that
            takes longer is ended, and its batch asked once more.

    Raises:
        ValueError: no factory, no workers, or more than a Ray cluster has room for.
        ImportError: an address without Ray.
        Exception: the game's own errors, also of making it; ``WorkerError`` where their class
            cannot be sent.
        WorkerError: workers are lost again and again; the text names the ablated units.
        TimeoutError: an evaluation took longer than ``timeout``, twice.
    """
    if is_game(factory) or not callable(factory):
        raise ValueError(
            "workers make their own games: give a factory, such as "
            "sm.GameFactory('demo', 'induction'), not a game"
        )
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; it must be at least 1")
    if timeout is not None and timeout <= 0:
        raise ValueError(f"timeout is {timeout:g} s; it must be more than 0")
    pool: ProcessPool | RayPool = (
        ProcessPool(factory, workers, timeout)
        if address is None
        else _ray_pool(factory, workers, address, timeout)
    )
    try:
        yield RemoteGame(pool)
    finally:
        pool.close()


def _ray_pool(
    factory: Factory, workers: int | None, address: str, timeout: float | None
) -> RayPool:
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            f"address={address!r} needs Ray: pip install 'spex_mech[cluster]'; or leave it out, "
            "for processes of this machine"
        ) from error
    return RayPool(ray, factory, workers, address, timeout)
