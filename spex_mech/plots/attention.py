"""What two heads that interact read: the attention patterns of each, with and without the other.

This is the one picture that runs the model: a few plain passes on one prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from spex_mech.arguments import shown, whole
from spex_mech.engine.components import Component
from spex_mech.games.model_game import ModelGame
from spex_mech.plots.static import as_written, new_figure
from spex_mech.plots.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL, _WIDEST = 0.13, 5.0  # inches: per position, and of a pattern
_MOST_NAMED = 40  # positions whose tokens are written


Pattern = Float[np.ndarray, "_query _key"]  # of each head its own


@dataclass(frozen=True)
class AttentionNumbers:
    """The numbers of :func:`plot_attention`: two patterns for each of two heads.

    Args:
        heads: the two labels.
        queries: what stands at each position that a head writes to, per head: tokens, where they
            are known and a task can decode them, and otherwise numbers. Padding is left out.
        keys: the same of the positions that it reads from.
        intact: a pattern per head.
        without_other: the same with the other head ablated.
    """

    heads: tuple[str, str]
    queries: tuple[list[str], list[str]]
    keys: tuple[list[str], list[str]]
    intact: tuple[Pattern, Pattern]
    without_other: tuple[Pattern, Pattern]

    @property
    def largest_changes(self) -> tuple[float, float]:
        """The largest change of a weight, per head."""
        pairs = zip(self.intact, self.without_other, strict=True)
        first, second = (float(abs(after - before).max()) for before, after in pairs)
        return first, second


def attention_numbers(game: ModelGame, pair: Sequence[str], prompt: int = 0) -> AttentionNumbers:
    """What :func:`plot_attention` draws.

    Raises:
        ValueError: not two heads of the game, or patterns that cannot be seen.
    """
    if isinstance(pair, str) or len(pair) != 2 or pair[0] == pair[1]:
        raise ValueError(f"the pair is {shown(pair)}; give the labels of two heads")
    first, second = pair
    prompt = whole("prompt", prompt, 0, len(game.task.prompts) - 1)
    one, other = (
        _one_head(game, head, partner, prompt) for head, partner in (pair, (second, first))
    )
    queries, keys = (one[0], other[0]), (one[1], other[1])
    intact, after = (one[2], other[2]), (one[3], other[3])
    return AttentionNumbers((first, second), queries, keys, intact, after)


def _one_head(
    game: ModelGame, head: str, partner: str, prompt: int
) -> tuple[list[str], list[str], Pattern, Pattern]:
    """The positions that a head writes to and reads from, and its two patterns."""
    intact = game.attention_patterns([head], prompt)[0]
    after = game.attention_patterns([head], prompt, ablated=[partner])[0]
    # A later head cannot change what an earlier one reads; what differs there is rounding.
    after = intact if abs(after - intact).max() < 1e-6 else after
    unit = game.components[game.components.index(head)]
    begins = unit.begins if isinstance(unit, Component) else ""
    writes = _positions(game, prompt, begins, intact.shape[0])
    reads = _positions(game, prompt, begins, intact.shape[1], reads=True)
    rows, columns = writes.real, reads.real
    return writes.names, reads.names, intact[rows][:, columns], after[rows][:, columns]


@dataclass(frozen=True)
class _Positions:
    names: list[str]
    real: np.ndarray


def _positions(
    game: ModelGame, prompt: int, begins: str, count: int, reads: bool = False
) -> _Positions:
    """What stands where a head reads or writes, and which of it is not padding.

    Args:
        begins: how the labels of its layer begin, in a model of several stacks.
        count: how many positions there are.
    """
    prompts = game.task.prompts
    tokens, real = prompts.tokens, prompts.real
    known = prompts.has_tokens
    if begins.startswith("decoder") and not (reads and begins.endswith("X")):
        tokens, real = prompts.decoded, prompts.decoded_real
        known = "decoder_input_ids" in prompts.inputs
    elif begins and not begins.startswith(("encoder", "decoder")):
        known = False  # which of the stacks reads the tokens is not known
    if not known or tokens.shape[1] != count:
        return _Positions([str(number) for number in range(count)], np.ones(count, dtype=bool))
    here = real[prompt].cpu().numpy()
    ids = tokens[prompt].cpu().numpy()[here].tolist()
    decode = game.task.decode
    texts = [str(i) for i in ids] if decode is None else decode(ids)
    return _Positions([printable(text.replace("\n", "\\n")) for text in texts], here)


@as_written
def plot_attention(game: ModelGame, pair: Sequence[str], prompt: int = 0) -> "Figure":
    """The attention patterns of two heads on one prompt, intact and with the other head ablated.

    A row per head: its pattern in the intact model, its pattern without the other head, and the
    change. The other head is ablated as the game ablates it (by its mean, unless asked otherwise).

    Args:
        game: of a model, with both heads among its units.
        pair: two labels of heads, such as a row of ``found.names``.
        prompt: its number.

    Raises:
        ImportError: matplotlib is missing (the extra ``viz``).
        ValueError: not two heads of the game, an unknown prompt, or a model whose attention weights
            cannot be seen.
    """
    if not isinstance(game, ModelGame):
        raise TypeError(f"game is {shown(game)}; give a ModelGame, which has heads among its units")
    numbers = attention_numbers(game, pair, prompt)
    longest = max(max(pattern.shape) for pattern in numbers.intact)
    side = min(max(2.6, 1.2 + _CELL * longest), _WIDEST)
    figure, _ = new_figure(3 * side + 1.2, 2 * side + 0.8)
    figure.clear()
    axes = figure.subplots(2, 3)
    largest = max(*numbers.largest_changes, 1e-3)
    grey = {"cmap": "Greys", "vmin": 0, "vmax": 1}
    images: list[Any] = []
    for row, head in enumerate(numbers.heads):
        intact, after = numbers.intact[row], numbers.without_other[row]
        said = "change of" if numbers.largest_changes[row] else "no change of"
        _name(axes[row, 0], numbers, row, f"{head}, intact")
        _name(axes[row, 1], numbers, row, f"{head}, {numbers.heads[1 - row]} ablated")
        _name(axes[row, 2], numbers, row, f"{said} {head}")
        axes[row, 0].imshow(intact, **grey)
        images = [
            axes[row, 1].imshow(after, **grey),
            axes[row, 2].imshow(after - intact, cmap="BrBG", vmin=-largest, vmax=largest),
        ]
    figure.colorbar(images[0], ax=axes[:, :2], shrink=0.6).set_label("attention weight")
    figure.colorbar(images[1], ax=axes[:, 2], shrink=0.6).set_label("change of the weight")
    figure.suptitle(
        f"{game.task.name}, prompt {prompt}: rows read from columns; {game.ablation} ablation",
        fontsize=10,
    )
    return figure


def _name(axes: Any, numbers: AttentionNumbers, row: int, title: str) -> None:
    axes.set_title(title, fontsize=9)
    queries, keys = numbers.queries[row], numbers.keys[row]
    if max(len(queries), len(keys)) > _MOST_NAMED:
        return
    axes.set_xticks(range(len(keys)), keys, rotation=90, fontsize=7)
    axes.set_yticks(range(len(queries)), queries, fontsize=7)
