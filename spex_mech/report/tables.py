"""The tiles and tables of a report."""

import math
from typing import Any

import numpy as np

from spex_mech.circuits.circuit import Circuit, Score
from spex_mech.plots.style import MINUS
from spex_mech.report.words import names_text, value_text
from spex_mech.results.interactions import Interactions
from spex_mech.results.statistics import standard_errors

_MOST_ROWS = 500


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
    tiles = []
    if len(found):
        top = found.top(1)
        value = f"{value_text(float(top.mean[0]), float(top.stderr[0]))}, {top.readings[0]}"
        tiles.append({"name": "Strongest", "value": names_text(top, 0), "note": value})
    clear = int((~found.is_noise).sum())
    tiles += [
        {"name": "Above the noise floor", "value": f"{clear:,} of {len(found):,}", "note": ""},
        {
            "name": "Cost",
            "value": f"{found.cost.get('evaluations', 0):,.0f}",
            "note": f"evaluations ({found.about.get('method', 'unknown method')})",
        },
    ]
    if audit := found.audit:
        interval = f"{audit['recall_low']:.2f} to {audit['recall_high']:.2f}"
        name = f"Recall of the top {audit['k']:,}"
        note = f"90 % interval {interval}"
        tiles.append({"name": name, "value": f"{audit['recall']:.2f}", "note": note})
    return tiles


def pair_rows(found: Interactions) -> tuple[list[dict[str, Any]], int]:
    """Rows of the table, strongest first, and how many more there are."""
    top = found.top(_MOST_ROWS)
    readings, names = top.readings, top.names
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
                "mains": ", ".join(mains),
            }
        )
    return rows, len(found) - len(top)


def main_rows(found: Interactions) -> tuple[list[dict[str, Any]], int]:
    mains, errors = found.main_effects, standard_errors(found.main_effects_by_prompt)
    known = np.flatnonzero(np.isfinite(mains))
    shown = known[np.argsort(-abs(mains[known]), kind="stable")][:_MOST_ROWS]
    largest = abs(mains[shown]).max(initial=0.0) or 1.0
    rows = []
    for unit in shown.tolist():
        numbers = _numbers(float(mains[unit]), float(errors[unit]), largest)
        rows.append({"unit": found.labels[unit], **numbers})
    return rows, len(known) - len(shown)


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
        "columns": list(table.columns),
        "rows": [[_cell(cell) for cell in row] for row in table.itertuples(index=False)],
    }


def _score(score: Score) -> str:
    return value_text(score.value, score.stderr).removeprefix("+")


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.3g}".replace("-", MINUS)
