"""Models, shapes, wrappers, precisions and tasks out of the ordinary: each gets the value of a loop
by hand, or an error or warning of our own.

Each mended place was broken once. Caught here: calls of shared blocks, ALBERT's groups, all calls
as one, what others read too, weights elsewhere, slopes of 0 or infinite, searches of two models.
"""

import copy
import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import spex_mech as sm
from spex_mech.engine.watch import state_of
from tests.by_hand import ByHand, logit_diff
from tests.families import D_VOCAB, build
from tests.test_current_model import CLOSE, heads_gone, steer
from tests.test_engine import all_units, some_masks, some_prompts

N_POS = 7
_SIZES: dict[str, Any] = {
    "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32,
    "intermediate_size": 48, "vocab_size": D_VOCAB,
}  # fmt: skip


def zero_game(model: Any, **options: Any) -> sm.ModelGame:
    return sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"), ablation="zero", **options)


def answer_difference(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    """The metric by hand, of the logits where the answer is read."""
    assert prompts.answers is not None and prompts.wrong_answers is not None
    right, wrong = logits.gather(1, prompts.answers), logits.gather(1, prompts.wrong_answers)
    return (right - wrong)[:, 0]


# -- where rows, positions and slots lie ----------------------------------------------------------


class OneLayer(nn.Module):
    """An embedding, one MLP and a way out, for classes that say in which order axes lie."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.emb, self.out = nn.Embedding(D_VOCAB, 16), nn.Linear(16, D_VOCAB)
        self.l0 = nn.ModuleDict({"up": nn.Linear(16, 24), "down": nn.Linear(24, 16)})


class Grid(OneLayer):
    """[row height width channel], as Swin, ConvNeXt and mixers."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens[:, :4]).unflatten(1, (2, 2))
        x = x + self.l0["down"](self.l0["up"](x).relu())
        scale = torch.tensor([1.0, 2.0])[None, :, None, None]
        return self.out((x * scale).tanh().mean((1, 2)))


class PositionsFirst(OneLayer):
    """[pos row width] inside, as fairseq's and torch's own transformers by default."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens.T)
        x = x + self.l0["down"](self.l0["up"](x).relu())
        return self.out(x.cumsum(0).tanh().mean(0))


@pytest.mark.parametrize("make", [Grid, PositionsFirst])
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_activations_that_are_not_rows_positions_width(make: Any, ablation: str) -> None:
    model, prompts = make().eval(), some_prompts()
    arch = sm.Architecture(heads=(None,), neurons=("l0.down",), n_heads=1)
    units = sm.Components.neurons(model, architecture=arch)
    game = sm.ModelGame(
        model, sm.Task(prompts, "logit_diff"), units, ablation=ablation, architecture=arch
    )
    masks, acts, rows = some_masks(5, 24, 0.4), [], []
    down = model.l0["down"]
    handle = down.register_forward_pre_hook(lambda module, args: acts.append(args[0]))
    model(prompts.tokens)
    handle.remove()
    mean = acts[0].flatten(0, -2).mean(0) * (ablation == "mean")
    for mask in masks:
        handle = down.register_forward_pre_hook(
            lambda module, args, mask=mask: (torch.where(mask, args[0], mean),)
        )
        with torch.no_grad():
            rows.append(answer_difference(model(prompts.tokens), prompts).double())
        handle.remove()
    torch.testing.assert_close(game(masks), torch.stack(rows), **CLOSE)
    assert (game(masks)[1:] - game(masks)[0]).abs().min() > 1e-4


def test_the_mean_of_an_image_is_over_its_patches() -> None:
    config = tf.ViTConfig(**{k: v for k, v in _SIZES.items() if k != "vocab_size"}, image_size=8,
        patch_size=4, num_labels=5)  # fmt: skip
    torch.manual_seed(0)
    images = torch.randn(6, 3, 8, 8)

    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = tf.ViTForImageClassification(config).eval()

        def forward(self, tokens: Tensor) -> Tensor:
            return self.vit(images[tokens[:, 0]]).logits

    model = Images()
    names = tuple(n for n, _ in model.named_modules() if n.endswith("attention.o_proj"))
    assert len(names) == 2
    prompts = sm.Prompts(torch.arange(6)[:, None], answers=[0] * 6, wrong_answers=[1] * 6)
    arch = sm.Architecture(heads=names, neurons=(None, None), n_heads=4)
    game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), architecture=arch)
    acts: list[Tensor] = []
    first = model.get_submodule(names[0])
    handle = first.register_forward_pre_hook(lambda module, args: acts.append(args[0]))
    with torch.no_grad():
        model(prompts.tokens)
    handle.remove()
    torch.testing.assert_close(game.references[names[0]][0, 0], acts[0].mean((0, 1)))


def shared_llama() -> Any:
    """Four layers of two blocks, each of which runs twice in a row."""
    torch.manual_seed(0)
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**(_SIZES | {"num_hidden_layers": 4}))).eval()
    layers = model.model.layers
    layers[1], layers[3] = layers[0], layers[2]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.mul_(4)
    model.config.use_cache = False  # blocks that share a module would share its cache
    return model


def albert() -> Any:
    """Two groups, each of which runs for two layers in turn."""
    torch.manual_seed(0)
    config = tf.AlbertConfig(
        **(_SIZES | {"num_hidden_layers": 4}), embedding_size=16, num_hidden_groups=2
    )
    model = tf.AlbertForMaskedLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "embed" not in name:
                weight.mul_(4)
    return model


def albert_places(model: Any) -> dict[tuple[str, int], tuple[nn.Module, int]]:
    places = {}
    for layer in range(4):
        block = model.albert.encoder.albert_layer_groups[layer // 2].albert_layers[0]
        places["head", layer] = (block.attention.dense, layer % 2)
        places["neuron", layer] = (block.ffn_output, layer % 2)
    return places


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_albert_has_a_head_for_each_call(ablation: str) -> None:
    model, prompts = albert(), some_prompts()
    heads, neurons = sm.Components.heads(model), sm.Components.neurons(model)
    assert (len(heads), len(neurons)) == (16, 4 * 48)
    units = heads + neurons[::12]
    game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), units, ablation=ablation)
    masks = some_masks(6, len(units))
    plain = ByHand(model, prompts, lambda: albert_places(model))
    slots = [[(u.kind, u.layer, u.index)] for u in units]
    references = plain.references(ablation, None, {})
    want = plain.values(masks.float(), slots, references, logit_diff).detach()
    torch.testing.assert_close(game(masks), want, rtol=1e-4, atol=1e-5)
    assert (want[1:] - want[0]).abs().min() > 1e-4
    # All calls as one unit: the calls of each ablated together.
    together = (heads + neurons[:12]).all_calls()
    assert together.labels[:5] == ["L0H0*", "L0H1*", "L0H2*", "L0H3*", "L2H0*"]
    assert together.table()[4].slots == ("L2H0", "L3H0")
    assert sm.Components.named(model, ["l2h0"]).labels == ["L2H0"]
    assert sm.Components.named(model, ["L2H0*"]).units == together["L2H0*"].units
    joined = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), together, ablation=ablation)
    masks = some_masks(6, len(together))
    pairs = [(0, 1), (2, 3)]
    slots = [
        [(u.kind, layer, u.index) for layer in next(p for p in pairs if u.layer in p)]
        for u in together
    ]
    want = plain.values(masks.float(), slots, references, logit_diff).detach()
    torch.testing.assert_close(joined(masks), want, rtol=1e-4, atol=1e-5)
    found = sm.discover(joined, "exhaustive", budget=100, progress=False)
    assert set(found.unit_table.kinds) == {"group"}


def test_all_calls_of_modules_that_run_once() -> None:
    with pytest.raises(ValueError, match="runs several times"):
        sm.Components.heads(build("gpt2")).all_calls()


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_a_head_is_one_call_of_its_module(ablation: str) -> None:
    model, prompts = shared_llama(), some_prompts()
    game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), ablation=ablation)
    assert game.labels == [f"L{layer}H{head}" for layer in range(4) for head in range(4)]
    masks = some_masks(6, 16)
    modules = [model.model.layers[number].self_attn.o_proj for number in (0, 2)]

    def run(rewrite: Callable[[int, Tensor], Tensor]) -> Tensor:
        count, handles = [0], []

        def hook(module: nn.Module, args: Any) -> Any:
            count[0] += 1
            return (rewrite(count[0] - 1, args[0]),)

        for module in modules:
            handles.append(module.register_forward_pre_hook(hook))
        with torch.no_grad():
            logits = model(prompts.tokens, use_cache=False).logits[:, -1]
        for handle in handles:
            handle.remove()
        assert count[0] == 4
        return answer_difference(logits, prompts).double()

    means = {}

    def record(layer: int, act: Tensor) -> Tensor:
        means[layer] = act.flatten(0, 1).mean(0) * (ablation == "mean")
        return act

    run(record)

    def ablated(mask: Tensor) -> Tensor:
        kept = mask.reshape(4, 4).repeat_interleave(8, dim=1)
        return run(lambda layer, act: torch.where(kept[layer], act, means[layer]))

    want = torch.stack([ablated(mask) for mask in masks])
    torch.testing.assert_close(game(masks), want, **CLOSE)


@pytest.mark.parametrize("shared", ["mlp", "self_attn.o_proj"])
def test_a_module_that_two_blocks_share_is_a_part_of_each(shared: str) -> None:
    model = build("llama")
    holder, _, name = f".{shared}".rpartition(".")
    first, second = (block.get_submodule(holder[1:]) for block in model.model.layers)
    setattr(second, name, getattr(first, name))
    found = sm.inspect_model(model).found
    assert [(x.kind, x.label) for x in found] == [
        ("head", "L0"), ("neuron", "L0"), ("head", "L1"), ("neuron", "L1"),
    ]  # fmt: skip
    prompts = some_prompts()
    neurons = sm.Components.neurons(model, layers=[1])[:1]
    value = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), neurons, ablation="zero")
    down, n_calls = model.model.layers[1].mlp.down_proj, [0]

    def hook(module: nn.Module, args: Any) -> Any:
        n_calls[0] += 1
        if n_calls[0] != (2 if shared == "mlp" else 1):
            return None
        gone = args[0].clone()
        gone[..., 0] = 0
        return (gone,)

    handle = down.register_forward_pre_hook(hook)
    with torch.no_grad():
        logits = model(prompts.tokens, use_cache=False).logits[:, -1]
    handle.remove()
    want = answer_difference(logits, prompts).double()
    torch.testing.assert_close(value([[False]])[0], want, **CLOSE)


# -- what is wrapped around, and where weights wait -----------------------------------------------


def after_a_pass(model: Any) -> Any:
    """Compiled by now: hooks that come after this may be ignored."""
    with torch.no_grad():
        model(torch.zeros(1, 3, dtype=torch.long))
    return model


def compiled(model: Any) -> Any:
    return after_a_pass(torch.compile(model, backend="eager"))


def compiled_in_place(model: Any) -> Any:
    model.compile(backend="eager")
    return after_a_pass(model)


def with_blocks_compiled_in_place(model: Any) -> Any:
    for block in model.transformer.h:
        block.compile(backend="eager")
    return after_a_pass(model)


def compiled_block_by_block(model: Any) -> Any:
    blocks = model.transformer.h
    for number, block in enumerate(blocks):
        blocks[number] = torch.compile(block, backend="eager")
    return after_a_pass(model)


def with_compiled_forwards(model: Any) -> Any:
    for block in model.transformer.h:
        block.attn.forward = torch.compile(block.attn.forward, backend="eager")
    return after_a_pass(model)


def by_nnsight(model: Any) -> Any:
    return pytest.importorskip("nnsight").NNsight(model)


def by_pyvene(model: Any) -> Any:
    pyvene = pytest.importorskip("pyvene")
    one = {
        "layer": 0,
        "component": "block_output",
        "intervention_type": pyvene.VanillaIntervention,
    }
    return pyvene.IntervenableModel(pyvene.IntervenableConfig([one]), model=model)


def waiting_in_memory(model: Any) -> Any:
    accelerate = pytest.importorskip("accelerate")
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def waiting_on_disk(model: Any) -> Any:
    accelerate = pytest.importorskip("accelerate")
    places = {"transformer.wte": "cpu", "transformer.wpe": "cpu", "transformer.drop": "cpu",
        "transformer.h.0": "disk", "transformer.h.1": "disk", "transformer.ln_f": "cpu",
        "lm_head": "cpu"}  # fmt: skip
    folder = tempfile.mkdtemp(prefix="spex_mech_test_")
    accelerate.dispatch_model(
        model, places, main_device="cpu", offload_dir=folder, force_hooks=True
    )
    weakref.finalize(model, shutil.rmtree, folder)
    return model


def with_lora_of_no_task(model: Any) -> Any:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)
    return peft.get_peft_model(model, config).eval()


WRAPPERS = (
    compiled,
    compiled_in_place,
    with_blocks_compiled_in_place,
    compiled_block_by_block,
    with_compiled_forwards,
    by_nnsight,
    by_pyvene,
    waiting_in_memory,
    waiting_on_disk,
    with_lora_of_no_task,
)


@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.filterwarnings("ignore:.*(is_gradient_checkpointing|You passed|deprecated)")
def test_what_is_wrapped_around_a_model(wrap: Any) -> None:
    prompts, masks = some_prompts(), some_masks(5, 8)
    want = heads_gone(build("gpt2"), prompts, masks)
    game = zero_game(wrap(build("gpt2")))
    for _ in range(3):
        torch.testing.assert_close(game(masks), want, **CLOSE)
    assert not game.changes()
    if wrap not in (by_nnsight, by_pyvene):
        assert game.provenance()["passes"] == "replayed"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")
def test_prompt_tuning_says_what_to_do() -> None:
    peft = pytest.importorskip("peft")
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    model = peft.get_peft_model(build("gpt2"), config).eval()
    with pytest.raises(ValueError, match=r"logits at 11 positions for 7 tokens"):
        zero_game(model)


def test_a_projection_called_by_keyword() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.emb, self.up = nn.Embedding(D_VOCAB, 16), nn.Linear(16, 24)
            self.out, self.l = nn.Linear(16, D_VOCAB), nn.ModuleList([nn.Linear(24, 16)])

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.emb(tokens)
            return self.out(x + self.l[0](input=self.up(x).relu()))

    model, prompts = Keyword(), some_prompts()
    arch = sm.Architecture(heads=(None,), neurons=("l.0",), n_heads=1)
    units = sm.Components.neurons(model, architecture=arch)
    game = sm.ModelGame(
        model, sm.Task(prompts, "logit_diff"), units, architecture=arch, ablation="zero"
    )
    mask = torch.ones(1, 24, dtype=torch.bool)
    mask[0, :6] = False
    with torch.no_grad():
        x = model.emb(prompts.tokens)
        act = model.up(x).relu() * mask[0]
        logits = model.out(x + model.l[0](act))[:, -1]
    torch.testing.assert_close(game(mask)[0].float(), answer_difference(logits, prompts), **CLOSE)
    assert "by name alone" in game.provenance()["passes"]


# -- precision ------------------------------------------------------------------------------------


def test_an_autocast_around_changes_nothing() -> None:
    masks = some_masks(5, 8)
    want = zero_game(build("gpt2"))(masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(zero_game(build("gpt2"))(masks), want, rtol=0, atol=0)


def test_an_autocast_inside_the_model_is_half_precision() -> None:
    class Autocast(tf.LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(*args, **kwargs)

    llama, masks = build("llama"), some_masks(24, 8)
    model = Autocast(llama.config).eval()
    model.load_state_dict(llama.state_dict())
    with pytest.warns(UserWarning, match="cannot be replayed"):
        game = zero_game(model)
    exact, rounded = zero_game(llama)(masks).mean(1), game(masks).mean(1)
    off = ((rounded - rounded[0]) - (exact - exact[0])).square().mean().sqrt().item()
    assert game.noise_floor > off > 1e-3
    assert game.coarse is not None and "bfloat16" in game.coarse.cause
    assert "without autocast" in game.coarse.cure


class WritesOver(nn.Module):
    """A model that uses the memory of an activation again, later in the pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.emb, self.out = nn.Embedding(D_VOCAB, 16), nn.Linear(16, D_VOCAB)
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens)
        h = self.up(x).relu()
        y = self.down(h).cumsum(1).tanh()
        with torch.no_grad():
            h.mul_(-2)
        return self.out(x + y)


@pytest.mark.parametrize("ablation", ["mean", "resample"])
def test_a_model_that_writes_over_its_activations(ablation: str) -> None:
    model, prompts, masks = WritesOver().eval(), some_prompts(), some_masks(5, 24, 0.4)
    arch = sm.Architecture(heads=(None,), neurons=("down",), n_heads=1)
    units = sm.Components.neurons(model, architecture=arch)
    game = sm.ModelGame(
        model, sm.Task(prompts, "logit_diff"), units, ablation=ablation, architecture=arch
    )
    plain = ByHand(model, prompts, lambda: {("neuron", 0): (model.down, 0)}, takes_cache=False)
    slots = [[("neuron", 0, unit.index)] for unit in units]
    references = plain.references(ablation, None, {})
    with torch.no_grad():
        want = plain.values(masks.float(), slots, references, logit_diff)
    torch.testing.assert_close(game(masks), want, **CLOSE)
    assert (want[1:] - want[0]).abs().min() > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steering_after_the_last_block_in_half_precision(dtype: torch.dtype) -> None:
    model = build("gpt2").to(dtype)
    model.transformer.h[1].register_forward_hook(steer)
    masks = some_masks(6, 8)
    got, plain = zero_game(model)(masks), zero_game(model, replay=False)(masks)
    change = (plain[1:] - plain[0]).abs().max()
    assert ((got - got[0]) - (plain - plain[0])).abs().max() < 0.05 * change


@pytest.mark.filterwarnings("ignore:.*(torch.ao.quantization|quantize_per|autograd kernel)")
def test_int8_has_no_gradients_and_a_floor_above_its_noise() -> None:
    llama = build("llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(llama, {nn.Linear})
    with (
        pytest.warns(UserWarning, match="another value alone than beside"),
        pytest.warns(UserWarning, match="cannot be replayed"),
    ):
        game = zero_game(model, components=all_units(llama)[:20])
    assert not game.has_slopes and "quantised" in game.why_no_slopes
    masks = some_masks(24, 20)
    means = torch.stack([zero_rows(model, game, masks, rows) for rows in (1, 3, 9, 72)])
    spread = (means - means[0]).abs().max().item()
    assert spread > 1e-5  # values depend on what shares the batch
    assert game.noise_floor > spread


@pytest.mark.parametrize("where", ["transformer.h.0", "transformer.ln_f"])
@pytest.mark.filterwarnings("ignore:.*cannot be replayed")
def test_rows_that_change_each_other_are_told(where: str) -> None:
    """A hook that adds the mean of the batch, after a block or before the unembedding."""
    model, masks = build("gpt2"), some_masks(4, 8)

    def mixed(module: nn.Module, args: Any, out: Any) -> Any:
        return out + 0.3 * out.mean(0, keepdim=True)

    model.get_submodule(where).register_forward_hook(mixed)
    for replay in (None, False):
        with pytest.warns(UserWarning, match=r"GPT2.* another value alone .*give batch_size=1"):
            game = zero_game(model, replay=replay)
        off = (game(masks) - heads_gone_alone(model, masks)).abs().max()
        assert off > game.noise_floor  # which is why it must be told
        alone = zero_game(model, replay=replay, batch_size=1)
        torch.testing.assert_close(alone(masks), heads_gone_alone(model, masks), **CLOSE)
    task = sm.Task(some_prompts()[:1], "logit_diff")
    with pytest.warns(UserWarning, match=r"another value alone .*give batch_size=1"):
        sm.TokenGame(model, task, masking="token", mask_id=3)
    sm.TokenGame(model, task, masking="token", mask_id=3, batch_size=1)


def heads_gone_alone(model: Any, masks: Tensor) -> Tensor:
    """One prompt at a time."""
    prompts = some_prompts()
    each = [heads_gone(model, prompts[row : row + 1], masks) for row in range(len(prompts))]
    return torch.cat(each, dim=1)


def zero_rows(model: Any, game: sm.ModelGame, masks: Tensor, rows: int) -> Tensor:
    game.batch_size = rows
    return game(masks).mean(1)


# -- gradients ------------------------------------------------------------------------------------


def accuracy(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    assert prompts.answers is not None
    return (logits[:, -1].argmax(-1) == prompts.answers[:, 0]).float()


def test_a_search_without_gradients_says_so() -> None:
    model = build("gpt2")
    game = sm.ModelGame(model, sm.Task(some_prompts(), accuracy), all_units(model)[:20])
    with pytest.warns(UserWarning, match=r"does without gradients: the metric accuracy has no"):
        found = sm.discover(game, budget=150, progress=False)
    assert "accuracy has no gradient" in found.about["without_gradients"]
    assert found.cost["gradients"] == 0
    with pytest.raises(ValueError, match="gradients=True, but the metric accuracy has no"):
        sm.discover(game, budget=150, progress=False, gradients=True)
    said = sm.discover(game, budget=150, progress=False, gradients=False)  # and no warning
    assert "without_gradients" not in said.about


def detached(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return logits.detach()[:, -1, 0]


def test_a_circuit_without_gradients_says_so() -> None:
    model = build("gpt2")
    game = sm.ModelGame(model, sm.Task(some_prompts(), detached), all_units(model)[:20])
    found = sm.discover(game, budget=150, progress=False, gradients=False)
    with pytest.warns(UserWarning, match="circuit is searched without gradients: the metric"):
        circuit = sm.find_circuit(game, found, size=5, budget=60, scores_budget=60)
    assert "without_gradients" in circuit.about
    assert circuit.cost["gradients"] == 0


def test_slopes_that_reach_some_units_alone_are_none() -> None:
    """Attention behind a detach: its heads have slopes of 0, and effects."""
    model = build("gpt2")
    for block in model.transformer.h:
        block.attn.c_proj.register_forward_hook(lambda module, args, out: out.detach())
    game = sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"), all_units(model))
    assert not game.has_slopes
    assert "reaches 8 of the 104 units (L0H0" in game.why_no_slopes


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0])
def test_slopes_that_a_backward_hook_changes_are_told(family: str, scale: float) -> None:
    model = build(family)
    last = model.transformer.h[-1] if family == "gpt2" else model.model.layers[-1]
    game = sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"), all_units(model))
    assert game.has_slopes  # and says nothing
    last.register_full_backward_hook(
        lambda module, grads, _: tuple(None if grad is None else scale * grad for grad in grads)
    )
    with pytest.warns(UserWarning, match="gradient of the metric logit_diff is not how its values"):
        assert game.has_slopes


def test_slopes_of_half_a_stream_are_told() -> None:
    """What is detached in part has slopes everywhere, and they are too small."""
    model = build("gpt2")
    model.transformer.ln_f.register_forward_pre_hook(
        lambda module, args: (args[0] / 2 + args[0].detach() / 2,)
    )
    game = sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"), all_units(model))
    with pytest.warns(UserWarning, match="gradient of the metric logit_diff is not how its values"):
        sm.discover(game, budget=120, progress=False)


def test_a_forward_without_gradients() -> None:
    class NoGrad(tf.GPT2LMHeadModel):
        @torch.no_grad()
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    assert "torch.no_grad" in zero_game(NoGrad(build("gpt2").config).eval()).why_no_slopes
    with torch.inference_mode():
        frozen = build("gpt2")
    assert "inference_mode" in zero_game(frozen).why_no_slopes


# -- tasks ----------------------------------------------------------------------------------------


def test_an_answer_listed_twice_counts_once() -> None:
    tokens = some_prompts().tokens
    prompts = sm.Prompts(tokens, answers=[list(range(D_VOCAB)) * 2] * 3)
    values = sm.ModelGame(build("gpt2"), sm.Task(prompts, "log_prob"))(some_masks(3, 8))
    torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-5)


def test_kl_of_some_prompts_in_another_order() -> None:
    model, prompts, masks = build("gpt2"), some_prompts(), some_masks(4, 8)
    want = sm.ModelGame(model, sm.Task(prompts, "kl"), ablation="zero")(masks)
    for rows in ([2, 0, 1], [1, 2]):
        game = sm.ModelGame(model, sm.Task(prompts[rows], "kl"), ablation="zero")
        torch.testing.assert_close(game(masks), want[:, rows], **CLOSE)


def test_tasks_in_which_nothing_can_change() -> None:
    model, p = build("gpt2"), some_prompts()
    short = sm.Prompts(p.tokens[:1, :1], answers=[5], wrong_answers=[6])
    masks = some_masks(3, 8)
    for prompts, ablation, reference in (
        (p[:1], "mean_per_position", None),
        (p.replaced(corrupted=p.tokens), "resample", None),
        (short, "mean", None),
        (p, "zero", p[:1]),
    ):
        with pytest.raises(ValueError, match=r"changes nothing|leave it out"):
            task = sm.Task(prompts, "logit_diff")
            sm.ModelGame(model, task, ablation=ablation, reference=reference)(masks)
    same = sm.Prompts(p.tokens[:1].repeat(8, 1), answers=[5] * 8, wrong_answers=[9] * 8)
    with pytest.warns(UserWarning, match="only 1 of the 8 prompts differ"):
        sm.ModelGame(model, sm.Task(same, "logit_diff"))


def test_prompts_that_no_model_can_read() -> None:
    p, model = some_prompts(), build("gpt2")
    roberta = tf.RobertaForMaskedLM(
        tf.RobertaConfig(**_SIZES, max_position_embeddings=16, pad_token_id=1)
    ).eval()

    def prompts(tokens: Any, **fields: Any) -> sm.Prompts:
        n = len(tokens)
        return sm.Prompts(tokens, **{"answers": [4] * n, "wrong_answers": [5] * n, **fields})

    def game(asked: Any, of: Any = model, **options: Any) -> None:
        sm.ModelGame(of, sm.Task(asked, "logit_diff"), **options)(some_masks(3, 8))

    long = torch.randint(3, D_VOCAB, (2, 65))
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: game(prompts(long[:, :15]), roberta), "15 tokens, and the model reads at most 14"),
        (lambda: game(p, reference=prompts(long)), "reference prompts have 65 tokens"),
        (lambda: game(p, reference=prompts([[5, 99]])), "reference prompts' tokens .* 99"),
        (lambda: game(prompts([[5, -1, 7]])), "token -1"),
        (lambda: game(prompts(p.tokens, answer_pos=[N_POS] * 3)), "positions run from 0 to 6"),
        (lambda: game(prompts(p.tokens, answer_pos=[-1] * 3)), "answer_pos is -1"),
        (lambda: sm.Prompts(["hello", "there"]), "are texts"),
    ]
    for run, text in cases:
        with pytest.raises(ValueError, match=text):
            run()
    encoded = tf.BatchEncoding({"input_ids": [[5, 6, 7]], "attention_mask": [[1, 1, 1]]})
    assert sm.Prompts(encoded).tokens.tolist() == [[5, 6, 7]]


@pytest.mark.filterwarnings("ignore:.* is named for .*does not bear it out")
def test_a_query_projection_is_no_place_of_heads() -> None:
    model = build("llama")
    for name, kind in (("self_attn.q_proj", "heads"), ("mlp.up_proj", "neurons")):
        names = tuple(f"model.layers.{layer}.{name}" for layer in range(2))
        own = {"heads": (None, None), "neurons": (None, None)} | {kind: names}
        arch = sm.Architecture(**own, n_heads=4)  # type: ignore[arg-type]
        units = getattr(sm.Components, kind)(model, architecture=arch)
        with pytest.raises(ValueError, match=r"reads the same as .* it is no output"):
            zero_game(model, components=units, architecture=arch)


def test_pairs_of_sentences_without_token_types_are_warned_of() -> None:
    tokens = some_prompts().tokens.clone()
    tokens[:, [3, -1]] = 2
    prompts = sm.Prompts(tokens, answers=[5, 6, 7], wrong_answers=[8, 9, 10])
    with pytest.warns(UserWarning, match=r"token 2, .* inside 3 of them .*token_types"):
        sm.ModelGame(build("bert"), sm.Task(prompts, "logit_diff"))
    typed = prompts.replaced(token_types=(torch.arange(N_POS) > 3).long().expand(3, -1))
    sm.ModelGame(build("bert"), sm.Task(typed, "logit_diff"))
    sm.ModelGame(build("gpt2"), sm.Task(prompts, "logit_diff"))


class Infinite(Grid):
    """Some activations are infinite, and what follows makes them finite."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.emb(tokens)
        h = self.l0["up"](x)
        h = torch.where(h > 1, torch.inf, h).relu()
        return self.out(x + self.l0["down"](h).nan_to_num(posinf=3, neginf=-3))


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_infinite_activations_are_values_and_no_slopes(ablation: str) -> None:
    model, prompts, masks = Infinite().eval(), some_prompts(), some_masks(5, 24, 0.4)
    arch = sm.Architecture(heads=(None,), neurons=("l0.down",), n_heads=1)
    units = sm.Components.neurons(model, architecture=arch)
    game = sm.ModelGame(
        model, sm.Task(prompts, "logit_diff"), units, ablation=ablation, architecture=arch
    )
    plain = ByHand(model, prompts, lambda: {("neuron", 0): (model.l0["down"], 0)})
    plain.takes_cache = False
    acts = plain.seen(prompts)["neuron", 0]
    assert acts.isinf().any()
    reference = {
        "zero": torch.zeros(()),
        "mean": acts.flatten(0, 1).mean(0),
        "resample": plain.references("resample", None, {})["neuron", 0],
    }[ablation]
    want = [
        logit_diff(
            plain.logits(prompts, lambda kind, layer, a, m=m: torch.where(m, a, reference)),
            prompts,
        )
        for m in masks
    ]
    torch.testing.assert_close(game(masks), torch.stack(want).detach().double(), **CLOSE)
    assert "not finite" in game.why_no_slopes
    with pytest.raises(ValueError, match=r"not finite.*gradients=False"):
        game.gradient(masks)


def test_a_slope_that_is_infinite_on_one_prompt_alone() -> None:
    prompts = some_prompts()
    rare = next(int(t) for t in prompts.tokens[1] if t not in prompts.tokens[0])

    class OnOne(Infinite):
        def forward(self, tokens: Tensor) -> Tensor:
            x = self.emb(tokens)
            h = torch.where((tokens == rare)[..., None], torch.inf, self.l0["up"](x)).relu()
            return self.out(x + self.l0["down"](h).nan_to_num(posinf=3, neginf=-3))

    model = OnOne().eval()
    arch = sm.Architecture(heads=(None,), neurons=("l0.down",), n_heads=1)
    units = sm.Components.neurons(model, architecture=arch)
    game = sm.ModelGame(
        model, sm.Task(prompts, "logit_diff"), units, ablation="zero", architecture=arch
    )
    assert game.has_slopes  # which one prompt tells
    with pytest.raises(ValueError, match=r"not finite.*gradients=False"):
        game.gradient(some_masks(3, 24))


def test_weights_that_wait_elsewhere_are_no_change() -> None:
    layer = nn.Linear(2, 2, device="meta")
    had, before = layer.weight, state_of(layer)
    layer.weight = nn.Parameter(torch.empty(2, 2, device="meta"))  # as accelerate makes it anew
    assert layer.weight is not had and state_of(layer) == before


# -- changes within a search ----------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True])
def test_a_search_never_mixes_two_models(kept: bool, tmp_path: Any) -> None:
    model, prompts = build("gpt2"), some_prompts()
    store = {"store": tmp_path / "run.sqlite"} if kept else {}
    untouched = sm.ModelGame(copy.deepcopy(model), sm.Task(prompts, "logit_diff"))
    want = sm.discover(untouched, method="exhaustive", progress=False)
    game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"))
    n_asked = [0]

    class Changing(type(game)):  # type: ignore[misc]
        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            n_asked[0] += 1
            if n_asked[0] == 2:
                model.transformer.h[0].mlp.c_fc.weight.data.mul_(3)
            return super().evaluate(*args, **kwargs)

    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    game.__class__ = Changing
    with pytest.raises(RuntimeError, match=r"weights of .* changed during the search"):
        sm.discover(game, method="exhaustive", progress=False, **store)
    model.load_state_dict(before)
    again = sm.discover(game, method="exhaustive", progress=False, **store)
    torch.testing.assert_close(again.mean, want.mean, rtol=1e-4, atol=1e-5)
    model.transformer.h[0].mlp.c_fc.weight.data.mul_(2)  # before a search it may change
    n_asked[0] = 5
    sm.discover(game, method="exhaustive", progress=False)
