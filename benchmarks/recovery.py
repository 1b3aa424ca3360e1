"""Recall of the true top interactions against evaluations: real models and planted games, all our
methods and what others offer, in one run.

    python -m benchmarks.recovery --data ../shared/data       # all of it, some 2 hours on two cores
    python -m benchmarks.recovery --only planted              # a part of it
    pip install 'spex_mech[benchmarks]'                       # the rivals

Evaluations count everything: a mask over all prompts is 1, a gradient 3; single ablations, the
exact validation of what is reported and the audit are included. Of ours, a pair counts as found if
it was measured and reported; of a rival, if it is among as many of its strongest predictions as the
whole budget could measure pairs, though nothing of them was measured. The truth is the interaction
at the intact model; ``heads`` also says which of the true top Banzhaf pairs (means over all
subsets, which is what most rivals estimate) each predicts among its first 50. Writes
``results/recovery.json`` as it goes, and ``pictures/recovery.png``.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, cycle, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from benchmarks import rivals
from benchmarks.frame import SEEDS, Options, Row, most_memory_mb, rows_of, script, versions
from benchmarks.games import (
    Pair,
    Planted,
    Together,
    Watched,
    fresh_games,
    head_games,
    load_truth,
    pairs_of,
    planted_game,
    r2,
    recall,
    story_game,
    strongest,
    values_of,
)
from benchmarks.rivals import ON_GRADIENTS, ON_VALUES, TIME_LIMIT, of_rival
from tests.compiled import tracr_games

RIVALS = [*ON_VALUES, *ON_GRADIENTS]
QUICK_RIVALS = [*ON_GRADIENTS, "LASSO on pairs, near intact", "second differences (Archipelago)"]
SHAPIQ_PROXYSPEX = rivals.SHAPIQ["shapiq ProxySPEX"]
OURS = {
    "proxyspex": {"method": "proxyspex"},
    "spex": {"method": "spex"},
    "proxyspex, no gradients": {"method": "proxyspex", "gradients": False},
    "spex, no gradients": {"method": "spex", "gradients": False},
    "proxyspex, trees": {"method": "proxyspex", "proxy": "trees"},
}
WITH, WITHOUT = ("proxyspex", "spex"), ("proxyspex, no gradients", "spex, no gradients")
STORY = "story 260K, 900 units"
PLANTED = ("n = 10,000, 100 pairs", "n = 100, 20 pairs")  # of the quick mode

Seeds = tuple[int, ...]
Truth = tuple[list[Pair], np.ndarray]  # pairs, strongest first, and main effects


def row(game: str, method: str, budget: int, seed: int, spent: float, **figures: Any) -> Row:
    about = {"game": game, "method": method, "budget": budget, "seed": seed, "evaluations": spent}
    return about | figures


def recalls(have: set[Pair], truth: list[Pair], ks: Sequence[int]) -> Row:
    return {f"recall@{k}": recall(have, truth, k) for k in ks}


def by_main_effects(main: np.ndarray, n_pairs: int) -> set[Pair]:
    """The naive reading of "adaptive": pairs in order of the product of their main effects."""
    i, j = np.triu_indices(len(main), 1)
    order = np.argsort(-abs(main[i] * main[j]), kind="stable")[: max(n_pairs, 0)]
    return set(zip(i[order].tolist(), j[order].tolist(), strict=True))


def on_real_game(
    name: str,
    game: Any,
    truth: Truth,
    budgets: Mapping[int, Mapping[str, Seeds]],
    ks: Sequence[int],
    with_rivals: Mapping[int, Seeds] | None = None,
    of_rivals: Sequence[str] = RIVALS,
    time_limit: int = TIME_LIMIT,
    banzhaf: list[Pair] | None = None,
) -> Iterator[Row]:
    """All methods on one game; ``budgets`` says which of ours run with which seeds, and
    ``with_rivals`` the rivals' seeds."""
    (pairs, main), n = truth, len(game)
    for budget, methods in budgets.items():
        most = max(0, budget - 1 - n)
        for method, seeds in methods.items():
            for seed in seeds:
                started = time.perf_counter()
                found = sm.discover(game, budget=budget, seed=seed, progress=False, **OURS[method])
                have = pairs_of(found)
                about = ("proxy_r2", "rank_correlation", "candidates")
                yield row(
                    name, method, budget, seed, found.cost["evaluations"],
                    **recalls(have, pairs, ks), audit=found.audit, n_pairs=len(have),
                    **{key: found.about.get(key) for key in about},
                    seconds=round(time.perf_counter() - started, 1),
                )  # fmt: skip
        shares = recalls(by_main_effects(main, most), pairs, ks)
        yield row(name, "products of main effects", budget, 0, budget, **shares, n_pairs=most)
        shares = {f"recall@{k}": most / (n * (n - 1) / 2) for k in ks}
        yield row(name, "random order", budget, 0, budget, **shares, n_pairs=most)
        for method, seed in product(of_rivals, (with_rivals or {}).get(budget, ())):
            told = of_rival(method, game, budget, seed, time_limit)
            figures = {f"recall@{k}": told.recall(pairs, k, most) for k in ks}
            if banzhaf:
                figures["banzhaf@50"] = told.recall(banzhaf, 50, 50)
            yield row(
                name, method, budget, seed, told.evaluations, **figures, failure=told.failure,
                n_pairs=min(most, told.n_pairs), seconds=round(told.host_seconds, 1),
            )  # fmt: skip


def exhaustive(game: Any) -> tuple[sm.Interactions, Truth]:
    full = sm.discover(game, method="exhaustive", progress=False)
    return full, (strongest(full), full.main_effects)


def story_truth() -> Truth:
    truth = load_truth()
    return [(int(a), int(b)) for a, b in truth["units"][:, :2]], truth["main_effects"]


def story(options: Options) -> Iterator[Row]:
    """All 900 units of the 260K story model, against its exhaustive truth."""
    budgets: dict[int, dict[str, Seeds]] = {900: dict.fromkeys(WITH, options.seeds)}
    if options.quick:
        budgets[1800] = {WITHOUT[1]: (0,)}
    else:
        for budget in (1350, 1800, 2700, 3600, 5400):
            budgets[budget] = dict.fromkeys((*WITH, *WITHOUT), SEEDS)
        for budget in (1800, 3600):
            budgets[budget]["proxyspex, trees"] = SEEDS
    yield from on_real_game(STORY, story_game(options.models), story_truth(), budgets, (100, 500))


def story_rivals(options: Options) -> Iterator[Row]:
    """What others find among the 900 units with two evaluations a unit, and ours beside it."""
    ours = {1800: dict.fromkeys(WITH, (0,))}
    of_all = [*ON_GRADIENTS] if options.quick else RIVALS  # the others take minutes each
    game = story_game(options.models)
    yield from on_real_game(
        STORY, game, story_truth(), ours, (100, 500), {1800: (0,)}, of_rivals=of_all
    )


def compiled(options: Options) -> Iterator[Row]:
    """Programs compiled with tracr, by the mean score of the right answer, zero ablation: of the
    pairs that interact at all the top 50, with half of what all pairs take."""
    for name in ("and2", "xor2", "sort", "reverse")[: 1 if options.quick else None]:
        game = Together([game for game, _ in tracr_games(options.models, name, 0.5)])
        full = sm.discover(game, method="exhaustive", progress=False)
        pairs = strongest(full.take(np.flatnonzero(~full.is_noise)).top(50))
        budget = int(0.5 * full.cost["evaluations"])
        ours = {budget: dict.fromkeys((*WITH, *WITHOUT), options.seeds)}
        yield from on_real_game(
            f"tracr {name}, {len(game)} units, {len(pairs)} pairs", game,
            (pairs, full.main_effects), ours, (50,), {budget: (0,)},
            of_rivals=[*ON_GRADIENTS] if options.quick else QUICK_RIVALS, time_limit=60,
        )  # fmt: skip


def fresh(options: Options) -> Iterator[Row]:
    """Games that no method was tuned on."""
    for name, game in fresh_games(options.models):
        if options.quick and "3M" not in name:
            continue
        _, truth = exhaustive(game)
        budgets = {
            each * len(game): dict.fromkeys(WITH + WITHOUT if each > 1 else WITH, options.seeds)
            for each in ((2,) if options.quick else (1, 2, 4))
        }
        shown = dict.fromkeys(budgets, (0,))
        yield from on_real_game(
            name, game, truth, budgets, (50, 100), shown, of_rivals=[*ON_GRADIENTS]
        )


def heads(options: Options) -> Iterator[Row]:
    """Heads only, where every rival runs."""
    for name, game in list(head_games(options.models).items())[: 1 if options.quick else None]:
        full, truth = exhaustive(game)
        most = full.cost["evaluations"]
        yield row(name, "exhaustive", len(truth[0]), 0, most, **{"recall@50": 1.0})
        means = zip(combinations(range(len(game)), 2), half_mask_pairs(game).tolist(), strict=True)
        banzhaf = rivals.strongest_pairs(dict(means))
        # SPEX of spectralexplain asks for 312 masks at least and recommends 624.
        shares = {int(x * most): x for x in ((0.5,) if options.quick else (0.35, 0.5, 0.8))}
        budgets = {b: dict.fromkeys([*OURS] if b >= 280 else WITH, options.seeds) for b in shares}
        of_rivals = {b: options.seeds[: None if x == 0.5 else 1] for b, x in shares.items()}
        yield from on_real_game(
            name, game, truth, budgets, (50,), of_rivals, banzhaf=banzhaf,
            time_limit=60 if options.quick else TIME_LIMIT,
        )  # fmt: skip
        column = {label: u for u, label in enumerate(game.labels)}
        for budget, proxy in product(budgets, ("distilled", "trees")):
            small = sm.distill(game, budget, proxy, progress=False)
            named = small.frame(50, kind="banzhaf").units
            have = {tuple(sorted(column[x] for x in s.split(" x "))) for s in named}
            yield row(
                name, f"distill, {proxy}", budget, 0, small.cost["evaluations"],
                **{"banzhaf@50": recall(have, banzhaf, 50)},
            )  # fmt: skip


def half_mask_pairs(game: sm.ModelGame, n_masks: int = 20_000) -> np.ndarray:
    """The Banzhaf interaction of each pair (of ``np.triu_indices``): a regression on half masks."""
    n = len(game)
    masks = rivals.complementary_masks(n, n_masks, np.random.default_rng(5))
    x = np.where(masks, -1.0, 1.0)
    i, j = np.triu_indices(n, 1)
    design = np.concatenate([np.ones((n_masks, 1)), x, x[:, i] * x[:, j]], axis=1)
    return 4 * np.linalg.lstsq(design, game.mean(masks), rcond=None)[0][1 + n :]


def fourier(options: Options) -> Iterator[Row]:
    """R² on 2,000 fresh masks that ablate half of the units, and how interactions there compare
    with those at the intact model."""
    of_heads = head_games(options.models)
    games = dict(list(of_heads.items())[: 1 if options.quick else None])
    if not options.quick:
        games[STORY] = story_game(options.models)
    for name, game in games.items():
        new = np.random.default_rng(99).random((2000, len(game))) < 0.5
        truth, small_n = game.mean(new), len(game) <= 100
        for budget in (500, 2000) if small_n and not options.quick else (500,):
            for proxy, seed in product(("distilled", "trees"), options.seeds):
                small = sm.distill(game, budget, proxy, seed=seed, progress=False)
                fit = r2(truth, small.predict(new))
                yield row(name, f"distill, {proxy}", budget, seed, budget, r2_half=fit)
            for seed in options.seeds[: None if small_n else 1]:
                asked = (SHAPIQ_PROXYSPEX, game.mean, len(game), budget, seed)
                told = rivals.run_rival(*asked, time_limit=900)
                fit = {"r2_half": r2(truth, told.predict(new))} if told.fourier else {}
                about = {"failure": told.failure} | fit
                yield row(name, "shapiq ProxySPEX", budget, seed, budget, **about)
    for name, game in () if options.quick else of_heads.items():
        intact = exhaustive(game)[0].matrix()[np.triu_indices(len(game), 1)]
        banzhaf = half_mask_pairs(game)
        top = [set(np.argsort(-abs(v))[:50].tolist()) for v in (intact, banzhaf)]
        yield row(
            name, "intact against Banzhaf at p = 1/2", 20_000, 0, 20_000,
            rank_correlation=rank_correlation(intact, banzhaf),
            rank_correlation_of_sizes=rank_correlation(abs(intact), abs(banzhaf)),
            top_50_in_common=len(top[0] & top[1]) / 50,
        )  # fmt: skip


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(x, y).statistic)


def planted_cases() -> Iterator[tuple[str, dict[str, Any], tuple[int, ...]]]:
    """Name, what is planted, budgets."""
    many = {"n": 10_000, "n_pairs": 100}
    yield "n = 10,000, 100 pairs", many, (3000, 5000)
    yield "the same, noise 1 %", many | {"noise": 0.0125}, (5000,)
    yield "the same, 100 triples too", many | {"n_triples": 100}, (5000,)
    for n, n_pairs, budget in (
        (10_000, 20, 3000), (10_000, 1000, 20_000), (36_864, 100, 5000), (36_864, 1000, 20_000),
        (1000, 100, 3000), (100, 20, 800),
    ):  # fmt: skip
        yield f"n = {n:,}, {n_pairs:,} pairs", {"n": n, "n_pairs": n_pairs}, (budget,)
    for ratio in (1000, 300, 100):
        yield f"n = 10,000, 100 pairs, ratio {ratio}", many | {"ratio": ratio}, (5000, 40_000)
    for ratio in (100, 30, 10):
        what = {"n": 1000, "n_pairs": 50, "ratio": ratio}
        yield f"n = 1,000, 50 pairs, ratio {ratio}", what, (5000, 10_000, 40_000)
    for kind in ("hierarchical", "without pairs inside"):
        for n in (300, 10_000):
            what = {"n": n, "n_pairs": 50, "n_triples": 50, "hierarchical": kind == "hierarchical"}
            yield f"n = {n:,}, 50 pairs, 50 triples {kind}", what, (10_000,)


def planted(options: Options) -> Iterator[Row]:
    """No model and no gradient: sparse, with a dense tail, noise, triples, and growth with n."""
    for name, what, budgets in planted_cases():
        if options.quick and name not in PLANTED:
            continue
        once = what["n"] > 10_000 or "ratio" in what or "hierarchical" in what
        for seed in options.seeds[: 1 if once else None]:
            game = planted_game(**what, seed=10 + seed)
            for budget in budgets[: 1 if options.quick else None]:
                for method in ("spex",) if options.quick else WITH:
                    yield on_planted(name, game, method, budget, seed)


def on_planted(name: str, game: Planted, method: str, budget: int, seed: int) -> Row:
    watched, started = Watched(game), time.perf_counter()
    order = 3 if "50 triples" in name else 2
    found = sm.discover(
        watched, method=method, budget=budget, seed=seed, order=order, progress=False
    )
    seconds, have = time.perf_counter() - started - watched.seconds, values_of(found)
    exact = 1e-4 + 8 * game.noise
    close = {s for s, value in game.planted.items() if abs(have.get(s, np.inf) - value) < exact}
    return row(
        name, method, budget, seed, found.cost["evaluations"],
        **{f"recall of order {size}": recall(close, [s for s in game.planted if len(s) == size])
           for size in range(2, order + 1)},
        candidates_after=found.about.get("evaluations_of_candidates"),
        way=found.about.get("candidates"), proxy_r2=found.about.get("proxy_r2"),
        host_seconds=round(seconds, 1), peak_gb=round(most_memory_mb() * 1024 / 1e6, 2),
    )  # fmt: skip


def host_time(options: Options) -> Iterator[Row]:
    """Boosted trees at n = 1,000 with 5,000 masks: ours against shapiq's ProxySPEX."""
    name, game, ours = "n = 1,000, 5,000 masks", planted_game(1000, 100, 0), {}
    for proxy in () if options.quick else ("trees", "distilled"):
        watched, started = Watched(game), time.perf_counter()
        small = sm.distill(watched, 5000, proxy, progress=False)
        ours[proxy] = time.perf_counter() - started - watched.seconds
        about = {"host_seconds": ours[proxy], "r2_held_out": small.r2}
        yield row(name, f"distill, {proxy}", 5000, 0, 5000, **about)
    if not options.quick:
        values = lambda masks: game(torch.from_numpy(masks))[:, 0].numpy()  # noqa: E731
        told = rivals.run_rival(SHAPIQ_PROXYSPEX, values, 1000, 5000, 0, time_limit=300)
        times = "at_least_times_ours" if told.failure else "times_ours"
        about = {"host_seconds": told.host_seconds, "failure": told.failure}
        about[times] = told.host_seconds / ours["trees"]
        yield row(name, "shapiq ProxySPEX", 5000, 0, 5000, **about)


def draw(rows: list[Row], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    of_story = [r for r in rows if r["part"] in ("story", "story_rivals") and not r.get("failure")]
    marks = {
        left: {
            "proxyspex": "o-", "spex": "s--", "products of main effects": "^:",
            **dict(zip(ON_GRADIENTS, "DP", strict=True)),
        },
        right: {
            "proxyspex, no gradients": "o-", "spex, no gradients": "s--",
            "proxyspex, trees": "v-.", "products of main effects": "^:", "random order": "x:",
            **dict(zip(ON_VALUES, cycle("Dd*Php<>8X"), strict=False)),
        },
    }  # fmt: skip
    for axes, of_axes in marks.items():
        for method, mark in of_axes.items():
            at: dict[int, list[float]] = {}
            for r in sorted(rows_of(of_story, method=method), key=lambda r: r["budget"]):
                at.setdefault(r["budget"], []).append(r["recall@100"])
            if at:
                axes.plot([*at], [np.mean(shares) for shares in at.values()], mark, label=method)
        axes.set(xlabel="evaluations (all pairs: 405,451)", ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    left.set_ylabel("share of the true top 100 pairs found")
    left.set_title("with gradients", fontsize=10)
    right.set_title("without gradients", fontsize=10)
    figure.suptitle("260K story model, 40 heads and 860 neurons", fontsize=10)
    figure.savefig(file, dpi=110)


PARTS = {
    "story": (story, True),
    "story_rivals": (story_rivals, True),
    "heads": (heads, True),
    "compiled": (compiled, True),
    "fresh": (fresh, True),
    "fourier": (fourier, True),
    "planted": (planted, False),
    "host_time": (host_time, False),
}

if __name__ == "__main__":
    script(__doc__, "recovery", PARTS, draw, rivals=versions(), seeds=list(SEEDS))
