"""Workers that die, hang, raise or cannot start, drivers that are killed: what is told, and
that no process stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spex_mech as sm
from spex_mech import cli
from spex_mech.runs.errors import WorkerError, WorkerTrace
from tests.workers import (
    Planted,
    deadly,
    deadly_at_half,
    hanging,
    hanging_at_half,
    hangs_once,
    holding_a_lock,
    impossible,
    slow_of_one_mask,
    two_arguments,
)  # fmt: skip

POSIX = pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does")
ROOT = Path(__file__).parents[1]
QUIET: dict[str, Any] = {"progress": False, "method": "exhaustive"}

# A shell that starts the tests in the background has interrupts ignored, also by what they start.
DRIVER = """
import signal
import sys
from functools import partial
from pathlib import Path
import spex_mech as sm
from tests.workers import busy
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sm.discover(partial(busy, Path(sys.argv[1])), "exhaustive", workers=2, progress=False)
"""


@contextmanager
def driver_at_work(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process whose two workers compute for ever, and the workers' numbers."""
    script = folder / "driver.py"
    script.write_text(DRIVER)
    (folder / "pids").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(script), str(folder / "pids")], env=environment, text=True,
        stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        pids: list[int] = []
        try:
            until = time.monotonic() + 120
            while len(pids) < 2 and time.monotonic() < until and process.poll() is None:
                time.sleep(0.05)
                pids = [int(path.name) for path in (folder / "pids").iterdir()]
            assert len(pids) == 2, "the workers did not begin"
            yield process, pids
        finally:
            for pid in [process.pid, *pids]:
                if lives(pid):
                    os.kill(pid, signal.SIGKILL)
            process.communicate()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pids: list[int], within: float) -> bool:
    until = time.monotonic() + within
    while any(map(lives, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(lives, pids))


@POSIX
@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=["SIGKILL", "SIGTERM"],
)
def test_workers_end_with_their_driver_however_it_ends(
    number: signal.Signals, tmp_path: Path
) -> None:
    with driver_at_work(tmp_path) as (driver, pids):
        driver.send_signal(number)
        assert driver.wait(10) == -number
        assert gone(pids, 10), "workers stay behind"


@POSIX
@pytest.mark.slow
def test_an_interrupt_ends_workers_that_hang(tmp_path: Path) -> None:
    with driver_at_work(tmp_path) as (driver, pids):
        driver.send_signal(signal.SIGINT)
        time.sleep(0.2)
        driver.send_signal(signal.SIGINT)  # an impatient user
        driver.wait(15)
        assert gone(pids, 2), "workers stay behind"
        assert driver.stderr is not None and "KeyboardInterrupt" in driver.stderr.read()


@POSIX
@pytest.mark.slow
def test_the_command_line_ends_its_workers_when_it_is_terminated(tmp_path: Path) -> None:
    words = ["discover", "--units", "heads+neurons", "--workers", "2", "--budget", "200000"]
    words += ["--method", "exhaustive", "--store", str(tmp_path / "run.db")]
    with subprocess.Popen(
        [sys.executable, "-m", "spex_mech", *words, "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            until = time.monotonic() + 120
            while not (tmp_path / "run.db").exists() and time.monotonic() < until:
                time.sleep(0.1)
            children = Path(f"/proc/{process.pid}/task").glob("*/children")
            pids = [int(pid) for file in children for pid in file.read_text().split()]
            assert len(pids) >= 2
            process.terminate()
            assert process.wait(20) == 143
            assert process.stderr is not None
            assert process.stderr.read().strip().endswith("spex-mech: terminated")
            assert gone(pids, 5), "workers stay behind"
        finally:
            process.kill()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("run")] == ["run.db"]


@pytest.mark.slow
def test_a_mask_that_always_kills_is_named() -> None:
    told = (
        r"^with d, f ablated every worker is lost \(exit code 7\): 3 one after the other\. "
        r"What was committed to a store is kept"
    )
    with pytest.raises(WorkerError, match=told):
        sm.discover(deadly, workers=1, **QUIET)


@pytest.mark.slow
def test_an_evaluation_that_hangs_is_ended_and_named() -> None:
    told = (
        r"with d, f ablated an evaluation takes longer than timeout=0\.2 s, on 3 workers one after"
    )
    with pytest.raises(TimeoutError, match=told):
        sm.discover(hanging, workers=1, timeout=0.2, **QUIET)


@pytest.mark.parametrize(
    ("game", "error", "told"),
    [
        (deadly_at_half, WorkerError, r"^with a, c, e, g ablated every worker is lost"),
        pytest.param(
            hanging_at_half,
            TimeoutError,
            r"^with a, c, e, g ablated an evaluation takes longer than",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_mask_of_the_trial_is_named_too(game: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told) as raised:
        sm.discover(game, workers=1, timeout=0.3, **QUIET)
    assert "to find out how the function is called" in raised.value.__notes__[0]


@pytest.mark.slow
def test_a_trial_may_take_as_long_as_its_masks() -> None:
    found = sm.discover(slow_of_one_mask, workers=1, timeout=0.25, **QUIET)
    assert found.value("a", "b") == 1.0


@pytest.mark.slow
def test_an_evaluation_that_hung_once_is_asked_again(tmp_path: Path) -> None:
    alone = sm.discover(Planted(), budget=150, progress=False)
    game = partial(hangs_once, tmp_path / "hung")
    found = sm.discover(game, budget=150, workers=1, timeout=0.3, progress=False)
    assert (tmp_path / "hung").exists()
    np.testing.assert_array_equal(alone.values, found.values)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"timeout": 1.0}, "timeout= needs workers=1 or more"),
        ({"timeout": 0.0, "workers": 1}, "timeout is 0 s; it must be more than 0"),
    ],
)
def test_a_timeout_that_cannot_be(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sm.discover(deadly, **options, **QUIET)


@pytest.mark.parametrize(
    ("game", "told"),
    [
        (two_arguments, r"raised tests\.workers\.Refused: prompt 7 is too long"),
        (holding_a_lock, r"raised tests\.workers\.Locked: the server is gone"),
    ],
)
def test_an_error_that_cannot_be_sent_is_told(game: Any, told: str) -> None:
    with pytest.raises(WorkerError, match=told) as error:
        sm.discover(game, workers=1, **QUIET)
    assert isinstance(error.value.__cause__, WorkerTrace)
    assert "in refuses" in str(error.value.__cause__)  # the line where it happened


def test_an_error_while_workers_start_is_that_error() -> None:
    with pytest.raises(ValueError, match="no such data set: faces"):
        sm.discover(impossible, workers=2, **QUIET)


def test_the_command_line_tells_it_in_one_line(tmp_path: Path, capsys: Any) -> None:
    words = ["discover", "--task", "inducton", "--workers", "1", "--out", str(tmp_path / "o")]
    assert cli.main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "inducton" in lines[0]


def ran(script: str, folder: Path, stdin: bool = False) -> subprocess.CompletedProcess[str]:
    (folder / "script.py").write_text(script)
    words = [] if stdin else [str(folder / "script.py")]
    return subprocess.run(
        [sys.executable, *words], input=script if stdin else None, text=True, check=False,
        capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120,
    )  # fmt: skip


def test_a_missing_guard_is_named(tmp_path: Path) -> None:
    script = "import spex_mech as sm\nsm.discover(sm.GameFactory('demo'), workers=2)\n"
    run = ran(script, tmp_path)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert "put it under  if __name__ == '__main__':" in last
    assert run.stderr.count("Traceback") == 1 and len(run.stderr.splitlines()) < 60


def test_a_factory_that_workers_cannot_import_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import spex_mech as sm\nfrom tests.workers import Planted\n"
        "def make():\n    return Planted()\n"
        "sm.discover(make, workers=1, progress=False)\n"
    )
    run = ran(script, tmp_path, stdin=True)
    assert run.returncode == 1
    assert "a script on standard input has none: save it as a file" in run.stderr.splitlines()[-1]

    def make() -> Planted:
        return Planted()

    make.__module__, make.__qualname__ = "tests.workers", "of_a_notebook"
    monkeypatch.setattr(sys.modules["tests.workers"], "of_a_notebook", make, raising=False)
    with pytest.raises(WorkerError, match="define it in a module file; workers see nothing of a n"):
        sm.discover(make, workers=1, **QUIET)


def test_a_worker_that_ends_before_its_game_is_made_is_told() -> None:
    told = r"3 workers, one after the other, ended before .* \(killed by SIGABRT\)"
    with pytest.raises(WorkerError, match=told):
        sm.discover(os.abort, workers=1, **QUIET)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_says_what_it_has_no_room_for_and_which_mask_kills() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    many = (os.cpu_count() or 1) + 1
    told = rf"{many} workers need as many CPUs, and the Ray cluster has {many - 1}; give workers="
    with pytest.raises(ValueError, match=told):
        sm.discover(deadly, workers=many, address="local", **QUIET)
    with pytest.raises(WorkerError, match="with d, f ablated every worker is lost"):
        sm.discover(deadly, workers=1, address="local", **QUIET)
    with pytest.raises(WorkerError, match="Refused: prompt 7 is too long"):
        sm.discover(two_arguments, workers=1, address="local", **QUIET)
    with pytest.raises(TimeoutError, match="with d, f ablated an evaluation takes longer"):
        sm.discover(hanging, workers=1, timeout=1.0, address="local", **QUIET)
