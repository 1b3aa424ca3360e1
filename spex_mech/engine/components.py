"""The component registry: attention heads and MLP neurons of a model as ablatable units.

``Components`` is an ordered set of components; unit ``u`` is column ``u`` of every mask. It knows
nothing of hooks: ``sites`` turns it into the engine's plan, with one entry per hook point.
"""

import fnmatch
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, overload

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from spex_mech.arguments import shown
from spex_mech.engine.architectures import Architecture, Kind, architecture_of
from spex_mech.engine.facts import unwrapped
from spex_mech.engine.prompts import Prompts
from spex_mech.notebook import facts_html, listed, units_text
from spex_mech.units import Unit, Units

_LETTERS: dict[Kind, str] = {"head": "H", "neuron": "N", "kv_group": "G", "expert": "E"}
_KINDS: dict[str, Kind] = {letter: kind for kind, letter in _LETTERS.items()}
_OF_A_STACK = re.compile(r"(?P<begins>.+?)(?P<letter>[HNGE])(?P<index>\d+)(?P<all>\*?)")
_PATTERNS: tuple[tuple[re.Pattern[str], Kind | None], ...] = (
    (re.compile(r"L(?P<layer>\d+)(?P<letter>[HNGE])(?P<index>\d+)(?P<all>\*?)", re.I), None),
    (re.compile(r"a?(?P<layer>\d+)\.h?(?P<index>\d+)", re.IGNORECASE), "head"),
    (re.compile(r"blocks\.(?P<layer>\d+)\.attn\.hook_(?:z|result)\[(?P<index>\d+)\]"), "head"),
    (re.compile(r"blocks\.(?P<layer>\d+)\.mlp\.hook_post\[(?P<index>\d+)\]"), "neuron"),
)


@dataclass(frozen=True, order=True)
class Component:
    """One ablatable part of a model: a head, a neuron, or a key-value group of heads.

    Where a module runs several times in a pass, each call of it is a layer. With ``every_call``
    all calls are one unit, which is called after the first: ``L0H6*``. In a model of several stacks
    of blocks, layers are numbered in the order of a pass, and ``begins`` is how labels begin
    instead of ``L9``: ``encoder.L0``, ``decoder.L0``, and ``decoder.L0X`` in cross attention.

    >>> Component.parse("a9.h6").label
    'L9H6'
    """

    kind: Kind
    layer: int
    index: int
    every_call: bool = False
    begins: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """``L9H6`` for a head, ``L3N1024`` for a neuron, ``L9G1`` for a key-value group, ``L3E17``
        for an expert."""
        begins, every = self.begins or f"L{self.layer}", "*" if self.every_call else ""
        return f"{begins}{_LETTERS[self.kind]}{self.index}{every}"

    @staticmethod
    def of(architecture: Architecture, kind: Kind, layer: int, index: int) -> "Component":
        """One of a model's, with its label."""
        begins = architecture.label(kind, layer) if architecture.labels else ""
        return Component(kind, layer, index, begins=begins)

    @staticmethod
    def called(text: str, architecture: Architecture) -> "Component":
        """Read a label of this model's.

        Raises:
            ValueError: none is called so.
        """
        if not architecture.labels:
            return Component.parse(text)
        if match := _OF_A_STACK.fullmatch(text.strip()):
            kind = _KINDS[match["letter"].upper()]
            for layer in range(architecture.n_layers):
                if architecture.has(kind, layer):
                    if architecture.label(kind, layer) == match["begins"]:
                        found = Component.of(architecture, kind, layer, int(match["index"]))
                        return replace(found, every_call=bool(match["all"]))
        begin = ", ".join(dict.fromkeys(b for pair in architecture.labels for b in pair if b))
        raise ValueError(
            f"{text!r} is not the label of a component; in this model labels begin with one of "
            f"{begin}, as {next(b for b in architecture.labels[0] if b)}H3 for a head"
        )

    def __str__(self) -> str:
        return self.label

    @staticmethod
    def parse(text: str) -> "Component":
        """Read ``L9H6``, ``L3N1024``, ``L9G1``, ``9.6``, ``A9.6``, ``a9.h6`` or
        ``blocks.9.attn.hook_z[6]`` (numbers without a letter mean a head).

        Raises:
            ValueError: the text is none of these.
        """
        for pattern, kind in _PATTERNS:
            if match := pattern.fullmatch(text.strip()):
                found = kind or _KINDS[match["letter"].upper()]
                every = bool(match.groupdict().get("all"))
                return Component(found, int(match["layer"]), int(match["index"]), every)
        raise ValueError(
            f"{text!r} is not the label of a component; write L9H6 for head 6 of layer 9, "
            "L3N1024 for a neuron, L9G1 for a key-value group, L3E17 for an expert, L9H6* for all "
            "calls of a module that runs several times (9.6, A9.6, a9.h6 and "
            "blocks.9.attn.hook_z[6] are read too)"
        )


@dataclass(frozen=True)
class Group:
    """Any components of a model as one unit, made by :meth:`Components.group`: they are ablated
    together, and have one gate.

    Args:
        label: its name.
        members: the components that it holds.
    """

    label: str
    members: tuple[Component, ...]
    kind: ClassVar[str] = "group"

    @property
    def layer(self) -> int | None:
        """The layer that all members lie in; None where there is none."""
        layers = {None if member.every_call else member.layer for member in self.members}
        return layers.pop() if len(layers) == 1 else None

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Site:
    """What a game ablates at one hook point: ``slot_unit[s]`` is the unit that slot ``s`` (a head,
    a neuron or an expert) belongs to; slots of no unit hold ``n_units``, a column that is always
    kept."""

    layer: int
    kind: Literal["head", "neuron", "expert"]
    slot_unit: Int[Tensor, " slot"]


@dataclass(frozen=True)
class Components(Sequence[Component | Group]):
    """The units of a game, in the order of a mask's columns.

    Build it with :meth:`heads`, :meth:`neurons`, :meth:`kv_groups`, :meth:`experts` or
    :meth:`named`; join two with ``+``; take some with ``[...]`` (a slice, an index, a list of
    indices or labels) or :meth:`select`; make one unit of several with :meth:`group`.
    """

    units: tuple[Component | Group, ...]
    architecture: Architecture = field(repr=False)

    def __repr__(self) -> str:
        return f"Components({len(self.units):,}: {listed(self.labels)})"

    def _repr_html_(self) -> str:
        return facts_html("Components", _in_words(self))

    def __post_init__(self) -> None:
        if not self.units:
            raise ValueError("no components left: a game needs at least one unit")
        seen: dict[Component, str] = {}
        labels: set[str] = set()
        for unit in self.units:
            if unit.label in labels and isinstance(unit, Group):
                raise ValueError(f"two units are called {unit.label!r}; a label must name one")
            labels.add(unit.label)
            for slot in self._slots(unit):
                if slot in seen:
                    raise ValueError(
                        f"duplicate unit: {unit.label} covers {slot.label}, which {seen[slot]} "
                        "covers already; every head and neuron may be in one unit only"
                    )
                seen[slot] = unit.label

    @staticmethod
    def heads(
        model: Any,
        architecture: Architecture | None = None,
        prompts: Prompts | None = None,
        *,
        layers: Iterable[int] | int | None = None,
    ) -> "Components":
        """Every attention head of ``model`` (or of an ``Architecture``), layer by layer.

        Args:
            layers: of these layers only, as in :meth:`neurons`.
            prompts: what the model is run on to find them, where they hold more than tokens;
                default: a few tokens, an image or a sound, whatever it reads.

        Raises:
            ValueError: the model has no heads that can be told apart (the text says why), or a
                layer does not exist.
        """
        return _all_of("head", model, architecture, layers, prompts)

    @staticmethod
    def neurons(
        model: Any,
        layers: Iterable[int] | int | None = None,
        architecture: Architecture | None = None,
        prompts: Prompts | None = None,
    ) -> "Components":
        """Every MLP neuron of the given layers (default: all), at the input of the down projection.

        Raises:
            ValueError: the model has no plain MLP neurons, or a layer does not exist.
        """
        return _all_of("neuron", model, architecture, layers, prompts)

    @staticmethod
    def kv_groups(
        model: Any, architecture: Architecture | None = None, prompts: Prompts | None = None
    ) -> "Components":
        """Every key-value group: the query heads that share one key-value head, as one unit."""
        return _all_of("kv_group", model, architecture, None, prompts)

    @staticmethod
    def experts(
        model: Any,
        layers: Iterable[int] | int | None = None,
        architecture: Architecture | None = None,
        prompts: Prompts | None = None,
    ) -> "Components":
        """Every expert of the mixtures in the given layers (default: all): its weighted output is
        replaced at every token, zero where the router does not choose it; the router's choice and
        the weights of the others stay as they are.

        Raises:
            ValueError: the model has no mixtures of experts that can be told apart.
        """
        return _all_of("expert", model, architecture, layers, prompts)

    @staticmethod
    def named(
        model: Any,
        labels: Iterable[str],
        architecture: Architecture | None = None,
        prompts: Prompts | None = None,
    ) -> "Components":
        """The components with these labels (any spelling that ``Component.parse`` reads).

        Raises:
            ValueError: a label cannot be read, or the model has no such component.
        """
        sized = _architecture_in(model, architecture, prompts)
        units = tuple(Component.called(label, sized) for label in labels)
        for unit in units:
            if not 0 <= unit.layer < sized.n_layers:
                raise ValueError(
                    f"unknown component {unit.label}: the model has layers 0 to "
                    f"{sized.n_layers - 1}"
                )
            count = sized.count(unit.kind, unit.layer)
            if unit.index >= count:
                raise ValueError(
                    f"unknown component {unit.label}: {sized.said(unit.layer)} has {count} "
                    f"{unit.kind.replace('_', '-')}s"
                )
        return Components(units, sized)

    def group(self, label: str) -> "Components":
        """All of these as one unit: heads, neurons and key-value groups of any blocks and layers.

        Its ablation is that of all its members together, and its gate that of each of them.

        Args:
            label: what the unit is called.

        Raises:
            ValueError: the label is empty, or is how a single component is written.

        >>> from spex_mech.models import load_model
        >>> heads = Components.heads(load_model("demo"))
        >>> units = heads["L0H0", "L1H0"].group("first heads") + heads[5:7]
        >>> units.labels
        ['first heads', 'L1H1', 'L1H2']
        """
        if not label.strip():
            raise ValueError("a group needs a label: give it a name")
        if _is_of_one(label.strip(), self.architecture):
            raise ValueError(f"{label!r} is how a single component is written; call the group else")
        members: list[Component] = []
        for unit in self.units:
            members += unit.members if isinstance(unit, Group) else [unit]
        return Components((Group(label, tuple(members)),), self.architecture)

    @property
    def labels(self) -> list[str]:
        """The label of each unit, in mask order."""
        return [unit.label for unit in self.units]

    def table(self) -> Units:
        """The units as results carry them."""
        return Units(self._row(unit) for unit in self.units)

    def _row(self, unit: Component | Group) -> Unit:
        if isinstance(unit, Group):
            return Unit(unit.label, "group", unit.layer, tuple(m.label for m in unit.members))
        if unit.every_call:
            return Unit(unit.label, "group", None, tuple(s.label for s in self._slots(unit)))
        return Unit(unit.label, unit.kind, unit.layer)

    def identity(self) -> dict[str, Any]:
        """What their labels do not say: the members of each group."""
        own = {u.label: [m.label for m in u.members] for u in self.units if isinstance(u, Group)}
        return {"groups": own} if own else {}

    def layers(self) -> list[list[int]]:
        """The layers of each unit, ascending: one, but of a group of several layers."""
        return [sorted({slot.layer for slot in self._slots(unit)}) for unit in self.units]

    def __len__(self) -> int:
        return len(self.units)

    def __iter__(self) -> Iterator[Component | Group]:
        return iter(self.units)

    def __contains__(self, value: object) -> bool:
        """A component or its label."""
        return value in self.units or value in {unit.label for unit in self.units}

    @overload
    def __getitem__(self, key: int) -> Component | Group: ...

    @overload
    def __getitem__(self, key: "str | slice | Sequence[int | str]") -> "Components": ...

    def __getitem__(self, key: Any) -> "Component | Group | Components":
        if isinstance(key, int | np.integer):
            if not -len(self.units) <= key < len(self.units):
                raise IndexError(f"unit {key}: there are {len(self.units):,}, numbered from 0")
            return self.units[int(key)]
        if isinstance(key, slice):
            return Components(self.units[key], self.architecture)
        asked, named = [key] if isinstance(key, str) else list(key), str | Component | Group
        known: dict[Any, int] = {}
        if any(isinstance(k, named) for k in asked):
            known = {name: n for n, unit in enumerate(self.units) for name in (unit, unit.label)}
        chosen = [
            int(k) if not isinstance(k, named) else known[k] if k in known else self.index(k)
            for k in asked
        ]
        return Components(tuple(self.units[i] for i in chosen), self.architecture)

    def __add__(self, other: "Components") -> "Components":
        _check_components(self, "+", other)
        return joined([self, other])

    def __sub__(self, other: "Components") -> "Components":
        """These without those of the other, of which one at least must be among them."""
        _check_components(self, "-", other)
        return Components(_without(self.units, other.units), self.architecture)

    def index(
        self, value: "str | Component | Group", start: int = 0, stop: int | None = None
    ) -> int:
        """The mask column of a component or a group, or of the unit with this label.

        Raises:
            ValueError: it is not among these components.
        """
        unit = self._named(value) if isinstance(value, str) else value
        try:
            return self.units.index(unit, start, len(self.units) if stop is None else stop)
        except ValueError:
            raise ValueError(
                f"unknown component {unit.label}: these {len(self)} components run from "
                f"{self.units[0].label} to {self.units[-1].label}"
            ) from None

    def _named(self, label: str) -> Component | Group:
        groups = (u for u in self.units if isinstance(u, Group) and u.label == label)
        return next(groups, None) or Component.called(label, self.architecture)

    def select(self, pattern: str | Sequence[str]) -> "Components":
        """Those whose label matches one of some shell patterns, in the order in which they are
        here: ``"L3*"``, ``"L[0-4]H*,L7H2"``, or a list of such.

        Raises:
            ValueError: nothing matches one of them.
        """
        chosen: dict[Component | Group, None] = {}
        listed = pattern if isinstance(pattern, str) else ",".join(pattern)
        for one in listed.split(","):
            matches = [u for u in self.units if fnmatch.fnmatchcase(u.label, one.strip())]
            if not matches:
                raise ValueError(
                    f"no component matches {one.strip()!r}; labels look like {self.units[0].label}"
                )
            chosen |= dict.fromkeys(matches)
        return Components(tuple(u for u in self.units if u in chosen), self.architecture)

    def all_calls(self) -> "Components":
        """All calls of a module that runs several times in a pass (blocks that stand for several
        layers, as in ALBERT) as one unit, in place of one for each call.

        Raises:
            ValueError: no module of these runs several times.
        """
        units: dict[Component | Group, None] = {}
        for unit in self.units:
            if isinstance(unit, Group):
                units[unit] = None
                continue
            layers = _calls(unit, self.architecture)
            every = len(layers) > 1
            first = Component.of(self.architecture, unit.kind, layers[0], unit.index)
            units[replace(first, every_call=True) if every else unit] = None
        if len(units) == len(self):
            raise ValueError("no module of these units runs several times; leave all_calls() out")
        return Components(tuple(units), self.architecture)

    def sites(self) -> list[Site]:
        """The plan for the engine: one entry per hook point, in the order of the forward pass."""
        slots: dict[tuple[int, Kind], list[tuple[int, int]]] = {}  # each slot, and its unit
        for number, unit in enumerate(self.units):
            for slot in self._slots(unit):
                slots.setdefault((slot.layer, slot.kind), []).append((slot.index, number))
        sites = []
        for layer in range(self.architecture.n_layers):
            for kind in ("head", "neuron", "expert"):
                if (layer, kind) not in slots:
                    continue
                unit_of = torch.full(
                    (self.architecture.count(kind, layer),), len(self), device="cpu"
                )
                at, units = torch.tensor(slots[layer, kind], device="cpu").unbind(1)
                unit_of[at] = units
                sites.append(Site(layer, kind, unit_of))
        return sites

    def _slots(self, unit: Component | Group) -> Iterator[Component]:
        return _covered(unit, self.architecture)


def _is_of_one(label: str, architecture: Architecture) -> bool:
    """Whether a name is how a single component is written, one that the model has or could have:
    ``L0H7``, or in a model of several stacks ``decoder.L0XH7``."""
    if any(pattern.fullmatch(label) for pattern, _ in _PATTERNS):
        return True
    match = _OF_A_STACK.fullmatch(label)
    if match is None or not architecture.labels:
        return False
    begins = {text for pair in architecture.labels for text in pair if text}
    number = re.compile(r"\d+(?=X?$)")
    return number.sub("0", match["begins"]) in {number.sub("0", text) for text in begins}


def _covered(unit: Component | Group, architecture: Architecture) -> Iterator[Component]:
    """The heads, neurons and experts that a unit covers."""
    if isinstance(unit, Group):
        for member in unit.members:
            yield from _covered(member, architecture)
    elif unit.every_call:
        for layer in _calls(unit, architecture):
            one = Component.of(architecture, unit.kind, layer, unit.index)
            yield from _covered(one, architecture)
    elif unit.kind == "kv_group":
        group = architecture.count("head", unit.layer) // architecture.count("kv_group", unit.layer)
        for head in range(unit.index * group, (unit.index + 1) * group):
            yield Component.of(architecture, "head", unit.layer, head)
    else:
        yield unit


def _calls(unit: Component, architecture: Architecture) -> list[int]:
    """The layers that one module stands for."""
    kind = "head" if unit.kind == "kv_group" else unit.kind
    name = architecture.name(kind, unit.layer)
    return [layer for layer, other in enumerate(architecture.names(kind)) if other == name]


def joined(parts: Sequence[Components]) -> Components:
    """The sum of components, looked at once."""
    sized = next((part for part in parts if part.architecture.d_mlp), parts[-1])
    return Components(tuple(u for part in parts for u in part.units), sized.architecture)


def _check_components(mine: Components, sign: str, other: Any) -> None:
    if not isinstance(other, Components):
        raise TypeError(
            f"components {sign} {shown(other)}: give components too, such as heads {sign} "
            "heads['L0H3']"
        )
    if not mine.architecture.same_places(other.architecture):
        raise ValueError("these components belong to two different models; give one model's")


def _without(
    units: Sequence[Component | Group], gone: Sequence[Component | Group]
) -> tuple[Component | Group, ...]:
    lost = set(gone)
    left = tuple(unit for unit in units if unit not in lost)
    if len(left) == len(units):
        raise ValueError(
            f"{gone[0].label} is not among these {len(units)} components, and nothing else that is "
            "taken from them is; a group can only be taken away whole"
        )
    return left


def _architecture_in(
    model: Any, architecture: Architecture | None, prompts: Prompts | None
) -> Architecture:
    """Of the module inside what a library wrapped around it, as a game takes it."""
    inside = model if isinstance(model, Architecture) else unwrapped(model)
    return architecture_of(inside, architecture, prompts)


def _all_of(
    kind: Kind,
    model: Any,
    architecture: Architecture | None,
    layers: Iterable[int] | int | None,
    prompts: Prompts | None,
) -> Components:
    sized = _architecture_in(model, architecture, prompts)
    if layers is None:
        chosen = [layer for layer in range(sized.n_layers) if sized.has(kind, layer)]
    else:
        given = layers.tolist() if isinstance(layers, np.ndarray | np.generic | Tensor) else layers
        chosen = list(dict.fromkeys(given if isinstance(given, Iterable) else [given]))
    for layer in chosen:
        is_number = isinstance(layer, int | np.integer) and not isinstance(layer, bool)
        if not is_number or not 0 <= layer < sized.n_layers:
            raise ValueError(_no_such_layer(sized, kind, layer))
    if not chosen and layers is not None:
        raise ValueError("layers is empty: name one, or leave it out for all")
    if not chosen:
        sized.refuse(kind)
    units = (
        Component.of(sized, kind, layer, i)
        for layer in chosen
        for i in range(sized.count(kind, layer))
    )
    return Components(tuple(units), sized)


def _no_such_layer(architecture: Architecture, kind: Kind, layer: Any) -> str:
    text = f"no layer {layer!r}: the model has layers 0 to {architecture.n_layers - 1}"
    if not architecture.labels:
        return text
    which = (n for n in range(architecture.n_layers) if architecture.has(kind, n))
    begins = architecture.label(kind, next(which, 0))
    return (
        f"{text}, counted through all its stacks in the order of a pass; to take them by their "
        f"labels, select('{begins}*')"
    )


def _in_words(components: Components) -> dict[str, str]:
    """What a notebook shows of components."""
    table = components.table()
    facts = {"units": units_text(table.kinds, components.labels)}
    layers = {layer for unit in components.layers() for layer in unit}
    return facts | {"layers": f"{len(layers)} of {components.architecture.n_layers}"}
