"""Plain modules of the shared folder: programs compiled with tracr, and small trained models."""

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import torch

import spex_mech as sm


def load_plain(folder: Path, name: str) -> tuple[Any, dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("shared_load", folder / "load.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.load(folder / name)


def tracr_games(
    folder: Path,
    name: str,
    share: float = 1.0,
    seed: int = 0,
    answers: bool = False,
    every_unit: bool = False,
) -> list[tuple[sm.ModelGame, int]]:
    """One game a prompt length over the units that the file lists, with its number of scores: the
    mean score of the right answer (of a numerical output, minus the error).

    Args:
        share: of the tests, drawn at random.
        answers: the share of right answers instead; it has no slope.
        every_unit: also those that the compiler left empty.
    """
    model, config = load_plain(folder, f"tracr/{name}")
    truth = json.loads((folder / "tracr" / name / "ground_truth.json").read_text())
    tests = json.loads((folder / "tracr" / name / "tests.json").read_text())
    if truth["pair_interactions_tests"] != "all tests":
        tests = [tests[i] for i in sorted(random.Random(0).sample(range(len(tests)), 400))]
    if share < 1:
        tests = random.Random(seed).sample(tests, round(share * len(tests)))
    ids = {json.dumps(word): i for word, i in config["input_encoding"]}
    classes = {json.dumps(value): i for i, value in enumerate(config["output_values"] or [])}
    arch = sm.Architecture(
        heads=tuple(f"layers.{layer}.attn.o" for layer in range(config["n_layers"])),
        neurons=tuple(
            f"layers.{layer}.mlp.down" if model.layers[layer].mlp else None
            for layer in range(config["n_layers"])
        ),
        n_heads=config["n_heads"],
    )
    units = sm.Components.named(model, [label_of(u) for u in truth["unit_order"]], arch)
    if every_unit:
        units = sm.Components.heads(model, arch) + sm.Components.neurons(model, architecture=arch)
    games = []
    for length in sorted({len(test["input"]) for test in tests}):
        rows = [test for test in tests if len(test["input"]) == length]
        tokens = [[ids[json.dumps(w)] for w in [config["bos"], *r["input"]]] for r in rows]
        if classes:
            right = torch.tensor([[classes[json.dumps(v)] for v in r["output"]] for r in rows])
        else:
            right = torch.tensor([r["output"] for r in rows])

        def score(output: torch.Tensor, prompts: sm.Prompts, right: Any = right) -> torch.Tensor:
            output, right = output[:, 1:], right[prompts.index]
            if not classes:
                off = abs(output[..., 0] - right)
                return ((off < 1e-3).double() if answers else -off).mean(-1)
            if answers:
                return (output.argmax(-1) == right).double().mean(-1)
            return output.gather(-1, right[..., None])[..., 0].mean(-1)

        task = sm.Task(sm.Prompts(tokens), score)
        game = sm.ModelGame(model, task, units, ablation="zero", architecture=arch)
        games.append((game, len(rows) * length))
    return games


def label_of(unit: Any) -> str:
    kind, layer, index = unit
    return f"L{layer}{'H' if kind.startswith('h') else 'N'}{index}"
