"""Errors and multiple testing over prompts.

Prompts are a sample; what is said of their mean holds for others as far as they are like these and
independent of each other. Where several prompts are made from one template or name, they are a
*cluster*, and the clusters are what is independent: errors and tests are then those of clusters.

The test of a mean is Student's, made safe where prompts are few or values discrete. Under the
hypothesis that an interaction is as often positive as negative, the most extreme result of n
nonzero prompts (all of one sign) has the probability ``2^(1 - n)``, so that no p-value may be
smaller: a row that is the same number on every prompt is no proof. Where values repeat, as those of
accuracy do, the tail of Student's t is too light, and p is at least that of the exact sign test.
"""

from itertools import pairwise
from numbers import Real

import numpy as np
from jaxtyping import Bool, Float, Int

_DISCRETE = 0.5  # distinct sizes over nonzero values, up to which a row's values are discrete
FEW = 8  # clusters, under which hardly anything can be significant


def standard_errors(
    values: Float[np.ndarray, "row prompt"], clusters: Int[np.ndarray, " prompt"] | None = None
) -> Float[np.ndarray, " row"]:
    """Standard error of each row's mean over prompts; NaN where there is only one prompt (cluster).

    Args:
        clusters: the number of each prompt's cluster; default: every prompt for itself. Then the
            error is that of sums over clusters (Liang and Zeger 1986, with G / (G - 1)).
    """
    n_prompts = values.shape[1]
    if clusters is not None:
        sums, n_clusters = cluster_sums(values, clusters)
        if n_clusters < 2:
            return np.full(len(values), np.nan)
        return np.sqrt(n_clusters / (n_clusters - 1) * (sums**2).sum(axis=1)) / n_prompts
    if n_prompts < 2:
        return np.full(len(values), np.nan)
    return values.std(axis=1, ddof=1, dtype=np.float64) / np.sqrt(n_prompts)


def cluster_sums(
    values: Float[np.ndarray, "row prompt"], clusters: Int[np.ndarray, " prompt"]
) -> tuple[Float[np.ndarray, "row cluster"], int]:
    """Each cluster's sum of deviations from the mean over all prompts, and how many there are."""
    _, number = np.unique(clusters, return_inverse=True)
    of_cluster = np.zeros((len(number), int(number.max(initial=-1)) + 1))
    of_cluster[np.arange(len(number)), number] = 1.0
    mean = values.mean(axis=1, dtype=np.float64, keepdims=True)
    return (values - mean) @ of_cluster, of_cluster.shape[1]


def by_cluster(
    values: Float[np.ndarray, "row prompt"], clusters: Int[np.ndarray, " prompt"]
) -> Float[np.ndarray, "row cluster"]:
    """A number per cluster in place of one per prompt: the cluster's sum times clusters over
    prompts, so that the mean over clusters is the mean over prompts. What is then computed as if
    clusters were prompts has the errors of clusters, ratios of means too (a ratio of sums over
    clusters: Cochran 1977, "Sampling Techniques", section 9A).

    >>> by_cluster(np.array([[1.0, 2.0, 6.0]]), np.array([0, 0, 1])).tolist()
    [[2.0, 4.0]]
    """
    _, number = np.unique(clusters, return_inverse=True)
    of_cluster = np.zeros((len(number), int(number.max(initial=-1)) + 1))
    of_cluster[np.arange(len(number)), number] = of_cluster.shape[1] / len(number)
    return values @ of_cluster


def repeated_prompts(
    rows: Float[np.ndarray, "row prompt"], floor: float = 0.0
) -> Int[np.ndarray, " prompt"]:
    """The number of the first prompt that has the same value in every row, up to ``floor``: equal
    prompts, which are one.

    >>> repeated_prompts(np.array([[1.0, 2.0, 1.0], [0.0, 5.0, 0.0]])).tolist()
    [0, 1, 0]
    """
    first = np.arange(rows.shape[1])
    order = np.lexsort(rows[::-1]) if len(rows) else first
    for before, now in pairwise(order):
        if (abs(rows[:, now] - rows[:, before]) <= floor).all():
            first[now] = first[before]
    for number in np.unique(first):
        same = first == number
        first[same] = np.flatnonzero(same)[0]
    return first


def intervals(
    values: Float[np.ndarray, "row prompt"],
    level: float = 0.9,
    selected_of: int | None = None,
    clusters: Int[np.ndarray, " prompt"] | None = None,
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Low and high end of each row's mean over prompts: t intervals, as 1.645 standard errors are
    too few where there are few prompts (NaN for one prompt).

    Args:
        level: how often such an interval holds the mean over all prompts there could be.
        selected_of: how many the rows are the strongest of, by these very values. What was selected
            looks larger than it is; then ``level`` is the share of the selected whose interval
            holds the truth (false coverage rate, Benjamini and Yekutieli 2005): each is a t
            interval at ``1 - (1 - level) * rows / selected_of``, and still around the shown value.
        clusters: the number of each prompt's cluster; default: every prompt for itself.

    Raises:
        ValueError: a level that is not between 0 and 1, or more rows than they were selected of.
    """
    from scipy.special import stdtrit

    n_rows = len(values)
    if not isinstance(level, Real) or not 0 < level < 1:
        raise ValueError(f"level is {level!r}; it must be between 0 and 1")
    if selected_of is not None and selected_of < n_rows:
        raise ValueError(f"{n_rows} rows cannot be selected of {selected_of}")
    share = 1.0 if selected_of is None else n_rows / max(selected_of, 1)
    mean, count = values.mean(axis=1, dtype=np.float64), n_independent(values, clusters)
    if count < 2:
        return np.full(n_rows, np.nan), np.full(n_rows, np.nan)
    error = standard_errors(values, clusters)
    half = stdtrit(count - 1, 1 - (1 - level) * share / 2) * error
    return mean - half, mean + half


def n_independent(
    values: Float[np.ndarray, "row prompt"], clusters: Int[np.ndarray, " prompt"] | None
) -> int:
    """How many prompts, or clusters of them, there are."""
    return values.shape[1] if clusters is None else len(np.unique(clusters))


def p_values(
    values: Float[np.ndarray, "row prompt"], clusters: Int[np.ndarray, " prompt"] | None = None
) -> Float[np.ndarray, " row"]:
    """Two-sided test of each row's mean against 0 (NaN for one prompt): Student's, and never
    smaller than signs alone could make it. Rows that are 0 on every prompt get 1.

    Args:
        clusters: the number of each prompt's cluster; default: every prompt for itself. Then sums
            over clusters are tested.
    """
    from scipy.special import bdtr, stdtr

    count = n_independent(values, clusters)
    if count < 2:
        return np.full(len(values), np.nan)
    error = standard_errors(values, clusters)
    mean = values.mean(axis=1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where((error == 0) & (mean == 0), 0.0, abs(mean) / error)
    p = 2 * stdtr(count - 1, -t)
    units = values if clusters is None else _sums(values, clusters)
    nonzero = (units != 0).sum(axis=1)
    discrete = is_discrete(units)
    fewer = np.minimum((units > 0).sum(axis=1), (units < 0).sum(axis=1))
    by_signs = np.minimum(1.0, 2 * bdtr(fewer, nonzero, 0.5))
    if count < FEW:
        p = np.maximum(p, 2.0 ** (1 - np.maximum(nonzero, 1)))
    return np.where(discrete, np.maximum(p, by_signs), p)


def _sums(
    values: Float[np.ndarray, "row prompt"], clusters: Int[np.ndarray, " prompt"]
) -> Float[np.ndarray, "row cluster"]:
    _, number = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(values), int(number.max()) + 1))
    np.add.at(sums.T, number, values.T.astype(np.float64))
    return sums


def is_discrete(values: Float[np.ndarray, "row prompt"]) -> Bool[np.ndarray, " row"]:
    """True for rows whose nonzero values repeat each other's sizes, as those of accuracy do."""
    ordered = np.sort(abs(values), axis=1)
    nonzero = (ordered > 0).sum(axis=1)
    new = np.diff(ordered, axis=1, prepend=0.0) > 0
    return (nonzero > 1) & (new.sum(axis=1) <= _DISCRETE * nonzero)


def skewness(values: Float[np.ndarray, "row prompt"]) -> float:
    """The typical skewness of the rows: the median size of the third standardised moment."""
    centred = values - values.mean(axis=1, dtype=np.float64, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=1))
    some = spread > 0
    if not some.any() or values.shape[1] < 3:
        return 0.0
    return float(np.median(abs((centred[some] ** 3).mean(axis=1) / spread[some] ** 3)))


def q_values(
    p: Float[np.ndarray, " row"], selected_of: int | None = None
) -> Float[np.ndarray, " row"]:
    """False-discovery-rate adjusted p-values (Benjamini and Hochberg 1995): calling every row with
    ``q <= 0.05`` a finding is wrong for at most 5 % of them on average.

    Args:
        selected_of: how many there were to choose from, where a search chose the rows by what the
            same prompts said of their size; the others count as if their p-values were 1. Among
            the chosen alone, null rows would have smaller p-values than they should.

    Raises:
        ValueError: more rows than they were selected of.
    """
    if not len(p) or np.isnan(p).any():
        return np.full(len(p), np.nan)
    if selected_of is not None and selected_of < len(p):
        raise ValueError(f"{len(p)} rows cannot be selected of {selected_of}")
    order = np.argsort(p)
    scaled = p[order] * (selected_of or len(p)) / np.arange(1, len(p) + 1)
    q = np.empty_like(p)
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1].clip(max=1)
    return q


def q_values_by_order(
    p: Float[np.ndarray, " row"],
    order: Int[np.ndarray, " row"],
    chosen_from: dict[int, int],
) -> Float[np.ndarray, " row"]:
    """The q-values of all rows together or, where a search chose them, of each order by itself,
    over all of that order that there were to choose from."""
    if not chosen_from:
        return q_values(p)
    q = np.empty_like(p)
    for size in np.unique(order):
        rows = order == size
        q[rows] = q_values(p[rows], chosen_from.get(int(size)))
    return q


def ratios(
    above: Float[np.ndarray, "row prompt"], below: Float[np.ndarray, " prompt"]
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, "row prompt"]]:
    """Ratios of means over prompts, and each prompt's pull on them: the standard error of a ratio,
    or of any weighted sum of ratios, is that of the mean of the pulls (linearised, as in survey
    statistics; good where ``below`` is far from 0 in standard errors)."""
    scale = below.mean(dtype=np.float64)
    ratio = above.mean(axis=1, dtype=np.float64) / scale
    return ratio, (above - ratio[:, None] * below) / scale
