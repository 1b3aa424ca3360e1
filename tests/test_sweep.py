"""Sweeps: what is run, what is left out, what fails, what a killed one goes on from."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import spex_mech as sm
from spex_mech import cli
from spex_mech.sweep import Cell, cells_from_toml, cells_of, status, sweep


def some_cells(**more: Any) -> list[Cell]:
    axes = {"models": ["demo"], "ablations": ["mean", "zero"], "methods": ["exhaustive"]}
    return cells_of(axes, n_prompts=4, **more)


def test_every_cell_has_its_folder_and_the_result_of_the_functions(tmp_path: Path) -> None:
    table = sweep(some_cells(), tmp_path, progress=False)
    assert table.state.tolist() == ["done", "done"]
    for cell in some_cells():
        place = tmp_path / cell.name
        names = {"cell.json", "interactions.csv", "interactions.npz", "log.txt", "map.png"}
        assert {path.name for path in place.iterdir()} == {*names, "report.html", "run.sqlite"}
        factory = sm.GameFactory("demo", n_prompts=4, ablation=cell.game.ablation)
        assert cell.game == factory
        want = sm.discover(factory(), "exhaustive", progress=False)
        got = sm.Interactions.load(place / "interactions.npz")
        np.testing.assert_allclose(got.values, want.values, atol=1e-5)
        row = table[table.ablation == cell.game.ablation].iloc[0]
        best = want.top(1)
        assert row.strongest == " x ".join(want.labels[u] for u in best.units[0])
        assert row.value == pytest.approx(best.mean[0], abs=1e-5) and row.evaluations == 37
    summary = pd.read_csv(tmp_path / "summary.csv")
    assert summary.strongest.tolist() == table.strongest.tolist()


def test_what_is_done_is_left_out_and_what_changed_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    make = sm.GameFactory.__call__

    def recorded(factory: sm.GameFactory) -> Any:
        ran.append(factory.ablation)
        return make(factory)

    monkeypatch.setattr(sm.GameFactory, "__call__", recorded)
    sweep(some_cells()[:1], tmp_path, progress=False)
    sweep(some_cells(), tmp_path, progress=False)
    assert ran == ["mean", "zero"]
    sweep(some_cells(budget=20)[:1], tmp_path, progress=False)
    assert ran == ["mean", "zero", "mean"]
    sweep(some_cells()[1:], tmp_path, resume=False, progress=False)
    assert ran == ["mean", "zero", "mean", "zero"]


def test_a_failing_cell_does_not_end_the_sweep(tmp_path: Path) -> None:
    cells = cells_of({"models": ["nosuch/model/here", "demo"]}, n_prompts=2)
    table = sweep(cells, tmp_path, progress=False).set_index("model")
    assert table.state["nosuch/model/here"] == "failed" and table.state["demo"] == "done"
    assert "no folder nosuch/model/here" in table.error["nosuch/model/here"]
    log = (tmp_path / cells[0].name / "log.txt").read_text()
    assert "Traceback" in log and "no folder nosuch" in log


KILLED = """
import os, sys, spex_mech.sweep as s
from spex_mech.runs.store import Run
commit, done = Run._commit, []
def dies(run, *of):
    commit(run, *of); done.append(1)
    if len(done) == 3: os.kill(os.getpid(), 9)
Run._commit = dies
import spex_mech as sm
sm.ModelGame.masks_per_batch = property(lambda game: 8)
s.sweep(s.cells_of({"models": ["demo"], "methods": ["exhaustive"]}, n_prompts=4), sys.argv[1],
        progress=False)
"""


def test_a_killed_sweep_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert ended.returncode == -9
    assert status(tmp_path).state.tolist() == ["killed"]
    asked: list[int] = []
    ablating = sm.ModelGame.ablating

    def counting(game: sm.ModelGame, lost: Any, *tick: Any) -> Any:
        asked.append(len(lost))
        return ablating(game, lost, *tick)

    monkeypatch.setattr(sm.ModelGame, "ablating", counting)
    monkeypatch.setattr(sm.ModelGame, "masks_per_batch", property(lambda game: 8))
    cells = cells_of({"models": ["demo"], "methods": ["exhaustive"]}, n_prompts=4)
    table = sweep(cells, tmp_path, progress=False)
    assert table.state.tolist() == ["done"] and table.evaluations.tolist() == [37]
    # Of 37 masks the three batches that were committed are not asked for again.
    assert sum(asked) <= 37 - 17 + 24 and asked.count(8) < 5


def test_a_running_cell_is_told_from_a_killed_one(tmp_path: Path) -> None:
    cell = some_cells()[0]
    place = tmp_path / cell.name
    place.mkdir()
    state = {"state": "running", "cell": {"model": "demo"}, "pid": os.getpid()}
    (place / "cell.json").write_text(json.dumps(state))
    assert status(tmp_path).state.tolist() == ["running"]
    (place / "cell.json").write_text(json.dumps({**state, "pid": 2**22 + 1}))
    assert status(tmp_path).state.tolist() == ["killed"]


@pytest.mark.parametrize(
    ("axes", "common", "text"),
    [
        ({}, {}, "a sweep needs models"),
        ({"models": ["demo"], "tasks": []}, {}, "tasks is empty"),
        ({"models": ["demo"], "colours": ["red"]}, {}, "no 'colours'; it has models, tasks"),
        ({"models": ["demo"]}, {"n_promts": 3}, "no 'n_promts'; it has models"),
        ({"models": ["a/demo", "b/demo"]}, {}, "two cells would share the folder 'demo__"),
    ],
)
def test_what_a_sweep_cannot_be(
    axes: dict[str, list[str]], common: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        cells_of(axes, **common)


def test_a_toml_file_and_the_command_line(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text('models = "demo"\nablations = ["mean", "zero"]\nn_prompts = 2\n')
    assert cells_from_toml(file) == cells_of(
        {"models": ["demo"], "ablations": ["mean", "zero"]}, n_prompts=2
    )
    out = tmp_path / "out"
    assert cli.main(["sweep", str(file), "--out", str(out)]) == 0
    assert cli.main(["status", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("done") == 4 and "L0H3 x L1H0" in printed
    given = ["--models", "demo", "nosuch/a/b", "--n-prompts", "2", "--out", str(tmp_path / "two")]
    assert cli.main(["sweep", *given]) == 2
    assert "1 of 2 cells failed" in capsys.readouterr().err
    assert cli.main(["sweep", str(file), "--models", "demo"]) == 2
    assert "not both" in capsys.readouterr().err
    assert cli.main(["status", str(tmp_path / "nothing")]) == 2
    assert "holds no sweep" in capsys.readouterr().err
    file.write_text("models = [")
    with pytest.raises(ValueError, match="is not a TOML file"):
        cells_from_toml(file)
