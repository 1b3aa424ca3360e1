"""Metrics: a model's output -> one value per row, in float32 at least.

A metric is any ``metric(output, prompts) -> Float[Tensor, " row"]``, called with the rows of a
batch and the prompts that belong to them. ``output`` is the logits of a causal model, otherwise
what the model returns. Larger should mean better: then a unit that helps has a negative main
effect. A metric of this module also carries what it reads of the logits, so that no others are
computed, and the unit of its values.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spex_mech.engine.device import at_least_float32
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.running import logits_in

Metric = Callable[[Any, Prompts], Tensor]
Positions = Int[Tensor, "prompt k"] | None  # where logits are read; None: everywhere
Tokens = Int[Tensor, " token"] | None  # whose logits are read; None: all, as a softmax does


@dataclass(frozen=True, eq=False)
class ReadingMetric:
    """A metric that says what it reads.

    Args:
        function: ``function(output, prompts) -> Float[Tensor, " row"]``.
        positions: the positions whose logits it reads, ascending, ``[prompt k]``; None: all.
        tokens: the tokens whose logits it reads, ascending; None: all.
        unit: of its values.
    """

    function: Metric
    positions: Callable[[Prompts], Positions]
    tokens: Callable[[Prompts], Tokens]
    unit: str

    def __call__(self, output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
        return self.function(output, prompts)

    @property
    def __name__(self) -> str:
        return name_of_metric(self.function)


def reading(
    positions: Callable[[Prompts], Positions],
    unit: str,
    tokens: Callable[[Prompts], Tokens] = lambda prompts: None,
) -> Callable[[Metric], ReadingMetric]:
    """Says of a metric what it reads; for one of your own, too."""

    def decorate(function: Metric) -> ReadingMetric:
        return ReadingMetric(function, positions, tokens, unit)

    return decorate


def _at_answers(prompts: Prompts) -> Positions:
    return prompts.last[:, None]


def _at_answers_or_targets(prompts: Prompts) -> Positions:
    if prompts.answers is not None:
        return _at_answers(prompts)
    n_prompts, n_pos = prompts.decoded.shape
    scored = scored_positions(prompts).any(dim=0).nonzero()[:, 0]
    if not 0 < len(scored) < n_pos - 1:
        return None
    # The last position is added because a metric drops it: it has no next token.
    return torch.cat([scored, scored.new_tensor([n_pos - 1])]).expand(n_prompts, -1)


def _answers_alone(prompts: Prompts) -> Tokens:
    if prompts.answers is None or prompts.wrong_answers is None:
        return None
    both = torch.cat([prompts.answers, prompts.wrong_answers], dim=1)
    return both[both >= 0].unique()


@reading(_at_answers, "logits", _answers_alone)
def logit_diff(output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
    """Mean logit of the answers minus mean logit of the wrong answers, where the answer is read."""
    logits = answer_logits(output, prompts)
    right, wrong = _needed(prompts, "answers"), _needed(prompts, "wrong_answers")
    return _mean_over(logits, right) - _mean_over(logits, wrong)


@reading(_at_answers, "probability")
def prob_diff(output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
    """Probability of any of the answers minus that of any wrong answer (greater-than's metric)."""
    probs = answer_logits(output, prompts).softmax(-1)
    right, wrong = _needed(prompts, "answers"), _needed(prompts, "wrong_answers")
    return _sum_over(probs, right) - _sum_over(probs, wrong)


@reading(_at_answers_or_targets, "nats")
def log_prob(output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
    """Log-probability in nats: of any of the answers; without answers, the mean over the next
    tokens at the positions of ``target_mask`` (default: every real one)."""
    if prompts.answers is not None:
        log_probs = answer_logits(output, prompts).log_softmax(-1)
        of_answers = _gather(log_probs, prompts.answers)
        return of_answers.masked_fill(prompts.answers < 0, -torch.inf).logsumexp(-1)
    logits = logits_of(output)
    if logits.ndim != 3:
        raise ValueError(
            f"log_prob needs answers here: the output has shape {tuple(logits.shape)}, not "
            "[row pos d_vocab]; give Prompts(answers=...)"
        )
    if not (prompts.has_tokens or "decoder_input_ids" in prompts.inputs):
        raise ValueError(
            "log_prob needs answers here: these prompts have no tokens, whose next ones could be "
            "scored; give Prompts(answers=...)"
        )
    scored = scored_positions(prompts)
    log_probs = at_least_float32(logits[:, :-1]).log_softmax(-1)
    of_next = log_probs.gather(-1, prompts.decoded[:, 1:, None])[..., 0]
    return (of_next * scored).sum(-1) / scored.sum(-1)


@reading(_at_answers_or_targets, "nats")
def loss(output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
    """Cross-entropy in nats: minus :func:`log_prob`. Here *smaller* is better."""
    return -log_prob(output, prompts)


@dataclass(frozen=True, eq=False)
class KL:
    """Minus the Kullback-Leibler divergence, in nats, from the intact model's prediction: 0 when
    nothing changed, negative otherwise. A task whose metric is the word "kl" gets it from its game.

    Args:
        intact: the intact model's log-probabilities, one row per prompt (``[prompt d_vocab]``,
            where the answer is read, or ``[prompt pos d_vocab]``).
        index: the ``index`` of the prompt that each row belongs to; default: 0, 1, 2, ...

    Raises:
        ValueError: it is asked about a prompt that it has no row of.
    """

    intact: Float[Tensor, "prompt *pos d_vocab"]
    index: Int[Tensor, " prompt"] | None = None
    unit: str = "nats"

    def __call__(self, output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
        intact = self.intact[self._rows(prompts)]
        if intact.ndim == 2:
            log_probs = answer_logits(output, prompts).log_softmax(-1)
            intact = intact.to(log_probs)
            return -(intact.exp() * (intact - log_probs)).sum(-1)
        log_probs = at_least_float32(logits_of(output)).log_softmax(-1)
        intact = intact.to(log_probs)
        per_pos = (intact.exp() * (intact - log_probs)).sum(-1)[:, :-1]
        scored = scored_positions(prompts).to(per_pos.device)
        return -(per_pos * scored).sum(-1) / scored.sum(-1)

    def _rows(self, prompts: Prompts) -> Int[Tensor, " row"]:
        asked = prompts.index.to(self.intact.device)
        known = torch.arange(len(self.intact), device=asked.device)
        known = known if self.index is None else self.index.to(asked.device)
        in_order, order = known.sort(stable=True)
        at = torch.searchsorted(in_order, asked).clamp(max=len(known) - 1)
        if not (in_order[at] == asked).all():
            raise ValueError(
                f"kl has the intact prediction of prompts {known.tolist()[:8]}, and not of prompt "
                f"{int(asked[in_order[at] != asked][0])}; make it of the task's own prompts"
            )
        return order[at]

    def positions(self, prompts: Prompts) -> Positions:
        """The positions whose logits it reads."""
        return _at_answers(prompts) if self.intact.ndim == 2 else None

    def tokens(self, prompts: Prompts) -> Tokens:
        """All: it reads a distribution."""
        return None

    @staticmethod
    def to_intact(output: Any, prompts: Prompts) -> "KL":
        """The metric for the prompts whose intact output is given."""
        logits = logits_of(output).detach()
        if prompts.target_mask is None or logits.ndim == 2:
            intact = answer_logits(output, prompts).detach()
        else:
            intact = at_least_float32(logits)
        return KL(intact.log_softmax(-1), prompts.index)

    @staticmethod
    def joined(parts: "list[KL]") -> "KL":
        """Of several groups of prompts as one."""
        index = torch.cat([part.index for part in parts if part.index is not None])
        return KL(torch.cat([part.intact for part in parts]), index)


METRICS: dict[str, Metric] = {
    "logit_diff": logit_diff,
    "prob_diff": prob_diff,
    "log_prob": log_prob,
    "loss": loss,
}


def read_positions(metric: Metric, prompts: Prompts) -> Positions:
    """The positions whose logits a metric reads, ascending; None: all, or it does not say."""
    if not isinstance(metric, ReadingMetric | KL) or prompts.decoded.shape[1] == 1:
        return None
    return metric.positions(prompts)


def read_tokens(metric: Metric, prompts: Prompts) -> Tokens:
    """The tokens whose logits a metric reads, ascending; None: all, or it does not say."""
    return metric.tokens(prompts) if isinstance(metric, ReadingMetric | KL) else None


def renumbered(prompts: Prompts, tokens: Int[Tensor, " token"]) -> Prompts:
    """The prompts with answers as places in a list of tokens, for logits of these alone."""

    def places(answers: Int[Tensor, "row answer"]) -> Int[Tensor, "row answer"]:
        return torch.where(answers < 0, answers, torch.searchsorted(tokens, answers))

    return prompts.replaced(
        answers=places(_needed(prompts, "answers")),
        wrong_answers=places(_needed(prompts, "wrong_answers")),
    )


def narrowed(prompts: Prompts, positions: Int[Tensor, "prompt k"]) -> Prompts:
    """The prompts as a metric sees them when only the logits at ``positions`` were computed."""
    if positions.shape[1] == 1:
        at_answer = prompts.tokens.gather(1, positions)
        return prompts.replaced(
            tokens=at_answer,
            attention_mask=None,
            target_mask=None,
            corrupted=None,
            answer_pos=torch.zeros_like(prompts.last),
        )
    nexts = torch.cat([positions[:, :1], positions[:, :-1] + 1], dim=1)
    scored = scored_positions(prompts).gather(1, positions[:, :-1])
    return prompts.replaced(
        tokens=prompts.tokens.gather(1, nexts),
        attention_mask=None,
        target_mask=torch.cat([scored, torch.zeros_like(scored[:, :1])], dim=1),
        corrupted=None,
        answer_pos=None,
    )


def logits_of(output: Any) -> Float[Tensor, "row *pos d_vocab"]:
    """The logits in what a model returned.

    Raises:
        ValueError: there are none.
    """
    logits = logits_in(output)
    if logits is None:
        raise ValueError(
            f"the model returned {type(output).__name__} without logits; give a metric of your "
            "own, metric(output, prompts) -> one value per row"
        )
    return logits


def answer_logits(output: Any, prompts: Prompts) -> Float[Tensor, "row d_vocab"]:
    """The logits where the answer is read: at ``prompts.last``; a classifier's as they are."""
    logits = logits_of(output)
    if logits.ndim == 3:
        if logits.shape[1] != prompts.decoded.shape[1]:
            raise ValueError(
                f"the model gives logits at {logits.shape[1]} positions for "
                f"{prompts.decoded.shape[1]} tokens (prompt tuning puts positions of its own in "
                "front), so that the answer's position is not known; give a metric of your own, "
                "metric(output, prompts)"
            )
        logits = logits[torch.arange(len(logits), device=logits.device), prompts.last]
    return at_least_float32(logits)


def scored_positions(prompts: Prompts) -> Bool[Tensor, "row pos_but_last"]:
    """Where the next token is scored: it and the position before it must be real."""
    scored = prompts.decoded_real[:, 1:]
    return scored if prompts.target_mask is None else scored & prompts.target_mask[:, :-1]


def _gather(
    values: Float[Tensor, "row d_vocab"], answers: Int[Tensor, "row answer"]
) -> Float[Tensor, "row answer"]:
    return values.gather(-1, answers.clamp(min=0))


def _sum_over(
    values: Float[Tensor, "row d_vocab"], answers: Int[Tensor, "row answer"]
) -> Float[Tensor, " row"]:
    return (_gather(values, answers) * (answers >= 0)).sum(-1)


def _mean_over(
    values: Float[Tensor, "row d_vocab"], answers: Int[Tensor, "row answer"]
) -> Float[Tensor, " row"]:
    return _sum_over(values, answers) / (answers >= 0).sum(-1)


def _needed(prompts: Prompts, name: str) -> Int[Tensor, "row answer"]:
    value = getattr(prompts, name)
    if value is None:
        raise ValueError(f"this metric needs {name}: give Prompts({name}=...)")
    return value


def name_of_metric(metric: Metric) -> str:
    """The name of a metric's function, or of its class."""
    return getattr(metric, "__name__", type(metric).__name__)


def check_takes_two(metric: Metric) -> None:
    """Raises:
    ValueError: the function cannot be called with an output and prompts.
    """
    try:
        takes = signature(metric)
    except (TypeError, ValueError):  # of C, or a class that hides it: the first call shows it
        return
    try:
        takes.bind(None, None)
    except TypeError:
        raise ValueError(
            f"the metric {name_of_metric(metric)} takes {takes}; it is called with two arguments: "
            "metric(output, prompts) -> one value per row"
        ) from None
