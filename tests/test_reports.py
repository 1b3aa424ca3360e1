"""Kinds of trouble that people report of tools like this one (shap, lime, captum, inseq, trak,
shapiq), each on a small input, against a loop by hand."""

import copy
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from torch import nn

import spex_mech as sm
from tests.test_text_heads import bert, byte_level, check_deletion, gpt2, wordpiece


def classifier(**config: Any) -> Any:
    return bert(tf.BertForSequenceClassification, num_labels=2, **config)


def masked_score(model: Any, ids: torch.Tensor, hidden: list[int], mask_id: int) -> float:
    ids = ids.clone()
    ids[0, hidden] = mask_id
    with torch.no_grad():
        return float(model(ids).logits.log_softmax(-1)[0, 1])


def test_a_word_that_comes_twice_is_two_units() -> None:
    """Of lime: a bag of words hides all copies of a word at once."""
    model, tokenizer, text = classifier(), wordpiece(), "not good and not bad"
    task = sm.text_task(model, text, 1, tokenizer=tokenizer)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    game = sm.TokenGame(model, task, tokenizer=tokenizer)
    found = sm.discover(game, "exhaustive", progress=False)
    assert len(set(found.labels)) == len(game) == 5
    whole = masked_score(model, ids, [], tokenizer.mask_token_id)
    for unit, (place,) in enumerate(game.spans):
        want = masked_score(model, ids, [place], tokenizer.mask_token_id) - whole
        assert found.main_effects[unit] == pytest.approx(want, abs=1e-4)
    first, _, _, second, _ = found.main_effects
    assert abs(first - second) > 1e-3


def test_a_model_that_was_left_in_training_is_not_explained_through_its_dropout() -> None:
    """Of shap and captum: other values at each call."""
    model, tokenizer, text = classifier(), wordpiece(), "The film was not good."
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    want = masked_score(model, ids, [], tokenizer.mask_token_id)
    model.train()
    task = sm.text_task(model, text, 1, tokenizer=tokenizer)
    try:
        game = sm.TokenGame(model, task, tokenizer=tokenizer)
        kept = torch.ones(2, len(game), dtype=torch.bool)
        values = game(kept)
    except ValueError as error:
        assert "eval()" in str(error)  # refused, with the cure
        return
    assert values.flatten().tolist() == pytest.approx([want, want], abs=1e-5)


def test_texts_of_a_batch_do_not_see_each_others_padding() -> None:
    """Of captum: attributions that change with the batch size, as padding is attended to."""
    tokenizer = byte_level()
    model = gpt2(tf.GPT2ForSequenceClassification, len(tokenizer), num_labels=2, pad_token_id=0)
    task = sm.text_task(model, "The capital of France is Paris", 1, tokenizer=tokenizer)
    game = sm.TokenGame(model, task, tokenizer=tokenizer, masking="delete")
    n = len(game)
    masks = torch.rand(9, n, generator=torch.Generator().manual_seed(1)) > 0.5
    masks[:, 0] = True
    together, alone = game(masks), torch.cat([game(mask[None]) for mask in masks])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    check_deletion(model, game, task, masks, together)


def test_a_target_of_several_tokens_is_the_sum_over_all_of_them() -> None:
    """Of inseq: the score of a word is that of its first token."""
    tokenizer = byte_level()
    model = gpt2(n_vocab=len(tokenizer))
    text, after = "The film was", " zq"
    task = sm.text_task(model, text, continuation=after, reduce="sum", tokenizer=tokenizer)
    before = tokenizer(text)["input_ids"]
    target = tokenizer(after, add_special_tokens=False)["input_ids"]
    assert len(target) > 1
    with torch.no_grad():
        log_probs = model(torch.tensor([before + target])).logits[0].log_softmax(-1)
    each = [float(log_probs[len(before) - 1 + i, token]) for i, token in enumerate(target)]
    game = sm.TokenGame(model, task, tokenizer=tokenizer)
    intact = float(game(torch.ones(1, len(game), dtype=torch.bool))[0, 0])
    assert intact == pytest.approx(sum(each), abs=1e-4) and abs(intact - each[0]) > 0.1


def test_names_of_classes_in_another_order_than_their_numbers() -> None:
    """Of shap's text explainers: the column of a class is taken for that of another."""
    names = {0: "positive", 1: "negative"}
    model = classifier(id2label=names, label2id={name: i for i, name in names.items()})
    tokenizer, text = wordpiece(), "The film was good."
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        log_probs = model(ids).logits.log_softmax(-1)[0]
    for number, name in names.items():
        task = sm.text_task(model, text, name, tokenizer=tokenizer)
        game = sm.TokenGame(model, task, tokenizer=tokenizer)
        intact = float(game(torch.ones(1, len(game), dtype=torch.bool))[0, 0])
        assert intact == pytest.approx(float(log_probs[number]), abs=1e-5)
        assert task.score == f"log-probability of class {name}"


def test_training_on_nothing_has_the_value_of_an_untrained_model() -> None:
    """Of datamodels and trak: empty subsets give NaN, or are left out without a word."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=8)
    none = np.zeros((1, 8), dtype=bool)
    np.testing.assert_allclose(
        sm.TrainingGame.ridge(x, y, x[:2], y[:2], 0.5)(none)[0], -(y[:2] ** 2), rtol=1e-9
    )
    labels = (y > 0).astype(int)
    values = sm.TrainingGame.logistic(x, labels, x[:2], labels[:2], 0.5)(none)[0]
    np.testing.assert_allclose(values, np.log(0.5), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64])
def test_the_type_of_the_features_does_not_change_what_is_trained(dtype: Any) -> None:
    """Of trak: scores of features in half precision are those of other features."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(-9, 9, size=(10, 3)).astype(dtype), rng.normal(size=10)
    game = sm.TrainingGame.ridge(x, y, x[:3], y[:3], 0.5)
    masks = rng.random((20, 10)) < 0.6
    for mask, values in zip(masks, game(masks), strict=True):
        rows = x[mask].astype(float)
        beta = np.linalg.solve(rows.T @ rows + 0.5 * np.eye(3), rows.T @ y[mask])
        want = -((x[:3].astype(float) @ beta - y[:3]) ** 2)
        np.testing.assert_allclose(values, want, rtol=1e-8, atol=1e-10)


def test_layers_that_see_the_whole_batch_do_not_see_examples_that_are_left_out() -> None:
    """Of trak and captum: batch norm mixes in what is not trained on. Here it is as in evaluation,
    as is dropout."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(10, 3)), rng.normal(size=10)
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 1)
    )
    module(torch.randn(50, 3))  # so that its means and variances are some
    game = sm.TrainingGame.network(module, x, y, x[:2], y[:2], steps=5, learning_rate=0.05)
    masks = rng.random((6, 10)) < 0.6
    points, wanted = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    for mask, values in zip(masks, game(masks), strict=True):
        alone = copy.deepcopy(module).eval()
        steps = torch.optim.AdamW(alone.parameters(), lr=0.05, weight_decay=0.0)
        for _ in range(5):
            steps.zero_grad()
            ((alone(points[mask])[:, 0] - wanted[mask]) ** 2).mean().backward()
            steps.step()
        want = -((alone(points[:2])[:, 0] - wanted[:2]) ** 2).double()
        torch.testing.assert_close(values, want, rtol=1e-4, atol=1e-5)


def test_a_constant_changes_no_index_and_the_order_of_units_only_their_places() -> None:
    """Of shapiq: values that depend on the empty coalition, or on the order of the players."""
    table, order = np.random.default_rng(3).normal(size=2**5), [3, 0, 4, 1, 2]
    place = 2 ** np.arange(5)

    def function(masks: Any) -> Any:
        return table[masks @ place]

    def raised(masks: Any) -> Any:
        return 1000 + function(masks)

    def turned(masks: Any) -> Any:
        return function(masks[:, np.argsort(order)])

    masks = np.array([[u >> i & 1 for i in range(5)] for u in range(32)], dtype=bool)
    plain, up, moved = (
        sm.explain(masks, f(masks)) for f in (function, raised, turned)
    )  # all masks: exact
    for kind in ("shapley", "banzhaf", "mobius", "intact"):
        one, two, three = (found.indices(kind, 2) for found in (plain, up, moved))
        for pair in combinations(range(5), 2):
            assert two[pair] == pytest.approx(one[pair], abs=1e-9)
            at = tuple(sorted(order.index(u) for u in pair))
            assert three[at] == pytest.approx(one[tuple(sorted(pair))], abs=1e-9)
    found = sm.discover(
        lambda m: torch.from_numpy(raised(m.numpy())), "exhaustive", n=5, progress=False
    )
    for a, b in combinations(range(5), 2):
        kept = np.ones((4, 5), dtype=bool)
        kept[1, a] = kept[2, b] = kept[3, a] = kept[3, b] = False
        v = function(kept)
        assert found.value(str(a), str(b)) == pytest.approx(v[3] - v[1] - v[2] + v[0], abs=1e-9)


def test_a_unit_that_does_nothing_has_exactly_nothing() -> None:
    """Of lime and kernel shap: regressions give a feature that is never read some weight."""
    found = sm.discover(lambda m: m[:, 0].double() * m[:, 1], n=12, progress=False)
    for unit in range(2, 12):
        assert found.main_effects[unit] == 0
    assert {tuple(names) for names, v in zip(found.names, found.mean, strict=True) if v} == {
        ("0", "1")
    }
