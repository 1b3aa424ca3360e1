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
d. ``stability``: the bootstrap's Jaccard against that of prompts really drawn anew. 30 units, top
   10.

``robustness.py`` runs them. A coverage comes with its standard error.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
from scipy.stats import norm

import spex_mech as sm
from benchmarks.frame import Options, Row, coverage, mean_and_error, means, repeated
from benchmarks.games import (
    Set,
    all_pairs,
    drawn,
    fresh_games,
    heavy_game,
    planted_game,
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


def sets_of(found: sm.Interactions, where: Any = slice(None)) -> list[Set]:
    return [tuple(units) for units in found.units[where].tolist()]


# -- a. errors -------------------------------------------------------------------------------------


def one_errors(n_prompts: int, kind: str, seed: int) -> Row:
    rng = np.random.default_rng((SEED, seed, n_prompts, KINDS.index(kind)))
    means = 0.3 * rng.standard_normal(435)
    found = search(drawn(means, n_prompts, kind, rng), "exhaustive")
    again = sm.confirm(found, drawn(means, n_prompts, kind, rng), k=10, progress=False)
    at = {s: i for i, s in enumerate(map(tuple, all_pairs(30).tolist()))}
    first, row = found.top(10), {}

    def held(part: sm.Interactions, selected_of: int | None = None) -> float:
        low, high = intervals(part.values, LEVEL, selected_of)
        true = means[[at[units] for units in sets_of(part)]]
        return float(((low <= true) & (true <= high)).mean())

    for name, part in (("all", found), ("selected", first), ("confirmed", again)):
        off = abs(part.mean - means[[at[units] for units in sets_of(part)]])
        row[f"{name}_z"] = float((off <= Z * part.stderr).mean())
        row[f"{name}_t"] = held(part)
    row["selected_counted"] = held(first, selected_of=len(found))
    row["shown"] = abs(first.mean).mean()
    row["true"] = (np.sign(first.mean) * means[[at[units] for units in sets_of(first)]]).mean()
    return row


def errors(options: Options) -> Iterator[Row]:
    plans = [(p, "normal") for p in PROMPTS] + [(p, k) for k in KINDS[1:] for p in (8, 32)]
    for (p, kind), mine in repeated(options, one_errors, plans, 400):
        names = [key for key in mine[0] if key.endswith(("_z", "_t", "_counted"))]
        held = {name: coverage(r[name] for r in mine) for name in names}
        yield {"prompts": p, "noise": kind} | held | means(mine, "shown", "true")


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
    counted = q_values(p_values(found.values), selected_of=len(means))
    row: Row = {}
    for name, part, q in (
        ("found", found, found.q_value), ("counted", found, counted),
        ("confirmed", again, again.q_value),
    ):  # fmt: skip
        called = sets_of(part, q <= FDR)
        row[name] = len({*called} - real) / max(1, len(called))
    return row


def discoveries(options: Options) -> Iterator[Row]:
    plans = [("exhaustive", p, "normal", 20) for p in (4, 8, 16, 32)]
    plans += [("exhaustive", p, k, 20) for k in KINDS[1:] for p in (8, 32)]
    plans += [("exhaustive", p, k, 0) for k in KINDS for p in (8, 32)]
    for how in list(SEARCHES)[1:]:
        plans += [(how, p, "normal", 20) for p in (8, 16, 32)]
        plans += [(how, 16, k, 20) for k in ("skewed", "heavy")]
        plans += [(how, p, "normal", 0) for p in (8, 32)]
    for plan, mine in repeated(options, one_discovery, plans, 200):
        row: Row = dict(zip(("search", "prompts", "noise", "n_real"), plan, strict=True))
        for name in ("found", "counted", "confirmed"):
            told = mean_and_error(run[name] for run in mine)
            row[name] = dict(zip(("rate", "error"), told, strict=True))
        yield row


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
    share = recall(have, top(truth, stated["k"]))
    energy = sum(value**2 for s, value in truth.items() if s not in have)
    rounding = 1e-9 * max(1.0, stated["energy_found"])
    low, high = stated["recall_low"] - 1e-9, stated["recall_high"] + 1e-9
    least, most = stated["energy_low"] - rounding, stated["energy_high"] + rounding
    return {
        "recall_true": share, "recall": float(low <= share <= high), "recall_width": high - low,
        "energy": float(least <= energy <= most),
    }  # fmt: skip


def over_audits(mine: Sequence[Row]) -> Row:
    """How often the intervals of several audits hold the truth, and how wide they are."""
    held = {name: coverage(run[name] for run in mine) for name in ("recall", "energy")}
    return held | {"recall_width": float(np.median([run["recall_width"] for run in mine]))}


def one_audit(tail: str, method: str, seed: int) -> Row:
    game, truth = audit_game(tail, SEED + seed)
    return audited(search(game, method, budget=500, seed=seed, top=TOP), truth)


def audits(options: Options) -> Iterator[Row]:
    for (tail, method), mine in repeated(options, one_audit, product(TAILS, METHODS), 200):
        yield {"tail": tail, "method": method} | over_audits(mine)


def real_audits(options: Options) -> Iterator[Row]:
    """The audit on real models: games of random units out of games whose pairs are all known (an
    interaction at the intact model does not depend on which other units are in the game)."""
    reps, n_sub, n_units = (2, 60, 70) if options.quick else (25, 150, None)
    for name, game in fresh_games(options):
        game = sm.ModelGame(game.model, game.task, game.components[:n_units])
        whole, parts = search(game, "exhaustive").matrix(), []
        for seed in range(reps):
            rng = np.random.default_rng((SEED, seed))
            chosen = np.sort(rng.permutation(len(game))[:n_sub])
            part = sm.ModelGame(game.model, game.task, game.components[chosen.tolist()])
            known = whole[np.ix_(chosen, chosen)]
            parts.append((part, {s: float(known[s]) for s in combinations(range(n_sub), 2)}))
        for method, per_unit in product(METHODS, options.some((3, 1.5))):
            how: Row = {"budget": int(per_unit * n_sub)}
            mine = [
                audited(search(part, method, seed=seed, **how), truth)
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
    one, two = ({*sets_of(result.top(10))} for result in (found, other))
    return {"boot": float(boot.jaccard.mean()), "real": len(one & two) / len(one | two)}


def stabilities(options: Options) -> Iterator[Row]:
    for (p, kind), mine in repeated(options, one_stability, [(p, "normal") for p in PROMPTS], 200):
        yield {"prompts": p, "noise": kind} | means(mine, "boot", "real")


PARTS = {
    "errors": errors,
    "discoveries": discoveries,
    "audit": audits,
    "real_audit": real_audits,
    "stability": stabilities,
}
