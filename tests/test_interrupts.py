"""An interrupt of a search that has no store costs nothing: what was measured is kept, and the same
call goes on from there."""

import os
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import spex_mech as sm
from spex_mech import cli
from spex_mech.runs import interrupts
from spex_mech.runs.errors import Interruption

POSIX = pytest.mark.skipif(os.name != "posix", reason="interrupts processes as POSIX does")
ROOT = Path(__file__).parents[1]
N = 30
_RNG = np.random.default_rng(5)
MAIN, PAIRS = _RNG.normal(size=N), _RNG.normal(size=(N, N)) ** 3
# Multiples of 2^-20, whose sums are exact: no machine rounds a mask otherwise in another batch.
MAIN, PAIRS = (np.round(table * 2**20) / 2**20 for table in (MAIN, PAIRS))


class Planted:
    """Pairs among 30 units. It counts its masks, and is interrupted in the middle of a batch."""

    masks_per_batch = 16
    labels = tuple(f"u{unit}" for unit in range(N))

    def __init__(self, stop_after: int | None = None, scale: float = 1.0) -> None:
        self.stop_after, self.scale, self.n_asked = stop_after, scale, 0
        self.rounding = 0.0

    def __len__(self) -> int:
        return N

    def identity(self) -> dict[str, Any]:
        return {"planted": 5}

    def __call__(self, masks: Tensor) -> Tensor:
        if self.stop_after is not None and self.n_asked + len(masks) > self.stop_after:
            raise KeyboardInterrupt
        self.n_asked += len(masks)
        lost = (~masks).numpy().astype(float)
        exact = lost @ MAIN + np.einsum("mi,ij,mj->m", lost, PAIRS, lost)
        return torch.from_numpy(self.scale * exact + self.rounding * len(masks))


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(interrupts, "_WORTH", 0.0)


def searched(game: Any, **options: Any) -> sm.Interactions:
    return sm.discover(game, **({"budget": 300, "progress": False} | options))


def interrupted(call: Callable[..., Any], *given: Any, **options: Any) -> Interruption:
    with pytest.raises(KeyboardInterrupt) as raised:
        call(*given, **options)
    assert type(raised.value) is KeyboardInterrupt  # or a shell would not see an interrupt
    told = Interruption.of(raised.value)
    assert told is not None and str(raised.value) == str(told)
    return told


def assert_same(a: sm.Interactions, b: sm.Interactions) -> None:
    for name in ("units", "values", "main_effects_by_prompt", "intact_by_prompt", "q_value"):
        assert np.array_equal(getattr(a, name), getattr(b, name), equal_nan=True), name
    assert a.audit == b.audit and a.about == b.about


@pytest.mark.parametrize(
    "options",
    [{}, {"method": "exhaustive", "budget": None}, {"method": "proxyspex"}, {"order": 3}],
    ids=["spex", "exhaustive", "proxyspex", "triples"],
)
def test_the_same_call_goes_on(options: dict[str, Any], tmp_path: Path) -> None:
    whole, stopped, again = Planted(), Planted(stop_after=170), Planted()
    found = searched(whole, **options)
    stop = interrupted(searched, stopped, **options)
    assert stop.path is not None and stop.path.parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == [stop.path.name]
    planned = found.cost["evaluations"]
    assert str(stop) == (
        f"interrupted after {stopped.n_asked} of {planned:,} evaluations; they are kept in "
        f"{stop.path}: the same call with store={str(stop.path)!r} goes on"
    )
    with closing(sqlite3.connect(stop.path)) as file:  # how long each batch took, for the next ones
        assert all(seconds > 0 for (seconds,) in file.execute("SELECT seconds FROM batches"))
        assert file.execute("SELECT seconds FROM searches").fetchone()[0] > 0
    assert_same(searched(again, store=stop.path, **options), found)
    # Nothing is asked again but three masks, which are compared, and three that are asked alone.
    assert stopped.n_asked > 100 and again.n_asked == whole.n_asked - stopped.n_asked + 6
    assert searched(Planted(), store=stop.path, **options).cost["checks"] == 6  # as of the result
    later = Planted()
    searched(later, store=stop.path, seed=1, budget=250)
    assert later.n_asked < 253  # of another search, with three to compare


def test_gradients_are_kept_too(demo: sm.ModelGame, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"budget": 200, "progress": False, "masks_per_batch": 8}
    found = sm.discover(demo, **given)
    evaluate, n_calls = sm.ModelGame.evaluate, 0

    def stops(game: sm.ModelGame, *of: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 12:
            raise KeyboardInterrupt
        return evaluate(game, *of)

    with monkeypatch.context() as patch:
        patch.setattr(sm.ModelGame, "evaluate", stops)
        stop = interrupted(sm.discover, demo, **given)
    again = sm.discover(demo, store=stop.path, **given)
    assert found.cost["gradients"] > 0
    assert_same(again, found)


@pytest.fixture(scope="module")
def demo() -> sm.ModelGame:
    model = sm.load_model("demo")
    units = sm.Components.heads(model) + sm.Components.neurons(model, layers=1)[:24]
    return sm.ModelGame(model, sm.load_task("induction", model, n_prompts=4), units)


@pytest.mark.filterwarnings("ignore:the prompts are those of the search")
@pytest.mark.parametrize("verb", ["measure", "confirm", "distill", "circuit"])
def test_every_verb_goes_on(verb: str) -> None:
    found = searched(Planted())

    def ran(game: Any, **store: Any) -> Any:
        how: dict[str, Any] = {"progress": False, **store}
        if verb == "measure":
            return sm.measure(game, [(a, b) for a in range(12) for b in range(a)], **how).values
        if verb == "confirm":
            return sm.confirm(found, game, k=40, **how).values
        if verb == "distill":
            return sm.distill(game, 150, **how).predict(np.eye(N, dtype=bool))
        return sm.find_circuit(game, found=found, **how).faithfulness.value

    whole, stopped, again = Planted(), Planted(stop_after=40), Planted()
    expected = ran(whole)
    stop = interrupted(ran, stopped)
    np.testing.assert_array_equal(ran(again, store=stop.path), expected)
    assert stopped.n_asked and again.n_asked <= whole.n_asked - stopped.n_asked + 6


class HeldOut(Planted):
    """The same units on other prompts."""

    def identity(self) -> dict[str, Any]:
        return {"planted": 6}


def test_an_interrupt_while_a_circuit_is_scored_keeps_its_selection() -> None:
    found = searched(Planted())
    given: dict[str, Any] = {"found": found, "progress": False}
    whole, stopped, again = Planted(), Planted(), Planted()
    expected = sm.find_circuit(whole, held_out=HeldOut(), **given)
    stop = interrupted(sm.find_circuit, stopped, held_out=HeldOut(stop_after=0), **given)
    circuit = sm.find_circuit(again, held_out=HeldOut(), store=stop.path, **given)
    assert circuit.faithfulness.value == expected.faithfulness.value
    assert stopped.n_asked == whole.n_asked and again.n_asked <= 6 + whole.n_asked // 4


def test_a_setting_that_changed_meanwhile_is_noticed() -> None:
    stop = interrupted(searched, Planted(stop_after=170))
    with pytest.raises(ValueError, match="holds other values than the game has now"):
        searched(Planted(scale=1.01), store=stop.path)


def test_rounding_in_other_company_is_no_change() -> None:
    stopped, again, whole = Planted(stop_after=170), Planted(), Planted()
    for game in (stopped, again, whole):
        game.rounding = 1e-7
    stop = interrupted(searched, stopped)
    found = searched(again, store=stop.path)
    np.testing.assert_allclose(found.mean, searched(whole).mean, atol=1e-4)
    with pytest.raises(ValueError, match="holds other values"):  # from now on as of any store
        searched(Planted(scale=1 + 1e-5), store=stop.path, seed=1)


def test_what_is_not_worth_it_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "_WORTH", 5.0)
    told = r"^interrupted after \d+ of \d+ evaluations; they are not kept, as they took 0\.\d s$"
    with pytest.raises(KeyboardInterrupt, match=told):
        searched(Planted(stop_after=170))
    monkeypatch.setattr(interrupts, "_WORTH", 0.0)
    monkeypatch.setattr(interrupts, "_MOST", 1000)
    with pytest.raises(KeyboardInterrupt, match="they are not kept, as they take more than 0 MB"):
        searched(Planted(stop_after=170))
    with pytest.raises(KeyboardInterrupt, match=r"after 0 of \d+ evaluations; they are not kept"):
        searched(Planted(stop_after=0))
    assert not [*tmp_path.iterdir()]


def test_where_nothing_can_be_kept_the_interrupt_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "_free_path", lambda: tmp_path / "file" / "run.sqlite")
    (tmp_path / "file").write_text("")
    told = r"^interrupted after \d+ of \d+ evaluations; they could not be kept: .*file"
    with pytest.raises(KeyboardInterrupt, match=told):
        searched(Planted(stop_after=170))


def test_two_interrupts_have_two_files_and_a_lost_folder_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts.time, "strftime", lambda _: "interrupted-now")
    paths = [interrupted(searched, Planted(stop_after=170)).path for _ in range(2)]
    assert paths == [tmp_path / "interrupted-now.sqlite", tmp_path / "interrupted-now-2.sqlite"]
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(interrupts.tempfile, "gettempdir", lambda: str(tmp_path))
    assert interrupted(searched, Planted(stop_after=170)).path == (
        tmp_path / "interrupted-now-3.sqlite"
    )


def test_with_a_store_the_interrupt_names_it(tmp_path: Path) -> None:
    stop = interrupted(searched, Planted(stop_after=170), store="run.db")
    assert stop.path == Path("run.db") and "kept in run.db: the same call goes on" in str(stop)
    assert [path.name for path in tmp_path.iterdir()] == ["run.db"]


def test_of_a_smaller_game_the_call_finds_it_again() -> None:
    options: dict[str, Any] = {"method": "proxyspex", "budget": 200}
    whole, stopped, again = (Planted(stop, scale=0.5) for stop in (None, 300, None))
    expected = searched(Planted(), proxy=whole, **options)
    stop = interrupted(searched, Planted(), proxy=stopped, **options)
    assert stop.path is not None and not stop.path.exists()
    assert_same(searched(Planted(), proxy=again, store=stop.path, **options), expected)
    assert stopped.n_asked > 250 and again.n_asked == whole.n_asked - stopped.n_asked + 6


def test_what_a_trial_asks_is_counted() -> None:
    n_asked = 0

    def both(masks: Any) -> Any:
        nonlocal n_asked
        n_asked += len(masks) if masks.ndim == 2 else 0
        return (masks[:, 0] & masks[:, 1]) * 1.0

    def alone(mask: Any) -> float:
        nonlocal n_asked
        assert mask.ndim == 1
        n_asked += 1
        return float(mask[0] and mask[1])

    for function, tried in ((both, 5), (alone, 3)):
        n_asked = 0
        cost = sm.discover(function, n=9, progress=False).cost
        assert cost["checks"] == tried and n_asked == cost["evaluations"] + tried
        n_asked = 0
        cost = sm.discover(function, n=9, progress=False, store=f"{tried}.db").cost
        assert cost["checks"] == tried + 3 and n_asked == cost["evaluations"] + tried + 3
    cost = sm.discover(both, n=9, progress=False, vectorized=True).cost
    assert "checks" not in cost


# -- interrupts from outside ----------------------------------------------------------------------

SCRIPT = """
import signal, sys, time
from pathlib import Path
import numpy as np, spex_mech as sm
from spex_mech.runs import interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
interrupts._WORTH = 0.0

class Game:
    labels, masks_per_batch = [str(unit) for unit in range(20)], 4
    def __len__(self):
        return 20
    def identity(self):
        if len(sys.argv) > 2:
            Path("keeping").touch()
            time.sleep(60)
        return {"game": 1}
    def __call__(self, masks):
        Path("asked").touch()
        time.sleep(0.02 * len(masks))
        return np.asarray(masks[:, 0] & masks[:, 1], float)

store = sys.argv[1] if len(sys.argv) == 2 else None
sm.discover(Game(), "exhaustive", progress=False, store=store).save("found.npz")
"""
LINE = """
import signal, sys
from pathlib import Path
from spex_mech import cli
from spex_mech.runs import interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
interrupts._WORTH = 0.0
has = interrupts.Log.has
def touching(log, *of):
    Path("asked").touch()
    has(log, *of)
interrupts.Log.has = touching
sys.exit(cli.main())
"""


def stopped_by(
    numbers: list[signal.Signals], code: str, *words: str, wait_for: str = "asked"
) -> tuple[int, list[str]]:
    """A process that is sent signals, the first once the file "asked" is there, a second one once
    ``wait_for`` is: its exit code, and what it said."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        try:
            for number, name in zip(numbers, ["asked", wait_for], strict=False):
                until = time.monotonic() + 120
                while not Path(name).exists() and time.monotonic() < until:
                    assert process.poll() is None, process.communicate()[1]
                    time.sleep(0.02)
                time.sleep(0.3)
                process.send_signal(number)
            _, said = process.communicate(timeout=60)
            return process.returncode, said.splitlines()
        finally:
            process.kill()


@POSIX
def test_a_script_that_is_interrupted(tmp_path: Path) -> None:
    code, lines = stopped_by([signal.SIGINT], SCRIPT)
    assert code == -signal.SIGINT
    [file] = tmp_path.glob("interrupted-*.sqlite")
    told = f"of 219 evaluations; they are kept in {file}: the same call with store={str(file)!r}"
    assert "KeyboardInterrupt: interrupted after " in lines[-1] and told in lines[-1]
    assert "During handling" not in "".join(lines)
    run = [sys.executable, "-c", SCRIPT, str(file)]
    subprocess.run(run, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=120)
    assert sm.Interactions.load("found.npz").value("0", "1") == 1.0


@POSIX
def test_a_second_interrupt_ends_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    numbers = [signal.SIGINT, signal.SIGINT]
    code, lines = stopped_by(numbers, SCRIPT, "slow", "identity", wait_for="keeping")
    assert code != 0 and lines[-1].startswith("KeyboardInterrupt")
    assert time.monotonic() - began < 55
    assert not [*tmp_path.glob("interrupted-*")]


@POSIX
@pytest.mark.parametrize(
    "number",
    [pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGTERM)],
    ids=["SIGINT", "SIGTERM"],
)
def test_the_command_line_says_how_to_go_on(number: signal.Signals, tmp_path: Path) -> None:
    words = ["discover", "--units", "L*H*,L1N1*", "--n-prompts", "4", "--budget", "250"]
    words += ["--masks-per-batch", "4"]
    code, lines = stopped_by([number], LINE, *words)
    [file] = tmp_path.glob("interrupted-*.sqlite")
    assert lines[0] == "interrupted: what was measured is being kept"
    assert lines[1].startswith("spex-mech: interrupted after ")
    assert f" of 250 evaluations; they are kept in {file}" in lines[1]
    if number == signal.SIGTERM:
        assert code == 143 and lines[2:] == ["spex-mech: terminated"]
        return
    assert code == 130 and len(lines) == 3
    command = shlex.split(lines[2].removeprefix("go on with: "))
    assert command == ["spex-mech", *words, "--store", str(file)]
    assert cli.main(command[1:]) == 0
    assert sm.Interactions.load("out/discover/interactions.npz").cost["evaluations"] <= 250
