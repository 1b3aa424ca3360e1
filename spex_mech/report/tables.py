"""The tiles and tables of a report."""

import math
from typing import Any

import numpy as np

from spex_mech.circuits.circuit import Circuit, Score
from spex_mech.plots.numbers import pale
from spex_mech.plots.style import MINUS
from spex_mech.report.words import names_text, value_text
from spex_mech.results.audits import CANNOT_TELL
from spex_mech.results.interactions import Interactions
from spex_mech.results.printed import confirmed_text, halves
from spex_mech.results.statistics import standard_errors
from spex_mech.results.verdicts import SIGNIFICANT

_MOST_ROWS, _MOST_BEHIND = 500, 200  # rows, and those of them that tell of their prompts
_COLUMNS = {  # of a circuit's table, in words
    "main_effect": "main effect", "inside": "effect inside", "minimality_stderr": "std. error",
    "brought_by": "brought by", "given": "measured without",
}  # fmt: skip


def _numbers(value: float, stderr: float, largest: float) -> dict[str, Any]:
    """What a table's row has of a value: to sort by, to show, and as a bar."""
    return {
        "percent": f"{100 * abs(value) / largest:.1f}",
        "size": abs(value),
        "value": value,
        "value_text": value_text(value),
        "stderr": "" if math.isnan(stderr) else stderr,
        "stderr_text": "" if math.isnan(stderr) else f"{stderr:.2g}",
    }


def tiles(found: Interactions) -> list[dict[str, str]]:
    """The few numbers at the head of the page."""
    tiles = []
    if len(found):
        top = found.top(1)
        value = value_text(float(top.mean[0]), float(halves(top)[0]))
        note = f"{value}, {top.verdicts[0]}{confirmed_text(int(top.confirmed[0]))}"
        name = "Strongest" if top.is_finding[0] else "Largest value"
        tiles.append({"name": name, "value": names_text(top, 0), "note": note})
    n, resolved = len(found), int((~found.is_noise).sum())
    counted = {
        "name": f"Significant (q \N{LESS-THAN OR EQUAL TO} {SIGNIFICANT})",
        "value": f"{int(found.is_significant.sum()):,} of {n:,}",
        "note": f"resolved: {resolved:,} of {n:,}",
    }
    if found.values.shape[1] < 2:
        counted |= {"name": "Standing out", "value": f"{int(found.is_finding.sum()):,} of {n:,}"}
    tiles.append(counted)
    if (tried := int((found.confirmed >= 0).sum())) > 0:
        value = f"{int((found.confirmed == 1).sum()):,} of {tried:,}"
        tiles.append({"name": "Confirmed", "value": value, "note": "on other prompts"})
    spent = f"{found.cost.get('evaluations', 0):,.0f}"
    how = f"evaluations ({found.about.get('method', 'unknown method')})"
    tiles.append({"name": "Cost", "value": spent, "note": how})
    if audit := found.audit:
        interval = f"{audit['recall_low']:.2f} to {audit['recall_high']:.2f}"
        name = f"Recall of the top {audit['k']:,}"
        note = f"90 % interval {interval}"
        value = CANNOT_TELL if audit.get("cannot_tell") else f"{audit['recall']:.2f}"
        tiles.append({"name": name, "value": value, "note": note})
    return tiles


def pair_rows(found: Interactions) -> tuple[list[dict[str, Any]], int]:
    """Rows of the table, strongest first, and how many more there are."""
    top = found.top(_MOST_ROWS)
    readings, names, pale_rows = top.verdicts, top.names, pale(top)
    largest = abs(top.mean).max(initial=0.0) or 1.0
    rows = []
    for i in range(len(top)):
        value, stderr, q = (float(x[i]) for x in (top.mean, top.stderr, top.q_value))
        mains = [value_text(float(found.main_effects[unit])) for unit in top.units[i] if unit >= 0]
        rows.append(
            {
                "units": names[i],
                **_numbers(value, stderr, largest),
                "q": "" if math.isnan(q) else q,
                "q_text": "" if math.isnan(q) else f"{q:.2g}",
                "reading": readings[i],
                "noise": bool(top.is_noise[i]),
                "pale": bool(pale_rows[i]),
                "confirmed": {1: "yes", 0: "no"}.get(int(top.confirmed[i]), ""),
                "overlaps": (value > 0) != found.less_is_better,
                "mains": ", ".join(mains),
                "off": _off(found, top.units[i], value),
                "prompts": _strongest_prompts(top.values[i]) if i < _MOST_BEHIND else "",
            }
        )
    return rows, len(found) - len(top)


def _off(found: Interactions, units: np.ndarray, value: float) -> str:
    """What ablating a pair's units changes: the first, the second, both. Empty where it is no pair,
    or where the main effects are not known."""
    units = units[units >= 0]
    mains = found.main_effects[units]
    if len(units) != 2 or np.isnan(mains).any():
        return ""
    return " ".join(f"{change:.6g}" for change in (*mains, mains.sum() + value))


def _strongest_prompts(values: np.ndarray) -> str:
    """The prompts on which an interaction is largest, by their number from 1."""
    if len(values) < 2:
        return ""
    largest = np.argsort(-abs(values), kind="stable")[:5]
    told = ", ".join(f"{row + 1} ({value_text(float(values[row]))})" for row in largest)
    return f"largest on the prompts {told}"


def main_rows(found: Interactions) -> tuple[list[dict[str, Any]], int]:
    mains = found.main_effects
    errors = standard_errors(found.main_effects_by_prompt, found.clusters)
    known = np.flatnonzero(np.isfinite(mains))
    shown = known[np.argsort(-abs(mains[known]), kind="stable")][:_MOST_ROWS]
    largest = abs(mains[shown]).max(initial=0.0) or 1.0
    rows = []
    for unit in shown.tolist():
        numbers = _numbers(float(mains[unit]), float(errors[unit]), largest)
        helps = (mains[unit] < 0) != found.less_is_better
        rows.append({"unit": found.labels[unit], "helps": bool(helps), **numbers})
    return rows, len(known) - len(shown)


def expert_rows(found: Interactions) -> tuple[list[dict[str, Any]], int]:
    """How often each expert is used, the most first, and how many more rows there are."""
    experts = found.about.get("experts") or {}
    columns = [experts.get(name, []) for name in ("labels", "tokens", "used", "weight")]
    rows = sorted(zip(*columns, strict=True), key=lambda row: -row[2] / row[1])
    shown = [
        {
            "unit": label,
            "percent": f"{100 * used / tokens:.1f}",
            "used": used,
            "share": used / tokens,
            "share_text": f"{used / tokens:.3f}",
            "weight": "" if weight is None else weight,
            "weight_text": "" if weight is None else f"{weight:.3g}",
        }
        for label, tokens, used, weight in rows[:_MOST_ROWS]
    ]
    return shown, max(len(rows) - _MOST_ROWS, 0)


def circuit_shown(circuit: Circuit) -> dict[str, Any]:
    table = circuit.frame()
    scores = ("faithfulness", "completeness", "minimality")
    return {
        "members": circuit.units,
        "n_members": len(circuit),
        "n_units": len(circuit.labels),
        "measures": [(name, _score(getattr(circuit, name))) for name in scores],
        "groups": [
            {"kind": group.kind, "units": [u if u in group.kept else f"({u})" for u in group.units]}
            for group in circuit.groups
        ],
        "columns": [_COLUMNS.get(name, name.replace("_", " ")) for name in table.columns],
        "rows": [[_cell(cell) for cell in row] for row in table.itertuples(index=False)],
    }


def _score(score: Score) -> str:
    return value_text(score.value, score.stderr).removeprefix("+")


def _cell(value: str | float) -> dict[str, Any]:
    """A cell of the circuit's table: numbers stay in one line and are sorted as numbers."""
    if isinstance(value, str):
        return {"text": value, "number": False, "value": ""}
    text = "" if math.isnan(value) else f"{value:.3g}".replace("-", MINUS)
    return {"text": text, "number": True, "value": "" if math.isnan(value) else value}
