"""Groups of components as one unit: values and slopes by hooks by hand, and what results say."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spex_mech as sm
from spex_mech.engine.components import Component, Group
from tests.families import N_HEADS, PlainEngine, build
from tests.test_engine import some_masks, some_prompts

Slot = tuple[str, int, int]  # kind, layer, index


def grouped(model: Any) -> sm.Components:
    """A group of both layers and both kinds, one within a layer, and single components."""
    heads, neurons = sm.Components.heads(model), sm.Components.neurons(model)
    return (
        heads["L0H1"]
        + (heads["L1H3", "L0H0"] + neurons["L0N3", "L1N7", "L1N8"]).group("across")
        + heads["L1H0"]
        + (heads["L1H2"] + neurons.select("L1N2*")).group("late")
        + neurons["L0N5", "L1N1"]
    )


def slots_of(units: sm.Components) -> list[list[Slot]]:
    """What each unit covers, by hand."""
    found = []
    for unit in units:
        members = unit.members if isinstance(unit, Group) else (unit,)
        found.append([(m.kind, m.layer, m.index) for m in members])
    return found


def test_members_are_those_that_were_joined() -> None:
    units = grouped(build("gpt2"))
    assert units.labels == ["L0H1", "across", "L1H0", "late", "L0N5", "L1N1"]
    assert slots_of(units)[1] == [
        ("head", 1, 3), ("head", 0, 0), ("neuron", 0, 3), ("neuron", 1, 7), ("neuron", 1, 8),
    ]  # fmt: skip
    assert units.layers() == [[0], [0, 1], [1], [1], [0], [1]]


@pytest.mark.parametrize("replay", [True, False])
@pytest.mark.parametrize(
    ("family", "ablation"),
    [("gpt2", "zero"), ("gpt2", "mean"), ("gpt2", "resample"), ("llama", "mean")],
)
def test_a_group_is_its_members_together(family: str, ablation: str, replay: bool) -> None:
    model, prompts = build(family), some_prompts()
    units = grouped(model)
    task = sm.Task(prompts, "logit_diff")
    game = sm.ModelGame(model, task, units, ablation=ablation, replay=replay)
    masks = torch.cat([~torch.eye(len(units), dtype=torch.bool), some_masks(6, len(units), 0.4)])
    got = game(masks)

    assert prompts.corrupted is not None
    plain = PlainEngine(family, model, prompts.tokens, prompts.corrupted)
    want = torch.empty(got.shape)
    slots = slots_of(units)
    for m, mask in enumerate(masks):
        lost = [s for own, keep in zip(slots, mask, strict=True) if not keep for s in own]
        for p in range(len(prompts)):
            last = plain.logits(ablation, lost, p)[-1]
            want[m, p] = last[prompts.answers[p, 0]] - last[prompts.wrong_answers[p, 0]]
    torch.testing.assert_close(got.float(), want, rtol=1e-5, atol=1e-5)
    assert (got[[1, 3]] - got[6]).abs().min(dim=1).values.max() > 1e-3  # groups matter


def slopes_by_hand(
    plain: PlainEngine, ablation: str, prompts: sm.Prompts, slots: list[list[Slot]], gates: Tensor
) -> Tensor:
    """The gradient of the prompt mean by the gate of each unit, one hook for each slot."""
    leaf = gates.clone().requires_grad_()
    total: Any = 0.0
    for p in range(len(prompts)):
        handles = []
        for unit, own in enumerate(slots):
            for kind, layer, index in own:
                ref = plain.reference(ablation, (kind, layer), p)

                def hook(
                    module: nn.Module, args: Any, unit: int = unit, kind: str = kind,
                    index: int = index, ref: Tensor = ref,
                ) -> Any:  # fmt: skip
                    flat = args[0].reshape(len(ref), -1)
                    width = flat.shape[1] // N_HEADS if kind == "head" else 1
                    here = torch.zeros(flat.shape[1], dtype=torch.bool)
                    here[index * width : (index + 1) * width] = True
                    new = torch.where(here, ref + leaf[unit] * (flat - ref), flat)
                    return (new.reshape(args[0].shape), *args[1:])

                handles.append(plain.modules[kind, layer].register_forward_pre_hook(hook))
        last = plain.model(prompts.tokens[p][None]).logits[0, -1]
        for handle in handles:
            handle.remove()
        total = total + last[prompts.answers[p, 0]] - last[prompts.wrong_answers[p, 0]]
    return torch.autograd.grad(total / len(prompts), leaf)[0]


@pytest.mark.parametrize("replay", [True, False])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_slopes_of_a_group_are_those_of_hooks_by_hand(family: str, replay: bool) -> None:
    model, prompts = build(family), some_prompts()
    units = grouped(model)
    game = sm.ModelGame(model, sm.Task(prompts, "logit_diff"), units, replay=replay)
    assert prompts.corrupted is not None
    plain = PlainEngine(family, model, prompts.tokens, prompts.corrupted)
    gates = torch.ones(4, len(units))
    gates[1, 1] = gates[2, 3] = 0.0  # without either group
    gates[3] = torch.linspace(0.3, 0.9, len(units))
    want = [slopes_by_hand(plain, "mean", prompts, slots_of(units), row) for row in gates]
    torch.testing.assert_close(
        game.gradient(gates).float(), torch.stack(want), rtol=1e-4, atol=1e-5
    )
    values, slopes = game.value_and_gradient(gates[:3] > 0)
    torch.testing.assert_close(values, game(gates[:3] > 0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slopes.float(), torch.stack(want[:3]), rtol=1e-4, atol=1e-5)


def test_a_group_of_key_value_groups_and_of_groups() -> None:
    model = build("llama")
    kv, heads = sm.Components.kv_groups(model), sm.Components.heads(model)
    both = (kv["L0G1"].group("first") + heads["L1H0"]).group("both")
    assert both.labels == ["both"] and both.table()[0].slots == ("L0G1", "L1H0")
    task = sm.Task(some_prompts(), "logit_diff")
    single = sm.ModelGame(model, task, heads)(
        torch.tensor([[label not in ("L0H2", "L0H3", "L1H0") for label in heads.labels]])
    )
    torch.testing.assert_close(sm.ModelGame(model, task, both)(torch.tensor([[False]])), single)


def test_results_carry_groups_in_their_table(tmp_path: Path) -> None:
    model = build("gpt2")
    game = sm.ModelGame(model, sm.Task(some_prompts(6), "logit_diff"), grouped(model))
    found = sm.discover(game, "exhaustive", progress=False)
    across, late = found.unit_table[1], found.unit_table[3]
    assert (across.kind, across.layer) == ("group", None)
    assert across.slots == ("L1H3", "L0H0", "L0N3", "L1N7", "L1N8")
    assert (late.kind, late.layer, late.slots[0]) == ("group", 1, "L1H2")
    again = sm.Interactions.load(found.save(tmp_path / "found.npz"))
    assert again.unit_table == found.unit_table
    assert again.value("across", "late") == found.value("across", "late")
    kept = np.ones((4, 6), dtype=bool)
    kept[[1, 3], 1] = kept[[2, 3], 3] = False
    intact, without_a, without_b, neither = game.mean(torch.from_numpy(kept))
    want = neither - without_a - without_b + intact
    assert found.value("across", "late") == pytest.approx(want, rel=1e-4, abs=1e-6)
    other = sm.ModelGame(model, sm.Task(some_prompts(6, 8), "logit_diff"), grouped(model))
    held = sm.confirm(found, other, k=3, progress=False)
    assert held.names == found.top(3).names


def test_pictures_and_the_report_show_groups(tmp_path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    model = build("gpt2")
    game = sm.ModelGame(model, sm.Task(some_prompts(6), "logit_diff"), grouped(model))
    found = sm.discover(game, "exhaustive", progress=False)
    sm.plot_network(found)
    with pytest.raises(ValueError, match="the group 'across' lies in no single layer"):
        sm.plot_layers(found)
    texts = {text.get_text() for text in sm.plot_map(found).axes[0].get_yticklabels()}
    assert "across" in texts
    assert "across" in sm.write_report(found, tmp_path / "report.html").read_text()


def test_units_are_found_by_the_label_of_their_group() -> None:
    units = grouped(build("gpt2"))
    assert units.index("late") == 3 and units["late", "L1H0"].labels == ["late", "L1H0"]
    assert units[1] == units.units[1] and "across" in units
    assert units.select("a*").labels == ["across"]
    assert Component.parse("L0H1") in units


def test_what_a_group_must_not_be() -> None:
    model = build("gpt2")
    heads = sm.Components.heads(model)
    for label in ("L9H6", "9.6", "blocks.9.attn.hook_z[6]"):
        with pytest.raises(ValueError, match="is how a single component is written"):
            heads[:2].group(label)
    with pytest.raises(ValueError, match="a group needs a label"):
        heads[:2].group(" ")
    with pytest.raises(ValueError, match="duplicate unit: L0H1 covers L0H1, which two covers"):
        _ = heads[:2].group("two") + heads[1:]
    with pytest.raises(ValueError, match="two units are called 'two'"):
        _ = heads[:2].group("two") + heads[2:4].group("two")


def test_a_store_tells_groups_of_one_name_apart(tmp_path: Path) -> None:
    model = build("gpt2")
    heads, task = sm.Components.heads(model), sm.Task(some_prompts(), "logit_diff")
    games = [
        sm.ModelGame(model, task, heads[a:b].group("some") + heads[6:]) for a, b in ((0, 2), (2, 4))
    ]
    sm.discover(games[0], "exhaustive", progress=False, store=tmp_path / "kept")
    with pytest.raises(ValueError, match="groups is"):
        sm.discover(games[1], "exhaustive", progress=False, store=tmp_path / "kept")


def test_a_group_of_the_same_name_with_other_members_is_another_unit() -> None:
    model = sm.load_model("demo")
    heads = sm.Components.heads(model)

    def game(seed: int, *late: str) -> sm.ModelGame:
        units = heads["L0H3", "L1H0"] + heads[late].group("late")
        return sm.ModelGame(model, sm.load_task("induction", model, 8, seed), units)

    first, same, other = game(0, "L1H1", "L1H2"), game(1, "L1H2", "L1H1"), game(1, "L0H0", "L0H1")
    found = sm.discover(first, "exhaustive", progress=False)
    again = sm.confirm(found, same, progress=False)
    circuit = sm.find_circuit(first, found, held_out=same, faithfulness=0.5, progress=False)
    sm.score_circuit(same, circuit, progress=False)
    assert sm.compare(found, found).jaccard == 1 and found.confirmed_by(again).confirmed.max() == 1

    said = "'late' holds other components in each of the two"
    with pytest.warns(UserWarning, match=f"{said}, the search and this game"):
        sm.confirm(found, other, progress=False)
    another = sm.discover(other, "exhaustive", progress=False)
    with pytest.warns(UserWarning, match=f"{said}, and is compared by its name alone"):
        sm.compare(found, another)
    with pytest.warns(UserWarning, match=f"differs from this one in {said}"):
        another.confirmed_by(again)
    with pytest.raises(ValueError, match=r"held-out game are not .*\(other members of late\)"):
        sm.find_circuit(first, found, held_out=other, progress=False)
    with pytest.raises(ValueError, match=f"{said}, the circuit and the game"):
        sm.score_circuit(other, circuit, progress=False)
    with pytest.warns(UserWarning, match=said):
        sm.compare(circuit, sm.find_circuit(other, another, faithfulness=0.5, progress=False))
