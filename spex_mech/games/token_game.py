"""TokenGame: one text and a metric as a set function of which of its tokens the model sees.

Feature attribution on the same core as heads and neurons: ``discover`` takes it as it is. A masked
token is replaced by a mask token, hidden from attention, deleted, or its embedding is replaced by
the mean one or by zeros; of the last two the gradient of every unit's gate is known.
"""

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spex_mech.arguments import label_list, whole
from spex_mech.engine.architectures import is_hooked
from spex_mech.engine.checks import RowsDiffer, check_same_alone
from spex_mech.engine.device import (
    computing,
    device_of,
    float_type_of,
    in_batches,
    is_out_of_memory,
    narrowest,
    out_of_inference_mode,
)
from spex_mech.engine.examples import core_of
from spex_mech.engine.facts import check_tokens, name_of, unwrapped, vocabulary_of
from spex_mech.engine.measure import Measure
from spex_mech.engine.metrics import METRICS, Metric
from spex_mech.engine.noise import coarse_metric, rounding_within
from spex_mech.engine.passes import call, output_of, turn_of
from spex_mech.engine.plain import NoSlopes, slopes_of
from spex_mech.engine.prompts import Prompts, prompts_sha256, without_padding
from spex_mech.engine.rounding import (
    Change,
    off_by,
    parts_rounded,
    type_of_output,
    types_seen,
    with_first,
)
from spex_mech.engine.running import evaluating, first_tensor
from spex_mech.engine.task import Task
from spex_mech.engine.text import TextTask, head_of
from spex_mech.engine.tokens import tokenizer_behind
from spex_mech.engine.watch import Watch, Watched
from spex_mech.fingerprints import (
    config_sha256,
    metric_sha256,
    weights_sha256,
)
from spex_mech.game import Answer, Coarse, Game, Tick, no_tick
from spex_mech.games.places import spread, unit_of_places
from spex_mech.games.spans import labels_of, scored_positions, spans_of, special_ids
from spex_mech.masks import MaskBatch, names_of
from spex_mech.models import load_tokenizer
from spex_mech.notices import warn
from spex_mech.units import Unit, Units

MASKINGS = ("token", "attention", "delete", "mean", "zero")
_EMBEDDED = ("mean", "zero")
_SCORES_TEXT = (METRICS["log_prob"], METRICS["loss"])  # without answers
_CPU_TOKENS = 2048
_FLOOR_MASKS = 8  # on which values in half precision are compared with those in float32


class TokenGame(Game):
    """Masks over the tokens of one text -> metric values ``[mask 1]``.

    Args:
        model: of transformers, or a TransformerBridge (not for "mean" and "zero"): a classifier, a
            causal model or an encoder.
        task: one prompt, and a metric by name ("log_prob" of the answers, which are classes for a
            classifier; "logit_diff", ...) or function. Without answers, "log_prob" scores the
            tokens after ``target_mask``: a continuation under teacher forcing.
        spans: "words" or "sentences" (by the tokenizer), or the positions of each unit. Default:
            each token alone. Special tokens of the tokenizer and tokens that the metric scores are
            in none of these; in spans of your own a scored token is hidden from the model, and
            still scored as what it is. Positions in no span are always seen.
        masking: "token" (replaced by ``mask_id``), "attention" (nothing attends to it; positions
            are kept where the model takes them, but those of ALiBi close up), "delete" (the rest
            closes up), "mean" or "zero" (of its embedding, which has gradients: the mean is that of
            the whole vocabulary). Default: "token"
            where the tokenizer has a mask token, otherwise "mean", or "attention" where the model
            takes no embeddings. "attention" never hides the token at which the answer is read, so
            that it is in no unit by default, which a warning says; in spans of your own, effects
            of it are those of what other tokens see of it. Nor does "delete" a token whose own
            class is asked for, or any that is scored.
        mask_id: for "token"; default: the tokenizer's mask token.
        tokenizer: names the units, and knows special tokens. Default: that of the task, or the one
            that ``load_tokenizer(model)`` finds.
        labels: the name of each unit; default: position and text.
        batch_size: masks a forward pass.

    With "mean" and "zero" it has slopes, by gates that go from masked (0) to the token's own
    embedding (1).

    Raises:
        ValueError: more than one prompt, spans that overlap or do not exist, a masking that lacks
            what it needs.
    """

    def __init__(
        self,
        model: Any,
        task: Task,
        spans: Any = None,
        *,
        masking: str | None = None,
        mask_id: int | None = None,
        tokenizer: Any = None,
        labels: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> None:
        if len(task.prompts) != 1:
            raise ValueError(
                f"the task has {len(task.prompts)} prompts; the tokens of one text are the units, "
                "so give one: task.prompts[:1]"
            )
        self.model = model = unwrapped(model, tell=True)
        self._asked = {"spans": spans, "masking": masking, "mask_id": mask_id, "labels": labels}
        self._asked["tokenizer"] = tokenizer
        self.task, self.device = task, device_of(model)
        self.prompt = without_padding(task.prompts).to(self.device)
        if self.prompt.inputs:
            raise ValueError(
                f"a TokenGame reads tokens alone, and the prompts have "
                f"{', '.join(self.prompt.inputs)}; leave these out"
            )
        check_tokens(model, self.prompt)
        self._decoder = _decoder_tokens(model, task)
        tokenizer = _tokenizer_for(model, task) if tokenizer is None else tokenizer
        _check_pair(model, self.prompt, tokenizer)
        own = getattr(tokenizer, "mask_token_id", None)
        self.mask_id = own if mask_id is None else _token_id(model, mask_id)
        self.masking = masking or _default_masking(self)
        unhidden = _read_at(model, task) if self.masking == "attention" else set()
        asked = _asked_for(self.prompt, tokenizer) if self.masking == "delete" else set()
        self.spans = spans_of(task, spans, tokenizer, unhidden | asked)
        _warn_of_unhidden(spans, unhidden | asked, self.masking)
        own = labels_of(task, self.spans, tokenizer) if labels is None else labels
        names = label_list(own, len(self.spans))
        self._units = Units(
            Unit(name, "token", slots=tuple(map(str, span)))
            for name, span in zip(names, self.spans, strict=True)
        )
        check_masking(self)
        self._measure = Measure(_metric_of(task), task.metric_name, names, self.device)
        n_pos = self.prompt.tokens.shape[1]
        own_size = max(1, _CPU_TOKENS // n_pos)
        self.batch_size = own_size if batch_size is None else whole("batch_size", batch_size, 1)
        if _pools_last(model) and model.config.pad_token_id is None:
            self.batch_size = 1  # transformers refuses more, not knowing where a row ends
        self._fill: Tensor | None = None
        self._turn = turn_of(model)
        with self._turn, self._computing():
            self._unit_of = unit_of_places(self.spans, n_pos).to(self.device)
            self._positions = _kept_positions(self)
            _check_values(self)
            self._watched = Watched(
                lambda: Watch(self.model, self.prompt, self._computing, self._intact)
            )

    _change: Change | None = None  # of the output, to see what its rounding does
    _hashed: tuple[Watch, str] | None = None  # the weights, as long as they are so

    def __reduce__(self) -> Any:
        """A copy, or what another process is sent, is made anew from what was asked."""
        options = self._asked | {"batch_size": self.batch_size}
        return partial(TokenGame, **options), (self.model, self.task)

    @property
    def units(self) -> Units:
        return self._units

    def in_words(self) -> dict[str, str]:
        return _in_words(self) | super().in_words()

    @property
    def has_slopes(self) -> bool:
        return self.masking in _EMBEDDED and not self.why_no_slopes

    @property
    def why_no_slopes(self) -> str:
        if self.masking not in _EMBEDDED:
            return ""
        try:
            self.slopes_at(torch.full((1, len(self)), 0.5))
        except NoSlopes as error:
            return str(error)
        return ""

    def changes(self, look: bool = False) -> Sequence[str]:
        if look:
            with self._as_it_is():
                pass
        return self._watched.changes

    @property
    def masks_per_batch(self) -> int:
        """How many masks a driver should ask at a time."""
        return 4 * self.batch_size

    def pass_size(self) -> int | None:
        return self.batch_size

    def limit_pass_size(self, rows: int) -> None:
        self.batch_size = min(self.batch_size, rows)

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Tick = no_tick) -> Answer:
        """The metric with what is not kept masked."""
        keep = torch.from_numpy(masks.kept())
        if slopes:
            return self.slopes_at(keep)
        values = np.empty((len(keep), 1))

        def run(part: slice) -> None:
            with torch.no_grad():
                values[part, 0] = self._measured(keep[part].to(self.device)).double().cpu().numpy()

        with self._as_it_is():
            self.batch_size = in_batches(len(keep), self.batch_size, run)
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            lost = (~keep[row]).nonzero()[:, 0].tolist()
            raise ValueError(
                f"the metric {self.task.metric_name} is {values[row].item()} with "
                f"{names_of(self.labels, lost)} masked; it must be finite"
            )
        return Answer(values)

    def slopes_at(self, gates: Tensor) -> Answer:
        """Values and slopes; a text is one block.

        Raises:
            ValueError: a masking that has no slopes.
        """
        if self.masking not in _EMBEDDED:
            return super().slopes_at(gates)
        values, slopes = np.empty((len(gates), 1)), np.empty((len(gates), 1, len(self)))

        def run(part: slice) -> None:
            leaf = gates[part].to(self.device, torch.float32, copy=True).requires_grad_()
            with torch.enable_grad():
                measured = self._measured(leaf)
                (slope,) = slopes_of(measured, [leaf], 1.0, self.task.metric_name)
            values[part, 0] = measured.detach().double().cpu().numpy()
            slopes[part, 0] = slope.double().cpu().numpy()

        with self._as_it_is():
            in_batches(len(gates), max(1, self.batch_size // 4), run)
        return Answer(values, slopes)

    def provenance(self) -> dict[str, Any]:
        """What fixes the game's values: recorded with every result."""
        return {
            "lens": "tokens",
            "model": name_of(self.model),
            "weights_sha256": _weights_of(self),
            "task": self.task.name,
            **self.task.metric_told(),
            **({"score": self.task.score} if isinstance(self.task, TextTask) else {}),
            "masking": self.masking,
            "mask_id": self.mask_id if self.masking == "token" else None,
            "tokens": self.prompt.tokens[0].tolist(),
            "device": str(self.device),
        }

    def identity(self) -> dict[str, Any]:
        """What else fixes its values: with ``provenance()``, what a store tells games apart by."""
        return {
            "config_sha256": config_sha256(self.model),
            "prompts_sha256": prompts_sha256(self.prompt),
            "metric_sha256": metric_sha256(self.task.metric),
            "spans": [list(span) for span in self.spans],
            **self._watched.watch.identity(),
        }

    @property
    def coarse(self) -> Coarse | None:
        """Half precision, of the weights or of what a pass computes in or gives."""
        return _coarse(self)

    @property
    def noise_floor(self) -> float | None:
        """Of a model in half precision: twice the error that its rounding makes in an interaction
        of a pair, from a few masks on which it is compared with the same weights in float32; with
        itself, rounded otherwise, where these compute in half precision too. Of a metric of one's
        own that rounds, twice what that makes."""
        return _noise_floor(self)

    # -- inside ---------------------------------------------------------------------------------

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """The model in evaluation, in its own types, whatever stands around the call."""
        with out_of_inference_mode(), computing(self.device, "float32"), evaluating(self.model):
            yield

    @contextmanager
    def _as_it_is(self) -> Iterator[None]:
        """What derives from the model is of the model as it is now; other games on it wait."""
        with self._turn, self._computing():
            self._watched.look()
            self._fill = None
            with self._watched.watch.unchanged_within():
                yield

    def _intact(self, prompts: Prompts) -> Any:
        return _output(self.model, prompts, None, None, self._decoder)

    def _measured(
        self, keep: Bool[Tensor, "mask unit"] | Float[Tensor, "mask unit"]
    ) -> Float[Tensor, " mask"]:
        seen = spread(keep, self._unit_of)
        if self.masking != "delete":
            return self._scored(self._rows(len(keep)), seen)
        # Rows of one length together: with nothing behind them, every model reads what is left.
        values = torch.zeros(len(keep), device=self.device, dtype=torch.float64)
        lengths = seen.sum(dim=1)
        for length in lengths.unique().tolist():
            at = (lengths == length).nonzero()[:, 0]
            values[at] = self._scored(
                _deleted(self._rows(len(at)), seen[at], length), None
            ).double()
        return values

    def _rows(self, count: int) -> Prompts:
        return self.prompt[torch.zeros(count, dtype=torch.long, device=self.device)]

    def _scored(self, prompts: Prompts, seen: Tensor | None) -> Float[Tensor, " mask"]:
        """The metric of rows; what is not seen is masked."""
        embeddings, positions, read = None, None, prompts
        if self.masking in _EMBEDDED:
            assert seen is not None
            embeddings = self._embeddings(prompts, seen)
        elif self.masking == "token":
            assert seen is not None and self.mask_id is not None
            # The metric has the tokens as they are: a masked one is scored as what it was.
            read = prompts.replaced(tokens=prompts.tokens.masked_fill(~seen, self.mask_id))
        elif self.masking == "attention":
            assert seen is not None
            # The answer is read where it was, though a mask with holes does not say where.
            read = prompts.replaced(attention_mask=prompts.real & seen, answer_pos=prompts.last)
            scored = read.real.clone()
            scored[:, sorted(_scored_at(self))] = True  # also where nothing may attend to them
            prompts = read.replaced(attention_mask=scored)
            positions = self._positions
        output = _output(self.model, read, embeddings, positions, self._decoder)
        if self._change is not None:
            output = with_first(output, self._change)
        return self._measure(output, prompts)

    def _embeddings(self, prompts: Prompts, seen: Tensor) -> Float[Tensor, "mask pos d_model"]:
        table = self.model.get_input_embeddings()
        own = table(prompts.tokens)
        if self._fill is None:
            zeros = torch.zeros_like(own[0, 0])
            self._fill = _mean_embedding(table, own) if self.masking == "mean" else zeros
        return self._fill + seen.to(own)[:, :, None] * (own - self._fill)


def _default_masking(game: "TokenGame") -> str:
    if game.mask_id is not None:
        return "token"
    embeds = not is_hooked(game.model) and hasattr(game.model, "get_input_embeddings")
    return "mean" if embeds else "attention"


def _weights_of(game: "TokenGame") -> str:
    """The weights as they are now, hashed once for as long as they are so."""
    with game._as_it_is():
        watch = game._watched.watch
        if game._hashed is None or game._hashed[0] is not watch:
            game._hashed = watch, weights_sha256(game.model)
        return game._hashed[1]


def _tokenizer_for(model: Any, task: Task) -> Any:
    """The tokenizer of a task or, where that has none, the model's own; None: there is none.

    Warns:
        UserWarning: the model has one that cannot be loaded.
    """
    if (own := tokenizer_behind(task.decode)) is not None:
        return own
    try:
        return load_tokenizer(model)
    except (ValueError, ImportError) as error:
        warn(
            f"the tokenizer of {name_of(model)} cannot be loaded, so that units are called by "
            f"token ids, and special tokens are units too; give tokenizer=... ({error})"
        )
        return None


def _metric_of(task: Task) -> Metric:
    """Raises:
    ValueError: a metric by name that is of heads and neurons alone.
    """
    if not isinstance(task.metric, str):
        return task.metric
    if task.metric not in METRICS:
        raise ValueError(f"a TokenGame has no metric {task.metric!r}; choose of {[*METRICS]}")
    return METRICS[task.metric]


def _scored_at(game: "TokenGame") -> set[int]:
    """The positions of the tokens that the metric scores, as far as that is known."""
    prompt, metric = game.prompt, _metric_of(game.task)
    if prompt.target_mask is None and prompt.answers is None and metric in _SCORES_TEXT:
        return set(range(1, prompt.tokens.shape[1]))
    return scored_positions(prompt)


def _in_words(game: "TokenGame") -> dict[str, str]:
    task = game.task
    score = task.score if isinstance(task, TextTask) else task.metric_name
    text = {} if not isinstance(task, TextTask) or task.text is None else {"text": repr(task.text)}
    given = {"model": name_of(game.model), **text, "score": score}
    return given | {"masking": f"masked by {game.masking!r}"}


def _kept_positions(game: "TokenGame") -> Int[Tensor, "1 pos"] | None:
    """Positions to hand over, where a model would work them out from the attention mask."""
    if game.masking != "attention":
        return None
    model, takes = game.model, inspect.signature(core_of(game.model).forward).parameters
    # What a bridge does not know it hands on to the model within; a HookedTransformer does not.
    handed = "kwargs" if is_hooked(model) else "position_ids"
    alibi = getattr(getattr(model, "config", None), "alibi", False)
    alibi = alibi or any("Bloom" in type(part).__name__ for part in model.modules())
    if alibi or (is_hooked(model) and handed not in takes):
        warn(
            f"{type(model).__name__} works out positions from the attention mask, so that "
            "masking='attention' closes up the text as masking='delete' does",
        )
    if handed not in takes:
        return None
    positions = torch.arange(game.prompt.tokens.shape[1], device=game.device)[None]
    with torch.no_grad(), suppress(TypeError):  # a bridge of a model that takes none
        own = _output(model, game.prompt, None, None, game._decoder)
        given = _output(model, game.prompt, None, positions, game._decoder)
        # Some families begin to count elsewhere (RoBERTa), and not from the attention mask.
        return positions if _same_output(own, given, 1e-3) else None
    return None


def _same_output(own: Any, given: Any, near: float) -> bool:
    """Whether a model answers the same: its outputs are compared, as a metric that counts, or
    varies by itself, does not tell."""
    first, second = first_tensor(own).float(), first_tensor(given).float()
    size = first.nan_to_num(posinf=0, neginf=0).abs().max()
    return torch.allclose(first, second, rtol=near, atol=near * float(size), equal_nan=True)


def _check_values(game: "TokenGame") -> None:
    """Raises:
    ValueError: values would not be those of the text as the model reads it, alone.
    """
    _check_embeddings(game)
    _check_hidden(game)
    _check_rows_alone(game)


def _check_hidden(game: "TokenGame") -> None:
    """Warns:
    UserWarning: what stands where nothing attends to it still changes what the model says.
    """
    if game.masking != "attention":
        return
    nothing = torch.zeros(1, len(game), dtype=torch.bool, device=game.device)
    seen = spread(nothing, game._unit_of)
    own = game.prompt.replaced(attention_mask=game.prompt.real & seen)
    tokens = own.tokens.masked_scatter(~seen, own.tokens[~seen].roll(1))
    with torch.no_grad():
        first, second = (
            first_tensor(_output(game.model, read, None, game._positions, game._decoder))
            for read in (own, own.replaced(tokens=tokens))
        )
    if first.ndim == 3 and first.shape[1] == seen.shape[1]:
        first, second = first[seen], second[seen]
    if not _same_output(first, second, 1e-3 if _precision_of(game.model) is None else 0.05):
        warn(
            f"masking='attention' does not hide a token from this {type(game.model).__name__}: as "
            "other parts than attention read it too, its effects are a part of what it does, or "
            "nothing; masking='token', 'mean' or 'delete' hides it",
        )


def _check_embeddings(game: "TokenGame") -> None:
    if game.masking not in _EMBEDDED:
        return
    everything = torch.ones(1, len(game), device=game.device)
    with torch.no_grad():
        own = game._intact(game.prompt)
        try:
            embeddings = game._embeddings(game.prompt, spread(everything, game._unit_of))
            given = _output(game.model, game.prompt, embeddings, None, game._decoder)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise ValueError(
                f"this {type(game.model).__name__} reads no embeddings in place of tokens "
                f"({type(error).__name__}: {error}), as masking={game.masking!r} gives it; use "
                "'token', 'attention' or 'delete'"
            ) from error
        if _same_output(own, given, 1e-3 if _precision_of(game.model) is None else 0.05):
            return
        values = [game._measure(output, game.prompt).item() for output in (own, given)]
    raise ValueError(
        f"this {type(game.model).__name__} answers {values[0]:.4g} to the text as tokens and "
        f"{values[1]:.4g} to its embeddings, so that masking={game.masking!r} would explain "
        "another function; use 'token', 'attention' or 'delete'"
    )


def _check_rows_alone(game: "TokenGame") -> None:
    """Raises:
    RowsDiffer: a metric of one's own gives a row another value beside others than alone.

    Warns:
        UserWarning: so does the model, of a metric that reads each row's own.
    """
    if game.batch_size == 1:
        return
    masks = torch.ones(3, len(game), dtype=torch.bool, device=game.device)
    masks[1, 0] = masks[2, -1] = False
    with torch.no_grad():
        beside, again = (game._measured(masks).double() for _ in range(2))
        alone = torch.cat([game._measured(mask[None]).double() for mask in masks])
        output = game._intact(game.prompt)
    if torch.equal(beside.nan_to_num(), again.nan_to_num()):  # it does not vary by itself
        size, kind = first_tensor(output).abs().max(), narrowest([float_type_of(game.model)])
        rounding = torch.finfo(narrowest([kind, type_of_output(output)])).eps * float(size)
        try:
            check_same_alone(alone, beside, rounding, game.task.metric_name)
        except RowsDiffer as error:
            if game._measure.metric not in METRICS.values():
                raise
            warn(error.of_model(type(game.model).__name__))


def _token_id(model: Any, mask_id: Any) -> int:
    """Raises:
    ValueError: it is no token of the model's.
    """
    bound = vocabulary_of(model)
    return whole("mask_id", mask_id, 0, bound - 1 if bound else None)


def check_masking(game: "TokenGame") -> None:
    """Raises:
    ValueError: a masking that lacks what it needs.
    """
    if game.masking not in MASKINGS:
        raise ValueError(f"masking={game.masking!r}; choose one of {', '.join(MASKINGS)}")
    if game.masking == "token" and game.mask_id is None:
        raise ValueError(
            "masking='token' needs mask_id=..., a token id (the tokenizer has no mask token)"
        )
    no_embeddings = is_hooked(game.model) or not hasattr(game.model, "get_input_embeddings")
    if game.masking in _EMBEDDED and no_embeddings:
        raise ValueError(
            f"masking={game.masking!r} needs a transformers model, not "
            f"{type(game.model).__name__}; use 'token', 'attention' or 'delete'"
        )
    if (
        game.masking == "token"
        and _pools_last(game.model)
        and game.mask_id == game.model.config.pad_token_id
    ):
        raise ValueError(
            f"mask_id={game.mask_id} is this model's padding, and it reads its answer at the "
            "last token that is none: a masked last token would move where it reads. Give "
            "another mask_id, or use masking='delete' or 'mean'"
        )
    covered = {p for span in game.spans for p in span}
    at = game.prompt.answer_pos
    if game.masking == "delete" and at is not None and int(at) in covered:
        raise ValueError(
            f"masking='delete' with position {int(at)} in a unit: the answer is read there, and "
            "nothing is left to read once it is deleted; leave it out of spans, or use 'token', "
            "'mean' or 'zero'"
        )
    if game.masking == "delete" and (lost := sorted(_scored_at(game) & covered)):
        raise ValueError(
            f"masking='delete' with the scored token at position {lost[0]} in a unit: other tokens "
            "would be scored once it is gone; leave it out of spans, score a part by target_mask, "
            "or use 'token', 'mean' or 'zero'"
        )
    scored = scored_positions(game.prompt)
    if game.masking == "delete" and scored and covered.issuperset(range(min(scored))):
        raise ValueError(
            "masking='delete' with every token before the scored ones in a unit leaves the "
            f"first scored token (position {min(scored)}) nothing to be predicted from; leave "
            "one out of spans (such as the first), or use 'token'"
        )
    n_covered = len(covered)
    if game.masking in ("delete", "attention") and n_covered == int(game.prompt.real.sum()):
        raise ValueError(
            f"masking={game.masking!r} with every token in a unit leaves nothing to see when "
            "all are masked; leave one out of spans (such as the first), or use 'token', 'mean' "
            "or 'zero'"
        )


def _moved(position: Int[Tensor, " mask"], order: Int[Tensor, "mask pos"]) -> Int[Tensor, " mask"]:
    """Where a position went."""
    return (order == position[:, None]).int().argmax(dim=1)


def _moved_targets(
    target: Bool[Tensor, "mask pos"] | None,
    seen: Bool[Tensor, "mask pos"],
    order: Int[Tensor, "mask pos"],
) -> Bool[Tensor, "mask pos"] | None:
    """The positions before the scored tokens, once some positions are gone: a token is scored from
    whatever comes before it then."""
    if target is None:
        return None
    scored = torch.nn.functional.pad(target[:, :-1], (1, 0)) & seen
    return torch.nn.functional.pad(scored.gather(1, order)[:, 1:], (0, 1))


def _deleted(prompts: Prompts, seen: Bool[Tensor, "mask pos"], length: int) -> Prompts:
    """Rows without the tokens that are not seen, of which each leaves as many."""
    order = (~seen).int().argsort(dim=1, stable=True)
    targets = _moved_targets(prompts.target_mask, seen, order)
    types, at = prompts.token_types, prompts.answer_pos
    return prompts.replaced(
        tokens=prompts.tokens.gather(1, order)[:, :length],
        attention_mask=None,
        token_types=None if types is None else types.gather(1, order)[:, :length],
        target_mask=None if targets is None else targets[:, :length],
        answer_pos=None if at is None else _moved(at, order),
    )


def _output(
    model: Any,
    prompts: Prompts,
    embeddings: Float[Tensor, "row pos d_model"] | None,
    positions: Int[Tensor, "1 pos"] | None,
    decoder: tuple[int, ...] | None,
) -> Any:
    """One pass, by tokens or by embeddings."""
    if embeddings is None and positions is None and decoder is None:
        return call(model, prompts)
    given: dict[str, Any] = {}
    if prompts.attention_mask is not None:
        given["attention_mask"] = prompts.attention_mask.long()
    if prompts.token_types is not None:
        given["token_type_ids"] = prompts.token_types
    if positions is not None:
        given["position_ids"] = positions.expand(len(prompts), -1)
    if is_hooked(model):
        return model(prompts.tokens, return_type="logits", **given)
    if decoder is not None:
        rows = torch.tensor([decoder], device=prompts.tokens.device)
        given["decoder_input_ids"] = rows.expand(len(prompts), -1)
    if "use_cache" in inspect.signature(core_of(model).forward).parameters:
        given["use_cache"] = False
    given |= {"input_ids": prompts.tokens} if embeddings is None else {"inputs_embeds": embeddings}
    return output_of(model, model(**given))


def _mean_embedding(table: Any, own: Tensor) -> Float[Tensor, " d_model"]:
    """Of the whole vocabulary, as the table gives embeddings (some scale them)."""
    rows = torch.arange(len(table.weight), device=own.device).split(4096)
    return sum(table(part).sum(dim=0) for part in rows) / len(table.weight)  # type: ignore[return-value]


def _precision_of(model: Any) -> str | None:
    """The type of weights in half precision; None: in float32 or more."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    short = [kind for kind in kinds if kind.itemsize < 4]
    return str(short[0]).removeprefix("torch.") if short else None


def _coarse(game: "TokenGame") -> Coarse | None:
    if (kind := _precision_of(game.model)) is not None:
        return Coarse(f"a model in {kind}", "use model.float()")
    if (kind := _computes_in(game)).itemsize >= 4:
        return coarse_metric(game.task.metric_name, _rounding_of_metric(game))
    name = str(kind).removeprefix("torch.")
    return Coarse(
        f"a model that computes in {name}", "run its forward pass in float32, without autocast"
    )


def _noise_floor(game: "TokenGame") -> float | None:
    weights = _precision_of(game.model)
    if weights is None and _computes_in(game).itemsize >= 4:
        return 4 * _rounding_of_metric(game) or None
    chance = torch.Generator().manual_seed(0)
    masks = torch.rand(_FLOOR_MASKS, len(game), generator=chance, dtype=torch.float32) > 0.2
    masks[0] = True
    values, other = game(masks), None
    if weights is not None:
        exact = copy.copy(game)
        with suppress(Exception):  # of some nothing else than what they are can be made
            exact.model = copy.deepcopy(game.model).float()
            other = exact(masks) if _computes_in(exact).itemsize >= 4 else None
    other = _rounded_otherwise(game, masks) if other is None else other
    # An interaction is a sum of four values, so that its error is twice as large.
    return 4 * float((values - other).square().mean().sqrt())


def _rounding_of_metric(game: "TokenGame") -> float:
    """What a metric of one's own rounds of a value, of an output in float32."""
    if isinstance(game.task.metric, str):
        return 0.0
    with game._as_it_is(), torch.no_grad():
        output = game._intact(game.prompt)
        return rounding_within(lambda moved: game._measure(moved, game.prompt), output)


def _computes_in(game: "TokenGame") -> torch.dtype:
    """The narrowest floating type of a pass and of its output."""
    with game._as_it_is(), torch.no_grad(), types_seen(game.model) as types:
        output = game._intact(game.prompt)
    return narrowest([*types, type_of_output(output)])


def _rounded_otherwise(game: "TokenGame", masks: Tensor) -> Float[Tensor, "mask 1"]:
    """The values where what is in half precision is off by parts of a rounding."""
    chance = torch.Generator().manual_seed(0)
    with game._as_it_is(), torch.no_grad(), parts_rounded(game.model, chance):
        kind = type_of_output(game._intact(game.prompt))
        half = kind.itemsize < 4
        game._change = off_by(torch.finfo(kind).eps, chance) if half else None
        try:
            return game._measured(masks.to(game.device)).double().cpu()[:, None]
        finally:
            game._change = None


def _pools_last(model: Any) -> bool:
    """Whether it classifies a text by its last token that is no padding, as decoders do: these
    call the layer on top ``score``."""
    model = core_of(model)
    return "SequenceClassification" in type(model).__name__ and hasattr(model, "score")


def _read_at(model: Any, task: Task) -> set[int]:
    """The positions at which the answer is read off, in models that read it at a token."""
    prompt = task.prompts
    name = type(core_of(model)).__name__
    causal = is_hooked(model) or any(word in name for word in ("CausalLM", "LMHeadModel"))
    if scored := scored_positions(prompt):
        return {min(scored) - 1}
    return (
        {int(prompt.last)}
        if causal or _pools_last(model) or prompt.answer_pos is not None
        else set()
    )


def _asked_for(prompt: Prompts, tokenizer: Any) -> set[int]:
    """The position that the prompt names, where it would be a unit: once the token is deleted,
    there is nothing to read there."""
    if prompt.answer_pos is None:
        return set()
    at = int(prompt.answer_pos)
    return set() if int(prompt.tokens[0, at]) in special_ids(tokenizer) else {at}


def _warn_of_unhidden(asked: Any, unhidden: set[int], masking: str) -> None:
    if not unhidden or not (asked is None or isinstance(asked, str)):
        return
    places = ", ".join(map(str, sorted(unhidden)))
    cannot, others = (
        ("delete", "'token', 'mean' or 'zero'")
        if masking == "delete"
        else ("hide", "'mean' or 'delete'")
    )
    warn(
        f"masking={masking!r} cannot {cannot} the token at position {places}, at which the answer "
        f"is read, so that it is in no unit; masking={others} hides it",
    )


def _decoder_tokens(model: Any, task: Task) -> tuple[int, ...] | None:
    """What the decoder of an encoder-decoder is given.

    Raises:
        ValueError: it is not known.
    """
    known = task.decoder_tokens if isinstance(task, TextTask) else None
    if known is None and not is_hooked(model) and head_of(model).kind == "decoder":
        raise ValueError(
            f"a {type(model).__name__} needs to be told what its decoder writes: make the task "
            "with text_task(model, text, answer)"
        )
    return known


def _check_pair(model: Any, prompt: Prompts, tokenizer: Any) -> None:
    """Raises:
    ValueError: two sentences, of which the model is not told which is which.
    """
    n_types = getattr(getattr(model, "config", None), "type_vocab_size", None) or 0
    if n_types < 2 or prompt.token_types is not None:
        return
    ids = prompt.tokens[0][prompt.real[0]].tolist()
    # Without a tokenizer the token that ends the text is the best guess.
    separator = ids[-1] if tokenizer is None else getattr(tokenizer, "sep_token_id", None)
    if separator is not None and separator in ids[:-1]:
        raise ValueError(
            f"the separator, token {separator}, stands inside the text, so that these seem to be "
            "two sentences, and this model tells them apart by token types: give "
            "text_task(..., second=...), or Prompts(..., token_types=...), all 0 for one sentence"
        )
