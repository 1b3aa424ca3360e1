"""What an object shows in a notebook: a short table of what it is."""

from collections.abc import Mapping, Sequence
from html import escape

_SHOWN = 4  # labels


def counted(n: int, one: str) -> str:
    """``1 prompt``, ``1,584 heads``.

    >>> counted(1, "prompt"), counted(1584, "head")
    ('1 prompt', '1,584 heads')
    """
    return f"{n:,} {one}" if n == 1 else f"{n:,} {one}s"


def listed(labels: Sequence[str]) -> str:
    """The first labels, and dots where there are more."""
    return ", ".join(labels[:_SHOWN]) + (", ..." if len(labels) > _SHOWN else "")


def units_text(kinds: Sequence[str], labels: Sequence[str]) -> str:
    """How many units of each kind there are, and the first labels.

    >>> units_text(["head", "head", "neuron"], ["L0H0", "L0H1", "L0N7"])
    '2 heads and 1 neuron: L0H0, L0H1, L0N7'
    """
    words = {kind: kind.replace("_", " ") for kind in dict.fromkeys(kinds)}
    many = " and ".join(counted(list(kinds).count(kind), word) for kind, word in words.items())
    return f"{many}: {listed(labels)}"


def facts_html(heading: str, facts: Mapping[str, str]) -> str:
    """A heading and a table of names and values; all text is escaped."""
    left = "style='text-align:left'"
    rows = "".join(
        f"<tr><th {left}>{escape(name)}</th><td {left}>{escape(value)}</td></tr>"
        for name, value in facts.items()
    )
    return f"<div><b>{escape(heading)}</b><table><tbody>{rows}</tbody></table></div>"
