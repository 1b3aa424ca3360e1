"""What README and docs state, computed from ``benchmarks/results``: every figure and table by name.

``benchmarks/figures.py`` puts them where they are marked. A name begins with the benchmark that
measured it. A figure is text as it is written, a table the cells of its rows (its head belongs to
the page). Lenses, circuits, pruning and robustness are in ``stated_of_errors.py``.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from benchmarks.frame import Options, Row, rows_of

Table = list[list[str]]
Stated = dict[str, "str | Table"]


class Rows(list[Row]):
    """Rows of results."""

    def where(self, **values: Any) -> "Rows":
        """Those that have these values; a function says which values are meant."""
        tests = {key: of for key, of in values.items() if callable(of)}
        same = {key: of for key, of in values.items() if key not in tests}
        return Rows(
            row
            for row in rows_of(self, **same)
            if all(key in row and test(row[key]) for key, test in tests.items())
        )

    def the(self, **values: Any) -> Row:
        """The one row that has these values."""
        found = self.where(**values)
        if len(found) != 1:
            raise LookupError(f"{len(found)} rows with {values}, not one")
        return found[0]

    def each(self, key: str, **values: Any) -> list[Any]:
        """What the rows with these values have, where it is known."""
        return [row[key] for row in self.where(**values) if row.get(key) is not None]

    def mean(self, key: str, **values: Any) -> float | None:
        """Over the rows that have the key; None where none has."""
        found = self.each(key, **values)
        return float(np.mean(found)) if found else None

    def kinds(self, key: str) -> list[Any]:
        """Its values, each once, in their order."""
        return list(dict.fromkeys(row[key] for row in self))


def kept(name: str) -> Rows:
    """The rows of a benchmark's results."""
    return Rows(Options().kept(name)["rows"])


def is_of(word: str) -> Any:
    """Whether a text has this word, as a value of ``Rows.where``."""
    return lambda value: word in value


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
SHORT = {
    "spex": "spex", "without": "spex, no gradients", "products": "products of main effects",
    "lasso": "LASSO on pairs, near intact", "hessian": "Hessian-vector products",
    "patching": "attribution patching, products",
}  # fmt: skip


def of_each(name: str, *parts: Callable[[Rows], Stated]) -> Stated:
    """What several functions state of the results of a benchmark, under its name."""
    rows = kept(name)
    return {f"{name}.{key}": value for of in parts for key, value in of(rows).items()}


def recovery() -> Stated:
    parts = (of_story, of_heads, of_fresh, of_compiled, of_planted, of_fourier)
    return of_each("recovery", *parts)


def of_story(rows: Rows) -> Stated:
    mine, beside = rows.where(part="story"), rows.where(part="story_rivals")

    def found(method: str, budget: int, k: int = 100) -> float | None:
        without = method not in ("spex", "proxyspex")
        if budget == 900 and without:  # which main effects alone cost
            return None
        return mine.mean(f"recall@{k}", method=method, budget=budget)

    lines = (
        ("SPEX, top 100", "spex", 100), ("SPEX, top 500", "spex", 500),
        ("ProxySPEX, top 100", "proxyspex", 100),
        ("SPEX without gradients, top 100", "spex, no gradients", 100),
        ("ProxySPEX without gradients, top 100", "proxyspex, no gradients", 100),
        ("products of main effects, top 100", "products of main effects", 100),
    )  # fmt: skip
    budgets = (900, 1350, 1800, 2700, 3600, 5400)
    rivals = ("hessian", "patching", "products", "spex")
    return {
        "story": [[name, *(text(found(m, b, k)) for b in budgets)] for name, m, k in lines],
        "readme": [
            [name.removesuffix(", top 100"), *(text(found(m, b)) for b in (900, 1800, 5400))]
            for name, m, _ in (lines[0], lines[3], lines[5])
        ],
        "story.unfound.5400": f"{100 * (1 - (found('spex', 5400) or 0)):.0f}",
        **{f"story.{key}.1800": text(found(SHORT[key], 1800)) for key in [*SHORT][:3]},
        **{f"rivals.{key}": text(beside.the(method=SHORT[key])["recall@100"]) for key in rivals},
    }


def of_heads(rows: Rows) -> Stated:
    every = rows.where(part="heads")
    games = [every.where(game=game, budget=budget) for game, budget in HEADS.items()]

    def over(method: str, key: str) -> list[float | None]:
        return [mine.mean(key, method=method) for mine in games]

    def cells(method: str) -> list[str]:
        spent = ", ".join(f"{count:.0f}" for count in over(method, "evaluations"))
        spent = "needs shapiq 1.6, Python 3.12" if method == "shapiq ProxySHAP" else spent
        return [method, *map(text, over(method, "recall@50") + over(method, "banzhaf@50")), spent]

    def order(row: list[str]) -> tuple[Any, ...]:
        """Best first; last what ranks no pairs at the intact model."""
        return (row[0].startswith("distill"), *(-float(x.replace("-", "-1")) for x in row[1:3]))

    methods = dict.fromkeys(method for mine in games for method in mine.kinds("method"))
    of_means = [m for m in methods if m.startswith(("shapiq", "spectralexplain"))]
    means = {key: [over(m, f"{key}@50")[0] for m in of_means] for key in ("recall", "banzhaf")}
    spectral = every.where(method="spectralexplain SPEX")
    return {
        "heads": sorted(map(cells, methods), key=order),
        **{f"heads.{key}": text(over(SHORT[key], "recall@50")[0]) for key in [*SHORT][:5]},
        "heads.means.intact": span(x for x in means["recall"] if x is not None),
        "heads.means.banzhaf": span(x for x in means["banzhaf"] if x is not None),
        "heads.distill.banzhaf": text(over("distill, distilled", "banzhaf@50")[0]),
        **{f"heads.spectral.{b}": text(spectral.the(budget=b)["recall@50"]) for b in (656, 533)},
    }


def of_fresh(rows: Rows) -> Stated:
    mine, first = rows.where(part="fresh"), next(iter(FRESH))

    def cell(method: str, game: str, each: int) -> str:
        if each == 1 and method[:4] in ("prod", "rand", "Hess", "attr"):  # nothing left for pairs
            return "-"
        return text(mine.mean("recall@50", game=game, method=method, budget=each * FRESH[game]))

    columns = [(game, each) for game in FRESH for each in (1, 2, 4)]
    return {
        "fresh": [[m, *(cell(m, *column) for column in columns)] for m in mine.kinds("method")],
        **{f"fresh.{key}": cell(SHORT[key], first, 2) for key in ("hessian", "spex")},
    }


def of_compiled(rows: Rows) -> Stated:
    mine = rows.where(part="compiled")
    games = mine.kinds("game")
    found = {
        method: [mine.mean("recall@50", method=method, game=game) or 0.0 for game in games]
        for method in mine.kinds("method")
    }
    budgets = [mine.each("budget", game=game)[0] for game in games]
    return {
        "compiled": [[method, *map(text, of)] for method, of in found.items()],
        "compiled.budgets": "{}, {}, {} and {}".format(*budgets),
        **{f"compiled.{key}": span(found[SHORT[key]]) for key in ("products", "spex")},
    }


def of_planted(rows: Rows) -> Stated:
    sparse = rows.where(game="n = 10,000, 100 pairs", method="spex")
    after = sparse.mean("candidates_after") or 0.0
    triples = rows.where(game=lambda of: of.startswith("n = 10,000, 50 pairs, 50 triples"))

    def cell(k: int, n: str, ratio: int, budget: int) -> str:
        game = f"n = {n}, {k} pairs, ratio {ratio}"
        return text(rows.mean("recall of order 2", game=game, method="spex", budget=budget))

    lines = [(50, "1,000", ratio) for ratio in (100, 30, 10)]
    lines += [(100, "10,000", ratio) for ratio in (1000, 300, 100)]
    return {
        "planted.evaluations": f"{round(after / 50) * 50:,}",
        "planted.found": share(sparse.each("recall of order 2")),
        "dense": [
            [f"{k} of {n} units", f"{r}", *(cell(k, n, r, b) for b in (5000, 10_000, 40_000))]
            for k, n, r in lines
        ],
        **{f"dense.{ratio}": cell(100, "10,000", ratio, 5000) for ratio in (1000, 300, 100)},
        "triples": share(x for k in (2, 3) for x in triples.each(f"recall of order {k}")),
    }


def of_fourier(rows: Rows) -> Stated:
    mine = rows.where(part="fourier", method=lambda of: of.startswith("intact against"))
    common = sorted({round(50 * x) for x in mine.each("top_50_in_common")})
    return {
        "fourier.signed": span(mine.each("rank_correlation")),
        "fourier.sizes": span(mine.each("rank_correlation_of_sizes")),
        "fourier.common": " or ".join(map(str, common)),
    }


def recovery_ioi() -> Stated:
    runs = kept("recovery_ioi").where(evaluations_per_unit=1.0)
    (evaluations,) = runs.kinds("evaluations")
    as_strong = max(runs.each("random_pairs_as_strong_as_the_100th"))
    return {
        "recovery_ioi.evaluations": f"{evaluations:,}",
        "recovery_ioi.found": share(runs.each("found_of_top_100_among_150_strong_units")),
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
    limit, peers = rows.where(part="limit"), rows.where(part="peers")
    gpt2, llama = map(text, rows.each("ratio", part="compiled"))
    gradients = limit.where(work="gradients at single ablations")
    return {
        "throughput.limit": [
            [model, *map(text, limit.each("ratio", model=model))] for model in limit.kinds("model")
        ],
        **{
            f"throughput.{key}": text(peers.the(method=method)["times_ours"], 1)
            for key, method in PEERS.items()
        },
        "throughput.compiled.gpt2": gpt2,
        "throughput.compiled.llama": llama,
        "throughput.gradients.260k": text(gradients.the(model=is_of("story 260K"))["ratio"]),
    }


def smollm2() -> Stated:
    rows = kept("smollm2")
    run = rows.the(what="run")
    return {
        "smollm2.units": f"{run['units']:,}",
        "smollm2.pairs": f"{run['pairs'] / 1e9:.2f} billion",
        "smollm2.evaluations": f"{run['evaluations']:,}",
        "smollm2.minutes": text(run["seconds"] / 60, 1),
        "smollm2.gigabytes": text(run["gigabytes"], 1),
        "smollm2.right": f"{run['right']} of {run['prompts']}",
        "smollm2.confirmed": f"{run['confirmed']} of {run['tried']}",
        "smollm2.same_sign": f"{run['same_sign']} of {run['tried']}",
        "smollm2.strongest": [
            [row["pair"], f"{row['searched']:+.2f}", f"{row['again']:+.2f} ± {row['stderr']:.2f}"]
            for row in rows.where(what="pair")[:8]
        ],
    }


def store_size() -> Stated:
    rows = kept("store_size")
    pairs, halves, gradients = (rows.the(masks=m) for m in ("pairs", "halves", "gradients"))
    (evaluations,) = {pairs["evaluations"], halves["evaluations"]}
    return {
        "store_size.evaluations": "a million" if evaluations == 10**6 else f"{evaluations:,}",
        "store_size.pairs": text(pairs["gigabytes"]),
        "store_size.halves": text(halves["gigabytes"]),
        "store_size.open": under(max(rows.each("seconds_to_open"))),
        "store_size.gradient": text(gradients["bytes_each"] / 1e6, 1),
    }


def cluster() -> Stated:
    rows = kept("cluster")
    overhead, load, memory = (rows.the(part=part) for part in ("overhead", "load", "memory"))
    grown = load["mb_after"] - load["mb_after_a_tenth"]
    return {
        **{f"cluster.pace.{n}": text(rows.the(workers=n, part="pace")["share"]) for n in (8, 64)},
        **{f"cluster.wide.{n}": text(rows.the(workers=n, part="wide")["share"]) for n in (8, 64)},
        "cluster.overhead": text(overhead["ratio"]),
        "cluster.same": "the same" if overhead["same"] else "other",
        "cluster.load": "where it was" if grown < 1 else f"{grown:.0f} MB higher",
        "cluster.memory": text(memory["mb_most"] - memory["mb_before"], 0),
    }


def growth() -> Stated:
    from benchmarks.extrapolation import tables  # which needs the package, and the others do not

    out = Options().kept("growth")
    fits = rows_of(out["fits"], of="spex, 100 pairs")
    exponents = zip(("evaluations", "host", "mb"), fits, strict=True)
    busy = Rows(out["rows"]).where(part="workers", game=is_of("3M"))
    return {
        **{f"growth.{name}": table for name, table in tables(out).items()},
        **{f"growth.{name}": f"n^{text(fit['exponent'])}" for name, fit in exponents},
        **{f"growth.busy.{n}": text(busy.the(workers=n)["share_busy"]) for n in (8, 64)},
        **_wide(Rows(out["rows"]).the(part="wide")),
    }


def _wide(row: Row) -> Stated:
    held = (row["mb_most"] - row["mb_of_model"]) / 1000
    return {
        "growth.wide.n": f"{row['n']:,}",
        "growth.wide.evaluations": f"{row['evaluations']:,}",
        "growth.wide.rows": f"{row['rows']}",
        "growth.wide.making": f"{row['making_seconds']:.0f}",
        "growth.wide.host": f"{row['host_seconds']:.0f}",
        "growth.wide.gb": f"{held:.1f}",
    }


def stated() -> Stated:
    """Every figure and table of the pages."""
    from benchmarks.stated_of_errors import circuits, lenses, pruning, robustness
    from benchmarks.stated_of_heads import smollm2_heads
    from benchmarks.stated_of_models import families

    found: Stated = {}
    for of in (
        smollm2, recovery, recovery_ioi, throughput, store_size, cluster, growth, lenses, circuits,
        pruning, robustness, families, smollm2_heads,
    ):  # fmt: skip
        found |= of()
    return found
