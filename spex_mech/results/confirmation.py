"""Interactions measured again on other prompts, beside what the search had said of them."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int8

from spex_mech.results.cautions import OF_A_SEARCH
from spex_mech.results.files import opened, write_whole
from spex_mech.results.interactions import (
    Interactions,
    as_part,
    as_rows,
    from_bytes,
    of_whole,
    to_bytes,
)
from spex_mech.results.npz import beside, write
from spex_mech.results.printed import q_text, value_texts
from spex_mech.results.tables import strongest_rows

if TYPE_CHECKING:
    import pandas as pd

_ERRORS = 2.0  # standard errors of a difference: what is closer agrees
_SAME = 1e-5  # of their size: two values that are closer come from the same prompt
_OF_A_CONFIRMATION = "trust what was significant in the search as well"


@dataclass(frozen=True, eq=False, repr=False)
class Confirmation(Interactions):
    """The strongest interactions of a search, measured again: row by row what the search had said,
    what the other prompts say, and whether it holds.

    It is a result like any other (``values``, ``q_value``, ``frame()``, ``plot_map``), with the
    rows in the order of the search. ``found.confirmed_by(again)`` takes it into the search's
    result.

    Args:
        searched: the same interactions as the search measured them.
        n_shared: how many of the prompts are prompts of the search as well. On those a value is
            found again whether or not it holds elsewhere.
        n_left_out: how many others were as strong, but at or under the noise floor of the search,
            so that there was nothing to measure again.
    """

    searched: Interactions = field(kw_only=True)
    n_shared: int = field(default=0, kw_only=True)
    n_left_out: int = field(default=0, kw_only=True)

    @property
    def same_sign(self) -> Bool[np.ndarray, " interaction"]:
        """True where both values have the same sign."""
        return np.sign(self.mean) == np.sign(self.searched.mean)

    @property
    def within_error(self) -> Bool[np.ndarray, " interaction"]:
        """True where the two values differ by at most two standard errors of their difference.
        What was chosen for its size is often smaller on other prompts, and may hold all the same.
        """
        error = np.hypot(self.stderr, self.searched.stderr)
        return abs(self.mean - self.searched.mean) <= _ERRORS * error

    @property
    def holds(self) -> Bool[np.ndarray, " interaction"]:
        """True where an interaction has the same sign again and is significant on the prompts of
        this measurement (q at most 0.05 over the interactions that were measured again). It is
        *confirmed* where it was significant in the search as well."""
        return self.same_sign & self.is_significant

    @property
    def cautions(self) -> list[str]:
        """What speaks against trusting errors and q on these prompts."""
        return [text.replace(OF_A_SEARCH, _OF_A_CONFIRMATION) for text in super().cautions]

    def said_of(self, found: Interactions) -> Int8[np.ndarray, " interaction"]:
        """Of each interaction of a result, whether it is confirmed: 1 where it is significant there
        and holds here, 0 where it was measured again and is not, -1 where it was not.

        Raises:
            ValueError: none of them was measured again.
        """
        again = {
            frozenset(names): bool(held) for names, held in zip(self.names, self.holds, strict=True)
        }
        said = np.full(len(found), -1, dtype=np.int8)
        for row, names in enumerate(found.names):
            held = again.get(frozenset(names))
            if held is not None and not self.n_shared:
                said[row] = int(held and found.is_significant[row])
        if not again.keys() & {frozenset(names) for names in found.names}:
            raise ValueError("none of these interactions was measured again")
        return said

    def take(self, rows: Any) -> "Confirmation":
        """Those in these rows, in this order, with what the search had said of them.

        Raises:
            ValueError: as of :meth:`Interactions.take`.
        """
        rows = as_rows(rows, self, np.arange(len(self)))
        searched = self.searched.take(rows)
        mine = {"units": self.units[rows], "values": self.values[rows], "searched": searched}
        part = replace(self, **mine, n_left_out=0)
        return as_part(part, **of_whole(self, rows))

    def frame(self, order: int | None = None) -> "pd.DataFrame":
        """The table of :meth:`Interactions.frame` in the order of the search, with ``searched
        searched_stderr same_sign within_error holds``."""
        table = super().frame(order)
        if order == 1:  # of single units a search's values are in its own table
            return table
        rows = strongest_rows(self.mean, self.order, order)
        table = table.iloc[np.argsort(rows)].reset_index(drop=True)
        rows = np.sort(rows)
        if len(rows):
            table["confirmed"] = self.said_of(self.searched)[rows]
        table["searched"] = self.searched.mean[rows]
        table["searched_stderr"] = self.searched.stderr[rows]
        for name in ("same_sign", "within_error", "holds"):
            table[name] = getattr(self, name)[rows]
        return table

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything into one npz file, with what the search had said, all or nothing."""
        searched = np.frombuffer(to_bytes(self.searched), dtype=np.uint8)
        counts = np.array([self.n_shared, self.n_left_out])
        return write_whole(path, lambda file: write(self, file, searched=searched, counts=counts))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Interactions:
        """Read what :meth:`save` wrote; of a result that measures nothing again, that result.

        Raises:
            FileNotFoundError, ValueError: as of :meth:`Interactions.load`.
        """
        again = Interactions.load(path)
        with opened(path) as raw:
            arrays = beside(raw, path, "searched", "counts")
        if arrays is None:
            return again
        searched, (n_shared, n_left_out) = from_bytes(arrays[0].tobytes(), str(path)), arrays[1]
        return _beside(searched, again, int(n_shared), int(n_left_out))

    def __repr__(self) -> str:
        n, lines = len(self), [*self._warning(), self._summary()]
        names = [" x ".join(units) for units in self.names]
        width = max((len(name) for name in names), default=0)
        now = value_texts(self)
        for row, name in enumerate(names):
            held = self._held(row) if self.holds[row] else self._why_not(row)
            lines.append(
                f"  {name:<{width}}  searched {self.searched.mean[row]:+.3g}, now {now[row]}  "
                f"{q_text(float(self.q_value[row]))}  {held}"
            )
        lines += (f"  {caution}" for caution in self.cautions)
        if self.n_left_out:
            many = f"{self.n_left_out:,} of the {n + self.n_left_out:,} strongest"
            lines.append(f"  {many} are under the noise floor of the search: not measured again")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(repr(self))}</pre>"

    def _summary(self) -> str:
        n, n_prompts = len(self), self.values.shape[1]
        if n_prompts < 2:
            same = int(self.same_sign.sum())
            return f"one prompt, so that nothing is confirmed: {same} of {n} have the same sign"
        kind = "prompts of the search" if self.n_shared else "other prompts"
        return (
            f"{int(self.holds.sum())} of {n} hold on {n_prompts:,} {kind}: the same sign and "
            f"q <= 0.05; {int(self.same_sign.sum())} have the same sign, "
            f"{int(self.within_error.sum())} lie within the error{self._of_the_search()}"
        )

    def _of_the_search(self) -> str:
        """How many of those that hold were significant in the search too, where not all were."""
        both = int((self.holds & self.searched.is_significant).sum())
        if both == self.holds.sum() or self.n_shared or self.searched.values.shape[1] < 2:
            return ""
        if not both:
            return "; none was significant in the search as well, so that none is confirmed"
        which = f"{both:,} of them were" if both > 1 else "1 of them was"
        return f"; only {which} significant in the search as well, and so confirmed"

    def _warning(self) -> list[str]:
        if not self.n_shared:
            return []
        return [f"Nothing is confirmed: {shared_text(self.n_shared, self.values.shape[1])}."]

    def _held(self, row: int) -> str:
        if self.searched.values.shape[1] < 2 or self.searched.is_significant[row]:
            return "holds"
        return "holds, but was not significant in the search"

    def _why_not(self, row: int) -> str:
        if not self.same_sign[row]:
            return "other sign"
        return "under the noise floor" if self.is_noise[row] else "not significant"


def shared_text(n_shared: int, n_prompts: int) -> str:
    """That prompts are those of the search."""
    if n_shared == n_prompts:
        return "the prompts are those of the search"
    return f"{n_shared} of {n_prompts} prompts are those of the search"


def confirmation(found: Interactions, again: Interactions, *, n_left_out: int = 0) -> Confirmation:
    """What was measured again, beside the rows of a search that it measures again.

    Args:
        n_left_out: how many of the strongest are not among them, as they are noise.

    Raises:
        ValueError: an interaction of ``found`` was not measured again.
    """
    rows = {frozenset(names): row for row, names in enumerate(again.names)}
    wanted = [frozenset(names) for names in found.names]
    if missing := [names for names in wanted if names not in rows]:
        raise ValueError(f"{' x '.join(sorted(missing[0]))} was not measured again")
    part = again.take(np.array([rows[names] for names in wanted], dtype=np.int64))
    return _beside(found, part, n_shared_prompts(found, part), n_left_out)


def _beside(
    found: Interactions, again: Interactions, n_shared: int, n_left_out: int
) -> Confirmation:
    """Rows of a search and the same rows measured again."""
    fields = {name: getattr(again, name) for name in Interactions.__dataclass_fields__}
    both = Confirmation(**fields, searched=found, n_shared=n_shared, n_left_out=n_left_out)
    return as_part(both, **of_whole(again, np.arange(len(again))))


def n_shared_prompts(found: Interactions, again: Interactions) -> int:
    """How many prompts of ``again`` are prompts of ``found`` too: those with the same tokens or, if
    tokens are not known, on which the intact metric and every one of these interactions have the
    same value."""
    tokens = [result.about.get("tokens_sha256") for result in (found, again)]
    ours, theirs = (result.about.get("prompt_hashes") for result in (found, again))
    if ours and theirs:  # a mean over other prompts makes other values of the same prompt
        return sum(prompt in {*ours} for prompt in theirs)
    n = again.values.shape[1]
    if None not in tokens and tokens[0] == tokens[1]:
        return n
    return int(_same(_seen(found), _seen(again), max(found.noise_floor, again.noise_floor)).sum())


def _seen(found: Interactions) -> Float[np.ndarray, "value prompt"]:
    return np.concatenate([found.intact_by_prompt[None], found.values]).astype(np.float64)


def _same(
    a: Float[np.ndarray, "value prompt"], b: Float[np.ndarray, "value other"], floor: float
) -> Bool[np.ndarray, " other"]:
    """True for the prompts of ``b`` that have the values of some prompt of ``a``."""
    size = max(float(abs(a).max(initial=0.0)), float(abs(b).max(initial=0.0)))
    near = _SAME * size + floor
    return np.array([bool((abs(a - one[:, None]) <= near).all(axis=0).any()) for one in b.T])
