"""Where there is nothing to find, nothing is claimed: random models, random functions and shuffled
answers, of which no report, printout or caption may name a mechanism in more than a tenth."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import spex_mech as sm

MECHANISM = re.compile(
    r"in series|backs the other|either suffices|both are needed|(AND|OR)-like|together<br>|against"
)
MOST = 0.1


def texts(found: sm.Interactions, folder: Path) -> str:
    """All that is printed of a result, and its report."""
    report = sm.write_report(found, folder / "r.html").read_text(encoding="utf-8")
    return "\n".join([repr(found), found._repr_html_(), report])


def captions(found: sm.Interactions) -> str:
    """All that is written in its pictures."""
    written = [
        text.get_text()
        for figure in (sm.plot_map(found), sm.plot_network(found))
        for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text"))
    ]
    moving = [draw(found, backend="plotly").to_json() for draw in (sm.plot_map, sm.plot_network)]
    return "\n".join([*written, *moving])


def share(results: Callable[[int], sm.Interactions], n: int, folder: Path) -> float:
    """How often anything that is shown of a result names a mechanism."""
    shown = [(texts(found, folder), captions(found)) for found in map(results, range(n))]
    return float(np.mean([bool(MECHANISM.search("\n".join(both))) for both in shown]))


def random_function(n: int, n_prompts: int) -> Callable[[int], sm.Interactions]:
    """Every set of units has a value of its own, which has nothing to do with the others'."""

    def result(seed: int) -> sm.Interactions:
        table = np.random.default_rng(seed).standard_normal((2**n, n_prompts))
        method = ("spex", "exhaustive")[seed % 2]
        weights = 2 ** np.arange(n)
        return sm.discover(
            lambda masks: table[masks.numpy() @ weights], method, n=n, progress=False
        )

    return result


def random_model(seed: int) -> sm.Interactions:
    """A model that was never trained, on random prompts with random answers."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.GPT2Config(
        n_layer=2, n_head=3, n_embd=24, vocab_size=40, n_positions=16, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel(config).eval()
    # Not the end token, 0, with which a prompt would begin as if it were padded.
    tokens, answers = torch.randint(1, 40, (16, 8)), torch.randint(0, 40, (16,))
    wrong = (answers + torch.randint(1, 40, (16,))) % 40  # any other token
    prompts = sm.Prompts(tokens, answers=answers, wrong_answers=wrong)
    return sm.discover(sm.ModelGame(model, sm.Task(prompts, "logit_diff")), progress=False)


def shuffled_answers(seed: int) -> sm.Interactions:
    """The demo model, which copies, on prompts whose answers are those of other prompts."""
    model = sm.load_model("demo")
    tokens = sm.load_task("induction", model, n_prompts=16, seed=seed).prompts.tokens
    order = torch.randperm(16, generator=torch.Generator().manual_seed(seed))
    answers = tokens[order, -1]
    wrong = answers.roll(1)
    wrong = torch.where(wrong == answers, answers % 60 + 1, wrong)  # another token in any case
    prompts = sm.Prompts(tokens[:, :-1], answers=answers, wrong_answers=wrong)
    return sm.discover(sm.ModelGame(model, sm.Task(prompts, "logit_diff")), progress=False)


def test_what_is_there_is_claimed(tmp_path: Path) -> None:
    """Or the tests below could not fail."""
    model = sm.load_model("demo")
    game = sm.ModelGame(model, sm.load_task("induction", model, n_prompts=16))
    for found in (
        sm.discover(game, progress=False),
        sm.discover(lambda m: m[:, :2].all(dim=1).double(), n=4),
    ):
        assert MECHANISM.search(texts(found, tmp_path)) and MECHANISM.search(captions(found))


@pytest.mark.parametrize(("n", "n_prompts"), [(6, 1), (5, 12)])
def test_random_functions(n: int, n_prompts: int, tmp_path: Path) -> None:
    assert share(random_function(n, n_prompts), 3, tmp_path) <= MOST


@pytest.mark.parametrize("results", [random_model, shuffled_answers])
def test_random_models_and_shuffled_answers(
    results: Callable[[int], sm.Interactions], tmp_path: Path
) -> None:
    assert share(results, 2, tmp_path) <= MOST


@pytest.mark.slow
@pytest.mark.parametrize(
    "results",
    [random_function(6, 1), random_function(12, 1), random_function(6, 16), random_model,
     shuffled_answers],
    ids=["function", "larger-function", "function-of-prompts", "model", "shuffled"],
)  # fmt: skip
def test_fifty_of_each(results: Callable[[int], sm.Interactions], tmp_path: Path) -> None:
    assert share(results, 50, tmp_path) <= MOST
