"""Words as tokens: what a prompt and its answer are to a tokenizer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from spex_mech.arguments import shown


def encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Text -> token ids, with what the tokenizer puts before a text and without what it appends:
    an end token between a prompt and its answer would be read as the end of the text.

    Raises:
        ValueError: it is no tokenizer; or, of a text, it holds half a character or has no token.
    """
    _check(tokenizer)

    def encode(text: str) -> list[int]:
        ids = read(text)
        if not ids:
            raise ValueError(f"the text {text!r} has no token in this tokenizer; give a text")
        return ids

    def read(text: str) -> list[int]:
        check_encodes(text)
        ids = without_second_begin(tokenizer, list(tokenizer(text)["input_ids"]), text)
        own = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        for start in range(len(ids) - len(own) + 1):
            if ids[start : start + len(own)] == own:
                return ids[: start + len(own)]
        return ids

    return encode


def check_encodes(text: str) -> None:
    """Raises:
    ValueError: it holds half a character, which no tokenizer reads.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text {text!r} holds half a character: {error.reason}") from error


def without_second_begin(tokenizer: Any, ids: list[int], text: str) -> list[int]:
    """Without the begin token that the tokenizer has put before a text that brings one, as what a
    chat template writes does. A text that begins with it twice keeps both."""
    begin = getattr(tokenizer, "bos_token_id", None)
    name = str(getattr(tokenizer, "bos_token", None))
    twice = begin is not None and ids[:2] == [begin, begin]
    return ids[1:] if twice and text.count(name, 0, 2 * len(name)) < 2 else ids


def _check(tokenizer: Any) -> None:
    if not callable(tokenizer) or isinstance(tokenizer, torch.nn.Module):
        raise ValueError(
            f"tokenizer is {shown(tokenizer)}; give a tokenizer of transformers, such as "
            "load_tokenizer(model)"
        )


def answer_id(tokenizer: Any, prompt: str, answer: str, single: bool = False) -> int:
    """The first token of an answer as it follows the prompt (a tokenizer may write it otherwise
    when it stands alone).

    Raises:
        ValueError: the answer has no token of its own, is unknown to the tokenizer, or
            (``single``) has more than one token.
    """
    ids = answer_tokens(tokenizer, prompt, answer)
    if single and len(ids) != 1:
        hint = " as it follows the prompt without a space" if is_glued(prompt, answer) else ""
        raise ValueError(f"{answer!r} is {len(ids)} tokens, not one{hint}")
    return ids[0]


def answer_tokens(tokenizer: Any, prompt: str, answer: str) -> list[int]:
    """All tokens of an answer as it follows the prompt.

    Raises:
        ValueError: the answer has no token of its own, or is unknown to the tokenizer.
    """
    encode = encoder(tokenizer)
    before, both = encode(prompt), encode(prompt + answer)
    if both[: len(before)] != before or len(both) == len(before):
        hint = f"; begin it with a space, {' ' + answer!r}" if is_glued(prompt, answer) else ""
        raise ValueError(
            f"the answer {answer!r} merges with the end of the prompt {prompt[-20:]!r} in this "
            f"tokenizer, so it has no token of its own{hint}"
        )
    check_known(tokenizer, answer, both[len(before) :])
    return both[len(before) :]


def is_glued(prompt: str, answer: str) -> bool:
    """Whether an answer goes on with the prompt's last word, where a space was forgotten, mostly:
    a letter follows a letter, in a script with capitals (others write no spaces)."""
    return all(x.lower() != x.upper() for x in (prompt[-1:], answer[:1]))


def has_two_spaces(tokenizer: Any, prompt: str, answer: str) -> bool:
    """Whether a prompt ends in a space and its answer begins with one, in a tokenizer that tells
    two spaces from one."""
    if not (prompt.endswith(" ") and answer.startswith(" ")):
        return False
    encode = encoder(tokenizer)
    return encode(prompt) != encode(prompt.rstrip(" "))


def check_known(tokenizer: Any, answer: str, ids: Sequence[int]) -> None:
    """Refuse what a tokenizer does not know: the score would be that of its unknown token, the same
    for all words that it does not know. Who writes that token in the answer means it.

    Raises:
        ValueError: the unknown token is among the answer's.
    """
    unknown, name = getattr(tokenizer, "unk_token_id", None), getattr(tokenizer, "unk_token", None)
    if unknown is None or list(ids).count(unknown) <= answer.count(str(name)):
        return
    part = "" if len(ids) == 1 else f" {list(ids).count(unknown)} of its {len(ids)} tokens as"
    raise ValueError(
        f"the answer {answer!r} is outside of this tokenizer's vocabulary, which reads{part} "
        f"{name}, so that it has no token of its own; give a word that the tokenizer knows, or a "
        "token's id"
    )


def is_one_token(tokenizer: Any, prompt: str, answer: str) -> bool:
    """Whether an answer is one token behind a prompt."""
    try:
        return answer_id(tokenizer, prompt, answer, single=True) >= 0
    except ValueError:
        return False


def texts_of(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token by itself."""
    return [tokenizer.decode([int(i)]) for i in ids]


def tokenizer_behind(decode: Any) -> Any:
    """The tokenizer that a task was made with, of its ``decode``; None: it was another function."""
    ours = isinstance(decode, partial) and decode.func is texts_of
    return decode.args[0] if ours else None


def padded(
    rows: Sequence[Sequence[int]],
) -> tuple[Int[Tensor, "row pos"], Bool[Tensor, "row pos"] | None]:
    """Rows of token ids in one table, padded on the right by repeating the last, and where they are
    real (None: everywhere)."""
    width = max(len(row) for row in rows)
    real = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
    table = torch.tensor([[*row, *[row[-1]] * (width - len(row))] for row in rows])
    return table, None if real.all() else real
