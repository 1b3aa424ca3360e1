"""Which untested pairs the audit tests, and with what chances.

1. All untested pairs, or of very many a uniform sample, each standing for equally many.
2. Strata: pairs of which both, one or none of the units has a gradient row, as predictions mean
   something else in each; and in each of these the tenth of largest prediction.
3. Tests fall on the strata in proportion to their sizes, by systematic sampling with a random
   start, and on the pairs of a stratum in random order: every untested pair has the same chance.
   More tests where predictions are larger were tried; they widen the bound of what nothing predicts
   by more than they narrow the rest, as validation has measured what is likely already.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from spex_mech.masks import Set
from spex_mech.search.budget import Context
from spex_mech.search.ledger import Asking, Ledger
from spex_mech.search.rankers import PairRanker

_ENUMERATED = 1_000_000  # pairs, up to which all are looked at
_DRAWN = 200_000  # of more
_LARGEST = 0.9  # quantile of predictions from which on they count as large


@dataclass(frozen=True)
class Drawn:
    """The audit's tests: a random sample of the untested pairs.

    Args:
        values: each tested pair's interaction.
        n_pairs: untested pairs before the audit.
    """

    values: Float[np.ndarray, " test"]
    n_pairs: int

    @property
    def n_tested(self) -> int:
        return len(self.values)


def draw(context: Context, ranker: PairRanker) -> Asking[Drawn | None]:
    """Draw untested pairs and test them, with all of the budget that is left.

    Returns:
        None where no pair is untested, or no test could be paid for.
    """
    ledger, rng = context.ledger, context.rng
    known = {s for s in ledger.interaction if len(s) == 2}
    n_untested = ledger.n * (ledger.n - 1) // 2 - len(known)
    if n_untested < 1 or ledger.left < 1:
        return None
    pool = untested(ledger.n, known, rng)
    tested = _affordable(ledger, pool, in_proportion(strata(pool, ranker), rng))
    if not len(tested):
        return None
    sets: list[Set] = [(int(a), int(b)) for a, b in pool[tested]]
    yield from ledger.measure(sets, "audit")
    return Drawn(np.array([ledger.interaction[s] for s in sets]), n_untested)


def untested(n: int, known: set[Set], rng: np.random.Generator) -> Int[np.ndarray, "pair 2"]:
    """All untested pairs, or a uniform sample of very many."""
    if n * (n - 1) // 2 <= _ENUMERATED:
        pairs = np.stack(np.triu_indices(n, 1), axis=1)
    else:
        drawn = np.sort(rng.integers(0, n, (2 * _DRAWN, 2)), axis=1)
        pairs = np.unique(drawn[drawn[:, 0] < drawn[:, 1]], axis=0)
    keys = np.array([a * n + b for a, b in known], dtype=np.int64)
    return pairs[~np.isin(pairs[:, 0].astype(np.int64) * n + pairs[:, 1], keys)]


def strata(pool: Int[np.ndarray, "pair 2"], ranker: PairRanker) -> Int[np.ndarray, " pair"]:
    """Each pair's stratum: twice the kind of its prediction, and one more in the tenth of largest
    prediction."""
    scores, kind = ranker.score(pool), ranker.kind_of(pool)
    stratum = 2 * kind
    for one in np.unique(kind):
        mine = kind == one
        stratum[mine] += scores[mine] > np.quantile(scores[mine], _LARGEST)
    return stratum


def in_proportion(
    stratum: Int[np.ndarray, " pair"], rng: np.random.Generator
) -> Int[np.ndarray, " pair"]:
    """All pairs in an order of which any beginning holds the strata in proportion, and every pair
    with the same chance."""
    place = np.empty(len(stratum))
    for one in np.unique(stratum):
        rows = np.flatnonzero(stratum == one)
        place[rows] = (rng.permutation(len(rows)) + rng.random()) / len(rows)
    return np.argsort(place, kind="stable")


def _affordable(
    ledger: Ledger, pool: Int[np.ndarray, "pair 2"], order: Int[np.ndarray, " pair"]
) -> Int[np.ndarray, " test"]:
    """The first of them, as many as can be paid for; a pair may need its single ablations too."""
    needed: set[Set] = set()
    count = 0
    for a, b in pool[order[: ledger.left]].tolist():
        more = {s for s in ((a,), (b,), (a, b)) if s not in ledger.value}
        if len(needed | more) > ledger.left:
            break
        needed |= more
        count += 1
    return order[:count]
