"""Proxy: a small model of a set function, which predicts values and proposes interactions.

A search has a proxy learn from masks and their values, and asks it which interactions to measure.
What a proxy can do besides (read slopes, learn from what the search measures) it declares; nobody
feels for it. The proxies of this package derive from ``Proxy``; ``as_proxy`` makes one of an object
that brings the methods without the type.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.masks import Set
from spex_mech.pairs.gradient_rows import GradientRows
from spex_mech.setfunctions import convert


class Proxy(ABC):
    """A small model of a set function over n units, to be fitted to some of its values.

    To make one, derive from it and write :meth:`fit`, :meth:`predict` and :meth:`propose`. A proxy
    that reads slopes says ``reads_slopes = True`` and writes :meth:`fit_with_slopes` too. All else
    has a default:

    | member | says | default |
    |---|---|---|
    | ``name`` | what a result calls it | the name of the class |
    | ``about`` | what was learned, as plain values, for the result | nothing |
    | ``uncertainty`` | where masks are worth most | where most is ablated |
    | ``reads_slopes`` | it gets gradient rows where the game has slopes | no |
    | ``searched`` | it was searched already, and needs masks for its scale alone | no |
    | ``learns_from_search`` | what the search measures teaches it, and ranks | no |
    | ``indices`` | coefficients of what it predicts (``setfunctions``) | there are none |

    ``testing.check_proxy`` tries what this text demands.

    >>> class Additive(Proxy):
    ...     def fit(self, masks, values):
    ...         lost = np.c_[np.ones(len(masks)), ~masks]
    ...         self.weights = np.linalg.lstsq(lost, values.mean(axis=1), rcond=None)[0]
    ...     def predict(self, masks):
    ...         return np.c_[np.ones(len(masks)), ~masks] @ self.weights
    ...     def propose(self, k, order=2):  # no interaction is predicted
    ...         return []
    >>> proxy = Additive()
    >>> masks = np.array([[True, True], [False, True], [True, False], [False, False]])
    >>> proxy.fit(masks, np.array([[3.0], [1.0], [2.0], [0.0]]))
    >>> proxy.predict(masks).round(6).tolist()
    [3.0, 1.0, 2.0, 0.0]
    """

    name: str = ""
    about: Mapping[str, Any] = MappingProxyType({})
    reads_slopes: bool = False
    searched: bool = False
    learns_from_search: bool = False

    @abstractmethod
    def fit(
        self, masks: Bool[np.ndarray, "mask unit"], values: Float[np.ndarray, "mask prompt"]
    ) -> None:
        """Learn from these masks (True = kept) and their values, and from nothing else: a search
        calls it several times, each time with all masks that it has so far."""

    @abstractmethod
    def predict(
        self, masks: Bool[np.ndarray, "mask unit"]
    ) -> Float[np.ndarray, "mask prompt"] | Float[np.ndarray, " mask"]:
        """Values on each prompt, or on average over prompts."""

    @abstractmethod
    def propose(self, k: int, order: int = 2) -> Sequence[tuple[Set, float]]:
        """The at most k strongest interactions of 2 to ``order`` units at the intact model, the
        strongest first: unit numbers in ascending order, and the signed size, which is the
        alternating sum over what is ablated."""

    def uncertainty(self, masks: Bool[np.ndarray, "mask unit"]) -> Float[np.ndarray, " mask"]:
        """How unsure the predictions are; only the order counts. By default the more, the more is
        ablated."""
        return (~masks).sum(axis=1).astype(np.float64)

    def fit_with_slopes(
        self,
        masks: Bool[np.ndarray, "mask unit"],
        values: Float[np.ndarray, "mask prompt"],
        rows: GradientRows,
    ) -> None:
        """:meth:`fit`, with what slopes predict of pairs; the intact model is among the masks. A
        search calls it in place of :meth:`fit` where the proxy ``reads_slopes`` and the game has
        them."""
        del rows  # by default slopes are not read
        self.fit(masks, values)

    def indices(self, kind: str, order: int = 2, k: int = 1000) -> dict[Set, float]:
        """Coefficients of a kind (``setfunctions``) of what is predicted on average over prompts,
        up to ``order`` units; at least the k largest of each size.

        Raises:
            ValueError: an unknown kind, or one that this proxy cannot give.
        """
        del kind, order, k
        raise ValueError(
            f"the proxy {name_of(self)} has no Fourier coefficients; use 'trees' or 'distilled'"
        )


class _Foreign(Proxy):
    """An object that is a proxy in all but its type."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self.name = getattr(own, "name", type(own).__name__)
        self.about = getattr(own, "about", {})
        self.searched = bool(getattr(own, "searched", False))
        self.reads_slopes = hasattr(own, "fit_with_slopes")

    def fit(
        self, masks: Bool[np.ndarray, "mask unit"], values: Float[np.ndarray, "mask prompt"]
    ) -> None:
        self.own.fit(masks, values)
        self.about = getattr(self.own, "about", {})

    def fit_with_slopes(
        self,
        masks: Bool[np.ndarray, "mask unit"],
        values: Float[np.ndarray, "mask prompt"],
        rows: GradientRows,
    ) -> None:
        self.own.fit_with_slopes(masks, values, rows)
        self.about = getattr(self.own, "about", {})

    def predict(self, masks: Bool[np.ndarray, "mask unit"]) -> np.ndarray:
        return np.asarray(self.own.predict(masks), dtype=np.float64)

    def propose(self, k: int, order: int = 2) -> Any:
        return self.own.propose(k, order)

    def uncertainty(self, masks: Bool[np.ndarray, "mask unit"]) -> np.ndarray:
        own = getattr(self.own, "uncertainty", None)
        unsure = super().uncertainty(masks) if own is None else own(masks)
        return np.asarray(unsure, dtype=np.float64)

    def indices(self, kind: str, order: int = 2, k: int = 1000) -> dict[Set, float]:
        own = getattr(self.own, "fourier", None)
        if own is None:
            return super().indices(kind, order, k)
        return convert(own if isinstance(own, Mapping) else own(), "fourier", kind, order)


def name_of(proxy: Proxy) -> str:
    """What a result calls it."""
    return proxy.name or type(proxy).__name__


def own_of(proxy: Proxy) -> Any:
    """What :func:`as_proxy` was given."""
    return proxy.own if isinstance(proxy, _Foreign) else proxy


def as_proxy(proxy: Any) -> Proxy:
    """A proxy as it is, or an object of one's own with ``fit``, ``predict`` and ``propose`` as one.

    Such an object may have, besides, what ``Proxy`` has: ``uncertainty(masks)``, ``name``,
    ``about``, ``searched``, ``fit_with_slopes(masks, values, rows)``; and ``fourier``, its Fourier
    coefficients by set, as a dict or a method that gives one.

    Raises:
        ValueError: a method is missing.
    """
    if isinstance(proxy, Proxy):
        return proxy
    for method in ("fit", "predict", "propose"):
        if not hasattr(proxy, method):
            raise ValueError(
                f"the proxy {getattr(proxy, 'name', type(proxy).__name__)} has no method {method!r}"
            )
    return _Foreign(proxy)
