"""``precision="auto"``: half precision where it resolves what drawn pairs do, and nowhere else."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest

import spex_mech as sm
from spex_mech.engine.cheapest import choose_precision
from tests.test_replay import a_game


def demo(**options: Any) -> sm.ModelGame:
    model = sm.load_model("demo")
    return sm.ModelGame(model, sm.load_task("induction", model, 16), **options)


def chosen(game: sm.ModelGame, cheaper: Sequence[str] = ("bfloat16",)) -> Any:
    return choose_precision(game._asked, cheaper)


def interactions(game: sm.ModelGame) -> np.ndarray:
    """Of all pairs, by evaluating them one after the other."""
    n = len(game)

    def value(*lost: int) -> float:
        return game(np.isin(np.arange(n), lost, invert=True)[None]).mean().item()

    alone = [value(u) - value() for u in range(n)]
    pairs = combinations(range(n), 2)
    return np.array([value(i, j) - value() - alone[i] - alone[j] for i, j in pairs])


@pytest.mark.slow
def test_half_precision_is_taken_where_it_resolves_pairs() -> None:
    exact, half = demo(), demo(precision="bfloat16")
    choice = chosen(exact)
    assert choice.precision == "bfloat16"
    assert "is under" in choice.why and f"{half.noise_floor:.2g}" in choice.why
    # And it does resolve them: the error of the strongest is far below their size.
    want, got = interactions(exact), interactions(half)
    strongest = np.argsort(-abs(want))[: len(want) // 10]
    assert (abs(got - want)[strongest] < 0.5 * abs(want[strongest])).all()


def test_half_precision_is_not_taken_where_it_hides_them() -> None:
    """Neurons of the last layer hardly interact."""
    game = a_game("gpt2")
    last = sm.Components.neurons(game.model)[-8:]
    small = sm.ModelGame(game.model, game.task, last)
    choice = chosen(small)
    assert choice.precision == "float32" and "is not under" in choice.why
    floor = sm.ModelGame(game.model, game.task, last, precision="bfloat16").noise_floor
    assert abs(interactions(small)).max() < floor
    assert f"{floor:.2g}" in choice.why


def test_one_unit_has_no_pairs() -> None:
    game = a_game("gpt2")
    one = sm.ModelGame(game.model, game.task, "L0H0")
    assert chosen(one).precision == "float32"


@pytest.mark.slow
def test_the_first_that_resolves_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the game is of it; a CPU has nothing to try."""
    plain = demo(precision="auto")
    assert plain.precision == plain.describe()["precision"] == "float32"
    assert "nothing is reliably cheaper" in plain.precision_choice.why
    monkeypatch.setattr(
        "spex_mech.engine.cheapest.cheaper_than_float32", lambda *_: ("bfloat16", "no such")
    )
    game = demo(precision="auto", batch_size=3)
    assert game.precision == game.describe()["precision"] == "bfloat16"
    assert game.batch_size == 3
    half = demo(precision="bfloat16", batch_size=3)
    masks = np.random.default_rng(0).random((6, len(game))) < 0.7
    assert (game(masks) == half(masks)).all()
    assert "asked for" in half.precision_choice.why


def test_workers_would_each_choose() -> None:
    with pytest.raises(ValueError, match=r"'auto' looks at one game.* give float32, tf32 or"):
        sm.GameFactory("demo", precision="auto")
