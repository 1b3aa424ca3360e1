"""What runs on a worker: its own game, and calls that are answered one after the other.

An error is sent as itself where its class can be pickled, and as text beside it, so that it reaches
the user whatever it is. A worker's process ends with the process that started it, however that
ends: the system is asked to kill it then (Linux), and a thread watches (everywhere).
"""

import ctypes
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from typing import Any, NoReturn

from spex_mech.engine.device import alone
from spex_mech.game import as_game
from spex_mech.runs.errors import WorkerError, WorkerTrace

_DEATH_OF_PARENT = 1  # prctl's PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Failure:
    """An error as it is sent.

    Args:
        pickled: the error itself; None where it cannot be pickled, or is no ``Exception``.
        text: its type and message.
        trace: its traceback.
    """

    pickled: bytes | None
    text: str
    trace: str

    @staticmethod
    def of(error: BaseException) -> "Failure":
        """The error, and whether it can be sent is tried out."""
        pickled = None
        if isinstance(error, Exception):
            with suppress(Exception):
                data = pickle.dumps(error)
                if type(back := pickle.loads(data)) is type(error) and str(back) == str(error):
                    pickled = data
        text = traceback.format_exception_only(error)[-1].strip()
        return Failure(pickled, text, "".join(traceback.format_exception(error)))

    def raised(self) -> NoReturn:
        """Raise it here."""
        cause = WorkerTrace(f"on a worker:\n{self.trace}")
        own: Exception | None = None
        if self.pickled is not None:
            with suppress(AttributeError, ImportError, pickle.UnpicklingError):
                own = pickle.loads(self.pickled)
        if own is not None:
            raise own from cause
        raise WorkerError(f"the game of a worker raised {self.text}") from cause


@dataclass(frozen=True)
class Reply:
    """What a call gave: an answer, or an error."""

    answer: Any = None
    failure: Failure | None = None

    def value(self) -> Any:
        """The answer, or the error as the game raised it."""
        if self.failure is not None:
            self.failure.raised()
        return self.answer


class Host:
    """A game and what is called on it; the error of making it is kept until it is asked for.

    Args:
        factory: what makes the game, pickled.
        number: of the worker.
    """

    def __init__(self, factory: bytes, number: int) -> None:
        self._game: Any = None
        self.made = Reply()
        try:
            alone(number)
            self._game = as_game(_unpickled(factory)())
        except BaseException as error:
            self.made = Reply(failure=Failure.of(error))

    def is_made(self) -> Reply:
        """The error of making the game, if there was one."""
        return self.made

    def run(self, function: Callable[..., Any], *arguments: Any) -> Reply:
        """``function(game, *arguments)``."""
        try:
            return Reply(function(self._game, *arguments))
        except BaseException as error:
            return Reply(failure=Failure.of(error))


def serve(calls: "connection.Connection[Any, Any]", factory: bytes, number: int) -> None:
    """The main function of a worker's process: it ends when the other end of the pipe does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    end_with_parent()
    host = Host(factory, number)
    with suppress(EOFError, OSError):
        calls.send(host.made)
        while True:
            reply = host.run(*calls.recv())
            try:
                calls.send(reply)
            except (pickle.PicklingError, TypeError, AttributeError) as error:
                calls.send(Reply(failure=Failure.of(error)))


def end_with_parent() -> None:
    """End this process as soon as the one that started it has ended, killed or not."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_DEATH_OF_PARENT, signal.SIGKILL)
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _unpickled(factory: bytes) -> Callable[[], Any]:
    try:
        return pickle.loads(factory)
    except (AttributeError, ImportError) as error:
        raise WorkerError(
            f"a worker cannot import what makes the game ({error}): define it in a module file; "
            "workers see nothing of a notebook, of python -c or of a script on standard input"
        ) from error
