"""Train the small GPT-2 type model that the demo and the tests use.

The model learns two synthetic tasks, one task per row:

* repeat: BOS, a segment of distinct random tokens, then the same segment again and again. From
  the second copy on, the next token is found by induction.
* count: BOS, then ``a, a + s, a + 2 s, ...`` modulo the number of content tokens, with ``s`` in
  ``STRIDES``. The stride is announced by the first two tokens, and the sums need the MLPs.

Run it from the repository root::

    python scripts/train_demo_model.py --out spex_mech/data/demo

It takes about three minutes on one CPU thread and writes ``config.json``, ``model.safetensors`` and
``README.md``, so that ``GPT2LMHeadModel.from_pretrained(out)`` needs no network.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

BOS = 0
VOCAB_SIZE = 96
N_CONTENT = VOCAB_SIZE - 1
CONTEXT = 64
STRIDES = (1, 2, 3)
MIN_SEGMENT, MAX_SEGMENT = 4, 31
BATCH_SIZE = 32
REPEAT_SHARE = 0.7
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.1
HEAD_PENALTY = 0.01
WARMUP_STEPS = 200
DEFAULT_STEPS = 3000
EVAL_LENGTHS = (10, 16, 22, 28)
EVAL_ROWS = 256


def make_config() -> GPT2Config:
    """Return the configuration of the demo model."""
    return GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_positions=CONTEXT,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_inner=256,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=BOS,
        eos_token_id=None,
    )


def repeat_rows(lengths: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Rows of BOS and a segment of distinct random tokens, repeated up to ``width`` tokens."""
    n_rows = lengths.shape[0]
    order = torch.rand(n_rows, N_CONTENT, generator=generator).argsort(dim=1) + 1
    index = torch.arange(width - 1)[None, :] % lengths[:, None]
    bos = torch.full((n_rows, 1), BOS)
    return torch.cat([bos, order.gather(1, index)], dim=1)


def count_rows(n_rows: int, width: int, generator: torch.Generator) -> Tensor:
    """Rows of BOS and an arithmetic sequence modulo the number of content tokens."""
    start = torch.randint(N_CONTENT, (n_rows, 1), generator=generator)
    choice = torch.randint(len(STRIDES), (n_rows, 1), generator=generator)
    stride = torch.tensor(STRIDES)[choice]
    tokens = (start + stride * torch.arange(width - 1)[None, :]) % N_CONTENT + 1
    return torch.cat([torch.full((n_rows, 1), BOS), tokens], dim=1)


def training_batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return tokens and next-token targets."""
    n_repeat = round(BATCH_SIZE * REPEAT_SHARE)
    lengths = torch.randint(MIN_SEGMENT, MAX_SEGMENT + 1, (n_repeat,), generator=generator)
    repeats = repeat_rows(lengths, CONTEXT, generator)
    counts = count_rows(BATCH_SIZE - n_repeat, CONTEXT, generator)
    tokens = torch.cat([repeats, counts])
    return tokens, tokens[:, 1:]


def learning_rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to zero."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return warmup * 0.5 * (1 + math.cos(math.pi * step / steps))


def loss_of(model: GPT2LMHeadModel, tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy of the next token."""
    logits = model(input_ids=tokens, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def head_penalty(model: GPT2LMHeadModel) -> Tensor:
    """Sum over the heads of the Frobenius norms of their value and output matrices.

    The sum of norms (a group lasso) favours one strong head over several that back one another
    up, which is what makes the mechanism of the demo model easy to read.
    """
    config = model.config
    total = torch.zeros(())
    for block in model.transformer.h:
        value = block.attn.c_attn.weight[:, 2 * config.n_embd :]
        output = block.attn.c_proj.weight
        for part in (value.T, output):
            total = total + part.reshape(config.n_head, -1).norm(dim=1).sum()
    return total


def train(seed: int, steps: int) -> GPT2LMHeadModel:
    """Train a model from scratch and return it in evaluation mode."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = GPT2LMHeadModel(make_config())
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps)
    )
    model.train()
    bar = tqdm(range(steps), mininterval=2.0)
    for step in bar:
        tokens, targets = training_batch(generator)
        loss = loss_of(model, tokens, targets)
        # No penalty in the first third: heads pulled to zero before they do anything never start.
        ramp = min(1.0, max(0.0, 3 * step / steps - 1))
        objective = loss + ramp * HEAD_PENALTY * head_penalty(model)
        optimizer.zero_grad()
        objective.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()


@torch.no_grad()
def accuracies(model: GPT2LMHeadModel, seed: int, n_rows: int = EVAL_ROWS) -> dict[str, float]:
    """Next-token accuracies on fresh rows, by task."""
    generator = torch.Generator().manual_seed(seed + 1_000_003)
    result = {}
    for length in EVAL_LENGTHS:
        lengths = torch.full((n_rows,), length)
        tokens = repeat_rows(lengths, 1 + 2 * length, generator)
        guess = model(input_ids=tokens).logits[:, :-1].argmax(-1)
        hit = (guess == tokens[:, 1:]).float()
        # The first token of the second copy is left out: nothing says that the segment has ended.
        result[f"repeat, segment of {length}"] = hit[:, length + 1 :].mean().item()
    tokens = count_rows(n_rows, CONTEXT, generator)
    guess = model(input_ids=tokens).logits[:, :-1].argmax(-1)
    hit = (guess == tokens[:, 1:]).float()
    result["count, from the third token on"] = hit[:, 2:].mean().item()
    return result


CARD = """\
# Demo model of spex_mech

A small GPT-2 type language model for the demo and the tests of spex_mech. It is trained on
synthetic token sequences only, from scratch, by

    python scripts/train_demo_model.py --seed {seed} --steps {steps}

in {minutes:.1f} minutes on one CPU thread, and its weights were not edited afterwards.

- **Size:** {n_layer} layers of {n_head} heads, width {n_embd}, MLP width {n_inner}, vocabulary of
  {vocab_size} tokens (0 is BOS and nothing else), context of {n_positions}, {n_parameters:,}
  parameters, float32.
- **Tasks, one per row:** *repeat* (BOS, then a segment of {shortest} to {longest} distinct random
  tokens again and again, solved by induction), and *count* (BOS, then `a, a + s, a + 2 s, ...`
  modulo the {n_content} content tokens, `s` in {strides}).
- **Training:** {steps:,} steps of {batch} rows with AdamW. A penalty on the norms of the heads'
  value and output matrices ({penalty:g} times their sum) keeps heads from backing one another up,
  so the heads of this model are tidier than those of a model trained without it.
- **Licence:** MIT.

Next-token accuracy on {n_rows} fresh rows a task. For *repeat* it is over the second copy of the
segment without its first token, as nothing announces the end of the first copy.

| task | accuracy |
| --- | --- |
{table}
"""


def model_card(model: GPT2LMHeadModel, args: argparse.Namespace, minutes: float) -> str:
    """Measure the accuracies, print them, and return the text of the model card."""
    scores = accuracies(model, args.seed)
    for task, score in scores.items():
        print(f"{task}: {score:.4f}")
    config = model.config
    return CARD.format(
        seed=args.seed,
        steps=args.steps,
        minutes=minutes,
        n_layer=config.n_layer,
        n_head=config.n_head,
        n_embd=config.n_embd,
        n_inner=config.n_inner,
        vocab_size=config.vocab_size,
        n_positions=config.n_positions,
        n_parameters=model.num_parameters(),
        shortest=MIN_SEGMENT,
        longest=MAX_SEGMENT,
        n_content=N_CONTENT,
        strides=STRIDES,
        batch=BATCH_SIZE,
        penalty=HEAD_PENALTY,
        n_rows=EVAL_ROWS,
        table="\n".join(f"| {task} | {score:.4f} |" for task, score in scores.items()),
    )


def main() -> None:
    """Train the model and write it and its model card."""
    parser = argparse.ArgumentParser(description="Train the small model of the demo.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=DEFAULT_STEPS)
    parser.add_argument("--out", type=Path, default=Path("spex_mech/data/demo"))
    args = parser.parse_args()
    # One thread, so that the order of floating-point sums does not depend on the machine's cores.
    torch.set_num_threads(1)
    start = time.perf_counter()
    model = train(args.seed, args.steps)
    minutes = (time.perf_counter() - start) / 60
    print(f"trained in {minutes:.1f} minutes")
    args.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(args.out)
    # The model has no tokenizer and no generation defaults worth a file of their own.
    (args.out / "generation_config.json").unlink(missing_ok=True)
    (args.out / "README.md").write_text(model_card(model, args, minutes), encoding="utf-8")


if __name__ == "__main__":
    main()
