"""SPEX: adaptive exploration of pairs, exact and close to linear in the number of units.

1. *Single ablations.* Of the units that a pair needs; all n only where units are very uneven and
   there are no gradients (step 2).
2. *Candidates.* With gradients: rows ``s_ij = g_j(N) - g_j(N without i)`` for the units that
   interact most, as slopes at a few random masks say (``screening``). Without: group tests with
   halving (``group_tests``), or, where a probe shows that units are very uneven, pairs by the
   product of their units' strengths.
3. *Validation*, *higher orders*, *audit*: exact, in rounds (``adaptive``).

With N all units kept, ``I_ij = f(N without i, j) - f(N without i) - f(N without j) + f(N)``; every
reported value is measured. Cost: the budget, by default 4 evaluations a unit and 100 (a gradient
counts 3). It fails where both units of a pair are saturated, so that no slope moves, and neither
has strong partners; the audit is there to notice. The name is that of Kang et al. 2025, whose
spectral algorithm estimates another quantity (Fourier coefficients with half the units gone).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spex_mech.search.adaptive import Screen
from spex_mech.search.contract import GRADIENT_COST, Question
from spex_mech.search.group_tests import Candidates, probe_groups, split, tree
from spex_mech.search.ledger import Asking, Ledger, padded, pair
from spex_mech.search.random_masks import Examples, telling_fraction
from spex_mech.search.screening import Rows, RowScreen, Strengths

_SHARE_DEEP = 0.07  # of the budget, for gradients at random masks
LEAST_DEEP = 4
_MOST_DEEP = 16
_DEPTH = 0.3  # share of units that they ablate
_SHARE_ROWS = 0.25
_ROWS_AT_A_TIME = 16
_MOST_ROW_ENTRIES = 100_000_000  # 0.8 GB of rows
_NO_TESTS, _FEW_UNITS = 0.2, 64  # share of all pairs, and units up to which it counts
_FIRST_PAIRS = 30
_NOTHING = 1e-5  # of the largest main effect
_PER_SHARE = 16  # masks that tell how much can be ablated
SPARSE = "group tests (tree)"  # the way that leaves nothing strong behind
_UNEVEN = 5.0  # energy of pairs of strong units over that of random pairs


@dataclass
class Spex:
    """Candidates from gradient rows, or, without gradients, from group tests.

    Args:
        gradients: whether the game gives gradients (``game.gradient``).
        max_fraction: without gradients, the largest share of units a group test may ablate; in
            tests of three and more units, which need larger groups, it may be as large as still
            tells masks apart.
    """

    gradients: bool = False
    max_fraction: float = 0.15
    notes: dict[str, Any] = field(default_factory=dict)
    name: str = "spex"

    def minimum_budget(self, n: int) -> int:
        if self.gradients:
            return GRADIENT_COST * (1 + LEAST_DEEP) + 60
        return without_gradients_least(n)

    def default_budget(self, n: int) -> int:
        return 4 * n + 100

    def higher_fraction(self, ledger: Ledger, rng: np.random.Generator) -> Asking[float]:
        """The largest share of units for tests of three and more."""
        told = yield from telling_fraction(ledger, rng, Examples(ledger.n), _PER_SHARE)
        self.notes["largest_share_ablated"] = max(self.max_fraction, told)
        return self.notes["largest_share_ablated"]

    def candidates(self, ledger: Ledger, rng: np.random.Generator, keep: int) -> Asking[Screen]:
        if self.gradients:
            rows = yield from gradient_rows(ledger, rng, keep)
            self.notes |= {"gradient_rows": len(rows.asked), "candidates": "gradient rows"}
            return RowScreen(rows)
        way = yield from without_gradients(ledger, rng, keep, self.max_fraction)
        self.notes |= {"candidates": way, "evaluations_of_candidates": ledger.spent}
        return Strengths(ledger.main_effects_by_prompt(), complete=way == SPARSE)


def without_gradients_least(n: int) -> int:
    """Evaluations without which nothing can be found where there are no gradients."""
    return min(n, 500) + min(max(n, 80), 200)


def gradient_rows(
    ledger: Ledger, rng: np.random.Generator, keep: int, depth: float = _DEPTH
) -> Asking[Rows]:
    """Gradient rows for the units that promise most.

    Args:
        keep: evaluations to leave for what comes after candidates and validation.
        depth: the share of units that random masks ablate.
    """
    n, room = ledger.n, ledger.left - keep
    rows = yield from _deep_gradients(ledger, rng, room, min(depth, _DEPTH))
    # A row brings its unit's single ablation with it. Asking for all singles first was tried: it
    # ranks the rows better, but costs more than it saves.
    n_rows = max(4, int(_SHARE_ROWS * room) // GRADIENT_COST)
    n_rows = min(n, n_rows, max(4, _MOST_ROW_ENTRIES // (n * rows.n_blocks)))
    while len(rows.asked) < n_rows:
        step = min(_ROWS_AT_A_TIME, n_rows - len(rows.asked))
        units = rows.next_rows(step)
        question = Question(np.array(units)[:, None], gradient=True, stage="gradient rows")
        answer = yield from ledger.ask(question)
        assert answer.gradients is not None
        for unit, value, gradient in zip(units, answer.values, answer.gradients, strict=True):
            ledger.value[(unit,)] = value
            rows.add(unit, gradient)
    return rows


def _deep_gradients(
    ledger: Ledger, rng: np.random.Generator, room: int, depth: float
) -> Asking[Rows]:
    """The slopes at the intact model and at random masks, which tell how much units interact."""
    nothing = np.empty((1, 0), dtype=np.int64)
    answer = yield from ledger.ask(Question(nothing, gradient=True, stage="intact model"))
    assert answer.gradients is not None
    ledger.value[()] = answer.values[0]
    count = int(np.clip(_SHARE_DEEP * room / GRADIENT_COST, LEAST_DEEP, _MOST_DEEP))
    n_lost = max(1, round(depth * ledger.n))
    lost = [tuple(np.sort(rng.permutation(ledger.n)[:n_lost]).tolist()) for _ in range(count)]
    question = Question(padded(lost), gradient=True, stage="gradients at random masks")
    deep = yield from ledger.ask(question)
    assert deep.gradients is not None
    return Rows(answer.gradients[0], deep.gradients)


def without_gradients(
    ledger: Ledger, rng: np.random.Generator, keep: int, max_fraction: float
) -> Asking[str]:
    """Group tests for a sparse truth or an even tail, products for uneven units.

    Returns:
        the way that was taken; what it found is in the ledger.
    """
    n = ledger.n
    yield from ledger.values_of([()], "intact model")
    if n <= _FEW_UNITS and ledger.left - keep - n > _NO_TESTS * n * (n - 1) / 2:
        # So large a part of so few pairs can be measured that tests of groups, or whether the
        # units are uneven, do not pay, unless of the first pairs three in four hold nothing.
        yield from ledger.values_of([(u,) for u in range(n)], "single ablations")
        main = ledger.main_effects_by_prompt()
        first = [pair(int(a), int(b)) for a, b in Strengths(main).strongest(_FIRST_PAIRS)]
        measured = yield from ledger.measure(first, "validating", keep)
        sizes = [abs(ledger.interaction[s]) for s in measured]
        if np.quantile(sizes, 0.75) > _NOTHING * abs(main).max():
            return "products of strengths"
    until = ledger.budget - keep - max(8, (ledger.left - keep) // 25)
    table = yield from probe_groups(ledger, rng, until, max_fraction)
    found: Candidates = {}
    if table is not None:
        way = SPARSE
        found = yield from tree(ledger, rng, table, until, max_fraction)
    elif (yield from _is_uneven(ledger, rng, until)):
        return "products of strengths"
    else:
        way = "group tests (split)"
        found = yield from split(ledger, rng, until, max_fraction)
    ranked = sorted(found, key=lambda s: -abs(found[s]))
    yield from ledger.measure(ranked, "validating", keep)
    return way


def _is_uneven(ledger: Ledger, rng: np.random.Generator, until: int) -> Asking[bool]:
    """Whether pairs of strong units typically hold far more energy than pairs drawn at random:
    medians, as one strong pair among those probed says nothing of the others."""
    n = ledger.n
    if until - ledger.spent < 1.05 * n + _FIRST_PAIRS:
        return False  # exact singles would take all of the budget
    yield from ledger.values_of([(u,) for u in range(n)], "single ablations")
    count = int(np.clip((until - ledger.spent) // 10, 24, 200))
    strong = Strengths(ledger.main_effects_by_prompt()).strongest(count)
    drawn = np.sort(rng.integers(0, n, (2 * count, 2)), axis=1)
    others = [pair(int(a), int(b)) for a, b in drawn if a != b][:count]
    typical = []
    for sets in ([pair(int(a), int(b)) for a, b in strong], others):
        measured = yield from ledger.measure(sets, "probing pairs", ledger.budget - until)
        sizes = [ledger.interaction[s] ** 2 for s in measured]
        typical.append(float(np.median(sizes)) if sizes else 0.0)
    return typical[0] > _UNEVEN * typical[1]
