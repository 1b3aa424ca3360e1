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

import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from benchmarks.common import Options, Row, script, show, versions
from benchmarks.rivals import SHAPIQ, run_rival, strongest_pairs

SEEDS = (0, 1, 2)
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


def sentences() -> dict[str, sm.TokenGame]:
    model = sm.load_model("sentiment")
    tokenizer = sm.load_tokenizer(model)
    return {
        text: sm.TokenGame(model, sm.text_task(model, text, answer), tokenizer=tokenizer)
        for text, answer in SENTENCES
    }


def story(data: Path, name: str, masking: str, spans: str | None = None) -> sm.TokenGame:
    model = sm.load_model(data / name)
    tokenizer = sm.load_tokenizer(model)
    task = sm.text_task(model, STORY, continuation=ANSWER)
    game = sm.TokenGame(model, task, spans, masking=masking, tokenizer=tokenizer)
    if spans == "words":  # the same units whatever the tokenizer
        labels = [f"{i}:{label.split(':', 1)[1]}" for i, label in enumerate(game.labels)]
        game = sm.TokenGame(model, task, spans, masking=masking, tokenizer=tokenizer, labels=labels)
    return game


def intact_pairs(game: Any) -> list[tuple[int, int]]:
    found = sm.discover(game, method="exhaustive", progress=False)
    return [(int(a), int(b)) for a, b in found.top(len(found)).units[:, :2]]


def recall(have: set[tuple[int, ...]], truth: list[tuple[int, int]], k: int) -> float:
    return float(np.mean([pair in have for pair in truth[:k]]))


def ours(game: Any, truth: list[tuple[int, int]], k: int, **options: Any) -> tuple[float, int]:
    found = sm.discover(game, progress=False, **options)
    have = {tuple(int(u) for u in units[:2]) for units in found.units}
    return recall(have, truth, k), int(found.cost["evaluations"])


def measured(
    game: Any, name: str, k: int, budgets: tuple[int, ...], seeds: tuple[int, ...]
) -> list[Row]:
    """Recall of the top k exhaustive pairs, of ours and of the rivals."""
    truth = intact_pairs(game)
    n, rows = len(game), []
    values = lambda masks: game.mean(torch.from_numpy(np.asarray(masks, dtype=bool)))  # noqa: E731
    for budget in budgets:
        methods = [("spex", {}), ("proxyspex", {})]
        if hasattr(game, "gradient"):
            methods += [("spex, values only", {"gradients": False})]
        for method, options in methods:
            own: list[float] = []
            for seed in seeds:
                try:
                    options = {**options, "method": method.split(",")[0]}
                    own.append(ours(game, truth, k, budget=budget, seed=seed, **options)[0])
                except ValueError as error:
                    print(f"{method}: {error}")
            score = float(np.mean(own)) if own else None
            rows.append(row(name, n, budget, f"spex_mech {method}", k, score))
        for rival, run in SHAPIQ.items():
            got = [run_rival(run, values, n, budget, seed, time_limit=120) for seed in seeds]
            failure = next((r.failure for r in got if r.failure), "")
            score = None if failure else float(np.mean([r.recall(truth, k, budget) for r in got]))
            rows.append(row(name, n, budget, rival, k, score) | {"failure": failure})
            show(rows[-1])
    return rows


def row(game: str, n: int, budget: int, method: str, k: int, score: Any) -> Row:
    made = {"game": game, "n": n, "budget": budget, "method": method, "k": k}
    if not method.startswith("shapiq"):
        show(made | {"recall": score})
    return made | {"recall": score}


def enumerated(options: Options) -> list[Row]:
    """Short sentences, of which every subset is known: recall of the top 10 of each kind of
    interaction, and R² on all masks."""
    import shapiq

    rows: list[Row] = []
    scores: dict[tuple[int, str, str], list[float]] = {}
    for game in list(sentences().values())[: 1 if options.quick else 3]:
        n = len(game)
        every = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(bool)
        table = game.mean(torch.from_numpy(every))
        weights = 1 << np.arange(n)
        values = lambda masks, t=table, w=weights: t[np.asarray(masks).astype(bool) @ w]  # noqa: E731
        exact = shapiq.ExactComputer(game=lambda masks, v=values: v(masks), n_players=n)
        signs = 1 - 2 * every.astype(np.int64)
        spread = ((table - table.mean()) ** 2).sum()
        banzhaf = {(a, b): float((table * signs[:, a] * signs[:, b]).mean())
                   for a, b in combinations(range(n), 2)}  # fmt: skip
        shapley = {tuple(s): float(v) for s, v in exact("SII", 2).interactions.items()}
        kinds = {"intact": intact_pairs(game), "shapley": strongest_pairs(shapley),
                 "banzhaf": strongest_pairs(banzhaf)}  # fmt: skip
        budgets = (n * (n - 1) // 4, n * (n - 1) // 2 + n + 1, 4 * n * n)
        for budget in budgets[1:2] if options.quick else budgets:

            def note(method: str, kind: str, score: float, budget: int = budget) -> None:
                scores.setdefault((budget, method, kind), []).append(score)

            for seed in SEEDS[: 1 if options.quick else 3]:
                for method in ("spex", "proxyspex"):
                    try:
                        note(f"spex_mech {method}", "intact",
                             ours(game, kinds["intact"], 10, method=method, budget=budget,
                                  seed=seed)[0])  # fmt: skip
                    except ValueError as error:
                        print(f"{method}: {error}")
                for proxy in ("distilled", "trees"):
                    small = sm.distill(values_as_game(values), budget, proxy, n=n, seed=seed,
                                       progress=False)  # fmt: skip
                    predicted = np.asarray(small.predict(every)).reshape(len(every), -1).mean(1)
                    note(f"spex_mech distill, {proxy}", "R2",
                         1 - float(((table - predicted) ** 2).sum() / spread))  # fmt: skip
                    for kind in ("shapley", "banzhaf"):
                        best = small.frame(10, kind=kind).units
                        have = {tuple(int(u) for u in pair.split(" x ")) for pair in best}
                        note(f"spex_mech distill, {proxy}", kind, recall(have, kinds[kind], 10))
                for name, run in SHAPIQ.items():
                    got = run_rival(run, values, n, budget, seed, time_limit=120)
                    if got.failure:
                        print(name, got.failure)
                        continue
                    for kind, pairs in kinds.items():
                        note(name, kind, got.recall(pairs, 10, 10))
                    if got.fourier:
                        off = ((table - got.predict(every)) ** 2).sum()
                        note(name, "R2", 1 - float(off / spread))
    for (budget, method, kind), found in scores.items():
        rows.append({"budget": budget, "method": method, "kind": kind})
        rows[-1] |= {"score": float(np.mean(found)), "runs": len(found)}
        show(rows[-1])
    return rows


def values_as_game(values: Any) -> Callable[[Any], Any]:
    return lambda masks: torch.from_numpy(values(masks.numpy()))


def tokens(options: Options) -> list[Row]:
    rows: list[Row] = []
    for masking in ("mean",) if options.quick else ("mean", "attention"):
        game = story(options.data, "stories260k", masking)
        n = len(game)
        name = f"story 260K, a paragraph, {masking}"
        budgets = (5 * n,) if options.quick else (2 * n, 5 * n, 10 * n)
        rows += measured(game, name, 50, budgets, SEEDS[: 1 if options.quick else 3])
    return rows


def student(options: Options) -> list[Row]:
    """The 3M story model on words, screened on the 260K one."""
    rows: list[Row] = []
    for masking in ("attention",) if options.quick else ("attention", "mean"):
        game, small = (
            story(options.data, name, masking, "words") for name in ("stories3m", "stories260k")
        )
        n, truth = len(game), intact_pairs(game)
        name = f"story 3M, words of a paragraph, {masking}"
        for budget in (4 * n, 8 * n):
            ways: dict[str, Any] = {
                "student of 260K": {"proxy": small}, "distilled": {}, "spex": {"method": "spex"},
            }  # fmt: skip
            for way, how in ways.items():
                how = {"method": "proxyspex", **how}
                score = ours(game, truth, 50, budget=budget, seed=0, **how)[0]
                rows.append(row(name, n, budget, way, 50, score))
    return rows


def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return data.data[order] / 16, data.target[order]


def examples(options: Options) -> list[Row]:
    rows: list[Row] = []
    x, target = digits()
    chosen = np.isin(target, (3, 8))
    pair_x, pair_y = x[chosen], np.where(target[chosen] == 8, 1.0, -1.0)
    game = sm.TrainingGame.ridge(pair_x[:200], pair_y[:200], pair_x[200:], pair_y[200:], 1.0)
    truth = intact_pairs(game)
    for budget in (1000,) if options.quick else (1000, 2000, 5000):
        for method in ("spex", "proxyspex"):
            found = [
                ours(game, truth, 50, method=method, budget=budget, seed=seed)[0] for seed in SEEDS
            ]
            rows.append(row("digits 3 and 8, 200 examples, ridge", 200, budget,
                            f"spex_mech {method}", 50, float(np.mean(found))))  # fmt: skip
    if options.quick:
        return rows
    rows.append(retrained(x, target))
    rows.append(ten_thousand(x, target))
    return rows


def retrained(x: np.ndarray, target: np.ndarray) -> Row:
    """1,000 digits, odd against even, by logistic regression; the strongest pairs measured again by
    scikit-learn, trained anew for every subset."""
    from sklearn.linear_model import LogisticRegression

    y = (target % 2).astype(float)
    game = sm.TrainingGame.logistic(x[:1000], y[:1000], x[1000:], y[1000:], 1.0)
    started = time.perf_counter()
    found = sm.discover(game, "proxyspex", budget=2000, seed=0, progress=False)
    seconds = time.perf_counter() - started
    best = found.top(10)

    def train(weights: torch.Tensor) -> torch.Tensor:
        values = []
        for kept in weights.numpy() > 0:
            model = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-10, max_iter=10_000)
            model.fit(x[:1000][kept], y[:1000][kept])
            right = model.predict_log_proba(x[1000:])[
                np.arange(len(x) - 1000), y[1000:].astype(int)
            ]
            values.append(torch.from_numpy(right))
        return torch.stack(values)

    again = sm.TrainingGame(train, 1000, differentiable=False)
    sets = [[found.labels[u] for u in units[:2]] for units in best.units]
    true = sm.measure(again, sets, progress=False)
    want = np.array([true.value(*names) for names in sets])
    off = float(abs(best.mean - want).max() / abs(want).max())
    made = {"game": "digits, 1,000 examples, logistic", "n": 1000}
    made |= {"budget": 2000, "pairs": 10, "largest_difference": off, "seconds": seconds}
    made |= {"smallest": float(abs(want).min()), "audit": found.audit}
    show(made)
    return made


def ten_thousand(x: np.ndarray, target: np.ndarray) -> Row:
    """Every digit moved a little several times: 10,000 examples, 50 million pairs."""
    rng = np.random.default_rng(0)
    images = x[:1297].reshape(-1, 8, 8)
    of = np.arange(10_000) % len(images)
    moved = np.stack([np.roll(images[i], rng.integers(-1, 2, 2), (0, 1)) for i in of])
    many = moved.reshape(10_000, 64) + 0.05 * rng.normal(size=(10_000, 64))
    y = np.where(target % 2, 1.0, -1.0)
    game = sm.TrainingGame.ridge(many, y[of], x[1297:], y[1297:], 10.0)
    started = time.perf_counter()
    found = sm.discover(game, "proxyspex", budget=10_000, seed=0, progress=False)
    made = {"game": "moved digits, 10,000 examples, ridge", "n": 10_000}
    made |= {"budget": 10_000, "evaluations": found.cost["evaluations"], "pairs": len(found)}
    made |= {"seconds": time.perf_counter() - started, "audit": found.audit}
    show(made)
    return made


PARTS = {
    "sentences": (enumerated, False),
    "tokens": (tokens, True),
    "student": (student, True),
    "data": (examples, False),
}


def run(options: Options) -> dict[str, Any]:
    return options.parts("lenses", PARTS, seeds=list(SEEDS), rivals=versions())


if __name__ == "__main__":
    script(__doc__, run, PARTS)
