"""The exhaustive truth of the 260K story model: all pairs of its 40 heads and 860 neurons.

Measures 404,550 pairs and 900 singles exactly (mean ablation, mean next-token log-probability on 8
passages of 32 tokens) and keeps a small file that the other benchmarks read: the top 5,000 pairs,
main effects, moments and quantiles of the rest, the tokens themselves. Takes some half an hour on
one CPU core:

    python -m benchmarks.truth --data ../shared/data
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from benchmarks.common import HERE, provenance

FILE = HERE / "truth" / "stories260k.npz"
KEPT = 5000


def story_game(data: Path, tokens: torch.Tensor | None = None) -> sm.ModelGame:
    """The game whose truth is kept: every head and neuron of the story model."""
    model = sm.load_model(data / "stories260k")
    if tokens is None:
        story = data / "text" / "tinystories_valid_head.txt"
        task = sm.load_task("text", model, n_prompts=8, seed=0, file=story, n_tokens=32)
    else:
        task = sm.Task(sm.Prompts(tokens), "log_prob", "text")
    return sm.ModelGame(model, task, sm.Components.heads(model) + sm.Components.neurons(model))


def fresh_games(data: Path) -> Iterator[tuple[str, sm.ModelGame]]:
    """Games that nothing was tuned on, few enough units for an exhaustive truth: all heads and
    random neurons, on other passages, and another model on another task."""

    def game(model: Any, task: sm.Task, n: int) -> sm.ModelGame:
        heads, neurons = sm.Components.heads(model), sm.Components.neurons(model)
        rows = np.random.default_rng(7).permutation(len(neurons))[: n - len(heads)]
        return sm.ModelGame(model, task, heads + neurons[np.sort(rows).tolist()])

    model = sm.load_model(data / "stories260k")
    story = data / "text" / "tinystories_valid_head.txt"
    task = sm.load_task("text", model, n_prompts=8, seed=7, file=story, n_tokens=32)
    yield "story 260K, other passages, 400 units", game(model, task, 400)
    model = sm.load_model(data / "stories3m")
    task = sm.load_task(str(data / "prompts" / "agreement.json"), model, n_prompts=8, seed=7)
    yield "story 3M, agreement, 300 units", game(model, task, 300)


def load_truth() -> dict[str, np.ndarray]:
    """The kept truth: ``units[pair 2]`` and ``values[pair prompt]`` of the top pairs, strongest
    first; ``main_effects[unit]``; ``labels``; ``tokens[prompt pos]``; ``about`` (JSON)."""
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    game = story_game(parser.parse_args().data)
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
    FILE.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        FILE,
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
