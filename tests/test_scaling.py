"""Growth: what the benchmark counts and extrapolates is right, and the page states its figures."""

from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm
from benchmarks import extrapolation as large
from benchmarks import growth
from benchmarks.frame import Options, rows_of
from spex_mech.masks import MaskBatch
from spex_mech.pairs.largest import largest_products
from spex_mech.search import ledger
from tests.planted import planted_game


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return Options().kept("growth")


def test_what_was_measured_is_of_commits(kept: dict[str, Any]) -> None:
    assert all(not of["changed_since"] for of in kept["parts"].values())


def test_what_was_measured_by_the_formula(kept: dict[str, Any]) -> None:
    counted = [row for row in rows_of(kept["rows"], part="workers") if "by_formula" in row]
    assert len(counted) == 2
    for row in counted:
        assert row["by_formula"] == pytest.approx(row["share_busy"], rel=0.05)
    for row in rows_of(kept["rows"], part="planted"):
        assert (row["recall"] == 1) == (row["all_measured_after"] is not None)


def test_an_extrapolation_worked_out_by_hand() -> None:
    # 10 weights, 2 prompts of 3 tokens: 2 * 10 * 6 = 120 operations, of which 0.5 are replayed: 60.
    model = large.Model("tiny", 2, 3, 4, 5, 10.0, 1)
    assert model.kinds_of_units["heads"] == 6
    assert model.kinds_of_units["heads and all neurons"] == 14
    a = large.Assumptions(prompts=2, tokens_a_prompt=3)
    assert large.flops_of(model, a, 0.5) == 60
    # All of 6 units: the intact model, 6 singles, 15 pairs.
    line = {"factor": 100.0, "exponent": 0.5}
    assert large.evaluations_of(large.EXHAUSTIVE, 6, line) == 22
    assert large.evaluations_of(large.LEAST, 6, line) == 6
    assert large.evaluations_of(large.DEFAULT, 6, line) == 124
    assert large.evaluations_of(large.SPARSE, 400, line) == pytest.approx(2000)
    # 12 hours of one copy: 8 copies, busy to 0.75, take 2; copies of two GPUs are 4: 4 hours.
    assert large.wall_hours(12, 1, model, 0.75) == 12
    assert large.wall_hours(12, 8, model, 0.75) == 2
    two = large.Model("two", 2, 3, 4, 5, 10.0, 2)
    assert large.wall_hours(12, 8, two, 0.75) == 4
    assert large.wall_hours(12, 1, two, 0.75) is None
    # 20 bytes of weights; 2 layers, 6 tokens, two streams of 5 and 4 neurons: 2 * 2 * 14 * 6 = 336.
    memory = large.memory_of(model, a)
    assert memory["weights_gb"] == pytest.approx(20e-9)
    assert memory["intact_gb"] == pytest.approx(336e-9)


def test_a_known_row_of_the_page(kept: dict[str, Any]) -> None:
    """All pairs of the 8B model's heads, worked out anew from the sources."""
    (row,) = [
        r
        for r in large.searches(kept["rows"])
        if (r["model"], r["units"], r["method"]) == ("8B", "heads", large.EXHAUSTIVE)
    ]
    ratio = max(r["ratio_to_plain"] for r in rows_of(kept["rows"], part="layers"))
    seconds = (1 + 1024 + 1024 * 1023 / 2) * 2 * 8.03e9 * 64 * 16 * ratio / (0.4 * 989e12)
    assert row["gpu_hours"] == pytest.approx(seconds / 3600)
    assert 0.9 < row["gpu_hours"] / row["wall_hours"][8] / 8 < 1.0


def test_exponents_of_a_known_line() -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    fit = large.fitted(x, [3.0 * value**1.5 for value in x])
    assert fit["exponent"] == pytest.approx(1.5)
    assert fit["factor"] == pytest.approx(3.0)
    assert fit["standard_error"] == pytest.approx(0.0, abs=1e-9)
    # Off the line by e, -2e, 2e, -e: exponent -0.1 e', error by the textbook.
    off = np.array([1.0, -2.0, 2.0, -1.0])
    fit = large.fitted(x, (np.array(x) ** 1.5 * np.exp(0.1 * off)).tolist())
    logs = np.log(x) - np.log(x).mean()
    slope = 0.1 * (logs @ off) / (logs @ logs)
    rest = 0.1 * off - slope * logs
    assert fit["exponent"] == pytest.approx(1.5 + slope)
    assert fit["standard_error"] == pytest.approx(np.sqrt(rest @ rest / 2 / (logs @ logs)))


def test_the_counting_game_is_the_planted_game() -> None:
    game = growth.Counted(planted_game(30, 5, 0))
    pairs = [[*pair, -1] for pair in game.game.planted]
    lost = np.array([[0, 1, 2], [3, -1, -1], [-1, -1, -1], *pairs])
    masks = torch.ones(len(lost), 31, dtype=torch.bool)
    masks[torch.arange(len(lost))[:, None], torch.from_numpy(lost)] = False
    values = game.evaluate(MaskBatch(lost, 30)).values
    np.testing.assert_allclose(values, game.game(masks[:, :30]).numpy())
    assert game.all_after() is None  # pairs were asked for, their singles were not
    game.evaluate(MaskBatch(np.array([[u, -1] for u in range(30)]), 30))
    last = max(unit for s in game.game.planted for unit in s)
    assert game.all_after() == len(lost) + last + 1


def test_workers_wait_at_the_end_of_a_question() -> None:
    # Three batches on two workers take two turns; a batch alone leaves one idle.
    assert large.share_busy([(3 * 64, 1)], 2) == 0.75
    assert large.share_busy([(64, 1)], 2) == 1.0  # each has a half
    assert large.share_busy([(1, 3), (1, 3), (1, 3)], 4) == 0.25
    assert large.share_busy([(9, 3)], 8) == 9 / 16


def test_units_that_are_alike_take_one_block() -> None:
    calls = 0

    def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        return a @ b.T

    found = largest_products(np.ones((200, 2)), product, 10, block_bytes=800)
    assert len({tuple(sorted(row)) for row in found.tolist()}) == 10
    assert calls < 5  # of 210 blocks of 10 x 10
    uneven = np.random.default_rng(0).random((60, 2)) ** 4
    found = largest_products(uneven, product, 40, block_bytes=800)
    sizes = uneven @ uneven.T
    best = np.sort(sizes[np.triu_indices(60, 1)])[::-1][:40]
    np.testing.assert_allclose(sizes[tuple(found.T)], best)
    assert len(largest_products(np.zeros((30, 2)), product, 5, 800)) == 5


def test_questions_are_large_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    book = ledger.Ledger(3000, 10_000)
    question = next(book.values_of([(u,) for u in range(3000)], "single ablations"))
    assert len(question) == 3000
    monkeypatch.setattr(ledger, "_MOST_SLOTS", 1000)
    groups = [np.arange(at, at + 100) for at in range(50)]
    asked, steps = [], book.sums(groups, "testing groups")
    question = next(steps)
    try:
        while True:
            asked.append(question.masks.ablated.size)
            question = steps.send(
                ledger.Answer(question.masks.ablated.sum(axis=1)[:, None] * 1.0, None)
            )
    except StopIteration as ended:
        sums = ended.value
    assert max(asked) <= 1000 and sum(asked) == 5000
    np.testing.assert_array_equal(sums, [group.sum() for group in groups])


@pytest.mark.slow
def test_as_many_pairs_as_cells_are_found() -> None:
    """A first table in which every other cell holds something hides most pairs: it is not the
    last."""
    game = planted_game(3000, 400, 2)
    found = sm.discover(game, budget=8500, seed=2, progress=False)
    pairs = zip(found.units.tolist(), found.mean.tolist(), strict=True)
    assert game.recall({(a, b): value for (a, b), value in pairs}) == 1
