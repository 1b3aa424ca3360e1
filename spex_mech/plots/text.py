"""A text with its attributions: main effects as colour, the strongest interactions as arcs.

One picture of SVG, which a notebook shows and a browser opens; every token is escaped.
"""

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from spex_mech.plots.style import colour_of, main_colour, rgb
from spex_mech.results.interactions import Interactions

_CHARACTER, _GAP, _ROW = 8.4, 6, 22  # pixels


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
    Path(path).write_text(page, encoding="utf-8")


def plot_text(found: Interactions, k: int = 10) -> TextPicture:
    """The units of a ``TokenGame`` in their order, with the k strongest pairs as arcs.

    A unit is green where the text loses by masking it (the unit helps) and purple where it gains.
    An arc is red where the interaction is positive (the damage of the two units overlaps) and blue
    and dashed where it is negative (the damage compounds). An arc is as thick as its interaction is
    strong, and its exact value is its tooltip.

    Args:
        found: pairs; of larger sets only the pairs are drawn.
        k: how many; those under the noise floor are left out.

    Raises:
        ValueError: there are no pairs.
    """
    pairs = found.top(k, order=2)
    if not len(pairs):
        raise ValueError("no pairs to draw: the result holds none")
    texts = [label.split(":", 1)[-1] or "·" for label in found.labels]
    widths = np.array([max(len(text), 1) * _CHARACTER + 6 for text in texts])
    left = np.concatenate([[0.0], np.cumsum(widths + _GAP)[:-1]]) + _GAP
    middle = left + widths / 2
    reach = abs(middle[pairs.units[:, 0]] - middle[pairs.units[:, 1]]).max()
    height = float(min(160.0, 24 + reach / 3))
    # The strongest on top; what is nothing but rounding is not drawn.
    clear = np.flatnonzero(~pairs.is_noise)[::-1].tolist()
    readings = pairs.readings
    parts = [_arc(pairs, row, readings[row], middle, height) for row in clear]
    largest = np.nanmax(abs(found.main_effects), initial=0.0) or 1.0
    for unit, text in enumerate(texts):
        effect = found.main_effects[unit]
        known = np.isfinite(effect)
        colour = ",".join(map(str, rgb(main_colour(effect))))
        alpha = abs(effect) / largest if known else 0
        parts.append(
            f"<g><title>{escape(found.labels[unit])}: "
            f"{f'main effect {effect:+.3g}' if known else 'not measured'}</title>"
            f'<rect x="{left[unit]:.1f}" y="{height:.1f}" width="{widths[unit]:.1f}" '
            f'height="{_ROW}" rx="3" fill="rgba({colour},{0.85 * alpha:.2f})" stroke="#ccc"/>'
            f'<text x="{middle[unit]:.1f}" y="{height + 15:.1f}" text-anchor="middle" '
            f'fill="{"#fff" if alpha > 0.6 else "#000"}">{escape(text)}</text></g>'
        )
    width = left[-1] + widths[-1] + _GAP
    return TextPicture(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" '
        f'height="{height + _ROW + 6:.0f}" font-family="monospace" font-size="14" '
        'style="background:#fff">'
        f"{''.join(parts)}</svg>"
    )


def _arc(pairs: Interactions, row: int, reading: str, middle: np.ndarray, height: float) -> str:
    """Of pairs that come strongest first."""
    a, b = (int(u) for u in pairs.units[row, :2])
    value = pairs.mean[row]
    share = abs(value) / (abs(pairs.mean[0]) or 1.0)
    left, right = sorted((middle[a], middle[b]))
    top = height - min(height - 8, 10 + (right - left) / 3)
    colour = colour_of(value)
    dash = "" if value > 0 else ' stroke-dasharray="7 4"'
    names = escape(f"{pairs.labels[a]} x {pairs.labels[b]}")
    return (
        f'<path d="M {left:.1f} {height:.1f} C {left:.1f} {top:.1f}, {right:.1f} {top:.1f}, '
        f'{right:.1f} {height:.1f}" fill="none" stroke="{colour}" '
        f'stroke-width="{1 + 4 * share:.1f}" stroke-opacity="{0.25 + 0.7 * share:.2f}"{dash}>'
        f"<title>{names}: {value:+.3g} {reading}</title></path>"
    )
