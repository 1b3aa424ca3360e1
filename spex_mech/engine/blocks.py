"""The blocks of a model, one call at a time: what a replay of its layers is made of.

A model's forward is cut at its blocks. One run of the intact model records what each block was
called with; then a block can be called alone on any residual stream, with activations replaced at
its hook points (``Blocks.step``), and what comes after the last block can be had by running the
model with every block switched to passing on what it is given (``Blocks.output``). Inside a block
two shortcuts save what ablation does not change: attention need not be run where its heads' outputs
are known (``z``), and where a projection only adds to the stream, an ablation is a product with its
weight (``Layer.adds``). Nothing here knows a family: the places are found by names, and what they
may be used for by measuring, at last on every prompt (``Blocks.check``). Neither shortcut is taken
where hooks of the user's act within a block. Hooks and switches stand only within
``Blocks.installed``, and act on the passes of this thread that a :class:`BlockPass` describes.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spex_mech.engine.architectures import KINDS, Architecture, is_hooked
from spex_mech.engine.called import CannotReplay, check_called, grows, joined, rows_of
from spex_mech.engine.components import Site
from spex_mech.engine.device import first_numbers
from spex_mech.engine.passes import Hook, Pass, Taps, call
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.running import first_tensor, is_ours, ours

Residual = Float[Tensor, "row pos d_model"]
_ADDS, _ADDS_IN_HALF = 1e-3, 0.05  # relative difference up to which a projection only adds


@dataclass
class Layer:
    """A block, and the shortcuts that hold in it.

    ``attention`` is the module whose output (the first of ``n_outputs``; 0: it is no tuple) is the
    heads' output after (or, ``bare``, before) the output projection; None where there is none.
    ``adds`` has for a site whose change goes to the block's output through a weight alone that
    weight, ``[width d_model]``: the MLP's where it only adds to the stream, in parallel blocks
    attention's too.
    """

    block: nn.Module
    n_block_outputs: int = 0
    projection: nn.Module | None = None
    attention: nn.Module | None = None
    bare: bool = False
    n_outputs: int = 0
    adds: dict[int, Float[Tensor, "width d_model"]] = field(default_factory=dict)


@dataclass
class BlockPass(Pass):
    """A pass of which blocks do a part.

    Args:
        z: attention is not run, its heads give this, ``[row pos width]``.
        final: no block is run, the last gives this.
        tokens: of the logits only these are computed; None: all.
        calls_seen: filled with what each block is called with.
        streams: filled with each block's input, and the last one's output.
        last: the last block's output, before what hooks of the user's make of it.
    """

    z: Tensor | None = None
    final: Tensor | None = None
    tokens: Int[Tensor, " token"] | None = None
    calls_seen: list[tuple[Any, Any]] | None = None
    streams: list[Tensor] | None = None
    last: Tensor | None = None


class Blocks:
    """See the module's text.

    Args:
        taps: the hook points of the game.
        sites: what is ablated there, in the order of the forward pass.
        architecture: as a game has it.
        prompts: the game's, a few of which it finds out with.
        compiled: run what is neither a projection nor hooked (norms, activation functions) as one
            compiled kernel each.
        exact: no shortcut through weights: an activation or a reference is infinite.

    Raises:
        CannotReplay: the model cannot be cut at its blocks.
    """

    def __init__(
        self,
        taps: Taps,
        sites: Sequence[Site],
        architecture: Architecture,
        prompts: Prompts,
        compiled: bool = False,
        exact: bool = False,
    ) -> None:
        self.taps, self.model = taps, taps.model
        self.architecture, self.sites = architecture, list(sites)
        names = [block_name(architecture, layer) for layer in range(architecture.n_layers)]
        self.layers = [Layer(self.model.get_submodule(name)) for name in names]
        if len({layer.block for layer in self.layers}) < len(self.layers):
            raise CannotReplay("some of its layers are one block that runs several times")
        if _users(_forward_hooks_of(self.layers[-1].block)):  # its output is passed on by itself
            raise CannotReplay("a hook on its last block may read what that block was given")
        self.unembedding = unembedding_of(self.model)
        self._known: list[Any] | None = None  # what blocks are called with for a few rows
        self._compiled = _compiled(self.model) if compiled else {}
        # Models leave out an attention mask in which nothing is padding: with the most padded
        # prompt in every intact run, all runs have the same arguments.
        n_real = prompts.real.sum(dim=1)
        padded = int(n_real.argmin())
        self._padded = prompts[padded : padded + 1] if n_real[padded] < n_real.max() else None
        with torch.no_grad(), self.installed():
            self._find_what_varies(prompts)
        with torch.no_grad():
            self._find_attention(prompts[:2])
            if not exact:
                with self.installed():
                    self._find_what_adds(prompts[:2])

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Hooks and switched forwards, all taken away at the end, also after an error. They act on
        the passes below alone."""
        with ExitStack() as stack:
            stack.enter_context(self.taps.installed())
            if self._compiled:
                stack.enter_context(warnings.catch_warnings())
                # The compiler looks at every tensor that it is given.
                warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not")
            for module, forward in self._compiled.items():
                stack.enter_context(forward_of(module, forward))
            last = len(self.layers) - 1
            for number, layer in enumerate(self.layers):
                switched = self._block_forward(layer, number == last)
                stack.enter_context(forward_of(layer.block, switched))
                if layer.attention is not None:
                    stack.enter_context(forward_of(layer.attention, self._skips(layer)))
            if self.unembedding is not None:
                stack.enter_context(forward_of(self.unembedding, self._some_logits))
            yield

    # -- calls, all within installed() --------------------------------------------------------

    def intact(self, prompts: Prompts) -> "Intact":
        """Run the model as it is and record everything that a replay needs."""
        if self._padded is None:
            return self._record(prompts)
        return self._record(prompts.joined(self._padded)).prompts(0, len(prompts), self.varies)

    def _record(self, prompts: Prompts) -> "Intact":
        calls: list[tuple[Any, Any]] = []
        streams: list[Tensor] = []
        seen: dict[int, Tensor] = {}
        one = BlockPass(len(prompts), seen=seen, calls_seen=calls, streams=streams)
        with self.taps.passing(one):
            call(self.model, prompts)
        if len(calls) != len(self.layers):
            raise CannotReplay(f"its {len(self.layers)} blocks were called {len(calls)} times")
        if any(x.ndim != 3 or len(x) != len(prompts) for x in streams):
            shapes = ", ".join(str(list(x.shape)) for x in streams[:2])
            raise CannotReplay(f"its blocks pass on {shapes}, not [row pos width]")
        if len(shapes := dict.fromkeys(str(list(x.shape)) for x in streams)) > 1:
            raise CannotReplay(f"its blocks pass on different shapes, {' and '.join(shapes)}")
        if self._known is not None:
            for known, now, varies in zip(self._known, calls, self.varies, strict=True):
                check_called(known, now, varies, len(prompts))
        return Intact(streams, seen, calls)

    def step(
        self,
        layer: int,
        stream: Residual,
        arguments: tuple[Any, Any],
        of_prompt: Int[Tensor, " row"],
        replace: Mapping[int, Hook] | None = None,
        z: Float[Tensor, "row pos width"] | None = None,
        seen: dict[int, Tensor] | None = None,
    ) -> Residual:
        """One block.

        Args:
            arguments: what the intact run called it with, for all its prompts.
            of_prompt: which of those each row is.
            replace: site -> what rewrites the activation there.
            z: what the heads give, so that attention is not run.
            seen: filled with the activations at the block's sites, before they are replaced.
        """
        args, kwargs = rows_of(arguments, of_prompt, self.varies[layer])
        args, kwargs = _with_stream(args, kwargs, stream)
        one = BlockPass(len(stream), replace or {}, seen, z=z)
        with self.taps.passing(one):
            out = first_tensor(self.layers[layer].block(*args, **kwargs))
        return out if one.last is None else one.last

    def output(
        self, final: Residual, prompts: Prompts, tokens: Int[Tensor, " token"] | None = None
    ) -> Any:
        """What the model makes of the last block's output; ``prompts`` give its shape only.

        Args:
            tokens: whose logits are computed; default: all.
        """
        with self.taps.passing(BlockPass(len(final), final=final, tokens=tokens)):
            return call(self.model, prompts)

    # -- what runs inside -----------------------------------------------------------------------

    def _block_forward(self, layer: Layer, last: bool) -> Callable[..., Any]:
        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            one = self.taps.running
            if not isinstance(one, BlockPass):
                return original(*args, **kwargs)
            if one.final is not None:
                stream = _safe(layer.block, one.final) if last else _stream_of(args, kwargs)
                return _as_output(stream, layer.n_block_outputs)
            if one.calls_seen is not None:
                one.calls_seen.append(_without_stream(args, kwargs))
            if one.streams is not None:
                one.streams.append(_stream_of(args, kwargs))
            result = original(*args, **kwargs)
            layer.n_block_outputs = len(result) if isinstance(result, tuple) else 0
            if last:  # hooks of the user's come after it, and again when its output is passed on
                one.last = _safe(layer.block, first_tensor(result))
                if one.streams is not None:
                    one.streams.append(one.last)
            return result

        return forward

    def _skips(self, layer: Layer) -> Callable[..., Any]:
        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            one = self.taps.running
            if not isinstance(one, BlockPass) or one.z is None:
                return original(*args, **kwargs)
            out = one.z if layer.bare or layer.projection is None else layer.projection(one.z)
            return _as_output(out, layer.n_outputs)

        return forward

    def _some_logits(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        one, module = self.taps.running, self.unembedding
        if not isinstance(one, BlockPass) or one.tokens is None or module is None:
            return original(*args, **kwargs)
        rows = one.tokens.to(module.weight.device)
        bias = None if module.bias is None else module.bias[rows]
        # Hooks of accelerate, which bring the stream to the weight, are gone round.
        return nn.functional.linear(args[0].to(module.weight.device), module.weight[rows], bias)

    # -- finding out ------------------------------------------------------------------------------

    def _find_what_varies(self, prompts: Prompts) -> None:
        """Which of a block's arguments have a row per prompt: those that grow with the prompts."""
        one = prompts[:1] if self._padded is None else self._padded
        two, three = self._record(one[[0, 0]]), self._record(one[[0, 0, 0]])
        self.varies = [grows(a, b) for a, b in zip(two.calls, three.calls, strict=True)]
        self._known = two.calls
        stream = two.streams[0]
        self.bytes_per_position = stream.shape[-1] * stream.element_size()

    def _find_attention(self, prompts: Prompts) -> None:
        """The module that computes a layer's heads: its first output is the output projection's
        input, or its output. All layers are asked in one pass, of which each keeps its own part
        until its block has run."""
        handles = []
        for layer, holder, aunt in self._with_projections():
            projection, outputs = layer.projection, {}
            assert projection is not None
            candidates = [holder, *aunt.children()]

            def keep(
                module: nn.Module, args: Any, out: Any, outputs: dict[Any, Any] = outputs
            ) -> None:
                outputs[module] = out

            def read(module: nn.Module, args: Any, outputs: dict[Any, Any] = outputs) -> None:
                outputs["read"] = args[0]

            def judge(
                module: nn.Module,
                args: Any,
                out: Any,
                layer: Layer = layer,
                candidates: list[nn.Module] = candidates,
                outputs: dict[Any, Any] = outputs,
            ) -> None:
                _take_attention(layer, candidates, outputs)
                outputs.clear()

            every = {*candidates, projection} - {layer.block}
            handles += [module.register_forward_hook(keep) for module in every]
            handles.append(projection.register_forward_pre_hook(read))
            handles.append(layer.block.register_forward_hook(judge))
        try:
            with self.taps.installed():
                call(self.model, prompts)
        finally:
            for handle in handles:
                handle.remove()

    def _with_projections(self) -> Iterator[tuple["Layer", nn.Module, nn.Module]]:
        """The layers whose heads are read by a module of that name, what holds it, and what holds
        that."""
        for number, layer in enumerate(self.layers):
            if not self.architecture.has("head", number) or hooks_within(layer.block):
                continue
            parent, _, own = self.architecture.name("head", number).rpartition(".")
            if is_hooked(self.model):
                own = "o"  # TransformerLens's name of the output projection
            holder = self.model.get_submodule(parent)
            found = getattr(holder, own, None)
            if isinstance(found, nn.Module):
                layer.projection = found
                yield layer, holder, self.model.get_submodule(parent.rpartition(".")[0])

    def _find_what_adds(self, prompts: Prompts) -> None:
        """Where a change of an activation changes the block's output by its projection, no more."""
        intact = self.intact(prompts)
        rows = torch.arange(len(prompts))
        for index, site in enumerate(self.sites):
            if site.kind == "expert" or hooks_within(self.layers[site.layer].block):
                continue
            act = intact.seen[index]
            weight = _weight(self.model, self.architecture, site, act.shape[-1])
            if weight is None:
                continue
            stream, after = intact.streams[site.layer], intact.streams[site.layer + 1]
            half = self.taps.precision != "float32" or act.dtype.itemsize < 4
            most = _ADDS_IN_HALF if half else _ADDS
            adds = True
            for noise in _noises(act):
                change = {index: lambda a, d=noise: a + d}
                changed = self.step(site.layer, stream, intact.calls[site.layer], rows, change)
                wanted = noise @ weight.to(noise)
                adds = adds and bool((changed - after - wanted).norm() <= most * wanted.norm())
            if adds:
                self.layers[site.layer].adds[index] = weight

    def check(self, intact: "Intact") -> None:
        """Whether blocks give the same for the streams of an intact run; of shortcuts those that
        do not hold for one of its prompts are given up.

        Raises:
            CannotReplay: a block gives something else for a stream than in the intact run.
        """
        rows = first_numbers(len(intact.streams[0]))
        half = self.taps.precision != "float32" or intact.streams[0].dtype.itemsize < 4
        most = _ADDS_IN_HALF if half else _ADDS
        of_heads = {site.layer: i for i, site in enumerate(self.sites) if site.kind == "head"}
        for number, layer in enumerate(self.layers):
            stream, after = intact.streams[number : number + 2]
            asked = (number, stream, intact.calls[number], rows)
            if layer.adds or layer.attention is not None:
                noises = {i: list(_noises(intact.seen[i]))[1] for i in layer.adds}
                added = [noises[i] @ weight.to(noises[i]) for i, weight in layer.adds.items()]
                change = {i: lambda a, d=noise: a + d for i, noise in noises.items()}
                skips = layer.attention is not None and number in of_heads
                z = intact.seen[of_heads[number]] if skips else None
                all_added = sum(added, torch.zeros_like(after))
                made, size = self.step(*asked, change, z), all_added if added else after
                if _is_near(made, after + all_added, size, most):
                    continue
                layer.attention = None
                layer.adds.clear()
            if not _is_near(self.step(*asked), after, after, most):
                raise CannotReplay(
                    f"block {number} gives something else for the stream that it had in a whole "
                    "pass: a hook before it changes a stream again, or something in it reads what "
                    "was noted elsewhere"
                )


def _is_near(made: Residual, wanted: Residual, size: Residual, most: float) -> bool:
    """Whether each row is what is wanted, but for a small part of a size."""
    same = (made == wanted) | (made.isnan() & wanted.isnan())
    off = (made - wanted).masked_fill(same, 0).float().flatten(1).norm(dim=1)
    return bool((off <= most * size.float().nan_to_num().flatten(1).norm(dim=1)).all())


def _take_attention(
    layer: Layer, candidates: Sequence[nn.Module], outputs: Mapping[Any, Any]
) -> None:
    """The first of some modules whose output is what the projection read, or gave."""
    if "read" not in outputs:
        layer.projection = None
        return
    projected = first_tensor(outputs[layer.projection])
    for module in candidates:
        if module in (layer.projection, layer.block) or module not in outputs:
            continue
        result = outputs[module]
        first = result[0] if isinstance(result, tuple) else result
        if not isinstance(first, Tensor):
            continue
        for bare, wanted in ((True, outputs["read"]), (False, projected)):
            if first.shape == wanted.shape and torch.equal(first, wanted):
                layer.attention, layer.bare = module, bare
                layer.n_outputs = len(result) if isinstance(result, tuple) else 0
                return


# Projections run in libraries already; a compiled module must not hold a place that is hooked.
_NOT_COMPILED = ("Linear", "Conv1D", "Embedding", "Dropout", "Identity", "HookPoint")


def _compiled(model: nn.Module) -> dict[nn.Module, Callable[..., Any]]:
    """The forward of every norm, activation function and the like, compiled once for its class."""
    of_class: dict[type, Any] = {}
    found: dict[nn.Module, Callable[..., Any]] = {}
    for module in model.modules():
        kind = type(module)
        if next(module.children(), None) is not None or "forward" in module.__dict__:
            continue
        if any(name in kind.__name__ for name in _NOT_COMPILED):
            continue
        if kind not in of_class:
            of_class[kind] = torch.compile(kind.forward, dynamic=True)
        run = of_class[kind]
        found[module] = lambda _, *args, module=module, run=run, **kwargs: run(
            module, *args, **kwargs
        )
    return found


def _noises(act: Tensor) -> Iterator[Tensor]:
    """Changes of an activation small and large, which what follows it would show."""
    generator = torch.Generator().manual_seed(0)
    scale = act.abs().max() + (act == 0).all()
    for times in (0.1, 1, 10):
        yield times * scale * torch.randn(act.shape, generator=generator).to(act)


@dataclass
class Intact:
    """A run of the intact model: ``streams[layer]`` is a block's input, the last the last's output;
    ``seen[site]`` the activations; ``calls[layer]`` the block's other arguments."""

    streams: list[Residual]
    seen: dict[int, Float[Tensor, "prompt pos width"]]
    calls: list[tuple[Any, Any]]

    def n_bytes(self) -> int:
        tensors = [*self.streams, *self.seen.values()]
        return sum(t.numel() * t.element_size() for t in tensors)

    def prompts(self, start: int, stop: int, varies: list[Any]) -> "Intact":
        """The run of some of its prompts: views, no copies."""
        part = slice(start, stop)
        return Intact(
            [stream[part] for stream in self.streams],
            {site: act[part] for site, act in self.seen.items()},
            [rows_of(nest, part, v) for nest, v in zip(self.calls, varies, strict=True)],
        )

    @staticmethod
    def joined(parts: "list[Intact]", varies: list[Any]) -> "Intact":
        """The runs of several groups of prompts as one."""
        if len(parts) == 1:
            return parts[0]
        return Intact(
            [torch.cat(streams) for streams in zip(*(p.streams for p in parts), strict=True)],
            {site: torch.cat([p.seen[site] for p in parts]) for site in parts[0].seen},
            [
                joined(list(nests), v)
                for *nests, v in zip(*(p.calls for p in parts), varies, strict=True)
            ],
        )


def block_name(architecture: Architecture, layer: int) -> str:
    """The module that holds all of a layer.

    Raises:
        CannotReplay: no module is named in it, or the layer's number is not in the name.
    """
    names = [architecture.name(k, layer) for k in KINDS if architecture.has(k, layer)]
    if not names:
        raise CannotReplay(f"no module is named in layer {layer}")
    if architecture.labels:
        raise CannotReplay("its blocks stand in several stacks, or attend to another stack")
    for name in names:  # another block's, where blocks share modules
        if str(layer) not in name.split("."):
            raise CannotReplay(f"the name {name} does not hold the number of its layer")
    parts = names[0].split(".")
    return ".".join(parts[: parts.index(str(layer)) + 1])


@contextmanager
def forward_of(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """``forward(original forward, ...)`` in place of a module's own."""
    had = module.__dict__.get("forward")
    original = module.forward
    switched = lambda *args, **kwargs: forward(original, *args, **kwargs)  # noqa: E731
    module.__dict__["forward"] = ours(switched, had)
    try:
        yield
    finally:
        if module.__dict__.get("forward") is not switched:
            pass  # somebody patched it meanwhile: that stays, and goes on to the original
        elif had is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = had


def _as_output(first: Tensor, n_outputs: int) -> Any:
    """A tuple of so many, or no tuple."""
    return (first, *[None] * (n_outputs - 1)) if n_outputs else first


def with_rounded_stream(
    change: Callable[[Tensor], Tensor], acts: Callable[[], bool]
) -> Callable[..., Any]:
    """A pre-hook of a block that changes its stream, while ``acts()``."""

    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if not acts():
            return None
        return _with_stream(args, kwargs, change(_stream_of(args, kwargs)))

    return hook


def unembedding_of(model: Any) -> nn.Linear | None:
    """The module that gives logits, where it is a plain linear one, which no hook follows and of
    which nobody has exchanged the forward, but for accelerate."""
    found = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    if type(found) is not nn.Linear or found.weight.device.type == "meta":
        return None
    forward = vars(found).get("forward")
    patched = forward is not None and not is_ours(forward) and "_hf_hook" not in vars(found)
    return None if patched or _is_followed(found) else found


def _is_followed(module: nn.Module) -> bool:
    """Whether hooks of the user's act on what a module gives."""
    every = nn.modules.module._global_forward_hooks
    return bool(module._forward_hooks or every)


# Hooks that libraries put on every model of theirs; those only look, or bring weights.
_OF_LIBRARIES = ("transformers.", "accelerate.", "transformer_lens.model_bridge.", "torch.utils.")


def hooks_within(block: nn.Module) -> bool:
    """Whether hooks of the user's act between what a block is given and what it gives. They may act
    on some prompts, or on some ablated streams, alone, so that what was tried holds no further."""
    hooks = [*nn.modules.module._global_forward_pre_hooks.values()]
    for module in block.modules():
        hooks += _forward_hooks_of(module)
        if module is not block:  # a stream that is kept is what these gave
            hooks += module._forward_pre_hooks.values()
    return _users(hooks)


def _forward_hooks_of(module: nn.Module) -> list[Any]:
    """Its own, and those of all modules."""
    return [*nn.modules.module._global_forward_hooks.values(), *module._forward_hooks.values()]


def _users(hooks: Sequence[Any]) -> bool:
    """Whether one of them is neither ours nor of the libraries that models come from."""
    return any(not is_ours(h) and not _module_of(h).startswith(_OF_LIBRARIES) for h in hooks)


def _module_of(hook: Any) -> str:
    while isinstance(hook, partial):
        hook = hook.func
    return str(getattr(hook, "__module__", ""))


def _safe(block: nn.Module, stream: Tensor) -> Tensor:
    """The same, as a copy where a hook might change it in place."""
    return stream.clone() if _is_followed(block) else stream


_STREAMS = ("hidden_states", "hidden_state", "x")


def _stream_of(args: Any, kwargs: Any) -> Tensor:
    return args[0] if args else kwargs[_stream_name(kwargs)]


def _stream_name(kwargs: Any) -> str:
    name = next((name for name in _STREAMS if name in kwargs), None)
    if name is None:
        raise CannotReplay(f"a block is called with {', '.join(kwargs) or 'nothing'} by name alone")
    return name


def _without_stream(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Nothing is kept of a cache of keys and values: it would grow with every call."""
    clean = [None if "Cache" in type(a).__name__ else a for a in args]
    named = {k: None if "Cache" in type(v).__name__ else v for k, v in kwargs.items()}
    if args:
        return (None, *clean[1:]), named
    return (), named | dict.fromkeys((name for name in _STREAMS if name in kwargs), None)


def _with_stream(args: Any, kwargs: Any, stream: Tensor) -> tuple[Any, Any]:
    if args:
        return (stream, *args[1:]), kwargs
    return (), kwargs | {_stream_name(kwargs): stream}


def _weight(
    model: Any, architecture: Architecture, site: Site, width: int
) -> Float[Tensor, "width d_model"] | None:
    """The output projection's weight, inputs first, of the kinds of module that are known."""
    if is_hooked(model):
        block = model.blocks[site.layer]
        weight = (
            getattr(block.mlp, "W_out", None)
            if site.kind == "neuron"
            else getattr(block.attn, "W_O", None)
        )
        if not isinstance(weight, Tensor):
            return None
        weight = weight.detach().reshape(-1, weight.shape[-1])
    else:
        module = model.get_submodule(architecture.name(site.kind, site.layer))
        if type(module) is nn.Linear:
            weight = module.weight.detach().T
        elif type(module).__name__ == "Conv1D":
            weight = module.weight.detach()
        else:
            return None
    # Of weights that wait elsewhere nothing can be read.
    return weight if len(weight) == width and weight.device.type != "meta" else None
