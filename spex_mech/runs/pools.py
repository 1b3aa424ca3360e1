"""Pools of workers: processes of this machine, or Ray actors of many machines.

A thread here keeps one worker: it takes calls from a common queue, sends each to its worker, and
replaces a worker that is lost or takes too long. A call that loses two workers is looked into: its
masks are asked one at a time, and the one that a third worker is lost on is named.
"""

import multiprocessing
import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, resource_tracker
from typing import Any, NoReturn, Protocol, runtime_checkable

from torch import Tensor

from spex_mech.engine.device import n_gpus
from spex_mech.masks import MaskBatch
from spex_mech.notices import warn
from spex_mech.runs.errors import WorkerError
from spex_mech.runs.worker import Host, Reply, serve
from spex_mech.search.contract import cost_of_mask

Call = tuple[Any, ...]
_MOST_LOSSES = 2  # of workers on one call, before its masks are asked one at a time
_UNGUARDED = 97  # exit code of a worker that came upon the call that started it
_PATIENCE = 2.0  # seconds that an idle worker has to end by itself
_LONG = 30.0  # seconds without a Ray worker, after which a word is due


class Lost(Exception):
    """A worker ended, or was ended as it took too long.

    Args:
        how: in words.
        made: whether it had made its game.
        late: whether it took too long.
    """

    def __init__(self, how: str, made: bool = True, late: bool = False) -> None:
        super().__init__(how)
        self.how, self.made, self.late = how, made, late


@runtime_checkable
class Worker(Protocol):
    """One worker, which is started when it is made."""

    def ask(self, call: Call, limit: float | None) -> Reply:
        """What the call gives; raises ``Lost``, also after ``limit`` seconds."""
        ...

    def end(self) -> None:
        """End it: at once where it computes."""
        ...

    def kill(self) -> None:
        """End it at once, from any thread."""
        ...


@dataclass(frozen=True, eq=False)
class _Task:
    call: Call
    future: "Future[Any]" = field(default_factory=Future)

    @property
    def masks(self) -> MaskBatch | None:
        return next((part for part in self.call if isinstance(part, MaskBatch)), None)


def _price(call: Call) -> int:
    """The evaluations of a call that holds masks, or the gates of gradients; of others none."""
    slopes = any(part is True for part in call)
    for part in call:
        if isinstance(part, MaskBatch):
            return len(part) * cost_of_mask(slopes)
        if isinstance(part, Tensor):
            return len(part) * cost_of_mask(True)
    return 0


class WorkerPool:
    """Workers, and a thread for each.

    Args:
        make: starts the worker of a number, and waits until its game is made. It raises ``Lost``,
            or the game's own error.
        n_workers: how many.
        timeout: seconds that one evaluation may take; None: any.
    """

    def __init__(
        self, make: Callable[[int, "WorkerPool"], Worker], n_workers: int, timeout: float | None
    ) -> None:
        self._make, self.n_workers, self.timeout = make, n_workers, timeout
        self.labels: list[str] = []
        self.is_closing = False
        self.workers: dict[int, Worker] = {}  # those that run
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._keep, args=(number,), daemon=True)
            for number in range(n_workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Have ``function(game, *arguments)`` computed by the worker that is free first."""
        task = _Task((function, *arguments))
        self._tasks.put(task)
        return task.future

    def close(self) -> None:
        """End the workers: those that compute at once."""
        self.is_closing = True
        with suppress(queue.Empty):
            while (task := self._tasks.get_nowait()) is not None:
                task.future.cancel()
        for _ in self._threads:
            self._tasks.put(None)
        until = time.monotonic() + _PATIENCE
        try:
            for thread in self._threads:
                thread.join(max(0.0, until - time.monotonic()))
        finally:  # also where a second interrupt comes
            for worker in [*self.workers.values()]:
                worker.kill()
        for thread in self._threads:
            thread.join(_PATIENCE)

    # -- in the threads -------------------------------------------------------------------------

    def _keep(self, number: int) -> None:
        """Keep one worker until the pool is closed."""
        _without_interrupts()
        try:
            early = self._started(number)
            while (task := self._tasks.get()) is not None:
                if not task.future.set_running_or_notify_cancel():
                    continue
                try:
                    if early is not None:
                        raise early
                    task.future.set_result(self._answered(number, task))
                except BaseException as error:
                    task.future.set_exception(error)
        finally:
            self._ended(number)

    def _started(self, number: int) -> BaseException | None:
        """The game's own error, where the first start gives one; a loss is tried again later."""
        try:
            self._worker(number)
        except Lost:
            return None
        except BaseException as error:
            return error
        return None

    def _worker(self, number: int) -> Worker:
        if number not in self.workers:
            if self.is_closing:
                raise Lost("the pool was closed")
            self._make(number, self)
        return self.workers[number]

    def _ended(self, number: int) -> None:
        worker = self.workers.pop(number, None)
        if worker is not None:
            worker.end()

    def _answered(self, number: int, task: _Task) -> Any:
        lost: list[Lost] = []
        while True:
            try:
                return self._asked(number, task.call)
            except Lost as loss:
                lost.append(loss)
            self._ended(number)
            if self.is_closing:
                raise WorkerError("the workers were ended")
            if len(lost) > (_MOST_LOSSES if not lost[-1].made else _MOST_LOSSES - 1):
                self._explain(number, task, lost)

    def _asked(self, number: int, call: Call) -> Any:
        limit = None
        if self.timeout is not None and (price := _price(call)):
            limit = self.timeout * price
        return self._worker(number).ask(call, limit).value()

    def _explain(self, number: int, task: _Task, lost: list[Lost]) -> NoReturn:
        """Raises:
        TimeoutError, WorkerError: why workers are lost on this call.
        """
        last, count = lost[-1], len(lost)
        if not last.made:
            raise WorkerError(
                f"{count} workers, one after the other, ended before they had made their game "
                f"({last.how}); try the factory without workers, or fewer workers (out of memory?)"
            )
        masks, alone = task.masks, None
        if masks is None and _price(task.call):
            _explain_gradients(last, count, self.timeout)
        if masks is None:
            raise WorkerError(f"{count} workers were lost ({last.how}) before they had begun")
        function, _, *rest = task.call
        for row in range(len(masks)):
            try:
                self._asked(number, (function, masks.rows([row]), *rest))
            except Lost as loss:
                self._ended(number)
                alone, last, count = row, loss, count + 1
                break
        if alone is None:
            what = "takes too long" if last.late else f"was lost on twice ({last.how})"
            raise (TimeoutError if last.late else WorkerError)(
                f"a batch of {len(masks)} masks {what}, and each of them alone is answered: try a "
                "smaller batch_size or masks_per_batch, or fewer workers (out of memory?)"
            )
        names = masks.names(alone, self.labels)
        if last.late:
            raise TimeoutError(
                f"with {names} ablated an evaluation takes longer than timeout={self.timeout:g} s, "
                f"on {count} workers one after the other; give more, or look at the game"
            )
        raise WorkerError(
            f"with {names} ablated every worker is lost ({last.how}): {count} one after the other. "
            "What was committed to a store is kept; try this mask in the game without workers"
        )


def _explain_gradients(last: Lost, count: int, timeout: float | None) -> NoReturn:
    """Raises:
    TimeoutError, WorkerError: why workers are lost on gradients at gates.
    """
    where = "gradients with all units kept in part"
    if last.late:
        raise TimeoutError(
            f"{where} take longer than timeout={timeout:g} s an evaluation (each is three), on "
            f"{count} workers one after the other; give more, or a game without gradients"
        )
    raise WorkerError(
        f"{where} lose every worker ({last.how}): {count} one after the other. Give fewer workers "
        "(out of memory?), or a game without gradients"
    )


def _without_interrupts() -> None:
    """Interrupts are for the main thread; a process that this thread starts does not get them."""
    resource_tracker.ensure_running()  # it would let them through again
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


class ProcessPool(WorkerPool):
    """Processes of this machine, each with its own game.

    Args:
        factory: makes the game, and can be pickled.
        workers: how many; None: one per GPU, or without GPUs one per CPU core.
        timeout: see ``WorkerPool``.

    Raises:
        SystemExit: in a worker that came upon this call itself while it imported the script.
    """

    def __init__(
        self, factory: Callable[[], Any], workers: int | None, timeout: float | None = None
    ) -> None:
        if multiprocessing.current_process().__dict__.get("_inheriting"):
            raise SystemExit(_UNGUARDED)  # there is no __main__ guard; the other end says so
        main = vars(sys.modules["__main__"])
        if main.get("__spec__") is None and not os.path.exists(main.get("__file__", os.curdir)):
            raise WorkerError(
                "workers import the file of the script, and a script on standard input has none: "
                "save it as a file, with the call under  if __name__ == '__main__':"
            )
        self._factory = pickle.dumps(factory)
        count = workers or n_gpus() or os.cpu_count() or 1
        super().__init__(self._process, count, timeout)

    def _process(self, number: int, pool: WorkerPool) -> Worker:
        worker = _Process(self._factory, number)
        pool.workers[number] = worker
        worker.wait_until_made()
        return worker


class _Process:
    """A worker in a process of this machine."""

    def __init__(self, factory: bytes, number: int) -> None:
        context = get_context("spawn")  # CUDA does not survive a fork
        self._calls, theirs = context.Pipe()
        made = (theirs, factory, number)
        self._process = context.Process(target=serve, args=made, daemon=False)
        self._made = self._busy = False
        self._process.start()
        theirs.close()

    def wait_until_made(self) -> None:
        """Raises:
        Lost: it ended first.
        Exception: the game's own error.
        """
        self._busy = True
        self._received(None).value()
        self._made, self._busy = True, False

    def ask(self, call: Call, limit: float | None) -> Reply:
        """See ``Worker``."""
        self._busy = True
        try:
            self._calls.send(call)
        except (BrokenPipeError, ConnectionResetError):
            self._lost()
        reply = self._received(limit)
        self._busy = False
        return reply

    def _received(self, limit: float | None) -> Reply:
        ready = connection.wait([self._calls, self._process.sentinel], limit)
        if not ready:
            raise Lost(f"no answer after {limit:g} s", late=True)
        if self._calls in ready:
            with suppress(EOFError, ConnectionResetError):
                return self._calls.recv()
        self._lost()

    def _lost(self) -> NoReturn:
        self._process.join(_PATIENCE)
        code = self._process.exitcode
        if code == _UNGUARDED and not self._made:
            raise WorkerError(
                "every worker imports this script, and the call that starts workers must not run "
                "then: put it under  if __name__ == '__main__':"
            )
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        raise Lost(how, made=self._made)

    def end(self) -> None:
        """See ``Worker``."""
        self._calls.close()
        if self._busy:
            self.kill()
        self._process.join(_PATIENCE)
        self.kill()
        self._process.join()

    def kill(self) -> None:
        """See ``Worker``."""
        with suppress(ValueError, OSError):
            self._process.kill()


class RayPool(WorkerPool):
    """Ray actors, each with its own game.

    Args:
        ray: the module.
        factory, workers, timeout: as of ``ProcessPool``.
        address: of the cluster; "local": one of this machine's own, for the time of the pool.

    Raises:
        ValueError: more workers than the cluster has GPUs, or without GPUs CPUs.
    """

    def __init__(
        self,
        ray: Any,
        factory: Callable[[], Any],
        workers: int | None,
        address: str,
        timeout: float | None = None,
    ) -> None:
        self._ray, self._factory = ray, ray.cloudpickle.dumps(factory)
        self._joined = not ray.is_initialized()
        if self._joined:
            where = {} if address == "local" else {"address": address}
            ray.init(**where, log_to_driver=False, include_dashboard=False)
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        have, kind = (gpus, "GPUs") if gpus else (cpus, "CPUs")
        count = workers or have
        if count > have:
            self._leave()
            raise ValueError(
                f"{count} workers need as many {kind}, and the Ray cluster has {have}; give "
                f"workers={have} or fewer"
            )
        self._needs = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        super().__init__(self._actor, count, timeout)

    def close(self) -> None:
        """End the actors, and leave the cluster if it was joined for this."""
        super().close()
        self._leave()

    def _leave(self) -> None:
        if self._joined:
            self._ray.shutdown()

    def _actor(self, number: int, pool: WorkerPool) -> Worker:
        worker = _Actor(self._ray, self._factory, self._needs, pool)
        pool.workers[number] = worker
        worker.wait_until_made()
        return worker


class _Actor:
    """A worker as a Ray actor. Ray shows each its own GPU only."""

    def __init__(self, ray: Any, factory: bytes, needs: dict[str, int], pool: WorkerPool) -> None:
        self._ray, self._pool, self._made = ray, pool, False
        make = ray.remote(max_restarts=0, max_task_retries=0, **needs)(Host)
        self._actor = make.remote(factory, 0)

    def wait_until_made(self) -> None:
        """Raises:
        Lost: it ended first.
        Exception: the game's own error.
        """
        self._received(self._actor.is_made.remote(), None).value()
        self._made = True

    def ask(self, call: Call, limit: float | None) -> Reply:
        """See ``Worker``."""
        return self._received(self._actor.run.remote(*call), limit)

    def _received(self, reference: Any, limit: float | None) -> Reply:
        since, told = time.monotonic(), False
        while not self._ray.wait([reference], timeout=0.5)[0]:
            waited = time.monotonic() - since
            if limit is not None and waited > limit:
                raise Lost(f"no answer after {limit:g} s", late=True)
            if self._pool.is_closing:
                raise Lost("the pool was closed")
            if not self._made and waited > _LONG and not told:
                told = True
                free = self._ray.available_resources()
                warn(
                    f"a Ray worker has not begun for {_LONG:.0f} s; free are "
                    f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs of the cluster",
                )
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            raise Lost(" ".join(str(error).split())[:200], made=self._made) from error

    def end(self) -> None:
        """See ``Worker``."""
        self.kill()

    def kill(self) -> None:
        """See ``Worker``."""
        with suppress(Exception):  # it, or the cluster, may be gone
            self._ray.kill(self._actor)
