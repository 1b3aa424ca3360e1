"""The scores of a circuit: faithfulness, completeness, minimality, with intervals.

Three steps between frozen types, so that each can be read and tested alone:

1. :func:`try_parts` runs, on the prompts of the selection, what the scores compare: of a circuit
   with few members every part K of it (:func:`every_part`), else parts that are likely to be the
   worst (:func:`likely_parts`). It gives a :class:`Comparisons`: which K counts.
2. The masks that it names are run on the prompts that the scores are about.
3. :func:`scored` turns their values into scores.

What is compared is chosen on the prompts of the selection and measured on the others, so that a
score does not profit from the choice. The definitions are those of ``circuits.circuit``.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.circuits.search import EvaluatedCircuits, every_subset, flipped
from spex_mech.circuits.span import Span, shares
from spex_mech.circuits.steps import Masks, Steps, Values

_RANDOM_PARTS, _GREEDY_STEPS, _GREEDY_TRIED = 16, 6, 10  # of completeness
_SHOWN = 8  # parts with the largest incompleteness that a result lists
_PARTNERS = 4  # of a member, whose subsets are tried with it
_SAME = 1e-9  # of the span: a smaller part K is preferred to one that is no larger by this


@dataclass(frozen=True)
class SubsetScore:
    """One measured share of the span: of these units, given those.

    Args:
        units: completeness: the part K; minimality: the member.
        given: minimality: the part K that is gone.
        value, stderr: the share and its standard error over prompts (NaN for a single prompt).
        low, high: its 90 % interval (Fieller's; infinite ends where the span is too uncertain).
        sign: 1 where the difference of the metric has the sign of the span, -1 where it has the
            other: a member with -1 holds the metric down.
    """

    units: tuple[str, ...]
    given: tuple[str, ...]
    value: float
    stderr: float
    low: float = float("nan")
    high: float = float("nan")
    sign: int = 1


@dataclass(frozen=True)
class Score:
    """A share of the span with its standard error over prompts (NaN for a single prompt).

    Args:
        by_subset: completeness: the K with the largest incompleteness (``units``); minimality:
            each member with its K (``given``).
        low, high: the 90 % interval over all prompts there could be (Fieller's: it holds also
            where the span is uncertain, and has no ends where the span cannot be told from 0).
        is_bound: not all parts K were tried, so that the true largest value may be larger.
    """

    value: float
    stderr: float
    by_subset: tuple[SubsetScore, ...] = ()
    low: float = float("nan")
    high: float = float("nan")
    is_bound: bool = False

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        error = "" if np.isnan(self.stderr) else f" +- {self.stderr:.2g}"
        return f"{'at least ' if self.is_bound else ''}{self.value:.3g}{error}"


NOT_SCORED = Score(float("nan"), float("nan"))


@dataclass(frozen=True, eq=False)
class Comparisons:
    """What the scores of one circuit compare.

    Args:
        kept: the circuit, C.
        parts: the K of completeness, the worst first.
        moves: of each member v the K of minimality without v.
        least: which of ``moves`` has the smallest score.
        exact: whether all K were tried.
    """

    kept: Bool[np.ndarray, " unit"]
    parts: Masks
    moves: tuple[tuple[int, Bool[np.ndarray, " unit"]], ...]
    least: int
    exact: bool

    def masks(self) -> Masks:
        """Every mask whose value the scores need, once."""
        whole = np.ones_like(self.kept)
        rows = [whole, ~whole, self.kept]
        for part in self.parts:
            rows += [self.kept & ~part, ~part]
        for unit, part in self.moves:
            rows += [self.kept & ~part, _without(self.kept & ~part, unit)]
        return np.unique(np.array(rows), axis=0)

    def ends(
        self, masks: Masks, values: Values
    ) -> tuple[Float[np.ndarray, " prompt"], Float[np.ndarray, " prompt"]]:
        """The values with all units kept and with none."""
        sizes = masks.sum(axis=1)
        return values[int(np.argmax(sizes))], values[int(np.argmin(sizes))]


@dataclass(frozen=True)
class CircuitScores:
    """The scores of a circuit, with the ends that they are shares of."""

    faithfulness: Score
    completeness: Score
    minimality: Score
    intact: float
    empty: float


# -- 1. what is compared --------------------------------------------------------------------------


def try_parts(
    sets: EvaluatedCircuits,
    kept: Bool[np.ndarray, " unit"],
    related: Sequence[Sequence[int]],
    room: int,
    seed: int,
) -> Steps[Comparisons]:
    """Every part of the circuit, if that takes at most ``room`` evaluations; else likely ones.

    Args:
        related: units that belong together: groups, and interactions, strongest first.
    """
    if 2 ** (int(kept.sum()) + 1) <= room:
        return (yield from every_part(sets, kept))
    return (yield from likely_parts(sets, kept, related, np.random.default_rng(seed)))


def every_part(sets: EvaluatedCircuits, kept: Bool[np.ndarray, " unit"]) -> Steps[Comparisons]:
    """All K: of n members ``2^n`` masks within the circuit and ``2^n`` in the model."""
    members = np.flatnonzero(kept)
    parts = every_subset(members, len(kept))
    values = yield from sets.values_of(np.concatenate([kept & ~parts, ~parts]))
    inside, outside = values[: len(parts)].mean(axis=1), values[len(parts) :].mean(axis=1)
    order = _worst_first(abs(inside - outside), sets.span)
    shown = [row for row in order if parts[row].sum() == 1 or row in order[:_SHOWN]]
    row_of = {part.tobytes(): row for row, part in enumerate(parts)}
    moves, best_drops = [], []
    for unit in members.tolist():
        rows = np.flatnonzero(~parts[:, unit])
        also = np.array([row_of[_with(part, unit).tobytes()] for part in parts[rows]])
        drops = abs(inside[rows] - inside[also])
        best = _worst_first(drops, sets.span)[0]
        moves.append((unit, parts[rows[best]]))
        best_drops.append(drops[best])
    return Comparisons(kept, parts[shown], tuple(moves), _least(best_drops), exact=True)


def likely_parts(
    sets: EvaluatedCircuits,
    kept: Bool[np.ndarray, " unit"],
    related: Sequence[Sequence[int]],
    rng: np.random.Generator,
) -> Steps[Comparisons]:
    """Completeness: nothing, each member, random halves, what belongs together, and a part that is
    grown greedily (the paper's search). Minimality: of each member nothing, what belongs together
    with it, and all subsets of its few closest partners."""
    tried = [np.zeros_like(kept), *flipped(np.zeros_like(kept), np.flatnonzero(kept)[:, None])]
    tried += [(rng.random(len(kept)) < 0.5) & kept for _ in range(_RANDOM_PARTS)]
    tried += [_mask(units, len(kept)) & kept for units in related]
    tried.append((yield from _grown(sets, kept, rng)))
    parts = _distinct(tried)
    off = yield from _incompleteness(sets, kept, parts)
    order = _worst_first(off, sets.span)[: _SHOWN + int(kept.sum())]
    moves = []
    for unit in np.flatnonzero(kept).tolist():
        for part in _given(unit, kept, related):
            moves.append((unit, part))
    without = np.array([kept & ~part for _, part in moves]).reshape(-1, len(kept))
    gone = np.array([_without(mask, u) for mask, (u, _) in zip(without, moves, strict=True)])
    values = yield from sets.values_of(np.concatenate([without, gone.reshape(without.shape)]))
    drops = abs((values[: len(moves)] - values[len(moves) :]).mean(axis=1))
    best: dict[int, int] = {}
    for row in _worst_first(drops, sets.span):
        best.setdefault(moves[row][0], row)
    rows = [best[unit] for unit in sorted(best)]
    least, chosen = _least(drops[rows]), tuple(moves[row] for row in rows)
    return Comparisons(kept, parts[order], chosen, least, exact=False)


def _incompleteness(
    sets: EvaluatedCircuits, kept: Bool[np.ndarray, " unit"], parts: Masks
) -> Steps[Float[np.ndarray, " part"]]:
    """``|F(C without K) - F(M without K)|``, averaged over prompts before its size is taken."""
    values = yield from sets.values_of(np.concatenate([kept & ~parts, ~parts]))
    return abs((values[: len(parts)] - values[len(parts) :]).mean(axis=1))


def _grown(
    sets: EvaluatedCircuits, kept: Bool[np.ndarray, " unit"], rng: np.random.Generator
) -> Steps[Bool[np.ndarray, " unit"]]:
    part, worst = np.zeros_like(kept), 0.0
    for _ in range(_GREEDY_STEPS):
        left = np.flatnonzero(kept & ~part)
        if not len(left):
            break
        tried = rng.choice(left, min(_GREEDY_TRIED, len(left)), replace=False)
        grown = flipped(part, tried[:, None])
        off = yield from _incompleteness(sets, kept, grown)
        if off.max() <= worst:
            break
        part, worst = grown[int(np.argmax(off))], float(off.max())
    return part


def _given(
    unit: int, kept: Bool[np.ndarray, " unit"], related: Sequence[Sequence[int]]
) -> list[Bool[np.ndarray, " unit"]]:
    """The parts that may have to be gone before a member is missed."""
    with_unit = [units for units in related if unit in units]
    partners: dict[int, None] = {}
    for units in with_unit:
        partners.update(dict.fromkeys(u for u in units if u != unit and kept[u]))
    closest = np.array(list(partners)[:_PARTNERS], dtype=np.int64)
    parts = [*every_subset(closest, len(kept)), _mask(partners, len(kept))]
    parts += [_mask(units, len(kept)) for units in with_unit]
    return list(_distinct([_without(part & kept, unit) for part in parts]))


def _worst_first(sizes: Float[np.ndarray, " row"], span: Span) -> list[int]:
    """Rows by size, the largest first; of equal ones (but for rounding) the first row first."""
    steps = np.round(sizes / (_SAME * abs(span.value)))
    return np.argsort(-steps, kind="stable").tolist()


def _least(sizes: Sequence[float] | Float[np.ndarray, " member"]) -> int:
    return int(np.argmin(sizes)) if len(sizes) else 0


# -- 3. scores ------------------------------------------------------------------------------------


def scored(
    what: Comparisons,
    masks: Masks,
    values: Values,
    labels: Sequence[str],
) -> CircuitScores:
    """The scores of a circuit from the values of ``what.masks()``."""
    at: Mapping[bytes, Values] = {m.tobytes(): v for m, v in zip(masks, values, strict=True)}
    kept, (intact, empty) = what.kept, what.ends(masks, values)
    below = intact - empty

    def f(mask: Bool[np.ndarray, " unit"]) -> Float[np.ndarray, " prompt"]:
        return at[mask.tobytes()]

    off = np.array([f(kept & ~part) - f(~part) for part in what.parts])
    parts = subset_scores(off, below, [(_names(part, labels), ()) for part in what.parts])
    drops = np.array([f(kept & ~k) - f(_without(kept & ~k, v)) for v, k in what.moves])
    names = [((labels[unit],), _names(part, labels)) for unit, part in what.moves]
    members = subset_scores(drops.reshape(len(names), -1), below, names)
    (alone,) = subset_scores((f(kept) - empty)[None], below, [((), ())], signed=True)
    return CircuitScores(
        faithfulness=Score(alone.value, alone.stderr, (), alone.low, alone.high),
        completeness=_summary(parts, 0, not (what.exact and _is_largest(parts))),
        minimality=_summary(members, what.least, not what.exact),
        intact=float(intact.mean()),
        empty=float(empty.mean()),
    )


def subset_scores(
    differences: Float[np.ndarray, "row prompt"],
    below: Float[np.ndarray, " prompt"],
    names: Sequence[tuple[tuple[str, ...], tuple[str, ...]]],
    signed: bool = False,
) -> tuple[SubsetScore, ...]:
    """Differences of the metric as shares of the span; their sizes, unless ``signed``."""
    if not len(names):
        return ()
    values, errors, ends = shares(differences, below)
    signs = np.where(values < 0, -1, 1)
    if not signed:
        straddles = (ends[:, 0] < 0) & (ends[:, 1] > 0)
        ends = np.sort(abs(ends), axis=1)
        ends[straddles, 0] = 0.0
        values = abs(values)
    rows = zip(names, values, errors, ends, signs, strict=True)
    return tuple(
        SubsetScore(*name, float(v), float(e), float(low), float(high), int(sign))
        for name, v, e, (low, high), sign in rows
    )


def _summary(parts: tuple[SubsetScore, ...], row: int, is_bound: bool) -> Score:
    if not parts:
        return NOT_SCORED
    one = parts[row]
    return Score(one.value, one.stderr, parts, one.low, one.high, is_bound)


def _is_largest(parts: tuple[SubsetScore, ...]) -> bool:
    """Whether the part that the prompts of the selection chose is the worst on these, too."""
    return all(part.value <= parts[0].value * (1 + _SAME) for part in parts)


def _names(part: Bool[np.ndarray, " unit"], labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(labels[u] for u in np.flatnonzero(part).tolist())


def _mask(units: Iterable[int], n: int) -> Bool[np.ndarray, " unit"]:
    mask = np.zeros(n, dtype=bool)
    mask[list(units)] = True
    return mask


def _with(mask: Bool[np.ndarray, " unit"], unit: int) -> Bool[np.ndarray, " unit"]:
    out = mask.copy()
    out[unit] = True
    return out


def _without(mask: Bool[np.ndarray, " unit"], unit: int) -> Bool[np.ndarray, " unit"]:
    out = mask.copy()
    out[unit] = False
    return out


def _distinct(parts: Iterable[Bool[np.ndarray, " unit"]]) -> Masks:
    return np.array(list({part.tobytes(): part for part in parts}.values()))
