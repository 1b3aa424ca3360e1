"""What a model does to the rows of a pass, and what is wrapped around it: told, where values would
not be those of one prompt at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import spex_mech as sm
from tests.families import D_MLP, D_MODEL, D_VOCAB, N_HEADS, N_LAYERS, build
from tests.test_current_model import CLOSE, heads_gone
from tests.test_engine import some_masks, some_prompts

Forward = Callable[[Any, Tensor, Tensor | None], Tensor]


class Wrapped(nn.Module):
    """A model whose rows are handed on otherwise."""

    def __init__(self, family: str, forward: Forward) -> None:
        super().__init__()
        self.inner, self.way = build(family), forward

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.way(self.inner, input_ids, attention_mask)


def in_parts(size: int) -> Forward:
    return lambda model, ids, mask: torch.cat(
        [model(part, use_cache=False).logits for part in ids.split(size)]
    )


def sorted_by_token(model: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    order = ids.sum(dim=1).argsort()
    return model(ids[order], use_cache=False).logits[order.argsort()]


def all_together(model: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    return model(ids, use_cache=False).logits


def a_task(n_prompts: int = 8, **options: Any) -> sm.Task:
    return sm.Task(some_prompts(n_prompts), "logit_diff")


@pytest.mark.parametrize("replay", [None, False])
def test_a_model_that_runs_its_rows_in_parts_is_told(replay: bool | None) -> None:
    model, task, masks = Wrapped("gpt2", in_parts(6)), a_task(), some_masks(5, 8)
    with pytest.raises(ValueError, match=r"run on 6 of the [0-9]+ rows .* give batch_size=6"):
        sm.ModelGame(model, task, ablation="zero", replay=replay)
    game = sm.ModelGame(model, task, ablation="zero", replay=replay, batch_size=6)
    torch.testing.assert_close(game(masks), heads_gone(model.inner, task.prompts, masks), **CLOSE)


@pytest.mark.parametrize("replay", [None, False])
def test_a_model_that_puts_its_rows_in_another_order_is_told(replay: bool | None) -> None:
    model, task, masks = Wrapped("gpt2", sorted_by_token), a_task(), some_masks(5, 8)
    with pytest.raises(ValueError, match=r"gives rows other values .* give batch_size=1"):
        sm.ModelGame(model, task, ablation="zero", replay=replay)
    game = sm.ModelGame(model, task, ablation="zero", replay=replay, batch_size=1)
    torch.testing.assert_close(game(masks), heads_gone(model.inner, task.prompts, masks), **CLOSE)


def test_what_is_ready_for_each_prompt_of_one_batch_is_told() -> None:
    """A vector for each of 24 prompts, alike for the first 16, whatever rows a pass has."""
    vectors = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(0))
    of_row = vectors[[0, 0, 1]].repeat_interleave(8, dim=0)

    def steer(module: nn.Module, args: Any, out: Any) -> Any:
        rows = torch.arange(len(out)).clamp(max=len(of_row) - 1)
        return out + of_row[rows][:, None]

    model = build("gpt2")
    model.transformer.h[0].mlp.register_forward_hook(steer)
    with pytest.raises(ValueError, match=r"a vector or an adapter for each prompt"):
        sm.ModelGame(model, a_task(24), ablation="zero")


def test_rows_that_differ_by_rounding_or_chance_are_no_order() -> None:
    def drawn(logits: Tensor, prompts: sm.Prompts) -> Tensor:
        return logits[:, -1, 5].float() + torch.randn(len(logits))

    task = sm.Task(some_prompts(8), drawn)
    sm.ModelGame(build("gpt2"), task, ablation="zero", replay=False)
    sm.ModelGame(build("llama").to(torch.bfloat16), a_task(), ablation="zero")


# -- padding --------------------------------------------------------------------------------------


def padded_task(metric: Any = "logit_diff") -> sm.Task:
    prompts = some_prompts(4)
    real = torch.ones(4, 7, dtype=torch.long)
    real[1, 4:] = real[2, 6:] = 0
    return sm.Task(sm.Prompts(prompts.tokens, real, prompts.answers, prompts.wrong_answers), metric)


READS_PADDING: dict[str, tuple[str, Forward]] = {
    "the mask is dropped": ("bert", lambda model, ids, mask: model(ids).logits),
    "the last of all positions": (
        "gpt2",
        lambda model, ids, mask: model(ids, attention_mask=mask, use_cache=False).logits[:, -1],
    ),
}


@pytest.mark.parametrize("how", READS_PADDING)
def test_a_value_that_padding_changes_is_told(how: str) -> None:
    model = Wrapped(*READS_PADDING[how])
    with pytest.warns(UserWarning, match=r"prompt 1 has the value .* Wrapped reads padding"):
        sm.ModelGame(model, padded_task(), ablation="zero")


def of_last(output: Any, prompts: sm.Prompts) -> Tensor:
    logits = output if isinstance(output, Tensor) else output.logits
    return logits[range(len(logits)), prompts.last].square().mean(dim=-1)


def test_a_metric_of_ones_own_is_told_of_a_model_that_reads_padding() -> None:
    model = Wrapped(*READS_PADDING["the mask is dropped"])
    with pytest.warns(UserWarning, match=r"prompt 1 has the output .* Wrapped reads padding"):
        sm.ModelGame(model, padded_task(of_last), ablation="zero")


class Scaled(nn.Module):
    """A model that reads something else beside tokens, and attends to padding as PaliGemma does
    where nobody says which tokens are of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build("bert")

    def forward(self, input_ids: Tensor, attention_mask: Any = None, scale: Any = None) -> Tensor:
        return self.inner(input_ids).logits * scale[:, None]


def test_padding_is_compared_where_prompts_hold_other_inputs() -> None:
    task = padded_task()
    told = task.prompts.replaced(inputs={"scale": torch.ones(4, 1)})
    with pytest.warns(UserWarning, match=r"prompt 1 has the value .* Scaled reads padding"):
        sm.ModelGame(Scaled(), sm.Task(told, "logit_diff"), ablation="zero")


@pytest.mark.parametrize("metric", ["logit_diff", of_last])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "bridge_gpt2"])
def test_padding_that_is_left_out_is_no_matter(family: str, metric: Any) -> None:
    task = padded_task(metric)
    if family == "llama":  # which are cut as the tokens are
        inputs = {"position_ids": torch.arange(7).expand(4, 7).clone()}
        task = sm.Task(task.prompts.replaced(inputs=inputs), metric)
    sm.ModelGame(build(family), task, ablation="zero", replay=False)


# -- what is wrapped around -----------------------------------------------------------------------


class NNsight:
    """As nnsight keeps a model, and what model.edit() wrote."""

    def __init__(self, model: nn.Module) -> None:
        self._module, self._default_mediators = model, ["model.layers[0].output[:] = 0"]


class Zero(nn.Module):
    is_source_constant = True


class IntervenableModel(nn.Module):
    """As pyvene keeps a model, and its interventions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.interventions = model, nn.ModuleDict({"layer_0": Zero()})


def with_a_hook(wrapper: nn.Module) -> nn.Module:
    wrapper.register_forward_hook(lambda module, args, out: out)
    return wrapper


AROUND: dict[str, tuple[Callable[[nn.Module], Any], str]] = {
    "compiled": (lambda m: with_a_hook(torch.compile(m, backend="eager")), "the hooks"),
    "parallel": (lambda m: with_a_hook(nn.DataParallel(m)), "the hooks"),
    "nnsight": (NNsight, "the edits of the NNsight"),
    "pyvene": (IntervenableModel, "the interventions of the IntervenableModel"),
}


@pytest.mark.parametrize("how", AROUND)
def test_what_a_wrapper_does_is_left_out_and_told(how: str) -> None:
    wrap, told = AROUND[how]
    task, masks = a_task(3), some_masks(4, 8)
    with pytest.warns(UserWarning, match=f"{told}.* left out here: games run the GPT2LMHeadModel"):
        game = sm.ModelGame(wrap(build("gpt2")), task, ablation="zero")
    want = heads_gone(build("gpt2"), task.prompts, masks)
    torch.testing.assert_close(game(masks), want, **CLOSE)


# -- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [True, False])
def test_parallel_blocks_are_seen_by_running_them(parallel: bool) -> None:
    torch.manual_seed(0)
    config = tf.StableLmConfig(
        num_hidden_layers=N_LAYERS, num_attention_heads=N_HEADS, num_key_value_heads=N_HEADS,
        hidden_size=D_MODEL, intermediate_size=D_MLP, vocab_size=D_VOCAB,
        use_parallel_residual=parallel,
    )  # fmt: skip
    model = tf.StableLmForCausalLM(config).eval()
    game = sm.ModelGame(model, sm.Task(some_prompts(4), "kl"))
    assert game.are_blocks_parallel is parallel
    out = sm.score_circuit(game, ["a0.h1"], progress=False).to_mib()
    assert out["cfg"]["parallel_attn_mlp"] is parallel
    assert ("a0.h1->m0" in out["edges"]) is not parallel


def test_a_hook_that_reads_what_another_noted_is_run_in_whole_passes() -> None:
    """Which tokens a pass reads, noted at the embedding; where rows do not fit, those of the first
    row alone."""
    model, task, masks = build("gpt2"), a_task(), some_masks(5, 8)
    noted: dict[str, Tensor] = {}

    def note(module: nn.Module, args: Any) -> None:
        noted["low"] = args[0][..., None] < 30

    def steer(module: nn.Module, args: Any, out: Any) -> Any:
        low = noted["low"]
        low = low if len(low) == len(out) else low[:1]
        return out + 2 * low * torch.linspace(-1, 1, D_MODEL)

    model.transformer.wte.register_forward_pre_hook(note)
    model.transformer.h[1].mlp.register_forward_hook(steer)
    game = sm.ModelGame(model, task, ablation="zero")
    torch.testing.assert_close(game(masks), heads_gone(model, task.prompts, masks), **CLOSE)
