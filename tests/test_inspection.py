"""What inspect_model says of a model is what a game of it does."""

from typing import Any

import pytest
import torch
from torch import nn

import spex_mech as sm
from spex_mech.cli import main
from spex_mech.engine.watch import state_of
from tests.families import build
from tests.test_discovery import Small
from tests.tiny import build as tiny
from tests.tiny import types_of

CAUSAL = types_of("CAUSAL_LM")


def test_what_is_found_is_what_a_game_ablates() -> None:
    model = build("llama")
    seen = sm.inspect_model(model)
    heads, neurons = sm.Components.heads(model), sm.Components.neurons(model)
    assert (seen.count("head"), seen.count("neuron")) == (len(heads), len(neurons))
    prompts = sm.Prompts([[1, 5, 9, 4]], answers=[3], wrong_answers=[7])
    game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), heads + neurons, ablation="zero")
    assert [one.hook for one in seen.found] == game.hook_points
    assert seen.passes == game.describe()["passes"] == "replayed"
    first, second = seen.found[:2]
    assert (first.units, first.width) == ("4 heads of 8, 2 key-value groups", 8)
    assert second.units == "48 neurons" and not seen.refused


def test_in_print_like_layers_are_one_row() -> None:
    lines = str(sm.inspect_model(build("gpt2"))).splitlines()
    assert lines[0] == "GPT2LMHeadModel (gpt2): 2 layers, 8 heads, 96 neurons"
    assert len(lines) == 5
    assert lines[3].startswith("0-1     4 heads of 8  transformer.h.N.attn.c_proj")


def test_layers_that_differ_are_told_apart_and_what_lacks_is_said() -> None:
    seen = sm.inspect_model(tiny("qwen3_next", CAUSAL["qwen3_next"]))
    assert [(one.layer, one.kind) for one in seen.found] == [
        (0, "neuron"), (0, "expert"), (1, "head"), (1, "neuron"), (1, "expert"),
    ]  # fmt: skip
    assert seen.found[2].how == "it reads a slice of each head alone"  # a gate lies between
    assert seen.refused == ("no heads in layer 0: no attention ran in it",)


def test_what_cannot_be_used_is_said_and_no_error() -> None:
    seen = sm.inspect_model(tiny("mamba", CAUSAL["mamba"]))
    assert not seen.found and "no attention function" in seen.refused[0]
    refused = sm.inspect_model(Small("more")).refused
    assert "no heads in layer 0: attn.o reads more than its heads" in refused[0]
    assert "Linear does not run on 5 tokens" in sm.inspect_model(nn.Linear(2, 2)).refused[0]
    with pytest.raises(ValueError, match="is a int, which is no"):
        sm.inspect_model(3)


def test_attention_that_projects_by_itself_is_named() -> None:
    """Its output projection is a module, and is never called as one."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(30, 16)
            layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.encoder(self.embed(input_ids))

    seen = sm.inspect_model(Encoder())
    assert (seen.count("head"), seen.count("neuron")) == (0, 48)
    assert any("nn.MultiheadAttention" in why for why in seen.refused)


@pytest.mark.parametrize("family", ["bridge_gpt2", "named"])
def test_how_others_are_known(family: str) -> None:
    if family == "named":
        model: Any = Small()
        arch = sm.Architecture(heads=("attn.o",), neurons=("ff.down",), n_heads=4)
        assert {one.how for one in sm.inspect_model(model, arch).found} == {"it was named by hand"}
    else:
        seen = sm.inspect_model(build(family))
        assert {one.how for one in seen.found} == {"TransformerLens calls it so"}
        assert seen.found[0].hook == "blocks.0.attn.hook_z"


def test_the_model_comes_back_as_it_was() -> None:
    model = build("llama")
    before = state_of(model)
    sm.inspect_model(model)
    assert state_of(model) == before and not torch.is_inference_mode_enabled()


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--check", "demo"]) == 0
    assert "4 heads of 16" in capsys.readouterr().out
    assert main(["models", "--check", "no/such/folder"]) == 2


def test_a_deeper_model_takes_no_more_passes() -> None:
    """A pass for each layer would take the square of the time."""

    def passes(layers: int) -> int:
        model: Any = tiny("olmo3", CAUSAL["olmo3"], layers=layers)
        runs: list[int] = []
        model.model.embed_tokens.register_forward_hook(lambda *_: runs.append(1))
        assert sm.inspect_model(model).passes == "replayed"
        return len(runs)

    assert passes(2) == passes(5)
