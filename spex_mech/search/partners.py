"""The strongest partners of one unit, or its backups.

With slopes two gradients tell them apart: at the intact model and without the unit. The difference
predicts the interaction of the unit with every other (``search.gradient_rows``); the largest are
measured. Without slopes all are measured.
"""

import numpy as np
from jaxtyping import Float

from spex_mech.arguments import whole
from spex_mech.masks import MaskBatch, Set
from spex_mech.search.contract import GRADIENT_COST, Findings, Question, Search
from spex_mech.search.ledger import Answer, Asking, Ledger, pair


class Partners(Search):
    """Measures the pairs of one unit with the ``k`` others that promise most.

    Args:
        n: how many units.
        unit: whose partners are sought.
        k: how many pairs are measured, of those predicted to be strongest.
        slopes: whether the game gives slopes; without, all ``n - 1`` pairs are measured.
        backups: OR-like ones first: units whose loss goes the same way as that of the unit, taken
            over the other being there or gone. So a unit is found too whose own loss, as long as
            its backup is there, changes nothing, or a little the other way.

    Where the slopes do not differ at all, as of a metric that is flat there, all are measured.

    Raises:
        ValueError: fewer than two units, or no such unit.
    """

    def __init__(
        self, n: int, unit: int, k: int = 20, *, slopes: bool = True, backups: bool = False
    ) -> None:
        self.n, self.unit = whole("n", n, 2), whole("unit", unit, 0, n - 1)
        self.k = min(whole("k", k, 1), n - 1)
        self._slopes, self._backups = slopes, backups
        if not slopes:
            self.k = n - 1
        self.name = "backups" if backups else "partners"
        self.planned = 2 * (GRADIENT_COST if slopes else 1) + 2 * self.k
        self.ledger = Ledger(n, self.planned)
        self._steps = self._run()
        self._question: Question | None = next(self._steps)

    def ask(self) -> Question | None:
        return self._question

    def tell(
        self,
        values: Float[np.ndarray, "mask prompt"],
        gradients: Float[np.ndarray, "mask block unit"] | None = None,
    ) -> None:
        try:
            self._question = self._steps.send(Answer(values.astype(np.float64), gradients))
        except StopIteration:
            self._question = None

    def best(self, k: int) -> list[tuple[tuple[int, ...], float]]:
        return self.ledger.best(k)

    def chosen_from(self) -> dict[int, int]:
        """All pairs of the unit, where slopes on these prompts chose among them."""
        return {2: self.n - 1} if self.k < self.n - 1 else {}

    def findings(self) -> Findings:
        return self.ledger.findings()

    def _run(self) -> Asking[None]:
        ends: list[Set] = [(), (self.unit,)]
        question = Question(
            MaskBatch.of_sets(ends, self.n), self._slopes, f"without unit {self.unit}"
        )
        answer = yield from self.ledger.ask(question)
        self.ledger.value.update(zip(ends, answer.values, strict=True))
        others = np.delete(np.arange(self.n), self.unit)
        if answer.gradients is not None:
            intact, without = answer.gradients.astype(np.float64).mean(axis=1)
            promise = (intact - without)[others]
            if not promise.any():
                self.k = self.n - 1
                self.ledger.budget = self.ledger.spent + 2 * self.k
            # The effect of the unit, over the other being there or gone, goes the way of the
            # interaction where that is OR-like.
            effect = self.ledger.main_effect(self.unit) + promise / 2
            promise = promise * effect if self._backups else abs(promise)
            others = others[np.argsort(-promise, kind="stable")]
        pairs = [pair(self.unit, int(other)) for other in others[: self.k]]
        yield from self.ledger.measure(pairs, "measuring likely pairs")
