"""Selection: which units to keep, on the prompts of one game, and what its scores will compare.

One coroutine (``circuits.steps``) for each verb. What it returns is frozen: the sets that were run,
the circuit, its interactions and groups, and the comparisons that the scores need.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.circuits.explain import (
    CircuitInteraction,
    Group,
    Membership,
    effects_inside,
    find_groups,
    hidden_backups,
    links_of,
    more_backups,
    reasons,
    signed_importance,
)
from spex_mech.circuits.scores import Comparisons, Score, try_parts
from spex_mech.circuits.search import (
    EvaluatedCircuits,
    Goal,
    Surrogate,
    flipped,
    search_circuits,
)
from spex_mech.circuits.steps import Steps
from spex_mech.results.interactions import Interactions

Focus = Callable[[EvaluatedCircuits], Sequence[int]]
Slopes = Float[np.ndarray, " unit"]

_BOOTSTRAPS = 200
_RELATED = 40  # sets of units that belong together, of which scores try parts
_HIDDEN = 4  # one in so many evaluations of the scores, at most, looks for hidden backups


@dataclass(frozen=True, eq=False)
class Selection:
    """A circuit as it was selected, and why.

    Args:
        sets: every set that was run.
        kept: the circuit.
        faithfulness: on the prompts of the selection.
        what: what the scores compare.
        importance: of each unit, with a sign, as a share of the span.
        stability: see ``Circuit``.
    """

    sets: EvaluatedCircuits
    kept: Bool[np.ndarray, " unit"]
    faithfulness: float
    links: tuple[CircuitInteraction, ...]
    groups: tuple[Group, ...]
    why: dict[str, Membership]
    what: Comparisons
    importance: Float[np.ndarray, " unit"]
    stability: Score


def search(
    found: Interactions, goal: Goal, budget: int, slopes: Slopes | None, focus: Focus, seed: int
) -> Steps[tuple[EvaluatedCircuits, Surrogate]]:
    """Run the sets that the search asks for, within the budget.

    Args:
        slopes: of the metric by each unit's gate, for a ranking (:func:`gates.gate_attribution`).
    """
    n = len(found.labels)
    sets = yield from EvaluatedCircuits.started(goal, budget, n)
    surrogate = yield from _surrogate(sets, found)
    rankings: list[Int[np.ndarray, " unit"]] = []
    if slopes is not None:
        share = slopes / sets.span.value
        rankings = [np.argsort(-share, kind="stable"), np.argsort(-abs(share), kind="stable")]
    yield from search_circuits(sets, surrogate, rankings, focus, seed)
    return sets, surrogate


def select(
    found: Interactions, goal: Goal, budget: int, slopes: Slopes | None, room: int, seed: int
) -> Steps[Selection]:
    """Search, choose, and see what belongs together and what to compare.

    Args:
        room: evaluations that may be spent on what the scores compare.

    Raises:
        ValueError: the budget ended before a circuit of the size asked for was run.
    """
    n = len(found.labels)

    def focus(sets: EvaluatedCircuits) -> list[int]:
        number = sets.chosen()
        middle = goal.size or (n if number is None else int(sets.masks[number].sum()))
        return [k for k in (middle, middle - 1, middle - 2, middle + 1) if 0 < k < n]

    sets, surrogate = yield from search(found, goal, budget, slopes, focus, seed)
    number = sets.chosen()
    if number is None:
        raise ValueError(
            f"the budget of {sets.budget} evaluations ended before a circuit of {goal.size} units "
            f"was run; give at least {4 * n}, or leave it out"
        )
    chosen = yield from examine(sets, found, surrogate, sets.masks[number], room, seed)
    again = stability(sets, chosen.kept, seed)
    return replace(chosen, faithfulness=sets.faithfulness[number], stability=again)


def examine(
    sets: EvaluatedCircuits,
    found: Interactions,
    surrogate: Surrogate,
    kept: Bool[np.ndarray, " unit"],
    room: int,
    seed: int,
) -> Steps[Selection]:
    """What a circuit's interactions, groups and importance are, and what its scores compare."""
    labels, effects = found.labels, surrogate.effects
    links = links_of(found, kept, sets.span.value)
    groups = yield from find_groups(sets, kept, labels, links, effects)
    what = yield from try_parts(sets, kept, _related(labels, groups, links), room, seed)
    groups = yield from more_backups(sets, groups, what, labels)
    groups = yield from hidden_backups(sets, groups, kept, labels, room // _HIDDEN)
    inside = yield from effects_inside(sets, kept)
    importance = yield from signed_importance(sets, kept, labels, groups, links, effects)
    return Selection(
        sets=sets,
        kept=kept,
        faithfulness=float("nan"),
        links=links,
        groups=groups,
        why=reasons(surrogate, labels, kept, links, inside, sets.span.value),
        what=what,
        importance=importance,
        stability=Score(float("nan"), float("nan")),
    )


def examine_given(
    found: Interactions, kept: Bool[np.ndarray, " unit"], room: int, seed: int
) -> Steps[Selection]:
    """The same of a circuit that was not searched."""
    n = len(found.labels)
    sets = yield from EvaluatedCircuits.started(Goal("match", size=int(kept.sum())), n + 2, n)
    surrogate = yield from _surrogate(sets, found)
    chosen = yield from examine(sets, found, surrogate, kept, room, seed)
    why = {label: replace(reason, brought_by="given") for label, reason in chosen.why.items()}
    return replace(chosen, why=why)


def stability(sets: EvaluatedCircuits, kept: Bool[np.ndarray, " unit"], seed: int) -> Score:
    """Redraw the prompts, select again among all sets that were run by the same rule, compare."""
    n_prompts, goal = len(sets.intact), sets.goal
    if n_prompts < 2:
        return Score(float("nan"), float("nan"))
    draws = np.random.default_rng(seed).multinomial(
        n_prompts, np.full(n_prompts, 1 / n_prompts), _BOOTSTRAPS
    )
    masks = np.array(sets.masks)
    sizes, values = masks.sum(axis=1), np.array(sets.values)
    overlaps = []
    for draw in draws:
        weights = draw / n_prompts
        span = float((sets.intact - sets.empty) @ weights)
        if span == 0:
            continue
        row = goal.choose(*_faithfulness_and_losses(sets, values, weights, span), sizes)
        if row is not None:
            both, either = masks[row] & kept, masks[row] | kept
            overlaps.append(both.sum() / max(1, either.sum()))
    spread = float(np.std(overlaps, ddof=1)) if len(overlaps) > 1 else float("nan")
    return Score(float(np.mean(overlaps)) if overlaps else float("nan"), spread)


def _faithfulness_and_losses(
    sets: EvaluatedCircuits,
    values: Float[np.ndarray, "set prompt"],
    weights: Float[np.ndarray, " prompt"],
    span: float,
) -> tuple[Float[np.ndarray, " set"], Float[np.ndarray, " set"]]:
    """As ``EvaluatedCircuits`` has them, on prompts that are weighted (weights of sum 1)."""
    n_prompts = len(weights)
    faithfulness = (values @ weights - sets.empty @ weights) / span
    off = (values - sets.intact) / span
    spread = (off - (off @ weights)[:, None]) ** 2 @ weights * n_prompts / (n_prompts - 1)
    return faithfulness, sets.goal.loss(faithfulness, np.sqrt(spread / n_prompts))


def _surrogate(sets: EvaluatedCircuits, found: Interactions) -> Steps[Surrogate]:
    """Main effects and interactions as shares of the span; main effects that were not measured are
    measured here."""
    effects = found.main_effects / sets.span.value
    unknown = np.flatnonzero(~np.isfinite(effects))
    if len(unknown):
        asked = yield from sets.ask(flipped(np.ones(sets.n, dtype=bool), unknown[:, None]))
        effects[unknown] = [sets.faithfulness[i] - 1 if i >= 0 else 0.0 for i in asked]
    values = found.mean / sets.span.value
    return Surrogate(effects, found.units.astype(np.int64), values)


def _related(
    labels: Sequence[str], groups: Sequence[Group], links: Sequence[CircuitInteraction]
) -> list[list[int]]:
    column = {label: u for u, label in enumerate(labels)}
    backups = [link for link in links if link.reading != "AND-like"]
    others = [link for link in links if link.reading == "AND-like"]
    named = [*(g.units for g in groups), *(x.units for x in [*backups, *others][:_RELATED])]
    return [[column[label] for label in units] for units in named]
