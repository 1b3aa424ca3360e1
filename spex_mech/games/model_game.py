"""ModelGame: a model, prompts and a metric as a set function of which components are kept.

A game holds what a user asked, and what derives from the model as it is (``engine.derived``). Each
call first looks whether the model is still that one; if not, all that derives from it is made anew.
Hooks stand only while a call runs, and act only on the passes that the call starts; the model comes
back as it was, also after an error or an interrupt.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from spex_mech.arguments import counted, shown, switch, whole
from spex_mech.engine.accuracy import Accuracy
from spex_mech.engine.architectures import Architecture, architecture_of
from spex_mech.engine.attention import patterns_of
from spex_mech.engine.cheapest import Choice, choose_precision
from spex_mech.engine.components import Component, Components
from spex_mech.engine.derived import Asked, Current
from spex_mech.engine.device import float_type_of
from spex_mech.engine.expert_use import ExpertUse
from spex_mech.engine.facts import (
    check_tokens,
    fills_masks,
    name_of,
    unwrapped,
    weight_processing,
)
from spex_mech.engine.noise import coarse_metric
from spex_mech.engine.prompts import Prompts, hashes_of_each, prompts_sha256, tokens_sha256
from spex_mech.engine.references import check_asked
from spex_mech.engine.task import Task, warn_of_prompts
from spex_mech.engine.tokens import tokenizer_behind
from spex_mech.fingerprints import (
    config_sha256,
    metric_sha256,
    sha256_of,
)
from spex_mech.game import Answer, Coarse, Game, Tick, no_tick
from spex_mech.games.unit_names import components_of
from spex_mech.masks import MaskBatch
from spex_mech.models import load_tokenizer
from spex_mech.notices import warn
from spex_mech.units import Units


class ModelGame(Game):
    """Masks over a model's components -> metric values, of the model as it is at each call.

    Args:
        model: a TransformerBridge, a transformers model, or an ``nn.Module`` (with
            ``architecture``). It is used as it is, on the device where it is. What torch.compile,
            nnsight or pyvene wrapped around one is taken off.
        task: prompts and a metric.
        components: the units; column ``u`` of a mask is ``components[u]``. Also a text such as
            "heads+neurons" or "L0H3,L1H*", or a list of labels. Default: all heads.
        ablation: "mean" (default), "zero", "mean_per_position", "resample" (needs
            ``task.prompts.corrupted``), or a tensor for each of :attr:`hook_points`, by name.
        reference: prompts for the mean; default: the task's own.
        architecture: where a plain ``nn.Module`` keeps heads and neurons.
        batch_size: rows (mask x prompt) per forward pass; default: found by itself, and halved
            when memory runs out.
        precision: "float32" (the model's own types), "tf32" (CUDA), "bfloat16" (autocast), or
            "auto": the cheapest whose noise floor is under the size that one in ten drawn pairs
            exceeds, with the reason in :attr:`precision_choice` (``engine.cheapest``); the
            metric is read in float32 at least. The noise floor tells what the choice costs.
        replay: share between masks what their passes have in common (``engine.replay``). Default:
            wherever the model can be cut at its blocks, which is tried and compared with plain
            passes when the game is made. True: an error where it cannot. False: plain passes.
        compile: run norms and activation functions through ``torch.compile`` in replayed passes
            (a C++ compiler, on a GPU Triton; seconds when the game is made). No compiled part
            holds a hook point. On a CPU it saved 6 % of the time of GPT-2's shape, and nothing of a
            Llama's.

    A change of the model is noticed at the next call: of weights (in place, by ``.data``, by
    loading, by an optimizer), modules, hooks, adapters, attributes, types, devices, and of anything
    else that changes what the model makes of one of the prompts, which is run at each call. Not
    noticed is what shows in none of these: a buffer or number that a hook or a forward reads from
    elsewhere, if it changes nothing on that one prompt, or changes within a call (the next call,
    and any search, notices); a single number of a weight that is edited through ``.data`` and that
    prompt does not use, or of one that accelerate keeps elsewhere; and what changes and changes
    back within a call. A search whose model changes meanwhile ends with an error.

    Raises:
        ValueError: anything that cannot be ablated or measured as asked; the text says the cure.
    """

    def __init__(
        self,
        model: Any,
        task: Task,
        components: Components | Component | str | Sequence[str | Component] | None = None,
        *,
        ablation: str | Mapping[str, Tensor] = "mean",
        reference: Prompts | None = None,
        architecture: Architecture | None = None,
        batch_size: int | None = None,
        precision: str = "float32",
        replay: bool | None = None,
        compile: bool = False,
    ) -> None:
        if not isinstance(task, Task):
            raise ValueError(f"task is {shown(task)}; give a Task, such as load_task('ioi', model)")
        switch("compile", compile)
        if replay is not None:
            switch("replay", replay)
        if compile and replay is False:
            raise ValueError(
                "compile=True only affects replayed passes; remove replay=False or compile=True"
            )
        self.model, self.task = unwrapped(model, tell=True), task
        check_tokens(self.model, task.prompts)
        sized = architecture_of(self.model, architecture, task.prompts)
        self.components = components_of(sized, components)
        check_asked(ablation, task.prompts, reference)
        self.ablation = ablation if isinstance(ablation, str) else "given"
        warn_of_prompts(self.model, task.prompts, reference)
        _warn_of_masks(self.model, task)
        given = ablation if isinstance(ablation, str) else dict(ablation)
        asked = (self.model, task.prompts, task.metric, self.components, given, reference)
        self._asked = Asked(*asked, architecture, precision, replay, compile)
        self.batch_size = batch_size
        self.precision_choice = Choice(precision, "it was asked for")
        if precision == "auto":
            self.precision_choice = choose_precision(self._asked)
            self._asked = replace(self._asked, precision=self.precision_choice.precision)
        self.precision = self.precision_choice.precision
        self._current = Current(self._asked)
        self.components = self._current.derived.components
        self.device = self._current.derived.device  # where the model's inputs went, to begin with

    def __reduce__(self) -> Any:
        """A copy, or what another process is sent, is made anew from what was asked."""
        return _made_again, (self.task, self._asked, self.batch_size)

    def in_words(self) -> dict[str, str]:
        return _in_words(self) | super().in_words()

    @cached_property
    def _units(self) -> Units:
        return self.components.table()

    @property
    def units(self) -> Units:
        """What the columns of a mask are."""
        return self._units

    @property
    def batch_size(self) -> int | None:
        """Rows (mask x prompt) per forward pass; None: not found yet."""
        return self._asked.rows.limit

    @batch_size.setter
    def batch_size(self, size: int | None) -> None:
        self._asked.rows.limit = None if size is None else whole("batch_size", size, 1)

    @property
    def masks_per_batch(self) -> int:
        """How many masks a driver should ask at a time: a few full batches."""
        return self._current.derived.engine.masks_per_batch()

    @property
    def hook_points(self) -> list[str]:
        """The hook points of this game, in the order of the forward pass. Where a module runs
        several times, its name is followed by the number of the call: ``name:0``, ``name:1``."""
        return list(self._current.derived.hook_points)

    @property
    def architecture(self) -> Architecture:
        """Where the model keeps its heads and neurons."""
        return self._current.derived.architecture

    @property
    def prompts(self) -> Prompts:
        """The task's prompts, on that device."""
        return self._current.derived.prompts

    @property
    def references(self) -> dict[str, Tensor]:
        """What replaces the activations, by hook point: ``[prompt_or_1 pos_or_1 width]``."""
        with self._current.as_it_is() as derived:
            return dict(zip(derived.hook_points, derived.references, strict=True))

    @property
    def has_slopes(self) -> bool:
        """Whether the metric and the model have a gradient, which is tried on one prompt."""
        return not self.why_no_slopes

    @property
    def why_no_slopes(self) -> str:
        """Why not; empty: it has."""
        with self._current.as_it_is() as derived:
            return derived.why_no_slopes

    def changes(self, look: bool = False) -> Sequence[str]:
        return self._current.seen_changes(look)

    @property
    def coarse(self) -> Coarse | None:
        """Why values are less exact than float32; None: they are not."""
        return _coarse(self)

    def pass_size(self) -> int | None:
        return self.batch_size

    def limit_pass_size(self, rows: int) -> None:
        """Run passes of at most so many rows."""
        if self.batch_size is None or self.batch_size > rows:
            self.batch_size = rows

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Tick = no_tick) -> Answer:
        """The metric of each prompt; float64, whatever the model computes in.

        Raises:
            ValueError: a metric that is NaN or of the wrong shape, or has no gradient.
            RuntimeError: the model changed while the call ran.
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
            ValueError, RuntimeError: as a call.
        """
        with self._current.as_it_is() as derived:
            return torch.from_numpy(derived.values(lost, tick))

    def slopes_at(self, gates: Tensor) -> Answer:
        """Values, and slopes by block of prompts (at most 8).

        The gate of a unit scales its activation from the reference (0) to itself (1):
        ``reference + gate * (act - reference)``. One backward pass gives all units.

        Raises:
            ValueError: gates that are no numbers between 0 and 1, a metric that is NaN, or one that
                has no gradient.
        """
        if gates.dtype != torch.bool:
            if not gates.dtype.is_floating_point:
                raise ValueError(f"gates are {gates.dtype}; they must be bool or float numbers")
            if not ((gates >= 0) & (gates <= 1)).all():
                raise ValueError("gates must lie between 0 (ablated) and 1 (kept)")
        with self._current.as_it_is() as derived:
            values, slopes = derived.slopes(gates)
        return Answer(values.numpy(), slopes.numpy())

    @property
    def noise_floor(self) -> float:
        """The size under which an interaction cannot be told from rounding, in the metric's unit:
        the same masks are asked twice, rounded otherwise the second time (``engine.noise``)."""
        with self._current.as_it_is() as derived:
            return derived.noise_floor

    @property
    def accuracy(self) -> Accuracy | None:
        """How often the intact model is right on the prompts; None where that cannot be told."""
        with self._current.as_it_is() as derived:
            return derived.accuracy

    @property
    def expert_use(self) -> ExpertUse | None:
        """How often the intact model's routers choose each expert; None: it has no experts."""
        with self._current.as_it_is() as derived:
            return derived.expert_use

    @property
    def are_blocks_parallel(self) -> bool | None:
        """Whether the MLP of a layer reads nothing of what the heads of its layer write, which is
        tried on one prompt; None: no layer has heads and neurons."""
        with self._current.as_it_is() as derived:
            return derived.are_blocks_parallel

    def attention_patterns(
        self, heads: str | Sequence[str], prompt: int = 0, ablated: str | Sequence[str] = ()
    ) -> Float[np.ndarray, "head query key"]:
        """Which positions heads read from on one prompt, with some units ablated meanwhile.

        Two plain passes, in one of which a transformers model runs its "eager" attention.

        Args:
            heads: a label, or labels, of heads of the model, of this game or not.
            prompt: its number.
            ablated: a label, or labels, of units of this game.

        Raises:
            ValueError: an unknown head, unit or prompt, or a model whose attention weights cannot
                be seen.
        """
        prompt = whole("prompt", prompt, 0, len(self.task.prompts) - 1)
        looked_at = components_of(self.architecture, _listed(heads))
        lost = [self.components.index(unit) for unit in _listed(ablated)]
        with self._current.as_it_is() as derived:
            return patterns_of(derived.setup, derived.places, looked_at, prompt, lost)

    def provenance(self) -> dict[str, Any]:
        """What fixes the game's values: recorded with every result."""
        with self._current.as_it_is() as derived:
            accuracy, clusters = derived.accuracy, derived.prompts.cluster_numbers()
            given = derived.prompts.clusters
            use = derived.expert_use if any(s.kind == "expert" for s in derived.sites) else None
            return {
                "model": name_of(self.model),
                "weights_sha256": derived.weights_sha256,
                "weight_processing": weight_processing(self.model),
                "task": self.task.name,
                **self.task.metric_told(),
                "n_prompts": len(derived.prompts),
                **({} if clusters is None else {"clusters": clusters}),
                **({} if given is None else {"cluster_ids": given.tolist()}),
                **({} if accuracy is None else {"accuracy": accuracy.recorded()}),
                **({} if use is None else {"experts": use.recorded()}),
                "tokens_sha256": tokens_sha256(self.task.prompts),  # as given, of whatever type
                "prompt_hashes": hashes_of_each(self.task.prompts),
                "ablation": self.ablation,
                **({} if self._asked.reference is None else {"reference": "given"}),
                "precision": self.precision,
                "passes": derived.passes,
                "device": str(derived.device),
                "dtype": str(float_type_of(self.model)).removeprefix("torch."),
                "torch": torch.__version__,
            }

    def identity(self) -> dict[str, Any]:
        """What else fixes its values: with ``provenance()``, what a store tells games apart by."""
        with self._current.as_it_is() as derived:
            given = self._asked.reference
            # Means follow from the model and the prompts; tensors that were given, from nothing.
            own = None if self.ablation != "given" else sha256_of(derived.references)
            return {
                "config_sha256": config_sha256(self.model),
                "prompts_sha256": prompts_sha256(derived.prompts),
                "metric_sha256": metric_sha256(self.task.metric),
                "reference_sha256": own if given is None else prompts_sha256(given),
                "hook_points": list(derived.hook_points),
                **self.components.identity(),
                **derived.watch.identity(),
            }


def _in_words(game: ModelGame) -> dict[str, str]:
    given = {"model": name_of(game.model), "task": game.task.name, "metric": game.task.metric_name}
    given |= {"prompts": game.task.prompts.in_short(), "ablation": f"{game.ablation} ablation"}
    return given if game.precision == "float32" else given | {"precision": game.precision}


def _coarse(game: ModelGame) -> Coarse | None:
    if game.precision != "float32":
        return Coarse(f"precision={game.precision!r}", "use precision='float32'")
    own = game._current.derived.float_type
    if own.itemsize >= 4:
        own = game._current.derived.output_type
        if own.itemsize >= 4:
            with game._current.as_it_is() as derived:
                return coarse_metric(game.task.metric_name, derived.metric_rounding)
        name = str(own).removeprefix("torch.")
        return Coarse(f"a model whose output is in {name}", "have it give float32")
    name, cure = str(own).removeprefix("torch."), "load it in float32: dtype=torch.float32"
    if float_type_of(game.model).itemsize >= 4:
        cure = "run its forward pass without autocast"
    return Coarse(f"a model in {name}", cure)


def _warn_of_masks(model: Any, task: Task) -> None:
    """Warn of prompts with mask tokens whose answer is read elsewhere."""
    prompts, by_name = task.prompts, isinstance(task.metric, str)
    asked = by_name and prompts.answers is not None and prompts.answer_pos is None
    if not asked or not prompts.has_tokens or not fills_masks(model):
        return
    tokenizer = tokenizer_behind(task.decode)
    with suppress(ValueError, ImportError):  # it cannot be loaded
        tokenizer = load_tokenizer(model) if tokenizer is None else tokenizer
    mask = getattr(tokenizer, "mask_token_id", None)
    masked = (prompts.tokens == (-1 if mask is None else mask)).any(dim=1)
    if masked.any():
        warn(
            f"{int(masked.sum())} of {counted(len(masked), 'prompt')} have a mask token, and the "
            f"answer is read at the last token, where a {type(model).__name__} fills in nothing; "
            "give Prompts(answer_pos=...), the mask tokens' positions, as Prompts.from_text does"
        )


def _listed(labels: str | Sequence[str]) -> list[str]:
    return [labels] if isinstance(labels, str) else list(labels)


def with_components(game: ModelGame, components: Components) -> ModelGame:
    """The same game of other units of its model."""
    return _made_again(game.task, replace(game._asked, components=components), game.batch_size)


def _made_again(task: Task, asked: Asked, batch_size: int | None) -> ModelGame:
    names = ("ablation", "reference", "architecture", "precision", "replay", "compile")
    options = {name: getattr(asked, name) for name in names}
    return ModelGame(asked.model, task, asked.components, batch_size=batch_size, **options)
