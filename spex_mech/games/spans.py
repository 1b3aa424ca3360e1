"""Where the units of a text begin: tokens, words, sentences; and what each is called.

Words and sentences are found in the text as it was given, and tokens are put into them by the
offsets of a fast tokenizer. Where these are not known (a slow tokenizer, or prompts made of ids),
they are found in what the tokenizer decodes.

A *word* goes from white space to white space. Chinese and Japanese have none, so there each
character is a word. A *sentence* ends at a full stop, exclamation or question mark (with closing
quotes and brackets behind) before white space, at those of Chinese, Japanese, Hindi, Arabic and
Urdu, and at a line's end. A full stop ends none inside a number or a domain, behind a title
(``Dr.``), an abbreviation (``e.g.``) or letters with full stops (``U.S.``), even where a sentence
does end there.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from spex_mech.arguments import printable
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.task import Task
from spex_mech.engine.text import TextTask
from spex_mech.games.places import places_of

_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Chinese characters
_WORD = re.compile(rf"[{_ALONE}]|[^\s{_ALONE}]+")
_CLOSING = "\"'\u201d\u2019\u00bb)\\]}\u300d\u300f\uff09"
_END = re.compile(
    rf"(?:[\u3002\uff01\uff1f\uff61\u0964\u0965\u061f\u06d4]+|[.!?\u2026]+(?=[{_CLOSING}]*(?:\s|$)))[{_CLOSING}]*|\n+"
)
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr vs e.g i.e cf fig approx dept inc ltd co".split()
)
KINDS = ("words", "sentences")


def scored_positions(prompt: Prompts) -> set[int]:
    """The positions of the tokens that the metric scores by ``target_mask``."""
    if prompt.target_mask is None:
        return set()
    return {p + 1 for p in prompt.target_mask[0].nonzero()[:, 0].tolist()}


def special_ids(tokenizer: Any) -> set[int]:
    """The tokens that are no part of a text. An unknown word is one, unless its token also begins
    or ends texts."""
    added = getattr(tokenizer, "added_tokens_decoder", {})  # also those of a chat template
    special = {token for token, told in added.items() if told.special}
    special |= set(getattr(tokenizer, "all_special_ids", ()))
    unknown = getattr(tokenizer, "unk_token_id", None)
    names = ("bos", "eos", "cls", "sep", "pad", "mask")
    used = {getattr(tokenizer, f"{name}_token_id", None) for name in names}
    return special if unknown in used else special - {unknown}


def spans_of(task: Task, spans: Any, tokenizer: Any, left_out: set[int]) -> list[tuple[int, ...]]:
    """The positions of each unit.

    Args:
        left_out: positions that are in no unit by default.

    Raises:
        ValueError: no units, one alone where several are asked for, a position twice or none.
    """
    prompt = task.prompts
    real = prompt.real[0].nonzero()[:, 0].tolist()
    if spans is None or isinstance(spans, str):
        ids, special = prompt.tokens[0].tolist(), special_ids(tokenizer)
        scored = scored_positions(prompt)
        free = [p for p in real if ids[p] not in special and p not in scored | left_out]
        kind, spans = spans, [[p] for p in free]
        if kind is not None and free:
            spans = _parts(task, kind, free, tokenizer)
    found = [tuple(sorted(span)) for span in places_of("spans", spans, "a position")]
    used = [p for span in found for p in span]
    if not found or not all(found):
        raise ValueError("no units: every span needs at least one position")
    if len(set(used)) < len(used):
        twice = next(p for p in used if used.count(p) > 1)
        raise ValueError(f"position {twice} is in two spans; every position may be in one only")
    if outside := [p for p in used if p not in real]:
        raise ValueError(f"position {outside[0]} is no token of the text, which has {len(real)}")
    return found


def _parts(task: Task, kind: str, free: list[int], tokenizer: Any) -> list[list[int]]:
    """Neighbours among the free positions that stand in one word or sentence."""
    if kind not in KINDS:
        raise ValueError(f"spans={kind!r}; choose one of {', '.join(KINDS)}, or give positions")
    if tokenizer is None:
        raise ValueError(f"spans={kind!r} needs tokenizer=..., to know where they begin")
    text, begins = _places(task, free, tokenizer)
    starts = _word_starts(text) if kind == "words" else _sentence_starts(text)
    of = dict(zip(free, np.searchsorted(starts, begins, side="right").tolist(), strict=True))
    spans: list[list[int]] = []
    for p in free:
        if spans and spans[-1][-1] == p - 1 and of[p] == of[p - 1]:
            spans[-1].append(p)
        else:
            spans.append([p])
    if len(spans) == 1 and len(free) > 1:
        raise ValueError(
            f"spans={kind!r} finds one unit in this text, and one interacts with nothing; take "
            "smaller ones, or give the positions of each unit"
        )
    return spans


def _places(task: Task, free: list[int], tokenizer: Any) -> tuple[str, list[int]]:
    """The text, and where in it each free token's first character stands that is no space."""
    source = source_of(task)
    if source is not None:
        text, offsets = source
        return text, [a + _spaces(text[a:b]) for a, b in (offsets[p] for p in free)]
    ids, first, last = task.prompts.tokens[0].tolist(), free[0], free[-1]
    # A token alone may not tell whether a space comes before it; the text so far does.
    so_far = [tokenizer.decode(ids[first : p + 1]) for p in range(first, last + 1)]
    ends = {p: len(text.rstrip()) for p, text in enumerate(so_far, start=first)}
    for p in range(last - 1, first, -1):
        if so_far[p - first] == so_far[p - first - 1]:  # a byte of a character that is not whole
            ends[p] = ends[p + 1]
    return tokenizer.decode(ids[first : last + 1]), [max(0, ends[p] - 1) for p in free]


def source_of(task: Task) -> tuple[str, Sequence[tuple[int, int]]] | None:
    """The text of a task and the offsets of its tokens, where both are known."""
    if not isinstance(task, TextTask) or task.text is None or task.offsets is None:
        return None
    return (task.text, task.offsets) if len(task.offsets) == task.prompts.tokens.shape[1] else None


def _spaces(text: str) -> int:
    rest = text.lstrip()
    return len(text) - len(rest) if rest else 0


def _word_starts(text: str) -> list[int]:
    return [match.start() for match in _WORD.finditer(text)]


def _sentence_starts(text: str) -> list[int]:
    ends = [m.end() for m in _END.finditer(text) if not _within(text, m)]
    starts = {0, *ends}
    # From the first character on that is no space: a token may bring the space before it.
    return sorted({at + _spaces(text[at:]) for at in starts if text[at:].strip()})


def _within(text: str, end: re.Match[str]) -> bool:
    """Whether a full stop ends an abbreviation and no sentence."""
    if not end[0].startswith(".") or end[0].startswith(".."):
        return False
    word = re.split(r"[\s(\[\"']", text[: end.start()])[-1].lower()
    return word in _ABBREVIATIONS or re.fullmatch(r"(?:\w\.)+\w|[b-hj-z]", word) is not None


def labels_of(task: Task, spans: Sequence[Sequence[int]], tokenizer: Any) -> list[str]:
    """First position and text of each unit, as it was given; in small letters where the model reads
    these."""
    ids = task.prompts.tokens[0]
    if tokenizer is None:
        texts = ["+".join(str(int(ids[p])) for p in span) for span in spans]
        return [f"{span[0]}:{text}" for span, text in zip(spans, texts, strict=True)]
    source, texts = source_of(task), []
    for span in spans:
        text = tokenizer.decode(ids[list(span)].tolist()).strip()
        if source is not None:
            given = _as_given(*source, span) or text
            if _bare(text) == _bare(given):
                text = given  # with its own spaces: a tokenizer may write "3. 5"
            else:  # an uncased model reads small letters
                text = given.lower() if _bare(text) == _bare(given.lower()) else given
        texts.append(printable(text))
    return [f"{span[0]}:{text}" for span, text in zip(spans, texts, strict=True)]


def _as_given(text: str, offsets: Sequence[tuple[int, int]], span: Sequence[int]) -> str:
    """The text of a unit; of neighbours with what stands between them."""
    parts: list[tuple[int, int]] = []
    last = 0
    for p in (p for p in span if offsets[p][1] > offsets[p][0]):
        begin, end = offsets[p]
        if parts and all(between in span for between in range(last, p)):
            begin = parts.pop()[0]
        parts.append((begin, end))
        last = p
    return " ".join(text[begin:end].strip() for begin, end in parts).strip()


def _bare(text: str) -> str:
    return "".join(text.split())
