"""The words of every picture: headings, what a reading means, and values with their errors."""

import numpy as np

from spex_mech.results.interactions import Interactions
from spex_mech.results.verdicts import SIGNIFICANT

PALE = (f"pale: not significant (q above {SIGNIFICANT})", "or under the noise floor")
# Where what is clear is marked by its sign.
PALE_UNSIGNED = (PALE[0].replace("pale:", "pale, without a sign:"), PALE[1])
_IN_DISTANCE = {
    "AND-like": "their damage overlaps: they move the output against one another in part",
    "OR-like": "their damage compounds: they move the output the same way in part",
}
_LONGEST = 32  # letters of a label beside a map or under a node
MEANING = {True: "damage overlaps", False: "damage compounds"}  # by whether it overlaps


def heading(found: Interactions, what: str, subject: str = "Pair interactions") -> str:
    """The heading of a picture: its subject, where it was measured, and ``what`` is shown. Where
    none of the pairs is significant, that comes first."""
    about, n_prompts = found.about, found.values.shape[1]
    words = [str(about[key]) for key in ("model", "task") if key in about]
    words += [f"{about['ablation']} ablation"] if "ablation" in about else []
    words += [f"{n_prompts:,} prompts" if n_prompts > 1 else "one prompt"]
    pairs = found.order == 2
    nothing = n_prompts > 1 and not found.is_significant[pairs].any()
    subject = f"No pair is significant (q above {SIGNIFICANT})" if nothing else subject
    return "\n".join(line for line in (subject, ", ".join(words), what) if line)


def shortened(label: str) -> str:
    """A unit's label as a picture has room for it: a sentence is cut in its middle."""
    half = _LONGEST // 2
    return label if len(label) <= _LONGEST else f"{label[:half]}…{label[-half + 1 :]}"


def strongest_text(n: int) -> str:
    """How many pairs are shown."""
    return "the strongest pair" if n == 1 else f"the {n} strongest pairs"


def with_error(value: float, half: float) -> str:
    """A value and its error: ``+5.3 +- 0.23``."""
    if np.isnan(value):
        return "not measured"
    return f"{value:+.3g}" if np.isnan(half) else f"{value:+.3g} +- {half:.2g}"


def relation(found: Interactions, row: int) -> str:
    """What a reading means for the units of a pair: units of different layers that both are needed
    work in series; units of one layer, words and examples stand side by side, and so may those of
    two stacks. Empty where nothing may be said (``Interactions.verdicts``)."""
    verdict = found.take(np.array([row])).verdicts[0]
    if found.about.get("metric") == "kl":  # a distance: all ablations of any model add to it
        return _IN_DISTANCE.get(verdict, "")
    units = found.units[row]
    of = [found.unit_table[u] for u in units[units >= 0].tolist()]
    layers = {unit.layer for unit in of}
    one_stack = len({unit.stack for unit in of}) == 1
    if verdict == "OR-like":
        return "their damage compounds: either suffices, and one backs the other up"
    if verdict == "AND-like" and one_stack and None not in layers and len(layers) > 1:
        return "their damage overlaps: they work in series"
    return "their damage overlaps: both are needed" if verdict == "AND-like" else ""
