"""The store: killed searches go on exactly, masks are asked once, and bad files are refused."""

import importlib
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import spex_mech as sm
from spex_mech.discover import CallableGame
from spex_mech.masks import MaskBatch
from spex_mech.proxies.gaussian_process import Distilled
from spex_mech.runs import store as stores
from spex_mech.runs.contents import contents
from spex_mech.runs.store import identity_of, opened, packed
from tests.killed import MOMENTS, Job, work
from tests.planted import planted_game

POSIX = pytest.mark.skipif(os.name != "posix", reason="kills processes as POSIX does")


def in_a_process(job: Job, kill_after: float | None = None) -> int:
    """The exit code; the process is killed so many seconds after its game was made."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killed"])
    ready, tell = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(job, tell))
    process.start()
    tell.close()
    if kill_after is not None and ready.poll(60):
        time.sleep(kill_after)
        process.kill()
    process.join(120)
    assert process.exitcode is not None, "the process hangs"
    return process.exitcode


def assert_same(a: sm.Interactions, b: sm.Interactions) -> None:
    """Bit for bit in what was measured; what is worked out of it to rounding, as sums of the same
    numbers at another place in memory may differ in the last bit."""
    for name in ("units", "values", "main_effects_by_prompt", "intact_by_prompt", "q_value"):
        assert np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True), name
    assert a.labels == b.labels and alike(a.noise_floor, b.noise_floor)
    assert alike(a.audit, b.audit), (a.audit, b.audit)
    assert alike(a.about, b.about), (a.about, b.about)
    assert {**a.cost, "seconds": 0} == {**b.cost, "seconds": 0}


def alike(a: Any, b: Any) -> bool:
    """The same, floats to rounding."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(alike, a, b))
    return bool(a == b) or (isinstance(a, float) and a == pytest.approx(b, rel=1e-9, nan_ok=True))


def committed(path: Path) -> set[tuple[str, str]]:
    """The masks that a store holds, each as it was asked for."""
    with closing(sqlite3.connect(path)) as file:
        return {
            (kind, mask.hex())
            for kind, table in (("value", "evaluations"), ("gradient", "gradients"))
            for (mask,) in file.execute(f"SELECT mask FROM {table}")
        }


def killed_until_done(job: Job, seed: int, longest: float) -> int:
    """Start the search again and again and kill it each time, until it ends; returns how often.

    Nothing that was committed before a process began may be asked for by it.
    """
    rng, kills = np.random.default_rng(seed), 0
    known: set[tuple[str, str]] = set()
    while True:
        job.asked.unlink(missing_ok=True)
        moment = MOMENTS[rng.integers(len(MOMENTS))]
        at, after = int(rng.integers(1, 3)), float(rng.uniform(0, longest))
        this = Job(**{**vars(job), "moment": moment, "at": at})
        code = in_a_process(this, after if moment == MOMENTS[0] else None)
        assert code in (0, -signal.SIGKILL)
        asked = job.asked.read_text().splitlines() if job.asked.exists() else []
        masks = [tuple(mask) for line in asked for mask in json.loads(line)]
        assert not known & set(masks), "a committed mask was computed again"
        assert len(set(masks)) == len(masks)
        if code == 0:
            return kills
        kills += 1
        # A copy, as reading the store itself would also bring in what the next process is to find.
        copy = job.store.with_name("copy.sqlite")
        for end in ("", "-wal"):
            shutil.copy(f"{job.store}{end}", f"{copy}{end}")
        before, known = known, committed(copy)
        assert before <= known
        assert kills < 400


def kill_test(folder: Path, game: str, options: dict[str, Any], seed: int, longest: float) -> int:
    whole = Job(game, options, folder / "whole", folder / "asked", folder / "whole.npz")
    assert in_a_process(whole) == 0
    job = Job(game, options, folder / "run", folder / "asked", folder / "run.npz", pause=0.02)
    kills = killed_until_done(job, seed, longest)
    assert_same(sm.Interactions.load(job.result), sm.Interactions.load(whole.result))
    assert committed(job.store) == committed(whole.store)
    return kills


@POSIX
@pytest.mark.slow
def test_a_search_that_is_killed_again_and_again_ends_with_the_same_result(tmp_path: Path) -> None:
    assert kill_test(tmp_path, "planted", {"budget": 200}, seed=0, longest=0.1) >= 5


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"budget": 260}, {"method": "proxyspex", "budget": 200}], ids=["spex", "proxyspex"]
)
def test_a_killed_search_on_the_demo_model(tmp_path: Path, options: dict[str, Any]) -> None:
    assert kill_test(tmp_path, "demo", options, seed=1, longest=0.2) >= 20


class Watched:
    """A game that counts what it is asked, and can be told to refuse."""

    def __init__(self, n: int = 24, seed: int = 0, gradients: bool = False) -> None:
        self.planted = planted_game(n, 6, seed)
        self.labels, self.seed = self.planted.labels, seed
        self.asked: list[Tensor] = []  # but for what the store asks when it is opened
        self.dead, self.checks_left = False, 0
        if gradients:
            self.gradient = self._gradient

    def __len__(self) -> int:
        return len(self.labels)

    def identity(self) -> dict[str, Any]:
        return {"seed": self.seed}

    def __call__(self, masks: Tensor) -> Tensor:
        if self.checks_left:
            self.checks_left -= len(masks)
            return self.planted(masks)
        assert not self.dead, "asked though all is known"
        self.asked.append(masks)
        return self.planted(masks)

    def _gradient(self, masks: Tensor) -> Tensor:
        lost, slopes = (~masks).double(), torch.zeros(masks.shape, dtype=torch.float64)
        slopes -= torch.from_numpy(self.planted.main_effects)
        for (a, b), value in self.planted.planted.items():
            slopes[:, a] -= value * lost[:, b]
            slopes[:, b] -= value * lost[:, a]
        return slopes

    @property
    def rows(self) -> list[bytes]:
        return [row.numpy().tobytes() for masks in self.asked for row in masks]


def run(game: Any, store: Path | None, **options: Any) -> sm.Interactions:
    if isinstance(game, Watched) and store is not None:
        game.checks_left = 3
    return sm.discover(game, progress=False, store=store, **options)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("method", ["spex", "proxyspex", "exhaustive"])
def test_with_a_store_the_result_is_the_same(tmp_path: Path, gradients: bool, method: str) -> None:
    budget = 150 if method != "exhaustive" else None
    alone = run(Watched(gradients=gradients), None, method=method, budget=budget)
    game = Watched(gradients=gradients)
    kept = run(game, tmp_path / "run.sqlite", method=method, budget=budget)
    assert kept.cost.pop("reused") == 0 and kept.cost.pop("checks") == 3
    assert_same(alone, kept)
    assert len(game.rows) == alone.cost["evaluations"] - 2 * alone.cost["gradients"]


def test_what_ended_is_finished_also_where_no_result_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "run.sqlite"
    first = sm.distill(Watched(), 24, store=file, progress=False)
    dead = Watched()
    dead.dead = True
    with pytest.raises(AssertionError, match="asked though"):
        run(dead, file, method="exhaustive")
    ended, stopped = (x for x in contents(file).splitlines() if x.startswith("search"))
    assert ended.endswith(", finished") and stopped.endswith(", not finished")
    again = sm.distill(Watched(), 24, store=file, progress=False)
    assert again.r2 == first.r2


def test_a_finished_search_is_returned_at_once(tmp_path: Path) -> None:
    first = run(Watched(), tmp_path / "run.sqlite", budget=200)
    game = Watched()
    game.dead = True
    again = run(game, tmp_path / "run.sqlite", budget=200)
    assert_same(first, again)
    assert again.cost == first.cost  # the seconds of then
    with pytest.raises(AssertionError, match="asked though all is known"):
        run(game, tmp_path / "run.sqlite", budget=201)


def test_another_search_reuses_every_evaluation(tmp_path: Path) -> None:
    store = tmp_path / "run.sqlite"
    every = Watched()
    run(every, store, method="exhaustive")
    assert len({*every.rows}) == 1 + 24 + 24 * 23 // 2 == len(every.rows) - 9  # asked again
    game = Watched()
    found = run(game, store, budget=200, seed=3)
    assert len({*game.rows} & {*every.rows}) <= found.about["asked_again"]["masks"] == 8
    assert len(game.rows) + found.cost["reused"] == found.cost["evaluations"] == 200
    assert 0 < found.cost["reused"]
    part = Watched()  # a random part of the pairs is all there, but for what is asked again
    sample = run(part, store, method="exhaustive", budget=100)
    assert sample.cost["reused"] + len(part.rows) == sample.cost["evaluations"] == 100
    assert len(part.rows) <= 8
    alone = run(Watched(), None, method="exhaustive", budget=100)
    assert np.array_equal(alone.values, sample.values)


def test_a_search_is_told_by_its_proxy_and_its_student_too(tmp_path: Path) -> None:
    store = tmp_path / "run.sqlite"
    options: dict[str, Any] = {"method": "proxyspex", "budget": 150}
    first = run(Watched(), store, **options, proxy=Distilled(seed=0, steps=3))
    again = run(Watched(), store, **options, proxy=Distilled(seed=0, steps=3))
    assert_same(first, again)
    other = run(Watched(), store, **options, proxy=Distilled(seed=0, steps=4))
    assert other.cost["reused"] > 0
    ones = run(Watched(), store, **options, proxy=Watched(seed=1))
    twos = run(Watched(), store, **options, proxy=Watched(seed=2))
    assert not np.array_equal(ones.units, twos.units)


class Says(sm.Proxy):
    """Predicts nothing, and proposes the pairs of one unit, which its class says."""

    unit = 0

    def __init__(self) -> None:
        self.fitted = 0

    def fit(self, masks: np.ndarray, values: np.ndarray) -> None:
        self.n, self.mean, self.fitted = masks.shape[1], float(values.mean()), self.fitted + 1

    def predict(self, masks: np.ndarray) -> np.ndarray:
        return np.full(len(masks), self.mean)

    def propose(self, k: int, order: int = 2) -> list[tuple[tuple[int, ...], float]]:
        others = [u for u in range(self.n) if u != self.unit]
        return [(tuple(sorted((self.unit, u))), 1.0) for u in others][:k]


@pytest.mark.filterwarnings("ignore:.*asks for other masks than before")
def test_a_finished_search_of_a_proxy_whose_code_changed_is_worked_out_again(
    tmp_path: Path,
) -> None:
    """It was once returned as the earlier code had left it."""
    store, options = tmp_path / "run.sqlite", {"method": "proxyspex", "budget": 150}

    class Changed(Says):
        unit = 9

    Changed.__module__, Changed.__qualname__ = Says.__module__, Says.__qualname__
    before = run(Watched(), store, **options, proxy=Says())
    after = run(Watched(), store, **options, proxy=Changed())
    alone = run(Watched(), None, **options, proxy=Changed())
    assert after.names == alone.names != before.names
    np.testing.assert_array_equal(after.values, alone.values)


def test_a_search_goes_on_with_the_proxy_that_an_interrupt_left(tmp_path: Path) -> None:
    """What the proxy had learned once made the second call another search."""
    store, options = tmp_path / "run.sqlite", {"method": "proxyspex", "budget": 150}
    proxy = Says()
    alone = run(Watched(), None, **options, proxy=Says())
    asked = 0

    class Stopped(Watched):
        def __call__(self, masks: Tensor) -> Tensor:
            nonlocal asked
            asked += len(masks)
            if asked > 140:
                raise KeyboardInterrupt
            return super().__call__(masks)

    with pytest.raises(KeyboardInterrupt):
        run(Stopped(), store, **options, proxy=proxy)
    assert not proxy.fitted
    again = run(Watched(), store, **options, proxy=proxy)
    np.testing.assert_array_equal(again.values, alone.values)
    assert again.cost["reused"] == 0  # of another search


def test_gradients_are_reused_and_kept_apart_from_values(tmp_path: Path) -> None:
    store = tmp_path / "run.sqlite"
    first = run(Watched(gradients=True), store, budget=140)
    game = Watched(gradients=True)
    other = run(game, store, budget=141)
    assert other.cost["gradients"] > 0
    # The same rows and deep gradients come first; what differs is asked.
    assert other.cost["reused"] >= 3 * min(first.cost["gradients"], other.cost["gradients"])
    assert len(game.rows) < 30 + 8
    # The value at the mask of a gradient is an evaluation like any other.
    singles = Watched(gradients=True)
    every = run(singles, store, method="exhaustive")
    assert every.cost["reused"] == 310 - len(singles.rows)
    n_again = every.about["asked_again"]["masks"]
    assert {*game.rows} and bytes([1] * 24) not in singles.rows[:-n_again]  # the intact model
    exact = run(Watched(), None, method="exhaustive")
    np.testing.assert_allclose(every.values, exact.values, atol=1e-6)


def test_a_search_that_asks_otherwise_than_before_says_so(tmp_path: Path) -> None:
    store = tmp_path / "run.sqlite"
    first = run(Watched(), store, budget=200)
    with closing(sqlite3.connect(store)) as file:
        file.execute("UPDATE searches SET result = NULL")
        file.execute("UPDATE batches SET digest = x'00' WHERE number = 2")
        file.commit()
    with pytest.warns(UserWarning, match=r"asks for other masks than before from batch 2 on"):
        again = run(Watched(), store, budget=200)
    assert_same(first, again)


def test_batches_stay_as_small_as_memory_made_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 3)), rng.standard_normal(12)

    class Killed(BaseException):
        pass

    def game(sizes: list[int], calls: int | None = None, most: int = 3) -> sm.TrainingGame:
        made = sm.TrainingGame.ridge(x, y, x[:2], y[:2], batch_size=4)
        train = made.train

        def scarce(weights: Tensor) -> Tensor:
            if calls is not None and len(sizes) >= calls:
                raise Killed
            if len(weights) > most:
                raise RuntimeError("DefaultCPUAllocator: not enough memory")
            sizes.append(len(weights))
            return train(weights)

        made.train = scarce
        made.identity = lambda: {"data": "as above"}
        return made

    whole: list[int] = []
    found = run(game(whole), tmp_path / "whole.sqlite", method="exhaustive", budget=70)
    assert set(whole) <= {1, 2} and whole.count(2) > 25 and whole[:3] == [1, 1, 1]
    first: list[int] = []
    with pytest.raises(Killed):
        run(game(first, calls=20), tmp_path / "run.sqlite", method="exhaustive", budget=70)
    rest: list[int] = []
    again = run(game(rest, most=99), tmp_path / "run.sqlite", method="exhaustive", budget=70)
    assert_same(found, again)
    # Memory is there again, and still the batches are those of the run that went through.
    opening, rest = rest[:3], rest[3:]
    assert opening == [1, 1, 1] and rest == whole[-len(rest) :]
    assert len(first) + len(rest) - len(whole) < 8
    fewer: list[int] = []
    run(game(fewer, most=1), tmp_path / "run.sqlite", method="exhaustive", budget=69)
    assert set(fewer) <= {1}


def test_the_bar_counts_what_was_kept_without_letting_it_into_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[Any] = []

    class Bar(sys.modules["spex_mech.driver"].tqdm):
        def set_postfix_str(self, *of: Any, **options: Any) -> None:
            super().set_postfix_str(*of, **options)
            bars.append((self.n, self.initial))

    monkeypatch.setattr(sys.modules["spex_mech.driver"], "tqdm", Bar)
    store = tmp_path / "run.sqlite"
    sm.discover(Watched(), method="exhaustive", budget=150, store=store)
    assert bars[-1] == (150, 0)
    found = sm.discover(Watched(), method="exhaustive", store=store)
    assert bars[-1] == (found.cost["evaluations"], found.cost["reused"])
    assert bars[-1][0] == 310 and 142 <= bars[-1][1] <= 150


# -- files that are refused ------------------------------------------------------------------------


def test_a_store_of_another_game_is_refused_with_what_differs(tmp_path: Path) -> None:
    store = tmp_path / "run.sqlite"
    run(Watched(), store, budget=200)
    with pytest.raises(
        ValueError, match=r"another game: seed is 1, the store has 0\. Give another file"
    ):
        run(Watched(seed=1), store, budget=200)
    with pytest.raises(ValueError, match=r"n_units is 25, the store has 24"):
        run(Watched(25), store, budget=200)
    run(Watched(), store, budget=200)


def test_games_of_each_lens_are_told_apart_by_what_fixes_their_values() -> None:
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, n_prompts=4)
    heads = sm.Components.heads(model)

    def differ(a: Any, b: Any) -> set[str]:
        a, b = identity_of(a), identity_of(b)
        assert json.loads(json.dumps(a)) == a
        return {name for name in {**a, **b} if a.get(name) != b.get(name)}

    def of(task: sm.Task, **options: Any) -> sm.ModelGame:
        return sm.ModelGame(model, task, heads, **options)

    same = sm.ModelGame(sm.load_model("demo"), sm.load_task("induction", model, n_prompts=4))
    assert not differ(of(task), same)
    other = task.prompts.replaced(target_mask=torch.ones_like(task.prompts.tokens).bool())
    assert differ(of(task), of(sm.Task(other, task.metric, task.name))) == {
        "accuracy",
        "prompts_sha256",
    }
    scale = torch.tensor(1.0)

    def metric(output: Any, prompts: sm.Prompts) -> Tensor:
        return output[:, -1, 0] * scale

    own = of(sm.Task(task.prompts, metric, task.name))
    before = identity_of(own)
    scale += 1
    assert before["metric_sha256"] != identity_of(own)["metric_sha256"]
    reference = sm.load_task("induction", model, n_prompts=4, seed=1).prompts
    assert differ(of(task), of(task, reference=reference)) == {"reference", "reference_sha256"}
    given = {name: torch.zeros(64) for name in of(task).hook_points}
    ones = {name: torch.ones(64) for name in of(task).hook_points}
    assert differ(of(task, ablation=given), of(task, ablation=ones)) == {"reference_sha256"}
    changed = sm.load_model("demo")
    with torch.no_grad():
        next(iter(changed.parameters()))[0, 0] += 1
    # Other weights may also give the intact model other values, and change what it gets right.
    seen = differ(of(task), sm.ModelGame(changed, task))
    assert seen - {"accuracy", "intact"} == {"weights_sha256"}
    steered = sm.load_model("demo")
    steered.get_input_embeddings().register_forward_hook(lambda module, args, out: 1.1 * out)
    assert "intact" in differ(of(task), sm.ModelGame(steered, task))

    text = sm.Task(sm.Prompts([[3, 14, 15, 9]], answers=[15]), "log_prob")
    answer = sm.Task(sm.Prompts([[3, 14, 15, 9]], answers=[16]), "log_prob")
    words = sm.TokenGame(model, text, masking="mean")
    assert differ(words, sm.TokenGame(changed, text, masking="mean")) == {"weights_sha256"}
    assert differ(words, sm.TokenGame(model, answer, masking="mean")) == {"prompts_sha256"}

    x = np.eye(3)
    ridge = sm.TrainingGame.ridge(x, [1.0, 1, 1], x[:1], [1.0])
    assert not differ(ridge, sm.TrainingGame.ridge(x, [1.0, 1, 1], x[:1], [1.0]))
    for another in (
        sm.TrainingGame.ridge(x, [1.0, 1, 2], x[:1], [1.0]),
        sm.TrainingGame.ridge(x, [1.0, 1, 1], x[:1], [1.0], penalty=2.0),
    ):
        assert differ(ridge, another) == {"train_sha256", "training_sha256"}
    points = sm.TrainingGame.ridge(x, [1.0, 1, 1], x[1:2], [1.0])
    assert differ(ridge, points) == {"train_sha256"}


@dataclass(frozen=True, slots=True)
class Slotted:
    weight: float

    def __call__(self, masks: Tensor) -> Tensor:
        return self.weight * masks.double().sum(1)


def test_functions_are_told_apart_by_code_and_data() -> None:
    def of(function: Any) -> str:
        return identity_of(CallableGame(function, ["a", "b"]))["function_sha256"]

    def made(weight: Any, power: int = 1) -> Any:
        calls = 0

        def function(masks: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return (masks.double() @ torch.as_tensor(weight).double()) ** power

        return function

    weights = [torch.tensor([1.0, 2]), np.array([1.0, 2]), [1.0, 2.0], (1.0, 3.0)]
    hashes = [of(made(weight)) for weight in weights]
    assert hashes == [of(made(weight)) for weight in weights]
    assert len({*hashes, of(made(weights[0], 2))}) == 5
    function = made((1.0, 2.0))
    before = of(function)
    function(torch.ones(1, 2, dtype=torch.bool))
    assert of(function) == before  # it counted, and is the same
    assert of(lambda masks: masks.sum(1)) != of(lambda masks: masks.prod(1))
    sparse = torch.eye(2).to_sparse()
    assert of(made(sparse)) not in (of(made(sparse * 2)), of(made(torch.eye(2) * 2)))
    parts = (torch.nn.Linear(2, 1), torch.nn.Linear(2, 1), np.sin, np.cos, print)
    assert len({of(part) for part in parts}) == len(parts)
    slotted = [of(Slotted(weight)) for weight in (1.0, 2.0, 2.0)]
    assert slotted[0] != slotted[1] == slotted[2]
    with_set = "lambda masks: 'a' in {'b', 'c', 'd', 'e'}"
    code = (
        "from spex_mech.fingerprints import function_sha256\n"
        f"f = {with_set}\nprint(function_sha256(f), *{{'b', 'c', 'd', 'e'}})"
    )
    of_processes = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]  # fmt: skip
    (one, *order), (two, *another) = of_processes
    assert one == two and order != another


_OF_A_CLASS = """
class Base:
    power = 1.0
    def half(self, x): return x / 2
class Of(Base):
    n_asked = 0
    @property
    def shift(self): return 3.0
    @staticmethod
    def least(): return 4.0
    def __call__(self, masks):
        type(self).n_asked += 1
        return self.half(masks.double().sum(1)) ** self.power + self.shift + self.least()
"""


@pytest.mark.parametrize("edit", ["", "power = 1", "x / 2", "return 3", "return 4"])
def test_an_object_is_told_by_all_of_its_class(edit: str) -> None:
    """Of an object the code of ``__call__`` alone once counted, so that after an edit of another
    method the finished result of the earlier code came back."""

    def of(text: str) -> Any:
        names: dict[str, Any] = {"__name__": "mine"}
        exec(text, names)
        return CallableGame(names["Of"](), ["a", "b"])

    edited = _OF_A_CLASS.replace(edit, edit[:-1] + "7") if edit else "\n" + _OF_A_CLASS
    before, after = of(_OF_A_CLASS), of(edited)
    hashes = [identity_of(game)["function_sha256"] for game in (before, after)]
    assert (hashes[0] == hashes[1]) == (not edit)
    before(torch.ones(1, 2, dtype=torch.bool))  # it counts, and is the same
    assert identity_of(before)["function_sha256"] == hashes[0]


_OWN_FILES = {
    "mine": """
import own_scales, own_package.inner
from functools import lru_cache
from own_scores import Score, memo, score
SCORE = Score()
class Last:
    def of(self, x): return x * 11
@lru_cache
def kept(): return 12.0
def game(masks):
    x = masks.double().sum(1)
    x = score(x) + SCORE.of(x) + memo(x) + Last().of(x) + kept()
    return x * own_scales.SCALE + own_package.inner.shift(x)
""",
    "own_scores": """
import own_scales
from own_base import Base
N, KNOWN = 0, {}
def score(x): return own_scales.double(x) + 13
def memo(x):
    global N
    N += 1
    KNOWN[N] = x
    return x + N - len(KNOWN)
class Score(Base):
    def of(self, x): return self.half(x) + 14
""",
    "own_base": "class Base:\n    power = 15\n    def half(self, x): return x / 16",
    "own_scales": "SCALE = 17.0\ndef double(x): return 18 * x",
    "own_package/__init__": "",
    "own_package/inner": "def shift(x): return x + 19",
}


@pytest.mark.parametrize("edit", ["none", *map(str, range(11, 20))])
def test_the_users_other_files_tell_a_function_too(
    edit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function's helpers in another file once counted as a package's, which its version tells:
    after an edit that three masks did not show, the finished result of before came back."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def game_of(files: dict[str, str], folder: Path) -> Any:
        for name, text in files.items():
            file = folder / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        for name in [*files, "own_package.inner", "own_package"]:
            sys.modules.pop(name, None)
        with monkeypatch.context() as patch:
            patch.syspath_prepend(str(folder))
            game = importlib.import_module("mine").game
        return CallableGame(game, ["a", "b"])

    def of(game: Any) -> str:
        return identity_of(game)["function_sha256"]

    edited = {name: text.replace(edit, "20") for name, text in _OWN_FILES.items()}
    moved = {name: f"# A remark.\n\n{text}" for name, text in edited.items()}
    game = game_of(_OWN_FILES, tmp_path / "before")
    before = of(game)
    assert (of(game_of(moved, tmp_path / "after")) == before) == (edit == "none")
    if edit == "none":  # and so it is once calls have counted and filled what they fill
        game(torch.ones(1, 2, dtype=torch.bool))
        assert of(game) == before


def test_installed_packages_are_told_by_their_versions(tmp_path: Path) -> None:
    def of(text: str) -> str:
        names: dict[str, Any] = {"__name__": "helpers"}
        exec(compile(text, str(tmp_path / "site-packages" / "helpers.py"), "exec"), names)
        score = names["score"]
        return identity_of(CallableGame(lambda masks: score(masks.sum(1)), ["a", "b"]))[
            "function_sha256"
        ]

    text = "def double(x): return Two().of(x)\nclass Two:\n    def of(self, x): return 2 * x\n"
    text += "def score(x): return double(x)"
    assert of(text) == of(text.replace("2 *", "3 *"))


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A store of some pages."""
    store = tmp_path / "run.sqlite"
    run(Watched(), store, method="exhaustive")
    assert not store.with_name("run.sqlite-wal").exists()
    assert store.stat().st_size > 6 * 8192
    return store


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99, "a byte"])
def test_a_truncated_file_is_refused(finished: Path, share: Any) -> None:
    whole = finished.read_bytes()
    cut = len(whole) - 1 if share == "a byte" else int(share * len(whole))
    finished.write_bytes(whole[:cut])
    with pytest.raises(
        ValueError, match=r"run\.sqlite is not a store, or a damaged one: .*another"
    ):
        run(Watched(), finished, method="exhaustive")
    finished.write_bytes(whole)  # the refusal did not hold the file, and this one is good
    run(Watched(), finished, method="exhaustive")


def test_garbage_and_files_of_others_are_refused_and_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    random = np.random.default_rng(0).bytes(30_000)
    for data in (random, b"a few words", b"SQLite format 3\0" + random, b"\x80\x04." * 5000):
        path.write_bytes(data)
        with pytest.raises(ValueError, match="is not a store, or a damaged one"):
            run(Watched(), path)
        assert path.read_bytes() == data
    path.unlink()
    with closing(sqlite3.connect(path)) as file:
        file.execute("CREATE TABLE mine (x)")
    with pytest.raises(ValueError, match="is an SQLite file of something else; give another file"):
        run(Watched(), path)


def test_a_newer_format_is_refused(finished: Path) -> None:
    with closing(sqlite3.connect(finished)) as file:
        file.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="was written by a newer spex_mech; upgrade"):
        run(Watched(), finished)


def test_values_that_changed_on_the_disk_are_noticed(finished: Path) -> None:
    with closing(sqlite3.connect(finished)) as file:
        file.execute("UPDATE searches SET result = NULL")
        (value,) = file.execute("SELECT value FROM evaluations WHERE rowid = 9").fetchone()
        changed = value[:3] + bytes([value[3] ^ 1]) + value[4:]
        file.execute("UPDATE evaluations SET value = ? WHERE rowid = 9", (changed,))
        file.commit()
    with pytest.raises(ValueError, match="a value does not fit its checksum"):
        run(Watched(), finished, method="exhaustive")


def test_an_empty_file_is_a_new_store(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").touch()
    assert len(run(Watched(), tmp_path / "run.sqlite", method="exhaustive")) == 276
    assert len(run(Watched(), tmp_path / "new folder" / "run.sqlite", method="exhaustive")) == 276


# -- two processes, full disks ---------------------------------------------------------------------

HOLD = """
import sys, time
import spex_mech.runs.store as stores
from tests.test_store import Watched
with stores.opened(sys.argv[1], Watched()):
    print("held", flush=True)
    time.sleep(60)
"""


@POSIX
def test_a_second_process_is_told_until_the_first_is_gone(tmp_path: Path) -> None:
    store = tmp_path / "run.sqlite"
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store)], cwd=root, stdout=subprocess.PIPE, text=True
    ) as first:
        try:
            assert first.stdout is not None and first.stdout.readline() == "held\n"
            with pytest.raises(
                BlockingIOError, match=rf"in use by another run \(process {first.pid} on .*wait"
            ):
                run(Watched(), store)
        finally:
            first.kill()
    assert len(run(Watched(), store, method="exhaustive")) == 276


def test_a_second_run_in_the_same_process_is_told_too(tmp_path: Path) -> None:
    with opened(tmp_path / "run.sqlite", Watched()):
        with pytest.raises(BlockingIOError, match=f"process {os.getpid()}"):
            run(Watched(), tmp_path / "run.sqlite")
    run(Watched(), tmp_path / "run.sqlite", budget=200)


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, game = tmp_path / "run.sqlite", Watched()
    whole = run(Watched(), tmp_path / "whole.sqlite", method="exhaustive")
    monkeypatch.setattr(sys.modules["spex_mech.game"], "MASKS_PER_BATCH", 8)
    prepare = stores._prepare

    def small(connection: sqlite3.Connection, path: Path) -> None:
        prepare(connection, path)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    monkeypatch.setattr(stores, "_prepare", small)
    with pytest.raises(
        OSError, match=r"no room left on the disk: free some and call again"
    ) as full:
        run(game, store, method="exhaustive")
    assert full.value.errno == 28 and full.value.filename == str(store)
    kept = committed(store)
    assert 8 < len(kept) < 301
    monkeypatch.setattr(stores, "_prepare", prepare)
    again = Watched()
    found = run(again, store, method="exhaustive")
    assert np.array_equal(found.values, whole.values)
    assert len(again.rows) == 301 + 9 - len(kept)


FULL = """
import resource, sys
import spex_mech as sm
from pathlib import Path
from tests.test_store import Watched
sys.modules["spex_mech.game"].MASKS_PER_BATCH = 8
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    sm.discover(Watched(), "exhaustive", progress=False, store=sys.argv[1])
except OSError as error:
    print(error)
"""


@POSIX
def test_a_write_that_fails_loses_nothing(tmp_path: Path) -> None:
    """A limit on the file's size, as the nearest to a full disk that any machine can have."""
    store = tmp_path / "run.sqlite"
    failed = subprocess.run(
        [sys.executable, "-c", FULL, str(store)], cwd=Path(__file__).parents[1],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "the store cannot be read or written" in failed.stdout + failed.stderr
    assert "What was committed is kept" in failed.stdout
    game = Watched()
    assert len(run(game, store, method="exhaustive")) == 276
    assert 0 < len(game.rows) < 301 + 9


def test_a_file_that_cannot_be_written_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "run.sqlite"
    run(Watched(), store, budget=200)
    before = store.read_bytes()
    cure = "the store cannot be written; give a file in a folder that can be"
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
        for path in (store, tmp_path / "new.sqlite"):
            with pytest.raises(PermissionError, match=cure) as error:
                run(Watched(), path, budget=150)
            assert error.value.filename == str(path)
    assert store.read_bytes() == before and {*tmp_path.iterdir()} == {store}
    prepare = stores._prepare

    def then_read_only(connection: sqlite3.Connection, path: Path) -> None:
        prepare(connection, path)
        connection.execute("PRAGMA query_only = ON")

    with monkeypatch.context() as patch:
        patch.setattr(stores, "_prepare", then_read_only)
        with pytest.raises(PermissionError, match=cure):
            run(Watched(), store, budget=150)
    run(Watched(), store, budget=150)
    with pytest.raises(ValueError, match="is a folder; give a file in it"):
        run(Watched(), tmp_path)


# -- masks and numbers as bytes --------------------------------------------------------------------


@pytest.mark.parametrize(("n", "width"), [(100, 2), (70_000, 4)])
def test_a_mask_is_the_shorter_of_list_and_bits(n: int, width: int) -> None:
    rng = np.random.default_rng(0)
    sizes = [0, 1, 2, n // (8 * width), n // (8 * width) + 1, n // 2, n]
    sets = [rng.choice(n, size, replace=False) for size in sizes]
    rows = np.full((len(sets), n + 3), -1)
    for row, units in enumerate(sets):
        rows[row, rng.choice(n + 3, len(units), replace=False)] = units  # in any order, with holes
    batch = MaskBatch.of_rows(rows, n)
    keys = batch.keys()
    lost = ~batch.kept()
    for key, ablated in zip(keys, lost, strict=True):
        assert len(key) == 1 + min(width * ablated.sum(), -(-n // 8))
        if key[:1] == b"\0":
            assert np.array_equal(np.frombuffer(key[1:], f"<u{width}"), np.flatnonzero(ablated))
        else:
            bits = np.unpackbits(np.frombuffer(key[1:], np.uint8))[:n]
            assert np.array_equal(bits.astype(bool), ablated)
    twice = MaskBatch.of_rows(np.array([[3, 3, 5, -1], [5, 3, -1, -1]]), n)
    assert len(set(twice.keys())) == 1


def test_numbers_take_four_bytes_where_that_is_exact() -> None:
    exact = np.array([0.0, -0.0, 0.5, -3e38, 1e-45], dtype=np.float32).astype(np.float64)
    assert len(packed(exact, b"")) == 1 + 4 * 5 + 4
    for finer in (0.1, 1e300, 1 + 2**-40, 1e-60):
        assert len(packed(np.append(exact, finer), b"")) == 1 + 8 * 6 + 4
