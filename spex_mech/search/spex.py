"""SPEX: adaptive exploration of pairs, exact and close to linear in the number of units.

1. *Single ablations.* Without gradients, of the units that a pair needs, or all n (step 2). With
   gradients, an attribution over a few gate values (integrated gradients, Sundararajan et al. 2017)
   stands in for those that no row and no pair asks for.
2. *Candidates.* With gradients: rows ``s_ij = g_j(N) - g_j(N without i)`` for the units that matter
   first (``screening``). Without: group tests with halving (``group_tests``), or, where a probe
   shows that units are very uneven, pairs by the product of their units' learned strengths.
3. *Validation*, *higher orders*, *audit*: exact, in rounds (``adaptive``).

With N all units kept, ``I_ij = f(N without i, j) - f(N without i) - f(N without j) + f(N)``; every
reported value is measured. Cost: the budget, by default 4 evaluations a unit and 100 (a gradient
counts 3). It fails where both units of a pair are saturated, so that no slope moves, and neither
has strong partners; the audit is there to notice. The name is that of Kang et al. 2025, whose
spectral algorithm estimates another quantity (Fourier coefficients with half the units gone).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Int

from spex_mech.search.adaptive import Screen
from spex_mech.search.group_tests import Candidates, probe_groups, split, tree
from spex_mech.search.ledger import Asking, Ledger, pair
from spex_mech.search.question import GRADIENT_COST, Question
from spex_mech.search.screening import Recalibration, Rows, Strengths, size

LEVELS = (0.75, 0.5, 0.25, 0.0)  # gates of the attribution
_FIRST_ROWS = 32
_ROWS_AT_A_TIME = 16
_SHARE_ROWS = 0.4
_MOST_ROW_ENTRIES = 100_000_000  # 0.8 GB of rows
_UNEVEN = 5.0  # energy of pairs of strong units over that of random pairs


@dataclass
class Spex:
    """Candidates from gradient rows, or, without gradients, from group tests.

    Args:
        gradients: whether the game gives gradients (``game.gradient``).
        gates: whether its gradient takes gates between 0 and 1, not only masks.
        groups: the group of each unit (layers); predictions are corrected by pair of groups.
        max_fraction: without gradients, the largest share of units a group test may ablate.
    """

    gradients: bool = False
    gates: bool = False
    groups: Sequence[int] | None = None
    max_fraction: float = 0.15
    notes: dict[str, Any] = field(default_factory=dict)
    name: str = "spex"

    def minimum_budget(self, n: int) -> int:
        return GRADIENT_COST * (1 + len(LEVELS)) + 60 if self.gradients else min(n, 500) + 200

    def default_budget(self, n: int) -> int:
        return 4 * n + 100

    def candidates(
        self, ledger: Ledger, rng: np.random.Generator, keep: int, top: int
    ) -> Asking[Screen]:
        groups = None if self.groups is None else np.array(self.groups, dtype=np.int64)
        if self.gradients:
            room = int(_SHARE_ROWS * (ledger.left - keep - GRADIENT_COST * (1 + len(LEVELS))))
            levels = LEVELS if self.gates else ()
            rows = yield from gradient_rows(ledger, room, levels, groups)
            self.notes |= {"gradient_rows": len(rows.asked), "candidates": "gradient rows"}
            return Recalibration(rows, np.ones(ledger.n), groups)
        way = yield from without_gradients(ledger, rng, keep, self.max_fraction)
        self.notes |= {"candidates": way, "evaluations_of_candidates": ledger.spent}
        strength = np.nan_to_num(abs(ledger.main_effects()))
        return Recalibration(Rows(np.zeros((1, ledger.n))), strength, groups)


def gradient_rows(
    ledger: Ledger,
    room: int,
    levels: Sequence[float] = LEVELS,
    groups: Int[np.ndarray, " unit"] | None = None,
) -> Asking[Rows]:
    """Gradient rows for the units that promise most.

    Args:
        room: evaluations that the rows may take, besides the attribution.
        levels: gates of the attribution; empty where the game takes no gates.
        groups: the group of each unit (say, its layer).
    """
    n = ledger.n
    rows = yield from _attribution(ledger, levels, groups)
    # A row brings its unit's single ablation with it. Asking for all singles first was tried: it
    # ranks the rows better, but costs more than it saves.
    n_rows = min(n, max(4, room // GRADIENT_COST), max(4, _MOST_ROW_ENTRIES // n))
    while len(rows.asked) < n_rows:
        step = min(_ROWS_AT_A_TIME if rows.asked else _FIRST_ROWS, n_rows - len(rows.asked))
        yield from _ask_rows(ledger, rows, rows.next_rows(step))
    return rows


def _attribution(
    ledger: Ledger, levels: Sequence[float], groups: Int[np.ndarray, " unit"] | None
) -> Asking[Rows]:
    """The slopes at the intact model, and what a few gate values tell of each unit."""
    nothing = np.empty((1, 0), dtype=np.int64)
    answer = yield from ledger.ask(Question(nothing, gradient=True, stage="intact model"))
    assert answer.gradients is not None
    ledger.value[()] = answer.values[0]
    slopes = [answer.gradients[0]]
    everything = np.arange(ledger.n)[None]
    for level in levels:
        question = Question(everything, gradient=True, gate=level, stage="attribution")
        answer = yield from ledger.ask(question)
        assert answer.gradients is not None
        slopes.append(answer.gradients[0])
    if not levels:
        return Rows(slopes[0], groups=groups)
    # Trapezoid rule along the diagonal from kept to ablated; and how soon slopes change.
    weights = np.array([0.5, *[1.0] * (len(LEVELS) - 1), 0.5]) / len(LEVELS)
    path = np.tensordot(weights, np.array(slopes), axes=1)
    changes = [size(slope - slopes[0]) for slope in slopes[1:3]]
    features = [size(path) + 0.5 * size(slopes[0]), size(path), *changes]
    return Rows(slopes[0], features, groups)


def _ask_rows(ledger: Ledger, rows: Rows, units: list[int]) -> Asking[None]:
    at = np.array(units)[:, None]
    answer = yield from ledger.ask(Question(at, gradient=True, stage="gradient rows"))
    assert answer.gradients is not None
    for unit, value, gradient in zip(units, answer.values, answer.gradients, strict=True):
        ledger.value[(unit,)] = value
        rows.add(unit, gradient)


def without_gradients(
    ledger: Ledger, rng: np.random.Generator, keep: int, max_fraction: float
) -> Asking[str]:
    """Group tests for a sparse truth or an even tail, products for uneven units.

    Returns:
        the way that was taken; what it found is in the ledger.
    """
    yield from ledger.values_of([()], "intact model")
    until = ledger.budget - keep - max(8, (ledger.left - keep) // 25)
    table = yield from probe_groups(ledger, rng, until, max_fraction)
    found: Candidates = {}
    if table is not None:
        way = "group tests (tree)"
        found = yield from tree(ledger, rng, table, until, max_fraction)
    elif (yield from _is_uneven(ledger, rng, until)):
        way = "products of strengths"
        yield from _by_strengths(ledger, keep)
    else:
        way = "group tests (split)"
        found = yield from split(ledger, rng, until, max_fraction)
    ranked = sorted(found, key=lambda s: -abs(found[s]))
    yield from ledger.measure(ranked, "validating", keep)
    return way


def _is_uneven(ledger: Ledger, rng: np.random.Generator, until: int) -> Asking[bool]:
    """Whether pairs of strong units hold far more energy than pairs drawn at random."""
    n = ledger.n
    if until - ledger.spent < 1.2 * n:
        return False  # exact singles would take most of the budget
    yield from ledger.values_of([(u,) for u in range(n)], "single ablations")
    count = int(np.clip((until - ledger.spent) // 10, 24, 200))
    strong = Strengths(abs(ledger.main_effects())).strongest(count, ledger.interaction)
    drawn = np.sort(rng.integers(0, n, (2 * count, 2)), axis=1)
    others = [pair(int(a), int(b)) for a, b in drawn if a != b][:count]
    means = []
    for sets in (strong, others):
        measured = yield from ledger.measure(sets, "probing pairs", ledger.budget - until)
        sizes = [ledger.interaction[s] ** 2 for s in measured]
        means.append(float(np.mean(sizes)) if sizes else 0.0)
    return means[0] > _UNEVEN * means[1]


def _by_strengths(ledger: Ledger, keep: int) -> Asking[None]:
    strengths = Strengths(abs(ledger.main_effects()))
    room = ledger.left - keep
    while ledger.left > keep:
        strengths.fit(ledger.interaction)
        step = min(max(40, room // 12), ledger.left - keep)
        best = strengths.strongest(step, ledger.interaction)
        if not best:
            return
        yield from ledger.measure(best, "validating", keep)
