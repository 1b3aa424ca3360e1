"""Sweeps: what is run, what is left out, what fails, what a killed one goes on from."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import spex_mech as sm
from spex_mech import cli, models
from spex_mech.sweep import Cell, cells_from_toml, cells_of, status, sweep


def some_cells(**more: Any) -> list[Cell]:
    axes = {"models": ["demo"], "ablations": ["mean", "zero"], "methods": ["exhaustive"]}
    return cells_of(axes, n_prompts=4, **more)


def a_broken_model(tmp_path: Path) -> str:
    """A folder that looks like one of a model, and fails when it is loaded."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    return str(folder)


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
        assert row.value == pytest.approx(best.mean[0], abs=1e-5) and row.evaluations == 37 + 8
        assert row.reused == 0
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
    assert ran == ["mean", "mean", "zero"]  # what is done is asked whether it still holds
    log = tmp_path / some_cells()[0].name / "log.txt"
    assert log.read_text().count("started") == 1
    sweep(some_cells(budget=20)[:1], tmp_path, progress=False)
    assert ran[3:] == ["mean"]
    sweep(some_cells()[1:], tmp_path, resume=False, progress=False)
    assert ran[4:] == ["zero"]


def test_a_task_of_words_is_asked_of_models_with_a_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each such cell failed by itself, after those before it had run."""
    tried: list[str] = []
    find = models.load_tokenizer
    monkeypatch.setattr(models, "load_tokenizer", lambda name: (tried.append(name), find(name))[1])
    cells = cells_of({"models": ["demo"], "tasks": ["induction", "ioi", "greater_than"]})
    with pytest.raises(ValueError, match="needs a tokenizer, and the model 'demo' brings none"):
        sweep(cells, tmp_path / "out", progress=False)
    assert tried == ["demo"] and not (tmp_path / "out").exists()
    sweep(cells_of({"models": ["demo"]}, n_prompts=2, budget=50), tmp_path, progress=False)
    assert tried == ["demo"]  # numbers need none


def test_a_failing_cell_does_not_end_the_sweep(tmp_path: Path) -> None:
    broken = a_broken_model(tmp_path)
    cells = cells_of({"models": [broken, "demo"]}, n_prompts=2)
    table = sweep(cells, tmp_path / "out", progress=False).set_index("model")
    assert table.state[broken] == "failed" and table.state["demo"] == "done"
    assert f"could not load '{broken}'" in table.error[broken]
    log = (tmp_path / "out" / cells[0].name / "log.txt").read_text()
    assert "Traceback" in log and "could not load" in log


def test_unknown_models_are_said_once_and_nothing_is_run(tmp_path: Path) -> None:
    """Each failed in each of its cells, one after the other."""
    names = ["demo", "nosuch/model/here", "demmo", str(tmp_path / "gone.gguf")]
    cells = cells_of({"models": names, "ablations": ["mean", "zero"]}, n_prompts=2)
    with pytest.raises(ValueError, match="nothing was run: ") as said:
        sweep(cells, tmp_path / "out", progress=False)
    told = str(said.value)
    assert told.count("no folder nosuch/model/here") == 1 and told.count("no model 'demmo'") == 1
    assert told.count("gone.gguf") == 1 and told.count("[2 cells]") == 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["demo", "sentiment", "nosuch/a/b", "", "demmo", "no.gguf", "."])
def test_a_name_is_checked_as_it_is_loaded(name: str) -> None:
    def error_of(function: Any) -> str:
        try:
            function(name)
        except (ImportError, ValueError) as error:
            return str(error)
        return ""

    assert error_of(models.check_model) == error_of(models.load_model)


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


@pytest.mark.slow
def test_a_killed_sweep_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert run.returncode == -9
    assert status(tmp_path).state.tolist() == ["killed"]
    (store,) = tmp_path.glob("*/run.sqlite")
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as file:
        ((kept,),) = file.execute("SELECT count(*) FROM evaluations").fetchall()
    asked: list[int] = []
    ablating = sm.ModelGame.ablating

    def counting(game: sm.ModelGame, lost: Any, *tick: Any) -> Any:
        asked.append(len(lost))
        return ablating(game, lost, *tick)

    monkeypatch.setattr(sm.ModelGame, "ablating", counting)
    monkeypatch.setattr(sm.ModelGame, "masks_per_batch", property(lambda game: 8))
    cells = cells_of({"models": ["demo"], "methods": ["exhaustive"]}, n_prompts=4)
    table = sweep(cells, tmp_path, progress=False)
    assert table.state.tolist() == ["done"] and table.evaluations.tolist() == [37 + 8]
    # Batches of 1, 1 and 2 masks were committed; self-tests and the opening ask some besides, and
    # 8 masks are asked again.
    assert sum(asked) <= 37 + 8 - 4 + 24
    assert table.reused.tolist() == [kept] and 3 <= kept < 37
    assert sweep(cells, tmp_path, progress=False).reused.tolist() == [37 + 8]
    assert status(tmp_path).reused.tolist() == [37 + 8]


def in_another_process(tmp_path: Path, code: str) -> subprocess.Popen[str]:
    """A process that has printed its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline()
    return process


def ended(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.communicate()


HOLDS = """
import sys, time
from pathlib import Path
from spex_mech.sweep import _holding
with _holding(Path(sys.argv[1])) as held:
    print(held, flush=True)
    time.sleep(60)
"""


def a_running_cell(root: Path) -> Path:
    place = root / some_cells()[0].name
    place.mkdir()
    state = {"state": "running", "cell": some_cells()[0].row(), "pid": 17}
    (place / "cell.json").write_text(json.dumps(state))
    return place


def test_a_running_cell_is_told_from_a_killed_one(tmp_path: Path) -> None:
    place = a_running_cell(tmp_path)
    assert status(tmp_path).state.tolist() == ["killed"]
    process = in_another_process(place, HOLDS)
    try:
        assert status(tmp_path).state.tolist() == ["running"]
        # A sweep of everything anew does not delete what runs.
        with pytest.raises(ValueError, match=r"is running .process 17., and everything"):
            sweep(some_cells()[:1], tmp_path, resume=False, progress=False)
    finally:
        ended(process)
    assert status(tmp_path).state.tolist() == ["killed"]


def test_a_cell_that_another_sweep_runs_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    place = a_running_cell(tmp_path)
    process = in_another_process(place, HOLDS)
    monkeypatch.setattr("spex_mech.sweep._POLL", 0.05)
    order: list[str] = []
    run = sys.modules["spex_mech.sweep"]._run

    def recorded(cell: Cell, *given: Any) -> None:
        order.append(cell.game.ablation)
        run(cell, *given)
        ended(process)  # the other one ends only when the free cell is done

    monkeypatch.setattr("spex_mech.sweep._run", recorded)
    table = sweep(some_cells(), tmp_path, progress=False)
    assert order == ["zero", "mean"] and table.state.tolist() == ["done", "done"]
    assert "which another sweep runs (process 17)" in capsys.readouterr().out


def test_an_interrupted_cell_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sm.GameFactory, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(some_cells(), tmp_path, progress=False)
    assert status(tmp_path).state.tolist() == ["interrupted", "waiting"]
    assert sweep(some_cells(), tmp_path, progress=False).state.tolist() == ["done", "done"]


def test_another_seed_or_budget_is_another_cell(tmp_path: Path) -> None:
    cells = [some_cells()[0], some_cells(seed=1)[0], some_cells(budget=30)[0]]
    assert len({cell.name for cell in cells}) == 3
    assert cells[0].name == "demo__induction__heads__mean__exhaustive__n_prompts-4"
    assert cells[1].name.endswith("__seed-1")
    labels = ",".join(f"L0N{i}" for i in range(200))
    long = [Cell(sm.GameFactory("demo", units=labels, seed=s)).name for s in (0, 1)]
    assert len({*long}) == 2 and all(len(name.encode()) <= 120 for name in long)
    umlauts = Cell(sm.GameFactory("ä" * 300)).name
    assert len(umlauts.encode()) <= 120


def test_files_that_changed_are_not_done(tmp_path: Path) -> None:
    """Weights or prompts that were exchanged under the same name give other numbers."""
    row = {"prompt": "a b", "answer": " c", "distractor": " d"}
    (tmp_path / "p.json").write_text(json.dumps([row]))
    cell = Cell(sm.GameFactory("demo", task=str(tmp_path / "p.json")))
    place = tmp_path / "sweep" / cell.name
    place.mkdir(parents=True)
    module = sys.modules["spex_mech.sweep"]
    module._write(place, cell, "done", inputs=module._inputs_of(cell))
    assert sweep([cell], tmp_path / "sweep", progress=False).state.tolist() == ["done"]
    (tmp_path / "p.json").write_text(json.dumps([row, row]))
    with pytest.raises(ValueError, match="is done, but the files of its model or prompts have ch"):
        sweep([cell], tmp_path / "sweep", progress=False)


def test_another_file_of_the_same_name_does_not_overwrite_what_is_done(tmp_path: Path) -> None:
    """A sweep of ``b/p.json`` failed late, and marked what was done of ``a/p.json`` as failed."""
    rows = [{"prompt": f"a {word}", "answer": " c", "distractor": " d"} for word in "ef"]
    cells = []
    for folder, row in zip("ab", rows, strict=True):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.json").write_text(json.dumps([row]))
        cells.append(Cell(sm.GameFactory("demo", task=str(tmp_path / folder / "p.json"))))
    assert cells[0].name == cells[1].name
    place = tmp_path / "sweep" / cells[0].name
    place.mkdir(parents=True)
    module = sys.modules["spex_mech.sweep"]
    module._write(place, cells[0], "done", inputs=module._inputs_of(cells[0]))
    before = (place / "cell.json").read_text()
    with pytest.raises(ValueError, match=r"holds what was done for the task '.*a/p.json', not"):
        sweep([cells[1]], tmp_path / "sweep", progress=False)
    assert (place / "cell.json").read_text() == before
    # The same file from another place is the same.
    (tmp_path / "b" / "p.json").write_text((tmp_path / "a" / "p.json").read_text())
    module._check_inputs([cells[1]], tmp_path / "sweep", True)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"method": "spx"}, "unknown method 'spx'; choose one of spex"),
        ({"precision": "float8"}, "unknown precision 'float8'; choose one of float32"),
        ({"ablation": "blur"}, "unknown ablation 'blur'"),
        ({"task": "inducton"}, "unknown task 'inducton'"),
        ({"file": "gone.txt"}, "no text file gone.txt"),
        ({"file": __file__}, "'text' reads a text file, and no other one does; file is '.*induct"),
        ({"task": "text"}, "'text' reads a text file, and no other one does; file is None, and"),
        ({"metric": "logit_dif"}, "unknown metric 'logit_dif'; choose one of logit_diff"),
        ({"metric": "no_such_module:margin"}, "No module named 'no_such_module'"),
    ],
)
def test_everything_is_checked_before_anything_runs(
    given: dict[str, Any], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spex_mech.sweep._run", lambda *given: pytest.fail("it began"))
    of_search = {name: given[name] for name in ("method",) if name in given}
    of_game = {name: value for name, value in given.items() if name not in of_search}
    cells = [Cell(sm.GameFactory("demo")), Cell(sm.GameFactory("demo", **of_game), **of_search)]
    with pytest.raises(ValueError, match=match):
        sweep(cells, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("axis", ["units", "tasks"])
def test_names_that_are_too_long_are_cut(axis: str, tmp_path: Path) -> None:
    many = ",".join(f"L0N{number}" for number in range(60))
    other = many.replace("L0N59", "L1N5")
    rows = json.dumps([{"clean": [3, 4, 3], "answers": [4], "wrong_answers": [5]}])
    if axis == "tasks":
        many, other = (str(tmp_path / f"{letter * 150}.json") for letter in "ab")
        for path in (many, other):
            Path(path).write_text(rows)
    cells = [Cell(sm.GameFactory("demo", **{axis[:-1] if axis == "tasks" else axis: value}))
             for value in (many, other)]  # fmt: skip
    assert len({cell.name for cell in cells}) == 2
    assert all(len(cell.name.encode()) <= 200 for cell in cells)
    if axis == "units":
        cells = cells_of({"models": ["demo"], "units": [many]}, n_prompts=2, budget=200)
        assert sweep(cells, tmp_path / "out", progress=False).state.tolist() == ["done"]


def test_a_failed_cell_of_an_older_sweep_does_not_count(tmp_path: Path, capsys: Any) -> None:
    out = ["--n-prompts", "2", "--out", str(tmp_path)]
    broken = a_broken_model(tmp_path)
    assert cli.main(["sweep", "--models", broken, *out]) == 2
    assert cli.main(["sweep", "--models", "demo", *out]) == 0
    assert "1 of 1 cells failed" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[]", "{}", '{"state": "done"}', "3", "{oops"])
def test_a_foreign_file_is_no_cell(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "cell.json").write_text(text)
    with pytest.raises(ValueError, match="holds no sweep"):
        status(tmp_path)


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
    broken = a_broken_model(tmp_path)
    given = ["--models", "demo", broken, "--n-prompts", "2", "--out", str(tmp_path / "two")]
    assert cli.main(["sweep", *given]) == 2
    assert "1 of 2 cells failed" in capsys.readouterr().err
    assert cli.main(["sweep", str(file), "--models", "demo"]) == 2
    assert "not both" in capsys.readouterr().err
    assert cli.main(["status", str(tmp_path / "nothing")]) == 2
    assert "holds no sweep" in capsys.readouterr().err
    file.write_text("models = [")
    with pytest.raises(ValueError, match="is not a TOML file"):
        cells_from_toml(file)


def test_the_text_file_goes_to_the_task_that_reads_it() -> None:
    """Every cell of another task failed: it takes no file."""
    tasks = ["induction", "text"]
    cells = cells_of({"models": ["demo"], "tasks": tasks}, file="passages.txt")
    assert [cell.game.file for cell in cells] == [None, "passages.txt"]


@pytest.mark.parametrize("out", ["model/sweep", "model"])
def test_a_sweep_may_lie_in_the_folder_of_its_model(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the sweep wrote counted as files of the model, which had changed by that."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("transformers.utils.logging.is_progress_bar_enabled", lambda: False)
    sm.load_model("demo").save_pretrained("model")
    cells = cells_of({"models": ["~/model"]}, n_prompts=2, budget=40)
    assert sweep(cells, out, progress=False).state.tolist() == ["done"]
    Path("model/checkpoint-7").mkdir()
    Path("model/checkpoint-7/model.safetensors").write_text("of another time")
    assert sweep(cells, out, progress=False).reused.tolist() == [40]
    # An older sweep had noted these files too.
    module, place = sys.modules["spex_mech.sweep"], Path(out) / cells[0].name
    state = module._read(place)
    state["inputs"][f"{tmp_path}/model/sweep/older/log.txt"] = "0"
    module._write_text(place, state)
    assert sweep(cells, out, progress=False).reused.tolist() == [40]
    config = Path("model/config.json")
    config.write_text(config.read_text().replace("0.02", "0.03"))
    with pytest.raises(ValueError, match="is done, but the files of its model or prompts have ch"):
        sweep(cells, out, progress=False)


def test_a_folder_that_is_called_as_a_bundled_model_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "induction"):
        Path(name).mkdir()
        Path(name, "notes.txt").write_text("mine")
    assert sys.modules["spex_mech.sweep"]._inputs_of(some_cells()[0]) == {}


def test_two_cells_of_one_folder_are_refused(tmp_path: Path) -> None:
    """The second took the place of the first, and both failed or were lost."""
    cells = [Cell(sm.GameFactory(f"{name}/demo")) for name in "ab"]
    with pytest.raises(ValueError, match="two cells would share the folder 'demo__"):
        sweep(cells, tmp_path / "out", progress=False)
    with pytest.raises(ValueError, match="cells is empty, so that there is nothing to run"):
        sweep([], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_the_printed_table_tells_cells_apart(tmp_path: Path, capsys: Any) -> None:
    """Two sweeps in one folder, of other seeds, were rows of the same words and other values."""
    for seed in (0, 1):
        sweep(some_cells(seed=seed)[:1], tmp_path, progress=False)
    assert cli.main(["status", str(tmp_path)]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert "seed" in head and "budget" not in head and "metric" not in head
    assert len({row.split("done")[0] for row in rows}) == 2
    assert status(tmp_path).metric.tolist() == ["log_prob"] * 2
