"""Tokens and training examples: recall of exhaustive pairs and R² on held-out masks, against
shapiq's KernelSHAP-IQ, SVARM-IQ, ProxySPEX and SPEX at equal budgets; a student model as proxy;
digits of 200, 1,000 and 10,000 examples.

    python -m benchmarks.lenses --data ../shared/data     # some 20 minutes on two cores
    pip install 'spex_mech[benchmarks]'                   # the rivals

The pairs that we find are interactions at the intact text; shapiq estimates Shapley or Banzhaf
interactions over all subsets. So on short sentences, where everything can be enumerated, each is
judged by recall of its own kind too. A rival may report as many pairs as it had evaluations.
Writes ``results/lenses.json``.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from benchmarks.frame import SEEDS, Options, Row, script, timed
from benchmarks.games import Pair, pairs_of, r2, recall, strongest
from benchmarks.rivals import SHAPIQ, run_rival, strongest_pairs

SENTENCES = (
    ("The film was not good and I did like the story.", "positive"),
    ("The plot was long but the acting was never bad.", "positive"),
    ("I never enjoy the music but it was really not dull.", "positive"),
)
STORY = (
    "Once upon a time, there was a little girl named Lily. She had a red ball and a dog named Max. "
    "The ball fell into the pond. But Max jumped into the pond and came back with the red"
)
ANSWER = " ball"


def story(data: Path, name: str, masking: str, spans: str | None = None) -> sm.TokenGame:
    model = sm.load_model(data / name)
    tokenizer = sm.load_tokenizer(model)
    task = sm.text_task(model, STORY, continuation=ANSWER)
    game = sm.TokenGame(model, task, spans, masking=masking, tokenizer=tokenizer)
    if spans == "words":  # the same units whatever the tokenizer
        labels = [f"{i}:{label.split(':', 1)[1]}" for i, label in enumerate(game.labels)]
        game = sm.TokenGame(model, task, spans, masking=masking, tokenizer=tokenizer, labels=labels)
    return game


def intact_pairs(game: Any) -> list[Pair]:
    return strongest(sm.discover(game, method="exhaustive", progress=False))


def ours(game: Any, truth: list[Pair], k: int, method: str, **options: Any) -> float | None:
    """Recall of the top k; None where the budget is refused."""
    try:
        found = sm.discover(game, method, progress=False, **options)
    except ValueError as error:
        print(f"{method}: {error}")
        return None
    return recall(pairs_of(found), truth, k)


def mean_of(scores: Iterable[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None


def row(game: str, n: int, budget: int, method: str, score: Any, **more: Any) -> Row:
    """Recall of the true top 50."""
    about = {"game": game, "n": n, "budget": budget, "method": method, "k": 50}
    return about | {"recall": score} | more


def sentences(options: Options) -> Iterator[Row]:
    """Short sentences, of which every subset is known: recall of the top 10 of each kind of
    interaction, and R² on all masks; means over sentences and seeds."""
    scores: dict[tuple[int, str, str], list[float]] = {}
    model = sm.load_model("sentiment")
    tokenizer = sm.load_tokenizer(model)
    for text, answer in SENTENCES[: 1 if options.quick else 3]:
        game = sm.TokenGame(model, sm.text_task(model, text, answer), tokenizer=tokenizer)
        n = len(game)
        budgets = (n * (n - 1) // 4, n * (n - 1) // 2 + n + 1, 4 * n * n)
        runs = product(budgets[1:2] if options.quick else budgets, options.seeds)
        for budget, method, kind, score in of_sentence(game, runs):
            scores.setdefault((budget, method, kind), []).append(score)
    for (budget, method, kind), found in scores.items():
        about = {"budget": budget, "method": method, "kind": kind}
        yield about | {"score": float(np.mean(found)), "runs": len(found)}


def of_sentence(
    game: Any, runs: Iterable[tuple[int, int]]
) -> Iterator[tuple[int, str, str, float]]:
    """Of runs (budget, seed) on one text: budget, method, kind of interaction (or R2), score."""
    import shapiq

    n = len(game)
    every = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(bool)
    table, weights = game.mean(torch.from_numpy(every)), 1 << np.arange(n)
    values = lambda masks: table[np.asarray(masks).astype(bool) @ weights]  # noqa: E731
    of_masks = lambda masks: torch.from_numpy(values(masks.numpy()))  # noqa: E731
    exact = shapiq.ExactComputer(game=values, n_players=n)("SII", 2).interactions
    signs = 1 - 2 * every.astype(np.int64)
    pairs = list(combinations(range(n), 2))
    banzhaf = {(a, b): float((table * signs[:, a] * signs[:, b]).mean()) for a, b in pairs}
    kinds = {
        "intact": intact_pairs(game),
        "shapley": strongest_pairs({tuple(s): float(v) for s, v in exact.items()}),
        "banzhaf": strongest_pairs(banzhaf),
    }
    for budget, seed in runs:
        for method in ("spex", "proxyspex"):
            score = ours(game, kinds["intact"], 10, method, budget=budget, seed=seed)
            if score is not None:
                yield budget, f"spex_mech {method}", "intact", score
        for proxy in ("distilled", "trees"):
            small = sm.distill(of_masks, budget, proxy, n=n, seed=seed, progress=False)
            name = f"spex_mech distill, {proxy}"
            yield budget, name, "R2", r2(table, small.predict(every))
            for kind in ("shapley", "banzhaf"):
                best = small.frame(10, kind=kind).units
                have = {tuple(int(u) for u in pair.split(" x ")) for pair in best}
                yield budget, name, kind, recall(have, kinds[kind], 10)
        for name, run in SHAPIQ.items():
            got = run_rival(run, values, n, budget, seed, time_limit=120)
            if got.failure:
                print(name, got.failure)
                continue
            for kind, truth in kinds.items():
                yield budget, name, kind, got.recall(truth, 10, 10)
            if got.fourier:
                yield budget, name, "R2", r2(table, got.predict(every))


def tokens(options: Options) -> Iterator[Row]:
    """Recall of the top 50 exhaustive pairs of a paragraph, of ours and of the rivals."""
    for masking in ("mean",) if options.quick else ("mean", "attention"):
        game = story(options.models, "stories260k", masking)
        n, truth, name = len(game), intact_pairs(game), f"story 260K, a paragraph, {masking}"
        methods: dict[str, Row] = {"spex": {"method": "spex"}, "proxyspex": {"method": "proxyspex"}}
        if masking == "mean":
            methods["spex, values only"] = {"method": "spex", "gradients": False}
        for budget in (5 * n,) if options.quick else (2 * n, 5 * n, 10 * n):
            for method, how in methods.items():
                found = [ours(game, truth, 50, budget=budget, seed=s, **how) for s in options.seeds]
                yield row(name, n, budget, f"spex_mech {method}", mean_of(found))
            for rival, run in SHAPIQ.items():
                asked = (run, game.mean, n, budget)
                got = [run_rival(*asked, seed, time_limit=120) for seed in options.seeds]
                failure = next((r.failure for r in got if r.failure), "")
                told = None if failure else mean_of(r.recall(truth, 50, budget) for r in got)
                yield row(name, n, budget, rival, told, failure=failure)


def student(options: Options) -> Iterator[Row]:
    """The 3M story model on words, screened on the 260K one."""
    for masking in ("attention",) if options.quick else ("attention", "mean"):
        game, small = (
            story(options.models, name, masking, "words") for name in ("stories3m", "stories260k")
        )
        n, truth, name = len(game), intact_pairs(game), f"story 3M, words of a paragraph, {masking}"
        ways: dict[str, Row] = {
            "student of 260K": {"method": "proxyspex", "proxy": small},
            "distilled": {"method": "proxyspex"},
            "spex": {"method": "spex"},
        }
        for budget, (way, how) in product((4 * n, 8 * n), ways.items()):
            yield row(name, n, budget, way, ours(game, truth, 50, budget=budget, seed=0, **how))


def digits(options: Options) -> Iterator[Row]:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x, target = data.data[order] / 16, data.target[order]
    chosen = np.isin(target, (3, 8))
    pair_x, pair_y = x[chosen], np.where(target[chosen] == 8, 1.0, -1.0)
    game = sm.TrainingGame.ridge(pair_x[:200], pair_y[:200], pair_x[200:], pair_y[200:], 1.0)
    truth = intact_pairs(game)
    budgets = (1000,) if options.quick else (1000, 2000, 5000)
    for budget, method in product(budgets, ("spex", "proxyspex")):
        score = mean_of(ours(game, truth, 50, method, budget=budget, seed=s) for s in SEEDS)
        name = "digits 3 and 8, 200 examples, ridge"
        yield row(name, 200, budget, f"spex_mech {method}", score)
    if not options.quick:
        yield retrained(x, target)
        yield ten_thousand(x, target)


def retrained(x: np.ndarray, target: np.ndarray) -> Row:
    """1,000 digits, odd against even, by logistic regression; the strongest pairs measured again by
    scikit-learn, trained anew for every subset."""
    from sklearn.linear_model import LogisticRegression

    y = (target % 2).astype(float)
    game = sm.TrainingGame.logistic(x[:1000], y[:1000], x[1000:], y[1000:], 1.0)
    how: Row = {"budget": 2000, "seed": 0, "progress": False}
    found, seconds = timed(lambda: sm.discover(game, "proxyspex", **how))
    best = found.top(10)

    def train(weights: torch.Tensor) -> torch.Tensor:
        values = []
        for kept in weights.numpy() > 0:
            model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10_000)
            model.fit(x[:1000][kept], y[:1000][kept])
            scores = model.predict_log_proba(x[1000:])
            values.append(torch.from_numpy(scores[np.arange(len(scores)), y[1000:].astype(int)]))
        return torch.stack(values)

    again = sm.TrainingGame(train, 1000, differentiable=False)
    sets = [[found.labels[u] for u in units[:2]] for units in best.units]
    true = sm.measure(again, sets, progress=False)
    want = np.array([true.value(*names) for names in sets])
    off = float(abs(best.mean - want).max() / abs(want).max())
    return {
        "game": "digits, 1,000 examples, logistic", "n": 1000, "budget": 2000, "pairs": 10,
        "largest_difference": off, "seconds": seconds, "smallest": float(abs(want).min()),
        "audit": found.audit,
    }  # fmt: skip


def ten_thousand(x: np.ndarray, target: np.ndarray) -> Row:
    """Every digit moved a little several times: 10,000 examples, 50 million pairs."""
    rng = np.random.default_rng(0)
    images = x[:1297].reshape(-1, 8, 8)
    of = np.arange(10_000) % len(images)
    moved = np.stack([np.roll(images[i], rng.integers(-1, 2, 2), (0, 1)) for i in of])
    many = moved.reshape(10_000, 64) + 0.05 * rng.normal(size=(10_000, 64))
    y = np.where(target % 2, 1.0, -1.0)
    game = sm.TrainingGame.ridge(many, y[of], x[1297:], y[1297:], 10.0)
    how: Row = {"budget": 10_000, "seed": 0, "progress": False}
    found, seconds = timed(lambda: sm.discover(game, "proxyspex", **how))
    return {
        "game": "moved digits, 10,000 examples, ridge", "n": 10_000, "budget": 10_000,
        "evaluations": found.cost["evaluations"], "pairs": len(found),
        "seconds": seconds, "audit": found.audit,
    }  # fmt: skip


PARTS = {
    "sentences": sentences,
    "tokens": tokens,
    "student": student,
    "data": digits,
}

if __name__ == "__main__":
    script(__doc__, "lenses", PARTS, seeds=list(SEEDS))
