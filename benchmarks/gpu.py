"""The engine on a GPU: right, full, and fast, in at most eight minutes.

    benchmarks/gpu.sh                     # on a GPU workstation; needs nothing from the network
    benchmarks/gpu.sh --small             # the same on a CPU, with tiny models

1. ``right``: six families, weights in float32, bfloat16 and float16, and TF32: all pairs of heads
   against a loop by hand, or against the same weights in float32 (how often the noise floor covers
   the error). Memory that runs out. The same search twice.
2. ``heads``: GPT-2-small's shape: all 10,296 pairs of heads on 64 prompts of 16 tokens; beside it a
   plain batched forward of as many rows, hooks by hand and captum.
3. ``large``: an 8B Llama's shape in bfloat16: 1,024 heads alone, 20,000 pairs, 1,000 gradient rows.

Each row says what share of the measured rate of matrix products was used at most, counting only
what had to be done, and for what share of the time the device waited. Writes ``results/gpu.json``.
As every benchmark it takes ``--only``, and ``--quick``, which ``--small`` is called there.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers as tf
from torch.utils.flop_counter import FlopCounterMode

import spex_mech as sm
from benchmarks.frame import Options, Row, script, timed
from benchmarks.throughput import (
    beside_peers,
    drawn_pairs,
    gpt2,
    in_turn,
    plain_seconds,
    random_task,
    seconds_of,
)
from tests.by_hand import ByHand, take_at_most
from tests.families import D_VOCAB, N_HEADS, N_LAYERS, build, modules_of

FAMILIES = ("gpt2", "llama", "gemma2", "gpt_neox", "opt", "phi")
LONGEST = 30.0  # seconds that one run of a measurement may take
TYPES = ("float32", "tf32", "bfloat16", "float16")
LLAMA_8B: dict[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256,
}  # fmt: skip
LLAMA_SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500,
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """What is measured where: all on a GPU, little on a CPU."""

    device: str
    small: bool


# -- right -----------------------------------------------------------------------------------------


@torch.no_grad()
def by_hand(family: str, model: Any, one: sm.Task, lost: np.ndarray) -> np.ndarray:
    """Logit differences with these heads ablated to zero: a forward pass for each mask."""
    places = {key: (module, 0) for key, module in modules_of(family, model).items()
              if key[0] == "head"}  # fmt: skip
    hand, values = ByHand(model, one.prompts, lambda: places), []
    both = one.prompts.tokens[:, :2]  # the right and the wrong answer (``random_task``)
    for mask in lost:
        gone = {divmod(int(unit), N_HEADS) for unit in mask}

        def without(kind: str, layer: int, act: torch.Tensor, gone: Any = gone) -> torch.Tensor:
            heads = act.unflatten(-1, (N_HEADS, -1)).clone()
            heads[..., [head for at, head in gone if at == layer], :] = 0
            return heads.flatten(-2)

        last = hand.logits(one.prompts, without)[:, -1].float()
        values.append(last.gather(1, both[:, :1])[:, 0] - last.gather(1, both[:, 1:])[:, 0])
    return torch.stack(values).double().cpu().numpy()


def right(sizes: Sizes) -> Iterator[Row]:
    """Values against a loop by hand; in half precision against float32 of the same weights."""
    one = random_task(8, 12, D_VOCAB, sizes.device)
    n_heads = N_LAYERS * N_HEADS
    lost = np.array([(a, b) for a in range(n_heads) for b in range(a, n_heads)])
    for family in FAMILIES[:2] if sizes.small else FAMILIES:
        for name in TYPES:
            if name == "tf32" and sizes.device == "cpu":
                continue
            half = name in ("bfloat16", "float16")
            weights = getattr(torch, name) if half else torch.float32
            model = build(family).to(sizes.device, weights)
            precision = "tf32" if name == "tf32" else "float32"
            game = sm.ModelGame(model, one, ablation="zero", precision=precision)
            got = game.ablating(lost).numpy()
            floor = game.noise_floor
            want = by_hand(family, model.float(), one, lost)
            row: Row = {"family": family, "weights": name, "passes": game.provenance()["passes"]}
            error = abs(got - want).max() / abs(want - want.mean(0)).max()
            yield row | {"largest_error": error} | of_floor(got, want, n_heads, floor)


def of_floor(got: np.ndarray, want: np.ndarray, n: int, floor: float) -> Row:
    """How often the noise floor covers the error of a pair's interaction, and by how much."""
    at = {(a, b): i for i, (a, b) in enumerate((a, b) for a in range(n) for b in range(a, n))}

    def means(values: np.ndarray) -> np.ndarray:
        mean = values.mean(axis=1)  # the intact value is the same for all, and goes out
        pairs = [(a, b) for a in range(n) for b in range(a + 1, n)]
        return np.array([mean[at[a, b]] - mean[at[a, a]] - mean[at[b, b]] for a, b in pairs])

    errors = means(got) - means(want)
    errors = abs(errors - np.median(errors))  # without the intact value's own rounding
    q95 = float(np.quantile(errors, 0.95))
    return {"covered": float((errors <= floor).mean()), "floor_by_error": floor / max(q95, 1e-12)}


def out_of_memory(sizes: Sizes) -> Row:
    """Passes of more rows than the device takes: smaller ones are taken, and the values stay."""
    config = LLAMA_SMALL | ({} if sizes.small else {"hidden_size": 1024, "vocab_size": 32_000})
    torch.manual_seed(0)
    model = tf.LlamaForCausalLM(tf.LlamaConfig(**config)).eval().to(sizes.device)
    one = random_task(64, 32, config["vocab_size"], sizes.device)
    want = sm.discover(sm.ModelGame(model, one, batch_size=16), "exhaustive", progress=False)
    handle = None
    if sizes.device == "cpu":
        handle = take_at_most(model.model.layers[1].mlp, 32)
    game = sm.ModelGame(model, one, batch_size=2**16)
    if sizes.device != "cpu":
        total = torch.cuda.mem_get_info()[1]
        held = torch.cuda.memory_reserved() + 512 * 2**20
        torch.cuda.set_per_process_memory_fraction(min(1.0, held / total))
    found = sm.discover(game, "exhaustive", progress=False)
    if handle is not None:
        handle.remove()
    else:
        torch.cuda.set_per_process_memory_fraction(1.0)
    error = abs(found.values - want.values).max() / abs(want.values).max()
    return {"what": "out of memory", "largest_error": error, "rows": game.batch_size}


def twice(sizes: Sizes) -> Row:
    """The same search twice: how far its values are apart, and whether it measured the same."""
    found = []
    for _ in range(2):
        one = random_task(16, 12, D_VOCAB, sizes.device)
        game = sm.ModelGame(build("llama").to(sizes.device), one, "heads+neurons")
        found.append(sm.discover(game, "spex", budget=300, seed=0, progress=False))
    same = np.array_equal(found[0].units, found[1].units)
    apart = float(abs(found[0].values - found[1].values).max()) if same else float("nan")
    return {"what": "the same search twice", "same_pairs": same, "largest_difference": apart}


# -- fast ------------------------------------------------------------------------------------------


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of a product of large matrices."""
    n = 8192 if device != "cpu" else 512
    a = torch.randn(n, n, device=device, dtype=dtype)

    def products(count: int) -> None:
        for _ in range(count):
            a @ a
        if device != "cpu":
            torch.cuda.synchronize()

    products(3)
    return 20 * 2 * n**3 / timed(lambda: products(20))[1]


def waiting(run: Callable[[], Any], device: str) -> float:
    """For what share of the time no kernel ran."""
    if device == "cpu":
        return float("nan")
    from torch.profiler import ProfilerActivity, profile

    def whole() -> None:
        run()
        torch.cuda.synchronize()

    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        _, seconds = timed(whole)
    busy = sum(event.self_device_time_total for event in seen.key_averages()) / 1e6
    return max(0.0, 1 - busy / seconds)


def measured(game: sm.ModelGame, lost: np.ndarray, peak: float) -> Row:
    """Time per row, as a ratio to a plain forward's, and how full the device was: of all masks, or
    of as many, evenly drawn, as a run may take."""
    tried = every(lost, len(lost) // 20)
    game.ablating(tried)
    _, seconds = seconds_of(game, lambda: game.ablating(tried))
    part = every(lost, int(len(lost) * min(1, LONGEST / (20 * seconds))))
    n_rows = len(part) * len(game.prompts)
    with FlopCounterMode(display=False) as flops:
        game.ablating(tried)
    n_plain = 2 * (game.batch_size or 1)
    runs = [in_turn(game, lambda: game.ablating(part), n_rows, n_plain)[1:] for _ in range(2)]
    per_row, ratio = min(runs)
    # Per mask, a few masks share less with each other than many do: an upper bound.
    rate = flops.get_total_flops() / (len(tried) * len(game.prompts)) / per_row
    row: Row = {"masks": len(part), "of": len(lost), "rows": n_rows, "seconds": per_row * n_rows}
    row |= {"ratio": ratio, "rows_per_pass": game.batch_size, "matrix_rate_at_most": rate / peak}
    row["waiting"] = waiting(lambda: game.ablating(tried), game.device.type)
    if game.device.type == "cuda":
        row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return row


def every(lost: np.ndarray, count: int) -> np.ndarray:
    """So many of the masks, evenly."""
    at = np.linspace(0, len(lost) - 1, max(1, min(count, len(lost))))
    return lost[at.astype(int)]


def heads(sizes: Sizes) -> Iterator[Row]:
    """GPT-2-small's shape, all pairs of heads, and what others need for single heads."""
    shape = (3, 32, 4) if sizes.small else (12, 768, 12)
    one = random_task(4 if sizes.small else 64, 16, 50257, sizes.device)
    for dtype in (torch.bfloat16, torch.float32):
        model = gpt2(*shape).to(sizes.device, dtype)
        game = sm.ModelGame(model, one, ablation="zero", replay=True)
        peak = matrix_rate(sizes.device, dtype)
        first, second = np.triu_indices(len(game), 1)
        lost = np.stack([first, second], axis=1)
        name = str(dtype).removeprefix("torch.")
        row: Row = {"model": "GPT-2-small's shape", "weights": name, "matrix_rate": peak}
        yield row | {"work": "all pairs of heads", **measured(game, lost, peak)}
        others = ("pre-hooks by hand, batched", "captum LayerFeatureAblation")
        for beside in beside_peers(game, range(shape[0]), others):
            yield row | {"work": "single heads", **beside}


def large(sizes: Sizes) -> Iterator[Row]:
    """An 8B Llama's shape: single heads, pairs, gradient rows."""
    torch.manual_seed(0)
    config = tf.LlamaConfig(**(LLAMA_SMALL if sizes.small else LLAMA_8B))
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(sizes.device):
            model = tf.LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    peak = matrix_rate(sizes.device, torch.bfloat16)
    one = random_task(4 if sizes.small else 16, 16, config.vocab_size, sizes.device)
    game, made = timed(lambda: sm.ModelGame(model, one, replay=True))
    row: Row = {"model": "Llama-3.1-8B's shape", "matrix_rate": peak, "seconds_to_make": made}
    singles = np.arange(len(game))[:, None]
    yield row | {"work": "single heads", **measured(game, singles, peak)}
    n_pairs, n_gradients = (60, 8) if sizes.small else (20_000, 1000)
    pairs = drawn_pairs(len(game), n_pairs, np.random.default_rng(0))
    yield row | {"work": "pairs of heads", **measured(game, pairs, peak)}
    kept = torch.rand(n_gradients, len(game)) < 0.9
    game.slopes_at(kept[:4])
    _, seconds = seconds_of(game, lambda: game.slopes_at(kept[:4]))
    kept = kept[: max(4, int(LONGEST / seconds * 4))]
    _, seconds = seconds_of(game, lambda: game.slopes_at(kept))
    per_row = seconds / len(kept) / len(one.prompts)
    about = {"masks": len(kept), "of": n_gradients, "seconds": seconds}
    ratio = per_row / plain_seconds(game, 2 * (game.batch_size or 1))
    yield row | {"work": "gradient rows", **about, "ratio": ratio}


# -- all of it -------------------------------------------------------------------------------------


def checks(sizes: Sizes) -> Iterator[Row]:
    yield from right(sizes)
    yield out_of_memory(sizes)
    yield twice(sizes)


def measured_by(part: Callable[[Sizes], Iterator[Row]]) -> Callable[[Options], Iterator[Row]]:
    """As a part of a benchmark: one that fails takes nothing from the others."""

    def measure(options: Options) -> Iterator[Row]:
        try:
            yield from part(Sizes("cpu" if options.quick else "cuda:0", options.quick))
        except Exception as error:
            yield {"failure": f"{type(error).__name__}: {str(error)[:300]}"}

    return measure


PARTS = {
    name: measured_by(part)
    for name, part in {"right": checks, "heads": heads, "large": large}.items()
}

if __name__ == "__main__":
    if "--quick" not in sys.argv and not torch.cuda.is_available():
        sys.exit("gpu: there is no GPU here; --small runs the same on a CPU with tiny models")
    rows = script(__doc__, "gpu", PARTS)["rows"]
    if any("failure" in row and "method" not in row for row in rows):
        sys.exit("gpu: a part failed")
