"""The figures that the README states are those of the committed benchmark results."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROSE = " ".join(README.split())


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def cell(row_starts: str, column: int) -> float:
    """A number of the README's table of figures."""
    (line,) = [x for x in README.splitlines() if x.startswith(f"| {row_starts}")]
    return float(line.split("|")[column + 1].strip().replace(",", ""))


def mean_recall(game: str, method: str, budget: int, key: str) -> float:
    rows = [
        r[key]
        for r in results("recovery")["rows"]
        if (r["game"], r["method"], r["budget"]) == (game, method, budget)
    ]
    assert rows, (game, method, budget)
    return float(np.mean(rows))


def test_story_model_table() -> None:
    game = "story 260K, 900 units"
    for column, budget in enumerate((1800, 2700, 3600, 5400), start=1):
        for name, method, key in (
            ("SPEX, top 100", "spex", "recall@100"),
            ("SPEX, top 500", "spex", "recall@500"),
            ("SPEX without gradients, top 100", "spex without gradients", "recall@100"),
            ("products of main effects, top 100", "products of main effects", "recall@100"),
        ):
            want = mean_recall(game, method, budget, key)
            assert abs(cell(name, column) - want) < 0.0051, (name, budget, want)


def test_ioi_figures() -> None:
    run = results("recovery_ioi")["runs"][0]
    stated = re.search(r"(\d[\d,]*) evaluations, 1\.5 a unit, .* all of the top 100", PROSE)
    assert stated and int(stated[1].replace(",", "")) == run["evaluations"]
    assert run["found_of_top_100_among_150_strong_units"] == 1.0
    assert run["of_which_found"] == run["random_pairs_as_strong_as_the_100th"] == 0


def test_planted_figures() -> None:
    rows = [r for r in results("recovery")["rows"] if r["game"] == "n = 10,000, 100 pairs"]
    stated = re.search(r"100 pairs planted among 10,000 units are found with some ([\d,]+)", PROSE)
    assert stated
    mean = np.mean([r["candidates_after"] for r in rows])
    assert abs(int(stated[1].replace(",", "")) - mean) < 100
    assert min(r["recall"] for r in rows) == 1.0
