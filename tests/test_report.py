"""The report: its words and escaping, and, in a headless Chromium, that it works and stays put."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import spex_mech as sm
from spex_mech.circuits.circuit import Circuit, Group, Link, Part, Reason, Score
from spex_mech.games.model_game import tokens_sha256
from spex_mech.report.page import summary

HEADS = ["L0H0", "L0H1", "L1H0", "L1H1"]
VALUES = {
    ("L0H0", "L1H0"): 3.0,
    ("L0H1", "L1H0"): -2.0,
    ("L0H0", "L1H1"): 0.5,
    ("L0H0", "L0H1"): 1e-9,
}
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(2)>",
    "</script></style></title><svg onload=alert(3)>",
    "\u202eright\u05d0\u05d1\u2028\U0001f9ea{{ 7*7 }}",
]
ABOUT = {
    "method": "spex",
    "model": "tiny",
    "task": "ioi",
    "ablation": "mean",
    "metric": "logit_diff",
    "n_prompts": 2,
    "seed": 3,
    "versions": {"spex_mech": "0.1.0"},
}


def a_result(labels: list[str] = HEADS, **about: Any) -> sm.Interactions:
    units = np.array([[HEADS.index(a), HEADS.index(b)] for a, b in VALUES])
    means = np.array(list(VALUES.values()))
    return sm.Interactions(
        labels,
        units,
        np.stack([0.9 * means, 1.1 * means], axis=1),
        np.array([[-3.0, -3.2], [-1, -1], [-2, -2], [0.5, 0.7]]),
        np.array([2.0, 3.0]),
        noise_floor=1e-6,
        cost={"evaluations": 9, "gradients": 1, "seconds": 0.5},
        about=ABOUT | about,
    )


def a_task(texts: list[str] | None = None) -> sm.Task:
    prompts = sm.Prompts([[0, 1, 2, 3], [3, 2, 1, 0]], answers=[1, 2], wrong_answers=[2, 1])
    words = texts or ["the", " cat", "\n", ""]
    return sm.Task(prompts, "logit_diff", "ioi", lambda ids: [words[i] for i in ids])


def page(found: sm.Interactions, tmp_path: Path, **options: Any) -> str:
    return sm.write_report(found, tmp_path / "r.html", **options).read_text(encoding="utf-8")


# -- words ----------------------------------------------------------------------------------------


def test_summary_says_what_was_found() -> None:
    words = dict(summary(a_result()))
    assert words["What was asked"] == (
        "Which of 4 units of tiny interact on the task ioi, ablated by their mean? The metric "
        "(logit_diff) of the intact model is 2.5, averaged over 2 prompts."
    )
    assert words["What was found"] == (
        "The strongest AND-like pair is L0H0 x L1H0, +3 \u00b1 0.3 (logit difference); their "
        "damage overlaps: they work in series. The strongest OR-like pair is L0H1 x L1H0, "
        "\u22122 \u00b1 0.2 (logit difference); their damage compounds: one backs the other up. "
        "Above the noise floor are 3 interactions: 1 AND-like, 1 OR-like, 1 mixed."
    )
    assert "1 of 4 are at or under the noise floor of 1e\u221206" in words["How sure this is"]
    of_function = dict(summary(a_result(resolution="float64")))["How sure this is"]
    assert "floor of 1e\u221206, what float64 values of their size cannot resolve." in of_function
    assert "over 2 prompts; 0 have" in words["How sure this is"]
    assert words["What it cost"].startswith("9 evaluations (one is a mask over all prompts;")
    assert "All pairs would take 11 evaluations." in words["What it cost"]
    assert words["What was missed"] == (
        "It is not known: 2 pairs were not measured, and none of them was audited."
    )


def test_summary_of_an_audit_and_of_all_pairs() -> None:
    audit = {"n_tested": 7, "k": 100, "recall": 0.9, "recall_low": 0.8, "recall_high": 0.95}
    audit |= {"energy_found": 12.0, "energy_missed": 1.5, "energy_low": 1.0, "energy_high": 2.0}
    missed = dict(summary(replace(a_result(), audit=audit)))["What was missed"]
    assert missed.startswith("7 pairs drawn at random")
    assert "0.90 of the true 100 strongest" in missed and "0.80 to 0.95" in missed
    assert "found 12, missed 1.5 (1 to 2)" in missed
    assert "exclude" not in missed
    blind = dict(summary(replace(a_result(), audit=audit | {"recall_by_tests": 0.02})))
    assert "exclude a recall below 0.02 only" in blind["What was missed"]
    pair = replace(a_result(), labels=HEADS[:2], units=np.array([[0, 1]]), values=np.ones((1, 2)))
    pair = replace(pair, main_effects_by_prompt=-np.ones((2, 2)))
    assert dict(summary(pair))["What was missed"] == "No pair: all were measured."


def test_summary_of_one_prompt_and_of_nothing() -> None:
    found = a_result()
    one = replace(
        found,
        values=found.values[:, :1],
        main_effects_by_prompt=found.main_effects_by_prompt[:, :1],
        intact_by_prompt=np.ones(1),
    )
    assert "There is one prompt, so that there are no standard errors" in str(summary(one))
    assert "The values are estimates (index SII)" in str(
        summary(a_result(estimated=True, index="SII"))
    )
    silent = replace(a_result(), noise_floor=9.0)
    assert "No interaction above the noise floor" in str(summary(silent))


def test_a_report_of_triples_of_units_without_layers(tmp_path: Path) -> None:
    found = sm.Interactions(
        ["a", "b", "c"], np.array([[0, 1, 2]]), np.ones((1, 1)), np.full((3, 1), np.nan), np.ones(1)
    )
    text = page(found, tmp_path)
    assert "There is no pair to draw." in text and "<bdi>a</bdi> x <bdi>b</bdi>" in text
    assert "No main effect was measured." in text and "sm.discover(game)" in text


def test_an_empty_result_has_a_report(tmp_path: Path) -> None:
    empty = replace(a_result(), units=np.zeros((0, 2), int), values=np.zeros((0, 2)))
    assert "No interaction was measured." in page(empty, tmp_path)


def test_how_to_reproduce(tmp_path: Path) -> None:
    text = page(a_result(task="a b;c"), tmp_path)
    assert "spex-mech discover --model tiny --task &#39;a b;c&#39; --method spex --seed 3" in text
    assert "--units L0H0,L0H1,L1H0,L1H1" in text
    # What the command line cannot say is said in Python.
    without = page(a_result(options={"gradients": False, "top": 20}), tmp_path)
    assert "sm.discover(game, method=&#39;spex&#39;, seed=3, gradients=False, top=20)" in without
    assert "spex-mech discover" not in page(a_result(ablation="given"), tmp_path)
    student = page(a_result(method="proxyspex", proxy="student"), tmp_path)
    assert "sm.discover(game, method=&#39;proxyspex&#39;, proxy=..., seed=3)" in student
    assert "&lt;mine&gt;" in page(a_result(), tmp_path, command="<mine>")


def test_a_long_table_is_cut_and_says_so(tmp_path: Path) -> None:
    labels = [f"L{layer}H{head}" for layer in range(6) for head in range(6)]
    pairs = np.array([(i, j) for i in range(36) for j in range(i)])
    found = sm.Interactions(labels, pairs, np.ones((630, 2)), -np.ones((36, 2)), np.ones(2))
    assert "The 500 strongest of 630; the result file holds them all." in page(found, tmp_path)


# -- prompts and circuits -------------------------------------------------------------------------


def test_prompts_are_shown_token_by_token(tmp_path: Path) -> None:
    text = page(a_result(), tmp_path, task=a_task())
    tokens = re.findall(r'<bdi class="token( read)?"[^>]*>([^<]*)</bdi>', text)
    first = [("", "the"), ("", " cat"), ("", "\u21b5"), (" read", "\u2205")]
    assert tokens[:4] == first
    assert tokens[4:6] == [("", " cat"), ("", "\u21b5")]  # right, wrong


def test_tokens_without_texts_are_ids(tmp_path: Path) -> None:
    task = replace(a_task(), decode=None)
    assert "No tokenizer was given: ids are shown." in page(a_result(), tmp_path, task=task)
    tokenizer = SimpleNamespace(decode=lambda ids: f"w{ids[0]}")
    assert ">w3</bdi>" in page(a_result(), tmp_path, task=task, tokenizer=tokenizer)


def test_other_prompts_are_refused(tmp_path: Path) -> None:
    task = a_task()
    page(a_result(tokens_sha256=tokens_sha256(task.prompts)), tmp_path, task=task)
    with pytest.raises(ValueError, match="the task 'ioi' has other prompts than those of the res"):
        page(a_result(tokens_sha256="0"), tmp_path, task=task)
    with pytest.raises(ValueError, match="has other prompts"):
        page(a_result(), tmp_path, task=replace(task, prompts=task.prompts[:1]))


def a_circuit(labels: list[str] = HEADS) -> Circuit:
    a, b, c = (labels[unit] for unit in (0, 2, 3))
    link = Link((a, b), 3.0, 0.3, "AND-like")
    score = Score(0.25, 0.05, (Part((a,), (b,), 0.25, 0.05), Part((b,), (), -0.5, np.nan)))
    return Circuit(
        labels,
        np.array([True, False, True, False]),
        {
            a: Reason(-3.1, -2.0, (link,), "main effect"),
            b: Reason(-2.0, -2.5, (link,), "interactions"),
        },
        (Group("series", (a, b), (a, b)), Group("backup", (b, c), (b,))),
        (link,),
        faithfulness=Score(0.93, 0.02),
        completeness=Score(0.1, np.nan),
        minimality=score,
        intact=2.5,
        empty=0.0,
        n_prompts=2,
        stability=Score(0.8, 0.1),
        importance=np.array([3.1, 0.5, 2.5, 0.4]),
    )


def test_a_circuit_is_shown(tmp_path: Path) -> None:
    text = page(a_result(), tmp_path, circuit=a_circuit())
    assert "2 of 4 units: <bdi>L0H0</bdi> x <bdi>L1H0</bdi>" not in text
    assert "2 of 4 units: <bdi>L0H0</bdi>, <bdi>L1H0</bdi>" in text
    assert "<dt>faithfulness</dt><dd>0.93 \u00b1 0.02</dd>" in text
    assert "<dt>completeness</dt><dd>0.1</dd>" in text
    assert "<dt>minimality</dt><dd>0.25 \u00b1 0.05</dd>" in text
    assert "series: <bdi>L0H0</bdi>, <bdi>L1H0</bdi>" in text
    assert "backup: <bdi>L1H0</bdi>, <bdi>(L1H1)</bdi>" in text  # left out
    rows = re.findall(r"<tr>((?:<td><bdi>.*?</bdi></td>)+)</tr>", text)
    cells = [re.findall(r"<bdi>(.*?)</bdi>", row) for row in rows]
    assert [row[:7] for row in cells] == [
        ["L1H0", "\u22122", "\u22122.5", "\u22120.5", "", "", "interactions"],
        ["L0H0", "\u22123.1", "\u22122", "0.25", "0.05", "L1H0", "main effect"],
    ]


# -- escaping -------------------------------------------------------------------------------------


def hostile_page(tmp_path: Path) -> Path:
    circuit = a_circuit(HOSTILE)
    found = a_result(
        HOSTILE, lens="tokens", task=HOSTILE[0], model=HOSTILE[2], note={"x": HOSTILE[1]}
    )
    return sm.write_report(
        found, tmp_path / "h.html", task=a_task(HOSTILE), circuit=circuit, title=HOSTILE[2]
    )


def test_nothing_from_outside_is_markup(tmp_path: Path) -> None:
    text = hostile_page(tmp_path).read_text(encoding="utf-8")
    assert text.count("<script") == 1 and text.count("</script") == 1
    assert not re.search(r"<(img|svg onload|style[^>]*onload)", text)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "{{ 7*7 }}" in text  # not worked out by the template


def test_a_page_asks_for_nothing(tmp_path: Path) -> None:
    text = page(a_result(), tmp_path, task=a_task())
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", text)
    assert "url(http" not in text and "@import" not in text


def test_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        page(a_result(), tmp_path)
    assert list(tmp_path.iterdir()) == []


# -- in a browser ---------------------------------------------------------------------------------

Open = Callable[..., Any]


def first_rows(page: Any, selector: str = "#pairs-table tbody tr:not([hidden]) td:first-child"):
    return page.locator(selector).all_inner_texts()


@pytest.mark.slow
def test_opens_without_error_or_request(opened: Open, tmp_path: Path) -> None:
    at = opened(sm.write_report(a_result(), tmp_path / "r.html", task=a_task()))
    assert at.page.locator("h1").inner_text() == "Interactions: tiny, ioi"
    assert at.wrong == []


@pytest.mark.slow
def test_sorting_by_mouse_and_keyboard(opened: Open, tmp_path: Path) -> None:
    at = opened(sm.write_report(a_result(), tmp_path / "r.html"))
    assert first_rows(at.page)[0] == "L0H0 x L1H0"
    head = at.page.locator("#pairs-table th", has_text="Interaction")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert first_rows(at.page)[-1] == "L0H1 x L1H0"
    at.page.keyboard.press("Enter")  # the button has the focus
    assert head.get_attribute("aria-sort") == "ascending"
    assert first_rows(at.page)[0] == "L0H1 x L1H0"
    at.page.locator("#pairs-table th button").first.focus()
    at.page.keyboard.press("Space")
    assert first_rows(at.page) == ["L0H0 x L0H1", "L0H0 x L1H0", "L0H0 x L1H1", "L0H1 x L1H0"]
    assert at.page.locator("#pairs-table th[aria-sort]").count() == 1
    assert at.wrong == []


@pytest.mark.slow
def test_filtering(opened: Open, tmp_path: Path) -> None:
    page = opened(sm.write_report(a_result(), tmp_path / "r.html")).page
    page.locator("#filter-text").fill("l1h0")
    assert first_rows(page) == ["L0H0 x L1H0", "L0H1 x L1H0"]
    assert page.locator("#shown").inner_text() == "2 of 4 shown"
    page.locator("#filter-reading").select_option("OR-like")
    assert first_rows(page) == ["L0H1 x L1H0"]
    page.locator("#filter-reset").click()
    assert len(first_rows(page)) == 4
    page.locator("#filter-noise").check()
    assert len(first_rows(page)) == 3


@pytest.mark.slow
def test_maps_by_mouse_and_keyboard(opened: Open, tmp_path: Path) -> None:
    at = opened(sm.write_report(a_result(), tmp_path / "r.html"))
    page, tip = at.page, at.page.locator("#tip")
    cell = page.locator('[aria-label^="Map"] [data-row="0"][data-column="2"]')
    cell.hover()
    assert tip.inner_text() == "L0H0 x L1H0\n+3 \u00b1 0.3\nAND-like"
    cell.click()
    assert not tip.is_visible()
    assert first_rows(page) == ["L0H0 x L1H0"]
    page.locator("#filter-reset").click()

    page.locator(".skip").focus()
    while page.evaluate("!document.activeElement.matches('.map')"):
        page.keyboard.press("Tab")
    assert "L0H0 x L0H1" in tip.inner_text()  # the first cell that was measured
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    status = page.locator('figure:has([aria-label^="Map"]) .status')
    assert status.inner_text() == "L0H1 x L1H0, \u22122 \u00b1 0.2, OR-like"
    page.keyboard.press("Enter")
    assert first_rows(page) == ["L0H1 x L1H0"]
    assert at.wrong == []


@pytest.mark.slow
def test_network_edges_hover_and_filter(opened: Open, tmp_path: Path) -> None:
    page = opened(sm.write_report(a_result(), tmp_path / "r.html")).page
    edge = page.locator('[aria-label^="Network"] g[data-filter="L0H1 L1H0"]')
    edge.locator(".badge").hover()
    assert page.locator("#tip").inner_text().startswith("L0H1 x L1H0\n\u22122")
    assert edge.locator(".edge").get_attribute("stroke-dasharray") == "7 4"
    page.locator('[aria-label^="Network"] g[data-filter="L1H0"] circle').click()
    assert first_rows(page) == ["L0H0 x L1H0", "L0H1 x L1H0"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
def test_hostile_texts_do_nothing_and_are_shown(opened: Open, tmp_path: Path, width: int) -> None:
    at = opened(hostile_page(tmp_path), width)
    for button in at.page.locator("th button").all():
        button.click()
    at.page.locator("#filter-text").fill("<script>")
    at.page.locator('[aria-label^="Map"] [data-row]').first.hover()
    assert at.page.locator("#tip").inner_text().startswith(HOSTILE[0])
    assert at.wrong == []
    assert at.page.locator("h1").inner_text() == HOSTILE[2]
    assert at.page.locator("img").count() == 0
    tokens = at.page.locator("#prompts .token").all_inner_texts()
    assert tokens[:3] == HOSTILE[:3]
    assert at.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_sideways_scrolling_on_a_phone(opened: Open, tmp_path: Path, scheme: str) -> None:
    labels = [f"L{layer}H{head}" for layer in range(6) for head in range(6)]
    pairs = np.array([(i, j) for i in range(36) for j in range(i)])
    values = np.random.default_rng(0).standard_normal((630, 2))
    found = sm.Interactions(labels, pairs, values, -np.ones((36, 2)), np.ones(2), about=ABOUT)
    at = opened(sm.write_report(found, tmp_path / "r.html", circuit=a_circuit()), 360, scheme)
    assert at.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert at.page.evaluate("document.querySelector('.map').scrollWidth") > 360
    assert at.wrong == []


CONTRASTS = """() => {
  const canvas = document.createElement('canvas').getContext('2d');
  const parse = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = {};
  for (const e of document.querySelectorAll('main *, header *, nav *, footer')) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || e.closest('svg') && e.classList.contains('on')) continue;
    const style = getComputedStyle(e);
    const text = light(parse(e.closest('svg') ? style.fill : style.color));
    const paper = light(behind(e));
    const ratio = (Math.max(text, paper) + 0.05) / (Math.min(text, paper) + 0.05);
    const name = `${e.tagName}.${e.getAttribute('class') ?? ''}`;
    found[name] = Math.min(found[name] ?? 99, ratio);
  }
  return found;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(opened: Open, tmp_path: Path, scheme: str) -> None:
    path = sm.write_report(a_result(), tmp_path / "r.html", task=a_task(), circuit=a_circuit())
    page = opened(path, scheme=scheme).page
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 27)"}[scheme]
    ratios = page.evaluate(CONTRASTS)
    assert len(ratios) > 15
    low = {name: ratio for name, ratio in ratios.items() if ratio < 4.5}
    assert low == {}
