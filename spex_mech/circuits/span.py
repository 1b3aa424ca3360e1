"""The span of a metric (all units kept, minus none) and shares of it, with errors that hold.

Every score of a circuit is a ratio of two means over prompts, ``mean(above) / mean(below)``, with
the span below. Where the span is not far from 0 in standard errors, a ratio is not close to normal
and its standard error says little: its interval is Fieller's (E. C. Fieller 1954, "Some problems in
interval estimation"): every ratio r for which ``above - r * below`` has a mean that a t test at
this level does not tell from 0. It holds exactly where these are normal, whatever the span. Where
the span itself cannot be told from 0 at this level, no ratio can be excluded at one side or both,
and the interval is the whole line.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from spex_mech.notices import warn
from spex_mech.results.statistics import ratios, standard_errors
from spex_mech.search.resolution import Resolution

LEVEL = 0.9  # of the intervals that results hold
_WARNED, _REFUSED = 3.0, 1.0  # standard errors of the span


@dataclass(frozen=True)
class Span:
    """What all units together do for the metric, in the metric's unit.

    Args:
        value: the metric with all units kept minus that with none, averaged over prompts.
        stderr: its standard error over prompts (NaN for a single prompt).
    """

    value: float
    stderr: float

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        error = "" if np.isnan(self.stderr) else f" +- {self.stderr:.2g}"
        return f"{self.value:.3g}{error}"


def checked_span(
    intact: Float[np.ndarray, " prompt"], empty: Float[np.ndarray, " prompt"], where: str
) -> Span:
    """The span of these values.

    Args:
        where: what an error or a warning calls the prompts, such as "the held-out prompts".

    Raises:
        ValueError: it is nothing but rounding, or under one standard error.

    Warns:
        UserWarning: it is under three standard errors.
    """
    value = float(intact.mean() - empty.mean())
    span = Span(value, float(standard_errors((intact - empty)[None])[0]))
    ends = (
        f"on {where} the metric is {intact.mean():.4g} with all units kept and {empty.mean():.4g} "
        "with none"
    )
    resolution = Resolution()
    resolution.see(np.stack([intact, empty]))
    if abs(value) <= resolution.floor / 2:  # of two values; that of an interaction is of four
        raise ValueError(
            f"{ends}: ablating these units changes nothing, so there is no circuit to "
            "find among them"
        )
    size = abs(value) / span.stderr if span.stderr > 0 else np.inf
    if size < _REFUSED:
        raise ValueError(
            f"{ends}: the difference of {span} cannot be told from 0 over "
            f"{len(intact)} prompts, so shares of it mean nothing; give more prompts, a metric "
            "that these units change on most of them, or other units"
        )
    if size < _WARNED:
        warn(
            f"{ends}: the difference of {span} is only {size:.1f} standard errors from "
            "0, and every score is a share of it; read the intervals, or give more prompts"
        )
    return span


def share_intervals(
    above: Float[np.ndarray, "row prompt"],
    below: Float[np.ndarray, " prompt"],
    level: float = LEVEL,
) -> Float[np.ndarray, "row 2"]:
    """Fieller's interval of each ``mean(above) / mean(below)`` over all prompts there could be: low
    and high end; NaN for a single prompt, without ends where ``below`` cannot be told from 0.

    Raises:
        ValueError: a level that is not between 0 and 1.

    >>> above, below = np.array([[1.0, 2.0, 3.0]]), np.array([4.0, 4.1, 3.9])
    >>> share_intervals(above, below).round(3).tolist()
    [[0.077, 0.943]]
    """
    from scipy.special import stdtrit

    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be between 0 and 1")
    n_prompts = above.shape[1]
    if n_prompts < 2:
        return np.full((len(above), 2), np.nan)
    t2 = stdtrit(n_prompts - 1, 0.5 + level / 2) ** 2
    a, b = above.mean(axis=1), below.mean()
    off, off_below = above - a[:, None], below - b
    scale = n_prompts * (n_prompts - 1)
    var_a, var_b = (off**2).sum(axis=1) / scale, (off_below**2).sum() / scale
    covariance = (off * off_below).sum(axis=1) / scale
    # All r with (a - r b)^2 <= t^2 (var_a - 2 r covariance + r^2 var_b).
    squared, mixed, plain = b * b - t2 * var_b, a * b - t2 * covariance, a * a - t2 * var_a
    if squared <= 0:
        return np.tile([-np.inf, np.inf], (len(above), 1))
    half = np.sqrt(np.maximum(mixed * mixed - squared * plain, 0.0))
    return np.stack([mixed - half, mixed + half], axis=1) / squared


def shares(
    above: Float[np.ndarray, "row prompt"], below: Float[np.ndarray, " prompt"]
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"], Float[np.ndarray, "row 2"]]:
    """Each ratio, its standard error (linearised) and its interval of ``LEVEL``."""
    values, influence = ratios(above, below)
    return values, standard_errors(influence), share_intervals(above, below)
