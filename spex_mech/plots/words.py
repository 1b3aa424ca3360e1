"""The words of every picture: headings, what a reading means, and values with their errors."""

import numpy as np

from spex_mech.plots.numbers import pairs_of
from spex_mech.results.interactions import Interactions

PALE = ("pale: not significant (q above 0.05)", "or under the noise floor")
MEANING = {
    "AND-like": "positive, damage overlaps",
    "OR-like": "negative, damage compounds",
}


def heading(found: Interactions, what: str, subject: str = "Pair interactions") -> str:
    """The heading of a picture: its subject, where it was measured, and ``what`` is shown."""
    about, n_prompts = found.about, found.values.shape[1]
    words = [str(about[key]) for key in ("model", "task") if key in about]
    words += [f"{about['ablation']} ablation"] if "ablation" in about else []
    words += [f"{n_prompts:,} prompts"] if n_prompts > 1 else []
    pairs_of(found)
    return "\n".join(line for line in (subject, ", ".join(words), what) if line)


def with_error(value: float, stderr: float) -> str:
    """A value with its standard error: ``+5.3 +- 0.088``."""
    if np.isnan(value):
        return "not measured"
    return f"{value:+.3g}" if np.isnan(stderr) else f"{value:+.3g} +- {stderr:.2g}"
