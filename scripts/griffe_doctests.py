"""For the documentation: doctests in docstrings become blocks of code."""

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^( *)>>> .*(?:\n(?! *$).*)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Puts a fence around each block from ``>>>`` to the next blank line."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = _DOCTEST.sub(
                lambda m: f"{m[1]}```pycon\n{m[0]}\n{m[1]}```", obj.docstring.value
            )
