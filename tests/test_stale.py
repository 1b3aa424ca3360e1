"""What a store cannot see has changed: the old values are refused, whatever it was."""

import argparse
import sys
import types
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from torch import Tensor, nn

import spex_mech as sm
from spex_mech.engine.passes import call
from spex_mech.engine.watch import Watch
from spex_mech.models import load_model
from spex_mech.sweep import cells_of, sweep

Change = Callable[[], None]
REFUSED = "holds other values than the game has now: with .* ablated the value is "


def pairs(masks: Tensor) -> Tensor:
    """One pair, over the sum of all units."""
    return (masks[:, 0] & masks[:, 1]).double() + 0.1 * masks.double().sum(dim=1)


def in_a_namespace(_: Path) -> tuple[Any, Change]:
    args = argparse.Namespace(scale=1.0)
    return (lambda masks: args.scale * pairs(masks)), lambda: setattr(args, "scale", 2.0)


def in_a_dataclass(_: Path) -> tuple[Any, Change]:
    @dataclass
    class Config:
        scale: float = 1.0

    config = Config()
    return (lambda masks: config.scale * pairs(masks)), lambda: setattr(config, "scale", 2.0)


class Scaled:
    """A method that ``__call__`` uses, and a bound method."""

    def __init__(self) -> None:
        self.cfg = types.SimpleNamespace(scale=1.0)

    def value(self, masks: Tensor) -> Tensor:
        return pairs(masks)

    def __call__(self, masks: Tensor) -> Tensor:
        return self.value(masks)

    def bound(self, masks: Tensor) -> Tensor:
        return self.cfg.scale * pairs(masks)


def in_a_called_method(_: Path) -> tuple[Any, Change]:
    class Own(Scaled):
        pass

    def change() -> None:
        Own.value = lambda self, masks: 2 * pairs(masks)  # type: ignore[method-assign]

    return Own(), change


def behind_a_bound_method(_: Path) -> tuple[Any, Change]:
    scaled = Scaled()
    return scaled.bound, lambda: setattr(scaled.cfg, "scale", 2.0)


def in_a_helper_module(_: Path) -> tuple[Any, Change]:
    helper = types.ModuleType("a_helper")
    exec("def scale(): return 1.0", vars(helper))
    return (lambda masks: helper.scale() * pairs(masks)), lambda: exec(
        "def scale(): return 2.0", vars(helper)
    )


def an_attribute_of_a_module(_: Path) -> tuple[Any, Change]:
    settings = types.ModuleType("settings_of_a_run")
    vars(settings)["SCALE"] = 1.0
    return (lambda masks: settings.SCALE * pairs(masks)), lambda: setattr(settings, "SCALE", 2.0)


def in_a_table(_: Path) -> tuple[Any, Change]:
    table = pd.DataFrame({"weight": np.ones(6)})

    def change() -> None:
        table.loc[5, "weight"] = 2.0

    return (lambda masks: masks.numpy() @ table["weight"].to_numpy()), change


def in_a_fitted_estimator(_: Path) -> tuple[Any, Change]:
    x = np.eye(6)
    fitted = LinearRegression().fit(x, np.arange(6.0))

    def change() -> None:
        fitted.fit(x, 2 * np.arange(6.0))

    return (lambda masks: fitted.predict(masks.numpy().astype(float))), change


def in_a_file(folder: Path) -> tuple[Any, Change]:
    file = folder / "scale.txt"
    file.write_text("1.0")
    return (lambda masks: float(file.read_text()) * pairs(masks)), lambda: (
        file.write_text("2.0"),
        None,
    )[1]


def in_a_long_array_of_objects(_: Path) -> tuple[Any, Change]:
    """The repr of an array leaves out all but its ends."""
    weights = np.ones(3000, dtype=object)

    def change() -> None:
        weights[1500] = 4.0

    return (lambda masks: masks.double().sum(dim=1) * float(weights.sum())), change


def only_where_two_are_ablated(_: Path) -> tuple[Any, Change]:
    """The intact value, and those of single units, are as they were."""
    strength = argparse.Namespace(pair=1.0)

    def game(masks: Tensor) -> Tensor:
        lost = (~masks).double()
        return strength.pair * lost[:, 2] * lost[:, 4] + lost @ torch.arange(6.0).double()

    return game, lambda: setattr(strength, "pair", 0.5)


CHANGES = [
    in_a_namespace, in_a_dataclass, in_a_called_method, behind_a_bound_method, in_a_helper_module,
    an_attribute_of_a_module, in_a_table, in_a_fitted_estimator, in_a_file,
    in_a_long_array_of_objects, only_where_two_are_ablated,
]  # fmt: skip


def search(game: Any, store: Path | None, **options: Any) -> sm.Interactions:
    given = {"n": 6, "method": "exhaustive", "progress": False, "store": store, **options}
    return sm.discover(game, **given)


@pytest.mark.parametrize("make", CHANGES, ids=lambda make: make.__name__)
def test_a_change_that_the_code_does_not_show_is_refused(
    make: Callable[[Path], tuple[Any, Change]], tmp_path: Path
) -> None:
    game, change = make(tmp_path)
    store = tmp_path / "run.sqlite"
    first = search(game, store)
    assert search(game, store).values.tolist() == first.values.tolist()
    change()
    with pytest.raises(ValueError, match=r"another game|" + REFUSED):
        search(game, store)  # the finished result
    with pytest.raises(ValueError, match=r"another game|" + REFUSED):
        search(game, store, budget=12)  # another search, on what is there


def test_both_values_and_the_cure_are_told(tmp_path: Path) -> None:
    game, change = in_a_namespace(tmp_path)
    search(game, tmp_path / "run.sqlite")
    change()
    told = (
        r"run\.sqlite holds other values than the game has now: with nothing ablated the value is "
        r"3\.2, and the store has 1\.6\. Something has changed that the store cannot see, such as "
        r"a setting, a file or a hook\. Undo that, or give another file, or move this one away"
    )
    with pytest.raises(ValueError, match=told):
        search(game, tmp_path / "run.sqlite")
    found = search(game, tmp_path / "other.sqlite")
    assert (
        found.top(1).mean[0] == 2.0 and found.cost["checks"] == 3 + 5
    )  # and the trial of the function


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * nn.functional.gelu(x)


def a_hook(model: nn.Module) -> None:
    block: Any = model.get_submodule("transformer.h.0")
    block.register_forward_hook(
        lambda m, i, o: (o[0] * 0.3, *o[1:]) if isinstance(o, tuple) else o * 0.3
    )


def another_activation(model: nn.Module) -> None:
    mlp: Any = model.get_submodule("transformer.h.0.mlp")
    mlp.act = Doubled()


def an_attribute(model: nn.Module) -> None:
    norm: Any = model.get_submodule("transformer.ln_f")
    norm.eps = 10.0


def a_patched_forward(model: nn.Module) -> None:
    head: Any = model.get_submodule("lm_head")
    forward = head.forward
    head.forward = lambda x: 3 * forward(x)


def of_a_model(change: Any, store: Path) -> sm.Interactions:
    model = load_model("demo")
    if change is not None:
        change(model)
    game = sm.ModelGame(model, sm.load_task("induction", model, n_prompts=4))
    return sm.discover(game, store=store, progress=False)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the bundled model."""
    store = tmp_path_factory.mktemp("model") / "run.sqlite"
    first = of_a_model(None, store)
    assert of_a_model(None, store).values.tolist() == first.values.tolist()
    return store


@pytest.mark.parametrize(
    "change",
    [a_hook, another_activation, an_attribute, a_patched_forward],
    ids=lambda c: c.__name__,
)
def test_a_model_that_computes_otherwise_is_refused(change: Any, searched: Path) -> None:
    with pytest.raises(ValueError, match=r"is the store of another game|holds other values than"):
        of_a_model(change, searched)


def test_a_metric_that_reads_a_setting_is_refused(tmp_path: Path) -> None:
    model = load_model("demo")
    task = sm.load_task("induction", model, n_prompts=4)
    config = argparse.Namespace(power=1)

    def metric(output: Any, prompts: sm.Prompts) -> Tensor:
        return output[:, -1, 0] ** config.power

    def run() -> sm.Interactions:
        game = sm.ModelGame(model, sm.Task(task.prompts, metric, task.name))
        return sm.discover(game, store=tmp_path / "run.sqlite", progress=False)

    run()
    config.power = 2
    with pytest.raises(ValueError, match=r"is the store of another game|holds other values than"):
        run()


def test_a_game_without_values_for_deep_masks_is_checked_on_others(tmp_path: Path) -> None:
    scale = argparse.Namespace(of=1.0)

    def game(masks: Tensor) -> Tensor:
        if (~masks).sum(dim=1).max() > 2:
            raise ValueError("more than two are too many")
        return scale.of * (~masks).double() @ torch.arange(1.0, 7).double()

    found = search(game, tmp_path / "run.sqlite")
    assert found.cost["checks"] == 3 + 6  # and the trial of the function
    scale.of = 2.0
    with pytest.raises(ValueError, match=REFUSED):
        search(game, tmp_path / "run.sqlite")


def test_rounding_is_no_change_and_noise_is_named(tmp_path: Path) -> None:
    shift, rng = argparse.Namespace(of=0.0, noise=0.0), np.random.default_rng(0)

    def game(masks: Tensor) -> Tensor:
        noise = shift.noise * torch.from_numpy(rng.standard_normal(len(masks)))
        return pairs(masks) + shift.of + noise

    search(game, tmp_path / "run.sqlite")
    shift.of = 1e-15
    search(game, tmp_path / "run.sqlite")
    shift.of = 1e-9
    with pytest.raises(ValueError, match=REFUSED):
        search(game, tmp_path / "run.sqlite")
    shift.of, shift.noise = 0.0, 1.0
    with pytest.warns(UserWarning, match="values vary from call to call"):
        search(game, tmp_path / "run.sqlite")


def test_prompts_that_were_added_are_refused(tmp_path: Path) -> None:
    prompts = argparse.Namespace(n=3)

    def game(masks: Tensor) -> Tensor:
        return pairs(masks)[:, None].repeat(1, prompts.n)

    search(game, tmp_path / "run.sqlite")
    prompts.n = 4
    with pytest.raises(ValueError, match="has 4 prompts now and had 3 when the store was filled"):
        search(game, tmp_path / "run.sqlite")


def test_a_sweep_does_not_leave_out_what_has_other_values_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = cells_of({"models": ["demo"]}, n_prompts=4)
    assert sweep(cells, tmp_path, progress=False).state.tolist() == ["done"]
    assert sweep(cells, tmp_path, progress=False).state.tolist() == ["done"]

    def steered(*given: Any, **options: Any) -> Any:
        model = load_model(*given, **options)
        a_hook(model)
        return model

    monkeypatch.setattr(sys.modules["spex_mech.models"], "load_model", steered)
    with pytest.raises(ValueError, match=r"__spex.* is done, but .*other (values|game)"):
        sweep(cells, tmp_path, progress=False)
    assert sweep(cells, tmp_path, resume=False, progress=False).state.tolist() == ["done"]


def test_a_model_that_takes_one_row_alone_is_watched() -> None:
    """Whatever its error is for two; and it is seen to change."""
    model = sm.load_model("demo")
    prompts = sm.load_task("induction", model, 2).prompts

    def run(prompts: sm.Prompts) -> Any:
        if len(prompts) > 1:
            raise RuntimeError("one row at a time")
        return call(model, prompts)

    watch = Watch(model, prompts, nullcontext, run)
    assert watch.changed() == ""
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    assert watch.changed() != ""
