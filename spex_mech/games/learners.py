"""Learners that train on many weighted subsets at once: what a ``TrainingGame`` is made of.

Each takes examples, targets and test points, and gives a function from weights of the examples,
``[mask example]``, to a value at each test point, ``[mask point]``; larger is better. A weight of 0
leaves an example out. ``ridge``, ``kernel_ridge`` and ``logistic`` have gradients with respect to
the weights, which are influence functions (Koh and Liang 2017); of ``logistic`` by the implicit
function theorem, at the optimum that was found.

Examples and targets come in any container that ``arrays`` knows, and are checked here, once:
numbers that are missing, lengths that differ, classes that are none. Rows and columns are paired by
position; pandas tables whose labels say another order are refused.
"""

import copy
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from spex_mech.arguments import labels_of, same_columns, same_order, same_rows, switch, whole
from spex_mech.arrays import numbers, own_array, same_length
from spex_mech.fingerprints import sha256_of

# Weights of the examples, 0 or 1 or, for gradients, between -> a value at each test point.
Train = Callable[[Float[Tensor, "mask example"]], Float[Tensor, "mask point"]]

_STEPS = 100  # of Newton's method, at most
_MARGIN = 1e-8  # a converged step changes no log-odds by more than this share of them
_HALVINGS = 40
_ROUNDING = 1e-13  # of the loss: what its value cannot tell
_CORRECTIONS = 3  # of a closed form by what its solution leaves over
_ALIKE = "leave out features that others give (or more of them than there are examples)"
_UNSOLVED = 1e-8  # of the size of predictions: a last correction that is larger has not settled


@torch.inference_mode(False)
def ridge(
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    penalty: float = 1.0,
    *,
    sample_weight: Any = None,
    intercept: bool = False,
) -> Train:
    """Ridge regression in closed form; the value is minus the squared error at each test point.

    ``(X' W X + penalty I)^-1 X' W y`` for all rows of weights at once: also a linear head on frozen
    features. The same as scikit-learn's ``Ridge(alpha=penalty, fit_intercept=intercept)``.
    As squares of nearly dependent features lose digits, a solution is corrected by what it leaves
    over, and one that does not settle is an error.

    Args:
        x: features ``[example feature]``.
        y: targets ``[example]``; for classes, one of -1 and 1.
        x_test, y_test: the same of the test points, ``[point feature]`` and ``[point]``.
        penalty: on the squared coefficients.
        sample_weight: of each example where it is trained on, ``[example]``; default: 1.
        intercept: fit a constant too, which is not penalised.

    Raises:
        TypeError: something else than numbers.
        ValueError: a missing number, shapes or lengths that do not fit, a negative penalty; and
            from the function that it returns, where the examples and the penalty do not settle all
            coefficients.
    """
    _check_order(x, y, x_test, y_test, sample_weight)
    x, x_test = _tables(x, x_test, intercept)
    y, y_test = _targets(x, y, x_test, y_test)
    base, penalties = _weights(x, sample_weight), _penalties(x, penalty, intercept)

    def train(weights: Float[Tensor, "mask example"]) -> Float[Tensor, "mask point"]:
        used = weights * base
        beta = _least_squares(x, y, used, _diagonal(penalties, used), x_test)
        if beta is None:
            raise _unsettled("ridge", penalty, _ALIKE)
        return -((beta @ x_test.T - y_test) ** 2)

    return _trained_on(train, x, y, base, penalties)


@torch.inference_mode(False)
def kernel_ridge(
    kernel: Any,
    y: Any,
    kernel_test: Any,
    y_test: Any,
    penalty: float = 1.0,
    *,
    sample_weight: Any = None,
) -> Train:
    """Kernel ridge regression in closed form; the value is minus the squared error. The same as
    scikit-learn's ``KernelRidge(alpha=penalty, kernel="precomputed")``.

    Args:
        kernel: between training examples, ``[example example]``.
        y, y_test: targets, ``[example]`` and ``[point]``.
        kernel_test: of test points with training examples, ``[point example]``.
        penalty: added to the kernel's diagonal.
        sample_weight: of each example where it is trained on, ``[example]``; default: 1.

    Raises:
        TypeError: something else than numbers.
        ValueError: a missing number, shapes or lengths that do not fit, a kernel that is not
            symmetric, a penalty that is not positive; and from the function that it returns, where
            rounding decides the predictions, as the penalty is too small.
    """
    _check_order(kernel, y, kernel_test, y_test, sample_weight, "kernel")
    _check_pairs(kernel, kernel_test)
    k = numbers("kernel", kernel, ["example", "example"])
    k_test = numbers("kernel_test", kernel_test, ["point", "example"])
    if k.shape[0] != k.shape[1] or not np.allclose(k, k.T, rtol=1e-6, atol=1e-8 * abs(k).max()):
        raise ValueError(
            f"kernel has shape {k.shape} and must be a symmetric table of all pairs of examples; "
            "for features, use ridge"
        )
    if k_test.shape[1] != len(k):
        raise ValueError(
            f"kernel_test has shape {k_test.shape}; it must be [point example] with {len(k)} "
            "examples"
        )
    penalty = _number("penalty", penalty)
    if penalty == 0:
        raise ValueError("penalty is 0.0; kernel ridge needs a positive one")
    table, test = torch.from_numpy(k), torch.from_numpy(k_test)
    y, y_test = _targets(table, y, test, y_test)
    base, eye = _weights(table, sample_weight), penalty * torch.eye(len(table)).double()

    def train(weights: Float[Tensor, "mask example"]) -> Float[Tensor, "mask point"]:
        # An example of weight 0 gets no coefficient: (W K + penalty I) a = W y.
        used = weights * base
        with torch.no_grad():
            factor, places, failed = torch.linalg.lu_factor_ex(used[:, :, None] * table + eye)
            if (failed != 0).any():
                raise _unsettled("kernel_ridge", penalty, "leave out examples that repeat others")

        def left_over(a: Tensor) -> Tensor:
            return used * (y - a @ table.T) - penalty * a

        def step(left: Tensor) -> Tensor:
            return torch.linalg.lu_solve(factor, places, left[:, :, None])[:, :, 0]

        a = _corrected(torch.zeros_like(used), left_over, step, test, y)
        if a is None:
            raise _unsettled("kernel_ridge", penalty, "leave out examples that repeat others")
        return -((a @ test.T - y_test) ** 2)

    return _trained_on(train, table, y, base, penalty)


@torch.inference_mode(False)
def logistic(
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    penalty: float = 1.0,
    *,
    steps: int = _STEPS,
    sample_weight: Any = None,
    intercept: bool = False,
) -> Train:
    """Penalised logistic regression; the value is the log-probability of the right class at each
    test point, in nats.

    It is the same as scikit-learn's ``LogisticRegression(C=1 / penalty)``. Newton's method starts
    from zero coefficients and halves a step until the loss falls by a ten-thousandth of what the
    step promises. It has converged when a full step changes no log-odds, of an example or a test
    point, by more than 1e-8 of it (or of 1).

    Args:
        x: features ``[example feature]``.
        y: classes ``[example]``: any two values, numbers or words. The value does not depend on
            which is called what.
        x_test, y_test: the same of the test points, ``[point feature]`` and ``[point]``.
        penalty: on half of the squared coefficients.
        steps: of Newton's method, at most.
        sample_weight: of each example where it is trained on, ``[example]``; default: 1.
        intercept: fit a constant too, which is not penalised.

    Raises:
        TypeError: features that are no numbers.
        ValueError: a missing number, shapes or lengths that do not fit, other than two classes, a
            negative penalty; and from the function that it returns, where Newton's method has not
            converged: without a penalty (or of an intercept) there may be no optimum.
    """
    _check_order(x, y, x_test, y_test, sample_weight)
    x, x_test = _tables(x, x_test, intercept)
    sign, sign_test = _two_classes(x, y, x_test, y_test)
    base, penalties = _weights(x, sample_weight), _penalties(x, penalty, intercept)
    steps = whole("steps", steps, 1)

    def train(weights: Float[Tensor, "mask example"]) -> Float[Tensor, "mask point"]:
        used = weights * base
        ridge_of = _diagonal(penalties, used)
        with torch.no_grad():
            beta = _newton(x, x_test, sign, used.detach(), ridge_of.detach(), steps)
        # One more step, through which the derivative goes: dβ/dw = H^-1 dg/dw where g is 0.
        with torch.no_grad():
            curve = _curvature(x, sign, used, beta) + ridge_of
        slope = _slope(x, sign, used, beta, ridge_of)
        beta = beta + _solved(curve, slope)
        return nn.functional.logsigmoid((beta @ x_test.T) * sign_test)

    return _trained_on(train, x, sign, base, penalties, steps)


@torch.inference_mode(False)
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
    sample_weight: Any = None,
) -> Train:
    """A small network, trained for many masks at once (``torch.func.vmap``); the value at each test
    point is the log-probability of its class, or minus the squared error of a regression.

    Every mask starts at the module's own weights and takes the same full-batch steps of AdamW on
    the mean loss of what it keeps; on nothing it stays where it starts. Dropout and batch norm are
    as in evaluation. It trains on the device of the module's weights, in float32.

    Args:
        module: ``[example ...]`` -> ``[example class]``, or for regression ``[example 1]``.
        y: of a module with several outputs, classes from 0 on, ``[example]`` (whole numbers, in
            whatever type); of a module with one output, targets of a regression.
        decay: AdamW's weight decay.
        sample_weight: of each example where it is trained on, ``[example]``; default: 1.

    Raises:
        TypeError: something else than numbers.
        ValueError: a missing number, lengths that do not fit, a class that the module has no
            output for, classes for a module with one output.
    """
    _check_order(x, y, x_test, y_test, sample_weight)
    steps, rate, decay = _descent(steps, learning_rate, decay)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    module = copy.deepcopy(module).eval()
    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    x, x_test = (
        torch.from_numpy(numbers(name, a)).to(device, own)
        for name, a in (("x", x), ("x_test", x_test))
    )
    targets, test_targets = _network_targets(x, y, x_test, y_test, _n_outputs(module, x))
    targets, test_targets = targets.to(device), test_targets.to(device)
    base = _weights(x, sample_weight).to(device, own)
    start = {name: p.detach().clone() for name, p in module.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in module.named_buffers()}

    def value(parameters: dict[str, Tensor], points: Tensor, targets: Tensor) -> Tensor:
        out = torch.func.functional_call(module, (parameters, buffers), (points,))
        if out.shape[1] == 1:
            return -((out[:, 0] - targets) ** 2)
        return out.log_softmax(dim=1).gather(1, targets[:, None])[:, 0]

    values = torch.func.vmap(value, in_dims=(0, None, None))

    @torch.inference_mode(False)
    def train(weights: Float[Tensor, "mask example"]) -> Float[Tensor, "mask point"]:
        used = weights.to(device, own) * base
        # Its steps are taken number by number, so that stacked weights are trained apart.
        n = len(used)
        stacked = {k: p.expand(n, *p.shape).clone().requires_grad_() for k, p in start.items()}
        steps_of = torch.optim.AdamW(stacked.values(), lr=rate, weight_decay=decay)
        share = used / used.sum(dim=1, keepdim=True).clamp(min=1e-12)
        empty = ~(used > 0).any(dim=1)
        with torch.enable_grad():
            for _ in range(steps):
                steps_of.zero_grad()
                (-values(stacked, x, targets) * share).sum().backward()
                steps_of.step()
        with torch.no_grad():
            for name, p in stacked.items():
                p[empty] = start[name]
            return values(stacked, x_test, test_targets).cpu()

    return _trained_on(train, x, targets, base, steps, rate, decay, *start.values())


def training_sha256(train: Any) -> str | None:
    """Of the examples, targets and settings of a function that is made here, whatever its test
    points are; None: of another function, in which they cannot be told from these."""
    return vars(train).get("training_sha256") if isinstance(train, FunctionType) else None


def _trained_on(train: Train, *data: Tensor | float | int) -> Train:
    plain = [x for x in data if not isinstance(x, Tensor)]
    settings = torch.tensor(plain, dtype=torch.float64, device="cpu")  # some devices have none
    tensors = [x for x in data if isinstance(x, Tensor)]
    vars(train)["training_sha256"] = sha256_of([settings, *tensors])
    return train


# -- closed forms --------------------------------------------------------------------------------


def _least_squares(
    x: Float[Tensor, "example feature"],
    y: Float[Tensor, " example"],
    weights: Float[Tensor, "mask example"],
    penalties: Float[Tensor, "mask feature feature"],
    points: Float[Tensor, "point feature"],
) -> Float[Tensor, "mask feature"] | None:
    """The coefficients of ridge regression; None: rounding would decide those of some mask."""
    with torch.no_grad():
        curve = (weights[:, :, None] * x).mT @ x + penalties
        scale = curve.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt()
        factor, failed = torch.linalg.cholesky_ex(scale[:, :, None] * curve * scale[:, None])
        free = factor.diagonal(dim1=1, dim2=2) ** 2  # what each column adds to those before it
        if (failed != 0).any() or (free < 10 * torch.finfo(x.dtype).eps * x.shape[1]).any():
            return None

    def left_over(beta: Tensor) -> Tensor:
        return (weights * (y - beta @ x.T)) @ x - (penalties @ beta[:, :, None])[:, :, 0]

    def step(left: Tensor) -> Tensor:
        return scale * torch.cholesky_solve((scale * left)[:, :, None], factor)[:, :, 0]

    return _corrected(weights.new_zeros(len(weights), x.shape[1]), left_over, step, points, y)


def _corrected(
    start: Float[Tensor, "mask unknown"],
    left_over: Callable[[Tensor], Tensor],
    step: Callable[[Tensor], Tensor],
    points: Float[Tensor, "point unknown"],
    y: Float[Tensor, " example"],
) -> Float[Tensor, "mask unknown"] | None:
    """The solution of linear equations, from steps by what is left over of them; None: the last
    step still changes predictions.

    Only the last step is seen by autograd, through what is left over: at the solution that has the
    exact derivative.
    """
    found = start.detach()
    with torch.no_grad():
        for _ in range(_CORRECTIONS):
            found = found + step(left_over(found))
    last = step(left_over(found))
    with torch.no_grad():
        change, at = abs(last @ points.T), abs(found @ points.T)
        size = at.amax(dim=1) + abs(y).max()
        settled = (change.amax(dim=1) <= _UNSOLVED * size).all()  # also False of NaN
    return found + last if settled else None


def _unsettled(learner: str, penalty: float, cure: str) -> ValueError:
    return ValueError(
        f"{learner} with penalty={penalty:.3g} has no solution that rounding leaves as it is; use "
        f"a larger penalty, or {cure}"
    )


# -- Newton's method ------------------------------------------------------------------------------


def _newton(
    x: Float[Tensor, "example feature"],
    x_test: Float[Tensor, "point feature"],
    sign: Float[Tensor, " example"],
    weights: Float[Tensor, "mask example"],
    penalties: Float[Tensor, "mask feature feature"],
    most_steps: int,
) -> Float[Tensor, "mask feature"]:
    """The coefficients of least loss, for all masks at once; those that have converged wait.

    Raises:
        ValueError: one has not converged.
    """
    beta = weights.new_zeros(len(weights), x.shape[1])
    points = torch.cat([x, x_test])
    going = torch.arange(len(weights))
    for _ in range(most_steps):
        used, kept, start = weights[going], penalties[going], beta[going]
        slope = _slope(x, sign, used, start, kept)
        step = _solved(_curvature(x, sign, used, start) + kept, slope)
        promised = (slope * step).sum(dim=1)  # the loss would fall by half of it
        loss = _loss(x, sign, used, start, kept)
        size = torch.ones(len(going), 1, dtype=x.dtype)
        for _ in range(_HALVINGS):
            new = _loss(x, sign, used, start + size * step, kept)
            enough = loss - 1e-4 * size[:, 0] * promised + _ROUNDING * (1 + loss)
            short = ~(new <= enough)
            if not short.any():
                break
            size[short] /= 2
        beta[going] = start + size * step
        change, at = abs(step @ points.T), abs(beta[going] @ points.T)
        full = size[:, 0] == 1
        going = going[~(full & (change <= _MARGIN * (1 + at)).all(dim=1))]
        if not len(going):
            return beta
    raise ValueError(
        f"logistic regression has not converged in {most_steps} steps; there may be no optimum: "
        "use a larger penalty (or no intercept), or scale the features"
    )


def _slope(
    x: Tensor, sign: Tensor, weights: Tensor, beta: Tensor, penalties: Tensor
) -> Float[Tensor, "mask feature"]:
    """Minus the gradient of the loss."""
    wrong = torch.sigmoid(-(beta @ x.T) * sign)
    return (weights * sign * wrong) @ x - (penalties @ beta[:, :, None])[:, :, 0]


def _curvature(
    x: Tensor, sign: Tensor, weights: Tensor, beta: Tensor
) -> Float[Tensor, "mask feature feature"]:
    """The second derivatives of the loss, without the penalty's."""
    wrong = torch.sigmoid(-(beta @ x.T) * sign)
    right = torch.sigmoid((beta @ x.T) * sign)
    return ((weights * wrong * right)[:, :, None] * x).mT @ x


def _loss(
    x: Tensor, sign: Tensor, weights: Tensor, beta: Tensor, penalties: Tensor
) -> Float[Tensor, " mask"]:
    likely = nn.functional.logsigmoid((beta @ x.T) * sign)
    squares = (beta * (penalties @ beta[:, :, None])[:, :, 0]).sum(dim=1)
    return -(weights * likely).sum(dim=1) + squares / 2


def _solved(
    curve: Float[Tensor, "mask feature feature"], slope: Float[Tensor, "mask feature"]
) -> Float[Tensor, "mask feature"]:
    """A Newton step, in units in which every coefficient has curvature 1."""
    scale = curve.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt()
    scaled = scale[:, :, None] * curve * scale[:, None]
    return scale * torch.linalg.solve(scaled, (scale * slope)[:, :, None])[:, :, 0]


# -- what is brought ------------------------------------------------------------------------------


def _number(name: str, value: Any) -> float:
    """Raises:
    ValueError: it is none, or negative.
    """
    found = float(numbers(name, value, ()).reshape(-1)[0]) if np.ndim(value) == 0 else np.nan
    if not found >= 0:
        raise ValueError(f"{name} is {value!r}; it must be a number from 0 on")
    return found


def _descent(steps: Any, learning_rate: Any, decay: Any) -> tuple[int, float, float]:
    rate = _number("learning_rate", learning_rate)
    return whole("steps", steps, 1), rate, _number("decay", decay)


def _check_order(
    x: Any, y: Any, x_test: Any, y_test: Any, sample_weight: Any, name: str = "x"
) -> None:
    """Raises:
    ValueError: pandas' labels of rows or columns that belong together are in another order.
    """
    same_columns(**{name: x, f"{name}_test": x_test})
    same_rows(**{name: x, "y": y, "sample_weight": sample_weight})
    same_rows(**{f"{name}_test": x_test, "y_test": y_test})


def _check_pairs(kernel: Any, kernel_test: Any) -> None:
    """The same of a kernel's rows, which are examples as its columns are."""
    rows = labels_of(kernel, "index")
    for name, table in (("kernel", kernel), ("kernel_test", kernel_test)):
        same_order(
            "the index of kernel",
            rows,
            f"the columns of {name}",
            labels_of(table, "columns"),
            f"examples are paired by position: give {name}[kernel.index]",
        )


def _tables(x: Any, x_test: Any, intercept: bool) -> tuple[Tensor, Tensor]:
    """Features of examples and test points; an intercept is a column of ones, the last. Then
    features are centred, which changes no prediction and loses fewer digits of those far from 0."""
    found = numbers("x", x, ["example", "feature"])
    test = numbers("x_test", x_test, ["point", "feature"])
    if found.shape[1] != test.shape[1]:
        raise ValueError(f"x has {found.shape[1]} features and x_test has {test.shape[1]}")
    if not len(found) or not len(test):
        raise ValueError(f"x has {len(found)} examples and x_test {len(test)} points: give some")
    if switch("intercept", intercept):
        centre = found.mean(axis=0)
        found, test = (np.column_stack([a - centre, np.ones(len(a))]) for a in (found, test))
    return torch.from_numpy(found), torch.from_numpy(test)


def _targets(x: Tensor, y: Any, x_test: Tensor, y_test: Any) -> tuple[Tensor, Tensor]:
    found, test = numbers("y", y, ["example"]), numbers("y_test", y_test, ["point"])
    same_length(x=x.numpy(), y=found)
    same_length(x_test=x_test.numpy(), y_test=test)
    return torch.from_numpy(found), torch.from_numpy(test)


def _two_classes(x: Tensor, y: Any, x_test: Tensor, y_test: Any) -> tuple[Tensor, Tensor]:
    """1 for the larger of the two classes and -1 for the smaller."""
    found, test = _class_names("y", y), _class_names("y_test", y_test)
    same_length(x=x.numpy(), y=found)
    same_length(x_test=x_test.numpy(), y_test=test)
    classes = np.unique(found)
    if unknown := [c for c in np.unique(test).tolist() if c not in classes.tolist()]:
        one_of_two = set(np.unique(test).tolist()) | set(classes.tolist()) <= {0, 1}
        if not one_of_two:
            raise ValueError(
                f"y_test has the class {unknown[0]!r}, which y has not: {_listed(classes)}"
            )
        classes = np.array([0, 1])
    if len(classes) == 1 and set(classes.tolist()) <= {0, 1}:
        classes = np.array([0, 1])
    if len(classes) != 2:
        raise ValueError(
            f"logistic tells two classes apart, and y has {len(classes)}: {_listed(classes)}; for "
            "more use network"
        )
    signs = (np.where(a == classes[1], 1.0, -1.0) for a in (found, test))
    first, second = (torch.from_numpy(s) for s in signs)
    return first, second


def _class_names(name: str, value: Any) -> np.ndarray:
    """Classes by number or word, one for each example."""
    held = value.to_numpy() if hasattr(value, "to_numpy") else value
    axis = "example" if name == "y" else "point"
    words = isinstance(held, list | tuple | np.ndarray) and np.asarray(held).dtype.kind in "UO"
    # As objects: of a list numpy would write a NaN among words as the word "nan".
    each = np.asarray(held, dtype=object).ravel().tolist() if words else []
    gone = [at for at, v in enumerate(each) if _is_missing(v)]
    if gone and all(isinstance(v, str) or _is_missing(v) for v in each):
        raise ValueError(f"{name} is missing at {axis} {gone[0]}; leave it out or fill it in")
    if each and all(isinstance(v, str) for v in each):
        found = np.asarray(held).astype(str)
        if found.ndim != 1:
            raise ValueError(f"{name} has shape {found.shape}; it must be [{axis}]")
        return found
    numbers(name, value, [axis])  # with its checks
    return own_array(name, value)


def _is_missing(value: Any) -> bool:
    """None, NaN, or pandas' NA, among words."""
    return value is None or type(value).__name__ == "NAType" or value != value


def _listed(classes: np.ndarray) -> str:
    return ", ".join(map(str, classes.tolist()[:5])) + (", ..." if len(classes) > 5 else "")


@torch.no_grad()
def _n_outputs(module: nn.Module, x: Tensor) -> int:
    """Raises:
    ValueError: the module does not give a row for each example.
    """
    shape = tuple(module(x[:1]).shape)
    if len(shape) != 2:
        raise ValueError(
            f"the module gives shape {shape} for one example; it must be [example class]"
        )
    return shape[1]


def _network_targets(
    x: Tensor, y: Any, x_test: Tensor, y_test: Any, n_outputs: int
) -> tuple[Float[Tensor, " _"] | Int[Tensor, " _"], Float[Tensor, " _"] | Int[Tensor, " _"]]:
    """Classes for a module of several outputs, targets of a regression for one of one."""
    found, test = _targets(x.cpu(), y, x_test.cpu(), y_test)
    if n_outputs == 1:
        kinds = {own_array(name, a).dtype.kind for name, a in (("y", y), ("y_test", y_test))}
        if kinds == {"b"} or (kinds <= {"i", "u", "b"} and set(found.tolist()) <= {0, 1}):
            raise ValueError(
                "y holds two classes, and the module has one output, of which a softmax is always "
                "1: give it two outputs, or targets as floats for a regression"
            )
        return found.to(x.dtype), test.to(x.dtype)
    for name, classes in (("y", found), ("y_test", test)):
        wrong = (classes != classes.round()) | (classes < 0) | (classes >= n_outputs)
        if wrong.any():
            raise ValueError(
                f"{name} holds {classes[wrong][0].item()}; of a module with {n_outputs} outputs "
                f"classes are the whole numbers 0 to {n_outputs - 1} (a regression has one output)"
            )
    return found.long(), test.long()


def _weights(x: Tensor, sample_weight: Any) -> Float[Tensor, " example"]:
    if sample_weight is None:
        return torch.ones(len(x), dtype=torch.float64)
    found = numbers("sample_weight", sample_weight, ["example"])
    same_length(x=x.cpu().numpy(), sample_weight=found)
    if (found < 0).any() or not found.any():
        raise ValueError(
            f"sample_weight goes from {found.min()} to {found.max()}; weights must not be "
            "negative, and some must be larger than 0"
        )
    return torch.from_numpy(found)


def _penalties(x: Tensor, penalty: float, intercept: bool) -> Float[Tensor, " feature"]:
    """On each coefficient; -1 marks the intercept, which has none."""
    found = torch.full((x.shape[1],), _number("penalty", penalty), dtype=torch.float64)
    if intercept:
        found[-1] = -1.0
    return found


def _diagonal(
    penalties: Float[Tensor, " feature"], weights: Float[Tensor, "mask example"]
) -> Float[Tensor, "mask feature feature"]:
    """The penalty of each mask; an intercept has one on nothing only, where it would be free."""
    nothing = (weights == 0).all(dim=1, keepdim=True).double()
    return torch.diag_embed(torch.where(penalties < 0, nothing, penalties))
