"""Another result beside that of a report: two models, ablations, tasks or metrics."""

import math
from typing import Any

import numpy as np

from spex_mech.plots.numbers import metric_unit
from spex_mech.report.maps import unit_map
from spex_mech.report.words import value_text
from spex_mech.results.cautions import other_metric
from spex_mech.results.interactions import Interactions
from spex_mech.results.stability import Comparison, compare

_MOST_ROWS = 100
_TOLD = ("model", "task", "metric", "ablation")


def beside_shown(found: Interactions, other: Interactions, comparison: Comparison) -> Any:
    """What the page says of the two: how they differ, what both measured, and the other's map.

    Differences are shown where both count in the same unit and measure the same metric.
    """
    units = metric_unit(found), metric_unit(other)
    differ = other_metric(found.about, other.about)
    same = not differ and units[0] == units[1]
    table = comparison.frame()
    if not same:  # then the surest differences say nothing: the strongest of this result first
        sizes = abs(table["value_a"].to_numpy(dtype=float))
        table = table.iloc[np.argsort(-sizes, kind="stable")]
    rows = [
        {
            "units": row["units"],
            "values": [_cell(row[f"value_{of}"], row[f"stderr_{of}"]) for of in "ab"],
            "difference": value_text(row["difference"]),
            "difference_value": row["difference"],
            "pale": not row["differs"],
            "q_text": "" if math.isnan(row["q_value"]) else f"{row['q_value']:.2g}",
        }
        for row in table.head(_MOST_ROWS).to_dict("records")
    ]
    told = [[str(result.about.get(name, "")) for name in _TOLD] for result in (found, other)]
    return {
        "about": [(name, *both) for name, *both in zip(_TOLD, *told, strict=True) if any(both)],
        "units": units,
        "same": same,
        "differ": differ,
        "rows": rows,
        "n_left_out": len(table) - len(rows),
        "words": _words(comparison, same),
        "map": unit_map(other, "other-map") if (other.order == 2).any() else None,
    }


def _words(comparison: Comparison, same: bool) -> str:
    """The figures of the comparison that hold whatever the values are counted in."""
    n, k = len(comparison.labels), comparison.k
    words = (
        f"Both measured {n:,} of the same interactions (of {comparison.n_a:,} and "
        f"{comparison.n_b:,}). The {k} strongest of each share {comparison.jaccard:.2f} "
        "(those of both over those of either)."
    )
    differ = int(comparison.differs.sum())
    return f"{words} {differ:,} differ (q of 0.05 or less)." if same else words


def _cell(value: float, stderr: float) -> dict[str, Any]:
    return {"value": value, "text": value_text(value, stderr)}


def compared(found: Interactions, other: Interactions | None) -> Any:
    """What a page shows of another result; None where there is none.

    Raises:
        ValueError: the two share no unit.
    """
    if other is None:
        return None
    return beside_shown(found, other, compare(found, other))
