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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, cycle
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

import spex_mech as sm
from benchmarks import games
from benchmarks.frame import SEEDS, Options, Row, panels, rows_of, script
from benchmarks.games import Pair, pairs_of, planted_game, recall, strongest
from benchmarks.rivals import ON_GRADIENTS, ON_VALUES, TIME_LIMIT, of_rival, strongest_pairs
from spex_mech.search.random_masks import complementary_masks
from tests.compiled import tracr_games

OURS = {
    "proxyspex": {"method": "proxyspex"},
    "spex": {"method": "spex"},
    "proxyspex, no gradients": {"method": "proxyspex", "gradients": False},
    "spex, no gradients": {"method": "spex", "gradients": False},
    "proxyspex, trees": {"method": "proxyspex", "proxy": "trees"},
}
WITH, WITHOUT = ("proxyspex", "spex"), ("proxyspex, no gradients", "spex, no gradients")
RIVALS = (*ON_VALUES, *ON_GRADIENTS)
QUICK_RIVALS = (*ON_GRADIENTS, "LASSO on pairs, near intact", "second differences (Archipelago)")


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

    def most(self, budget: int) -> int:
        """How many pairs a budget can measure."""
        return max(0, budget - 1 - len(self.game))

    def of_ours(self, budget: int, methods: Iterable[str], seeds: Iterable[int]) -> Iterator[Row]:
        for method in methods:
            for seed in seeds:
                how = {**OURS[method], "budget": budget, "seed": seed, "progress": False}
                found = sm.discover(self.game, **how)
                about = {**self.recalls(pairs_of(found)), "audit": found.audit}
                spent = found.cost["evaluations"]
                yield self.row(method, budget, seed, spent, **about, n_pairs=len(found))

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

    def of_rivals(
        self, budget: int, methods: Iterable[str], seeds: Iterable[int], seconds: int = TIME_LIMIT
    ) -> Iterator[Row]:
        most = self.most(budget)
        for method in methods:
            for seed in seeds:
                told = of_rival(method, self.game, budget, seed, seconds)
                figures: Row = {f"recall@{k}": told.recall(self.pairs, k, most) for k in self.ks}
                if self.banzhaf:
                    figures["banzhaf@50"] = told.recall([*self.banzhaf], 50, 50)
                figures |= {"failure": told.failure, "n_pairs": min(most, told.n_pairs)}
                yield self.row(method, budget, seed, told.evaluations, **figures)


def exhaustive(name: str, game: Any, **more: Any) -> Case:
    full = sm.discover(game, method="exhaustive", progress=False)
    return Case(name, game, strongest(full), full.main_effects, (50,), **more)


def half_of_all_pairs(game: Any) -> int:
    """Half of the evaluations that all pairs take, each mask once."""
    return (1 + len(game) + len(game) * (len(game) - 1) // 2) // 2


def story_case(options: Options) -> Case:
    truth, game = games.load_truth(), games.story_game(options.models)
    pairs = [(int(a), int(b)) for a, b in truth["units"][:, :2]]
    return Case("story 260K, 900 units", game, pairs, truth["main_effects"], (100, 500))


def story(options: Options) -> Iterator[Row]:
    """All 900 units of the 260K story model, against its exhaustive truth."""
    case = story_case(options)
    for budget in options.some((900, 1350, 1800, 2700, 3600, 5400)):
        methods = WITH if budget == 900 else WITH + WITHOUT
        methods += ("proxyspex, trees",) if budget in (1800, 3600) else ()
        yield from case.of_ours(budget, methods, options.seeds)
        yield from case.of_no_search(budget)


def story_rivals(options: Options) -> Iterator[Row]:
    """What others find among the 900 units with two evaluations per unit, and ours beside it."""
    case = story_case(options)
    yield from case.of_ours(1800, WITH, (0,))
    yield from case.of_no_search(1800)
    # All but those that read gradients take minutes each.
    yield from case.of_rivals(1800, ON_GRADIENTS if options.quick else RIVALS, (0,))


def compiled(options: Options) -> Iterator[Row]:
    """Programs compiled with tracr, by the mean score of the right answer, zero ablation: of the
    pairs that interact at all the top 50, with half of what all pairs take."""
    for name in options.some(("and2", "xor2", "sort", "reverse")):
        game = games.Together([game for game, _ in tracr_games(options.models, name, 0.5)])
        full = sm.discover(game, method="exhaustive", progress=False)
        pairs = strongest(full.take(np.flatnonzero(~full.is_noise)).top(50))
        title = f"tracr {name}, {len(game)} units, {len(pairs)} pairs"
        case = Case(title, game, pairs, full.main_effects, (50,))
        budget = half_of_all_pairs(game)
        yield from case.of_ours(budget, WITH + WITHOUT, options.seeds)
        yield from case.of_no_search(budget)
        yield from case.of_rivals(budget, QUICK_RIVALS, (0,), 60)


def fresh(options: Options) -> Iterator[Row]:
    """Games that no method was tuned on."""
    for name, game in games.fresh_games(options):
        case = exhaustive(name, game)
        for each in options.some((1, 2, 4)):
            budget = each * len(game)
            methods = WITH if each == 1 else WITH + WITHOUT
            yield from case.of_ours(budget, methods, options.seeds)
            yield from case.of_no_search(budget)
            yield from case.of_rivals(budget, ON_GRADIENTS, (0,))


def heads(options: Options) -> Iterator[Row]:
    """Heads only, where every rival runs."""
    for name, game in options.some(games.head_games(options.models).items()):
        means = half_mask_pairs(game, options).tolist()
        means = dict(zip(combinations(range(len(game)), 2), means, strict=True))
        case = exhaustive(name, game, banzhaf=strongest_pairs(means))
        budget, seconds = half_of_all_pairs(game), 60 if options.quick else TIME_LIMIT
        yield from case.of_ours(budget, OURS, options.seeds)
        yield from case.of_no_search(budget)
        yield from case.of_rivals(budget, RIVALS, options.seeds, seconds)
        # spectralexplain asks for 312 masks at least and recommends 624.
        more = int(0.8 * (1 + len(game) + len(case.pairs)))
        yield from case.of_rivals(more, ("spectralexplain SPEX",), options.seeds[:1], seconds)
        column = {label: u for u, label in enumerate(game.labels)}
        for proxy in ("distilled", "trees"):
            small = sm.distill(game, budget, proxy, progress=False)
            named = small.frame(50, kind="banzhaf").units
            have = {tuple(sorted(column[x] for x in s.split(" x "))) for s in named}
            found = {"banzhaf@50": recall(have, [*case.banzhaf], 50)}
            yield case.row(f"distill, {proxy}", budget, 0, small.cost["evaluations"], **found)


def half_mask_pairs(game: sm.ModelGame, options: Options) -> np.ndarray:
    """The Banzhaf interaction of each pair (of ``np.triu_indices``): a regression on half masks."""
    n, n_masks = len(game), 4000 if options.quick else 20_000
    masks = complementary_masks(n, n_masks, np.random.default_rng(5))
    x = np.where(masks, -1.0, 1.0)
    i, j = np.triu_indices(n, 1)
    design = np.concatenate([np.ones((n_masks, 1)), x, x[:, i] * x[:, j]], axis=1)
    return 4 * np.linalg.lstsq(design, game.mean(masks), rcond=None)[0][1 + n :]


def fourier(options: Options) -> Iterator[Row]:
    """How means over all subsets compare with interactions at the intact model."""
    for name, game in options.some(games.head_games(options.models).items()):
        full = sm.discover(game, method="exhaustive", progress=False).matrix()
        intact, banzhaf = full[np.triu_indices(len(game), 1)], half_mask_pairs(game, options)
        top = [set(np.argsort(-abs(v))[:50].tolist()) for v in (intact, banzhaf)]
        yield {
            "game": name, "method": "intact against Banzhaf at p = 1/2",
            "rank_correlation": float(spearmanr(intact, banzhaf)[0]),
            "rank_correlation_of_sizes": float(spearmanr(abs(intact), abs(banzhaf))[0]),
            "top_50_in_common": len(top[0] & top[1]) / 50,
        }  # fmt: skip


_TRIPLES = {"n": 10_000, "n_pairs": 50, "n_triples": 50}
PLANTED: dict[str, tuple[Row, tuple[int, ...]]] = {  # what is planted, budgets
    "n = 10,000, 100 pairs": ({"n": 10_000, "n_pairs": 100}, (3000, 5000)),
    **{
        f"n = 10,000, 100 pairs, ratio {ratio}": (
            {"n": 10_000, "n_pairs": 100, "ratio": ratio}, (5000, 40_000))
        for ratio in (1000, 300, 100)
    },
    **{
        f"n = 1,000, 50 pairs, ratio {ratio}": (
            {"n": 1000, "n_pairs": 50, "ratio": ratio}, (5000, 10_000, 40_000))
        for ratio in (100, 30, 10)
    },
    "n = 10,000, 50 pairs, 50 triples hierarchical": (
        _TRIPLES | {"hierarchical": True}, (10_000,)),
    "n = 10,000, 50 pairs, 50 triples without pairs inside": (_TRIPLES, (10_000,)),
}  # fmt: skip


def planted(options: Options) -> Iterator[Row]:
    """No model and no gradient: sparse, with a dense tail, and with triples."""
    for name, (what, budgets) in options.some(PLANTED.items()):
        sparse = "ratio" not in what and "n_triples" not in what
        for seed in options.seeds if sparse else options.seeds[:1]:
            game = planted_game(**what, seed=10 + seed)
            for budget in options.some(budgets):
                for method in WITH:
                    yield {"game": name, **on_planted(game, method, budget, seed)}


def on_planted(game: games.Planted, method: str, budget: int, seed: int) -> Row:
    sizes = sorted({len(s) for s in game.planted})
    how = {"budget": budget, "seed": seed, "order": sizes[-1], "progress": False}
    found = sm.discover(game, method, **how)
    have = games.values_of(found)
    close = {s for s, v in game.planted.items() if abs(have.get(s, np.inf) - v) < 1e-4}
    row: Row = {"method": method, "budget": budget, "seed": seed}
    for size in sizes:
        row[f"recall of order {size}"] = recall(close, [s for s in game.planted if len(s) == size])
    return row | {"candidates_after": found.about.get("evaluations_of_candidates")}


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
            draw_recall(ax, of_story, marks)
            ax.set(xlabel="evaluations (all pairs: 405,451)", ylim=(-0.02, 1.02))
            ax.set_title(f"260K story model, 40 heads and 860 neurons, {title}")
        axes[0].set_ylabel("share of the true top 100 pairs found")


def draw_recall(ax: Any, rows: list[Row], marks: dict[str, str]) -> None:
    """The mean recall of each method over its budgets."""
    for number, (method, mark) in enumerate(marks.items()):
        mine = rows_of(rows, method=method)
        budgets = sorted({row["budget"] for row in mine})
        shares = [np.mean([r["recall@100"] for r in rows_of(mine, budget=b)]) for b in budgets]
        if budgets:
            ax.plot(budgets, shares, mark, color=f"C{number}", label=method)
    ax.grid(alpha=0.3)


PARTS = {
    "story": story,
    "story_rivals": story_rivals,
    "heads": heads,
    "compiled": compiled,
    "fresh": fresh,
    "fourier": fourier,
    "planted": planted,
}

if __name__ == "__main__":
    script(__doc__, "recovery", PARTS, draw, seeds=list(SEEDS))
