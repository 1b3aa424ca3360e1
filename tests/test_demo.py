"""The bundled model: what it does, and that its strongest pair is the one that makes induction."""

from pathlib import Path

import pytest
import torch

import spex_mech as sm


def attention_patterns(tokens: torch.Tensor) -> list[torch.Tensor]:
    """[row head query key] of each layer, from a copy that computes its attention eagerly."""
    from transformers import GPT2LMHeadModel

    model = sm.load_model("demo")
    eager = GPT2LMHeadModel._from_config(model.config, attn_implementation="eager")
    eager.load_state_dict(model.state_dict())
    with torch.no_grad():
        return list(eager.eval()(tokens, output_attentions=True).attentions)


def heads_by_pattern(task: sm.Task, seq_len: int) -> tuple[str, str]:
    """The previous-token head and the induction head, from where they look alone."""
    patterns = attention_patterns(task.prompts.tokens)
    n_pos = task.prompts.tokens.shape[1]
    second = torch.arange(n_pos - seq_len, n_pos)  # the second copy
    previous, after_match = {}, {}
    for layer, pattern in enumerate(patterns):
        for head in range(pattern.shape[1]):
            query = torch.arange(1, n_pos)
            previous[f"L{layer}H{head}"] = pattern[:, head, query, query - 1].mean().item()
            after_match[f"L{layer}H{head}"] = (
                pattern[:, head, second, second - seq_len + 1].mean().item()
            )
    previous_token, induction = (max(d, key=d.__getitem__) for d in (previous, after_match))
    assert previous[previous_token] > 0.5 and after_match[induction] > 0.5
    return previous_token, induction


def test_the_top_pair_is_previous_token_head_and_induction_head() -> None:
    model = sm.load_model("demo")
    for seed, seq_len in ((0, 16), (1, 16), (2, 10), (3, 24)):
        task = sm.load_task("induction", model, n_prompts=32, seed=seed, seq_len=seq_len)
        pair = heads_by_pattern(task, seq_len)
        found = sm.discover(sm.ModelGame(model, task))
        a, b = found.top(1).units[0]
        assert {found.labels[a], found.labels[b]} == set(pair)
        # In series: without either, the other is worth nothing, so nearly all the damage overlaps.
        assert found.value(*pair) > 0.8 * -max(found.main_effects[[a, b]])
        assert found.top(1).readings == ["AND-like"] and found.top(1).q_value[0] < 1e-6


def test_it_does_induction_and_counts() -> None:
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, n_prompts=64, seed=5)
    with torch.no_grad():
        guess = model(task.prompts.tokens).logits.argmax(-1)
    scored = task.prompts.target_mask[:, :-1]
    right = guess[:, :-1] == task.prompts.tokens[:, 1:]
    assert right[scored].float().mean() > 0.95

    n_content = model.config.vocab_size - 1
    rows = [
        [0, *((first + step * torch.arange(20)) % n_content + 1).tolist()]
        for step in (1, 2, 3)
        for first in range(0, 90, 7)
    ]
    tokens = torch.tensor(rows)
    with torch.no_grad():
        guess = model(tokens).logits.argmax(-1)
    assert (guess[:, 2:-1] == tokens[:, 3:]).float().mean() > 0.95
    # It counts with its MLPs: without them, nothing is left.
    neurons = sm.Components.neurons(model)
    right = sm.Task(
        sm.Prompts(tokens),
        lambda output, prompts: (
            (output[:, 2:-1].argmax(-1) == prompts.tokens[:, 3:]).float().mean(-1)
        ),
    )
    game = sm.ModelGame(model, right, neurons)
    assert game(torch.zeros(1, len(game), dtype=torch.bool)).max() < 0.1


def test_it_is_small_and_needs_no_network() -> None:
    files = list((Path(sm.__file__).parent / "data" / "demo").iterdir())
    assert sum(file.stat().st_size for file in files) < 2 * 2**20
    assert {file.name for file in files} == {"config.json", "model.safetensors", "README.md"}


def test_as_a_bridge_it_gives_the_same_interactions() -> None:
    plain, bridge = sm.load_model("demo"), sm.load_model("demo", bridge=True)
    task = sm.load_task("induction", plain, n_prompts=8)
    found = sm.discover(sm.ModelGame(plain, task))
    again = sm.discover(sm.ModelGame(bridge, task))
    assert again.labels == found.labels
    torch.testing.assert_close(
        torch.from_numpy(again.values), torch.from_numpy(found.values), rtol=1e-4, atol=1e-4
    )


def test_a_planted_backup_is_found_and_reads_or_like() -> None:
    """The induction head split into two halves that do the same: singles hardly see either."""
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, n_prompts=12)
    found = sm.discover(sm.ModelGame(model, task))
    _, induction = heads_by_pattern(task, 16)
    layer, head = (int(x) for x in induction[1:].split("H"))
    strong = found.main_effects[found.labels.index(induction)]
    idle = int(found.main_effects[-4:].argmax())  # a head of that layer that does nothing
    attention = model.transformer.h[layer].attn
    d_head = model.config.n_embd // model.config.n_head
    old, new = (slice(h * d_head, (h + 1) * d_head) for h in (head, idle))
    with torch.no_grad():
        for part in range(3):  # queries, keys, values
            shift = part * model.config.n_embd
            to, source = (slice(s.start + shift, s.stop + shift) for s in (new, old))
            attention.c_attn.weight[:, to] = attention.c_attn.weight[:, source]
            attention.c_attn.bias[to] = attention.c_attn.bias[source]
        attention.c_proj.weight[old] /= 2
        attention.c_proj.weight[new] = attention.c_proj.weight[old]
    again = sm.discover(sm.ModelGame(model, task))
    pair = (f"L{layer}H{head}", f"L{layer}H{idle}")
    singles = [again.main_effects[again.labels.index(name)] for name in pair]
    assert min(singles) > 0.5 * strong  # each alone costs far less than the head did
    row = again.frame().query("unit_a in @pair and unit_b in @pair").iloc[0]
    assert row["reading"] == "OR-like" and row["value"] < 0.4 * strong

    # Among 520 units, with no word of where to look, and 134,940 pairs.
    units = sm.Components.heads(model) + sm.Components.neurons(model)
    search = sm.discover(sm.ModelGame(model, task, units), budget=1200)
    assert search.cost["evaluations"] <= 1200
    strongest = [{search.labels[u] for u in s} for s in search.top(10).units[:, :2]]
    assert set(pair) in strongest
    assert search.value(*pair) == pytest.approx(row["value"], rel=1e-4)
