"""How finely the values of a game can be told apart, found in the values themselves.

An interaction is a sum of four values. What each of them lost in rounding, the interaction may be
made of, so that its *floor* is what four such losses can add up to:

================================  ==================================================================
the values are                    floor
================================  ==================================================================
float64, float32 numbers          4 roundings of the largest value in each of the 4 terms, as what
                                  was computed on the way rounds too
bfloat16, float16 numbers, also   half a step of the format at the largest value in each of the 4
where stored as float32           terms: rounded once, at the end
decimals of 3 to 6 places         half a step in each of the 4 terms
integers, counts, halves ...      as float32: nothing is lost in them, unless a function returns
                                  them in a half format, or many are so large that such a format
                                  lacks some, and none is one of those
================================  ==================================================================

What a function loses in rounding and then hides (float32 averaged in float64, say) cannot be seen.
"""

import numpy as np
from jaxtyping import Float

_ROUNDINGS = 4  # that a value in float32 or float64 is allowed
_TERMS = 4  # of the interaction of a pair
_FEWEST = 16  # distinct values, without which a coarse grid may be chance
_DECIMALS = (3, 4, 5, 6)  # fewer are counts as likely as roundings: an accuracy of 20 prompts
_SEEN = 4096  # distinct values that are kept
# Bits of the mantissa that are kept, the step at 1, and the smallest number with all those bits.
_HALVES = {"bfloat16": (7, 2.0**-7, 2.0**-126), "float16": (10, 2.0**-10, 2.0**-14)}


class Resolution:
    """Sees values and says how finely they can be told apart.

    >>> resolution = Resolution()
    >>> resolution.see(np.round(np.random.default_rng(0).random((50, 4)), 3))
    >>> resolution.name, resolution.floor
    ('3 decimals', 0.002)
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self._single = True
        self._known: str | None = None
        self._distinct = np.empty(0)

    def see(self, values: Float[np.ndarray, "mask prompt"], rounded_to: str | None = None) -> None:
        """Some more values, which came in this half format; None: in another, or not known."""
        self._known = rounded_to or self._known
        self.largest = max(self.largest, float(abs(values).max(initial=0.0)))
        with np.errstate(over="ignore"):
            self._single = self._single and bool((values.astype(np.float32) == values).all())
        if len(self._distinct) < _SEEN:
            some = values.ravel()[: 4 * _SEEN]
            self._distinct = np.union1d(self._distinct, some)

    @property
    def name(self) -> str:
        """Of the type or the grid that the values lie on."""
        values = self._distinct
        if self._known:
            return self._known
        if self._single:
            for name, (bits, _, least) in _HALVES.items():
                if _is_half(values, bits, least):
                    return name
        for places in _DECIMALS:
            if len(values) >= _FEWEST and _are_decimals(values, places, self._single):
                return f"{places} decimals"
        return "float32" if self._single else "float64"

    @property
    def floor(self) -> float:
        """The size below which the interaction of a pair may be nothing but rounding."""
        name = self.name
        if name in _HALVES:
            return _TERMS * _HALVES[name][1] / 2 * self.largest
        if name.endswith("decimals"):
            return _TERMS * 10.0 ** -int(name.split()[0]) / 2
        return _ROUNDINGS * _TERMS * float(np.finfo(name).eps) * self.largest


def _is_half(values: Float[np.ndarray, " value"], bits: int, least: float) -> bool:
    """Whether all are numbers of so many bits, and enough use the last bit to show that it is one:
    halves and small integers do not."""
    normal = values[abs(values) >= least]
    mantissa, _ = np.frexp(normal)
    steps = abs(mantissa) * 2.0 ** (bits + 1)  # integers for numbers of so many bits
    if not len(steps) or (steps != np.round(steps)).any():
        return False
    told = values
    if (values == np.round(values)).all():
        # Small integers are in every format. Of those beyond it lacks every other one and more.
        told = values[abs(values) >= 2.0 ** (bits + 1)]
    if len(told) < _FEWEST:
        return False
    return bool((steps % 2 == 1).mean() > 0.2)


def _are_decimals(values: Float[np.ndarray, " value"], places: int, single: bool) -> bool:
    """Whether all are decimals of so many places and no fewer."""
    scaled = values * 10.0**places
    rounding = float(np.finfo(np.float32 if single else np.float64).eps) * abs(scaled) * 2
    if (rounding > 0.05).any() or (abs(scaled - np.round(scaled)) > rounding + 1e-9).any():
        return False
    return bool((np.round(scaled) % 10 != 0).mean() > 0.5)
