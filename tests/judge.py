"""Whether the package understands a type of model of transformers, and its values are right.

A tiny random model is built (``tiny.py``), and each head and some neurons are ablated, alone and in
pairs, in games with and without replay. Every value is compared with two loops that ask nothing of
the package but names: forward pre-hooks on the named modules, and, of models that compute attention
by transformers' interface, an attention function that gives zero for one head of one call. Of a
mixture of experts, what one expert alone gives is taken from its output. All must agree to 1e-5 of
the largest effect. ``benchmarks/families.py`` judges every type.
"""

import contextlib
import functools
import operator
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import spex_mech as sm
from spex_mech.engine.architectures import prompts_for, seen_in
from spex_mech.engine.running import first_tensor
from tests.tiny import CannotBuild, build, read_by

SECONDS = 60  # of the processor's time, for one model
TOLERANCE = 1e-5  # of the largest effect
N_PAIRS, N_NEURONS = 12, 24
UNKNOWN = "are not known here"  # how a refusal begins that knows nothing but the name

Lost = tuple[str, int, int]  # kind, layer, number
Row = dict[str, Any]
MAKE = {
    "heads": sm.Components.heads,
    "neurons": sm.Components.neurons,
    "experts": sm.Components.experts,
}


def prompts_of(vocabulary: int = 99) -> sm.Prompts:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, vocabulary, (3, 7), generator=generator)
    tokens[:, -1] = 2  # the end of a text, where some classifiers read
    return sm.Prompts(tokens)


def read(output: Any, prompts: sm.Prompts) -> Tensor:
    """One number of each row that every output changes."""
    if getattr(output, "logits_per_video", None) is not None:  # which a batch is compared in
        return (output.video_embeds * output.text_embeds).sum(-1).double()
    if getattr(output, "logits_per_text", None) is not None:  # of images and texts of a batch
        return output.logits_per_text.diagonal().double()
    named = getattr(output, "logits", None)
    logits = named if isinstance(named, Tensor) else first_tensor(output)
    flat = logits.double().flatten(1)
    weights = torch.arange(flat.shape[1], device=flat.device).double().mul(0.7).cos()
    return flat @ weights / flat.shape[1] ** 0.5


class Judge:
    """What the package makes of one model, and whether it is right.

    Args:
        model: any.
        kinds: what is looked at.
        prompts: what it reads; default: token ids.
        is_given: whether the package is told that, too; else it finds out what the model reads.
    """

    def __init__(
        self,
        model: Any,
        kinds: Sequence[str] = ("heads", "neurons"),
        prompts: sm.Prompts | None = None,
        is_given: bool = False,
    ) -> None:
        self.model, self.kinds, self.is_given = model, kinds, is_given
        self.prompts = prompts_of() if prompts is None else prompts

    def row(self) -> Row:
        """What is kept of a model: how its heads and its neurons ended. "right", "part" (heads of
        some attention, and it is warned of the rest), "wrong", "refused" (with the reason),
        "unknown" (the reason is the name alone) or "failed" (an error that is none of ours)."""
        found, rows, part = {}, {}, ""
        for kind in self.kinds:
            make = MAKE[kind]
            try:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    units = make(self.model, prompts=self.prompts if self.is_given else None)
                    found[kind] = units[:: step_of(len(units))] if kind == "neurons" else units
                said = [str(w.message) for w in told if "times in a pass over" in str(w.message)]
                part = part or "".join(said[:1])[:400]
            except Exception as error:
                rows[kind] = refused(error)
        if not found:
            return rows
        units = functools.reduce(operator.add, found.values())
        masks = masks_of(len(units))
        task, given = sm.Task(self.prompts, read), {"ablation": "zero", "batch_size": 32}
        try:
            games = [
                sm.ModelGame(self.model, task, units, replay=r, **given) for r in (None, False)
            ]
            values = [game(masks).numpy() for game in games]
        except Exception as error:
            return rows | dict.fromkeys(found, refused(error))
        arch = games[0].architecture
        wanted = torch.stack([self.by_hooks(arch, lost_of(units, mask)) for mask in masks]).numpy()
        passes = games[0]._current.derived.passes[:200]
        stop = 1
        for kind, own in found.items():
            first, stop = stop, stop + len(own)
            singles = slice(first, first + len(own))
            effect = abs(wanted[singles] - wanted[0]).max()
            both = [*range(first, first + len(own)), *range(1 + len(units), len(masks))]
            off = max(float(abs(v[both] - wanted[both]).max() / max(effect, 1e-30)) for v in values)
            row = {"units": len(own), "layers": len({u.layer for u in own}), "off": off,
                   "passes": passes}  # fmt: skip
            if kind == "heads":
                row |= self.by_attention(arch, own, wanted)
            right = max(off, row.get("off_attention") or 0.0) <= TOLERANCE and effect > 1e-6
            row["ended"] = "right" if right and not row.get("missed") else "wrong"
            if kind == "experts" and not effect and not abs(wanted[both] - wanted[0]).max():
                row |= {"ended": "unused", "why": "the router chose none of them on these prompts"}
            if kind == "heads" and right and row.get("missed") and part:
                row |= {"ended": "part", "why": part}
            rows[kind] = row
        return rows

    def by_hooks(self, arch: Any, lost: Sequence[Lost]) -> Tensor:
        """The metric with units set to zero by pre-hooks of our own."""
        handles = []
        for kind, layer, index in lost:
            name = arch.name(kind, layer)
            if kind == "expert":
                mixture = self.model.get_submodule(name)
                handles.append(mixture.register_forward_hook(without(index), with_kwargs=True))
                continue
            names = arch.neurons if kind == "neuron" else arch.heads
            call = names[:layer].count(name)
            width = arch.d_head[layer] if kind == "head" else 1
            part = slice(index * width, (index + 1) * width)
            total = width * arch.count(kind, layer)
            seen = [0]

            def hook(
                module: nn.Module, args: Any, kwargs: Any, part: slice = part,
                seen: list[int] = seen, call: int = call, total: int = total,
            ) -> Any:  # fmt: skip
                seen[0] += 1
                if seen[0] - 1 != call:
                    return None
                key = None if args else next(iter(kwargs))
                given = args[0] if key is None else kwargs[key]
                # Heads may stand on an axis of their own, and an image's rows and columns on two.
                new = given.clone() if given.shape[-1] == total else given.clone().flatten(-2)
                new[..., part] = 0
                new = new.view(given.shape)
                return ((new, *args[1:]), kwargs) if key is None else (args, kwargs | {key: new})

            module = self.model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        try:
            return self.value()
        finally:
            for handle in handles:
                handle.remove()

    def by_attention(self, arch: Any, units: Any, wanted: Any) -> Row:
        """Single heads set to zero within the attention function, where there is one."""
        layers = [layer for layer in range(arch.n_layers) if arch.has("head", layer)]
        with zeroing(self.model) as zero:
            if zero is None:
                return {}
            try:
                intact = self.value()
            except Exception as error:
                return {"no_attention_function": f"{type(error).__name__}: {error}"[:200]}
            n_calls = zero["calls"]
            if not n_calls:
                return {}
            if n_calls != len(layers):
                return {"calls": n_calls, "missed": n_calls - len(layers)}
            effect = abs(wanted - wanted[0]).max()
            off = abs(intact.numpy() - wanted[0]).max() / effect
            for row, unit in enumerate(units, start=1):
                zero["at"] = (layers.index(unit.layer), unit.index)
                off = max(off, abs(self.value().numpy() - wanted[row]).max() / effect)
            return {"calls": n_calls, "off_attention": float(off)}

    @torch.no_grad()
    def value(self) -> Tensor:
        """The metric of one pass as it is."""
        prompts = self.prompts
        if prompts.inputs:
            given = {"input_ids": prompts.tokens} if prompts.has_tokens else {}
            return read(self.model(**given, **prompts.inputs), prompts)
        try:
            output = self.model(prompts.tokens, use_cache=False)
        except TypeError:
            output = self.model(prompts.tokens)
        return read(output, prompts)


def without(expert: int) -> Callable[..., Tensor]:
    """A hook on a mixture: what it gives, without what one expert alone gives of it."""

    def hook(module: nn.Module, args: Any, kwargs: Any, made: Tensor) -> Tensor:
        hidden, chosen, weights = [*args, *kwargs.values()][:3]
        return made - module.forward(hidden, chosen, weights * (chosen == expert))

    return hook


@contextlib.contextmanager
def zeroing(model: Any) -> Iterator[dict[str, Any] | None]:
    """The model's attention function gives zero for one head of one call: ``state["at"]``."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if not hasattr(model, "set_attn_implementation"):
        yield None
        return
    before = model.config._attn_implementation
    state: dict[str, Any] = {"calls": 0, "at": None}

    def function(module: nn.Module, *tensors: Any, **options: Any) -> Any:
        eager = getattr(__import__("sys").modules[type(module).__module__],
                        "eager_attention_forward", None)  # fmt: skip
        run = sdpa_attention_forward if before == "sdpa" else eager
        out, weights = run(module, *tensors, **options)
        call, state["calls"] = state["calls"], state["calls"] + 1
        if state["at"] is not None and state["at"][0] == call:
            out = out.clone()
            out[..., state["at"][1], :] = 0
        return out, weights

    def reset(*_: Any) -> None:
        state["calls"] = 0

    AttentionInterface.register("families_zeroing", function)
    AttentionMaskInterface.register(
        "families_zeroing", sdpa_mask if before == "sdpa" else eager_mask
    )
    handle = model.register_forward_pre_hook(reset)
    try:
        model.set_attn_implementation("families_zeroing")
        yield state
    except (ValueError, AttributeError, KeyError) as error:
        print(f"attention function: {error}"[:120])
        yield None
    finally:
        handle.remove()
        with contextlib.suppress(Exception):
            model.set_attn_implementation(before)
        ALL_ATTENTION_FUNCTIONS._global_mapping.pop("families_zeroing", None)


def refused(error: Exception) -> Row:
    """How an error is kept."""
    ours = isinstance(error, ValueError | RuntimeError)
    ended = "failed" if not ours else "unknown" if UNKNOWN in str(error) else "refused"
    return {"ended": ended, "why": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]}


def step_of(n_neurons: int) -> int:
    """Every so many of them are looked at."""
    return max(1, n_neurons // N_NEURONS)


def masks_of(n_units: int) -> Tensor:
    """Intact, each unit alone, some pairs, half of all."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.ones(2 + n_units + N_PAIRS, n_units, dtype=torch.bool)
    masks[1 : 1 + n_units] = ~torch.eye(n_units, dtype=torch.bool)
    for row in range(1 + n_units, len(masks) - 1):
        masks[row, torch.randperm(n_units, generator=generator)[:2]] = False
    masks[-1] = torch.rand(n_units, generator=generator) > 0.5
    return masks


def lost_of(units: Any, mask: Tensor) -> list[Lost]:
    return [(u.kind, u.layer, u.index) for u, kept in zip(units, mask, strict=True) if not kept]


class _TooLong(BaseException):
    """No error of a model: nothing that catches these may catch it."""


def judged(
    kind: str,
    class_name: str,
    kinds: Sequence[str] = ("heads", "neurons"),
    reads_tokens: bool = True,
) -> Row:
    """One type: how it ended. Never raises.

    Args:
        reads_tokens: else what it was found to run on.
    """

    def stop(*_: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    row: Row = {"type": kind, "class": class_name}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = build(kind, class_name, reads_tokens=reads_tokens)
            given = None if reads_tokens else read_by(class_name)
            prompts = None if reads_tokens else in_double(model, given)
            judge = Judge(model, kinds, prompts, is_given=given is not None)
            try:
                first, again = judge.value(), judge.value()
            except Exception as error:
                raise CannotBuild(f"does not run: {type(error).__name__}: {error}"[:200]) from error
            if not first.isfinite().all():
                raise CannotBuild("gives no finite numbers")
            if not torch.allclose(first, again):  # as where it masks what it reads by chance
                raise CannotBuild("gives another output each time")
            return row | judge.row()
    except CannotBuild as error:
        return row | {"not_built": str(error)}
    except _TooLong:
        return row | {"not_built": f"took more than {SECONDS} s"}
    except Exception as error:
        return row | {"heads": {"ended": "failed", "why": f"{type(error).__name__}: {error}"[:400]}}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def in_double(model: Any, given: tuple[Tensor | None, dict[str, Tensor]] | None) -> sm.Prompts:
    """What a model was found to run on; it is in float64 from now on, where it runs in that.

    Args:
        given: what it reads, where that cannot be guessed.

    Raises:
        CannotBuild: it was found to run on nothing that was tried.
    """
    prompts = None if given is None else sm.Prompts(given[0], inputs=given[1])
    try:
        seen_in(model, prompts)
    except ValueError as error:
        raise CannotBuild(str(error).split(", which is how")[0]) from error
    prompts = prompts or prompts_for(model, 3)
    for dtype in (torch.float64, torch.float32):
        prompts = prompts.as_read("cpu", dtype)
        with contextlib.suppress(Exception):
            Judge(model.to(dtype), (), prompts).value()
            break
    return prompts
