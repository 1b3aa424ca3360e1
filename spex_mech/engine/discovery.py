"""Where a transformers model keeps its heads and neurons, found and proven by running it.

1. *Look.* One pass of a few tokens records what each attention function gave, ``[row pos head
   d_head]``, what every module read, and in which order. Attention functions are those that
   transformers hands out, torch's own, and any product of weights that sum to 1 with values.
2. *Prove heads.* One pass of equal rows: in row ``1 + h`` noise is added to what head ``h`` gave,
   in the last row all heads give zero. The first linear layer that shows it is the output
   projection, if of what it reads row ``1 + h`` differs in slice ``h`` alone, and the last row is
   zero: so each slice is that head's output, gated perhaps, and nothing else. There the rows are
   set back, so that all layers are asked in one pass.
3. *Prove neurons.* A neuron is a number that a down projection reads. Noise is added to some
   outputs of the projections before it, at one position; what the down projection reads must differ
   in the same numbers, at that position, and nowhere else. Two rows are other prompts, in which
   those projections give what they give in row 0: there nothing may differ.
4. *Nothing goes around.* After a place at which rows were set back, no later layer may read rows
   that differ. Where one does, something else reads the heads or neurons as well (an adapter beside
   the projection), and the next module around that reads the same is taken, or none. Where some
   neurons are not proven, the others have one more pass for it, with no noise but theirs. (Of a
   model whose equal rows differ, as it draws random numbers, this cannot be told.)

What is not proven is not found, and the text says what was seen. No attention implementation, no
configuration and no weight is touched; hooks and the recording of attention functions stand for
these passes alone, and act in this thread alone.
"""

import re
import sys
import threading
from bisect import bisect, bisect_left
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from spex_mech.engine.device import gpus_of
from spex_mech.engine.examples import Example
from spex_mech.engine.experts import Routed, n_experts_of, why_no_mixture
from spex_mech.engine.products import Products, heads_back, heads_last
from spex_mech.engine.running import evaluating, is_float, is_ours, one_line, ours

_HANDED_OUT, _PRODUCTS, _NOTHING = "handed out", "products", "nothing"  # attention
_LEAST, _ROUNDINGS = 1e-6, 8  # what shows noise: relative to the largest number, in roundings
_SPARSE = 8  # one in so many outputs of an up projection gets noise
N_NOISY, N_OTHERS = 4, 2  # rows of the pass that proves neurons
_TRIES = 3  # passes that prove heads, where some of them cannot be proven
_LEAK = 10.0  # times that: noise that goes around a place, after layers that may add rounding
_NO_LINEAR = "no linear layer reads what its heads gave"
_PROJECTS_ITSELF = (
    "attention runs in torch's multi_head_attention_forward (nn.MultiheadAttention), which applies "
    "the output projection by its weight and calls no module that reads what the heads gave"
)
_TURN = threading.RLock()


class NotFound(Exception):
    """The model could not be looked into; the text says why."""


@dataclass(frozen=True)
class Place:
    """A module that reads heads or neurons.

    Args:
        name: of the module.
        call: which of its calls in a pass.
        time: when it is called, in order.
        count: heads or neurons.
        width: of each.
        how: how it was proven.
        n_kv: key-value groups; None: not shared.
        is_across: heads that read other positions than they write to: cross attention.
    """

    name: str
    call: int
    time: int
    count: int
    width: int
    how: str
    n_kv: int | None = None
    is_across: bool = False


@dataclass
class Seen:
    """What was found: places in the order of a pass, and what was seen where nothing was proven."""

    heads: list[Place] = field(default_factory=list)
    neurons: list[Place] = field(default_factory=list)
    experts: list[Place] = field(default_factory=list)
    no_heads: list[str] = field(default_factory=list)
    no_neurons: list[str] = field(default_factory=list)
    no_experts: list[str] = field(default_factory=list)
    n_attention: int = 0
    example: Example | None = None  # what the model was run on


@dataclass
class _Attention:
    """One call of an attention function: ``out[row, pos, head, d_head]``; its time lies between
    those of the modules read before and after it."""

    time: float
    out: Float[Tensor, "row pos head d_head"]
    n_kv: int | None
    handed_out: bool
    is_across: bool


@dataclass
class _Read:
    """One call of a module: what it read first, and what it gave."""

    time: int
    name: str
    module: nn.Module
    call: int
    given: Tensor
    made: Tensor | None = None

    @property
    def width(self) -> int:
        """Of what it gave."""
        return 0 if self.made is None else self.made.shape[-1]


def look(model: nn.Module, inputs: Example) -> Seen:
    """The heads and neurons of a model.

    Args:
        inputs: what it is run on: rows that are equal, but for some at the end.

    Raises:
        NotFound: it does not run on these inputs.
    """
    with _TURN, torch.no_grad(), evaluating(model), _same_chance(model), ExitStack() as stack:
        hooks = stack.enter_context(_Hooks(model).standing())
        first = _Look(model)
        hooks.run(first, inputs(first.n_rows, 0))
        plan = _Plan.of(first)
        found = Seen(n_attention=len(plan.attention), experts=first.experts)
        found.no_experts = first.no_experts
        found.no_heads = own = [_PROJECTS_ITSELF] if first.projects_itself else []
        failed: dict[int, str] = {}
        around = _Around(plan.around_heads)
        for _ in range(_TRIES if plan.attention else 0):
            heads = _HeadProof(model, plan, failed, around)
            hooks.run(heads, inputs(heads.n_rows, 0))
            heads.end()
            found.heads = list(heads.places.values())
            found.no_heads = [*own, *failed.values(), *heads.failed.values()]
            if not heads.failed:
                break
            # What is not set back shows in whatever comes after it: without it, all others again.
            first_failed = min(heads.failed)
            if not (first_failed in heads.leaks and around.wider(first_failed)):
                failed[first_failed] = heads.failed[first_failed]
        if plan.mlps:
            mlps, around = dict(enumerate(plan.mlps)), _Around([mlp.around for mlp in plan.mlps])
            neurons = _NeuronProof(model, mlps, found.heads, around, plan.is_steady)
            hooks.run(neurons, inputs(neurons.n_rows, N_OTHERS))
            found.neurons = list(neurons.places.values())
            found.no_neurons = list(neurons.failed.values())
            # Noise of what was not proven may show anywhere: then without it, those again.
            failed = {k: why for k, why in neurons.failed.items() if k not in neurons.leaks}
            mlps = {number: mlps[number] for number in mlps if number not in failed}
            is_open = bool(neurons.failed) and plan.is_steady
            for _ in range(_TRIES if is_open and mlps else 0):
                neurons = _NeuronProof(model, mlps, found.heads, around)
                hooks.run(neurons, inputs(neurons.n_rows, N_OTHERS))
                found.neurons = list(neurons.places.values())
                found.no_neurons = [*failed.values(), *neurons.failed.values()]
                if not neurons.leaks:
                    break
                if not around.wider(leak := min(neurons.leaks)):
                    failed[leak] = neurons.failed[leak]
                    del mlps[leak]
        return found


class _Around:
    """Which module is taken for a projection: at first the linear layer itself, and where something
    beside it reads the same, the next module around both: an adapter's wrapper, say.

    Args:
        chains: for each projection, what reads the same tensor, from the layer outwards.
    """

    def __init__(self, chains: list[list[_Read]]) -> None:
        self.chains, self.level = chains, [0] * len(chains)

    def taken(self, number: int) -> tuple[str, int] | None:
        """Name and call; None: whatever linear layer comes first."""
        chain, level = self.chains[number], self.level[number]
        return (chain[level].name, chain[level].call) if level else None

    def wider(self, number: int) -> bool:
        """Take a wider one, of all projections that stand in a module of the same class; False
        where there is none."""
        level = self.level[number] + 1
        if level >= len(self.chains[number]):
            return False
        kind = type(self.chains[number][level].module)
        for other, chain in enumerate(self.chains):
            if level < len(chain) and type(chain[level].module) is kind:
                self.level[other] = max(level, self.level[other])
        return True


class _Hooks:
    """Hooks on every module, for all passes; each pass has its own watcher."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.watching: _Watching | None = None

    @contextmanager
    def standing(self) -> Iterator["_Hooks"]:
        def before(*given: Any) -> Any:
            return None if self.watching is None else self.watching.before(*given)

        def after(*given: Any) -> Any:
            return None if self.watching is None else self.watching.after(*given)

        handles = []
        try:
            for module in self.model.modules():
                handles += [
                    module.register_forward_pre_hook(ours(before), with_kwargs=True),
                    module.register_forward_hook(ours(after), with_kwargs=True),
                ]
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def run(self, watching: "_Watching", inputs: dict[str, Any]) -> None:
        """A pass that is watched.

        Raises:
            NotFound: the model does not run on these inputs.
        """
        self.watching = watching
        try:
            with watching.attention_watched():
                self.model(**inputs)
        except Exception as error:
            raise NotFound(one_line(error)) from error
        finally:
            self.watching = None


@contextmanager
def _same_chance(model: nn.Module) -> Iterator[None]:
    """The state of the generators is that of before, whatever the model draws."""
    with torch.random.fork_rng(devices=gpus_of(model)):
        yield


class _Watching:
    """What is seen of a pass, of every module and attention function, in this thread alone."""

    n_rows: int

    def __init__(self, model: nn.Module, alone: str = "") -> None:
        self.alone = alone  # which attention is looked at; empty: any
        self.by_library = False  # whether the attention function that ran was handed out
        self.model = model
        self.names = {module: name for name, module in model.named_modules()}
        self.time = 0
        self.calls: dict[nn.Module, int] = {}
        self.thread = threading.get_ident()
        self.inside = False  # an attention function, which others run within
        self.projects_itself = False  # torch's attention with a projection of its own ran

    @contextmanager
    def attention_watched(self) -> Iterator[None]:
        with ExitStack() as stack:
            products = None
            if self.alone != _NOTHING:
                stack.enter_context(handed_out(self._attention))
            if self.alone in ("", _PRODUCTS):
                products = stack.enter_context(Products(self.product, self._is_off))
            yield
            self.projects_itself = products is not None and products.projects_itself

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:
            return None
        self.time += 1
        key = None if args else next((k for k, v in kwargs.items() if is_float(v)), None)
        given = args[0] if args else kwargs.get(key or "")
        call = self.calls.get(module, 0)
        self.calls[module] = call + 1
        if not is_float(given):
            return None
        new = self.read(_Read(self.time, self.names[module], module, call, given))
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if key is None else (args, kwargs | {key: new})

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if threading.get_ident() != self.thread or not is_float(output):
            return None
        if (routed := Routed.of(args, kwargs)) is not None:
            self.mixed(module, routed, output)
        return self.gave(module, output)

    def _attention(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != self.thread or self.inside:
            return function(*args, **kwargs)
        self.inside = True
        try:
            result = function(*args, **kwargs)
        finally:
            self.inside = False
        out = result[0] if isinstance(result, tuple) else result
        if not is_float(out) or out.ndim != 4 or self.alone == _PRODUCTS:
            return result
        self.by_library = True
        key = args[2] if len(args) > 2 else kwargs.get("key")
        # Windows of an image stand beside the rows that they are of.
        whole = out.shape[0] % self.n_rows == 0
        new = self.attended(out.reshape(self.n_rows, -1, *out.shape[2:]) if whole else out, key)
        if new is None:
            return result
        new = new.reshape(out.shape)
        return (new, *result[1:]) if isinstance(result, tuple) else new

    def product(self, out: Tensor, key: Tensor | None, heads_at: int) -> Tensor:
        """What weights times values gave, ``[row ... head pos d_head]``, or with rows and heads as
        one axis."""
        self.by_library = False
        turned = heads_last(out, self.n_rows, heads_at)
        if turned is None:
            return out
        new = self.attended(turned, key if out.ndim < 5 else None)
        return out if new is None else heads_back(new, out, heads_at)

    def _is_off(self) -> bool:
        """Whether what runs now is within an attention function, or of another thread."""
        return self.inside or threading.get_ident() != self.thread

    def read(self, one: _Read) -> Tensor | None:
        raise NotImplementedError

    def gave(self, module: nn.Module, output: Tensor) -> Tensor | None:
        raise NotImplementedError

    def attended(self, out: Tensor, key: Tensor | None) -> Tensor | None:
        return None

    def mixed(self, module: nn.Module, routed: Routed, output: Tensor) -> None:
        """A mixture of experts ran."""


class _Look(_Watching):
    """The first pass."""

    n_rows = 2

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.attention: list[_Attention] = []
        self.reads: list[_Read] = []
        self.is_steady = True  # both rows, which are equal, give the same: it draws nothing
        self._last: dict[nn.Module, _Read] = {}
        self.experts: list[Place] = []
        self.no_experts: list[str] = []

    def read(self, one: _Read) -> None:
        self.reads.append(one)
        if one.given.ndim > 2 and len(one.given) == self.n_rows:
            self.is_steady &= not _differs(one.given.flatten(1, -2), _LEAK).any()
        self._last[one.module] = one

    def gave(self, module: nn.Module, output: Tensor) -> None:
        if module in self._last:
            self._last[module].made = output

    def attended(self, out: Tensor, key: Tensor | None) -> None:
        n_keys = out.shape[1] if key is None or key.ndim < 3 else key.shape[-2]
        is_across = n_keys * (1 if key is None else len(key)) != out.shape[1] * len(out)
        one = _Attention(self.time + 0.5, out, _kv_groups(key), self.by_library, is_across)
        self.attention.append(one)

    def mixed(self, module: nn.Module, routed: Routed, output: Tensor) -> None:
        name, n_experts = self.names[module], n_experts_of(module)
        if not n_experts:
            return
        threads, self.thread = self.thread, -1  # what it runs within is no part of the pass
        try:
            why = why_no_mixture(module, routed, output)
        finally:
            self.thread = threads
        if why:
            self.no_experts.append(f"{name} {why}")
            return
        how = "its output is the sum of parts, one for each weight of the router"
        call, width = self.calls[module] - 1, output.shape[-1]
        self.experts.append(Place(name, call, self.time, n_experts, width, how))


@dataclass
class _Mlp:
    """A down projection to be proven, the projections before it, a module right before it that
    it reads nothing but (a norm of all neurons), and modules around it that read what it reads,
    itself the first."""

    down: _Read
    ups: list[_Read]
    norm: _Read | None
    around: list[_Read]


@dataclass
class _Plan:
    """What the second pass asks."""

    attention: list[_Attention]
    equal: list[list[_Read]]  # of each attention call: what read just that
    mlps: list[_Mlp]
    is_steady: bool

    @property
    def alone(self) -> str:
        """What is attention in this model: functions that are handed out, where there are any."""
        return _HANDED_OUT if self.attention and self.attention[0].handed_out else _PRODUCTS

    @property
    def around_heads(self) -> list[list[_Read]]:
        """Of each attention call the first linear layer that reads just that, and modules around
        it that do."""
        first = (next((r for r in same if is_linear(r.module)), None) for same in self.equal)
        return [
            [] if inner is None else _chain(inner, same)
            for inner, same in zip(first, self.equal, strict=True)
        ]

    @property
    def most_heads(self) -> int:
        return max((one.out.shape[2] for one in self.attention), default=0)

    @staticmethod
    def of(first: _Look) -> "_Plan":
        equal, times = [], [r.time for r in first.reads]
        handed_out = [one for one in first.attention if one.handed_out]
        attention = handed_out or first.attention
        for number, one in enumerate(attention):
            later = attention[number + 1 :]
            until = later[0].time if later else first.time + 1
            flat = one.out.flatten(2)
            reads = first.reads[bisect(times, one.time) : bisect_left(times, until)]
            equal.append([r for r in reads if _same(r.given, flat)])
        return _Plan(attention, equal, _mlps_of(first, attention), first.is_steady)


@dataclass
class _Closed:
    """A place at which rows were set back, so that nothing may show of their noise any more.

    Args:
        number: of the attention call, or MLP.
        given: what the place read, before that.
    """

    number: int
    place: Place
    given: Tensor

    def leaks(self, one: _Read, n_rows: int, n_same: int) -> bool:
        """Whether a later module reads rows that differ: heads or neurons go around the place."""
        if not (is_linear(one.module) or _is_leaf(one.module)):
            return False
        if one.name.startswith(f"{self.place.name}."):
            return False
        if one.given is self.given:
            return True
        if one.given.ndim < 3 or len(one.given) != n_rows:  # tokens of experts, say
            return False
        return bool(_differs(one.given[:n_same].flatten(1, -2), _LEAK).any())


class _Proof(_Watching):
    """A pass that proves places, and sets rows back at each.

    Args:
        what: "heads" or "neurons".
        n_rows, n_same: rows of the pass, and those at its start that are set back to row 0.
        around: which module is taken.
    """

    def __init__(
        self,
        model: nn.Module,
        what: str,
        n_rows: int,
        n_same: int,
        around: _Around,
        alone: str = "",
    ) -> None:
        super().__init__(model, alone)
        self.what, self.n_rows, self.n_same, self.around = what, n_rows, n_same, around
        self.places: dict[int, Place] = {}  # by the number of the attention call, or MLP
        self.failed: dict[int, str] = {}
        self.leaks: set[int] = set()  # of these, what something else reads as well
        self._closed: _Closed | None = None  # the last that was set back

    def _check_closed(self, one: _Read) -> None:
        """Nothing may show of the noise any more: a place must be the only way."""
        closed = self._closed
        if closed is not None and closed.leaks(one, self.n_rows, self.n_same):
            why = f"{one.name} reads {self.what} beside {closed.place.name}"
            self.failed[closed.number] = why
            del self.places[closed.number]
            self.leaks.add(closed.number)
            self._closed = None


class _HeadProof(_Proof):
    """The pass that proves heads: row 0 is the model as it is, row ``1 + h`` has noise on head
    ``h``, and in the last all heads give zero.

    Args:
        left_out: calls of attention that are left as they are.
        around: which module is taken.
    """

    def __init__(
        self, model: nn.Module, plan: _Plan, left_out: Collection[int], around: _Around
    ) -> None:
        n_rows = 2 + plan.most_heads
        super().__init__(model, "heads", n_rows, n_rows, around, plan.alone)
        self.plan, self.left_out = plan, left_out
        self._asked: int | None = None  # the attention call whose projection is looked for
        self._n_asked = 0
        # A norm that reads proven slices, and what it gave.
        self._norm: tuple[_Read, Tensor | None] | None = None

    def attended(self, out: Tensor, key: Tensor | None) -> Tensor | None:
        self._give_up(_NO_LINEAR)
        self._closed = None
        number, self._n_asked = self._n_asked, self._n_asked + 1
        if number >= len(self.plan.attention) or number in self.left_out:
            return None
        self._asked = number
        new = out[:1].expand(out.shape).clone()
        rows = torch.arange(1, out.shape[2] + 1, device=out.device)
        new[rows, :, rows - 1] += _noise(new)[rows, :, rows - 1]
        new[-1] = 0
        return new

    def read(self, one: _Read) -> Tensor | None:
        if self._asked is None:
            self._check_closed(one)
            return None
        taken = self.around.taken(self._asked)
        whole = is_linear(one.module) if taken is None else (one.name, one.call) == taken
        if not (whole or _is_leaf(one.module)):
            return None
        asked = self.plan.attention[self._asked]
        n_heads, d_head = asked.out.shape[2:]
        flat = _rows_of(one.given, self.n_rows, n_heads * d_head)
        if flat is None or not (changed := _differs(flat).any(dim=1)).any():
            return None
        why = self._why_not(flat, changed, n_heads, d_head)
        if not whole:
            self._norm = None if why else (one, None)
            return None
        place = one
        if why and self._norm is not None and self._norm[1] is one.given:
            place, why = self._norm[0], ""
        if why:
            self._give_up(f"{one.name} {why}")
        else:
            same = self.plan.equal[self._asked]
            equal = any((r.name, r.call) == (place.name, place.call) for r in same)
            how = "it reads what the heads gave" if equal else "it reads a slice of each head alone"
            where = (place.name, place.call, place.time)
            proven = Place(*where, n_heads, d_head, how, asked.n_kv, asked.is_across)
            self.places[self._asked] = proven
            if self.plan.is_steady:
                self._closed = _Closed(self._asked, proven, place.given)
            self._asked = self._norm = None
        return _all_as_first(flat, one.given, self.n_rows)

    def gave(self, module: nn.Module, output: Tensor) -> None:
        if self._norm is not None and self._norm[0].module is module:
            self._norm = (self._norm[0], output)

    @staticmethod
    def _why_not(
        flat: Float[Tensor, "row pos width"],
        changed: Bool[Tensor, "row width"],
        n_heads: int,
        d_head: int,
    ) -> str:
        """Why these are not the heads' slices; empty: they are."""
        if flat.shape[2] != n_heads * d_head:
            return f"reads {flat.shape[2]} numbers, where {n_heads} heads of {d_head} are"
        of_head = changed[1 : n_heads + 1].unflatten(1, (n_heads, d_head)).any(dim=2)
        alone = torch.eye(n_heads, dtype=torch.bool, device=of_head.device)
        if not torch.equal(of_head, alone) or changed[n_heads + 1 : -1].any():
            return "reads numbers that depend on several heads"
        if flat[-1].any():
            return "reads more than its heads: it is not zero where all of them are"
        return ""

    def _give_up(self, why: str) -> None:
        if self._asked is not None:
            self.failed[self._asked] = why
            self._asked = self._norm = None

    def end(self) -> None:
        """Raises:
        NotFound: the passes were not alike.
        """
        self._give_up(_NO_LINEAR)
        if self._n_asked != len(self.plan.attention):
            raise NotFound("its passes called attention differently often")


class _NeuronProof(_Proof):
    """The pass that proves neurons: row 0 is the model as it is; some outputs of the projections
    before a down projection have noise in the next rows, each at one position; the last rows are
    other prompts, in which these projections give what they give in row 0.

    Args:
        mlps: to be proven, by number.
        heads: places of heads, which keep their rows apart.
        around: which module is taken.
        is_steady: equal rows stay equal, so that what reads neurons elsewhere can be told.
    """

    def __init__(
        self,
        model: nn.Module,
        mlps: dict[int, _Mlp],
        heads: list[Place],
        around: _Around,
        is_steady: bool = True,
    ) -> None:
        n_same = N_NOISY + 1
        super().__init__(model, "neurons", n_same + N_OTHERS, n_same, around, _NOTHING)
        self.is_steady = is_steady
        self._heads = {(p.name, p.call) for p in heads}
        self._downs = {
            around.taken(number) or (mlp.down.name, mlp.down.call): (number, mlp)
            for number, mlp in mlps.items()
        }
        norms = ((m.norm, m) for m in mlps.values())
        self._norms = {(norm.name, norm.call): m for norm, m in norms if norm is not None}
        self._ups = {(up.name, up.call) for m in mlps.values() for up in m.ups}
        self._at_norm: dict[int, Bool[Tensor, "row pos width"]] = {}

    def gave(self, module: nn.Module, output: Tensor) -> Tensor | None:
        if (self.names[module], self.calls[module] - 1) not in self._ups:
            return None
        flat = _rows_of(output, self.n_rows)
        if flat is None:
            return None
        self._closed = None
        noisy = flat[:1].expand(flat.shape).clone()
        chosen, noise = self._chosen(flat.shape[2], flat.device), _noise(flat)
        for row in range(1, self.n_same):
            at = (row, row % flat.shape[1])
            noisy[at] += noise[at] * chosen[row]
        return noisy.reshape(output.shape)

    def read(self, one: _Read) -> Tensor | None:
        key = (one.name, one.call)
        self._check_closed(one)
        flat = _rows_of(one.given, self.n_rows)
        if flat is None:
            return None
        if (mlp := self._norms.get(key)) is not None:
            self._at_norm[id(mlp)] = _differs(flat)
        if (down := self._downs.get(key)) is not None:
            self._prove(one, _differs(flat), *down)
        elif key not in self._heads:
            return None
        return _all_as_first(flat, one.given, self.n_same)

    def _prove(
        self, one: _Read, changed: Bool[Tensor, "row pos width"], number: int, mlp: _Mlp
    ) -> None:
        place, why = one, self._why_not(changed, mlp)
        before = self._at_norm.get(id(mlp))
        if why and mlp.norm is not None and before is not None:
            place, why = mlp.norm, self._why_not(before, mlp)
        if why:
            self.failed[number] = f"{one.name} {why}"
            return
        ups = " and ".join(dict.fromkeys(_own(up.name) for up in mlp.ups))
        how = f"each number that it reads depends on that of {ups} alone"
        width = changed.shape[2]
        self.places[number] = Place(place.name, place.call, place.time, width, 1, how)
        if self.is_steady:
            self._closed = _Closed(number, self.places[number], one.given)

    def _why_not(self, changed: Bool[Tensor, "row pos width"], mlp: _Mlp) -> str:
        """Why these are not neurons; empty: they are."""
        width = changed.shape[2]
        if changed[self.n_same :].any():
            return "reads more than what the projections before it give"
        rows = torch.arange(1, self.n_same, device=changed.device)
        noisy = changed[1 : self.n_same].clone()
        at = (rows - 1, rows % changed.shape[1])
        here = noisy[at]
        noisy[at] = False
        if noisy.any():
            return "reads numbers that depend on several positions"
        if not here.any():
            return "reads nothing that depends on the projections before it"
        outputs = mlp.ups[0].width
        chosen = self._chosen(outputs, changed.device)[1:]
        times = outputs // width
        halves = chosen.unflatten(1, (times, width)).any(1)
        in_turn = chosen.unflatten(1, (width, times)).any(2)
        if (here & ~halves).any() and (here & ~in_turn).any():
            return "reads numbers that depend on several outputs of the projections before it"
        return ""

    def _chosen(self, width: int, device: Any) -> Bool[Tensor, "row width"]:
        """Which outputs of an up projection get noise in each row."""
        generator = torch.Generator().manual_seed(width)
        drawn = torch.rand(self.n_same, width, generator=generator) < 1 / _SPARSE
        rows = torch.arange(self.n_same)
        drawn[rows, rows % width] = True
        return drawn.to(device)


def _mlps_of(first: _Look, attention: list[_Attention]) -> list[_Mlp]:
    """Linear layers that may be down projections, with the linear layers that may be before them:
    what those give is as wide as what it reads, or twice, and they read what is as wide as what it
    gives."""
    found: list[_Mlp] = []
    attended, times = [one.time for one in attention], [r.time for r in first.reads]
    same: dict[int, list[_Read]] = {}  # reads of one tensor
    for one in first.reads:
        same.setdefault(id(one.given), []).append(one)
    linear = [r for r in first.reads if is_linear(r.module) and r.made is not None]
    wrappers = _wrappers(first.model)
    ran = {r.name: r for r in reversed(first.reads)}
    linear = [r for r in linear if not _is_expert(first.model, r.name, ran)]
    linear = [r for r in linear if not any(name in wrappers for name in _around_it(r.name))]
    for number, down in enumerate(linear):
        if down.made is None:
            continue
        width, d_model = down.given.shape[-1], down.made.shape[-1]
        n_cells = down.given.numel() // width
        ups: list[_Read] = []
        for up in reversed(linear[:number]):
            if up.made is None or not _same_block(up.name, down.name):
                break
            if bisect(attended, up.time) < bisect(attended, down.time):
                break
            if up.given is down.given:  # beside it, not before it
                continue
            fits = up.made.shape[-1] in (width, 2 * width) and up.given.shape[-1] == d_model
            if fits and up.made.numel() // up.made.shape[-1] == n_cells:
                if ups and (_parent(up.name) != _parent(ups[0].name)
                            or up.width != ups[0].width
                            or up.given is not ups[0].given):  # fmt: skip
                    continue
                ups.append(up)
        if ups and width > 1:
            between = first.reads[bisect(times, ups[0].time) : bisect_left(times, down.time)]
            norms = [r for r in between if _is_leaf(r.module) and not is_linear(r.module)]
            norm = next((r for r in reversed(norms) if r.made is down.given), None)
            found.append(_Mlp(down, ups, norm, _chain(down, same[id(down.given)])))
    return found


# -- small facts ----------------------------------------------------------------------------------


def _chain(inner: _Read, same: list[_Read]) -> list[_Read]:
    """A layer, and the modules around it that read the same, from it outwards."""
    around = [r for r in same if inner.name.startswith(f"{r.name}.") and not is_idle(r.module)]
    return [inner, *sorted(around, key=lambda r: -len(r.name))]


def _is_leaf(module: nn.Module) -> bool:
    """A module that does something, and holds no other: a norm before a projection."""
    return not is_idle(module) and not any(True for _ in module.children())


def is_idle(module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout | nn.Identity)


def is_linear(module: nn.Module) -> bool:
    """A linear layer, transformers' Conv1D, or what wraps or quantises one."""
    if isinstance(module, nn.Embedding | nn.LayerNorm):
        return False
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return True
    return type(module).__name__ == "Conv1D" and getattr(module, "weight", None) is not None


def _wrappers(model: nn.Module) -> set[str]:
    """Linear layers that hold one of their own size: an adapter around a projection. What else they
    hold is a part of theirs and no layer of the model."""
    found = set()
    for name, module in model.named_modules():
        if is_linear(module):
            inner = (m for m in module.modules() if m is not module and is_linear(m))
            if any(_size(m) == _size(module) for m in inner):
                found.add(name)
    return found


def _size(linear: nn.Module) -> tuple[int, int]:
    """What it reads and gives."""
    if type(linear).__name__ == "Conv1D":
        return (linear.nx, linear.nf)  # type: ignore[return-value]
    return (linear.in_features, linear.out_features)  # type: ignore[return-value]


def _around_it(name: str) -> Iterator[str]:
    """The names of the modules around a module."""
    while name:
        name = _parent(name)
        yield name


def _is_expert(model: nn.Module, name: str, ran: dict[str, _Read]) -> bool:
    """Whether a module lies in one of several modules of one class that stand in a list or a
    dictionary within a block, and are not the layers of a stage.

    Args:
        ran: the first call of each module.
    """
    parts = name.split(".")
    for at in range(len(block_of(name).split(".")), len(parts)):
        holder = model.get_submodule(".".join(parts[:at]))
        if isinstance(holder, nn.ModuleDict) and block_of(name):
            own = type(holder[parts[at]])
            if sum(type(m) is own and any(True for _ in m.children()) for m in holder.values()) > 1:
                return True
    numbers = [i for i, part in enumerate(parts) if part.isdigit()]
    for at in numbers[1:]:
        stack = ".".join(parts[:at])
        if _counts_alike(holder := model.get_submodule(stack)):
            names = [f"{stack}.{number}" for number, _ in holder.named_children()]
            given = [ran[name].given for name in names if name in ran]
            if not _follow_each_other(given, len(names)):
                return True
    return False


def _follow_each_other(given: list[Tensor], n: int) -> bool:
    """Whether so many modules of a list each run over all rows, and each on other numbers than the
    one before: layers. Experts read some tokens each, or all of them the same."""
    if len(given) < n or any(x.ndim < 3 or len(x) % _Look.n_rows for x in given):
        return False
    return not any(_same(a, b) for a, b in pairwise(given))


def block_of(name: str) -> str:
    """The name up to its first number: what holds a layer."""
    match = re.match(r"(?:.*?\.)?\d+(?=\.|$)", name)
    return match[0] if match else ""


def layer_of(model: nn.Module, name: str) -> str:
    """What holds a layer, also where layers stand in stages: the name up to the last number that
    counts several modules of one class."""
    parts, found = name.split("."), block_of(name)
    for at in range(len(found.split(".")), len(parts) - 1):
        if parts[at].isdigit() and _counts_alike(model.get_submodule(".".join(parts[:at]))):
            found = ".".join(parts[: at + 1])
    return found


def _counts_alike(stack: nn.Module) -> bool:
    """Whether it holds several modules of one class that hold others."""
    inner = [*stack.children()]
    alike = len(inner) > 1 and len({type(m) for m in inner}) == 1
    return alike and any(True for _ in inner[0].children())


def _same_block(one: str, other: str) -> bool:
    """Whether two modules are of one layer, also where a layer's parts stand in several lists."""
    a, b = block_of(one), block_of(other)
    return a.rpartition(".")[2] == b.rpartition(".")[2]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _own(name: str) -> str:
    return name.rpartition(".")[2]


def _same(given: Tensor, flat: Tensor) -> bool:
    if given.numel() != flat.numel() or given.shape[-1] != flat.shape[-1]:
        return False
    return torch.equal(given.reshape(flat.shape).to(flat.device), flat)  # layers on two devices


def _rows_of(x: Tensor, n_rows: int, width: int = 0) -> Float[Tensor, "row pos width"] | None:
    """With rows first, or merged with positions; the width may be two axes (groups of heads)."""
    if x.ndim < 2 or x.shape[0] % n_rows:
        return None
    as_groups = x.ndim > 3 and x.shape[-2] * x.shape[-1] == width
    return x.reshape(n_rows, -1, width if as_groups else x.shape[-1])


def _all_as_first(flat: Float[Tensor, "row pos width"], like: Tensor, n_same: int) -> Tensor:
    """What was read, with the first rows as row 0."""
    new = flat.clone()
    new[:n_same] = flat[0]
    return new.reshape(like.shape)


def _differs(
    x: Float[Tensor, "row pos width"], times: float = 1.0
) -> Bool[Tensor, "row pos width"]:
    """Where a row is another than the first, by more than (so many times) rounding."""
    least = times * max(_LEAST, _ROUNDINGS * torch.finfo(x.dtype).eps)
    return (x - x[:1]).abs() > least * x[:1].abs().amax().clamp(min=1e-20)


def _noise(x: Tensor) -> Tensor:
    """As large as the numbers are, and nowhere near zero."""
    generator = torch.Generator().manual_seed(0)
    sign = torch.randint(0, 2, x.shape, generator=generator).mul(2).sub(1).to(x)
    size = torch.rand(x.shape, generator=generator).to(x) + 0.5
    return sign * size * x.abs().amax().clamp(min=1e-6)


def _kv_groups(key: Tensor | None) -> int | None:
    """How many different heads keys have, ``[row head pos d_head]``: equal neighbours are one."""
    if key is None or key.ndim != 4:
        return None
    n_heads = key.shape[1]
    new = [h == 0 or not torch.equal(key[:, h], key[:, h - 1]) for h in range(n_heads)]
    return sum(new)


# -- attention functions --------------------------------------------------------------------------


@contextmanager
def handed_out(around: Callable[..., Any]) -> Iterator[None]:
    """Every attention function that transformers hands out is called through ``around``."""
    library = sys.modules.get("transformers.modeling_utils")
    interface = getattr(library, "AttentionInterface", None)
    if interface is None:
        yield
        return

    def wrapped(function: Any) -> Any:
        if not callable(function) or is_ours(function):
            return function
        return ours(lambda *args, **kwargs: around(function, *args, **kwargs))

    names = [name for name in ("get_interface", "__getitem__") if name in dir(interface)]
    own = {name: vars(interface).get(name) for name in names}
    was = {name: getattr(interface, name) for name in names}
    for name in names:
        setattr(interface, name, lambda self, *a, _f=was[name], **k: wrapped(_f(self, *a, **k)))
    try:
        yield
    finally:
        for name in names:
            if own[name] is None:
                delattr(interface, name)
            else:
                setattr(interface, name, own[name])


__all__ = [
    "NotFound",
    "Place",
    "Seen",
    "block_of",
    "handed_out",
    "is_idle",
    "is_linear",
    "layer_of",
    "look",
]
