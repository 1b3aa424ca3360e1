"""Masks far from the intact model: drawing them, having them evaluated, and how much may be ablated
to learn from them."""

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.masks import MaskBatch
from spex_mech.search.budget import Context
from spex_mech.search.contract import Findings, Question, Search
from spex_mech.search.ledger import Asking, Ledger

MOST_SLOTS = 10_000_000  # units ablated by the masks of one question
LEDGER_ORDER = 4  # units of a set that the ledger keeps


def largest_informative_fraction(
    context: Context, examples: "EvaluatedMasks", per_share: int
) -> Asking[float]:
    """The largest fraction f of the units such that ablating f changes the values clearly more than
    ablating f/2 does. Where a model is broken, more ablation changes nothing.

    Args:
        examples: gets the masks that are evaluated.
        per_share: masks of each fraction.
    """
    ledger, settings = context.ledger, context.settings
    n, shares = ledger.n, settings.shares
    masks = np.ones((len(shares) * per_share, n), dtype=bool)
    for row, mask in enumerate(masks):
        size = max(1, round(shares[row // per_share] * n))
        mask[context.rng.permutation(n)[:size]] = False
    yield from examples.ask(ledger, masks, "how much can be ablated")
    values = np.array([examples.value_of(ledger, mask) for mask in masks])
    changes = ((values - ledger.value[()]) ** 2).reshape(len(shares), -1).mean(axis=1) ** 0.5
    for share, more, less in zip(shares, changes, changes[1:], strict=False):
        if more >= settings.informative_ratio * less:
            return share
    return shares[-1]


def complementary_masks(
    n: int, count: int, rng: np.random.Generator
) -> Bool[np.ndarray, "mask unit"]:
    """Random masks, each followed by its complement: their mean holds no main effect and no other
    interaction of odd order."""
    kept = rng.random(((count + 1) // 2, n)) < 0.5
    return np.stack([kept, ~kept], axis=1).reshape(-1, n)[:count]


class EvaluatedMasks:
    """Masks and their values, none of them twice."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._values: dict[bytes, Float[np.ndarray, " prompt"]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def ask(self, ledger: Ledger, masks: Bool[np.ndarray, "mask unit"], stage: str) -> Asking[None]:
        """Evaluate those that are not known yet."""
        new = {
            np.packbits(mask).tobytes(): mask
            for mask in masks
            if self.value_of(ledger, mask) is None
        }
        step = max(1, MOST_SLOTS // self.n)
        keys = list(new)
        for start in range(0, len(keys), step):
            part = keys[start : start + step]
            asked = MaskBatch.of_kept(np.array([new[key] for key in part]))
            answer = yield from ledger.ask(Question(asked, stage=stage))
            for key, s, value in zip(part, asked.sets(), answer.values, strict=True):
                if len(s) <= LEDGER_ORDER:
                    ledger.value[s] = value
                else:
                    self._values[key] = value

    def value_of(
        self, ledger: Ledger, mask: Bool[np.ndarray, " unit"]
    ) -> Float[np.ndarray, " prompt"] | None:
        lost = np.flatnonzero(~mask)
        if len(lost) <= LEDGER_ORDER:
            return ledger.value.get(tuple(lost.tolist()))
        return self._values.get(np.packbits(mask).tobytes())

    def all(
        self, ledger: Ledger | None = None, most: int | None = None
    ) -> tuple[Bool[np.ndarray, "mask unit"], Float[np.ndarray, "mask prompt"]]:
        """These, and of the ledger's sets the smallest, ``most`` at most."""
        packed = np.frombuffer(b"".join(self._values), dtype=np.uint8)
        masks = np.unpackbits(packed.reshape(len(self), -1), axis=1, count=self.n).astype(bool)
        values = list(self._values.values())
        sets = [] if ledger is None else sorted(ledger.value, key=len)[:most]
        small = np.ones((len(sets), self.n), dtype=bool)
        for mask, s in zip(small, sets, strict=True):
            mask[list(s)] = False
            assert ledger is not None
            values.append(ledger.value[s])
        return np.concatenate([masks, small]), np.array(values)


class EvaluateOnly(Search):
    """A search that only has masks evaluated."""

    def __init__(self, masks: Bool[np.ndarray, "mask unit"]) -> None:
        self.masks, self.planned = masks, len(masks)
        self._answers: list[np.ndarray] = []
        self._done = 0
        self._step = max(1, MOST_SLOTS // masks.shape[1])

    @property
    def values(self) -> Float[np.ndarray, "mask prompt"]:
        return np.concatenate(self._answers)

    def ask(self) -> Question | None:
        part = self.masks[self._done : self._done + self._step]
        if not len(part):
            return None
        return Question(MaskBatch.of_kept(part), stage="masks to learn from")

    def tell(
        self,
        values: Float[np.ndarray, "mask prompt"],
        gradients: Float[np.ndarray, "mask block unit"] | None = None,
    ) -> None:
        self._answers.append(values)
        self._done += len(values)

    def findings(self) -> Findings:
        """Nothing: no interaction was measured."""
        nothing = np.zeros((0, 2), dtype=np.int32)
        n_prompts = self.values.shape[1]
        unknown = np.full((self.masks.shape[1], n_prompts), np.nan)
        return Findings(nothing, np.zeros((0, n_prompts)), unknown, np.full(n_prompts, np.nan))
