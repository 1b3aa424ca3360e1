"""Tasks by name: induction, text, indirect object identification, greater-than."""

import os
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spex_mech.arguments import file_of, path_of, whole
from spex_mech.engine.facts import fills_masks, vocabulary_of
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.task import Task
from spex_mech.engine.text import continues_texts
from spex_mech.engine.tokens import is_one_token
from spex_mech.models import load_tokenizer
from spex_mech.results.files import text_in
from spex_mech.tasks.greater_than import greater_than_rows
from spex_mech.tasks.readers import listed_rows, read_rows
from spex_mech.tasks.rows import Row, task_from_rows

TASKS = {
    "induction": "repeated random tokens: log-probability of the second copy (no tokenizer needed)",
    "text": "next-token log-probability on passages of a text file (file=...)",
    "ioi": "indirect object identification: 'Mary and John ... John gave a book to' -> ' Mary'",
    "greater_than": "'The war lasted from the year 1732 to the year 17' -> a number above 32 "
    "(of a tokenizer of single digits: a digit above 3)",
}

N_PROMPTS = 64  # of a named task, where nothing else is said
_OPTIONS = {"induction": ("seq_len",), "text": ("file", "n_tokens")}


def load_task(
    name: Any,
    model: Any,
    n_prompts: int | None = None,
    seed: int = 0,
    *,
    metric: Any = None,
    tokenizer: Any = None,
    **options: Any,
) -> Task:
    """A task for a model.

    Args:
        name: one of ``TASKS``, or the path of a prompt file: EAP-IG's CSV (``clean, corrupted,
            correct_idx, incorrect_idx`` with token ids, or ``clean, corrupted, label`` for
            greater-than),
            auto-circuit's JSON (``{"prompts": [{"clean", "corrupt", "answers",
            "wrong_answers"}]}``), or JSON rows ``prompt, answer, distractor, corrupt`` or
            ``clean_prefix, patch_prefix, clean_answer, patch_answer``. Or such rows themselves, a
            list of dicts or a pandas table. ``answer`` and ``distractor`` are a text, or a list of
            several. ``distractor`` and ``corrupt`` may be left out: without
            the first the metric is "log_prob", the answer's log-probability. With a ``metric``
            ``answer`` may be left out too, and a prompt may be a string alone. Rows of one
            template, or of the same names, are not independent: give each a ``cluster``, a word or
            a number, and errors and q-values are taken by cluster.
        model: a loaded model.
        n_prompts: how many prompts. Default: 64 of a named task, and all rows of a file or list; of
            a file, the first so many after shuffling by ``seed``, of a list in its own order.
        seed: of the prompts drawn; another seed gives others. Of ioi and greater-than each prompt
            draws its template, names and numbers anew, so that prompts are independent of each
            other, and errors and q-values hold over prompts of these templates. What holds for
            other templates only other templates can show: give a file of your own, with
            a ``cluster`` for each row where several share one.
        metric: instead of the task's own.
        tokenizer: instead of the model's own.
        options: ``seq_len`` (induction), ``file`` and ``n_tokens`` (text).

    Raises:
        ValueError: an unknown task, or one that this model's tokenizer cannot express, or that
            the model cannot answer.
    """
    n_prompts = None if n_prompts is None else whole("n_prompts", n_prompts, 1)
    seed, given = whole("seed", seed, 0), None
    if isinstance(name, str | Path):
        name = str(name)
    else:
        given, name = listed_rows(name, metric is None), "own prompts"
    if unknown := set(options) - set(_OPTIONS.get(name, ())):
        raise ValueError(f"the task {name!r} takes no option {min(unknown)!r}")
    rng = np.random.default_rng(seed)
    n_named = N_PROMPTS if n_prompts is None else n_prompts
    if name == "induction":
        task = _induction(model, n_named, rng, **options)
    elif given or name in TASKS or Path(name).suffix.lower() in (".csv", ".json", ".jsonl"):
        tokenizer = tokenizer or load_tokenizer(model)
        if tokenizer is None:
            raise ValueError(
                f"the task {name!r} needs a tokenizer and this model brings none; give tokenizer= "
                "(on the command line, a model folder that holds one)"
            )
        continues = continues_texts(model)
        if given:
            task = task_from_rows(given, tokenizer, n_prompts, name, continues=continues)
        elif name == "text":
            task = _text(tokenizer, n_named, rng, **options)
        elif name in TASKS:
            rows = {"ioi": _ioi_rows, "greater_than": greater_than_rows}[name](tokenizer, rng)
            # They never end: where almost none is usable, say so.
            task = task_from_rows(islice(rows, 50 * n_named), tokenizer, n_named, name)
        else:
            rows = read_rows(file_of("the file of prompts", name), tokenizer, metric is None)
            rows = [rows[i] for i in rng.permutation(len(rows))]
            answer = next(iter(rows[0].answers), None)
            ids = isinstance(answer, int) and rows[0].metric == "logit_diff"
            task = task_from_rows(rows, tokenizer, n_prompts, Path(name).stem, ids, continues)
        task = replace(task, decode=tokenizer)
    else:
        raise ValueError(
            f"unknown task {name!r}; choose one of {', '.join(TASKS)}, or give a .csv or .json "
            "file of prompts"
        )
    if metric is None:
        _check_is_asked_at_a_mask(task, model)
        return task
    return replace(task, metric=metric)


def _check_is_asked_at_a_mask(task: Task, model: Any) -> None:
    """Raises:
    ValueError: a model of masked words is asked what follows a text.
    """
    behind = task.prompts.answers is not None and task.prompts.answer_pos is None
    if behind and fills_masks(model):
        raise ValueError(
            f"the task {task.name!r} asks for what follows its prompts, and a "
            f"{type(model).__name__} fills in mask tokens alone: write the tokenizer's mask token "
            "into each prompt, or give a metric of your own"
        )


def _induction(model: Any, n_prompts: int, rng: np.random.Generator, seq_len: int = 16) -> Task:
    n_vocab = vocabulary_of(model)
    if n_vocab is None:
        raise ValueError("the induction task needs a model whose config states its vocabulary")
    config = getattr(model, "config", None) or getattr(model, "cfg", None)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    # A config may name several ends (Llama 3), or none.
    special = [np.ravel(getattr(config, n)) for n in names if getattr(config, n, None) is not None]
    words = np.setdiff1d(np.arange(n_vocab), np.concatenate([*special, []]))
    seq_len = whole("seq_len", seq_len, 2, len(words))
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
    n_tokens = whole("n_tokens", n_tokens, 2)
    path = None if file is None else path_of("file", file)
    if path is None or not os.path.isfile(path):
        raise ValueError(f"the text task reads a file: give file=, a text file (got {file!r})")
    text = text_in(path, "file")
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    head = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    length = n_tokens - len(head)
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
    names = [name for name in _NAMES if is_one_token(tokenizer, "Then", f" {name}")]
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
