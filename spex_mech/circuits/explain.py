"""Why a unit is in a circuit: interactions that count, groups of units, importance.

All is worked out in shares of the span, ``F(M) - F(nothing)``, so that a unit that helps has a
negative effect whether more or less of the metric is better.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.circuits.scores import Comparisons
from spex_mech.circuits.search import EvaluatedCircuits, Surrogate, every_subset, flipped
from spex_mech.circuits.steps import Steps
from spex_mech.results.interactions import Interactions
from spex_mech.results.readings import readings_of

Kind = Literal["series", "backup"]

_LISTED = 0.01  # of the span: interactions that are listed
_GROUP = 0.05  # of the span: those that make a group
_Q = 0.05  # false discoveries among the interactions that are listed
_MORE = 1.5  # backups do at least so many times together what they do one by one
_MOST_TOGETHER = 6  # units whose subsets are all ablated to see what they do together


@dataclass(frozen=True)
class CircuitInteraction:
    """A measured interaction that counts in a circuit: of its units at least one is a member."""

    units: tuple[str, ...]
    value: float
    stderr: float
    reading: str

    def __str__(self) -> str:
        return f"{' x '.join(self.units)} {self.value:+.3g} {self.reading}"


@dataclass(frozen=True)
class Membership:
    """Why a unit is a member, in the metric's own units.

    Args:
        main_effect: of ablating it alone in the intact model (NaN where it was not measured).
        inside: of ablating it in the circuit, where what is not a member is gone already.
        links: the interactions that it takes part in, strongest first.
        brought_by: "main effect": by its main effect alone it would be among as many units;
            "interactions": it would not, but has links; "ablations": neither, it was found by
            ablating on the way; "given": the circuit was not searched, but handed in.
    """

    main_effect: float
    inside: float
    links: tuple[CircuitInteraction, ...]
    brought_by: Literal["main effect", "interactions", "ablations", "given"]


@dataclass(frozen=True)
class Group:
    """Units that belong together.

    Args:
        kind: "series": each one's damage is mostly that of the others (AND-like); "backup": one
            takes over when another is gone (OR-like).
        units: their labels.
        kept: those of them that are members; a backup that was left out is not.
        sides: of backups, the sides that back one another up. A side of several units is no backup
            within itself: two chains that back one another up are two sides. Empty where the units
            do not part into sides.
    """

    kind: Kind
    units: tuple[str, ...]
    kept: tuple[str, ...]
    sides: tuple[tuple[str, ...], ...] = ()

    def __str__(self) -> str:
        named = {unit: unit if unit in self.kept else f"({unit})" for unit in self.units}
        parts = self.sides or [(unit,) for unit in self.units]
        return f"{self.kind}: " + ", ".join(" + ".join(named[u] for u in part) for part in parts)


# -- interactions that count ----------------------------------------------------------------------


def links_of(
    found: Interactions, kept: Bool[np.ndarray, " unit"], span: float
) -> tuple[CircuitInteraction, ...]:
    """Interactions of members that are real, strongest first."""
    has_member = np.append(kept, False)[found.units].any(axis=1)
    rows = np.flatnonzero(has_member & is_real(found, span))
    rows = rows[np.argsort(-abs(found.mean[rows]), kind="stable")]
    readings, names = readings_of(found, found.is_noise, less_is_better=span < 0), found.names
    return tuple(
        CircuitInteraction(
            names[row], float(found.mean[row]), float(found.stderr[row]), readings[row]
        )
        for row in rows
    )


def is_real(found: Interactions, span: float) -> Bool[np.ndarray, " interaction"]:
    """Above the noise floor, q <= 0.05 where there is an error, and at least 1 % of the span."""
    tiny = abs(found.mean) < _LISTED * abs(span)
    return ~found.is_noise & ~(found.q_value > _Q) & ~tiny


# -- groups ---------------------------------------------------------------------------------------


def find_groups(
    sets: EvaluatedCircuits,
    kept: Bool[np.ndarray, " unit"],
    labels: Sequence[str],
    links: Sequence[CircuitInteraction],
    effects: Float[np.ndarray, " unit"],
) -> Steps[tuple[Group, ...]]:
    """Connected pairs of one kind; of backups also larger sets that were ablated whole.

    Args:
        effects: of ablating each unit alone, as shares of the span.
    """
    column = {label: u for u, label in enumerate(labels)}
    pairs = strong_pairs(links, column, kept, effects, sets.span.value)
    larger = [tuple(sorted(column[u] for u in x.units)) for x in links if len(x.units) > 2]
    backups = list(pairs["backup"])
    for units in larger:
        if (yield from are_backups(sets, units)):
            backups += combinations(units, 2)
    groups = _groups("series", pairs["series"], labels, kept)
    return (*groups, *_groups("backup", backups, labels, kept))


def more_backups(
    sets: EvaluatedCircuits,
    groups: tuple[Group, ...],
    what: Comparisons,
    labels: Sequence[str],
) -> Steps[tuple[Group, ...]]:
    """The groups, with sets of three and more members that back one another up, as minimality shows
    them: a member that is missed only once others are gone."""
    pairs = _backup_pairs(groups, labels)
    known = {u for pair in pairs for u in pair}
    found = list(pairs)
    for unit, part in what.moves:
        units = (*np.flatnonzero(part).tolist(), unit)
        if len(units) > 2 and not known.issuperset(units):
            if (yield from are_backups(sets, tuple(sorted(units)))):
                found += combinations(sorted(units), 2)
    if len(found) == len(pairs):
        return groups
    return _with_backups(groups, found, labels, what.kept)


def hidden_backups(
    sets: EvaluatedCircuits,
    groups: tuple[Group, ...],
    kept: Bool[np.ndarray, " unit"],
    labels: Sequence[str],
    room: int,
) -> Steps[tuple[Group, ...]]:
    """The groups, with backups that no measured interaction shows: units left out that can stand in
    for a member.

    A member that is missed in the circuit and not in the whole model has its backups among what was
    left out. Each of those is added to the circuit alone, with the member and without it. Where it
    and the member together do one and a half times the damage that they do one by one there, it
    takes the member's place; and what can take one place stands in for each other.

    Args:
        room: evaluations that may be spent: 2 for each unit left out, for each such member.
    """
    grouped = {unit for group in groups if group.kind == "backup" for unit in group.units}
    inside = yield from effects_inside(sets, kept)
    alone = yield from sets.values_of(flipped(np.ones_like(kept), np.array([*inside])[:, None]))
    intact = dict(zip(inside, (alone.mean(axis=1) - sets.intact.mean()).tolist(), strict=True))
    damage = {unit: -effect / sets.span.value for unit, effect in inside.items()}
    missed = [
        unit
        for unit in sorted(damage, key=lambda unit: -damage[unit])
        if labels[unit] not in grouped
        and damage[unit] >= _GROUP
        and damage[unit] >= _MORE * abs(intact[unit] / sets.span.value)
    ]
    whole = float((yield from sets.values_of(kept[None])).mean()) / sets.span.value
    outside, found = np.flatnonzero(~kept), []
    for unit in missed[: room // max(1, 2 * len(outside))]:
        without = flipped(kept, np.array([[unit]]))[0]
        masks = [flipped(mask, outside[:, None]) for mask in (kept, without)]
        values = yield from sets.values_of(np.concatenate([*masks, without[None]]))
        share = values.mean(axis=1) / sets.span.value
        both, one, none = share[: len(outside)], share[len(outside) : -1], share[-1]
        # The damage of the member, of the other and of both, where the other was added.
        singly = abs(both - one) + abs(both - whole)
        stands_in = (both - none >= _MORE * singly) & (both - none - singly >= _GROUP)
        found += combinations(sorted([unit, *outside[stands_in].tolist()]), 2)
    if not found:
        return groups
    return _with_backups(groups, [*_backup_pairs(groups, labels), *found], labels, kept)


def _backup_pairs(groups: Iterable[Group], labels: Sequence[str]) -> list[tuple[int, int]]:
    """The pairs of units on different sides of a group of backups."""
    column = {label: u for u, label in enumerate(labels)}
    pairs = []
    for group in groups:
        if group.kind == "backup":
            named = group.sides or [(unit,) for unit in group.units]
            sides = [[column[unit] for unit in side] for side in named]
            pairs += [
                (min(a, b), max(a, b))
                for one, two in combinations(sides, 2)
                for a in one
                for b in two
            ]
    return pairs


def _with_backups(
    groups: Iterable[Group],
    pairs: Sequence[tuple[int, int]],
    labels: Sequence[str],
    kept: Bool[np.ndarray, " unit"],
) -> tuple[Group, ...]:
    """The groups, with those of backups made anew of these pairs."""
    others = (group for group in groups if group.kind != "backup")
    return (*others, *_groups("backup", pairs, labels, kept))


def strong_pairs(
    links: Sequence[CircuitInteraction],
    column: Mapping[str, int],
    kept: Bool[np.ndarray, " unit"],
    effects: Float[np.ndarray, " unit"],
    span: float,
) -> dict[Kind, list[tuple[int, int]]]:
    """In series: members, at least half of the weaker one's damage overlaps with the other's.
    Backups: together they do at least one and a half times the damage that they do one by one,
    and neither holds the metric down (else the other's loss may only undo what its own adds); one
    of them at least is a member."""
    pairs: dict[Kind, list[tuple[int, int]]] = {"series": [], "backup": []}
    for link in links:
        value = link.value / span
        if len(link.units) != 2 or abs(value) < _GROUP:
            continue
        a, b = sorted(column[unit] for unit in link.units)
        alone = np.nan_to_num(effects[[a, b]])
        if link.reading == "AND-like" and kept[a] and kept[b]:
            if value >= abs(alone).min() / 2:
                pairs["series"].append((a, b))
        elif link.reading == "OR-like" and alone.max() < _GROUP:
            if -value >= abs(alone).sum() * (_MORE - 1):
                pairs["backup"].append((a, b))
    return pairs


def are_backups(sets: EvaluatedCircuits, units: tuple[int, ...]) -> Steps[bool]:
    """Whether these three and more units back one another up, as all of their subsets are ablated
    in the intact model: together they do one and a half times what the two parts do of any split,
    and none of them holds the metric down."""
    if len(units) > _MOST_TOGETHER:
        return False
    parts = every_subset(np.array(units), sets.n)
    values = yield from sets.values_of(~parts)
    damage = (sets.intact.mean() - values.mean(axis=1)) / sets.span.value
    if damage[1 : len(units) + 1].min() <= -_GROUP:  # of single units
        return False
    of = {part.tobytes(): float(d) for part, d in zip(parts, damage, strict=True)}
    whole = parts[-1]
    splits = [abs(of[p.tobytes()]) + abs(of[(whole & ~p).tobytes()]) for p in parts[1:-1]]
    return bool(damage[-1] >= _MORE * max(splits) and damage[-1] - max(splits) >= _GROUP)


def _groups(
    kind: Kind,
    pairs: Sequence[tuple[int, int]],
    labels: Sequence[str],
    kept: Bool[np.ndarray, " unit"],
) -> list[Group]:
    groups = []
    for units in _connected(pairs):
        members = tuple(labels[u] for u in units if kept[u])
        if kind == "backup" and not members:
            continue
        sides = _sides(units, pairs) if kind == "backup" else []
        named = tuple(tuple(labels[u] for u in side) for side in sides)
        groups.append(Group(kind, tuple(labels[u] for u in units), members, named))
    return groups


def _connected(pairs: Iterable[tuple[int, ...]]) -> list[list[int]]:
    clusters: list[set[int]] = []
    for pair in pairs:
        touched = [cluster for cluster in clusters if cluster & set(pair)]
        clusters = [cluster for cluster in clusters if not cluster & set(pair)]
        clusters.append(set(pair).union(*touched))
    return [sorted(cluster) for cluster in clusters]


def _sides(units: list[int], pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Units that no pair of backups joins are on one side, and so on."""
    joined = {frozenset(pair) for pair in pairs}
    apart = [pair for pair in combinations(units, 2) if frozenset(pair) not in joined]
    sides = _connected([*apart, *((unit,) for unit in units)])
    return sorted(sides) if len(sides) > 1 else []


# -- importance and reasons -----------------------------------------------------------------------


def signed_importance(
    sets: EvaluatedCircuits,
    kept: Bool[np.ndarray, " unit"],
    labels: Sequence[str],
    groups: Sequence[Group],
    links: Sequence[CircuitInteraction],
    effects: Float[np.ndarray, " unit"],
) -> Steps[Float[np.ndarray, " unit"]]:
    """What each unit does for the metric, where that is largest, as a share of the span; negative
    where it holds the metric down. It is looked at in the intact model, in the circuit, and, of a
    backup, in the intact model without any of the others of its group."""
    column = {label: u for u, label in enumerate(labels)}
    inside = yield from effects_inside(sets, kept)
    largest = -np.nan_to_num(effects)
    for unit, effect in inside.items():
        largest[unit] = _larger(float(largest[unit]), -effect / sets.span.value)
    for group in groups:
        if group.kind != "backup":
            continue
        units = np.array([column[unit] for unit in group.units])
        if len(units) > _MOST_TOGETHER:
            _by_pairs(largest, effects, links, column, set(group.units), sets.span.value)
            yield from _as_the_last(sets, largest, units)
            continue
        parts = every_subset(units, sets.n)
        values = yield from sets.values_of(~parts)
        share = values.mean(axis=1) / sets.span.value
        row_of = {part.tobytes(): row for row, part in enumerate(parts)}
        for unit in units.tolist():
            for row in np.flatnonzero(~parts[:, unit]).tolist():
                also = row_of[flipped(parts[row], np.array([[unit]]))[0].tobytes()]
                largest[unit] = _larger(float(largest[unit]), float(share[row] - share[also]))
    return largest


def _as_the_last(
    sets: EvaluatedCircuits,
    largest: Float[np.ndarray, " unit"],
    units: Int[np.ndarray, " member"],
) -> Steps[None]:
    """Of a large group: each unit once all the others are gone."""
    gone = np.ones(sets.n, dtype=bool)
    gone[units] = False
    values = yield from sets.values_of(np.concatenate([gone[None], flipped(gone, units[:, None])]))
    share = values.mean(axis=1) / sets.span.value
    for unit, value in zip(units.tolist(), share[1:], strict=True):
        largest[unit] = _larger(float(largest[unit]), float(value - share[0]))


def effects_inside(
    sets: EvaluatedCircuits, kept: Bool[np.ndarray, " unit"]
) -> Steps[dict[int, float]]:
    """Of each member the change of the metric when it is ablated in the circuit."""
    members = np.flatnonzero(kept)
    values = yield from sets.values_of(
        np.concatenate([kept[None], flipped(kept, members[:, None])])
    )
    changes = values[1:].mean(axis=1) - values[0].mean()
    return dict(zip(members.tolist(), changes.tolist(), strict=True))


def _by_pairs(
    largest: Float[np.ndarray, " unit"],
    effects: Float[np.ndarray, " unit"],
    links: Sequence[CircuitInteraction],
    column: Mapping[str, int],
    group: set[str],
    span: float,
) -> None:
    """Of a large group: each unit once one other is gone, from the measured pairs."""
    for link in links:
        if len(link.units) == 2 and group.issuperset(link.units):
            for unit in (column[label] for label in link.units):
                later = -float(np.nan_to_num(effects[unit]) + link.value / span)
                largest[unit] = _larger(float(largest[unit]), later)


def _larger(one: float, two: float) -> float:
    return two if abs(two) > abs(one) else one


def reasons(
    surrogate: Surrogate,
    labels: Sequence[str],
    kept: Bool[np.ndarray, " unit"],
    links: Sequence[CircuitInteraction],
    inside: Mapping[int, float],
    span: float,
) -> dict[str, Membership]:
    """Why each member is one."""
    strongest = set(np.argsort(surrogate.effects, kind="stable")[: kept.sum()].tolist())
    why = {}
    for unit in np.flatnonzero(kept).tolist():
        own = tuple(link for link in links if labels[unit] in link.units)
        by: Literal["main effect", "interactions", "ablations"] = (
            "main effect" if unit in strongest else "interactions" if own else "ablations"
        )
        main = float(surrogate.effects[unit] * span)
        why[labels[unit]] = Membership(main, inside[unit], own, by)
    return why
