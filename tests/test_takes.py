"""What users hold, as it is: prompts as strings, rows as dicts and tables, a model with a task; and
what they send on: networkx, GraphML, Neuronpedia's JSON, shapiq's games, files of either kind."""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordLevel, WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel, WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import spex_mech as sm
from spex_mech.engine.metrics import METRICS
from spex_mech.results.cautions import other_metric
from tests.prompt_files import word_tokenizer
from tests.wrong import pair

TEXTS = ["he lives in the city of", "she sees a", "the cat lives in New"]
ANSWERS = [" Rome", " dog", " York"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=16, vocab_size=len(tokenizer), n_positions=24,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    made = GPT2LMHeadModel(config).eval()
    for parameter in made.parameters():
        parameter.data *= 4  # or all logits are nearly the same
    return made


def log_probs(model: Any, tokenizer: Any, text: str, follows: str) -> list[float]:
    """Of each token behind a text, by a plain loop."""
    before = tokenizer(text)["input_ids"]
    both = tokenizer(text + follows)["input_ids"]
    assert both[: len(before)] == before
    with torch.no_grad():
        scores = model(torch.tensor([both])).logits[0].log_softmax(dim=-1)
    return [float(scores[at - 1, both[at]]) for at in range(len(before), len(both))]


def test_prompts_from_texts_are_those_of_a_loop(model: Any, tokenizer: Any) -> None:
    wrong = [[" Paris", " York"], " cat", [" Rome"]]
    prompts = sm.Prompts.from_text(tokenizer, TEXTS, ANSWERS, wrong)
    game = sm.ModelGame(model, sm.Task(prompts, "log_prob", decode=tokenizer))
    want = [sum(log_probs(model, tokenizer, *row)) for row in zip(TEXTS, ANSWERS, strict=True)]
    assert game([[1] * len(game)])[0].tolist() == pytest.approx(want, abs=1e-5)
    first = log_probs(model, tokenizer, TEXTS[1], " dog")[0]
    second = log_probs(model, tokenizer, TEXTS[1], " cat")[0]
    difference = sm.ModelGame(model, sm.Task(prompts, "logit_diff"))([[1] * len(game)])[0]
    assert float(difference[1]) == pytest.approx(first - second, abs=1e-5)


def test_all_tokens_of_a_continuation_are_scored(model: Any, tokenizer: Any) -> None:
    follow = [" Rome", " dog in the city of Paris", " York"]
    prompts = sm.Prompts.from_text(tokenizer, TEXTS, continuations=follow)
    game = sm.ModelGame(model, sm.Task(prompts, "log_prob"))
    want = [np.mean(log_probs(model, tokenizer, *row)) for row in zip(TEXTS, follow, strict=True)]
    assert game([[1] * len(game)])[0].tolist() == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"answers": ANSWERS[:2]}, "answers is .* one text, or a list, per prompt"),
        ({"answers": "Rome"}, "answers is 'Rome'"),
        ({"answers": [*ANSWERS[:2], " zebra"]}, "prompt 2: .*vocabulary"),
        ({"answers": [*ANSWERS[:2], " York Rome"]}, "prompt 2: ' York Rome' is 2 tokens"),
        ({"answers": ANSWERS, "continuations": ANSWERS}, "answers or continuations, not both"),
        ({"continuations": ["", " a", " b"]}, "continuations: prompt 0 is ''"),
        ({"corrupted": ["she", *TEXTS[1:]]}, "prompt 0 has . tokens and its prompt"),
        ({"answers": ANSWERS, "wrong_answers": ANSWERS}, "among answers and among wrong_answers"),
    ],
)
def test_texts_that_make_no_prompts(tokenizer: Any, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        sm.Prompts.from_text(tokenizer, TEXTS, **given)


@pytest.mark.parametrize("texts", ["one text", [], [3], 5, None])
def test_what_is_no_list_of_texts(tokenizer: Any, texts: Any) -> None:
    with pytest.raises(ValueError, match="texts"):
        sm.Prompts.from_text(tokenizer, texts)


@pytest.mark.parametrize("as_table", [False, True])
@pytest.mark.parametrize("wrong", [False, True])
def test_rows_are_a_task(model: Any, tokenizer: Any, as_table: bool, wrong: bool) -> None:
    rows = [{"prompt": a, "answer": b} for a, b in zip(TEXTS, ANSWERS, strict=True)]
    if wrong:
        rows = [row | {"distractor": " cat"} for row in rows]
    given = pd.DataFrame(rows) if as_table else rows
    task = sm.load_task(given, model, tokenizer=tokenizer)
    assert task.metric == ("logit_diff" if wrong else "log_prob")
    same = sm.Prompts.from_text(tokenizer, TEXTS, ANSWERS, [" cat"] * 3 if wrong else None)
    assert torch.equal(task.prompts.tokens, same.tokens)
    assert torch.equal(task.prompts.answers, same.answers)
    assert "he" in repr(task) and "Rome" in repr(task)


def test_rows_of_two_kinds(model: Any, tokenizer: Any) -> None:
    rows = [{"prompt": a, "answer": b} for a, b in zip(TEXTS, ANSWERS, strict=True)]
    rows[1]["distractor"] = " cat"
    with pytest.raises(ValueError, match="row 2 has wrong answers and row 1 has none"):
        sm.load_task(rows, model, tokenizer=tokenizer)
    for wrong in ([], [3], [{"prompt": "he"}], None):
        with pytest.raises(ValueError, match="a row is a dict such as"):
            sm.load_task(wrong, model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def demo() -> Any:
    return sm.load_model("demo")


@pytest.fixture(scope="module")
def task(demo: Any) -> sm.Task:
    return sm.load_task("induction", demo, 8)


def test_a_model_with_a_task_is_a_game(demo: Any, task: sm.Task) -> None:
    game = sm.ModelGame(demo, task, "L0*,L1H0", ablation="zero")
    want = sm.discover(game, "exhaustive", progress=False)
    given = {"units": "L0*,L1H0", "ablation": "zero", "progress": False}
    by_name = sm.discover(demo, task=task, method="exhaustive", **given)
    behind = sm.discover(demo, task, **given)
    assert by_name.labels == want.labels and len(by_name) == len(want)
    np.testing.assert_allclose(by_name.mean, want.mean, atol=1e-6)
    assert behind["L0H3", "L1H0"] == pytest.approx(want["L0H3", "L1H0"], abs=1e-6)


@pytest.mark.parametrize(
    ("given", "options", "told"),
    [
        ("game task", {}, "a task goes with a model.* a game"),
        ("game", {"units": "heads"}, "units= and ablation= go with a model"),
        ("game", {"ablation": "zero"}, "units= and ablation= go with a model"),
        ("model", {}, "got a model .* and no task"),
        ("function task", {"n": 4}, "a task goes with a model.* a function"),
    ],
)
def test_what_a_model_and_its_task_are_not(
    demo: Any, task: sm.Task, given: str, options: dict[str, Any], told: str
) -> None:
    by_name = {"game": sm.ModelGame(demo, task), "model": demo, "function": pair, "task": task}
    with pytest.raises(ValueError, match=told):
        sm.discover(*(by_name[name] for name in given.split()), progress=False, **options)


@pytest.fixture(scope="module")
def game(demo: Any, task: sm.Task) -> sm.ModelGame:
    return sm.ModelGame(demo, task)


@pytest.fixture(scope="module")
def found(game: sm.ModelGame) -> sm.Interactions:
    return sm.discover(game, "exhaustive", progress=False)


def test_a_graph_holds_every_pair(found: sm.Interactions, tmp_path: Path) -> None:
    import networkx as nx

    graph = found.to_networkx()
    assert graph.number_of_edges() == len(found) == 28
    for names, value in found:
        assert graph.edges[names]["value"] == pytest.approx(value)
    assert graph.nodes["L1H0"]["main_effect"] == pytest.approx(found["L1H0"])
    assert graph.nodes["L1H0"]["layer"] == 1 and graph.nodes["L1H0"]["kind"] == "head"
    nx.write_graphml(graph, tmp_path / "pairs.graphml")
    again = nx.read_graphml(tmp_path / "pairs.graphml")
    assert again.edges["L0H3", "L1H0"]["verdict"] == "AND-like"


def test_what_was_measured_is_in_a_result(found: sm.Interactions) -> None:
    """``in`` went through pairs of names and values, and was False of everything."""
    assert ("L0H3", "L1H0") in found and ("L1H0", "L0H3") in found and "L0H3" in found
    for missing in (
        "L9H9",
        ("L0H3", "L9H9"),
        ("L0H3", "L0H3"),
        ("L0H0", "L0H1", "L0H2"),
        3,
        (3, 4),
    ):
        assert missing not in found


def test_a_graph_says_that_it_has_no_triples() -> None:
    triples = sm.discover(pair, "exhaustive", n=4, order=3, progress=False)
    with pytest.warns(UserWarning, match="4 interactions of more than two units are left out"):
        assert triples.to_networkx().number_of_edges() == 6


def test_the_graph_viewer_s_json(found: sm.Interactions) -> None:
    made = json.loads(json.dumps(found.to_neuronpedia(["a", " b"])))
    nodes = {node["node_id"]: node for node in made["nodes"]}
    label = {name: node["clerp"] for name, node in nodes.items()}
    links = {(label[x["source"]], label[x["target"]]): x["weight"] for x in made["links"]}
    assert len(nodes) == 9 and len(links) == 28 + 8
    assert links["L0H3", "L1H0"] == pytest.approx(found["L0H3", "L1H0"])
    output = next(name for name, node in nodes.items() if node["is_target_logit"])
    assert links["L1H0", label[output]] == pytest.approx(-found["L1H0"])  # it helps
    assert int(nodes[output]["layer"]) > max(int(nodes[n]["layer"]) for n in nodes if n != output)
    pinned = {label[name] for name in made["qParams"]["pinnedIds"]}
    assert {"L0H3", "L1H0", label[output]} <= pinned
    assert made["metadata"]["prompt_tokens"] == ["a", " b"]


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_the_graph_viewer_opens_it(n_layers: int) -> None:
    """What its code (apps/webapp in hijohnnylin/neuronpedia: graph-schema.json, and
    ``formatCLTGraphData``) asks for and fails without."""
    labels = [f"L{n}H{m}" for n in range(n_layers) for m in range(2)] or ["the", "cat"]
    found = sm.discover(pair, "exhaustive", labels=labels, progress=False)
    made = json.loads(json.dumps(found.to_neuronpedia(), allow_nan=False))
    asked = made["qParams"]
    assert isinstance(asked["clickedId"], str) and isinstance(asked["linkType"], str)
    nodes = {node["node_id"]: node for node in made["nodes"]}
    assert {asked["clickedId"], *asked["pinnedIds"]} <= nodes.keys()
    for node in nodes.values():
        assert isinstance(node["feature"], int) and isinstance(node["layer"], str)
    logits = [node for node in nodes.values() if node["feature_type"] == "logit"]
    assert [float(x["clerp"].split("(p=")[1].split(")")[0]) for x in logits] == [1.0]
    layers = [int(node["layer"]) for node in nodes.values() if node["feature_type"] != "logit"]
    assert max(layers) > 0  # or "No layer found"
    assert [int(x["layer"]) for x in logits] == [max(layers) + 1]
    for link in made["links"]:
        assert (
            isinstance(link["weight"], float) and {link["source"], link["target"]} <= nodes.keys()
        )
    for node, layer in zip(nodes.values(), layers, strict=False):  # ``getLayerFromCantorValue``
        w = int(((8 * node["feature"] + 1) ** 0.5 - 1) / 2)
        assert w - (node["feature"] - w * (w + 1) // 2) == layer


def test_shapiq_takes_the_game(game: sm.ModelGame, found: sm.Interactions) -> None:
    shapiq = pytest.importorskip("shapiq", reason="shapiq is not installed")
    theirs = shapiq.ExactComputer(game=game.as_shapiq(), n_players=8)("Co-Moebius", order=2)
    for units, value in zip(found.units.tolist(), found.mean.tolist(), strict=True):
        assert theirs[tuple(units)] == pytest.approx(value, abs=1e-5)


def test_a_file_is_read_by_what_it_holds(
    game: sm.ModelGame, found: sm.Interactions, tmp_path: Path
) -> None:
    found.save(tmp_path / "a")
    assert sm.load(tmp_path / "a").names == found.names
    circuit = sm.find_circuit(game, found, size=2, budget=60, progress=False)
    circuit.save(tmp_path / "b")
    assert sm.load(tmp_path / "b").units == circuit.units
    sm.discover(pair, n=4, store=tmp_path / "c", progress=False)
    with pytest.raises(ValueError, match="is the store of a search; discover"):
        sm.load(tmp_path / "c")
    held = json.loads((tmp_path / "b").read_text())
    (tmp_path / "e").write_text(json.dumps(held | {"format": 0}))
    with pytest.raises(ValueError, match="it is damaged or was edited"):
        sm.load(tmp_path / "e")
    del held["sha256"]  # as in files of an earlier version
    for other, told in (({"n_promptq": 3}, "'n_promptq' is unknown"), ({}, "'about' is missing")):
        changed = {key: value for key, value in held.items() if key != "about" or other} | other
        (tmp_path / "f").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=f"f is not a spex_mech circuit .*{told}"):
            sm.load(tmp_path / "f")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        sm.load(tmp_path / "d")
    (tmp_path / "e").write_text("no result")
    with pytest.raises(ValueError, match="is not a spex_mech result"):
        sm.load(tmp_path / "e")


@pytest.mark.parametrize("answers", [5, [5], [None], [[]], [float("nan")], [[" Rome", 3]]])
def test_answers_that_are_no_texts(tokenizer: Any, answers: Any) -> None:
    with pytest.raises(ValueError, match="answers"):
        sm.Prompts.from_text(tokenizer, TEXTS[:1], answers)


def spaced_tokenizer() -> Any:
    """Pieces of bytes, as GPT-2's: a word behind a space and without one are two tokens."""
    made = Tokenizer(BPE())
    made.pre_tokenizer = ByteLevel(add_prefix_space=False)
    made.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(vocab_size=400, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    made.train_from_iterator(["the city is Rome", "Rome is the city"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")


def ending_tokenizer() -> Any:
    """As BERT's: [CLS] words [SEP], and no token for white space."""
    words = ["[UNK]", "[CLS]", "[SEP]", "the", "city", "is", "rome", "##rome"]
    made = Tokenizer(WordPiece({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = BertPreTokenizer()
    ends = [("[CLS]", 1), ("[SEP]", 2)]
    made.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


def beginning_tokenizer() -> Any:
    """As Llama's: <s> words."""
    words = ["<unk>", "<s>", "the", "city", "is", "Rome"]
    made = Tokenizer(WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = WhitespaceSplit()
    made.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>")


def test_a_text_that_brings_a_begin_token_gets_no_second_one() -> None:
    """As a chat template writes it: the model was asked another text without a word."""
    made, template = beginning_tokenizer(), "<s> the city is"
    assert made(template)["input_ids"] == [1, 1, 2, 3, 4]
    for given in ({}, {"answers": [" Rome"]}, {"continuations": [" Rome"]}):
        with_begin = sm.Prompts.from_text(made, [template], **given)
        without = sm.Prompts.from_text(made, ["the city is"], **given)
        assert with_begin.tokens[0, :4].tolist() == [1, 2, 3, 4]
        assert torch.equal(with_begin.tokens, without.tokens)
    answered = sm.Prompts.from_text(made, [template], [" Rome"])
    assert answered.answers is not None and answered.answers.tolist() == [[5]]
    rows = [{"prompt": template, "answer": " Rome"}]
    assert sm.load_task(rows, None, tokenizer=made).prompts.tokens.tolist() == [[1, 2, 3, 4]]
    twice = sm.Prompts.from_text(made, ["<s> <s> the"])  # who writes it twice means it
    assert twice.tokens.tolist() == [[1, 1, 2]]


@pytest.mark.parametrize(
    "texts", [set(TEXTS), dict.fromkeys(TEXTS, 1), pd.DataFrame({"prompt": TEXTS})]
)
def test_texts_without_an_order_are_refused(tokenizer: Any, texts: Any) -> None:
    """A set has no order that answers could follow, and a table goes through its columns' names."""
    with pytest.raises(ValueError, match=r"texts is .*; give a list of texts"):
        sm.Prompts.from_text(tokenizer, texts)
    if not isinstance(texts, pd.DataFrame):
        with pytest.raises(ValueError, match=r"answers is .*; give a list"):
            sm.Prompts.from_text(tokenizer, TEXTS, type(texts)(dict.fromkeys(ANSWERS, 1)))


def test_two_columns_of_one_name_are_refused(model: Any, tokenizer: Any) -> None:
    given = pd.DataFrame([[TEXTS[0], " Rome", " dog"]], columns=["prompt", "answer", "answer"])
    with pytest.raises(ValueError, match="two columns of the table are called 'answer'"):
        sm.load_task(given, model, tokenizer=tokenizer)


@pytest.mark.parametrize("kind", ["csv", "json", "lines.json"])
def test_a_name_that_stands_twice_in_a_file_is_refused(
    model: Any, tokenizer: Any, tmp_path: Path, kind: str
) -> None:
    """Python takes the last, so that the answer of another column was scored."""
    row = '{"prompt": "the city is", "answer": " Rome", "answer": " dog"}'
    text = {
        "csv": "clean,corrupted,correct_idx,incorrect_idx,correct_idx\nthe,the,3,4,5\n",
        "json": f"[{row}]",
        "lines.json": f"{row}\n{row}\n",
    }[kind]
    file = tmp_path / f"rows.{kind}"
    file.write_text(text, encoding="utf-8")
    name = "correct_idx" if kind == "csv" else "answer"
    with pytest.raises(ValueError, match=f"'{name}'.*; leave one out"):
        sm.load_task(file, model, tokenizer=tokenizer)


@pytest.mark.parametrize("kind", ["rows", "json", "csv"])
def test_a_column_that_puts_rows_together_and_is_not_read_is_said(
    model: Any, tokenizer: Any, tmp_path: Path, kind: str
) -> None:
    """Rows of one template counted as independent, and errors and q-values were too small."""

    def told(templates: list[Any], **more: Any) -> list[str]:
        rows: Any = [{"prompt": a, "answer": b, "template": c, **more}
                     for a, b, c in zip(TEXTS, ANSWERS, templates, strict=True)]  # fmt: skip
        if kind == "csv":
            ids = [tokenizer(answer)["input_ids"][-1] for answer in (*ANSWERS, *ANSWERS[:1])]
            rows = pd.DataFrame(rows).drop(columns="answer").rename(columns={"prompt": "clean"})
            rows = rows.assign(corrupted=TEXTS, correct_idx=ids[:3], incorrect_idx=ids[1:])
        if kind != "rows":
            file = tmp_path / f"rows.{kind}"
            text = rows.to_csv(index=False) if kind == "csv" else json.dumps(rows)
            file.write_text(text, encoding="utf-8")
            rows = file
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            sm.load_task(rows, model, tokenizer=tokenizer)
        return [str(one.message) for one in said if "template" in str(one.message)]

    (said,) = told(["a", "b", "a"])
    assert "'template' is not read, and 3 rows have 2 different ones" in said
    assert not told(["a", "b", "c"]) and not told(["a", "a", "a"])
    assert not told(["a", "b", "a"], cluster=7)


def test_an_answer_without_its_space_is_said() -> None:
    for made in (spaced_tokenizer(), ending_tokenizer()):
        name = "rome" if made.unk_token else "Rome"
        right = sm.Prompts.from_text(made, ["the city is"], [f" {name}"])
        assert right.answers is not None
        with pytest.warns(UserWarning, match=f"'{name}' goes on with the last word .*' {name}'"):
            other = sm.Prompts.from_text(made, ["the city is"], [name])
        assert other.answers is not None and not torch.equal(other.answers, right.answers)
        with pytest.warns(UserWarning, match="row 1: the answer .* goes on with the last word"):
            sm.load_task([{"prompt": "the city is", "answer": name}], None, tokenizer=made)


def test_an_answer_of_several_tokens_in_rows_is_said() -> None:
    rows = [{"prompt": "the city is", "answer": answer} for answer in (" Rome", " Oslo", " Bonn")]
    with pytest.warns(UserWarning, match="row 2: the answer ' Oslo' is 5 tokens.*1 other row"):
        sm.load_task(rows, None, tokenizer=spaced_tokenizer())


def test_prompts_without_a_token_and_of_an_end_token() -> None:
    made = ending_tokenizer()
    with pytest.raises(ValueError, match="' ' has no token"):
        sm.Prompts.from_text(made, [" ", "the city"], [" rome", " rome"])
    wrong = sm.Prompts.from_text(made, ["the city is"], wrong_answers=[" rome"])
    assert wrong.tokens.tolist() == [[1, 3, 4, 5]]  # answers are read before the end token
    with pytest.raises(ValueError, match="tokenizer is"):
        sm.Prompts.from_text(torch.nn.Linear(1, 1), ["the city"])


def test_an_empty_cell_of_a_table_is_none(model: Any, tokenizer: Any) -> None:
    rows = [{"prompt": a, "answer": b} for a, b in zip(TEXTS, ANSWERS, strict=True)]
    for empty in (None, float("nan"), pd.NA):
        given = pd.DataFrame([row | {"distractor": empty, "corrupt": empty} for row in rows])
        task = sm.load_task(given, model, tokenizer=tokenizer)
        assert task.metric == "log_prob" and task.prompts.corrupted is None
    given.loc[1, "answer"] = pd.NA
    with pytest.raises(ValueError, match="row 2: no 'answer'"):
        sm.load_task(given, model, tokenizer=tokenizer)


@pytest.mark.parametrize("kind", ["words", "numbers", "table", "file"])
def test_rows_of_clusters(model: Any, tokenizer: Any, kind: str, tmp_path: Path) -> None:
    """Errors are taken by cluster, whichever way rows say theirs."""
    names = ["fox", "cat", "fox"] if kind == "words" else [7, 3, 7]
    given: Any = [
        {"prompt": a, "answer": b, "cluster": c}
        for a, b, c in zip(TEXTS, ANSWERS, names, strict=True)
    ]
    if kind == "table":
        given = pd.DataFrame(given).astype({"cluster": "Int64"})
    if kind == "file":
        (tmp_path / "rows.json").write_text(json.dumps(given), encoding="utf-8")
        given = tmp_path / "rows.json"
    task = sm.load_task(given, model, tokenizer=tokenizer)
    numbers = task.prompts.cluster_numbers()
    assert numbers is not None and len(set(numbers)) == 2
    order = [TEXTS.index(tokenizer.decode(row[real])) for row, real in
             zip(task.prompts.tokens, task.prompts.real, strict=True)]  # fmt: skip
    by_text = dict(zip(order, numbers, strict=True))
    assert by_text[0] == by_text[2] != by_text[1]


@pytest.mark.parametrize(
    ("written", "same"),
    [((" a", "b", "a "), True), ((1, 2, "1.0"), True), (("a", "b", "A"), False)],
)
def test_a_cluster_is_the_same_however_it_is_written(
    model: Any, tokenizer: Any, written: Any, same: bool
) -> None:
    """Spaces around a word and the type of a number make no other cluster, of which errors would
    be too small; and the same cluster has the same number in every task."""
    rows = [
        {"prompt": a, "answer": b, "cluster": c}
        for a, b, c in zip(TEXTS, ANSWERS, written, strict=True)
    ]
    one = sm.load_task(rows, model, tokenizer=tokenizer).prompts.clusters.tolist()
    assert one[0] != one[1] and (one[0] == one[2]) == same
    turned = sm.load_task(rows[::-1], model, tokenizer=tokenizer).prompts.clusters.tolist()
    assert turned == one[::-1]
    none = [row | {"cluster": " "} for row in rows]
    assert sm.load_task(none, model, tokenizer=tokenizer).prompts.clusters is None


@pytest.mark.parametrize("column", ["Cluster", "clusters", " cluster", "cluster_id"])
def test_a_misspelt_column_of_clusters_is_said(
    model: Any, tokenizer: Any, column: str, tmp_path: Path
) -> None:
    ids = [tokenizer(answer)["input_ids"][-1] for answer in (*ANSWERS, *ANSWERS[:1])]
    lines = [f'"{a}","{a}",{b},{c},x' for a, b, c in zip(TEXTS, ids, ids[1:], strict=False)]
    (tmp_path / "rows.csv").write_text(
        "\n".join([f"clean,corrupted,correct_idx,incorrect_idx,{column}", *lines]), encoding="utf-8"
    )
    with pytest.warns(UserWarning) as said:
        sm.load_task(tmp_path / "rows.csv", model, tokenizer=tokenizer)
    assert any(f"the column {column!r} is not read" in str(one.message) for one in said)


def test_clusters_in_both_of_two_tasks_are_told(model: Any, tokenizer: Any) -> None:
    """Of a task that is split between them, of two tasks' words, and in what confirms."""
    rows = [
        {"prompt": f"{text}{more}", "answer": answer, "cluster": f"template {n}"}
        for more in ("", " the")
        for n, (text, answer) in enumerate(zip(TEXTS, ANSWERS, strict=True))
    ]
    task = sm.load_task(rows, model, tokenizer=tokenizer)
    with pytest.warns(UserWarning, match="3 of 3 clusters have prompts in both parts"):
        task.split(3)
    in_order = sm.load_task(
        sorted(rows, key=lambda row: row["cluster"]), model, tokenizer=tokenizer
    )
    in_order.split(2)
    searched, other = (
        sm.load_task(part, model, tokenizer=tokenizer) for part in (rows[:3], rows[3:])
    )
    games = [sm.ModelGame(model, of, "heads") for of in (searched, other)]
    found = sm.discover(games[0], progress=False)
    with pytest.warns(
        UserWarning, match="3 of the 3 clusters of these prompts are clusters of the s"
    ):
        again = sm.confirm(found, games[1], progress=False)
    for result in (again, found.confirmed_by(again)):
        assert "3 of 3 clusters of the prompts that confirm are of the search too" in str(
            result.cautions
        )
    elsewhere = [row | {"cluster": f"another {n}"} for n, row in enumerate(rows[3:])]
    others = sm.load_task(elsewhere, model, tokenizer=tokenizer)
    sm.confirm(found, sm.ModelGame(model, others, "heads"), progress=False)


@pytest.mark.parametrize(
    ("clusters", "told"),
    [((1, None, 1), "row 2 has no cluster"), ((1, True, 1), "row 2: its cluster is True"),
     ((1, 0.5, 1), "row 2: its cluster is 0.5")],
)  # fmt: skip
def test_clusters_that_cannot_be(model: Any, tokenizer: Any, clusters: Any, told: str) -> None:
    rows = [{"prompt": a, "answer": b, "cluster": c}
            for a, b, c in zip(TEXTS, ANSWERS, clusters, strict=True)]  # fmt: skip
    with pytest.raises(ValueError, match=told):
        sm.load_task(rows, model, tokenizer=tokenizer)


@pytest.mark.parametrize(
    "name", ["distractors", "corrupted", "wrong_answers", "incorrect", "clusters"]
)
def test_a_misspelt_name_is_said(model: Any, tokenizer: Any, name: str) -> None:
    rows = [{"prompt": TEXTS[0], "answer": " Rome", name: " cat", "id": 3}] * 2
    with pytest.warns(UserWarning, match=f"'{name}' is not read; beside 'prompt'") as said:
        sm.load_task(rows, model, tokenizer=tokenizer)
    assert len(said) == 1


def test_a_metric_of_ones_own_needs_no_answers(model: Any, tokenizer: Any) -> None:
    def largest(logits: torch.Tensor, prompts: sm.Prompts) -> torch.Tensor:
        return logits[torch.arange(len(logits)), prompts.last].amax(dim=1)

    rows: list[dict[str, str]] = [{"prompt": text} for text in TEXTS]
    task = sm.load_task(rows, model, tokenizer=tokenizer, metric=largest)
    assert task.prompts.answers is None
    game = sm.ModelGame(model, task)
    with torch.no_grad():
        each = [model(torch.tensor([tokenizer(text)["input_ids"]])).logits for text in TEXTS]
    want = [float(logits[0, -1].max()) for logits in each]
    assert game([[1] * len(game)])[0].tolist() == pytest.approx(want, abs=1e-5)
    with pytest.raises(ValueError, match="row 2 has no answer"):
        some = [rows[0] | {"answer": " Rome"}, *rows[1:]]
        sm.load_task(some, model, tokenizer=tokenizer, metric=largest)


def test_few_other_prompts_are_said(demo: Any, found: sm.Interactions) -> None:
    few = sm.load_task("induction", demo, n_prompts=4, seed=1)
    assert "4 prompts are few" in repr(sm.confirm(found, sm.ModelGame(demo, few), k=2))


def test_two_metrics_confirm_nothing(demo: Any, task: sm.Task, found: sm.Interactions) -> None:
    prompts = sm.load_task("induction", demo, 8, seed=1).prompts
    with pytest.warns(UserWarning, match="search and this game measure 'log_prob' and 'loss'"):
        sm.confirm(found, sm.ModelGame(demo, sm.Task(prompts, "loss")), k=1, progress=False)
    sm.confirm(found, sm.ModelGame(demo, sm.Task(prompts, "log_prob")), k=1, progress=False)


def halved(logits: torch.Tensor, prompts: sm.Prompts) -> torch.Tensor:
    return METRICS["log_prob"](logits, prompts) / 2


def doubled(logits: torch.Tensor, prompts: sm.Prompts) -> torch.Tensor:
    return METRICS["log_prob"](logits, prompts) * 2


def called(function: Any, name: str) -> Any:
    """The function as one that has this name."""
    named = FunctionType(function.__code__, function.__globals__, name)
    assert named.__name__ == name
    return named


TWO_METRICS = {
    "own one is called as the built-in": (
        (called(halved, "log_prob"), "log_prob"),
        "a function of your own called 'log_prob' and the built-in 'log_prob'",
    ),
    "built-in and own one of its name": (
        ("log_prob", called(halved, "log_prob")),
        "the built-in 'log_prob' and a function of your own called 'log_prob'",
    ),
    "two of one name": ((halved, called(doubled, "halved")), "two functions called 'halved'"),
    "two of a built-in name": (
        (called(halved, "loss"), called(doubled, "loss")), "two functions called 'loss'",
    ),
    "the same": ((halved, called(halved, "halved")), ""),
    "the built-in itself": (("log_prob", METRICS["log_prob"]), ""),
}  # fmt: skip


@pytest.mark.parametrize("case", TWO_METRICS)
def test_metrics_are_told_by_what_they_are(demo: Any, case: str, tmp_path: Path) -> None:
    """A function called like a built-in metric was taken for it, and one of the same name too."""
    metrics, text = TWO_METRICS[case]
    first, second = (
        sm.ModelGame(demo, sm.Task(sm.load_task("induction", demo, 8, seed=seed).prompts, metric))
        for seed, metric in enumerate(metrics)
    )
    found = sm.discover(first, budget=40, progress=False)
    # What a file of the result keeps is enough.
    found = sm.Interactions.load(found.save(tmp_path / "found.npz"))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        sm.confirm(found, second, k=1, progress=False)
        sm.find_circuit(first, found, held_out=second, budget=40, progress=False)
    told = [str(one.message) for one in said]
    assert ("search and this game measure" in "".join(told)) == bool(text)
    assert sum(text in line for line in told if text) == 2 * bool(text), told


def test_a_word_game_tells_metrics_by_what_they_are() -> None:
    classifier = sm.load_model("sentiment")
    text = sm.text_task(classifier, "The film was not good.", "negative")
    about = [
        sm.TokenGame(classifier, replace(text, metric=metric)).provenance()
        for metric in (halved, called(doubled, "halved"))
    ]
    assert "two functions called 'halved'" in other_metric(*about)


@pytest.mark.parametrize("metric", [lambda logits: logits[:, -1, 0], lambda: 0])
def test_a_metric_that_cannot_be_called_with_two_arguments_is_refused(metric: Any) -> None:
    prompts = sm.Prompts(torch.ones(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"it is called with two arguments: metric\(output, pro"):
        sm.Task(prompts, metric)


READ_BESIDE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda last: last[:, 3].mean(),
    "spread": lambda last: last[:, 3].std(),  # NaN of one row
    "first row": lambda last: last[0, 3],
    "in the order of the prompts": lambda last: torch.arange(8.0)[: len(last)],
}


@pytest.mark.parametrize("beside", READ_BESIDE)
@pytest.mark.filterwarnings("ignore:std..:UserWarning")
def test_a_metric_that_reads_other_rows_is_refused(demo: Any, task: sm.Task, beside: str) -> None:
    """Of the spread, which is NaN of one row, nothing was said, and what came out was of no use."""

    def metric(logits: torch.Tensor, prompts: sm.Prompts) -> torch.Tensor:
        return logits[:, -1, 3] - READ_BESIDE[beside](logits[:, -1])

    with pytest.raises(ValueError, match=r"for a prompt alone .*held\[prompts.index\]"):
        sm.ModelGame(demo, sm.Task(task.prompts, metric))


def test_what_is_held_per_prompt_is_read_by_its_index(demo: Any, task: sm.Task) -> None:
    held = task.prompts.tokens[:, -1]

    def by_index(logits: torch.Tensor, prompts: sm.Prompts) -> torch.Tensor:
        return logits[torch.arange(len(logits)), -1, held.to(logits.device)[prompts.index]]

    def by_tokens(logits: torch.Tensor, prompts: sm.Prompts) -> torch.Tensor:
        return logits[torch.arange(len(logits)), -1, prompts.tokens[:, -1]]

    games = [sm.ModelGame(demo, sm.Task(task.prompts, m)) for m in (by_index, by_tokens)]
    masks = torch.rand(5, len(games[0]), generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(games[0](masks), games[1](masks))


def test_a_metric_of_complex_numbers_is_refused(demo: Any, task: sm.Task) -> None:
    complex_metric = lambda logits, prompts: logits[:, -1, 3] * 1j  # noqa: E731
    with pytest.raises(ValueError, match="returned complex numbers"):
        sm.ModelGame(demo, sm.Task(task.prompts, complex_metric))


def test_a_metric_may_take_more_with_defaults_or_hide_what_it_takes() -> None:
    prompts = sm.Prompts(torch.ones(2, 3, dtype=torch.int64))
    for metric in (lambda output, prompts, scale=1.0: output, lambda *given, **named: given, max):
        assert sm.Task(prompts, metric).metric is metric
