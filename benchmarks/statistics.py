"""Do the statistics hold what they say: simulations with known truth, in numpy alone.

1. ``audit`` (SPEX, 60 and 150 units), ``more_audits`` (SPEX, 1,000; ProxySPEX, 60 and 150): nine
   kinds of games of pairs (``tests/pair_games.py``), slopes exact, off or absent, two or three
   budgets: how often the 90 % interval of the recall and the lower bound of the energy hold, how
   often the audit can tell (a width under one half), and how wide it is.
2. ``discoveries``: eleven kinds of prompts, 4 to 128 of them, nothing real among 435 pairs: in how
   many runs anything is called at q <= 0.05, and whether the result warns.

    python -m benchmarks.statistics --quick
    python -m benchmarks.statistics --only audit
"""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np

from benchmarks.frame import Measure, Options, Row, repeated, script
from spex_mech.proxies.gaussian_process import GaussianProcess
from spex_mech.results.interactions import Interactions
from spex_mech.search.adaptive import Adaptive
from spex_mech.search.proxyspex import ProxySpex
from spex_mech.search.spex import Spex
from tests.pair_games import KINDS, SLOPES, drive, pair_game, truth_of

SEED = 5000
TOP = 20


def one_audit(method: str, kind: str, n: int, slopes: str, budget: int, seed: int) -> Row:
    """One search, and whether what its audit says is so."""
    game, gradients = pair_game(kind, n, SEED + seed, slopes), slopes != "none"
    source = (
        Spex(gradients=gradients) if method == "spex" else ProxySpex(GaussianProcess(), gradients)
    )
    found = drive(Adaptive(source, n, budget=budget, seed=SEED + seed, top=TOP), game)
    audit, (recall, missed) = found.audit, truth_of(game, found, TOP)
    if audit is None:  # nothing was left untested
        assert recall == 1.0
        return {"held": True, "energy_held": True, "tells": True, "width": 0.0, "recall": 1.0}
    return {
        "held": audit["recall_low"] - 1e-9 <= recall <= audit["recall_high"] + 1e-9,
        "energy_held": audit["energy_low"] <= missed + 1e-9,
        "tells": not audit["cannot_tell"],
        "width": audit["recall_high"] - audit["recall_low"],
        "recall": recall,
    }


def audits(*searches: tuple[str, int, tuple[float, ...], int]) -> Measure:
    """Of searches: method, units, evaluations per unit, runs."""

    def measure(options: Options) -> Iterator[Row]:
        for method, n, per_unit, runs in searches:
            budgets = [max(int(each * n), 200) for each in per_unit]
            plans = product([method], KINDS, [n], SLOPES, budgets)
            for plan, many in repeated(options, one_audit, plans, runs):
                about = zip(("method", "kind", "units", "slopes", "budget"), plan, strict=True)
                row = {key: float(np.mean([one[key] for one in many])) for key in many[0]}
                yield dict(about) | row | {"runs": len(many), "seed": SEED}

    return measure


# -- prompts --------------------------------------------------------------------------------------

N_UNITS = 30
PAIRS = N_UNITS * (N_UNITS - 1) // 2


def _clustered(rng: np.random.Generator, n: int) -> np.ndarray:
    shared = np.repeat(rng.standard_normal((PAIRS, -(-n // 4))), 4, axis=1)[:, :n]
    return np.sqrt(0.3) * shared + np.sqrt(0.7) * rng.standard_normal((PAIRS, n))


def _twice(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.tile(rng.standard_normal((PAIRS, max(2, n // 2))), 2)[:, :n]


PROMPTS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.standard_normal((PAIRS, n)),
    "t, 3 degrees": lambda rng, n: rng.standard_t(3, (PAIRS, n)),
    "unequal scales": lambda rng, n: rng.standard_normal((PAIRS, n)) * rng.gamma(1, size=n),
    "shared factor": lambda rng, n: (
        rng.standard_normal((PAIRS, n)) + rng.standard_normal((PAIRS, 1)) * rng.standard_normal(n)
    ),
    "-1, 0, 1": lambda rng, n: rng.choice([-1.0, 0, 1], (PAIRS, n), p=[0.3, 0.4, 0.3]),
    "rarely not 0": lambda rng, n: rng.choice([-1.0, 0, 1], (PAIRS, n), p=[0.05, 0.9, 0.05]),
    "three decimals": lambda rng, n: np.round(0.002 * rng.standard_normal((PAIRS, n)), 3),
    "each twice": _twice,
    "clusters of 4, unknown": _clustered,
    "clusters of 4, known": _clustered,
    "exponential": lambda rng, n: rng.exponential(size=(PAIRS, n)) - 1,
}


def result_of(values: np.ndarray, clusters: bool) -> Interactions:
    """A search's result that has these values ``[pair prompt]``."""
    units = np.stack(np.triu_indices(N_UNITS, 1), axis=1)
    n = values.shape[1]
    about = {"clusters": (np.arange(n) // 4).tolist()} if clusters else {}
    mains, intact = np.zeros((N_UNITS, n)), np.ones(n)
    labels = [str(unit) for unit in range(N_UNITS)]
    return Interactions(labels, units, values.astype(np.float32), mains, intact, about=about)


def one_discovery(name: str, n: int, run: int) -> Row:
    values = PROMPTS[name](np.random.default_rng([SEED, run, n]), n)
    found = result_of(values, name.endswith(", known"))
    warned = bool(found.cautions) if run < 10 else None
    return {"called": bool((found.q_value <= 0.05).any()), "warned": warned}


def discoveries(options: Options) -> Iterator[Row]:
    plans = product(PROMPTS, (4, 8, 16, 32, 128))
    for (name, n), many in repeated(options, one_discovery, plans, 200):
        called, warned = ([run[key] for run in many] for key in ("called", "warned"))
        row: Row = {"prompts": name, "count": n, "called": float(np.mean(called))}
        row |= {"warned": float(np.mean(warned[:10])), "runs": len(many), "seed": SEED}
        yield row


PARTS = {
    "audit": audits(("spex", 60, (4, 8, 16), 200), ("spex", 150, (2, 4, 8), 200)),
    "more_audits": audits(
        ("spex", 1000, (1, 2), 20),
        ("proxyspex", 60, (4, 8, 16), 50),
        ("proxyspex", 150, (2, 4, 8), 20),
    ),
    "discoveries": discoveries,
}

if __name__ == "__main__":
    script(__doc__, "statistics", PARTS)
