"""What README and docs state, computed from ``benchmarks/results``: every figure and table by name.

``benchmarks/figures.py`` puts them where they are marked. A name begins with the benchmark that
measured it, and a function here stands for each; a figure is text as it is written, a table the
cells of its rows (its head belongs to the page).
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"

Row = dict[str, Any]
Table = list[list[str]]
Stated = dict[str, "str | Table"]


def kept(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rows_of(rows: Iterable[Row], **where: Any) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in where.items())]


def the(rows: Iterable[Row], **where: Any) -> Row:
    """The one row that has them."""
    found = rows_of(rows, **where)
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows with {where}, not one")
    return found[0]


def mean(rows: Iterable[Row], key: str, **where: Any) -> float | None:
    """Over the rows that have the key; None where none has."""
    values = [row[key] for row in rows_of(rows, **where) if row.get(key) is not None]
    return float(np.mean(values)) if values else None


def text(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def span(values: Iterable[float], digits: int = 2) -> str:
    """The least and the largest; one number where they read the same."""
    found = list(values)
    low, high = text(min(found), digits), text(max(found), digits)
    return low if low == high else f"{low} to {high}"


def share(values: Iterable[bool | float]) -> str:
    """The least share in words where it is all or none, in digits where it is neither."""
    least = min(float(value) for value in values)
    return {1.0: "all", 0.0: "none"}.get(least, text(least))


def both(values: Iterable[float], digits: int = 2) -> str:
    return " / ".join(text(value, digits) for value in values)


def at_most(value: float) -> str:
    """The next power of ten, which the value stays below."""
    power = int(np.ceil(np.log10(value)))
    return f"1e{power}" if power < -2 else f"{10.0**power:g}"


# -- recovery --------------------------------------------------------------------------------------

STORY = "story 260K, 900 units"
HEADS = {"story 260K, 40 heads": 410, "story 3M on IOI, 36 heads": 333}
FRESH = {"story 260K, other passages, 400 units": 400, "story 3M, agreement, 300 units": 300}
MEANS_OVER_SUBSETS = (
    "shapiq KernelSHAP-IQ", "shapiq SVARM-IQ", "shapiq ProxySPEX", "shapiq SPEX",
    "spectralexplain ProxySPEX", "spectralexplain SPEX",
)  # fmt: skip
NEEDS = {"shapiq ProxySHAP": "needs shapiq 1.6, Python 3.12"}


def recovery() -> Stated:
    rows = kept("recovery")["rows"]
    return {
        **of_story(rows), **of_heads(rows), **of_fresh(rows), **of_compiled(rows),
        **of_planted(rows), **of_fourier(rows),
    }  # fmt: skip


def of_story(rows: list[Row]) -> Stated:
    mine = [row for row in rows if row["game"] == STORY and row["part"] != "story_rivals"]
    budgets = (900, 1350, 1800, 2700, 3600, 5400)

    def found(method: str, budget: int, k: int) -> float | None:
        return mean(mine, f"recall@{k}", method=method, budget=budget)

    lines = (
        ("SPEX, top 100", "spex", 100, 0), ("SPEX, top 500", "spex", 500, 0),
        ("ProxySPEX, top 100", "proxyspex", 100, 0),
        ("SPEX without gradients, top 100", "spex, no gradients", 100, 1),
        ("ProxySPEX without gradients, top 100", "proxyspex, no gradients", 100, 1),
        # Main effects alone cost the first budget.
        ("products of main effects, top 100", "products of main effects", 100, 1),
    )  # fmt: skip
    table = [
        [name, *["-"] * left_out, *(text(found(method, b, k)) for b in budgets[left_out:])]
        for name, method, k, left_out in lines
    ]
    beside = rows_of(rows, part="story_rivals")
    return {
        "recovery.story": table,
        "recovery.story.spex.1800": text(found("spex", 1800, 100)),
        "recovery.story.unfound.5400": f"{100 * (1 - (found('spex', 5400, 100) or 0)):.0f}",
        "recovery.story.without.1800": text(found("spex, no gradients", 1800, 100)),
        "recovery.story.products.1800": text(found("products of main effects", 1800, 100)),
    } | {
        f"recovery.rivals.{name}": text(the(beside, method=method)["recall@100"])
        for name, method in (
            ("hessian", "Hessian-vector products"),
            ("patching", "attribution patching, products"),
            ("products", "products of main effects"),
            ("spex", "spex"),
        )
    }


def of_heads(rows: list[Row]) -> Stated:
    every = rows_of(rows, part="heads")
    at = {game: rows_of(every, game=game, budget=budget) for game, budget in HEADS.items()}

    def scores(method: str) -> list[float | None]:
        return [
            mean(at[game], key, method=method) for key in ("recall@50", "banzhaf@50") for game in at
        ]

    def spent(method: str) -> str:
        counts = [mean(at[game], "evaluations", method=method) or 0 for game in at]
        return ", ".join(f"{count:.0f}" for count in counts)

    methods = list(dict.fromkeys(row["method"] for game in at.values() for row in game))
    table = [
        [method, *map(text, scores(method)), NEEDS.get(method) or spent(method)]
        for method in sorted(
            methods, key=lambda m: (m[:7] == "distill", m in NEEDS, _order(scores(m)))
        )
    ]
    means = [scores(method) for method in MEANS_OVER_SUBSETS]
    refused = [the(every, method="spectralexplain SPEX", budget=b) for b in (656, 533)]
    named = {
        "spex": "spex", "without": "spex, no gradients", "products": "products of main effects",
        "lasso": "LASSO on pairs, near intact", "hessian": "Hessian-vector products",
    }  # fmt: skip
    return {
        "recovery.heads": table,
        **{f"recovery.heads.{key}": text(scores(method)[0]) for key, method in named.items()},
        "recovery.heads.means.intact": span(x[0] for x in means if x[0] is not None),
        "recovery.heads.means.banzhaf": span(x[2] for x in means if x[2] is not None),
        "recovery.heads.distill.banzhaf": text(scores("distill, distilled")[2]),
        "recovery.heads.spectral.656": text(refused[0]["recall@50"]),
        "recovery.heads.spectral.533": text(refused[1]["recall@50"]),
    }


def _order(scores: list[float | None]) -> tuple[float, ...]:
    """Best first, by the first game, then the next columns."""
    return tuple(-(-1 if x is None else round(x, 2)) for x in scores)


def of_fresh(rows: list[Row]) -> Stated:
    mine = rows_of(rows, part="fresh")
    only_pairs = ("prod", "rand", "Hess", "attr")  # with one evaluation a unit nothing is left

    def cell(method: str, game: str, each: int) -> str:
        if each == 1 and method[:4] in only_pairs:
            return "-"
        return text(mean(mine, "recall@50", game=game, method=method, budget=each * FRESH[game]))

    methods = dict.fromkeys(row["method"] for row in mine)
    table = [[m, *(cell(m, game, each) for game in FRESH for each in (1, 2, 4))] for m in methods]
    return {
        "recovery.fresh": table,
        "recovery.fresh.hessian": text(
            mean(mine, "recall@50", method="Hessian-vector products", budget=800)
        ),
        "recovery.fresh.spex": text(mean(mine, "recall@50", method="spex", budget=800)),
    }


def of_compiled(rows: list[Row]) -> Stated:
    mine = rows_of(rows, part="compiled")
    games = list(dict.fromkeys(row["game"] for row in mine))
    found = {
        method: [mean(mine, "recall@50", method=method, game=game) or 0.0 for game in games]
        for method in dict.fromkeys(row["method"] for row in mine)
    }
    budgets = [next(row["budget"] for row in mine if row["game"] == game) for game in games]
    return {
        "recovery.compiled": [[method, *map(text, of)] for method, of in found.items()],
        "recovery.compiled.budgets": "{}, {}, {} and {}".format(*budgets),
        "recovery.compiled.products": span(found["products of main effects"]),
        "recovery.compiled.spex": span(found["spex"]),
    }


def of_planted(rows: list[Row]) -> Stated:
    mine = rows_of(rows, part="planted")
    sparse = rows_of(rows, game="n = 10,000, 100 pairs", method="spex")
    after = float(np.mean([row["candidates_after"] for row in sparse]))

    def cell(k: int, n: str, ratio: int, budget: int) -> str:
        game = f"n = {n}, {k} pairs, ratio {ratio}"
        return text(mean(mine, "recall of order 2", game=game, method="spex", budget=budget))

    lines = [(50, "1,000", (100, 30, 10)), (100, "10,000", (1000, 300, 100))]
    triples = [row for row in rows if row["game"].startswith("n = 10,000, 50 pairs, 50 triples")]
    return {
        "recovery.planted.evaluations": f"{round(after / 50) * 50:,}",
        "recovery.planted.found": share(row["recall of order 2"] for row in sparse),
        "recovery.dense": [
            [f"{k} of {n} units", f"{ratio}"]
            + [cell(k, n, ratio, budget) for budget in (5000, 10_000, 40_000)]
            for k, n, ratios in lines
            for ratio in ratios
        ],
        **{
            f"recovery.dense.{ratio}": cell(100, "10,000", ratio, 5000)
            for ratio in (1000, 300, 100)
        },
        "recovery.triples": share(
            row[f"recall of order {order}"] for row in triples for order in (2, 3)
        ),
    }


def of_fourier(rows: list[Row]) -> Stated:
    mine = [
        row for row in rows_of(rows, part="fourier") if row["method"].startswith("intact against")
    ]
    common = sorted(round(50 * row["top_50_in_common"]) for row in mine)
    return {
        "recovery.fourier.signed": span(row["rank_correlation"] for row in mine),
        "recovery.fourier.sizes": span(row["rank_correlation_of_sizes"] for row in mine),
        "recovery.fourier.common": " or ".join(map(str, dict.fromkeys(common))),
    }


def recovery_ioi() -> Stated:
    runs = rows_of(kept("recovery_ioi")["runs"], evaluations_per_unit=1.0)
    (evaluations,) = {row["evaluations"] for row in runs}
    found = [row["found_of_top_100_among_150_strong_units"] for row in runs]
    as_strong = {row["random_pairs_as_strong_as_the_100th"] for row in runs}
    return {
        "recovery_ioi.evaluations": f"{evaluations:,}",
        "recovery_ioi.found": share(found),
        "recovery_ioi.as_strong": "none" if as_strong == {0} else f"{max(as_strong)}",
    }


# -- throughput, stores, workers, growth -----------------------------------------------------------


def throughput() -> Stated:
    rows = kept("throughput")["rows"]
    limit = rows_of(rows, part="limit")
    models = dict.fromkeys(row["model"] for row in limit)
    table = [[m, *(text(row["ratio"]) for row in rows_of(limit, model=m))] for m in models]
    peers = {row["method"]: row for row in rows_of(rows, part="peers")}
    names = {
        "by_hand": "pre-hooks by hand, batched", "lens": "TransformerLens run_with_hooks, batched",
        "lens_each": "TransformerLens run_with_hooks, each",
        "lens_patch": "TransformerLens generic_activation_patch",
        "captum": "captum LayerFeatureAblation", "nnsight": "nnsight", "pyvene": "pyvene",
    }  # fmt: skip
    if set(peers) != {"spex_mech", *names.values()}:
        raise LookupError(f"throughput measured {sorted(peers)}, and stated are {names}")
    gpt2, llama = (row["ratio"] for row in rows_of(rows, part="compiled"))
    (gradients,) = (
        row["ratio"]
        for row in limit
        if row["model"].startswith("story 260K") and row["work"].startswith("gradients")
    )
    return {
        "throughput.limit": table,
        **{
            f"throughput.{key}": text(peers[method]["times_ours"], 1)
            for key, method in names.items()
        },
        "throughput.compiled.gpt2": text(gpt2),
        "throughput.compiled.llama": text(llama),
        "throughput.gradients.260k": text(gradients),
    }


def store_size() -> Stated:
    rows = {row["masks"]: row for row in kept("store_size")["rows"]}
    (evaluations,) = {rows[kind]["evaluations"] for kind in ("pairs", "halves")}
    return {
        "store_size.evaluations": "A million" if evaluations == 10**6 else f"{evaluations:,}",
        "store_size.pairs": text(rows["pairs"]["gigabytes"]),
        "store_size.halves": text(rows["halves"]["gigabytes"]),
        "store_size.open": at_most(max(row["seconds_to_open"] for row in rows.values())),
        "store_size.gradient": text(rows["gradients"]["bytes_each"] / 1e6, 1),
    }


def cluster() -> Stated:
    rows = kept("cluster")["rows"]
    pace = {row["workers"]: row["share"] for row in rows_of(rows, part="pace")}
    overhead, load, memory = (the(rows, part=part) for part in ("overhead", "load", "memory"))
    grown = load["mb_after"] - load["mb_after_a_tenth"]
    return {
        "cluster.pace.8": text(pace[8]),
        "cluster.pace.64": text(pace[64]),
        "cluster.overhead": text(overhead["ratio"]),
        "cluster.same": "the same" if overhead["same"] else "other",
        "cluster.load": "where it was" if grown < 1 else f"{grown:.0f} MB higher",
        "cluster.memory": text(memory["mb_most"] - memory["mb_before"], 0),
    }


def growth() -> Stated:
    from benchmarks.growth import tables

    out = kept("growth")
    evaluations, host, memory = (
        text(row["exponent"]) for row in rows_of(out["fits"], of="spex, 100 pairs")
    )
    busy = [row["share_busy"] for row in out["workers"] if "3M" in row["game"]]
    return {
        **{f"growth.{name.replace(' ', '_')}": cells(table) for name, table in tables(out).items()},
        "growth.evaluations": f"n^{evaluations}",
        "growth.host": f"n^{host}",
        "growth.mb": f"n^{memory}",
        "growth.busy.8": text(busy[0]),
        "growth.busy.64": text(busy[1]),
    }


def cells(table: str) -> Table:
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


# -- lenses ----------------------------------------------------------------------------------------


def lenses() -> Stated:
    rows = kept("lenses")["rows"]
    return {**of_tokens(rows), **of_sentences(rows), **of_student(rows), **of_data(rows)}


def of_tokens(rows: list[Row]) -> Stated:
    mine = rows_of(rows, part="tokens")

    def best(masking: str, fits: Callable[[str], bool]) -> list[str]:
        chosen = [r for r in mine if r["game"].endswith(masking) and fits(r["method"])]
        scores = [
            [r["recall"] for r in chosen if r["budget"] == budget and r["recall"] is not None]
            for budget in (148, 370, 740)
        ]
        return [text(max(of, default=None)) for of in scores]

    lines = (
        ("SPEX, gradients (mean embedding)", "mean", lambda m: m == "spex_mech spex"),
        ("SPEX, values only (mean embedding)", "mean", lambda m: "spex_mech spex, values" in m),
        ("best of shapiq's four (SVARM-IQ, KernelSHAP-IQ)", "mean", lambda m: m[:6] == "shapiq"),
        (
            "SPEX, values only (attention masking)",
            "attention",
            lambda m: m[:14] == "spex_mech spex",
        ),
        ("best of shapiq's four", "attention", lambda m: m[:6] == "shapiq"),
    )
    return {"lenses.tokens": [[name, *best(masking, fits)] for name, masking, fits in lines]}


def of_sentences(rows: list[Row]) -> Stated:
    mine = rows_of(rows, part="sentences")
    tools = {
        "distilled": "distilled", "trees": "trees", "kernelshap": "KernelSHAP-IQ",
        "proxyspex": "ProxySPEX", "spex": " SPEX",
    }  # fmt: skip

    def scores(tool: str, kind: str, *budgets: int) -> list[float]:
        return [
            row["score"]
            for row in rows_of(mine, kind=kind)
            if row["method"].endswith(tools[tool]) and row["budget"] in budgets
        ]

    means = ("shapley", "banzhaf")
    few = [row for row in mine if row["budget"] in (67, 79) and row["kind"] in means]
    pair = scores("distilled", "banzhaf", 576), scores("trees", "banzhaf", 576)
    found: Stated = {
        "lenses.few.distilled": span(x for k in means for x in scores("distilled", k, 67, 79)),
        "lenses.few.rivals": text(max(r["score"] for r in few if "shapiq" in r["method"])),
        "lenses.banzhaf.distilled": text(pair[0][0]),
        "lenses.banzhaf.trees": text(pair[1][0]),
        "lenses.banzhaf.spex": text(scores("spex", "banzhaf", 576)[0]),
    }
    for tool in ("distilled", "trees", "proxyspex", "spex"):
        digits = 3 if tool in ("distilled", "trees") else 2
        found[f"lenses.r2.{tool}"] = span(scores(tool, "R2", 484, 576), digits)
    for tool in ("distilled", "trees", "kernelshap", "spex"):
        found[f"lenses.shapley.{tool}"] = text(scores(tool, "shapley", 576)[0])
    return found


def of_student(rows: list[Row]) -> Stated:
    methods = {"student": "student of 260K", "distilled": "distilled", "spex": "spex"}
    mine = {
        (row["game"].rsplit(" ", 1)[1], row["budget"], row["method"]): row["recall"]
        for row in rows_of(rows, part="student")
    }
    return {
        f"lenses.student.{masking}.{each}.{name}": text(mine[masking, budget, method])
        for masking in ("attention", "mean")
        for each, budget in ((4, 156), (8, 312))
        for name, method in methods.items()
        if (masking, each) != ("attention", 8) or name == "student"
    } | {
        "lenses.student.attention.8.others": share(
            mine["attention", 312, method] for method in ("distilled", "spex")
        )
    }


def of_data(rows: list[Row]) -> Stated:
    mine = rows_of(rows, part="data")
    few = rows_of(mine, n=200, budget=1000)
    audit = the(mine, n=10_000)["audit"]
    missed = audit["energy_missed"] > 10 * audit["energy_found"]
    return {
        "lenses.data.200": share(row["recall"] for row in few),
        "lenses.data.1000": at_most(the(mine, n=1000)["largest_difference"]),
        "lenses.data.10000": text(audit["recall"]),
        "lenses.data.10000.interval": span([audit["recall_low"], audit["recall_high"]]),
        "lenses.data.10000.by_tests": "nothing"
        if audit["recall_by_tests"] < 0.001
        else text(audit["recall_by_tests"]),
        "lenses.data.10000.tail": "most" if missed else "not most",
    }


# -- circuits, pruning -----------------------------------------------------------------------------

WAYS = (
    "ours", "main effects", "gradient x activation", "integrated gradients", "conditional ablation",
)  # fmt: skip


def circuits() -> Stated:
    rows = kept("circuits")["rows"]
    tasks, known = rows_of(rows, part="faithfulness"), rows_of(rows, part="recovery")
    texts = [row for row in tasks if "text" in row["task"]]
    real = [row for row in tasks if row["n_units"] >= 32]

    def spent(row: Row) -> int:
        return row["discover_evaluations"] + row["cmd"]["evaluations"]

    def of(area: str, rival: str, key: str, where: list[Row] = texts) -> list[Any]:
        return [row[area]["curves"][rival][key] for row in where]

    def counts(area: str, rival: str, key: str) -> str:
        return "{}, {} and {}".format(*of(area, rival, f"ours_{key}"))

    (ours,), (n,) = {spent(row) for row in texts}, {row["n_units"] for row in texts}
    by_task = [
        ["demo, induction" if row["task"] == "demo" else row["task"]]
        + [text(row["cmd"]["curves"][way]["cmd"], 3) for way in WAYS]
        for row in tasks
    ]
    recovered = [
        [f"{row['model']}{', ' + row['metric'] if 'tracr' in row['model'] else ''}, known"]
        + [text(row["score_of_known"])]
        + [text(row["rankings"][way]["roc"]) for way in WAYS]
        for row in known
    ]
    induction, weak = the(rows, model="induction2L"), the(rows, model="demo, backup")
    strong = [row for row in tasks if "strong" in row["task"]]
    level = ("ours", "integrated gradients", "conditional ablation")
    one, two = of("cmd", "main effects", "ours_ahead", strong)
    return {
        "circuits.cmd": [
            [f"evaluations, {n} heads", f"{ours:,}", f"{n + 1}", "3", "24", f"{n * (n + 1) // 2}"],
            *sorted(by_task),
        ],
        "circuits.known": recovered,
        "circuits.each": f"{np.mean([spent(row) / row['n_units'] for row in real]):.0f}",
        "circuits.gradients.ahead": counts("cmd", "integrated gradients", "ahead"),
        "circuits.gradients.behind": counts("cmd", "integrated gradients", "behind"),
        "circuits.conditional.ahead": counts("cpr", "conditional ablation", "ahead"),
        "circuits.conditional.behind": counts("cpr", "conditional ablation", "behind"),
        "circuits.text.level": span(x for way in level for x in of("cmd", way, "cmd")),
        "circuits.text.main": span(of("cmd", "main effects", "cmd")),
        "circuits.strong.one": f"{one}",
        "circuits.strong.two": f"{two}",
        "circuits.induction.evaluations": f"{induction['evaluations']:.0f}",
        "circuits.induction.ours": text(induction["rankings"]["ours"]["roc"]),
        "circuits.induction.slopes": text(induction["rankings"]["gradient x activation"]["roc"]),
        "circuits.weak": f"{weak['circuit_0.99']['other_backups']:.0f}",
    }


def pruning() -> Stated:
    every = kept("pruning")["rows"]
    rows = [row for row in every if "left_out" not in row]
    levels = 3 * len(rows)

    def count(method: str, what: str, ours: str = "search") -> int:
        return sum(row["methods"][method][f"{ours} gains"][what] for row in rows)

    greedy = [row["methods"]["greedy"]["masks"] / 6 / row["n_units"] for row in rows]
    masks = {
        "LASSO, 10 B": "10 B", "LASSO, B": "B", "best of random, 10 B": "10 B",
        "main effects": "n + 1", "surrogate, distilled": "B", "surrogate, trees": "B",
        "greedy": f"{span(greedy, 1)} B",
    }  # fmt: skip
    table = [
        [method, cost]
        + [f"{count(method, 'ahead', ours)} : {count(method, 'behind', ours)}"
           for ours in ("search", "surrogate, corrected")]
        for method, cost in masks.items()
    ]  # fmt: skip
    return {
        "pruning.groups": {11: "eleven"}.get(len(rows), f"{len(rows)}"),
        "pruning.left_out": {1: "One"}.get(len(every) - len(rows), f"{len(every) - len(rows)}"),
        "pruning.levels": f"{levels}",
        "pruning.table": table,
        "pruning.single_as_good": f"{levels - count('main effects', 'ahead')}",
        "pruning.single_better": share([count("main effects", "behind") > 0]),
        "pruning.greedy.masks": span(greedy, 1),
        "pruning.greedy.better": f"{count('greedy', 'behind')}",
        "pruning.greedy.worse": share([count("greedy", "ahead") > 0]),
        "pruning.lasso.better": _never(count("LASSO, 10 B", "behind")),
        **knocked_out({row["part"]: row["knock_out"] for row in rows if row["knock_out"]}),
    }


def knocked_out(games: dict[str, list[Row]]) -> Stated:
    def of(game: str, method: str, key: str = "heads") -> list[Any]:
        return [draw["methods"][method][key] for draw in games[game]]

    lasso = "LASSO, 10 B"
    (average,) = (game for game in games if "text" in game)
    (copying,) = (game for game in games if "260k, object_copy" in game)
    others = [game for game in games if game != average]
    losing = [
        pair
        for pair in zip(of(copying, "search"), of(copying, lasso), strict=True)
        if pair[0] != pair[1]
    ]
    as_few = [np.all(np.array(of(game, "search")) <= of(game, lasso)) for game in games]
    more = [np.array(of(game, "greedy")) > of(game, "search") for game in games]
    held = {
        method: max(x for game in games for x in of(game, method, "held_out_share"))
        for method in ("search", lasso)
    }
    return {
        "pruning.knock_out.as_few": f"{_word(sum(as_few))} of {_word(len(games))}",
        "pruning.knock_out.copying": ", ".join(f"{a} against {b}" for a, b in losing),
        "pruning.knock_out.text": span(of(average, "search"), 0),
        "pruning.knock_out.text.lasso": span(of(average, lasso), 0),
        "pruning.knock_out.greedy_more": "sometimes" if np.any(more) else "never",
        "pruning.knock_out.masks": span((x for g in others for x in of(g, "search", "masks")), 0),
        "pruning.knock_out.masks.greedy": span(
            (x for g in others for x in of(g, "greedy", "masks")), 0
        ),
        "pruning.knock_out.held_out": text(held["search"]),
        "pruning.knock_out.held_out.lasso": text(held[lasso]),
    }


def _never(times: int) -> str:
    return f"at {times} levels" if times else "never"


def _word(count: int) -> str:
    return ("no", "one", "two", "three", "four", "five", "six", "seven")[count]


# -- robustness ------------------------------------------------------------------------------------


def robustness() -> Stated:
    figures = kept("robustness")
    return {
        **of_recall(figures), **of_errors(figures["errors"]["rows"]),
        **of_discoveries(figures["discoveries"]["rows"]), **of_audit(figures),
    }  # fmt: skip


def of_recall(figures: dict[str, Any]) -> Stated:
    rows = figures["recall"]["rows"]
    few = rows_of(figures["budgets"]["rows"], n=100, budget=200, method="spex")
    offset = rows_of(figures["extremes"]["rows"], game="offset 1e8, float32")
    triples = [r["recall_3"] for r in figures["shapes"]["rows"] if "triples" in r["shape"]]
    drawn = rows_of(figures["stability"]["rows"], noise="normal")
    return {
        "robustness.recall": [
            [f"{n}, {name}"]
            + [
                span(r["recall"] for r in rows_of(rows, n=n, method=method, ratio=ratio))
                for ratio in (None, 100, 30, 10, 3)
            ]
            for n in (100, 200)
            for method, name in (("spex", "SPEX"), ("proxyspex", "ProxySPEX"))
        ],
        "robustness.recall.strong": span(
            r["recall"] for r in rows if r["ratio"] in (None, 100, 30)
        ),
        "robustness.recall.weak": span(r["recall"] for r in rows if r["ratio"] == 3),
        "robustness.triples": span(triples),
        "robustness.few": text(mean(few, "recall")),
        "robustness.few.audit": "says"
        if all(r["audit_low"] <= r["audit_true"] <= r["audit_high"] for r in few)
        else "does not say",
        "robustness.offset.spex": text(the(offset, method="spex")["recall"]),
        "robustness.offset.proxyspex": text(the(offset, method="proxyspex")["recall"]),
        "robustness.offset.noise": share(r["shown_as_noise"] / r["n_pairs"] for r in offset),
        "robustness.stability.bootstrap": both(r["boot"] for r in drawn),
        "robustness.stability.drawn": both(r["real"] for r in drawn),
    }


def of_errors(rows: list[Row]) -> Stated:
    few, many = (the(rows, noise="normal", prompts=prompts) for prompts in (8, 64))
    found: Stated = {}
    for n, row in ((8, few), (64, many)):
        found[f"robustness.larger.{n}"] = text(row["shown"] / row["true"], 1)
        for name in ("selected_t", "selected_counted", "confirmed_t"):
            found[f"robustness.{name}.{n}"] = text(row[name]["coverage"])
    return found


def of_discoveries(rows: list[Row]) -> Stated:
    skewed = rows_of(rows, noise="skewed")
    return {
        "robustness.false.skewed": span(r["found"]["rate"] for r in skewed if r["n_real"]),
        "robustness.false.nothing": share(r["found"]["rate"] for r in skewed if not r["n_real"]),
        "robustness.false.confirmed": span(r["confirmed"]["rate"] for r in skewed if r["n_real"]),
        "robustness.false.confirmed.nothing": span(
            r["confirmed"]["rate"] for r in skewed if not r["n_real"]
        ),
        "robustness.false.even": span(r["found"]["rate"] for r in rows if r["noise"] != "skewed"),
    }


def of_audit(figures: dict[str, Any]) -> Stated:
    planted, real = figures["audit"]["rows"], figures["real_audit"]["rows"]
    games = {
        "nothing else": rows_of(planted, tail="none"),
        "normal": rows_of(planted, tail="normal"),
        "heavy-tailed (Student's t, 1.5 degrees)": rows_of(planted, tail="heavy"),
        "saturating units, gradients": [r for r in planted if "saturating" in r["tail"]],
    } | {
        f"story {size}, gradients, {each:g} a unit": [
            row for row in rows_of(real, evaluations_per_unit=each) if size in row["game"]
        ]
        for size in ("260K", "3M")
        for each in (1.5, 3)
    }
    heavy = [row["energy"]["coverage"] for row in games["heavy-tailed (Student's t, 1.5 degrees)"]]
    half = all(abs(coverage - 0.5) < 0.05 for coverage in heavy)
    return {
        "robustness.audit": [
            [
                name,
                both(row["recall"]["coverage"] for row in pair),
                both(row["recall_width"] for row in pair),
                both(row["energy"]["coverage"] for row in pair),
            ]
            for name, pair in games.items()
        ],
        "robustness.audit.energy.normal": span(r["energy"]["coverage"] for r in games["normal"]),
        "robustness.audit.energy.heavy": "half" if half else span(heavy),
        "robustness.audit.recall": text(min(r["recall"]["coverage"] for r in planted + real)),
    }


def stated() -> Stated:
    found: Stated = {}
    for of in (
        recovery, recovery_ioi, throughput, store_size, cluster, growth, lenses, circuits, pruning,
        robustness,
    ):  # fmt: skip
        found |= of()
    return found
