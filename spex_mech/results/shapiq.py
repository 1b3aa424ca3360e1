"""To and from shapiq, which is imported only when asked for.

shapiq's indices add units where this package ablates them, so that a set of k units has its sign
turned k times: pairs have the same sign in both, main effects the opposite one (helping is
positive there). What this package measures, at the intact model, is shapiq's ``Co-Moebius``.
"""

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from spex_mech.arguments import label_list, shown
from spex_mech.results.interactions import Interactions

if TYPE_CHECKING:
    import shapiq

INDEX = "Co-Moebius"


def to_shapiq(found: Interactions) -> "shapiq.InteractionValues":
    """Measured interactions and main effects, averaged over prompts, as ``InteractionValues``.

    What was not measured is absent. The values are exact: ``estimated`` is False. Main effects and
    other interactions of an odd number of units have the other sign there, as shapiq adds units
    where this package ablates them: a unit that helps has a positive value.

    Raises:
        ImportError: if shapiq is missing.
        ValueError: it is no result of a search.
    """
    if not isinstance(found, Interactions):
        raise ValueError(
            f"to_shapiq takes Interactions, what discover and measure return, and got "
            f"{type(found).__name__}; of what distill or explain returned, frame(kind=...) gives "
            "the indices"
        )
    shapiq = _shapiq()
    values: dict[tuple[int, ...], float] = {(): found.intact}
    for unit in np.flatnonzero(np.isfinite(found.main_effects)):
        values[(int(unit),)] = -float(found.main_effects[unit])
    for units, value in zip(found.units, found.mean, strict=True):
        s = tuple(int(u) for u in units if u >= 0)
        values[s] = (-1) ** len(s) * float(value)
    return shapiq.InteractionValues(
        values=values,
        index=INDEX,
        min_order=0,
        max_order=max(map(len, values)),
        n_players=len(found.labels),
        estimated=False,
        estimation_budget=int(found.cost.get("evaluations", 0)) or None,
        baseline_value=found.intact,
    )


def from_shapiq(
    values: "shapiq.InteractionValues", labels: list[str] | None = None
) -> Interactions:
    """shapiq's values as a table that this package can show, plot, save and confirm.

    They stay what they were: ``about["index"]`` says which index, ``about["estimated"]`` whether it
    was estimated, and neither is what ``discover`` measures unless the index is ``Co-Moebius``.

    Sets of an odd number of units get the other sign, as in :func:`to_shapiq`.

    Args:
        labels: the name of each player; default: their numbers.

    Raises:
        ValueError: it is something else, a value is not finite, or the number of labels is not that
            of the players.
    """
    _check_values(values)
    n = int(values.n_players)
    names = label_list(range(n) if labels is None else labels, n)
    by_set: dict[tuple[int, ...], float] = {
        tuple(int(u) for u in s): float(v) for s, v in values.interactions.items()
    }
    main = np.full((n, 1), np.nan)
    for s, value in by_set.items():
        if len(s) == 1:
            main[s[0]] = -value
    sets = sorted((s for s in by_set if len(s) > 1), key=lambda s: (-abs(by_set[s]), s))
    units = np.full((len(sets), max(map(len, sets), default=2)), -1, dtype=np.int32)
    sizes = np.zeros((len(sets), 1))
    for row, s in enumerate(sets):
        units[row, : len(s)] = s
        sizes[row] = (-1) ** len(s) * by_set[s]
    about: dict[str, Any] = {
        "method": "shapiq",
        "index": str(values.index),
        "estimated": bool(values.estimated),
    }
    cost: dict[str, int | float] = {"evaluations": int(values.estimation_budget or 0)}
    start = by_set.get((), float(values.baseline_value))
    return Interactions(names, units, sizes, main, np.array([start]), cost=cost, about=about)


def _check_values(values: Any) -> None:
    """Raises:
    ValueError: these are no ``InteractionValues``, or one is not finite.
    """
    try:
        int(values.n_players), values.index, values.estimated, values.baseline_value
        each = values.interactions.items()
    except (AttributeError, TypeError):
        raise ValueError(
            "from_shapiq takes shapiq.InteractionValues, what shapiq's approximators and "
            f"explainers return, and got {shown(values)}"
        ) from None
    for units, value in each:
        if not isfinite(value):
            raise ValueError(
                f"the value of {units} is {float(value)}; from_shapiq takes finite values"
            )


def _shapiq() -> Any:
    try:
        import shapiq
    except ImportError as error:
        raise ImportError("shapiq is not installed: pip install shapiq") from error
    return shapiq
