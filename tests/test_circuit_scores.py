"""Circuits against plain loops over all subsets, and what people report other tools get wrong."""

import json
import re
import warnings
from collections.abc import Callable
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.circuits.mib import SHARES, has_parallel_blocks
from spex_mech.circuits.search import Goal
from spex_mech.circuits.span import share_intervals
from spex_mech.discover import CallableGame
from tests import families
from tests.backups import demo_with_backup

Function = Callable[[torch.Tensor], torch.Tensor]


def game_of(function: Function, labels: str | list[str]) -> CallableGame:
    return CallableGame(function, list(labels))


def circuit_of(function: Function, labels: str | list[str], *args: Any, **options: Any) -> Any:
    game = game_of(function, labels)
    return sm.find_circuit(game, sm.discover(game), *args, **options)


# -- a plain loop over all subsets ----------------------------------------------------------------


class Loop:
    """Every subset's mean value by its set of units, and the definitions read off it."""

    def __init__(self, game: Any) -> None:
        self.labels, n = list(game.labels), len(game.labels)
        self.subsets = [frozenset(s) for k in range(n + 1) for s in combinations(self.labels, k)]
        masks = torch.tensor([[u in subset for u in self.labels] for subset in self.subsets])
        values = torch.as_tensor(game(masks)).double().reshape(len(masks), -1)
        self.f = dict(zip(self.subsets, values.mean(1).tolist(), strict=True))
        self.all = frozenset(self.labels)
        self.span = self.f[self.all] - self.f[frozenset()]

    def share(self, units: frozenset[str]) -> float:
        return (self.f[units] - self.f[frozenset()]) / self.span

    def smallest(self, wanted: float) -> int:
        fits = [
            s for s in self.subsets if s and abs(1 - self.share(s)) <= 1 - wanted + 1e-9
        ]  # fmt: skip
        return min(len(s) for s in fits)

    def minimality(self, circuit: frozenset[str]) -> float:
        return min(
            max(
                abs(self.f[circuit - k] - self.f[circuit - k - {v}]) / abs(self.span)
                for k in self.subsets
                if k <= circuit - {v}
            )
            for v in circuit
        )

    def completeness(self, circuit: frozenset[str]) -> float:
        return max(
            abs(self.f[circuit - k] - self.f[self.all - k]) / abs(self.span)
            for k in self.subsets
            if k <= circuit
        )

    def importance(self, circuit: Any, unit: str) -> float:
        members = frozenset(circuit.units)
        contexts = [self.all] + [members] * (unit in members)
        for group in circuit.groups:
            if group.kind == "backup" and unit in group.units:
                others = frozenset(group.units) - {unit}
                contexts += [self.all - k for k in self.subsets if k <= others]
        return max(abs(self.f[c] - self.f[c - {unit}]) / abs(self.span) for c in contexts)


def random_function(seed: int, n_prompts: int = 6, noise: float = 0.1) -> tuple[Any, Function]:
    """A sum of ands, ors, majorities and single units, of both signs, with noise per unit and
    prompt; and its mean over all prompts there could be."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 9))
    terms = []
    for _ in range(int(rng.integers(1, 4))):
        kind = str(rng.choice(["and", "or", "majority", "sum"]))
        units = rng.permutation(n)[: int(rng.integers(1, min(5, n + 1)))].tolist()
        terms.append((kind, units, float(rng.normal())))
    sign = float(rng.choice([-1.0, 1.0]))
    linear = torch.tensor(rng.normal(size=n) * 0.1)

    def mean(masks: torch.Tensor) -> torch.Tensor:
        m = masks.double()
        total = m @ linear
        for kind, units, weight in terms:
            part = m[:, units]
            value = {
                "and": part.prod(1),
                "or": part.max(1).values,
                "majority": (part.sum(1) > len(units) / 2).double(),
                "sum": part.mean(1),
            }[kind]
            total = total + weight * value
        return sign * total

    by_prompt = torch.tensor(rng.normal(size=(n, n_prompts)) * noise)
    function = lambda masks: mean(masks)[:, None] + masks.double() @ by_prompt  # noqa: E731
    return game_of(function, [f"u{i}" for i in range(n)]), mean


def is_clear(game: Any) -> bool:
    """Whether the span is far from 0 in standard errors."""
    n = len(game.labels)
    whole, empty = game(torch.tensor([[True] * n, [False] * n])).double()
    differences = (whole - empty).numpy()
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return abs(differences.mean()) > 4 * error and abs(differences.mean()) > 0.05


def check_against_all_subsets(seed: int) -> bool:
    game, _ = random_function(seed)
    if not is_clear(game):
        return False
    circuit = sm.find_circuit(game, sm.discover(game, progress=False), progress=False)
    loop, members = Loop(game), frozenset(circuit.units)
    assert len(members) == loop.smallest(0.9), seed
    assert circuit.faithfulness.value == pytest.approx(loop.share(members)), seed
    assert abs(1 - circuit.faithfulness.value) <= 0.1 + 1e-9, seed
    assert circuit.minimality.value == pytest.approx(loop.minimality(members), abs=1e-8), seed
    assert circuit.completeness.value == pytest.approx(loop.completeness(members), abs=1e-8), seed
    assert not circuit.minimality.is_bound and not circuit.completeness.is_bound
    for unit, importance in zip(circuit.labels, circuit.importance, strict=True):
        wanted = loop.importance(circuit, unit)
        assert importance == pytest.approx(wanted, abs=1e-8), (seed, unit)
    return True


@pytest.mark.slow
def test_random_functions_against_all_subsets() -> None:
    assert sum(check_against_all_subsets(seed) for seed in range(60)) > 40


@pytest.mark.slow
def test_a_thousand_random_functions_against_all_subsets() -> None:
    checked, seed = 0, 0
    while checked < 1000:
        checked += check_against_all_subsets(seed)
        seed += 1


def intervals_that_hold(seeds: range) -> list[bool]:
    """Of faithfulness, completeness and minimality on held-out prompts."""
    held = []
    for seed in seeds:
        game, mean = random_function(seed, n_prompts=16, noise=0.15)
        again = np.random.default_rng(10_000 + seed)
        fresh = torch.tensor(again.normal(size=(len(game), 16)) * 0.15)
        held_out = game_of(
            lambda m, f=fresh, mean=mean: mean(m)[:, None] + m.double() @ f, game.labels
        )
        if not is_clear(game) or not is_clear(held_out):
            continue
        found = sm.discover(game, progress=False)
        circuit = sm.find_circuit(game, found, 0.8, held_out=held_out, progress=False)
        truth = Loop(game_of(mean, game.labels))
        members = frozenset(circuit.units)
        score = circuit.faithfulness
        if score.stderr > 1e-9:
            held.append(score.low <= truth.share(members) <= score.high)
    return held


@pytest.mark.slow
def test_intervals_hold_on_four_hundred_random_functions() -> None:
    held: list[bool] = []
    for start in range(0, 10_000, 100):
        held += intervals_that_hold(range(start, start + 100))
        if len(held) >= 400:
            break
    assert 0.87 <= np.mean(held[:400]) <= 0.93, np.mean(held[:400])


# -- 1. less is better ----------------------------------------------------------------------------


def one_of_two(m: torch.Tensor) -> torch.Tensor:
    return (m[:, 0] & (m[:, 1] | m[:, 2])).double() + 0.05 * m[:, 1] + 0.05 * m[:, 2]


def in_series(m: torch.Tensor) -> torch.Tensor:
    return 2.0 * m[:, :3].all(1) + 0.3 * m[:, 3]


def with_brake(m: torch.Tensor) -> torch.Tensor:
    return 3.0 * m[:, 0] + 1.0 * m[:, 1] - 2.0 * (m[:, 2] & m[:, 3])


def majority(m: torch.Tensor) -> torch.Tensor:
    return (m[:, :3].sum(1) >= 2).double() + 0.1 * m[:, 3]


@pytest.mark.parametrize("function", [one_of_two, in_series, with_brake, majority])
def test_the_metric_turned_round_has_the_same_circuit(function: Function) -> None:
    more = circuit_of(function, "abcd", 0.99)
    less = circuit_of(lambda m: -function(m), "abcd", 0.99)
    assert more.units == less.units and more.groups == less.groups
    for name in ("faithfulness", "completeness", "minimality"):
        assert getattr(less, name).value == pytest.approx(getattr(more, name).value)
    np.testing.assert_allclose(less.signed_importance, more.signed_importance, atol=1e-12)
    assert less.ranking == more.ranking and less.span == pytest.approx(-more.span)
    assert [x.reading for x in less.links] == [x.reading for x in more.links]
    assert [x.value for x in less.links] == pytest.approx([-x.value for x in more.links])


def test_backups_of_a_metric_of_which_less_is_better() -> None:
    circuit = circuit_of(lambda m: -one_of_two(m), "abcd", 0.99)
    assert circuit.units == ["a", "b", "c"]
    assert circuit.minimality.value == pytest.approx(1 / 1.1)
    assert [str(group) for group in circuit.groups] == ["backup: b, c"]
    np.testing.assert_allclose(circuit.importance, [1 / 1.1, 1.05 / 1.1, 1.05 / 1.1, 0])


def test_the_loss_of_the_demo_reads_like_its_log_probability() -> None:
    model = sm.load_model("demo")
    found = {}
    for metric in ("loss", "log_prob"):
        game = sm.ModelGame(model, sm.load_task("induction", model, n_prompts=8, metric=metric))
        found[metric] = sm.discover(game, progress=False)
        circuit = sm.find_circuit(game, found[metric], progress=False)
        assert [str(group) for group in circuit.groups] == ["series: L0H3, L1H0"]
    assert found["loss"].top(1).readings == found["log_prob"].top(1).readings == ["AND-like"]


# -- 2. more than two backups, and sides ----------------------------------------------------------


@pytest.mark.parametrize("n", [3, 4, 5])
@pytest.mark.parametrize("order", [2, 3])
def test_several_that_back_one_another_up(n: int, order: int) -> None:
    """Each is worth 1 and a little once all others are gone, whether the larger interactions were
    measured or not."""
    labels = "abcdef"[:n]
    game = game_of(lambda m: m.any(1).double() + 0.05 * m.double().sum(1), labels)
    circuit = sm.find_circuit(game, sm.discover(game, order=order), 0.99)
    assert "".join(circuit.units) == labels
    whole = 1 + 0.05 * n
    assert circuit.minimality.value == pytest.approx(1.05 / whole)
    np.testing.assert_allclose(circuit.importance, np.full(n, 1.05 / whole))
    assert [group.units for group in circuit.groups if group.kind == "backup"] == [tuple(labels)]


def test_two_chains_that_back_one_another_up_are_two_sides() -> None:
    def chains(m: torch.Tensor) -> torch.Tensor:
        return ((m[:, 0] & m[:, 1]) | (m[:, 2] & m[:, 3])).double()

    for wanted, size in ((0.99, 2), (None, 4)):
        circuit = circuit_of(chains, "abcd", wanted, None if wanted else 4)
        (group,) = (g for g in circuit.groups if g.kind == "backup")
        assert len(circuit) == size and group.sides == (("a", "b"), ("c", "d"))
        np.testing.assert_allclose(circuit.importance, np.ones(4))
    assert str(group) == "backup: a + b, c + d"
    assert circuit.minimality.value == 1


def test_one_against_a_chain_is_two_sides() -> None:
    circuit = circuit_of(lambda m: (m[:, 0] | (m[:, 1] & m[:, 2])).double(), "abc", 0.9, None)
    (group,) = (g for g in circuit.groups if g.kind == "backup")
    assert group.sides == (("a",), ("b", "c")) and circuit.units == ["a"]


def test_backups_that_serve_a_unit_in_series() -> None:
    circuit = circuit_of(lambda m: (m[:, :3].any(1) & m[:, 3]).double(), "abcd", None, 4)
    assert [g.units for g in circuit.groups if g.kind == "backup"] == [("a", "b", "c")]
    assert circuit.minimality.value == 1 and circuit.completeness.value == 0


@pytest.mark.parametrize("n", [4, 5, 8])
def test_backups_that_no_measured_interaction_shows(n: int) -> None:
    """Of four and more that back one another up all pairs and triples are 0."""

    def value(masks: torch.Tensor) -> torch.Tensor:
        kept = masks.bool()
        return (kept[:, 0] & kept[:, 1 : n + 1].any(1)).double() + 0.01 * kept[:, -1].double()

    labels = list("abcdefghijkl")
    game = game_of(value, labels)
    circuit = sm.find_circuit(game, sm.discover(game, progress=False), progress=False)
    (group,) = [group for group in circuit.groups if group.kind == "backup"]
    assert group.units == tuple(labels[1 : n + 1]) and len(group.kept) == 1
    assert group.sides == tuple((label,) for label in group.units)
    assert circuit.importance[: n + 1] == pytest.approx(1 / 1.01, abs=1e-9)
    assert circuit.importance[n + 1 : -1] == pytest.approx(0, abs=1e-9)


def test_what_only_adds_up_takes_no_place() -> None:
    """Each unit's loss is made up for by any other of the same weight, and none is a backup."""
    game = game_of(lambda m: m.double() @ torch.tensor([3.0, 1, 1, 1, 1, 1, 1]).double(), "abcdefg")
    circuit = sm.find_circuit(game, sm.discover(game, progress=False), 0.8, progress=False)
    assert len(circuit) < 7 and circuit.groups == ()


def test_on_held_out_prompts_the_worst_part_of_the_selection_is_a_bound() -> None:
    """What counts is chosen on the first game, of which a and b are backups; on the other c is what
    is missing when it is gone, and the score says that it is no maximum."""

    def first(m: torch.Tensor) -> torch.Tensor:
        return (m[:, 0] | m[:, 1]).double() + 0.5 * m[:, 2].double()

    def other(m: torch.Tensor) -> torch.Tensor:
        return 0.4 * (m[:, 0] | m[:, 1]).double() + (m[:, 2] | m[:, 3]).double()

    game, held_out = game_of(first, "abcd"), game_of(other, "abcd")
    found = sm.discover(game, progress=False)
    circuit = sm.find_circuit(game, found, 0.9, held_out=held_out, progress=False)
    parts = [part.value for part in circuit.completeness.by_subset]
    assert circuit.completeness.value == parts[0] < max(parts)
    assert circuit.completeness.is_bound and "incompleteness at least" in str(circuit)
    again = sm.find_circuit(game, found, 0.9, progress=False)
    assert not again.completeness.is_bound


def test_of_many_members_the_scores_are_called_bounds() -> None:
    game = game_of(lambda m: m.double() @ torch.arange(1.0, 13).double(), "abcdefghijkl")
    found = sm.discover(game)
    circuit = sm.find_circuit(game, found, size=12)
    assert circuit.minimality.is_bound and str(circuit.minimality).startswith("at least ")
    assert circuit.minimality.value == pytest.approx(1 / 78)
    exact = sm.find_circuit(game, found, size=12, scores_budget=2**13)
    assert not exact.minimality.is_bound and exact.minimality.value == pytest.approx(1 / 78)
    few = sm.find_circuit(game, found, size=3, scores_budget=8)
    assert few.minimality.is_bound and few.completeness.is_bound


def test_groups_of_four_among_many_members_are_bounded_by_partners() -> None:
    """Eleven members: ten of them in a sum, and three backups whose triple was measured."""

    def function(m: torch.Tensor) -> torch.Tensor:
        return m[:, :3].any(1).double() + 0.1 * m[:, 3:].double().sum(1)

    labels = list("abcdefghijkl")
    game = game_of(function, labels)
    found = sm.measure(game, [("a", "b", "c"), ("d", "e")])
    circuit = sm.find_circuit(game, found, size=12)
    members = {part.units[0]: part.value for part in circuit.minimality.by_subset}
    assert circuit.minimality.is_bound
    assert [members[unit] for unit in "abc"] == pytest.approx([1 / 1.9] * 3)


# -- 3. a span that cannot be told from 0 ---------------------------------------------------------

EFFECTS = np.array([2, 1, 0.5, -1.5, -1.2, -0.6])


def near_zero(seed: int, mean: float = 0.2, n_prompts: int = 24) -> Any:
    rng = np.random.default_rng(seed)
    effects = EFFECTS.copy()
    effects[0] += mean - 0.2
    w = torch.tensor(effects[:, None] + rng.normal(size=(6, n_prompts)) * 0.8)
    return game_of(lambda m: m.double() @ w, "abcdef")


def test_intervals_hold_whatever_the_span() -> None:
    """The span is half a standard error; today's normal interval held in 0.68 of the cases."""
    hold, rng = {0.2: [], 3.0: []}, np.random.default_rng(0)
    for mean, held in hold.items():
        effects = EFFECTS.copy()
        effects[0] += mean - 0.2
        for _ in range(1500):
            w = effects[:, None] + rng.normal(size=(6, 24)) * 0.8
            ((low, high),) = share_intervals(w[:2].sum(0, keepdims=True), w.sum(0))
            held.append(low <= effects[:2].sum() / mean <= high)
    assert np.mean(hold[0.2]) >= 0.88
    assert 0.88 <= np.mean(hold[3.0]) <= 0.92


def test_an_interval_is_what_a_test_of_each_ratio_does_not_exclude() -> None:
    from scipy.stats import ttest_1samp

    rng = np.random.default_rng(1)
    above, below = rng.normal(1, 1, (1, 12)), rng.normal(2, 1, 12)
    ((low, high),) = share_intervals(above, below, 0.9)
    for ratio in (low, high):
        assert ttest_1samp(above[0] - ratio * below, 0).pvalue == pytest.approx(0.1)
    assert share_intervals(above, below - 2).tolist() == [[-np.inf, np.inf]]
    assert np.isnan(share_intervals(above[:, :1], below[:1])).all()
    with pytest.raises(ValueError, match=r"level is 1\.0; it must be between 0 and 1"):
        share_intervals(above, below, 1.0)


def test_a_span_under_three_standard_errors_is_warned_of_and_under_one_refused() -> None:
    seeds: dict[str, int] = {}
    for seed in range(60):
        w = near_zero(seed)(torch.ones(1, 6, dtype=torch.bool))[0].numpy()
        size = abs(w.mean()) / (w.std(ddof=1) / np.sqrt(24))
        seeds.setdefault("refused" if size < 0.95 else "warned" if 1.05 < size < 2.9 else "", seed)
    game = near_zero(seeds["refused"])
    found = sm.discover(game)
    for call in (sm.find_circuit, sm.faithfulness_curve):
        with pytest.raises(ValueError, match="cannot be told from 0 over 24 prompts, so shares"):
            call(game, found)
    with pytest.raises(ValueError, match="cannot be told from 0"):
        sm.score_circuit(game, ["a"])
    game = near_zero(seeds["warned"])
    with pytest.warns(UserWarning, match=r"only [12]\.\d standard errors from 0") as seen:
        circuit = sm.find_circuit(game, found)
    assert [warning.filename for warning in seen] == [__file__]
    assert str(circuit).splitlines()[2].startswith("  shares of ") and " +- " in str(circuit)


def test_held_out_prompts_of_another_sign_are_warned_of() -> None:
    game, other = near_zero(0, 6.0), near_zero(1, -6.0)
    with pytest.warns(UserWarning, match="what helps there hurts here"):
        sm.find_circuit(game, sm.discover(game), held_out=other)


def test_a_clear_span_is_not_warned_of() -> None:
    game = near_zero(0, 6.0)
    circuit = sm.find_circuit(game, sm.discover(game), held_out=near_zero(1, 6.0))
    assert circuit.span_stderr > 0 and circuit.faithfulness.low < circuit.faithfulness.value
    assert circuit.faithfulness.value < circuit.faithfulness.high


# -- 4. held out that is not ----------------------------------------------------------------------


def demo_game(seed: int = 0, n: int = 8, **options: Any) -> Any:
    model = sm.load_model("demo")
    task = {"metric": options.pop("metric")} if "metric" in options else {}
    return sm.ModelGame(
        model, sm.load_task("induction", model, n_prompts=n, seed=seed, **task), **options
    )


def test_another_member_that_is_smaller_on_held_out_prompts_is_named() -> None:
    """What is printed as the least was then not the least, and nothing said so."""
    on_selection = torch.tensor([[1.0, 1.1], [0.7, 0.6], [0.0, 0.01]]).double()
    on_others = torch.tensor([[0.5, 0.6], [1.0, 1.2], [0.0, 0.01]]).double()
    game, other, like = (
        game_of(lambda m, w=w: m.double() @ w, "abc")
        for w in (on_selection, on_others, on_selection * 1.01)
    )
    found = sm.discover(game)
    circuit = sm.find_circuit(game, found, size=2, held_out=other)
    value = {row.unit: row.minimality for row in circuit.frame().itertuples()}
    assert circuit.units == ["a", "b"] and circuit.minimality.value == value["b"] > value["a"]
    share = float(on_others[0].mean() / on_others.sum(dim=0).mean())
    assert value["a"] == pytest.approx(share)
    assert f"(of b, the least on the prompts of the selection; on these a has {share:.3g} +-" in (
        repr(circuit)
    )
    for same in (None, like):
        told = repr(sm.find_circuit(game, found, size=2, held_out=same))
        assert "least minimality" in told and "on these" not in told


def test_the_same_prompts_are_not_held_out() -> None:
    game, same = demo_game(), demo_game()
    found = sm.discover(game, progress=False)
    few: dict[str, Any] = {"budget": 40, "progress": False}
    for held_out in (game, same):
        with pytest.warns(UserWarning, match="held_out has all of its prompts in common"):
            circuit = sm.find_circuit(game, found, held_out=held_out, **few)
        assert circuit.about["measured_on"] == "prompts, those of the selection"
        assert 5 <= circuit.cost["held_out_evaluations"] <= 30
        assert circuit.cost["evaluations"] <= 40 + 16
    with pytest.warns(UserWarning, match="held_out has all of its prompts in common"):
        sm.faithfulness_curve(game, found, held_out=same, **few)


def test_shared_prompts_are_counted() -> None:
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, n_prompts=24)
    from dataclasses import replace

    games = [
        sm.ModelGame(model, replace(task, prompts=replace(part, index=torch.arange(len(part)))))
        for part in (task.prompts[:16], task.prompts[12:])
    ]
    found = sm.discover(games[0], progress=False)
    with pytest.warns(UserWarning, match="held_out has 33% of its prompts in common"):
        circuit = sm.find_circuit(games[0], found, held_out=games[1], budget=40, progress=False)
    assert (
        circuit.about["measured_on"] == "held-out prompts, of which 33% are those of the selection"
    )


def test_prompts_of_the_search_are_not_held_out() -> None:
    """Of a result of other prompts than the selection's, as the command line takes it."""
    searched, game, fresh = (demo_game(seed=seed) for seed in (1, 0, 2))
    found = sm.discover(searched, progress=False)
    few: dict[str, Any] = {"budget": 40, "progress": False}
    for find in (sm.find_circuit, sm.faithfulness_curve):
        with pytest.warns(UserWarning, match="prompts of held_out are prompts of the search"):
            find(game, found, held_out=searched, **few)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sm.find_circuit(game, found, held_out=fresh, **few)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"metric": "loss"}, "metric 'log_prob' and 'loss'"), ({"ablation": "zero"}, "ablation")],
)
def test_another_metric_or_ablation_is_not_held_out(options: dict[str, Any], text: str) -> None:
    game, other = demo_game(), demo_game(seed=1, **options)
    found = sm.discover(game, progress=False)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        sm.find_circuit(game, found, held_out=other, budget=40, progress=False)
    told = [str(w.message) for w in seen]
    assert re.search(f"differs from that of the selection in .*{text}", told[0])
    assert not any("in common" in words for words in told)


def test_prompts_of_functions_are_told_by_their_values() -> None:
    w = torch.tensor(np.random.default_rng(0).normal(1, 0.2, (4, 12)))
    games = [
        game_of(lambda m, w=w[:, at]: m.double() @ w, "abcd") for at in (slice(8), slice(4, 12))
    ]
    found = sm.discover(games[0])
    with pytest.warns(UserWarning, match="held_out has 50% of its prompts in common"):
        sm.find_circuit(games[0], found, held_out=games[1])
    fresh = torch.tensor(np.random.default_rng(1).normal(1, 0.2, (4, 12)))
    sm.find_circuit(games[0], found, held_out=game_of(lambda m: m.double() @ fresh, "abcd"))


# -- 5. stability ---------------------------------------------------------------------------------


def test_without_a_redraw_the_same_circuit_is_selected() -> None:
    """Redrawn prompts are selected on by the rule of the selection: smallest, then the least
    distance and its standard error."""
    for seed in range(40):
        game, _ = random_function(seed, n_prompts=8, noise=0.3)
        if not is_clear(game):
            continue
        n = len(game)
        table = np.array(list(product([False, True], repeat=n)))
        values = game(torch.from_numpy(table)).numpy()
        circuit = sm.find_circuit(game, sm.discover(game, progress=False), progress=False)
        intact, empty = values[-1], values[0]
        span = intact.mean() - empty.mean()
        shares = (values.mean(1) - empty.mean()) / span
        off = (values - intact) / span
        losses = abs(1 - shares) + off.std(1, ddof=1) / np.sqrt(8)
        row = Goal("match").choose(shares, losses, table.sum(1))
        assert row is not None
        chosen = losses[(table == circuit.members).all(1)][0]
        assert losses[row] == pytest.approx(chosen, abs=1e-8), seed
        assert table[row].sum() == len(circuit)


@pytest.mark.parametrize("number", range(3))
def test_stability_is_that_of_a_plain_bootstrap(number: int) -> None:
    games = (random_function(seed, n_prompts=8, noise=0.4)[0] for seed in range(100))
    game, seed = [game for game in games if is_clear(game)][number], number
    n = len(game)
    found = sm.discover(game, progress=False)
    circuit = sm.find_circuit(game, found, seed=seed, progress=False)
    table = np.array(list(product([False, True], repeat=n)))
    values = game(torch.from_numpy(table)).numpy()
    draws = np.random.default_rng(seed).multinomial(8, np.full(8, 1 / 8), 200)
    overlaps = []
    for draw in draws:
        drawn = np.repeat(values, draw, axis=1)
        span = drawn[-1].mean() - drawn[0].mean()
        best: tuple[int, float] = (n + 1, 0.0)
        for mask, row in zip(table, drawn, strict=True):
            share = (row.mean() - drawn[0].mean()) / span
            off = (row - drawn[-1]) / span
            loss = abs(1 - share) + off.std(ddof=1) / np.sqrt(8)
            if mask.any() and abs(1 - share) <= 0.1 + 1e-9:
                if (int(mask.sum()), loss) < best:
                    best, again = (int(mask.sum()), loss), mask
        overlaps.append((again & circuit.members).sum() / (again | circuit.members).sum())
    assert circuit.stability.value == pytest.approx(np.mean(overlaps))


def test_one_prompt_cannot_be_redrawn_and_says_nothing() -> None:
    circuit = circuit_of(lambda m: m[:, 0].double(), "ab")
    assert np.isnan(circuit.stability.value) and "nan" not in str(circuit)
    assert np.isnan(circuit.faithfulness.low)


# -- 6. the smallest ------------------------------------------------------------------------------


@pytest.mark.parametrize("sure", [1, 2])
def test_the_standard_error_decides_between_equally_faithful_sets(sure: int) -> None:
    """b and c are equally good on the mean; one of them by chance, as half of the prompts show."""
    steady, shaky = torch.ones(4), torch.tensor([2.0, 0.0, 2.0, 0.0])

    def function(m: torch.Tensor) -> torch.Tensor:
        value = torch.where(m[:, sure, None], steady, shaky)
        return (m[:, 1:2] | m[:, 2:3]).double() * value

    circuit = circuit_of(function, "abc", None, 1)
    assert circuit.units == ["abc"[sure]]


@pytest.mark.parametrize("seed", range(3))
def test_where_all_subsets_fit_into_the_budget_all_are_run(seed: int) -> None:
    """Parity-like functions, which no greedy step solves."""
    rng = np.random.default_rng(seed)
    values = torch.tensor(rng.normal(size=2**10) * 0.3)
    values[-1], values[0] = 2.0, 0.0
    powers = 2 ** torch.arange(10)
    game = game_of(lambda m: values[(m * powers).sum(1)], [f"u{i}" for i in range(10)])
    circuit = sm.find_circuit(game, sm.discover(game), 0.5, budget=1024, scores_budget=64)
    loop = Loop(game)
    assert len(circuit) == loop.smallest(0.5)
    assert circuit.cost["evaluations"] == 1024


@pytest.mark.parametrize("n", [11, 16, 24])
def test_the_whole_budget_is_spent(n: int) -> None:
    rng = np.random.default_rng(n)
    w = torch.tensor(rng.normal(0.5, 1, n))
    game = game_of(lambda m: m.double() @ w, [f"u{i}" for i in range(n)])
    sets = sm.find_circuit(game, sm.discover(game), budget=400, scores_budget=2)
    # What the scores compare comes on top.
    assert 400 <= sets.cost["evaluations"] <= 400 + 60 + 4 * len(sets)


def test_what_is_left_of_the_budget_finds_smaller_circuits() -> None:
    """Sums of 12 units: the smallest set by a plain loop, found with three tenths of all sets."""
    hits = 0
    for seed in range(2):
        rng = np.random.default_rng(seed)
        w = torch.tensor(rng.normal(0.3, 1, 12))
        game = game_of(lambda m, w=w: m.double() @ w, [f"u{i}" for i in range(12)])
        if abs(w.sum()) < 1:
            hits += 1
            continue
        found = sm.discover(game)
        circuit = sm.find_circuit(game, found, 0.95, budget=1200, scores_budget=2)
        table = np.array(list(product([False, True], repeat=12)))
        fits = abs(1 - table @ w.numpy() / float(w.sum())) <= 0.05 + 1e-9
        hits += len(circuit) == table[fits].sum(1)[table[fits].sum(1) > 0].min()
    assert hits == 2


# -- 7. the benchmark's files and figures ---------------------------------------------------------


@pytest.mark.parametrize("n", [8, 32, 144])
def test_areas_at_the_benchmarks_sizes(n: int) -> None:
    w = torch.tensor(np.sort(np.random.default_rng(0).pareto(1.2, size=n))[::-1].copy())
    game = game_of(lambda m: m.double() @ w, [f"u{i}" for i in range(n)])
    found = sm.discover(game, budget=2 * n + 60, progress=False)
    curve = sm.faithfulness_curve(game, found, order=game.labels, sizes="mib", progress=False)
    f = np.array([float(w[: int(p * n)].sum() / w.sum()) for p in SHARES])
    cpr, cmd = curve.mib_areas()
    assert cpr.value == pytest.approx(np.trapezoid(f, SHARES))
    assert cmd.value == pytest.approx(np.trapezoid(abs(1 - f), SHARES))
    missing = sm.faithfulness_curve(game, found, order=game.labels, sizes=[3], progress=False)
    with pytest.raises(ValueError, match=r"need a circuit of 1 units.*sizes='mib'"):
        missing.mib_areas()


@pytest.mark.parametrize(
    ("family", "parallel"), [("gpt_neox", True), ("phi", True), ("llama", False)]
)
def test_parallel_blocks_have_no_edge_within_a_layer(family: str, parallel: bool) -> None:
    prompts = sm.Prompts(torch.arange(3, 12)[None], answers=[3], wrong_answers=[4])
    game = sm.ModelGame(families.build(family), sm.Task(prompts, "logit_diff"))
    out = sm.score_circuit(game, ["a0.h1", "a1.h0"], progress=False).to_mib()
    assert out["cfg"]["parallel_attn_mlp"] is parallel
    assert ("a0.h0->m0" in out["edges"]) is not parallel
    assert len(out["edges"]) == (102 if parallel else 110)
    assert ("a0.h0->m1" in out["edges"]) and ("m0->a1.h0<q>" in out["edges"])


def test_which_configs_have_parallel_blocks() -> None:
    from types import SimpleNamespace as Config

    assert has_parallel_blocks(Config(model_type="gpt_neox", use_parallel_residual=True))
    assert not has_parallel_blocks(Config(model_type="gpt_neox", use_parallel_residual=False))
    assert has_parallel_blocks(Config(model_type="falcon", parallel_attn=True))
    assert not has_parallel_blocks(
        Config(model_type="falcon", parallel_attn=False, new_decoder_architecture=False)
    )
    assert has_parallel_blocks(Config(model_type="gptj"))
    assert has_parallel_blocks(Config(parallel_attn_mlp=True))  # TransformerLens
    assert not has_parallel_blocks(Config(model_type="gpt2"))


def test_scores_are_signed_and_there_for_what_was_left_out() -> None:
    labels = [f"L0H{i}" for i in range(6)]
    game = game_of(lambda m: 3.0 * m[:, 0] + m[:, 1] - 2.0 * m[:, 2] + 0.5 * m[:, 3], labels)
    circuit = sm.find_circuit(game, sm.discover(game), 0.99)
    small = sm.find_circuit(game, sm.discover(game), size=1)
    for found in (circuit, small):
        nodes = found.to_mib(n_layers=1, n_heads=6, d_model=8)["nodes"]
        scores = [nodes[f"a0.h{i}"]["score"] for i in range(6)]
        assert scores == pytest.approx([1.2, 0.4, -0.8, 0.2, 0, 0])
    assert circuit.ranking(signed=True) == ["L0H0", "L0H1", "L0H3", "L0H4", "L0H5", "L0H2"]
    assert circuit.ranking(signed=False) == circuit.ranking
    signed = sm.faithfulness_curve(game, sm.discover(game), order=circuit.ranking(signed=True))
    unsigned = sm.faithfulness_curve(game, sm.discover(game), order=circuit.ranking)
    assert signed.cpr.value == pytest.approx(1.45)
    assert unsigned.cpr.value == pytest.approx(0.81666667)


# -- 8. errors ------------------------------------------------------------------------------------


def test_no_span_is_the_same_error_everywhere() -> None:
    w = torch.tensor([[1.0], [0.5], [0.1], [0]]).double().repeat(1, 8)
    game, dead = (game_of(lambda m, w=w: m.double() @ w, "abcd") for w in (w, 0 * w))
    found = sm.discover(game)
    for call in (
        lambda: sm.find_circuit(dead, found),
        lambda: sm.find_circuit(game, found, held_out=dead),
        lambda: sm.faithfulness_curve(dead, found, order=list("abcd")),
        lambda: sm.faithfulness_curve(game, found, held_out=dead),
        lambda: sm.score_circuit(dead, ["a"]),
    ):
        with pytest.raises(ValueError, match="ablating these units changes nothing"):
            call()
    curve = sm.FaithfulnessCurve(list("ab"), np.tri(3, 2, -1, dtype=bool), np.ones((3, 2)))
    with pytest.raises(ValueError, match="there is nothing to take a share of"):
        curve.cpr  # noqa: B018


@pytest.mark.parametrize("wanted", [1e-10, 1e-3, 0.3])
def test_the_smallest_circuit_that_keeps_next_to_nothing_has_a_unit(wanted: float) -> None:
    circuit = circuit_of(lambda m: 0.2 * m[:, 1] + 0.8 * m[:, 2], "abc", wanted)
    assert len(circuit) == 1 and circuit.units in (["b"], ["c"]) and circuit.members.any()
    assert circuit.faithfulness.value >= wanted and np.isfinite(circuit.minimality.value)


def test_circuits_are_compared_and_not_confirmed() -> None:
    game = game_of(one_of_two, "abcd")
    found = sm.discover(game)
    circuit = sm.find_circuit(game, found, 0.99)
    assert sm.compare(circuit, circuit).jaccard == 1
    with pytest.raises(TypeError, match="Interactions"):
        sm.confirm(circuit, game)  # pyright: ignore[reportArgumentType]
    for pair in ((circuit, found), (found, circuit), ("a", "b")):
        with pytest.raises(TypeError):
            sm.compare(*pair)


# -- 9. a circuit in hand -------------------------------------------------------------------------

HEADS = ["L0H0", "L0H1", "L1H0", "L1H1", "L2N7"]


def heads_game() -> CallableGame:
    function = lambda m: 2.0 * m[:, 0] * m[:, 2] + 0.5 * m[:, 1] - 0.2 * m[:, 3]  # noqa: E731
    noise = torch.tensor(np.random.default_rng(0).normal(size=(5, 6)) * 0.02)
    return game_of(lambda m: function(m.double())[:, None] + m.double() @ noise, HEADS)


@pytest.mark.parametrize(
    "names",
    [
        ["L0H0", "L1H0"],
        ["a0.h0", "a1.h0"],
        ["A0.0", "A1.0"],
        ["0.0", "1.0"],
        [(0, 0), (1, 0)],
        ["(0, 0)", "1, 0"],
        ["blocks.0.attn.hook_z[0]", "blocks.1.attn.hook_result[:, :, 0]"],
        ["layer 0 head 0", "Layer 1, Head 0"],
        ["L0.H0", "l1h0"],
    ],
)
def test_a_circuit_by_labels_in_any_spelling(names: list[Any]) -> None:
    game = heads_game()
    circuit = sm.score_circuit(game, names)
    assert circuit.units == ["L0H0", "L1H0"]
    loop, members = Loop(game), frozenset(circuit.units)
    assert circuit.faithfulness.value == pytest.approx(loop.share(members))
    assert circuit.completeness.value == pytest.approx(loop.completeness(members))
    assert circuit.minimality.value == pytest.approx(loop.minimality(members))
    assert circuit.faithfulness.stderr > 0 and circuit.about["measured_on"] == "prompts"
    assert circuit.why["L0H0"].brought_by == "given"
    curve = sm.faithfulness_curve(game, sm.discover(game), order=names, sizes=[2])
    assert curve.faithfulness[1] == pytest.approx(circuit.faithfulness.value)


def test_neurons_are_spelled_too_and_unknown_units_refused() -> None:
    game = heads_game()
    for name in ("L2N7", "m2.n7", "N2.7", "blocks.2.mlp.hook_post[7]", "layer 2 neuron 7"):
        assert sm.score_circuit(game, [name]).units == ["L2N7"]
    for names, text in (
        (["a7.h3"], "unknown unit 'a7.h3' in the circuit; units are 'L0H0'"),
        (["L0H0", (0, 0)], r"the circuit names \(0, 0\) twice \(also as 'L0H0'\)"),
        (["nonsense"], "unknown unit 'nonsense'"),
    ):
        with pytest.raises(ValueError, match=text):
            sm.score_circuit(game, names)


def test_a_found_circuit_that_is_given_has_the_same_scores() -> None:
    game = heads_game()
    found = sm.discover(game)
    circuit = sm.find_circuit(game, found)
    again = sm.score_circuit(game, circuit, found)
    for name in ("faithfulness", "completeness", "minimality"):
        assert getattr(again, name) == getattr(circuit, name)
    np.testing.assert_allclose(again.importance, circuit.importance)
    assert again.groups == circuit.groups and again.links == circuit.links


def same(a: Any, b: Any) -> None:
    from dataclasses import fields

    for field in fields(sm.Circuit):
        one, two = getattr(a, field.name), getattr(b, field.name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, two)
        elif field.name not in ("about", "cost"):
            assert repr(one) == repr(two), field.name


def test_saved_and_loaded(tmp_path: Path) -> None:
    noisy = heads_game()
    alone = game_of(lambda m: m[:, 0].double(), HEADS)  # one prompt: no errors
    for game in (noisy, alone):
        circuit = sm.find_circuit(game, sm.discover(game), 0.95)
        read = sm.Circuit.load(circuit.save(tmp_path / "new" / "circuit.json"))
        same(circuit, read)
        assert read.cost == circuit.cost and read.about["aim"] == "match"
        assert repr(read) == repr(circuit) and read.ranking == circuit.ranking
        assert sm.score_circuit(game, tmp_path / "new" / "circuit.json").units == circuit.units
    json.loads((tmp_path / "new" / "circuit.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "is not a spex_mech circuit"),
        ("[1]", "is not a spex_mech circuit"),
        ('{"kind": "spex_mech circuit", "format": 9}', "written by a newer spex_mech"),
        ('{"kind": "spex_mech circuit", "format": 1}', "is not a spex_mech circuit"),
        ('{"kind": "other", "format": 1}', "no circuit that Circuit.save wrote"),
    ],
)
def test_files_that_are_no_circuits(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "circuit.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=error):
        sm.Circuit.load(path)
    with pytest.raises(FileNotFoundError):
        sm.Circuit.load(tmp_path / "none.json")


@pytest.mark.parametrize("change", [('"n_prompts": ', '"n_prompts": 1'), ('"L0H0"', '"L9H9"')])
def test_a_circuit_file_that_was_changed_is_refused(
    change: tuple[str, str], tmp_path: Path
) -> None:
    game = heads_game()
    circuit = sm.score_circuit(game, ["L0H0", "L1H0"])
    path = circuit.save(tmp_path / "circuit.json")
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text)))  # laid out otherwise, and the same
    assert sm.Circuit.load(path).units == circuit.units
    path.write_text(text, encoding="utf-8-sig")  # with a byte-order mark, as some editors write it
    assert sm.load(path).units == circuit.units
    path.write_text(text.replace(*change))
    with pytest.raises(ValueError, match="damaged or was edited, as its checksum does not fit"):
        sm.Circuit.load(path)
    earlier = json.loads(text)
    del earlier["sha256"]  # as before files had one
    path.write_text(json.dumps(earlier))
    assert sm.load(path).units == circuit.units


def test_the_benchmarks_json_is_read_and_scored(tmp_path: Path) -> None:
    heads = [f"L{layer}H{head}" for layer in range(2) for head in range(2)]
    game = game_of(lambda m: 2.0 * m[:, 0] * m[:, 2] + 0.5 * m[:, 1], heads)
    circuit = sm.find_circuit(game, sm.discover(game), 0.99)
    out = circuit.to_mib(n_layers=2, n_heads=2, d_model=8)
    path = tmp_path / "mib.json"
    path.write_text(json.dumps(out))
    for source in (out, path):
        read = sm.Circuit.from_mib(source)
        assert read.labels == heads and read.units == circuit.units
        assert "score_circuit(game, ...) scores it" in str(read)
        assert read.overlap(circuit).jaccard == 1
        np.testing.assert_allclose(read.signed_importance, circuit.signed_importance)
        assert {*read.frame()["unit"]} == {*circuit.units} == {*read.why}
        assert {n for n, x in read.to_networkx().nodes(data=True) if x["member"]} == {*read.why}
        figure = sm.plot_circuit(read)
        legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        assert "member" in legend and "left out" not in legend
        assert "not scored" in figure.axes[0].get_title()
        scored = sm.score_circuit(game, source)
        assert scored.minimality.value == pytest.approx(circuit.minimality.value)
    with pytest.raises(ValueError, match="needs 'nodes', each with 'in_graph'"):
        sm.Circuit.from_mib({"nodes": {"a0.h0": {}}})
    path.write_text("no json")
    for read in (sm.Circuit.from_mib, lambda p: sm.score_circuit(game, p)):
        with pytest.raises(ValueError, match="JSON"):
            read(path)


def test_a_published_circuit_is_read(shared_data: Path) -> None:
    path = shared_data / "circuits" / "ioi-eap-ig_gpt2.json"
    read, nodes = sm.Circuit.from_mib(path), json.loads(path.read_text())["nodes"]
    kept = {
        f"L{n[1:].replace('.h', 'H')}" for n, x in nodes.items() if n[0] == "a" and x["in_graph"]
    }
    assert {unit for unit in read.units if "H" in unit} == kept


def test_what_two_circuits_share() -> None:
    game = heads_game()
    one, two = (sm.score_circuit(game, names) for names in (["L0H0", "L1H0"], ["L0H0", "L0H1"]))
    overlap = one.overlap(two)
    assert overlap.jaccard == pytest.approx(1 / 3) and overlap.both == ("L0H0",)
    assert overlap.only_a == ("L1H0",) and overlap.only_b == ("L0H1",)
    other = sm.score_circuit(game_of(lambda m: m[:, 0] * 1.0, ["L0H0", "L9H9"]), ["L0H0", "L9H9"])
    assert one.overlap(other).not_in_a == ("L9H9",) and one.overlap(other).not_in_b == ("L1H0",)
    strange = sm.score_circuit(game_of(lambda m: m[:, 0] * 1.0, "xy"), ["x"])
    with pytest.raises(ValueError, match="share no unit"):
        one.overlap(strange)


# -- what counts as real --------------------------------------------------------------------------


def test_an_interaction_that_prompts_do_not_confirm_is_no_link() -> None:
    """Two pairs, equally strong on the mean; of one every second prompt says the opposite."""
    shaky = torch.tensor([1.3, -0.3, 1.2, -0.2, 1.1, -0.1, 1.15, -0.15])

    def function(m: torch.Tensor) -> torch.Tensor:
        m = m.double()
        sure = (m[:, 0] * m[:, 1])[:, None] * torch.tensor(
            [0.5, 0.55, 0.45, 0.52, 0.48, 0.51, 0.53, 0.47]
        )
        unsure = (m[:, 2] * m[:, 3])[:, None] * shaky
        return sure + unsure + 3 * m.mean(1)[:, None]

    game = game_of(function, "abcd")
    found = sm.discover(game, method="exhaustive")
    assert 0.05 < found.q_value[[set(x) == set("cd") for x in found.names]][0] < 0.95
    circuit = sm.find_circuit(game, found, size=4)
    assert [link.units for link in circuit.links] == [("a", "b")]


# -- metrics of real models -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.slow) for f in ("gpt_neox", "gpt2")] + ["llama"]
)
@pytest.mark.parametrize("metric", ["logit_diff", "prob_diff", "log_prob", "loss", "kl"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_scores_are_those_of_hooks_by_hand(family: str, metric: str, sign: float) -> None:
    from spex_mech.engine.metrics import METRICS

    model = families.build(family)

    def kl(output: Any, prompts: Any) -> torch.Tensor:
        """From its definition, by a pass of its own for the intact prediction."""
        log_probs = (output if isinstance(output, torch.Tensor) else output.logits)[:, -1]
        log_probs = log_probs.log_softmax(-1)
        intact = families.logits(family, model, prompts.tokens)[:, -1].log_softmax(-1)
        return -(intact.exp() * (intact - log_probs)).sum(-1)

    by_name = {**METRICS, "kl": kl}[metric]

    def turned(output: Any, prompts: Any) -> torch.Tensor:
        return -by_name(output, prompts)

    places = [("head", layer, head) for layer in range(2) for head in range(4)]
    labels = [f"L{layer}H{head}" for _, layer, head in places]

    def by_hand(kept: set[str]) -> np.ndarray:
        """The metric of each prompt, one prompt and one hook at a time."""
        lost = [p for p, label in zip(places, labels, strict=True) if label not in kept]
        values = []
        for row in range(len(tokens)):
            logits = engine.logits("zero", lost, row)[None]
            values.append(float(sign * by_name(logits, prompts[row : row + 1])[0]))
        return np.array(values)

    # Of 20 random prompts three on which what the heads do together is beyond doubt.
    tokens = torch.randint(3, 60, (20, 9), generator=torch.Generator().manual_seed(0))
    for n_prompts in (20, 3):
        prompts = sm.Prompts(
            tokens, answers=tokens[:, 4].tolist(), wrong_answers=(tokens[:, 4] + 1).tolist()
        )
        engine = families.PlainEngine(family, model, tokens, tokens)
        spans = by_hand(set(labels)) - by_hand(set())
        if n_prompts == 20:
            order = np.argsort(spans)
            threes = [order[i : i + 3] for i in range(18)]
            clearest = max(threes, key=lambda rows: abs(spans[rows].mean()) / spans[rows].std())
            tokens = tokens[torch.tensor(clearest.tolist())]
    span, none = spans.mean(), by_hand(set()).mean()
    task = sm.Task(prompts, metric if sign > 0 else turned)
    game = sm.ModelGame(model, task, sm.Components.heads(model), ablation="zero")
    circuit = sm.score_circuit(game, ["a0.h0", "a1.h2"], progress=False)
    wanted = (by_hand(set(circuit.units)).mean() - none) / span
    assert circuit.faithfulness.value == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    for part in circuit.minimality.by_subset:
        kept = set(circuit.units) - set(part.given)
        drop = abs((by_hand(kept) - by_hand(kept - set(part.units))).mean()) / abs(span)
        assert part.value == pytest.approx(drop, rel=1e-4, abs=1e-4)
    worst = max(
        abs((by_hand(set(circuit.units) - k) - by_hand(set(labels) - k)).mean()) / abs(span)
        for k in (set(), {"L0H0"}, {"L1H2"}, {"L0H0", "L1H2"})
    )
    assert circuit.completeness.value == pytest.approx(worst, rel=1e-4, abs=1e-4)


def test_a_bridge_of_backups_with_the_loss() -> None:
    model = demo_with_backup(head=0, spare=3)
    game = sm.ModelGame(model, sm.load_task("induction", model, 16, metric="loss"))
    circuit = sm.find_circuit(game, sm.discover(game, progress=False), 0.99, progress=False)
    assert circuit.units == ["L0H3", "L1H0", "L1H3"]
    assert [g.units for g in circuit.groups if g.kind == "backup"] == [("L1H0", "L1H3")]
