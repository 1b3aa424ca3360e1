"""How often each expert of a model's mixtures is used on the prompts of a task."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from spex_mech.engine.passes import Pass, Taps, call
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.references import real_positions

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = 20
# Rows of a pass, which positions are no padding, and place -> chosen experts and their weights.
Routed = tuple[int, Any, Mapping[int, tuple[Tensor, Tensor]]]


@dataclass(frozen=True, eq=False)
class ExpertUse:
    """How often the intact model's routers choose each expert. Printed, the experts that are used
    most.

    Args:
        labels: of the experts of all layers.
        n_tokens: tokens, without padding, that reach the mixture of each.
        n_used: those of them for which it is among the chosen, with a weight that is not zero.
        weight: its mean weight at these; NaN where there are none.
    """

    labels: tuple[str, ...]
    n_tokens: Int[np.ndarray, " expert"]
    n_used: Int[np.ndarray, " expert"]
    weight: Float[np.ndarray, " expert"]

    @property
    def share(self) -> Float[np.ndarray, " expert"]:
        """The share of tokens that use each, 0 to 1."""
        return self.n_used / self.n_tokens

    def frame(self) -> "pd.DataFrame":
        """A row for each expert: expert, tokens, used, share, weight."""
        import pandas as pd

        columns = (self.labels, self.n_tokens, self.n_used, self.share, self.weight)
        names = ("expert", "tokens", "used", "share", "weight")
        return pd.DataFrame(dict(zip(names, columns, strict=True)))

    def recorded(self) -> dict[str, Any]:
        """The numbers and a sentence, as a result keeps them."""
        return {
            "labels": [*self.labels],
            "tokens": self.n_tokens.tolist(),
            "used": self.n_used.tolist(),
            "weight": [None if np.isnan(w) else w for w in self.weight.tolist()],
            "words": self.words,
        }

    @property
    def words(self) -> str:
        """A sentence: which is used most, and how many are not used."""
        most = int(self.share.argmax())
        said = (
            f"Of {len(self.labels):,} experts, {self.labels[most]} is used most, at "
            f"{self.share[most]:.2f} of the tokens"
        )
        if not (unused := [x for x, n in zip(self.labels, self.n_used, strict=True) if not n]):
            return f"{said}; all are used."
        first = f"{', '.join(unused[:3])}{', ...' if len(unused) > 3 else ''}"
        return f"{said}; {len(unused):,} {'are' if len(unused) > 1 else 'is'} never used ({first})."

    def __str__(self) -> str:
        order = np.argsort(-self.share, kind="stable")[:_SHOWN].tolist()
        width = max(map(len, self.labels))
        rows = [
            f"  {self.labels[at]:<{width}}  {self.share[at]:.3f} of {self.n_tokens[at]:,} tokens, "
            + (f"mean weight {self.weight[at]:.3g}" if self.n_used[at] else "never used")
            for at in order
        ]
        left = len(self.labels) - len(order)
        return "\n".join([self.words, *rows, *([f"  ... {left:,} more: .frame()"] if left else [])])

    __repr__ = __str__


def expert_use_of(
    taps: Taps,
    labels: Sequence[Sequence[str]],
    in_parts: Callable[[Callable[[Prompts], Routed]], Iterable[Routed]],
    real: Callable[[Prompts], Bool[Tensor, "row pos"] | Mapping[int, Bool[Tensor, "row pos"]]],
) -> ExpertUse:
    """The use of the experts at each place of these taps, all of which are mixtures.

    Args:
        labels: of the experts at each place.
        in_parts: calls what it is given with the prompts, as many at a time as a pass takes.
        real: which positions are no padding: of the tokens, or of each place's own.
    """
    tokens = [0] * len(labels)
    used = [torch.zeros(len(names), dtype=torch.long) for names in labels]
    weights = [torch.zeros(len(names), dtype=torch.float64) for names in labels]

    def routed(part: Prompts) -> Routed:
        one = Pass(len(part), routes={})
        with torch.no_grad(), taps.installed(), taps.passing(one):
            call(taps.model, part)
        return len(part), real(part), one.routes or {}

    for n_rows, marked, routes in in_parts(routed):
        for at, (chosen, weight) in routes.items():
            of_expert = torch.stack(
                [(weight * (chosen == e)).sum(1) for e in range(len(labels[at]))], dim=1
            ).cpu()
            each = of_expert.double().unflatten(0, (n_rows, -1))
            here = marked[at] if isinstance(marked, Mapping) else marked
            kept = each[real_positions(each, here.cpu())]
            tokens[at] += len(kept)
            used[at] += (kept != 0).sum(0)
            weights[at] += kept.sum(0)
    n_used = torch.cat(used).numpy()
    with np.errstate(invalid="ignore"):
        mean = torch.cat(weights).numpy() / n_used
    sizes = [len(names) for names in labels]
    every = tuple(name for names in labels for name in names)
    return ExpertUse(every, np.repeat(tokens, sizes), n_used, mean)
