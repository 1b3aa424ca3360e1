"""How much each constant of the searches matters: halved and doubled, one at a time.

The games are those of ``tests/pair_games.py`` with seeds of their own, and no constant was fitted
to them. A row says by how much the recall of the true top pairs changes, averaged over games and
seeds, and the standard error of that change over them; what changes nothing anywhere may go.

    python -m benchmarks.sensitivity --quick
    python -m benchmarks.sensitivity
"""

from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np

from benchmarks.frame import Options, Row, mean_and_error, script
from spex_mech.search.adaptive import Adaptive
from spex_mech.search.settings import DEFAULTS, SearchSettings
from spex_mech.search.spex import Spex
from tests.pair_games import drive, pair_game, truth_of

SEEDS = range(900, 906)
# Kind, units, slopes, evaluations, how many of the strongest pairs count.
GAMES = (
    ("dense", 80, "exact", 300, 25),
    ("low rank", 80, "off", 300, 50),
    ("hubs", 80, "off", 260, 50),
    ("sparse", 240, "none", 900, 80),
    ("dense", 150, "none", 1500, 50),
    ("low rank, main effects", 100, "none", 500, 50),
    ("dense", 50, "none", 500, 25),
)
# What steers memory alone, the proxies (which need fits of seconds each), higher orders, or the
# audit has no effect on the recall of pairs here.
LEFT_OUT = (
    "memory_bytes", "block_bytes", "max_candidates", "value_share", "min_values", "max_values",
    "held_share", "min_held", "r2_stderr", "learned_share", "first_share", "unsure_candidates",
    "max_unsure", "refit_factor", "max_examples", "higher_share", "higher_share_exhausted",
    "all_pairs_factor", "weak_share", "shares", "per_share", "per_share_higher",
    "informative_ratio",
)  # fmt: skip


def recalls(options: Options, settings: SearchSettings) -> np.ndarray:
    """The share of the true strongest pairs that one search measured: ``[game seed]``."""
    seeds = list(options.some(SEEDS))
    return np.array([[one_recall(*game, seed, settings) for seed in seeds] for game in GAMES])


def one_recall(
    kind: str, n: int, slopes: str, budget: int, k: int, seed: int, settings: SearchSettings
) -> float:
    game = pair_game(kind, n, seed, slopes)
    source = Spex(gradients=slopes != "none")
    found = drive(Adaptive(source, n, budget=budget, seed=seed, settings=settings), game)
    return truth_of(game, found, k)[0]


def multiplied(name: str, factor: float) -> SearchSettings:
    """The settings with one constant changed: a whole number stays one, a share a share."""
    value = getattr(DEFAULTS, name)
    new = max(1, round(value * factor)) if isinstance(value, int) else value * factor
    return replace(DEFAULTS, **{name: min(new, 0.99) if 0 < value < 1 else new})


def constants(options: Options) -> Iterator[Row]:
    as_is = recalls(options, DEFAULTS)
    yield {"constant": "none", "recall": as_is.mean(axis=1)}
    for name in [field.name for field in fields(DEFAULTS) if field.name not in LEFT_OUT]:
        row: Row = {"constant": name, "value": getattr(DEFAULTS, name)}
        for word, factor in (("halved", 0.5), ("doubled", 2.0)):
            settings = multiplied(name, factor)
            if settings != DEFAULTS:
                change = recalls(options, settings) - as_is
                told = dict(zip(("change", "stderr"), mean_and_error(change.ravel()), strict=True))
                by_game = change.mean(axis=1)
                row[word] = told | {"worst": by_game.min(), "best": by_game.max()}
        yield row


if __name__ == "__main__":
    script(__doc__, "sensitivity", {"constants": constants}, seeds=[*SEEDS], games=GAMES)
