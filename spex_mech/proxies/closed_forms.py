"""Interaction indices of a fitted Gaussian process, of every kind and order, in closed form.

Its posterior mean is a sum over the masks k that it learned from, with a weight w_k each: of a
polynomial of order two, and of the residual, which is a product of one factor for each unit, 1
where unit i is as in mask k and ``e_i = exp(-inverse_length b_i)`` where it is not.

1. *One formula for all kinds.* Each is a mean of derivatives over masks that keep every unit with
   probability p (``setfunctions.derivative_means``). The mean of a product is the product of the
   means, so that the residual's part of a set T is

       sum_k w_k prod_i m_ki · prod_(i in T) c_ki / m_ki,

   with ``m_ki`` the mean and ``c_ki`` the change of factor i. That holds for every order.
2. *Polynomial.* Its part of a pair is the same for every p; that of a single unit and of none
   follows from sums over pairs, which need no pair by itself.
3. *The largest sets.* All pairs are scanned as blocks of a matrix product. Of larger sets all are
   scanned where they are at most 2 million; otherwise those that add a unit to one of the largest
   sets of one unit less.

m masks of n units cost ``m n`` for all single units and ``m n^2 / 2`` multiplications for all
pairs, times the number of p (1, for the Shapley index up to 64).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import comb

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spex_mech.masks import Set
from spex_mech.pairs.largest import largest_pairs
from spex_mech.proxies.kernel import Kernel
from spex_mech.setfunctions import DerivativeMeans, derivative_means

_AT_ONCE = 4_000_000  # entries of one block of a scan
_EXACT_ENTRIES = 5_000_000  # of masks; beyond, scans are in float32, and what they find is not
_MOST_SETS = 2_000_000  # of one order, that are all scanned
_MOST_EXPONENT = 60.0  # of a factor of the residual: exp(-60) is as good as 0
_SCAN_NODES = 17  # of the Shapley index: exact for up to 33 units


@dataclass(frozen=True, eq=False)
class PosteriorMean:
    """What a fitted process predicts, averaged over prompts, as a function of the mask.

    Args:
        x: 1 where a mask that was learned from ablates a unit, ``[mask unit]``.
        weights: of those masks, ``[mask]``.
        kernel: the covariance.
        offset: what is added to all.
    """

    x: Float[Tensor, "mask unit"]
    weights: Float[Tensor, " mask"]
    kernel: Kernel
    offset: float

    @property
    def n(self) -> int:
        return self.x.shape[1]

    def low_orders(self, kind: str) -> tuple[float, Float[np.ndarray, " unit"]]:
        """The coefficient of no unit, and of each single one."""
        means, centre = derivative_means(kind, self.n), self.kernel.centre
        main, pairs, _, _ = self.kernel.sizes()
        x, a, b = self.x, self.kernel.main(), self.kernel.pair()
        weights, total = self.weights, self.weights.sum()
        there = _product(x.T, weights)  # the weight of masks that ablate each unit
        linear = main * a * (there - centre * total)
        squares = (1 - 2 * centre) * there + centre**2 * total
        reach = _product(x, b) - centre * b.sum()
        across = _product(x.T, weights * reach) - centre * (weights @ reach)
        of_pairs = pairs * (b * across - b**2 * squares)  # each unit's sum over its pairs
        of_squares = 0.5 * pairs * b**2 * squares
        all_pairs = 0.5 * pairs * (weights @ reach.square() - (b**2 * squares).sum())
        empty, single = torch.zeros_like(total), torch.zeros_like(b)
        for kept, weight in zip(means.kept, means.weights, strict=True):
            ablated = 1 - float(kept)
            off = ablated - centre
            constant = linear.sum() * off + all_pairs * off**2
            constant = constant + ((centre**2 + (1 - 2 * centre) * ablated) * of_squares).sum()
            slope = linear + (1 - 2 * centre) * of_squares + off * of_pairs
            residual, change = self._residual(float(kept))
            kept_change, ablated_change = change
            of_residual = kept_change * residual.sum()
            of_residual = of_residual + (ablated_change - kept_change) * _product(x.T, residual)
            empty = empty + weight * (self.offset + constant + residual.sum())
            single = single + weight * means.scale * (of_residual - slope)
        return float(empty), single.cpu().numpy()

    def values(self, sets: Sequence[Set], kind: str) -> Float[np.ndarray, " set"]:
        """The coefficients of sets of two units and more, each exactly."""
        found = np.zeros(len(sets))
        sizes = np.array([len(s) for s in sets], dtype=np.int64)
        means = derivative_means(kind, self.n)
        for size in np.unique(sizes).tolist():
            at = np.flatnonzero(sizes == size)
            units = torch.tensor([sets[i] for i in at.tolist()], device=self.x.device)
            step = max(1, _AT_ONCE // max(1, len(self.x) * size))
            parts = [self._values(rows, means) for rows in units.split(step)]
            found[at] = torch.cat(parts).cpu().numpy()
        return found

    def largest(self, kind: str, size: int, k: int, parents: Sequence[Set]) -> list[Set]:
        """The k sets of so many units of largest coefficient; of three units and more, where they
        are too many to scan, the largest of those that add a unit to one of ``parents``."""
        if k < 1 or size > self.n:
            return []
        # Fewer nodes rank as well; what is found is then worked out with all of them.
        means = derivative_means(kind, min(self.n, 2 * _SCAN_NODES))
        if size == 2:
            pairs = largest_pairs(self._blocks(means), self.n, min(k, comb(self.n, 2)))
            return [(a, b) for a, b in pairs.tolist()]
        whole = comb(self.n, size) <= _MOST_SETS
        prefixes = combinations(range(self.n), size - 1) if whole else iter(parents)
        return self._extended(prefixes, means, k, ascending=whole)

    # -- inside ---------------------------------------------------------------------------------

    def _residual(self, kept: float) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Each mask's product of means, times its weight; and the change of each factor over its
        mean, in masks that keep the unit and in masks that ablate it."""
        _, _, size, inverse_length = self.kernel.sizes()
        exponent = (inverse_length * self.kernel.pair()).clamp(max=_MOST_EXPONENT)
        apart, change = torch.exp(-exponent), -torch.expm1(-exponent)
        in_kept, in_ablated = kept + (1 - kept) * apart, (1 - kept) + kept * apart
        logs = in_kept.log().sum() + _product(self.x, in_ablated.log() - in_kept.log())
        return size * self.weights * logs.exp(), (change / in_kept, -change / in_ablated)

    def _factors(self, units: Tensor, kept: float, scale: float) -> Float[Tensor, "mask chosen"]:
        """What each unit of a set multiplies a mask's part of the residual with."""
        _, (in_kept, in_ablated) = self._residual(kept)
        chosen = self.x[:, units].to(in_kept)
        return scale * (in_kept[units] + chosen * (in_ablated - in_kept)[units])

    def _pair_factors(self, units: Tensor, scale: float) -> Float[Tensor, "mask chosen"]:
        b = self.kernel.pair()
        return scale * (self.x[:, units].to(b) - self.kernel.centre) * b[units]

    def _values(
        self, units: Int[Tensor, "set place"], means: DerivativeMeans
    ) -> Float[Tensor, " set"]:
        used, place = units.unique(return_inverse=True)
        total = torch.zeros(len(units), dtype=torch.float64, device=units.device)
        if units.shape[1] == 2:
            factors = self._pair_factors(used, means.scale)[:, place].prod(dim=2)
            total = total + self.kernel.sizes()[1] * (self.weights @ factors)
        for kept, weight in zip(means.kept, means.weights, strict=True):
            residual, _ = self._residual(float(kept))
            factors = self._factors(used, float(kept), means.scale)[:, place].prod(dim=2)
            total = total + weight * (residual @ factors)
        return total

    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.x.numel() <= _EXACT_ENTRIES else torch.float32

    def _blocks(
        self, means: DerivativeMeans
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The sizes of all pairs' coefficients, block by block."""
        n, dtype, device = self.n, self._dtype(), self.x.device
        of_pairs = (self.kernel.sizes()[1] * self.weights).to(dtype)
        nodes = [(float(p), float(w)) for p, w in zip(means.kept, means.weights, strict=True)]
        of_residual = [(w * self._residual(p)[0]).to(dtype) for p, w in nodes]

        def terms(units: Tensor) -> list[Tensor]:
            pairs = self._pair_factors(units, means.scale)
            return [t.to(dtype) for t in (pairs, *(self._factors(units, p, means.scale)
                                                   for p, _ in nodes))]  # fmt: skip

        step = max(1, int(_AT_ONCE**0.5))
        for top in range(0, n, step):
            rows = torch.arange(top, min(top + step, n), device=device)
            left = [t.T * w for t, w in zip(terms(rows), [of_pairs, *of_residual], strict=True)]
            for start in range(top, n, step):
                columns = torch.arange(start, min(start + step, n), device=device)
                right = terms(columns)
                values = sum(a @ b for a, b in zip(left, right, strict=True))
                assert isinstance(values, Tensor)
                sizes = values.abs().double().cpu().numpy()
                if start == top:
                    sizes[np.tril_indices(len(sizes))] = -1.0
                first, second = rows.cpu().numpy(), columns.cpu().numpy()
                yield (
                    np.repeat(first, len(second)),
                    np.tile(second, len(first)),
                    sizes.ravel(),
                )

    def _extended(
        self, prefixes: Iterator[Set], means: DerivativeMeans, k: int, ascending: bool
    ) -> list[Set]:
        """The largest sets that add one unit to a prefix: a later one, or any other."""
        found: dict[Set, float] = {}
        everything = torch.arange(self.n, device=self.x.device)
        step = max(1, _AT_ONCE // (max(len(self.x), self.n) * 4))
        nodes = [(float(p), float(w)) for p, w in zip(means.kept, means.weights, strict=True)]
        residuals = [w * self._residual(p)[0] for p, w in nodes]
        factors = [self._factors(everything, p, means.scale) for p, _ in nodes]
        while block := list(islice(prefixes, step)):
            units = torch.tensor(block, device=self.x.device)
            sizes = torch.zeros(len(block), self.n, dtype=torch.float64, device=self.x.device)
            for residual, factor in zip(residuals, factors, strict=True):
                inside = residual[:, None] * factor[:, units].prod(dim=2)
                sizes += inside.T @ factor
            sizes = sizes.abs()
            if ascending:
                sizes[everything <= units[:, -1:]] = -1.0
            else:
                sizes.scatter_(1, units, -1.0)
            top = torch.topk(sizes.ravel(), min(k, sizes.numel()))
            for place, value in zip(top.indices.tolist(), top.values.tolist(), strict=True):
                if value > 0:
                    s = tuple(sorted((*block[place // self.n], place % self.n)))
                    found[s] = value
            if len(found) > 4 * k:
                found = {s: found[s] for s in _strongest(found, k)}
        return _strongest(found, k)


def _strongest(sizes: dict[Set, float], k: int) -> list[Set]:
    return sorted(sizes, key=lambda s: (-sizes[s], s))[:k]


def _product(table: Float[Tensor, "row column"], vector: Float[Tensor, " column"]) -> Tensor:
    """In float64, block by block: the table may be large and is in float32."""
    step = max(1, _AT_ONCE // max(1, table.shape[1]))
    parts = [rows.to(vector) @ vector for rows in table.split(step)]
    return torch.cat(parts) if parts else vector.new_zeros(0)
