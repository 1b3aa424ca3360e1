"""Models by name: the bundled ones, local folders, the hub. The only file that imports transformers
or transformer_lens, and only when a model is asked for."""

import json
from pathlib import Path
from typing import Any

_DATA = Path(__file__).parent / "data"
BUNDLED = {
    "demo": "a GPT-2 type transformer that does induction and counts; in the package, no network",
    "sentiment": "a BERT type classifier of short sentences, for --lens tokens; in the package",
}
_CURE = (
    f"bundled: {', '.join(BUNDLED)}; otherwise give a folder that save_pretrained wrote, or a hub "
    "name where there is a network"
)


def load_model(model: Any, *, device: str | None = None, bridge: bool = False) -> Any:
    """A model, ready to be ablated.

    Args:
        model: a bundled one ("demo", "sentiment"), a local folder of a transformers model, a hub
            name, or an already loaded model, which is returned as it is.
        device: where to put it; default: the GPU if there is one, else the CPU.
        bridge: load it as a TransformerLens ``TransformerBridge`` instead of a plain transformers
            model (which is the faster of the two).

    Raises:
        ValueError: a folder without a model, or a name that is neither bundled nor to be had.
    """
    if not isinstance(model, str | Path):
        return model
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if str(model) in BUNDLED:
        loaded = _bundled(str(model))
        return (_as_bridge(loaded) if bridge else loaded).to(device).eval()
    folder = Path(model)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no model: it has no config.json; give a folder that "
            "save_pretrained wrote"
        )
    # A relative path such as "out/model" looks like a hub name, "owner/model": the folder wins.
    if not folder.is_dir() and (folder.is_absolute() or str(model).count("/") > 1):
        raise ValueError(f"no folder {folder} ({_CURE})")
    if bridge and not folder.is_dir():
        from transformer_lens.model_bridge import TransformerBridge

        return _or_explain(str(model), TransformerBridge.boot_transformers, device=device).eval()
    loaded = _or_explain(str(model), lambda name: _class_of(folder).from_pretrained(name))
    return (_as_bridge(loaded) if bridge else loaded).to(device).eval()


def load_tokenizer(model: Any) -> Any:
    """The tokenizer that belongs to a loaded model, padding on the right; None if it has none."""
    if (own := getattr(model, "tokenizer", None)) is not None:
        return own
    source = getattr(getattr(model, "config", None), "_name_or_path", "") or ""
    if not source:
        return None
    if source in BUNDLED:
        return _bundled_tokenizer(_DATA / source)
    if (
        Path(source).is_dir()
        and not any(Path(source).glob("*token*"))
        and not (Path(source) / "vocab.json").is_file()
    ):
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, padding_side="right")


def _bundled(name: str) -> Any:
    import transformers
    from safetensors.torch import load_file

    folder = _DATA / name
    settings = json.loads((folder / "config.json").read_text())
    make = getattr(transformers, settings["architectures"][0])
    loaded = make(make.config_class.from_dict(settings))
    # strict=False for the unembedding, which is the embedding and is stored once.
    missing, unexpected = loaded.load_state_dict(
        load_file(folder / "model.safetensors"), strict=False
    )
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"the bundled model {name!r} is damaged; install spex_mech again")
    loaded.tie_weights()
    loaded.config._name_or_path = name
    return loaded


def _bundled_tokenizer(folder: Path) -> Any:
    if not (folder / "tokenizer.json").is_file():
        return None
    from transformers import PreTrainedTokenizerFast

    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "mask", "unk")}
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), **names)


def _class_of(folder: Path) -> Any:
    """The class that the config names (an encoder stays an encoder), else a causal model."""
    import transformers

    config = json.loads((folder / "config.json").read_text()) if folder.is_dir() else {}
    named = (config.get("architectures") or [""])[0]
    return getattr(transformers, named, transformers.AutoModelForCausalLM)


def _as_bridge(model: Any) -> Any:
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    return build_bridge_from_module(
        model.eval(), type(model).__name__, hf_config=model.config, tokenizer=load_tokenizer(model)
    )


def _or_explain(name: str, load: Any, **options: Any) -> Any:
    """Load a model, without a progress bar where it is a folder, with one where it is fetched."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled() and Path(name).is_dir()
    if shown:
        logging.disable_progress_bar()
    try:
        return load(name, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"could not load {name!r}: {reason} ({_CURE})") from error
    finally:
        if shown:
            logging.enable_progress_bar()
