"""Every type of model that the installed transformers has: is it understood, and are values right?

    python -m benchmarks.families                    # some minutes on one core
    python -m benchmarks.families --only causal

Of each type a tiny random model is built (``tiny.py``), and each head and some neurons are ablated,
alone and in pairs, in games with and without replay. Every value is compared with two loops that
ask nothing of the package but names: forward pre-hooks on the named modules, and, of models that
compute attention by transformers' interface, an attention function that gives zero for one head of
one call. Both must agree to 1e-5 of the largest effect. Types that cannot be built are listed with
the reason. Writes ``results/families.json``.
"""

import contextlib
import signal
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import spex_mech as sm
from benchmarks.frame import Options, Row, script
from benchmarks.tiny import CannotBuild, build, types_of

SECONDS = 60  # for one model
TOLERANCE = 1e-5  # of the largest effect
N_PAIRS, N_NEURONS = 12, 24
UNKNOWN = "are not known here"  # how a refusal begins that knows nothing but the name

Lost = tuple[str, int, int]  # kind, layer, number


def prompts_of(vocabulary: int = 99) -> sm.Prompts:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, vocabulary, (3, 7), generator=generator)
    tokens[:, -1] = 2  # the end of a text, where some classifiers read
    return sm.Prompts(tokens)


def read(output: Any, prompts: sm.Prompts) -> Tensor:
    """One number of each row that every output changes."""
    logits = output if isinstance(output, Tensor) else output.logits
    flat = logits.double().flatten(1)
    weights = torch.arange(flat.shape[1], device=flat.device).double().mul(0.7).cos()
    return flat @ weights / flat.shape[1] ** 0.5


class Judge:
    """What the package makes of one model, and whether it is right.

    Args:
        model: any that is called with token ids.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.prompts = model, prompts_of()

    def row(self) -> Row:
        """What is kept of a model: how its heads and its neurons ended. "right", "part" (heads of
        some attention, and it is warned of the rest), "wrong", "refused" (with the reason),
        "unknown" (the reason is the name alone) or "failed" (an error that is none of ours)."""
        found, rows, part = {}, {}, ""
        for kind, make in (("heads", sm.Components.heads), ("neurons", sm.Components.neurons)):
            try:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    units = make(self.model)
                    found[kind] = units if kind == "heads" else units[:: step_of(len(units))]
                said = [str(w.message) for w in told if "times in a pass over" in str(w.message)]
                part = part or "".join(said[:1])[:400]
            except Exception as error:
                rows[kind] = refused(error)
        if not found:
            return rows
        units = found["heads"] + found["neurons"] if len(found) > 1 else next(iter(found.values()))
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
        for kind, own in found.items():
            first = 1 if kind == "heads" else 1 + len(found.get("heads", ()))
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
            if kind == "heads" and right and row.get("missed") and part:
                row |= {"ended": "part", "why": part}
            rows[kind] = row
        return rows

    def by_hooks(self, arch: Any, lost: Sequence[Lost]) -> Tensor:
        """The metric with units set to zero by pre-hooks of our own."""
        handles = []
        for kind, layer, index in lost:
            name = arch.name(kind, layer)
            names = arch.neurons if kind == "neuron" else arch.heads
            call = names[:layer].count(name)
            width = arch.d_head[layer] if kind == "head" else 1
            part = slice(index * width, (index + 1) * width)
            seen = [0]

            def hook(
                module: nn.Module, args: Any, kwargs: Any, part: slice = part,
                seen: list[int] = seen, call: int = call,
            ) -> Any:  # fmt: skip
                seen[0] += 1
                if seen[0] - 1 != call:
                    return None
                key = None if args else next(iter(kwargs))
                given = args[0] if key is None else kwargs[key]
                new = given.clone().flatten(-2) if given.ndim == 4 else given.clone()
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
        try:
            output = self.model(self.prompts.tokens, use_cache=False)
        except TypeError:
            output = self.model(self.prompts.tokens)
        return read(output, self.prompts)


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


class _TooLong(Exception):
    pass


def judged(kind: str, class_name: str) -> Row:
    """One type: how it ended. Never raises."""

    def stop(*_: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    row: Row = {"type": kind, "class": class_name}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = build(kind, class_name)
            judge = Judge(model)
            try:
                judge.value()
            except Exception as error:
                raise CannotBuild(f"does not run: {type(error).__name__}: {error}"[:200]) from error
            return row | judge.row()
    except CannotBuild as error:
        return row | {"not_built": str(error)}
    except _TooLong:
        return row | {"heads": {"ended": "failed", "why": f"took more than {SECONDS} s"}}
    except Exception as error:
        return row | {"heads": {"ended": "failed", "why": f"{type(error).__name__}: {error}"[:400]}}
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def every(task: str, options: Options) -> Iterator[Row]:
    from transformers.utils import logging

    logging.set_verbosity(60)
    types = types_of(task)
    chosen = [*types][::12] if options.quick else [*types]
    for kind in chosen:
        yield judged(kind, types[kind])


def causal(options: Options) -> Iterator[Row]:
    yield from every("CAUSAL_LM", options)


def masked(options: Options) -> Iterator[Row]:
    yield from every("MASKED_LM", options)


def classifiers(options: Options) -> Iterator[Row]:
    yield from every("SEQUENCE_CLASSIFICATION", options)


PARTS = {"causal": (causal, False), "masked": (masked, False), "classifiers": (classifiers, False)}


def counted(out: dict[str, Any]) -> dict[str, dict[str, dict[str, int]]]:
    """How many types of each part ended how."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for part in out["parts"]:
        rows = [row for row in out["rows"] if row["part"] == part]
        built = [row for row in rows if "not_built" not in row]
        found[part] = {"types": {"all": len(rows), "built": len(built)}}
        for kind in ("heads", "neurons"):
            found[part][kind] = dict(Counter(row[kind]["ended"] for row in built if kind in row))
    return found


if __name__ == "__main__":
    script(__doc__, "families", PARTS, counts=counted)
