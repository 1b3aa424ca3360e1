"""Candidates from gradients: which pairs interact, as slopes say, corrected by what was measured.

1. *Slopes at random masks.* How much a unit's slope changes there (a share of the units ablated)
   tells how much it interacts with all others, by symmetry the norm of its own row. Of the 260K
   story model's 40 rows of largest norm, 8 such gradients put 34 among their first 80; an
   attribution over gates puts 22 there, slopes put 21.
2. *Rows.* The gradient at the model without unit i gives the slope of every other unit j. Its
   difference to the slope at the intact model, ``s_ij = g_j(N) - g_j(N without i)``, is the
   interaction of i and j if j acts linearly. One gradient so predicts a whole row. Where i and j
   both have a row, the larger of ``s_ij`` and ``s_ji`` is the prediction: saturation makes one of
   them vanish, hardly both. The next rows are those of the units for which the sum of the roots is
   largest of three signs: what changes of their slopes at random masks, their columns in the rows
   known so far, and (with a weight of 0.15) their slopes at the intact model. On five games (heads
   of SmolLM2 on two tasks, units of the story models on three) the logarithms of the signs
   correlate with that of the norm of all a unit's interactions by 0.78 to 0.97, 0.82 to 1.0 and
   0.47 to 0.94. Sums, roots and products were tried on nine (all heads of SmolLM2 on two tasks, of
   both story models, their heads and neurons, three compiled programs), and the weights were chosen
   there. On the average this rule measures 0.82 of the true top pairs, a product with half the
   weight of slopes 0.79, a sum without slopes 0.81. The product falls behind where slopes are zero,
   as in compiled programs, and where few rows are asked for.
3. *Ranking.* Slopes come by block of prompts. A pair may help on some prompts and hurt on others,
   or be saturated on average, and the mean of ``s_ij`` vanish where its blocks do not: the
   predicted size is the size of the mean plus a part of the root mean square over blocks. On the
   260K story model (900 units, all rows) the first 600 predictions then hold 0.95 of the true top
   100, against 0.92 by the mean alone; positions within prompts, kept apart too, add nothing.
4. *Correction.* What is measured teaches two things. A unit whose slope overstates what its own
   ablation does overstates its interactions likewise: they are multiplied by the root of the ratio
   of its single effect and its slope (the root, as the ratio itself is wrong where the effect
   cancels; by 2 at most, as far from that the effect is often next to zero). And a factor for each
   unit and block of prompts, as on some prompts a unit comes to a cliff and all its slopes
   understate.

What the rows miss is where both units are saturated on all prompts. Rows at other reference points
(gates at 0.95, 0.9, 0.75; random masks), a regression on main effects and self-curvatures, and a
learned ranking by boosted trees were tried on four games and found no more at equal cost. Nor do
backward rules that keep slopes alive, tried on all 270 heads of SmolLM2 (indirect object
identification, 270 rows): the first 200 predictions hold 0.86 of the true top 100 by true
gradients, 0.57 with the norms' denominators frozen, 0.67 with halved gated MLPs as well (as in
RelP, Rezaei Jafari et al. 2025), and 0.83 with the slopes of a softmax of twice the temperature
(as in GIM, Edin et al. 2025); the first and the last together, at twice the cost, 0.86 to 0.87.
"""

import numpy as np
from jaxtyping import Float, Int

from spex_mech.masks import MaskBatch, Set
from spex_mech.pairs.gradient_rows import GradientRows
from spex_mech.search.budget import Budget, Context
from spex_mech.search.contract import GRADIENT_COST, Question
from spex_mech.search.ledger import Asking, Ledger
from spex_mech.search.settings import DEFAULTS, SearchSettings

_LEAST_ROWS = 4
_MOST_BENT = 2.0  # of the correction by a single effect; more than that tells of a zero or a cliff


def gradient_rows(
    context: Context, budget: Budget, deep_fraction: float = 1.0
) -> Asking[GradientRows]:
    """Gradient rows for the units that promise most.

    Args:
        deep_fraction: random masks ablate at most this share of the units.
    """
    ledger, settings = context.ledger, context.settings
    n, room = ledger.n, budget.left
    rows = yield from _deep_gradients(context, room, min(deep_fraction, settings.deep_fraction))
    # A row brings its unit's single ablation with it. Asking for all singles first was tried: it
    # ranks the rows better, but costs more than it saves.
    n_rows = max(_LEAST_ROWS, int(settings.row_share * room) // GRADIENT_COST)
    fitting = settings.memory_bytes // rows.bytes_of_row(n, rows.n_blocks)
    n_rows = min(n, n_rows, max(_LEAST_ROWS, fitting))
    rows.reserve(n_rows)
    at_once = rows_at_once(n_rows, settings)
    while len(rows.asked) < n_rows:
        units = rows.next_rows(min(at_once, n_rows - len(rows.asked)))
        question = Question(
            MaskBatch.of_sets([(u,) for u in units], n), True, "gradients without one unit"
        )
        answer = yield from ledger.ask(question)
        assert answer.gradients is not None
        for unit, value, gradient in zip(units, answer.values, answer.gradients, strict=True):
            ledger.value[(unit,)] = value
            rows.add(unit, gradient)
    return rows


def rows_at_once(n_rows: int, settings: SearchSettings) -> int:
    """How many of so many rows one question asks for."""
    return max(settings.rows_at_once, -(-n_rows // settings.row_rounds))


def _deep_gradients(context: Context, room: int, fraction: float) -> Asking[GradientRows]:
    """The slopes at the intact model and at random masks, which tell how much units interact."""
    ledger, rng, settings = context.ledger, context.rng, context.settings
    nothing = MaskBatch.of_sets([()], ledger.n)
    answer = yield from ledger.ask(Question(nothing, gradient=True, stage="intact model"))
    assert answer.gradients is not None
    ledger.value[()] = answer.values[0]
    wanted = settings.deep_share * room / GRADIENT_COST
    count = int(np.clip(wanted, settings.min_deep, settings.max_deep))
    n_ablated = max(1, round(fraction * ledger.n))
    sets = [tuple(np.sort(rng.permutation(ledger.n)[:n_ablated]).tolist()) for _ in range(count)]
    question = Question(MaskBatch.of_sets(sets, ledger.n), True, "gradients at random masks")
    deep = yield from ledger.ask(question)
    assert deep.gradients is not None
    return GradientRows(answer.gradients[0], deep.gradients, block_weight=settings.block_weight)


class RowRanker:
    """Ranks pairs by gradient rows, corrected for what was measured.

    Where neither unit has a row, a pair is ranked by how large both columns are.
    """

    exhausted = False

    def __init__(self, rows: GradientRows, settings: SearchSettings = DEFAULTS) -> None:
        self.rows, self._settings = rows, settings
        self._factors = np.ones((rows.n, rows.n_blocks))
        self._bends = np.ones(rows.n)  # how much more a single ablation does than its slope says
        self._bent = np.zeros(rows.n, dtype=bool)  # of which that is known
        self._sizes: dict[Set, Float[np.ndarray, " block"]] = {}  # of measured pairs
        self._floor = 1e-6 * float(rows.matrix().max(initial=0.0)) or float(np.finfo(float).tiny)

    def strongest(self, count: int) -> Int[np.ndarray, "pair 2"]:
        return self.rows.strongest(count)

    def kind_of(self, pairs: Int[np.ndarray, "pair 2"]) -> Int[np.ndarray, " pair"]:
        """How many of a pair's two units have a row."""
        return self.rows.n_rows_of(pairs)

    def slopes(self) -> dict[Set, Float[np.ndarray, " unit"]]:
        return self.rows.slopes()

    def higher_order(self, order: int, count: int) -> list[Set]:
        return []

    def fit(self, ledger: Ledger) -> None:
        """How each unit bends, and a factor for each unit and block of prompts: how much larger its
        measured pairs are than predicted, shrunk towards that of all pairs."""
        self._fit_bends(ledger)
        pairs, sizes = self._measured(ledger)
        predicted = abs(self.rows.predict(pairs, self._bends))
        known = np.isfinite(predicted).all(axis=1)
        if not known.any() or not predicted[known].any():
            return
        pairs, predicted, sizes = pairs[known], predicted[known], sizes[known]
        overall = sizes.sum() / predicted.sum()
        prior = self._settings.factor_prior * np.median(predicted[predicted > 0])
        observed, expected = np.zeros_like(self._factors), np.zeros_like(self._factors)
        for unit in pairs.T:
            np.add.at(observed, unit, sizes)
            np.add.at(expected, unit, predicted)
        self._factors = (observed / (overall or 1.0) + prior) / (expected + prior)

    def _fit_bends(self, ledger: Ledger) -> None:
        """Of the units whose single ablation is new; those of earlier rounds are kept."""
        singles = [s[0] for s in ledger.value if len(s) == 1]
        new = np.array([unit for unit in singles if not self._bent[unit]], dtype=np.int64)
        if not len(new):
            return
        effects = self._by_block(np.array([ledger.effect((unit,)) for unit in new.tolist()]))
        slopes = self.rows.intact[:, new].T
        of_effect, of_slope = (np.sqrt((x**2).mean(axis=1)) for x in (effects, slopes))
        told = (of_effect > 0) & (of_slope > 0)
        bends = np.sqrt(of_effect[told] / of_slope[told])
        self._bends[new[told]] = bends.clip(1 / _MOST_BENT, _MOST_BENT)
        self._bent[new] = True

    def _by_block(self, values: Float[np.ndarray, "set prompt"]) -> Float[np.ndarray, "set block"]:
        """The means over the prompts of each block."""
        n_blocks = self.rows.n_blocks
        block = np.arange(values.shape[1]) * n_blocks // values.shape[1]
        return np.stack([values[:, block == b].mean(1) for b in range(n_blocks)], axis=1)

    def _measured(
        self, ledger: Ledger
    ) -> tuple[Int[np.ndarray, "pair 2"], Float[np.ndarray, "pair block"]]:
        """The pairs that were measured, and their sizes in each block of prompts; those of earlier
        rounds are kept."""
        new = [s for s in ledger.interaction if len(s) == 2 and s not in self._sizes]
        if new:
            sizes = abs(self._by_block(np.array([ledger.effect(s) for s in new])))
            self._sizes.update(zip(new, sizes, strict=True))
        if not self._sizes:
            return np.empty((0, 2), dtype=np.int64), np.empty((0, self.rows.n_blocks))
        return np.array(list(self._sizes)), np.array(list(self._sizes.values()))

    def score(self, pairs: Int[np.ndarray, "pair 2"]) -> Float[np.ndarray, " pair"]:
        """Predicted log-size, up to a constant."""
        factors = np.maximum(*self._factors[pairs.T])
        corrected = (self.rows.predict(pairs, self._bends) * factors)[:, :, None]
        predicted = self.rows.magnitude(corrected)[:, 0]
        unknown = np.isnan(predicted)
        predicted[unknown] = self.rows.extrapolate(pairs[unknown])
        return np.log(predicted + self._floor)
