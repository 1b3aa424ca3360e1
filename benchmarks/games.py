"""The games of the benchmarks: real models, the kept truth of one, planted and drawn ones, and what
watches a game.

Real ones take the folder of models (``--data``). ``planted_game`` has known interactions; a game
``OverPrompts`` has known means over a population of prompts.
"""

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import spex_mech as sm
from benchmarks.frame import HERE, Options
from spex_mech.game import Answer, Game, as_game, no_tick
from spex_mech.masks import MaskBatch
from spex_mech.search.contract import GRADIENT_COST
from spex_mech.units import Units
from tests.planted import Planted, planted_game

__all__ = ["Planted", "planted_game"]  # given on

Pair = tuple[int, int]
Set = tuple[int, ...]
TRUTH = HERE / "truth" / "stories260k.npz"


# -- what was found, and what is true --------------------------------------------------------------


def values_of(found: sm.Interactions) -> dict[Set, float]:
    """Each measured set of units and its value."""
    return {
        tuple(int(u) for u in units if u >= 0): float(value)
        for units, value in zip(found.units, found.mean, strict=True)
    }


def pairs_of(found: sm.Interactions) -> set[Pair]:
    """The pairs that were measured."""
    return {(int(a), int(b)) for a, b in found.units[found.order == 2][:, :2]}


def strongest(found: sm.Interactions) -> list[Pair]:
    """All pairs, strongest first."""
    return [(int(a), int(b)) for a, b in found.top(len(found)).units[:, :2]]


def recall(have: Iterable[Set], truth: Sequence[Set], k: int | None = None) -> float:
    """The share of the first k that is there."""
    known = set(have)
    return float(np.mean([s in known for s in truth[:k]]))


def r2(truth: np.ndarray, predicted: Any) -> float:
    """Of predictions [mask] or [mask prompt], whose prompt mean counts."""
    mean = np.asarray(predicted, dtype=np.float64).reshape(len(truth), -1).mean(axis=1)
    return 1 - float(((truth - mean) ** 2).mean() / truth.var())


def singles(game: Any) -> np.ndarray:
    """What the ablation of each unit alone changes, of all units: a search may leave some out."""
    masks = torch.ones(len(game) + 1, len(game), dtype=torch.bool)
    masks[range(len(game)), range(len(game))] = False
    values = game(masks).double().mean(1).numpy()
    return values[:-1] - values[-1]


# -- what watches a game ---------------------------------------------------------------------------


class Around(Game):
    """A game that asks another, and is as that one but for what is written anew."""

    def __init__(self, game: Any) -> None:
        self.game = as_game(game)

    @property
    def units(self) -> Units:
        return self.game.units

    @property
    def has_slopes(self) -> bool:
        return self.game.has_slopes

    @property
    def masks_per_batch(self) -> int:
        return self.game.masks_per_batch

    @property
    def noise_floor(self) -> float | None:
        return self.game.noise_floor

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Any = no_tick) -> Answer:
        return self.game.evaluate(masks, slopes, tick)

    def slopes_at(self, gates: torch.Tensor) -> Answer:
        return self.game.slopes_at(gates)


class Watched(Around):
    """A game that knows what it was asked for: evaluations (a gradient counts as three), and the
    seconds that it took, by the clock and of the processor."""

    def __init__(self, game: Any) -> None:
        super().__init__(game)
        self.evaluations, self.seconds, self.cpu_seconds = 0, 0.0, 0.0

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Any = no_tick) -> Answer:
        cost = GRADIENT_COST if slopes else 1
        return self._ask(cost * len(masks), self.game.evaluate, masks, slopes, tick)

    def slopes_at(self, gates: torch.Tensor) -> Answer:
        return self._ask(GRADIENT_COST * len(gates), self.game.slopes_at, gates)

    def _ask(self, cost: int, method: Any, *arguments: Any) -> Answer:
        started, cpu = time.perf_counter(), time.process_time()
        answer = method(*arguments)
        self.seconds += time.perf_counter() - started
        self.cpu_seconds += time.process_time() - cpu
        self.evaluations += cost
        return answer


class Together(Game):
    """Games of the same units as one, over the prompts of all.

    Args:
        games: each with prompts of its own.
        slopes: whether it gives them, where the games do.
    """

    def __init__(self, games: list[sm.ModelGame], slopes: bool = True) -> None:
        self.games, self._slopes = games, slopes

    @property
    def units(self) -> Units:
        return self.games[0].units

    @property
    def has_slopes(self) -> bool:
        return self._slopes

    def evaluate(self, masks: MaskBatch, slopes: bool = False, tick: Any = no_tick) -> Answer:
        return self._joined([game.evaluate(masks, slopes, tick) for game in self.games])

    def slopes_at(self, gates: torch.Tensor) -> Answer:
        return self._joined([game.slopes_at(gates) for game in self.games])

    def _joined(self, answers: list[Answer]) -> Answer:
        values = np.concatenate([answer.values for answer in answers], axis=1)
        if answers[0].slopes is None:
            return Answer(values)
        # Games may have other numbers of prompts: one block, the mean over all prompts.
        share = [answer.values.shape[1] / values.shape[1] for answer in answers]
        slopes = [answer.slopes.mean(axis=1, keepdims=True) for answer in answers]
        return Answer(values, sum(s * x for s, x in zip(share, slopes, strict=True)))


# -- real models -----------------------------------------------------------------------------------


def all_units(model: Any) -> sm.Components:
    return sm.Components.heads(model) + sm.Components.neurons(model)


def some_units(model: Any, n: int, seed: int) -> sm.Components:
    """All heads and neurons drawn at random, n in all."""
    heads, neurons = sm.Components.heads(model), sm.Components.neurons(model)
    rows = np.random.default_rng(seed).permutation(len(neurons))[: n - len(heads)]
    return heads + neurons[np.sort(rows).tolist()]


def passages(data: Path, model: Any, n_prompts: int, seed: int) -> sm.Task:
    """The mean log-probability of the next token on passages of 32 tokens."""
    file = data / "text" / "tinystories_valid_head.txt"
    return sm.load_task("text", model, n_prompts, seed, file=file, n_tokens=32)


def prompts(data: Path, model: Any, name: str, n_prompts: int, seed: int = 0) -> sm.Task:
    """A task of the folder: ``ioi``, ``agreement``, ``pronoun``, ``object_copy``."""
    with warnings.catch_warnings():  # no benchmark says anything of other templates
        warnings.filterwarnings("ignore", ".*'template' is not read")
        return sm.load_task(str(data / "prompts" / f"{name}.json"), model, n_prompts, seed)


def load_truth() -> dict[str, np.ndarray]:
    """The kept truth of ``story_game``: ``units[pair 2]`` and ``values[pair prompt]`` of the top
    pairs, strongest first; ``main_effects[unit]``; ``labels``; ``tokens[prompt pos]``; ``about``
    (JSON)."""
    with np.load(TRUTH, allow_pickle=False) as file:
        return dict(file)


def story_game(data: Path, task: sm.Task | None = None) -> sm.ModelGame:
    """The 260K story model's 40 heads and 860 neurons, on the passages of the kept truth."""
    model = sm.load_model(data / "stories260k")
    if task is None:
        tokens = torch.from_numpy(load_truth()["tokens"])
        task = sm.Task(sm.Prompts(tokens), "log_prob", "text")
    return sm.ModelGame(model, task, all_units(model))


def ioi_game(data: Path, n_prompts: int, n: int | None = None) -> sm.ModelGame:
    """Indirect object identification by the 3M story model: its 36 heads alone, or with neurons
    drawn at random, n in all."""
    model = sm.load_model(data / "stories3m")
    task = prompts(data, model, "ioi", n_prompts)
    heads = sm.Components.heads(model)
    return sm.ModelGame(model, task, heads if n is None else some_units(model, n, 0))


def head_games(data: Path) -> dict[str, sm.ModelGame]:
    """Heads only, where every rival runs."""
    story = story_game(data)
    heads = sm.Components.heads(story.model)
    return {
        "story 260K, 40 heads": sm.ModelGame(story.model, story.task, heads),
        "story 3M on IOI, 36 heads": ioi_game(data, 6),
    }


def fresh_games(options: Options) -> Iterator[tuple[str, sm.ModelGame]]:
    """Games that nothing was tuned on, few enough units for an exhaustive truth: all heads and
    random neurons, of another model on another task, and on other passages."""
    model = sm.load_model(options.models / "stories3m")
    task = prompts(options.models, model, "agreement", 8, 7)
    yield "story 3M, agreement, 300 units", sm.ModelGame(model, task, some_units(model, 300, 7))
    if not options.quick:
        model = sm.load_model(options.models / "stories260k")
        game = sm.ModelGame(model, passages(options.models, model, 8, 7), some_units(model, 400, 7))
        yield "story 260K, other passages, 400 units", game


# -- drawn games -----------------------------------------------------------------------------------


def all_pairs(n: int) -> np.ndarray:
    return np.stack(np.triu_indices(n, 1), axis=1)


def truth_of(game: Planted) -> dict[Set, float]:
    """Every pair's value without noise."""
    table = np.zeros((game.n, game.n)) if game.tail is None else game.tail
    at = all_pairs(game.n)
    found = dict(zip(map(tuple, at.tolist()), table[at[:, 0], at[:, 1]].tolist(), strict=True))
    return found | {s: v for s, v in game.planted.items() if len(s) == 2}


def top(values: dict[Set, float], k: int = 20) -> list[Set]:
    """The k strongest that are not nothing."""
    return sorted((s for s in values if values[s]), key=lambda s: -abs(values[s]))[:k]


def heavy_game(n: int, seed: int) -> Planted:
    """All pairs, of Student's t with 1.5 degrees of freedom: a few hold most of the energy."""
    rng = np.random.default_rng(seed)
    tail = np.triu(rng.standard_t(1.5, (n, n)) / 30, 1)
    return Planted(n, rng.standard_normal(n), {}, tail + tail.T)


def prompt_noise(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """[pair prompt], mean 0 and standard deviation 1. ``shared``: half of the variance is one draw
    of each prompt, with a sign and weight of each pair."""
    if kind == "normal":
        return rng.standard_normal(shape)
    if kind == "skewed":  # log-normal
        return (np.exp(rng.standard_normal(shape)) - np.e**0.5) / np.sqrt((np.e - 1) * np.e)
    if kind == "heavy":  # Student's t with 3 degrees of freedom
        return rng.standard_t(3, shape) / np.sqrt(3)
    if kind == "shared":
        loads = np.sign(rng.standard_normal((shape[0], 1)))
        common = loads * rng.standard_normal((1, shape[1]))
        return np.sqrt(0.5) * (common + rng.standard_normal(shape))
    raise ValueError(kind)


@dataclass(eq=False)
class OverPrompts:
    """Main effects and pairs that differ from prompt to prompt: [unit prompt], [pair prompt]."""

    main: np.ndarray
    pairs: np.ndarray

    def __post_init__(self) -> None:
        self.labels = [str(unit) for unit in range(len(self.main))]
        self.at = all_pairs(len(self.main))

    def __len__(self) -> int:
        return len(self.main)

    def __call__(self, masks: torch.Tensor) -> torch.Tensor:
        lost = (~masks.numpy()).astype(np.float64)
        both = lost[:, self.at[:, 0]] * lost[:, self.at[:, 1]]
        return torch.from_numpy(3.0 + lost @ self.main + both @ self.pairs)


class WithSlopes(OverPrompts):
    def gradient(self, masks: torch.Tensor) -> torch.Tensor:
        lost = 1.0 - masks.double().numpy()
        table = np.zeros((len(self), len(self)))
        table[self.at[:, 0], self.at[:, 1]] = self.pairs.mean(1)
        return torch.from_numpy(-self.main.mean(1) - lost @ (table + table.T))


def drawn(
    means: np.ndarray, n_prompts: int, kind: str, rng: np.random.Generator, slopes: bool = False
) -> OverPrompts:
    """So many prompts of a population in which a pair's value has this mean."""
    n = round((1 + np.sqrt(1 + 8 * len(means))) / 2)
    pairs = means[:, None] + prompt_noise(kind, (len(means), n_prompts), rng)
    main = rng.standard_normal((n, 1)) + 0.3 * rng.standard_normal((n, n_prompts))
    return (WithSlopes if slopes else OverPrompts)(main, pairs)
