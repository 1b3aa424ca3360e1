"""An answer that the tokenizer does not know, and an asked token that masking would take away."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, models, pre_tokenizers

import spex_mech as sm
from spex_mech.engine.tokens import answer_id, is_one_token
from tests.test_text_heads import bert, gpt2, t5, wordpiece


def whole_words(unknown: str = "<unk>") -> Any:
    words = {w: i for i, w in enumerate([unknown, "<s>", *"the cat dog sat on".split()])}
    made = Tokenizer(models.WordLevel(words, unk_token=unknown))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, unk_token=unknown, bos_token="<s>")


HEADS: dict[str, tuple[Any, Any, str]] = {
    "causal": (gpt2, whole_words, "the cat sat on the"),
    "encoder-decoder": (t5, whole_words, "the cat sat"),
    "masked": (lambda: bert(tf.BertForMaskedLM), wordpiece, "the film was [MASK] ."),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("answer", [" zebra", " \u65e5\u672c", " \U0001f642"])
def test_an_answer_outside_of_the_vocabulary_is_refused(head: str, answer: str) -> None:
    make, tokenizer, text = HEADS[head]
    given = {"tokenizer": tokenizer()}
    if head == "masked":
        answer = answer.strip()
    with pytest.raises(ValueError, match=rf"{answer!r} is outside of .*vocabulary.*token's id"):
        sm.text_task(make(), text, answer, **given)


@pytest.mark.parametrize("head", ["causal", "encoder-decoder"])
@pytest.mark.parametrize("answer", [" dog zebra", " zebra dog", " dog zebra dog"])
def test_so_is_one_of_which_a_part_is(head: str, answer: str) -> None:
    make, tokenizer, text = HEADS[head]
    for how in ("answer", "continuation"):
        with pytest.raises(ValueError, match=r"reads 1 of its [23] tokens as <unk>"):
            sm.text_task(make(), text, **{how: answer}, tokenizer=tokenizer())


def answer_of(task: Any) -> int:
    return int(task.prompts.answers)


def test_who_writes_the_unknown_token_means_it() -> None:
    tokenizer = whole_words()
    tasks = [
        sm.text_task(gpt2(), "the cat zebra on", answer, tokenizer=tokenizer)
        for answer in (" <unk>", 0, np.int64(0))
    ]
    assert [answer_of(task) for task in tasks] == [0, 0, 0]
    assert "unk" in tasks[0].score
    known = sm.text_task(gpt2(), "the zebra sat on the", " dog", tokenizer=tokenizer)
    assert answer_of(known) == 4 and known.prompts.tokens[0, 1] == 0


def test_tasks_of_several_prompts_refuse_it_too() -> None:
    tokenizer = whole_words()
    assert answer_id(tokenizer, "the cat", " dog") == 4
    with pytest.raises(ValueError, match="' zebra' is outside"):
        answer_id(tokenizer, "the cat", " zebra")
    assert is_one_token(tokenizer, "the cat", " dog")
    assert not is_one_token(tokenizer, "the cat", " zebra")


TEXT = "bad film good actor"


def tagged(at: Any = "good") -> tuple[Any, Any, Any]:
    model, tokenizer = bert(tf.BertForTokenClassification, num_labels=3), wordpiece()
    return model, tokenizer, sm.text_task(model, TEXT, 1, at=at, tokenizer=tokenizer)


@pytest.mark.parametrize("at", ["bad", "good", "film", 2])
@pytest.mark.parametrize("spans", [None, "words"])
def test_the_token_that_is_asked_for_is_not_deleted(at: Any, spans: str | None) -> None:
    model, tokenizer, task = tagged(at)
    place = int(task.prompts.last)
    with pytest.warns(UserWarning, match=f"cannot delete the token at position {place}, .*'zero'"):
        game = sm.TokenGame(model, task, spans, masking="delete", tokenizer=tokenizer)
    ids = task.prompts.tokens[0]
    assert place not in {p for span in game.spans for p in span}
    assert len(game) < len(sm.TokenGame(model, task, masking="zero", tokenizer=tokenizer))
    masks = np.array(list(product([True, False], repeat=len(game))))
    for mask, value in zip(masks, game(masks)[:, 0], strict=True):
        lost = {p for span, kept in zip(game.spans, mask, strict=True) if not kept for p in span}
        kept = [p for p in range(len(ids)) if p not in lost]
        with torch.no_grad():
            logits = model(ids[kept][None]).logits[0, kept.index(place)]
        assert float(value) == pytest.approx(float(logits.log_softmax(-1)[1]), abs=1e-5)


def test_spans_of_ones_own_that_delete_it_are_refused() -> None:
    model, tokenizer, task = tagged()
    place = int(task.prompts.last)
    for spans in ([[place], [1]], [[1], [place - 1, place]], [[place]]):
        with pytest.raises(ValueError, match=f"position {place} in a unit: the answer is read"):
            sm.TokenGame(model, task, spans, masking="delete", tokenizer=tokenizer)
    assert len(sm.TokenGame(model, task, [[1], [2]], masking="delete", tokenizer=tokenizer)) == 2


def test_prompts_that_name_a_position_keep_it_in_causal_models() -> None:
    """Wherever it is: deleted, there is nothing to read."""
    model = gpt2()
    for at in (1, 2, 4):
        task = sm.Task(sm.Prompts([[5, 6, 7, 8, 9]], answers=[3], answer_pos=[at]), "log_prob")
        with pytest.warns(UserWarning, match=f"at position {at},"):
            game = sm.TokenGame(model, task, masking="delete")
        found = game(~np.eye(4, dtype=bool))
        assert torch.isfinite(found).all() and len(game) == 4
    free = sm.Task(sm.Prompts([[5, 6, 7, 8, 9]], answers=[3]), "log_prob")
    assert len(sm.TokenGame(model, free, [[1], [2], [3], [4]], masking="delete")) == 4


def test_a_mask_token_is_in_no_unit_and_nothing_is_said() -> None:
    model, tokenizer = bert(tf.BertForMaskedLM), wordpiece()
    task = sm.text_task(model, "the film was [MASK] .", "good", tokenizer=tokenizer)
    game = sm.TokenGame(model, task, masking="delete", tokenizer=tokenizer)
    assert int(task.prompts.last) not in {p for span in game.spans for p in span}


@pytest.mark.parametrize(
    "text", [None, 3.5, b"the cat", {"the": 1}, {1, 2}, ["the cat", "the dog"], [[2, 3]], []]
)
def test_what_is_no_text_is_refused(text: Any) -> None:
    """None and a number ended in an error of Python's, and a list of texts in one about answers."""
    with pytest.raises(ValueError, match=r"text is .*; give a text, chat messages, or a list of t"):
        sm.text_task(gpt2(), text, 2, tokenizer=whole_words())
    encoded = whole_words()("the cat")
    with pytest.raises(ValueError, match=r"text is .*a BatchEncoding; give a text"):
        sm.text_task(gpt2(), encoded, 2, tokenizer=whole_words())


@pytest.mark.parametrize("head", HEADS)
def test_half_a_character_and_a_negative_token_are_refused(head: str) -> None:
    make, tokenizer, text = HEADS[head]
    for given in ((f"{text} \ud800", "cat"), (text, "\ud800")):
        with pytest.raises(ValueError, match="holds half a character"):
            sm.text_task(make(), *given, tokenizer=tokenizer())
    with pytest.raises(ValueError, match="the answer is -1; a token's number is not negative"):
        sm.text_task(make(), text, -1, tokenizer=tokenizer())


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_one_hot_labels_are_told(kind: Any) -> None:
    """They were read as sets of classes, the same in every row: the score was that of all."""
    model, texts = sm.load_model("sentiment"), ["a good film .", "a bad film ."]
    encoded = sm.load_tokenizer(model)(texts, padding=True, return_tensors="pt")

    def game(labels: Any) -> sm.ModelGame:
        return sm.ModelGame(model, sm.Task(sm.Prompts(encoded, answers=labels), "log_prob"))

    with pytest.warns(UserWarning, match="hold 0 and 1 alone, and both in 2 of 2 rows: .*argmax"):
        of_both = game(kind([[0, 1], [1, 0]]))
    assert np.allclose(of_both(np.ones((1, len(of_both)), bool)), 0, atol=1e-6)
    right = game(kind([1, 0]))
    assert (right(np.ones((1, len(right)), bool)) < -1e-5).all()
