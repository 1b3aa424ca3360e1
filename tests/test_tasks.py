"""The named tasks on real tokenizers, and the readers of the field's prompt files."""

import codecs
import csv
import json
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers
import torch
import transformers as tf

import spex_mech as sm
from spex_mech.engine.metrics import METRICS
from spex_mech.tasks import TASKS, text_task
from spex_mech.tasks.readers import listed_rows, read_rows

SPECIAL = (3, 4, 5)


def a_model(**config: Any) -> tf.GPT2LMHeadModel:
    sizes: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 8, "vocab_size": 40}
    special = dict(zip(("bos_token_id", "eos_token_id", "pad_token_id"), SPECIAL, strict=True))
    return tf.GPT2LMHeadModel(tf.GPT2Config(**{**sizes, **special, **config}))


@lru_cache
def gpt2(shared_data: Path) -> Any:
    folder = shared_data / "gpt2_tokenizer"
    return tf.GPT2TokenizerFast(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


@lru_cache
def stories(shared_data: Path) -> Any:
    return tf.AutoTokenizer.from_pretrained(shared_data / "stories3m")


class Words:
    """A tokenizer of whole words, for files made here; a leading space belongs to its word."""

    bos_token_id: int | None = 1

    def __init__(self) -> None:
        self.ids: dict[str, int] = {"<bos>": 1}

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        words = text.split(" ")
        pieces = [w if i == 0 else f" {w}" for i, w in enumerate(words) if w or i == 0]
        return {"input_ids": [self.ids.setdefault(p, len(self.ids) + 1) for p in pieces]}

    def decode(self, ids: list[int]) -> str:
        return "".join({i: w for w, i in self.ids.items()}.get(int(i), "?") for i in ids)


def text_of(task: sm.Task, row: int, field: str = "tokens") -> str:
    assert task.decode is not None
    return "".join(task.decode(getattr(task.prompts, field)[row].tolist()))


def answers_of(task: sm.Task, row: int, field: str = "answers") -> list[str]:
    assert task.decode is not None
    return task.decode([a for a in getattr(task.prompts, field)[row].tolist() if a >= 0])


# -- induction ------------------------------------------------------------------------------------


def test_induction_repeats_its_tokens_and_scores_what_can_be_foreseen() -> None:
    task = sm.load_task("induction", a_model(), n_prompts=5, seed=0, seq_len=6)
    tokens, corrupted = task.prompts.tokens, task.prompts.corrupted
    assert task.metric == "log_prob" and task.name == "induction"
    assert tokens.shape == (5, 13)
    assert (tokens[:, 0] == SPECIAL[0]).all()
    assert torch.equal(tokens[:, 1:7], tokens[:, 7:])
    assert not torch.isin(tokens[:, 1:], torch.tensor(SPECIAL)).any()
    assert all(len(row[1:7].unique()) == 6 for row in tokens)
    # The next tokens that are scored: the second copy without its first token.
    assert task.prompts.target_mask is not None
    assert torch.equal(
        task.prompts.target_mask.nonzero()[:, 1].reshape(5, -1), torch.arange(7, 12).expand(5, 5)
    )
    assert corrupted is not None
    assert torch.equal(corrupted[:, 7:], tokens[:, 7:])
    assert torch.equal(corrupted[:, 0], tokens[:, 0])
    assert not any(torch.equal(c[1:7], t[1:7]) for c, t in zip(corrupted, tokens, strict=True))


def test_induction_is_fixed_by_its_seed() -> None:
    model = a_model()
    once, again, other = (sm.load_task("induction", model, 4, seed).prompts for seed in (0, 0, 1))
    assert torch.equal(once.tokens, again.tokens)
    assert once.corrupted is not None and again.corrupted is not None
    assert torch.equal(once.corrupted, again.corrupted)
    assert not torch.equal(once.tokens, other.tokens)


def test_induction_without_special_tokens_starts_at_once() -> None:
    model = a_model(bos_token_id=None, eos_token_id=None, pad_token_id=None)
    task = sm.load_task("induction", model, n_prompts=2, seq_len=40)
    assert task.prompts.tokens.shape == (2, 80)
    assert sorted(task.prompts.tokens[0, :40].tolist()) == list(range(40))


def test_induction_avoids_each_of_several_end_tokens() -> None:
    model = a_model(eos_token_id=[6, 7, 8])
    tokens = sm.load_task("induction", model, n_prompts=20, seq_len=30).prompts.tokens
    assert not torch.isin(tokens[:, 1:], torch.tensor([3, 5, 6, 7, 8])).any()


@pytest.mark.parametrize("seq_len", [1, 38])
def test_induction_of_an_impossible_length(seq_len: int) -> None:
    with pytest.raises(
        ValueError, match=f"seq_len is {seq_len}; it must be a whole number from 2 to 37"
    ):
        sm.load_task("induction", a_model(), seq_len=seq_len)


def test_induction_needs_a_vocabulary() -> None:
    with pytest.raises(ValueError, match="needs a model whose config states its vocabulary"):
        sm.load_task("induction", torch.nn.Linear(2, 2))


# -- text -----------------------------------------------------------------------------------------


def test_text_cuts_passages_that_do_not_overlap(tmp_path: Path) -> None:
    file = tmp_path / "story.txt"
    file.write_text(" ".join(f"w{i}" for i in range(100)), encoding="utf-8")
    task = sm.load_task("text", a_model(), 10, tokenizer=Words(), file=file, n_tokens=11)
    assert task.metric == "log_prob" and task.prompts.corrupted is None
    assert (task.prompts.tokens[:, 0] == 1).all()  # begin of text
    found = [word for row in range(10) for word in text_of(task, row).removeprefix("<bos>").split()]
    assert sorted(found) == sorted(f"w{i}" for i in range(100))
    assert text_of(task, 0) == "<bos>w0 " + " ".join(f"w{i}" for i in range(1, 10))


def test_text_draws_by_seed(shared_data: Path) -> None:
    options: Any = {
        "tokenizer": stories(shared_data),
        "file": shared_data / "text" / "tinystories_valid_head.txt",
        "n_tokens": 32,
    }
    once, again, other = (sm.load_task("text", a_model(), 8, s, **options) for s in (0, 0, 1))
    assert torch.equal(once.prompts.tokens, again.prompts.tokens)
    assert not torch.equal(once.prompts.tokens, other.prompts.tokens)
    words = " ".join(text_of(once, 0).removeprefix("<s>").split()[1:-1])
    assert words in " ".join(options["file"].read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, r"give file=, a text file \(got None\)"),
        ({"file": "/no/such.txt"}, r"\(got '/no/such.txt'\)"),
        ({"n_tokens": 1}, "n_tokens is 1; it must be a whole number of at least 2"),
        ({"n_tokens": 30}, "has 40 tokens: enough for 1 prompts of 30, not for 4"),
    ],
)
def test_text_errors(tmp_path: Path, options: dict[str, Any], match: str) -> None:
    file = tmp_path / "short.txt"
    file.write_text(" ".join(f"w{i}" for i in range(40)), encoding="utf-8")
    options = options if not options or "file" in options else {"file": file, **options}
    with pytest.raises(ValueError, match=match):
        sm.load_task("text", a_model(), 4, tokenizer=Words(), **options)


# -- ioi and greater-than -------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [gpt2, stories])
def test_ioi_asks_for_the_name_that_is_not_repeated(shared_data: Path, tokenizer: Any) -> None:
    task = sm.load_task("ioi", a_model(), 30, seed=0, tokenizer=tokenizer(shared_data))
    prompts = task.prompts
    assert task.metric == "logit_diff" and task.name == "ioi"
    assert prompts.answers is not None and prompts.answers.shape == (30, 1)
    texts = [text_of(task, row) for row in range(30)]
    for row in range(30):
        n_real = int(prompts.real[row].sum())
        assert task.decode is not None and prompts.corrupted is not None
        words = task.decode(prompts.tokens[row, :n_real].tolist())
        corrupted = task.decode(prompts.corrupted[row, :n_real].tolist())
        (io,), (subject,) = answers_of(task, row), answers_of(task, row, "wrong_answers")
        named = [word.strip() for word in words]
        assert named.count(subject.strip()) == 2 and named.count(io.strip()) == 1
        assert words[-1].strip() == "to"
        changed = [i for i, (w, c) in enumerate(zip(words, corrupted, strict=True)) if w != c]
        assert len(changed) == 1
        assert words[changed[0]].strip() == subject.strip()
        assert corrupted[changed[0]].strip() not in {io.strip(), subject.strip()}
    # Every template, and more than a few names.
    starts = ("One", "When", "Then")
    assert {
        next(s for s in starts if text.removeprefix("<s>").startswith(s)) for text in texts
    } == {*starts}
    assert len(prompts.answers.unique()) > 5


def test_ioi_and_greater_than_are_fixed_by_their_seeds(shared_data: Path) -> None:
    for name in ("ioi", "greater_than"):
        once, again, other = (
            sm.load_task(name, a_model(), 8, seed, tokenizer=gpt2(shared_data)).prompts.tokens
            for seed in (0, 0, 1)
        )
        assert torch.equal(once, again)
        assert once.shape != other.shape or not torch.equal(once, other)


def test_greater_than_counts_later_years(shared_data: Path) -> None:
    tokenizer = gpt2(shared_data)
    task = sm.load_task("greater_than", a_model(), 20, tokenizer=tokenizer)
    assert task.metric == "prob_diff"
    assert task.prompts.attention_mask is None
    for row in range(20):
        text, corrupted = text_of(task, row), text_of(task, row, "corrupted")
        start = text.split(" year ")[1].split()[0]
        century, year = int(start[:2]), int(start[2:])
        assert 11 <= century <= 17 and 2 <= year <= 98
        assert text.endswith(f" to the year {century}")
        assert corrupted == text.replace(start, f"{century}01")
        assert answers_of(task, row) == [f"{y:02d}" for y in range(year + 1, 100)]
        assert answers_of(task, row, "wrong_answers") == [f"{y:02d}" for y in range(year + 1)]
        # The start year is two tokens, as what is asked for is.
        assert tokenizer.tokenize(text)[-6:-4] == [f"Ġ{century}", start[2:]]


def test_greater_than_needs_two_digit_tokens(shared_data: Path) -> None:
    with pytest.raises(ValueError, match="this one does not: 00 is 3 tokens"):
        sm.load_task("greater_than", a_model(), 4, tokenizer=stories(shared_data))


def test_greater_than_needs_years_of_two_tokens() -> None:
    words = Words()
    words.tokenize = lambda text: text.split(" ")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"it writes 1732 as \['1732'\]"):
        sm.load_task("greater_than", a_model(), 4, tokenizer=words)


def test_ioi_needs_names_of_one_token() -> None:
    def letters(text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}

    with pytest.raises(ValueError, match="only 0 of the task's names are single tokens"):
        sm.load_task("ioi", a_model(), 4, tokenizer=letters)


# -- prompt files ---------------------------------------------------------------------------------


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def load(path: Any, n_prompts: int | None = 1, tokenizer: Any = None, **options: Any) -> sm.Task:
    return sm.load_task(str(path), a_model(), n_prompts, tokenizer=tokenizer or Words(), **options)


def test_reads_eap_ig_csv(tmp_path: Path) -> None:
    rows = [
        {"clean": "a b", "corrupted": "c b", "correct_idx": 7, "incorrect_idx": 8},
        {"clean": "a b c", "corrupted": "d b c", "correct_idx": "[5, 6]", "incorrect_idx": "[9]"},
    ]
    task = load(written(tmp_path / "set.csv", rows), 2)
    assert task.name == "set" and task.metric == "logit_diff"
    long = int(task.prompts.real.sum(1).argmax())
    assert task.prompts.answers is not None and task.prompts.wrong_answers is not None
    assert task.prompts.answers[long].tolist() == [5, 6]
    assert task.prompts.answers[1 - long].tolist() == [7, -1]
    assert task.prompts.wrong_answers[:, 0].tolist() == ([8, 9] if long else [9, 8])
    assert text_of(task, long) == "a b c" and text_of(task, long, "corrupted") == "d b c"
    assert task.prompts.attention_mask is not None
    assert task.prompts.attention_mask.sum(1)[[long, 1 - long]].tolist() == [3, 2]


def test_reads_the_greater_than_csv(shared_data: Path) -> None:
    path = shared_data / "circuits" / "greater_than_data.csv"
    task = load(path, 12, gpt2(shared_data))
    assert task.metric == "prob_diff" and task.name == "greater_than_data"
    with path.open(newline="") as file:
        labels = {row["clean"]: int(row["label"]) for row in csv.DictReader(file)}
    for row in range(12):
        year = labels[text_of(task, row)]
        assert answers_of(task, row) == [f"{y:02d}" for y in range(year + 1, 100)]


@pytest.mark.parametrize("label", ["x", "1732", "99", "-1"])
def test_greater_than_csv_with_a_wrong_label(tmp_path: Path, label: str) -> None:
    path = written(tmp_path / "g.csv", [{"clean": "a", "corrupted": "b", "label": label}])
    with pytest.raises(ValueError, match=f"the label '{label}' is no start year"):
        load(path)


def test_token_ids_of_another_tokenizer_are_not_taken_for_words(
    shared_data: Path, tmp_path: Path
) -> None:
    """Its ids are Llama's: some are outside GPT-2's vocabulary, and the others are other words."""
    path = shared_data / "circuits" / "ioi_llama.csv"
    with pytest.raises(ValueError, match=r"ioi_llama: row \d+: the answer is token \d+, and this"):
        load(path, None, gpt2(shared_data))
    with path.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if int(r["incorrect_idx"]) < 50_257]
    inside = [r for r in rows if int(r["correct_idx"]) < 50_257][:5]
    again = written(tmp_path / "some.csv", inside)
    with pytest.warns(UserWarning, match=r"some: the answers are token ids.*row \d reads .* -> '"):
        task = load(again, 3, gpt2(shared_data))
    assert task.prompts.answers is not None  # the ids are what the file says, whatever they mean
    assert {int(i) for i in task.prompts.answers[:, 0]} <= {int(r["correct_idx"]) for r in inside}


def test_token_ids_that_are_words_of_the_prompts_are_believed(
    shared_data: Path, tmp_path: Path
) -> None:
    tokenizer = gpt2(shared_data)
    ids = [tokenizer(f" {name}")["input_ids"][0] for name in ("Mary", "John")]
    text = "Then, Mary and John sat. John gave a book to"
    row = {"clean": text, "corrupted": text.replace("John gave", "Anna gave")}
    path = written(
        tmp_path / "w.csv", [{**row, "clean_answer_idx": ids[0], "corrupted_answer_idx": ids[1]}]
    )
    assert answers_of(load(path, None, tokenizer), 0) == [" Mary"]


def test_reads_auto_circuit_json(tmp_path: Path) -> None:
    path = tmp_path / "auto.json"
    prompt = {
        "clean": "the cats", "corrupt": "the cat", "answers": [" are", " have"],
        "wrong_answers": [" is"],
    }  # fmt: skip
    path.write_text(json.dumps({"prompts": [prompt], "word_idxs": {}}), encoding="utf-8")
    task = load(path)
    assert task.name == "auto" and task.metric == "logit_diff"
    assert answers_of(task, 0) == [" are", " have"]
    assert answers_of(task, 0, "wrong_answers") == [" is"]
    assert text_of(task, 0, "corrupted") == "the cat"


def test_reads_rows_of_our_own(shared_data: Path) -> None:
    path = shared_data / "prompts" / "ioi.json"
    with pytest.warns(UserWarning, match=r"'template' is not read, and 1,584 rows have 6 differ"):
        task = load(path, 16, stories(shared_data))
    rows = {row["prompt"]: row for row in json.loads(path.read_text(encoding="utf-8"))}
    tokenizer = stories(shared_data)
    for i in range(16):
        real = task.prompts.tokens[i, : int(task.prompts.real[i].sum())]
        row = rows[tokenizer.decode(real, skip_special_tokens=True)]
        assert task.prompts.answers is not None
        with_answer = tokenizer(row["prompt"] + row["answer"])["input_ids"]
        assert with_answer[: len(real) + 1] == [*real.tolist(), int(task.prompts.answers[i, 0])]


def test_a_row_of_our_own_may_have_several_answers(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a", "answer": [" b", " c"], "distractor": [" d"]},
        {"prompt": "e", "answer": " f", "distractor": [" g", " h", " i"]},
    ]
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    for read in (listed_rows(rows), read_rows(path, None)):
        assert [row.answers for row in read] == [[" b", " c"], [" f"]]
        assert [row.wrong_answers for row in read] == [[" d"], [" g", " h", " i"]]
    for odd in ([], [" b", 3], [[" b"]]):
        with pytest.raises(ValueError, match=r"row 1: answers are .*texts, at least one"):
            listed_rows([{"prompt": "a", "answer": odd}])


def test_a_csv_of_rows_is_read_as_the_table_that_wrote_it(tmp_path: Path) -> None:
    """``frame.to_csv`` keeps what ``load_task(frame)`` takes; such a file was once refused."""
    rows = [
        {"prompt": "a b", "answer": " c", "distractor": " d", "corrupt": "e f", "cluster": "1"},
        {"prompt": "f, g", "answer": " h", "distractor": " i", "corrupt": "j k", "cluster": "x"},
    ]
    path = Path(written(tmp_path / "rows.csv", rows))
    assert read_rows(path, None) == listed_rows(rows)
    assert load(path, 2).prompts.clusters is not None
    bare = [{**row, "distractor": "", "corrupt": " "} for row in rows]
    assert load(written(tmp_path / "bare.csv", bare), 2).prompts.wrong_answers is None
    with pytest.raises(ValueError, match="row 2: no 'answer'"):
        load(written(tmp_path / "no.csv", [rows[0], {**rows[1], "answer": ""}]), 2)


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize("n_rows", [1, 2])
def test_reads_a_row_a_line(tmp_path: Path, suffix: str, n_rows: int) -> None:
    row = {
        "clean_prefix": "the cats", "patch_prefix": "the cat", "clean_answer": " are",
        "patch_answer": " is",
    }  # fmt: skip
    path = tmp_path / f"rows{suffix}"
    path.write_text("\n".join([json.dumps(row)] * n_rows) + "\n", encoding="utf-8")
    task = load(path, n_rows)
    assert [answers_of(task, i) for i in range(n_rows)] == [[" are"]] * n_rows
    assert answers_of(task, 0, "wrong_answers") == [" is"]
    assert text_of(task, 0, "corrupted") == "the cat"


def test_reads_the_agreement_lines(shared_data: Path) -> None:
    path = shared_data / "circuits" / "agreement_simple_train.json"
    task = load(path, 10, gpt2(shared_data))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows = {(row["clean_prefix"], row["clean_answer"]) for row in lines}
    for i in range(10):
        assert (text_of(task, i), answers_of(task, i)[0]) in rows


def test_rows_without_corruption_make_prompts_without(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('[{"prompt": "a b", "answer": " c", "distractor": " d"}]', encoding="utf-8")
    assert load(path).prompts.corrupted is None
    upper = path.rename(tmp_path / "r.JSON")
    assert len(load(upper).prompts) == 1


def test_a_files_prompts_are_shuffled_by_seed(tmp_path: Path) -> None:
    rows = [{"prompt": f"a{i} b", "answer": " c", "distractor": " d"} for i in range(50)]
    path = tmp_path / "r.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    firsts = [[text_of(load(path, 5, seed=s), i) for i in range(5)] for s in (0, 0, 1)]
    assert firsts[0] == firsts[1] != firsts[2]
    assert len({*firsts[0]}) == 5


COLUMNS = "clean,corrupted,correct_idx,incorrect_idx"


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("e.json", '[{"prompt": "a \\ud800", "answer": " c", "distractor": " d"}]', "half a char"),
        ("e.json", "[" * 100_000, "e.json is not JSON: maximum recursion depth"),
        ("e.json", '[{"prompt": ' + "9" * 5000 + "}]", "e.json is not JSON: Exceeds the limit"),
        ("e.csv", f"{COLUMNS}\na b,c b,true,5\n", "'correct_idx' is 'true'; it must be a token id"),
        ("a.csv", "clean,wrong\nx,y\n", "a.csv has the columns clean, wrong, which tell no ans"),
        ("a.json", '[{"text": "x"}]', "a.json: row 1: no 'answer'; a .csv has the columns"),
        ("b.json", "{oops", "b.json is not JSON: Expecting property name"),
        ("b.json", '{"prompt": 1}\n{oops', "b.json is not JSON: line 2: Expecting property name"),
        ("c.json", "3", "c.json holds int, not rows"),
        ("c.json", "[]", "c.json holds no rows"),
        ("c.json", "[3]", "c.json: row 1: it is int, not an object with names"),
        ("d.jsonl", '{"clean": "x"}', "d.jsonl: row 1: no 'answers'"),
        ("d.json", '[{"clean": "x", "answers": "a", "wrong_answers": ["b"]}]', "answers are 'a'"),
        ("d.json", '[{"prompt": 3, "answer": "a", "distractor": "b"}]', "row 1: a prompt is 3"),
        ("e.csv", f"{COLUMNS}\nx,y,1,2\nx,y,q,2\n", "e.csv: row 2: its 'correct_idx' is 'q'"),
        ("e.csv", f"{COLUMNS}\nx,y,1,-2\n", "row 1: its 'incorrect_idx' is '-2'; it must be a"),
        ("e.csv", f"{COLUMNS}\nx,y,1\n", "e.csv: row 1: its 'incorrect_idx' is empty"),
        ("e.csv", f"{COLUMNS}\n,y,1,2\n", "e.csv: row 1: its 'clean' is empty"),
        ("e.csv", f"{COLUMNS}\nx,y,1,2,3\n", "row 1: it has more fields than there are columns"),
        ("e.csv", f"{COLUMNS}\n", "e.csv holds no rows"),
        ("e.csv", "", "e.csv holds no rows"),
    ],
)
def test_files_that_hold_something_else(tmp_path: Path, name: str, text: str, match: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=match):
        load(tmp_path / name)


def test_a_row_that_lacks_what_others_have_says_so(tmp_path: Path) -> None:
    """A corrupted version in some rows only was dropped without a word."""
    row = {"prompt": "a b", "answer": " c", "distractor": " d"}
    path = tmp_path / "r.json"
    path.write_text(json.dumps([{**row, "corrupt": "e b"}, row, row]), encoding="utf-8")
    text = r"r: row [23] has no corrupted version, so that those of the other 1 row are not used"
    with pytest.warns(UserWarning, match=text):
        assert load(path, None).prompts.corrupted is None


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "z.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"z.json is not a text file in UTF-8 or UTF-16"):
        load(tmp_path / "z.json")


def test_pairs_of_unequal_length_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    good = {"prompt": "a b", "answer": " c", "distractor": " d", "corrupt": "e b"}
    path.write_text(json.dumps([good, {**good, "corrupt": "e"}] * 60), encoding="utf-8")
    assert [text_of(load(path, 60), i) for i in range(60)] == ["a b"] * 60
    with pytest.raises(ValueError, match=r"r: 60 usable prompts, not 61.*n_prompts=60 or fewer"):
        load(path, 61)
    path.write_text(json.dumps([{**good, "corrupt": "e"}]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"0 usable prompts, not 1 .*look at its rows"):
        load(path)
    path.write_text(json.dumps([good, {**good, "corrupt": "e"}, good]), encoding="utf-8")
    with pytest.warns(UserWarning, match=r"r: 1 row is left out, .*as many tokens \(row 2\)"):
        assert len(load(path, None).prompts) == 2


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-bom"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_file_as_other_programs_write_it(tmp_path: Path, encoding: str, end: str) -> None:
    """A byte-order mark, Windows line ends, empty lines, quotes, a line break inside a field."""
    lines = [COLUMNS, '"a ""b"" c",d e c,5,6', "", ",,,", '"a\nb",c d,7,8', ""]
    text = end.join(lines)
    held = codecs.BOM_UTF16_BE + text.encode("utf-16-be")
    (tmp_path / "f.csv").write_bytes(held if "bom" in encoding else text.encode(encoding))
    rows = read_rows(tmp_path / "f.csv", None)
    assert [row.clean for row in rows] == ['a "b" c', "a\nb"]
    assert [row.answers for row in rows] == [[5], [7]]
    assert [row.place for row in rows] == ["row 1", "row 3"]
    rows = [{"prompt": "a\u2028b", "answer": " c", "distractor": " d"}] * 2
    text = (end + end).join(json.dumps(row, ensure_ascii=False) for row in rows)
    held = codecs.BOM_UTF16_BE + text.encode("utf-16-be")
    (tmp_path / "f.jsonl").write_bytes(held if "bom" in encoding else text.encode(encoding))
    assert [row.clean for row in read_rows(tmp_path / "f.jsonl", None)] == ["a\u2028b"] * 2


def test_a_file_of_100_000_rows_gives_what_is_asked(tmp_path: Path) -> None:
    with (tmp_path / "many.csv").open("w", encoding="utf-8") as file:
        file.write(COLUMNS + "\n" + "".join(f"a{i % 7} b,c b,7,8\n" for i in range(100_000)))
    assert len(read_rows(tmp_path / "many.csv", None)) == 100_000


def test_answers_that_begin_with_the_same_token_are_refused(tmp_path: Path) -> None:
    rows = [
        {"prompt": "in the city of", "answer": " Paris", "distractor": " New Jersey"},
        {"prompt": "in the city of", "answer": " New York", "distractor": " New Jersey"},
    ]
    (tmp_path / "p.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(ValueError, match=r"p: row 2: the answer ' New York' and a wrong answer"):
        load(tmp_path / "p.json", None)
    twice = [{"clean": "a b", "answers": [" c", " c"], "wrong_answers": [" d"]}]
    (tmp_path / "q.json").write_text(json.dumps({"prompts": twice}), encoding="utf-8")
    task = load(tmp_path / "q.json", None)
    assert task.prompts.answers is not None and task.prompts.answers.shape == (1, 1)


def test_an_end_token_behind_a_prompt_is_left_off(tmp_path: Path) -> None:
    """Some tokenizers append one: the answer would be read as what follows the end of the text."""
    words = "<bos> <eos> he she lives in the city of Rome Paris".split()
    raw = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<bos>")
    )
    raw.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    raw.post_processor = tokenizers.processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 0), ("<eos>", 1)]
    )
    ends = tf.PreTrainedTokenizerFast(tokenizer_object=raw)
    path = tmp_path / "p.json"
    row = {"prompt": "he lives in", "corrupt": "she lives in", "answer": " Rome"}
    path.write_text(json.dumps([{**row, "distractor": " Paris"}]), encoding="utf-8")
    task = load(path, None, ends)
    assert task.prompts.tokens.tolist() == [[0, 2, 4, 5]]
    assert task.prompts.answers is not None and task.prompts.answers.tolist() == [[9]]


def test_an_answer_that_merges_with_the_prompt(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('[{"prompt": "a b", "answer": "c", "distractor": " d"}]', encoding="utf-8")
    with pytest.raises(ValueError, match=r"the answer 'c' merges with the end of .* 'a b'"):
        load(path)


# -- load_task itself -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("iio", {}, "unknown task 'iio'; choose one of induction, text, ioi, greater_than"),
        ("ioi", {"tokenizer": None}, "'ioi' needs a tokenizer and this model brings none"),
        ("/no/such.csv", {}, "no prompt file /no/such.csv"),
        ("induction", {"n_prompts": 0}, "n_prompts is 0; it must be a whole number of at least 1"),
        ("induction", {"seed": -1}, "seed is -1; it must be a whole number of at least 0"),
        ("induction", {"file": "x"}, "the task 'induction' takes no option 'file'"),
        ("ioi", {"file": "x"}, "the task 'ioi' takes no option 'file'"),
    ],
)
def test_load_task_errors(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        sm.load_task(name, a_model(), **{"tokenizer": Words(), **options})


def test_a_model_that_brings_its_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text('[{"prompt": "a b", "answer": " c", "distractor": " d"}]', encoding="utf-8")
    task = sm.load_task(str(path), SimpleNamespace(tokenizer=Words()), 1)
    assert answers_of(task, 0) == [" c"]


def test_the_metric_can_be_another() -> None:
    task = sm.load_task("induction", a_model(), 2, metric="loss")
    assert task.metric == "loss"


def test_tasks_lists_every_task() -> None:
    assert list(TASKS) == ["induction", "text", "ioi", "greater_than"]
    assert all(TASKS.values())


def test_a_model_runs_on_a_task(shared_data: Path) -> None:
    """What a task promises is what the metric reads: the small story model knows its names."""
    model = sm.load_model(shared_data / "stories3m", device="cpu")
    task = sm.load_task("ioi", model, 32)
    with torch.no_grad():
        output = model(task.prompts.tokens, attention_mask=task.prompts.real.long()).logits
        corrupted = model(task.prompts.corrupted, attention_mask=task.prompts.real.long()).logits
    assert METRICS["logit_diff"](output, task.prompts).mean() > 3
    assert METRICS["logit_diff"](corrupted, task.prompts).mean().abs() < 1


def test_a_text_with_an_answer_or_a_continuation() -> None:
    words = Words()
    task = text_task(a_model(), "the cat sat on the", " mat", tokenizer=words)
    ids = words("the cat sat on the mat")["input_ids"]
    assert task.prompts.tokens.tolist() == [ids[:-1]]
    assert task.prompts.answers is not None and task.prompts.answers.tolist() == [[ids[-1]]]
    task = text_task(a_model(), "the cat sat", continuation=" on the mat", tokenizer=words)
    assert task.prompts.tokens.tolist() == [ids]
    assert task.prompts.target_mask is not None
    # The logits at "sat", "on" and "the" predict what is scored.
    assert task.prompts.target_mask[0].nonzero()[:, 0].tolist() == [2, 3, 4]
    game = sm.TokenGame(a_model(), task, tokenizer=words)
    assert [span[0] for span in game.spans] == [0, 1, 2]


def test_a_text_for_a_classifier() -> None:
    config = tf.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=40, num_labels=2)
    config.id2label = {0: "bad", 1: "good"}
    config.label2id = {"bad": 0, "good": 1}
    model = tf.GPT2ForSequenceClassification(config)
    for answer in ("good", "1", 1):
        task = text_task(model, "a film", answer, tokenizer=Words())
        assert task.prompts.answers is not None and task.prompts.answers.tolist() == [[1]]
    with pytest.raises(ValueError, match="no class 'fine'; this model's are bad, good"):
        text_task(model, "a film", "fine", tokenizer=Words())


def test_a_text_without_what_follows_is_refused() -> None:
    with pytest.raises(ValueError, match="give an answer or a continuation"):
        text_task(a_model(), "the cat", tokenizer=Words())
    with pytest.raises(ValueError, match="this model has no tokenizer"):
        text_task(a_model(), "the cat", " sat")
