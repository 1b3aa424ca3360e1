"""Warnings that point to the user's own line."""

import sys
import warnings

# Frames that are not the user's; where types are checked, jaxtyping wraps each of our functions.
_OURS = ("spex_mech.", "jaxtyping.")


def warn(text: str) -> None:
    """A warning that points to the line outside of the package that called it."""
    level, frame = 2, sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_OURS):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
