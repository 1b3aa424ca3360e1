"""The figures that the README states are those of the committed benchmark results."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROSE = " ".join(README.split())
BENCHMARKS = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
BENCHMARKS_PROSE = " ".join(BENCHMARKS.split())


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def cell(row_starts: str, column: int) -> float:
    """A number of the README's table of figures."""
    (line,) = [x for x in README.splitlines() if x.startswith(f"| {row_starts}")]
    return float(line.split("|")[column + 1].strip().replace(",", ""))


def mean_recall(game: str, method: str, budget: int, key: str) -> float:
    rows = [
        r[key]
        for r in results("recovery")["rows"]
        if (r["game"], r["method"], r["budget"]) == (game, method, budget)
        and r["part"] not in ("heads_one_draw", "story_rivals")  # one draw, beside rivals
    ]
    assert rows, (game, method, budget)
    return float(np.mean(rows))


def test_story_model_table() -> None:
    game = "story 260K, 900 units"
    for name, method, key in (
        ("SPEX, top 100", "spex", "recall@100"),
        ("SPEX, top 500", "spex", "recall@500"),
        ("ProxySPEX, top 100", "proxyspex", "recall@100"),
        ("SPEX without gradients, top 100", "spex, no gradients", "recall@100"),
        ("ProxySPEX without gradients, top 100", "proxyspex, no gradients", "recall@100"),
        ("products of main effects, top 100", "products of main effects", "recall@100"),
    ):
        for column, budget in enumerate((900, 1350, 1800, 2700, 3600, 5400), start=1):
            if budget == 900 and ("without" in name or "main" in name):
                continue  # main effects alone cost that much
            want = mean_recall(game, method, budget, key)
            assert abs(cell(name, column) - want) < 0.0051, (name, budget, want)


def test_heads_against_the_other_tools() -> None:
    game, budget = "story 260K, 40 heads", 410
    stated = re.search(
        r"SPEX finds ([\d.]+) of the true top 50 \(([\d.]+) without gradients\); the ProxySPEX and "
        r"SPEX of shapiq and spectralexplain find at most ([\d.]+), a LASSO on pairs ([\d.]+), "
        r"products of main effects (\d\.\d+)",
        PROSE,
    )
    assert stated
    others = [
        f"{tool} {name}" for tool in ("shapiq", "spectralexplain") for name in ("ProxySPEX", "SPEX")
    ]
    lasso = [f"LASSO on pairs, {masks}" for masks in ("half masks", "near intact")]
    for text, methods in zip(
        stated.groups(),
        (["spex"], ["spex, no gradients"], others, lasso, ["products of main effects"]),
        strict=True,
    ):
        want = max(mean_recall(game, method, budget, "recall@50") for method in methods)
        assert abs(float(text) - want) < 0.0051, (methods, want)


def test_ioi_figures() -> None:
    runs = [r for r in results("recovery_ioi")["runs"] if r["evaluations_per_unit"] == 1.0]
    stated = re.search(r"(\d[\d,]*) evaluations, one a unit, .* by either method", PROSE)
    assert stated and {r["method"] for r in runs} == {"spex", "proxyspex"}
    for run in runs:
        assert int(stated[1].replace(",", "")) == run["evaluations"]
        assert run["found_of_top_100_among_150_strong_units"] == 1.0
        assert run["of_which_found"] == run["random_pairs_as_strong_as_the_100th"] == 0


def test_planted_figures() -> None:
    rows = [
        r
        for r in results("recovery")["rows"]
        if (r["game"], r["method"]) == ("n = 10,000, 100 pairs", "spex")
    ]
    stated = re.search(r"100 pairs planted among 10,000 units are found with some ([\d,]+)", PROSE)
    assert stated
    mean = np.mean([r["candidates_after"] for r in rows])
    assert abs(int(stated[1].replace(",", "")) - mean) < 100
    assert min(r["recall of order 2"] for r in rows) == 1.0


def test_throughput_figures() -> None:
    rows = results("throughput")["rows"]
    table = [
        x.split("|")[1:-1] for x in README.splitlines() if x.startswith("| GPT-2-small's shape")
    ]
    table += [x.split("|")[1:-1] for x in README.splitlines() if x.startswith("| Llama-1B's width")]
    table += [x.split("|")[1:-1] for x in README.splitlines() if x.startswith("| story ")]
    assert len(table) == 4
    for name, *cells in table:
        mine = [r for r in rows if r["part"] == "limit" and r["model"].startswith(name.strip())]
        assert [float(c) for c in cells] == [pytest.approx(r["ratio"], abs=0.0051) for r in mine]


def test_token_figures() -> None:
    text = BENCHMARKS
    rows = [r for r in results("lenses")["rows"] if r["part"] == "tokens"]
    assert len(rows) == 39

    def cells(masking: str, wanted: str) -> list[float | None]:
        found: dict[int, list[float]] = {148: [], 370: [], 740: []}
        for r in rows:
            if r["game"].endswith(masking) and r["method"].startswith(wanted):
                found[r["budget"]] += [] if r["recall"] is None else [r["recall"]]
        return [max(scores, default=None) for scores in found.values()]

    table = [
        ("SPEX, gradients (mean embedding)", cells("mean", "spex_mech spex")),
        ("SPEX, values only (mean embedding)", cells("mean", "spex_mech spex, values")),
        ("best of shapiq's four (SVARM-IQ, KernelSHAP-IQ)", cells("mean", "shapiq")),
        ("SPEX, values only (attention masking)", cells("attention", "spex_mech spex")),
        ("best of shapiq's four", cells("attention", "shapiq")),
    ]
    for name, scores in table:
        stated = " | ".join("-" if s is None else f"{s:.2f}" for s in scores)
        assert f"| {name} | {stated} |" in text


def test_size_of_a_store() -> None:
    rows = {row["masks"]: row for row in results("store_size")["rows"]}
    pairs, halves = (rows[kind]["gigabytes"] for kind in ("pairs", "halves"))
    assert f"take {pairs:.2f} GB as pairs and {halves:.2f} GB as random halves" in PROSE
    assert rows["pairs"]["evaluations"] == rows["halves"]["evaluations"] == 1_000_000
    assert f"a gradient takes {rows['gradients']['bytes_each'] / 1e6:.1f} MB more" in PROSE
    assert max(row["seconds_to_open"] for row in rows.values()) < 0.1  # "within 0.1 s"


def test_circuit_figures() -> None:
    text = BENCHMARKS
    lines = [line.removeprefix("| ") for line in text.splitlines()]
    rows = results("circuits")["rows"]
    tasks, known = ([r for r in rows if r["part"] == x] for x in ("faithfulness", "recovery"))
    assert len(tasks) == 8 and len(known) == 16
    names = ("ours", "main effects", "gradient x activation", "integrated gradients")
    names = (*names, "conditional ablation")
    for task in tasks:
        name = "demo, induction" if task["task"] == "demo" else task["task"]
        (line,) = [x for x in lines if x.startswith(f"{name} |")]
        scores = [task["cmd"]["curves"][rival]["cmd"] for rival in names]
        stated = [float(cell) for cell in line.split("|")[1:-1]]
        assert stated == [pytest.approx(score, abs=0.00051) for score in scores]
    for model in known:
        name, metric = model["model"], model["metric"]
        if "tracr" in name:
            name += f", {metric}"
        (line,) = [x for x in lines if x.startswith(f"{name}, known |")]
        alone, *stated = [float(cell) for cell in line.split("|")[1:-1]]
        assert alone == pytest.approx(model["score_of_known"], abs=0.0051)
        scores = [model["rankings"][rival]["roc"] for rival in names]
        assert stated == [pytest.approx(score, abs=0.0051) for score in scores]


def test_worker_figures() -> None:
    text = BENCHMARKS_PROSE
    rows = results("cluster")["rows"]
    eight, sixty_four = (row["share"] for row in rows if row["part"] == "pace")
    assert f"busy to {eight:.2f} and 64 to {sixty_four:.2f}" in text
    assert f"kept busy to {sixty_four:.2f} by a driver on two shared cores" in PROSE
    (overhead,) = (row for row in rows if row["part"] == "overhead")
    assert overhead["same"] and f"takes {overhead['ratio']:.2f} times as long as none" in text


def levels(method: str, against: str, what: str) -> int:
    return sum(game["methods"][against][f"{method} gains"][what] for game in pruned())


def pruned() -> list[dict[str, Any]]:
    return [row for row in results("pruning")["rows"] if "left_out" not in row]


def test_pruning_figures() -> None:
    text = BENCHMARKS_PROSE
    assert len(pruned()) == 6 and "on six games" in text
    best = "surrogate, corrected"
    n, none, random, above, below = (
        levels(best, "LASSO, 10 B", "ahead"),
        levels(best, "LASSO, 10 B", "behind"),
        levels(best, "best of random, 10 B", "ahead"),
        levels(best, "greedy", "ahead"),
        levels(best, "greedy", "behind"),
    )
    assert none == 0
    assert (
        f"LASSO with 10 B masks at {n} of 18 levels and behind at none, ahead of the best" in text
    )
    assert f"random subsets at {random}, ahead of greedy" in text
    assert f"greedy ablation (1.5 to 3.2 B) at {above} and behind at {below}." in text
    ahead, behind = (levels("search", "LASSO, 10 B", what) for what in ("ahead", "behind"))
    assert f"({ahead} ahead, {behind} behind)" in text
    assert f"greedy ablation at {levels('search', 'greedy', 'behind')}." in text
    heads = {
        method: [draw["methods"][method]["heads"] for draw in draws]
        for draws in [r["knock_out"] for r in pruned() if "260k, text" in r["part"]]
        for method in ("search", "LASSO, 10 B")
    }
    ours, lasso = heads.values()
    stated = f"({min(ours)} to {max(ours)}; LASSO {min(lasso)} to {max(lasso)})"
    assert stated in text


def test_growth_figures() -> None:
    text = BENCHMARKS_PROSE
    fits = {
        row["what"]: row["exponent"]
        for row in results("growth")["fits"]
        if row["of"] == "spex, 100 pairs"
    }
    evaluations, host, memory = fits.values()
    assert f"grow as n^{evaluations:.2f} from 300 to 40,000 units, the host's" in text
    assert f"n^{host:.2f}, memory beyond imports as n^{memory:.2f}." in text


def span(values: Any, digits: int = 2) -> str:
    low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def test_limits_page() -> None:
    page = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
    text = " ".join(page.split())
    figures = results("robustness")
    for n in (100, 200):
        for method, name in (("spex", "SPEX"), ("proxyspex", "ProxySPEX")):
            cells = [
                span([r["recall"] for r in figures["recall"]["rows"]
                      if (r["n"], r["method"], r["ratio"]) == (n, method, ratio)])
                for ratio in (None, 100, 30, 10, 3)
            ]  # fmt: skip
            assert f"| {n}, {name} | {' | '.join(cells)} |" in page
    errors = {r["prompts"]: r for r in figures["errors"]["rows"] if r["noise"] == "normal"}
    few, many = errors[8], errors[64]
    times = [r["shown"] / r["true"] for r in (few, many)]
    assert f"{times[0]:.1f} times too large with 8 prompts and {times[1]:.1f} times" in text
    for kind, words in (
        ("selected_t", "intervals hold {} and {} of the truth"),
        ("selected_counted", "counts the choice, {} and {}"),
        ("confirmed_t", "on other prompts {} and {}"),
    ):
        covered = [f"{r[kind]['coverage']:.2f}" for r in (few, many)]
        assert words.format(*covered) in text
    rows = figures["discoveries"]["rows"]
    skewed = [r for r in rows if r["noise"] == "skewed"]
    false = span([r["found"]["rate"] for r in skewed if r["n_real"]])
    assert f"at q <= 0.1, {false} was false" in text
    assert f"up to {max(r['confirmed']['rate'] for r in skewed):.2f} after" in text
    even = span([r["found"]["rate"] for r in rows if r["noise"] != "skewed"])
    assert f"symmetric effects it is {even}." in text
    for tail, name in (("none", "nothing else"), ("normal", "normal"), ("heavy", "heavy-tailed")):
        both = [r for r in figures["audit"]["rows"] if r["tail"] == tail]
        cells = [
            " / ".join(f"{value:.2f}" for value in values)
            for values in (
                [r["recall"]["coverage"] for r in both],
                [r["recall_width"] for r in both],
                [r["energy"]["coverage"] for r in both],
            )
        ]
        (line,) = [x for x in page.splitlines() if x.startswith(f"  | {name}")]
        assert line.endswith(f"| {' | '.join(cells)} |")
    for key in ("boot", "real"):
        drawn = [r for r in figures["stability"]["rows"] if r["noise"] == "normal"]
        assert " / ".join(f"{r[key]:.2f}" for r in drawn) in text
    shares = [r["share_busy"] for r in results("growth")["workers"] if "3M" in r["game"]]
    assert f"could use {shares[0]:.2f} of the time of 8 workers, and {shares[1]:.2f} of 64" in text


def test_robustness_figures() -> None:
    text = BENCHMARKS_PROSE
    figures = results("robustness")
    rows = figures["recall"]["rows"]
    strong = span([r["recall"] for r in rows if r["ratio"] in (None, 100, 30)])
    weak = span([r["recall"] for r in rows if r["ratio"] == 3])
    assert f"top 20 pairs are found ({strong})" in text and f"hardly ({weak}) where" in text
    triples = [r["recall_3"] for r in figures["shapes"]["rows"] if "triples" in r["shape"]]
    assert f"Triples are found by both searches ({span(triples)} at 30" in text
    audits = {
        tail: [r for r in figures["audit"]["rows"] if r["tail"] == tail]
        for tail in ("none", "normal", "heavy")
    }
    energy = span([r["energy"]["coverage"] for r in audits["normal"]])
    assert f"those of the energy missed in {energy} over a normal tail" in PROSE
    assert all(abs(r["energy"]["coverage"] - 0.5) < 0.05 for r in audits["heavy"])  # "in half"
    assert min(r["recall"]["coverage"] for rows in audits.values() for r in rows) >= 0.95
    assert "the truth in 0.95 of runs and more" in PROSE


def test_all_rivals_on_heads() -> None:
    text = BENCHMARKS
    rows = [r for r in results("recovery")["rows"] if r["part"] == "heads_one_draw"]
    assert len(rows) == 20
    for r in rows:
        if not r["method"].startswith(("exhaustive", "proxyspex, ", "spex, ")):
            share = "-" if r.get("failure") else f"{r['recall@50']:.2f}"
            assert f"| {r['method']} | {share} |" in text
    of_story = {
        r["method"]: f"{r['recall@100']:.2f}"
        for r in results("recovery")["rows"]
        if r["part"] == "story_rivals"
    }
    hessian, ours = of_story["Hessian-vector products"], of_story["spex"]
    products, patching = (
        of_story[name] for name in ("products of main effects", "attribution patching, products")
    )
    stated = (
        f"they find {hessian} of the top 100, SPEX {ours}, products of main effects {products}, "
        f"attribution patching {patching}"
    )
    assert stated in " ".join(text.split())
