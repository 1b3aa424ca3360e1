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
from spex_mech.circuits.circuit import Circuit
from spex_mech.circuits.explain import CircuitInteraction, Group, Membership
from spex_mech.circuits.scores import Score, SubsetScore
from spex_mech.engine.prompts import tokens_sha256
from spex_mech.report.maps import unit_map
from spex_mech.report.network import network
from spex_mech.report.reproduce import code_of
from spex_mech.report.tables import tiles
from spex_mech.report.words import summary
from spex_mech.results.confirmation import confirmation
from spex_mech.units import Unit, Units

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
    "\u202eright\u05d0\u05d1\U0001f9ea{{ 7*7 }}",
]
N_PROMPTS = 12
ABOUT = {
    "method": "spex",
    "model": "tiny",
    "task": "ioi",
    "ablation": "mean",
    "metric": "logit_diff",
    "n_prompts": N_PROMPTS,
    "seed": 3,
    "versions": {"spex_mech": "0.1.0"},
}


def a_result(labels: list[str] = HEADS, **about: Any) -> sm.Interactions:
    units = np.array([[HEADS.index(a), HEADS.index(b)] for a, b in VALUES])
    means = np.array(list(VALUES.values()))
    return sm.Interactions(
        labels,
        units,
        means[:, None] * np.linspace(0.9, 1.1, N_PROMPTS),
        np.tile([[-3.0, -3.2], [-1, -1], [-2, -2], [0.5, 0.7]], N_PROMPTS // 2),
        np.tile([2.0, 3.0], N_PROMPTS // 2),
        noise_floor=1e-6,
        cost={"evaluations": 9, "gradients": 1, "seconds": 0.5},
        about=ABOUT | about,
    )


def a_task(texts: list[str] | None = None) -> sm.Task:
    prompts = sm.Prompts(
        [[0, 1, 2, 3], [3, 2, 1, 0]] * (N_PROMPTS // 2),
        answers=[1, 2] * (N_PROMPTS // 2),
        wrong_answers=[2, 1] * (N_PROMPTS // 2),
    )
    words = texts or ["the", " cat", "\n", ""]
    return sm.Task(prompts, "logit_diff", "ioi", lambda ids: [words[i] for i in ids])


def page(found: sm.Interactions, tmp_path: Path, **options: Any) -> str:
    return sm.write_report(found, tmp_path / "r.html", **options).read_text(encoding="utf-8")


# -- words ----------------------------------------------------------------------------------------


def said(found: sm.Interactions, *labels: str, whole: bool = False, alone: bool = False) -> str:
    """The value of a pair as a report states it, with half of its interval."""
    top = found if whole else found.top(len(found))
    row = top.names.index(labels)
    if alone:
        top, row = top.take(np.array([row])), 0
    half = top.intervals()[row, 1] - top.mean[row]
    return f"{top.mean[row]:+.3g}".replace("-", "\u2212") + f" \u00b1 {half:.2g}"


def test_summary_says_what_was_found() -> None:
    found, first, second = a_result(), ("L0H0", "L1H0"), ("L0H1", "L1H0")
    words = dict(summary(found))
    assert words["What was asked"] == (
        "Which of 4 units of tiny interact on the task ioi, ablated by their mean? The metric "
        "(logit_diff) of the intact model is 2.5, averaged over 12 prompts."
    )
    assert words["What was found"] == (
        "3 of 4 interactions are significant over 12 prompts (q of 0.05 or less). "
        f"The strongest AND-like pair is L0H0 x L1H0, {said(found, *first, alone=True)} (logit "
        "difference); their damage overlaps: they work in series. The strongest OR-like pair is "
        f"L0H1 x L1H0, {said(found, *second, alone=True)} (logit difference); their damage "
        "compounds: "
        "either suffices, and one backs the other up. "
        "By their signs they are 1 AND-like, 1 OR-like, 1 mixed. "
        "None was measured again on other prompts."
    )
    sure = words["How sure this is"]
    assert "3 of 4 are resolved: they are above the noise floor of 1e\u221206" in sure
    of_function = dict(summary(a_result(resolution="float64")))["How sure this is"]
    assert "floor of 1e\u221206, what float64 values of their size cannot resolve." in of_function
    assert "3 are significant over 12 prompts, with" in sure
    assert words["What it cost"].startswith("9 evaluations (one is a mask over all prompts;")
    assert "All pairs would take 11 evaluations." in words["What it cost"]
    assert words["What was missed"] == (
        "It is not known: 2 pairs were not measured, and none of them was audited."
    )


def test_the_strongest_pair_has_one_interval_on_the_page() -> None:
    found = replace(a_result(), chosen_from={2: 1000})
    note = tiles(found)[0]["note"].removesuffix(", AND-like")
    assert note == said(found, "L0H0", "L1H0", alone=True)
    assert f"L0H0 x L1H0, {note} (" in dict(summary(found))["What was found"]


def test_every_line_of_the_network_is_on_the_picture() -> None:
    """Arcs within a layer that go to the left, and lines across many layers, were cut off."""
    labels = [*(f"L0H{i}" for i in range(12)), *(f"L{i}H0" for i in range(1, 20))]
    units = np.array([[0, 11], [1, 10], [0, 30], *([i, i + 1] for i in range(11, 30))])
    found = sm.Interactions(
        labels, units, np.full((len(units), 1), -1.0), -np.ones((len(labels), 1)), np.ones(1)
    )
    drawn = network(found)
    for edge in drawn["edges"]:
        numbers = [float(x) for x in re.findall(r"-?[\d.]+", edge["path"])]
        start, control, end = np.array(numbers).reshape(3, 2)
        middle = (start + 2 * control + end) / 4
        for x, y in (start, middle, end):
            assert drawn["left"] + 7 <= x <= drawn["left"] + drawn["width"] - 7
            assert drawn["top"] + 20 <= y <= drawn["top"] + drawn["height"] - 7


def test_two_results_stand_side_by_side(tmp_path: Path) -> None:
    found = a_result()
    other = replace(a_result(model="other", ablation="zero"), values=found.values + 1e-7)
    other.values[0] += 1  # which is over the noise floor, and no other difference is
    text = page(found, tmp_path, beside=other).split('<section id="beside">')[1].split("</sec")[0]
    rows = re.findall(r'<tr[^>]*><td class="names">.*?</tr>', text)
    assert len(rows) == 4 and "1 differ (q of 0.05 or less)." in text
    assert "L0H0 x L1H0" in rows[0] and 'data-v="1.0' in rows[0] and "noise" not in rows[0]
    assert all('class="noise"' in row for row in rows[1:])
    for first, second in (("tiny", "other"), ("mean", "zero")):
        assert f"<td><bdi>{first}</bdi></td><td><bdi>{second}</bdi></td>" in text
    assert 'id="other-map"' in text and "This (logit difference)" in text
    assert 'id="beside"' not in page(found, tmp_path)


def test_values_of_two_metrics_are_not_subtracted(tmp_path: Path) -> None:
    """Of two results in nats, one a loss, and of one that is counted in something else."""
    for metric in ("loss", "log_prob"):
        with pytest.warns(UserWarning, match="differences of them and their q-values mean nothing"):
            text = page(a_result(), tmp_path, beside=a_result(metric=metric))
        text = text.split('<section id="beside">')[1].split("</section>")[0]
        assert "no differences are shown" in text and "differ (q" not in text
        assert ">Difference<" not in text and "The other (nats)" in text


def test_a_number_that_is_wider_than_its_cell_is_a_sign() -> None:
    """+0.0022 reached into the cell beside it."""
    found = a_result()
    values = found.values.copy()
    values[2] *= 0.0044
    texts = {cell["text"] for cell in unit_map(replace(found, values=values))["cells"]}
    assert "+" in texts and max(map(len, texts)) <= 6 and "+3" in texts


def test_each_map_says_what_is_hatched(tmp_path: Path) -> None:
    labels = ["L0H0", "L0N1", "L1H0", "L1N1"]
    found = replace(a_result(labels), unit_table=Units.of_labels(labels))
    text = page(found, tmp_path)
    for title, hatched in (("Unit by unit", 1), ("Energy by layer", 1), ("Neurons, folded", 1)):
        figure = text.split(f"<h3>{title}")[1].split("</figure>")[0]
        assert figure.count("hatched: not measured") == hatched, title


@pytest.mark.parametrize(
    ("labels", "lens"),
    [
        (["L0H0", "L0H1", "L0H2", "L0H3"], None),
        (["0:not", "1:good", "2:at", "3:all"], "tokens"),
        (["7", "8", "9", "10"], "data"),
    ],
)
def test_units_side_by_side_are_not_said_to_be_in_series(
    labels: list[str], lens: str | None, tmp_path: Path
) -> None:
    found = a_result(labels) if lens is None else a_result(labels, lens=lens)
    assert "their damage overlaps: both are needed." in dict(summary(found))["What was found"]
    assert "series" not in page(found, tmp_path)


def test_units_of_two_stacks_are_not_said_to_be_in_series() -> None:
    """The two towers of a model run side by side, whatever their layers' numbers are."""
    for stacks, told in ((("text", "image"), "both are needed"), (("text",) * 2, "in series")):
        table = [Unit(f"{stacks[u // 2]}.L{u}H0", "head", u) for u in range(4)]
        labels = [unit.label for unit in table]
        found = replace(a_result(), labels=labels, unit_table=Units(table))
        assert (
            f"their damage overlaps: {'they work ' * (told == 'in series')}{told}"
            in dict(summary(found))["What was found"]
        )


def insignificant() -> sm.Interactions:
    """Nothing but noise, far over the noise floor."""
    values = np.random.default_rng(0).standard_normal((4, N_PROMPTS))
    return replace(a_result(), values=values)


MECHANISM = re.compile(r"in series|backs the other|either suffices|both are needed|(AND|OR)-like")


def test_what_is_not_significant_is_first_said_and_given_no_mechanism(tmp_path: Path) -> None:
    found = insignificant()
    first = "Nothing is significant: no interaction of 4 has a q of 0.05 or less over 12 prompts."
    assert dict(summary(found))["What was found"] == first
    text = page(found, tmp_path)
    body = re.sub(r"<[^>]+>", " ", text[text.index("<h1>") :])
    assert body.index("Nothing is significant") < body.index("What was asked")
    assert "0 of 4" in body and not MECHANISM.search(text)
    # The rows are pale, and so are the cells and the lines.
    assert len(re.findall('<tr data-reading="not significant" [^>]*class="noise">', text)) == 4
    assert "pale, without a sign: not significant" in text
    edges = re.findall(r'<path class="edge [pn]" d="M[^>]+ stroke-opacity="([0-9.]+)"', text)
    assert set(edges) == {"0.3"}
    # The test can tell: what is significant has its mechanism.
    assert MECHANISM.search(page(a_result(), tmp_path))


def test_what_was_confirmed_is_shown(tmp_path: Path) -> None:
    found = a_result()
    other = replace(found, values=found.values + 0.01 * np.sin(np.arange(N_PROMPTS)))
    again = confirmation(found.top(2), replace(other, intact_by_prompt=np.full(N_PROMPTS, 7.0)))
    text = page(found, tmp_path, confirmed=again)
    assert "Of 2 that were measured again on other prompts, 2 are confirmed." in text
    assert re.search(r"<dt>Confirmed</dt><dd><bdi>2 of 2</bdi>", text)
    assert "AND-like, confirmed" in text and text.count("<td>yes</td>") == 2
    assert '<button type="button">Confirmed</button>' in text
    assert '<button type="button">Confirmed</button>' not in page(found, tmp_path)


def test_summary_of_an_audit_and_of_all_pairs() -> None:
    audit = {"n_tested": 70, "k": 100, "recall": 0.9, "recall_low": 0.8, "recall_high": 0.95}
    audit |= {"energy_found": 12.0, "energy_missed": 1.5, "energy_low": 1.0}
    earlier = dict(summary(replace(a_result(), audit=audit)))["What was missed"]
    assert "earlier version" in earlier and "0.90" not in earlier
    audit |= {"largest_tested": 0.25, "n_larger": 31, "n_untested": 800, "cannot_tell": False}
    audit |= {"nothing_found": False, "tests_needed": 60}
    missed = dict(summary(replace(a_result(), audit=audit)))["What was missed"]
    assert missed.startswith("0.90 of the true top 100 was measured (90 %: 0.80 to 0.95).")
    assert "70 random untested pairs is 0.25; at most 31 of the other 800 are larger" in missed
    assert "12 found, some 1.5 missed and at least 1 (95 %" in missed
    unsure = replace(a_result(), audit=audit | {"cannot_tell": True, "recall_low": 0.1})
    assert "Cannot tell from 70 tests" in dict(summary(unsure))["What was missed"]
    assert "about 60 tests would do" in repr(unsure)
    nothing = replace(a_result(), audit=audit | {"cannot_tell": True, "nothing_found": True})
    assert "Nothing was found" in dict(summary(nothing))["What was missed"]
    values, mains = np.ones((1, N_PROMPTS)), -np.ones((2, N_PROMPTS))
    pair = {"labels": HEADS[:2], "units": np.array([[0, 1]]), "values": values}
    pair = replace(a_result(), **pair, main_effects_by_prompt=mains)
    assert dict(summary(pair))["What was missed"] == "No pair: all were measured."


def test_summary_of_one_prompt_and_of_nothing() -> None:
    found = a_result()
    one = replace(
        found,
        values=found.values[:, :1],
        main_effects_by_prompt=found.main_effects_by_prompt[:, :1],
        intact_by_prompt=np.ones(1),
    )
    words = dict(summary(one))
    assert words["What was found"].startswith(
        "Nothing stands out from the others. There is one prompt, so that there is no q."
    )
    assert "There is one prompt, so that there are no standard errors" in words["How sure this is"]
    assert "The values are estimates (index SII)" in str(
        summary(a_result(estimated=True, index="SII"))
    )
    silent = replace(a_result(), noise_floor=9.0)
    assert "Nothing was found: no interaction is above the noise floor." in str(summary(silent))


def test_a_report_of_triples_of_units_without_layers(tmp_path: Path) -> None:
    found = sm.Interactions(
        ["a", "b", "c"], np.array([[0, 1, 2]]), np.ones((1, 1)), np.full((3, 1), np.nan), np.ones(1)
    )
    text = page(found, tmp_path)
    assert "There is no pair to draw." in text and "<bdi>a</bdi> x <bdi>b</bdi>" in text
    assert "No main effect was measured." in text and "sm.discover(game)" in text


def test_an_empty_result_has_a_report(tmp_path: Path) -> None:
    empty = replace(a_result(), units=np.zeros((0, 2), int), values=np.zeros((0, N_PROMPTS)))
    assert "No interaction was measured." in page(empty, tmp_path)


def test_how_to_reproduce(tmp_path: Path) -> None:
    text = page(a_result(task="a b;c"), tmp_path)
    assert "prompts of the task &#39;a b;c&#39;" in text
    assert "sm.load_model(&#39;tiny&#39;)  # or the folder or hub name it came from" in text
    assert "sm.Components.named(model, [&#39;L0H0&#39;, &#39;L0H1&#39;, &#39;L1H0&#39;" in text
    assert "A line with ... is what the result does not hold." in text
    without = page(a_result(options={"gradients": False, "top": 20}), tmp_path)
    assert "sm.discover(game, method=&#39;spex&#39;, seed=3, gradients=False, top=20)" in without
    assert "ablation=references" in page(a_result(ablation="given"), tmp_path)
    student = page(a_result(method="proxyspex", proxy="student"), tmp_path)
    assert "sm.discover(game, method=&#39;proxyspex&#39;, proxy=proxy, seed=3)" in student
    assert "&lt;mine&gt;" in page(a_result(), tmp_path, command="<mine>")


def half(logits: Any, prompts: Any) -> Any:
    """A metric of one's own."""
    return logits[:, -1, 0] / 2


def loss(logits: Any, prompts: Any) -> Any:
    """Another one, called like one of the package's."""
    return logits[:, -1, 1]


def searched(game: sm.ModelGame, **options: Any) -> sm.Interactions:
    return sm.discover(game, progress=False, **options)


@pytest.fixture(scope="module")
def demo() -> Any:
    return sm.load_model("demo")


REPRODUCED: dict[str, Callable[[Any, sm.Task], sm.Interactions]] = {
    "heads": lambda model, task: searched(sm.ModelGame(model, task), top=2),
    "some units": lambda model, task: searched(sm.ModelGame(model, task, "L0H3,L0N7,L1H0")),
    "many units": lambda model, task: searched(
        sm.ModelGame(model, task, "heads+neurons"), budget=700
    ),
    "another metric": lambda model, task: searched(
        sm.ModelGame(model, sm.Task(task.prompts, "loss", name="induction"))
    ),
    "zero": lambda model, task: searched(sm.ModelGame(model, task, ablation="zero")),
    "precision": lambda model, task: searched(
        sm.ModelGame(model, task, "L0H3,L1H0", precision="bfloat16")
    ),
    "all of order 3": lambda model, task: searched(
        sm.ModelGame(model, task, "L0H3,L1H0,L1H1"), method="exhaustive", order=3
    ),
    "a proxy": lambda model, task: searched(
        sm.ModelGame(model, task, "heads"), method="proxyspex", proxy="trees", seed=2
    ),
    "measured": lambda model, task: sm.measure(
        sm.ModelGame(model, task), [("L0H3", "L1H0"), ("L1H1", "L0H2", "L0H3")], progress=False
    ),
    "backups": lambda model, task: sm.find_backups(sm.ModelGame(model, task), "L1H0", k=3),
    "backups of several": lambda model, task: sm.find_backups(
        sm.ModelGame(model, task), ["L0H3", "L1H0"], k=3
    ),
}


@pytest.mark.filterwarnings("ignore:.*bfloat16")
@pytest.mark.parametrize("name", REPRODUCED)
def test_what_reproduces_a_result_is_code_that_runs(name: str, demo: Any) -> None:
    """From the import on, with every name that it uses. A command was printed that left out the
    metric, and one for pairs that were measured again, which no command does."""
    task = sm.load_task("induction", demo, n_prompts=8)
    found = REPRODUCED[name](demo, task)
    code = code_of(found)
    assert code.startswith("import spex_mech as sm\n") and "= ..." not in code
    names: dict[str, Any] = {}
    exec(code, names)
    again = names["found"]
    assert again.names == found.names and again.about["metric"] == found.about["metric"]
    np.testing.assert_allclose(again.values, found.values, atol=1e-5)


@pytest.mark.parametrize(
    ("of", "told"),
    [
        (dict(seed=1), "other prompts"),
        (dict(metric=half), "metric"),
        (dict(metric=loss), "metric"),
    ],
)
def test_what_the_result_does_not_hold_stops_the_code(of: Any, told: str, demo: Any) -> None:
    task = sm.load_task("induction", demo, n_prompts=8, **of)
    found = searched(sm.ModelGame(demo, task, "L0H3,L1H0"))
    with pytest.raises(Exception, match=told):
        exec(code_of(found), {})


def test_what_no_code_can_say_is_said(demo: Any) -> None:
    task = sm.load_task("induction", demo, n_prompts=8)
    other = sm.load_task("induction", demo, n_prompts=8, seed=5).prompts
    code = code_of(searched(sm.ModelGame(demo, task, "L0H3,L1H0", reference=other)))
    assert "reference = ...  # the prompts that were given for the mean\n" in code
    assert ", ablation='mean', reference=reference)" in code
    custom = sm.Task(task.prompts, half, name="mine")
    code = code_of(searched(sm.ModelGame(demo, custom, "L0H3,L1H0")))
    assert "task = ...  # the 8 prompts of the task 'mine', measured by half\n" in code
    mixed = sm.Components.neurons(demo)[::-1][:70]
    code = code_of(searched(sm.ModelGame(demo, task, mixed), budget=400))
    assert 'units = sm.Components.named(model, sm.load("interactions.npz").labels)\n' in code
    function = sm.discover(lambda m: m.all(dim=1).double(), n=2, progress=False)
    assert "game = ...  # the game of 2 units that was searched\n" in code_of(function)


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
    link = CircuitInteraction((a, b), 3.0, 0.3, "AND-like")
    score = Score(
        0.25, 0.05, (SubsetScore((a,), (b,), 0.25, 0.05), SubsetScore((b,), (), -0.5, np.nan))
    )
    return Circuit(
        labels,
        np.array([True, False, True, False]),
        {
            a: Membership(-3.1, -2.0, (link,), "main effect"),
            b: Membership(-2.0, -2.5, (link,), "interactions"),
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
    rows = re.findall(r"<tr>((?:<td[^>]*><bdi>.*?</bdi></td>)+)</tr>", text)
    cells = [re.findall(r"<bdi>(.*?)</bdi>", row) for row in rows]
    assert [row[:7] for row in cells] == [
        ["L1H0", "\u22122", "\u22122.5", "\u22120.5", "", "", "interactions"],
        ["L0H0", "\u22123.1", "\u22122", "0.25", "0.05", "L1H0", "main effect"],
    ]
    # Numbers are sorted as numbers and stay in one line; the heads are words.
    assert '<td class="number" data-v="-2.5"><bdi>\u22122.5</bdi>' in rows[0]
    assert "effect inside</button>" in text and "minimality_stderr" not in text


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
    at.page.locator("#filter-noise").uncheck()
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
    assert first_rows(page) == ["L0H0 x L1H0", "L0H1 x L1H0", "L0H0 x L1H1"]  # noise is hidden
    page.locator("#filter-noise").uncheck()
    assert len(first_rows(page)) == 4
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
@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("L0H1 x L1H0", ["L0H1 x L1H0"]),  # the table's own text
        ("l1h0 x l0h1", ["L0H1 x L1H0"]),
        ("L0H* x L1H1", ["L0H0 x L1H1"]),  # the package's patterns
        ("L0H* x L0H*", ["L0H0 x L0H1"]),
        ("L1*", ["L0H0 x L1H0", "L0H1 x L1H0", "L0H0 x L1H1"]),
        ("L0H0, L1H1", ["L0H0 x L1H1"]),
        ("L0H0 x", ["L0H0 x L1H0", "L0H0 x L1H1", "L0H0 x L0H1"]),
        ("(", []),
    ],
)
def test_filtering_by_units(opened: Open, tmp_path: Path, asked: str, shown: list[str]) -> None:
    at = opened(sm.write_report(a_result(), tmp_path / "r.html"))
    at.page.locator("#filter-noise").uncheck()
    at.page.locator("#filter-text").fill(asked)
    assert first_rows(at.page) == shown
    assert at.wrong == []


@pytest.mark.slow
def test_filtering_by_q(opened: Open, tmp_path: Path) -> None:
    noisy = insignificant()
    mixed = replace(a_result(), values=np.concatenate([a_result().values[:2], noisy.values[2:]]))
    page = opened(sm.write_report(mixed, tmp_path / "r.html")).page
    page.locator("#filter-noise").uncheck()
    assert len(first_rows(page)) == 4
    slider = page.locator("#filter-q")
    slider.fill("4")
    assert page.locator("#filter-q-value").inner_text() == "0.05"
    assert first_rows(page) == ["L0H0 x L1H0", "L0H1 x L1H0"]
    page.locator("#filter-reset").click()
    assert len(first_rows(page)) == 4


@pytest.mark.slow
def test_what_if_a_unit_were_off(opened: Open, tmp_path: Path) -> None:
    at = opened(sm.write_report(a_result(), tmp_path / "r.html"))
    page, said = at.page, at.page.locator("#behind-value")
    page.locator("#pairs-table .open").first.click()  # L0H0 x L1H0: +3, alone -3.1 and -2
    assert page.locator("#behind h3").inner_text() == "L0H0 x L1H0"
    assert said.inner_text() == "the metric is 2.5"
    first, second = page.locator("#behind button").all()
    first.click()
    assert first.inner_text() == "L0H0 off" and said.inner_text() == "the metric is \u22120.6"
    second.click()
    both = "the metric is 0.4; the two alone would add up to \u22122.6"
    assert said.inner_text() == both
    first.click()
    assert said.inner_text() == "the metric is 0.5"
    told = page.locator("#behind-prompts").inner_text()
    assert told.startswith("largest on the prompts 12 (+3.3), 11 (+3.25)")
    assert at.wrong == []


@pytest.mark.slow
def test_the_table_as_a_file(opened: Open, tmp_path: Path) -> None:
    at = opened(sm.write_report(a_result(), tmp_path / "r.html"))
    at.page.locator("#filter-text").fill("L0H1")
    with at.page.expect_download() as download:
        at.page.locator("#download").click()
    path = tmp_path / "table.csv"
    download.value.save_as(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith('"Units","Size","Interaction","Std. error","q","Verdict"')
    assert len(lines) == 2 and lines[1].startswith('"L0H1 x L1H0","2.0","-2.0",')


@pytest.mark.slow
def test_maps_by_mouse_and_keyboard(opened: Open, tmp_path: Path) -> None:
    at = opened(sm.write_report(a_result(), tmp_path / "r.html"))
    page, tip = at.page, at.page.locator("#tip")
    cell = page.locator('[aria-label^="Map"] [data-row="0"][data-column="2"]')
    cell.hover()
    told = said(a_result(), "L0H0", "L1H0", whole=True)
    assert tip.inner_text() == f"L0H0 x L1H0\n{told}\nAND-like"
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
    told = said(a_result(), "L0H1", "L1H0", whole=True)
    assert status.inner_text() == f"L0H1 x L1H0, {told}, OR-like"
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


@pytest.mark.slow
@pytest.mark.parametrize("width", [420, 1400])
def test_bars_start_where_their_column_starts(opened: Open, tmp_path: Path, width: int) -> None:
    """They ended in the middle of it."""
    at = opened(sm.write_report(a_result(), tmp_path / "r.html"), width)
    at.page.locator("#filter-noise").uncheck()
    starts = """(table) => [...table.querySelectorAll('.bar')].map((bar) => {
      const cell = bar.closest('td'), head = cell.closest('table').rows[0].cells[cell.cellIndex];
      const word = document.createRange(); word.selectNodeContents(head.querySelector('button'));
      const left = bar.getBoundingClientRect().left;
      return [left - cell.getBoundingClientRect().left, left - word.getBoundingClientRect().left];
    })"""
    for table in ("#pairs-table", "#mains table"):
        for from_cell, from_word in at.page.locator(table).evaluate(starts):
            assert 0 <= from_cell < 16 and abs(from_word) < 2, table


@pytest.mark.slow
@pytest.mark.parametrize("width", [420, 1400])
def test_a_number_is_never_broken_in_two(opened: Open, tmp_path: Path, width: int) -> None:
    """Such as 4.69e-0 / 5, in the circuit's table and in all others."""
    circuit = replace(a_circuit(), completeness=Score(-4.6912e-05, 2.4e-06))
    main = {u: replace(why, main_effect=-4.6912e-05) for u, why in circuit.why.items()}
    at = opened(
        sm.write_report(a_result(), tmp_path / "r.html", circuit=replace(circuit, why=main)),
        width,
        "light",
    )
    rows = """(of) => [...document.querySelectorAll(of)].map((cell) => {
      const range = document.createRange(); range.selectNodeContents(cell);
      return new Set([...range.getClientRects()].map((r) => Math.round(r.top))).size;
    })"""
    narrow = "document.querySelectorAll('table').forEach((table) => { table.style.width = '9px' })"
    at.page.evaluate(narrow)
    for of in ("#circuit td.number", "table:not(#circuit table) td.number"):
        lines = at.page.evaluate(rows, of)
        assert lines and max(lines) == 1, (of, lines)


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


def test_a_part_does_not_call_unmeasured_what_it_leaves_out() -> None:
    found = a_result()
    part = dict(summary(found.top(1)))["What was missed"]
    whole = dict(summary(found))["What was missed"]
    assert part == f"These are 1 of {len(found)} that were measured. {whole}"
