"""Attention that a model computes by itself: weights that sum to 1, times values.

Which product that is, and where its rows, heads and positions lie. Discovery proves what it makes
of it, so a product that is taken for attention and is none does no harm.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor
from torch.overrides import TorchFunctionMode

from spex_mech.engine.examples import N_POS
from spex_mech.engine.running import is_float

_SOFTMAX = 1e-3  # by which attention weights may miss the sum of 1
_PRODUCTS = frozenset(("matmul", "bmm", "__matmul__"))
_WATCHED = _PRODUCTS | {"scaled_dot_product_attention", "einsum"}

# What is made of a product: of what it gave, its values or keys ``[row head pos d_head]``, and the
# axis of its heads.
Product = Callable[[Tensor, Tensor | None, int], Tensor]


class Products(TorchFunctionMode):
    """Every product of attention is handed to ``made``, which may give another in its place.

    Args:
        is_off: asked at each product: whether it is left as it is.

    ``projects_itself`` says whether torch's ``multi_head_attention_forward`` ran, which takes the
    weight of the output projection and calls no module.
    """

    def __init__(self, made: Product, is_off: Callable[[], bool]) -> None:
        super().__init__()
        self._made, self._is_off = made, is_off
        self.projects_itself = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name not in _WATCHED:
            if name == "multi_head_attention_forward":
                self.projects_itself = True
            return out
        if self._is_off() or not is_float(out):
            return out
        if name == "einsum":
            return self._of_einsum(out, *args)
        if name in _PRODUCTS and not (len(args) == 2 and _are_weights(args[0], args[1])):
            return out
        return self._made(out, args[1] if len(args) > 1 else None, 1)

    def _of_einsum(self, out: Tensor, equation: Any, *operands: Any) -> Tensor:
        if len(operands) == 1 and isinstance(operands[0], list | tuple):
            operands = tuple(operands[0])
        if not isinstance(equation, str) or len(operands) != 2:
            return out
        axes = axes_of(equation, operands[0].ndim, operands[1].ndim)
        if axes is None:
            return out
        values = operands[1].permute(axes[0])
        if not _are_weights(operands[0], values):
            return out
        turned = out.permute(axes[1])
        new = self._made(turned, values, -3)
        return out if new is turned else new.permute([axes[1].index(i) for i in range(out.ndim)])


def axes_of(equation: str, *n_dims: int) -> tuple[list[int], list[int]] | None:
    """How the axes of an einsum's values and output come to stand as ``[row ... head pos d_head]``,
    where the first operand is ``[row ... head pos key]``; None: it is no such product.

    >>> axes_of("bnij,bjnd->bind", 4, 4)
    ([0, 2, 1, 3], [0, 2, 1, 3])
    """
    left, _, out = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != 2 or not out or len(n_dims) != 2:
        return None
    more = {n - len(term.replace("...", "")) for n, term in zip(n_dims, terms, strict=True)
            if "..." in term}  # fmt: skip
    if len(more) > 1:
        return None
    dots = "ABCDEFGH"[: max(more, default=0)]
    weights, values, out = (term.replace("...", dots) for term in (*terms, out))
    if not 3 < len(weights) == len(values) == len(out) or len(set(weights)) < len(weights):
        return None
    shared, pos, key = weights[:-2], weights[-2], weights[-1]
    width = "".join(set(values) - set(weights))
    if len(width) != 1 or not {*shared, key, width} == {*values} or pos not in out:
        return None
    if {*shared, pos, width} != {*out}:
        return None
    return [values.index(x) for x in f"{shared}{key}{width}"], [
        out.index(x) for x in f"{shared}{pos}{width}"
    ]


def heads_last(
    out: Tensor, n_rows: int, heads_at: int
) -> Float[Tensor, "row pos head d_head"] | None:
    """What a product gave, with all but rows and heads as positions; windows may stand beside the
    rows that they are of, and of three axes the first is rows and heads."""
    if out.ndim > 3 and out.shape[0] % n_rows == 0:
        moved = out.movedim(heads_at, -2)
        return moved.reshape(n_rows, -1, *moved.shape[-2:])
    if out.ndim == 3 and out.shape[0] % n_rows == 0 and out.shape[0] > n_rows:
        return out.unflatten(0, (n_rows, -1)).transpose(1, 2)
    return None


def heads_back(new: Float[Tensor, "row pos head d_head"], like: Tensor, heads_at: int) -> Tensor:
    """The reverse."""
    if like.ndim > 3:
        moved = like.movedim(heads_at, -2)
        return new.reshape(moved.shape).movedim(-2, heads_at).contiguous()
    return new.transpose(1, 2).reshape(like.shape).contiguous()


def _are_weights(a: Any, b: Any) -> bool:
    """Whether rows of the first sum to 1, none of it negative: weights of positions."""
    if not (is_float(a) and is_float(b)) or a.ndim < 3 or a.ndim != b.ndim:
        return False
    if a.shape[-1] < N_POS or bool((a < 0).any()):
        return False
    return bool(((a.sum(-1) - 1).abs() < _SOFTMAX).all())


__all__ = ["Products", "axes_of", "heads_back", "heads_last"]
