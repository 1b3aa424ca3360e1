"""Distil a game into a small model: a proxy that predicts the values of any masks.

``discover(method="proxyspex")`` does this on its way to measured interactions. Here the proxy
itself is the result, for those who want predictions, or the Fourier, Banzhaf and Shapley indices
of masks that ablate half of the units. All that it says is an estimate.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.discover import as_game, drive, proxy_named
from spex_mech.search.proxyspex import Proxy, r_squared
from spex_mech.search.random_masks import MaskSample, half_masks
from spex_mech.setfunctions import KINDS, convert

if TYPE_CHECKING:
    import pandas as pd

_SHARE_HELD = 0.1
_FEW_UNITS = 40  # so that the same mask may be drawn twice


@dataclass(frozen=True, eq=False)
class Distillation:
    """A proxy of a game, and how well it does.

    Args:
        proxy: the small model, fitted.
        labels: the name of each unit.
        r2: of the prompt mean, on masks that it did not learn from; None where all are alike.
        n_masks: that it learned from.
        cost: evaluations and seconds that the game took.
    """

    proxy: Proxy
    labels: list[str]
    r2: float | None
    n_masks: int
    cost: dict[str, int | float]

    def predict(self, masks: Any) -> Float[np.ndarray, "mask ..."]:
        """Values of masks (True = kept), on each prompt (distilled) or on average (trees)."""
        return self.proxy.predict(np.asarray(masks, dtype=bool))

    def frame(self, k: int = 20, order: int = 2, kind: str = "fourier") -> "pd.DataFrame":
        """The k largest estimated coefficients of 2 to ``order`` units: ``units estimate``.

        Args:
            kind: "fourier", "banzhaf", "shapley", "mobius" or "intact" (``setfunctions``).

        Raises:
            ValueError: if a kind is unknown, or the proxy has no Fourier coefficients.
        """
        import pandas as pd

        if kind not in KINDS:
            raise ValueError(f"no kind {kind!r}: choose from {', '.join(KINDS)}")
        terms = convert(self._terms(), "fourier", kind, order)
        ranked = sorted((s for s in terms if len(s) > 1), key=lambda s: (-abs(terms[s]), s))[:k]
        names = [" x ".join(self.labels[u] for u in s) for s in ranked]
        return pd.DataFrame({"units": names, "estimate": [terms[s] for s in ranked]})

    def _terms(self) -> dict[tuple[int, ...], float]:
        fourier = getattr(self.proxy, "fourier", None)
        if fourier is None:
            raise ValueError(
                f"the proxy {type(self.proxy).__name__} has no Fourier coefficients; use 'trees' "
                "or 'distilled'"
            )
        return fourier if isinstance(fourier, dict) else fourier()


def distill(
    game: Any,
    budget: int,
    proxy: Any = "distilled",
    *,
    seed: int = 0,
    n: int | None = None,
    labels: Sequence[str] | None = None,
    progress: bool = True,
) -> Distillation:
    """Fit a proxy to masks that ablate half of the units, in pairs of complements.

    A tenth of the masks is held out, for the R² that the result states.

    Args:
        game: as for ``discover``.
        budget: evaluations: masks in all.
        proxy: "distilled", "trees" (needs the extra ``trees``) or an object with ``fit``,
            ``predict``, ``propose`` and ``uncertainty``.
        seed: of masks and proxy.
        n, labels, progress: as for ``discover``.

    Raises:
        ValueError: a budget under 20.

    >>> def both(masks):  # worth 1 where both of the first two units are kept
    ...     return masks[:, :2].all(dim=1).double()
    >>> small = distill(both, budget=100, n=6)
    >>> small.frame(1, kind="banzhaf").round(2).to_numpy().tolist()
    [['0 x 1', 1.0]]
    """
    game = as_game(game, n, labels)
    if budget < 20:
        raise ValueError(f"a budget of {budget} masks is too small to learn from: give at least 20")
    fitted = proxy_named(proxy, seed, game)
    rng = np.random.default_rng(seed)
    drawn = half_masks(len(game), 2 * budget if len(game) < _FEW_UNITS else budget, rng)
    sample = MaskSample(_different(drawn)[:budget])
    cost = drive(game, sample, progress)
    masks, values = sample.masks, sample.values
    n_held = max(2, int(_SHARE_HELD * len(masks)) // 2 * 2)
    fitted.fit(masks[n_held:], values[n_held:])
    r2 = r_squared(masks[:n_held], values[:n_held], fitted)
    return Distillation(fitted, list(game.labels), r2, len(masks) - n_held, cost)


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

    A tenth of the masks is held out, for the R² that the result states.

    Args:
        masks: ``[mask unit]``, True = kept (trained on).
        values: ``[mask]`` or ``[mask point]``.
        proxy, seed: as of :func:`distill`.
        labels: the name of each unit; default: the numbers.

    Raises:
        ValueError: shapes that do not fit, values that are not finite, fewer than 20 masks.

    >>> masks = np.random.default_rng(0).random((400, 6)) < 0.5
    >>> explain(masks, masks[:, 0] & masks[:, 1]).frame(1, kind="banzhaf").units.tolist()
    ['0 x 1']
    """
    masks, values = np.asarray(masks, dtype=bool), np.asarray(values, dtype=np.float64)
    if masks.ndim != 2 or values.ndim not in (1, 2) or len(values) != len(masks):
        raise ValueError(
            f"masks of shape {masks.shape} and values of shape {values.shape}; they must be "
            "[mask unit] and [mask] or [mask point]"
        )
    if len(masks) < 20:
        raise ValueError(f"{len(masks)} masks are too few to learn from: give at least 20")
    game = as_game(lambda _: None, masks.shape[1], labels)
    values = values.reshape(len(masks), -1)
    order = np.random.default_rng(seed).permutation(len(masks))
    n_held = max(2, int(_SHARE_HELD * len(masks)))
    held, learned = order[:n_held], order[n_held:]
    fitted = proxy_named(proxy, seed, game)
    fitted.fit(masks[learned], values[learned])
    r2 = r_squared(masks[held], values[held], fitted)
    return Distillation(fitted, game.labels, r2, len(learned), {"evaluations": 0})


def _different(masks: Bool[np.ndarray, "mask unit"]) -> Bool[np.ndarray, "some unit"]:
    """Each mask once, in their order."""
    _, first = np.unique(np.packbits(masks, axis=1), axis=0, return_index=True)
    return masks[np.sort(first)]
