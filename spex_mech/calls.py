"""How a user's function of masks is called: found out with a small batch, and checked.

A function may take many masks at a time or one, and be written in torch or in numpy. The ways are
tried in this order, with three masks (four where there are three units, so that masks and units
cannot be mixed up), and, where that raises an error, with masks that ablate two units at most:

1. many masks as a bool tensor ``[mask unit]``, or as a bool array;
2. one mask as a bool tensor ``[unit]``, or as a bool array.

*A wrong guess must not pass.* A function of one mask may take a batch by accident. So what many
masks gave is compared with each mask asked as a batch of one: where the values differ, though the
same batch asked again gives the same, the function mixes up the masks that it is asked together and
is no function of many. If the function takes a mask ``[unit]`` as well and says something else of
it, nobody can tell which of the two is meant, and ``vectorized`` must say it. Later on a driver
asks some masks again in other company (``search.again``), which shows what a few masks did not.

The trial takes 5 or 6 evaluations of a function of many masks (9 if it varies), not of the
search's budget: a result has them in ``cost["checks"]``. With ``vectorized=True`` a function that
takes tensors is not tried at all.
"""

import inspect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from spex_mech.arrays import AnswerError, answer_of_one, answer_table, half_format
from spex_mech.masks import MaskBatch

_CLOSE = 1e-4  # of the largest value: how far rounding may take a value in another batch
_VARIES = 10.0  # times what it varies by: a difference that variation does not explain

Kept = Bool[np.ndarray, "mask unit"]
Table = Float[np.ndarray, "mask prompt"]


@dataclass(frozen=True)
class Way:
    """One way to call a function.

    Args:
        many: with many masks at a time.
        torch: with tensors, not with arrays.
    """

    many: bool
    torch: bool

    def __str__(self) -> str:
        kind = "tensor" if self.torch else "array"
        return f"many masks as a bool {kind} [mask unit]" if self.many else (
            f"one mask as a bool {kind} [unit]"
        )  # fmt: skip

    def ask(self, function: Callable[[Any], Any], masks: MaskBatch, labels: list[str]) -> Table:
        """The function's values.

        Raises:
            AnswerError: it answered no numbers, or not one row for each mask.
        """
        kept = masks.kept()
        if self.many:
            return _checked(function(self._given(kept)), answer_table, masks, labels)
        rows = []
        for number, row in enumerate(kept):
            one = masks.part(number, number + 1)
            rows.append(_checked(function(self._given(row)), answer_of_one, one, labels))
        if len({row.shape[1] for row in rows}) > 1:
            other = next(i for i, row in enumerate(rows) if row.shape[1] != rows[0].shape[1])
            one, two = (_which(masks.part(row, row + 1), labels) for row in (0, other))
            raise AnswerError(
                f"the function's number of values is {rows[0].shape[1]} {one}, and "
                f"{rows[other].shape[1]} {two}; it must return as many for every mask",
                shape=True,
            )
        return np.concatenate(rows)

    def _given(self, kept: Any) -> Any:
        # A copy: the function may write into it.
        return torch.from_numpy(kept.copy()) if self.torch else kept.copy()


def _checked(
    value: Any, read: Callable[[Any, int], Table], masks: MaskBatch, labels: list[str]
) -> Table:
    if inspect.iscoroutine(value):
        value.close()  # or Python warns that nobody waited for it
    try:
        return read(value, len(masks))
    except AnswerError as error:
        text = f"the function {error} {_which(masks, labels)}"
        raise AnswerError(text, shape=error.shape) from error


def _which(masks: MaskBatch, labels: list[str]) -> str:
    first = f"ablates {masks.names(0, labels)}"
    if len(masks) == 1:
        return f"for the mask that {first}"
    return f"for {len(masks)} masks, of which the first {first}"


_WAYS = (Way(True, True), Way(True, False), Way(False, True), Way(False, False))


class Called:
    """A function, and how it is called.

    Args:
        function: of masks.
        labels: of the units.
        vectorized: True: it takes many masks at a time; False: one; None: find out.
        trusted: an object that says it is a game: if calling it with the first batch as tensors of
            many masks works, nothing is tried.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        labels: list[str],
        vectorized: bool | None = None,
        trusted: bool = False,
    ) -> None:
        self.function, self.labels, self.vectorized = function, labels, vectorized
        self.trusted = trusted
        self.n_tried = 0  # evaluations that the trial took
        self.rounded_to: str | None = None  # the half format of the last answer
        self._way: Way | None = None

    def __call__(self, masks: MaskBatch) -> Table:
        """The values of some masks.

        Raises:
            ValueError: no way of calling it works, or two do and differ.
        """
        if self._way is None and (self.trusted or self.vectorized):
            with suppress(Exception):  # then it is found out, and says what is wrong
                values = self.asked(_WAYS[0], masks)
                self._way = _WAYS[0]
                return values
        return self.asked(self.way(), masks)

    def asked(self, way: Way, masks: MaskBatch) -> Table:
        """The values of some masks, asked in this way."""
        return way.ask(self._heard, masks, self.labels)

    def _heard(self, masks: Any) -> Any:
        answer = self.function(masks)
        self.rounded_to = half_format(answer)
        return answer

    def way(self) -> Way:
        """How the function is called, which is tried where it is not known yet.

        Raises:
            ValueError: no way works, or two do and differ.
        """
        if self._way is None:
            self._way = self._found()
        return self._way

    def found(self, way: Way) -> None:
        """It was found out elsewhere how the function is called."""
        self._way = way

    def _found(self) -> Way:
        ways = [way for way in _WAYS if self.vectorized in (None, way.many)]
        why: list[Exception] = []
        for probe in (_probe(len(self.labels)), _shallow_probe(len(self.labels))):
            failed: dict[Way, Exception] = {}
            for way in ways:
                try:
                    values = self._tried(way, probe)
                    if way.many and self.vectorized is None:
                        self._check(way, probe, values)
                    return way
                except _Ambiguous:
                    raise
                except Exception as error:  # whatever the user's code raises where it does not fit
                    failed[way] = error
            why.append(self._unfit(failed))
            if all(isinstance(error, AnswerError) for error in failed.values()):
                break  # it answers of any mask
        raise why[0]

    def _tried(self, way: Way, masks: MaskBatch) -> Table:
        values = self.asked(way, masks)
        self.n_tried += len(masks)
        return values

    def _check(self, way: Way, probe: MaskBatch, values: Table) -> None:
        """That a mask has the same value whatever masks are asked with it.

        Raises:
            AnswerError: it has not.
            _Ambiguous: the function says something else of the mask alone.
        """
        close = _CLOSE * abs(values[np.isfinite(values)]).max(initial=0.0)
        parts = [probe.part(row, row + 1) for row in (0, len(probe) - 1)]
        alone = np.concatenate([self._tried(way, part) for part in parts])
        together = values[[0, -1]]
        off = _apart(alone, together)
        if off > close:
            again = self._tried(way, probe)
            varies = _apart(again, values)
            if not off <= _VARIES * varies:
                raise AnswerError(
                    f"the function's value of a mask depends on the masks that it is asked with: "
                    f"{_first(together, alone)}",
                    shape=True,
                )
            return
        try:
            single = self._tried(Way(False, way.torch), parts[-1])
        except Exception:  # as it should: it takes many masks
            return
        if single.shape == together[-1:].shape and not _apart(single, together[-1:]) <= close:
            again = self._tried(way, parts[-1])
            if _apart(single, together[-1:]) <= _VARIES * _apart(again, together[-1:]):
                return  # it varies
            raise _Ambiguous(
                "the function takes both many masks and one, and says something else: "
                f"{_first(together[-1:], single)}; say which is right by vectorized=True (many) or "
                "False (one)"
            )

    def _unfit(self, failed: dict[Way, Exception]) -> Exception:
        errors = list(failed.values())
        same = len({(type(error), str(error)) for error in errors}) == 1
        answers = [error for error in errors if isinstance(error, AnswerError)]
        kinds = [error for error in answers if not error.shape]
        if same or kinds:  # the user's own, which no other way would mend
            return errors[0] if same else kinds[0]
        if len(answers) == len(errors):
            return answers[-1]
        tried = "; ".join(f"with {way}: {_line(error)}" for way, error in failed.items())
        error = ValueError(
            f"the function cannot be called with masks (True = kept). It was tried {tried}"
        )
        error.__cause__ = errors[0]
        return error


class _Ambiguous(ValueError):
    """Two ways of calling a function work, and differ."""


def _probe(n: int) -> MaskBatch:
    """Intact, every other unit ablated, the last third ablated: not as many masks as units."""
    kept = np.ones((4 if n == 3 else 3, n), dtype=bool)
    kept[1, ::2] = False
    kept[2, -max(1, n // 3) :] = False
    kept[3:, 1::2] = False
    return MaskBatch.of_kept(kept)


def _shallow_probe(n: int) -> MaskBatch:
    """Masks that ablate two units at most, for a function that has no values for others."""
    sets = [(), (0,), (n - 1,)] if n < 3 else [(), (0,), (n - 1,), (0, n - 1)]
    if n == 4:
        sets.append((1,))
    return MaskBatch.of_sets(sets, n)


def _apart(a: Table, b: Table) -> float:
    """The largest difference; infinite where there are more values in one."""
    if a.shape != b.shape:
        return np.inf
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.where(a == b, 0.0, abs(a - b))
    return float(np.where(np.isnan(a) & np.isnan(b), 0.0, off).max(initial=0.0))


def _first(a: Table, b: Table) -> str:
    """Two values that differ."""
    if a.shape != b.shape:
        return f"{a.shape[1]} values beside others, and {b.shape[1]} alone"
    row, column = np.argwhere(~(a == b))[0]
    return f"{a[row, column]:.6g} beside others, and {b[row, column]:.6g} alone"


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= 160 else f"{text[:157]}..."
    return text if isinstance(error, AnswerError) else f"{type(error).__name__}: {text}"
