"""Circuits: ours against main effects, attribution and conditional ablation.

1. **Recovery of known circuits.** Units are ranked by each method; ours by ``Circuit.importance``
   of the circuit for 0.99. Area under the ROC curve, mean over draws of prompts.

   - The demo model with a planted backup: one head becomes two that do the same, each half as
     strongly ("backup"), each twice as strongly, so that no single ablation tells ("strong
     backup"), or both heads of the circuit doubled so ("two strong backups"). Units: the heads and
     the 24 neurons of largest main effect. Known: the heads of the circuit and their copies.
   - ``induction2L``, zero ablation: the previous-token head and three induction heads that back one
     another up, as the model is described; the other heads of its first layer matter as well.
   - Programs compiled with tracr, zero ablation, on random halves of the tests. Known: ``needed``
     of the file, the units whose ablation alone changes an answer. So main effects on the share of
     right answers ("answers"; without a slope, so that attribution takes the score's) are the
     definition. By the mean score of the right answer ("score") other units count as well: with the
     needed ones alone it is not what it was, which ``score_of_known`` says.

2. **Faithfulness at every size**, on held-out prompts: the demo model on induction, the same with
   the backups, the heads of the 260K story model on text, and those of the 3M story model on
   indirect object identification. CPR and CMD with errors over prompts, and at how many sizes ours
   is ahead or behind by more than two standard errors of the paired difference.

Rankings: main effects; gradient x activation (the gate's gradient at the intact model); integrated
gradients over the gates; CoAx-style conditional ablation (the unit that matters least given what is
gone is ablated next). Signed ones for CPR, by size for CMD and recovery, as in the benchmark.

    python -m benchmarks.circuits --data ../shared/data     # some ten minutes on two cores
    python -m benchmarks.circuits --data ../shared/data --quick
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from benchmarks.frame import Options, Row, script
from benchmarks.games import Together, passages, prompts, singles
from benchmarks.subsets import one_by_one
from spex_mech.circuits.gates import gate_attribution
from tests.backups import demo_with_backup, plant_backup
from tests.compiled import load_plain, tracr_games

N_PROMPTS, SEED, N_NEURONS, N_DRAWS = 32, 0, 24, 3
# Head, its copy, layer, strength of each.
BACKUPS = {
    "demo, backup": [(0, 3, 1, 0.5)],
    "demo, strong backup": [(0, 3, 1, 2.0)],
    "demo, two strong backups": [(0, 3, 1, 2.0), (3, 0, 0, 1.0)],
}
CIRCUIT = {"L0H3", "L1H0"}  # of the demo model on induction
INDUCTION = {"L0H2", "L1H1", "L1H2", "L1H3"}
COMPILED = ("and2", "xor2", "hist", "frac_prevs", "reverse", "sort")
Draw = tuple[Any, Any, set[str]]  # a game, the same with slopes, the known circuit


# -- rankings -------------------------------------------------------------------------------------


def conditional_ablation(game: Any, by_size: bool) -> np.ndarray:
    """A score of each unit, its importance given what is ablated: the last to go has the most."""
    whole, empty = game.mean(np.array([np.ones(len(game), bool), np.zeros(len(game), bool)]))

    def least_missed(values: np.ndarray) -> Any:
        return np.argmin(abs(values - whole) if by_size else -values * np.sign(whole - empty))

    # A unit that is kept in more of the steps goes later.
    return np.sum([kept for kept, _ in one_by_one(game, least_missed)], axis=0) + 1.0


def scores_of(game: Any, sloped: Any, by_size: bool) -> dict[str, np.ndarray]:
    """Each method's score of each unit: higher is more important."""
    slope = sloped.gradient(torch.ones(1, len(game), dtype=torch.bool))[0].double().cpu().numpy()
    scores = {
        "main effects": -singles(game),
        "gradient x activation": slope,
        "integrated gradients": gate_attribution(sloped),
    }
    scores = {name: abs(score) if by_size else score for name, score in scores.items()}
    return scores | {"conditional ablation": conditional_ablation(game, by_size)}


# -- known circuits -------------------------------------------------------------------------------


def mean_of(rows: list[Any]) -> Any:
    """Nested rows with the means of their numbers."""
    if isinstance(rows[0], dict):
        return {key: mean_of([row[key] for row in rows]) for key in rows[0]}
    return float(np.mean(rows))


def recovered(game: Any, sloped: Any, known: set[str]) -> Row:
    """What one draw says."""
    found = sm.discover(game, seed=SEED, progress=False)
    circuit = sm.find_circuit(game, found, faithfulness=0.99, progress=False)
    right = np.isin(game.labels, list(known))
    scores = {"ours": circuit.importance} | scores_of(game, sloped, by_size=True)
    backups = {u for group in circuit.groups if group.kind == "backup" for u in group.units}
    alone, whole, empty = game.mean(np.array([right, right | True, right & False])).tolist()
    return {
        "rankings": {way: {"roc": roc(score, right)} for way, score in scores.items()},
        "circuit_0.99": {"size": len(circuit), "other_backups": len(backups - known)},
        "score_of_known": (alone - empty) / (whole - empty),
        "evaluations": found.cost["evaluations"] + circuit.cost["evaluations"],
    }


def roc(score: np.ndarray, right: np.ndarray) -> float:
    """The chance that a unit of the circuit ranks above one that is not (a tie counts half)."""
    pairs = score[right][:, None] - score[~right]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def demo_with(name: str) -> Any:
    model = sm.load_model("demo")
    for backup in BACKUPS[name]:
        plant_backup(model, *backup)
    return model


def demo_units(model: Any, task: sm.Task) -> sm.Components:
    """The heads and the neurons of largest main effect: the likeliest to be taken for backups."""
    heads, neurons = sm.Components.heads(model), sm.Components.neurons(model)
    strongest = np.argsort(-abs(singles(sm.ModelGame(model, task, neurons))), kind="stable")
    return heads + neurons[sorted(strongest[:N_NEURONS].tolist())]


def planted_draws(name: str) -> Iterator[Draw]:
    model, units = demo_with(name), None
    known = CIRCUIT | {f"L{layer}H{spare}" for _, spare, layer, _ in BACKUPS[name]}
    for draw in range(N_DRAWS):
        task = sm.load_task("induction", model, N_PROMPTS, SEED + draw)
        units = units or demo_units(model, task)
        game = sm.ModelGame(model, task, units)
        yield game, game, known


def induction_draws(data: Path) -> Iterator[Draw]:
    model, config = load_plain(data, "algorithmic/induction2L")
    arch = sm.Architecture(
        heads=tuple(f"layers.{layer}.attn.o" for layer in range(config["n_layers"])),
        neurons=(None,) * config["n_layers"],
        n_heads=config["n_heads"],
    )
    tokens = torch.tensor(
        json.loads((data / "algorithmic" / "induction2L" / "eval.json").read_text())["tokens"]
    )
    for draw in range(N_DRAWS):
        rows = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(draw))
        chosen = tokens[rows[:N_PROMPTS]]
        targets = torch.zeros_like(chosen, dtype=torch.bool)
        targets[:, 35:-1] = True  # as the model was read out: from the second block on
        task = sm.Task(sm.Prompts(chosen, target_mask=targets), "log_prob")
        game = sm.ModelGame(model, task, ablation="zero", architecture=arch)
        yield game, game, INDUCTION


def compiled_draws(data: Path, name: str, answers: bool) -> Iterator[Draw]:
    truth = json.loads((data / "tracr" / name / "ground_truth.json").read_text())
    known = {f"L{layer}{kind.upper()}{index}" for kind, layer, index in truth["needed"]}
    few = {"every_unit": name == "frac_prevs"}  # of this one the compiler used what is needed only
    for draw in range(N_DRAWS):
        games = [
            Together([game for game, _ in tracr_games(data, name, 0.5, draw, a, **few)], not a)
            for a in (answers, False)
        ]
        yield games[0], games[1], known


def of_known_circuits(options: Options) -> Iterator[Row]:
    for name in options.some(BACKUPS):
        yield of_draws(name, "log_prob", planted_draws(name), options)
    yield of_draws("induction2L", "log_prob", induction_draws(options.models), options)
    for name in options.some(COMPILED):
        for metric in ("answers", "score"):
            draws = compiled_draws(options.models, name, metric == "answers")
            yield of_draws(f"tracr {name}", metric, draws, options)


def of_draws(name: str, metric: str, draws: Iterator[Draw], options: Options) -> Row:
    rows = [recovered(*draw) for draw in options.some(draws)]
    return {"model": name, "metric": metric, **mean_of(rows)}


# -- faithfulness ---------------------------------------------------------------------------------


def faithfulness(name: str, game: Any, held_out: Any) -> Row:
    found = sm.discover(game, seed=SEED, progress=False)
    out: Row = {"task": name, "n_units": len(game)}
    out["discover_evaluations"] = found.cost["evaluations"]
    labels, how = np.array(game.labels), {"held_out": held_out, "progress": False}
    for aim, by_size, area in (("match", True, "cmd"), ("recover", False, "cpr")):
        ours = sm.faithfulness_curve(game, found, aim=aim, **how)
        rows = {"ours": {area: getattr(ours, area).value, "stderr": getattr(ours, area).stderr}}
        for rival, score in scores_of(game, game, by_size).items():
            order = labels[np.argsort(-score, kind="stable")].tolist()
            curve = sm.faithfulness_curve(game, found, order=order, sizes=ours.sizes, **how)
            of, (gain, error) = getattr(curve, area), advantage(ours, curve, aim)
            rows[rival] = {
                area: of.value, "stderr": of.stderr,
                "ours_ahead": int((gain > 2 * error + 1e-3).sum()),
                "ours_behind": int((gain < -2 * error - 1e-3).sum()),
            }  # fmt: skip
        out[area] = {"evaluations": ours.cost["evaluations"], "curves": rows}
    return out


def advantage(
    ours: sm.FaithfulnessCurve, theirs: sm.FaithfulnessCurve, aim: str
) -> tuple[np.ndarray, np.ndarray]:
    """How much closer to 1 (or higher) ours is at each size, and the paired standard error."""
    if aim == "recover":
        gain, pull = ours.faithfulness - theirs.faithfulness, ours.influence - theirs.influence
    else:
        off, other = 1 - ours.faithfulness, 1 - theirs.faithfulness
        gain = abs(other) - abs(off)
        pull = np.sign(off)[:, None] * ours.influence - np.sign(other)[:, None] * theirs.influence
    return gain, pull.std(axis=1, ddof=1) / np.sqrt(pull.shape[1])


def of_tasks(options: Options) -> Iterator[Row]:
    for name, model, task, units in options.some(tasks(options), 2):
        first, rest = (sm.ModelGame(model, part, units) for part in task.split(N_PROMPTS))
        yield faithfulness(name, first, rest)


def tasks(options: Options) -> Iterator[tuple[str, Any, sm.Task, Any]]:
    """Name, model, twice as many prompts as a game has, units (None: the heads)."""
    models = {"demo": sm.load_model("demo"), "demo, backup": demo_with_backup(0, 3)}
    for name, model in models.items():
        yield name, model, sm.load_task("induction", model, 2 * N_PROMPTS, SEED), None
    for name in ("demo, strong backup", "demo, two strong backups"):
        model = demo_with(name)
        task = sm.load_task("induction", model, 2 * N_PROMPTS, SEED)
        yield name, model, task, demo_units(model, task.split(N_PROMPTS)[0])
    data = options.models
    model = sm.load_model(data / "stories3m")
    yield "story 3M, IOI", model, prompts(data, model, "ioi", 2 * N_PROMPTS, SEED), None
    model = sm.load_model(data / "stories260k")
    for seed in (SEED, SEED + 1, SEED + 2):  # three draws of passages
        task = passages(data, model, 2 * N_PROMPTS, seed)
        yield f"story 260K, text, draw {seed}", model, task, None


PARTS = {"recovery": of_known_circuits, "faithfulness": of_tasks}

if __name__ == "__main__":
    script(__doc__, "circuits", PARTS, seed=SEED)
