"""The maps of a report: numbers to places and texts, which the page's template draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.plots.numbers import (
    Folded,
    MapNumbers,
    Mark,
    folded_numbers,
    layer_energy,
    layer_marks,
    map_numbers,
    metric_unit,
)
from spex_mech.plots.style import MINUS, PALE_OPACITY, sign_of
from spex_mech.report.words import count_text, cut_name, value_text
from spex_mech.results.interactions import Interactions
from spex_mech.results.printed import confirmed_text, halves

_MOST_UNITS = 40
_MOST_LETTERS = 6  # of a number in a cell of the largest size


def unit_map(found: Interactions, id: str = "unit-map") -> dict[str, Any]:
    numbers = map_numbers(found, most=_MOST_UNITS)
    n, n_all = len(numbers.names), len(found.labels)
    which = f"The {n} strongest of {n_all:,} units" if n < n_all else f"All {n} units"
    tips = _pair_tips(found)
    return _heat(
        id, numbers.values, numbers.names, numbers.borders, tips, pale=numbers.pale,
        turned=found.less_is_better, marks=_marks(numbers),
        caption=f"{which}, in their order ({metric_unit(found)}).",
    )  # fmt: skip


def layer_map(found: Interactions) -> dict[str, Any]:
    numbers = layer_energy(found)
    share = 100 * numbers.energy / (numbers.total or 1.0)
    tips = {
        (a, b): f"{a} x {b}\n{share[i, j]:.1f} % of the energy\n"
        f"{count_text(int(numbers.n_pairs[i, j]), 'pair')} measured"
        for i, a in enumerate(numbers.names)
        for j, b in enumerate(numbers.names)
    }
    values = np.where(numbers.n_pairs > 0, share, np.nan)
    within = f"{100 * numbers.share_within:.0f} %" if numbers.total else "None"
    by_error = (
        ""
        if math.isnan(numbers.by_error)
        else f" Errors over the prompts alone would give {numbers.by_error:.2g}."
    )
    caption = (
        "Per cent of the energy (summed squares of all pairs measured) between two layers; "
        f"{within} lies within layers. In all it is {numbers.total:.3g}.{by_error}"
    )
    return _heat(
        "layer-map", values, numbers.names, [], tips, caption=caption, one_sided=True
    )  # fmt: skip


def folded_map(found: Interactions) -> dict[str, Any]:
    numbers = folded_numbers(found)
    caption = (
        f"Rows of their own hold {100 * numbers.kept:.0f} % of the neurons' energy. The other "
        "neurons of a layer are one row (its number and how many), whose cells are the root of "
        "the summed squares of their pairs, signed by the sum."
    )
    return _heat(
        "folded-map", numbers.values, numbers.names, numbers.borders, _pair_tips(found),
        caption=caption, blocks=numbers.is_block, pale=numbers.pale,
        turned=found.less_is_better, marks=_marks(numbers),
    )  # fmt: skip


def _pair_tips(found: Interactions) -> dict[tuple[str, str], str]:
    verdicts, names, half, tips = found.verdicts, found.names, halves(found), {}
    for row in np.flatnonzero(found.order == 2).tolist():
        a, b = names[row]
        value = value_text(float(found.mean[row]), float(half[row]))
        said = f"{verdicts[row]}{confirmed_text(int(found.confirmed[row]))}"
        tips[a, b] = tips[b, a] = f"{a} x {b}\n{value}\n{said}"
    return tips


def _cell_size(n: int) -> int:
    """Of a map of so many rows, in pixels."""
    return 40 if n <= 10 else 24 if n <= 20 else 18


def _marks(numbers: MapNumbers | Folded) -> list[Mark]:
    return layer_marks(numbers, roomy=3, letters=_cell_size(len(numbers.names)) / 7)


@dataclass(frozen=True)
class _Grid:
    """Where the cells of a map are, in pixels."""

    n: int
    cell: int
    left: int
    top: int


def _heat(
    id: str,
    values: Float[np.ndarray, "row row"],
    names: list[str],
    borders: list[int],
    tips: dict[tuple[str, str], str],
    *,
    caption: str,
    one_sided: bool = False,
    blocks: Bool[np.ndarray, " row"] | None = None,
    pale: Bool[np.ndarray, "row row"] | None = None,
    turned: bool = False,
    marks: Sequence[Mark] = (),
) -> dict[str, Any]:
    """Places and texts of a map's cells, in pixels."""
    n = len(names)
    cell = _cell_size(n)
    short = [cut_name(name) for name in names]
    lines = 1 + any(mark.is_stack for mark in marks) if marks else 0
    grid = _Grid(n, cell, 14 + 7 * max(map(len, short), default=0), 4 + 12 * lines)
    left, top = grid.left, grid.top
    is_whole = np.zeros(n, dtype=bool) if blocks is None else blocks
    itself = ~is_whole & np.isnan(values.diagonal()) & (not one_sided)
    is_pale = np.zeros((n, n), dtype=bool) if pale is None else pale
    largest = float(np.nan_to_num(abs(values)).max(initial=0.0)) or 1.0
    cells = [
        _cell(
            grid, row, column, float(values[row, column]), (names[row], names[column]), tips,
            largest=largest, one_sided=one_sided, pale=bool(is_pale[row, column]),
            whole=one_sided or bool(is_whole[row] or is_whole[column]), turned=turned,
        )
        for row in range(n)
        for column in range(n)
        if not math.isnan(values[row, column])
    ]  # fmt: skip
    return {
        "id": id,
        "cell": cell,
        "left": left,
        "top": top,
        "side": cell * n,
        "width": left + cell * n + 6,
        "height": top + cell * n + left,
        "names": [
            {"text": text, "at": top + cell * (i + 0.5), "across": left + cell * (i + 0.5)}
            for i, text in enumerate(short)
        ],
        "layers": [_marked(mark, grid) for mark in marks],
        "borders": [cell * border for border in borders],
        "cells": cells,
        "largest": f"{largest:.3g}",
        "caption": caption,
        "itself": [cell * row for row in np.flatnonzero(itself).tolist()],
        "any_pale": any(shown["pale"] for shown in cells),
        "any_unmeasured": bool((np.isnan(values) & ~np.diag(itself)).any()),
        "turned": turned,
    }


def _marked(mark: Mark, grid: _Grid) -> dict[str, Any]:
    """What stands over a map, of stacks in a line of their own."""
    x = grid.left + grid.cell * (mark.start + mark.stop) / 2
    return {"x": x, "y": 10 if mark.is_stack else grid.top - 6, "text": mark.text}


def _cell(
    grid: _Grid,
    row: int,
    column: int,
    value: float,
    pair: tuple[str, str],
    tips: dict[tuple[str, str], str],
    *,
    largest: float,
    one_sided: bool,
    pale: bool,
    whole: bool,
    turned: bool,
) -> dict[str, Any]:
    """One cell of a map; what is pale has no number or sign in it, all else has."""
    marked = not pale and (not one_sided or abs(value) > 0.005 * largest)
    digits = max(0, 1 - math.floor(math.log10(largest)))
    fits = grid.cell >= 40 and (one_sided or digits < 4)
    number = f"{value:.0f}" if one_sided else f"{value:+.2g}".replace("-", MINUS)
    text = number if fits and len(number) <= _MOST_LETTERS else "" if one_sided else sign_of(value)
    energy = f"{pair[0]} x {pair[1]}\nenergy, signed by the sum: {value_text(value)}"
    opacity = abs(value) / largest * (PALE_OPACITY if pale else 1)
    return {
        "row": row,
        "column": column,
        "x": grid.left + grid.cell * column,
        "y": grid.top + grid.cell * row,
        "kind": "e" if one_sided else "p" if (value > 0) != turned else "n",
        "opacity": round(opacity, 3),
        "pale": pale,
        "text": text if marked else "",
        "tip": tips.get(pair, energy),
        "filter": "" if whole else " ".join(pair),
    }
