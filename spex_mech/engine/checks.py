"""What an engine must pass: it changes something, and it equals plain passes.

How far rounding moves a value is found out by rounding: plain passes are run again with every
block's input and every activation that is ablated changed by a random part of one rounding of the
type that the model computes in. In half precision that is far more than two runs of the same pass
differ, which round alike.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from spex_mech.engine.architectures import Architecture, is_hooked
from spex_mech.engine.blocks import Blocks, block_name, with_rounded_stream
from spex_mech.engine.called import CannotReplay
from spex_mech.engine.device import MemoryPlan, is_out_of_memory, narrowest
from spex_mech.engine.facts import takes
from spex_mech.engine.metrics import KL, ReadingMetric, logits_of
from spex_mech.engine.passes import Taps, call
from spex_mech.engine.plain import PlainEngine, Setup
from spex_mech.engine.plan import Parts
from spex_mech.engine.prompts import Prompts, without_padding
from spex_mech.engine.readout import Readout
from spex_mech.engine.replay import Replay
from spex_mech.engine.rounding import eps_of_type, off_by
from spex_mech.engine.running import first_tensor, ours, tensors_in, with_tensors
from spex_mech.engine.sites import another_prompt
from spex_mech.masks import MaskBatch
from spex_mech.notices import warn

_COMPARED = 2  # prompts on which a replay is compared with plain passes
_ROUNDINGS = 500  # by which outputs may differ, of their size; not in half precision
_ROUNDINGS_OF_ONE = 16  # by which a metric of logits may differ where all its values are nothing
_OF_DIFFERENCES = 0.01  # by which differences between masks may be off, of their size
# Times the noise of plain passes, by which outputs and, in half precision, differences may be off.
_OF_NOISE = 4
_OF_FULL_NOISE = 50  # the same of differences in full precision, in which both are tiny
# By which a prompt's value may differ beside another: of its size, and in roundings of the output.
_SAME_ALONE, ROUNDINGS_ALONE = 0.01, 30
# By which outputs with and without a cache may differ, of the largest; in half precision.
_CACHED, _CACHED_IN_HALF = 1e-3, 0.05
# Chance of the host, in a type that no default of the user's makes coarser than what it rounds.
_EXACT: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
_EPS = {"float32": 0.0, "tf32": 2**-11, "bfloat16": 2**-8}


def eps_of(setup: Setup) -> float:
    """One rounding, of 1, in the narrowest type that a model computes in."""
    return max(eps_of_type(setup.float_type), _EPS[setup.taps.precision])


def self_test(taps: Taps, prompts: Prompts) -> None:
    """Replacing every head and neuron by noise must change the output: a hook that fires but is
    ignored would make every interaction zero, and no one would know.

    Args:
        taps: all hook points of the model.

    Raises:
        ValueError: nothing changed.
        RuntimeError: a hook did not fire.
    """

    def scramble(act: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(act.shape, generator=generator, **_EXACT).to(act)
        return noise * (1 + act.nan_to_num(posinf=1, neginf=1).abs().max())

    with torch.no_grad(), taps.installed():
        intact = first_tensor(taps.run(prompts))
        changed = first_tensor(taps.run(prompts, dict.fromkeys(range(len(taps.places)), scramble)))
    if torch.equal(intact, changed):
        raise ValueError(
            f"replacing every head and neuron of this {type(taps.model).__name__} changes nothing "
            "in its output: the named modules are not where it computes"
        )


def check_metric(setup: Setup, own: bool, most_rows: int | None) -> bool:
    """Whether a metric reads of each row what is its own.

    Args:
        own: it is a function of the user's. The metrics of this package do.
        most_rows: that one pass may have, where the user says so.

    Returns:
        whether that was seen of two rows.

    Raises:
        ValueError: it does not, and it is the user's, or the model reads more than tokens.

    Warns:
        UserWarning: a model of tokens does not give each row its own.
    """
    alone = most_rows != 1
    if alone:
        try:
            check_rows_alone(setup)
        except RowsDiffer as error:
            if own or setup.prompts.inputs:
                raise
            warn(error.of_model(type(setup.taps.model).__name__))
            alone = False
    if own:
        warn_of_padding_read(setup)
    return alone


def check_rows_alone(setup: Setup) -> None:
    """Raises:
    RowsDiffer: a prompt's value depends on what stands beside it in a batch.
    """
    pair = another_prompt(setup.prompts)
    with torch.no_grad(), setup.taps.installed():
        singles = [setup.measure(setup.taps.run(pair[[row]]), pair[[row]]) for row in (0, 1)]
        output = setup.taps.run(pair)
        both, again = setup.measure(output, pair), setup.measure(output, pair)
    if not torch.equal(
        both.nan_to_num(), again.nan_to_num()
    ):  # it varies by itself, which masks that are asked again show
        return
    eps = torch.finfo(narrowest([setup.float_type, setup.output_type])).eps
    rounding = eps * float(first_tensor(output).abs().max())
    check_same_alone(torch.cat(singles), both, rounding, setup.measure.name)


class RowsDiffer(ValueError):
    """A prompt has another value alone than beside another.

    Args:
        name: of the metric.
        alone, beside: the values.
    """

    def __init__(self, name: str, alone: float, beside: float) -> None:
        self.values = f"{alone:.4g} and {beside:.4g}"
        super().__init__(
            f"the metric {name} has another value for a prompt alone than beside "
            f"another ({self.values}): it, or the model, compares the rows of a "
            "batch, or has something ready in the order of the prompts; read each row's own "
            "(of logits_per_image the diagonal, of a list of yours held[prompts.index]), or, "
            "where the model compares rows, give batch_size=1"
        )

    def of_model(self, name: str) -> str:
        """The same where the metric is known to read each row's own."""
        return (
            f"the {name} gives a prompt another value alone than beside another ({self.values}): "
            "what shares a pass with it changes it, as where a hook takes the mean of a batch, or "
            "layers quantise a batch together; give batch_size=1"
        )


def check_same_alone(
    alone: Float[Tensor, " row"], beside: Float[Tensor, " row"], rounding: float, name: str
) -> None:
    """Raises:
    RowsDiffer: a row has another value alone than beside others.
    """
    # Each of them: a metric may compare all rows with the first.
    for one, other in zip(alone.tolist(), beside.tolist(), strict=True):
        if not (isfinite(one) or isfinite(other)):
            continue  # which is refused elsewhere
        near = max(_SAME_ALONE * abs(one), ROUNDINGS_ALONE * rounding)
        if not abs(one - other) <= near:  # one of them may be NaN, as the spread of one row is
            raise RowsDiffer(name, one, other)


@torch.no_grad()
def warn_of_padding_read(setup: Setup) -> None:
    """Whether the metric of a prompt that is padded depends on what the model says at padding, as
    ``logits[:, -1]`` does.

    Warns:
        UserWarning: it does.
    """
    padded = (~setup.prompts.decoded_real).any(dim=1).nonzero()[:1, 0]
    if not len(padded):
        return
    some = setup.prompts[padded]
    with setup.taps.installed():
        output = setup.taps.run(some)
        before, again = (setup.measure(output, some).clone() for _ in range(2))  # or views
        logits, real = first_tensor(output), some.decoded_real
        odd = logits.shape[:2] != real.shape or logits.ndim < 3 or not logits.is_floating_point()
        if odd or logits.is_inference():  # which cannot be changed
            return
        at = ~real.to(logits.device)
        said, reads = logits[at], False
        others = [1 - 2 * said.flip(-1)]
        for words in (some.answers, some.wrong_answers):  # which a count of right answers looks for
            if words is not None and int(words.max()) < logits.shape[-1]:
                most = float(said.max()) + 1
                others.append(said.index_fill(-1, words[words >= 0].to(said.device), most))
        for other in others:
            logits[at] = other
            reads |= not torch.equal(before, setup.measure(output, some))
        logits[at] = said  # the model may hold what it gave
    if reads and torch.equal(before, again) and before.isfinite().all():
        warn(
            f"the metric {setup.measure.name} reads the output at padding, where a shorter prompt "
            "has ended: its values mean nothing there; read each row at prompts.last, as in "
            "logits[range(len(logits)), prompts.last], or where prompts.attention_mask is True"
        )


@torch.no_grad()
def check_cache(model: Any, prompts: Prompts, rows: int) -> None:
    """Whether a model that keeps keys and values by itself, where a game has it keep none, gives
    the same for it.

    Args:
        rows: how many prompts are run at once.

    Warns:
        UserWarning: it does not.
    """
    if is_hooked(model) or not takes(model, "use_cache"):
        return

    for start in range(0, len(prompts), rows):
        part = prompts[start : start + rows]
        changes = _cache_changes(model, part)
        if changes is None and part.attention_mask is not None and not part.inputs:
            # With a mask of its tokens alone it may not run, where without one it does.
            longest = int(part.real.sum(dim=1).argmax())
            one = without_padding(part[longest : longest + 1]).replaced(attention_mask=None)
            changes = _cache_changes(model, one)
        if changes is None:  # it keeps none that can be had
            return
        if changes:
            warn(
                f"the {type(model).__name__} gives another output where it keeps a cache of keys "
                "and values, as when it is simply called, than without one, as games run it "
                "(use_cache=False): blocks that share a module share its cache, and position_ids "
                "with gaps are several texts without one, unless an attention_mask is given (ones "
                "will do)"
            )
            return


def _cache_changes(model: Any, prompts: Prompts) -> bool | None:
    """Whether the output is another one with a cache; None: with one the model does not run, or
    gives something of another shape."""

    def of(by_default: bool = False) -> Tensor:
        output = first_tensor(call(model, prompts, by_default=by_default))
        real = prompts.decoded_real.to(output.device)
        return output[real] if output.shape[:2] == real.shape else output

    def differ(one: Tensor, other: Tensor) -> bool:
        most = _CACHED if one.dtype.itemsize > 2 else _CACHED_IN_HALF
        return not bool((one - other).abs().max() <= most * one.abs().max())

    without = of()
    try:
        with_one = of(by_default=True)
    except Exception:
        return None
    if without.shape != with_one.shape:
        return None
    return differ(without, with_one) and not differ(without, of())


def check_replay(make: "MakeReplay", plain: PlainEngine, blocks: Blocks, by_position: bool) -> None:
    """Compare a replay with plain passes: the output that it rebuilds, and the metric itself.

    Args:
        make: a replay of some prompts with a readout.
        by_position: the model gives logits position by position.

    Raises:
        CannotReplay: the metric reads more of the output than a replay rebuilds.
        RuntimeError: the replay gives something else.
    """
    setup = plain.setup
    prompts = setup.prompts[:_COMPARED]
    others = not isinstance(setup.metric, ReadingMetric | KL)
    masks = MaskBatch.of_kept(_masks_to_compare(setup.parts).numpy()).ablated

    def numbers_of(output: Any, asked: Prompts) -> Float[Tensor, "row number"]:
        parts = [sketch(first_tensor(output)), setup.measure(output, asked)]
        parts += [_sketch_of_others(output, len(asked))] if others else []
        return torch.stack([part.to(parts[0].device, torch.float32) for part in parts], dim=1)

    def numbers_of_rebuilt(output: Any, asked: Prompts) -> Float[Tensor, "row number"]:
        try:
            return numbers_of(output, asked)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise CannotReplay(
                f"the metric {setup.measure.name} cannot read what is rebuilt of the output: "
                f"{type(error).__name__}: {error}"
            ) from error

    readout = Readout.of(blocks, prompts, setup.metric, numbers_of_rebuilt, by_position)

    def of_plain(output: Any, rows: Int[Tensor, " row"]) -> Float[Tensor, "row number"]:
        whole = numbers_of(output, setup.some_prompts(rows))
        if readout.read_at is not None:
            whole[:, 0] = sketch(readout.narrowed_output(logits_of(output), rows)).to(whole)
        return whole

    got = torch.from_numpy(make(prompts, readout).values(masks))
    want = plain.numbers(masks, of_plain, len(prompts))
    with rounded(setup, eps_of(setup)):
        noisy = plain.numbers(masks, of_plain, len(prompts))
    eps = eps_of(setup)
    numbers = range(got.shape[2])
    off = [_off(got[..., i], want[..., i], noisy[..., i], eps) for i in numbers]
    if off[0]:
        raise RuntimeError(f"its outputs are off by {off[0]}")
    if others and off[2] and not _reads_the_first_alone(setup, blocks):
        raise CannotReplay(
            f"the metric {setup.measure.name} reads more than the first of the model's outputs, "
            "which alone is rebuilt"
        )
    if off[1]:
        raise RuntimeError(f"its metric is off by {off[1]}")


def check_every_prompt(replay: Replay, plain: PlainEngine) -> Replay:
    """The replay, compared on every prompt, intact and with all ablated: what comes after the
    blocks may read some otherwise.

    Raises:
        RuntimeError: the replay gives something else.
    """
    setup = plain.setup
    kept = np.repeat([[True], [False]], setup.n_units, axis=1)
    masks = MaskBatch.of_kept(kept).ablated

    def measured(output: Any, rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        return setup.measure(output, setup.some_prompts(rows))

    got, want = torch.from_numpy(replay.values(masks)), plain.numbers(masks, measured)
    # A metric may be no number somewhere: a call says so. It must be none in both.
    both = got.isfinite() & want.isfinite()
    off = torch.where(both, got - want, 0.0).abs()
    off[got.isfinite() != want.isfinite()] = torch.inf
    size = torch.where(both, want, 0.0).abs().max()
    eps = eps_of(setup)
    allowed = _ROUNDINGS * eps * size
    if (off > allowed).any():  # noise is large beside values that are small differences
        with rounded(setup, eps):
            noise = (plain.numbers(masks, measured) - want).abs().nan_to_num(posinf=0.0)
        allowed = torch.maximum(allowed, _OF_FULL_NOISE * noise.max())
        if isinstance(setup.metric, ReadingMetric):  # in logits or nats, of which sums cancel
            allowed = allowed.clamp(min=_ROUNDINGS_OF_ONE * eps)
    if (off > allowed).any():
        prompt = int(off.max(dim=0).values.argmax())
        raise RuntimeError(
            f"its metric is off on prompt {prompt}, which the model may read otherwise than others"
        )
    return replay


class MakeReplay:
    """Makes replays of one model that share what was found out about it."""

    def __init__(self, blocks: Blocks, setup: Setup, memory: MemoryPlan) -> None:
        self.blocks, self.setup, self.memory = blocks, setup, memory

    def __call__(self, prompts: Prompts, readout: Readout) -> Replay:
        setup = self.setup
        return Replay(
            self.blocks,
            prompts,
            setup.references,
            setup.parts,
            readout,
            rows=setup.rows,
            memory=self.memory,
            tail_rows=readout.rows(self.memory),
            exact=setup.exact,
        )


def _off(got: Tensor, want: Tensor, noisy: Tensor, eps: float) -> str:
    """How far numbers ``[mask prompt]`` are off, the first mask being intact; empty: near enough.

    Judged are the differences between masks, which is what a game is asked for.
    """
    # A metric may be no number somewhere: a call says so. It must be none in both.
    same = (got.isfinite() == want.isfinite()).all()
    got, want, noisy = (x.where(want.isfinite(), 0.0) for x in (got, want, noisy.nan_to_num()))
    if not same:
        return "values that are no numbers"
    half = eps > torch.finfo(torch.float32).eps
    if not half:
        size, most = want.abs().max().item(), (got - want).abs().max().item()
        # A KL is small beside what it is made of: rounding is larger there than it is of its size.
        rounding = max(_ROUNDINGS * eps * size, _OF_NOISE * (noisy - want).abs().max().item())
        if not most <= rounding + 1e-30:
            return f"{most / max(size, 1e-30):.2g} of their size"
    rms = lambda x: x.square().mean().sqrt().item()  # noqa: E731
    change = want[1:] - want[:1]
    error, noise = rms(got[1:] - got[:1] - change), rms(noisy - want)
    allowed = _OF_DIFFERENCES * rms(change) + (_OF_NOISE if half else _OF_FULL_NOISE) * noise
    if error <= allowed + 1e-30:
        return ""
    return f"{error / max(rms(change), 1e-30):.2g} of the differences between masks"


def sketch(output: Float[Tensor, "row ..."]) -> Float[Tensor, " row"]:
    """One number per row that any change of the output changes: a metric to compare passes with."""
    flat = output.flatten(1).float()
    weights = torch.arange(flat.shape[1], dtype=flat.dtype, device=flat.device).mul(0.7).cos()
    return flat @ weights / flat.shape[1] ** 0.5


def _sketch_of_others(output: Any, n_rows: int) -> Float[Tensor, " row"]:
    """Of all tensors in an output but the first."""
    first = first_tensor(output)
    others = [tensor for tensor in tensors_in(output) if tensor is not first]
    total = torch.zeros(n_rows, dtype=torch.float32, device=first.device)
    for number, tensor in enumerate(others, start=1):
        if tensor.ndim and len(tensor) == n_rows and tensor.is_floating_point():
            total = total + sketch(tensor.unsqueeze(1)).to(total) / number
    return total


def _reads_the_first_alone(setup: Setup, blocks: Blocks) -> bool:
    """Whether the metric has the same values where all but the first tensor is no number."""
    prompts = setup.prompts[:_COMPARED]
    with torch.no_grad(), setup.taps.installed():
        output = setup.taps.run(prompts)
        whole = setup.measure(output, prompts)
        for other in (torch.nan, 1e9, -1e9):
            try:
                blank = setup.measure(_blanked(output, other), prompts)
            except Exception:  # whatever the metric makes of it, it read it
                return False
            if not torch.equal(blank, whole):
                return False
    return True


def _blanked(output: Any, number: float) -> Any:
    """The output with a number in place of all floating tensors but the first."""
    first = first_tensor(output)

    def blank(x: Tensor) -> Tensor:
        return torch.full_like(x, number) if x.is_floating_point() and x is not first else x

    return with_tensors(output, blank)


def _masks_to_compare(parts: Parts) -> Bool[Tensor, "mask unit"]:
    """All and nothing, dense ones, singles, and pairs that share a unit of the first layer."""
    generator = torch.Generator().manual_seed(0)
    n_units = parts.n_units
    some = torch.randperm(n_units, generator=generator, device="cpu")[:6]
    masks = torch.ones(5 + 2 * len(some), n_units, dtype=torch.bool, device="cpu")
    masks[1] = False
    masks[2:4] = torch.rand(2, n_units, generator=generator, **_EXACT) > 0.3
    first = int(parts.unit[parts.layer.argmin()])
    masks[4, first] = False
    for row, unit in enumerate(some.tolist(), start=5):
        masks[row, [first, unit]] = False
        masks[row + len(some), unit] = False
    return masks


@contextmanager
def rounded(setup: Setup, eps: float, seed: int = 0) -> Iterator[None]:
    """Passes that we start are off by random parts of a rounding: at the input of each block, where
    blocks are known, and at each activation that may be ablated."""
    taps, generator = setup.taps, torch.Generator().manual_seed(seed)

    round_off, handles = off_by(eps, generator), []
    try:
        for block in _blocks_of(taps.model, setup.architecture):
            hook = ours(with_rounded_stream(round_off, lambda: taps.running is not None))
            handles.append(block.register_forward_pre_hook(hook, with_kwargs=True))
        with taps.changed_by(round_off):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _blocks_of(model: nn.Module, architecture: Architecture) -> list[nn.Module]:
    try:
        names = [block_name(architecture, layer) for layer in range(architecture.n_layers)]
    except CannotReplay:
        return []
    return list(dict.fromkeys(model.get_submodule(name) for name in names))
