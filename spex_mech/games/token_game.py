"""TokenGame: one text and a metric as a set function of which of its tokens the model sees.

Feature attribution on the same core as heads and neurons: ``discover`` takes it as it is. A masked
token is replaced by a mask token, hidden from attention, deleted, or its embedding is replaced by
the mean one or by zeros; of the last two the gradient of every unit's gate is known.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spex_mech.engine.device import in_batches
from spex_mech.engine.metrics import METRICS, Metric, Task
from spex_mech.engine.passes import call, check_tokens, device_of, evaluating, name_of, output_of
from spex_mech.engine.prompts import Prompts
from spex_mech.fingerprints import (
    config_sha256,
    metric_sha256,
    prompts_sha256,
    sha256_of,
)
from spex_mech.game import Answer, Game, Tick, no_tick
from spex_mech.masks import MaskBatch, names_of, spread, unit_of_places
from spex_mech.units import Unit, Units

MASKINGS = ("token", "attention", "delete", "mean", "zero")
_CPU_TOKENS = 2048


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
            in none of these. Positions in no span are always seen.
        masking: "token" (replaced by ``mask_id``), "attention" (nothing attends to it; positions
            are kept), "delete" (the rest closes up), "mean" or "zero" (its embedding, which is
            differentiable). Default: "token" where the tokenizer has a mask token, otherwise
            "attention".
        mask_id: for "token"; default: the tokenizer's mask token.
        tokenizer: names the units, and knows special tokens; optional.
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
        spans: str | Sequence[Sequence[int]] | None = None,
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
        self.model, self.task, self.device = model, task, device_of(model)
        self.prompt = task.prompts.to(self.device)
        check_tokens(model, self.prompt)
        self.spans = _checked_spans(self.prompt, spans, tokenizer)
        names = list(labels) if labels is not None else _labels(self, tokenizer)
        different = len(set(names))
        if different != len(self.spans):
            raise ValueError(f"{different} different labels for {len(self.spans)} units")
        self._units = Units(
            Unit(name, "token", slots=tuple(map(str, span)))
            for name, span in zip(names, self.spans, strict=True)
        )
        own = getattr(tokenizer, "mask_token_id", None)
        self.mask_id = own if mask_id is None else mask_id
        self.masking = masking or ("attention" if self.mask_id is None else "token")
        self._check_masking()
        if isinstance(task.metric, str) and task.metric not in METRICS:
            raise ValueError(f"a TokenGame has no metric {task.metric!r}; choose of {[*METRICS]}")
        self._metric: Metric = METRICS[task.metric] if isinstance(task.metric, str) else task.metric
        n_pos = self.prompt.tokens.shape[1]
        self._unit_of = unit_of_places(self.spans, n_pos).to(self.device)
        self.batch_size = batch_size or max(1, _CPU_TOKENS // n_pos)

    @property
    def units(self) -> Units:
        return self._units

    @property
    def has_slopes(self) -> bool:
        return self.masking in ("mean", "zero")

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
        values = torch.empty(len(keep), 1, dtype=torch.float64)

        def run(part: slice) -> None:
            with torch.no_grad():
                values[part, 0] = self._measured(keep[part].to(self.device)).double().cpu()

        self.batch_size = in_batches(len(keep), self.batch_size, run)
        if not values.isfinite().all():
            row = int((~values.isfinite()).nonzero()[0, 0])
            lost = (~keep[row]).nonzero()[:, 0].tolist()
            raise ValueError(
                f"the metric {self.task.metric_name} is {values[row].item()} with "
                f"{names_of(self.labels, lost)} masked; it must be finite"
            )
        return Answer(values.numpy())

    def slopes_at(self, gates: Tensor) -> Answer:
        """Values and slopes; a text is one block.

        Raises:
            ValueError: a masking that has no slopes.
        """
        if not self.has_slopes:
            return super().slopes_at(gates)
        values = torch.empty(len(gates), 1, dtype=torch.float64)
        slopes = torch.empty(gates.shape, dtype=torch.float64)

        def run(part: slice) -> None:
            leaf = gates[part].to(self.device, torch.float32).requires_grad_()
            with torch.enable_grad():
                measured = self._measured(leaf)
                (slope,) = torch.autograd.grad(measured.sum(), leaf)
            values[part, 0] = measured.detach().double().cpu()
            slopes[part] = slope.double().cpu()

        in_batches(len(gates), max(1, self.batch_size // 4), run)
        return Answer(values.numpy(), slopes.numpy()[:, None])

    def provenance(self) -> dict[str, Any]:
        """What fixes the game's values: recorded with every result."""
        return {
            "lens": "tokens",
            "task": self.task.name,
            "metric": self.task.metric_name,
            "masking": self.masking,
            "mask_id": self.mask_id if self.masking == "token" else None,
            "tokens": self.prompt.tokens[0].tolist(),
            "device": str(self.device),
        }

    def identity(self) -> dict[str, Any]:
        """What else fixes its values: with ``provenance()``, what a store tells games apart by."""
        return {
            "model": name_of(self.model),
            "weights_sha256": sha256_of([*self.model.parameters(), *self.model.buffers()]),
            "config_sha256": config_sha256(self.model),
            "prompts_sha256": prompts_sha256(self.prompt),
            "metric_sha256": metric_sha256(self.task.metric),
            "spans": [list(span) for span in self.spans],
        }

    def _measured(
        self, keep: Bool[Tensor, "mask unit"] | Float[Tensor, "mask unit"]
    ) -> Float[Tensor, " mask"]:
        prompts = self.prompt[torch.zeros(len(keep), dtype=torch.long, device=self.device)]
        seen = spread(keep, self._unit_of)
        with evaluating(self.model):
            if self.masking in ("mean", "zero"):
                output = self._of_embeddings(prompts, seen)
            else:
                prompts = self._masked(prompts, seen)
                output = call(self.model, prompts)
        values = self._metric(output, prompts)
        if not isinstance(values, Tensor) or values.shape != (len(keep),):
            raise ValueError(f"the metric {self.task.metric_name} must return one value per row")
        return values

    def _masked(self, prompts: Prompts, seen: Bool[Tensor, "mask pos"]) -> Prompts:
        if self.masking == "token":
            assert self.mask_id is not None
            return prompts.replaced(tokens=prompts.tokens.masked_fill(~seen, self.mask_id))
        if self.masking == "attention":
            # The answer is read where it was, though a mask with holes does not say where.
            return prompts.replaced(attention_mask=prompts.real & seen, answer_pos=prompts.last)
        order = (~seen).int().argsort(dim=1, stable=True)
        n_seen = (seen & prompts.real).sum(dim=1, keepdim=True)
        return prompts.replaced(
            tokens=prompts.tokens.gather(1, order),
            attention_mask=torch.arange(seen.shape[1], device=seen.device) < n_seen,
            target_mask=_moved_targets(prompts.target_mask, seen, order),
            answer_pos=None if prompts.answer_pos is None else _moved(prompts.answer_pos, order),
        )

    def _of_embeddings(self, prompts: Prompts, seen: Tensor) -> Any:
        table = self.model.get_input_embeddings()
        own = table(prompts.tokens)
        masked = table.weight.mean(dim=0) if self.masking == "mean" else torch.zeros_like(own[0, 0])
        mixed = masked + seen.to(own)[:, :, None] * (own - masked)
        given = {} if prompts.attention_mask is None else {"attention_mask": prompts.real.long()}
        return output_of(self.model, self.model(inputs_embeds=mixed, **given))

    def _check_masking(self) -> None:
        if self.masking not in MASKINGS:
            raise ValueError(f"masking={self.masking!r}; choose one of {', '.join(MASKINGS)}")
        if self.masking == "token" and self.mask_id is None:
            raise ValueError(
                "masking='token' needs mask_id=..., a token id (the tokenizer has no mask token)"
            )
        if self.masking in ("mean", "zero") and not hasattr(self.model, "get_input_embeddings"):
            raise ValueError(
                f"masking={self.masking!r} needs a transformers model, not "
                f"{type(self.model).__name__}; use 'token', 'attention' or 'delete'"
            )
        covered, scored = {p for span in self.spans for p in span}, _scored(self.prompt)
        if self.masking == "delete" and scored and covered.issuperset(range(min(scored))):
            raise ValueError(
                "masking='delete' with every token before the scored ones in a unit leaves the "
                f"first scored token (position {min(scored)}) nothing to be predicted from; leave "
                "one out of spans (such as the first), or use 'token'"
            )
        n_covered = len(covered)
        if self.masking in ("delete", "attention") and n_covered == int(self.prompt.real.sum()):
            raise ValueError(
                f"masking={self.masking!r} with every token in a unit leaves nothing to see when "
                "all are masked; leave one out of spans (such as the first), or use 'token'"
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


def _scored(prompt: Prompts) -> set[int]:
    """The positions of the tokens that the metric scores by ``target_mask``."""
    if prompt.target_mask is None:
        return set()
    return {p + 1 for p in prompt.target_mask[0].nonzero()[:, 0].tolist()}


def _checked_spans(
    prompt: Prompts, spans: str | Sequence[Sequence[int]] | None, tokenizer: Any
) -> list[tuple[int, ...]]:
    real = prompt.real[0].nonzero()[:, 0].tolist()
    if spans is None or isinstance(spans, str):
        special = set(getattr(tokenizer, "all_special_ids", ()))
        scored = _scored(prompt)
        ids = prompt.tokens[0].tolist()
        free = [p for p in real if ids[p] not in special and p not in scored]
        spans = [[p] for p in free] if spans is None else _spans_of(spans, ids, free, tokenizer)
    found = [tuple(int(p) for p in span) for span in spans]
    used = [p for span in found for p in span]
    if not found or not all(found):
        raise ValueError("no units: every span needs at least one position")
    if len(set(used)) < len(used):
        twice = next(p for p in used if used.count(p) > 1)
        raise ValueError(f"position {twice} is in two spans; every position may be in one only")
    if outside := [p for p in used if p not in real]:
        raise ValueError(f"position {outside[0]} is no token of the text, which has {len(real)}")
    return found


_PARTS = {"words": r"\S+", "sentences": r"\S.*?(?:[.!?]+(?=\s|$)|\n|$)"}


def _spans_of(kind: str, ids: list[int], free: list[int], tokenizer: Any) -> list[list[int]]:
    """Positions by the word or sentence in which a token's last character stands; only those that
    may be units, and of neighbours only."""
    if kind not in _PARTS:
        raise ValueError(f"spans={kind!r}; choose one of {', '.join(_PARTS)}, or give positions")
    if tokenizer is None:
        raise ValueError(f"spans={kind!r} needs tokenizer=..., to know where they begin")
    first, last = free[0], free[-1]
    # A token alone may not tell whether a space comes before it; the text so far does.
    ends = [len(tokenizer.decode(ids[first : p + 1]).rstrip()) for p in range(first, last + 1)]
    text = tokenizer.decode(ids[first : last + 1])
    starts = [match.start() for match in re.finditer(_PARTS[kind], text, re.DOTALL)]
    of = np.searchsorted(starts, np.array(ends) - 1, side="right")
    spans: list[list[int]] = []
    before = None
    for p in free:
        key = int(of[p - first])
        if before == (p - 1, key):
            spans[-1].append(p)
        else:
            spans.append([p])
        before = (p, key)
    return spans


def _labels(game: TokenGame, tokenizer: Any) -> list[str]:
    """First position and text of each unit."""
    ids = game.prompt.tokens[0]
    if tokenizer is None:
        texts = ["+".join(str(int(ids[p])) for p in span) for span in game.spans]
    else:
        texts = [tokenizer.decode(ids[list(span)].tolist()).strip() for span in game.spans]
    return [f"{span[0]}:{text}" for span, text in zip(game.spans, texts, strict=True)]
