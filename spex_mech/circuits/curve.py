"""Faithfulness at every size: the best circuit of each size, or the first so many of a ranking."""

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.circuits.mib import areas, mib_sizes
from spex_mech.circuits.scores import Score
from spex_mech.circuits.span import LEVEL, Span, checked_span, share_intervals
from spex_mech.results.statistics import ratios, standard_errors

if TYPE_CHECKING:
    import pandas as pd


def on_prompts(count: int, where: str) -> str:
    """How many prompts or clusters, in words: one is not called by its plural.

    >>> on_prompts(1, "clusters of 4 held-out prompts")
    '1 cluster of 4 held-out prompts'
    """
    words = re.sub(r"(cluster|prompt)s\b", r"\1", where, count=1) if count == 1 else where
    return f"{count:,} {words}"


class Areas(NamedTuple):
    """The benchmark's two areas of a curve."""

    cpr: Score
    cmd: Score


@dataclass(frozen=True, eq=False)
class FaithfulnessCurve:
    """The best circuit of each size, and how faithful it is.

    Args:
        labels: the name of every unit.
        circuits: which units each kept; sizes ascend, from none to all.
        values: the metric of each circuit on each prompt, or, where prompts have clusters, what
            each cluster adds to the mean (``results.statistics.by_cluster``).
        cost: evaluations on the prompts of the selection and on held-out ones, gradients, seconds.
        about: what ordered or searched the circuits, and what they were measured on.
    """

    labels: list[str]
    circuits: Bool[np.ndarray, "size unit"]
    values: Float[np.ndarray, "size prompt"]
    cost: dict[str, int | float] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> Int[np.ndarray, " size"]:
        """How many units each keeps."""
        return self.circuits.sum(axis=1)

    @cached_property
    def span(self) -> Span:
        """What all units together do for the metric: what shares are shares of.

        Raises:
            ValueError: it is nothing, or under one standard error.
        """
        return checked_span(self.values[-1], self.values[0], "these prompts")

    @cached_property
    def influence(self) -> Float[np.ndarray, "size prompt"]:
        """Each prompt's influence on each faithfulness: for errors of sums and differences of
        curves that were measured on the same prompts."""
        return self._ratios[1]

    @cached_property
    def faithfulness(self) -> Float[np.ndarray, " size"]:
        """Of each size: 0 for nothing kept, 1 for everything.

        Raises:
            ValueError: nothing and everything kept do the same.
        """
        return self._ratios[0]

    @cached_property
    def stderr(self) -> Float[np.ndarray, " size"]:
        """Standard error of each faithfulness over prompts (NaN for a single prompt)."""
        return standard_errors(self.influence)

    def intervals(self, level: float = LEVEL) -> Float[np.ndarray, "size 2"]:
        """Low and high end of each faithfulness over all prompts there could be (Fieller's; NaN for
        a single prompt, without ends where the span cannot be told from 0 at this level).

        Raises:
            ValueError: a level that is not between 0 and 1.
        """
        return share_intervals(
            self.values - self.values[0], self.values[-1] - self.values[0], level
        )

    @property
    def cpr(self) -> Score:
        """Area under faithfulness over the share of units kept, from 0 to 1: higher is better."""
        return self._area(self.faithfulness, self.influence)

    @property
    def cmd(self) -> Score:
        """Area between faithfulness and 1: lower is better."""
        off = 1 - self.faithfulness
        return self._area(abs(off), -np.sign(off)[:, None] * self.influence)

    def mib_areas(self) -> Areas:
        """CPR and CMD as the Mechanistic Interpretability Benchmark works them out: at the sizes
        ``int(share * n)`` of its ten shares, over shares from 0.001 to 1. :attr:`cpr` and
        :attr:`cmd` are over all sizes that were measured, from 0 to 1, and differ a little.

        Raises:
            ValueError: one of those sizes was not measured.
        """
        wanted, row_of = mib_sizes(len(self.labels)), {int(s): r for r, s in enumerate(self.sizes)}
        if missing := [size for size in wanted if size not in row_of]:
            raise ValueError(
                f"the benchmark's areas need a circuit of {missing[0]} units, which is not on this "
                "curve; give faithfulness_curve(..., sizes='mib')"
            )
        rows = [row_of[size] for size in wanted]
        return Areas(*areas(self.faithfulness[rows], self.influence[rows]))

    def frame(self) -> "pd.DataFrame":
        """A pandas table with a row per size: ``size faithfulness stderr units``."""
        import pandas as pd

        names = np.array(self.labels)
        data = {"size": self.sizes, "faithfulness": self.faithfulness, "stderr": self.stderr}
        return pd.DataFrame({**data, "units": [", ".join(names[kept]) for kept in self.circuits]})

    def __repr__(self) -> str:
        on = on_prompts(self.values.shape[1], self.about.get("measured_on", "prompts"))
        return (
            f"faithfulness of circuits of {len(self.sizes)} sizes among {len(self.labels):,} "
            f"units, on {on}: CPR {self.cpr}, CMD {self.cmd}"
        )

    @cached_property
    def _ratios(self) -> tuple[Float[np.ndarray, " size"], Float[np.ndarray, "size prompt"]]:
        below = self.values[-1] - self.values[0]
        if below.mean() == 0:
            raise ValueError(
                f"the metric is {self.values[0].mean():.4g} with all units kept and with none: "
                "there is nothing to take a share of"
            )
        return ratios(self.values - self.values[0], below)

    def _area(self, height: Float[np.ndarray, " size"], pulls: Any) -> Score:
        share = self.sizes / len(self.labels)
        error = standard_errors(np.trapezoid(pulls, share, axis=0)[None])[0]
        return Score(float(np.trapezoid(height, share)), float(error))


Curve = FaithfulnessCurve  # the old name, which goes with 0.3.0
