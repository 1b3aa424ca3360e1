"""Which models are understood, with sizes from the weights, and which are refused, and why."""

from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

import spex_mech as sm
from spex_mech.engine.architectures import architecture_of
from tests.families import D_MLP, D_VOCAB, FAMILIES, N_HEADS, N_LAYERS, build, modules_of

TINY: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "vocab_size": D_VOCAB,
    "num_attention_heads": 4, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_registry_finds_every_head_and_neuron(family: str) -> None:
    model = build(family)
    arch = architecture_of(model)
    assert (arch.n_layers, arch.count("head", 0), arch.count("neuron", 1)) == (
        N_LAYERS, N_HEADS, D_MLP,
    )  # fmt: skip
    assert len(sm.Components.heads(model)) == N_LAYERS * N_HEADS
    assert len(sm.Components.neurons(model)) == N_LAYERS * D_MLP
    assert arch.d_head == ((12, 12) if family == "qwen3" else (8, 8))
    if arch.hooks == "modules":
        for (kind, layer), module in modules_of(family, model).items():
            assert model.get_submodule(arch.name(kind, layer)) is module  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "bridge_llama"])
def test_grouped_query_attention_has_groups(family: str) -> None:
    assert sm.Components.kv_groups(build(family)).labels == ["L0G0", "L0G1", "L1G0", "L1G1"]


def test_a_model_without_its_head_is_understood_too() -> None:
    encoder = tf.BertModel(tf.BertConfig(**TINY))
    assert len(sm.Components.heads(encoder)) == 8
    decoder = build("gpt2").transformer
    assert architecture_of(decoder).name("head", 1) == "h.1.attn.c_proj"


def test_mixture_of_experts_has_heads_but_no_neurons() -> None:
    config = tf.MixtralConfig(**TINY, num_key_value_heads=2, num_local_experts=2)
    model = tf.MixtralForCausalLM(config)
    assert len(sm.Components.heads(model)) == 8
    with pytest.raises(ValueError, match="no neurons: its MLPs are mixtures of experts"):
        sm.Components.neurons(model)
    from spex_mech.models import _as_bridge

    bridge = _as_bridge(model)
    assert len(sm.Components.heads(bridge)) == 8
    with pytest.raises(ValueError, match="no neurons: its MLPs are mixtures of experts"):
        sm.Components.neurons(bridge)


def test_state_space_model_has_no_heads() -> None:
    config = tf.MambaConfig(num_hidden_layers=1, hidden_size=16, vocab_size=D_VOCAB, state_size=4)
    with pytest.raises(
        ValueError, match=r"mamba model has neither heads nor neurons .* no attention"
    ):
        sm.Components.heads(tf.MambaForCausalLM(config))


def test_a_model_that_does_not_run_on_tokens_is_refused_with_its_error() -> None:
    class Config:
        model_type = "something"

    model = nn.Linear(2, 2)
    model.config = Config()  # type: ignore[assignment]
    with pytest.raises(
        ValueError, match=r"Linear does not run on 5 tokens.*RuntimeError: .*dtype.*; name the out"
    ):
        sm.Components.heads(model)


def test_what_a_configuration_says_is_not_believed() -> None:
    model = build("gpt2")
    model.config.n_head = 8
    assert len(sm.Components.heads(model)) == N_LAYERS * N_HEADS


def test_unknown_models_say_how_to_name_the_modules() -> None:
    with pytest.raises(ValueError, match=r"Linear does not run on 5 tokens.*; name the output"):
        sm.Components.heads(nn.Linear(2, 2))


@pytest.mark.parametrize("family", [f for f in FAMILIES if not f.startswith("bridge")])
def test_a_family_is_found_without_its_name(family: str) -> None:
    model = build(family)
    known = architecture_of(model)
    model.config.model_type = "something_new"
    found = architecture_of(model)
    assert found.same_places(known) and (found.d_head, found.d_mlp) == (known.d_head, known.d_mlp)
    for layer in range(N_LAYERS):
        for kind in ("head", "neuron", "kv_group"):
            assert found.has(kind, layer) == known.has(kind, layer)
            if known.has(kind, layer):
                assert found.count(kind, layer) == known.count(kind, layer)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.o, self.down = nn.Linear(12, 4), nn.Linear(7, 4)
        self.norm = nn.LayerNorm(4)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.unused = nn.Linear(4, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.one_hot(tokens, 4).float()
        for layer in self.layers:
            x = x + layer.o(x.repeat(1, 1, 3)) + layer.down(torch.cat([x, x[..., :3]], -1))
        return x


def test_named_modules_of_any_model() -> None:
    model = Named()
    arch = sm.Architecture(
        heads=("layers.0.o", "layers.1.o"), neurons=(None, "layers.1.down"), n_heads=3
    )
    task = sm.Task(sm.Prompts([[0, 1, 2]]), lambda output, prompts: output[:, -1].sum(-1))
    units = sm.Components.heads(arch) + sm.Components.neurons(model, architecture=arch)
    game = sm.ModelGame(model, task, units, ablation="zero", architecture=arch)
    assert game.labels[-1] == "L1N6" and game.hook_points[0] == "layers.0.o"
    values = game(~torch.eye(len(game), dtype=torch.bool))
    assert values.shape == (13, 1) and len(values.unique()) > 10

    with pytest.raises(ValueError, match=r"no module 'layers.2.o'; it has, for example"):
        sm.ModelGame(model, task, architecture=sm.Architecture(("layers.2.o",), (None,), 3))
    with pytest.raises(ValueError, match=r"reads 12 numbers, which is not 5 heads"):
        sm.ModelGame(model, task, architecture=sm.Architecture(("layers.0.o",), (None,), 5))
    with pytest.raises(ValueError, match=r"layers.0.norm is a LayerNorm without a weight matrix"):
        sm.ModelGame(model, task, architecture=sm.Architecture(("layers.0.norm",), (None,), 2))
    with pytest.raises(RuntimeError, match="the hook at unused did not fire"):
        sm.ModelGame(model, task, architecture=sm.Architecture(("unused",), (None,), 2))


def test_a_model_that_ignores_its_modules_fails_the_self_test() -> None:
    class Ignoring(Named):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            self.layers[0].o(torch.ones(*tokens.shape, 12))
            return torch.ones(*tokens.shape, 4)

    task = sm.Task(sm.Prompts([[0, 1]]), lambda output, prompts: output[:, -1].sum(-1))
    arch = sm.Architecture(("layers.0.o",), (None,), 3)
    with pytest.raises(ValueError, match="changes nothing in its output"):
        sm.ModelGame(Ignoring(), task, architecture=arch)
