"""Pages state the figures of the kept benchmark results, and a false one is noticed."""

import re
import shutil
from pathlib import Path

import pytest

from benchmarks import figures
from benchmarks.frame import rows_of
from benchmarks.rows import kept
from benchmarks.stated import stated

ROOT = Path(__file__).parents[1]


def test_pages_state_what_was_measured() -> None:
    assert figures.check(ROOT, stated()) == []


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("<!-- figure a -->0.93<!-- /figure -->", "README.md:2: a: the page has 0.93"),
        ("<!-- figure b -->none<!-- /figure -->", "README.md:2: b: the page has none"),
        ("<!-- figure aa -->1<!-- /figure -->", "no figure of that name (a)"),
        ("<!-- figure a -->0.94", "1 opened"),
        ("\n<!-- figure a -->0.94<!-- /figure -->", "README.md:3: a: the page has a mark at the"),
        ("", "a: on no page"),
        ("\n<!-- table t -->\n\n| | x |\n|---|---|\n| one | 3 |\n\n<!-- /table -->", "3 (one)"),
        ("\n<!-- table t -->\n\n| | x |\n|---|---|\n| two | 2 |\n\n<!-- /table -->", "two | 2"),
    ],
)
def test_a_false_figure_is_told_with_its_place(tmp_path: Path, written: str, told: str) -> None:
    known = {"a": "0.94", "b": "all", "t": [["one", "2"]]}
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "README.md").write_text("")
    (tmp_path / "README.md").write_text(f"# Title\nIt is {written}.\n")
    assert any(told in problem for problem in figures.check(tmp_path, known))


def test_sentences_may_change_and_figures_are_written_anew(tmp_path: Path) -> None:
    for page in figures.pages(ROOT):
        copied = tmp_path / page.relative_to(ROOT)
        copied.parent.mkdir(exist_ok=True)
        shutil.copy(page, copied)
    known, changed = stated(), 0
    for page in figures.pages(tmp_path):
        text = page.read_text(encoding="utf-8")
        other = text.replace(" the ", " THE ").replace(">0.9", ">0.1").replace("| 0.9", "| 0.1")
        changed += len(re.findall(r">0\.9|\| 0\.9", text))
        page.write_text(other, encoding="utf-8")
    problems = figures.check(tmp_path, known)
    assert changed > 100 and len(problems) > 50
    for page in figures.pages(tmp_path):
        page.write_text(figures.written(page.read_text(encoding="utf-8"), known), encoding="utf-8")
    assert figures.check(tmp_path, known) == []


def test_the_audit_holds_the_story_models_recall() -> None:
    """k found, of the true top k only a share R: the k-th found is at best the (2 - R) k-th."""
    rows = rows_of(kept("recovery"), part="story")
    rows = [row for row in rows if row["method"] in ("spex", "proxyspex")]
    assert len(rows) == 36
    for row in rows:
        most = 1 / (2 - row["recall@100"])
        assert row["audit"]["recall_low"] <= most <= row["audit"]["recall_high"], row
