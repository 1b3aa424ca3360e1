"""Prompts: what a model reads, and what a metric needs to know of it."""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from spex_mech.arguments import plain_tensor, same_rows, shown
from spex_mech.engine.tokens import (
    answer_id,
    as_written,
    encoder,
    has_mask,
    has_two_spaces,
    is_glued,
    mask_places,
    padded,
)
from spex_mech.fingerprints import sha256_of
from spex_mech.notebook import counted, facts_html
from spex_mech.notices import warn

# What tokenizers give beside what a model reads.
_NOT_READ = {
    "offset_mapping", "special_tokens_mask", "length", "overflow_to_sample_mapping",
    "overflowing_tokens", "num_truncated_tokens",
}  # fmt: skip


_DECODER_MASK = "decoder_attention_mask"
_SHORT = 8  # hexadecimal digits of a prompt's hash: of a thousand prompts 1e-4 that two share one


@dataclass(frozen=True, eq=False, init=False)
class Prompts:
    """Tokenised prompts of one length (padded on the right), with their answers; or anything else
    that a model reads by keyword, row by row: images, sounds, embeddings.

    Lists are made tensors; a single answer per prompt is made a row of one; sets of answers of
    unequal size are padded with -1.

    An answer that is listed twice counts once.

    Args:
        tokens: token ids, ``[prompt pos]``; or what a tokenizer or a processor returns, with
            ``input_ids`` and perhaps ``attention_mask`` and ``token_type_ids``, or with what goes
            into ``inputs``. None where a model reads none: then they hold, for each prompt, the
            number of the first that reads the same.
        attention_mask: True where a token is real, ``[prompt pos]``; default: everywhere.
        answers: the right answers' token ids, ``[prompt]`` or ``[prompt answer]``.
        wrong_answers: the same for wrong ones.
        corrupted: the token ids of a corrupted prompt of the same length (for resampling).
        target_mask: True at the positions whose *next* token a metric scores, ``[prompt pos]``.
        answer_pos: the position at which the answer is read; default: the last real token.
        index: each prompt's number in the set it came from; kept when prompts are taken out.
        token_types: which of two sentences each token is of (``token_type_ids``), ``[prompt pos]``,
            for models that were trained on pairs.
        clusters: the number of each prompt's cluster, where prompts are not independent of each
            other, such as those of one template or name. Errors and q-values are then by cluster.
        inputs: what else the model reads, by keyword, with one row for each prompt: such as
            ``pixel_values``, ``input_features``, ``inputs_embeds`` or ``decoder_input_ids``. With
            the last, answers, ``answer_pos`` and ``target_mask`` are of the decoder's positions.
        corrupted_inputs: those of them that are other ones in the corrupted prompts.
        has_tokens: False where ``tokens`` hold such numbers and no token ids.

    Raises:
        ValueError: no prompts, texts instead of token ids, rows of unequal length (pad them, and
            give ``attention_mask``), padding on the left, a negative token, an answer position that
            is out of range or padding, an answer that is right and wrong at once, or a field whose
            shape does not fit.
    """

    tokens: Int[Tensor, "prompt pos"]
    attention_mask: Bool[Tensor, "prompt pos"] | None
    answers: Int[Tensor, "prompt answer"] | None
    wrong_answers: Int[Tensor, "prompt wrong_answer"] | None
    corrupted: Int[Tensor, "prompt pos"] | None
    target_mask: Bool[Tensor, "prompt pos"] | None
    answer_pos: Int[Tensor, " prompt"] | None
    index: Int[Tensor, " prompt"]
    token_types: Int[Tensor, "prompt pos"] | None
    clusters: Int[Tensor, " prompt"] | None
    inputs: Mapping[str, Tensor]
    corrupted_inputs: Mapping[str, Tensor]
    has_tokens: bool

    def __init__(
        self,
        tokens: Any = None,
        attention_mask: Any = None,
        answers: Any = None,
        wrong_answers: Any = None,
        corrupted: Any = None,
        target_mask: Any = None,
        answer_pos: Any = None,
        index: Any = None,
        token_types: Any = None,
        clusters: Any = None,
        inputs: Any = None,
        corrupted_inputs: Any = None,
        has_tokens: bool = True,
    ) -> None:
        given = _Given.of(tokens if has_tokens else None, inputs)
        same_rows(answers=answers, wrong_answers=wrong_answers, clusters=clusters)
        tokens, n_prompts = given.tokens, len(given.tokens)
        attention_mask = given.attention_mask if attention_mask is None else attention_mask
        token_types = given.token_types if token_types is None else token_types
        real = _real(tokens, attention_mask)
        other_inputs = _corrupted_inputs(corrupted_inputs or {}, given.inputs)
        other = tokens if other_inputs else None
        if corrupted is not None:
            other = _same_shape(tokens, "corrupted", _token_matrix("corrupted", corrupted))
        read = _decoded(tokens, given.inputs)
        _real(read, given.inputs.get(_DECODER_MASK), _DECODER_MASK)
        values = {
            "tokens": tokens,
            "attention_mask": real,
            "answers": _answer_matrix("answers", answers, n_prompts),
            "wrong_answers": _answer_matrix("wrong_answers", wrong_answers, n_prompts),
            "corrupted": other,
            "target_mask": _like(read, "target_mask", target_mask),
            "answer_pos": _one_each("answer_pos", answer_pos, n_prompts),
            "index": _one_each("index", range(n_prompts) if index is None else index, n_prompts),
            "token_types": None
            if token_types is None
            else _same_shape(tokens, "token_types", _token_matrix("token_types", token_types)),
            "clusters": _one_each("clusters", clusters, n_prompts),
            "inputs": given.inputs,
            "corrupted_inputs": other_inputs,
            "has_tokens": given.has_tokens,
        }
        _check_answers(values["answers"], values["wrong_answers"])
        _check_positions(values["answer_pos"], _decoded_real(real, given.inputs), read)
        for name, value in values.items():
            object.__setattr__(self, name, _each(value, lambda x: x.to(tokens.device)))

    @staticmethod
    def from_text(
        tokenizer: Any,
        texts: Any,
        answers: Any = None,
        wrong_answers: Any = None,
        *,
        continuations: Any = None,
        corrupted: Any = None,
        clusters: Any = None,
    ) -> "Prompts":
        """Prompts from texts, padded on the right, as the tokenizer writes them; where an answer or
        a continuation follows, without the end token that it may append. A text that brings a
        begin token, as a chat template writes it, gets no second one. A text that brings the
        tokenizer's mask token is read there, as models of masked words fill it in.

        Args:
            tokenizer: of the model (``load_tokenizer(model)``).
            texts: the prompts, a list of strings.
            answers: what should follow each, with the space before it where the model writes one
                (" Paris"), or stand in place of its mask token: a word of one token, or several
                such words.
            wrong_answers: the same for wrong ones.
            continuations: instead of answers, a text of any length that should follow each; all of
                its tokens are scored, by "log_prob" and "loss", each after those before it.
            corrupted: for "resample", of each prompt a version of as many tokens.
            clusters: as of ``Prompts``.

        Raises:
            ValueError: no texts, lists of unequal length, an answer that is not one token behind
                its prompt, some prompts with one mask token and others without, or a corrupted
                prompt of another number of tokens; the text names the prompt.

        Warns:
            UserWarning: an answer goes on with a prompt's last word, as no space begins it.
        """
        beside = {"answers": answers, "wrong_answers": wrong_answers, "corrupted": corrupted}
        beside |= {"continuations": continuations, "clusters": clusters}
        same_rows(texts=texts, **beside)
        texts = _texts("texts", texts, None)
        encode, targets = encoder(tokenizer, fills=continuations is None), None
        if answers is wrong_answers is continuations is None:  # as a classifier reads a text
            encode = partial(as_written, tokenizer)
        rows = [encode(text) for text in texts]
        if empty := [text for text, row in zip(texts, rows, strict=True) if not row]:
            raise ValueError(f"texts: {empty[0]!r} has no token in this tokenizer; leave it out")
        if continuations is not None:
            if answers is not None or wrong_answers is not None:
                raise ValueError("give answers or continuations, not both")
            follow = _texts("continuations", continuations, len(texts))
            pairs = list(zip(texts, follow, strict=True))
            _warn_if_glued("continuations", pairs)
            before, rows = rows, [encode(a + b) for a, b in pairs]
            targets = [
                _scored(n, *ids, *pairs[n]) for n, ids in enumerate(zip(before, rows, strict=True))
            ]
        tokens, real = padded(rows)
        places = None if answers is None else _mask_places(tokenizer, texts, rows)
        if targets is not None:
            targets = [row + [False] * (tokens.shape[1] - len(row)) for row in targets]
        return Prompts(
            tokens,
            real,
            _answer_ids("answers", tokenizer, texts, answers),
            _answer_ids("wrong_answers", tokenizer, texts, wrong_answers),
            _corrupted(encode, rows, corrupted),
            targets,
            places,
            clusters=clusters,
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, rows: Any) -> "Prompts":
        """Some of the prompts: a slice, a list, or a tensor of numbers (repeats allowed)."""
        if isinstance(rows, int | np.integer):
            rows = [rows]
        return self._changed(lambda value: value[rows])

    @property
    def real(self) -> Bool[Tensor, "prompt pos"]:
        """True where a token is not padding."""
        if self.attention_mask is not None:
            return self.attention_mask
        return torch.ones_like(self.tokens, dtype=torch.bool)

    @property
    def decoded(self) -> Int[Tensor, "prompt pos"]:
        """The tokens at whose positions the model answers: a decoder's, where it is given any."""
        return _decoded(self.tokens, self.inputs)

    @property
    def decoded_real(self) -> Bool[Tensor, "prompt pos"]:
        """True where such a token is not padding."""
        real = _decoded_real(self.attention_mask, self.inputs)
        return torch.ones_like(self.decoded, dtype=torch.bool) if real is None else real

    @property
    def last(self) -> Int[Tensor, " prompt"]:
        """The position at which the answer is read."""
        return self.decoded_real.sum(dim=1) - 1 if self.answer_pos is None else self.answer_pos

    @property
    def same_as(self) -> Int[Tensor, " prompt"]:
        """For each prompt, the number of the first that reads the same."""
        tokens = torch.where(self.real, self.tokens, -1)
        return _first_equal([tokens, *self.inputs.values()])

    @property
    def are_equal(self) -> bool:
        """Whether all of them read the same."""
        every = [torch.where(self.real, self.tokens, -1), *self.inputs.values()]
        return all(torch.equal(x[0], x[row]) for row in range(1, len(self)) for x in every)

    def cluster_numbers(self) -> list[int] | None:
        """The number of each prompt's cluster: those that were given, and prompts of the same
        tokens in one. None where every prompt stands for itself."""
        given = range(len(self)) if self.clusters is None else self.clusters.tolist()
        same = self.same_as
        number: dict[tuple[str, int], int] = {}
        for cluster, row in zip(given, same.tolist(), strict=True):
            known = number.get(("cluster", cluster), number.get(("row", row), len(number)))
            other = number.get(("row", row), known)
            if other != known:  # the two are one
                number = {key: known if value == other else value for key, value in number.items()}
            number[("cluster", cluster)] = number[("row", row)] = known
        numbers = [number[("cluster", cluster)] for cluster in given]
        return None if len(set(numbers)) == len(numbers) else numbers

    def joined(self, other: "Prompts") -> "Prompts":
        """These and others.

        Raises:
            ValueError: they have other fields or inputs than these.
        """
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        if any(_kind(a) != _kind(b) for _, a, b in pairs):
            raise ValueError("these prompts have other fields than those; join prompts of one kind")
        return _unchecked({k: _joined(a, b) for k, a, b in pairs})

    def replaced(self, **values: Any) -> "Prompts":
        """The same with other fields, unchecked."""
        return _unchecked({f.name: getattr(self, f.name) for f in fields(self)} | values)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "Prompts":
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return _unchecked({k: _each(value, change) for k, value in values})

    @property
    def read_as(self) -> list[str]:
        """What one prompt holds, in words: ``7 tokens``, ``pixel_values [3 224 224]``."""
        own = [f"{self.tokens.shape[1]} tokens"] if self.has_tokens else []
        return own + [
            f"{name} [{' '.join(map(str, value.shape[1:]))}]" for name, value in self.inputs.items()
        ]

    def _repr_html_(self) -> str:
        return facts_html("Prompts", _in_words(self))

    def in_short(self) -> str:
        """How many there are, and of what: ``64 prompts of 33 tokens``."""
        return f"{counted(len(self), 'prompt')} of {' and '.join(self.read_as)}"

    def __repr__(self) -> str:
        names = ("attention_mask", "answers", "wrong_answers", "corrupted", "target_mask")
        has = [f", {name}" for name in names if getattr(self, name) is not None]
        return f"Prompts({self.in_short()}{''.join(has)})"

    def to(self, device: Any) -> "Prompts":
        """The same prompts on a device."""
        return self._changed(lambda value: value.to(device))

    def cut(self, decoder: bool = False) -> "Prompts | None":
        """Without the last token, or a decoder's last one; None: there is none to leave out."""
        if decoder:
            own = {k: x[:, :-1] for k, x in self.inputs.items() if k.startswith("decoder")}
            few = any(not x.shape[1] for x in own.values())
            return None if few or not own else self.replaced(inputs={**self.inputs, **own})
        if not self.has_tokens or self.tokens.shape[1] < 2:
            return None
        names = ("tokens", "attention_mask", "token_types", "corrupted")
        own = {name: getattr(self, name) for name in names}
        less = {k: x if x is None else x[:, :-1] for k, x in own.items()}
        inputs = {
            k: x[:, :-1] if _is_of_tokens(self.tokens, k, x) else x for k, x in self.inputs.items()
        }
        return self.replaced(**less, inputs=inputs)

    def as_read(self, device: Any, dtype: torch.dtype) -> "Prompts":
        """The same on a device, with floating inputs in the type that a model computes in."""
        here = self.to(device)

        def in_type(value: Tensor) -> Tensor:
            return value.to(dtype) if value.is_floating_point() else value

        names = ("inputs", "corrupted_inputs")
        return here.replaced(**{name: _each(getattr(here, name), in_type) for name in names})


def without_padding(prompt: Prompts) -> Prompts:
    """One prompt without its padding."""
    if prompt.attention_mask is None:
        return prompt
    n_real = int(prompt.real.sum())
    names = ("tokens", "attention_mask", "token_types", "corrupted", "target_mask")
    own = {name: getattr(prompt, name) for name in names}
    less = {k: x if x is None else x[:, :n_real] for k, x in own.items()}
    inputs = {
        k: x[:, :n_real] if _is_of_tokens(prompt.tokens, k, x) else x
        for k, x in prompt.inputs.items()
    }
    return prompt.replaced(**less, inputs=inputs)


def _is_of_tokens(tokens: Tensor, name: str, value: Tensor) -> bool:
    """Whether an input says something of each token, as ``position_ids`` do."""
    is_whole = not value.is_floating_point() and not name.startswith("decoder")
    return is_whole and value.shape == tokens.shape


def _texts(name: str, given: Any, n: int | None) -> list[str]:
    """A list of texts, as many as there are prompts."""
    if isinstance(given, str) or not hasattr(given, "__len__") or not _is_in_order(given):
        raise ValueError(f"{name} is {shown(given)}; give a list of texts")
    listed = list(given)
    for number, text in enumerate(listed):
        if not isinstance(text, str) or not text:
            raise ValueError(f"{name}: prompt {number} is {shown(text)}; it must be a text")
    if not listed or n not in (None, len(listed)):
        raise ValueError(f"{name} has {len(listed)} entries, and there are {n or 'no'} prompts")
    return listed


def _mask_places(tokenizer: Any, texts: list[str], rows: list[list[int]]) -> list[int] | None:
    return mask_places(tokenizer, texts, rows, [f"prompt {n}" for n in range(len(texts))])


def _answer_ids(
    name: str, tokenizer: Any, texts: Sequence[str], given: Any
) -> list[list[int]] | None:
    """The token of each answer, a list for each prompt."""
    if given is None:
        return None
    wanted = "one text, or a list, per prompt"
    listed = [] if isinstance(given, str) else _items(name, given, wanted)
    if len(listed) != len(texts):
        raise ValueError(f"{name} is {shown(given)}; give {wanted}")
    rows, pairs = [], []
    for number, (text, words) in enumerate(zip(texts, listed, strict=True)):
        what = f"{name} of prompt {number}"
        words = [words] if isinstance(words, str) else _items(what, words, "a text, or several")
        if not words or not all(isinstance(word, str) and word for word in words):
            raise ValueError(
                f"{what} is {shown(words)}; give texts (Prompts(tokens, answers) takes token ids)"
            )
        pairs += [(text, word) for word in words if not has_mask(tokenizer, text)]
        try:
            rows.append([answer_id(tokenizer, text, word, single=True) for word in words])
        except ValueError as error:
            raise ValueError(
                f"{name} of prompt {number}: {error}; give another word, or continuations= to "
                "score all tokens of a text"
            ) from error
    _warn_if_glued(name, pairs)
    if spaced := [pair for pair in pairs if has_two_spaces(tokenizer, *pair)]:
        text, word = spaced[0]
        warn(
            f"{name}: {text[-20:]!r} ends in a space and {word!r} begins with one ({len(spaced)} "
            f"of {len(pairs)} do so); leave out that of the prompt"
        )
    return rows


def _warn_if_glued(name: str, pairs: Sequence[tuple[str, str]]) -> None:
    if glued := [pair for pair in pairs if is_glued(*pair)]:
        text, word = glued[0]
        warn(
            f"{name}: {word!r} goes on with the last word of {text[-20:]!r} ({len(glued)} of "
            f"{len(pairs)} do so); begin it with a space, {' ' + word!r}, if it is a word"
        )


def _scored(number: int, before: list[int], both: list[int], text: str, follows: str) -> list[bool]:
    """At each position of a prompt with its continuation, whether its next token is scored: one of
    the continuation's."""
    if both[: len(before)] != before or len(both) == len(before):
        raise ValueError(
            f"continuations: that of prompt {number}, {follows!r}, merges with the end of the "
            f"prompt {text[-20:]!r} in this tokenizer; begin it with a space, or end the prompt "
            "elsewhere"
        )
    return [len(before) - 1 <= pos < len(both) - 1 for pos in range(len(both))]


def _corrupted(encode: Any, rows: Sequence[Sequence[int]], given: Any) -> Tensor | None:
    if given is None:
        return None
    others = [encode(text) for text in _texts("corrupted", given, len(rows))]
    for number, (row, other) in enumerate(zip(rows, others, strict=True)):
        if len(row) != len(other):
            raise ValueError(
                f"corrupted: prompt {number} has {len(other)} tokens and its prompt {len(row)}; "
                "resampling goes position by position, so that they must have as many"
            )
    return padded(others)[0]


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A field of prompts with its tensors, one or several by name, changed."""
    if isinstance(value, Mapping):
        return {name: change(tensor) for name, tensor in value.items()}
    return change(value) if isinstance(value, Tensor) else value


def _kind(value: Any) -> Any:
    """What a field holds: the names of its tensors, one tensor, or a plain value."""
    if isinstance(value, Mapping):
        return set(value)
    return Tensor if isinstance(value, Tensor) else value


def _joined(one: Any, other: Any) -> Any:
    if isinstance(one, Mapping):
        return {name: torch.cat([one[name], other[name]]) for name in one}
    return torch.cat([one, other]) if isinstance(one, Tensor) else one


@dataclass(frozen=True)
class _Given:
    """What a model reads, as it was given."""

    tokens: Int[Tensor, "prompt pos"]
    attention_mask: Any
    token_types: Any
    inputs: dict[str, Tensor]
    has_tokens: bool

    @staticmethod
    def of(tokens: Any, inputs: Any) -> "_Given":
        """Raises:
        ValueError: nothing that a model reads, or not one row for each prompt.
        """
        if inputs is not None and not isinstance(inputs, Mapping):
            raise ValueError(
                f"inputs is {shown(inputs)}; it must be a dict of tensors by the model's keywords, "
                "such as {'pixel_values': images}"
            )
        every: dict[str, Any] = {**(inputs or {})}
        if isinstance(tokens, Mapping):  # as a tokenizer or a processor returns them
            every = {k: v for k, v in tokens.items() if k not in _NOT_READ} | every
        elif tokens is not None:
            every["input_ids"] = tokens
        if "labels" in every:
            raise ValueError(
                "inputs has labels, with which a model gives a loss; leave them out, and give "
                "decoder_input_ids, and what is right as Prompts(answers=...)"
            )
        ids = every.pop("input_ids", None)
        types = every.pop("token_type_ids", None) if ids is not None else None
        by_position = ids is not None or "inputs_embeds" in every
        mask = every.pop("attention_mask", None) if by_position else None
        if "decoder_inputs_embeds" in every:
            raise ValueError(
                "inputs has decoder_inputs_embeds, whose positions have no tokens; give "
                "decoder_input_ids"
            )
        found = {key: _row_by_row(key, value) for key, value in every.items()}
        if (decoder := "decoder_input_ids") in found:
            found[decoder] = _token_matrix(decoder, every[decoder])
        if ids is None and not any(value.is_floating_point() for value in found.values()):
            what = f"has {', '.join(map(str, found))} and" if found else "is None, with"
            raise ValueError(
                f"tokens {what} no input_ids; give token ids, or what else the model reads, such "
                "as Prompts(inputs={'pixel_values': images})"
            )
        sizes = {key: len(value) for key, value in found.items()}
        matrix = _token_matrix("tokens", ids) if ids is not None else _stand_in(found)
        if wrong := [key for key, size in sizes.items() if size != len(matrix)]:
            raise ValueError(
                f"{wrong[0]} has {sizes[wrong[0]]} rows for {len(matrix)} prompts; give one row "
                "for each prompt"
            )
        if not len(matrix) or not matrix.shape[1]:
            raise ValueError(f"empty prompts: tokens has shape {tuple(matrix.shape)}")
        return _Given(matrix, mask, types, found, ids is not None)


def _row_by_row(name: str, value: Any) -> Tensor:
    """Raises:
    ValueError: it is no tensor with a row for each prompt.
    """
    try:
        found = plain_tensor(name, torch.as_tensor(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} is {shown(value)}; it must be a tensor with one row for each prompt"
        ) from error
    if not found.ndim:
        raise ValueError(f"{name} is one number; it must have one row for each prompt")
    return found


def _stand_in(inputs: Mapping[str, Tensor]) -> Int[Tensor, "prompt pos"]:
    """In place of tokens: for each prompt the number of the first that reads the same."""
    numbers = _first_equal([*inputs.values()])
    n_pos = inputs["inputs_embeds"].shape[1] if "inputs_embeds" in inputs else 1
    return numbers[:, None].repeat(1, n_pos)


def _first_equal(tensors: Sequence[Tensor]) -> Int[Tensor, " prompt"]:
    seen: dict[bytes, int] = {}
    found = [seen.setdefault(row, number) for number, row in enumerate(rows_as_bytes(tensors))]
    return torch.tensor(found, device=tensors[0].device)


def rows_as_bytes(tensors: Sequence[Tensor]) -> list[bytes]:
    """What each row of all of these holds."""
    every = [x.detach().cpu().reshape(len(x), -1).contiguous() for x in tensors]
    return [
        b"".join(x[row].view(torch.uint8).numpy().tobytes() for x in every)
        for row in range(len(tensors[0]))
    ]


def _real(
    tokens: Tensor, given: Any, name: str = "attention_mask"
) -> Bool[Tensor, "prompt pos"] | None:
    """Raises:
    ValueError: a row is padding alone, or is padded on the left.
    """
    real = _like(tokens, name, given)
    if real is None:
        return None
    if not real.any(dim=1).all():
        raise ValueError(f"empty prompts: {name} is False everywhere in a row")
    if (real[:, 1:] & ~real[:, :-1]).any():
        raise ValueError(
            f"prompts must be padded on the right ({name} True, then False); set "
            "tokenizer.padding_side = 'right'"
        )
    return real


def _corrupted_inputs(given: Mapping[str, Any], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Raises:
    ValueError: they are none of the inputs, or of another shape.
    """
    made = {name: _row_by_row(name, value) for name, value in given.items()}
    for name, value in made.items():
        if name not in inputs or value.shape != inputs[name].shape:
            known = ", ".join(f"{n} {list(x.shape)}" for n, x in inputs.items()) or "none"
            raise ValueError(
                f"corrupted_inputs has {name} of shape {list(value.shape)}, and the inputs are "
                f"{known}; give the same keywords and shapes"
            )
    return made


def _decoded(tokens: Tensor, inputs: Mapping[str, Tensor]) -> Int[Tensor, "prompt pos"]:
    return inputs.get("decoder_input_ids", tokens)


def _decoded_real(
    real: Tensor | None, inputs: Mapping[str, Tensor]
) -> Bool[Tensor, "prompt pos"] | None:
    if "decoder_input_ids" not in inputs:
        return real
    mask = inputs.get(_DECODER_MASK)
    return None if mask is None else mask.bool()


def _unchecked(values: dict[str, Any]) -> Prompts:
    """Rows of prompts that were checked already: done once a batch, so without the checks."""
    prompts = object.__new__(Prompts)
    for name, value in values.items():
        object.__setattr__(prompts, name, value)
    return prompts


def _check_answers(right: Tensor | None, wrong: Tensor | None) -> None:
    if right is None or wrong is None:
        return
    both = (right[:, :, None] == wrong.to(right.device)[:, None, :]) & (right[:, :, None] >= 0)
    if both.any():
        prompt, place, _ = both.nonzero()[0].tolist()
        raise ValueError(
            f"prompt {prompt} has the answer {int(right[prompt, place])} among answers and among "
            "wrong_answers; take it out of one of them"
        )


def _check_positions(at: Tensor | None, real: Tensor | None, tokens: Tensor) -> None:
    if at is None:
        return
    n_pos = tokens.shape[1]
    if (bad := (at < 0) | (at >= n_pos)).any():
        prompt = int(bad.nonzero()[0])
        raise ValueError(
            f"answer_pos is {int(at[prompt])} for prompt {prompt}; positions run from 0 to "
            f"{n_pos - 1}"
        )
    at = at.to(tokens.device)
    if real is not None and (bad := ~real.to(at.device).gather(1, at[:, None])[:, 0]).any():
        prompt = int(bad.nonzero()[0])
        raise ValueError(
            f"answer_pos is {int(at[prompt])} for prompt {prompt}, which is padding there; name a "
            "position whose attention_mask is True"
        )


def _token_matrix(name: str, value: Any) -> Int[Tensor, "prompt pos"]:
    if isinstance(value, str) or (
        isinstance(value, Sequence) and any(isinstance(row, str) for row in value)
    ):
        raise ValueError(
            f"{name} are texts; give token ids: tokenizer(texts, return_tensors='pt').input_ids"
        )
    if not isinstance(value, Tensor):
        rows = _rows(name, value, "token ids, [prompt pos]")
        if not rows:
            raise ValueError(f"empty prompts: {name} has no row")
        if len({len(row) for row in rows}) > 1:
            raise ValueError(
                f"{name} has rows of unequal length ({min(map(len, rows))} to "
                f"{max(map(len, rows))} tokens); pad them on the right and give attention_mask, or "
                "use prompts of one length"
            )
        value = _whole_numbers(name, rows)
    _check_readable(name, value)
    if value.ndim != 2 or value.dtype.is_floating_point or value.dtype == torch.bool:
        raise ValueError(
            f"{name} must be token ids [prompt pos], not {value.dtype} of shape "
            f"{tuple(value.shape)}"
        )
    value = value.long()
    if value.numel() and int(value.min()) < 0:
        raise ValueError(
            f"{name} holds the token {int(value.min())}; token ids are not negative (padding is a "
            "token of its own, which attention_mask marks)"
        )
    return value


def _check_readable(name: str, value: Tensor) -> None:
    """Raises:
    ValueError: its numbers do not stand in a table, or there are none.
    """
    kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
    kind = "meta" if value.is_meta else kind
    if kind != "strided":
        raise ValueError(
            f"{name} is a {kind} tensor; give one that holds a number for each prompt and position"
        )


def _items(name: str, value: Any, what: str) -> list[Any]:
    """Raises:
    ValueError: it holds nothing to go through.
    """
    if not _is_in_order(value):
        raise ValueError(f"{name} is {shown(value)}; give a list: {what}")
    try:
        return list(value)
    except TypeError as error:
        raise ValueError(f"{name} is {shown(value)}; it must be {what}") from error


def _is_in_order(value: Any) -> bool:
    """False of what has no order, or goes through its names: a set, a dict, a table."""
    return not isinstance(value, Mapping | Set) and type(value).__name__ != "DataFrame"


def _rows(name: str, value: Any, what: str) -> list[list[Any]]:
    return [_items(name, row, what) for row in _items(name, value, what)]


def _whole_numbers(name: str, rows: list[Any]) -> Tensor:
    """Raises:
    ValueError: one is something else.
    """
    try:
        each = np.array(rows, dtype=object)
        if any(isinstance(x, np.unsignedinteger) for x in each.flat):  # torch reads no such lists
            rows = each.astype(np.int64).tolist()
        return _whole(name, torch.tensor(rows))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(
            f"{name} is {shown(rows)}; it must hold whole numbers, such as the token ids that a "
            "tokenizer gives for words"
        ) from error


def _whole(name: str, value: Tensor) -> Int[Tensor, "..."]:
    """Raises:
    ValueError: these are no whole numbers.
    """
    if value.numel() and (value.is_floating_point() or value.is_complex()):
        raise ValueError(f"{name} holds {value.dtype}; it must hold whole numbers")
    return value.long()


def _same_shape(tokens: Tensor, name: str, value: Tensor) -> Tensor:
    if value.shape != tokens.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, tokens {tuple(tokens.shape)}; they must be "
            "equal"
        )
    return value


def _like(tokens: Tensor, name: str, value: Any) -> Bool[Tensor, "prompt pos"] | None:
    if value is None:
        return None
    wanted = "it must be True and False, or 1 and 0, [prompt pos]"
    try:
        found = torch.as_tensor(value)
        odd = found[(found != 0) & (found != 1)]  # weights, numbers of segments, -100, -inf
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} is {shown(value)}; {wanted}") from error
    if odd.numel():
        raise ValueError(f"{name} holds {odd[0].item()}; {wanted}")
    return _same_shape(tokens, name, found.bool())


def _one_each(name: str, value: Any, n_prompts: int) -> Int[Tensor, " prompt"] | None:
    if value is None:
        return None
    if not isinstance(value, Tensor):
        value = _whole_numbers(name, _items(name, value, "one number for each prompt"))
    value = _whole(name, value)
    if value.shape != (n_prompts,):
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; it needs one number for each of the "
            f"{n_prompts} prompts"
        )
    return value


def _answer_matrix(name: str, value: Any, n_prompts: int) -> Int[Tensor, "prompt answer"] | None:
    if value is None:
        return None
    if not isinstance(value, Tensor):
        each = _items(name, value, "token ids, [prompt] or [prompt answer]")
        rows = [[row] if isinstance(row, str) or not np.ndim(row) else list(row) for row in each]
        width = max((len(row) for row in rows), default=0)
        value = _whole_numbers(name, [[*row, *[-1] * (width - len(row))] for row in rows])
    value = _whole(name, value)
    if value.ndim == 1:
        value = value[:, None]
    if value.ndim != 2 or len(value) != n_prompts or not value.shape[1]:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; it needs [prompt] or [prompt answer] for "
            f"{n_prompts} prompts"
        )
    if not (value >= 0).any(dim=1).all():
        raise ValueError(f"{name}: a prompt has no answer at all (only -1, the padding)")
    return _each_once(value)


def _each_once(answers: Int[Tensor, "prompt answer"]) -> Int[Tensor, "prompt answer"]:
    """An answer's first mention; later ones become padding."""
    equal = answers[:, :, None] == answers[:, None, :]
    again = equal.tril(diagonal=-1).any(dim=2)
    return answers.masked_fill(again, -1) if again.any() else answers


def prompts_sha256(prompts: Prompts) -> str:
    """Of everything that a metric may read: tokens, answers, masks, corrupted tokens."""
    fields_ = [v for _, v in sorted(vars(prompts).items()) if isinstance(v, Tensor | None)]
    return sha256_of([*fields_, *_named(prompts.inputs), *_named(prompts.corrupted_inputs)])


def tokens_sha256(prompts: Prompts) -> str:
    """The hash of what a model reads, its tokens mostly, that a result records."""
    return sha256_of([prompts.tokens, *_named(prompts.inputs)])


def hashes_of_each(prompts: Prompts) -> list[str]:
    """A short hash of what each prompt reads, without its padding: by which results tell whether
    they are of the same prompts."""
    others = [x for _, x in sorted(prompts.inputs.items())]
    hashes = []
    for row, real in enumerate(prompts.real):
        text = prompts.tokens[row][real] if prompts.has_tokens else None
        hashes.append(sha256_of([text, *(x[row] for x in others)])[:_SHORT])
    return hashes


def _named(inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """Each with its name in front, as numbers."""
    pairs = ((torch.tensor([*name.encode()]), x) for name, x in sorted(inputs.items()))
    return [tensor for pair in pairs for tensor in pair]


def _in_words(prompts: Prompts) -> dict[str, str]:
    """What a notebook shows of prompts."""
    facts = {"prompts": prompts.in_short()}
    if not prompts.real.all():
        lengths = prompts.real.sum(dim=1)
        facts["length"] = f"{int(lengths.min())} to {int(lengths.max())} tokens without padding"
    for name in ("answers", "wrong_answers"):
        if (held := getattr(prompts, name)) is not None:
            facts[name.replace("_", " ")] = f"up to {held.shape[1]} for each prompt"
    if prompts.target_mask is not None:
        facts["scored"] = f"{int(prompts.target_mask.sum()):,} tokens"
    if prompts.corrupted is not None:
        facts["corrupted"] = "a corrupted version of each"
    if prompts.clusters is not None:
        facts["clusters"] = f"{len(prompts.clusters.unique()):,}"
    return facts
