"""The audit: what may have been missed, from pairs drawn at random among those never tested.

1. It comes last, with all of the budget that is left. Untested pairs are drawn at random; where
   slopes predict sizes, half of the chance goes with the predicted size, so that tests go where
   misses are likelier.
2. Those drawn are tested, exactly.
3. The *energy* missed (sum of squared interactions): each tested pair stands for as many untested
   ones as its chance says (Horvitz and Thompson), with a 90 % t interval on the log scale, whose
   degrees of freedom are those of the pairs that carry the sum; and its upper end allows for what
   so many tests can overlook being as large as the largest that they saw.
4. The *recall* of the top k: of all pairs at least as strong as the k-th strongest that was found,
   the share that was found, ``k / (k + M)``, M of them being untested still. Where pairs have
   predictions, M comes from regressions of "reaches that size" on the predicted log-size over all
   pairs measured, summed over the untested. Near the threshold they agree; how slowly the chance
   falls with the score, where most pairs are, nothing measured tells, so that links with slow and
   fast tails (Student's t) count alike. Without predictions M comes from the audit's tests alone,
   with the exact binomial interval: a few hundred tests cannot exclude a few strong pairs among
   millions, and the interval says so; ``recall_by_tests`` says it where there are predictions.

On real models whose pairs are all known (``benchmarks/robustness.py``, ``real_audit``) the recall's
interval held in 0.92 to 1.00 of runs. With a logistic link alone it did not: that link is sure that
pairs of low score are weak.

It fails where a few untested pairs hold much of the energy and few tests look for them: 25 tests
over 60 units hold the energy 82 % of the time over a normal tail with some planted pairs left, and
half of the time where sizes have no variance (Student's t with 1.5 degrees of freedom); the
recall's interval held then too (``benchmarks/robustness.py``).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.search.ledger import Asking, Ledger, Set

_DRAWN = 50_000
_DRAWS = 800  # of each link
_FREEDOMS = (3.0, 4.0, 6.0, 10.0, 30.0)  # of Student's t as link: how slowly it falls
_ROUNDING = 1e-9  # of the largest pair: what is smaller is rounding, not an interaction


@dataclass(frozen=True)
class Audit:
    """What is known of the pairs that were not tested.

    Args:
        n_tested: pairs that the audit tested.
        n_untested: pairs that stay untested.
        k: the recall is of the top so many.
        recall, recall_low, recall_high: estimated recall and its 90 % interval.
        recall_by_tests: what the audit's tests exclude by themselves (95 %), whatever the
            predictions say: a lower recall than this. Of millions of pairs that is little.
        energy_missed, energy_low, energy_high: of the untested pairs, and its 90 % interval.
        energy_found: of the pairs that were measured.
    """

    n_tested: int
    n_untested: int
    k: int
    recall: float
    recall_low: float
    recall_high: float
    recall_by_tests: float
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
    scores = score(pool)
    weight = _weights(scores) if predicted else np.ones(len(pool))
    # Sequential Poisson sampling (Ohlsson 1998): the first so many are a sample in which a pair's
    # chance is its weight's share of so many.
    order = np.argsort(rng.random(len(pool)) / weight, kind="stable")
    sets: list[Set] = []
    needed: set[Set] = set()
    for a, b in pool[order[: ledger.left]].tolist():
        more = {p for p in ((a,), (b,), (a, b)) if p not in ledger.value}
        if len(needed | more) > ledger.left:
            break
        needed |= more
        sets.append((a, b))
    if not sets:
        return None
    yield from ledger.measure(sets, "audit")
    values = np.array([ledger.interaction[s] for s in sets])
    chances_of_all = _chances(weight, len(sets))
    chances = chances_of_all[order[: len(sets)]]
    now = [s for s in ledger.interaction if len(s) == 2]
    sizes = np.array([abs(ledger.interaction[s]) for s in now])
    largest = np.sort(sizes)[::-1]
    k = max(1, min(k, int((largest > _ROUNDING * largest[0]).sum())))
    threshold = float(largest[k - 1])
    n_left = n_untested - len(sets)
    tested = np.where(abs(values) > _ROUNDING * largest[0], values, 0.0)
    scale = n_untested / len(pool)
    energy = _energy(tested, chances, scale, n_left, threshold)
    # Where all that was found is 0, a pair that is 0 too is not one that was missed.
    hit = (abs(values) >= threshold) & (threshold > 0)
    hits = int(hit.sum())
    if threshold and predicted and np.ptp(scores) > 0:
        measured = (sizes, score(np.array(now, dtype=np.int64)))
        draws = _missed_by_score(scores, measured, threshold, n_left, rng)
        missed = np.quantile(draws, [0.05, 0.5, 0.95])
        # Tests that hit nothing cannot exclude that nothing is missed; what others hit counts too.
        by_tests = _by_hits(scale / chances[hit] - 1)
        missed[[0, 2]] = min(missed[0], by_tests[0]), min(max(missed[2], by_tests[1]), n_left)
    else:
        missed = _missed_at_random(hits, len(sets)) * n_left
    low, middle, high = k / (k + missed)
    overlooked = _overlooked(hits, float(chances_of_all.min()) / scale)
    recall = (float(middle), float(high), float(low), k / (k + min(overlooked, n_left)))
    return Audit(len(sets), n_left, k, *recall, *energy, float((sizes**2).sum()))


def _weights(scores: Float[np.ndarray, " pair"]) -> Float[np.ndarray, " pair"]:
    """What a pair's chance to be tested goes with: its predicted size, and as much for all alike,
    should predictions be wrong."""
    sizes = np.exp(scores - scores.max())
    return sizes / sizes.mean() + 1.0


def _chances(weight: Float[np.ndarray, " pair"], count: int) -> Float[np.ndarray, " pair"]:
    """Each pair's chance to be among so many drawn; those that would pass 1 are drawn surely."""
    chances = np.minimum(1.0, count * weight / weight.sum())
    for _ in range(20):
        sure = chances >= 1.0
        rest = count - int(sure.sum())
        if rest <= 0 or sure.all():
            break
        chances[~sure] = np.minimum(1.0, rest * weight[~sure] / weight[~sure].sum())
    return chances


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
    values: Float[np.ndarray, " pair"],
    chances: Float[np.ndarray, " pair"],
    scale: float,
    n_left: int,
    threshold: float,
) -> tuple[float, float, float]:
    """The energy of what stays untested, with a 90 % interval: a t interval on the log scale, as
    energies are positive and skewed.

    A tested pair stands for ``1 / chance`` pairs, itself among them: for ``1 / chance - 1`` others.
    """
    from scipy.stats import t

    n = len(values)
    stands_for = scale * values**2 * (1 - chances) / chances
    total = float(stands_for.sum())
    variance = n * float(stands_for.var(ddof=1)) if n > 1 else 0.0
    if not total or not variance:
        # All tests alike: as many as tests can overlook may still be as strong as the k-th.
        return total, total, total + n_left * (1 - 0.1 ** (1 / n)) * threshold**2
    # As many as carry the sum, not as many as were tested: where few do, large ones go unseen.
    effective = max(2.0, total**2 / float((stands_for**2).sum()))
    factor = float(np.exp(t.ppf(0.95, effective - 1) * np.sqrt(variance) / total))
    # And what n tests can overlook, a share of 1 - 0.1^(1/n), may be as large as the largest seen.
    unseen = n_left * (1 - 0.1 ** (1 / n)) * float((values**2).max())
    return total, total / factor, max(total * factor, total + unseen)


def _missed_at_random(hits: int, n_tests: int) -> Float[np.ndarray, " 3"]:
    """The share of untested pairs that reach the threshold, and its exact 90 % interval, where
    nothing tells untested pairs apart."""
    from scipy.stats import beta

    least = beta.ppf(0.05, hits, n_tests - hits + 1) if hits else 0.0
    most = beta.ppf(0.95, hits + 1, n_tests - hits) if hits < n_tests else 1.0
    return np.array([least, hits / n_tests, most])


def _by_hits(stands_for: Float[np.ndarray, " hit"]) -> tuple[float, float]:
    """How many untested pairs reach the threshold, from those that tests hit and how many others
    each stands for: the ends of a 90 % interval, as of a Poisson count of equal weights."""
    from scipy.stats import chi2

    total = float(stands_for.sum())
    if not total:
        return 0.0, 0.0
    count = total**2 / float((stands_for**2).sum())
    low, high = chi2.ppf(0.05, 2 * count), chi2.ppf(0.95, 2 * (count + 1))
    return total * float(low) / (2 * count), total * float(high) / (2 * count)


def _overlooked(hits: int, chance: float) -> float:
    """So many untested pairs, at most, reach the threshold (95 %), of which each had at least this
    chance to be tested, and so many were."""
    from scipy.stats import chi2

    return float(chi2.ppf(0.95, 2 * (hits + 1)) / 2 / chance) - hits


def _missed_by_score(
    scores: Float[np.ndarray, " pair"],
    measured: tuple[Float[np.ndarray, " measured"], Float[np.ndarray, " measured"]],
    threshold: float,
    n_untested: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, " draw"]:
    """Draws of how many untested pairs reach the threshold: regressions of "reaches it" on the
    score over all pairs measured, as many draws of each link. What was measured lies where scores
    are high; how slowly the chance falls beyond, where most pairs are, it cannot tell."""
    sizes, at = measured
    middle, spread = float(at.mean()), float(at.std()) or 1.0
    x = np.stack([np.ones(len(at)), (at - middle) / spread], axis=1)
    z = (scores - middle) / spread
    # Untested pairs in 200 bins of equal count: their scores change little within one.
    bins = np.array([part.mean() for part in np.array_split(np.sort(z), min(200, len(z)))])
    draws = []
    for freedom in _FREEDOMS:
        mode, covariance = _fit(x, sizes >= threshold, freedom)
        drawn = rng.multivariate_normal(mode, covariance, _DRAWS)
        reach = _link(drawn[:, :1] + drawn[:, 1:] * bins, freedom)[0]
        draws.append(rng.poisson(reach.mean(axis=1) * n_untested).astype(np.float64))
    return np.concatenate(draws)


def _fit(
    x: Float[np.ndarray, "measured 2"], reaches: Bool[np.ndarray, " measured"], freedom: float
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, "2 2"]]:
    """Mode and covariance of a regression with weak normal priors, by Fisher's scoring."""
    prior = np.diag(1 / np.array([10.0, 5.0]) ** 2)
    weights, information = np.array([-2.0, 1.0]), prior
    for _ in range(100):
        p, density = _link(x @ weights, freedom)
        pull = density / (p * (1 - p))
        information = (x * (density * pull)[:, None]).T @ x + prior
        step = np.linalg.solve(information, x.T @ (pull * (reaches - p)) - prior @ weights)
        weights = weights + np.clip(step, -1, 1)
        if abs(step).max() < 1e-8:
            break
    return weights, np.linalg.inv(information)


def _link(
    at: Float[np.ndarray, "*shape"], freedom: float
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Student's t: the chance below ``at``, kept off 0 and 1, and the density there."""
    from scipy.special import gammaln, stdtr

    scale = np.exp(gammaln((freedom + 1) / 2) - gammaln(freedom / 2)) / np.sqrt(freedom * np.pi)
    density = scale * (1 + at**2 / freedom) ** (-(freedom + 1) / 2)
    return np.clip(stdtr(freedom, at), 1e-12, 1 - 1e-12), density
