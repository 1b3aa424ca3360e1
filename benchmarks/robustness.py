"""What the searches stand, and whether the errors that they state are true.

1. **recall**: SPEX and ProxySPEX without gradients over ratios of planted size to the spread of
   all other pairs, and over noise that goes with the mask (in planted sizes). ``recall``: of the
   true top 20 pairs, the share that was measured; ``precision``: of the 20 reported first, the
   share that is in the true top 20.
2. **shapes**: interactions without main effects, triples with and without a pair inside, sizes
   with a heavy tail, units that saturate (a minimum or maximum over blocks); gradients where said.
3. **budgets**: from a tenth of an evaluation a unit to ten times all pairs: recall, what the audit
   says of it, and the refusal where there is one.
4. **extremes**: games of zeros, constants, pure noise, main effects alone, one unit, values of 1e8
   and 1e-8, and what of it is called significant.
5. **calibration**, each over at least 200 repetitions on games of known truth (20 to 100 units),
   whose pairs vary over prompts (standard deviation 1) about a known mean:
   a. ``errors``: does value +- z stderr hold the mean 90 % of the time; t instead of z; for all
      pairs, and for the 10 strongest, where they were selected (also with the choice counted) and
      after ``confirm``;
   b. ``discoveries``: the false discovery rate at q <= 0.1: of what was found; with all pairs
      counted that there were to choose from; of the top 20 after ``confirm``;
   c. ``audit``: do the 90 % intervals of recall and energy missed hold the truth; ``real_audit``:
      the same on real models;
   d. ``stability``: the bootstrap's Jaccard against that of prompts really drawn anew, and of two
      halves of the prompts (which is that of half as many drawn anew);
   e. ``circuits``: does faithfulness +- z stderr on held-out prompts hold that over all prompts;
   f. ``distill``: the R² stated against that of 2,000 fresh masks.

A coverage comes with its standard error over repetitions (binomial where a repetition is one
yes or no, at the nominal rate) and ``off`` where it misses the nominal by more than two of them.

    python -m benchmarks.robustness --data ../shared/data     # models are for real_audit
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import combinations, product
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from scipy.stats import norm, t

import spex_mech as sm
from benchmarks.common import Options, provenance, script
from benchmarks.truth import fresh_games
from spex_mech.results.statistics import intervals, p_values, q_values
from tests.planted import Planted, planted_game
from tests.test_spex import Saturating

TOP = 20
RATIOS = (None, 100, 30, 10, 3)
NOISES = (0.0, 0.01, 0.1)
METHODS = ("spex", "proxyspex")
LEVEL, Z, FDR = 0.9, float(norm.ppf(0.95)), 0.1
PROMPTS = (8, 16, 32, 64)
KINDS = ("normal", "skewed", "heavy", "shared")
WORKERS = 2
SEED = 1000  # of the first repetition

Row = dict[str, Any]
Set = tuple[int, ...]


# -- games ---------------------------------------------------------------------------------------


def pairs_of(n: int) -> np.ndarray:
    return np.stack(np.triu_indices(n, 1), axis=1)


def prompt_noise(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """[pair prompt], mean 0 and standard deviation 1. ``shared``: half of the variance is one draw
    of each prompt, with a sign and weight of each pair."""
    if kind == "normal":
        return rng.standard_normal(shape)
    if kind == "skewed":  # log-normal
        return (np.exp(rng.standard_normal(shape)) - np.e**0.5) / np.sqrt((np.e - 1) * np.e)
    if kind == "heavy":  # Student's t with 3 degrees of freedom
        return rng.standard_t(3, shape) / np.sqrt(3)
    if kind == "shared":
        loads = np.sign(rng.standard_normal((shape[0], 1)))
        common = loads * rng.standard_normal((1, shape[1]))
        return np.sqrt(0.5) * (common + rng.standard_normal(shape))
    raise ValueError(kind)


@dataclass(eq=False)
class OverPrompts:
    """Main effects and pairs that differ from prompt to prompt: [unit prompt], [pair prompt]."""

    main: np.ndarray
    pairs: np.ndarray

    def __post_init__(self) -> None:
        self.labels = [str(unit) for unit in range(len(self.main))]
        self.at = pairs_of(len(self.main))

    def __len__(self) -> int:
        return len(self.main)

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        lost = (~masks.numpy()).astype(np.float64)
        both = lost[:, self.at[:, 0]] * lost[:, self.at[:, 1]]
        return torch.from_numpy(3.0 + lost @ self.main + both @ self.pairs)


class WithSlopes(OverPrompts):
    def gradient(self, masks: torch.Tensor) -> torch.Tensor:
        lost = 1.0 - masks.double().numpy()
        table = np.zeros((len(self), len(self)))
        table[self.at[:, 0], self.at[:, 1]] = self.pairs.mean(1)
        return torch.from_numpy(-self.main.mean(1) - lost @ (table + table.T))


def drawn(
    means: np.ndarray, n_prompts: int, kind: str, rng: np.random.Generator, slopes: bool = False
) -> OverPrompts:
    """So many prompts of a population in which a pair's value has this mean."""
    n = round((1 + np.sqrt(1 + 8 * len(means))) / 2)
    pairs = means[:, None] + prompt_noise(kind, (len(means), n_prompts), rng)
    main = rng.standard_normal((n, 1)) + 0.3 * rng.standard_normal((n, n_prompts))
    return (WithSlopes if slopes else OverPrompts)(main, pairs)


class Blocks:
    """Units in blocks of three; the value takes the minimum or maximum of each block's levels."""

    def __init__(self, n: int, seed: int, kind: str) -> None:
        rng = np.random.default_rng(seed)
        self.labels = [str(unit) for unit in range(n)]
        self.kind = kind
        self.blocks = rng.permutation(n)[: n // 3 * 3].reshape(-1, 3)
        self.levels = rng.uniform(0.2, 1.0, self.blocks.shape)
        self.weights = np.exp(rng.standard_normal(len(self.blocks)))

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        kept = masks.numpy()[:, self.blocks] * self.levels
        of_block = kept.min(2) if self.kind == "min" else kept.max(2)
        return torch.from_numpy(of_block @ self.weights)[:, None]


class Noise:
    """Nothing but noise, of the mask and the prompt."""

    def __init__(self, n: int, n_prompts: int, seed: int) -> None:
        self.labels = [str(unit) for unit in range(n)]
        self.n_prompts, self.seed = n_prompts, seed

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        rows = [[self.seed, *np.flatnonzero(~mask).tolist()] for mask in masks.numpy()]
        values = [np.random.default_rng(row).standard_normal(self.n_prompts) for row in rows]
        return torch.from_numpy(np.array(values))


# -- helpers -------------------------------------------------------------------------------------


def search(game: Any, method: str, **options: Any) -> sm.Interactions:
    return sm.discover(game, method, progress=False, **options)


def values_of(found: sm.Interactions) -> dict[Set, float]:
    return {
        tuple(int(u) for u in units if u >= 0): float(value)
        for units, value in zip(found.units, found.mean, strict=True)
    }


def truth_of(game: Planted) -> dict[Set, float]:
    """Every pair's value without noise."""
    table = np.zeros((game.n, game.n)) if game.tail is None else game.tail
    at = pairs_of(game.n)
    found = dict(zip(map(tuple, at.tolist()), table[at[:, 0], at[:, 1]].tolist(), strict=True))
    return found | {s: v for s, v in game.planted.items() if len(s) == 2}


def strongest(values: dict[Set, float], k: int = TOP) -> list[Set]:
    return sorted((s for s in values if values[s]), key=lambda s: -abs(values[s]))[:k]


def spread_out(work: Callable[[Any], Any], jobs: Iterable[Any], serial: bool) -> list[Any]:
    """Each job's result, in their order; two processes where it is not a quick run."""
    if serial:
        return [work(job) for job in jobs]
    listed = list(jobs)
    with ProcessPoolExecutor(WORKERS, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        return list(pool.map(work, listed, chunksize=max(1, min(8, len(listed) // 8))))


def repeated(
    work: Callable[[Any], Row], plans: Sequence[tuple[Any, ...]], reps: int, serial: bool
) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    """Each plan and its results; a job is a plan and the number of a repetition."""
    runs = spread_out(work, [(*plan, seed) for plan in plans for seed in range(reps)], serial)
    for at, plan in enumerate(plans):
        yield plan, runs[at * reps : (at + 1) * reps]


def mean_and_error(values: Iterable[float]) -> tuple[float, float]:
    listed = np.array([v for v in values if np.isfinite(v)], dtype=np.float64)
    if not len(listed):
        return float("nan"), float("nan")
    error = listed.std(ddof=1) / np.sqrt(len(listed)) if len(listed) > 1 else float("nan")
    return float(listed.mean()), float(error)


def coverage(held: Iterable[float], nominal: float = LEVEL) -> Row:
    """The mean over repetitions of what share was covered, and whether it is off."""
    listed = np.array(list(held), dtype=np.float64)
    listed = listed[np.isfinite(listed)]
    n = len(listed)
    if not n:
        return {"coverage": None, "error": None, "off": "", "n": 0}
    if np.isin(listed, (0, 1)).all():
        error = float(np.sqrt(nominal * (1 - nominal) / n))
    else:
        error = mean_and_error(listed)[1]
    share = float(listed.mean())
    off = "" if abs(share - nominal) <= 2 * error else "under" if share < nominal else "over"
    return {"coverage": share, "error": error, "off": off, "n": n}


def said(row: Row) -> str:
    if row["coverage"] is None:
        return "-"
    mark = f" {row['off'].upper()}" if row["off"] else ""
    return f"{row['coverage']:.3f} +- {row['error']:.3f}{mark}"


# -- 1. recall -----------------------------------------------------------------------------------


def one_recall(job: tuple[int, Any, float, str, int]) -> Row:
    n, ratio, noise, method, seed = job
    game = planted_game(n, TOP, seed, ratio=ratio, noise=noise)
    found = search(game, method, budget=15 * n, seed=seed, top=TOP)
    top, have = set(strongest(truth_of(game))), values_of(found)
    first = set(strongest(have))
    return {
        "n": n, "ratio": ratio, "noise": noise, "method": method, "seed": seed,
        "recall": len(top & set(have)) / len(top), "precision": len(top & first) / TOP,
        "planted": float(np.mean([s in have for s in game.planted])),
        "way": found.about["candidates"], "evaluations": found.cost["evaluations"],
    }  # fmt: skip


def recall(options: Options) -> Row:
    plans = [(60, "spex", 2), (60, "proxyspex", 2)]
    if not options.quick:  # ProxySPEX takes some 10 s of its own at 200 units
        plans = [(100, method, 4) for method in METHODS] + [(200, "spex", 4), (200, "proxyspex", 2)]
    ratios = (None, 30, 3) if options.quick else RATIOS
    noises = (0.0, 0.1) if options.quick else NOISES
    jobs = [
        (n, ratio, noise, method, seed)
        for n, method, seeds in plans
        for ratio in ratios
        for noise in noises
        for seed in range(seeds)
    ]
    runs = spread_out(one_recall, jobs, options.quick)
    rows: list[Row] = []
    print("\nrecall (precision) of the true top 20 pairs, 15 evaluations a unit, no gradients")
    for n, method, seeds in plans:
        for noise in noises:
            cells = []
            for ratio in ratios:
                key = {"n": n, "ratio": ratio, "noise": noise, "method": method}
                mine = [r for r in runs if all(r[k] == v for k, v in key.items())]
                summary = {**key, "seeds": seeds}
                for what in ("recall", "precision", "planted"):
                    summary[what], summary[f"{what}_error"] = mean_and_error(r[what] for r in mine)
                products = [r["way"] == "products of strengths" for r in mine]
                summary["by_products"] = float(np.mean(products))
                rows.append(summary)
                cells.append(f"{summary['recall']:.2f} ({summary['precision']:.2f})")
            words = "  ".join(f"{cell:>12}" for cell in cells)
            print(f"  n {n:<4} {method:<10} noise {noise:<5} {words}", flush=True)
    return {"ratios": ratios, "noises": noises, "rows": rows, "runs": runs}


# -- 2. shapes -----------------------------------------------------------------------------------


def heavy_game(n: int, seed: int) -> Planted:
    """All pairs, of Student's t with 1.5 degrees of freedom: a few hold most of the energy."""
    rng = np.random.default_rng(seed)
    tail = np.triu(rng.standard_t(1.5, (n, n)) / 30, 1)
    return Planted(n, rng.standard_normal(n), {}, tail + tail.T)


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
    n = len(game)
    found = search(game, method, budget=(30 if order == 3 else 15) * n, seed=seed, order=order,
                   top=TOP, **more)  # fmt: skip
    have = values_of(found)
    row = {"shape": shape, "method": method, "seed": seed, "way": found.about["candidates"]}
    if order == 3:
        for size in (2, 3):
            sets = [s for s in game.planted if len(s) == size]
            if sets:
                row[f"recall of order {size}"] = float(np.mean([s in have for s in sets]))
        return row
    if isinstance(game, Planted):
        truth = truth_of(game)
    else:
        truth = values_of(search(game, "exhaustive"))
        truth = {s: v for s, v in truth.items() if abs(v) > 1e-6}
    top = strongest(truth)
    row["recall of order 2"] = len(set(top) & set(have)) / len(top) if top else float("nan")
    if found.audit:
        row["audit_recall"] = found.audit["recall"]
    return row


def shapes(options: Options) -> Row:
    seeds = 1 if options.quick else 5
    which = (SHAPES[0], SHAPES[3]) if options.quick else SHAPES
    jobs = [(s, m, seed) for s in which for m in METHODS for seed in range(seeds)]
    runs = spread_out(one_shape, jobs, options.quick)
    rows: list[Row] = []
    print("\nshapes: recall of order 2 / order 3 (15 evaluations a unit; order 3: 30)")
    for shape in which:
        for method in METHODS:
            mine = [r for r in runs if r["shape"] == shape and r["method"] == method]
            row: Row = {"shape": shape, "method": method, "seeds": seeds}
            for size in (2, 3):
                got = [r[f"recall of order {size}"] for r in mine if f"recall of order {size}" in r]
                if got:
                    row[f"recall_{size}"], row[f"error_{size}"] = mean_and_error(got)
            row["ways"] = sorted({r["way"] for r in mine})
            rows.append(row)
            figures = [f"{row[k]:.2f}" if k in row else "-" for k in ("recall_2", "recall_3")]
            print(f"  {shape:<44} {method:<10} {' / '.join(figures)}  {row['ways']}", flush=True)
    return {"rows": rows}


# -- 3. budgets ----------------------------------------------------------------------------------


def one_budget(job: tuple[int, float, str, int]) -> Row:
    n, times, method, seed = job
    game = planted_game(n, TOP, seed, ratio=30)
    row: Row = {"n": n, "budget": int(times * n), "method": method, "seed": seed}
    try:
        found = search(game, method, budget=row["budget"], seed=seed, top=TOP)
    except ValueError as error:
        return row | {"refused": str(error)}
    truth, have = truth_of(game), values_of(found)
    row |= {"evaluations": found.cost["evaluations"], "n_pairs": len(found)}
    row["recall"] = len(set(strongest(truth)) & set(have)) / TOP
    if found.audit:
        of_k = audited(found, truth)
        row |= {"audit_recall": found.audit["recall"], "audit_low": found.audit["recall_low"]}
        row |= {"audit_high": found.audit["recall_high"], "audit_true": of_k["recall_true"]}
    return row


def budgets(options: Options) -> Row:
    n, seeds = 100, 1 if options.quick else 3
    all_pairs = 1 + n + n * (n - 1) / 2
    steps = (0.1, 1, 2, 3.15, 5, 10, 20, 40, all_pairs / n, 10 * all_pairs / n)
    steps = (0.1, 1, 5, all_pairs / n) if options.quick else steps
    jobs = [(n, s, m, seed) for s in steps for m in METHODS for seed in range(seeds)]
    runs = spread_out(one_budget, jobs, options.quick)
    print(f"\nbudgets, n = {n} (all pairs take {all_pairs:,.0f}), ratio 30")
    for s in steps:
        for method in METHODS:
            mine = [r for r in runs if (r["budget"], r["method"]) == (int(s * n), method)]
            if "refused" in mine[0]:
                words = mine[0]["refused"]
            else:
                words = f"recall {np.mean([r['recall'] for r in mine]):.2f}"
                words += f", {mine[0]['evaluations']:,} spent"
                if "audit_recall" in mine[0]:
                    stated = "; ".join(
                        f"{r['audit_recall']:.2f} ({r['audit_low']:.2f} to {r['audit_high']:.2f})"
                        for r in mine
                    )
                    words += f", audit {stated}; true "
                    words += ", ".join(f"{r['audit_true']:.2f}" for r in mine)
            print(f"  {int(s * n):>7,} {method:<10} {words}", flush=True)
    return {"n": n, "ratio": 30, "rows": runs}


# -- 4. extremes ---------------------------------------------------------------------------------


def scaled(by: float, offset: float = 0.0) -> tuple[Any, dict[Set, float]]:
    game = planted_game(100, TOP, 0, ratio=1000)

    def values(masks: torch.Tensor) -> torch.Tensor:
        return by * game(masks) + offset

    return values, {s: by * v for s, v in game.planted.items()}


def as_float32(game: Any) -> Any:
    return lambda masks: game(masks).float()


def extremes(options: Options) -> Row:
    n, budget = 100, 1500
    rng = np.random.default_rng(0)
    main = torch.from_numpy(rng.standard_normal((n, 16)))
    cases: dict[str, tuple[Any, dict[Set, float]]] = {
        "all zero": (lambda masks: torch.zeros(len(masks), 16).double(), {}),
        "constant 7": (lambda masks: torch.full((len(masks), 16), 7.0).double(), {}),
        "main effects alone": (lambda masks: (~masks).double() @ main, {}),
        "main effects alone, float32": (as_float32(lambda masks: (~masks).double() @ main), {}),
        "pure noise, 16 prompts": (Noise(n, 16, 0), {}),
        "pure noise, 4 prompts": (Noise(n, 4, 1), {}),
        "values x 1e8": scaled(1e8),
        "values x 1e-8": scaled(1e-8),
        "offset 1e8": scaled(1.0, 1e8),
        "offset 1e4, float32": (as_float32(scaled(1.0, 1e4)[0]), scaled(1.0)[1]),
        "offset 1e8, float32": (as_float32(scaled(1.0, 1e8)[0]), scaled(1.0)[1]),
    }
    rows: list[Row] = []
    print("\nextremes, n = 100, 1,500 evaluations: called at q <= 0.1, of pairs measured")
    for name, (game, truth) in cases.items():
        for method in METHODS:
            row: Row = {"game": name, "method": method}
            more = {} if hasattr(game, "labels") else {"n": n}
            try:
                with warnings.catch_warnings(record=True) as warned:
                    warnings.simplefilter("always")
                    found = search(game, method, budget=budget, top=TOP, **more)
                row["warnings"] = sorted({str(w.message) for w in warned})
            except (ValueError, ArithmeticError, np.linalg.LinAlgError) as error:
                row["failure"] = f"{type(error).__name__}: {error}"
                rows.append(row)
                print(f"  {name:<30} {method:<10} {row['failure']}", flush=True)
                continue
            have = values_of(found)
            row |= {"n_pairs": len(found), "called": int((found.q_value <= FDR).sum())}
            row |= {
                "largest": float(abs(found.mean).max()),
                "shown_as_noise": int(found.is_noise.sum()),
            }
            row["audit_recall"] = found.audit["recall"] if found.audit else None
            if truth:
                row["recall"] = float(np.mean([s in have for s in truth]))
                wrong = [abs(have[s] / v - 1) for s, v in truth.items() if s in have]
                row["worst_relative_error"] = max(wrong, default=None)
            figures = {k: v for k, v in row.items() if k not in ("game", "method")}
            print(f"  {name:<30} {method:<10} {figures}", flush=True)
            rows.append(row)
    for method in METHODS:
        try:
            search(lambda masks: masks.double().sum(1), method, n=1)
            words = "no error"
        except ValueError as error:
            words = str(error)
        rows.append({"game": "one unit", "method": method, "refused": words})
        print(f"  {'one unit':<30} {method:<10} {words}")
    return {"n": n, "budget": budget, "rows": rows}


# -- 5. calibration ------------------------------------------------------------------------------


def one_errors(job: tuple[int, str, int]) -> Row:
    """Of all 435 pairs of 30 units, and of the 10 that look strongest. The means over prompts are
    normal with standard deviation 0.3; over prompts, 1."""
    n_prompts, kind, seed = job
    rng = np.random.default_rng((SEED, seed, n_prompts, KINDS.index(kind)))
    means = 0.3 * rng.standard_normal(435)
    found = search(drawn(means, n_prompts, kind, rng), "exhaustive")
    again = sm.confirm(found, drawn(means, n_prompts, kind, rng), k=10, progress=False)
    at = {s: i for i, s in enumerate(map(tuple, pairs_of(30).tolist()))}
    row: Row = {"prompts": n_prompts, "kind": kind}
    first = found.top(10)

    def held(part: sm.Interactions, selected_of: int | None = None) -> float:
        low, high = intervals(part.values, LEVEL, selected_of)
        true = means[[at[tuple(units)] for units in part.units.tolist()]]
        return float(((low <= true) & (true <= high)).mean())

    for name, part in (("all", found), ("selected", first), ("confirmed", again)):
        off = abs(part.mean - means[[at[tuple(units)] for units in part.units.tolist()]])
        row[f"{name}_z"] = float((off <= Z * part.stderr).mean())
        row[f"{name}_t"] = held(part)
    row["selected_counted"] = held(first, selected_of=len(found))
    signs = dict(zip(first.names, np.sign(first.mean), strict=True))
    true = means[[at[tuple(units)] for units in first.units.tolist()]]
    later = [signs[names] * value for names, value in zip(again.names, again.mean, strict=True)]
    row["shown"], row["true"] = abs(first.mean).mean(), (np.sign(first.mean) * true).mean()
    row["shown_again"] = float(np.mean(later))
    return row


def errors(options: Options) -> Row:
    reps = 10 if options.quick else 400
    plans = [(p, "normal") for p in PROMPTS] + [(p, k) for k in KINDS[1:] for p in (8, 32)]
    plans = plans[:2] if options.quick else plans
    jobs = [(p, k, seed) for p, k in plans for seed in range(reps)]
    runs = spread_out(one_errors, jobs, options.quick)
    rows: list[Row] = []
    print(f"\n5a. 90 % intervals of a pair's value, {reps} repetitions")
    for p, kind in plans:
        mine = [r for r in runs if (r["prompts"], r["kind"]) == (p, kind)]
        row: Row = {"prompts": p, "noise": kind, "repetitions": reps}
        for name in ("all", "selected", "confirmed"):
            for which in ("z", "t", "counted")[: 3 if name == "selected" else 2]:
                row[f"{name}_{which}"] = coverage(r[f"{name}_{which}"] for r in mine)
        for name in ("shown", "true", "shown_again"):
            row[name], row[f"{name}_error"] = mean_and_error(r[name] for r in mine)
        rows.append(row)
        sizes = f"shown {row['shown']:.3f}, truly {row['true']:.3f}"
        print(f"  {p:>2} prompts, {kind}: top 10 {sizes}, confirmed {row['shown_again']:.3f}")
        for name in ("all", "selected", "confirmed"):
            intervals = [
                (w, row[f"{name}_{w}"]) for w in ("z", "t", "counted") if f"{name}_{w}" in row
            ]
            words = "   ".join(f"{which} {said(held)}" for which, held in intervals)
            print(f"      {name:<10} {words}", flush=True)
    return {"n_units": 30, "spread_of_means": 0.3, "rows": rows}


SEARCHES: dict[str, dict[str, Any]] = {
    "exhaustive": {"n": 30, "method": "exhaustive"},
    "spex, gradients": {"n": 60, "method": "spex", "budget": 500},
    "spex, no gradients": {"n": 60, "method": "spex", "budget": 500, "gradients": False},
}


def one_discovery(job: tuple[str, int, str, int, int]) -> Row:
    how, n_prompts, kind, n_real, seed = job
    plan = dict(SEARCHES[how])
    n, method = plan.pop("n"), plan.pop("method")
    rng = np.random.default_rng((SEED, seed, n_prompts, KINDS.index(kind), n_real, n))
    means = np.zeros(n * (n - 1) // 2)
    means[rng.permutation(len(means))[:n_real]] = rng.choice([-1.0, 1.0], n_real)
    slopes = how == "spex, gradients"
    found = search(drawn(means, n_prompts, kind, rng, slopes), method, seed=seed, **plan)
    again = sm.confirm(found, drawn(means, n_prompts, kind, rng), k=20, progress=False)
    real = {tuple(s) for s, mean in zip(pairs_of(n).tolist(), means, strict=True) if mean}
    row: Row = {"how": how, "prompts": n_prompts, "kind": kind, "n_real": n_real}
    counted = q_values(p_values(found.values), selected_of=len(means))
    for name, part, q in (
        ("found", found, found.q_value),
        ("counted", found, counted),
        ("confirmed", again, again.q_value),
    ):
        called = [tuple(s) for s in part.units[q <= FDR].tolist()]
        hits = len(real & set(called))
        row[f"{name}_false"] = (len(called) - hits) / max(1, len(called))
        row[f"{name}_power"] = hits / n_real if n_real else float("nan")
        row[f"{name}_called"] = len(called)
    return row


def discoveries(options: Options) -> Row:
    reps = 10 if options.quick else 200
    plans = [("exhaustive", p, "normal", 20) for p in (4, 8, 16, 32)]
    plans += [("exhaustive", p, k, 20) for k in KINDS[1:] for p in (8, 32)]
    plans += [("exhaustive", p, k, 0) for k in KINDS for p in (8, 32)]
    for how in list(SEARCHES)[1:]:
        plans += [(how, p, "normal", 20) for p in (8, 16, 32)]
        plans += [(how, 16, k, 20) for k in ("skewed", "heavy")]
        plans += [(how, p, "normal", 0) for p in (8, 32)]
    plans = [plans[1], plans[-1]] if options.quick else plans
    rows: list[Row] = []
    print(
        f"\n5b. false discovery rate at q <= {FDR}, {reps} repetitions, 20 pairs of mean 1 or none"
    )
    for plan, mine in repeated(one_discovery, plans, reps, options.quick):
        row: Row = dict(zip(("search", "prompts", "noise", "n_real"), plan, strict=True))
        words = []
        for name in ("found", "counted", "confirmed"):
            rate, error = mean_and_error(r[f"{name}_false"] for r in mine)
            power = mean_and_error(r[f"{name}_power"] for r in mine)[0]
            off = "above" if rate > FDR + 2 * error else ""
            called = float(np.mean([r[f"{name}_called"] for r in mine]))
            row[name] = {"rate": rate, "error": error, "off": off, "power": power, "called": called}
            words.append(f"{name} {rate:.3f} +- {error:.3f} {off.upper():<5} power {power:.2f}")
        rows.append(row | {"repetitions": reps})
        shown = f"{plan[0]}, {plan[1]} prompts, {plan[2]}, {plan[3]} real"
        print(f"  {shown:<46} {'   '.join(words)}", flush=True)
    return {"q": FDR, "rows": rows}


TAILS = ("none", "normal", "heavy", "saturating, gradients")


def audit_game(tail: str, seed: int) -> tuple[Any, dict[Set, float]]:
    if tail.startswith("saturating"):
        game = Saturating(60, seed)
        return game, values_of(search(game, "exhaustive"))
    if tail == "heavy":
        game = heavy_game(60, seed)
    else:
        game = planted_game(60, TOP, seed, ratio=None if tail == "none" else 5)
    return game, truth_of(game)


def audited(found: sm.Interactions, truth: dict[Set, float]) -> Row:
    """What the audit should have said, and whether its intervals hold it."""
    stated, have = found.audit, values_of(found)
    assert stated is not None
    untested = np.array([abs(v) for s, v in truth.items() if s not in have])
    kth = np.sort(abs(found.mean))[::-1][stated["k"] - 1]
    share = stated["k"] / (stated["k"] + int((untested >= kth - 1e-6).sum()))
    energy = float((untested**2).sum())
    rounding = 1e-9 * max(1.0, stated["energy_found"])
    low, high = stated["recall_low"] - 1e-9, stated["recall_high"] + 1e-9
    return {
        "recall_true": share, "recall_stated": stated["recall"],
        "recall_held": float(low <= share <= high), "recall_width": high - low,
        "energy_true": energy, "energy_stated": stated["energy_missed"],
        "energy_held": float(
            stated["energy_low"] - rounding <= energy <= stated["energy_high"] + rounding
        ),
        "energy_width": stated["energy_high"] / max(stated["energy_low"], 1e-300),
    }  # fmt: skip


def one_audit(job: tuple[str, str, int]) -> Row:
    tail, method, seed = job
    game, truth = audit_game(tail, SEED + seed)
    found = search(game, method, budget=500, seed=seed, top=TOP)
    return {"tail": tail, "method": method} | audited(found, truth)


def audits(options: Options) -> Row:
    reps = 5 if options.quick else 200
    plans = [(tail, method) for tail in TAILS for method in METHODS]
    plans = plans[2:3] if options.quick else plans
    rows: list[Row] = []
    print(
        f"\n5c. the audit's 90 % intervals, {reps} repetitions, 60 units, 500 evaluations, top 20"
    )
    for (tail, method), mine in repeated(one_audit, plans, reps, options.quick):
        rows.append({"tail": tail, "method": method, "repetitions": reps} | over_audits(mine))
        show_audit(f"{tail:<22} {method:<10}", rows[-1])
    return {"n_units": 60, "budget": 500, "rows": rows}


def over_audits(mine: Sequence[Row]) -> Row:
    """How often the intervals of several audits hold the truth, how wide they are, and means."""
    missed = [r for r in mine if r["recall_true"] < 1]
    row: Row = {}
    for name in ("recall", "energy"):
        row[name] = coverage(r[f"{name}_held"] for r in mine)
        row[f"{name}_where_missed"] = coverage(r[f"{name}_held"] for r in missed)
        row[f"{name}_width"] = float(np.median([r[f"{name}_width"] for r in mine]))
        row[f"{name}_true"] = float(np.mean([r[f"{name}_true"] for r in mine]))
        row[f"{name}_stated"] = float(np.mean([r[f"{name}_stated"] for r in mine]))
    return row


def show_audit(name: str, row: Row) -> None:
    words = [f"recall {said(row['recall'])}, where missed {said(row['recall_where_missed'])}"]
    words += [f"{row['recall_width']:.2f} wide, true {row['recall_true']:.2f}"]
    words += [f"stated {row['recall_stated']:.2f}; energy {said(row['energy'])}"]
    words += [f"high / low {row['energy_width']:.3g}"]
    print(f"  {name} {', '.join(words)}", flush=True)


def real_audits(options: Options) -> Row:
    """The audit on real models: games of random units out of games whose pairs are all known (an
    interaction at the intact model does not depend on which other units are in the game)."""
    reps, n_sub = (2, 60) if options.quick else (25, 150)
    rows: list[Row] = []
    if options.data is None:
        print("the audit on real models needs the folder of models (--data); left out")
        return {"rows": rows}
    print(f"\n5c. the audit's 90 % intervals on real models, {reps} games of {n_sub} units each")
    for name, game in fresh_games(options.data):
        if options.quick and "3M" not in name:
            continue
        if options.quick:
            game = sm.ModelGame(game.model, game.task, game.components[:70])
        n, whole = len(game), sm.discover(game, "exhaustive", progress=False).matrix()
        parts = []
        for seed in range(reps):
            rng = np.random.default_rng((SEED, seed))
            chosen = np.sort(rng.permutation(n)[:n_sub])
            part = sm.ModelGame(game.model, game.task, game.components[chosen.tolist()])
            known = whole[np.ix_(chosen, chosen)]
            parts.append((part, {s: float(known[s]) for s in combinations(range(len(part)), 2)}))
        for method, per_unit in product(("spex", "proxyspex"), (3,) if options.quick else (1.5, 3)):
            mine = []
            for seed, (part, truth) in enumerate(parts):
                budget = int(per_unit * len(part))
                mine.append(audited(search(part, method, budget=budget, seed=seed), truth))
            about = {"game": name, "method": method, "evaluations_per_unit": per_unit}
            rows.append(about | {"repetitions": reps} | over_audits(mine))
            show_audit(f"{name}, {method}, {per_unit} a unit:", rows[-1])
    return {"n_units": n_sub, "rows": rows}


def one_stability(job: tuple[int, str, int]) -> Row:
    n_prompts, kind, seed = job
    rng = np.random.default_rng((SEED, seed, n_prompts, KINDS.index(kind), 7))
    means = 0.3 * rng.standard_normal(435)
    found, other = (search(drawn(means, n_prompts, kind, rng), "exhaustive") for _ in "ab")
    boot = sm.stability(found, k=10, n_boot=100, seed=seed)
    tops = [{tuple(s) for s in f.top(10).units.tolist()} for f in (found, other)]
    real = len(tops[0] & tops[1]) / len(tops[0] | tops[1])
    low, high = np.quantile(boot.jaccard, [0.05, 0.95])
    halves = []
    for _ in range(50):
        order = rng.permutation(n_prompts)
        one, two = (
            set(np.argsort(-abs(found.values[:, part].mean(1)))[:10].tolist())
            for part in np.array_split(order, 2)
        )
        halves.append(len(one & two) / len(one | two))
    kept = np.array([tuple(s) in tops[1] for s in boot.top.units.tolist()])
    sure = boot.kept >= 0.9
    return {
        "boot": float(boot.jaccard.mean()), "halves": float(np.mean(halves)), "real": real,
        "held": float(low <= real <= high),
        "n_sure": int(sure.sum()), "sure_kept": int(kept[sure].sum()),
        "sure_said": float(boot.kept[sure].sum()),
        "kept_said": float(boot.kept.mean()), "kept_real": float(kept.mean()),
    }  # fmt: skip


def stabilities(options: Options) -> Row:
    reps = 10 if options.quick else 200
    plans = [(p, "normal") for p in PROMPTS] + [(16, kind) for kind in KINDS[1:]]
    plans = plans[1:2] if options.quick else plans
    rows: list[Row] = []
    print(f"\n5d. stability's Jaccard of the top 10, and of prompts drawn anew, {reps} repetitions")
    for (p, kind), mine in repeated(one_stability, plans, reps, options.quick):
        row: Row = {"prompts": p, "noise": kind, "repetitions": reps}
        for name in ("boot", "halves", "real", "kept_said", "kept_real"):
            row[name], row[f"{name}_error"] = mean_and_error(r[name] for r in mine)
        row["held"] = coverage(r["held"] for r in mine)
        sure = sum(r["n_sure"] for r in mine)
        row["n_sure"] = sure
        row["sure_said"] = sum(r["sure_said"] for r in mine) / sure if sure else None
        row["sure_real"] = sum(r["sure_kept"] for r in mine) / sure if sure else None
        rows.append(row)
        words = [
            f"bootstrap {row['boot']:.3f}, halves {row['halves']:.3f}",
            f"anew {row['real']:.3f} +- {row['real_error']:.3f}",
        ]
        words += [f"its 90 % hold {said(row['held'])}", f"kept >= 0.9 was said of {sure}"]
        words += [f"came true for {row['sure_real']:.2f}"] if sure else []
        print(f"  {p:>2} prompts, {kind:<7} {', '.join(words)}", flush=True)
    return {"n_units": 30, "k": 10, "rows": rows}


def one_circuit(job: tuple[int, str, int]) -> Row:
    """Ten units, each of which helps; the population's faithfulness is that of the mean game."""
    n_prompts, kind, seed = job
    rng = np.random.default_rng((SEED, seed, n_prompts, KINDS.index(kind), 11))
    n = 10
    means = np.concatenate([-np.exp(rng.standard_normal(n)), 0.2 * rng.standard_normal(45)])

    def prompts(count: int) -> OverPrompts:
        noise = 0.5 * prompt_noise(kind, (n + 45, count), rng)
        noise[n:] *= 0.4
        return OverPrompts(*np.split(means[:, None] + noise, [n]))

    game, held_out = prompts(n_prompts), prompts(n_prompts)
    found = search(game, "exhaustive")
    circuit = sm.find_circuit(game, found, size=5, held_out=held_out, progress=False, seed=seed)
    ends = np.stack([circuit.members, np.ones(n, bool), np.zeros(n, bool)])
    inside, whole, empty = OverPrompts(*np.split(means[:, None], [n]))(torch.from_numpy(ends))[:, 0]
    true = float((inside - empty) / (whole - empty))
    score = circuit.faithfulness
    wide = float(t.ppf(1 - (1 - LEVEL) / 2, n_prompts - 1))
    off = abs(score.value - true)
    return {
        "z": float(off <= Z * score.stderr), "t": float(off <= wide * score.stderr),
        "optimism": circuit.about["selection_faithfulness"] - true, "bias": score.value - true,
        "stderr": score.stderr,
    }  # fmt: skip


def circuit_errors(options: Options) -> Row:
    reps = 4 if options.quick else 200
    plans = [(p, "normal") for p in (8, 16, 32)] + [(16, "skewed"), (16, "heavy")]
    plans = plans[1:2] if options.quick else plans
    rows: list[Row] = []
    print(
        f"\n5e. faithfulness of circuits of 5 of 10 units on held-out prompts, {reps} repetitions"
    )
    for (p, kind), mine in repeated(one_circuit, plans, reps, options.quick):
        row: Row = {"prompts": p, "noise": kind, "repetitions": reps}
        row |= {which: coverage(r[which] for r in mine) for which in ("z", "t")}
        for name in ("optimism", "bias", "stderr"):
            row[name], row[f"{name}_error"] = mean_and_error(r[name] for r in mine)
        rows.append(row)
        print(f"  {p:>2} prompts, {kind:<7} z {said(row['z'])}, t {said(row['t'])}; bias held out "
              f"{row['bias']:+.4f}, on the selection's prompts {row['optimism']:+.4f} +- "
              f"{row['optimism_error']:.4f}", flush=True)  # fmt: skip
    return {"n_units": 10, "rows": rows}


def one_distillation(job: tuple[int, float, int]) -> Row:
    budget, noise, seed = job
    game = planted_game(20, 10, SEED + seed, ratio=5, noise=noise)
    small = sm.distill(game, budget, seed=seed, progress=False)
    fresh = np.random.default_rng((SEED, seed)).random((2000, 20)) < 0.5
    truth = game(torch.from_numpy(fresh))[:, 0].numpy()
    predicted = np.asarray(small.predict(fresh), dtype=np.float64).reshape(len(fresh), -1).mean(1)
    real = 1 - float(((truth - predicted) ** 2).mean() / truth.var())
    return {"stated": small.r2 if small.r2 is not None else float("nan"), "real": real}


def distillations(options: Options) -> Row:
    reps = 3 if options.quick else 200
    plans = [(100, 0.0), (200, 1.0)]
    plans = plans[:1] if options.quick else plans
    rows: list[Row] = []
    print(f"\n5f. distill's R2, 20 units, {reps} repetitions")
    for (budget, noise), mine in repeated(one_distillation, plans, reps, options.quick):
        row: Row = {"budget": budget, "noise": noise, "repetitions": reps}
        for name in ("stated", "real"):
            row[name], row[f"{name}_error"] = mean_and_error(r[name] for r in mine)
        off = [r["stated"] - r["real"] for r in mine]
        row["bias"], row["bias_error"] = mean_and_error(off)
        row["median_bias"], row["spread"] = float(np.median(off)), float(np.std(off))
        row["quantiles"] = np.quantile(off, [0.05, 0.95]).tolist()
        row["off"] = "" if abs(row["bias"]) <= 2 * row["bias_error"] else "biased"
        rows.append(row)
        low, high = row["quantiles"]
        words = [f"stated {row['stated']:.3f}", f"real {row['real']:.3f}"]
        words += [f"difference {row['bias']:+.3f} +- {row['bias_error']:.3f} {row['off'].upper()}"]
        words += [f"5 to 95 % {low:+.3f} to {high:+.3f}"]
        print(f"  {budget} masks, noise {noise}: {', '.join(words)}", flush=True)
    return {"n_units": 20, "rows": rows}


PARTS: dict[str, Callable[[Options], Row]] = {
    "recall": recall, "shapes": shapes, "budgets": budgets, "extremes": extremes,
    "errors": errors, "discoveries": discoveries, "audit": audits,
    "real_audit": real_audits, "stability": stabilities,
    "circuits": circuit_errors, "distill": distillations,
}  # fmt: skip


# -- the picture ---------------------------------------------------------------------------------


def draw(out: Row, options: Options) -> None:
    from matplotlib.figure import Figure

    whole = {"errors", "discoveries", "audit"} <= out.keys()
    figure = Figure(figsize=(12.5, 8.4 if whole else 3.3), layout="constrained")
    above = figure
    if whole:
        above, below = figure.subfigures(2, 1, height_ratios=[1.0, 1.6])
    part = out["recall"]
    ratios, noises = part["ratios"], part["noises"]
    maps = sorted({(r["n"], r["method"]) for r in part["rows"]}, key=lambda m: (m[0], -len(m[1])))
    axes = np.atleast_1d(above.subplots(1, len(maps), sharey=True))
    for ax, (n, method) in zip(axes, maps, strict=True):
        mine = {
            (r["noise"], r["ratio"]): r
            for r in part["rows"]
            if (r["n"], r["method"]) == (n, method)
        }
        cells = np.array([[mine[noise, ratio]["recall"] for ratio in ratios] for noise in noises])
        ax.imshow(cells, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for i, j in np.ndindex(cells.shape):
            error = mine[noises[i], ratios[j]]["recall_error"]
            ax.text(j, i, f"{cells[i, j]:.2f}\n+-{error:.2f}", ha="center", va="center", fontsize=7,
                    color="black" if cells[i, j] > 0.6 else "white")  # fmt: skip
        ax.set_xticks(range(len(ratios)), ["none" if r is None else str(r) for r in ratios])
        ax.set_yticks(range(len(noises)), [f"{noise:g}" for noise in noises])
        ax.set_xlabel("planted size / spread of other pairs", fontsize=8)
        ax.set_title(f"{method}, {n} units, {15 * n:,} evaluations", fontsize=9)
    axes[0].set_ylabel("noise of a mask / planted size", fontsize=8)
    above.suptitle("recall of the true top 20 pairs, without gradients", fontsize=10)

    if whole:
        draw_calibration(out, below)
    figure.savefig(options.picture("robustness.png"), dpi=120)


def draw_calibration(out: Row, below: Any) -> None:
    left, middle, right = below.subplots(1, 3)
    rows = [r for r in out["errors"]["rows"] if r["noise"] == "normal"]
    for name, mark in (("all", "o"), ("selected", "s"), ("confirmed", "^")):
        for which, line in (("z", ":"), ("t", "-")):
            at = [r["prompts"] for r in rows]
            shares = [r[f"{name}_{which}"]["coverage"] for r in rows]
            spread = [2 * r[f"{name}_{which}"]["error"] for r in rows]
            left.errorbar(at, shares, spread, fmt=mark + line, label=f"{name}, {which}", ms=4)
    chosen = [r["selected_counted"]["coverage"] for r in rows]
    left.plot(at, chosen, "s--", label="selected, t, choice counted", ms=4)
    left.set(xscale="log", xlabel="prompts", title="coverage of 90 % intervals of a value")
    left.set_xticks(at, [str(p) for p in at])
    left.minorticks_off()
    left.set_ylim(0, 1.02)
    left.axhline(LEVEL, color="grey", lw=1)
    left.legend(fontsize=6, loc="lower right")

    shown = [r for r in out["discoveries"]["rows"] if r["n_real"]]
    names = [f"{r['search']}, {r['prompts']}, {r['noise']}" for r in shown]
    for k, (name, mark) in enumerate((("found", "o"), ("counted", "s"), ("confirmed", "^"))):
        rates, spread = ([r[name][w] for r in shown] for w in ("rate", "error"))
        middle.errorbar(rates, np.arange(len(shown)) + 0.2 * k, xerr=2 * np.array(spread), fmt=mark,
                        ms=4, label=name)  # fmt: skip
    middle.axvline(FDR, color="grey", lw=1)
    middle.set_yticks(range(len(shown)), names, fontsize=6)
    middle.invert_yaxis()
    middle.set(title="false discovery rate at q <= 0.1", xlim=(0, None))
    middle.legend(fontsize=6)

    rows = out["audit"]["rows"]
    for k, (name, mark) in enumerate((("recall", "o"), ("energy", "s"))):
        shares, spread = ([r[name][w] for r in rows] for w in ("coverage", "error"))
        right.errorbar(shares, np.arange(len(rows)) + 0.2 * k, xerr=2 * np.array(spread), fmt=mark,
                       ms=4, label=f"{name}")  # fmt: skip
    right.axvline(LEVEL, color="grey", lw=1)
    right.set_yticks(range(len(rows)), [f"{r['tail']}, {r['method']}" for r in rows], fontsize=6)
    right.invert_yaxis()
    right.set(title="coverage of the audit's 90 % intervals")
    right.legend(fontsize=6)
    for ax in (left, middle, right):
        ax.title.set_fontsize(9)
        ax.tick_params(axis="x", labelsize=7)


def run(options: Options) -> Row:
    """All parts, or those named, beside what is kept of the others."""
    out: Row = options.kept("robustness") if options.only else {}
    for part in options.only or PARTS:
        started = time.perf_counter()
        out[part] = PARTS[part](options)
        out[part] |= {
            "provenance": provenance(),
            "seconds": round(time.perf_counter() - started, 1),
        }
        out["seed"] = SEED
        options.keep("robustness", out)
    if "recall" in out:
        draw(out, options)
    return out


if __name__ == "__main__":
    script(__doc__, run, PARTS)
