"""Growth: what a search costs as units, interactions, layers and prompts grow.

    python -m benchmarks.growth --data ../shared/data            # some 30 minutes on two cores
    python -m benchmarks.growth --data ../shared/data --quick
    python -m benchmarks.growth --only real --data ../shared/data    # a part again, keep the rest

1. ``planted``: sparse games without gradients, 100 pairs (20 at n = 100) or n / 100 pairs planted.
   Each size runs in a process of its own, whose peak memory is then that size's. The game itself
   counts after which evaluation every planted pair and both its singles had been asked for. The
   host's time is that of one thread on the processor, less the game's own: others who use the
   machine do not count.
2. ``scan``: the one step that looks at pairs by blocks (the ranking of all pairs by products of
   strengths), on strengths drawn at random and on equal ones.
3. ``workers``: how many workers a search can keep busy, counted from the batches of its questions,
   not from time.
4. ``real``: the 3M story model on indirect object identification, its heads and more and more of
   its neurons, one evaluation a unit, with gradients: host time, passes, plain passes of as many
   rows.
5. ``wide``: a random Llama of small width with as many heads and neurons as one of 8 billion
   weights, 459,776, in a process of its own: 2,000 evaluations with gradients.
6. ``layers`` and ``prompts``: a random pair of neurons in a random GPT-2.

Writes ``results/growth.json`` and ``pictures/growth.png``. ``extrapolation.py`` works out exponents
of these figures and what they make of large models.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import spex_mech as sm
from benchmarks import frame
from benchmarks.extrapolation import (
    FIXED,
    LINES,
    MANY,
    PER_BATCH,
    fits,
    questions_of,
    share_busy,
)
from benchmarks.frame import SEEDS, Options, Row, memory_mb, rows_of, script, timed
from benchmarks.games import Around, Planted, Watched, ioi_game, planted_game, recall, values_of
from benchmarks.throughput import gpt2, plain_seconds, random_task, ratios
from spex_mech.game import Answer, Game
from spex_mech.masks import MaskBatch
from spex_mech.search.contract import GRADIENT_COST
from spex_mech.search.strengths import Strengths
from spex_mech.units import Units

SIZES = (100, 300, 1000, 3000, 10_000, 40_000)


class Counted(Game):
    """A planted game that answers lists of ablated units, as a model does, and knows how long it
    was busy and after which evaluation each small set was asked for."""

    def __init__(self, game: Planted) -> None:
        self.game, self.seconds, self.asked = game, 0.0, 0
        self.first: dict[tuple[int, ...], int] = {}
        self._main = np.append(game.main_effects, 0.0)
        self._pairs = np.array(list(game.planted))
        self._sizes = np.array(list(game.planted.values()))

    @property
    def units(self) -> Units:
        return Units.of_labels(self.game.labels)

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Any = None) -> Answer:
        started, lost = time.process_time(), masks.ablated
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
        return Answer(values[:, None])

    def all_after(self) -> int | None:
        """Evaluations after which every planted pair and its singles were known; None: never."""
        needed = [part for a, b in self.game.planted for part in ((a, b), (a,), (b,))]
        if any(part not in self.first for part in needed):
            return None
        return max(self.first[part] for part in needed)


def on_planted(line: str, n: int, method: str, seed: int) -> Row:
    pairs = n // 100 if line == MANY else 100 if n > 100 else 20
    budget = 800 if n <= 100 else 10_000 if line == MANY else 5000
    game = Counted(planted_game(n, pairs, 10 + seed))
    started = time.process_time()
    found = sm.discover(game, method=method, budget=budget, seed=seed, progress=False)
    seconds = time.process_time() - started - game.seconds
    have, planted = values_of(found), game.game.planted
    right = {s for s, value in planted.items() if abs(have.get(s, np.inf) - value) < 1e-4}
    return {
        "line": line, "n": n, "pairs": pairs, "method": method, "seed": seed, "budget": budget,
        "recall": recall(right, [*planted]), "all_measured_after": game.all_after(),
        "search_ended_after": found.about.get("evaluations_of_candidates"),
        "host_seconds": seconds,
    }  # fmt: skip


def one_process(line: str, n: int, method: str, seeds: tuple[int, ...]) -> list[Row]:
    """All seeds of a size, in a process whose peak memory is that size's."""
    small = Counted(planted_game(20, 2, 0))
    sm.discover(small, method=method, budget=150, progress=False)  # imports are no matter of n
    before = memory_mb()
    rows = [on_planted(line, n, method, seed) for seed in seeds]
    return [row | {"mb_before": before, "mb_most": memory_mb()} for row in rows]


def planted(options: Options) -> Iterator[Row]:
    # A proxy takes half a minute where a search without one takes seconds: one seed of it.
    for line, method in LINES:
        for n in options.some(SIZES, 3):
            seeds = (0,) if method == "proxyspex" else options.seeds
            yield from frame.alone(one_process, line, n, method, seeds)


def scan(options: Options) -> Iterator[Row]:
    """Seconds of one ranking of all pairs by products of strengths, 100,000 to be kept."""
    for kind in ("random", "equal"):
        for n in options.some(SIZES[2:], 2):
            drawn = np.random.default_rng(0).standard_normal((n, 8))
            ranks = Strengths(drawn if kind == "random" else np.ones((n, 8)))
            found, seconds = timed(lambda ranks=ranks: ranks.strongest(100_000))
            yield {"strengths": kind, "n": n, "pairs": len(found), "seconds": seconds}


class Batches(Around):
    """A game whose driver sends all batches of a question ahead: it counts them by question."""

    n_ahead = 1_000_000
    masks_per_batch = PER_BATCH

    def __init__(self, game: Any) -> None:
        super().__init__(game)
        self.questions: list[tuple[int, int]] = []  # masks of each, and what one costs
        self._sent: list[tuple[MaskBatch, bool]] = []
        self._open = False

    def start(self, masks: MaskBatch, slopes: bool, tick: Any) -> "Batches":
        if not self._open:
            self.questions.append((0, GRADIENT_COST if slopes else 1))
        self._open = True
        asked, each = self.questions[-1]
        self.questions[-1] = (asked + len(masks), each)
        self._sent.append((masks, slopes))
        return self

    def result(self) -> Answer:
        self._open = False
        return self.evaluate(*self._sent.pop(0))


def workers(options: Options) -> Iterator[Row]:
    n, n_real = (1000, 300) if options.quick else (10_000, 3108)
    games: dict[str, Any] = {f"planted, n = {n:,}": (Counted(planted_game(n, 100, 10)), 5000)}
    if options.data is not None:
        games[f"3M story model, n = {n_real:,}"] = ioi_game(options.data, 8, n_real), n_real
    for name, (game, budget) in games.items():
        batches = Batches(game)
        sm.discover(batches, method="spex", budget=budget, progress=False)
        for count in (8, 64):
            row = {"game": name, "workers": count}
            row |= {"share_busy": share_busy(batches.questions, count)}
            if "story" in name:
                row["by_formula"] = share_busy(questions_of(len(game), budget), count)
            yield row


def real(options: Options) -> Iterator[Row]:
    for n in options.some((100, 300, 1000, 3108), 2):
        game = ioi_game(options.models, 8, n)
        n_prompts = len(game.prompts)
        sm.discover(game, budget=max(n // 4, 75), seed=9, progress=False)  # the first is slower
        for seed in options.seeds[: 1 if n > 1000 else 3]:
            watched, before = Watched(game), plain_seconds(game, 128 * n_prompts)
            cpu = time.process_time()
            found = sm.discover(watched, budget=n, seed=seed, progress=False)
            cpu = time.process_time() - cpu
            plain_row = (before + plain_seconds(game, 128 * n_prompts)) / 2
            passes = plain_row * found.cost["evaluations"] * n_prompts
            yield {
                "n": n, "seed": seed, "cpu_seconds": cpu, "host_seconds": cpu - watched.cpu_seconds,
                "passes_to_plain": watched.seconds / passes,
            }  # fmt: skip


def evaluation(n_layer: int, n_prompts: int, n_masks: int) -> Row:
    """Of a random pair of neurons of a random GPT-2 of width 128; no unit is in two pairs, as what
    pairs share is computed once, and few layers have few units."""
    model = gpt2(n_layer, 128, 4, vocab_size=1000)
    task = random_task(n_prompts, 16, 1000)
    game = sm.ModelGame(model, task, sm.Components.neurons(model), replay=True)
    drawn = np.random.default_rng(0).permutation(len(game))[: 2 * n_masks]
    lost = np.sort(drawn.reshape(-1, 2), axis=1)
    seconds, ratio = ratios(game, lambda: game.ablating(lost), len(lost) * n_prompts)
    return {"ms_per_evaluation": 1e3 * seconds * n_prompts, "ratio_to_plain": ratio}


def grown(options: Options, what: str) -> Iterator[Row]:
    for size in options.some((2, 4, 8, 16), 2):
        measured = {"n_layer": 4, "n_prompts": 4} | {what: size}
        yield {"size": size, **evaluation(**measured, n_masks=50 if options.quick else 400)}


def draw(rows: list[Row], file: Path) -> None:
    exponents = {(fit["what"], fit["of"]): fit["exponent"] for fit in fits(rows)}
    planted = [
        r | {"mb_grown": r["mb_most"] - r["mb_before"]} for r in rows_of(rows, part="planted")
    ]
    until_all = "evaluations until all were measured"
    shown = (
        ("all_measured_after", until_all, FIXED),
        ("all_measured_after", until_all, MANY),
        ("host_seconds", "host seconds", FIXED),
        ("mb_grown", "memory beyond imports, MB", FIXED),
    )

    def plot(ax: Any, rows: list[Row], x: str, y: str, mark: str, label: str) -> None:
        ax.plot([r[x] for r in rows], [r[y] for r in rows], mark, label=label, alpha=0.7)
        ax.grid(alpha=0.3)

    with frame.panels(file, 2, 3, (12, 6.4)) as axes:
        for ax, (key, what, line) in zip(axes, shown, strict=False):
            for method, mark in (("spex", "o"), ("proxyspex", "s")):
                mine = [r for r in rows_of(planted, line=line, method=method) if r[key]]
                mine = rows_of(mine, seed=0) if key == "mb_grown" else mine
                if mine:
                    label = f"{method}: n^{exponents[what, f'{method}, {line}']:.2f}"
                    plot(ax, mine, "n", key, mark, label)
            ax.set(xscale="log", yscale="log", xlabel="units n", title=f"{what}\n{line}")
        for key, label in (("cpu_seconds", "all"), ("host_seconds", "host only")):
            plot(axes[4], rows_of(rows, part="real"), "n", key, "o", label)
        axes[4].set(xscale="log", yscale="log", xlabel="units n")
        axes[4].set_title("seconds, 3M story model with gradients\n1 evaluation a unit")
        for what, mark in (("layers", "o-"), ("prompts", "s-")):
            mine = rows_of(rows, part=what)
            first = mine[0]["ms_per_evaluation"]
            mine = [r | {"to_smallest": r["ms_per_evaluation"] / first} for r in mine]
            plot(axes[5], mine, "size", "to_smallest", mark, what)
        axes[5].set(xlabel="layers or prompts", title="time of an evaluation\nto the smallest")
    frame.show_in_docs(file)


def wide(options: Options) -> Iterator[Row]:
    layers, budget = (4, 150) if options.quick else (32, 2000)
    yield frame.alone(of_wide_model, layers, budget)


def of_wide_model(n_layers: int, budget: int) -> Row:
    """Processor seconds and memory of making the game, and of the search beside the game."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=14_336, num_hidden_layers=n_layers,
        num_attention_heads=32, num_key_value_heads=8, head_dim=2, initializer_range=0.1,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    before, cpu = memory_mb(), time.process_time()
    game = sm.ModelGame(model, random_task(8, 6, 128), "heads+neurons")
    making = time.process_time() - cpu
    watched, cpu = Watched(game), time.process_time()
    found = sm.discover(watched, budget=budget, progress=False)
    return {
        "n": len(game), "evaluations": found.cost["evaluations"],
        "rows": found.about["gradient_rows"], "making_seconds": making,
        "host_seconds": time.process_time() - cpu - watched.cpu_seconds,
        "mb_of_model": before, "mb_most": memory_mb(),
    }  # fmt: skip


PARTS = {
    "planted": planted,
    "scan": scan,
    "workers": workers,
    "real": real,
    "wide": wide,
    "layers": lambda options: grown(options, "n_layer"),
    "prompts": lambda options: grown(options, "n_prompts"),
}


if __name__ == "__main__":
    script(__doc__, "growth", PARTS, draw, seeds=list(SEEDS))
