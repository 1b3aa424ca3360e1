"""Plans: what a search will ask and take, said before it is spent."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech import planning
from spex_mech.cli import main
from spex_mech.game import Answer, Game, Tick, no_tick
from spex_mech.masks import MaskBatch
from spex_mech.planning import Stage
from spex_mech.units import Units


class Clock:
    """Stands for the module ``time``: it goes on where a game says so, and nowhere else."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(planning, "time", CLOCK)
    return CLOCK


class Timed(Game):
    """A game of known pace: seconds per batch and per mask, three times as long with slopes."""

    def __init__(self, n: int, each: float = 0.0, batch: float = 0.0, slopes: bool = True) -> None:
        self._units = Units.of_labels([f"u{i}" for i in range(n)])
        self._each, self._batch, self._slopes = each, batch, slopes
        self.n_asked = 0
        rng = np.random.default_rng(0)
        self._main, self._pairs = rng.normal(size=n), rng.standard_t(2, (n, 3))

    @property
    def units(self) -> Units:
        return self._units

    @property
    def has_slopes(self) -> bool:
        return self._slopes

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Tick = no_tick) -> Answer:
        CLOCK.now += self._batch + len(masks) * self._each * (3 if slopes else 1)
        self.n_asked += len(masks)
        lost = 1.0 - masks.kept()
        values = (-lost @ self._main + np.tanh(lost @ self._pairs).sum(axis=1))[:, None]
        if not slopes:
            return Answer(values)
        bent = (1 - np.tanh(lost @ self._pairs) ** 2) @ self._pairs.T
        return Answer(values, (self._main - bent)[:, None])


SEARCHES: list[tuple[str, Callable[[], Any], dict[str, Any]]] = [
    ("all pairs", lambda: Timed(40, each=0.002), {"method": "exhaustive"}),
    ("slow batches", lambda: Timed(60, each=0.0005, batch=0.15), {"budget": 600}),
    ("slow masks", lambda: Timed(200, each=0.006), {"budget": 800}),
    ("no slopes", lambda: Timed(100, each=0.006, slopes=False), {"budget": 700}),
    ("a proxy", lambda: Timed(60, each=0.01), {"method": "proxyspex", "budget": 400}),
]


@pytest.mark.parametrize(
    ("make", "how"), [run[1:] for run in SEARCHES], ids=[s[0] for s in SEARCHES]
)
def test_the_time_is_that_of_the_search(make: Callable[[], Any], how: dict[str, Any]) -> None:
    game = make()
    planned = sm.plan(game, **how)
    before = CLOCK.now
    found = sm.discover(make(), progress=False, **how)
    assert planned.evaluations == found.cost["evaluations"]
    assert planned.seconds == pytest.approx(CLOCK.now - before, rel=0.25)
    assert game.n_asked < found.cost["evaluations"]


def test_it_costs_a_small_part_of_the_search() -> None:
    game = Timed(100, each=0.004)
    planned = sm.plan(game, 20_000, "exhaustive")
    found = sm.discover(Timed(100), "exhaustive", 20_000, progress=False)
    assert planned.evaluations == found.cost["evaluations"]
    assert game.n_asked < 800  # a batch of each stage, and what grows up to it
    assert planned.seconds == pytest.approx(0.004 * planned.evaluations, rel=0.25)


def test_workers_share_the_batches_of_a_question() -> None:
    stage = Stage("pairs", 600, 0, (600,), 60.0)
    assert stage.seconds_with(1) == pytest.approx(60)
    assert stage.seconds_with(2) == pytest.approx(30)
    assert stage.seconds_with(7) == pytest.approx(60 * 86 / 600)
    two = Stage("rounds", 6, 0, (3, 3), 60.0)
    assert two.seconds_with(2) == pytest.approx(40)  # a round waits for the one before


def test_it_is_a_table() -> None:
    planned = sm.plan(Timed(30), 200)
    text = str(planned)
    assert "30 units, 435 pairs: 200 evaluations" in text
    assert "measuring likely pairs" in text and "with workers" in text
    table = planned.frame()
    assert table.evaluations.sum() == 200
    assert table.stage.is_unique


def test_a_model_is_planned_and_left_alone() -> None:
    model = sm.load_model("demo")
    game = sm.ModelGame(model, sm.load_task("induction", model, 8), "heads")
    before = game(torch.ones(1, 8, dtype=torch.bool))
    planned = sm.plan(game, method="exhaustive")
    assert (
        planned.evaluations == sm.discover(game, "exhaustive", progress=False).cost["evaluations"]
    )
    assert torch.equal(game(torch.ones(1, 8, dtype=torch.bool)), before)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"budget": 3}, "budget"),
        ({"method": "fast"}, "method"),
        ({"budget": 200, "speed": 1}, "takes no 'speed'"),
        ({"method": "proxyspex", "proxy": Timed(30)}, "cannot be planned"),
    ],
)
def test_what_a_search_would_refuse_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sm.plan(Timed(30), **how)


def test_the_command_line_plans_and_writes_nothing(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["discover", "--n-prompts", "4", "--budget", "60", "--dry-run", "--out", str(out)]
    assert main(words) == 0
    assert "8 units, 28 pairs: " in capsys.readouterr().out
    assert not list(out.glob("*"))
