"""The benchmarks run from a clone, in their quick mode, and find about what the results say."""

import importlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import rivals
from benchmarks.__main__ import NAMES, main, run_one
from benchmarks.frame import Options, plain, rows_of
from benchmarks.rivals import (
    Reported,
    attribution_patching,
    hessian,
    lasso,
    run_rival,
    second_differences,
)
from tests.planted import planted_game

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_quick_mode(name: str, tmp_path: Path, shared_data: Path) -> None:
    row = run_one(name, Options(shared_data, True, tmp_path), 1800)
    assert row["ended"] == "done"
    quick = Options(out=tmp_path).kept(name)
    assert quick, "no results were written"
    full = Options().kept(name)
    assert set(quick) <= set(full), "the quick mode keeps what the full one does not"
    assert {row["part"] for row in quick["rows"]} <= set(full["parts"])
    if name == "recovery":
        game = "story 260K, 900 units"
        for method in ("spex", "proxyspex"):
            (found,) = rows_of(quick["rows"], game=game, method=method, budget=1800)
            kept = rows_of(full["rows"], game=game, method=method, budget=1800, part="story")
            want = np.mean([r["recall@100"] for r in kept])
            assert found["recall@100"] == pytest.approx(want, abs=0.05)
        rivals = [r for r in rows_of(quick["rows"], part="heads") if "failure" in r]
        ours = rows_of(quick["rows"], part="heads", method="spex")[0]["recall@50"]
        assert len(rivals) >= 12
        assert all(r["failure"] or r["recall@50"] <= ours for r in rivals)


def test_one_that_fails_is_named_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fake(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        if "benchmarks.cluster" in command:
            raise subprocess.TimeoutExpired(command, 1)
        return subprocess.CompletedProcess(command, int("benchmarks.lenses" in command), "", "")

    monkeypatch.setattr("benchmarks.__main__.subprocess.run", fake)
    names = ["lenses", "cluster", "circuits"]
    wanted = [x for name in names for x in ("--only", name)]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--quick", "--out", str(tmp_path), *wanted])
    assert main() == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    ended = {row["name"]: row["ended"].split()[0] for row in summary["benchmarks"]}
    assert ended == {"lenses": "failed", "cluster": "stopped", "circuits": "done"}
    assert "failed (exit 1)" in capsys.readouterr().out


def test_only_a_part_keeps_the_others(tmp_path: Path) -> None:
    options = Options(out=tmp_path)
    parts = {"a": lambda _: [{"x": 1}], "b": lambda _: [{"x": float("nan")}]}
    options.parts("some", parts)
    again = Options(out=tmp_path, only=("a",))
    again.parts("some", {"a": lambda _: [{"x": 2}], "b": parts["b"]})
    kept = again.kept("some")
    assert sorted((r["part"], r["x"]) for r in kept["rows"] if r["x"]) == [("a", 2)]
    assert [r["part"] for r in kept["rows"]] == ["b", "a"] and set(kept["parts"]) == {"a", "b"}


def test_an_interrupted_part_leaves_what_it_measured(tmp_path: Path) -> None:
    def measure(_: Options) -> Iterator[dict[str, Any]]:
        yield {"x": 1}
        raise KeyboardInterrupt

    options = Options(out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        options.parts("some", {"a": measure})
    assert options.kept("some")["rows"] == [{"part": "a", "x": 1}]


def test_what_needs_models_is_left_out_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def first(options: Options) -> Iterator[dict[str, Any]]:
        yield {"x": 1}
        yield {"folder": options.models}

    def never(options: Options) -> Iterator[dict[str, Any]]:
        yield {"folder": options.models}

    out = Options(out=tmp_path).parts("some", {"a": first, "b": never})
    assert out["rows"] == [{"part": "a", "x": 1}] and set(out["parts"]) == {"a"}
    assert capsys.readouterr().out.count("left out: it needs the folder of models") == 2


def test_what_was_measured_stays_where_a_part_is_left_out(tmp_path: Path) -> None:
    def measure(options: Options) -> Iterator[dict[str, Any]]:
        options.must_be_full()
        yield {"x": 1}

    full = Options(out=tmp_path).parts("some", {"a": measure})
    assert Options(out=tmp_path, quick=True).parts("some", {"a": measure}) == full
    assert Options(out=tmp_path).parts("some", {"b": measure})["rows"] == [{"part": "b", "x": 1}]


def test_results_are_json() -> None:
    nest = {"a": np.float32(0.5), 2: (np.int64(3), float("inf")), "c": np.array([1.0, np.nan])}
    assert plain(nest) == {"a": 0.5, "2": [3, None], "c": [1.0, None]}


def test_a_rival_that_hears_no_alarm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(*_: Any) -> Any:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        time.sleep(60)

    def greedy(*_: Any) -> Any:
        return bytearray(2 * rivals.MEMORY_LIMIT)

    def fine(values: Any, n: int, budget: int, seed: int) -> Reported:
        return Reported([[(0, 1)]])

    monkeypatch.setattr(rivals, "GRACE", 1)
    of_each = {"deaf": deaf, "greedy": greedy, "fine": fine}
    monkeypatch.setattr(rivals, "ON_VALUES", of_each)
    monkeypatch.setattr(rivals, "DEAF", {*of_each})
    failures = [rivals.of_rival(name, Quadratic(), 9, 0, 1).failure for name in of_each]
    assert failures[0].startswith("TimeoutError: killed") and failures[1].startswith("MemoryError")
    assert failures[2] == ""


# -- rivals that are written here -----------------------------------------------------------------


class Quadratic:
    """A function of gates whose interactions are the planted ones."""

    def __init__(self) -> None:
        self.planted = planted_game(12, 5, 0)
        self.pairs = {s: v for s, v in self.planted.planted.items()}

    def __len__(self) -> int:
        return 12

    def mean(self, masks: np.ndarray) -> np.ndarray:
        import torch

        return self.planted(torch.from_numpy(np.asarray(masks, dtype=bool)))[:, 0].numpy()

    def gradient(self, gates: Any) -> Any:
        import torch

        lost = 1 - gates.double()
        slopes = torch.from_numpy(-self.planted.main_effects).expand(len(gates), -1).clone()
        for (i, j), value in self.pairs.items():
            slopes[:, i] -= value * lost[:, j]
            slopes[:, j] -= value * lost[:, i]
        return slopes


def strongest(game: Quadratic) -> list[tuple[int, int]]:
    return sorted(game.pairs, key=lambda s: -abs(game.pairs[s]))  # type: ignore[return-value]


def test_second_differences_of_all_pairs_are_the_interactions() -> None:
    game = Quadratic()
    everything = 2 + 2 * 12 + 2 * 66
    assert second_differences(game.mean, 12, everything, 0).rankings[1][:5] == strongest(game)
    asked: list[int] = []

    def counted(masks: np.ndarray) -> np.ndarray:
        asked.append(len(masks))
        return game.mean(masks)

    second_differences(counted, 12, 60, 0)
    assert 58 <= sum(asked) <= 60
    counted_by = run_rival(second_differences, game.mean, 12, 60, 0)
    assert counted_by.evaluations == sum(asked)
    by_settings = run_rival(lasso, game.mean, 12, 60, 0, False)
    assert (by_settings.evaluations, len(by_settings.rankings)) == (60, 2)
    with pytest.raises(ValueError, match="pay for no pair"):
        second_differences(game.mean, 12, 26, 0)


def test_the_hessian_is_that_of_the_gates() -> None:
    game = Quadratic()
    reported = hessian(game.mean, 12, 3 + 3 * 12, 0, game)
    assert all(ranking[:5] == strongest(game) for ranking in reported.rankings)
    assert reported.gradients == 13


def test_attribution_patching_ranks_products_of_slopes() -> None:
    game = Quadratic()
    (ranking,) = attribution_patching(game.mean, 12, 3, 0, game).rankings
    main = abs(game.planted.main_effects)
    products = [main[i] * main[j] for i, j in ranking]
    assert products == sorted(products, reverse=True) and len(products) == 66


@pytest.mark.parametrize("name", [*NAMES, "truth"])
def test_each_benchmark_can_be_loaded(name: str) -> None:
    """They use the package's names, whose renaming would otherwise be noticed hours later."""
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.__doc__ and f"python -m benchmarks.{name}" in module.__doc__
