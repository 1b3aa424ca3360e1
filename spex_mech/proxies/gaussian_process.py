"""The distilled proxy: main effects, factorised pair effects and a rest, learned by kernels.

With x the indicator of what is ablated, less ``middle`` (0 where few units are ablated, so that
effects are those at the intact model; 1/2 where half are), the model is a Gaussian process, for all
prompts at once, with the covariance

    k(x, x') = main sum_i a_i x_i x'_i  +  pairs sum_(i<j) b_i b_j x_i x_j x'_i x'_j
             + rest exp(-reach sum_i b_i [x_i != x'_i])

Pair effects are factorised twice: their prior variance is ``b_i b_j``, and their posterior mean is
``b_i b_j sum_k weight_k x_ki x_kj`` over the masks k that were learned from, so that a scan over
all pairs is a blocked matrix product. The rest is what a wide network would be; its interactions of
any order have a closed form too, ``sum_k weight_k k0_k prod_(i in S) (...)``.

Where there are gradients, the one at the intact model stands for n single ablations more, as the
tangent predicts them, and those at single ablations are rows of pair effects (``screening.Rows``)
that take the place of the posterior means.

1. *Scales.* a, b and the four sizes are learned by gradient descent on the marginal likelihood of
   some masks (at most 1,000) and all prompts, with a normal prior on the logarithms of a and b.
2. *Weights.* One Cholesky factorisation over all masks.

A network in place of the rest was not taken: it needs a held-out set to know when to stop. On 900
units of a real model, half of them ablated, the held-out R² of the prompt mean is 0.51 from 500
masks and 0.66 from 2,000; boosted trees give 0.41 and 0.61. m masks cost ``m^2 (2 n + m / 3)``
multiplications and ``16 m^2 + 8 m n`` bytes. It fails where pairs are many and none stands out: m
masks then say little of each.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spex_mech.proxies.inputs import check_examples
from spex_mech.search.ledger import Set
from spex_mech.search.screening import Rows, largest_pairs, size

_STEPS = 80
_RATE = 0.1
_LEARNED_ON = 1000  # masks, for the scales
_LEARNED_ON_ENTRIES = 5_000_000  # units x masks, likewise
_PRIOR = 4.0  # precision of the normal prior on log-scales
_MOST_TANGENT = 300  # single ablations that the tangent stands for
_LEAST_NOISE = 1e-7  # of the variance of the values
_AT_ONCE = 4_000_000  # pairs scanned in one block
_EXACT_ENTRIES = 20_000_000  # beyond, products of masks are taken in float32
_ROUNDING = 1e-9


class Distilled:
    """A Gaussian process with learned unit scales as a stand-in of a set function.

    After ``fit``, ``about`` holds what was learned: the share of the prior variance that main
    effects, pairs, the rest and noise have, and the number of masks.

    Args:
        seed: of the masks that scales are learned on.
        device: where to compute, "cpu" or "cuda".
        steps: of gradient descent on the scales.
    """

    name = "distilled"
    learns_from_search = True  # needs no masks of its own, and reads rows of slopes

    def __init__(self, seed: int = 0, device: str = "cpu", steps: int = _STEPS) -> None:
        self.seed, self.device, self.steps = seed, device, steps
        self.about: dict[str, Any] = {}
        self.rows: Rows | None = None  # pair effects from gradients
        self._x: Tensor | None = None

    def fit(
        self,
        masks: Bool[np.ndarray, "mask unit"],
        values: Float[np.ndarray, "mask prompt"] | Float[np.ndarray, " mask"],
        rows: Rows | None = None,
    ) -> None:
        """Learn from masks (True = kept), their values and, if there are any, rows of slopes (then
        the intact model must be among the masks).

        Raises:
            ValueError: if there are no masks or no units, or a value is not finite.
        """
        check_examples(masks, values)
        table = values.reshape(len(masks), -1)
        self.rows = rows
        if rows is not None:
            masks, table = _with_tangent(masks, table, rows)
        y = torch.tensor(table, device=self.device, dtype=torch.float64)
        lost = torch.from_numpy(~masks).to(self.device)
        share = float(lost.double().mean())
        self._middle = 0.5 if share > 0.25 else 0.0
        # Where few units are ablated, effects start from the intact model's value if it is known.
        intact = ~lost.any(dim=1)
        start = y[intact] if self._middle == 0 and bool(intact.any()) else y
        self._mean = start.mean(0)
        y = y - self._mean
        self._spread = y.square().mean(0).sqrt()
        floor = _ROUNDING * float(self._mean.abs().max())
        self._x = lost.to(torch.float32)
        if float(self._spread.max()) <= floor:
            self._scales = _Scales.flat(lost.shape[1], self.device)
            self._weights = torch.zeros_like(y)
            self._factor = torch.eye(len(masks), device=self.device, dtype=torch.float64)
            self.about = {"n_masks": len(masks), "constant": True}
            return
        y = y / torch.where(self._spread > floor, self._spread, torch.ones_like(self._spread))
        self._scales = self._learned_scales(y)
        with torch.no_grad():
            covariance = self._scales.covariances(self._x, self._x, self._middle)
            covariance.diagonal().add_(self._scales.noise())
            self._factor = torch.linalg.cholesky(covariance)
            del covariance
            self._weights = torch.cholesky_solve(y, self._factor) * self._spread
        self.about = {"n_masks": len(masks), **self._scales.shares()}

    def predict(self, masks: Bool[np.ndarray, "mask unit"]) -> Float[np.ndarray, "mask prompt"]:
        """The values on each prompt."""
        x = self._fitted()
        new = torch.from_numpy(~masks).to(x)
        with torch.no_grad():
            across = self._scales.covariances(new, x, self._middle)
            return (across @ self._weights + self._mean).cpu().numpy()

    def uncertainty(self, masks: Bool[np.ndarray, "mask unit"]) -> Float[np.ndarray, " mask"]:
        """The posterior standard deviation of the prompt mean, were prompts alike."""
        x = self._fitted()
        new = torch.from_numpy(~masks).to(x)
        with torch.no_grad():
            across = self._scales.covariances(x, new, self._middle)
            solved = torch.linalg.solve_triangular(self._factor, across, upper=False)
            variance = self._scales.variance(new, self._middle) - solved.square().sum(0)
        spread = float(self._spread.mean())
        return variance.clamp_min(0).sqrt().cpu().numpy() * spread

    def propose(self, k: int, order: int = 2) -> list[tuple[Set, float]]:
        """The k strongest predicted interactions of 2 to ``order`` units at the intact model.

        Sets of three units and more are grown from the strongest predicted pairs.

        Returns:
            sets and signed interactions (alternating sums over ablated subsets) of the prompt mean,
            the strongest first; fewer than k where fewer are predicted to differ from zero.
        """
        n = self._fitted().shape[1]
        weights = self._weights.mean(1)
        pairs = largest_pairs(self._blocks(weights), n, min(k, n * (n - 1) // 2))
        found = self._interactions([(int(a), int(b)) for a, b in pairs])
        if self.rows is not None and self.rows.asked:
            known = self.rows.strongest(k)
            means = self.rows.predict(known).mean(axis=1)
            found |= dict(zip(map(tuple, known.tolist()), means.tolist(), strict=True))
        grown = list(found)
        for _ in range(3, order + 1):
            parents = sorted(grown, key=lambda s: -abs(found[s]))[: max(10, k // 10)]
            grown = self._grown(parents, weights, 4 * k)
            found |= self._interactions(grown)
        floor = _ROUNDING * float(self._spread.mean())
        ranked = sorted(found.items(), key=lambda item: (-abs(item[1]), item[0]))
        return [(s, v) for s, v in ranked if abs(v) > floor][:k]

    def fourier(self, k: int = 1000) -> dict[Set, float]:
        """The Fourier coefficients (``fourier``) of no unit, of all single units, and of the k
        pairs of largest coefficient, in closed form.

        Raises:
            ValueError: if it learned near the intact model: few masks there tell of half masks.
        """
        x = self._fitted()
        if not self._middle:
            raise ValueError(
                "this proxy learned near the intact model; Fourier coefficients need masks that "
                "ablate half of the units: distill(game, budget)"
            )
        n, weights = x.shape[1], self._weights.mean(1)
        with torch.no_grad():
            empty, single = self._scales.low_orders(x, weights)
            pairs = largest_pairs(self._blocks(weights, True), n, min(k, n * (n - 1) // 2))
            terms: dict[Set, float] = {(): float(empty + self._mean.mean())}
            terms |= {(u,): value for u, value in enumerate(single.tolist())}
            for a, b in pairs.tolist():
                both = self._scales.parity_terms(x, torch.tensor([a, b], device=x.device))
                of_pairs, of_rest = (part.double().prod(dim=1) for part in both)
                of_rest = of_rest * self._scales.parity_rest()
                size_of_pairs = self._scales.log_sizes[1].exp()
                terms[a, b] = float(weights @ (size_of_pairs * of_pairs + of_rest))
        return terms

    # -- inside ---------------------------------------------------------------------------------

    def _fitted(self) -> Tensor:
        if self._x is None:
            raise ValueError("this proxy has learned nothing yet: call fit(masks, values) first")
        return self._x

    def _learned_scales(self, y: Float[Tensor, "mask prompt"]) -> "_Scales":
        x = self._fitted()
        n_masks, n = x.shape
        scales = _Scales.flat(n, self.device)
        z = x - self._middle
        scales.unit = float(z.square().sum(1).mean()) or 1.0
        parameters = [scales.log_main, scales.log_pair, scales.log_sizes]
        for parameter in parameters:
            parameter.requires_grad_()
        optimizer = torch.optim.Adam(parameters, lr=_RATE)
        chosen = torch.Generator().manual_seed(self.seed)
        count = min(n_masks, _LEARNED_ON, max(100, _LEARNED_ON_ENTRIES // n))
        for _ in range(self.steps):
            at = torch.randperm(n_masks, generator=chosen)[:count].to(x.device)
            covariance = scales.covariance(x[at], x[at], self._middle)
            covariance = covariance + scales.noise() * torch.eye(
                count, device=x.device, dtype=torch.float64
            )
            factor, failed = torch.linalg.cholesky_ex(covariance)
            if failed:
                break
            weights = torch.cholesky_solve(y[at], factor)
            misfit = 0.5 * (y[at] * weights).sum() + y.shape[1] * factor.diagonal().log().sum()
            prior = scales.log_main.square().sum() + scales.log_pair.square().sum()
            optimizer.zero_grad()
            ((misfit + 0.5 * _PRIOR * prior) / count).backward()
            optimizer.step()
        for parameter in parameters:
            parameter.requires_grad_(False)
        return scales

    def _blocks(
        self, weights: Float[Tensor, " mask"], fourier: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The sizes of all pairs' interactions or Fourier coefficients, block by block."""
        x = self._fitted()
        n = x.shape[1]
        of_pairs = (self._scales.log_sizes[1].exp() * weights).float()
        of_rest = self._scales.parity_rest() if fourier else self._scales.at_intact(x)
        of_rest = (of_rest * weights).float()

        def terms(units: Tensor) -> tuple[Tensor, Tensor]:
            if fourier:
                return self._scales.parity_terms(x, units)
            return self._scales.terms(x, units, self._middle)

        step = max(1, int(_AT_ONCE**0.5))
        for top in range(0, n, step):
            rows = torch.arange(top, min(top + step, n), device=x.device)
            left = terms(rows)
            for start in range(top, n, step):
                columns = torch.arange(start, min(start + step, n), device=x.device)
                right = terms(columns)
                values = (left[0].T * of_pairs) @ right[0] + (left[1].T * of_rest) @ right[1]
                sizes = values.abs().cpu().numpy()
                if start == top:
                    sizes[np.tril_indices(len(sizes))] = -1.0
                first, second = rows.cpu().numpy(), columns.cpu().numpy()
                yield (
                    np.repeat(first, len(second)),
                    np.tile(second, len(first)),
                    sizes.ravel(),
                )

    def _interactions(self, sets: list[Set]) -> dict[Set, float]:
        """The alternating sums of the predictions, in closed form."""
        x, found = self._fitted(), {}
        weights = self._weights.mean(1)
        for s in sets:
            terms = self._scales.terms(x, torch.tensor(s, device=x.device), self._middle)
            found[s] = float(self._scales.set_mean(x, weights, terms))
        return found

    def _grown(self, parents: list[Set], weights: Float[Tensor, " mask"], count: int) -> list[Set]:
        """The sets of one unit more that the rest says interact most."""
        x = self._fitted()
        best: dict[Set, float] = {}
        for s in parents:
            inside = self._scales.terms(x, torch.tensor(s, device=x.device), self._middle)
            sizes = self._scales.grown_means(x, weights, inside, self._middle).abs()
            sizes[list(s)] = -1.0
            top = torch.topk(sizes, min(len(sizes), max(4, count // max(1, len(parents)))))
            for unit, value in zip(top.indices.tolist(), top.values.tolist(), strict=True):
                if value > 0:
                    best[tuple(sorted((*s, unit)))] = value
        return sorted(best, key=lambda s: (-best[s], s))[:count]


class _Scales:
    """The learned numbers of the covariance, and what follows from them.

    Args:
        unit: the mean of ``sum x_i^2`` over masks, so that a flat start has covariances near 1.
    """

    def __init__(self, log_main: Tensor, log_pair: Tensor, log_sizes: Tensor) -> None:
        self.log_main, self.log_pair, self.log_sizes = log_main, log_pair, log_sizes
        self.unit = 1.0

    @staticmethod
    def flat(n: int, device: str) -> "_Scales":
        exact = {"dtype": torch.float64, "device": device}
        start = torch.tensor(
            [0.0, -1.0, -1.0, -2.0, 0.0], **exact
        )  # main, pairs, rest, noise, reach
        return _Scales(torch.zeros(n, **exact), torch.zeros(n, **exact), start)

    def main(self) -> Float[Tensor, " unit"]:
        return torch.exp(2 * self.log_main) / self.unit

    def pair(self) -> Float[Tensor, " unit"]:
        return torch.exp(2 * self.log_pair) / self.unit

    def noise(self) -> Tensor:
        return self.log_sizes[3].exp() + _LEAST_NOISE

    def shares(self) -> dict[str, float]:
        names = ("main", "pairs", "rest", "noise")
        sizes = self.log_sizes[:4].detach().exp() * torch.tensor([1.0, 0.5, 1.0, 1.0]).to(
            self.log_sizes
        )
        shares = (sizes / sizes.sum()).tolist()
        return {name: round(share, 4) for name, share in zip(names, shares, strict=True)}

    def covariance(
        self, x: Float[Tensor, "mask unit"], other: Float[Tensor, "mask2 unit"], middle: float
    ) -> Float[Tensor, "mask mask2"]:
        """Without the noise; with its gradient."""
        exact = torch.float64 if max(x.numel(), other.numel()) <= _EXACT_ENTRIES else torch.float32
        a, b = self.main().to(exact), self.pair().to(exact)
        z = x.to(exact) - middle
        z2 = z if other is x else other.to(exact) - middle
        total = self.log_sizes[0].exp() * ((z * a) @ z2.T).double()
        alike = ((z * b) @ z2.T).double()
        total = total + 0.5 * self.log_sizes[1].exp() * alike.square()
        apart = (z.square() @ b).double()[:, None] + (z2.square() @ b).double() - 2 * alike
        return total + self.log_sizes[2].exp() * torch.exp(-self.log_sizes[4].exp() * apart)

    def covariances(
        self, x: Float[Tensor, "mask unit"], other: Float[Tensor, "mask2 unit"], middle: float
    ) -> Float[Tensor, "mask mask2"]:
        """The same block by block, without its gradient, in little memory."""
        whole = torch.empty(len(x), len(other), device=x.device, dtype=torch.float64)
        step = max(1, _EXACT_ENTRIES // max(1, len(other)))
        for start in range(0, len(x), step):
            rows = x[start : start + step]
            whole[start : start + step] = self.covariance(rows, other, middle)
        return whole

    def variance(self, x: Float[Tensor, "mask unit"], middle: float) -> Float[Tensor, " mask"]:
        """The prior variance of each mask's value."""
        squares = (x.double() - middle).square()
        main, pairs, rest = self.log_sizes[:3].exp()
        return main * (squares @ self.main()) + 0.5 * pairs * (squares @ self.pair()) ** 2 + rest

    def terms(
        self, x: Float[Tensor, "mask unit"], units: Tensor, middle: float
    ) -> tuple[Float[Tensor, "mask chosen"], Float[Tensor, "mask chosen"]]:
        """What ablating a unit multiplies a mask's part of an interaction with: of pairs, of the
        rest."""
        b = self.pair()[units].float()
        chosen = x[:, units]
        reach = float(self.log_sizes[4].exp())
        return (chosen - middle) * b, torch.expm1(-reach * b * (1 - 2 * chosen))

    def set_mean(
        self,
        x: Float[Tensor, "mask unit"],
        weights: Float[Tensor, " mask"],
        terms: tuple[Tensor, Tensor],
    ) -> Tensor:
        """The interaction of the units of ``terms``."""
        of_pairs, of_rest = terms
        total = (self.at_intact(x) * weights) @ of_rest.double().prod(dim=1)
        if of_pairs.shape[1] == 2:
            total = total + self.log_sizes[1].exp() * (weights @ of_pairs.double().prod(dim=1))
        return total

    def parity_terms(
        self, x: Float[Tensor, "mask unit"], units: Tensor
    ) -> tuple[Float[Tensor, "mask chosen"], Float[Tensor, "mask chosen"]]:
        """What a unit multiplies a mask's part of a Fourier coefficient with, masks being of half
        of the units: of pairs, of the rest."""
        b = self.pair()[units].float()
        sign = 2 * x[:, units] - 1  # of the parity: +1 where ablated
        reach = float(self.log_sizes[4].exp())
        return sign * b / 4, sign * torch.tanh(reach * b / 2)

    def parity_rest(self) -> Tensor:
        """The size of the rest times the mean of its factors over both states of every unit."""
        reach = self.log_sizes[4].exp()
        halves = (1 + torch.exp(-reach * self.pair())) / 2
        return self.log_sizes[2].exp() * halves.log().sum().exp()

    def low_orders(
        self, x: Float[Tensor, "mask unit"], weights: Float[Tensor, " mask"]
    ) -> tuple[Tensor, Float[Tensor, " unit"]]:
        """The Fourier coefficients of no unit and of each single one."""
        squares = (self.pair() ** 2).sum() / 16
        empty = (0.5 * self.log_sizes[1].exp() * squares + self.parity_rest()) * weights.sum()
        signs = weights @ (2 * x.double() - 1)
        tangents = torch.tanh(self.log_sizes[4].exp() * self.pair() / 2)
        single = self.log_sizes[0].exp() * self.main() / 4 * signs
        return empty, single + self.parity_rest() * tangents * signs

    def grown_means(
        self,
        x: Float[Tensor, "mask unit"],
        weights: Float[Tensor, " mask"],
        inside: tuple[Tensor, Tensor],
        middle: float,
    ) -> Float[Tensor, " unit"]:
        """The interactions of a set of two units and more with every further unit."""
        rest = self.at_intact(x) * weights * inside[1].double().prod(dim=1)
        parts = []
        for units in torch.arange(x.shape[1], device=x.device).split(2048):
            parts.append(rest.float() @ self.terms(x, units, middle)[1])
        return torch.cat(parts)

    def at_intact(self, x: Float[Tensor, "mask unit"]) -> Float[Tensor, " mask"]:
        """The rest's covariance of each mask with the intact model."""
        reach = self.log_sizes[4].exp()
        return self.log_sizes[2].exp() * torch.exp(-reach * (x @ self.pair().float()).double())


def _with_tangent(
    masks: Bool[np.ndarray, "mask unit"], values: Float[np.ndarray, "mask prompt"], rows: Rows
) -> tuple[Bool[np.ndarray, "more unit"], Float[np.ndarray, "more prompt"]]:
    """Single ablations as the slopes at the intact model predict them, for the units of largest
    slope whose own is not among the masks."""
    n_lost = (~masks).sum(axis=1)
    known = (~masks[n_lost == 1]).any(axis=0)
    ranked = np.argsort(-np.where(known, -1.0, size(rows.intact)), kind="stable")
    units = ranked[: min(int((~known).sum()), _MOST_TANGENT)]
    more = np.ones((len(units), masks.shape[1]), dtype=bool)
    more[np.arange(len(units)), units] = False
    block = np.arange(values.shape[1]) * rows.n_blocks // values.shape[1]
    predicted = values[n_lost.argmin()] - rows.intact[block][:, units].T
    return np.concatenate([masks, more]), np.concatenate([values, predicted])
