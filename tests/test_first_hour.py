"""What went wrong in researchers' first hour, each with others of its kind: the result is right, or
one sentence says what is wrong. (Functions, arguments and labels: ``test_functions``; files:
``test_tasks`` and ``test_files``; claims: ``test_claims`` and ``test_report``; workers and stores:
``test_losses``, ``test_store_file``, ``test_interrupts``.)"""

import csv
import io
import itertools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech import cli
from spex_mech.results.confirmation import Confirmation

ROOT = Path(__file__).parents[1]


def product(*units: int) -> Callable[[Any], Any]:
    """Worth 1 where all of these are kept."""
    return lambda masks: masks[:, list(units)].all(dim=1).double()


def listed(found: sm.Interactions) -> dict[tuple[str, ...], float]:
    return dict(zip(found.names, found.mean.tolist(), strict=True))


@pytest.mark.parametrize(("n", "order"), [(4, 3), (5, 3), (5, 4), (3, 3)])
def test_no_order_is_left_out_of_any_table(n: int, order: int, tmp_path: Path) -> None:
    """Triples vanished from the CSV without a word."""
    found = sm.discover(product(*range(order)), "exhaustive", n=n, order=order, progress=False)
    from spex_mech.report.folder import write_all

    write_all(found, tmp_path)
    rows = [*csv.DictReader(io.StringIO((tmp_path / "interactions.csv").read_text()))]
    units = [f"unit_{letter}" for letter in "abcd"[:order]]
    for table in (rows, found.frame().fillna("").to_dict("records")):
        got = {tuple(row[u] for u in units if row[u] != ""): float(row["value"]) for row in table}
        assert got == pytest.approx(listed(found))
    sets = [s for k in range(2, order + 1) for s in itertools.combinations(map(str, range(n)), k)]
    assert {*listed(found)} == {*sets} and f"{len(sets)} interactions" in repr(found)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("n_units", [4, 6])
def test_the_largest_order_is_the_number_of_units(order: int, n_units: int) -> None:
    """Order 10 of 10 units died of ``cannot convert float NaN to integer``."""
    for method in ("spex", "exhaustive", "proxyspex"):
        found = sm.discover(product(*range(order)), method, n=order, order=order, progress=False)
        assert found.value(*map(str, range(order))) == pytest.approx((-1.0) ** order)
    told = f"interactions of order {n_units + 1} among {n_units}"
    with pytest.raises(ValueError, match=told):
        sm.discover(product(0, 1), n=n_units, order=n_units + 1, progress=False)


def test_order_10_of_10_units() -> None:
    found = sm.discover(product(*range(10)), n=10, order=10, progress=False)
    assert abs(found.top(1).mean[0]) == pytest.approx(1.0)
    whole = sm.discover(product(*range(10)), n=10, order=10, budget=1040, progress=False)
    assert whole.value(*map(str, range(10))) == pytest.approx(1.0) and len(whole) == 1013


@pytest.mark.parametrize("draw", [sm.plot_map])
@pytest.mark.parametrize("backend", ["matplotlib", "plotly"])
@pytest.mark.parametrize("by", ["layers", "bogus", "", "Unit"])
def test_a_misspelt_choice_draws_nothing(draw: Any, backend: str, by: str) -> None:
    """``by="layers"`` drew the map of units."""
    found = sm.discover(product(0, 1), n=3, labels=["L0H0", "L0H1", "L1H0"], progress=False)
    with pytest.raises(ValueError, match=f"by is '{by}'; choose 'unit' or 'layer'"):
        draw(found, by=by, backend=backend)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_sign_of_odd_orders_is_said(order: int) -> None:
    """``to_shapiq`` turned the sign of main effects and triples and did not say so."""
    pytest.importorskip("shapiq", reason="shapiq is not installed")
    found = sm.discover(product(*range(order)), "exhaustive", n=4, order=order, progress=False)
    values = sm.to_shapiq(found)
    for names, value in listed(found).items():
        assert values[tuple(map(int, names))] == pytest.approx((-1) ** len(names) * value)
    for unit, value in enumerate(found.main_effects):
        assert values[(unit,)] == pytest.approx(-value)
    assert "sign" in (sm.to_shapiq.__doc__ or "")


@pytest.mark.parametrize("classes", [(-1, 1), (1, 2), (0.5, 1), (3, 7)])
def test_any_two_classes_are_those_of_0_and_1(classes: tuple[float, float]) -> None:
    """Labels of -1 and 1 gave garbage without a word."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 3)), rng.permutation(np.resize([0, 1], 12))
    named = np.array(classes)[y]
    want = sm.TrainingGame.logistic(x, y, x_test=x[:4], y_test=y[:4])
    game = sm.TrainingGame.logistic(x, named, x_test=x[:4], y_test=named[:4])
    masks = rng.random((5, 12)) < 0.7
    np.testing.assert_allclose(game(masks), want(masks), atol=1e-9)
    with pytest.raises(ValueError, match="which y has not"):
        sm.TrainingGame.logistic(x, named, x_test=x[:2], y_test=[classes[0], 99])
    with pytest.raises(ValueError, match="two classes apart, and y has 3"):
        sm.TrainingGame.logistic(x, [*named[:11], 99], x_test=x[:2], y_test=named[:2])


@pytest.mark.parametrize("rows", [(12, 5, 2, 2), (12, 12, 2, 1), (12, 12, 1, 2), (12, 13, 2, 2)])
def test_shapes_that_do_not_fit_are_not_broadcast(rows: tuple[int, int, int, int]) -> None:
    """Two test points and one target went through."""
    rng = np.random.default_rng(0)
    x, x_test = rng.random((rows[0], 3)), rng.random((rows[2], 3))
    y, y_test = np.resize([0.0, 1.0], rows[1]), np.resize([0.0, 1.0], rows[3])
    for learner in (sm.TrainingGame.ridge, sm.TrainingGame.logistic):
        with pytest.raises(ValueError, match=r"y(_test)? has|rows|examples|targets"):
            learner(x, y, x_test=x_test, y_test=y_test)


class Other:
    """Another game, of units of its own."""

    def __init__(self, labels: list[str]) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        return masks.double().prod(dim=1)


@pytest.mark.parametrize("labels", [["0", "7", "8"], ["0"], ["x", "1"], ["00", "1", "2"]])
def test_a_game_that_lacks_a_unit_confirms_nothing(labels: list[str]) -> None:
    found = sm.discover(product(0, 1), n=3, progress=False)
    with pytest.raises(ValueError, match=r"unknown unit '[01]'; this game's units are \["):
        sm.confirm(found, Other(labels), k=1, progress=False)


def causal(text: str, answer: str, **options: Any) -> sm.TokenGame:
    from tests.prompt_files import word_tokenizer

    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tokenizer = word_tokenizer()
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=16, vocab_size=len(tokenizer), n_positions=24,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config).eval()
    task = sm.text_task(model, text, answer, tokenizer=tokenizer)
    return sm.TokenGame(model, task, tokenizer=tokenizer, **options)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("he lives in the city of", " Rome"),
        ("she sees a", " dog"),
        ("a dog of Paris", " sees"),
        ("the cat lives in New", " York"),
    ],
)
def test_a_text_of_a_causal_model_needs_no_option(text: str, answer: str) -> None:
    """A model without a mask token refused the very first call."""
    game = causal(text, answer)
    found = sm.discover(game, "exhaustive", progress=False)
    assert len(game) >= len(text.split()) - 1 and np.isfinite(found.mean).all()
    assert all(word in "".join(game.labels) for word in text.split()[1:])


@pytest.mark.parametrize(
    "words",
    [
        ["discover", "--order", "2.5"], ["discover", "--budget", "x"], ["discover", "--seed", "a"],
        ["discover", "--budget", "0"], ["discover", "--order", "1"], ["discover", "--store", ""],
        ["discover", "--method", "spx"], ["discover", "--task", "inducton"],
        ["discover", "--lens", "data", "--examples", "nosuch.npz"], ["report", "nosuch.npz"],
        ["discover", "--units", "L9H9"], ["discover", "--workers", "0"], ["store", "nosuch.db"],
        ["sweep", "nosuch.toml"], ["sweep", "."], ["sweep", "/proc/nothing/x.toml"],
        ["sweep", "--models", "demo", "--task", "x"], ["sweep", "--models", ""],
        ["report", "."], ["report", "/proc/self/mem"], ["report", "n" * 300],
        ["store", "."], ["store", "/proc/self/mem"], ["store", "n" * 300], ["status", "n" * 300],
        ["discover", "--out", "n" * 300], ["discover", "--out", "/proc/nothing"],
        ["discover", "--store", "/proc/nothing/x"], ["discover", "--store", "."],
        ["discover", "--store", "/proc/self/mem"], ["discover", "--model", "n" * 300],
        ["discover", "--model", ""], ["discover", "--model", "/proc/self/mem"],
        ["discover", "--lens", "data", "--examples", "."], ["demo", "--out", "/proc/nothing"],
        ["discover", "--n-prompts", "-1"], ["status", "nosuch"], ["sweep", "--methods", "spx"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_command_line_says_it_in_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(words)
    except SystemExit as stop:  # of the parser
        code = stop.code
    lines = capsys.readouterr().err.splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("spex-mech"), (code, lines)
    assert "Errno" not in lines[0]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def tokenised(texts: list[str], **fields: Any) -> tuple[torch.nn.Module, sm.Prompts]:
    """A small causal model, and prompts of unequal length in words, padded by its tokenizer."""
    from tests.families import D_VOCAB, build

    rows = [[3 + (7 * k + 5 * len(word)) % (D_VOCAB - 3) for k, word in enumerate(text.split())]
            for text in texts]  # fmt: skip
    width = max(map(len, rows))
    tokens = [row + [0] * (width - len(row)) for row in rows]
    mask = [[True] * len(row) + [False] * (width - len(row)) for row in rows]
    return build("llama"), sm.Prompts(tokens, mask, **fields)


TEXTS = ["one two three", "one two three four five six", "six five four three two", "a bb"]


def warnings_of(call: Callable[[], Any]) -> list[str]:
    import warnings

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call()
    return [str(one.message) for one in said]


def last(logits: Any, prompts: sm.Prompts) -> Any:
    return logits[range(len(logits)), prompts.last, 5]


READ_AT = {
    "the last position": (lambda z, p: z[:, -1, 5], True),
    "all positions": (lambda z, p: z.mean(dim=(1, 2)), True),
    "any position": (lambda z, p: z.logsumexp(-1).amax(1), True),
    "prompts.last": (last, False),
    "real ones": (lambda z, p: (z.logsumexp(-1) * p.attention_mask).sum(1), False),
    "the first": (lambda z, p: z[:, 0, 3], False),
}


@pytest.mark.parametrize("name", READ_AT)
def test_a_metric_that_reads_padding_is_told(name: str) -> None:
    """``logits[:, -1]`` of prompts of unequal length gave numbers of padding without a word."""
    metric, reads = READ_AT[name]
    model, prompts = tokenised(TEXTS)
    said = warnings_of(lambda: sm.ModelGame(model, sm.Task(prompts, metric)))
    assert any("reads the output at padding" in text for text in said) == reads, said
    equal = prompts[[1, 1]]
    said = warnings_of(lambda: sm.ModelGame(model, sm.Task(equal, metric)))
    assert not any("padding" in text for text in said), said


def test_looking_for_padding_leaves_the_output_as_it_was() -> None:
    """Of a model that holds what it gave; and one whose output cannot be changed is let be."""
    model, prompts = tokenised(TEXTS)
    given: list[torch.Tensor] = []
    handle = model.register_forward_hook(lambda _, inputs, output: given.append(output.logits))
    with pytest.warns(UserWarning, match="reads the output at padding"):
        sm.ModelGame(model, sm.Task(prompts, lambda z, p: z[:, -1, 5]), "L1H0")
    handle.remove()
    with torch.no_grad():
        fresh = model(prompts.tokens, attention_mask=prompts.real.long()).logits
    alone = [one for one in given if len(one) == 1 and one.shape[1] == fresh.shape[1]]
    intact = 0
    for one in alone:
        off = (fresh - one).abs().amax(-1)
        if (off.where(prompts.real, 0.0).amax(1) < 1e-5).any():  # others ablate units
            assert off.amax(1).min() < 1e-5
            intact += 1
    assert intact >= 3
    forward = model.forward
    model.forward = torch.inference_mode()(forward)
    warnings_of(lambda: sm.ModelGame(model, sm.Task(prompts, last)))


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_that_no_mask_marks_is_told(side: str) -> None:
    """Padding on the left, with no mask, was read as text."""
    model, prompts = tokenised(TEXTS)
    rows = [row[real].tolist() for row, real in zip(prompts.tokens, prompts.real, strict=True)]
    width = prompts.tokens.shape[1]
    fill = [[0] * (width - len(row)) for row in rows]
    both = zip(rows, fill, strict=True)
    padded = [pad + row if side == "left" else row + pad for row, pad in both]
    word = {"left": "begin with", "right": "end in"}[side]
    task = sm.Task(sm.Prompts(padded, answers=[4] * 4), "log_prob")
    with pytest.warns(UserWarning, match=f"3 prompts {word} the model's padding token 0"):
        sm.ModelGame(model, task)
    asked = sm.Task(prompts.replaced(answers=torch.full((4, 1), 4)), "log_prob")
    said = {"left": "as a part of the text", "right": "and counts in the mean"}[side]
    with pytest.warns(UserWarning, match=f"3 reference prompts {word} the .* it is read,? {said}"):
        sm.ModelGame(model, asked, reference=sm.Prompts(padded))
    assert not warnings_of(lambda: sm.ModelGame(model, asked, reference=prompts))
    # A begin token that is the padding token stands once in all of them, and is none.
    begun = sm.Task(sm.Prompts([[0, *row[:2]] for row in rows], answers=[4] * 4), "log_prob")
    assert not [text for text in warnings_of(lambda: sm.ModelGame(model, begun)) if "padd" in text]


def test_a_folder_that_lacks_weights_is_told(tmp_path: Path) -> None:
    """transformers fills them with random numbers, and says so in a log alone."""
    from safetensors.torch import load_file, save_file

    from tests.families import build

    build("gpt2").save_pretrained(tmp_path)
    assert not warnings_of(lambda: sm.load_model(tmp_path))
    file, lacks = tmp_path / "model.safetensors", "transformer.h.1.attn.c_proj.weight"
    held = load_file(file)
    del held[lacks]
    save_file(held, file, metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=f"lacks 1 of the weights of a GPT2LMHeadModel .{lacks}"):
        sm.load_model(tmp_path)


def test_weights_that_the_config_has_no_place_for_are_told(tmp_path: Path) -> None:
    """A model of fewer layers was loaded, and measured, without a word."""
    from tests.families import build

    build("gpt2").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layer": 1}))
    said = r"holds 11 weights that a GPT2LMHeadModel .* has not .*transformer.h.1.attn.c_proj.bias"
    with pytest.warns(UserWarning, match=said):
        sm.load_model(tmp_path)


@pytest.mark.parametrize("bridge", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_by_an_end_token_is_told(side: str, bridge: bool) -> None:
    """GPT-2 has no padding token, and people pad with its end token: the answer was read there."""
    model = sm.load_model("demo", bridge=bridge)
    assert model.config.pad_token_id is None
    end = model.config.eos_token_id = 5
    rows = [[2, 3, 4, 6], [3, 6, 7, 2], [4, 2]]
    for padding, wanted in (([end, end], True), ([9, end], False)):
        row = padding + rows[2] if side == "left" else rows[2] + padding
        task = sm.Task(sm.Prompts([*rows[:2], row], answers=[4] * 3), "log_prob")
        said = [text for text in warnings_of(partial(sm.ModelGame, model, task)) if "token" in text]
        word = {"left": "begin with", "right": "end in"}[side]
        assert len(said) == wanted
        assert all(f"1 prompts {word} the model's end token 5" in text for text in said)


def halves() -> tuple[Any, sm.Prompts]:
    model = sm.load_model("demo")
    return model, sm.load_task("induction", model, 24).prompts


@pytest.mark.parametrize(
    "ablation",
    ["mean", *(pytest.param(x, marks=pytest.mark.slow) for x in ("zero", "mean_per_position"))],
)
def test_prompts_of_the_search_among_others_confirm_nothing(ablation: str, tmp_path: Path) -> None:
    """With the mean over other prompts the same prompt has other values, and passed as another."""
    model, prompts = halves()
    first, second = (
        sm.ModelGame(model, sm.Task(part.replaced(index=torch.arange(len(part))), "log_prob"),
                     ablation=ablation)
        for part in (prompts[:16], prompts[12:])
    )  # fmt: skip
    found = sm.discover(first, progress=False)
    found = sm.Interactions.load(found.save(tmp_path / "found.npz"))
    with pytest.warns(UserWarning, match="4 of 12 prompts are those of the search"):
        again = sm.confirm(found, second, progress=False)
    assert again.n_shared == 4 and repr(again).startswith("Nothing is confirmed")
    other = sm.ModelGame(model, sm.load_task("induction", model, 12, seed=1), ablation=ablation)
    assert sm.confirm(found, other, progress=False).n_shared == 0


def test_only_what_was_found_is_confirmed(tmp_path: Path) -> None:
    """Of the demo's 20 strongest, 14 are zeros, which were measured again and listed."""
    model = sm.load_model("demo")
    game, other = (
        sm.ModelGame(model, sm.load_task("induction", model, 16, seed=seed)) for seed in (0, 1)
    )
    found = sm.discover(game, progress=False)
    n_found = int((~found.is_noise).sum())
    assert n_found < 20 < len(found)
    again = sm.confirm(found, other, progress=False)
    assert again.names == found.top(n_found).names and again.n_left_out == 20 - n_found
    assert f"{20 - n_found} of the 20 strongest are under the noise floor" in repr(again)
    read = sm.load(again.save(tmp_path / "again.npz"))
    assert repr(read) == repr(again) and read.holds.tolist() == again.holds.tolist()
    assert read.frame().equals(again.frame()) and found.confirmed_by(read).frame().equals(
        found.confirmed_by(again).frame()
    )
    held = (tmp_path / "again.npz").read_bytes()
    at = held.index(b"searched.npy") + 200  # within what the search had said
    (tmp_path / "cut.npz").write_bytes(held[:at] + bytes(40) + held[at + 40 :])
    with pytest.raises(ValueError, match="or a damaged one"):
        sm.load(tmp_path / "cut.npz")
    plain = sm.Interactions.load(tmp_path / "again.npz")
    assert not isinstance(plain, Confirmation) and plain.names == again.names
    assert "noise floor" not in repr(again.top(2))
    few = sm.confirm(found, other, 2, progress=False)
    assert len(few) == 2 and not few.n_left_out and "noise floor" not in repr(few)
    noise = sm.measure(game, [("L0H0", "L0H1"), ("L0H0", "L0H2")], progress=False)
    assert noise.is_noise.all()
    with pytest.raises(ValueError, match="nothing to confirm: every value is at or under"):
        sm.confirm(noise, other, progress=False)
    with pytest.raises(ValueError, match="nothing to confirm: the result holds no interaction"):
        sm.confirm(found.take([]), other, progress=False)


def drawn(seed: int) -> Any:
    """Pairs of which a search over many is not sure, and few are measured again."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((32, 16))
    from spex_mech.game import as_game

    def value(masks: Any) -> Any:
        kept = masks.numpy().astype(float)
        pairs = kept[:, :4] * kept[:, 4:8]
        return pairs.sum(axis=1)[:, None] + pairs @ noise[:4]

    return as_game(value, 8)


def test_what_holds_says_whether_the_search_was_sure_of_it() -> None:
    """All of twenty held, the report confirmed none of them, and neither said why."""
    from dataclasses import replace

    found = sm.discover(drawn(0), "exhaustive", progress=False)
    unsure = replace(found, chosen_from={2: 10**9})
    assert not unsure.is_significant.any()
    assert "q counts all 1,000,000,000 there were to choose from" in repr(unsure)
    assert "there were to choose from" not in repr(replace(found, chosen_from={}))
    again = sm.confirm(unsure, drawn(1), 4, progress=False)
    held = int(again.holds.sum())
    assert held and f"{held} of 4 hold" in repr(again)
    assert "none was significant in the search as well, so that none is confirmed" in repr(again)
    assert repr(again).count("holds, but was not significant in the search") == held
    assert (unsure.confirmed_by(again).confirmed == 1).sum() == 0
    sure = sm.confirm(found, drawn(1), 4, progress=False)
    rows = sure.holds & sure.searched.is_significant
    assert (found.confirmed_by(sure).confirmed == 1).sum() == rows.sum() > 0
    assert repr(sure).count("holds, but") == int((sure.holds & ~rows).sum())
    # The table is in the order of what is printed, and says what is confirmed.
    for one, want in ((again, again.holds & False), (sure, rows)):
        table = one.frame()
        pairs = list(zip(table.unit_a, table.unit_b, strict=True))
        assert [tuple(sorted(names)) for names in one.names] == pairs
        assert table.confirmed.tolist() == want.astype(int).tolist()
        assert table.holds.tolist() == one.holds.tolist()
        np.testing.assert_allclose(table.value, one.mean)


def test_a_confirmation_does_not_send_to_confirm() -> None:
    rng = np.random.default_rng(0)
    skewed = [rng.lognormal(0, 2, (1, 24)) for _ in range(2)]
    from spex_mech.game import as_game

    def game(effect: Any) -> Any:
        return as_game(lambda m: m[:, :2].all(dim=1).numpy()[:, None] * effect, 3)

    found = sm.discover(game(skewed[0]), "exhaustive", progress=False)
    again = sm.confirm(found, game(skewed[1]), 1, progress=False)
    assert "again in confirm()" in repr(found) and "skewed" in repr(again)
    assert "confirm()" not in repr(again)
    assert "trust what was significant in the search as well" in repr(again)


def test_equal_prompts_are_said_to_count_once() -> None:
    """One line said that they count as one, another that each counts, and a third named a test
    that was not made."""
    model, prompts = tokenised(TEXTS * 2 + [" ".join([*t.split()[::-1], "x"]) for t in TEXTS] * 2)
    metric = lambda z, p: z[range(len(z)), p.last, 5]  # noqa: E731
    with pytest.warns(UserWarning, match="count those that read the same as one"):
        game = sm.ModelGame(model, sm.Task(prompts, metric), "heads")
    found = sm.discover(game, "exhaustive", progress=False)
    once = prompts[sorted(set(prompts.same_as.tolist()))]
    once = once.replaced(index=torch.arange(len(once)))
    alone = sm.discover(sm.ModelGame(model, sm.Task(once, metric), "heads"), "exhaustive",
                        progress=False)  # fmt: skip
    np.testing.assert_allclose(found.q_value, alone.q_value, rtol=1e-3, atol=1e-6)
    assert "sign tests" not in repr(found)


ROWS = [("the cat sees a", " dog", " cat"), ("he lives in the city of", " Rome", " Paris")]


def test_a_held_out_file_may_have_any_name(tmp_path: Path) -> None:
    """Other prompts from another file were said not to be those of the selection."""
    from spex_mech.circuits.held_out import measured_on

    one, other = ({"task": name, "metric": "log_prob"} for name in ("prompts", "other_prompts"))
    values = np.random.default_rng(0).random((3, 4)), np.random.default_rng(1).random((3, 4))
    said = warnings_of(lambda: measured_on(object(), object(), (one, other), values))
    assert not said
    named = {"task": "text", "metric": "log_prob"}, {"task": "induction", "metric": "log_prob"}
    said = warnings_of(lambda: measured_on(object(), object(), named, values))
    assert len(said) == 1 and "differs from that of the selection in task" in said[0]


def test_a_prompt_may_be_a_string_alone() -> None:
    from tests.prompt_files import word_tokenizer

    tokenizer, metric = word_tokenizer(), last
    texts = [text for text, *_ in ROWS]
    given = {"tokenizer": tokenizer, "metric": metric}
    task = sm.load_task(texts, None, **given)
    same = sm.load_task([{"prompt": text} for text in texts], None, **given)
    assert torch.equal(task.prompts.tokens, same.prompts.tokens) and task.prompts.answers is None
    with pytest.raises(ValueError, match="row 1: it is a prompt alone"):
        sm.load_task(texts, None, tokenizer=tokenizer)


def test_two_spaces_are_told() -> None:
    """A prompt that ends in a space, and an answer that begins with one, read as two spaces."""

    class Letters:
        """A tokenizer of single characters, to which two spaces are two tokens."""

        bos_token_id = eos_token_id = unk_token_id = None

        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [ord(letter) for letter in text]}

        def decode(self, ids: list[int], **_: Any) -> str:
            return "".join(map(chr, ids))

        def __len__(self) -> int:
            return 128

    row = {"answer": " b"}
    for prompt, told in (("it is ", True), ("it is", False), ("it is a", False)):
        said = warnings_of(
            lambda p=prompt: sm.load_task([{"prompt": p, **row}], None, tokenizer=Letters())
        )
        assert any("ends in a space and the answer" in text for text in said) == told, said


def test_a_comparison_of_two_metrics_counts_no_differences() -> None:
    model = sm.load_model("demo")
    found = [
        sm.discover(sm.ModelGame(model, sm.load_task("induction", model, 16, metric=metric)),
                    progress=False)
        for metric in ("log_prob", "loss")
    ]  # fmt: skip
    with pytest.warns(UserWarning, match="of two metrics") as told:
        compared = sm.compare(*found)
    assert told[0].filename == __file__
    assert "differ (q" not in repr(compared) and "their differences mean nothing" in repr(compared)
    assert not compared.differs.any() and np.isnan(compared.q_value).all()
    assert "differ (q <= 0.05)" in repr(sm.compare(found[0], found[0]))


@pytest.mark.parametrize(
    "method",
    ["spex", *(pytest.param(x, marks=pytest.mark.slow) for x in ("exhaustive", "proxyspex"))],
)
def test_a_method_may_be_named_behind_a_model_and_a_task(method: str) -> None:
    """``discover(model, task, method=...)`` died of "got multiple values for argument 'method'"."""
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, 8)
    given: dict[str, Any] = {"budget": 60, "progress": False}
    want = sm.discover(sm.ModelGame(model, task), method, **given)
    for found in (
        sm.discover(model, task, method=method, **given),
        sm.discover(model, task=task, method=method, **given),
        sm.discover(model, method, task=task, **given),
        sm.discover(sm.ModelGame(model, task), method=method, **given),
    ):
        assert found.about["method"] == method
        np.testing.assert_array_equal(found.values, want.values)
    for twice in (lambda: sm.discover(model, task, task=task), lambda: sm.discover(
        sm.ModelGame(model, task), method, method="spex"
    )):  # fmt: skip
        with pytest.raises(ValueError, match=r"two (task|method)s are given, one behind the game"):
            twice()
