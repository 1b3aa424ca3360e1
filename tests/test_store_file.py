"""The store as a file: second locks, what lies beside it, copies, moves, viewers, old and read-only
files, and what the command line shows of one."""

import fcntl
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import spex_mech as sm
from spex_mech import cli
from spex_mech.runs import holder as holders
from spex_mech.runs import marks
from spex_mech.runs import store as stores
from spex_mech.runs.contents import contents, export
from spex_mech.runs.store import opened
from spex_mech.search.exhaustive import Exhaustive

pytestmark = pytest.mark.skipif(os.name != "posix", reason="forks, kills and locks as POSIX does")
ROOT = Path(__file__).parents[1]


class Sums:
    """One pair and a sum over 40 units; it dies where it is told to."""

    masks_per_batch, labels = 16, tuple(str(i) for i in range(40))

    def __init__(self, dies_after: int | None = None, hook: Callable[[int], Any] = len) -> None:
        self.asked, self.dies_after = 0, dies_after
        self.hook: Any = (lambda _: None) if hook is len else hook

    def __len__(self) -> int:
        return 40

    def identity(self) -> dict[str, Any]:
        return {"game": 1}

    def __call__(self, masks: Tensor) -> Tensor:
        self.asked += len(masks)
        self.hook(self.asked)
        if self.dies_after is not None and self.asked > self.dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return (masks[:, 0] & masks[:, 1]).double() + masks.double() @ torch.arange(40.0).double()


def run(store: Path, budget: int = 400, game: Sums | None = None) -> tuple[int, sm.Interactions]:
    """How many masks were asked besides the opening's, and the result."""
    game = Sums() if game is None else game
    found = sm.discover(game, "exhaustive", budget, store=store, progress=False)
    return game.asked - 3, found


def killed(store: Path, dies_after: int = 180, budget: int = 400) -> int:
    """A process of its own that is killed; its number."""
    if (child := os.fork()) == 0:
        try:
            run(store, budget, Sums(dies_after))
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    return child


def beside(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- what lies beside it ---------------------------------------------------------------------------


def test_a_run_that_ends_leaves_one_file_and_a_killed_one_two(tmp_path: Path) -> None:
    killed(tmp_path / "run.db")
    assert beside(tmp_path) == {"run.db", "run.db-wal", "run.db.holder"}
    asked, _ = run(tmp_path / "run.db")
    assert 0 < asked < 400 - 100 and beside(tmp_path) == {"run.db"}


def test_a_copy_without_what_is_beside_it_says_so(tmp_path: Path) -> None:
    killed(tmp_path / "run.db")
    shutil.copy(tmp_path / "run.db", tmp_path / "copy.db")
    with pytest.warns(UserWarning, match=r"copy\.db was copied or moved without copy\.db-wal, whi"):
        asked, found = run(tmp_path / "copy.db")
    assert asked == 400
    shutil.copy(tmp_path / "run.db", tmp_path / "copy2.db")
    (tmp_path / "copy2.db-wal").touch()  # as a copy that was interrupted leaves it
    with pytest.warns(UserWarning, match=r"copy2\.db was copied or moved without copy2\.db-wal"):
        assert run(tmp_path / "copy2.db")[0] == 400
    both, same = run(tmp_path / "run.db")
    assert both < 300 and np.array_equal(found.values, same.values)
    shutil.copy(tmp_path / "run.db", tmp_path / "whole.db")  # of a run that ended: no word
    assert run(tmp_path / "whole.db")[0] == 0


def test_behind_a_link_what_is_beside_the_file_counts(tmp_path: Path) -> None:
    """It was once looked for beside the link: a killed run was said to be lost, and what another
    run had left was carried into the file, which spoilt it."""
    (tmp_path / "disk").mkdir()
    store, link = tmp_path / "disk" / "run.db", tmp_path / "link.db"
    link.symlink_to(store)
    killed(link)
    assert beside(tmp_path / "disk") == {"run.db", "run.db-wal", "run.db.holder"}
    assert "belongs to it, so copy both" in contents(link) and "not finished" in contents(link)
    assert 0 < run(link)[0] < 400 - 100 and beside(tmp_path) == {"disk", "link.db"}
    shutil.copy(store, tmp_path / "backup.db")
    killed(link, budget=600)
    shutil.copy(tmp_path / "backup.db", store)
    with pytest.raises(ValueError, match=r"run\.db-wal does not belong to this run\.db, and would"):
        run(link, 600)


@pytest.mark.parametrize("when", ["after another run", "in the middle of the same run"])
def test_a_backup_beside_what_is_newer_is_refused_and_not_spoilt(when: str, tmp_path: Path) -> None:
    store, backup = tmp_path / "run.db", tmp_path / "backup.db"
    if when == "after another run":
        run(tmp_path / "old.db", 100)
        shutil.copy(tmp_path / "old.db", store)
        shutil.copy(store, backup)
        killed(store)
    else:
        before = stores._CARRIED_OVER
        try:
            stores._CARRIED_OVER = 0, 0.0  # at every commit
            copied: list[int] = []

            def copy(asked: int) -> None:
                if asked > 90 and not copied:
                    copied.append(asked)
                    shutil.copyfile(store, backup)

            if (child := os.fork()) == 0:
                try:
                    run(store, 400, Sums(180, copy))
                finally:
                    traceback.print_exc()
                    os._exit(1)
            os.waitpid(child, 0)
        finally:
            stores._CARRIED_OVER = before
    shutil.copy(backup, store)
    data = store.read_bytes()
    with pytest.raises(ValueError, match=r"run\.db-wal does not belong to this run\.db, and would"):
        run(store, 600)
    assert store.read_bytes() == data
    (tmp_path / "run.db-wal").rename(tmp_path / "away")
    with warnings.catch_warnings():
        # A backup of a run's middle lacks what was beside it then.
        warnings.filterwarnings("ignore", message=".*was copied or moved without run.db-wal")
        run(store, 600)


@pytest.mark.parametrize("carried_over", [(0, 0.0), (4_000_000, 30.0)])
def test_what_is_beside_it_belongs_to_it_wherever_it_was_killed(
    carried_over: tuple[int, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_CARRIED_OVER", carried_over)
    whole, store, dies = run(tmp_path / "whole.db")[1], tmp_path / "run.db", 20
    while True:
        if (child := os.fork()) == 0:
            run(store, 400, Sums(dies))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
    assert np.array_equal(run(store)[1].values, whole.values)


@pytest.mark.parametrize("n_bytes", [32, 40, 56])
def test_a_run_that_is_killed_as_it_opens_its_file_costs_nothing(
    n_bytes: int, tmp_path: Path
) -> None:
    """All was carried over, and of the next ``-wal`` only the header is there, as SQLite waits for
    the disk then. It was refused as that of another file."""
    store, wal = tmp_path / "run.db", tmp_path / "run.db-wal"
    killed(store)
    begun = wal.read_bytes()[:n_bytes]
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        connection.execute("UPDATE mark SET opened = 1, token = 'another', again = 0")
    wal.write_bytes(begun)
    asked, found = run(store)
    assert 0 < asked < 400 - 100
    assert np.array_equal(found.values, run(tmp_path / "whole.db")[1].values)
    assert beside(tmp_path) == {"run.db", "whole.db"}


@pytest.mark.parametrize("statement", [1, 2, 3])
def test_a_run_that_is_killed_before_all_is_carried_over_costs_nothing(
    statement: int, tmp_path: Path
) -> None:
    """A new word was in the ``-wal`` alone then, which was refused as that of another file."""
    store, carry_over = tmp_path / "run.db", marks.carry_over
    run(store, 100)
    told: list[str] = []

    def trace(sql: str) -> None:
        told.append(sql)
        if len(told) == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(connection: sqlite3.Connection) -> None:
        connection.set_trace_callback(trace)
        carry_over(connection)

    if (child := os.fork()) == 0:
        try:
            marks.carry_over = dying
            run(store)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    asked, found = run(store)
    assert asked < 400 and np.array_equal(found.values, run(tmp_path / "whole.db")[1].values)


FORK = """
import os, sys
from pathlib import Path
from tests.test_store_file import Sums, run

ends = ["goes on", "exits", "raises"]

def fork(asked):
    if asked <= 100 or not ends:
        return
    end = ends.pop()
    if (pid := os.fork()) == 0:
        if end == "raises":
            raise RuntimeError("in the fork")
        if end == "exits":
            sys.exit()
        return  # the fork goes on as if it were the run
    os.waitpid(pid, 0)
    print(end)

print(run(Path(sys.argv[1]), 150, Sums(hook=fork))[0])
"""


def test_a_fork_in_the_game_does_not_spoil_the_file(tmp_path: Path) -> None:
    """A fork that ended in any way but by os._exit closed its parent's file, and spoilt it."""
    store = tmp_path / "run.db"
    ran = subprocess.run(
        [sys.executable, "-c", FORK, str(store)],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert ran.stdout.splitlines() == ["raises", "exits", "goes on", "150"], ran.stderr
    assert ran.stderr.count("RuntimeError: in the fork") == 1
    assert "of which this one is a fork: nothing is written here" in ran.stderr
    assert beside(tmp_path) == {"run.db"}
    asked, found = run(store, 150)
    assert asked == 0 and np.array_equal(found.values, run(tmp_path / "other.db", 150)[1].values)


def test_a_file_that_is_moved_or_removed_meanwhile_is_noticed(tmp_path: Path) -> None:
    alone = run(tmp_path / "alone.db")[1]

    def move(asked: int) -> None:
        if asked > 100 and (tmp_path / "run.db").exists():
            (tmp_path / "run.db").rename(tmp_path / "moved.db")

    with pytest.warns(
        UserWarning, match=r"run\.db was moved, removed or replaced while it was fil"
    ):
        _, found = run(tmp_path / "run.db", 400, Sums(hook=move))
    assert np.array_equal(found.values, alone.values)
    assert run(tmp_path / "moved.db")[0] == 0  # all that was evaluated went with it

    folder = tmp_path / "folder"
    with pytest.warns(UserWarning, match="was moved, removed or replaced"):
        _, found = run(
            folder / "run.db",
            400,
            Sums(hook=lambda asked: shutil.rmtree(folder, ignore_errors=True) if asked > 99 else 0),
        )
    assert np.array_equal(found.values, alone.values)


def test_a_game_that_changes_the_folder_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    run(Path("run.db"), 400, Sums(hook=lambda _: os.chdir(tmp_path / "b")))
    assert beside(tmp_path / "a") == {"run.db"} and beside(tmp_path / "b") == set()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_disk_that_is_full_from_the_start_is_told_and_left_unlocked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_a_full_disk(**given: Any) -> tuple[int, str]:
        (tmp_path / "new").touch()
        return os.open("/dev/full", os.O_WRONLY), str(tmp_path / "new")

    with monkeypatch.context() as patch:
        patch.setattr(holders.tempfile, "mkstemp", on_a_full_disk)
        with pytest.raises(OSError, match=r"run\.db cannot be written"):
            run(tmp_path / "run.db", 400)
    assert not [*tmp_path.iterdir()]
    run(tmp_path / "run.db", 400)


@pytest.mark.parametrize("name", ["a" * 239, "a" * 300, "\u00e9" * 130])
def test_a_name_that_is_too_long_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"name .* bytes; give one of at most 238"):
        run(tmp_path / name)
    assert beside(tmp_path) == set()
    run(tmp_path / ("a" * 238))
    assert beside(tmp_path) == {"a" * 238}


# -- who fills it ----------------------------------------------------------------------------------


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite without locks, as on a file system where they do nothing."""
    connect = sqlite3.connect

    def unlocked(path: Any, **options: Any) -> sqlite3.Connection:
        return connect(f"file:{path}?vfs=unix-none", uri=True, **options)

    monkeypatch.setattr(stores.sqlite3, "connect", unlocked)


def test_two_runs_are_told_apart_where_locks_do_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_locks(monkeypatch)
    with opened(tmp_path / "run.db", Sums()):
        ready, tell = os.pipe()
        if (child := os.fork()) == 0:
            try:
                run(tmp_path / "run.db")
                os.write(tell, b"let in")
            except BlockingIOError as error:
                os.write(tell, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        told = os.read(ready, 1000).decode()
        assert f"in use by another run (process {os.getpid()} on" in told
    assert run(tmp_path / "run.db")[0] == 400


def test_a_game_that_reads_the_store_does_not_let_others_in(tmp_path: Path) -> None:
    """Closing any descriptor of a file drops the locks that the process has on it."""
    store = tmp_path / "run.db"
    told: list[str] = []

    def read_it(asked: int) -> None:
        store.read_bytes()
        if asked < 100 or told:
            return
        ready, tell = os.pipe()
        if (child := os.fork()) == 0:
            try:
                run(store)
                os.write(tell, b"let in")
            except BlockingIOError as error:
                os.write(tell, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
        told.append(os.read(ready, 1000).decode())

    run(store, 400, Sums(hook=read_it))
    assert "in use by another run" in told[0]
    assert run(store)[0] == 0


def test_a_lock_that_another_run_took_stops_this_one(tmp_path: Path) -> None:
    holder = tmp_path / "run.db.holder"

    def take(asked: int) -> None:
        if asked > 100:
            holder.write_text(json.dumps({"pid": 17, "host": "elsewhere", "token": "theirs"}))

    with pytest.raises(BlockingIOError, match=r"process 17 on elsewhere\), which took its lock"):
        run(tmp_path / "run.db", 400, Sums(hook=take))
    assert "theirs" in holder.read_text()  # it is theirs
    holder.unlink()
    assert run(tmp_path / "run.db")[0] < 320
    # One that somebody removed is made again.
    run(tmp_path / "two.db", 400, Sums(hook=lambda n: (tmp_path / "two.db.holder").unlink(True)))
    assert beside(tmp_path) == {"run.db", "two.db"}


def test_a_dead_run_on_another_machine_is_waited_for_and_a_living_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holders, "_STILL", 1.5)
    holder = tmp_path / "run.db.holder"
    there = {"pid": 1, "host": "elsewhere", "where": "elsewhere", "token": "theirs"}
    holder.write_text(json.dumps(there))
    started = time.monotonic()
    run(tmp_path / "run.db")
    assert time.monotonic() - started > 1.5 and not holder.exists()
    holder.write_text(json.dumps(there))
    if (child := os.fork()) == 0:
        for _ in range(30):
            time.sleep(0.1)
            os.utime(holder)
        os._exit(0)
    with pytest.raises(BlockingIOError, match=r"in use by another run \(process 1 on elsewhere\)"):
        run(tmp_path / "run.db")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_a_viewer_is_named_and_not_the_dead_run(tmp_path: Path) -> None:
    store = tmp_path / "run.db"
    killed(store)
    with closing(sqlite3.connect(store)) as viewer:
        viewer.execute("SELECT count(*) FROM evaluations").fetchone()
        rows = viewer.execute("SELECT mask FROM evaluations")
        rows.fetchone()
        script = (
            "import sys; from pathlib import Path; from tests.test_store_file import run\n"
            "run(Path(sys.argv[1]))"
        )
        other = subprocess.run(
            [sys.executable, "-c", script, str(store)], cwd=ROOT, text=True, capture_output=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip
        last = other.stderr.splitlines()[-1]
        assert "another program has" in last and "(a viewer, a backup?)" in last, last
        rows.close()
    assert run(store)[0] < 300


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: Any) -> None:
        error = sqlite3.OperationalError("database is locked")
        error.sqlite_errorname = "SQLITE_BUSY"
        raise error

    def none(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(stores, "_prepare", busy)
    with pytest.raises(BlockingIOError, match="another program has"):
        run(tmp_path / "run.db")
    monkeypatch.setattr(fcntl, "lockf", none)
    with pytest.raises(OSError, match="the file system has no locks; give a file on a local disk"):
        run(tmp_path / "run.db")
    assert not (tmp_path / "run.db.holder").exists()


# -- old, other and read-only ones -----------------------------------------------------------------


def other_version(store: Path) -> None:
    with closing(sqlite3.connect(store)) as file:
        kept = json.loads(file.execute("SELECT identity FROM game").fetchone()[0])
        kept["version of numpy"] = "1.0.5"
        file.execute("UPDATE game SET identity = ?", (json.dumps(kept),))
        file.commit()


def test_after_an_upgrade_it_goes_on_with_a_warning(tmp_path: Path) -> None:
    store = tmp_path / "run.db"
    first = run(store)[1]
    other_version(store)
    told = (
        r"filled with other versions: version of numpy is .*, the store has 1\.0\.5\. The values "
    )
    with pytest.warns(UserWarning, match=told):
        asked, again = run(store)
    assert asked == 0 and np.array_equal(first.values, again.values)
    with pytest.warns(UserWarning, match=told):
        assert run(store, 420)[1].cost["reused"] > 200


def test_after_an_upgrade_that_changed_a_value_it_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "run.db")
    other_version(tmp_path / "run.db")

    class Newer(Sums):
        def __call__(self, masks: Tensor) -> Tensor:
            return 1.001 * super().__call__(masks)

    with pytest.raises(ValueError, match="holds other values than the game has now"):
        run(tmp_path / "run.db", 400, Newer())


def test_a_finished_result_is_read_from_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "run.db"
    first, before = run(store)[1], store.read_bytes()
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.warns(UserWarning, match="cannot be written: its finished result is returned"):
        asked, again = run(store)
    assert asked == 0 and np.array_equal(first.values, again.values)
    with pytest.raises(PermissionError, match="the store cannot be written"):
        run(store, 420)
    assert store.read_bytes() == before and beside(tmp_path) == {"run.db"}


def test_a_finished_search_of_ones_own_is_worked_out_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It once ended with an error, after everything was worked out again."""
    store, options = tmp_path / "run.db", {"n": 6, "progress": False}

    def both(masks: Tensor) -> Tensor:
        return (~masks[:, :2]).all(dim=1).double()

    first = sm.discover(both, Exhaustive(6), store=store, **options)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.warns(UserWarning, match="cannot be written"):
        again = sm.discover(both, Exhaustive(6), store=store, **options)
    assert np.array_equal(first.values, again.values)


def test_a_store_of_the_first_format_is_brought_up_to_date(tmp_path: Path) -> None:
    store = tmp_path / "run.db"
    first = run(store)[1]
    with closing(sqlite3.connect(store)) as file:
        file.execute("DROP TABLE checks")
        file.execute("DROP TABLE mark")
        file.execute("ALTER TABLE batches DROP COLUMN seconds")
        file.execute("PRAGMA user_version = 1")
        file.commit()
    asked, again = run(store)
    assert asked == 0 and np.array_equal(first.values, again.values)
    assert run(store, 420)[1].cost["reused"] > 200


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE checks SET units = '{'", "it does not say which masks it was checked with"),
        ("UPDATE checks SET value = 'x'", "a value is none"),
        ("UPDATE evaluations SET value = 3; UPDATE searches SET result = NULL", "a value is none"),
    ],
)
def test_a_row_of_another_type_is_damage(change: str, said: str, tmp_path: Path) -> None:
    store = tmp_path / "run.db"
    run(store)
    with closing(sqlite3.connect(store)) as file:
        file.executescript(change)
    with pytest.raises(ValueError, match=f"a damaged one: {said}"):
        run(store)


@pytest.mark.parametrize("text", [None, "", "[]", "3", "{"])
def test_a_store_that_does_not_know_its_game_is_damaged(text: str | None, tmp_path: Path) -> None:
    store = tmp_path / "run.db"
    run(store)
    with closing(sqlite3.connect(store)) as file:
        file.executescript("CREATE TABLE other (identity TEXT); DROP TABLE game;")
        file.execute("ALTER TABLE other RENAME TO game")
        file.execute("INSERT INTO game VALUES (?)", (text,))
        file.commit()
    if text == "[]":
        text = "{}"
    with pytest.raises(ValueError, match=r"damaged one: it does not say|store of another game"):
        run(store)


# -- what is said ----------------------------------------------------------------------------------


def test_one_line_says_whether_it_is_new(tmp_path: Path, capsys: Any) -> None:
    for text in ("new store", "going on with 400 evaluations"):
        sm.discover(Sums(), "exhaustive", 400, store=tmp_path / "run.db")
        lines = [line for line in capsys.readouterr().err.splitlines() if "run.db" in line]
        assert lines == [f"{tmp_path}/run.db: {text}"]


def test_the_command_line_shows_and_exports_a_store(tmp_path: Path, capsys: Any) -> None:
    store, out = tmp_path / "run.db", tmp_path / "masks.npz"
    killed(store)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert cli.main(["store", str(store)]) == 0
    told = capsys.readouterr().out
    assert "game 1, n_units 40" in told and "method exhaustive" in told and "not finished" in told
    assert "its last run was killed; run.db-wal belongs to it, so copy both" in told
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    with opened(store, Sums()):
        told = contents(store)
        assert re.search(rf"in use by process {os.getpid()} on .* since \d{{4}}-\d\d-\d\d \d", told)
    _, found = run(store)
    other_version(store)
    assert cli.main(["store", str(store), "--export", str(out)]) == 0
    told = capsys.readouterr().out
    assert "run.db: 400 evaluations" in told and ", finished" in told
    with np.load(out) as file:
        masks, values = file["masks"], file["values"]
    once = 400 - found.about["asked_again"]["masks"]
    assert masks.shape == (once, 40) and len(np.unique(masks, axis=0)) == once < 400
    np.testing.assert_allclose(values[:, 0], Sums()(torch.from_numpy(masks)).numpy())
    assert len(found) and beside(tmp_path) == {"run.db", "masks.npz"}


def test_what_is_no_store_is_not_shown(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["store", str(tmp_path / "none.db")]) == 2
    assert "no such store" in capsys.readouterr().err
    (tmp_path / "text.db").write_text("a few words")
    assert cli.main(["store", str(tmp_path / "text.db")]) == 2
    assert "is not a store, or a damaged one" in capsys.readouterr().err
    with opened(tmp_path / "empty.db", Sums(), check=False):
        pass
    with pytest.raises(ValueError, match="holds no evaluations yet"):
        export(tmp_path / "empty.db", tmp_path / "o.npz")


def test_what_is_in_use_or_lacks_a_file_is_no_damage(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that has just begun has all that it knows in the ``-wal``."""
    store, copy = tmp_path / "run.db", tmp_path / "copy.db"

    def told(path: Path) -> str:
        assert cli.main(["store", str(path), "--export", str(tmp_path / "o.npz")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    with opened(store, Sums()):
        assert f"run.db is in use by process {os.getpid()} on " in (line := told(store))
        assert line.endswith(", and what it holds can be shown in half a minute")
        shutil.copy(store, copy)
    lacks = "was copied or moved without copy.db-wal: its newest evaluations, which were in there,"
    assert told(copy).endswith(f"copy.db {lacks} are all that it had; bring it beside the file")
    monkeypatch.setattr(stores, "_CARRIED_OVER", (0, 0.0))
    killed(store)
    shutil.copy(store, copy)
    assert f"{lacks} are not shown" in (shown := contents(copy)) and "game 1," in shown
    assert export(copy, tmp_path / "o.npz") > 100
    copy.write_bytes(copy.read_bytes()[:9000])  # as it may be found while it is written
    assert "is not a store, or a damaged one" in told(copy)
    holder = holders.Holder(copy)
    assert "copy.db is in use by process" in (line := told(copy))
    assert "cannot be read while that writes" in line
    holder.release()


def test_gradients_are_exported_with_their_values(tmp_path: Path) -> None:
    game = sm.GameFactory("demo", n_prompts=2)()
    sm.discover(game, budget=100, store=tmp_path / "run.db", progress=False)
    count = export(tmp_path / "run.db", tmp_path / "o.npz")
    with np.load(tmp_path / "o.npz") as file:
        np.testing.assert_allclose(
            file["values"], game(torch.from_numpy(file["masks"])).numpy(), atol=1e-4
        )
        assert len(file["values"]) == count > 30


# -- what was right, and stays so ------------------------------------------------------------------


@pytest.mark.parametrize("n_runs", [2, 4])
def test_of_runs_that_start_together_one_goes_on(n_runs: int, tmp_path: Path) -> None:
    alone = run(tmp_path / "alone.db")[1]
    (tmp_path / "link.db").symlink_to(tmp_path / "run.db")
    refused = tmp_path / "refused"

    def wait(_: Any) -> None:
        """The one that goes on computes until the others have been refused."""
        until = time.monotonic() + 60
        while not refused.exists() and time.monotonic() < until:
            time.sleep(0.01)

    children = []
    for number in range(n_runs):
        if (child := os.fork()) == 0:
            code = 9
            try:
                path = tmp_path / ("run.db", "link.db")[number % 2]
                found = run(path, 400, Sums(hook=wait))[1]
                code = 0 if np.array_equal(found.values, alone.values) else 8
            except BlockingIOError:
                code = 3
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in children[1:]]
    refused.touch()
    codes = [os.waitstatus_to_exitcode(os.wait()[1]), *codes]
    assert codes == [0] + [3] * (n_runs - 1)
    assert run(tmp_path / "run.db")[0] == 0
    assert beside(tmp_path) == {"alone.db", "link.db", "run.db", "refused"}


@pytest.mark.parametrize("state", ["finished", "half done"])
def test_a_flipped_bit_is_refused_or_without_effect(state: str, tmp_path: Path) -> None:
    store, whole = tmp_path / "run.db", run(tmp_path / "whole.db", 100)[1]
    if state == "finished":
        run(store, 100)
    else:
        killed(store, 60, 100)
        with opened(store, Sums()):
            pass  # all that is new is in the file now
    data, rng = store.read_bytes(), np.random.default_rng(5)
    outcomes = []
    for at in rng.integers(0, 8 * len(data), size=40).tolist():
        wrong = bytearray(data)
        wrong[at // 8] ^= 1 << at % 8
        for path in tmp_path.glob("run.db*"):
            path.unlink()
        store.write_bytes(wrong)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that the store was moved, of other versions
                found = run(store, 100)[1]
        except (ValueError, OSError) as error:
            outcomes.append(str(error))
            continue
        np.testing.assert_allclose(found.values, whole.values, rtol=1e-6)
        np.testing.assert_allclose(found.main_effects, whole.main_effects, rtol=1e-6)
    assert all("run.db" in text for text in outcomes)


@pytest.mark.parametrize("name", ["größe 'a' \"b\".db", "what?#%41&c=d.db", "-wal", "数.sqlite"])
def test_any_name_of_a_file_is_one(name: str, tmp_path: Path) -> None:
    first = run(tmp_path / name, 100)[1]
    asked, again = run(tmp_path / name, 100)
    assert asked == 0 and np.array_equal(first.values, again.values)
    assert "100 evaluations" in contents(tmp_path / name) and beside(tmp_path) == {name}


def test_nothing_is_written_to_a_log_in_the_first_minute(tmp_path: Path, capsys: Any) -> None:
    slow = Sums(hook=lambda _: time.sleep(0.1))
    started = time.monotonic()
    sm.discover(slow, "exhaustive", 400)
    assert time.monotonic() - started > 2.1  # a terminal would have a bar by now
    assert capsys.readouterr() == ("", "")
