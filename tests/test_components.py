"""Labels, selection, and the plan that the engine applies."""

from typing import Any

import pytest
import torch

import spex_mech as sm
from spex_mech.engine.components import Site

ARCH = sm.Architecture(
    heads=("l.0.o", "l.1.o", "l.2.o"), neurons=("l.0.d", None, "l.2.d"), n_heads=(2, 3, 2),
    d_head=(4, 4, 4), d_mlp=(5, 0, 5),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("L9H6", "L9H6"),
        ("l9h6", "L9H6"),
        ("9.6", "L9H6"),
        ("A9.6", "L9H6"),
        ("a9.h6", "L9H6"),
        (" blocks.9.attn.hook_z[6] ", "L9H6"),
        ("L3N1024", "L3N1024"),
        ("blocks.3.mlp.hook_post[1024]", "L3N1024"),
        ("L2G1", "L2G1"),
    ],
)
def test_every_spelling_of_the_field_is_read(text: str, label: str) -> None:
    assert sm.Component.parse(text).label == label
    assert sm.Component.parse(sm.Component.parse(text).label) == sm.Component.parse(text)


@pytest.mark.parametrize("text", ["", "L9", "9", "H6", "L9X6", "a9.x6", "blocks.9.attn.hook_q[6]"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not the label of a component; write L9H6"):
        sm.Component.parse(text)


def test_labels_and_components_are_in_it() -> None:
    heads = sm.Components.heads(ARCH)
    assert "L0H1" in heads and heads[0] in heads and "L0N1" not in heads and 3 not in heads
    with pytest.raises(ValueError, match="layers is empty"):
        sm.Components.neurons(ARCH, layers=[])


def test_one_number_of_heads_for_each_layer() -> None:
    with pytest.raises(ValueError, match="n_heads has 2 numbers for 1 layers"):
        sm.Architecture(heads=("a",), neurons=(None,), n_heads=(2, 3))


def test_heads_and_neurons_in_layer_order() -> None:
    heads, neurons = sm.Components.heads(ARCH), sm.Components.neurons(ARCH)
    assert heads.labels == ["L0H0", "L0H1", "L1H0", "L1H1", "L1H2", "L2H0", "L2H1"]
    assert len(neurons) == 10 and neurons.labels[5] == "L2N0"
    assert sm.Components.neurons(ARCH, layers=2).labels == [f"L2N{i}" for i in range(5)]
    assert sm.Components.neurons(ARCH, layers=[2, 0]).labels[0] == "L2N0"


def test_union_slice_index_select() -> None:
    both = sm.Components.heads(ARCH) + sm.Components.neurons(ARCH, layers=0)
    assert len(both) == 12 and both[7].label == "L0N0"
    assert both[1:3].labels == ["L0H1", "L1H0"]
    assert both[[3, 0]].labels == ["L1H1", "L0H0"]
    assert both["L1H1"].labels == ["L1H1"]
    assert both[["9.0".replace("9", "1"), "L0N3"]].labels == ["L1H0", "L0N3"]
    assert both.select("L0*").labels == ["L0H0", "L0H1", *[f"L0N{i}" for i in range(5)]]
    assert both.select("L[12]H*").labels == ["L1H0", "L1H1", "L1H2", "L2H0", "L2H1"]
    assert both.index("L0N0") == 7
    assert [unit.label for unit in both] == both.labels
    assert sm.Components.named(ARCH, ["a2.h1", "L0N4"]).labels == ["L2H1", "L0N4"]


def test_layers_patterns_and_what_is_left() -> None:
    model = sm.load_model("demo")
    heads = sm.Components.heads(model)
    assert sm.Components.heads(model, layers=1).labels == heads.select("L1*").labels
    assert heads.select("L1H[01], L0H3").labels == ["L0H3", "L1H0", "L1H1"]
    assert heads.select(["L1H[01]", "L0H3"]).labels == ["L0H3", "L1H0", "L1H1"]
    assert (heads - heads.select("L0*,L1H3")).labels == ["L1H0", "L1H1", "L1H2"]
    for wrong, told in (
        (lambda: heads.select("L0*,L7*"), "no component matches 'L7"),
        (lambda: heads - heads, "no components left"),
        (lambda: sm.Components.heads(model, layers=5), "no layer 5"),
        (lambda: sm.Components.heads(model, layers=[True]), "no layer True"),
        (lambda: heads - heads["L0H0", "L0H1"].group("g"), "g is not among these 8 components"),
        (lambda: heads - sm.Components.heads(sm.load_model("sentiment")), "two different models"),
    ):
        with pytest.raises(ValueError, match=told):
            wrong()


def test_errors_name_the_value_and_the_cure() -> None:
    heads = sm.Components.heads(ARCH)
    for joined in (lambda: heads - "L0H1", lambda: heads + "L0H1"):  # type: ignore[operator]
        with pytest.raises(TypeError, match=r"components . 'L0H1', a str: give components too"):
            joined()
    with pytest.raises(ValueError, match="duplicate unit: L0H1 covers L0H1, which L0H1 covers"):
        heads + heads[[1]]
    with pytest.raises(ValueError, match=r"unknown component L7H0.*from L0H0 to L2H1"):
        heads["L7H0"]
    with pytest.raises(ValueError, match="unknown component L7H0: the model has layers 0 to 2"):
        sm.Components.named(ARCH, ["L7H0"])
    with pytest.raises(ValueError, match="unknown component L1H3: layer 1 has 3 heads"):
        sm.Components.named(ARCH, ["1.3"])
    with pytest.raises(ValueError, match="layer 1 has no neurons"):
        sm.Components.neurons(ARCH, layers=1)
    with pytest.raises(ValueError, match="no layer 3: the model has layers 0 to 2"):
        sm.Components.neurons(ARCH, layers=3)
    with pytest.raises(ValueError, match=r"no component matches 'L9\*'; labels look like L0H0"):
        heads.select("L9*")
    with pytest.raises(ValueError, match="no components left"):
        heads[0:0]
    with pytest.raises(ValueError, match="two different models"):
        heads + sm.Components.heads(sm.Architecture(("x",), (None,), 2))
    with pytest.raises(ValueError, match="has no key-value groups"):
        sm.Components.kv_groups(ARCH)
    with pytest.raises(ValueError, match="heads names 1 layers and neurons 2"):
        sm.Architecture(heads=("a",), neurons=("b", "c"), n_heads=1)


def test_a_group_and_one_of_its_heads_overlap() -> None:
    grouped = sm.Architecture(heads=("o",), neurons=(None,), n_heads=4, n_kv_heads=2)
    with pytest.raises(ValueError, match="duplicate unit: L0H3 covers L0H3, which L0G1 covers"):
        sm.Components.kv_groups(grouped) + sm.Components.heads(grouped)[3:]


def test_sites_are_the_slots_of_the_units_in_forward_order() -> None:
    units = sm.Components.named(ARCH, ["L2N1", "L0H1", "L2H0", "L2N4"])
    want = [
        Site(0, "head", torch.tensor([4, 1])),
        Site(2, "head", torch.tensor([2, 4])),
        Site(2, "neuron", torch.tensor([4, 0, 4, 4, 3])),
    ]
    got = units.sites()
    assert [(s.layer, s.kind, s.slot_unit.tolist()) for s in got] == [
        (s.layer, s.kind, s.slot_unit.tolist()) for s in want
    ]


def test_units_show_themselves_in_one_line() -> None:
    model = sm.load_model("demo")
    heads = sm.Components.heads(model)
    assert str(heads[3]) == "L0H3"
    assert repr(heads) == "Components(8: L0H0, L0H1, L0H2, L0H3, ...)"
    assert repr(heads[:2]) == "Components(2: L0H0, L0H1)"


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        ("L0H3,L1H0", ["L0H3", "L1H0"]),
        (["L0H3", "L1H0"], ["L0H3", "L1H0"]),
        (("L1H*", "L0H2"), ["L1H0", "L1H1", "L1H2", "L1H3", "L0H2"]),
        ([sm.Component("head", 1, 2)], ["L1H2"]),
        (sm.Component("head", 0, 1), ["L0H1"]),
    ],
)
def test_a_game_takes_units_by_name(given: Any, labels: list[str]) -> None:
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, n_prompts=2)
    game = sm.ModelGame(model, task, given)
    assert game.labels == labels
    same = sm.ModelGame(model, task, sm.Components.named(model, labels))
    masks = torch.eye(len(labels), dtype=torch.bool)
    assert torch.equal(game(masks), same(masks))


def test_labels_and_components_are_listed_together() -> None:
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, 4)
    head = sm.Component("head", 0, 1)
    assert sm.ModelGame(model, task, ["L1H2", head, "L0N3"]).labels == ["L1H2", "L0H1", "L0N3"]


def test_a_long_list_of_labels_is_not_looked_at_again_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The labels of a result of 46,350 units would take an hour to become units."""
    model = sm.load_model("demo")
    labels, looked, slots = sm.Components.neurons(model).labels, [], sm.Components._slots
    monkeypatch.setattr(
        sm.Components, "_slots", lambda self, unit: looked.append(unit) or slots(self, unit)
    )
    units = sm.ModelGame(model, sm.load_task("induction", model, 4), labels).components
    assert units.labels == labels and len(looked) < 20 * len(labels)
    monkeypatch.setattr(sm.Components, "index", None)  # which looks at all units for each label
    assert units[labels[::-2]].labels == labels[::-2] and units[units[1:3]].labels == labels[1:3]


def test_no_mask_is_told() -> None:
    model = sm.load_model("demo")
    game = sm.ModelGame(model, sm.load_task("induction", model, 4))
    with pytest.raises(ValueError, match="masks has no row; give one mask or more"):
        game(torch.ones(0, len(game)))
