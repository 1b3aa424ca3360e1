"""A circuit's two games, the driver that runs coroutines on them, and what that cost."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from spex_mech.circuits.circuit import Circuit
from spex_mech.circuits.gates import gate_attribution
from spex_mech.circuits.held_out import check_not_searched, check_signs, measured_on
from spex_mech.circuits.mib import mib_config
from spex_mech.circuits.scores import scored
from spex_mech.circuits.select import Selection, Slopes
from spex_mech.circuits.span import checked_span
from spex_mech.circuits.steps import Masks, Steps, StepSearch, Values
from spex_mech.game import Game, as_game, is_game
from spex_mech.games.model_game import ModelGame
from spex_mech.results.interactions import Interactions
from spex_mech.runs.interrupts import Log
from spex_mech.runs.session import RunSettings, Session
from spex_mech.runs.workers import started
from spex_mech.search.contract import GRADIENT_COST
from spex_mech.units import Units

T = TypeVar("T")
_OF_SELECTION = "prompts, those of the selection"
_NAMED = (
    *("model", "weights_sha256", "task", "metric", "metric_sha256", "metric_python", "own_metric"),
    *("ablation", "tokens_sha256"),
)


@dataclass(frozen=True)
class Games:
    """The game of the selection, and the one to score on (None: the same)."""

    game: Game
    held_out: Game | None

    @staticmethod
    def checked(game: Any, held_out: Any, units: Units) -> "Games":
        """Both as games of these units.

        Raises:
            ValueError: other units, or groups of the same name that hold others.
        """
        labels = units.labels
        games: list[Game] = []
        named = ((game, "game"), (game if held_out is None else held_out, "held-out game"))
        for one, name in named:
            one = as_game(one, None, None if is_game(one) else labels)
            groups = [f"other members of {label}" for label in units.other_groups(one.units)]
            if groups or one.labels != labels:
                odd = next(iter([*groups, *({*one.labels} ^ {*labels})]), "in another order")
                raise ValueError(
                    f"the units of the {name} are not those of the interactions ({odd}); make both "
                    "from the same components"
                )
            games.append(one)
        return Games(games[0], None if held_out is None else games[1])

    @staticmethod
    def started(stack: ExitStack, game: Any, held_out: Any, how: RunSettings) -> tuple[Any, Any]:
        """Both as they are, or on workers, which end with the stack."""
        if not how.far:
            return game, held_out
        on = (how.workers, how.address, how.timeout)
        games = [
            None if one is None else stack.enter_context(started(one, *on))
            for one in (game, held_out)
        ]
        return games[0], games[1]


class CircuitRuns:
    """Runs coroutines on the two games, through the one driver, and counts.

    Args:
        games: the two games.
        how: what computes them and where they are kept; those on the held-out game are kept in a
            file beside the store.
        settings: what tells this search from others in the store.
        searched: what the interactions that propose units say of themselves.
    """

    def __init__(
        self,
        games: Games,
        how: RunSettings,
        settings: Mapping[str, Any],
        searched: Mapping[str, Any],
    ) -> None:
        self.games, self.how, self.settings = games, how, dict(settings)
        self.searched = searched
        self.costs: list[dict[str, int | float]] = []
        self.held_out_costs: list[dict[str, int | float]] = []
        self._log: Log | None = None  # of the selection

    def select(
        self,
        name: str,
        steps: Callable[[Slopes | None], Steps[T]],
        planned: int,
        gradients: int = 0,
    ) -> T:
        """The result of a coroutine on the game of the selection.

        Args:
            steps: gives the coroutine, of the slopes of the gates.
            gradients: how many these are worked out from; 0: there are none.
        """
        identity, slopes = {"method": name, **self.settings}, None
        with self.how.session(self.games.game) as session:
            self._log = session.log
            if gradients:
                slopes = self._slopes(session, identity, gradients)
            result, cost = _driven(session, identity, steps(slopes), planned, "selecting a circuit")
        self.costs.append(cost)
        return result

    def _slopes(self, session: Session, identity: dict[str, Any], gradients: int) -> Slopes:
        """The slopes of the gates, which all searches of a store share."""
        name, price = f"slopes of the gates, {gradients} steps", GRADIENT_COST * gradients
        kept = session.array(name, identity, lambda: gate_attribution(session.game, gradients))
        cost = {"evaluations": price, "gradients": gradients, "seconds": kept.seconds}
        self.costs.append({**cost, "reused": price if kept.is_reused else 0})
        return kept.values

    def score(self, masks: Masks) -> Values:
        """The values of masks on the held-out game."""
        path = None
        if self.how.store is not None:
            path = Path(self.how.store)
            path = path.with_name(f"{path.stem}.held_out{path.suffix}")
        assert self.games.held_out is not None
        identity = {"method": "scores", **self.settings}
        # What an interrupt keeps is the selection, which took far more than the scores.
        with replace(self.how, store=path).session(self.games.held_out, self._log) as session:
            steps = one_question(masks)
            values, cost = _driven(session, identity, steps, len(masks), "scoring")
        self.held_out_costs.append(cost)
        return values

    def circuit(
        self, selection: Selection, about: dict[str, Any], own: str = _OF_SELECTION
    ) -> Circuit:
        """What was selected, scored and explained.

        Args:
            own: what the prompts are called where none are held out.
        """
        sets, what, labels = selection.sets, selection.what, self.games.game.labels
        masks = what.masks()
        values = selected = sets.known_values(masks)
        if self.games.held_out is not None:
            values = self.score(masks)
        where, span = self.where(selected, values, own), sets.span
        if self.games.held_out is not None:
            intact, empty = what.ends(masks, values)
            span = checked_span(intact, empty, f"the {values.shape[1]} held-out prompts")
            check_signs(sets.span, span)
        scores = scored(what, masks, values, labels)
        return Circuit(
            labels=labels,
            members=what.kept,
            why=selection.why,
            groups=selection.groups,
            links=selection.links,
            faithfulness=scores.faithfulness,
            completeness=scores.completeness,
            minimality=scores.minimality,
            intact=scores.intact,
            empty=scores.empty,
            n_prompts=values.shape[1],
            importance=abs(selection.importance),
            stability=selection.stability,
            cost=self.cost(),
            about=self.about({"measured_on": where} | about),
            signs=np.where(selection.importance < 0, -1, 1),
            span_stderr=span.stderr,
            unit_table=self.games.game.units,
        )

    def where(
        self,
        selected: Values | None,
        values: Float[np.ndarray, "mask other"],
        own: str = _OF_SELECTION,
    ) -> str:
        """What values were measured on, in words that follow their number."""
        if self.games.held_out is None:
            where, clusters = own, _clusters(self.games.game)
        else:
            both = None if selected is None else (selected, values)
            where = measured_on(self.games.game, self.games.held_out, self._described(), both)
            check_not_searched(self.searched, self._described())
            clusters = _clusters(self.games.held_out)
        return where if clusters is None else f"clusters of {len(clusters)} {where}"

    def cost(self) -> dict[str, int | float]:
        """Evaluations on the game of the selection and on the held-out one, gradients, seconds; and
        with a store what other searches had left there and what its openings cost."""

        def total(costs: Sequence[Mapping[str, int | float]], key: str) -> int | float:
            return sum(cost.get(key, 0) for cost in costs)

        every = [*self.costs, *self.held_out_costs]
        cost: dict[str, int | float] = {
            "evaluations": total(self.costs, "evaluations"),
            "held_out_evaluations": total(self.held_out_costs, "evaluations"),
            "gradients": total(self.costs, "gradients"),
            "seconds": round(total(every, "seconds"), 3),
        }
        if self.how.store is None:
            return cost
        return cost | {name: total(every, name) for name in ("reused", "checks")}

    def about(self, about: dict[str, Any]) -> dict[str, Any]:
        """With what the game says of itself."""
        described = self._described()[0]
        about = about | {key: described[key] for key in _NAMED if key in described}
        if isinstance(game := self.games.game, ModelGame):
            sizes = game.architecture
            heads = [
                sizes.count("head", layer) if sizes.has("head", layer) else 0
                for layer in range(sizes.n_layers)
            ]
            about["config"] = mib_config(
                game.model, heads, bool(sizes.labels), bool(game.are_blocks_parallel)
            )
        return about

    def _described(self) -> tuple[dict[str, Any], dict[str, Any]]:
        ours, theirs = self.games.game, self.games.held_out
        return ours.provenance(), {} if theirs is None else theirs.provenance()


def _driven(
    session: Session, identity: dict[str, Any], steps: Steps[T], planned: int, stage: str
) -> tuple[T, dict[str, int | float]]:
    """What a coroutine returns, and what it cost."""
    game = session.game
    search = StepSearch(steps, len(game), planned, stage, _clusters(game))
    cost = session.drive(search, session.run(identity))
    return search.result, cost


def _clusters(game: Game) -> Sequence[int] | None:
    """The number of each prompt's cluster, where prompts are not independent of each other."""
    return game.provenance().get("clusters")


def one_question(masks: Masks) -> Steps[Values]:
    """The values of these masks."""
    return (yield masks)


def digest(found: Interactions) -> str:
    """What tells these interactions from others."""
    arrays = (found.units, found.mean, found.main_effects, found.q_value)
    return blake2b(b"".join(a.tobytes() for a in arrays), digest_size=8).hexdigest()
