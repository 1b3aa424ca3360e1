"""Texts as a model reads them: mask tokens, chat messages, special tokens written by hand, what a
decoder writes first; each against a pass by hand."""

from typing import Any

import pytest
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

import spex_mech as sm
from spex_mech.engine.facts import fills_masks
from spex_mech.engine.text import continues_texts, head_of
from tests.test_text_heads import bert, byte_level, gpt2, of_pairs, t5, wordpiece

CHAT = (
    "<e>{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
MASKED = ["The film was [MASK] .", "The plot was [MASK] and not good ."]
ANSWERS, WRONG = [" good", " dull"], [" bad", " good"]


def filled(model: Any, tokenizer: Any, text: str, right: str, wrong: str) -> float:
    """What the model says of two words at the mask, of the text as its tokenizer writes it."""
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    at = ids[0].tolist().index(tokenizer.mask_token_id)
    words = tokenizer.convert_tokens_to_ids([right.strip(), wrong.strip()])
    with torch.no_grad():
        logits = model(ids).logits[0, at, words]
    return float(logits[0] - logits[1])


@pytest.mark.parametrize("how", ["rows", "texts"])
def test_answers_of_masked_words_are_read_at_the_mask(how: str) -> None:
    model, tokenizer = bert(tf.BertForMaskedLM), wordpiece()
    if how == "rows":
        each = zip(MASKED, ANSWERS, WRONG, strict=True)
        rows = [{"prompt": text, "answer": a, "distractor": b} for text, a, b in each]
        task = sm.load_task(rows, model, tokenizer=tokenizer)
    else:
        prompts = sm.Prompts.from_text(tokenizer, MASKED, ANSWERS, WRONG)
        task = sm.Task(prompts, "logit_diff", decode=tokenizer)
    values = sm.ModelGame(model, task, ablation="zero")(torch.ones(1, 8, dtype=torch.bool))
    each = zip(MASKED, ANSWERS, WRONG, strict=True)
    want = [filled(model, tokenizer, *given) for given in each]
    torch.testing.assert_close(values[0].float(), torch.tensor(want), rtol=1e-4, atol=1e-4)


def test_prompts_without_one_mask_token_are_refused_or_told() -> None:
    model, tokenizer = bert(tf.BertForMaskedLM), wordpiece()
    rows = [{"prompt": text, "answer": "good"} for text in (MASKED[0], "The film was dull .")]
    with pytest.raises(ValueError, match=r"row 2 has 0 mask tokens \[MASK\], and an answer fills"):
        sm.load_task(rows, model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"what follows its prompts, and a BertForMaskedLM fills"):
        sm.load_task(rows[1:], model, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="prompt 0 has 2 mask tokens"):
        sm.Prompts.from_text(tokenizer, ["The [MASK] was [MASK] ."], ["good"])
    with pytest.raises(ValueError, match="'not good' is not one token in place of"):
        sm.Prompts.from_text(tokenizer, MASKED[:1], ["not good"])
    given = tokenizer(MASKED[:1], return_tensors="pt")
    task = sm.Task(sm.Prompts(given, answers=[31]), "log_prob", decode=tokenizer)
    with pytest.warns(UserWarning, match=r"1 of 1 prompt have a mask token.*answer_pos"):
        sm.ModelGame(model, task, ablation="zero")


def test_a_mask_in_either_text_of_a_pair() -> None:
    model, tokenizer = bert(tf.BertForMaskedLM), of_pairs()
    pair = ("The film was [MASK] .", "The plot was [MASK] .")
    ids = tokenizer(*pair)["input_ids"]
    places = [p for p, token in enumerate(ids) if token == tokenizer.mask_token_id]
    for at in places:
        task = sm.text_task(model, pair[0], "good", second=pair[1], at=at, tokenizer=tokenizer)
        assert task.prompts.tokens.tolist() == [ids] and task.prompts.last.tolist() == [at]
        assert task.prompts.answers.tolist() == [[tokenizer.convert_tokens_to_ids("good")]]
    with pytest.raises(ValueError, match="'good' is a word, and the text is token ids"):
        sm.text_task(model, ids, "good", at=places[0], tokenizer=tokenizer)


def test_a_mask_that_takes_the_space_before_it() -> None:
    """As RoBERTa's does; the answer is written with its space, as those of causal models are."""
    tokenizer = byte_level("<e> $A <e>")
    mask = tf.AddedToken("<mask>", lstrip=True, special=True)
    tokenizer.add_special_tokens({"mask_token": mask})
    paris = tokenizer.convert_tokens_to_ids("\u0120Paris")
    assert paris is not None
    for answer in (" Paris", "Paris"):
        prompts = sm.Prompts.from_text(tokenizer, ["The capital is <mask>."], [answer])
        assert prompts.answers.tolist() == [[paris]]
        assert prompts.tokens[0, prompts.last] == tokenizer.mask_token_id


def test_what_no_word_follows_keeps_its_end() -> None:
    tokenizer, text = wordpiece(), "The film was good ."
    ids = tokenizer(text)["input_ids"]
    own = lambda output, prompts: output.logits[:, 0]  # noqa: E731
    for kind, want in ((bert(tf.BertForSequenceClassification), ids), (gpt2(), ids[:-1])):
        task = sm.load_task([text], kind, metric=own, tokenizer=tokenizer)
        assert task.prompts.tokens.tolist() == [want]


@pytest.mark.parametrize("written", ["[CLS] {} [SEP]", "[CLS] {}", "{} [SEP]", "{}"])
def test_special_tokens_by_hand_stand_once(written: str) -> None:
    tokenizer, text = wordpiece(), "The film was good ."
    ids = tokenizer(text)["input_ids"]
    given = written.format(text)
    assert sm.Prompts.from_text(tokenizer, [given]).tokens.tolist() == [ids]
    model = bert(tf.BertForSequenceClassification, num_labels=2)
    task = sm.text_task(model, given, 1, tokenizer=tokenizer)
    assert task.prompts.tokens.tolist() == [ids] and len(task.offsets) == len(ids)


def test_chat_messages_end_where_the_answer_begins() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = CHAT
    asked = [{"role": "user", "content": "The capital of France?"}]
    begun = [*asked, {"role": "assistant", "content": "It is"}]
    said = "<e>user: The capital of France?\n"
    model = gpt2(n_vocab=len(tokenizer))
    judge = gpt2(tf.GPT2ForSequenceClassification, len(tokenizer), num_labels=1, pad_token_id=0)
    for messages, answers, text in (
        (asked, True, f"{said}assistant:"),
        (begun, True, f"{said}assistant: It is"),  # the model's own words go on
        (asked, False, said),  # a reward model reads what was said, and no answer follows
        (begun, False, f"{said}assistant: It is\n"),
    ):
        answer = (model, messages, " Paris") if answers else (judge, messages)
        task = sm.text_task(*answer, tokenizer=tokenizer)
        assert task.text == text
        want = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert task.prompts.tokens.tolist() == [want]


def test_a_decoder_writes_what_it_must_before_the_answer() -> None:
    tokenizer = byte_level("<e> $A <e>")
    torch.manual_seed(0)
    sizes = dict.fromkeys(["encoder_layers", "decoder_layers"], 1)
    sizes |= dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 4)
    sizes |= dict.fromkeys(["d_model", "encoder_ffn_dim", "decoder_ffn_dim"], 32)
    config = tf.BartConfig(
        **sizes, vocab_size=len(tokenizer), max_position_embeddings=64, init_std=0.5,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    model = tf.BartForConditionalGeneration(config).eval()
    model.generation_config.forced_bos_token_id = 0
    text, answer = "The capital of France is", " Paris."
    task = sm.text_task(model, text, answer, tokenizer=tokenizer)
    target = tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert task.decoder_tokens == (2, 0, *target[:-1]) and task.score.endswith("behind '<e>'")
    game = sm.TokenGame(model, task, masking="mean", tokenizer=tokenizer)
    with torch.no_grad():
        given = {"decoder_input_ids": torch.tensor([[2, 0, *target[:-1]]])}
        logits = model(tokenizer(text, return_tensors="pt")["input_ids"], **given).logits[0, 1:]
    want = logits.log_softmax(-1)[range(len(target)), target].mean()
    got = game(torch.ones(1, len(game), dtype=torch.bool))[0, 0].float()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_an_answer_of_several_tokens_is_told() -> None:
    tokenizer = byte_level()
    with pytest.warns(UserWarning, match=r"' Rome' is 5 tokens, and only the first, ' '"):
        sm.text_task(gpt2(n_vocab=len(tokenizer)), "The capital", " Rome", tokenizer=tokenizer)


def spaced() -> Any:
    """Words with their spaces in them, which a token by itself does not show."""
    words = ["<s>", *(f"\u2581{word}" for word in "the film was good".split())]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<s>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return tf.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>")


def test_a_task_is_shown_with_the_spaces_between_its_words() -> None:
    rows = [{"prompt": "the film was", "answer": " good", "distractor": " film"}]
    task = sm.load_task(rows, gpt2(), tokenizer=spaced())
    assert task.prompts.tokens.tolist() == [[0, 1, 2, 3]]
    assert "the film was" in repr(task)


def test_a_word_within_another_is_not_the_one_that_is_asked_for() -> None:
    model, tokenizer = bert(tf.BertForTokenClassification, num_labels=3), wordpiece()
    text = "The badly film was bad ."
    task = sm.text_task(model, text, 1, at="bad", tokenizer=tokenizer)
    bad = tokenizer(text)["input_ids"].index(tokenizer.convert_tokens_to_ids("bad"))
    assert task.prompts.last.tolist() == [bad]
    with pytest.raises(ValueError, match="'fil' stands 0 times in the text"):
        sm.text_task(model, text, 1, at="fil", tokenizer=tokenizer)


def test_the_encoder_of_two_stacks_reads_the_end_of_its_text() -> None:
    tokenizer, text = wordpiece(), "The film was"
    rows = [{"prompt": text, "answer": " good"}]
    task = sm.load_task(rows, t5(), tokenizer=tokenizer)
    assert task.prompts.tokens.tolist() == [tokenizer(text)["input_ids"]]


def test_what_a_template_puts_around_messages_is_in_no_unit() -> None:
    """The tokenizer's file calls these tokens special; its list of special tokens lacks them."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.add_special_tokens(["<|user|>", "<|end|>"])
    tokenizer.chat_template = "{% for m in messages %}<|user|>{{ m['content'] }}<|end|>{% endfor %}"
    around = tokenizer.convert_tokens_to_ids(["<|user|>", "<|end|>"])
    assert not {*around} & {*tokenizer.all_special_ids}
    model = gpt2(n_vocab=len(tokenizer))
    messages = [{"role": "user", "content": "The film was good."}]
    task = sm.text_task(model, messages, 5, tokenizer=tokenizer)
    assert [*task.prompts.tokens[0, [0, -1]]] == around
    words = sm.TokenGame(model, task, "words", tokenizer=tokenizer)
    assert [label.split(":")[1] for label in words.labels] == ["The", "film", "was", "good."]


@pytest.mark.parametrize("masking", ["token", "delete", "attention", "mean"])
@pytest.mark.parametrize("head", ["causal", "masked", "pooled"])
def test_a_prompt_of_a_padded_batch_is_read_without_its_padding(head: str, masking: str) -> None:
    if head == "masked":
        model, place = bert(tf.BertForMaskedLM), {"answer_pos": [2]}
    else:
        kind = tf.GPT2LMHeadModel if head == "causal" else tf.GPT2ForSequenceClassification
        model, place = gpt2(kind, pad_token_id=0), {}
    text = [[5, 17, 70, 31, 2]]
    padded = sm.Prompts([text[0] + [0, 0, 0]], [[1] * 5 + [0] * 3], answers=[1], **place)
    games = [
        sm.TokenGame(model, sm.Task(prompts, "log_prob"), [[1], [3]], masking=masking, mask_id=9)
        for prompts in (padded, sm.Prompts(text, answers=[1], **place))
    ]
    masks = torch.tensor([[True, True], [False, True], [True, False], [False, False]])
    values, want = (game(masks) for game in games)
    torch.testing.assert_close(values, want, rtol=1e-5, atol=1e-5)
    assert games[0].provenance()["tokens"] == text[0]


def test_bytes_of_a_character_are_of_its_word() -> None:
    """Of a tokenizer without offsets, which shows nothing of a character that is not whole."""
    tokenizer, model = tf.ByT5Tokenizer(), t5()
    model.resize_token_embeddings(len(tokenizer))
    text = "Gr\u00fc\u00dfe an \u4f60\u597d. Two \U0001f44d it is"
    task = sm.text_task(model, text, " ok", tokenizer=tokenizer)
    words = sm.TokenGame(model, task, "words", tokenizer=tokenizer)
    labels = [label.split(":")[1] for label in words.labels]
    assert labels == [
        "Gr\u00fc\u00dfe",
        "an",
        "\u4f60",
        "\u597d",
        ".",
        "Two",
        "\U0001f44d",
        "it",
        "is",
    ]


def test_a_wrapped_model_is_asked_as_the_one_within() -> None:
    """PEFT wraps a model in a class whose name says nothing of what it does."""

    class PeftModel(torch.nn.Module):
        def __init__(self, inner: torch.nn.Module) -> None:
            super().__init__()
            self.inner, self.config = inner, inner.config

        def get_base_model(self) -> torch.nn.Module:
            return self.inner

    sizes = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2}
    causal = tf.LlamaForCausalLM(tf.LlamaConfig(**sizes, **heads))
    masked = tf.BertForMaskedLM(tf.BertConfig(**sizes, **heads))
    assert continues_texts(PeftModel(causal)) and not continues_texts(PeftModel(masked))
    assert [fills_masks(PeftModel(model)) for model in (causal, masked)] == [False, True]
    classes = tf.BertForSequenceClassification(tf.BertConfig(**sizes, **heads))
    kinds = [head_of(PeftModel(model)).kind for model in (causal, masked, classes)]
    assert kinds == ["causal", "masked", "classes"]


def test_a_tokenizer_that_knows_no_pairs_is_told() -> None:
    """It writes two texts one behind the other, where a classifier of one looks for its [CLS]."""
    model = sm.load_model("sentiment")
    with pytest.raises(ValueError, match="this tokenizer knows no pairs of texts"):
        sm.text_task(model, "The film was", "negative", second="not good.")


@pytest.mark.parametrize("given", [{"answer": ""}, {"continuation": ""}])
def test_an_empty_answer_is_refused(given: dict[str, str]) -> None:
    tokenizer = byte_level()
    with pytest.raises(ValueError, match="the answer is empty"):
        sm.text_task(gpt2(n_vocab=len(tokenizer)), "The film", **given, tokenizer=tokenizer)
