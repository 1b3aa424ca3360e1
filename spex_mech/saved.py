"""Results and circuits read back from files, whichever of the two a file holds."""

import os
from codecs import BOM_UTF8
from typing import Any

from spex_mech.circuits.circuit import Circuit
from spex_mech.results.confirmation import Confirmation
from spex_mech.results.files import STORE_BEGINS, opened


def load(path: str | os.PathLike[str]) -> Any:
    """What ``Interactions.save`` or ``Circuit.save`` wrote, by what the file holds.

    Returns:
        ``Interactions``, among them what ``confirm`` measured again, or a ``Circuit``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither, is damaged, or of a newer version; the text says what a store of
            a search is read with.
    """
    with opened(path) as file:
        start = file.read(len(STORE_BEGINS))
    if start == STORE_BEGINS:
        raise ValueError(
            f"{path} is the store of a search; discover(game, store=...) returns its result, and "
            "`spex-mech store FILE` shows what it holds"
        )
    is_text = start.removeprefix(BOM_UTF8).lstrip()[:1] == b"{"
    return Circuit.load(path) if is_text else Confirmation.load(path)
