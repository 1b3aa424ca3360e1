"""Images, sounds, encoder-decoders: what is found, and values beside a loop of hooks by hand.

The loop names modules by hand, runs one prompt at a time, and asks nothing of the package.
"""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spex_mech as sm
from spex_mech.engine.prompts import tokens_sha256
from tests.other_models import D_HEAD, D_MLP, N_HEADS, OTHERS, Other

Lost = tuple[str, str, int]  # "head" or "neuron", the label of its layer, its number


class ByHand:
    """One prompt, one mask at a time."""

    def __init__(self, other: Other, model: Any, corrupted: dict[str, Tensor]) -> None:
        self.other, self.model = other, model
        self.given: dict[str, Tensor] = {}  # by module
        given = other.reads()
        self.read = {"input_ids": given.get("tokens"), **given.get("inputs", {})}
        self.read = {k: v for k, v in self.read.items() if v is not None}
        self.n_prompts = len(next(iter(self.read.values())))
        places = {("head", k): v for k, v in other.heads.items()}
        places |= {("neuron", k): v for k, v in other.neurons.items()}
        self.places = places
        self.modules: dict[Any, nn.Module] = {k: model.get_submodule(v) for k, v in places.items()}
        self.acts = [self._acts(self._row(self.read, i)) for i in range(self.n_prompts)]
        other_read = self.read | corrupted
        self.others = [self._acts(self._row(other_read, i)) for i in range(self.n_prompts)]

    @staticmethod
    def _row(read: dict[str, Tensor], prompt: int) -> dict[str, Tensor]:
        rows = {k: v[prompt : prompt + 1] for k, v in read.items()}
        return {k: v.double() if v.is_floating_point() else v for k, v in rows.items()}

    @torch.no_grad()
    def _acts(self, row: dict[str, Tensor]) -> dict[Any, Tensor]:
        seen: dict[Any, Tensor] = {}
        handles = []
        for key, module in self.modules.items():

            def hook(module: nn.Module, args: Any, key: Any = key) -> None:
                seen[key] = args[0].clone()

            handles.append(module.register_forward_pre_hook(hook))
        self.model(**row)
        for handle in handles:
            handle.remove()
        return seen

    def reference(self, ablation: str, key: Any, prompt: int) -> Tensor:
        if ablation == "zero":
            return torch.zeros_like(self.acts[prompt][key])
        if ablation == "mean":
            return torch.cat([a[key].flatten(0, -2) for a in self.acts]).mean(0)
        if ablation == "mean_per_position":
            return torch.stack([a[key] for a in self.acts]).mean(0)
        if ablation == "mean of others":
            return torch.cat([a[key].flatten(0, -2) for a in self.others]).mean(0)
        if ablation == "given":
            return self.given[self.places[key]][prompt].view(self.acts[prompt][key].shape)
        return self.others[prompt][key]

    @torch.no_grad()
    def value(self, ablation: str, lost: list[Lost], prompt: int) -> float:
        handles = []
        for kind, layer, index in lost:
            key = (kind, layer)
            width = D_HEAD if kind == "head" else 1
            part = slice(index * width, (index + 1) * width)

            def hook(module: nn.Module, args: Any, key: Any = key, part: slice = part) -> Any:
                new = args[0].clone()
                ref = self.reference(ablation, key, prompt).expand(new.shape)
                new[..., part] = ref[..., part]
                return (new, *args[1:])

            handles.append(self.modules[key].register_forward_pre_hook(hook))
        try:
            out = self.model(**self._row(self.read, prompt))
        finally:
            for handle in handles:
                handle.remove()
        return float(self.other.metric(out, None)[0])  # type: ignore[arg-type]


def units_of(model: Any, prompts: sm.Prompts | None = None) -> sm.Components:
    neurons = sm.Components.neurons(model, prompts=prompts)
    return sm.Components.heads(model, prompts=prompts) + neurons[:: D_MLP // 2]


def lost_by(label: str) -> Lost:
    for letter, kind in (("H", "head"), ("N", "neuron")):
        layer, found, number = label.rpartition(letter)
        if found:
            return kind, layer, int(number)
    raise AssertionError(label)


def corrupted_of(other: Other) -> dict[str, Tensor]:
    given = other.reads()
    every = {"input_ids": given.get("tokens"), **given.get("inputs", {})}
    return {k: v.flip(0) for k, v in every.items() if v is not None}


def changed_of(other: Other) -> dict[str, Tensor]:
    """Other prompts: of them a mean is another than of the prompts."""
    every = corrupted_of(other)
    return {k: 0.5 * v + 0.2 if v.is_floating_point() else (v + 5) % 90 for k, v in every.items()}


def some_tensors(by_hand: ByHand) -> dict[str, Tensor]:
    """One for each hook point, ``[prompt pos width]``."""
    generator = torch.Generator().manual_seed(5)
    found = {}
    for key, name in by_hand.places.items():
        acts = [acts[key].flatten(0, -2) for acts in by_hand.acts]
        noise = torch.randn(torch.stack(acts).shape, generator=generator)
        found[name] = noise.double()
    return found


def check(name: str, ablation: str, replay: bool | None = None) -> None:
    other = OTHERS[name]
    model = other.build()
    given, swapped = other.reads(), corrupted_of(other)
    options: dict[str, Any] = {"ablation": ablation}
    if ablation == "resample":
        ids = swapped.get("input_ids")
        inputs = {k: v for k, v in swapped.items() if k != "input_ids"}
        given |= {"corrupted": ids, "corrupted_inputs": inputs}
    if ablation == "mean of others":
        swapped = changed_of(other)
        inputs = {k: v for k, v in swapped.items() if k != "input_ids"}
        own = sm.Prompts(swapped.get("input_ids"), inputs=inputs)
        options = {"ablation": "mean", "reference": own}
    by_hand = ByHand(other, model, swapped)
    if ablation == "given":
        by_hand.given = options["ablation"] = some_tensors(by_hand)
    prompts = sm.Prompts(**given)
    units = units_of(model)
    task = sm.Task(prompts, other.metric)
    game = sm.ModelGame(model, task, units, replay=replay, **options)
    generator = torch.Generator().manual_seed(3)
    singles = ~torch.eye(len(units), dtype=torch.bool)
    masks = torch.cat([singles, torch.rand(4, len(units), generator=generator) > 0.3])
    got = game(masks)
    want = torch.tensor(
        [
            [
                by_hand.value(
                    ablation,
                    [lost_by(u.label) for u, kept in zip(units, mask, strict=True) if not kept],
                    prompt,
                )
                for prompt in range(by_hand.n_prompts)
            ]
            for mask in masks
        ]
    )
    intact = torch.tensor([by_hand.value(ablation, [], p) for p in range(by_hand.n_prompts)])
    effects = (want - intact).abs()
    n_heads = sum(unit.kind == "head" for unit in units)
    assert (effects[:n_heads].amax(dim=1) > 0).all()  # each head does something
    assert float((got.cpu() - want).abs().max()) <= 1e-5 * float(effects.max())


@pytest.mark.parametrize(
    ("name", "ablation"),
    [("vit", "mean"), ("t5", "resample"), ("bart", "given"), ("whisper", "mean of others")],
)
def test_values_are_those_of_a_loop_by_hand(name: str, ablation: str) -> None:
    check(name, ablation)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(
    "ablation", ["zero", "mean", "mean_per_position", "mean of others", "resample", "given"]
)
# The pooler of SigLIP attends in torch's nn.MultiheadAttention, whose heads are no units.
@pytest.mark.filterwarnings("ignore:.*calls no module that reads what the heads gave")
def test_values_of_every_ablation_are_those_of_a_loop_by_hand(name: str, ablation: str) -> None:
    check(name, ablation)


def test_what_is_found_has_labels_of_its_own() -> None:
    t5 = sm.inspect_model(OTHERS["t5"].build())
    assert [line.split()[0] for line in str(t5).splitlines()[3:]] == [
        "encoder.L0-1", "encoder.L0-1", "decoder.L0-1", "decoder.L0-1X", "decoder.L0-1",
    ]  # fmt: skip
    assert not t5.refused
    model = OTHERS["t5"].build()
    cross = sm.Components.heads(model).select("decoder.L1X*")
    assert cross.labels == [f"decoder.L1XH{head}" for head in range(N_HEADS)]
    assert sm.Components.named(model, ["encoder.L1N7"]).units[0].layer == 1
    with pytest.raises(ValueError, match=r"labels begin with one of encoder.L0, .*decoder.L0X"):
        sm.Components.named(model, ["L0H1"])
    assert set(sm.Components.heads(OTHERS["vit"].build()).labels) == {
        f"L{layer}H{head}" for layer in (0, 1) for head in range(N_HEADS)
    }


def test_labels_do_not_depend_on_the_lengths_of_prompts() -> None:
    model, tokens = OTHERS["t5"].build(), OTHERS["t5"].reads()["tokens"]
    same = sm.Prompts(tokens, inputs={"decoder_input_ids": tokens})
    labels = sm.Components.heads(model, prompts=same).labels
    assert labels == sm.Components.heads(model).labels and "decoder.L1XH3" in labels


def test_a_class_is_an_answer() -> None:
    """Metrics by name, on images: the answers are classes."""
    other = OTHERS["vit"]
    model = other.build()
    inputs = other.reads()["inputs"]
    prompts = sm.Prompts(inputs=inputs, answers=[0, 1, 2], wrong_answers=[1, 2, 0])
    game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), "L1H*", ablation="zero")
    with torch.no_grad():
        logits = model(inputs["pixel_values"].double()).logits
    want = logits[[0, 1, 2], [0, 1, 2]] - logits[[0, 1, 2], [1, 2, 0]]
    torch.testing.assert_close(game(torch.ones(1, 4, dtype=torch.bool))[0], want)
    with pytest.raises(ValueError, match=r"answers with one of 3|outside the vocabulary of 3"):
        sm.ModelGame(model, sm.Task(sm.Prompts(inputs=inputs, answers=[0, 1, 3]), "log_prob"))


def test_answers_of_a_decoder_are_read_at_its_last_position() -> None:
    other = OTHERS["t5"]
    model, given = other.build(), other.reads()
    decoder = given["inputs"]["decoder_input_ids"]
    masks = torch.ones(1, 4, dtype=torch.bool)
    with torch.no_grad():
        logits = model(given["tokens"], decoder_input_ids=decoder).logits.log_softmax(-1)
    for answers, want in (
        ([5, 6, 7], logits[range(3), -1, [5, 6, 7]]),
        (None, logits[:, :-1].gather(2, decoder[:, 1:, None])[..., 0].mean(1)),
    ):
        task = sm.Task(sm.Prompts(**given, answers=answers), "log_prob")
        game = sm.ModelGame(model, task, "decoder.L0XH*", ablation="zero")
        torch.testing.assert_close(game(masks)[0], want)


def test_a_metric_of_other_rows_is_refused() -> None:
    """CLIP compares each image with every text of its batch, which a game fills as it likes."""
    other = OTHERS["clip"]
    prompts, model = other.prompts(), other.build()
    for metric in (
        lambda out, rows: out.logits_per_image.softmax(-1).diagonal(),
        lambda out, rows: out.logits_per_image[:, 0],  # of the first row it is its own
    ):
        with pytest.raises(ValueError, match="has another value for a prompt alone than beside"):
            sm.ModelGame(model, sm.Task(prompts, metric))
    one_by_one = sm.Task(prompts, lambda out, rows: out.logits_per_image[:, 0])
    sm.ModelGame(model, one_by_one, batch_size=1)


def test_padding_is_in_no_mean() -> None:
    model, given = OTHERS["t5"].build(), OTHERS["t5"].reads()
    real = torch.ones(3, 6, dtype=torch.bool)
    real[0, 4:] = False
    decoder = real[[1, 1, 0], :6]
    inputs = {
        "decoder_input_ids": given["tokens"].flip(0),
        "decoder_attention_mask": decoder.long(),
    }
    prompts = sm.Prompts(given["tokens"], real, inputs=inputs)  # of equal lengths
    game = sm.ModelGame(model, sm.Task(prompts, "log_prob"), ablation="mean")
    seen: dict[str, Tensor] = {}
    for name in game.hook_points:
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda _, args, n=name: seen.__setitem__(n, args[0]))
    with torch.no_grad():
        model(given["tokens"], attention_mask=real.long(), **inputs)
    wanted = {
        n: act[decoder if n.startswith("decoder") else real].mean(0) for n, act in seen.items()
    }
    got = {name: reference[0, 0] for name, reference in game.references.items()}
    torch.testing.assert_close(got, wanted)
    sounds = OTHERS["wav2vec2"]
    marked = {**sounds.reads()["inputs"], "attention_mask": torch.tensor([[1] * 60 + [0] * 4] * 3)}
    task = sm.Task(sm.Prompts(inputs=marked), sounds.metric)
    with pytest.raises(ValueError, match="attention_mask marks padding"):
        sm.ModelGame(sounds.build(), task, ablation="mean")


@pytest.mark.slow
def test_what_a_decoder_reads_is_checked() -> None:
    model, given = OTHERS["bart"].build(), OTHERS["bart"].reads()
    decoder = given["inputs"]["decoder_input_ids"]
    mask = torch.ones_like(decoder)
    mask[0, :2] = 0

    def game(inputs: dict[str, Tensor], **more: Any) -> sm.ModelGame:
        prompts = sm.Prompts(given["tokens"], answers=[5, 6, 7], inputs=inputs, **more)
        return sm.ModelGame(model, sm.Task(prompts, "log_prob"), "decoder.L0XH*")

    with pytest.raises(ValueError, match=r"padded on the right \(decoder_attention_mask True"):
        game({"decoder_input_ids": decoder, "decoder_attention_mask": mask})
    with pytest.raises(ValueError, match="decoder_attention_mask has shape"):
        game({"decoder_input_ids": decoder, "decoder_attention_mask": mask[:, :1]})
    with pytest.raises(ValueError, match="inputs hold the token 99, outside the vocabulary of 99"):
        game({"decoder_input_ids": decoder.clamp(min=99)})
    with pytest.raises(ValueError, match="makes the decoder's tokens of the prompts' own"):
        game({})
    assert len(game({}, answer_pos=[2, 3, 4])) == 4  # as a masked model is asked
    ends = decoder.clone()
    ends[0, 2:] = 0
    with pytest.warns(UserWarning, match="1 decoder_input_ids end in the model's padding token 0"):
        game({"decoder_input_ids": ends})


@pytest.mark.parametrize(("name", "start"), [("t5", 0), ("whisper", 1)])
def test_what_a_decoder_reads_must_be_given_where_the_model_makes_none(
    name: str, start: int
) -> None:
    other, n_passes = OTHERS[name], 0
    model, given = other.build(), other.reads()
    if name == "t5":
        model.config.decoder_start_token_id = start
    inputs = {k: v for k, v in given["inputs"].items() if not k.startswith("decoder")}
    given["inputs"] = inputs or None
    prompts = sm.Prompts(**given, answers=[5, 6, 7])

    def counted(*_: Any) -> None:
        nonlocal n_passes
        n_passes += 1

    counting = model.get_encoder().register_forward_hook(counted)
    told = re.escape(f"Prompts(..., inputs={{'decoder_input_ids': [[{start}]] * 3}})")
    with pytest.raises(ValueError, match=f"does not run without what its decoder reads.*{told}"):
        sm.ModelGame(model, sm.Task(prompts, "log_prob"))
    assert n_passes <= 2  # of one prompt: without a decoder's tokens, and with
    assert told.replace("\\", "") in str(sm.inspect_model(model, prompts=prompts))
    counting.remove()
    given["inputs"] = {**inputs, "decoder_input_ids": [[start]] * 3}  # as it was told
    task = sm.Task(sm.Prompts(**given, answers=[5, 6, 7]), "log_prob")
    game = sm.ModelGame(model, task, "decoder.L0XH*")
    read = {"input_ids": given["tokens"]} if "tokens" in given else {}
    more = {k: v.double() for k, v in inputs.items()}
    with torch.no_grad():
        out = model(**read, **more, decoder_input_ids=torch.tensor([[start]] * 3)).logits
    want = out[:, -1].log_softmax(-1)[range(3), [5, 6, 7]]
    torch.testing.assert_close(game(torch.ones(1, 4, dtype=torch.bool))[0], want)


def test_a_model_that_makes_its_decoders_tokens_needs_none() -> None:
    """BART moves the encoder's by one."""
    other = OTHERS["bart"]
    model, tokens = other.build(), other.reads()["tokens"]
    assert len(sm.ModelGame(model, sm.Task(sm.Prompts(tokens), other.metric))) == 24


def test_prompts_of_other_inputs_are_told_apart() -> None:
    images = OTHERS["vit"].reads()["inputs"]["pixel_values"]
    prompts = sm.Prompts(inputs={"pixel_values": images})
    assert tokens_sha256(prompts) != tokens_sha256(sm.Prompts(inputs={"input_values": images}))
    words = sm.Prompts(OTHERS["t5"].reads()["tokens"])
    for one, other in ((prompts, words), (words, sm.Prompts(**OTHERS["t5"].reads()))):
        with pytest.raises(ValueError, match="other fields"):
            one.joined(other)
