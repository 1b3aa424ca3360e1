"""A tiny random model of every type that the installed transformers has, built offline.

Sizes are set by the names that configurations use for them, in every part of a configuration;
where its default says of which kinds the layers are, there is one layer of each. Nothing here knows
a family but for the few settings without which one cannot be made small (``SPECIAL``).
"""

import importlib
import inspect
from typing import Any

import torch
from torch import nn

MOST_PARAMETERS = 8_000_000
N_LAYERS, N_HEADS, D_MODEL, D_MLP, D_VOCAB = 2, 4, 32, 48, 99

# What configurations call their sizes.
_SIZES: dict[str, int] = {
    **dict.fromkeys(
        "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
        "num_encoder_layers num_decoder_layers depth num_mem_blocks".split(),
        N_LAYERS,
    ),
    **dict.fromkeys(
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads "
        "decoder_attention_heads attention_heads num_decoder_attention_heads "
        "num_encoder_attention_heads linear_num_value_heads swa_num_attention_heads "
        "linear_attn_num_heads".split(),
        N_HEADS,
    ),
    **dict.fromkeys(
        "num_key_value_heads n_kv_heads num_kv_heads linear_num_key_heads "
        "swa_num_key_value_heads num_global_key_value_heads".split(),
        2,
    ),
    **dict.fromkeys(
        "hidden_size d_model n_embd dim embed_dim embedding_size word_embed_proj_dim "
        "lru_width attention_hidden_size cross_attention_hidden_size projection_dim "
        "hidden_size_per_layer_input_dim dim_model".split(),
        D_MODEL,
    ),
    **dict.fromkeys(
        "intermediate_size ffn_dim n_inner d_ff decoder_ffn_dim encoder_ffn_dim hidden_dim "
        "ffn_hidden_size d_inner feed_forward_size dim_ff dff mlp_dim dense_intermediate_size "
        "num_encoder_ffn_dim intermediate_size_mlp".split(),
        D_MLP,
    ),
    **dict.fromkeys(
        "moe_intermediate_size shared_expert_intermediate_size expert_ffn_hidden_size "
        "shared_experts_intermediate_size shared_intermediate_size expert_intermediate_size "
        "moe_shared_expert_intermediate_size "
        "moe_latent_size".split(),
        24,
    ),
    **dict.fromkeys(
        "num_experts num_local_experts n_routed_experts moe_num_experts n_experts".split(), 4
    ),
    **dict.fromkeys(
        "num_experts_per_tok num_experts_per_token moe_topk moe_k num_selected_experts "
        "moe_top_k".split(),
        2,
    ),
    "head_dim": 8, "d_kv": 8, "attention_head_dim": 8, "dim_head": 8, "attention_head_size": 8,
    "global_head_dim": 16, "swa_head_dim": 8, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "kda_head_dim": 8, "v_head_dim": 12, "swa_v_head_dim": 12,
    "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "kv_lora_rank": 16, "q_lora_rank": 16,
    "index_head_dim": 8, "index_n_heads": 4, "index_topk": 64,
    "vocab_size": D_VOCAB, "vocab_size_per_layer_input": D_VOCAB, "n_vocab": D_VOCAB,
    "hidden_size_per_layer_input": 8, "max_position_embeddings": 64, "n_positions": 64,
    "n_ctx": 64, "max_seq_len": 64, "max_sequence_length": 64, "rotary_dim": 4,
    "state_size": 8, "ssm_state_size": 8, "mamba_d_state": 8, "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_num_heads": 4, "mamba_head_dim": 16, "mamba_n_groups": 1, "n_groups": 1,
    "conv_kernel": 4, "mamba_d_conv": 4, "mamba_expand": 2, "time_step_rank": 4, "mamba_dt_rank": 4,
    "chunk_size": 8, "mamba_chunk_size": 8, "n_group": 1, "topk_group": 1,
    "n_shared_experts": 1, "first_k_dense_replace": 1, "num_labels": 3,
    "max_source_positions": 64, "max_target_positions": 64, "type_vocab_size": 2,
    "sliding_window": 16, "attention_window": 8, "local_attention": 16, "laurel_rank": 4,
    "altup_num_inputs": 2, "image_size": 16, "patch_size": 4, "num_mel_bins": 16,
    "num_kv_shared_layers": 0, "ngram": 2, "emb_dim": D_MODEL, "num_blocks": N_LAYERS,
}  # fmt: skip
_TOKENS = {
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "sep_token_id": 2, "cls_token_id": 1,
}  # fmt: skip

_QWEN4 = {
    "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 64,
    "indexer_compress_ratio": 2, "hc_lowrank": 8, "ple_embed_dim": 8, "hc_count": 2,
}  # fmt: skip
_HYBRID = ["linear_attention", "hybrid", "linear_attention", "hybrid"]
_SWIN = {
    "depths": [1, 1], "num_heads": [2, 4], "embed_dim": 16, "image_size": 32, "window_size": 4,
}  # fmt: skip
_FOUR = {"hidden_sizes": [16, 32, 64, 64], "depths": [1] * 4, "image_size": 64}
# Layers of a scale of 1e-6, as they begin, do nothing that shows.
_CONVNEXT = {**_FOUR, "num_hidden_layers": 4, "layer_scale_init_value": 1.0}
_PYRAMID = {**_FOUR, "num_attention_heads": [1, 2, 4, 4]}
# Settings that are no size, or that must fit each other.
SPECIAL: dict[str, dict[str, Any]] = {
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "bamba": {"attn_layer_indices": [1], "mamba_expand": 2},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "zamba": {"layer_types": _HYBRID, "layers_block_type": _HYBRID,
              "num_hidden_layers": 4,
              "attention_hidden_size": 64, "attention_head_dim": 16, "n_mamba_heads": 2},
    "zamba2": {"layer_types": _HYBRID, "layers_block_type": _HYBRID,
              "num_hidden_layers": 4,
               "num_mem_blocks": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "qwen4_exp": {"text_config": _QWEN4}, "qwen4_exp_text": _QWEN4,
    "mamba2": {"num_heads": 4, "head_dim": 16, "expand": 2},
    "roc_bert": {"pronunciation_vocab_size": 99, "shape_vocab_size": 99,
                 "pronunciation_embed_dim": 16, "shape_embed_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "t5": {"decoder_start_token_id": 0},
    "swin": _SWIN, "swinv2": _SWIN, "donut-swin": _SWIN,
    "swin2sr": {**_SWIN, "num_heads": [2, 2], "image_size": 16, "patch_size": 1},
    "pvt": _PYRAMID, "pvt_v2": {**_PYRAMID, "image_size": 96, "sr_ratios": [4, 2, 1, 1]},
    "poolformer": _FOUR, "resnet": _FOUR,
    "convnext": _CONVNEXT, "convnextv2": _CONVNEXT, "dinov3_convnext": _CONVNEXT,
    "regnet": {**_FOUR, "groups_width": 16}, "bit": {**_FOUR, "num_groups": 8},
    "cvt": {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3],
            "image_size": 64},
    "levit": {"hidden_sizes": [32, 64, 96], "num_attention_heads": [2, 4, 6], "depths": [1] * 3,
              "key_dim": [8] * 3, "image_size": 64, "patch_size": 16},
    "hgnet_v2": {**_FOUR, "stem_channels": [3, 8, 8], "stage_in_channels": [8, 16, 16, 32],
                 "stage_mid_channels": [8] * 4, "stage_out_channels": [16, 16, 32, 64],
                 "stage_num_blocks": [1] * 4, "stage_numb_of_layers": [2] * 4},
    "textnet": {"stem_out_channels": 8, "hidden_sizes": [8, 8, 16, 16, 32], "image_size": 64},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320,
                     "image_size": 64},
    "llama4": {"intermediate_size": 128, "vision_output_dim": 32,
               "projector_input_dim": 32, "projector_output_dim": 32},
    "mobilevitv2": {"base_attn_unit_dims": [16, 32, 32], "image_size": 64, "patch_size": 2},
    "yolos": {"image_size": [32, 32], "num_detection_tokens": 4},
    "zaya": {"num_experts_per_tok": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {
        "rope_type": "default", "rope_theta": 1e4}}},
}  # fmt: skip


class CannotBuild(Exception):
    """No tiny model of this type can be made; the text says why."""


def types_of(task: str) -> dict[str, str]:
    """Type of model -> the class for a task: "CAUSAL_LM", "MASKED_LM", ..."""
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    named = getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES")
    return {kind: name if isinstance(name, str) else name[0] for kind, name in named.items()}


def build(
    kind: str,
    class_name: str,
    seed: int = 0,
    layers: int = N_LAYERS,
    reads_tokens: bool = True,
) -> Any:
    """A tiny random model, whose weights are of the size that keeps
    activations as they are, so that each part matters.

    Args:
        reads_tokens: else it is left to the caller to run it.

    Raises:
        CannotBuild: it cannot be made small, or not at all.
    """
    import transformers

    made = getattr(transformers, class_name, None)
    if made is None:
        raise CannotBuild(f"transformers has no class {class_name}")
    torch.manual_seed(seed)
    try:
        config = tiny_config(made.config_class, SPECIAL.get(kind, {}), layers)
        if "CausalLM" in class_name or "LMHead" in class_name:
            config.is_decoder = True
        with torch.device("meta"):
            size = sum(p.numel() for p in made(config).parameters())
    except Exception as error:
        raise CannotBuild(_one_line(error)) from error
    if size > MOST_PARAMETERS:
        raise CannotBuild(f"has {size:,} weights, as its configuration names sizes by other words")
    try:
        model = made(config).eval()
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # which computes in float64 too
    except Exception as error:
        raise CannotBuild(_one_line(error)) from error
    _draw(model)
    return in_double(model) if reads_tokens else model.float()


def in_double(model: Any) -> Any:
    """The model in float64, where it computes in that; as it is, where a part of it does not."""
    tokens = torch.arange(8, 1, -1)[None]
    for double in (True, False):
        model = model.double() if double else model.float()
        try:
            with torch.no_grad():
                model(tokens)
            return model
        except Exception as error:
            why = _one_line(error)
    raise CannotBuild(f"does not run on tokens: {why}")


def tiny_config(config_class: Any, special: dict[str, Any], layers: int = N_LAYERS) -> Any:
    """A configuration with small sizes."""
    return config_class(**_given(config_class, special, layers))


def _given(config_class: Any, special: dict[str, Any], layers: int) -> dict[str, Any]:
    default = config_class()
    known = {*vars(default), *inspect.signature(config_class.__init__).parameters}
    words = getattr(config_class, "attribute_map", {})
    known = {
        name
        for name in known | {*words}
        if not isinstance(_of(config_class, words.get(name, name)), property)
    }
    parts = getattr(config_class, "sub_configs", {}) or {}
    given: dict[str, Any] = {}
    for name, size in {**_SIZES, **_TOKENS}.items():
        if name in known and name not in parts:
            if not isinstance(_of(default, name), list | tuple | dict):
                given[name] = layers if name in _LAYER_WORDS else size
    if "qk_rope_head_dim" in known:  # latent attention shares no keys; its head_dim is the rope's
        given |= {name: N_HEADS for name in ("num_key_value_heads",) if name in given}
        given |= {name: _SIZES["qk_rope_head_dim"] for name in ("head_dim",) if name in given}
    for name in parts:
        inner = _of(default, name)
        if hasattr(inner, "to_dict"):
            own = special.get(name, {})
            given[name] = {
                **_given(type(inner), own, layers), "model_type": inner.model_type,
            }  # fmt: skip
    kinds = {name: _of(default, name) for name in _KINDS_OF_LAYERS & known}
    kinds = {k: list(dict.fromkeys(v)) for k, v in kinds.items() if isinstance(v, list) and v}
    if kinds:
        n_layers = max(layers, *map(len, kinds.values()))
        given |= {name: (unique * n_layers)[:n_layers] for name, unique in kinds.items()}
        given |= dict.fromkeys(_LAYER_WORDS & given.keys(), n_layers)
    if "conv_dim" in known and "num_feat_extract_layers" in known:  # of sounds
        given |= _CONVOLUTIONS
    return {**given, **{k: v for k, v in special.items() if k not in parts}}


def _of(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # some configurations refuse what differs between their layers
        return None


_CONVOLUTIONS = {
    "conv_dim": [16, 16], "conv_kernel": [20, 10], "conv_stride": [20, 8],
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
_KINDS_OF_LAYERS = {"layer_types", "mlp_layer_types", "layers_block_type"}
_LAYER_WORDS = {name for name, size in list(_SIZES.items())[:8]}


def _draw(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            for weight in module.parameters(recurse=False):
                if not weight.is_floating_point() or weight.ndim < 2:
                    continue
                width = weight.shape[-1] if weight.ndim == 2 else max(weight.shape[-2:])
                noise = torch.randn(weight.shape, generator=generator).to(weight)
                scale = 1.0 if isinstance(module, nn.Embedding) else 1.5 / width**0.5
                weight.copy_(noise * scale)
            if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
    if hasattr(model, "tie_weights"):
        model.tie_weights()


def _one_line(error: BaseException) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}"[:200]
