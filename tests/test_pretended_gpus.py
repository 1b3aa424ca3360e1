"""The package on pretended GPUs (``on_pretended_gpus``), in a process of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import pretended_gpu

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_values_are_those_of_the_cpu(which: str) -> None:
    if reason := pretended_gpu.why_not():
        pytest.skip(reason)
    command = [sys.executable, "-m", "tests.on_pretended_gpus", "-m", which]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    last = done.stdout.strip().splitlines()[-1:]
    assert done.returncode == 0 and " passed" in last[0], done.stdout[-6000:] + done.stderr[-2000:]
