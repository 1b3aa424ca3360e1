"""What a result says of masks that were asked again (``search.again``)."""

from collections.abc import Mapping
from typing import Any


def varies(about: Mapping[str, Any]) -> bool:
    """Whether the same mask gave values that differ by more than rounding."""
    return bool(about.get("asked_again", {}).get("varies", False))


def variation_text(about: Mapping[str, Any]) -> str:
    """That the function or model varies and by how much, or that nothing is known of it; nothing
    where it does not vary."""
    again = about.get("asked_again")
    if again is None:  # a result of an earlier version, or of another tool
        return ""
    if not again["masks"]:
        return "no mask was asked again, as the budget left no room: whether values vary is unknown"
    if not again["varies"]:
        return ""
    what = "model" if "model" in about or "model_type" in about else "function"
    return (
        f"this {what} varies: the same mask gave values that differ by up to "
        f"{again['largest_difference']:.2g} ({again['masks']} masks were asked again); what that "
        "alone can make is noise"
    )
