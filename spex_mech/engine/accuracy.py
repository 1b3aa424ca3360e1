"""What share of a task the intact model gets right.

Interactions on a task that the model cannot do explain nothing, so a result says it.
"""

from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import torch
from torch import Tensor

from spex_mech.engine.device import batches
from spex_mech.engine.metrics import answer_logits, logits_of, scored_positions
from spex_mech.engine.passes import call
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.running import evaluating

_TOKENS_AT_ONCE = 2048
_CHANCE = 0.05  # of guessing as many right or more, above which the model may only have guessed
_ANY_TOKENS = 0.1  # the least share of next tokens that counts as doing a task


@dataclass(frozen=True)
class Accuracy:
    """How often the intact model is right.

    Args:
        right: how many of ``of``.
        of: how many were asked.
        what: "prompts", or "tokens" where every next token is scored.
        by_guessing: the share that guessing would get; None where it is close to nothing.
    """

    right: int
    of: int
    what: str
    by_guessing: float | None = None

    @property
    def share(self) -> float:
        """The share that is right, 0 to 1."""
        return self.right / self.of

    @property
    def does_task(self) -> bool:
        """Whether this is better than guessing (in fewer than one of twenty cases would guessing
        get as many), or at least a tenth where guessing gets next to nothing."""
        if self.by_guessing is None:
            return self.share >= _ANY_TOKENS
        return self._chance() <= _CHANCE

    def recorded(self) -> dict[str, Any]:
        """The numbers and the sentence, as a result keeps them."""
        return {**asdict(self), "words": str(self)}

    def _chance(self) -> float:
        """Of getting as many right, or more, by guessing: a binomial tail."""
        p = self.by_guessing or 0.0
        tail = range(self.right, self.of + 1)
        return sum(comb(self.of, k) * p**k * (1 - p) ** (self.of - k) for k in tail)

    def __str__(self) -> str:
        shown = (
            f"{self.right} of {self.of}" if self.of < 1000 else f"{self.share:.2f} of {self.of:,}"
        )
        said = f"The model gets {shown} {self.what} right"
        if self.does_task:
            return f"{said}."
        if self.by_guessing is None:
            return f"{said}: it does not do this task."
        if self.share > 0.6:
            return f"{said}: too few {self.what} to tell this from guessing."
        return f"{said}, no better than guessing: it does not do this task."


def accuracy_of(model: Any, prompts: Prompts, metric: str) -> Accuracy | None:
    """How often the intact model is right on prompts.

    A prompt with answers and wrong answers is right where the answers together are more probable
    than the wrong ones together (half is guessing). With answers alone, it is right where the most
    probable output is one of them. Without answers, and for the metrics "log_prob" and "loss", each
    scored next token counts.

    Returns:
        None where no logits can tell: another output, or a metric of one's own without answers.
    """
    by_token = prompts.answers is None
    if by_token and metric not in ("log_prob", "loss"):
        return None

    def hits_of(rows: slice) -> Tensor | None:
        part = prompts[rows]
        with torch.no_grad(), evaluating(model):
            output = call(model, part)
        try:
            return _token_hits(output, part) if by_token else _answer_hits(output, part)
        except ValueError:
            return None

    right, of, size = 0, 0, max(1, _TOKENS_AT_ONCE // prompts.tokens.shape[1])
    for _, hits in batches(len(prompts), size, hits_of):
        if hits is None:
            return None
        right, of = right + int(hits.sum()), of + len(hits)
    guessing = 0.5 if prompts.wrong_answers is not None and not by_token else None
    return Accuracy(right, of, "tokens" if by_token else "prompts", guessing)


def _answer_hits(output: Any, prompts: Prompts) -> Tensor:
    logits = answer_logits(output, prompts)
    answers = prompts.answers
    assert answers is not None
    if int(answers.max()) >= logits.shape[-1]:
        raise ValueError("the answers are none of these outputs")
    if prompts.wrong_answers is None:
        return (logits.argmax(-1, keepdim=True) == answers).any(-1)
    return _total(logits, answers) > _total(logits, prompts.wrong_answers)


def _total(logits: Tensor, answers: Tensor) -> Tensor:
    """The logarithm of the answers' probability, but for what all of a row have in common."""
    held = logits.gather(-1, answers.clamp(min=0))
    return held.masked_fill(answers < 0, -torch.inf).logsumexp(-1)


def _token_hits(output: Any, prompts: Prompts) -> Tensor:
    logits = logits_of(output)
    if logits.ndim != 3 or logits.shape[1] != prompts.decoded.shape[1]:
        raise ValueError("no logits for each position")
    hits = logits[:, :-1].argmax(-1) == prompts.decoded[:, 1:]
    return hits[scored_positions(prompts)]
