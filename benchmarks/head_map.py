"""The exhaustive truth of a real language model: all 36,315 pairs of SmolLM2-135M's 270 heads.

    python -m benchmarks.head_map ioi --store ioi.sqlite
    python -m benchmarks.head_map capitals --store capitals.sqlite

Every pair is measured exactly on 16 prompts (mean ablation, logit difference), and the 2,000
strongest again on 32 others; then all pairs of the 60 heads of the strongest ones, with zero
ablation. One to two hours for each task on one CPU core. What is stopped goes on from the store.
Writes ``truth/smollm2_<task>.npz``, ``..._same.npz``, ``..._other.npz`` and ``..._zero.npz``, which
``spex_mech.load`` reads.
"""

import argparse
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from benchmarks.frame import HERE, provenance
from benchmarks.map_tasks import KINDS, TASKS, map_task

AGAIN = 2000  # pairs that are measured on other prompts
ZERO = 60  # heads whose pairs are measured with zero ablation as well


def heads_of_the_strongest(found: sm.Interactions, n_heads: int) -> list[int]:
    """The first so many heads that the strongest pairs name, strongest pair first."""
    named = dict.fromkeys(found.top(len(found)).units.ravel().tolist())
    return sorted(list(named)[:n_heads])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--store", type=Path, required=True, help="keeps what was measured")
    parser.add_argument("--out", type=Path, default=HERE / "truth")
    asked = parser.parse_args()
    model = sm.load_model(sm.models.SMOLLM2)
    heads = sm.Components.heads(model)

    def game(kind: str, ablation: str = "mean") -> sm.ModelGame:
        return sm.ModelGame(model, map_task(asked.task, model, kind), heads, ablation=ablation)

    def keep(found: sm.Interactions, name: str) -> None:
        found.about["benchmark"] = provenance() | {"threads": torch.get_num_threads()}
        path = found.save(asked.out / f"smollm2_{asked.task}{name}.npz")
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB\n{found}", flush=True)

    def measured(game: sm.ModelGame, sets: Any, name: str) -> sm.Interactions:
        store = asked.store.with_suffix(name)
        return sm.measure(game, sets, store=store, masks_per_batch=game.masks_per_batch)

    asked.out.mkdir(parents=True, exist_ok=True)
    searched = game("searched")
    # Full batches: their masks share what they have in common, and a kill costs a minute.
    whole = sm.discover(
        searched, "exhaustive", store=asked.store, masks_per_batch=searched.masks_per_batch
    )
    keep(whole, "")
    strongest = whole.top(AGAIN).units
    for kind in KINDS[1:]:
        keep(measured(game(kind), strongest, f".{kind}"), f"_{kind}")
    among = np.array(list(combinations(heads_of_the_strongest(whole, ZERO), 2)))
    keep(measured(game("searched", "zero"), among, ".zero"), "_zero")


if __name__ == "__main__":
    main()
