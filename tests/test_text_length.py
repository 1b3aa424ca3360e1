"""Texts as long as a model reads, weights in half precision, and fits that are scored on copies."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

import spex_mech as sm
from tests.test_proxyspex import trees
from tests.test_text_heads import SIZES, bert, gpt2

FAMILIES = {
    "camembert": (tf.CamembertConfig, tf.CamembertForSequenceClassification),
    "xlm-roberta": (tf.XLMRobertaConfig, tf.XLMRobertaForSequenceClassification),
    "roberta-prelayernorm": (
        tf.RobertaPreLayerNormConfig,
        tf.RobertaPreLayerNormForSequenceClassification,
    ),
}


@pytest.mark.parametrize("padding", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_that_count_from_their_padding(family: str, padding: int) -> None:
    config, make = FAMILIES[family]
    model = make(
        config(vocab_size=99, max_position_embeddings=20, pad_token_id=padding, **SIZES)
    ).eval()
    most = 20 - padding - 1

    def game(n: int) -> sm.TokenGame:
        prompts = sm.Prompts([list(range(5, 5 + n))], answers=[1])
        return sm.TokenGame(model, sm.Task(prompts, "log_prob"), masking="token", mask_id=4)

    with torch.no_grad():
        alone = model(torch.arange(5, 5 + most)[None]).logits.log_softmax(-1)[0, 1]
    everything = torch.ones(1, most, dtype=torch.bool)
    assert float(game(most)(everything)) == pytest.approx(float(alone), abs=1e-5)
    with pytest.raises(ValueError, match=f"{most + 1} tokens, and the model reads at most {most}"):
        game(most + 1)


@pytest.mark.parametrize("head", ["classes", "tokens", "causal"])
def test_half_precision_is_said_of_every_head(head: str) -> None:
    where = {"answer_pos": [2]} if head == "tokens" else {}
    task = sm.Task(sm.Prompts([[5, 10, 11, 12]], answers=[1], **where), "log_prob")
    kinds = {"classes": tf.BertForSequenceClassification, "tokens": tf.BertForTokenClassification}

    def game(dtype: Any) -> sm.TokenGame:
        model = gpt2() if head == "causal" else bert(kinds[head])
        return sm.TokenGame(model.to(dtype), task, masking="token", mask_id=4)

    masks = np.array([[i >> u & 1 for u in range(4)] for i in range(16)], dtype=bool)
    exact, half = game(torch.float32), game(torch.bfloat16)
    assert exact.coarse is None and exact.noise_floor is None
    assert half.coarse is not None and half.coarse.cause == "a model in bfloat16"
    error = float((half(masks) - exact(masks)).square().mean().sqrt())
    assert half.noise_floor is not None and error < half.noise_floor < 40 * error


@pytest.mark.parametrize(("copies", "points"), [(2, 1), (10, 1), (3, 4)])
@pytest.mark.parametrize("proxy", ["distilled", "trees"])
def test_copies_in_any_order_do_not_make_noise_predictable(
    copies: int, points: int, proxy: str
) -> None:
    """Each mask comes several times with the same value, all in a random order."""
    rng = np.random.default_rng(copies)
    masks = np.unique(rng.random((60 if copies == 10 else 150, 12)) < 0.5, axis=0)
    noise = rng.standard_normal((len(masks), points))
    order = rng.permutation(np.repeat(np.arange(len(masks)), copies))
    found = sm.explain(masks[order], noise[order], trees() if proxy == "trees" else proxy)
    assert found.r2 is not None and found.r2 < 0.3
    assert found.n_masks % copies == 0  # never a part of the copies
