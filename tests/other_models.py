"""Tiny random models that read more than tokens, or have two stacks, and what they read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers as tf
from torch import Tensor

import spex_mech as sm

N_HEADS, D_HEAD, D_MLP = 4, 8, 48
_SIZES: dict[str, Any] = {
    "num_hidden_layers": 2,
    "num_attention_heads": N_HEADS,
    "hidden_size": 32,
    "intermediate_size": D_MLP,
}
_IMAGE = {**_SIZES, "image_size": 16, "patch_size": 4}
_TEXT = {**_SIZES, "vocab_size": 99, "max_position_embeddings": 64}
_TWO_STACKS: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": N_HEADS,
    "decoder_attention_heads": N_HEADS, "encoder_ffn_dim": D_MLP, "decoder_ffn_dim": D_MLP,
    "vocab_size": 99, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1,
}  # fmt: skip
_T5 = {"d_model": 32, "d_kv": D_HEAD, "d_ff": D_MLP, "num_layers": 2, "num_heads": N_HEADS}


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def tokens(n_pos: int) -> Tensor:
    return torch.randint(3, 99, (3, n_pos), generator=torch.Generator().manual_seed(2))


def images() -> dict[str, Any]:
    return {"inputs": {"pixel_values": numbers(3, 3, 16, 16)}}


@dataclass(frozen=True)
class Other:
    """One such model.

    Args:
        reads: what three prompts are made of.
        heads, neurons: the projections, named by hand: label of a layer's units -> module.
        pooled: what the metric reads of an output.
    """

    make: Callable[[], Any]
    reads: Callable[[], dict[str, Any]]
    heads: Mapping[str, str]
    neurons: Mapping[str, str]
    pooled: str = "logits"

    def build(self) -> Any:
        torch.manual_seed(0)
        model = self.make().eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.ndim == 2 and "embed" not in name and "shared" not in name:
                    weight.normal_(0, 1.5 / weight.shape[1] ** 0.5)
        return model.double()

    def prompts(self) -> sm.Prompts:
        return sm.Prompts(**self.reads())

    def metric(self, output: Any, prompts: sm.Prompts) -> Tensor:
        """One number of each row that every number of the output changes."""
        if self.pooled == "logits_per_image":  # of each image and each text of a batch
            return output[self.pooled].diagonal()
        flat = (output if isinstance(output, Tensor) else output[self.pooled]).flatten(1)
        return flat @ torch.arange(flat.shape[1]).to(flat).mul(0.7).cos()


def layers(label: str, pattern: str) -> dict[str, str]:
    return {label.format(layer): pattern.format(layer) for layer in (0, 1)}


def _stacks(pattern: str, cross: str, neurons: str) -> tuple[dict[str, str], dict[str, str]]:
    """Of an encoder and a decoder."""
    heads, downs = {}, {}
    for stack in ("encoder", "decoder"):
        heads |= layers(stack + ".L{}", pattern.replace("STACK", stack))
        downs |= layers(stack + ".L{}", neurons.replace("STACK", stack))
    return heads | layers("decoder.L{}X", cross), downs


_BART_NAMES = _stacks(
    "model.STACK.layers.{}.self_attn.out_proj",
    "model.decoder.layers.{}.encoder_attn.out_proj",
    "model.STACK.layers.{}.fc2",
)
OTHERS: dict[str, Other] = {
    "vit": Other(
        lambda: tf.ViTForImageClassification(tf.ViTConfig(**_IMAGE, num_labels=3)),
        images,
        layers("L{}", "vit.layers.{}.attention.o_proj"),
        layers("L{}", "vit.layers.{}.mlp.fc2"),
    ),
    "dinov2": Other(
        lambda: tf.Dinov2ForImageClassification(
            tf.Dinov2Config(**{**_IMAGE, "mlp_ratio": 1}, num_labels=3)  # type: ignore[arg-type]
        ),
        images,
        layers("L{}", "dinov2.encoder.layer.{}.attention.o_proj"),
        layers("L{}", "dinov2.encoder.layer.{}.mlp.fc2"),
    ),
    # Windows of an image: several activations of one row, and heads of a stage of their own number.
    "swin": Other(
        lambda: tf.SwinForImageClassification(
            tf.SwinConfig(
                image_size=16,
                patch_size=2,
                embed_dim=32,
                depths=[1, 1],
                num_heads=[4, 8],
                window_size=4,
                num_labels=3,
                mlp_ratio=1.5,
            )
        ),
        images,
        layers("L{}", "swin.encoder.layers.{}.blocks.0.attention.o_proj"),
        layers("L{}", "swin.encoder.layers.{}.blocks.0.mlp.fc2"),
    ),
    "clip_vision": Other(
        lambda: tf.CLIPVisionModel(tf.CLIPVisionConfig(**_IMAGE)),
        images,
        layers("L{}", "encoder.layers.{}.self_attn.out_proj"),
        layers("L{}", "encoder.layers.{}.mlp.fc2"),
        "pooler_output",
    ),
    "siglip_vision": Other(
        lambda: tf.SiglipVisionModel(tf.SiglipVisionConfig(**_IMAGE)),
        images,
        layers("L{}", "encoder.layers.{}.self_attn.out_proj"),
        layers("L{}", "encoder.layers.{}.mlp.fc2") | {"head.": "head.mlp.fc2"},
        "pooler_output",
    ),
    "clip": Other(
        lambda: tf.CLIPModel(
            tf.CLIPConfig(text_config={**_TEXT, "eos_token_id": 2}, vision_config=_IMAGE)
        ),
        lambda: {"tokens": tokens(6), **images()},
        layers("text_model.L{}", "text_model.encoder.layers.{}.self_attn.out_proj")
        | layers("vision_model.L{}", "vision_model.encoder.layers.{}.self_attn.out_proj"),
        layers("text_model.L{}", "text_model.encoder.layers.{}.mlp.fc2")
        | layers("vision_model.L{}", "vision_model.encoder.layers.{}.mlp.fc2"),
        "logits_per_image",
    ),
    "t5": Other(
        lambda: tf.T5ForConditionalGeneration(tf.T5Config(**_T5, vocab_size=99)),  # type: ignore
        lambda: {"tokens": tokens(6), "inputs": {"decoder_input_ids": tokens(4)}},
        *_stacks(
            "STACK.block.{}.layer.0.SelfAttention.o",
            "decoder.block.{}.layer.1.EncDecAttention.o",
            "STACK.block.{}.layer.WHICH.DenseReluDense.wo",
        ),
    ),
    "bart": Other(
        lambda: tf.BartForConditionalGeneration(
            tf.BartConfig(**_TWO_STACKS, max_position_embeddings=64)
        ),
        lambda: {"tokens": tokens(6), "inputs": {"decoder_input_ids": tokens(4)}},
        *_BART_NAMES,
    ),
    "whisper": Other(
        lambda: tf.WhisperForConditionalGeneration(
            tf.WhisperConfig(
                **_TWO_STACKS, num_mel_bins=16, max_source_positions=20, max_target_positions=64
            )
        ),
        lambda: {"inputs": {"input_features": numbers(3, 16, 40), "decoder_input_ids": tokens(4)}},
        *_BART_NAMES,
    ),
    "wav2vec2": Other(
        lambda: tf.Wav2Vec2ForCTC(
            tf.Wav2Vec2Config(
                **_SIZES,
                vocab_size=20,
                conv_dim=(8, 8),
                conv_kernel=(4, 3),
                conv_stride=(2, 2),
                num_feat_extract_layers=2,
                num_conv_pos_embeddings=4,
                num_conv_pos_embedding_groups=2,
            )
        ),
        lambda: {"inputs": {"input_values": numbers(3, 64)}},
        layers("L{}", "wav2vec2.encoder.layers.{}.attention.out_proj"),
        layers("L{}", "wav2vec2.encoder.layers.{}.feed_forward.output_dense"),
    ),
}
# Where T5 keeps its MLP differs between its stacks.
_T5_NEURONS = OTHERS["t5"].neurons
for _label, _name in [*_T5_NEURONS.items()]:
    _T5_NEURONS[_label] = _name.replace("WHICH", "2" if "decoder" in _name else "1")  # type: ignore
