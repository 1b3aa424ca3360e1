"""Memory that runs out, wherever it does: fewer rows are taken at a time, and the values stay."""

from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.engine.architectures import architecture_of
from spex_mech.engine.device import rows_with_gradients
from tests.by_hand import take_at_most
from tests.families import D_VOCAB, build
from tests.test_experts import build as of_experts

MOST = 7  # rows that the model takes


def made(family: str) -> Any:
    return build(family) if family == "llama" else of_experts(family)


def short_of_memory(family: str) -> Any:
    model = made(family)
    take_at_most(model.get_submodule("model.layers.1.mlp"), MOST)
    return model


def many_prompts(metric: str) -> sm.Task:
    tokens = torch.randint(3, D_VOCAB, (16, 6), generator=torch.Generator().manual_seed(0))
    corrupted = tokens.roll(1, dims=0)
    wrong = (tokens[:, 0] + 8) % (D_VOCAB - 3) + 3
    answers = {"answers": tokens[:, 0], "wrong_answers": wrong}
    return sm.Task(sm.Prompts(tokens, corrupted=corrupted, **answers), metric)


@pytest.mark.parametrize(
    "family, units, metric, options",
    [
        ("llama", "heads", "logit_diff", {}),
        ("llama", "heads", "kl", {"ablation": "resample"}),
        ("llama", "heads", "log_prob", {"replay": False, "ablation": "mean_per_position"}),
        ("mixtral", "experts", "logit_diff", {"batch_size": 24}),
    ],
)
def test_a_game_of_more_prompts_than_a_pass_takes(
    family: str, units: str, metric: str, options: dict[str, Any]
) -> None:
    """References, the intact distribution of a KL, how often the model is right, the use of
    experts: all are passes over the prompts."""
    found = []
    for make in (made, short_of_memory):
        game = sm.ModelGame(make(family), many_prompts(metric), units, **options)
        found.append(sm.discover(game, "exhaustive", progress=False))
    plenty, short = found
    largest = abs(plenty.main_effects).max()
    assert largest > 0
    np.testing.assert_allclose(short.values, plenty.values, rtol=0, atol=1e-5 * largest)
    assert short.about["accuracy"] == plenty.about["accuracy"]


def test_passes_are_no_larger_than_the_batch_size() -> None:
    """Also those that the game itself makes."""
    seen: list[int] = []
    model = build("llama")
    hook = model.model.layers[1].mlp.register_forward_pre_hook(
        lambda module, args: seen.append(len(args[0]))
    )
    sm.ModelGame(model, many_prompts("kl"), batch_size=8).ablating(np.array([[0], [3]]))
    hook.remove()
    assert max(seen) == 8


def test_a_wide_model_keeps_fewer_rows_for_a_backward_pass() -> None:
    cpu = torch.device("cpu")
    assert rows_with_gradients(128, cpu, 1000) == 128
    # 460,000 numbers at 6 positions, 6 of 4 bytes kept for each: 66 MB a row, of 2 GB.
    assert rows_with_gradients(341, cpu, 6 * 460_000) == 32
    assert rows_with_gradients(341, cpu, 10**9) == 1
    arch = architecture_of(build("gpt2"))
    heads = sum(arch.count("head", at) * arch.d_head[at] for at in range(arch.n_layers))
    assert arch.width == heads + sum(arch.d_mlp) > 0
