"""What README and docs state of lenses, circuits, pruning and the errors of searches
(``stated.py``).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.frame import Row
from benchmarks.stated import Rows, Stated, is_of, kept, of_each, share, span, text, under

# -- lenses ----------------------------------------------------------------------------------------


def lenses() -> Stated:
    return of_each("lenses", of_tokens, of_sentences, of_student, of_data)


def of_tokens(rows: Rows) -> Stated:
    lines = (
        ("SPEX, gradients (mean embedding)", "mean", "spex_mech spex"),
        ("SPEX, values only (mean embedding)", "mean", "spex_mech spex, values only"),
        ("best of shapiq's four (SVARM-IQ, KernelSHAP-IQ)", "mean", "shapiq"),
        ("SPEX, values only (attention masking)", "attention", "spex_mech spex"),
        ("best of shapiq's four", "attention", "shapiq"),
    )

    def best(masking: str, method: str) -> list[str]:
        tool = is_of(method) if method == "shapiq" else method
        mine = rows.where(part="tokens", game=lambda of: of.endswith(masking), method=tool)
        scores = (mine.each("recall", budget=budget) for budget in (148, 370, 740))
        return [text(max(of, default=None)) for of in scores]

    return {"tokens": [[name, *best(masking, method)] for name, masking, method in lines]}


TOOLS = {
    "distilled": "spex_mech distill, distilled", "trees": "spex_mech distill, trees",
    "kernelshap": "shapiq KernelSHAP-IQ", "proxyspex": "shapiq ProxySPEX", "spex": "shapiq SPEX",
}  # fmt: skip


def of_sentences(rows: Rows) -> Stated:
    mine, kinds = rows.where(part="sentences"), ("shapley", "banzhaf")

    def scores(tool: str, kind: str, *budgets: int) -> list[float]:
        method = TOOLS[tool]
        return mine.each("score", kind=kind, method=method, budget=lambda b: b in budgets)

    rivals = mine.where(budget=lambda b: b in (67, 79), method=is_of("shapiq"))
    digits = {"distilled": 3, "trees": 3, "proxyspex": 2, "spex": 2}
    best = [(kind, tool) for kind in kinds for tool in ("distilled", "trees", "spex")]
    return {
        "few.distilled": span(x for kind in kinds for x in scores("distilled", kind, 67, 79)),
        "few.rivals": text(max(rivals.each("score", kind=lambda kind: kind in kinds))),
        **{f"r2.{tool}": span(scores(tool, "R2", 484, 576), n) for tool, n in digits.items()},
        **{
            f"{kind}.{tool}": text(*scores(tool, kind, 576))
            for kind, tool in [*best, ("shapley", "kernelshap")]
        },
    }


def of_student(rows: Rows) -> Stated:
    mine = {
        (row["game"].rsplit(" ", 1)[1], row["budget"] // row["n"], row["method"]): row["recall"]
        for row in rows.where(part="student")
    }
    others = [mine.pop(("attention", 8, method)) for method in ("distilled", "spex")]
    found = {
        f"student.{masking}.{each}.{method.split(' ')[0]}": text(score)
        for (masking, each, method), score in mine.items()
    }
    return {**found, "student.attention.8.others": share(others)}


def of_data(rows: Rows) -> Stated:
    mine = rows.where(part="data")
    audit = mine.the(n=10_000)["audit"]
    missed = audit["energy_missed"] > 10 * audit["energy_found"]
    by_tests = audit["recall_by_tests"]
    return {
        "data.200": share(mine.each("recall", n=200, budget=1000)),
        "data.1000": under(mine.the(n=1000)["largest_difference"]),
        "data.10000": text(audit["recall"]),
        "data.10000.interval": span([audit["recall_low"], audit["recall_high"]]),
        "data.10000.by_tests": "nothing" if by_tests < 0.001 else f"less than {text(by_tests)}",
        "data.10000.tail": "most" if missed else "not most",
    }


# -- circuits --------------------------------------------------------------------------------------

WAYS = (
    "ours", "main effects", "gradient x activation", "integrated gradients", "conditional ablation",
)  # fmt: skip


def circuits() -> Stated:
    rows = kept("circuits")
    tasks, known = rows.where(part="faithfulness"), rows.where(part="recovery")
    texts, strong = tasks.where(task=is_of("text")), tasks.where(task=is_of("strong"))

    def spent(row: Row) -> int:
        return row["discover_evaluations"] + row["cmd"]["evaluations"]

    def of(area: str, rival: str, key: str, where: Rows = texts) -> list[Any]:
        return [curves["curves"][rival][key] for curves in where.each(area)]

    (ours,), (n,) = {spent(row) for row in texts}, texts.kinds("n_units")
    cost = [f"evaluations, {n} heads", f"{ours:,}", f"{n + 1}", "3", "24", f"{n * (n + 1) // 2}"]
    by_task = [
        ["demo, induction" if row["task"] == "demo" else row["task"]]
        + [text(row["cmd"]["curves"][way]["cmd"], 3) for way in WAYS]
        for row in tasks
    ]
    recovered = [
        [
            f"{row['model']}{', ' + row['metric'] if 'tracr' in row['model'] else ''}, known",
            text(row["score_of_known"]),
            *(text(row["rankings"][way]["roc"]) for way in WAYS),
        ]
        for row in known
    ]
    each = np.mean([spent(row) / row["n_units"] for row in tasks.where(n_units=lambda n: n >= 32)])
    level = [x for way in (WAYS[0], *WAYS[3:]) for x in of("cmd", way, "cmd")]
    induction, weak = known.the(model="induction2L"), known.the(model="demo, backup")
    one, two = of("cmd", "main effects", "ours_ahead", strong)
    sides = {
        f"circuits.{short}.{side}": "{}, {} and {}".format(*of(area, way, f"ours_{side}"))
        for short, area, way in (("gradients", "cmd", WAYS[3]), ("conditional", "cpr", WAYS[4]))
        for side in ("ahead", "behind")
    }
    return {
        "circuits.cmd": [cost, *sorted(by_task)],
        "circuits.known": recovered,
        "circuits.each": text(each, 0),
        "circuits.text.level": span(level),
        "circuits.text.main": span(of("cmd", "main effects", "cmd")),
        "circuits.strong.one": f"{one}",
        "circuits.strong.two": f"{two}",
        "circuits.induction.evaluations": text(induction["evaluations"], 0),
        "circuits.induction.ours": text(induction["rankings"]["ours"]["roc"]),
        "circuits.induction.slopes": text(induction["rankings"]["gradient x activation"]["roc"]),
        "circuits.weak": text(weak["circuit_0.99"]["other_backups"], 0),
        **sides,
    }


# -- pruning ---------------------------------------------------------------------------------------

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
           "eleven", "twelve")  # fmt: skip
MASKS = {
    "LASSO, 10 B": "10 B", "LASSO, B": "B", "best of random, 10 B": "10 B",
    "main effects": "n + 1", "surrogate, distilled": "B", "surrogate, trees": "B", "greedy": "",
}  # fmt: skip


def pruning() -> Stated:
    every = kept("pruning")
    rows = [row for row in every if "left_out" not in row]

    def count(method: str, side: str, ours: str = "search") -> int:
        return sum(row["methods"][method][f"{ours} gains"][side] for row in rows)

    def versus(method: str, ours: str) -> str:
        return f"{count(method, 'ahead', ours)} : {count(method, 'behind', ours)}"

    greedy = span((row["methods"]["greedy"]["masks"] / 6 / row["n_units"] for row in rows), 1)
    better = count("LASSO, 10 B", "behind")
    return {
        "pruning.groups": NUMBERS[len(rows)],
        "pruning.left_out": NUMBERS[len(every) - len(rows)].capitalize(),
        "pruning.levels": f"{3 * len(rows)}",
        "pruning.table": [
            [m, cost or f"{greedy} B", versus(m, "search"), versus(m, "surrogate, corrected")]
            for m, cost in MASKS.items()
        ],
        "pruning.single_as_good": f"{3 * len(rows) - count('main effects', 'ahead')}",
        "pruning.single_better": share([count("main effects", "behind") > 0]),
        "pruning.greedy.masks": greedy,
        "pruning.greedy.better": f"{count('greedy', 'behind')}",
        "pruning.greedy.worse": share([count("greedy", "ahead") > 0]),
        "pruning.lasso.better": f"at {better} levels" if better else "never",
        **knocked_out({row["part"]: row["knock_out"] for row in rows if row["knock_out"]}),
    }


def knocked_out(games: dict[str, list[Row]]) -> Stated:
    def of(method: str, key: str, *names: str) -> np.ndarray:
        return np.array([draw["methods"][method][key] for name in names for draw in games[name]])

    (average,) = (game for game in games if "text" in game)
    (copying,) = (game for game in games if "260k, object_copy" in game)
    others = [game for game in games if game != average]
    pairs = zip(of("search", "heads", copying), of("LASSO, 10 B", "heads", copying), strict=True)
    as_few = [np.all(of("search", "heads", g) <= of("LASSO, 10 B", "heads", g)) for g in games]
    never = np.all(of("greedy", "heads", *games) <= of("search", "heads", *games))
    found: Stated = {
        "as_few": f"{NUMBERS[sum(as_few)]} of {NUMBERS[len(games)]}",
        "copying": ", ".join(f"{a} against {b}" for a, b in pairs if a != b),
        "greedy_more": "never" if never else "sometimes",
        "masks": span(of("search", "masks", *others), 0),
        "masks.greedy": span(of("greedy", "masks", *others), 0),
    }
    for end, method in (("", "search"), (".lasso", "LASSO, 10 B")):
        found[f"text{end}"] = span(of(method, "heads", average), 0)
        found[f"held_out{end}"] = text(of(method, "held_out_share", *games).max())
    return {f"pruning.knock_out.{name}": value for name, value in found.items()}


# -- robustness ------------------------------------------------------------------------------------


def robustness() -> Stated:
    return of_each("robustness", of_recall, of_errors, of_discoveries, of_audit)


def of_recall(rows: Rows) -> Stated:
    mine, few = rows.where(part="recall"), rows.where(part="budgets", budget=200, method="spex")
    offset = rows.where(part="extremes", game="offset 1e8, float32")
    triples = rows.where(part="shapes", shape=is_of("triples"))
    drawn = rows.where(part="stability", noise="normal")
    held = all(r["audit_low"] <= r["audit_true"] <= r["audit_high"] for r in few)
    searches = [
        (n, m, name)
        for n in (100, 200)
        for m, name in (("spex", "SPEX"), ("proxyspex", "ProxySPEX"))
    ]
    return {
        "recall": [
            [f"{n}, {name}"]
            + [span(mine.each("recall", n=n, method=m, ratio=x)) for x in (None, 100, 30, 10, 3)]
            for n, m, name in searches
        ],
        "recall.strong": span(mine.each("recall", ratio=lambda x: x in (None, 100, 30))),
        "recall.weak": span(mine.each("recall", ratio=3)),
        "triples": span(triples.each("recall_3")),
        "few": text(few.mean("recall")),
        "few.audit": "says" if held else "does not say",
        **{f"offset.{m}": text(offset.the(method=m)["recall"]) for m in ("spex", "proxyspex")},
        "offset.noise": share(r["shown_as_noise"] / r["n_pairs"] for r in offset),
        "stability.bootstrap": slashed(drawn.each("boot")),
        "stability.drawn": slashed(drawn.each("real")),
    }


def slashed(values: Iterable[float]) -> str:
    return " / ".join(map(text, values))


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
    skewed, even = mine.where(noise="skewed"), mine.where(noise=lambda noise: noise != "skewed")
    real, nothing = skewed.where(n_real=lambda n: n > 0), skewed.where(n_real=0)

    def rates(of: str, rows: Rows) -> list[float]:
        return [told["rate"] for told in rows.each(of)]

    return {
        "false.skewed": span(rates("found", real)),
        "false.nothing": share(rates("found", nothing)),
        "false.confirmed": span(rates("confirmed", real)),
        "false.confirmed.nothing": span(rates("confirmed", nothing)),
        "false.even": span(rates("found", even)),
    }


def of_audit(rows: Rows) -> Stated:
    planted, real = rows.where(part="audit"), rows.where(part="real_audit")
    games = {
        "nothing else": planted.where(tail="none"),
        "normal": planted.where(tail="normal"),
        "heavy-tailed (Student's t, 1.5 degrees)": planted.where(tail="heavy"),
        "saturating units, gradients": planted.where(tail=is_of("saturating")),
    }
    for size, each in (("260K", 1.5), ("260K", 3), ("3M", 1.5), ("3M", 3)):
        name = f"story {size}, gradients, {each:g} per unit"
        games[name] = real.where(evaluations_per_unit=each, game=is_of(size))

    def covered(pair: Rows, of: str) -> str:
        return slashed(told["coverage"] for told in pair.each(of))

    return {
        "audit": [
            [name, covered(pair, "recall"), slashed(pair.each("recall_width")),
             covered(pair, "energy")]
            for name, pair in games.items()
        ],
    }  # fmt: skip
