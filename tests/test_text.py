"""The picture of a text: what is drawn, in which colour, and that nothing of a token is markup."""

from dataclasses import replace
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
