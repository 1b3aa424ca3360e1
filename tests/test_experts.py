"""Experts as units: values beside a loop by hand that takes one expert's output away."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import spex_mech as sm

N_EXPERTS = 4
_SIZES: dict[str, Any] = {
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 32,
    "intermediate_size": 24, "vocab_size": 61, "max_position_embeddings": 64, "head_dim": 8,
    "num_experts_per_tok": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
FAMILIES: dict[str, Callable[[], Any]] = {
    "mixtral": lambda: tf.MixtralForCausalLM(
        tf.MixtralConfig(**_SIZES, num_local_experts=N_EXPERTS)
    ),
    "qwen3_moe": lambda: tf.Qwen3MoeForCausalLM(
        tf.Qwen3MoeConfig(**_SIZES, num_experts=N_EXPERTS, moe_intermediate_size=24)
    ),
    "gpt_oss": lambda: tf.GptOssForCausalLM(tf.GptOssConfig(**_SIZES, num_local_experts=N_EXPERTS)),
}
TOKENS = torch.randint(3, 61, (3, 6), generator=torch.Generator().manual_seed(0))


def build(family: str) -> Any:
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    model.set_experts_implementation("eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.normal_(0, 1.5 / max(weight.shape[-2:]) ** 0.5)
            elif "bias" in name and "router" not in name:
                weight.normal_()
    return model.double()


def one_expert(module: Any, expert: int, x: Tensor) -> Tensor:
    """What an expert makes of hidden states, by its weights: ``x [token width]``."""
    if type(module).__name__ == "GptOssExperts":
        both = x @ module.gate_up_proj[expert] + module.gate_up_proj_bias[expert]
        gate, up = both[..., ::2].clamp(max=module.limit), both[..., 1::2]
        up = up.clamp(-module.limit, module.limit)
        made = (up + 1) * gate * torch.sigmoid(gate * module.alpha)
        return made @ module.down_proj[expert] + module.down_proj_bias[expert]
    gate, up = (x @ module.gate_up_proj[expert].T).chunk(2, -1)
    return (nn.functional.silu(gate) * up) @ module.down_proj[expert].T


class ByHand:
    """One mask, one prompt at a time: each mixture is computed anew, expert by expert."""

    def __init__(self, model: Any, corrupted: Tensor) -> None:
        self.model = model
        self.lost: list[tuple[int, int]] = []
        self.seen: dict[tuple[int, int], Tensor] = {}
        self.reference: dict[tuple[int, int], Tensor] = {}
        for layer, block in enumerate(model.model.layers):
            block.mlp.experts.register_forward_hook(self._hook(layer), with_kwargs=True)
        self.of_prompts = [self._acts(row) for row in TOKENS]
        self.of_corrupted = [self._acts(row) for row in corrupted]

    def _hook(self, layer: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, made: Tensor) -> Tensor:
            x, chosen, weights = args
            total = torch.zeros_like(made)
            for expert in range(N_EXPERTS):
                weight = (weights * (chosen == expert)).sum(1, keepdim=True)
                own = one_expert(module, expert, x) * weight
                self.seen[layer, expert] = own
                total += self.reference[layer, expert] if (layer, expert) in self.lost else own
            if not self.lost:
                torch.testing.assert_close(total, made)  # it is what the model computes
            return total

        return hook

    @torch.no_grad()
    def _acts(self, row: Tensor) -> dict[tuple[int, int], Tensor]:
        self.lost = []
        self.model(row[None], use_cache=False)
        return {key: value.clone() for key, value in self.seen.items()}

    @torch.no_grad()
    def value(self, ablation: str, lost: list[tuple[int, int]], prompt: int) -> float:
        for key in lost:
            layer, expert = key
            acts = torch.stack([acts[key] for acts in self.of_prompts])
            others = torch.stack([acts[key] for acts in self.of_corrupted])
            self.reference[key] = {
                "zero": torch.zeros_like(acts[prompt]),
                "mean": acts.mean((0, 1)).expand(acts[0].shape),
                "mean_per_position": acts.mean(0),
                "mean of others": others.mean((0, 1)).expand(acts[0].shape),
                "resample": others[prompt],
                "given": some_tensors(*acts.shape[1:])[f"model.layers.{layer}.mlp.experts"][
                    prompt
                ].unflatten(1, (N_EXPERTS, -1))[:, expert],
            }[ablation]
        self.lost = lost
        logits = self.model(TOKENS[prompt][None], use_cache=False).logits
        return float(metric(logits, None)[0])  # type: ignore[arg-type]


def some_tensors(n_pos: int, width: int) -> dict[str, Tensor]:
    """For each mixture, what is given for its experts side by side: ``[prompt pos width]``."""
    generator = torch.Generator().manual_seed(4)
    names = [f"model.layers.{layer}.mlp.experts" for layer in (0, 1)]
    shape = (3, n_pos, N_EXPERTS * width)
    return {name: torch.randn(shape, generator=generator).double() for name in names}


def metric(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    flat = logits.flatten(1)
    return flat @ torch.arange(flat.shape[1]).to(flat).mul(0.7).cos()


def some_masks(n_units: int) -> Tensor:
    singles = ~torch.eye(n_units, dtype=torch.bool)
    generator = torch.Generator().manual_seed(2)
    return torch.cat([singles, torch.rand(3, n_units, generator=generator) > 0.4])


def check(family: str, ablation: str, replay: bool | None) -> None:
    model = build(family)
    corrupted = TOKENS.flip(1)
    options: dict[str, Any] = {"ablation": ablation}
    if ablation == "mean of others":
        corrupted = (TOKENS + 7) % 58 + 3
        options = {"ablation": "mean", "reference": sm.Prompts(corrupted)}
    if ablation == "given":
        options = {"ablation": some_tensors(TOKENS.shape[1], 32)}
    task = sm.Task(sm.Prompts(TOKENS, corrupted=corrupted), metric)
    game = sm.ModelGame(model, task, "experts", replay=replay, **options)
    assert game.units.labels == [f"L{layer}E{e}" for layer in (0, 1) for e in range(N_EXPERTS)]
    masks = some_masks(len(game))
    got = game(masks).cpu()
    if replay:
        assert game.describe()["passes"] == "replayed"
    hand = ByHand(model, corrupted)
    pairs = [(u.layer, int(u.label.rpartition("E")[2])) for u in game.units]
    lost = [[p for p, kept in zip(pairs, mask, strict=True) if not kept] for mask in masks]
    want = torch.tensor([[hand.value(ablation, one, p) for p in range(3)] for one in lost])
    effects = (want - torch.tensor([hand.value(ablation, [], p) for p in range(3)])).abs()
    assert (effects.amax(dim=1) > 0).all()
    assert float((got - want).abs().max()) <= 1e-5 * float(effects.max())


@pytest.mark.parametrize("replay", [True, False])
def test_values_are_those_of_a_loop_by_hand(replay: bool) -> None:
    check("mixtral", "mean", replay)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "ablation", ["zero", "mean", "mean_per_position", "mean of others", "resample", "given"]
)
@pytest.mark.parametrize("replay", [True, False])
def test_values_of_every_family_are(family: str, ablation: str, replay: bool) -> None:
    check(family, ablation, replay)


@pytest.mark.parametrize("how", ["batched_mm", "grouped_mm"])
def test_however_experts_are_computed(how: str) -> None:
    model, masks = build("qwen3_moe").float(), some_masks(2 * N_EXPERTS)
    values = []
    for implementation in ("eager", how):
        model.set_experts_implementation(implementation)
        game = sm.ModelGame(model, sm.Task(sm.Prompts(TOKENS), metric), "experts")
        values.append(game(masks))
    torch.testing.assert_close(values[0], values[1], rtol=1e-4, atol=1e-4)


def test_experts_stand_beside_heads_and_neurons() -> None:
    """Of shared experts and dense layers there are neurons, as before."""
    config = tf.Qwen2MoeConfig(
        **{k: v for k, v in _SIZES.items() if k != "head_dim"}, num_experts=N_EXPERTS,
        moe_intermediate_size=24, shared_expert_intermediate_size=16, mlp_only_layers=[0],
    )  # fmt: skip
    torch.manual_seed(0)
    model = tf.Qwen2MoeForCausalLM(config).eval()
    seen = sm.inspect_model(model)
    assert [(one.layer, one.kind, one.count) for one in seen.found] == [
        (0, "head", 4), (0, "neuron", 24), (1, "head", 4), (1, "neuron", 16), (1, "expert", 4),
    ]  # fmt: skip
    assert "4 experts" in str(seen) and seen.passes == "replayed"
    units = sm.Components.heads(model)[:2] + sm.Components.experts(model)
    both = units["L1E0", "L1E3"].group("two")
    game = sm.ModelGame(model, sm.Task(sm.Prompts(TOKENS), metric), units[:2] + both)
    assert game.units.kinds == ["head", "head", "group"]
    apart = sm.ModelGame(model, sm.Task(sm.Prompts(TOKENS), metric), units)
    lost = torch.tensor([[True, True, False, True, True, False]])
    torch.testing.assert_close(game(torch.tensor([[True, True, False]])), apart(lost))


def of_two_stacks(kind: str) -> Any:
    """Mixtures whose experts stand by name in a dictionary, in an encoder and in a decoder."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 61, "d_model": 32, "num_experts": N_EXPERTS}
    if kind == "nllb":
        each = {"layers": 2, "attention_heads": 4, "ffn_dim": 48, "sparse_step": 2}
        sizes |= {f"{s}_{n}": v for s in ("encoder", "decoder") for n, v in each.items()}
        config = tf.NllbMoeConfig(**sizes, pad_token_id=0, max_position_embeddings=64)
        return tf.NllbMoeForConditionalGeneration(config).eval().double()
    sizes |= {"d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 2}
    sizes |= {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
    config = tf.SwitchTransformersConfig(**sizes)
    return tf.SwitchTransformersForConditionalGeneration(config).eval().double()


@pytest.mark.parametrize("ablation", ["zero", "given"])
def test_experts_of_an_encoder_and_a_decoder(ablation: str) -> None:
    """Each is a module of its own here: its output times a weight is what it adds."""
    model, decoder = of_two_stacks("nllb"), TOKENS[:, :4].flip(0)
    prompts = sm.Prompts(TOKENS, inputs={"decoder_input_ids": decoder})
    task = sm.Task(prompts, lambda out, rows: metric(out.logits, rows))
    units = sm.Components.experts(model)
    assert units.labels == [f"{s}.L1E{e}" for s in ("encoder", "decoder") for e in range(N_EXPERTS)]
    name, n_pos = "model.{}.layers.1.ffn.experts", {"encoder": 6, "decoder": 4}
    given = {
        name.format(stack): torch.randn(3, n, N_EXPERTS * 32).double() for stack, n in n_pos.items()
    }
    game = sm.ModelGame(model, task, units, ablation="zero" if ablation == "zero" else given)
    masks = some_masks(8)
    got = game(masks)

    def by_hand(mask: Tensor, prompt: int) -> float:
        handles = []
        for label in [unit.label for unit, kept in zip(units, mask, strict=True) if not kept]:
            stack, _, expert = label.partition(".L1E")
            mixture = model.get_submodule(name.format(stack))
            own = mixture[f"expert_{expert}"]
            zero = own.register_forward_hook(lambda module, args, out: out * 0)
            every = given[name.format(stack)][prompt].unflatten(1, (N_EXPERTS, -1))
            more = every[:, int(expert)] * (ablation == "given")
            add = mixture.register_forward_hook(lambda module, args, out, more=more: out + more)
            handles += [zero, add]
        with torch.no_grad():
            out = model(TOKENS[prompt][None], decoder_input_ids=decoder[prompt][None])
        for handle in handles:
            handle.remove()
        return float(task.metric(out, prompts)[0])  # type: ignore[operator]

    want = torch.tensor([[by_hand(mask, prompt) for prompt in range(3)] for mask in masks])
    intact = torch.tensor([by_hand(torch.ones(8), prompt) for prompt in range(3)])
    largest = float((want - intact).abs().max())
    assert largest > 0
    assert float((got - want).abs().max()) <= 1e-5 * largest
    use = game.expert_use
    assert use is not None and use.n_tokens.tolist() == [18] * 4 + [12] * 4


@pytest.mark.parametrize("kind", ["nllb", "switch"])
def test_an_expert_in_a_dictionary_has_no_neurons_that_run_for_every_token(kind: str) -> None:
    """One that all tokens of a prompt choose looks like a dense layer on that prompt."""
    seen = sm.inspect_model(of_two_stacks(kind))
    assert [one.label for one in seen.found if one.kind == "neuron"] == ["encoder.L0", "decoder.L0"]
    (why,) = [text for text in seen.refused if text.startswith("no neurons")]
    assert why.startswith("no neurons in encoder 1, decoder 1: its MLPs are mixtures of experts")


def test_what_is_no_sum_of_experts_is_refused() -> None:
    model = build("mixtral")
    mixture = type(model.model.layers[0].mlp.experts)
    original = mixture.forward
    try:
        mixture.forward = lambda self, *args: original(self, *args).tanh()
        with pytest.raises(ValueError, match=r"has no experts: .* gives more than the sum"):
            sm.Components.experts(model)
    finally:
        mixture.forward = original
    with pytest.raises(ValueError, match="the model has no experts: no module of it is called"):
        sm.Components.experts(tf.GPT2LMHeadModel(tf.GPT2Config(n_layer=1, n_head=2, n_embd=8)))


def by_hand(model: Any, tokens: Tensor, real: Tensor) -> dict[tuple[int, int], tuple[int, float]]:
    """Of each expert: at how many real tokens the router's largest probabilities hold it, and the
    sum of its weights there, from the router's own logits, prompt by prompt."""
    found = {(layer, e): (0, 0.0) for layer in (0, 1) for e in range(N_EXPERTS)}
    for row, kept in zip(tokens, real, strict=True):
        logits: list[Tensor] = []

        def read(module: Any, args: Any, out: Any, logits: list[Tensor] = logits) -> None:
            logits.append(args[0].flatten(0, -2) @ module.weight.T)

        handles = [block.mlp.gate.register_forward_hook(read) for block in model.model.layers]
        with torch.no_grad():
            model(row[None, : int(kept.sum())], use_cache=False)
        for handle in handles:
            handle.remove()
        for layer, of_layer in enumerate(logits):
            for token in of_layer.softmax(-1):
                best = token.topk(2)
                for e, p in zip(best.indices.tolist(), best.values.tolist(), strict=True):
                    n, total = found[layer, e]
                    found[layer, e] = (n + 1, total + p / float(best.values.sum()))
    return found


@pytest.mark.filterwarnings("ignore:.*reads the output at padding")
@pytest.mark.parametrize("replay", [True, False])
def test_how_often_experts_are_used_is_what_their_routers_say(replay: bool) -> None:
    model, real = build("mixtral"), torch.ones_like(TOKENS, dtype=torch.bool)
    real[0, 4:] = False
    task = sm.Task(sm.Prompts(TOKENS, real), metric)
    units = sm.Components.experts(model)[:3]  # the table is of all
    use = sm.ModelGame(model, task, units, ablation="zero", replay=replay).expert_use
    assert use is not None
    want = by_hand(model, TOKENS, real)
    assert use.labels == tuple(f"L{layer}E{e}" for layer, e in want)
    assert use.n_tokens.tolist() == [16] * 8
    assert use.n_used.tolist() == [n for n, _ in want.values()]
    means = [total / n if n else math.nan for n, total in want.values()]
    np.testing.assert_allclose(use.weight, means, rtol=1e-6)
    assert use.share.reshape(2, -1).sum(1) == pytest.approx([2, 2])  # each token uses two
    table = use.frame().set_index("expert")
    assert table.loc["L1E2", "used"] == want[1, 2][0]
    most = use.labels[int(use.share.argmax())]
    assert f"{most} is used most" in str(use)


def test_the_use_of_experts_is_in_the_result_and_its_report(tmp_path: Path) -> None:
    task = sm.Task(sm.Prompts(TOKENS[:2, :2]), metric)
    game = sm.ModelGame(build("mixtral"), task, "experts", ablation="zero")
    found, use = sm.discover(game, progress=False), game.expert_use
    assert use is not None
    unused = int((use.n_used == 0).sum())
    assert unused and f"{unused} are never used" in use.words and "never used" in str(use)
    found.save(tmp_path / "found.npz")
    again = sm.Interactions.load(tmp_path / "found.npz")
    for result in (found, again):
        kept = result.about["experts"]
        assert kept["used"] == use.n_used.tolist() and kept["labels"] == [*use.labels]
        assert kept["weight"].count(None) == unused
        assert use.words in str(result) and use.words in result._repr_html_()
    page = sm.write_report(again, tmp_path / "page.html").read_text(encoding="utf-8")
    (table,) = re.findall(r'<section id="experts">.*?</section>', page, re.DOTALL)
    rows = re.findall(r"<bdi>(\w+)</bdi>.*?data-v=\"([\d.]+)\"", table)
    shares = dict(zip(use.labels, use.share.tolist(), strict=True))
    assert {label: float(share) for label, share in rows} == shares
    assert use.words in table


def test_a_model_without_experts_has_no_use_of_them() -> None:
    model = tf.GPT2LMHeadModel(tf.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=61)).eval()
    game = sm.ModelGame(model, sm.Task(sm.Prompts(TOKENS), metric))
    assert game.expert_use is None and "experts" not in game.provenance()
    of_heads = sm.ModelGame(build("mixtral"), sm.Task(sm.Prompts(TOKENS), metric), "L0H*")
    assert of_heads.expert_use is not None and "experts" not in of_heads.provenance()


def test_experts_that_no_token_chooses_change_nothing_and_have_slopes() -> None:
    """Equal rows of a batch differ by rounding: that is no effect of a gate without a slope."""
    task = sm.Task(sm.Prompts(TOKENS[:1, :2]), metric)
    game = sm.ModelGame(build("mixtral"), task, "experts", ablation="zero")
    masks = torch.cat([~torch.eye(len(game), dtype=torch.bool), torch.ones(1, 8, dtype=torch.bool)])
    values = game(masks)[:, 0]
    unused = (values[:-1] - values[-1]).abs() < game.noise_floor
    assert unused.sum() == 4 and values[:-1][unused].unique().shape == (1,)
    slopes = game.gradient(torch.full((1, len(game)), 0.5))[0]
    assert torch.equal(slopes[:4] == 0, unused[:4])  # behind halved experts others are chosen
