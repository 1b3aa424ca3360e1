"""Ablation by a loop by hand: forward pre-hooks on the model as it stands, one mask at a time.

Nothing here asks the engine: modules are named, references averaged, metrics read and gates
differentiated anew. It is what tests compare games with.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import spex_mech as sm
from tests.families import N_HEADS

Slot = tuple[str, int, int]  # kind, layer, number of the head or neuron
Rewrite = Callable[[str, int, Tensor], Tensor]  # kind, layer, [row pos width]


@dataclass
class ByHand:
    """A model, and where its heads and neurons are.

    Args:
        places: (kind, layer) -> the projection's module, and which of its calls in a pass. It is
            called anew for each pass, as modules may be exchanged.
    """

    model: Any
    prompts: sm.Prompts
    places: Callable[[], dict[tuple[str, int], tuple[nn.Module, int]]]
    takes_cache: bool = True

    def logits(self, prompts: sm.Prompts, rewrite: Rewrite | None = None) -> Tensor:
        """``[row pos d_vocab]`` of one pass."""
        places = self.places()
        by_module: dict[nn.Module, dict[int, tuple[str, int]]] = {}
        for key, (module, call) in places.items():
            by_module.setdefault(module, {})[call] = key
        handles, counts = [], dict.fromkeys(by_module, 0)

        def hook(module: nn.Module, args: Any) -> Any:
            key = by_module[module].get(counts[module])
            counts[module] += 1
            if rewrite is None or key is None:
                return None
            n_rows = len(prompts)
            flat = args[0].reshape(n_rows, -1, args[0].shape[-1])
            return (rewrite(*key, flat).reshape(args[0].shape), *args[1:])

        for module in by_module:
            handles.append(module.register_forward_pre_hook(hook))
        try:
            with in_eval(self.model):
                given: dict[str, Any] = {"use_cache": False}
                if prompts.attention_mask is not None:
                    given["attention_mask"] = prompts.attention_mask.long()
                if not self.takes_cache or "Bert" in type(self.model).__name__:
                    del given["use_cache"]
                output = self.model(prompts.tokens, **given)
        finally:
            for handle in handles:
                handle.remove()
        return output if isinstance(output, Tensor) else output.logits

    @torch.no_grad()
    def seen(self, prompts: sm.Prompts) -> dict[tuple[str, int], Tensor]:
        """Intact activations by place."""
        found: dict[tuple[str, int], Tensor] = {}

        def record(kind: str, layer: int, act: Tensor) -> Tensor:
            found[kind, layer] = act.clone()
            return act

        self.logits(prompts, record)
        return found

    def references(
        self, ablation: str, other: sm.Prompts | None, given: Mapping[tuple[str, int], Tensor]
    ) -> dict[tuple[str, int], Tensor]:
        """What replaces the activations at each place: it broadcasts to ``[row pos width]``."""
        prompts = self.prompts
        if ablation == "given":
            return dict(given)
        source = prompts if other is None else other
        if ablation == "resample":
            assert prompts.corrupted is not None
            source = prompts.replaced(tokens=prompts.corrupted, corrupted=None)
        acts = self.seen(source)
        if ablation == "resample":
            return acts
        if ablation == "zero":
            return {key: torch.zeros_like(act[:1, :1]) for key, act in acts.items()}
        real = source.real[:, :, None].double()
        if ablation == "mean":
            return {k: (a * real).sum((0, 1)).to(a) / real.sum() for k, a in acts.items()}
        assert ablation == "mean_per_position"
        n_pos = prompts.tokens.shape[1]
        count = real.sum(0).clamp(min=1)
        return {k: ((a * real).sum(0) / count).to(a)[:n_pos] for k, a in acts.items()}

    def values(
        self,
        gates: Tensor,
        slots: list[list[Slot]],
        references: Mapping[tuple[str, int], Tensor],
        metric: Callable[[Tensor, sm.Prompts], Tensor],
    ) -> Tensor:
        """The metric of each row of gates ``[mask unit]``, 1 = kept, on each prompt."""
        unit_of = {slot: unit for unit, several in enumerate(slots) for slot in several}
        rows = []
        for gate in gates:

            def rewrite(kind: str, layer: int, act: Tensor, gate: Tensor = gate) -> Tensor:
                n_slots = N_HEADS if kind == "head" else act.shape[-1]
                units = [unit_of.get((kind, layer, slot)) for slot in range(n_slots)]
                if all(unit is None for unit in units):
                    return act
                one = gate.new_ones(())
                kept = torch.stack([one if unit is None else gate[unit] for unit in units])
                kept = kept.repeat_interleave(act.shape[-1] // n_slots).to(act)
                reference = references[kind, layer].to(act)
                return reference + kept * (act - reference)

            rows.append(metric(self.logits(self.prompts, rewrite), self.prompts).double())
        return torch.stack(rows)

    def slopes(self, gates: Tensor, *rest: Any) -> Tensor:
        """The derivative of the prompt mean by each gate, ``[mask unit]``."""
        leaf = gates.clone().requires_grad_()
        with torch.enable_grad():
            total = self.values(leaf, *rest).mean(dim=1).sum()
        return torch.autograd.grad(total, leaf)[0]


@contextmanager
def in_eval(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, as a game runs a model in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def take_at_most(module: nn.Module, rows: int) -> Any:
    """Let a module run out of memory at more rows; returns the handle that ends it."""

    def refuse(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if len(args[0]) > rows:
            raise torch.OutOfMemoryError("out of memory, as asked for")

    return module.register_forward_pre_hook(refuse)


# -- metrics, of logits [row pos d_vocab] ---------------------------------------------------------


def _at_answer(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    last = prompts.real.sum(dim=1) - 1
    return torch.stack([row[at] for row, at in zip(logits, last.tolist(), strict=True)]).float()


def logit_diff(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    assert prompts.answers is not None and prompts.wrong_answers is not None
    at = _at_answer(logits, prompts)
    rows = range(len(at))
    right = torch.stack([at[row, prompts.answers[row]].mean() for row in rows])
    return right - torch.stack([at[row, prompts.wrong_answers[row]].mean() for row in rows])


def prob_diff(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    assert prompts.answers is not None and prompts.wrong_answers is not None
    at = torch.softmax(_at_answer(logits, prompts), -1)
    rows = range(len(at))
    right = torch.stack([at[row, prompts.answers[row]].sum() for row in rows])
    return right - torch.stack([at[row, prompts.wrong_answers[row]].sum() for row in rows])


def log_prob(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    assert prompts.answers is not None
    at = torch.log_softmax(_at_answer(logits, prompts), -1)
    return torch.stack([at[row, prompts.answers[row]].exp().sum().log() for row in range(len(at))])


def of_text(logits: Tensor, prompts: sm.Prompts) -> Tensor:
    """Mean log-probability of the real tokens but the first."""
    rows = []
    for row, tokens, real in zip(logits.float(), prompts.tokens, prompts.real, strict=True):
        n = int(real.sum())
        scores = torch.log_softmax(row[: n - 1], -1)
        rows.append(scores[torch.arange(n - 1), tokens[1:n]].mean())
    return torch.stack(rows)


def kl_to(clean: Tensor) -> Callable[[Tensor, sm.Prompts], Tensor]:
    """Minus the divergence from clean logits, where the answer is read."""

    def kl(logits: Tensor, prompts: sm.Prompts) -> Tensor:
        was = torch.log_softmax(_at_answer(clean, prompts), -1)
        return -(was.exp() * (was - torch.log_softmax(_at_answer(logits, prompts), -1))).sum(-1)

    return kl


def third_position(output: Any, prompts: sm.Prompts) -> Tensor:
    """A metric of one's own, which reads elsewhere than answers are."""
    logits = output if isinstance(output, Tensor) else output.logits
    return logits[:, 2].float().square().mean(-1)
