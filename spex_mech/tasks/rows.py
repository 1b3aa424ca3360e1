"""Rows of prompts in words, and the task that they make for a tokenizer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

from spex_mech.arguments import counted
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.task import Task
from spex_mech.engine.tokens import (
    answer_tokens,
    as_written,
    encoder,
    has_mask,
    has_two_spaces,
    is_glued,
    mask_places,
    padded,
)
from spex_mech.notices import warn

_FIRST_HASH = 2**40  # of a cluster's word; smaller numbers are clusters' own
_IN_PROMPT = 0.5  # the least share of rows whose answers' words are in the prompt, to believe ids


@dataclass(frozen=True)
class Row:
    """One prompt in words, with answers in words or already as token ids."""

    clean: str
    corrupted: str | None
    answers: Sequence[str | int]
    wrong_answers: Sequence[str | int]
    metric: str = "logit_diff"
    place: str = ""  # where it stands, for messages
    cluster: str | int | None = None  # rows of one cluster are not independent of each other


@dataclass(frozen=True)
class _Encoded:
    row: Row
    clean: list[int]
    corrupted: list[int] | None
    answers: list[int]
    wrong_answers: list[int]
    doubt: str  # of what its answers' first tokens mean; or nothing


def task_from_rows(
    rows: Iterable[Row],
    tokenizer: Any,
    n_prompts: int | None,
    name: str,
    ids: bool = False,
    continues: bool = True,
) -> Task:
    """The task of the first ``n_prompts`` usable rows (None: of all rows).

    A row whose corrupted prompt has another number of tokens cannot be used, since resampling goes
    position by position; it is left out.

    Args:
        ids: the answers were read as token ids, which are of one tokenizer only: they are checked.
        continues: the model continues a text, so that none ends in the token that a tokenizer
            appends; a classifier or an encoder reads that one too.

    Raises:
        ValueError: too few rows can be used, the answers of one cannot be told apart, or some have
            one mask token and others none.

    Warns:
        UserWarning: rows of a file were left out, its token ids may be of another tokenizer, or an
            answer is not scored as a whole word.
    """
    encode = encoder(tokenizer)  # which says what is no tokenizer
    encode = encode if continues else partial(as_written, tokenizer)
    kept: list[_Encoded] = []
    left_out: list[Row] = []
    for row in rows:
        clean = encode(row.clean)
        corrupted = None if row.corrupted is None else encode(row.corrupted)
        if corrupted is None or len(corrupted) == len(clean):
            kept.append(_encoded(row, clean, corrupted, tokenizer, name))
        else:
            left_out.append(row)
        if len(kept) == n_prompts:
            break
    _check_count(kept, left_out, n_prompts, name)
    if other := next((one.row for one in kept if one.row.metric != kept[0].row.metric), None):
        has, lacks = sorted((kept[0].row, other), key=lambda row: not row.wrong_answers)
        raise ValueError(
            f"{name}: {has.place} has wrong answers and {lacks.place} has none; give them in every "
            "row or in none"
        )
    if len({not one.row.answers for one in kept}) > 1:
        place = next(one.row.place for one in kept if not one.row.answers)
        raise ValueError(f"{name}: {place} has no answer; give one in every row or in none")
    lacking = [one.row.place for one in kept if one.corrupted is None]
    if 0 < len(lacking) < len(kept):
        warn(
            f"{name}: {lacking[0]} has no corrupted version, so that those of the other "
            f"{counted(len(kept) - len(lacking), 'row')} are not used; give one in every row or in "
            "none"
        )
    alone = [one.row.place for one in kept if one.row.cluster is None]
    if 0 < len(alone) < len(kept):
        raise ValueError(
            f"{name}: {alone[0]} has no cluster, and others have one; give one in every row or in "
            "none (a row that stands for itself has one of its own)"
        )
    if ids:
        _check_ids(kept, tokenizer, name)
    if doubts := [f"{one.row.place}: {one.doubt}" for one in kept if one.doubt]:
        more = f", and {counted(len(doubts) - 1, 'other row')}" if len(doubts) > 1 else ""
        warn(f"{name}: {doubts[0]}{more}")
    return Task(_prompts(kept, tokenizer, name), kept[0].row.metric, name)


def _encoded(
    row: Row, clean: list[int], corrupted: list[int] | None, tokenizer: Any, name: str
) -> _Encoded:
    place = f"{name}: {row.place}: " if row.place else f"{name}: "
    answers: list[list[int]] = []
    doubt = ""
    for given in (row.answers, row.wrong_answers):
        try:
            found = [
                [a] if isinstance(a, int) else answer_tokens(tokenizer, row.clean, a) for a in given
            ]
        except ValueError as error:
            raise ValueError(f"{place}{error}") from error
        for answer, tokens in zip(given, found, strict=True):
            doubt = doubt or _doubt(tokenizer, row.clean, answer, tokens)
        # An answer that is listed twice counts once.
        answers.append(list(dict.fromkeys(tokens[0] for tokens in found)))
    right, wrong = answers
    if both := set(right) & set(wrong):
        token = next(iter(both))
        a, b = row.answers[_first(row.answers, right, token)], row.wrong_answers[0]
        raise ValueError(
            f"{place}the answer {a!r} and a wrong answer ({b!r} is the first) have the same first "
            f"token ({tokenizer.decode([token])!r}), and an answer is read by its first token; "
            "leave the row out, or give answers that begin differently"
        )
    return _Encoded(row, clean, corrupted, right, wrong, doubt)


def _doubt(tokenizer: Any, prompt: str, answer: str | int, tokens: Sequence[int]) -> str:
    """Why the first token of an answer may not be what was meant."""
    if has_mask(tokenizer, prompt):  # it stands in place of the mask token, as a whole
        return ""
    if isinstance(answer, str) and is_glued(prompt, answer):
        return (
            f"the answer {answer!r} goes on with the last word of {prompt[-20:]!r}; begin it with "
            f"a space, {' ' + answer!r}, if it is a word"
        )
    if isinstance(answer, str) and has_two_spaces(tokenizer, prompt, answer):
        return (
            f"the prompt {prompt[-20:]!r} ends in a space and the answer {answer!r} begins with "
            "one; leave out that of the prompt"
        )
    if len(tokens) == 1:
        return ""
    return (
        f"the answer {answer!r} is {len(tokens)} tokens, and only the first, "
        f"{tokenizer.decode(tokens[:1])!r}, is scored; Prompts.from_text(..., continuations=...) "
        "scores all"
    )


def _first(given: Sequence[str | int], ids: Sequence[int], token: int) -> int:
    return min(list(ids).index(token), len(given) - 1)


def _check_count(
    kept: Sequence[_Encoded], left_out: Sequence[Row], n_prompts: int | None, name: str
) -> None:
    of_pairs = ""
    if left_out:
        which = ", ".join(row.place for row in left_out[:3] if row.place)
        more = ", ..." if len(left_out) > 3 else ""
        are = "is" if len(left_out) == 1 else "are"
        of_pairs = (
            f"{counted(len(left_out), 'row')} {are} left out, as a "
            "prompt and its corrupted version must have as many tokens"
            f"{f' ({which}{more})' if which else ''}"
        )
    if not kept or (n_prompts is not None and len(kept) < n_prompts):
        cure = f"ask for n_prompts={len(kept)} or fewer" if kept else "look at its rows"
        wanted = f", not {n_prompts}" if n_prompts is not None else ""
        raise ValueError(
            f"{name}: {len(kept)} usable prompts{wanted}"
            f"{f' ({of_pairs})' if of_pairs else ''}; {cure}"
        )
    if of_pairs and n_prompts is None:
        warn(f"{name}: {of_pairs}")


def _check_ids(kept: Sequence[_Encoded], tokenizer: Any, name: str) -> None:
    """Whether token ids of a file can be this tokenizer's.

    Raises:
        ValueError: an id is outside the vocabulary.
    """
    n_vocab = len(tokenizer) if hasattr(tokenizer, "__len__") else None
    known = 0
    for one in kept:
        each = [*one.answers, *one.wrong_answers]
        if n_vocab is not None and max(each) >= n_vocab:
            raise ValueError(
                f"{name}: {one.row.place}: the answer is token {max(each)}, and this tokenizer has "
                f"{n_vocab:,}: the file's token ids are of another tokenizer; write the answers as "
                "words instead"
            )
        words = [tokenizer.decode([i]).strip().casefold() for i in each]
        known += any(word and word in one.row.clean.casefold() for word in words)
    if known < _IN_PROMPT * len(kept):
        one = kept[0]
        right, wrong = (tokenizer.decode([i[0]]) for i in (one.answers, one.wrong_answers))
        warn(
            f"{name}: the answers are token ids, which mean the same only for the tokenizer that "
            f"they were written with. With this one, {one.row.place} reads "
            f"{one.row.clean[-40:]!r} -> {right!r} (wrong: {wrong!r}). If that is not what it "
            "should say, write the answers as words.",
        )


def _prompts(kept: Sequence[_Encoded], tokenizer: Any, name: str) -> Prompts:
    texts, places = [one.row.clean for one in kept], None
    if kept[0].row.answers:
        names = [f"{name}: {one.row.place or repr(one.row.clean)}" for one in kept]
        places = mask_places(tokenizer, texts, [one.clean for one in kept], names)
    tokens, mask = padded([one.clean for one in kept])
    corrupted = [one.corrupted for one in kept if one.corrupted is not None]
    right, wrong = [one.answers for one in kept], [one.wrong_answers for one in kept]
    clusters = [one.row.cluster for one in kept]
    numbers = [_cluster_number(cluster) for cluster in clusters if cluster is not None]
    return Prompts(
        tokens,
        attention_mask=mask,
        answers=right if all(right) else None,
        wrong_answers=wrong if all(wrong) else None,
        corrupted=padded(corrupted)[0] if len(corrupted) == len(kept) else None,
        answer_pos=places,
        clusters=numbers if len(numbers) == len(kept) else None,
    )


def _cluster_number(cluster: str | int) -> int:
    """A number is its own, and a word its hash: the same in every task, so that a search and what
    confirms it are seen to have clusters in common."""
    if isinstance(cluster, int) and abs(cluster) < _FIRST_HASH:
        return cluster
    return _FIRST_HASH + int.from_bytes(sha256(str(cluster).encode()).digest()[:5], "big")
