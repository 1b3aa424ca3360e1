"""A result as tables, and where in it something is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    import pandas as pd

    from spex_mech.results.interactions import Interactions


def as_frame(found: "Interactions", order: int | None) -> "pd.DataFrame":
    """What :meth:`Interactions.frame` returns.

    Raises:
        ValueError: no interaction of this order was measured.
    """
    import pandas as pd

    width = int(found.order.max(initial=2)) if order is None else order
    if not 2 <= width <= found.units.shape[1]:
        raise ValueError(f"no interaction of order {order} was measured")
    rows = strongest_rows(found, order)
    letters, labels = "abcdefgh"[:width], np.array([*found.labels, ""], dtype=object)
    mains, units = np.append(found.main_effects, np.nan), found.units[rows]
    readings, verdicts = (
        np.array(of, dtype=object)[rows] for of in (found.readings, found.verdicts)
    )
    data: dict[str, Any] = {f"unit_{c}": labels[units[:, i]] for i, c in enumerate(letters)}
    data |= {"value": found.mean[rows], "stderr": found.stderr[rows]}
    data |= {"q_value": found.q_value[rows]}
    data |= {f"main_{c}": mains[units[:, i]] for i, c in enumerate(letters)}
    data |= {"reading": readings, "is_noise": found.is_noise[rows], "verdict": verdicts}
    data |= {
        "is_significant": found.is_significant[rows],
        "confirmed": found.confirmed[rows].astype(int),
    }
    return pd.DataFrame(data)


def as_matrix(found: "Interactions") -> Float[np.ndarray, "unit unit"]:
    """What :meth:`Interactions.matrix` returns."""
    full = np.full((len(found.labels), len(found.labels)), np.nan)
    is_pair = found.order == 2
    a, b = found.units[is_pair][:, :2].T
    full[a, b] = full[b, a] = found.mean[is_pair]
    return full


def strongest_rows(
    found: "Interactions", order: int | None = None
) -> Int[np.ndarray, " interaction"]:
    """The rows of a result (of one order, if asked), strongest first."""
    rows = np.arange(len(found)) if order is None else np.flatnonzero(found.order == order)
    return rows[np.argsort(-abs(found.mean[rows]), kind="stable")]


def unit_of(found: "Interactions", label: str) -> int:
    """The number of the unit with this label.

    Raises:
        KeyError: no unit has it.
    """
    if label not in found.labels:
        raise KeyError(f"no unit is called {label!r}")
    return found.labels.index(label)


def row_of(found: "Interactions", labels: Sequence[str]) -> int:
    """The row of the interaction of the units with these labels.

    Raises:
        KeyError: it was not measured, or a label is unknown.
    """
    wanted = sorted(unit_of(found, label) for label in labels)
    row = wanted + [-1] * (found.units.shape[1] - len(wanted))
    fits = len(row) == found.units.shape[1]
    hits = np.flatnonzero((found.units == row).all(axis=1)) if fits else []
    if not len(hits):
        raise KeyError(f"the interaction of {' and '.join(labels)} was not measured")
    return int(hits[0])
