"""Student: a smaller model of the same units as a proxy.

The interactions of the student were searched with the student's own evaluations, which are cheap;
the large model is asked for a few masks, that say on what scale the two agree, and then for the
interactions that the student proposes. Good where both models compute alike: whether they do is
told by the R² on held-out masks and by the rank correlation of proposed and confirmed sizes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from spex_mech.proxies.inputs import check_examples
from spex_mech.proxy import Proxy


class Student(Proxy):
    """Values of a smaller game, on the scale of the large one.

    Args:
        game: the smaller one.
        found: its interactions: units in ascending order -> size.
        cost: evaluations that they took, of the smaller game.
    """

    name = "student"
    searched = True

    def __init__(
        self, game: Any, found: list[tuple[tuple[int, ...], float]], cost: dict[str, Any]
    ) -> None:
        self.game, self._found = game, sorted(found, key=lambda item: -abs(item[1]))
        self.about: Mapping[str, Any] = {
            **game.provenance(),
            "evaluations_of_student": cost.get("evaluations"),
        }
        self._known: dict[bytes, float] = {}
        self._offset, self._scale = 0.0, 1.0

    def fit(
        self, masks: Bool[np.ndarray, "mask unit"], values: Float[np.ndarray, "mask prompt"]
    ) -> None:
        """The scale on which the student's values are nearest to the large model's."""
        check_examples(masks, values)
        x, y = self._values(masks), values.mean(axis=1)
        spread = float(((x - x.mean()) ** 2).sum())
        self._scale = float(((x - x.mean()) * (y - y.mean())).sum() / spread) if spread else 1.0
        self._offset = float(y.mean() - self._scale * x.mean())

    def predict(self, masks: Bool[np.ndarray, "mask unit"]) -> Float[np.ndarray, " mask"]:
        """On average over prompts."""
        return self._offset + self._scale * self._values(masks)

    def propose(self, k: int, order: int = 2) -> list[tuple[tuple[int, ...], float]]:
        """The student's strongest interactions of 2 to ``order`` units."""
        fits = [(units, self._scale * value) for units, value in self._found if len(units) <= order]
        return fits[:k]

    def _values(self, masks: Bool[np.ndarray, "mask unit"]) -> Float[np.ndarray, " mask"]:
        keys = [np.packbits(mask).tobytes() for mask in masks]
        new = {key: mask for key, mask in zip(keys, masks, strict=True) if key not in self._known}
        if new:
            asked = torch.from_numpy(np.stack(list(new.values())))
            answer = torch.as_tensor(self.game(asked)).double().reshape(len(new), -1).mean(dim=1)
            self._known |= dict(zip(new, answer.tolist(), strict=True))
        return np.array([self._known[key] for key in keys])
