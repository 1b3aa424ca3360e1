"""What a search has measured exactly, and what it may still spend.

A search is written as a generator: it yields a ``Question`` and is sent the ``Answer``. The
ledger's own generators ask only what is not known yet, never twice, and keep values per prompt.
"""

import heapq
from collections.abc import Generator, Iterable, Sequence
from itertools import chain, combinations
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float, Int

from spex_mech.masks import MaskBatch, Set
from spex_mech.search.contract import MASKS_PER_QUESTION, Findings, Question

_MOST_SLOTS = 6_000_000  # units ablated by the masks of one question: 48 MB


class Answer(NamedTuple):
    """What the driver was told by the game."""

    values: Float[np.ndarray, "mask prompt"]
    gradients: Float[np.ndarray, "mask block unit"] | None


T = TypeVar("T")
Asking = Generator[Question, Answer, T]


class Ledger:
    """Exact values ``f(N without S)`` by set, interactions by set, and the budget.

    Args:
        n: how many units.
        budget: evaluations that may be spent in all.
    """

    def __init__(self, n: int, budget: int) -> None:
        self.n, self.budget, self.spent = n, budget, 0
        self.value: dict[Set, Float[np.ndarray, " prompt"]] = {}
        self.interaction: dict[Set, float] = {}
        self._group_sums: dict[bytes, float] = {}

    @property
    def left(self) -> int:
        """Evaluations that may still be spent."""
        return self.budget - self.spent

    @property
    def intact(self) -> float:
        """The metric of the intact model, averaged over prompts."""
        return float(self.value[()].mean())

    def main_effect(self, unit: int) -> float:
        """Of a unit whose single ablation is known."""
        return float((self.value[(unit,)] - self.value[()]).mean())

    def main_effects_by_prompt(self) -> Float[np.ndarray, "unit prompt"]:
        """Of every unit, NaN where its single ablation is not known."""
        main = np.full((self.n, len(self.value[()])), np.nan)
        for s, value in self.value.items():
            if len(s) == 1:
                main[s[0]] = value - self.value[()]
        return main

    def main_effects(self) -> Float[np.ndarray, " unit"]:
        """The same, averaged over prompts."""
        return self.main_effects_by_prompt().mean(axis=1)

    def knows_single(self, unit: int) -> bool:
        return (unit,) in self.value

    def ask(self, question: Question) -> Asking[Answer]:
        """Put any question; its cost is booked."""
        self.spent += question.cost
        return (yield question)

    def values_of(self, sets: Iterable[Set], stage: str) -> Asking[None]:
        """Evaluate the sets that are not known yet."""
        new = list(dict.fromkeys(s for s in sets if s not in self.value))
        for start in range(0, len(new), MASKS_PER_QUESTION):
            part = new[start : start + MASKS_PER_QUESTION]
            answer = yield from self.ask(Question(MaskBatch.of_sets(part, self.n), stage=stage))
            self.value.update(zip(part, answer.values, strict=True))

    def measure(self, sets: Sequence[Set], stage: str, keep: int = 0) -> Asking[list[Set]]:
        """Measure interactions exactly, in order, as far as the budget less ``keep`` reaches.

        Returns:
            those of the sets that are measured now.
        """
        affordable: list[Set] = []
        needed: set[Set] = set()
        for s in sets:
            new = {p for p in subsets(s, 1) if p not in needed and p not in self.value}
            if len(needed) + len(new) > self.left - keep:
                continue  # a later one may need fewer singles
            needed |= new
            affordable.append(s)
        # Singles first, then neighbours that share a unit, which a worker gets together.
        yield from self.values_of(sorted(needed, key=lambda s: (len(s), s)), stage)
        for s in affordable:
            for part in subsets(s, 2):
                if part not in self.interaction:
                    self.interaction[part] = float(self.effect(part).mean())
        return affordable

    def record_known_pairs(self) -> None:
        """Count pairs as measured whose values were all asked for on the way."""
        for s in self.value:
            if len(s) == 2 and s not in self.interaction and all((u,) in self.value for u in s):
                self.interaction[s] = float(self.effect(s).mean())

    def effect(self, s: Set) -> Float[np.ndarray, " prompt"]:
        """The interaction of a set on each prompt: the alternating sum over its subsets."""
        total = np.zeros_like(self.value[()])
        for part in subsets(s):
            total += (-1) ** (len(s) - len(part)) * self.value[part]
        return total

    def sums(self, groups: Sequence[Int[np.ndarray, " _"]], stage: str) -> Asking[np.ndarray]:
        """``f(N without group)`` averaged over prompts, for groups of any size; cached."""
        ordered = [np.sort(group) for group in groups]
        keys = [group.astype(np.int32).tobytes() for group in ordered]
        new = dict(zip(keys, ordered, strict=True))
        items = [item for item in new.items() if item[0] not in self._group_sums]
        widest = max((len(group) for _, group in items), default=1)
        step = min(MASKS_PER_QUESTION, max(1, _MOST_SLOTS // max(1, widest)))
        for start in range(0, len(items), step):
            part = items[start : start + step]
            sets = [tuple(group.tolist()) for _, group in part]
            unknown = [s for s in sets if s not in self.value]
            if unknown:
                answer = yield from self.ask(
                    Question(MaskBatch.of_sets(unknown, self.n), stage=stage)
                )
                told = dict(zip(unknown, answer.values, strict=True))
                # Small sets are worth keeping per prompt: singles and pairs serve the validation.
                self.value.update({s: v for s, v in told.items() if len(s) <= 2})
            else:
                told = {}
            for (key, _), s in zip(part, sets, strict=True):
                value = told[s] if s in told else self.value[s]
                self._group_sums[key] = float(value.mean())
        return np.array([self._group_sums[key] for key in keys])

    def best(self, k: int) -> list[tuple[Set, float]]:
        """The strongest interactions so far."""
        return heapq.nlargest(k, self.interaction.items(), key=lambda item: abs(item[1]))

    def findings(self) -> Findings:
        """Every interaction that was measured, strongest first."""
        sets = [s for s, _ in self.best(len(self.interaction))]
        n_prompts = len(self.value[()])
        width = max([len(s) for s in sets], default=2)
        units = np.full((len(sets), width), -1, dtype=np.int32)
        values = np.zeros((len(sets), n_prompts))
        for row, s in enumerate(sets):
            units[row, : len(s)] = s
            values[row] = self.effect(s)
        return Findings(units, values, self.main_effects_by_prompt(), self.value[()])


def subsets(s: tuple[T, ...], least: int = 0) -> Iterable[tuple[T, ...]]:
    """The subsets of a set of at least so many units, itself included, small ones first."""
    return chain.from_iterable(combinations(s, size) for size in range(least, len(s) + 1))


def pair(a: int, b: int) -> Set:
    """Two units as a set."""
    return (a, b) if a < b else (b, a)
