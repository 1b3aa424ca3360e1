"""Rows of prompts in words, and the task that they make for a tokenizer."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from spex_mech.engine.metrics import Task
from spex_mech.engine.prompts import Prompts


@dataclass(frozen=True)
class Row:
    """One prompt in words, or its answers already as token ids."""

    clean: str
    corrupted: str | None
    answers: Sequence[str | int]
    wrong_answers: Sequence[str | int]
    metric: str = "logit_diff"


def task_from_rows(rows: Iterable[Row], tokenizer: Any, n_prompts: int, name: str) -> Task:
    encode: Callable[[str], list[int]] = lambda text: tokenizer(text)["input_ids"]  # noqa: E731
    kept = []
    for row in rows:
        clean = encode(row.clean)
        corrupted = None if row.corrupted is None else encode(row.corrupted)
        # Resampling goes position by position: a pair of unequal length cannot be used.
        if corrupted is None or len(corrupted) == len(clean):
            kept.append((row, clean, corrupted))
        if len(kept) == n_prompts:
            break
    if len(kept) < n_prompts:
        cure = f"ask for n_prompts={len(kept)} or fewer" if kept else "look at its rows"
        raise ValueError(
            f"{name}: {len(kept)} usable prompts, not {n_prompts} (a prompt and its corrupted "
            f"version must have as many tokens); {cure}"
        )
    width = max(len(clean) for _, clean, _ in kept)

    def padded(ids: Sequence[int]) -> list[int]:
        return [*ids, *[ids[-1]] * (width - len(ids))]

    def answers_of(attribute: str) -> list[list[int]]:
        return [
            [
                a if isinstance(a, int) else answer_id(tokenizer, row.clean, a)
                for a in getattr(row, attribute)
            ]
            for row, _, _ in kept
        ]

    lengths = torch.tensor([len(clean) for _, clean, _ in kept])
    mask = torch.arange(width) < lengths[:, None]
    corrupted = [c for _, _, c in kept if c is not None]
    all_corrupted = len(corrupted) == len(kept)
    prompts = Prompts(
        torch.tensor([padded(clean) for _, clean, _ in kept]),
        attention_mask=None if mask.all() else mask,
        answers=_ragged(answers_of("answers")),
        wrong_answers=_ragged(answers_of("wrong_answers")),
        corrupted=torch.tensor([padded(c) for c in corrupted]) if all_corrupted else None,
    )
    return Task(prompts, kept[0][0].metric, name)


def _ragged(rows: list[list[int]]) -> torch.Tensor:
    width = max(len(row) for row in rows)
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows])


def answer_id(tokenizer: Any, prompt: str, answer: str, single: bool = False) -> int:
    """The first token of an answer as it follows the prompt (a tokenizer may write it otherwise
    when it stands alone)."""
    before = tokenizer(prompt)["input_ids"]
    both = tokenizer(prompt + answer)["input_ids"]
    if both[: len(before)] != before or len(both) == len(before):
        raise ValueError(
            f"the answer {answer!r} merges with the end of the prompt {prompt[-20:]!r} in this "
            "tokenizer, so it has no token of its own"
        )
    if single and len(both) != len(before) + 1:
        raise ValueError(f"{answer!r} is {len(both) - len(before)} tokens, not one")
    return both[len(before)]


def is_one_token(tokenizer: Any, prompt: str, answer: str) -> bool:
    try:
        return answer_id(tokenizer, prompt, answer, single=True) >= 0
    except ValueError:
        return False
