"""A result as tables, and where in it something is."""

from collections.abc import Sequence
from itertools import islice
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from spex_mech.arguments import shown, whole
from spex_mech.results.measured import Shown
from spex_mech.results.statistics import standard_errors

if TYPE_CHECKING:
    import pandas as pd

_NAMED = 4  # units that an error names


def as_frame(found: Shown, order: int | None) -> "pd.DataFrame":
    """What :meth:`Interactions.frame` returns.

    Raises:
        ValueError: no interaction of this order was measured.
    """
    import pandas as pd

    if order == 1:
        return _mains_frame(found)
    rows = top_rows(found, order)
    width = int(found.order.max(initial=2)) if order is None else order
    letters, labels = _letters(width), np.array([*found.labels, ""], dtype=object)
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


def top_rows(found: Shown, order: Any = None) -> Int[np.ndarray, " some"]:
    """The rows of a result (of one order, if asked), strongest first.

    Raises:
        ValueError: an order that is no whole number, or of which nothing was measured.
    """
    if order is not None and not 2 <= whole("order", order, 1) <= found.units.shape[1]:
        known = " and ".join(map(str, np.unique(found.order)))
        known = f", but of order {known}" if known else ""
        raise ValueError(
            f"no interaction of order {order} was measured{known}; frame(order=1) has the main "
            "effects"
        )
    return strongest_rows(found.mean, found.order, order)


def _letters(count: int) -> list[str]:
    """What tells the units of an interaction apart in the names of columns: a to z, aa, ab ..."""
    pairs = (first + second for first in ["", *ascii_lowercase] for second in ascii_lowercase)
    return list(islice(pairs, count))


def _mains_frame(found: Shown) -> "pd.DataFrame":
    """What each unit does alone, the largest first; what was not measured comes last."""
    import pandas as pd

    mains = found.main_effects
    table = pd.DataFrame({
        "unit": found.labels,
        "value": mains,
        "stderr": standard_errors(found.main_effects_by_prompt, found.clusters),
    })  # fmt: skip
    largest = np.argsort(-np.nan_to_num(abs(mains), nan=-1.0), kind="stable")
    return table.iloc[largest].reset_index(drop=True)


def as_matrix(
    n_units: int,
    units: Int[np.ndarray, "interaction order"],
    values: Float[np.ndarray, " interaction"],
) -> Float[np.ndarray, "unit unit"]:
    """What :meth:`Interactions.matrix` returns."""
    full = np.full((n_units, n_units), np.nan)
    is_pair = (units >= 0).sum(axis=1) == 2
    a, b = units[is_pair][:, :2].T
    full[a, b] = full[b, a] = values[is_pair]
    return full


def strongest_rows(
    values: Float[np.ndarray, " interaction"],
    orders: Int[np.ndarray, " interaction"],
    order: int | None = None,
) -> Int[np.ndarray, " some"]:
    """The rows of interactions with these values and orders (of one order, if asked), strongest
    first.

    Raises:
        ValueError: an order that is no whole number.
    """
    every = np.arange(len(values))
    rows = every if order is None else np.flatnonzero(orders == whole("order", order, 1))
    return rows[np.argsort(-abs(values[rows]), kind="stable")]


def unit_of(labels: Sequence[str], label: Any) -> int:
    """The number of the unit with this label.

    Raises:
        KeyError: no unit has it.
    """
    if isinstance(label, str) and label in labels:
        return labels.index(label)
    listed = ", ".join(map(repr, labels[:_NAMED])) + (", ..." if len(labels) > _NAMED else "")
    asked = repr(label) if isinstance(label, str) else shown(label)
    raise KeyError(f"no unit is called {asked}; the labels are texts: {listed}")


def is_known(asked: object, labels: Sequence[str], names: Sequence[tuple[str, ...]]) -> bool:
    """Whether it is a label, or the labels, in any order, of something that was measured."""
    if isinstance(asked, tuple | list | set | frozenset):
        return any(len(asked) == len(each) and set(asked) == set(each) for each in names)
    return isinstance(asked, str) and asked in labels


def row_of(
    units: Int[np.ndarray, "interaction order"], labels: Sequence[str], chosen: Sequence[Any]
) -> int:
    """The row of the interaction of the units with the labels that are chosen.

    Raises:
        KeyError: it was not measured, or a label is unknown.
    """
    wanted = sorted(unit_of(labels, label) for label in chosen)
    if len({*wanted}) < max(2, len(wanted)):
        named = ", ".join(map(repr, chosen)) or "none"
        raise KeyError(
            f"an interaction is of two units or more, and these are {named}; what one does alone "
            "is found[label]"
        )
    row = wanted + [-1] * (units.shape[1] - len(wanted))
    fits = len(row) == units.shape[1]
    hits = np.flatnonzero((units == row).all(axis=1)) if fits else []
    if not len(hits):
        raise KeyError(f"the interaction of {' and '.join(chosen)} was not measured")
    return int(hits[0])
