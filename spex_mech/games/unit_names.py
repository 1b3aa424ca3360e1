"""A model's units by what users call them: kinds, labels, patterns."""

import re
from collections.abc import Iterable
from typing import Any

from spex_mech.arguments import shown
from spex_mech.engine.components import Component, Components, Group, joined

_OF_LETTERS = {"N": "neurons", "G": "kv_groups", "E": "experts"}
_KINDS = {
    "heads": Components.heads,
    "neurons": Components.neurons,
    "kv_groups": Components.kv_groups,
    "experts": Components.experts,
}


def components_of(model: Any, given: Any) -> Components:
    """Components as they are, or of a text such as "heads" or "L1H*,L0N17", or of labels.

    Args:
        model: a model, or its ``Architecture``.
        given: ``Components``, a text, or labels or single components in a list; None: all heads.

    Raises:
        ValueError: it is none of these, or names what the model does not have.
    """
    if given is None:
        return Components.heads(model)
    if isinstance(given, Components):
        return given
    if isinstance(given, str):
        return units_named(model, given)
    if isinstance(given, Component):
        given = [given]
    if isinstance(given, Iterable) and not isinstance(given, bytes | dict):
        units = list(given)
        if any(_is_many(unit) for unit in units):
            raise ValueError(
                "components is a list with a group in it; join such units with +, as "
                "Components.heads(model)[:2] + group"
            )
        if units and all(isinstance(unit, Component) for unit in units):
            return Components.named(model, [unit.label for unit in units])
        if units and all(isinstance(unit, str | Component) for unit in units):
            return units_named(model, ",".join(map(str, units)))
    raise ValueError(
        f"components is {shown(given)}; give Components, such as Components.heads(model), a text "
        "such as 'heads' or 'L0H3,L1H*', or a list of labels"
    )


def _is_many(unit: Any) -> bool:
    return isinstance(unit, Group) or (isinstance(unit, Component) and unit.every_call)


def units_named(model: Any, text: str) -> Components:
    """Components by kind, label or pattern, joined by commas or plus signs.

    Raises:
        ValueError: there is no such kind, label or match.
    """
    parts = []
    for word in (word.strip() for word in text.replace("+", ",").split(",")):
        if word in _KINDS:
            parts.append(_KINDS[word](model))
        elif any(sign in word for sign in "*?["):
            letter = re.search(r"[NGE](?=[\d*?\[]|$)", word)
            kinds = _OF_LETTERS[letter[0]] if letter else "heads"
            parts.append(_KINDS[kinds](model).select(word))
        else:
            parts.append(_named(model, word))
    return joined(parts)


def _named(model: Any, word: str) -> Components:
    try:
        return Components.named(model, [word])
    except ValueError as error:
        if any(letter.isdecimal() for letter in word):
            raise
        kinds = ", ".join(_KINDS)
        raise ValueError(
            f"unknown units {word!r}; give one of {kinds}, labels such as L0H3, or patterns such "
            "as L1H*"
        ) from error
