"""Files of prompts as people have them, whole and damaged, with a tokenizer of a few words."""

import json
from pathlib import Path
from typing import Any

import numpy as np

import spex_mech as sm

WORDS = [
    "<bos>", "<eos>", "<unk>", "he", "she", "lives", "in", "the", "city", "of", "Rome", "Paris",
    "New", "York", "sees", "a", "dog", "cat",
]  # fmt: skip


def word_tokenizer(appends_end: bool = False) -> Any:
    """Splits at spaces; may append its end token to every text, as some do."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if appends_end:
        raw.post_processor = processors.TemplateProcessing(
            single="$A <eos>", special_tokens=[("<eos>", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")


def ids_of(text: str) -> list[int]:
    """Token ids by a plain loop."""
    return [WORDS.index(word) if word in WORDS else 2 for word in text.split()]


def random_rows(rng: np.random.Generator, count: int) -> list[dict[str, str]]:
    """Prompts that hold their answers' words, so that ids are believed."""
    rows = []
    for _ in range(count):
        who, other = rng.permutation(["he", "she"]).tolist()
        right, wrong = rng.permutation(["Rome", "Paris", "dog", "cat"]).tolist()[:2]
        clean = f"{who} sees a {right} in the city of {wrong} {who} sees a"
        corrupt = " ".join(other if word == who else word for word in clean.split())
        rows.append({"clean": clean, "corrupt": corrupt, "right": right, "wrong": wrong})
    return rows


def as_text(rows: list[dict[str, str]], kind: str) -> str:
    """The rows in one of the formats."""
    if kind == "ids.csv":
        lines = ["clean,corrupted,correct_idx,incorrect_idx"]
        for row in rows:
            ids = (WORDS.index(row["right"]), WORDS.index(row["wrong"]))
            lines.append(f"{row['clean']},{row['corrupt']},{ids[0]},{ids[1]}")
        return "\n".join(lines) + "\n"
    if kind == "auto.json":
        listed = [
            {"clean": r["clean"], "corrupt": r["corrupt"], "answers": [" " + r["right"]],
             "wrong_answers": [" " + r["wrong"]]} for r in rows
        ]  # fmt: skip
        return json.dumps({"prompts": listed})
    named = [
        {"prompt": r["clean"], "corrupt": r["corrupt"], "answer": " " + r["right"],
         "distractor": " " + r["wrong"]} for r in rows
    ]  # fmt: skip
    if kind == "lines.json":
        return "\n".join(json.dumps(row) for row in named) + "\n"
    return json.dumps(named)


KINDS = ("ids.csv", "auto.json", "rows.json", "lines.json")
HARMLESS = {
    "": lambda text: text.encode(),
    "byte-order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "windows": lambda text: text.replace("\n", "\r\n").encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16, big end": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "empty lines": lambda text: text.replace("\n", "\n\n").encode(),
    "windows and a mark": lambda text: text.replace("\n", "\r\n").encode("utf-8-sig"),
}
HARMFUL = {
    "cut short": lambda text, at: text[: max(1, len(text) * at // 100)],
    "another id": lambda text, at: text.replace(f",{WORDS.index('Rome')}", ",99999"),
    "no ids": lambda text, at: text.replace("incorrect_idx", "x").replace("distractor", "x"),
    "a comma": lambda text, at: text.replace(" sees a ", ", sees a ", 2),
    "letters for ids": lambda text, at: text.replace(",10", ",ten").replace(",11", ",1.5"),
    "a null": lambda text, at: text.replace('" Rome"', "null").replace(",16", ","),
    "a number": lambda text, at: text.replace('" Rome"', "3").replace(",17", ",-1"),
    "a zero byte": lambda text, at: text[:40] + "\0" + text[40:],
    "not utf-8": lambda text, at: None,
    "empty": lambda text, at: "",
    "a quote": lambda text, at: text[:60] + '"' + text[60:],
}


def prompt_file_case(rng: np.random.Generator, folder: Path) -> tuple[str, str]:
    """What was tried, and what is wrong with it: a file of prompts, read as it was written."""
    rows, kind = random_rows(rng, int(rng.integers(1, 6))), str(rng.choice(KINDS))
    text, ends = as_text(rows, kind), bool(rng.random() < 0.3)
    harm = str(rng.choice([*HARMFUL])) if rng.random() < 0.5 else ""
    form = str(rng.choice([*HARMLESS]))
    changed = HARMFUL[harm](text, int(rng.integers(1, 100))) if harm else text
    content = b"\xff\xfeabc\xd8" if changed is None else HARMLESS[form](changed)
    path = folder / f"prompts.{kind.split('.')[1]}"
    path.write_bytes(content)
    what = f"{kind}, {form!r}, {harm!r}, ends {ends}"
    try:
        task = sm.load_task(str(path), None, tokenizer=word_tokenizer(ends))
    except ValueError as error:
        if changed == text:
            return what, f"it was refused: {error}"
        raise
    if changed != text:
        return what, ""  # what can be read may be what is meant
    prompts = task.prompts
    got = sorted(
        (prompts.tokens[i].tolist(), prompts.answers[i].tolist(), prompts.wrong_answers[i].tolist(),
         prompts.corrupted[i].tolist())
        for i in range(len(prompts))
    )  # fmt: skip
    want = sorted(
        (ids_of(r["clean"]), ids_of(r["right"]), ids_of(r["wrong"]), ids_of(r["corrupt"]))
        for r in rows
    )
    return what, "" if got == want else f"{got} and not {want}"
