"""What ``benchmarks/gpu.sh`` checks, on a GPU; and that it runs to its end, on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import FAMILIES, Sizes, out_of_memory, right, twice

ROOT = Path(__file__).resolve().parents[1]
ROUNDINGS = {"float32": 1e-5, "tf32": 1e-2}  # of the largest value; half types have the floor


def check_right(sizes: Sizes) -> set[str]:
    """Returns: the families that were looked at."""
    rows = list(right(sizes))
    for row in rows:
        if row["weights"] in ROUNDINGS:
            assert row["largest_error"] <= ROUNDINGS[row["weights"]], row
        else:
            assert row["covered"] >= 0.95 and row["floor_by_error"] <= 5, row
    return {row["family"] for row in rows}


def test_right_on_a_cpu() -> None:
    assert check_right(Sizes("cpu", small=True)) == {*FAMILIES[:2]}


@pytest.mark.gpu
def test_right_on_a_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU here")
    sizes = Sizes("cuda:0", small=False)
    assert check_right(sizes) == {*FAMILIES}
    assert out_of_memory(sizes)["largest_error"] <= 1e-4
    assert twice(sizes)["same_pairs"]


@pytest.mark.slow
def test_the_script_runs_to_its_end(tmp_path: Path) -> None:
    command = [str(ROOT / "benchmarks" / "gpu.sh"), "--small", "--out", str(tmp_path)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHON": sys.executable})
    kept = json.loads((tmp_path / "results" / "gpu.json").read_text())
    assert {*kept["parts"]} == {"right", "heads", "large"}
    works = {row.get("work") for row in kept["rows"]}
    assert {"all pairs of heads", "single heads", "pairs of heads", "gradient rows"} <= works
    assert not [row for row in kept["rows"] if "failure" in row and "method" not in row]
