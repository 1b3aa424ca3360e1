"""Metrics: a model's output -> one value per row, in float32 at least.

A metric is any ``metric(output, prompts) -> Float[Tensor, " row"]``, called with the rows of a
batch and the prompts that belong to them. ``output`` is the logits of a causal model, otherwise
what the model returns. Larger should mean better: then a unit that helps has a negative main
effect.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spex_mech.engine.prompts import Prompts


def logit_diff(output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
    """Mean logit of the answers minus mean logit of the wrong answers, where the answer is read."""
    logits = answer_logits(output, prompts)
    right, wrong = _needed(prompts, "answers"), _needed(prompts, "wrong_answers")
    return _mean_over(logits, right) - _mean_over(logits, wrong)


def prob_diff(output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
    """Probability of any of the answers minus that of any wrong answer (greater-than's metric)."""
    probs = answer_logits(output, prompts).softmax(-1)
    right, wrong = _needed(prompts, "answers"), _needed(prompts, "wrong_answers")
    return _sum_over(probs, right) - _sum_over(probs, wrong)


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
    scored = scored_positions(prompts)
    log_probs = logits[:, :-1].float().log_softmax(-1)
    of_next = log_probs.gather(-1, prompts.tokens[:, 1:, None])[..., 0]
    return (of_next * scored).sum(-1) / scored.sum(-1)


def loss(output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
    """Cross-entropy in nats: minus :func:`log_prob`. Here *smaller* is better."""
    return -log_prob(output, prompts)


@dataclass(frozen=True, eq=False)
class KL:
    """Minus the Kullback-Leibler divergence, in nats, from the intact model's prediction: 0 when
    nothing changed, negative otherwise. A task whose metric is the word "kl" gets it from its game.

    ``intact`` holds the intact model's log-probabilities, one row a prompt (``[prompt d_vocab]``,
    where the answer is read, or ``[prompt pos d_vocab]``).
    """

    intact: Float[Tensor, "prompt *pos d_vocab"]

    def __call__(self, output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
        intact = self.intact.to(prompts.index.device)[prompts.index]
        if intact.ndim == 2:
            log_probs = answer_logits(output, prompts).log_softmax(-1)
            return -(intact.exp() * (intact - log_probs)).sum(-1)
        log_probs = logits_of(output).float().log_softmax(-1)
        per_pos = (intact.exp() * (intact - log_probs)).sum(-1)[:, :-1]
        scored = scored_positions(prompts)
        return -(per_pos * scored).sum(-1) / scored.sum(-1)

    @staticmethod
    def to_intact(output: Any, prompts: Prompts) -> "KL":
        """The metric for the prompts whose intact output is given."""
        logits = logits_of(output).detach()
        if prompts.target_mask is None or logits.ndim == 2:
            return KL(answer_logits(output, prompts).detach().log_softmax(-1))
        return KL(logits.float().log_softmax(-1))


Metric = Callable[[Any, Prompts], Tensor]
METRICS: dict[str, Metric] = {
    "logit_diff": logit_diff,
    "prob_diff": prob_diff,
    "log_prob": log_prob,
    "loss": loss,
}


def read_positions(metric: Metric | str, prompts: Prompts) -> Int[Tensor, "prompt k"] | None:
    """The positions whose logits a metric of this module reads, ascending; None: all of them."""
    known = isinstance(metric, str) or metric in METRICS.values()
    n_prompts, n_pos = prompts.tokens.shape
    if not known or n_pos == 1:
        return None
    of_answer = metric in ("logit_diff", "prob_diff", logit_diff, prob_diff)
    if of_answer or (
        metric in ("log_prob", "loss", log_prob, loss) and prompts.answers is not None
    ):
        return prompts.last[:, None]
    if metric == "kl":
        return prompts.last[:, None] if prompts.target_mask is None else None
    scored = scored_positions(prompts).any(dim=0).nonzero()[:, 0]
    if not 0 < len(scored) < n_pos - 1:
        return None
    # One more, since a metric leaves out the last position, which predicts nothing.
    return torch.cat([scored, scored.new_tensor([n_pos - 1])]).expand(n_prompts, -1)


def read_tokens(metric: Metric | str, prompts: Prompts) -> Int[Tensor, " token"] | None:
    """The tokens whose logits a metric reads, ascending; None: all, as a softmax does."""
    has_both = prompts.answers is not None and prompts.wrong_answers is not None
    if metric not in ("logit_diff", logit_diff) or not has_both:
        return None
    both = torch.cat([_needed(prompts, "answers"), _needed(prompts, "wrong_answers")], dim=1)
    return both[both >= 0].unique()


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


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts and what is measured on them.

    Args:
        prompts: what the model reads.
        metric: ``metric(output, prompts) -> Float[Tensor, " row"]``, or a name: "logit_diff",
            "prob_diff", "log_prob", "loss", "kl" (to the intact model).
        name: how results call the task.
        decode: token ids -> texts to show, where there is a tokenizer.
    """

    prompts: Prompts
    metric: Metric | str
    name: str = "custom"
    decode: Callable[[Sequence[int]], list[str]] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.metric, str) and self.metric not in {*METRICS, "kl"}:
            raise ValueError(
                f"unknown metric {self.metric!r}; choose one of {', '.join([*METRICS, 'kl'])}, or "
                "give a function metric(output, prompts) -> one value per row"
            )

    @property
    def metric_name(self) -> str:
        """The metric's word, or the name of its function."""
        return self.metric if isinstance(self.metric, str) else _name_of(self.metric)

    def split(self, n_first: int) -> "tuple[Task, Task]":
        """Two tasks: the first ``n_first`` prompts, to search on, and the rest, to confirm on.

        Raises:
            ValueError: one of the two would be empty.
        """
        if not 0 < n_first < len(self.prompts):
            raise ValueError(f"cannot take {n_first} of {len(self.prompts)} prompts and leave some")
        parts = (self.prompts[:n_first], self.prompts[n_first:])
        first, rest = (replace(p, index=torch.arange(len(p))) for p in parts)
        return replace(self, prompts=first), replace(self, prompts=rest)


def logits_of(output: Any) -> Float[Tensor, "row *pos d_vocab"]:
    """The logits in what a model returned.

    Raises:
        ValueError: there are none.
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"the model returned {type(output).__name__} without logits; give a metric of your "
            "own, metric(output, prompts) -> one value per row"
        )
    return logits


def answer_logits(output: Any, prompts: Prompts) -> Float[Tensor, "row d_vocab"]:
    """The logits where the answer is read: at ``prompts.last``; a classifier's as they are."""
    logits = logits_of(output)
    if logits.ndim == 3:
        logits = logits[torch.arange(len(logits), device=logits.device), prompts.last]
    return logits.float() if logits.dtype.itemsize < 4 else logits


def scored_positions(prompts: Prompts) -> Bool[Tensor, "row pos_but_last"]:
    """Where the next token is scored: it and the position before it must be real."""
    scored = prompts.real[:, 1:]
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


def _name_of(metric: Metric) -> str:
    return getattr(metric, "__name__", type(metric).__name__)
