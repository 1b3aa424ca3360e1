"""Random functions, arguments, labels and files: the right value, or an error of the package's own.
What is tried, and how it is judged, is in ``fuzz.py``; it runs without the tests' type checks."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import spex_mech as sm

ROOT = Path(sm.__file__).parents[1]


def cases(first: int, count: int, folder: Path) -> list[dict[str, Any]]:
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", str(first), str(count), str(folder)],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    return [json.loads(line) for line in run.stdout.splitlines()]


def check(rows: list[dict[str, Any]], count: int) -> None:
    assert len(rows) == count
    wrong = [row for row in rows if row["wrong"]]
    assert not wrong, json.dumps(wrong[:3], indent=1)
    right = sum(row["came"] == "a result" for row in rows)
    assert 0.1 < right / count < 0.9  # or nothing is tried


def test_forty_random_cases(tmp_path: Path) -> None:
    check(cases(0, 40, tmp_path), 40)


@pytest.mark.slow
def test_three_hundred_random_cases(tmp_path: Path) -> None:
    check(cases(40, 300, tmp_path), 300)
