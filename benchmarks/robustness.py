"""What the searches stand, and whether the errors that they state are true.

1. **recall**: SPEX and ProxySPEX without gradients over ratios of planted size to the spread of
   all other pairs, and over noise that goes with the mask (in planted sizes). ``recall``: of the
   true top 20 pairs, the share that was measured; ``precision``: of the 20 reported first, the
   share that is in the true top 20. 15 evaluations a unit.
2. **shapes**: interactions without main effects, triples with and without a pair inside, sizes
   with a heavy tail, units that saturate (a minimum or maximum over blocks); gradients where said.
   15 evaluations a unit, 30 for triples.
3. **budgets**: from a tenth of an evaluation a unit to ten times all pairs: recall, what the audit
   says of it, and the refusal where there is one. 100 units, ratio 30.
4. **extremes**: games of zeros, constants, pure noise, main effects alone, one unit, values of 1e8
   and 1e-8, and what of it is called significant. 100 units, 1,500 evaluations.
5. **calibration** (``calibration.py``): whether stated intervals, q-values, audit, stability,
   faithfulness and R² hold the truth.

    python -m benchmarks.robustness --data ../shared/data     # models are for real_audit
"""

import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import calibration
from benchmarks.calibration import FDR, LEVEL, METHODS, SEED, TOP, audited, search
from benchmarks.frame import Options, Row, means, rows_of, script, spread_out
from benchmarks.games import (
    Blocks,
    Noise,
    Planted,
    Set,
    heavy_game,
    planted_game,
    recall,
    top,
    truth_of,
    values_of,
)
from tests.test_spex import Saturating

RATIOS = (None, 100, 30, 10, 3)
NOISES = (0.0, 0.01, 0.1)


def one_recall(job: tuple[int, Any, float, str, int]) -> Row:
    n, ratio, noise, method, seed = job
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
    plans = [(60, "spex", 2), (60, "proxyspex", 2)]
    if not options.quick:  # ProxySPEX takes some 10 s of its own at 200 units
        plans = [(100, method, 4) for method in METHODS] + [(200, "spex", 4), (200, "proxyspex", 2)]
    ratios = (None, 30, 3) if options.quick else RATIOS
    noises = (0.0, 0.1) if options.quick else NOISES
    jobs = [
        (n, ratio, noise, method, seed)
        for n, method, seeds in plans
        for ratio, noise, seed in product(ratios, noises, range(seeds))
    ]
    runs = spread_out(one_recall, jobs, options.quick)
    for (n, method, seeds), noise, ratio in product(plans, noises, ratios):
        key = {"n": n, "ratio": ratio, "noise": noise, "method": method}
        mine = rows_of(runs, **key)
        products = float(np.mean([r["way"] == "products of strengths" for r in mine]))
        found = means(mine, "recall", "precision", "planted")
        yield {**key, "seeds": seeds, **found, "by_products": products, "runs": mine}


def shape_game(shape: str, seed: int) -> tuple[Any, int]:
    """A game of 100 units (60 where all pairs must be measured), and the order that is asked."""
    if shape.startswith("pairs without main effects"):
        game = planted_game(100, TOP, seed, ratio=100 if "tail" in shape else None)
        return Planted(100, np.zeros(100), game.planted, game.tail), 2
    if shape == "triples without pairs inside":
        return planted_game(100, 10, seed, n_triples=10), 3
    if shape == "triples around pairs":
        return planted_game(100, 10, seed, n_triples=10, hierarchical=True), 3
    if shape == "triples alone, no main effects":
        game = planted_game(100, 0, seed, n_triples=10)
        return Planted(100, np.zeros(100), game.planted), 3
    if shape == "heavy-tailed sizes":
        return heavy_game(100, seed), 2
    if shape.startswith("saturating (tanh)"):
        return Saturating(100, seed), 2
    return Blocks(99, seed, "min" if "minimum" in shape else "max"), 2


SHAPES = (
    "pairs without main effects", "pairs without main effects, tail (ratio 100)",
    "triples around pairs", "triples without pairs inside", "triples alone, no main effects",
    "heavy-tailed sizes", "saturating (tanh), gradients", "saturating (tanh), no gradients",
    "saturating (minimum of three)", "saturating (maximum of three)",
)  # fmt: skip


def one_shape(job: tuple[str, str, int]) -> Row:
    shape, method, seed = job
    game, order = shape_game(shape, seed)
    more = {"gradients": False} if "no gradients" in shape else {}
    budget = (30 if order == 3 else 15) * len(game)
    found = search(game, method, budget=budget, seed=seed, order=order, top=TOP, **more)
    have = values_of(found)
    row = {"shape": shape, "method": method, "seed": seed, "way": found.about["candidates"]}
    if order == 3:
        for size in (2, 3):
            if sets := [s for s in game.planted if len(s) == size]:
                row[f"recall_{size}"] = recall(have, sets)
        return row
    if isinstance(game, Planted):
        truth = truth_of(game)
    else:
        truth = values_of(search(game, "exhaustive"))
        truth = {s: v for s, v in truth.items() if abs(v) > 1e-6}
    return row | {"recall_2": recall(have, top(truth)) if truth else float("nan")}


def shapes(options: Options) -> Iterator[Row]:
    seeds = 1 if options.quick else 5
    which = (SHAPES[0], SHAPES[3]) if options.quick else SHAPES
    jobs = [*product(which, METHODS, range(seeds))]
    runs = spread_out(one_shape, jobs, options.quick)
    for shape, method in product(which, METHODS):
        mine = rows_of(runs, shape=shape, method=method)
        row: Row = {"shape": shape, "method": method, "seeds": seeds}
        for size in (2, 3):
            if f"recall_{size}" in mine[0]:
                found = [*means(mine, f"recall_{size}").values()]
                row[f"recall_{size}"], row[f"error_{size}"] = found
        yield row | {"ways": sorted({r["way"] for r in mine})}


def one_budget(job: tuple[float, str, int]) -> Row:
    times, method, seed = job
    game, n = planted_game(100, TOP, seed, ratio=30), 100
    row: Row = {"n": n, "budget": int(times * n), "method": method, "seed": seed}
    try:
        found = search(game, method, budget=row["budget"], seed=seed, top=TOP)
    except ValueError as error:
        return row | {"refused": str(error)}
    truth, have = truth_of(game), values_of(found)
    row |= {"evaluations": found.cost["evaluations"], "n_pairs": len(found)}
    row["recall"] = len({*top(truth)} & {*have}) / TOP
    if found.audit:
        names = {"audit_recall": "recall", "audit_low": "recall_low", "audit_high": "recall_high"}
        row |= {name: found.audit[key] for name, key in names.items()}
        row["audit_true"] = audited(found, truth)["recall_true"]
    return row


def budgets(options: Options) -> list[Row]:
    whole = 1 + 100 + 100 * 99 / 2  # all pairs
    steps = (0.1, 1, 2, 3.15, 5, 10, 20, 40, whole / 100, 10 * whole / 100)
    steps = (0.1, 1, 5, whole / 100) if options.quick else steps
    jobs = [*product(steps, METHODS, range(1 if options.quick else 3))]
    return spread_out(one_budget, jobs, options.quick)


def extreme_games(n: int) -> dict[str, tuple[Any, dict[Set, float]]]:
    """A game by name, and its pairs."""
    main = torch.from_numpy(np.random.default_rng(0).standard_normal((n, 16)))
    game = planted_game(n, TOP, 0, ratio=1000)

    def alone(masks: torch.Tensor) -> torch.Tensor:
        return (~masks).double() @ main

    def scaled(
        by: float, offset: float = 0.0, single: bool = False
    ) -> tuple[Any, dict[Set, float]]:
        def values(masks: torch.Tensor) -> torch.Tensor:
            exact = by * game(masks) + offset
            return exact.float() if single else exact

        return values, {s: by * v for s, v in game.planted.items()}

    return {
        "all zero": (lambda masks: torch.zeros(len(masks), 16).double(), {}),
        "constant 7": (lambda masks: torch.full((len(masks), 16), 7.0).double(), {}),
        "main effects alone": (alone, {}),
        "main effects alone, float32": (lambda masks: alone(masks).float(), {}),
        "pure noise, 16 prompts": (Noise(n, 16, 0), {}),
        "pure noise, 4 prompts": (Noise(n, 4, 1), {}),
        "values x 1e8": scaled(1e8),
        "values x 1e-8": scaled(1e-8),
        "offset 1e8": scaled(1.0, 1e8),
        "offset 1e4, float32": scaled(1.0, 1e4, single=True),
        "offset 1e8, float32": scaled(1.0, 1e8, single=True),
    }


def extremes(options: Options) -> Iterator[Row]:
    games = extreme_games(100)
    for (name, (game, truth)), method in product(games.items(), METHODS):
        row: Row = {"game": name, "method": method}
        more = {} if isinstance(game, Noise) else {"n": 100}
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                found = search(game, method, budget=1500, top=TOP, **more)
        except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
            yield row | {"failure": f"{type(error).__name__}: {error}"}
            continue
        row |= {
            "warnings": sorted({str(w.message) for w in warned}),
            "n_pairs": len(found), "called": int((found.q_value <= FDR).sum()),
            "largest": float(abs(found.mean).max()), "shown_as_noise": int(found.is_noise.sum()),
            "audit_recall": found.audit["recall"] if found.audit else None,
        }  # fmt: skip
        if truth:
            have = values_of(found)
            wrong = [abs(have[s] / v - 1) for s, v in truth.items() if s in have]
            row["recall"] = recall(have, [*truth])
            row["worst_relative_error"] = max(wrong, default=None)
        yield row
    for method in METHODS:
        try:
            search(lambda masks: masks.double().sum(1), method, n=1)
            words = "no error"
        except ValueError as error:
            words = str(error)
        yield {"game": "one unit", "method": method, "refused": words}


# -- the picture ---------------------------------------------------------------------------------


def draw(rows: list[Row], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.5, 8.4), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.0, 1.6])
    mine = rows_of(rows, part="recall")
    maps = sorted({(r["n"], r["method"]) for r in mine}, key=lambda m: (m[0], -len(m[1])))
    axes = np.atleast_1d(above.subplots(1, len(maps), sharey=True))
    for ax, (n, method) in zip(axes, maps, strict=True):
        at = {(r["noise"], r["ratio"]): r for r in rows_of(mine, n=n, method=method)}
        cells = np.array([[at[noise, ratio]["recall"] for ratio in RATIOS] for noise in NOISES])
        ax.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for i, j in np.ndindex(cells.shape):
            error = at[NOISES[i], RATIOS[j]]["recall_error"]
            ax.text(j, i, f"{cells[i, j]:.2f}\n+-{error:.2f}", ha="center", va="center", fontsize=7,
                    color="black" if cells[i, j] > 0.6 else "white")  # fmt: skip
        ax.set_xticks(range(len(RATIOS)), [str(r or "none") for r in RATIOS])
        ax.set_yticks(range(len(NOISES)), [f"{noise:g}" for noise in NOISES])
        ax.set_xlabel("planted size / spread of other pairs", fontsize=8)
        ax.set_title(f"{method}, {n} units, {15 * n:,} evaluations", fontsize=9)
    axes[0].set_ylabel("noise of a mask / planted size", fontsize=8)
    above.suptitle("recall of the true top 20 pairs, without gradients", fontsize=10)
    draw_calibration(rows, below)
    figure.savefig(file, dpi=120)


def draw_calibration(rows: list[Row], below: Any) -> None:
    left, middle, right = below.subplots(1, 3)
    mine = rows_of(rows, part="errors", noise="normal")
    at = [r["prompts"] for r in mine]
    lines = {
        f"{name}_{which}": (f"{name}, {which}", mark + line)
        for name, mark in (("all", "o"), ("selected", "s"), ("confirmed", "^"))
        for which, line in (("z", ":"), ("t", "-"))
    } | {"selected_counted": ("selected, t, choice counted", "s--")}
    for key, (label, mark) in lines.items():
        shares, spread = ([r[key][w] for r in mine] for w in ("coverage", "error"))
        left.errorbar(at, shares, 2 * np.array(spread), fmt=mark, label=label, ms=4)
    left.set(xscale="log", xlabel="prompts", title="coverage of 90 % intervals of a value")
    left.set_xticks(at, [str(p) for p in at])
    left.minorticks_off()
    left.set_ylim(0, 1.02)
    left.axhline(LEVEL, color="grey", lw=1)
    left.legend(fontsize=6, loc="lower right")
    found = [r for r in rows_of(rows, part="discoveries") if r["n_real"]]
    audits = rows_of(rows, part="audit")
    for ax, rows_at, names, keys, of, line, title in (
        (middle, found, [f"{r['search']}, {r['prompts']}, {r['noise']}" for r in found],
         ("found", "counted", "confirmed"), "rate", FDR, "false discovery rate at q <= 0.1"),
        (right, audits, [f"{r['tail']}, {r['method']}" for r in audits],
         ("recall", "energy"), "coverage", LEVEL, "coverage of the audit's 90 % intervals"),
    ):  # fmt: skip
        for k, (key, mark) in enumerate(zip(keys, "os^", strict=False)):
            shares, spread = ([r[key][w] for r in rows_at] for w in (of, "error"))
            ax.errorbar(shares, np.arange(len(names)) + 0.2 * k, xerr=2 * np.array(spread),
                        fmt=mark, ms=4, label=key)  # fmt: skip
        ax.axvline(line, color="grey", lw=1)
        ax.set_yticks(range(len(names)), names, fontsize=6)
        ax.invert_yaxis()
        ax.set_title(title)
        ax.legend(fontsize=6)
    middle.set_xlim(0, None)
    for ax in (left, middle, right):
        ax.title.set_fontsize(9)
        ax.tick_params(axis="x", labelsize=7)


PARTS = {
    "recall": (recalls, False),
    "shapes": (shapes, False),
    "budgets": (budgets, False),
    "extremes": (extremes, False),
    **calibration.PARTS,
}

if __name__ == "__main__":
    script(__doc__, "robustness", PARTS, draw, seed=SEED)
