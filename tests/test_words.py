"""What is said where something is not there, and what a circuit cost."""

import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

import spex_mech as sm
from spex_mech import models
from spex_mech.cli import main
from spex_mech.game import as_game

NAMES = ["nope", "someone/nope", "my-model", "gpt2"]


class _Refused(ConnectionError):
    """As a library of the network raises it."""


def asked(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[str]:
    """The names that the hub was asked for, which answers with this error."""
    names: list[str] = []

    def model_info(self: Any, name: str, timeout: float) -> Any:
        assert 0 < timeout <= 10
        names.append(name)
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *given: None)
    return names


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", [_Refused("no route"), OfflineModeIsEnabled("offline")])
def test_a_name_without_a_network_is_refused_after_one_question(
    name: str, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    names = asked(monkeypatch, error)
    start = time.monotonic()
    assert main(["discover", "--model", name, "--task", "induction"]) == 2
    said = capsys.readouterr().err
    assert time.monotonic() - start < 10 and names == [name]
    assert f"could not load '{name}'" in said and "cannot be reached" in said
    assert "demo, sentiment, smollm2" in said and said.count("\n") == 1
    with pytest.raises(ValueError, match="cannot be reached"):
        sm.load_tokenizer(name)


def test_what_the_cache_holds_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    names = asked(monkeypatch, _Refused("no route"))
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *given: "/a/config.json")
    assert models._or_explain("someone/held", lambda name: f"{name} is loaded") == (
        "someone/held is loaded"
    )
    assert models._or_explain(str(Path.cwd()), lambda name: 3) == 3
    assert not names


def test_an_error_that_is_not_of_the_network_is_left_to_the_loader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked(monkeypatch, KeyError("something"))
    assert models._or_explain("someone/odd", lambda name: 3) == 3


@pytest.mark.parametrize("place", ["run.sqlite", "no/such/folder.sqlite", "a b.sqlite"])
def test_a_store_that_is_not_there_is_said_in_words(
    place: str, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / place
    for more in ([], ["--export", str(tmp_path / "out.npz")]):
        assert main(["store", str(path), *more]) == 2
        said = capsys.readouterr().err
        assert f"no such store: there is no file {path};" in said and "Errno" not in said
    assert not path.exists()


@pytest.mark.parametrize("budget", [60, 120, 200])
def test_what_a_circuit_cost_beside_its_budget_is_said(budget: int) -> None:
    def game(masks: Any) -> Any:
        kept = masks.double()
        return kept[:, 0] * kept[:, 1] + 0.5 * kept[:, 2] + 0.1 * kept.sum(1)

    found = sm.discover(game, n=10, progress=False)
    circuit = sm.find_circuit(as_game(game, 10), found, budget=budget, progress=False)
    beside = circuit.about["beside_budget"]
    assert circuit.cost["evaluations"] - beside <= budget
    said = f" ({beside} beside the budget, for the scores)" if beside else ""
    assert f"{circuit.cost['evaluations']} evaluations{said}" in str(circuit)
    assert (circuit.cost["evaluations"] > budget) <= (beside > 0)
