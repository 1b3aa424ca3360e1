"""The exhaustive truth of the 260K story model: all pairs of its 40 heads and 860 neurons.

Measures 404,550 pairs and 900 singles exactly (mean ablation, mean next-token log-probability on 8
passages of 32 tokens) and keeps a small file that the other benchmarks read: the top 5,000 pairs,
main effects, moments and quantiles of the rest, the tokens themselves. Takes some half an hour on
one CPU core:

    python -m benchmarks.truth --data ../shared/data
"""

import json

import numpy as np

import spex_mech as sm
from benchmarks.frame import options_of, provenance
from benchmarks.games import TRUTH, passages, story_game

KEPT = 5000


def main() -> None:
    data = options_of(__doc__).models
    game = story_game(data, passages(data, sm.load_model(data / "stories260k"), 8, 0))
    found = sm.discover(game, method="exhaustive")
    top = found.top(KEPT)
    rest = np.sort(abs(found.mean))[: len(found) - KEPT]
    quantiles = [0.5, 0.9, 0.99, 0.999, 1.0]
    about = {
        **provenance(),
        "cost": found.cost,
        "noise_floor": found.noise_floor,
        "n_pairs": len(found),
        "energy": float((found.mean**2).sum()),
        "energy_of_top": float((top.mean**2).sum()),
        "rest_root_mean_square": float(np.sqrt((rest**2).mean())),
        "rest_quantiles": {str(q): float(np.quantile(rest, q)) for q in quantiles},
        "game": found.about,
    }
    TRUTH.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        TRUTH,
        units=top.units.astype(np.int32),
        values=top.values,
        main_effects=found.main_effects,
        labels=np.array(found.labels),
        tokens=game.prompts.tokens.numpy(),
        about=np.array(json.dumps(about)),
    )
    print(found)
    print(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
