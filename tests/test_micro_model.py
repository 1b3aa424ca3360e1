"""A model small enough to be worked out by hand: two heads that AND, two neurons that OR.

One layer, width 2, one position. Both heads always pass 1 to the residual stream's first number, so
it is 2; two neurons each read that number minus 1.5 (AND: both heads are needed) through a ReLU,
0.5, doubled to 1. Its output is ``min(1, neuron 0 + neuron 1)``: one neuron is enough (OR).

With zero ablation the metric is therefore 1 if (head 0 and head 1 and (neuron 0 or neuron 1)), else
0. Intact f = 1, and by hand, for every pair I = f(ij gone) - f(i gone) - f(j gone) + f:

- H0, H1: 0 - 0 - 0 + 1 = +1 (in series: the damage overlaps, AND-like)
- N0, N1: 0 - 1 - 1 + 1 = -1 (backup: the damage compounds, OR-like)
- a head and a neuron: 0 - 0 - 1 + 1 = 0
- H0, H1, N0: f(all gone) - (pairs) ... = 0, as N0 alone matters to nothing
- Hi, N0, N1: -0 + (0 + 0 + 0) - (0 + 1 + 1) + 1 = +1 with this sign convention below
"""

import torch
from torch import Tensor, nn

import spex_mech as sm


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.o = nn.Linear(2, 1, bias=False)
        self.o.weight.data = torch.ones(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.ones(*x.shape, 2))


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(2, 1, bias=False)
        self.down.weight.data = torch.ones(1, 2)

    def forward(self, residual: Tensor) -> Tensor:
        each = 2 * torch.relu(residual - 1.5)
        return self.down(each.expand(*each.shape[:-1], 2))


class AndThenOr(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(), MLP()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mlp(self.attn(tokens)).clamp(max=1)


ARCHITECTURE = sm.Architecture(heads=("attn.o",), neurons=("mlp.down",), n_heads=2)


def micro_game() -> sm.ModelGame:
    model = AndThenOr()
    task = sm.Task(sm.Prompts([[0], [0]]), lambda output, prompts: output[:, -1, 0])
    units = sm.Components.heads(ARCHITECTURE) + sm.Components.neurons(
        model, architecture=ARCHITECTURE
    )
    return sm.ModelGame(model, task, units, ablation="zero", architecture=ARCHITECTURE)


def test_every_value_is_the_formula() -> None:
    game = micro_game()
    assert game.labels == ["L0H0", "L0H1", "L0N0", "L0N1"]
    masks = torch.cartesian_prod(*[torch.tensor([False, True])] * 4)
    h0, h1, n0, n1 = masks.T
    torch.testing.assert_close(game(masks)[:, 0], (h0 & h1 & (n0 | n1)).double(), rtol=0, atol=0)


def test_the_map_is_the_one_worked_out_by_hand() -> None:
    found = sm.discover(micro_game(), method="exhaustive", order=3)
    assert found.main_effects.tolist() == [-1, -1, 0, 0]
    want = {
        ("L0H0", "L0H1"): 1,
        ("L0N0", "L0N1"): -1,
        ("L0H0", "L0N0"): 0,
        ("L0H0", "L0N1"): 0,
        ("L0H1", "L0N0"): 0,
        ("L0H1", "L0N1"): 0,
        # A head without which the neurons do nothing takes their backup with it: the triple undoes
        # the pair, -1 + 1. With one neuron there is nothing to undo.
        ("L0H0", "L0N0", "L0N1"): 1,
        ("L0H1", "L0N0", "L0N1"): 1,
        ("L0H0", "L0H1", "L0N0"): 0,
        ("L0H0", "L0H1", "L0N1"): 0,
    }
    assert {names: found.value(*names) for names in want} == want
    assert len(found) == len(want)
    readings = dict(zip(map(tuple, found.units.tolist()), found.readings, strict=True))
    assert readings[0, 1, -1] == "AND-like"
    assert readings[2, 3, -1] == "OR-like"
    assert readings[0, 2, -1] == "noise"


def test_neurons_of_an_architecture_without_a_model_say_the_cure() -> None:
    import pytest

    with pytest.raises(ValueError, match="pass the model and the architecture"):
        sm.Components.neurons(ARCHITECTURE)
