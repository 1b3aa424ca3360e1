"""A tiny random model of every type that the installed transformers has, built offline.

Sizes are set by the names that configurations use for them, in every part of a configuration;
where its default says of which kinds the layers are, there is one layer of each. Nothing here knows
a family but for the few settings without which one cannot be made small (``SPECIAL``).
"""

import importlib
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from spex_mech.engine.running import first_tensor

MOST_PARAMETERS = 8_000_000
N_LAYERS, N_HEADS, D_MODEL, D_MLP, D_VOCAB = 2, 4, 32, 48, 99

# What configurations call their sizes.
_SIZES: dict[str, int] = {
    **dict.fromkeys(
        "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
        "num_encoder_layers num_decoder_layers depth num_mem_blocks num_spatial_layers "
        "num_temporal_layers num_auxiliary_layers num_self_attends_per_block".split(),
        N_LAYERS,
    ),
    **dict.fromkeys(
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads "
        "decoder_attention_heads attention_heads num_decoder_attention_heads "
        "num_encoder_attention_heads linear_num_value_heads swa_num_attention_heads "
        "linear_attn_num_heads cross_num_attention_heads num_self_attention_heads "
        "num_cross_attention_heads n_mamba_heads".split(),
        N_HEADS,
    ),
    **dict.fromkeys(
        "num_key_value_heads n_kv_heads num_kv_heads linear_num_key_heads "
        "swa_num_key_value_heads num_global_key_value_heads cross_num_key_value_heads "
        "kv_n_heads".split(),
        2,
    ),
    **dict.fromkeys(
        "hidden_size d_model n_embd dim embed_dim embedding_size word_embed_proj_dim "
        "lru_width attention_hidden_size cross_attention_hidden_size projection_dim "
        "hidden_size_per_layer_input_dim dim_model d_latents entity_emb_size "
        "cross_hidden_size audio_hidden_size hidden_size_global".split(),
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
    "cross_head_dim": 8, "global_head_dim": 16, "swa_head_dim": 8, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "linear_head_dim": 8, "linear_num_heads": 4,
    "kda_head_dim": 8, "v_head_dim": 12, "swa_v_head_dim": 12,
    "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "kv_lora_rank": 16, "q_lora_rank": 16,
    "index_head_dim": 8, "index_n_heads": 4, "index_topk": 64,
    "vocab_size": D_VOCAB, "vocab_size_per_layer_input": D_VOCAB, "n_vocab": D_VOCAB,
    "entity_vocab_size": D_VOCAB, "encoder_hash_byte_group_vocab": D_VOCAB,
    "codebook_vocab_size": D_VOCAB, "num_codebooks": 1,
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
    "num_latents": 8, "context_size": 16, "coordinate_size": 6, "shape_size": 4,
    "num_global_layers": 1, "num_filters": 8, "upsample_groups": D_MODEL,
    "num_kv_shared_layers": 0, "ngram": 2, "emb_dim": D_MODEL, "num_blocks": N_LAYERS,
}  # fmt: skip
_TOKENS = {
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "sep_token_id": 2, "cls_token_id": 1, "blank_token_id": 0,
}  # fmt: skip

_QWEN4 = {
    "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 64,
    "indexer_compress_ratio": 2, "hc_lowrank": 8, "ple_embed_dim": 8, "hc_count": 2,
}  # fmt: skip
_EFFICIENT = {"width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320,
              "image_size": 64}  # fmt: skip
_TUBELETS = {"image_size": 32, "tubelet_size": [1, 8, 8], "num_frames": 2}
_TOKENIZER = {"depths": [1, 1], "downsampling_ratios": [4]}  # of sounds
_DOTS = {"per_layer_config": None, "head_dim": 12}
_GRANITE = ["linear_attention", "full_attention"]
_HYBRID = ["linear_attention", "hybrid", "linear_attention", "hybrid"]
_SWIN = {
    "depths": [2, 2], "num_heads": [2, 4], "embed_dim": 16, "image_size": 32, "window_size": 4,
}  # fmt: skip
_FOUR = {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 2, 1, 1], "image_size": 64}
# Layers of a scale of 1e-6, as they begin, do nothing that shows.
_CONVNEXT = {**_FOUR, "num_hidden_layers": 4, "layer_scale_init_value": 1.0}
_PYRAMID = {**_FOUR, "image_size": 96, "num_attention_heads": [1, 2, 4, 4]}
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
               "num_mem_blocks": 1, "attention_hidden_size": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "reformer": {"axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "qwen4_exp": _QWEN4, "qwen4_exp_text": _QWEN4,
    "mamba2": {"num_heads": 4, "head_dim": 16, "expand": 2},
    "roc_bert": {"pronunciation_vocab_size": 99, "shape_vocab_size": 99,
                 "pronunciation_embed_dim": 16, "shape_embed_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "granitemoehybrid": {"layer_types": _GRANITE, "layers_block_type": _GRANITE},
    "t5": {"decoder_start_token_id": 0},
    "swin": _SWIN, "swinv2": _SWIN, "donut-swin": _SWIN,
    "swin2sr": {**_SWIN, "num_heads": [2, 2], "image_size": 16, "patch_size": 1},
    "pvt": _PYRAMID, "pvt_v2": {**_PYRAMID, "sr_ratios": [4, 2, 1, 1]},
    "poolformer": _FOUR, "resnet": _FOUR,
    "convnext": _CONVNEXT, "convnextv2": _CONVNEXT, "dinov3_convnext": _CONVNEXT,
    "regnet": {**_FOUR, "groups_width": 16}, "bit": {**_FOUR, "num_groups": 8},
    "cvt": {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3],
            "image_size": 64},
    "levit": {"hidden_sizes": [32, 64, 96], "num_attention_heads": [2, 4, 6], "depths": [2] * 3,
              "key_dim": [8] * 3, "image_size": 64, "patch_size": 16},
    "hgnet_v2": {**_FOUR, "stem_channels": [3, 8, 8], "stage_in_channels": [8, 16, 16, 32],
                 "stage_mid_channels": [8] * 4, "stage_out_channels": [16, 16, 32, 64],
                 "stage_num_blocks": [1] * 4, "stage_numb_of_layers": [2] * 4},
    "textnet": {"stem_out_channels": 8, "hidden_sizes": [8, 8, 16, 16, 32], "image_size": 64},
    "efficientnet": _EFFICIENT,
    "align_vision_model": _EFFICIENT, "align": {"projection_dim": 80},
    "videoprism_vision_model": _TUBELETS,
    "granite_speech5_encoder": {"num_key_value_heads": N_HEADS},
    "vibevoice_acoustic_tokenizer_encoder": _TOKENIZER,
    "vibevoice_acoustic_tokenizer": _TOKENIZER, "vibevoice_semantic_tokenizer": _TOKENIZER,
    "vibevoice_acoustic_tokenizer_decoder": _TOKENIZER,
    "depth_pro": {"scaled_images_feature_dims": [32, 32, 16], "fusion_hidden_size": 16,
                  "intermediate_feature_dims": [16, 16], "intermediate_hook_ids": [1, 0],
                  "patch_size": 16},
    "mllama": {"intermediate_layers_indices": [0], "vision_output_dim": 64},
    "blip_2_qformer": {"use_qformer_text_input": True},
    "shieldgemma2": {"yes_token_index": 5, "no_token_index": 6},
    "esmc": {"num_key_value_heads": N_HEADS},
    "neomme": {"head_dim": 16}, "mistral4": {"head_dim": 12}, "lilt": {"hidden_size": 48},
    "dots3_note": _DOTS, "dots3_note_text": _DOTS,
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "moonshine_streaming": {"num_key_value_heads": N_HEADS},
    "kyutai_speech_to_text": {"audio_pad_token_id": D_VOCAB},
    "dia": {"decoder_config": {"num_channels": 1}, "delay_pattern": [0]},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "llama4": {"intermediate_size": 128, "vision_output_dim": 32,
               "projector_input_dim": 32, "projector_output_dim": 32},
    "mobilevitv2": {"base_attn_unit_dims": [16, 32, 32], "image_size": 64, "patch_size": 2},
    "mobilevit": {"image_size": 192, "hidden_sizes": [16, 24, 32],
                  "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32]},
    "hiera": {"embed_dim": 16, "depths": [1, 2, 1, 1], "image_size": [96, 96]},
    "yolos": {"image_size": [32, 32], "num_detection_tokens": 4},
    "zaya": {"num_experts_per_tok": 1},
    "falcon_h1": {"mamba_d_ssm": 64},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {
        "rope_type": "default", "rope_theta": 1e4}}},
}  # fmt: skip

_PATCHES = {"pixel_values": (16, 48), "pixel_attention_mask": [1] * 16, "spatial_shapes": [4, 4]}
# What some read that their forward's names do not tell: row by row, shapes or numbers.
READS: dict[str, dict[str, Any]] = {
    "Siglip2ForImageClassification": _PATCHES, "Siglip2Model": _PATCHES,
    "MllamaVisionModel": {
        "pixel_values": (1, 4, 3, 16, 16), "aspect_ratio_ids": [1], "aspect_ratio_mask": [[1] * 4],
    },
    "PerceiverForImageClassificationLearned": {"inputs": (3, 16, 16)},
    "ViTMAEModel": {"pixel_values": (3, 16, 16), "noise": (16,)},  # which patches it hides
    "DepthProModel": {"pixel_values": (3, 64, 64)}, "GLPNModel": {"pixel_values": (3, 96, 96)},
    "VoxtralRealtimeForConditionalGeneration": {"input_features": (16, 56)},
    "GraniteSpeech5ForCTC": {"input_features": (40, 64)},
}  # fmt: skip
TEXTS = {"Siglip2Model", "VoxtralRealtimeForConditionalGeneration"}  # read tokens beside that


class CannotBuild(Exception):
    """No tiny model of this type can be made; the text says why."""


def read_by(class_name: str, n: int = 3) -> tuple[Tensor | None, dict[str, Tensor]] | None:
    """Tokens and what else so many rows hold, of a class that reads what cannot be guessed; None:
    of any other."""
    if class_name not in READS:
        return None
    generator = torch.Generator().manual_seed(0)

    def rows(one: Any) -> Tensor:
        if isinstance(one, tuple):
            return torch.randn(n, *one, generator=generator)
        return torch.tensor([one] * n)

    tokens = torch.randint(3, D_VOCAB, (n, 7), generator=generator)
    given = {name: rows(one) for name, one in READS[class_name].items()}
    return (tokens if class_name in TEXTS else None), given


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
                try:
                    output = model(tokens, use_cache=False)
                except TypeError:  # it has no cache
                    output = model(tokens)
            if not double or first_tensor(output).isfinite().all():
                return model
            why = "gives no finite numbers"
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
            own = {**SPECIAL.get(inner.model_type, {}), **special.get(name, {})}
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
