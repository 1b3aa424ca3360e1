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

import multiprocessing
import resource
import time
from collections.abc import Sequence
from functools import partial
from itertools import combinations, cycle, product
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from benchmarks import rivals
from benchmarks.circuits import Together
from benchmarks.common import Options, Row, script, versions
from benchmarks.truth import fresh_games, load_truth, story_game
from spex_mech.search.adaptive import rank_correlation
from spex_mech.search.random_masks import complementary_masks
from tests.planted import Planted, planted_game
from tests.test_real_models import tracr_games

SEEDS = (0, 1, 2)
ON_VALUES = {
    **rivals.SHAPIQ,
    "spectralexplain ProxySPEX": partial(rivals.spectralexplain, algorithm="proxyspex"),
    "spectralexplain SPEX": partial(rivals.spectralexplain, algorithm="spex"),
    "LASSO on pairs, half masks": partial(rivals.lasso, half=True),
    "LASSO on pairs, near intact": partial(rivals.lasso, half=False),
    "second differences (Archipelago)": rivals.second_differences,
}
ON_GRADIENTS = {
    "Hessian-vector products": rivals.hessian,
    "attribution patching, products": rivals.attribution_patching,
}
RIVALS = [*ON_VALUES, *ON_GRADIENTS]
QUICK_RIVALS = [*ON_GRADIENTS, "LASSO on pairs, near intact", "second differences (Archipelago)"]
# They hear no alarm, and ask for more memory than there is at 900 units, and so run in a process of
# their own. (The others would not survive that: numba in a fork.)
DEAF = {"shapiq KernelSHAP-IQ", "shapiq SVARM-IQ"}
SHAPIQ_PROXYSPEX = rivals.SHAPIQ["shapiq ProxySPEX"]
QUICK = ("n = 10,000, 100 pairs", "n = 100, 20 pairs")
TIME_LIMIT, GRACE, MEMORY_LIMIT = 240, 20, 14 * 2**30  # of a rival: seconds, bytes of its process
OURS = {
    "proxyspex": {"method": "proxyspex"},
    "spex": {"method": "spex"},
    "proxyspex, no gradients": {"method": "proxyspex", "gradients": False},
    "spex, no gradients": {"method": "spex", "gradients": False},
    "proxyspex, trees": {"method": "proxyspex", "proxy": "trees"},
}


def pairs_of(found: sm.Interactions) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in found.units[found.order == 2][:, :2]}


def recall(have: set[tuple[int, int]], truth: list[tuple[int, int]], k: int) -> float:
    return float(np.mean([s in have for s in truth[:k]]))


def strongest(found: sm.Interactions) -> list[tuple[int, int]]:
    """All pairs, strongest first."""
    return [(int(a), int(b)) for a, b in found.top(len(found)).units[:, :2]]


def by_main_effects(main: np.ndarray, n_pairs: int) -> set[tuple[int, int]]:
    """The naive reading of "adaptive": pairs in order of the product of their main effects."""
    i, j = np.triu_indices(len(main), 1)
    order = np.argsort(-abs(main[i] * main[j]), kind="stable")[: max(n_pairs, 0)]
    return set(zip(i[order].tolist(), j[order].tolist(), strict=True))


def on_real_game(
    name: str,
    game: Any,
    truth: list[tuple[int, int]],
    main: np.ndarray,
    budgets: dict[int, dict[str, tuple[int, ...]]],
    with_rivals: dict[int, tuple[int, ...]],
    ks: tuple[int, ...],
    time_limit: int = TIME_LIMIT,
    of_rivals: Sequence[str] = RIVALS,
    banzhaf: list[tuple[int, int]] | None = None,
) -> list[Row]:
    """All methods on one game; ``budgets`` says which of ours run with which seeds, and
    ``with_rivals`` the rivals' seeds."""
    rows: list[Row] = []
    n = len(game)
    for budget, methods in budgets.items():
        most = max(0, budget - 1 - n)
        for method, seeds in methods.items():
            for seed in seeds:
                started = time.perf_counter()
                found = sm.discover(game, budget=budget, seed=seed, progress=False, **OURS[method])
                have = pairs_of(found)
                rows.append(
                    row(name, method, budget, seed, found.cost["evaluations"])
                    | {f"recall@{k}": recall(have, truth, k) for k in ks}
                    | {"audit": found.audit, "n_pairs": len(have)}
                    | {
                        key: found.about.get(key)
                        for key in ("proxy_r2", "rank_correlation", "candidates")
                    }
                    | {"seconds": round(time.perf_counter() - started, 1)}
                )
                show(rows[-1])
        have = by_main_effects(main, most)
        expected = most / (n * (n - 1) / 2)
        for method, shares in (
            ("products of main effects", {f"recall@{k}": recall(have, truth, k) for k in ks}),
            ("random order", {f"recall@{k}": expected for k in ks}),
        ):
            rows.append(row(name, method, budget, 0, budget) | shares | {"n_pairs": most})
            show(rows[-1])
        for method, seed in product(of_rivals, with_rivals.get(budget, ())):
            reported = of_rival(method, game, budget, seed, time_limit)
            rows.append(
                row(name, method, budget, seed, reported.evaluations)
                | {f"recall@{k}": reported.recall(truth, k, most) for k in ks}
                | {"failure": reported.failure, "n_pairs": min(most, reported.n_pairs)}
                | {"seconds": round(reported.host_seconds, 1)}
            )
            if banzhaf:
                rows[-1]["banzhaf@50"] = reported.recall(banzhaf, 50, 50)
            show(rows[-1])
    return rows


def of_rival(method: str, game: Any, budget: int, seed: int, time_limit: int) -> rivals.Reported:
    """What a rival reports within its limits of time and memory."""
    arguments = (game.mean, len(game), budget, seed)
    if method in ON_GRADIENTS:
        arguments += (game,)
    rival = (ON_VALUES | ON_GRADIENTS)[method]
    if method not in DEAF:
        return rivals.run_rival(rival, *arguments, time_limit=time_limit)

    def child(sender: Connection) -> None:
        torch.set_num_threads(1)  # the parent's threads are not in a fork
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        sender.send(rivals.run_rival(rival, *arguments, time_limit=time_limit))

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(sender,))
    started = time.perf_counter()
    process.start()
    sender.close()
    try:
        if receiver.poll(time_limit + GRACE):
            return receiver.recv()
        failure = f"TimeoutError: killed after {time_limit + GRACE} s"
    except EOFError:
        process.join()
        failure = f"its process ended ({process.exitcode})"
    finally:
        process.kill()
    return rivals.Reported(failure=failure, host_seconds=time.perf_counter() - started)


STORY = "story 260K, 900 units"


def story(options: Options) -> list[Row]:
    """All 900 units of the 260K story model, against its exhaustive truth."""
    game, pairs, main = story_truth(options.data)
    with_gradients = ("proxyspex", "spex")
    without = ("proxyspex, no gradients", "spex, no gradients")
    if options.quick:
        quick = {900: dict.fromkeys(with_gradients, (0,)), 1800: {without[1]: (0,)}}
        return on_real_game(STORY, game, pairs, main, quick, {}, (100, 500))
    budgets = {900: dict.fromkeys(with_gradients, SEEDS)}
    for budget in (1350, 1800, 2700, 3600, 5400):
        budgets[budget] = dict.fromkeys((*with_gradients, *without), SEEDS)
    for budget in (1800, 3600):
        budgets[budget]["proxyspex, trees"] = SEEDS
    return on_real_game(STORY, game, pairs, main, budgets, {}, (100, 500))


def story_rivals(options: Options) -> list[Row]:
    """What others find among the 900 units with two evaluations a unit, and ours beside it."""
    game, pairs, main = story_truth(options.data)
    ours: dict[int, dict[str, tuple[int, ...]]] = {1800: {"proxyspex": (0,), "spex": (0,)}}
    of_all = [*ON_GRADIENTS] if options.quick else RIVALS  # the others take minutes each
    shown = {1800: (0,)}
    return on_real_game(STORY, game, pairs, main, ours, shown, (100, 500), of_rivals=of_all)


def compiled(options: Options) -> list[Row]:
    """Programs compiled with tracr, by the mean score of the right answer, zero ablation: of the
    pairs that interact at all the top 50, with half of what all pairs take."""
    rows: list[Row] = []
    seeds = SEEDS[: 1 if options.quick else None]
    for name in ("and2", "xor2", "sort", "reverse")[: 1 if options.quick else None]:
        game = Together([game for game, _ in tracr_games(options.data, name, 0.5)])
        full = sm.discover(game, method="exhaustive", progress=False)
        pairs = strongest(full.take(np.flatnonzero(~full.is_noise)).top(50))
        budget = int(0.5 * full.cost["evaluations"])
        ours = dict.fromkeys([*OURS][:4], seeds)
        title = f"tracr {name}, {len(game)} units, {len(pairs)} pairs"
        rows += on_real_game(
            title, game, pairs, full.main_effects, {budget: ours}, {budget: (0,)}, (50,), 60,
            of_rivals=[*ON_GRADIENTS] if options.quick else QUICK_RIVALS,
        )  # fmt: skip
    return rows


def fresh(options: Options) -> list[Row]:
    """Games that no method was tuned on."""
    rows: list[Row] = []
    seeds = SEEDS[: 1 if options.quick else None]
    for name, game in fresh_games(options.data):
        if options.quick and "3M" not in name:
            continue
        full = sm.discover(game, method="exhaustive", progress=False)
        pairs = strongest(full)
        budgets: dict[int, dict[str, tuple[int, ...]]] = {}
        for per_unit in (2,) if options.quick else (1, 2, 4):
            without = [*OURS][2:4] if per_unit > 1 else []
            methods = ["proxyspex", "spex", *without]
            budgets[per_unit * len(game)] = dict.fromkeys(methods, seeds)
        shown = dict.fromkeys(budgets, (0,))
        rows += on_real_game(
            name, game, pairs, full.main_effects, budgets, shown, (50, 100),
            of_rivals=[*ON_GRADIENTS],
        )  # fmt: skip
    return rows


def story_truth(data: Path) -> tuple[sm.ModelGame, list[tuple[int, int]], np.ndarray]:
    truth = load_truth()
    game = story_game(data, torch.from_numpy(truth["tokens"]))
    return game, [(int(a), int(b)) for a, b in truth["units"][:, :2]], truth["main_effects"]


def head_games(data: Path) -> dict[str, sm.ModelGame]:
    story = story_game(data, torch.from_numpy(load_truth()["tokens"]))
    model = sm.load_model(data / "stories3m")
    ioi = sm.load_task(str(data / "prompts" / "ioi.json"), model, n_prompts=6, seed=0)
    return {
        "story 260K, 40 heads": sm.ModelGame(
            story.model, story.task, sm.Components.heads(story.model)
        ),
        "story 3M on IOI, 36 heads": sm.ModelGame(model, ioi, sm.Components.heads(model)),
    }


def heads(options: Options) -> list[Row]:
    """Heads only, where every rival runs."""
    rows: list[Row] = []
    seeds = SEEDS[: 1 if options.quick else None]
    for name, game in list(head_games(options.data).items())[: 1 if options.quick else None]:
        full = sm.discover(game, method="exhaustive", progress=False)
        pairs = strongest(full)
        rows.append(row(name, "exhaustive", len(pairs), 0, full.cost["evaluations"]))
        rows[-1]["recall@50"] = 1.0
        means = zip(combinations(range(len(game)), 2), half_mask_pairs(game).tolist(), strict=True)
        banzhaf = rivals.strongest_pairs(dict(means))
        budgets: dict[int, dict[str, tuple[int, ...]]] = {}
        of_rivals = {}
        # SPEX of spectralexplain asks for 312 masks at least and recommends 624.
        for share in (0.5,) if options.quick else (0.35, 0.5, 0.8):
            budget = int(share * full.cost["evaluations"])
            methods = ["proxyspex", "spex"] + ([*OURS][2:] if budget >= 280 else [])
            budgets[budget] = dict.fromkeys(methods, seeds)
            of_rivals[budget] = seeds if share == 0.5 else seeds[:1]
        rows += on_real_game(
            name, game, pairs, full.main_effects, budgets, of_rivals, (50,),
            60 if options.quick else TIME_LIMIT, banzhaf=banzhaf,
        )  # fmt: skip
        for budget, proxy in product(budgets, ("distilled", "trees")):
            small = sm.distill(game, budget, proxy, progress=False)
            rows.append(row(name, f"distill, {proxy}", budget, 0, small.cost["evaluations"]))
            named = small.frame(50, kind="banzhaf").units
            column = {label: u for u, label in enumerate(game.labels)}
            have = {tuple(sorted(column[x] for x in s.split(" x "))) for s in named}
            rows[-1]["banzhaf@50"] = float(np.mean([s in have for s in banzhaf[:50]]))
            show(rows[-1])
    return rows


def half_mask_pairs(game: sm.ModelGame, n_masks: int = 20_000) -> np.ndarray:
    """The Banzhaf interaction of each pair (of ``np.triu_indices``): a regression on half masks."""
    n = len(game)
    masks = complementary_masks(n, n_masks, np.random.default_rng(5))
    x = np.where(masks, -1.0, 1.0)
    i, j = np.triu_indices(n, 1)
    design = np.concatenate([np.ones((n_masks, 1)), x, x[:, i] * x[:, j]], axis=1)
    return 4 * np.linalg.lstsq(design, game.mean(masks), rcond=None)[0][1 + n :]


def fourier(options: Options) -> list[Row]:
    """R² on 2,000 fresh masks that ablate half of the units, and how interactions there compare
    with those at the intact model."""
    rows: list[Row] = []
    games = head_games(options.data)
    seeds = SEEDS[: 1 if options.quick else None]
    if options.quick:
        games = dict(list(games.items())[:1])
    else:
        games[STORY] = story_truth(options.data)[0]
    for name, game in games.items():
        fresh = np.random.default_rng(99).random((2000, len(game))) < 0.5
        truth = game.mean(fresh)
        for budget in (500, 2000) if len(game) <= 100 and not options.quick else (500,):
            for proxy in ("distilled", "trees"):
                for seed in seeds:
                    small = sm.distill(game, budget, proxy, seed=seed, progress=False)
                    predicted = np.asarray(small.predict(fresh)).reshape(len(fresh), -1).mean(1)
                    rows.append(row(name, f"distill, {proxy}", budget, seed, budget))
                    rows[-1]["r2_half"] = r2(truth, predicted)
                    show(rows[-1])
            for seed in seeds[: 1 if len(game) > 100 else None]:
                arguments = (SHAPIQ_PROXYSPEX, game.mean, len(game), budget, seed)
                reported = rivals.run_rival(*arguments)
                rows.append(row(name, "shapiq ProxySPEX", budget, seed, budget))
                rows[-1]["failure"] = reported.failure
                if reported.fourier:
                    rows[-1]["r2_half"] = r2(truth, reported.predict(fresh))
                show(rows[-1])
    if options.quick:
        return rows
    for name, game in head_games(options.data).items():
        full = sm.discover(game, method="exhaustive", progress=False)
        banzhaf = half_mask_pairs(game)
        intact = full.matrix()[np.triu_indices(len(game), 1)]
        rows.append(row(name, "intact against Banzhaf at p = 1/2", 20_000, 0, 20_000))
        top = [set(np.argsort(-abs(v))[:50].tolist()) for v in (intact, banzhaf)]
        rows[-1] |= {
            "rank_correlation": rank_correlation(intact, banzhaf),
            "rank_correlation_of_sizes": rank_correlation(abs(intact), abs(banzhaf)),
            "top_50_in_common": len(top[0] & top[1]) / 50,
        }
        show(rows[-1])
    return rows


def planted(options: Options) -> list[Row]:
    """No model and no gradient: sparse, with a dense tail, noise, triples, and growth with n."""
    cases: list[tuple[str, dict[str, Any], list[int]]] = [
        ("n = 10,000, 100 pairs", {"n": 10_000, "n_pairs": 100}, [3000, 5000]),
        ("the same, noise 1 %", {"n": 10_000, "n_pairs": 100, "noise": 0.0125}, [5000]),
        ("the same, 100 triples too", {"n": 10_000, "n_pairs": 100, "n_triples": 100}, [5000]),
        ("n = 10,000, 20 pairs", {"n": 10_000, "n_pairs": 20}, [3000]),
        ("n = 10,000, 1,000 pairs", {"n": 10_000, "n_pairs": 1000}, [20_000]),
        ("n = 36,864, 100 pairs", {"n": 36_864, "n_pairs": 100}, [5000]),
        ("n = 36,864, 1,000 pairs", {"n": 36_864, "n_pairs": 1000}, [20_000]),
        ("n = 1,000, 100 pairs", {"n": 1000, "n_pairs": 100}, [3000]),
        ("n = 100, 20 pairs", {"n": 100, "n_pairs": 20}, [800]),
    ]
    for ratio in (1000, 300, 100):
        what = {"n": 10_000, "n_pairs": 100, "ratio": ratio}
        cases.append((f"n = 10,000, 100 pairs, ratio {ratio}", what, [5000, 40_000]))
    for ratio in (100, 30, 10):
        what = {"n": 1000, "n_pairs": 50, "ratio": ratio}
        cases.append((f"n = 1,000, 50 pairs, ratio {ratio}", what, [5000, 10_000, 40_000]))
    for hierarchical in (True, False):
        for n in (300, 10_000):
            what = {"n": n, "n_pairs": 50, "n_triples": 50, "hierarchical": hierarchical}
            kind = "hierarchical" if hierarchical else "without pairs inside"
            cases.append((f"n = {n:,}, 50 pairs, 50 triples {kind}", what, [10_000]))
    if options.quick:
        cases = [case for case in cases if case[0] in QUICK]
    rows: list[Row] = []
    for name, what, budgets in cases:
        once = what["n"] > 10_000 or "ratio" in what or "hierarchical" in what
        for seed in SEEDS[: 1 if once or options.quick else len(SEEDS)]:
            game = planted_game(**what, seed=10 + seed)
            for budget in budgets[: 1 if options.quick else None]:
                for method in ("spex",) if options.quick else ("proxyspex", "spex"):
                    rows.append(on_planted(name, game, method, budget, seed))
                    show(rows[-1])
    return rows


class Timed:
    """A planted game that knows how long it was busy."""

    def __init__(self, game: Planted) -> None:
        self.game, self.labels, self.seconds = game, game.labels, 0.0

    def __len__(self) -> int:
        return len(self.game)

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        started = time.perf_counter()
        values = self.game(masks)
        self.seconds += time.perf_counter() - started
        return values


def on_planted(name: str, game: Planted, method: str, budget: int, seed: int) -> Row:
    timed, started = Timed(game), time.perf_counter()
    order = 3 if "triples w" in name or "hierarchical" in name else 2
    found = sm.discover(timed, method=method, budget=budget, seed=seed, order=order, progress=False)
    seconds = time.perf_counter() - started - timed.seconds
    values = {
        tuple(int(u) for u in units if u >= 0): float(value)
        for units, value in zip(found.units, found.mean, strict=True)
    }
    figures = {}
    for size in range(2, order + 1):
        sets = [s for s in game.planted if len(s) == size]
        hits = [
            s in values and abs(values[s] - game.planted[s]) < 1e-4 + 8 * game.noise for s in sets
        ]
        figures[f"recall of order {size}"] = float(np.mean(hits))
    return (
        row(name, method, budget, seed, found.cost["evaluations"])
        | figures
        | {
            "candidates_after": found.about.get("evaluations_of_candidates"),
            "way": found.about.get("candidates"),
            "proxy_r2": found.about.get("proxy_r2"),
            "host_seconds": round(seconds, 1),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        }
    )


def host_time(options: Options) -> list[Row]:
    """Boosted trees at n = 1,000 with 5,000 masks: ours against shapiq's ProxySPEX."""
    if options.quick:
        return []
    game = planted_game(1000, 100, 0)
    rows: list[Row] = []
    for proxy in ("trees", "distilled"):
        timed = Timed(game)
        started = time.perf_counter()
        small = sm.distill(timed, 5000, proxy, progress=False)
        rows.append(row("n = 1,000, 5,000 masks", f"distill, {proxy}", 5000, 0, 5000))
        rows[-1] |= {"host_seconds": time.perf_counter() - started - timed.seconds}
        rows[-1] |= {"r2_held_out": small.r2}
        show(rows[-1])

    def values(masks: np.ndarray) -> np.ndarray:
        return game(torch.from_numpy(masks))[:, 0].numpy()

    reported = rivals.run_rival(SHAPIQ_PROXYSPEX, values, 1000, 5000, 0, time_limit=300)
    rows.append(row("n = 1,000, 5,000 masks", "shapiq ProxySPEX", 5000, 0, 5000))
    rows[-1] |= {"host_seconds": reported.host_seconds, "failure": reported.failure}
    rows[-1]["at_least_times_ours" if reported.failure else "times_ours"] = (
        reported.host_seconds / rows[0]["host_seconds"]
    )
    show(rows[-1])
    return rows


def r2(truth: np.ndarray, predicted: np.ndarray) -> float:
    return 1 - float(((truth - predicted) ** 2).mean() / truth.var())


def row(game: str, method: str, budget: int, seed: int, spent: float) -> Row:
    return {"game": game, "method": method, "budget": budget, "seed": seed, "evaluations": spent}


def show(r: Row) -> None:
    shown = (
        "recall", "banzhaf", "r2", "rank", "top_50", "candidates", "host", "times", "at_least",
        "failure",
    )  # fmt: skip
    figures = {k: v for k, v in r.items() if k.startswith(shown) and v not in (None, "")}
    words = "  ".join(
        f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()
    )
    print(
        f"{r['game']:<34} {r['method']:<28} {int(r['evaluations']):>7} {r['seed']} {words}",
        flush=True,
    )


def draw(rows: list[Row], options: Options) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    of_story = [r for r in rows if r["part"] in ("story", "story_rivals")]
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
            mine = [r for r in of_story if r["method"] == method and not r.get("failure")]
            budgets = sorted({r["budget"] for r in mine})
            means = [
                np.mean([r["recall@100"] for r in mine if r["budget"] == budget])
                for budget in budgets
            ]
            if budgets:
                axes.plot(budgets, means, mark, label=method)
        axes.set_xlabel("evaluations (all pairs: 405,451)")
        axes.set_ylim(-0.02, 1.02)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    left.set_ylabel("share of the true top 100 pairs found")
    left.set_title("with gradients", fontsize=10)
    right.set_title("without gradients", fontsize=10)
    figure.suptitle("260K story model, 40 heads and 860 neurons", fontsize=10)
    figure.savefig(options.picture("recovery.png"), dpi=110)


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


def run(options: Options) -> dict[str, Any]:
    out = options.parts("recovery", PARTS, rivals=versions(), seeds=list(SEEDS))
    if not options.quick:
        draw(out["rows"], options)
    return out


if __name__ == "__main__":
    script(__doc__, run, PARTS)
