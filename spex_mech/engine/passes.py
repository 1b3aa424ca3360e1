"""One forward pass: hooks that rewrite what passes a hook point, and what a model can read.

Two ways behind one function, chosen by what the model is: plain modules by forward pre-hooks,
TransformerLens by its own hook points.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spex_mech.engine.architectures import Architecture, is_hooked
from spex_mech.engine.prompts import Prompts

PRECISIONS = ("float32", "tf32", "bfloat16")
Hook = Callable[[Tensor], Tensor | None]  # [row pos width] -> the same rewritten, or None: as it is


def self_test(model: Any, architecture: Architecture, prompts: Prompts) -> None:
    """Replacing every head and neuron by noise must change the output: a hook that fires but is
    ignored would make every interaction zero, and no one would know.

    Raises:
        ValueError: nothing changed.
        RuntimeError: a hook did not fire.
    """
    everything = [
        architecture.name(kind, layer)
        for layer in range(architecture.n_layers)
        for kind in ("head", "neuron")
        if architecture.has(kind, layer)
    ]

    def scramble(act: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(act.shape, generator=generator).to(act) * (1 + act.abs().max())

    with torch.no_grad():
        intact = first_tensor(forward(model, prompts, {}))
        changed = first_tensor(forward(model, prompts, dict.fromkeys(everything, scramble)))
    if torch.equal(intact, changed):
        raise ValueError(
            f"replacing every head and neuron of this {type(model).__name__} changes nothing in "
            "its output: the named modules are not where it computes"
        )


def forward(
    model: Any, prompts: Prompts, hooks: Mapping[str, Hook], precision: str = "float32"
) -> Any:
    """One forward pass in evaluation mode, ``hooks[name]`` rewriting what passes that hook point.

    Raises:
        RuntimeError: a hook did not fire.
    """
    fired: set[str] = set()
    rows = lambda: len(prompts)  # noqa: E731
    with evaluating(model), computing(model, precision), hooked(model, hooks, rows, fired):
        output = call(model, prompts)
    for name in hooks:
        if name not in fired:
            raise RuntimeError(
                f"the hook at {name} did not fire: the model's forward pass goes around it, so "
                "ablating there would change nothing (a compiled or fused forward?)"
            )
    return output


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, then every module's own training flag again."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def computing(model: Any, precision: str) -> Iterator[None]:
    """In another precision than the model's own, where it is not "float32"."""
    if precision == "bfloat16":
        with torch.autocast(device_of(model).type, dtype=torch.bfloat16):
            yield
    elif precision == "tf32":
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
    else:
        yield


def check_precision(model: Any, precision: str) -> None:
    """Raises:
    ValueError: there is no such precision, or not on the model's device.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r}; choose one of {', '.join(PRECISIONS)}")
    if precision == "tf32" and device_of(model).type != "cuda":
        raise ValueError(
            f"precision='tf32' is of CUDA devices, and the model is on {device_of(model)}; use "
            "'float32' or 'bfloat16'"
        )


@contextmanager
def hooked(
    model: Any,
    replace: Mapping[str, Hook],
    n_rows: Callable[[], int],
    fired: set[str],
) -> Iterator[None]:
    """Let ``replace[hook point]`` rewrite ``[row pos width]`` there (None: leave it); the names of
    those that ran are put into ``fired``."""

    def rewrite(name: str, act: Tensor) -> Tensor | None:
        fired.add(name)
        # TransformerLens gives heads as [row pos head d_head]; OPT flattens rows and positions.
        flat = act.flatten(2) if act.ndim == 4 else act.reshape(n_rows(), -1, act.shape[-1])
        new = replace[name](flat)
        return None if new is None else new.reshape(act.shape)

    if is_hooked(model):
        hooks = [(name, lambda act, hook, name=name: rewrite(name, act)) for name in replace]
        with model.hooks(fwd_hooks=hooks):
            yield
        return

    def pre_hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], Any]:
        def run(module: nn.Module, args: tuple[Any, ...]) -> Any:
            new = rewrite(name, args[0])
            return None if new is None else (new, *args[1:])

        return run

    handles = []
    try:
        for name in replace:
            module = model.get_submodule(name)
            handles.append(module.register_forward_pre_hook(pre_hook(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def call(model: Any, prompts: Prompts) -> Any:
    """One pass as it is: no hooks, no change of mode."""
    if is_hooked(model):
        padded = (
            {} if prompts.attention_mask is None else {"attention_mask": prompts.attention_mask}
        )
        return model(prompts.tokens, return_type="logits", **padded)
    takes = inspect.signature(model.forward).parameters
    given = {}
    if prompts.attention_mask is not None:
        if "attention_mask" not in takes:
            raise ValueError(
                f"{type(model).__name__}.forward takes no attention_mask, so padding cannot be "
                "masked: give prompts of one length without attention_mask"
            )
        given["attention_mask"] = prompts.attention_mask.long()
    if prompts.token_types is not None:
        if "token_type_ids" not in takes:
            raise ValueError(
                f"{type(model).__name__}.forward takes no token_type_ids; leave token_types out"
            )
        given["token_type_ids"] = prompts.token_types
    if "use_cache" in takes:
        given["use_cache"] = False
    return output_of(model, model(prompts.tokens, **given))


def output_of(model: Any, output: Any) -> Any:
    """What a metric reads: a causal model's logits; of any other model all that it returns."""
    causal = any(word in type(model).__name__ for word in ("CausalLM", "LMHeadModel"))
    return output.logits if causal and hasattr(output, "logits") else output


def first_tensor(output: Any) -> Tensor:
    """Of an output, whatever holds it."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    return next(v for v in values if isinstance(v, Tensor))


def device_of(model: Any) -> torch.device:
    """Of the model's first weight."""
    return next((p.device for p in [*model.parameters(), *model.buffers()]), torch.device("cpu"))


def text_config(model: Any) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def vocabulary_of(model: Any) -> int | None:
    """The number of token ids that the model can read, where it can be known."""
    if is_hooked(model):
        return int(model.cfg.d_vocab)
    return getattr(text_config(model), "vocab_size", None)


def positions_of(model: Any) -> int | None:
    """The longest prompt that the model can read, where it is bounded by a table of positions."""
    if is_hooked(model):
        return getattr(model.cfg, "n_ctx", None)
    return getattr(text_config(model), "max_position_embeddings", None)


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
    if "Classification" in type(model).__name__:
        return model.config.num_labels
    return getattr(text_config(model), "vocab_size", None)


def check_tokens(model: Any, prompts: Prompts) -> None:
    """Raises:
    ValueError: the prompts are too long for the model, or a token is none of its own.
    """
    n_pos, most = prompts.tokens.shape[1], positions_of(model)
    if most and n_pos > most:
        raise ValueError(
            f"the prompts have {n_pos} tokens, and the model reads at most {most}; shorten them"
        )
    n_vocab = vocabulary_of(model)
    for name in ("tokens", "corrupted", "answers", "wrong_answers"):
        value = getattr(prompts, name)
        # Answers of a classifier are classes: its output, not its vocabulary, bounds them.
        bound = n_vocab if name in ("tokens", "corrupted") else answers_of(model)
        if value is not None and bound and int(value.max()) >= bound:
            raise ValueError(
                f"{name} holds the token {int(value.max())}, outside the vocabulary of {bound}"
            )
