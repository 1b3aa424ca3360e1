"""Size and speed of a store: synthetic evaluations among 10,000 units, with values of 8 prompts.

    python -m benchmarks.store_size

Three kinds of masks: pairs (as most of a search's), random halves (a bit a unit, the largest that a
mask can be), and gradients by 8 blocks of prompts (a thousandth as many). Writes
``results/store_size.json``.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frame import Options, Row, script
from spex_mech.game import Answer
from spex_mech.masks import MaskBatch
from spex_mech.runs.store import opened
from spex_mech.search.contract import Question

UNITS, PROMPTS, BLOCKS, BATCH = 10_000, 8, 8, 1024


class Game:
    """It is never asked: the benchmark brings the values."""

    labels = tuple(str(unit) for unit in range(UNITS))

    def __len__(self) -> int:
        return UNITS

    def identity(self) -> dict[str, Any]:
        return {"game": "synthetic"}


def masks(kind: str, rng: np.random.Generator, count: int) -> Question:
    """Of one batch."""
    if kind == "pairs":
        return Question(MaskBatch.of_rows(rng.integers(0, UNITS, (count, 2)), UNITS))
    half, shift = rng.permutation(UNITS)[: UNITS // 2], rng.permutation(UNITS)[:count]
    return Question(MaskBatch.of_rows((half + shift[:, None]) % UNITS, UNITS), kind == "gradients")


def answer(question: Question, rng: np.random.Generator) -> Answer:
    """As of a model that computes in float32."""
    values = rng.standard_normal((len(question), PROMPTS), dtype=np.float32).astype(np.float64)
    if not question.gradient:
        return Answer(values)
    shape = (len(question), BLOCKS, UNITS)
    return Answer(values, rng.standard_normal(shape, dtype=np.float32).astype(np.float64))


def measured(kind: str, count: int, path: Path) -> Row:
    rng, spent = np.random.default_rng(0), 0.0
    batch = BATCH if kind != "gradients" else 16
    with opened(path, Game(), check=False) as store:
        run = store.search({"kind": kind}, Game(), batch)
        for start in range(0, count, batch):
            question = masks(kind, rng, min(batch, count - start))
            found = answer(question, rng)
            asked = question.masks
            started = time.perf_counter()
            run.answer(asked, question.gradient, kind, None, lambda found=found: found)
            spent += time.perf_counter() - started
    started = time.perf_counter()
    with opened(path, Game(), check=False) as store:
        opening = time.perf_counter() - started
        other = store.search({"kind": "other"}, Game(), batch)
        rng = np.random.default_rng(0)
        question = masks(kind, rng, batch)
        asked = question.masks
        started = time.perf_counter()
        other.answer(asked, question.gradient, kind, None, lambda: answer(question, rng))
        found_again = time.perf_counter() - started
        assert other.reused == question.cost
    size = path.stat().st_size
    return {
        "masks": kind, "evaluations": count, "gigabytes": size / 1e9, "bytes_each": size / count,
        "microseconds_to_keep": spent / count * 1e6,
        "microseconds_to_find": found_again / batch * 1e6, "seconds_to_open": opening,
    }  # fmt: skip


def sizes(options: Options) -> Iterator[Row]:
    count = 20_000 if options.quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        for kind, share in (("pairs", 1), ("halves", 1), ("gradients", 1000)):
            yield measured(kind, max(16, count // share), Path(folder) / f"{kind}.sqlite")


PARTS = {"sizes": (sizes, False)}

if __name__ == "__main__":
    script(__doc__, "store_size", PARTS, units=UNITS, prompts=PROMPTS, seed=0)
