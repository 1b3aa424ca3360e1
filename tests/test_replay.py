"""Replayed passes against plain ones: every family and ablation; what they share and survive."""

import shutil
from copy import deepcopy
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import spex_mech as sm
from spex_mech.engine.blocks import Blocks
from spex_mech.engine.cheapest import cheaper_than_float32
from spex_mech.engine.derived import ReplayEngine
from spex_mech.engine.device import MemoryPlan
from spex_mech.engine.replay import Replay
from spex_mech.masks import MaskBatch
from tests.by_hand import third_position
from tests.families import N_LAYERS, build, logits
from tests.test_engine import (
    CASES,
    ONE_OF_A_KIND,
    all_units,
    some_masks,
    some_prompts,
)


def a_game(family: str = "gpt2", metric: Any = "logit_diff", **options: Any) -> sm.ModelGame:
    model = options.pop("model", None) or build(family)
    prompts = options.pop("prompts", None) or some_prompts()
    units = options.pop("components", None) or all_units(model)
    return sm.ModelGame(model, sm.Task(prompts, metric), units, **options)


def replay_of(game: sm.ModelGame) -> Replay:
    engine = game._current.derived.engine
    assert isinstance(engine, ReplayEngine)
    return engine.replay


def by_plain_passes(game: sm.ModelGame, masks: Tensor) -> Tensor:
    """The values of the same game by whole passes."""
    lists = MaskBatch.of_kept(masks.numpy()).ablated
    return torch.from_numpy(game._current.derived.plain.values(lists))


def varied_masks(n_units: int) -> Tensor:
    """Nothing, everything, dense ones, singles, and pairs that share a unit."""
    masks = torch.ones(40, n_units, dtype=torch.bool)
    masks[:8] = some_masks(8, n_units)
    generator = torch.Generator().manual_seed(4)
    for row in range(8, 40):
        masks[row, torch.randint(0, n_units, (1 + row % 4,), generator=generator)] = False
    masks[20:30, 3] = False
    masks[39] = masks[38]
    return masks


@pytest.mark.parametrize(("family", "ablation"), CASES)
def test_equals_plain_passes(family: str, ablation: str) -> None:
    game = a_game(family, ablation=ablation, replay=True)
    masks = varied_masks(len(game))
    got, want = game(masks), by_plain_passes(game, masks)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert (got[1:] - got[0]).abs().max() > 1e-3


@pytest.mark.parametrize("replay", [True, False])
def test_lists_of_what_is_ablated_are_masks(replay: bool) -> None:
    game = a_game(replay=replay)
    masks = varied_masks(len(game))
    torch.testing.assert_close(
        game.ablating(MaskBatch.of_kept(masks.numpy()).ablated), game(masks), rtol=1e-6, atol=1e-6
    )
    done: list[float] = []
    game.ablating(np.full((3, 0), -1), done.append)
    assert sum(done) == pytest.approx(3)


METRICS = ("logit_diff", "prob_diff", "log_prob", "loss", "kl")


@pytest.mark.parametrize(("family", "metric"), [*product(("gpt2", "bert"), METRICS)])
def test_logits_where_the_metric_reads_them_are_enough(family: str, metric: str) -> None:
    game = a_game(family, metric, replay=True)
    read_at = replay_of(game).measure.read_at
    assert read_at is not None and read_at.shape == (3, 1)
    masks = varied_masks(len(game))
    torch.testing.assert_close(game(masks), by_plain_passes(game, masks), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metric", ["log_prob", "kl"])
@pytest.mark.parametrize("padded", [False, True])
def test_texts_of_which_some_positions_are_scored(metric: str, padded: bool) -> None:
    tokens = some_prompts(3, 9).tokens
    scored = torch.zeros(3, 9, dtype=torch.bool)
    scored[:, 3:6] = True
    real = torch.ones(3, 9, dtype=torch.bool)
    real[1, 7:] = not padded
    prompts = sm.Prompts(tokens, attention_mask=real, target_mask=scored)
    for family in ("llama", "gemma2", "bert", "bridge_gpt2"):
        game = a_game(family, metric, prompts=prompts, replay=True)
        assert (replay_of(game).measure.read_at is None) == (metric == "kl")
        masks = varied_masks(len(game))
        torch.testing.assert_close(game(masks), by_plain_passes(game, masks), rtol=1e-5, atol=1e-5)


class Counted:
    """How many rows pass each block of a game."""

    def __init__(self, game: sm.ModelGame, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = [0] * N_LAYERS
        step = replay_of(game).blocks.step

        def counting(layer: int, stream: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.before(len(stream))
            out = step(layer, stream, *args, **kwargs)
            self.rows[layer] += len(stream)
            return out

        monkeypatch.setattr(replay_of(game).blocks, "step", counting)

    def before(self, n_rows: int) -> None:
        pass


def test_nothing_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of layer 0 and 1: what a pair costs is what its units do not share with others."""
    model = build("gpt2")
    game = a_game(components=sm.Components.heads(model), replay=True)
    game(torch.ones(1, 8, dtype=torch.bool))  # the intact run is not counted
    counted = Counted(game, monkeypatch)
    n_prompts = 3

    game.ablating(np.arange(4)[:, None])  # singles of layer 0: a fork without attention, layer 1
    assert counted.rows == [4 * n_prompts, 4 * n_prompts]
    game.ablating(np.arange(4, 8)[:, None])  # of layer 1: layer 0 is the intact model's
    assert counted.rows == [4 * n_prompts, 8 * n_prompts]
    # All pairs of a head in each layer: 4 states after layer 0, whose attention 16 forks share.
    across = np.array([(a, b) for a in range(4) for b in range(4, 8)])
    counted.rows = [0, 0]
    game.ablating(np.concatenate([across, across]))
    assert counted.rows == [4 * n_prompts, (4 + 16) * n_prompts]


def test_neurons_only_add_where_nothing_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("llama")
    game = a_game("llama", components=sm.Components.neurons(model), replay=True)
    game(torch.ones(1, len(game), dtype=torch.bool))
    counted = Counted(game, monkeypatch)
    last = np.arange(48, 96)[:, None]
    torch.testing.assert_close(
        game.ablating(last), by_plain_passes(game, masks_of(last, 96)), rtol=1e-5, atol=1e-5
    )
    assert counted.rows == [0, 0]
    many = np.sort(np.stack([np.random.default_rng(s).permutation(96)[:40] for s in range(5)]), 1)
    torch.testing.assert_close(
        game.ablating(many), by_plain_passes(game, masks_of(many, 96)), rtol=1e-5, atol=1e-5
    )


def masks_of(lost: np.ndarray, n_units: int) -> Tensor:
    masks = torch.ones(len(lost), n_units, dtype=torch.bool)
    masks[torch.arange(len(lost))[:, None], torch.from_numpy(lost)] = False
    return masks


def test_out_of_memory_halves_and_repeats_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    game, plenty = a_game(replay=True, batch_size=9), a_game(replay=True, batch_size=9)
    masks = varied_masks(len(game))
    game(masks[:1]), plenty(masks[:1])
    counted, wanted = Counted(game, monkeypatch), Counted(plenty, monkeypatch)
    calls = iter(range(10**6))

    def fail(n_rows: int) -> None:
        if next(calls) >= 2 and n_rows > 4:
            raise torch.OutOfMemoryError("injected")

    counted.before = fail
    torch.testing.assert_close(game(masks), plenty(masks), rtol=1e-5, atol=1e-5)
    assert counted.rows == wanted.rows
    assert game.batch_size == 3  # one mask on three prompts


def test_so_little_memory_that_prompts_must_be_split(monkeypatch: pytest.MonkeyPatch) -> None:
    game = a_game(replay=True)
    masks = varied_masks(len(game))
    want = game(masks)
    counted = Counted(game, monkeypatch)

    def fail(n_rows: int) -> None:
        if n_rows > 1:
            raise torch.OutOfMemoryError("injected")

    counted.before = fail
    torch.testing.assert_close(game(masks), want, rtol=1e-5, atol=1e-5)
    counted.before = lambda n_rows: fail(2)
    with pytest.raises(torch.OutOfMemoryError, match="injected"):
        game(masks)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "opt", "bert"])
def test_waves_of_any_size_give_the_same(family: str) -> None:
    game = a_game(family, ablation="resample", replay=True)
    masks = varied_masks(len(game))
    want = game(masks)
    replay = replay_of(game)
    replay.memory = MemoryPlan(states=4 * 7 * 32 * 4 * 5, intact=0, logits=2**20)  # five rows
    assert replay.shape(40) == (5, 1)
    replay._kept = None
    torch.testing.assert_close(game(masks), want, rtol=1e-5, atol=1e-5)


def test_padded_prompts_one_at_a_time() -> None:
    """Alone, a prompt without padding has no attention mask; among others it has one."""
    real = torch.ones(3, 7, dtype=torch.bool)
    real[1, 4:] = False
    tokens = some_prompts().tokens
    prompts = sm.Prompts(tokens, attention_mask=real)
    for family in ("llama", "bert"):
        game = a_game(family, "log_prob", prompts=prompts, replay=True, batch_size=1)
        masks = varied_masks(len(game))
        torch.testing.assert_close(game(masks), by_plain_passes(game, masks), rtol=1e-5, atol=1e-5)


def test_changed_weights_are_seen() -> None:
    game = a_game(replay=True)
    masks = varied_masks(len(game))
    before = game(masks)
    with torch.no_grad():
        game.model.transformer.h[0].mlp.c_fc.weight.mul_(1.5)
    torch.testing.assert_close(game(masks), by_plain_passes(game, masks), rtol=1e-5, atol=1e-5)
    assert (game(masks) - before).abs().max() > 1e-3


def test_a_metric_that_is_not_finite_is_named() -> None:
    def metric(output: Tensor, prompts: sm.Prompts) -> Tensor:
        values = output[:, -1, 0]
        return values.masked_fill((values - intact).abs() > 1e-4, torch.nan)

    prompts = some_prompts(1)
    intact = logits("gpt2", build("gpt2"), prompts.tokens)[0, -1, 0]
    game = a_game(metric=metric, prompts=prompts, replay=True)
    lost = np.array([[-1, -1], [2, 5]])
    with pytest.raises(ValueError, match=r"is nan for prompt 0 with L0H2, L1H1 ablated"):
        game.ablating(lost)


class Odd(nn.Module):
    """Two layers, of which the second reads the first's input again: it cannot be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(61, 8)
        self.blocks = nn.ModuleList(nn.ModuleDict({"o": nn.Linear(8, 8)}) for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        first = self.blocks[0]["o"](x).tanh()
        return first + self.blocks[1]["o"](first * x)


def test_a_model_that_cannot_be_cut_runs_plain_passes() -> None:
    task = sm.Task(some_prompts(), lambda output, prompts: output[:, -1, 0])
    arch = sm.Architecture(heads=("blocks.0.o", "blocks.1.o"), neurons=(None, None), n_heads=4)
    game = sm.ModelGame(Odd(), task, architecture=arch)
    assert game.describe()["passes"].startswith("plain: Odd cannot be replayed: its 2 blocks")
    assert game(varied_masks(len(game))).shape == (40, 3)
    with pytest.raises(ValueError, match=r"replay=True, but Odd cannot be replayed"):
        sm.ModelGame(Odd(), task, architecture=arch, replay=True)


def test_a_search_runs_on_replayed_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    game, plain = a_game(replay=True), a_game(replay=False)
    counted = Counted(game, monkeypatch)
    found = sm.discover(game, budget=300, seed=0, progress=False)
    assert sum(counted.rows) > 0
    want = sm.discover(plain, budget=300, seed=0, progress=False)
    top = found.top(5)
    for row, value in zip(top.units, top.mean, strict=True):
        assert want.value(*(want.labels[u] for u in row)) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "bridge_gpt2"])
def test_bfloat16_is_near_float32_and_says_what_it_cannot_resolve(family: str) -> None:
    exact, half = a_game(family, replay=True), a_game(family, replay=True, precision="bfloat16")
    masks = varied_masks(len(exact))
    want, got = exact(masks), half(masks)
    spread = (want - want[0]).abs().max()
    assert 1e-5 * spread < (got - want).abs().max() < 0.1 * spread
    torch.testing.assert_close(got, by_plain_passes(half, masks), rtol=0, atol=0.1 * float(spread))
    assert half.noise_floor > 20 * exact.noise_floor
    assert half.describe()["precision"] == "bfloat16"
    # Neurons of the last layer hardly interact.
    last = sm.Components.neurons(half.model)[-8:]
    small = sm.ModelGame(half.model, half.task, last, precision="bfloat16")
    with pytest.warns(
        UserWarning, match="precision='bfloat16' cannot resolve .*precision='float32'"
    ):
        sm.discover(small, progress=False)
    sm.discover(sm.ModelGame(half.model, half.task, last), progress=False)


def test_precisions_that_are_none() -> None:
    with pytest.raises(ValueError, match="'tf32' is of CUDA devices, and the model is on cpu"):
        a_game(precision="tf32")
    with pytest.raises(ValueError, match=r"precision='float8'; choose one of float32, tf32"):
        a_game(precision="float8")


@pytest.mark.parametrize("own", [torch.float64, torch.float16])
def test_a_precision_that_changes_nothing_in_a_model_is_refused(own: torch.dtype) -> None:
    """A model in float64 once computed in float64, with the noise floor of bfloat16."""
    game = a_game()
    model, name = deepcopy(game.model).to(own), str(own).removeprefix("torch.")
    match = f"precision='bfloat16' is of models in float32, and this one is in {name}: leave"
    with pytest.raises(ValueError, match=match):
        sm.ModelGame(model, game.task, precision="bfloat16")
    assert cheaper_than_float32(torch.device("cuda"), own) == ()


def test_a_model_spread_by_accelerate() -> None:
    """Its hooks replace every module's forward, as ours do for the time of a call."""
    from accelerate import dispatch_model
    from accelerate.hooks import AlignDevicesHook

    want = a_game("llama", replay=True)
    model = build("llama")
    places = {name: "cpu" for name in ("model.embed_tokens", "model.norm", "lm_head")}
    places |= {f"model.layers.{layer}": "cpu" for layer in range(N_LAYERS)}
    places["model.rotary_emb"] = "cpu"
    dispatch_model(model, places, force_hooks=True)
    assert isinstance(model.model.layers[0]._hf_hook, AlignDevicesHook)
    before = model.model.layers[0].forward
    game = sm.ModelGame(model, want.task, all_units(model), replay=True)
    masks = varied_masks(len(game))
    torch.testing.assert_close(game(masks), want(masks), rtol=1e-5, atol=1e-5)
    assert model.model.layers[0].forward is before


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_logits_of_the_answers_alone(family: str) -> None:
    prompts = sm.Prompts(
        some_prompts().tokens, answers=[[5, 9], [60], [9]], wrong_answers=[[7], [5, 12], [1]]
    )
    game = a_game(family, prompts=prompts, replay=True)
    assert replay_of(game).measure.tokens.tolist() == [1, 5, 7, 9, 12, 60]
    masks = varied_masks(len(game))
    torch.testing.assert_close(game(masks), by_plain_passes(game, masks), rtol=1e-5, atol=1e-5)
    assert "forward" not in game.model.get_output_embeddings().__dict__
    assert replay_of(a_game(family, "prob_diff", replay=True)).measure.tokens is None


def same_slopes(game: sm.ModelGame, plain: sm.ModelGame, gates: Tensor) -> Tensor:
    """The plain game's slopes, which are the other's too."""
    values, slopes = game.value_and_slopes(gates)
    want_values, want = plain.value_and_slopes(gates)
    torch.testing.assert_close(values, want_values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slopes, want, rtol=1e-4, atol=1e-5)
    return want


@pytest.mark.parametrize("family", ONE_OF_A_KIND)
def test_gradients_share_the_intact_part(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = a_game(family, replay=False)
    game = a_game(family, replay=True, batch_size=2 * len(plain.prompts))
    last = [u for u, unit in enumerate(game.components.units) if unit.layer == N_LAYERS - 1]
    gates = torch.ones(len(last[:12]) + 2, len(game))
    gates[range(len(last[:12])), last[:12]] = 0
    gates[3] = 0.25 + gates[3] / 2  # the first layer changes too
    ran: list[tuple[int, int]] = []
    step = Blocks.step

    def counting(blocks: Blocks, layer: int, stream: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        ran.append((layer, len(stream)))
        return step(blocks, layer, stream, *args, **kwargs)

    monkeypatch.setattr(Blocks, "step", counting)
    want = same_slopes(game, plain, gates)
    assert want[:, :, : last[0]].abs().max() > 1e-3  # of units in the part that is shared
    n_rows = len(gates) * len(game.prompts)
    at = [sum(rows for where, rows in ran if where == layer) for layer in range(N_LAYERS)]
    # The first layer: for the mask that changes it and its neighbour, and once for all others. The
    # last: for those but the two intact masks, whose part is all of the model.
    assert at[0] == 2 * game.batch_size
    assert at[-1] <= n_rows


def test_gradients_of_prompts_that_do_not_fit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, game = a_game(replay=False), a_game(replay=True, batch_size=40)
    gates = varied_masks(len(game))
    step = Blocks.step

    def small(blocks: Blocks, layer: int, stream: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if len(stream) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return step(blocks, layer, stream, *args, **kwargs)

    monkeypatch.setattr(Blocks, "step", small)
    same_slopes(game, plain, gates)


def test_a_block_of_prompts_may_be_shared_by_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A range that does not fit leaves what the one before added to their common block."""
    tokens = torch.randint(0, 60, (24, 5), generator=torch.Generator().manual_seed(3))
    prompts = sm.Prompts(tokens, answers=[5] * 24, wrong_answers=[8] * 24)
    plain = a_game(prompts=prompts, replay=False)
    game = a_game(prompts=prompts, replay=True, batch_size=10)
    gates = varied_masks(len(game))[:2]
    step, n_calls = Blocks.step, [0]

    def sometimes(blocks: Blocks, layer: int, stream: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        n_calls[0] += 1
        if len(stream) > 6 and n_calls[0] > N_LAYERS * len(gates):
            raise torch.OutOfMemoryError("out of memory")
        return step(blocks, layer, stream, *args, **kwargs)

    monkeypatch.setattr(Blocks, "step", sometimes)
    same_slopes(game, plain, gates)
    assert n_calls[0] > 3 * N_LAYERS * len(gates)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "bridge_gpt2"])
def test_compiled_passes_are_the_same(family: str) -> None:
    game, compiled = a_game(family), a_game(family, compile=True)
    assert compiled.describe()["passes"] == "replayed, compiled"
    masks = varied_masks(len(game))
    torch.testing.assert_close(compiled(masks), game(masks), rtol=1e-5, atol=1e-5)
    gradients = compiled.gradient(masks[:3]), game.gradient(masks[:3])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
    assert len(replay_of(compiled).blocks._compiled) > N_LAYERS
    assert not any("forward" in module.__dict__ for module in compiled.model.modules())


def test_compile_says_what_stands_in_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="remove replay=False"):
        a_game(replay=False, compile=True)

    def no_compiler(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(ValueError, match=r"compile=True, but .* no C\+\+ compiler; leave it out"):
        a_game(compile=True)


# -- hooks and forwards that act on some prompts alone --------------------------------------------


class Half(nn.Module):
    """What somebody wrapped around an MLP: it halves the output of some rows.

    Args:
        acts: which, by what the MLP reads.
    """

    def __init__(self, inner: nn.Module, acts: Any) -> None:
        super().__init__()
        self.inner, self.acts = inner, acts

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * (1 - self.acts(x) / 2)


def halve_an_mlp(block: nn.Module, acts: Any) -> None:
    block.mlp.register_forward_hook(lambda module, args, out: out * (1 - acts(args[0]) / 2))


def halve_a_block(block: nn.Module, acts: Any) -> None:
    block.register_forward_hook(lambda module, args, out: out * (1 - acts(args[0]) / 2))


def halve_before_a_block(block: nn.Module, acts: Any) -> None:
    def hook(module: nn.Module, args: Any) -> Any:
        return (args[0] * (1 - acts(args[0]) / 2), *args[1:])

    block.register_forward_pre_hook(hook)


def halve_what_heads_give(block: nn.Module, acts: Any) -> None:
    noted: list[Tensor] = [torch.zeros(())]
    block.ln_1.register_forward_hook(lambda module, args, out: noted.__setitem__(0, acts(args[0])))
    projection = block.attn.c_proj
    projection.register_forward_pre_hook(lambda module, args: (args[0] * (1 - noted[0] / 2),))


def wrap_an_mlp(block: nn.Module, acts: Any) -> None:
    block.mlp = Half(block.mlp, acts)


@pytest.mark.parametrize("metric", ["logit_diff", third_position])
@pytest.mark.parametrize(
    ("change", "layer", "read"),
    [
        (halve_an_mlp, 1, "mlp"),
        (halve_a_block, 0, ""),
        (halve_before_a_block, 1, ""),
        (halve_what_heads_give, 1, "ln_1"),
        (wrap_an_mlp, 1, "mlp"),
    ],
)
def test_what_acts_on_one_prompt_alone(change: Any, layer: int, read: str, metric: str) -> None:
    """Conditional steering (Lee et al. 2024) acts where a condition holds: here on the last."""
    model, prompts = build("gpt2"), some_prompts(6)
    block, levels = model.transformer.h[layer], [torch.zeros(0)]

    def level(x: Tensor) -> Tensor:
        return x.detach().amax((1, 2), keepdim=True)

    reads = block.get_submodule(read)
    handle = reads.register_forward_pre_hook(lambda _, args: levels.append(level(args[0])))
    with torch.no_grad():
        model(prompts.tokens)
    handle.remove()
    seen, order = levels[-1].flatten().sort()
    bound = float(seen[-2:].mean())
    change(block, lambda x: (level(x) > bound).to(x))
    game = a_game(metric=metric, prompts=prompts[order], model=model)
    masks = varied_masks(len(game))
    torch.testing.assert_close(game(masks), by_plain_passes(game, masks), rtol=1e-5, atol=1e-5)


def test_a_hook_on_the_last_block_that_acts_on_ablated_streams_alone() -> None:
    """The last block's output is passed on by itself at the end, when what the block was given is
    gone."""
    model, prompts = build("gpt2"), some_prompts(6)
    block = model.transformer.h[-1]
    levels: list[float] = []
    handle = block.register_forward_pre_hook(lambda _, args: levels.append(float(args[0].amax())))
    game = a_game(prompts=prompts, model=model, replay=False)
    masks = varied_masks(len(game))
    without = game(masks)
    levels.clear()
    with torch.no_grad():
        model(prompts.tokens)
    handle.remove()
    bound = levels[-1]

    def halves(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return out * (1 - (args[0].amax((1, 2), keepdim=True) > bound) / 2)

    block.register_forward_hook(halves)
    game = a_game(prompts=prompts, model=model)
    found = game(masks)
    assert not torch.allclose(found, without)
    torch.testing.assert_close(found, by_plain_passes(game, masks), rtol=1e-5, atol=1e-5)


def test_what_torch_counts_with_is_no_hook_of_the_users() -> None:
    """FlopCounterMode follows all modules by global hooks, and changes nothing."""
    game = a_game(replay=True)
    masks = some_masks(4, len(game))
    wanted = game(masks)
    with FlopCounterMode(display=False) as counter:
        torch.testing.assert_close(game(masks), wanted, rtol=1e-5, atol=1e-6)
    assert counter.get_total_flops() > 0
