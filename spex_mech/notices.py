"""Warnings that point to the user's own line."""

import sys
import warnings

# Frames that are not the user's; where types are checked, jaxtyping wraps each of our functions.
_OURS = ("spex_mech.", "jaxtyping.")
# Modules whose frames stand between two of ours: decorators.
_BETWEEN = ("functools", "contextlib", "torch.utils._contextlib")


def warn(text: str) -> None:
    """A warning that points to the line outside of the package that called it."""
    level, frame = 2, sys._getframe(1)
    while frame is not None and _is_passed(frame.f_globals.get("__name__", "")):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def _is_passed(module: str) -> bool:
    return module.startswith(_OURS) or module in _BETWEEN
