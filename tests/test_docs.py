"""The documentation: built without network, and every public name is in its reference."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import spex_mech as sm
from scripts.draw_layers import FILE, ROWS, drawing
from tests.test_hygiene import LAYERS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    ended = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    pages = "".join(p.read_text(encoding="utf-8") for p in (site / "reference").glob("*.html"))
    missing = [
        name for name in sm.__all__ if not re.search(rf'id="spex_mech\.[\w.]*\b{name}"', pages)
    ]
    assert missing == []
    # Docstrings are there, with their arguments and errors.
    assert "evaluations that may be spent; one mask over all prompts is one" in pages
    assert pages.count("Raises:") > 20


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]+src="(\w+:)?//', text)
        loaded += re.findall(r'<link[^>]+rel="stylesheet"[^>]+href="(\w+:)?//', text)
        assert loaded == [], page.name


def test_the_drawing_is_that_of_the_layers() -> None:
    assert [{*names.split()} for names, _, _ in ROWS] == [{*names} for names in LAYERS[1:]]
    assert sorted(int(step) for *_, steps in ROWS for step in steps.split()) == [*range(1, 11)]
    assert FILE.read_text(encoding="utf-8") == drawing(), "run scripts/draw_layers.py"


def test_the_gallery_shows_a_text_as_it_is_drawn() -> None:
    model = sm.load_model("sentiment")
    text = sm.text_task(model, "The plot was long but the acting was not bad.", "positive")
    found = sm.discover(sm.TokenGame(model, text), "exhaustive", progress=False)
    drawn, shown = sm.plot_text(found, 6).svg, (ROOT / "docs/not_bad.svg").read_text("utf-8")
    what = r'(?<=stroke=")#\w+|(?<=rgba\()\d+,\d+,\d+|stroke-dasharray|>[^<]+: |\S+(?=</title)'
    told = [re.findall(what, picture) for picture in (drawn, shown)]
    assert told[0] == told[1] and "OR-like" in told[0]
    said = " ".join((ROOT / "docs/gallery.md").read_text("utf-8").split())
    assert '"not" and "bad" make it positive only together (red, solid); "but"' in said


def test_whoever_carries_on_finds_what_the_page_names() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:spex_mech|tests|benchmarks)(?:/[\w.]+)*)`", page)
    assert len(named) > 30
    assert [path for path in named if not (ROOT / path).exists()] == []


def sentences(page: str) -> list[str]:
    """The sentences of a page in Markdown: without code, tables, pictures, marks and headings."""
    text = re.sub(r"```.*?```", "\n\n", page, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"^(\||#).*$", "", text, flags=re.M)
    blocks = re.split(r"\n\s*\n|\n(?=- |\d+\. )", text)
    joined = (" ".join(block.split()) for block in blocks)
    return [s for block in joined for s in re.split(r"(?<=[.!?:])\s+(?=[A-Z`*\"])", block) if s]


def test_the_readme_is_short() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 200
    long = [s for s in sentences(page) if len(s.split()) > 30]
    assert long == []


def test_sentences_are_told_apart() -> None:
    page = (
        "# Title of it\nOne [two](x) three. `Four` five:\n\n- six\n- seven\n\n```\nCode. Code\n```"
    )
    assert sentences(page) == ["One two three.", "`Four` five:", "- six", "- seven"]


# What of a page's tables is out of sight, and whether the page itself scrolls sideways.
CUT = """() => [...document.querySelectorAll("table")].filter((table) => {
    for (let at = table; at && at !== document.documentElement; at = at.parentElement)
        if (at.scrollWidth > at.clientWidth + 1 && getComputedStyle(at).overflowX !== "visible")
            return true;
    return false;
}).map((table) => table.innerText.slice(0, 60)).concat(
    document.documentElement.scrollWidth > innerWidth + 1 ? ["the page"] : [])"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 420])
def test_no_table_is_cut(width: int, site: Path, chromium: Any) -> None:
    """The column that matters was out of sight, and could not be seen to be there."""
    context = chromium.new_context(viewport={"width": width, "height": 900})
    page, cut, n_tables = context.new_page(), {}, 0
    for file in sorted(site.rglob("*.html")):
        page.goto(file.as_uri())
        n_tables += page.locator("table").count()
        if told := page.evaluate(CUT):
            cut[file.name] = told
    context.close()
    assert cut == {} and n_tables > 50
