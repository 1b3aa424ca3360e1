"""Who fills a store: a file beside it, as a second lock.

SQLite's own locks do nothing on some network file systems, and are lost when another descriptor of
the file is closed in the process. So whoever fills a store makes ``NAME.holder`` beside it, which
two cannot make at once. It names the process: of one that has ended, on the same machine, it is
taken over at once; of one on another machine when it has not been touched for some time.
"""

import json
import os
import socket
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from spex_mech.results.files import explained

_BEAT = 5.0  # seconds between two touches
_STILL = 20.0  # seconds without one, after which the process on another machine has ended


class Holder:
    """The second lock of a store, held until :meth:`release`.

    Args:
        store: the file that is held; an absolute path.

    Raises:
        BlockingIOError: another run holds it.
        OSError: the lock cannot be written, as on a full disk.
    """

    def __init__(self, store: Path) -> None:
        self.store, self.path = store, store.with_name(f"{store.name}.holder")
        self._token, self._released = uuid.uuid4().hex, threading.Event()
        self._pid = os.getpid()
        for _ in range(100):
            if self._make():
                break
            held = read(self.path)
            if held and _lives(held, self.path):
                raise BlockingIOError(
                    f"{store} is in use by another run ({words_of(held)}); wait until it ends, or "
                    "give another file"
                )
            if read(self.path) == held:
                self.path.unlink(missing_ok=True)
        threading.Thread(target=self._beat, daemon=True).start()

    @property
    def is_fork(self) -> bool:
        """Whether this process is a fork of the one that holds the store (the game forks)."""
        return os.getpid() != self._pid

    def check(self) -> None:
        """Raises:
        BlockingIOError: another run has taken it, or this is a fork of the process that has it;
            nothing may be written any more.
        """
        if self.is_fork:
            raise BlockingIOError(
                f"{self.store} is filled by process {self._pid}, of which this one is a fork: "
                "nothing is written here; end a fork with os._exit"
            )
        held = read(self.path)
        if held.get("token") == self._token:
            return
        if held:
            raise BlockingIOError(
                f"{self.store} is filled by another run too ({words_of(held)}), which took its "
                "lock: nothing more is written here; what was committed is kept"
            )
        with suppress(OSError):  # somebody removed it; or its folder, and then there is no store
            self._make()

    def release(self) -> None:
        """Let others in."""
        self._released.set()
        if not self.is_fork and read(self.path).get("token") == self._token:
            self.path.unlink(missing_ok=True)

    def _make(self) -> bool:
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        text = json.dumps({**_this_process(), "token": self._token, "since": since})
        with explained(self.store):
            number, name = tempfile.mkstemp(prefix=f".{self.path.name}-", dir=self.path.parent)
            try:
                with os.fdopen(number, "w", encoding="utf-8") as file:
                    file.write(text)  # a full disk is found here, and leaves no lock
                return self._put(name, text)
            finally:
                os.unlink(name)

    def _put(self, name: str, text: str) -> bool:
        """The lock, whole or not at all; false: there is one."""
        try:
            os.link(name, self.path)
        except FileExistsError:
            return False
        except OSError:  # no hard links here
            try:
                with self.path.open("x", encoding="utf-8") as file:
                    file.write(text)
            except FileExistsError:
                return False
        return True

    def _beat(self) -> None:
        while not self._released.wait(_BEAT):
            with suppress(OSError):
                os.utime(self.path)


def read(path: Path) -> dict[str, Any]:
    """What a holder's file says; empty where there is none, or none of ours."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}


def words_of(held: dict[str, Any]) -> str:
    """Which process it is, and since when."""
    since = f" since {held['since']}" if "since" in held else ""
    return (
        f"process {held.get('pid', 'unknown')} on {held.get('host', 'an unknown machine')}{since}"
    )


def is_held(store: Path) -> dict[str, Any]:
    """Who fills a store now; empty where nobody does. Of another machine it takes some seconds."""
    path = store.with_name(f"{store.name}.holder")
    held = read(path)
    return held if held and _lives(held, path) else {}


def _this_process() -> dict[str, Any]:
    pid = os.getpid()
    where = socket.gethostname()
    with suppress(OSError):  # containers of one name have processes of their own
        where += os.readlink("/proc/self/ns/pid")
    return {
        "pid": pid, "host": socket.gethostname(), "where": where, "started": _started(pid),
    }  # fmt: skip


def _started(pid: int) -> str | None:
    """When a process started, in the system's count; None: there is none, or it is not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _lives(held: dict[str, Any], path: Path) -> bool:
    own = _this_process()
    if held.get("where") == own["where"]:
        pid = held.get("pid")
        if not isinstance(pid, int) or os.name != "posix":
            return False
        if own["started"] is not None:
            return _started(pid) == held.get("started") is not None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True
    since, before = time.monotonic(), _touched(path)
    while time.monotonic() - since < _STILL:
        time.sleep(0.2)
        if _touched(path) != before:
            return path.exists()
    return False


def _touched(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
