"""Growth: what a search costs as units, interactions, layers and prompts grow, and what that makes
of an 8B and a 70B model.

    python -m benchmarks.growth --data ../shared/data            # some 10 minutes on two cores
    python -m benchmarks.growth --data ../shared/data --quick
    python -m benchmarks.growth --only real --data ../shared/data    # a part again, keep the rest

1. ``planted``: sparse games without gradients, 100 pairs (20 at n = 100) or n / 100 pairs planted.
   Each size runs in a process of its own, whose peak memory is then that size's. The game itself
   counts after which evaluation every planted pair and both its singles had been asked for. The
   host's time is that of one thread on the processor, less the game's own: others who use the
   machine do not count.
2. ``scan``: the one step that looks at pairs by blocks (``largest_pairs.largest_products``), on
   strengths drawn at random and on equal ones.
3. ``workers``: how many workers a search can keep busy, counted from the batches of its questions,
   not from time.
4. ``real``: the 3M story model on indirect object identification, its heads and more and more of
   its neurons, one evaluation a unit, with gradients: host time, passes, plain passes of as many
   rows.
5. ``layers`` and ``prompts``: a random pair of neurons in a random GPT-2.
6. ``fits``: exponents, by least squares of logarithms, with standard errors.
7. ``extrapolation``: formulas, with the measured figures put in; ``docs/scaling.md`` names each
   assumption. Nothing of it was run.

Writes ``results/growth.json`` and ``pictures/growth.png``.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from benchmarks.common import HERE, Options, options_of, parser, plain, provenance
from spex_mech.game import Answer, Game, as_game
from spex_mech.masks import MaskBatch
from spex_mech.search import exhaustive, ledger
from spex_mech.search.contract import GRADIENT_COST
from spex_mech.search.settings import DEFAULTS
from spex_mech.search.strengths import Strengths

sys.path.insert(0, str(HERE.parent / "tests"))
from planted import Planted, planted_game

Row = dict[str, Any]
SEEDS = (0, 1, 2)
SIZES = (100, 300, 1000, 3000, 10_000, 40_000)
QUICK_SIZES = (100, 300, 1000)
BUDGET, BUDGET_OF_100 = 5000, 800
MANY, BUDGET_OF_MANY = "n / 100 pairs", 10_000
FIXED = "100 pairs"
LINES = ((FIXED, "spex"), (MANY, "spex"), (FIXED, "proxyspex"))
PER_BATCH = 64  # masks a batch, where workers are counted
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
BLOCKS = 8  # of prompts, whose slopes are told apart


# -- 1. planted games ------------------------------------------------------------------------------


class Counted:
    """A planted game that answers lists of ablated units, as a model does, and knows how long it
    was busy and after which evaluation each small set was asked for."""

    def __init__(self, game: Planted) -> None:
        self.game, self.labels = game, game.labels
        self.seconds, self.asked = 0.0, 0
        self.first: dict[tuple[int, ...], int] = {}
        self._main = np.append(game.main_effects, 0.0)
        self._pairs = np.array(list(game.planted))
        self._sizes = np.array(list(game.planted.values()))

    def __len__(self) -> int:
        return len(self.game)

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        return self.game(masks)

    def ablating(self, lost: np.ndarray, tick: Any = None) -> torch.Tensor:
        """The values of masks given by what they ablate, padded with -1."""
        started = time.process_time()
        gone = np.zeros((len(lost), len(self) + 1), dtype=bool)
        gone[np.arange(len(lost))[:, None], lost] = True  # -1 hits the spare column
        values = 3.0 + self._main[lost].sum(axis=1)
        values += (gone[:, self._pairs[:, 0]] & gone[:, self._pairs[:, 1]]) @ self._sizes
        counts = (lost >= 0).sum(axis=1)
        for row in np.flatnonzero((counts == 1) | (counts == 2)):
            units = tuple(sorted(lost[row][lost[row] >= 0].tolist()))
            self.first.setdefault(units, self.asked + int(row) + 1)
        self.asked += len(lost)
        self.seconds += time.process_time() - started
        return torch.from_numpy(values)[:, None]

    def all_after(self) -> int | None:
        """Evaluations after which every planted pair and its singles were known; None: never."""
        needed = [part for a, b in self.game.planted for part in ((a, b), (a,), (b,))]
        if any(part not in self.first for part in needed):
            return None
        return max(self.first[part] for part in needed)


def n_planted(line: str, n: int) -> int:
    if line == MANY:
        return n // 100
    return 100 if n > 100 else 20


def budget_of(line: str, n: int) -> int:
    if n <= 100:
        return BUDGET_OF_100
    return BUDGET_OF_MANY if line == MANY else BUDGET


def on_planted(line: str, n: int, method: str, seed: int) -> Row:
    game = Counted(planted_game(n, n_planted(line, n), 10 + seed))
    started = time.process_time()
    budget = budget_of(line, n)
    found = sm.discover(game, method=method, budget=budget, seed=seed, progress=False)
    seconds = time.process_time() - started - game.seconds
    pairs = {(int(a), int(b)): float(v) for (a, b), v in zip(found.units, found.mean, strict=True)}
    return {
        "line": line, "n": n, "pairs": n_planted(line, n), "method": method, "seed": seed,
        "budget": budget, "evaluations": found.cost["evaluations"],
        "recall": np.mean([
            abs(pairs.get(s, np.inf) - v) < 1e-4 for s, v in game.game.planted.items()
        ]),
        "all_measured_after": game.all_after(),
        "search_ended_after": found.about.get("evaluations_of_candidates"),
        "host_seconds": seconds, "game_seconds": game.seconds,
    }  # fmt: skip


def one_process(line: str, n: int, method: str, seeds: list[int]) -> list[Row]:
    """All seeds of a size, in a process whose peak memory is that size's."""
    small = Counted(planted_game(20, 2, 0))
    sm.discover(small, method=method, budget=150, progress=False)  # imports are no matter of n
    before = peak_mb()
    rows = [on_planted(line, n, method, seed) for seed in seeds]
    return [row | {"mb_before": before, "mb_most": peak_mb()} for row in rows]


def peak_mb() -> float:
    """The most that this process has held. Not ``ru_maxrss``, which begins with the parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def planted(options: Options) -> list[Row]:
    rows: list[Row] = []
    # A proxy takes half a minute where a search without one takes seconds: one seed of it.
    for line, method in LINES:
        for n in QUICK_SIZES if options.quick else SIZES:
            seeds = [0] if options.quick or method == "proxyspex" else list(SEEDS)
            asked = json.dumps([line, n, method, seeds])
            command = [sys.executable, "-m", "benchmarks.growth", "--one", asked]
            path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
            done = subprocess.run(
                command, cwd=HERE.parent, env=os.environ | {"PYTHONPATH": path} | ONE_THREAD,
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"{asked} failed:\n{done.stderr}")
            for row in json.loads(done.stdout.splitlines()[-1]):
                rows.append(row)
                show(row)
    return rows


# -- 2. the scan by blocks -------------------------------------------------------------------------


def scan(options: Options) -> list[Row]:
    """Seconds of one ranking of all pairs by products of strengths, 100,000 to be kept."""
    rows: list[Row] = []
    for kind in ("random", "equal"):
        for n in (1000, 3000) if options.quick else (1000, 3000, 10_000, 40_000):
            drawn = np.random.default_rng(0).standard_normal((n, 8))
            ranks = Strengths(drawn if kind == "random" else np.ones((n, 8)))
            started = time.perf_counter()
            found = ranks.strongest(100_000)
            seconds = time.perf_counter() - started
            rows.append({"strengths": kind, "n": n, "pairs": len(found), "seconds": seconds})
            show(rows[-1])
    return rows


# -- 3. how many workers a search can use ----------------------------------------------------------


class Batches(Game):
    """A game whose driver sends all batches of a question ahead: it counts them by question."""

    n_ahead = 1_000_000
    masks_per_batch = PER_BATCH

    def __init__(self, game: Any) -> None:
        self.game = as_game(game)
        self.units = self.game.units
        self.questions: list[list[int]] = []  # evaluations of each batch
        self._sent: list[tuple[MaskBatch, bool]] = []
        self._open = False

    @property
    def has_slopes(self) -> bool:
        return self.game.has_slopes

    def start(self, masks: MaskBatch, slopes: bool, tick: Any) -> "Batches":
        if not self._open:
            self.questions.append([])
        self._open = True
        self.questions[-1].append(len(masks) * (GRADIENT_COST if slopes else 1))
        self._sent.append((masks, slopes))
        return self

    def result(self) -> Answer:
        self._open = False
        return self.evaluate(*self._sent.pop(0))

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Any = None) -> Answer:
        return self.game.evaluate(masks, slopes)


def share_busy(questions: list[list[int]], workers: int) -> float:
    """Of so many workers' time, where each question waits for the one before: batches are dealt to
    the worker that is free first, and a batch takes as long as it has evaluations."""
    total = elapsed = 0.0
    for batches in questions:
        free = np.zeros(workers)
        for cost in batches:
            free[int(free.argmin())] += cost
        total += sum(batches)
        elapsed += float(free.max())
    return total / (workers * elapsed)


def questions_of(n: int, budget: int, per_batch: int = PER_BATCH) -> list[list[int]]:
    """The batches by question of a search by gradient rows, as its code has them: the intact model,
    random masks, rows sixteen at a time, rounds of pairs."""
    rows = n_rows(n, budget)
    deep = n_deep(budget)
    sizes = [(1, GRADIENT_COST), (deep, GRADIENT_COST)]
    sizes += [(len(part), GRADIENT_COST) for part in chunks(rows, DEFAULTS.rows_at_once)]
    left = budget - GRADIENT_COST * (1 + deep + rows)
    each = max(1, ceil(left / DEFAULTS.n_rounds))
    for rest in range(left, 0, -each):
        sizes += [(len(part), 1) for part in chunks(min(each, rest), ledger.MASKS_PER_QUESTION)]
    return [[len(part) * cost for part in chunks(masks, per_batch)] for masks, cost in sizes]


def questions_of_all(n: int) -> list[list[int]]:
    """The same of all pairs; of very many, as many as tell the share."""
    sets = min(n + n * (n - 1) // 2, 4_000_000)
    parts = chunks(sets, exhaustive.MASKS_PER_QUESTION)
    return [[1]] + [[len(part) for part in chunks(len(of), PER_BATCH)] for of in parts]


def chunks(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def n_deep(budget: float) -> int:
    """Gradients at random masks (``gradient_rows``)."""
    most = DEFAULTS.deep_share * budget / GRADIENT_COST
    return int(np.clip(most, DEFAULTS.min_deep, DEFAULTS.max_deep))


def n_rows(n: int, budget: float) -> int:
    """Gradient rows, which the driver's memory bounds (``gradient_rows``)."""
    bounded = max(4, DEFAULTS.memory_bytes // (8 * n * BLOCKS))
    return min(n, max(4, int(DEFAULTS.row_share * budget) // GRADIENT_COST), bounded)


def workers(options: Options) -> list[Row]:
    n = 1000 if options.quick else 10_000
    games: list[tuple[str, Any, str, int]] = [
        (f"planted, n = {n:,}", Counted(planted_game(n, 100, 10)), "spex", BUDGET)
    ]
    if options.data is not None:
        n_real = 300 if options.quick else 3108
        game = ioi_game(options.data, n_real)
        games.append((f"3M story model, n = {n_real:,}", game, "spex", n_real))
    rows: list[Row] = []
    for name, game, method, budget in games:
        batches = Batches(game)
        sm.discover(batches, method=method, budget=budget, progress=False)
        for count in (8, 64):
            rows.append({"game": name, "method": method, "workers": count})
            rows[-1] |= {"share_busy": share_busy(batches.questions, count)}
            rows[-1] |= {"questions": len(batches.questions), "masks_per_batch": PER_BATCH}
            if method == "spex" and "story" in name:
                rows[-1]["by_formula"] = share_busy(questions_of(len(game), budget), count)
            show(rows[-1])
    return rows


# -- 4. a real game, with gradients ----------------------------------------------------------------


class TimedGame:
    """A model's game that knows how long its passes took."""

    def __init__(self, game: sm.ModelGame) -> None:
        self.game, self.seconds, self.cpu_seconds = game, 0.0, 0.0

    def __len__(self) -> int:
        return len(self.game)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.game, name)

    def ablating(self, *arguments: Any) -> Any:
        return self._timed(self.game.ablating, *arguments)

    def value_and_slopes(self, *arguments: Any) -> Any:
        return self._timed(self.game.value_and_slopes, *arguments)

    def _timed(self, function: Any, *arguments: Any) -> Any:
        started, cpu = time.perf_counter(), time.process_time()
        answer = function(*arguments)
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu
        return answer


def ioi_game(data: Path, n: int) -> sm.ModelGame:
    """All 36 heads of the 3M story model and neurons drawn at random, n in all."""
    model = sm.load_model(data / "stories3m")
    task = sm.load_task(str(data / "prompts" / "ioi.json"), model, n_prompts=8, seed=0)
    heads, neurons = sm.Components.heads(model), sm.Components.neurons(model)
    drawn = np.sort(np.random.default_rng(0).permutation(len(neurons))[: n - len(heads)])
    chosen = (*heads.units, *(neurons.units[u] for u in drawn))
    return sm.ModelGame(model, task, sm.Components(chosen, heads.architecture))


def real(options: Options) -> list[Row]:
    if options.data is None:
        print("real: left out, as no folder of models was given")
        return []
    from benchmarks.throughput import plain_seconds

    rows: list[Row] = []
    for n in (100, 300) if options.quick else (100, 300, 1000, 3108):
        game = ioi_game(options.data, n)
        sm.discover(game, budget=max(n // 4, 75), seed=9, progress=False)  # the first is slower
        for seed in SEEDS[: 1 if options.quick or n > 1000 else 3]:
            timed = TimedGame(game)
            n_rows = 128 * len(game.prompts)
            before = plain_seconds(game, n_rows)
            started, cpu = time.perf_counter(), time.process_time()
            found = sm.discover(timed, budget=n, seed=seed, progress=False)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            plain_row = (before + plain_seconds(game, n_rows)) / 2
            spent = found.cost["evaluations"]
            passes = plain_row * spent * len(game.prompts)
            rows.append({
                "n": n, "seed": seed, "evaluations": spent, "gradients": found.cost["gradients"],
                "prompts": len(game.prompts), "seconds": seconds,
                "cpu_seconds": cpu,
                "host_seconds": cpu - timed.cpu_seconds,
                "host_share": 1 - timed.cpu_seconds / cpu,
                "passes_to_plain": timed.seconds / passes, "wall_to_plain": seconds / passes,
                "audited_recall": found.audit["recall"] if found.audit else None,
            })  # fmt: skip
            show(rows[-1])
    return rows


# -- 5. layers and prompts -------------------------------------------------------------------------


def evaluation(n_layer: int, n_prompts: int, n_masks: int) -> Row:
    """Of a random pair of neurons of a random GPT-2 of width 128; no unit is in two pairs, as what
    pairs share is computed once, and few layers have few units."""
    from benchmarks.throughput import gpt2, random_task, ratios

    model = gpt2(n_layer, 128, 4, vocab_size=1000)
    task = random_task(n_prompts, 16, 1000)
    game = sm.ModelGame(model, task, sm.Components.neurons(model), replay=True)
    drawn = np.random.default_rng(0).permutation(len(game))[: 2 * n_masks]
    lost = np.sort(drawn.reshape(-1, 2), axis=1)
    seconds, ratio = ratios(game, lambda: game.ablating(lost), len(lost) * n_prompts)
    return {"ms_per_evaluation": 1e3 * seconds * n_prompts, "ratio_to_plain": ratio}


def grown(options: Options, what: str, sizes: tuple[int, ...]) -> list[Row]:
    rows: list[Row] = []
    for size in sizes:
        measured = {"n_layer": 4, "n_prompts": 4} | {what: size}
        row = evaluation(**measured, n_masks=50 if options.quick else 400)
        first = rows[0]["ms_per_evaluation"] if rows else row["ms_per_evaluation"]
        rows.append({"size": size, **row, "to_smallest": row["ms_per_evaluation"] / first})
        show(rows[-1])
    return rows


def layers(options: Options) -> list[Row]:
    return grown(options, "n_layer", (2, 4) if options.quick else (2, 4, 8, 16))


def prompts(options: Options) -> list[Row]:
    return grown(options, "n_prompts", (2, 4) if options.quick else (2, 4, 8, 16))


# -- 6. exponents ----------------------------------------------------------------------------------


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
        "factor": float(np.exp(constant)), "points": len(x), "from": min(x), "to": max(x),
    }  # fmt: skip


def fits(out: dict[str, Any]) -> list[Row]:
    rows: list[Row] = []

    def add(what: str, of: str, table: list[Row], x: str, y: str) -> None:
        table = [row for row in table if row.get(y)]
        if len({row[x] for row in table}) > 1:
            fit = fitted([row[x] for row in table], [row[y] for row in table])
            rows.append({"what": what, "of": of, "by": x, **fit})

    # A run that never measured all is no point of the first kind; the tables show it as such.
    # At n = 100 fewer pairs are planted and fewer evaluations spent: it is no point of these lines.
    for line in (FIXED, MANY):
        for method in ("spex", "proxyspex"):
            mine = [r for r in out.get("planted", []) if (r["line"], r["method"]) == (line, method)]
            mine = [r | {"mb_grown": r["mb_most"] - r["mb_before"]} for r in mine if r["n"] > 100]
            of = f"{method}, {line}"
            add("evaluations until all were measured", of, mine, "n", "all_measured_after")
            add("host seconds", of, mine, "n", "host_seconds")
            last = [r for r in mine if r["seed"] == 0]  # one process, one peak, for all seeds
            add("memory beyond imports, MB", of, last, "n", "mb_grown")
    for kind in ("random", "equal"):
        mine = [r for r in out.get("scan", []) if r["strengths"] == kind]
        add("seconds of a ranking of all pairs", f"{kind} strengths", mine, "n", "seconds")
    add("host seconds", "spex, gradients, real", out.get("real", []), "n", "host_seconds")
    add("all seconds", "spex, gradients, real", out.get("real", []), "n", "cpu_seconds")
    for what in ("layers", "prompts"):
        add("ms an evaluation", f"pair of neurons, {what}", out.get(what, []), "size",
            "ms_per_evaluation")  # fmt: skip
    for row in rows:
        show(row)
    return rows


# -- 7. extrapolation ------------------------------------------------------------------------------


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


MODELS = (
    Model("8B", 32, 32, 14_336, 4096, 8.03e9, 1),
    Model("70B", 80, 64, 28_672, 8192, 70.6e9, 2),
)
GPUS = (1, 8, 64)
EXHAUSTIVE, LEAST, DEFAULT = "all pairs", "SPEX, 1 a unit", "SPEX, 4 a unit"
SPARSE = "SPEX, sparse truth, no gradients"


def evaluations_of(method: str, n: int, sparse: Row) -> float:
    """Evaluations of a search; the sparse one's by the fitted line, never less than at its end."""
    if method == EXHAUSTIVE:
        return 1 + n + n * (n - 1) / 2
    if method == SPARSE:
        return sparse["factor"] * n ** sparse["exponent"]
    return float(n if method == LEAST else 4 * n + 100)


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


def extrapolation(out: dict[str, Any], a: Assumptions | None = None) -> dict[str, Any]:
    a = a or Assumptions()
    fit = {(row["what"], row["of"]): row for row in out["fits"]}
    sparse = fit["evaluations until all were measured", f"spex, {FIXED}"]
    host_sparse = fit["host seconds", f"spex, {FIXED}"]
    host_real = fit["host seconds", "spex, gradients, real"]
    largest = max(row["n"] for row in out["real"])
    ratio = float(np.mean([r["passes_to_plain"] for r in out["real"] if r["n"] == largest]))
    pairs_ratio = max(row["ratio_to_plain"] for row in out["layers"])
    budget = max(row["budget"] for row in out["planted"] if row["line"] == FIXED)
    shares = {
        row["workers"]: row["share_busy"] for row in out["workers"] if "planted" in row["game"]
    }
    kept = Options().kept("cluster")
    pace = {row["workers"]: row["share"] for row in kept["rows"] if row["part"] == "pace"}
    (driver,) = [row for row in kept["rows"] if row["part"] == "memory"]
    store = Options().kept("store_size")
    bytes_of = {row["masks"]: row["bytes_each"] for row in store["rows"]}
    of_pair = bytes_of["pairs"] + 4 * (a.prompts - store["prompts"])

    rows: list[Row] = []
    for model in MODELS:
        for units, n in model.kinds_of_units.items():
            for method in (EXHAUSTIVE, LEAST, DEFAULT, SPARSE):
                spent = evaluations_of(method, n, sparse)
                mine = ratio if method in (LEAST, DEFAULT) else pairs_ratio
                if method == SPARSE:
                    mine = 1.0  # groups lie in all layers: nothing is saved
                flops = flops_of(model, a, mine)
                # GPUs that share a copy work one after the other: together as fast as one.
                hours = spent * flops / (a.utilisation * a.peak_flops) / 3600
                gradients = 0
                if method == EXHAUSTIVE:
                    host = spent * driver["seconds"] / driver["evaluations"]
                    stored, questions = spent * of_pair, questions_of_all(n)
                elif method == SPARSE:
                    host = host_sparse["factor"] * n ** host_sparse["exponent"] * spent / budget
                    stored, questions = spent * (of_pair + n / 8), []
                else:
                    host = host_real["factor"] * n ** host_real["exponent"] * spent / n
                    gradients = 1 + n_deep(spent) + n_rows(n, spent)
                    stored = (spent - GRADIENT_COST * gradients) * of_pair
                    stored += gradients * 4 * BLOCKS * n
                    questions = questions_of(n, int(spent))
                wall, busy = {}, {}
                for gpus in GPUS:
                    at, copies = (8 if gpus <= 8 else 64), gpus // model.gpus_a_copy
                    share = share_busy(questions, copies) if questions and copies else shares[at]
                    busy[str(gpus)] = min(share, pace[at]) if copies > 1 else 1.0
                    wall[str(gpus)] = wall_hours(hours, gpus, model, busy[str(gpus)])
                refused = method == EXHAUSTIVE and n * (n - 1) / 2 > a.most_exhaustive
                rows.append({
                    "model": model.name, "units": units, "n": n, "method": method,
                    "evaluations": spent, "tera_flops_an_evaluation": flops / 1e12,
                    "gpu_hours": hours * model.gpus_a_copy, "wall_hours": wall,
                    "host_hours": host / 3600, "store_gb": stored / 1e9,
                    "gradients": gradients, "share_busy": busy, "refused": refused,
                })  # fmt: skip
    return {
        "assumptions": asdict(a), "models": [asdict(model) for model in MODELS],
        "measured": {
            "search_to_plain": ratio, "pairs_to_plain": pairs_ratio, "sparse": sparse,
            "host_sparse": host_sparse, "host_real": host_real, "pace": pace,
            "shares_sparse": shares,
            "share_real": next(
                row["share_busy"]
                for row in out["workers"]
                if "story" in row["game"] and row["workers"] == 8
            ),
            "bytes_of_a_pair": of_pair,
            "driver_microseconds": 1e6 * driver["seconds"] / driver["evaluations"],
        },
        "rows": rows,
        "memory": [memory_of(model, a) for model in MODELS],
        "scale_line": scale_line(out),
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
    return {"model": model.name, "weights_gb": weights, "intact_gb": kept, "gpus_at_least": gpus,
            "slopes_gb": slopes, "rows_of_slopes": n_rows(n, n)}  # fmt: skip


def scale_line(out: dict[str, Any], n: int = 10_000) -> Row:
    """Evaluations at n = 10,000: all pairs, what this project planned, and ours."""
    mine = [r for r in out["planted"] if (r["line"], r["n"]) == (FIXED, n)]
    row: Row = {"n": n, "all pairs": evaluations_of(EXHAUSTIVE, n, {})}
    row |= {"SPEX, planned at most": 100_000, "ProxySPEX, planned about": 10_000}
    for method in ("spex", "proxyspex"):
        after = [r["all_measured_after"] for r in mine if r["method"] == method]
        ends = [r["search_ended_after"] for r in mine if r["method"] == method]
        row[f"ours, {method}"] = after
        row[f"ours, {method}, and knows it"] = ends
    return row


# -- the page --------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Two digits that count, as on the page."""
    if value is None:
        return "does not fit"
    if value == 0:
        return "0"
    rounded = float(f"{value:.2g}")
    if abs(rounded) >= 1e9:
        return f"{rounded:.1e}"
    return f"{rounded:,.0f}" if abs(rounded) >= 10 else f"{rounded:.2g}"


def number_of(evaluations: int | None) -> str:
    return "never" if evaluations is None else f"{evaluations:,}"


def tables(out: dict[str, Any]) -> dict[str, str]:
    """The tables of ``docs/scaling.md`` by name, in Markdown."""
    made = plain(out["extrapolation"])  # as read from JSON, whose keys are words
    found: dict[str, list[str]] = {}
    head = "| units | search | evaluations | GPU-hours | 1 GPU | 8 GPUs | 64 GPUs | host | store |"
    for model in made["models"]:
        lines = [head, "|---|---|---|---|---|---|---|---|---|"]
        for row in made["rows"]:
            if row["model"] != model["name"]:
                continue
            cells = [f"{row['units']} ({row['n']:,})", row["method"]]
            cells += [number(row["evaluations"]), number(row["gpu_hours"])]
            cells += [number(row["wall_hours"][str(gpus)]) for gpus in GPUS]
            cells += [number(row["host_hours"]), f"{number(row['store_gb'])} GB"]
            if row["refused"]:
                cells[1] += " (refused)"
            lines.append(f"| {' | '.join(cells)} |")
        found[f"hours {model['name']}"] = lines
    lines = [
        "| model | weights | intact model, kept | GPUs at least | slopes, on the driver "
        "| rows of slopes, with all neurons |",
        "|---|---|---|---|---|---|",
    ]
    for row in made["memory"]:
        gb = [f"{number(row[key])} GB" for key in ("weights_gb", "intact_gb", "slopes_gb")]
        cells = [row["model"], gb[0], gb[1], str(row["gpus_at_least"]), gb[2]]
        lines.append(f"| {' | '.join(cells)} | {row['rows_of_slopes']} |")
    found["memory"] = lines
    lines = [
        "| units | pairs | search | all measured after, by seed | recall | host seconds | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for line, method in LINES:
        for n in sorted({row["n"] for row in out["planted"]}):
            mine = [
                r for r in out["planted"] if (r["line"], r["method"], r["n"]) == (line, method, n)
            ]
            after = [number_of(r["all_measured_after"]) for r in mine]
            cells = [f"{n:,}", f"{mine[0]['pairs']}", f"{method}, {line}", ", ".join(after)]
            cells += [", ".join(f"{r['recall']:.2g}" for r in mine)]
            cells += [number(float(np.mean([r["host_seconds"] for r in mine])))]
            lines.append(f"| {' | '.join(cells)} | {number(mine[0]['mb_most'])} |")
    found["planted"] = lines
    lines = ["| what grows | of | exponent | over |", "|---|---|---|---|"]
    for row in out["fits"]:
        error = f"{row['exponent']:.2f} +- {row['standard_error']:.2f}"
        over = f"{row['from']:,.0f} to {row['to']:,.0f}"
        lines.append(f"| {row['what']} | {row['of']} | {error} | {over} |")
    found["exponents"] = lines
    told = made["measured"]
    figures = [
        ("replayed passes and gradients of a search, to plain ones", told["search_to_plain"],
         "growth.json, `real`: `passes_to_plain`, largest n"),
        ("replayed pairs of neurons, to plain passes", told["pairs_to_plain"],
         "growth.json, `layers`: largest `ratio_to_plain`"),
        ("8 workers kept busy by the driver", told["pace"]["8"], "cluster.json, `pace`: `share`"),
        ("64 workers kept busy by the driver", told["pace"]["64"], "cluster.json, `pace`: `share`"),
        ("8 workers that group tests can use", told["shares_sparse"]["8"],
         "growth.json, `workers`: `share_busy`"),
        ("64 workers that group tests can use", told["shares_sparse"]["64"],
         "growth.json, `workers`: `share_busy`"),
        ("8 workers that a search with gradients can use, 3,108 units", told["share_real"],
         "growth.json, `workers`: `share_busy`"),
        ("bytes of a pair in a store", told["bytes_of_a_pair"],
         "store_size.json, `bytes_each`, and 4 for each prompt over 8"),
        ("driver's microseconds for a pair of all pairs", told["driver_microseconds"],
         "cluster.json, `memory`: `seconds`"),
    ]  # fmt: skip
    lines = ["| measured | value | where |", "|---|---|---|"]
    lines += [f"| {name} | {number(value)} | {where} |" for name, value, where in figures]
    found["measured"] = lines
    line = made["scale_line"]
    lines = ["| n = 10,000 | evaluations |", "|---|---|"]
    for name, value in line.items():
        if name != "n":
            told = value if isinstance(value, list) else [value]
            lines.append(f"| {name} | {', '.join(f'{v:,.0f}' for v in told)} |")
    found["scale line"] = lines
    return {name: "\n".join(text) for name, text in found.items()}


# -- the picture -----------------------------------------------------------------------------------


def draw(out: dict[str, Any], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.4), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    fit = {(row["what"], row["of"]): row["exponent"] for row in out["fits"]}
    parts = (
        ("all_measured_after", "evaluations until all were measured", FIXED),
        ("all_measured_after", "evaluations until all were measured", MANY),
        ("host_seconds", "host seconds", FIXED),
        ("mb_grown", "memory beyond imports, MB", FIXED),
    )
    for ax, (key, what, line) in zip(axes, parts, strict=False):
        for method, mark in (("spex", "o"), ("proxyspex", "s")):
            mine = [r for r in out.get("planted", []) if (r["line"], r["method"]) == (line, method)]
            mine = [r | {"mb_grown": r["mb_most"] - r["mb_before"]} for r in mine]
            mine = [r for r in mine if r[key] and (key != "mb_grown" or r["seed"] == 0)]
            exponent = fit.get((what, f"{method}, {line}"))
            label = method if exponent is None else f"{method}: n^{exponent:.2f}"
            if mine:
                ax.plot(
                    [r["n"] for r in mine], [r[key] for r in mine], mark, label=label, alpha=0.7
                )
        ax.set(xscale="log", yscale="log", xlabel="units n", title=f"{what}\n{line}")
    if out.get("real"):
        ax, rows = axes[4], out["real"]
        for key, label in (("cpu_seconds", "all"), ("host_seconds", "host only")):
            ax.plot([r["n"] for r in rows], [r[key] for r in rows], "o", label=label, alpha=0.7)
        ax.set(xscale="log", yscale="log", xlabel="units n")
        ax.set_title("seconds, 3M story model with gradients\n1 evaluation a unit")
    for what, mark in (("layers", "o-"), ("prompts", "s-")):
        rows = out.get(what, [])
        if rows:
            sizes, ratios = [r["size"] for r in rows], [r["to_smallest"] for r in rows]
            axes[5].plot(sizes, ratios, mark, label=what)
    axes[5].set(xlabel="layers or prompts")
    axes[5].set_title("time of an evaluation\nas a ratio to the smallest")
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.title.set_fontsize(9)
        if not ax.lines:
            ax.set(xscale="linear", yscale="linear")  # an empty logarithm cannot be drawn
        if ax.get_legend_handles_labels()[0]:
            ax.legend(fontsize=8)
    figure.savefig(file, dpi=110)


# -- all of it -------------------------------------------------------------------------------------

PARTS = {
    "planted": planted, "scan": scan, "workers": workers, "real": real, "layers": layers,
    "prompts": prompts,
}  # fmt: skip


def run(options: Options) -> dict[str, Any]:
    out = options.kept("growth") if options.only else {}
    for name in options.only or PARTS:
        print(f"-- {name}", flush=True)
        out[name] = PARTS[name](options)
        out.setdefault("parts", {})[name] = provenance()
        options.keep("growth", out)
    out |= {"seeds": list(SEEDS), "quick": options.quick}
    print("-- fits", flush=True)
    out["fits"] = fits(out)
    if all(out.get(part) for part in PARTS):
        out["extrapolation"] = extrapolation(out)
        print(*tables(out).values(), sep="\n\n")
    options.keep("growth", out)
    picture = options.picture("growth.png")
    draw(out, picture)
    if options.out == HERE:
        shutil.copy(picture, HERE.parent / "docs" / "growth.png")
    return out


def show(row: Row) -> None:
    print(
        "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v}" for k, v in row.items()),
        flush=True,
    )


def main() -> None:
    made = parser(__doc__, PARTS)
    made.add_argument("--one", help=argparse.SUPPRESS)
    parsed = made.parse_args()
    if parsed.one:
        print(json.dumps(plain(one_process(*json.loads(parsed.one)))))
    else:
        run(options_of(parsed))


if __name__ == "__main__":
    main()
