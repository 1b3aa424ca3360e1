"""A text with its attributions: main effects as colour, the strongest interactions as arcs.

One picture of SVG, which a notebook shows and a browser opens; every token is escaped. Long texts
run over several rows.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from spex_mech.arguments import whole
from spex_mech.plots.network import Edge, edges_of
from spex_mech.plots.style import PALE_OPACITY, colour_of, main_colour, rgb
from spex_mech.results.files import write_text
from spex_mech.results.interactions import Interactions, as_result
from spex_mech.units import Units

_CELL, _GAP, _BOX = 8.4, 6, 22  # pixels: a letter's width, between units, a unit's height
_WIDEST = 960  # pixels of a row, unless one unit alone needs more
_BETWEEN = 34  # pixels from row to row, where no arc needs more


@dataclass(frozen=True)
class TextPicture:
    """SVG that a notebook shows; ``save`` writes it as a page."""

    svg: str = field(repr=False)  # long; a terminal shows the name

    def _repr_html_(self) -> str:
        return f'<div style="overflow-x:auto">{self.svg}</div>'

    def save(self, path: str | Path) -> None:
        """Write a page that holds it."""
        write_page(path, "Interactions", self.svg)


def write_page(path: str | Path, title: str, body: str) -> None:
    """Write HTML as a page."""
    page = f'<!doctype html><meta charset="utf-8"><title>{title}</title>{body}\n'
    write_text(path, page)


def plot_text(found: Interactions, k: int = 10) -> TextPicture:
    """The units of a ``TokenGame`` in their order, with the k strongest pairs as arcs.

    A unit is green where the text loses by masking it (the unit helps) and purple where it gains.
    An arc is red where the damage of its two units overlaps, blue and dashed where it compounds,
    and pale where it is not significant. It is as thick as its interaction is strong, and its exact
    value is its tooltip. Labels of one's own are shown as they are; from those that the game made
    the position in front is left out.

    Args:
        found: pairs; of larger sets only the pairs are drawn.
        k: how many; those under the noise floor are left out.

    Raises:
        ValueError: there are no pairs, or k is under 1.
    """
    whole("k", k, 1)
    pairs = as_result(found).top(k, order=2)
    if not len(pairs):
        raise ValueError("no pairs to draw: the result holds none")
    texts = [printable(text) or "·" for text in _without_positions(found.unit_table)]
    # The strongest on top; what is nothing but rounding is not drawn.
    clear = np.flatnonzero(~pairs.is_noise)[::-1].tolist()
    edges = edges_of(pairs)
    ends = [tuple(sorted(pairs.units[row, :2].tolist())) for row in clear]
    layout = _layout(texts, ends)
    arcs = [_arc(edges[row], edges[0], at, layout) for row, at in zip(clear, ends, strict=True)]
    largest = float(np.nanmax(abs(found.main_effects), initial=0.0)) or 1.0
    boxes = [_box(found, unit, text, largest, layout) for unit, text in enumerate(texts)]
    return TextPicture(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{layout.width:.0f}" '
        f'height="{layout.height:.0f}" font-family="monospace" font-size="14" '
        'style="background:#fff">'
        f"{''.join(arcs)}{''.join(boxes)}</svg>"
    )


def _without_positions(units: Units) -> list[str]:
    """The labels, without the positions that a game of tokens puts before each of its own."""
    labels = units.labels
    found = [re.match(r"(\d+):", label) for label in labels]
    numbers = [int(match[1]) for match in found if match]
    if len(numbers) < len(labels) or numbers != sorted(set(numbers)):
        return labels
    of_tokens = [(n, u) for n, u in zip(numbers, units, strict=True) if u.kind == "token"]
    if any(unit.slots[0] != str(number) for number, unit in of_tokens):
        return labels  # one's own, such as times of day
    return [label.split(":", 1)[1] for label in labels]


def printable(text: str) -> str:
    """Without what an SVG may not hold, and no font has: control characters are shown by their
    pictures."""
    return "".join(
        chr(0x2400 + ord(c)) if ord(c) < 32
        else "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cs", "Cn")
        else c
        for c in text
    )  # fmt: skip


def _cells(text: str) -> int:
    """How many letters wide a text is drawn: Chinese and emoji take two, accents none."""
    narrow = [c for c in text if unicodedata.category(c) not in ("Mn", "Me", "Cf")]
    return max(1, sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in narrow))


@dataclass(frozen=True)
class _Layout:
    """Where each unit is drawn, in pixels: its left edge, top and width, and the row it is in."""

    left: np.ndarray
    top: np.ndarray
    widths: np.ndarray
    row: np.ndarray
    space: np.ndarray  # above each row, for its arcs
    width: float
    height: float

    def middle(self, unit: int) -> float:
        return float(self.left[unit] + self.widths[unit] / 2)


def _layout(texts: Sequence[str], arcs: Sequence[tuple[int, ...]]) -> _Layout:
    widths = np.array([_cells(text) * _CELL + 6 for text in texts])
    left, row, at, n_row = np.zeros(len(texts)), np.zeros(len(texts), dtype=int), float(_GAP), 0
    for unit, width in enumerate(widths):
        if at > _GAP and at + width + _GAP > _WIDEST:
            at, n_row = float(_GAP), n_row + 1
        left[unit], row[unit] = at, n_row
        at += width + _GAP
    middle = left + widths / 2
    space = np.full(n_row + 1, 8.0)
    space[1:] = _BETWEEN
    for a, b in arcs:
        if row[a] == row[b]:
            reach = abs(middle[a] - middle[b])
            space[row[a]] = max(space[row[a]], min(160.0, 24 + reach / 3))
    tops = np.cumsum(space + _BOX) - _BOX
    return _Layout(
        left, tops[row], widths, row, space,
        float((left + widths).max() + _GAP), float(tops[-1] + _BOX + 6),
    )  # fmt: skip


def _box(found: Interactions, unit: int, text: str, largest: float, layout: _Layout) -> str:
    effect = found.main_effects[unit]
    known = np.isfinite(effect)
    helps = (effect < 0) != found.less_is_better
    colour = ",".join(map(str, rgb(main_colour(bool(helps)))))
    alpha = abs(effect) / largest if known else 0
    left, top = layout.left[unit], layout.top[unit]
    return (
        f"<g><title>{escape(printable(found.labels[unit]))}: "
        f"{f'main effect {effect:+.3g}' if known else 'not measured'}</title>"
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{layout.widths[unit]:.1f}" '
        f'height="{_BOX}" rx="3" fill="rgba({colour},{0.85 * alpha:.2f})" stroke="#ccc"/>'
        f'<text x="{layout.middle(unit):.1f}" y="{top + 15:.1f}" text-anchor="middle" '
        f'fill="{"#fff" if alpha > 0.6 else "#000"}">{escape(text)}</text></g>'
    )


def _arc(edge: Edge, strongest: Edge, ends: tuple[int, ...], layout: _Layout) -> str:
    """Over its row, or from the lower edge of the upper row to the upper edge of the lower one."""
    first, last = ends
    share = abs(edge.value) / (abs(strongest.value) or 1.0)
    left, right = layout.middle(first), layout.middle(last)
    y = float(layout.top[first])
    if layout.row[first] == layout.row[last]:
        top = y - min(layout.space[layout.row[first]] - 8, 10 + (right - left) / 3)
        points = (left, y, left, top, right, top, right, y)
    else:
        y, end = y + _BOX, float(layout.top[last])
        middle = (y + end) / 2
        points = (left, y, left, middle, right, middle, right, end)
    curve = "M {:.1f} {:.1f} C {:.1f} {:.1f}, {:.1f} {:.1f}, {:.1f} {:.1f}".format(*points)
    dash = "" if edge.overlaps else ' stroke-dasharray="7 4"'
    opacity = PALE_OPACITY if edge.pale else 0.25 + 0.7 * share
    names = escape(printable(f"{edge.a} x {edge.b}"))
    return (
        f'<path d="{curve}" fill="none" stroke="{colour_of(edge.overlaps)}" '
        f'stroke-width="{1 + 4 * share:.1f}" stroke-opacity="{opacity:.2f}"{dash}>'
        f"<title>{names}: {edge.value:+.3g} {edge.reading}</title></path>"
    )
