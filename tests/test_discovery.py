"""Heads and neurons found by running a model: what is proven, what is refused, what is left alone.

Each proof was broken once: noise on two heads at a time, rows that are not set back, no zero row,
no other prompts, halves and turns of fused projections exchanged.
"""

from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import spex_mech as sm
from spex_mech.engine.architectures import architecture_of
from spex_mech.engine.products import axes_of
from spex_mech.engine.watch import state_of
from tests import families
from tests.judge import judged
from tests.tiny import build, types_of

CAUSAL = types_of("CAUSAL_LM")
# What a type of the fixed third below is refused for.
REFUSED = {
    "diffllama": "depend on several heads",
    "falcon_mamba": "no attention function",
    "jetmoe": "depend on several heads",
    "mamba": "no attention function",
    "mamba2": "no attention function",
    "rwkv": "no attention function",
    "xlnet": "no linear layer reads",
    "xlstm": "no attention function",
}
NOT_TRIED = {"kimi_linear"}  # its linear attention is a loop in Python: a minute for each


def check(kind: str) -> None:
    row = judged(kind, CAUSAL[kind])
    if "not_built" in row:
        pytest.skip(row["not_built"])
    heads = row["heads"]
    if heads["ended"] in ("failed", "refused", "part"):
        assert heads["ended"] == "failed" or kind in REFUSED or heads["ended"] == "part", heads
        assert REFUSED.get(kind, "") in heads["why"]
        return
    assert heads["ended"] == "right", heads
    assert kind not in REFUSED
    assert row["neurons"]["ended"] in ("right", "refused"), row["neurons"]


SLOW = {"inkling2_loop_text", "afmoe", "hrm_text", "zaya"}  # seconds each
FAST = [k for k in sorted(CAUSAL)[::4] if k not in {*NOT_TRIED, *SLOW}]


@pytest.mark.parametrize("kind", FAST)
def test_a_quarter_of_all_causal_types(kind: str) -> None:
    check(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [k for k in sorted(CAUSAL) if k not in {*NOT_TRIED, *FAST}])
def test_the_other_causal_types(kind: str) -> None:
    check(kind)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("IMAGE_CLASSIFICATION", "swin"),  # its attention runs in windows
        ("IMAGE_CLASSIFICATION", "swinv2"),  # which computes it by itself
        ("IMAGE_CLASSIFICATION", "beit"),
        ("AUDIO_CLASSIFICATION", "wav2vec2-bert"),
        ("AUDIO_CLASSIFICATION", "audio-spectrogram-transformer"),
        ("SEQ_TO_SEQ_CAUSAL_LM", "pegasus"),
        ("SPEECH_SEQ_2_SEQ", "speech_to_text"),
    ],
)
def test_images_sounds_and_decoders(task: str, kind: str) -> None:
    row = judged(kind, types_of(task)[kind], reads_tokens=False)
    assert row["heads"]["ended"] == row["neurons"]["ended"] == "right", row
    assert "missed" not in row["heads"]


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("IMAGE_CLASSIFICATION", "siglip2"),  # it reads patches, and is told of which image
        ("IMAGE", "mllama"),
        ("IMAGE", "vit_mae"),
    ],
)
def test_what_is_read_where_it_cannot_be_guessed(task: str, kind: str) -> None:
    row = judged(kind, types_of(task)[kind], reads_tokens=False)
    assert row["heads"]["ended"] == row["neurons"]["ended"] == "right", row


def test_layers_that_stand_in_stages_are_found_all() -> None:
    """They stand in a list within a list, as experts do."""
    model = build("swin", "SwinForImageClassification", reads_tokens=False)
    found = sm.inspect_model(model).found
    blocks = [f"swin.encoder.layers.{stage}.blocks.{block}" for stage in (0, 1) for block in (0, 1)]
    for kind, name in (("head", "attention.o_proj"), ("neuron", "mlp.fc2")):
        assert [x.hook for x in found if x.kind == kind] == [f"{block}.{name}" for block in blocks]


@pytest.mark.parametrize(
    ("equation", "values", "out"),
    [
        ("bhlt,bhtv->bhlv", "bhtv", "bhlv"),
        ("bnij,bjnd->bind", "bnjd", "bnid"),
        ("... h q k, ... k h d -> ... q h d", None, None),
    ],
)
def test_einsums_of_weights_and_values(equation: str, values: Any, out: Any) -> None:
    """Their axes are put in order: rows, heads, positions, widths."""
    n = 5 if values is None else 4
    axes = axes_of(equation, n, n)
    assert axes is not None
    if values is None:  # blocks of positions, beside their rows
        assert axes == ([0, 1, 3, 2, 4], [0, 1, 3, 2, 4])
    else:
        left, written = equation.split("->")
        assert "".join(left.split(",")[1][i] for i in axes[0]) == values
        assert "".join(written[i] for i in axes[1]) == out


@pytest.mark.parametrize(
    "equation",
    ["bhid,bhjd->bhij", "bij,bjd->bid", "bnij,bjnd->ind", "bnij,jnd->bind", "bnij->bnji", "ab,bc"],
)
def test_einsums_that_are_no_attention(equation: str) -> None:
    terms = equation.split("->")[0].split(",")
    found = axes_of(equation, *map(len, terms))
    # Queries with keys have the form of a product of weights; their rows do not sum to 1.
    assert found is None or equation == "bhid,bhjd->bhij"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["deepseek_v3", "olmoe", "jamba", "minimax_m2", "zaya"])
def test_experts(kind: str) -> None:
    assert judged(kind, CAUSAL[kind], ("experts",))["experts"]["ended"] == "right"


# -- what is proven -------------------------------------------------------------------------------

D, HEADS = 16, 4


class Small(nn.Module):
    """One layer, whose attention and MLP are varied by words."""

    def __init__(self, attention: str = "", mlp: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = tf.LlamaConfig(vocab_size=30)
        self.config.model_type = "small"
        self.attention, self.mlp = attention, mlp
        self.embed, self.out = nn.Embedding(30, D), nn.Linear(D, 30)
        names = ("q", "k", "v", "o", "gate", "mix")
        self.attn = nn.ModuleDict({name: nn.Linear(D, D) for name in names})
        self.norm = nn.LayerNorm(D)
        self.ff = nn.ModuleDict({"up": nn.Linear(D, 24), "both": nn.Linear(D, 48)})
        self.ff["down"], self.ff["norm"] = nn.Linear(24, D), nn.LayerNorm(24)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        q, k, v = (self.attn[n](x).unflatten(2, (HEADS, -1)).transpose(1, 2) for n in "qkv")
        if self.attention == "by hand":
            z = (q @ k.transpose(2, 3)).softmax(-1) @ v
        elif self.attention == "einsum":
            weights = torch.einsum("bnid,bnjd->bnij", q, k).softmax(-1)
            turned = torch.einsum("bnij,bjnd->bind", weights, v.transpose(1, 2))
            z = turned.transpose(1, 2)
        else:
            z = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        z = z.transpose(1, 2).flatten(2)
        if self.attention == "gated":
            z = z * self.attn["gate"](x).sigmoid()
        elif self.attention == "mixed":
            z = self.attn["mix"](z).tanh()
        elif self.attention == "mixed without a layer":
            z = z + z.roll(1, 2)
        elif self.attention == "more":
            z = z + x
        elif self.attention == "norm":
            z = self.norm(z)
        if self.attention == "used twice":
            x = x + z
        x = x + self.attn["o"](z)
        return self.out(x + self.ff["down"](self._neurons(x, z)))

    def _neurons(self, x: Tensor, z: Tensor) -> Tensor:
        if self.mlp in ("halves", "in turn"):
            both = self.ff["both"](x)
            a, b = both.chunk(2, -1) if self.mlp == "halves" else (both[..., ::2], both[..., 1::2])
            return a.relu() * b
        h = self.ff["up"](x).tanh()
        if self.mlp == "mixed":
            return h + h.roll(1, 2)
        if self.mlp == "positions":
            return h.cumsum(1)
        if self.mlp == "more":
            return h * z.repeat(1, 1, 2)[..., :24].exp()
        return self.ff["norm"](h) if self.mlp == "norm" else h


@pytest.mark.parametrize("attention", ["", "by hand", "einsum", "gated"])
def test_heads_are_proven(attention: str) -> None:
    found = architecture_of(Small(attention))
    assert (found.heads, found.n_heads, found.d_head) == (("attn.o",), (HEADS,), (D // HEADS,))
    assert found.neurons == ("ff.down",) and found.d_mlp == (24,)


def test_heads_before_a_norm_are_read_there() -> None:
    assert architecture_of(Small("norm")).heads == ("norm",)
    assert architecture_of(Small("", "norm")).neurons == ("ff.norm",)


@pytest.mark.parametrize(
    ("attention", "why"),
    [
        ("mixed without a layer", "attn.o reads numbers that depend on several heads"),
        ("more", "attn.o reads more than its heads"),
    ],
)
def test_what_is_no_slice_of_a_head_is_refused(attention: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"has no heads: {why}"):
        sm.Components.heads(Small(attention))


@pytest.mark.parametrize("mlp", ["halves", "in turn"])
def test_neurons_of_fused_projections(mlp: str) -> None:
    assert architecture_of(Small("", mlp)).d_mlp == (24,)


@pytest.mark.parametrize(
    ("mlp", "why"),
    [
        ("mixed", "several outputs of the projections before it"),
        ("positions", "several positions"),
        ("more", "more than what the projections before it give"),
    ],
)
def test_what_is_no_neuron_is_refused(mlp: str, why: str) -> None:
    with pytest.raises(ValueError, match=rf"ff.down reads [^;]*{why}"):
        sm.Components.neurons(Small("", mlp))


def test_widths_of_latent_attention_and_groups_are_seen() -> None:
    latent = architecture_of(build("deepseek_v3", CAUSAL["deepseek_v3"]))
    assert latent.d_head == (12, 12) and latent.n_kv_heads is None
    grouped = build("cohere2", CAUSAL["cohere2"])
    assert sm.Components.kv_groups(grouped).labels[:2] == ["L0G0", "L0G1"]


def test_layers_without_attention_keep_their_numbers() -> None:
    units = sm.Components.heads(build("jamba", CAUSAL["jamba"]))
    assert units.labels == [f"L1H{head}" for head in range(4)]


# -- what is left alone ---------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_a_model_is_as_before(fails: bool) -> None:
    model: Any = build("olmo3", CAUSAL["olmo3"])
    if fails:
        model.lm_head.forward = lambda x: 1 / 0
    config, hooks = model.config.to_dict(), state_of(model)
    from transformers.modeling_utils import AttentionInterface

    methods = {**vars(AttentionInterface)}
    chance = torch.get_rng_state()
    model.train()
    if fails:
        with pytest.raises(ValueError, match="ZeroDivisionError"):
            sm.Components.heads(model)
    else:
        sm.Components.heads(model)
    assert model.training and all(module.training for module in model.modules())
    assert state_of(model) == hooks and model.config.to_dict() == config
    assert {**vars(AttentionInterface)} == methods
    assert torch.equal(torch.get_rng_state(), chance)


def test_a_model_is_run_once_for_all_games_and_anew_when_it_changed() -> None:
    model: Any = build("olmo3", CAUSAL["olmo3"])
    runs: list[int] = []
    model.model.embed_tokens.register_forward_hook(lambda *_: runs.append(1))
    sm.Components.heads(model)
    assert len(runs) == 3
    sm.Components.neurons(model)
    assert len(runs) == 3
    model.model.layers = model.model.layers[:1]
    assert len(sm.Components.heads(model)) == 4
    assert len(runs) == 6


class Beside(nn.Module):
    """A projection with another way beside it, as own adapters have; it states no width."""

    def __init__(self, base: nn.Module, width: int) -> None:
        super().__init__()
        self.base, self.way = base, nn.Linear(width, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.way(x)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "gpt_neox", "opt", "bert"])
@pytest.mark.parametrize("kind", ["head", "neuron"])
def test_a_way_beside_a_projection_is_ablated_too(family: str, kind: str) -> None:
    model = families.build(family)
    base = families.modules_of(family, model)[kind, 0]
    name = next(name for name, module in model.named_modules() if module is base)
    width = 32 if kind == "head" else 48
    wrapped = Beside(base, width)
    model.set_submodule(name, wrapped)
    made = sm.Components.heads(model) if kind == "head" else sm.Components.neurons(model)
    units = [label for label in made.labels if label.startswith("L0")]
    prompts = sm.Prompts(torch.arange(12).reshape(2, 6) + 3, answers=torch.tensor([5, 7]))

    def of_logits(out: Any, prompts: sm.Prompts) -> Tensor:
        return (out if isinstance(out, Tensor) else out.logits)[:, 2, 5]

    game = sm.ModelGame(model, sm.Task(prompts, of_logits), units, ablation="zero")
    got = game(torch.zeros(1, len(units), dtype=torch.bool))[0]
    wrapped.register_forward_pre_hook(lambda module, args: (torch.zeros_like(args[0]),))
    with torch.no_grad():
        out = model(prompts.tokens)
    want = (out[0] if isinstance(out, tuple) else out.logits)[:, 2, 5]
    torch.testing.assert_close(got.float(), want.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["gate_proj", "up_proj"]},
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["up_proj", "down_proj", "o_proj"], "use_dora": True},
    ],
)
def test_what_an_adapter_holds_is_no_layer_of_the_model(options: dict[str, Any]) -> None:
    """Its inner projections are as linear as any, and its rank is no number of neurons."""
    peft = pytest.importorskip("peft")
    model = families.build("llama")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, **options)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    found = architecture_of(adapted)
    names = [f"base_model.model.model.layers.{layer}" for layer in range(2)]
    assert found.neurons == tuple(f"{name}.mlp.down_proj" for name in names)
    assert found.heads == tuple(f"{name}.self_attn.o_proj" for name in names)
    assert (*found.d_mlp, *found.n_heads) == (*[families.D_MLP] * 2, *[families.N_HEADS] * 2)


class Bare(nn.Module):
    """A model of one's own: no configuration, another name of what it reads; ``interleaved``: head
    h is every fourth number."""

    def __init__(self, interleaved: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.interleaved = interleaved
        self.embed, self.out = nn.Embedding(30, D), nn.Linear(D, 30)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {"qkv": nn.Linear(D, 3 * D), "o": nn.Linear(D, D), "up": nn.Linear(D, 24),
                 "dropout": nn.Dropout(), "down": nn.Linear(24, D)}
            )
            for _ in range(2)
        )  # fmt: skip

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            q, k, v = (
                part.unflatten(2, (HEADS, -1)).transpose(1, 2)
                for part in layer["qkv"](x).chunk(3, -1)  # type: ignore[operator]
            )
            z = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            z = z.permute(0, 2, 3, 1) if self.interleaved else z.transpose(1, 2)
            x = x + layer["o"](z.flatten(2))  # type: ignore[operator]
            x = x + layer["down"](layer["dropout"](layer["up"](x).relu()))  # type: ignore[operator]
        return self.out(x)


def named(**options: Any) -> sm.Architecture:
    places: dict[str, Any] = {
        "heads": ("layers.0.o", "layers.1.o"),
        "neurons": ("layers.0.down", "layers.1.down"),
        "n_heads": HEADS,
    }
    return sm.Architecture(**places | options)


def test_a_module_of_ones_own_needs_no_names() -> None:
    model = Bare()
    found = architecture_of(model)
    assert (found.heads, found.neurons) == (named().heads, named().neurons)
    prompts = sm.Prompts(torch.arange(12).view(2, 6), answers=[5, 6])
    game = sm.ModelGame(model, sm.Task(prompts, "log_prob"), ablation="zero")
    same = sm.ModelGame(
        model, sm.Task(prompts, "log_prob"), ablation="zero", architecture=named(), replay=False
    )
    masks = torch.rand(5, len(game), generator=torch.Generator().manual_seed(1)) > 0.3
    torch.testing.assert_close(game(masks), same(masks), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"n_heads": 2}, "layers.0.o is named for heads.*finds 4 heads of 4 there, not 2"),
        ({"heads": ("layers.0.qkv", "layers.1.qkv")}, "finds heads at layers.0.o, layers.1.o"),
        ({"neurons": ("layers.0.up", "layers.1.up")}, "finds neurons at layers.0.down"),
        ({"heads": ("layers.1.o", "layers.0.o")}, "another order than they run in"),
    ],
)
def test_what_is_named_by_hand_is_compared_with_what_running_shows(
    options: dict[str, Any], error: str
) -> None:
    with pytest.warns(UserWarning, match=error):
        architecture_of(Bare(), named(**options))


def test_heads_that_are_interleaved_are_told() -> None:
    with pytest.warns(UserWarning, match="reads numbers that depend on several heads"):
        architecture_of(Bare(interleaved=True), named())
    with pytest.raises(ValueError, match="has no heads"):
        sm.Components.heads(Bare(interleaved=True))


def test_a_small_projection_beside_the_mlp_is_no_mlp() -> None:
    """Gemma 3n has one in each layer, and an MLP that keeps some of its numbers alone in the first:
    there, none is found, and that is said."""
    config = tf.Gemma3nTextConfig(
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, hidden_size=32,
        intermediate_size=48, vocab_size=61, vocab_size_per_layer_input=61, head_dim=8,
        num_kv_shared_layers=2, hidden_size_per_layer_input=8, laurel_rank=4, pad_token_id=0,
        activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0], sliding_window=3, bos_token_id=1,
        eos_token_id=2, layer_types=["sliding_attention", "full_attention"] * 2,
    )  # fmt: skip
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="neurons are found in 3 of the 4 layers"):
        found = architecture_of(tf.Gemma3nForCausalLM(config).eval())
    downs = (f"model.layers.{layer}.mlp.down_proj" for layer in (1, 2, 3))
    assert found.neurons == (None, *downs)
