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
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise, permutations, product
from math import comb, prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.search.ledger import Asking, Ledger, Set, pair, subsets

Candidates = dict[Set, float]

_PROBED = 60
_SPARSE = 0.12  # median over root mean square of the probed cells
_NOTHING = 1e-6  # of what ablating a block changes: rounding
_MOST_PASSES = 6
_MOST_POOLED = 8  # cells in one test
_LEAST_RESIDUALS = 8
_SURE = 4.5  # robust standard deviations that noise does not exceed
_ROBUST = 1.4826  # standard deviation of a normal tail over its median size
_ROUNDING = 1e-8


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


Group = tuple[Block, ...]
Test = tuple[Group, ...]  # of the interactions between groups, one unit of each


class Cell(NamedTuple):
    """All interactions between blocks, one unit of each, and their sum (all pairs inside a block,
    where both are the same)."""

    blocks: tuple[Block, ...]
    total: float

    @property
    def n_sets(self) -> int:
        first, *others = self.blocks
        if others == [first]:
            return first.size * (first.size - 1) // 2
        return prod(block.size for block in self.blocks)

    @property
    def largest_first(self) -> "Cell":
        return self._replace(blocks=tuple(sorted(self.blocks, key=lambda x: -x.size)))

    @property
    def turned(self) -> "Cell":
        """The same with a block first that can be halved: one side is halved to its end, so that
        what the others' ablation gives stays known."""
        return self if self.blocks[0].size > 1 else self.largest_first

    def with_first(self, block: Block, total: float) -> "Cell":
        return Cell((block, *self.blocks[1:]), total)

    @property
    def test(self) -> "Test":
        return tuple((block,) for block in self.blocks)

    @property
    def half_test(self) -> "Test":
        """The same with the first half of the first block."""
        return ((self.blocks[0].halves()[0],), *self.test[1:])

    def apart_from(self, other: "Cell") -> bool:
        """Whether each side is the other cell's too, or shares no unit with it."""
        sides = zip(self.blocks, other.blocks, strict=True)
        return all(x == y or x.stop <= y.start or y.stop <= x.start for x, y in sides)


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
        tests = table.tests()
        some = [tests[i] for i in rng.permutation(len(tests))[:_PROBED]]
        sums = abs((yield from table.between(ledger, some, {}, "probing groups")))
        blocks = [table.units((block,)) for block in table.blocks]
        alone = yield from ledger.sums(blocks, "probing groups")
        spread = np.sqrt((sums**2).mean())
        nothing = spread <= _NOTHING * abs(alone - ledger.intact).max()
        ratio = 0.0 if nothing else np.median(sums) / spread
        if ratio < _SPARSE:
            return table
        # Of many sparse pairs each cell may hold some: smaller cells tell them from a dense tail.
        if 2 * n_blocks > n // 2 or 2 * n_blocks**2 > 0.45 * (until - ledger.spent):
            return None
        n_blocks *= 2


class Partition:
    """Units in a random order, cut into blocks."""

    floor = 0.0  # what a cell's sum had to exceed to be looked into

    def __init__(self, order: Int[np.ndarray, " unit"], n_blocks: int) -> None:
        self.order = order
        cuts = np.linspace(0, len(order), n_blocks + 1).astype(int)
        self.blocks = [Block(int(a), int(b)) for a, b in pairwise(cuts) if b > a]
        self._place = np.empty(len(order), dtype=np.int64)
        self._place[order] = np.arange(len(order))

    def tests(self, order: int = 2) -> list[Test]:
        """All sets of so many blocks."""
        return [tuple((block,) for block in some) for some in combinations(self.blocks, order)]

    def units(self, group: Group) -> Int[np.ndarray, " unit"]:
        return np.concatenate([self.order[block.start : block.stop] for block in group])

    def set_of(self, cell: Cell) -> Set:
        """The units of a cell of single units."""
        return tuple(sorted(int(self.order[block.start]) for block in cell.blocks))

    def between(
        self, ledger: Ledger, tests: Sequence[Test], known: Candidates, stage: str
    ) -> Asking[Float[np.ndarray, " test"]]:
        """The sum of interactions of each test, less what is known of it: the alternating sum over
        the subsets of its groups, each ablated as one."""
        value: dict[Test, float] = {(): ledger.intact}
        for size in range(1, max(map(len, tests), default=0) + 1):
            parts = dict.fromkeys(part for test in tests for part in combinations(test, size))
            groups = [self.units(tuple(x for group in part for x in group)) for part in parts]
            sums = yield from ledger.sums(groups, stage)
            value |= dict(zip(parts, sums.tolist(), strict=True))
        totals = np.array(
            [sum((-1) ** (len(test) - len(p)) * value[p] for p in subsets(test)) for test in tests]
        )
        return totals - self.known_between(tests, known) if known else totals

    def inside(
        self, ledger: Ledger, blocks: Sequence[Block], stage: str
    ) -> Asking[Float[np.ndarray, " block"]]:
        """The sum of all pairs inside each block, from exact singles."""
        values = yield from ledger.sums([self.units((block,)) for block in blocks], stage)
        mains = [sum(ledger.main_effect(int(u)) for u in self.units((b,))) for b in blocks]
        return values - ledger.intact - np.array(mains)

    def known_between(self, tests: Sequence[Test], known: Candidates) -> Float[np.ndarray, " test"]:
        """The sum of the known interactions of each test."""
        places = self._place[np.array(list(known))]  # set unit
        values = np.array(list(known.values()))
        sums = np.empty(len(tests))
        for row, test in enumerate(tests):
            inside = np.array(
                [
                    np.any([(places >= x.start) & (places < x.stop) for x in group], axis=0)
                    for group in test
                ]
            )  # group set unit
            sums[row] = values[_one_of_each(inside)].sum()
        return sums


def _one_of_each(inside: Bool[np.ndarray, "group set unit"]) -> Bool[np.ndarray, " set"]:
    """Which sets have one unit in each group."""
    orders = permutations(range(inside.shape[2]))
    return np.any([np.all([inside[g, :, u] for g, u in enumerate(o)], axis=0) for o in orders], 0)


def tree(
    ledger: Ledger,
    rng: np.random.Generator,
    table: Partition,
    until: int,
    max_fraction: float,
) -> Asking[Candidates]:
    """Strong pairs of a sparse truth, each measured.

    A table in which most cells hold something has a floor that hides pairs like those that are
    known; finer ones then follow, until one is sparse.
    """
    known: Candidates = {}
    for n_pass in range(_MOST_PASSES):
        new = yield from _one_pass(ledger, table, 2, known, until, max_fraction)
        known |= new or {}
        sizes = [abs(value) for value in known.values()]
        crowded = bool(sizes) and table.floor > np.median(sizes)
        n_blocks = max(16, int(np.ceil(2 / max_fraction)))
        n_blocks = min(2 * len(table.blocks) if crowded else n_blocks, ledger.n // 2)
        dear = ledger.spent + n_blocks * (n_blocks + 1) // 2 + 50 > until
        if dear or (n_pass and not new and not crowded):
            break
        table = Partition(rng.permutation(ledger.n), n_blocks)
    return known


def higher_tree(
    ledger: Ledger, rng: np.random.Generator, order: int, until: int, max_fraction: float
) -> Asking[Candidates]:
    """Sets of three units and more that interact, whatever their subsets do, if they are few.

    Interactions of fewer units cancel in a test of this order. A table takes all sets of so many
    blocks, ``order / max_fraction`` blocks at least, and more while each cell holds something;
    nothing is done where a table would take more than half of what may be spent. As a set may have
    two units in one block, which no test of that table sees, two tables in a row must hold nothing
    new before the search ends.
    """
    n_blocks = min(max(int(np.ceil(order / max_fraction)), 2 * order + 2), ledger.n)
    known: Candidates = {}
    done = empty = 0
    while done < 2 * _MOST_PASSES and empty < 2:
        cost = sum(comb(n_blocks, size) for size in range(1, order + 1))
        if ledger.spent + (1 if done else 2) * cost > until:
            break
        table = Partition(rng.permutation(ledger.n), n_blocks)
        new = yield from _one_pass(ledger, table, order, known, until, max_fraction)
        if new is None and n_blocks < ledger.n:
            n_blocks = min(n_blocks + (n_blocks + 1) // 2, ledger.n)
            continue
        known |= new or {}
        done += 1
        empty = 0 if new else empty + 1
    return known


def _one_pass(
    ledger: Ledger,
    table: Partition,
    order: int,
    known: Candidates,
    until: int,
    max_fraction: float,
) -> Asking[Candidates | None]:
    """What one partition finds beyond what is known; None where the first table is not sparse."""
    tests = table.tests(order)
    if order > 2 and not known:
        some = tests[:: max(1, len(tests) // _PROBED)]
        sums = yield from table.between(ledger, some, known, "probing groups")
        if np.median(abs(sums)) > _SPARSE * np.sqrt((sums**2).mean()):
            return None
    sums = yield from table.between(ledger, tests, known, "testing groups")
    largest = max([abs(sums).max(initial=0.0), *map(abs, known.values())])
    floor = _SURE * _ROBUST * float(np.median(abs(sums)))
    floor = table.floor = max(floor, _ROUNDING * largest, 1e-12 * abs(ledger.intact))
    hot = [
        Cell(tuple(block for (block,) in test), float(total))
        for test, total in zip(tests, sums, strict=True)
        if abs(total) > floor
    ]
    most = int(max_fraction * ledger.n)
    leaves = yield from _halved(ledger, table, hot, known, floor, until, most)
    found = [s for s in dict.fromkeys(map(table.set_of, leaves)) if s not in known]
    measured = yield from ledger.measure(found, "validating", max(0, ledger.budget - until))
    sizes = {s: ledger.interaction[s] for s in measured}
    return {s: value for s, value in sizes.items() if abs(value) > floor / 2}


def _halved(
    ledger: Ledger,
    table: Partition,
    hot: list[Cell],
    known: Candidates,
    floor: float,
    until: int,
    most: int,
) -> Asking[list[Cell]]:
    """Halve hot cells down to single sets, one side after the other, many cells in one test.

    Args:
        floor: what a sum must exceed to be something; later floors come from how far sums were off.
        most: units that one test may ablate.
    """
    leaves: list[Cell] = []
    least = _ROUNDING * max((abs(c.total) for c in hot), default=0.0)
    while hot:
        turned = [c.turned for c in hot]
        leaves += [c for c in turned if c.n_sets == 1]
        turned = [c for c in turned if c.n_sets > 1]
        if not turned:
            break
        # A test of halves takes so many evaluations; where not all cells can be halved to their
        # end, the strongest are.
        dear = 2 ** len(turned[0].blocks) - 1
        levels = np.ceil(np.log2(max(c.n_sets for c in turned)))
        affordable = int((until - ledger.spent) / (0.6 * dear * levels))
        pools = _pools(turned, floor, most)
        if len(pools) > max(1, affordable):
            pools.sort(key=lambda pool: -sum(abs(c.total) for c in pool))
            pools = pools[: max(1, affordable)]
        if ledger.spent + dear * len(pools) > until:
            break
        tests = [
            tuple(map(_each_once, zip(*(c.half_test for c in pool), strict=True))) for pool in pools
        ]
        sums = yield from table.between(ledger, tests, known, "halving groups")
        hot, off = [], []
        unclear: list[Cell] = []
        for pool, total in zip(pools, sums, strict=True):
            inside = list(product((False, True), repeat=len(pool)))
            errors = abs(np.array(inside) @ np.array([c.total for c in pool]) - total)
            best = int(errors.argmin())
            if errors[best] > floor:
                unclear += pool
                continue
            off.append(errors[best])
            for c, first in zip(pool, inside[best], strict=True):
                hot.append(c.with_first(c.blocks[0].halves()[not first], c.total))
        # What no subset explains: a cell of several sets that part, or an interaction of higher
        # order. Each of its cells is tested by itself.
        unclear = unclear[: max(0, until - ledger.spent) // dear]
        firsts = [c.half_test for c in unclear]
        sums = yield from table.between(ledger, firsts, known, "halving groups")
        for c, first in zip(unclear, sums.tolist(), strict=True):
            for half, total in zip(c.blocks[0].halves(), (first, c.total - first), strict=True):
                if abs(total) > floor:
                    hot.append(c.with_first(half, total))
        if len(off) >= _LEAST_RESIDUALS:
            floor = min(floor, max(least, _SURE * _ROBUST * float(np.median(off))))
    return leaves


def _each_once(groups: Iterable[Group]) -> Group:
    return tuple(dict.fromkeys(block for group in groups for block in group))


def _pools(cells: list[Cell], floor: float, most: int) -> list[list[Cell]]:
    """Cells whose first halves can be tested at once: no other hot cell lies between the units of
    one and the partners of another, and the sums of any two subsets differ by more than noise."""
    starts = np.array([[x.start for x in c.blocks] for c in cells])  # cell side
    stops = np.array([[x.stop for x in c.blocks] for c in cells])
    pools: list[list[Cell]] = []
    left = list(range(len(cells)))
    while left:
        pool: list[int] = []
        sums, size = np.zeros(1), 0
        touched = np.zeros((1, *starts.shape), dtype=bool)  # group cell side
        for i in left:
            c = cells[i]
            blocks = (c.blocks[0].halves()[0], *c.blocks[1:])
            tested = sum(block.size for block in blocks)
            grown = np.concatenate([sums, sums + c.total])
            if pool:
                if len(pool) == _MOST_POOLED or size + tested > most:
                    continue
                if np.diff(np.sort(grown)).min() <= 3 * floor:
                    continue
            now = touched | np.stack([(starts < x.stop) & (stops > x.start) for x in blocks])
            # Those in the pool are crossed by their own test; no other may be.
            members = [*pool, i]
            if _one_of_each(now).sum() > len(members) or (now[:, members].sum(axis=0) > 1).any():
                continue
            if not all(c.apart_from(cells[j]) for j in pool):
                continue
            pool.append(i)
            sums, size, touched = grown, size + tested, now
        pools.append([cells[i] for i in pool])
        chosen = set(pool)
        left = [i for i in left if i not in chosen]
    return pools


def split(
    ledger: Ledger, rng: np.random.Generator, until: int, max_fraction: float
) -> Asking[Candidates]:
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
    tests = table.tests()
    tests = [tests[i] for i in rng.permutation(len(tests))[: max(1, int(0.6 * room))]]
    sums = yield from table.between(ledger, tests, {}, "testing groups")
    cells = [Cell((x, y), s) for ((x,), (y,)), s in zip(tests, sums.tolist(), strict=True)]
    # Without singles, pairs inside a block stay unseen: one in so many as there are blocks.
    blocks = [block for block in table.blocks if block.size > 1 and with_singles]
    sums = yield from table.inside(ledger, blocks, "testing groups")
    cells += [Cell((x, x), s) for x, s in zip(blocks, sums.tolist(), strict=True)]

    # The tail's standard deviation per pair, and the size of pair that this budget tells from it.
    scaled = [abs(c.total) / np.sqrt(c.n_sets) for c in cells]
    tail = np.median(scaled) / 0.6745 + 1e-12 * max(abs(c.total) for c in cells)
    size = tail * np.sqrt(3 * n_pairs / room)

    # What stands out clearly first, many cells in one test.
    floor = _SURE * tail * np.sqrt(max(c.n_sets for c in cells))
    hot = [c for c in cells if c.blocks[0] != c.blocks[1] and abs(c.total) > floor]
    leaves = yield from _halved(ledger, table, hot, {}, floor, until, int(max_fraction * n))
    sets = list(map(table.set_of, leaves))
    measured = yield from ledger.measure(sets, "validating", max(0, ledger.budget - until))
    known = {s: ledger.interaction[s] for s in measured}
    if known:
        lost = table.known_between([c.test for c in cells], known)  # none lies inside a block
        cells = [c._replace(total=c.total - x) for c, x in zip(cells, lost, strict=True)]

    def promise(c: Cell) -> float:
        """Log odds that the cell holds a pair of that size, plus log of how many it might be."""
        if tail == 0:
            return 0.0
        variance = c.n_sets * tail**2
        x = size * abs(c.total) / variance
        return float(x + np.log1p(np.exp(-2 * x)) - size**2 / (2 * variance) + np.log(c.n_sets))

    heap = [(-promise(c), i, c) for i, c in enumerate(cells)]
    heapq.heapify(heap)
    count = len(heap)
    found: Candidates = {}

    def push(c: Cell) -> None:
        nonlocal count
        if c.n_sets:
            count += 1
            heapq.heappush(heap, (-promise(c), count, c))

    while heap and ledger.spent + 3 < until:
        batch: list[Cell] = []
        squares: list[Cell] = []
        most = min(64, (until - ledger.spent) // 3)
        while heap and len(batch) + len(squares) < most:
            c = heapq.heappop(heap)[2]
            a, b = c.blocks
            if c.n_sets == 1:
                first, last = (a.start, a.stop - 1) if a == b else (a.start, b.start)
                found[pair(int(table.order[first]), int(table.order[last]))] = c.total
            elif a == b:
                squares.append(c)
            else:
                batch.append(c.largest_first)
        tests = [c.half_test for c in batch]
        sums = yield from table.between(ledger, tests, known, "halving groups")
        for c, first in zip(batch, sums.tolist(), strict=True):
            left, right = c.blocks[0].halves()
            push(c.with_first(left, first))
            push(c.with_first(right, c.total - first))
        halves = [half for c in squares for half in c.blocks[0].halves()]
        sums = yield from table.inside(ledger, halves, "halving groups")
        for i, c in enumerate(squares):
            left, right = c.blocks[0].halves()
            first, second = sums[2 * i : 2 * i + 2].tolist()
            push(Cell((left, left), first))
            push(Cell((right, right), second))
            push(Cell((left, right), c.total - first - second))
    for _, _, c in heap:
        if c.n_sets == 1 and c.blocks[0] != c.blocks[1]:
            found[table.set_of(c)] = c.total
    return found
