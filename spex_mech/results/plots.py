"""Pictures of interactions: the numbers first (plain arrays, tested), then a thin drawing.

Colours diverge around 0: red for positive interactions (damage overlaps, AND-like for units that
help), blue for negative ones (damage compounds, OR-like). The two also differ without colour: a
plus or a minus in a cell of a map, a solid or a dashed line in a network.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from spex_mech.results.interactions import Interactions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RED, _BLUE, _GREY = "#b2182b", "#2166ac", "#8a8a8a"


@dataclass(frozen=True, eq=False)
class MapNumbers:
    """What a map shows: ``values[row column]``, the names of both, and where a new layer starts."""

    values: Float[np.ndarray, "row column"]
    names: list[str]
    borders: list[int]
    by: Literal["unit", "layer"]


def map_numbers(
    found: Interactions, by: Literal["unit", "layer"] = "unit", most: int = 64
) -> MapNumbers:
    """The numbers of a map.

    Args:
        by: "unit": the pair interactions among the ``most`` units with the largest sum of squared
            interactions, in layer order, NaN where nothing was measured. "layer": the root of the
            summed squares of all pairs between two layers (the energy), signed by the sum.

    Raises:
        ValueError: no pairs were measured, or units carry no layer.
    """
    rows = found.order == 2
    if not rows.any():
        raise ValueError("there is no pair to draw: no interaction of order 2 was measured")
    pairs, means = found.units[rows][:, :2], found.mean[rows]
    if by == "layer":
        layers = np.array([_layer_of(label) for label in found.labels])
        if (layers < 0).any():
            raise ValueError("a map by layer needs labels such as L9H6 or L3N1024")
        n_layers = int(layers.max()) + 1
        energy, total = np.zeros((2, n_layers, n_layers))
        low = np.minimum(layers[pairs[:, 0]], layers[pairs[:, 1]])
        high = np.maximum(layers[pairs[:, 0]], layers[pairs[:, 1]])
        np.add.at(energy, (low, high), means**2)
        np.add.at(total, (low, high), means)
        values = np.sqrt(energy) * np.sign(total)
        values = np.where(np.tri(n_layers, k=-1, dtype=bool), values.T, values)
        return MapNumbers(values, [f"L{layer}" for layer in range(n_layers)], [], "layer")
    strength = np.zeros(len(found.labels))
    np.add.at(strength, pairs[:, 0], means**2)
    np.add.at(strength, pairs[:, 1], means**2)
    shown = np.sort(np.argsort(-strength, kind="stable")[:most])
    place = np.full(len(found.labels), -1)
    place[shown] = np.arange(len(shown))
    values = np.full((len(shown), len(shown)), np.nan)
    inside = (place[pairs] >= 0).all(axis=1)
    a, b = place[pairs[inside]].T
    values[a, b] = values[b, a] = means[inside]
    names = [found.labels[u] for u in shown]
    changes = [i for i in range(1, len(names)) if _layer_of(names[i]) != _layer_of(names[i - 1])]
    return MapNumbers(values, names, changes, "unit")


def plot_map(
    found: Interactions, by: Literal["unit", "layer"] = "unit", most: int = 64
) -> "Figure":
    """A heat map of the pair interactions, unit by unit or layer by layer.

    Returns:
        A matplotlib figure; save it with ``.savefig("map.png")``.

    Raises:
        ImportError: matplotlib is missing (the extra ``viz``).
    """
    numbers = map_numbers(found, by, most)
    figure, axes = _figure(max(4.6, 1.9 + 0.2 * len(numbers.names)))
    largest = np.nanmax(abs(numbers.values)) or 1.0
    image = axes.imshow(numbers.values, cmap="RdBu_r", vmin=-largest, vmax=largest)
    axes.set_facecolor("#e6e6e6")  # not measured: neither 0 nor a colour
    size = 9 if len(numbers.names) <= 24 else 6
    ticks = range(len(numbers.names))
    axes.set_xticks(ticks, numbers.names, rotation=90, fontsize=size)
    axes.set_yticks(ticks, numbers.names, fontsize=size)
    for border in numbers.borders:
        axes.axhline(border - 0.5, color="black", linewidth=0.5)
        axes.axvline(border - 0.5, color="black", linewidth=0.5)
    for row, column in np.argwhere(abs(numbers.values) > 0.25 * largest):
        value = numbers.values[row, column]
        dark = abs(value) > 0.6 * largest
        text = (
            f"{value:+.2f}" if len(numbers.names) <= 16 else "+" if value > 0 else "\N{MINUS SIGN}"
        )
        axes.text(
            column, row, text, ha="center", va="center", fontsize=size - 1,
            color="white" if dark else "black",
        )  # fmt: skip
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    what = "interaction" if by == "unit" else "energy between layers, signed by the sum"
    bar.set_label(f"{what} ({_metric(found)})")
    cut = len(found.labels) > len(numbers.names) and by == "unit"
    title = _title(found)
    axes.set_title(
        f"{title}\nthe {len(numbers.names)} strongest of {len(found.labels)} units"
        if cut
        else title,
        fontsize=10,
    )
    return figure


def plot_network(found: Interactions, k: int = 20) -> "Figure":
    """The k strongest pairs as a network, layers from left to right: solid red lines for positive
    interactions, dashed blue ones for negative, as wide as they are strong; a node is as large as
    its main effect.

    Raises:
        ImportError: matplotlib is missing (the extra ``viz``).
    """
    top = found.top(k, order=2)
    if not len(top):
        raise ValueError("there is no pair to draw: no interaction of order 2 was measured")
    positions = network_positions(found, k)
    figure, axes = _figure(7.5, 5.5)
    largest = abs(top.mean).max() or 1.0
    for (a, b), value in zip(top.units[:, :2].tolist(), top.mean, strict=True):
        (x0, y0), (x1, y1) = positions[found.labels[a]], positions[found.labels[b]]
        axes.annotate(
            "", (x1, y1), (x0, y0),
            arrowprops={
                "arrowstyle": "-",
                "connectionstyle": f"arc3,rad={0.35 if x0 == x1 else 0.08}",
                "color": _RED if value > 0 else _BLUE,
                "linestyle": "-" if value > 0 else (0, (4, 2)),
                "linewidth": 0.6 + 4.4 * abs(value) / largest,
                "alpha": 0.85,
            },
        )  # fmt: skip
    mains = np.nan_to_num(np.array([found.main_effects[found.labels.index(n)] for n in positions]))
    x, y = np.array(list(positions.values())).T
    sizes = 60 + 540 * abs(mains) / (abs(mains).max() or 1.0)
    axes.scatter(x, y, s=sizes, color="white", edgecolor="black", zorder=3)
    for name, (at_x, at_y) in positions.items():
        axes.text(at_x, at_y - 0.09, name, ha="center", va="top", fontsize=8, zorder=4)
    axes.plot([], [], color=_RED, label="positive: damage overlaps (AND-like)")
    axes.plot([], [], color=_BLUE, linestyle="--", label="negative: damage compounds (OR-like)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, frameon=False, fontsize=8)
    axes.set_axis_off()
    axes.margins(0.12)
    axes.set_title(f"{_title(found)}\nthe {len(top)} strongest pairs", fontsize=10)
    return figure


def network_positions(found: Interactions, k: int = 20) -> dict[str, tuple[float, float]]:
    """Where :func:`plot_network` puts each unit: x by layer, y spread within the layer."""
    units = sorted({int(u) for u in found.top(k, order=2).units[:, :2].ravel()})
    columns: dict[int, list[str]] = {}
    for unit in units:
        columns.setdefault(_layer_of(found.labels[unit]), []).append(found.labels[unit])
    positions = {}
    for column, layer in enumerate(sorted(columns)):
        names = columns[layer]
        for i, name in enumerate(names):
            # Columns are shifted a little against one another so that lines do not pass through.
            y = (i + 0.5) / len(names) + 0.06 * (column % 2)
            positions[name] = (float(column), y)
    return positions


def _layer_of(label: str) -> int:
    digits = label[1:].split("H")[0].split("N")[0].split("G")[0]
    return int(digits) if label.startswith("L") and digits.isdigit() else -1


def _figure(width: float, height: float | None = None) -> tuple["Figure", Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("drawing needs matplotlib: pip install 'spex_mech[viz]'") from error
    # A figure of its own, not pyplot's: no global state, and no window on a server.
    figure = Figure(figsize=(width, height or width * 0.86), layout="constrained")
    return figure, figure.add_subplot()


def _metric(found: Interactions) -> str:
    units = {"log_prob": "nats", "loss": "nats", "kl": "nats", "logit_diff": "logit difference"}
    return units.get(found.about.get("metric", ""), "change of the metric")


def _title(found: Interactions) -> str:
    words = [str(found.about[key]) for key in ("model", "task", "ablation") if key in found.about]
    return "Pair interactions" + (f": {', '.join(words)} ablation" if len(words) == 3 else "")
