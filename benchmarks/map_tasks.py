"""The tasks on which all pairs of SmolLM2's heads are measured: prompts by template and seed.

Each task has 16 prompts that are *searched*, 16 *same* ones (the same templates, other names or
countries) and 16 *other* ones (other templates; not the names or countries that were searched).
They are short, so that 36,315 pairs are cheap. The model is right on at least 15 of each 16.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

import spex_mech as sm
from spex_mech.engine.tokens import is_one_token

N_PROMPTS = 16
KINDS = ("searched", "same", "other")

_NAMES = (
    "Mary John Tom James Anna Sarah Emma Jack Paul Mark Alice Peter David Kate Lucy Ben Sam Lily "
    "Max Mia"
).split()
_THINGS = ("book", "ball", "letter", "gift")
_IOI = (
    "Then {a} and {b} met. {s} gave a {thing} to",
    "When {a} and {b} talked, {s} gave a {thing} to",
    "After {a} and {b} left, {s} sent a {thing} to",
    "So {a} and {b} played. {s} threw a {thing} to",
)
_IOI_OTHER = (
    "Yesterday {a} and {b} met, and {s} handed a {thing} to",
    "One day, {a} and {b} went to the park. {s} gave a {thing} to",
    "When {a} and {b} came to the store, {s} decided to give a {thing} to",
    "The friends {a} and {b} had lunch, and {s} offered a {thing} to",
)

_CAPITALS = (
    "France Paris Germany Berlin Italy Rome Spain Madrid Japan Tokyo China Beijing Russia Moscow "
    "Greece Athens Egypt Cairo Cuba Havana Norway Oslo Ireland Dublin Austria Vienna "
    "Poland Warsaw Portugal Lisbon Sweden Stockholm Iraq Baghdad Iran Tehran Kenya Nairobi "
    "Hungary Budapest Finland Helsinki Peru Lima Canada Ottawa Syria Damascus Chile Santiago "
    "Denmark Copenhagen Belgium Brussels Romania Bucharest Bulgaria Sofia Ukraine Kiev "
    "Australia Canberra Ecuador Quito Israel Jerusalem Afghanistan Kabul Nepal Kathmandu "
    "Indonesia Jakarta Vietnam Hanoi Philippines Manila Pakistan Islamabad England London "
    "Scotland Edinburgh Libya Tripoli Croatia Zagreb Serbia Belgrade Nigeria Abuja Venezuela "
    "Caracas Wales Cardiff Qatar Doha Taiwan Taipei Sudan Khartoum Colombia Bogota Morocco Rabat "
    "Algeria Algiers Tunisia Tunis Switzerland Bern Zimbabwe Harare Uganda Kampala Ghana Accra"
).split()
_FACTS = ("The capital of {country} is", "In {country}, the capital is")
_FACTS_OTHER = ("The capital city of {country} is", "{country} is a country whose capital is")


def _ioi(kind: str, tokenizer: Any) -> Iterator[dict[str, str]]:
    """Two draws of names for each template and each order of the names, again and again."""
    rng = np.random.default_rng(KINDS.index(kind))
    while True:
        for template in _IOI_OTHER if kind == "other" else _IOI:
            for first in (True, False):
                io, s, third = rng.choice(_NAMES, 3, replace=False)
                words = {"a": io if first else s, "b": s if first else io}
                words["thing"] = str(rng.choice(_THINGS))
                yield {
                    "prompt": template.format(s=s, **words),
                    "answer": f" {io}",
                    "distractor": f" {s}",
                    "corrupt": template.format(s=third, **words),
                }


def _capitals(kind: str, tokenizer: Any) -> Iterator[dict[str, str]]:
    """16 countries are searched, and 16 others ask whether it holds, in the same and in other
    templates. Wrong is the capital of the next country."""
    listed = zip(_CAPITALS[::2], _CAPITALS[1::2], strict=True)
    known = [pair for pair in listed if is_one_token(tokenizer, "is", f" {pair[1]}")]
    order = np.random.default_rng(0).permutation(len(known))
    start = 0 if kind == "searched" else N_PROMPTS
    templates = _FACTS_OTHER if kind == "other" else _FACTS
    for i in range(N_PROMPTS):
        country, capital = known[order[start + i]]
        _, wrong = known[order[(start + i + 1) % len(known)]]
        template = templates[i % len(templates)]
        yield {
            "prompt": template.format(country=country),
            "answer": f" {capital}",
            "distractor": f" {wrong}",
        }


_HE = "John Tom James Jack Paul Mark Peter David Ben Max".split()
_SHE = "Mary Anna Sarah Emma Alice Kate Lucy Lily Mia Jane".split()
_PRONOUNS = (
    "Before {name} left,",
    "When {name} was young,",
    "After {name} ate,",
    "I like {name} because",
)
_PRONOUNS_OTHER = (
    "While {name} slept,",
    "Although {name} was tired,",
    "I met {name} and",
    "I know {name} because",
)


def _pronouns(kind: str, tokenizer: Any) -> Iterator[dict[str, str]]:
    """Two names of each sex for each template. Wrong is the other pronoun."""
    rng = np.random.default_rng(KINDS.index(kind))
    templates = _PRONOUNS_OTHER if kind == "other" else _PRONOUNS
    for template in templates:
        for names, answer, wrong in ((_HE, " he", " she"), (_SHE, " she", " he")):
            for name in rng.choice(names, 2, replace=False):
                row = {"prompt": template.format(name=name), "answer": answer}
                yield row | {"distractor": wrong}


_ROWS: dict[str, Callable[[str, Any], Iterator[dict[str, str]]]] = {
    "ioi": _ioi,
    "capitals": _capitals,
    "pronouns": _pronouns,
}
TASKS = tuple(_ROWS)


def map_task(name: str, model: Any, kind: str = "searched") -> sm.Task:
    """16 prompts of a task, with the logit difference between answer and distractor.

    Args:
        name: "ioi" (indirect object identification), "capitals" ("The capital of France is") or
            "pronouns" ("When Mary was young,").
        model: SmolLM2, or another model with a tokenizer.
        kind: "searched", "same" (templates) or "other" (templates).
    """
    tokenizer = sm.load_tokenizer(model)
    rows = list(islice(_ROWS[name](kind, tokenizer), N_PROMPTS))
    return replace(sm.load_task(rows, model, tokenizer=tokenizer), name=name)
