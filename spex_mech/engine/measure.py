"""A task's metric, called and its answers checked: what every game of a model asks of it.

Most fields of prompts may be absent, and are None then. A metric that reads one fails somewhere
inside itself, or gives another shape, and says nothing of prompts. So it is called once more, with
prompts that note what it reads, and the error names the field.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from spex_mech.engine.device import as_the_user, is_out_of_memory
from spex_mech.engine.metrics import Metric
from spex_mech.engine.prompts import Prompts
from spex_mech.masks import names_of

_INSTEAD = {
    "attention_mask": "read prompts.real, which says which tokens are real whether or not it is "
    "given",
    "answer_pos": "read prompts.last, the position of the answer whether or not it is given",
}


@dataclass(frozen=True)
class Measure:
    """A task's metric, whose answers are checked.

    Args:
        labels: of the units, for errors.
    """

    metric: Metric
    name: str
    labels: Sequence[str]
    device: torch.device

    def __call__(self, output: Any, prompts: Prompts) -> Float[Tensor, " row"]:
        """Raises:
        ValueError: not one value per row, a model's output is looked for in its logits, or a field
            is read that these prompts have not.
        """
        try:
            with as_the_user(self.device):
                values = self.metric(output, prompts)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if (why := self._why(error, output, prompts)) is None:
                raise
            raise ValueError(why) from error
        if not isinstance(values, Tensor) or values.shape != (len(prompts),):
            shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            lacks = self._lacking(output, prompts)
            raise ValueError(
                f"the metric {self.name} returned {shape} for {len(prompts)} rows; it must "
                f"return one value per row, a tensor of shape [row]{f'; {lacks}' if lacks else ''}"
            )
        if values.layout != torch.strided:
            values = values.to_dense()
        if values.is_complex():
            raise ValueError(
                f"the metric {self.name} returned complex numbers, of which it is not known what "
                "should be compared; return their real part or their size"
            )
        return values

    def not_finite(self, value: float, prompt: int, ablated: Sequence[int]) -> NoReturn:
        """Raise the error that names the mask."""
        cure = "it must be finite"
        if not len(ablated):  # a window of padding alone has no average
            cure += (
                "; see that the metric and the model are, and where the model attends to a window "
                "of positions, give prompts of one length"
            )
        raise ValueError(
            f"the metric {self.name} is {value} for prompt {prompt} with "
            f"{names_of(self.labels, ablated)} ablated; {cure}"
        )

    def _why(self, error: Exception, output: Any, prompts: Prompts) -> str | None:
        """What is wrong where a metric fails; None: something of its own."""
        missing = error if isinstance(error, AttributeError) else None
        if missing and isinstance(output, Tensor) and missing.obj is output:
            return (
                f"the metric {self.name} asks for output.{missing.name}, and output is a tensor of "
                f"shape {list(output.shape)}: of a causal model the logits [row pos vocab] "
                "themselves"
            )
        if missing and missing.obj is prompts:
            return (
                f"the metric {self.name} reads prompts.{missing.name}, which prompts have not; "
                f"these have {_listed(prompts)} (what is no field is looked up by prompts.index, "
                "as in held[prompts.index])"
            )
        if not isinstance(error, TypeError | AttributeError) and "None" not in str(error):
            return None
        told = self._lacking(output, prompts)
        return f"{told} ({type(error).__name__}: {error})" if told else None

    def _lacking(self, output: Any, prompts: Prompts) -> str:
        """Which fields the metric reads that these prompts have not, and the cure; "" for none."""
        lacking: dict[str, None] = {}
        try:
            with torch.no_grad(), as_the_user(self.device):
                self.metric(output, _noted(prompts, lacking))
        except Exception as error:  # the same one again
            if is_out_of_memory(error):
                raise
        if not lacking:
            return ""
        names = " and ".join(f"prompts.{name}" for name in lacking)
        given = [name for name in lacking if name not in _INSTEAD]
        cures = [f"give Prompts(..., {'=..., '.join(given)}=...)"] if given else []
        cures += [_INSTEAD[name] for name in lacking if name in _INSTEAD]
        return (
            f"the metric {self.name} reads {names}, which these prompts have not (None); they have "
            f"{_listed(prompts)}: {', and '.join(cures)}"
        )


def _listed(prompts: Prompts) -> str:
    """What a metric may read of prompts: the fields that are there, and what is worked out."""
    there = (f.name for f in fields(prompts) if getattr(prompts, f.name) is not None)
    hidden = {"has_tokens", "corrupted_inputs", *(() if prompts.inputs else ("inputs",))}
    return ", ".join([*(name for name in there if name not in hidden), "last", "real"])


class _Noted(Prompts):
    """Prompts that note which absent fields are read, from without."""

    def __getattribute__(self, name: str) -> Any:
        inner, lacking = object.__getattribute__(self, "__dict__")["noted"]
        value = getattr(inner, name)
        if value is None:
            lacking[name] = None
        return value

    def __len__(self) -> int:
        inner, _ = object.__getattribute__(self, "__dict__")["noted"]
        return len(inner)

    def __getitem__(self, rows: Any) -> Prompts:
        inner, lacking = object.__getattribute__(self, "__dict__")["noted"]
        return _noted(inner[rows], lacking)


def _noted(prompts: Prompts, lacking: dict[str, None]) -> Prompts:
    noted = object.__new__(_Noted)
    object.__setattr__(noted, "noted", (prompts, lacking))
    return noted
