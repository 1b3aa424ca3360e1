"""Wrong arguments, tried without the tests' own type checks, as a user would: prints one JSON line
per case, with what came of it. ``python -m tests.wrong FOLDER``."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from spex_mech.game import Answer, as_game
from spex_mech.runs.contents import contents
from spex_mech.sweep import cells_from_toml, cells_of, sweep
from spex_mech.units import Units


def pair(masks: Any) -> Any:
    """One pair, +3."""
    kept = np.asarray(masks, dtype=np.float64)
    return 3 * (1 - kept[:, 0]) * (1 - kept[:, 1]) + kept.sum(1)


def search(function: Callable[[Any], Any] = pair, **options: Any) -> Any:
    given = {"n": 4, "method": "exhaustive", "progress": False} | options
    return sm.discover(function, **given)


def of_learners() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """The same of the settings of learners."""
    data = (np.eye(3), [0, 1, 1], np.eye(3), [0, 1, 1])
    module = torch.nn.Linear(3, 2)
    train = partial(sm.TrainingGame.network, module, *data)
    for value in (0, -1, 2.5, "3", None):
        text = f"steps is {value!r}"
        yield f"logistic, {text}", text, lambda v=value: sm.TrainingGame.logistic(*data, steps=v)
        yield f"network, {text}", text, lambda v=value: train(steps=v)
    for value in ("no", 1, None):
        text = f"intercept is {value!r}"
        yield f"ridge, {text}", text, lambda v=value: sm.TrainingGame.ridge(*data, intercept=v)
        yield (
            f"logistic, {text}", text, lambda v=value: sm.TrainingGame.logistic(*data, intercept=v),
        )  # fmt: skip
    for name in ("learning_rate", "decay"):
        yield f"{name}=-1", f"{name} is -1", lambda n=name: train(**{n: -1})


def arguments(folder: Path) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """What is wrong, what its error must hold, and the call."""
    found = search()
    for name, value in {
        "order": 2.5, "budget": "x", "seed": "a", "n": "4", "vectorized": "no",
    }.items():  # fmt: skip
        yield f"{name}={value!r}", f"{name} is {value!r}", lambda n=name, v=value: search(**{n: v})
    for name, value in {"order": True, "seed": -1, "budget": 0, "n": 4.0, "method": 3}.items():
        yield f"{name}={value!r}", f"{name} is {value!r}", lambda n=name, v=value: search(**{n: v})
    for name, value in {"timeout": "1", "masks_per_batch": 2.5, "workers": "2"}.items():
        yield f"{name}={value!r}", f"{name} is {value!r}", lambda n=name, v=value: search(**{n: v})
    for name, value in {"top": "x", "audit": 2, "gradients": "no", "masks": 1}.items():
        yield (
            f"{name}={value!r}", f"{name} is {value!r}",
            lambda n=name, v=value: search(method="proxyspex", **{n: v}),
        )  # fmt: skip
    for value in ("x", -1, 2.5, None):
        yield f"top({value!r})", f"k is {value!r}", lambda v=value: found.top(v)
    for value in ("", " ", True, b"a", ":memory:", "sqlite:///a.db", "s3://a/b", 3, folder):
        yield f"store={value!r}", "store", lambda v=value: search(store=v)
        yield f"save({value!r})", "path", lambda v=value: found.save(v)
    for value, text in (
        (3, "model is 3"), (None, "model is None"), ("", "model is ''"),
    ):  # fmt: skip
        yield f"factory of {value!r}", text, lambda v=value: sm.GameFactory(v)
    for name in ("task", "units", "ablation", "precision", "file", "seed", "n_prompts"):
        text = f"{name} is {{}}, a dict"
        yield f"factory, {text}", text, lambda n=name: sm.GameFactory("demo", **{n: {}})
    cells = cells_of({"models": ["demo"]}, n_prompts=2)
    for value in (["demo"], "demo", 3, None):
        text = "give a list of Cell, as cells_of makes it"
        yield f"cells={value!r}", text, lambda v=value: sweep(v, folder / "sweep")
    text = "resume is 'no', a str; it must be True or False"
    yield "resume", text, lambda: sweep(cells, folder / "sweep", resume="no")  # type: ignore[arg-type]
    os.mkfifo(folder / "pipe")
    for name, call in {
        "save": found.save, "write_report": lambda path: sm.write_report(found, path),
        "plot_text": lambda path: sm.plot_text(found).save(path),
        "load": sm.Interactions.load, "circuit": sm.Circuit.load, "mib": sm.Circuit.from_mib,
        "store": lambda path: search(store=path), "contents": contents,
    }.items():  # fmt: skip
        too_long = {"store": "give one of at most 238", "contents": "no such store"}
        for path, text in (
            (folder, "is a folder; give a file in it"),
            (folder / "pipe", "is a device or a pipe; give the path of a file"),
            (folder / ("n" * 300), too_long.get(name, "File name too long")),
            ("/proc/nothing/x", "/proc/nothing/x"),
        ):  # fmt: skip
            yield f"{name} {path}", text, lambda c=call, p=path: c(p)
    yield "address", "which is an address", lambda: sm.load_model("https://a/b")
    yield "~ of nobody", "no such home folder", lambda: search(store="~nobody-here/x")
    yield "distill budget", "budget is 'x'", lambda: sm.distill(pair, "x", n=4)
    yield "confirm k", "k is 'x'", lambda: sm.confirm(found, pair, k="x")
    varied = sm.discover(lambda m: pair(m)[:, None] * np.arange(1.0, 5), n=4, progress=False)
    for value in (-1, 0, 2.5, "x", None, True):
        for name, draw in {
            "plot_network": sm.plot_network, "plot_text": sm.plot_text,
            "plot_examples": lambda found, k: sm.plot_examples(found, k=k),
            "stability": sm.stability, "compare": lambda found, k: sm.compare(found, found, k),
        }.items():  # fmt: skip
            yield f"{name}({value!r})", "k is ", lambda d=draw, v=value: d(varied, v)
    yield "most", "most is 2.5", lambda: sm.plot_map(found, most=2.5)
    yield "level", "level", lambda: varied.intervals("x")
    yield "workers=0", "workers is 0", lambda: search(workers=0)
    yield "load", "there is no file", lambda: sm.Interactions.load(folder / "nosuch.npz")
    yield "sets", "sets is 'ab'", lambda: sm.measure(pair, "ab", n=4)
    yield "a set", "unknown unit 9", lambda: sm.measure(pair, [(0, 9)], n=4)
    for value in ([True, False], [True, True, False, False]):
        text = "unknown unit True"
        yield f"a mask {value}", text, lambda v=value: sm.measure(pair, [v], n=4)
    yield "confirmed_by", "again is an Interactions", lambda: found.confirmed_by(found)
    for power in (200, -200):
        rng = np.random.default_rng(0)
        masks = rng.random((60, 4)) < 0.5
        text = "it must be from 1e-150 to 1e+150"
        yield f"10^{power}", text, lambda m=masks, p=power: sm.explain(m, pair(m) * 10.0**p)
    for name, value in {"progress": "no", "address": 3}.items():
        yield f"{name}={value!r}", f"{name} is {value!r}", lambda n=name, v=value: search(**{n: v})
    yield "a set of sets", "unknown unit", lambda: sm.measure(pair, [([0], 1)], n=4)


class Own(sm.Game):
    """A game by its type, that answers what it is told to."""

    def __init__(self, answer: Callable[[Any], Any], units: Any = None, per_batch: Any = 7) -> None:
        self.answer, self.own = answer, Units.of_labels("abcd") if units is None else units
        self.per_batch = per_batch

    units = property(lambda self: self.own)
    masks_per_batch = property(lambda self: self.per_batch)

    def evaluate(self, masks: Any, slopes: bool = False, tick: Any = None) -> Any:
        return self.answer(masks.kept()[:, :2].all(axis=1)[:, None].astype(float))


class Alike:
    """A game but for its type."""

    labels = "abcd"

    def __init__(self, **own: Any) -> None:
        self.__dict__.update(own)

    def __len__(self) -> int:
        return 4

    def __call__(self, masks: Any) -> Any:
        return pair(masks)


def games(folder: Path) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Of one's own: what they answer and declare."""
    for name, answer, text in (
        ("None", lambda v: None, "Own answered None; it must be an Answer"),
        ("an array", lambda v: v, "; it must be an Answer"),
        ("a list", lambda v: Answer(v.tolist()), "numpy arrays of real numbers"),
        ("a tensor", lambda v: Answer(torch.from_numpy(v)), "a Tensor of shape [1, 1]"),
        ("objects", lambda v: Answer(v.astype(object)), "an ndarray of shape [1, 1] (object)"),
        ("complex", lambda v: Answer(v * 1j), "an ndarray of shape [1, 1] (complex128)"),
        ("words", lambda v: Answer(v.astype(str)), "an ndarray of shape [1, 1] (<U32)"),
        ("no prompts", lambda v: Answer(v[:, :0]), "values of shape [1, 0]"),
        ("one row", lambda v: Answer(v[:1]), "values of shape [1, 1] for 4 masks"),
    ):
        yield f"answer, {name}", text, lambda a=answer: search(Own(a), n=None)
    good = lambda v: Answer(v)  # noqa: E731
    for value in (0, -3, 2.5, "x", True):
        text = f"masks_per_batch is {value!r}"
        yield text, text, lambda v=value: search(Own(good, None, v), n=None)
        yield f"alike, {text}", text, lambda v=value: search(Alike(masks_per_batch=v), n=None)
    for value in (["a", "b"], "ab", 3):
        text = f"the units of Own are {value!r}"
        yield text, text, lambda v=value: search(Own(good, v), n=None)
    for value in ("x", -1, float("nan"), float("inf"), [1]):
        text = f"noise_floor of the game is {value!r}"
        yield text, text, lambda v=value: search(Alike(noise_floor=v), n=None)
    for name in ("describe", "identity"):
        yield (
            name, f"{name}() of Alike returned 3",
            lambda n=name: search(Alike(**{n: lambda: 3}), n=None, store=folder / f"{n}.sqlite"),
        )  # fmt: skip


def models() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Of a model's game."""
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, n_prompts=2)
    heads = sm.Components.heads(model)

    def game(task: Any = task, components: Any = heads, **options: Any) -> Any:
        return sm.ModelGame(model, task, components, **options)

    for value, text in (
        ("hedas", "unknown units 'hedas'; give one of heads"), ([1, 2], "components is [1, 2]"),
        ({}, "components is {}"), (["L0H3", "L9H0"], "unknown component L9H0"),
        ([], "components is []"), ([heads[:2].group("g")[0]], "a list with a group in it"),
    ):  # fmt: skip
        yield f"components={value!r}", text, lambda v=value: game(components=v)
    rows = [{"prompt": "a", "answer": " b", "distractor": " c"}]
    for value in (3, "gpt2", ["a"]):
        yield (
            f"tokenizer={value!r}", f"tokenizer is {value!r}",
            lambda v=value: sm.load_task(rows, model, tokenizer=v),
        )  # fmt: skip
    for name, value in (("seq_len", "8"), ("seq_len", 2.5), ("seq_len", True)):
        text = f"{name} is {value!r}"
        yield text, text, lambda n=name, v=value: sm.load_task("induction", model, **{n: v})
    for value in (["the cat"], "ioi", None):
        yield f"task={value!r}", "task is", lambda v=value: game(v)
        yield f"prompts={value!r}", "prompts is", lambda v=value: sm.Task(v, "log_prob")
    for value in (3, None, ["logit_diff"]):
        yield f"metric={value!r}", "metric is", lambda v=value: sm.Task(task.prompts, v)
    for name in ("logits", "nosuch", "loss"):
        metric = lambda output, prompts, n=name: getattr(output, n)  # noqa: E731
        yield (
            f"metric of .{name}", f"asks for output.{name}, and output is a tensor of shape [",
            lambda m=metric: search(game(sm.Task(task.prompts, m)), n=None),
        )  # fmt: skip
    unanswered = sm.Prompts(task.prompts.tokens)
    for name, metric in (
        ("subscript", lambda logits, prompts: logits[:, -1].gather(1, prompts.answers[:, None])),
        ("index", lambda logits, prompts: logits[range(len(logits)), -1, prompts.answers]),
        ("attribute", lambda logits, prompts: (logits[:, -1].amax(1) == prompts.answers).float()),
    ):
        yield (
            f"metric of answers, {name}", "reads prompts.answers, which these prompts have not (",
            lambda m=metric: search(game(sm.Task(unanswered, m)), n=None),
        )  # fmt: skip
    token = sm.Task(task.prompts[:1], "log_prob")
    for value in ("8", 2.5, True, 0, [4]):
        text = f"batch_size is {value!r}"
        yield f"batch_size={value!r}", text, lambda v=value: game(batch_size=v)
        given = {"masking": "zero", "batch_size": value}
        yield f"tokens, {text}", text, lambda g=given: sm.TokenGame(model, token, **g)
        yield f"training, {text}", text, lambda v=value: sm.TrainingGame(pair, 4, batch_size=v)
        yield (
            f"features, {text}", text,
            lambda v=value: sm.frozen_features(model, task.prompts, batch_size=v),
        )  # fmt: skip
    for value, text in (
        (None, "ablation is None"), (0, "ablation is 0, an int"),
        (["mean"], "ablation is ['mean']"),
        (torch.zeros(3, 3), "ablation is tensor([[0., 0., 0.], [0., 0., 0."),
        ("meen", "unknown ablation 'meen'"),
    ):  # fmt: skip
        yield f"ablation={value!r}", text, lambda v=value: game(ablation=v)
    for value in (task.prompts.tokens, [[1, 2]], "mean", task):
        yield f"reference={value!r}", "reference is ", lambda v=value: game(reference=v)
    with torch.device("meta"):
        empty = torch.nn.Sequential(torch.nn.Linear(2, 2))
    yield "meta", "on the device meta", lambda: sm.ModelGame(empty, task)
    yield "tokens of meta", "on the device meta", lambda: sm.TokenGame(empty, token)
    for value in (2.5, True, "[MASK]"):
        text, given = f"mask_id is {value!r}, a ", {"masking": "token", "mask_id": value}
        yield text, text, lambda g=given: sm.TokenGame(model, token, **g)
    for value in (0, 2.5, "8", True):
        text = f"n_examples is {value!r}"
        yield text, text, lambda v=value: sm.TrainingGame(pair, v)
        text = f"n_clusters is {value!r}"
        yield text, text, lambda v=value: sm.example_groups(np.eye(3), v)
    yield "failed='-1'", "failed is '-1'", lambda: sm.TrainingGame(pair, 4, failed="-1")
    yield from of_learners()
    yield from prompts(task.prompts.tokens)
    for name, value in {"replay": "yes", "compile": 1}.items():
        yield f"{name}={value!r}", f"{name} is {value!r}", lambda n=name, v=value: game(**{n: v})
    found = search()
    yield "confirm a result", "is a game on other prompts", lambda: sm.confirm(found, found)
    yield "heads[99]", "there are 8, numbered from 0", lambda: heads[99]
    yield "to_shapiq", "got function", lambda: sm.to_shapiq(pair)  # pyright: ignore
    small = sm.distill(pair, 20, n=4, progress=False)
    yield "to_shapiq, kind", "unknown kind 'fourier'", lambda: sm.to_shapiq(small, "fourier")
    for value in (3, {}, np.zeros(3), None, [1], found):
        yield f"from_shapiq({value!r})", "from_shapiq takes", lambda v=value: sm.from_shapiq(v)


def prompts(tokens: Any) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Of ``Prompts``, two of them."""
    for name in ("answers", "wrong_answers", "answer_pos", "clusters", "index"):
        for value in (5, 2.5, ["a", "b"], [1.5, 2.5], [None, 1], torch.tensor([1.5, 2.0])):
            yield (
                f"{name}={value!r}", f"{name} ",
                lambda n=name, v=value: sm.Prompts(tokens, **{n: v}),
            )  # fmt: skip
    for name in ("tokens", "corrupted"):
        for value in (5, [5, 6], [[1.5, 2.0]], [[None, 1]], {1, 2}):
            given = {"tokens": tokens} | {name: value}
            yield f"{name}={value!r}", f"{name} ", lambda g=given: sm.Prompts(**g)
    for name in ("attention_mask", "target_mask"):
        for value in ("yes", [["a"]], object()):
            yield (
                f"{name}={value!r}", f"{name} is ",
                lambda n=name, v=value: sm.Prompts(tokens, **{n: v}),
            )  # fmt: skip
        # What is added to scores, numbers of packed texts, weights, labels.
        for value in (-1e9, 2, 0.5, float("nan"), -100):
            text, full = f"{name} holds {value}; it must be", torch.full(tokens.shape, value)
            yield text, text, lambda n=name, v=full: sm.Prompts(tokens, **{n: v})
    for value in (tokens.to_sparse(), tokens.to("meta")):
        text = "tensor; give one that holds a number for each prompt and position"
        yield f"tokens of {value.layout} {value.device}", text, lambda v=value: sm.Prompts(v)


def circuits() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Of the verbs about circuits."""
    game = as_game(pair, 4)
    found = search(game, n=None)

    def find(**options: Any) -> Any:
        return sm.find_circuit(game, found, progress=False, **options)

    for name, value in {
        "size": 2.5, "faithfulness": "0.9", "budget": "x", "scores_budget": None, "seed": 1.5,
        "aim": 3, "timeout": "1", "masks_per_batch": 2.5,
    }.items():  # fmt: skip
        yield f"{name}={value!r}", f"{name} is {value!r}", lambda n=name, v=value: find(**{n: v})
    yield "faithfulness=True", "faithfulness is True", lambda: find(faithfulness=True)
    yield "sizes", "a size is 'a'", lambda: sm.faithfulness_curve(game, found, sizes=["a"])
    for verb in (sm.find_circuit, sm.faithfulness_curve):
        for value in (None, "found.npz", [(0, 1)]):
            yield (
                f"{verb.__name__} of {value!r}", "give the Interactions that discover returned",
                lambda f=verb, v=value: f(game, v, progress=False),
            )  # fmt: skip
    small = sm.distill(pair, 20, n=4, progress=False)
    for verb in (
        sm.plot_map, sm.plot_layers, sm.plot_neurons, sm.plot_network, sm.plot_text,
        sm.plot_examples, sm.stability, lambda f: sm.write_report(f, "report.html"),
    ):  # fmt: skip
        for value in (sm.score_circuit(game, ["0"], progress=False), small, None, "found.npz"):
            yield (
                f"{verb.__name__} of {type(value).__name__}", "give the Interactions that discover",
                lambda f=verb, v=value: f(v),
            )  # fmt: skip
    yield "plot_circuit of a result", "give a Circuit", lambda: sm.plot_circuit(found)
    for value in (-1, 2.5, "x"):
        one = sm.score_circuit(game, ["0"], progress=False)
        text = f"most is {value!r}"
        yield text, text, lambda c=one, v=value: sm.plot_circuit(c, most=v)
    for value in ([1, 2], None, {"a": 3}, found):
        yield f"plot_curve({value!r})", "give a FaithfulnessCurve", lambda v=value: sm.plot_curve(v)
    yield "plot_attention", "give a ModelGame", lambda: sm.plot_attention(game, ("0", "1"))
    for value in ("2", 2.5, True, 0):
        text = f"order is {value!r}"
        yield text, text, lambda v=value: found.top(3, order=v)
    yield "texts", "texts is 'abcd'", lambda: sm.plot_examples(found, "abcd")
    for value in (np.zeros((4, 3)), np.zeros((4, 3, 8, 8)), np.full((4, 2, 2), "x")):
        yield (
            f"images {value.shape}", "an image has shape",
            lambda v=value: sm.plot_examples(found, images=v),
        )  # fmt: skip
    yield "tokens", "tokens is 'a b'", lambda: found.to_neuronpedia("a b")
    yield "score nothing", "has no unit", lambda: sm.score_circuit(game, [], progress=False)
    yield "score None", "circuit is None", lambda: sm.score_circuit(game, None, progress=False)
    yield "score 3", "circuit is 3", lambda: sm.score_circuit(game, 3, progress=False)


def labels() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    for value, text in (
        (["a", "a", "b", "c"], "two units are called 'a'"),
        (["a", "", "b", "c"], "label of unit 1 is ''"),
        (["a", "b", " ", "c"], "label of unit 2 is ' '"),
        (["a", "b"], "2 labels for 4 units"),
        (["a", "b\nc", "d", "e"], r"unit 1 is 'b\nc', which holds a line break"),
        (["a", "b", "c", "d\udc80"], "label of unit 3"),
        (["a", None, "b", "c"], "label of unit 1 is None"),
        (["a", 1.5, "b", "c"], "label of unit 1 is 1.5"),
        (7, "labels is 7"),
        (b"abcd", "labels is b'abcd'"),
        ({"a", "b", "c", "d"}, "labels is {"),
        (dict.fromkeys("abcd", 1), "labels is {"),
    ):
        yield repr(value), text, lambda v=value: search(labels=v)
        if isinstance(value, list):
            game = type("Own", (), {"labels": value, "__len__": lambda self: 4})
            game.__call__ = lambda self, masks: pair(masks)  # type: ignore[method-assign]
            yield f"game of {value!r}", text, lambda g=game: search(g(), n=None)


def answers() -> Iterator[tuple[str, str, Callable[[], Any]]]:
    for name, function, text in (
        ("dict", lambda m: {"score": 1.0}, "returned {'score': 1.0}, a dict"),
        ("None", lambda m: None, "returned None"),
        ("generator", lambda m: (v for v in pair(m)), "a generator"),
        ("ragged", lambda m: [[1.0], [1.0, 2.0], [3.0]][: len(m)], "returned"),
        ("strings", lambda m: ["a"] * len(m), "returned ['a'"),
        ("complex", lambda m: 1j * pair(m), "(complex128)"),
        ("complex tensor", lambda m: torch.from_numpy(pair(m)) * 1j, "(torch.complex128)"),
        ("objects", lambda m: np.array([object()] * len(m)), "(object)"),
        ("meta", lambda m: torch.zeros(len(m), device="meta"), "torch.float32"),
        ("set", lambda m: {1.0, 2.0}, "a set"),
        ("dates", lambda m: np.array(["2020-01-01"] * len(m), dtype="M8[D]"), "datetime64"),
        ("a huge integer", lambda m: [10**400] * len(m), "returned"),
        ("a module", lambda m: np, "a module"),
        ("nan", lambda m: pair(m) * np.nan, "value is nan with nothing ablated"),
        ("too large", lambda m: pair(m) * 1e200, "1e+150"),
        ("too small", lambda m: pair(m) * 1e-200, "1e-150"),
        ("iterator's end", lambda m: next(iter([])), "the game raised StopIteration"),
        ("nested", lambda m: torch.nested.nested_tensor([torch.ones(2)]), "returned nested_tensor"),
        ("three axes", lambda m: np.zeros((len(m), 2, 2)), "returned shape"),
        ("no prompts", lambda m: np.zeros((len(m), 0)), "returned shape"),
        ("mixes masks", lambda m: pair(m) - pair(m).mean(), "depends on the masks"),
        ("both", lambda m: np.asarray(m)[..., 0] * np.ndim(m), "takes both many masks and one"),
    ):
        yield name, text, lambda f=function: search(f)


def sweeps(folder: Path) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Values of a sweep's file."""
    for text, said in (
        ("models = 3", "models is 3, an int; it must be a list of texts"),
        ("models = [3]", "one of models is 3, an int; it must be a text such as 'demo'"),
        ("models = {a = 1}", "models is {'a': 1}, a dict; it must be a list of texts"),
        ("[[models]]\na = 1", "one of models is {'a': 1}, a dict"),
        ('models = [""]', "one of models is '', a str; it must be a text such as 'demo'"),
        ("units = 3", "units is 3, an int; it must be a list of texts"),
        ("methods = [['spex']]", "one of methods is ['spex'], a list"),
        ("file = 3", "file is 3, an int; it must be a text such as 'passages.txt'"),
        ('bridge = "no"', "bridge is 'no', a str; it must be True or False"),
        ("bridge = 1", "bridge is 1, an int; it must be True or False"),
        ("budget = true", "budget is True, a bool; it must be a whole number of at least 1"),
        ("budget = 1e3", "budget is 1000.0, a float; it must be a whole number of at least 1"),
        ("seed = -1", "seed is -1; it must be a whole number of at least 0"),
        ("seed = 2020-01-01", "seed is datetime.date(2020, 1, 1), a date"),
        ('n_prompts = "4"', "n_prompts is '4', a str"),
        ("order = 1", "order is 1; it must be a whole number of at least 2"),
        ("batch_size = [1]", "batch_size is [1], a list"),
        ("precision = 3", "precision is 3, an int; it must be a text such as 'float32'"),
        ("[seed]\na = 1", "seed is {'a': 1}, a dict"),
    ):
        file = folder / "sweep.toml"

        def read(text: str = text, file: Path = file) -> Any:
            file.write_text(text if "models" in text else f'models = "demo"\n{text}')
            return cells_from_toml(file)

        yield text, f"{file}: {said}", read


class Late:
    """Two values per mask from some mask on, and one before."""

    def __init__(self, many: bool, after: int) -> None:
        self.many, self.after, self.asked = many, after, 0

    def __call__(self, masks: Any) -> Any:
        self.asked += len(masks) if self.many else 1
        values = pair(masks if self.many else masks[None])
        return values if self.asked < self.after else np.stack([values, values], axis=-1)


def later(folder: Path) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Functions that are right at first."""
    verbs = {
        "exhaustive": lambda f, n: search(f, n=n),
        "spex": lambda f, n: search(f, n=n, method="spex", masks_per_batch=20),
        "store": lambda f, n: search(f, n=n, store=folder / f"{f.many}{f.after}.sqlite"),
        "distill": lambda f, n: sm.distill(f, 200, n=n, progress=False, masks_per_batch=20),
        "circuit": lambda f, n: sm.find_circuit(as_game(f, n), search(n=n), progress=False),
    }  # fmt: skip
    for many, after, text in (
        (True, 45, "per mask was 1 before, and is 2 with "),
        (True, 90, "per mask was 1 before, and is 2 with "),
        (False, 45, "must return as many"), (False, 90, "must return as many"),
    ):  # fmt: skip
        for name, verb in verbs.items():
            yield f"{name}, {many} {after}", text, lambda v=verb, m=many, a=after: v(Late(m, a), 14)


def main(folder: Path) -> None:
    for kind, cases in (
        ("argument", arguments(folder)), ("label", labels()), ("answer", answers()),
        ("later", later(folder)), ("sweep", sweeps(folder)), ("game", games(folder)),
        ("model", models()), ("circuit", circuits()),
    ):  # fmt: skip
        for name, text, call in cases:
            try:
                came, own = f"no error: {call()!r}"[:200], False
            except Exception as error:
                came = str(error)
                last = traceback.extract_tb(error.__traceback__)[-1].filename
                known = isinstance(
                    error, ValueError | OSError | TypeError | IndexError | RuntimeError
                )
                known = known and "Errno" not in came
                own = known and ("spex_mech" in last or "contextlib" in last)
            print(json.dumps({"kind": kind, "case": name, "text": text, "came": came, "own": own}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
