"""To and from shapiq, which is imported only when asked for.

shapiq's indices add units where this package ablates them, so that a set of k units has its sign
turned k times: pairs have the same sign in both, main effects the opposite one (helping is
positive there). What this package measures, at the intact model, is shapiq's ``Co-Moebius``.
"""

from math import isfinite
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from spex_mech.arguments import label_list, one_of, shown, whole
from spex_mech.masks import Set
from spex_mech.results.cautions import MEASURED_INDEX, index_of
from spex_mech.results.interactions import Interactions

if TYPE_CHECKING:
    import shapiq

_ROUNDINGS = 16  # of the largest value: what an alternating sum of four may be made of
_INDICES = {"shapley": "SII", "banzhaf": "BII", "mobius": "Moebius", "intact": MEASURED_INDEX}


@runtime_checkable
class Estimates(Protocol):
    """What ``distill`` and ``explain`` return, as far as it is read here."""

    @property
    def labels(self) -> list[str]:
        """The name of each unit."""
        ...

    @property
    def cost(self) -> dict[str, int | float]:
        """Evaluations and seconds."""
        ...

    @property
    def exact(self) -> bool:
        """Whether every mask was evaluated."""
        ...

    def end(self, kept: bool) -> float:
        """The mean value with all units kept, or all ablated."""
        ...

    def indices(self, kind: str, order: int) -> dict[Set, float]:
        """Coefficients of a kind, of up to so many units."""
        ...


def to_shapiq(
    found: Interactions | Estimates, kind: str | None = None, order: int = 2
) -> "shapiq.InteractionValues":
    """Results as ``InteractionValues``: what was measured, or what a distillation says.

    Of ``discover`` and ``measure`` these are interactions and main effects, averaged over prompts.
    What was not measured is absent. The values are exact: ``estimated`` is False. Main effects and
    other interactions of an odd number of units have the other sign there, as shapiq adds units
    where this package ablates them: a unit that helps has a positive value. What ``from_shapiq``
    read keeps its index, its baseline and whether it was estimated.

    Of ``distill`` and ``explain`` they are the indices of a kind, and ``estimated`` unless every
    mask was evaluated.

    Args:
        kind: of a distillation: "shapley" (shapiq's SII, the default), "banzhaf" (BII), "mobius"
            (Moebius) or "intact" (Co-Moebius). What was measured is "intact"; what was read from
            shapiq is what it was.
        order: of a distillation, the largest number of units.

    Raises:
        ImportError: if shapiq is missing.
        ValueError: it is no result of a search, it is of another kind, or shapiq has no such kind.
    """
    if isinstance(found, Interactions):
        return _of_result(found, kind)
    if not isinstance(found, Estimates):
        raise ValueError(
            "to_shapiq takes what discover, measure, distill and explain return, and got "
            f"{type(found).__name__}"
        )
    kind = one_of("kind", kind or "shapley", tuple(_INDICES))
    n = len(found.labels)
    start = found.end(kind == "intact")
    terms = found.indices(kind, whole("order", order, 1))
    sign = -1 if kind == "intact" else 1
    values = {s: sign ** len(s) * float(value) for s, value in terms.items() if s}
    named = _INDICES[kind]
    return _values_of({(): start, **values}, named, start, n, found.cost, not found.exact)


def _of_result(found: Interactions, kind: str | None) -> "shapiq.InteractionValues":
    """Of a search, or of what :func:`from_shapiq` read, which says what it is in ``about``."""
    index = index_of(found.about)
    if kind is not None and _INDICES[one_of("kind", kind, tuple(_INDICES))] != index:
        raise ValueError(
            f"kind={kind!r} is shapiq's {_INDICES[kind]}, and these values are {index}; leave kind "
            "out, or distill the game for other kinds"
        )
    values, n = _measured(found), len(found.labels)
    baseline = float(found.about.get("baseline_value", found.intact))
    estimated = bool(found.about.get("estimated", False))
    return _values_of(values, index, baseline, n, found.cost, estimated)


def _measured(found: Interactions) -> dict[Set, float]:
    """Of each set that was measured, by adding units."""
    values: dict[Set, float] = {(): found.intact}
    for unit in np.flatnonzero(np.isfinite(found.main_effects)):
        values[(int(unit),)] = -float(found.main_effects[unit])
    for units, value in zip(found.units, found.mean, strict=True):
        s = tuple(int(u) for u in units if u >= 0)
        values[s] = (-1) ** len(s) * float(value)
    return values


def _values_of(
    values: dict[Set, float],
    index: str,
    baseline: float,
    n: int,
    cost: dict[str, int | float],
    estimated: bool = False,
) -> "shapiq.InteractionValues":
    return _shapiq().InteractionValues(
        values=values,
        index=index,
        min_order=0,
        max_order=max(map(len, values)),
        n_players=n,
        estimated=estimated,
        estimation_budget=int(cost.get("evaluations", 0)) or None,
        baseline_value=baseline,
    )


def from_shapiq(
    values: "shapiq.InteractionValues", labels: list[str] | None = None
) -> Interactions:
    """shapiq's values as a table that this package can show, plot, save and confirm.

    They stay what they were: ``about["index"]`` says which index, ``about["estimated"]`` whether it
    was estimated, and neither is what ``discover`` measures unless the index is ``Co-Moebius``.

    Sets of an odd number of units get the other sign, as in :func:`to_shapiq`. The noise floor is
    that of sums of four numbers in float64: shapiq does not say how finely its game can be told.

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
        "baseline_value": float(values.baseline_value),
    }
    cost: dict[str, int | float] = {"evaluations": int(values.estimation_budget or 0)}
    start = by_set.get((), float(values.baseline_value))
    largest = max(map(abs, [start, *by_set.values()]))
    floor = _ROUNDINGS * float(np.finfo(np.float64).eps) * largest
    return Interactions(names, units, sizes, main, np.array([start]), floor, cost, None, about)


def _check_values(values: Any) -> None:
    """Raises:
    ValueError: these are no ``InteractionValues``, or one is not finite.
    """
    try:
        _ = (int(values.n_players), values.index, values.estimated, values.baseline_value)
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
