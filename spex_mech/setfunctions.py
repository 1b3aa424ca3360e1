"""Exact conversions between the ways to write a set function down, term by term.

A sparse function is a dict from sets (tuples of units in ascending order) to coefficients. S is the
set of units that are kept, N all units. The kinds:

- ``"mobius"``: ``f(S) = sum of a_T over T ⊆ S``, at the empty model (everything ablated).
- ``"intact"``: ``f(N without A) = sum of I_T over T ⊆ A``, Möbius at the intact model. Its pairs
  and higher orders are this package's interactions, its single units the main effects.
- ``"fourier"``: ``f(S) = sum of F_T · (-1)^|S ∩ T|``, the parity basis of ProxySPEX (Butler et al.
  2025, arXiv 2505.17495), which is orthonormal under masks that keep each unit with
  p = 1/2.
- ``"banzhaf"``: the mean of the derivative ``Δ_T f(S) = sum over L ⊆ T of
  (-1)^(|T|-|L|) f(S and L)`` over all S without units of T, so ``(-2)^|T| F_T``.
- ``"shapley"``: the same, over all sizes of S alike (the Shapley interaction index).

Derivatives add units and interactions ablate them: at the intact model ``Δ_T`` is
``(-1)^|T| I_T``, so that pairs have the same sign in both, and main effects and triples opposite
ones.

Every kind is also the mean of ``Δ_T f(S)`` over random S, times a power of a number: S keeps each
unit with probability p, which is 0 for ``"mobius"``, 1 for ``"intact"``, 1/2 for ``"fourier"`` and
``"banzhaf"``, and any p alike for ``"shapley"`` (:func:`derivative_means`). Where f is a sum of
products of a factor for each unit, as of a Gaussian process, that mean has a closed form.

Every kind is a sum over supersets, ``out_T = sum over R ⊇ T of w(|T|, |R|) in_R`` (Grabisch,
Marichal & Roubens 2000, "Equivalent representations of set functions"; Grabisch & Roubens
1999 for the two indices). A term of order k costs 2^k steps, however many units there are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import combinations, pairwise
from math import comb

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.arguments import one_of
from spex_mech.masks import Set

KINDS = ("mobius", "intact", "fourier", "banzhaf", "shapley")


def convert(
    terms: Mapping[Set, float], source: str, target: str, order: int | None = None
) -> dict[Set, float]:
    """The same function in another kind, exact but for rounding.

    Args:
        terms: coefficients of kind ``source``; sets that are absent are zero.
        order: leave out the sets of the result that are larger; default: none.

    Returns:
        coefficients by size of set, then by units; exact zeros are left out.

    Raises:
        ValueError: if a kind is unknown, or a set's units do not ascend.

    >>> convert({(0, 1): 1.0}, "mobius", "intact")
    {(): 1.0, (0,): -1.0, (1,): -1.0, (0, 1): 1.0}
    """
    for kind in (source, target):
        one_of("kind", kind, KINDS)
    found: dict[Set, float] = {}
    for whole, value in terms.items():
        if any(a >= b for a, b in pairwise(whole)):
            raise ValueError(f"the units of a set must ascend: {whole}")
        largest = len(whole) if order is None else min(order, len(whole))
        for size in range(largest + 1):
            weight = _weight(source, target, size, len(whole))
            if weight:
                for part in combinations(whole, size):
                    found[part] = found.get(part, 0.0) + weight * value
    return {s: found[s] for s in sorted(found, key=lambda s: (len(s), s)) if found[s]}


def parities(
    masks: Bool[np.ndarray, "mask unit"], sets: Sequence[Set]
) -> Float[np.ndarray, "mask set"]:
    """The Fourier basis ``(-1)^|S ∩ T|`` at each mask S (True = kept), for each set T."""
    signs = np.ones((len(masks), len(sets)))
    sizes = np.array([len(s) for s in sets], dtype=np.int64)
    for size in range(1, sizes.max(initial=0) + 1):
        at = np.flatnonzero(sizes == size)
        if len(at):
            units = np.array([sets[i] for i in at.tolist()])  # set unit
            odd = np.logical_xor.reduce([masks[:, column] for column in units.T])
            signs[:, at] = np.where(odd, -1.0, 1.0)
    return signs


@dataclass(frozen=True)
class DerivativeMeans:
    """A kind as a mean of derivatives: ``out_T = scale^|T| · sum of weights · mean of Δ_T f(S)``,
    where S keeps each unit with the probability ``kept`` that belongs to the weight."""

    kept: Float[np.ndarray, " node"]
    weights: Float[np.ndarray, " node"]
    scale: float


_MOST_NODES = 64


def derivative_means(kind: str, n_units: int) -> DerivativeMeans:
    """How a kind is a mean of derivatives.

    The Shapley index is the integral of a polynomial in p, of degree ``n_units`` at most.
    Gauss-Legendre nodes, half as many as its degree and one, give it exactly: so up to 126 units.
    Of more units there are 64 nodes. They gave the integrals of products of up to 10,000 factors,
    of which single ones changed the value by up to 10^26, to 10 digits and more.

    Raises:
        ValueError: an unknown kind.
    """
    one_of("kind", kind, KINDS)
    if kind == "shapley":
        nodes, weights = np.polynomial.legendre.leggauss(min(n_units // 2 + 1, _MOST_NODES))
        return DerivativeMeans((nodes + 1) / 2, weights / 2, 1.0)
    kept = {"mobius": 0.0, "intact": 1.0}.get(kind, 0.5)
    scale = {"intact": -1.0, "fourier": -0.5}.get(kind, 1.0)
    return DerivativeMeans(np.array([kept]), np.ones(1), scale)


def of_table(values: Float[np.ndarray, " set"], kind: str) -> Float[np.ndarray, " set"]:
    """All coefficients of a function whose every value is known.

    Args:
        values: of all ``2^n`` sets S of kept units, at the place ``sum of 2^u over u in S``.

    Returns:
        the coefficient of each set T, in the same order.

    Raises:
        ValueError: an unknown kind, or a number of values that is no power of two.

    >>> of_table(np.array([0.0, 0.0, 0.0, 1.0]), "banzhaf").tolist()  # both of two units
    [0.25, 0.5, 0.5, 1.0]
    """
    n = len(values).bit_length() - 1
    if len(values) != 2**n:
        raise ValueError(f"{len(values)} values are not those of all subsets of some units")
    means = derivative_means(kind, n)
    found = np.zeros(len(values))
    for kept, weight in zip(means.kept, means.weights, strict=True):
        at = values.astype(np.float64).reshape((2,) * n)
        for axis in range(n):
            without, there = np.moveaxis(at, axis, 0)
            mean, change = kept * there + (1 - kept) * without, means.scale * (there - without)
            at = np.stack([mean, change], axis=axis)
        found += weight * at.ravel()
    return found


@cache
def _weight(source: str, target: str, size: int, whole: int) -> float:
    """What a set of size ``whole`` gives each subset of size ``size``, by way of Möbius."""
    if source == target:
        return float(size == whole)
    steps = (
        comb(whole - size, middle - size)
        * _from_mobius(target, size, middle)
        * _to_mobius(source, middle, whole)
        for middle in range(size, whole + 1)
    )
    return float(sum(steps))


def _from_mobius(target: str, size: int, whole: int) -> Fraction:
    match target:
        case "mobius":
            return Fraction(size == whole)
        case "intact":
            return Fraction((-1) ** size)
        case "fourier":
            return Fraction((-1) ** size, 2**whole)
        case "banzhaf":
            return Fraction(1, 2 ** (whole - size))
        case _:  # "shapley"
            return Fraction(1, whole - size + 1)


def _to_mobius(source: str, size: int, whole: int) -> Fraction:
    match source:
        case "mobius":
            return Fraction(size == whole)
        case "intact":
            return Fraction((-1) ** size)
        case "fourier":
            return Fraction((-2) ** size)
        case "banzhaf":
            return Fraction(-1, 2) ** (whole - size)
        case _:  # "shapley"
            return _bernoulli(whole - size)


@cache
def _bernoulli(m: int) -> Fraction:
    """Bernoulli numbers with B_1 = -1/2: what inverts weights 1 / (k + 1)."""
    if m == 0:
        return Fraction(1)
    return -sum((comb(m + 1, k) * _bernoulli(k) for k in range(m)), Fraction(0)) / (m + 1)
