"""Every constant that steers a search, in one place: its unit, and where it comes from.

A search takes one ``SearchSettings`` and hands it down, so that a benchmark can vary one constant
(``benchmarks/sensitivity.py`` halves and doubles each) and nothing steers from the middle of a
file. What is left in the files themselves are tolerances of rounding, which steer nothing.
"""

from dataclasses import dataclass
from math import ceil


@dataclass(frozen=True)
class SearchSettings:
    """The constants of all adaptive searches.

    "Tried" says that a value comes from trials on games with known truth and has no derivation;
    "fitted" that it was changed until particular games came out well, which are then shown in the
    README: results on those games are no test of it.

    Args:
        memory_bytes: of the largest table that a search may hold (gradient rows). Memory.
        block_bytes: of one block of pairs that is scanned at once. Memory.
        max_candidates: pairs that are ranked at once. Memory.

        deep_share: of the budget, for gradients at random masks. Tried on the 260K story model.
        min_deep, max_deep: gradients at random masks, whatever the share says. Tried there.
        deep_fraction: of the units, ablated by each of those masks. Tried there.
        row_share: of the budget, for gradient rows. Tried.
        rows_at_once: rows in one question, at least; more rows keep more workers busy, and are
            chosen with less known: of SmolLM2's heads on capitals, 8 measure 0.65 of the top 100
            with 270 evaluations, 16 measure 0.52. A compromise, chosen there.
        row_rounds: questions in which rows are asked where there are many. A compromise.
        block_weight: of the root mean square over blocks of prompts, beside the mean, in a slope's
            size. Fitted to the 260K story model (0.92 of its top 100 without, 0.95 with).
        factor_prior: median predictions by which a unit's correction factor is shrunk. Tried; half
            or twice as many changes no recall, and as many as the measured pairs themselves say
            (the method of moments) measured 0.01 less of the 260K story model's top 100 with 3,600
            evaluations, the same on SmolLM2's heads.
        strength_prior: measured pairs by which a unit's strength is shrunk. Likewise.
        max_strength_steps: of the fit of strengths; half as many lose 0.07 of the recall where
            units are uneven.

        few_units: up to so many units the budget may pay for a large part of all pairs. Fitted to
            compiled programs, which the README shows.
        large_part: the part of all pairs from which on groups do not pay there. Fitted likewise.
        first_pairs: pairs that are measured first there. Fitted likewise.
        first_quantile: of their sizes, which must not be nothing. Fitted likewise.
        nothing: of the largest main effect: what counts as nothing there. Above rounding.
        uneven_ratio: typical energy of pairs of strong units over that of random pairs, from which
            on units count as uneven. Tried.
        probe_share: of the budget, for each of the two kinds of pairs in that comparison. Tried.
        min_probe_pairs, max_probe_pairs: pairs of each kind. Tried.

        probed_cells: cells of a table that tell sparse from dense. For a ratio's standard error of
            about a tenth.
        sparse_ratio: median over root mean square of those cells, under which the truth is sparse;
            a normal tail has 0.67, give or take 0.09 with so many cells. Halved or doubled it
            changes no recall.
        false_alarm: chance that one of all cells of a table is called hot though its sum is from
            the normal tail of the others. A level of significance, with Bonferroni's correction.
        max_passes: tables of a sparse truth. An end for what does not end by itself.
        max_pooled: cells halved in one test: 2 to that power sums have to be told apart.
        min_residuals: of pooled tests, from which a new floor is worked out. Tried.
        split_table_share: of the budget over a dense tail, for the first table. Tried.
        split_tested_share: of that budget, the cells of the table that are tested. Tried.
        max_halved: cells halved in one question over a dense tail.

        n_rounds: of validation; what a round measured ranks the next. Tried.
        min_round: pairs in a round.
        candidates_per_test: pairs ranked for each pair that can be measured. Tried.
        higher_share: of the budget, for orders above 2. By the wish for both.
        higher_share_exhausted: the same where the strong pairs are thought to be measured.
        all_pairs_factor: a budget of so many times all pairs pays for all pairs first, where
            higher orders are asked for.
        few_sets: where higher orders are asked for, and all sets are so few or fewer, the default
            budget pays for all of them. A compromise.
        weak_share: of what is for higher orders: sets of strong units with weak subsets.
        audit_share: of the budget, for the audit. At most a tenth is what a user would give.
        min_audit, max_audit: tests of the audit.

        again_share: of the budget, masks that are asked again. By the wish for a few percent.
        min_again, max_again: masks that are asked again. From 8 on a quantile of Student's t is no
            more than twice that of a normal distribution.
        enough_again: masks that are asked again where values differ and the budget is the default.

        shares: of the units, ablated to see how much may be. Halvings of a half.
        per_share, per_share_higher: masks of each of those, in ProxySPEX and before group tests of
            higher orders.
        informative_ratio: how much more twice as many units must change the values. Tried.

        value_share, min_values, max_values: of the budget, masks that a proxy learns values from.
        held_share, min_held: of the budget, masks to work out the proxy's R² on.
        r2_stderr: the standard error of that R² that is enough, and with it the most masks
            (``max_held``): it is at most sqrt(16 / 27 / masks), at an R² of 1/3.
        learned_share: of the budget, for a proxy that learns from masks alone. Tried.
        first_share: of those, drawn at random. Tried.
        unsure_candidates: masks to choose one from where the proxy is unsure.
        max_unsure: of all those, and pairs that a proxy is asked to propose. Memory.
        refit_factor: a proxy is fitted again with so many times as many masks.
        max_examples: small sets that the Gaussian process learns from: its cost is cubic in them.
    """

    memory_bytes: int = 4_000_000_000
    block_bytes: int = 32_000_000
    max_candidates: int = 300_000

    deep_share: float = 0.07
    min_deep: int = 4
    max_deep: int = 16
    deep_fraction: float = 0.3
    row_share: float = 0.25
    rows_at_once: int = 8
    row_rounds: int = 8
    block_weight: float = 0.3
    factor_prior: float = 30.0
    strength_prior: float = 10.0
    max_strength_steps: int = 5

    few_units: int = 64
    large_part: float = 0.2
    first_pairs: int = 30
    first_quantile: float = 0.75
    nothing: float = 1e-5
    uneven_ratio: float = 5.0
    probe_share: float = 0.1
    min_probe_pairs: int = 24
    max_probe_pairs: int = 200

    probed_cells: int = 60
    sparse_ratio: float = 0.12
    false_alarm: float = 0.05
    max_passes: int = 6
    max_pooled: int = 8
    min_residuals: int = 8
    split_table_share: float = 0.4
    split_tested_share: float = 0.6
    max_halved: int = 64

    n_rounds: int = 12
    min_round: int = 40
    candidates_per_test: int = 20
    higher_share: float = 0.25
    higher_share_exhausted: float = 0.8
    all_pairs_factor: float = 1.25
    few_sets: int = 300
    weak_share: float = 0.1
    audit_share: float = 0.03
    min_audit: int = 30
    max_audit: int = 400

    again_share: float = 0.03
    min_again: int = 8
    max_again: int = 200
    enough_again: int = 48

    shares: tuple[float, ...] = (0.5, 0.25, 0.125, 0.0625)
    per_share: int = 2
    per_share_higher: int = 16
    informative_ratio: float = 1.2

    value_share: float = 0.025
    min_values: int = 4
    max_values: int = 200
    held_share: float = 0.012
    min_held: int = 6
    r2_stderr: float = 0.1
    learned_share: float = 0.4
    first_share: float = 0.6
    unsure_candidates: int = 8
    max_unsure: int = 20_000
    refit_factor: float = 1.25
    max_examples: int = 1500

    @property
    def max_held(self) -> int:
        """Masks with which R² is known to ``r2_stderr``, whatever it is."""
        return ceil(16 / 27 / self.r2_stderr**2)


DEFAULTS = SearchSettings()
