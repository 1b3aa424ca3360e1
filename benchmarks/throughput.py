"""What a masked forward pass costs, as a ratio to a plain batched forward of the same rows without
any hook, and against what others offer on the same work.

    python -m benchmarks.throughput --data ../shared/data     # some 20 minutes on two cores
    python -m benchmarks.throughput --gpu                     # the figures for a GPU, in bfloat16
    pip install 'spex_mech[benchmarks]'                       # the peers

A row is one mask on one prompt. Ours and the plain forward are timed in turns, and the median of
the ratios counts. Writes ``results/throughput.json`` (or ``throughput_gpu.json``) and
``pictures/throughput.png``.
"""

import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf

import spex_mech as sm
from benchmarks import peers
from benchmarks.frame import Options, Row, options_of, parser, rows_of, script, versions
from benchmarks.games import all_units, prompts, story_game
from spex_mech.engine.metrics import METRICS
from spex_mech.engine.passes import call
from spex_mech.masks import MaskBatch

ROUNDS = 3


def gpt2(n_layer: int = 12, n_embd: int = 768, n_head: int = 12, **sizes: Any) -> Any:
    torch.manual_seed(0)
    config = tf.GPT2Config(n_layer=n_layer, n_embd=n_embd, n_head=n_head, **sizes)
    return tf.GPT2LMHeadModel(config).eval()


def llama(n_layers: int, vocabulary: int, d_model: int = 2048, d_mlp: int = 8192) -> Any:
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        hidden_size=d_model, intermediate_size=d_mlp, num_hidden_layers=n_layers,
        num_attention_heads=d_model // 64, num_key_value_heads=d_model // 256,
        vocab_size=vocabulary, max_position_embeddings=2048,
    )  # fmt: skip
    return tf.LlamaForCausalLM(config).eval()


def random_task(n_prompts: int, n_pos: int, vocabulary: int, device: str = "cpu") -> sm.Task:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, vocabulary, (n_prompts, n_pos), generator=generator).to(device)
    prompts = sm.Prompts(tokens, answers=tokens[:, 0], wrong_answers=tokens[:, 1])
    return sm.Task(prompts, "logit_diff")


def synchronise(game: sm.ModelGame) -> None:
    if game.device.type == "cuda":
        torch.cuda.synchronize()


def plain_seconds(game: sm.ModelGame, n_rows: int) -> float:
    """Of a batched forward without hooks, with the metric, a row."""
    batch, metric = game.batch_size or 1, METRICS[game.task.metric_name]
    n_rows = max(batch, n_rows // batch * batch)
    synchronise(game)
    started = time.perf_counter()
    with torch.no_grad():
        for start in range(0, n_rows, batch):
            rows = (torch.arange(start, start + batch) % len(game.prompts)).to(game.device)
            metric(call(game.model, game.prompts[rows]), game.prompts[rows])
    synchronise(game)
    return (time.perf_counter() - started) / n_rows


def ratios(game: sm.ModelGame, run: Callable[[], Any], n_rows: int) -> tuple[float, float]:
    """Seconds a row, and the median ratio to a plain forward's."""
    run()
    found, ours = [], []
    for _ in range(ROUNDS):
        before = plain_seconds(game, min(n_rows, 2 * (game.batch_size or 1)))
        synchronise(game)
        started = time.perf_counter()
        run()
        synchronise(game)
        ours.append((time.perf_counter() - started) / n_rows)
        after = plain_seconds(game, min(n_rows, 2 * (game.batch_size or 1)))
        found.append(2 * ours[-1] / (before + after))
    return float(np.median(ours)), float(np.median(found))


def works(game: sm.ModelGame, n_pairs: int, n_dense: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    n = len(game)
    n_heads = sum(unit.kind == "head" for unit in game.components.units)
    pairs = np.array(list(combinations(range(n_heads), 2)))
    pairs = pairs[np.sort(rng.permutation(len(pairs))[:n_pairs])]
    neurons = np.array([rng.choice(np.arange(n_heads, n), 2, False) for _ in range(n_pairs)])
    dense = torch.from_numpy(rng.random((n_dense, n)) < 0.5)
    return {
        "single heads": np.arange(n_heads)[:, None],
        f"pairs of heads ({len(pairs):,})": pairs,
        f"random pairs of neurons ({n_pairs:,})": neurons,
        "dense masks": MaskBatch.of_kept(dense.numpy()).ablated,
    }


def against_limit(
    name: str, game: sm.ModelGame, n_pairs: int, n_dense: int, n_gradients: int
) -> Iterator[Row]:
    def timed(what: str, run: Callable[[], Any], n_masks: int) -> Row:
        n_rows = n_masks * len(game.prompts)
        seconds, ratio = ratios(game, run, n_rows)
        about = {"model": name, "work": what, "rows": n_rows}
        return about | {"rows_per_second": 1 / seconds, "ratio": ratio}

    for what, lost in works(game, n_pairs, n_dense).items():
        yield timed(what, lambda lost=lost: game.ablating(lost), len(lost))
    some = torch.ones(n_gradients, len(game), dtype=torch.bool)
    some[torch.arange(n_gradients), torch.arange(n_gradients) * len(game) // n_gradients] = False
    yield timed("gradients at single ablations", lambda: game.value_and_slopes(some), len(some))


def compiled(name: str, game: sm.ModelGame) -> Row:
    """What ``compile=True`` takes of the time without it, on single heads."""
    same = sm.ModelGame(game.model, game.task, game.components, replay=True, compile=True)
    lost = np.arange(sum(unit.kind == "head" for unit in game.components.units))[:, None]
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(1 + ROUNDS):
        for which, one in ((False, game), (True, same)):
            started = time.perf_counter()
            one.ablating(lost)
            seconds[which].append(time.perf_counter() - started)
    ratio = np.median(np.array(seconds[True][1:]) / np.array(seconds[False][1:]))
    return {"model": name, "work": "single heads", "ratio": float(ratio)}


GPT2 = "GPT-2-small's shape, 4 prompts x 16"
LLAMA = "Llama-1B's width (2048, 8192, 32 heads), 4 layers, vocabulary 32,000, 2 prompts x 16"


def random_games() -> Iterator[tuple[str, sm.ModelGame]]:
    """Heads and neurons of a GPT-2 and a Llama with random weights, one after the other."""
    for name, make, task in (
        (GPT2, gpt2, random_task(4, 16, 50257)),
        (LLAMA, lambda: llama(4, 32_000), random_task(2, 16, 32_000)),
    ):
        model = make()
        yield name, sm.ModelGame(model, task, all_units(model), replay=True)


def limit(options: Options) -> Iterator[Row]:
    for name, game in () if options.quick else random_games():
        sizes = (300, 16, 48) if name == GPT2 else (100, 6, 32)
        yield from against_limit(name, game, *sizes)
    if options.data is None:
        return
    share = 5 if options.quick else 1
    game, name = story_game(options.data), "story 260K, 8 texts x 32, all scored"
    yield from against_limit(name, game, 2000 // share, 200 // share, 500 // share)
    model = sm.load_model(options.data / "stories3m")
    task = prompts(options.data, model, "ioi", 8)
    game = sm.ModelGame(model, task, all_units(model), replay=True)
    name = "story 3M, 8 prompts of IOI"
    yield from against_limit(name, game, 2000 // share, 100 // share, 500 // share)


def compiling(options: Options) -> Iterator[Row]:
    for name, game in () if options.quick else random_games():
        yield compiled(name, game)


def against_peers(options: Options) -> Iterator[Row]:
    """Every single head (quick: of one layer) of GPT-2-small's shape ablated to zero, on 4
    prompts of 16 tokens."""
    model, task = gpt2(), random_task(4, 16, 50257)
    tokens, answers = task.prompts.tokens, task.prompts.tokens[:, :2]
    masks = [[(layer, head)] for layer in range(12) for head in range(12)]
    masks = masks[36:48] if options.quick else masks
    game = sm.ModelGame(model, task, ablation="zero", replay=True)
    lost = np.array([[layer * 12 + head] for ((layer, head),) in masks])
    want, n_rows = game.ablating(lost).numpy(), len(masks) * len(tokens)
    ours, ratio = ratios(game, lambda: game.ablating(lost), n_rows)
    work = {"work": f"{len(masks)} single heads"}
    found = {"ratio": ratio, "rows_per_second": 1 / ours}
    yield work | {"method": "spex_mech"} | found | {"largest_difference": 0.0, "times_ours": 1.0}
    n_plain = 32 if options.quick else 256
    for name, peer in peers.PEERS.items():
        try:
            peer(model, tokens, answers, masks[:2] if options.quick else masks[:13])
        except Exception as error:
            failure = f"{type(error).__name__}: {str(error)[:120]}"
            yield work | {"method": name, "failure": failure}
            continue
        before = plain_seconds(game, n_plain)
        started = time.perf_counter()
        got = peer(model, tokens, answers, masks)
        seconds = (time.perf_counter() - started) / n_rows
        plain = (before + plain_seconds(game, n_plain)) / 2
        yield work | {
            "method": name, "ratio": seconds / plain, "rows_per_second": 1 / seconds,
            "largest_difference": float(abs(got - want).max()),
            "times_ours": seconds / plain / ratio,
        }  # fmt: skip


def growth(options: Options) -> Iterator[Row]:
    """Cost of an evaluation of a random pair of heads, of one size after another."""
    base = {"n_layer": 6, "n_embd": 256, "n_head": 8, "n_prompts": 4, "n_pos": 16, "neurons": 0}
    sizes = {
        "n_layer": (2, 4, 8, 16),
        "n_embd": (128, 256, 512),
        "n_prompts": (1, 4, 16),
        "n_pos": (8, 32, 128),
        "neurons": (0, 1000, 6000),
    }
    for what, values in list(sizes.items())[: 1 if options.quick else None]:
        for value in values:
            size = base | {what: value}
            model = gpt2(size["n_layer"], size["n_embd"], size["n_head"], vocab_size=5000)
            units = sm.Components.heads(model)
            if size["neurons"]:
                units = units + sm.Components.neurons(model)[: size["neurons"]]
            task = random_task(size["n_prompts"], size["n_pos"], 5000)
            game = sm.ModelGame(model, task, units, replay=True)
            rng = np.random.default_rng(0)
            lost = np.array([rng.choice(len(units), 2, False) for _ in range(100)])
            n_rows = len(lost) * size["n_prompts"]
            seconds, ratio = ratios(game, lambda g=game, x=lost: g.ablating(x), n_rows)
            cost = {"ms_per_evaluation": 1e3 * seconds * size["n_prompts"]}
            yield {"what": what, "size": value, "ratio": ratio} | cost


def gpu(_: Options) -> Iterator[Row]:
    """GPT-2-small's shape, all head pairs on 64 prompts; Llama-3.1-8B's, singles and pairs."""
    from torch.utils.flop_counter import FlopCounterMode

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        a @ a
    torch.cuda.synchronize()
    peak = 20 * 2 * 8192**3 / (time.perf_counter() - started)
    llama_8b = {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256,
    }  # fmt: skip
    with torch.device("cuda"):
        models: dict[str, Callable[[], Any]] = {
            "GPT-2-small": lambda: gpt2(),
            "Llama-3.1-8B": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**llama_8b)).eval(),
        }
    for name, make in models.items():
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda"):
            model = make()
        torch.set_default_dtype(torch.float32)
        vocabulary = model.config.vocab_size
        n_prompts = 64 if name == "GPT-2-small" else 16
        task = random_task(n_prompts, 16, vocabulary, "cuda")
        game = sm.ModelGame(model, task, sm.Components.heads(model), replay=True)
        n = len(game)
        pairs = np.array(list(combinations(range(n), 2)))
        pairs = pairs[np.sort(np.random.default_rng(0).permutation(len(pairs))[:20_000])]
        for what, lost in (("singles", np.arange(n)[:, None]), ("pairs", pairs)):
            with FlopCounterMode(display=False) as flops:
                game.ablating(lost[: len(lost) // 10])
            n_rows = len(lost) * n_prompts
            seconds, ratio = ratios(game, lambda lost=lost, g=game: g.ablating(lost), n_rows)
            rate = flops.get_total_flops() * 10 / (seconds * n_rows)
            yield {
                "model": name, "work": f"{what} of heads", "rows": n_rows, "ratio": ratio,
                "wall_seconds": seconds * n_rows, "share_of_matrix_rate": rate / peak,
                "matrix_rate": peak, "peak_gb": torch.cuda.max_memory_allocated() / 1e9,
                "card": torch.cuda.get_device_name(),
            }  # fmt: skip
        with torch.profiler.profile() as profile:
            game.ablating(pairs[:2000])
        print(profile.key_averages().table(sort_by="cuda_time_total", row_limit=15))
        del model, game
        torch.cuda.empty_cache()


def draw(rows: list[Row], file: Path) -> None:
    from matplotlib.figure import Figure

    names = {
        "n_layer": "layers", "n_embd": "width", "n_prompts": "prompts",
        "n_pos": "positions", "neurons": "neurons beside 48 heads",
    }  # fmt: skip
    figure = Figure(figsize=(12, 2.9), layout="constrained")
    for axes, (what, name) in zip(figure.subplots(1, 5, sharey=True), names.items(), strict=True):
        mine = rows_of(rows, part="growth", what=what)
        axes.plot([r["size"] for r in mine], [r["ms_per_evaluation"] for r in mine], "o-")
        axes.set_yscale("log")
        if what != "neurons":
            axes.set_xscale("log", base=2)
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
        if what == "n_layer":
            axes.set_ylabel("ms an evaluation of a pair")
    figure.savefig(file, dpi=110)


PARTS = {
    "limit": (limit, False),
    "compiled": (compiling, False),
    "peers": (against_peers, False),
    "growth": (growth, False),
}


if __name__ == "__main__":
    made = parser(__doc__, PARTS)
    made.add_argument("--gpu", action="store_true", help="the figures for a GPU, and no others")
    parsed = made.parse_args()
    about = {"rounds": ROUNDS, "rivals": versions()}
    if parsed.gpu:
        options_of(parsed).parts("throughput_gpu", {"gpu": (gpu, False)}, **about)
    else:
        script(__doc__, "throughput", PARTS, draw, **about)
