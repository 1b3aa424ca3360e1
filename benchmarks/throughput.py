"""What a masked forward pass costs, as a ratio to a plain batched forward of the same rows without
any hook, and against what others offer on the same work.

    python -m benchmarks.throughput --data ../shared/data     # some 20 minutes on two cores
    pip install 'spex_mech[benchmarks]'                       # the peers

A row is one mask on one prompt. Ours and the plain forward are timed in turns, and the median of
the ratios counts. Writes ``results/throughput.json`` and
``pictures/throughput.png``. What is measured on a GPU is in ``gpu.py``.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf

import spex_mech as sm
from benchmarks import peers
from benchmarks.frame import Options, Row, panels, rows_of, script, timed
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


def seconds_of(game: sm.ModelGame, run: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and its seconds, with what it left for the device to do."""
    wait = torch.cuda.synchronize if game.device.type == "cuda" else lambda: None
    wait()
    return timed(lambda: (run(), wait())[0])


def plain_seconds(game: sm.ModelGame, n_rows: int) -> float:
    """Of a batched forward without hooks, with the metric, a row."""
    batch, metric = game.batch_size or 1, METRICS[game.task.metric_name]
    n_rows = max(batch, n_rows // batch * batch)

    @torch.no_grad()
    def passes() -> None:
        for start in range(0, n_rows, batch):
            rows = (torch.arange(start, start + batch) % len(game.prompts)).to(game.device)
            metric(call(game.model, game.prompts[rows]), game.prompts[rows])

    return seconds_of(game, passes)[1] / n_rows


def in_turn(
    game: sm.ModelGame, run: Callable[[], Any], n_rows: int, n_plain: int
) -> tuple[Any, float, float]:
    """What it returns, its seconds a row, and their ratio to a plain forward's before and after."""
    before = plain_seconds(game, n_plain)
    found, seconds = seconds_of(game, run)
    plain = (before + plain_seconds(game, n_plain)) / 2
    return found, seconds / n_rows, seconds / n_rows / plain


def ratios(game: sm.ModelGame, run: Callable[[], Any], n_rows: int) -> tuple[float, float]:
    """The median seconds a row, and the median ratio to a plain forward's."""
    run()
    n_plain = min(n_rows, 2 * (game.batch_size or 1))
    rounds = [in_turn(game, run, n_rows, n_plain)[1:] for _ in range(ROUNDS)]
    seconds, ratio = np.median(rounds, axis=0)
    return float(seconds), float(ratio)


def drawn_pairs(n: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """So many of all pairs, in order."""
    pairs = np.array(list(combinations(range(n), 2)))
    return pairs[np.sort(rng.permutation(len(pairs))[:count])]


def against_limit(
    name: str, game: sm.ModelGame, n_pairs: int, n_dense: int, n_gradients: int
) -> Iterator[Row]:
    rng, n = np.random.default_rng(0), len(game)
    heads = np.arange(n_heads(game))
    pairs = drawn_pairs(len(heads), n_pairs, rng)
    neurons = np.array([rng.choice(np.arange(len(heads), n), 2, False) for _ in range(n_pairs)])
    dense = MaskBatch.of_kept(rng.random((n_dense, n)) < 0.5).ablated
    lost = np.arange(n_gradients)[:, None] * n // n_gradients
    some = torch.from_numpy(MaskBatch.of_rows(lost, n).kept())
    runs: dict[str, tuple[Callable[[], Any], int]] = {
        "single heads": (partial(game.ablating, heads[:, None]), len(heads)),
        f"pairs of heads ({len(pairs):,})": (partial(game.ablating, pairs), len(pairs)),
        f"random pairs of neurons ({n_pairs:,})": (partial(game.ablating, neurons), n_pairs),
        "dense masks": (partial(game.ablating, dense), n_dense),
        "gradients at single ablations": (partial(game.value_and_slopes, some), n_gradients),
    }
    for what, (run, n_masks) in runs.items():
        _, ratio = ratios(game, run, n_masks * len(game.prompts))
        yield {"model": name, "work": what, "ratio": ratio}


def n_heads(game: sm.ModelGame) -> int:
    return sum(unit.kind == "head" for unit in game.components.units)


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
    share = 5 if options.quick else 1
    game, name = story_game(options.models), "story 260K, 8 texts x 32, all scored"
    yield from against_limit(name, game, 2000 // share, 200 // share, 500 // share)
    model = sm.load_model(options.models / "stories3m")
    task = prompts(options.models, model, "ioi", 8)
    game = sm.ModelGame(model, task, all_units(model), replay=True)
    name = "story 3M, 8 prompts of IOI"
    yield from against_limit(name, game, 2000 // share, 100 // share, 500 // share)


def compiled(options: Options) -> Iterator[Row]:
    """What ``compile=True`` takes of the time without it, on single heads."""
    options.must_be_full()
    for name, game in random_games():
        same = sm.ModelGame(game.model, game.task, game.components, replay=True, compile=True)
        lost = np.arange(n_heads(game))[:, None]
        runs = [
            [timed(partial(one.ablating, lost))[1] for one in (same, game)]
            for _ in range(1 + ROUNDS)
        ]
        ratio = np.median([mine / without for mine, without in runs[1:]])
        yield {"model": name, "work": "single heads", "ratio": float(ratio)}


def against_peers(options: Options) -> Iterator[Row]:
    """Every single head (quick: of one layer) of GPT-2-small's shape ablated to zero, on 4
    prompts of 16 tokens."""
    game = sm.ModelGame(gpt2(), random_task(4, 16, 50257), ablation="zero", replay=True)
    yield from beside_peers(game, [3] if options.quick else range(12), [*peers.PEERS])


def beside_peers(game: sm.ModelGame, layers: Iterable[int], names: Sequence[str]) -> Iterator[Row]:
    """Single heads of a GPT-2 by ours and by what others offer: time as a ratio to a plain forward
    and to ours, and how far apart the values are."""
    n_heads, tokens = game.model.config.n_head, game.prompts.tokens
    masks = [[(layer, head)] for layer in layers for head in range(n_heads)]
    lost = np.array([[layer * n_heads + head] for ((layer, head),) in masks])
    want, n_rows = game.ablating(lost).numpy(), len(masks) * len(tokens)
    _, ours = ratios(game, lambda: game.ablating(lost), n_rows)
    yield {"method": "spex_mech", "ratio": ours, "times_ours": 1.0}
    for name in names:
        run, row = partial(peers.PEERS[name], game.model, tokens, tokens[:, :2]), {"method": name}
        try:
            run(masks[:13])
        except Exception as error:
            yield row | {"failure": f"{type(error).__name__}: {str(error)[:120]}"}
            continue
        got, _, ratio = in_turn(game, partial(run, masks), n_rows, min(256, n_rows))
        apart = float(abs(got - want).max())
        yield row | {"ratio": ratio, "times_ours": ratio / ours, "largest_difference": apart}


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
    for what, values in options.some(sizes.items()):
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
            seconds, _ = ratios(game, partial(game.ablating, lost), n_rows)
            cost = {"ms_per_evaluation": 1e3 * seconds * size["n_prompts"]}
            yield {"what": what, "size": value} | cost


def draw(rows: list[Row], file: Path) -> None:
    names = {
        "n_layer": "layers", "n_embd": "width", "n_prompts": "prompts",
        "n_pos": "positions", "neurons": "neurons beside 48 heads",
    }  # fmt: skip
    with panels(file, 1, 5, (12, 2.9)) as axes:
        for ax, (what, name) in zip(axes, names.items(), strict=True):
            mine = rows_of(rows, part="growth", what=what)
            ax.plot([r["size"] for r in mine], [r["ms_per_evaluation"] for r in mine], "o-")
            ax.set(xlabel=name, yscale="log")
            if what != "neurons":
                ax.set_xscale("log", base=2)
            ax.grid(alpha=0.3)
        axes[0].set_ylabel("ms an evaluation of a pair")


PARTS = {
    "limit": limit,
    "compiled": compiled,
    "peers": against_peers,
    "growth": growth,
}

if __name__ == "__main__":
    script(__doc__, "throughput", PARTS, draw, rounds=ROUNDS)
