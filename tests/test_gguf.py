"""GGUF files: that the model in the file is the one that is measured, and that faults are told."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spex_mech as sm

gguf = pytest.importorskip("gguf", reason="gguf reads GGUF files: pip install 'spex_mech[smollm2]'")
pytest.importorskip("accelerate", reason="accelerate is needed to read GGUF files")

_WIDTH, _VOCAB, _HIDDEN = 16, 300, 24


def tiny(
    path: Path,
    arch: str = "llama",
    drop: str = "",
    extra: dict[str, tuple[int, ...]] | None = None,
    scaled: bool = False,
) -> Path:
    """A Llama of two layers with random weights and a tokenizer of bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    rng = np.random.default_rng(0)
    file = gguf.GGUFWriter(str(path), arch)
    file.add_context_length(64)
    file.add_embedding_length(_WIDTH)
    file.add_block_count(2)
    file.add_feed_forward_length(_HIDDEN)
    file.add_head_count(4)
    file.add_head_count_kv(2)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_freq_base(10000.0)
    file.add_vocab_size(_VOCAB)
    if scaled:
        file.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        file.add_rope_scaling_factor(4.0)
    tokens = [*sorted(ByteLevel.alphabet()), "ab"]
    file.add_tokenizer_model("gpt2")
    file.add_token_list([*tokens, *[f"<{i}>" for i in range(_VOCAB - len(tokens))]])
    file.add_token_merges(["a b"])
    file.add_bos_token_id(260)
    file.add_eos_token_id(261)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (_VOCAB, _WIDTH),
        "output_norm.weight": (_WIDTH,),
        "output.weight": (_VOCAB, _WIDTH),
    }
    for layer in ("blk.0.", "blk.1."):
        shapes |= {f"{layer}{n}_norm.weight": (_WIDTH,) for n in ("attn", "ffn")}
        shapes |= {f"{layer}attn_{n}.weight": (_WIDTH, _WIDTH) for n in ("q", "output")}
        shapes |= {f"{layer}attn_{n}.weight": (_WIDTH // 2, _WIDTH) for n in "kv"}
        shapes |= {f"{layer}ffn_{n}.weight": (_HIDDEN, _WIDTH) for n in ("gate", "up")}
        shapes |= {f"{layer}ffn_down.weight": (_WIDTH, _HIDDEN)}
    for name, shape in {**shapes, **(extra or {})}.items():
        if name != drop:
            file.add_tensor(name, rng.standard_normal(shape).astype(np.float32))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def test_a_whole_file_is_loaded(tmp_path: Path) -> None:
    model = sm.load_model(tiny(tmp_path / "m.gguf"))
    assert sm.load_tokenizer(model)("ab")["input_ids"] == [256]
    game = sm.ModelGame(model, sm.load_task("induction", model, 2), sm.Components.heads(model))
    assert torch.isfinite(game(torch.ones(1, 8, dtype=torch.bool))).all()


def test_weights_that_the_file_lacks_are_never_random(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lacks 1 .*layers\.1\.self_attn\.q_proj\.weight"):
        sm.load_model(tiny(tmp_path / "part.gguf", drop="blk.1.attn_q.weight"))


def test_weights_that_would_be_left_out_are_told(tmp_path: Path) -> None:
    bias: dict[str, tuple[int, ...]] = {"blk.0.attn_q.bias": (_WIDTH,)}
    with pytest.raises(ValueError, match=r"biases \(blk\.0\.attn_q\.bias\), would be left out"):
        sm.load_model(tiny(tmp_path / "bias.gguf", extra=bias))


@pytest.mark.parametrize(
    "given", [{"extra": {"rope_freqs.weight": (2,)}}, {"scaled": True}], ids=["factors", "linear"]
)
def test_scaled_rotary_embeddings_are_warned_of(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match=r"scales its rotary embeddings \((rope_f|llama\.rope)"):
        sm.load_model(tiny(tmp_path / "m.gguf", **given))


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.99])
def test_a_file_that_is_cut_short_is_one_error(tmp_path: Path, share: float) -> None:
    whole = tiny(tmp_path / "m.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: int(len(whole) * share)])
    for load in (sm.load_model, sm.load_tokenizer):
        with pytest.raises(ValueError, match=r"cut\.gguf'.*cut short or damaged; get it again"):
            load(tmp_path / "cut.gguf")


def test_another_architecture_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"other\.gguf': GGUF model with architecture rwkv6"):
        sm.load_model(tiny(tmp_path / "other.gguf", arch="rwkv6"))


def test_a_file_is_found_however_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny(tmp_path / "m.gguf")
    (tmp_path / "folder").mkdir()
    shutil.copy(tmp_path / "m.gguf", tmp_path / "folder" / "M.GGUF")
    (tmp_path / "folder" / "M.GGUF").rename(tmp_path / "upper.GGUF")
    shutil.copy(tmp_path / "m.gguf", tmp_path / "folder" / "m.gguf")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("~/m.gguf", "upper.GGUF", "folder", "~/folder", "m.gguf"):
        assert sm.load_tokenizer(name) is not None, name
        model = sm.load_model(name)
    monkeypatch.chdir("/")
    assert sm.load_tokenizer(model)("ab")["input_ids"] == [256]


@pytest.mark.parametrize("name", ["SmolLM2", "Demo", "gone.gguf"])
def test_a_tokenizer_s_name_is_checked_before_the_hub_is_asked(name: str) -> None:
    with pytest.raises(ValueError, match=r"did you mean|no file gone"):
        sm.load_tokenizer(name)
