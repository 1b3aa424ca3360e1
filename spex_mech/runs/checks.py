"""Whether a game still gives the values that its store was filled with.

A store tells games apart by hashes, and much of what fixes a value cannot be hashed: a setting in
an object, a helper of another module, a file that a function reads, a hook on a model. So three
masks are asked when a store is new, and again whenever it is opened: the intact one, one that
ablates every unit, and one that ablates half of them. Where a game cannot answer for so many, fewer
are ablated. Each is asked alone, so that what shares a batch makes no difference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from spex_mech.driver import evaluate_batch
from spex_mech.game import Game
from spex_mech.masks import MaskBatch, names_of
from spex_mech.notices import warn
from spex_mech.search.resolution import Resolution

_PARTS = ((1.0, 0.75, 0.25), (0.5, 0.125))  # of the units, for the two masks besides the intact one
_SEED = 0
_CALLS = 4  # of one mask, where it differs: two calls may be close by chance
_TOGETHER = 1e-4  # of the largest value: how far rounding may take it in other company
_VARIES = 3.0  # differences of this many times what these calls differ by are no change


@dataclass(frozen=True, eq=False)
class Check:
    """A mask and its values as they were.

    Args:
        ablated: the units that it ablates, ascending.
        values: of each prompt.
    """

    ablated: tuple[int, ...]
    values: Float[np.ndarray, " prompt"]


def first_checks(game: Game) -> list[Check]:
    """The masks that a new store asks, with their values.

    Raises:
        Exception: what the game raises of the intact mask.
    """
    checks = [Check((), asked(game, ()))]
    for number, parts in enumerate(_PARTS):
        for ablated in _candidates(len(game), parts, number):
            if ablated in [check.ablated for check in checks]:
                continue
            try:
                checks.append(Check(ablated, asked(game, ablated)))
            except Exception:  # it has no value with so much gone; a search may never ask for it
                continue
            break
    return checks


def _candidates(n: int, parts: Sequence[float], number: int) -> Iterator[tuple[int, ...]]:
    order = np.random.default_rng([_SEED, n, number]).permutation(n)
    for size in (*(round(part * n) for part in parts), 2, 1):
        if 0 < size <= n:
            yield tuple(sorted(order[:size].tolist()))


def compare(path: Path, game: Game, kept: Sequence[Check], together: bool = False) -> None:
    """Ask the masks of a store again.

    Args:
        together: the values were not asked alone but with others, so that rounding may be another.

    It warns where the values vary from one call to the next by about as much as they differ.

    Raises:
        ValueError: a value has changed by more than the game's floor.
    """
    floor = _floor(game, kept)
    if together:
        floor = max(floor, _TOGETHER * max(abs(check.values).max(initial=0.0) for check in kept))
    for check in kept:
        now = asked(game, check.ablated)
        if now.shape != check.values.shape:
            raise ValueError(
                f"{path}: the game has {len(now)} prompts now and had {len(check.values)} when the "
                "store was filled. Give another file"
            )
        if np.array_equal(now, check.values):
            continue
        off = abs(now - check.values)
        if not (off > floor).any():
            continue
        at = int(off.argmax())
        where = f"with {names_of(game.labels, check.ablated)} ablated"
        more = [asked(game, check.ablated) for _ in range(_CALLS)]
        jitter = float(max(abs(again - now).max() for again in more))
        if off.max() <= _VARIES * jitter:
            warn(
                f"{path}: the game's values vary from call to call (by {jitter:.2g} {where}), so "
                "nothing tells whether they are those that the store was filled with",
            )
            return
        raise ValueError(
            f"{path} holds other values than the game has now: {where} the value "
            f"{'' if len(now) == 1 else f'of prompt {at} '}is {now[at]:.9g}, and the store has "
            f"{check.values[at]:.9g}. Something has changed that the store cannot see, such as a "
            "setting, a file or a hook. Undo that, or give another file, or move this one away to "
            "begin anew"
        )


def asked(game: Game, ablated: Sequence[int]) -> Float[np.ndarray, " prompt"]:
    """The values of one mask, asked alone."""
    return evaluate_batch(game, MaskBatch.of_sets([ablated], len(game))).values[0]


def _floor(game: Game, kept: Sequence[Check]) -> float:
    if game.noise_floor is not None:
        return game.noise_floor
    resolution = Resolution()
    for check in kept:
        resolution.see(check.values[None])
    return resolution.floor
