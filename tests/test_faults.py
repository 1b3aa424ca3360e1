"""Faults that are real: another user's files, file systems whose locks fail, and a limit on the
size of files, as the nearest to a full disk that any machine can have."""

import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.random
import pytest
import torch

import spex_mech as sm
from spex_mech import cli
from spex_mech.runs import interrupts
from tests.test_store_file import Sums, beside, run

pytestmark = pytest.mark.skipif(os.name != "posix", reason="users, forks and locks as of POSIX")
ROOT = Path(__file__).parents[1]
_NOBODY = 65534


def in_a_child(call: Callable[[], Any], as_nobody: bool = False) -> str:
    """What a call gives or raises, and what it warns of, in a process of its own: of a user without
    rights, as tests may be run by root, who may write anywhere."""
    ready, tell = os.pipe()
    if (child := os.fork()) == 0:
        try:
            torch.set_num_threads(1)
            if as_nobody and os.geteuid() == 0:
                os.setgroups([])
                os.setgid(_NOBODY)
                os.setuid(_NOBODY)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                text = str(call())
            text = "\n".join([text, *(str(one.message) for one in said)])
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(tell, text.encode()[:60_000])
        os._exit(0)
    os.close(tell)
    with open(ready, encoding="utf-8") as told:
        text = told.read()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that everybody may come to, unlike those of pytest."""
    place = Path(tempfile.mkdtemp(prefix="spex-mech-test-"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        for path in (place, *place.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(place)


# -- files of another user ------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["folder and file", "folder", "file"])
def test_a_finished_result_of_another_user_is_read(what: str, folder: Path) -> None:
    place = folder / "theirs"
    place.mkdir()
    store = place / "run.db"
    first = run(store)[1]
    run(folder / "warm.db")
    store.chmod(0o666 if what == "folder" else 0o444)
    place.chmod(0o777 if what == "file" else 0o555)
    before = store.read_bytes()

    def again() -> str:
        asked, found = run(store)
        return f"asked {asked}, the same: {np.array_equal(found.values, first.values)}"

    told = in_a_child(again, as_nobody=True)
    assert told.startswith("asked 0, the same: True\n"), told
    assert "cannot be written: its finished result is returned, and nothing is kept" in told
    refused = in_a_child(lambda: run(store, 420), as_nobody=True)
    assert refused.startswith(
        "PermissionError: [Errno 13] the store cannot be written; give a file"
    )
    assert str(store) in refused
    assert store.read_bytes() == before and beside(place) == {"run.db"}


def test_what_is_new_is_refused_where_nothing_can_be_written(folder: Path) -> None:
    found = run(folder / "warm.db")[1]
    found.save(folder / "warm.npz")
    place = folder / "theirs"
    place.mkdir(mode=0o555)
    place.chmod(0o555)
    for call in (lambda: run(place / "run.db"), lambda: run(place / "new" / "run.db")):
        told = in_a_child(call, as_nobody=True)
        assert told.startswith("PermissionError") and str(place) in told, told
    told = in_a_child(lambda: found.save(place / "found.npz"), as_nobody=True)
    assert told.startswith("PermissionError") and str(place / "found.npz") in told, told
    assert beside(place) == set()


def test_the_command_line_looks_whether_it_may_write_before_it_works(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = folder / "theirs"
    place.mkdir()
    place.chmod(0o555)
    for words in (["discover"], ["demo"], ["sweep", "--models", "demo"]):
        code = in_a_child(lambda w=words: cli.main([*w, "--out", str(place)]), as_nobody=True)
        lines = capfd.readouterr().err.splitlines()
        assert code == "2\n" or code == "2", code
        assert len(lines) == 1 and f"--out {place}: nothing can be written there" in lines[0]
    assert beside(place) == set()


def test_an_interrupt_where_nothing_can_be_written_is_kept_elsewhere(folder: Path) -> None:
    run(folder / "warm.db")
    place, temporary = folder / "theirs", folder / "temporary"
    place.mkdir()
    place.chmod(0o555)
    temporary.mkdir()
    temporary.chmod(0o777)

    def searched() -> None:
        os.chdir(place)
        tempfile.tempdir, interrupts._WORTH = str(temporary), 0.0

        def stop(asked: int) -> None:
            if asked > 200:
                raise KeyboardInterrupt

        sm.discover(Sums(hook=stop), "exhaustive", 400, progress=False)

    told = in_a_child(searched, as_nobody=True)
    [file] = temporary.iterdir()
    assert told.startswith("KeyboardInterrupt: interrupted after 1"), told
    assert f"they are kept in {file}:" in told and beside(place) == set()
    assert run(file)[0] < 250


# -- a full disk ----------------------------------------------------------------------------------


def limited(size: int, call: Callable[[], Any]) -> Callable[[], Any]:
    """The call in a process whose files may have so many bytes."""

    def within() -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return call()

    return within


def test_results_that_do_not_fit_leave_the_earlier_ones(folder: Path) -> None:
    from spex_mech.report.folder import write_all

    first, second = (
        sm.discover(lambda m, s=s: s * (m[:, 0] & m[:, 1]).double(), n=3, progress=False)
        for s in (1.0, 2.0)
    )
    write_all(first, folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    largest, npz = max(map(len, before.values())), len(before["interactions.npz"])
    assert npz < largest // 4
    told = in_a_child(limited(largest // 2, lambda: write_all(second, folder)))
    assert told.startswith(f"OSError: {folder} cannot be written to (File too large)"), told
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    kept = Path(told.rsplit(" ", 1)[1].strip())
    assert sm.Interactions.load(kept).mean[0] == second.mean[0]
    shutil.rmtree(kept.parent)


def test_a_result_that_does_not_fit_leaves_the_earlier_one(folder: Path) -> None:
    found = run(folder / "run.db")[1]
    saved = found.save(folder / "found.npz")
    before = saved.read_bytes()
    told = in_a_child(limited(1000, lambda: found.save(saved)))
    assert told.startswith("OSError") and "found.npz" in told, told
    assert saved.read_bytes() == before and beside(folder) == {"run.db", "found.npz"}


def test_an_interrupt_that_does_not_fit_says_so(folder: Path) -> None:
    run(folder / "warm.db")

    def searched() -> None:
        os.chdir(folder)
        interrupts._WORTH = 0.0

        def stop(asked: int) -> None:
            if asked > 200:
                raise KeyboardInterrupt

        sm.discover(Sums(hook=stop), "exhaustive", 400, progress=False)

    told = in_a_child(limited(20_000, searched))
    assert told.startswith("KeyboardInterrupt: interrupted after 1"), told
    assert "they could not be kept" in told
    assert beside(folder) == {"warm.db"}


# -- file systems without locks -------------------------------------------------------------------

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#define FALSE_LOCKS(name) \\
    int name(int file, int command, ...) { \\
        va_list given; \\
        va_start(given, command); \\
        void *argument = va_arg(given, void *); \\
        va_end(given); \\
        if (command == F_SETLK || command == F_SETLKW) { \\
            if (!getenv("ENOLCK")) return 0; \\
            errno = ENOLCK; \\
            return -1; \\
        } \\
        int (*real)(int, int, ...) = (int (*)(int, int, ...)) dlsym(RTLD_NEXT, #name); \\
        return real(file, command, argument); \\
    }
FALSE_LOCKS(fcntl)
FALSE_LOCKS(fcntl64)
"""
HELD = """
import sys
from pathlib import Path
from spex_mech.runs.store import opened
from tests.test_store_file import Sums
with opened(sys.argv[1], Sums()):
    print("held", flush=True)
    sys.stdin.read()
"""
SEARCH = """
import sys
from pathlib import Path
from tests.test_store_file import run
print(run(Path(sys.argv[1]))[0])
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In front of the system's locks: they do nothing, or fail with ENOLCK."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("there is no C compiler, or this is not Linux")
    place = tmp_path_factory.mktemp("shim")
    (place / "locks.c").write_text(SHIM)
    library = place / "locks.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", library, place / "locks.c", "-ldl"], check=True
    )
    return library


def shimmed(shim: Path, script: str, store: Path, **environment: str) -> dict[str, Any]:
    """What ``Popen`` needs for a process with such locks."""
    given = {**os.environ, "PYTHONPATH": str(ROOT), "LD_PRELOAD": str(shim), **environment}
    return {"args": [sys.executable, "-c", script, str(store)], "env": given, "text": True}


@pytest.mark.slow
def test_locks_that_do_nothing_let_nobody_in(shim: Path, tmp_path: Path) -> None:
    store = tmp_path / "run.db"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(**shimmed(shim, HELD, store), **pipes) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        second = subprocess.run(
            **shimmed(shim, SEARCH, store), capture_output=True, check=False, timeout=120
        )
        assert f"in use by another run (process {first.pid} on" in second.stderr, second.stderr
        first.communicate("", timeout=60)
    assert run(store)[0] == 400
    assert run(store)[0] == 0 and beside(tmp_path) == {"run.db"}


def test_a_file_system_that_has_no_locks_is_named(shim: Path, tmp_path: Path) -> None:
    store = tmp_path / "run.db"
    failed = subprocess.run(
        **shimmed(shim, SEARCH, store, ENOLCK="1"), capture_output=True, check=False, timeout=120
    )
    last = failed.stderr.splitlines()[-1]
    assert "the file system has no locks; give a file on a local disk" in last, failed.stderr
    assert str(store) in last and beside(tmp_path) <= {"run.db"}
    assert run(store)[0] == 400


def test_modes_are_what_they_seem(folder: Path) -> None:
    """That the tests above try something: nobody may not write into a folder that is read-only."""
    folder.chmod(0o555)
    told = in_a_child(lambda: (folder / "new").write_text("x"), as_nobody=True)
    assert told.startswith("PermissionError")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o555
