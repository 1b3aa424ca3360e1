"""What README and docs state, computed from ``benchmarks/results``: every figure and table by name.

``benchmarks/figures.py`` puts them where they are marked. Each function here states what one
benchmark measured: its name, a full stop, and the name of a figure are what a mark holds. A figure
is text as it is written, a table the cells of its rows (its head belongs to the page).
``stated_of_smollm2.py`` and ``stated_of_models.py`` have what is about trained models.
"""

from typing import Any

from benchmarks.rows import Rows, among, has, kept, over, share, slashed, span, text, under

Table = list[list[str]]
Stated = dict[str, "str | Table"]


# -- recovery --------------------------------------------------------------------------------------

METHODS = {
    "spex": "spex", "without": "spex, no gradients", "products": "products of main effects",
    "lasso": "LASSO on pairs, near intact", "hessian": "Hessian-vector products",
    "patching": "attribution patching, products",
}  # fmt: skip


def recovery(rows: Rows) -> Stated:
    parts = (of_story, of_heads, of_fresh, of_compiled, of_planted, of_fourier)
    return {name: value for part in parts for name, value in part(rows).items()}


def of_story(rows: Rows) -> Stated:
    mine = rows.where(part="story", n_pairs=over(0))  # 900 evaluations pay for no product

    def found(method: str, budget: int, k: int = 100) -> str:
        return text(mine.mean(f"recall@{k}", method=method, budget=budget))

    lines = (
        ("SPEX, top 100", "spex", 100),
        ("SPEX, top 500", "spex", 500),
        ("ProxySPEX, top 100", "proxyspex", 100),
        ("SPEX without gradients, top 100", "spex, no gradients", 100),
        ("ProxySPEX without gradients, top 100", "proxyspex, no gradients", 100),
        ("products of main effects, top 100", "products of main effects", 100),
    )
    budgets = (900, 1350, 1800, 2700, 3600, 5400)
    unfound = 1 - (mine.mean("recall@100", method="spex", budget=5400) or 0)
    beside = rows.where(part="story_rivals")
    return {
        "story": [[name, *(found(m, budget, k) for budget in budgets)] for name, m, k in lines],
        "readme": [
            [name.removesuffix(", top 100"), *(found(m, budget) for budget in (900, 1800, 5400))]
            for name, m, _ in (lines[0], lines[3], lines[5])
        ],
        "story.unfound.5400": text(100 * unfound, 0),
        **{f"story.{m}.1800": found(METHODS[m], 1800) for m in ("spex", "without", "products")},
        **{
            f"rivals.{m}": text(beside.the(method=METHODS[m])["recall@100"])
            for m in ("hessian", "patching", "products", "spex")
        },
    }


def of_heads(rows: Rows) -> Stated:
    every = rows.where(part="heads")
    small = every.where(game="story 260K, 40 heads", budget=410)
    games = (small, every.where(game="story 3M on IOI, 36 heads", budget=333))

    def line(method: str) -> list[str]:
        keys = ("recall@50", "banzhaf@50")
        spent = ", ".join(text(mine.mean("evaluations", method=method), 0) for mine in games)
        if method == "shapiq ProxySHAP":
            spent = "needs shapiq 1.6, Python 3.12"
        shares = [text(mine.mean(key, method=method)) for key in keys for mine in games]
        return [method, *shares, spent]

    def order(row: list[str]) -> tuple[Any, ...]:
        """Best first; last what ranks no pairs at the intact model."""
        return (row[0].startswith("distill"), *(-float(x.replace("-", "-1")) for x in row[1:3]))

    methods = dict.fromkeys(method for mine in games for method in mine.kinds("method"))
    of_means = [m for m in methods if m.startswith(("shapiq", "spectralexplain"))]
    spectral = every.where(method="spectralexplain SPEX")
    return {
        "heads": sorted(map(line, methods), key=order),
        **{
            f"heads.{m}": text(small.mean("recall@50", method=METHODS[m]))
            for m in ("spex", "without", "products", "lasso", "hessian")
        },
        "heads.means.intact": span(small.mean("recall@50", method=m) for m in of_means),
        "heads.means.banzhaf": span(small.mean("banzhaf@50", method=m) for m in of_means),
        "heads.distill.banzhaf": text(small.mean("banzhaf@50", method="distill, distilled")),
        **{f"heads.spectral.{b}": text(spectral.the(budget=b)["recall@50"]) for b in (656, 533)},
    }


def of_fresh(rows: Rows) -> Stated:
    mine = rows.where(part="fresh")
    paid = mine.where(n_pairs=over(0))
    games = {"story 260K, other passages, 400 units": 400, "story 3M, agreement, 300 units": 300}
    table = [
        [method]
        + [
            text(paid.mean("recall@50", game=game, method=method, budget=each * n))
            for game, n in games.items()
            for each in (1, 2, 4)
        ]
        for method in mine.kinds("method")
    ]
    at_two = {line[0]: line[2] for line in table}
    named = {f"fresh.{m}": at_two[METHODS[m]] for m in ("hessian", "spex")}
    return {"fresh": table, **named}


def of_compiled(rows: Rows) -> Stated:
    mine = rows.where(part="compiled")
    games = [mine.where(game=game) for game in mine.kinds("game")]
    found = {m: [of.mean("recall@50", method=m) for of in games] for m in mine.kinds("method")}
    return {
        "compiled": [[method, *map(text, shares)] for method, shares in found.items()],
        "compiled.budgets": "{}, {}, {} and {}".format(*(of[0]["budget"] for of in games)),
        **{f"compiled.{m}": span(found[METHODS[m]]) for m in ("products", "spex", "without")},
    }


def of_planted(rows: Rows) -> Stated:
    sparse = rows.where(game="n = 10,000, 100 pairs", method="spex")
    after = sparse.mean("candidates_after") or 0.0
    triples = rows.where(game=has("50 triples"))

    def line(k: int, n: str, ratio: int) -> list[str]:
        mine = rows.where(game=f"n = {n}, {k} pairs, ratio {ratio}", method="spex")
        shares = (mine.mean("recall of order 2", budget=b) for b in (5000, 10_000, 40_000))
        return [f"{k} of {n} units", f"{ratio}", *map(text, shares)]

    large = [line(100, "10,000", ratio) for ratio in (1000, 300, 100)]
    return {
        "planted.evaluations": f"{round(after / 50) * 50:,}",
        "planted.found": share(sparse.each("recall of order 2")),
        "dense": [line(50, "1,000", ratio) for ratio in (100, 30, 10)] + large,
        **{f"dense.{ratio}": at_5000 for _, ratio, at_5000, *_ in large},
        "triples": share(x for k in (2, 3) for x in triples.each(f"recall of order {k}")),
    }


def of_fourier(rows: Rows) -> Stated:
    mine = rows.where(part="fourier", method=has("intact against"))
    common = sorted({round(50 * x) for x in mine.each("top_50_in_common")})
    return {
        "fourier.signed": span(mine.each("rank_correlation")),
        "fourier.sizes": span(mine.each("rank_correlation_of_sizes")),
        "fourier.common": " or ".join(map(str, common)),
    }


def recovery_ioi(rows: Rows) -> Stated:
    runs = rows.where(evaluations_per_unit=1.0)
    (evaluations,) = runs.kinds("evaluations")
    as_strong = max(runs.each("random_pairs_as_strong_as_the_100th"))
    return {
        "evaluations": f"{evaluations:,}",
        "found": share(runs.each("found_of_top_100_among_150_strong_units")),
        "as_strong": f"{as_strong}" if as_strong else "none",
    }


# -- robustness ------------------------------------------------------------------------------------


def robustness(rows: Rows) -> Stated:
    return of_recall(rows) | of_errors(rows) | of_discoveries(rows) | of_audit(rows)


def of_recall(rows: Rows) -> Stated:
    mine, few = rows.where(part="recall"), rows.where(part="budgets", budget=200, method="spex")
    offset = rows.where(part="extremes", game="offset 1e8, float32")
    drawn = rows.where(part="stability", noise="normal")
    held = all(r["audit_low"] <= r["audit_true"] <= r["audit_high"] for r in few)
    return {
        "recall": [
            [f"{n}, {name}"]
            + [span(mine.each("recall", n=n, method=m, ratio=x)) for x in (None, 100, 30, 10, 3)]
            for n in (100, 200)
            for m, name in (("spex", "SPEX"), ("proxyspex", "ProxySPEX"))
        ],
        "recall.strong": span(mine.each("recall", ratio=among(None, 100, 30))),
        "recall.weak": span(mine.each("recall", ratio=3)),
        "triples": span(rows.each("recall_3", part="shapes", shape=has("triples"))),
        "few": text(few.mean("recall")),
        "few.audit": "says" if held else "does not say",
        **{f"offset.{m}": text(offset.the(method=m)["recall"]) for m in ("spex", "proxyspex")},
        "offset.noise": share(r["shown_as_noise"] / r["n_pairs"] for r in offset),
        "stability.bootstrap": slashed(drawn.each("boot")),
        "stability.drawn": slashed(drawn.each("real")),
    }


def of_errors(rows: Rows) -> Stated:
    found: Stated = {}
    for n in (8, 64):
        row = rows.the(part="errors", noise="normal", prompts=n)
        found[f"larger.{n}"] = text(row["shown"] / row["true"], 1)
        for name in ("selected_t", "selected_counted", "confirmed_t"):
            found[f"{name}.{n}"] = text(row[name]["coverage"])
    return found


def of_discoveries(rows: Rows) -> Stated:
    mine = rows.where(part="discoveries")
    skewed = mine.where(noise="skewed")

    def rates(of: str, rows: Rows) -> list[float]:
        return [told["rate"] for told in rows.each(of)]

    return {
        "false.skewed": span(rates("found", skewed.where(n_real=over(0)))),
        "false.nothing": share(rates("found", skewed.where(n_real=0))),
        "false.confirmed": span(rates("confirmed", skewed.where(n_real=over(0)))),
        "false.confirmed.nothing": span(rates("confirmed", skewed.where(n_real=0))),
        "false.even": span(rates("found", mine.where(noise=among("normal", "heavy", "shared")))),
    }


def of_audit(rows: Rows) -> Stated:
    planted, real = rows.where(part="audit"), rows.where(part="real_audit")
    games = {
        "nothing else": planted.where(tail="none"),
        "normal": planted.where(tail="normal"),
        "heavy-tailed (Student's t, 1.5 degrees)": planted.where(tail="heavy"),
        "saturating units, gradients": planted.where(tail=has("saturating")),
    }
    for size, each in (("260K", 1.5), ("260K", 3), ("3M", 1.5), ("3M", 3)):
        mine = real.where(evaluations_per_unit=each, game=has(size))
        games[f"story {size}, gradients, {each:g} per unit"] = mine

    def covered(pair: Rows, of: str) -> str:
        return slashed(told["coverage"] for told in pair.each(of))

    table = [
        [name, covered(two, "recall"), slashed(two.each("recall_width")), covered(two, "energy")]
        for name, two in games.items()
    ]
    return {"audit": table}


# -- throughput, stores, workers, growth -----------------------------------------------------------


def throughput(rows: Rows) -> Stated:
    limit, peers = rows.where(part="limit"), rows.where(part="peers")
    gpt2, llama = map(text, rows.each("ratio", part="compiled"))
    gradients = limit.where(work="gradients at single ablations")
    names = {
        "by_hand": "pre-hooks by hand, batched", "captum": "captum LayerFeatureAblation",
        "lens": "TransformerLens run_with_hooks, batched", "nnsight": "nnsight",
        "lens_each": "TransformerLens run_with_hooks, each", "pyvene": "pyvene",
        "lens_patch": "TransformerLens generic_activation_patch",
    }  # fmt: skip
    return {
        "limit": [
            [model, *map(text, limit.each("ratio", model=model))] for model in limit.kinds("model")
        ],
        **{key: text(peers.the(method=of)["times_ours"], 1) for key, of in names.items()},
        "compiled.gpt2": gpt2,
        "compiled.llama": llama,
        "gradients.260k": text(gradients.the(model=has("story 260K"))["ratio"]),
    }


def store_size(rows: Rows) -> Stated:
    pairs, halves, gradients = (rows.the(masks=m) for m in ("pairs", "halves", "gradients"))
    (evaluations,) = {pairs["evaluations"], halves["evaluations"]}
    return {
        "evaluations": "a million" if evaluations == 10**6 else f"{evaluations:,}",
        "pairs": text(pairs["gigabytes"]),
        "halves": text(halves["gigabytes"]),
        "open": under(max(rows.each("seconds_to_open"))),
        "gradient": text(gradients["bytes_each"] / 1e6, 1),
    }


def cluster(rows: Rows) -> Stated:
    overhead, load, memory = (rows.the(part=part) for part in ("overhead", "load", "memory"))
    grown = load["mb_after"] - load["mb_after_a_tenth"]
    return {
        **{
            f"{part}.{n}": text(rows.the(workers=n, part=part)["share"])
            for part in ("pace", "wide")
            for n in (8, 64)
        },
        "overhead": text(overhead["ratio"]),
        "same": "the same" if overhead["same"] else "other",
        "load": "where it was" if grown < 1 else f"{grown:.0f} MB higher",
        "memory": text(memory["mb_most"] - memory["mb_before"], 0),
    }


def growth(rows: Rows) -> Stated:
    from benchmarks.extrapolation import fits, tables  # which need the package

    exponents = zip(("evaluations", "host", "mb"), fits(rows)[:3], strict=True)
    busy, wide = rows.where(part="workers", game=has("3M")), rows.the(part="wide")
    return {
        **tables(rows),
        **{name: f"n^{text(fit['exponent'])}" for name, fit in exponents},
        **{f"busy.{n}": text(busy.the(workers=n)["share_busy"]) for n in (8, 64)},
        "wide.n": f"{wide['n']:,}",
        "wide.evaluations": f"{wide['evaluations']:,}",
        "wide.rows": f"{wide['rows']}",
        "wide.making": text(wide["making_seconds"], 0),
        "wide.host": text(wide["host_seconds"], 0),
        "wide.gb": text((wide["mb_most"] - wide["mb_of_model"]) / 1000, 1),
    }


def stated() -> Stated:
    """Every figure and table of the pages."""
    from benchmarks import stated_of_models as of_models
    from benchmarks import stated_of_smollm2 as of_smollm2

    benchmarks = (
        recovery, recovery_ioi, robustness, throughput, store_size, cluster, growth,
        of_smollm2.smollm2, of_smollm2.smollm2_heads, of_smollm2.smollm2_units,
        of_smollm2.smollm2_more, of_smollm2.smollm2_backups, of_smollm2.smollm2_text,
        of_models.lenses, of_models.circuits, of_models.pruning, of_models.families,
    )  # fmt: skip
    return {
        f"{of.__name__}.{name}": value
        for of in benchmarks
        for name, value in of(kept(of.__name__)).items()
    }
