"""Readers of the field's prompt files."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from spex_mech.tasks.greater_than import YearTokens
from spex_mech.tasks.rows import Row


def read_rows(path: Path, tokenizer: Any) -> list[Row]:
    """The rows of a prompt file, whichever of the field's formats it has."""
    if not path.is_file():
        raise ValueError(f"no prompt file {path}")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".csv":
            return [_json_row(row) for row in _json_rows(text)]
        rows = list(csv.DictReader(io.StringIO(text)))
        by_year = bool(rows) and "label" in rows[0] and "correct_idx" not in rows[0]
        if not by_year:
            return [_csv_row(row) for row in rows]
        tokens = YearTokens.of(tokenizer)
        return [made for row in rows if (made := _year_row(row, tokens)) is not None]
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


def _year_row(row: dict[str, str], tokens: YearTokens) -> Row | None:
    label = row["label"] or ""
    if not label.isdecimal() or int(label) > 98:
        raise ValueError(f"the label {label!r} is no start year: two digits, 00 to 98")
    return tokens.row(row["clean"], row["corrupted"], int(label))


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
