"""The audit: what may have been missed, from pairs drawn at random among those never tested.

1. Untested pairs are drawn uniformly and sorted into strata by predicted size, so that tests go
   where misses are likelier: the top 1 %, the next 9 %, the rest.
2. As many of each stratum are tested, exactly.
3. The *energy* missed (sum of squared interactions) is the strata's means times their sizes, with a
   t interval. The *recall* of the top k: of all pairs at least as strong as the k-th strongest that
   was found, the share that was found, ``k / (k + M)``; the number missed, M, has a posterior under
   Jeffreys' prior for each stratum, and its 90 % interval is the recall's.

No assumption is made on how sizes are distributed; so a few hundred tests cannot exclude a few
strong pairs among millions, and the interval says so.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from spex_mech.search.ledger import Asking, Ledger, Set

_DRAWN = 50_000
_SHARES = (0.01, 0.09, 0.90)


@dataclass(frozen=True)
class Audit:
    """What is known of the pairs that were not tested.

    Args:
        n_tested: pairs that the audit tested.
        n_untested: pairs that stay untested.
        k: the recall is of the top so many.
        recall, recall_low, recall_high: estimated recall and its 90 % interval.
        energy_missed, energy_low, energy_high: of the untested pairs, and its 90 % interval.
        energy_found: of the pairs that were measured.
    """

    n_tested: int
    n_untested: int
    k: int
    recall: float
    recall_low: float
    recall_high: float
    energy_missed: float
    energy_low: float
    energy_high: float
    energy_found: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def audit(
    ledger: Ledger,
    rng: np.random.Generator,
    n_tests: int,
    k: int,
    score: Callable[[Int[np.ndarray, "pair 2"]], Float[np.ndarray, " pair"]],
) -> Asking[Audit | None]:
    """Test up to ``n_tests`` untested pairs at random; None when none are left, or no budget is."""
    n = ledger.n
    tested_before = {s for s in ledger.interaction if len(s) == 2}
    n_untested = n * (n - 1) // 2 - len(tested_before)
    found = np.sort([abs(ledger.interaction[s]) for s in tested_before])[::-1]
    if not n_untested or n_tests < len(_SHARES) or not len(found):
        return None
    pool = _untested(n, tested_before, rng)
    order = rng.permutation(len(pool))  # ties in the score are broken at random
    order = order[np.argsort(-score(pool[order]), kind="stable")]
    cuts = np.cumsum([int(np.ceil(share * len(pool))) for share in _SHARES[:-1]])
    strata = [part for part in np.split(pool[order], cuts) if len(part)]

    values, sizes = [], []
    each = max(1, n_tests // len(strata))
    for part in strata:
        size = n_untested * len(part) / len(pool)
        chosen = part[rng.permutation(len(part))[: min(each, int(size))]]
        sets = [(int(a), int(b)) for a, b in chosen]
        measured = yield from ledger.measure(sets, "audit")
        if measured:
            values.append(np.array([ledger.interaction[s] for s in measured]))
            sizes.append(size)
    if not values:
        return None
    k = min(k, len(found))
    energy, low, high = _energy(values, sizes)
    recall, recall_low, recall_high = _recall(values, sizes, found, k, rng)
    n_tested = sum(len(v) for v in values)
    return Audit(
        n_tested,
        n_untested - n_tested,
        k,
        recall,
        recall_low,
        recall_high,
        energy,
        low,
        high,
        float((found**2).sum()),
    )


def _untested(n: int, tested: set[Set], rng: np.random.Generator) -> Int[np.ndarray, "pair 2"]:
    """All untested pairs, or a uniform sample of many of them."""
    if n * (n - 1) // 2 <= 4 * _DRAWN:
        pairs = np.stack(np.triu_indices(n, 1), axis=1)
    else:
        drawn = np.sort(rng.integers(0, n, (2 * _DRAWN, 2)), axis=1)
        drawn = drawn[drawn[:, 0] < drawn[:, 1]]
        pairs = np.unique(drawn, axis=0)
    known = np.array([a * n + b for a, b in tested], dtype=np.int64)
    return pairs[~np.isin(pairs[:, 0].astype(np.int64) * n + pairs[:, 1], known)]


def _energy(
    values: list[Float[np.ndarray, " pair"]], sizes: list[float]
) -> tuple[float, float, float]:
    """The energy of what the audit did not test itself, with a 90 % interval (Satterthwaite)."""
    from scipy.stats import t

    total, variance, weight = 0.0, 0.0, 0.0
    for v, size in zip(values, sizes, strict=True):
        rest = max(size - len(v), 0.0)
        total += rest * float((v**2).mean())
        if len(v) > 1:
            part = rest**2 * float((v**2).var(ddof=1)) / len(v) * (rest / max(size, 1.0))
            variance += part
            weight += part**2 / (len(v) - 1)
    if not variance:
        return total, total, total
    spread = float(t.ppf(0.95, variance**2 / weight)) * np.sqrt(variance)
    return total, max(0.0, total - spread), total + spread


def _recall(
    values: list[Float[np.ndarray, " pair"]],
    sizes: list[float],
    found: Float[np.ndarray, " pair"],
    k: int,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    threshold = found[k - 1]
    missed = np.zeros(4000)
    expected = 0.0
    for v, size in zip(values, sizes, strict=True):
        hits = int((abs(v) >= threshold).sum())
        expected += size * hits / len(v)
        share = rng.beta(hits + 0.5, len(v) - hits + 0.5, len(missed))
        # What the audit itself hit is found now; the rest of the stratum may hold more.
        missed += rng.binomial(int(max(size - len(v), 0)), share) + hits
    low, high = np.quantile(missed, [0.05, 0.95])
    return k / (k + expected), k / (k + high), k / (k + low)
