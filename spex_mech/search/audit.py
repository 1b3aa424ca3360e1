"""The audit: what may have been missed, from pairs drawn at random among those never tested.

1. It comes last, with all of the budget that is left. Untested pairs are drawn uniformly and, where
   gradients predict sizes, sorted into strata, so that tests go where misses are likelier: the
   top 1 %, the next 9 %, the rest.
2. As many of each stratum are tested, exactly.
3. The *energy* missed (sum of squared interactions) is the strata's means times what stays untested
   in them, with a 90 % t interval on the log scale.
4. The *recall* of the top k: of all pairs at least as strong as the k-th strongest that was found,
   the share that was found, ``k / (k + M)``, M of them being untested still. Where pairs have
   predictions, M comes from a logistic regression of "reaches that size" on the predicted log-size
   over all pairs measured, summed over the untested; without, from the audit's tests alone, with
   the exact binomial interval: a few hundred tests cannot exclude a few strong pairs among
   millions, and the interval says so.

Measured over 200 games each (``tests/test_spex.py``, slow): where untested sizes have a normal
tail, both intervals cover some 90 %. Where the tail is heavy (saturating games), the recall's still
does, but the energy's only some 75 to 80 %: a few tests of a stratum do not see its rare large
pairs, and the truth is then above the interval.
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
    k: int,
    score: Callable[[Int[np.ndarray, "pair 2"]], Float[np.ndarray, " pair"]],
    predicted: bool,
) -> Asking[Audit | None]:
    """Test untested pairs at random with all of the budget that is left.

    Args:
        k: the recall is of the top so many.
        score: predicted log-size of a pair.
        predicted: whether there are predictions; without, all pairs are one stratum.

    Returns:
        None where no pair is left untested, or no test could be paid for.
    """
    n = ledger.n
    tested_before = {s for s in ledger.interaction if len(s) == 2}
    n_untested = n * (n - 1) // 2 - len(tested_before)
    if n_untested < 1:
        return None
    pool = _untested(n, tested_before, rng)
    order = rng.permutation(len(pool))  # ties in the score are broken at random
    shares = _SHARES if predicted else (1.0,)
    if predicted:
        order = order[np.argsort(-score(pool[order]), kind="stable")]
    cuts = np.cumsum([int(np.ceil(share * len(pool))) for share in shares[:-1]])
    strata = [part[rng.permutation(len(part))] for part in np.split(pool[order], cuts)]
    strata = [part for part in strata if len(part)]

    # In turn, so that what can be paid for is as many of each: a random sample of each.
    turns = [
        (int(part[row][0]), int(part[row][1]))
        for row in range(max(len(part) for part in strata))
        for part in strata
        if row < len(part) and row < ledger.left
    ]
    sets: list[Set] = []
    needed: set[Set] = set()
    for s in turns:
        more = {p for p in ((s[0],), (s[1],), s) if p not in ledger.value}
        if len(needed | more) > ledger.left:
            break
        needed |= more
        sets.append(s)
    yield from ledger.measure(sets, "audit")
    values = {s: ledger.interaction[s] for s in sets}
    samples = []
    for part in strata:
        mine = [values[t] for t in ((int(a), int(b)) for a, b in part[: len(sets)]) if t in values]
        samples.append(_Sample(n_untested * len(part) / len(pool), np.array(mine)))
    if any(not len(sample.values) for sample in samples):
        return None
    now = [s for s in ledger.interaction if len(s) == 2]
    sizes = np.array([abs(ledger.interaction[s]) for s in now])
    largest = np.sort(sizes)[::-1]
    k = max(1, min(k, int((largest > 1e-9 * largest[0]).sum())))  # the rest is rounding
    threshold = float(largest[k - 1])
    n_left = n_untested - len(sets)
    energy = _energy(samples, threshold)
    scores = score(pool) if predicted else None
    measured = (sizes, score(np.array(now, dtype=np.int64)))
    recall = _recall(samples, scores, measured, threshold, n_left, k, rng)
    return Audit(len(sets), n_left, k, *recall, *energy, float((sizes**2).sum()))


@dataclass(frozen=True, eq=False)
class _Sample:
    """One stratum: how many untested pairs it holds, and what its tests gave."""

    size: float
    values: Float[np.ndarray, " pair"]


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


def _energy(samples: list[_Sample], threshold: float) -> tuple[float, float, float]:
    """The energy of what stays untested, with a 90 % interval: a t interval (Satterthwaite) on the
    log scale, as energies are positive and skewed."""
    from scipy.stats import t

    total, variance, weight, n = 0.0, 0.0, 0.0, 0
    for sample in samples:
        v, rest = sample.values**2, max(sample.size - len(sample.values), 0.0)
        n += len(v)
        total += rest * float(v.mean())
        if len(v) > 1:
            part = rest * sample.size * float(v.var(ddof=1)) / len(v)
            variance += part
            weight += part**2 / (len(v) - 1)
    if not variance or not total:
        # All tests alike: as many as tests can overlook may still be as strong as the k-th.
        size = sum(sample.size for sample in samples)
        return total, total, total + size * (1 - 0.1 ** (1 / n)) * threshold**2
    factor = float(np.exp(t.ppf(0.95, variance**2 / weight) * np.sqrt(variance) / total))
    return total, total / factor, total * factor


def _recall(
    samples: list[_Sample],
    scores: Float[np.ndarray, " pair"] | None,
    measured: tuple[Float[np.ndarray, " measured"], Float[np.ndarray, " measured"]],
    threshold: float,
    n_untested: int,
    k: int,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    hits = sum(int((abs(s.values) >= threshold).sum()) for s in samples)
    if scores is None or np.ptp(scores) == 0:
        # Nothing tells untested pairs apart: one share for all, with its exact interval.
        from scipy.stats import beta

        n = sum(len(s.values) for s in samples)
        least = beta.ppf(0.05, hits, n - hits + 1) if hits else 0.0
        most = beta.ppf(0.95, hits + 1, n - hits) if hits < n else 1.0
        missed = np.array([least, hits / n, most]) * n_untested
    else:
        draws = _missed_by_score(scores, measured, threshold, n_untested, rng)
        missed = np.quantile(draws, [0.05, 0.5, 0.95])
        if not hits:
            missed[0] = 0.0  # random tests that hit nothing cannot exclude that nothing is missed
    low, middle, high = k / (k + missed)
    return float(middle), float(high), float(low)


def _missed_by_score(
    scores: Float[np.ndarray, " pair"],
    measured: tuple[Float[np.ndarray, " measured"], Float[np.ndarray, " measured"]],
    threshold: float,
    n_untested: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " draw"]:
    """Draws of how many untested pairs reach the threshold: a logistic regression on the score over
    all pairs measured, with weak normal priors and a normal approximation of its posterior."""
    sizes, at = measured
    middle, spread = float(at.mean()), float(at.std()) or 1.0
    x = np.stack([np.ones(len(at)), (at - middle) / spread], axis=1)
    y = (sizes >= threshold).astype(np.float64)
    prior = np.diag(1 / np.array([10.0, 5.0]) ** 2)
    weights = np.array([-2.0, 1.0])
    hessian = prior
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + prior
        step = np.linalg.solve(hessian, x.T @ (y - p) - prior @ weights)
        weights = weights + np.clip(step, -2, 2)
        if abs(step).max() < 1e-8:
            break
    drawn = rng.multivariate_normal(weights, np.linalg.inv(hessian), 2000)
    z = (scores - middle) / spread
    # Untested pairs in 200 bins of equal count: their scores change little within one.
    bins = np.array([part.mean() for part in np.array_split(np.sort(z), min(200, len(z)))])
    share = 1 / (1 + np.exp(-np.clip(drawn[:, :1] + drawn[:, 1:] * bins, -30, 30)))
    return rng.poisson(share.mean(axis=1) * n_untested).astype(np.float64)
