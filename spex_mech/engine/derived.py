"""All that derives from a model as it is, in one place: it is made together, and anew together.

Hook points and their layouts, references, the reference of a KL, the replay with its intact
streams, and the hash of the weights belong to one state of the model. When the model changes, none
of them is kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spex_mech.engine import references as references_by
from spex_mech.engine.accuracy import Accuracy, accuracy_of
from spex_mech.engine.architectures import KINDS, Architecture, Kind, architecture_of, is_hooked
from spex_mech.engine.blocks import Blocks
from spex_mech.engine.called import CannotReplay
from spex_mech.engine.checks import (
    MakeReplay,
    check_cache,
    check_every_prompt,
    check_replay,
    self_test,
)
from spex_mech.engine.components import Components
from spex_mech.engine.device import (
    MemoryPlan,
    Rows,
    batches,
    check_precision,
    computing,
    device_of,
    float_type_of,
    input_type_of,
    is_out_of_memory,
    narrowest,
    out_of_inference_mode,
    rows_on_cpu,
    rows_with_gradients,
)
from spex_mech.engine.differentiable import not_finite, why_no_slopes
from spex_mech.engine.expert_use import ExpertUse, expert_use_of
from spex_mech.engine.facts import answers_of, check_decoded, check_tokens
from spex_mech.engine.gradients import Gradients
from spex_mech.engine.measure import Measure
from spex_mech.engine.metrics import KL, METRICS, Metric, name_of_metric
from spex_mech.engine.noise import noise_floor, rounding_of_metric
from spex_mech.engine.parallel import are_blocks_parallel
from spex_mech.engine.passes import Taps, call, seen_at, turn_of
from spex_mech.engine.plain import (
    MOST_BLOCKS,
    Engine,
    NoSlopes,
    PlainEngine,
    Setup,
    Slopes,
    Tick,
)
from spex_mech.engine.plan import Ablated, Parts
from spex_mech.engine.prompts import Prompts
from spex_mech.engine.readout import Readout, gives_logits_by_position
from spex_mech.engine.references import Activations, References
from spex_mech.engine.replay import Replay
from spex_mech.engine.rounding import type_of_output, types_seen
from spex_mech.engine.rows import check_nothing_kept, check_rows
from spex_mech.engine.running import evaluating, logits_in, one_line
from spex_mech.engine.sites import (
    Calls,
    Key,
    Place,
    another_prompt,
    calls_of,
    check_calls,
    check_merged,
    check_read_by_one,
    layout_of,
    real_at,
)
from spex_mech.engine.watch import Watch
from spex_mech.fingerprints import metric_recorded, weights_sha256
from spex_mech.notices import warn

_SELF_TEST_ROWS = 4
_MANY = 100_000  # masks, which a driver may have
T = TypeVar("T")
_UNKNOWN_OUTPUTS = 1024


@dataclass(frozen=True)
class Asked:
    """What a user asks of a game: nothing here derives from the model.

    Args:
        architecture: as it was given; None: the model's own.
        reference: prompts for a mean.
        replay: True: it must be possible; None: where it is; False: never.
    """

    model: Any
    prompts: Prompts
    metric: Metric | str
    components: Components
    ablation: str | Mapping[str, Tensor]
    reference: Prompts | None
    architecture: Architecture | None
    precision: str
    replay: bool | None
    compile: bool
    rows: Rows = field(default_factory=Rows)


def _architecture_of(asked: Asked) -> Architecture:
    """Where heads and neurons are on these prompts; where the components were found without them,
    and have less, what they have."""
    own = asked.components.architecture
    found = architecture_of(asked.model, asked.architecture, asked.prompts)
    if asked.prompts.inputs and not own.same_places(found):
        without = architecture_of(asked.model, asked.architecture)
        return without if own.same_places(without) else found
    return found


def _width(arch: Architecture, kind: Kind, layer: int) -> int:
    """Of what a hook point reads; 0, where that says nothing of its units."""
    if kind == "head":
        return arch.count("head", layer) * arch.d_head[layer]
    return arch.d_mlp[layer] if kind == "neuron" else 0


def _check_classes(output: Any, prompts: Prompts) -> None:
    """Raises:
    ValueError: an answer is none of the things that the model can answer.
    """
    logits = logits_in(output)
    if logits is None:
        return
    for name in ("answers", "wrong_answers"):
        value = getattr(prompts, name)
        if value is not None and int(value.max()) >= logits.shape[-1]:
            raise ValueError(
                f"{name} holds {int(value.max())}, and the model answers with one of "
                f"{logits.shape[-1]}, counted from 0"
            )


def _n_positions(taps: Taps, prompts: Prompts) -> dict[int, int]:
    """How many positions each hook point has."""
    seen: dict[int, Tensor] = {}
    with torch.no_grad(), taps.installed():
        taps.run(prompts, seen=seen)
    return {index: act.shape[1] for index, act in seen.items()}


def _rows_at_once(model: Any, prompts: Prompts, places: Sequence[Place], rows: Rows) -> int:
    """Of prompts, in a pass that the game itself makes."""
    n_outputs = answers_of(model) or _UNKNOWN_OUTPUTS
    size = rows_on_cpu(prompts.tokens.shape[1], n_outputs)
    size = max(1, size // max([1, *(place.n_experts for place in places)]))
    return min(size, rows.limit or size)


def _compare_with_cache(asked: Asked, prompts: Prompts, places: Sequence[Place]) -> None:
    """A cache changes nothing of tokens alone, in blocks that share no module."""
    if prompts.inputs or any(place.call for place in places):
        check_cache(asked.model, prompts, _rows_at_once(asked.model, prompts, [], asked.rows))


def _real_of(prompts: Prompts, taps: Taps) -> Callable[[Prompts], Any]:
    """Which positions of some of the prompts are no padding: of the tokens, or of each place."""
    if prompts.inputs and not (prompts.real.all() and prompts.decoded_real.all()):
        return real_at(prompts, partial(_n_positions, taps))
    return lambda part: part.real


class Derived:
    """See the module's text.

    Raises:
        ValueError: anything that cannot be ablated or measured as asked.
    """

    def __init__(self, asked: Asked) -> None:
        model = asked.model
        self.asked, self.model = asked, model
        self.architecture = _architecture_of(asked)
        if not asked.components.architecture.same_places(self.architecture):
            raise ValueError("the components belong to another model; make them from this one")
        self.components = Components(asked.components.units, self.architecture)
        self.sites = self.components.sites()
        self.device = device_of(model)
        check_precision(self.device, asked.precision, float_type_of(model))
        self.prompts = self._prompts()
        self.places = self._find_places()
        with self._running():
            _compare_with_cache(asked, self.prompts, [*self.places.values()])
        self.watch = Watch(model, self.prompts, self._running)
        self_test(self._taps(list(self.places.values())), self.prompts[:_SELF_TEST_ROWS])
        self.taps = self._taps([self.places[s.kind, s.layer] for s in self.sites])
        self.hook_points = self._hook_points()
        self.references, self.exact = self._references()
        self.metric, self.by_position = self._metric()
        self.setup = self._setup()
        self.plain = PlainEngine(self.setup)
        if not self.watch.is_random:
            check_rows(self.plain, callable(asked.metric), asked.rows.limit)
        self.passes = "plain: replay=False"
        self._known_of_metric: dict[str, tuple[str, float]] = {}
        self.engine: Engine = self.plain
        if self.watch.is_random:
            self.passes = "plain: the model is random"
            warn(
                f"the {type(model).__name__} gives another output each time for the same prompt: "
                "differences between masks are chance as well; switch its noise or dropout off",
            )
        elif asked.replay is not False:
            self._try_replay()

    def _prompts(self) -> Prompts:
        asked, model = self.asked, self.asked.model
        check_tokens(model, asked.prompts)
        if asked.reference is not None:
            check_tokens(model, asked.reference, "reference prompts")
        prompts = self._as_read(asked.prompts)
        if asked.metric == "kl":  # its rows are this game's own prompts, whatever they are called
            prompts = prompts.replaced(index=torch.arange(len(prompts), device=self.device))
        return prompts

    def _as_read(self, prompts: Prompts) -> Prompts:
        return prompts.as_read(self.device, input_type_of(self.model))

    def _taps(self, places: Sequence[Place]) -> Taps:
        return Taps(self.model, places, self.device, self.asked.precision, self._writes_over)

    @contextmanager
    def _running(self) -> Iterator[None]:
        """The model computes as in a game, without hooks."""
        with evaluating(self.model), computing(self.device, self.asked.precision):
            yield

    def _find_places(self) -> dict[Key, Place]:
        """Where every head and neuron of the model is rewritten, found out by running it."""
        arch, one = self.architecture, self.prompts[:1]
        keys: list[Key] = []
        for layer in range(arch.n_layers):
            keys.extend((kind, layer) for kind in KINDS if arch.has(kind, layer))
        names = {key: arch.name(*key) for key in keys}
        hooked = is_hooked(self.model)
        modules = {
            name: self.model.hook_dict[name] if hooked else self.model.get_submodule(name)
            for name in names.values()
        }
        first_name = {id(module): name for name, module in reversed(modules.items())}
        if self.asked.architecture is not None and not hooked:
            with torch.no_grad(), self._running():
                check_read_by_one(
                    self.model, list(first_name.values()), lambda: call(self.model, one)
                )
        alone, both, three = (
            self._seen(part, list(first_name.values()))
            for part in (one, another_prompt(self.prompts), self.prompts[[0, 0, 0]])
        )
        calls = calls_of(arch, modules)
        n_named: dict[str, int] = {}
        for key, name in names.items():
            first = first_name[id(modules[name])]
            n_named[first] = max(n_named.get(first, 0), calls[key] + 1)
        places: dict[Key, Place] = {}
        for key, name in names.items():
            first, number = first_name[id(modules[name])], calls[key]
            seen = [run[first] for run in (alone, both, three)]
            check_calls(first, n_named[first], seen, one.tokens.shape[1])
            width = _width(arch, *key) or seen[0][number].shape[-1]
            layout = layout_of(first, width, *(run[number] for run in seen))
            if layout.row_axis == 0 and len(seen[0][number]) > 1:
                check_merged(first, layout, seen[0][number], seen[1][number])
            n_experts = arch.count(*key) if key[0] == "expert" else 0
            places[key] = Place(first, number, layout, n_experts)
        return places

    def _seen(self, prompts: Prompts, names: Sequence[str]) -> dict[str, Calls]:
        with torch.no_grad(), self._running(), types_seen(self.model) as types:
            try:
                seen, self._writes_over = seen_at(self.model, names, prompts)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                raise ValueError(
                    f"the {type(self.model).__name__} does not run on prompts of the shape "
                    f"{list(prompts.tokens.shape)} ({one_line(error)}); if it does elsewhere, "
                    "something in it may keep what it gave before (a patched forward)"
                ) from error
        types |= {act.dtype for calls in seen.values() for act in calls}
        self.float_type = narrowest([float_type_of(self.model), *types])
        return seen

    def _hook_points(self) -> list[str]:
        """The name of each site; with the number of the call where a module runs several times."""
        arch = self.architecture
        names = [arch.name(site.kind, site.layer) for site in self.sites]
        every = [place.name for place in self.places.values()]
        return [
            f"{name}:{place.call}" if every.count(place.name) > 1 else name
            for name, place in zip(names, self.taps.places, strict=True)
        ]

    def _references(self) -> tuple[References, bool]:
        asked = self.asked
        reference = None if asked.reference is None else self._as_read(asked.reference)
        made = references_by.make(
            asked.ablation, self._activations, self.prompts, reference, self.hook_points
        )
        seen, _ = next(self._activations(self.prompts))
        return made, not all(bool(x.isfinite().all()) for x in (*made, *seen.values()))

    def _activations(self, prompts: Prompts) -> Iterator[tuple[Activations, Any]]:
        """Intact activations at this game's hook points, batch by batch."""
        real = _real_of(prompts, self.taps)

        def run(part: Prompts) -> tuple[Activations, Any]:
            seen: dict[int, Tensor] = {}
            with torch.no_grad(), self.taps.installed():
                self.taps.run(part, seen=seen)
            return seen, real(part)

        return self._in_parts(prompts, run)

    def _in_parts(self, prompts: Prompts, run: Callable[[Prompts], T]) -> Iterator[T]:
        """Of all prompts, in as many passes as they take."""
        size = _rows_at_once(self.model, prompts, self.taps.places, self.asked.rows)
        for _, made in batches(len(prompts), size, lambda part: run(prompts[part])):
            yield made

    def _metric(self) -> tuple[Metric, bool]:
        """The metric, and whether the model gives logits position by position."""
        given = self.asked.metric
        with torch.no_grad(), self.taps.installed():
            one = self.prompts[:1]
            output = self.taps.run(one)
            self.output_type = type_of_output(output)
            by_position = gives_logits_by_position(output, one)
            if not callable(given):
                _check_classes(output, self.prompts)
            if isinstance(given, str) and by_position:
                check_decoded(self.model, self.prompts)
            if isinstance(given, str) and given != "kl":
                METRICS[given](output, one)  # what it lacks is told now
            if given != "kl":
                return METRICS[given] if isinstance(given, str) else given, by_position
            make = lambda part: KL.to_intact(self.taps.run(part), part)  # noqa: E731
            return KL.joined([*self._in_parts(self.prompts, make)]), by_position

    def _setup(self) -> Setup:
        asked = self.asked
        name = asked.metric if isinstance(asked.metric, str) else name_of_metric(asked.metric)
        return Setup(
            taps=self.taps,
            architecture=self.architecture,
            sites=self.sites,
            parts=Parts.of_layers(self.components.layers()),
            prompts=self.prompts,
            references=self.references,
            exact=self.exact,
            float_type=self.float_type,
            output_type=self.output_type,
            metric=self.metric,
            measure=Measure(self.metric, name, self.components.labels, self.device),
            rows=asked.rows,
        )

    def _try_replay(self) -> None:
        required = "compile" if self.asked.compile else "replay" if self.asked.replay else ""
        try:
            self.engine = self._replayed()
            self.passes = "replayed, compiled" if self.asked.compile else "replayed"
        except Exception as error:
            if is_out_of_memory(error):
                raise
            why = f"{type(self.model).__name__} cannot be replayed: {error}"
            self.passes = f"plain: {why}"
            if required:
                raise ValueError(f"{required}=True, but {why}; leave it out") from error
            if not isinstance(error, CannotReplay):
                warn(f"{why}; plain passes are run instead")

    def _replayed(self) -> "ReplayEngine":
        setup = self.setup
        self.plain.rows()  # found before the blocks take memory
        blocks = Blocks(
            self.taps, self.sites, self.architecture, self.prompts, self.asked.compile, self.exact
        )
        check_nothing_kept(blocks, self.prompts)
        make = MakeReplay(blocks, setup, MemoryPlan.of(self.device))
        check_replay(make, self.plain, blocks, self.by_position)
        readout = Readout.of(blocks, self.prompts, self.metric, setup.measure, self.by_position)
        replay = check_every_prompt(make(self.prompts, readout).looked_at(), self.plain)
        return ReplayEngine(replay, setup)

    def values(self, ablated: Ablated, tick: Tick) -> Float[np.ndarray, "mask prompt"]:
        """The metric of each mask on each prompt.

        Raises:
            ValueError: something is ablated, and that can change nothing.
        """
        values = self.engine.values(ablated, tick)
        word = self.asked.ablation
        if isinstance(word, str) and (ablated >= 0).any():
            if why := references_by.changes_nothing(word, self.prompts, self.asked.reference):
                raise ValueError(why)
        return values

    def slopes(self, gates: Tensor) -> Slopes:
        """Values, and their slopes by each gate, by block of prompts.

        Raises:
            NoSlopes: the metric or the model has no gradient.
        """
        if self.why_no_slopes:
            raise NoSlopes(self.why_no_slopes)
        values, slopes = self.engine.slopes(gates)
        if not slopes.isfinite().all():
            raise NoSlopes(not_finite(slopes, self.components.labels))
        return values, slopes

    @cached_property
    def why_no_slopes(self) -> str:
        """See ``differentiable.why_no_slopes``. One prompt is tried."""
        return why_no_slopes(replace(self.setup, prompts=self.prompts[:1]))

    @property
    def noise_floor(self) -> float:
        """See ``noise.noise_floor``."""
        has_experts = any(place.n_experts for place in self.places.values())
        make = lambda: noise_floor(self.engine, self.plain, self.metric_rounding, has_experts)  # noqa: E731
        return self._of_metric("noise floor", make)

    @property
    def metric_rounding(self) -> float:
        """What the metric itself rounds of the value of a prompt, about as a standard deviation."""
        return self._of_metric("rounding", lambda: rounding_of_metric(self.setup))

    def _of_metric(self, name: str, make: Callable[[], float]) -> float:
        """A number that holds for as long as nothing changes that the metric reads."""
        own = self.asked.metric
        state = own if isinstance(own, str) else metric_recorded(own)["metric_sha256"]
        if self._known_of_metric.get(name, (None,))[0] != state:
            self._known_of_metric[name] = (state, make())
        return self._known_of_metric[name][1]

    @cached_property
    def accuracy(self) -> Accuracy | None:
        """How often the intact model is right on the prompts; None where that cannot be told."""
        with self._running():
            return accuracy_of(self.model, self.prompts, self.setup.measure.name)

    @cached_property
    def are_blocks_parallel(self) -> bool | None:
        """See ``parallel.are_blocks_parallel``."""
        return are_blocks_parallel(self.places, self._taps, self.prompts[:1])

    @cached_property
    def expert_use(self) -> ExpertUse | None:
        """How often the intact model uses each of its experts; None: it has none."""
        at = {layer: place for (_, layer), place in self.places.items() if place.n_experts}
        if not at:
            return None
        taps = self._taps([*at.values()])
        labels = [Components.experts(self.architecture, layer).labels for layer in at]
        real = _real_of(self.prompts, taps)
        return expert_use_of(taps, labels, partial(self._in_parts, self.prompts), real)

    @cached_property
    def weights_sha256(self) -> str:
        """Of all parameters and buffers."""
        return weights_sha256(self.model)


@contextmanager
def _told_to_run_plain(model: Any) -> Iterator[None]:
    """Where memory is short, prompts are run in other parts than they were looked at in."""
    try:
        yield
    except CannotReplay as error:
        name = type(model).__name__
        raise ValueError(f"{name} cannot be replayed: {error}; give replay=False") from error


class ReplayEngine(Engine):
    """Masks by replay, their slopes by shared prefixes."""

    def __init__(self, replay: Replay, setup: Setup) -> None:
        self.replay, self.setup = replay, setup

    def masks_per_batch(self) -> int:
        """As many as a wave holds."""
        return self.replay.shape(_MANY)[0]

    def values(self, ablated: Ablated, tick: Any = lambda done: None) -> Any:
        """The metric of each mask on each prompt, in float64.

        Raises:
            ValueError: a value that is not finite, or not one per row.
        """
        with _told_to_run_plain(self.setup.taps.model):
            values = self.replay.values(ablated, tick)
        if not np.isfinite(values).all():
            mask, prompt = np.argwhere(~np.isfinite(values))[0].tolist()
            units = [u for u in ablated[mask].tolist() if u >= 0]
            self.setup.measure.not_finite(float(values[mask, prompt]), prompt, units)
        return values

    def slopes(self, gates: Tensor) -> Slopes:
        """Values, and their slopes by each gate, by block of prompts."""
        setup = self.setup
        rows = rows_with_gradients(setup.rows.limit or 1, setup.device, setup.numbers_of_row)
        n_blocks = min(len(self.setup.prompts), MOST_BLOCKS)
        with _told_to_run_plain(self.setup.taps.model):
            return Gradients(self.replay, self.setup, rows, n_blocks)(gates)


class Current:
    """What derives from a model, and the look at each call whether the model is still that one."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.changes: list[str] = []  # of the model, in words, since the game was made
        architecture = _architecture_of(asked)
        with turn_of(asked.model, architecture), out_of_inference_mode():
            self.derived = Derived(asked)

    @contextmanager
    def as_it_is(self) -> Iterator[Derived]:
        """What derives from the model as it is now; other games on it wait.

        Raises:
            ValueError: the model changed, and cannot be run as it is now.
            RuntimeError: it changed within.
        """
        with turn_of(self.asked.model, self.derived.architecture), out_of_inference_mode():
            if changed := self.derived.watch.changed():
                self._make_anew(changed)
            derived = self.derived
            with derived.watch.unchanged_within():
                yield derived

    def seen_changes(self, look: bool) -> Sequence[str]:
        """What changed since the game was made, up to the last call, or by now."""
        if look:
            with self.as_it_is():
                pass
        return self.changes

    def _make_anew(self, changed: str) -> None:
        try:
            self.derived = Derived(self.asked)
        except (ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise ValueError(
                f"{changed} changed since the game was made, and as the model is now it cannot be "
                f"run: {error}; make a new game"
            ) from error
        self.changes.append(changed)
