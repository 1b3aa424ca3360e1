"""A task: prompts, and what is measured on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from spex_mech.arguments import counted, shown
from spex_mech.engine.architectures import text_config
from spex_mech.engine.metrics import METRICS, Metric, check_takes_two, name_of_metric
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.tokens import texts_of, tokenizer_behind
from spex_mech.fingerprints import metric_recorded
from spex_mech.notebook import facts_html
from spex_mech.notices import warn

_FEW = 4  # prompts, below which nobody takes a standard error for one
_REPEATED = 2  # prompts per different one, from which on they are said to be repeated


@dataclass(frozen=True, eq=False, repr=False)
class Task:
    """Prompts and what is measured on them.

    Args:
        prompts: what the model reads.
        metric: ``metric(output, prompts) -> Float[Tensor, " row"]``, where ``output`` is the logits
            ``[row pos vocab]`` of a causal model (else what the model returns) and a row is one
            prompt under one mask; or a name: "logit_diff",
            "prob_diff", "log_prob", "loss", "kl" (to the intact model).
        name: how results call the task.
        decode: token ids -> texts to show; or a tokenizer, which does it.
    """

    prompts: Prompts
    metric: Metric | str
    name: str = "custom"
    decode: Callable[[Sequence[int]], list[str]] | Any | None = None

    def __post_init__(self) -> None:
        tokenizer = self.decode
        if hasattr(tokenizer, "decode"):
            object.__setattr__(self, "decode", partial(texts_of, tokenizer))
        if not isinstance(self.prompts, Prompts):
            raise ValueError(
                f"prompts is {shown(self.prompts)}; give Prompts of token ids, such as "
                "Prompts(tokenizer(texts, return_tensors='pt'), answers=...)"
            )
        if not isinstance(self.metric, str) and not callable(self.metric):
            raise ValueError(
                f"metric is {shown(self.metric)}; give a name, such as 'logit_diff', or a function "
                "metric(output, prompts) -> one value per row"
            )
        if callable(self.metric):
            check_takes_two(self.metric)
        if isinstance(self.metric, str) and self.metric not in {*METRICS, "kl"}:
            raise ValueError(
                f"unknown metric {self.metric!r}; choose one of {', '.join([*METRICS, 'kl'])}, or "
                "give a function metric(output, prompts) -> one value per row"
            )

    @property
    def metric_name(self) -> str:
        """The metric's word, or the name of its function."""
        return self.metric if isinstance(self.metric, str) else name_of_metric(self.metric)

    def metric_told(self) -> dict[str, Any]:
        """What results say of the metric: its name; of a function of one's own a hash, and whether
        it is called like a built-in one."""
        told: dict[str, Any] = {"metric": self.metric_name}
        if isinstance(self.metric, str) or self.metric is METRICS.get(self.metric_name):
            return told
        told |= metric_recorded(self.metric)  # each time: what it reads may have changed
        return told | ({"own_metric": True} if self.metric_name in {*METRICS, "kl"} else {})

    def __repr__(self) -> str:
        """What is asked, with the first prompt."""
        told = self.in_words()
        line = f"Task {self.name!r}: {told.pop('prompts')}, metric {told.pop('metric')}"
        if first := told.pop("the first", None):
            line += f"; the first is {first}"
        return line + "".join(f", {name} {value}" for name, value in told.items())

    def _repr_html_(self) -> str:
        return facts_html(f"Task {self.name!r}", self.in_words())

    def in_words(self) -> dict[str, str]:
        """What is asked, by name: prompts, metric, and where texts are known the first prompt."""
        prompts, decode = self.prompts, self.decode
        told = {"prompts": prompts.in_short(), "metric": self.metric_name}
        if decode is None or not prompts.has_tokens:
            return told
        tokenizer = tokenizer_behind(decode)  # knows the spaces between tokens
        together = (lambda ids: "".join(decode(ids))) if tokenizer is None else tokenizer.decode
        read = lambda ids: repr(together([i for i in ids.tolist() if i >= 0]))  # noqa: E731
        told["the first"] = read(prompts.tokens[0][prompts.real[0]])
        if prompts.answers is not None:
            told["answer"] = read(prompts.answers[0][:1])
        if prompts.wrong_answers is not None:
            told["not"] = read(prompts.wrong_answers[0][:1])
        return told

    def split(self, n_first: int) -> "tuple[Task, Task]":
        """Two tasks: the first ``n_first`` prompts, to search on, and the rest, to confirm on.

        Raises:
            ValueError: one of the two would be empty.

        Warns:
            UserWarning: a cluster has prompts in both.
        """
        if not 0 < n_first < len(self.prompts):
            raise ValueError(f"cannot take {n_first} of {len(self.prompts)} prompts and leave some")
        parts = (self.prompts[:n_first], self.prompts[n_first:])
        held = [set() if p.clusters is None else set(p.clusters.tolist()) for p in parts]
        if cut := held[0] & held[1]:
            warn(
                f"{len(cut)} of {len(held[0] | held[1])} clusters have prompts in both parts, so "
                "that what is special to a cluster is found in both, and the second does not "
                "confirm the first: put the prompts in the order of their clusters, and split "
                "between two of them"
            )
        first, rest = (replace(p, index=torch.arange(len(p))) for p in parts)
        return replace(self, prompts=first), replace(self, prompts=rest)


def warn_of_prompts(model: Any, prompts: Prompts, reference: Prompts | None = None) -> None:
    """Warn of prompts whose values would be right, and would not mean what they seem to."""
    read = prompts.tokens if prompts.has_tokens else None
    corrupted = prompts.corrupted if prompts.has_tokens else None
    fields = (read, prompts.same_as[:, None], prompts.answers, prompts.wrong_answers, corrupted)
    rows = torch.cat([x for x in fields if x is not None], dim=1)
    n_different = len(rows.unique(dim=0))
    if len(prompts) >= max(_FEW, _REPEATED * n_different):
        warn(
            f"only {n_different} of the {len(prompts)} prompts differ: standard errors and "
            "q-values count those that read the same as one; leave the repeated ones out",
        )
    _warn_of_flags("answers", prompts.answers)
    _warn_of_flags("wrong_answers", prompts.wrong_answers)
    if prompts.has_tokens:
        _warn_of_pairs(model, prompts)
    _warn_of_unmarked(model, prompts, "", "the answer is read behind it")
    if reference is not None:
        _warn_of_unmarked(model, reference, "reference ", "counts in the mean")


def _warn_of_unmarked(model: Any, prompts: Prompts, of: str, then: str) -> None:
    """Warn of padding that no mask marks, of what comes of it where it stands at the end."""
    if prompts.has_tokens and prompts.attention_mask is None:
        cure = "no attention_mask says so", "Prompts the attention_mask of the tokenizer"
        _warn_of_padding(model, prompts.tokens, f"{of}prompts", then, *cure)
    if prompts.decoded is not prompts.tokens and "decoder_attention_mask" not in prompts.inputs:
        cure = "no decoder_attention_mask says so", "inputs['decoder_attention_mask']"
        _warn_of_padding(model, prompts.decoded, f"{of}decoder_input_ids", then, *cure)


def _warn_of_flags(name: str, numbers: Tensor | None) -> None:
    """Of one-hot labels each row holds 0 and 1, which are read as two answers, the same in all."""
    if numbers is None or numbers.shape[1] < 2 or int(numbers.max()) > 1:
        return
    n_both = int(((numbers == 0).any(dim=1) & (numbers == 1).any(dim=1)).sum())
    if n_both:
        warn(
            f"{name} hold 0 and 1 alone, and both in {n_both} of {counted(len(numbers), 'row')}: "
            "they are read as the numbers of tokens or classes that are right at once, and not as "
            f"one-hot labels; of those give {name}=labels.argmax(-1)"
        )


def _warn_of_padding(
    model: Any, tokens: Tensor, what: str, then: str, lacks: str, cure: str
) -> None:
    for token, (kind, least) in _padding_tokens(model).items():
        begins, ends = _n_at_end((tokens == token).flip(1)), _n_at_end(tokens == token)
        usual = min(1, int(begins.min()))  # a begin token that is the padding token, in all prompts
        if begins.max() >= least and (begins > usual).any():
            warn(
                f"{int((begins > usual).sum())} {what} begin with the {kind} token {token}, "
                f"and {lacks}: it is read as a part of the text; pad on the right "
                f"(tokenizer.padding_side = 'right') and give {cure}",
            )
        if ends.max() >= least and ends.max() > ends.min():
            warn(
                f"{int((ends > 0).sum())} {what} end in the {kind} token {token}, and "
                f"{lacks}: it is read, and {then}; give {cure}",
            )


def _padding_tokens(model: Any) -> dict[int, tuple[str, int]]:
    """What prompts may be padded with, and how often it must stand there to be taken for padding:
    an end token may end a prompt once, and where a model has no padding token it is what people pad
    with."""
    config, tokenizer = text_config(model), getattr(model, "tokenizer", None)
    ends = getattr(config, "eos_token_id", None)
    found: dict[Any, tuple[str, int]] = {}
    for end in ends if isinstance(ends, list) else [ends]:
        found[end] = "model's end", 2
    found[getattr(tokenizer, "pad_token_id", None)] = "tokenizer's padding", 2
    found[getattr(config, "pad_token_id", None)] = "model's padding", 1
    return {token: told for token, told in found.items() if isinstance(token, int)}


def _warn_of_pairs(model: Any, prompts: Prompts) -> None:
    types = getattr(text_config(model), "type_vocab_size", None) or 0
    if types < 2 or prompts.token_types is not None or len(prompts) < 2:
        return
    ends = prompts.tokens.gather(1, prompts.real.sum(dim=1, keepdim=True) - 1)
    inside = ((prompts.tokens == ends) & prompts.real).sum(dim=1) > 1
    if (ends == ends[0]).all() and inside.any():
        warn(
            f"token {int(ends[0])}, which ends every prompt, stands inside {int(inside.sum())} of "
            "them too, so that these seem to be pairs of sentences, and this model tells two "
            "sentences apart by token types: give Prompts(token_types=...), all 0 for one sentence",
        )


def _n_at_end(which: Tensor) -> Tensor:
    """How many entries are True at the end of each row."""
    return which.flip(1).long().cumprod(dim=1).sum(dim=1)
