"""What README and docs state, computed from ``benchmarks/results``: every figure and table by name.

``benchmarks/figures.py`` puts them where they are marked. A name begins with the benchmark that
measured it. A figure is text as it is written, a table the cells of its rows (its head belongs to
the page). Circuits, pruning and robustness are in ``stated_of_errors.py``.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from benchmarks.frame import Options, Row, rows_of

Table = list[list[str]]
Stated = dict[str, "str | Table"]


def kept(name: str) -> list[Row]:
    """The rows of a benchmark's results."""
    return Options().kept(name)["rows"]


def the(rows: Iterable[Row], **where: Any) -> Row:
    """The one row that has these values."""
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


def share(values: Iterable[float]) -> str:
    """The least share in words where it is all or none, in digits where it is neither."""
    least = min(float(value) for value in values)
    return {1.0: "all", 0.0: "none"}.get(least, text(least))


def under(value: float) -> str:
    """The next power of ten, which the value stays below."""
    power = int(np.ceil(np.log10(value)))
    return f"1e{power}" if power < -2 else f"{10.0**power:g}"


# -- recovery --------------------------------------------------------------------------------------

STORY = "story 260K, 900 units"
HEADS = {"story 260K, 40 heads": 410, "story 3M on IOI, 36 heads": 333}
FRESH = {"story 260K, other passages, 400 units": 400, "story 3M, agreement, 300 units": 300}
MEANS = (
    "shapiq KernelSHAP-IQ", "shapiq SVARM-IQ", "shapiq ProxySPEX", "shapiq SPEX",
    "spectralexplain ProxySPEX", "spectralexplain SPEX",
)  # fmt: skip
SHORT = {
    "spex": "spex", "without": "spex, no gradients", "products": "products of main effects",
    "lasso": "LASSO on pairs, near intact", "hessian": "Hessian-vector products",
    "patching": "attribution patching, products",
}  # fmt: skip


def recovery() -> Stated:
    rows = kept("recovery")
    found: Stated = {}
    for of in (of_story, of_heads, of_fresh, of_compiled, of_planted, of_fourier):
        found |= {f"recovery.{name}": value for name, value in of(rows).items()}
    return found


def of_story(rows: list[Row]) -> Stated:
    mine = [row for row in rows if row["game"] == STORY and row["part"] != "story_rivals"]
    beside = rows_of(rows, part="story_rivals")

    def found(method: str, budget: int, k: int = 100) -> float | None:
        # Main effects alone cost the first budget.
        none = budget == 900 and (
            "without" in method or "no gradients" in method or "main" in method
        )
        return None if none else mean(mine, f"recall@{k}", method=method, budget=budget)

    lines = (
        ("SPEX, top 100", "spex", 100), ("SPEX, top 500", "spex", 500),
        ("ProxySPEX, top 100", "proxyspex", 100),
        ("SPEX without gradients, top 100", "spex, no gradients", 100),
        ("ProxySPEX without gradients, top 100", "proxyspex, no gradients", 100),
        ("products of main effects, top 100", "products of main effects", 100),
    )  # fmt: skip
    budgets = (900, 1350, 1800, 2700, 3600, 5400)
    return {
        "story": [[name, *(text(found(m, b, k)) for b in budgets)] for name, m, k in lines],
        "story.unfound.5400": f"{100 * (1 - (found('spex', 5400) or 0)):.0f}",
        **{f"story.{key}.1800": text(found(SHORT[key], 1800))
           for key in ("spex", "without", "products")},
        **{f"rivals.{key}": text(the(beside, method=SHORT[key])["recall@100"])
           for key in ("hessian", "patching", "products", "spex")},
    }  # fmt: skip


def of_heads(rows: list[Row]) -> Stated:
    every = rows_of(rows, part="heads")
    at = {game: rows_of(every, game=game, budget=budget) for game, budget in HEADS.items()}

    def over(method: str, key: str) -> list[float | None]:
        return [mean(mine, key, method=method) for mine in at.values()]

    def cells(method: str) -> list[str]:
        scores = map(text, (*over(method, "recall@50"), *over(method, "banzhaf@50")))
        spent = ", ".join(f"{count:.0f}" for count in over(method, "evaluations"))
        none = method == "shapiq ProxySHAP"
        return [method, *scores, "needs shapiq 1.6, Python 3.12" if none else spent]

    def order(row: list[str]) -> tuple[Any, ...]:
        """Best first; last what ranks no pairs at the intact model."""
        return (row[0].startswith("distill"), *(-float(x.replace("-", "-1")) for x in row[1:3]))

    means = [(over(m, "recall@50")[0], over(m, "banzhaf@50")[0]) for m in MEANS]
    methods = dict.fromkeys(row["method"] for mine in at.values() for row in mine)
    spectral = rows_of(every, method="spectralexplain SPEX")
    return {
        "heads": sorted(map(cells, methods), key=order),
        **{f"heads.{key}": text(over(SHORT[key], "recall@50")[0])
           for key in ("spex", "without", "products", "lasso", "hessian")},
        "heads.means.intact": span(intact for intact, _ in means if intact is not None),
        "heads.means.banzhaf": span(banzhaf for _, banzhaf in means if banzhaf is not None),
        "heads.distill.banzhaf": text(over("distill, distilled", "banzhaf@50")[0]),
        **{f"heads.spectral.{b}": text(the(spectral, budget=b)["recall@50"]) for b in (656, 533)},
    }  # fmt: skip


def of_fresh(rows: list[Row]) -> Stated:
    mine = rows_of(rows, part="fresh")

    def cell(method: str, game: str, each: int) -> str:
        if each == 1 and method[:4] in ("prod", "rand", "Hess", "attr"):  # nothing left for pairs
            return "-"
        return text(mean(mine, "recall@50", game=game, method=method, budget=each * FRESH[game]))

    methods = dict.fromkeys(row["method"] for row in mine)
    first = next(iter(FRESH))
    return {
        "fresh": [[m, *(cell(m, game, each) for game in FRESH for each in (1, 2, 4))]
                  for m in methods],
        **{f"fresh.{key}": cell(SHORT[key], first, 2) for key in ("hessian", "spex")},
    }  # fmt: skip


def of_compiled(rows: list[Row]) -> Stated:
    mine = rows_of(rows, part="compiled")
    games = dict.fromkeys(row["game"] for row in mine)
    found = {
        method: [mean(mine, "recall@50", method=method, game=game) or 0.0 for game in games]
        for method in dict.fromkeys(row["method"] for row in mine)
    }
    budgets = [rows_of(mine, game=game)[0]["budget"] for game in games]
    return {
        "compiled": [[method, *map(text, of)] for method, of in found.items()],
        "compiled.budgets": "{}, {}, {} and {}".format(*budgets),
        **{f"compiled.{key}": span(found[SHORT[key]]) for key in ("products", "spex")},
    }


def of_planted(rows: list[Row]) -> Stated:
    sparse = rows_of(rows, game="n = 10,000, 100 pairs", method="spex")
    after = float(np.mean([row["candidates_after"] for row in sparse]))
    triples = [row for row in rows if row["game"].startswith("n = 10,000, 50 pairs, 50 triples")]

    def cell(k: int, n: str, ratio: int, budget: int) -> str:
        game = f"n = {n}, {k} pairs, ratio {ratio}"
        return text(mean(rows, "recall of order 2", game=game, method="spex", budget=budget))

    lines = ((50, "1,000", (100, 30, 10)), (100, "10,000", (1000, 300, 100)))
    budgets = (5000, 10_000, 40_000)
    return {
        "planted.evaluations": f"{round(after / 50) * 50:,}",
        "planted.found": share(row["recall of order 2"] for row in sparse),
        "dense": [
            [f"{k} of {n} units", f"{ratio}", *(cell(k, n, ratio, b) for b in budgets)]
            for k, n, ratios in lines
            for ratio in ratios
        ],
        **{f"dense.{ratio}": cell(100, "10,000", ratio, 5000) for ratio in (1000, 300, 100)},
        "triples": share(row[f"recall of order {order}"] for row in triples for order in (2, 3)),
    }


def of_fourier(rows: list[Row]) -> Stated:
    mine = [r for r in rows_of(rows, part="fourier") if r["method"].startswith("intact against")]
    common = sorted({round(50 * row["top_50_in_common"]) for row in mine})
    return {
        "fourier.signed": span(row["rank_correlation"] for row in mine),
        "fourier.sizes": span(row["rank_correlation_of_sizes"] for row in mine),
        "fourier.common": " or ".join(map(str, common)),
    }


def recovery_ioi() -> Stated:
    runs = rows_of(kept("recovery_ioi"), evaluations_per_unit=1.0)
    (evaluations,) = {row["evaluations"] for row in runs}
    as_strong = max(row["random_pairs_as_strong_as_the_100th"] for row in runs)
    return {
        "recovery_ioi.evaluations": f"{evaluations:,}",
        "recovery_ioi.found": share(r["found_of_top_100_among_150_strong_units"] for r in runs),
        "recovery_ioi.as_strong": f"{as_strong}" if as_strong else "none",
    }


# -- throughput, stores, workers, growth -----------------------------------------------------------

PEERS = {
    "by_hand": "pre-hooks by hand, batched", "lens": "TransformerLens run_with_hooks, batched",
    "lens_each": "TransformerLens run_with_hooks, each",
    "lens_patch": "TransformerLens generic_activation_patch",
    "captum": "captum LayerFeatureAblation", "nnsight": "nnsight", "pyvene": "pyvene",
}  # fmt: skip


def throughput() -> Stated:
    rows = kept("throughput")
    limit, peers = rows_of(rows, part="limit"), rows_of(rows, part="peers")
    models = dict.fromkeys(row["model"] for row in limit)
    gpt2, llama = (text(row["ratio"]) for row in rows_of(rows, part="compiled"))
    (story,) = (model for model in models if model.startswith("story 260K"))
    return {
        "throughput.limit": [[m, *(text(r["ratio"]) for r in rows_of(limit, model=m))]
                             for m in models],
        **{f"throughput.{key}": text(the(peers, method=method)["times_ours"], 1)
           for key, method in PEERS.items()},
        "throughput.compiled.gpt2": gpt2, "throughput.compiled.llama": llama,
        "throughput.gradients.260k": text(
            the(limit, model=story, work="gradients at single ablations")["ratio"]),
    }  # fmt: skip


def smollm2() -> Stated:
    rows = kept("smollm2")
    run = the(rows, what="run")
    pairs = rows_of(rows, what="pair")[:8]
    return {
        "smollm2.units": f"{run['units']:,}",
        "smollm2.pairs": f"{run['pairs'] / 1e9:.2f} billion",
        "smollm2.evaluations": f"{run['evaluations']:,}",
        "smollm2.minutes": f"{run['seconds'] / 60:.1f}",
        "smollm2.gigabytes": text(run["gigabytes"], 1),
        "smollm2.right": f"{run['right']} of {run['prompts']}",
        "smollm2.confirmed": f"{run['confirmed']} of {run['tried']}",
        "smollm2.same_sign": f"{run['same_sign']} of {run['tried']}",
        "smollm2.strongest": [
            [row["pair"], f"{row['searched']:+.2f}", f"{row['again']:+.2f} ± {row['stderr']:.2f}"]
            for row in pairs
        ],
    }


def store_size() -> Stated:
    rows = kept("store_size")
    pairs, halves, gradients = (the(rows, masks=m) for m in ("pairs", "halves", "gradients"))
    (evaluations,) = {pairs["evaluations"], halves["evaluations"]}
    return {
        "store_size.evaluations": "A million" if evaluations == 10**6 else f"{evaluations:,}",
        "store_size.pairs": text(pairs["gigabytes"]),
        "store_size.halves": text(halves["gigabytes"]),
        "store_size.open": under(max(row["seconds_to_open"] for row in rows)),
        "store_size.gradient": text(gradients["bytes_each"] / 1e6, 1),
    }


def cluster() -> Stated:
    rows = kept("cluster")
    overhead, load, memory = (the(rows, part=part) for part in ("overhead", "load", "memory"))
    grown = load["mb_after"] - load["mb_after_a_tenth"]
    return {
        **{f"cluster.pace.{n}": text(the(rows, part="pace", workers=n)["share"]) for n in (8, 64)},
        "cluster.overhead": text(overhead["ratio"]),
        "cluster.same": "the same" if overhead["same"] else "other",
        "cluster.load": "where it was" if grown < 1 else f"{grown:.0f} MB higher",
        "cluster.memory": text(memory["mb_most"] - memory["mb_before"], 0),
    }


def growth() -> Stated:
    from benchmarks.extrapolation import tables  # which needs the package, and the others do not

    out = Options().kept("growth")
    fits = rows_of(out["fits"], of="spex, 100 pairs")
    busy = [r for r in rows_of(out["rows"], part="workers") if "3M" in r["game"]]
    names = ("evaluations", "host", "mb")
    return {
        **{f"growth.{name}": table for name, table in tables(out).items()},
        **{f"growth.{name}": f"n^{text(fit['exponent'])}"
           for name, fit in zip(names, fits, strict=True)},
        **{f"growth.busy.{n}": text(the(busy, workers=n)["share_busy"]) for n in (8, 64)},
    }  # fmt: skip


# -- lenses ----------------------------------------------------------------------------------------


def lenses() -> Stated:
    rows = kept("lenses")
    found: Stated = {}
    for of in (of_tokens, of_sentences, of_student, of_data):
        found |= {f"lenses.{name}": value for name, value in of(rows).items()}
    return found


def of_tokens(rows: list[Row]) -> Stated:
    def best(masking: str, fits: Callable[[str], bool]) -> list[str]:
        mine = [row for row in rows_of(rows, part="tokens") if row["game"].endswith(masking)]
        scores = [
            [r["recall"] for r in rows_of(mine, budget=b) if fits(r["method"])]
            for b in (148, 370, 740)
        ]
        return [text(max((x for x in of if x is not None), default=None)) for of in scores]

    lines = (
        ("SPEX, gradients (mean embedding)", "mean", lambda m: m == "spex_mech spex"),
        ("SPEX, values only (mean embedding)", "mean", lambda m: "spex_mech spex, values" in m),
        ("best of shapiq's four (SVARM-IQ, KernelSHAP-IQ)", "mean", lambda m: m[:6] == "shapiq"),
        ("SPEX, values only (attention masking)", "attention", lambda m: m == "spex_mech spex"),
        ("best of shapiq's four", "attention", lambda m: m[:6] == "shapiq"),
    )
    return {"tokens": [[name, *best(masking, fits)] for name, masking, fits in lines]}


TOOLS = {
    "distilled": "spex_mech distill, distilled", "trees": "spex_mech distill, trees",
    "kernelshap": "shapiq KernelSHAP-IQ", "proxyspex": "shapiq ProxySPEX", "spex": "shapiq SPEX",
}  # fmt: skip


def of_sentences(rows: list[Row]) -> Stated:
    mine = rows_of(rows, part="sentences")

    def scores(tool: str, kind: str, *budgets: int) -> list[float]:
        return [the(mine, kind=kind, method=TOOLS[tool], budget=b)["score"] for b in budgets
                if rows_of(mine, kind=kind, method=TOOLS[tool], budget=b)]  # fmt: skip

    kinds = ("shapley", "banzhaf")
    few = [row for row in mine if row["budget"] in (67, 79) and row["kind"] in kinds]
    digits = {"distilled": 3, "trees": 3, "proxyspex": 2, "spex": 2}
    return {
        "few.distilled": span(x for kind in kinds for x in scores("distilled", kind, 67, 79)),
        "few.rivals": text(max(row["score"] for row in few if "shapiq" in row["method"])),
        **{f"r2.{tool}": span(scores(tool, "R2", 484, 576), n) for tool, n in digits.items()},
        **{f"{kind}.{tool}": text(*scores(tool, kind, 576))
           for kind in kinds for tool in ("distilled", "trees", "spex")},
        "shapley.kernelshap": text(*scores("kernelshap", "shapley", 576)),
    }  # fmt: skip


def of_student(rows: list[Row]) -> Stated:
    mine = {
        (row["game"].rsplit(" ", 1)[1], row["budget"] // row["n"], row["method"]): row["recall"]
        for row in rows_of(rows, part="student")
    }
    others = [mine.pop(("attention", 8, method)) for method in ("distilled", "spex")]
    found = {f"student.{masking}.{each}.{method.split(' ')[0]}": text(score)
             for (masking, each, method), score in mine.items()}  # fmt: skip
    return {**found, "student.attention.8.others": share(others)}


def of_data(rows: list[Row]) -> Stated:
    mine = rows_of(rows, part="data")
    audit = the(mine, n=10_000)["audit"]
    missed = audit["energy_missed"] > 10 * audit["energy_found"]
    by_tests = audit["recall_by_tests"]
    return {
        "data.200": share(row["recall"] for row in rows_of(mine, n=200, budget=1000)),
        "data.1000": under(the(mine, n=1000)["largest_difference"]),
        "data.10000": text(audit["recall"]),
        "data.10000.interval": span([audit["recall_low"], audit["recall_high"]]),
        "data.10000.by_tests": "nothing" if by_tests < 0.001 else f"less than {text(by_tests)}",
        "data.10000.tail": "most" if missed else "not most",
    }


def stated() -> Stated:
    """Every figure and table of the pages."""
    from benchmarks.stated_of_errors import circuits, pruning, robustness

    found: Stated = {}
    for of in (
        smollm2, recovery, recovery_ioi, throughput, store_size, cluster, growth, lenses, circuits,
        pruning, robustness,
    ):  # fmt: skip
        found |= of()
    return found
