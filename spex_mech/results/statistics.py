"""Errors and multiple testing over prompts."""

import numpy as np
from jaxtyping import Float


def standard_errors(values: Float[np.ndarray, "row prompt"]) -> Float[np.ndarray, " row"]:
    """Standard error of each row's mean over prompts; NaN where there is only one prompt."""
    n_prompts = values.shape[1]
    if n_prompts < 2:
        return np.full(len(values), np.nan)
    return values.std(axis=1, ddof=1, dtype=np.float64) / np.sqrt(n_prompts)


def intervals(
    values: Float[np.ndarray, "row prompt"], level: float = 0.9, selected_of: int | None = None
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Low and high end of each row's mean over prompts: t intervals, as 1.645 standard errors are
    too few where there are few prompts (NaN for one prompt).

    Args:
        level: how often such an interval holds the mean over all prompts there could be.
        selected_of: how many the rows are the strongest of, by these very values. What was selected
            looks larger than it is; then ``level`` is the share of the selected whose interval
            holds the truth (false coverage rate, Benjamini and Yekutieli 2005): each is a t
            interval at ``1 - (1 - level) * rows / selected_of``, and still around the shown value.

    Raises:
        ValueError: a level that is not between 0 and 1, or more rows than they were selected of.
    """
    from scipy.special import stdtrit

    n_rows, n_prompts = values.shape
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be between 0 and 1")
    if selected_of is not None and selected_of < n_rows:
        raise ValueError(f"{n_rows} rows cannot be selected of {selected_of}")
    share = 1.0 if selected_of is None else n_rows / max(selected_of, 1)
    mean = values.mean(axis=1, dtype=np.float64)
    if n_prompts < 2:
        return np.full(n_rows, np.nan), np.full(n_rows, np.nan)
    half = stdtrit(n_prompts - 1, 1 - (1 - level) * share / 2) * standard_errors(values)
    return mean - half, mean + half


def p_values(values: Float[np.ndarray, "row prompt"]) -> Float[np.ndarray, " row"]:
    """Two-sided one-sample t-test of each row's mean against 0 (NaN for one prompt). Rows that are
    0 on every prompt get 1."""
    from scipy.special import stdtr

    error = standard_errors(values)
    mean = values.mean(axis=1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where((error == 0) & (mean == 0), 0.0, abs(mean) / error)
    return 2 * stdtr(values.shape[1] - 1, -t) if values.shape[1] > 1 else error


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


def ratios(
    above: Float[np.ndarray, "row prompt"], below: Float[np.ndarray, " prompt"]
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, "row prompt"]]:
    """Ratios of means over prompts, and each prompt's pull on them: the standard error of a ratio,
    or of any weighted sum of ratios, is that of the mean of the pulls (linearised, as in survey
    statistics; good where ``below`` is far from 0 in standard errors)."""
    scale = below.mean(dtype=np.float64)
    ratio = above.mean(axis=1, dtype=np.float64) / scale
    return ratio, (above - ratio[:, None] * below) / scale
