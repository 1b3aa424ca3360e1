"""How layers are written where a model has several stacks of blocks: by the stack, everywhere."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.circuits.mib import mib_config
from spex_mech.circuits.plots import circuit_positions
from spex_mech.discover import CallableGame
from spex_mech.plots.filters import layer_filters
from spex_mech.plots.network import network_numbers
from spex_mech.plots.numbers import folded_numbers, layer_energy, layer_marks, map_numbers
from spex_mech.report.words import cut_name
from spex_mech.units import Unit, Units
from tests.other_models import OTHERS
from tests.test_experts import build as of_experts

# Labels and layers of an encoder-decoder, as a game of it declares them.
T5 = [
    Unit("encoder.L0H0", "head", 0), Unit("encoder.L0H1", "head", 0),
    Unit("encoder.L1H0", "head", 1), Unit("decoder.L0H0", "head", 2),
    Unit("decoder.L0XH1", "head", 3), Unit("decoder.L0N7", "neuron", 3),
    Unit("decoder.L1H1", "head", 4),
]  # fmt: skip
BLOCKS = ["encoder 0", "encoder 1", "decoder 0", "decoder 1"]


def a_result(units: list[Unit] = T5) -> sm.Interactions:
    """Every pair, of one value each, on three prompts."""
    generator = np.random.default_rng(0)
    pairs = np.stack(np.triu_indices(len(units), 1), axis=1).astype(np.int32)
    values = generator.normal(size=(len(pairs), 3)) + np.arange(len(pairs))[:, None]
    mains = generator.normal(size=(len(units), 3))
    labels = [unit.label for unit in units]
    return sm.Interactions(labels, pairs, values, mains, np.ones(3), unit_table=Units(units))


@pytest.mark.parametrize(
    ("given", "of_unit", "names", "said"),
    [
        (T5, [0, 0, 1, 2, 2, 2, 3], BLOCKS, BLOCKS),
        (
            [Unit("L2H0", "head", 2), Unit("the")],
            [2, -1],
            ["L0", "L1", "L2"],
            ["layer 0", "layer 1", "layer 2"],
        ),
        # A decoder that attends to another model's states: one stack, whose blocks count twice.
        (
            [Unit("L0H0", "head", 0), Unit("L0XH0", "head", 1), Unit("L1H0", "head", 2)],
            [0, 0, 1],
            ["L0", "L1"],
            ["layer 0", "layer 1"],
        ),
        (
            [Unit("L0H0", "head", 0), Unit("head.N3", "neuron", 1), Unit("0.L0H1", "head", 2)],
            [0, 1, 2],
            ["L0", "head", "0.L0"],
            ["layer 0", "head", "0.L0"],
        ),
        # Labels of a game of one's own, which say no number: its layers stay apart.
        (
            [Unit("mlp.N3", "neuron", 4), Unit("mlp.N4", "neuron", 5)],
            [0, 1],
            ["mlp 4", "mlp 5"],
            ["mlp 4", "mlp 5"],
        ),
        (
            [Unit("my.own", "group", 3, ("decoder.L1H0", "decoder.L1H2"))],
            [1],
            ["decoder 0", "decoder 1"],
            ["decoder 0", "decoder 1"],
        ),
    ],
)
def test_layers_are_named_by_the_stack_that_they_lie_in(
    given: list[Unit], of_unit: list[int], names: list[str], said: list[str]
) -> None:
    blocks = Units(given).blocks
    assert blocks.of_unit.tolist() == of_unit
    assert blocks.names == names
    assert [blocks.said(row) for row in range(len(names))] == said
    assert blocks.said(-1) == ""


def test_a_group_lies_in_the_stack_of_its_members_whatever_it_is_called() -> None:
    assert Unit("a.name", "group", 3, ("decoder.L1H0", "decoder.L1H2")).stack == "decoder"
    assert Unit("a.name", "group", 1, ("L1H0", "L1H2")).stack == ""


def test_the_numbers_of_all_pictures_name_the_blocks() -> None:
    found = a_result()
    by_layer = map_numbers(found, "layer")
    assert by_layer.names == layer_energy(found).names == BLOCKS
    # The decoder's first block holds its own attention, cross attention and MLP.
    inside = [(a, b) for a in (3, 4, 5) for b in (3, 4, 5) if a < b]
    rows = [found.units.tolist().index([*pair]) for pair in inside]
    energy = float((found.mean[rows] ** 2).sum())
    assert layer_energy(found).energy[2, 2] == pytest.approx(energy)
    assert layer_energy(found).n_pairs[2, 2] == 3
    assert map_numbers(found).borders == [2, 3, 6]
    folded = folded_numbers(found, share=0.0)
    assert folded.names == found.labels  # one neuron, which has a row of its own
    assert {"encoder 0 x decoder 0", "decoder 0 x decoder 1"} <= {*layer_filters(found)}
    said = {node.label: node.said for node in network_numbers(found, 21).nodes}
    assert said["decoder.L0XH1"] == "decoder 0" and said["encoder.L1H0"] == "encoder 1"


def test_folded_neurons_bear_the_name_of_their_block() -> None:
    neurons = [Unit(f"decoder.L0N{n}", "neuron", 3) for n in range(3)]
    folded = folded_numbers(a_result([*T5[:4], *neurons]), share=0.0, most=1)
    assert "decoder 0, 2 N" in folded.names


def test_marks_over_a_map_name_stacks_and_number_blocks() -> None:
    marks = layer_marks(map_numbers(a_result()), roomy=3, letters=2.0)
    told = [(mark.start, mark.stop, mark.text, mark.is_stack) for mark in marks]
    assert told == [
        (0, 2, "0", False), (2, 3, "1", False), (3, 6, "0", False), (6, 7, "1", False),
        (0, 3, "encod\N{HORIZONTAL ELLIPSIS}", True), (3, 7, "decoder", True),
    ]  # fmt: skip
    plain = [("L0H0", 0), ("L0H1", 0), ("L1H0", 1), ("L1H1", 1), ("L1H2", 1)]
    units = [Unit(label, "head", layer) for label, layer in plain]
    marks = layer_marks(map_numbers(a_result(units)), roomy=3, letters=2.0)
    assert [mark.text for mark in marks] == ["0", "layer 1"]


def test_still_pictures_say_encoder_and_decoder() -> None:
    found = a_result()
    texts = {text.get_text() for text in sm.plot_map(found).axes[0].texts}
    assert {"encoder", "decoder"} <= texts
    assert not {"layer 2", "layer 3", "2", "3"} & texts
    left, right, *_ = sm.plot_layers(found).axes
    for axes in (left, right):
        assert [tick.get_text() for tick in axes.get_xticklabels()] == BLOCKS
    by_layer = sm.plot_map(found, by="layer").axes[0]
    assert [tick.get_text() for tick in by_layer.get_yticklabels()] == BLOCKS


def test_marks_stand_over_the_map_and_are_drawn() -> None:
    """What stands outside of the axes is left out by matplotlib unless it is told otherwise."""
    figure = sm.plot_map(a_result())
    figure.canvas.draw()
    axes = figure.axes[0]
    marks = [text for text in axes.texts if text.get_text() in ("encoder", "decoder")]
    for mark in marks:
        assert mark.get_window_extent().y0 > axes.get_window_extent().y1
        assert mark.get_annotation_clip() is False


def test_interactive_pictures_say_encoder_and_decoder() -> None:
    pytest.importorskip("plotly")
    found = a_result()
    figures = [sm.plot_map(found, backend="plotly"), sm.plot_network(found, backend="plotly")]
    figures += [sm.plot_layers(found, backend="plotly")]
    figures += [sm.plot_map(found, by="layer", backend="plotly")]
    for figure in figures:
        told = figure.to_json()
        assert "decoder 0" in told
        assert not re.search(r"\bL[0-9] x|layer [0-9]", told)
    zoomed = [b for menu in figures[0].layout.updatemenus for b in menu.buttons]
    ranges = {b.label: b.args[0] for b in zoomed}
    # Rows of the encoder's first block, columns of the decoder's first.
    assert ranges["encoder 0 x decoder 0"]["xaxis.range"] == [2.5, 5.5]
    assert ranges["encoder 0 x decoder 0"]["yaxis.range"] == [1.5, -0.5]


def test_a_report_says_encoder_and_decoder(tmp_path: Path) -> None:
    page = sm.write_report(a_result(), tmp_path / "page.html").read_text(encoding="utf-8")
    for text in ("encoder 0", "decoder 1", ">decoder<", "decoder.L0XH1"):
        assert text in page
    assert not re.search(r"\blayer [0-9]|>L[0-9]<", page)


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("language_model.L2H3", "language_model.L2H3"),
        ("multi_modal_language_model.L12H31", "multi_modal_l~L12H31"),
        ("a very long name of one token", "a very long name of~"),
        ("a very long name. With a point in it", "a very long name. W~"),
    ],
)
def test_long_names_keep_what_tells_units_apart(name: str, cut: str) -> None:
    assert cut_name(name) == cut.replace("~", "\N{HORIZONTAL ELLIPSIS}")


def test_graphs_for_other_programs_name_the_stack() -> None:
    nodes = a_result().to_networkx().nodes
    assert (nodes["decoder.L0XH1"]["layer"], nodes["decoder.L0XH1"]["stack"]) == (0, "decoder")
    assert (nodes["encoder.L1H0"]["layer"], nodes["encoder.L1H0"]["stack"]) == (1, "encoder")
    plain = a_result([Unit("L0H0", "head", 0), Unit("L1H0", "head", 1)]).to_networkx().nodes
    assert plain["L1H0"]["layer"] == 1 and "stack" not in plain["L1H0"]


def test_errors_and_the_table_of_a_model_name_the_stack() -> None:
    model = OTHERS["bart"].build()
    with pytest.raises(ValueError, match=r"decoder\.L0XH9: decoder 0 has 4 heads"):
        sm.Components.named(model, ["decoder.L0XH9"])
    with pytest.raises(ValueError, match=r"layers 0 to 5, counted through .* select\('encoder.L0"):
        sm.Components.heads(model, layers=[6])
    seen = sm.inspect_model(model)
    assert seen.n_layers == 4
    assert "4 layers (encoder 2, decoder 2), 24 heads" in str(seen)
    assert "cannot be replayed: its blocks stand in several stacks" in seen.passes


@pytest.mark.parametrize(
    "name", ["decoder.L0H1", "encoder.L1N7", "decoder.L0XH3", " decoder.L9H1 ", "encoder.L0G1"]
)
def test_a_group_is_not_called_as_a_unit_of_a_stack_is(name: str) -> None:
    heads = sm.Components.heads(OTHERS["bart"].build())
    with pytest.raises(ValueError, match="is how a single component is written"):
        heads[:2].group(name)


def test_a_group_may_be_called_otherwise() -> None:
    heads = sm.Components.heads(OTHERS["bart"].build())
    for name in ("decoder", "decoder.L0", "other.L0H1", "the decoder.L0H1"):
        assert heads[:2].group(name).labels == [name]


def test_a_task_says_what_is_read() -> None:
    images = sm.Prompts(inputs={"pixel_values": torch.rand(8, 3, 16, 16)}, answers=[0] * 8)
    task = sm.Task(images, "log_prob", name="images", decode=lambda ids: [str(i) for i in ids])
    assert repr(task) == ("Task 'images': 8 prompts of pixel_values [3 16 16], metric log_prob")
    both = sm.Prompts([[3, 4]], inputs={"decoder_input_ids": [[5, 6, 7]]}, answers=[1])
    assert "1 prompt of 2 tokens and decoder_input_ids [3]" in repr(sm.Task(both, "log_prob"))


def test_a_report_shows_prompts_of_images_whatever_type_the_model_computes_in(
    tmp_path: Path,
) -> None:
    """The model reads them in float64, as one in bfloat16 would read them in that."""
    other = OTHERS["vit"]
    prompts = sm.Prompts(**other.reads(), answers=[0, 1, 2])
    task = sm.Task(prompts, "log_prob", name="images")
    game = sm.ModelGame(other.build(), task, "L0H*")
    found = sm.discover(game, progress=False)
    page = sm.write_report(found, tmp_path / "page.html", task=task).read_text(encoding="utf-8")
    told = page[page.index('id="prompts"') :]
    assert "pixel_values [3 16 16]" in told
    assert "marked token" not in told and "here the answer is read" not in told
    others = sm.Prompts(inputs={"pixel_values": prompts.inputs["pixel_values"] + 1})
    with pytest.raises(ValueError, match="has other prompts than those of the result"):
        sm.write_report(found, tmp_path / "page.html", task=replace(task, prompts=others))


def test_a_circuit_is_drawn_with_a_column_for_each_block() -> None:
    labels = [unit.label for unit in T5]
    game = CallableGame(lambda masks: masks.double().prod(dim=1, keepdim=True), labels)
    circuit = sm.find_circuit(game, sm.discover(game), progress=False, size=7)
    places = circuit_positions(replace(circuit, unit_table=Units(T5)))
    assert places["decoder.L0H0"][0] == places["decoder.L0XH1"][0] == 2.0
    assert places["decoder.L1H1"][0] == 3.0


def answers_of(logits: torch.Tensor) -> dict[str, torch.Tensor]:
    """Answers that the intact model gives, so that a circuit has something to keep."""
    return {"answers": logits.argmax(-1), "wrong_answers": logits.argmin(-1)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stacks", "experts"])
def test_results_and_circuits_come_back_from_their_files(kind: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, 61, (24, 6), generator=generator)
    if kind == "stacks":
        model = OTHERS["bart"].build()
        decoder = tokens[:, :4].flip(0)
        with torch.no_grad():
            given = answers_of(model(tokens, decoder_input_ids=decoder).logits[:, -1])
        prompts = sm.Prompts(tokens, inputs={"decoder_input_ids": decoder}, **given)
        game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"))
    else:
        model = of_experts("mixtral")
        with torch.no_grad():
            given = answers_of(model(tokens).logits[:, -1])
        task = sm.Task(sm.Prompts(tokens, **given), "logit_diff")
        game = sm.ModelGame(model, task, "heads,experts")
    found = sm.discover(game, progress=False)
    circuit = sm.find_circuit(game, found, progress=False)
    found.save(tmp_path / "found.npz")
    circuit.save(tmp_path / "circuit.json")
    again, kept = sm.load(tmp_path / "found.npz"), sm.load(tmp_path / "circuit.json")
    assert again.unit_table == found.unit_table == game.units
    assert again.unit_table.blocks.names == found.unit_table.blocks.names
    assert kept.unit_table == circuit.unit_table and kept.units == circuit.units
    assert sm.score_circuit(game, kept, progress=False).faithfulness.value == pytest.approx(
        circuit.faithfulness.value, abs=1e-6
    )
    units = sm.Components.named(model, again.labels)
    assert units.labels == game.units.labels  # labels name the same units of the model
    told = {
        "stacks": "has one stack of layers, each with one attention, and no node for encoder",
        "experts": "has nodes for heads and whole MLPs, not for L0E0",
    }[kind]
    for one in (circuit, kept):
        with pytest.raises(ValueError, match=told):
            one.to_mib()


def test_the_benchmarks_format_is_refused_for_layers_that_are_not_alike() -> None:
    """Its nodes are every head of every layer, as many in each: others would be made up."""
    assert mib_config(None, [4, 4])["n_heads"] == 4
    game = CallableGame(lambda masks: masks.double().prod(dim=1, keepdim=True), ["L0H0", "L1H1"])
    circuit = sm.find_circuit(game, sm.discover(game), progress=False)
    for heads, stacks, why in (
        ([4, 2], False, "the layers of this model have 2, 4 heads"),
        ([4, 0], False, "the layers of this model have 0, 4 heads"),
        ([4, 4], True, "this model has several"),
    ):
        own = replace(circuit, about={**circuit.about, "config": mib_config(None, heads, stacks)})
        with pytest.raises(ValueError, match=f"{why}; use to_networkx"):
            own.to_mib(d_model=8)
        assert own.to_mib(d_model=8, n_layers=2, n_heads=2)["cfg"]["n_heads"] == 2  # as was said
