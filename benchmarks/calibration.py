"""Whether the errors that are stated are true, over repetitions on games of known truth.

Games of 20 to 100 units, whose pairs vary over prompts (standard deviation 1) about a known mean;
at least 200 repetitions of each:

a. ``errors``: does value +- z stderr hold the mean 90 % of the time; t instead of z; for all
   pairs, and for the 10 strongest, where they were selected (also with the choice counted) and
   after ``confirm``. 30 units, means of standard deviation 0.3;
b. ``discoveries``: the false discovery rate at q <= 0.1: of what was found; with all pairs
   counted that there were to choose from; of the top 20 after ``confirm``;
c. ``audit``: do the 90 % intervals of recall and energy missed hold the truth (60 units, 500
   evaluations); ``real_audit``: the same on real models, 150 units each;
d. ``stability``: the bootstrap's Jaccard against that of prompts really drawn anew, and of two
   halves of the prompts (which is that of half as many drawn anew). 30 units, top 10;
e. ``circuits``: does faithfulness +- z stderr on held-out prompts hold that over all prompts,
   of 5 of 10 units;
f. ``distill``: the R² stated against that of 2,000 fresh masks, 20 units.

``robustness.py`` runs them. A coverage comes with its standard error and ``off`` where it misses
the nominal by more than two of them.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from scipy.stats import norm, t

import spex_mech as sm
from benchmarks.frame import Options, Part, Row, coverage, mean_and_error, means, repeated
from benchmarks.games import (
    OverPrompts,
    Set,
    all_pairs,
    drawn,
    fresh_games,
    heavy_game,
    planted_game,
    prompt_noise,
    r2,
    recall,
    top,
    truth_of,
    values_of,
)
from spex_mech.results.statistics import intervals, p_values, q_values
from tests.test_spex import Saturating

TOP = 20
METHODS = ("spex", "proxyspex")
LEVEL, Z, FDR = 0.9, float(norm.ppf(0.95)), 0.1
PROMPTS = (8, 16, 32, 64)
KINDS = ("normal", "skewed", "heavy", "shared")
SEED = 1000  # of the first repetition


def search(game: Any, method: str, **options: Any) -> sm.Interactions:
    return sm.discover(game, method, progress=False, **options)


# -- a. errors -------------------------------------------------------------------------------------


def one_errors(n_prompts: int, kind: str, seed: int) -> Row:
    rng = np.random.default_rng((SEED, seed, n_prompts, KINDS.index(kind)))
    means = 0.3 * rng.standard_normal(435)
    found = search(drawn(means, n_prompts, kind, rng), "exhaustive")
    again = sm.confirm(found, drawn(means, n_prompts, kind, rng), k=10, progress=False)
    at = {s: i for i, s in enumerate(map(tuple, all_pairs(30).tolist()))}
    row: Row = {"prompts": n_prompts, "kind": kind}
    first = found.top(10)

    def true_of(part: sm.Interactions) -> np.ndarray:
        return means[[at[tuple(units)] for units in part.units.tolist()]]

    def held(part: sm.Interactions, selected_of: int | None = None) -> float:
        low, high = intervals(part.values, LEVEL, selected_of)
        return float(((low <= true_of(part)) & (true_of(part) <= high)).mean())

    for name, part in (("all", found), ("selected", first), ("confirmed", again)):
        off = abs(part.mean - true_of(part))
        row[f"{name}_z"] = float((off <= Z * part.stderr).mean())
        row[f"{name}_t"] = held(part)
    row["selected_counted"] = held(first, selected_of=len(found))
    signs = dict(zip(first.names, np.sign(first.mean), strict=True))
    later = [signs[names] * value for names, value in zip(again.names, again.mean, strict=True)]
    row["shown"] = abs(first.mean).mean()
    row["true"] = (np.sign(first.mean) * true_of(first)).mean()
    return row | {"shown_again": float(np.mean(later))}


def errors(options: Options) -> Iterator[Row]:
    reps = 10 if options.quick else 400
    plans = [(p, "normal") for p in PROMPTS] + [(p, k) for k in KINDS[1:] for p in (8, 32)]
    plans = plans[:2] if options.quick else plans
    for (p, kind), mine in repeated(one_errors, plans, reps, options.quick):
        names = [key for key in mine[0] if key.endswith(("_z", "_t", "_counted"))]
        held = {name: coverage(r[name] for r in mine) for name in names}
        about = {"prompts": p, "noise": kind, "repetitions": reps}
        yield about | held | means(mine, "shown", "true", "shown_again")


# -- b. discoveries --------------------------------------------------------------------------------

SEARCHES: dict[str, Row] = {
    "exhaustive": {"n": 30, "method": "exhaustive"},
    "spex, gradients": {"n": 60, "method": "spex", "budget": 500},
    "spex, no gradients": {"n": 60, "method": "spex", "budget": 500, "gradients": False},
}


def one_discovery(how: str, n_prompts: int, kind: str, n_real: int, seed: int) -> Row:
    plan = dict(SEARCHES[how])
    n, method = plan.pop("n"), plan.pop("method")
    rng = np.random.default_rng((SEED, seed, n_prompts, KINDS.index(kind), n_real, n))
    means = np.zeros(n * (n - 1) // 2)
    means[rng.permutation(len(means))[:n_real]] = rng.choice([-1.0, 1.0], n_real)
    slopes = how == "spex, gradients"
    found = search(drawn(means, n_prompts, kind, rng, slopes), method, seed=seed, **plan)
    again = sm.confirm(found, drawn(means, n_prompts, kind, rng), k=20, progress=False)
    real = {tuple(s) for s, mean in zip(all_pairs(n).tolist(), means, strict=True) if mean}
    row: Row = {}
    counted = q_values(p_values(found.values), selected_of=len(means))
    for name, part, q in (
        ("found", found, found.q_value), ("counted", found, counted),
        ("confirmed", again, again.q_value),
    ):  # fmt: skip
        called = [tuple(s) for s in part.units[q <= FDR].tolist()]
        hits = len(real & set(called))
        row[f"{name}_false"] = (len(called) - hits) / max(1, len(called))
        row[f"{name}_power"] = hits / n_real if n_real else float("nan")
        row[f"{name}_called"] = len(called)
    return row


def discoveries(options: Options) -> Iterator[Row]:
    reps = 10 if options.quick else 200
    plans = [("exhaustive", p, "normal", 20) for p in (4, 8, 16, 32)]
    plans += [("exhaustive", p, k, 20) for k in KINDS[1:] for p in (8, 32)]
    plans += [("exhaustive", p, k, 0) for k in KINDS for p in (8, 32)]
    for how in list(SEARCHES)[1:]:
        plans += [(how, p, "normal", 20) for p in (8, 16, 32)]
        plans += [(how, 16, k, 20) for k in ("skewed", "heavy")]
        plans += [(how, p, "normal", 0) for p in (8, 32)]
    plans = [plans[1], plans[-1]] if options.quick else plans
    for plan, mine in repeated(one_discovery, plans, reps, options.quick):
        row: Row = dict(zip(("search", "prompts", "noise", "n_real"), plan, strict=True))
        for name in ("found", "counted", "confirmed"):
            rate, error = mean_and_error(r[f"{name}_false"] for r in mine)
            power = mean_and_error(r[f"{name}_power"] for r in mine)[0]
            off = "above" if rate > FDR + 2 * error else ""
            called = float(np.mean([r[f"{name}_called"] for r in mine]))
            row[name] = {"rate": rate, "error": error, "off": off, "power": power, "called": called}
        yield row | {"repetitions": reps}


# -- c. the audit ----------------------------------------------------------------------------------

TAILS = ("none", "normal", "heavy", "saturating, gradients")


def audit_game(tail: str, seed: int) -> tuple[Any, dict[Set, float]]:
    if tail.startswith("saturating"):
        game = Saturating(60, seed)
        return game, values_of(search(game, "exhaustive"))
    if tail == "heavy":
        game = heavy_game(60, seed)
    else:
        game = planted_game(60, TOP, seed, ratio=None if tail == "none" else 5)
    return game, truth_of(game)


def audited(found: sm.Interactions, truth: dict[Set, float]) -> Row:
    """What the audit should have said, and whether its intervals hold it."""
    stated, have = found.audit, values_of(found)
    assert stated is not None
    untested = np.array([abs(v) for s, v in truth.items() if s not in have])
    share = recall(have, top(truth, stated["k"]))
    energy = float((untested**2).sum())
    rounding = 1e-9 * max(1.0, stated["energy_found"])
    low, high = stated["recall_low"] - 1e-9, stated["recall_high"] + 1e-9
    least, most = stated["energy_low"] - rounding, stated["energy_high"] + rounding
    return {
        "recall_true": share, "recall_stated": stated["recall"],
        "recall_held": float(low <= share <= high), "recall_width": high - low,
        "energy_true": energy, "energy_stated": stated["energy_missed"],
        "energy_held": float(least <= energy <= most),
        "energy_width": stated["energy_high"] / max(stated["energy_low"], 1e-300),
    }  # fmt: skip


def over_audits(mine: Sequence[Row]) -> Row:
    """How often the intervals of several audits hold the truth, how wide they are, and means."""
    missed = [r for r in mine if r["recall_true"] < 1]
    row: Row = {"repetitions": len(mine)}
    for name in ("recall", "energy"):
        row[name] = coverage(r[f"{name}_held"] for r in mine)
        row[f"{name}_where_missed"] = coverage(r[f"{name}_held"] for r in missed)
        row[f"{name}_width"] = float(np.median([r[f"{name}_width"] for r in mine]))
        row[f"{name}_true"] = float(np.mean([r[f"{name}_true"] for r in mine]))
        row[f"{name}_stated"] = float(np.mean([r[f"{name}_stated"] for r in mine]))
    return row


def one_audit(tail: str, method: str, seed: int) -> Row:
    game, truth = audit_game(tail, SEED + seed)
    return audited(search(game, method, budget=500, seed=seed, top=TOP), truth)


def audits(options: Options) -> Iterator[Row]:
    reps = 5 if options.quick else 200
    plans = [*product(TAILS, METHODS)]
    plans = plans[2:3] if options.quick else plans
    for (tail, method), mine in repeated(one_audit, plans, reps, options.quick):
        yield {"tail": tail, "method": method} | over_audits(mine)


def real_audits(options: Options) -> Iterator[Row]:
    """The audit on real models: games of random units out of games whose pairs are all known (an
    interaction at the intact model does not depend on which other units are in the game)."""
    reps, n_sub = (2, 60) if options.quick else (25, 150)
    for name, game in fresh_games(options.models):
        if options.quick:
            if "3M" not in name:
                continue
            game = sm.ModelGame(game.model, game.task, game.components[:70])
        whole, parts = sm.discover(game, "exhaustive", progress=False).matrix(), []
        for seed in range(reps):
            rng = np.random.default_rng((SEED, seed))
            chosen = np.sort(rng.permutation(len(game))[:n_sub])
            part = sm.ModelGame(game.model, game.task, game.components[chosen.tolist()])
            known = whole[np.ix_(chosen, chosen)]
            parts.append((part, {s: float(known[s]) for s in combinations(range(n_sub), 2)}))
        for method, per_unit in product(METHODS, (3,) if options.quick else (1.5, 3)):
            budget = int(per_unit * n_sub)
            mine = [
                audited(search(part, method, budget=budget, seed=seed), truth)
                for seed, (part, truth) in enumerate(parts)
            ]
            about = {"game": name, "method": method, "evaluations_per_unit": per_unit}
            yield about | over_audits(mine)


# -- d. stability ----------------------------------------------------------------------------------


def one_stability(n_prompts: int, kind: str, seed: int) -> Row:
    rng = np.random.default_rng((SEED, seed, n_prompts, KINDS.index(kind), 7))
    means = 0.3 * rng.standard_normal(435)
    found, other = (search(drawn(means, n_prompts, kind, rng), "exhaustive") for _ in "ab")
    boot = sm.stability(found, k=10, n_boot=100, seed=seed)
    tops = [{tuple(s) for s in f.top(10).units.tolist()} for f in (found, other)]
    real = len(tops[0] & tops[1]) / len(tops[0] | tops[1])
    low, high = np.quantile(boot.jaccard, [0.05, 0.95])
    halves = []
    for _ in range(50):
        order = rng.permutation(n_prompts)
        one, two = (
            set(np.argsort(-abs(found.values[:, part].mean(1)))[:10].tolist())
            for part in np.array_split(order, 2)
        )
        halves.append(len(one & two) / len(one | two))
    kept = np.array([tuple(s) in tops[1] for s in boot.top.units.tolist()])
    sure = boot.kept >= 0.9
    return {
        "boot": float(boot.jaccard.mean()), "halves": float(np.mean(halves)), "real": real,
        "held": float(low <= real <= high),
        "n_sure": int(sure.sum()), "sure_kept": int(kept[sure].sum()),
        "sure_said": float(boot.kept[sure].sum()),
        "kept_said": float(boot.kept.mean()), "kept_real": float(kept.mean()),
    }  # fmt: skip


def stabilities(options: Options) -> Iterator[Row]:
    reps = 10 if options.quick else 200
    plans = [(p, "normal") for p in PROMPTS] + [(16, kind) for kind in KINDS[1:]]
    plans = plans[1:2] if options.quick else plans
    for (p, kind), mine in repeated(one_stability, plans, reps, options.quick):
        row: Row = {"prompts": p, "noise": kind, "repetitions": reps}
        row |= means(mine, "boot", "halves", "real", "kept_said", "kept_real")
        sure, said, came_true = (
            sum(r[key] for r in mine) for key in ("n_sure", "sure_said", "sure_kept")
        )
        shares = {"sure_said": said / sure, "sure_real": came_true / sure} if sure else {}
        yield row | {"held": coverage(r["held"] for r in mine), "n_sure": sure} | shares


# -- e. circuits, f. distill -----------------------------------------------------------------------


def one_circuit(n_prompts: int, kind: str, seed: int) -> Row:
    """Ten units, each of which helps; the population's faithfulness is that of the mean game."""
    rng = np.random.default_rng((SEED, seed, n_prompts, KINDS.index(kind), 11))
    n = 10
    means = np.concatenate([-np.exp(rng.standard_normal(n)), 0.2 * rng.standard_normal(45)])

    def prompts(count: int) -> OverPrompts:
        noise = 0.5 * prompt_noise(kind, (n + 45, count), rng)
        noise[n:] *= 0.4
        return OverPrompts(*np.split(means[:, None] + noise, [n]))

    game, held_out = prompts(n_prompts), prompts(n_prompts)
    found = search(game, "exhaustive")
    circuit = sm.find_circuit(game, found, size=5, held_out=held_out, progress=False, seed=seed)
    ends = np.stack([circuit.members, np.ones(n, bool), np.zeros(n, bool)])
    inside, whole, empty = OverPrompts(*np.split(means[:, None], [n]))(torch.from_numpy(ends))[:, 0]
    true, score = float((inside - empty) / (whole - empty)), circuit.faithfulness
    wide = float(t.ppf(1 - (1 - LEVEL) / 2, n_prompts - 1))
    off = abs(score.value - true)
    return {
        "z": float(off <= Z * score.stderr), "t": float(off <= wide * score.stderr),
        "optimism": circuit.about["selection_faithfulness"] - true, "bias": score.value - true,
        "stderr": score.stderr,
    }  # fmt: skip


def circuit_errors(options: Options) -> Iterator[Row]:
    reps = 4 if options.quick else 200
    plans = [(p, "normal") for p in (8, 16, 32)] + [(16, "skewed"), (16, "heavy")]
    plans = plans[1:2] if options.quick else plans
    for (p, kind), mine in repeated(one_circuit, plans, reps, options.quick):
        row: Row = {"prompts": p, "noise": kind, "repetitions": reps}
        row |= {which: coverage(r[which] for r in mine) for which in ("z", "t")}
        yield row | means(mine, "optimism", "bias", "stderr")


def one_distillation(budget: int, noise: float, seed: int) -> Row:
    game = planted_game(20, 10, SEED + seed, ratio=5, noise=noise)
    small = sm.distill(game, budget, seed=seed, progress=False)
    fresh = np.random.default_rng((SEED, seed)).random((2000, 20)) < 0.5
    real = r2(game(torch.from_numpy(fresh))[:, 0].numpy(), small.predict(fresh))
    stated = small.r2 if small.r2 is not None else float("nan")
    return {"stated": stated, "real": real, "bias": stated - real}


def distillations(options: Options) -> Iterator[Row]:
    reps = 3 if options.quick else 200
    plans = [(100, 0.0), (200, 1.0)][: 1 if options.quick else 2]
    for (budget, noise), mine in repeated(one_distillation, plans, reps, options.quick):
        row: Row = {"budget": budget, "noise": noise, "repetitions": reps}
        row |= means(mine, "stated", "real", "bias")
        off = [r["bias"] for r in mine]
        row["median_bias"], row["spread"] = float(np.median(off)), float(np.std(off))
        row["quantiles"] = np.quantile(off, [0.05, 0.95]).tolist()
        yield row | {"off": "" if abs(row["bias"]) <= 2 * row["bias_error"] else "biased"}


PARTS: dict[str, Part] = {
    "errors": (errors, False),
    "discoveries": (discoveries, False),
    "audit": (audits, False),
    "real_audit": (real_audits, True),
    "stability": (stabilities, False),
    "circuits": (circuit_errors, False),
    "distill": (distillations, False),
}
