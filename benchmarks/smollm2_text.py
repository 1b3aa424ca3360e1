"""SmolLM2-135M reads: which words of a paragraph, and which retrieved sentences, act together.

    python -m benchmarks.smollm2_text     # half an hour on one core

``words`` takes the words of a paragraph as the units of its answer and measures all their pairs;
``sentences`` takes the sentences that stand before a question and measures all pairs and triples.
Two of the sentences tell the same, so that the answer needs one of them and not both. Then what
the searches measure of the strongest pairs at several budgets, against a ranking by products of
single effects and what others predict at equal cost. Writes ``results/smollm2_text.json``.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

import spex_mech as sm
from benchmarks.frame import SEEDS, Options, Row, script
from benchmarks.games import strongest
from benchmarks.recovery import Case
from benchmarks.smollm2_heads import RIVALS, OfMap

PARAGRAPH = (
    "Anna is a doctor and Ben is a teacher. Anna lives in Paris with her sister, while Ben lives "
    "in London with his brother. Every morning Anna walks to the hospital and Ben takes the bus. "
    "The city where Anna lives is"
)
RETRIEVED = (
    "The museum opens at nine in the morning.",
    "Clara Berg was born in Vienna.",
    "Peter Holm was born in Prague.",
    "The old bridge was built of stone.",
    "Clara Berg painted flowers and birds.",
    "Many visitors come in the summer.",
    "Clara Berg grew up in Vienna, where she was born.",
    "Peter Holm wrote four long books.",
    "The garden behind the house is small.",
    "Tickets are sold at the door.",
    "Peter Holm died in London.",
    "The winter was cold that year.",
)
QUESTION = "Question: Where was Clara Berg born? Answer: Clara Berg was born in"
MASKINGS = ("mean", "attention")
SEARCHED, KS = "mean", (20, 50)  # it has slopes
SHARES = (0.15, 0.25, 0.5)  # of the evaluations that all pairs take


def game_of(model: Any, text: str, answer: str, wrong: str, **how: Any) -> sm.TokenGame:
    """The logit of the answer minus that of a wrong one."""
    rows = [{"prompt": text, "answer": answer, "distractor": wrong}]
    return sm.TokenGame(model, sm.load_task(rows, model), **how)


def words(options: Options) -> Iterator[Row]:
    """All pairs of a paragraph's words, with both maskings; and who finds the strongest."""
    options.must_be_full()
    model = sm.load_model(sm.models.SMOLLM2)
    for masking in MASKINGS:
        game = game_of(model, PARAGRAPH, " Paris", " London", spans="words", masking=masking)
        found = sm.discover(game, method="exhaustive", progress=False)
        row: Row = {"what": "map", "masking": masking, "units": len(game), "pairs": len(found)}
        sizes = np.sort(abs(found.mean))[::-1]
        yield row | {"intact": found.intact} | {f"size_of_{k}th": sizes[k - 1] for k in (1, 10, 50)}
        yield from strongest_of(found, masking=masking)
        if masking == SEARCHED:
            known = OfMap(game, found)
            yield from searched(Case("words", known, strongest(found), found.main_effects, KS))


def strongest_of(found: sm.Interactions, count: int = 8, **about: str) -> Iterator[Row]:
    """The strongest sets, with what each unit does alone."""
    top, alone = found.top(count), dict(zip(found.labels, found.main_effects, strict=True))
    for units, value, reading in zip(top.names, top.mean, top.readings, strict=True):
        row: Row = {"what": "set", **about, "units": " x ".join(units)}
        row |= {"value": float(value), "reading": reading}
        yield row | {"alone": [float(alone[unit]) for unit in units]}


def searched(case: Case) -> Iterator[Row]:
    """What is measured of the strongest pairs at parts of the cost of all."""
    n = len(case.game)
    for share in SHARES:
        budget = round(share * (1 + n + n * (n - 1) // 2))
        yield from case.of_ours(budget, ("spex", "spex, no gradients", "proxyspex"), SEEDS)
        yield from case.of_no_search(budget)
        yield from case.of_rivals(budget, RIVALS, SEEDS[:1])


def sentences(options: Options) -> Iterator[Row]:
    """All pairs and triples of the retrieved sentences, with two maskings."""
    options.must_be_full()
    text = " ".join((*RETRIEVED, QUESTION))
    asked = (sm.load_model(sm.models.SMOLLM2), text, " Vienna", " Prague")
    spans = game_of(*asked, spans="sentences", masking="mean").spans[: len(RETRIEVED)]
    for masking in ("delete", "attention"):  # the question is always seen
        game = game_of(*asked, spans=spans, masking=masking, labels=RETRIEVED)
        found = sm.discover(game, method="exhaustive", order=3, progress=False)
        row: Row = {"what": "map", "masking": masking, "units": len(game), "intact": found.intact}
        yield row | {"sets": len(found)}
        yield from strongest_of(found, masking=masking)


PARTS = {"words": words, "sentences": sentences}

if __name__ == "__main__":
    script(__doc__, "smollm2_text", PARTS)
