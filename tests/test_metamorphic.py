"""Random combinations of family, units, ablation, metric and a change of the model: the game
answers as a loop by hand does on the model as it stands (tests.by_hand), or says what changed.

A failure names its case; ``check(Case.drawn(seed), folder)`` does it again.
"""

import copy
import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import spex_mech as sm
from tests import by_hand
from tests.by_hand import ByHand, Slot
from tests.families import BRIDGES, D_VOCAB, N_LAYERS, build, modules_of
from tests.test_current_model import steer
from tests.test_unusual_models import shared_llama

FAMILIES = (
    "gpt2", "llama", "qwen3", "gemma2", "gpt_neox", "opt", "bert", "phi", "gptj", "shared_llama"
)  # fmt: skip
KINDS = ("heads", "neurons", "both", "kv_groups")
ABLATIONS = ("zero", "mean", "mean of others", "mean_per_position", "resample", "given")
METRICS = ("logit_diff", "prob_diff", "log_prob", "loss", "text", "kl", "own kl", "own")
TIMES = ("before", "between", "within", "undone")
OUR_WORDS = re.compile(
    r"make a new game|while the game was running|is the store of another game|during the search"
)
Undo = Callable[[], Any] | None


# -- changes --------------------------------------------------------------------------------------


@dataclass
class Parts:
    """What changes are made to, looked up in the model as it stands."""

    family: str
    model: Any
    prompts: sm.Prompts

    def projection(self, kind: str, layer: int = 0) -> nn.Module:
        if self.family == "shared_llama":
            block = self.model.model.layers[layer]
            return block.self_attn.o_proj if kind == "head" else block.mlp.down_proj
        return modules_of(self.family, self.model)[kind, layer]

    def name(self, kind: str, layer: int = 0) -> str:
        wanted = self.projection(kind, layer)
        return next(name for name, module in self.model.named_modules() if module is wanted)

    def parent(self, kind: str, layer: int = 0) -> nn.Module:
        return self.model.get_submodule(self.name(kind, layer).rpartition(".")[0])

    def block(self, layer: int) -> nn.Module:
        parts = self.name("head", layer).split(".")
        return self.model.get_submodule(".".join(parts[: parts.index(str(layer)) + 1]))

    @property
    def answer(self) -> int:
        """A token that is asked for."""
        asked = self.prompts.answers
        return int(self.prompts.tokens[0, 1] if asked is None else asked[0, 0])

    @property
    def last_layer(self) -> int:
        return 2 if self.family == "shared_llama" else N_LAYERS - 1

    @property
    def embedding(self) -> Any:
        return self.model.get_input_embeddings()

    @property
    def unembedding(self) -> Any:
        return self.model.get_output_embeddings()

    @property
    def norms(self) -> list[Any]:
        return [m for m in self.model.modules() if "Norm" in type(m).__name__]


def steered_in_place(module: nn.Module, args: Any, out: Any) -> None:
    first = out[0] if isinstance(out, tuple) else out
    with torch.no_grad():
        first.add_(torch.linspace(-1, 1, first.shape[-1]).to(first))


def hooked(find: Callable[[Parts], nn.Module], hook: Any = steer) -> Callable[[Parts], Undo]:
    return lambda parts: find(parts).register_forward_hook(hook).remove


def scaled(find: Callable[[Parts], Tensor], by: float = 1.5) -> Callable[[Parts], Undo]:
    def change(parts: Parts) -> Undo:
        find(parts).data.mul_(by)
        return lambda: find(parts).data.div_(by)

    return change


def in_no_grad(parts: Parts) -> Undo:
    with torch.no_grad():
        parts.projection("neuron").weight.mul_(1.5)  # type: ignore[operator]
    return None


def in_inference_mode(parts: Parts) -> Undo:
    with torch.inference_mode():
        parts.projection("neuron").weight.mul_(1.5)  # type: ignore[operator]
    return None


def by_an_optimizer(parts: Parts) -> Undo:
    weight: Any = parts.projection("head").weight
    weight.grad = weight.detach().clone()
    torch.optim.SGD([weight], lr=0.4).step()
    weight.grad = None
    return None


def assigned(parts: Parts) -> Undo:
    names = {parts.name("neuron") + ".weight", parts.name("head") + ".weight"}
    state = parts.model.state_dict()
    state = {k: v * (1.5 if k in names else 1) for k, v in state.items()}
    parts.model.load_state_dict(state, assign=True)
    return None


def loaded(parts: Parts) -> Undo:
    before = {k: v.clone() for k, v in parts.model.state_dict().items()}
    names = {parts.name("neuron") + ".weight", parts.name("head") + ".weight"}
    parts.model.load_state_dict({k: v * (1.5 if k in names else 1) for k, v in before.items()})
    return lambda: parts.model.load_state_dict(before)


def new_parameter(parts: Parts) -> Undo:
    norm = parts.norms[-1]
    norm.weight = nn.Parameter(norm.weight.detach() * 1.5 + 0.1)
    return None


def tokens_exchanged(parts: Parts) -> Undo:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        return (torch.where(args[0] % 2 == 0, 3, args[0]), *args[1:]), kwargs

    return parts.model.register_forward_pre_hook(hook, with_kwargs=True).remove


def all_outputs_moved(parts: Parts) -> Undo:
    def hook(module: nn.Module, args: Any, out: Any) -> Any:
        logits = out.logits * torch.linspace(0.5, 2, D_VOCAB).to(out.logits)
        new = copy.copy(out)
        new.logits = logits
        return new

    return parts.model.register_forward_hook(hook).remove


def stream_moved(parts: Parts) -> Undo:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            return (args[0] * 1.5, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": kwargs["hidden_states"] * 1.5}

    block = parts.block(parts.last_layer)
    return block.register_forward_pre_hook(hook, with_kwargs=True).remove


def input_of_a_projection(parts: Parts) -> Undo:
    hook = lambda module, args: (args[0] * 1.5 - 0.1,)  # noqa: E731
    return parts.projection("neuron").register_forward_pre_hook(hook).remove


def activation_exchanged(parts: Parts) -> Undo:
    for module in parts.model.modules():
        for name in ("act", "act_fn", "activation_fn", "intermediate_act_fn"):
            if callable(getattr(module, name, None)):
                had = getattr(module, name)
                setattr(module, name, nn.Softplus())
                return lambda: setattr(module, name, had)
    raise AssertionError("no activation function")


def projection_exchanged(parts: Parts) -> Undo:
    name, had = parts.name("neuron"), parts.projection("neuron")
    new = copy.deepcopy(had)
    new.weight.data.mul_(-1)  # type: ignore[operator]
    parts.model.set_submodule(name, new)
    return lambda: parts.model.set_submodule(name, had)


class Adapted(nn.Module):
    """A projection with a low-rank part added, as adapters wrap one."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base, n_in = base, base.weight.shape[0 if "Conv1D" in type(base).__name__ else 1]
        self.in_features = n_in
        generator = torch.Generator().manual_seed(5)
        self.down = nn.Parameter(torch.randn(n_in, 2, generator=generator) / 4)
        self.up = nn.Parameter(torch.randn(2, 32, generator=generator) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.to(x) @ self.up.to(x)


def adapter_wrapped(parts: Parts) -> Undo:
    name, had = parts.name("head"), parts.projection("head")
    parts.model.set_submodule(name, Adapted(had))
    return lambda: parts.model.set_submodule(name, had)


def forward_patched(parts: Parts) -> Undo:
    projection: Any = parts.projection("neuron")
    original = projection.forward
    projection.forward = lambda *args, **kwargs: 1.5 * original(*args, **kwargs)
    return None


def block_patched(parts: Parts) -> Undo:
    block: Any = parts.block(0)
    original = block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return steer(block, args, original(*args, **kwargs))

    block.forward = forward
    return None


def class_patched(parts: Parts) -> Undo:
    kind: Any = type(parts.block(0))
    original = kind.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return steer(self, args, original(self, *args, **kwargs))

    PATCHED.setdefault(kind, original)  # it may be patched twice
    kind.forward = forward
    return lambda: setattr(kind, "forward", original)


def everywhere_hooked(parts: Parts) -> Undo:
    def hook(module: nn.Module, args: Any, out: Any) -> Any:
        return out * 1.2 if module is parts.projection("head") else None

    return nn.modules.module.register_module_forward_hook(hook).remove


def another_epsilon(parts: Parts) -> Undo:
    for norm in parts.norms:
        for name in ("eps", "variance_epsilon"):
            if hasattr(norm, name):
                setattr(norm, name, 0.5)
    return None


def weight_norm(parts: Parts) -> Undo:
    parametrizations.weight_norm(parts.projection("neuron"))
    parts.projection("neuron").parametrizations.weight.original0.data.mul_(2)
    return None


def pruned(parts: Parts) -> Undo:
    prune.l1_unstructured(parts.projection("neuron"), "weight", amount=0.5)
    return None


def untied(parts: Parts) -> Undo:
    parts.unembedding.weight = nn.Parameter(parts.unembedding.weight.detach().roll(1, 0) * 1.5)
    return None


def copied_over(parts: Parts) -> Undo:
    parts.block(parts.last_layer).load_state_dict(parts.block(0).state_dict())
    return None


def in_training(parts: Parts) -> Undo:
    parts.model.train()
    return parts.model.eval


def frozen(parts: Parts) -> Undo:
    parts.model.requires_grad_(False)
    return lambda: parts.model.requires_grad_(True)


def in_float64(parts: Parts) -> Undo:
    parts.model.double()
    return None


def in_bfloat16(parts: Parts) -> Undo:
    parts.model.to(torch.bfloat16)
    return None


def eager_attention(parts: Parts) -> Undo:
    parts.model.set_attn_implementation("eager")
    return None


BOX = [1.0]
PATCHED: dict[Any, Any] = {}  # classes, and what their forward was


def box_changed(parts: Parts) -> Undo:
    """A number that a hook reads from elsewhere: seen by what the model does."""
    BOX[0] = 1.7  # each time the same
    return lambda: BOX.__setitem__(0, 1.0)


def buffer_changed(parts: Parts) -> Undo:
    parts.block(0).get_buffer("scale").mul_(1.5)
    return None


CHANGES: dict[str, Callable[[Parts], Undo]] = {
    "weights in place": in_no_grad,
    "weights by .data": scaled(lambda p: p.projection("neuron").weight),  # type: ignore[return-value]
    "weights in inference mode": in_inference_mode,
    "one embedding by .data": scaled(lambda p: p.embedding.weight[p.prompts.tokens[1, 3]], -1.0),
    "the last norm by .data": scaled(lambda p: p.norms[-1].weight, 1.7),
    "an answer's row by .data": scaled(lambda p: p.unembedding.weight[p.answer]),
    "weights by an optimizer": by_an_optimizer,
    "weights assigned": assigned,
    "weights loaded": loaded,
    "a new parameter": new_parameter,
    "steering the embedding": hooked(lambda p: p.embedding),
    "steering the first block": hooked(lambda p: p.block(0)),
    "steering the last block": hooked(lambda p: p.block(p.last_layer)),
    "steering the last block in place": hooked(lambda p: p.block(p.last_layer), steered_in_place),
    "steering attention": hooked(lambda p: p.parent("head")),
    "steering the last MLP": hooked(lambda p: p.parent("neuron", p.last_layer)),
    "steering a projection": hooked(lambda p: p.projection("neuron", p.last_layer)),
    "steering a head's projection": hooked(lambda p: p.projection("head")),
    "steering the last norm": hooked(lambda p: p.norms[-1]),
    "steering the logits": hooked(lambda p: p.unembedding),
    "the input of a projection": input_of_a_projection,
    "the stream before the last block": stream_moved,
    "tokens exchanged": tokens_exchanged,
    "all outputs moved": all_outputs_moved,
    "an activation function": activation_exchanged,
    "a projection exchanged": projection_exchanged,
    "an adapter": adapter_wrapped,
    "a forward patched": forward_patched,
    "a block's forward patched": block_patched,
    "a class patched": class_patched,
    "a hook on all modules": everywhere_hooked,
    "another epsilon": another_epsilon,
    "weight norm": weight_norm,
    "pruned": pruned,
    "untied": untied,
    "a block copied over": copied_over,
    "training mode": in_training,
    "no gradients asked": frozen,
    "float64": in_float64,
    "bfloat16": in_bfloat16,
    "eager attention": eager_attention,
    "a number elsewhere": box_changed,
    "a buffer": buffer_changed,
}


# Of TransformerLens bridges, whose users hook points by name and reach weights through its parts.


def point_hooked(name: str, permanent: bool = False) -> Callable[[Parts], Undo]:
    def change(parts: Parts) -> Undo:
        steering = lambda act, hook: act + torch.linspace(-1, 1, act.shape[-1]).to(act)  # noqa: E731
        parts.model.add_hook(name, steering, is_permanent=permanent)
        return lambda: parts.model.reset_hooks(including_permanent=True)

    return change


def part_of(find: Callable[[Any], Any], by: float = 1.5) -> Callable[[Parts], Undo]:
    return scaled(lambda parts: find(parts.model), by)


def bridge_loaded(parts: Parts) -> Undo:
    before = {k: v.clone() for k, v in parts.model.state_dict().items()}
    parts.model.load_state_dict({k: v * 1.2 if v.ndim == 2 else v for k, v in before.items()})
    return lambda: parts.model.load_state_dict(before)


def original_hooked(parts: Parts) -> Undo:
    """A plain hook of torch on a module of the model inside."""
    return parts.model.blocks[1].mlp.original_component.register_forward_hook(steer).remove


BRIDGE_CHANGES: dict[str, Callable[[Parts], Undo]] = {
    "a hook on the stream": point_hooked("blocks.0.hook_in"),
    "a hook on the last stream": point_hooked("blocks.1.hook_out"),
    "a hook on an old name": point_hooked("blocks.1.hook_resid_pre"),
    "a hook on attention": point_hooked("blocks.0.attn.hook_out"),
    "a hook on an MLP": point_hooked("blocks.1.mlp.hook_out"),
    "a hook on the heads": point_hooked("blocks.0.attn.o.hook_in"),
    "a hook on the last norm": point_hooked("ln_final.hook_out"),
    "a hook on the logits": point_hooked("unembed.hook_out"),
    "a permanent hook": point_hooked("blocks.0.mlp.hook_out", permanent=True),
    "a bridge's weights": part_of(lambda m: m.blocks[0].attn.o.weight),
    "a bridge's embedding": part_of(lambda m: m.embed.weight, 1.2),
    "a bridge's unembedding": part_of(lambda m: m.unembed.weight, 1.2),
    "a bridge's last norm": part_of(lambda m: m.ln_final.weight),
    "a bridge's weights loaded": bridge_loaded,
    "a hook inside": original_hooked,
    "the weights inside": part_of(lambda m: next(
        p for name, p in m.original_model.named_parameters() if p.ndim == 2 and ".1." in name
    )),
}  # fmt: skip


# -- one combination ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is combined."""

    seed: int
    family: str
    kind: str
    ablation: str
    metric: str
    change: str
    when: str
    replay: bool | None
    batch_size: int | None
    padded: bool
    kept: bool

    @staticmethod
    def drawn(seed: int) -> "Case":
        """Every change once in as many seeds; all else at random."""
        pick = random.Random(seed).choice
        family = pick(FAMILIES)
        case = Case(
            seed=seed,
            family=family,
            kind=pick(KINDS if family == "llama" else KINDS[:3]),
            ablation=pick(ABLATIONS),
            metric=pick(METRICS),
            change=list(CHANGES)[seed % len(CHANGES)],
            when=pick(TIMES),
            replay=pick((None, None, False)),
            batch_size=pick((None, 2, 7)),
            padded=pick((False, False, True)),
            kept=pick((False, False, True)),
        )
        return case

    @staticmethod
    def of_bridges(seed: int) -> "Case":
        """The same of TransformerLens bridges."""
        case, pick = Case.drawn(seed), random.Random(seed).choice
        change = list(BRIDGE_CHANGES)[seed % len(BRIDGE_CHANGES)]
        kind = case.kind if case.kind in KINDS[:3] else "both"
        return replace(case, family=pick(BRIDGES), kind=kind, change=change)


class Combination:
    """A case set up: the model, the game, and the loop by hand."""

    def __init__(self, case: Case) -> None:
        self.case = case
        torch.manual_seed(case.seed)
        shared = case.family == "shared_llama"
        self.model = shared_llama() if shared else build(case.family)
        self.prompts = self._prompts()
        self.parts = Parts(case.family, self.model, self.prompts)
        takes_cache = case.family not in BRIDGES
        self.by_hand = ByHand(self.model, self.prompts, self._places, takes_cache)
        if case.change in ("a number elsewhere", "a buffer"):
            block = self.parts.block(0)
            block.register_buffer("scale", torch.ones(()))
            block.register_forward_hook(
                lambda module, args, out: (
                    (out[0] * BOX[0] * module.scale, *out[1:])
                    if isinstance(out, tuple)
                    else out * BOX[0] * module.scale
                )
            )
        self.armed: Callable[[], Any] | None = None
        self.chosen, self.slots = self.units()
        self.given: dict[tuple[str, int], Tensor] = {}
        self.others: sm.Prompts | None = None

    def _prompts(self) -> sm.Prompts:
        generator = torch.Generator().manual_seed(self.case.seed + 1)
        draw = lambda *shape: torch.randint(3, D_VOCAB, shape, generator=generator)  # noqa: E731
        n, n_pos = 3, 7
        mask = None
        if self.case.padded:
            mask = torch.arange(n_pos)[None] < torch.tensor([[5], [7], [4]])
        answers = draw(n, 2)
        answers[:, 1] = (answers[:, 0] + 1) % D_VOCAB
        wrong = (answers + 7) % D_VOCAB
        text = self.case.metric == "text"
        tokens = draw(n, n_pos)
        return sm.Prompts(
            tokens if mask is None else tokens.masked_fill(~mask, 0),
            attention_mask=mask,
            answers=None if text else answers,
            wrong_answers=None if text else wrong,
            corrupted=draw(n, n_pos),
        )

    def _places(self) -> dict[tuple[str, int], tuple[nn.Module, int]]:
        if self.case.family != "shared_llama":
            found = modules_of(self.case.family, self.model)
            if self.case.family in BRIDGES:  # what is read after the bridge's own hook points
                found = {key: module.original_component for key, module in found.items()}
            return {key: (module, 0) for key, module in found.items()}
        places = {}
        for layer, block in enumerate(self.model.model.layers):
            places["head", layer] = (block.self_attn.o_proj, layer % 2)
            places["neuron", layer] = (block.mlp.down_proj, layer % 2)
        return places

    def units(self) -> tuple[sm.Components, list[list[Slot]]]:
        """At most six units in some order, and the heads or neurons of each."""
        model, kind = self.model, self.case.kind
        if kind == "kv_groups":
            every = sm.Components.kv_groups(model)
        else:
            heads, neurons = sm.Components.heads(model), sm.Components.neurons(model)
            some = neurons[sorted(random.Random(self.case.seed).sample(range(len(neurons)), 12))]
            every = {"heads": heads, "neurons": some, "both": heads + some}[kind]
        chosen = random.Random(self.case.seed + 3).sample(range(len(every)), min(6, len(every)))
        units = every[chosen]
        slots = [
            [("head", u.layer, 2 * u.index), ("head", u.layer, 2 * u.index + 1)]
            if u.kind == "kv_group"
            else [(u.kind, u.layer, u.index)]
            for u in units
        ]
        return units, slots

    def game(self) -> sm.ModelGame:
        case = self.case
        units = self.chosen
        word = {"mean of others": "mean"}.get(case.ablation, case.ablation)
        ablation: Any = word
        if word == "given":
            probe = sm.ModelGame(self.model, sm.Task(self.prompts, "log_prob"), units,
                ablation="zero", replay=False)  # fmt: skip
            generator = torch.Generator().manual_seed(9)
            drawn = {
                name: torch.randn(reference.shape[-1], generator=generator)
                for name, reference in probe.references.items()
            }
            ablation = drawn
            keys = sorted({(s[1], s[0]) for several in self.slots for s in several})
            self.given = {
                (kind, layer): value
                for (layer, kind), value in zip(keys, drawn.values(), strict=True)
            }
        if case.ablation == "mean of others":
            generator = torch.Generator().manual_seed(11)
            self.others = sm.Prompts(torch.randint(3, D_VOCAB, (4, 5), generator=generator))
        return sm.ModelGame(
            self.model,
            sm.Task(self.prompts, self._metric()),
            units,
            ablation=ablation,
            reference=self.others,
            batch_size=case.batch_size,
            replay=case.replay,
        )

    def _metric(self) -> Any:
        word = self.case.metric
        if self.case.when == "within":
            return self._armed_metric
        if word == "own kl":
            return self._own_kl
        return {"text": "log_prob", "own": by_hand.third_position}.get(word, word)

    def _armed_metric(self, output: Any, prompts: sm.Prompts) -> Tensor:
        if self.armed is not None:
            armed, self.armed = self.armed, None
            armed()
        return by_hand.third_position(output, prompts)

    def _own_kl(self, output: Any, prompts: sm.Prompts) -> Tensor:
        """As people write it: the clean run within the metric."""
        logits = output if isinstance(output, Tensor) else output.logits
        with torch.no_grad():
            mask = prompts.attention_mask
            given: dict[str, Any] = {} if mask is None else {"attention_mask": mask.long()}
            if self.case.family not in ("bert", *BRIDGES):
                given["use_cache"] = False
            clean = self.model(prompts.tokens, **given)
            clean = clean if isinstance(clean, Tensor) else clean.logits
        at = prompts.real.sum(dim=1) - 1
        rows = torch.arange(len(at))
        was = clean[rows, at].float().log_softmax(-1)
        return -(was.exp() * (was - logits[rows, at].float().log_softmax(-1))).sum(-1)

    def want(self, gates: Tensor, slopes: bool = False) -> Tensor:
        """By hand, on the model as it stands."""
        word = {"mean of others": "mean"}.get(self.case.ablation, self.case.ablation)
        references = self.by_hand.references(word, self.others, self.given)
        with torch.no_grad():
            clean = self.by_hand.logits(self.prompts)
        metrics: dict[str, Any] = {
            "logit_diff": by_hand.logit_diff,
            "prob_diff": by_hand.prob_diff,
            "log_prob": by_hand.log_prob,
            "loss": lambda *a: -by_hand.log_prob(*a),
            "text": by_hand.of_text,
            "kl": by_hand.kl_to(clean),
            "own kl": by_hand.kl_to(clean),
            "own": by_hand.third_position,
        }
        metric = metrics["own" if self.case.when == "within" else self.case.metric]
        if slopes:
            return self.by_hand.slopes(gates, self.slots, references, metric)
        with torch.no_grad():
            return self.by_hand.values(gates, self.slots, references, metric)

    def masks(self) -> Tensor:
        generator = torch.Generator().manual_seed(self.case.seed + 2)
        masks = torch.rand(6, len(self.slots), generator=generator) > 0.3
        masks[0], masks[1] = True, False
        return masks

    def compare(self, got: Tensor, want: Tensor, what: str, of: float | None = None) -> None:
        """Within rounding: of values of size ``of``, by default the largest."""
        half = any(p.dtype == torch.bfloat16 for p in self.model.parameters())
        size = want.abs().max().item() if of is None else of
        off = (got.double() - want.double()).abs().max().item()
        allowed = (0.1 if half else 1e-3 if what == "slopes" else 1e-4) * size + 1e-6
        assert off <= allowed, f"{what} are off by {off:.3g} of {size:.3g}"


def one_call(combination: Combination, game: sm.ModelGame) -> None:
    """Values and slopes of the game now, or an error of our own."""
    masks = combination.masks()
    try:
        got = game(masks)
    except (ValueError, RuntimeError) as error:
        assert OUR_WORDS.search(str(error)), error
        return
    combination.compare(got, combination.want(masks.float()), "values")
    if game.has_slopes and "own kl" != combination.case.metric:
        gates = 0.8 * masks[2:4].float() + 0.1
        got = game.gradient(gates)
        combination.compare(got, combination.want(gates, slopes=True), "slopes")


def one_search(combination: Combination, game: sm.ModelGame, store: Path) -> None:
    """All pairs, with a store that may hold those of another model, against those by hand."""
    try:
        found = sm.discover(game, method="exhaustive", progress=False, store=store)
    except ValueError as error:
        assert OUR_WORDS.search(str(error)), error
        found = sm.discover(game, method="exhaustive", progress=False)
    n = len(game)
    gone = [(), *((i,) for i in range(n)), *((i, j) for i in range(n) for j in range(i + 1, n))]
    gates = torch.ones(len(gone), n)
    for row, lost in enumerate(gone):
        gates[row, list(lost)] = 0
    value = dict(zip(gone, combination.want(gates).mean(1).tolist(), strict=True))
    size = max(map(abs, value.values()))
    single = [value[i,] - value[()] for i in range(n)]
    got = torch.tensor(found.main_effects)
    combination.compare(got, torch.tensor(single), "main effects", size)
    pairs = [tuple(sorted(row.tolist())) for row in found.units]
    want = [value[i, j] - value[i,] - value[j,] + value[()] for i, j in pairs]
    combination.compare(torch.tensor(found.mean), torch.tensor(want), "pairs", size)


@contextmanager
def nothing_left_elsewhere() -> Iterator[None]:
    """What a change does outside of the model is undone."""
    hooks, classes = dict(nn.modules.module._global_forward_hooks), dict(PATCHED)
    try:
        yield
    finally:
        BOX[0] = 1.0
        nn.modules.module._global_forward_hooks.clear()
        nn.modules.module._global_forward_hooks.update(hooks)
        for kind, forward in PATCHED.items():
            kind.forward = forward
        PATCHED.clear()
        PATCHED.update(classes)


def check(case: Case, folder: Path) -> None:
    """One combination."""
    combination = Combination(case)
    changes = CHANGES | BRIDGE_CHANGES
    change = lambda: changes[case.change](combination.parts)  # noqa: E731
    store = folder / f"{case.seed}.sqlite"
    if case.when == "before":
        change()
    game = combination.game()
    one_call(combination, game)
    if case.kept:
        one_search(combination, game, store)
    if case.when in ("between", "undone"):
        undo = change()
        one_call(combination, game)
        if case.kept:
            one_search(combination, game, store)
        if case.when == "undone" and undo is not None:
            undo()
            one_call(combination, game)
    if case.when == "within":
        masks = combination.masks()
        before = combination.want(masks.float())
        combination.armed = change
        try:
            got = game(masks)
        except (ValueError, RuntimeError) as error:
            assert OUR_WORDS.search(str(error)), error
        else:
            after = combination.want(masks.float())
            nearest = min((before, after), key=lambda want: (want - got).abs().max().item())
            if case.change != "a number elsewhere":  # which only another call can notice
                combination.compare(got, nearest, "values")
        one_call(combination, game)
        # The change itself was not lost when the call took its hooks away.
        twin = Combination(case)
        twin.game()
        changes[case.change](twin.parts)
        combination.compare(combination.want(masks.float()), twin.want(masks.float()), "changes")


def run(cases: Iterable[Case], folder: Path) -> None:
    for case in cases:
        try:
            with nothing_left_elsewhere():
                check(case, folder)
        except Exception as error:
            raise AssertionError(f"{case}: {error!r}") from error


NEUTRAL = (
    "training mode", "no gradients asked", "float64", "bfloat16", "eager attention",
)  # fmt: skip


def how_far(word: str, case: Case) -> float:
    """By how much a change moves values by hand, as a share of the largest."""
    case = replace(case, metric="own", ablation="zero", when="before", kind="both", padded=False)
    with nothing_left_elsewhere():
        combination = Combination(case)
        gates = combination.masks().float()[:2]
        before = combination.want(gates)
        (CHANGES | BRIDGE_CHANGES)[word](combination.parts)
        return ((combination.want(gates) - before).abs().max() / before.abs().max()).item()


SAID = pytest.mark.filterwarnings(
    "ignore:.*(cannot be replayed|cannot resolve|mean_per_position takes the mean)"
)


@SAID
def test_changes_change_something() -> None:
    for number, word in enumerate(CHANGES):
        moved = how_far(word, replace(Case.drawn(number), family="gpt2"))
        assert word in NEUTRAL or moved > 1e-3, (word, moved)
        assert moved < 1e-2 or word not in NEUTRAL, (word, moved)
    for number, word in enumerate(BRIDGE_CHANGES):
        moved = how_far(word, replace(Case.of_bridges(number), family="bridge_gpt2"))
        assert moved > 1e-3, (word, moved)


@SAID
@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in (1, 2, 3))]
)
def test_a_game_is_a_loop_by_hand_on_the_model_as_it_stands(part: int, tmp_path: Path) -> None:
    run(map(Case.drawn, range(11 * part, 11 * part + 11)), tmp_path)


@pytest.mark.slow
@SAID
def test_a_bridge_is_a_loop_by_hand_as_it_stands(tmp_path: Path) -> None:
    run(map(Case.of_bridges, range(5)), tmp_path)


@pytest.mark.slow
@SAID
@pytest.mark.parametrize("part", range(4))
def test_bridges_in_a_hundred_cases(part: int, tmp_path: Path) -> None:
    run(map(Case.of_bridges, range(100 + 25 * part, 125 + 25 * part)), tmp_path)


@pytest.mark.slow
@SAID
@pytest.mark.parametrize("part", range(15))
def test_three_hundred_more(part: int, tmp_path: Path) -> None:
    run(map(Case.drawn, range(100 + 20 * part, 120 + 20 * part)), tmp_path)
