"""TrainingGame: a training procedure as a set function of which examples it trains on.

Data attribution on the same core as heads and neurons: a mask is a subset to train on, the value a
measure of the trained model on each test point, so that test points take the place of prompts. The
procedures here have closed forms (or a few Newton steps) that run for many masks at once, and their
gradients with respect to the weight of each example, which are influence functions (Koh and Liang
2017), screen the pairs.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from spex_mech.engine.device import in_batches, is_out_of_memory
from spex_mech.fingerprints import function_sha256, name_of_function, sha256_of
from spex_mech.game import Answer, Game, Tick, no_tick
from spex_mech.masks import MaskBatch, names_of, spread, unit_of_places
from spex_mech.units import Unit, Units

# Weights of the examples, 0 or 1 or, for gradients, between -> a value at each test point.
Train = Callable[[Float[Tensor, "mask example"]], Float[Tensor, "mask point"]]
_MOST_BLOCKS = 8  # of test points, in slopes by block
_MASKS, _NETWORKS = 64, 32  # that are trained at a time


class TrainingGame(Game):
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
        failed: the value, at every test point, of subsets on which ``train`` raises an error or
            gives what is not finite (such as the empty one). Default: that is an error.
        batch_size: masks at a time.
        name: of the task, for results.

    Where autograd can go through ``train`` it has slopes, by the weights of the examples.

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
        failed: float | None = None,
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
        names = numbers if labels is None else list(labels)
        if len(names) != len(groups) or len(set(names)) < len(groups):
            raise ValueError(f"{len(set(names))} different labels for {len(groups)} units")
        self._units = Units(
            Unit(name, "example", slots=tuple(str(int(i)) for i in group))
            for name, group in zip(names, groups, strict=True)
        )
        self.batch_size, self.failed = batch_size, failed
        self._n_points, self._differentiable = 0, differentiable

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

    @classmethod
    def network(
        cls, module: nn.Module, x: Any, y: Any, x_test: Any, y_test: Any, **options: Any
    ) -> "TrainingGame":
        """Of a small network (:func:`network`, whose ``steps``, ``learning_rate`` and ``decay`` may
        be given too)."""
        own = {k: options.pop(k) for k in ("steps", "learning_rate", "decay") if k in options}
        train = network(module, x, y, x_test, y_test, **own)
        defaults = {"name": "network", "differentiable": False, "batch_size": _NETWORKS}
        return cls(train, len(x), **{**defaults, **options})

    @property
    def units(self) -> Units:
        return self._units

    @property
    def has_slopes(self) -> bool:
        return self._differentiable

    @property
    def masks_per_batch(self) -> int:
        """How many masks a driver should ask at a time."""
        return 4 * self.batch_size

    def pass_size(self) -> int | None:
        return self.batch_size

    def limit_pass_size(self, rows: int) -> None:
        self.batch_size = min(self.batch_size, rows)

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Tick = no_tick) -> Answer:
        """The values of the model that is trained on what each mask keeps."""
        keep, parts = torch.from_numpy(masks.kept()), []
        if slopes:
            return self.slopes_at(keep)

        def run(part: slice) -> None:
            with torch.no_grad():
                parts.append(self._values(keep[part].double()))

        self.batch_size = in_batches(len(keep), self.batch_size, run)
        return Answer(torch.cat(parts).numpy())

    def slopes_at(self, gates: Tensor) -> Answer:
        """Values, and slopes by block of test points (at most 8).

        Raises:
            ValueError: a training that autograd cannot go through.
        """
        if not self.has_slopes:
            return super().slopes_at(gates)
        gates = gates.double()
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
        return Answer(torch.cat(values).numpy(), torch.cat(slopes).numpy())

    def provenance(self) -> dict[str, Any]:
        """What fixes the game's values: recorded with every result."""
        return {"lens": "data", "task": self.name, "n_examples": self.n_examples}

    def identity(self) -> dict[str, Any]:
        """What else fixes its values: with ``provenance()``, what a store tells games apart by."""
        return {
            "train": name_of_function(self.train),
            "train_sha256": function_sha256(self.train),  # with the data that it holds
            "groups_sha256": sha256_of([self._unit_of]),
            "failed": self.failed,
        }

    def _values(self, gates: Float[Tensor, "mask unit"]) -> Float[Tensor, "mask point"]:
        try:
            values = torch.as_tensor(self.train(spread(gates, self._unit_of)))
        except Exception as error:
            if is_out_of_memory(error):
                raise  # then fewer are trained at a time
            return self._one_by_one(gates, error)
        if values.ndim != 2 or len(values) != len(gates):
            raise ValueError(
                f"train returned shape {tuple(values.shape)} for {len(gates)} rows of weights; it "
                "must return [mask point]"
            )
        values = values.double()
        self._n_points = values.shape[1]
        finite = values.isfinite()
        if finite.all():
            return values
        if self.failed is not None:
            return torch.where(finite.all(dim=1, keepdim=True), values, self.failed)
        row, point = (~finite).nonzero()[0].tolist()
        value = values[row, point].item()
        raise ValueError(
            f"train gives {value} at test point {point} when trained {self._without(gates[row])}; "
            "it must be finite, or give failed=..., the value of such subsets"
        )

    def _one_by_one(
        self, gates: Float[Tensor, "mask unit"], error: Exception
    ) -> Float[Tensor, "mask point"]:
        """Rows alone, so that one that fails takes no other with it."""
        if len(gates) > 1:
            rows: list[Tensor | None] = []
            for gate in gates:
                try:
                    rows.append(self._values(gate[None]))
                except _NoPoints:
                    rows.append(None)
            if not self._n_points:
                raise _NoPoints(f"train fails on every subset so far: {error}") from error
            none = torch.full((1, self._n_points), self.failed or 0.0, dtype=torch.float64)
            return torch.cat([none if row is None else row for row in rows])
        if self.failed is None:
            raise ValueError(
                f"train fails when trained {self._without(gates[0])}: "
                f"{type(error).__name__}: {error}; give failed=..., the value of such subsets"
            ) from error
        if not self._n_points:
            raise _NoPoints(f"train fails on every subset so far: {error}") from error
        return torch.full((1, self._n_points), self.failed, dtype=torch.float64)

    def _without(self, gates: Float[Tensor, " unit"]) -> str:
        lost = (gates == 0).nonzero()[:, 0].tolist()
        if len(lost) == len(self):
            return "on nothing"
        return f"without {names_of(self.labels, lost)}" if lost else "on everything"


class _NoPoints(ValueError):
    """It is not known yet how many test points there are."""


def ridge(x: Any, y: Any, x_test: Any, y_test: Any, penalty: float = 1.0) -> Train:
    """Ridge regression in closed form; the value is minus the squared error at each test point.

    ``(X' W X + penalty I)^-1 X' W y`` for all rows of weights at once: also a linear head on frozen
    features.

    Args:
        x: features ``[example feature]``, without a column of ones unless you want one.
        y: targets ``[example]``; for classes, one of -1 and 1.
        x_test, y_test: the same of the test points, ``[point feature]`` and ``[point]``.
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
        y, y_test: targets, ``[example]`` and ``[point]``.
        kernel_test: of test points with training examples, ``[point example]``.
        penalty: added to the kernel's diagonal.
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
        x: features ``[example feature]``, without a column of ones unless you want one.
        y: classes 0 and 1, ``[example]``.
        x_test, y_test: the same of the test points, ``[point feature]`` and ``[point]``.
        penalty: on half of the squared weights.
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


def network(
    module: nn.Module,
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    *,
    steps: int = 100,
    learning_rate: float = 0.01,
    decay: float = 0.0,
) -> Train:
    """A small network, trained for many masks at once (``torch.func.vmap``); the value at each test
    point is the log-probability of its class, or minus the squared error where targets are floats.

    Every mask starts at the module's own weights and takes the same full-batch steps of AdamW on
    the mean loss of what it keeps; on nothing it stays where it starts. Dropout and batch norm are
    as in evaluation.

    Args:
        module: ``[example ...]`` -> ``[example class]``, or for regression ``[example 1]``.
        y: classes (integers) or targets (floats), ``[example]``.
        decay: AdamW's weight decay.
    """
    x, x_test = (torch.as_tensor(a).float() for a in (x, x_test))
    y, y_test = torch.as_tensor(y), torch.as_tensor(y_test)
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
    module = copy.deepcopy(module).eval()

    def value(parameters: dict[str, Tensor], points: Tensor, targets: Tensor) -> Tensor:
        out = torch.func.functional_call(module, (parameters, buffers), (points,))
        if targets.dtype.is_floating_point:
            return -((out[:, 0] - targets) ** 2)
        return out.log_softmax(dim=1).gather(1, targets.long()[:, None])[:, 0]

    values = torch.func.vmap(value, in_dims=(0, None, None))

    def train(weights: Float[Tensor, "mask example"]) -> Float[Tensor, "mask point"]:
        n = len(weights)
        # Its steps are taken number by number, so that stacked weights are trained apart.
        stacked = {k: p.expand(n, *p.shape).clone().requires_grad_() for k, p in start.items()}
        steps_of = torch.optim.AdamW(stacked.values(), lr=learning_rate, weight_decay=decay)
        share = weights.float() / weights.float().sum(dim=1, keepdim=True).clamp(min=1e-12)
        empty = ~(weights > 0).any(dim=1)
        with torch.enable_grad():
            for _ in range(steps):
                steps_of.zero_grad()
                (-values(stacked, x, y) * share).sum().backward()
                steps_of.step()
        with torch.no_grad():
            for name, p in stacked.items():
                p[empty] = start[name]
            return values(stacked, x_test, y_test)

    return train


def example_groups(x: Any, n_clusters: int | None = None, seed: int = 0) -> list[list[int]]:
    """Groups of examples for ``TrainingGame(groups=...)``: equal ones, or clusters by k-means.

    Args:
        x: features ``[example ...]``.
        n_clusters: default: only what is exactly equal is grouped.

    Raises:
        ValueError: fewer than one cluster, or more than examples.

    >>> example_groups([[0.0, 1.0], [2.0, 2.0], [0.0, 1.0]])
    [[0, 2], [1]]
    """
    flat = np.asarray(x, dtype=np.float64).reshape(len(x), -1)
    if n_clusters is None:
        _, first, of = np.unique(flat, axis=0, return_index=True, return_inverse=True)
        of = np.argsort(np.argsort(first))[of.ravel()]
    else:
        if not 1 <= n_clusters <= len(flat):
            raise ValueError(f"n_clusters is {n_clusters}; it must be 1 to {len(flat)}")
        from scipy.cluster.vq import kmeans2

        _, of = kmeans2(flat, n_clusters, minit="++", rng=seed)
    groups: dict[int, list[int]] = {}
    for example, group in enumerate(of.tolist()):
        groups.setdefault(group, []).append(example)
    return sorted(groups.values())
