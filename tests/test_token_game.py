"""Tokens of one text as units: maskings against passes made by hand, gradients, planted words."""

import copy
import pickle
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from torch import Tensor, nn

import spex_mech as sm
from spex_mech.models import load_tokenizer
from spex_mech.tasks import text_task
from tests import tiny
from tests.families import _LLAMA_SIZES, D_VOCAB, build

TOKENS = torch.tensor([[1, 7, 23, 9, 40, 12]])


def causal_task(metric: str = "logit_diff") -> sm.Task:
    return sm.Task(sm.Prompts(TOKENS, answers=[5], wrong_answers=[8]), metric)


def classifier() -> Any:
    torch.manual_seed(0)
    model = tf.BertForSequenceClassification(tf.BertConfig(**_LLAMA_SIZES, num_labels=3)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim == 2 else 1)
    return model


def some_masks(n: int) -> Tensor:
    masks = torch.rand(6, n, generator=torch.Generator().manual_seed(1)) > 0.4
    masks[0] = True
    return masks


def by_hand(model: Any, lost: list[int], masking: str) -> Tensor:
    """Logits of one masked text."""
    ids = TOKENS[0].tolist()
    with torch.no_grad():
        if masking == "token":
            return model(torch.tensor([[60 if p in lost else i for p, i in enumerate(ids)]])).logits
        if masking == "delete":
            return model(torch.tensor([[i for p, i in enumerate(ids) if p not in lost]])).logits
        if masking == "attention":
            seen = torch.tensor([[p not in lost for p in range(len(ids))]]).long()
            return model(TOKENS, attention_mask=seen).logits
        table = model.get_input_embeddings().weight
        other = table.mean(0) if masking == "mean" else torch.zeros_like(table[0])
        rows = [other if p in lost else table[i] for p, i in enumerate(ids)]
        return model(inputs_embeds=torch.stack(rows)[None]).logits


@pytest.mark.parametrize("masking", ["token", "attention", "delete", "mean", "zero"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "classifier"])
def test_maskings_are_what_they_say(kind: str, masking: str) -> None:
    model = classifier() if kind == "classifier" else build(kind)
    task = (
        sm.Task(sm.Prompts(TOKENS, answers=[2]), "log_prob")
        if kind == "classifier"
        else causal_task()
    )
    spans = [[1], [2, 3], [4]]  # position 0 and the last are always seen
    game = sm.TokenGame(model, task, spans, masking=masking, mask_id=60, batch_size=4)
    masks = some_masks(3)
    got = game(masks)
    assert got.shape == (6, 1)
    for row, mask in enumerate(masks):
        lost = [p for span, keep in zip(spans, mask, strict=True) if not keep for p in span]
        logits = by_hand(model, lost, masking)
        if kind == "classifier":
            want = logits.log_softmax(-1)[0, 2]
        else:
            want = logits[0, -1, 5] - logits[0, -1, 8]
        torch.testing.assert_close(got[row, 0].float(), want, rtol=1e-4, atol=1e-5)
    assert (got[1:] - got[0]).abs().max() > 1e-3
    assert game.has_slopes == (masking in ("mean", "zero"))


@pytest.mark.parametrize("masking", ["token", "attention", "delete"])
def test_a_continuation_is_scored_wherever_it_goes(masking: str) -> None:
    model = build("gpt2")
    target = torch.zeros(1, 6, dtype=torch.bool)
    target[0, 3:5] = True  # the tokens at 4 and 5
    task = sm.Task(sm.Prompts(TOKENS, target_mask=target), "log_prob")
    game = sm.TokenGame(model, task, [[1], [2]], masking=masking, mask_id=60)
    masks = torch.tensor([[True, True], [True, False], [False, False]])
    for row, mask in enumerate(masks):
        lost = [p for p, keep in zip((1, 2), mask, strict=True) if not keep]
        log_probs = by_hand(model, lost, masking).log_softmax(-1)[0]
        want = (log_probs[-3, TOKENS[0, 4]] + log_probs[-2, TOKENS[0, 5]]) / 2
        torch.testing.assert_close(game(masks)[row, 0].float(), want, rtol=1e-4, atol=1e-5)
    assert sm.TokenGame(model, task, masking="token", mask_id=60).spans == [(0,), (1,), (2,), (3,)]


def test_a_deleted_token_takes_no_scored_one_with_it() -> None:
    """The token before the continuation is gone: its first token follows what is left."""
    model = build("gpt2")
    target = torch.zeros(1, 6, dtype=torch.bool)
    target[0, 3:5] = True
    task = sm.Task(sm.Prompts(TOKENS, target_mask=target), "log_prob")
    game = sm.TokenGame(model, task, [[2], [3]], masking="delete")
    log_probs = by_hand(model, [2, 3], "delete").log_softmax(-1)[0]
    want = (log_probs[1, TOKENS[0, 4]] + log_probs[2, TOKENS[0, 5]]) / 2
    got = game(torch.zeros(1, 2, dtype=torch.bool))[0, 0]
    torch.testing.assert_close(got.float(), want, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"position 4\) nothing to be"):
        sm.TokenGame(model, task, masking="delete")


@pytest.mark.parametrize("target", [None, [3, 4]])
@pytest.mark.parametrize("masking", ["token", "attention", "mean", "zero"])
def test_a_masked_token_is_scored_as_what_it_is(masking: str, target: list[int] | None) -> None:
    """Also where it is in a unit, and where all of the text is scored."""
    model, where = build("gpt2"), torch.ones(1, 6, dtype=torch.bool)
    if target is not None:
        where[0] = torch.tensor([p in target for p in range(6)])
    given = {} if target is None else {"target_mask": where}
    task = sm.Task(sm.Prompts(TOKENS, **given), "log_prob")
    game = sm.TokenGame(model, task, [[2], [4, 5]], masking=masking, mask_id=60)
    for mask in ([True, False], [False, False]):
        lost = [p for span, keep in zip(game.spans, mask, strict=True) if not keep for p in span]
        log_probs = by_hand(model, lost, masking).log_softmax(-1)[0]
        scored = [p + 1 for p in range(5) if where[0, p]]
        want = sum(log_probs[p - 1, TOKENS[0, p]] for p in scored) / len(scored)
        got = game(torch.tensor([mask]))[0, 0]
        torch.testing.assert_close(got.float(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("given", [{}, {"target_mask": torch.tensor([[False] * 4 + [True] * 2])}])
def test_a_scored_token_is_not_deleted(given: dict[str, Tensor]) -> None:
    task = sm.Task(sm.Prompts(TOKENS, **given), "log_prob")
    with pytest.raises(ValueError, match="the scored token at position 5 in a unit"):
        sm.TokenGame(build("gpt2"), task, [[5]], masking="delete")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_bridge_keeps_positions_as_the_model_within_does(family: str) -> None:
    """A bridge works them out from the attention mask, unless they are handed over."""
    task, spans = causal_task(), [[1], [2, 3], [4]]
    masks = some_masks(3)
    want = sm.TokenGame(build(family), task, spans, masking="attention")(masks)
    bridge = sm.TokenGame(build(f"bridge_{family}"), task, spans)
    assert bridge.masking == "attention"
    torch.testing.assert_close(bridge(masks), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("masking", ["token", "mean"])
def test_a_metric_gets_the_whole_output_of_a_classifier(masking: str) -> None:
    task = sm.Task(sm.Prompts(TOKENS), lambda output, _: output.logits[:, 1])
    game = sm.TokenGame(classifier(), task, [[1], [2]], masking=masking, mask_id=60)
    assert game(torch.ones(1, 2, dtype=torch.bool)).shape == (1, 1)


@pytest.mark.parametrize("masking", ["token", "mean"])
def test_a_metric_that_compares_rows_is_refused(masking: str) -> None:
    """Its values would depend on which masks are asked together."""
    model, prompts = classifier(), sm.Prompts(TOKENS)

    def against_the_others(output: Any, prompts: sm.Prompts) -> Tensor:
        right = output.logits[:, 0]
        return right - right.mean()

    with pytest.raises(ValueError, match="against_the_others has another value for a prompt alone"):
        sm.TokenGame(model, sm.Task(prompts, against_the_others), masking=masking, mask_id=3)


@pytest.mark.parametrize("masking", ["mean", "zero"])
def test_gradient_is_the_slope_of_the_gates(masking: str) -> None:
    game = sm.TokenGame(build("gpt2"), causal_task(), masking=masking)
    gates = torch.rand(2, 6, generator=torch.Generator().manual_seed(2)) * 0.8 + 0.1
    _, slopes = game.value_and_gradient(gates)
    torch.testing.assert_close(game.gradient(gates), slopes)
    for unit in range(6):
        up, down = gates.clone(), gates.clone()
        up[:, unit] += 1e-2
        down[:, unit] -= 1e-2
        finite = (game.value_and_gradient(up)[0] - game.value_and_gradient(down)[0])[:, 0] / 2e-2
        torch.testing.assert_close(slopes[:, unit], finite, rtol=2e-2, atol=1e-3)
    ones = torch.ones(1, 6)
    torch.testing.assert_close(game.value_and_gradient(ones)[0], game(ones.bool()))


class Trigger(nn.Module):
    """Class 1 where all of some words are in the text, whatever else is."""

    def __init__(self, words: list[int]) -> None:
        super().__init__()
        self.words = words
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, input_ids: Tensor) -> Tensor:
        there = torch.stack([(input_ids == w).any(dim=1) for w in self.words]).all(dim=0)
        return torch.stack([torch.zeros(len(there)), 3.0 * there], dim=1)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_planted_triggers_are_found_exactly(order: int) -> None:
    generator = torch.Generator().manual_seed(order)
    tokens = torch.randperm(400, generator=generator)[None, :40] + 1
    places = sorted(torch.randperm(40, generator=generator)[:order].tolist())
    model = Trigger([int(tokens[0, p]) for p in places])
    task = sm.Task(sm.Prompts(tokens, answers=[1], wrong_answers=[0]), "logit_diff")
    game = sm.TokenGame(model, task, masking="token", mask_id=0)
    found = sm.discover(game, order=order, budget=800, seed=0, progress=False)
    # With all kept 3, with any of the words gone 0: every subset of the words interacts, by
    # 3 times the alternating sum, and nothing else does.
    want = {s for k in range(2, order + 1) for s in combinations(places, k)}
    strong = {
        tuple(int(u) for u in units if u >= 0): value
        for units, value in zip(found.units, found.mean, strict=True)
        if abs(value) > 1e-6
    }
    assert set(strong) == want
    assert all(abs(value) == pytest.approx(3) for value in strong.values())


class Tokenizer:
    """The little of a tokenizer that a game asks for."""

    mask_token_id, all_special_ids = 60, [1]

    def decode(self, ids: list[int]) -> str:
        return " ".join(f"w{i}" for i in ids)


def test_units_and_masking_from_a_tokenizer() -> None:
    game = sm.TokenGame(build("gpt2"), causal_task(), tokenizer=Tokenizer())
    assert game.labels == ["1:w7", "2:w23", "3:w9", "4:w40", "5:w12"]
    assert game.masking == "token" and game.mask_id == 60
    spans = sm.TokenGame(build("gpt2"), causal_task(), [[1, 2], [4]], tokenizer=Tokenizer())
    assert spans.labels == ["1:w7 w23", "4:w40"]
    assert spans.describe()["lens"] == "tokens"
    assert sm.TokenGame(build("gpt2"), causal_task()).masking == "mean"  # hides every token


def test_recall_on_a_real_search() -> None:
    """All pairs of a longer text, against a search with and without gradients."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, D_VOCAB, (1, 40), generator=generator)
    task = sm.Task(sm.Prompts(tokens, answers=[5], wrong_answers=[8]), "logit_diff")
    game = sm.TokenGame(build("gpt2"), task, masking="mean")
    full = sm.discover(game, method="exhaustive", progress=False)
    best = {tuple(units) for units in full.top(20).units[:, :2].tolist()}
    found = sm.discover(game, budget=400, seed=0, progress=False)
    have = {tuple(units) for units in found.units[:, :2].tolist()}
    assert found.cost["gradients"] > 0
    assert len(best & have) >= 19
    pair = tuple(np.array(full.labels)[full.top(1).units[0, :2]])
    assert found.value(*pair) == pytest.approx(full.value(*pair), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"spans": [[0, 1], [1]]}, "position 1 is in two spans"),
        ({"spans": [[9]]}, "position 9 is no token of the text, which has 6"),
        ({"spans": []}, "no units"),
        ({"spans": [1, 2]}, "spans hold 1, an int where a list belongs; give one list of whole"),
        ({"spans": [[1.5], [2]]}, "spans hold 1.5, a float as a position; it must be a whole"),
        ({"spans": [[-2]]}, "position -2 is no token of the text, which has 6"),
        ({"masking": "token", "mask_id": D_VOCAB}, f"mask_id is {D_VOCAB}; it must be a whole"),
        ({"masking": "token", "mask_id": -1}, "mask_id is -1; it must be a whole number from 0"),
        ({"masking": "token"}, "needs mask_id"),
        ({"masking": "blur"}, "masking='blur'; choose one of token, attention"),
        ({"masking": "delete"}, "leaves nothing to see"),
        ({"spans": [[1], [2]], "labels": ["a", "a"]}, "two units are called 'a'"),
    ],
)
def test_what_cannot_be_is_said(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sm.TokenGame(build("gpt2"), causal_task(), **options)


def test_several_texts_are_refused() -> None:
    task = sm.Task(sm.Prompts(TOKENS[[0, 0]], answers=[5, 5]), "log_prob")
    with pytest.raises(ValueError, match="the task has 2 prompts"):
        sm.TokenGame(build("gpt2"), task)


def sentiment(text: str, answer: str, noise: float = 0.0, **options: Any) -> sm.TokenGame:
    model = sm.load_model("sentiment")
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * parameter.std() * torch.randn_like(parameter))
    tokenizer = load_tokenizer(model)
    return sm.TokenGame(model, text_task(model, text, answer), tokenizer=tokenizer, **options)


@pytest.mark.parametrize(
    ("text", "answer", "pair", "sign"),
    [
        ("The film was not good.", "negative", ("4:not", "5:good"), 1),
        ("The plot was long but the acting was not bad.", "positive", ("9:not", "10:bad"), 1),
        # Each clause says it already: what the two have in common is backed up.
        ("I like the food and the film was great.", "positive", ("2:like", "9:great"), -1),
    ],
)
def test_not_good_is_the_strongest_pair(
    text: str, answer: str, pair: tuple[str, str], sign: int
) -> None:
    game = sentiment(text, answer)
    assert game.masking == "token" and game.labels[0].split(":")[1] == text.split()[0].lower()
    found = sm.discover(game, progress=False)
    strongest = tuple(found.labels[u] for u in found.top(1).units[0, :2])
    assert strongest == pair and sign * found.value(*pair) > 0.3
    # No word alone explains the label: with all but one masked, the class is a guess.
    alone = torch.zeros(len(game) + 1, len(game), dtype=torch.bool)
    alone[range(len(game)), range(len(game))] = True
    values = game(alone)[:-1, 0]
    if sign > 0:
        assert values.max() < np.log(0.75) < np.log(0.95) < found.intact


LONG = (
    "The film was not good and I did not like the story. The room was red but the music was never "
    "dull. I admire the cast and the plot was very charming."
)


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda game: pickle.loads(pickle.dumps(game))], ids=["copied", "sent"]
)
def test_a_game_of_words_can_be_sent_and_copied(again: Any) -> None:
    game = sentiment("The film was not good.", "negative", spans="words", masking="mean")
    game.limit_pass_size(3)
    other = again(game)
    masks = ~torch.eye(len(game), dtype=torch.bool)
    torch.testing.assert_close(other(masks), game(masks))
    assert (other.labels, other.batch_size) == (game.labels, 3) and other.model is not game.model
    with torch.no_grad():  # of the copy alone
        for weight in other.model.parameters():
            weight.zero_()
    assert not torch.allclose(other(masks), game(masks))


def test_few_words_and_a_small_budget() -> None:
    """Four evaluations per word: single ablations say which pairs to try. (Eight masks more before
    that left too little for them, and tests of groups found 4 of 15.)"""
    text = (
        "I did not like the film but the music was never dull. The room was red and I admire the "
        "cast. The plot was very charming and the story was not bad."
    )
    game = sentiment(text, "positive")
    exact = sm.discover(game, method="exhaustive", progress=False)
    best = {tuple(units) for units in exact.top(15).units[:, :2].tolist()}
    n_found = []
    for seed in range(4):
        found = sm.discover(game, budget=4 * len(game), seed=seed, progress=False)
        n_found.append(len(best & {tuple(units) for units in found.units[:, :2].tolist()}))
    assert np.mean(n_found) >= 8


def test_a_student_screens_for_a_large_model() -> None:
    game, student = sentiment(LONG, "positive"), sentiment(LONG, "positive", noise=0.05)
    exact = sm.discover(game, method="exhaustive", progress=False)
    best = {tuple(units) for units in exact.top(15).units[:, :2].tolist()}
    found = sm.discover(game, "proxyspex", budget=110, proxy=student, progress=False)
    have = {tuple(units) for units in found.units[:, :2].tolist()}
    assert len(best & have) >= 14
    for units, value in zip(found.units[:, :2], found.mean, strict=True):
        assert value == pytest.approx(exact.value(*(found.labels[u] for u in units)), abs=1e-5)
    about = found.about
    n = len(game)
    assert about["proxy"] == "student" and about["proxy_r2"] > 0.5
    whole = 1 + n + n * (n - 1) // 2
    again = int(0.03 * whole)  # masks that are asked again
    assert about["proxy_about"]["evaluations_of_student"] == whole + again
    assert found.cost["evaluations"] <= 110 < 0.25 * exact.cost["evaluations"]


def test_a_student_of_other_units_is_refused() -> None:
    game, other = sentiment("It was not good.", "negative"), sentiment("It was bad.", "negative")
    with pytest.raises(ValueError, match=r"differ in '3:not' and '3:bad'"):
        sm.discover(game, "proxyspex", proxy=other, progress=False)


def test_words_and_sentences_as_units() -> None:
    words = sentiment(LONG, "positive", spans="words")
    assert words.labels[:6] == ["1:the", "2:film", "3:was", "4:not", "5:good", "6:and"]
    assert words.labels[11:13] == ["12:story.", "14:the"]
    sentences = sentiment(LONG, "positive", spans="sentences")
    assert [len(span) for span in sentences.spans] == [13, 11, 11]
    assert sentences.labels[1].startswith("14:the room was red but") and len(sentences) == 3
    with pytest.raises(ValueError, match="spans='lines'; choose one of words, sentences"):
        sentiment(LONG, "positive", spans="lines")
    with pytest.raises(ValueError, match="spans='words' needs tokenizer"):
        sm.TokenGame(build("gpt2"), causal_task(), "words")


def test_a_unit_is_called_by_its_own_words_alone() -> None:
    model = sm.load_model("sentiment")
    task = sm.text_task(model, "The film was not good.", "negative")
    game = sm.TokenGame(model, task, [[3, 1], [6, 4, 5], [2]])
    assert game.labels == ["1:the was", "4:not good.", "2:film"]
    assert game.spans == [(1, 3), (4, 5, 6), (2,)]


def test_words_of_a_tokenizer_that_cuts_them(shared_data: Path) -> None:
    model = sm.load_model(shared_data / "stories260k")
    tokenizer = load_tokenizer(model)
    text = "Once upon a time, Lily didn't like vegetables. She ate them! Why? No one"
    task = text_task(model, text, continuation=" knew")
    words = sm.TokenGame(model, task, "words", tokenizer=tokenizer)
    assert [label.split(":")[1] for label in words.labels] == text.split()
    sentences = sm.TokenGame(model, task, "sentences", tokenizer=tokenizer)
    assert [label.split(":", 1)[1] for label in sentences.labels] == [
        "Once upon a time, Lily didn't like vegetables.", "She ate them!", "Why?", "No one"
    ]  # fmt: skip
    used = [p for span in sentences.spans for p in span]
    assert used == list(range(1, used[-1] + 1))  # all but the special first token and the answer


@pytest.mark.parametrize(
    ("method", "budget"),
    [pytest.param("spex", 10_000, marks=pytest.mark.slow), ("proxyspex", 1000)],
)
def test_a_trigger_in_a_thousand_tokens(method: str, budget: int) -> None:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(10, 400, (1, 1000), generator=generator)
    places = [17, 430, 988]
    tokens[0, places] = torch.tensor([3, 4, 5])
    task = sm.Task(sm.Prompts(tokens, answers=[1], wrong_answers=[0]), "logit_diff")
    game = sm.TokenGame(Trigger([3, 4, 5]), task, masking="token", mask_id=0)
    found = sm.discover(game, method, budget=budget, seed=0, progress=False)
    assert found.cost["evaluations"] <= budget
    top = {tuple(units) for units in found.top(3).units[:, :2].tolist()}
    assert top == set(combinations(places, 2))
    assert found.top(3).mean == pytest.approx([3, 3, 3])


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="the text is empty"):
        sentiment("  ", "negative")
    with pytest.raises(ValueError, match="no class 'glad'; this model's are negative, positive"):
        sentiment("good", "glad")


def test_a_student_with_a_store(tmp_path: Path) -> None:
    game, store = sentiment(LONG, "positive"), tmp_path / "run.sqlite"
    options = {"method": "proxyspex", "budget": 110, "progress": False, "store": store}
    students = [sentiment(LONG, "positive", noise=noise) for noise in (0.05, 0.06)]
    one = sm.discover(game, proxy=students[0], **options)
    again = sm.discover(game, proxy=sentiment(LONG, "positive", noise=0.05), **options)
    np.testing.assert_array_equal(one.values, again.values)
    other = sm.discover(game, proxy=students[1], **options)  # a search of its own
    assert other.about["proxy_r2"] != one.about["proxy_r2"] and other.cost["reused"] > 0


def test_a_bridge_that_keeps_notes_of_its_own_in_a_padded_pass() -> None:
    model = build("bridge_native")
    task = sm.Task(sm.Prompts([[3, 4, 5, 6, 7, 8]], answers=[9]), "log_prob")
    game = sm.TokenGame(model, task, [[1], [2], [3]], masking="attention")
    masks = torch.tensor([[True, False, True], [False, False, True]])
    for row, kept in zip(game(masks), masks, strict=True):
        attention = torch.ones(1, 6)
        attention[0, 1:4] = kept.float()
        with torch.no_grad():
            logits = model(
                task.prompts.tokens, attention_mask=attention, position_ids=torch.arange(6)[None]
            )[0, -1]
        assert row.item() == pytest.approx(logits.log_softmax(-1)[9].item(), abs=1e-5)


def test_the_tokenizer_is_found(tmp_path: Path) -> None:
    """Without it, special tokens were units, and all were called by their numbers."""
    model = sm.load_model("sentiment")
    task = text_task(model, "The film was not good.", "negative")
    given = sm.TokenGame(model, task, tokenizer=load_tokenizer(model))
    found = sm.TokenGame(model, task)
    assert found.labels == given.labels == ["1:the", "2:film", "3:was", "4:not", "5:good", "6:."]
    assert (found.masking, found.mask_id) == (given.masking, given.mask_id)
    np.testing.assert_array_equal(found(some_masks(6)), given(some_masks(6)))
    assert sm.TokenGame(model, task, "words").labels[-1] == "5:good."
    ids = sm.Task(task.prompts, "log_prob")  # which says nothing of a tokenizer
    assert sm.TokenGame(model, ids).labels == given.labels


def test_the_tokenizer_of_the_task_comes_first() -> None:
    """Another tokenizer's words would be the names of tokens that they are not."""
    from tests.prompt_files import word_tokenizer

    model = sm.load_model("sentiment")
    task = text_task(model, "he sees a dog", "negative", tokenizer=word_tokenizer())
    assert sm.TokenGame(model, task).labels == ["0:he", "1:sees", "2:a", "3:dog"]


def test_a_tokenizer_that_cannot_be_loaded_is_said() -> None:
    model = build("gpt2")
    assert sm.TokenGame(model, causal_task()).labels[1] == "1:7"  # it knows no name
    model.config._name_or_path = "nobody/has-this-model"
    with pytest.warns(UserWarning, match="has-this-model cannot be loaded.*give tokenizer="):
        game = sm.TokenGame(model, causal_task())
    assert game.labels[1] == "1:7"


@pytest.mark.parametrize(("kind", "whole"), [("fnet", "FNet"), ("convbert", "ConvBert")])
def test_what_reads_a_hidden_token_all_the_same_is_told(kind: str, whole: str) -> None:
    """Fourier transforms know no attention mask, and convolutions read the tokens beside them."""
    model = tiny.build(kind, f"{whole}ForSequenceClassification")
    task = sm.Task(sm.Prompts([[8, 17, 33, 41, 55, 62]], answers=[1]), "log_prob")
    with pytest.warns(UserWarning, match=f"does not hide a token from this {whole}"):
        sm.TokenGame(model, task, [[2], [4]], masking="attention")
    sm.TokenGame(model, task, [[2], [4]], masking="delete")


def test_a_model_that_reads_no_embeddings_is_told_in_words() -> None:
    model = tiny.build("canine", "CanineForSequenceClassification")
    task = sm.Task(sm.Prompts([[8, 17, 33, 41, 55, 62]], answers=[1]), "log_prob")
    with pytest.raises(ValueError, match=r"reads no embeddings in place of tokens .* use 'token'"):
        sm.TokenGame(model, task)


def test_xlnet_reads_texts_of_any_length() -> None:
    model = tiny.build("xlnet", "XLNetLMHeadModel")
    ids = torch.tensor([[8, 17, 33, 41, 55, 62]])
    task = sm.Task(sm.Prompts(ids, answers=[1]), "log_prob")
    game = sm.TokenGame(model, task, [[1], [2]], masking="token", mask_id=90)
    ids[0, 2] = 90
    with torch.no_grad():
        want = model(ids).logits[0, -1].log_softmax(-1)[1]
    got = game(torch.tensor([[True, False]]))[0, 0]
    torch.testing.assert_close(got, want.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("other", "differ"), [({"masking": "mean"}, "'token'.*'mean'"), ({"mask_id": 7}, "3.*7")]
)
def test_another_masking_does_not_confirm(other: dict[str, Any], differ: str) -> None:
    model = sm.load_model("sentiment")
    task = sm.text_task(model, "The film was not good.", "negative")
    game, again = sm.TokenGame(model, task), sm.TokenGame(model, task, **other)
    found = sm.discover(game, progress=False)
    with pytest.warns(UserWarning, match=rf"the search masks by .*{differ}: what holds"):
        sm.confirm(found, again)
    with pytest.warns(UserWarning) as told:
        sm.find_circuit(game, found, held_out=again)
    assert any("held-out game differs from that of the sel" in str(one.message) for one in told)
    held = sm.TokenGame(model, task)
    with pytest.warns(UserWarning) as told:
        sm.find_circuit(game, found, held_out=held)
    assert not any("differs" in str(one.message) for one in told)


class PeftModel(nn.Module):
    """As PEFT wraps a model: its class and its forward say nothing of the one within."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def get_base_model(self) -> nn.Module:
        return self.inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


@pytest.mark.parametrize("whole", ["ForCausalLM", "ForSequenceClassification"])
def test_a_wrapped_model_is_masked_as_the_one_within(whole: str) -> None:
    """OPT counts positions from the attention mask, unless they are handed over."""
    model = tiny.build("opt", f"OPT{whole}")
    task = sm.Task(sm.Prompts([[8, 17, 33, 41, 55, 62]], answers=[1]), "log_prob")
    games = []
    for one in (model, PeftModel(model)):
        with pytest.warns(UserWarning, match="cannot hide the token at position 5"):
            games.append(sm.TokenGame(one, task, masking="attention"))
    masks = some_masks(5)
    assert games[0].labels == games[1].labels
    torch.testing.assert_close(games[1](masks), games[0](masks))


def test_other_weights_do_not_confirm() -> None:
    model = sm.load_model("sentiment")
    task = sm.text_task(model, "The film was not good.", "negative")
    found = sm.discover(sm.TokenGame(model, task), progress=False)
    assert found.about["model"] == "sentiment"
    other = sm.load_model("sentiment")
    game = sm.TokenGame(other, task)
    before = game.provenance()["weights_sha256"]
    assert before == found.about["weights_sha256"]
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    assert game.provenance()["weights_sha256"] != before  # of the same game, changed in place
    with pytest.warns(UserWarning, match="the model of this game has other weights"):
        sm.confirm(found, game)
