"""Where a model keeps its attention heads and MLP neurons.

Heads are read at the *input* of the attention's output projection (``[row pos head*d_head]``),
neurons at the input of the MLP's down projection (``[row pos neuron]``): there, and only there, a
head or a neuron is a slice that can be replaced without touching any other. (Slices of the
projection's output mix all heads.) Sizes come from the weights, never from a config, and a model
whose heads cannot be told apart is refused.
"""

import re
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn
from weakref import WeakKeyDictionary

import torch
from torch import nn

from spex_mech.engine.device import device_of, input_type_of
from spex_mech.engine.discovery import (
    NotFound,
    Place,
    Seen,
    block_of,
    is_linear,
    layer_of,
    look,
)
from spex_mech.engine.examples import N_POS, Example, check_decoder, example_of, examples_for
from spex_mech.engine.prompts import Prompts
from spex_mech.notices import warn
from spex_mech.units import Blocks, Unit

Kind = Literal["head", "neuron", "kv_group", "expert"]
KINDS: tuple[Kind, Kind, Kind] = ("head", "neuron", "expert")  # what hook points hold

# One row a family of transformers models: the two output projections of layer L.
_FAMILIES: dict[str, tuple[str, str]] = {
    "gpt2": (r"h\.(\d+)\.attn\.c_proj", r"h\.(\d+)\.mlp\.c_proj"),
    "gpt_neo": (r"h\.(\d+)\.attn\.attention\.out_proj", r"h\.(\d+)\.mlp\.c_proj"),
    "gptj": (r"h\.(\d+)\.attn\.out_proj", r"h\.(\d+)\.mlp\.fc_out"),
    "gpt_neox": (r"layers\.(\d+)\.attention\.dense", r"layers\.(\d+)\.mlp\.dense_4h_to_h"),
    "phi": (r"layers\.(\d+)\.self_attn\.dense", r"layers\.(\d+)\.mlp\.fc2"),
    "opt": (r"decoder\.layers\.(\d+)\.self_attn\.out_proj", r"decoder\.layers\.(\d+)\.fc2"),
    "bert": (r"encoder\.layer\.(\d+)\.attention\.output\.dense", r"layer\.(\d+)\.output\.dense"),
    "distilbert": (r"layer\.(\d+)\.attention\.out_lin", r"layer\.(\d+)\.ffn\.lin2"),
}
_FAMILIES |= dict.fromkeys(("roberta", "xlm-roberta", "electra"), _FAMILIES["bert"])
_LLAMA = (r"layers\.(\d+)\.self_attn\.o_proj", r"layers\.(\d+)\.mlp\.down_proj")
_FAMILIES |= dict.fromkeys(
    "llama mistral qwen2 qwen3 gemma gemma2 gemma3_text phi3 olmo olmo2 granite smollm3".split(),
    _LLAMA,
)
# Heads as in Llama; the MLP is a mixture of experts, in which no neuron runs for every token.
_EXPERTS = dict.fromkeys(
    "mixtral qwen2_moe qwen3_moe olmoe gpt_oss phimoe granitemoe".split(), _LLAMA[0]
)

_NAME_IT = (
    "name the output projections yourself: spex_mech.Architecture(heads=('layers.0.attn.o', ...), "
    "neurons=('layers.0.mlp.down', ...), n_heads=...)"
)


@dataclass(frozen=True)
class Architecture:
    """The two output projections of each layer of a model, and what their inputs hold.

    For a plain ``nn.Module`` give the module names, with None where a layer lacks one, and the
    number of heads of each layer (one number for all, or one a layer). Everything else is read
    from the weights.

    Args:
        heads: the attention output projection of each layer.
        neurons: the MLP down projection of each layer.
        n_heads: heads of each layer.
        n_kv_heads: key-value groups of each layer, where heads share keys and values.
        d_head, d_mlp: width of a head and number of neurons, one a layer; empty: not read yet.
        hooks: whether the names are modules or TransformerLens hook points.
        no_heads, no_neurons: why there are none, for the error's text.
        labels: how the labels of a layer's heads and of its neurons begin, in a model of several
            stacks: ``("decoder.L0X", "decoder.L0")``; empty: ``L0``.
        experts: the mixture of experts of each layer; empty: there is none.
        n_experts: of each layer.
        no_experts: why there are none.

    Raises:
        ValueError: not one name a layer in both, or not one number of heads a layer.

    >>> arch = Architecture(heads=("layers.0.attn.o",), neurons=(None,), n_heads=4)
    >>> arch.n_layers
    1
    """

    heads: tuple[str | None, ...]
    neurons: tuple[str | None, ...]
    n_heads: int | tuple[int, ...]
    n_kv_heads: int | tuple[int, ...] | None = None
    d_head: tuple[int, ...] = ()
    d_mlp: tuple[int, ...] = ()
    hooks: Literal["modules", "hook_points"] = "modules"
    no_heads: str = "none of its layers has an attention output projection"
    no_neurons: str = "none of its layers has an MLP down projection"
    labels: tuple[tuple[str, str], ...] = ()
    experts: tuple[str | None, ...] = ()
    n_experts: tuple[int, ...] = ()
    no_experts: str = "no module of it is called with the numbers of experts and their weights"

    def __post_init__(self) -> None:
        if len(self.heads) != len(self.neurons):
            raise ValueError(
                f"heads names {len(self.heads)} layers and neurons {len(self.neurons)}; give one "
                "entry a layer in both, None where a layer has no such module"
            )
        for name in ("n_heads", "n_kv_heads"):
            count = getattr(self, name)
            if isinstance(count, tuple) and len(count) != len(self.heads):
                raise ValueError(
                    f"{name} has {len(count)} numbers for {len(self.heads)} layers; give one for "
                    "each layer, or one number for all"
                )

    @property
    def n_layers(self) -> int:
        """How many layers were named."""
        return len(self.heads)

    @property
    def width(self) -> int:
        """Numbers that heads and neurons are at one position, in all layers; 0: not read yet."""
        heads = (_of_layer(self.n_heads, at) * each for at, each in enumerate(self.d_head))
        return sum(heads) + sum(self.d_mlp)

    def count(self, kind: Kind, layer: int) -> int:
        """How many heads, neurons or key-value groups a layer has.

        Raises:
            ValueError: the layer has none, or the sizes are not known yet.
        """
        if not self.has(kind, layer):
            self.refuse(kind, layer)
        if kind == "head":
            return _of_layer(self.n_heads, layer)
        if kind == "expert":
            return self.n_experts[layer]
        if kind == "kv_group":
            return _of_layer(self.n_kv_heads or 0, layer)
        if not self.d_mlp:
            raise ValueError(
                "the number of neurons is read from the weights: pass the model and the "
                "architecture, Components.neurons(model, architecture=...)"
            )
        return self.d_mlp[layer]

    def has(self, kind: Kind, layer: int) -> bool:
        """Whether a layer has heads, neurons or key-value groups."""
        if kind == "neuron":
            return self.neurons[layer] is not None
        if kind == "expert":
            return bool(self.experts) and self.experts[layer] is not None
        return self.heads[layer] is not None and (kind == "head" or self.n_kv_heads is not None)

    def label(self, kind: Kind, layer: int) -> str:
        """How the labels of a layer's units begin."""
        return self.labels[layer][kind in ("neuron", "expert")] if self.labels else f"L{layer}"

    def said(self, layer: int) -> str:
        """What people call a layer: ``layer 3``, or ``decoder 0`` in a model of several stacks."""
        begins = next((text for text in self.labels[layer] if text), "") if self.labels else ""
        blocks = Blocks.of([Unit(f"{begins or f'L{layer}'}H0", layer=layer)])
        return blocks.said(int(blocks.of_unit[0]))

    def same_places(self, other: "Architecture") -> bool:
        """Whether both name the same hook points (one may know the sizes, the other not yet)."""
        return (self.heads, self.neurons) == (other.heads, other.neurons)

    def refuse(self, kind: Kind, layer: int | None = None) -> NoReturn:
        """Raise the error that says why there are no such components."""
        where = "the model" if layer is None else self.said(layer)
        if kind == "kv_group" and any(self.heads):
            raise ValueError(
                f"{where} has no key-value groups: its heads share no keys and values; use "
                "Components.heads"
            )
        whys = {"neuron": self.no_neurons, "expert": self.no_experts}
        what = kind if kind in whys else "head"
        raise ValueError(f"{where} has no {what}s: {whys.get(kind, self.no_heads)}")

    def name(self, kind: Kind, layer: int) -> str:
        """The hook point of a layer: the name of a module, or of a TransformerLens hook."""
        name = self.names(kind)[layer] if self.has(kind, layer) else None
        if name is None:
            self.refuse(kind, layer)
        return name

    def names(self, kind: Kind) -> tuple[str | None, ...]:
        """The hook points of each layer."""
        return {"neuron": self.neurons, "expert": self.experts}.get(kind, self.heads)


def architecture_of(
    model: Any, architecture: Architecture | None = None, prompts: Prompts | None = None
) -> Architecture:
    """The architecture of a model, its sizes read from the weights.

    Args:
        model: a TransformerBridge or HookedTransformer, a transformers model, an ``nn.Module``
            together with ``architecture``, or an ``Architecture`` itself (returned as it is).
        prompts: what it is run on, one of them, where they hold more than tokens. Default: a few
            tokens, an image or a sound, whatever it reads.

    Raises:
        ValueError: its heads or neurons cannot be told apart, or the prompts lack what it reads.
    """
    if isinstance(model, Architecture):
        return model
    if prompts is not None and isinstance(model, nn.Module) and not is_hooked(model):
        device, dtype = device_of(model), input_type_of(model)
        check_decoder(model, prompts, lambda example: example.on(device, dtype))
    if architecture is not None:
        sized = _sized(model, architecture)
        _compare_with_proof(model, sized, prompts)
        return sized
    if is_hooked(model):
        return _of_hooked(model)
    config = getattr(model, "config", None)
    if getattr(config, "model_type", None) is None:
        return _found(model, type(model).__name__, prompts)
    return _of_transformers(model, config, prompts)


def how_known(
    model: Any, architecture: Architecture | None = None, prompts: Prompts | None = None
) -> dict[tuple[Kind, int], str]:
    """How it is known where heads and neurons are, by kind and layer."""
    arch = architecture_of(model, architecture, prompts)
    every: list[tuple[Kind, int]] = [
        (kind, layer) for layer in range(arch.n_layers) for kind in KINDS if arch.has(kind, layer)
    ]
    if architecture is not None:
        return dict.fromkeys(every, "it was named by hand")
    if is_hooked(model):
        return dict.fromkeys(every, "TransformerLens calls it so")
    try:
        layers = _layers_of(model, seen_in(model, prompts))
    except _DoesNotRun:
        return dict.fromkeys(every, "by its name alone, as the model does not run by itself")
    return {(kind, layer): layers[layer][kind].how for kind, layer in every}


def text_config(model: Any) -> Any:
    """The configuration of the model's text part, which is mostly its own; None where there is
    none."""
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def is_hooked(model: Any) -> bool:
    """Whether the model is TransformerLens's: a TransformerBridge or a HookedTransformer."""
    return all(hasattr(model, name) for name in ("cfg", "hooks", "hook_dict", "blocks"))


def _of_transformers(model: nn.Module, config: Any, prompts: Prompts | None) -> Architecture:
    family = config.model_type
    text = text_config(model)
    try:
        return _found(model, family, prompts)
    except _DoesNotRun:
        if family not in _FAMILIES and family not in _EXPERTS and family != "albert":
            raise
    if family == "albert":
        return _of_albert(model, text)
    attention, mlp = _FAMILIES.get(family) or (_EXPERTS[family], None)
    heads, neurons = _numbered(model, attention), _numbered(model, mlp) if mlp else {}
    if not heads:
        raise ValueError(f"no module of this {family} model is named like {attention}; {_NAME_IT}")
    n_layers = max([*heads, *neurons]) + 1
    experts = "its MLPs are mixtures of experts, in which no neuron runs for every token"
    n_heads, n_kv = text.num_attention_heads, getattr(text, "num_key_value_heads", None)
    return _sized(
        model,
        Architecture(
            heads=tuple(heads.get(layer) for layer in range(n_layers)),
            neurons=tuple(neurons.get(layer) for layer in range(n_layers)),
            n_heads=n_heads,
            n_kv_heads=n_kv if n_kv and n_kv < n_heads else None,
            no_neurons=experts if family in _EXPERTS else "no down projection was found",
        ),
        d_head=getattr(text, "head_dim", None),
    )


_MIXTURES = "its MLPs are mixtures of experts, in which no neuron runs for every token"
_NO_ATTENTION = (
    "in a pass over it no attention function of transformers or torch ran, and no weights that sum "
    "to 1 met values (a state-space model, or attention of its own kind)"
)


class _DoesNotRun(ValueError):
    """The model could not be run on anything that was tried."""


# Model -> its state, and what was seen on each kind of example.
_KNOWN: "WeakKeyDictionary[nn.Module, tuple[Any, dict[Any, Seen | str]]]" = WeakKeyDictionary()


def seen_in(model: nn.Module, prompts: Prompts | None = None) -> Seen:
    """What discovery saw in a model; it runs anew when modules were exchanged.

    Args:
        prompts: as :func:`architecture_of` takes them.

    Raises:
        ValueError: the model could not be run.
    """
    state = hash(tuple(_state_of(name, m) for name, m in model.named_modules()))
    known = _KNOWN.get(model)
    if known is None or known[0] != state:
        known = _KNOWN[model] = (state, {})
    own = None if prompts is None or not prompts.inputs else example_of(model, prompts)
    kind = own and own.kind
    if kind not in known[1]:
        known[1][kind] = _seen_on_any(model, own)
    seen = known[1][kind]
    if isinstance(seen, str):
        raise _DoesNotRun(seen)
    return seen


def _seen_on_any(model: nn.Module, own: Example | None) -> Seen | str:
    """What was seen on the first example that the model runs on; or why there is none."""
    device, dtype = device_of(model), input_type_of(model)
    if own is None:
        config, text = getattr(model, "config", None), text_config(model)
        examples = examples_for(model, config, text)
    else:
        examples = iter([own])
    why = ""
    for example in examples:
        example = example.on(device, dtype)
        try:
            return replace(look(model, example), example=example)
        except NotFound as error:
            why = why or (
                f"{type(model).__name__} does not run on {example}, which is how heads and "
                f"neurons are found ({error})"
            )
    cure = ", or give prompts that it runs on: Components.heads(model, prompts=...)"
    return f"{why}; {_NAME_IT}{cure if own is None else ''}"


def prompts_for(model: Any, n: int = 2) -> Prompts:
    """Prompts that a model runs on, of what it was looked into with."""
    try:
        example = None if is_hooked(model) else seen_in(model).example
    except _DoesNotRun:
        example = None
    if example is None:
        return Prompts(torch.arange(n * N_POS).reshape(n, N_POS))
    return example.prompts(n)


def _state_of(name: str, module: nn.Module) -> tuple[Any, ...]:
    """What tells whether a module is still the one that was looked at."""
    own = vars(module).items()
    plain = [(k, v) for k, v in own if isinstance(v, int | str) and k != "training"]
    shapes = [tuple(p.shape) for p in module._parameters.values() if p is not None]
    return (name, id(module), type(module), tuple(plain), tuple(shapes))


def _found(model: nn.Module, family: str, prompts: Prompts | None) -> Architecture:
    """What running the model finds and proves."""
    seen = seen_in(model, prompts)
    no_heads, no_neurons = _why_none(model, seen)
    if not seen.heads and not seen.neurons and not seen.experts:
        raise ValueError(
            f"a {family} model has neither heads nor neurons that can be told apart: {no_heads}; "
            f"{no_neurons}; {_NAME_IT}"
        )
    if seen.heads and seen.no_heads:
        warn(
            f"attention runs {seen.n_attention} times in a pass over this {family} model, and the "
            f"heads of {len(seen.heads)} are found; of the others: {no_heads}"
        )
    layers = _layers_of(model, seen)
    heads, neurons, experts = [[layer.get(kind) for layer in layers] for kind in KINDS]
    if lost := _lost_neurons(seen):
        warn(
            f"neurons are found in {sum(p is not None for p in neurons)} of the {len(layers)} "
            f"layers of this {family} model: {lost}"
        )
    shared = any(p and p.n_kv and p.n_kv < p.count for p in heads)
    return Architecture(
        heads=tuple(p and p.name for p in heads),
        neurons=tuple(p and p.name for p in neurons),
        n_heads=tuple(p.count if p else 0 for p in heads),
        n_kv_heads=tuple((p.n_kv or p.count) if p else 0 for p in heads) if shared else None,
        d_head=tuple(p.width if p else 0 for p in heads),
        d_mlp=tuple(p.count if p else 0 for p in neurons),
        no_heads=no_heads,
        no_neurons=no_neurons,
        labels=_labels_of(layers),
        experts=tuple(p and p.name for p in experts) if any(experts) else (),
        n_experts=tuple(p.count if p else 0 for p in experts),
        no_experts=_why_no_experts(model, seen),
    )


def _compare_with_proof(model: nn.Module, named: Architecture, prompts: Prompts | None) -> None:
    """Whether what is named by hand is what running the model proves, where that proves anything.

    Warns:
        UserWarning: it is not.
    """
    if is_hooked(model):
        return
    try:
        seen = seen_in(model, prompts)
    except _DoesNotRun:
        return
    for word, names, places, failed in (
        ("heads", named.heads, seen.heads, seen.no_heads),
        ("neurons", named.neurons, seen.neurons, seen.no_neurons),
    ):
        proven = {place.name: place for place in places}
        for layer, name in enumerate(names):
            said = (text for text in failed if name and text.startswith(f"{name} "))
            why = next((text for text in said if "depend on several" in text), "")
            # Where some could not be proven, this may be one of those.
            is_open = name not in proven and (failed or not proven) and not why
            if name is None or is_open:
                continue
            count = named.count("head" if word == "heads" else "neuron", layer)
            if (place := proven.get(name)) is None:
                why = why or f"it finds {word} at {', '.join([*proven][:3])}"
            elif place.count != count:
                why = f"it finds {place.count} {word} of {place.width} there, not {count}"
            else:
                continue
            warn(f"{name} is named for {word}, and running the model does not bear it out: {why}")
            break
        times = [proven[name].time for name in names if name in proven]
        if times != sorted(times):
            warn(f"the modules of {word} are named in another order than they run in")


def _why_none(model: nn.Module, seen: Seen) -> tuple[str, str]:
    """Why there are no heads, and no neurons, where there are none."""
    heads = "; ".join(dict.fromkeys(seen.no_heads[:2]))
    heads = heads or ("no attention ran in it" if seen.heads else _NO_ATTENTION)
    # A layer within attention that was tried for a down projection tells nothing of MLPs.
    attention = {_within_block(place.name).rpartition(".")[0] for place in seen.heads} - {""}
    tried = [(_within_block(text.split()[0]).rpartition(".")[0], text) for text in seen.no_neurons]
    failed = [text for inside, text in tried if inside not in attention]
    if neurons := "; ".join(dict.fromkeys(failed[:2])):
        return heads, neurons
    if _has_mixtures(model):
        return heads, _MIXTURES
    return heads, (
        "none of its linear layers reads what comes number by number from a linear layer before "
        "it, at every token"
    )


def _has_mixtures(model: nn.Module) -> bool:
    return any("expert" in name.rpartition(".")[2].lower() for name, _ in model.named_modules())


def _why_no_experts(model: nn.Module, seen: Seen) -> str:
    if seen.no_experts or not _has_mixtures(model):
        return next(iter(seen.no_experts), Architecture.no_experts)
    return (
        "its mixtures of experts are called otherwise than with the numbers of experts and their "
        "weights, so that what one of them adds cannot be told"
    )


def _layers_of(model: nn.Module, seen: Seen) -> list[dict[str, Place]]:
    """Heads and neurons by layer: what lies in one block, in the order of a pass."""
    events = [("head", p) for p in seen.heads] + [
        ("neuron", p) for p in _widest(model, seen.neurons)
    ]
    events += [("expert", p) for p in seen.experts]
    events.sort(key=lambda event: event[1].time)
    stacks = {
        kind: {block_of(p.name).rpartition(".")[0] for k, p in events if k == kind}
        for kind in KINDS
    }
    one_stack = all(len(names) <= 1 for names in stacks.values())
    layers: list[dict[str, Place]] = []
    blocks: list[str] = []
    name_of = _names_by_call(model, [place for _, place in events])
    for kind, place in events:
        block = block_of(name_of[place.name, place.call])
        block = block.rpartition(".")[2] if one_stack else block
        if not layers or block != blocks[-1] or kind in layers[-1]:
            layers.append({})
            blocks.append(block)
        layers[-1][kind] = place
    numbers = [int(b) for b in blocks if b.isdigit()]
    if len(numbers) == len(blocks) and numbers == sorted(set(numbers)):
        stack = next(name for names in stacks.values() for name in names)
        n_layers = max(numbers[-1] + 1, len([*model.get_submodule(stack).children()]))
        by_number = dict(zip(numbers, layers, strict=True))
        return [by_number.get(layer, {}) for layer in range(n_layers)]
    return layers


def _names_by_call(model: nn.Module, places: list[Place]) -> dict[tuple[str, int], str]:
    """Name and call of each place -> the name that tells its block. Of a module that several blocks
    share, each call is that of the next block."""
    own = {(place.name, place.call): place.name for place in places}
    more = {name for name, call in own if call}
    if not more:
        return own
    every: dict[int, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        every.setdefault(id(module), []).append(name)
    for name in more:
        names = every[id(model.get_submodule(name))]
        calls = [call for other, call in own if other == name]
        if max(calls) < len(names):
            own |= {(name, call): names[call] for call in calls}
    return own


def _labels_of(layers: list[dict[str, Place]]) -> tuple[tuple[str, str], ...]:
    """How labels begin where blocks stand in several stacks, or attend to another stack: by the
    stack and the block's own number, and X for cross attention. Empty: layers are numbered."""
    every = [place for layer in layers for place in layer.values()]
    stacks = dict.fromkeys(block_of(place.name).rpartition(".")[0] for place in every)
    named = _short_names([stack for stack in stacks if stack])
    blocks = [block_of(layer["head"].name) for layer in layers if "head" in layer]
    crosses = {p.name for p in every if p.is_across and blocks.count(block_of(p.name)) > 1}
    if len(stacks) < 2 and not crosses:
        return ()

    def label(place: Place | None) -> str:
        if place is None:
            return ""
        stack, _, number = block_of(place.name).rpartition(".")
        if not stack:
            return f"{place.name.partition('.')[0]}."
        return f"{named[stack]}L{number}{'X' if place.name in crosses else ''}"

    found = tuple(
        (label(layer.get("head")), label(layer.get("neuron") or layer.get("expert")))
        for layer in layers
    )
    for labels in zip(*found, strict=True):
        own = [text for text in labels if text]
        if len(set(own)) < len(own):
            return ()
    return found


def _short_names(stacks: list[str]) -> dict[str, str]:
    """What tells the names of stacks apart: the first part that they do not share, with a dot."""
    parts = [stack.split(".") for stack in stacks]
    while parts and all(p and p[0] == parts[0][0] for p in parts):
        parts = [p[1:] for p in parts]
    while parts and all(p and p[-1] == parts[0][-1] for p in parts):
        parts = [p[:-1] for p in parts]
    most = max(map(len, parts), default=0)
    for length in range(most + 1):
        short = ["".join(f"{word}." for word in p[:length]) for p in parts]
        if len(set(short)) == len(short):
            return dict(zip(stacks, short, strict=True))
    return {stack: f"{stack}." for stack in stacks}


def _widest(model: nn.Module, places: list[Place]) -> list[Place]:
    """Of several down projections in a layer the widest. What is beside a wider one in some layer
    is a small one everywhere."""
    best: dict[tuple[str, int], Place] = {}
    holders = {place.name: layer_of(model, place.name) for place in places}
    for place in places:
        key = (holders[place.name], place.call)
        if key not in best or place.count > best[key].count:
            best[key] = place
    small = {
        place.name.removeprefix(holders[place.name])
        for place in places
        if place.count < best[holders[place.name], place.call].count
    }
    chosen = best.values()
    return [p for p in chosen if p.name.removeprefix(holders[p.name]) not in small]


def _within_block(name: str) -> str:
    return name.removeprefix(block_of(name))


def _lost_neurons(seen: Seen) -> str:
    """Why a down projection that has neurons in other blocks has none in one; empty: none lacks."""
    usual = {_within_block(place.name) for place in seen.neurons}
    failed = ((text.split()[0], text) for text in seen.no_neurons)
    return next((text for name, text in failed if _within_block(name) in usual), "")


def _of_albert(model: nn.Module, config: Any) -> Architecture:
    """Groups of layers, each of which runs for several layers in turn: a layer is one call."""
    stack = next(n for n, m in model.named_modules() if type(m).__name__ == "AlbertTransformer")
    per_group = config.num_hidden_layers / config.num_hidden_groups
    names = [
        f"{stack}.albert_layer_groups.{int(layer / per_group)}.albert_layers.{inner}"
        for layer in range(config.num_hidden_layers)
        for inner in range(config.inner_group_num)
    ]
    heads = tuple(f"{name}.attention.dense" for name in names)
    neurons = tuple(f"{name}.ffn_output" for name in names)
    return _sized(model, Architecture(heads, neurons, config.num_attention_heads))


def _of_hooked(model: Any) -> Architecture:
    """TransformerLens's two hook names; sizes from W_O and W_out, as cfg.d_mlp is wrong for some
    families (OPT) and hook_post is d_model wide in a mixture of experts."""
    d_model, heads, neurons, d_head, d_mlp = model.cfg.d_model, [], [], [], []
    n_heads, why_heads, why_neurons = model.cfg.n_heads, "", ""
    for layer, block in enumerate(model.blocks):
        z, post = f"blocks.{layer}.attn.hook_z", f"blocks.{layer}.mlp.hook_post"
        w_o = _weight(getattr(block, "attn", None), "W_O") if z in model.hook_dict else None
        if w_o is None:
            why_heads = "its attention exposes no W_O (state-space or multi-head latent attention)"
        heads.append(None if w_o is None else z)
        width = 0 if w_o is None else w_o.numel() // d_model
        if width % n_heads or (width and width // n_heads != model.cfg.d_head):
            raise ValueError(
                f"layer {layer}: the output projection reads {width} numbers, which is not "
                f"{n_heads} heads of {model.cfg.d_head}; these heads cannot be told apart"
            )
        d_head.append(width // n_heads)
        mlp = getattr(block, "mlp", None)
        experts = bool(getattr(model.cfg, "num_experts", None)) or "MoE" in type(mlp).__name__
        w_out = None if experts or post not in model.hook_dict else _weight(mlp, "W_out")
        if w_out is None:
            why_neurons = (
                "its MLPs are mixtures of experts, in which no neuron runs for every token"
                if experts
                else "its layers expose no W_out"
            )
        neurons.append(None if w_out is None else post)
        d_mlp.append(0 if w_out is None else w_out.numel() // d_model)
    if not any(heads) and not any(neurons):
        raise ValueError(f"the model has neither heads nor neurons: {why_heads}; {why_neurons}")
    n_kv = getattr(model.cfg, "n_key_value_heads", None)
    return Architecture(
        heads=tuple(heads),
        neurons=tuple(neurons),
        n_heads=n_heads,
        n_kv_heads=n_kv if n_kv and n_kv < n_heads else None,
        d_head=tuple(d_head),
        d_mlp=tuple(d_mlp),
        hooks="hook_points",
        no_heads=why_heads,
        no_neurons=why_neurons,
        no_experts="TransformerLens has no hook point of one; give the transformers model",
    )


def _sized(model: nn.Module, arch: Architecture, d_head: int | None = None) -> Architecture:
    modules = dict(model.named_modules(remove_duplicate=False))
    head_widths, neuron_widths = [], []
    for layer in range(arch.n_layers):
        for name, widths in (
            (arch.heads[layer], head_widths),
            (arch.neurons[layer], neuron_widths),
        ):
            if name is not None and name not in modules:
                raise ValueError(
                    f"the model has no module {name!r}; it has, for example, "
                    f"{', '.join([n for n in modules if n][-3:])}"
                )
            widths.append(0 if name is None else _width_at(name, modules[name], arch, layer))
    for layer, width in enumerate(head_widths):
        if not width:
            continue
        n_heads = _of_layer(arch.n_heads, layer)
        if width % n_heads or (width and d_head and width != n_heads * d_head):
            raise ValueError(
                f"layer {layer}: {arch.heads[layer]} reads {width} numbers, which is not {n_heads} "
                f"heads{f' of {d_head}' if d_head else ''}; these heads cannot be told apart"
            )
        n_kv = _of_layer(arch.n_kv_heads, layer) if arch.n_kv_heads else None
        if n_kv and n_heads % n_kv:
            raise ValueError(f"layer {layer}: {n_heads} heads do not split into {n_kv} groups")
    sizes = tuple(w and w // _of_layer(arch.n_heads, layer) for layer, w in enumerate(head_widths))
    return replace(arch, d_head=sizes, d_mlp=tuple(neuron_widths))


def _numbered(model: nn.Module, pattern: str) -> dict[int, str]:
    """Layer -> module name, for the modules whose name ends in the pattern."""
    found: dict[int, str] = {}
    first: dict[nn.Module, str] = {}
    # A block that stands for several layers is named for each: a head is a call of it.
    for name, module in model.named_modules(remove_duplicate=False):
        # "layer.0.output.dense" must not match inside "layer.0.attention.output.dense".
        if match := re.search(rf"(?:^|\.){pattern}$", name):
            found[int(match[1])] = first.setdefault(module, name)
    return found


def _width_at(name: str, module: nn.Module, arch: Architecture, layer: int) -> int:
    """What a module reads: by its weight; of a norm before a projection, as it was seen."""
    seen = 0
    if arch.d_head:
        heads = arch.d_head[layer] * _of_layer(arch.n_heads, layer)
        seen = heads if name == arch.heads[layer] else arch.d_mlp[layer]
    if seen and not is_linear(module):
        return seen
    width = _in_features(name, module)
    return seen if seen and seen % width == 0 else width  # it may read groups of heads


def _in_features(name: str, module: nn.Module) -> int:
    """The width of what a projection reads (Conv1D stores [in out], Linear [out in])."""
    if hasattr(module, "in_features"):
        return int(module.in_features)  # type: ignore[arg-type]
    weight = getattr(module, "weight", None)
    if weight is not None and weight.ndim == 2:
        return int(weight.shape[0 if type(module).__name__ == "Conv1D" else 1])
    raise ValueError(
        f"{name} is a {type(module).__name__} without a weight matrix; name the linear layer that "
        "reads the heads or neurons"
    )


def _weight(module: Any, name: str) -> Any:
    try:
        return getattr(module, name, None)
    except (NotImplementedError, RuntimeError):  # how a bridge says that it has no such matrix
        return None


def _of_layer(value: int | tuple[int, ...], layer: int) -> int:
    return value if isinstance(value, int) else value[layer]
