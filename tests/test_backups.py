"""Backups of some units, against a loop over masks."""

from typing import Any

import numpy as np
import pytest
from torch import Tensor

import spex_mech as sm
from spex_mech.report.words import summary
from tests.backups import demo_with_backup, plant_backup


def game_of(model: Any, metric: Any = None, **options: Any) -> sm.ModelGame:
    task = sm.load_task("induction", model, 12)
    if metric is not None:
        task = sm.Task(task.prompts, metric)
    return sm.ModelGame(model, task, **options)


def growth(game: sm.ModelGame, gone: list[str]) -> dict[str, float]:
    """By how much more each unit's loss changes the metric once others are gone."""

    def value(*lost: str) -> float:
        return game(~np.isin(game.labels, lost)[None]).mean().item()

    return {
        unit: value(*gone, unit) - value(*gone) - value(unit) + value()
        for unit in game.labels
        if unit not in gone
    }


def told(found: sm.Interactions, gone: str) -> dict[str, float]:
    pairs = zip(found.names, found.mean, strict=True)
    return {next(u for u in names if u != gone): value for names, value in pairs}


@pytest.mark.parametrize("metric", [None, "loss"])
def test_a_planted_backup_is_found(metric: str | None) -> None:
    """Whether the metric falls or rises without it."""
    game = game_of(demo_with_backup(0, 2), metric)
    found = sm.find_backups(game, "L1H0", k=2, progress=False)
    strongest = found.top(1)
    assert set(strongest.names[0]) == {"L1H0", "L1H2"} and strongest.readings == ["OR-like"]
    want = growth(game, ["L1H0"])
    assert told(found, "L1H0") == pytest.approx({u: want[u] for u in told(found, "L1H0")}, abs=1e-4)
    # Of all others none grows more than what was measured.
    sign = 1 if metric else -1
    assert max(want, key=lambda unit: sign * want[unit]) == "L1H2"


def test_of_several_units_together() -> None:
    game = game_of(sm.load_model("demo"))
    gone = ["L1H0", "L0H1"]
    found = sm.find_backups(game, gone, k=3, progress=False)
    want = growth(game, gone)
    measured = told(found, "L0H1 + L1H0")
    assert measured == pytest.approx({unit: want[unit] for unit in measured}, abs=1e-4)
    assert len(measured) == 3
    one = sm.together(game, gone)
    masks = np.random.default_rng(0).random((8, len(one))) < 0.6
    apart = np.stack(
        [masks[:, one.labels.index(u if u not in gone else "L0H1 + L1H0")] for u in game.labels], 1
    )
    np.testing.assert_allclose(one(masks), game(apart), atol=1e-5)
    # On other prompts, and chosen from all units that there are.
    model = game.model
    other = sm.ModelGame(model, sm.load_task("induction", model, 12, seed=1))
    again = sm.confirm(found, sm.together(other, gone), progress=False)
    assert {*again.names[0]} == {*found.top(1).names[0]}
    assert found.chosen_from == {2: 6}


def test_the_strongest_units_are_gone_where_none_is_named() -> None:
    game = game_of(sm.load_model("demo"))
    intact = game(np.ones((1, len(game)), bool)).mean()
    alone = (game(~np.eye(len(game), dtype=bool)).mean(1) - intact).abs()
    strongest = [game.labels[u] for u in alone.argsort(descending=True)[:2].tolist()]
    found = sm.find_backups(game, k=2, n_strongest=2, progress=False)
    name = " + ".join(sorted(strongest))
    assert name in found.labels
    named = sm.find_backups(game, strongest, k=2, progress=False)
    assert told(found, name) == told(named, name)
    spent = found.cost["evaluations"] - named.cost["evaluations"]
    assert spent == 3 + 1 + len(game)  # slopes, and all of so few units alone


def test_without_slopes_all_are_measured() -> None:
    def surest(logits: Tensor, prompts: sm.Prompts) -> Tensor:
        return logits[range(len(logits)), prompts.last].amax(-1).detach()

    game = game_of(demo_with_backup(0, 2), surest)
    assert not game.has_slopes
    found = sm.find_backups(game, ["L1H0"], k=1, progress=False)
    assert told(found, "L1H0") == pytest.approx(growth(game, ["L1H0"]))
    assert found.chosen_from == {}


def right_logit(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    """Of the tokens that are scored."""
    assert prompts.target_mask is not None
    right = logits[:, :-1].gather(-1, prompts.tokens[:, 1:, None])[..., 0]
    return (right * prompts.target_mask[:, :-1]).sum(1) / prompts.target_mask.sum(1)


def missed(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    """Flat as long as the model is sure."""
    assert prompts.target_mask is not None
    right = logits.log_softmax(-1)[:, :-1].gather(-1, prompts.tokens[:, 1:, None])[..., 0]
    return ((right + 1).clamp(max=0) * prompts.target_mask[:, :-1]).mean(1)


@pytest.mark.parametrize(("metric", "strength"), [(right_logit, 4.0), (missed, 1.0)])
def test_a_unit_that_its_backup_replaces_wholly(metric: Any, strength: float) -> None:
    """Its own loss changes the metric a little the other way, or not at all."""
    model = sm.load_model("demo")
    plant_backup(model, 0, 2, 1, strength)
    game = game_of(model, metric)
    found = sm.find_backups(game, "L1H0", k=2, progress=False)
    assert found["L1H0"] >= 0
    want = growth(game, ["L1H0"])
    assert min(want, key=lambda unit: want[unit]) == "L1H2"
    assert told(found, "L1H0")["L1H2"] == pytest.approx(want["L1H2"], abs=1e-4)


def test_the_strongest_by_a_metric_that_is_flat_at_the_intact_model() -> None:
    """A KL has no slope there; all units alone are measured, more than ten for each wanted."""
    model = sm.load_model("demo")
    game = game_of(model, "kl", components="L0H*,L1N[0-9],L1H*")
    intact = game(np.ones((1, len(game)), bool)).mean()
    alone = (game(~np.eye(len(game), dtype=bool)).mean(1) - intact).abs()
    found = sm.find_backups(game, k=1, n_strongest=1, progress=False)
    named = sm.find_backups(game, game.labels[int(alone.argmax())], k=1, progress=False)
    assert found.labels == named.labels
    assert found.cost["evaluations"] - named.cost["evaluations"] == 3 + 1 + len(game)


def test_units_may_be_given_as_components_and_games_may_be_small() -> None:
    model = sm.load_model("demo")
    game = game_of(model, components=["L0H3", "L1H0"])
    found = sm.find_backups(game, game.components["L1H0"], progress=False)
    assert told(found, "L1H0") == pytest.approx(growth(game, ["L1H0"]))
    assert sm.together(game, game.components[1]).labels == ["L0H3", "L1H0"]
    with pytest.raises(ValueError, match="no unit is left"):
        sm.together(game, game.components)


@pytest.mark.parametrize(
    ("of", "words"),
    [
        ("L9H9", "L9H9"),
        (["L1H0", "L1H0"], "holds a unit twice: L1H0, L1H0"),
        ([], "of is empty"),
        ([f"L{layer}H{head}" for layer in (0, 1) for head in range(4)], "no unit is left"),
    ],
)
def test_what_is_no_set_of_units(of: Any, words: str) -> None:
    game = game_of(sm.load_model("demo"))
    for asked in (sm.find_backups, sm.together):
        with pytest.raises(ValueError, match=words):
            asked(game, of)


def test_what_is_no_game_of_a_model() -> None:
    for asked in (sm.find_backups, sm.together):
        with pytest.raises(ValueError, match=r"ModelGame|units of a model"):
            asked(lambda masks: masks.all(1).double(), ["a"])
    with pytest.raises(ValueError, match="k"):
        sm.find_backups(game_of(sm.load_model("demo")), "L1H0", k=0)


def test_backups_of_several_units_are_confirmed_on_these_units_as_one() -> None:
    model = sm.load_model("demo")
    game = game_of(model)
    found = sm.find_backups(game, ["L0H3", "L1H0"], k=3, progress=False)
    other = sm.ModelGame(model, sm.load_task("induction", model, 12, seed=1))
    cure = r"it is several of them as one: give sm.together\(game, \['L0H3', 'L1H0'\]\)"
    for refused in (
        lambda: sm.confirm(found, other, progress=False),
        lambda: sm.score_circuit(other, ["L0H3 + L1H0"], progress=False),
    ):
        with pytest.raises(ValueError, match=cure):
            refused()
    with pytest.raises(ValueError, match=r"unknown unit 'L0H3 \+ L9H0'.*\.\.\.$"):
        sm.measure(other, [("L0H3 + L9H0", "L1H1")], progress=False)


@pytest.mark.parametrize(
    ("gone", "asked", "left"),
    [("L1H0", "7 units of demo are needed more once L1H0 is", "4 units were not measured, whose"),
     (["L1H0", "L0H3"], "6 units of demo are needed more once L0H3 and L1H0 are", "3 units were")],
)  # fmt: skip
def test_a_report_of_backups_asks_for_backups(gone: Any, asked: str, left: str) -> None:
    game = game_of(sm.load_model("demo"))
    found = sm.find_backups(game, gone, k=3, progress=False)
    words = dict(summary(found))
    assert words["What was asked"].startswith(f"Which of {asked} gone on the task induction, ")
    assert left in words["What was missed"]
    assert f"All units would take {2 * len(found.labels)} evaluations" in words["What it cost"]
    every = dict(summary(sm.find_backups(game, gone, k=7, progress=False)))
    assert every["What was missed"] == "No unit: all were measured."
