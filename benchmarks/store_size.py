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

import numpy as np

from benchmarks.frame import Options, Row, script
from spex_mech.game import Answer, FunctionGame
from spex_mech.masks import MaskBatch
from spex_mech.runs.store import opened
from spex_mech.search.contract import GRADIENT_COST

UNITS, PROMPTS, BLOCKS, BATCH = 10_000, 8, 8, 1024


def masks(kind: str, rng: np.random.Generator, count: int) -> MaskBatch:
    """Of one batch."""
    if kind == "pairs":
        return MaskBatch.of_rows(rng.integers(0, UNITS, (count, 2)), UNITS)
    half, shift = rng.permutation(UNITS)[: UNITS // 2], rng.permutation(UNITS)[:count]
    return MaskBatch.of_rows((half + shift[:, None]) % UNITS, UNITS)


def answer(kind: str, rng: np.random.Generator, count: int) -> Answer:
    """As of a model that computes in float32."""
    values = rng.standard_normal((count, PROMPTS), dtype=np.float32).astype(np.float64)
    if kind != "gradients":
        return Answer(values)
    slopes = rng.standard_normal((count, BLOCKS, UNITS), dtype=np.float32)
    return Answer(values, slopes.astype(np.float64))


def measured(kind: str, count: int, path: Path) -> Row:
    # It is never asked: the benchmark brings the values.
    game = FunctionGame(len, [str(unit) for unit in range(UNITS)], vectorized=True)
    rng, slopes = np.random.default_rng(0), kind == "gradients"
    batch = 16 if slopes else BATCH
    with opened(path, game, check=False) as store:
        run = store.search({"kind": kind}, game, batch)
        for start in range(0, count, batch):
            asked = masks(kind, rng, min(batch, count - start))
            found = answer(kind, rng, len(asked))
            run.answer(asked, slopes, kind, None, lambda found=found: found)
    started = time.perf_counter()
    with opened(path, game, check=False) as store:
        opening = time.perf_counter() - started
        other = store.search({"kind": "other"}, game, batch)
        asked = masks(kind, np.random.default_rng(0), batch)
        other.answer(asked, slopes, kind, None, lambda: answer(kind, rng, batch))
        assert other.reused == batch * (GRADIENT_COST if slopes else 1)
    size = path.stat().st_size
    return {
        "masks": kind, "evaluations": count, "gigabytes": size / 1e9, "bytes_each": size / count,
        "seconds_to_open": opening,
    }  # fmt: skip


def sizes(options: Options) -> Iterator[Row]:
    count = 20_000 if options.quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        for kind, share in (("pairs", 1), ("halves", 1), ("gradients", 1000)):
            yield measured(kind, count // share, Path(folder) / f"{kind}.sqlite")


if __name__ == "__main__":
    script(__doc__, "store_size", {"sizes": sizes}, units=UNITS, prompts=PROMPTS, seed=0)
