"""The published ProxySPEX proxy: boosted trees, and the exact Fourier coefficients they hold.

1. *Choice.* Gradient-boosted trees (LightGBM) are fitted to masked runs over a grid of depth x
   number of trees x learning rate; five-fold cross-validation chooses.
2. *Extraction.* A leaf at depth d is its value times d literals ``(1 ± χ_i) / 2``; multiplied out
   and summed over all leaves and trees that is the fitted function itself, in Fourier terms.
3. *Truncation.* The k single units and the k interactions of most energy are kept, and refitted by
   ridge regression where that lowers the held-out error.
4. *Interactions* at the intact model are exact sums of the kept terms (``fourier``).

Source: Butler et al. 2025 (ProxySPEX, arXiv 2505.17495); the grid is that of shapiq 1.4.1. Here,
beyond it: single units do not crowd out interactions; interactions are kept only where they lower
the held-out error by two standard errors (an additive function has none, whatever the trees say);
copies of a mask share a fold; any n works. It fails where main effects are many: with 1,000 dense
ones and 100 pairs, 5,000 masks at p = 1/2 show the trees 2 of the pairs among their best 200, and
none is kept. On such masks trees learn means over them: interactions at the intact model are an
extrapolation, and poor where the function bends in between.

Host time. With m masks a tree costs about m x n additions per level. Saved without changing a tree:
the masks are binned once; the largest number of trees is fitted once for each depth, rate and fold,
and its prefixes are scored; histograms are row-wise. Saved at a risk: after
the first fold, settings whose squared errors are larger than the best one's by four standard errors
of the paired difference are dropped (a race; Maron & Moore 1994).
"""

import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.masks import Set
from spex_mech.proxies.inputs import check_examples
from spex_mech.proxy import Proxy
from spex_mech.setfunctions import convert, parities

_DROPPED = 4.0  # standard errors
_BETTER = 2.0  # standard errors
_ROUNDING = 1e-9  # of the spread of the values
_ALPHAS = np.logspace(-6, 6, 49)
_AT_ONCE = 20_000_000  # entries of masks turned to floats

Fold = Int[np.ndarray, " _"]  # rows of masks
Setting = tuple[int, int, float]


class Trees(Proxy):
    """Boosted trees as a stand-in of a set function, read as sparse Fourier terms.

    After ``fit``, ``fourier`` holds the kept terms (``fourier.parities``) and ``about`` what was
    chosen: ``max_depth``, ``n_trees``, ``learning_rate``, ``cv_r2`` of the trees,
    ``cv_r2_kept`` of the kept terms, ``n_coefficients`` and ``kept`` ("trees": as the trees say;
    "refit"; "main effects" or "constant" where larger terms do not lower the held-out error).

    Args:
        seed: of the folds and of LightGBM; the same seed gives the same result.
        n_coefficients: single units to keep, and as many interactions.
        depths, n_trees, learning_rates: the grid.
        n_folds: fewer are made where there are fewer different masks.
        threads: of LightGBM; the result does not depend on it. Default: what ``OMP_NUM_THREADS``
            says, else 2.
    """

    name = "trees"

    def __init__(
        self,
        seed: int = 0,
        n_coefficients: int = 200,
        depths: Sequence[int] = (3, 5),
        n_trees: Sequence[int] = (500, 1000),
        learning_rates: Sequence[float] = (0.01, 0.1),
        n_folds: int = 5,
        threads: int | None = None,
    ) -> None:
        self.seed = seed
        self.n_coefficients = n_coefficients
        self.grid = [(d, t, r) for d in depths for r in learning_rates for t in sorted(n_trees)]
        self.n_folds = n_folds
        told = os.environ.get("OMP_NUM_THREADS", "")
        self.threads = threads or (int(told) if told.isdecimal() and int(told) else 2)
        self.fourier: dict[Set, float] = {}
        self.about: Mapping[str, Any] = {}
        self._of_folds: list[tuple[Any, int]] = []

    def fit(
        self,
        masks: Bool[np.ndarray, "mask unit"],
        values: Float[np.ndarray, " mask"] | Float[np.ndarray, "mask prompt"],
    ) -> None:
        """Learn from masks (True = kept) and their values, averaged over prompts.

        Raises:
            ImportError: if LightGBM is missing.
            ValueError: if there are no masks or no units, or a value is not finite.
        """
        check_examples(masks, values)
        values = values.reshape(len(masks), -1).mean(axis=1)
        lightgbm = _lightgbm()
        spread = float(values.std())
        folds = _folds(masks, self.n_folds, np.random.default_rng(self.seed))
        self._of_folds = []
        if len(folds) < 2 or spread <= _ROUNDING * float(abs(values).max()):
            self.fourier = {(): float(values.mean())}
            self.about = {"kept": "constant", "n_coefficients": 1}
            return
        data = lightgbm.Dataset(
            masks.astype(np.float32), values, params=self._parameters(), free_raw_data=True
        ).construct()
        race = self._race(lightgbm, data, masks, values, folds)
        setting = race.best()
        depth, n_trees, rate = setting
        self._of_folds = [(booster, n_trees) for booster in race.boosters[depth, rate]]
        whole = lightgbm.train(self._parameters(depth, rate), data, n_trees)
        kept, errors = self._held_out(masks, values, folds)
        terms = fourier_of_trees(whole, n_trees)
        self.fourier = _kept_terms(kept, terms, masks, values, self.n_coefficients)
        self.about = {
            "max_depth": depth,
            "n_trees": n_trees,
            "learning_rate": rate,
            "cv_r2": 1 - float(race.errors[setting].mean()) / spread**2,
            "cv_r2_kept": 1 - errors / spread**2,
            "n_coefficients": len(self.fourier),
            "kept": kept,
        }

    def predict(self, masks: Bool[np.ndarray, "mask unit"]) -> Float[np.ndarray, " mask"]:
        """The kept terms' values."""
        self._check_fitted()
        return parities(masks, list(self.fourier)) @ np.array(list(self.fourier.values()))

    def propose(self, k: int, order: int = 2) -> list[tuple[Set, float]]:
        """The k strongest predicted interactions of 2 to ``order`` units at the intact model.

        Returns:
            sets and signed interactions (alternating sums over ablated subsets), the strongest
            first; fewer than k where fewer are predicted to differ from zero.
        """
        self._check_fitted()
        scale = sum(v**2 for s, v in self.fourier.items() if s) ** 0.5
        intact = convert(self.fourier, "fourier", "intact", order)
        found = [(s, v) for s, v in intact.items() if len(s) >= 2 and abs(v) > _ROUNDING * scale]
        return sorted(found, key=lambda term: (-abs(term[1]), term[0]))[:k]

    def indices(self, kind: str, order: int = 2, k: int | None = None) -> dict[Set, float]:
        """The coefficients of a kind (``setfunctions``) of what it predicts, exactly: all that are
        not zero up to ``order`` units; ``k`` is not needed, as the terms are few.

        Raises:
            ValueError: an unknown kind.
        """
        self._check_fitted()
        return convert(self.fourier, "fourier", kind, order)

    def uncertainty(self, masks: Bool[np.ndarray, "mask unit"]) -> Float[np.ndarray, " mask"]:
        """Standard deviation over the trees fitted without one fold each; zero for a constant."""
        self._check_fitted()
        if not self._of_folds:
            return np.zeros(len(masks))
        return np.std([_predict(b, masks, 0, n) for b, n in self._of_folds], axis=0)

    def _check_fitted(self) -> None:
        if not self.fourier:
            raise ValueError("these trees have learned nothing yet: call fit(masks, values) first")

    def _parameters(self, depth: int = 3, rate: float = 0.1) -> dict[str, Any]:
        return {
            "objective": "regression",
            "max_depth": depth,
            "learning_rate": rate,
            "num_leaves": 31,  # LightGBM's default, which the published grid leaves as it is
            "seed": self.seed,
            "num_threads": self.threads,
            "deterministic": True,
            "force_row_wise": True,
            "max_bin": 2,
            "enable_bundle": False,  # half of the units are on: nothing to bundle, and n² to try
            "verbose": -1,
        }

    def _race(
        self, lightgbm: Any, data: Any, masks: np.ndarray, values: np.ndarray, folds: list[Fold]
    ) -> "_Race":
        race = _Race(self.grid, len(values))
        everything = np.arange(len(values))

        def grow(job: tuple[Fold, int, float]) -> tuple[Any, list[np.ndarray]]:
            fold, depth, rate = job
            counts = race.counts(depth, rate)
            rest = data.subset(np.setdiff1d(everything, fold))
            booster = lightgbm.train(self._parameters(depth, rate), rest, counts[-1])
            starts = [0, *counts[:-1]]
            steps = [_predict(booster, masks[fold], *s) for s in zip(starts, counts, strict=True)]
            return booster, [(values[fold] - p) ** 2 for p in np.cumsum(steps, axis=0)]

        for round_of_folds in (folds[:1], folds[1:]):
            jobs = [(fold, *fit) for fold in round_of_folds for fit in race.fits()]
            for fold, depth, rate in jobs:
                booster, errors = grow((fold, depth, rate))
                race.boosters.setdefault((depth, rate), []).append(booster)
                for count, squared in zip(race.counts(depth, rate), errors, strict=True):
                    race.errors[depth, count, rate][fold] = squared
            race.drop()
        return race

    def _held_out(
        self, masks: np.ndarray, values: np.ndarray, folds: list[Fold]
    ) -> tuple[str, float]:
        """Which terms predict best what they were not fitted to, and their mean squared error."""
        errors = {way: np.empty(len(values)) for way in _WAYS}
        for fold, (booster, n_trees) in zip(folds, self._of_folds, strict=True):
            rest = np.setdiff1d(np.arange(len(values)), fold)
            terms = fourier_of_trees(booster, n_trees)
            for way in _WAYS:
                kept = _kept_terms(way, terms, masks[rest], values[rest], self.n_coefficients)
                predicted = parities(masks[fold], list(kept)) @ np.array(list(kept.values()))
                errors[way][fold] = (values[fold] - predicted) ** 2
        rounding = (_ROUNDING * values.std()) ** 2
        best = _WAYS[0]
        for way in _WAYS[1:]:
            gain = errors[best] - errors[way]
            # Refitting terms or not is a choice between equals: the smaller error is enough.
            least = _BETTER * _standard_error(gain) if {best, way} != {"refit", "trees"} else 0.0
            if gain.mean() > least + rounding:
                best = way
        return best, float(errors[best].mean())


_WAYS = ("constant", "main effects", "trees", "refit")  # the simplest first


class _Race:
    """Held-out squared errors of the settings that may still be the best."""

    def __init__(self, grid: Sequence[Setting], n_masks: int) -> None:
        self.alive = list(grid)
        self.errors = {setting: np.full(n_masks, np.nan) for setting in grid}
        self.boosters: dict[tuple[int, float], list[Any]] = {}

    def fits(self) -> list[tuple[int, float]]:
        return list(dict.fromkeys((depth, rate) for depth, _, rate in self.alive))

    def counts(self, depth: int, rate: float) -> list[int]:
        return [t for d, t, r in self.alive if (d, r) == (depth, rate)]

    def best(self) -> Setting:
        return min(self.alive, key=lambda setting: np.nanmean(self.errors[setting]))

    def drop(self) -> None:
        """Drop the settings that are surely not the best on the folds so far."""
        seen = np.isfinite(self.errors[self.alive[0]])
        best = self.errors[self.best()][seen]
        self.alive = [
            setting
            for setting in self.alive
            for excess in [self.errors[setting][seen] - best]
            if excess.mean() <= _DROPPED * _standard_error(excess)
        ]


def fourier_of_trees(booster: Any, n_trees: int) -> dict[Set, float]:
    """The exact Fourier terms of the first ``n_trees`` trees of a LightGBM booster.

    A tree of depth d costs 4^d steps at most, however many units there are.
    """
    units, signs, values = _leaves(booster, n_trees)
    depth = units.shape[1]
    found: dict[Set, float] = {}
    for size in range(depth + 1):
        sets, parts = [], []
        for places in combinations(range(depth), size):
            chosen = units[:, places]
            at = (chosen >= 0).all(axis=1)
            sets.append(chosen[at])
            parts.append(values[at] * signs[:, places][at].prod(axis=1))
        found |= _summed(np.sort(np.concatenate(sets), axis=1), np.concatenate(parts))
    return found


def _leaves(
    booster: Any, n_trees: int
) -> tuple[
    Int[np.ndarray, "leaf depth"], Float[np.ndarray, "leaf depth"], Float[np.ndarray, " leaf"]
]:
    """Each leaf's path: units (-1 beyond its end), signs of their parities, value / 2^length."""
    paths: list[list[tuple[int, float]]] = []
    values: list[float] = []

    def walk(node: dict[str, Any], path: list[tuple[int, float]]) -> None:
        if "split_feature" not in node:
            paths.append(path)
            values.append(node["leaf_value"] / 2 ** len(path))
            return
        # Left is "at most the threshold": the unit is ablated, and its parity is +1.
        walk(node["left_child"], [*path, (node["split_feature"], 1.0)])
        walk(node["right_child"], [*path, (node["split_feature"], -1.0)])

    for tree in booster.dump_model(num_iteration=n_trees)["tree_info"]:
        walk(tree["tree_structure"], [])
    longest = max(map(len, paths))
    units = np.full((len(paths), longest), -1, dtype=np.int64)
    signs = np.ones((len(paths), longest))
    for row, path in enumerate(paths):
        if path:
            units[row, : len(path)], signs[row, : len(path)] = zip(*path, strict=True)
    return units, signs, np.array(values)


def _summed(
    sets: Int[np.ndarray, "row place"], parts: Float[np.ndarray, " row"]
) -> dict[Set, float]:
    """The sum of the parts of each different set."""
    if not len(parts):
        return {}
    order = np.lexsort(sets.T[::-1]) if sets.shape[1] else np.arange(len(parts))
    sets, parts = sets[order], parts[order]
    first = np.flatnonzero(np.r_[True, (sets[1:] != sets[:-1]).any(axis=1)])
    sums = np.add.reduceat(parts, first)
    return dict(zip(map(tuple, sets[first].tolist()), sums.tolist(), strict=True))


def _kept_terms(
    way: str, terms: dict[Set, float], masks: np.ndarray, values: np.ndarray, k: int
) -> dict[Set, float]:
    if way == "constant":
        return {(): float(values.mean())}
    ranked = sorted((s for s in terms if s), key=lambda s: (-abs(terms[s]), s))
    kept = [s for s in ranked if len(s) == 1][:k]
    if way != "main effects":
        kept += [s for s in ranked if len(s) > 1][:k]
    if way == "trees":
        return {(): terms[()]} | {s: terms[s] for s in kept}
    return _refitted(kept, masks, values)


def _refitted(sets: list[Set], masks: np.ndarray, values: np.ndarray) -> dict[Set, float]:
    """Ridge regression on the sets' parities; its strength by leave-one-out error."""
    mean = float(values.mean())
    if not sets:
        return {(): mean}
    basis = parities(masks, sets)
    middle = basis.mean(axis=0)
    left, sizes, right = np.linalg.svd(basis - middle, full_matrices=False)
    at = left.T @ (values - mean)

    def left_out(alpha: float) -> float:
        shrink = sizes**2 / (sizes**2 + alpha)
        residual = values - mean - left @ (shrink * at)
        leverage = (left**2) @ shrink + 1 / len(values)
        return float(((residual / np.maximum(1 - leverage, _ROUNDING)) ** 2).mean())

    alpha = min(_ALPHAS, key=left_out)
    found = right.T @ (sizes / (sizes**2 + alpha) * at)
    return {(): mean - float(middle @ found)} | dict(zip(sets, found.tolist(), strict=True))


def _folds(masks: np.ndarray, n_folds: int, rng: np.random.Generator) -> list[Fold]:
    """Rows by fold, at random; copies of a mask share a fold, or they would score themselves.

    Where there are fewer different masks than two a fold (three units or fewer), rows are split:
    such a game is learned by heart.
    """
    _, which = np.unique(np.packbits(masks, axis=1), axis=0, return_inverse=True)
    which = which.ravel()
    if which.max() + 1 < 2 * n_folds:
        which = np.arange(len(masks))
    n_different = int(which.max()) + 1
    n_folds = min(n_folds, n_different)
    fold_of = rng.permutation(n_different) % n_folds
    return [np.flatnonzero(fold_of[which] == fold) for fold in range(n_folds)]


def _predict(
    booster: Any, masks: Bool[np.ndarray, "mask unit"], done: int, count: int
) -> Float[np.ndarray, " mask"]:
    """What trees ``done`` to ``count`` add, blockwise, as the trees read floats."""
    if done >= booster.num_trees():
        return np.zeros(len(masks))
    step = max(1, _AT_ONCE // masks.shape[1])
    parts = [
        booster.predict(rows.astype(np.float32), start_iteration=done, num_iteration=count - done)
        for rows in (masks[at : at + step] for at in range(0, len(masks), step))
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _standard_error(x: Float[np.ndarray, " mask"]) -> float:
    return float(x.std() / max(1, len(x)) ** 0.5)


def _lightgbm() -> Any:
    try:
        import lightgbm
    except ImportError as error:
        raise ImportError("trees need LightGBM: pip install 'spex_mech[trees]'") from error
    return lightgbm
