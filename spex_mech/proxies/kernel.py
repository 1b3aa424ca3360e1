"""The covariance of the Gaussian process: main effects, pairs that share factors, and a residual.

With x the indicator of what is ablated and z = x - ``centre``,

    k(x, x') = main sum_i a_i z_i z'_i  +  pairs / 2 (sum_i b_i z_i z'_i)^2
             + residual exp(-inverse_length sum_i b_i [x_i != x'_i])
"""

import torch
from jaxtyping import Float
from torch import Tensor

_LEAST_NOISE = 1e-7  # of the variance of the values
_EXACT_ENTRIES = 20_000_000  # beyond, products of masks are taken in float32


class Kernel:
    """The learned numbers of the covariance, and the covariances that follow from them.

    Args:
        log_main, log_pair: half the logarithms of ``a`` and ``b`` times ``unit``, ``[unit]``.
        log_sizes: logarithms of the sizes of main effects, pairs, residual and noise, and of the
            inverse length, ``[5]``.
        unit: the mean of ``sum z_i^2`` over masks, so that a flat start has covariances near 1.
        centre: 0 where few units are ablated, so that effects are those at the intact model; 1/2
            where half are.
    """

    def __init__(
        self,
        log_main: Tensor,
        log_pair: Tensor,
        log_sizes: Tensor,
        unit: float = 1.0,
        centre: float = 0.0,
    ) -> None:
        self.log_main, self.log_pair, self.log_sizes = log_main, log_pair, log_sizes
        self.unit, self.centre = unit, centre

    @staticmethod
    def flat(n: int, device: str, unit: float = 1.0, centre: float = 0.0) -> "Kernel":
        """All units alike: where learning starts."""
        exact = {"dtype": torch.float64, "device": device}
        sizes = torch.tensor([0.0, -1.0, -1.0, -2.0, 0.0], **exact)
        return Kernel(torch.zeros(n, **exact), torch.zeros(n, **exact), sizes, unit, centre)

    def main(self) -> Float[Tensor, " unit"]:
        """The prior variance of each main effect, in parts of its size."""
        return torch.exp(2 * self.log_main) / self.unit

    def pair(self) -> Float[Tensor, " unit"]:
        """What each unit brings to the prior variance of its pairs, and to the residual."""
        return torch.exp(2 * self.log_pair) / self.unit

    def noise(self) -> Tensor:
        """The variance of what no mask tells, in parts of the variance of the values."""
        return self.log_sizes[3].exp() + _LEAST_NOISE

    def sizes(self) -> tuple[float, float, float, float]:
        """The sizes of main effects, pairs and residual, and the inverse length."""
        main, pairs, residual, _, inverse_length = self.log_sizes.detach().exp().tolist()
        return main, pairs, residual, inverse_length

    def shares(self) -> dict[str, float]:
        """The share of the prior variance that each part has."""
        names = ("main", "pairs", "rest", "noise")
        sizes = self.log_sizes[:4].detach().exp() * torch.tensor([1.0, 0.5, 1.0, 1.0]).to(
            self.log_sizes
        )
        shares = (sizes / sizes.sum()).tolist()
        return {name: round(share, 4) for name, share in zip(names, shares, strict=True)}

    def covariance(
        self, x: Float[Tensor, "mask unit"], other: Float[Tensor, "mask2 unit"]
    ) -> Float[Tensor, "mask mask2"]:
        """Without the noise; with its gradient."""
        exact = torch.float64 if max(x.numel(), other.numel()) <= _EXACT_ENTRIES else torch.float32
        a, b = self.main().to(exact), self.pair().to(exact)
        z = x.to(exact) - self.centre
        z2 = z if other is x else other.to(exact) - self.centre
        total = self.log_sizes[0].exp() * ((z * a) @ z2.T).double()
        alike = ((z * b) @ z2.T).double()
        total = total + 0.5 * self.log_sizes[1].exp() * alike.square()
        apart = (z.square() @ b).double()[:, None] + (z2.square() @ b).double() - 2 * alike
        return total + self.log_sizes[2].exp() * torch.exp(-self.log_sizes[4].exp() * apart)

    def covariances(
        self, x: Float[Tensor, "mask unit"], other: Float[Tensor, "mask2 unit"]
    ) -> Float[Tensor, "mask mask2"]:
        """The same block by block, without its gradient, in little memory."""
        whole = torch.empty(len(x), len(other), device=x.device, dtype=torch.float64)
        step = max(1, _EXACT_ENTRIES // max(1, len(other)))
        for start in range(0, len(x), step):
            rows = x[start : start + step]
            whole[start : start + step] = self.covariance(rows, other)
        return whole

    def variance(self, x: Float[Tensor, "mask unit"]) -> Float[Tensor, " mask"]:
        """The prior variance of each mask's value."""
        squares = (x.double() - self.centre).square()
        main, pairs, residual = self.log_sizes[:3].exp()
        return (
            main * (squares @ self.main()) + 0.5 * pairs * (squares @ self.pair()) ** 2 + residual
        )
