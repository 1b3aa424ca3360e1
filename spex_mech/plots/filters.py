"""Which pairs a choice of an interactive picture shows, and which pairs a cell of a map holds."""

from collections import defaultdict
from itertools import combinations_with_replacement, islice

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.plots.network import Edge, edges_of
from spex_mech.plots.numbers import Folded, MapNumbers, signed_energy
from spex_mech.results.interactions import Interactions
from spex_mech.results.verdicts import SIGNIFICANT

_PLURAL = defaultdict(
    lambda: "units", head="heads", neuron="neurons", kv_group="key-value groups", group="groups"
)
_LEVELS = (0.001, 0.01, SIGNIFICANT, 0.2)  # of q
_BY_Q = f"q at most {SIGNIFICANT}"


def pair_filters(pairs: Interactions) -> dict[str, Bool[np.ndarray, " pair"]]:
    """Which pairs each choice of an interactive picture shows: all, those of each reading, those
    above the noise floor, of these those up to each of some q-values, those confirmed on other
    prompts, and, where there are units of several kinds, those of each two kinds. Choices that
    would show nothing are left out, but for that by a q of 0.05: that there is none is worth
    knowing."""
    readings = np.array(pairs.verdicts, dtype=object)
    chosen = {"all pairs": np.ones(len(pairs), dtype=bool)}
    chosen |= {reading: readings == reading for reading in sorted({*readings} - {"noise"})}
    chosen["above the noise floor"] = ~pairs.is_noise
    if pairs.values.shape[1] > 1:
        chosen |= {f"q at most {q:g}": ~pairs.is_noise & (pairs.q_value <= q) for q in _LEVELS}
    chosen["confirmed"] = pairs.confirmed == 1
    kinds = sorted({*pairs.unit_table.kinds})
    if len(kinds) > 1:
        of_unit = np.array([kinds.index(kind) for kind in pairs.unit_table.kinds])
        of_pair = np.sort(of_unit[pairs.units[:, :2]], axis=1)
        for a, b in combinations_with_replacement(range(len(kinds)), 2):
            chosen[f"{_PLURAL[kinds[a]]} x {_PLURAL[kinds[b]]}"] = (of_pair == (a, b)).all(axis=1)
    return {name: rows for name, rows in chosen.items() if rows.any() or name == _BY_Q}


def layer_filters(pairs: Interactions) -> dict[str, Bool[np.ndarray, " pair"]]:
    """Which pairs join which two layers (``L0 x L2``, ``encoder 0 x decoder 1``); nothing but all
    of them where units have no layers or all pairs join the same two."""
    chosen = {"all layers": np.ones(len(pairs), dtype=bool)}
    blocks = pairs.unit_table.blocks
    layers = np.sort(blocks.of_unit[pairs.units[:, :2]], axis=1)
    both = np.unique(layers, axis=0)
    if (layers < 0).any() or len(both) < 2:
        return chosen
    names = blocks.names
    return chosen | {
        f"{names[a]} x {names[b]}": (layers == (a, b)).all(axis=1) for a, b in both.tolist()
    }


def filtered_values(
    numbers: MapNumbers | Folded, pairs: Interactions, shown: Bool[np.ndarray, " pair"]
) -> Float[np.ndarray, "row row"]:
    """A map's values by some of the pairs alone; NaN where there are none of them."""
    places = numbers.row_of[pairs.units[shown][:, :2]]
    return signed_energy(places, pairs.mean[shown], len(numbers.names))


def pairs_by_cell(
    row_of: Int[np.ndarray, " unit"], pairs: Interactions, most: int = 8
) -> dict[tuple[int, int], tuple[list[Edge], int]]:
    """Of every cell of a map (row and column, both ways round): its strongest pairs, strongest
    first, ``most`` at most, and how many pairs it has."""
    ranked = pairs.top(len(pairs))
    places = np.sort(row_of[ranked.units[:, :2]], axis=1)
    inside = np.flatnonzero(places[:, 0] >= 0)
    found, cell_of, counts = np.unique(
        places[inside], axis=0, return_inverse=True, return_counts=True
    )
    by_cell = inside[np.argsort(cell_of.ravel(), kind="stable")]
    starts = np.concatenate([[0], np.cumsum(counts)])
    shown = [
        by_cell[start : start + min(most, n)] for start, n in zip(starts, counts, strict=False)
    ]
    edges = iter(edges_of(ranked.take(np.concatenate([*shown, np.empty(0, dtype=int)]))))
    cells = {}
    for (row, column), rows, count in zip(found.tolist(), shown, counts.tolist(), strict=True):
        cells[row, column] = cells[column, row] = list(islice(edges, len(rows))), count
    return cells
