"""From interactions to a circuit: which units to keep, then what that does, measured on the model.

``find_circuit`` selects (``search.kept_sets``) on the prompts of one game, and scores what was
selected on another, so that the scores do not profit from the selection; ``faithfulness_curve``
does so for every size. What they return, and the papers whose scores these are, is in
``circuits.circuit``; the search for the sets to keep in ``circuits.search``.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm

from spex_mech.circuits.circuit import Circuit, Curve, Group, Kind, Link, Part, Reason, Score
from spex_mech.circuits.search import (
    Aim,
    KeptSets,
    Surrogate,
    flipped,
    prefixes,
    search_kept_sets,
)
from spex_mech.driver import evaluate_batch
from spex_mech.game import Game, as_game, is_game
from spex_mech.masks import MaskBatch
from spex_mech.results.interactions import Interactions
from spex_mech.results.statistics import ratios, standard_errors
from spex_mech.search.contract import GRADIENT_COST

_AIMS: dict[str, Aim] = {"match": "match", "recover": "recover"}
_PER_UNIT = 20  # evaluations of the search, for each unit
_IG_STEPS = 8
_LINK = 0.01  # of the span: interactions that are listed
_GROUP = 0.05  # of the span: those that make a group
_PARTS, _GREEDY_STEPS, _GREEDY_TRIED = 16, 6, 10  # of completeness
_BOOTSTRAPS = 200


class _Runs:
    """A game's values of masks, with what they cost."""

    def __init__(self, game: Game, progress: bool, total: int = 0) -> None:
        self.game, self.evaluations = game, 0
        self.bar = tqdm(total=total or None, unit="eval", delay=2, disable=not progress)
        self.batch = game.masks_per_batch

    def __call__(self, masks: Bool[np.ndarray, "mask unit"]) -> Float[np.ndarray, "mask prompt"]:
        parts = []
        for start in range(0, len(masks), self.batch):
            part = MaskBatch.of_kept(masks[start : start + self.batch])
            parts.append(evaluate_batch(self.game, part).values)
            self.bar.update(len(part))
        self.evaluations += len(masks)
        return np.concatenate(parts)


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
) -> Circuit:
    """The units to keep so that they do the task alone, chosen with main effects and interactions
    and corrected by real ablations in rounds; then scored on the model.

    Args:
        game: the game to select on; units as in ``found``.
        found: measured interactions (of this game, or of one alike: they only guide).
        faithfulness: the smallest circuit that keeps this share of what all units do (default 0.9).
        size: instead: the best circuit of so many units.
        held_out: the same units on other prompts, to score on. Without one the scores are over
            the prompts of the selection, as ``circuit.about["measured_on"]`` says, and too good.
        aim: "match": the metric of the intact model, no less and no more; "recover": as much of it
            as possible, so that units which hold the metric down are left out.
        budget: evaluations of the selection; default 20 a unit. The scores cost some 40 more and
            up to 8 a member, on ``game`` and about half of them on ``held_out``.
        seed: of the random parts of completeness and the bootstrap.
        progress: show a progress bar once it takes more than a few seconds.

    Raises:
        ValueError: both or none that is possible of faithfulness and size, other units, a budget
            that is too small, or units that do nothing for the metric.

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
    started = time.perf_counter()
    wanted = _wanted(faithfulness, size, len(found.labels))
    game, scored_on, to = _checked(game, found, held_out, aim)
    n = len(found.labels)

    def focus(sets: KeptSets) -> list[int]:
        middle = size if size is not None else sets.smallest(wanted)
        near = [middle, middle - 1, middle - 2, middle + 1]
        return [k for k in near if 0 < k < n]

    runs = _Runs(game, progress, _budget(budget, n))
    sets, surrogate, gradients = _search(runs, found, to, _budget(budget, n), focus, game)
    chosen = sets.best_number(size if size is not None else sets.smallest(wanted))
    if chosen is None:
        raise ValueError(
            f"the budget of {budget} evaluations ended before a circuit of {size} units was run; "
            f"give at least {4 * n}, or leave it out"
        )
    kept = sets.masks[chosen]
    links = _links(found, kept, sets.span)
    members = {found.labels[u] for u in np.flatnonzero(kept)}
    pairs = _strong_pairs(found, links, members, sets.span)
    groups = _groups(found.labels, pairs, members)
    runs.bar.close()
    fresh = _Runs(scored_on, progress=False) if scored_on is not game else runs
    scores = _Scores(runs, fresh, kept, found.labels, sets.intact, sets.empty)
    complete = scores.completeness(groups, np.random.default_rng(seed))
    minimal = scores.minimality(groups, links)
    held = held_out is not None
    return Circuit(
        labels=list(found.labels),
        members=kept,
        why=_why(found, surrogate, scores, kept, links, sets.span),
        groups=tuple(groups),
        links=tuple(links),
        faithfulness=scores.faithfulness(),
        completeness=complete,
        minimality=minimal,
        intact=float(scores.intact.mean()),
        empty=float(scores.empty.mean()),
        n_prompts=scores.intact.size,
        importance=_importance(found.labels, surrogate, scores, pairs["backup"], sets.span),
        stability=_stability(sets, kept, wanted, size, seed),
        cost={
            "evaluations": runs.evaluations + GRADIENT_COST * gradients,
            "held_out_evaluations": fresh.evaluations if held else 0,
            "gradients": gradients,
            "seconds": round(time.perf_counter() - started, 3),
        },
        about=_about(game, found, held, aim)
        | {
            "selected": f"the best {size} units" if size is not None else f"for {wanted:g}",
            "selection_faithfulness": sets.faithfulness[chosen],
            "seed": seed,
        },
    )


def faithfulness_curve(
    game: Any,
    found: Interactions,
    *,
    order: Sequence[str] | None = None,
    sizes: Iterable[int] | None = None,
    held_out: Any = None,
    aim: str = "match",
    budget: int | None = None,
    progress: bool = True,
) -> Curve:
    """The best circuit of each size and its faithfulness, with the areas CPR and CMD.

    Args:
        order: measure the first so many units of this ranking (labels, most important first; the
            rest follow as they stand) instead of searching: what another method says.
        sizes: which; default: all, of more than 64 units some that are spread. None and all of the
            units are always there. The benchmark's are ``[int(p * n) for p in (.001, .002, .005,
            .01, .02, .05, .1, .2, .5, 1)]``; its areas begin at the first share, 0.001, ours at 0.
        held_out: other prompts to measure the curve on, as in :func:`find_circuit`, as are the
            other arguments.

    Raises:
        ValueError: as :func:`find_circuit`; an order that names a unit twice, or none.
    """
    started = time.perf_counter()
    game, scored_on, to = _checked(game, found, held_out, aim)
    n = len(found.labels)
    asked = _spread(n) if sizes is None else [int(size) for size in sizes]
    if off := [size for size in asked if not 0 <= size <= n]:
        raise ValueError(f"no circuit of {off[0]} units: there are {n}")
    wanted = sorted({0, *asked, n})
    about = _about(game, found, held_out is not None, aim)
    gradients, spent = 0, 0
    if order is not None:
        masks = prefixes(_numbers(order, found.labels), wanted)
        about |= {"selected": "by a given order"}
    else:
        total = _budget(budget, n)
        runs = _Runs(game, progress, total)
        sets, _, gradients = _search(runs, found, to, total, lambda sets: wanted[1:-1], game)
        runs.bar.close()
        spent = runs.evaluations
        numbers = [sets.best_number(size) for size in wanted]
        masks = np.array([sets.masks[number] for number in numbers if number is not None])
        about |= {"selected": "searched at every size"}
    fresh = _Runs(scored_on, progress=False)
    values = fresh(masks)
    held = fresh.evaluations if held_out is not None else 0
    cost = {
        "evaluations": spent + GRADIENT_COST * gradients + fresh.evaluations - held,
        "held_out_evaluations": held,
        "gradients": gradients,
        "seconds": round(time.perf_counter() - started, 3),
    }
    return Curve(list(found.labels), masks, values, cost, about)


def gate_attribution(game: Any, steps: int = _IG_STEPS) -> Float[np.ndarray, " unit"]:
    """Integrated gradients over the gates of all units together, from ablated (0) to kept (1): what
    each unit adds to the metric, to first order along that path (midpoint rule).

    Costs three evaluations a step. One step at gates of 1 would be gradient x activation.
    """
    gates = (torch.arange(steps) + 0.5) / steps
    slopes = game.gradient(gates[:, None].expand(-1, len(game)).contiguous())
    return np.asarray(torch.as_tensor(slopes).double().cpu()).mean(axis=0)


# -- asking, checking ---------------------------------------------------------------------------


def _wanted(faithfulness: float | None, size: int | None, n: int) -> float:
    if faithfulness is not None and size is not None:
        raise ValueError("give faithfulness or size, not both")
    if size is not None and not 0 < size <= n:
        raise ValueError(f"size is {size}; it must be between 1 and {n}, the number of units")
    if faithfulness is not None and not 0 < faithfulness <= 1:
        raise ValueError(f"faithfulness is {faithfulness}; it must be above 0 and at most 1")
    return 0.9 if faithfulness is None else faithfulness


def _checked(game: Any, found: Interactions, held_out: Any, aim: str) -> tuple[Any, Any, Aim]:
    if aim not in _AIMS:
        raise ValueError(f"unknown aim {aim!r}; choose 'match' or 'recover'")
    game = as_game(game, None, None if is_game(game) else found.labels)
    other = game if held_out is None else held_out
    other = as_game(other, None, None if is_game(other) else found.labels)
    for one, name in ((game, "game"), (other, "held-out game")):
        if list(one.labels) != list(found.labels):
            odd = next(iter(set(one.labels) ^ set(found.labels)), "in another order")
            raise ValueError(
                f"the units of the {name} are not those of the interactions ({odd}); make both "
                "from the same components"
            )
    return game, other, _AIMS[aim]


def _budget(budget: int | None, n: int) -> int:
    if budget is not None and budget < n + 2:
        raise ValueError(
            f"a budget of {budget} evaluations cannot select among {n} units; give at least {n + 2}"
        )
    return budget or _PER_UNIT * n + 50


def _numbers(order: Sequence[str], labels: list[str]) -> Int[np.ndarray, " unit"]:
    if unknown := [label for label in order if label not in labels]:
        raise ValueError(f"unknown unit {unknown[0]!r} in the order; units are {labels[:4]}...")
    if twice := [label for label in order if list(order).count(label) > 1]:
        raise ValueError(f"the order names {twice[0]!r} twice")
    rest = [label for label in labels if label not in set(order)]
    return np.array([labels.index(label) for label in (*order, *rest)])


def _spread(n: int) -> list[int]:
    if n <= 64:
        return list(range(n + 1))
    return np.unique(np.round(np.geomspace(1, n, 64)).astype(int)).tolist()


def _about(game: Any, found: Interactions, held: bool, aim: str) -> dict[str, Any]:
    about = {
        "aim": aim,
        "measured_on": "held-out prompts" if held else "prompts, those of the selection",
        "found": found.about,
    }
    named = ("model", "weights_sha256", "task", "metric", "ablation", "tokens_sha256")
    described = game.provenance()
    about |= {key: described[key] for key in named if key in described}
    if config := _config(game):
        about["config"] = config
    return about


def _config(game: Any) -> dict[str, int]:
    """What the benchmark's format states of a model, where the game knows it."""
    config = getattr(getattr(game, "model", None), "config", None)
    sizes = getattr(game, "architecture", None)
    if sizes is None or not sizes.has("head", 0):
        return {}
    known = {"n_layers": sizes.n_layers, "n_heads": sizes.count("head", 0)}
    width = getattr(config, "hidden_size", None)
    return known | ({} if width is None else {"d_model": int(width)})


# -- the search ---------------------------------------------------------------------------------


def _search(
    runs: _Runs,
    found: Interactions,
    aim: Aim,
    budget: int,
    focus: Callable[[KeptSets], Sequence[int]],
    game: Any,
) -> tuple[KeptSets, Surrogate, int]:
    n = len(found.labels)
    # A smaller budget than the attribution's price is spent on ablations alone.
    attributed = game.has_slopes and budget >= n + 2 + GRADIENT_COST * _IG_STEPS
    gradients = _IG_STEPS if attributed else 0
    sets = KeptSets(runs, n, aim, budget - GRADIENT_COST * gradients)
    effects = found.main_effects / sets.span
    unknown = np.flatnonzero(~np.isfinite(effects))
    if len(unknown):
        asked = sets.ask(flipped(np.ones(n, dtype=bool), unknown[:, None]))
        measured = [sets.faithfulness[number] - 1 if number >= 0 else 0.0 for number in asked]
        effects[unknown] = measured
    surrogate = Surrogate(effects, found.units.astype(np.int64), found.mean / sets.span)
    rankings = []
    if attributed:
        share = gate_attribution(game) / sets.span
        rankings = [np.argsort(-share, kind="stable"), np.argsort(-abs(share), kind="stable")]
    search_kept_sets(sets, surrogate, rankings, focus)
    return sets, surrogate, gradients


def _stability(
    sets: KeptSets, kept: Bool[np.ndarray, " unit"], wanted: float, size: int | None, seed: int
) -> Score:
    """Redraw the prompts, select again among all sets that were run, compare."""
    n_prompts = len(sets.intact)
    if n_prompts < 2:
        return Score(float("nan"), float("nan"))
    draws = np.random.default_rng(seed).multinomial(
        n_prompts, np.full(n_prompts, 1 / n_prompts), _BOOTSTRAPS
    )
    masks = np.array(sets.masks)
    sizes = masks.sum(axis=1)
    overlaps = []
    for draw in np.array_split(draws, 10):  # in parts: sets x draws is large
        faithful = sets.faithfulness_of(draw.T / n_prompts)
        losses = abs(1 - faithful) if sets.aim == "match" else -faithful
        fits = losses <= (1 - wanted if sets.aim == "match" else -wanted) + 1e-9
        for loss, fit in zip(losses.T, fits.T, strict=True):
            of = size if size is not None else sizes[fit].min()
            rows = np.flatnonzero(sizes == of)
            again = masks[rows[np.argmin(loss[rows])]]
            overlaps.append((again & kept).sum() / max(1, (again | kept).sum()))
    return Score(float(np.mean(overlaps)), float(np.std(overlaps, ddof=1)))


# -- links, groups, reasons ---------------------------------------------------------------------


def _links(found: Interactions, kept: Bool[np.ndarray, " unit"], span: float) -> list[Link]:
    """Interactions of members that are real."""
    has_member = np.append(kept, False)[found.units].any(axis=1)
    rows = np.flatnonzero(has_member & _real(found, span))
    rows = rows[np.argsort(-abs(found.mean[rows]), kind="stable")]
    readings, names = found.readings, found.names
    return [
        Link(
            names[row],
            float(found.mean[row]),
            float(found.stderr[row]),
            readings[row],
        )
        for row in rows
    ]


def _real(found: Interactions, span: float) -> Bool[np.ndarray, " interaction"]:
    """Above noise, q <= 0.05 where there is an error, and not tiny."""
    tiny = abs(found.mean) < _LINK * abs(span)
    return ~found.is_noise & ~(found.q_value > 0.05) & ~tiny


def _importance(
    labels: list[str],
    surrogate: Surrogate,
    scores: "_Scores",
    backups: list[Link],
    span: float,
) -> Float[np.ndarray, " unit"]:
    """Each unit's largest measured effect, as a share of the span: alone, in the circuit, and of a
    backup also once the other is gone (its main effect plus the interaction)."""
    largest, at = abs(surrogate.effects), {label: u for u, label in enumerate(labels)}
    for label, effect in scores.inside.items():
        largest[at[label]] = max(largest[at[label]], abs(effect / span))
    for link in backups:
        for unit in (at[label] for label in link.units):
            later = abs(surrogate.effects[unit] + link.value / span)
            largest[unit] = max(largest[unit], later)
    return largest


def _strong_pairs(
    found: Interactions, links: list[Link], members: set[str], span: float
) -> dict[Kind, list[Link]]:
    """In series: members, at least half of the weaker one's damage overlaps with the other's.
    Backups: together they do at least one and a half times the damage that they do one by one,
    and neither holds the metric down (else the other's loss may only undo what its own adds); one
    of them at least is a member."""
    effect = dict(zip(found.labels, np.nan_to_num(found.main_effects).tolist(), strict=True))
    pairs: dict[Kind, list[Link]] = {"series": [], "backup": []}
    strong = _GROUP * abs(span)
    for link in links:
        if len(link.units) != 2 or abs(link.value) < strong:
            continue
        alone = [effect[unit] for unit in link.units]
        if link.reading == "AND-like" and members.issuperset(link.units):
            if link.value >= min(abs(x) for x in alone) / 2:
                pairs["series"].append(link)
        elif link.reading == "OR-like" and max(alone) < strong:
            if -link.value >= sum(abs(x) for x in alone) / 2:
                pairs["backup"].append(link)
    return pairs


def _groups(labels: list[str], pairs: dict[Kind, list[Link]], members: set[str]) -> list[Group]:
    """Connected pairs of one kind."""
    groups = []
    for kind, strong in pairs.items():
        for names in _connected([link.units for link in strong]):
            units = tuple(label for label in labels if label in names)
            groups.append(Group(kind, units, tuple(u for u in units if u in members)))
    return groups


def _connected(pairs: list[tuple[str, ...]]) -> list[set[str]]:
    clusters: list[set[str]] = []
    for pair in pairs:
        touched = [cluster for cluster in clusters if cluster & set(pair)]
        clusters = [cluster for cluster in clusters if not cluster & set(pair)]
        clusters.append(set(pair).union(*touched))
    return clusters


def _why(
    found: Interactions,
    surrogate: Surrogate,
    scores: "_Scores",
    kept: Bool[np.ndarray, " unit"],
    links: list[Link],
    span: float,
) -> dict[str, Reason]:
    strongest = set(np.argsort(surrogate.effects, kind="stable")[: kept.sum()].tolist())
    why = {}
    for unit in np.flatnonzero(kept).tolist():
        label = found.labels[unit]
        own = tuple(link for link in links if label in link.units)
        by: Literal["main effect", "interactions", "ablations"] = (
            "main effect" if unit in strongest else "interactions" if own else "ablations"
        )
        inside = scores.inside[label]
        why[label] = Reason(float(surrogate.effects[unit] * span), inside, own, by)
    return why


# -- the scores ---------------------------------------------------------------------------------


class _Scores:
    """Faithfulness, completeness and minimality of one circuit: what is compared is chosen on the
    game of the selection, and measured on the other."""

    def __init__(
        self,
        searched: _Runs,
        fresh: _Runs,
        kept: Bool[np.ndarray, " unit"],
        labels: list[str],
        intact: Float[np.ndarray, " prompt"],
        empty: Float[np.ndarray, " prompt"],
    ) -> None:
        self.searched, self.fresh, self.kept, self.labels = searched, fresh, kept, labels
        self.units = np.flatnonzero(kept)
        self.span = float((intact - empty).mean())
        whole = np.ones_like(kept)
        self.alone, self.intact, self.empty = fresh(np.array([kept, whole, ~whole]))
        self.inside: dict[str, float] = {}

    def faithfulness(self) -> Score:
        return self._score((self.alone - self.empty)[None], [((), ())])[0]

    def completeness(self, groups: list[Group], rng: np.random.Generator) -> Score:
        """The part K with the largest score among random halves, the members of each group, and
        one that is grown greedily (the paper's search)."""
        tried = [rng.random(len(self.kept)) < 0.5 for _ in range(_PARTS)]
        tried = [part & self.kept for part in tried]
        tried += [np.isin(self.labels, group.kept) for group in groups]
        tried.append(self._grown(rng))
        parts = [part for part in _distinct(tried) if part.any()]
        first = abs(self._incomplete(self.searched, parts).mean(axis=1))
        again = self._incomplete(self.fresh, parts)
        names = [(self._names(part), ()) for part in parts]
        scores = self._score(again, names, size=True)
        worst = scores[int(np.argmax(first))].parts[0]
        return Score(worst.value, worst.stderr, tuple(s.parts[0] for s in scores))

    def minimality(self, groups: list[Group], links: list[Link]) -> Score:
        """Of each member the K with the largest score: nothing, the rest of a group of its, or a
        unit that backs it up; then the member whose score is least."""
        moves = [
            (unit, part)
            for unit in self.units.tolist()
            for part in self._given(unit, groups, links)
        ]
        if not moves:
            return Score(float("nan"), float("nan"))
        first = self._drops(self.searched, moves).mean(axis=1)
        best: dict[int, int] = {}
        for row, (unit, part) in enumerate(moves):
            if not part.any():
                self.inside[self.labels[unit]] = -float(first[row])
            if unit not in best or abs(first[row]) > abs(first[best[unit]]):
                best[unit] = row
        rows = list(best.values())
        again = self._drops(self.fresh, [moves[row] for row in rows])
        names = [((self.labels[moves[r][0]],), self._names(moves[r][1])) for r in rows]
        scores = self._score(again, names, size=True)
        least = scores[int(np.argmin(abs(first[rows])))].parts[0]
        return Score(least.value, least.stderr, tuple(s.parts[0] for s in scores))

    def _incomplete(self, runs: _Runs, parts: list[Any]) -> Float[np.ndarray, "part prompt"]:
        """F(C without K) - F(M without K)."""
        masks = np.array([self.kept & ~part for part in parts] + [~part for part in parts])
        values = runs(masks)
        return values[: len(parts)] - values[len(parts) :]

    def _drops(self, runs: _Runs, moves: list[Any]) -> Float[np.ndarray, "move prompt"]:
        """F(C without K) - F(C without K and v)."""
        without = [self.kept & ~part for _, part in moves]
        gone = [mask.copy() for mask in without]
        for mask, (unit, _) in zip(gone, moves, strict=True):
            mask[unit] = False
        masks, at = np.unique(np.array(without + gone), axis=0, return_inverse=True)
        values = runs(masks)[at.reshape(-1)]
        return values[: len(moves)] - values[len(moves) :]

    def _given(self, unit: int, groups: list[Group], links: list[Link]) -> list[Any]:
        label = self.labels[unit]
        tried = [()] + [g.kept for g in groups if label in g.kept]
        backs = [x.units for x in links if label in x.units and x.reading == "OR-like"]
        tried += [*backs[:2], tuple({u for units in backs for u in units})]
        parts = [np.isin(self.labels, names) & self.kept for names in tried]
        for part in parts:
            part[unit] = False
        return _distinct(parts)

    def _grown(self, rng: np.random.Generator) -> Bool[np.ndarray, " unit"]:
        part, worst = np.zeros_like(self.kept), 0.0
        for _ in range(_GREEDY_STEPS):
            left = np.flatnonzero(self.kept & ~part)
            if not len(left):
                break
            tried = rng.choice(left, min(_GREEDY_TRIED, len(left)), replace=False)
            grown = list(flipped(part, tried[:, None]))
            off = abs(self._incomplete(self.searched, grown).mean(axis=1))
            if off.max() <= worst:
                break
            part, worst = grown[int(np.argmax(off))], float(off.max())
        return part

    def _names(self, part: Bool[np.ndarray, " unit"]) -> tuple[str, ...]:
        return tuple(self.labels[u] for u in np.flatnonzero(part))

    def _score(
        self,
        differences: Float[np.ndarray, "row prompt"],
        names: list[Any],
        size: bool = False,
    ) -> list[Score]:
        """Differences of the metric as shares of the span, each with one part of these names."""
        values, pulls = ratios(differences, self.intact - self.empty)
        values = abs(values) if size else values
        errors = standard_errors(pulls)
        return [
            Score(float(v), float(e), (Part(units, given, float(v), float(e)),) if units else ())
            for v, e, (units, given) in zip(values, errors, names, strict=True)
        ]


def _distinct(parts: list[Any]) -> list[Any]:
    return list({part.tobytes(): part for part in parts}.values())
