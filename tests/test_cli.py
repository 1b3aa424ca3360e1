"""The command line: what it prints and writes, and how it refuses."""

import inspect
import json
import os
import re
import statistics
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf

import spex_mech as sm
from spex_mech import cli
from spex_mech.models import BUNDLED
from spex_mech.runs.factory import metric_named
from spex_mech.tasks import TASKS
from tests.prompt_files import word_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny GPT-2 with two layers of two heads."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    config = tf.GPT2Config(
        n_layer=2, n_head=2, n_embd=8, n_inner=6, vocab_size=60, n_positions=64,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    tf.GPT2LMHeadModel(config).save_pretrained(folder)
    return str(folder)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr with which a command ends."""
    capsys.readouterr()
    try:
        code = cli.main(arguments)
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1 and err.startswith("spex-mech") and err.endswith("\n")
    return err


def test_discover_writes_result_table_and_map(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "folder"
    arguments = ["discover", "--model", model, "--n-prompts", "4", "--out", str(out)]
    assert cli.main(arguments) == 0
    printed, err = capsys.readouterr()
    assert err == ""
    assert "6 interactions among 4 units, 19 evaluations (spex)" in printed
    names = ["interactions.csv", "interactions.npz", "map.png", "report.html"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert printed.splitlines()[-1].startswith(f"written to {out}: ")
    assert all(name in printed.splitlines()[-1] for name in names)

    found = sm.Interactions.load(out / "interactions.npz")
    assert found.labels == ["L0H0", "L0H1", "L1H0", "L1H1"]
    assert found.values.shape == (6, 4)
    pd.testing.assert_frame_equal(pd.read_csv(out / "interactions.csv"), found.frame())
    assert (out / "map.png").read_bytes().startswith(b"\x89PNG")
    assert f"--n-prompts 4 --out {out}" in (out / "report.html").read_text(encoding="utf-8")


def test_a_report_of_a_saved_result(model: str, tmp_path: Path, capsys: Any) -> None:
    arguments = ["discover", "--model", model, "--n-prompts", "2", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    saved = str(tmp_path / "interactions.npz")
    assert cli.main(["report", saved, "--out", str(tmp_path / "a" / "b.html")]) == 0
    assert "Interactions: " in (tmp_path / "a" / "b.html").read_text(encoding="utf-8")
    before = (tmp_path / "report.html").read_bytes()
    for title, name in (("Mine", "report-2"), ("Mine", "report-2"), ("Other", "report-3")):
        assert cli.main(["report", saved, "--title", title]) == 0
        page = tmp_path / f"{name}.html"
        assert f"<title>{title}</title>" in page.read_text(encoding="utf-8")
        assert capsys.readouterr().out.endswith(f"written to {page}\n")
    assert (tmp_path / "report.html").read_bytes() == before
    assert "is not a spex_mech result" in refused(capsys, "report", str(tmp_path / "report.html"))


def test_discover_is_what_the_functions_give(model: str, tmp_path: Path) -> None:
    options = "--n-prompts 4 --seed 3 --ablation resample --budget 30 --batch-size 7"
    units = "L1H*,L0H1+L0N3,L1N[12]"
    cli.main(
        ["discover", "--model", model, *options.split(), "--units", units, "--out", str(tmp_path)]
    )
    got = sm.Interactions.load(tmp_path / "interactions.npz")

    loaded = sm.load_model(model, device="cpu")
    heads, neurons = sm.Components.heads(loaded), sm.Components.neurons(loaded)
    chosen = heads[["L1H0", "L1H1", "L0H1"]] + neurons[["L0N3", "L1N1", "L1N2"]]
    task = sm.load_task("induction", loaded, 4, 3)
    want = sm.discover(sm.ModelGame(loaded, task, chosen, ablation="resample"), budget=30, seed=3)
    assert got.labels == want.labels
    np.testing.assert_array_equal(got.units, want.units)
    np.testing.assert_allclose(got.values, want.values, rtol=0, atol=1e-5)
    assert got.about["ablation"] == "resample" and got.about["seed"] == 3


def test_a_store_is_used_again(model: str, tmp_path: Path, monkeypatch: Any) -> None:
    store = tmp_path / "run.sqlite"
    arguments = ["discover", "--model", model, "--n-prompts", "4", "--store", str(store)]
    assert cli.main([*arguments, "--out", str(tmp_path / "first")]) == 0
    asked: set[tuple[int, ...]] = set()
    ablating = sm.ModelGame.ablating

    def watched(game: Any, ablated: Any, *rest: Any) -> Any:
        asked.update(map(tuple, np.asarray(ablated).tolist()))
        return ablating(game, ablated, *rest)

    monkeypatch.setattr(sm.ModelGame, "ablating", watched)
    assert cli.main([*arguments, "--out", str(tmp_path / "again")]) == 0
    assert 1 <= len(asked) <= 3  # what the store asks at each opening, and nothing else
    first, again = (tmp_path / name / "interactions.npz" for name in ("first", "again"))
    assert np.array_equal(sm.Interactions.load(first).values, sm.Interactions.load(again).values)


def test_a_proxy_by_name(model: str, tmp_path: Path) -> None:
    arguments = ["discover", "--model", model, "--n-prompts", "4", "--units", "heads+neurons"]
    arguments += ["--method", "proxyspex", "--proxy", "trees", "--budget", "130"]
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 0
    found = sm.Interactions.load(tmp_path / "interactions.npz")
    assert found.about["method"] == "proxyspex"
    assert found.about["proxy"] == "trees"


def test_tokens_of_a_text(shared_data: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ["discover", "--lens", "tokens", "--model", str(shared_data / "stories3m")]
    arguments += ["--text", "Once upon a time, there was a little", "--answer", " girl"]
    assert cli.main([*arguments, "--out", str(tmp_path)]) == 0
    names = {"interactions.csv", "interactions.npz", "map.png", "report.html", "text.html"}
    assert {path.name for path in tmp_path.iterdir()} == names
    found = sm.Interactions.load(tmp_path / "interactions.npz")
    assert found.about["lens"] == "tokens" and "little" in found.labels[-1]
    assert "little" in (tmp_path / "text.html").read_text()


def test_words_of_a_text_screened_on_a_student(tmp_path: Path, capsys: Any) -> None:
    arguments = ["discover", "--lens", "tokens", "--model", "sentiment", "--units", "words"]
    text = (
        "The film was not good and the story was dull. The food was never nice. I like the hotel."
    )
    arguments += ["--text", text, "--answer", "negative"]
    student = ["--student", "sentiment", "--method", "proxyspex", "--budget", "95"]
    assert cli.main([*arguments, *student, "--out", str(tmp_path)]) == 0
    found = sm.Interactions.load(tmp_path / "interactions.npz")
    assert found.about["proxy"] == "student" and found.labels[3] == "4:not"
    assert cli.main([*arguments, "--student", "sentiment", "--out", str(tmp_path)]) == 2
    assert "--student goes with --method proxyspex" in capsys.readouterr().err


def test_examples_of_a_file(tmp_path: Path, capsys: Any) -> None:
    rng = np.random.default_rng(0)
    x, x_test = rng.normal(size=(9, 3)), rng.normal(size=(4, 3))
    file = tmp_path / "data.npz"
    texts = np.array([f"text {i}" for i in range(9)])
    np.savez(file, x=x, y=x[:, 0] > 0, x_test=x_test, y_test=x_test[:, 0] > 0, texts=texts)
    arguments = ["discover", "--lens", "data", "--examples", str(file), "--out", str(tmp_path)]
    options = ["--learner", "logistic", "--penalty", "0.5"]
    assert cli.main([*arguments, *options]) == 0
    got = sm.Interactions.load(tmp_path / "interactions.npz")
    game = sm.TrainingGame.logistic(x, x[:, 0] > 0, x_test, x_test[:, 0] > 0, 0.5)
    want = sm.discover(game, progress=False)
    np.testing.assert_allclose(got.values, want.values, atol=1e-9)
    assert "text " in (tmp_path / "examples.html").read_text()
    assert cli.main([*arguments, "--learner", "oak"]) == 2
    assert "--learner oak; choose one of ridge, logistic" in capsys.readouterr().err

    masks = rng.random((300, 6)) < 0.5
    np.savez(file, masks=masks, values=1.0 * (masks[:, 1] & masks[:, 4]))
    assert cli.main(arguments) == 0
    assert "1 x 4" in (tmp_path / "estimates.csv").read_text().splitlines()[1]
    twice = ["a", "same", "b", "c", "same", "d"]
    np.savez(file, masks=masks, values=1.0 * (masks[:, 1] & masks[:, 4]), texts=twice)
    assert cli.main(arguments) == 0
    assert "1:same x 4:same" in (tmp_path / "estimates.csv").read_text().splitlines()[1]
    np.savez(file, x=x)
    assert cli.main(arguments) == 2
    assert "has no 'y'; it holds x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("units", "n_units"), [("neurons", 12), ("heads+neurons", 16), ("heads, L0N*", 10)]
)
def test_units_by_kind(model: str, tmp_path: Path, units: str, n_units: int) -> None:
    arguments = ["--units", units, "--n-prompts", "2", "--out", str(tmp_path)]
    assert cli.main(["discover", "--model", model, *arguments]) == 0
    assert len(sm.Interactions.load(tmp_path / "interactions.npz").labels) == n_units


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        ("--task nosuch", ["unknown task 'nosuch'", "induction"]),
        ("--task ioi", ["'ioi' needs a tokenizer"]),
        ("--task induction --file x.txt", ["'induction' takes no option 'file'"]),
        ("--lens tokens", ["--lens tokens needs --text"]),
        ("--proxy trees", ["--proxy trees", "--method proxyspex"]),
        ("--method proxyspex --proxy oak", ["'oak'", "distilled", "trees"]),
        ("--method magic", ["unknown method 'magic'", "exhaustive"]),
        ("--ablation blur", ["unknown ablation 'blur'", "mean", "resample"]),
        ("--units L9H0", ["unknown component L9H0", "layers 0 to 1"]),
        ("--units L0H7", ["unknown component L0H7", "2 heads"]),
        ("--units what", ["unknown units 'what'; give one of heads, neurons, kv_groups"]),
        ("--units L7H*", ["no component matches 'L7H*'"]),
        ("--units heads,L0H0", ["duplicate unit", "L0H0"]),
        ("--budget 5", ["a budget of 5 evaluations is too small", "at least 11"]),
        ("--order 9", ["order 9 among 4 unit"]),
        ("--order 1", ["order is 1", "at least 2"]),
        ("--n-prompts 0", ["n_prompts is 0"]),
        ("--seed -1", ["seed is -1"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    model: str, tmp_path: Path, capsys: Any, arguments: str, texts: list[str]
) -> None:
    out = tmp_path / "out"
    of_prompts = [] if "--lens" in arguments else ["--n-prompts", "2"]
    common = ["discover", "--model", model, *of_prompts, "--out", str(out)]
    error = refused(capsys, *common, *arguments.split())
    assert all(text in error for text in texts)
    assert not out.exists()


def test_models_that_are_none(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    out = ["--out", str(tmp_path / "out")]
    error = refused(capsys, "discover", "--model", str(tmp_path / "empty"), *out)
    assert f"{tmp_path / 'empty'} holds no model" in error and "save_pretrained" in error
    error = refused(capsys, "discover", "--model", str(tmp_path / "nosuch"), *out)
    assert f"no folder {tmp_path / 'nosuch'}" in error and "by name: demo" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors"])
def test_a_damaged_model(model: str, tmp_path: Path, capsys: Any, damage: str) -> None:
    for file in Path(model).iterdir():
        (tmp_path / file.name).write_bytes(
            file.read_bytes()[: 200 if file.name == damage else None]
        )
    error = refused(capsys, "discover", "--model", str(tmp_path), "--out", str(tmp_path / "out"))
    assert f"could not load '{tmp_path}'" in error


def test_out_is_looked_at_before_the_work(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("keep me")
    for out in (file, file / "deeper"):
        for command in ("demo", "discover"):
            error = refused(capsys, command, "--out", str(out))
            assert f"--out {out}" in error and f"{file} is a file; give a folder" in error
    assert file.read_text() == "keep me"


def test_nothing_is_half_written(model: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def full(*arguments: Any, **arrays: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numpy.savez_compressed", full)
    out = tmp_path / "out"
    arguments = ["discover", "--model", model, "--n-prompts", "2", "--out", str(out)]
    assert cli.main(arguments) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_without_matplotlib_there_is_no_map(
    model: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = ["discover", "--model", model, "--n-prompts", "2", "--out", str(tmp_path)]
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == "no map: drawing needs matplotlib: pip install 'spex_mech[viz]'\n"
    assert not (tmp_path / "map.png").exists() and "map.png" not in out


def test_an_error_of_several_lines_is_one_line(monkeypatch: Any, capsys: Any) -> None:
    def failing(*arguments: Any, **options: Any) -> None:
        raise ValueError("first\n  second")

    monkeypatch.setattr("spex_mech.models.load_model", failing)
    assert refused(capsys, "discover", "--model", "demo") == "spex-mech: first second\n"


def test_an_interrupt_is_no_traceback(monkeypatch: Any, capsys: Any) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spex_mech.models.load_model", interrupted)
    assert cli.main(["discover", "--model", "demo"]) == 130
    assert capsys.readouterr().err == "spex-mech: interrupted\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", "required: command"),
        ("fly", "invalid choice: 'fly'"),
        ("discover --budget many", "--budget: invalid int value: 'many'"),
        ("discover --te hello", "unrecognized arguments: --te hello"),
        ("discover --colour red", "unrecognized arguments: --colour red"),
    ],
)
def test_wrong_arguments_are_one_line(capsys: Any, arguments: str, text: str) -> None:
    error = refused(capsys, *arguments.split())
    assert text in error and "--help" in error


def test_models_and_tasks_list_everything(capsys: Any) -> None:
    assert cli.main(["models"]) == 0
    models = capsys.readouterr().out
    assert all(f"{name} " in models and what in models for name, what in BUNDLED.items())
    assert "a folder" in models and "a hub name" in models
    assert cli.main(["tasks"]) == 0
    tasks = capsys.readouterr().out
    assert all(f"{name} " in tasks and what in tasks for name, what in TASKS.items())


def defaults_of(function: Any) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }


def test_defaults_are_the_functions() -> None:
    discover, load_task = defaults_of(sm.discover), defaults_of(sm.load_task)
    game = defaults_of(sm.ModelGame)
    want = {name: discover[name] for name in ("budget", "order", "seed")}
    found = sm.discover(lambda masks: masks.all(dim=1).double(), n=4, progress=False)
    want["method"] = found.about["method"]
    want |= {name: game[name] for name in ("ablation", "precision", "batch_size")}
    want |= {"n_prompts": load_task["n_prompts"]}
    assert want == cli.DEFAULTS
    assert load_task["seed"] == discover["seed"]  # one --seed for both

    parsed = vars(cli._parser().parse_args(["discover"]))
    assert {name: parsed[name] for name in want} == want
    assert parsed["bridge"] == defaults_of(sm.load_model)["bridge"]
    assert parsed["model"] in BUNDLED and parsed["task"] in TASKS
    # The game's own default is every head.
    assert game["components"] is None and parsed["units"] == "heads"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, spex_mech.cli\n"
        "try: spex_mech.cli.main(['discover', '--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'numpy', 'matplotlib', 'pandas'}\n"
        "print('loaded:', sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("usage: spex-mech discover")
    assert run.stdout.splitlines()[-1] == "loaded: []"


def test_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "spex_mech", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(name in run.stdout for name in ("demo", "discover", "models", "tasks"))


# -- results are written first and printed afterwards ---------------------------------------------


def run_in_shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=given
    )


SMALL = "discover --n-prompts 4 --method exhaustive"


@pytest.mark.slow
@pytest.mark.parametrize("sink", ["| true", "| head -c 3", "> /dev/full"])
def test_what_becomes_of_the_output_costs_no_result(tmp_path: Path, sink: str) -> None:
    if "/dev/full" in sink and not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    run = run_in_shell(f"{sys.executable} -m spex_mech {SMALL} --out {tmp_path} {sink}")
    assert len(sm.Interactions.load(tmp_path / "interactions.npz")) == 28
    assert {"interactions.csv", "report.html"} < {file.name for file in tmp_path.iterdir()}
    assert "Traceback" not in run.stderr and "Exception ignored" not in run.stderr
    if "/dev/full" in sink:
        assert "nothing more can be printed" in run.stderr


def test_another_result_is_moved_and_not_overwritten(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "report.html").write_text("my own page")
    arguments = ["discover", "--n-prompts", "2", "--method", "exhaustive", "--out", str(tmp_path)]
    moved = f"the other result that was in {tmp_path} is now in {tmp_path}/earlier-"
    assert cli.main(arguments) == 0 and moved + "1" in capsys.readouterr().err
    assert (tmp_path / "earlier-1" / "report.html").read_text() == "my own page"
    assert cli.main(arguments) == 0 and "other result" not in capsys.readouterr().err  # the same
    first = (tmp_path / "interactions.npz").read_bytes()
    assert cli.main([*arguments, "--seed", "5"]) == 0 and moved + "2" in capsys.readouterr().err
    assert (tmp_path / "earlier-2" / "interactions.npz").read_bytes() == first
    assert {path.name for path in tmp_path.iterdir()} == {
        "earlier-1", "earlier-2", "interactions.npz", "interactions.csv", "map.png", "report.html",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "words", "said"),
    [
        ({"y": np.array(["a"] * 9)}, [], "y is of <U1; it must hold real numbers"),
        ({"x": np.ones((9, 2)) * 1j}, [], "x is of complex128; it must hold real numbers"),
        ({"masks": np.ones((30, 4), "U1")}, [], "masks is of <U1; it must hold real numbers"),
        ({}, ["--budget", "3"], "--budget is about what is asked, and "),
        ({}, ["--store=run.sqlite"], "--store is about what is asked, and "),
        ({}, ["--learner", "logistic"], "--learner is about what is asked, and "),
        ({}, ["--seed", "-1"], "seed is -1; it must be a whole number of at least 0"),
    ],
)
def test_examples_and_options_that_do_not_go_together(
    changed: dict[str, Any], words: list[str], said: str, tmp_path: Path, capsys: Any
) -> None:
    masks = np.random.default_rng(0).random((60, 4)) < 0.5
    held = {"masks": masks, "values": masks[:, 0] * 1.0, **changed}
    np.savez(tmp_path / "e.npz", **held)
    given = ["--lens", "data", "--examples", str(tmp_path / "e.npz"), "--out", str(tmp_path / "o")]
    assert cli.main(["discover", *given, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line and not (tmp_path / "o").exists()


@pytest.mark.filterwarnings("ignore:.* interactions are left out")
def test_what_a_store_exports_can_be_explained(tmp_path: Path, capsys: Any) -> None:
    """Its masks are near the intact one, where only "intact" can be told."""
    store = tmp_path / "run.sqlite"
    sm.discover(
        lambda m: (m[:, 0] & m[:, 1]).double(), "exhaustive", n=12, store=store, progress=False
    )
    assert cli.main(["store", str(store), "--export", str(tmp_path / "e.npz")]) == 0
    out = tmp_path / "o"
    given = ["--lens", "data", "--examples", str(tmp_path / "e.npz"), "--out", str(out)]
    assert cli.main(["discover", *given]) == 0
    printed = capsys.readouterr().out
    assert "estimates (intact: the effect of ablating them)" in printed
    best = pd.read_csv(out / "estimates.csv").iloc[0]
    assert best.units == "0 x 1" and best.estimate == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("content", [b'[{"x": 1}]', b"", b"PK\x03\x04 and nothing", b"\x93NUMPY"])
def test_examples_that_are_no_arrays(content: bytes, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "rows.npz"
    file.write_bytes(content)
    words = ["discover", "--lens", "data", "--out", str(tmp_path / "o"), "--examples"]
    error = refused(capsys, *words, str(file))
    assert f"{file} is no .npz of numbers" in error and "pickle" not in error
    assert f"there is no file {tmp_path}/no.npz" in refused(capsys, *words, f"{tmp_path}/no.npz")
    np.savez(file, x=np.array([{}], dtype=object))
    assert "is no .npz of numbers" in refused(capsys, *words, str(file))


def test_a_terminal_that_lacks_characters_costs_no_result(tmp_path: Path) -> None:
    masks = np.random.default_rng(0).random((60, 4)) < 0.5
    np.savez(tmp_path / "mv.npz", masks=masks, values=1.0 * (masks[:, 0] & masks[:, 1]))
    run = run_in_shell(
        f"{sys.executable} -m spex_mech discover --lens data --examples {tmp_path / 'mv.npz'} "
        f"--out {tmp_path / 'o'}",
        PYTHONIOENCODING="ascii",
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "o" / "estimates.csv").is_file() and "masks, R? " in run.stdout


def test_results_of_two_runs_are_never_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that gets full while the second result is written leaves the first one whole."""
    from spex_mech.report import folder as module

    first, second = (
        sm.discover(lambda m, s=s: s * (m[:, 0] & m[:, 1]).double(), n=3, progress=False)
        for s in (1.0, 2.0)
    )
    module.write_all(first, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_report", full)
    with pytest.raises(OSError, match=r"cannot be written to \(No space left on device\)") as error:
        module.write_all(second, tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    kept = Path(str(error.value).rsplit(" ", 1)[1])
    assert sm.Interactions.load(kept).mean[0] == second.mean[0]


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--text", "hello"], "--text goes with --lens tokens, and this is --lens model"),
        (["--lens", "data", "--ablation=zero"], "--ablation goes with --lens model"),
        (["--penalty=3"], "--penalty goes with --lens data"),
        (["--lens", "data", "--units=heads"], "--units goes with --lens model or tokens"),
        (["--lens", "data", "--examples", "x", "--model", "demo"], "--model goes with --lens mod"),
        (["--lens", "tokens", "--text", "a", "--task", "ioi"], "--task goes with --lens model"),
        (["--lens", "data", "--examples", "x", "--answer", "y"], "--answer goes with --lens token"),
    ],
)
def test_options_of_another_lens_are_refused(
    words: list[str], match: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["discover", *words, "--out", str(tmp_path)]) == 2
    assert match in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spex_mech.models.load_model", lambda *a, **k: pytest.fail("it began"))
    for command in ("discover", "demo"):
        assert cli.main([command, "--out", "/proc/nosuch/x"]) == 2
        assert "--out /proc/nosuch/x: nothing can be written there" in capsys.readouterr().err


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of the demo model."""
    folder = tmp_path_factory.mktemp("searched")
    assert cli.main(["discover", "--n-prompts", "16", "--out", str(folder)]) == 0
    return folder / "interactions.npz"


def test_a_result_is_confirmed_on_other_prompts(
    searched: Path, tmp_path: Path, capsys: Any
) -> None:
    assert cli.main(["confirm", str(searched), "-k", "3", "--out", str(tmp_path)]) == 0
    assert "hold on 16 other prompts" in capsys.readouterr().out
    kept = sm.load(tmp_path / "interactions.npz")
    pair = ("L0H3", "L1H0")
    row = kept.names.index(pair)
    assert kept.confirmed[row] == 1 and (kept.confirmed >= 0).sum() == 3
    model = sm.load_model("demo")
    fresh = sm.ModelGame(model, sm.load_task("induction", model, 16, seed=1))
    want = sm.confirm(sm.load(searched), fresh, k=3, progress=False)
    assert sm.load(tmp_path / "confirmed.npz")[pair] == pytest.approx(want[pair], abs=1e-5)


@pytest.mark.parametrize("command", ["confirm", "circuit"])
@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"weights_sha256": "0" * 16}, "called 'demo', and what has that name now has other wei"),
        ({"model": "no/such/model"}, "called 'no/such/model', and that name is not enough: give "),
    ],
)
def test_another_model_of_the_same_name_is_refused(
    searched: Path, tmp_path: Path, capsys: Any, command: str, about: dict[str, Any], told: str
) -> None:
    """A result of a folder called as a model of the hub was taken up again with that model."""
    found = sm.load(searched)
    file = replace(found, about=found.about | about).save(tmp_path / "other.npz")
    words = [command, str(file), "--out", str(tmp_path / "out")]
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert told in error and "--model" in error and not (tmp_path / "out").exists()


def test_examples_of_which_nothing_is_found_are_no_error(tmp_path: Path, capsys: Any) -> None:
    """The result was written, and then the picture failed, and with it the command."""
    eye, y = np.eye(4), np.array([1.0, 1, 0, 0])
    np.savez(tmp_path / "e.npz", x=eye, y=y, x_test=eye, y_test=y)
    given = ["--examples", str(tmp_path / "e.npz"), "--out", str(tmp_path / "out")]
    assert cli.main(["discover", "--lens", "data", *given]) == 0
    assert "no examples.html: no pairs to draw" in capsys.readouterr().out
    assert (tmp_path / "out" / "interactions.npz").is_file()


def test_prompts_of_the_search_are_said(searched: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["confirm", str(searched), "-k", "1", "--seed", "0", "--out", str(tmp_path)]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli.main(words) == 0
    told = capsys.readouterr()
    assert told.out.startswith("Nothing is confirmed")
    assert told.err.startswith("spex-mech: warning: ") and told.err.count("\n") == 1


def test_a_circuit_of_a_result(searched: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["circuit", str(searched), "--size", "2", "--out", str(tmp_path)]) == 0
    assert "held-out prompts" in capsys.readouterr().out
    circuit = sm.load(tmp_path / "circuit.json")
    assert set(circuit.units) == {"L0H3", "L1H0"}
    assert json.loads((tmp_path / "circuit_mib.json").read_text())["nodes"]["a0.h3"]["in_graph"]
    assert {"circuit.csv", "circuit.graphml", "circuit.png"} <= {p.name for p in tmp_path.iterdir()}


OWN_METRIC = """
def half(logits, prompts):
    from spex_mech.engine.metrics import METRICS
    return METRICS["log_prob"](logits, prompts) / 2
number = 3
"""


def test_a_metric_of_ones_own(
    searched: Path, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_metric.py").write_text(OWN_METRIC)
    words = ["discover", "--n-prompts", "16", "--metric", "own_metric:half", "--out", "own"]
    assert cli.main(words) == 0
    words[words.index("own_metric:half")] = "own_metric.py:half"  # as the file is called
    assert cli.main([*words[:-1], "same"]) == 0
    half, whole = sm.load("own/interactions.npz"), sm.load(searched)
    assert sm.load("same/interactions.npz")["L0H3", "L1H0"] == half["L0H3", "L1H0"]
    assert half["L0H3", "L1H0"] == pytest.approx(whole["L0H3", "L1H0"] / 2, rel=1e-4)
    capsys.readouterr()
    assert "--metric module:half" in refused(capsys, "confirm", "own/interactions.npz")
    for name, told in (
        ("own_metric:third", "no attribute 'third'"), ("own_metric:number", "is 3, an int"),
        ("no_such_file:half", "No module named 'no_such_file'"), ("half", "unknown metric 'half'"),
    ):  # fmt: skip
        assert told in refused(capsys, "discover", "--metric", name)


def test_a_metric_is_the_function_of_its_own_file(tmp_path: Path, monkeypatch: Any) -> None:
    """A file called as a module that is loaded already once gave that one's function."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for folder, value in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "in_a_folder.py").write_text(f"def own(*_): return {value}")
    (tmp_path / "statistics.py").write_text("def mean(*_): return 3")
    for path, value in (("one", 1), ("./two", 2), (str(tmp_path / "one"), 1)):
        assert metric_named(f"{path}/in_a_folder.py:own")() == value
    match = rf"{re.escape(statistics.__file__)}, and not .*statistics\.py: call this file otherwise"
    with pytest.raises(ValueError, match=match):
        metric_named("statistics:mean")


def test_results_of_files_of_prompts(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = word_tokenizer()
    torch.manual_seed(0)
    size = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 24, "vocab_size": len(tokenizer)}
    made = tf.GPT2LMHeadModel(tf.GPT2Config(**size, bos_token_id=0, eos_token_id=1))
    for part in (made, tokenizer):
        part.save_pretrained("tiny")
    for name, who in (("some", "he"), ("others", "she")):
        rows = [{"prompt": f"{who} sees a {what}", "answer": " Rome"} for what in ("dog", "cat")]
        Path(f"{name}.json").write_text(json.dumps(rows))
    words = ["discover", "--model", "tiny", "--task", "some.json", "--out", "out"]
    assert cli.main(words) == 0
    for command in ("confirm", "circuit"):  # a result does not know the file
        assert "called 'some'; give --task" in refused(capsys, command, "out/interactions.npz")
    asked: list[str] = []

    def record(game: Any, found: Any, held_out: Any, **given: Any) -> None:
        asked.extend(each.provenance()["task"] for each in (game, held_out))
        raise ValueError("enough")

    monkeypatch.setattr(sm, "find_circuit", record)
    words = ["circuit", "out/interactions.npz", "--task", "some.json", "--held-out", "others.json"]
    assert "enough" in refused(capsys, *words)
    assert asked == ["some", "others"]


def test_the_version_and_the_help(capsys: Any) -> None:
    for words, told in ((["--version"], f"spex-mech {sm.__version__}"), (["discover"], "usage:")):
        with pytest.raises(SystemExit) as stop:
            cli.main(words)
        assert stop.value.code == 0 and capsys.readouterr().out.startswith(told)


@pytest.mark.parametrize("command", ["confirm", "circuit"])
def test_a_result_of_another_lens_is_refused_by_its_name(
    command: str, tmp_path: Path, capsys: Any
) -> None:
    found = sm.discover(lambda masks: masks.all(dim=1).double(), "exhaustive", n=3, progress=False)
    found.about["lens"] = "tokens"
    saved = found.save(tmp_path / "interactions.npz")
    assert "is a result of --lens tokens" in refused(capsys, command, str(saved))


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (["--layers", "1"], ["L1H0", "L1H1", "L1H2", "L1H3"]),
        (["--layers", "0-1"], [f"L{layer}H{head}" for layer in (0, 1) for head in range(4)]),
        (["--units", "heads+neurons", "--layers", "0"], ["L0H0", "L0N255"]),
    ],
)
def test_units_of_some_layers(words: list[str], labels: list[str], tmp_path: Path) -> None:
    given = ["discover", *words, "--n-prompts", "2", "--budget", "600", "--out", str(tmp_path)]
    assert cli.main(given) == 0
    found = sm.load(tmp_path / "interactions.npz").labels
    assert ([found[0], found[-1]] if "--units" in words else found) == labels
    assert {label[1] for label in found} == {label[1] for label in labels}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--layers", "x"], "--layers x: give numbers of layers, such as 0-3"),
        (["--layers", "1-"], "--layers 1-: give numbers"),
        (["--layers", "2-1"], "names no layer"),
        (["--layers", "7"], "L7H*"),
        (["--layers", "0", "--units", "L0H1"], "'L0H1' is none"),
        (["--layers", "0", "--lens", "tokens", "--text", "a"], "--layers goes with --lens model"),
        (["--gradients", "--method", "exhaustive"], "takes no 'gradients'"),
        (
            ["--no-gradients", "--lens", "data", "--examples", "known.npz"],
            "--no-gradients is about",
        ),
    ],
)
def test_layers_and_gradients_that_do_not_fit(
    words: list[str], told: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("known.npz", masks=np.eye(4) > 0, values=np.arange(4.0))
    assert told in refused(capsys, "discover", *words)


@pytest.mark.slow
def test_with_and_without_gradients(tmp_path: Path) -> None:
    for word, asked in (("--gradients", True), ("--no-gradients", False)):
        words = ["discover", "--units", "heads,L0N1*", "--n-prompts", "2", "--budget", "250"]
        assert cli.main([*words, word, "--out", str(tmp_path / word)]) == 0
        found = sm.load(tmp_path / word / "interactions.npz")
        assert found.about["options"] == {"gradients": asked}
        assert (found.cost["gradients"] > 0) is asked


def test_the_report_has_the_title_and_the_command(tmp_path: Path) -> None:
    words = ["discover", "--n-prompts", "2", "--title", "Mine & <yours>", "--out", str(tmp_path)]
    assert cli.main(words) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<h1><bdi>Mine &amp; &lt;yours&gt;</bdi></h1>" in page
    assert "spex-mech discover --n-prompts 2 --title &#39;Mine &amp; &lt;yours&gt;&#39;" in page


@pytest.mark.parametrize("command", ["confirm", "circuit", "report"])
def test_a_circuit_where_a_result_is_asked_for(
    command: str, searched: Path, tmp_path: Path, capsys: Any
) -> None:
    assert cli.main(["circuit", str(searched), "--size", "2", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    file = str(tmp_path / "circuit.json")
    told = refused(capsys, command, file)
    assert "circuit.json is a circuit of 2 units, and this command takes the result of" in told
    page = tmp_path / "both.html"
    assert cli.main(["report", str(searched), "--circuit", file, "--out", str(page)]) == 0
    assert "2 of 8 units: <bdi>L0H3</bdi>, <bdi>L1H0</bdi>" in page.read_text()
