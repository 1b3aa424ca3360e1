"""From interactions to a circuit: which units to keep, then what that does, measured on the model.

1. **Select** (``circuits.select``): a search on the prompts of one game (``circuits.search``), and
   what the scores will compare.
2. **Score** (``circuits.scores``) what was selected on another game, so that the scores do not
   profit from the selection.
3. **Explain** (``circuits.explain``): interactions, groups, importance.

``faithfulness_curve`` does so for every size, ``score_circuit`` scores a circuit that is given.
What they return, and the papers whose scores these are, is in ``circuits.circuit``.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Int

from spex_mech.arguments import file_of, one_of, shown, whole
from spex_mech.circuits.circuit import Circuit
from spex_mech.circuits.curve import FaithfulnessCurve
from spex_mech.circuits.driving import CircuitRuns, Games, digest, one_question
from spex_mech.circuits.gates import STEPS
from spex_mech.circuits.labels import columns_of
from spex_mech.circuits.mib import mib_sizes
from spex_mech.circuits.search import Aim, Goal, prefixes
from spex_mech.circuits.select import Selection, Slopes, examine_given, search, select
from spex_mech.circuits.span import checked_span
from spex_mech.circuits.steps import Masks, Steps, Values
from spex_mech.discover import say_without_gradients
from spex_mech.game import Game, as_game
from spex_mech.notices import warn
from spex_mech.results.cautions import other_groups
from spex_mech.results.files import opened
from spex_mech.results.interactions import Interactions
from spex_mech.runs.session import RunSettings
from spex_mech.search.contract import GRADIENT_COST
from spex_mech.units import Units

_AIMS: dict[str, Aim] = {"match": "match", "recover": "recover"}
_PER_UNIT = 20  # evaluations of the search, for each unit
_ALL_OF = 8  # units, of which every set is run by default
_SCORES = 2048  # evaluations of what the scores compare: all parts of up to ten members

Place = str | os.PathLike[str]


def find_circuit(
    game: Any,
    found: Interactions,
    faithfulness: float | None = None,
    size: int | None = None,
    *,
    held_out: Any = None,
    aim: str = "match",
    budget: int | None = None,
    seed: int = 0,
    progress: bool = True,
    scores_budget: int = _SCORES,
    store: Place | None = None,
    workers: int | None = None,
    address: str | None = None,
    masks_per_batch: int | None = None,
    timeout: float | None = None,
) -> Circuit:
    """The units to keep so that they do the task alone, chosen with main effects and interactions
    and corrected by real ablations in rounds; then scored on the model.

    Whether more or less of the metric is better is taken from what all units together do for it:
    the same circuit is found for a metric and for minus that metric.

    Args:
        game: the game to select on; units as in ``found``.
        found: measured interactions (of this game, or of one alike: they only guide).
        faithfulness: the smallest circuit that keeps this share of what all units do (default 0.9).
        size: instead: the best circuit of so many units.
        held_out: the same units on other prompts, to score on. Without one the scores are over
            the prompts of the selection, as ``circuit.about["measured_on"]`` says, and too good.
            What the scores compare (the part K of completeness; of minimality the member and its K)
            is chosen on the prompts of the selection all the same, and only measured on these: so
            the least minimality is that of the member that was the least on the selection, and
            another one may be smaller here (``circuit.frame()``, and ``print`` names it).
        aim: "match": the metric of the intact model, no less and no more; "recover": as much of it
            as possible, so that units which hold the metric down are left out.
        budget: evaluations of the selection, at most; default 20 per unit and 50, or
            every set of up to 8 units. Where every set fits into it, the circuit is the best there
            is.
        seed: of what is random in search, scores and bootstrap.
        progress: show a progress bar once it takes more than a few seconds.
        scores_budget: evaluations, beside the budget, of what the scores compare: every part of a
            circuit of n members takes ``2**(n + 1)``, so by default all of ten members. With fewer
            than that the parts that are likely to matter are tried, some 40 and up to 20 per
            member, and the scores are called bounds. On ``held_out`` some 20 are run, and 4 per
            member.
        store: a file that keeps every evaluation, as in ``discover``: the same call goes on where
            it was killed. Held-out evaluations are kept beside it, in a file whose name has
            ``.held_out`` before its ending. ``cost["checks"]`` is what opening them cost.
        workers, address, timeout: as in ``discover``; then ``game`` and ``held_out`` are functions
            that make the game.
        masks_per_batch: as in ``discover``.

    Raises:
        ValueError: faithfulness and size are both given, or not possible; other units; a budget
            that is too small; units that do nothing for the metric, or so little that it cannot be
            told from nothing over these prompts (under one standard error).

    Warns:
        UserWarning: what all units do is under three standard errors from nothing; ``held_out``
            has prompts of the selection or of the search for ``found``, another metric, ablation or
            model, or another sign.

    >>> import torch
    >>> def backups(masks):  # unit 0 works with either of 1 and 2; 3 is spare
    ...     return (masks[:, 0] & (masks[:, 1] | masks[:, 2])).double()
    >>> from spex_mech.discover import discover, as_game
    >>> game = as_game(backups, None, list("abcd"))
    >>> circuit = find_circuit(game, discover(game))
    >>> len(circuit), circuit.faithfulness.value
    (2, 1.0)
    >>> [str(group) for group in circuit.groups if group.kind == "backup"]
    ['backup: (b), c']
    """
    how = RunSettings(progress, store, workers, address, masks_per_batch, timeout)
    found = _measured(found)
    with ExitStack() as stack:
        game, held_out = Games.started(stack, game, held_out, how)
        games = Games.checked(game, held_out, found.unit_table)
        n = len(found.labels)
        goal = _goal(faithfulness, size, aim, n)
        scores_budget, seed = whole("scores_budget", scores_budget, 0), whole("seed", seed, 0)
        about: dict[str, Any] = {"aim": aim, "found": found.about, "seed": seed}
        budget, gradients = _gradients(games.game, _budget(budget, n), n, about)
        settings = {"goal": repr(goal), "found": digest(found), "scores_budget": scores_budget}
        run = CircuitRuns(games, how, {**settings, "seed": seed, "budget": budget}, found.about)

        def steps(slopes: Slopes | None) -> Steps[Selection]:
            return select(found, goal, budget, slopes, scores_budget, seed)

        selection = run.select("find_circuit", steps, budget, gradients)
        selected = f"the best {size} units" if size is not None else f"for {goal.faithfulness:g}"
        about["selected"] = selected
        about["beside_budget"] = selection.sets.beside_budget
        about["selection_faithfulness"] = selection.faithfulness
        return run.circuit(selection, about)


def score_circuit(
    game: Any,
    circuit: Circuit | Sequence[Any] | Mapping[str, Any] | Place,
    found: Interactions | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
    scores_budget: int = _SCORES,
    store: Place | None = None,
    workers: int | None = None,
    address: str | None = None,
    masks_per_batch: int | None = None,
    timeout: float | None = None,
) -> Circuit:
    """Score a circuit that is given: faithfulness, completeness, minimality, with errors.

    Args:
        game: what to score it on; choose prompts that the circuit was not selected on.
        circuit: a circuit (also one found elsewhere, or loaded); labels in any spelling of
            ``circuits.labels``, such as ``["L9H6", "a9.h9", (10, 0)]``; the benchmark's JSON as a
            dictionary; or a file of that JSON, or of ``Circuit.save``.
        found: measured interactions of the same units, for groups and reasons. Without them each
            unit is ablated alone, and no group of units that were left out is known.

    The other arguments are those of :func:`find_circuit`.

    Raises:
        ValueError: no unit of the game is called so; a group of this name that holds others; a
            span that is nothing.
        FileNotFoundError: there is no such file.

    >>> from spex_mech.game import Game, as_game
    >>> game = as_game(lambda m: m[:, 0] + 0.5 * m[:, 1], None, ["L0H0", "L0H1", "L1H0"])
    >>> circuit = score_circuit(game, ["a0.h0"])
    >>> circuit.units, round(circuit.faithfulness.value, 3)
    (['L0H0'], 0.667)
    """
    how = RunSettings(progress, store, workers, address, masks_per_batch, timeout)
    with ExitStack() as stack:
        game, _ = Games.started(stack, game, None, how)
        if found is None:
            game = as_game(game)
            found = _nothing_measured(game.labels)
        games = Games.checked(game, None, _measured(found).unit_table)
        scores_budget, seed = whole("scores_budget", scores_budget, 0), whole("seed", seed, 0)
        names, chosen, its_units = _given(circuit)
        if not names:
            raise ValueError("the circuit that is given has no unit; name at least one")
        if groups := other_groups(its_units, games.game.units):
            raise ValueError(f"{groups}, the circuit and the game; make both of the same groups")
        kept = np.zeros(len(found.labels), dtype=bool)
        kept[columns_of(names, games.game.units, "circuit")] = True
        settings = {"kept": np.flatnonzero(kept).tolist(), "found": digest(found), "seed": seed}
        run = CircuitRuns(games, how, {**settings, "scores_budget": scores_budget}, found.about)
        selection = run.select(
            "score_circuit", lambda _: examine_given(found, kept, scores_budget, seed), 0
        )
        about = {"selected": chosen, "seed": seed, "found": found.about}
        return run.circuit(selection, about, "prompts")


def faithfulness_curve(
    game: Any,
    found: Interactions,
    *,
    order: Sequence[Any] | None = None,
    sizes: Iterable[int] | int | str | None = None,
    held_out: Any = None,
    aim: str = "match",
    budget: int | None = None,
    progress: bool = True,
    store: Place | None = None,
    workers: int | None = None,
    address: str | None = None,
    masks_per_batch: int | None = None,
    timeout: float | None = None,
) -> FaithfulnessCurve:
    """The best circuit of each size and its faithfulness, with the areas CPR and CMD.

    Args:
        order: measure the first so many units of this ranking (labels in any spelling, most
            important first; the rest follow as they stand) instead of searching: what another
            method says.
        sizes: which; default: all, of more than 64 units some that are spread. None and all of the
            units are always there; a size that the budget did not reach is not, which a warning
            says. "mib": those of the benchmark, ``[int(p * n) for p in (.001,
            .002, .005, .01, .02, .05, .1, .2, .5, 1)]``, for ``curve.mib_areas()``.
        held_out: other prompts to measure the curve on, as in :func:`find_circuit`, as are the
            other arguments.

    Raises:
        ValueError: as :func:`find_circuit`; an order that names a unit twice, or none.

    Warns:
        UserWarning: as :func:`find_circuit`.
    """
    how = RunSettings(progress, store, workers, address, masks_per_batch, timeout)
    found = _measured(found)
    with ExitStack() as stack:
        game, held_out = Games.started(stack, game, held_out, how)
        games = Games.checked(game, held_out, found.unit_table)
        n = len(found.labels)
        wanted = _sizes(sizes, n)
        goal = _goal(None, None, aim, n)
        about = {"aim": aim, "found": found.about, "selected": "searched at every size"}
        if order is not None:
            masks = prefixes(_whole_order(order, games.game.units), wanted)
            run = CircuitRuns(games, how, {}, {})
            selected = None
            if games.held_out is None:
                selected = run.select("order", lambda _: one_question(masks), len(masks))
            about["selected"] = "by a given order"
        else:
            budget, gradients = _gradients(games.game, _budget(budget, n), n, about)
            settings = {"goal": repr(goal), "found": digest(found), "sizes": wanted}
            run = CircuitRuns(games, how, {**settings, "budget": budget}, found.about)

            def steps(slopes: Slopes | None) -> Steps[tuple[Masks, Values]]:
                return _best_of_sizes(found, goal, budget, slopes, wanted)

            masks, selected = run.select("faithfulness_curve", steps, budget, gradients)
        values = run.score(masks) if games.held_out is not None else selected
        assert values is not None
        about["measured_on"] = run.where(selected, values)
        checked_span(values[-1], values[0], f"these {values.shape[1]} prompts")
        return FaithfulnessCurve(list(found.labels), masks, values, run.cost(), run.about(about))


# -- asking, checking ---------------------------------------------------------------------------


def _goal(faithfulness: float | None, size: int | None, aim: str, n: int) -> Goal:
    one_of("aim", aim, _AIMS)
    if faithfulness is not None and size is not None:
        raise ValueError("give faithfulness or size, not both")
    if size is not None:
        size = whole("size", size, 1, n)
    if faithfulness is not None:
        is_number = isinstance(faithfulness, Real) and not isinstance(faithfulness, bool)
        if not is_number or not 0 < faithfulness <= 1:
            raise ValueError(
                f"faithfulness is {shown(faithfulness)}; it must be a number above 0 and at most 1"
            )
    return Goal(_AIMS[aim], 0.9 if faithfulness is None else float(faithfulness), size)


def _budget(budget: int | None, n: int) -> int:
    if budget is not None and whole("budget", budget, 1) < n + 2:
        raise ValueError(
            f"a budget of {budget} evaluations cannot select among {n} units; give at least {n + 2}"
        )
    default = max(_PER_UNIT * n + 50, 2**n if n <= _ALL_OF else 0)
    return default if budget is None else int(budget)


def _gradients(game: Game, budget: int, n: int, about: dict[str, Any]) -> tuple[int, int]:
    """The evaluations left for ablations, and the gradients for the slopes of the gates: none where
    the budget allows every set, or is smaller than their price. Where a game that could have
    gradients has none, that is said in a warning and in ``about``."""
    every = n < 63 and 2**n <= budget
    if every or budget < n + 2 + GRADIENT_COST * STEPS:
        return budget, 0
    if not game.has_slopes:
        say_without_gradients(game, "the circuit is searched without gradients", about)
        return budget, 0
    return budget - GRADIENT_COST * STEPS, STEPS


def _sizes(sizes: Iterable[int] | int | str | None, n: int) -> list[int]:
    if isinstance(sizes, str):
        if sizes != "mib":
            raise ValueError(f"sizes={sizes!r}; give 'mib', or sizes of circuits")
        asked = mib_sizes(n)
    else:
        given = [sizes] if isinstance(sizes, int | np.integer) else sizes
        asked = _spread(n) if given is None else [whole("a size", size, 0, n) for size in given]
    return sorted({0, *asked, n})


def _spread(n: int) -> list[int]:
    if n <= 64:
        return list(range(n + 1))
    return np.unique(np.round(np.geomspace(1, n, 64)).astype(int)).tolist()


def _whole_order(order: Sequence[Any], units: Units) -> Int[np.ndarray, " unit"]:
    first = columns_of(order, units, "order")
    rest = [column for column in range(len(units)) if column not in set(first)]
    return np.array([*first, *rest], dtype=np.int64)


def _best_of_sizes(
    found: Interactions, goal: Goal, budget: int, slopes: Slopes | None, wanted: list[int]
) -> Steps[tuple[Masks, Values]]:
    """The best set of each of these sizes that was run, and its values."""
    inner = [size for size in wanted if 0 < size < len(found.labels)]
    sets, _ = yield from search(found, goal, budget, slopes, lambda sets: inner, seed=0)
    numbers = [sets.best_number(size) for size in wanted]
    if missing := [size for size, number in zip(wanted, numbers, strict=True) if number is None]:
        warn(
            f"the budget ended before circuits of {_listed(missing)} units "
            "were run, so that the curve has none and CPR and CMD go straight over them; give at "
            f"least {4 * len(found.labels)}, or leave it out"
        )
    rows = [number for number in numbers if number is not None]
    return np.array([sets.masks[i] for i in rows]), np.array([sets.values[i] for i in rows])


def _listed(sizes: list[int]) -> str:
    return ", ".join(map(str, sizes[:8])) + (", ..." if len(sizes) > 8 else "")


def _given(
    circuit: Circuit | Sequence[Any] | Mapping[str, Any] | Place,
) -> tuple[list[Any], str, Units]:
    """The names of a circuit's units, where they came from, and what is known of its units."""
    if isinstance(circuit, str | os.PathLike):
        path = file_of("circuit", circuit)
        try:
            with opened(path) as file:
                read = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is no circuit (JSON): {error}") from error
        saved = isinstance(read, dict) and "kind" in read
        circuit = Circuit.load(path) if saved else Circuit.from_mib(path)
        return list(circuit.units), f"read from {path}", circuit.unit_table
    if isinstance(circuit, Mapping):
        return list(Circuit.from_mib(circuit).units), "read from the benchmark's JSON", Units([])
    if isinstance(circuit, Circuit):
        selected = f"given ({circuit.about.get('selected', 'a circuit')})"
        return list(circuit.units), selected, circuit.unit_table
    if not isinstance(circuit, Iterable):
        raise TypeError(
            f"circuit is {shown(circuit)}; give labels of units, a Circuit, or a file of one"
        )
    return list(circuit), "given", Units([])


def _measured(found: Any) -> Interactions:
    if not isinstance(found, Interactions):
        raise TypeError(
            f"found is {shown(found)}; give the Interactions that discover returned for these units"
        )
    return found


def _nothing_measured(labels: list[str]) -> Interactions:
    return Interactions(
        labels,
        np.zeros((0, 2), dtype=np.int64),
        np.zeros((0, 1), dtype=np.float32),
        np.full((len(labels), 1), np.nan),
        np.full(1, np.nan),
    )
