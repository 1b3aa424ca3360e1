"""Searches under several faults at once: the result is that of an undisturbed one, or a line says
what happened; nothing that was committed is asked twice, and nothing is left behind."""

import os
import shutil
import signal
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import spex_mech as sm
from spex_mech.runs import store as stores

N, BUDGET = 30, 300
FAULTS = (
    "kill", "term", "interrupt", "full disk", "read-only", "lock loss", "worker death", "raising",
    "hanging", "NaN", "chdir", "changed setting",
)  # fmt: skip


class Game:
    """Pairs with a tail; in the last bits of a value is what shared its batch. The fault comes at
    the mask of a number, and each mask is written down before it is answered."""

    labels = tuple(str(i) for i in range(N))

    def __init__(self, log: Path, fault: str = "", at: int = 0) -> None:
        self.log, self.fault, self.at, self.asked = log, fault, at, 0
        self.pairs = torch.from_numpy(np.random.default_rng(4).standard_normal((N, N)) ** 3)

    def __len__(self) -> int:
        return N

    def identity(self) -> dict[str, Any]:
        return {"torture": 1}

    def __call__(self, masks: Tensor) -> Tensor:
        before, self.asked = self.asked, self.asked + len(masks)
        if before > 2:  # but for what opening a store asks
            with self.log.open("a") as file:
                file.writelines(row.numpy().tobytes().hex() + "\n" for row in masks)
        lost = (~masks).double()
        values = torch.einsum("mi,ij,mj->m", lost, self.pairs, lost) + 1e-9 * len(masks)
        if self.fault == "changed setting":
            values = 1.5 * values + 1
        if before <= self.at < self.asked:
            self.happens(values)
        return values

    def happens(self, values: Tensor) -> None:
        pid = os.getpid()
        if self.fault in ("kill", "term", "interrupt"):
            number = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "interrupt": signal.SIGINT}
            os.kill(pid, number[self.fault])
        elif self.fault == "raising":
            raise ValueError("the server is gone")
        elif self.fault == "NaN":
            values[0] = float("nan")
        elif self.fault == "chdir":
            os.chdir(tempfile.gettempdir())
        elif self.fault == "hanging":
            time.sleep(100)  # until somebody ends it
        elif self.fault == "worker death" and not (dead := self.log.with_name("dead")).exists():
            dead.touch()
            os._exit(9)
        elif self.fault == "lock loss":
            for path in self.log.parent.glob("run.db.holder"):
                path.unlink()
            (self.log.parent / "run.db").read_bytes()  # drops the locks of this process


def sitting(folder: Path, fault: str, at: int) -> tuple[int, str]:
    """One process: how it ended, and what it said."""
    told = folder / "told"
    told.write_text("")
    if (child := os.fork()) == 0:
        code = 1
        try:
            os.setsid()
            torch.set_num_threads(1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if fault == "read-only":
                os.access = lambda path, mode: mode != os.W_OK  # type: ignore[assignment]
            if fault == "full disk":
                full(at)
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                game: Any = Game(folder / "asked", fault, at)
                if fault == "worker death":
                    game = partial(Game, folder / "asked", fault, at)
                found = search(folder / "run.db", game, 1 if fault == "worker death" else None)
            found.save(folder / "found.npz")
            told.write_text("".join(f"{one.message}\n" for one in said))
            code = 0
        except BaseException as error:
            told.write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(code)
    if fault == "hanging":
        time.sleep(1.0)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    until = time.monotonic() + 10
    while (left := of_session(child)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left, f"processes stay behind: {left}"
    return status, told.read_text()


def of_session(number: int) -> list[str]:
    """The processes that a sitting, which is a session of its own, has started and left."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[3] == str(number) and fields[0] != "Z":
            found.append(path.parent.name)
    return found


def full(at: int) -> None:
    """A disk with room for some pages more."""
    prepare = stores._prepare

    def small(connection: sqlite3.Connection, path: Path) -> None:
        prepare(connection, path)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + at % 4}")

    stores._prepare = small  # type: ignore[assignment]


def search(store: Path, game: Any, workers: int | None = None) -> sm.Interactions:
    return sm.discover(game, "exhaustive", BUDGET, store=store, workers=workers, progress=False)


def committed(store: Path, again: bool = False) -> set[str]:
    """The masks that a killed run left, from a copy of it; or those that it asked a second time, to
    see whether the game varies."""
    if not store.exists():
        return set()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        shutil.copy(store, copy)
        if (wal := Path(f"{store}-wal")).exists():
            shutil.copy(wal, f"{copy}-wal")
        try:
            with closing(sqlite3.connect(copy)) as file:
                keys = [key for (key,) in file.execute("SELECT mask FROM evaluations")]
        except sqlite3.OperationalError:  # killed before there was a table
            return set()
    keys = [key[5:] if again else key for key in keys if (key[:1] == b"\2") == again]
    masks = np.ones((len(keys), N), dtype=bool)
    for row, key in zip(masks, keys, strict=True):
        if key[:1] == b"\0":
            row[np.frombuffer(key[1:], "<u2").astype(int)] = False
        else:
            row[np.unpackbits(np.frombuffer(key[1:], np.uint8))[:N].astype(bool)] = False
    return {row.tobytes().hex() for row in masks}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[sm.Interactions, set[str]]:
    """The result, and the masks that are asked a second time."""
    folder = tmp_path_factory.mktemp("undisturbed")
    found = search(folder / "run.db", Game(folder / "asked"))
    again = committed(folder / "run.db", again=True)
    assert 0 < len(again) == found.about["asked_again"]["masks"] < 20
    return found, again


def drawn(seed: int) -> Iterator[tuple[str, int]]:
    rng = np.random.default_rng(seed)
    for _ in range(int(rng.integers(1, 6))):
        yield FAULTS[rng.integers(len(FAULTS))], int(rng.integers(3, BUDGET))


def test_every_fault_is_drawn() -> None:
    assert {fault for seed in range(40) for fault, _ in drawn(seed)} == {*FAULTS}


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="forks and kills")
@pytest.mark.parametrize("seed", range(40))
def test_a_search_under_faults(
    seed: int, tmp_path: Path, undisturbed: tuple[sm.Interactions, set[str]]
) -> None:
    whole, again = undisturbed
    known: set[str] = set()
    for fault, at in [*drawn(seed), ("", 0)]:
        (tmp_path / "asked").write_text("")
        for name in ("found.npz", "dead"):
            (tmp_path / name).unlink(missing_ok=True)
        status, told = sitting(tmp_path, fault, at)
        asked = (tmp_path / "asked").read_text().split()
        if fault != "changed setting":  # there a value that differs is asked twice, to be sure
            assert not (known & {*asked}) - again, f"{fault}: what was committed was asked again"
        if status == 0:
            found = sm.Interactions.load(tmp_path / "found.npz")
            other = fault == "changed setting" and not known
            if other:  # a new store: there is nothing that it could be compared with
                (tmp_path / "run.db").unlink()
            else:
                assert np.array_equal(found.values, whole.values), (fault, told)
        elif os.WIFEXITED(status):
            assert told.strip() and "\n" not in told.strip(), f"{fault} is not told in one line"
        after = committed(tmp_path / "run.db")
        assert known <= after or not after, f"{fault}: something committed is gone"
        known = after
    assert status == 0
    assert {path.name for path in tmp_path.iterdir()} == {"run.db", "asked", "told", "found.npz"}
