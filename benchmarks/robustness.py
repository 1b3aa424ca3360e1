"""What the searches stand, and whether the errors that they state are true.

1. **recall**: SPEX and ProxySPEX without gradients over ratios of planted size to the spread of
   all other pairs, and over noise that goes with the mask (in planted sizes). ``recall``: of the
   true top 20 pairs, the share that was measured; ``precision``: of the 20 reported first, the
   share that is in the true top 20. 15 evaluations per unit.
2. **shapes**: triples with and without a pair inside, and without main effects. 100 units, 30
   evaluations per unit.
3. **budgets**: from a tenth of an evaluation a unit to ten times all pairs: recall, what the audit
   says of it, and the refusal where there is one. 100 units, ratio 30.
4. **extremes**: very large and small values and constant parts, in 64 and in 32 bits, and what of
   it is called significant. 100 units, 1,500 evaluations.
5. **calibration** (``calibration.py``): whether stated intervals, q-values, audit, stability,
   faithfulness and R² hold the truth.

    python -m benchmarks.robustness --data ../shared/data     # models are for real_audit
"""

from collections.abc import Iterator
from functools import partial
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


def one_recall(n: int, method: str, noise: float, ratio: Any, seed: int) -> Row:
    game = planted_game(n, TOP, seed, ratio=ratio, noise=noise)
    found = search(game, method, budget=15 * n, seed=seed, top=TOP)
    true, have = top(truth_of(game)), values_of(found)
    return {
        "n": n, "ratio": ratio, "noise": noise, "method": method, "seed": seed,
        "recall": recall(have, true), "precision": len({*true} & {*top(have)}) / TOP,
        "planted": recall(have, [*game.planted]),
        "way": found.about["candidates"], "evaluations": found.cost["evaluations"],
    }  # fmt: skip


def recalls(options: Options) -> Iterator[Row]:
    sizes = {(60, method): 2 for method in METHODS}
    if not options.quick:  # ProxySPEX takes some 10 s of its own at 200 units
        sizes = {(100, method): 4 for method in METHODS} | {(200, "spex"): 4, (200, "proxyspex"): 2}
    ratios = (None, 30, 3) if options.quick else RATIOS
    noises = (0.0, 0.1) if options.quick else NOISES
    for (n, method), seeds in sizes.items():
        plans = [(n, method, noise, ratio) for noise, ratio in product(noises, ratios)]
        for (_, _, noise, ratio), mine in repeated(one_recall, plans, seeds, options.quick):
            products = float(np.mean([r["way"] == "products of strengths" for r in mine]))
            about = {"n": n, "ratio": ratio, "noise": noise, "method": method, "seeds": seeds}
            found = means(mine, "recall", "precision", "planted")
            yield about | found | {"by_products": products, "runs": mine}


def shape_game(shape: str, seed: int) -> Planted:
    pairs = 0 if shape == "triples alone, no main effects" else 10
    around = shape == "triples around pairs"
    game = planted_game(100, pairs, seed, n_triples=10, hierarchical=around)
    return game if pairs else Planted(100, np.zeros(100), game.planted)


SHAPES = (
    "triples around pairs", "triples without pairs inside", "triples alone, no main effects",
)  # fmt: skip


def one_shape(shape: str, method: str, seed: int) -> Row:
    game = shape_game(shape, seed)
    found = search(game, method, budget=3000, seed=seed, order=3, top=TOP)
    row: Row = {"way": found.about["candidates"]}
    for size in (2, 3):
        if sets := [s for s in game.planted if len(s) == size]:
            row[f"recall_{size}"] = recall(values_of(found), sets)
    return row


def shapes(options: Options) -> Iterator[Row]:
    seeds = 1 if options.quick else 5
    plans = product(SHAPES[1:2] if options.quick else SHAPES, METHODS)
    for (shape, method), mine in repeated(one_shape, plans, seeds, options.quick):
        row: Row = {"shape": shape, "method": method, "seeds": seeds}
        for size in (2, 3):
            if f"recall_{size}" in mine[0]:
                row[f"recall_{size}"], row[f"error_{size}"] = means(mine, f"recall_{size}").values()
        yield row | {"ways": sorted({r["way"] for r in mine})}


def one_budget(times: float, method: str, seed: int) -> Row:
    game, n = planted_game(100, TOP, seed, ratio=30), 100
    row: Row = {"n": n, "budget": int(times * n), "method": method, "seed": seed}
    try:
        found = search(game, method, budget=row["budget"], seed=seed, top=TOP)
    except ValueError as error:
        return row | {"refused": str(error)}
    truth, have = truth_of(game), values_of(found)
    row |= {"evaluations": found.cost["evaluations"], "n_pairs": len(found)}
    row["recall"] = recall(have, top(truth))
    if found.audit:
        names = {"audit_recall": "recall", "audit_low": "recall_low", "audit_high": "recall_high"}
        row |= {name: found.audit[key] for name, key in names.items()}
        row["audit_true"] = audited(found, truth)["recall_true"]
    return row


def budgets(options: Options) -> Iterator[Row]:
    whole = 1 + 100 + 100 * 99 / 2  # all pairs
    steps = (0.1, 1, 2, 3.15, 5, 10, 20, 40, whole / 100, 10 * whole / 100)
    plans = product((0.1, 1, 5, whole / 100) if options.quick else steps, METHODS)
    for _, mine in repeated(one_budget, plans, 1 if options.quick else 3, options.quick):
        yield from mine


# Name: what values are multiplied by, what is added to them, and how they are rounded.
EXTREMES = {
    "values x 1e8": (1e8, 0.0, torch.float64),
    "values x 1e-8": (1e-8, 0.0, torch.float64),
    "offset 1e8": (1.0, 1e8, torch.float64),
    "offset 1e4, float32": (1.0, 1e4, torch.float32),
    "offset 1e8, float32": (1.0, 1e8, torch.float32),
}


def extremes(options: Options) -> Iterator[Row]:
    for (name, (factor, offset, rounded)), method in product(EXTREMES.items(), METHODS):
        game = planted_game(100, TOP, 0, ratio=1000)
        values = partial(rescaled, game, factor, offset, rounded)
        found = search(values, method, budget=1500, top=TOP, n=100)
        have, truth = values_of(found), {s: factor * v for s, v in game.planted.items()}
        wrong = [abs(have[s] / v - 1) for s, v in truth.items() if s in have]
        yield {
            "game": name, "method": method,
            "n_pairs": len(found), "called": int((found.q_value <= FDR).sum()),
            "largest": float(abs(found.mean).max()), "shown_as_noise": int(found.is_noise.sum()),
            "audit_recall": found.audit["recall"] if found.audit else None,
            "recall": recall(have, [*truth]), "worst_relative_error": max(wrong, default=None),
        }  # fmt: skip


def rescaled(
    game: Planted, factor: float, offset: float, rounded: torch.dtype, masks: torch.Tensor
) -> torch.Tensor:
    return (factor * game(masks) + offset).to(rounded)


# -- the picture -----------------------------------------------------------------------------------


def draw(rows: list[Row], file: Path) -> None:
    mine = rows_of(rows, part="recall")
    maps = sorted({(r["n"], r["method"]) for r in mine}, key=lambda m: (m[0], -len(m[1])))
    with panels(file, 2, 4, (16, 8.4)) as axes:
        for ax, (n, method) in zip(axes, maps, strict=False):
            draw_recall(ax, rows_of(mine, n=n, method=method))
            ax.set_title(f"top 20 found: {method}, {n} units")
        draw_coverage(axes[4], rows_of(rows, part="errors", noise="normal"))
        found = [r for r in rows_of(rows, part="discoveries") if r["n_real"]]
        found = [{**r, "name": f"{r['search']}, {r['prompts']}, {r['noise']}"} for r in found]
        draw_shares(axes[5], found, ("found", "counted", "confirmed"), "rate", FDR)
        axes[5].set(title="false discovery rate at q <= 0.1", xlim=(0, None))
        audits = [{**r, "name": f"{r['tail']}, {r['method']}"} for r in rows_of(rows, part="audit")]
        draw_shares(axes[6], audits, ("recall", "energy"), "coverage", LEVEL)
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
        shares, errors = ([r[key][w] for r in rows] for w in ("coverage", "error"))
        ax.errorbar(prompts, shares, 2 * np.array(errors), fmt=mark, ms=4, label=key)
    ax.axhline(LEVEL, color="grey", lw=1)
    ax.set(xlabel="prompts", ylim=(0, 1.02), title="coverage of 90 % intervals of a value")


def draw_shares(ax: Any, rows: list[Row], keys: tuple[str, ...], of: str, nominal: float) -> None:
    """One line for each row, and a point on it for each key."""
    for k, (key, mark) in enumerate(zip(keys, "os^", strict=False)):
        shares, errors = ([r[key][w] for r in rows] for w in (of, "error"))
        at = np.arange(len(rows)) + 0.2 * k
        ax.errorbar(shares, at, xerr=2 * np.array(errors), fmt=mark, ms=4, label=key)
    ax.axvline(nominal, color="grey", lw=1)
    ax.set_yticks(range(len(rows)), [row["name"] for row in rows])
    ax.invert_yaxis()


PARTS = {
    "recall": (recalls, False),
    "shapes": (shapes, False),
    "budgets": (budgets, False),
    "extremes": (extremes, False),
    **calibration.PARTS,
}

if __name__ == "__main__":
    script(__doc__, "robustness", PARTS, draw, seed=SEED)
