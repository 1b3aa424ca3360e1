"""What a text model answers: its head, and one text as a task for it.

A head is read from the model's class and its configuration: ``problem_type``, ``num_labels``, the
names of labels. The score that is explained is said in words, which every result carries.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from spex_mech.engine.architectures import is_hooked
from spex_mech.engine.examples import core_of
from spex_mech.engine.facts import fills_masks, is_causal
from spex_mech.engine.metrics import log_prob, logits_of
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.task import Task

HeadKind = Literal["classes", "labels", "score", "tokens", "masked", "decoder", "causal"]
# Heads with several outputs of unlike meaning: which one is meant, a task of one's own must say.
_OWN_METRIC = ("QuestionAnswering", "MultipleChoice", "NextSentencePrediction", "ForPreTraining")


@dataclass(frozen=True)
class Head:
    """What the outputs of a model mean.

    Args:
        kind: "classes" (one of several is right: softmax), "labels" (each may hold or not:
            sigmoid), "score" (the output as it is: regressions, reward models), "tokens" (classes
            at each token), "masked" (words at a mask token), "decoder" (words after an encoded
            text), "causal" (words after the text).
        names: of classes, labels or scores, by number.
    """

    kind: HeadKind
    names: Mapping[int, str]


def head_of(model: Any) -> Head:
    """The head of a model.

    Raises:
        ValueError: a head with outputs of unlike meaning, such as those for question answering.
    """
    name, config = type(core_of(model)).__name__, getattr(model, "config", None)
    if is_hooked(model):
        return Head("causal", {})
    if any(word in name for word in _OWN_METRIC):
        raise ValueError(
            f"a {name} has outputs of unlike meaning; make a Task with Prompts and a metric of "
            "your own: metric(output, prompts) -> one value per row"
        )
    if "TokenClassification" in name:
        return Head("tokens", _label_names(config))
    if "Classification" in name:
        names, problem = _label_names(config), getattr(config, "problem_type", None)
        if problem == "multi_label_classification":
            return Head("labels", names)
        return Head("score" if problem == "regression" or len(names) == 1 else "classes", names)
    if fills_masks(model):
        return Head("masked", {})
    if getattr(config, "is_encoder_decoder", False):
        return Head("decoder", {})
    return Head("causal", {})


def continues_texts(model: Any) -> bool:
    """Whether a model says what follows a text: one whose class says so, or that is not of
    transformers."""
    config = getattr(model, "config", None)
    if is_hooked(model) or not hasattr(config, "model_type"):
        return True
    generates = is_causal(model) or "ConditionalGeneration" in type(core_of(model)).__name__
    return generates and not getattr(config, "is_encoder_decoder", False)


def _label_names(config: Any) -> dict[int, str]:
    names = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    return {number: names.get(number, f"LABEL_{number}") for number in range(config.num_labels)}


def class_number(answer: Any, names: Mapping[int, str]) -> int:
    """The number of a class. A text is a class's name, and only where there is none of that name
    its number; everything that Python takes for an index is a number.

    Raises:
        ValueError: there is no such class, or the answer is neither a text nor a whole number.
    """
    if isinstance(answer, str):
        found = [number for number, name in names.items() if name == answer]
        if len(found) > 1:
            raise ValueError(f"the classes {found} are all called {answer!r}; give the number")
        if found:
            return found[0]
        if answer.isdecimal() and int(answer) in names:
            return int(answer)
        raise ValueError(f"no class {answer!r}; this model's are {', '.join(names.values())}")
    number = whole_number(answer)
    if number not in names:
        listed = ", ".join(f"{n} ({name})" for n, name in names.items())
        raise ValueError(f"no class {number}; this model's are {listed}")
    return number


def whole_number(answer: Any) -> int:
    """An answer that is no text as a number: an int, numpy's, or a tensor of one.

    Raises:
        ValueError: it is none.
    """
    try:
        if isinstance(answer, bool):
            raise TypeError
        return operator.index(answer)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the answer {answer!r} is a {type(answer).__name__}; give a text, or a whole number"
        ) from error


@dataclass(frozen=True, eq=False, repr=False)
class TextTask(Task):
    """One text as a task.

    Args:
        score: what is explained, in words.
        text: as it was given; a second sentence stands in a line of its own.
        offsets: where each token begins and ends in it, ``(0, 0)`` where it stands nowhere.
        decoder_tokens: what the decoder of an encoder-decoder is given.
    """

    score: str = ""
    text: str | None = None
    offsets: tuple[tuple[int, int], ...] | None = None
    decoder_tokens: tuple[int, ...] | None = None

    def in_words(self) -> dict[str, str]:
        """The text and its score: an answer may be a class, which no token is."""
        told = {"prompts": self.prompts.in_short(), "metric": self.metric_name}
        first = super().in_words().get("the first") if self.text is None else repr(self.text)
        return told | ({} if first is None else {"the first": first}) | {"score": self.score}


def raw_score(output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
    """The output of the answer's number as it is, of a head without classes."""
    return _outputs(output, prompts)


def log_sigmoid(output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
    """Log-probability, in nats, that the answer's label holds, whatever others do."""
    return torch.nn.functional.logsigmoid(_outputs(output, prompts))


def sum_log_prob(output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
    """Log-probability of all tokens after ``target_mask`` together, in nats: the sum of which
    ``log_prob`` is the mean."""
    assert prompts.target_mask is not None
    scored = prompts.real[:, 1:] & prompts.target_mask[:, :-1]
    return log_prob(output, prompts) * scored.sum(dim=-1)


@dataclass(frozen=True)
class DecodedLogProb:
    """Log-probability of the tokens that a decoder should write, its last ones, in nats.

    Args:
        tokens: what it should write.
        mean: over the tokens; otherwise their sum.
    """

    tokens: tuple[int, ...]
    mean: bool

    @property
    def __name__(self) -> str:
        return "log_prob" if self.mean else "sum_log_prob"

    def __call__(self, output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
        log_probs = logits_of(output).float().log_softmax(-1)[:, -len(self.tokens) :]
        at = torch.arange(len(self.tokens), device=log_probs.device)
        found = log_probs[:, at, torch.tensor(self.tokens, device=log_probs.device)]
        return found.mean(dim=1) if self.mean else found.sum(dim=1)


def _outputs(output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
    assert prompts.answers is not None
    logits = logits_of(output)
    logits = logits.float() if logits.dtype.itemsize < 4 else logits
    return logits.gather(1, prompts.answers[:, :1])[:, 0]
