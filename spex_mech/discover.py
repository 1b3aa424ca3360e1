"""The steps in order: a search's questions go to the game, the answers go back.

Progress, budget and cost live here, once for every search and every game.
"""

import os
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from spex_mech.fingerprints import function_identity, versions
from spex_mech.masks import names_of
from spex_mech.proxies.gaussian_process import Distilled
from spex_mech.proxies.student import Student
from spex_mech.proxies.trees import Trees
from spex_mech.results.confirmation import Confirmation, confirmation, shared_text
from spex_mech.results.interactions import Interactions
from spex_mech.runs.store import Answer, Looked, Run, opened
from spex_mech.search.adaptive import Adaptive, Strategy
from spex_mech.search.contract import Findings, Question, Search
from spex_mech.search.exhaustive import Exhaustive
from spex_mech.search.proxyspex import Proxy, ProxySpex
from spex_mech.search.spex import Spex

# What each method may be told besides budget, order and seed.
METHODS = {
    "spex": ("gradients", "top"),
    "proxyspex": ("proxy", "masks", "gradients", "top"),
    "exhaustive": (),
}
_ROUNDINGS = 4  # that a value of a function is allowed
_RESOLVED = 20  # strongest interactions that a precision should resolve
_MASKS_PER_BATCH = 256
_FEW_PAIRS, _STUDENT_BUDGET = 20_000, 10  # all pairs of a student; else evaluations a unit


@dataclass(frozen=True)
class CallableGame:
    """Any function of masks as a game: ``Bool[mask unit]`` -> ``[mask]`` or ``[mask prompt]``."""

    function: Callable[[Any], Any]
    labels: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, masks: Bool[Tensor, "mask unit"]) -> Any:
        return self.function(masks)

    def identity(self) -> dict[str, str]:
        """What a store tells functions apart by."""
        return function_identity(self.function)


def discover(
    game: Any,
    method: str = "spex",
    budget: int | None = None,
    order: int = 2,
    seed: int = 0,
    *,
    n: int | None = None,
    labels: Sequence[str] | None = None,
    progress: bool = True,
    store: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    address: str | None = None,
    **options: Any,
) -> Interactions:
    """Find and measure the interactions of a game.

    Args:
        game: a ``ModelGame``, or anything with ``len``, ``labels`` and a call, or (with ``n``) any
            function from ``Bool[mask unit]`` (True = kept) to ``[mask]`` or ``[mask prompt]``.
        method: "spex" (adaptive: the strongest pairs, in close to linear cost), "proxyspex" (the
            same, on candidates of a small model that was distilled from masked runs) or
            "exhaustive" (every pair; a random sample of them where the budget is smaller).
        budget: evaluations that may be spent; one mask over all prompts is one, a gradient three.
            Default: of spex 4 a unit and 100; of proxyspex 2 a unit with gradients, 4 without, 1
            with a smaller game as proxy, and 100; of exhaustive all. Too few are refused.
        order: the largest number of units in an interaction.
        seed: of everything random.
        n: the number of units of a function, which has no length.
        labels: their names; default: their numbers. (A game brings both itself.)
        progress: show a progress bar once it takes more than a few seconds.
        store: a file that keeps every evaluation (``runs.store``). The same call with it goes on
            where it was killed, and ends with the same result bit for bit on the same machine;
            the call of a finished search returns its result at once. Another search on the same
            game (other method, budget or seed) reuses every evaluation. The store is of one game,
            by ``describe()`` and ``identity()`` of the game: hashes of weights, prompts, metric,
            references, versions. Of a plain function, code and captured data are hashed; what it
            reads from files is not seen. ``cost`` then has ``reused``, the evaluations that other
            searches had left; its seconds are those of all sittings.
        workers: how many processes compute (``runs.workers``), one a GPU or CPU core. Then
            ``game`` is a function that makes it, such as a ``GameFactory``. The result does not
            depend on their number.
        address: of a Ray cluster, instead of processes here; "auto": that of this machine.
        options: of spex and proxyspex: ``gradients=False`` (do not use the game's gradients) and
            ``top`` (how many pairs the audit's recall is about). Of proxyspex: ``proxy``
            ("distilled", "trees", an object with the methods of ``Proxy``, or a **smaller game of
            the same units**, such as a ``TokenGame`` of a student model with the same tokenizer)
            and ``masks`` ("near" the intact model, or "half": complement pairs that ablate half of
            the units).

    A game that has ``gradient(masks)`` is asked for gradients too; one that has, as ``ModelGame``,
    ``value_and_gradient(masks)`` or, by block of prompts, ``value_and_slopes(masks)``, is asked for
    both at once there. One that has a ``noise_floor`` says what its values cannot resolve; of any
    other it is what float numbers cannot: some roundings of the largest value, in float32 where all
    values are float32 numbers. What a function itself loses in rounding is not known and may be
    more.

    Returns:
        The measured interactions, with errors over prompts, main effects, cost and provenance.

    Raises:
        ValueError: an unknown method or option, a budget that is too small, an answer of the game
            that is not finite, or a store that is damaged or of another game (the text says what
            differs).
        BlockingIOError: another process holds the store.
        OSError: the store cannot be written; what was committed is kept.
    """
    if workers is not None or address is not None:
        from spex_mech.runs.workers import started

        given = {"n": n, "labels": labels, "progress": progress, "store": store, **options}
        with started(game, workers, address) as remote:
            return discover(remote, method, budget, order, seed, **given)
    game = as_game(game, n, labels)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
    if unknown := options.keys() - set(METHODS[method]):
        takes = ", ".join(METHODS[method]) or "no options"
        raise ValueError(f"method={method!r} takes no {min(unknown)!r}; it takes {takes}")
    common = {"order": order, "budget": budget, "seed": seed}
    told = {key: value for key, value in options.items() if isinstance(value, bool | int | str)}
    about = {"method": method, **common} | ({"options": told} if told else {})

    def search() -> Search:
        if method == "exhaustive":
            return Exhaustive(len(game), **common, **options)
        rest = dict(options)
        top = rest.pop("top", 100)
        if hasattr(rest.get("proxy"), "labels"):
            rest["proxy"] = student_of(game, rest["proxy"], order, seed, progress)
        return Adaptive(_strategy(game, method, seed, rest), len(game), **common, top=top)

    if store is None:
        return _drive(game, search(), about, progress)
    with opened(store, game) as kept:
        run = kept.search({"method": method, **common, **options}, game, masks_per_batch(game))
        if (finished := run.result()) is not None:
            return finished
        return run.finish(_drive(game, search(), about, progress, run))


def _strategy(game: Any, method: str, seed: int, options: dict[str, Any]) -> Strategy:
    has = hasattr(game, "gradient")
    if options.get("gradients") and not has:
        raise ValueError("gradients=True, but this game has no gradient(masks)")
    if method == "spex":
        return Spex(**_known("gradients", has, options))
    proxy = proxy_named(options.pop("proxy", "distilled"), seed, game)
    reads = isinstance(proxy, Distilled)
    if options.get("gradients") and not reads:
        raise ValueError(f"gradients=True, but the proxy {_name(proxy)} reads no gradients")
    half = options.pop("masks", "near")
    if half not in ("near", "half"):
        raise ValueError(f"masks={half!r}; choose 'near' (the intact model) or 'half' (p = 1/2)")
    return ProxySpex(proxy, half=half == "half", **_known("gradients", has and reads, options))


def student_of(game: Any, smaller: Any, order: int, seed: int, progress: bool) -> Student:
    """A smaller game as a proxy: its interactions are searched first, with its own evaluations.

    Raises:
        ValueError: the two games differ in their units.
    """
    if list(smaller.labels) != list(game.labels):
        pairs = zip(game.labels, smaller.labels, strict=False)
        which = next((f"{a!r} and {b!r}" for a, b in pairs if a != b), "their number")
        raise ValueError(
            f"the smaller game has {len(smaller)} units and this one {len(game)}; they must be the "
            f"same, and differ in {which}"
        )
    n = len(game)
    few = n * (n - 1) // 2 <= _FEW_PAIRS and order == 2
    budget = None if few else _STUDENT_BUDGET * n + 1000
    method = "exhaustive" if few else "spex"
    found = discover(smaller, method, budget, order, seed, progress=progress)
    sets = [tuple(u for u in row if u >= 0) for row in found.units.tolist()]
    return Student(smaller, list(zip(sets, found.mean.tolist(), strict=True)), found.cost)


def _known(name: str, value: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options with one more, unless it was given."""
    return {name: value, **options}


def proxy_named(proxy: Any, seed: int, game: Any) -> Proxy:
    """A proxy by its name, or the user's own as it is.

    Raises:
        ValueError: no proxy has this name, or the object lacks a method.
    """
    if isinstance(proxy, str):
        if proxy == "distilled":
            return Distilled(seed, _device(game))
        if proxy == "trees":
            return Trees(seed)
        raise ValueError(f"unknown proxy {proxy!r}; choose one of distilled, trees, or your own")
    lacking = [m for m in ("fit", "predict", "propose", "uncertainty") if not hasattr(proxy, m)]
    if lacking:
        raise ValueError(f"the proxy {_name(proxy)} has no method {lacking[0]!r}")
    return proxy


def _name(proxy: Any) -> str:
    return getattr(proxy, "name", type(proxy).__name__)


def _device(game: Any) -> str:
    device = getattr(game, "device", "cpu")
    return str(device) if torch.device(device).type == "cuda" else "cpu"


def measure(game: Any, sets: Sequence[Sequence[str]], *, progress: bool = True) -> Interactions:
    """Measure exactly the interactions of the given sets of labels, and of their subsets.

    Raises:
        ValueError: no set of two labels, an unknown label, or one twice in a set.

    >>> def overlap(masks):  # two units in series: either one gone breaks it
    ...     return masks.all(dim=1).double()
    >>> found = measure(as_game(overlap, 2, ["a", "b"]), [("a", "b")])
    >>> found.value("a", "b")
    1.0
    """
    game = as_game(game, None, None)
    column = {label: u for u, label in enumerate(game.labels)}
    if not any(len(labels) > 1 for labels in sets):
        raise ValueError("no sets to measure: give at least one set of two labels")
    if twice := [labels for labels in sets if len(set(labels)) < len(labels)]:
        raise ValueError(f"the set {tuple(twice[0])} holds a unit twice")
    if unknown := [label for labels in sets for label in labels if label not in column]:
        raise ValueError(f"unknown unit {unknown[0]!r}; this game's units are {game.labels[:4]}...")
    width = max(len(labels) for labels in sets)
    rows = [[column[x] for x in labels] + [-1] * (width - len(labels)) for labels in sets]
    search = Exhaustive(len(game), order=width, sets=np.array(rows).reshape(-1, width))
    return _drive(game, search, {"method": "listed sets"}, progress)


def confirm(found: Interactions, game: Any, k: int = 20, *, progress: bool = True) -> Confirmation:
    """Measure the k strongest interactions again on another game of the same units: other prompts,
    another ablation. What was selected on some prompts is a finding only if it holds on others.

    It warns where the game's prompts are those of the search, on which everything is found again.

    Returns:
        the interactions as they are now, in the order of the search, with what the search had said
        of each (``searched``), and what ``holds``. ``found.confirmed_by(again)`` keeps it.

    Raises:
        ValueError: the other game lacks a unit, or k is under 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; give at least 1 interaction to measure again")
    top = found.top(k)
    again = confirmation(top, measure(game, top.names, progress=progress))
    if again.n_shared:
        warnings.warn(
            f"{shared_text(again.n_shared, again.values.shape[1])}, on which every value is found "
            "again: this confirms nothing; give a game with other prompts",
            stacklevel=2,
        )
    return again


def as_game(game: Any, n: int | None, labels: Sequence[str] | None) -> Any:
    """A game as it is, or a function of ``n`` units (or of those with these labels) as one.

    Raises:
        ValueError: it is neither, or ``n`` and ``labels`` do not fit it.
    """
    if hasattr(game, "__len__") and hasattr(game, "labels"):
        if n not in (None, len(game)) or (labels is not None and list(labels) != list(game.labels)):
            raise ValueError(
                f"this game brings its own {len(game)} units: leave out n= and labels="
            )
        return game
    if not callable(game):
        raise ValueError(f"{type(game).__name__} is not a game: it cannot be called with masks")
    if n is None and labels is None:
        raise ValueError("a plain function has no length: give n=, the number of its units")
    names = list(labels) if labels is not None else [str(unit) for unit in range(n or 0)]
    if n is not None and len(names) != n:
        raise ValueError(f"{len(names)} labels for {n} units")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"two units are called {twice!r}; a label must name one")
    return CallableGame(game, names)


def _drive(
    game: Any, search: Search, about: dict[str, Any], progress: bool, run: Run | None = None
) -> Interactions:
    rounding = Rounding()
    cost = drive(game, search, progress, run, rounding)
    found = _result(game, search.findings(), cost, about, rounding)
    if getattr(game, "precision", "float32") == "float32":
        return found
    lost = abs(found.top(_RESOLVED).mean) < found.noise_floor
    if lost.any():
        warnings.warn(
            f"precision={game.precision!r} cannot resolve {int(lost.sum())} of the {len(lost)} "
            f"strongest interactions: they are under the noise floor of {found.noise_floor:.2g}; "
            "use precision='float32'",
            stacklevel=3,
        )
    return found


@dataclass
class Rounding:
    """How finely the values that were seen can be told apart, by their size and precision."""

    largest: float = 0.0
    single: bool = True  # whether all are float32 numbers

    def see(self, values: Float[np.ndarray, "mask prompt"]) -> None:
        """Some more values."""
        self.largest = max(self.largest, float(abs(values).max(initial=0.0)))
        with np.errstate(over="ignore"):
            self.single = self.single and bool((values.astype(np.float32) == values).all())

    @property
    def precision(self) -> str:
        """Of the values."""
        return "float32" if self.single else "float64"

    def floor(self) -> float:
        """The size below which the interaction of a pair may be nothing but rounding: 4 roundings
        of the largest value for each of its 4 terms."""
        return _ROUNDINGS * 4 * float(np.finfo(self.precision).eps) * self.largest


def drive(
    game: Any,
    search: Search,
    progress: bool,
    run: Run | None = None,
    rounding: Rounding | None = None,
) -> dict[str, int | float]:
    """Carry all of a search's questions to the game and the answers back.

    Args:
        run: the search's part of a store, which is asked first and told what is new.
        rounding: sees all values.

    Returns:
        what it cost: evaluations, gradients, seconds; with a store, what was reused of others.
    """
    started, cost = time.perf_counter(), {"evaluations": 0, "gradients": 0}
    # A fixed size: which masks share a batch must not depend on how fast the machine is.
    batch = masks_per_batch(game) if run is None else run.masks_per_batch
    # A line a minute in a log file, where a bar cannot be redrawn.
    often = 0.2 if sys.stderr.isatty() or "ipykernel" in sys.modules else 60
    n_workers = getattr(getattr(game, "pool", None), "n_workers", None)
    at_work = f" ({n_workers} workers)" if n_workers else ""
    with tqdm(
        total=search.planned,
        unit="eval",
        delay=2,
        disable=not progress,
        dynamic_ncols=True,
        mininterval=often,
        maxinterval=often,
    ) as bar:
        while (question := search.ask()) is not None:
            bar.set_description(question.stage + at_work, refresh=False)
            values, gradients = [], []
            parts = [question.part(at, at + batch) for at in range(0, len(question), batch)]
            for part, looked, ask in _asking(game, parts, bar, run):
                value, gradient = _kept_or_asked(part, looked, ask, bar, run)
                values.append(value)
                gradients.append(gradient)
            cost["evaluations"] += question.cost
            cost["gradients"] += len(question) if question.gradient else 0
            told = np.concatenate(values)
            if rounding is not None:
                rounding.see(told)
            search.tell(told, np.concatenate(gradients) if question.gradient else None)
            bar.set_postfix_str(_best_words(game, search), refresh=False)
    if run is not None:
        return {**cost, "reused": run.reused, "seconds": round(run.seconds, 3)}
    return {**cost, "seconds": round(time.perf_counter() - started, 3)}


def masks_per_batch(game: Any) -> int:
    """How many masks a game is asked at a time."""
    return int(getattr(game, "masks_per_batch", _MASKS_PER_BATCH))


def _asking(
    game: Any, parts: list[Question], bar: tqdm, run: Run | None
) -> Iterator[tuple[Question, Looked | None, Callable[[Question], Answer]]]:
    """Each batch, what was looked up of it, and how to ask for what the store has not; workers get
    some of them ahead."""
    if not hasattr(game, "submit"):
        for part in parts:
            yield part, None, lambda rest: answer_to(game, rest, bar)
        return
    sent: deque[tuple[Looked | None, Any]] = deque()
    for at, part in enumerate(parts):
        for new in parts[at + len(sent) : at + game.n_ahead]:
            looked = None if run is None else run.look(new)
            rest = new if looked is None else new.rows(looked.missing)
            sent.append((looked, game.submit(rest) if len(rest) else None))
        looked, pending = sent.popleft()
        yield part, looked, lambda rest, pending=pending: pending.result()


def _kept_or_asked(
    part: Question,
    looked: Looked | None,
    ask: Callable[[Question], Answer],
    bar: tqdm,
    run: Run | None,
) -> Answer:
    """The answer to a batch, from the store as far as it is there; the bar goes on by its cost."""
    done, asked = bar.n, 0

    def counted(rest: Question) -> Answer:
        nonlocal asked
        asked = rest.cost
        _skip(bar, part.cost - asked)
        return ask(rest)

    answer = counted(part) if run is None else run.answer(part, counted, looked)
    if not asked:
        _skip(bar, part.cost)
    bar.update(done + part.cost - bar.n)
    return answer


def _skip(bar: tqdm, cost: int) -> None:
    """Go on without counting it into the rate, and so into the time left."""
    if not bar.disable:
        bar.n += cost
        bar.initial += cost
        bar.last_print_n += cost


def answer_to(game: Any, question: Question, bar: tqdm) -> Answer:
    """A game's answer to a batch; the bar goes on as it comes.

    Raises:
        ValueError: a value or gradient that is not finite, or of another shape.
    """
    gradients = None
    if not question.gradient and hasattr(game, "ablating"):
        started = bar.n
        done = [0.0]

        def tick(masks: float) -> None:
            done[0] += masks
            bar.update(started + int(done[0]) - bar.n)

        return as_table(game.ablating(question.ablated, tick), len(question)), None
    masks = torch.from_numpy(question.masks(len(game)))
    if question.gradient:
        if hasattr(game, "value_and_slopes"):
            values, slopes = game.value_and_slopes(masks)
        elif hasattr(game, "value_and_gradient"):
            values, slopes = game.value_and_gradient(masks)
        else:
            values, slopes = game(masks), game.gradient(masks)
        if isinstance(slopes, Tensor):
            slopes = slopes.detach().double().cpu().numpy()
        gradients = np.asarray(slopes, dtype=np.float64)
        if gradients.ndim == 2:
            gradients = gradients[:, None]
        n_masks, n_units = masks.shape
        shaped = gradients.ndim == 3 and gradients.shape[::2] == (n_masks, n_units)
        if not shaped or not np.isfinite(gradients).all():
            raise ValueError(
                f"the game's gradient has shape {list(np.shape(slopes))} for masks of shape "
                f"{list(masks.shape)}, or is not finite; pass gradients=False to do without"
            )
    else:
        values = game(masks)
    return finite_table(values, masks, game.labels), gradients


def finite_table(
    values: Any, masks: Bool[Tensor, "mask unit"], labels: Sequence[str]
) -> Float[np.ndarray, "mask prompt"]:
    """A game's answer to masks as ``as_table`` has it.

    Raises:
        ValueError: a value that is not finite, with the units that were ablated; another shape.
    """
    table = as_table(values, len(masks))
    finite = np.isfinite(table)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        lost = np.flatnonzero(~masks[row].numpy())
        raise ValueError(
            f"the game's value is {table[row][~finite[row]][0]} with "
            f"{names_of(labels, lost.tolist())} ablated; it must be finite for every mask"
        )
    return table


def as_table(values: Any, n_masks: int) -> Float[np.ndarray, "mask prompt"]:
    """A game's answer, tensor or array or list, [mask] or [mask prompt], in float64.

    Raises:
        ValueError: another shape.
    """
    if isinstance(values, Tensor):
        values = values.detach().double().cpu()
    table = np.asarray(values, dtype=np.float64)
    if table.ndim not in (1, 2) or len(table) != n_masks or not table.size:
        raise ValueError(
            f"the game returned shape {list(table.shape)} for {n_masks} masks; it must return "
            "[mask] or [mask prompt]"
        )
    return table.reshape(n_masks, -1)


def _best_words(game: Any, search: Search) -> str:
    return ", ".join(
        f"{'x'.join(game.labels[u] for u in units)} {value:+.3g}" for units, value in search.best(2)
    )


def _result(
    game: Any,
    findings: Findings,
    cost: dict[str, int | float],
    about: dict[str, Any],
    rounding: Rounding,
) -> Interactions:
    described = game.describe() if hasattr(game, "describe") else {}
    floor = getattr(game, "noise_floor", None)
    if floor is None:
        floor = rounding.floor()
        described = {**described, "resolution": rounding.precision}
    return Interactions(
        labels=list(game.labels),
        units=findings.units,
        values=findings.values.astype(np.float32),
        main_effects_by_prompt=findings.main_effects_by_prompt,
        intact_by_prompt=findings.intact_by_prompt,
        noise_floor=float(floor),
        cost=cost,
        audit=findings.audit,
        about={**about, **findings.notes, **described, "versions": versions()},
    )
