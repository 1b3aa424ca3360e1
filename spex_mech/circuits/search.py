"""Which units to keep: a search over kept sets of every size, on masks that are really run.

An interaction is defined at the intact model, and a circuit is far from it: a few units kept, all
others ablated. So the surrogate (main effects + interactions) starts the search and real ablations
finish it:

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

Each step keeps the best set of every size that was ever run. With a share of the units removed a
round the two sweeps cost some 16 evaluations a unit; the polish spends what is left of the budget.
Greedy steps can miss sets in which three and more units only help together, unless they are among
the interactions. Source: sequential floating search (Pudil, Novovicova and Kittler 1994), here on
ablations.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

Aim = Literal["match", "recover"]
Kept = Bool[np.ndarray, " unit"]

_SHARE = 0.1  # of the units, removed or added in a round
_SIZES, _FEW_SIZES = 64, 4  # at which rankings are run, at most; and with a small budget
_FEWEST = 8  # candidates that a round measures
_MEASURED = 0.25  # of the units left, at least: candidates that a round measures
_SLACK = 0.005  # of the faithfulness: how much worse than predicted a batch may do
_SWAPPED = 6  # units out times units in, tried around a set
# From the best set of so many more units to the size that is polished.
_MOVES = ((1, "drop"), (-1, "add"), (0, "swap"), (2, "drop together"), (-2, "add together"))


@dataclass
class KeptSets:
    """Every kept set that was run, once, with its values; and the best of each size.

    Args:
        run: ``Bool[mask unit]`` (True = kept) -> values ``[mask prompt]``.
        n: the number of units.
        aim: "match": a set is as good as its mean value is close to the intact model's (plus one
            standard error of the difference, as a mean that fits by chance does not hold on other
            prompts); "recover": as its mean value is far from that of nothing kept.
        budget: sets that may be run.
    """

    run: Callable[[Bool[np.ndarray, "mask unit"]], Float[np.ndarray, "mask prompt"]]
    n: int
    aim: Aim
    budget: int
    evaluations: int = 0
    masks: list[Kept] = field(default_factory=list)
    values: list[Float[np.ndarray, " prompt"]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    faithfulness: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._number: dict[bytes, int] = {}
        self._best: dict[int, int] = {}
        whole = np.ones((1, self.n), dtype=bool)
        self.intact, self.empty = self.run(np.concatenate([whole, ~whole]))
        self.evaluations += 2
        self.span = float(self.intact.mean() - self.empty.mean())
        rounding = 1e-6 * max(abs(self.intact).max(), abs(self.empty).max())
        if abs(self.span) <= rounding:
            raise ValueError(
                f"the metric is {self.intact.mean():.4g} with all units kept and "
                f"{self.empty.mean():.4g} with none: ablating these units changes nothing, so "
                "there is no circuit to find among them"
            )
        self._enter(whole[0], self.intact)
        self._enter(~whole[0], self.empty)

    @property
    def left(self) -> int:
        """Sets that may still be run."""
        return max(0, self.budget - self.evaluations)

    def ask(self, masks: Bool[np.ndarray, "mask unit"]) -> Int[np.ndarray, " mask"]:
        """Run what is new among these sets (as far as the budget goes); their numbers, -1 for those
        that it did not pay for."""
        new, seen = [], set()
        for mask in masks:
            key = mask.tobytes()
            if key not in self._number and key not in seen and len(new) < self.left:
                new.append(mask)
                seen.add(key)
        if new:
            for mask, value in zip(new, self.run(np.array(new)), strict=True):
                self._enter(mask, value)
            self.evaluations += len(new)
        return np.array([self._number.get(mask.tobytes(), -1) for mask in masks], dtype=np.int64)

    def best_number(self, size: int) -> int | None:
        """The best set of this size; None where no set of this size was run."""
        return self._best.get(size)

    def smallest(self, faithfulness: float) -> int:
        """The smallest size whose best set is so faithful (to match: and not as much too good)."""
        return next(size for size in range(self.n + 1) if self._fits(size, faithfulness))

    def _fits(self, size: int, wanted: float) -> bool:
        number = self._best.get(size)
        if number is None:
            return False
        off = 1 - self.faithfulness[number]
        return off <= 1 - wanted + 1e-9 if self.aim == "recover" else abs(off) <= 1 - wanted + 1e-9

    def faithfulness_of(
        self, weights: Float[np.ndarray, "prompt boot"]
    ) -> Float[np.ndarray, "set boot"]:
        """Of each set, on prompts that are weighted."""
        values = np.array(self.values) @ weights
        intact, empty = self.intact @ weights, self.empty @ weights
        return (values - empty) / (intact - empty)

    def _enter(self, mask: Kept, value: Float[np.ndarray, " prompt"]) -> None:
        number = len(self.masks)
        self._number[mask.tobytes()] = number
        self.masks.append(mask.copy())
        self.values.append(value)
        self.faithfulness.append(float((value.mean() - self.empty.mean()) / self.span))
        self.losses.append(self._loss(value))
        size = int(mask.sum())
        if size not in self._best or self.losses[number] < self.losses[self._best[size]]:
            self._best[size] = number

    def _loss(self, value: Float[np.ndarray, " prompt"]) -> float:
        if self.aim == "recover":
            return -self.faithfulness[-1]
        off = (value - self.intact) / self.span
        error = off.std(ddof=1) / np.sqrt(len(off)) if len(off) > 1 else 0.0
        return float(abs(off.mean()) + error)


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
        given, at = Given.nothing_gone(self), 1.0
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
class Given:
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
    def nothing_gone(surrogate: Surrogate) -> "Given":
        terms_of: list[list[int]] = [[] for _ in surrogate.effects]
        for term, units in enumerate(surrogate.units.tolist()):
            for unit in units:
                if unit >= 0:
                    terms_of[unit].append(term)
        left = (surrogate.units >= 0).sum(axis=1)
        return Given(surrogate, terms_of, surrogate.effects.copy(), left, set())

    def copy(self) -> "Given":
        """One in which more can be removed to see what follows."""
        return Given(
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


def search_kept_sets(
    sets: KeptSets,
    surrogate: Surrogate,
    rankings: Iterable[Int[np.ndarray, " unit"]],
    focus: Callable[[KeptSets], Sequence[int]],
) -> None:
    """Fill ``sets``: rankings, down, up, then polish the sizes that ``focus`` names, best first."""
    n = sets.n
    orders = [surrogate.order(sets.aim), np.argsort(surrogate.effects, kind="stable")]
    orders += [np.argsort(-abs(surrogate.effects), kind="stable"), *rankings]
    affordable = sets.left // (4 * len(orders))  # a quarter of the budget
    sizes = _sizes(n, min(_SIZES, max(affordable, _FEW_SIZES)))
    sizes = sorted({*sizes, *(size for size in focus(sets) if 0 < size < n)})
    for order in orders:
        sets.ask(prefixes(order, sizes))
    sweep_down(sets, surrogate)
    sweep_up(sets, surrogate)
    polish(sets, surrogate, focus)


def prefixes(
    order: Int[np.ndarray, " unit"], sizes: Sequence[int]
) -> Bool[np.ndarray, "size unit"]:
    """The first so many units of an order, as kept sets."""
    masks = np.zeros((len(sizes), len(order)), dtype=bool)
    for row, size in enumerate(sizes):
        masks[row, order[:size]] = True
    return masks


def sweep_down(sets: KeptSets, surrogate: Surrogate) -> None:
    """From all units to none: see the module."""
    kept, at = np.ones(sets.n, dtype=bool), 1.0
    given = Given.nothing_gone(surrogate)
    while kept.any() and sets.left:
        units = np.flatnonzero(kept)
        batch = max(1, round(_SHARE * len(units)))
        predicted = loss_at(at + given.effects[units], sets.aim)
        order = units[np.argsort(predicted, kind="stable")]
        tried = order[: max(_FEWEST, 2 * batch, round(_MEASURED * len(units)))]
        asked = sets.ask(flipped(kept, tried[:, None]))
        measured = tried[asked >= 0]
        if not len(measured):
            break
        given.effects[measured] = _at(sets, asked[asked >= 0]) - at
        chosen, predicted = _jointly(at, given, measured, batch, sets.aim)
        kept, at, gone = _as_far_as_good(sets, kept, chosen, predicted, at)
        for unit in gone.tolist():
            given.remove(unit)


def sweep_up(sets: KeptSets, surrogate: Surrogate) -> None:
    """From no unit to half of them, by what adding a unit or a strong pair was measured to do."""
    kept, at = np.zeros(sets.n, dtype=bool), 0.0
    gains = np.full(sets.n, np.inf)  # so that each is measured once
    while kept.sum() < sets.n / 2 and sets.left:
        units = np.flatnonzero(~kept)
        batch = max(1, round(_SHARE * kept.sum()))
        order = units[np.argsort(loss_at(at + gains[units], sets.aim), kind="stable")]
        unknown = int(np.isinf(gains[units]).sum())
        tried = order[: max(_FEWEST, 2 * batch, round(_MEASURED * kept.sum()))]
        if unknown:
            tried = units
        asked = sets.ask(flipped(kept, tried[:, None]))
        measured = tried[asked >= 0]
        if not len(measured):
            break
        gains[measured] = _at(sets, asked[asked >= 0]) - at
        together = _strongest(surrogate, ~kept, max(_FEWEST, len(measured) // 2))
        sets.ask(flipped(kept, together))
        losses = loss_at(at + gains[measured], sets.aim)
        chosen = measured[np.argsort(losses, kind="stable")[:batch]]
        predicted = at + np.cumsum(gains[chosen])
        kept, _, _ = _as_far_as_good(sets, kept, chosen, predicted, at)
        best = sets.best_number(int(kept.sum()))
        if best is None:
            break
        kept, at = sets.masks[best].copy(), sets.faithfulness[best]


def polish(
    sets: KeptSets, surrogate: Surrogate, focus: Callable[[KeptSets], Sequence[int]]
) -> None:
    """Better sets around the best ones, until nothing is left to try or to spend."""
    done: set[tuple[int, str]] = set()
    while sets.left:
        before = sets.evaluations
        for size in focus(sets):
            for more, moves in _MOVES:
                number = sets.best_number(size + more)
                if number is None or (number, moves) in done or not sets.left:
                    continue
                done.add((number, moves))
                sets.ask(_neighbours(sets, surrogate, number, moves))
        if sets.evaluations == before:
            return


def flipped(kept: Kept, moves: Int[np.ndarray, "mask flip"]) -> Bool[np.ndarray, "mask unit"]:
    """The set with each move's units turned: kept ones ablated, ablated ones kept (-1: none)."""
    turn = np.zeros((len(moves), len(kept) + 1), dtype=bool)
    turn[np.arange(len(moves))[:, None], moves] = True  # -1 hits the spare column
    return turn[:, :-1] ^ kept


def _neighbours(
    sets: KeptSets, surrogate: Surrogate, number: int, moves: str
) -> Bool[np.ndarray, "mask unit"]:
    kept = sets.masks[number]
    inside, outside = np.flatnonzero(kept), np.flatnonzero(~kept)
    if moves == "drop":
        return flipped(kept, inside[:, None])
    if moves == "add":
        return flipped(kept, outside[:, None])
    if moves != "swap":
        return flipped(kept, _strongest(surrogate, kept ^ (moves == "add together"), _FEWEST))

    def few(units: Int[np.ndarray, " tried"]) -> Int[np.ndarray, " few"]:
        asked = sets.ask(flipped(kept, units[:, None]))
        units = units[asked >= 0]
        losses = loss_at(_at(sets, asked[asked >= 0]), sets.aim)
        return units[np.argsort(losses, kind="stable")[:_SWAPPED]]

    out, into = few(inside), few(outside)
    swaps = np.array([(i, j) for i in out for j in into], dtype=np.int64).reshape(-1, 2)
    return flipped(kept, swaps)


def _jointly(
    at: float,
    given: Given,
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
    sets: KeptSets,
    kept: Kept,
    chosen: Int[np.ndarray, " chosen"],
    predicted: Float[np.ndarray, " chosen"],
    at: float,
) -> tuple[Kept, float, Int[np.ndarray, " gone"]]:
    """Turn the chosen units one after the other; stop where it does worse than predicted."""
    steps = np.repeat(kept[None], len(chosen), axis=0)
    for row in range(len(chosen)):
        steps[row:, chosen[row]] = ~kept[chosen[row]]
    asked = sets.ask(steps)
    asked = asked[asked >= 0]
    if not len(asked):
        return kept, at, chosen[:0]
    real = loss_at(_at(sets, asked), sets.aim)
    wanted = loss_at(predicted[: len(asked)], sets.aim)
    bad = np.flatnonzero(real > wanted + _SLACK)
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


def _at(sets: KeptSets, numbers: Int[np.ndarray, " set"]) -> Float[np.ndarray, " set"]:
    return np.array([sets.faithfulness[i] for i in numbers])


def _sizes(n: int, most: int) -> list[int]:
    """All sizes between none and all, or so many that are spread, denser where sets are small."""
    if n <= most:
        return list(range(1, n))
    return np.unique(np.round(np.geomspace(1, n - 1, most)).astype(int)).tolist()
