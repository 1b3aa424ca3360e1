"""Backups: units that are needed more once others are gone.

In language models heads whose output was hardly needed take over when stronger ones are ablated
(backup name movers: Wang et al. 2022, "Interpretability in the wild", section 3.4; self-repair:
McGrath et al. 2023). A backup of some units is a unit that interacts with all of them together,
OR-like: ``I = f(without all and i) - f(without all) - f(without i) + f(N)``.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from spex_mech.arguments import shown, whole
from spex_mech.discover import discover
from spex_mech.engine.components import Component, Group
from spex_mech.games.model_game import ModelGame, with_components
from spex_mech.masks import MaskBatch
from spex_mech.results.interactions import Interactions
from spex_mech.search.contract import GRADIENT_COST
from spex_mech.search.partners import Partners
from spex_mech.units import JOINED

UnitsOf = Sequence[str | Component | Group] | str | Component | Group
_TRIED = 10  # times as many units by slope as are wanted by single effect


def together(game: Any, of: UnitsOf) -> ModelGame:
    """The same game, in which some units are one: ablated together, or not at all.

    Args:
        game: a ``ModelGame``.
        of: their labels, or components. The one unit stands last and is called
            ``"L9H6 + L9H9"``; a single label stays what it is.

    Raises:
        ValueError: the game is none of a model, or a label is unknown or stands twice.

    >>> import spex_mech as sm
    >>> model = sm.load_model("demo")
    >>> game = sm.ModelGame(model, sm.load_task("induction", model, 8))
    >>> together(game, ["L0H3", "L1H0"]).labels
    ['L0H0', 'L0H1', 'L0H2', 'L1H1', 'L1H2', 'L1H3', 'L0H3 + L1H0']
    """
    if not isinstance(game, ModelGame):
        raise ValueError(f"units of {shown(game)} cannot be taken together; give a ModelGame")
    labels = _labels_of(of)
    if not labels:
        raise ValueError("of is empty; give the labels of the units that are taken together")
    gone = [game.components.index(label) for label in labels]
    if len(set(gone)) < len(gone):
        raise ValueError(f"of holds a unit twice: {', '.join(labels)}")
    others = [unit for unit in range(len(game)) if unit not in gone]
    if not others:
        raise ValueError(f"no unit is left beside {', '.join(labels)}")
    one = game.components[sorted(gone)]  # so that it has one name, however they are listed
    if len(gone) > 1:
        one = one.group(JOINED.join(one.labels))
    return with_components(game, game.components[others] + one)


def _labels_of(of: Any) -> list[str]:
    """Labels, or components, as labels.

    Raises:
        ValueError: they are something else.
    """
    single = isinstance(of, str | Component | Group)
    listed = [of] if single else list(of) if isinstance(of, Iterable) else None
    known = listed is not None and all(isinstance(u, str | Component | Group) for u in listed)
    if listed is None or not known:
        raise ValueError(f"of is {shown(of)}; give labels of units, such as ['L9H6', 'L9H9']")
    return [unit if isinstance(unit, str) else unit.label for unit in listed]


def find_backups(
    game: Any,
    of: UnitsOf | None = None,
    k: int = 20,
    *,
    n_strongest: int = 3,
    progress: bool = True,
    store: str | os.PathLike[str] | None = None,
) -> Interactions:
    """The units that are needed more once others are gone, the strongest first.

    With slopes two gradients, at the intact model and without ``of``, say how much each unit's
    slope grows, and the ``k`` of largest growth are measured: some ``2 k + 20`` evaluations.
    Without slopes all are measured.

    Args:
        game: a ``ModelGame``.
        of: labels of the units that are gone, together. Default: the ``n_strongest`` units of the
            largest single effects among the ten times as many of largest slope, which takes some
            ``10 * n_strongest`` evaluations more. Among all, one evaluation each, where there are
            no slopes, or they are under the noise floor, as those of a KL are.
        k: how many units are measured.
        n_strongest: how many units are gone, where ``of`` does not say.
        progress, store: as for ``discover``.

    Returns:
        interactions of ``of``, taken as one unit (:func:`together`), with k others. What is
        OR-like is a backup: its loss costs ``abs(I)`` more once ``of`` is gone. The k were chosen
        on these prompts, which q-values count; to see what holds on others, ``confirm(found,
        together(other_game, of))``.

    Raises:
        ValueError: the game is none of a model, a label is unknown, or no unit is left.

    >>> import spex_mech as sm
    >>> model = sm.load_model("demo")
    >>> game = sm.ModelGame(model, sm.load_task("induction", model, 8))
    >>> find_backups(game, "L1H0", k=3, progress=False).top(1).names
    [('L1H1', 'L1H0')]
    """
    if not isinstance(game, ModelGame):
        raise ValueError(f"backups are of units of a model, and this is {shown(game)}")
    whole("k", k, 1)
    spent = 0
    if of is None:
        whole("n_strongest", n_strongest, 1, max(1, len(game) - 1))
        of, spent = _strongest(game, n_strongest)
    merged = together(game, of)
    n = len(merged)
    search = Partners(n, n - 1, k, slopes=merged.has_slopes, backups=True)
    found = discover(merged, method=search, progress=progress, store=store)
    found.cost["evaluations"] += spent
    return found


def _strongest(game: ModelGame, count: int) -> tuple[list[str], int]:
    """The units whose single ablation changes the metric most, of those with the largest slopes;
    and what it cost to find them."""
    tried, spent = np.arange(len(game)), 1
    if game.has_slopes:
        spent += GRADIENT_COST
        slopes = game.evaluate(MaskBatch.of_sets([()], len(game)), slopes=True).slopes
        assert slopes is not None
        by_slope = np.argsort(-abs(slopes[0].mean(axis=0)), kind="stable")
        if abs(slopes[0]).max() > game.noise_floor:  # those of a KL are rounding alone
            tried = np.sort(by_slope[: _TRIED * count])
    values = game.evaluate(MaskBatch.of_sets([(), *((int(u),) for u in tried)], len(game))).values
    effects = abs(values[1:].mean(axis=1) - values[0].mean())
    strongest = tried[np.argsort(-effects, kind="stable")[:count]]
    return [game.labels[unit] for unit in strongest], spent + len(tried)
