"""SPEX and ProxySPEX on 3,108 units of a real model on indirect object identification: 4.8 million
pairs, whose truth nobody can measure exhaustively here. They are judged by three other means:

1. their own audit;
2. 20,000 pairs drawn at random and measured exactly: how many of them reach the size of the 100th
   pair that was found?
3. all 11,175 pairs among the 150 units of largest main effect, measured exactly: how many of their
   strongest were found?

    python -m benchmarks.recovery_ioi --data ../shared/data     # some 30 minutes on two cores
"""

from collections.abc import Iterator
from itertools import combinations, product

import numpy as np

import spex_mech as sm
from benchmarks.frame import Options, Row, script
from benchmarks.games import ioi_game, pairs_of, recall, strongest

N_UNITS, N_PROMPTS = 3108, 6


def runs(options: Options) -> Iterator[Row]:
    n_random, n_strong = (500, 20) if options.quick else (20_000, 150)
    game = ioi_game(options.models, N_PROMPTS, N_UNITS)
    n = len(game)
    random = sm.discover(game, method="exhaustive", budget=1 + n + n_random, seed=0)
    strong = np.argsort(-abs(random.main_effects), kind="stable")[:n_strong]
    sets = [[game.labels[a], game.labels[b]] for a, b in combinations(np.sort(strong), 2)]
    among = strongest(sm.measure(game, sets))
    for method, per_unit in options.some(product(("spex", "proxyspex"), (1.0, 1.5))):
        found = sm.discover(game, method=method, budget=int(per_unit * n), seed=0)
        kth = float(np.sort(abs(found.mean))[-100])
        yield {
            "method": method, "evaluations_per_unit": per_unit,
            "evaluations": found.cost["evaluations"], "audit": found.audit,
            "random_pairs_as_strong_as_the_100th": int((abs(random.mean) >= kth).sum()),
            f"found_of_top_100_among_{n_strong}_strong_units": recall(pairs_of(found), among, 100),
        }  # fmt: skip


if __name__ == "__main__":
    script(__doc__, "recovery_ioi", {"runs": runs}, n_units=N_UNITS, n_prompts=N_PROMPTS)
