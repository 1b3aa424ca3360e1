"""What games, tasks, prompts and units say of themselves: one line, and a small table that shows
texts as texts."""

from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

import spex_mech as sm


@pytest.fixture(scope="module")
def demo() -> Any:
    return sm.load_model("demo")


class Table(HTMLParser):
    """The tags of a page and the rows of its table."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.cells: list[str] = []
        self.feed(page)
        self.rows = dict(zip(self.cells[::2], self.cells[1::2], strict=True))

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


def rows_of(shown: Any) -> dict[str, str]:
    return Table(shown._repr_html_()).rows


def test_a_game_of_a_model(demo: Any) -> None:
    task = sm.load_task("induction", demo, n_prompts=3)
    game = sm.ModelGame(demo, task, "heads+neurons", ablation="zero")
    assert repr(game) == (
        "ModelGame(demo; induction; log_prob; 3 prompts of 33 tokens; zero ablation; "
        "8 heads and 512 neurons: L0H0, L0H1, L0H2, L0H3, ...)"
    )
    assert rows_of(game) == {
        "model": "demo",
        "task": "induction",
        "metric": "log_prob",
        "prompts": "3 prompts of 33 tokens",
        "ablation": "zero ablation",
        "units": "8 heads and 512 neurons: L0H0, L0H1, L0H2, L0H3, ...",
    }
    coarse = sm.ModelGame(demo, task, "L0H3", precision="bfloat16")
    assert rows_of(coarse)["precision"] == "bfloat16"
    assert rows_of(coarse)["units"] == "1 head: L0H3"


def test_units_and_prompts(demo: Any) -> None:
    late = sm.Components.neurons(demo, layers=[1])
    units = "256 neurons: L1N0, L1N1, L1N2, L1N3, ..."
    assert rows_of(late) == {"units": units, "layers": "1 of 2"}
    mask = [[1, 1, 1], [1, 1, 0]]
    prompts = sm.Prompts([[4, 5, 6], [7, 8, 8]], mask, answers=[1, 2], clusters=[0, 0])
    assert repr(prompts) == "Prompts(2 prompts of 3 tokens, attention_mask, answers)"
    assert rows_of(prompts) == {
        "prompts": "2 prompts of 3 tokens",
        "length": "2 to 3 tokens without padding",
        "answers": "up to 1 for each prompt",
        "clusters": "1",
    }


class Angles:
    """A tokenizer all of whose tokens are markup."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f"<b>{i}</b>" for i in ids)


def test_a_task_shows_texts_as_texts() -> None:
    prompts = sm.Prompts([[4, 5]], answers=[1], wrong_answers=[2])
    task = sm.Task(prompts, "logit_diff", name="<i>mine</i>", decode=Angles())
    page = Table(task._repr_html_())
    assert page.tags == {"div", "b", "table", "tbody", "tr", "th", "td"} and "<i>" not in repr(page)
    assert page.rows == {
        "prompts": "1 prompt of 2 tokens",
        "metric": "logit_diff",
        "the first": "'<b>4</b><b>5</b>'",
        "answer": "'<b>1</b>'",
        "not": "'<b>2</b>'",
    }
    assert "<i>" not in task._repr_html_() and "<b>4" not in task._repr_html_()


def test_a_class_is_not_shown_as_a_token() -> None:
    """The answer "negative" was shown as '[PAD]', the token of its number."""
    classifier = sm.load_model("sentiment")
    task = sm.text_task(classifier, "The film was <b>bad</b>.", "negative")
    assert repr(task).endswith(
        "the first is 'The film was <b>bad</b>.', score log-probability of class negative"
    )
    game = sm.TokenGame(classifier, task)
    page = Table(game._repr_html_())
    assert page.rows["text"] == "'The film was <b>bad</b>.'" and "PAD" not in repr(game)
    assert page.rows["score"] == "log-probability of class negative"
    assert page.rows["units"] == "10 tokens: 1:the, 2:film, 3:was, 4:<, ..."


@pytest.mark.parametrize(
    ("groups", "units"),
    [(None, "4 examples: 0, 1, 2, 3"), ([[0, 1], [2, 3]], "2 groups of 4 examples: 0+1, 2+3")],
)
def test_a_game_of_training(groups: Any, units: str) -> None:
    x, y = np.eye(4), [1.0, 0, 1, 0]
    game = sm.TrainingGame.ridge(x, y, x_test=x, y_test=y, groups=groups)
    assert repr(game) == f"TrainingGame(ridge; {units})"
    assert rows_of(game) == {"training": "ridge", "units": units}


def test_nothing_is_computed_to_be_shown(demo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in a cell must not run a model of billions of weights."""
    game = sm.ModelGame(demo, sm.load_task("induction", demo, n_prompts=2))
    monkeypatch.setattr(type(demo), "forward", None)
    assert "8 heads" in repr(game) and "8 heads" in game._repr_html_()
