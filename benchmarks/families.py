"""Every type of model that the installed transformers has: is it understood, and are values right?

    python -m benchmarks.families                    # some minutes on one core
    python -m benchmarks.families --only causal

Of each type a tiny random model is built and judged (``tests/tiny.py``, ``tests/judge.py``): values
must agree with loops by hand to 1e-5 of the largest effect. Types that cannot be built are listed
with the reason. Writes ``results/families.json``.
"""

from collections.abc import Callable, Iterator
from typing import Any

from transformers.utils import logging

from benchmarks.frame import Options, Row, script
from tests.judge import judged
from tests.tiny import types_of


def of(*tasks: str, **how: Any) -> Callable[[Options], Iterator[Row]]:
    """The types that have a class for one of these tasks, each once."""

    def part(options: Options) -> Iterator[Row]:
        logging.set_verbosity(60)
        seen: set[str] = set()
        for task in tasks:
            types = types_of(task)
            for kind in [*types][:: 12 if options.quick else 1]:
                if kind not in seen:
                    seen.add(kind)
                    yield judged(kind, types[kind], **how)

    return part


def experts(options: Options) -> Iterator[Row]:
    """Of causal types that have a module called so."""
    for row in of("CAUSAL_LM", kinds=("experts",))(options):
        found = row.get("experts", {})
        if found and (found["ended"] != "refused" or "mixtures of experts" in found["why"]):
            yield row


OTHER = {"reads_tokens": False}  # images, sounds, or two texts
PARTS = {
    "causal": of("CAUSAL_LM"),
    "masked": of("MASKED_LM"),
    "classifiers": of("SEQUENCE_CLASSIFICATION"),
    "experts": experts,
    "images": of("IMAGE_CLASSIFICATION", **OTHER),
    "towers": of("IMAGE", "ZERO_SHOT_IMAGE_CLASSIFICATION", **OTHER),
    "sounds": of("AUDIO_CLASSIFICATION", "CTC", **OTHER),
    "decoders": of("SEQ_TO_SEQ_CAUSAL_LM", "SPEECH_SEQ_2_SEQ", **OTHER),
}

if __name__ == "__main__":
    script(__doc__, "families", PARTS)
