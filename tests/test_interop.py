"""To and from shapiq, and distill(): estimates, kept apart from what was measured."""

import subprocess
import sys
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.game import as_game
from tests.planted import planted_game
from tests.test_proxyspex import Quadratic, trees
from tests.test_spex import run, values_of


def halves(n_masks: int, n: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n_masks, n)) < 0.5)


def test_measured_interactions_are_shapiqs_co_moebius() -> None:
    shapiq = pytest.importorskip("shapiq", reason="shapiq is not installed")
    game = planted_game(7, 5, 0, n_triples=3)
    ours = sm.to_shapiq(run(game, method="exhaustive", order=3))
    exact = shapiq.ExactComputer(
        game=lambda masks: game(torch.from_numpy(masks.astype(bool)))[:, 0].numpy(), n_players=7
    )("Co-Moebius", order=3)
    assert ours.index == "Co-Moebius" and not ours.estimated and ours.n_players == 7
    compared = [s for s in exact.interactions if s]
    assert len(compared) == 7 + 21 + 35
    for s in compared:
        assert ours[s] == pytest.approx(exact[s], abs=1e-5)


def test_there_and_back() -> None:
    pytest.importorskip("shapiq", reason="shapiq is not installed")
    found = run(planted_game(9, 6, 1, n_triples=2), order=3, method="exhaustive")
    back = sm.from_shapiq(sm.to_shapiq(found), found.labels)
    assert values_of(back) == pytest.approx(values_of(found), abs=1e-6)
    np.testing.assert_allclose(back.main_effects, found.main_effects, atol=1e-6)
    assert back.intact == pytest.approx(found.intact)
    assert back.about["index"] == "Co-Moebius" and not back.about["estimated"]
    assert back.cost["evaluations"] == found.cost["evaluations"]
    with pytest.raises(ValueError, match="2 labels for 9 units"):
        sm.from_shapiq(sm.to_shapiq(found), ["a", "b"])


@pytest.mark.parametrize("index", ["SII", "BII", "Moebius", "k-SII", "Co-Moebius"])
def test_what_shapiq_said_stays_what_it_was(index: str) -> None:
    """Shapley values came back to shapiq as interactions at the intact model, as exact ones."""
    shapiq = pytest.importorskip("shapiq", reason="shapiq is not installed")
    table = np.random.default_rng(3).normal(size=2**5)

    def game(masks: np.ndarray) -> np.ndarray:
        return table[np.asarray(masks).astype(int) @ (2 ** np.arange(5))] - table[0] + 0.25

    values = shapiq.ExactComputer(game=game, n_players=5)(index, order=3)
    values.estimated = index == "BII"
    back = sm.to_shapiq(sm.from_shapiq(values, list("abcde")))
    assert (back.index, back.estimated, back.n_players) == (index, index == "BII", 5)
    assert back.baseline_value == pytest.approx(values.baseline_value)
    shared = [s for s in values.interactions if s]
    assert len(shared) >= 5 + 10 + 10
    for s in shared:
        assert back[s] == pytest.approx(values[s], abs=1e-9)
    if index != "SII":
        with pytest.raises(ValueError, match=f"'shapley' is shapiq's SII, and these .* {index};"):
            sm.to_shapiq(sm.from_shapiq(values), kind="shapley")
    assert sm.to_shapiq(sm.from_shapiq(values).top(2)).index == index


def test_rounding_of_shapiqs_is_noise() -> None:
    """0.1 + 0.2 is not 0.3: of a game without interactions, one of 3e-17 stood out of zeros."""
    shapiq = pytest.importorskip("shapiq", reason="shapiq is not installed")
    weights = np.array([0.1, 0.2, 0.3, 0.7])
    game = lambda masks: np.asarray(masks) @ weights  # noqa: E731
    found = sm.from_shapiq(shapiq.ExactComputer(game=game, n_players=4)("Co-Moebius", order=2))
    assert abs(found.mean).max() > 0 and found.is_noise.all()
    assert not found.is_finding.any() and set(found.verdicts) == {"noise"}
    kept = sm.from_shapiq(
        shapiq.ExactComputer(game=lambda m: np.asarray(m).all(1), n_players=4)("Moebius", order=4)
    )
    assert kept.top(1).mean == pytest.approx([1.0]) and not kept.top(1).is_noise.any()


def test_what_was_not_measured_is_absent() -> None:
    pytest.importorskip("shapiq", reason="shapiq is not installed")
    found = run(planted_game(60, 6, 1), budget=400)
    values = sm.to_shapiq(found)
    measured = {s for s in values.interactions if len(s) == 2}
    assert measured == set(values_of(found)) and len(measured) < 1770


def test_a_model_game_can_be_handed_to_shapiq(demo_game: sm.ModelGame) -> None:
    shapiq = pytest.importorskip("shapiq", reason="shapiq is not installed")
    n = len(demo_game)
    approximator = shapiq.KernelSHAPIQ(n=n, index="k-SII", max_order=2, random_state=0)
    values = sm.from_shapiq(approximator.approximate(2**n, demo_game.mean), demo_game.labels)
    exact = shapiq.ExactComputer(game=demo_game.mean, n_players=n)("k-SII", order=2)
    for s, value in values_of(values).items():
        assert value == pytest.approx(exact[s], abs=1e-4)
    assert values.about["index"] == "k-SII"


SHAPIQ_APPROXIMATORS = (
    "KernelSHAPIQ", "SHAPIQ", "SVARMIQ", "InconsistentKernelSHAPIQ", "PermutationSamplingSII",
    "PermutationSamplingSTII", "ProxySPEX", "RegressionFSII", "RegressionFBII",
)  # fmt: skip


@pytest.mark.parametrize("name", SHAPIQ_APPROXIMATORS)
def test_shapiqs_approximators_run_on_a_game(demo_game: sm.ModelGame, name: str) -> None:
    """Each names the pair that makes induction, whose damage overlaps."""
    shapiq = pytest.importorskip("shapiq", reason="shapiq is not installed")
    if not hasattr(shapiq, name):
        pytest.skip(f"this shapiq has no {name}")
    n = len(demo_game)
    approximator = getattr(shapiq, name)(n=n, max_order=2, random_state=0)
    found = sm.from_shapiq(approximator.approximate(2**n, demo_game.mean), demo_game.labels)
    assert found.top(1, order=2).names == [("L0H3", "L1H0")] and found.mean.max() > 1


def test_shapiqs_explainer_runs_on_a_game(demo_game: sm.ModelGame) -> None:
    """A unit is a player, and all ablated is where it starts."""
    shapiq = pytest.importorskip("shapiq", reason="shapiq is not installed")
    agnostic = pytest.importorskip(
        "shapiq.explainer.agnostic", reason="this shapiq has no AgnosticExplainer"
    )
    n = len(demo_game)
    explainer = agnostic.AgnosticExplainer(
        demo_game.mean, n_players=n, index="k-SII", max_order=2, random_state=0
    )
    values = explainer.explain(budget=2**n)
    exact = shapiq.ExactComputer(game=demo_game.mean, n_players=n)("k-SII", order=2)
    assert values[(3, 4)] == pytest.approx(exact[(3, 4)], abs=1e-4)
    assert sm.from_shapiq(values, demo_game.labels).value("L0H3", "L1H0") > 1


@pytest.mark.slow  # its decoding takes a minute
def test_spectralexplain_runs_on_a_game(demo_game: sm.ModelGame) -> None:
    """Its masks are integers of 0 and 1; its Fourier coefficients are those of all masks, as far as
    its sparse transform gives them."""
    spectral = pytest.importorskip("spectralexplain", reason="spectralexplain is not installed")
    given = set()

    def mean(masks: np.ndarray) -> np.ndarray:
        given.add(masks.dtype.name)
        return demo_game.mean(masks)

    labels = demo_game.labels
    np.random.seed(0)
    explainer = spectral.Explainer(mean, labels, sample_budget=400, max_order=2, algorithm="spex")
    found = explainer.interactions("fourier").get_interactions()
    assert given == {"int64"}
    bits = np.array([list(f"{number:08b}") for number in range(256)], dtype=int)
    every = demo_game.mean(bits)
    sign = {label: 1 - 2 * bits[:, unit] for unit, label in enumerate(labels)}
    exact = float((every * sign["L0H3"] * sign["L1H0"]).mean())
    assert max((s for s in found if len(s) == 2), key=lambda s: abs(found[s])) == ("L0H3", "L1H0")
    assert found["L0H3", "L1H0"] == pytest.approx(exact, rel=0.02)


def test_captum_runs_on_a_game(demo_game: sm.ModelGame) -> None:
    """Ablating one unit is its main effect with the sign turned; Shapley values are the exact ones
    within their error."""
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    kept = torch.ones(1, len(demo_game))
    forward = lambda masks: torch.from_numpy(demo_game.mean(masks))  # noqa: E731
    alone = captum.FeatureAblation(forward).attribute(kept, baselines=0)[0]
    found = run(demo_game, method="exhaustive")
    np.testing.assert_allclose(alone.numpy(), -found.main_effects, atol=1e-6)
    game = as_game(lambda m: 3.0 * m[0] * m[1] + m[2] - 2.0 * m[1] * m[2] * m[3], 4)
    forward = lambda masks: torch.from_numpy(game.mean(masks))  # noqa: E731
    torch.manual_seed(0)
    sampled = captum.ShapleyValueSampling(forward).attribute(
        torch.ones(1, 4), baselines=0, n_samples=100
    )
    every = game.mean(np.array([list(f"{i:04b}") for i in range(16)], dtype=int))
    want = shapley_values(every, 4)
    assert sampled.sum().item() == pytest.approx(want.sum(), abs=1e-4)
    # No unit's contribution is over 3.5 in size: five standard errors of 100 orders.
    np.testing.assert_allclose(sampled[0].numpy(), want, atol=5 * 3.5 / 10 / 2)


def shapley_values(values: np.ndarray, n: int) -> np.ndarray:
    """By its definition, from all values; bit ``n - 1 - u`` of a mask's number keeps unit ``u``."""
    numbers, out = np.arange(2**n), np.zeros(n)
    for unit in range(n):
        bit = 1 << (n - 1 - unit)
        without = numbers[numbers & bit == 0]
        sizes = np.array([number.bit_count() for number in without.tolist()])
        weights = 1 / (n * np.array([comb(n - 1, k) for k in sizes.tolist()]))
        out[unit] = (weights * (values[without | bit] - values[without])).sum()
    return out


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32, np.float64, bool])
def test_masks_of_0_and_1_are_masks(demo_game: sm.ModelGame, dtype: type) -> None:
    rows = (np.arange(3)[:, None] + np.arange(len(demo_game))) % 2
    want = demo_game.mean(rows.astype(bool))
    for given in (rows.astype(dtype), torch.from_numpy(rows.astype(dtype)), rows.tolist()):
        np.testing.assert_array_equal(demo_game.mean(given), want)
        np.testing.assert_array_equal(demo_game(given).numpy().mean(axis=1), want)
    assert demo_game.mean(rows[1].astype(dtype)).tolist() == pytest.approx([want[1]], abs=1e-5)
    for wrong in (0.5, 2, -1, np.nan, np.inf):
        masks = np.where(rows, 1.0, wrong)
        for call in (demo_game.mean, demo_game):
            with pytest.raises(ValueError, match=r"masks hold .* at mask 0, unit 0; they must be"):
                call(masks)


@pytest.fixture(scope="module")
def demo_game() -> sm.ModelGame:
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, n_prompts=4)
    return sm.ModelGame(model, task, sm.Components.heads(model))


def test_shapiq_is_imported_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys, spex_mech as sm; sm.to_shapiq; sm.discover; assert 'shapiq' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
    monkeypatch.setitem(sys.modules, "shapiq", None)
    with pytest.raises(ImportError, match="shapiq is not installed: pip install shapiq"):
        sm.to_shapiq(run(planted_game(4, 2, 0), method="exhaustive"))


@pytest.mark.parametrize("proxy", ["distilled", "trees"])
def test_distill_predicts_complementary_masks_and_gives_their_indices(proxy: str) -> None:
    game = planted_game(12, 8, seed=0)
    small = sm.distill(game, 400, proxy if proxy == "distilled" else trees(), progress=False)
    assert small.r2 is not None and small.r2 > 0.98
    assert small.cost["evaluations"] == 400 and small.n_masks == 360
    fresh = halves(300, 12, 7)
    truth = game(fresh)[:, 0].numpy()
    predicted = small.predict(fresh).reshape(300, -1).mean(1)
    assert 1 - ((truth - predicted) ** 2).mean() / truth.var() > 0.98
    # Planted pairs are the same at every reference point; a pair's Fourier term is a quarter.
    for kind, factor in (("fourier", 0.25), ("banzhaf", 1), ("shapley", 1), ("intact", 1)):
        frame = small.frame(8, kind=kind)
        named = {" x ".join(map(str, s)): value for s, value in game.planted.items()}
        assert set(frame["units"]) == set(named)
        for units, estimate in frame.to_numpy().tolist():
            assert estimate == pytest.approx(factor * named[units], abs=0.1)


def test_distill_refuses() -> None:
    game = planted_game(12, 3, 0)
    with pytest.raises(ValueError, match="budget of 19 masks is too small to learn from"):
        sm.distill(game, 19)
    small = sm.distill(game, 60, Quadratic(), progress=False)
    with pytest.raises(ValueError, match="the proxy Quadratic has no Fourier coefficients"):
        small.frame()
    with pytest.raises(ValueError, match="unknown kind 'walsh'"):
        small.frame(kind="walsh")
    with pytest.raises(ValueError, match="unknown proxy 'forest'"):
        sm.distill(game, 60, "forest")


def test_one_proxy_may_be_distilled_twice() -> None:
    """The second fit once changed what the first had returned, without a word."""
    proxy, masks = Quadratic(), halves(20, 12, 1)
    first = sm.distill(planted_game(12, 3, 0), 120, proxy, progress=False)
    before = first.predict(masks).copy()
    second = sm.explain(masks, masks[:, 0].double(), proxy)
    np.testing.assert_array_equal(first.predict(masks), before)
    assert isinstance(first.proxy, Quadratic) and first.proxy is not second.proxy
    assert not np.array_equal(second.predict(masks), before)
    assert not hasattr(proxy, "weights")  # what was given stays as it was


def test_distill_a_constant_and_a_small_game() -> None:
    constant = sm.distill(lambda masks: torch.ones(len(masks)), 60, n=30, progress=False)
    assert constant.r2 is None and np.ptp(constant.predict(np.ones((2, 30), dtype=bool))) == 0
    tiny = sm.distill(lambda masks: masks.double().sum(1), 60, n=3, progress=False)
    assert tiny.cost["evaluations"] == tiny.n_masks == 8 and tiny.exact  # there are no more masks


@pytest.mark.parametrize("kind", ["shapley", "banzhaf", "mobius", "intact"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_distillation_is_handed_to_shapiq(kind: str, order: int) -> None:
    """Where every mask was evaluated it is what shapiq's exact computer says, sign and all."""
    shapiq = pytest.importorskip("shapiq", reason="shapiq is not installed")
    game = planted_game(6, 4, 2, n_triples=2)
    exact = shapiq.ExactComputer(
        game=lambda masks: game(torch.from_numpy(masks.astype(bool)))[:, 0].numpy(), n_players=6
    )
    ours = sm.to_shapiq(sm.distill(game, 64, progress=False), kind, order)
    named = {"shapley": "SII", "banzhaf": "BII", "mobius": "Moebius", "intact": "Co-Moebius"}
    right = exact(named[kind], order=order)
    if order == 1:  # shapiq's own names of these
        named |= {"shapley": "SV", "banzhaf": "BV"}
    assert ours.index == named[kind] and not ours.estimated
    assert ours.n_players == 6 and ours.max_order == order and ours.estimation_budget == 64
    compared = [s for s in right.interactions if 0 < len(s) <= order]
    assert len(compared) == sum(comb(6, size) for size in range(1, order + 1))
    for s in compared:
        assert ours[s] == pytest.approx(right[s], abs=1e-5)
    empty = torch.full((1, 6), kind == "intact")
    assert ours.baseline_value == pytest.approx(float(game(empty)[0, 0]), abs=1e-6)


def test_an_estimate_says_that_it_is_one() -> None:
    pytest.importorskip("shapiq", reason="shapiq is not installed")
    small = sm.distill(planted_game(20, 6, 1), 200, progress=False)
    ours = sm.to_shapiq(small)
    assert ours.estimated and ours.index == "SII" and ours.estimation_budget == 200
    frame = small.frame(1, kind="shapley")
    pair = tuple(sorted(small.labels.index(unit) for unit in frame.units[0].split(" x ")))
    assert ours[pair] == pytest.approx(frame.estimate[0])
    with pytest.raises(ValueError, match="'banzhaf' is shapiq's BII, and these values are Co-M"):
        sm.to_shapiq(run(planted_game(4, 2, 0), method="exhaustive"), "banzhaf")
