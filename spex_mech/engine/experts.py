"""Mixtures of experts: an expert as a unit, also where no module stands for it.

An expert's output is weighted by what the router gives it, and added to those of the others. A
module that is called with hidden states ``[token width]``, the numbers of the chosen experts
``[token choice]`` and their weights ``[token choice]`` is such a mixture if its output is the sum
of parts, each of which is a multiple of one weight: this is tried when a model is looked into. Then

- an expert is *ablated* by taking its weight to zero and adding, at every token, what replaces its
  weighted output (``Replaced``). The router's choice and the other weights stay as they are;
- its weighted output is had by calling the mixture with the other weights at zero
  (:func:`weighted_outputs`); at tokens that do not choose it, that is zero.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from spex_mech.engine.running import ours

_OFF = 1e-4  # by which parts of a mixture may add up to something else, of its size
_IN_HALF = 0.05


@dataclass(frozen=True)
class Routed:
    """What a mixture is called with.

    Args:
        hidden, chosen, weights: where each stands: its place among the arguments, or its name.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    hidden: int | str
    chosen: int | str
    weights: int | str

    @staticmethod
    def of(args: Any, kwargs: Any) -> "Routed | None":
        """None: a module that is called so is no mixture of experts."""
        every: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        tensors = [(at, x) for at, x in every if isinstance(x, Tensor) and x.ndim == 2]
        whole = [at for at, x in tensors if x.dtype in (torch.int64, torch.int32)]
        floats = [at for at, x in tensors if x.is_floating_point()]
        if len(whole) != 1 or len(floats) != 2:
            return None
        found = Routed(tuple(args), dict(kwargs), floats[0], whole[0], floats[1])
        shapes = [found[at].shape for at in (*floats, *whole)]
        fits = shapes[1] == shapes[2] and len(shapes[0]) == 2 and shapes[0][0] == shapes[1][0]
        return found if fits else None

    def __getitem__(self, at: int | str) -> Tensor:
        return self.args[at] if isinstance(at, int) else self.kwargs[at]

    def having(self, **new: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with others in place of ``hidden``, ``chosen`` or ``weights``."""
        args, kwargs = [*self.args], {**self.kwargs}
        for role, value in new.items():
            at = {"hidden": self.hidden, "chosen": self.chosen, "weights": self.weights}[role]
            if isinstance(at, int):
                args[at] = value
            else:
                kwargs[at] = value
        return tuple(args), kwargs


def n_experts_of(module: nn.Module) -> int:
    """How many experts a mixture's weights are of: one matrix each."""
    own = [p for p in module.parameters(recurse=False) if p.ndim == 3]
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList | nn.ModuleDict)]
    return min([*(len(p) for p in own), *(_n_alike(m) for m in lists)], default=0)


def _n_alike(many: nn.Module) -> int:
    """How many modules of one class a list holds: beside experts there may be a dropout."""
    return max(Counter(type(module) for module in many.children()).values(), default=0)


def why_no_mixture(module: nn.Module, routed: Routed, made: Any) -> str:
    """Why a module is no sum of weighted outputs of experts; empty: it is."""
    if not isinstance(made, Tensor) or len(made) != len(routed[routed.hidden]) or made.ndim != 2:
        return "gives no output for each token"
    weights = routed[routed.weights]
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(weights.shape, generator=generator).to(weights)

    def run(weights: Tensor) -> Tensor:
        args, kwargs = routed.having(weights=weights)
        return module.forward(*args, **kwargs)

    half = min(made.dtype.itemsize, weights.dtype.itemsize) < 4
    most = (_IN_HALF if half else _OFF) * float(made.abs().max())
    parts = run(weights * share) + run(weights - weights * share)
    if float((parts - made).abs().max()) > most or float(run(weights * 0).abs().max()) > most:
        return "gives more than the sum of its experts' weighted outputs"
    return ""


def weighted_outputs(
    module: nn.Module, routed: Routed, n_experts: int
) -> Float[Tensor, "token expert_times_width"]:
    """What each expert adds: zero at tokens that do not choose it."""
    hidden, chosen, weights = (routed[at] for at in (routed.hidden, routed.chosen, routed.weights))
    found = hidden.new_zeros(len(hidden), n_experts, hidden.shape[1])
    for expert in range(n_experts):
        here = (chosen == expert).any(dim=1)
        if here.any():
            own = weights[here] * (chosen[here] == expert)
            args, kwargs = routed.having(hidden=hidden[here], chosen=chosen[here], weights=own)
            found[here, expert] = module.forward(*args, **kwargs).to(found)
    return found.flatten(1)


@dataclass(frozen=True)
class Replaced:
    """Experts of some rows, replaced.

    Args:
        gate: how much of each is kept, 0 to 1.
        reference: what replaces its weighted output, ``[row_or_1 pos_or_1 expert*width]``.
    """

    gate: Shaped[Tensor, "row expert"]
    reference: Float[Tensor, "row_or_1 pos_or_1 width"]

    def weighted(
        self, chosen: Int[Tensor, "token choice"], weights: Float[Tensor, "token choice"]
    ) -> Float[Tensor, "token choice"]:
        """The router's weights, those of lost experts at zero."""
        n_rows, n_experts = self.gate.shape
        kept = torch.cat([self.gate, self.gate.new_ones(n_rows, 1)], dim=1).to(weights.device)
        each = kept.repeat_interleave(len(chosen) // n_rows, dim=0)
        # Numbers beyond the experts stand for none of them.
        gate = each.gather(1, chosen.long().clamp(max=n_experts))
        return torch.where(gate == 0, torch.zeros_like(weights), weights * gate.to(weights.dtype))

    def added(self, made: Float[Tensor, "token width"]) -> Float[Tensor, "token width"]:
        """The mixture's output, with what replaces the lost experts at every token."""
        n_rows, n_experts = self.gate.shape
        lost = 1 - self.gate.to(made)
        each = self.reference.to(made).unflatten(2, (n_experts, -1))
        each = torch.where(lost[:, None, :, None] == 0, torch.zeros_like(each), each)
        more = torch.einsum("re,rpew->rpw", lost, each)
        return (made.unflatten(0, (n_rows, -1)) + more).flatten(0, 1)


@contextmanager
def mixture_hooks(
    model: nn.Module,
    names: Sequence[str],
    before: Callable[[str, Routed], Tensor | None],
    after: Callable[[str, nn.Module, Tensor], Tensor | None],
) -> Iterator[None]:
    """Let ``before(name, arguments)`` change the router's weights of a mixture, and ``after(name,
    module, output)`` its output (None: leave them)."""

    def pre_hook(name: str) -> Callable[..., Any]:
        def run(module: nn.Module, args: Any, kwargs: Any) -> Any:
            routed = Routed.of(args, kwargs)
            if routed is None:
                raise RuntimeError(f"{name} is called unlike a mixture of experts now")
            new = before(name, routed)
            return None if new is None else routed.having(weights=new)

        return run

    def hook(name: str) -> Callable[..., Any]:
        return lambda module, args, made: after(name, module, made)

    handles = []
    try:
        for name in names:
            module = model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(ours(pre_hook(name)), with_kwargs=True))
            handles.append(module.register_forward_hook(ours(hook(name))))
        yield
    finally:
        for handle in handles:
            handle.remove()
