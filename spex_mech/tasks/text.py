"""One text as a task."""

import re
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from spex_mech.arguments import shown
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.text import (
    DecodedLogProb,
    Head,
    TextTask,
    class_number,
    head_of,
    log_sigmoid,
    raw_score,
    sum_log_prob,
    whole_number,
)
from spex_mech.engine.tokens import check_encodes, check_known, filled_in, is_glued, once
from spex_mech.models import load_tokenizer
from spex_mech.notices import warn

_REDUCE = ("mean", "sum")


def text_task(
    model: Any,
    text: Any,
    answer: Any = None,
    *,
    continuation: str | None = None,
    second: str | None = None,
    at: str | int | None = None,
    reduce: str = "mean",
    tokenizer: Any = None,
) -> TextTask:
    """One text as a task, for a ``TokenGame``. What it scores follows from the model's head, and is
    said in words by ``task.score``:

    | head | score |
    |---|---|
    | classes (softmax) | log-probability of the class ``answer`` |
    | several labels (``problem_type="multi_label_classification"``) | log-probability that the label ``answer`` holds (sigmoid) |
    | one output, regression | the output as it is; ``answer`` is not needed |
    | classes of tokens | log-probability of the class ``answer`` of the token ``at`` |
    | masked words | log-probability of ``answer`` at the mask token in the text |
    | causal | log-probability of the first token of ``answer`` after the text, or of all tokens of ``continuation``, mean or sum |
    | encoder-decoder | log-probability of all tokens of ``answer`` or ``continuation`` that the decoder writes, behind the one that it is made to write first (``forced_bos_token_id``), mean or sum |

    Special tokens that stand around the text already are not added again, and an end token that the
    tokenizer appends is left out where words follow the text.

    Args:
        text: the text; chat messages ``[{"role": ..., "content": ...}]``, which the tokenizer's
            template writes down: up to where the answer begins, which goes on with a last message
            of the assistant's; for models that judge a text, as they are. Or token ids, as they
            are.
        answer: a class by its label's name or its number; for models of words a text (its first
            token counts in causal models) or a token's id, of any whole-number type.
        continuation: what should follow; all its tokens are scored, under teacher forcing.
        second: the second text of a pair, for models that were trained on pairs, by a tokenizer
            that knows them.
        at: of which token the class is asked: a word that stands once in the text, or a position.
            For masked words, which of several mask tokens: its position.
        reduce: "mean" or "sum" over several tokens.
        tokenizer: instead of the model's own.

    Raises:
        ValueError: no tokenizer, an empty text, not one of answer and continuation, no such class,
            an answer that is neither text nor number, or one that has no token of its own or that
            the tokenizer does not know.

    Warns:
        UserWarning: of an answer of several tokens only the first is scored.
    """  # noqa: E501
    tokenizer = load_tokenizer(model) if tokenizer is None else tokenizer
    if tokenizer is None:
        raise ValueError("this model has no tokenizer; give tokenizer=..., or make Prompts of ids")
    if isinstance(text, str) and not text.strip():
        raise ValueError("the text is empty: it has no tokens to attribute anything to")
    if reduce not in _REDUCE:
        raise ValueError(f"reduce={reduce!r}; choose one of {', '.join(_REDUCE)}")
    head = head_of(model)
    if head.kind == "score" and answer is None and len(head.names) == 1:
        answer = 0
    if (answer is None) == (continuation is None):
        raise ValueError("give an answer or a continuation: what should follow the text")
    if continuation is not None and head.kind not in ("causal", "decoder"):
        raise ValueError(f"a {type(model).__name__} continues no text; give answer=")
    if at is not None and head.kind not in ("tokens", "masked"):
        raise ValueError(f"at={at!r} is for classes of tokens and masked words; leave it out")
    words = _Encoder(tokenizer, head.kind == "causal", head.kind in ("causal", "decoder"))
    asked = _Asked(answer, continuation, reduce == "mean", at)
    read = words.read(text, second)
    if head.kind == "causal":
        return _causal(words, read, asked)
    if head.kind == "decoder":
        return _decoded(words, read, asked, model)
    if head.kind == "masked":
        return _masked(words, read, asked, second)
    return _classified(words, read, asked, head)


@dataclass(frozen=True)
class _Asked:
    answer: Any
    continuation: str | None
    mean: bool
    at: str | int | None


@dataclass(frozen=True)
class _Read:
    """A text as the model reads it."""

    ids: list[int]
    source: str | None = None
    offsets: tuple[tuple[int, int], ...] | None = None
    token_types: list[int] | None = None
    templated: bool = False  # special tokens stand in the source already

    def prompts(self, **fields: Any) -> Prompts:
        types = None if self.token_types is None else [self.token_types]
        return Prompts([self.ids], token_types=types, **fields)


@dataclass(frozen=True)
class _Encoder:
    """A tokenizer, whose habits are evened out.

    Args:
        follows: words follow the text, so that no end token may stand behind it.
        answers: the model answers a text, rather than judges it.
    """

    tokenizer: Any
    follows: bool
    answers: bool

    def read(self, text: Any, second: str | None = None) -> _Read:
        if isinstance(text, str):
            return self._read(text, second)
        wanted = f"text is {shown(text)}; give a text, chat messages, or a list of token ids"
        rows = text.tolist() if hasattr(text, "tolist") else text
        if isinstance(rows, Mapping | Set | bytes) or not isinstance(rows, Iterable):
            raise ValueError(wanted)
        rows = list(rows)
        if rows and all(isinstance(row, Mapping) for row in rows):
            if not getattr(self.tokenizer, "chat_template", None):
                raise ValueError("the tokenizer has no chat template; write the messages as a text")
            begun = rows[-1].get("role") == "assistant"  # what the model has said already
            how = {"continue_final_message" if begun else "add_generation_prompt": self.answers}
            written = self.tokenizer.apply_chat_template(rows, tokenize=False, **how)
            return self._read(written, second, templated=True)
        if not rows or np.ndim(rows) != 1 or any(isinstance(row, str) for row in rows):
            raise ValueError(wanted)
        return _Read([whole_number(row) for row in rows])

    def _read(self, text: str, second: str | None, templated: bool = False) -> _Read:
        for part in (text, second or ""):
            check_encodes(part)
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        given: dict[str, Any] = {"return_offsets_mapping": True} if fast else {}
        if templated:
            given["add_special_tokens"] = False
        encoded = self.tokenizer(*([text] if second is None else [text, second]), **given)
        ids = list(encoded["input_ids"])
        types = encoded["token_type_ids"] if "token_type_ids" in encoded else None
        offsets = [tuple(pair) for pair in encoded["offset_mapping"]] if fast else None
        source = text
        if second is not None:
            self._check_pair(text, second, ids)
            source = f"{text}\n{second}"
            if offsets is not None:
                shift = len(text) + 1
                of = encoded.sequence_ids(0)
                offsets = [
                    (a + shift, b + shift) if which == 1 else (a, b)
                    for (a, b), which in zip(offsets, of, strict=True)
                ]
        used = once(self.tokenizer, ids, text, self.follows)
        used = used if second is None else slice(used.start, len(ids))
        return _Read(
            ids[used],
            source,
            None if offsets is None else tuple(offsets[used]),
            None if types is None else list(types[used]),
            templated,
        )

    def _check_pair(self, text: str, second: str, ids: Sequence[int]) -> None:
        """Raises:
        ValueError: the tokenizer leaves out of a pair what it puts around one text.
        """
        bare, other = (
            len(self.tokenizer(part, add_special_tokens=False)["input_ids"])
            for part in (text, second)
        )
        if len(ids) == bare + other and len(self.tokenizer(text)["input_ids"]) > bare:
            raise ValueError(
                "this tokenizer knows no pairs of texts: it puts special tokens around one, and "
                "none around or between two, so that the model would not read them as it was "
                "trained to; write both as one text, or give token ids"
            )

    def following(self, read: _Read, answer: str) -> list[int]:
        """The tokens of an answer as it follows the text; a tokenizer may write it otherwise when
        it stands alone.

        Raises:
            ValueError: it merges with the end of the text.
        """
        if not answer:
            raise ValueError("the answer is empty, so that nothing could be scored; give a text")
        if read.source is None:
            return self.alone(answer)
        both = self._read(read.source + answer, None, read.templated).ids
        if both[: len(read.ids)] != read.ids or len(both) == len(read.ids):
            raise ValueError(
                f"the answer {answer!r} merges with the end of the prompt {read.source[-20:]!r} in "
                "this tokenizer, so it has no token of its own"
            )
        check_known(self.tokenizer, answer, both[len(read.ids) :])
        return both[len(read.ids) :]

    def alone(self, answer: str) -> list[int]:
        """The tokens of an answer by itself, without special ones."""
        check_encodes(answer)
        ids = list(self.tokenizer(answer, add_special_tokens=False)["input_ids"])
        if not ids:
            raise ValueError(f"the answer {answer!r} has no token in this tokenizer")
        check_known(self.tokenizer, answer, ids)
        return ids

    def shown(self, token: int) -> str:
        return repr(self.tokenizer.decode([token]))

    def task(self, read: _Read, prompts: Prompts, metric: Any, name: str, score: str) -> TextTask:
        return TextTask(prompts, metric, name, self.tokenizer, score, read.source, read.offsets)


def _token(answer: Any) -> int:
    """The token of an answer that is given as its number.

    Raises:
        ValueError: it is no whole number, or a negative one.
    """
    if (number := whole_number(answer)) < 0:
        raise ValueError(f"the answer is {number}; a token's number is not negative")
    return number


def _causal(words: _Encoder, read: _Read, asked: _Asked) -> TextTask:
    if asked.continuation is None:
        if isinstance(asked.answer, str):
            target, *more = words.following(read, asked.answer)
            if more:
                warn(
                    f"the answer {asked.answer!r} is {1 + len(more)} tokens, and only the first, "
                    f"{words.shown(target)}, is scored; continuation= scores all"
                )
        else:
            target = _token(asked.answer)
        score = f"log-probability of the token {words.shown(target)} after the text"
        return words.task(read, read.prompts(answers=[target]), "log_prob", "text", score)
    rest = words.following(read, asked.continuation)
    n_before, n_all = len(read.ids), len(read.ids) + len(rest)
    scored = [n_before - 1 <= p < n_all - 1 for p in range(n_all)]
    whole = _Read(
        [*read.ids, *rest],
        read.source,
        None if read.offsets is None else (*read.offsets, *[(0, 0)] * len(rest)),
    )
    score = _of_tokens(asked.continuation, len(rest), asked.mean)
    metric = "log_prob" if asked.mean else sum_log_prob
    return words.task(whole, whole.prompts(target_mask=[scored]), metric, "continuation", score)


def _of_tokens(text: str, count: int, mean: bool) -> str:
    kind = "mean log-probability" if mean else "log-probability"
    return f"{kind} of the {count} token{'s' if count > 1 else ''} of {text!r}"


def _decoded(words: _Encoder, read: _Read, asked: _Asked, model: Any) -> TextTask:
    start = model.config.decoder_start_token_id
    if start is None:
        raise ValueError(
            f"the configuration of this {type(model).__name__} has no decoder_start_token_id, so "
            "that it is not known how its decoder begins; set it"
        )
    answer = asked.answer if asked.continuation is None else asked.continuation
    target = words.alone(answer) if isinstance(answer, str) else [_token(answer)]
    shown = answer if isinstance(answer, str) else words.tokenizer.decode(target)
    score, begin = _of_tokens(shown, len(target), asked.mean), (start,)
    if (forced := _forced(model)) is not None and forced != target[0]:
        begin, score = (start, forced), f"{score} behind {words.shown(forced)}"
    metric = DecodedLogProb(tuple(target), asked.mean)
    task = words.task(read, read.prompts(), metric, "text", score)
    return TextTask(**{**vars(task), "decoder_tokens": (*begin, *target[:-1])})


def _forced(model: Any) -> int | None:
    """The token that a decoder is made to write first, such as BART's begin token or a language."""
    configs = (getattr(model, "generation_config", None), model.config)
    forced = (getattr(config, "forced_bos_token_id", None) for config in configs)
    return next((token for token in forced if token is not None), None)


def _masked(words: _Encoder, read: _Read, asked: _Asked, second: str | None) -> TextTask:
    mask, name = words.tokenizer.mask_token_id, words.tokenizer.mask_token
    places = [p for p, token in enumerate(read.ids) if token == mask]
    place = places[0] if len(places) == 1 and asked.at is None else asked.at
    if place not in places:
        raise ValueError(
            f"the text has {len(places)} mask tokens {name}, at positions {places}; the model "
            "fills in one: write it into the text, or give at=, one of these positions"
        )
    if isinstance(asked.answer, str):
        if read.source is None:
            raise ValueError(
                f"the answer {asked.answer!r} is a word, and the text is token ids; give a token's "
                "id, or the text as words"
            )
        first = read.source if second is None else read.source.removesuffix(f"\n{second}")
        texts = [first] if second is None else [first, second]
        again = lambda *texts: words.read(*texts).ids  # noqa: E731
        target = filled_in(words.tokenizer, again, texts, place, asked.answer)
    else:
        target = _token(asked.answer)
    prompts = read.prompts(answers=[target], answer_pos=[place])
    score = f"log-probability of the token {words.shown(target)} at {name}, position {place}"
    return words.task(read, prompts, "log_prob", "text", score)


def _classified(words: _Encoder, read: _Read, asked: _Asked, head: Head) -> TextTask:
    number = class_number(asked.answer, head.names)
    name, fields = head.names[number], {"answers": [number]}
    kinds: dict[str, tuple[Any, str]] = {
        "classes": ("log_prob", f"log-probability of class {name}"),
        "labels": (log_sigmoid, f"log-probability that label {name} holds"),
        "score": (raw_score, f"output {name} as it is"),
    }
    if head.kind == "tokens":
        place = _place_of(read, asked.at)
        token = words.shown(read.ids[place])
        kinds["tokens"] = ("log_prob", f"log-probability of class {name} of {token}, token {place}")
        fields["answer_pos"] = [place]
    metric, score = kinds[head.kind]
    return words.task(read, read.prompts(**fields), metric, "text", score)


def _place_of(read: _Read, at: str | int | None) -> int:
    """The position of a token, by number or by the word that it begins."""
    if at is None:
        raise ValueError(
            "this model gives classes of tokens; say of which one: at=, a word of the text or a "
            "position"
        )
    if not isinstance(at, str):
        place = whole_number(at)
        if not 0 <= place < len(read.ids):
            raise ValueError(f"at={place}; the text has the positions 0 to {len(read.ids) - 1}")
        return place
    if read.source is None or read.offsets is None:
        raise ValueError(f"at={at!r} needs a fast tokenizer and a text; give the position")
    source, starts = (
        read.source,
        [match.start() for match in re.finditer(re.escape(at), read.source)],
    )
    # Not those within another word.
    starts = [
        start
        for start in starts
        if not is_glued(source[:start], at) and not is_glued(at, source[start + len(at) :])
    ]
    if len(starts) != 1:
        raise ValueError(
            f"the word {at!r} stands {len(starts)} times in the text; give the position"
        )
    start = starts[0]
    found = [p for p, (a, b) in enumerate(read.offsets) if a <= start < b]
    if not found:
        raise ValueError(f"the word {at!r} has no token in this tokenizer; give the position")
    return found[0]
