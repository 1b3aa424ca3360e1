"""What a text model's answer means and what masking does: against plain loops, head by head."""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from torch import Tensor

import spex_mech as sm

TEXT = "The film was not good."
SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.5,
}  # fmt: skip


def wordpiece() -> Any:
    return sm.load_tokenizer(sm.load_model("sentiment"))


def of_pairs() -> Any:
    """One that knows pairs of texts, too."""
    tokenizer = wordpiece()
    ids = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


def byte_level(template: str = "<e> $A", **special: str) -> Any:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<e>"], show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(["The capital of France is Paris. The film was good."] * 5, trainer)
    made.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<e>", 0)]
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=made, **{"bos_token": "<e>", "eos_token": "<e>", **special}
    )


def sentencepiece_like() -> Any:
    """Spaces are a character of the words, and unknown characters are bytes."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special[:3], show_progress=False)
    made.train_from_iterator(["The film was not good. It cost 3.5 dollars."] * 5, trainer)
    made.add_tokens(special[3:])
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


TOKENIZERS = {"WordPiece": wordpiece, "byte-level": byte_level, "SentencePiece": sentencepiece_like}


def bert(make: Any, **config: Any) -> Any:
    torch.manual_seed(0)
    return make(tf.BertConfig(vocab_size=79, **SIZES, **config)).eval()


def gpt2(make: Any = tf.GPT2LMHeadModel, n_vocab: int = 79, **config: Any) -> Any:
    torch.manual_seed(0)
    special = {"bos_token_id": None, "eos_token_id": None}
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.5}
    return make(tf.GPT2Config(vocab_size=n_vocab, **sizes, **special, **config)).eval()


def t5() -> Any:
    torch.manual_seed(0)
    config = tf.T5Config(
        vocab_size=79, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0, initializer_factor=2.0,
    )  # fmt: skip
    return tf.T5ForConditionalGeneration(config).eval()


Plain = Callable[[Any, Tensor], Tensor]  # model, ids [1 pos] -> the score of one text
LABEL, GOOD = 1, 31


def log_softmax(model: Any, ids: Tensor) -> Tensor:
    return model(ids).logits[0].log_softmax(-1)[LABEL]


def continued(model: Any, ids: Tensor, after: list[int], mean: bool) -> Tensor:
    ids = torch.cat([ids, torch.tensor([after])], dim=1)
    log_probs = model(ids).logits[0].log_softmax(-1)[-len(after) - 1 : -1]
    found = log_probs[torch.arange(len(after)), torch.tensor(after)]
    return found.mean() if mean else found.sum()


def decoded(model: Any, ids: Tensor, target: list[int]) -> Tensor:
    given = torch.tensor([[0, *target[:-1]]])
    log_probs = model(input_ids=ids, decoder_input_ids=given).logits[0].log_softmax(-1)
    return log_probs[torch.arange(len(target)), torch.tensor(target)].mean()


MULTI = {"num_labels": 3, "problem_type": "multi_label_classification"}
# model, arguments of text_task, the plain score, and a part of the words that say what it is.
HEADS: dict[str, tuple[Any, dict[str, Any], Plain, str]] = {
    "two classes": (
        lambda: bert(tf.BertForSequenceClassification, num_labels=2),
        {"answer": "LABEL_1"}, log_softmax, "log-probability of class LABEL_1",
    ),
    "three classes": (
        lambda: bert(tf.BertForSequenceClassification, num_labels=3),
        {"answer": 1}, log_softmax, "log-probability of class LABEL_1",
    ),
    "one output": (
        lambda: bert(tf.BertForSequenceClassification, num_labels=1),
        {}, lambda m, ids: m(ids).logits[0, 0], "output LABEL_0 as it is",
    ),
    "several labels": (
        lambda: bert(tf.BertForSequenceClassification, **MULTI),
        {"answer": "LABEL_1"}, lambda m, ids: m(ids).logits[0, 1].sigmoid().log(),
        "log-probability that label LABEL_1 holds",
    ),
    "classes of tokens": (
        lambda: bert(tf.BertForTokenClassification, num_labels=3),
        {"answer": "LABEL_1", "at": "film"}, lambda m, ids: m(ids).logits[0, 2].log_softmax(-1)[1],
        "log-probability of class LABEL_1 of 'film', token 2",
    ),
    "causal, one token": (
        gpt2, {"answer": GOOD}, lambda m, ids: m(ids).logits[0, -1].log_softmax(-1)[GOOD],
        "log-probability of the token 'good' after the text",
    ),
    "causal, several tokens": (
        gpt2, {"continuation": " not bad", "reduce": "sum"}, None,
        "log-probability of the 2 tokens",
    ),
    "encoder-decoder": (
        t5, {"answer": "not bad"}, None, "mean log-probability of the 2 tokens of 'not bad'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_main_effects_and_pairs_are_those_of_a_plain_loop(head: str) -> None:
    make, asked, plain, said = HEADS[head]
    model, tokenizer = make(), wordpiece()
    two = tokenizer("not bad", add_special_tokens=False)["input_ids"]
    if head == "causal, several tokens":
        plain = lambda m, ids: continued(m, ids, two, mean=False)  # noqa: E731
    elif head == "encoder-decoder":
        plain = lambda m, ids: decoded(m, ids, two)  # noqa: E731
    task = sm.text_task(model, TEXT, tokenizer=tokenizer, **asked)
    assert said in task.score
    game = sm.TokenGame(model, task, tokenizer=tokenizer)
    assert game.masking == "token" and game.provenance()["score"] == task.score
    ids = tokenizer(TEXT, return_tensors="pt")["input_ids"]
    if head.startswith("causal"):
        ids = ids[:, :-1]  # no [SEP] before what follows

    def score(*hidden: int) -> float:
        masked = ids.clone()
        masked[0, [p for u in hidden for p in game.spans[u]]] = tokenizer.mask_token_id
        with torch.no_grad():
            return float(plain(model, masked))

    found = sm.discover(game, "exhaustive", progress=False)
    assert found.intact == pytest.approx(score(), abs=1e-4)
    for unit, effect in enumerate(found.main_effects):
        assert effect == pytest.approx(score(unit) - score(), abs=1e-4)
    for a, b in combinations(range(len(game)), 2):
        want = score(a, b) - score(a) - score(b) + score()
        assert found.value(game.labels[a], game.labels[b]) == pytest.approx(want, abs=2e-4)
    assert abs(found.main_effects).max() > 1e-3


def test_masked_words_are_read_at_the_mask() -> None:
    model, tokenizer = bert(tf.BertForMaskedLM), wordpiece()
    text = "The film was [MASK] and good."
    for answer in ("not", tokenizer.convert_tokens_to_ids("not")):
        task = sm.text_task(model, text, answer, tokenizer=tokenizer)
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        place = ids[0].tolist().index(tokenizer.mask_token_id)
        number = tokenizer.convert_tokens_to_ids("not")
        game = sm.TokenGame(model, task, tokenizer=tokenizer)
        assert place not in {p for span in game.spans for p in span}
        for unit, (p,) in enumerate(game.spans):
            hidden = ids.clone()
            hidden[0, p] = tokenizer.mask_token_id
            keep = torch.ones(1, len(game), dtype=torch.bool)
            keep[0, unit] = False
            with torch.no_grad():
                want = model(hidden).logits[0, place].log_softmax(-1)[number]
            torch.testing.assert_close(game(keep)[0, 0].float(), want, rtol=1e-4, atol=1e-5)
    assert "token 'not' at [MASK], position 4" in task.score
    with pytest.raises(ValueError, match="the text has 0 mask tokens"):
        sm.text_task(model, "The film was good.", "not", tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"2 mask tokens \[MASK\], at positions \[1, 3\]"):
        sm.text_task(model, "[MASK] film [MASK].", "not", tokenizer=tokenizer)
    second = sm.text_task(model, "[MASK] film [MASK].", "not", at=3, tokenizer=tokenizer)
    assert second.prompts.last.tolist() == [3]
    with pytest.raises(ValueError, match="'not bad' is not one token in place of"):
        sm.text_task(model, text, "not bad", tokenizer=tokenizer)


def test_sentence_pairs_are_told_apart() -> None:
    model, tokenizer = bert(tf.BertForSequenceClassification, num_labels=2), of_pairs()
    pair = ("The film was good.", "The plot was dull.")
    task = sm.text_task(model, pair[0], 1, second=pair[1], tokenizer=tokenizer)
    given = tokenizer(*pair, return_tensors="pt")
    ids = given["input_ids"]
    types = given["token_type_ids"]
    assert types.sum() == 6  # the plot was dull . [SEP]
    game = sm.TokenGame(model, task, tokenizer=tokenizer)
    with torch.no_grad():
        want = model(ids, token_type_ids=types).logits.log_softmax(-1)[0, 1]
    got = game(torch.ones(1, len(game), dtype=torch.bool))[0, 0].float()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    by_hand = [1, 5, 17, 70, 31, 2, 5, 18, 70, 41, 2]
    plain = sm.Task(sm.Prompts([by_hand], answers=[1]), "log_prob")
    with pytest.raises(
        ValueError, match=r"separator, token 2, stands inside .* token_types=\.\.\."
    ):
        sm.TokenGame(model, plain, masking="token", mask_id=3)
    kinds = [[0] * 6 + [1] * 5]
    told = sm.Task(sm.Prompts([by_hand], answers=[1], token_types=kinds), "log_prob")
    for masking in ("token", "delete", "mean"):
        game = sm.TokenGame(model, told, [[1], [3, 8]], masking=masking, mask_id=3)
        lost = [p for p in range(11) if p not in (3, 8)]
        keep = torch.tensor([[True, True], [True, False]])
        with torch.no_grad():
            tokens, kind = torch.tensor([by_hand]), torch.tensor(kinds)
            want = model(tokens, token_type_ids=kind).logits.log_softmax(-1)[0, 1]
            torch.testing.assert_close(game(keep)[0, 0].float(), want, rtol=1e-4, atol=1e-5)
            if masking == "delete":
                left = model(tokens[:, lost], token_type_ids=kind[:, lost]).logits
                want = left.log_softmax(-1)[0, 1]
                torch.testing.assert_close(game(keep)[1, 0].float(), want, rtol=1e-4, atol=1e-5)


def test_a_name_comes_before_a_number() -> None:
    model, tokenizer = bert(tf.BertForSequenceClassification, num_labels=3), wordpiece()
    model.config.id2label = {0: "1", 1: "2", 2: "3"}
    model.config.label2id = {"1": 0, "2": 1, "3": 2}

    def chosen(answer: Any) -> int:
        task = sm.text_task(model, TEXT, answer, tokenizer=tokenizer)
        assert task.prompts.answers is not None
        return int(task.prompts.answers)

    assert [chosen(a) for a in ("1", "2", "3", "0")] == [0, 1, 2, 0]
    assert [chosen(a) for a in (1, np.int64(1), np.array(1), torch.tensor(1))] == [1] * 4
    for answer, text in [
        ("4", "no class '4'; this model's are 1, 2, 3"),
        (3, r"no class 3; this model's are 0 \(1\), 1 \(2\), 2 \(3\)"),
        (-1, "no class -1"),
        (1.0, "the answer 1.0 is a float; give a text, or a whole number"),
        (True, "the answer True is a bool"),
        (torch.tensor([0, 1]), "is a Tensor"),
    ]:
        with pytest.raises(ValueError, match=text):
            chosen(answer)
    model.config.id2label = {0: "a", 1: "a", 2: "b"}
    with pytest.raises(ValueError, match=r"classes \[0, 1\] are all called 'a'; give the number"):
        chosen("a")


@pytest.mark.parametrize("answer", [255, np.int64(255), np.uint8(255), torch.tensor(255)])
def test_a_token_of_any_whole_number_type(answer: Any) -> None:
    tokenizer = byte_level()
    model = gpt2(n_vocab=len(tokenizer))
    task = sm.text_task(model, "The capital of France is", answer, tokenizer=tokenizer)
    assert task.prompts.answers is not None and task.prompts.answers.tolist() == [[255]]
    with pytest.raises(ValueError, match=r"the answer 2\.5 is a float"):
        sm.text_task(model, "The capital", 2.5, tokenizer=tokenizer)


def test_begin_and_end_tokens_stand_once() -> None:
    begin, end, both = byte_level(), byte_level("$A <e>"), byte_level("<e> $A <e>")
    model = gpt2(n_vocab=len(begin))
    text = "The capital of France is"
    plain = begin(text, add_special_tokens=False)["input_ids"]

    def ids(tokenizer: Any, text: str, **asked: Any) -> list[int]:
        task = sm.text_task(model, text, tokenizer=tokenizer, **(asked or {"answer": 5}))
        return task.prompts.tokens[0].tolist()

    assert ids(begin, f"<e>{text}") == ids(begin, text) == ids(both, text) == [0, *plain]
    assert ids(end, text) == plain
    assert ids(end, f"{text}<e>") == [*plain, 0] == ids(end, f"{text}<e>")  # it is the text's own
    paris = begin(" Paris", add_special_tokens=False)["input_ids"]
    for tokenizer in (begin, end, both):
        task = sm.text_task(model, text, " Paris", tokenizer=tokenizer)
        assert task.prompts.answers is not None and task.prompts.answers.tolist() == [paris[:1]]
        assert ids(tokenizer, text, continuation=" Paris")[-len(paris) :] == paris
    # A classifier reads its end token, as it was trained to.
    head = gpt2(tf.GPT2ForSequenceClassification, len(begin), num_labels=2, pad_token_id=7)
    assert sm.text_task(head, text, 1, tokenizer=end).prompts.tokens[0].tolist() == [*plain, 0]


def test_chat_messages_and_token_ids() -> None:
    tokenizer = byte_level()
    model = gpt2(n_vocab=len(tokenizer))
    messages = [{"role": "user", "content": "The film was good."}]
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        sm.text_task(model, messages, 5, tokenizer=tokenizer)
    tokenizer.chat_template = (
        "<e>{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}answer:{% endif %}"
    )
    task = sm.text_task(model, messages, " Paris", tokenizer=tokenizer)
    written = "<e>user: The film was good.\nanswer:"
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    assert task.prompts.tokens[0].tolist() == ids and ids[0] == 0 != ids[1]
    assert task.text == written
    for given in (ids, np.array(ids), torch.tensor(ids)):
        again = sm.text_task(model, given, " Paris", tokenizer=tokenizer)
        assert again.prompts.tokens[0].tolist() == ids
        torch.testing.assert_close(again.prompts.answers, task.prompts.answers)


def test_mean_and_sum_are_said() -> None:
    tokenizer = byte_level()
    model = gpt2(n_vocab=len(tokenizer))
    values = {}
    for reduce in ("mean", "sum"):
        task = sm.text_task(
            model, "The capital of", continuation=" France is", reduce=reduce, tokenizer=tokenizer
        )
        n = int(task.prompts.target_mask.sum())
        assert f"{n} tokens of ' France is'" in task.score
        assert task.score.startswith("mean") == (reduce == "mean")
        game = sm.TokenGame(model, task, tokenizer=tokenizer)
        values[reduce] = game(torch.ones(1, len(game), dtype=torch.bool)).item()
    assert n > 1 and values["sum"] == pytest.approx(n * values["mean"], rel=1e-6)
    with pytest.raises(ValueError, match="reduce='max'; choose one of mean, sum"):
        sm.text_task(model, "The", continuation=" film", reduce="max", tokenizer=tokenizer)


@pytest.mark.parametrize("make", [tf.BertForQuestionAnswering, tf.BertForMultipleChoice])
def test_heads_of_unlike_outputs_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match="outputs of unlike meaning; make a Task with Prompts"):
        sm.text_task(bert(make), TEXT, 1, tokenizer=wordpiece())


def test_classes_of_tokens_need_a_token() -> None:
    model, tokenizer = bert(tf.BertForTokenClassification, num_labels=3), wordpiece()
    for at, text in [
        (None, "say of which one: at="),
        ("the", "'the' stands 0 times"),
        (99, "at=99; the text has the positions 0 to 7"),
    ]:
        with pytest.raises(ValueError, match=text):
            sm.text_task(model, TEXT, 1, at=at, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="at=2 is for classes of tokens"):
        sm.text_task(bert(tf.BertForSequenceClassification), TEXT, 1, at=2, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="continues no text; give answer="):
        sm.text_task(model, TEXT, continuation=" x", tokenizer=tokenizer)


# -- masking --------------------------------------------------------------------------------------


def check_deletion(
    model: Any, game: sm.TokenGame, task: sm.Task, masks: Tensor, values: Tensor
) -> None:
    """Each value is the log-probability of class 1 on the tokens that a mask keeps, run alone."""
    ids = task.prompts.tokens
    for mask, value in zip(masks, values[:, 0], strict=True):
        lost = {p for keep, (p,) in zip(mask, game.spans, strict=True) if not keep}
        left = [p for p in range(ids.shape[1]) if p not in lost]
        with torch.no_grad():
            want = model(ids[:, left]).logits.log_softmax(-1)[0, 1]
        torch.testing.assert_close(value.float(), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "gpt2 without padding", "llama"])
def test_deletion_in_decoders_that_pool_the_last_token(kind: str) -> None:
    tokenizer = byte_level()
    padding = {} if kind.endswith("padding") else {"pad_token_id": 0}
    if kind == "llama":
        torch.manual_seed(0)
        config = tf.LlamaConfig(
            vocab_size=len(tokenizer), num_labels=2, num_key_value_heads=2, **SIZES, **padding
        )
        model = tf.LlamaForSequenceClassification(config).eval()
    else:
        model = gpt2(tf.GPT2ForSequenceClassification, len(tokenizer), num_labels=2, **padding)
    task = sm.text_task(model, "The capital of France is!", 1, tokenizer=tokenizer)
    game = sm.TokenGame(model, task, tokenizer=tokenizer, masking="delete")
    masks = torch.rand(12, len(game), generator=torch.Generator().manual_seed(0)) > 0.3
    masks[0] = True
    values = game(masks)
    check_deletion(model, game, task, masks, values)
    if padding:
        with pytest.raises(ValueError, match="mask_id=0 is this model's padding"):
            sm.TokenGame(model, task, tokenizer=tokenizer, mask_id=0)
    by_mean = sm.TokenGame(model, task, tokenizer=tokenizer)
    assert by_mean.masking == "mean"
    last = torch.ones(2, len(game), dtype=torch.bool)
    last[1, -1] = False
    assert by_mean(last).diff(dim=0).abs() > 1e-3  # the last token is hidden too


def test_the_default_hides_the_last_token_of_a_causal_model() -> None:
    tokenizer = byte_level()
    model = gpt2(n_vocab=len(tokenizer))
    for block in model.transformer.h:
        for parameter in block.attn.c_proj.parameters():
            parameter.data.zero_()  # now only the last token matters
    task = sm.text_task(model, "The capital of France is", 5, tokenizer=tokenizer)
    found = sm.discover(sm.TokenGame(model, task, tokenizer=tokenizer), progress=False)
    effects = dict(zip(found.labels, abs(found.main_effects), strict=True))
    assert effects.pop("5:is") > 0.1 and max(effects.values()) == 0
    with pytest.warns(UserWarning, match=r"cannot hide the token at position 5, .* in no unit"):
        game = sm.TokenGame(model, task, tokenizer=tokenizer, masking="attention")
    assert game.labels[-1] == "4:France"
    # Begin and end tokens are units where no tokenizer says that they are special.
    bare = sm.Task(task.prompts, "log_prob")
    assert sm.discover(sm.TokenGame(model, bare), progress=False).labels[0] == "0:0"


def test_positions_are_kept_where_a_family_counts_what_is_seen() -> None:
    torch.manual_seed(0)
    model = tf.OPTForCausalLM(
        tf.OPTConfig(
            vocab_size=79, hidden_size=32, word_embed_proj_dim=32, num_hidden_layers=2,
            num_attention_heads=4, ffn_dim=64, max_position_embeddings=64, init_std=0.5,
        )
    ).eval()  # fmt: skip
    ids = torch.tensor([[2, 10, 11, 12, 13, 14]])
    task = sm.Task(sm.Prompts(ids, answers=[5]), "log_prob")
    game = sm.TokenGame(model, task, [[p] for p in range(1, 6)], masking="attention")
    for unit in range(4):
        keep = torch.ones(1, 5, dtype=torch.bool)
        keep[0, unit] = False
        seen = torch.ones_like(ids)
        seen[0, unit + 1] = 0
        with torch.no_grad():
            out = model(ids, attention_mask=seen, position_ids=torch.arange(6)[None]).logits
        want = out[0, -1].log_softmax(-1)[5]
        torch.testing.assert_close(game(keep)[0, 0].float(), want, rtol=1e-4, atol=1e-5)
    torch.manual_seed(0)
    bloom = tf.BloomForCausalLM(tf.BloomConfig(vocab_size=79, hidden_size=32, n_layer=1, n_head=4))
    with pytest.warns(UserWarning, match="works out positions from the attention mask"):
        sm.TokenGame(bloom.eval(), task, [[1], [2]], masking="attention")


def test_roberta_begins_to_count_elsewhere() -> None:
    torch.manual_seed(0)
    config = tf.RobertaConfig(
        vocab_size=79, max_position_embeddings=40, num_labels=2, type_vocab_size=1, **SIZES
    )
    model = tf.RobertaForSequenceClassification(config).eval()
    ids = torch.tensor([[5, 10, 11, 12, 13, 14]])
    task = sm.Task(sm.Prompts(ids, answers=[1]), "log_prob")
    for masking in ("attention", "mean", "token"):
        game = sm.TokenGame(model, task, [[1], [3]], masking=masking, mask_id=3)
        with torch.no_grad():
            want = model(ids).logits.log_softmax(-1)[0, 1]
        got = game(torch.ones(1, 2, dtype=torch.bool))[0, 0]
        torch.testing.assert_close(got.float(), want, rtol=1e-4, atol=1e-5)


def test_a_metric_that_counts_does_not_hide_where_roberta_begins_to_count() -> None:
    """Positions were compared by the metric, which is the same at the wrong ones here, and then
    others than the model's own were handed over."""
    torch.manual_seed(0)
    sizes = SIZES | {"initializer_range": 0.5}
    config = tf.RobertaConfig(
        vocab_size=79, max_position_embeddings=40, num_labels=2, type_vocab_size=1, **sizes
    )
    model = tf.RobertaForSequenceClassification(config).eval()
    ids = torch.tensor([[0, 10, 11, 12, 13, 14, 2]])

    def is_first(output: Any, prompts: sm.Prompts) -> Any:
        return (output.logits[:, 0] > output.logits[:, 1]).float()

    spans = [[p] for p in range(1, 6)]
    game = sm.TokenGame(model, sm.Task(sm.Prompts(ids), is_first), spans, masking="attention")
    masks = torch.rand(40, 5, generator=torch.Generator().manual_seed(0)) > 0.4
    kept = torch.nn.functional.pad(masks, (1, 1), value=True).long()
    with torch.no_grad():
        logits = torch.cat([model(ids, attention_mask=row[None]).logits for row in kept])
    want = (logits[:, 0] > logits[:, 1]).double()
    assert 5 < want.sum() < 35  # so that it can tell
    torch.testing.assert_close(game(masks)[:, 0], want)


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_embeddings_are_compared_by_what_the_model_says(value: float) -> None:
    """A metric that is no number, or varies, said that embeddings were another text."""
    chance = torch.Generator().manual_seed(0)

    def metric(output: Any, prompts: sm.Prompts) -> Any:
        return output[:, -1, 0] + value + torch.rand(len(output), generator=chance)

    task = sm.Task(sm.Prompts([[5, 10, 11, 12]]), metric)
    game = sm.TokenGame(gpt2(), task, [[1], [2]], masking="mean")
    if value == 0:
        game(torch.ones(1, 2, dtype=torch.bool))
        return
    with pytest.raises(ValueError, match="the metric metric is nan with nothing masked"):
        game(torch.ones(1, 2, dtype=torch.bool))


def test_roberta_reads_fewer_than_its_table_has() -> None:
    config = tf.RobertaConfig(
        vocab_size=99, max_position_embeddings=34, pad_token_id=1, type_vocab_size=1, **SIZES
    )
    model = tf.RobertaForSequenceClassification(config).eval()
    for n in (32, 33):
        task = sm.Task(sm.Prompts([list(range(5, 5 + n))], answers=[1]), "log_prob")
        if n == 32:
            game = sm.TokenGame(model, task, masking="token", mask_id=4)
            assert game(torch.ones(1, n, dtype=torch.bool)).isfinite().all()
        else:
            with pytest.raises(ValueError, match="33 tokens, and the model reads at most 32"):
                sm.TokenGame(model, task, masking="token", mask_id=4)


def test_embeddings_that_are_not_the_text_are_refused() -> None:
    model = gpt2()
    task = sm.Task(sm.Prompts([[5, 10, 11, 12]], answers=[1]), "log_prob")
    plain = model.forward

    def shifted(input_ids: Any = None, inputs_embeds: Any = None, **given: Any) -> Any:
        more = None if inputs_embeds is None else 2 * inputs_embeds
        return plain(input_ids=input_ids, inputs_embeds=more, **given)

    model.forward = shifted
    with pytest.raises(ValueError, match="would explain another function; use 'token'"):
        sm.TokenGame(model, task, masking="mean")


def test_an_encoder_decoder_needs_what_it_writes() -> None:
    task = sm.Task(sm.Prompts([[5, 10, 11, 12]], answers=[1]), "log_prob")
    with pytest.raises(ValueError, match="needs to be told what its decoder writes"):
        sm.TokenGame(t5(), task)
    model, tokenizer = t5(), wordpiece()
    game = sm.TokenGame(model, sm.text_task(model, TEXT, 5, tokenizer=tokenizer), masking="mean")
    assert game.has_slopes and game.gradient(torch.ones(1, len(game))).abs().min() > 0


def test_half_precision_has_its_own_floor() -> None:
    model, tokenizer = sm.load_model("sentiment"), wordpiece()
    task = sm.text_task(
        model, "the film was not good and the old new red room was long", "negative"
    )
    half = sm.load_model("sentiment").to(torch.bfloat16)
    exact, found = (
        sm.discover(sm.TokenGame(m, task, tokenizer=tokenizer), "exhaustive", progress=False)
        for m in (model, half)
    )
    error = float(np.sqrt(np.mean((exact.mean - found.mean) ** 2)))
    assert (
        error / 2 < found.noise_floor < 10 * error and found.noise_floor > 100 * exact.noise_floor
    )
    game = sm.TokenGame(half, task, tokenizer=tokenizer)
    assert game.coarse is not None and game.coarse.cause == "a model in bfloat16"


# -- where units begin ----------------------------------------------------------------------------


def units_of(tokenizer: Any, text: str, spans: str | None) -> list[str]:
    model = gpt2(n_vocab=len(tokenizer))
    task = sm.text_task(model, text, 5, tokenizer=tokenizer)
    game = sm.TokenGame(model, task, spans, tokenizer=tokenizer, masking="mean")
    return [label.split(":", 1)[1] for label in game.labels]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("text", "words", "sentences"),
    [
        ("It cost 3.5 dollars. See example.com for more.", 8, 2),
        ("Dr. Smith of the U.S. left. He said so!", 9, 2),
        ('He said "stop." Then he left (fast.) It ended.', 9, 3),
        ("Is it\u2026 good? \U0001f44d\U0001f44d Yes!\nNo", 6, 4),
        ("这部电影不好看。我很喜欢音乐。", 13, 2),
        ("これは良い。あれは悪い。", 10, 2),
        ("هل الفيلم جيد؟ نعم، هو جيد.", 6, 2),
        ("यह अच्छा है। वह बुरा है।", 6, 2),
    ],
)
def test_words_and_sentences_of_the_text(kind: str, text: str, words: int, sentences: int) -> None:
    tokenizer = TOKENIZERS[kind]()
    if kind == "WordPiece":  # its unknown words hide what stands inside them
        known = [i for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
        if len(set(known)) < 3:
            pytest.skip("this vocabulary knows nothing of the text")
    spans = units_of(tokenizer, text, "sentences")
    assert len(spans) == sentences, spans
    joined = "".join("".join(spans).split()).lower()
    assert joined == "".join(text.split()).lower()
    found = units_of(tokenizer, text, "words")
    # White space, or for Chinese and Japanese each character, with its full stop apart or not.
    assert "".join("".join(found).split()).lower() == joined
    assert abs(len(found) - words) <= 2, found
    for word in text.split():
        if kind != "WordPiece" and word.isascii():
            assert word in found


def test_numbers_and_domains_are_not_cut_by_a_wordpiece_tokenizer() -> None:
    words = "[UNK] [MASK] it cost 3 . 5 dollars see example com for more u s dr smith left".split()
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer, made.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    tokenizer = tf.PreTrainedTokenizerFast(
        tokenizer_object=made, mask_token="[MASK]", unk_token="[UNK]"
    )
    text = "It cost 3.5 dollars. See example.com for more."
    assert (
        units_of(tokenizer, text, "words") == text.replace("It", "it").replace("See", "see").split()
    )
    assert units_of(tokenizer, text, "sentences") == [
        "it cost 3.5 dollars.", "see example.com for more."
    ]  # fmt: skip
    whole = units_of(tokenizer, "Dr. Smith left the U.S. early. It cost 5.", "sentences")
    assert whole == ["Dr. Smith left the U.S. early.", "it cost 5."]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_unknown_words_are_words(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    text = "The superduper film \U0001f44d was not good."
    assert units_of(tokenizer, text, "words") in (
        [text.split()[0].lower(), *text.split()[1:]], text.split(),
    )  # fmt: skip
    assert units_of(tokenizer, "zork blarg", "words") == ["zork", "blarg"]
    if kind == "WordPiece":
        assert "superduper" in units_of(tokenizer, text, None)


def test_one_unit_is_said() -> None:
    tokenizer = byte_level()
    model = gpt2(n_vocab=len(tokenizer))
    for text, spans in (("Thefilmwasgood", "words"), ("The film was good", "sentences")):
        task = sm.text_task(model, text, 5, tokenizer=tokenizer)
        with pytest.raises(ValueError, match=f"spans='{spans}' finds one unit in this text"):
            sm.TokenGame(model, task, spans, tokenizer=tokenizer)
