"""ModelGame: a model, prompts and a metric as a set function of which components are kept.

A call goes to the replay (``engine.replay``) where the model can be cut at its blocks. Otherwise it
turns masks into rows (one mask on one prompt), rows into batches, and each batch into one forward
pass whose hooks replace what each row ablates (``ablation.mix``). Hooks stand only while a call
runs; the model comes back as it was, also after an error or an interrupt.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from spex_mech.engine import references as references_by
from spex_mech.engine.accuracy import Accuracy, accuracy_of
from spex_mech.engine.architectures import Architecture, architecture_of, is_hooked
from spex_mech.engine.blocks import CannotReplay
from spex_mech.engine.checks import compared_replay
from spex_mech.engine.components import Components, Site
from spex_mech.engine.device import in_batches, is_out_of_memory
from spex_mech.engine.gradients import Gradients
from spex_mech.engine.metrics import KL, METRICS, Metric, Task
from spex_mech.engine.passes import (
    Hook,
    answers_of,
    check_precision,
    check_tokens,
    device_of,
    forward,
    name_of,
    self_test,
)
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.references import Activations, Batches, key_of, replacing
from spex_mech.engine.replay import Replay
from spex_mech.fingerprints import (
    config_sha256,
    metric_sha256,
    prompts_sha256,
    sha256_of,
    tokens_sha256,
)
from spex_mech.game import Answer, Coarse, Game, Tick, no_tick
from spex_mech.masks import MaskBatch, names_of
from spex_mech.units import Unit, Units

# A batch on the CPU: large enough to feed the matrix products, small enough for the caches.
_CPU_TOKENS = 2048
_CPU_BYTES = 256 * 2**20
_CUDA_SHARE = 0.33  # of the free memory; a replay holds more beside it
_SELF_TEST_ROWS = 4
_MOST_BLOCKS = 8  # of prompts, in slopes by block
_MANY = 100_000


class ModelGame(Game):
    """Masks over a model's components -> metric values.

    Args:
        model: a TransformerBridge, a transformers model, or an ``nn.Module`` (with
            ``architecture``). It is used as it is, on the device where it is.
        task: prompts and a metric.
        components: the units; column ``u`` of a mask is ``components[u]``. Default: all heads.
        ablation: "mean" (default), "zero", "mean_per_position", "resample" (needs
            ``task.prompts.corrupted``), or a tensor for each of :attr:`hook_points`, by name.
        reference: prompts for the mean; default: the task's own.
        architecture: where a plain ``nn.Module`` keeps heads and neurons.
        batch_size: rows (mask x prompt) per forward pass; default: found by itself, and halved
            when memory runs out.
        precision: "float32" (the model's own), "tf32" (CUDA) or "bfloat16" (autocast); the metric
            is read in float32 at least. The noise floor tells what the choice costs.
        replay: share between masks what their passes have in common (``engine.replay``). Default:
            wherever the model can be cut at its blocks, which is tried and compared with plain
            passes when the game is made. True: an error where it cannot. False: plain passes.
        compile: run norms and activation functions through ``torch.compile`` in replayed passes
            (a C++ compiler, on a GPU Triton; seconds when the game is made). No compiled part
            holds a hook point. On a CPU it saved 6 % of the time of GPT-2's shape, and nothing of a
            Llama's.

    Raises:
        ValueError: anything that cannot be ablated or measured as asked; the text says the cure.
    """

    def __init__(
        self,
        model: Any,
        task: Task,
        components: Components | None = None,
        *,
        ablation: str | Mapping[str, Tensor] = "mean",
        reference: Prompts | None = None,
        architecture: Architecture | None = None,
        batch_size: int | None = None,
        precision: str = "float32",
        replay: bool | None = None,
        compile: bool = False,
    ) -> None:
        sized = architecture_of(model, architecture)
        self.model, self.task = model, task
        self.components = components or Components.heads(sized)
        if not self.components.architecture.same_places(sized):
            raise ValueError("the components belong to another model; make them from this one")
        self.components = Components(self.components.units, sized)
        self.architecture = sized
        self.device = device_of(model)
        check_precision(model, precision)
        self.precision = precision
        self.prompts = task.prompts.to(self.device)
        self.ablation = ablation if isinstance(ablation, str) else "given"
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1, or None")
        self.batch_size = batch_size
        self._sites = self.components.sites()
        check_tokens(model, self.prompts)
        self._references = references_by.make(
            ablation,
            self._activations,
            self.prompts,
            None if reference is None else reference.to(self.device),
            {key_of(s): sized.name(s.kind, s.layer) for s in self._sites},
        )
        # The means follow from the model and these prompts; tensors that were given, from nothing.
        self._given: Prompts | str | None = reference
        if not isinstance(ablation, str):
            self._given = sha256_of([self._references[key_of(site)] for site in self._sites])
        self._metric = self._make_metric()
        self_test(model, sized, self.prompts[:_SELF_TEST_ROWS])
        self._replay: Replay | None = None
        self._passes = "plain: replay=False"
        if compile and replay is False:
            raise ValueError("compile=True is for replayed passes; leave replay=False out")
        if replay is not False:
            self._try_replay("compile" if compile else "replay" if replay else "")

    @cached_property
    def _units(self) -> Units:
        return Units(Unit(c.label, c.kind, c.layer) for c in self.components)

    @property
    def units(self) -> Units:
        """What the columns of a mask are."""
        return self._units

    @property
    def has_slopes(self) -> bool:
        return True

    @property
    def coarse(self) -> Coarse | None:
        if self.precision == "float32":
            return None
        return Coarse(f"precision={self.precision!r}", "use precision='float32'")

    @property
    def masks_per_batch(self) -> int:
        """How many masks a driver should ask at a time: a few full batches."""
        if self._replay is not None:
            return self._replay.shape(_MANY)[0]
        return max(1, 4 * self._rows_per_batch() // len(self.prompts))

    def pass_size(self) -> int | None:
        return self.batch_size

    def limit_pass_size(self, rows: int) -> None:
        """Run passes of at most so many rows."""
        if self.batch_size is None or self.batch_size > rows:
            self.batch_size = rows

    @property
    def hook_points(self) -> list[str]:
        """The hook points of this game, in the order of the forward pass."""
        return [self.architecture.name(s.kind, s.layer) for s in self._sites]

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Tick = no_tick) -> Answer:
        """The metric of each prompt; float64, whatever the model computes in.

        Raises:
            ValueError: a metric that is NaN or of the wrong shape.
        """
        if slopes:
            return self.slopes_at(torch.from_numpy(masks.kept()))
        return Answer(self.ablating(masks.ablated, tick).numpy())

    def ablating(
        self, lost: Int[np.ndarray, "mask slot"], tick: Tick = no_tick
    ) -> Float[Tensor, "mask prompt"]:
        """The same for masks given as lists of the units that they ablate, padded with -1.

        Args:
            tick: called now and then with how many masks' worth of work was done.

        Raises:
            ValueError: as a call.
        """
        if self._replay is None:
            values = self._values(torch.from_numpy(MaskBatch.of_rows(lost, len(self)).kept()))
            tick(float(len(lost)))
            return values
        # A store sets the batches of a run that goes on: never larger ones.
        self._replay.rows = min(self._replay.rows, self._rows_per_batch())
        values = torch.from_numpy(self._replay.values(lost, tick))
        self.batch_size = self._replay.rows
        if not values.isfinite().all():
            mask, prompt = (~values.isfinite()).nonzero()[0].tolist()
            units = [u for u in lost[mask].tolist() if u >= 0]
            self._not_finite(values[mask, prompt].item(), prompt, units)
        return values

    def slopes_at(self, gates: Tensor) -> Answer:
        """Values, and slopes by block of prompts (at most 8).

        The gate of a unit scales its activation from the reference (0) to itself (1):
        ``reference + gate * (act - reference)``. One backward pass gives all units.

        Raises:
            ValueError: gates that are no numbers between 0 and 1, or a metric that is NaN.
        """
        if gates.dtype != torch.bool:
            if not gates.dtype.is_floating_point:
                raise ValueError(f"gates are {gates.dtype}; they must be bool or float numbers")
            if not ((gates >= 0) & (gates <= 1)).all():
                raise ValueError("gates must lie between 0 (ablated) and 1 (kept)")
        values, slopes = self._values_and_slopes(gates)
        return Answer(values.numpy(), slopes.numpy())

    @property
    def noise_floor(self) -> float:
        """The size under which an interaction cannot be told from rounding, in the metric's unit.

        The same masks are asked twice, the second time by plain passes in float32 at other places
        in batches of another size; ``sigma`` is the root mean square of the difference over
        sqrt(2). An interaction adds four such values (2 sigma); the floor is three times that, and
        at least four roundings of the metric.
        """
        return self._measured_floor

    @cached_property
    def _measured_floor(self) -> float:
        return _noise_floor(self)

    def provenance(self) -> dict[str, Any]:
        """What fixes the game's values: recorded with every result."""
        clusters = self.prompts.cluster_numbers()
        return {
            "model": name_of(self.model),
            "weights_sha256": self._weights_hash,
            "weight_processing": _processing_of(self.model),
            "task": self.task.name,
            "metric": self.task.metric_name,
            "n_prompts": len(self.prompts),
            **({} if clusters is None else {"clusters": clusters}),
            **({} if self.accuracy is None else {"accuracy": self.accuracy.recorded()}),
            "tokens_sha256": tokens_sha256(self.prompts),
            "ablation": self.ablation,
            "precision": self.precision,
            "passes": self._passes,
            "device": str(self.device),
            "dtype": str(next(iter(_parameters(self.model))).dtype).removeprefix("torch."),
            "torch": torch.__version__,
        }

    def identity(self) -> dict[str, Any]:
        """What else fixes its values: with ``provenance()``, what a store tells games apart by."""
        given = self._given
        return {
            "config_sha256": config_sha256(self.model),
            "prompts_sha256": prompts_sha256(self.prompts),
            "metric_sha256": metric_sha256(self.task.metric),
            "reference_sha256": prompts_sha256(given) if isinstance(given, Prompts) else given,
            "hook_points": self.hook_points,
        }

    @cached_property
    def accuracy(self) -> Accuracy | None:
        """How often the intact model is right on the prompts; None where that cannot be told."""
        return accuracy_of(self.model, self.prompts, self.task.metric_name)

    @cached_property
    def _weights_hash(self) -> str:
        return sha256_of(_parameters(self.model))

    # -- rows and batches ---------------------------------------------------------------------

    def _values(
        self, keep: Bool[Tensor, "mask unit"], batch_size: int | None = None
    ) -> Float[Tensor, "mask prompt"]:
        """By plain passes."""
        return self._plain(keep, self._measure, batch_size=batch_size)

    def _plain(
        self,
        keep: Bool[Tensor, "mask unit"],
        measure: Callable[[Any, Tensor, Tensor], Tensor],
        n_prompts: int | None = None,
        batch_size: int | None = None,
    ) -> Float[Tensor, "mask prompt"]:
        """What ``measure`` makes of plain passes, on all prompts or the first few."""
        n_prompts = min(n_prompts or len(self.prompts), len(self.prompts))
        values = torch.empty(len(keep) * n_prompts, dtype=torch.float64)
        keep = torch.cat([keep, torch.ones(len(keep), 1, dtype=torch.bool)], dim=1)

        def run(part: slice) -> None:
            rows = torch.arange(part.start, part.stop)
            of_mask, of_prompt = rows // n_prompts, rows % n_prompts
            with torch.no_grad():
                output = self._forward(
                    self.prompts[of_prompt.to(self.device)],
                    self._replacing(keep[of_mask], of_prompt),
                )
                values[rows] = measure(output, of_prompt, keep[of_mask]).double().cpu()

        size = batch_size or self._rows_per_batch()
        used = in_batches(len(values), size, run)
        self.batch_size = used if used < size else self.batch_size
        return values.reshape(-1, n_prompts)

    def _values_and_slopes(
        self, gates: Tensor
    ) -> tuple[Float[Tensor, "mask prompt"], Float[Tensor, "mask block unit"]]:
        n_prompts = len(self.prompts)
        n_blocks = min(n_prompts, _MOST_BLOCKS)
        share = 8 if self.device.type == "cuda" else 1  # a backward pass holds every activation
        n_rows = max(1, self._rows_per_batch() // share)
        if self._replay is not None:
            return Gradients(self._replay, self._rewriting, self._finite, n_rows, n_blocks)(gates)
        values = torch.empty(len(gates) * n_prompts, dtype=torch.float64)
        slopes = torch.zeros(len(gates) * n_blocks, len(self), dtype=torch.float64)

        def run(part: slice) -> None:
            rows = torch.arange(part.start, part.stop)
            of_mask, of_prompt = rows // n_prompts, rows % n_prompts
            of_leaf = of_mask * n_blocks + of_prompt * n_blocks // n_prompts
            asked, row_leaf = of_leaf.unique(return_inverse=True)
            exact = torch.float64 if gates.dtype == torch.float64 else torch.float32
            leaf = gates[asked // n_blocks].to(self.device, exact).requires_grad_()
            padded = torch.cat([leaf, leaf.new_ones(len(leaf), 1)], dim=1)
            with torch.enable_grad():
                hooks = self._replacing(padded[row_leaf.to(self.device)], of_prompt)
                output = self._forward(self.prompts[of_prompt.to(self.device)], hooks)
                measured = self._measure(output, of_prompt, gates[of_mask] > 0)
                # Only the gates' gradients are asked for: no parameter's .grad is touched.
                (slope,) = torch.autograd.grad(measured.sum() * n_blocks / n_prompts, leaf)
            values[rows] = measured.detach().double().cpu()
            slopes[asked] += slope.double().cpu()

        in_batches(len(values), n_rows, run)
        return values.reshape(-1, n_prompts), slopes.reshape(len(gates), n_blocks, -1)

    def _rewriting(
        self, gate: Float[Tensor, "row column"], of_prompt: Int[Tensor, " row"]
    ) -> dict[int, Hook]:
        hooks = self._replacing(gate, of_prompt)
        return {index: hooks[site] for index, site in enumerate(self._sites)}

    def _rows_per_batch(self) -> int:
        if self.batch_size is None:
            self.batch_size = self._find_batch_size()
        return self.batch_size

    def _find_batch_size(self) -> int:
        n_pos = self.prompts.tokens.shape[1]
        if self.device.type != "cuda":
            tokens = min(_CPU_TOKENS, _CPU_BYTES // (4 * _output_width(self.model)))
            return max(1, tokens // n_pos)

        def run(rows: int) -> None:
            keep = torch.zeros(rows, len(self) + 1, dtype=torch.bool)
            of = torch.arange(rows) % len(self.prompts)
            prompts = self.prompts[of.to(self.device)]
            self._metric(self._forward(prompts, self._replacing(keep, of)), prompts)

        return rows_that_fit(self.device, run)

    # -- one forward pass -----------------------------------------------------------------------

    def _replacing(self, keep: Tensor, of_prompt: Int[Tensor, " row"]) -> dict[Site, Hook]:
        """What each hook does for these rows: ``keep`` is ``[row unit+1]``, bool or gates."""
        hooks: dict[Site, Hook] = {}
        for site in self._sites:
            gate = keep[:, site.slot_unit.to(keep.device)]
            if gate.dtype == torch.bool and gate.all():
                continue
            hooks[site] = replacing(gate, self._references[key_of(site)], of_prompt)
        return hooks

    def _forward(self, prompts: Prompts, hooks: Mapping[Site, Hook]) -> Any:
        named = {self.architecture.name(s.kind, s.layer): hook for s, hook in hooks.items()}
        return forward(self.model, prompts, named, self.precision)

    def _measure(
        self, output: Any, of_prompt: Int[Tensor, " row"], keep: Bool[Tensor, "row unit"]
    ) -> Float[Tensor, " row"]:
        values = self._metric(output, self.prompts[of_prompt.to(self.device)])
        return self._finite(self._checked(values, len(of_prompt)), of_prompt, keep)

    def _finite(self, values: Tensor, of_prompt: Tensor, keep: Tensor) -> Float[Tensor, " row"]:
        if not values.isfinite().all():
            row = int((~values.isfinite()).nonzero()[0])
            lost = (~keep[row, : len(self)]).nonzero()[:, 0].tolist()
            self._not_finite(values[row].item(), int(of_prompt[row]), lost)
        return values

    def _checked(self, values: Any, n_rows: int) -> Float[Tensor, " row"]:
        if not isinstance(values, Tensor) or values.shape != (n_rows,):
            shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"the metric {self.task.metric_name} returned {shape} for {n_rows} rows; it must "
                "return one value per row, a tensor of shape [row]"
            )
        return values

    def _not_finite(self, value: float, prompt: int, lost: list[int]) -> NoReturn:
        raise ValueError(
            f"the metric {self.task.metric_name} is {value} for prompt {prompt} with "
            f"{names_of(self.labels, lost)} ablated; it must be finite"
        )

    # -- making the game ------------------------------------------------------------------------

    def _make_metric(self) -> Metric:
        if callable(self.task.metric):
            return self.task.metric
        if self.task.metric != "kl":
            return METRICS[self.task.metric]
        parts = []
        n_pos = self.prompts.tokens.shape[1]
        for rows in _chunks(len(self.prompts), max(1, _CPU_TOKENS // n_pos)):
            with torch.no_grad():
                output = self._forward(self.prompts[rows.to(self.device)], {})
            parts.append(KL.to_intact(output, self.prompts[rows.to(self.device)]).intact)
        return KL(torch.cat(parts))

    def _try_replay(self, required: str) -> None:
        try:
            self._replay = compared_replay(
                self.model,
                self.architecture,
                list(self._sites),
                self.prompts,
                [self._references[key_of(site)] for site in self._sites],
                np.array([unit.layer for unit in self.components.units]),
                lambda output, prompts: self._checked(self._metric(output, prompts), len(prompts)),
                self.task.metric,
                self._rows_per_batch(),
                self.precision,
                required == "compile",
                self._plain,
            )
            self._passes = "replayed, compiled" if required == "compile" else "replayed"
        except Exception as error:
            if is_out_of_memory(error):
                raise
            why = f"{type(self.model).__name__} cannot be replayed: {error}"
            self._passes = f"plain: {why}"
            if required:
                raise ValueError(f"{required}=True, but {why}; leave it out") from error
            if not isinstance(error, CannotReplay):
                warnings.warn(f"{why}; plain passes are run instead", stacklevel=3)

    def _activations(self, prompts: Prompts) -> Batches:
        """Intact activations at this game's hook points, batch by batch."""
        for rows in _chunks(len(prompts), max(1, _CPU_TOKENS // prompts.tokens.shape[1])):
            seen: Activations = {}
            part = prompts[rows.to(self.device)]

            def keep_for(site: Site, seen: Activations = seen) -> Callable[[Tensor], None]:
                def record(act: Tensor) -> None:
                    seen[key_of(site)] = act.detach().clone()

                return record

            with torch.no_grad():
                self._forward(part, {site: keep_for(site) for site in self._sites})
            yield seen, part.real


@torch.no_grad()
def rows_that_fit(device: torch.device, run: Callable[[int], None]) -> int:
    """How many rows use a third of the free memory, by what a few of them use."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before, rows = torch.cuda.memory_allocated(device), 16
    run(rows)
    per_row = (torch.cuda.max_memory_allocated(device) - before) / rows
    free = torch.cuda.mem_get_info(device)[0]
    return max(1, int(_CUDA_SHARE * free / max(per_row, 1)))


def _chunks(n_rows: int, size: int) -> Iterator[Int[Tensor, " row"]]:
    for start in range(0, n_rows, size):
        yield torch.arange(start, min(start + size, n_rows))


def _noise_floor(game: ModelGame) -> float:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(24, len(game), generator=generator) > min(0.5, 2 / len(game))
    masks[0] = True
    there, precision = game(masks).mean(1), game.precision
    game.precision = "float32"
    try:
        size = max(1, game._rows_per_batch() // 3)
        back = game._values(masks.flip(0), batch_size=size).flip(0).double().mean(1)
    finally:
        game.precision = precision
    sigma = (there - back).square().mean().sqrt().item() / np.sqrt(2)
    rounding = torch.finfo(torch.float32).eps * there.abs().max().item()
    return max(6 * sigma, 4 * rounding)


def _parameters(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _output_width(model: Any) -> int:
    return answers_of(model) or 1024


def _processing_of(model: Any) -> str:
    """How the weights were processed: zero ablation depends on it, mean and resample do not."""
    if not is_hooked(model):
        return "none"
    return "compatibility mode" if getattr(model, "compatibility_mode", False) else "none"
