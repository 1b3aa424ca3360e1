"""A result as text for a terminal and as a table for a notebook."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from spex_mech.results.audits import audit_lines
from spex_mech.results.measured import Shown
from spex_mech.results.readings import DOUBTFUL
from spex_mech.results.verdicts import SIGNIFICANT, TOO_FEW

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 10
_RED, _BLUE = "#b2182b", "#2166ac"  # as in plots.style: damage overlaps, damage compounds


def printed(found: Shown) -> str:
    """What ``print(found)`` shows: the strongest interactions with their q and what may be said of
    them. Where nothing is significant, that comes first."""
    shown = found.top(_SHOWN)
    lines = [*_nothing(found), heading(found)]
    names = [" x ".join(units) for units in shown.names]
    width = max((len(name) for name in names), default=0)
    values, verdicts = value_texts(shown), shown.verdicts
    wide = max((len(value) for value in values), default=0)
    for row, name in enumerate(names):
        q = f"{q_text(float(shown.q_value[row])):<10}" if found.values.shape[1] > 1 else ""
        told = f"{verdicts[row]}{doubt_text(shown, row)}"
        told += confirmed_text(int(shown.confirmed[row]))
        lines.append(f"  {name:<{width}}  {values[row]:<{wide}}  {q}{told}")
    if len(found) > len(names):
        lines.append(f"  ... {len(found) - len(names):,} more: .frame(), .top(k), .matrix()")
    lines += [f"  {line}" for line in notes(found)]
    return "\n".join(lines)


def heading(found: Shown) -> str:
    """How many interactions of which units these are, what they cost, and the noise floor."""
    n, n_units = len(found), len(found.labels)
    kind = "interaction" if found.n_measured == 1 else "interactions"
    many = f"{n:,}" if n == found.n_measured else f"{n:,} of {found.n_measured:,}"
    spent = f"{found.cost.get('evaluations', 0):,.0f} evaluations"
    method = found.about.get("method", "unknown method")
    floor = f"noise floor {found.noise_floor:.1e}"
    text = f"{many} {kind} among {n_units:,} units, {spent} ({method}), {floor}"
    if found.values.shape[1] < 2 or not n:
        return text
    of_them = "" if n == found.n_measured else " of them"
    n_significant = f"{int(found.is_significant.sum()):,}{of_them}"
    return f"{text}; {n_significant} significant (q <= {SIGNIFICANT})"


def _nothing(found: Shown) -> list[str]:
    """The first sentence, where nothing was found."""
    n_prompts = found.values.shape[1]
    if not len(found) or found.is_finding.any():
        return []
    if found.is_noise.all():
        return ["Nothing was found: every value is at or under the noise floor."]
    if n_prompts < 2:
        return ["Nothing stands out: of one prompt, no pair is larger than the others make it."]
    if TOO_FEW in found.verdicts:
        return [f"Nothing is significant: {n_prompts} prompts of one cluster do not tell."]
    none = f"Nothing is significant: no q is {SIGNIFICANT} or less over {n_prompts:,} prompts."
    return [f"{none}{many_choices(found)}"]


def many_choices(found: Shown) -> str:
    """A sentence on why no q may be small, and what helps; "" where all was measured."""
    if found.n_choices <= found.n_measured:
        return ""
    return f" q counts all {found.n_choices:,} there were to choose from; more prompts lower it."


def notes(found: Shown) -> list[str]:
    """What +- means, that one prompt has no q, and the audit of a whole result."""
    lines, shown = [], min(_SHOWN, len(found))
    if found.values.shape[1] < 2:
        lines.append("one prompt: no standard error and no q; other prompts may differ")
    elif shown:
        chosen = f", widened for the choice of {shown} among {found.n_choices:,}"
        wide = chosen if found.n_choices > shown else ""
        lines.append(f"+-: half of a 90 % interval over the prompts{wide}")
    lines += found.cautions
    if experts := found.about.get("experts"):
        lines.append(experts["words"])
    if found.audit and len(found) == found.n_measured:
        lines += audit_lines(found.audit)
    return lines


def value_texts(found: Shown) -> list[str]:
    """Each value with half of its 90 % interval, which is wider where the shown were chosen."""
    return [
        f"{value:+.3g}" + ("" if np.isnan(half) else f" +- {half:.2g}")
        for value, half in zip(found.mean, halves(found), strict=True)
    ]


def halves(found: Shown) -> Float[np.ndarray, " interaction"]:
    """Half of the 90 % interval of each (NaN for a single prompt)."""
    return np.diff(found.intervals(0.9), axis=1)[:, 0] / 2


def q_text(q: float) -> str:
    """A q-value in few characters."""
    if np.isnan(q):
        return "q -"
    return "q <1e-9" if q < 1e-9 else f"q {q:.2g}"


def doubt_text(found: Shown, row: int) -> str:
    """The chance that a reading is wrong over prompts, where it is worth saying."""
    doubt = float(found.doubts[row])
    if not found.is_finding[row] or not doubt > DOUBTFUL:
        return ""
    return f" (wrong in up to {doubt:.2f})"


def confirmed_text(confirmed: int) -> str:
    """Whether it held on other prompts; nothing where that was not tried."""
    return {1: ", confirmed", 0: ", not confirmed"}.get(confirmed, "")


def as_html(found: Shown) -> str:
    """What a notebook shows: :func:`printed` as a table, with a bar for the size of each value."""
    shown = found.top(_SHOWN)
    largest = abs(shown.mean).max(initial=0.0) or 1.0
    verdicts, values, left = shown.verdicts, value_texts(shown), "style='text-align:left'"
    rows = "".join(
        f"<tr style='opacity:{1 if shown.is_finding[row] else 0.5}'>"
        f"<td {left}>{escape(' x '.join(shown.names[row]))}</td>"
        f"<td style='text-align:left;min-width:90px'>{_bar(shown, row, largest)}</td>"
        f"<td>{values[row]}</td><td>{q_text(float(shown.q_value[row]))}</td>"
        f"<td {left}>{verdicts[row]}{doubt_text(shown, row)}"
        f"{confirmed_text(int(shown.confirmed[row]))}</td></tr>"
        for row in range(len(shown))
    )
    first = "".join(f"<b>{escape(line)}</b><br>" for line in _nothing(found))
    more = len(found) - len(shown)
    below = [f"{more:,} more: .frame(), .top(k), .matrix()"] if more else []
    below = "<br>".join(escape(line) for line in [*below, *notes(found)])
    heads = "".join(f"<th>{name}</th>" for name in ("units", "", "value", "q", "verdict"))
    return (
        f"<div>{first}{escape(heading(found))}<table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{rows}</tbody></table><small>{below}</small></div>"
    )


def html_table(heading: str, table: "pd.DataFrame", below: Sequence[str] = ()) -> str:
    """A short table for a notebook, with a line above and lines below: the first rows, numbers with
    three digits."""
    more = len(table) - _SHOWN
    lines = [f"{more:,} more: .frame()"] if more > 0 else []
    body = table.head(_SHOWN).to_html(index=False, float_format="{:.3g}".format, na_rep="")
    under = "<br>".join(escape(line) for line in [*lines, *below])
    return f"<div>{escape(heading)}{body}<small>{under}</small></div>"


def _bar(found: Shown, row: int, largest: float) -> str:
    value = float(found.mean[row])
    overlaps = (value > 0) != found.less_is_better
    colour, width = _RED if overlaps else _BLUE, 80 * abs(value) / largest
    return (
        f"<span style='display:inline-block;height:10px;width:{width:.0f}px;"
        f"background:{colour}'></span>"
    )
