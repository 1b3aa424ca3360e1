"""Ablations: what replaces an activation, as one reference tensor per hook point.

Every reference has the shape ``[prompt pos width]`` with 1 where it does not vary, so that the hook
is one formula for all (``blend``): ``where(keep, act, reference)``, with gates between.

- ``zero``: zeros. Its effects depend on how the weights were processed (folded biases).
- ``mean`` (default): the mean over the real tokens of the task's prompts or of a reference set.
- ``mean_per_position``: the mean over prompts, position by position.
- ``resample``: the activation of the same position in the prompt's corrupted version.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spex_mech.arguments import plain_tensor, shown
from spex_mech.engine.device import at_least_float32, widest
from spex_mech.engine.experts import Replaced
from spex_mech.engine.passes import Hook
from spex_mech.engine.prompts import Prompts
from spex_mech.notices import warn

_FEW_AT = 4  # prompts that reach a position, below which each is a large part of their mean
ABLATIONS: tuple[str, ...] = ("zero", "mean", "mean_per_position", "resample")

# By the number of the site in the game: [row pos width] and [prompt_or_1 pos_or_1 width], of which
# the width may differ from site to site.
Activations = Mapping[int, Tensor]
References = list[Tensor]
Real = Bool[Tensor, "row pos"]
# Which positions are real: of the tokens, or of each site's own.
Batches = Iterable[tuple[Activations, Real | Mapping[int, Real]]]


def check_asked(
    ablation: str | Mapping[str, Tensor], prompts: Prompts, reference: Prompts | None
) -> None:
    """What can be said of an ablation before a model runs.

    Raises:
        ValueError: there is no such ablation, the prompts lack what it needs, ``reference`` is
            given where nothing reads it, or the ablation can change nothing.

    Warns:
        UserWarning: few prompts reach a position at which a mean is taken.
    """
    if not isinstance(ablation, str | Mapping):
        raise ValueError(
            f"ablation is {shown(ablation)}; it must be one of {', '.join(ABLATIONS)}, or a dict "
            "that gives a tensor for each of the game's hook_points"
        )
    if reference is not None and not isinstance(reference, Prompts):
        raise ValueError(
            f"reference is {shown(reference)}; it must be Prompts, such as Prompts(tokens), over "
            "which the mean is taken"
        )
    if isinstance(ablation, str) and ablation not in ABLATIONS:
        raise ValueError(
            f"unknown ablation {ablation!r}; choose one of {', '.join(ABLATIONS)}, or give a "
            "tensor per hook point"
        )
    word = ablation if isinstance(ablation, str) else "given tensors"
    if reference is not None and word not in ("mean", "mean_per_position"):
        raise ValueError(
            f"reference= gives the prompts of a mean, and the ablation is {word}; leave it out, or "
            "use ablation='mean'"
        )
    if word == "resample" and prompts.corrupted is None:
        raise ValueError(
            "resample ablation takes activations from corrupted prompts, and these have "
            "none; give Prompts(corrupted=...) or use ablation='mean'"
        )
    source = prompts if reference is None else reference
    n_pos = prompts.tokens.shape[1]
    if word.startswith("mean"):
        _check_inputs(word, prompts, source)
    if word == "mean_per_position" and source.tokens.shape[1] < n_pos:
        raise ValueError(
            f"the reference prompts have {source.tokens.shape[1]} positions, the task's "
            f"{n_pos}; a mean per position needs at least as many"
        )
    if word == "mean_per_position":
        _check_reach(prompts, reference)
    if word != "mean" and (why := changes_nothing(word, prompts, reference)):
        raise ValueError(why)


def _check_inputs(word: str, prompts: Prompts, source: Prompts) -> None:
    """Raises:
    ValueError: other inputs hold padding, or differ in shape where a mean is by position.
    """
    for name, value in source.inputs.items():
        if name.endswith("mask") and name != "decoder_attention_mask" and not value.bool().all():
            raise ValueError(
                f"{name} marks padding, and of what the model reads by keyword it is not known "
                f"which activations are padding, so that a {word} cannot leave them out; give rows "
                "of one length, or another ablation"
            )
        fits = name in prompts.inputs and value.shape[1:] == prompts.inputs[name].shape[1:]
        if word == "mean_per_position" and not fits:
            raise ValueError(
                f"the reference prompts have {name} of shape {list(value.shape[1:])}, unlike the "
                "task's; a mean per position needs the same shape"
            )


def _check_reach(prompts: Prompts, reference: Prompts | None) -> None:
    """Whether enough prompts reach each position for a mean there to be one.

    Raises:
        ValueError: a prompt is longer than all of the reference, whose mean would be 0 behind them.

    Warns:
        UserWarning: few of the task's prompts reach a position, so that a prompt is compared with
            itself there.
    """
    source = prompts if reference is None else reference
    pairs = ((prompts.real, source.real), (prompts.decoded_real, source.decoded_real))
    for asked, given in pairs:
        longest, known = (int(real.sum(dim=1).max()) for real in (asked, given))
        if longest > known:
            raise ValueError(
                f"the longest of the reference prompts has {known} tokens without padding, and the "
                f"longest of the task's {longest}, so that there is no mean at the last of these; "
                "give reference prompts that are as long"
            )
    if reference is not None:
        return
    first = prompts.same_as == torch.arange(len(prompts), device=prompts.tokens.device)
    n_different = int(first.sum())
    for real, _ in pairs:
        reached = real[first].sum(dim=0)
        few = (0 < reached) & (reached < min(_FEW_AT, n_different))
        if few.any():
            warn(
                f"mean_per_position takes the mean of the prompts that reach a position, and at "
                f"{int(few.sum())} of {int((reached > 0).sum())} positions these are fewer than "
                f"{min(_FEW_AT, n_different)} of {n_different}, down to {int(reached[few].min())}: "
                "there a prompt is mostly, or quite, its own mean, and ablating changes too little "
                "or nothing, also where its answer is read; give prompts of one length, "
                "reference=Prompts(...), or ablation='mean'"
            )
            return


def changes_nothing(word: str, prompts: Prompts, reference: Prompts | None) -> str:
    """Why what replaces every activation is that activation; empty: it is not."""
    if word == "resample" and prompts.corrupted is not None:
        same = ((prompts.corrupted == prompts.tokens) | ~prompts.real).all(dim=1)
        others = prompts.corrupted_inputs.items()
        if same.all() and all(torch.equal(x, prompts.inputs[name]) for name, x in others):
            return (
                "resample ablation changes nothing: the corrupted prompts are the prompts "
                "themselves; corrupt them, or use ablation='mean'"
            )
        return ""
    if reference is not None or word not in ("mean", "mean_per_position"):
        return ""
    one_pos = prompts.tokens.shape[1] == 1 and not prompts.inputs
    if (word == "mean_per_position" or one_pos) and prompts.are_equal:
        what = "one prompt" if len(prompts) == 1 else f"{len(prompts)} equal prompts"
        short = "" if word == "mean_per_position" else " of one token"
        return (
            f"{word} ablation changes nothing on {what}{short}: the mean of an activation is that "
            "activation; give different prompts, reference=Prompts(...) or another ablation"
        )
    return ""


def make(
    ablation: str | Mapping[str, Tensor],
    activations: Callable[[Prompts], Batches],
    prompts: Prompts,
    reference: Prompts | None,
    names: list[str],
) -> References:
    """The references of an ablation that :func:`check_asked` has passed, one per site.

    Args:
        ablation: its name, or a tensor for each hook point.
        activations: of given prompts, batch by batch.
        reference: prompts for the means; default: ``prompts``, the task's own.
        names: of the hook points.

    Raises:
        ValueError: tensors that do not fit.
    """
    source = prompts if reference is None else reference
    if not isinstance(ablation, str):
        seen = next(iter(activations(prompts[:1])))[0]
        return given(ablation, names, seen, len(prompts))
    if ablation == "zero":
        return zero(activations(source[:1]))
    if ablation == "mean":
        return mean(activations(source))
    if ablation == "mean_per_position":
        n_pos = prompts.tokens.shape[1]
        means = mean(activations(source), per_position=True)
        cut = source.tokens.shape[1] > n_pos  # activations that follow the tokens' positions
        return [m[:, :n_pos] if cut and m.shape[1] == source.tokens.shape[1] else m for m in means]
    assert prompts.corrupted is not None
    inputs = {**prompts.inputs, **prompts.corrupted_inputs}
    other = prompts.replaced(tokens=prompts.corrupted, corrupted=None, inputs=inputs)
    return resample(activations(other))


def zero(batches: Batches) -> References:
    """Zeros, in the width of what the model was seen to compute."""
    activations, _ = next(iter(batches))
    return [torch.zeros_like(act[:1, :1]) for act in _in_order(activations)]


def mean(batches: Batches, per_position: bool = False) -> References:
    """Means over the real tokens of all rows; per position, positions that no prompt reaches
    get 0 (nothing reads them). In the activations' type, in float32 at least."""
    sums: dict[int, Tensor] = {}
    counts: dict[int, Tensor] = {}
    like: dict[int, Tensor] = {}
    for activations, real in batches:
        for index, act in activations.items():
            here = real[index] if isinstance(real, Mapping) else real
            read = real_positions(act, here).to(act.device)
            # In double: a mean over 1e6 tokens in float32 would itself be noise.
            wide = widest(act.device)
            kept = act.masked_fill(~read[:, :, None], 0)
            total = kept.to(wide).sum(0).cpu().double()
            number = read.sum(0).cpu().double()
            sums[index] = sums[index] + total if index in sums else total
            counts[index] = counts[index] + number if index in counts else number
            like[index] = at_least_float32(act[:1, :1])
    found = []
    for index in sorted(sums):
        total, number = sums[index], counts[index][:, None]
        if not per_position:
            total, number = total.sum(0, keepdim=True), number.sum(0, keepdim=True)
        found.append((total / number.clamp(min=1)).to(like[index])[None])
    return found


def real_positions(
    act: Float[Tensor, "row pos width"], real: Bool[Tensor, "row token"]
) -> Bool[Tensor, "row pos"]:
    """Which positions of an activation are of real tokens: all, where positions are no tokens.

    Raises:
        ValueError: there is padding, and it cannot be told where.
    """
    if act.shape[1] == real.shape[1]:
        return real
    if not real.all():
        raise ValueError(
            f"the activations have {act.shape[1]} positions and the prompts {real.shape[1]} "
            "tokens, so that a mean cannot leave padding out; give prompts of one length, or "
            "another ablation"
        )
    return real.new_ones(act.shape[:2])


def resample(batches: Batches) -> References:
    """The activations themselves, row by row: run it on the corrupted prompts."""
    kept: dict[int, list[Tensor]] = {}
    for activations, _ in batches:
        for index, act in activations.items():
            kept.setdefault(index, []).append(act.clone())
    return [torch.cat(acts) for acts in _in_order(kept)]


def given(
    tensors: Mapping[str, Any], names: list[str], seen: Activations, n_prompts: int
) -> References:
    """The user's own tensors, one per hook point's name, broadcast to ``[prompt pos width]``;
    copies, so that changing them later changes nothing.

    Raises:
        ValueError: a hook point has no tensor, a name is no hook point, a tensor holds nan, or a
            shape does not fit.
    """
    if unknown := sorted(set(tensors) - set(names)):
        raise ValueError(
            f"reference for an unknown hook point {unknown[0]!r}; this game's are "
            f"{', '.join(names)}"
        )
    references: References = []
    for index, name in enumerate(names):
        if name not in tensors:
            raise ValueError(f"no reference tensor for {name!r}; give one for every hook point")
        act = seen[index]
        shape = (n_prompts, *act.shape[1:])
        own = plain_tensor(name, torch.as_tensor(tensors[name])).detach()
        value = own.to(at_least_float32(act), copy=True)
        value = value.reshape((1,) * (3 - value.ndim) + tuple(value.shape))
        fits = value.ndim == 3 and all(v in (1, s) for v, s in zip(value.shape, shape, strict=True))
        if not fits:
            raise ValueError(
                f"the reference for {name!r} has shape {tuple(tensors[name].shape)}; it must "
                f"broadcast to [prompt pos width] = {list(shape)}"
            )
        if value.isnan().any():
            raise ValueError(f"the reference for {name!r} holds nan; give numbers everywhere")
        references.append(value.expand(-1, -1, shape[2]))
    return references


def _in_order(values: Mapping[int, Any]) -> list[Any]:
    return [values[index] for index in sorted(values)]


def blend(
    act: Float[Tensor, "row pos width"],
    gate: Bool[Tensor, "row slot"] | Float[Tensor, "row slot"],
    reference: Float[Tensor, "row_or_1 pos_or_1 width"],
    exact: bool = False,
) -> Float[Tensor, "row pos width"]:
    """``gate * act + (1 - gate) * reference``, slot by slot.

    One fused product: choosing with ``where`` takes two to four times as long on a CPU. But 0
    times infinity is no number, so that is done where values may be infinite: in float16, and
    where ``exact`` says so.
    """
    ref = reference.to(act)
    kept = gate.to(act.device).repeat_interleave(act.shape[-1] // gate.shape[1], dim=1)[:, None, :]
    if gate.dtype == torch.bool and (exact or act.dtype == torch.float16):
        return torch.where(kept, act, ref)
    kept = kept.to(act.dtype)
    return torch.addcmul(ref * (1 - kept), act, kept)


def replacing(
    gate: Bool[Tensor, "row slot"] | Float[Tensor, "row slot"],
    reference: Float[Tensor, "prompt_or_1 pos_or_1 width"],
    prompt_of: Int[Tensor, " row"],
    exact: bool = False,
    kind: str = "head",
) -> Hook:
    """A hook that blends, with the reference of each row's prompt.

    Args:
        kind: of the site's units.
    """

    def of_rows() -> Float[Tensor, "row_or_1 pos_or_1 width"]:
        return reference if len(reference) == 1 else reference[prompt_of.to(reference.device)]

    if kind == "expert":
        return Replaced(gate if gate.is_floating_point() else gate.to(reference), of_rows())

    def replace(act: Float[Tensor, "row pos width"]) -> Float[Tensor, "row pos width"]:
        return blend(act, gate, of_rows(), exact)

    return replace
