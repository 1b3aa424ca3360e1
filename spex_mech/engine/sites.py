"""Where an activation is rewritten, and how it lies in memory: ``[row pos width]``, found out.

A model may hold what passes a hook point as ``[row pos width]``, with more axes between rows and
width (images), with positions first, with rows and positions merged into one axis, or with heads
on an axis of their own; and it may call one module several times in a pass. Nothing of that is
assumed: the model is run on one, two and three rows, and the axes are those that grow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from spex_mech.engine.architectures import KINDS, Architecture, Kind
from spex_mech.engine.discovery import is_idle
from spex_mech.engine.prompts import Prompts

Key = tuple[Kind, int]  # kind and layer: what tells one hook point from another
Calls = list[Tensor]  # what passed a hook point, call by call
_MIXED = 0.2  # relative difference above which an activation is another one


@dataclass(frozen=True)
class Layout:
    """How an activation holds rows and slots.

    Args:
        row_axis: where the rows are; where they are merged with positions, rows come first.
        n_features: how many of the last axes hold the width.
    """

    row_axis: int = 0
    n_features: int = 1

    def read(self, act: Shaped[Tensor, "..."], n_rows: int) -> Float[Tensor, "row pos width"]:
        """The same as ``[row pos width]``."""
        moved = act.movedim(self.row_axis, 0) if self.row_axis else act
        if len(moved) % n_rows:
            raise ValueError(
                f"a module is run on {len(moved)} of the {n_rows} rows of a pass: the model runs "
                "its rows in parts, of which it is not known which is which; make it run all at "
                f"once, or give batch_size={len(moved)}"
            )
        return moved.reshape(n_rows, -1, prod(act.shape[-self.n_features :]))

    def write(
        self, new: Float[Tensor, "row pos width"], like: Shaped[Tensor, "..."]
    ) -> Shaped[Tensor, "..."]:
        """The same in the layout of ``like``."""
        if not self.row_axis:
            return new.reshape(like.shape)
        moved = like.movedim(self.row_axis, 0).shape
        return new.reshape(moved).movedim(0, self.row_axis)


@dataclass(frozen=True)
class Place:
    """One hook point of a pass: its name, and which of the calls of it in a pass; of a mixture of
    experts, how many it has."""

    name: str
    call: int
    layout: Layout
    n_experts: int = 0


def calls_of(architecture: Architecture, modules: Mapping[str, object]) -> dict[Key, int]:
    """Which call of its module each hook point is: a module that is named for several layers runs
    once for each, in their order."""
    n_before: dict[tuple[Kind, int], int] = {}
    found: dict[Key, int] = {}
    for layer in range(architecture.n_layers):
        for kind in KINDS:
            if architecture.has(kind, layer):
                module = (kind, id(modules[architecture.name(kind, layer)]))
                found[kind, layer] = n_before.get(module, 0)
                n_before[module] = found[kind, layer] + 1
    return found


def layout_of(name: str, width: int, one: Tensor, two: Tensor, three: Tensor) -> Layout:
    """By what passes a hook point in passes of one, two and three rows.

    Raises:
        ValueError: no axis grows with the rows, or none has the width.
    """
    shape = tuple(one.shape)
    n_features = next((k for k in (1, 2) if prod(shape[len(shape) - k :]) == width), None)
    if n_features is None or len(shape) == n_features:
        raise ValueError(
            f"what {name} reads has the shape {list(shape)}, and its last axis should hold "
            f"{width} numbers; its slots cannot be told apart"
        )
    sizes = list(zip(one.shape, two.shape, three.shape, strict=False))[: len(shape) - n_features]
    if len({one.ndim, two.ndim, three.ndim}) == 1:
        for axis, size in enumerate(sizes):
            if size == (1, 2, 3):
                return Layout(axis, n_features)
        first = sizes[0][0]
        if sizes[0] == (first, 2 * first, 3 * first):
            return Layout(0, n_features)
    raise ValueError(
        f"what {name} reads has no axis of rows: its shapes for one, two and three prompts are "
        f"{list(one.shape)}, {list(two.shape)} and {list(three.shape)}"
    )


def check_merged(name: str, layout: Layout, alone: Tensor, both: Tensor) -> None:
    """Where rows and positions are merged, rows must come first.

    Args:
        alone: what passes for one prompt.
        both: what passes for that prompt and another.

    Raises:
        ValueError: they do not.
    """
    first = layout.read(both, 2)[0]
    wanted = layout.read(alone, 1)[0]
    if first.shape == wanted.shape and (first - wanted).norm() <= _MIXED * wanted.norm():
        return
    raise ValueError(
        f"what {name} reads for one prompt is not what it reads for that prompt beside another: "
        "its rows cannot be told apart, or they depend on each other; make the module take "
        "[row pos width]"
    )


def real_at(
    prompts: Prompts, positions: Callable[[Prompts], Mapping[int, int]]
) -> Callable[[Prompts], Mapping[int, Bool[Tensor, "row pos"]]]:
    """Which positions of each place are real, where tokens are not all that is read: those of a
    place that has one less when a token is cut off are the tokens', and the same of a decoder's.

    Args:
        positions: of one prompt: how many each place has.
    """
    one = prompts[:1]
    whole = positions(one)
    parts = {"tokens": one.cut(), "decoder": one.cut(decoder=True)}
    fewer = {name: whole if part is None else positions(part) for name, part in parts.items()}

    def of(some: Prompts) -> Mapping[int, Bool[Tensor, "row pos"]]:
        found = {}
        for place, n_pos in whole.items():
            every = some.real.new_ones(len(some), n_pos)
            own = {"tokens": some.real, "decoder": some.decoded_real}
            follows = [name for name, numbers in fewer.items() if numbers[place] < n_pos]
            found[place] = own[follows[0]] if len(follows) == 1 else every
            if len(follows) > 1 and not (some.real.all() and some.decoded_real.all()):
                raise ValueError(
                    "some positions are both the tokens' and the decoder's, so that a mean cannot "
                    "leave padding out; give prompts of one length, or another ablation"
                )
        return found

    return of


def another_prompt(prompts: Prompts) -> Prompts:
    """One prompt and a different one: to see which rows are which."""
    others = prompts.same_as.nonzero()[:1, 0].tolist()
    pair = prompts[[0, *(others or [0])]]
    if others:
        return pair
    tokens = pair.tokens.clone()
    tokens[1, 0] = tokens[1, 0] - 1 if tokens[1, 0] > 0 else 1
    inputs = {name: _with_another(value) for name, value in pair.inputs.items()}
    return pair.replaced(tokens=tokens, inputs=inputs)


def _with_another(pair: Tensor) -> Tensor:
    """Two equal rows, the second with its numbers in another order."""
    if not pair.is_floating_point() or pair.ndim < 2:
        return pair
    return torch.stack([pair[0], pair[1].flatten().roll(1).view(pair[1].shape)])


def check_read_by_one(model: nn.Module, names: Sequence[str], run: Callable[[], None]) -> None:
    """What an output projection reads, no module beside it reads: a query projection that is named
    in its place would be ablated at the stream.

    Raises:
        ValueError: another module reads the same.
    """
    read: dict[str, Tensor] = {}

    def reads(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = (*args, *kwargs.values())
            if given and isinstance(given[0], Tensor) and name not in read:
                read[name] = given[0]

        return hook

    beside: dict[str, list[str]] = {}
    for name in names:
        parent, _, own = name.rpartition(".")
        siblings = model.get_submodule(parent).named_children()
        others = [n for n, module in siblings if n != own and not is_idle(module)]
        beside[name] = [f"{parent}.{other}" if parent else other for other in others]
    every = dict.fromkeys([*names, *(other for others in beside.values() for other in others)])
    handles = [
        model.get_submodule(name).register_forward_pre_hook(reads(name), with_kwargs=True)
        for name in every
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    for name, others in beside.items():
        for other in others:
            if name in read and other in read and read[name] is read[other]:
                raise ValueError(
                    f"{name} reads the same as {other} beside it, so that it is no output "
                    "projection; name the module that reads what heads or neurons give, such as "
                    "o_proj or down_proj"
                )


def check_calls(name: str, n_named: int, calls: Sequence[Calls], n_pos: int) -> None:
    """A module must run as often as it is named.

    Raises:
        ValueError: it does not.
        RuntimeError: it does not run at all.
    """
    n_calls = len(calls[0])
    if n_calls == 0:
        raise RuntimeError(
            f"{name} did not run in a forward pass: the hook at {name} did not fire, so ablating "
            "there would change nothing (a fused forward, or a model that leaves layers out for "
            "some prompts, as with an early exit: switch that off)"
        )
    if n_calls == n_named:
        return
    parts = [act.shape[1] if act.ndim > 2 else 0 for act in calls[0]]
    if n_calls > n_named and n_named == 1 and sum(parts) == n_pos and len(set(parts)) <= 2:
        raise ValueError(
            f"{name} runs {n_calls} times in a forward pass, each time on some of the positions; "
            "make it take all at once (config.chunk_size_feed_forward = 0)"
        )
    if n_calls > n_named:
        raise ValueError(
            f"{name} runs {n_calls} times in a forward pass, and is named for {n_named} "
            f"layer{'s' if n_named > 1 else ''}; a unit is one call of it, so name it once for "
            f"each: Architecture(heads=({name!r},) * {n_calls}, ...), and for one unit of all "
            "calls: Components.heads(...).all_calls()"
        )
    raise ValueError(
        f"{name} is named for {n_named} layers and runs {n_calls} time"
        f"{'s' if n_calls > 1 else ''} in a forward pass; name each layer's own module"
    )
