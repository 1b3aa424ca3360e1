"""Words as tokens: what a prompt and its answer are to a tokenizer."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from spex_mech.arguments import shown


def encoder(tokenizer: Any, fills: bool = True) -> Callable[[str], list[int]]:
    """Text -> token ids, with what the tokenizer puts before a text and without what it appends:
    an end token between a prompt and its answer would be read as the end of the text.

    Args:
        fills: a text that brings a mask token keeps its end, as its answer is read at the mask.

    Raises:
        ValueError: it is no tokenizer; or, of a text, it holds half a character or has no token.
    """
    _check(tokenizer)

    def encode(text: str) -> list[int]:
        ids = as_written(tokenizer, text, follows=not (fills and has_mask(tokenizer, text)))
        if not ids:
            raise ValueError(f"the text {text!r} has no token in this tokenizer; give a text")
        return ids

    return encode


def as_written(tokenizer: Any, text: str, follows: bool = False) -> list[int]:
    """Token ids as the tokenizer writes a text, with its special tokens once (``once``)."""
    check_encodes(text)
    ids = list(tokenizer(text)["input_ids"])
    return ids[once(tokenizer, ids, text, follows)]


def once(tokenizer: Any, ids: list[int], text: str, follows: bool = False) -> slice:
    """Which of a text's tokens are read: without the special tokens that the tokenizer has put
    around a text that brings the same ones, as what a chat template writes does, or ``[CLS]`` and
    ``[SEP]`` by hand. A text that brings them twice has them twice.

    Args:
        follows: words follow the text, so that nothing that the tokenizer appends is read.
    """
    own = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    places = range(len(ids) - len(own) + 1)
    first = next((at for at in places if ids[at : at + len(own)] == own), None)
    if first is None:
        return slice(0, len(ids))
    stop = first + len(own)
    before, after = ids[:first], ids[stop:]
    begins, ends = own[: len(before)] == before, own[len(own) - len(after) :] == after
    return slice(first if begins else 0, stop if follows or ends else len(ids))


def has_mask(tokenizer: Any, text: str) -> bool:
    """Whether a text brings a mask token, which models of masked words fill in."""
    name = getattr(tokenizer, "mask_token", None)
    return name is not None and str(name) in text


def mask_places(
    tokenizer: Any, texts: Sequence[str], rows: Sequence[Sequence[int]], names: Sequence[str]
) -> list[int] | None:
    """Where the answer of each prompt is read that brings mask tokens; None: none does.

    Args:
        names: what messages call each prompt.

    Raises:
        ValueError: one has another number of mask tokens than one.
    """
    if not any(has_mask(tokenizer, text) for text in texts):
        return None
    found = []
    for row, name in zip(rows, names, strict=True):
        places = [pos for pos, token in enumerate(row) if token == tokenizer.mask_token_id]
        if len(places) != 1:
            raise ValueError(
                f"{name} has {len(places)} mask tokens {tokenizer.mask_token}, and an answer fills "
                "in one; write one into each prompt, or give Prompts(tokens, answer_pos=...)"
            )
        found += places
    return found


def filled_in(
    tokenizer: Any, read: Callable[..., list[int]], texts: Sequence[str], place: int, answer: str
) -> int:
    """The token of an answer in place of a mask token.

    Args:
        read: the texts -> token ids.
        texts: one, or the two of a pair.
        place: the position of the mask token.

    Raises:
        ValueError: the answer is not one token there, or unknown to the tokenizer.
    """
    name, before, written = str(tokenizer.mask_token), read(*texts), list(texts)
    nth = before[:place].count(tokenizer.mask_token_id)
    which = 0
    while nth >= texts[which].count(name):
        nth, which = nth - texts[which].count(name), which + 1
    parts = texts[which].split(name)
    left, right = name.join(parts[: nth + 1]), name.join(parts[nth + 1 :])
    written[which] = left + (answer.lstrip(" ") if left.endswith(" ") else answer) + right
    ids = read(*written)
    if [*before[:place], *ids[place : place + 1], *before[place + 1 :]] != ids:
        raise ValueError(
            f"the answer {answer!r} is not one token in place of {name}, and the model fills in one"
        )
    check_known(tokenizer, answer, [ids[place]])
    return ids[place]


def check_encodes(text: str) -> None:
    """Raises:
    ValueError: it holds half a character, which no tokenizer reads.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text {text!r} holds half a character: {error.reason}") from error


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
    """All tokens of an answer as it follows the prompt, or its token in place of the mask token
    that the prompt brings.

    Raises:
        ValueError: the answer has no token of its own, or is unknown to the tokenizer.
    """
    encode = encoder(tokenizer)
    before = encode(prompt)
    if has_mask(tokenizer, prompt):
        read = partial(as_written, tokenizer)
        return [filled_in(tokenizer, read, [prompt], before.index(tokenizer.mask_token_id), answer)]
    both = encode(prompt + answer)
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
