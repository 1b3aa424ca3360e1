"""Which units to keep: a search over kept sets of every size, on masks that are really run.

An interaction is defined at the intact model, and a circuit is far from it: a few units kept, all
others ablated. So the surrogate (main effects + interactions) starts the search and real ablations
finish it:

Where every set there is fits into the budget, all are run, and the best is the best. Otherwise:

1. **Rankings.** At every size (with a small budget at those asked for and a few more) the best by
   main effect, by size of main effect, by the surrogate, and by any ranking that is handed in
   (gradient attribution) are run. The result is never worse than one of these on the prompts that
   it was selected on.
2. **Down.** From the intact model, the units whose removal is predicted to hurt least are ablated
   for real, each given what is gone already (the conditional ablation of backups); a batch of them
   is removed, chosen jointly by measured effects plus the interactions within the batch, so that of
   two backups one stays. Every prefix of the batch is run; where it does worse than predicted the
   batch ends. What a round measures replaces the surrogate's effects, and the interactions with
   what was removed correct those that were not measured.
3. **Up.** The same from nothing, adding units and pairs that interact strongly (of two in series
   neither does anything alone).
4. **Polish.** Around the sizes asked for: drop one, add one, swap, drop or add what interacts.
5. **Wander.** What is left of the budget goes to random changes of the best sets near the sizes
   asked for, most of them one unit smaller.

Each step keeps the best set of every size that was ever run. With a share of the units removed per
round the two sweeps cost some 16 evaluations per unit. Greedy steps can miss sets in which three
and more units only help together, unless they are among the interactions. Source: sequential
floating search (Pudil, Novovicova and Kittler 1994), here on ablations.

Nothing here evaluates anything: every function is a coroutine (``circuits.steps``) that yields
masks and is sent their values.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.circuits.span import Span, checked_span
from spex_mech.circuits.steps import Masks, Steps, Values

Aim = Literal["match", "recover"]
Kept = Bool[np.ndarray, " unit"]

_SHARE = 0.1  # of the units, removed or added in a round
_SIZES, _FEW_SIZES = 64, 4  # at which rankings are run, at most; and with a small budget
_FEWEST = 8  # candidates that a round measures
_MEASURED = 0.25  # of the units left, at least: candidates that a round measures
_SWAPPED = 6  # units out times units in, tried around a set
# From the best set of so many more units to the size that is polished.
_MOVES = ((1, "drop"), (-1, "add"), (0, "swap"), (2, "drop together"), (-2, "add together"))
_ROUNDING = 1e-9  # of the faithfulness: by so much a set may miss what is wanted
_WANDERED, _FRUITLESS = 64, 4  # masks at a time; how often without a new one


@dataclass(frozen=True)
class Goal:
    """Which of all sets is the circuit: one rule, for the selection and for redrawn prompts.

    Args:
        aim: "match": a set is as good as its mean value is close to the intact model's (plus one
            standard error of the difference, as a mean that fits by chance does not hold on other
            prompts); "recover": as its mean value is far from that of nothing kept.
        faithfulness: the smallest set of at least one unit that keeps this share (to match: and
            does not exceed 1 by more than it may fall short); among those the best.
        size: instead: the best set of so many units.
    """

    aim: Aim
    faithfulness: float = 0.9
    size: int | None = None

    def loss(
        self, faithfulness: Float[np.ndarray, "*any"], stderr: Float[np.ndarray, "*any"]
    ) -> Float[np.ndarray, "*any"]:
        """How bad sets of this faithfulness are; ``stderr`` is that of their difference from the
        intact model, as a share of the span."""
        return loss_at(faithfulness, self.aim) + (stderr if self.aim == "match" else 0.0)

    def reached(self, faithfulness: Float[np.ndarray, "*any"]) -> Bool[np.ndarray, "*any"]:
        """Whether sets of this faithfulness do."""
        rounding = min(_ROUNDING, self.faithfulness / 2)
        short = np.asarray(1 - faithfulness)
        off = abs(short) if self.aim == "match" else short
        return off <= 1 - self.faithfulness + rounding

    def choose(
        self,
        faithfulness: Float[np.ndarray, " set"],
        losses: Float[np.ndarray, " set"],
        sizes: Int[np.ndarray, " set"],
    ) -> int | None:
        """The row of the circuit; None where no set does."""
        if self.size is not None:
            fits = sizes == self.size
        else:
            fits = self.reached(faithfulness) & (sizes > 0)
            fits &= sizes == sizes[fits].min(initial=np.iinfo(np.int64).max)
        rows = np.flatnonzero(fits)
        if not len(rows):
            return None
        best = np.minimum.accumulate(losses[rows])
        better = np.flatnonzero(losses[rows] < np.append(np.inf, best[:-1]) - _ROUNDING)
        return int(rows[better[-1]])


class EvaluatedCircuits:
    """Every kept set that was run, once, with its values; and the best of each size. Made by
    :meth:`started`.

    Args:
        goal: what is searched.
        budget: sets that may be run.
        intact, empty: the values with all units kept and with none.
        where: what errors call the prompts.
    """

    def __init__(
        self,
        goal: Goal,
        budget: int,
        intact: Float[np.ndarray, " prompt"],
        empty: Float[np.ndarray, " prompt"],
        n: int,
        where: str = "these prompts",
    ) -> None:
        self.goal, self.budget, self.n = goal, budget, n
        self.intact, self.empty = intact, empty
        self.span: Span = checked_span(intact, empty, where)
        self.masks: list[Kept] = []
        self.values: list[Float[np.ndarray, " prompt"]] = []
        self.losses: list[float] = []
        self.faithfulness: list[float] = []
        self.spent = 0  # of the budget
        self._number: dict[bytes, int] = {}
        self._best: dict[int, int] = {}
        self._best_fit: dict[int, int] = {}
        ends = np.array([[True], [False]]).repeat(n, axis=1)
        self._enter(ends, np.stack([intact, empty]))
        self.spent = 2

    @staticmethod
    def started(goal: Goal, budget: int, n: int) -> "Steps[EvaluatedCircuits]":
        """All units and none, which every share refers to.

        Raises:
            ValueError: the two do the same, or cannot be told apart.
        """
        whole = np.ones((1, n), dtype=bool)
        intact, empty = yield np.concatenate([whole, ~whole])
        return EvaluatedCircuits(goal, budget, intact, empty, n)

    @property
    def left(self) -> int:
        """Sets that may still be run."""
        return max(0, self.budget - self.spent)

    @property
    def beside_budget(self) -> int:
        """Sets that were run beside the budget, for scores and groups."""
        return len(self.masks) - self.spent

    def ask(self, masks: Masks) -> Steps[Int[np.ndarray, " mask"]]:
        """Run what is new among these sets (as far as the budget goes); their numbers, -1 for those
        that it did not pay for."""
        before = len(self.masks)
        yield from self._run(masks, self.left)
        self.spent += len(self.masks) - before
        return np.array([self._number.get(mask.tobytes(), -1) for mask in masks], dtype=np.int64)

    def values_of(self, masks: Masks) -> Steps[Values]:
        """The values of these sets; what is new is run, beside the budget."""
        yield from self._run(masks, len(masks))
        return np.array([self.values[self._number[mask.tobytes()]] for mask in masks])

    def known_values(self, masks: Masks) -> Values:
        """The values of sets that were run.

        Raises:
            KeyError: one of them was not.
        """
        return np.array([self.values[self._number[mask.tobytes()]] for mask in masks])

    def best_number(self, size: int) -> int | None:
        """The best set of this size; None where no set of this size was run."""
        return self._best.get(size)

    def best_of_each(self) -> dict[int, int]:
        """The number of the best set of each size that was run."""
        return dict(self._best)

    def chosen(self) -> int | None:
        """The set that the goal asks for, by :meth:`Goal.choose`; None where none was run yet."""
        if self.goal.size is not None:
            return self._best.get(self.goal.size)
        return self._best_fit[min(self._best_fit)]

    def _run(self, masks: Masks, most: int) -> Steps[None]:
        new: dict[bytes, Kept] = {}
        for mask in masks:
            key = mask.tobytes()
            if key not in self._number and key not in new and len(new) < most:
                new[key] = mask
        if new:
            values = yield np.array(list(new.values()))
            self._enter(np.array(list(new.values())), values)

    def _enter(self, masks: Masks, values: Values) -> None:
        faithfulness = (values.mean(axis=1) - self.empty.mean()) / self.span.value
        off = (values - self.intact) / self.span.value
        n_prompts = values.shape[1]
        errors = off.std(axis=1, ddof=1) / np.sqrt(n_prompts) if n_prompts > 1 else 0 * off[:, 0]
        losses, fits = self.goal.loss(faithfulness, errors), self.goal.reached(faithfulness)
        rows = zip(masks, values, faithfulness.tolist(), losses.tolist(), fits, strict=True)
        for mask, value, share, loss, fit in rows:
            number, size = len(self.masks), int(mask.sum())
            self._number[mask.tobytes()] = number
            self.masks.append(mask.copy())
            self.values.append(value)
            self.faithfulness.append(share)
            self.losses.append(loss)
            for table in (self._best, self._best_fit) if fit and size else (self._best,):
                if size not in table or loss < self.losses[table[size]] - _ROUNDING:
                    table[size] = number


@dataclass(frozen=True, eq=False)
class Surrogate:
    """What was measured near the intact model, as changes of the faithfulness: ablating a set costs
    the main effects of its units and the interactions that it holds whole.

    Args:
        effects: of ablating each unit alone.
        units: each interaction's units, padded with -1 on the right.
        values: each interaction.
    """

    effects: Float[np.ndarray, " unit"]
    units: Int[np.ndarray, "interaction order"]
    values: Float[np.ndarray, " interaction"]

    def order(self, aim: Aim) -> Int[np.ndarray, " unit"]:
        """All units, the last to be removed first: greedily by main effects and interactions."""
        given, at = ConditionalEffects.nothing_gone(self), 1.0
        left, removed = np.ones(len(self.effects), dtype=bool), []
        while left.any():
            units = np.flatnonzero(left)
            unit = int(units[np.argmin(loss_at(at + given.effects[units], aim))])
            at += given.effects[unit]
            left[unit] = False
            removed.append(unit)
            given.remove(unit)
        return np.array(removed[::-1])


@dataclass
class ConditionalEffects:
    """Each unit's effect, given what is ablated already.

    Args:
        effects: by now: measured or predicted.
        left: how many units of each interaction are still kept.
    """

    surrogate: Surrogate
    terms_of: list[list[int]]
    effects: Float[np.ndarray, " unit"]
    left: Int[np.ndarray, " interaction"]
    gone: set[int]

    @staticmethod
    def nothing_gone(surrogate: Surrogate) -> "ConditionalEffects":
        terms_of: list[list[int]] = [[] for _ in surrogate.effects]
        for term, units in enumerate(surrogate.units.tolist()):
            for unit in units:
                if unit >= 0:
                    terms_of[unit].append(term)
        left = (surrogate.units >= 0).sum(axis=1)
        return ConditionalEffects(surrogate, terms_of, surrogate.effects.copy(), left, set())

    def copy(self) -> "ConditionalEffects":
        """One in which more can be removed to see what follows."""
        return ConditionalEffects(
            self.surrogate, self.terms_of, self.effects.copy(), self.left.copy(), set(self.gone)
        )

    def remove(self, unit: int) -> None:
        """Ablate one more: where all of an interaction but one unit is gone, that one counts it."""
        self.gone.add(unit)
        for term in self.terms_of[unit]:
            self.left[term] -= 1
            if self.left[term] == 1:
                units = self.surrogate.units[term].tolist()
                last = next(u for u in units if u >= 0 and u not in self.gone)
                self.effects[last] += self.surrogate.values[term]


def search_circuits(
    sets: EvaluatedCircuits,
    surrogate: Surrogate,
    rankings: Iterable[Int[np.ndarray, " unit"]],
    focus: Callable[[EvaluatedCircuits], Sequence[int]],
    seed: int = 0,
) -> Steps[None]:
    """Fill ``sets``: all there are, where the budget allows; else rankings, down, up, then polish
    the sizes that ``focus`` names, best first, and spend what is left around them."""
    n = sets.n
    orders = [surrogate.order(sets.goal.aim), np.argsort(surrogate.effects, kind="stable")]
    orders += [np.argsort(-abs(surrogate.effects), kind="stable"), *rankings]
    affordable = sets.left // (4 * len(orders))  # a quarter of the budget
    sizes = _sizes(n, min(_SIZES, max(affordable, _FEW_SIZES)))
    sizes = sorted({*sizes, *(size for size in focus(sets) if 0 < size < n)})
    for order in orders:
        yield from sets.ask(prefixes(order, sizes))
    if n < 63 and 2**n <= sets.budget:  # after those above, which win where several are as good
        yield from sets.ask(every_subset(np.arange(n), n))
        return
    yield from sweep_down(sets, surrogate)
    yield from sweep_up(sets, surrogate)
    rng = np.random.default_rng(seed)
    yield from polish(sets, surrogate, focus)
    while sets.left:
        best, left = sets.best_of_each(), sets.left
        yield from wander(sets, surrogate, focus, rng)
        if sets.left == left:
            return
        if sets.best_of_each() != best:
            yield from polish(sets, surrogate, focus)


def every_subset(units: Int[np.ndarray, " chosen"], n: int) -> Bool[np.ndarray, "subset unit"]:
    """All sets of these units, small ones first."""
    bits = (np.arange(2 ** len(units))[:, None] >> np.arange(len(units))) & 1 == 1
    masks = np.zeros((len(bits), n), dtype=bool)
    masks[:, units] = bits
    return masks[np.argsort(masks.sum(axis=1), kind="stable")]


def prefixes(
    order: Int[np.ndarray, " unit"], sizes: Sequence[int]
) -> Bool[np.ndarray, "size unit"]:
    """The first so many units of an order, as kept sets."""
    masks = np.zeros((len(sizes), len(order)), dtype=bool)
    for row, size in enumerate(sizes):
        masks[row, order[:size]] = True
    return masks


def sweep_down(sets: EvaluatedCircuits, surrogate: Surrogate) -> Steps[None]:
    """From all units to none: see the module."""
    kept, at = np.ones(sets.n, dtype=bool), 1.0
    given = ConditionalEffects.nothing_gone(surrogate)
    while kept.any() and sets.left:
        units = np.flatnonzero(kept)
        batch = max(1, round(_SHARE * len(units)))
        predicted = loss_at(at + given.effects[units], sets.goal.aim)
        order = units[np.argsort(predicted, kind="stable")]
        tried = order[: max(_FEWEST, 2 * batch, round(_MEASURED * len(units)))]
        asked = yield from sets.ask(flipped(kept, tried[:, None]))
        measured = tried[asked >= 0]
        if not len(measured):
            break
        given.effects[measured] = _at(sets, asked[asked >= 0]) - at
        chosen, predicted = _jointly(at, given, measured, batch, sets.goal.aim)
        kept, at, gone = yield from _as_far_as_good(sets, kept, chosen, predicted, at)
        for unit in gone.tolist():
            given.remove(unit)


def sweep_up(sets: EvaluatedCircuits, surrogate: Surrogate) -> Steps[None]:
    """From no unit to half of them, by what adding a unit or a strong pair was measured to do."""
    kept, at = np.zeros(sets.n, dtype=bool), 0.0
    gains = np.full(sets.n, np.inf)  # so that each is measured once
    while kept.sum() < sets.n / 2 and sets.left:
        units = np.flatnonzero(~kept)
        batch = max(1, round(_SHARE * kept.sum()))
        order = units[np.argsort(loss_at(at + gains[units], sets.goal.aim), kind="stable")]
        unknown = int(np.isinf(gains[units]).sum())
        tried = order[: max(_FEWEST, 2 * batch, round(_MEASURED * kept.sum()))]
        if unknown:
            tried = units
        asked = yield from sets.ask(flipped(kept, tried[:, None]))
        measured = tried[asked >= 0]
        if not len(measured):
            break
        gains[measured] = _at(sets, asked[asked >= 0]) - at
        together = _strongest(surrogate, ~kept, max(_FEWEST, len(measured) // 2))
        yield from sets.ask(flipped(kept, together))
        losses = loss_at(at + gains[measured], sets.goal.aim)
        chosen = measured[np.argsort(losses, kind="stable")[:batch]]
        predicted = at + np.cumsum(gains[chosen])
        kept, _, _ = yield from _as_far_as_good(sets, kept, chosen, predicted, at)
        best = sets.best_number(int(kept.sum()))
        if best is None:
            break
        kept, at = sets.masks[best].copy(), sets.faithfulness[best]


def polish(
    sets: EvaluatedCircuits,
    surrogate: Surrogate,
    focus: Callable[[EvaluatedCircuits], Sequence[int]],
) -> Steps[None]:
    """Better sets around the best ones, until nothing is left to try or to spend."""
    done: set[tuple[int, str]] = set()
    while sets.left:
        before = sets.spent
        for size in focus(sets):
            for more, moves in _MOVES:
                number = sets.best_number(size + more)
                if number is None or (number, moves) in done or not sets.left:
                    continue
                done.add((number, moves))
                masks = yield from _neighbours(sets, surrogate, number, moves)
                yield from sets.ask(masks)
        if sets.spent == before:
            return


def wander(
    sets: EvaluatedCircuits,
    surrogate: Surrogate,
    focus: Callable[[EvaluatedCircuits], Sequence[int]],
    rng: np.random.Generator,
) -> Steps[None]:
    """Random changes of good sets of about the sizes that ``focus`` names, until one is better than
    all before, a quarter of the budget is spent, or nothing new comes up."""
    weight = 0.05 + abs(surrogate.effects)
    for units, value in zip(surrogate.units, surrogate.values, strict=True):
        weight[units[units >= 0]] += abs(value)
    stop = max(0, sets.left - max(_WANDERED, sets.budget // 4))
    best, fruitless = sets.best_of_each(), 0
    while sets.left > stop and fruitless < _FRUITLESS and sets.best_of_each() == best:
        sizes = [size for size in focus(sets) if 0 < size < sets.n]
        if not sizes:
            return
        before = sets.spent
        masks = [_changed(sets, weight, int(rng.choice(sizes)), rng) for _ in range(_WANDERED)]
        yield from sets.ask(np.array(masks))
        fruitless = 0 if sets.spent > before else fruitless + 1


def _changed(
    sets: EvaluatedCircuits, weight: Float[np.ndarray, " unit"], size: int, rng: np.random.Generator
) -> Kept:
    """A good set of about this size with one to three units exchanged, brought to this size."""
    near = [sets.best_number(size + more) for more in (-2, -1, 0, 1, 2)]
    bases = [sets.masks[number] for number in near if number is not None]
    kept = bases[int(rng.integers(len(bases)))].copy() if bases else rng.random(sets.n) < 0.5
    units = np.flatnonzero(kept)
    kept[rng.permutation(units)[: int(rng.integers(1, 4)) + max(0, len(units) - size)]] = False
    left_out = np.flatnonzero(~kept)
    missing = min(size - int(kept.sum()), len(left_out))
    if missing > 0:
        chance = weight[left_out] / weight[left_out].sum()
        kept[rng.choice(left_out, missing, replace=False, p=chance)] = True
    return kept


def flipped(kept: Kept, moves: Int[np.ndarray, "mask flip"]) -> Bool[np.ndarray, "mask unit"]:
    """The set with each move's units turned: kept ones ablated, ablated ones kept (-1: none)."""
    turn = np.zeros((len(moves), len(kept) + 1), dtype=bool)
    turn[np.arange(len(moves))[:, None], moves] = True  # -1 hits the spare column
    return turn[:, :-1] ^ kept


def _neighbours(
    sets: EvaluatedCircuits, surrogate: Surrogate, number: int, moves: str
) -> Steps[Masks]:
    kept = sets.masks[number]
    inside, outside = np.flatnonzero(kept), np.flatnonzero(~kept)
    if moves == "drop":
        return flipped(kept, inside[:, None])
    if moves == "add":
        return flipped(kept, outside[:, None])
    if moves != "swap":
        return flipped(kept, _strongest(surrogate, kept ^ (moves == "add together"), _FEWEST))

    def few(units: Int[np.ndarray, " tried"]) -> Steps[Int[np.ndarray, " few"]]:
        asked = yield from sets.ask(flipped(kept, units[:, None]))
        units = units[asked >= 0]
        losses = loss_at(_at(sets, asked[asked >= 0]), sets.goal.aim)
        return units[np.argsort(losses, kind="stable")[:_SWAPPED]]

    out = yield from few(inside)
    into = yield from few(outside)
    swaps = np.array([(i, j) for i in out for j in into], dtype=np.int64).reshape(-1, 2)
    return flipped(kept, swaps)


def _jointly(
    at: float,
    given: ConditionalEffects,
    units: Int[np.ndarray, " candidate"],
    most: int,
    aim: Aim,
) -> tuple[Int[np.ndarray, " chosen"], Float[np.ndarray, " chosen"]]:
    """The next units to remove, each chosen given those before it; and where that should lead."""
    given = given.copy()
    left, chosen, predicted = units.tolist(), [], []
    while left and len(chosen) < most:
        unit = left.pop(int(np.argmin(loss_at(at + given.effects[left], aim))))
        at += float(given.effects[unit])
        chosen.append(unit)
        predicted.append(at)
        given.remove(unit)
    return np.array(chosen), np.array(predicted)


def _as_far_as_good(
    sets: EvaluatedCircuits,
    kept: Kept,
    chosen: Int[np.ndarray, " chosen"],
    predicted: Float[np.ndarray, " chosen"],
    at: float,
) -> Steps[tuple[Kept, float, Int[np.ndarray, " gone"]]]:
    """Turn the chosen units one after the other; stop where it does worse than predicted."""
    steps = np.repeat(kept[None], len(chosen), axis=0)
    for row in range(len(chosen)):
        steps[row:, chosen[row]] = ~kept[chosen[row]]
    asked = yield from sets.ask(steps)
    asked = asked[asked >= 0]
    if not len(asked):
        return kept, at, chosen[:0]
    real = loss_at(_at(sets, asked), sets.goal.aim)
    wanted = loss_at(predicted[: len(asked)], sets.goal.aim)
    bad = np.flatnonzero(real > wanted + _ROUNDING)
    last = max(0, (int(bad[0]) if len(bad) else len(asked)) - 1)
    return steps[last].copy(), sets.faithfulness[asked[last]], chosen[: last + 1]


def _strongest(
    surrogate: Surrogate, among: Kept, most: int
) -> Int[np.ndarray, "interaction order"]:
    """The strongest interactions whose units are all among these."""
    inside = np.append(among, True)[surrogate.units].all(axis=1)
    units, sizes = surrogate.units[inside], abs(surrogate.values[inside])
    return units[np.argsort(-sizes, kind="stable")[:most]]


def loss_at(faithfulness: Float[np.ndarray, "*any"], aim: Aim) -> Float[np.ndarray, "*any"]:
    return abs(1 - faithfulness) if aim == "match" else -faithfulness


def _at(sets: EvaluatedCircuits, numbers: Int[np.ndarray, " set"]) -> Float[np.ndarray, " set"]:
    return np.array([sets.faithfulness[i] for i in numbers])


def _sizes(n: int, most: int) -> list[int]:
    """All sizes between none and all, or so many that are spread, denser where sets are small."""
    if n <= most:
        return list(range(1, n))
    return np.unique(np.round(np.geomspace(1, n - 1, most)).astype(int)).tolist()
