"""Candidates without gradients: group tests, for games that only return values.

For two disjoint groups A and B of units,
``I(A, B) = f(N without A and B) - f(N without A) - f(N without B) + f(N)``
is the sum of all interactions between them: main effects and all that is inside a group cancel.

1. ``probe_groups``: 60 cells of a table of some 32 x 32 blocks. The ratio of their median to their
   root mean square tells a sparse truth (few cells hold anything) from a dense tail (all do).
2. ``tree``, for a sparse truth: measure the whole table, halve the hot cells down to single pairs,
   then again with other blocks and what was found subtracted, against cancellation, until a pass
   finds nothing new. Takes some ``K^2 / 2 + s (4 log2(n / K) + 1)`` evaluations for s pairs; a
   floor of 4.5 robust standard deviations of the table hides weaker ones.
3. ``split``, for a dense tail: all single ablations, if they take at most half of the budget (they
   make what lies inside a block known for one evaluation); a table of b x b cells over about 40 %
   of what is left; then best-first halving: always the cell that most probably holds a pair as
   large as the budget can tell from the tail. The second half of a cell is the difference: free.

The larger the groups, the further from the intact model; interactions of order three and more then
leak in. Every pair that comes out is measured at the intact model before it counts.

Best-first halving by a posterior index is ours; group tests with halving go back to learning hidden
graphs with additive queries (Grebinski and Kucherov 2000).
"""

import heapq
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from spex_mech.search.ledger import Asking, Ledger, Set, pair

Candidates = dict[Set, float]

_PROBED = 60
_SPARSE = 0.12  # median over root mean square of the probed cells
_MOST_PASSES = 6


class Block(NamedTuple):
    """Units ``order[start:stop]`` of a partition."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def halves(self) -> "tuple[Block, Block]":
        middle = (self.start + self.stop) // 2
        return Block(self.start, middle), Block(middle, self.stop)


class Cell(NamedTuple):
    """All pairs between two blocks (inside one, where they are the same) and their sum."""

    a: Block
    b: Block
    total: float

    @property
    def n_pairs(self) -> int:
        inside = self.a == self.b
        return self.a.size * (self.a.size - 1) // 2 if inside else self.a.size * self.b.size


def probe_groups(
    ledger: Ledger, rng: np.random.Generator, until: int, max_fraction: float
) -> Asking["Partition | None"]:
    """Whether the truth is sparse: the partition that the tree should start with; None if not.

    Args:
        until: the search may spend until so many evaluations were spent in all.
        max_fraction: the largest share of the units that a test may ablate.
    """
    n = ledger.n
    # The whole table, should it be wanted, may take 40 % of what there is to spend.
    most = max(4, int(np.sqrt(0.8 * (until - ledger.spent))))
    n_blocks = min(max(32, int(np.ceil(2 / max_fraction))), max(2, n // 2), most)
    while True:
        table = Partition(rng.permutation(n), n_blocks)
        cells = table.pairs_of_blocks()
        some = [cells[i] for i in rng.permutation(len(cells))[:_PROBED]]
        sums = abs((yield from table.between(ledger, some, {}, "probing groups")))
        spread = np.sqrt((sums**2).mean())
        ratio = np.median(sums) / spread if spread else 0.0
        if ratio < _SPARSE:
            return table
        # Between the two: smaller cells may each hold nothing or one pair.
        finer = 2 * n_blocks <= min(n // 2, 128) and 2 * n_blocks**2 < 0.2 * (until - ledger.spent)
        if not (ratio < 0.35 and finer):
            return None
        n_blocks *= 2


class Partition:
    """Units in a random order, cut into blocks."""

    def __init__(self, order: Int[np.ndarray, " unit"], n_blocks: int) -> None:
        self.order = order
        cuts = np.linspace(0, len(order), n_blocks + 1).astype(int)
        self.blocks = [Block(int(a), int(b)) for a, b in pairwise(cuts) if b > a]
        self._place = np.empty(len(order), dtype=np.int64)
        self._place[order] = np.arange(len(order))

    def pairs_of_blocks(self) -> list[tuple[Block, Block]]:
        blocks = self.blocks
        return [(a, b) for i, a in enumerate(blocks) for b in blocks[i + 1 :]]

    def units(self, block: Block) -> Int[np.ndarray, " unit"]:
        return self.order[block.start : block.stop]

    def between(
        self, ledger: Ledger, cells: Sequence[tuple[Block, Block]], known: Candidates, stage: str
    ) -> Asking[Float[np.ndarray, " cell"]]:
        """``I(A, B)`` of each cell, less what is known of it."""
        blocks = list(dict.fromkeys(block for cell in cells for block in cell))
        alone = yield from ledger.sums([self.units(block) for block in blocks], stage)
        of_block = dict(zip(blocks, alone, strict=True))
        both = yield from ledger.sums(
            [np.concatenate([self.units(a), self.units(b)]) for a, b in cells], stage
        )
        sums = np.array(
            [
                value - of_block[a] - of_block[b] + ledger.intact
                for value, (a, b) in zip(both, cells, strict=True)
            ]
        )
        return sums - self._known_between(cells, known) if known else sums

    def inside(
        self, ledger: Ledger, blocks: Sequence[Block], stage: str
    ) -> Asking[Float[np.ndarray, " block"]]:
        """The sum of all pairs inside each block, from exact singles."""
        values = yield from ledger.sums([self.units(block) for block in blocks], stage)
        mains = [sum(ledger.main_effect(int(u)) for u in self.units(b)) for b in blocks]
        return values - ledger.intact - np.array(mains)

    def _known_between(
        self, cells: Sequence[tuple[Block, Block]], known: Candidates
    ) -> Float[np.ndarray, " cell"]:
        places = self._place[np.array(list(known))]
        values = np.array(list(known.values()))
        sums = np.empty(len(cells))
        for row, (a, b) in enumerate(cells):
            in_a = (places >= a.start) & (places < a.stop)
            in_b = (places >= b.start) & (places < b.stop)
            hit = (in_a[:, 0] & in_b[:, 1]) | (in_b[:, 0] & in_a[:, 1])
            sums[row] = values[hit].sum()
        return sums


def tree(
    ledger: Ledger,
    rng: np.random.Generator,
    table: Partition,
    until: int,
    max_fraction: float,
) -> Asking[Candidates]:
    """Strong pairs of a sparse truth, each measured."""
    known: Candidates = {}
    largest = 0.0
    for n_pass in range(_MOST_PASSES):
        cells = table.pairs_of_blocks()
        sums = yield from table.between(ledger, cells, known, "testing groups")
        largest = max(largest, abs(sums).max())
        floor = 4.5 * 1.4826 * np.median(abs(sums))
        floor = max(floor, 1e-8 * largest, 1e-12 * abs(ledger.intact))
        hot = [Cell(a, b, s) for (a, b), s in zip(cells, sums, strict=True) if abs(s) > floor]
        leaves = yield from _halved(ledger, table, hot, known, floor, until)
        found = [pair(int(table.order[c.a.start]), int(table.order[c.b.start])) for c in leaves]
        found = [p for p in dict.fromkeys(found) if p not in known]
        measured = yield from ledger.measure(
            found, "validating", keep=max(0, ledger.budget - until)
        )
        new = [p for p in measured if abs(ledger.interaction[p]) > floor / 2]
        known.update({p: ledger.interaction[p] for p in new})
        n_blocks = min(max(16, int(np.ceil(2 / max_fraction))), ledger.n // 2)
        dear = ledger.spent + n_blocks * (n_blocks + 1) // 2 + 50 > until
        if dear or (n_pass and not new):
            break
        table = Partition(rng.permutation(ledger.n), n_blocks)
    return known


def _halved(
    ledger: Ledger,
    table: Partition,
    hot: list[Cell],
    known: Candidates,
    floor: float,
    until: int,
) -> Asking[list[Cell]]:
    """Halve hot cells down to single pairs, one side after the other."""
    leaves: list[Cell] = []
    while hot and ledger.spent + 4 * len(hot) < until:
        turned = [c if c.a.size > 1 else Cell(c.b, c.a, c.total) for c in hot]
        leaves += [c for c in turned if c.a.size == 1]
        turned = [c for c in turned if c.a.size > 1]
        if not turned:
            break
        firsts = [(c.a.halves()[0], c.b) for c in turned]
        sums = yield from table.between(ledger, firsts, known, "halving groups")
        hot = []
        for c, first in zip(turned, sums, strict=True):
            left, right = c.a.halves()
            for half, total in ((left, first), (right, c.total - first)):
                if abs(total) > floor:
                    hot.append(Cell(half, c.b, total))
    return leaves


def split(ledger: Ledger, rng: np.random.Generator, until: int) -> Asking[Candidates]:
    """Strong pairs over a dense tail, with sums of tests as estimates."""
    n = ledger.n
    n_pairs = n * (n - 1) / 2
    room = until - ledger.spent
    with_singles = room >= 2 * n or all(ledger.knows_single(u) for u in range(n))
    if with_singles:
        yield from ledger.values_of([(u,) for u in range(n)], "single ablations")
        room = until - ledger.spent
    if room < 8:
        return {}
    b = max(2.0, np.sqrt(n_pairs / (0.4 * room)))
    table = Partition(rng.permutation(n), max(2, round(n / b)))
    pairs = table.pairs_of_blocks()
    pairs = [pairs[i] for i in rng.permutation(len(pairs))[: max(1, int(0.6 * room))]]
    sums = yield from table.between(ledger, pairs, {}, "testing groups")
    cells = [Cell(x, y, s) for (x, y), s in zip(pairs, sums, strict=True)]
    # Without singles, pairs inside a block stay unseen: one in so many as there are blocks.
    blocks = [block for block in table.blocks if block.size > 1 and with_singles]
    sums = yield from table.inside(ledger, blocks, "testing groups")
    cells += [Cell(x, x, s) for x, s in zip(blocks, sums, strict=True)]

    # The tail's standard deviation per pair, and the size of pair that this budget tells from it.
    scaled = [abs(c.total) / np.sqrt(c.n_pairs) for c in cells]
    tail = np.median(scaled) / 0.6745 + 1e-12 * max(abs(c.total) for c in cells)
    size = tail * np.sqrt(3 * n_pairs / room)

    def promise(c: Cell) -> float:
        """Log odds that the cell holds a pair of that size, plus log of how many it might be."""
        if tail == 0:
            return 0.0
        variance = c.n_pairs * tail**2
        x = size * abs(c.total) / variance
        return float(x + np.log1p(np.exp(-2 * x)) - size**2 / (2 * variance) + np.log(c.n_pairs))

    heap = [(-promise(c), i, c) for i, c in enumerate(cells)]
    heapq.heapify(heap)
    count = len(heap)
    found: Candidates = {}

    def push(c: Cell) -> None:
        nonlocal count
        if c.n_pairs:
            count += 1
            heapq.heappush(heap, (-promise(c), count, c))

    while heap and ledger.spent + 3 < until:
        batch: list[Cell] = []
        squares: list[Cell] = []
        most = min(64, (until - ledger.spent) // 3)
        while heap and len(batch) + len(squares) < most:
            c = heapq.heappop(heap)[2]
            if c.n_pairs == 1:
                first, last = (c.a.start, c.a.stop - 1) if c.a == c.b else (c.a.start, c.b.start)
                found[pair(int(table.order[first]), int(table.order[last]))] = c.total
            elif c.a == c.b:
                squares.append(c)
            else:
                batch.append(c if c.a.size >= c.b.size else Cell(c.b, c.a, c.total))
        sums = yield from table.between(
            ledger, [(c.a.halves()[0], c.b) for c in batch], {}, "halving groups"
        )
        for c, first in zip(batch, sums, strict=True):
            left, right = c.a.halves()
            push(Cell(left, c.b, first))
            push(Cell(right, c.b, c.total - first))
        halves = [half for c in squares for half in c.a.halves()]
        sums = yield from table.inside(ledger, halves, "halving groups")
        for i, c in enumerate(squares):
            left, right = c.a.halves()
            first, second = sums[2 * i : 2 * i + 2]
            push(Cell(left, left, first))
            push(Cell(right, right, second))
            push(Cell(left, right, c.total - first - second))
    for _, _, c in heap:
        if c.n_pairs == 1 and c.a != c.b:
            found[pair(int(table.order[c.a.start]), int(table.order[c.b.start]))] = c.total
    return found
