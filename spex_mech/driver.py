"""The driver: the only loop that carries a search's questions to a game and the answers back.

1. The search asks. Its masks are cut into batches of a fixed size, so that which masks share a
   batch does not depend on how fast the machine is. Of workers each gets its part of a question,
   unless ``masks_per_batch`` says how large a batch is. With a store batches begin with one mask
   and grow until one takes long enough, as a kill costs a batch; the store's log says how many
   masks each had, so that a search that goes on asks as it did.
2. Of each batch, what the store holds is taken from there; the game is asked for the rest. A game
   of workers gets some batches ahead (``Game.n_ahead``).
3. A store commits a batch before its answer is passed on.
4. The search is told all answers of its question at once.

Budget is the search's business, cost is counted here, and a progress bar only listens.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from tqdm.auto import tqdm

from spex_mech.arguments import shown, whole
from spex_mech.arrays import described
from spex_mech.game import Answer, Game, Pending, Tick, no_tick
from spex_mech.masks import MaskBatch
from spex_mech.search.contract import Question, Search, cost_of_mask
from spex_mech.search.resolution import Resolution

LARGEST, SMALLEST = 1e150, 1e-150  # sizes of values, whose squares are numbers


@runtime_checkable
class Kept(Protocol):
    """A search's part of a store (``runs.store.Run``)."""

    reused: int  # evaluations that other searches left
    checks: int  # evaluations that each opening of the store costs
    seconds: float  # of all sittings

    def next_size(self, left: int, slopes: bool) -> int:
        """How many masks the next batch holds, of those that are left of a question."""
        ...

    def look(self, masks: MaskBatch, slopes: bool) -> Any:
        """What of a batch is there."""
        ...

    def answer(
        self, masks: MaskBatch, slopes: bool, stage: str, looked: Any, ask: Callable[[], Answer]
    ) -> Answer:
        """The whole answer to a batch, once it is committed; ``ask`` gives what is missing."""
        ...


class Watcher:
    """Hears what a driver does; this one only listens. ``Bar`` shows it."""

    def asked(self, question: Question, game: Game) -> None:
        """A search asks."""

    def kept(self, cost: int) -> None:
        """So many evaluations of the present batch were there already."""

    def worked(self, cost: float) -> None:
        """About so many evaluations more were done of the present batch."""

    def answered(self, cost: int) -> None:
        """A batch is over; what was not there already cost so much."""

    def has(self, masks: MaskBatch, question: Question, answer: Answer) -> None:
        """The answer to a batch of a question is there, new or kept."""

    def told(self, values: Float[np.ndarray, "mask prompt"], game: Game, search: Search) -> None:
        """The search was told the answer to its question."""


@dataclass
class Rounding(Watcher):
    """How finely the values that were seen can be told apart (``search.resolution``)."""

    resolution: Resolution = field(default_factory=Resolution)

    def told(self, values: Float[np.ndarray, "mask prompt"], game: Game, search: Search) -> None:
        self.resolution.see(values, game.rounded_to)

    @property
    def precision(self) -> str:
        """The type or the grid of the values."""
        return self.resolution.name

    def floor(self) -> float:
        """The size below which the interaction of a pair may be nothing but rounding."""
        return self.resolution.floor


class Bar(Watcher):
    """A progress bar, which appears once a run takes more than a few seconds.

    Args:
        planned: evaluations in all; None: not known.
        progress: False: show nothing.
    """

    def __init__(self, planned: int | None, progress: bool) -> None:
        # One line per minute in a log file, where a bar cannot be redrawn.
        often = 0.2 if sys.stderr.isatty() or "ipykernel" in sys.modules else 60
        self.bar = tqdm(
            total=planned or None,
            unit="eval",
            delay=2,
            disable=not progress,
            dynamic_ncols=True,
            mininterval=often,
            maxinterval=often,
        )
        self._before, self._in_batch = 0, 0.0

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def asked(self, question: Question, game: Game) -> None:
        workers = f" ({game.n_workers} workers)" if game.n_workers else ""
        self.bar.set_description(question.stage + workers, refresh=False)

    def kept(self, cost: int) -> None:
        """Go on without counting it into the rate, and so into the time left."""
        self._before += cost
        if not self.bar.disable:
            self.bar.n += cost
            self.bar.initial += cost
            self.bar.last_print_n += cost

    def worked(self, cost: float) -> None:
        self._in_batch += cost
        self.bar.update(self._before + int(self._in_batch) - self.bar.n)

    def answered(self, cost: int) -> None:
        self._before, self._in_batch = self._before + cost, 0.0
        self.bar.update(self._before - self.bar.n)

    def told(self, values: Float[np.ndarray, "mask prompt"], game: Game, search: Search) -> None:
        labels = game.units
        best = ", ".join(
            f"{'x'.join(labels[u].label for u in units)} {value:+.3g}"
            for units, value in search.best(2)
        )
        self.bar.set_postfix_str(best, refresh=False)


@dataclass
class Watchers(Watcher):
    """Several that listen."""

    all: Sequence[Watcher] = field(default_factory=tuple)

    def asked(self, question: Question, game: Game) -> None:
        for one in self.all:
            one.asked(question, game)

    def kept(self, cost: int) -> None:
        for one in self.all:
            one.kept(cost)

    def worked(self, cost: float) -> None:
        for one in self.all:
            one.worked(cost)

    def answered(self, cost: int) -> None:
        for one in self.all:
            one.answered(cost)

    def has(self, masks: MaskBatch, question: Question, answer: Answer) -> None:
        for one in self.all:
            one.has(masks, question, answer)

    def told(self, values: Float[np.ndarray, "mask prompt"], game: Game, search: Search) -> None:
        for one in self.all:
            one.told(values, game, search)


def drive(
    game: Game,
    search: Search,
    progress: bool = True,
    run: Kept | None = None,
    watcher: Watcher | None = None,
    unchanged: "Unchanged | None" = None,
    masks_per_batch: int | None = None,
) -> dict[str, int | float]:
    """Carry all of a search's questions to the game and the answers back.

    Any ``Search`` can be driven: one of circuits as well as one of interactions. It says which
    masks to run next (``ask``), is told their values (``tell``), and calls nothing itself::

        cost = drive(game, KeptSetsSearch(...), progress, run=store.search({...}, game))

    With ``run`` from an open store what is known is not run again, and with a game of workers the
    batches of a question run side by side.

    Args:
        progress: show a progress bar once it takes more than a few seconds.
        run: the search's part of a store, which is asked first and told what is new.
        watcher: hears what happens.
        unchanged: since when what the game is made from may not have changed; default: since now.
        masks_per_batch: how many masks a batch holds without ``run``, which says so itself; None:
            as many as the game wants, and of workers the part of each.

    Returns:
        what it cost: evaluations, gradients, seconds; with a store, what was reused of others
        and what opening it cost.

    Raises:
        RuntimeError: what the game is made from (a model, its prompts) changed in between.
    """
    unchanged = Unchanged(game) if unchanged is None else unchanged
    started, cost = time.perf_counter(), {"evaluations": 0, "gradients": 0}
    size = whole("masks_per_batch", masks_per_batch or game.masks_per_batch, 1)

    def next_size(question: Question, left: int) -> int:
        # A fixed size: which masks share a batch must not depend on how fast the machine is.
        if game.n_workers and not masks_per_batch:
            left = min(left, share(len(question), game.n_workers))
        return min(size, left) if run is None else run.next_size(left, question.gradient)

    with Bar(search.planned, progress) as bar:
        heard = Watchers((bar,) if watcher is None else (bar, watcher))
        while (question := search.ask()) is not None:
            if question.masks.n_units != len(game):
                asked = question.masks.n_units
                raise ValueError(
                    f"the search asks for masks of {asked} units; the game has {len(game)}"
                )
            heard.asked(question, game)
            answers = list(_answers(game, question, next_size, run, heard, unchanged))
            values = np.concatenate([answer.values for answer in answers])
            slopes = [answer.slopes for answer in answers if answer.slopes is not None]
            cost["evaluations"] += question.cost
            cost["gradients"] += len(question) if question.gradient else 0
            search.tell(values, np.concatenate(slopes) if slopes else None)
            heard.told(values, game, search)
    if run is not None:
        kept = {"reused": run.reused, "checks": run.checks}
        return {**cost, **kept, "seconds": round(run.seconds, 3)}
    return {**cost, "seconds": round(time.perf_counter() - started, 3)}


def share(n_masks: int, n_workers: int) -> int:
    """How many of a question's masks each worker gets, at most."""
    return -(-n_masks // n_workers)


def _answers(
    game: Game,
    question: Question,
    next_size: Callable[[Question, int], int],
    run: Kept | None,
    watcher: Watcher,
    unchanged: "Unchanged",
) -> Iterator[Answer]:
    """The answer to each batch of a question, in order; some batches are begun ahead."""
    slopes, each = question.gradient, cost_of_mask(question.gradient)
    masks, at = question.masks, 0
    begun: deque[tuple[MaskBatch, Any, MaskBatch, Any]] = deque()
    while at < len(masks) or begun:
        while at < len(masks) and len(begun) < game.n_ahead:
            new = masks.part(at, at + next_size(question, len(masks) - at))
            at += len(new)
            looked = None if run is None else run.look(new, slopes)
            rest = new if looked is None else new.rows(looked.missing)
            pending = _begin(game, rest, slopes, watcher) if len(rest) else None
            begun.append((new, looked, rest, pending))
        part, looked, rest, pending = begun.popleft()
        watcher.kept(each * (len(part) - len(rest)))

        def ask(rest: MaskBatch = rest, pending: Any = pending) -> Answer:
            answer = _came(pending.result)
            unchanged.check()
            answer = checked(answer, rest, slopes, game)
            unchanged.see(answer.values.shape[1], rest)  # before a store keeps it
            return answer

        answer = ask() if run is None else run.answer(part, slopes, question.stage, looked, ask)
        unchanged.see(answer.values.shape[1], part)
        watcher.answered(each * len(rest))
        watcher.has(part, question, answer)
        yield answer


class Unchanged:
    """That what a game is made from, and how many prompts it has, stay as they were when this was
    made."""

    def __init__(self, game: Game) -> None:
        self.game, self._before = game, len(game.changes(look=True))
        self._n_prompts: int | None = None

    def check(self) -> None:
        """Raises:
        RuntimeError: it did not; the text says what changed.
        """
        if changes := self.game.changes()[self._before :]:
            raise RuntimeError(
                f"{changes[0]} changed during the search, which would mix values of two models; "
                "search again, and let nothing change the model meanwhile"
            )

    def see(self, n_prompts: int, masks: MaskBatch) -> None:
        """So many values came for each of some masks.

        Raises:
            ValueError: for others it were more, or fewer.
        """
        before = self._n_prompts = self._n_prompts or n_prompts
        if n_prompts != before:
            raise ValueError(
                f"the game's number of values per mask was {before} before, and is {n_prompts} "
                f"with {masks.names(0, self.game.labels)} ablated; it must give as many for every "
                "mask, one per prompt"
            )


def _begin(game: Game, masks: MaskBatch, slopes: bool, watcher: Watcher) -> Pending:
    each = cost_of_mask(slopes)
    return game.start(masks, slopes, lambda n: watcher.worked(n * each))


def evaluate_batch(
    game: Game, masks: MaskBatch, slopes: bool = False, tick: Tick = no_tick
) -> Answer:
    """A game's answer to a batch, as a driver takes it.

    Raises:
        ValueError: a value or slope that is not finite, or of another shape.
    """
    answer = _came(lambda: game.evaluate(masks, slopes, tick))
    return checked(answer, masks, slopes, game)


def _came(answer: Callable[[], Answer]) -> Answer:
    """An answer, once it has come. A ``StopIteration`` would end a loop somewhere in between.

    Raises:
        RuntimeError: instead of it.
    """
    try:
        return answer()
    except StopIteration as error:
        raise RuntimeError(f"the game raised StopIteration({error})") from error


def checked(answer: Answer, masks: MaskBatch, slopes: bool, game: Game) -> Answer:
    """An answer as it is.

    Raises:
        ValueError: a value or slope that is not finite (the text names the units that were
            ablated), or of another shape.
    """
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise ValueError(
            f"{type(game).__name__} answered {shown(answer)}; it must be an Answer(values, slopes)"
        )
    values, found = answer
    for array in (values, *((found,) if slopes and found is not None else ())):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise ValueError(
                f"{type(game).__name__} answered {described(array)}; an Answer's values and slopes "
                "must be numpy arrays of real numbers"
            )
    values = values if values.dtype.kind == "f" else values.astype(np.float64)
    if values.ndim != 2 or len(values) != len(masks) or not values.size:
        raise ValueError(
            f"{type(game).__name__} answered values of shape {list(values.shape)} for "
            f"{len(masks)} masks; they must be [mask prompt]"
        )
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        raise ValueError(
            f"the game's value is {values[row][~finite[row]][0]} with "
            f"{masks.names(row, game.labels)} ablated; it must be finite for every mask"
        )
    if (largest := float(abs(values).max(initial=0.0))) > LARGEST:
        row = int(abs(values).max(axis=1).argmax())
        raise ValueError(
            f"the game's value is {largest:.3g} in size with {masks.names(row, game.labels)} "
            f"ablated; errors need squares, so that it must be under {LARGEST:.0e}: divide values "
            "by a constant"
        )
    if not slopes:
        return Answer(values)
    if found is None or found.ndim != 3 or found.shape[::2] != (len(masks), len(game)):
        shape = None if found is None else list(found.shape)
        raise ValueError(
            f"{type(game).__name__} answered slopes of shape {shape} for {len(masks)} masks of "
            f"{len(game)} units; they must be [mask block unit]"
        )
    if not np.isfinite(found).all():
        raise ValueError("a slope of the game is not finite; pass gradients=False to do without")
    return Answer(values, found)
