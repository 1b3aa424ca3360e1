"""What is found in a model, as a table that is read before anything is measured."""

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spex_mech.engine.architectures import (
    KINDS,
    Architecture,
    Kind,
    architecture_of,
    how_known,
    prompts_for,
)
from spex_mech.engine.components import Component, Components
from spex_mech.engine.derived import Asked, Current
from spex_mech.engine.device import Rows
from spex_mech.engine.facts import core_of, unwrapped
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.running import first_tensor
from spex_mech.units import Blocks, Unit


@dataclass(frozen=True)
class Found:
    """One hook point.

    Args:
        layer: its layer.
        kind: "head", "neuron" or "expert".
        count: how many there are.
        width: numbers of each.
        n_groups: key-value groups, where heads share keys and values.
        hook: the module at whose input they are replaced, or TransformerLens's hook point.
        how: how it is known.
        label: how the labels of its units begin.
    """

    layer: int
    kind: Kind
    count: int
    width: int
    n_groups: int | None
    hook: str
    how: str
    label: str = ""

    @property
    def units(self) -> str:
        """In words."""
        if self.kind == "neuron":
            return f"{self.count:,} neurons"
        if self.kind == "expert":
            return f"{self.count:,} experts"
        groups = f", {self.n_groups} key-value groups" if self.n_groups else ""
        return f"{self.count} heads of {self.width}{groups}"


@dataclass(frozen=True)
class Inspection:
    """What :func:`inspect_model` found; printed, it is a table.

    Args:
        model: its class and type.
        n_layers: how many layers there are; of a model of several stacks, in all of them.
        found: one for each hook point, layer by layer.
        passes: "replayed", or "plain" and why: whether masks share what their passes have in
            common; "not tried" where nothing was found.
        refused: what is not found or not usable, and why.
    """

    model: str
    n_layers: int
    found: tuple[Found, ...]
    passes: str
    refused: tuple[str, ...]

    def count(self, kind: Kind) -> int:
        """How many heads or neurons there are in all layers."""
        return sum(one.count for one in self.found if one.kind == kind)

    def __str__(self) -> str:
        heads, neurons = self.count("head"), self.count("neuron")
        experts = f", {n:,} experts" if (n := self.count("expert")) else ""
        layers = f"{self.n_layers} layers{_by_stack(self.found)}"
        lines = [f"{self.model}: {layers}, {heads:,} heads, {neurons:,} neurons{experts}"]
        lines.append(f"passes: {self.passes}")
        rows = [("layers", "units", "replaced at the input of", "how it is known")]
        rows += [
            (_labelled(group), group[0].units, _named(group), group[0].how)
            for group in _grouped(self.found)
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        if self.found:
            lines += [
                "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[3]])
                for row in rows
            ]
        return "\n".join([*lines, *(f"not usable: {why}" for why in self.refused)])

    __repr__ = __str__


def inspect_model(
    model: Any, architecture: Architecture | None = None, prompts: Prompts | None = None
) -> Inspection:
    """What can be ablated in a model: layers, heads and neurons, where each is replaced, how that
    was proven, whether passes are replayed, and what is refused and why.

    The model is run on a few tokens, an image or a sound, whatever it reads, and comes back as it
    was. Nothing is measured.

    Args:
        model: as :class:`ModelGame` takes it.
        architecture: where a plain ``nn.Module`` keeps heads and neurons.
        prompts: what it is run on instead.

    Raises:
        ValueError: it is no ``torch.nn.Module``.

    >>> from spex_mech.models import load_model
    >>> print(inspect_model(load_model("demo")))
    GPT2LMHeadModel (gpt2): 2 layers, 8 heads, 512 neurons
    passes: replayed
    layers  units          replaced at the input of     how it is known
    ...
    """
    inner = unwrapped(model)
    module = core_of(inner)
    config, name = getattr(module, "config", None), type(module).__name__
    kind = getattr(config, "model_type", None)
    title = f"{name} ({kind})" if kind else name
    refused: list[str] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            arch = architecture_of(inner, architecture, prompts)
        except ValueError as error:
            return Inspection(title, 0, (), "not tried", (str(error),))
        passes = _passes_of(inner, arch, architecture, prompts, refused)
        how = how_known(inner, architecture, prompts)
    refused += [str(warning.message) for warning in told]
    for which in KINDS:
        missing = [layer for layer in range(arch.n_layers) if _lacks(arch, which, layer)]
        if missing and which != "expert":
            why = arch.no_heads if which == "head" else arch.no_neurons
            refused.append(f"no {which}s in {_said(arch, missing)}: {why}")
    found = tuple(
        _found(arch, which, layer, how.get((which, layer), ""))
        for layer in range(arch.n_layers)
        for which in KINDS
        if arch.has(which, layer)
    )
    n_layers = len({arch.said(layer) for layer in range(arch.n_layers)})
    return Inspection(title, n_layers, found, passes, tuple(dict.fromkeys(refused)))


def _lacks(arch: Architecture, kind: Kind, layer: int) -> bool:
    """Whether a block has no such units; cross attention counts as a layer of its own."""
    blocks = [(pair[0] or pair[1]).removesuffix("X") for pair in arch.labels]
    same = [n for n, block in enumerate(blocks) if block == blocks[layer]] or [layer]
    return not any(arch.has(kind, n) for n in same)


def _found(arch: Architecture, kind: Kind, layer: int, how: str) -> Found:
    groups = None
    if kind == "head" and arch.has("kv_group", layer):
        groups = arch.count("kv_group", layer)
        groups = groups if groups < arch.count("head", layer) else None
    width = arch.d_head[layer] if kind == "head" else 1
    named = (arch.name(kind, layer), how, arch.label(kind, layer))
    return Found(layer, kind, arch.count(kind, layer), width, groups, *named)


def _passes_of(
    model: Any,
    arch: Architecture,
    given: Architecture | None,
    prompts: Prompts | None,
    refused: list[str],
) -> str:
    """Whether masks of heads and a neuron of each layer are replayed."""
    units = [
        Component.of(arch, kind, layer, index)
        for layer in range(arch.n_layers)
        for kind in KINDS
        if arch.has(kind, layer)
        for index in range(1 if kind == "neuron" else arch.count(kind, layer))
    ]
    if not units:
        return "not tried"
    components = Components(tuple(units), arch)
    prompts = prompts_for(model) if prompts is None else prompts[:2]
    asked = (model, prompts, _read, components, "zero", None, given, "float32", None, False)
    rows = Rows(1 if prompts.inputs else None)  # some models compare the rows of a batch
    try:
        return Current(Asked(*asked, rows=rows)).derived.passes
    except (ValueError, RuntimeError) as error:
        refused.append(f"no game can be made of it: {error}")
        return "not tried"


def _read(output: Any, prompts: Prompts) -> torch.Tensor:
    return first_tensor(output).float().flatten(1)[:, :64].sum(1)


# -- in print -------------------------------------------------------------------------------------


def _grouped(found: Sequence[Found]) -> list[list[Found]]:
    """Hook points that differ in their layer alone."""
    groups: dict[tuple[Any, ...], list[Found]] = {}
    for one in found:
        key = (one.kind, one.units, _pattern(one), one.how, _parts(one)[::2])
        groups.setdefault(key, []).append(one)
    return [*groups.values()]


def _by_stack(found: Sequence[Found]) -> str:
    """How many layers each stack has, where there are several."""
    blocks = Blocks.of(Unit(f"{one.label}H0", layer=one.layer) for one in found if one.label)
    counts = Counter(blocks.stacks)
    told = (f"{stack or 'others'} {count}" for stack, count in counts.items())
    return f" ({', '.join(told)})" if any(blocks.stacks) else ""


def _said(arch: Architecture, layers: Sequence[int]) -> str:
    """Some layers in words: ``layers 0-3, 5``, or ``decoder 0, decoder 1``."""
    if arch.labels:
        return ", ".join(dict.fromkeys(arch.said(layer) for layer in layers))
    return f"layer{'s' if len(layers) > 1 else ''} {_numbers(layers)}"


def _pattern(one: Found) -> str:
    """A hook point's name with N for the layer's number."""
    number = _parts(one)[1] or one.layer
    return re.sub(rf"(?<=\.){number}(?=\.)|^{number}(?=\.)", "N", one.hook, count=1)


def _parts(one: Found) -> tuple[str, str, str]:
    """How labels begin: what stands before the number of the block, that, and what follows."""
    match = re.fullmatch(r"(.*L)(\d+)(X?)", one.label)
    return (match[1], match[2], match[3]) if match else (one.label, "", "")


def _labelled(group: Sequence[Found]) -> str:
    """The layers of some hook points: numbers, or how labels begin."""
    before, number, after = _parts(group[0])
    if before == "L" and not after:
        return _numbers([one.layer for one in group])
    return (
        f"{before}{_numbers([int(_parts(one)[1]) for one in group])}{after}" if number else before
    )


def _named(group: Sequence[Found]) -> str:
    return _pattern(group[0]) if len(group) > 1 else group[0].hook


def _numbers(layers: Sequence[int]) -> str:
    """``0-3, 5`` for 0, 1, 2, 3 and 5."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
