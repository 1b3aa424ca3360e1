"""Passes of many rows: each row must be what it is alone, and what it is without its padding."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spex_mech.engine.blocks import Blocks
from spex_mech.engine.called import CannotReplay
from spex_mech.engine.checks import check_metric
from spex_mech.engine.device import in_batches, is_out_of_memory, narrowest
from spex_mech.engine.metrics import KL
from spex_mech.engine.plain import PlainEngine, Setup
from spex_mech.engine.prompts import Prompts, without_padding
from spex_mech.engine.running import first_tensor
from spex_mech.engine.sites import another_prompt
from spex_mech.notices import warn

_MOST_ROWS = 24  # of a pass
_COMPARED, _LEAST_OTHERS = 12, 3  # rows that are run alone, and of these how many must differ
_LEAST_OTHER = 0.1  # of how far values are apart, by which a row differs
# By which a value may differ without its padding: of its size, and in roundings of the output.
_SAME, _ROUNDINGS = 0.01, 30
_KEPT = 0.02  # by which a stream may be off that is made again, of its size


def check_rows(plain: PlainEngine, own_metric: bool, most_rows: int | None) -> None:
    """Whether each row of a pass has a value of its own.

    Args:
        own_metric: the metric is a function of the user's.
        most_rows: that one pass may have, where the user says so.

    Raises:
        ValueError: it has not; what makes it so is named.

    Warns:
        UserWarning: padding counts.
    """
    warn_if_padding_counts(plain.setup, own_metric)
    if check_metric(plain.setup, own_metric, most_rows):
        check_whole_pass(plain)


@torch.no_grad()
def check_whole_pass(plain: PlainEngine) -> None:
    """Whether rows of a pass are what they are alone, with half of all units ablated in each: two
    intact rows do not show it.

    Raises:
        ValueError: several are not.
    """
    setup, n_rows = plain.setup, min(_MOST_ROWS, plain.rows())
    if n_rows < 2:
        return
    prompt_of = torch.arange(n_rows, device="cpu") % len(setup.prompts)
    generator = torch.Generator().manual_seed(0)
    shape = (n_rows, setup.n_units + 1)
    kept = torch.randint(2, shape, generator=generator, dtype=torch.uint8, device="cpu").bool()
    kept[:, -1] = True
    some = torch.linspace(0, n_rows - 1, _COMPARED, device="cpu").round().long().unique()
    with setup.taps.installed():
        whole = _values(setup, kept, prompt_of, n_rows)
        alone, again = (
            torch.cat([_values(setup, kept[[i]], prompt_of[[i]], 1) for i in rows])
            for rows in (some.tolist(), [0])
        )
    if not torch.equal(alone[:1].nan_to_num(), again.nan_to_num()):  # it varies by itself
        return
    beside = whole[some]
    known = whole[whole.isfinite()]
    apart = float(known.max() - known.min()) if len(known) else 0.0
    rounding = torch.finfo(narrowest([setup.float_type, setup.output_type])).eps
    largest = float(known.abs().max()) if len(known) else 0.0
    near = max(_LEAST_OTHER * apart, _ROUNDINGS * rounding * largest)
    differs = ~((alone - beside).abs() <= near) & (alone.isfinite() | beside.isfinite())
    if int(differs.sum()) < _LEAST_OTHERS:
        return
    first = int(differs.nonzero()[0])
    raise ValueError(
        f"the {type(setup.taps.model).__name__} gives rows other values in a pass of {n_rows} rows "
        f"than alone, with the same units ablated ({int(differs.sum())} of {len(some)} rows that "
        f"were compared; one is {beside[first]:.4g}, and alone {alone[first]:.4g}): something in "
        "it puts rows in another order, decides for all rows at once, or is ready for the rows of "
        "one batch, as where a hook has a vector or an adapter for each prompt; make it treat each "
        "row by itself, or give batch_size=1"
    )


def _values(
    setup: Setup, kept: Bool[Tensor, "row unit"], prompt_of: Int[Tensor, " row"], size: int
) -> Float[Tensor, " row"]:
    """The metric of rows, within ``installed``."""
    parts: list[Tensor] = []

    def run(part: slice) -> None:
        rows = prompt_of[part]
        prompts = setup.some_prompts(rows)
        output = setup.taps.run(prompts, setup.hooks(kept[part], rows))
        parts.append(setup.measure(output, prompts).float().cpu())

    used = in_batches(len(kept), size, run)
    if used < size:
        setup.rows.limit = used
    return torch.cat(parts)


@torch.no_grad()
def warn_if_padding_counts(setup: Setup, own_metric: bool) -> None:
    """Whether the shortest prompt has another value with its padding than without it.

    Args:
        own_metric: the metric is a function of the user's, which may depend on the length itself:
            then the model's output is compared, of the prompt's own tokens.

    Warns:
        UserWarning: it has.
    """
    prompts = setup.prompts
    n_real = prompts.real.sum(dim=1)
    row = int(n_real.argmin())
    n_pos = int(n_real[row])
    by_position = isinstance(setup.metric, KL) and setup.metric.intact.ndim > 2
    if n_pos == prompts.tokens.shape[1] or not prompts.has_tokens or by_position:
        return
    padded = prompts[[row]]
    cut = without_padding(padded)

    def told(output: Any, part: Prompts) -> Tensor:
        if not own_metric:
            return setup.measure(output, part).double()
        first = first_tensor(output)
        own = first[:, :n_pos] if first.shape[1:2] == part.tokens.shape[1:] else first
        return own.double().flatten()

    with setup.taps.installed():
        output = setup.taps.run(padded)
        rounding = float(first_tensor(output).abs().max())
        rounding *= torch.finfo(narrowest([setup.float_type, setup.output_type])).eps
        whole = told(output, padded)
        try:
            alone = told(setup.taps.run(cut), cut)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return  # it, or the metric, takes one length alone
    if whole.shape != alone.shape:
        return
    off = (whole - alone).abs()
    near = max(_SAME * float(alone.abs().max()), _ROUNDINGS * rounding)
    if float(off.max()) > near:
        at = int(off.argmax())
        what = "output" if own_metric else "value"
        warn(
            f"prompt {row} has the {what} {whole[at]:.4g} with its padding and {alone[at]:.4g} "
            f"without it: the {type(setup.taps.model).__name__} reads padding, as where its "
            "forward drops the attention_mask, or a hook or a wrapper takes the last position of "
            "all rows ([:, -1]), or it attends otherwise where a pass holds padding; see that it "
            "leaves padding out, or give prompts of one length"
        )


@torch.no_grad()
def check_nothing_kept(blocks: Blocks, prompts: Prompts) -> None:
    """Whether blocks give the same for the same stream, whatever ran before: a hook that reads what
    another one noted of a pass gives something else.

    Raises:
        CannotReplay: one does.
    """
    pair = another_prompt(prompts)
    rows = torch.arange(len(pair), device="cpu")

    def noise(act: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(act.shape, generator=generator, dtype=torch.float32, device="cpu")
        return drawn.to(act) * (1 + act.nan_to_num(posinf=1, neginf=1).abs().max())

    with blocks.installed():
        intact = blocks.intact(pair)
        other = dict.fromkeys(range(len(blocks.sites)), noise)
        blocks.taps.run(pair.replaced(tokens=pair.tokens.flip(0)), other)
        for layer in reversed(range(len(blocks.layers))):  # what lies before it is still the other
            made = blocks.step(layer, intact.streams[layer], intact.calls[layer], rows)
            off = (made - intact.streams[layer + 1]).float().norm()
            if not off <= _KEPT * intact.streams[layer + 1].float().norm():
                raise CannotReplay(
                    f"block {layer} gives something else for the same stream after another pass: "
                    "something in it reads what was noted elsewhere"
                )
