"""Training examples with their interactions: a network, and a table with texts or thumbnails.

One piece of HTML, which a notebook shows and a browser opens; every text is escaped.
"""

import base64
import io
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from spex_mech.arguments import labels_of, same_order, shown, whole
from spex_mech.plots.numbers import pale
from spex_mech.plots.style import PALE_OPACITY, colour_of
from spex_mech.plots.text import write_page
from spex_mech.plots.words import with_error
from spex_mech.results.interactions import Interactions, as_result

_SIZE, _THUMB, _RING = 420, 34, 165  # pixels
_MOST_TEXT = 160  # characters of an example in the table
_STYLE = (
    "<style>.sm-examples{font:14px sans-serif;display:flex;flex-wrap:wrap;gap:16px}"
    ".sm-examples table{border-collapse:collapse}.sm-examples td,.sm-examples th"
    "{padding:4px 8px;border-bottom:1px solid #ccc;text-align:left;vertical-align:top}"
    ".sm-examples td.n{text-align:right;font-variant-numeric:tabular-nums}"
    ".sm-examples img{image-rendering:pixelated;vertical-align:middle}</style>"
)


@dataclass(frozen=True)
class ExamplesPicture:
    """HTML that a notebook shows; ``save`` writes it as a page."""

    html: str = field(repr=False)  # long; a terminal shows the name

    def _repr_html_(self) -> str:
        return self.html

    def save(self, path: str | Path) -> None:
        """Write a page that holds it."""
        write_page(path, "Interactions of examples", self.html)


@dataclass(frozen=True)
class ExamplePair:
    """A row of the table: unit numbers, the interaction with its error, what may be said of it,
    whether it is pale (not significant), and whether the examples stand in for one another."""

    units: tuple[int, int]
    value: float
    stderr: float
    reading: str
    pale: bool
    overlaps: bool


def example_pairs(found: Interactions, k: int = 10) -> list[ExamplePair]:
    """The k strongest pairs over the noise floor, strongest first.

    Raises:
        ValueError: there are none.
    """
    whole("k", k, 1)
    rows = np.flatnonzero((found.order == 2) & (abs(found.mean) > found.noise_floor))
    rows = rows[np.argsort(-abs(found.mean[rows]), kind="stable")][:k]
    if not len(rows):
        raise ValueError("no pairs to draw: the result holds none over its noise floor")
    readings, is_pale = found.verdicts, pale(found)
    return [
        ExamplePair(
            (int(found.units[row, 0]), int(found.units[row, 1])),
            float(found.mean[row]),
            float(found.stderr[row]),
            readings[row],
            bool(is_pale[row]),
            bool((found.mean[row] > 0) != found.less_is_better),
        )
        for row in rows
    ]


def plot_examples(
    found: Interactions,
    texts: Any = None,
    images: Any = None,
    k: int = 10,
) -> ExamplesPicture:
    """The k strongest pairs of a ``TrainingGame`` as a network and a table.

    An edge is solid and red where two examples pull together (the interaction is positive: each
    is worth more with the other), dashed and blue where they pull against one another (negative:
    each is worth less with the other, as duplicates are), and as thick as it is strong. What is not
    significant is pale.

    Args:
        texts: of each unit, in their order.
        images: of each unit, ``[unit height width]`` (grey) or ``[unit height width 3]``; shown
            as thumbnails (needs matplotlib).
        k: how many; those under the noise floor are left out.

    Raises:
        ValueError: there are no pairs, or not as many texts or images as units.
    """
    labels = as_result(found).labels
    texts, images = (
        None if given is None else _of_units(name, given, labels)
        for name, given in (("texts", texts), ("images", images))
    )
    pairs = example_pairs(found, k)
    units = list(dict.fromkeys(u for pair in pairs for u in pair.units))
    thumbs = {} if images is None else {u: _png(np.asarray(images[u])) for u in units}
    return ExamplesPicture(
        f'{_STYLE}<div class="sm-examples">{_network(found, pairs, units, thumbs, texts)}'
        f"{_table(found, pairs, thumbs, texts)}</div>"
    )


def _of_units(name: str, given: Any, labels: Sequence[str]) -> list[Any]:
    """The text or image of each unit, by its place; of a column of pandas too, whose own numbers
    are labels.

    Raises:
        ValueError: it is no list with one for each unit, or its labels have another order.
    """
    if isinstance(given, str | Mapping | Set) or not hasattr(given, "__len__"):
        raise ValueError(f"{name} is {shown(given)}; give a list with one for each unit")
    if len(given) != len(labels):
        raise ValueError(f"{len(given)} {name} for {len(labels)} units")
    index = labels_of(given, "index")
    same_order(
        f"the index of {name}",
        None if index is None else [str(label) for label in index],
        "the labels of the units",
        labels,
        f"they are paired with units by position: give {name}.loc[...] in the order of the units, "
        "or .to_numpy() where they are as they stand",
    )
    return list(given)


def _network(
    found: Interactions,
    pairs: list[ExamplePair],
    units: list[int],
    thumbs: dict[int, str],
    texts: Sequence[str] | None,
) -> str:
    angles = 2 * np.pi * np.arange(len(units)) / len(units) - np.pi / 2
    middle = _SIZE / 2
    at = {
        u: (middle + _RING * np.cos(a), middle + _RING * np.sin(a))
        for u, a in zip(units, angles, strict=True)
    }
    largest = abs(pairs[0].value)
    parts = []
    for pair in reversed(pairs):  # the strongest on top
        (x1, y1), (x2, y2) = (at[u] for u in pair.units)
        share = abs(pair.value) / largest
        colour, dash = colour_of(pair.overlaps), "" if pair.overlaps else ' stroke-dasharray="7 4"'
        opacity = PALE_OPACITY if pair.pale else 0.35 + 0.6 * share
        names = escape(" x ".join(found.labels[u] for u in pair.units))
        parts.append(
            f'<path d="M {x1:.1f} {y1:.1f} Q {middle} {middle}, {x2:.1f} {y2:.1f}" fill="none" '
            f'stroke="{colour}" stroke-width="{1 + 5 * share:.1f}"'
            f'{dash} stroke-opacity="{opacity:.2f}">'
            f"<title>{names}: {pair.value:+.3g}, {pair.reading}</title></path>"
        )
    for u, (x, y) in at.items():
        label = escape(found.labels[u])
        told = f"{label}: main effect {_alone(found, u)}"
        if texts is not None:
            told += f"\n{escape(texts[u][:_MOST_TEXT])}"
        half = _THUMB / 2
        shape = (
            f'<image x="{x - half:.1f}" y="{y - half:.1f}" width="{_THUMB}" height="{_THUMB}" '
            f'href="{thumbs[u]}" style="image-rendering:pixelated"/>'
            if u in thumbs
            else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="7" fill="#fff" stroke="#333"/>'
        )
        name_y = y + half + 12 if y >= middle else y - half - 4  # away from the edges
        parts.append(
            f"<g><title>{told}</title>{shape}"
            f'<text x="{x:.1f}" y="{name_y:.1f}" text-anchor="middle">{label}</text></g>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_SIZE}" height="{_SIZE}" '
        f'viewBox="0 0 {_SIZE} {_SIZE}" font-family="sans-serif" font-size="11" role="img" '
        f'aria-label="network of the strongest pairs">{"".join(parts)}</svg>'
    )


def _table(
    found: Interactions,
    pairs: list[ExamplePair],
    thumbs: dict[int, str],
    texts: Sequence[str] | None,
) -> str:
    def example(u: int) -> str:
        image = f'<img src="{thumbs[u]}" width="{_THUMB}" alt=""> ' if u in thumbs else ""
        effect = f"<br><small>alone {_alone(found, u)}</small>"
        text = ""
        if texts is not None:
            whole = texts[u]
            short = whole if len(whole) <= _MOST_TEXT else whole[: _MOST_TEXT - 1] + "…"
            text = f"<br><bdi>{escape(short)}</bdi>"
        return f"{image}<b>{escape(found.labels[u])}</b>{text}{effect}"

    def error(stderr: float) -> str:
        return "" if np.isnan(stderr) else f"<br><small>± {stderr:.2g}</small>"

    rows = "".join(
        f"<tr><td>{example(pair.units[0])}</td><td>{example(pair.units[1])}</td>"
        f'<td class="n">{pair.value:+.3g}{error(pair.stderr)}</td>'
        f"<td>{_pull(pair)}<br><small>{pair.reading}</small></td></tr>"
        for pair in pairs
    )
    return (
        "<table><thead><tr><th>example</th><th>example</th><th>interaction</th><th>they pull</th>"
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )


def _alone(found: Interactions, unit: int) -> str:
    return with_error(float(found.main_effects[unit]), np.nan)


def _pull(pair: ExamplePair) -> str:
    """What a pair's examples do to one another, where that may be said."""
    if pair.reading not in ("AND-like", "OR-like", "mixed"):
        return "cannot be told"
    return "together" if pair.overlaps else "against one another"


def _png(image: np.ndarray) -> str:
    """As a data address; grey images are scaled to their own range, dark on white."""
    from matplotlib.image import imsave

    is_grey = image.ndim == 2
    if image.dtype.kind not in "fiub" or not (
        is_grey or (image.ndim == 3 and image.shape[2] in (3, 4))
    ):
        raise ValueError(
            f"an image has shape {image.shape}, of {image.dtype}; give numbers [height width], or "
            "[height width 3] with the colours last"
        )
    file = io.BytesIO()
    if is_grey:
        imsave(file, image, cmap="gray_r", format="png")
    else:
        imsave(file, np.clip(image / max(1, image.max()), 0, 1).astype(np.float32), format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
