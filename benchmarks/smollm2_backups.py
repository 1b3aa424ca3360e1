"""Backups among SmolLM2's heads on indirect object identification: who finds them.

    python -m benchmarks.smollm2_backups     # ten minutes on one core

A backup is a head that is needed more once the three heads of the largest single effects are gone.
The truth is measured on 32 other prompts in eight templates: the loss by a head's ablation grows by
at least a hundredth of the metric, and by two standard errors over templates. Who finds them on the
searched prompts: interactions of SPEX and ``find_backups``, which are given no head; and, given the
three, the growth of the metric's loss and of the slope, and conditional co-ablation (Gong et al.
2026, arXiv 2607.01940), which takes the growth of the Kullback-Leibler divergence that a head's
ablation causes, or its ratio; and single ablations. Writes ``results/smollm2_backups.json``.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from benchmarks.frame import Options, Row, script
from benchmarks.games import values_of
from benchmarks.map_tasks import KINDS, map_task
from spex_mech.search.contract import GRADIENT_COST

N_PRIMARY = 3
LEAST_GROWTH, ERRORS = 0.01, 2.0  # of a backup: share of the metric, standard errors


def heads_game(kind: str) -> sm.ModelGame:
    """SmolLM2's heads on prompts of a kind."""
    model = sm.load_model(sm.models.SMOLLM2)
    return sm.ModelGame(model, map_task("ioi", model, kind), "heads")


def single_effects(game: Any) -> np.ndarray:
    """What each unit's ablation changes: ``[unit prompt]``."""
    alone = np.arange(len(game))[:, None]
    return (game.ablating(alone) - game.ablating(np.full((1, 1), -1))).numpy()


def largest(effects: np.ndarray, count: int) -> list[int]:
    """The units of the largest mean effects."""
    return np.argsort(-abs(effects.mean(1)), kind="stable")[:count].tolist()


def growth(game: sm.ModelGame, primary: list[int]) -> np.ndarray:
    """How much more a head's ablation takes from the metric once the primary heads are gone, as a
    share of the metric: ``[head prompt]``."""
    beside = [[*primary, -1 if head in primary else head] for head in range(len(game))]
    given = game.ablating(np.array(beside))
    loss = (game.ablating(np.array([primary])) - given).numpy()
    return (loss + single_effects(game)) / game.ablating(np.full((1, 1), -1)).mean().item()


def divergence_of(game: sm.ModelGame, gone: Sequence[int]) -> np.ndarray:
    """The Kullback-Leibler divergence at the answer that each head's ablation causes where some
    are gone, the mean over prompts: ``[head]``. By a hook on each layer's output projection."""
    model, prompts, means = game.model, game.prompts, game.references
    width = model.config.hidden_size // model.config.num_attention_heads
    lost: list[int] = []

    def hook(layer: int) -> Any:
        def put_means(module: Any, inputs: tuple[torch.Tensor, ...]) -> Any:
            x = inputs[0].clone()
            for head in (unit % 9 for unit in lost if unit // 9 == layer):
                part = slice(head * width, (head + 1) * width)
                x[..., part] = means[f"model.layers.{layer}.self_attn.o_proj"][..., part]
            return (x,)

        return put_means

    @torch.no_grad()
    def answers(units: Sequence[int]) -> torch.Tensor:
        lost[:] = units
        logits = model(prompts.tokens, attention_mask=prompts.real.long()).logits
        last = prompts.real.sum(1) - 1
        return logits[torch.arange(len(last)), last].double().log_softmax(-1)

    layers = enumerate(model.model.layers)
    hooks = [at.self_attn.o_proj.register_forward_pre_hook(hook(layer)) for layer, at in layers]
    try:
        before = answers(gone)
        each = [answers([*gone, head]) for head in range(len(game))]
    finally:
        for one in hooks:
            one.remove()
    return np.array([float((before.exp() * (before - after)).sum(-1).mean()) for after in each])


def backup_scores(game: sm.ModelGame, primary: list[int]) -> Iterator[tuple[str, int, np.ndarray]]:
    """What each finder says of each head, the more the likelier a backup, and its cost."""
    for budget in (350, 540):
        found = sm.discover(game, budget=budget, seed=0, progress=False)
        score = np.zeros(len(game))
        for (one, other), value in values_of(found).items():
            for head in (one, other):
                score[head] = max(score[head], -value)
        yield f"SPEX, no head given, {budget}", int(found.cost["evaluations"]), score
    for k in (20, len(game)):
        found = sm.find_backups(game, k=k, progress=False)
        yield f"sm.find_backups(game, k={k}), no head given", *measured_growth(game, found)
    alone, given = divergence_of(game, []), divergence_of(game, primary)
    cost = 2 * (1 + len(game))
    yield "growth of the metric's loss, the three given", cost, growth(game, primary).mean(1)
    without = torch.ones(2, len(game), dtype=torch.bool)
    without[1, primary] = False
    intact, broken = game.gradient(without).double().numpy()
    yield "growth of the slope, the three given", 2 * GRADIENT_COST, broken - intact
    yield "conditional co-ablation", cost, given - alone
    yield "conditional co-ablation, ratio", cost, given / (alone + 1e-12)
    yield "single ablation", cost // 2, abs(single_effects(game)).mean(1)


def measured_growth(game: sm.ModelGame, found: sm.Interactions) -> tuple[int, np.ndarray]:
    """What ``find_backups`` cost, and the growth that it measured of each head; what it did not
    measure, less than any other."""
    score = np.full(len(game), -np.inf)
    for (one, other), value in zip(found.names, found.mean, strict=True):
        head = one if one in game.labels else other
        score[game.labels.index(head)] = -value
    score[np.isinf(score)] = score[np.isfinite(score)].min() - 1
    return int(found.cost["evaluations"]), score


def backups(options: Options) -> Iterator[Row]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    options.must_be_full()
    game = heads_game("searched")
    primary = largest(single_effects(game), N_PRIMARY)
    by_template = [growth(heads_game(kind), primary) for kind in KINDS[1:]]
    # Two prompts of each template follow one another, eight of four templates stand in turn.
    grown = np.concatenate([x.reshape(len(x), 2, 4, 2).mean((1, 3)) for x in by_template], axis=1)
    error = grown.std(1, ddof=1) / np.sqrt(grown.shape[1])
    true = (grown.mean(1) >= LEAST_GROWTH) & (grown.mean(1) >= ERRORS * error)
    others = np.setdiff1d(np.arange(len(game)), primary)
    named = [game.labels[head] for head in np.flatnonzero(true) if head not in primary]
    row: Row = {"task": "ioi", "primary": [game.labels[head] for head in primary]}
    yield row | {"backups": named, "heads": len(others)}
    for finder, evaluations, score in backup_scores(game, primary):
        row = {"task": "ioi", "finder": finder, "evaluations": evaluations}
        row["roc"] = float(roc_auc_score(true[others], score[others]))
        yield row | {"precision": float(average_precision_score(true[others], score[others]))}


PARTS = {"backups": backups}

if __name__ == "__main__":
    script(__doc__, "smollm2_backups", PARTS)
