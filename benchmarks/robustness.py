"""What the searches stand, and whether the errors that they state are true.

1. **recall**: SPEX and ProxySPEX without gradients over ratios of planted size to the spread of
   all other pairs, and over noise that goes with the mask (in planted sizes): the share of the true
   top 20 pairs that was measured. 15 evaluations per unit.
2. **shapes**: the share of planted triples that was found, with and without a pair inside, and
   without main effects. 100 units, 30 evaluations per unit.
3. **budgets**: two evaluations per unit: recall, and what the audit says. 100 units, ratio 30.
4. **extremes**: a constant part of 1e8 in 32 bits, and what of it is marked as noise. 100 units,
   1,500 evaluations.
5. **calibration** (``calibration.py``): whether stated intervals, q-values, audit and stability
   hold the truth.

    python -m benchmarks.robustness --data ../shared/data     # models are for real_audit
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import calibration
from benchmarks.calibration import FDR, LEVEL, METHODS, SEED, TOP, audited, search
from benchmarks.frame import Options, Row, means, panels, repeated, rows_of, script
from benchmarks.games import Planted, planted_game, recall, top, truth_of, values_of

RATIOS = (None, 100, 30, 10, 3)
NOISES = (0.0, 0.01, 0.1)
SIZES = {(100, "spex"): 4, (100, "proxyspex"): 4, (200, "spex"): 4, (200, "proxyspex"): 2}  # seeds


def one_recall(n: int, method: str, noise: float, ratio: Any, seed: int) -> Row:
    game = planted_game(n, TOP, seed, ratio=ratio, noise=noise)
    found = search(game, method, budget=15 * n, seed=seed, top=TOP)
    return {"recall": recall(values_of(found), top(truth_of(game)))}


def recalls(options: Options) -> Iterator[Row]:
    for (n, method), seeds in SIZES.items():
        plans = [(n, method, noise, ratio) for noise, ratio in product(NOISES, RATIOS)]
        for (_, _, noise, ratio), mine in repeated(options, one_recall, plans, seeds):
            about = {"n": n, "ratio": ratio, "noise": noise, "method": method, "seeds": seeds}
            yield about | means(mine, "recall")


SHAPES = (
    "triples around pairs", "triples without pairs inside", "triples alone, no main effects",
)  # fmt: skip


def one_shape(shape: str, method: str, seed: int) -> Row:
    around, alone = shape == SHAPES[0], shape == SHAPES[2]
    game = planted_game(100, 0 if alone else 10, seed, n_triples=10, hierarchical=around)
    if alone:
        game = Planted(100, np.zeros(100), game.planted)
    found = search(game, method, budget=3000, seed=seed, order=3, top=TOP)
    return {"recall_3": recall(values_of(found), [s for s in game.planted if len(s) == 3])}


def shapes(options: Options) -> Iterator[Row]:
    for (shape, method), mine in repeated(options, one_shape, product(SHAPES, METHODS), 5):
        yield {"shape": shape, "method": method} | means(mine, "recall_3")


def budgets(options: Options) -> Iterator[Row]:
    for seed in options.seeds:
        game = planted_game(100, TOP, seed, ratio=30)
        found = search(game, "spex", budget=200, seed=seed, top=TOP)
        audit, stated = audited(found, truth_of(game)), found.audit or {}
        row: Row = {"n": 100, "budget": 200, "method": "spex", "seed": seed}
        row |= {"recall": recall(values_of(found), top(truth_of(game)))}
        row |= {f"audit_{side}": stated[f"recall_{side}"] for side in ("low", "high")}
        yield row | {"audit_true": audit["recall_true"]}


def extremes(options: Options) -> Iterator[Row]:
    game = planted_game(100, TOP, 0, ratio=1000)

    def shifted(masks: torch.Tensor) -> torch.Tensor:
        return (game(masks) + 1e8).float()

    for method in METHODS:
        found = search(shifted, method, budget=1500, top=TOP, n=100)
        row: Row = {"game": "offset 1e8, float32", "method": method, "n_pairs": len(found)}
        row |= {"shown_as_noise": int(found.is_noise.sum())}
        yield row | {"recall": recall(values_of(found), [*game.planted])}


# -- the picture -----------------------------------------------------------------------------------


def draw(rows: list[Row], file: Path) -> None:
    with panels(file, 2, 4, (16, 8.4)) as axes:
        for ax, (n, method) in zip(axes, SIZES, strict=False):
            draw_recall(ax, rows_of(rows, part="recall", n=n, method=method))
            ax.set_title(f"top 20 found: {method}, {n} units")
        draw_coverage(axes[4], rows_of(rows, part="errors", noise="normal"))
        found = [r for r in rows_of(rows, part="discoveries") if r["n_real"]]
        names = [f"{r['search']}, {r['prompts']}, {r['noise']}" for r in found]
        draw_shares(axes[5], names, found, ("found", "counted", "confirmed"), "rate", FDR)
        axes[5].set(title="false discovery rate at q <= 0.1", xlim=(0, None))
        audits = rows_of(rows, part="audit")
        names = [f"{r['tail']}, {r['method']}" for r in audits]
        draw_shares(axes[6], names, audits, ("recall", "energy"), "coverage", LEVEL)
        axes[6].set_title("coverage of the audit's 90 % intervals")
        axes[7].axis("off")


def draw_recall(ax: Any, rows: list[Row]) -> None:
    """A map of recall over ratios and noise."""
    at = {(r["noise"], r["ratio"]): r for r in rows}
    for (i, noise), (j, ratio) in product(enumerate(NOISES), enumerate(RATIOS)):
        row = at[noise, ratio]
        words = f"{row['recall']:.2f}\n+-{row['recall_error']:.2f}"
        dark = row["recall"] <= 0.6
        ax.text(j, i, words, ha="center", va="center", size=7, color="white" if dark else "black")
    cells = [[at[noise, ratio]["recall"] for ratio in RATIOS] for noise in NOISES]
    ax.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    ax.set_xticks(range(len(RATIOS)), [str(ratio or "none") for ratio in RATIOS])
    ax.set_yticks(range(len(NOISES)), [f"{noise:g}" for noise in NOISES])
    ax.set_xlabel("planted size / spread of other pairs", fontsize=8)
    ax.set_ylabel("noise of a mask / planted size", fontsize=8)


def draw_coverage(ax: Any, rows: list[Row]) -> None:
    """How often stated intervals of a value hold it, over prompts."""
    marks = {
        "all_z": "o:", "all_t": "o-", "selected_z": "s:", "selected_t": "s-",
        "selected_counted": "s--", "confirmed_z": "^:", "confirmed_t": "^-",
    }  # fmt: skip
    prompts = [r["prompts"] for r in rows]
    for key, mark in marks.items():
        shares, errors = ([r[key][of] for r in rows] for of in ("coverage", "error"))
        ax.errorbar(prompts, shares, 2 * np.array(errors), fmt=mark, ms=4, label=key)
    ax.axhline(LEVEL, color="grey", lw=1)
    ax.set(xlabel="prompts", ylim=(0, 1.02), title="coverage of 90 % intervals of a value")


def draw_shares(
    ax: Any, names: list[str], rows: list[Row], keys: tuple[str, ...], of: str, nominal: float
) -> None:
    """One line for each row, and a point on it for each key."""
    for k, (key, mark) in enumerate(zip(keys, "os^", strict=False)):
        shares, errors = ([r[key][what] for r in rows] for what in (of, "error"))
        at = np.arange(len(rows)) + 0.2 * k
        ax.errorbar(shares, at, xerr=2 * np.array(errors), fmt=mark, ms=4, label=key)
    ax.axvline(nominal, color="grey", lw=1)
    ax.set_yticks(range(len(rows)), names)
    ax.invert_yaxis()


PARTS = {
    "recall": recalls,
    "shapes": shapes,
    "budgets": budgets,
    "extremes": extremes,
    **calibration.PARTS,
}

if __name__ == "__main__":
    script(__doc__, "robustness", PARTS, draw, seed=SEED)
