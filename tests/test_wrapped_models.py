"""Models that something else wraps, and what they return: values are those of a loop by hand."""

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spex_mech as sm
from tests.families import build
from tests.test_current_model import CLOSE, heads_gone
from tests.test_engine import some_masks, some_prompts


@dataclass(frozen=True)
class Answers:
    """What a model of one's own may return."""

    hidden: Tensor
    logits: Tensor
    note: str = "mine"


Named = namedtuple("Named", "hidden logits")


class Wrapped(nn.Module):
    """A model whose logits are handed on in something else, behind another tensor."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.inner, self.how = build("gpt2"), how

    def forward(self, tokens: Tensor) -> Any:
        logits = self.inner(tokens, use_cache=False).logits
        hidden = torch.zeros(len(tokens), 3)
        match self.how:
            case "dict":
                return {"hidden": hidden, "logits": logits}
            case "dataclass":
                return Answers(hidden, logits)
            case "namedtuple":
                return Named(hidden, logits)
        return object()


@pytest.mark.parametrize("how", ["dict", "dataclass", "namedtuple"])
def test_logits_are_found_by_their_name_in_whatever_holds_them(how: str) -> None:
    prompts, masks = some_prompts(), some_masks(5, 8)
    want = heads_gone(build("gpt2"), prompts, masks)
    game = sm.ModelGame(Wrapped(how), sm.Task(prompts, "logit_diff"), ablation="zero")
    torch.testing.assert_close(game(masks), want, **CLOSE)
    assert game.provenance()["passes"] == "replayed"
    assert 0 < game.noise_floor < 1e-4


def test_an_output_without_a_tensor_is_told() -> None:
    arch = sm.Architecture(
        heads=("inner.transformer.h.0.attn.c_proj", "inner.transformer.h.1.attn.c_proj"),
        neurons=(None, None), n_heads=4,
    )  # fmt: skip
    task = sm.Task(some_prompts(), "logit_diff")
    with pytest.raises(ValueError, match=r"the model returned object, in which no tensor"):
        sm.ModelGame(Wrapped("nothing"), task, architecture=arch)


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")]
)
def test_units_of_a_wrapped_model_are_those_of_the_model_inside(wrap: Any) -> None:
    model, prompts, masks = build("gpt2"), some_prompts(), some_masks(5, 8)
    wrapped = wrap(model)
    heads = sm.Components.heads(wrapped)
    assert sm.Components.named(wrapped, heads.labels).units == heads.units
    game = sm.ModelGame(wrapped, sm.Task(prompts, "logit_diff"), heads, ablation="zero")
    torch.testing.assert_close(game(masks), heads_gone(model, prompts, masks), **CLOSE)


class NoBackward(torch.autograd.Function):
    """A kernel that has no backward pass, as some of attention on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2


def refuses(module: nn.Module, args: Any, output: Tensor) -> None:
    if output.requires_grad:
        raise NotImplementedError("this attention does not support backward on CPU")


def has_no_backward(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return NoBackward.apply(output)


@pytest.mark.parametrize("hook", [refuses, has_no_backward])
def test_a_part_that_fails_with_gradients_leaves_the_values(hook: Any) -> None:
    model, prompts, masks = build("gpt2"), some_prompts(), some_masks(5, 8)
    model.transformer.h[1].mlp.register_forward_hook(hook)
    game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), ablation="zero")
    torch.testing.assert_close(game(masks), heads_gone(model, prompts, masks), **CLOSE)
    assert "fails where a gradient is asked for (NotImplementedError: " in game.why_no_slopes
    with pytest.raises(ValueError, match="fails where a gradient is asked for"):
        game.gradient(masks)
    with pytest.warns(UserWarning, match="the search does without gradients"):
        found = sm.discover(game, budget=60, progress=False)
    assert len(found)


# -- sparse tensors, and forwards that keep what they gave ----------------------------------------


@pytest.mark.parametrize("sparse", [Tensor.to_sparse, Tensor.to_sparse_csr])
@pytest.mark.filterwarnings("ignore:.*Sparse CSR")
def test_sparse_gates_and_references_are_those_numbers(sparse: Any) -> None:
    model, gates = build("gpt2"), some_masks(4, 8).float()
    task = sm.Task(some_prompts(), "logit_diff")
    game = sm.ModelGame(model, task, ablation="zero")
    values, slopes = game.value_and_gradient(sparse(gates))
    torch.testing.assert_close(slopes, game.gradient(gates))
    torch.testing.assert_close(values, game(gates.bool()), **CLOSE)
    given = {name: sparse(torch.zeros(1, 32)) for name in game.hook_points}
    same = sm.ModelGame(model, task, ablation=given)
    torch.testing.assert_close(same(gates.bool()), game(gates.bool()), **CLOSE)


def test_a_metric_may_give_a_sparse_tensor() -> None:
    def first(logits: Tensor, prompts: sm.Prompts) -> Tensor:
        return logits[:, -1, 0]

    dense, sparse = (
        sm.ModelGame(build("gpt2"), sm.Task(some_prompts(), metric), ablation="zero")
        for metric in (first, lambda logits, prompts: first(logits, prompts).to_sparse())
    )
    masks = some_masks(4, 8)
    torch.testing.assert_close(sparse(masks), dense(masks))


def test_gates_without_numbers_are_told() -> None:
    game = sm.ModelGame(build("gpt2"), sm.Task(some_prompts(), "logit_diff"), ablation="zero")
    with pytest.raises(ValueError, match="masks is on the device meta"):
        game.gradient(torch.ones(2, 8, device="meta"))
    with pytest.raises(TypeError, match="masks is a"):
        game.gradient(object())


def keeping(model: Any, of_each: bool) -> Any:
    """A patched forward: it gives again what it gave for the same input, or for any."""
    mlp, kept = model.transformer.h[0].mlp, {}
    original = mlp.forward

    def forward(x: Tensor) -> Tensor:
        key = (tuple(x.shape), float(x.double().sum())) if of_each else ()
        if key not in kept:
            kept[key] = original(x)
        return kept[key]

    mlp.forward = forward
    return model


def test_a_forward_that_keeps_what_it_gave_is_told() -> None:
    task = sm.Task(some_prompts(), "logit_diff")
    with pytest.raises(RuntimeError, match=r"h\.0\.mlp\.c_proj did not fire.*keeps what it gave"):
        sm.ModelGame(keeping(build("gpt2"), True), task, "heads+neurons", ablation="zero")
    with pytest.raises(
        ValueError, match=r"does not run on prompts of the shape \[1, 7\].*keep what it gave"
    ):
        sm.ModelGame(keeping(build("gpt2"), False), task, "heads+neurons", ablation="zero")


def test_a_model_that_leaves_layers_out_for_some_prompts_is_told() -> None:
    model, early = build("gpt2"), [False]
    block = model.transformer.h[1]
    original = block.forward
    block.forward = lambda x, *args, **kwargs: x if early[0] else original(x, *args, **kwargs)
    heads = sm.Components.heads(model)
    early[0] = True
    with pytest.raises(RuntimeError, match=r"h\.1\.attn\.c_proj did not run.*an early exit"):
        sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"), heads)
