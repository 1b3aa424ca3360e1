"""What an interaction's signs say, in words, and how sure the prompts are of it.

- "AND-like": both units help (their main effects are negative), each helps on the average over the
  other being there or gone, and their damage overlaps (in series).
- "OR-like": their damage compounds (backup), and each helps on that average: a backup may do
  nothing, or hurt a little, while the other is there.
- "mixed": neither, as where a unit hurts by being there.
- "noise": under the floor.
- "beyond pairs": of three units and more the sign does not tell the two apart (three in series and
  three backups both give -1).

Where less is better all signs are turned.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.results.measured import Measured
from spex_mech.results.statistics import n_independent, standard_errors

DOUBTFUL = 0.1  # chance of being wrong, from which on it is shown


def readings_of(
    found: Measured, is_noise: Bool[np.ndarray, " interaction"], less_is_better: bool
) -> list[str]:
    """What :attr:`Interactions.readings` says, for a metric of which more, or less, is better."""
    sign = -1.0 if less_is_better else 1.0
    mean = sign * found.values.mean(axis=1, dtype=np.float64)
    mains = sign * np.append(found.main_effects_by_prompt.mean(axis=1), 0.0)[found.units[:, :2]]
    helps_on_average = (mains + mean[:, None] / 2 < 0).all(axis=1)
    overlaps = (mean > 0) & (mains < 0).all(axis=1) & helps_on_average
    compounds = (mean < 0) & helps_on_average
    cases = {
        "noise": is_noise,
        "beyond pairs": (found.units >= 0).sum(axis=1) > 2,
        "AND-like": overlaps,
        "OR-like": compounds,
    }
    return np.select(list(cases.values()), list(cases), "mixed").tolist()


def doubts_of(
    found: Measured, readings: list[str], clusters: Int[np.ndarray, " prompt"] | None
) -> Float[np.ndarray, " interaction"]:
    """The chance, at most, that other prompts give another reading: of each sign that an AND-like
    or OR-like reading rests on, the chance by Student's t that it is the other one, added up (NaN
    for a single prompt and for other readings)."""
    from scipy.special import stdtr

    doubts = np.full(len(found.values), np.nan)
    count = n_independent(found.values, clusters)
    rows = np.flatnonzero(np.isin(readings, ["AND-like", "OR-like"]))
    if count < 2 or not len(rows):
        return doubts
    value = found.values[rows].astype(np.float64)
    total = np.zeros(len(rows))

    def add(some: Float[np.ndarray, "row prompt"], where: np.ndarray) -> None:
        nonlocal total
        error = standard_errors(some, clusters)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(error > 0, abs(some.mean(axis=1)) / error, np.inf)
        total = total + np.where(where, stdtr(count - 1, -t), 0.0)

    everywhere = np.ones(len(rows), dtype=bool)
    add(value, everywhere)
    for unit in found.units[rows, :2].T:
        main = found.main_effects_by_prompt[unit].astype(np.float64)
        add(main + value / 2, everywhere)
        add(main, np.array(readings)[rows] == "AND-like")
    doubts[rows] = np.minimum(total, 1.0)
    return doubts
