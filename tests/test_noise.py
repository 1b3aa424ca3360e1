"""The noise floor where a metric rounds within, and where single values jump, as a token does that
goes to another expert: against the error of interactions."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import spex_mech as sm
from spex_mech.engine import noise
from tests.families import build
from tests.test_engine import some_prompts
from tests.test_experts import FAMILIES as MIXTURES

HALF = torch.bfloat16


def at_answer(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return logits[range(len(logits)), prompts.last]


def chosen(of: Tensor, prompts: sm.Prompts) -> Tensor:
    assert prompts.answers is not None and prompts.wrong_answers is not None
    return (of.gather(1, prompts.answers) - of.gather(1, prompts.wrong_answers))[:, 0]


def difference(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return chosen(at_answer(logits, prompts), prompts)


def in_half(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return chosen(at_answer(logits, prompts).half(), prompts).float()


def log_probs(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return chosen(at_answer(logits, prompts).log_softmax(-1), prompts)


def log_probs_in_half(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return chosen(at_answer(logits, prompts).to(HALF).log_softmax(-1), prompts).float()


def probability(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return chosen(at_answer(logits, prompts).softmax(-1), prompts)


def probability_in_half(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return chosen(at_answer(logits, prompts).softmax(-1).half().float(), prompts)


def rank(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    assert prompts.answers is not None
    at = at_answer(logits, prompts)
    return (at > at.gather(1, prompts.answers)).float().sum(-1)


def share_right(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return (logits[:, :-1].argmax(-1) % 2 == prompts.tokens[:, 1:] % 2).float().mean(-1)


def hinge(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return difference(logits, prompts).clamp(min=0.1)


def pairs_of(game: sm.Game) -> np.ndarray:
    """The interaction of each pair, averaged over prompts, from its four values."""
    n = len(game)
    sets = [(), *((i,) for i in range(n)), *combinations(range(n), 2)]
    masks = torch.ones(len(sets), n, dtype=torch.bool)
    for row, lost in zip(masks, sets, strict=True):
        row[list(lost)] = False
    value = dict(zip(sets, game(masks).mean(1).tolist(), strict=True))
    every = combinations(range(n), 2)
    return np.array([value[i, j] - value[i,] - value[j,] + value[()] for i, j in every])


def heads(metric: Any, n_prompts: int = 3, family: str = "llama") -> sm.ModelGame:
    return sm.ModelGame(build(family), sm.Task(some_prompts(n_prompts), metric), ablation="zero")


ROUNDING = {
    in_half: difference,
    log_probs_in_half: log_probs,
    probability_in_half: probability,
}


@pytest.mark.parametrize(
    ("metric", "n_prompts"),
    [(in_half, 1), (in_half, 12), (log_probs_in_half, 3), (probability_in_half, 3)],
)
def test_a_metric_that_rounds_within_has_a_floor_over_its_error(
    metric: Any, n_prompts: int
) -> None:
    game, exact = heads(metric, n_prompts), heads(ROUNDING[metric], n_prompts)
    error = np.abs(pairs_of(game) - pairs_of(exact))
    floor, usual = game.noise_floor, np.quantile(error, 0.95)
    assert usual > 20 * exact.noise_floor  # or nothing would be rounded
    assert (error <= floor).mean() > 0.9
    assert floor < 8 * usual
    assert game.coarse is not None and metric.__name__ in game.coarse.cause
    assert "changes in steps of about" in game.coarse.cause


@pytest.mark.parametrize("metric", [difference, log_probs, probability, hinge, rank, share_right])
def test_a_metric_that_is_smooth_or_counts_rounds_nothing(metric: Any) -> None:
    game = heads(metric)
    assert game.coarse is None
    assert game.noise_floor < 1e-4


def test_a_metric_that_refuses_what_no_model_gives_has_the_models_floor() -> None:
    def checked(logits: Tensor, prompts: sm.Prompts) -> Tensor:
        assert float(logits.abs().max()) < 1.01 * largest
        return difference(logits, prompts)

    model, prompts = build("llama"), some_prompts()
    with torch.no_grad():
        largest = 2 * float(model(prompts.tokens).logits.abs().max())
    game = sm.ModelGame(model, sm.Task(prompts, checked), ablation="zero")
    assert game.coarse is None and 0 < game.noise_floor < 1e-5


def test_words_by_a_metric_that_rounds_have_a_floor() -> None:
    def words(metric: Any) -> sm.TokenGame:
        task = sm.Task(some_prompts()[:1], metric)
        return sm.TokenGame(
            build("llama"), task, [[i] for i in range(1, 6)], masking="token", mask_id=3
        )

    game = words(in_half)
    error = np.abs(pairs_of(game) - pairs_of(words(difference)))
    assert game.noise_floor is not None and (error <= game.noise_floor).mean() > 0.9
    assert game.noise_floor < 8 * np.quantile(error, 0.95)
    assert game.coarse is not None and "in_half" in game.coarse.cause
    assert words(difference).noise_floor is None and words(difference).coarse is None


@pytest.mark.parametrize("jump", [0.0, 0.3])
def test_where_single_values_jump_more_masks_are_asked(
    jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def differences(engine: Any, plain: Any, n_masks: int, seed: int) -> tuple[Tensor, float]:
        asked.append(n_masks)
        off = 0.001 * torch.randn(n_masks, 3, generator=torch.Generator().manual_seed(seed))
        off[5, 1] += jump * (seed + 1)
        return off.double(), 1.0

    monkeypatch.setattr(noise, "_differences", differences)
    derived = heads("logit_diff")._current.derived
    floor = noise.noise_floor(derived.engine, derived.plain, 0.0, has_experts=False)
    if not jump:
        assert asked == [24] and 0.001 < floor < 0.004  # 3 roundings of four values of 3 prompts
        return
    assert len(asked) == 2
    assert floor > 0.6 / 3 and floor < 2 * 0.6 / 3  # the larger jump, of one of three prompts


@pytest.mark.parametrize(("dtype", "times"), [(torch.float32, 1), (HALF, 2)])
def test_more_masks_are_asked_of_a_mixture_in_half_precision(
    dtype: torch.dtype, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def differences(engine: Any, plain: Any, n_masks: int, seed: int) -> tuple[Tensor, float]:
        asked.append(n_masks)
        return torch.zeros(n_masks, 3, dtype=torch.float64), 1.0

    monkeypatch.setattr(noise, "_differences", differences)
    model = MIXTURES["mixtral"]().eval().to(dtype)
    model.set_experts_implementation("eager")
    game = sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"), "L0H0,L1H1")
    assert game.noise_floor > 0
    assert len(asked) == times


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, HALF])
@pytest.mark.parametrize("n_prompts", [3, 12])
def test_the_floor_of_a_mixture_in_half_precision_covers_its_error(
    dtype: torch.dtype, n_prompts: int
) -> None:
    within = []
    for seed in range(6):
        torch.manual_seed(seed)
        model = MIXTURES["mixtral"]().eval()
        model.set_experts_implementation("eager")
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim > 1 and "embed" not in name:
                    weight.normal_(0, 1.5 / max(weight.shape[-2:]) ** 0.5)
        task = sm.Task(some_prompts(n_prompts), "logit_diff")
        half = sm.ModelGame(model.to(dtype), task)
        got, floor = pairs_of(half), half.noise_floor
        error = np.abs(got - pairs_of(sm.ModelGame(model.float(), task)))
        within.append((error <= floor).mean())
    assert np.mean(within) >= 0.95
