"""Notices that a model is no longer what it was.

Two ways, both cheap. *Structure*: of every module its class, hooks, plain attributes, and its
weights' places, types and counts of changes in place, with the sum of a sample of each.
*Behaviour*: the whole output of one intact prompt, and the embedding of every token that the
prompts hold.
Attributes that change in a pass by themselves (counters, caches) are left out; so is what this
package puts on a model for the time of a call.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from spex_mech.engine.blocks import forward_of, unembedding_of
from spex_mech.engine.facts import vocabulary_of
from spex_mech.engine.passes import call
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.running import is_ours, tensors_in
from spex_mech.fingerprints import function_sha256

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_MOST_ITEMS = 64  # of a list or dict that are looked at
_SAMPLE, _SAMPLED_AXIS = 64, 8  # numbers of a weight; of each axis, where it is a slice of another
_SAMPLED_LOGITS = 256
_ROUNDINGS = 8  # of float32, by which the same pass may differ
_WEIGHTS = ("_parameters", "_buffers")
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_NOT_TOLD = (
    "_modules",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_non_persistent_buffers_set",
    "_is_full_backward_hook",
    "_compiled_call_impl",
    "_derived_position_ids_ok",  # of a TransformerBridge, set by its first padded pass
    "training",
)
_SAMPLES = ("", "sample")
State = dict[tuple[str, str], Any]


class Watch:
    """What a model was when it was made.

    Args:
        prompts: the game's.
        runs: a context in which the model computes as a game does.
        run: one pass; default: as a ``ModelGame`` makes it.
    """

    def __init__(
        self,
        model: Any,
        prompts: Prompts,
        runs: Callable[[], Any],
        run: Callable[[Prompts], Any] | None = None,
    ) -> None:
        self.model, self._runs = model, runs
        self._run = run or (lambda prompts: call(model, prompts))
        self._prompts = prompts
        longest = int(prompts.real.sum(dim=1).argmax())
        self._one = prompts[longest : longest + 1]
        self._tokens = prompts.tokens.unique()
        asked = (prompts.tokens, prompts.answers, prompts.wrong_answers)
        named = [x.flatten() for x in asked if x is not None]
        n_tokens = vocabulary_of(model) or 0
        step = max(1, n_tokens // _SAMPLED_LOGITS)
        sample = torch.arange(0, n_tokens, step, device=prompts.tokens.device)
        self._rows = torch.cat([*named, sample]).unique().clamp(min=0)
        first = self._behaviour()
        before = state_of(model)
        self._intact = self._behaviour()
        self._state = state_of(model)
        # Some take one row alone, and say so by whatever error.
        with torch.no_grad(), self._runs(), suppress(Exception):
            self._run(self._one[[0, 0]])
        of_two = state_of(model)
        # What a pass changes by itself, or one of more rows, says nothing of the model.
        keys = before.keys() | self._state.keys() | of_two.keys()
        states = (before, self._state, of_two)
        self._volatile = {k for k in keys if any(s.get(k) != before.get(k) for s in states)}
        if any(kind in _WEIGHTS for _, kind in self._volatile):
            self._state = state_of(model, self._volatile)
        self._noise = _distance(first, self._intact)
        self._asked = _versions(prompts)

    @property
    def is_random(self) -> bool:
        """Whether two passes of one prompt differ by more than rounding."""
        return self._noise > _ROUNDINGS * torch.finfo(torch.float32).eps

    def changed(self) -> str:
        """What changed since it was made, in words; empty: nothing that can be seen."""
        return self.structure_changed() or self._behaviour_changed()

    def structure_changed(self) -> str:
        """The same without running the model."""
        if _versions(self._prompts) != self._asked:
            return "the prompts"
        now, was = state_of(self.model, self._volatile), self._state
        if now == was:
            return ""
        for key in [*was, *(key for key in now if key not in was)]:
            # A private attribute that is new is a module's own note of its first pass of a kind.
            is_note = key[1].startswith("_") and key not in was
            if is_note and key[1] not in (*_HOOKS, *_WEIGHTS):
                continue
            if key not in self._volatile and now.get(key) != was.get(key):
                where = now[key].first_other(was[key]) if key == _SAMPLES else key[0]
                where = where or type(self.model).__name__
                return f"{_WORDS.get(key[1], key[1])} of {where}"
        return ""

    @contextmanager
    def unchanged_within(self) -> Iterator[None]:
        """Raises:
        RuntimeError: something that can be seen without running the model changed within, also
            where that made another error.
        """
        failed: Exception | None = None
        try:
            yield
        except Exception as error:
            failed = error
        if changed := self.structure_changed():
            raise RuntimeError(
                f"{changed} changed while the game was running the model, so that its values "
                "are of neither; let nothing change the model during a call, and ask again"
            ) from failed
        if failed is not None:
            raise failed

    def _behaviour_changed(self) -> str:
        allowed = max(_ROUNDINGS * torch.finfo(torch.float32).eps, 10 * self._noise)
        now = self._behaviour()
        shapes = [x.shape for x in now] == [x.shape for x in self._intact]
        if shapes and _distance(now, self._intact) <= allowed:
            return ""
        return "what the model makes of a prompt"

    def _behaviour(self) -> list[Tensor]:
        with torch.no_grad(), self._runs(), self._some_logits():
            output = list(tensors_in(self._run(self._one)))
            for module in self.model.modules():
                if isinstance(module, nn.Embedding) and module.weight.device.type != "meta":
                    tokens = self._tokens[self._tokens < module.num_embeddings]
                    output.append(module.weight[tokens.to(module.weight.device)])
        return [x.detach().clone() for x in output]

    @contextmanager
    def _some_logits(self) -> Iterator[None]:
        """Logits of the tokens that the prompts hold and ask for, and of a sample of all others."""
        module = unembedding_of(self.model)
        if module is None:
            yield
            return
        weight, bias = module.weight, module.bias
        rows = self._rows[self._rows < len(weight)].to(weight.device)

        def forward(_: Any, x: Tensor) -> Tensor:
            here = x.to(weight.device)  # hooks of accelerate, which would bring it, are gone round
            return nn.functional.linear(here, weight[rows], None if bias is None else bias[rows])

        with forward_of(module, forward):
            yield

    def identity(self) -> dict[str, Any]:
        """What tells this model from others, beside its weights and configuration: how it behaves,
        its hooks, and the plain attributes of its modules."""
        digest = hashlib.sha256()
        for key, value in sorted(self._state.items(), key=lambda item: item[0]):
            if key not in self._volatile and key[1] not in (*_WEIGHTS, "sample", "config"):
                digest.update(repr((key, list(_plainly(value)))).encode())
        level = sum(x.double().cpu().abs().mean().item() for x in self._intact)
        return {"modules_sha256": digest.hexdigest()[:16], "intact": f"{level:.3g}"}


class Watched:
    """A model that may change, and what changed so far, in words.

    Args:
        make: watches it as it is now.
    """

    def __init__(self, make: Callable[[], Watch]) -> None:
        self._make, self.watch = make, make()
        self.changes: list[str] = []

    def look(self) -> None:
        """Whether something changed by now."""
        if changed := self.watch.changed():
            self.changes.append(changed)
            self.watch = self._make()


_WORDS = {
    "_parameters": "the weights",
    "_buffers": "the buffers",
    "sample": "the weights",
    "is": "the class or place",
    "_forward_hooks": "the hooks",
    "_forward_pre_hooks": "the hooks",
    "_backward_hooks": "the backward hooks",
    "_backward_pre_hooks": "the backward hooks",
    "forward": "the forward",
    "config": "the configuration",
}


class _Same:
    """An object that is told from others by being itself."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


class _Number(int):
    """The number of an object in this process: it tells two apart, and says nothing of them."""


class _Place(tuple[Any, ...]):
    """Where a tensor is, of which type, and how often it was changed in place."""


def state_of(model: nn.Module, volatile: Collection[tuple[str, str]] = ()) -> State:
    """What can be seen of a model without running it, by module and attribute.

    Args:
        volatile: of what passes change by themselves no numbers are looked at: some rotary
            embeddings work out their frequencies anew for each length of prompts.
    """
    state: State = {}
    sampled: list[tuple[str, Tensor]] = []
    told: dict[int, Any] = {}  # of configurations, which many modules share
    every = nn.modules.module
    state["", "global hooks"] = [
        [_Same(hook) for hook in hooks.values()]
        for hooks in (
            every._global_forward_hooks,
            every._global_forward_pre_hooks,
            every._global_backward_hooks,
            every._global_backward_pre_hooks,
        )
    ]
    for name, module in model.named_modules():
        state[name, "is"] = [_Number(id(module)), _Same(type(module)), _Same(type(module).forward)]
        for key, value in vars(module).items():
            if key in _NOT_TOLD:
                continue
            if key in _WEIGHTS:
                if value:
                    state[name, key] = {n: _place(t) for n, t in value.items()}
                    if (name, key) not in volatile:
                        sampled += [(name, t) for t in value.values() if _can_be_sampled(t)]
            elif key in _HOOKS:
                own = [_Same(hook) for hook in value.values() if not is_ours(hook)]
                if own:
                    state[name, key] = own
            elif key == "forward":
                while is_ours(value):
                    value = value.spex_mech_had
                if value is not None:
                    state[name, key] = _Same(value)
            else:
                state[name, key] = _told(value, told)
    state[_SAMPLES] = _Samples(sampled)
    return state


def _told(value: Any, told: dict[int, Any], depth: int = 0) -> Any:
    """A plain value as it is, lists and dicts of them too; of anything else which object it is."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, Tensor):
        return _place(value)
    if depth < 3 and isinstance(value, list | tuple | set | frozenset | dict):
        if len(value) > _MOST_ITEMS:
            return [_Number(id(value)), len(value)]
        if isinstance(value, dict):
            return {str(k): _told(v, told, depth + 1) for k, v in value.items()}
        if isinstance(value, set | frozenset):
            return sorted(map(str, value))
        return [_told(v, told, depth + 1) for v in value]
    if kind.__name__.endswith("Config") and hasattr(value, "__dict__"):
        if id(value) not in told:
            told[id(value)] = {}
            told[id(value)] = _told(vars(value), told, depth + 1)
        return told[id(value)]
    return (
        _Same(value) if callable(value) and not isinstance(value, nn.Module) else _Number(id(value))
    )


def _place(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    if tensor.device.type == "meta":  # accelerate makes it anew after each pass
        return _Place((tensor.dtype, tensor.device, tensor.shape))
    version = -1 if tensor.is_inference() else tensor._version
    return _Place((id(tensor), version, tensor.dtype, tensor.device, tensor.shape))


class _Samples:
    """A few numbers of each weight, bit by bit: an edit that no count tells of shows in them. All
    weights of a type and device are looked at together.

    Args:
        named: weights, and the names of their modules.
    """

    def __init__(self, named: list[tuple[str, Tensor]]) -> None:
        by_type: dict[Any, list[tuple[str, Tensor]]] = {}
        for name, tensor in named:
            by_type.setdefault((tensor.dtype, tensor.device), []).append((name, _some_of(tensor)))
        self._parts = {
            key: ([(name, some.numel()) for name, some in several], _bits([s for _, s in several]))
            for key, several in by_type.items()
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Samples) or self._parts.keys() != other._parts.keys():
            return False
        return all(
            sizes == other._parts[key][0] and torch.equal(bits, other._parts[key][1])
            for key, (sizes, bits) in self._parts.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def first_other(self, other: "_Samples") -> str:
        """The module of the first weight that differs."""
        for key, (sizes, bits) in self._parts.items():
            if key not in other._parts or sizes != other._parts[key][0]:
                return sizes[0][0]
            width = bits.numel() // max(1, sum(n for _, n in sizes))
            parts = zip(
                bits.split([n * width for _, n in sizes]),
                other._parts[key][1].split([n * width for _, n in sizes]),
                strict=True,
            )
            for (name, _), (now, was) in zip(sizes, parts, strict=True):
                if not torch.equal(now, was):
                    return name
        return ""


def _can_be_sampled(tensor: Tensor | None) -> bool:
    if tensor is None or type(tensor) not in (Tensor, nn.Parameter):
        return False
    if tensor.device.type == "meta" or not tensor.numel():
        return False
    return tensor.layout == torch.strided


def _some_of(tensor: Tensor) -> Tensor:
    """A few of its numbers, where they lie."""
    in_place = tensor.detach()
    if not in_place.is_contiguous():  # a transposed weight is contiguous the other way round
        in_place = in_place.permute(sorted(range(tensor.ndim), key=lambda x: -tensor.stride(x)))
    if not in_place.is_contiguous():
        some = tuple(slice(None, None, max(1, size // _SAMPLED_AXIS)) for size in in_place.shape)
        return in_place[some].flatten()
    return in_place.view(-1)[:: max(1, tensor.numel() // _SAMPLE)]


def _bits(several: list[Tensor]) -> Tensor:
    return torch.cat(several).contiguous().view(torch.uint8)


def _plainly(value: Any) -> Iterator[str]:
    """What of a state means the same in another process."""
    kind = type(value)
    if kind in _PLAIN:
        yield repr(value)
    elif kind is dict:
        for key, part in value.items():
            yield f"{key}:"
            yield from _plainly(part)
    elif kind is list:
        for part in value:
            yield from _plainly(part)
    elif kind is _Same:
        if isinstance(value.value, type):
            yield value.value.__qualname__
        elif callable(value.value):
            yield function_sha256(value.value)


def _versions(prompts: Prompts) -> list[Any]:
    every = [*vars(prompts).values(), *prompts.inputs.values(), *prompts.corrupted_inputs.values()]
    return [_place(x) if isinstance(x, Tensor) else None for x in every]


def _distance(a: list[Tensor], b: list[Tensor]) -> float:
    """The largest difference, of the largest number."""
    most = 0.0
    for x, y in zip(a, b, strict=False):
        if not torch.equal(x, y):
            size = y.double().abs().max().item() if y.is_floating_point() else 1.0
            most = max(most, (x.double() - y.double()).abs().max().item() / max(size, 1e-30))
    return most
