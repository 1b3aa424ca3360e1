"""Recall of the true top pairs against evaluations: real models and planted games.

    python benchmarks/recovery.py --data ../shared/data          # all of it, some 25 minutes
    python benchmarks/recovery.py --planted                      # only the games without a model

Evaluations count everything: a mask over all prompts is 1, a gradient 3; single ablations, the
exact validation of what is reported and the audit are included. A pair counts as found if it was
measured and reported. Writes ``results/recovery.json`` and ``pictures/recovery.png``.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]
from planted import planted_game  # noqa: E402
from truth import load_truth, provenance, story_game  # noqa: E402

SEEDS = (0, 1, 2)


def pairs_of(found: sm.Interactions) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in found.units[found.order == 2][:, :2]}


def recall(have: set[tuple[int, int]], truth: np.ndarray, k: int) -> float:
    return float(np.mean([(int(a), int(b)) in have for a, b in truth[:k]]))


def by_main_effects(main: np.ndarray, n_pairs: int) -> set[tuple[int, int]]:
    """The naive reading of "adaptive": pairs in order of the product of their main effects."""
    i, j = np.triu_indices(len(main), 1)
    order = np.argsort(-abs(main[i] * main[j]), kind="stable")[: max(n_pairs, 0)]
    return set(zip(i[order].tolist(), j[order].tolist(), strict=True))


def at_random(n: int, n_pairs: int, seed: int) -> set[tuple[int, int]]:
    i, j = np.triu_indices(n, 1)
    order = np.random.default_rng(seed).permutation(len(i))[: max(n_pairs, 0)]
    return set(zip(i[order].tolist(), j[order].tolist(), strict=True))


def on_story_model(data: Path) -> list[dict[str, Any]]:
    """All 900 units of the 260K story model, against its exhaustive truth."""
    truth = load_truth()
    pairs, main = truth["units"][:, :2], truth["main_effects"]
    game = story_game(data, torch.from_numpy(truth["tokens"]))
    rows = []
    for budget in (1350, 1800, 2700, 3600, 5400):
        for method, options, seeds in (
            ("spex", {}, SEEDS),
            ("spex without gradients", {"gradients": False}, SEEDS[:1]),
        ):
            for seed in seeds:
                found = sm.discover(game, budget=budget, seed=seed, progress=False, **options)
                have = pairs_of(found)
                rows.append(
                    row("story 260K, 900 units", method, budget, seed, found.cost["evaluations"])
                    | {f"recall@{k}": recall(have, pairs, k) for k in (100, 500)}
                    | {"audit": found.audit}
                )
                show(rows[-1])
        n_pairs = budget - 1 - len(game)
        for method, have in (
            ("products of main effects", by_main_effects(main, n_pairs)),
            ("random order", at_random(len(game), n_pairs, 0)),
        ):
            rows.append(
                row("story 260K, 900 units", method, budget, 0, budget)
                | {f"recall@{k}": recall(have, pairs, k) for k in (100, 500)}
            )
            show(rows[-1])
    return rows


def on_heads(data: Path) -> list[dict[str, Any]]:
    """Heads only: of the 260K model, and of a random-weight GPT-2 of 144 heads."""
    from transformers import GPT2Config, GPT2LMHeadModel

    truth = load_truth()
    story = story_game(data, torch.from_numpy(truth["tokens"]))
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=12, n_head=12, n_embd=96, vocab_size=512, n_positions=32, bos_token_id=0,
        initializer_range=0.15,
    )  # fmt: skip
    random = GPT2LMHeadModel(config).eval()
    tokens = torch.randint(1, 512, (4, 16), generator=torch.Generator().manual_seed(0))
    games = {
        "story 260K, 40 heads": (
            sm.ModelGame(story.model, story.task, sm.Components.heads(story.model)),
            (0.2, 0.35, 0.5),
        ),
        "random GPT-2, 144 heads": (
            sm.ModelGame(random, sm.Task(sm.Prompts(tokens), "log_prob")),
            (0.05, 0.1, 0.2),
        ),
    }
    rows = []
    for name, (game, shares) in games.items():
        full = sm.discover(game, method="exhaustive")
        pairs = full.top(50).units[:, :2]
        for share in shares:
            budget = int(share * full.cost["evaluations"])
            for seed in SEEDS:
                found = sm.discover(game, budget=budget, seed=seed, progress=False)
                have = pairs_of(found)
                rows.append(
                    row(name, f"spex at {share:.0%} of exhaustive", budget, seed, budget)
                    | {"recall@50": recall(have, pairs, 50)}
                )
                show(rows[-1])
            n_pairs = budget - 1 - len(game)
            rows.append(
                row(name, "products of main effects", budget, 0, budget)
                | {"recall@50": recall(by_main_effects(full.main_effects, n_pairs), pairs, 50)}
            )
            show(rows[-1])
    return rows


def on_planted_games() -> list[dict[str, Any]]:
    """No model and no gradient: sparse, with a dense tail, and growth with n."""
    cases: list[tuple[str, dict[str, Any], int]] = [
        ("n = 10,000, 100 pairs", {"n": 10_000, "n_pairs": 100}, 15_000),
        ("the same, noise 1 %", {"n": 10_000, "n_pairs": 100, "noise": 0.0125}, 15_000),
        ("the same, 100 triples too", {"n": 10_000, "n_pairs": 100, "n_triples": 100}, 15_000),
    ]
    for ratio in (100, 30, 10):
        for budget in (10_000, 40_000):
            what = {"n": 1000, "n_pairs": 50, "ratio": ratio}
            cases.append((f"n = 1,000, 50 pairs, ratio {ratio}", what, budget))
    cases += [
        (f"growth, n = {n:,}, 100 pairs", {"n": n, "n_pairs": 100}, min(15_000, n * (n - 1) // 2))
        for n in (100, 300, 1000, 3000, 40_000)
    ]
    rows = []
    for name, what, budget in cases:
        for seed in SEEDS[: 1 if what["n"] > 10_000 else len(SEEDS)]:
            game = planted_game(**what, seed=10 + seed)
            started = time.perf_counter()
            found = sm.discover(game, budget=budget, seed=seed, progress=False)
            values = {
                tuple(int(u) for u in units if u >= 0): float(value)
                for units, value in zip(found.units, found.mean, strict=True)
            }
            pairs = [s for s in game.planted if len(s) == 2]
            hits = [
                s in values and abs(values[s] - game.planted[s]) < 1e-5 + 8 * game.noise
                for s in pairs
            ]
            rows.append(
                row(name, "spex without gradients", budget, seed, found.cost["evaluations"])
                | {
                    "recall": float(np.mean(hits)),
                    "candidates_after": found.about.get("evaluations_of_candidates"),
                    "way": found.about.get("candidates"),
                    "host_seconds": round(time.perf_counter() - started, 1),
                }
            )
            show(rows[-1])
    return rows


def row(game: str, method: str, budget: int, seed: int, spent: float) -> dict[str, Any]:
    return {"game": game, "method": method, "budget": budget, "seed": seed, "evaluations": spent}


def show(r: dict[str, Any]) -> None:
    figures = {k: v for k, v in r.items() if k.startswith(("recall", "way", "candidates_after"))}
    words = "  ".join(
        f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()
    )
    print(f"{r['game']:<34} {r['method']:<28} {int(r['evaluations']):>7} {words}", flush=True)


def draw(rows: list[dict[str, Any]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    story = [r for r in rows if r["game"].startswith("story 260K, 900")]
    marks = {"spex": "o-", "spex without gradients": "s--", "products of main effects": "^:"}
    marks["random order"] = "x:"
    for method, mark in marks.items():
        budgets = sorted({r["budget"] for r in story if r["method"] == method})
        means = [
            np.mean([r["recall@100"] for r in story if (r["method"], r["budget"]) == (method, b)])
            for b in budgets
        ]
        axes.plot(budgets, means, mark, label=method)
    axes.set_xlabel("evaluations (all pairs: 405,451)")
    axes.set_ylabel("share of the true top 100 pairs found")
    axes.set_title("260K story model, 40 heads and 860 neurons", fontsize=10)
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=8)
    (HERE / "pictures").mkdir(exist_ok=True)
    figure.savefig(HERE / "pictures" / "recovery.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, help="the folder of models; without it, only --planted"
    )
    parser.add_argument("--planted", action="store_true", help="only the games without a model")
    options = parser.parse_args()
    rows = []
    if options.data and not options.planted:
        rows += on_story_model(options.data) + on_heads(options.data)
        draw(rows)
    rows += on_planted_games()
    out = {**provenance(), "seeds": list(SEEDS), "rows": rows}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "recovery.json").write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
