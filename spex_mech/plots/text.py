"""A text with its attributions: main effects as colour, the strongest interactions as arcs.

One picture of SVG, which a notebook shows and a browser opens; every token is escaped.
"""

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from spex_mech.plots.network import Edge, edges_of
from spex_mech.plots.style import PALE_OPACITY, colour_of, main_colour, rgb
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
    An arc is red where the damage of its two units overlaps, blue and dashed where it compounds,
    and pale where it is not significant. It is as thick as its interaction is strong, and its exact
    value is its tooltip.

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
    edges = edges_of(pairs)
    parts = [_arc(edges[row], edges[0], pairs.units[row], middle, height) for row in clear]
    largest = np.nanmax(abs(found.main_effects), initial=0.0) or 1.0
    for unit, text in enumerate(texts):
        effect = found.main_effects[unit]
        known = np.isfinite(effect)
        helps = (effect < 0) != found.less_is_better
        colour = ",".join(map(str, rgb(main_colour(bool(helps)))))
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


def _arc(edge: Edge, strongest: Edge, units: np.ndarray, middle: np.ndarray, height: float) -> str:
    share = abs(edge.value) / (abs(strongest.value) or 1.0)
    left, right = sorted(middle[units[:2]].tolist())
    top = height - min(height - 8, 10 + (right - left) / 3)
    dash = "" if edge.overlaps else ' stroke-dasharray="7 4"'
    opacity = PALE_OPACITY if edge.pale else 0.25 + 0.7 * share
    names = escape(f"{edge.a} x {edge.b}")
    return (
        f'<path d="M {left:.1f} {height:.1f} C {left:.1f} {top:.1f}, {right:.1f} {top:.1f}, '
        f'{right:.1f} {height:.1f}" fill="none" stroke="{colour_of(edge.overlaps)}" '
        f'stroke-width="{1 + 4 * share:.1f}" stroke-opacity="{opacity:.2f}"{dash}>'
        f"<title>{names}: {edge.value:+.3g} {edge.reading}</title></path>"
    )
