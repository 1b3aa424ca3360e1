"""Warnings that point to the user's own line."""

import sys
import warnings


def warn(text: str) -> None:
    """A warning that points to the line outside of the package that called it."""
    level, frame = 1, sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("spex_mech."):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)
