"""The engine against a plain one, on every family; its invariances; what it leaves behind."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import spex_mech as sm
from tests.families import D_VOCAB, FAMILIES, MORE_FAMILIES, PlainEngine, build, logits


def some_prompts(n_prompts: int = 3, n_pos: int = 7) -> sm.Prompts:
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randint(3, D_VOCAB, shape, generator=generator)  # noqa: E731
    answers = draw(n_prompts)
    return sm.Prompts(
        draw(n_prompts, n_pos),
        answers=answers,
        wrong_answers=(answers + 1) % D_VOCAB,
        corrupted=draw(n_prompts, n_pos),
    )


def some_masks(n_masks: int, n_units: int, p_ablated: float = 0.2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    masks = torch.rand(n_masks, n_units, generator=generator) > p_ablated
    masks[0] = True
    masks[1] = False
    return masks


def all_units(model: Any) -> sm.Components:
    return sm.Components.heads(model) + sm.Components.neurons(model)


def a_game(family: str = "gpt2", **options: Any) -> sm.ModelGame:
    model = build(family)
    units = options.pop("components", None) or all_units(model)
    return sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"), units, **options)


ABLATIONS = ("zero", "mean", "mean_per_position", "resample")
# Families whose layout is that of another; what they add is among the slow tests.
ALIKE = ("mistral", "qwen2", "phi", "distilbert")
ONE_OF_A_KIND = [
    pytest.param(family, marks=pytest.mark.slow) if family in ALIKE else family
    for family in FAMILIES
]
CASES = [
    pytest.param(family, ablation, marks=pytest.mark.slow)
    if family in ALIKE and ablation != "mean"
    else (family, ablation)
    for family, ablation in [*product(FAMILIES, ABLATIONS), *product(MORE_FAMILIES, ["mean"])]
]


@pytest.mark.parametrize(("family", "ablation"), CASES)
def test_equals_one_hook_at_a_time(family: str, ablation: str) -> None:
    model, prompts = build(family), some_prompts()
    units = all_units(model)
    game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), units, ablation=ablation)
    masks = some_masks(6, len(units))
    got = game(masks)

    assert prompts.corrupted is not None
    plain = PlainEngine(family, model, prompts.tokens, prompts.corrupted)
    was_training, _ = model.training, model.eval()
    want = torch.empty(got.shape)
    for m, mask in enumerate(masks):
        lost = [(u.kind, u.layer, u.index) for u, keep in zip(units, mask, strict=True) if not keep]
        for p in range(len(prompts)):
            last = plain.logits(ablation, lost, p)[-1]
            want[m, p] = last[prompts.answers[p, 0]] - last[prompts.wrong_answers[p, 0]]
    model.train(was_training)
    torch.testing.assert_close(got.float(), want, rtol=1e-5, atol=1e-5)
    # Ablating must matter here, or the comparison would hold for an engine that does nothing.
    assert (got[1:] - got[0]).abs().min(dim=1).values.max() > 1e-3


@pytest.mark.parametrize("family", ONE_OF_A_KIND)
def test_gradient_is_the_slope_of_the_gates(family: str) -> None:
    model = build(family).double()
    game = sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"), all_units(model)[::7])
    generator = torch.Generator().manual_seed(3)
    gates = torch.rand(2, len(game), generator=generator, dtype=torch.float64) * 0.8 + 0.1
    slopes = game.gradient(gates)

    # OPT computes in float64 throughout and has ReLUs, whose kinks a larger step would cross; the
    # others are smooth, but normalise in float32, in which a smaller step drowns.
    step = 1e-6 if family == "opt" else 1e-3
    for unit in range(len(game)):
        up, down = gates.clone(), gates.clone()
        up[:, unit] += step
        down[:, unit] -= step
        high, low = game.value_and_gradient(up)[0], game.value_and_gradient(down)[0]
        finite = (high - low).mean(1) / (2 * step)
        torch.testing.assert_close(slopes[:, unit].double(), finite, rtol=2e-3, atol=2e-4)


def test_gates_of_0_and_1_are_masks() -> None:
    game = a_game()
    masks = some_masks(5, len(game))
    values, slopes = game.value_and_gradient(masks)
    torch.testing.assert_close(values, game(masks), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slopes, game.gradient(masks.float()))
    assert slopes.shape == (5, len(game))


def test_slopes_by_block_are_the_gradients_on_each_block_of_prompts() -> None:
    model = build("gpt2")
    prompts = some_prompts(10)
    units = all_units(model)[::3]
    game = sm.ModelGame(model, sm.Task(prompts, "loss"), units, ablation="zero")
    masks = some_masks(3, len(game))
    slopes = game.value_and_slopes(masks)[1]
    assert slopes.shape == (3, 8, len(game))
    torch.testing.assert_close(slopes.mean(1), game.gradient(masks))
    # 10 prompts in 8 blocks: the first holds 2, and counts so that the mean over blocks is right.
    first = sm.ModelGame(model, sm.Task(prompts[:2], "loss"), units, ablation="zero")
    want = first.gradient(masks) * (2 * 8 / 10)
    torch.testing.assert_close(slopes[:, 0], want, rtol=1e-4, atol=1e-6)


def test_batch_size_mask_order_and_unit_order_do_not_matter() -> None:
    game = a_game()
    masks = some_masks(9, len(game))
    want = game(masks)
    close = {"rtol": 1e-5, "atol": 1e-5}
    for batch_size in (1, 2, 5, 1000):
        torch.testing.assert_close(a_game(batch_size=batch_size)(masks), want, **close)
        slopes = a_game(batch_size=batch_size).gradient(masks)
        torch.testing.assert_close(slopes, game.gradient(masks), **close)
    torch.testing.assert_close(game(masks.flip(0)).flip(0), want, **close)
    shuffled = torch.randperm(len(game), generator=torch.Generator().manual_seed(4))
    other = a_game(components=game.components[shuffled.tolist()])
    torch.testing.assert_close(other(masks[:, shuffled]), want, **close)


def test_padding_changes_nothing() -> None:
    prompts = some_prompts()
    padded = sm.Prompts(
        torch.cat([prompts.tokens, torch.zeros(3, 4, dtype=torch.long)], dim=1),
        attention_mask=torch.arange(11).expand(3, -1) < 7,
        answers=prompts.answers,
        wrong_answers=prompts.wrong_answers,
    )
    for family in ("gpt2", "llama", "bert", "opt"):
        model = build(family)
        units = all_units(model)
        masks = some_masks(5, len(units))
        for ablation in ("mean", "mean_per_position"):
            games = [
                sm.ModelGame(model, sm.Task(p, "logit_diff"), units, ablation=ablation)
                for p in (prompts, padded)
            ]
            torch.testing.assert_close(games[0](masks), games[1](masks), rtol=1e-4, atol=1e-4)


def test_kv_group_is_its_query_heads_together() -> None:
    model = build("llama")
    groups = sm.Components.kv_groups(model)
    assert groups.labels == ["L0G0", "L0G1", "L1G0", "L1G1"]
    task = sm.Task(some_prompts(), "logit_diff")
    by_group = sm.ModelGame(model, task, groups)(torch.tensor([[True, False, True, True]]))
    heads = sm.ModelGame(model, task, sm.Components.heads(model))
    keep = torch.tensor([label not in ("L0H2", "L0H3") for label in heads.labels])
    torch.testing.assert_close(by_group, heads(keep[None]))


def test_given_references_are_used() -> None:
    game = a_game(ablation="mean")
    references = game.references
    assert list(references) == game.hook_points
    masks = some_masks(4, len(game))
    torch.testing.assert_close(a_game(ablation=references)(masks), game(masks))
    shifted = {name: ref + 1 for name, ref in references.items()}
    assert not torch.allclose(a_game(ablation=shifted)(masks), game(masks))


def test_reference_set_replaces_the_tasks_own_mean() -> None:
    model, task = build("gpt2"), sm.Task(some_prompts(), "logit_diff")
    other = sm.Prompts(torch.arange(3, 43).reshape(4, 10))
    masks = some_masks(4, 8)
    own, others = sm.ModelGame(model, task), sm.ModelGame(model, task, reference=other)
    assert not torch.allclose(own(masks)[1:], others(masks)[1:])
    torch.testing.assert_close(own(masks)[0], others(masks)[0])


def state_of(model: Any) -> dict[str, Any]:
    modules = list(model.modules())
    return {
        "hooks": [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in modules],
        "training": [m.training for m in modules],
        "weights": [p.detach().clone() for p in model.parameters()],
        "wants_grad": [p.requires_grad for p in model.parameters()],
        "has_grad": [p.grad is not None for p in model.parameters()],
    }


def assert_same_state(before: dict[str, Any], after: dict[str, Any]) -> None:
    torch.testing.assert_close(after.pop("weights"), before.pop("weights"), rtol=0, atol=0)
    assert after == before


class Interrupting:
    """A metric that works while the game is made and then fails in the middle of a run."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.left = error, 10**9

    def __call__(self, output: Tensor, prompts: sm.Prompts) -> Tensor:
        self.left -= 1
        if self.left <= 0:
            raise self.error
        return output[:, -1, 0]


@pytest.mark.parametrize("family", ["gpt2", "bridge_native", "bridge_llama"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken metric")])
def test_model_comes_back_as_it_was(family: str, error: BaseException) -> None:
    model = build(family).train()
    model.eval() if family == "gpt2" else None
    next(iter(model.modules())).training = True  # a mixture of flags, to be kept as it is
    logits(family, model, some_prompts().tokens)  # a bridge sets up hooks of its own at first
    before = state_of(model)
    metric = Interrupting(error)
    for replay in (True, False):
        game = sm.ModelGame(model, sm.Task(some_prompts(), metric), batch_size=2, replay=replay)
        for run in (game, game.gradient):
            metric.left = 3
            with pytest.raises(type(error)):
                run(some_masks(5, len(game)))
            metric.left = 10**9
    assert_same_state(before, state_of(model))


def test_train_mode_is_handled() -> None:
    """A model with dropout in train mode gives the values of evaluation mode."""
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=1, n_head=2, n_embd=8, vocab_size=D_VOCAB, resid_pdrop=0.5, embd_pdrop=0.5
    )
    model = transformers.GPT2LMHeadModel(config).train()
    game = sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"))
    masks = some_masks(3, len(game))
    torch.testing.assert_close(game(masks), game(masks), rtol=0, atol=0)
    assert model.training and model.transformer.drop.training


def test_out_of_memory_halves_the_batch_and_repeats_nothing(monkeypatch: Any) -> None:
    game = a_game(batch_size=8, replay=False)
    masks = some_masks(7, len(game))
    want = a_game(batch_size=8)(masks)
    taps = game._current.derived.taps
    run, seen = taps.run, []

    def out_of_memory(prompts: sm.Prompts, hooks: Any) -> Any:
        if len(prompts) > 4:
            raise torch.OutOfMemoryError("injected")
        seen.append(len(prompts))
        return run(prompts, hooks)

    monkeypatch.setattr(taps, "run", out_of_memory)
    torch.testing.assert_close(game(masks), want, rtol=1e-5, atol=1e-5)
    assert sum(seen) == 7 * 3 and game.batch_size == 4


def test_noise_floor_is_small_and_not_zero() -> None:
    game = a_game()
    values = game(some_masks(9, len(game)))
    spread = (values - values[0]).abs().max()
    assert 0 < game.noise_floor < 1e-4 * spread


def test_values_accept_numpy_and_lists() -> None:
    game = a_game()
    masks = some_masks(3, len(game))
    torch.testing.assert_close(game(masks.numpy()), game(masks), rtol=0, atol=0)
    torch.testing.assert_close(game(masks.tolist()), game(masks), rtol=0, atol=0)


def test_kl_is_zero_at_the_intact_model_and_negative_elsewhere() -> None:
    model = build("gpt2")
    game = sm.ModelGame(model, sm.Task(some_prompts(), "kl"), all_units(model))
    values = game(some_masks(4, len(game)))
    torch.testing.assert_close(values[0], torch.zeros_like(values[0]), rtol=0, atol=1e-6)
    assert (values[1:] < -1e-6).all()


def test_describe_tells_games_apart() -> None:
    game, same = a_game(), a_game()
    assert game.describe() == same.describe()
    with torch.no_grad():
        next(iter(same.model.parameters()))[0, 0] += 1
    changed = sm.ModelGame(same.model, same.task).describe()
    assert changed["weights_sha256"] != game.describe()["weights_sha256"]
    zero = a_game(ablation="zero").describe()
    assert zero["ablation"] != game.describe()["ablation"]
    assert np.isfinite(float(game.noise_floor))
