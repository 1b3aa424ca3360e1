"""Whether held-out prompts are held out, and whether the two games measure the same thing."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from spex_mech.circuits.span import Span
from spex_mech.notices import warn
from spex_mech.results.cautions import other_game, shared_clusters
from spex_mech.tasks.named import TASKS

_NEAR = 1e-5  # of the spread over prompts: values of one prompt in two runs of the model


def measured_on(
    game: Any,
    held_out: Any,
    described: tuple[Mapping[str, Any], Mapping[str, Any]],
    values: tuple[np.ndarray, np.ndarray] | None,
) -> str:
    """What the scores are measured on, in words.

    Args:
        described: what the game of the selection and the held-out one say of themselves.
        values: ``[mask prompt]`` of the same masks, on the prompts of each; None where only one
            was run.

    Warns:
        UserWarning: the held-out game is that of the selection, or has prompts or clusters of it,
            or another metric, ablation or model.
    """
    ours, theirs = described
    differs = other_game(ours, theirs)
    tasks = ours.get("task"), theirs.get("task")
    # Of prompts of one's own a name says nothing: others often come from a file of another name.
    if tasks[0] != tasks[1] and {*tasks} <= {*TASKS}:
        differs.append(f"task {tasks[0]!r} and {tasks[1]!r}")
    if differs:
        warn(
            f"the held-out game differs from that of the selection in {', '.join(differs)}: its "
            "scores are not those of the selection on other prompts"
        )
    share = 1.0 if held_out is game else shared_prompts(game, held_out, described, values)
    if not share:
        n_shared, n_clusters = shared_clusters(ours, theirs)
        if n_shared:
            warn(
                f"{n_shared} of the {n_clusters} clusters of held_out are clusters of the "
                "selection (by number or word), so that its scores may be too good for others; "
                "give prompts of other clusters, or other numbers if these are others"
            )
        return "held-out prompts"
    which = "all" if share == 1 else f"{share:.0%}"
    warn(
        f"held_out has {which} of its prompts in common with the selection, so that its scores are "
        "too good; make it from other prompts, such as another seed"
    )
    if share == 1:
        return "prompts, those of the selection"
    return f"held-out prompts, of which {share:.0%} are those of the selection"


def check_not_searched(
    searched: Mapping[str, Any], described: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> None:
    """Those of the selection apart, of which :func:`measured_on` says it.

    Args:
        searched: what the interactions say of themselves that the units were proposed by.
        described: as of :func:`measured_on`.

    Warns:
        UserWarning: held-out prompts are prompts of the search for these interactions.
    """
    first, ours, theirs = (of.get("prompt_hashes") or () for of in (searched, *described))
    n_shared = len({*first}.difference(ours).intersection(theirs))
    if n_shared:
        warn(
            f"{n_shared} of the {len({*theirs})} prompts of held_out are prompts of the search for "
            "the interactions, which proposed the units, so that its scores may be too good; make "
            "it from other prompts, such as another seed"
        )


def shared_prompts(
    game: Any,
    held_out: Any,
    described: tuple[Mapping[str, Any], Mapping[str, Any]],
    values: tuple[np.ndarray, np.ndarray] | None,
) -> float:
    """The share of held-out prompts that are prompts of the selection: by their tokens, where both
    games have some; else by their values, where these tell all prompts apart."""
    ours, theirs = _prompts(game), _prompts(held_out)
    if ours is not None and theirs is not None:
        return sum(prompt in ours for prompt in theirs) / len(theirs)
    # A game of tokens has one prompt, and tells it itself.
    hashes = [
        d["tokens"] if d.get("lens") == "tokens" else d.get("tokens_sha256") for d in described
    ]
    if hashes[0] is not None and hashes[0] == hashes[1]:
        return 1.0
    if values is None:
        return 0.0
    first, second = (v.T for v in values)  # a row per prompt
    if min(len(first), len(second)) < 2:
        return 0.0
    scale = first.std(axis=0)
    if not (scale > 0).any():
        return 0.0
    first, second = first[:, scale > 0] / scale[scale > 0], second[:, scale > 0] / scale[scale > 0]
    if min(_closest(first), _closest(second)) < _NEAR:
        return 0.0
    return float((abs(second[:, None] - first[None]).max(axis=2).min(axis=1) < _NEAR).mean())


def check_signs(selection: Span, held_out: Span) -> None:
    """Warns:
    UserWarning: what helps on the prompts of the selection hurts on the held-out ones.
    """
    if selection.value * held_out.value < 0:
        warn(
            f"all units together change the metric by {selection} on the prompts of the selection "
            f"and by {held_out} on the held-out ones: what helps there hurts here, and the scores "
            "are shares of the latter"
        )


def _closest(rows: np.ndarray) -> float:
    """The smallest distance between two prompts of one game."""
    apart = abs(rows[:, None] - rows[None]).max(axis=2)
    return float(apart[~np.eye(len(rows), dtype=bool)].min())


def _prompts(game: Any) -> list[bytes] | None:
    """What each prompt of a game of a model reads: its tokens without padding, and the rest."""
    from spex_mech.engine.prompts import rows_as_bytes
    from spex_mech.games.model_game import ModelGame

    if not isinstance(game, ModelGame):
        return None
    prompts = game.prompts
    tokens, real = prompts.tokens.cpu().numpy(), prompts.real.cpu().numpy()
    rows = [row[mask].tobytes() for row, mask in zip(tokens, real, strict=True)]
    if not prompts.inputs:
        return rows
    others = rows_as_bytes([*prompts.inputs.values()])
    own = rows if prompts.has_tokens else [b""] * len(rows)
    return [row + other for row, other in zip(own, others, strict=True)]
