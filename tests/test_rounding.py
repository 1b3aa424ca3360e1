"""The noise floor where half precision is not in the weights: in the output, the metric, one part,
or an autocast inside a forward.

The error is that of interactions, against the same model in float32. Each mended place was broken
once and seen here: the output's type, the metric's, those of a pass, and the rounding of a text.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spex_mech as sm
from tests.families import build
from tests.test_engine import some_prompts

HALF = torch.bfloat16
# By how many times the root mean square of an error may be under the floor, and not over it.
LEAST, MOST = 1.0, 60.0


def plain() -> Any:
    return build("llama")


def rounded_output() -> Any:
    """Its logits are in bfloat16 for a moment, and come as float32."""
    model = plain()
    model.lm_head.register_forward_hook(lambda module, args, out: out.to(HALF).float())
    return model


def output_in_half() -> Any:
    model = plain()
    model.lm_head.register_forward_hook(lambda module, args, out: out.to(HALF))
    return model


def head_in_half() -> Any:
    model = plain()
    model.lm_head.to(HALF)
    model.lm_head.register_forward_pre_hook(lambda module, args: (args[0].to(HALF),))
    return model


class InHalf(nn.Module):
    """A module that runs in bfloat16 and gives float32."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x.to(HALF)).float()


def activations_in_half() -> Any:
    """A part without weights, of which no unit reads."""
    model = plain()
    for layer in model.model.layers:
        layer.mlp.act_fn = InHalf(layer.mlp.act_fn)
    return model


def all_in_half() -> Any:
    """As accelerate prepares a model: an autocast in its forward, whose output is float32."""
    model = plain()
    forward = under_autocast(model.forward)

    @functools.wraps(model.forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits.float()
        return output

    model.forward = run
    return model


def under_autocast(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", dtype=HALF):
            return forward(*args, **kwargs)

    return run


def metric_in_half(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    assert prompts.answers is not None
    at = logits[range(len(logits)), prompts.last]
    return at.gather(1, prompts.answers)[:, 0].to(HALF)


def metric_in_full(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    assert prompts.answers is not None
    return logits[range(len(logits)), prompts.last].gather(1, prompts.answers)[:, 0]


def interactions(game: sm.Game) -> tuple[np.ndarray, float]:
    found = sm.discover(game, budget=60, gradients=False, progress=False, seed=0)
    return found.values.mean(axis=1), found.noise_floor


def heads(model: Any, metric: Any = "logit_diff") -> sm.ModelGame:
    return sm.ModelGame(model, sm.Task(some_prompts(), metric), ablation="zero")


def words(model: Any, metric: Any = "logit_diff", masking: str = "token") -> sm.TokenGame:
    task = sm.Task(some_prompts()[:1], metric)
    spans = [[place] for place in range(1, 6)]
    return sm.TokenGame(model, task, spans, masking=masking, mask_id=3)


def compare(half: sm.Game, full: sm.Game) -> None:
    (got, floor), (want, full_floor) = interactions(half), interactions(full)
    error = float(np.sqrt(((got - want) ** 2).mean()))
    assert error > 10 * full_floor  # or nothing would be rounded
    assert LEAST * error < floor < MOST * error


@pytest.mark.parametrize(
    "make", [rounded_output, output_in_half, head_in_half, activations_in_half]
)
@pytest.mark.filterwarnings("ignore:.*(cannot resolve|cannot be replayed)")
def test_the_floor_of_heads_is_over_what_rounding_makes(make: Any) -> None:
    game = heads(make())
    compare(game, heads(plain()))
    assert game.coarse is not None and "bfloat16" in game.coarse.cause


def test_a_metric_that_rounds_is_in_the_floor() -> None:
    compare(heads(plain(), metric_in_half), heads(plain(), metric_in_full))


@pytest.mark.parametrize(
    "make", [rounded_output, output_in_half, head_in_half, activations_in_half, all_in_half]
)
@pytest.mark.parametrize("masking", ["token", "mean"])
@pytest.mark.filterwarnings("ignore:.*cannot resolve")
def test_the_floor_of_words_is_over_what_rounding_makes(make: Any, masking: str) -> None:
    game = words(make(), masking=masking)
    compare(game, words(plain(), masking=masking))
    assert game.coarse is not None and "bfloat16" in game.coarse.cause


def test_full_precision_is_what_it_was() -> None:
    assert heads(plain()).coarse is None and heads(plain()).noise_floor < 1e-4
    assert words(plain()).coarse is None and words(plain()).noise_floor is None
