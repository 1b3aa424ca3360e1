"""Named tasks, and readers for the field's prompt files.

A task is made for a model: its vocabulary and tokenizer decide what can be asked.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spex_mech.engine.metrics import Task
from spex_mech.engine.passes import vocabulary_of
from spex_mech.engine.prompts import Prompts
from spex_mech.models import load_tokenizer

TASKS = {
    "induction": "repeated random tokens: log-probability of the second copy (no tokenizer needed)",
    "text": "next-token log-probability on passages of a text file (file=...)",
    "ioi": "indirect object identification: 'Mary and John ... John gave a book to' -> ' Mary'",
    "greater_than": "'The war lasted from the year 1732 to the year 17' -> a number above 32",
}

_OPTIONS = {"induction": ("seq_len",), "text": ("file", "n_tokens")}


def load_task(
    name: str,
    model: Any,
    n_prompts: int = 64,
    seed: int = 0,
    *,
    metric: Any = None,
    tokenizer: Any = None,
    **options: Any,
) -> Task:
    """A task for a model.

    Args:
        name: one of ``TASKS``, or the path of a prompt file: EAP-IG's CSV (``clean, corrupted,
            correct_idx, incorrect_idx``, or ``clean, corrupted, label`` for greater-than),
            auto-circuit's JSON (``{"prompts": [{"clean", "corrupt", "answers",
            "wrong_answers"}]}``), or JSON rows ``prompt, answer, distractor, corrupt`` or
            ``clean_prefix, patch_prefix, clean_answer, patch_answer``.
        model: a loaded model.
        n_prompts: how many prompts; of a file, the first so many after shuffling by ``seed``.
        seed: of the prompts drawn; another seed gives others.
        metric: instead of the task's own.
        tokenizer: instead of the model's own.
        options: ``seq_len`` (induction), ``file`` and ``n_tokens`` (text).

    Raises:
        ValueError: an unknown task, or one that this model's tokenizer cannot express.
    """
    if n_prompts < 1:
        raise ValueError(f"n_prompts is {n_prompts}; it must be at least 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; it must not be negative")
    if unknown := set(options) - set(_OPTIONS.get(name, ())):
        raise ValueError(f"the task {name!r} takes no option {min(unknown)!r}")
    rng = np.random.default_rng(seed)
    if name == "induction":
        task = _induction(model, n_prompts, rng, **options)
    elif name in TASKS or Path(name).suffix in (".csv", ".json", ".jsonl"):
        tokenizer = tokenizer or load_tokenizer(model)
        if tokenizer is None:
            raise ValueError(
                f"the task {name!r} needs a tokenizer and this model brings none; give tokenizer="
            )
        if name == "text":
            task = _text(tokenizer, n_prompts, rng, **options)
        elif name in TASKS:
            rows = {"ioi": _ioi_rows, "greater_than": _greater_than_rows}[name](tokenizer, rng)
            # They never end: where almost none is usable, say so.
            task = _from_rows(islice(rows, 50 * n_prompts), tokenizer, n_prompts, name)
        else:
            rows = _read(Path(name), tokenizer)
            rows = [rows[i] for i in rng.permutation(len(rows))]
            task = _from_rows(rows, tokenizer, n_prompts, Path(name).stem)
        task = replace(task, decode=lambda ids: [tokenizer.decode([int(i)]) for i in ids])
    else:
        raise ValueError(
            f"unknown task {name!r}; choose one of {', '.join(TASKS)}, or give a .csv or .json "
            "file of prompts"
        )
    return task if metric is None else replace(task, metric=metric)


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
        _answer_id(tokenizer, text, continuation)
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
        target = answer if isinstance(answer, int) else _answer_id(tokenizer, text, str(answer))
    return Task(
        Prompts([tokenizer(text)["input_ids"]], answers=[target]), "log_prob", "text", decode
    )


@dataclass(frozen=True)
class Row:
    """One prompt in words, or its answers already as token ids."""

    clean: str
    corrupted: str | None
    answers: Sequence[str | int]
    wrong_answers: Sequence[str | int]
    metric: str = "logit_diff"


def _induction(model: Any, n_prompts: int, rng: np.random.Generator, seq_len: int = 16) -> Task:
    n_vocab = vocabulary_of(model)
    if n_vocab is None:
        raise ValueError("the induction task needs a model whose config states its vocabulary")
    config = getattr(model, "config", None) or getattr(model, "cfg", None)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    # A config may name several ends (Llama 3), or none.
    special = [np.ravel(getattr(config, n)) for n in names if getattr(config, n, None) is not None]
    words = np.setdiff1d(np.arange(n_vocab), np.concatenate([*special, []]))
    if seq_len < 2 or len(words) < seq_len:
        raise ValueError(f"seq_len is {seq_len}; it must be between 2 and {len(words)}")
    bos = getattr(config, "bos_token_id", None)
    head = [] if bos is None or bos >= n_vocab else [bos]
    rows, corrupted = [], []
    for _ in range(n_prompts):
        segment, other = (rng.choice(words, seq_len, replace=False).tolist() for _ in range(2))
        rows.append(head + segment + segment)
        corrupted.append(head + other + segment)
    tokens = torch.tensor(rows)
    targets = torch.zeros_like(tokens, dtype=torch.bool)
    # The first token of the second copy cannot be foreseen; all later ones can.
    targets[:, len(head) + seq_len : -1] = True
    return Task(
        Prompts(tokens, corrupted=torch.tensor(corrupted), target_mask=targets),
        "log_prob",
        "induction",
    )


def _text(
    tokenizer: Any,
    n_prompts: int,
    rng: np.random.Generator,
    file: str | Path | None = None,
    n_tokens: int = 64,
) -> Task:
    if file is None or not Path(file).is_file():
        raise ValueError(f"the text task reads a file: give file=, a text file (got {file!r})")
    text = Path(file).read_text(encoding="utf-8")
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    head = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    length = n_tokens - len(head)
    if length < 1 or n_tokens < 2:
        raise ValueError(f"n_tokens is {n_tokens}; it must be at least 2")
    starts = np.arange(0, len(ids) - length + 1, length)
    if len(starts) < n_prompts:
        raise ValueError(
            f"{file} has {len(ids)} tokens: enough for {len(starts)} prompts of {n_tokens}, not "
            f"for {n_prompts}"
        )
    chosen = np.sort(rng.choice(starts, n_prompts, replace=False))
    rows = [head + ids[s : s + length] for s in chosen]
    return Task(Prompts(torch.tensor(rows)), "log_prob", "text")


_NAMES = (
    "Mary John Tom James Anna Sarah Emma Jack Paul Mark Alice Peter David Kate Lucy Ben Sam Lily "
    "Max Mia Bob Sara Tim Amy Jane Kim Dan Joe Adam Ryan"
).split()
_PLACES, _THINGS = ("park", "store", "school", "garden"), ("book", "ball", "drink", "flower")
# No name begins a prompt: without a space before it, it would be another token.
_IOI = (
    "One day, {a} and {b} went to the {place}. {s} gave a {thing} to",
    "When {a} and {b} came to the {place}, {s} gave a {thing} to",
    "Then, {a} and {b} were at the {place}. {s} wanted to give a {thing} to",
)


def _ioi_rows(tokenizer: Any, rng: np.random.Generator) -> Iterable[Row]:
    """The indirect object is the name that is not repeated; the corrupted prompt repeats neither
    (Wang et al. 2023, section 2)."""
    names = [name for name in _NAMES if _is_one_token(tokenizer, "Then", f" {name}")]
    if len(names) < 6:
        raise ValueError(
            f"only {len(names)} of the task's names are single tokens of this tokenizer; ioi needs "
            "6: write a prompt file of your own"
        )
    while True:
        io, s, third = rng.choice(names, 3, replace=False)
        a, b = (io, s) if rng.random() < 0.5 else (s, io)
        words = {"a": a, "b": b, "place": rng.choice(_PLACES), "thing": rng.choice(_THINGS)}
        template = str(rng.choice(_IOI))
        yield Row(
            template.format(s=s, **words),
            template.format(s=third, **words),
            [f" {io}"],
            [f" {s}"],
        )


_EVENTS = "war siege trip journey contract plan project treaty study quest".split()


def _greater_than_rows(tokenizer: Any, rng: np.random.Generator) -> Iterable[Row]:
    """Which end years are later (Hanna et al. 2023, section 2); corrupted: a start year of 01."""
    digits = _two_digit_tokens(tokenizer)
    encode: Callable[[str], list[int]] = lambda text: tokenizer(text)["input_ids"]  # noqa: E731
    # Years that are one token (" 1700" in GPT-2) are left out, as in the paper.
    years = [
        (century, year)
        for century, year in product(range(11, 18), range(2, 99))
        if encode(f"year {century}{year:02d}") == [*encode(f"year {century}"), digits[year]]
    ]
    if not years:
        raise ValueError(f"{_NO_YEARS}: it writes 1732 as {tokenizer.tokenize('year 1732')[1:]}")
    while True:
        century, year = years[int(rng.integers(len(years)))]
        start = f"The {rng.choice(_EVENTS)} lasted from the year"
        yield _greater_than_row(
            f"{start} {century}{year:02d} to the year {century}",
            f"{start} {century}01 to the year {century}",
            year,
            digits,
        )


def _greater_than_row(clean: str, corrupted: str, year: int, digits: list[int]) -> Row:
    return Row(clean, corrupted, digits[year + 1 :], digits[: year + 1], "prob_diff")


_NO_YEARS = (
    "greater_than needs a tokenizer that writes a year as two tokens of two digits (as GPT-2's "
    "does); this one does not"
)


def _two_digit_tokens(tokenizer: Any) -> list[int]:
    """The tokens of 00 to 99 inside a word. They are taken by themselves: behind a century some
    would merge with it, though the model still answers with them."""
    ids = [tokenizer(f"{d:02d}", add_special_tokens=False)["input_ids"] for d in range(100)]
    if split := [d for d in range(100) if len(ids[d]) != 1]:
        raise ValueError(f"{_NO_YEARS}: {split[0]:02d} is {len(ids[split[0]])} tokens")
    return [token for (token,) in ids]


def _read(path: Path, tokenizer: Any) -> list[Row]:
    """The rows of a prompt file, whichever of the field's formats it has."""
    if not path.is_file():
        raise ValueError(f"no prompt file {path}")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".csv":
            return [_json_row(row) for row in _json_rows(text)]
        rows = list(csv.DictReader(io.StringIO(text)))
        by_year = bool(rows) and "label" in rows[0] and "correct_idx" not in rows[0]
        digits = _two_digit_tokens(tokenizer) if by_year else []
        return [_year_row(row, digits) if by_year else _csv_row(row) for row in rows]
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path} is not a prompt file that is known here ({type(error).__name__}: {error}); "
            "see load_task for the formats"
        ) from error


def _json_rows(text: str) -> list[Any]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError:
        # Some of the field's .json files hold a row a line.
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(rows, dict):
        rows = rows.get("prompts", [rows])
    if not isinstance(rows, list):
        raise TypeError(f"rows expected, not {type(rows).__name__}")
    return rows


def _csv_row(row: dict[str, str]) -> Row:
    return Row(row["clean"], row["corrupted"], _ids(row["correct_idx"]), _ids(row["incorrect_idx"]))


def _year_row(row: dict[str, str], digits: list[int]) -> Row:
    label = row["label"] or ""
    if not label.isdecimal() or int(label) > 98:
        raise ValueError(f"the label {label!r} is no start year: two digits, 00 to 98")
    return _greater_than_row(row["clean"], row["corrupted"], int(label), digits)


def _json_row(row: dict[str, Any]) -> Row:
    if "clean" in row:
        return Row(row["clean"], row.get("corrupt"), row["answers"], row["wrong_answers"])
    if "clean_prefix" in row:
        return Row(
            row["clean_prefix"], row["patch_prefix"], [row["clean_answer"]], [row["patch_answer"]]
        )
    return Row(row["prompt"], row.get("corrupt"), [row["answer"]], [row["distractor"]])


def _ids(text: str) -> list[int]:
    """One token id, or a list of them as JSON."""
    value = json.loads(text)
    return [int(v) for v in value] if isinstance(value, list) else [int(value)]


def _from_rows(rows: Iterable[Row], tokenizer: Any, n_prompts: int, name: str) -> Task:
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
                a if isinstance(a, int) else _answer_id(tokenizer, row.clean, a)
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


def _answer_id(tokenizer: Any, prompt: str, answer: str, single: bool = False) -> int:
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


def _is_one_token(tokenizer: Any, prompt: str, answer: str) -> bool:
    try:
        return _answer_id(tokenizer, prompt, answer, single=True) >= 0
    except ValueError:
        return False
