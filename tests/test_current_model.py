"""Every call answers for the model as it is: changes of every kind, before and between calls, and
what else runs the model at the same time.

Each mended place was broken once. Caught here: hooks, samples of weights or behaviour not looked
at, nothing made anew, changes within a call unsaid or lost, passes of other threads, all of texts.
"""

import concurrent.futures
import copy
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import spex_mech as sm
from spex_mech.report.page import page_of
from spex_mech.runs.store import identity_of
from tests.families import D_VOCAB, build
from tests.test_engine import all_units, some_masks, some_prompts

CLOSE: dict[str, float] = {"rtol": 1e-4, "atol": 1e-5}


def heads_gone(model: nn.Module, prompts: sm.Prompts, masks: Tensor) -> Tensor:
    """Zero ablation of GPT-2's eight heads by a loop of hooks, for each mask ``[mask prompt]``."""
    rows = []
    for mask in masks.reshape(-1, 2, 4):
        handles = []
        for layer, kept in enumerate(mask):

            def gone(module: nn.Module, args: Any, kept: Tensor = kept) -> Any:
                return (args[0] * kept.repeat_interleave(8),)

            module = model.transformer.h[layer].attn.c_proj
            handles.append(module.register_forward_pre_hook(gone))
        with torch.no_grad():
            logits = model(prompts.tokens).logits[:, -1]
        for handle in handles:
            handle.remove()
        assert prompts.answers is not None and prompts.wrong_answers is not None
        right, wrong = logits.gather(1, prompts.answers), logits.gather(1, prompts.wrong_answers)
        rows.append((right - wrong)[:, 0].double())
    return torch.stack(rows)


def steer(module: nn.Module, args: Any, out: Any) -> Any:
    """A steering vector, as people add it."""
    first = out[0] if isinstance(out, tuple) else out
    moved = first + torch.linspace(-1, 1, first.shape[-1]).to(first)
    return (moved, *out[1:]) if isinstance(out, tuple) else moved


def steer_in_place(module: nn.Module, args: Any, out: Any) -> None:
    first = out[0] if isinstance(out, tuple) else out
    first.add_(torch.linspace(-1, 1, first.shape[-1]).to(first))


def in_no_grad(model: nn.Module) -> None:
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight.mul_(3)


def by_optimizer(model: nn.Module) -> None:
    model.zero_grad()
    model(torch.arange(3, 12)[None]).logits.square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()


def assigned(model: nn.Module) -> None:
    state = {k: v * (1.5 if "mlp" in k else 1) for k, v in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def one_embedding(model: nn.Module) -> None:
    """A token that the prompt which is run at each call does not hold."""
    tokens = some_prompts().tokens
    rare = next(int(t) for t in tokens[1] if t not in tokens[0])
    model.transformer.wte.weight.data[rare] *= -1


def new_parameter(model: nn.Module) -> None:
    block = model.transformer.h[1]
    block.ln_1.weight = nn.Parameter(block.ln_1.weight.detach() * 2)


def exchanged(model: nn.Module) -> None:
    other = copy.deepcopy(model.transformer.h[0].mlp)
    with torch.no_grad():
        other.c_fc.weight.neg_()
    model.transformer.h[0].mlp = other


def patched(model: nn.Module) -> None:
    mlp = model.transformer.h[0].mlp
    original = mlp.forward
    mlp.forward = lambda x: 2 * original(x)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "weights in place": in_no_grad,
    "weights by .data": lambda m: m.transformer.h[0].mlp.c_fc.weight.data.mul_(3),
    "one embedding by .data": one_embedding,
    "the last norm by .data": lambda m: m.transformer.ln_f.weight.data.mul_(2),
    "the unembedding by .data": lambda m: m.lm_head.weight.data.mul_(1.5),
    "weights by an optimizer": by_optimizer,
    "weights assigned": assigned,
    "a new parameter": new_parameter,
    "steering the embedding": lambda m: m.transformer.wte.register_forward_hook(steer),
    "steering a block": lambda m: m.transformer.h[0].register_forward_hook(steer),
    "steering the last block": lambda m: m.transformer.h[1].register_forward_hook(steer),
    "steering in place": lambda m: m.transformer.h[1].register_forward_hook(steer_in_place),
    "steering attention": lambda m: m.transformer.h[0].attn.register_forward_hook(steer),
    "steering an MLP": lambda m: m.transformer.h[1].mlp.register_forward_hook(steer),
    "steering a projection": lambda m: m.transformer.h[1].mlp.c_proj.register_forward_hook(steer),
    "steering the last norm": lambda m: m.transformer.ln_f.register_forward_hook(steer),
    "steering the logits": lambda m: m.lm_head.register_forward_hook(steer),
    "an activation function": lambda m: setattr(m.transformer.h[0].mlp, "act", nn.ReLU()),
    "a module exchanged": exchanged,
    "a forward patched": patched,
    "eager attention": lambda m: m.set_attn_implementation("eager"),
    "an attribute": lambda m: setattr(m.transformer.h[0].ln_1, "eps", 0.5),
    "float64": lambda m: m.double(),
    "a block copied over": lambda m: m.transformer.h[1].load_state_dict(
        m.transformer.h[0].state_dict()
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("replay", [None, pytest.param(False, marks=pytest.mark.slow)])
def test_a_change_between_calls_is_answered_for(change: str, replay: bool | None) -> None:
    model, prompts, masks = build("gpt2"), some_prompts(), some_masks(5, 8)
    game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), ablation="zero", replay=replay)
    before = game(masks)
    CHANGES[change](model)
    want = heads_gone(model, prompts, masks)
    torch.testing.assert_close(game(masks), want, **CLOSE)
    if change not in ("eager attention", "float64"):
        assert (want - before).abs().max() > 1e-3
    slopes = game.gradient(masks)
    fresh = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), ablation="zero", replay=False)
    torch.testing.assert_close(slopes, fresh.gradient(masks), rtol=1e-3, atol=1e-5)


def test_a_number_that_a_hook_reads_and_that_acts_late_in_a_prompt() -> None:
    model, prompts, masks = build("gpt2"), some_prompts(), some_masks(5, 8)
    strength = [0.0]

    def late(module: nn.Module, args: Any, out: Any) -> Any:
        first = (out[0] if isinstance(out, tuple) else out).clone()
        first[:, 5:] += strength[0] * torch.linspace(-1, 1, first.shape[-1])
        return (first, *out[1:]) if isinstance(out, tuple) else first

    model.transformer.h[0].register_forward_hook(late)
    game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), ablation="zero")
    before = game(masks)
    strength[0] = 3.0
    assert (game(masks) - before).abs().max() > 1e-2
    torch.testing.assert_close(game(masks), heads_gone(model, prompts, masks), **CLOSE)


def with_a_buffer(model: Any) -> Tensor:
    """A module of weights and buffers."""
    model.transformer.ln_f.register_buffer("steps", torch.zeros(3))
    return model.transformer.ln_f.weight


def transposed(model: Any) -> Tensor:
    """A weight that is stored the other way round."""
    weight = model.transformer.h[0].mlp.c_proj.weight
    weight.data = weight.data.t().contiguous().t()
    return weight


def every_other(model: Any) -> Tensor:
    """A weight that is a part of a larger one."""
    weight = model.transformer.h[0].mlp.c_proj.weight
    weight.data = weight.data.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2]
    return weight


@pytest.mark.parametrize("of", [with_a_buffer, transposed, every_other])
def test_weights_by_data_within_a_call(of: Callable[[Any], Tensor]) -> None:
    """No count tells of them, and no pass is run at a call's end."""
    model, prompts, masks = build("gpt2"), some_prompts(), some_masks(5, 8)
    weight, armed = of(model), [False]

    def metric(output: Any, prompts: sm.Prompts) -> Tensor:
        if armed[0]:
            weight.data.mul_(1.5)
        return output[:, -1, 5]

    game = sm.ModelGame(model, sm.Task(prompts, metric), ablation="zero")
    torch.testing.assert_close(game(masks)[0], game(masks)[0])
    armed[0] = True
    with pytest.raises(RuntimeError, match=r"weights of .* while the game was running"):
        game(masks)


def test_a_hook_that_is_removed_again() -> None:
    model, prompts, masks = build("gpt2"), some_prompts(), some_masks(5, 8)
    handle = model.transformer.h[0].register_forward_hook(steer)
    game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), ablation="zero")
    steered = game(masks)
    handle.remove()
    assert (game(masks) - steered).abs().max() > 1e-3
    torch.testing.assert_close(game(masks), heads_gone(model, prompts, masks), **CLOSE)


def test_means_and_kl_follow_the_model() -> None:
    model, prompts, masks = build("gpt2"), some_prompts(), some_masks(5, 8)
    for metric in ("logit_diff", "kl"):
        game = sm.ModelGame(model, sm.Task(prompts, metric))
        game(masks)
        in_no_grad(model)
        fresh = sm.ModelGame(model, sm.Task(prompts, metric))
        torch.testing.assert_close(game(masks), fresh(masks), **CLOSE)
        torch.testing.assert_close(game.references, fresh.references)
        assert game.provenance() == fresh.provenance()


def test_an_adapter_is_switched_off_on_and_merged() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=4, init_lora_weights=False
    )
    model = peft.get_peft_model(build("llama"), config).eval()
    task, masks = sm.Task(some_prompts(), "logit_diff"), some_masks(5, 8)
    game = sm.ModelGame(model, task, ablation="zero")
    on = game(masks)
    with model.disable_adapter():
        off = game(masks)
        fresh = sm.ModelGame(model, task, ablation="zero", replay=False)
        torch.testing.assert_close(off, fresh(masks), **CLOSE)
    assert (on - off).abs().max() > 1e-3
    torch.testing.assert_close(game(masks), on, **CLOSE)
    model.merge_adapter()
    torch.testing.assert_close(game(masks), on, rtol=1e-3, atol=1e-4)


def test_a_change_that_cannot_be_run_is_told() -> None:
    model = build("gpt2")
    game = sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"), ablation="zero")
    model.transformer.h[1].attn.c_proj = nn.Identity()
    with (
        pytest.warns(UserWarning, match="attention runs 2 times .* heads of 1 are found"),
        pytest.raises(ValueError, match=r"changed since the game was made, .* make a new game"),
    ):
        game(some_masks(3, 8))


def test_a_change_within_a_call_is_told() -> None:
    model, n_calls = build("gpt2"), [0]

    def metric(output: Tensor, prompts: sm.Prompts) -> Tensor:
        n_calls[0] += 1
        if n_calls[0] == -1:
            model.transformer.h[0].mlp.c_fc.weight.data.mul_(3)
        return output[:, -1, 5]

    for replay in (None, False):
        game = sm.ModelGame(model, sm.Task(some_prompts(), metric), replay=replay, batch_size=6)
        n_calls[0] = -3
        with pytest.raises(RuntimeError, match=r"weights of .* changed while the game was running"):
            game(some_masks(9, 8))
        game(some_masks(9, 8))


def patch_a_block(model: Any) -> None:
    block = model.transformer.h[0]
    original = block.forward
    block.forward = lambda *args, **kwargs: steer(block, args, original(*args, **kwargs))


WITHIN: dict[str, Callable[[Any], Any]] = {
    "training mode": lambda m: m.train(),
    "a forward patched": patch_a_block,
    "bfloat16": lambda m: m.to(torch.bfloat16),
    "a hook": lambda m: m.transformer.h[1].register_forward_hook(steer),
}


@pytest.mark.parametrize("change", WITHIN)
@pytest.mark.parametrize("replay", [None, False])
def test_whatever_a_change_within_a_call_breaks_it_is_told(
    change: str, replay: bool | None
) -> None:
    model, armed, masks = build("gpt2"), [False], some_masks(9, 8)

    def metric(output: Tensor, prompts: sm.Prompts) -> Tensor:
        if armed[0]:
            armed[0] = False
            WITHIN[change](model)
        return output[:, -1, 5]

    options: dict[str, Any] = {"ablation": "zero", "replay": replay, "batch_size": 6}
    game = sm.ModelGame(model, sm.Task(some_prompts(), metric), **options)
    before, armed[0] = game(masks), True
    with pytest.raises(RuntimeError, match=r"changed while the game was running"):
        game(masks)
    other = build("gpt2")
    WITHIN[change](other)
    want = sm.ModelGame(other, sm.Task(some_prompts(), metric), **options)(masks)
    torch.testing.assert_close(game(masks), want, rtol=1e-4, atol=1e-5)  # and it was not lost
    assert (want - before).abs().max() > 1e-4 or change == "training mode"


def test_a_number_that_a_hook_reads_is_seen_by_what_the_model_does() -> None:
    model, box, masks = build("gpt2"), [1.0], some_masks(5, 8)
    model.transformer.h[0].register_forward_hook(lambda module, args, out: out * box[0])
    game = sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"), ablation="zero")
    before = game(masks)
    box[0] = 2.0
    want = heads_gone(model, some_prompts(), masks)
    torch.testing.assert_close(game(masks), want, **CLOSE)
    assert (want - before).abs().max() > 1e-3
    assert list(game.changes()) == ["what the model makes of a prompt"]


def test_frequencies_that_passes_work_out_anew_are_no_change() -> None:
    """LongRoPE has other frequencies for prompts beyond the length that it was trained on: passes
    of all positions and of those that are read leave different ones behind."""
    longer = {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 4,
        "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
    }  # fmt: skip
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
    config = tf.LlamaConfig(
        **sizes, intermediate_size=48, vocab_size=61, max_position_embeddings=64,
        rope_parameters=longer,
    )  # fmt: skip
    torch.manual_seed(0)
    model, masks = tf.LlamaForCausalLM(config).eval(), some_masks(5, 8)
    game = sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"))
    plain = sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"), replay=False)
    torch.testing.assert_close(game(masks), plain(masks))
    assert game.provenance()["passes"] == "replayed" and not game.changes()
    model.model.layers[0].self_attn.q_proj.weight.data.mul_(2)
    torch.testing.assert_close(game(masks), plain(masks))
    assert game.changes() == plain.changes() == ["the weights of model.layers.0.self_attn.q_proj"]


def test_a_model_that_is_random_is_told() -> None:
    model = build("gpt2")
    model.transformer.h[0].register_forward_hook(
        lambda module, args, out: out + torch.randn(out.shape)
    )
    with pytest.warns(UserWarning, match="gives another output each time"):
        sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"))


def test_a_store_knows_the_model_as_it_is(tmp_path: Any) -> None:
    model, task = build("gpt2"), sm.Task(some_prompts(), "logit_diff")
    file = tmp_path / "run.sqlite"

    def strongest(game: sm.ModelGame, **options: Any) -> Any:
        found = sm.discover(game, budget=37, progress=False, **options)
        return found.top(3).mean.tolist()

    game = sm.ModelGame(model, task)
    strongest(game, store=file)
    in_no_grad(model)
    for changed in (game, sm.ModelGame(model, task)):
        try:
            got = strongest(changed, store=file)
        except ValueError as error:
            assert "weights" in str(error) or "another" in str(error)
        else:
            assert got == pytest.approx(strongest(sm.ModelGame(model, task)))
    model = build("gpt2")
    hook = lambda module, args, out: out + torch.linspace(-1, 1, 32)  # noqa: E731
    plain = sm.ModelGame(model, task).identity()
    model.transformer.h[0].register_forward_hook(hook)
    steered = sm.ModelGame(model, task).identity()
    assert {k for k in plain if plain[k] != steered[k]} >= {"modules_sha256"}
    other = build("gpt2")
    other.transformer.h[0].register_forward_hook(hook)
    assert sm.ModelGame(other, task).identity() == steered


@pytest.mark.parametrize("family", ["gpt2", "llama", "bridge_gpt2"])
def test_a_metric_may_run_the_model(family: str) -> None:
    model, prompts = build(family), some_prompts()

    def kl(logits: Tensor, prompts: sm.Prompts) -> Tensor:
        with torch.no_grad():
            clean = model(prompts.tokens)
        clean = clean if isinstance(clean, Tensor) else clean.logits
        clean = clean[:, -1].log_softmax(-1)
        return -(clean.exp() * (clean - logits[:, -1].log_softmax(-1))).sum(-1)

    masks = some_masks(6, 8)
    want = sm.ModelGame(model, sm.Task(prompts, "kl"))(masks)
    for replay in (None, False):
        game = sm.ModelGame(model, sm.Task(prompts, kl), replay=replay)
        torch.testing.assert_close(game(masks), want, **CLOSE)
        assert want[1:].abs().max() > 1e-4


def test_games_may_nest() -> None:
    """A metric that asks another game on the same model."""
    model, prompts = build("gpt2"), some_prompts()
    inner = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), ablation="zero")
    none, masks = torch.zeros(1, 8, dtype=torch.bool), some_masks(5, 8)
    there = inner(none)[0]

    def metric(output: Tensor, asked: sm.Prompts) -> Tensor:
        return output[:, -1, 5] + inner(none)[0][asked.index].float()

    for replay in (None, False):
        plain = lambda output, asked: output[:, -1, 5]  # noqa: E731
        want = sm.ModelGame(model, sm.Task(prompts, plain))(masks) + there
        outer = sm.ModelGame(model, sm.Task(prompts, metric), replay=replay)
        torch.testing.assert_close(outer(masks), want, **CLOSE)
        assert not inner.changes()  # our own hooks are no change


def test_games_in_threads_take_turns_and_plain_passes_are_left_alone() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        model, prompts, masks = build("gpt2"), some_prompts(), some_masks(60, 8)
        games = [
            sm.ModelGame(model, sm.Task(prompts, "logit_diff"), ablation=a, replay=replay)
            for a, replay in (("zero", None), ("mean", None), ("zero", False))
        ]
        want = [game(masks) for game in games]
        clean = model(prompts.tokens).logits

        def infer(_: Any) -> Tensor:
            with torch.no_grad():
                return torch.stack([model(prompts.tokens).logits for _ in range(20)])

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for _ in range(2):
                found = [pool.submit(game, masks) for game in games]
                plain = pool.submit(infer, None)
                for one, right in zip(found, want, strict=True):
                    torch.testing.assert_close(one.result(), right, **CLOSE)
                torch.testing.assert_close(plain.result(), clean.expand(20, -1, -1, -1))
        assert not any("forward" in module.__dict__ for module in model.modules())
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("replay", [None, False])
def test_a_pass_of_another_thread_within_ours_is_left_alone(replay: bool | None) -> None:
    model, prompts, masks = build("gpt2"), some_prompts(), some_masks(6, 8)
    here, seen = threading.current_thread(), []

    def infer() -> None:
        with torch.no_grad():
            seen.append(model(prompts.tokens).logits)

    def hook(module: nn.Module, args: Any, out: Any) -> None:
        if threading.current_thread() is here and armed[0]:
            other = threading.Thread(target=infer)
            other.start()
            other.join()

    armed = [False]
    want, clean = heads_gone(model, prompts, masks), model(prompts.tokens).logits.detach()
    model.transformer.h[0].attn.register_forward_hook(hook)
    task = sm.Task(prompts, "logit_diff")
    game = sm.ModelGame(model, task, ablation="zero", replay=replay)
    armed[0] = True
    torch.testing.assert_close(game(masks), want, **CLOSE)
    assert len(seen) > 1
    for logits in seen:
        torch.testing.assert_close(logits, clean)


def test_a_game_can_be_sent_and_copied() -> None:
    model = build("gpt2")
    game = sm.ModelGame(model, sm.Task(some_prompts(), "logit_diff"), ablation="zero")
    masks = some_masks(4, 8)
    sent = pickle.loads(pickle.dumps(game))
    torch.testing.assert_close(sent(masks), game(masks), **CLOSE)
    assert sent.model is not model


def test_hidden_states_and_attentions_are_those_of_the_ablated_run() -> None:
    sizes: dict[str, Any] = {
        "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32,
        "intermediate_size": 48, "vocab_size": D_VOCAB, "num_labels": 3,
    }  # fmt: skip
    torch.manual_seed(0)
    config = tf.BertConfig(**sizes, output_hidden_states=True, output_attentions=True)
    model = tf.BertForSequenceClassification._from_config(
        config, attn_implementation="eager"
    ).eval()
    prompts = sm.Prompts(some_prompts().tokens, answers=[0, 1, 2], wrong_answers=[1, 2, 0])
    metrics: dict[str, Any] = {
        "hidden": lambda output, asked: output.hidden_states[1][:, 0, :4].sum(-1),
        "attention": lambda output, asked: output.attentions[1][:, 0, 0, 0],
        "first": lambda output, asked: output.logits[:, 0],
        "counted": lambda output, asked: (output.hidden_states[1][:, 0, 0] > 0).float(),
    }
    masks = some_masks(5, 8)
    for name, metric in metrics.items():
        game = sm.ModelGame(model, sm.Task(prompts, metric), ablation="zero")
        plain = sm.ModelGame(model, sm.Task(prompts, metric), ablation="zero", replay=False)
        torch.testing.assert_close(game(masks), plain(masks), **CLOSE)
        assert game.provenance()["passes"].startswith("replayed" if name == "first" else "plain")


def test_units_need_no_gradient_of_the_metric() -> None:
    model, prompts = build("gpt2"), some_prompts()
    accuracy = lambda logits, asked: (  # noqa: E731
        logits[:, -1].argmax(-1) == asked.answers[:, 0]
    ).float()
    game = sm.ModelGame(model, sm.Task(prompts, accuracy), all_units(model)[:20])
    assert not game.has_slopes
    with pytest.raises(ValueError, match=r"no gradient.*gradients=False"):
        game.gradient(torch.ones(1, 20, dtype=torch.bool))
    with torch.inference_mode():
        within = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), all_units(model)[:20])
        slopes = within.gradient(torch.ones(1, 20, dtype=torch.bool))
    assert slopes.abs().max() > 1e-4
    torch.testing.assert_close(within.gradient(torch.ones(1, 20, dtype=torch.bool)), slopes)


# -- the tokens of a text --------------------------------------------------------------------------


def a_text_game(model: Any, masking: str = "mean", metric: Any = "log_prob") -> sm.TokenGame:
    task = sm.Task(some_prompts()[:1], metric)
    return sm.TokenGame(model, task, [[at] for at in range(1, 6)], masking=masking)


def without_embeddings(model: Any, masks: Tensor) -> Tensor:
    """By hand: the mean embedding in place of each token that a mask does not keep."""
    prompts, rows = some_prompts()[:1], []
    assert prompts.answers is not None
    table = model.get_input_embeddings()
    with torch.no_grad():
        own, mean = table(prompts.tokens), table(torch.arange(D_VOCAB)).mean(0)
        for mask in masks:
            seen = torch.cat([torch.ones(1, dtype=torch.bool), mask, torch.ones(1).bool()])
            given = torch.where(seen[None, :, None], own, mean)
            logits = model(inputs_embeds=given).logits[0, -1]
            rows.append(logits.double().log_softmax(-1)[prompts.answers[0, 0]])
    return torch.stack(rows)[:, None]


@pytest.mark.parametrize("change", CHANGES)
def test_a_token_game_answers_for_the_model_as_it_is(change: str) -> None:
    model, masks = build("gpt2"), some_masks(4, 5, 0.4)
    game = a_text_game(model)
    before, identity = game(masks), identity_of(game)
    CHANGES[change](model)
    want = without_embeddings(model, masks)
    torch.testing.assert_close(game(masks), want, rtol=1e-4, atol=1e-5)
    if change not in ("eager attention", "float64"):
        assert (want - before).abs().max() > 1e-4
        assert identity_of(game) != identity and identity_of(a_text_game(model)) != identity
    assert len(game.changes()) == 1


def test_a_token_game_stands_alone(tmp_path: Any) -> None:
    masks = some_masks(4, 5, 0.4)
    want = a_text_game(build("gpt2"))(masks)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(a_text_game(build("gpt2"))(masks), want, rtol=0, atol=0)
    with torch.inference_mode():
        within = a_text_game(
            build(
                "gpt2",
            )
        )
        torch.testing.assert_close(within(masks), want, rtol=0, atol=0)
    model = build("gpt2")
    slopes = a_text_game(model).gradient(masks)
    with torch.inference_mode():
        torch.testing.assert_close(a_text_game(model).gradient(masks.float()), slopes)
    compiled = torch.compile(build("gpt2"), backend="eager")
    torch.testing.assert_close(a_text_game(compiled)(masks), want, **CLOSE)
    counts = lambda logits, asked: (logits[:, -1].argmax(-1) == 5).float()  # noqa: E731
    game = a_text_game(model, metric=counts)
    assert not game.has_slopes and "has no gradient" in game.why_no_slopes
    with pytest.raises(ValueError, match=r"no gradient.*gradients=False"):
        game.gradient(masks)


def test_a_text_search_never_mixes_two_models() -> None:
    model, n_asked = build("gpt2"), [0]

    class Changing(sm.TokenGame):
        @property
        def masks_per_batch(self) -> int:
            return 4

        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            n_asked[0] += 1
            if n_asked[0] == 2:
                model.transformer.h[0].register_forward_hook(steer)
            return super().evaluate(*args, **kwargs)

    game = a_text_game(model)
    game.__class__ = Changing
    with pytest.raises(RuntimeError, match=r"the hooks of transformer.h.0 changed during"):
        sm.discover(game, "exhaustive", progress=False)


def test_another_model_confirms_nothing_in_silence() -> None:
    """A model that was trained between the search and its confirmation is another one."""
    model = build("gpt2")
    prompts = some_prompts(8)
    searched, others = (sm.Task(half, "logit_diff") for half in (prompts[:4], prompts[4:]))
    found = sm.discover(sm.ModelGame(model, searched), progress=False)
    sm.confirm(found, sm.ModelGame(model, others), k=2, progress=False)  # without a warning
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    with pytest.warns(UserWarning, match="the model of this game has other weights"):
        sm.confirm(found, sm.ModelGame(model, others), k=2, progress=False)


def two_games(model: Any, metric: str = "log_prob", ablation: str = "mean") -> list[sm.ModelGame]:
    tasks = sm.load_task("induction", model, 8, metric=metric).split(4)
    return [sm.ModelGame(model, task, "L0H3,L1H*", ablation=ablation) for task in tasks]


@pytest.mark.parametrize("differs", ["weights", "ablation", "metric"])
def test_what_confirms_another_search_is_told(differs: str) -> None:
    """What was measured again of another model, ablation or metric passed as that of a result."""
    model = sm.load_model("demo")
    searched, others = two_games(model)
    found = sm.discover(searched, progress=False)
    again = sm.confirm(found, others, k=2, progress=False)
    found.confirmed_by(again)  # without a warning
    if differs == "weights":
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)
    another = {"weights": {}, "ablation": {"ablation": "zero"}, "metric": {"metric": "loss"}}
    searched, others = two_games(model, **another[differs])
    if differs == "ablation":
        with pytest.warns(UserWarning, match="the search ablates by 'mean' and this game by 'zer"):
            sm.confirm(found, others, k=2, progress=False)
    found = sm.discover(searched, progress=False)
    with pytest.warns(UserWarning, match=f"of another search, which differs .* in {differs}"):
        found.confirmed_by(again)


def test_a_circuit_of_another_model_is_not_shown_in_silence() -> None:
    model = sm.load_model("demo")
    searched, _ = two_games(model)
    found = sm.discover(searched, progress=False)
    circuit = sm.find_circuit(searched, found, size=2, progress=False)
    page_of(found, circuit=circuit)  # without a warning
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    other = sm.discover(two_games(model)[0], progress=False)
    with pytest.warns(UserWarning, match="the circuit and the result .* differ in weights"):
        page_of(other, circuit=circuit)
