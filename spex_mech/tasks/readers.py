"""Readers of the field's prompt files, each row with its number."""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

from spex_mech.arguments import counted, first_twice, shown
from spex_mech.notices import warn
from spex_mech.results.files import text_in
from spex_mech.tasks.greater_than import YearTokens
from spex_mech.tasks.rows import Row

FORMATS = (
    "a .csv has the columns prompt, answer (and distractor, corrupt), or clean, corrupted and "
    "either token ids (correct_idx and incorrect_idx) or label (a start year of two digits); a "
    ".json has "
    '{"prompts": [{"clean", "corrupt", "answers", "wrong_answers"}]}, or rows with prompt, answer '
    "(and distractor, corrupt), or with clean_prefix, patch_prefix, clean_answer, patch_answer"
)
# Columns of token ids: the right answers', the wrong ones'.
_ID_COLUMNS = (
    ("correct_idx", "incorrect_idx"),
    ("clean_answer_idx", "corrupted_answer_idx"),
    ("answers_idx", "corrupted_answers_idx"),
    ("country_idx", "corrupted_country_idx"),
)
_ROW = (
    "a row is a dict such as {'prompt': 'The capital of France is', 'answer': ' Paris', "
    "'distractor': ' Rome'}"
)
# What is read of a row, by the name of its prompt: prompt, corrupted, answers, wrong answers.
_NAMES = {
    "clean": ("corrupt", "answers", "wrong_answers"),
    "clean_prefix": ("patch_prefix", "clean_answer", "patch_answer"),
    "prompt": ("corrupt", "answer", "distractor"),
}
_ALIKE = 0.7  # of two names, from which on one may be meant by the other
# In names of other formats for what is read here.
_MEANT = ("wrong", "incorrect", "distract", "corrupt", "answer", "foil", "patch", "counterfact")
# In names of what puts rows together.
_PUT_TOGETHER = ("template", "group")
_WHOLE = re.compile(r"[+-]?[0-9]{1,15}(\.0*)?")
_MOST_CHARACTERS = 10_000_000  # of one field


def read_rows(path: Path, tokenizer: Any, answered: bool = True) -> list[Row]:
    """The rows of a prompt file, whichever of the field's formats it has.

    Args:
        answered: refuse a row without an answer.

    Raises:
        ValueError: there is no such file, it has another format, or a row cannot be read; the text
            names the row (the first one is row 1).
    """
    if not os.path.isfile(path):
        raise ValueError(f"no prompt file {path}")
    text = text_in(path, "the file of prompts")
    rows = _csv_rows(path, text) if path.suffix.lower() == ".csv" else _json_rows(path, text)
    if not rows:
        raise ValueError(f"{path} holds no rows; {FORMATS}")
    return _read(str(path), rows, _reader_for(path, [row for _, row in rows], tokenizer, answered))


def listed_rows(given: Any, answered: bool = True) -> list[Row]:
    """The rows of a list or of a pandas table, each as in a .json file; an empty cell is as none.

    Args:
        answered: refuse a row without an answer.

    Raises:
        ValueError: it holds no rows, or one that cannot be read; the text names the row (the first
            one is row 1).
    """
    import pandas as pd

    if isinstance(given, pd.DataFrame):
        if not given.columns.is_unique:
            twice = given.columns[given.columns.duplicated()][0]
            raise ValueError(f"two columns of the table are called {twice!r}; leave one out")
        given = given.astype(object).where(given.notna(), None).to_dict("records")
    if not isinstance(given, Sequence) or not given:
        raise ValueError(
            f"the task is {shown(given)}; give the name of a task, a file of prompts, or a list of "
            f"rows: {_ROW}"
        )
    _warn_of_unread("the rows", given)
    read = partial(_json_row, answered=answered)
    return _read("the rows", enumerate(given, start=1), read, _ROW)


def _read(
    name: str,
    rows: Iterable[tuple[int, Any]],
    read: Callable[[Any, str], Row | None],
    formats: str = FORMATS,
) -> list[Row]:
    made = []
    for number, row in rows:
        try:
            made.append(read(row, f"row {number}"))
        except (KeyError, TypeError, ValueError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{name}: row {number}: {what}; {formats}") from error
    return [row for row in made if row is not None]


def _csv_rows(path: Path, text: str) -> list[tuple[int, dict[str, str]]]:
    before = csv.field_size_limit(_MOST_CHARACTERS)
    try:
        read = csv.DictReader(io.StringIO(text, newline=""))
        if (twice := first_twice([name for name in read.fieldnames or () if name])) is not None:
            raise ValueError(f"two columns of {path} are called {twice!r}; leave one out")
        rows = list(read)
    except csv.Error as error:
        raise ValueError(f"{path} is not a .csv file that can be read: {error}") from error
    finally:
        csv.field_size_limit(before)
    return [(n, row) for n, row in enumerate(rows, start=1) if any(row.values())]


def _json_rows(path: Path, text: str) -> list[tuple[int, Any]]:
    try:
        return _json_listed(path, text)
    except _TwiceError as error:
        raise ValueError(f"{path}: {error}") from error


def _json_listed(path: Path, text: str) -> list[tuple[int, Any]]:
    read = partial(json.loads, object_pairs_hook=_named_once)
    try:
        rows = read(text)
    except (ValueError, RecursionError) as whole:  # a number too long, lists too deep
        # Some of the field's .json files hold a row per line.
        lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
        rows = []
        for number, line in lines:
            try:
                rows.append(read(line))
            except (ValueError, RecursionError) as error:
                where = whole if number == lines[0][0] else f"line {number}: {error}"
                raise ValueError(f"{path} is not JSON: {where}") from error
    if isinstance(rows, dict):
        rows = rows.get("prompts", [rows])
    if not isinstance(rows, list):
        raise ValueError(f"{path} holds {type(rows).__name__}, not rows; {FORMATS}")
    _warn_of_unread(str(path), rows)
    return list(enumerate(rows, start=1))


def _named_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Raises:
    _TwiceError: a name stands twice, of which Python would take the last.
    """
    if (twice := first_twice([name for name, _ in pairs])) is not None:
        raise _TwiceError(f"the name {twice!r} stands twice in one row; leave one out")
    return dict(pairs)


class _TwiceError(Exception):
    """A name stands twice."""


def _warn_of_unread(name: str, rows: Sequence[Any]) -> None:
    """Say which names that are not read may be misspelt, or of another format."""
    held = [row for row in rows if isinstance(row, Mapping)]
    begins = next((key for key in _NAMES if held and key in held[0]), None)
    if begins is None:
        return
    _warn_of_groups(name, held)
    read = (begins, *_NAMES[begins], "cluster")
    every = [name for key, others in _NAMES.items() for name in (key, *others)] + ["cluster"]
    for other in dict.fromkeys(str(key) for row in held for key in row if key not in read):
        if _is_like(other, every) or _means_an_answer(other):
            warn(f"{name}: {other!r} is not read; beside {begins!r}, {', '.join(read[1:])} are")


def _warn_of_groups(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Say which name that is not read puts several rows together, where no cluster does."""
    if any(row.get("cluster") not in (None, "") for row in rows):
        return
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [repr(row[key]) for row in rows if row.get(key) is not None]
        n_different = len({*values})
        meant = any(word in str(key).lower() for word in _PUT_TOGETHER)
        if meant and 1 < n_different < len(values):
            warn(
                f"{name}: {key!r} is not read, and {counted(len(values), 'row')} have "
                f"{n_different:,} different ones; if rows of one {key} are not independent, call "
                "it 'cluster', so that errors and q-values are taken by it"
            )


def _is_like(name: str, names: Sequence[str]) -> bool:
    """Whether one of these may be meant by it."""
    return bool(get_close_matches(name.strip().lower(), names, 1, _ALIKE))


def _means_an_answer(name: str) -> bool:
    return any(word in name.lower() for word in _MEANT)


def _reader_for(
    path: Path, rows: Sequence[Any], tokenizer: Any, answered: bool
) -> Callable[[Any, str], Row | None]:
    """What reads each row, by the columns of the first."""
    if path.suffix.lower() != ".csv":
        return partial(_json_row, answered=answered)
    row = rows[0]
    if "prompt" in row:
        _warn_of_unread(str(path), rows)
        return lambda row, place: _json_row(_filled(row), place, answered)
    _warn_of_groups(str(path), rows)
    for other in (str(name) for name in row if name != "cluster"):
        if _is_like(other, ["cluster"]):
            warn(f"{path}: the column {other!r} is not read; one called 'cluster' is")
    for right, wrong in _ID_COLUMNS:
        if right in row and wrong in row:
            return lambda row, place: _id_row(row, place, right, wrong)
    if "label" in row:
        tokens = YearTokens.of(tokenizer)
        return lambda row, place: _year_row(row, place, tokens)
    held = ", ".join(str(name) for name in row)
    raise ValueError(f"{path} has the columns {held}, which tell no answers; {FORMATS}")


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    """Without the cells that are empty, as those of a table are.

    Raises:
        ValueError: there are more fields than columns.
    """
    _check_length(row)
    return {name: text for name, text in row.items() if (text or "").strip()}


def _id_row(row: dict[str, Any], place: str, right: str, wrong: str) -> Row:
    texts = _field(row, "clean"), _field(row, "corrupted")
    return Row(*texts, _ids(row, right), _ids(row, wrong), place=place, cluster=_cluster(row))


def _year_row(row: dict[str, Any], place: str, tokens: YearTokens) -> Row | None:
    label = _field(row, "label")
    if not label.isdecimal() or int(label) > 98:
        raise ValueError(f"the label {label!r} is no start year: two digits, 00 to 98")
    read = tokens.row(_field(row, "clean"), _field(row, "corrupted"), int(label), place)
    return None if read is None else replace(read, cluster=_cluster(row))


def _field(row: dict[str, Any], name: str) -> str:
    """A field's text.

    Raises:
        ValueError: it is missing, or there are more fields than columns.
    """
    _check_length(row)
    if not (row[name] or "").strip():
        raise ValueError(f"its {name!r} is empty")
    return row[name]


def _check_length(row: dict[str, Any]) -> None:
    """Raises:
    ValueError: there are more fields than columns.
    """
    if None in row:
        raise ValueError("it has more fields than there are columns (a comma without quotes?)")


def _ids(row: dict[str, Any], name: str) -> list[int]:
    """One token id, or a list of them as JSON."""
    text = _field(row, name)
    try:
        value = json.loads(text)
        ids = value if isinstance(value, list) else [value]
        if not ids or not all(type(i) is int and i >= 0 for i in ids):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"its {name!r} is {text!r}; it must be a token id, or a list of them"
        ) from None
    return ids


def _json_row(row: Any, place: str, answered: bool) -> Row:
    if isinstance(row, str):
        if answered:
            raise ValueError("it is a prompt alone, and only a metric of your own needs no answer")
        row = {"prompt": row}
    if not isinstance(row, Mapping):
        raise ValueError(f"it is {type(row).__name__}, not an object with names")
    row = {key: value for key, value in row.items() if value is not None}
    return replace(_answered_row(row, place, answered), cluster=_cluster(row))


def _answered_row(row: Mapping[str, Any], place: str, answered: bool) -> Row:
    if "clean" in row:
        right, wrong = row["answers"], row["wrong_answers"]
        return _worded(row["clean"], row.get("corrupt"), right, wrong, place)
    if "clean_prefix" in row:
        right, wrong = [row["clean_answer"]], [row["patch_answer"]]
        return _worded(row["clean_prefix"], row["patch_prefix"], right, wrong, place)
    right = _several(row["answer"]) if answered or "answer" in row else None
    wrong = _several(row["distractor"]) if "distractor" in row else None
    return _worded(row["prompt"], row.get("corrupt"), right, wrong, place)


def _several(given: Any) -> Any:
    """One answer, or a list of several, as a list."""
    return given if isinstance(given, list) else [given]


def _cluster(row: Mapping[str, Any]) -> str | int | None:
    """The cluster that a row says it is of: the same whether it stands in a file or a table, with
    spaces around it, or as a number in the type that a program made of it.

    Raises:
        ValueError: it is neither a word nor a whole number.
    """
    cluster = row.get("cluster")
    if isinstance(cluster, str):
        cluster = cluster.strip() or None
        if cluster and _WHOLE.fullmatch(cluster):
            return int(cluster.split(".")[0])
    if isinstance(cluster, float) and cluster.is_integer():  # a column of a table with gaps
        cluster = int(cluster)
    if cluster is None or isinstance(cluster, str):
        return cluster
    if isinstance(cluster, bool) or not isinstance(cluster, Integral):
        raise ValueError(f"its cluster is {cluster!r}; it must be a word or a whole number")
    return int(cluster)


def _worded(clean: Any, corrupted: Any, right: Any, wrong: Any, place: str) -> Row:
    """A row of texts.

    Raises:
        ValueError: something in it is no text.
    """
    for value in (clean, *([] if corrupted is None else [corrupted])):
        if not isinstance(value, str) or not value:
            raise ValueError(f"a prompt is {value!r}; it must be a text")
    for answers in (x for x in (right, wrong) if x is not None):
        listed = isinstance(answers, list) and answers
        if not listed or not all(isinstance(a, str) and a for a in answers):
            raise ValueError(f"answers are {answers!r}; they must be texts, at least one")
    metric = "log_prob" if wrong is None else "logit_diff"
    return Row(clean, corrupted, right or [], wrong or [], metric, place)
