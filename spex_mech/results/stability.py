"""What of a result holds on other prompts, tasks, ablations or checkpoints.

``stability`` redraws the prompts of one result (bootstrap): do its strongest pairs stay on top?
``compare`` sets two results of the same units side by side.
"""

from dataclasses import dataclass
from functools import singledispatch
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.arguments import whole
from spex_mech.notices import warn
from spex_mech.results.cautions import other_metric, warn_of_other_groups
from spex_mech.results.interactions import Interactions, as_result
from spex_mech.results.statistics import n_independent, q_values
from spex_mech.results.verdicts import SIGNIFICANT, floors_of

if TYPE_CHECKING:
    import pandas as pd

_AT_ONCE = 2**24  # values of interactions in redrawn prompts


@dataclass(frozen=True, eq=False)
class Stability:
    """How the strongest interactions fare when the prompts are drawn anew.

    Args:
        top: the k strongest interactions.
        kept: how often each of them is among the k strongest of redrawn prompts.
        jaccard: of each redraw: how much of the two tops is shared, intersection over union.
        n: how many interactions there were to be on top.
    """

    top: Interactions
    kept: Float[np.ndarray, " interaction"]
    jaccard: Float[np.ndarray, " boot"]
    n: int | None = None

    def frame(self) -> "pd.DataFrame":
        """A pandas table with a row per interaction, strongest first: ``units value stderr kept
        reading``."""
        import pandas as pd

        return pd.DataFrame(
            {
                "units": [" x ".join(names) for names in self.top.names],
                "value": self.top.mean,
                "stderr": self.top.stderr,
                "kept": self.kept,
                "reading": self.top.readings,
            }
        )

    def __repr__(self) -> str:
        if self.n is not None and self.n <= len(self.kept):
            return _no_others(len(self.kept))
        low, high = np.quantile(self.jaccard, [0.05, 0.95])
        shaky = int((self.kept < 0.5).sum())
        return (
            f"the {len(self.kept)} strongest interactions under {len(self.jaccard)} redraws of "
            f"{self.top.values.shape[1]} prompts: Jaccard {self.jaccard.mean():.2f} ({low:.2f} to "
            f"{high:.2f}); {shaky} stay on top in fewer than half{self._of_a_part()}"
        )

    def _of_a_part(self) -> str:
        n, whole = self.n, self.top.n_measured
        return "" if n is None or n >= whole else f"; {_part(n, whole)}"


def _no_others(k: int) -> str:
    return (
        f"the {k} strongest of {k} interactions: every redraw has the same on top, whatever the "
        "prompts say, so that nothing is known of their stability"
    )


def _part(n: int, whole: int) -> str:
    return f"too high, as only {n:,} of the {whole:,} that were measured could come up"


def stability(found: Interactions, k: int = 20, n_boot: int = 200, seed: int = 0) -> Stability:
    """Bootstrap over prompts: how often each of the k strongest interactions stays among the k.

    It measures how far *these prompts* decide what is on top, among what was measured: what was
    never measured cannot come up, and the prompts that are redrawn are those that the k were chosen
    on. **It is no forecast of fresh prompts.** Where effects are weak it is far too high (nothing
    real: 0.17 to 0.20 is said, 0.014 holds); where they are strong it is too low (pairs of one
    standard deviation, 32 prompts: 0.78 is said, 0.97 holds). Where prompts repeat or come in
    clusters, whole clusters are redrawn. For single interactions, ``confirm`` them on other
    prompts.

    Raises:
        ValueError: a single prompt, fewer than two redraws, or no interaction.

    Warns:
        UserWarning: there are no more than k interactions, so that all are always on top; or they
            are a part of a result, such as its top, whose others cannot come up.
    """
    n_prompts = as_result(found).values.shape[1]
    if n_prompts < 2:
        raise ValueError("a bootstrap needs at least 2 prompts; this result has 1")
    clusters = np.arange(n_prompts) if found.clusters is None else found.clusters
    _, cluster = np.unique(clusters, return_inverse=True)
    n_clusters = int(cluster.max()) + 1
    if n_clusters < 2:
        raise ValueError(
            f"a bootstrap needs prompts that differ; these {n_prompts} are one cluster"
        )
    whole("k", k, 1)
    whole("n_boot", n_boot, 2)
    if not len(found):
        raise ValueError("there is no interaction whose place could be redrawn")
    seed = whole("seed", seed, 0)
    strongest = np.argsort(-abs(found.mean), kind="stable")[:k]
    k = len(strongest)
    if len(found) <= k:
        warn(f"{_no_others(k)}; give a smaller k, or more interactions")
    elif len(found) < found.n_measured:
        warn(f"how often they stay on top is {_part(len(found), found.n_measured)}; give all")
    draws = np.random.default_rng(seed).multinomial(
        n_clusters, np.full(n_clusters, 1 / n_clusters), n_boot
    )[:, cluster]
    shared = np.zeros((n_boot, k), dtype=bool)
    values = found.values.astype(np.float64)
    for part in np.array_split(np.arange(n_boot), -(-n_boot * len(found) // _AT_ONCE)):
        means = values @ draws[part].T / draws[part].sum(axis=1)
        for boot, sizes in zip(part, abs(means).T, strict=True):
            top = np.argsort(-sizes, kind="stable")[:k]
            shared[boot] = np.isin(strongest, top)
    both = shared.sum(axis=1)
    return Stability(found.top(k), shared.mean(axis=0), both / (2 * k - both), len(found))


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two results of the same units, side by side.

    Args:
        labels: of each interaction that both measured, its units.
        a, b: its value in each, and
        stderr_a, stderr_b: the standard errors.
        count_a, count_b: how many prompts (or clusters of prompts) each is averaged over.
        rank_correlation: Spearman's, over these values (NaN for fewer than three of them).
        jaccard: how much of the two tops is shared, intersection over union.
        k: how many a top holds.
        n_a, n_b: how many interactions each measured.
        noise_floor: the size below which a difference of two pairs may be nothing but the rounding
            of both; twice as much for each unit more.
        two_metrics: the values are of two metrics, so that no difference means anything.
    """

    labels: list[tuple[str, ...]]
    a: Float[np.ndarray, " interaction"]
    b: Float[np.ndarray, " interaction"]
    stderr_a: Float[np.ndarray, " interaction"]
    stderr_b: Float[np.ndarray, " interaction"]
    count_a: int
    count_b: int
    rank_correlation: float
    jaccard: float
    k: int
    n_a: int
    n_b: int
    noise_floor: float = 0.0
    two_metrics: bool = False

    @property
    def z(self) -> Float[np.ndarray, " interaction"]:
        """Each difference in its standard errors; the two results' prompts are taken to be
        independent."""
        with np.errstate(divide="ignore", invalid="ignore"):
            z = (self.b - self.a) / np.hypot(self.stderr_a, self.stderr_b)
            return np.where(self.a == self.b, 0.0 * z, z)

    @property
    def q_value(self) -> Float[np.ndarray, " interaction"]:
        """False-discovery-rate q-value of each difference (Welch's test), over all that both
        measured: NaN where an error is not known, and where the values are of two metrics."""
        from scipy.special import stdtr

        of_a, of_b = self.stderr_a**2, self.stderr_b**2
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = (of_a + of_b) ** 2 / (
                of_a**2 / (self.count_a - 1) + of_b**2 / (self.count_b - 1)
            )
            p = 2 * stdtr(np.where(np.isfinite(freedom), freedom, 1.0), -abs(self.z))
        if min(self.count_a, self.count_b) < 2 or self.two_metrics:
            return np.full(len(p), np.nan)
        return q_values(np.where(np.isnan(p), 1.0, p))

    @property
    def differs(self) -> Bool[np.ndarray, " interaction"]:
        """True where a difference is over the noise floor and its q is at most 0.05."""
        floors = floors_of(self.noise_floor, np.array([len(names) for names in self.labels]))
        return (self.q_value <= SIGNIFICANT) & (abs(self.b - self.a) > floors)

    def frame(self) -> "pd.DataFrame":
        """A pandas table of what both measured, the surest differences first: ``units value_a
        stderr_a value_b stderr_b difference z q_value differs``. Among many, some differ by two
        standard errors by chance; ``q_value`` counts how many there are."""
        import pandas as pd

        table = pd.DataFrame(
            {
                "units": [" x ".join(names) for names in self.labels],
                "value_a": self.a,
                "stderr_a": self.stderr_a,
                "value_b": self.b,
                "stderr_b": self.stderr_b,
                "difference": self.b - self.a,
                "z": self.z,
                "q_value": self.q_value,
                "differs": self.differs,
            }
        )
        sizes = np.maximum(abs(self.a), abs(self.b))
        order = np.lexsort((-sizes, np.nan_to_num(self.q_value, nan=1.0), ~self.differs))
        return table.iloc[order].reset_index(drop=True)

    def __repr__(self) -> str:
        differ = f"{int(self.differs.sum()):,} differ (q <= {SIGNIFICANT})"
        if self.two_metrics:
            differ = "of two metrics, so that their differences mean nothing"
        return (
            f"{len(self.labels):,} interactions measured in both (of {self.n_a:,} and "
            f"{self.n_b:,}): rank correlation {self.rank_correlation:.2f}; {self._tops()}; {differ}"
        )

    def _tops(self) -> str:
        if self.k >= max(self.n_a, self.n_b):
            return f"neither has more than {self.k:,}, so that their tops are all that was measured"
        return f"the two top {self.k} share {self.jaccard:.2f} (Jaccard)"


@singledispatch
def compare(found_a: Any, found_b: Any, k: int = 20) -> Any:
    """Two results side by side, by the units' labels: two tasks, ablations or checkpoints.

    Of two circuits it gives their overlap (``Circuit.overlap``), of two results a ``Comparison``.

    The Jaccard overlap is of the k strongest of each; an interaction that the other result never
    measured counts as not in its top.

    Raises:
        TypeError: they are neither two results nor two circuits.
        ValueError: no label is in both, or k is below 1.

    Warns:
        UserWarning: the two results are of two metrics, or a group of the same name holds other
            components in each.
    """
    raise TypeError(
        f"compare takes two Interactions or two circuits, not {type(found_a).__name__} and "
        f"{type(found_b).__name__}"
    )


@compare.register(Interactions)
def _compare(found_a: Interactions, found_b: Any, k: int = 20) -> Comparison:
    if not isinstance(found_b, Interactions):
        raise TypeError(
            f"Interactions are compared with Interactions, not {type(found_b).__name__}"
        )
    whole("k", k, 1)
    if not set(found_a.labels) & set(found_b.labels):
        raise ValueError(
            f"the two results share no unit: {found_a.labels[:3]}... and {found_b.labels[:3]}..."
        )
    if differ := other_metric(found_a.about, found_b.about):
        warn(
            f"the two results measure {differ}: where their values are of two metrics, differences "
            "of them and their q-values mean nothing"
        )
    warn_of_other_groups(found_a.unit_table, found_b.unit_table)
    rows_a, rows_b = _rows(found_a), _rows(found_b)
    shared = [units for units in rows_a if units in rows_b]
    at_a = np.array([rows_a[units] for units in shared], dtype=np.int64)
    at_b = np.array([rows_b[units] for units in shared], dtype=np.int64)
    a, b = found_a.mean[at_a], found_b.mean[at_b]
    tops = [{frozenset(names) for names in found.top(k).names} for found in (found_a, found_b)]
    names = found_a.names
    return Comparison(
        labels=[names[row] for row in at_a],
        a=a,
        b=b,
        stderr_a=found_a.stderr[at_a],
        stderr_b=found_b.stderr[at_b],
        count_a=n_independent(found_a.values, found_a.clusters),
        count_b=n_independent(found_b.values, found_b.clusters),
        rank_correlation=_spearman(a, b),
        jaccard=len(tops[0] & tops[1]) / max(1, len(tops[0] | tops[1])),
        k=k,
        n_a=len(found_a),
        n_b=len(found_b),
        noise_floor=found_a.noise_floor + found_b.noise_floor,
        two_metrics=bool(differ),
    )


def _rows(found: Interactions) -> dict[frozenset[str], int]:
    return {frozenset(names): row for row, names in enumerate(found.names)}


def _spearman(a: Float[np.ndarray, " value"], b: Float[np.ndarray, " value"]) -> float:
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Float[np.ndarray, " value"]) -> Float[np.ndarray, " value"]:
    from scipy.stats import rankdata

    return np.asarray(rankdata(values), dtype=np.float64)
