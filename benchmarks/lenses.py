"""Tokens and training examples: recall of exhaustive pairs and R² on held-out masks, against
shapiq's KernelSHAP-IQ, SVARM-IQ, ProxySPEX and SPEX at equal budgets; a student model as proxy;
digits of 200, 1,000 and 10,000 examples.

    python -m benchmarks.lenses --data ../shared/data     # some 20 minutes on two cores
    pip install 'spex_mech[benchmarks]'                   # the rivals

The pairs that we find are interactions at the intact text; shapiq estimates Shapley or Banzhaf
interactions over all subsets. So on short sentences, where everything can be enumerated, our
proxies are judged by recall of those. A rival may report as many pairs as it had evaluations.
Writes ``results/lenses.json``.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

import spex_mech as sm
from benchmarks.frame import SEEDS, Options, Row, script
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


def story(data: Path, name: str, masking: str, **units: Any) -> sm.TokenGame:
    model = sm.load_model(data / name)
    tokenizer = sm.load_tokenizer(model)
    task = sm.text_task(model, STORY, continuation=ANSWER)
    return sm.TokenGame(model, task, masking=masking, tokenizer=tokenizer, **units)


def with_student(data: Path, masking: str) -> list[sm.TokenGame]:
    """The 3M story model and the 260K one, whatever their tokenizers on the same words: those that
    both can mask (by attention the token cannot be masked at which the answer is read)."""
    names = ("stories3m", "stories260k")
    every = [story(data, name, masking, spans="words") for name in names]
    words = every[0].labels[: min(map(len, every))]
    labels = [f"{i}:{word.split(':', 1)[1]}" for i, word in enumerate(words)]
    return [
        story(data, name, masking, spans=game.spans[: len(words)], labels=labels)
        for name, game in zip(names, every, strict=True)
    ]


def intact_pairs(game: Any) -> list[Pair]:
    return strongest(sm.discover(game, method="exhaustive", progress=False))


def ours(game: Any, truth: list[Pair], method: str, **options: Any) -> float:
    """Recall of the true top 50."""
    return recall(pairs_of(sm.discover(game, method, progress=False, **options)), truth, 50)


def row(game: str, n: int, budget: int, method: str, scores: list[float], **more: Any) -> Row:
    """The mean recall over seeds."""
    about = {"game": game, "n": n, "budget": budget, "method": method}
    return about | {"recall": float(np.mean(scores)), **more}


def sentences(options: Options) -> Iterator[Row]:
    """Short sentences, of which every subset is known: recall of the top 10 of both kinds of
    interaction over all subsets, and R² on all masks; means over sentences and seeds."""
    scores: dict[tuple[int, str, str], list[float]] = {}
    model = sm.load_model("sentiment")
    tokenizer = sm.load_tokenizer(model)
    for text, answer in options.some(SENTENCES):
        game = sm.TokenGame(model, sm.text_task(model, text, answer), tokenizer=tokenizer)
        n = len(game)
        budgets = options.some((n * (n - 1) // 2 + n + 1, 4 * n * n))  # all pairs; many masks
        for budget, method, kind, score in of_sentence(game, product(budgets, options.seeds)):
            scores.setdefault((budget, method, kind), []).append(score)
    for (budget, method, kind), found in scores.items():
        about = {"budget": budget, "method": method, "kind": kind}
        yield about | {"score": float(np.mean(found))}


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
        "shapley": strongest_pairs({tuple(s): float(v) for s, v in exact.items()}),
        "banzhaf": strongest_pairs(banzhaf),
    }
    for budget, seed in runs:
        for proxy in ("distilled", "trees"):
            small = sm.distill(of_masks, budget, proxy, n=n, seed=seed, progress=False)
            name = f"spex_mech distill, {proxy}"
            yield budget, name, "R2", r2(table, small.predict(every))
            for kind, truth in kinds.items():
                best = small.frame(10, kind=kind).units
                have = {tuple(int(u) for u in pair.split(" x ")) for pair in best}
                yield budget, name, kind, recall(have, truth, 10)
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
    for masking in options.some(("mean", "attention")):
        game = story(options.models, "stories260k", masking)
        n, truth, name = len(game), intact_pairs(game), f"story 260K, a paragraph, {masking}"
        methods: dict[str, Row] = {"spex": {}}
        if game.has_slopes:
            methods["spex, values only"] = {"gradients": False}
        for budget in options.some((148, 370, 740)):  # of its 74 tokens
            for method, how in methods.items():
                if budget == 148 and (how or not game.has_slopes):
                    continue  # without slopes so few are refused
                found = [ours(game, truth, "spex", budget=budget, seed=s, **how)
                         for s in options.seeds]  # fmt: skip
                yield row(name, n, budget, f"spex_mech {method}", found)
            for rival, run in SHAPIQ.items():
                asked = (run, game.mean, n, budget)
                got = [run_rival(*asked, seed, time_limit=120) for seed in options.seeds]
                scores = [told.recall(truth, 50, budget) for told in got]
                failure = next((told.failure for told in got if told.failure), "")
                yield row(name, n, budget, rival, scores, failure=failure)


def student(options: Options) -> Iterator[Row]:
    """The 3M story model on words, screened on the 260K one."""
    for masking in options.some(("attention", "mean")):
        game, small = with_student(options.models, masking)
        n, truth, name = len(game), intact_pairs(game), f"story 3M, words of a paragraph, {masking}"
        ways: dict[str, Row] = {
            "student of 260K": {"method": "proxyspex", "proxy": small},
            "distilled": {"method": "proxyspex"},
            "spex": {"method": "spex"},
        }
        for budget, (way, how) in product((4 * n, 8 * n), ways.items()):
            yield row(name, n, budget, way, [ours(game, truth, budget=budget, seed=0, **how)])


def digits(options: Options) -> Iterator[Row]:
    images, digit = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digit))
    x, target = images[order] / 16, digit[order]
    chosen = np.isin(target, (3, 8))
    pair_x, pair_y = x[chosen], np.where(target[chosen] == 8, 1.0, -1.0)
    game = sm.TrainingGame.ridge(pair_x[:200], pair_y[:200], pair_x[200:], pair_y[200:], 1.0)
    truth = intact_pairs(game)
    for method in ("spex", "proxyspex"):
        scores = [ours(game, truth, method, budget=1000, seed=seed) for seed in SEEDS]
        yield row("digits 3 and 8, 200 examples, ridge", 200, 1000, f"spex_mech {method}", scores)
    options.must_be_full()
    yield retrained(x, target)
    yield ten_thousand(x, target)


def retrained(x: np.ndarray, target: np.ndarray) -> Row:
    """1,000 digits, odd against even, by logistic regression; the strongest pairs measured again by
    scikit-learn, trained anew for every subset."""
    y = (target % 2).astype(float)
    game = sm.TrainingGame.logistic(x[:1000], y[:1000], x[1000:], y[1000:], 1.0)
    found = sm.discover(game, "proxyspex", budget=2000, seed=0, progress=False)
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
    true = sm.measure(again, best.names, progress=False)
    want = np.array([true.value(*names) for names in best.names])
    off = float(abs(best.mean - want).max() / abs(want).max())
    about = {"game": "digits, 1,000 examples, logistic", "n": 1000, "budget": 2000, "pairs": 10}
    return about | {"largest_difference": off}


def ten_thousand(x: np.ndarray, target: np.ndarray) -> Row:
    """Every digit moved a little several times: 10,000 examples, 50 million pairs."""
    rng = np.random.default_rng(0)
    images = x[:1297].reshape(-1, 8, 8)
    of = np.arange(10_000) % len(images)
    moved = np.stack([np.roll(images[i], rng.integers(-1, 2, 2), (0, 1)) for i in of])
    many = moved.reshape(10_000, 64) + 0.05 * rng.normal(size=(10_000, 64))
    y = np.where(target % 2, 1.0, -1.0)
    game = sm.TrainingGame.ridge(many, y[of], x[1297:], y[1297:], 10.0)
    found = sm.discover(game, "proxyspex", budget=10_000, seed=0, progress=False)
    about = {"game": "moved digits, 10,000 examples, ridge", "n": 10_000, "budget": 10_000}
    return about | {"seconds": found.cost["seconds"], "audit": found.audit}


PARTS = {"sentences": sentences, "tokens": tokens, "student": student, "data": digits}

if __name__ == "__main__":
    script(__doc__, "lenses", PARTS, seeds=list(SEEDS))
