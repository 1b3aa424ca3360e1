"""The picture of a text: what is drawn, in which colour, and that nothing of a token is markup."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import spex_mech as sm

SVG = "{http://www.w3.org/2000/svg}"
WORDS = ["not", "good", "<script>alert(1)</script>", "&amp;", "film"]


def a_result() -> sm.Interactions:
    """not and good interact AND-like, film hurts, the rest does nothing."""

    def value(masks: torch.Tensor) -> torch.Tensor:
        kept = masks.double()
        return 2 * kept[:, 0] * kept[:, 1] - 0.5 * kept[:, 4]

    labels = [f"{i}:{word}" for i, word in enumerate(WORDS)]
    return sm.discover(value, n=5, labels=labels, progress=False)


def test_what_was_not_measured_has_no_number() -> None:
    found = replace(a_result(), main_effects_by_prompt=np.full((5, 1), np.nan))
    assert "0:not: not measured" in sm.plot_text(found).svg and "nan" not in sm.plot_text(found).svg


def test_words_are_text_and_arcs_are_pairs() -> None:
    picture = sm.plot_text(a_result(), k=3)
    assert repr(picture) == "TextPicture()"  # not the whole SVG
    root = ElementTree.fromstring(picture.svg)  # well-formed: nothing broke out
    assert [text.text for text in root.iter(f"{SVG}text")] == WORDS
    arcs = list(root.iter(f"{SVG}path"))
    (strongest,) = arcs  # the other pairs are exactly zero
    assert strongest.attrib["stroke-width"] == "5.0"
    title = strongest.find(f"{SVG}title")
    assert title is not None and title.text == "0:not x 1:good: +2 AND-like"
    assert "<script>" not in picture.svg


def test_colours_tell_help_from_harm() -> None:
    root = ElementTree.fromstring(sm.plot_text(a_result()).svg)
    fills = [box.attrib["fill"] for box in root.iter(f"{SVG}rect")]
    assert fills[0] == fills[1] == "rgba(27,120,55,0.85)"  # without it: 2 less
    assert fills[4].startswith("rgba(118,42,131,0.2")  # without it: 0.5 more
    assert fills[2].endswith(",0.00)")


def test_saved_and_shown(tmp_path: Path) -> None:
    picture = sm.plot_text(a_result())
    picture.save(tmp_path / "text.html")
    page = (tmp_path / "text.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and picture.svg in page
    assert picture.svg in picture._repr_html_()


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(ValueError, match="no pairs to draw"):
        sm.plot_text(a_result().top(0))


def shown(labels: list[str]) -> tuple[list[str], list[tuple[float, float, float]]]:
    """What stands in each box, and its left edge, top and width; the SVG must be well-formed."""

    def value(masks: torch.Tensor) -> torch.Tensor:
        return masks[:, 0].double() * masks[:, -1]

    found = sm.discover(value, n=len(labels), labels=labels, progress=False)
    root = ElementTree.fromstring(sm.plot_text(found).svg)
    boxes = [
        (float(box.attrib["x"]), float(box.attrib["y"]), float(box.attrib["width"]))
        for box in root.iter(f"{SVG}rect")
    ]
    assert all(left + width <= float(root.attrib["width"]) for left, _, width in boxes)
    return [text.text or "" for text in root.iter(f"{SVG}text")], boxes


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (["0:the", "2:film", "3:."], ["the", "film", "."]),
        (["at 12:30", "a:b", "c"], ["at 12:30", "a:b", "c"]),
        (["0:a:b", "1:", "2:12:30"], ["a:b", "·", "12:30"]),
        (["12:30", "9:15", "7:00"], ["12:30", "9:15", "7:00"]),  # no positions: they fall
        (["0:x", "word", "2:y"], ["0:x", "word", "2:y"]),
        (["0:a", "1:b", "2:\ufffe"], ["a", "b", "\ufffd"]),
    ],
)
def test_labels_are_shown_as_they_are(labels: list[str], texts: list[str]) -> None:
    assert shown(labels)[0] == texts


def test_times_of_day_are_no_positions_of_tokens() -> None:
    model = sm.load_model("sentiment")
    labels = ["8:30", "9:15", "10:00", "11:45", "12:00", "13:10"]
    task = sm.text_task(model, "the film was not good .", "negative")
    game = sm.TokenGame(model, task, tokenizer=sm.load_tokenizer(model), labels=labels)
    root = ElementTree.fromstring(sm.plot_text(sm.discover(game, progress=False)).svg)
    assert [text.text for text in root.iter(f"{SVG}text")] == labels


def test_long_texts_run_over_rows_and_nothing_overlaps() -> None:
    chinese, accents = "\u7535\u5f71\u4e0d\u597d\u770b", "e\u0301e\u0301"
    words = ["word", chinese, "\N{GRINNING FACE}", accents, "\u0627\u0644\u0641"]
    _, boxes = shown([f"{i}:{words[i % 5]}{i}" for i in range(60)])
    rows = sorted({top for _, top, _ in boxes})
    assert len(rows) > 3 and max(left + width for left, _, width in boxes) < 1000
    assert all(below - above >= 22 for above, below in pairwise(rows))
    for (left, top, width), (after, next_top, _) in pairwise(boxes):
        assert after > left + width if top == next_top else after < left
    _, ((_, _, two), (_, _, wide), (_, _, accented)) = shown(
        ["0:ab", "1:" + chinese, f"2:{accents}"]
    )
    assert wide > 10 * 8 and accented == two < 30
