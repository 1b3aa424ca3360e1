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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, cycle, product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import spex_mech as sm
from benchmarks import games
from benchmarks.frame import SEEDS, Options, Row, most_memory_mb, panels, rows_of, script, timed
from benchmarks.games import Pair, pairs_of, planted_game, recall, strongest
from benchmarks.rivals import ON_GRADIENTS, ON_VALUES, TIME_LIMIT, of_rival, strongest_pairs
from spex_mech.search.random_masks import complementary_masks
from tests.compiled import tracr_games

RIVALS = (*ON_VALUES, *ON_GRADIENTS)
QUICK_RIVALS = (*ON_GRADIENTS, "LASSO on pairs, near intact", "second differences (Archipelago)")
OURS = {
    "proxyspex": {"method": "proxyspex"},
    "spex": {"method": "spex"},
    "proxyspex, no gradients": {"method": "proxyspex", "gradients": False},
    "spex, no gradients": {"method": "spex", "gradients": False},
    "proxyspex, trees": {"method": "proxyspex", "proxy": "trees"},
}
WITH, WITHOUT = ("proxyspex", "spex"), ("proxyspex, no gradients", "spex, no gradients")
STORY = "story 260K, 900 units"

Seeds = tuple[int, ...]
Runs = Mapping[int, Mapping[str, Seeds]]  # budget, method of ours, seeds


@dataclass(frozen=True)
class Case:
    """A game of a real model whose pairs are all known."""

    name: str
    game: Any
    pairs: list[Pair]  # strongest first
    main_effects: np.ndarray
    ks: tuple[int, ...]  # recall is of the true top so many
    banzhaf: Sequence[Pair] = ()  # the same of means over all subsets

    def row(self, method: str, budget: int, seed: int, spent: float, **figures: Any) -> Row:
        about = {"game": self.name, "method": method, "budget": budget, "seed": seed}
        return about | {"evaluations": spent} | figures

    def recalls(self, have: set[Pair]) -> Row:
        return {f"recall@{k}": recall(have, self.pairs, k) for k in self.ks}

    def measure(self, ours: Runs, of_rivals: Runs, time_limit: int = TIME_LIMIT) -> Iterator[Row]:
        for budget, methods in ours.items():
            for method, seed in [(m, seed) for m, seeds in methods.items() for seed in seeds]:
                yield self.of_ours(method, budget, seed)
            yield from self.of_no_search(budget)
            for method, seeds in of_rivals.get(budget, {}).items():
                for seed in seeds:
                    yield self.of_rival(method, budget, seed, time_limit)

    def most(self, budget: int) -> int:
        """How many pairs a budget can measure."""
        return max(0, budget - 1 - len(self.game))

    def of_ours(self, method: str, budget: int, seed: int) -> Row:
        how = {**OURS[method], "budget": budget, "seed": seed, "progress": False}
        found, seconds = timed(lambda: sm.discover(self.game, **how))
        have, told = pairs_of(found), ("proxy_r2", "rank_correlation", "candidates")
        about = {key: found.about.get(key) for key in told}
        about |= {"audit": found.audit, "n_pairs": len(have), "seconds": round(seconds, 1)}
        spent = found.cost["evaluations"]
        return self.row(method, budget, seed, spent, **self.recalls(have), **about)

    def of_no_search(self, budget: int) -> Iterator[Row]:
        """The naive reading of "adaptive", pairs in order of the product of their main effects;
        and a random order."""
        most, sizes = self.most(budget), abs(self.main_effects)
        first, second = np.triu_indices(len(sizes), 1)
        order = np.argsort(-sizes[first] * sizes[second], kind="stable")[:most]
        have = set(zip(first[order].tolist(), second[order].tolist(), strict=True))
        about = {"n_pairs": most}
        yield self.row("products of main effects", budget, 0, budget, **self.recalls(have), **about)
        shares = {f"recall@{k}": most / len(first) for k in self.ks}
        yield self.row("random order", budget, 0, budget, **shares, **about)

    def of_rival(self, method: str, budget: int, seed: int, time_limit: int) -> Row:
        told, most = of_rival(method, self.game, budget, seed, time_limit), self.most(budget)
        figures: Row = {f"recall@{k}": told.recall(self.pairs, k, most) for k in self.ks}
        if self.banzhaf:
            figures["banzhaf@50"] = told.recall([*self.banzhaf], 50, 50)
        figures |= {"failure": told.failure, "n_pairs": min(most, told.n_pairs)}
        figures["seconds"] = round(told.host_seconds, 1)
        return self.row(method, budget, seed, told.evaluations, **figures)


def exhaustive(name: str, game: Any, ks: tuple[int, ...], **more: Any) -> Case:
    full = sm.discover(game, method="exhaustive", progress=False)
    return Case(name, game, strongest(full), full.main_effects, ks, **more)


def of_all_pairs(game: Any) -> int:
    """Evaluations of all pairs, each mask once."""
    return 1 + len(game) + len(game) * (len(game) - 1) // 2


def story_case(options: Options) -> Case:
    truth = games.load_truth()
    pairs = [(int(a), int(b)) for a, b in truth["units"][:, :2]]
    return Case(STORY, games.story_game(options.models), pairs, truth["main_effects"], (100, 500))


def story(options: Options) -> Iterator[Row]:
    """All 900 units of the 260K story model, against its exhaustive truth."""
    runs: dict[int, dict[str, Seeds]] = {900: dict.fromkeys(WITH, options.seeds)}
    if options.quick:
        runs[1800] = {WITHOUT[1]: (0,)}
    else:
        for budget in (1350, 1800, 2700, 3600, 5400):
            runs[budget] = dict.fromkeys((*WITH, *WITHOUT), SEEDS)
        for budget in (1800, 3600):
            runs[budget]["proxyspex, trees"] = SEEDS
    yield from story_case(options).measure(runs, {})


def story_rivals(options: Options) -> Iterator[Row]:
    """What others find among the 900 units with two evaluations per unit, and ours beside it."""
    of_rivals = ON_GRADIENTS if options.quick else RIVALS  # the others take minutes each
    ours, theirs = (dict.fromkeys(methods, (0,)) for methods in (WITH, of_rivals))
    yield from story_case(options).measure({1800: ours}, {1800: theirs})


def compiled(options: Options) -> Iterator[Row]:
    """Programs compiled with tracr, by the mean score of the right answer, zero ablation: of the
    pairs that interact at all the top 50, with half of what all pairs take."""
    of_rivals = dict.fromkeys(ON_GRADIENTS if options.quick else QUICK_RIVALS, (0,))
    for name in ("and2", "xor2", "sort", "reverse")[: 1 if options.quick else None]:
        game = games.Together([game for game, _ in tracr_games(options.models, name, 0.5)])
        full = sm.discover(game, method="exhaustive", progress=False)
        pairs = strongest(full.take(np.flatnonzero(~full.is_noise)).top(50))
        title = f"tracr {name}, {len(game)} units, {len(pairs)} pairs"
        case = Case(title, game, pairs, full.main_effects, (50,))
        budget, ours = of_all_pairs(game) // 2, dict.fromkeys(WITH + WITHOUT, options.seeds)
        yield from case.measure({budget: ours}, {budget: of_rivals}, time_limit=60)


def fresh(options: Options) -> Iterator[Row]:
    """Games that no method was tuned on."""
    for name, game in games.fresh_games(options.models):
        if options.quick and "3M" not in name:
            continue
        budgets = [each * len(game) for each in ((2,) if options.quick else (1, 2, 4))]
        ours = {
            budget: dict.fromkeys(WITH if budget == len(game) else WITH + WITHOUT, options.seeds)
            for budget in budgets
        }
        theirs = dict.fromkeys(budgets, dict.fromkeys(ON_GRADIENTS, (0,)))
        yield from exhaustive(name, game, (50, 100)).measure(ours, theirs)


def heads(options: Options) -> Iterator[Row]:
    """Heads only, where every rival runs."""
    for name, game in list(games.head_games(options.models).items())[
        : 1 if options.quick else None
    ]:
        means = zip(combinations(range(len(game)), 2), half_mask_pairs(game).tolist(), strict=True)
        case = exhaustive(name, game, (50,), banzhaf=strongest_pairs(dict(means)))
        most = of_all_pairs(game)
        yield case.row("exhaustive", len(case.pairs), 0, most, **{"recall@50": 1.0})
        # SPEX of spectralexplain asks for 312 masks at least and recommends 624.
        shares = {int(x * most): x for x in ((0.5,) if options.quick else (0.35, 0.5, 0.8))}
        ours = {b: dict.fromkeys(OURS if b >= 280 else WITH, options.seeds) for b in shares}
        theirs = {
            b: dict.fromkeys(RIVALS, options.seeds if x == 0.5 else options.seeds[:1])
            for b, x in shares.items()
        }
        yield from case.measure(ours, theirs, 60 if options.quick else TIME_LIMIT)
        column = {label: u for u, label in enumerate(game.labels)}
        for budget, proxy in product(shares, ("distilled", "trees")):
            small = sm.distill(game, budget, proxy, progress=False)
            named = small.frame(50, kind="banzhaf").units
            have = {tuple(sorted(column[x] for x in s.split(" x "))) for s in named}
            found = {"banzhaf@50": recall(have, [*case.banzhaf], 50)}
            yield case.row(f"distill, {proxy}", budget, 0, small.cost["evaluations"], **found)


def half_mask_pairs(game: sm.ModelGame, n_masks: int = 20_000) -> np.ndarray:
    """The Banzhaf interaction of each pair (of ``np.triu_indices``): a regression on half masks."""
    n = len(game)
    masks = complementary_masks(n, n_masks, np.random.default_rng(5))
    x = np.where(masks, -1.0, 1.0)
    i, j = np.triu_indices(n, 1)
    design = np.concatenate([np.ones((n_masks, 1)), x, x[:, i] * x[:, j]], axis=1)
    return 4 * np.linalg.lstsq(design, game.mean(masks), rcond=None)[0][1 + n :]


def fourier(options: Options) -> Iterator[Row]:
    """How means over all subsets compare with interactions at the intact model."""
    for name, game in list(games.head_games(options.models).items())[
        : 1 if options.quick else None
    ]:
        full, pairs = sm.discover(game, method="exhaustive", progress=False), len(game)
        intact, banzhaf = full.matrix()[np.triu_indices(pairs, 1)], half_mask_pairs(game)
        top = [set(np.argsort(-abs(v))[:50].tolist()) for v in (intact, banzhaf)]
        yield {
            "game": name, "method": "intact against Banzhaf at p = 1/2",
            "budget": 20_000, "seed": 0, "evaluations": 20_000,
            "rank_correlation": float(spearmanr(intact, banzhaf).statistic),
            "rank_correlation_of_sizes": float(spearmanr(abs(intact), abs(banzhaf)).statistic),
            "top_50_in_common": len(top[0] & top[1]) / 50,
        }  # fmt: skip


def planted_cases() -> Iterator[tuple[str, Row, Seeds]]:
    """Name, what is planted, budgets."""
    yield "n = 10,000, 100 pairs", {"n": 10_000, "n_pairs": 100}, (3000, 5000)
    for ratio in (1000, 300, 100):
        what = {"n": 10_000, "n_pairs": 100, "ratio": ratio}
        yield f"n = 10,000, 100 pairs, ratio {ratio}", what, (5000, 40_000)
    for ratio in (100, 30, 10):
        what = {"n": 1000, "n_pairs": 50, "ratio": ratio}
        yield f"n = 1,000, 50 pairs, ratio {ratio}", what, (5000, 10_000, 40_000)
    triples = {"n": 10_000, "n_pairs": 50, "n_triples": 50}
    yield (
        "n = 10,000, 50 pairs, 50 triples hierarchical",
        triples | {"hierarchical": True},
        (10_000,),
    )
    yield "n = 10,000, 50 pairs, 50 triples without pairs inside", triples, (10_000,)


def planted(options: Options) -> Iterator[Row]:
    """No model and no gradient: sparse, with a dense tail, and with triples."""
    for name, what, budgets in list(planted_cases())[: 1 if options.quick else None]:
        sparse = "ratio" not in what and "n_triples" not in what
        for seed in options.seeds if sparse else options.seeds[:1]:
            game = planted_game(**what, seed=10 + seed)
            for budget in budgets[: 1 if options.quick else None]:
                for method in ("spex",) if options.quick else WITH:
                    order = 3 if "n_triples" in what else 2
                    yield {"game": name, **on_planted(game, method, budget, seed, order)}


def on_planted(game: games.Planted, method: str, budget: int, seed: int, order: int) -> Row:
    watched = games.Watched(game)
    how = {"budget": budget, "seed": seed, "order": order, "progress": False}
    found, seconds = timed(lambda: sm.discover(watched, method, **how))
    have = games.values_of(found)
    close = {s for s, v in game.planted.items() if abs(have.get(s, np.inf) - v) < 1e-4}
    sets = {size: [s for s in game.planted if len(s) == size] for size in range(2, order + 1)}
    return {
        "method": method, "budget": budget, "seed": seed, "evaluations": found.cost["evaluations"],
        **{f"recall of order {size}": recall(close, of_size) for size, of_size in sets.items()},
        "candidates_after": found.about.get("evaluations_of_candidates"),
        "way": found.about.get("candidates"), "proxy_r2": found.about.get("proxy_r2"),
        "host_seconds": round(seconds - watched.seconds, 1),
        "peak_gb": round(most_memory_mb() * 1024 / 1e6, 2),
    }  # fmt: skip


def draw(rows: list[Row], file: Path) -> None:
    of_story = [r for r in rows if r["part"] in ("story", "story_rivals") and not r.get("failure")]
    with_gradients = {"proxyspex": "o-", "spex": "s--", "products of main effects": "^:"}
    with_gradients |= dict(zip(ON_GRADIENTS, "DP", strict=True))
    without = {
        "proxyspex, no gradients": "o-", "spex, no gradients": "s--", "proxyspex, trees": "v-.",
        "products of main effects": "^:", "random order": "x:",
    } | dict(zip(ON_VALUES, cycle("Dd*Php<>8X"), strict=False))  # fmt: skip
    with panels(file, 1, 2, (10.5, 4.2)) as axes:
        titles = ("with gradients", "without gradients")
        for ax, title, marks in zip(axes, titles, (with_gradients, without), strict=True):
            for method, mark in marks.items():
                mine = rows_of(of_story, method=method)
                budgets = sorted({r["budget"] for r in mine})
                shares = [
                    np.mean([r["recall@100"] for r in rows_of(mine, budget=b)]) for b in budgets
                ]
                if budgets:
                    ax.plot(budgets, shares, mark, label=method)
            ax.set(xlabel="evaluations (all pairs: 405,451)", ylim=(-0.02, 1.02))
            ax.set_title(f"260K story model, 40 heads and 860 neurons, {title}")
            ax.grid(alpha=0.3)
        axes[0].set_ylabel("share of the true top 100 pairs found")


PARTS = {
    "story": (story, True),
    "story_rivals": (story_rivals, True),
    "heads": (heads, True),
    "compiled": (compiled, True),
    "fresh": (fresh, True),
    "fourier": (fourier, True),
    "planted": (planted, False),
}

if __name__ == "__main__":
    script(__doc__, "recovery", PARTS, draw, seeds=list(SEEDS))
