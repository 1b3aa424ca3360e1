"""Ablations: what replaces an activation, as one reference tensor per hook point.

Every reference has the shape ``[prompt pos width]`` with 1 where it does not vary, so that the hook
is one formula for all: ``where(keep, act, reference)``.

- ``zero``: zeros. Its effects depend on how the weights were processed (folded biases).
- ``mean`` (default): the mean over the real tokens of the task's prompts or of a reference set.
- ``mean_per_position``: the mean over prompts, position by position.
- ``resample``: the activation of the same position in the prompt's corrupted version.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spex_mech.engine.components import Site
from spex_mech.engine.prompts import Prompts

ABLATIONS: tuple[str, ...] = ("zero", "mean", "mean_per_position", "resample")

Key = tuple[str, int]  # kind and layer: what tells one hook point from another
Activations = dict[Key, Float[Tensor, "row pos width"]]
References = dict[Key, Float[Tensor, "prompt_or_1 pos_or_1 width"]]
Batches = Iterable[tuple[Activations, Bool[Tensor, "row pos"]]]


def key_of(site: Site) -> Key:
    return site.kind, site.layer


def make(
    ablation: str | Mapping[str, Tensor],
    activations: Callable[[Prompts], Batches],
    prompts: Prompts,
    reference: Prompts | None,
    names: Mapping[Key, str],
) -> References:
    """The references of an ablation.

    Args:
        ablation: its name, or a tensor a hook point.
        activations: of given prompts, batch by batch.
        reference: prompts for the means; default: ``prompts``, the task's own.
        names: of the hook points.

    Raises:
        ValueError: there is no such ablation, or the prompts lack what it needs.
    """
    source = prompts if reference is None else reference
    if not isinstance(ablation, str):
        seen = next(iter(activations(prompts[:1])))[0]
        return given(ablation, names, seen, len(prompts))
    if ablation == "zero":
        return zero(activations(source[:1]))
    if ablation == "mean":
        return mean(activations(source))
    n_pos = prompts.tokens.shape[1]
    if ablation == "mean_per_position":
        if source.tokens.shape[1] < n_pos:
            raise ValueError(
                f"the reference prompts have {source.tokens.shape[1]} positions, the task's "
                f"{n_pos}; a mean per position needs at least as many"
            )
        means = mean(activations(source), per_position=True)
        return {key: m[:, :n_pos] for key, m in means.items()}
    if ablation == "resample":
        if prompts.corrupted is None:
            raise ValueError(
                "resample ablation takes activations from corrupted prompts, and these have "
                "none; give Prompts(corrupted=...) or use ablation='mean'"
            )
        return resample(activations(Prompts(prompts.corrupted, prompts.attention_mask)))
    raise ValueError(
        f"unknown ablation {ablation!r}; choose one of {', '.join(ABLATIONS)}, or give a "
        "tensor per hook point"
    )


def zero(batches: Batches) -> References:
    """Zeros, in the width of what the model was seen to compute."""
    activations, _ = next(iter(batches))
    return {key: torch.zeros_like(act[:1, :1]) for key, act in activations.items()}


def mean(batches: Batches, per_position: bool = False) -> References:
    """Means over the real tokens of all rows; per position, positions that no prompt reaches
    get 0 (nothing reads them)."""
    sums: dict[Key, Tensor] = {}
    counts = torch.zeros(())
    for activations, real in batches:
        counts = counts.to(real.device) + real.double().sum(0)
        for key, act in activations.items():
            # float64: a mean over 1e6 tokens in float32 would itself be noise.
            total = torch.einsum("rpw,rp->pw", act.double(), real.to(act.device).double())
            sums[key] = sums[key] + total if key in sums else total
    if not per_position:
        counts, sums = counts.sum(), {k: s.sum(0, keepdim=True) for k, s in sums.items()}
    seen = counts.clamp(min=1).reshape(-1, 1)
    return {key: (s / seen.to(s.device)).float()[None] for key, s in sums.items()}


def resample(batches: Batches) -> References:
    """The activations themselves, row by row: run it on the corrupted prompts."""
    kept: dict[Key, list[Tensor]] = {}
    for activations, _ in batches:
        for key, act in activations.items():
            kept.setdefault(key, []).append(act)
    return {key: torch.cat(acts) for key, acts in kept.items()}


def given(
    tensors: Mapping[str, Tensor], names: Mapping[Key, str], seen: Activations, n_prompts: int
) -> References:
    """The user's own tensors, one per hook point's name, broadcast to ``[prompt pos width]``.

    Raises:
        ValueError: a hook point has no tensor, a name is no hook point, or a shape does not fit.
    """
    if unknown := sorted(set(tensors) - set(names.values())):
        raise ValueError(
            f"reference for an unknown hook point {unknown[0]!r}; this game's are "
            f"{', '.join(names.values())}"
        )
    references: References = {}
    for key, name in names.items():
        if name not in tensors:
            raise ValueError(f"no reference tensor for {name!r}; give one for every hook point")
        shape = (n_prompts, *seen[key].shape[1:])
        value = tensors[name].to(seen[key])
        value = value.reshape((1,) * (3 - value.ndim) + tuple(value.shape))
        fits = value.ndim == 3 and all(v in (1, s) for v, s in zip(value.shape, shape, strict=True))
        if not fits:
            raise ValueError(
                f"the reference for {name!r} has shape {tuple(tensors[name].shape)}; it must "
                f"broadcast to [prompt pos width] = {list(shape)}"
            )
        references[key] = value.expand(-1, -1, shape[2])
    return references


def mix(
    act: Float[Tensor, "row pos width"],
    gate: Bool[Tensor, "row slot"] | Float[Tensor, "row slot"],
    reference: Float[Tensor, "row_or_1 pos_or_1 width"],
) -> Float[Tensor, "row pos width"]:
    """``gate * act + (1 - gate) * reference``, slot by slot.

    One fused product: choosing with ``where`` takes two to four times as long on a CPU.
    """
    ref = reference.to(act)
    kept = gate.to(act.device, act.dtype)
    kept = kept.repeat_interleave(act.shape[-1] // gate.shape[1], dim=1)[:, None, :]
    return torch.addcmul(ref * (1 - kept), act, kept)


def replacing(
    gate: Bool[Tensor, "row slot"] | Float[Tensor, "row slot"],
    reference: Float[Tensor, "prompt_or_1 pos_or_1 width"],
    of_prompt: Int[Tensor, " row"],
) -> Callable[[Tensor], Tensor]:
    """A hook that mixes, with the reference of each row's prompt."""

    def replace(act: Float[Tensor, "row pos width"]) -> Float[Tensor, "row pos width"]:
        ref = reference if len(reference) == 1 else reference[of_prompt.to(reference.device)]
        return mix(act, gate, ref)

    return replace
