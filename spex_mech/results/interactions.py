"""Interactions: what a search measured, with errors, cost and where it came from."""

import json
import os
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BufferedIOBase, BytesIO
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.results.files import write_whole
from spex_mech.results.statistics import intervals, p_values, q_values, standard_errors

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = 1
_ARRAYS = ("units", "values", "main_effects_by_prompt", "intact_by_prompt")
_OF_WHOLE = ("q_value", "n_choices")  # of all that was tested, not of the part shown or kept
# What reading a file that is no npz, or a damaged one, is seen to raise.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, KeyError, ValueError, TypeError, AttributeError, EOFError,
    OSError, NotImplementedError,
)  # fmt: skip


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
        units: each interaction's unit numbers, padded with -1 on the right.
        values: each interaction on each prompt.
        main_effects_by_prompt: of each unit; NaN where it was not measured.
        intact_by_prompt: the metric of the intact model.
        noise_floor: the size below which a value cannot be told from rounding: measured by a game
            of a model, otherwise worked out from the size and precision of the values.
        cost: evaluations, gradients, seconds: what it took.
        audit: what is known of the pairs that were not measured; None where all were.
        about: method, seed, model, task, hashes, versions.
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

    def __len__(self) -> int:
        return len(self.units)

    @cached_property
    def mean(self) -> Float[np.ndarray, " interaction"]:
        """Each interaction, averaged over the prompts."""
        return self.values.mean(axis=1, dtype=np.float64)

    @cached_property
    def stderr(self) -> Float[np.ndarray, " interaction"]:
        """Standard error of the mean over prompts (NaN for a single prompt)."""
        return standard_errors(self.values)

    @cached_property
    def q_value(self) -> Float[np.ndarray, " interaction"]:
        """False-discovery-rate q-value (NaN for one prompt), over all interactions measured; where
        an adaptive search chose them, by their size on these prompts, over all of their order that
        there were to choose from."""
        p = p_values(self.values)
        if not self._is_chosen:
            return q_values(p)
        q = np.empty_like(p)
        for order in np.unique(self.order):
            rows = self.order == order
            q[rows] = q_values(p[rows], comb(len(self.labels), int(order)))
        return q

    @cached_property
    def n_choices(self) -> int:
        """How many interactions these were chosen from, by their size on these prompts: of a part,
        such as ``top``, all measured; where an adaptive search chose, all of their orders."""
        if not self._is_chosen:
            return len(self)
        return sum(comb(len(self.labels), int(order)) for order in np.unique(self.order))

    @property
    def _is_chosen(self) -> bool:
        return self.about.get("method") in ("spex", "proxyspex")

    def intervals(self, level: float = 0.9) -> Float[np.ndarray, "interaction 2"]:
        """Low and high end of each interaction's mean over all prompts there could be, by Student's
        t (NaN for a single prompt). Of chosen interactions (``n_choices``), ``level`` is the share
        of them whose interval holds the truth (false coverage rate, Benjamini and Yekutieli 2005):
        the strongest of many look larger than they are, so that these intervals are wider.

        Raises:
            ValueError: a level that is not between 0 and 1.
        """
        chosen = self.n_choices if self.n_choices > len(self) else None
        return np.stack(intervals(self.values, level, chosen), axis=1)

    @cached_property
    def is_noise(self) -> Bool[np.ndarray, " interaction"]:
        """True where a value is under the noise floor: that of a pair, and twice as much for each
        unit more, whose alternating sum has twice as many terms."""
        return abs(self.mean) <= self.noise_floor * 2.0 ** (self.order - 2)

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

        "AND-like": both units help (their main effects are negative) and their damage overlaps
        (in series). "OR-like": their damage compounds (backup), and each of the two helps on the
        average over the other being there or gone: a backup may do nothing, or hurt a little, while
        the other is there. "mixed": neither, as where one hurts by being there. "noise": under the
        floor. Of three units and more the sign does not tell the two apart (three in series and
        three backups both give -1): "beyond pairs". Where less is better all signs are turned."""
        return readings_of(self, self.less_is_better)

    @property
    def less_is_better(self) -> bool:
        """Whether smaller values of the metric are better, so that a unit which helps has a
        positive main effect: ``about["less_is_better"]``, which a game's ``describe()`` may give,
        and true for the metric "loss". ``readings`` turn all signs round then."""
        return bool(self.about.get("less_is_better", self.about.get("metric") == "loss"))

    def top(self, k: int = 20, order: int | None = None) -> "Interactions":
        """The k strongest by absolute value (of one order, if asked)."""
        rows = np.arange(len(self)) if order is None else np.flatnonzero(self.order == order)
        strongest = rows[np.argsort(-abs(self.mean[rows]), kind="stable")[:k]]
        return self.take(strongest)

    def frame(self, order: int = 2) -> "pd.DataFrame":
        """A pandas table with a row an interaction, strongest first: ``unit_a unit_b value stderr
        q_value main_a main_b reading is_noise`` (``unit_c main_c`` too for order 3).

        Raises:
            ValueError: no interaction of this order was measured.
        """
        import pandas as pd

        if not 2 <= order <= self.units.shape[1]:
            raise ValueError(f"no interaction of order {order} was measured")
        rows = np.flatnonzero(self.order == order)
        rows = rows[np.argsort(-abs(self.mean[rows]), kind="stable")]
        letters, labels = "abcdefgh"[:order], np.array(self.labels)
        readings = np.array(self.readings)
        data: dict[str, Any] = {
            f"unit_{c}": labels[self.units[rows, i]] for i, c in enumerate(letters)
        }
        data |= {"value": self.mean[rows], "stderr": self.stderr[rows]}
        data |= {"q_value": self.q_value[rows]}
        data |= {f"main_{c}": self.main_effects[self.units[rows, i]] for i, c in enumerate(letters)}
        return pd.DataFrame(data | {"reading": readings[rows], "is_noise": self.is_noise[rows]})

    @property
    def names(self) -> list[tuple[str, ...]]:
        """The labels of each interaction's units."""
        return [tuple(self.labels[u] for u in row if u >= 0) for row in self.units.tolist()]

    def matrix(self) -> Float[np.ndarray, "unit unit"]:
        """The pairs as a symmetric matrix; NaN on the diagonal and where none was measured."""
        full = np.full((len(self.labels), len(self.labels)), np.nan)
        pairs = self.units[self.order == 2][:, :2]
        full[pairs[:, 0], pairs[:, 1]] = full[pairs[:, 1], pairs[:, 0]] = self.mean[self.order == 2]
        return full

    def value(self, *labels: str) -> float:
        """The interaction of the units with these labels.

        Raises:
            KeyError: it was not measured, or a label is unknown.
        """
        if unknown := [label for label in labels if label not in self.labels]:
            raise KeyError(f"no unit is called {unknown[0]!r}")
        wanted = sorted(self.labels.index(label) for label in labels)
        row = wanted + [-1] * (self.units.shape[1] - len(wanted))
        fits = len(row) == self.units.shape[1]
        hits = np.flatnonzero((self.units == row).all(axis=1)) if fits else []
        if not len(hits):
            raise KeyError(f"the interaction of {' and '.join(labels)} was not measured")
        return float(self.mean[hits[0]])

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything into one npz file (arrays and JSON, no pickles), all or nothing."""
        return write_whole(path, self._write)

    def to_bytes(self) -> bytes:
        """What :meth:`save` writes."""
        file = BytesIO()
        self._write(file)
        return file.getvalue()

    def _write(self, file: BufferedIOBase) -> None:
        about = {
            "format": _FORMAT,
            "labels": self.labels,
            "noise_floor": self.noise_floor,
            "cost": self.cost,
            "audit": self.audit,
            "about": self.about,
        }
        # Numbers of numpy, such as a budget, become plain ones.
        plain = lambda value: value.tolist() if hasattr(value, "tolist") else str(value)  # noqa: E731
        as_json = json.dumps(about, default=plain)
        text = np.frombuffer(as_json.encode(), dtype=np.uint8)
        np.savez_compressed(
            file, about=text, **{k: getattr(self, k) for k in (*_ARRAYS, *_OF_WHOLE)}
        )

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Interactions":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a result, or of a newer format.
        """
        with Path(path).open("rb") as raw:
            return Interactions._read(raw, path)

    @staticmethod
    def from_bytes(data: bytes, name: str = "the data") -> "Interactions":
        """Read what :meth:`to_bytes` gave; ``name`` is what an error calls it."""
        return Interactions._read(BytesIO(data), name)

    @staticmethod
    def _read(raw: BufferedIOBase, path: Any) -> "Interactions":
        try:
            with np.load(raw, allow_pickle=False) as file:
                about = json.loads(file["about"].tobytes())
                newer = about.pop("format") > _FORMAT
                arrays = {} if newer else {name: file[name] for name in _ARRAYS}
                of_whole = {name: file[name] for name in _OF_WHOLE if name in file and not newer}
        except _DAMAGED as error:
            raise ValueError(f"{path} is not a spex_mech result (npz): {error}") from error
        if newer:
            raise ValueError(f"{path} was written by a newer spex_mech; upgrade to read it")
        if "n_choices" in of_whole:
            of_whole["n_choices"] = int(of_whole["n_choices"])
        return _as_part(Interactions(**about, **arrays), **of_whole)

    def __repr__(self) -> str:
        spent = f"{self.cost.get('evaluations', 0):,.0f} evaluations"
        lines = [
            f"{len(self):,} interactions among {len(self.labels):,} units, {spent} "
            f"({self.about.get('method', 'unknown method')}), noise floor {self.noise_floor:.1e}"
        ]
        shown = self.top(10)
        names = [" x ".join(units) for units in shown.names]
        width = max((len(n) for n in names), default=0)
        for i, name in enumerate(names):
            error = "" if np.isnan(shown.stderr[i]) else f" +- {shown.stderr[i]:.2g}"
            lines.append(f"  {name:<{width}}  {shown.mean[i]:+.3g}{error}  {shown.readings[i]}")
        if self.audit:
            a = self.audit
            lines.append(
                f"  audit of {a['n_tested']} random untested pairs: recall of the top {a['k']} "
                f"{a['recall']:.2f} ({a['recall_low']:.2f} to {a['recall_high']:.2f}), energy "
                f"{a['energy_found']:.3g} found, {a['energy_missed']:.3g} "
                f"({a['energy_low']:.3g} to {a['energy_high']:.3g}) missed"
            )
        if len(self) > len(names):
            lines.append(f"  ... {len(self) - len(names):,} more: .frame(), .top(k), .matrix()")
        return "\n".join(lines)

    def take(self, rows: Int[np.ndarray, " interaction"]) -> "Interactions":
        """Those in these rows, in this order. q-values and ``n_choices`` stay those of the whole
        result, from which they were chosen."""
        part = replace(self, units=self.units[rows], values=self.values[rows])
        return _as_part(part, q_value=self.q_value[rows], n_choices=self.n_choices)


def readings_of(found: Interactions, less_is_better: bool) -> list[str]:
    """What :attr:`Interactions.readings` says, for a metric of which more, or less, is better."""
    sign = -1.0 if less_is_better else 1.0
    mean = sign * found.mean
    mains = sign * np.append(found.main_effects, 0.0)[found.units[:, :2]]
    overlaps = (mean > 0) & (mains < 0).all(axis=1)
    compounds = (mean < 0) & (mains + mean[:, None] / 2 < 0).all(axis=1)
    cases = {
        "noise": found.is_noise,
        "beyond pairs": found.order > 2,
        "AND-like": overlaps,
        "OR-like": compounds,
    }
    return np.select(list(cases.values()), list(cases), "mixed").tolist()


def _as_part(found: Interactions, **of_whole: Any) -> Interactions:
    """What belongs to the whole set that was tested, not to the part that is shown or kept."""
    for name, value in of_whole.items():
        object.__setattr__(found, name, value)
    return found
