"""What a search will ask, and what that will take, before it is spent.

1. The search itself is run on a *stand-in*: a made-up game of as many units, with slopes if the
   real game has them. That costs no pass of the model, and shows what each stage asks.
2. Some of the very masks of each stage are timed on the real game, in batches that grow towards
   those of the search as far as that does not take too long: masks of a large batch share work.

What a search asks depends on what it is told: the real one divides its budget a little otherwise.
"""

import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from spex_mech.arguments import one_of, whole
from spex_mech.discover import METHODS, prepared
from spex_mech.driver import Watcher, drive, evaluate_batch, share
from spex_mech.engine.device import GpuMemory
from spex_mech.game import Answer, Game, Tick, as_game, no_tick
from spex_mech.masks import MaskBatch
from spex_mech.runs.session import RunSettings
from spex_mech.search.contract import Question
from spex_mech.units import Units

if TYPE_CHECKING:
    import pandas as pd

_FEW = 16  # units of a search that only warms up
_RANK = 8  # of the stand-in's pairs
_PROMPTS, _BLOCKS = 4, 2  # of the stand-in
_SHARE = 0.05  # of a search's time that timing may take
_LEAST, _MOST = 2.0, 60.0  # seconds of timing that are always allowed, and that never are exceeded
_FIRST = 1  # masks of the first batch that is timed
_LEAST_OF_LINE = 0.1  # of a mask's seconds in the batch before, what one more takes at least
_GROWTH = 4  # of the next over the one before
_RUNS = 4  # of neighbouring masks, that are timed together


@dataclass(frozen=True)
class Stage:
    """What one stage of a search asks.

    Args:
        name: what the progress bar calls it.
        evaluations: in all; a gradient counts as three.
        gradients: masks that are asked with slopes.
        questions: the masks of each of its questions.
        seconds: on one process.
    """

    name: str
    evaluations: int
    gradients: int
    questions: tuple[int, ...]
    seconds: float

    def seconds_with(self, workers: int) -> float:
        """The same with so many processes at work, each as fast as this one: each has its part of
        every question."""
        masks = sum(self.questions)
        rounds = sum(share(asked, workers) for asked in self.questions)
        return self.seconds * rounds / masks if masks else 0.0


@dataclass(frozen=True)
class Plan:
    """What a search will take. Its text is a table.

    Args:
        units, pairs: how many there are.
        stages: in the order of the search.
        host_seconds: what the search itself takes, beside the game.
        memory: gigabytes: the most that this process, or the GPU, held while masks were timed.
    """

    units: int
    pairs: int
    stages: tuple[Stage, ...]
    host_seconds: float
    memory: float | None
    spent: float = field(compare=False)  # seconds

    @property
    def evaluations(self) -> int:
        """In all; a gradient counts as three."""
        return sum(stage.evaluations for stage in self.stages)

    @property
    def seconds(self) -> float:
        """On one process."""
        return self.host_seconds + sum(stage.seconds for stage in self.stages)

    def seconds_with(self, workers: int) -> float:
        """With so many processes, each as fast as this one (one per GPU; two on the same cores are
        not)."""
        workers = whole("workers", workers, 1)
        return self.host_seconds + sum(stage.seconds_with(workers) for stage in self.stages)

    def frame(self) -> "pd.DataFrame":
        """A row for each stage, as a pandas table."""
        import pandas as pd

        rows = [
            {"stage": s.name, "evaluations": s.evaluations, "gradients": s.gradients,
             "seconds": s.seconds}
            for s in self.stages
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        lines = [
            f"{self.units:,} units, {self.pairs:,} pairs: {self.evaluations:,} evaluations, "
            f"about {_duration(self.seconds)}"
        ]
        width = max(len(stage.name) for stage in self.stages)
        for stage in self.stages:
            slopes = f", {stage.gradients:,} gradients" if stage.gradients else ""
            begins = f"  {stage.name:<{width}}  {stage.evaluations:>9,}  "
            lines.append(f"{begins}{_duration(stage.seconds)}{slopes}")
        lines.append(f"  {'the search itself':<{width}}  {'':>9}  {_duration(self.host_seconds)}")
        gain = ", ".join(f"{n}: {_duration(self.seconds_with(n))}" for n in (2, 4, 8))
        lines.append(f"  with workers, each as fast as this process: {gain}")
        if self.memory is not None:
            lines.append(f"  memory: {self.memory:.1f} GB at most while masks were timed")
        lines.append(f"  (found out in {_duration(self.spent)})")
        return "\n".join(lines)

    __repr__ = __str__


def plan(
    game: Any,
    budget: int | None = None,
    method: str = "spex",
    order: int = 2,
    seed: int = 0,
    *,
    n: int | None = None,
    labels: Any = None,
    **options: Any,
) -> Plan:
    """What ``discover`` with the same arguments will take: evaluations by stage, time, memory.

    A few batches of masks run on the game, for some twentieth of the search's time (two seconds at
    least, a minute at most). Nothing else is spent and nothing is kept.

    Args:
        game, budget, method, order, seed, n, labels, options: as for ``discover``. A ``proxy`` that
            is a smaller game, and a search of one's own, cannot be planned.

    Raises:
        ValueError: what ``discover`` would refuse.

    >>> plan(lambda masks: masks.all(dim=1).double(), 200, n=30, gradients=False).evaluations
    200
    """
    began = time.perf_counter()
    ready = as_game(game, n, labels)
    one_of("method", method, METHODS)
    order, seed = whole("order", order, 2), whole("seed", seed, 0)
    budget = None if budget is None else whole("budget", budget, 1)
    if not isinstance(options.get("proxy", ""), str):
        raise ValueError("a search with a proxy of one's own cannot be planned; name one")
    _ = ready.noise_floor  # asks some masks, as every search does
    checks, peak = time.perf_counter() - began, _host_memory()

    def searched(standing: _StandIn, budget: int | None) -> list[Question]:
        make, _, _ = prepared(standing, method, budget, order, seed, options, RunSettings(False))
        drive(standing, make(), False, watcher=(heard := _Heard()))
        return heard.questions

    if len(ready) > 2 * _FEW:  # a small one first, as the first search of a process imports much
        searched(_StandIn(ready, _FEW), None)
    standing, before = _StandIn(ready, len(ready)), time.perf_counter()
    questions = searched(standing, budget)
    itself = time.perf_counter() - before - standing.seconds
    of_search = _host_memory() - peak
    on_gpu = GpuMemory(ready.device)
    stages = _timed(ready, questions)
    of_host, of_gpu = _host_memory() + of_search, on_gpu.most()
    memory = of_host if of_gpu is None else of_gpu
    n_units = len(ready)
    return Plan(
        n_units,
        n_units * (n_units - 1) // 2,
        stages,
        itself + checks,
        memory or None,
        time.perf_counter() - began,
    )


class _Heard(Watcher):
    """The questions of a search."""

    def __init__(self) -> None:
        self.questions: list[Question] = []

    def asked(self, question: Question, game: Game) -> None:
        self.questions.append(question)


class _StandIn(Game):
    """A made-up game with heavy-tailed main effects and pairs."""

    def __init__(self, game: Game, n: int) -> None:
        rng = np.random.default_rng(0)
        self._game, self._units = game, game.units[:n]
        self.main = rng.standard_t(2, (n, _PROMPTS)) + 0.1
        self.factors = rng.standard_t(2, (n, _RANK)) * 0.3
        self.seconds = 0.0

    @property
    def units(self) -> Units:
        return self._units

    @property
    def has_slopes(self) -> bool:
        return self._game.has_slopes

    @property
    def why_no_slopes(self) -> str:
        return self._game.why_no_slopes

    @property
    def masks_per_batch(self) -> int:
        return self._game.masks_per_batch

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Tick = no_tick) -> Answer:
        began = time.perf_counter()
        answer = self._answer(1.0 - masks.kept(), slopes)
        self.seconds += time.perf_counter() - began
        return answer

    def slopes_at(self, gates: Tensor) -> Answer:
        return self._answer(1.0 - gates.double().numpy(), True)

    def _answer(self, lost: Float[np.ndarray, "mask unit"], slopes: bool) -> Answer:
        within = lost @ self.factors
        values = -lost @ self.main + np.tanh(within).sum(axis=1, keepdims=True)
        if not slopes:
            return Answer(values)
        mean = self.main.mean(axis=1) - (1 - np.tanh(within) ** 2) @ self.factors.T
        return Answer(values, np.repeat(mean[:, None], _BLOCKS, axis=1))


def _timed(game: Game, questions: list[Question]) -> tuple[Stage, ...]:
    """The stages of these questions, each timed on the game."""
    size, stages = game.masks_per_batch, {}
    for question in questions:
        key = (question.stage, question.gradient)
        stages.setdefault(key, _Timing(game, size, question.gradient)).asked.append(question)
    spent = sum(stage.grow() for stage in stages.values())
    spent += sum(stage.grow() for stage in stages.values() if not stage.is_full)
    while growing := [stage for stage in stages.values() if not stage.is_full]:
        whole_search = sum(stage.seconds for stage in stages.values())
        stage = max(growing, key=lambda one: one.seconds)  # what matters most
        allowed = min(max(_LEAST, _SHARE * whole_search), _MOST)
        if spent + stage.next_seconds > allowed:
            break
        spent += stage.grow()
    return tuple(
        Stage(
            f"{name}, with gradients" if slopes else name,
            sum(question.cost for question in timing.asked),
            timing.n_masks if slopes else 0,
            tuple(map(len, timing.asked)),
            timing.seconds,
        )
        for (name, slopes), timing in stages.items()
    )


class _Timing:
    """One stage, and how long batches of its masks took."""

    def __init__(self, game: Game, most: int, slopes: bool) -> None:
        self._game, self._most, self._slopes = game, most, slopes
        self.asked: list[Question] = []
        self._took: list[tuple[int, float]] = []  # masks of a batch, and its seconds

    @property
    def n_masks(self) -> int:
        return sum(map(len, self.asked))

    @property
    def _largest(self) -> int:
        """Masks of the largest batch that the search asks."""
        return min(self._most, max(map(len, self.asked)))

    @property
    def is_full(self) -> bool:
        """Whether the largest batch was timed."""
        return bool(self._took) and self._took[-1][0] >= self._largest

    @property
    def _next(self) -> int:
        return min(self._largest, _GROWTH * self._took[-1][0] if self._took else _FIRST)

    @property
    def next_seconds(self) -> float:
        """What timing the next batch will take, at most."""
        return self._seconds_of(self._next)

    @property
    def seconds(self) -> float:
        """Of the whole stage."""
        sizes = [n for question in self.asked for n in _sizes(len(question), self._most)]
        return sum(map(self._seconds_of, sizes))

    def grow(self) -> float:
        """Time a larger batch; what it took."""
        question = max(self.asked, key=len)
        rows = _spread(len(question), self._next)
        masks = question.masks.rows(rows.tolist())
        if not self._took:  # the first pass of its kind makes and loads what later ones find
            evaluate_batch(self._game, masks, self._slopes)
        began = time.perf_counter()
        evaluate_batch(self._game, masks, self._slopes)
        took = time.perf_counter() - began
        self._took.append((len(rows), took))
        return took

    def _seconds_of(self, n_masks: int) -> float:
        """Of a batch: what the last two that were timed say, as a line."""
        n, took = self._took[-1]
        each = took / n
        if len(self._took) > 1 and n_masks > n:
            before, took_before = self._took[-2]
            of_line = (took - took_before) / max(1, n - before)
            each = min(each, max(_LEAST_OF_LINE * each, of_line))  # noise may bend it down
        return took + (n_masks - n) * each if n_masks > n else took * n_masks / n


def _spread(n_rows: int, n_masks: int) -> np.ndarray:
    """Some rows of many: runs of neighbours from all over, as neighbours share work."""
    if n_masks >= n_rows:
        return np.arange(n_rows)
    lengths = [len(part) for part in np.array_split(np.arange(n_masks), min(_RUNS, n_masks))]
    starts = np.linspace(0, n_rows - max(lengths), len(lengths)).astype(int)
    runs = [np.arange(a, a + n) for a, n in zip(starts, lengths, strict=True)]
    return np.unique(np.concatenate(runs))


def _sizes(masks: int, most: int) -> tuple[int, ...]:
    """The batches that a driver makes of so many masks."""
    return tuple(min(most, masks - at) for at in range(0, masks, most))


def _host_memory() -> float:
    """The most that this process has held, in GB (Linux); 0: not known."""
    if not sys.platform.startswith("linux"):
        return 0.0
    with open("/proc/self/status", encoding="ascii") as status:
        (line,) = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1e9


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
