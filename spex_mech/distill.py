"""Distil a game into a small model: a proxy that predicts the values of any masks.

``discover(method="proxyspex")`` does this on its way to measured interactions. Here the proxy
itself is the result, for those who want predictions, or the Fourier, Banzhaf and Shapley indices
of masks that ablate half of the units. What it says is an estimate, unless every mask was
evaluated: then the indices are exact.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.arguments import label_list, labels_of, one_of, same_rows, whole
from spex_mech.arrays import mask_array, numbers
from spex_mech.discover import proxy_named
from spex_mech.driver import LARGEST, SMALLEST
from spex_mech.game import Game, as_game
from spex_mech.masks import Set
from spex_mech.notices import warn
from spex_mech.proxies.seen import Seen
from spex_mech.proxies.table import CompleteTable
from spex_mech.proxy import Proxy, as_proxy, own_of
from spex_mech.runs.session import RunSettings
from spex_mech.search.again import AskAgain
from spex_mech.search.proxyspex import r_squared
from spex_mech.search.random_masks import EvaluateOnly, complementary_masks
from spex_mech.setfunctions import KINDS

if TYPE_CHECKING:
    import pandas as pd

_SHARE_HELD = 0.1
_MOST_INDICES = 10_000  # of each size, that are looked for
_FEW_UNITS = 40  # units: fewer, and the same mask may be drawn twice
_AGAIN = 8  # masks of a complete table that are asked again


@dataclass(frozen=True, eq=False)
class Distillation:
    """A proxy of a game, and how well it does.

    Args:
        proxy: the small model, fitted: a ``Proxy``, or an object with its methods; of one that was
            given, a copy.
        labels: the name of each unit.
        r2: of the prompt mean, on masks that it did not learn from; 1.0 where it knows every mask;
            None where all values are alike, or no mask could be held out.
        n_masks: that it learned from.
        cost: evaluations and seconds that the game took.
        seen: the masks that it learned from, where they do not tell all units apart: then the proxy
            is a function of the units in ``seen.units`` alone. Default: they do.
    """

    proxy: Proxy | Any
    labels: list[str]
    r2: float | None
    n_masks: int
    cost: dict[str, int | float]
    seen: Seen | None = None

    def __repr__(self) -> str:
        fit = "r2 unknown" if self.r2 is None else f"r2 {self.r2:.3g}"
        name = type(self.proxy).__name__
        return f"Distillation({name} of {len(self.labels):,} units, {self.n_masks:,} masks, {fit})"

    @property
    def exact(self) -> bool:
        """Whether every mask of the units that it tells apart was evaluated, so that nothing is an
        estimate."""
        return isinstance(self.proxy, CompleteTable)

    def predict(self, masks: Any) -> Float[np.ndarray, "mask ..."]:
        """Values of masks (True = kept), on each prompt (distilled) or on average (trees). NaN of a
        mask that changes what no mask has changed (a unit that none has left out, or one of two
        that were always left out together).

        Raises:
            ValueError: masks of another number of units, or that hold something else than True and
                False, 1 and 0.
        """
        kept = mask_array("masks", masks, len(self.labels), self.labels)
        if self.seen is None or self.seen.all_apart:
            return self.proxy.predict(kept)
        values = np.array(self.proxy.predict(kept[:, self.seen.units]), dtype=np.float64)
        values[~self.seen.shown(kept)] = np.nan
        return values

    def end(self, kept: bool) -> float:
        """The mean value with all units kept, or all ablated; those that no mask changes stay as
        they are."""
        n = len(self.labels) if self.seen is None else len(self.seen.units)
        return float(np.mean(self.proxy.predict(np.full((1, n), kept))))

    def indices(self, kind: str = "fourier", order: int = 2) -> dict[Set, float]:
        """The estimated coefficients of a kind, of up to ``order`` units: at least the 10,000
        largest of each size. ``sm.to_shapiq`` hands them on. What masks do not tell is not in it.

        Raises:
            ValueError: an unknown kind, or one that the proxy cannot give.

        Warns:
            UserWarning: interactions are left out, as masks do not show all four states of two of
                their units.
        """
        one_of("kind", kind, KINDS)
        return self._known(kind, whole("order", order, 1), _MOST_INDICES)

    def _known(self, kind: str, order: int, k: int) -> dict[Set, float]:
        units = list(range(len(self.labels))) if self.seen is None else self.seen.units
        found = as_proxy(self.proxy).indices(kind, min(order, len(units)), k)
        terms = {tuple(units[u] for u in s): value for s, value in found.items()}
        if self.seen is None or self.exact:
            return terms
        known = self.seen.in_full(terms)
        if lacking := [s for s, good in zip(terms, known, strict=True) if not good]:
            first = max(lacking, key=lambda s: abs(terms[s]))
            warn(
                f"{len(lacking)} of {len(terms)} interactions are left out, {self._name(first)} "
                "the largest: no mask shows one of the four states (both kept, either left out, "
                "both left out) of two of their units, so that the proxy could only guess; give "
                "more masks"
            )
        return {s: value for (s, value), good in zip(terms.items(), known, strict=True) if good}

    def _name(self, units: Set) -> str:
        names = (
            self.labels[u] if self.seen is None else self.seen.name(u, self.labels) for u in units
        )
        return " x ".join(names)

    def frame(self, k: int = 20, order: int = 2, kind: str = "fourier") -> "pd.DataFrame":
        """The k largest estimated coefficients of 2 to ``order`` units: ``units estimate``.

        They are those of the proxy's predictions, for every kind and order. "mobius" is about masks
        that ablate nearly all and "intact" about masks that ablate nearly nothing, where a proxy
        that learned from masks of half of the units extrapolates; ``r2`` does not speak of these.

        Args:
            order: the largest number of units; 1: the single units instead.
            kind: "fourier", "banzhaf", "shapley", "mobius" or "intact" (``setfunctions``).

        Raises:
            ValueError: if ``k``, ``order`` or ``kind`` is none, or the proxy cannot give the kind.

        Warns:
            UserWarning: as of :meth:`indices`.
        """
        import pandas as pd

        one_of("kind", kind, KINDS)
        k, order = whole("k", k, 1), whole("order", order, 1)
        terms = self._known(kind, order, k)
        sizes = {1} if order == 1 else range(2, order + 1)
        ranked = sorted((s for s in terms if len(s) in sizes), key=lambda s: (-abs(terms[s]), s))
        ranked = ranked[:k]
        names = [self._name(s) for s in ranked]
        return pd.DataFrame({"units": names, "estimate": [terms[s] for s in ranked]})


def distill(
    game: Any,
    budget: int,
    proxy: Any = "distilled",
    *,
    seed: int = 0,
    n: int | None = None,
    labels: Sequence[str] | None = None,
    vectorized: bool | None = None,
    progress: bool = True,
    store: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    address: str | None = None,
    masks_per_batch: int | None = None,
    timeout: float | None = None,
) -> Distillation:
    """Fit a proxy to masks that ablate half of the units, in pairs of complements.

    A tenth of the masks is held out, for the R² that the result states. Where the budget is enough
    for all masks (``2^n``), all are evaluated and none is held out: the result is then exact. Up to
    eight of them are asked again (``cost["checks"]``). Of a function that varies nothing is exact:
    a proxy is fitted then, and a warning says so.

    Args:
        game: as for ``discover``.
        budget: evaluations: masks in all.
        proxy: "distilled", "trees" (needs the extra ``trees``) or a ``Proxy`` of one's own, which
            stays as it is: a copy is fitted.
        seed: of masks and proxy.
        n, labels, vectorized, progress, store, workers, address, masks_per_batch, timeout: as for
            ``discover``.

    Raises:
        ValueError: a budget under 20.

    Warns:
        UserWarning: as of :func:`explain`, where a small budget draws such masks; or all masks were
            evaluated, and the same mask has another value when it is asked again.

    >>> def both(masks):  # worth 1 where both of the first two units are kept
    ...     return masks[:, :2].all(dim=1).double()
    >>> small = distill(both, budget=100, n=6)
    >>> small.frame(1, kind="banzhaf").round(2).to_numpy().tolist()
    [['0 x 1', 1.0]]
    """
    seed = whole("seed", seed, 0)
    if whole("budget", budget, 1) < 20:
        raise ValueError(f"a budget of {budget} masks is too small to learn from: give at least 20")
    how = RunSettings(progress, store, workers, address, masks_per_batch, timeout)
    with how.game_of(game, n, labels, vectorized) as ready:
        sample = EvaluateOnly(_drawn(len(ready), budget, np.random.default_rng(seed)))
        is_all = len(ready) < _FEW_UNITS and len(sample.masks) == 2 ** len(ready)
        search = AskAgain(sample, _AGAIN if is_all else 0)
        identity = {"method": "masks to distil from", "budget": budget, "seed": seed}
        cost = how.driven(ready, search, identity)
        if search.n_again:
            cost["evaluations"] -= search.n_again
            cost["checks"] = cost.get("checks", 0) + search.n_again
        varies = _varies(search, ready)
        # They come in pairs of complements, which stay together.
        held = np.arange(len(sample.masks)) < max(2, int(_SHARE_HELD * len(sample.masks)) // 2 * 2)
        return _fitted(sample.masks, sample.values, proxy, seed, ready, held, cost, varies)


def _varies(search: AskAgain, game: Game) -> bool:
    """Whether masks that were asked again had other values, by more than rounding makes.

    Warns:
        UserWarning: they had.
    """
    difference = search.largest_difference()
    if not search.varies or difference <= (game.noise_floor or 0.0) / 2:
        return False
    warn(
        f"the same mask gave values that differ by up to {difference:.3g} ({search.n_again} masks "
        "were asked again), so that a table of all masks is not exact: a proxy is fitted to it; "
        "average several answers in your function"
    )
    return True


def explain(
    masks: Any,
    values: Any,
    proxy: Any = "distilled",
    *,
    labels: Sequence[str] | None = None,
    seed: int = 0,
) -> Distillation:
    """Fit a proxy to masks whose values are already known, such as the subsets and margins of a
    datamodels release; nothing is evaluated.

    A tenth of the different masks is held out, with all their copies, for the R² that the result
    states; none where they are all masks that there are.

    Args:
        masks: ``[mask unit]``, True or 1 = kept (trained on). Like ``values`` a numpy array, a
            torch tensor, a pandas table, a sparse matrix or lists.
        values: ``[mask]`` or ``[mask point]``.
        proxy, seed: as of :func:`distill`.
        labels: the name of each unit; default: the columns' names of a pandas table, else numbers.

    Raises:
        TypeError: masks or values that are no numbers.
        ValueError: shapes that do not fit, masks of other numbers than 0 and 1, values that are not
            finite, fewer than 20 masks; pandas tables whose rows (or whose columns and ``labels``)
            are in another order; masks that are all the same.

    Warns:
        UserWarning: a unit that no mask leaves out, or that every mask does: nothing is known of
            it, and it is in no result; units that are always left out together: they are taken for
            one; masks that all keep as many units (or as many of each class), which do not tell
            what all of them do together.

    >>> masks = np.random.default_rng(0).random((400, 6)) < 0.5
    >>> explain(masks, masks[:, 0] & masks[:, 1]).frame(1, kind="banzhaf").units.tolist()
    ['0 x 1']
    """
    same_rows(masks=masks, values=values)
    labels = _columns(masks) if labels is None else label_list(labels)
    masks = mask_array("masks", masks, labels=labels)
    values = numbers("values", values)
    seed = whole("seed", seed, 0)
    if values.ndim not in (1, 2) or len(values) != len(masks) or not values.size:
        raise ValueError(
            f"masks of shape {masks.shape} and values of shape {values.shape}; they must be "
            "[mask unit] and [mask] or [mask point]"
        )
    if len(masks) < 20:
        raise ValueError(f"{len(masks)} masks are too few to learn from: give at least 20")
    game = as_game(lambda _: None, masks.shape[1], labels)
    values = values.reshape(len(masks), -1)
    _, which = np.unique(np.packbits(masks, axis=1), axis=0, return_inverse=True)
    which = which.ravel()
    n_different = int(which.max()) + 1
    order = np.random.default_rng(seed).permutation(n_different)
    held = np.isin(which, order[: max(2, int(_SHARE_HELD * n_different))])
    return _fitted(masks, values, proxy, seed, game, held, {"evaluations": 0})


def _columns(masks: Any) -> list[str] | None:
    """The names of a table's columns, where they are words or whole numbers."""
    names = labels_of(masks, "columns") or [None]
    named = all(isinstance(n, str | Integral) and not isinstance(n, bool) for n in names)
    return [str(name) for name in names] if named else None


def _fitted(
    masks: Bool[np.ndarray, "mask unit"],
    values: Float[np.ndarray, "mask prompt"],
    proxy: Any,
    seed: int,
    game: Any,
    held: Bool[np.ndarray, " mask"],
    cost: dict[str, int | float],
    varies: bool = False,
) -> Distillation:
    """A proxy of what is not held out; of a complete table, that table, unless values of a mask are
    known to vary. It is a function of the units that the masks tell apart."""
    largest = float(abs(values).max())
    if largest > LARGEST or 0 < largest < SMALLEST:
        raise ValueError(
            f"the largest of all values is {largest:.3g} in size; errors need squares, so that it "
            f"must be from {SMALLEST:.0e} to {LARGEST:.0e}: multiply values by a constant"
        )
    fitted, labels = proxy_named(proxy, seed, game), list(game.labels)
    seen = _told_apart(masks, labels)
    narrow = masks[:, seen.units]
    if isinstance(proxy, str) and not varies and CompleteTable.holds(narrow, values):
        table = CompleteTable()
        table.fit(narrow, values)
        r2 = r_squared(narrow, values, table)
        return Distillation(table, labels, r2, int(table.about["n_masks"]), cost, seen)
    if not held.all():  # a mask without which two units are not told apart is learned from
        held = held & Seen(masks[~held]).shown(masks)
    learned: Int[np.ndarray, " _"] = np.flatnonzero(~held)
    if not len(learned):  # one or two different masks: nothing can be held out
        learned, held = np.arange(len(masks)), np.zeros(len(masks), dtype=bool)
    fitted.fit(narrow[learned], values[learned])
    r2 = r_squared(narrow[held], values[held], fitted) if held.any() else None
    return Distillation(own_of(fitted), labels, r2, len(learned), cost, Seen(masks[learned]))


def _told_apart(masks: Bool[np.ndarray, "mask unit"], labels: Sequence[str]) -> Seen:
    """What the masks tell apart; what they do not is said.

    Raises:
        ValueError: all masks are the same one.
    """
    seen = Seen(masks)
    if not seen.units:
        raise ValueError(
            f"all {len(masks)} masks are the same, so that nothing is known of any of the "
            f"{len(labels)} units; give masks that leave out different ones"
        )
    for text in seen.warnings(labels):
        warn(text)
    return seen


def _drawn(n: int, budget: int, rng: np.random.Generator) -> Bool[np.ndarray, "mask unit"]:
    """Different masks, each followed by its complement; all that there are where they are few."""
    if n < _FEW_UNITS and 2**n <= budget:
        half = np.arange(2**n // 2)[:, None] >> np.arange(n) & 1 == 1
        return np.stack([half, ~half], axis=1).reshape(-1, n)
    drawn = complementary_masks(n, 2 * budget if n < _FEW_UNITS else budget, rng)
    _, first = np.unique(np.packbits(drawn, axis=1), axis=0, return_index=True)
    return drawn[np.sort(first)][:budget]
