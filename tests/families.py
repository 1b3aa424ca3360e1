"""Tiny random models of every family, built offline, and a plain engine to compare with."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

N_LAYERS, N_HEADS, D_MODEL, D_MLP, D_VOCAB = 2, 4, 32, 48, 61

_LLAMA_SIZES: dict[str, Any] = {
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "hidden_size": D_MODEL,
    "intermediate_size": D_MLP,
    "vocab_size": D_VOCAB,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GROUPED = {**_LLAMA_SIZES, "num_key_value_heads": 2}
_GPT2_SIZES = {
    "n_layer": N_LAYERS, "n_head": N_HEADS, "n_embd": D_MODEL, "n_inner": D_MLP,
    "vocab_size": D_VOCAB, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip

# name -> model, module name of the heads' and of the neurons' projection of layer L
_TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "gpt2": (
        lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**_GPT2_SIZES)),
        "transformer.h.{}.attn.c_proj",
        "transformer.h.{}.mlp.c_proj",
    ),
    "llama": (
        lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_GROUPED)),
        "model.layers.{}.self_attn.o_proj",
        "model.layers.{}.mlp.down_proj",
    ),
    "mistral": (
        lambda: tf.MistralForCausalLM(tf.MistralConfig(**_GROUPED)),
        "model.layers.{}.self_attn.o_proj",
        "model.layers.{}.mlp.down_proj",
    ),
    "qwen2": (
        lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**_GROUPED)),
        "model.layers.{}.self_attn.o_proj",
        "model.layers.{}.mlp.down_proj",
    ),
    "qwen3": (
        # Heads of 12 among a width of 32: sizes must come from the weights.
        lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**_GROUPED, head_dim=12)),
        "model.layers.{}.self_attn.o_proj",
        "model.layers.{}.mlp.down_proj",
    ),
    "gemma2": (
        lambda: tf.Gemma2ForCausalLM(tf.Gemma2Config(**_GROUPED, head_dim=8)),
        "model.layers.{}.self_attn.o_proj",
        "model.layers.{}.mlp.down_proj",
    ),
    "gpt_neox": (
        lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**_LLAMA_SIZES)),
        "gpt_neox.layers.{}.attention.dense",
        "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    ),
    "phi": (
        lambda: tf.PhiForCausalLM(tf.PhiConfig(**_LLAMA_SIZES)),
        "model.layers.{}.self_attn.dense",
        "model.layers.{}.mlp.fc2",
    ),
    "opt": (
        lambda: tf.OPTForCausalLM(
            tf.OPTConfig(**_LLAMA_SIZES, ffn_dim=D_MLP, word_embed_proj_dim=D_MODEL)
        ),
        "model.decoder.layers.{}.self_attn.out_proj",
        "model.decoder.layers.{}.fc2",
    ),
    "bert": (
        lambda: tf.BertForMaskedLM(tf.BertConfig(**_LLAMA_SIZES)),
        "bert.encoder.layer.{}.attention.output.dense",
        "bert.encoder.layer.{}.output.dense",
    ),
    "distilbert": (
        lambda: tf.DistilBertForMaskedLM(
            tf.DistilBertConfig(
                n_layers=N_LAYERS,
                n_heads=N_HEADS,
                dim=D_MODEL,
                hidden_dim=D_MLP,
                vocab_size=D_VOCAB,
                max_position_embeddings=64,
                pad_token_id=0,
            )
        ),
        "distilbert.transformer.layer.{}.attention.out_lin",
        "distilbert.transformer.layer.{}.ffn.lin2",
    ),
}
# Families that share another's layout, tested more briefly.
_MORE: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    name: (make, *names)
    for name, make, names in (
        (
            "gemma3_text",
            lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**_GROUPED, head_dim=8)),
            _TRANSFORMERS["llama"][1:],
        ),
        (
            "phi3",
            lambda: tf.Phi3ForCausalLM(tf.Phi3Config(**_GROUPED)),
            _TRANSFORMERS["llama"][1:],
        ),
        (
            "olmo2",
            lambda: tf.Olmo2ForCausalLM(tf.Olmo2Config(**_GROUPED)),
            _TRANSFORMERS["llama"][1:],
        ),
        (
            "gpt_neo",
            lambda: tf.GPTNeoForCausalLM(
                tf.GPTNeoConfig(
                    num_layers=N_LAYERS,
                    attention_types=[[["global"], N_LAYERS]],
                    num_heads=N_HEADS,
                    hidden_size=D_MODEL,
                    intermediate_size=D_MLP,
                    vocab_size=D_VOCAB,
                    max_position_embeddings=64,
                )
            ),
            ("transformer.h.{}.attn.attention.out_proj", "transformer.h.{}.mlp.c_proj"),
        ),
        (
            "gptj",
            lambda: tf.GPTJForCausalLM(tf.GPTJConfig(**_GPT2_SIZES, rotary_dim=4)),
            ("transformer.h.{}.attn.out_proj", "transformer.h.{}.mlp.fc_out"),
        ),
        (
            "roberta",
            lambda: tf.RobertaForMaskedLM(tf.RobertaConfig(**_LLAMA_SIZES)),
            (
                "roberta.encoder.layer.{}.attention.output.dense",
                "roberta.encoder.layer.{}.output.dense",
            ),
        ),
    )
}
MORE_FAMILIES = tuple(_MORE)
_TRANSFORMERS |= _MORE
BRIDGES = ("bridge_native", "bridge_gpt2", "bridge_llama")
FAMILIES = (*(f for f in _TRANSFORMERS if f not in _MORE), *BRIDGES)


def build(family: str) -> Any:
    """A tiny random model, its weights enlarged so that ablations matter."""
    torch.manual_seed(0)
    if family == "bridge_native":
        from transformer_lens.model_bridge import TransformerBridge

        return TransformerBridge.boot_native(
            {
                "d_model": D_MODEL,
                "d_head": D_MODEL // N_HEADS,
                "n_heads": N_HEADS,
                "n_layers": N_LAYERS,
                "n_ctx": 64,
                "d_vocab": D_VOCAB,
                "d_mlp": D_MLP,
                "act_fn": "gelu",
                "seed": 0,
            }
        )
    if family.startswith("bridge_"):
        from spex_mech.models import _as_bridge

        return _as_bridge(build(family.removeprefix("bridge_")))
    model = _TRANSFORMERS[family][0]().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name and "wte" not in name:
                parameter.mul_(4)
    return model


def modules_of(family: str, model: Any) -> dict[tuple[str, int], nn.Module]:
    """The projections by (kind, layer), named by hand: the registry is not asked."""
    found = {}
    for layer in range(N_LAYERS):
        if family in BRIDGES:
            block = model.blocks[layer]
            found["head", layer] = block.attn.o
            down = dict(block.mlp.named_modules())
            names = [n for n in down if n.split(".")[-1] in ("fc_out", "c_proj", "down_proj")]
            found["neuron", layer] = down[names[0]]
        else:
            _, heads, neurons = _TRANSFORMERS[family]
            found["head", layer] = model.get_submodule(heads.format(layer))
            found["neuron", layer] = model.get_submodule(neurons.format(layer))
    return found


def logits(family: str, model: Any, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        output = model(tokens)
    return output if isinstance(output, Tensor) else output.logits


class PlainEngine:
    """One prompt, one mask, one hook at a time: slow and obvious."""

    def __init__(self, family: str, model: Any, tokens: Tensor, corrupted: Tensor) -> None:
        self.family, self.model, self.tokens, self.corrupted = family, model, tokens, corrupted
        self.modules = modules_of(family, model)
        self.clean_acts = [self._record(row) for row in tokens]
        self.corrupted_acts = [self._record(row) for row in corrupted]

    def _record(self, row: Tensor) -> dict[tuple[str, int], Tensor]:
        seen: dict[tuple[str, int], Tensor] = {}
        handles = []
        for key, module in self.modules.items():

            def hook(module: nn.Module, args: Any, key: tuple[str, int] = key) -> None:
                seen[key] = args[0].reshape(len(row), -1).clone()

            handles.append(module.register_forward_pre_hook(hook))
        logits(self.family, self.model, row[None])
        for handle in handles:
            handle.remove()
        return seen

    def reference(self, ablation: str, key: tuple[str, int], prompt: int) -> Tensor:
        """What replaces the activations of one prompt: [pos width]."""
        acts = torch.stack([a[key] for a in self.clean_acts])
        if ablation == "zero":
            return torch.zeros_like(acts[0])
        if ablation == "mean":
            return acts.flatten(0, 1).mean(0).expand(acts[0].shape)
        if ablation == "mean_per_position":
            return acts.mean(0)
        return self.corrupted_acts[prompt][key]

    def logits(self, ablation: str, lost: list[tuple[str, int, int]], prompt: int) -> Tensor:
        """Logits [pos d_vocab] of a prompt with the components (kind, layer, index) ablated."""
        handles = []
        for kind, layer, index in lost:

            def hook(
                module: nn.Module,
                args: Any,
                kind: str = kind,
                layer: int = layer,
                index: int = index,
            ) -> Any:
                act = args[0].clone()
                flat = act.view(-1, act.shape[-1]) if act.ndim < 4 else act.flatten(0, 1).flatten(1)
                ref = self.reference(ablation, (kind, layer), prompt)
                width = flat.shape[1] // N_HEADS if kind == "head" else 1
                part = slice(index * width, (index + 1) * width)
                flat[:, part] = ref[:, part]
                return (flat.view(args[0].shape), *args[1:])

            handles.append(self.modules[kind, layer].register_forward_pre_hook(hook))
        try:
            return logits(self.family, self.model, self.tokens[prompt][None])[0]
        finally:
            for handle in handles:
                handle.remove()
