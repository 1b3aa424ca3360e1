"""What README and docs state of circuits, pruning and the errors of searches (``stated.py``)."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.frame import Row, rows_of
from benchmarks.stated import Stated, kept, mean, share, span, text, the

WAYS = (
    "ours", "main effects", "gradient x activation", "integrated gradients", "conditional ablation",
)  # fmt: skip


def circuits() -> Stated:
    rows = kept("circuits")
    tasks, known = rows_of(rows, part="faithfulness"), rows_of(rows, part="recovery")
    texts = [row for row in tasks if "text" in row["task"]]
    strong = [row for row in tasks if "strong" in row["task"]]

    def spent(row: Row) -> int:
        return row["discover_evaluations"] + row["cmd"]["evaluations"]

    def of(area: str, rival: str, key: str, where: list[Row] = texts) -> list[Any]:
        return [row[area]["curves"][rival][key] for row in where]

    (ours,), (n,) = {spent(row) for row in texts}, {row["n_units"] for row in texts}
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
    each = np.mean([spent(row) / row["n_units"] for row in tasks if row["n_units"] >= 32])
    level = [x for way in (WAYS[0], *WAYS[3:]) for x in of("cmd", way, "cmd")]
    induction, weak = the(rows, model="induction2L"), the(rows, model="demo, backup")
    one, two = of("cmd", "main effects", "ours_ahead", strong)
    found: Stated = {
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
    }  # fmt: skip
    for short, area, way in (("gradients", "cmd", WAYS[3]), ("conditional", "cpr", WAYS[4])):
        for side in ("ahead", "behind"):
            counts = of(area, way, f"ours_{side}")
            found[f"circuits.{short}.{side}"] = "{}, {} and {}".format(*counts)
    return found


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
    rows = kept("robustness")
    found: Stated = {}
    for of in (of_recall, of_errors, of_discoveries, of_audit):
        found |= {f"robustness.{name}": value for name, value in of(rows).items()}
    return found


def of_recall(rows: list[Row]) -> Stated:
    mine = rows_of(rows, part="recall")
    few = rows_of(rows, part="budgets", n=100, budget=200, method="spex")
    offset = rows_of(rows, part="extremes", game="offset 1e8, float32")
    triples = [r["recall_3"] for r in rows_of(rows, part="shapes") if "triples" in r["shape"]]
    drawn = rows_of(rows, part="stability", noise="normal")
    held = all(r["audit_low"] <= r["audit_true"] <= r["audit_high"] for r in few)
    ratios = (None, 100, 30, 10, 3)
    return {
        "recall": [
            [f"{n}, {name}", *(span(r["recall"] for r in rows_of(mine, n=n, method=m, ratio=x))
                               for x in ratios)]
            for n in (100, 200)
            for m, name in (("spex", "SPEX"), ("proxyspex", "ProxySPEX"))
        ],
        "recall.strong": span(r["recall"] for r in mine if r["ratio"] in (None, 100, 30)),
        "recall.weak": span(r["recall"] for r in rows_of(mine, ratio=3)),
        "triples": span(triples),
        "few": text(mean(few, "recall")),
        "few.audit": "says" if held else "does not say",
        **{f"offset.{m}": text(the(offset, method=m)["recall"]) for m in ("spex", "proxyspex")},
        "offset.noise": share(r["shown_as_noise"] / r["n_pairs"] for r in offset),
        "stability.bootstrap": slashed(r["boot"] for r in drawn),
        "stability.drawn": slashed(r["real"] for r in drawn),
    }  # fmt: skip


def slashed(values: Iterable[float]) -> str:
    return " / ".join(map(text, values))


def of_errors(rows: list[Row]) -> Stated:
    found: Stated = {}
    for n in (8, 64):
        row = the(rows, part="errors", noise="normal", prompts=n)
        found[f"larger.{n}"] = text(row["shown"] / row["true"], 1)
        for name in ("selected_t", "selected_counted", "confirmed_t"):
            found[f"{name}.{n}"] = text(row[name]["coverage"])
    return found


def of_discoveries(rows: list[Row]) -> Stated:
    mine = rows_of(rows, part="discoveries")

    def rates(of: str, skewed: bool, real: bool | None = None) -> list[float]:
        return [row[of]["rate"] for row in mine if (row["noise"] == "skewed") is skewed
                and real in (None, row["n_real"] > 0)]  # fmt: skip

    return {
        "false.skewed": span(rates("found", True, True)),
        "false.nothing": share(rates("found", True, False)),
        "false.confirmed": span(rates("confirmed", True, True)),
        "false.confirmed.nothing": span(rates("confirmed", True, False)),
        "false.even": span(rates("found", False)),
    }


def of_audit(rows: list[Row]) -> Stated:
    planted, real = rows_of(rows, part="audit"), rows_of(rows, part="real_audit")
    games = {
        "nothing else": rows_of(planted, tail="none"),
        "normal": rows_of(planted, tail="normal"),
        "heavy-tailed (Student's t, 1.5 degrees)": rows_of(planted, tail="heavy"),
        "saturating units, gradients": [r for r in planted if "saturating" in r["tail"]],
    }
    for size, each in (("260K", 1.5), ("260K", 3), ("3M", 1.5), ("3M", 3)):
        mine = rows_of(real, evaluations_per_unit=each)
        name = f"story {size}, gradients, {each:g} a unit"
        games[name] = [row for row in mine if size in row["game"]]

    def covered(pair: list[Row], of: str) -> list[float]:
        return [row[of]["coverage"] for row in pair]

    return {
        "audit": [
            [name, slashed(covered(pair, "recall")), slashed(r["recall_width"] for r in pair),
             slashed(covered(pair, "energy"))]
            for name, pair in games.items()
        ],
    }  # fmt: skip
