"""Candidates without gradients over a dense tail: best-first halving of group tests.

1. All single ablations, if they take at most half of the budget: they make what lies inside a block
   known for one evaluation.
2. A table of cells, each of b x b pairs, b such that the table takes a share of what is left; the
   sum of each cell's interactions, and an estimate of the tail from the typical sum.
3. What stands out clearly is halved first, many cells in one test (``group_tests.halved``).
4. Then always the cell is halved that most probably holds a pair as large as the budget can tell
   from the tail (``BestFirstHalving.promise``). Only one half needs testing; the other half's sum
   follows by subtraction.

Best-first halving by a posterior index is ours.
"""

import heapq

import numpy as np

from spex_mech.search.budget import Budget, Context
from spex_mech.search.group_tests import ROBUST, Candidates, Cell, Partition, halved, surely
from spex_mech.search.ledger import Asking, Ledger, pair

_LEAST_ROOM = 8  # evaluations without which no table is worth it
_EVALUATIONS = 3  # of one test, at most: both groups, and each alone
_TINY = 1e-12  # of the largest sum: rounding


def split(context: Context, budget: Budget, max_fraction: float) -> Asking[Candidates]:
    """Strong pairs over a dense tail, with sums of tests as estimates."""
    ledger, n = context.ledger, context.ledger.n
    if budget.left >= 2 * n or all(ledger.knows_single(u) for u in range(n)):
        yield from ledger.values_of([(u,) for u in range(n)], "ablating single units")
        with_singles = True
    else:
        with_singles = False
    room = budget.left
    if room < _LEAST_ROOM:
        return {}
    table, cells = yield from _table(context, room, with_singles)
    # The tail's standard deviation per pair.
    scaled = [abs(c.total) / np.sqrt(c.n_sets) for c in cells]
    tail = float(ROBUST * np.median(scaled) + _TINY * max(abs(c.total) for c in cells))
    # What stands out clearly first, many cells in one test.
    floor = surely(len(cells), context.settings) * tail * np.sqrt(max(c.n_sets for c in cells))
    hot = [c for c in cells if c.blocks[0] != c.blocks[1] and abs(c.total) > floor]
    leaves = yield from halved(context, budget, table, hot, {}, floor, max_fraction)
    sets = list(map(table.set_of, leaves))
    measured = yield from ledger.measure(sets, "measuring likely pairs", max(0, budget.reserved))
    known = {s: ledger.interaction[s] for s in measured}
    if known:
        between = table.known_between([c.test for c in cells], known)  # none lies inside a block
        cells = [c._replace(total=c.total - x) for c, x in zip(cells, between, strict=True)]
    # The size of pair that this budget tells from the tail.
    size = tail * np.sqrt(3 * (n * (n - 1) / 2) / room)
    halving = BestFirstHalving(table, known, tail, float(size))
    for c in cells:
        halving.push(c)
    while halving.waiting and budget.left > _EVALUATIONS:
        most = min(context.settings.max_halved, budget.left // _EVALUATIONS)
        rectangles, squares = halving.pop_batch(most)
        yield from halving.halve_rectangles(ledger, rectangles)
        yield from halving.halve_squares(ledger, squares)
    return halving.candidates()


def _table(context: Context, room: int, with_singles: bool) -> Asking[tuple[Partition, list[Cell]]]:
    """A table that takes a share of the room, and the sums of those of its cells that are tested:
    between two blocks and, where all singles are known, inside one."""
    ledger, rng, settings = context.ledger, context.rng, context.settings
    n = ledger.n
    cells_affordable = settings.split_table_share * room
    block = max(2.0, np.sqrt(n * (n - 1) / 2 / cells_affordable))
    table = Partition(rng.permutation(n), max(2, round(n / block)))
    tests = table.tests()
    n_tested = max(1, int(settings.split_tested_share * room))
    tests = [tests[i] for i in rng.permutation(len(tests))[:n_tested]]
    sums = yield from table.between(ledger, tests, {}, "testing groups")
    cells = [Cell((x, y), s) for ((x,), (y,)), s in zip(tests, sums.tolist(), strict=True)]
    # Without singles, pairs inside a block stay unseen: one in so many as there are blocks.
    blocks = [block for block in table.blocks if block.size > 1 and with_singles]
    sums = yield from table.inside(ledger, blocks, "testing groups")
    return table, cells + [Cell((x, x), s) for x, s in zip(blocks, sums.tolist(), strict=True)]


class BestFirstHalving:
    """Cells that wait to be halved, the most promising first.

    Args:
        table: the partition whose blocks the cells are made of.
        known: interactions that were measured, and are no part of any cell's sum.
        tail: standard deviation of a pair of the tail.
        size: of the pairs that are looked for.
    """

    def __init__(self, table: Partition, known: Candidates, tail: float, size: float) -> None:
        self._table, self._known, self._tail, self._size = table, known, tail, size
        self._heap: list[tuple[float, int, Cell]] = []
        self._count = 0
        self._found: Candidates = {}

    @property
    def waiting(self) -> bool:
        """Whether a cell is left."""
        return bool(self._heap)

    def promise(self, cell: Cell) -> float:
        """Log odds that the cell holds a pair of size s, plus the log of how many it might be.

        With the cell's sum t over m pairs of a normal tail of variance v = m tail^2, the likelihood
        ratio of "one of them is +s or -s" against "none" is
        ``(exp(s t / v) + exp(-s t / v)) / 2 * exp(-s^2 / 2 v)``.
        """
        if self._tail == 0:
            return 0.0
        variance = cell.n_sets * self._tail**2
        x = self._size * abs(cell.total) / variance
        log_ratio = x + np.log1p(np.exp(-2 * x)) - self._size**2 / (2 * variance)
        return float(log_ratio + np.log(cell.n_sets))

    def push(self, cell: Cell) -> None:
        """One more cell; one without pairs is left out."""
        if cell.n_sets:
            heapq.heappush(self._heap, (-self.promise(cell), self._count, cell))
            self._count += 1

    def pop_batch(self, most: int) -> tuple[list[Cell], list[Cell]]:
        """The most promising cells, ``most`` of them: those between two blocks, and those inside
        one. Cells of a single pair are candidates, and none of these."""
        rectangles: list[Cell] = []
        squares: list[Cell] = []
        while self._heap and len(rectangles) + len(squares) < most:
            cell = heapq.heappop(self._heap)[2]
            a, b = cell.blocks
            if cell.n_sets == 1:
                first, last = (a.start, a.stop - 1) if a == b else (a.start, b.start)
                order = self._table.order
                self._found[pair(int(order[first]), int(order[last]))] = cell.total
            elif a == b:
                squares.append(cell)
            else:
                rectangles.append(cell.largest_first)
        return rectangles, squares

    def halve_rectangles(self, ledger: Ledger, cells: list[Cell]) -> Asking[None]:
        """Test one half of each; the other's sum is the difference."""
        tests = [c.half_test for c in cells]
        sums = yield from self._table.between(ledger, tests, self._known, "halving groups")
        for c, first in zip(cells, sums.tolist(), strict=True):
            left, right = c.blocks[0].halves()
            self.push(c.with_first(left, first))
            self.push(c.with_first(right, c.total - first))

    def halve_squares(self, ledger: Ledger, cells: list[Cell]) -> Asking[None]:
        """Test what lies inside each half of a block; what lies between them is the difference."""
        halves = [half for c in cells for half in c.blocks[0].halves()]
        sums = yield from self._table.inside(ledger, halves, "halving groups")
        for i, c in enumerate(cells):
            left, right = c.blocks[0].halves()
            first, second = sums[2 * i : 2 * i + 2].tolist()
            self.push(Cell((left, left), first))
            self.push(Cell((right, right), second))
            self.push(Cell((left, right), c.total - first - second))

    def candidates(self) -> Candidates:
        """The single pairs that were reached, with the sums of their tests as estimates."""
        for _, _, c in self._heap:
            if c.n_sets == 1 and c.blocks[0] != c.blocks[1]:
                self._found[self._table.set_of(c)] = c.total
        return self._found
