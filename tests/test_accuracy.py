"""What share of a task the intact model gets right: against counts by hand."""

import pytest
import torch

import spex_mech as sm
from spex_mech.engine.accuracy import Accuracy, accuracy_of


def logits_by_hand(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).logits


def test_answers_against_wrong_answers() -> None:
    model = sm.load_model("demo")
    tokens = torch.arange(1, 25).reshape(8, 3)
    logits = logits_by_hand(model, tokens)[:, -1]
    best, worst = logits.argmax(-1), logits.argmin(-1)
    # In the first five prompts the answer is the best token, in the other three the worst.
    first = (torch.arange(8) < 5)[:, None]
    answers = torch.where(first, best[:, None], worst[:, None])
    wrong = torch.where(first, worst[:, None], best[:, None])
    found = accuracy_of(model, sm.Prompts(tokens, answers=answers, wrong_answers=wrong), "x")
    assert found == Accuracy(5, 8, "prompts", 0.5)


def test_several_answers_count_together() -> None:
    model = sm.load_model("demo")
    tokens = torch.tensor([[5, 6, 7]])
    order = logits_by_hand(model, tokens)[0, -1].argsort(descending=True)
    # The best token alone is less probable than the next eight together; -1 is no answer.
    best, next_ones = [[int(order[0])] + [-1] * 7], [order[1:9].tolist()]
    probs = logits_by_hand(model, tokens)[0, -1].softmax(-1)
    together = float(probs[order[1:9]].sum()) > float(probs[order[0]])
    prompts = sm.Prompts(tokens, answers=best, wrong_answers=next_ones)
    found = accuracy_of(model, prompts, "prob_diff")
    assert found is not None and found.right == int(not together)
    alone = accuracy_of(model, sm.Prompts(tokens, answers=best), "log_prob")
    assert alone == Accuracy(1, 1, "prompts")


def test_next_tokens_of_the_induction_task() -> None:
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, n_prompts=16, seed=3)
    guess = logits_by_hand(model, task.prompts.tokens).argmax(-1)
    right = n = 0
    for row, tokens in enumerate(task.prompts.tokens.tolist()):
        for pos in range(len(tokens) - 1):
            if task.prompts.target_mask[row, pos]:
                n += 1
                right += int(guess[row, pos]) == tokens[pos + 1]
    found = accuracy_of(model, task.prompts, "log_prob")
    assert found == Accuracy(right, n, "tokens") and found.does_task and n == 16 * 15


def test_where_nothing_can_be_told() -> None:
    model = sm.load_model("demo")
    prompts = sm.Prompts(torch.tensor([[5, 6, 7]]))
    assert accuracy_of(model, prompts, "my_metric") is None
    assert accuracy_of(model, prompts, "kl") is None


@pytest.mark.parametrize(
    ("accuracy", "does", "words"),
    [
        (Accuracy(15, 16, "prompts", 0.5), True, "The model gets 15 of 16 prompts right."),
        (Accuracy(9, 16, "prompts", 0.5), False, "no better than guessing: it does not do this"),
        (Accuracy(4, 4, "prompts", 0.5), False, "too few prompts to tell this from guessing"),
        (Accuracy(600, 1000, "prompts", 0.5), True, "gets 0.60 of 1,000 prompts right."),
        (Accuracy(3, 240, "tokens"), False, "3 of 240 tokens right: it does not do this task."),
        (Accuracy(84, 240, "tokens"), True, "The model gets 84 of 240 tokens right."),
    ],
)
def test_whether_the_model_does_the_task(accuracy: Accuracy, does: bool, words: str) -> None:
    assert accuracy.does_task is does and words in str(accuracy)


def test_a_result_keeps_it(tmp_path) -> None:
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, n_prompts=8)
    found = sm.discover(sm.ModelGame(model, task), progress=False)
    found.save(tmp_path / "run.npz")
    kept = sm.Interactions.load(tmp_path / "run.npz").about["accuracy"]
    assert kept["right"] / kept["of"] > 0.95 and kept["words"].startswith("The model gets ")
