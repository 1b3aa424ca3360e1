"""Interactions: what a search measured, with errors, cost and where it came from."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int, Int8

from spex_mech.arguments import labels_of, shown, whole
from spex_mech.notices import warn
from spex_mech.results.cautions import (
    cautions_of,
    clusters_of,
    other_game,
    other_groups,
    with_shared_clusters,
)
from spex_mech.results.files import opened, write_whole
from spex_mech.results.graphs import graph_of, neuronpedia_of
from spex_mech.results.measured import Again, check_again
from spex_mech.results.npz import ARRAYS, OF_WHOLE_BY_ROW, read, write
from spex_mech.results.printed import as_html, printed
from spex_mech.results.readings import doubts_of, readings_of
from spex_mech.results.rows import checked_rows
from spex_mech.results.statistics import intervals, p_values, q_values_by_order, standard_errors
from spex_mech.results.tables import (
    as_frame,
    as_matrix,
    is_known,
    row_of,
    strongest_rows,
    top_rows,
    unit_of,
)
from spex_mech.results.verdicts import floors_of, is_significant, stand_out_by_order, verdicts
from spex_mech.units import Units

if TYPE_CHECKING:
    import networkx
    import pandas as pd

    cached_property = property  # which a type checker takes for what a protocol declares
else:
    from functools import cached_property


_OF_WHOLE = ("n_choices", "n_measured", "clusters")
_Found = TypeVar("_Found", bound="Interactions")


@dataclass(frozen=True, eq=False)
class Interactions:
    """Measured interactions among the units of a game.

    The interaction of units i and j at the intact model N is
    ``f(N without i, j) - f(N without i) - f(N without j) + f(N)``; of k units, the alternating sum
    over their subsets. For units that help (negative main effects), a positive value means that
    their damage overlaps (they work in series, AND-like), a negative one that it compounds (one
    backs the other up, OR-like).

    Args:
        labels: the name of each unit.
        units: each interaction's unit numbers, padded with -1 on the right; no set has two rows.
        values: each interaction on each prompt, finite (``results.rows`` has what is checked).
        main_effects_by_prompt: of each unit; NaN where it was not measured.
        intact_by_prompt: the metric of the intact model.
        noise_floor: the size below which a value cannot be told from rounding: measured by a game
            of a model, otherwise worked out from the size and precision of the values.
        cost: evaluations, gradients, seconds: what it took.
        audit: what is known of the pairs that were not measured; None where all were.
        about: method, seed, model, task, hashes, versions.
        chosen_from: of each order (2: pairs), how many sets a search chose these from by their size
            on these prompts; empty where all were measured, or they were listed or drawn at random.
        unit_table: label, kind, layer and slots of each unit; default, and where units were given
            other names: what the labels say.
    """

    labels: list[str]
    units: Int[np.ndarray, "interaction order"]
    values: Float[np.ndarray, "interaction prompt"]
    main_effects_by_prompt: Float[np.ndarray, "unit prompt"]
    intact_by_prompt: Float[np.ndarray, " prompt"]
    noise_floor: float = 0.0
    cost: dict[str, int | float] = field(default_factory=dict)
    audit: dict[str, Any] | None = None
    about: dict[str, Any] = field(default_factory=dict)
    chosen_from: dict[int, int] = field(default_factory=dict)
    unit_table: Units = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.unit_table is None or self.unit_table.labels != list(self.labels):
            object.__setattr__(self, "unit_table", Units.of_labels(self.labels))
            object.__setattr__(self, "labels", self.unit_table.labels)
        _check_arrays(self)

    def __len__(self) -> int:
        return len(self.units)

    @cached_property
    def mean(self) -> Float[np.ndarray, " interaction"]:
        """Each interaction, averaged over the prompts."""
        return self.values.mean(axis=1, dtype=np.float64)

    @cached_property
    def stderr(self) -> Float[np.ndarray, " interaction"]:
        """Standard error of the mean over prompts (NaN for a single prompt)."""
        return standard_errors(self.values, self.clusters)

    @cached_property
    def clusters(self) -> Int[np.ndarray, " prompt"] | None:
        """Each prompt's cluster where they are not independent: ``about["clusters"]`` and prompts
        that repeat each other. Errors, intervals and q are then those of clusters."""
        return clusters_of(self)

    @property
    def cautions(self) -> list[str]:
        """What speaks against trusting errors and q (``results.cautions``); it is printed too."""
        return cautions_of(self, self.clusters)

    @cached_property
    def q_value(self) -> Float[np.ndarray, " interaction"]:
        """False-discovery-rate q-value (NaN for one prompt), over all interactions measured; where
        an adaptive search chose them, by their size on these prompts, over all of their order that
        there were to choose from."""
        p = p_values(self.values, self.clusters)
        return q_values_by_order(p, self.order, self.chosen_from)

    @cached_property
    def n_choices(self) -> int:
        """How many interactions these were chosen from, by their size on these prompts: of a part,
        such as ``top``, all measured; where an adaptive search chose, all of their orders."""
        if not self.chosen_from:
            return len(self)
        counts = {int(o): int((self.order == o).sum()) for o in np.unique(self.order)}
        return sum(self.chosen_from.get(order, count) for order, count in counts.items())

    def intervals(self, level: float = 0.9) -> Float[np.ndarray, "interaction 2"]:
        """Low and high end of each interaction's mean over all prompts there could be, by Student's
        t (NaN for a single prompt). Of chosen interactions (``n_choices``), ``level`` is the share
        of them whose interval holds the truth (false coverage rate, Benjamini and Yekutieli 2005):
        the strongest of many look larger than they are, so that these intervals are wider.

        Raises:
            ValueError: a level that is not between 0 and 1.
        """
        chosen = self.n_choices if self.n_choices > len(self) else None
        return np.stack(intervals(self.values, level, chosen, self.clusters), axis=1)

    @cached_property
    def is_noise(self) -> Bool[np.ndarray, " interaction"]:
        """True where a value is under the noise floor of its order (``results.verdicts``)."""
        return abs(self.mean) <= floors_of(self.noise_floor, self.order)

    @cached_property
    def is_significant(self) -> Bool[np.ndarray, " interaction"]:
        """True where a value is over the noise floor and its q is at most 0.05."""
        return is_significant(self.is_noise, self.q_value)

    @cached_property
    def stands_out(self) -> Bool[np.ndarray, " interaction"]:
        """True where a value is too large to belong with the others of its order
        (``results.verdicts``): what can be said of a single prompt, which has no q."""
        floors = floors_of(self.noise_floor, self.order)
        return stand_out_by_order(abs(self.mean), floors, self.order)

    @cached_property
    def is_finding(self) -> Bool[np.ndarray, " interaction"]:
        """True where a reading may be given: significant or, of a single prompt, standing out."""
        one = self.values.shape[1] < 2
        return ~self.is_noise & self.stands_out if one else self.is_significant

    @property
    def verdicts(self) -> list[str]:
        """What every table and picture says of each interaction: its reading where it is a finding,
        otherwise why not ("noise", "not significant", "too few prompts", "does not stand out")."""
        told = (self.readings, self.is_noise, self.is_finding, self.q_value)
        return verdicts(*told, self.values.shape[1], self.n_measured)

    @cached_property
    def confirmed(self) -> Int8[np.ndarray, " interaction"]:
        """Whether it held on other prompts (``confirmed_by``): 1, 0, or -1 (not measured again)."""
        return np.full(len(self), -1, dtype=np.int8)

    @cached_property
    def n_measured(self) -> int:
        """How many interactions the whole result has, of which these may be a part."""
        return len(self)

    @cached_property
    def order(self) -> Int[np.ndarray, " interaction"]:
        """How many units each interaction has."""
        return (self.units >= 0).sum(axis=1)

    @property
    def main_effects(self) -> Float[np.ndarray, " unit"]:
        """``f(N without i) - f(N)`` of each unit, averaged over prompts; NaN if not measured."""
        return self.main_effects_by_prompt.mean(axis=1)

    @property
    def intact(self) -> float:
        """The metric of the intact model, averaged over prompts."""
        return float(self.intact_by_prompt.mean())

    @property
    def readings(self) -> list[str]:
        """Each interaction in words.

        "AND-like": both units help, on the average over the other too, and their damage overlaps
        (in series). "OR-like": their damage compounds (backup), and each helps on that average.
        "mixed": neither. "noise": under the floor. "beyond pairs": more than two units, where the
        sign does not tell. ``results.readings`` has the rules, :attr:`doubts` how sure they are."""
        return readings_of(self, self.is_noise, self.less_is_better)

    @cached_property
    def doubts(self) -> Float[np.ndarray, " interaction"]:
        """The chance, at most, that other prompts give another reading (NaN: not known)."""
        return doubts_of(self, self.readings, self.clusters)

    @property
    def less_is_better(self) -> bool:
        """Whether smaller values of the metric are better, so that a unit which helps has a
        positive main effect: ``about["less_is_better"]``, which a game's ``describe()`` may give,
        and true for the metric "loss". ``readings`` turn all signs round then."""
        return bool(self.about.get("less_is_better", self.about.get("metric") == "loss"))

    def top(self, k: int = 20, order: int | None = None) -> "Interactions":
        """The k strongest by absolute value (of one order, if asked).

        Raises:
            ValueError: k is no whole number, or no interaction of this order was measured.
        """
        whole("k", k, 0)
        rows = top_rows(self, order)
        part = self.take(rows[:k])
        return part if order is None else as_part(part, n_measured=len(rows))

    def frame(self, order: int | None = None) -> "pd.DataFrame":
        """A pandas table with a row per interaction, strongest first: ``unit_a unit_b value stderr
        q_value main_a main_b reading is_noise verdict is_significant confirmed``; with
        ``unit_c main_c`` and so on where there are interactions of more units.

        ``reading`` is what the signs say. ``verdict`` is what may be said (:attr:`verdicts`).
        The arrays of a result (``mean``, ``q_value``) are in the order in which it was measured;
        those of ``found.top(len(found))`` are in the order of this table.

        Args:
            order: only those of so many units; 1: the main effects, as ``unit value stderr``.

        Raises:
            ValueError: no interaction of this order was measured.
        """
        return as_frame(self, None if order is None else whole("order", order, 1))

    @property
    def names(self) -> list[tuple[str, ...]]:
        """The labels of each interaction's units."""
        return [tuple(self.labels[u] for u in row if u >= 0) for row in self.units.tolist()]

    def matrix(self) -> Float[np.ndarray, "unit unit"]:
        """The pairs as a symmetric matrix; NaN on the diagonal and where none was measured."""
        return as_matrix(len(self.labels), self.units, self.mean)

    def value(self, *labels: Any) -> float:
        """The interaction of the units with these labels.

        Raises:
            KeyError: it was not measured, a label is unknown, or they are fewer than two.
        """
        return float(self.mean[row_of(self.units, self.labels, labels)])

    def main_effect(self, label: Any) -> float:
        """The main effect of the unit with this label (NaN where it was not measured).

        Raises:
            KeyError: no unit has this label.
        """
        return float(self.main_effects[unit_of(self.labels, label)])

    def __getitem__(self, labels: Any) -> float:
        """``found["L0H3", "L1H0"]`` is an interaction, ``found["L0H3"]`` a main effect; a KeyError
        says what was not measured."""
        several = isinstance(labels, tuple | list)
        return self.value(*labels) if several else self.main_effect(labels)

    def __contains__(self, labels: object) -> bool:
        """Whether ``found[labels]`` is known: ``("L0H3", "L1H0") in found``."""
        return is_known(labels, self.labels, self.names)

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], float]]:
        """The labels and the value of each interaction."""
        return iter(zip(self.names, self.mean.tolist(), strict=True))

    def pairs_of(self, label: Any) -> "Interactions":
        """The pairs that the unit with this label is in, strongest first.

        Raises:
            KeyError: no unit has this label.
        """
        rows = strongest_rows(self.mean, self.order, 2)
        return self.take(rows[(self.units[rows] == unit_of(self.labels, label)).any(axis=1)])

    def confirmed_by(self, again: Again) -> "Interactions":
        """This result with what another one said of it: ``again`` is what ``confirm`` returned.
        Tables, pictures and the report show it. Of what it lacks an earlier one's word stays.

        Raises:
            ValueError: ``again`` measured none of these interactions, or ``confirm`` did not
                return it.
        """
        check_again(again)
        return as_part(self.take(np.arange(len(self))), **_said_by(again, self))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything into one npz file (arrays and JSON, no pickles), all or nothing."""
        return write_whole(path, lambda file: write(self, file))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Interactions":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a result, is damaged, or of a newer format.
        """
        with opened(path) as raw:
            return _read_from(raw, path)

    def to_networkx(self) -> "networkx.Graph":
        """Units as nodes and measured pairs as edges, with what is known of them: kind, layer,
        stack, main effect; value, stderr, q, reading, verdict, confirmed. Write it by
        ``networkx.write_graphml``."""
        return graph_of(self)

    def to_neuronpedia(self, tokens: Sequence[str] = ()) -> dict[str, Any]:
        """The JSON of Neuronpedia's graph viewer: signed links of pairs, and of units to the
        output; units of findings are pinned. ``tokens`` are those of a prompt, to show."""
        return neuronpedia_of(self, tokens)

    def __repr__(self) -> str:
        return printed(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def take(self, rows: Any) -> "Interactions":
        """Those in these rows (numbers, or True and False). What was worked out over the whole
        stays: q-values, ``n_choices``, ``n_measured``, what stands out, what was confirmed. Rows
        of a pandas table are refused where ``frame()`` has another order than this result."""
        rows = as_rows(rows, self, strongest_rows(self.mean, self.order))
        part = replace(self, units=self.units[rows], values=self.values[rows])
        return as_part(part, **of_whole(self, rows))


def _check_arrays(found: Interactions) -> None:
    """Raises:
    ValueError: as of ``results.rows``.
    """
    given = {name: getattr(found, name) for name in ARRAYS}
    for name, array in checked_rows(found.labels, given).items():
        object.__setattr__(found, name, array)


def as_rows(rows: Any, found: Interactions, of_table: Int[np.ndarray, " row"]) -> np.ndarray:
    """The numbers of the rows of a result that were asked for.

    Args:
        of_table: the rows in the order in which ``frame()`` has them.

    Raises:
        ValueError: as of :meth:`Interactions.take`.
    """
    if np.ndim(rows) != 1:
        raise ValueError(f"rows is {shown(rows)}; give a list, as in take([0, 1])")
    n, asked = len(found), np.asarray(rows)
    if asked.size and asked.dtype.kind not in "biu":
        raise ValueError(f"rows hold {shown(asked[0])}; give whole numbers, or True and False")
    if asked.dtype.kind == "b" and len(asked) != n:
        raise ValueError(f"rows has {len(asked)} entries of True and False for {n} interactions")
    if hasattr(rows, "to_numpy"):  # of pandas
        _check_table(asked.dtype.kind == "b", found, of_table)
        index = labels_of(rows, "index")
        if asked.dtype.kind == "b" and index is not None and {*index} == {*range(n)}:
            asked = asked[np.argsort(index)]  # a table that was sorted by something else
    numbers = np.flatnonzero(asked) if asked.dtype.kind == "b" else asked.astype(np.int64)
    if (odd := (numbers < -n) | (numbers >= n)).any():
        raise ValueError(f"there is no row {numbers[odd][0]} among {n} interactions")
    return numbers % n if n else numbers


def _check_table(is_mask: bool, found: Interactions, of_table: Int[np.ndarray, " row"]) -> None:
    """Raises:
    ValueError: the rows of a pandas table of this result are not those of the result.
    """
    cure = "or give .to_numpy() where these are rows of this result"
    if (of_table != np.arange(len(found))).any():
        raise ValueError(
            "rows is of a pandas table, and frame() has the strongest first, as this result has "
            f"not; take rows of found.top(len(found)), which has, {cure}"
        )
    if not is_mask and len(np.unique(found.order)) > 1:
        raise ValueError(
            "rows is of a pandas table, and this result has interactions of several orders, so "
            "that frame(order=...) numbers its rows otherwise; give True and False for each row "
            f"of frame(), {cure}"
        )


def as_result(found: Any) -> Interactions:
    """Raises:
    TypeError: it is no result of a search.
    """
    if isinstance(found, Interactions):
        return found
    raise TypeError(
        f"found is {shown(found)}; give the Interactions that discover, measure or confirm returned"
    )


def to_bytes(found: Interactions) -> bytes:
    """What :meth:`Interactions.save` writes."""
    file = BytesIO()
    write(found, file)
    return file.getvalue()


def from_bytes(data: bytes, name: str = "the data") -> Interactions:
    """Read what :func:`to_bytes` gave; ``name`` is what an error calls it."""
    return _read_from(BytesIO(data), name)


def _read_from(file: BufferedIOBase | BytesIO, name: Any) -> Interactions:
    about, of_whole = read(file, name)
    return as_part(Interactions(**about), **of_whole)


def _said_by(again: Again, found: Interactions) -> dict[str, Any]:
    """What is confirmed of a result, and of which clusters that is; of what was not measured again
    now, what an earlier confirmation said.

    Warns:
        UserWarning: it confirms a result of another metric, ablation or model.
    """
    groups = other_groups(found.unit_table, again.searched.unit_table)
    if differ := other_game(found.about, again.searched.about) + ([groups] if groups else []):
        warn(
            f"what confirms is of another search, which differs from this one in "
            f"{', '.join(differ)}: it says nothing of this result; give what confirm returned for "
            "this one"
        )
    about = with_shared_clusters(found.about, again.about)
    said = again.said_of(found)
    return {"confirmed": np.where(said < 0, found.confirmed, said), "about": about}


def of_whole(found: Interactions, rows: Int[np.ndarray, " interaction"]) -> dict[str, Any]:
    """What a part in these rows keeps of the whole."""
    by_row = {name: getattr(found, name)[rows] for name in OF_WHOLE_BY_ROW}
    return by_row | {name: getattr(found, name) for name in _OF_WHOLE}


def as_part(found: _Found, **of_whole: Any) -> _Found:
    """What belongs to the whole set that was tested, not to the part that is shown or kept."""
    for name, value in of_whole.items():
        object.__setattr__(found, name, value)
    return found
