"""Circuits: ours against main effects, attribution and conditional ablation.

1. **Faithfulness at every size**, on held-out prompts: the demo model on induction, the same
   with a planted backup pair, the heads of the 260K story model on text, and those of the 3M story
   model on indirect object identification. CPR and CMD with errors over prompts, and at how many
   sizes ours is ahead or behind by more than two standard errors of the paired difference.
2. **Recovery of known circuits**: models compiled with tracr (zero ablation; the known circuit is
   what the compiler's program needs) and the demo model with the backup pair. Precision (= recall)
   of the top |known| units, and the area under the ROC curve. Ours ranks the members of the circuit
   for 0.99 by their minimality, then the rest by size of main effect.

Rankings: main effects; gradient x activation (the gate's gradient at the intact model); integrated
gradients over the gates; CoAx-style conditional ablation (the unit that matters least given what is
gone is ablated next). Signed ones for CPR, by size for CMD, as in the benchmark.

    python benchmarks/circuits.py --data ../shared/data     # some five minutes on one core
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from spex_mech.circuits import gate_attribution

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from truth import provenance  # noqa: E402

from tests.backups import demo_with_backup  # noqa: E402
from tests.test_real_models import tracr_games  # noqa: E402

N_PROMPTS, SEED = 32, 0
KNOWN_DEMO = ("L0H3", "L1H0")


class Together:
    """Games of the same units as one, over the prompts of all."""

    def __init__(self, games: list[sm.ModelGame]) -> None:
        self.games, self.labels = games, games[0].labels

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, masks: Any) -> torch.Tensor:
        return torch.cat([game(masks) for game in self.games], dim=1)

    def gradient(self, masks: Any) -> torch.Tensor:
        share = [len(game.prompts) for game in self.games]
        parts = [n * game.gradient(masks) for n, game in zip(share, self.games, strict=True)]
        return torch.stack(parts).sum(0) / sum(share)


def conditional_ablation(game: Any, by_size: bool) -> list[str]:
    """Units in the order of their importance given what is ablated: the last to go first."""
    kept, order = np.ones(len(game), dtype=bool), []
    ends = torch.tensor([[True], [False]]).expand(2, len(game))
    whole, empty = game(ends).double().mean(1).tolist()
    while kept.any():
        units = np.flatnonzero(kept)
        masks = np.repeat(kept[None], len(units), axis=0)
        masks[np.arange(len(units)), units] = False
        values = game(torch.from_numpy(masks)).double().mean(1).numpy()
        losses = abs(values - whole) if by_size else -values * np.sign(whole - empty)
        gone = int(units[np.argmin(losses)])
        kept[gone] = False
        order.append(game.labels[gone])
    return order[::-1]


def singles(game: Any) -> np.ndarray:
    """The effect of each unit's ablation alone, of all units: a search may leave some out."""
    masks = torch.ones(len(game) + 1, len(game), dtype=torch.bool)
    masks[range(len(game)), range(len(game))] = False
    values = game(masks).double().mean(1).numpy()
    return values[:-1] - values[-1]


def rankings(game: Any, by_size: bool) -> dict[str, list[str]]:
    slope = game.gradient(torch.ones(1, len(game), dtype=torch.bool))[0].double().cpu().numpy()
    scores = {
        "main effects": -singles(game),
        "gradient x activation": slope,
        "integrated gradients": gate_attribution(game),
    }
    names = np.array(game.labels)
    ranked = {
        name: names[np.argsort(-(abs(s) if by_size else s), kind="stable")].tolist()
        for name, s in scores.items()
    }
    ranked["conditional ablation"] = conditional_ablation(game, by_size)
    return ranked


def faithfulness(name: str, game: Any, held_out: Any) -> dict[str, Any]:
    found = sm.discover(game, seed=SEED, progress=False)
    out: dict[str, Any] = {"task": name, "n_units": len(game), "n_prompts": N_PROMPTS}
    out["discover_evaluations"] = found.cost["evaluations"]
    for aim, by_size, area in (("match", True, "cmd"), ("recover", False, "cpr")):
        curves = {"ours": sm.faithfulness_curve(game, found, held_out=held_out, aim=aim,
                                                progress=False)}  # fmt: skip
        for rival, order in rankings(game, by_size).items():
            curves[rival] = sm.faithfulness_curve(game, found, order=order, held_out=held_out)
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
    return out


def advantage(ours: sm.Curve, theirs: sm.Curve, aim: str) -> tuple[np.ndarray, np.ndarray]:
    """How much closer to 1 (or higher) ours is at each size, and the paired standard error."""
    if aim == "recover":
        gain, pull = ours.faithfulness - theirs.faithfulness, ours.pulls - theirs.pulls
    else:
        off, other = 1 - ours.faithfulness, 1 - theirs.faithfulness
        gain = abs(other) - abs(off)
        pull = np.sign(off)[:, None] * ours.pulls - np.sign(other)[:, None] * theirs.pulls
    return gain, pull.std(axis=1, ddof=1) / np.sqrt(pull.shape[1])


def recovery(name: str, game: Any, known: set[str]) -> dict[str, Any]:
    found = sm.discover(game, seed=SEED, progress=False)
    names = np.array(game.labels)
    right = np.isin(names, list(known))
    scores = {}
    for rival, order in rankings(game, by_size=True).items():
        scores[rival] = np.array([-order.index(label) for label in game.labels], dtype=float)
    circuit = sm.find_circuit(game, found, faithfulness=0.99, progress=False)
    rest = abs(singles(game))
    scores["ours"] = rest / (1 + rest.max()) - 1
    for part in circuit.minimality.parts:
        scores["ours"][game.labels.index(part.units[0])] = part.value
    hits = int((circuit.members & right).sum())
    out: dict[str, Any] = {
        "model": name, "n_units": len(game), "n_known": len(known),
        "circuit_0.99": {"size": len(circuit), "precision": hits / len(circuit),
                         "recall": hits / len(known)},
        "rankings": {},
    }  # fmt: skip
    for rival, score in scores.items():
        top = np.argsort(-score, kind="stable")[: len(known)]
        out["rankings"][rival] = {"precision": float(right[top].mean()), "roc": roc(score, right)}
    return out


def roc(score: np.ndarray, right: np.ndarray) -> float:
    """The chance that a unit of the circuit ranks above one that is not (a tie counts half)."""
    pairs = score[right][:, None] - score[~right]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    started = time.time()
    out: dict[str, Any] = {**provenance(), "seed": SEED, "faithfulness": [], "recovery": []}

    def keep() -> None:
        """Written after each part: an interrupted run leaves what it measured."""
        out["seconds"] = round(time.time() - started, 1)
        (HERE / "results").mkdir(exist_ok=True)
        (HERE / "results" / "circuits.json").write_text(json.dumps(out, indent=1) + "\n")

    def halves(model: Any, task: sm.Task) -> tuple[sm.ModelGame, sm.ModelGame]:
        first, rest = task.split(N_PROMPTS)
        return sm.ModelGame(model, first), sm.ModelGame(model, rest)

    for name, model in (("demo", sm.load_model("demo")), ("demo, backup", demo_with_backup(0, 3))):
        games = halves(model, sm.load_task("induction", model, 2 * N_PROMPTS, SEED))
        out["faithfulness"].append(faithfulness(name, *games))
        show_faithfulness(out["faithfulness"][-1])
        if name == "demo, backup":
            out["recovery"].append(recovery(name, games[0], {*KNOWN_DEMO, "L1H3"}))
            show_recovery(out["recovery"][-1])
    for name in ("and2", "xor2", "reverse", "sort"):
        truth = json.loads((data / "tracr" / name / "ground_truth.json").read_text())
        known = {f"L{layer}{kind.upper()}{index}" for kind, layer, index in truth["needed"]}
        game = Together([game for game, _ in tracr_games(data, name)])
        out["recovery"].append(recovery(f"tracr {name}", game, known))
        show_recovery(out["recovery"][-1])
        keep()
    model = sm.load_model(data / "stories260k")
    story = data / "text" / "tinystories_valid_head.txt"
    for seed in (SEED, SEED + 1, SEED + 2):  # three draws of passages
        task = sm.load_task("text", model, 2 * N_PROMPTS, seed, file=story, n_tokens=32)
        name = f"story 260K, text, draw {seed}"
        out["faithfulness"].append(faithfulness(name, *halves(model, task)))
        show_faithfulness(out["faithfulness"][-1])
        keep()
    model = sm.load_model(data / "stories3m")
    task = sm.load_task(str(data / "prompts" / "ioi.json"), model, 2 * N_PROMPTS, SEED)
    out["faithfulness"].append(faithfulness("story 3M, IOI", *halves(model, task)))
    show_faithfulness(out["faithfulness"][-1])
    keep()
    print(f"{out['seconds']} seconds")


def show_faithfulness(result: dict[str, Any]) -> None:
    for area in ("cmd", "cpr"):
        print(f"{result['task']}: {area.upper()}, {result[area]['evaluations']} evaluations")
        for rival, row in result[area]["curves"].items():
            versus = (
                f"  ours ahead at {row['ours_ahead']}, behind at {row['ours_behind']} sizes"
                if "ours_ahead" in row
                else ""
            )
            print(f"  {rival:<22} {row[area]:.4f} +- {row['stderr']:.4f}{versus}", flush=True)


def show_recovery(result: dict[str, Any]) -> None:
    print(f"{result['model']}: {result['n_known']} of {result['n_units']} units known")
    for rival, row in result["rankings"].items():
        print(f"  {rival:<22} precision {row['precision']:.3f}  ROC {row['roc']:.3f}", flush=True)
    print(f"  circuit for 0.99: {result['circuit_0.99']}", flush=True)


if __name__ == "__main__":
    main()
