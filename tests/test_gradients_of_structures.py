"""Gradients of a game equal finite differences, on one type of each structure."""

from typing import Any

import pytest
import torch
from torch import Tensor

import spex_mech as sm
from tests.other_models import OTHERS
from tests.tiny import build, types_of

STEP = 0.01  # parts of most models compute in float32, whatever type they are in
TOKENS = torch.randint(3, 90, (2, 6), generator=torch.Generator().manual_seed(0))
# What is ablated in which model.
OF_TEXT = {
    "latent": ("deepseek_v3", "heads"),
    "gated": ("qwen3_next", "heads"),
    "hybrid": ("jamba", "heads+experts"),
    "experts": ("qwen3_moe", "experts"),
    "shared experts": ("glm4_moe", "heads+experts"),
}
OF_OTHERS = {"cross attention": ("bart", "decoder.L*XH*"), "vision": ("vit", "heads")}


def metric(output: Any, prompts: sm.Prompts) -> Tensor:
    flat = (output if isinstance(output, Tensor) else output.logits).double().flatten(1)
    return (flat @ torch.arange(flat.shape[1]).to(flat).mul(0.7).cos()).tanh() + flat.mean(1)


def check(model: Any, prompts: sm.Prompts, units: str, replay: bool | None) -> None:
    game = sm.ModelGame(model, sm.Task(prompts, metric), units, replay=replay, batch_size=32)
    generator = torch.Generator().manual_seed(1)
    gates = torch.rand(1, len(game), generator=generator, dtype=torch.float64) * 0.6 + 0.2
    got = game.gradient(gates)[0].double()
    wide, near = differences(game, gates, 2 * STEP), differences(game, gates, STEP)
    want = (4 * near - wide) / 3  # without the term of the third derivative
    assert want.abs().max() > 1e-3
    assert (got - want).abs().max() <= 1e-3 * want.abs().max()


def differences(game: sm.ModelGame, gates: Tensor, size: float) -> Tensor:
    """Of each gate alone, to both sides."""
    step = torch.eye(len(game), dtype=torch.float64) * size
    values = game.value_and_gradient(torch.cat([gates + step, gates - step]))[0].double()
    up, down = values.reshape(2, len(game), -1).mean(-1)
    return (up - down) / (2 * size)


@pytest.mark.slow
@pytest.mark.parametrize("replay", [None, False])
@pytest.mark.parametrize("structure", OF_TEXT)
def test_of_text(structure: str, replay: bool | None) -> None:
    kind, units = OF_TEXT[structure]
    model = build(kind, types_of("CAUSAL_LM")[kind])
    check(model, sm.Prompts(TOKENS), units, replay)


@pytest.mark.slow
@pytest.mark.parametrize("replay", [None, False])
@pytest.mark.parametrize("structure", OF_OTHERS)
def test_of_other_models(structure: str, replay: bool | None) -> None:
    name, units = OF_OTHERS[structure]
    other = OTHERS[name]
    check(other.build(), other.prompts()[:2], units, replay)
