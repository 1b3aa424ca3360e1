"""Circuits: planted ones are found whole, the scores are what the papers define, exports return."""

import json
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import spex_mech as sm
from spex_mech.circuits.circuit import Circuit
from spex_mech.circuits.plots import circuit_positions
from spex_mech.circuits.search import EvaluatedCircuits, Goal, Surrogate, search_circuits
from spex_mech.circuits.steps import Steps, StepSearch
from spex_mech.discover import CallableGame
from spex_mech.plots.network import network_numbers
from spex_mech.report.tables import main_rows
from tests.backups import demo_with_backup, plant_backup
from tests.planted import planted_game

HEADS = ["L0H0", "L0H1", "L1H0", "L1H1", "L2H0"]


def one_of_two(masks: torch.Tensor) -> torch.Tensor:
    """L0H0 with either of L1H0 and L1H1 ; without L2H0 it does a little better. Eight prompts of
    mean weight 0.75, no two alike: prompts that repeat one another count once."""
    m = masks.double()
    value = 2 * m[:, 0] * torch.maximum(m[:, 2], m[:, 3]) - 0.2 * m[:, 4]
    return value[:, None] * torch.tensor([1.0, 0.5, 0.95, 0.55, 0.9, 0.6, 0.85, 0.65])


def small_circuit(**options: Any) -> Circuit:
    game = CallableGame(one_of_two, HEADS)
    return sm.find_circuit(game, sm.discover(game), progress=False, **options)


# -- what is found --------------------------------------------------------------------------------


def test_backups_are_one_group_of_which_one_is_kept() -> None:
    circuit = small_circuit(aim="recover")
    assert len(circuit) == 2 and "L0H0" in circuit.units
    (backups,) = (group for group in circuit.groups if group.kind == "backup")
    assert backups.units == ("L1H0", "L1H1") and len(backups.kept) == 1
    assert circuit.faithfulness.value == pytest.approx(2 / 1.8)  # without the unit that hurts
    assert circuit.why[backups.kept[0]].inside == pytest.approx(-1.5)  # -2 and -1


def test_to_match_is_not_to_exceed() -> None:
    circuit = small_circuit(faithfulness=0.95)
    assert "L2H0" in circuit.units and circuit.faithfulness.value == pytest.approx(1)


def test_scores_are_those_of_the_definitions() -> None:
    circuit = small_circuit(size=3)
    span = 0.75 * 1.8
    assert circuit.units[::2] == ["L0H0", "L2H0"] and circuit.span == pytest.approx(span)
    # One of the two backups, b, was left out. K = {a} breaks the circuit and not the model.
    (kept,) = {"L1H0", "L1H1"} & set(circuit.units)
    parts = {part.units: part.value for part in circuit.completeness.by_subset}
    assert circuit.completeness.value == max(parts.values()) == pytest.approx(1.5 / span)
    assert all(value == pytest.approx(1.5 / span) for k, value in parts.items() if k == (kept,))
    least = {part.units[0]: part.value for part in circuit.minimality.by_subset}
    assert least["L2H0"] == circuit.minimality.value == pytest.approx(0.15 / span)
    assert least["L0H0"] == least[kept] == pytest.approx(1.5 / span)


def test_a_pair_of_backups_that_are_both_kept_is_minimal_given_the_other() -> None:
    circuit = small_circuit(size=4)
    assert circuit.units == ["L0H0", "L1H0", "L1H1", "L2H0"]
    given = {part.units[0]: part for part in circuit.minimality.by_subset}
    assert given["L1H0"].given == ("L1H1",) and given["L1H1"].given == ("L1H0",)
    assert given["L1H0"].value == pytest.approx(2 / 1.8)
    assert circuit.why["L1H0"].inside == 0 and circuit.completeness.value == 0


def test_errors_are_over_prompts() -> None:
    """Each prompt's faithfulness is the same here, so that the ratio has no error; the sizes of the
    prompts differ, so that the difference would have one."""
    circuit = small_circuit(size=2, aim="recover")
    assert circuit.n_prompts == 8 and circuit.faithfulness.stderr == pytest.approx(0, abs=1e-12)
    game = CallableGame(lambda masks: one_of_two(masks)[:, :1], HEADS)
    assert np.isnan(sm.find_circuit(game, sm.discover(game)).faithfulness.stderr)


def test_the_best_of_every_size_is_found_by_full_enumeration() -> None:
    game = planted_game(9, 12, 3)
    found = sm.discover(game, method="exhaustive")
    curve = sm.faithfulness_curve(game, found, aim="recover", progress=False)
    everything = torch.tensor(list(product([False, True], repeat=9)))
    values = game(everything)[:, 0].numpy()
    sizes = everything.sum(1).numpy()
    sign = np.sign(values[-1] - values[0])
    best = [(sign * values[sizes == size]).max() for size in range(10)]
    np.testing.assert_allclose(sign * curve.values[:, 0], best, atol=1e-9)
    assert curve.cost["evaluations"] < 512 / 2


def test_never_worse_than_main_effects_where_it_was_selected() -> None:
    game = planted_game(30, 40, 1)
    found = sm.discover(game, method="exhaustive")
    ours = sm.faithfulness_curve(game, found, aim="recover", progress=False)
    order = [found.labels[u] for u in np.argsort(found.main_effects)]
    mains = sm.faithfulness_curve(game, found, order=order)
    assert (ours.faithfulness >= mains.faithfulness - 1e-9).all()
    assert ours.cpr.value > mains.cpr.value


def test_a_surrogate_keeps_backups_and_drops_a_spent_partner() -> None:
    """Units 0 and 1 are backups (alone nothing, together all); 2 and 3 in series."""
    effects = np.array([0.0, 0.0, -0.3, -0.3])
    surrogate = Surrogate(effects, np.array([[0, 1], [2, 3]]), np.array([-0.7, 0.3]))
    order = surrogate.order("recover").tolist()
    assert order[0] in (0, 1) and set(order[1:3]) == {2, 3} and order[3] in (0, 1)
    triple = Surrogate(np.zeros(3), np.array([[0, 1, 2]]), np.array([-1.0]))
    assert sorted(triple.order("match").tolist()) == [0, 1, 2]


@pytest.mark.parametrize("budget", [8, 20, 31])
def test_the_budget_holds(budget: int) -> None:
    def steps() -> Steps[EvaluatedCircuits]:
        sets = yield from EvaluatedCircuits.started(Goal("match"), budget, 5)
        nothing = Surrogate(np.zeros(5), np.zeros((0, 2), dtype=int), np.zeros(0))
        yield from search_circuits(sets, nothing, [], lambda sets: range(1, 5))
        return sets

    search, asked = StepSearch(steps(), 5, budget, "test"), []
    while (question := search.ask()) is not None:
        masks = question.masks.kept()
        asked += [mask.tobytes() for mask in masks]
        search.tell(one_of_two(torch.from_numpy(masks)).numpy())
    assert len(asked) == len(set(asked)) == search.result.spent == budget


def test_what_was_not_planned_has_a_name_of_its_own() -> None:
    """A progress bar called the scores a selection, and went to three times its end."""

    def steps() -> Steps[None]:
        for n in (2, 2, 3):
            yield np.ones((n, 5), dtype=bool)

    search, stages = StepSearch(steps(), 5, 4, "selecting"), []
    while (question := search.ask()) is not None:
        stages.append(question.stage)
        search.tell(np.ones((len(question.masks), 1)))
    assert stages == ["selecting", "selecting", "its scores, beside the budget"]


def test_order_of_units_does_not_matter() -> None:
    """A strong pair, a weak unit: the same circuit whichever way they are numbered."""
    for at in ([0, 1, 2, 3, 4], [4, 2, 0, 1, 3]):
        game = CallableGame(
            lambda masks, at=at: masks[:, at[0]] * 2.0 * masks[:, at[1]] + 0.5 * masks[:, at[2]],
            [str(u) for u in range(5)],
        )
        circuit = sm.find_circuit(game, sm.discover(game), 0.75)
        assert set(circuit.units) == {str(at[0]), str(at[1])}


# -- the demo model -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_planted_backup_pair_of_heads() -> None:
    """Singles miss both: alone each costs little. Ours names them, and keeps both where it must."""
    model = demo_with_backup(head=0, spare=3)
    task = sm.load_task("induction", model)
    first, rest = task.split(32)
    game, held_out = sm.ModelGame(model, first), sm.ModelGame(model, rest)
    plain = sm.ModelGame(sm.load_model("demo"), first)
    whole = torch.ones(1, 8, dtype=torch.bool)
    torch.testing.assert_close(game(whole), plain(whole), atol=1e-4, rtol=1e-4)
    found = sm.discover(game, progress=False)
    circuit = sm.find_circuit(game, found, 0.99, held_out=held_out, budget=120)
    by_singles = [found.labels[u] for u in np.flatnonzero(found.main_effects < -0.1 * circuit.span)]
    assert by_singles == ["L0H3"]
    singles = sm.faithfulness_curve(game, found, order=by_singles, sizes=[1], held_out=held_out)
    assert singles.faithfulness[1] < 0.05
    assert circuit.units == ["L0H3", "L1H0", "L1H3"]
    assert circuit.faithfulness.value > 0.99 and circuit.completeness.value < 0.1
    assert circuit.minimality.value > 0.5  # each is needed once the other is gone
    backups = [group.units for group in circuit.groups if group.kind == "backup"]
    assert backups == [("L1H0", "L1H3")]
    small = sm.find_circuit(game, found, 0.9, held_out=held_out, budget=120)
    assert len(small) == 2 and small.completeness.value > 0.9  # one backup is left out, knowingly
    assert [group.units for group in small.groups if group.kind == "backup"] == backups
    assert circuit.n_prompts == 32 and circuit.about["measured_on"] == "held-out prompts"
    assert "those of the selection" in sm.find_circuit(game, found, budget=40).about["measured_on"]


def test_backups_that_no_single_ablation_shows() -> None:
    """Two heads each do twice what one did. Neurons have larger main effects than either, so that
    as many singles as the circuit has units, and one more, miss both."""
    model = sm.load_model("demo")
    plant_backup(model, head=0, spare=3, layer=1, strength=2)
    first, rest = sm.load_task("induction", model, 24).split(12)
    units = sm.Components.heads(model) + sm.Components.neurons(model, layers=0)[:84]
    game, held_out = sm.ModelGame(model, first, units), sm.ModelGame(model, rest, units)
    found = sm.discover(game, progress=False)
    circuit = sm.find_circuit(game, found, size=3, held_out=held_out, budget=600, progress=False)
    singles = [found.labels[u] for u in np.argsort(-abs(np.nan_to_num(found.main_effects)))]
    backups = {"L1H0", "L1H3"}
    assert not backups & set(singles[:4])
    assert [group.units for group in circuit.groups if group.kind == "backup"] == [("L1H0", "L1H3")]
    assert set(circuit.ranking[:3]) == {"L0H3", *backups} and circuit.faithfulness.value > 0.75
    small = circuit.importance[[circuit.labels.index(unit) for unit in singles[1:4]]]
    assert small.max() < 0.1 and np.sort(circuit.importance)[-3] > 0.9
    by_singles = sm.faithfulness_curve(game, found, order=singles, sizes=[3, 4], held_out=held_out)
    assert by_singles.faithfulness[1:3].max() < 0.1


@pytest.mark.slow
def test_two_backup_groups_of_a_circuit_without_main_effects() -> None:
    """Both heads of the circuit are doubled: no unit does anything alone."""
    model = sm.load_model("demo")
    plant_backup(model, head=0, spare=3, layer=1, strength=2)
    plant_backup(model, head=3, spare=0, layer=0, strength=1)
    task = sm.load_task("induction", model, 16)
    units = sm.Components.heads(model) + sm.Components.neurons(model, layers=0)[:32]
    game = sm.ModelGame(model, task, units)
    found = sm.discover(game, progress=False)
    circuit = sm.find_circuit(game, found, 0.9, budget=500, progress=False)
    assert np.nanmax(abs(found.main_effects)) < 0.01 * circuit.span
    backups = {group.units for group in circuit.groups if group.kind == "backup"}
    assert backups == {("L0H0", "L0H3"), ("L1H0", "L1H3")}
    assert set(circuit.ranking[:4]) == {"L0H0", "L0H3", "L1H0", "L1H3"}
    assert len(circuit) == 2 and np.sort(circuit.importance)[-4] > 0.9


def test_importance_by_hand() -> None:
    circuit = small_circuit(size=2, aim="recover")
    wanted = dict(zip(HEADS, [2, 0, 2, 2, 0.2], strict=True))  # a backup: once the other is gone
    for label, value in zip(circuit.labels, circuit.importance, strict=True):
        assert value == pytest.approx(wanted[label] / 1.8), label
    assert circuit.ranking == ["L0H0", "L1H0", "L1H1", "L2H0", "L0H1"]


def test_units_that_hold_the_metric_down_are_no_backups() -> None:
    """Without b the metric is too high, and a is what makes it so: the loss of both is that of a,
    though the loss of a costs more once b is gone."""
    game = CallableGame(lambda m: m[:, 0].double() * (1 + 4 * ~m[:, 1]), ["a", "b"])
    circuit = sm.find_circuit(game, found := sm.discover(game))
    assert found.value("a", "b") == -4 and not [g for g in circuit.groups if g.kind == "backup"]
    np.testing.assert_allclose(circuit.importance, [1, 4])


# -- curves ---------------------------------------------------------------------------------------


def test_areas_by_hand() -> None:
    values = np.array([[0.0, 0], [1, 3], [3, 3], [2, 2]])
    circuits = np.tri(4, 3, -1, dtype=bool)
    curve = sm.FaithfulnessCurve([*"abc"], circuits, values)
    np.testing.assert_allclose(curve.faithfulness, [0, 1, 1.5, 1])
    assert curve.cpr.value == pytest.approx((0.5 + 1.25 + 1.25) / 3)
    assert curve.cmd.value == pytest.approx((0.5 + 0.25 + 0.25) / 3)
    # Size 1: the two prompts' ratios are 0.5 and 1.5, about a mean of 1.
    assert curve.stderr[1] == pytest.approx(np.std([0.5, 1.5], ddof=1) / np.sqrt(2))
    assert curve.cpr.stderr == pytest.approx(curve.stderr[1] / 3)


def test_errors_cover_redrawn_prompts() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal([[0.0], [0.8], [1.0]], 0.2, (3, 400)) + rng.normal(0, 0.1, 400)
    curve = sm.FaithfulnessCurve([*"ab"], np.tri(3, 2, -1, dtype=bool), values)
    draws = rng.integers(0, 400, (2000, 400))
    again = [sm.FaithfulnessCurve([*"ab"], curve.circuits, values[:, draw]) for draw in draws]
    assert np.std([c.faithfulness[1] for c in again]) == pytest.approx(curve.stderr[1], rel=0.1)
    assert np.std([c.cmd.value for c in again]) == pytest.approx(curve.cmd.stderr, rel=0.1)


def test_a_curve_of_some_sizes_has_its_ends() -> None:
    game = CallableGame(one_of_two, HEADS)
    curve = sm.faithfulness_curve(game, sm.discover(game), sizes=[2])
    assert curve.sizes.tolist() == [0, 2, 5] and curve.frame()["size"].tolist() == [0, 2, 5]
    assert "CPR" in repr(curve)


# -- exports --------------------------------------------------------------------------------------


def test_benchmark_json_there_and_back() -> None:
    circuit = small_circuit(size=3)
    cfg = {"n_layers": 3, "n_heads": 2, "d_model": 8}
    read = json.loads(json.dumps(circuit.to_mib(**cfg)))
    assert read["cfg"] == {**cfg, "parallel_attn_mlp": False}
    kept = {f"a{u[1]}.h{u[3]}" for u in circuit.units}
    units = {f"a{u[1]}.h{u[3]}" for u in HEADS}
    nodes = read["nodes"]
    assert {name for name in units if nodes[name]["in_graph"]} == kept
    # What is no unit is kept at every size: it ranks before all that was measured.
    scores = {name: node["score"] for name, node in nodes.items() if name != "logits"}
    first = 1 + max(abs(scores[name]) for name in units)
    assert {type(score) for score in scores.values()} == {float}
    assert {name for name, score in scores.items() if score == first} == {*scores} - units
    assert nodes["m1"] == nodes["a2.h1"] == {"in_graph": True, "score": first}
    assert nodes["logits"] == {"in_graph": True}
    assert nodes["a0.h0"]["score"] == circuit.minimality.by_subset[0].value
    for name, edge in read["edges"].items():
        source, target = name.split("<")[0].split("->")
        assert edge["in_graph"] == (nodes[source]["in_graph"] and nodes[target]["in_graph"])


def test_benchmark_json_has_the_benchmarks_nodes_and_edges(shared_data: Path) -> None:
    theirs = json.loads((shared_data / "circuits" / "ioi-eap-ig_gpt2.json").read_text())
    ours = small_circuit(size=3).to_mib(**theirs["cfg"])
    assert list(ours) == list(theirs) and ours["cfg"] == theirs["cfg"]
    assert list(ours["nodes"]) == list(theirs["nodes"])
    assert set(ours["edges"]) == set(theirs["edges"])
    assert {type(v) for edge in ours["edges"].values() for v in edge.values()} == {bool, float}


def test_benchmark_json_says_what_it_cannot_hold() -> None:
    circuit = small_circuit(size=3)
    with pytest.raises(ValueError, match=r"n_layers of the model is not known; give to_mib"):
        circuit.to_mib()
    with pytest.raises(ValueError, match=r"the config has no head a2\.h0"):
        circuit.to_mib(n_layers=2, n_heads=2, d_model=8)
    game = CallableGame(lambda m: m[:, 0].double(), ["L0N3", "L0H0"])
    neurons = sm.find_circuit(game, sm.discover(game))
    with pytest.raises(ValueError, match="nodes for heads and whole MLPs, not for L0N3"):
        neurons.to_mib(n_layers=1, n_heads=1, d_model=8)


def test_graphml_there_and_back(tmp_path: Path) -> None:
    import networkx as nx

    circuit = small_circuit(size=3)
    graph = circuit.to_networkx()
    assert {u for u in graph if graph.nodes[u]["member"]} == set(circuit.units)
    assert {frozenset(e) for e in graph.edges} == {frozenset(x.units) for x in circuit.links}
    read = nx.read_graphml(circuit.save_graphml(tmp_path / "new" / "circuit.graphml"))
    assert dict(read.nodes(data=True)) == dict(graph.nodes(data=True))
    assert read.graph["faithfulness"] == circuit.faithfulness.value
    for a, b, values in graph.edges(data=True):
        assert read.edges[a, b] == values


def test_the_table_and_the_words() -> None:
    circuit = small_circuit(size=3)
    table = circuit.frame()
    assert set(table["unit"]) == set(circuit.units)
    assert (np.diff(abs(table["inside"])) <= 0).all()
    assert table["groups"].str.contains("backup: ").sum() == 1
    words = repr(circuit)
    assert words.startswith("circuit of 3 of 5 units: L0H0") and "faithfulness 1" in words
    assert "prompts, those of the selection" in words


# -- pictures -------------------------------------------------------------------------------------


def test_positions_by_layer_show_backups_that_were_left_out() -> None:
    circuit = small_circuit(size=3)
    positions = circuit_positions(circuit)
    assert list(positions) == ["L0H0", "L1H0", "L1H1", "L2H0"]
    assert [x for x, _ in positions.values()] == [0, 1, 1, 2]


def test_circuit_and_curve_are_drawn(tmp_path: Path) -> None:
    game = CallableGame(one_of_two, HEADS)
    circuit = small_circuit(size=3)
    curve = sm.faithfulness_curve(game, sm.discover(game))
    figures = [sm.plot_circuit(circuit), sm.plot_curve(curve), sm.plot_curve({"a": curve})]
    for i, figure in enumerate(figures):
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / f"{i}.svg")
        assert "<svg" in (tmp_path / f"{i}.svg").read_text()
    texts = [text.get_text() for text in figures[0].axes[0].texts]
    assert "L1H0 b1" in texts and "L1H1 b1" in texts
    label = figures[2].axes[0].get_legend().get_texts()[0].get_text()
    assert label == f"a: CPR {curve.cpr.value:.3f}, CMD {curve.cmd.value:.3f}"
    lines = figures[1].axes[0].lines[0]
    np.testing.assert_array_equal(lines.get_ydata(), curve.faithfulness)


@pytest.mark.parametrize("draw", [sm.plot_circuit, sm.plot_curve])
def test_without_matplotlib_the_cure_is_said(monkeypatch: pytest.MonkeyPatch, draw: Any) -> None:
    game = CallableGame(one_of_two, HEADS)
    what = small_circuit() if draw is sm.plot_circuit else sm.faithfulness_curve(
        game, sm.discover(game)
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"needs matplotlib: pip install 'spex_mech\[viz\]'"):
        draw(what)


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"size": 2, "faithfulness": 0.5}, "give faithfulness or size, not both"),
        ({"size": 0}, "size is 0; it must be a whole number from 1 to 5"),
        ({"size": 6}, "size is 6; it must be a whole number from 1 to 5"),
        ({"faithfulness": 1.2}, "faithfulness is 1.2, a float; it must be a number above 0 and at"),
        ({"aim": "best"}, "unknown aim 'best'; choose one of match, recover"),
        ({"seed": -1}, "seed is -1; it must be a whole number of at least 0"),
        ({"budget": 3}, "a budget of 3 evaluations cannot select among 5 units; give at least 7"),
        ({"held_out": CallableGame(one_of_two, HEADS[::-1])}, "held-out game are not those"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        small_circuit(**options)


def test_units_that_do_nothing_have_no_circuit() -> None:
    game = CallableGame(lambda masks: torch.full((len(masks),), 3.0), HEADS)
    with pytest.raises(ValueError, match=r"with none: ablating these units changes nothing"):
        sm.find_circuit(game, sm.discover(game))


def test_a_span_that_is_small_beside_the_values_is_one_where_they_resolve_it() -> None:
    """Float64 tells 1e6 from 1e6 + 0.001; float32 does not."""

    def value(masks: torch.Tensor) -> torch.Tensor:
        return 1e6 + 1e-3 * masks[:, :2].double().sum(1)

    game = CallableGame(value, HEADS)
    circuit = sm.find_circuit(game, sm.discover(game))
    assert circuit.units == HEADS[:2] and circuit.faithfulness.value == pytest.approx(1, abs=1e-5)
    rounded = CallableGame(lambda masks: value(masks).float(), HEADS)
    with pytest.raises(ValueError, match="changes nothing"):
        sm.find_circuit(rounded, sm.discover(rounded))


def test_orders_and_sizes_that_cannot_be() -> None:
    game = CallableGame(one_of_two, HEADS)
    found = sm.discover(game)
    for options, error in (
        ({"order": ["L9H9"]}, "unknown unit 'L9H9' in the order"),
        ({"order": ["L0H0", "L0H0"]}, "the order names 'L0H0' twice"),
        ({"sizes": [7]}, "a size is 7; it must be a whole number from 0 to 5"),
    ):
        with pytest.raises(ValueError, match=error):
            sm.faithfulness_curve(game, found, **options)
    nothing = {"nodes": {"a0.h0": {"in_graph": False}}}
    for empty in ([], nothing, sm.Circuit.from_mib(nothing)):
        with pytest.raises(ValueError, match="the circuit that is given has no unit"):
            sm.score_circuit(game, empty)
    for options in ({"seed": -1}, {"scores_budget": -1}):
        with pytest.raises(ValueError, match="it must be a whole number of at least 0"):
            sm.score_circuit(game, HEADS[:1], **options)
    assert sm.faithfulness_curve(game, found, sizes=2).sizes.tolist() == [0, 2, 5]
    with pytest.raises(ValueError, match="it must be finite for every mask"):
        broken = CallableGame(lambda m: one_of_two(m) / m[:, :1].double(), HEADS)
        sm.find_circuit(broken, found)


class _Prompts:
    """Units in series with noise over ten prompts, each of which comes ``times`` times."""

    labels: ClassVar[list[str]] = list("abcde")

    def __init__(self, times: int, clustered: bool) -> None:
        self.noise = np.random.default_rng(0).normal(1, 0.4, (5, 10)).repeat(times, axis=1)
        self.clusters = np.arange(10).repeat(times).tolist() if clustered else None

    def __len__(self) -> int:
        return 5

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        kept = masks.double().numpy()
        return torch.from_numpy(kept[:, :1] * kept[:, 1:2] + kept @ self.noise)

    def describe(self) -> dict[str, Any]:
        return {} if self.clusters is None else {"clusters": self.clusters}


def test_errors_of_a_circuit_are_those_of_clusters() -> None:
    """Prompts that come four times, in clusters, are as good as each once, and no better."""
    once, clustered, naive = (_Prompts(*how) for how in ((1, False), (4, True), (4, False)))
    circuits, curves = [], []
    for game in (once, clustered, naive):
        found = sm.discover(game, "exhaustive", progress=False)
        circuits.append(sm.find_circuit(game, found, size=3, progress=False))
        curves.append(sm.faithfulness_curve(game, found, progress=False))
    want, got, wrong = circuits
    assert got.units == want.units and got.n_prompts == 10
    assert str(got).splitlines()[1].startswith("  on 10 clusters of 40 prompts, those of the")
    for name in ("faithfulness", "completeness", "minimality"):
        a, b = getattr(want, name), getattr(got, name)
        np.testing.assert_allclose(
            [b.value, b.stderr, b.low, b.high], [a.value, a.stderr, a.low, a.high], atol=1e-12
        )
    assert got.span_stderr == pytest.approx(want.span_stderr)
    assert got.span_stderr == pytest.approx(np.sqrt(39 / 9) * wrong.span_stderr)
    np.testing.assert_allclose(curves[1].stderr, curves[0].stderr)
    np.testing.assert_allclose(curves[1].values, curves[0].values)
    assert curves[1].about["measured_on"] == "clusters of 40 prompts, those of the selection"


def test_a_circuit_that_is_scored_says_how_many_clusters_and_prompts() -> None:
    assert "\n  on 10 clusters of 40 prompts: faith" in str(
        sm.score_circuit(_Prompts(4, True), ["a"])
    )
    one = _Prompts(4, True)
    one.clusters = [7] * 40
    assert "\n  on 1 cluster of 40 prompts: faith" in str(sm.score_circuit(one, ["a"]))
    found = sm.discover(one, "exhaustive", progress=False)
    curve = sm.faithfulness_curve(one, found, order=["a"], progress=False)
    assert "on 1 cluster of 40 prompts, those" in str(curve)
    assert "on 1 cluster of 40 prompts, those" in sm.plot_curve(curve).axes[0].get_title()


def test_sizes_that_the_budget_did_not_reach_are_told() -> None:
    """Where main effects are unknown, they take all of a small budget."""
    game = CallableGame(one_of_two, HEADS)
    found = sm.discover(game)
    unknown = replace(found, main_effects_by_prompt=found.main_effects_by_prompt * np.nan)
    with pytest.warns(UserWarning, match="before circuits of 1, 2, 3 units were run, so that the"):
        curve = sm.faithfulness_curve(game, unknown, budget=7)
    assert curve.sizes.tolist() == [0, 4, 5]
    with pytest.warns(UserWarning, match="before circuits of 2 units were run"):
        sm.faithfulness_curve(game, unknown, sizes=2, budget=7)


def test_the_same_text_is_not_held_out() -> None:
    model = sm.load_model("sentiment")
    game, same, other = (
        sm.TokenGame(model, sm.text_task(model, text, "negative"), labels=list("abcdef"))
        for text in (*["The film was not good."] * 2, "The book was not good.")
    )
    found = sm.discover(game, progress=False)
    with pytest.warns(UserWarning, match="held_out has all of its prompts in common"):
        circuit = sm.find_circuit(game, found, held_out=same)
    assert "on 1 prompt, those of the selection" in str(circuit)
    assert "on 1 held-out prompt:" in str(sm.find_circuit(game, found, held_out=other))


def test_clusters_of_the_selection_on_held_out_prompts_are_told() -> None:
    """A circuit that suits ten templates suits other prompts of them, and perhaps no other ones."""
    game, held_out = _Prompts(2, True), _Prompts(2, True)
    held_out.noise = np.random.default_rng(1).normal(1, 0.4, (5, 20))
    found = sm.discover(game, progress=False)
    with pytest.warns(UserWarning, match="10 of the 10 clusters of held_out are clusters of"):
        sm.find_circuit(game, found, size=2, held_out=held_out, progress=False)
    held_out.clusters = [100 + number for number in held_out.clusters]
    sm.find_circuit(game, found, size=2, held_out=held_out, progress=False)


def test_errors_of_main_effects_in_pictures_are_those_of_clusters() -> None:
    once, clustered = (
        sm.discover(_Prompts(*how), "exhaustive", progress=False) for how in ((1, False), (4, True))
    )
    for want, got in zip(
        network_numbers(once).nodes, network_numbers(clustered).nodes, strict=True
    ):
        assert got.stderr == pytest.approx(want.stderr) and want.stderr > 0
    rows, _ = main_rows(clustered)
    assert [row["stderr"] for row in rows] == pytest.approx(
        [row["stderr"] for row in main_rows(once)[0]]
    )
