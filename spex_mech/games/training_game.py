"""TrainingGame: a training procedure as a set function of which examples it trains on.

Data attribution on the same core as heads and neurons: a mask is a subset to train on, the value a
measure of the trained model on each test point, so that test points take the place of prompts. The
procedures here have closed forms (or a few Newton steps) that run for many masks at once, and their
gradients with respect to the weight of each example, which are influence functions (Koh and Liang
2017), screen the pairs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spex_mech.games.batches import in_batches
from spex_mech.games.masks import mask_table, spread, unit_of_places

# Weights of the examples, 0 or 1 or, for gradients, between -> a value at each test point.
Train = Callable[[Float[Tensor, "mask example"]], Float[Tensor, "mask point"]]
_MOST_BLOCKS = 8  # of test points, in slopes by block
_MASKS = 64


class TrainingGame:
    """Masks over training examples, or groups of them -> values ``[mask point]``.

    Args:
        train: trains on weighted examples and evaluates: ``Float[mask example] -> [mask point]``;
            :func:`ridge`, :func:`kernel_ridge`, :func:`logistic`, or your own, which may loop over
            its rows. Larger should mean better.
        n_examples: how many there are.
        groups: the examples of each unit (such as duplicates, or a cluster); default: each alone.
            Examples in no group are always trained on.
        labels: the name of each unit; default: the numbers.
        differentiable: whether autograd can go through ``train``.
        batch_size: masks at a time.
        name: of the task, for results.

    Raises:
        ValueError: groups that overlap or hold examples that do not exist.
    """

    def __init__(
        self,
        train: Train,
        n_examples: int,
        groups: Sequence[Sequence[int]] | None = None,
        *,
        labels: Sequence[str] | None = None,
        differentiable: bool = True,
        batch_size: int = _MASKS,
        name: str = "training",
    ) -> None:
        self.train, self.n_examples, self.name = train, n_examples, name
        groups = [[i] for i in range(n_examples)] if groups is None else groups
        used = [int(i) for group in groups for i in group]
        if not used or not all(len(group) for group in groups):
            raise ValueError("no units: every group needs at least one example")
        if len(set(used)) < len(used):
            raise ValueError("an example is in two groups; every example may be in one only")
        if min(used) < 0 or max(used) >= n_examples:
            wrong = next(i for i in used if not 0 <= i < n_examples)
            raise ValueError(f"there is no example {wrong} among {n_examples}")
        self._unit_of = unit_of_places(groups, n_examples)
        numbers = ["+".join(map(str, group)) for group in groups]
        self.labels = numbers if labels is None else list(labels)
        if len(self.labels) != len(groups) or len(set(self.labels)) < len(groups):
            raise ValueError(f"{len(set(self.labels))} different labels for {len(groups)} units")
        self.batch_size = batch_size
        if differentiable:
            self.gradient = self._gradient
            self.value_and_slopes = self._value_and_slopes

    @classmethod
    def ridge(
        cls, x: Any, y: Any, x_test: Any, y_test: Any, penalty: float = 1.0, **options: Any
    ) -> "TrainingGame":
        """Of ridge regression (:func:`ridge`); ``options`` as of the class."""
        train = ridge(x, y, x_test, y_test, penalty)
        return cls(train, len(x), **{"name": "ridge", **options})

    @classmethod
    def kernel_ridge(
        cls,
        kernel: Any,
        y: Any,
        kernel_test: Any,
        y_test: Any,
        penalty: float = 1.0,
        **options: Any,
    ) -> "TrainingGame":
        """Of kernel ridge regression (:func:`kernel_ridge`)."""
        train = kernel_ridge(kernel, y, kernel_test, y_test, penalty)
        return cls(train, len(kernel), **{"name": "kernel ridge", **options})

    @classmethod
    def logistic(
        cls, x: Any, y: Any, x_test: Any, y_test: Any, penalty: float = 1.0, **options: Any
    ) -> "TrainingGame":
        """Of penalised logistic regression (:func:`logistic`)."""
        train = logistic(x, y, x_test, y_test, penalty)
        return cls(train, len(x), **{"name": "logistic", **options})

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def masks_per_batch(self) -> int:
        """How many masks a driver should ask at a time."""
        return 4 * self.batch_size

    def __call__(self, masks: Any) -> Float[Tensor, "mask point"]:
        """The values of the model that is trained on what each mask keeps; float64.

        Args:
            masks: ``Bool[Tensor, "mask unit"]``, True = trained on.
        """
        keep, parts = mask_table(masks, len(self)), []

        def run(part: slice) -> None:
            with torch.no_grad():
                parts.append(self._values(keep[part].double()))

        self.batch_size = in_batches(len(keep), self.batch_size, run)
        return torch.cat(parts)

    def mean(self, masks: Any) -> Float[np.ndarray, " mask"]:
        """The mean over test points in numpy: what shapiq's approximators take as a game."""
        return self(masks).mean(dim=1).numpy()

    def _gradient(self, masks: Any) -> Float[Tensor, "mask unit"]:
        """The derivative of the mean over test points with respect to each unit's weight."""
        return self._value_and_slopes(masks)[1].mean(dim=1)

    def _value_and_slopes(
        self, masks: Any
    ) -> tuple[Float[Tensor, "mask point"], Float[Tensor, "mask block unit"]]:
        """Values, and the gradient by block of test points (at most 8), whose mean it is."""
        gates = mask_table(masks, len(self)).double()
        values, slopes = [], []

        def run(part: slice) -> None:
            leaf = gates[part].clone().requires_grad_()
            with torch.enable_grad():
                found = self._values(leaf)
                blocks = found.tensor_split(min(found.shape[1], _MOST_BLOCKS), dim=1)
                # A block's share of the mean over all points, times the number of blocks.
                sums = [b.sum() * len(blocks) / found.shape[1] for b in blocks]
                rows = [torch.autograd.grad(s, leaf, retain_graph=True)[0] for s in sums]
            values.append(found.detach())
            slopes.append(torch.stack(rows, dim=1))

        in_batches(len(gates), max(1, self.batch_size // 4), run)
        return torch.cat(values), torch.cat(slopes)

    def describe(self) -> dict[str, Any]:
        """What fixes the game's values: recorded with every result."""
        return {"lens": "data", "task": self.name, "n_examples": self.n_examples}

    def _values(self, gates: Float[Tensor, "mask unit"]) -> Float[Tensor, "mask point"]:
        values = torch.as_tensor(self.train(spread(gates, self._unit_of)))
        if values.ndim != 2 or len(values) != len(gates) or not values.isfinite().all():
            raise ValueError(
                f"train returned shape {tuple(values.shape)} for {len(gates)} rows of weights, or "
                "something that is not finite; it must return [mask point]"
            )
        return values.double()


def ridge(x: Any, y: Any, x_test: Any, y_test: Any, penalty: float = 1.0) -> Train:
    """Ridge regression in closed form; the value is minus the squared error at each test point.

    ``(X' W X + penalty I)^-1 X' W y`` for all rows of weights at once: also a linear head on frozen
    features.

    Args:
        x: features ``[example feature]``, without a column of ones unless you want one.
        y: targets ``[example]``; for classes, one of -1 and 1.
        penalty: on the squared weights.
    """
    x, y, x_test, y_test = (torch.as_tensor(np.asarray(a)).double() for a in (x, y, x_test, y_test))
    eye = penalty * torch.eye(x.shape[1], dtype=torch.float64)

    def train(weights: Float[Tensor, "mask example"]) -> Float[Tensor, "mask point"]:
        scaled = weights[:, :, None] * x
        solved = torch.linalg.solve(scaled.mT @ x + eye, (scaled.mT @ y)[:, :, None])
        return -((solved[:, :, 0] @ x_test.T - y_test) ** 2)

    return train


def kernel_ridge(kernel: Any, y: Any, kernel_test: Any, y_test: Any, penalty: float = 1.0) -> Train:
    """Kernel ridge regression in closed form; the value is minus the squared error.

    Args:
        kernel: between training examples, ``[example example]``.
        kernel_test: of test points with training examples, ``[point example]``.
    """
    kernel, y, kernel_test, y_test = (
        torch.as_tensor(np.asarray(a)).double() for a in (kernel, y, kernel_test, y_test)
    )
    eye = penalty * torch.eye(len(kernel), dtype=torch.float64)

    def train(weights: Float[Tensor, "mask example"]) -> Float[Tensor, "mask point"]:
        # An example of weight 0 gets no coefficient: (W K + penalty I) a = W y.
        solved = torch.linalg.solve(weights[:, :, None] * kernel + eye, (weights * y)[:, :, None])
        return -((solved[:, :, 0] @ kernel_test.T - y_test) ** 2)

    return train


def logistic(
    x: Any, y: Any, x_test: Any, y_test: Any, penalty: float = 1.0, steps: int = 12
) -> Train:
    """Penalised logistic regression by Newton's method; the value is the log-probability of the
    right class at each test point.

    Args:
        y: classes 0 and 1, ``[example]``.
        steps: of Newton's method, from zero weights.
    """
    x, y, x_test, y_test = (torch.as_tensor(np.asarray(a)).double() for a in (x, y, x_test, y_test))
    eye = penalty * torch.eye(x.shape[1], dtype=torch.float64)

    def train(weights: Float[Tensor, "mask example"]) -> Float[Tensor, "mask point"]:
        beta = weights.new_zeros(len(weights), x.shape[1])
        for _ in range(steps):
            p = (beta @ x.T).sigmoid()
            slope = (weights * (y - p)) @ x - penalty * beta
            curve = (weights * p * (1 - p))[:, :, None] * x
            beta = beta + torch.linalg.solve(curve.mT @ x + eye, slope[:, :, None])[:, :, 0]
        margin = (beta @ x_test.T) * (2 * y_test - 1)
        return torch.nn.functional.logsigmoid(margin)

    return train
