"""What a user has set of torch around a call, or of a model's forward, changes no number and loses
no work: grad mode, inference mode, the default type, checkpointing, exchanged forwards.

Each mended place was broken once and seen here: gates joined under a grad mode that is off, a
proxy and a network that learn there, tensors of a learner made in inference mode, comparisons in
the default type, and logits of a forward that somebody exchanged.
"""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import spex_mech as sm
from tests.families import build
from tests.test_current_model import CLOSE, heads_gone
from tests.test_engine import all_units, some_masks, some_prompts
from tests.test_unusual_models import zero_game

Mode = Callable[[], AbstractContextManager[Any]]


@contextmanager
def grad_switched_off() -> Iterator[None]:
    """As notebooks of interpretability begin: ``torch.set_grad_enabled(False)``."""
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    try:
        yield
    finally:
        torch.set_grad_enabled(before)


MODES = (grad_switched_off, torch.no_grad, torch.inference_mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("replay", [None, False])
def test_slopes_are_there_in_any_grad_mode(mode: Mode, replay: bool | None) -> None:
    model, gates = build("gpt2"), torch.rand(2, 8, generator=torch.Generator().manual_seed(0))
    want = zero_game(model, replay=replay).gradient(gates)
    with mode():
        game = zero_game(model, replay=replay)
        assert game.has_slopes, game.why_no_slopes
        torch.testing.assert_close(game.gradient(gates), want, rtol=0, atol=0)
    assert want.abs().min() > 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_a_search_and_its_proxy_are_the_same_in_any_grad_mode(mode: Mode) -> None:
    model = build("gpt2")

    def searched() -> sm.Interactions:
        game = zero_game(model, components=all_units(model)[:24])
        return sm.discover(game, method="proxyspex", budget=120, seed=0, progress=False)

    want = searched()
    with mode():
        found = searched()
    assert found.cost["gradients"] == want.cost["gradients"] > 0
    np.testing.assert_array_equal(found.values, want.values)
    assert found.about["proxy_r2"] == want.about["proxy_r2"]


def examples() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    x, x_test = rng.normal(size=(8, 3)), rng.normal(size=(4, 3))
    return {"x": x, "y": np.arange(8) % 2, "x_test": x_test, "y_test": np.arange(4) % 2}


def learner(kind: str, dtype: torch.dtype = torch.float32) -> sm.TrainingGame:
    given = examples()
    if kind == "network":
        torch.manual_seed(0)
        module = nn.Linear(3, 2, dtype=torch.float32).to(dtype)
        return sm.TrainingGame.network(module, **given)
    if kind == "kernel_ridge":
        x, x_test = given["x"], given["x_test"]
        return sm.TrainingGame.kernel_ridge(
            x @ x.T, given["y"], kernel_test=x_test @ x.T, y_test=given["y_test"]
        )
    return getattr(sm.TrainingGame, kind)(**given)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["ridge", "kernel_ridge", "logistic", "network"])
def test_learners_learn_in_any_grad_mode(mode: Mode, kind: str) -> None:
    masks = np.random.default_rng(1).random((5, 8)) > 0.3
    game = learner(kind)
    values, slopes = game(masks), game.gradient(masks) if game.has_slopes else None
    for made_within in (True, False):
        with mode():
            again = learner(kind) if made_within else game
            torch.testing.assert_close(again(masks), values, rtol=0, atol=0)
            if slopes is not None:
                torch.testing.assert_close(again.gradient(masks), slopes, rtol=0, atol=0)


def test_a_network_in_double_precision_is_trained_in_it() -> None:
    masks = np.random.default_rng(1).random((5, 8)) > 0.3
    single, double = learner("network")(masks), learner("network", torch.float64)(masks)
    assert 0 < (single - double).abs().max() < 1e-4


@pytest.fixture(params=[torch.float64, torch.bfloat16, torch.float16])
def default_type(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    before = torch.get_default_dtype()
    yield request.param
    torch.set_default_dtype(before)


def test_a_default_type_leaves_values_passes_and_the_floor(default_type: torch.dtype) -> None:
    model, masks = build("llama"), some_masks(6, 8)
    usual = zero_game(model)
    want, floor = usual(masks), usual.noise_floor
    torch.set_default_dtype(default_type)
    game = zero_game(model)
    assert game.provenance()["passes"] == "replayed"
    torch.testing.assert_close(game(masks), want, rtol=0, atol=0)
    assert game.noise_floor == floor


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_activations_that_are_worked_out_again_have_no_slopes(reentrant: bool) -> None:
    """A block of which torch runs the forward a second time for a gradient, without our hooks."""
    model, prompts, masks = build("gpt2"), some_prompts(), some_masks(5, 8)
    want = heads_gone(build("gpt2"), prompts, masks)
    for block in model.transformer.h:
        block.forward = again_for_a_gradient(block.forward, reentrant)
    game = zero_game(model)
    torch.testing.assert_close(game(masks), want, **CLOSE)
    assert "torch.utils.checkpoint" in game.why_no_slopes
    with pytest.warns(UserWarning, match="without gradients: .*torch.utils.checkpoint"):
        found = sm.discover(game, budget=40, progress=False)
    assert found.cost["gradients"] == 0


def again_for_a_gradient(forward: Any, reentrant: bool) -> Any:
    def run(stream: Any, *args: Any, **kwargs: Any) -> Any:
        return checkpoint(lambda x: forward(x, *args, **kwargs), stream, use_reentrant=reentrant)

    return run


def test_an_exchanged_forward_of_the_unembedding_is_run() -> None:
    """Such as one that brings the stream to the type of its weight."""
    half, masks = build("llama").to(torch.bfloat16), some_masks(5, 8)
    by_module = copy.deepcopy(half)
    half.lm_head.float()
    forward = half.lm_head.forward
    half.lm_head.forward = lambda x: forward(x.float())
    by_module.lm_head = InFloat(by_module.lm_head)
    torch.testing.assert_close(zero_game(half)(masks), zero_game(by_module)(masks), **CLOSE)


class InFloat(nn.Module):
    """The same without an exchanged forward."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear.float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.float())


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_torchscript_program_is_refused_in_words() -> None:
    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.out = nn.Embedding(50, 4), nn.Linear(4, 50)

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.out(self.emb(tokens))

    traced = torch.jit.trace(Logits(), some_prompts().tokens % 50)
    with pytest.raises(ValueError, match=r"TorchScript program.*give the module"):
        zero_game(traced)


TF32 = """
import sys, torch
from spex_mech.engine.device import computing
matmul, device, name = torch.backends.cuda.matmul, torch.device("cuda"), sys.argv[1]
off, on = (False, True) if name == "allow_tf32" else ("ieee", "tf32")
setattr(matmul, name, on)
for precision, within in (("float32", off), ("tf32", on)):
    with computing(device, precision):
        assert getattr(matmul, name) == within
    assert getattr(matmul, name) == on
print("kept")
"""


@pytest.mark.parametrize("name", ["allow_tf32", "fp32_precision"])
def test_tf32_by_either_of_its_names_is_as_the_user_had_it(name: str) -> None:
    """In a process of its own: torch refuses the older name where the newer one was set."""
    if not hasattr(torch.backends.cuda.matmul, name):
        pytest.skip(f"this torch has no {name}")
    command = [sys.executable, "-c", TF32, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout == "kept\n", done.stderr
