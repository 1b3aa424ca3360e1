"""The picture of training examples: its pairs, its edges, and that no text is markup."""

import base64
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

import spex_mech as sm
from spex_mech.plots.examples import example_pairs

SVG = "{http://www.w3.org/2000/svg}"
TEXTS = ["a cat", "a cat too", "<img src=x onerror=alert(1)>", '"quoted" & \u202eleft', "x" * 300]


def a_result() -> sm.Interactions:
    """0 and 1 stand in for one another, 2 and 3 are worth something together only."""

    def value(masks: torch.Tensor) -> torch.Tensor:
        kept = masks.double()
        either = kept[:, 0] + kept[:, 1] - kept[:, 0] * kept[:, 1]
        return torch.stack([either + 3 * kept[:, 2] * kept[:, 3], either + kept[:, 2]], dim=1)

    return sm.discover(value, n=5, progress=False)


def on_many_points(seed: int = 0) -> sm.Interactions:
    """The same with thirty test points, on each of which the sizes differ a little."""
    size = torch.from_numpy(1 + 0.2 * np.random.default_rng(seed).standard_normal(30))

    def value(masks: torch.Tensor) -> torch.Tensor:
        kept = masks.double()
        either = kept[:, 0] + kept[:, 1] - kept[:, 0] * kept[:, 1]
        return (either + 3 * kept[:, 2] * kept[:, 3])[:, None] * size

    return sm.discover(value, n=5, progress=False)


def test_what_is_not_significant_pulls_nowhere() -> None:
    found = a_result()  # two test points, on which the pair (2, 3) is 3 and 0
    assert found.verdicts[int(abs(found.mean).argmax())] == "not significant"
    html = sm.plot_examples(found).html
    assert "cannot be told" in html and "together" not in html
    paths = re.findall(r'stroke-opacity="([0-9.]+)"><title>2 x 3', html)
    assert paths == ["0.30"]


def test_one_point_has_no_error() -> None:
    found = sm.discover(lambda masks: masks.all(dim=1).double(), n=3, progress=False)
    html = sm.plot_examples(found).html
    assert repr(sm.plot_examples(found)) == "ExamplesPicture()"
    assert "nan" not in html and "±" not in html and "±" in sm.plot_examples(a_result()).html


def test_what_an_example_does_alone_may_not_be_known() -> None:
    mains = np.array([[-1.0], [np.nan], [0.5]])
    pairs, values = np.array([[0, 1], [1, 2]]), np.array([[2.0], [-1.0]])
    found = sm.Interactions(["a", "b", "c"], pairs, values, mains, np.ones(1))
    html = sm.plot_examples(found).html
    assert "nan" not in html and "<title>b: main effect not measured</title>" in html
    assert html.count("alone not measured") == 2 and "alone -1<" in html


def test_pairs_are_the_strongest_over_the_noise() -> None:
    pairs = example_pairs(a_result(), 10)
    assert [(pair.units, pair.reading) for pair in pairs] == [
        ((2, 3), "not significant"),
        ((0, 1), "not significant"),  # two points, however equal, prove nothing
    ]
    many = {pair.units: pair.reading for pair in example_pairs(on_many_points(), 10)}
    assert many == {(2, 3): "AND-like", (0, 1): "OR-like"}
    assert [pair.value for pair in pairs] == pytest.approx([1.5, -1.0])
    assert pairs[0].stderr == pytest.approx(1.5) and pairs[1].stderr == pytest.approx(0)
    assert len(example_pairs(a_result(), 1)) == 1
    nothing = sm.discover(lambda masks: masks.sum(dim=1).double(), n=3, progress=False)
    with pytest.raises(ValueError, match="none over its noise floor"):
        example_pairs(nothing)


def test_edges_and_texts() -> None:
    html = sm.plot_examples(on_many_points(), TEXTS).html
    svg = ElementTree.fromstring(re.findall(r"<svg.*</svg>", html, re.DOTALL)[0])
    edges = {
        path[0].text.split(":")[0]: path.attrib  # type: ignore[union-attr]
        for path in svg.iter(f"{SVG}path")
    }
    assert set(edges) == {"0 x 1", "2 x 3"}
    assert "stroke-dasharray" in edges["0 x 1"] and "stroke-dasharray" not in edges["2 x 3"]
    assert edges["0 x 1"]["stroke"] != edges["2 x 3"]["stroke"]
    assert len(list(svg.iter(f"{SVG}circle"))) == 4 and not list(svg.iter(f"{SVG}image"))
    assert "<img src=x" not in html and "&lt;img src=x onerror=alert(1)&gt;" in html
    assert "together" in html and "against one another" in html


def test_thumbnails_are_the_images(tmp_path: Path) -> None:
    images = np.zeros((5, 4, 6))
    images[2, 1, :3] = 9
    picture = sm.plot_examples(a_result(), images=images)
    picture.save(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    found = re.findall(r'<image [^>]*href="data:image/png;base64,([^"]+)"', page)
    assert len(found) == 4 and page.startswith("<!doctype html>")
    from matplotlib.image import imread

    (tmp_path / "one.png").write_bytes(base64.b64decode(found[0]))
    shown = imread(tmp_path / "one.png")[:, :, 0]
    assert shown.shape == (4, 6) and (shown[1, :3] < 0.1).all() and (shown[2] > 0.9).all()
    colour = sm.plot_examples(a_result(), images=np.zeros((5, 2, 2, 3), dtype=np.uint8))
    assert colour.html.count("data:image/png") == 8


def test_lengths_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 texts for 5 units"):
        sm.plot_examples(a_result(), ["a", "b"])
    with pytest.raises(ValueError, match="1 images for 5 units"):
        sm.plot_examples(a_result(), images=np.zeros((1, 2, 2)))
