"""Prompts are checked once, metrics against formulas written out, bad input by its message."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import spex_mech as sm
from spex_mech.engine import metrics
from spex_mech.engine.prompts import prompts_sha256
from tests.families import D_VOCAB, build
from tests.test_engine import some_prompts

LOGITS = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
TOKENS = [[1, 2, 3], [4, 0, 1]]


def test_lists_and_single_answers_are_made_tensors() -> None:
    prompts = sm.Prompts(TOKENS, answers=[1, 2], wrong_answers=[[0], [3, 4]])
    assert prompts.answers.tolist() == [[1], [2]]
    assert prompts.wrong_answers.tolist() == [[0, -1], [3, 4]]
    assert prompts.index.tolist() == [0, 1] and prompts.last.tolist() == [2, 2]
    of_arrays = sm.Prompts(np.array(TOKENS), answers=np.array([[1, 2], [3, 4]]))
    assert of_arrays.answers.tolist() == [[1, 2], [3, 4]]
    assert sm.Prompts(TOKENS, answers=[torch.tensor(1), 2]).answers.tolist() == [[1], [2]]
    assert prompts[np.int64(1)].tokens.tolist() == [TOKENS[1]]
    repeated = prompts[torch.tensor([1, 1, 0])]
    assert repeated.index.tolist() == [1, 1, 0] and len(repeated) == 3
    assert repeated.answers.tolist() == [[2], [2], [1]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokens": []}, "empty prompts: tokens has no row"),
        ({"tokens": torch.zeros(0, 3, dtype=torch.long)}, r"empty prompts.*\(0, 3\)"),
        ({"tokens": [[1, 2], [1]]}, r"unequal length \(1 to 2 tokens\); pad them on the right"),
        ({"tokens": torch.zeros(2, 3)}, "must be token ids"),
        ({"tokens": torch.zeros(3, dtype=torch.long)}, "must be token ids"),
        ({"tokens": TOKENS, "attention_mask": [[0, 1, 1], [1, 1, 1]]}, "padded on the right"),
        ({"tokens": TOKENS, "attention_mask": [[0, 0, 0], [1, 1, 1]]}, "False everywhere in a row"),
        ({"tokens": TOKENS, "attention_mask": [[1, 1]]}, r"attention_mask has shape \(1, 2\)"),
        ({"tokens": TOKENS, "corrupted": [[1, 2]]}, r"corrupted has shape \(1, 2\)"),
        ({"tokens": TOKENS, "answers": [1]}, r"answers has shape \(1, 1\)"),
        ({"tokens": TOKENS, "answers": [[1], []]}, "a prompt has no answer at all"),
        ({"tokens": TOKENS, "answer_pos": [1]}, "one number for each of the 2 prompts"),
    ],
)
def test_bad_prompts(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sm.Prompts(**fields)


def test_logit_diff_and_prob_diff_by_hand() -> None:
    prompts = sm.Prompts(TOKENS, answers=[[1, 2], [3, -1]], wrong_answers=[0, 4])
    last = LOGITS[:, -1]
    want = [(last[0, 1] + last[0, 2]) / 2 - last[0, 0], last[1, 3] - last[1, 4]]
    torch.testing.assert_close(metrics.logit_diff(LOGITS, prompts), torch.stack(want))
    p = last.softmax(-1)
    want = [p[0, 1] + p[0, 2] - p[0, 0], p[1, 3] - p[1, 4]]
    torch.testing.assert_close(metrics.prob_diff(LOGITS, prompts), torch.stack(want))


def test_log_prob_of_answers_and_of_next_tokens_by_hand() -> None:
    log_p = LOGITS.log_softmax(-1)
    prompts = sm.Prompts(TOKENS, answers=[[1, 2], [3, -1]])
    want = torch.stack([torch.logaddexp(log_p[0, 2, 1], log_p[0, 2, 2]), log_p[1, 2, 3]])
    torch.testing.assert_close(metrics.log_prob(LOGITS, prompts), want)

    mean = torch.stack([log_p[0, 0, 2] + log_p[0, 1, 3], log_p[1, 0, 0] + log_p[1, 1, 1]]) / 2
    torch.testing.assert_close(metrics.log_prob(LOGITS, sm.Prompts(TOKENS)), mean)
    torch.testing.assert_close(metrics.loss(LOGITS, sm.Prompts(TOKENS)), -mean)

    padded = sm.Prompts(TOKENS, attention_mask=[[1, 1, 0], [1, 1, 1]])
    want = torch.stack([log_p[0, 0, 2], mean[1]])
    torch.testing.assert_close(metrics.log_prob(LOGITS, padded), want)

    masked = sm.Prompts(TOKENS, target_mask=[[0, 1, 0], [1, 0, 0]])
    want = torch.stack([log_p[0, 1, 3], log_p[1, 0, 0]])
    torch.testing.assert_close(metrics.log_prob(LOGITS, masked), want)


def test_answer_is_read_where_it_stands() -> None:
    prompts = sm.Prompts(TOKENS, attention_mask=[[1, 1, 0], [1, 1, 1]], answers=[0, 0])
    assert prompts.last.tolist() == [1, 2]
    torch.testing.assert_close(
        metrics.answer_logits(LOGITS, prompts), torch.stack([LOGITS[0, 1], LOGITS[1, 2]])
    )
    prompts = sm.Prompts(TOKENS, answer_pos=[0, 1], answers=[0, 0])
    torch.testing.assert_close(
        metrics.answer_logits(LOGITS, prompts), torch.stack([LOGITS[0, 0], LOGITS[1, 1]])
    )
    classes = torch.randn(2, 4)  # a classifier's logits have no position
    torch.testing.assert_close(metrics.answer_logits(classes, prompts), classes)


def test_half_precision_logits_are_read_in_float32() -> None:
    prompts = sm.Prompts(TOKENS, answers=[0, 1], wrong_answers=[1, 2])
    for metric in (metrics.logit_diff, metrics.prob_diff, metrics.log_prob):
        assert metric(LOGITS.bfloat16(), prompts).dtype == torch.float32
    assert metrics.log_prob(LOGITS.bfloat16(), sm.Prompts(TOKENS)).dtype == torch.float32


def test_kl_by_hand() -> None:
    prompts = sm.Prompts(TOKENS, answers=[0, 0])
    kl = metrics.KL.to_intact(LOGITS, prompts)
    other = LOGITS.flip(-1)
    p, q = LOGITS[:, -1].softmax(-1), other[:, -1].softmax(-1)
    want = -(p * (p.log() - q.log())).sum(-1)
    torch.testing.assert_close(kl(other, prompts), want)
    torch.testing.assert_close(kl(other[[1]], prompts[[1]]), want[[1]])


def test_metrics_say_what_they_miss() -> None:
    with pytest.raises(ValueError, match="needs wrong_answers: give Prompts"):
        metrics.logit_diff(LOGITS, sm.Prompts(TOKENS, answers=[0, 0]))
    with pytest.raises(ValueError, match="returned dict without logits"):
        metrics.logit_diff({}, sm.Prompts(TOKENS, answers=[0, 0]))
    with pytest.raises(ValueError, match="unknown metric 'logitdiff'; choose one of logit_diff"):
        sm.Task(sm.Prompts(TOKENS), "logitdiff")
    with pytest.raises(ValueError, match="log_prob needs answers here"):
        metrics.log_prob(LOGITS[:, 0], sm.Prompts(TOKENS))


def test_task_split_renumbers_the_prompts() -> None:
    first, rest = sm.Task(sm.Prompts([[1], [2], [3]]), "log_prob").split(1)
    assert first.prompts.tokens.tolist() == [[1]] and rest.prompts.tokens.tolist() == [[2], [3]]
    assert rest.prompts.index.tolist() == [0, 1]
    with pytest.raises(ValueError, match="cannot take 1 of 1 prompts"):
        first.split(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [[D_VOCAB]]}, f"tokens holds the token {D_VOCAB}, outside the vocabulary of"),
        ({"answers": [D_VOCAB + 4]}, f"answers holds the token {D_VOCAB + 4}, outside"),
        ({"ablation": "resample"}, "resample ablation takes activations from corrupted prompts"),
        ({"ablation": "average"}, "unknown ablation 'average'; choose one of zero, mean"),
        ({"ablation": {"nowhere": torch.zeros(1)}}, "unknown hook point 'nowhere'; this game's"),
        ({"ablation": {}}, "no reference tensor for 'transformer.h.0.attn.c_proj'"),
        (
            {"ablation": {f"transformer.h.{i}.attn.c_proj": torch.zeros(5) for i in range(2)}},
            r"has shape \(5,\); it must broadcast to \[prompt pos width\] = \[1, 1, 32\]",
        ),
        (
            {
                "ablation": {
                    f"transformer.h.{i}.attn.c_proj": torch.tensor(torch.nan) for i in (0, 1)
                }
            },
            "the reference for 'transformer.h.0.attn.c_proj' holds nan; give numbers everywhere",
        ),
        ({"metric": lambda output, prompts: output.mean()}, r"returned \[\] for 1 rows; it must"),
        ({"metric": lambda output, prompts: 3.0}, "returned float for 1 rows"),
        (
            {"metric": lambda output, prompts: output[:, -1, 0] * torch.nan},
            "is nan for prompt 0 with L0H1 ablated; it must be finite",
        ),
        ({"mask": torch.ones(1, 3, dtype=torch.bool)}, r"shape \(1, 3\); they need \[mask unit\]"),
        (
            {"mask": 2 * torch.ones(1, 8)},
            r"masks hold 2\.0 at mask 0, unit 0; they must be True and",
        ),
        ({"gates": torch.full((1, 8), 1.5)}, "gates must lie between 0"),
    ],
)
def test_bad_games(change: dict, message: str) -> None:
    change = dict(change)
    metric, ablation = change.pop("metric", "log_prob"), change.pop("ablation", "mean")
    mask, gates = change.pop("mask", None), change.pop("gates", None)
    with pytest.raises(ValueError, match=message):
        prompts = sm.Prompts(**({"tokens": [[1]], "answers": [2]} | change))
        game = sm.ModelGame(build("gpt2"), sm.Task(prompts, metric), ablation=ablation)
        if gates is not None:
            game.gradient(gates)
        if mask is None:
            mask = torch.ones(1, 8, dtype=torch.bool)
            mask[0, 1] = False
        game(mask)


def test_prompts_longer_than_the_model_reads_and_bad_batch_size() -> None:
    task = sm.Task(sm.Prompts(torch.ones(1, 65, dtype=torch.long)), "log_prob")
    with pytest.raises(ValueError, match="prompts have 65 tokens, and the model reads at most 64"):
        sm.ModelGame(build("gpt2"), task)
    with pytest.raises(
        ValueError, match="batch_size is 0; it must be a whole number of at least 1"
    ):
        sm.ModelGame(build("gpt2"), sm.Task(some_prompts(), "logit_diff"), batch_size=0)
    assert repr(some_prompts()).startswith("Prompts(3 prompts of 7 tokens, answers, wrong")


def test_per_position_mean_needs_enough_positions() -> None:
    task = sm.Task(some_prompts(), "logit_diff")
    short = sm.Prompts([[1, 2, 3]])
    with pytest.raises(ValueError, match="the reference prompts have 3 positions, the task's 7"):
        sm.ModelGame(build("gpt2"), task, ablation="mean_per_position", reference=short)


def uneven_prompts(lengths: list[int], width: int) -> sm.Prompts:
    """Random prompts of these lengths, padded to one width."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(2, 40, (len(lengths), width), generator=generator)
    real = torch.arange(width) < torch.tensor(lengths)[:, None]
    words = torch.randint(2, 40, (len(lengths), 1), generator=generator)
    return sm.Prompts(tokens, real, answers=words, wrong_answers=words + 1)


def test_per_position_mean_needs_reference_prompts_that_reach_as_far() -> None:
    """However wide they are padded: where none of them has a token, a mean would be 0."""
    task = sm.Task(uneven_prompts([6, 7, 7], 7), "logit_diff")
    wide = uneven_prompts([5, 5, 4], 12)
    with pytest.raises(ValueError, match="has 5 tokens without padding, and the longest of the t"):
        sm.ModelGame(build("gpt2"), task, ablation="mean_per_position", reference=wide)
    sm.ModelGame(build("gpt2"), task, reference=wide)  # a mean over all positions
    enough = uneven_prompts([7, 7, 4], 12)
    sm.ModelGame(build("gpt2"), task, ablation="mean_per_position", reference=enough)


def test_per_position_mean_of_positions_that_few_prompts_reach_is_told() -> None:
    """The longest prompt alone is its own mean at its end, where its answer is read."""
    prompts = uneven_prompts([5, 5, 5, 5, 6], 6)
    last_heads = sm.Components.heads(build("gpt2"), layers=1)
    nothing = torch.tensor([[True] * len(last_heads), [False] * len(last_heads)])
    with pytest.warns(UserWarning, match="at 1 of 6 positions these are fewer than 4 of 5, down"):
        game = sm.ModelGame(
            build("gpt2"), sm.Task(prompts, "logit_diff"), last_heads, ablation="mean_per_position"
        )
    intact, ablated = game(nothing)
    assert intact[4] == ablated[4] and (intact[:4] != ablated[:4]).all()
    for quiet in (prompts[:4], uneven_prompts([5] * 4 + [6] * 4, 6)):
        sm.ModelGame(build("gpt2"), sm.Task(quiet, "logit_diff"), ablation="mean_per_position")


def right_at_the_end(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return (logits[:, -1].argmax(-1) == prompts.answers[:, 0]).float()


@pytest.mark.parametrize("kind", [np.uint64, np.uint16, np.int8, torch.uint16, torch.int8])
def test_token_ids_may_be_of_any_whole_type(kind: Any) -> None:
    """Of unsigned ones torch has few functions, and reads none from a list."""
    made = torch.tensor(TOKENS).to(kind) if isinstance(kind, torch.dtype) else kind(TOKENS)
    prompts = sm.Prompts(made, answers=[made[0, :1], made[1, :1]], wrong_answers=made[:, 1])
    assert prompts.tokens.tolist() == TOKENS
    assert prompts.answers is not None and prompts.wrong_answers is not None
    assert prompts.answers.tolist() == [[row[0]] for row in TOKENS]
    assert prompts.wrong_answers.tolist() == [[row[1]] for row in TOKENS]
    if isinstance(made, np.ndarray):
        unequal = sm.Prompts(TOKENS, answers=[made[0, :2], made[1, :1]])
        assert unequal.answers is not None and unequal.answers.tolist() == [[1, 2], [4, -1]]


def test_a_count_of_right_answers_that_reads_padding_is_told() -> None:
    """Other logits at padding seldom make an answer the largest there."""
    model, prompts, metric = build("gpt2"), uneven_prompts([6, 4, 6], 6), right_at_the_end
    with pytest.warns(UserWarning, match="reads the output at padding"):
        sm.ModelGame(model, sm.Task(prompts, metric))
    sm.ModelGame(model, sm.Task(prompts[[0, 2]], metric))  # nothing is padding there


def of_answers(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return logits[range(len(logits)), prompts.last, prompts.answers[:, 0]]


def of_answers_looked_for(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return (logits[range(len(logits)), prompts.last].argmax(-1) == prompts.answers).float().mean(-1)


def of_a_slice(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    half = prompts[range(len(prompts))]
    return logits[range(len(half)), half.last].gather(-1, half.wrong_answers)[:, 0]


def at_real_ones(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return (logits[..., 0] * prompts.attention_mask).sum(-1)


def at_the_answer(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return logits[range(len(logits)), prompts.answer_pos, 0]  # None is a new axis


def by_a_label(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    return logits[range(len(logits)), prompts.last, prompts.labels]


def with_a_fault(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    assert prompts.attention_mask is None
    return logits[:, 1000, 0]


@pytest.mark.parametrize("lens", ["heads", "tokens"])
@pytest.mark.parametrize(
    ("metric", "told"),
    [
        (of_answers, r"of_answers reads prompts.answers, which these prompts have not \(None\); "
         r"they have tokens, index, last, real: give Prompts\(..., answers=...\) \(TypeError: '"),
        (of_answers_looked_for, "reads prompts.answers, which"),
        (of_a_slice, "of_a_slice reads prompts.wrong_answers, which"),
        (at_real_ones, "reads prompts.attention_mask, which .*: read prompts.real, which says"),
        (at_the_answer, r"returned .*prompts.answer_pos, .*None.*: read prompts.last, the"),
        (by_a_label, r"reads prompts.labels, which prompts have not; .*held\[prompts.index\]"),
    ],
)  # fmt: skip
def test_a_metric_is_told_which_field_is_not_there(metric: Any, told: str, lens: str) -> None:
    """It was told of a NoneType somewhere inside it."""
    model, task = build("gpt2"), sm.Task(sm.Prompts(TOKENS[:1]), metric)
    with pytest.raises(ValueError, match=told):
        if lens == "heads":
            sm.ModelGame(model, task)
        else:
            sm.TokenGame(model, task)


def test_a_fault_of_a_metric_is_not_taken_for_a_missing_field() -> None:
    with pytest.raises(IndexError, match="index 1000 is out of bounds"):
        sm.ModelGame(build("gpt2"), sm.Task(sm.Prompts(TOKENS), with_a_fault))


def test_components_of_another_model_are_refused() -> None:
    task = sm.Task(some_prompts(), "logit_diff")
    with pytest.raises(ValueError, match="the components belong to another model"):
        sm.ModelGame(build("gpt2"), task, sm.Components.heads(build("llama")))


def test_classifier_and_pooled_output() -> None:
    import transformers as tf

    torch.manual_seed(0)
    sizes = {
        "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 24, "vocab_size": 30,
        "num_attention_heads": 2, "num_labels": 3,
    }  # fmt: skip
    prompts = sm.Prompts([[1, 2, 3], [4, 5, 6]], answers=[0, 2], wrong_answers=[1, 1])
    classifier = tf.BertForSequenceClassification(tf.BertConfig(**sizes)).eval()
    found = sm.discover(sm.ModelGame(classifier, sm.Task(prompts, "logit_diff")))
    with torch.no_grad():
        logits = classifier(prompts.tokens).logits
    want = torch.stack([logits[0, 0] - logits[0, 1], logits[1, 2] - logits[1, 1]])
    torch.testing.assert_close(torch.from_numpy(found.intact_by_prompt).float(), want)
    with pytest.raises(ValueError, match="answers holds the token 3, outside the vocabulary of 3"):
        outside = sm.Prompts([[1]], answers=[3], wrong_answers=[0])
        sm.ModelGame(classifier, sm.Task(outside, "logit_diff"))

    encoder = tf.BertModel(tf.BertConfig(**sizes)).eval()
    task = sm.Task(prompts, lambda output, prompts: output.pooler_output.square().sum(-1))
    assert len(sm.discover(sm.ModelGame(encoder, task))) == 1


def test_prompts_of_one_template_and_equal_ones_are_clusters() -> None:
    tokens = [[1, 2], [1, 3], [1, 2], [4, 5], [6, 7]]
    assert sm.Prompts(tokens[3:]).cluster_numbers() is None
    alike = sm.Prompts(tokens).cluster_numbers()
    assert alike is not None and alike[0] == alike[2] and len(set(alike)) == 4
    both = sm.Prompts(tokens, clusters=[0, 1, 2, 1, 3])
    numbers = both.cluster_numbers()
    assert numbers is not None
    assert numbers[0] == numbers[2] and numbers[1] == numbers[3] and len(set(numbers)) == 3
    assert both[[3, 4]].clusters.tolist() == [1, 3]
    with pytest.raises(ValueError, match="clusters"):
        sm.Prompts(tokens, clusters=[0, 1])


# -- what is read by keyword ----------------------------------------------------------------------

IMAGES = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(5))


def test_inputs_are_carried_row_by_row() -> None:
    prompts = sm.Prompts({"pixel_values": IMAGES}, answers=[0, 1, 0], corrupted_inputs={})
    assert not prompts.has_tokens and prompts.tokens.tolist() == [[0], [1], [2]]
    part = prompts[[2, 0]]
    torch.testing.assert_close(part.inputs["pixel_values"], IMAGES[[2, 0]])
    both = part.joined(prompts[:1])
    torch.testing.assert_close(both.inputs["pixel_values"], IMAGES[[2, 0, 0]])
    assert both.same_as.tolist() == [0, 1, 1]
    first, *others = both.cluster_numbers() or []
    assert len({*others}) == 1 and first not in others
    assert prompts.cluster_numbers() is None and not prompts.are_equal and part[[0, 0]].are_equal
    again = replace(prompts, index=torch.tensor([4, 5, 6]))
    assert not again.has_tokens and again.index.tolist() == [4, 5, 6]
    read = prompts.as_read("cpu", torch.float64).inputs["pixel_values"]
    assert read.dtype == torch.float64
    assert repr(prompts) == "Prompts(3 prompts of pixel_values [2 4], answers)"
    hashes = {prompts_sha256(p) for p in (prompts, sm.Prompts({"pixel_values": IMAGES + 1}))}
    assert len(hashes) == 2


def test_a_decoders_tokens_are_where_answers_are_read() -> None:
    decoder = torch.tensor([[1, 7, 2], [1, 5, 0]])
    prompts = sm.Prompts(TOKENS, inputs={"decoder_input_ids": decoder[:, :2]})
    assert prompts.last.tolist() == [1, 1] and prompts.decoded.shape == (2, 2)
    inputs = {
        "decoder_input_ids": decoder,
        "decoder_attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
    }
    prompts = sm.Prompts(TOKENS, inputs=inputs)
    assert prompts.last.tolist() == [2, 1]
    log_p = LOGITS.log_softmax(-1)[..., :5]
    scored = torch.stack([(log_p[0, 0, 2] + log_p[0, 1, 2]) / 2, log_p[1, 0, 1]])
    inputs["decoder_input_ids"] = torch.tensor([[1, 2, 2], [1, 1, 0]])
    got = metrics.log_prob(LOGITS, sm.Prompts(TOKENS, inputs=inputs))
    torch.testing.assert_close(got, scored)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "tokens is None, with no input_ids; give token ids, or what else the model reads"),
        ({"tokens": {"attention_mask": [[1]]}}, "has attention_mask and no input_ids"),
        ({"inputs": [1]}, "inputs is .* it must be a dict of tensors by the model's keywords"),
        ({"inputs": {"pixel_values": "x"}}, "pixel_values is 'x'.* it must be a tensor"),
        ({"inputs": {"pixel_values": 1.0}}, "pixel_values is one number"),
        ({"tokens": TOKENS, "inputs": {"pixel_values": IMAGES}}, "has 3 rows for 2 prompts"),
        ({"tokens": TOKENS, "inputs": {"labels": TOKENS}}, "inputs has labels, with which"),
        ({"tokens": TOKENS, "inputs": {"decoder_inputs_embeds": IMAGES}}, "give decoder_input_ids"),
        (
            {"inputs": {"pixel_values": IMAGES}, "corrupted_inputs": {"pixel_values": IMAGES[:2]}},
            r"corrupted_inputs has pixel_values of shape \[2, 2, 4\], and the inputs are",
        ),
    ],
)
def test_bad_inputs(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sm.Prompts(**fields)
