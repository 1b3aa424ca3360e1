"""Errors and multiple testing over prompts."""

import numpy as np
from jaxtyping import Float


def standard_errors(values: Float[np.ndarray, "row prompt"]) -> Float[np.ndarray, " row"]:
    """Standard error of each row's mean over prompts; NaN where there is only one prompt."""
    n_prompts = values.shape[1]
    if n_prompts < 2:
        return np.full(len(values), np.nan)
    return values.std(axis=1, ddof=1, dtype=np.float64) / np.sqrt(n_prompts)


def p_values(values: Float[np.ndarray, "row prompt"]) -> Float[np.ndarray, " row"]:
    """Two-sided one-sample t-test of each row's mean against 0 (NaN for one prompt). Rows that are
    0 on every prompt get 1."""
    from scipy.special import stdtr

    error = standard_errors(values)
    mean = values.mean(axis=1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where((error == 0) & (mean == 0), 0.0, abs(mean) / error)
    return 2 * stdtr(values.shape[1] - 1, -t) if values.shape[1] > 1 else error


def q_values(p: Float[np.ndarray, " row"]) -> Float[np.ndarray, " row"]:
    """False-discovery-rate adjusted p-values (Benjamini and Hochberg 1995): calling every row with
    ``q <= 0.05`` a finding is wrong for at most 5 % of them on average."""
    if not len(p) or np.isnan(p).any():
        return np.full(len(p), np.nan)
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
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
