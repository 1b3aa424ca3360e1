"""Circuits: ours against main effects, attribution and conditional ablation.

1. **Recovery of known circuits.** Units are ranked by each method; ours by ``Circuit.importance``
   of the circuit for 0.99. Area under the ROC curve; precision (= recall) of the top |known| units;
   and precision and recall of as many top units as our circuit has with the backups that it names.
   Means over draws of prompts, with the standard error over draws, also of ours minus each.

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
from benchmarks.frame import Options, Row, mean_and_error, script
from benchmarks.games import Together, passages, prompts, singles
from benchmarks.subsets import without_one_more
from spex_mech.circuits.gates import gate_attribution
from tests.backups import demo_with_backup, plant_backup
from tests.compiled import load_plain, tracr_games

N_PROMPTS, SEED, N_NEURONS = 32, 0, 24
COMPILED = ("and2", "xor2", "hist", "frac_prevs", "reverse", "sort")
# Head, its copy, layer, strength of each.
BACKUPS = {
    "demo, backup": [(0, 3, 1, 0.5)],
    "demo, strong backup": [(0, 3, 1, 2.0)],
    "demo, two strong backups": [(0, 3, 1, 2.0), (3, 0, 0, 1.0)],
}
CIRCUIT = {"L0H3", "L1H0"}  # of the demo model on induction
Draw = tuple[Any, Any, set[str]]  # a game, the same with slopes, the known circuit
INDUCTION = {"L0H2", "L1H1", "L1H2", "L1H3"}


# -- rankings -------------------------------------------------------------------------------------


def conditional_ablation(game: Any, by_size: bool) -> np.ndarray:
    """A score of each unit, its importance given what is ablated: the last to go has the most."""
    kept, place = np.ones(len(game), dtype=bool), np.zeros(len(game))
    whole, empty = game.mean(np.array([kept, ~kept]))
    while kept.any():
        units = np.flatnonzero(kept)
        values = game.mean(without_one_more(kept))
        losses = abs(values - whole) if by_size else -values * np.sign(whole - empty)
        gone = units[np.argmin(losses)]
        kept[gone], place[gone] = False, len(game) - kept.sum()
    return place


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


def recovery(name: str, draws: Iterator[Draw], **about: Any) -> Row:
    """Of draws (game, the same with slopes, known circuit): means and errors over draws."""
    rows: list[Row] = []
    out: Row = {"model": name}
    for game, sloped, known in draws:
        rows.append(recovered(game, sloped, known))
        out |= {"n_units": len(game), "n_known": len(known), **about}
    out |= {"n_draws": len(rows), "rankings": {}}
    out["circuit_0.99"] = {
        key: np.mean([row["circuit"][key] for row in rows]) for key in rows[0]["circuit"]
    }
    for key in ("score_of_known", "evaluations"):
        out[key] = np.mean([row[key] for row in rows])
    for rival in rows[0]["rankings"]:
        of = out["rankings"][rival] = {}
        for key in MEASURES:
            told = mean_and_error(row["rankings"][rival][key] for row in rows)
            of[key], of[f"{key}_stderr"] = told
        ahead = (row["rankings"]["ours"]["roc"] - row["rankings"][rival]["roc"] for row in rows)
        of["ours_ahead"], of["ahead_stderr"] = mean_and_error(ahead)
    return out


MEASURES = ("precision", "roc", "precision_at_ours", "recall_at_ours")


def recovered(game: Any, sloped: Any, known: set[str]) -> Row:
    found = sm.discover(game, seed=SEED, progress=False)
    circuit = sm.find_circuit(game, found, faithfulness=0.99, progress=False)
    names = np.array(game.labels)
    right = np.isin(names, list(known))
    backups = {u for group in circuit.groups if group.kind == "backup" for u in group.units}
    named = circuit.members | np.isin(names, list(backups))
    scores = {"ours": circuit.importance} | scores_of(game, sloped, by_size=True)
    out: Row = {"rankings": {}}
    for rival, score in scores.items():
        order = np.argsort(-score, kind="stable")
        top = right[order]
        chosen = named if rival == "ours" else np.isin(range(len(names)), order[: named.sum()])
        hits = float((chosen & right).sum())
        out["rankings"][rival] = {
            "precision": float(top[: len(known)].mean()),
            "roc": roc(score, right),
            "precision_at_ours": hits / named.sum(),
            "recall_at_ours": hits / len(known),
        }
    hits = float((circuit.members & right).sum())
    out["evaluations"] = found.cost["evaluations"] + circuit.cost["evaluations"]
    out["circuit"] = {
        "size": len(circuit), "precision": hits / len(circuit), "recall": hits / len(known),
        "with_backups": int(named.sum()),
        "known_backups": len(backups & known), "other_backups": len(backups - known),
    }  # fmt: skip
    alone, whole, empty = game.mean(np.array([right, right | True, right & False])).tolist()
    out["score_of_known"] = (alone - empty) / (whole - empty)
    return out


def roc(score: np.ndarray, right: np.ndarray) -> float:
    """The chance that a unit of the circuit ranks above one that is not (a tie counts half)."""
    pairs = score[right][:, None] - score[~right]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def demo_with(pairs: list[tuple[int, int, int, float]]) -> Any:
    model = sm.load_model("demo")
    for head, spare, layer, strength in pairs:
        plant_backup(model, head, spare, layer, strength)
    return model


def demo_units(model: Any, task: sm.Task) -> sm.Components:
    """The heads and the neurons of largest main effect: the likeliest to be taken for backups."""
    heads, neurons = sm.Components.heads(model), sm.Components.neurons(model)
    strongest = np.argsort(-abs(singles(sm.ModelGame(model, task, neurons))), kind="stable")
    return heads + neurons[sorted(strongest[:N_NEURONS].tolist())]


def planted_draws(pairs: list[tuple[int, int, int, float]], n_draws: int) -> Iterator[Draw]:
    model = demo_with(pairs)
    known = CIRCUIT | {f"L{layer}H{spare}" for _, spare, layer, _ in pairs}
    units = None
    for draw in range(n_draws):
        task = sm.load_task("induction", model, N_PROMPTS, SEED + draw)
        units = units or demo_units(model, task)
        game = sm.ModelGame(model, task, units)
        yield game, game, known


def induction_draws(data: Path, n_draws: int) -> Iterator[Draw]:
    model, config = load_plain(data, "algorithmic/induction2L")
    arch = sm.Architecture(
        heads=tuple(f"layers.{layer}.attn.o" for layer in range(config["n_layers"])),
        neurons=(None,) * config["n_layers"],
        n_heads=config["n_heads"],
    )
    tokens = torch.tensor(
        json.loads((data / "algorithmic" / "induction2L" / "eval.json").read_text())["tokens"]
    )
    for draw in range(n_draws):
        rows = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(draw))
        chosen = tokens[rows[:N_PROMPTS]]
        targets = torch.zeros_like(chosen, dtype=torch.bool)
        targets[:, 35:-1] = True  # as the model was read out: from the second block on
        task = sm.Task(sm.Prompts(chosen, target_mask=targets), "log_prob")
        game = sm.ModelGame(model, task, ablation="zero", architecture=arch)
        yield game, game, INDUCTION


def compiled_draws(data: Path, name: str, answers: bool, n_draws: int) -> Iterator[Draw]:
    truth = json.loads((data / "tracr" / name / "ground_truth.json").read_text())
    known = {f"L{layer}{kind.upper()}{index}" for kind, layer, index in truth["needed"]}
    few = {"every_unit": name == "frac_prevs"}  # of this one the compiler used what is needed only
    for draw in range(n_draws):
        games = [
            Together([game for game, _ in tracr_games(data, name, 0.5, draw, a, **few)], not a)
            for a in (answers, False)
        ]
        yield games[0], games[1], known


# -- faithfulness ---------------------------------------------------------------------------------


def faithfulness(name: str, game: Any, held_out: Any) -> Row:
    found = sm.discover(game, seed=SEED, progress=False)
    out: Row = {"task": name, "n_units": len(game), "n_prompts": N_PROMPTS}
    out["discover_evaluations"] = found.cost["evaluations"]
    labels = np.array(game.labels)
    for aim, by_size, area in (("match", True, "cmd"), ("recover", False, "cpr")):
        curves = {"ours": sm.faithfulness_curve(game, found, held_out=held_out, aim=aim,
                                                progress=False)}  # fmt: skip
        for rival, score in scores_of(game, game, by_size).items():
            order = labels[np.argsort(-score, kind="stable")].tolist()
            curves[rival] = sm.faithfulness_curve(
                game, found, order=order, sizes=curves["ours"].sizes, held_out=held_out
            )
        ours = curves["ours"]
        rows = {}
        for rival, curve in curves.items():
            score = getattr(curve, area)
            rows[rival] = {area: score.value, "stderr": score.stderr,
                           "faithfulness": curve.faithfulness.round(4).tolist(),
                           "errors": curve.stderr.round(4).tolist()}  # fmt: skip
            if rival != "ours":
                gain, error = advantage(ours, curve, aim)
                rows[rival] |= {"ours_ahead": int((gain > 2 * error + 1e-3).sum()),
                                "ours_behind": int((gain < -2 * error - 1e-3).sum())}  # fmt: skip
        out[area] = {"evaluations": ours.cost["evaluations"], "curves": rows}
        out["sizes"] = ours.sizes.tolist()
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


def tasks(options: Options) -> Iterator[tuple[str, Any, sm.Task, Any]]:
    """Name, model, twice as many prompts as a game has, units (None: the heads)."""
    for name in () if options.quick else ("demo, strong backup", "demo, two strong backups"):
        model = demo_with(BACKUPS[name])
        task = sm.load_task("induction", model, 2 * N_PROMPTS, SEED)
        yield name, model, task, demo_units(model, task.split(N_PROMPTS)[0])
    models = {"demo": sm.load_model("demo"), "demo, backup": demo_with_backup(0, 3)}
    for name, model in models.items():
        yield name, model, sm.load_task("induction", model, 2 * N_PROMPTS, SEED), None
    if options.quick or options.data is None:
        return
    data = options.data
    model = sm.load_model(data / "stories3m")
    yield "story 3M, IOI", model, prompts(data, model, "ioi", 2 * N_PROMPTS, SEED), None
    model = sm.load_model(data / "stories260k")
    for seed in (SEED, SEED + 1, SEED + 2):  # three draws of passages
        task = passages(data, model, 2 * N_PROMPTS, seed)
        yield f"story 260K, text, draw {seed}", model, task, None


# -- running --------------------------------------------------------------------------------------


def known_circuits(options: Options) -> dict[tuple[str, str], Any]:
    """Model and metric -> its draws."""
    n_draws = 2 if options.quick else 3
    chosen = ["demo, strong backup"] if options.quick else [*BACKUPS]
    out: dict[tuple[str, str], Any] = {
        (name, "log_prob"): planted_draws(BACKUPS[name], 1 if options.quick else 3)
        for name in chosen
    }
    if options.data is None:
        print("without --data: no compiled, algorithmic and story models")
        return out
    out["induction2L", "log_prob"] = induction_draws(options.data, n_draws)
    for name in ("and2", "hist", "frac_prevs") if options.quick else COMPILED:
        for metric in ("answers", "score"):
            draws = compiled_draws(options.data, name, metric == "answers", n_draws)
            out[f"tracr {name}", metric] = draws
    return out


def of_known_circuits(options: Options) -> Iterator[Row]:
    for (name, metric), draws in known_circuits(options).items():
        yield recovery(name, draws, metric=metric)


def of_tasks(options: Options) -> Iterator[Row]:
    for name, model, task, units in tasks(options):
        first, rest = (sm.ModelGame(model, part, units) for part in task.split(N_PROMPTS))
        yield faithfulness(name, first, rest)


PARTS = {"recovery": of_known_circuits, "faithfulness": of_tasks}

if __name__ == "__main__":
    script(__doc__, "circuits", PARTS, seed=SEED)
