"""Pictures of interactions: the numbers first (plain arrays, tested), then a thin drawing.

Colours diverge around 0: red for positive interactions (damage overlaps, AND-like for units that
help), blue for negative ones (damage compounds, OR-like). The two also differ without colour: a
plus or a minus in a cell of a map, a solid or a dashed line in a network.
"""

from collections.abc import Iterable
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
            summed squares of all pairs between two layers (the energy), signed by the sum; NaN
            between layers without a measured pair.

    Raises:
        ValueError: no pairs were measured, or units carry no layer.
    """
    if most < 2:
        raise ValueError(f"most is {most}; a map needs at least 2 units")
    rows = found.order == 2
    if not rows.any():
        raise ValueError("there is no pair to draw: no interaction of order 2 was measured")
    pairs, means = found.units[rows][:, :2], found.mean[rows]
    layers = np.array([_layer_of(label) for label in found.labels])
    if by == "layer":
        if (layers < 0).any():
            raise ValueError("a map by layer needs labels such as L9H6 or L3N1024")
        n_layers = int(layers.max()) + 1
        energy, total, count = np.zeros((3, n_layers, n_layers))
        low = np.minimum(layers[pairs[:, 0]], layers[pairs[:, 1]])
        high = np.maximum(layers[pairs[:, 0]], layers[pairs[:, 1]])
        np.add.at(energy, (low, high), means**2)
        np.add.at(total, (low, high), means)
        np.add.at(count, (low, high), 1)
        values = np.where(count > 0, np.sqrt(energy) * np.where(total < 0, -1, 1), np.nan)
        values = np.where(np.tri(n_layers, k=-1, dtype=bool), values.T, values)
        return MapNumbers(values, [f"L{layer}" for layer in range(n_layers)], [], "layer")
    strength = np.zeros(len(found.labels))
    np.add.at(strength, pairs[:, 0], means**2)
    np.add.at(strength, pairs[:, 1], means**2)
    shown = np.argsort(-strength, kind="stable")[:most]
    shown = shown[np.lexsort((shown, layers[shown]))]
    place = np.full(len(found.labels), -1)
    place[shown] = np.arange(len(shown))
    values = np.full((len(shown), len(shown)), np.nan)
    inside = (place[pairs] >= 0).all(axis=1)
    a, b = place[pairs[inside]].T
    values[a, b] = values[b, a] = means[inside]
    names = [found.labels[u] for u in shown]
    borders = np.flatnonzero(np.diff(layers[shown])) + 1
    return MapNumbers(values, names, borders.tolist(), "unit")


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
    n_names = len(numbers.names)
    roomy = n_names <= 16
    figure, axes = _figure(max(6.4, 2.4 + (0.42 if roomy else 0.2) * n_names))
    largest = np.nan_to_num(abs(numbers.values)).max() or 1.0
    image = axes.imshow(numbers.values, cmap="RdBu_r", vmin=-largest, vmax=largest)
    axes.set_facecolor("#cccccc")  # not measured: neither 0 nor a colour
    size = 9 if roomy else 7
    axes.set_xticks(range(n_names), numbers.names, rotation=90, fontsize=size)
    axes.set_yticks(range(n_names), numbers.names, fontsize=size)
    digits = max(0, 1 - int(np.floor(np.log10(largest))))
    for border in numbers.borders:
        axes.axhline(border - 0.5, color="black", linewidth=0.5)
        axes.axvline(border - 0.5, color="black", linewidth=0.5)
    for row, column in np.argwhere(abs(numbers.values) > 0.25 * largest):
        value = numbers.values[row, column]
        dark = abs(value) > 0.6 * largest
        sign = "+" if value > 0 else "\N{MINUS SIGN}"
        text = f"{sign}{abs(value):.{digits}f}" if roomy and digits < 4 else sign
        axes.text(
            column, row, text, ha="center", va="center", fontsize=7,
            color="white" if dark else "black",
        )  # fmt: skip
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    what = "interaction" if by == "unit" else "energy between layers, signed by the sum"
    bar.set_label(f"{what} ({_metric(found)})")
    cut = f"the {n_names} strongest of {len(found.labels)} units"
    is_cut = by == "unit" and n_names < len(found.labels)
    axes.set_title(_title(found, cut if is_cut else ""), fontsize=10)
    return figure


def plot_network(found: Interactions, k: int = 20) -> "Figure":
    """The k strongest pairs as a network, layers from left to right (units without layers stand in
    a circle): solid red lines for positive interactions, dashed blue ones for negative, as wide as
    they are strong; a node is as large as its main effect.

    Raises:
        ImportError: matplotlib is missing (the extra ``viz``).
    """
    top = found.top(k, order=2)
    if not len(top):
        raise ValueError("there is no pair to draw: no interaction of order 2 was measured")
    positions = network_positions(found, k)
    x, y = np.array(list(positions.values())).T
    columns, in_column = np.unique(x.round(6), return_counts=True)
    width, height = max(7.5, 0.9 * len(columns)), max(5.5, 1.5 + 0.55 * in_column.max())
    figure, axes = _figure(width, height) if _layered(positions) else _figure(7.5, 7.5)
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
    sizes = 60 + 540 * abs(mains) / (abs(mains).max() or 1.0)
    axes.scatter(x, y, s=sizes, color="white", edgecolor="black", zorder=3)
    for (name, at), node in zip(positions.items(), sizes, strict=True):
        axes.annotate(
            name, at, xytext=(0, -np.sqrt(node) / 2 - 2), textcoords="offset points",
            ha="center", va="top", fontsize=8, zorder=4,
            bbox={"boxstyle": "square,pad=0.1", "color": "white", "alpha": 0.7, "linewidth": 0},
        )  # fmt: skip
    axes.plot([], [], color=_RED, label="positive: damage overlaps (AND-like)")
    axes.plot([], [], color=_BLUE, linestyle="--", label="negative: damage compounds (OR-like)")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, frameon=False, fontsize=8)
    axes.set_axis_off()
    axes.margins(0.12)
    axes.invert_yaxis()  # the first unit of a layer on top, as in a map
    axes.set_title(_title(found, f"the {len(top)} strongest pairs"), fontsize=10)
    return figure


def network_positions(found: Interactions, k: int = 20) -> dict[str, tuple[float, float]]:
    """Where :func:`plot_network` puts each unit: x by layer, y spread within the layer; in a circle
    where no unit has a layer."""
    units = sorted({int(u) for u in found.top(k, order=2).units[:, :2].ravel()})
    shown = [found.labels[unit] for unit in units]
    if not _layered(shown):
        angles = 2 * np.pi * np.arange(len(shown)) / len(shown)
        return {
            name: (float(np.sin(angle)), float(-np.cos(angle)))
            for name, angle in zip(shown, angles, strict=True)
        }
    columns: dict[int, list[str]] = {}
    for name in shown:
        columns.setdefault(_layer_of(name), []).append(name)
    positions = {}
    for column, layer in enumerate(sorted(columns)):
        names = columns[layer]
        for i, name in enumerate(names):
            # Columns are shifted a little against one another so that lines do not pass through.
            y = (i + 0.5) / len(names) + 0.06 * (column % 2)
            positions[name] = (float(column), y)
    return positions


def _layered(names: Iterable[str]) -> bool:
    return any(_layer_of(name) >= 0 for name in names)


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
    units = {
        "prob_diff": "difference of probabilities",
        "log_prob": "nats",
        "loss": "nats",
        "kl": "nats",
        "logit_diff": "logit difference",
    }
    return units.get(found.about.get("metric", ""), "change of the metric")


def _title(found: Interactions, what: str) -> str:
    words = [str(found.about[key]) for key in ("model", "task", "ablation") if key in found.about]
    where = f"{', '.join(words)} ablation" if len(words) == 3 else ""
    return "\n".join(["Pair interactions", *(line for line in (where, what) if line)])
