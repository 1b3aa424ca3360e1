"""Game: what every search runs on. A set function over named units, with one way in.

A driver asks a game by :meth:`Game.evaluate` and by nothing else: masks in, an ``Answer`` out. What
a game can do besides (slopes, a noise floor, workers of its own) it declares; nobody feels for it.
The game of a model, of a text's tokens, of training examples and of workers derive from ``Game``;
``as_game`` makes one of a function, or of an object that brings the methods without the type.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spex_mech.arguments import label_list, plain_tensor, shown, switch, whole
from spex_mech.arrays import answer_table, check_units, mask_array, own_array
from spex_mech.calls import Called
from spex_mech.fingerprints import function_identity
from spex_mech.masks import MaskBatch
from spex_mech.notebook import facts_html, units_text
from spex_mech.units import Units

if TYPE_CHECKING:
    import shapiq

MASKS_PER_BATCH = 256  # that a game is asked at a time where it does not say
_MOST_SLOTS = 20_000_000  # masks times units of one call, as dense masks make long lists

Tick = Callable[[float], None]  # is told how many more masks' worth of work was done


class Answer(NamedTuple):
    """What a game says of a batch of masks.

    Args:
        values: the metric on each prompt, float64, in the metric's own unit.
        slopes: the derivative of the prompt mean by each unit's gate, by block of prompts: their
            mean over blocks is that of all prompts. None where they were not asked for.
    """

    values: Float[np.ndarray, "mask prompt"]
    slopes: Float[np.ndarray, "mask block unit"] | None = None


@runtime_checkable
class Pending(Protocol):
    """An answer on its way."""

    def result(self) -> Any:
        """Wait for it; raises what the game raised."""
        ...


@dataclass(frozen=True)
class Coarse:
    """Why a game's values are less exact than float32, and what to do against it.

    Args:
        cause: what a warning begins with, such as "precision='bfloat16'".
        cure: what it ends with, such as "use precision='float32'".
    """

    cause: str
    cure: str


def no_tick(masks: float) -> None:
    """Nobody watches."""


class Game(ABC):
    """A set function over named units: masks in, one value per prompt out.

    To make one, derive from it and write :attr:`units` and :meth:`evaluate`. A game with slopes
    says ``has_slopes = True`` and writes :meth:`slopes_at` too. All else has a default:

    | member | says | default |
    |---|---|---|
    | ``masks_per_batch`` | masks that a driver asks at a time | 256 |
    | ``pass_size``, ``limit_pass_size`` | the size of its passes, as far as memory made it smaller | not known |
    | ``noise_floor`` | the size below which an interaction may be rounding | worked out from values |
    | ``coarse`` | why values are less exact than float32 | they are not |
    | ``provenance``, ``identity`` | what fixes the values, for results and for stores | the code |
    | ``device`` | where a proxy of it may compute | the CPU |
    | ``n_ahead``, ``n_workers``, ``start`` | batches that may be on their way at a time | one |

    >>> class Both(Game):
    ...     units = Units.of_labels(["a", "b", "c"])
    ...     def evaluate(self, masks, slopes=False, tick=no_tick):
    ...         return Answer(masks.kept()[:, :2].all(axis=1)[:, None].astype(float))
    >>> game = Both()
    >>> game([[True, True, False], [True, False, True]]).tolist()
    [[1.0], [0.0]]
    """  # noqa: E501

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'; '.join(self.in_words().values())})"

    def _repr_html_(self) -> str:
        return facts_html(type(self).__name__, self.in_words())

    def in_words(self) -> dict[str, str]:
        """What it is, by name, as ``print`` and notebooks show it. Nothing is computed for it."""
        return {"units": units_text(self.units.kinds, self.labels)}

    device: torch.device = torch.device("cpu")
    n_ahead: int = 1
    n_workers: int | None = None  # processes that compute; None: this one

    @property
    def n_tried(self) -> int:
        """Evaluations that it took so far to find out how it is called (``calls``)."""
        return 0

    @property
    @abstractmethod
    def units(self) -> Units:
        """What the columns of a mask are."""

    @abstractmethod
    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Tick = no_tick) -> Answer:
        """Values, and with ``slopes`` the slopes at the same masks: the one way in.

        Raises:
            ValueError: a value that is not finite, or slopes of a game that has none.
        """

    # -- what a game declares -------------------------------------------------------------------

    @property
    def has_slopes(self) -> bool:
        """Whether :meth:`slopes_at` and ``evaluate(..., slopes=True)`` answer."""
        return False

    @property
    def why_no_slopes(self) -> str:
        """Why a game that could have slopes has none, for a warning; empty: there is nothing to
        say."""
        return ""

    def changes(self, look: bool = False) -> Sequence[str]:
        """What changed of that which it was made from, in words, since it was made: a search must
        not mix values of before and after.

        Args:
            look: whether something changed by now; otherwise, up to the last call.
        """
        return ()

    def slopes_at(self, gates: Tensor) -> Answer:
        """Values and slopes at gates ``[mask unit]`` from 0 (ablated) to 1 (kept), or at masks.

        Raises:
            ValueError: this game has no slopes.
        """
        raise ValueError(f"{type(self).__name__} has no slopes; give gradients=False")

    @property
    def masks_per_batch(self) -> int:
        """How many masks a driver should ask at a time."""
        return MASKS_PER_BATCH

    def pass_size(self) -> int | None:
        """Rows per pass (one mask on one prompt each), as far as is known by now: memory may have
        made it smaller than it began. A store keeps it with a search."""
        return None

    def limit_pass_size(self, rows: int) -> None:
        """Run passes of at most so many rows: a search that goes on is told what it came to."""
        del rows  # by default nothing is known of its passes

    @property
    def noise_floor(self) -> float | None:
        """The size below which an interaction cannot be told from rounding, in the metric's unit;
        None: not known, to be worked out from the values."""
        return None

    @property
    def rounded_to(self) -> str | None:
        """The half format ("bfloat16", "float16") that its values are rounded to; None: none, or
        not known, to be found in the values."""
        return None

    @property
    def coarse(self) -> Coarse | None:
        """Why values are less exact than float32; None: they are not."""
        return None

    def provenance(self) -> dict[str, Any]:
        """What fixes the game's values: recorded with every result. Plain values, for JSON."""
        return {}

    def identity(self) -> dict[str, Any]:
        """What else fixes its values: with :meth:`provenance`, what a store tells games apart by.
        By default a hash of the code and of what the object holds."""
        return dict(function_identity(self))

    def start(self, masks: MaskBatch, slopes: bool, tick: Tick) -> Pending:
        """Begin with a batch; a game of workers has it computed by one of them."""
        return _Later(self, masks, slopes, tick)

    # -- for users ------------------------------------------------------------------------------

    @property
    def labels(self) -> list[str]:
        """The label of each unit, in mask order."""
        return self.units.labels

    def __len__(self) -> int:
        return len(self.units)

    def __call__(self, masks: Any) -> Float[Tensor, "mask prompt"]:
        """The metric of each prompt with what is not kept ablated.

        Args:
            masks: ``[mask unit]``, True or 1 = kept, False or 0 = ablated: a tensor, an array or
                lists, of booleans or numbers.

        Returns:
            ``Float[Tensor, "mask prompt"]`` on the CPU, in float64.

        Raises:
            TypeError: masks that are no numbers.
            ValueError: masks of the wrong width, that hold something else than 0 and 1, or a value
                that is not finite.
        """
        kept = mask_array("masks", masks, len(self), self.labels)
        if not len(kept):
            raise ValueError("masks has no row; give one mask or more")
        step = max(1, _MOST_SLOTS // len(self))
        parts = [MaskBatch.of_kept(kept[at : at + step]) for at in range(0, len(kept), step)]
        return torch.cat([torch.from_numpy(self.evaluate(part).values) for part in parts])

    def mean(self, masks: Any) -> Float[np.ndarray, " mask"]:
        """The prompt mean in numpy: what shapiq's approximators and explainers take as a game.

        Args:
            masks: ``[mask unit]`` as a call takes them; or one, ``[unit]``, as some of shapiq's
                give it, whose answer has one entry.
        """
        array = own_array("masks", masks)
        check_units("masks", masks, self.labels)
        return self(array[None] if array.ndim == 1 else array).mean(dim=1).numpy()

    def gradient(self, masks: Any) -> Float[Tensor, "mask unit"]:
        """The derivative of the prompt mean by every unit's gate, at masks or at gates between 0
        (ablated) and 1 (kept).

        Raises:
            ValueError: this game has no slopes.
        """
        return self.value_and_slopes(masks)[1].mean(dim=1)

    def value_and_gradient(
        self, masks: Any
    ) -> tuple[Float[Tensor, "mask prompt"], Float[Tensor, "mask unit"]]:
        """Values and gradient at once, at the price of the gradient."""
        values, slopes = self.value_and_slopes(masks)
        return values, slopes.mean(dim=1)

    def value_and_slopes(
        self, masks: Any
    ) -> tuple[Float[Tensor, "mask prompt"], Float[Tensor, "mask block unit"]]:
        """The same by block of prompts: the gradient is the mean over blocks.

        It costs no more. Where slopes of different prompts cancel, a search that sees blocks still
        sees that something changed.
        """
        values, slopes = self.slopes_at(mask_table(masks, len(self)))
        assert slopes is not None
        return torch.from_numpy(values), torch.from_numpy(slopes)

    def as_shapiq(self) -> "shapiq.Game":
        """This game for shapiq's approximators and explainers: coalitions are the masks, values are
        averaged over the prompts and measured from that of the empty mask, as shapiq wants them.

        Raises:
            ImportError: shapiq is missing.
        """
        try:
            from shapiq import Game as ShapiqGame
        except ImportError as error:
            raise ImportError("this needs shapiq: pip install shapiq") from error
        mean, empty = self.mean, float(self.mean(np.zeros((1, len(self)), dtype=bool))[0])

        class Coalitions(ShapiqGame):
            """Calls the game with shapiq's coalitions."""

            def value_function(self, coalitions: np.ndarray) -> np.ndarray:
                return mean(coalitions)

        return Coalitions(len(self), normalization_value=empty, player_names=self.labels)

    def describe(self) -> dict[str, Any]:
        """:meth:`provenance`, by its old name."""
        return self.provenance()


@dataclass(frozen=True)
class _Later:
    """An answer that is worked out when it is asked for."""

    game: Game
    masks: MaskBatch
    slopes: bool
    tick: Tick

    def result(self) -> Answer:
        return self.game.evaluate(self.masks, self.slopes, self.tick)


class FunctionGame(Game):
    """Any function of masks as a game.

    The function gets masks, True = kept, and returns one value per mask, or one per mask and
    prompt: a tensor, an array, a list, a number. How it is called is found out with a small batch
    (``calls``): with many masks at a time, as a bool tensor ``[mask unit]`` or as a bool array; or
    with one, ``[unit]``.

    Args:
        function: the function.
        labels: the name of each unit, or a table of units.
        vectorized: True: it takes many masks at a time; False: one; None: find out.

    >>> game = FunctionGame(lambda mask: 3.0 if mask[0] and not mask[1] else 0.0, ["a", "b"])
    >>> game([[True, False], [True, True]]).tolist()
    [[3.0], [0.0]]
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        labels: Sequence[str] | Units,
        vectorized: bool | None = None,
    ) -> None:
        self.function = function
        self._units = labels if isinstance(labels, Units) else Units.of_labels(labels)
        self.called = Called(function, self._units.labels, vectorized)

    @property
    def units(self) -> Units:
        return self._units

    @property
    def n_tried(self) -> int:
        return self.called.n_tried

    @property
    def rounded_to(self) -> str | None:
        return self.called.rounded_to

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Tick = no_tick) -> Answer:
        if slopes:
            raise ValueError("a plain function has no slopes; give gradients=False")
        return Answer(self.called(masks))

    def identity(self) -> dict[str, Any]:
        """What a store tells functions apart by."""
        return dict(function_identity(self.function))


class _Foreign(Game):
    """An object that is a game in all but its type."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self._units = Units.of_labels(own.labels, len(own))
        self._called = Called(own, self._units.labels, trusted=True)
        self._values_and_slopes = next(
            (getattr(own, name) for name in _WITH_SLOPES if hasattr(own, name)),
            (lambda masks: (own(masks), own.gradient(masks))) if hasattr(own, "gradient") else None,
        )

    @property
    def units(self) -> Units:
        return self._units

    @property
    def n_tried(self) -> int:
        return self._called.n_tried

    @property
    def rounded_to(self) -> str | None:
        return self._called.rounded_to

    @property
    def has_slopes(self) -> bool:
        return self._values_and_slopes is not None

    @property
    def masks_per_batch(self) -> int:
        own = getattr(self.own, "masks_per_batch", MASKS_PER_BATCH)
        return whole("masks_per_batch", own, 1)

    @property
    def noise_floor(self) -> float | None:
        return getattr(self.own, "noise_floor", None)

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Tick = no_tick) -> Answer:
        if slopes:
            return self.slopes_at(torch.from_numpy(masks.kept()))
        if hasattr(self.own, "ablating"):
            return Answer(as_table(self.own.ablating(masks.ablated, tick), len(masks)))
        return Answer(self._called(masks))

    def slopes_at(self, gates: Tensor) -> Answer:
        if self._values_and_slopes is None:
            return super().slopes_at(gates)
        values, slopes = self._values_and_slopes(gates)
        if isinstance(slopes, Tensor):
            slopes = slopes.detach().double().cpu().numpy()
        slopes = np.asarray(slopes, dtype=np.float64)
        if slopes.ndim == 2:
            slopes = slopes[:, None]
        if slopes.ndim != 3 or slopes.shape[::2] != tuple(gates.shape):
            raise _of_another_shape(slopes, gates)
        return Answer(as_table(values, len(gates)), slopes)

    def gradient(self, masks: Any) -> Float[Tensor, "mask unit"]:
        gates = mask_table(masks, len(self))
        if not hasattr(self.own, "gradient"):
            return super().gradient(gates)
        # Its own, as it may have no values at gates between 0 and 1.
        slopes = np.asarray(torch.as_tensor(self.own.gradient(gates)).detach().cpu(), np.float64)
        if slopes.shape != tuple(gates.shape):
            raise _of_another_shape(slopes, gates)
        return torch.from_numpy(slopes)

    def provenance(self) -> dict[str, Any]:
        return self._told("describe") if hasattr(self.own, "describe") else {}

    def identity(self) -> dict[str, Any]:
        if hasattr(self.own, "identity"):
            return self._told("identity")
        return dict(function_identity(self.own))

    def _told(self, name: str) -> dict[str, Any]:
        """What a method of the object says of it.

        Raises:
            ValueError: it is no dictionary.
        """
        told = getattr(self.own, name)()
        if not isinstance(told, Mapping):
            raise ValueError(
                f"{name}() of {type(self.own).__name__} returned {shown(told)}; it must return a "
                "dictionary of plain values"
            )
        return dict(told)


def _of_another_shape(slopes: np.ndarray, gates: Tensor) -> ValueError:
    return ValueError(
        f"the game's gradient has shape {list(slopes.shape)} for masks of shape "
        f"{list(gates.shape)}; pass gradients=False to do without"
    )


_WITH_SLOPES = ("value_and_slopes", "value_and_gradient")


def is_game(value: Any) -> bool:
    """Whether it is a game, by its type or by ``len`` and ``labels``."""
    if isinstance(value, Game | type):  # a class makes games, and is none
        return isinstance(value, Game)
    return hasattr(value, "__len__") and hasattr(value, "labels")


def as_game(
    game: Any,
    n: int | None = None,
    labels: Sequence[str] | None = None,
    vectorized: bool | None = None,
) -> Game:
    """A game as it is, a function of ``n`` units (or of those with these labels) as one, or an
    object of one's own with ``len``, ``labels`` and a call.

    What a function gets and may return, and what ``vectorized`` says, is told in ``FunctionGame``;
    an object is called in the same ways.

    Such an object may have, besides: ``gradient(masks)`` ``[mask unit]``,
    ``value_and_gradient(masks)``, or ``value_and_slopes(masks)`` with slopes ``[mask block unit]``;
    ``masks_per_batch``, ``noise_floor``, ``describe()`` and ``identity()``, as ``Game`` has them.

    Raises:
        ValueError: it is neither, or ``n``, ``labels`` and ``vectorized`` do not fit it.
    """
    n = None if n is None else whole("n", n, 1)
    vectorized = None if vectorized is None else switch("vectorized", vectorized)
    names = None if labels is None else label_list(labels, n)
    if isinstance(game, Game) and not isinstance(game.units, Units):
        raise ValueError(
            f"the units of {type(game).__name__} are {shown(game.units)}; they must be Units, such "
            "as Units.of_labels(['a', 'b'])"
        )
    if is_game(game):
        if n not in (None, len(game)) or (names is not None and names != list(game.labels)):
            raise ValueError(
                f"this game brings its own {len(game)} units: leave out n= and labels="
            )
        if vectorized is not None:
            raise ValueError("vectorized goes with a plain function; this game says it itself")
        return game if isinstance(game, Game) else _Foreign(game)
    if not callable(game):
        raise ValueError(f"{shown(game)} is not a game: it cannot be called with masks")
    if n is None and names is None:
        raise ValueError("a plain function has no length: give n=, the number of its units")
    return FunctionGame(game, names or [str(unit) for unit in range(n or 0)], vectorized)


def mask_table(masks: Any, n_units: int) -> Tensor:
    """Masks or gates from whatever holds numbers: ``[mask unit]``, detached, on the CPU.

    Raises:
        ValueError: another shape.
    """
    if isinstance(masks, Tensor):
        masks = plain_tensor("masks", masks).detach().cpu()
    else:
        array = own_array("masks", masks)
        single = isinstance(masks, list | tuple) and array.dtype == np.float64  # as torch reads it
        masks = torch.as_tensor(array.astype(np.float32) if single else array)
    if masks.ndim != 2 or masks.shape[1] != n_units:
        raise ValueError(
            f"masks have shape {tuple(masks.shape)}; they need [mask unit] with {n_units} units"
        )
    return masks


def as_table(values: Any, n_masks: int) -> Float[np.ndarray, "mask prompt"]:
    """A game's answer, tensor or array or list, [mask] or [mask prompt], in float64.

    Raises:
        ValueError: something else than real numbers, or another shape.
    """
    try:
        return answer_table(values, n_masks)
    except ValueError as error:
        raise ValueError(f"the game {error}") from error
