"""The package on two pretended GPUs (``pretended_gpu``): its values are those of the CPU.

``test_pretended_gpus`` runs these in a process of their own, and so can you; some are slow:

    python -m tests.on_pretended_gpus
    python -m tests.on_pretended_gpus -m "slow or not slow"
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    from tests import pretended_gpu

    if reason := pretended_gpu.why_not():
        sys.exit(f"no pretended GPU: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        pretended_gpu.load(Path(folder))
    import pytest

    # The class of tensors is this file's as a module, not as a script.
    # Without the types that are checked in other tests, which takes twice the time.
    sys.exit(pytest.main(["-q", "--noconftest", "-p", "no:cacheprovider", __file__, *sys.argv[1:]]))

import accelerate
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spex_mech as sm
from tests.by_hand import take_at_most
from tests.families import D_VOCAB, build
from tests.pretended_gpu import devices, moved
from tests.test_experts import build as of_experts

OnCard, waits = devices()
Placed = Callable[[nn.Module], nn.Module]


def one_gpu(model: nn.Module) -> nn.Module:
    return moved(model, lambda name: "cuda:0")


def two_gpus(model: nn.Module) -> nn.Module:
    """The last block and the last norm on the second; tied weights stay on the first."""
    tied = model.config.tie_word_embeddings
    second = {"1", "ln_f", "norm", "final_layer_norm"} | (set() if tied else {"lm_head"})
    places = {
        name: int(bool({name.split(".")[-1]} & second))
        for name, module in model.named_modules()
        if name.split(".")[-1].isdigit() or not list(module.children())
        if not any(part.isdigit() for part in name.split(".")[:-1])
        if list(module.parameters()) or list(module.buffers())
    }
    assert set(places.values()) == {0, 1}
    return accelerate.dispatch_model(model, places)


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


def task(device: str, metric: Any = "logit_diff") -> sm.Task:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randint(3, D_VOCAB, (6, 8), generator=generator).to(device) for _ in range(2)]
    tokens, corrupted = drawn
    answers = {"answers": tokens[:, 0], "wrong_answers": tokens[:, 1]}
    return sm.Task(sm.Prompts(tokens, **answers, corrupted=corrupted), metric)


def on_both(
    family: str,
    ask: Callable[[nn.Module, str], Any],
    placed: Placed,
    make: Callable[[str], Any] = build,
) -> tuple[Any, Any]:
    here, there = make(family), placed(make(family))
    return ask(here, "cpu"), ask(there, "cuda:0")


def agree(one: Any, other: Any, within: float = 1e-5) -> None:
    """To a share of the largest."""
    one, other = (np.asarray(x.cpu() if isinstance(x, Tensor) else x) for x in (one, other))
    np.testing.assert_allclose(other, one, rtol=0, atol=within * max(1e-3, abs(one).max()))


def values_of(**options: Any) -> Callable[[nn.Module, str], Any]:
    """The metric of every single unit and of every pair of units."""
    metric = options.pop("metric", "logit_diff")

    def ask(model: nn.Module, device: str) -> Any:
        game = sm.ModelGame(model, task(device, metric), **options)
        assert str(game.device) == device
        n = len(game)
        return game.ablating(np.array([(a, b) for a in range(n) for b in range(a, n)]))

    return ask


def test_a_tensor_of_another_device_is_refused() -> None:
    """Otherwise nothing here would prove anything."""
    one, other = torch.ones(3, device="cuda:0"), torch.ones(3, device="cuda:1")
    assert isinstance(one, OnCard) and str(one.device) == "cuda:0"
    for wrong in (other, torch.ones(3)):
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            one + wrong
    with pytest.raises((TypeError, RuntimeError)):
        one.numpy()


@pytest.mark.parametrize(
    "family, placed",
    [("gpt2", two_gpus), ("llama", one_gpu), slow("gpt2", one_gpu), slow("llama", two_gpus)]
    + [slow(name, on) for name in ("gemma2", "gpt_neox", "opt") for on in (one_gpu, two_gpus)],
)
def test_all_pairs_of_heads(family: str, placed: Placed) -> None:
    agree(*on_both(family, values_of(), placed))


@pytest.mark.parametrize(
    "ablation, replay, placed",
    [
        ("resample", True, two_gpus),
        ("mean_per_position", False, one_gpu),
        slow("zero", True, two_gpus),
        slow("mean_per_position", True, one_gpu),
        slow("resample", False, two_gpus),
    ],
)
def test_ablations(ablation: str, replay: bool, placed: Placed) -> None:
    agree(*on_both("llama", values_of(ablation=ablation, replay=replay), placed))


def own_metric(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return logits[:, -1].softmax(-1).square().sum(-1) + prompts.tokens[:, 0] / 1000


@pytest.mark.parametrize(
    "metric, placed",
    [("kl", two_gpus), (own_metric, two_gpus)]
    + [slow(name, two_gpus) for name in ("prob_diff", "log_prob", "loss")],
)
def test_metrics(metric: Any, placed: Placed) -> None:
    # A divergence is a difference of numbers that are much larger.
    within = 3e-4 if metric == "kl" else 1e-5
    agree(*on_both("gpt2", values_of(metric=metric), placed), within)


@pytest.mark.parametrize(
    "family, replay, placed",
    [
        ("gpt2", True, two_gpus),
        ("llama", False, one_gpu),
        slow("llama", True, two_gpus),
        slow("gpt2", False, two_gpus),
    ],
)
def test_slopes(family: str, replay: bool, placed: Placed) -> None:
    def ask(model: nn.Module, device: str) -> Any:
        game = sm.ModelGame(model, task(device), "heads+neurons", replay=replay)
        kept = torch.rand(5, len(game), generator=torch.Generator().manual_seed(0)) < 0.7
        return game.slopes_at(kept).slopes

    agree(*on_both(family, ask, placed))


@pytest.mark.parametrize("method, placed", [("spex", two_gpus), slow("proxyspex", two_gpus)])
def test_searches(method: str, placed: Placed) -> None:
    """The same pairs, from the same questions."""

    def ask(model: nn.Module, device: str) -> sm.Interactions:
        game = sm.ModelGame(model, task(device), "heads+neurons")
        return sm.discover(game, method, budget=160, progress=False)

    here, there = on_both("llama", ask, placed)
    assert {*here.top(10).names} == {*there.top(10).names}
    agree([here.value(*pair) for pair in here.top(10).names],
          [there.value(*pair) for pair in here.top(10).names])  # fmt: skip


@pytest.mark.slow
def test_experts() -> None:
    agree(*on_both("mixtral", values_of(components="experts"), one_gpu, of_experts))


def test_attention_patterns() -> None:
    def ask(model: nn.Module, device: str) -> Any:
        return sm.ModelGame(model, task(device)).attention_patterns("L1H0", 0, ["L0H0"])

    agree(*on_both("gpt2", ask, two_gpus))


@pytest.mark.slow
def test_half_precision_is_said_to_be_coarse() -> None:
    torch.manual_seed(0)
    game = sm.ModelGame(one_gpu(build("llama")), task("cuda:0"), precision="bfloat16")
    fine = sm.ModelGame(one_gpu(build("llama")), task("cuda:0"))
    assert game.coarse is not None and game.noise_floor > 50 * fine.noise_floor


def test_tokens() -> None:
    def ask(model: nn.Module, device: str) -> Any:
        one = task(device)
        answers = {"answers": torch.tensor([4]), "wrong_answers": torch.tensor([9])}
        inputs = sm.Task(sm.Prompts(one.prompts.tokens[:1], **answers), "logit_diff")
        game = sm.TokenGame(model, inputs, masking="mean")
        return sm.discover(game, "exhaustive", progress=False).values

    agree(*on_both("llama", ask, one_gpu))


@pytest.mark.parametrize("replay", [True, slow(False)])
def test_running_out_of_memory_makes_smaller_passes(replay: bool) -> None:
    """Of more than 7 rows at a time, which the model does not take."""

    def ask(model: nn.Module, device: str) -> Any:
        game = sm.ModelGame(model, task(device), replay=replay, batch_size=48)
        if device != "cpu":
            take_at_most(model.model.layers[1].mlp.down_proj, 7)
            game = sm.ModelGame(model, task(device), replay=replay, batch_size=48)
        found = sm.discover(game, "exhaustive", progress=False)
        assert device == "cpu" or game.batch_size is None or game.batch_size <= 7
        return found.values

    agree(*on_both("llama", ask, one_gpu))


def test_the_host_waits_as_often_for_many_masks_as_for_few() -> None:
    """Within a batch nothing waits: how often the host does so follows the number of batches."""
    torch.manual_seed(0)
    model = one_gpu(build("llama"))
    game = sm.ModelGame(model, task("cuda:0"), "heads+neurons", batch_size=4096)
    pairs = torch.combinations(torch.arange(len(game)), 2).numpy()

    def waits_of(n_masks: int) -> int:
        game.ablating(pairs[:n_masks])
        waits.clear()
        game.ablating(pairs[:n_masks])
        return waits.total()

    few, many = waits_of(20), waits_of(400)
    assert 0 < few and many <= few + 2
