"""Errors of workers and interrupts, apart from what they need to run, so that the command line can
name them."""

from dataclasses import dataclass
from pathlib import Path


class WorkerError(RuntimeError):
    """A worker was lost, or its game raised what cannot be sent here; the text says which."""


@dataclass(frozen=True)
class Interruption:
    """What an interrupt has left of a search: the argument of its ``KeyboardInterrupt``. (A class
    of its own would end a script with code 1, and a shell's loop would go on.)

    Args:
        count: after how many evaluations it came, in words.
        kept: what became of them, in words.
        path: the store that has them; None: they are not kept.
        on: how to go on, in words.
    """

    count: str
    kept: str
    path: Path | None = None
    on: str = ""

    def __str__(self) -> str:
        return f"{self.count}; {self.kept}" + (f": {self.on}" if self.on else "")

    @staticmethod
    def of(error: BaseException) -> "Interruption | None":
        """What an interrupt says, if it is of a search."""
        said = error.args[0] if error.args else None
        return said if isinstance(said, Interruption) else None


class WorkerTrace(Exception):
    """The traceback of an error on a worker, as text: the cause of the error here."""
