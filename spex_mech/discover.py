"""The verbs: discover interactions, measure listed ones, confirm them on another game.

What is asked of a game, and how the answers go back, is in ``driver``.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from hashlib import blake2b
from numbers import Integral, Real
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from jaxtyping import Int
from torch import nn

from spex_mech.arguments import kind_of, one_of, share, shown, switch, whole
from spex_mech.driver import SMALLEST, Rounding
from spex_mech.engine.device import is_gpu
from spex_mech.engine.task import Task
from spex_mech.fingerprints import versions
from spex_mech.game import FunctionGame as CallableGame
from spex_mech.game import Game, as_game, is_game
from spex_mech.games.model_game import ModelGame
from spex_mech.notices import warn
from spex_mech.proxies.gaussian_process import Distilled
from spex_mech.proxies.student import Student
from spex_mech.proxies.trees import Trees
from spex_mech.proxy import Proxy, as_proxy, name_of
from spex_mech.results.cautions import differ_in, other_groups, other_metric, shared_clusters
from spex_mech.results.confirmation import Confirmation, confirmation, shared_text
from spex_mech.results.interactions import Interactions
from spex_mech.runs.session import RunSettings
from spex_mech.runs.store import identity_of
from spex_mech.search.adaptive import Adaptive
from spex_mech.search.again import AskAgain, with_masks_asked_again
from spex_mech.search.contract import Search, count_of_sets
from spex_mech.search.exhaustive import Exhaustive
from spex_mech.search.proxyspex import ProxySpex
from spex_mech.search.rankers import CandidateSource
from spex_mech.search.settings import DEFAULTS
from spex_mech.search.spex import Spex
from spex_mech.units import cure_of_joined

__all__ = ["CallableGame", "as_game", "confirm", "discover", "measure"]

# What each method may be told besides budget, order and seed.
METHODS = {
    "spex": ("gradients", "top", "audit"),
    "proxyspex": ("proxy", "masks", "gradients", "top", "audit"),
    "exhaustive": (),
}
_RESOLVED = 20  # strongest interactions that a precision should resolve
_FEW_PAIRS, _STUDENT_BUDGET = 20_000, 10  # all pairs of a student; else evaluations per unit


def discover(
    game: Any,
    method_or_task: str | Search | Task | None = None,
    budget: int | None = None,
    order: int = 2,
    seed: int = 0,
    *,
    method: str | Search | None = None,
    task: Task | None = None,
    units: Any = None,
    ablation: Any = "mean",
    n: int | None = None,
    labels: Sequence[str] | None = None,
    vectorized: bool | None = None,
    progress: bool = True,
    store: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    address: str | None = None,
    masks_per_batch: int | None = None,
    timeout: float | None = None,
    **options: Any,
) -> Interactions:
    """Find and measure the interactions of a game.

    Args:
        game: a ``Game``, such as a ``ModelGame``; or anything with ``len``, ``labels`` and a call
            (``game.as_game`` says what else it may have); or, with ``n``, any function of masks.
            It gets masks, True = kept: many as a bool tensor or array ``[mask unit]``, or one,
            ``[unit]``, and returns one number per mask, or one per mask and prompt. How it is to be
            called is found out with a small batch (``calls``): ``cost["checks"]`` counts it. Or a
            model, with a task behind it: ``discover(model, task)``.
        method_or_task: what stands right behind the game: the method, or of a model the task.
        method: "spex" (the default; adaptive: the strongest pairs, in close to linear cost),
            "proxyspex" (the same, on candidates of a small model that was distilled from masked
            runs) or "exhaustive" (every pair; a random sample of them where the budget is smaller).
            Or a search of one's own, an object that derives from ``Search``: it brings its own
            budget, order and seed.
        budget: evaluations that may be spent; one mask over all prompts is one, a gradient three.
            A few percent of it (8 to 200) ask some masks again (``search.again``): what a mask's
            values differ by, a function or model that varies, is then in the noise floor.
            Default for n units: "spex" takes ``4 n + 100``; "proxyspex" ``2 n + 100`` with
            gradients, ``4 n + 100`` without, ``n + 100`` with a smaller game as proxy; "exhaustive"
            takes what all sets need. A budget below the method's least is refused.
        order: the largest number of units in an interaction.
        seed: of everything random.
        task, units, ablation: of a model, what makes it a ``ModelGame``: units are components, or a
            text such as "heads+neurons" or "L0H3,L1H*" (default: all heads).
        n: the number of units of a function, which has no length.
        labels: their names; default: their numbers. (A game brings both itself.)
        vectorized: of a function: True: it takes many masks at a time; False: one; default: find
            out.
        progress: show a progress bar once it takes more than a few seconds.
        store: a file that keeps every evaluation (``runs.store``). The same call with it goes on
            where it was killed, and ends with the same result bit for bit on the same machine;
            the call of a finished search returns its result at once; where the search or its proxy
            is of one's own, whose code is not hashed, it is worked out again from what is kept.
            Another search on the same game (other method, budget or seed) reuses every evaluation.
            The store is of one game, by ``describe()`` and ``identity()`` of the game: hashes of
            weights, prompts, metric, references, versions. Of a plain function, code and captured
            data are hashed. What no hash sees (a setting in an object, a file, a hook) is found by
            asking three masks again at each opening, before a finished result too: other values are
            refused. ``cost`` then has ``reused``, the evaluations that other searches had left, and
            ``checks``, those of an opening, which are not of the budget; its seconds are those of
            all sittings.
        workers: how many processes compute (``runs.workers``), one per GPU or CPU core. Then
            ``game`` is a function that makes it, such as a ``GameFactory``. The result does not
            depend on their number.
        address: of a Ray cluster, instead of processes here; "auto": that of this machine.
        masks_per_batch: how many masks the game is asked at a time. Default: what it wants (256 for
            a function); with a store from one upwards, until a batch takes some two seconds, so
            that a kill costs little (``runs.batches``).
        timeout: seconds that one evaluation may take on a worker, before it is ended and asked once
            more.
        options: of spex and proxyspex: ``gradients=False`` (do not use the game's gradients) and
            ``top`` (how many pairs the audit's recall is about) and ``audit`` (the part of the
            budget for the audit's tests, the search having the rest; default: 0.03, from 30 to
            400). Of proxyspex: ``proxy``
            ("distilled", "trees", a ``Proxy`` of one's own, or a **smaller game of
            the same units**, such as a ``TokenGame`` of a student model with the same tokenizer)
            and ``masks`` ("near" the intact model, or "half": complement pairs that ablate half of
            the units). A search or a proxy of one's own stays as it is: a copy of it is used.

    A game that has slopes (``Game.has_slopes``) is asked for them too. One with a ``noise_floor``
    says what its values cannot resolve; of any other it is what their type or
    grid cannot (``search.resolution``): some roundings of the largest value in float32 or float64,
    half steps of bfloat16, float16 or of decimals. What a function itself loses in rounding is not
    known and may be more.

    Returns:
        The measured interactions, with errors over prompts, main effects, cost and provenance.

    Raises:
        ValueError: an unknown method or option, a budget that is too small, an answer of the game
            that is not finite, or a store that is damaged or of another game (the text says what
            differs).
        BlockingIOError: another process holds the store.
        OSError: the store cannot be written; what was committed is kept.
        KeyboardInterrupt: Ctrl-C. Without a store, what some seconds or more have measured is kept
            in a new one, ``interrupted-DATE-TIME.sqlite`` in the current folder: the text names it,
            and the same call with ``store=`` that file goes on. A second one ends at once.
    """
    task, method = _task_and_method(method_or_task, task, method)
    is_function = n is not None or labels is not None  # which a module may be too
    game = _game_of_model(game, task, units, ablation, is_function)
    order, seed = whole("order", order, 2), whole("seed", seed, 0)
    budget = None if budget is None else whole("budget", budget, 1)
    how = RunSettings(progress, store, workers, address, masks_per_batch, timeout)
    with how.game_of(game, n, labels, vectorized) as ready:
        return _discovered(ready, method, budget, order, seed, options, how)


def _task_and_method(
    behind: str | Search | Task | None, task: Task | None, method: str | Search | None
) -> tuple[Task | None, str | Search]:
    """What stands behind the game is one of the two.

    Raises:
        ValueError: one of them is given twice.
    """
    if isinstance(behind, Task):
        behind, task, twice = None, behind, "task" if task is not None else ""
    else:
        twice = "method" if behind is not None and method is not None else ""
    if twice:
        raise ValueError(f"two {twice}s are given, one behind the game and one as {twice}=")
    method = behind if behind is not None else method
    return task, "spex" if method is None else method


def _game_of_model(
    game: Any, task: Task | None, units: Any, ablation: Any, is_function: bool
) -> Any:
    """A model with a task as a game; any other game as it is.

    Raises:
        ValueError: a game or a function together with what goes with a model, or a model without a
            task.
    """
    if task is not None:
        if is_game(game) or is_function:
            raise ValueError(
                "a task goes with a model: discover(model, task); this is a "
                f"{'function' if is_function else 'game'}, so leave task= out"
            )
        return ModelGame(game, task, units, ablation=ablation)
    if units is not None or ablation != "mean":
        raise ValueError(
            "units= and ablation= go with a model and a task: discover(model, task, units=...); a "
            "game was made with its own"
        )
    if isinstance(game, nn.Module) and not is_game(game) and not is_function:
        raise ValueError(
            f"discover got a model ({type(game).__name__}) and no task; give one, such as "
            "discover(model, load_task('ioi', model))"
        )
    return game


def _discovered(
    game: Game,
    method: str | Search,
    budget: int | None,
    order: int,
    seed: int,
    options: dict[str, Any],
    how: RunSettings,
    ending: Callable[[], str] = str,
) -> Interactions:
    """What ``discover`` returns, of a game that is ready; ``ending`` as of ``session``."""
    return _searched(game, *prepared(game, method, budget, order, seed, options, how), how, ending)


def prepared(
    game: Game,
    method: str | Search,
    budget: int | None,
    order: int,
    seed: int,
    options: dict[str, Any],
    how: RunSettings,
) -> tuple[Callable[[], AskAgain], dict[str, Any], dict[str, Any]]:
    """What makes the search, what its result says of it, and what a store tells it by.

    Raises:
        ValueError: an unknown method or option.
    """
    if isinstance(method, Search):
        if budget is not None or order != 2 or seed or options:
            raise ValueError(
                "a search of one's own brings its own budget, order, seed and options: leave out "
                "budget=, order=, seed= and others"
            )
        about = {"method": method.name or type(method).__name__}
        own = lambda: AskAgain(_copy_of(method), DEFAULTS.min_again)  # noqa: E731
        return own, about, {"method": method}
    one_of("method", method, METHODS)
    if unknown := options.keys() - set(METHODS[method]):
        takes = ", ".join(METHODS[method]) or "no options"
        raise ValueError(f"method={method!r} takes no {min(unknown)!r}; it takes {takes}")
    _check_options(options)
    common = {"order": order, "budget": budget, "seed": seed}
    if is_game(options.get("proxy")):
        options["proxy"] = as_game(options["proxy"])
    told = {
        key: value for key, value in options.items() if isinstance(value, bool | int | float | str)
    }
    about = {"method": method, **common} | ({"options": told} if told else {})

    def search() -> AskAgain:
        given = dict(options)
        if isinstance(smaller := given.get("proxy"), Game):
            given["proxy"] = student_of(game, smaller, order, seed, how)
        make = partial(_search, game, method, order, seed, given, about)
        return with_masks_asked_again(make, budget, count_of_sets(len(game), order))

    return search, about, {"method": method, **common, **options}


def _search(
    game: Game,
    method: str,
    order: int,
    seed: int,
    options: dict[str, Any],
    about: dict[str, Any],
    budget: int | None,
) -> Search:
    """A search by its name, of so many evaluations; None: of its default."""
    rest, own = dict(options), {"order": order, "budget": budget, "seed": seed}
    if method == "exhaustive":
        return Exhaustive(len(game), **own)
    shown = {"top": rest.pop("top", 100), "audit": rest.pop("audit", None)}
    return Adaptive(_strategy(game, method, seed, rest, about), len(game), **own, **shown)


def _check_options(options: dict[str, Any]) -> None:
    """Raises:
    ValueError: an option is not what it must be.
    """
    if "gradients" in options:
        switch("gradients", options["gradients"])
    if "top" in options:
        whole("top", options["top"], 1)
    if options.get("audit") is not None:
        share("audit", options["audit"])
    if "masks" in options:
        one_of("masks", options["masks"], ("near", "half"))


def _strategy(
    game: Game, method: str, seed: int, options: dict[str, Any], about: dict[str, Any]
) -> CandidateSource:
    if method == "spex":
        return Spex(**_known("gradients", _has_slopes(game, options, about), options))
    given = options.pop("proxy", "distilled")
    proxy = given if isinstance(given, Student) else proxy_named(given, seed, game)
    reads = proxy.reads_slopes
    if options.get("gradients") and not reads:
        raise ValueError(f"gradients=True, but the proxy {name_of(proxy)} reads no gradients")
    half = options.pop("masks", "near")
    has = reads and _has_slopes(game, options, about)
    return ProxySpex(proxy, half=half == "half", **_known("gradients", has, options))


def _has_slopes(game: Game, options: dict[str, Any], about: dict[str, Any]) -> bool:
    """Whether gradients may be asked for; where a game that could have them has none, that is said
    in a warning and in the result.

    Raises:
        ValueError: the user asks for them, and there are none.
    """
    asked = options.get("gradients")
    if asked is False or game.has_slopes:
        return asked is not False
    if asked:
        why = game.why_no_slopes or "this game has no gradient(masks)"
        raise ValueError(f"gradients=True, but {why}")
    say_without_gradients(game, "the search does without gradients", about)
    return False


def say_without_gradients(game: Game, what: str, about: dict[str, Any]) -> None:
    """Say, in a warning and in ``about``, why a game that could have gradients has none: once, as a
    search is made twice, for two budgets."""
    if (why := game.why_no_slopes) and "without_gradients" not in about:
        about["without_gradients"] = why
        warn(f"{what}: {why}")


def student_of(
    game: Game,
    smaller: Game,
    order: int,
    seed: int,
    how: RunSettings,
) -> Student:
    """A smaller game as a proxy: its interactions are searched first, with its own evaluations.

    Args:
        how: the large game is run. The student is run here; beside the large game's store its
            evaluations are kept in a file of its own, whose name ends in ``.student-`` and a hash.

    Raises:
        ValueError: the two games differ in their units.
    """
    if smaller.labels != game.labels:
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

    def ending() -> str:  # one file for each student
        told = json.dumps(identity_of(smaller), sort_keys=True).encode()
        return f".student-{blake2b(told, digest_size=4).hexdigest()}"

    beside = None if how.store is None else f"{os.fspath(how.store)}{ending()}"
    here = RunSettings(how.progress, beside)
    found = _discovered(smaller, method, budget, order, seed, {}, here, ending)
    sets = [tuple(u for u in row if u >= 0) for row in found.units.tolist()]
    return Student(smaller, list(zip(sets, found.mean.tolist(), strict=True)), found.cost)


def _known(name: str, value: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options with one more, unless it was given."""
    return {name: value, **options}


# By id, searches and proxies that cannot be copied and that a call has used.
_USED: WeakValueDictionary[int, Any] = WeakValueDictionary()


def proxy_named(proxy: Any, seed: int, game: Game) -> Proxy:
    """A proxy by its name, or a copy of the user's own.

    Raises:
        ValueError: no proxy has this name, the object lacks a method, or it cannot be copied and an
            earlier call used it.
    """
    if isinstance(proxy, str):
        if proxy in ("distilled", "gp"):
            return Distilled(seed, _device(game))
        if proxy == "trees":
            return Trees(seed)
        raise ValueError(
            f"unknown proxy {proxy!r}; choose one of distilled (gp), trees, or your own"
        )
    return as_proxy(_copy_of(proxy))


def _copy_of(given: Any) -> Any:
    """A copy of a proxy, or of a search, of the user's own: what a call has it learn is in no other
    call with the same object. What cannot be copied, as a generator cannot, is used itself, once.

    Raises:
        ValueError: it cannot be copied, and an earlier call used it.
    """
    try:
        return deepcopy(given)
    except Exception as error:  # whatever its attributes raise
        if _USED.get(id(given)) is given:
            raise ValueError(
                f"{kind_of(given)} was used by an earlier call, and cannot be copied ({error}): "
                "this call would begin with what that one made of it; give each call a new one"
            ) from error
        with suppress(TypeError):  # of a class with slots nothing can be noted
            _USED[id(given)] = given
        return given


def _device(game: Game) -> str:
    return str(game.device) if is_gpu(game.device) else "cpu"


def measure(
    game: Any,
    sets: Sequence[Sequence[str | int]],
    *,
    n: int | None = None,
    labels: Sequence[str] | None = None,
    vectorized: bool | None = None,
    progress: bool = True,
    store: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    address: str | None = None,
    masks_per_batch: int | None = None,
    timeout: float | None = None,
) -> Interactions:
    """Measure exactly the interactions of the given sets of units, and of their subsets.

    Args:
        game, n, labels, vectorized, progress, store, workers, address, masks_per_batch, timeout: as
            for ``discover``.
        sets: each of the labels, or the numbers, of two units or more.

    Returns:
        the interactions in the order in which the sets were given (a set that is given twice has
        one row); behind them what else was measured on the way, smaller sets first.

    Raises:
        ValueError: no set of two labels, an unknown label, or one twice in a set.

    >>> def overlap(masks):  # two units in series: either one gone breaks it
    ...     return masks.all(dim=1).double()
    >>> found = measure(overlap, [("a", "b")], labels=["a", "b"])
    >>> found.value("a", "b")
    1.0
    """
    how = RunSettings(progress, store, workers, address, masks_per_batch, timeout)
    with how.game_of(game, n, labels, vectorized) as ready:
        rows = _rows_of(sets, ready)
        listed = Exhaustive(len(ready), order=rows.shape[1], sets=rows)
        count = max(DEFAULTS.min_again, int(DEFAULTS.again_share * listed.planned))
        search = AskAgain(listed, count, max(0, DEFAULTS.enough_again - count))
        identity = {"method": "listed sets", "sets": rows.tolist()}
        about = {"method": "listed sets"}
        return _as_listed(_searched(ready, lambda: search, about, identity, how), rows)


def _as_listed(found: Interactions, sets: Int[np.ndarray, "set order"]) -> Interactions:
    """A result with its rows in the order of these sets, and others behind."""
    number = {frozenset(units): row for row, units in enumerate(found.units.tolist())}
    asked = (number.get(frozenset(units)) for units in sets.tolist())
    first = list(dict.fromkeys(row for row in asked if row is not None))
    rows = [*first, *sorted({*range(len(found))} - {*first})]
    return found if rows == list(range(len(found))) else found.take(rows)


def _rows_of(sets: Any, game: Game) -> Int[np.ndarray, "set order"]:
    """Sets of labels or numbers as rows of unit numbers, padded with -1."""
    if isinstance(sets, str | bytes) or not isinstance(sets, Iterable):
        raise ValueError(f"sets is {shown(sets)}; give a list of sets of labels")
    rows = [_numbers_of(units, game) for units in sets]
    if not any(len(units) > 1 for units in rows):
        raise ValueError("no sets to measure: give at least one set of two labels")
    width = max(map(len, rows))
    return np.array([units + [-1] * (width - len(units)) for units in rows]).reshape(-1, width)


def _is_number(unit: Any) -> bool:
    return isinstance(unit, Integral) and not isinstance(unit, bool)  # of a mask, not of a set


def _numbers_of(units: Any, game: Game) -> list[int]:
    column, numbers = game.units.column, []
    if isinstance(units, str | bytes) or not isinstance(units, Iterable):
        raise ValueError(f"a set of units is {shown(units)}; give the labels of two units or more")
    for unit in units:
        known = column.get(unit) if isinstance(unit, str) else None
        if known is None and _is_number(unit) and 0 <= int(unit) < len(game):
            known = int(unit)
        if known is None:
            raise ValueError(
                f"unknown unit {unit!r}; this game's units are {game.labels[:4]}..."
                f"{cure_of_joined(unit, column)}"
            )
        numbers.append(known)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"the set {tuple(units)} holds a unit twice")
    return numbers


def confirm(
    found: Interactions,
    game: Any,
    k: int = 20,
    *,
    progress: bool = True,
    store: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    address: str | None = None,
    masks_per_batch: int | None = None,
    timeout: float | None = None,
) -> Confirmation:
    """Measure the k strongest interactions again on another game of the same units: other prompts,
    another ablation. What was selected on some prompts is a finding only if it holds on others.

    Those at or under the noise floor of the search are left out: nothing was found there that could
    hold. How many they are is said.

    Args:
        found: the result of a search.
        game: the other game, or a function of the same units; with ``workers`` what makes it.
        k: how many interactions, at most.
        progress, store, workers, address, masks_per_batch, timeout: as for ``discover``. The store
            is the other game's own.

    It warns where the game's prompts are those of the search, on which everything is found again,
    or of its clusters (by their numbers), whose own effects are; where it has another metric or
    ablation; where its model has other weights; where a group of the same name holds other
    components; and where it trains on something else.

    Returns:
        the interactions as they are now, in the order of the search, with what the search had said
        of each (``searched``), and what ``holds``. ``found.confirmed_by(again)`` keeps it.

    Raises:
        TypeError: what is to be confirmed are no interactions, or the game is a result.
        ValueError: the other game lacks a unit, k is under 1, or there is no interaction, or none
            of the strongest is over the noise floor.
    """
    if not isinstance(found, Interactions):
        raise TypeError(
            f"confirm takes Interactions, not {type(found).__name__}; a circuit is scored on other "
            "prompts by score_circuit(game, circuit)"
        )
    if isinstance(game, Interactions):
        raise TypeError(
            "the second argument of confirm is a game on other prompts, not a result: "
            "confirm(found, ModelGame(model, other_task))"
        )
    whole("k", k, 1)
    if not len(found):
        raise ValueError("there is nothing to confirm: the result holds no interaction")
    strongest = found.top(k)
    top = strongest.take(np.flatnonzero(~strongest.is_noise))
    if not len(top):
        raise ValueError(
            "there is nothing to confirm: every value is at or under the noise floor of the search "
            f"({found.noise_floor:.2g})"
        )
    how = RunSettings(progress, store, workers, address, masks_per_batch, timeout)
    names = None if how.far or is_game(game) else found.labels
    measured = measure(game, top.names, labels=names, **asdict(how))
    n_shared, n_clusters = shared_clusters(found.about, measured.about)
    if n_shared:
        measured.about["shared_clusters"] = [n_shared, n_clusters]
    again = confirmation(top, measured, n_left_out=len(strongest) - len(top))
    if differ := other_metric(found.about, measured.about):
        warn(
            f"the search and this game measure {differ}: where their values are of two metrics, "
            "whether they agree means nothing; give a game with the same metric"
        )
    _warn_of_other_model(found, measured)
    if again.n_shared:
        warn(
            f"{shared_text(again.n_shared, again.values.shape[1])}, on which every value is found "
            "again: this confirms nothing; give a game with other prompts",
        )
    elif n_shared:
        warn(
            f"{n_shared} of the {n_clusters} clusters of these prompts are clusters of the search "
            "(by number or word): what is special to a cluster is found again, so that what holds "
            "may hold for these clusters alone; give prompts of other clusters, or other numbers "
            "if these are others"
        )
    return again


def _warn_of_other_model(found: Interactions, measured: Interactions) -> None:
    if groups := other_groups(found.unit_table, measured.unit_table):
        warn(
            f"{groups}, the search and this game: another unit of the same name says nothing of "
            "that of the search; to confirm, give a game whose groups hold the same"
        )
    if differ_in("weights_sha256", found.about, measured.about):
        warn(
            "the model of this game has other weights (or the same in another precision) than that "
            "of the search: what holds here is said of this model; to confirm, give a game of the "
            "model that was searched, and to set two models side by side, compare their results"
        )
    if differ_in("training_sha256", found.about, measured.about):
        warn(
            "this game trains on other examples than that of the search, on the same in another "
            "order, or otherwise: a label may mean another example; to confirm, give a game that "
            "differs in its test points alone"
        )
    for key, does, name in (
        ("ablation", "ablates", "ablation"),
        ("masking", "masks", "masking"),
        ("mask_id", "masks by the token", "mask token"),
    ):
        if differ_in(key, found.about, measured.about):
            before, now = found.about[key], measured.about[key]
            by = "" if key == "mask_id" else "by "
            warn(
                f"the search {does} {by}{before!r} and this game by {now!r}: what holds "
                f"here is said of both together; to confirm, give a game with the same {name}"
            )


def _searched(
    game: Game,
    make: Callable[[], AskAgain],
    about: dict[str, Any],
    identity: dict[str, Any],
    how: RunSettings,
    ending: Callable[[], str] = str,
) -> Interactions:
    """The result of a search, driven to its end, or as a store has it from an earlier call."""
    with how.session(game, ending=ending) as session:
        run = session.run(identity)
        # The code of a user's own search or proxy is not hashed: its evaluations are used, its
        # result not.
        own = isinstance(identity["method"], Search) or not isinstance(
            identity.get("proxy", ""), str | Game
        )
        if run is not None and not own and (finished := run.result()) is not None:
            return finished
        search, rounding = make(), Rounding()
        cost = session.drive(search, run, rounding)
        found = _result(game, search, cost, about, rounding)
        session.unchanged.check()
        return found if run is None else run.finish(found)


def _result(
    game: Game,
    search: AskAgain,
    cost: dict[str, int | float],
    about: dict[str, Any],
    rounding: Rounding,
) -> Interactions:
    if 0 < (largest := rounding.resolution.largest) < SMALLEST:
        raise ValueError(
            f"the largest of all values is {largest:.3g} in size; errors need squares, so that it "
            f"must be over {SMALLEST:.0e}: multiply values by a constant"
        )
    findings, described, floor = search.findings(), game.provenance(), game.noise_floor
    if floor is not None and not (isinstance(floor, Real) and 0 <= floor < np.inf):
        raise ValueError(f"noise_floor of the game is {shown(floor)}; it must be a size, 0 or more")
    if floor is None:
        floor = rounding.floor()
        described = {**described, "resolution": rounding.precision}
    n_sets = max(len(findings.units), sum(search.chosen_from().values()))
    differ = search.largest_difference()
    # A pair has four values, a difference two. What rounding of this type makes is no variation.
    varies = differ > max(floor, rounding.floor()) / 2
    again = {"masks": search.n_again, "largest_difference": differ, "varies": varies}
    if differ > floor / 2:
        floor = max(floor, search.floor(n_sets))
    found = Interactions(
        labels=game.labels,
        units=findings.units,
        values=findings.values,
        main_effects_by_prompt=findings.main_effects_by_prompt,
        intact_by_prompt=findings.intact_by_prompt,
        noise_floor=float(floor),
        cost=cost,
        audit=findings.audit,
        about={
            **about,
            **findings.notes,
            **described,
            "asked_again": again,
            "versions": versions(),
        },
        chosen_from=search.chosen_from(),
        unit_table=game.units,
    )
    _warn_if_unresolved(game, found)
    return found


def _warn_if_unresolved(game: Game, found: Interactions) -> None:
    if game.coarse is None:
        return
    lost = abs(found.top(_RESOLVED).mean) < found.noise_floor
    if lost.any():
        warn(
            f"{game.coarse.cause} cannot resolve {int(lost.sum())} of the {len(lost)} "
            f"strongest interactions: they are under the noise floor of {found.noise_floor:.2g}; "
            f"{game.coarse.cure}",
        )
