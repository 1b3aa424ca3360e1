"""The audit: what may have been missed, from pairs drawn at random among those never tested.

1. Untested pairs are drawn uniformly and sorted into strata by predicted size, so that tests go
   where misses are likelier: the top 1 %, the next 9 %, the rest.
2. As many of each stratum are tested, exactly.
3. The *energy* missed (sum of squared interactions) is the strata's means times their sizes, with a
   t interval.
4. The *recall* of the top k: of all pairs at least as strong as the k-th strongest that was found,
   the share that was found, ``k / (k + M)``. Where pairs have predictions (gradients), the number
   missed, M, comes from a logistic regression of "reaches that size" on the predicted log-size over
   all pairs measured, summed over the untested; without, from the audit's tests alone, with the
   exact binomial interval: a few hundred tests cannot exclude a few strong pairs among millions,
   and the interval says so.
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
    predicted: bool,
) -> Asking[Audit | None]:
    """Test up to ``n_tests`` untested pairs at random; None when none are left, or no budget is.

    Args:
        score: larger where a pair is likelier strong.
        predicted: whether the score is a predicted log-size (else it only orders the strata).
    """
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

    samples: list[_Sample] = []
    each = max(1, n_tests // len(strata))
    for part in strata:
        size = n_untested * len(part) / len(pool)
        chosen = part[rng.permutation(len(part))[: min(each, int(size))]]
        sets = [(int(a), int(b)) for a, b in chosen]
        tested = yield from ledger.measure(sets, "audit")
        if tested:
            samples.append(_Sample(size, np.array([ledger.interaction[s] for s in tested])))
    if not samples:
        return None
    k = min(k, len(found))
    energy, low, high = _energy(samples)
    n_tested = sum(len(s.values) for s in samples)
    now = [s for s in ledger.interaction if len(s) == 2]
    measured = (
        np.array([abs(ledger.interaction[s]) for s in now]),
        score(np.array(now, dtype=np.int64)),
    )
    recall, recall_low, recall_high = _recall(
        samples,
        score(pool) if predicted else None,
        measured,
        float(found[k - 1]),
        n_untested - n_tested,
        k,
        rng,
    )
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


def _energy(samples: list[_Sample]) -> tuple[float, float, float]:
    """The energy of what the audit did not test itself, with a 90 % interval (Satterthwaite)."""
    from scipy.stats import t

    total, variance, weight = 0.0, 0.0, 0.0
    for sample in samples:
        v, size = sample.values, sample.size
        rest = max(size - len(v), 0.0)
        total += rest * float((v**2).mean())
        if len(v) > 1:
            part = rest**2 * float((v**2).var(ddof=1)) / len(v) * (rest / max(size, 1.0))
            variance += part
            weight += part**2 / (len(v) - 1)
    if not variance:
        return total, total, total
    spread = float(t.ppf(0.95, variance**2 / weight) * np.sqrt(variance))
    return total, max(0.0, float(total - spread)), float(total + spread)


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
        missed = np.array([0.0 if not hits else beta.ppf(0.05, hits, n - hits + 1), hits / n])
        missed = np.append(missed, beta.ppf(0.95, hits + 1, n - hits)) * n_untested
    else:
        draws = _missed_by_score(scores, measured, threshold, n_untested, rng)
        # Random tests that hit nothing cannot exclude that nothing is missed.
        missed = np.quantile(draws + hits, [0.05 if hits else 0.0, 0.5, 0.95])
        missed[0] = missed[0] if hits else 0.0
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
