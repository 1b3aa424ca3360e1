"""Forward passes that we start, and hooks that act on these alone.

A hook or a switched forward of ours reads what to do from a :class:`Pass`. It is bound to the
thread that started the pass, for the time of the pass: a metric that runs the model, plain
inference beside a game, another game or another thread find the model as it is.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from spex_mech.engine.architectures import Architecture, architecture_of, is_hooked
from spex_mech.engine.device import as_the_user, computing
from spex_mech.engine.experts import Replaced, Routed, mixture_hooks, weighted_outputs
from spex_mech.engine.facts import is_causal, takes
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.running import evaluating, ours
from spex_mech.engine.sites import Place

# [row pos width] -> the same rewritten, or None: as it is. At a mixture of experts it is given the
# router's weights, where it is not a ``Replaced``.
Hook = Callable[[Tensor], Tensor | None] | Replaced

_TURNS: "WeakKeyDictionary[nn.Module, threading.RLock]" = WeakKeyDictionary()
_MAKING = threading.Lock()


@dataclass
class Pass:
    """One pass that we start.

    Args:
        n_rows: how many rows it has.
        replace: place -> what rewrites the activation there.
        seen: filled with the activations at the places, before they are replaced.
        sees_experts: also with the weighted outputs of experts, each of which is run by itself.
        routes: filled, at mixtures, with the numbers of the chosen experts and their weights.
    """

    n_rows: int
    replace: Mapping[int, Hook] = field(default_factory=dict)
    seen: dict[int, Tensor] | None = None
    calls: dict[str, int] = field(default_factory=dict)  # of each hook point so far
    fired: set[int] = field(default_factory=set)
    sees_experts: bool = False
    routes: dict[int, tuple[Tensor, Tensor]] | None = None
    after: dict[str, Replaced] = field(default_factory=dict)  # what a mixture's output is to be


class Taps:
    """The hook points of a model, and the passes that run through them.

    Args:
        places: the hook points; a pass names them by their number here.
        precision: to compute in.
        copies: what is seen is copied, as the model writes over it later in the pass.
    """

    def __init__(
        self,
        model: Any,
        places: Sequence[Place],
        device: torch.device,
        precision: str,
        copies: bool = False,
    ) -> None:
        self._copies = copies
        self.model, self.places = model, list(places)
        self.device, self.precision = device, precision
        self._running: tuple[int, Pass] | None = None  # thread and pass
        self._change: Callable[[Tensor], Tensor] | None = None
        self._at = {(place.name, place.call): i for i, place in enumerate(self.places)}

    @property
    def running(self) -> Pass | None:
        """The pass that runs now in this thread, if we started it."""
        running = self._running
        return running[1] if running and running[0] == threading.get_ident() else None

    @contextmanager
    def passing(self, one: Pass) -> Iterator[None]:
        """Our hooks act as this pass says until the end."""
        before, self._running = self._running, (threading.get_ident(), one)
        try:
            yield
        finally:
            self._running = before

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The hooks stand, the model is in evaluation mode, and it computes in our precision."""
        names = list(dict.fromkeys(p.name for p in self.places if not p.n_experts))
        mixtures = list(dict.fromkeys(p.name for p in self.places if p.n_experts))
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.model))
            stack.enter_context(computing(self.device, self.precision))
            stack.enter_context(raw_hooks(self.model, names, self._at_point))
            hooks = mixture_hooks(self.model, mixtures, self._at_mixture, self._after_mixture)
            stack.enter_context(hooks)
            yield

    def run(
        self,
        prompts: Prompts,
        replace: Mapping[int, Hook] | None = None,
        seen: dict[int, Tensor] | None = None,
    ) -> Any:
        """One whole pass, within :meth:`installed`.

        Raises:
            RuntimeError: a hook did not fire.
        """
        one = Pass(len(prompts), replace or {}, seen, sees_experts=seen is not None)
        with self.passing(one):
            output = call(self.model, prompts)
        for index in one.replace if seen is None else range(len(self.places)):
            if index not in one.fired:
                raise RuntimeError(
                    f"the hook at {self.places[index].name} did not fire: the model's forward pass "
                    "goes around it, so ablating there would change nothing (a fused forward, one "
                    "that keeps what it gave before, or a model that leaves layers out for some "
                    "prompts, as with an early exit: switch that off)"
                )
        return output

    @contextmanager
    def outside(self) -> Iterator[None]:
        """What is the user's runs here: in its own types."""
        with as_the_user(self.device):
            yield

    @contextmanager
    def changed_by(self, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Every activation at a place is changed so, after what a pass makes of it."""
        before, self._change = self._change, change
        try:
            yield
        finally:
            self._change = before

    def _index(self, one: Pass, name: str) -> int | None:
        """The place that a module is now, which is called in a pass of ours."""
        number = one.calls.get(name, 0)
        one.calls[name] = number + 1
        index = self._at.get((name, number))
        if index is not None:
            one.fired.add(index)
        return index

    def _at_mixture(self, name: str, routed: Routed) -> Tensor | None:
        one = self.running
        index = None if one is None else self._index(one, name)
        if one is None or index is None:
            return None
        if one.seen is not None and one.sees_experts:
            module = self.model.get_submodule(name)
            each = weighted_outputs(module, routed, self.places[index].n_experts)
            one.seen[index] = each.detach().unflatten(0, (one.n_rows, -1))
        weights, replace = routed[routed.weights], one.replace.get(index)
        if one.routes is not None:
            one.routes[index] = routed[routed.chosen].detach(), weights.detach()
        if isinstance(replace, Replaced):
            one.after[name] = replace
            weights = replace.weighted(routed[routed.chosen], weights)
        elif replace is not None:
            weights = weights if (new := replace(weights)) is None else new
        elif self._change is None:
            return None
        return weights if self._change is None else self._change(weights)

    def _after_mixture(self, name: str, module: nn.Module, made: Tensor) -> Tensor | None:
        one = self.running
        replace = None if one is None else one.after.pop(name, None)
        return None if replace is None else replace.added(made)

    def _at_point(self, name: str, act: Tensor) -> Tensor | None:
        one = self.running
        index = None if one is None else self._index(one, name)
        if one is None or index is None:
            return None
        layout, replace = self.places[index].layout, one.replace.get(index)
        if one.seen is None and replace is None and self._change is None:
            return None
        flat = layout.read(act, one.n_rows)
        if one.seen is not None:
            one.seen[index] = flat.detach().clone() if self._copies else flat.detach()
        assert not isinstance(replace, Replaced)
        new = None if replace is None else replace(flat)
        if self._change is not None:
            new = self._change(flat if new is None else new)
        return None if new is None else layout.write(new, act)


@contextmanager
def raw_hooks(
    model: Any, names: Sequence[str], rewrite: Callable[[str, Tensor], Tensor | None]
) -> Iterator[None]:
    """Let ``rewrite(hook point, activation)`` change what passes there (None: leave it)."""

    def hook_point(name: str) -> Callable[..., Any]:
        return lambda module, args, act: rewrite(name, act)

    def pre_hook(name: str) -> Callable[..., Any]:
        def run(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            # A projection may be called with its input by name.
            key = None if args else next((k for k, v in kwargs.items() if _is_input(v)), None)
            if not args and key is None:
                return None
            new = rewrite(name, args[0] if key is None else kwargs[key])
            if new is None:
                return None
            return ((new, *args[1:]), kwargs) if key is None else (args, kwargs | {key: new})

        return run

    handles, hooked = [], is_hooked(model)
    try:
        for name in names:
            if hooked:
                hook = ours(hook_point(name))
                handles.append(model.hook_dict[name].register_forward_hook(hook))
            else:
                hook = ours(pre_hook(name))
                module = model.get_submodule(name)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def seen_at(
    model: Any, names: Sequence[str], prompts: Prompts
) -> tuple[dict[str, list[Tensor]], bool]:
    """What passes each hook point in a pass, call by call; and whether the model writes over it
    later."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    versions: list[tuple[Tensor, int]] = []

    def keep(name: str, act: Tensor) -> None:
        seen[name].append(act.detach())
        if not act.is_inference():
            versions.append((act, act._version))

    with raw_hooks(model, names, keep):
        call(model, prompts)
    return seen, any(act._version != before for act, before in versions)


def _is_input(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def turn_of(model: nn.Module, architecture: Architecture | None = None) -> threading.RLock:
    """The lock of the games on one model, also under another wrapper: they take turns."""
    shared = model
    if not is_hooked(model):
        try:
            known = architecture or architecture_of(model)
        except ValueError:  # a model of which only the tokens are ablated
            known = Architecture((), (), 1)
        names = [name for name in (*known.heads, *known.neurons) if name is not None]
        shared = model.get_submodule(names[0]) if names else model
    with _MAKING:
        return _TURNS.setdefault(shared, threading.RLock())


def call(model: Any, prompts: Prompts, by_default: bool = False) -> Any:
    """One pass as it is: no hooks, no change of mode.

    Args:
        by_default: a cache of keys and values is kept where the model does so by itself.
    """
    if is_hooked(model):
        if prompts.inputs:
            raise ValueError(
                f"{type(model).__name__} reads tokens alone, and the prompts have "
                f"{', '.join(prompts.inputs)}; leave them out, or give the transformers model"
            )
        padded = (
            {} if prompts.attention_mask is None else {"attention_mask": prompts.attention_mask}
        )
        return model(prompts.tokens, return_type="logits", **padded)
    given: dict[str, Any] = {}
    if prompts.attention_mask is not None:
        if not takes(model, "attention_mask"):
            raise ValueError(
                f"{type(model).__name__}.forward takes no attention_mask, so padding cannot be "
                "masked: give prompts of one length without attention_mask"
            )
        given["attention_mask"] = prompts.attention_mask.long()
    if prompts.token_types is not None:
        if not takes(model, "token_type_ids"):
            raise ValueError(
                f"{type(model).__name__}.forward takes no token_type_ids; leave token_types out"
            )
        given["token_type_ids"] = prompts.token_types
    for name, value in prompts.inputs.items():
        if not takes(model, name):
            raise ValueError(
                f"{type(model).__name__}.forward takes no {name}; leave it out of the prompts' "
                "inputs"
            )
        given[name] = value
    if takes(model, "use_cache") and not by_default:
        given["use_cache"] = False
    if not prompts.has_tokens:
        return output_of(model, model(**given))
    if prompts.inputs and takes(model, "input_ids"):  # which may not be what it takes first
        return output_of(model, model(input_ids=prompts.tokens, **given))
    return output_of(model, model(prompts.tokens, **given))


def output_of(model: Any, output: Any) -> Any:
    """What a metric reads: a causal model's logits; of any other model all that it returns."""
    return output.logits if is_causal(model) and hasattr(output, "logits") else output
