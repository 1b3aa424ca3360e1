"""TrainingGame: a training procedure as a set function of which examples it trains on.

Data attribution on the same core as heads and neurons: a mask is a subset to train on, the value a
measure of the trained model on each test point, so that test points take the place of prompts.
``learners`` has procedures that train on many subsets at once. Their gradients with respect to the
weight of each example screen the pairs.
"""

from collections.abc import Sequence
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from spex_mech.arguments import label_list, labels_of, same_order, shown, whole
from spex_mech.arrays import numbers, own_array
from spex_mech.engine.device import in_batches, is_out_of_memory
from spex_mech.fingerprints import function_sha256, name_of_function, sha256_of
from spex_mech.game import Answer, Game, Tick, no_tick
from spex_mech.games.learners import (
    Train,
    kernel_ridge,
    logistic,
    network,
    ridge,
    training_sha256,
)
from spex_mech.games.places import places_of, spread, unit_of_places
from spex_mech.masks import MaskBatch, names_of
from spex_mech.notebook import counted, listed
from spex_mech.notices import warn
from spex_mech.units import Unit, Units

_MOST_BLOCKS = 8  # of test points, in slopes by block
_MASKS, _NETWORKS = 64, 32  # that are trained at a time
_STARTS = 50  # of k-means
_ENOUGH = 20  # subsets that failed, and no other, tell that something is wrong


class TrainingGame(Game):
    """Masks over training examples, or groups of them -> values ``[mask point]``.

    Args:
        train: trains on weighted examples and evaluates: ``Float[mask example] -> [mask point]``;
            one of ``learners``, or your own, which may loop over its rows. Larger should mean
            better.
        n_examples: how many there are.
        groups: the examples of each unit (such as duplicates, or a cluster); default: each alone.
            Examples in no group are always trained on.
        labels: the name of each unit; default: the numbers.
        differentiable: whether autograd can go through ``train``. Where it cannot all the same, a
            warning says so, and searches do without gradients.
        failed: the value, at every test point, of subsets on which ``train`` raises an error or
            gives what is not finite (such as the empty one). Default: that is an error. On all
            examples it is an error anyway.
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
        groups: Any = None,
        *,
        labels: Sequence[str] | None = None,
        differentiable: bool = True,
        failed: float | None = None,
        batch_size: int = _MASKS,
        name: str = "training",
    ) -> None:
        n_examples = whole("n_examples", n_examples, 1)
        self.train, self.n_examples, self.name = train, n_examples, name
        own = [[i] for i in range(n_examples)] if groups is None else groups
        groups = places_of("groups", own, "an example")
        used = [i for group in groups for i in group]
        if not used or not all(len(group) for group in groups):
            raise ValueError("no units: every group needs at least one example")
        if len(set(used)) < len(used):
            raise ValueError("an example is in two groups; every example may be in one only")
        if min(used) < 0 or max(used) >= n_examples:
            wrong = next(i for i in used if not 0 <= i < n_examples)
            raise ValueError(f"there is no example {wrong} among {n_examples}")
        self._unit_of = unit_of_places(groups, n_examples)
        numbers = ["+".join(map(str, group)) for group in groups]
        names = label_list(numbers if labels is None else labels, len(groups))
        self._units = Units(
            Unit(name, "example", slots=tuple(map(str, group)))
            for name, group in zip(names, groups, strict=True)
        )
        self.batch_size, self.failed = whole("batch_size", batch_size, 1), _finite(failed)
        self._differentiable = differentiable
        self._n_points: int | None = None  # known from training on all examples, where it may fail
        self._n_failed: int | None = 0  # subsets; None: one has not, or it was said

    def in_words(self) -> dict[str, str]:
        told = {"training": self.name, **super().in_words()}
        if len(self) == self.n_examples:
            return told
        groups = f"{counted(len(self), 'group')} of {counted(self.n_examples, 'example')}"
        return told | {"units": f"{groups}: {listed(self.labels)}"}

    @classmethod
    def ridge(
        cls, x: Any, y: Any, x_test: Any, y_test: Any, penalty: float = 1.0, **options: Any
    ) -> "TrainingGame":
        """Of ridge regression (``learners.ridge``, whose ``sample_weight`` and ``intercept`` may be
        given too); other ``options`` as of the class."""
        own = _own(options, "sample_weight", "intercept")
        train = ridge(x, y, x_test, y_test, penalty, **own)
        return cls(train, _length(x, options), **{"name": "ridge", **options})

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
        """Of kernel ridge regression (``learners.kernel_ridge``, whose ``sample_weight`` may be
        given too)."""
        own = _own(options, "sample_weight")
        train = kernel_ridge(kernel, y, kernel_test, y_test, penalty, **own)
        return cls(train, _length(kernel, options), **{"name": "kernel ridge", **options})

    @classmethod
    def logistic(
        cls, x: Any, y: Any, x_test: Any, y_test: Any, penalty: float = 1.0, **options: Any
    ) -> "TrainingGame":
        """Of penalised logistic regression (``learners.logistic``, whose ``steps``,
        ``sample_weight`` and ``intercept`` may be given too)."""
        own = _own(options, "steps", "sample_weight", "intercept")
        train = logistic(x, y, x_test, y_test, penalty, **own)
        return cls(train, _length(x, options), **{"name": "logistic", **options})

    @classmethod
    def network(
        cls, module: nn.Module, x: Any, y: Any, x_test: Any, y_test: Any, **options: Any
    ) -> "TrainingGame":
        """Of a small network (``learners.network``, whose ``steps``, ``learning_rate``, ``decay``
        and ``sample_weight`` may be given too)."""
        own = _own(options, "steps", "learning_rate", "decay", "sample_weight")
        train = network(module, x, y, x_test, y_test, **own)
        defaults = {"name": "network", "differentiable": False, "batch_size": _NETWORKS}
        return cls(train, _length(x, options), **{**defaults, **options})

    @property
    def units(self) -> Units:
        return self._units

    @property
    def has_slopes(self) -> bool:
        return self._differentiable and not self.why_no_slopes

    @property
    def why_no_slopes(self) -> str:
        return self._why_no_slopes

    @cached_property
    def _why_no_slopes(self) -> str:
        return _why_no_slopes(self) if self._differentiable else ""

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
        self._check_all()

        def run(part: slice) -> None:
            with torch.no_grad():
                parts.append(self._values(keep[part].double()))

        self.batch_size = in_batches(len(keep), self.batch_size, run)
        return Answer(torch.cat(parts).numpy())

    def slopes_at(self, gates: Tensor) -> Answer:
        """Values, and slopes by block of test points (at most 8).

        Raises:
            ValueError: a training that autograd cannot go through, or gates outside 0 to 1.
        """
        if not self.has_slopes:
            return super().slopes_at(gates)
        gates = gates.double()
        if (gates < 0).any() or (gates > 1).any():
            raise ValueError(
                f"gates go from {gates.min():.3g} to {gates.max():.3g}; they are weights of "
                "examples, from 0 (left out) to 1 (kept)"
            )
        self._check_all()
        values, slopes = [], []

        def run(part: slice) -> None:
            with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has set
                leaf = gates[part].clone().requires_grad_()
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
        known = training_sha256(self.train)
        of_training = {} if known is None else {"training_sha256": known}
        return {"lens": "data", "task": self.name, "n_examples": self.n_examples, **of_training}

    def identity(self) -> dict[str, Any]:
        """What else fixes its values: with ``provenance()``, what a store tells games apart by."""
        return {
            "train": name_of_function(self.train),
            "train_sha256": function_sha256(self.train),  # with the data that it holds
            "groups_sha256": sha256_of([self._unit_of]),
            "failed": self.failed,
        }

    def _check_all(self) -> None:
        """Train on all examples once, where failures have a value: they must not hide that.

        Raises:
            ValueError: it fails.
        """
        if self.failed is None or self._n_points is not None:
            return
        everything = torch.ones(1, len(self), dtype=torch.float64)
        with torch.no_grad():
            found = self._trained(everything)
        if isinstance(found, Exception):
            raise ValueError(
                f"train fails when trained on everything: {type(found).__name__}: {found}; failed= "
                "is for other subsets"
            ) from found
        if not found.isfinite().all():
            raise self._not_finite(found, everything)
        self._n_points = found.shape[1]

    def _values(self, gates: Float[Tensor, "mask unit"]) -> Float[Tensor, "mask point"]:
        found = self._trained(gates)
        if isinstance(found, Exception):
            if len(gates) > 1:  # rows alone, so that one that fails takes no other with it
                return torch.cat([self._values(gate[None]) for gate in gates])
            if self.failed is None:
                raise ValueError(
                    f"train fails when trained {self._without(gates[0])}: "
                    f"{type(found).__name__}: {found}{self._cure(gates[0])}"
                ) from found
            assert self._n_points is not None
            self._count(torch.zeros(1, dtype=torch.bool), gates)
            return torch.full((1, self._n_points), self.failed, dtype=torch.float64)
        good = found.isfinite().all(dim=1)
        if self.failed is None and not good.all():
            raise self._not_finite(found, gates)
        self._count(good, gates)
        return found if good.all() else torch.where(good[:, None], found, self.failed or 0.0)

    def _trained(
        self, gates: Float[Tensor, "mask unit"]
    ) -> Float[Tensor, "mask point"] | Exception:
        """What ``train`` returns, or the error that it raises."""
        try:
            values = torch.as_tensor(self.train(spread(gates, self._unit_of)))
        except Exception as error:
            if is_out_of_memory(error):
                raise  # then fewer are trained at a time
            return error
        if values.ndim != 2 or len(values) != len(gates) or not values.shape[1]:
            raise ValueError(
                f"train returned shape {tuple(values.shape)} for {len(gates)} rows of weights; it "
                "must return [mask point]"
            )
        if values.is_complex():
            raise ValueError(f"train returned {values.dtype}; values must be real numbers")
        return values.double()

    def _not_finite(self, values: Tensor, gates: Tensor) -> ValueError:
        row, point = (~values.isfinite()).nonzero()[0].tolist()
        return ValueError(
            f"train gives {values[row, point].item()} at test point {point} when trained "
            f"{self._without(gates[row])}; it must be finite{self._cure(gates[row])}"
        )

    def _count(self, good: Bool[Tensor, " mask"], gates: Float[Tensor, "mask unit"]) -> None:
        """Warn once where every subset so far has failed, but for that of all examples."""
        if self.failed is None or self._n_failed is None:
            return
        subsets = (gates != 1).any(dim=1)
        if bool((good & subsets).any()):
            self._n_failed = None
            return
        self._n_failed += int(subsets.sum())
        if self._n_failed >= _ENOUGH:
            warn(
                f"train has failed on all {self._n_failed} subsets so far, and all were given the "
                f"value failed={self.failed}: interactions of such values mean nothing",
            )
            self._n_failed = None

    def _cure(self, gates: Float[Tensor, " unit"]) -> str:
        """What helps where a training fails; on all examples nothing but another one does."""
        return "" if (gates == 1).all() else "; give failed=..., the value of such subsets"

    def _without(self, gates: Float[Tensor, " unit"]) -> str:
        lost = (gates == 0).nonzero()[:, 0].tolist()
        if len(lost) == len(self):
            return "on nothing"
        return f"without {names_of(self.labels, lost)}" if lost else "on everything"


def _why_no_slopes(game: TrainingGame) -> str:
    """Why autograd cannot go through the training on all examples; "" where it can, or where the
    training fails without a gradient too, which its values tell."""
    with torch.inference_mode(False):
        weights = torch.ones(1, len(game), dtype=torch.float64)
        with torch.enable_grad():
            found = game._trained(weights.clone().requires_grad_())
        if isinstance(found, Tensor) and found.requires_grad:
            return ""
        with torch.no_grad():
            plain = game._trained(weights)
    if isinstance(plain, Exception):
        return ""
    told = (
        "gives values that do not depend on the weights by autograd (as it goes through numpy, a "
        "comparison or detach)"
        if isinstance(found, Tensor)
        else f"fails with weights that need a gradient ({type(found).__name__}: {found})"
    )
    return f"autograd cannot go through train, which {told}; say differentiable=False"


def _finite(failed: Any) -> float | None:
    """Raises:
    ValueError: the value of subsets that fail is no finite number.
    """
    number = isinstance(failed, Real) and not isinstance(failed, bool)
    if failed is not None and not (number and np.isfinite(float(failed))):
        raise ValueError(f"failed is {shown(failed)}; it must be a finite number, or None")
    return None if failed is None else float(failed)


def _own(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Options of the learner, taken out of those of the game."""
    return {name: options.pop(name) for name in names if name in options}


def _length(x: Any, options: dict[str, Any]) -> int:
    """How many examples there are.

    Raises:
        ValueError: the labels are those of a table's rows in another order.
    """
    labels = options.get("labels")
    if labels is not None and options.get("groups") is None:
        index = labels_of(x, "index")
        same_order(
            "the index of the examples",
            None if index is None else [str(label) for label in index],
            "labels",
            [str(label) for label in labels],
            "labels are paired with examples by position: give labels=list(x.index)",
        )
    return len(own_array("x", x))


def example_groups(x: Any, n_clusters: int | None = None, seed: int = 0) -> list[list[int]]:
    """Groups of examples for ``TrainingGame(groups=...)``: equal ones, or clusters by k-means.

    Args:
        x: features ``[example ...]``, in any container that ``arrays`` knows. Whole numbers are
            compared as such, and a missing number (NaN) is equal to another.
        n_clusters: default: only what is exactly equal is grouped.
        seed: of k-means.

    Raises:
        TypeError: something else than numbers.
        ValueError: fewer than one cluster, or more than there are different examples; a missing
            number, for k-means.

    >>> example_groups([[0.0, 1.0], [2.0, 2.0], [0.0, 1.0]])
    [[0, 2], [1]]
    """
    held = own_array("x", x)
    if not held.ndim:
        raise ValueError("x is a single number; it must be [example ...]")
    if not held.size:
        raise ValueError(f"x has shape {held.shape}, and so no number to group by; give some")
    rows = held.reshape(len(held), -1)
    if rows.dtype.kind == "f":
        rows = np.where(np.isnan(rows), np.nan, rows + 0.0)  # one NaN, and no -0.0
    keys = [row.tobytes() if rows.dtype.kind != "O" else tuple(row.tolist()) for row in rows]
    which: dict[Any, int] = {}
    of = np.array([which.setdefault(key, len(which)) for key in keys], dtype=np.int64)
    if n_clusters is not None:
        n_clusters = whole("n_clusters", n_clusters, 1)
        if n_clusters > len(which):
            raise ValueError(
                f"n_clusters is {n_clusters}; it must be 1 to {len(which)}, the number of "
                "different examples"
            )
        of = _clusters(numbers("x", held).reshape(len(held), -1), n_clusters, seed)
    groups: dict[int, list[int]] = {}
    for example, group in enumerate(of.tolist()):
        groups.setdefault(group, []).append(example)
    return sorted(groups.values())


def _clusters(x: Float[np.ndarray, "example feature"], count: int, seed: int) -> np.ndarray:
    """k-means; a start that leaves a cluster empty is drawn again."""
    from scipy.cluster.vq import ClusterError, kmeans2

    for draw in range(_STARTS):
        try:
            return kmeans2(x, count, minit="++", missing="raise", rng=seed + 1000 * draw)[1]
        except ClusterError:
            continue
    raise ValueError(
        f"k-means found no {count} clusters from {_STARTS} starts; ask for fewer: many examples "
        "are nearly equal"
    )
