"""What a model is: its name, vocabulary, positions and outputs, and what is wrapped around it."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from spex_mech.engine.architectures import is_hooked, text_config
from spex_mech.engine.examples import core_of
from spex_mech.engine.prompts import Prompts
from spex_mech.notices import warn

# Where libraries that wrap a model keep it: torch.compile, nnsight, pyvene, data parallel training.
_WRAPPERS = (
    ("OptimizedModule", "_orig_mod"),
    ("NNsight", "_module"),
    ("LanguageModel", "_module"),
    ("IntervenableModel", "model"),
    ("DataParallel", "module"),
    ("DistributedDataParallel", "module"),
)


def unwrapped(model: Any, tell: bool = False) -> Any:
    """The module inside what a library wraps around one; any other model as it is.

    Args:
        tell: warn of what a wrapper does, which is left out.

    Raises:
        ValueError: it is no module, and none is found in it; or it has no numbers in its weights.
    """
    while (inside := _inside(model)) is not None:
        if tell:
            _warn_of_wrapper(model, inside)
        model = inside
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"the model is a {type(model).__name__}, which is no torch.nn.Module; give the module "
            "itself"
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"the {type(model).__name__} is a TorchScript program, within which nothing can be "
            "ablated; give the module that it was made of"
        )
    weights = list(model.parameters())
    if weights and all(weight.is_meta for weight in weights) and not _is_offloaded(model):
        raise ValueError(
            f"the {type(model).__name__} is on the device meta: it has shapes and no numbers; load "
            "its weights, or make it outside of torch.device('meta')"
        )
    return model


def _inside(model: Any) -> nn.Module | None:
    """What a library wraps this around; None: nothing that is known."""
    inside = next(
        (
            vars(model).get(name) or getattr(model, name, None)
            for kind, name in _WRAPPERS
            if any(kind in base.__name__ for base in type(model).__mro__)
        ),
        None,
    )
    return inside if isinstance(inside, nn.Module) and inside is not model else None


def _warn_of_wrapper(wrapper: Any, inside: nn.Module) -> None:
    """Whether what is wrapped around a model changes what it gives."""
    if what := _done_around(wrapper):
        warn(
            f"{what} of the {type(wrapper).__name__} act where it is called itself, and are left "
            f"out here: games run the {type(inside).__name__} inside it. Put them on modules of "
            "that one (register_forward_hook), or give it alone"
        )


def _done_around(wrapper: Any) -> str:
    """What a wrapper does to what is inside it, in words; empty: nothing that is known."""
    own = vars(wrapper)
    if own.get("_forward_hooks") or own.get("_forward_pre_hooks"):
        return "the hooks"
    if own.get("_default_mediators"):  # of nnsight
        return "the edits"
    interventions = getattr(wrapper, "interventions", None)  # of pyvene: each, or with its hook
    is_named = isinstance(interventions, Mapping | nn.ModuleDict)
    held = list(interventions.values()) if is_named else []
    each = (x[0] if isinstance(x, list | tuple) and x else x for x in held)
    if any(getattr(x, "is_source_constant", False) for x in each):
        return "the interventions"
    return ""


def _is_offloaded(model: nn.Module) -> bool:
    """Whether accelerate keeps weights elsewhere and brings them for each pass."""
    return any("_hf_hook" in vars(module) for module in model.modules())


def is_causal(model: Any) -> bool:
    """Whether its output is the logits of the next token."""
    return any(word in type(core_of(model)).__name__ for word in ("CausalLM", "LMHeadModel"))


def fills_masks(model: Any) -> bool:
    """Whether it says which words stand at mask tokens, and nothing of what follows a text."""
    return "MaskedLM" in type(core_of(model)).__name__


def takes(model: Any, name: str) -> bool:
    """Whether a model's forward takes an argument, also through a wrapper that hands it on."""
    parameters = inspect.signature(model.forward).parameters
    if name in parameters:
        return True
    inner = core_of(model)
    return inner is not model and name in inspect.signature(inner.forward).parameters


def vocabulary_of(model: Any) -> int | None:
    """The number of token ids that the model can read, where it can be known."""
    if is_hooked(model):
        return int(model.cfg.d_vocab)
    return getattr(text_config(model), "vocab_size", None)


def positions_of(model: Any) -> int | None:
    """The longest prompt that the model can read, where it is bounded by a table of positions."""
    if is_hooked(model):
        return getattr(model.cfg, "n_ctx", None)
    config = text_config(model)
    most = getattr(config, "max_position_embeddings", None)
    for module in model.modules():
        # RoBERTa and those like it count positions from behind the padding token's number.
        padding = getattr(module, "padding_idx", None)
        table = getattr(module, "position_embeddings", None)
        if most and isinstance(padding, int) and isinstance(table, nn.Embedding):
            if table.padding_idx is not None:
                return most - table.padding_idx - 1
    return most if most and most > 0 else None  # XLNet, which has no table, says -1


def name_of(model: Any) -> str:
    """What the model is called: the last part of the path or hub name it was loaded from."""
    config = getattr(model, "config", None)
    path = getattr(config, "_name_or_path", "") or getattr(
        getattr(model, "cfg", None), "model_name", ""
    )
    return str(path).rstrip("/").split("/")[-1] or type(model).__name__


def answers_of(model: Any) -> int | None:
    """The number of things that the model can answer, where it can be known."""
    if is_hooked(model):
        out = getattr(model.cfg, "d_vocab_out", None)
        return int(out if out and out > 0 else model.cfg.d_vocab)
    inner = core_of(model)
    if "NextSentence" in type(inner).__name__:
        return 2
    if "Classification" in type(inner).__name__:
        return inner.config.num_labels
    return getattr(text_config(model), "vocab_size", None)


def weight_processing(model: Any) -> str:
    """How the weights were processed: zero ablation depends on it, mean and resample do not."""
    if not is_hooked(model):
        return "none"
    return "compatibility mode" if getattr(model, "compatibility_mode", False) else "none"


def check_tokens(model: Any, prompts: Prompts, what: str = "prompts") -> None:
    """Raises:
    ValueError: the prompts are too long for the model, or a token is none of its own.
    """
    n_pos, most = prompts.tokens.shape[1], positions_of(model)
    if most and n_pos > most and prompts.has_tokens:
        raise ValueError(
            f"the {what} have {n_pos} tokens, and the model reads at most {most}; shorten them"
        )
    _check_decoder(model, prompts)
    n_vocab = vocabulary_of(model)
    for name in ("tokens", "corrupted", "answers", "wrong_answers"):
        value = getattr(prompts, name)
        if value is None or (name in ("tokens", "corrupted") and not prompts.has_tokens):
            continue
        # Answers of a classifier are classes: its output, not its vocabulary, bounds them.
        bound = n_vocab if name in ("tokens", "corrupted") else answers_of(model)
        where = name if what == "prompts" else f"the {what}' {name}"
        if bound and int(value.max()) >= bound:
            raise ValueError(
                f"{where} holds the token {int(value.max())}, outside the vocabulary of {bound}"
            )


def _check_decoder(model: Any, prompts: Prompts) -> None:
    """Raises:
    ValueError: a token that a decoder is given is none of its own.
    """
    own = getattr(getattr(model, "config", None), "decoder", None)
    bound = getattr(own, "vocab_size", None) or vocabulary_of(model)
    for where in ("inputs", "corrupted_inputs"):
        value = getattr(prompts, where).get("decoder_input_ids")
        if value is not None and bound and int(value.max()) >= bound:
            raise ValueError(
                f"decoder_input_ids in {where} hold the token {int(value.max())}, outside the "
                f"vocabulary of {bound}"
            )


def check_decoded(model: Any, prompts: Prompts) -> None:
    """Raises:
    ValueError: a decoder makes its tokens of the encoder's, moved by one, so that it is not known
        where the answer is.
    """
    known = prompts.answers is not None and prompts.answer_pos is not None
    encodes = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    if encodes and not known and takes(model, "decoder_input_ids"):
        if "decoder_input_ids" not in prompts.inputs:
            raise ValueError(
                f"the {type(model).__name__} makes the decoder's tokens of the prompts' own, moved "
                "by one position; say what the decoder reads, "
                "Prompts(inputs={'decoder_input_ids': ...}), or where it answers, answer_pos"
            )
