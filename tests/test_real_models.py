"""Real trained models and models whose interactions were computed elsewhere."""

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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


@pytest.mark.parametrize("name", ["and2", "xor2", "sort", "reverse", "hist", "frac_prevs"])
def test_tracr_interactions_equal_those_computed_elsewhere(shared_data: Path, name: str) -> None:
    truth = json.loads((shared_data / "tracr" / name / "ground_truth.json").read_text())
    total, weight = 0.0, 0
    for game, n_scores in tracr_games(shared_data, name):
        found = sm.discover(game, method="exhaustive")
        total = total + n_scores * np.nan_to_num(found.matrix())
        weight += n_scores
    got = total / weight
    want = np.zeros_like(got)
    for a, b, value in truth["pair_interactions"]:
        want[a, b] = want[b, a] = value
    assert len(truth["pair_interactions"]) > {"hist": 7, "frac_prevs": 0}.get(name, 50)
    np.testing.assert_allclose(got, want, atol=1.01e-4)  # smaller ones are left out of the file


def test_induction_model_heads_back_one_another_up(shared_data: Path) -> None:
    """Without the previous-token head there is no induction; its three induction heads are each
    nearly spare, and pairs of them compound."""
    model, config = load_plain(shared_data, "algorithmic/induction2L")
    arch = sm.Architecture(
        heads=tuple(f"layers.{layer}.attn.o" for layer in range(config["n_layers"])),
        neurons=(None,) * config["n_layers"],
        n_heads=config["n_heads"],
    )
    rng = np.random.default_rng(0)
    segment = [rng.choice(config["d_vocab"] - 2, 12, replace=False) + 1 for _ in range(32)]
    tokens = torch.tensor(np.array([[*s, *s] for s in segment]))
    targets = torch.zeros_like(tokens, dtype=torch.bool)
    targets[:, 12:-1] = True
    task = sm.Task(sm.Prompts(tokens, target_mask=targets), "log_prob")
    found = sm.discover(sm.ModelGame(model, task, architecture=arch))
    assert found.labels[int(np.argmin(found.main_effects))] == "L0H2"
    backups = [found.value(*p) for p in (("L1H1", "L1H2"), ("L1H1", "L1H3"), ("L1H2", "L1H3"))]
    assert max(backups) < 0
    series = [found.value("L0H2", head) for head in ("L1H1", "L1H2", "L1H3")]
    assert min(series) > 0


@pytest.mark.slow
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
def test_strongest_pairs_on_real_ioi_hold_on_other_prompts(
    shared_data: Path, ablation: str
) -> None:
    """All 630 pairs of the 36 heads of a real model on indirect object identification."""
    model = sm.load_model(shared_data / "stories3m")
    prompts = str(shared_data / "prompts" / "ioi.json")
    searched, held_out = sm.load_task(prompts, model, n_prompts=48).split(24)
    game = sm.ModelGame(model, searched, ablation=ablation)
    found = sm.discover(game, method="exhaustive")
    assert len(found) == 630 and found.intact > 3
    again = sm.confirm(found, sm.ModelGame(model, held_out, ablation=ablation), k=10)
    labels = np.array(found.labels)
    first = np.array([found.value(*labels[units]) for units in again.units])
    assert (np.sign(first) == np.sign(again.mean)).all()
    assert np.corrcoef(first, again.mean)[0, 1] > 0.9
    # What was selected on some prompts shrinks on others; a few of ten may drop under two errors.
    assert (abs(again.mean) > 2 * again.stderr).sum() >= 8
