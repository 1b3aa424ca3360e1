"""One text as a task."""

from typing import Any

from spex_mech.engine.metrics import Task
from spex_mech.engine.prompts import Prompts
from spex_mech.models import load_tokenizer
from spex_mech.tasks.rows import answer_id


def text_task(
    model: Any,
    text: str,
    answer: str | int | None = None,
    *,
    continuation: str | None = None,
    tokenizer: Any = None,
) -> Task:
    """One text as a task, for a ``TokenGame``: the log-probability of an answer or a continuation.

    Args:
        answer: a classifier's class, by number or by its label's name; or for a causal model the
            word that should follow (its first token counts).
        continuation: what should follow; all its tokens are scored, under teacher forcing.
        tokenizer: instead of the model's own.

    Raises:
        ValueError: no tokenizer, an empty text, not one of answer and continuation, or no such
            class.
    """
    tokenizer = load_tokenizer(model) if tokenizer is None else tokenizer
    if tokenizer is None:
        raise ValueError("this model has no tokenizer; give tokenizer=..., or make Prompts of ids")
    if not text.strip():
        raise ValueError("the text is empty: it has no tokens to attribute anything to")
    if (answer is None) == (continuation is None):
        raise ValueError("give an answer or a continuation: what should follow the text")
    decode = lambda ids: [tokenizer.decode([i]) for i in ids]  # noqa: E731
    if continuation is not None:
        before, both = tokenizer(text)["input_ids"], tokenizer(text + continuation)["input_ids"]
        answer_id(tokenizer, text, continuation)
        scored = [len(before) - 1 <= p < len(both) - 1 for p in range(len(both))]
        prompts = Prompts([both], target_mask=[scored])
        return Task(prompts, "log_prob", "continuation", decode)
    labels = getattr(getattr(model, "config", None), "label2id", None) or {}
    if "Classification" in type(model).__name__:
        names = {**labels, **{str(number): number for number in labels.values()}}
        if str(answer) not in names:
            raise ValueError(f"no class {answer!r}; this model's are {', '.join(labels)}")
        target = names[str(answer)]
    else:
        target = answer if isinstance(answer, int) else answer_id(tokenizer, text, str(answer))
    return Task(
        Prompts([tokenizer(text)["input_ids"]], answers=[target]), "log_prob", "text", decode
    )
