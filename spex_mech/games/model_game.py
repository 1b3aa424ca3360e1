"""ModelGame: a model, prompts and a metric as a set function of which components are kept.

The only file that runs the model. A call turns masks into rows (one mask on one prompt), rows into
batches, and each batch into one forward pass whose hooks replace what each row ablates:
``where(keep, act, reference)``. Hooks stand only while a call runs; the model comes back as it was,
also after an error or an interrupt.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from spex_mech.games import ablation as references_by
from spex_mech.games.ablation import ABLATIONS, Activations, Batches, References, key_of
from spex_mech.games.architectures import Architecture, architecture_of, is_hooked
from spex_mech.games.components import Components, Site
from spex_mech.games.metrics import KL, METRICS, Metric, Task
from spex_mech.games.prompts import Prompts

# A batch on the CPU: large enough to feed the matrix products, small enough for the caches.
_CPU_TOKENS = 2048
_CPU_BYTES = 256 * 2**20
_SELF_TEST_ROWS = 4
_MOST_BLOCKS = 8  # of prompts, in slopes by block
Hook = Callable[[Tensor], Tensor | None]  # [row pos width] -> the same rewritten, or None: as it is


class ModelGame:
    """Masks over a model's components -> metric values.

    Args:
        model: a TransformerBridge, a transformers model, or an ``nn.Module`` (with
            ``architecture``). It is used as it is, on the device where it is.
        task: prompts and a metric.
        components: the units; column ``u`` of a mask is ``components[u]``. Default: all heads.
        ablation: "mean" (default), "zero", "mean_per_position", "resample" (needs
            ``task.prompts.corrupted``), or a tensor per hook point's name (see :attr:`names`).
        reference: prompts for the mean; default: the task's own.
        architecture: where a plain ``nn.Module`` keeps heads and neurons.
        batch_size: rows (mask x prompt) per forward pass; default: found by itself, and halved
            when memory runs out.

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
    ) -> None:
        sized = architecture_of(model, architecture)
        self.model, self.task = model, task
        self.components = components or Components.heads(sized)
        if not self.components.architecture.same_places(sized):
            raise ValueError("the components belong to another model; make them from this one")
        self.components = Components(self.components.units, sized)
        self.architecture = sized
        self.device = _device_of(model)
        self.prompts = task.prompts.to(self.device)
        self.ablation = ablation if isinstance(ablation, str) else "given"
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1, or None")
        self.batch_size = batch_size
        self._sites = self.components.sites()
        self._check_tokens()
        self._references = self._make_references(ablation, reference)
        self._metric = self._make_metric()
        self_test(model, sized, self.prompts[:_SELF_TEST_ROWS])

    def __len__(self) -> int:
        return len(self.components)

    @property
    def labels(self) -> list[str]:
        """The label of each unit, in mask order."""
        return self.components.labels

    @property
    def masks_per_batch(self) -> int:
        """How many masks a driver should ask at a time: a few full batches."""
        return max(1, 4 * self._rows_per_batch() // len(self.prompts))

    @property
    def names(self) -> list[str]:
        """The hook points of this game, in the order of the forward pass."""
        return [self.architecture.name(s.kind, s.layer) for s in self._sites]

    def __call__(self, masks: Any) -> Float[Tensor, "mask prompt"]:
        """The metric of each prompt with what is not kept ablated.

        Args:
            masks: ``Bool[Tensor, "mask unit"]`` (True = kept), or the like in numpy or lists.

        Returns:
            ``Float[Tensor, "mask prompt"]`` on the CPU; float64, whatever the model computes in.

        Raises:
            ValueError: masks of the wrong width or type, or a metric that is NaN or of the wrong
                shape.
        """
        return self._values(self._check_masks(masks))

    def mean(self, masks: Any) -> Float[np.ndarray, " mask"]:
        """The prompt mean in numpy: what shapiq's approximators take as a game."""
        return self(masks).mean(dim=1).numpy()

    def gradient(self, masks: Any) -> Float[Tensor, "mask unit"]:
        """The derivative of the prompt mean with respect to every unit's gate.

        The gate of a unit scales its activation from the reference (0) to itself (1):
        ``reference + gate * (act - reference)``. One backward pass gives all units.

        Args:
            masks: as in a call; or ``Float[Tensor, "mask unit"]``, gates between 0 and 1.
        """
        return self.value_and_gradient(masks)[1]

    def value_and_gradient(
        self, masks: Any
    ) -> tuple[Float[Tensor, "mask prompt"], Float[Tensor, "mask unit"]]:
        """Both at once, at the price of the gradient (which runs the forward pass anyway)."""
        values, slopes = self.value_and_slopes(masks)
        return values, slopes.mean(1)

    def value_and_slopes(
        self, masks: Any
    ) -> tuple[Float[Tensor, "mask prompt"], Float[Tensor, "mask block unit"]]:
        """The same, by block of prompts: the gradient is the mean over the (at most 8) blocks.

        It costs no more. Where slopes of different prompts cancel, a search that sees blocks still
        sees that something changed.
        """
        return self._values_and_slopes(self._check_masks(masks, gates=True))

    @cached_property
    def noise_floor(self) -> float:
        """The size under which an interaction cannot be told from rounding, in the metric's unit.

        The same masks are asked twice, at other places in batches of another size; ``sigma`` is
        the root mean square of the difference over sqrt(2). An interaction adds four such values
        (2 sigma); the floor is three times that, and at least four roundings of the metric.
        """
        generator = torch.Generator().manual_seed(0)
        masks = torch.rand(24, len(self), generator=generator) > min(0.5, 2 / len(self))
        masks[0] = True
        size = max(1, self._rows_per_batch() // 3)
        there = self._values(masks).double().mean(1)
        back = self._values(masks.flip(0), batch_size=size).flip(0).double().mean(1)
        sigma = (there - back).square().mean().sqrt().item() / np.sqrt(2)
        rounding = torch.finfo(torch.float32).eps * there.abs().max().item()
        return max(6 * sigma, 4 * rounding)

    def describe(self) -> dict[str, Any]:
        """What fixes the game's values: recorded with every result."""
        return {
            "model": name_of(self.model),
            "weights_sha256": self._weights_hash,
            "weight_processing": _processing_of(self.model),
            "task": self.task.name,
            "metric": self.task.metric_name,
            "n_prompts": len(self.prompts),
            "tokens_sha256": _sha256([self.prompts.tokens]),
            "ablation": self.ablation,
            "device": str(self.device),
            "dtype": str(next(iter(_parameters(self.model))).dtype).removeprefix("torch."),
            "torch": torch.__version__,
        }

    @cached_property
    def _weights_hash(self) -> str:
        return _sha256(_parameters(self.model))

    # -- rows and batches ---------------------------------------------------------------------

    def _check_masks(self, masks: Any, gates: bool = False) -> Tensor:
        masks = torch.as_tensor(masks).detach().cpu()
        if masks.ndim != 2 or masks.shape[1] != len(self):
            raise ValueError(
                f"masks have shape {tuple(masks.shape)}; they need [mask unit] with "
                f"{len(self)} units"
            )
        if masks.dtype == torch.bool:
            return masks
        if gates and masks.dtype.is_floating_point:
            if not ((masks >= 0) & (masks <= 1)).all():
                raise ValueError("gates must lie between 0 (ablated) and 1 (kept)")
            return masks
        raise ValueError(f"masks are {masks.dtype}; they must be bool, True = kept: masks.bool()")

    def _values(
        self, keep: Bool[Tensor, "mask unit"], batch_size: int | None = None
    ) -> Float[Tensor, "mask prompt"]:
        n_prompts = len(self.prompts)
        values = torch.empty(len(keep) * n_prompts, dtype=torch.float64)
        keep = torch.cat([keep, torch.ones(len(keep), 1, dtype=torch.bool)], dim=1)

        def run(rows: Int[Tensor, " row"]) -> None:
            of_mask, of_prompt = rows // n_prompts, rows % n_prompts
            with torch.no_grad():
                output = self._forward(
                    self.prompts[of_prompt.to(self.device)],
                    self._replacing(keep[of_mask], of_prompt),
                )
                values[rows] = self._measure(output, of_prompt, keep[of_mask]).double().cpu()

        self._in_batches(len(values), run, batch_size or self._rows_per_batch())
        return values.reshape(-1, n_prompts)

    def _values_and_slopes(
        self, gates: Tensor
    ) -> tuple[Float[Tensor, "mask prompt"], Float[Tensor, "mask block unit"]]:
        n_prompts = len(self.prompts)
        n_blocks = min(n_prompts, _MOST_BLOCKS)
        values = torch.empty(len(gates) * n_prompts, dtype=torch.float64)
        slopes = torch.zeros(len(gates) * n_blocks, len(self), dtype=torch.float64)

        def run(rows: Int[Tensor, " row"]) -> None:
            of_mask, of_prompt = rows // n_prompts, rows % n_prompts
            of_leaf = of_mask * n_blocks + of_prompt * n_blocks // n_prompts
            asked, row_leaf = of_leaf.unique(return_inverse=True)
            exact = torch.float64 if gates.dtype == torch.float64 else torch.float32
            leaf = gates[asked // n_blocks].to(self.device, exact).requires_grad_()
            padded = torch.cat([leaf, leaf.new_ones(len(leaf), 1)], dim=1)
            with torch.enable_grad():
                output = self._forward(
                    self.prompts[of_prompt.to(self.device)],
                    self._replacing(padded[row_leaf.to(self.device)], of_prompt),
                )
                measured = self._measure(output, of_prompt, gates[of_mask] > 0)
                # Only the gates' gradients are asked for: no parameter's .grad is touched.
                (slope,) = torch.autograd.grad(measured.sum() * n_blocks / n_prompts, leaf)
            values[rows] = measured.detach().double().cpu()
            slopes[asked] += slope.double().cpu()

        self._in_batches(len(values), run, max(1, self._rows_per_batch() // 4))
        return values.reshape(-1, n_prompts), slopes.reshape(len(gates), n_blocks, -1)

    def _in_batches(
        self, n_rows: int, run: Callable[[Int[Tensor, " row"]], None], batch_size: int
    ) -> None:
        """Run all rows, halving the batch when memory runs out; no finished row is run again."""
        start = 0
        while start < n_rows:
            try:
                run(torch.arange(start, min(start + batch_size, n_rows)))
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error) or batch_size == 1:
                    raise
                batch_size = max(1, batch_size // 2)
                self.batch_size = batch_size
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            start += batch_size

    def _rows_per_batch(self) -> int:
        if self.batch_size is None:
            self.batch_size = self._find_batch_size()
        return self.batch_size

    def _find_batch_size(self) -> int:
        n_pos = self.prompts.tokens.shape[1]
        if self.device.type != "cuda":
            per_token = 4 * max(_output_width(self.model), 1)
            tokens = max(1, min(_CPU_TOKENS, _CPU_BYTES // per_token))
            return max(1, tokens // n_pos)
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before, rows = torch.cuda.memory_allocated(self.device), 16
        keep = torch.zeros(rows, len(self) + 1, dtype=torch.bool)
        of_prompt = torch.arange(rows) % len(self.prompts)
        with torch.no_grad():
            output = self._forward(
                self.prompts[of_prompt.to(self.device)], self._replacing(keep, of_prompt)
            )
            self._metric(output, self.prompts[of_prompt.to(self.device)])
        per_row = (torch.cuda.max_memory_allocated(self.device) - before) / rows
        free = torch.cuda.mem_get_info(self.device)[0]
        return max(1, int(0.6 * free / max(per_row, 1)))

    # -- one forward pass -----------------------------------------------------------------------

    def _replacing(self, keep: Tensor, of_prompt: Int[Tensor, " row"]) -> dict[Site, Hook]:
        """What each hook does for these rows: ``keep`` is ``[row unit+1]``, bool or gates."""
        hooks: dict[Site, Hook] = {}
        for index, site in enumerate(self._sites):
            gate = keep[:, site.slot_unit.to(keep.device)]
            if gate.dtype == torch.bool and gate.all():
                continue
            hooks[site] = self._replace_at(index, gate, of_prompt)
        return hooks

    def _replace_at(
        self, index: int, gate: Tensor, of_prompt: Int[Tensor, " row"]
    ) -> Callable[[Tensor], Tensor]:
        reference = self._references[key_of(self._sites[index])]

        def replace(act: Float[Tensor, "row pos width"]) -> Float[Tensor, "row pos width"]:
            ref = reference if len(reference) == 1 else reference[of_prompt.to(reference.device)]
            ref = ref.to(act)
            slots = rearrange(
                act, "row pos (slot d_slot) -> row pos slot d_slot", slot=gate.shape[1]
            )
            ref = rearrange(ref, "row pos (slot d_slot) -> row pos slot d_slot", slot=gate.shape[1])
            kept = gate.to(act.device)[:, None, :, None]
            if kept.dtype == torch.bool:
                mixed = torch.where(kept, slots, ref)
            else:
                mixed = ref + kept.to(act.dtype) * (slots - ref)
            return rearrange(mixed, "row pos slot d_slot -> row pos (slot d_slot)")

        return replace

    def _forward(self, prompts: Prompts, hooks: Mapping[Site, Hook]) -> Any:
        named = {self.architecture.name(s.kind, s.layer): hook for s, hook in hooks.items()}
        return forward(self.model, prompts, named)

    def _measure(
        self, output: Any, of_prompt: Int[Tensor, " row"], keep: Bool[Tensor, "row unit"]
    ) -> Float[Tensor, " row"]:
        values = self._metric(output, self.prompts[of_prompt.to(self.device)])
        if not isinstance(values, Tensor) or values.shape != (len(of_prompt),):
            shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"the metric {self.task.metric_name} returned {shape} for {len(of_prompt)} rows; "
                "it must return one value per row, a tensor of shape [row]"
            )
        if not values.isfinite().all():
            row = int((~values.isfinite()).nonzero()[0])
            lost = (~keep[row, : len(self)]).nonzero()[:, 0].tolist()
            names = ", ".join(self.labels[u] for u in lost[:4]) + (", ..." if len(lost) > 4 else "")
            raise ValueError(
                f"the metric {self.task.metric_name} is {values[row].item()} for prompt "
                f"{int(of_prompt[row])} with {names or 'nothing'} ablated; it must be finite"
            )
        return values

    # -- making the game ------------------------------------------------------------------------

    def _check_tokens(self) -> None:
        n_pos, most = self.prompts.tokens.shape[1], positions_of(self.model)
        if most and n_pos > most:
            raise ValueError(
                f"the prompts have {n_pos} tokens, and the model reads at most {most}; shorten them"
            )
        n_vocab = vocabulary_of(self.model)
        for name in ("tokens", "corrupted", "answers", "wrong_answers"):
            value = getattr(self.prompts, name)
            # Answers of a classifier are classes: its output, not its vocabulary, bounds them.
            bound = n_vocab if name in ("tokens", "corrupted") else _answers(self.model)
            if value is not None and bound and int(value.max()) >= bound:
                raise ValueError(
                    f"{name} holds the token {int(value.max())}, outside the vocabulary of {bound}"
                )

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

    def _make_references(
        self, ablation: str | Mapping[str, Tensor], reference: Prompts | None
    ) -> References:
        prompts = self.prompts if reference is None else reference.to(self.device)
        if not isinstance(ablation, str):
            names = {key_of(s): self.architecture.name(s.kind, s.layer) for s in self._sites}
            seen = next(iter(self._activations(self.prompts[:1])))[0]
            return references_by.given(ablation, names, seen, len(self.prompts))
        if ablation == "zero":
            return references_by.zero(self._activations(prompts[:1]))
        if ablation == "mean":
            return references_by.mean(self._activations(prompts))
        if ablation == "mean_per_position":
            if prompts.tokens.shape[1] < self.prompts.tokens.shape[1]:
                raise ValueError(
                    f"the reference prompts have {prompts.tokens.shape[1]} positions, the task's "
                    f"{self.prompts.tokens.shape[1]}; a mean per position needs at least as many"
                )
            means = references_by.mean(self._activations(prompts), per_position=True)
            return {key: m[:, : self.prompts.tokens.shape[1]] for key, m in means.items()}
        if ablation == "resample":
            if self.prompts.corrupted is None:
                raise ValueError(
                    "resample ablation takes activations from corrupted prompts, and these have "
                    "none; give Prompts(corrupted=...) or use ablation='mean'"
                )
            corrupted = Prompts(self.prompts.corrupted, self.prompts.attention_mask)
            return references_by.resample(self._activations(corrupted))
        raise ValueError(
            f"unknown ablation {ablation!r}; choose one of {', '.join(ABLATIONS)}, or give a "
            "tensor per hook point"
        )

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


def self_test(model: Any, architecture: Architecture, prompts: Prompts) -> None:
    """Replacing every head and neuron by noise must change the output: a hook that fires but is
    ignored would make every interaction zero, and no one would know.

    Raises:
        ValueError: nothing changed.
        RuntimeError: a hook did not fire.
    """
    everything = [
        architecture.name(kind, layer)
        for layer in range(architecture.n_layers)
        for kind in ("head", "neuron")
        if architecture.has(kind, layer)
    ]

    def scramble(act: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(act.shape, generator=generator).to(act) * (1 + act.abs().max())

    with torch.no_grad():
        intact = _first_tensor(forward(model, prompts, {}))
        changed = _first_tensor(forward(model, prompts, dict.fromkeys(everything, scramble)))
    if torch.equal(intact, changed):
        raise ValueError(
            f"replacing every head and neuron of this {type(model).__name__} changes nothing in "
            "its output: the named modules are not where it computes"
        )


def forward(model: Any, prompts: Prompts, hooks: Mapping[str, Hook]) -> Any:
    """One forward pass in evaluation mode, ``hooks[name]`` rewriting what passes that hook point.

    Raises:
        RuntimeError: a hook did not fire.
    """
    fired: set[str] = set()
    with evaluating(model), hooked(model, hooks, len(prompts), fired):
        output = _call(model, prompts)
    for name in hooks:
        if name not in fired:
            raise RuntimeError(
                f"the hook at {name} did not fire: the model's forward pass goes around it, so "
                "ablating there would change nothing (a compiled or fused forward?)"
            )
    return output


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, then every module's own training flag again."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def hooked(
    model: Any,
    replace: Mapping[str, Hook],
    n_rows: int,
    fired: set[str],
) -> Iterator[None]:
    """Let ``replace[hook point]`` rewrite ``[row pos width]`` there (None: leave it); the names of
    those that ran are put into ``fired``."""

    def rewrite(name: str, act: Tensor) -> Tensor | None:
        fired.add(name)
        # TransformerLens gives heads as [row pos head d_head]; OPT flattens rows and positions.
        flat = act.flatten(2) if act.ndim == 4 else act.reshape(n_rows, -1, act.shape[-1])
        new = replace[name](flat)
        return None if new is None else new.reshape(act.shape)

    if is_hooked(model):
        hooks = [(name, lambda act, hook, name=name: rewrite(name, act)) for name in replace]
        with model.hooks(fwd_hooks=hooks):
            yield
        return

    def pre_hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], Any]:
        def run(module: nn.Module, args: tuple[Any, ...]) -> Any:
            new = rewrite(name, args[0])
            return None if new is None else (new, *args[1:])

        return run

    handles = []
    try:
        for name in replace:
            module = model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(pre_hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _call(model: Any, prompts: Prompts) -> Any:
    if is_hooked(model):
        padded = (
            {} if prompts.attention_mask is None else {"attention_mask": prompts.attention_mask}
        )
        return model(prompts.tokens, return_type="logits", **padded)
    takes = inspect.signature(model.forward).parameters
    given = {}
    if prompts.attention_mask is not None:
        if "attention_mask" not in takes:
            raise ValueError(
                f"{type(model).__name__}.forward takes no attention_mask, so padding cannot be "
                "masked: give prompts of one length without attention_mask"
            )
        given["attention_mask"] = prompts.attention_mask.long()
    if "use_cache" in takes:
        given["use_cache"] = False
    output = model(prompts.tokens, **given)
    causal = any(word in type(model).__name__ for word in ("CausalLM", "LMHeadModel"))
    return output.logits if causal and hasattr(output, "logits") else output


def _first_tensor(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    return next(v for v in values if isinstance(v, Tensor))


def _chunks(n_rows: int, size: int) -> Iterator[Int[Tensor, " row"]]:
    for start in range(0, n_rows, size):
        yield torch.arange(start, min(start + size, n_rows))


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        "DefaultCPUAllocator" in text or "out of memory" in text
    )


def _device_of(model: Any) -> torch.device:
    parameter = next(iter(_parameters(model)), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _parameters(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _text_config(model: Any) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def vocabulary_of(model: Any) -> int | None:
    """The number of token ids that the model can read, where it can be known."""
    if is_hooked(model):
        return int(model.cfg.d_vocab)
    return getattr(_text_config(model), "vocab_size", None)


def positions_of(model: Any) -> int | None:
    """The longest prompt that the model can read, where it is bounded by a table of positions."""
    if is_hooked(model):
        return getattr(model.cfg, "n_ctx", None)
    return getattr(_text_config(model), "max_position_embeddings", None)


def name_of(model: Any) -> str:
    """What the model is called: the last part of the path or hub name it was loaded from."""
    config = getattr(model, "config", None)
    path = getattr(config, "_name_or_path", "") or getattr(
        getattr(model, "cfg", None), "model_name", ""
    )
    return str(path).rstrip("/").split("/")[-1] or type(model).__name__


def _answers(model: Any) -> int | None:
    """The number of things that the model can answer, where it can be known."""
    if is_hooked(model):
        out = getattr(model.cfg, "d_vocab_out", None)
        return int(out if out and out > 0 else model.cfg.d_vocab)
    if "Classification" in type(model).__name__:
        return model.config.num_labels
    return getattr(_text_config(model), "vocab_size", None)


def _output_width(model: Any) -> int:
    return _answers(model) or 1024


def _processing_of(model: Any) -> str:
    """How the weights were processed: zero ablation depends on it, mean and resample do not."""
    if not is_hooked(model):
        return "none"
    return "compatibility mode" if getattr(model, "compatibility_mode", False) else "none"


def _sha256(tensors: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous()
        digest.update(str((flat.dtype, tuple(flat.shape))).encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """The versions that a result records."""
    return {name: version(name) for name in ("spex_mech", "torch", "numpy")}
