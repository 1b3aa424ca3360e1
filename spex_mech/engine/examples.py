"""What a model is run on to look into it: a few tokens, an image, a sound; or a prompt of its own.

What a model's forward takes, by its names, says what it reads; a configuration may say how large an
image is, or how many bands a sound has. These are hints alone: what runs is used.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from spex_mech.engine.prompts import Prompts
from spex_mech.engine.running import evaluating

N_POS = 5  # tokens
_MOST_TRIES = 16
_IMAGE_SIZES = (32, 64, 224)  # where a configuration says none
_SAMPLES, _FRAMES = (2_000, 16_000), 100
_TABLE = 64  # tokens that are drawn from


@dataclass(frozen=True)
class Example:
    """One row of what a model reads, by keyword.

    Args:
        row: each ``[1 ...]``.
        given: other arguments.
    """

    row: Mapping[str, Tensor]
    given: Mapping[str, Any]

    def __call__(self, n_rows: int, n_others: int) -> dict[str, Any]:
        """The arguments of a pass of so many rows, equal but for so many at the end, which have
        tokens and numbers in other orders."""
        found: dict[str, Any] = {}
        for name, row in self.row.items():
            rows = row.expand(n_rows, *row.shape[1:]).clone()
            if name.endswith("mask") or row.ndim < 2:
                found[name] = rows
                continue
            for other in range(1, n_others + 1):
                rows[-other] = row[0].flatten().roll(other).view(row.shape[1:])
            found[name] = rows
        return {**found, **self.given}

    def on(self, device: torch.device, dtype: torch.dtype) -> "Example":
        """The same on a device, floating numbers in a type."""
        row = {
            k: x.to(device, dtype) if x.is_floating_point() else x.to(device)
            for k, x in self.row.items()
        }
        return Example(row, self.given)

    def prompts(self, n: int = 2) -> Prompts:
        """Different rows as prompts."""
        rows = self(n, n - 1)
        ids = next((name for name in rows if name in self.row and self.is_tokens(name)), None)
        tokens = None if ids is None else rows.pop(ids)
        return Prompts(tokens, inputs={k: v for k, v in rows.items() if k in self.row})

    def is_tokens(self, name: str) -> bool:
        """Whether the model reads token ids so."""
        row = self.row[name]
        return row.ndim == 2 and not row.is_floating_point() and not name.startswith("decoder")

    @property
    def kind(self) -> tuple[Any, ...]:
        """What tells it from others: names and shapes."""
        return tuple((name, tuple(row.shape)) for name, row in self.row.items())

    def __str__(self) -> str:
        return " and ".join(
            f"{x.shape[1]} tokens" if self.is_tokens(name) else f"{name} {list(x.shape[1:])}"
            for name, x in self.row.items()
        )


def example_of(model: nn.Module, prompts: Prompts) -> Example:
    """The first of some prompts."""
    one, taken = prompts[:1], _takes(model)
    row = {_first_name(taken): one.tokens} if one.has_tokens else {}
    if one.attention_mask is not None:
        row["attention_mask"] = one.attention_mask.long()
    if one.token_types is not None:
        row["token_type_ids"] = one.token_types
    row |= one.inputs
    decoder = {name: x for name, x in one.inputs.items() if name.startswith("decoder")}
    lengths = {x.shape[1] for name, x in row.items() if name not in decoder and x.ndim > 1}
    if any(x.shape[1] in lengths for x in decoder.values()):
        # Attention to an encoder's positions is told by their number.
        row |= {name: _of_another_length(x) for name, x in decoder.items()}
    return Example(row, _without_cache(taken))


def _of_another_length(row: Tensor) -> Tensor:
    """One position less, or where there is one alone, the same twice."""
    return row[:, :-1] if row.shape[1] > 1 else torch.cat([row, row], dim=1)


def check_decoder(model: nn.Module, prompts: Prompts, on: Callable[[Example], Example]) -> None:
    """Whether a model with a decoder runs on prompts that do not say what that reads. Some make its
    tokens of the encoder's; others do not run.

    Args:
        on: an example where the model is.

    Raises:
        ValueError: it runs only with a decoder's tokens.
    """
    config, name = getattr(model, "config", None), "decoder_input_ids"
    encodes = getattr(config, "is_encoder_decoder", False)
    if not encodes or name in prompts.inputs or name not in _takes(model):
        return
    alone = on(example_of(model, prompts))
    if _failure(model, alone) is None:
        return
    start = _hint(config, "decoder_start_token_id", "bos_token_id")
    start = start if isinstance(start, int) else 0
    told = {name: torch.tensor([[start]], device=next(iter(alone.row.values())).device)}
    if _failure(model, Example({**alone.row, **told}, alone.given)) is None:
        raise ValueError(
            f"the {type(model).__name__} does not run without what its decoder reads, and the "
            f"prompts do not say it; give the tokens that it has written so far, one row for each "
            f"prompt, such as the one that it begins with: Prompts(..., inputs={{'{name}': "
            f"[[{start}]] * {len(prompts)}}})"
        )


def _failure(model: nn.Module, example: Example) -> Exception | None:
    """Why a model does not run on one row."""
    try:
        with torch.no_grad(), evaluating(model):
            model(**example(1, 0))
    except Exception as error:  # whatever a model says of what it is not given
        return error
    return None


def examples_for(model: nn.Module, config: Any, text: Any) -> Iterator[Example]:
    """What the model may run on."""
    taken = _takes(model)
    main = getattr(model, "main_input_name", "input_ids")
    names = dict.fromkeys(name for name in (main, "pixel_values") if name in taken)
    floats = [name for name in names if name != "input_ids"]
    vocabulary = _vocabulary(model, text)
    ids = {_first_name(taken): _tokens(N_POS, vocabulary)}
    if "input_ids" not in taken and floats:
        ids = {}
    last = getattr(text, "eos_token_id", None)
    if ids and isinstance(last, int) and 0 <= last < (getattr(text, "vocab_size", None) or 0):
        next(iter(ids.values()))[:, -1] = last  # some classifiers read where the text ends
    # More than the tokens, so that attention to them is told from that to the decoder's own.
    decoder = {"decoder_input_ids": _tokens(N_POS + 1, vocabulary)}
    decoder = decoder if "decoder_input_ids" in taken else {}
    shapes = [[(name, shape) for shape in _shapes(name, model, config)] for name in floats]
    made = [{name: _numbers(shape) for name, shape in some} for some in product(*shapes)]
    # Tokens alone first: of a model that may read images as well, what reads no image is found.
    tries: list[dict[str, Tensor]] = [{**ids, **decoder}, ids] if ids else []
    tries += [{**ids, **some, **decoder} for some in made if some]
    tries += [{**some, **more} for some in made if some for more in (decoder, {})]
    seen: set[Any] = set()
    for row in tries[:_MOST_TRIES]:
        example = Example(row, _without_cache(taken))
        if example.kind not in seen:
            seen.add(example.kind)
            yield example


def core_of(model: Any) -> Any:
    """The model inside a PEFT wrapper: what says which family it is; any other as it is."""
    if "Peft" in type(model).__name__ and hasattr(model, "get_base_model"):
        return model.get_base_model()
    return model


def _takes(model: nn.Module) -> Mapping[str, Parameter]:
    return signature(core_of(model).forward).parameters


def _without_cache(taken: Mapping[str, Parameter]) -> dict[str, Any]:
    return {"use_cache": False} if "use_cache" in taken else {}


def _first_name(taken: Mapping[str, Parameter]) -> str:
    """Which argument tokens are given as."""
    first = "input_ids" if "input_ids" in taken else next(iter(taken), "input_ids")
    if first in taken and taken[first].kind is Parameter.VAR_POSITIONAL:
        return "input_ids"
    return first


def _vocabulary(model: nn.Module, text: Any) -> int:
    """Of so many tokens some are drawn; small tables are of positions and types."""
    own = getattr(text, "vocab_size", None)
    if own is None:
        tables = (m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding))
        own = min((n for n in tables if n > N_POS), default=None)
    return min(own or _TABLE, _TABLE)


def _tokens(n_pos: int, most: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(min(3, most - 1), most, (1, n_pos), generator=generator)


def _numbers(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


def _shapes(name: str, model: nn.Module, config: Any) -> list[tuple[int, ...]]:
    """Of an image, ``[channel height width]`` or with frames before it; of a sound, samples, or
    bands and frames."""
    if name.startswith("pixel"):
        first = next((m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)), None)
        channels = 3 if first is None else first.in_channels
        images = [(channels, *size) for size in _image_sizes(config)]
        n_frames = _hint(config, "num_frames")
        return [(n_frames, *image) for image in images] if isinstance(n_frames, int) else images
    words = ("num_mel_bins", "input_feat_per_channel", "feature_projection_input_dim")
    bands = _hint(config, *words, "feature_size") or 80
    positions = _hint(config, "max_source_positions")
    frames = _hint(config, "max_length", "spectrogram_length") or _FRAMES
    found = [(bands, 2 * positions)] if isinstance(positions, int) else []
    found += [(frames, bands), (bands, frames), (_FRAMES, bands)]
    samples = [(n,) for n in _SAMPLES]
    one_channel = [(1, n) for n in _SAMPLES]
    sounds = [*samples, *found, *one_channel]
    return sounds if name == "input_values" else [*found, *samples]


def _image_sizes(config: Any) -> list[tuple[int, int]]:
    size = _hint(config, "image_size")
    if isinstance(size, Mapping):
        size = [size.get("height"), size.get("width")]
    if isinstance(size, int):
        return [(size, size)]
    if isinstance(size, list | tuple) and len(size) == 2:
        high, wide = size
        if isinstance(high, int) and isinstance(wide, int):
            return [(high, wide)]
    return [(size, size) for size in _IMAGE_SIZES]


def _hint(config: Any, *names: str) -> Any:
    """What a configuration, or one of its parts, calls so."""
    inner = getattr(config, "sub_configs", None) or ()
    parts = [config, *(getattr(config, part, None) for part in inner)]
    for config in parts:
        for name in names:
            try:
                found = getattr(config, name, None)
            except Exception:  # some configurations refuse what differs between their layers
                found = None
            if found is not None:
                return found
    return None
