"""How finely values can be told apart: found in the values, against interactions that are 0."""

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.search.resolution import Resolution


def additive(
    dtype: torch.dtype, n_prompts: int, back: torch.dtype | None = None
) -> sm.Interactions:
    """An additive function whose values are of this type, and handed over as another: every
    interaction is 0, and what is seen of it is rounding."""
    rng = np.random.default_rng(0)
    main = torch.from_numpy(rng.standard_normal((30, n_prompts)))

    def game(keep: torch.Tensor) -> torch.Tensor:
        values = (3 + (~keep).double() @ main).to(dtype)
        return values if back is None else values.to(back)

    return sm.discover(game, "exhaustive", n=30, progress=False)


@pytest.mark.parametrize("n_prompts", [1, 8])
@pytest.mark.parametrize(
    ("dtype", "back", "name"),
    [
        (torch.float64, None, "float64"),
        (torch.float32, None, "float32"),
        (torch.float16, None, "float16"),
        (torch.bfloat16, None, "bfloat16"),
        (torch.bfloat16, torch.float32, "bfloat16"),
        (torch.float16, torch.float64, "float16"),
    ],
)
def test_no_rounding_is_taken_for_an_interaction(
    dtype: torch.dtype, back: torch.dtype | None, name: str, n_prompts: int
) -> None:
    found = additive(dtype, n_prompts, back)
    assert found.about["resolution"] == name
    assert found.is_noise.all()
    assert found.noise_floor < 30 * max(abs(found.values).max(), 10 * torch.finfo(dtype).eps)


def test_values_of_three_decimals() -> None:
    rng = np.random.default_rng(1)
    main = rng.standard_normal(30)

    def game(keep: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.round(3 + (~keep).double().numpy() @ main, 3))

    found = sm.discover(game, "exhaustive", n=30, progress=False)
    assert found.about["resolution"] == "3 decimals" and found.noise_floor == 0.002
    assert abs(found.mean).max() > 1e-4 and found.is_noise.all()


@pytest.mark.parametrize("step", [1.0, 0.5, 1 / 20, 1 / 64])
def test_counts_and_shares_lose_nothing(step: float) -> None:
    """The accuracy of 20 prompts, or a count, is exact: its floor is that of a plain number."""
    resolution = Resolution()
    resolution.see(step * np.random.default_rng(2).integers(-60, 60, (100, 3)).astype(float))
    assert resolution.name in ("float32", "float64")
    assert resolution.floor < 2e-4 * step


def test_few_values_are_no_grid() -> None:
    resolution = Resolution()
    resolution.see(np.array([[0.125, 0.375], [0.5, 1.25]]))
    assert resolution.name == "float32"


@pytest.mark.parametrize(
    ("offset", "kind"),
    [
        (1500, torch.float16), (3000, torch.float16), (5000, torch.float16),
        (200, torch.bfloat16), (400, torch.bfloat16), (900, torch.bfloat16),
    ],
)  # fmt: skip
def test_half_precision_beyond_its_whole_numbers_is_no_integer(
    offset: float, kind: torch.dtype
) -> None:
    """There all values are whole, in steps of one and more."""
    weights = 3 * torch.randn(12, generator=torch.Generator().manual_seed(0))

    def game(masks: torch.Tensor) -> torch.Tensor:
        return (masks.float() @ weights + offset).to(kind)

    found = sm.discover(game, n=12, method="exhaustive", progress=False)
    assert (abs(found.mean) <= found.noise_floor).all()


@pytest.mark.parametrize("step", [3000.0, 4096.0, 2560.0])
def test_few_sums_of_a_large_step_are_exact(step: float) -> None:
    """All of them are numbers of half precision too, by chance."""
    found = sm.discover(
        lambda keep: step * keep.double().sum(dim=1), n=6, method="exhaustive", progress=False
    )
    assert found.about["resolution"] == "float32" and found.noise_floor < 0.1


def test_large_integers_are_exact() -> None:
    resolution = Resolution()
    resolution.see(np.random.default_rng(0).integers(2000, 5000, (50, 4)).astype(float))
    assert resolution.name == "float32"
