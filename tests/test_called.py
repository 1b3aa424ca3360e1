"""What a model and its blocks are called with, beside the stream: the same for all prompts, or a
row for each, or a replay is none; and with a cache or without one.

Each was broken once: blocks called otherwise for some prompts gave wrong values, or an error in a
call; an object that holds rows ended the process; a cache was not spoken of.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import spex_mech as sm
from spex_mech.engine.called import CannotReplay, check_called, grows, joined, rows_of
from tests.families import D_VOCAB, build
from tests.test_engine import some_masks, some_prompts

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def of_answer(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    assert prompts.answers is not None
    last = logits[torch.arange(len(logits)), prompts.last]
    return last.gather(1, prompts.answers)[:, 0]


def heads_replaced(
    model: Any, prompts: sm.Prompts, masks: Tensor, mean: bool = False, **given: Any
) -> Tensor:
    """Heads of a Llama at zero, or at their mean, by a loop of hooks, for each mask."""
    modules = [block.self_attn.o_proj for block in model.model.layers]
    seen: dict[nn.Module, Tensor] = {}

    def run(hook: Callable[[nn.Module, Any], Any]) -> Tensor:
        handles = [module.register_forward_pre_hook(hook) for module in modules]
        with torch.no_grad():
            logits = model(prompts.tokens, use_cache=False, **given).logits
        for handle in handles:
            handle.remove()
        return of_answer(logits, prompts).double()

    run(lambda module, args: seen.__setitem__(module, args[0][prompts.real].mean(0) * mean))
    rows = []
    for mask in masks.reshape(len(masks), len(modules), -1):
        kept = {m: k.repeat_interleave(8) for m, k in zip(modules, mask, strict=True)}
        rows.append(run(lambda m, args, kept=kept: (torch.where(kept[m], args[0], seen[m]),)))
    return torch.stack(rows)


class OwnMaskForCausalLM(tf.LlamaForCausalLM):
    """Makes a mask of the tokens where there is any of one kind among them."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **more: Any) -> Any:
        if attention_mask is None and (input_ids == 0).any():
            attention_mask = (input_ids != 0).long()
        return super().forward(input_ids, attention_mask=attention_mask, **more)


def with_a_token_of_its_own(at: int) -> tuple[Any, sm.Prompts]:
    model = OwnMaskForCausalLM(build("llama").config).eval()
    model.load_state_dict(build("llama").state_dict())
    prompts = some_prompts(6)
    prompts.tokens[at, :2] = 0
    return model, prompts


def with_gaps(at: int) -> tuple[Any, sm.Prompts]:
    """Texts one behind the other in one row: where positions begin again."""
    prompts = some_prompts(6)
    positions = torch.arange(7).repeat(6, 1)
    positions[at, 2:] = torch.arange(5)
    told = sm.Prompts(prompts.tokens, answers=prompts.answers, inputs={"position_ids": positions})
    return build("llama"), told


@pytest.mark.parametrize("make", [with_a_token_of_its_own, with_gaps])
@pytest.mark.parametrize("at", [0, 4])
@pytest.mark.parametrize("batch_size", [None, 3, 1])
@pytest.mark.filterwarnings("ignore:.*keeps a cache of keys and values")
@pytest.mark.filterwarnings("ignore:.*begin with the model's padding token")
def test_blocks_that_are_called_otherwise_for_some_prompts(
    make: Any, at: int, batch_size: int | None
) -> None:
    model, prompts = make(at)
    task, masks = sm.Task(prompts, of_answer), some_masks(5, 8)
    game = sm.ModelGame(model, task, ablation="zero", batch_size=batch_size)
    want = heads_replaced(model, prompts, masks, **prompts.inputs)
    torch.testing.assert_close(game(masks), want, **CLOSE)
    same = heads_replaced(build("llama"), prompts, masks)
    assert (want - same)[:, at].abs().max() > 1e-3  # that prompt is read otherwise
    if at or batch_size:
        assert "called otherwise for some prompts" in game.provenance()["passes"]
        with pytest.raises(ValueError, match="called otherwise for some prompts"):
            sm.ModelGame(model, task, replay=True, batch_size=batch_size)


class TailOfSomeForCausalLM(tf.LlamaForCausalLM):
    """What comes after its blocks asks whether a token is among those that it read."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **more: Any) -> Any:
        output = super().forward(input_ids, attention_mask=attention_mask, **more)
        has = (input_ids == 0).any(dim=1).to(output.logits)
        output.logits = output.logits * (1 + has[:, None, None])
        return output


def test_what_comes_after_the_blocks_of_some_prompts() -> None:
    model = TailOfSomeForCausalLM(build("llama").config).eval()
    prompts = some_prompts(6)
    prompts.tokens[4, 1] = 0
    with pytest.warns(UserWarning, match="cannot be replayed: its metric is off on prompt 4"):
        game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), ablation="zero")
    with torch.no_grad():
        last = model(prompts.tokens).logits[:, -1]
    assert prompts.answers is not None and prompts.wrong_answers is not None
    want = last.gather(1, prompts.answers) - last.gather(1, prompts.wrong_answers)
    torch.testing.assert_close(game([[True] * 8])[0].float(), want[:, 0], **CLOSE)


@dataclass
class Shift:
    """What an own model hands to its blocks: a row for each prompt, in an object."""

    rows: Tensor


class WithAnObject(nn.Module):
    """Blocks that read it by the number of their rows."""

    def __init__(self, wrap: Callable[[Tensor], Any], read: Callable[[Any], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out = nn.Embedding(D_VOCAB, 16), nn.Linear(16, D_VOCAB)
        self.blocks = nn.ModuleList(OneMLP(read) for _ in range(2))
        self.wrap = wrap

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        shift = self.wrap(tokens[:, :1, None] / D_VOCAB)
        for block in self.blocks:
            x = block(x, shift)
        return self.out(x)


class OneMLP(nn.Module):
    def __init__(self, read: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.up, self.down, self.read = nn.Linear(16, 8), nn.Linear(8, 16), read

    def forward(self, x: Tensor, shift: Any) -> Tensor:
        rows = self.read(shift)
        rows = rows[torch.arange(len(x)) % len(rows)]  # as a kernel reads them: nothing is checked
        x = (x + rows).tanh()
        return x + self.down(self.up(x).relu())


@pytest.mark.parametrize(
    ("wrap", "read"),
    [
        (Shift, lambda shift: shift.rows),
        (lambda rows: lambda: rows, lambda shift: shift()),
        (lambda rows: {"of": [Shift(rows)]}, lambda shift: shift["of"][0].rows),
    ],
)
def test_an_object_that_holds_rows_is_not_replayed(wrap: Any, read: Any) -> None:
    model, prompts, masks = WithAnObject(wrap, read).eval(), some_prompts(5), some_masks(5, 16)
    task = sm.Task(prompts, of_answer)
    game = sm.ModelGame(model, task, "neurons", ablation="zero", batch_size=3)
    assert "that holds rows of prompts, which cannot be taken out" in game.provenance()["passes"]
    rows = []
    for mask in masks.reshape(-1, 2, 8):
        handles = [
            block.down.register_forward_pre_hook(lambda module, args, kept=kept: args[0] * kept)
            for block, kept in zip(model.blocks, mask, strict=True)
        ]
        with torch.no_grad():
            rows.append(of_answer(model(prompts.tokens), prompts).double())
        for handle in handles:
            handle.remove()
    torch.testing.assert_close(game(masks), torch.stack(rows), **CLOSE)


def test_which_arguments_grow_with_the_rows() -> None:
    def called(n: int) -> Any:
        return (torch.ones(n, 2), {"a": [torch.zeros(1, 4), None, torch.arange(n)]}, 7)

    varies = grows(called(2), called(3))
    assert varies == [True, {"a": [False, False, True]}, False]
    check_called(called(2), called(5), varies, 5)
    assert rows_of(called(4), slice(1, 3), varies)[0].shape == (2, 2)
    assert joined([called(1), called(2)], varies)[1]["a"][2].tolist() == [0, 0, 1]
    with pytest.raises(CannotReplay, match=r"grows with them: of two and three it is \[1, 2\]"):
        grows(torch.ones(1, 2), torch.ones(1, 3))
    for other in (
        (None, called(2)[1], 7),
        (torch.ones(4, 2), called(2)[1], 7),
        (*called(2)[:2], 8),
        (called(2)[0], {"a": [torch.ones(1, 4), None, torch.arange(2)]}, 7),
        (called(2)[0], {"b": called(2)[1]["a"]}, 7),
    ):
        with pytest.raises(CannotReplay, match="called otherwise for some prompts"):
            check_called(called(2), other, varies, 2)


# -- a cache --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [False, True])
def test_a_model_that_gives_another_output_with_its_cache(shared: bool) -> None:
    model, prompts = build("llama"), some_prompts()
    if shared:
        model.model.layers[1].self_attn = model.model.layers[0].self_attn
        inputs = {}
    else:
        inputs = {"position_ids": torch.tensor([[0, 1, 2, 9, 10, 11, 12]] * 3)}
    told = sm.Prompts(prompts.tokens, answers=prompts.answers, inputs=inputs)
    with pytest.warns(UserWarning, match="gives another output where it keeps a cache of keys"):
        sm.ModelGame(model, sm.Task(told, of_answer))


def test_the_cache_of_shared_blocks_is_compared_on_padded_prompts_too() -> None:
    """With a cache such a model runs on none of them but alone, without a mask."""
    model, prompts = build("llama"), some_prompts()
    model.model.layers[1].self_attn = model.model.layers[0].self_attn
    real = torch.ones(3, 7, dtype=torch.long)
    real[1, 4:] = 0
    told = sm.Prompts(prompts.tokens, real, answers=prompts.answers)
    with pytest.warns(UserWarning, match="gives another output where it keeps a cache of keys"):
        sm.ModelGame(model, sm.Task(told, of_answer))


@pytest.mark.parametrize("ablation", ["zero", "mean"])
@pytest.mark.parametrize("padded", [False, True])
def test_positions_beside_an_attention_mask(ablation: str, padded: bool) -> None:
    """With one, positions are what the model is simply called with."""
    model, prompts, masks = build("llama"), some_prompts(), some_masks(5, 8)
    positions = torch.tensor([[0, 1, 2, 9, 10, 11, 12], [5, 6, 7, 8, 9, 10, 11], [*range(7)]])
    real = torch.ones(3, 7, dtype=torch.long)
    if padded:
        real[1, 4:] = 0
    told = sm.Prompts(
        prompts.tokens, real, answers=prompts.answers, inputs={"position_ids": positions}
    )
    game = sm.ModelGame(model, sm.Task(told, of_answer), ablation=ablation)
    given = {"attention_mask": real, "position_ids": positions}
    want = heads_replaced(model, told, masks, ablation == "mean", **given)
    torch.testing.assert_close(game(masks), want, **CLOSE)


def test_heads_of_a_decoder_that_reads_one_token() -> None:
    torch.manual_seed(0)
    config = tf.T5Config(vocab_size=D_VOCAB, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    model = tf.T5ForConditionalGeneration(config).eval()
    prompts = sm.Prompts([[5], [9]], inputs={"decoder_input_ids": [[0], [0]]})
    heads = sm.Components.heads(model, prompts=prompts)
    assert heads.labels[::4] == ["encoder.L0H0", "decoder.L0H0", "decoder.L0XH0"]
