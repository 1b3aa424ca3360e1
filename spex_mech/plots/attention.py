"""What two heads that interact read: the attention patterns of each, with and without the other.

This is the one picture that runs the model: two plain passes on one prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from spex_mech.arguments import shown, whole
from spex_mech.games.model_game import ModelGame
from spex_mech.plots.static import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CELL, _WIDEST = 0.13, 5.0  # inches: per position, and of a pattern
_MOST_NAMED = 40  # positions whose tokens are written


@dataclass(frozen=True)
class AttentionNumbers:
    """The numbers of :func:`plot_attention`: two patterns for each of two heads.

    Args:
        heads: the two labels.
        positions: what stands at each position: tokens, where a task can decode them.
        intact: a pattern per head.
        without_other: the same with the other head ablated.
    """

    heads: tuple[str, str]
    positions: list[str]
    intact: Float[np.ndarray, "head query key"]
    without_other: Float[np.ndarray, "head query key"]

    @property
    def largest_changes(self) -> tuple[float, float]:
        """The largest change of a weight, per head."""
        first, second = abs(self.without_other - self.intact).max(axis=(1, 2)).tolist()
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
    intact = game.attention_patterns(pair, prompt)
    after = np.concatenate(
        [
            game.attention_patterns([first], prompt, ablated=[second]),
            game.attention_patterns([second], prompt, ablated=[first]),
        ]
    )
    # A later head cannot change what an earlier one reads; what differs there is rounding.
    after = np.where(abs(after - intact).max(axis=(1, 2), keepdims=True) < 1e-6, intact, after)
    names, real = _positions(game, prompt)
    if intact.shape[1] == intact.shape[2] == len(real):
        intact, after = intact[:, real][:, :, real], after[:, real][:, :, real]
    else:  # heads that read another text than they write to
        names = [str(position) for position in range(intact.shape[2])]
    return AttentionNumbers((first, second), names, intact, after)


def _positions(game: ModelGame, prompt: int) -> tuple[list[str], np.ndarray]:
    """The texts of a prompt's tokens, and which of its positions are not padding."""
    prompts = game.task.prompts
    real = prompts.real[prompt].cpu().numpy()
    ids = prompts.tokens[prompt].cpu().numpy()[real].tolist()
    decode = game.task.decode
    texts = [str(i) for i in ids] if decode is None else decode(ids)
    return [text.replace("\n", "\\n") for text in texts], real


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
    numbers = attention_numbers(game, pair, prompt)
    n_query, n_key = numbers.intact.shape[1:]
    side = min(max(2.6, 1.2 + _CELL * max(n_query, n_key)), _WIDEST)
    figure, _ = new_figure(3 * side + 1.2, 2 * side + 0.8)
    figure.clear()
    axes = figure.subplots(2, 3)
    largest = max(*numbers.largest_changes, 1e-3)
    grey = {"cmap": "Greys", "vmin": 0, "vmax": 1}
    images: list[Any] = []
    for row, head in enumerate(numbers.heads):
        intact, after = numbers.intact[row], numbers.without_other[row]
        said = "change of" if numbers.largest_changes[row] else "no change of"
        _name(axes[row, 0], numbers, f"{head}, intact")
        _name(axes[row, 1], numbers, f"{head}, {numbers.heads[1 - row]} ablated")
        _name(axes[row, 2], numbers, f"{said} {head}")
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


def _name(axes: Any, numbers: AttentionNumbers, title: str) -> None:
    axes.set_title(title, fontsize=9)
    n_query, n_key = numbers.intact.shape[1:]
    if max(n_query, n_key) > _MOST_NAMED:
        return
    axes.set_xticks(range(n_key), numbers.positions[:n_key], rotation=90, fontsize=7)
    if n_query == len(numbers.positions):
        axes.set_yticks(range(n_query), numbers.positions, fontsize=7)
