"""Attention patterns of heads, intact and with units ablated, against the model's own."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AttentionInterface,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.models.llama.modeling_llama import LlamaAttention

import spex_mech as sm
from spex_mech.models import _as_bridge
from spex_mech.plots.attention import AttentionNumbers, attention_numbers

N_VOCAB, N_POS = 50, 7


def llama() -> nn.Module:
    shape = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=N_VOCAB,
    )  # fmt: skip
    return LlamaForCausalLM(shape)


def gpt2() -> nn.Module:
    shape = GPT2Config(
        n_embd=32, n_layer=3, n_head=4, vocab_size=N_VOCAB, n_positions=16,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(shape)


def bert() -> nn.Module:
    shape = BertConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        vocab_size=N_VOCAB, max_position_embeddings=16,
    )  # fmt: skip
    return BertForMaskedLM(shape)


READS = {
    llama: "model.layers.{}.self_attn.o_proj",
    gpt2: "transformer.h.{}.attn.c_proj",
    bert: "bert.encoder.layer.{}.attention.output.dense",
}


def made(make: Callable[[], nn.Module], scale: float = 3.0) -> Any:
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():  # patterns of small weights are all but even
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(scale)
    return model


def game_of(model: Any, replay: bool | None = None) -> sm.ModelGame:
    tokens = torch.randint(1, N_VOCAB, (4, N_POS), generator=torch.Generator().manual_seed(1))
    task = sm.Task(sm.Prompts(tokens), last_logit, "last")
    return sm.ModelGame(model, task, "heads", ablation="zero", replay=replay)


def last_logit(output: Any, prompts: sm.Prompts) -> torch.Tensor:
    logits = output if isinstance(output, torch.Tensor) else output.logits
    return logits[:, -1, 3]


def by_hand(model: Any, tokens: torch.Tensor, read: str, head: tuple[int, int] | None) -> Any:
    """All patterns ``[layer head query key]`` of the first prompt, without one head."""
    layer, index = head or (0, 0)
    module, mine = model.get_submodule(read.format(layer)), slice(8 * index, 8 * index + 8)

    def replaced(_: Any, args: tuple[torch.Tensor, ...]) -> Any:
        act = args[0].clone()
        act[..., mine] = 0
        return (act, *args[1:])

    ablating = module.register_forward_pre_hook(replaced) if head else None
    own = model.config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = torch.stack(model(tokens[:1], output_attentions=True).attentions)[:, 0]
    model.set_attn_implementation(own)
    if ablating:
        ablating.remove()
    return found


@pytest.mark.parametrize("make", READS)
def test_patterns_are_the_model_s_own(make: Callable[[], nn.Module]) -> None:
    model = made(make)
    game = game_of(model)
    tokens, labels = game.prompts.tokens, ["L0H1", "L1H3", "L2H0", "L2H2"]
    intact = by_hand(model, tokens, READS[make], None)
    mine = game.attention_patterns(labels)
    right = torch.stack([intact[0, 1], intact[1, 3], intact[2, 0], intact[2, 2]])
    np.testing.assert_allclose(mine, right.numpy(), atol=1e-6)
    np.testing.assert_allclose(mine.sum(-1), 1, atol=1e-5)
    lost = by_hand(model, tokens, READS[make], (0, 1))
    after = game.attention_patterns(labels, ablated=["L0H1"])
    right = torch.stack([lost[0, 1], lost[1, 3], lost[2, 0], lost[2, 2]])
    np.testing.assert_allclose(after, right.numpy(), atol=1e-5)
    assert abs(after[0] - mine[0]).max() < 1e-6  # of the same layer: nothing changes
    assert abs(after[1] - mine[1]).max() > 1e-4  # ten times the tolerance


def test_the_model_is_left_as_it_was() -> None:
    model = made(llama)
    game = game_of(model)
    before = game(torch.ones(1, len(game), dtype=torch.bool))
    assert model.config._attn_implementation == "sdpa"
    game.attention_patterns(["L1H0"], ablated=["L0H0"])
    assert model.config._attn_implementation == "sdpa"
    assert not model.get_submodule("model.layers.0.self_attn.o_proj")._forward_pre_hooks
    assert torch.equal(game(torch.ones(1, len(game), dtype=torch.bool)), before)


def test_transformer_lens_gives_the_same() -> None:
    pytest.importorskip("transformer_lens.model_bridge")
    model = made(gpt2)
    asked = {"heads": ["L0H1", "L2H2"], "prompt": 2, "ablated": ["L0H1"]}
    right = game_of(model).attention_patterns(**asked)
    np.testing.assert_allclose(
        game_of(_as_bridge(model)).attention_patterns(**asked), right, atol=1e-5
    )


@pytest.mark.parametrize(
    ("heads", "prompt", "ablated", "said"),
    [
        (["L0N3"], 0, [], "L0N3 is no attention head"),
        (["L9H0"], 0, [], "L9H0"),
        (["L0H0"], 4, [], "prompt is 4"),
        (["L0H0"], 0, ["L0N1"], "L0N1"),
    ],
)
def test_what_is_no_head_or_prompt_is_said(
    heads: list[str], prompt: int, ablated: list[str], said: str
) -> None:
    game = game_of(made(llama))
    with pytest.raises(ValueError, match=said):
        game.attention_patterns(heads, prompt, ablated)


def test_attention_that_cannot_be_seen_is_refused() -> None:
    shape = BloomConfig(
        hidden_size=32, n_layer=2, n_head=4, vocab_size=N_VOCAB, bos_token_id=0, eos_token_id=0
    )
    game = game_of(made(lambda: BloomForCausalLM(shape)), replay=False)
    with pytest.raises(ValueError, match="BloomForCausalLM computes its attention by itself"):
        game.attention_patterns(["L0H1"])


class OwnAttention(LlamaAttention):
    """Attention that a model computes by itself, without one of transformers' functions."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        hidden_states = kwargs["hidden_states"]
        size = (*hidden_states.shape[:-1], -1, self.head_dim)
        asked = self.q_proj(hidden_states).view(size).transpose(1, 2)
        rest = (p(hidden_states).view(size).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        key, value = (x.repeat_interleave(self.num_key_value_groups, dim=1) for x in rest)
        made = nn.functional.scaled_dot_product_attention(asked, key, value, is_causal=True)
        return self.o_proj(made.transpose(1, 2).flatten(2)), None


def test_a_layer_that_attends_by_itself_has_not_the_pattern_of_another() -> None:
    """That of the nearest layer by its name was given without a word."""
    model = made(llama)
    del model.model.layers[2:]
    model.model.layers[1].self_attn.__class__ = OwnAttention
    layers = [f"model.layers.{layer}" for layer in range(2)]
    heads = tuple(f"{layer}.self_attn.o_proj" for layer in layers)
    named = sm.Architecture(heads, tuple(f"{layer}.mlp.down_proj" for layer in layers), 4)
    task = game_of(made(llama)).task
    with pytest.warns(UserWarning):  # running the model does not bear it out
        game = sm.ModelGame(model, task, "heads", ablation="zero", architecture=named)
    assert game.attention_patterns("L0H1").shape == (1, N_POS, N_POS)
    with pytest.raises(ValueError, match=r"computes its attention by itself at model.layers.1"):
        game.attention_patterns("L1H1")


def test_an_attention_function_that_differs_from_eager_is_refused() -> None:
    """The pattern was that of "eager", which this model does not run."""

    def halved(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output, _ = sdpa_attention_forward(module, *args, **kwargs)
        return output * 0.5, None

    AttentionInterface.register("halved", halved)
    AttentionMaskInterface.register("halved", sdpa_mask)
    model = made(llama)
    model.set_attn_implementation("halved")
    with pytest.raises(ValueError, match='is another one than transformers\' "eager"'):
        game_of(model).attention_patterns("L1H1")
    assert model.config._attn_implementation == "halved"


def test_one_label_is_asked_for_as_it_is() -> None:
    game = game_of(made(llama))
    listed = game.attention_patterns(["L1H1"], 0, ["L0H0"])
    np.testing.assert_array_equal(game.attention_patterns("L1H1", 0, "L0H0"), listed)


def test_an_error_leaves_the_model_as_it_was() -> None:
    model = made(llama)

    def fails(*_: Any) -> None:
        if model.config._attn_implementation == "eager":
            raise RuntimeError("of the user's own hook")

    model.model.layers[2].register_forward_pre_hook(fails)
    game = game_of(model)
    before = game(torch.ones(1, len(game), dtype=torch.bool))
    with pytest.raises(RuntimeError, match="own hook"):
        game.attention_patterns("L1H0", ablated="L0H0")
    assert model.config._attn_implementation == "sdpa"
    assert sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()) == 1
    assert torch.equal(game(torch.ones(1, len(game), dtype=torch.bool)), before)


@pytest.fixture(scope="module")
def drawn() -> AttentionNumbers:
    return attention_numbers(game_of(made(llama)), ("L2H0", "L0H1"), prompt=1)


def test_each_head_is_drawn_with_and_without_the_other(drawn: AttentionNumbers) -> None:
    game = game_of(made(llama))
    assert drawn.heads == ("L2H0", "L0H1")
    assert [len(names) for names in (*drawn.queries, *drawn.keys)] == [N_POS] * 4
    for head, other, intact, after in zip(
        drawn.heads, drawn.heads[::-1], drawn.intact, drawn.without_other, strict=True
    ):
        np.testing.assert_array_equal(intact, game.attention_patterns([head], 1)[0])
        lost = game.attention_patterns([head], 1, ablated=[other])[0]
        np.testing.assert_allclose(after, lost, atol=1e-6)
    assert drawn.largest_changes[0] > 1e-4
    assert drawn.largest_changes[1] == 0.0  # the earlier head does not see the later one


def test_the_picture_says_what_it_shows() -> None:
    figure = sm.plot_attention(game_of(made(llama)), ("L0H1", "L2H0"), prompt=1)
    said = [axes.get_title() for axes in figure.axes]
    assert "L2H0, L0H1 ablated" in said
    assert "L0H1, L2H0 ablated" in said
    assert "no change of L0H1" in said
    assert "prompt 1" in figure.get_suptitle()


def test_two_heads_are_needed() -> None:
    with pytest.raises(ValueError, match="two heads"):
        sm.plot_attention(game_of(made(llama)), ("L0H1",))


N_ENCODED = [7, 5, 6, 7]  # tokens of each prompt that are no padding


def bart() -> nn.Module:
    shape = BartConfig(
        d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, vocab_size=N_VOCAB,
        max_position_embeddings=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=2,
    )  # fmt: skip
    return BartForConditionalGeneration(shape)


def translating(n_decoded: int) -> sm.ModelGame:
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 25, (4, N_POS), generator=draw)
    real = torch.arange(N_POS) < torch.tensor(N_ENCODED)[:, None]
    decoded = torch.randint(25, N_VOCAB, (4, n_decoded), generator=draw)
    prompts = sm.Prompts(tokens, real, inputs={"decoder_input_ids": decoded})
    return sm.ModelGame(made(bart), sm.Task(prompts, last_logit, "last"), "heads", ablation="zero")


@pytest.mark.parametrize("n_decoded", [N_POS, 4])  # as many as the encoder has, and fewer
@pytest.mark.parametrize(
    ("pair", "reads"),
    [
        (("encoder.L1H2", "decoder.L0XH3"), "ee de"),
        (("decoder.L0H1", "decoder.L1XH2"), "dd de"),
        (("decoder.L0H1", "decoder.L1H2"), "dd dd"),
    ],
)
def test_each_side_of_a_pattern_has_the_tokens_of_its_stack(
    pair: tuple[str, str], reads: str, n_decoded: int
) -> None:
    """Positions of a decoder were called by the encoder's tokens, and cut where those end."""
    game = translating(n_decoded)
    prompts, row = game.prompts, 1
    texts = {
        "e": [str(i) for i in prompts.tokens[row, : N_ENCODED[row]].tolist()],
        "d": [str(i) for i in prompts.decoded[row].tolist()],
    }
    numbers = attention_numbers(game, pair, row)
    for head, (query, key) in enumerate(reads.split()):
        assert numbers.queries[head] == texts[query]
        assert numbers.keys[head] == texts[key]
        whole = game.attention_patterns([pair[head]], row)[0]
        kept = whole[: len(texts[query]), : len(texts[key])]
        np.testing.assert_array_equal(numbers.intact[head], kept)
    assert sm.plot_attention(game, pair, row).axes


@pytest.mark.filterwarnings("ignore:.*reads the output at padding")
def test_positions_of_a_decoder_that_is_given_no_tokens_are_numbers() -> None:
    game = translating(N_POS)
    alone = sm.Prompts(game.prompts.tokens, game.prompts.attention_mask)
    game = sm.ModelGame(game.model, sm.Task(alone, last_logit), "heads", ablation="zero")
    numbers = attention_numbers(game, ("encoder.L1H2", "decoder.L0XH3"), 1)
    assert numbers.queries[1] == list("0123456")
    assert numbers.keys[1] == numbers.keys[0] != list("01234")


def test_patterns_of_unlike_shapes_are_asked_for_one_by_one() -> None:
    with pytest.raises(ValueError, match="have patterns of unlike shapes, 7 x 7 and 4 x 7"):
        translating(4).attention_patterns(["encoder.L0H0", "decoder.L0XH1"])


def test_tokens_that_no_font_has_are_shown_by_pictures() -> None:
    model = sm.load_model("demo")
    task = replace(sm.load_task("induction", model, 2), decode=lambda ids: ["\t\x07\n"] * len(ids))
    numbers = attention_numbers(sm.ModelGame(model, task), ("L0H3", "L1H0"))
    assert {*numbers.keys[0], *numbers.queries[1]} == {"\N{SYMBOL FOR HORIZONTAL TABULATION}"
                                                       "\N{SYMBOL FOR BELL}\\n"}  # fmt: skip
