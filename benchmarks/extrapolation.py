"""What the measured growth makes of an 8B and a 70B model: formulas, with the figures of
``growth.py``, ``cluster.py`` and ``store_size.py`` put in, and the tables of ``docs/scaling.md``,
which names each assumption. Nothing of it was run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from benchmarks.frame import Options, Row, rows_of
from spex_mech.pairs.gradient_rows import GradientRows
from spex_mech.search import exhaustive, ledger
from spex_mech.search.contract import GRADIENT_COST
from spex_mech.search.gradient_rows import rows_at_once
from spex_mech.search.settings import DEFAULTS

FIXED, MANY = "100 pairs", "n / 100 pairs"
LINES = ((FIXED, "spex"), (MANY, "spex"), (FIXED, "proxyspex"))
PER_BATCH = 64  # masks a batch, where workers are counted
Asked = tuple[int, int]  # masks of a question, and the evaluations that each costs
BLOCKS = 8  # of prompts, whose slopes are told apart
GPUS = (1, 8, 64)
EXHAUSTIVE, LEAST, DEFAULT = "all pairs", "SPEX, 1 a unit", "SPEX, 4 a unit"
SPARSE = "SPEX, sparse truth, no gradients"


# -- exponents -------------------------------------------------------------------------------------


def fitted(x: list[float], y: list[float]) -> Row:
    """``y = factor * x ** exponent`` by least squares of logarithms."""
    x_log, y_log = np.log(np.array(x, dtype=float)), np.log(np.array(y, dtype=float))
    off = x_log - x_log.mean()
    exponent = float(off @ y_log / (off @ off))
    constant = y_log.mean() - exponent * x_log.mean()
    rest = y_log - constant - exponent * x_log
    variance = float(rest @ rest) / max(1, len(x) - 2)
    return {
        "exponent": exponent, "standard_error": float(np.sqrt(variance / (off @ off))),
        "factor": float(np.exp(constant)), "from": min(x), "to": max(x),
    }  # fmt: skip


def fits(measured: Sequence[Row]) -> list[Row]:
    """Exponents of what ``growth.py`` measured."""
    rows: list[Row] = []

    def add(what: str, of: str, table: list[Row], x: str, y: str) -> None:
        """A run that never measured all is no point; the tables show it as such."""
        points = [(row[x], row[y]) for row in table if row[y]]
        if len({at for at, _ in points}) > 1:
            rows.append({"what": what, "of": of, **fitted(*map(list, zip(*points, strict=True)))})

    for line, method in (LINES[0], LINES[2], LINES[1]):
        mine = rows_of(measured, part="planted", line=line, method=method)
        # At n = 100 fewer pairs are planted and fewer evaluations spent.
        mine = [r | {"mb_grown": r["mb_most"] - r["mb_before"]} for r in mine if r["n"] > 100]
        of = f"{method}, {line}"
        add("evaluations until all were measured", of, mine, "n", "all_measured_after")
        add("host seconds", of, mine, "n", "host_seconds")
        last = rows_of(mine, seed=0)  # one process, one peak, for all seeds
        add("memory beyond imports, MB", of, last, "n", "mb_grown")
    for kind in ("random", "equal"):
        mine = rows_of(measured, part="scan", strengths=kind)
        add("seconds of a ranking of all pairs", f"{kind} strengths", mine, "n", "seconds")
    real = rows_of(measured, part="real")
    add("host seconds", "spex, gradients, real", real, "n", "host_seconds")
    add("all seconds", "spex, gradients, real", real, "n", "cpu_seconds")
    for what in ("layers", "prompts"):
        of = f"pair of neurons, {what}"
        add("ms an evaluation", of, rows_of(measured, part=what), "size", "ms_per_evaluation")
    return rows


# -- how many workers a search can use -------------------------------------------------------------


def share_busy(questions: Sequence[Asked], workers: int) -> float:
    """Of so many workers' time, where each question waits for the one before: each worker has its
    part of a question, in batches of at most ``PER_BATCH`` masks that are dealt to the worker that
    is free first, and a batch takes as long as it has evaluations."""
    total = elapsed = 0.0
    for masks, each in questions:
        free = np.zeros(workers)
        for part, _ in parts(masks, min(PER_BATCH, ceil(masks / workers)), each):
            free[int(free.argmin())] += part * each
        total += masks * each
        elapsed += float(free.max())
    return total / (workers * elapsed)


def questions_of(n: int, budget: int) -> list[Asked]:
    """The questions of a search by gradient rows, as its code has them: the intact model, random
    masks, rows, rounds of pairs, the audit, masks that are asked again."""
    rows, deep = n_rows(n, budget), n_deep(budget)
    again = int(np.clip(DEFAULTS.again_share * budget, DEFAULTS.min_again, DEFAULTS.max_again))
    tests = int(np.clip(DEFAULTS.audit_share * budget, DEFAULTS.min_audit, DEFAULTS.max_audit))
    left = max(0, budget - again - tests - GRADIENT_COST * (1 + deep + rows))
    sizes: list[Asked] = [(1, GRADIENT_COST), (deep, GRADIENT_COST)]
    sizes += parts(rows, rows_at_once(rows, DEFAULTS), GRADIENT_COST)
    for of_round, _ in parts(left, max(1, ceil(left / DEFAULTS.n_rounds))):
        sizes += parts(of_round, ledger.MASKS_PER_QUESTION)
    return [*sizes, (tests, 1), (again, 1)]


def questions_of_all(n: int) -> list[Asked]:
    """The same of all pairs; of very many, as many as tell the share."""
    sets = min(n + n * (n - 1) // 2, 4_000_000)
    return [(1, 1), *parts(sets, exhaustive.MASKS_PER_QUESTION)]


def parts(count: int, size: int, each: int = 1) -> list[Asked]:
    """So many masks, in parts of this size."""
    return [(min(size, count - start), each) for start in range(0, count, size)]


def n_deep(budget: float) -> int:
    """Gradients at random masks (``gradient_rows``)."""
    most = DEFAULTS.deep_share * budget / GRADIENT_COST
    return int(np.clip(most, DEFAULTS.min_deep, DEFAULTS.max_deep))


def n_rows(n: int, budget: float) -> int:
    """Gradient rows, which the driver's memory bounds (``gradient_rows``)."""
    bounded = max(4, DEFAULTS.memory_bytes // GradientRows.bytes_of_row(n, BLOCKS))
    return min(n, max(4, int(DEFAULTS.row_share * budget) // GRADIENT_COST), bounded)


# -- large models ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """Public figures of a large model."""

    name: str
    layers: int
    heads: int  # a layer
    neurons: int  # a layer
    d_model: int
    parameters: float
    gpus_a_copy: int

    @property
    def kinds_of_units(self) -> dict[str, int]:
        heads = self.layers * self.heads
        return {
            "heads": heads,
            "heads and strongest neurons": 10_000,
            "heads and all neurons": heads + self.layers * self.neurons,
        }


MODELS = (
    Model("8B", 32, 32, 14_336, 4096, 8.03e9, 1),
    Model("70B", 80, 64, 28_672, 8192, 70.6e9, 2),
)


@dataclass(frozen=True)
class Assumptions:
    """What nobody measured here; ``docs/scaling.md`` says where each is from."""

    peak_flops: float = 989e12  # of one GPU, bfloat16, dense
    utilisation: float = 0.4
    gpu_gb: float = 80.0
    prompts: int = 64
    tokens_a_prompt: int = 16
    bytes_a_number: int = 2
    most_exhaustive: int = 60_000_000  # sets, above which the program refuses


def evaluations_of(method: str, n: int, sparse: Row) -> float:
    """Evaluations of a search; the sparse one's by the fitted line, never less than at its end."""
    if method == EXHAUSTIVE:
        return 1 + n + n * (n - 1) / 2
    if method == SPARSE:
        return on_line(sparse, n)
    return float(n if method == LEAST else 4 * n + 100)


def on_line(fit: Row, n: int) -> float:
    return fit["factor"] * n ** fit["exponent"]


def flops_of(model: Model, a: Assumptions, ratio: float) -> float:
    """Of one evaluation: 2 a parameter and token, times what a replayed pass takes of a plain."""
    return 2 * model.parameters * a.prompts * a.tokens_a_prompt * ratio


def wall_hours(hours: float, gpus: int, model: Model, share: float) -> float | None:
    """On so many GPUs, of what takes one copy of the model so many hours; None where not one copy
    fits. A single copy waits for no other."""
    copies = gpus // model.gpus_a_copy
    if not copies:
        return None
    return hours if copies == 1 else hours / (copies * share)


def measured_of(rows: Sequence[Row], a: Assumptions) -> dict[str, Any]:
    """The figures that the formulas take, of three benchmarks."""
    fit = {(row["what"], row["of"]): row for row in fits(rows)}
    real = rows_of(rows, part="real")
    cluster, store = (Options().kept(name)["rows"] for name in ("cluster", "store_size"))
    (driver,), (pair,) = rows_of(cluster, part="memory"), rows_of(store, masks="pairs")
    busy = {(r["game"], r["workers"]): r["share_busy"] for r in rows_of(rows, part="workers")}
    largest = rows_of(real, n=max(row["n"] for row in real))
    return {
        "search_to_plain": float(np.mean([row["passes_to_plain"] for row in largest])),
        "pairs_to_plain": max(row["ratio_to_plain"] for row in rows_of(rows, part="layers")),
        "sparse": fit["evaluations until all were measured", f"spex, {FIXED}"],
        "host_sparse": fit["host seconds", f"spex, {FIXED}"],
        "host_real": fit["host seconds", "spex, gradients, real"],
        "pace": {row["workers"]: row["share"] for row in rows_of(cluster, part="pace")},
        "shares_sparse": {count: x for (game, count), x in busy.items() if "planted" in game},
        "share_real": next(x for (game, n), x in busy.items() if "story" in game and n == 8),
        # The store's pairs had values of 8 prompts.
        "bytes_of_a_pair": pair["bytes_each"] + 4 * (a.prompts - 8),
        "driver_microseconds": 1e6 * driver["seconds"] / driver["evaluations"],
    }


def searches(rows: Sequence[Row]) -> list[Row]:
    """Hours, memory and sizes of searches of the large models."""
    a = Assumptions()
    m = measured_of(rows, a)
    budget = max(row["budget"] for row in rows_of(rows, part="planted", line=FIXED))
    return [
        {"model": model.name, "units": units, **searched(model, n, method, a, m, budget)}
        for model in MODELS
        for units, n in model.kinds_of_units.items()
        for method in (EXHAUSTIVE, LEAST, DEFAULT, SPARSE)
    ]


def searched(
    model: Model, n: int, method: str, a: Assumptions, m: dict[str, Any], budget: int
) -> Row:
    """One search of n units of a model."""
    spent = evaluations_of(method, n, m["sparse"])
    of_pair, questions = m["bytes_of_a_pair"], []
    if method == EXHAUSTIVE:
        ratio, host = m["pairs_to_plain"], spent * m["driver_microseconds"] / 1e6
        stored, questions = spent * of_pair, questions_of_all(n)
    elif method == SPARSE:  # its group tests ablate units of all layers: no pass is cut short
        ratio, host = 1.0, on_line(m["host_sparse"], n) * spent / budget
        stored = spent * (of_pair + n / 8)
    else:
        ratio, host = m["search_to_plain"], on_line(m["host_real"], n) * spent / n
        gradients = 1 + n_deep(spent) + n_rows(n, spent)
        stored = (spent - GRADIENT_COST * gradients) * of_pair + gradients * 4 * BLOCKS * n
        questions = questions_of(n, int(spent))
    # GPUs that share a copy work one after the other: together as fast as one.
    hours = spent * flops_of(model, a, ratio) / (a.utilisation * a.peak_flops) / 3600
    wall = {}
    for gpus in GPUS:
        at, copies = (8 if gpus <= 8 else 64), gpus // model.gpus_a_copy
        share = share_busy(questions, copies) if questions and copies else m["shares_sparse"][at]
        wall[gpus] = wall_hours(hours, gpus, model, min(share, m["pace"][at]))
    return {
        "n": n, "method": method, "evaluations": spent, "gpu_hours": hours * model.gpus_a_copy,
        "wall_hours": wall, "host_hours": host / 3600, "store_gb": stored / 1e9,
        "refused": method == EXHAUSTIVE and n * (n - 1) / 2 > a.most_exhaustive,
    }  # fmt: skip


def memory_of(model: Model, a: Assumptions) -> Row:
    """GB: of weights and what is kept of the intact model on the GPUs, of slopes on the driver."""
    weights = a.bytes_a_number * model.parameters / 1e9
    widths = 2 * model.d_model + model.neurons  # a residual stream, all heads, all neurons
    tokens = a.prompts * a.tokens_a_prompt
    kept = a.bytes_a_number * model.layers * widths * tokens / 1e9
    n = model.kinds_of_units["heads and all neurons"]
    slopes = 8 * 16 * BLOCKS * n / 1e9  # sixteen gradients at once, in float64
    gpus = ceil((weights + kept) / a.gpu_gb)
    return {"weights_gb": weights, "intact_gb": kept, "gpus_at_least": gpus,
            "slopes_gb": slopes, "rows_of_slopes": n_rows(n, n)}  # fmt: skip


# -- the tables of docs/scaling.md -----------------------------------------------------------------


def number(value: float | None) -> str:
    """Two digits that count, as on the page."""
    if value is None:
        return "does not fit"
    rounded = float(f"{value:.2g}")
    if abs(rounded) >= 1e9:
        return f"{rounded:.1e}"
    return f"{rounded:,.0f}" if abs(rounded) >= 10 else f"{rounded:.2g}"


def tables(rows: Sequence[Row]) -> dict[str, list[list[str]]]:
    """The cells of each table by name, of what ``growth.py`` measured."""
    found, a, searched = {}, Assumptions(), searches(rows)
    for model in MODELS:
        found[f"hours_{model.name}"] = [
            [f"{row['units']} ({row['n']:,})", row["method"] + " (refused)" * row["refused"]]
            + [
                number(x)
                for x in (row["evaluations"], row["gpu_hours"], *row["wall_hours"].values())
            ]
            + [number(row["host_hours"]), f"{number(row['store_gb'])} GB"]
            for row in rows_of(searched, model=model.name)
        ]
    found["memory"] = [
        [
            model.name, f"{number(m['weights_gb'])} GB", f"{number(m['intact_gb'])} GB",
            f"{m['gpus_at_least']}", f"{number(m['slopes_gb'])} GB", f"{m['rows_of_slopes']}",
        ]
        for model, m in [(model, memory_of(model, a)) for model in MODELS]
    ]  # fmt: skip
    planted = rows_of(rows, part="planted")
    found["planted"] = [
        planted_cells(rows_of(planted, line=line, method=method, n=n))
        for line, method in LINES
        for n in sorted({row["n"] for row in planted})
    ]
    found["exponents"] = [
        [
            row["what"], row["of"], f"{row['exponent']:.2f} +- {row['standard_error']:.2f}",
            f"{row['from']:,.0f} to {row['to']:,.0f}",
        ]
        for row in fits(rows)
    ]  # fmt: skip
    found["measured"] = measured_cells(measured_of(rows, a))
    found["scale_line"] = scale_line(rows_of(planted, line=FIXED, n=10_000))
    return found


def planted_cells(mine: Sequence[Row]) -> list[str]:
    """All seeds of one size."""
    first, after = mine[0], [row["all_measured_after"] for row in mine]
    return [
        f"{first['n']:,}", f"{first['pairs']}", f"{first['method']}, {first['line']}",
        ", ".join("never" if x is None else f"{x:,}" for x in after),
        ", ".join(f"{row['recall']:.2g}" for row in mine),
        number(float(np.mean([row["host_seconds"] for row in mine]))), number(first["mb_most"]),
    ]  # fmt: skip


def measured_cells(m: dict[str, Any]) -> list[list[str]]:
    pace, by_search = "cluster.json, `pace`: `share`", "growth.json, `workers`: `share_busy`"
    rows = (
        ("replayed passes and gradients of a search, to plain ones", m["search_to_plain"],
         "growth.json, `real`: `passes_to_plain`, largest n"),
        ("replayed pairs of neurons, to plain passes", m["pairs_to_plain"],
         "growth.json, `layers`: largest `ratio_to_plain`"),
        ("8 workers kept busy by the driver", m["pace"][8], pace),
        ("64 workers kept busy by the driver", m["pace"][64], pace),
        ("8 workers that group tests can use", m["shares_sparse"][8], by_search),
        ("64 workers that group tests can use", m["shares_sparse"][64], by_search),
        ("8 workers that a search with gradients can use, 3,108 units", m["share_real"], by_search),
        ("bytes of a pair in a store", m["bytes_of_a_pair"],
         "store_size.json, `bytes_each`, and 4 for each prompt over 8"),
        ("driver's microseconds for a pair of all pairs", m["driver_microseconds"],
         "cluster.json, `memory`: `seconds`"),
    )  # fmt: skip
    return [[name, number(value), where] for name, value, where in rows]


def scale_line(planted: Sequence[Row]) -> list[list[str]]:
    """Evaluations at n = 10,000: all pairs, what this project planned, and ours."""
    found = [["all pairs", f"{evaluations_of(EXHAUSTIVE, 10_000, {}):,.0f}"]]
    found += [["SPEX, planned at most", "100,000"], ["ProxySPEX, planned about", "10,000"]]
    for method in ("spex", "proxyspex"):
        for words, key in (("", "all_measured_after"), (", and knows it", "search_ended_after")):
            spent = (f"{row[key]:,}" for row in rows_of(planted, method=method))
            found.append([f"ours, {method}{words}", ", ".join(spent)])
    return found
