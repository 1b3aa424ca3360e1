"""Candidates without gradients: group tests, for games that only return values.

For two disjoint groups A and B of units,
``I(A, B) = f(N without A and B) - f(N without A) - f(N without B) + f(N)``
is the sum of all interactions between them: main effects and all that is inside a group cancel.

1. ``probe_groups``: some cells of a table of some 32 x 32 blocks. The ratio of their median to
   their root mean square tells a sparse truth (few cells hold anything) from a dense tail (all do).
2. ``tree``, for a sparse truth: measure the whole table, halve the hot cells down to single pairs,
   then again with other blocks and what was found subtracted, against cancellation, until a pass
   finds nothing new. Takes some ``K^2 / 2 + s (4 log2(n / K) + 1)`` evaluations for s pairs; the
   table's floor, some robust standard deviations of its cells, hides weaker ones.
3. ``higher_tree``: the same for sets of three units and more.

For a dense tail see ``halving``. The larger the groups, the further from the intact model;
interactions of order three and more then leak in. Every pair that comes out is measured at the
intact model before it counts.

Group tests with halving go back to learning hidden graphs with additive queries (Grebinski and
Kucherov 2000).
"""

from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise, permutations, product
from math import comb, prod
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.masks import Set
from spex_mech.search.budget import Budget, Context
from spex_mech.search.ledger import Asking, Ledger, subsets
from spex_mech.search.settings import SearchSettings

Candidates = dict[Set, float]

_NOTHING = 1e-6  # of what ablating a block changes: rounding
ROBUST = 1.4826  # standard deviation of a normal variable over its median size
_ROUNDING = 1e-8
_LEAST_AFTER_TABLE = 50  # evaluations, without which another table is not worth it
_LEAST_INTACT = 1e-12  # of the intact value: rounding
_UNDONE = 0.6  # of the tests of a halving, that pooling leaves over on average


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
    context: Context, budget: Budget, max_fraction: float
) -> Asking["Partition | None"]:
    """Whether the truth is sparse: the partition that the tree should start with; None if not.

    Args:
        max_fraction: the largest share of the units that a test may ablate.
    """
    ledger, rng, settings = context.ledger, context.rng, context.settings
    n = ledger.n
    # The whole table, should it be wanted, may take this share of what there is to spend.
    share = settings.split_table_share
    most = max(4, int(np.sqrt(2 * share * budget.left)))
    n_blocks = min(max(32, int(np.ceil(2 / max_fraction))), max(2, n // 2), most)
    while True:
        table = Partition(rng.permutation(n), n_blocks)
        tests = table.tests()
        some = [tests[i] for i in rng.permutation(len(tests))[: settings.probed_cells]]
        sums = abs((yield from table.between(ledger, some, {}, "testing groups")))
        blocks = [table.units((block,)) for block in table.blocks]
        alone = yield from ledger.sums(blocks, "testing groups")
        spread = np.sqrt((sums**2).mean())
        nothing = spread <= _NOTHING * abs(alone - ledger.intact).max()
        ratio = 0.0 if nothing else np.median(sums) / spread
        if ratio < settings.sparse_ratio:
            return table
        # Of many sparse pairs each cell may hold some: smaller cells tell them from a dense tail.
        if 2 * n_blocks > n // 2 or 2 * n_blocks**2 > (share + 0.05) * budget.left:
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
    context: Context, budget: Budget, table: Partition, max_fraction: float
) -> Asking[Candidates]:
    """Strong pairs of a sparse truth, each measured.

    A table in which most cells hold something has a floor that hides pairs like those that are
    known; finer ones then follow, until one is sparse.
    """
    n, known = context.ledger.n, Candidates()
    for n_pass in range(context.settings.max_passes):
        new = yield from _one_pass(context, budget, table, 2, known, max_fraction)
        known |= new or {}
        sizes = [abs(value) for value in known.values()]
        crowded = bool(sizes) and table.floor > np.median(sizes)
        n_blocks = max(16, int(np.ceil(2 / max_fraction)))
        n_blocks = min(2 * len(table.blocks) if crowded else n_blocks, n // 2)
        too_expensive = n_blocks * (n_blocks + 1) // 2 + _LEAST_AFTER_TABLE > budget.left
        if too_expensive or (n_pass and not new and not crowded):
            break
        table = Partition(context.rng.permutation(n), n_blocks)
    return known


def higher_tree(
    context: Context, budget: Budget, order: int, max_fraction: float
) -> Asking[Candidates]:
    """Sets of three units and more that interact, whatever their subsets do, if they are few.

    Interactions of fewer units cancel in a test of this order. A table takes all sets of so many
    blocks, ``order / max_fraction`` blocks at least, and more while each cell holds something;
    nothing is done where a table would take more than half of what may be spent. As a set may have
    two units in one block, which no test of that table sees, two tables in a row must hold nothing
    new before the search ends.
    """
    n = context.ledger.n
    n_blocks = min(max(int(np.ceil(order / max_fraction)), 2 * order + 2), n)
    known: Candidates = {}
    done = empty = 0
    while done < 2 * context.settings.max_passes and empty < 2:
        cost = sum(comb(n_blocks, size) for size in range(1, order + 1))
        if (1 if done else 2) * cost > budget.left:
            break
        table = Partition(context.rng.permutation(n), n_blocks)
        new = yield from _one_pass(context, budget, table, order, known, max_fraction)
        if new is None and n_blocks < n:
            n_blocks = min(n_blocks + (n_blocks + 1) // 2, n)
            continue
        known |= new or {}
        done += 1
        empty = 0 if new else empty + 1
    return known


def _one_pass(
    context: Context,
    budget: Budget,
    table: Partition,
    order: int,
    known: Candidates,
    max_fraction: float,
) -> Asking[Candidates | None]:
    """What one partition finds beyond what is known; None where the first table is not sparse."""
    ledger, settings = context.ledger, context.settings
    tests = table.tests(order)
    if order > 2 and not known:
        some = tests[:: max(1, len(tests) // settings.probed_cells)]
        sums = yield from table.between(ledger, some, known, "testing groups")
        if np.median(abs(sums)) > settings.sparse_ratio * np.sqrt((sums**2).mean()):
            return None
    sums = yield from table.between(ledger, tests, known, "testing groups")
    largest = max([abs(sums).max(initial=0.0), *map(abs, known.values())])
    floor = surely(len(tests), settings) * ROBUST * float(np.median(abs(sums)))
    floor = table.floor = max(floor, _ROUNDING * largest, _LEAST_INTACT * abs(ledger.intact))
    hot = [
        Cell(tuple(block for (block,) in test), float(total))
        for test, total in zip(tests, sums, strict=True)
        if abs(total) > floor
    ]
    leaves = yield from halved(context, budget, table, hot, known, floor, max_fraction)
    found = [s for s in dict.fromkeys(map(table.set_of, leaves)) if s not in known]
    measured = yield from ledger.measure(found, "measuring likely pairs", max(0, budget.reserved))
    sizes = {s: ledger.interaction[s] for s in measured}
    return {s: value for s, value in sizes.items() if abs(value) > floor / 2}


def halved(
    context: Context,
    budget: Budget,
    table: Partition,
    hot: list[Cell],
    known: Candidates,
    floor: float,
    max_fraction: float,
) -> Asking[list[Cell]]:
    """Halve hot cells down to single sets, one side after the other, many cells in one test.

    Args:
        floor: what a sum must exceed to be something; later floors come from how far the sums of
            pooled tests were off.
        max_fraction: of the units, that one test may ablate.
    """
    ledger, settings = context.ledger, context.settings
    leaves: list[Cell] = []
    least = _ROUNDING * max((abs(c.total) for c in hot), default=0.0)
    while hot:
        turned = [c.turned for c in hot]
        leaves += [c for c in turned if c.n_sets == 1]
        turned = [c for c in turned if c.n_sets > 1]
        if not turned:
            break
        cost_per_test = 2 ** len(turned[0].blocks) - 1
        pools = _pools(turned, floor, int(max_fraction * ledger.n), settings.max_pooled)
        pools = _affordable(pools, turned, cost_per_test, budget.left)
        if cost_per_test * len(pools) > budget.left:
            break
        tests = [
            tuple(map(_each_once, zip(*(c.half_test for c in pool), strict=True))) for pool in pools
        ]
        sums = yield from table.between(ledger, tests, known, "halving groups")
        hot, residuals = [], []
        unclear: list[Cell] = []
        for pool, total in zip(pools, sums, strict=True):
            in_first, residual = decode([c.total for c in pool], float(total))
            if residual > floor:
                unclear += pool
                continue
            residuals.append(residual)
            for c, first in zip(pool, in_first, strict=True):
                hot.append(c.with_first(c.blocks[0].halves()[not first], c.total))
        # What no subset explains: a cell of several sets that part, or an interaction of higher
        # order. Each of its cells is tested by itself.
        unclear = unclear[: max(0, budget.left) // cost_per_test]
        firsts = [c.half_test for c in unclear]
        sums = yield from table.between(ledger, firsts, known, "halving groups")
        for c, first in zip(unclear, sums.tolist(), strict=True):
            for half, total in zip(c.blocks[0].halves(), (first, c.total - first), strict=True):
                if abs(total) > floor:
                    hot.append(c.with_first(half, total))
        if len(residuals) >= settings.min_residuals:
            spread = surely(len(residuals), settings) * ROBUST * float(np.median(residuals))
            floor = min(floor, max(least, spread))
    return leaves


def surely(n_cells: int, settings: SearchSettings) -> float:
    """Standard deviations that the largest of so many sums of a normal tail exceeds only with the
    chance ``false_alarm`` (Bonferroni): 3.9 for the 496 cells of a first table, 5.4 for a million.
    """
    from scipy.special import ndtri

    return float(-ndtri(settings.false_alarm / (2 * n_cells)))


def decode(totals: Sequence[float], observed: float) -> tuple[tuple[bool, ...], float]:
    """Which of several cells have their sum in the half that was tested, if each has it in one half
    alone: those whose totals add up to what was observed, and by how much they are off.

    >>> decode([1.0, -0.4, 3.0], 2.6)
    ((False, True, True), 0.0)
    """
    inside = list(product((False, True), repeat=len(totals)))
    residuals = abs(np.array(inside) @ np.array(totals) - observed)
    best = int(residuals.argmin())
    return inside[best], float(residuals[best])


def _affordable(
    pools: list[list[Cell]], cells: list[Cell], cost_per_test: int, left: int
) -> list[list[Cell]]:
    """Those of the pools whose cells can be halved to their end: the strongest."""
    levels = np.ceil(np.log2(max(c.n_sets for c in cells)))
    affordable = max(1, int(left / (_UNDONE * cost_per_test * levels)))
    if len(pools) > affordable:
        pools.sort(key=lambda pool: -sum(abs(c.total) for c in pool))
    return pools[:affordable]


def _each_once(groups: Iterable[Group]) -> Group:
    return tuple(dict.fromkeys(block for group in groups for block in group))


def _pools(cells: list[Cell], floor: float, max_units: int, max_pooled: int) -> list[list[Cell]]:
    """Cells whose first halves can be tested at once.

    One test of the halves of cells ``A1 x B1`` and ``A2 x B2`` ablates ``A1 + A2`` and ``B1 + B2``,
    so that it sees ``A1 x B2`` and ``A2 x B1`` too::

             B1   B2
        A1   hot   .      both dots must be cold: no other hot cell lies between the units of one
        A2    .   hot     cell and the partners of another

    and the sums of any two subsets of the cells must differ by more than noise, or what was
    observed would not tell which of them have their sum in the first half.
    """
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
                if len(pool) == max_pooled or size + tested > max_units:
                    continue
                if np.diff(np.sort(grown)).min() <= 3 * floor:
                    continue
            grown_touched = touched | np.stack(
                [(starts < x.stop) & (stops > x.start) for x in blocks]
            )
            # Those in the pool are crossed by their own test; no other may be.
            members = [*pool, i]
            if (
                _one_of_each(grown_touched).sum() > len(members)
                or (grown_touched[:, members].sum(axis=0) > 1).any()
            ):
                continue
            if not all(c.apart_from(cells[j]) for j in pool):
                continue
            pool.append(i)
            sums, size, touched = grown, size + tested, grown_touched
        pools.append([cells[i] for i in pool])
        chosen = set(pool)
        left = [i for i in left if i not in chosen]
    return pools
