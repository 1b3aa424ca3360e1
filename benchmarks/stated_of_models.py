"""What README and docs state of trained models but SmolLM2 (``stated.py``)."""

from typing import Any

import numpy as np

from benchmarks.frame import Row
from benchmarks.rows import Rows, among, has, share, span, text, under
from benchmarks.stated import Stated

# -- lenses ----------------------------------------------------------------------------------------


def lenses(rows: Rows) -> Stated:
    return of_tokens(rows) | of_sentences(rows) | of_student(rows) | of_data(rows)


def of_tokens(rows: Rows) -> Stated:
    def line(name: str, masking: str, method: Any) -> list[str]:
        mine = rows.where(part="tokens", game=lambda of: of.endswith(masking), method=method)
        scores = (mine.each("recall", budget=budget) for budget in (148, 370, 740))
        return [name, *(text(max(of, default=None)) for of in scores)]

    return {
        "tokens": [
            line("SPEX, gradients (mean embedding)", "mean", "spex_mech spex"),
            line("SPEX, values only (mean embedding)", "mean", "spex_mech spex, values only"),
            line("best of shapiq's four (SVARM-IQ, KernelSHAP-IQ)", "mean", has("shapiq")),
            line("SPEX, values only (attention masking)", "attention", "spex_mech spex"),
            line("best of shapiq's four", "attention", has("shapiq")),
        ]
    }


def of_sentences(rows: Rows) -> Stated:
    tools = {
        "distilled": "spex_mech distill, distilled", "trees": "spex_mech distill, trees",
        "kernelshap": "shapiq KernelSHAP-IQ", "proxyspex": "shapiq ProxySPEX",
        "spex": "shapiq SPEX",
    }  # fmt: skip
    mine, of_means = rows.where(part="sentences"), among("shapley", "banzhaf")

    def scores(tool: str, kind: Any, *budgets: int) -> list[float]:
        return mine.each("score", kind=kind, method=tools[tool], budget=among(*budgets))

    few = mine.where(budget=among(67, 79), kind=of_means)
    digits = {"distilled": 3, "trees": 3, "proxyspex": 2, "spex": 2}
    best = [(kind, of) for kind in ("shapley", "banzhaf") for of in ("distilled", "trees", "spex")]
    return {
        "few.distilled": span(few.each("score", method=tools["distilled"])),
        "few.rivals": text(max(few.each("score", method=has("shapiq")))),
        **{f"r2.{of}": span(scores(of, "R2", 484, 576), n) for of, n in digits.items()},
        **{
            f"{kind}.{of}": text(scores(of, kind, 576)[0])
            for kind, of in [*best, ("shapley", "kernelshap")]
        },
    }


def of_student(rows: Rows) -> Stated:
    recalls: dict[str, float] = {}
    for row in rows.where(part="student"):
        masking, method = row["game"].split()[-1], row["method"].split()[0]
        recalls[f"student.{masking}.{row['budget'] // row['n']}.{method}"] = row["recall"]
    others = [recalls.pop(f"student.attention.8.{method}") for method in ("distilled", "spex")]
    found: Stated = {name: text(recall) for name, recall in recalls.items()}
    return found | {"student.attention.8.others": share(others)}


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


def circuits(rows: Rows) -> Stated:
    tasks, known = rows.where(part="faithfulness"), rows.where(part="recovery")
    texts = tasks.where(task=has("text"))

    def spent(row: Row) -> int:
        return row["discover_evaluations"] + row["cmd"]["evaluations"]

    def of(way: str, key: str, area: str = "cmd", where: Rows = texts) -> list[Any]:
        return [row[area]["curves"][way][key] for row in where]

    def sides(way: str, side: str, area: str) -> str:
        return "{}, {} and {}".format(*of(way, f"ours_{side}", area))

    n, ours = texts[0]["n_units"], spent(texts[0])
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
    one, two = of("main effects", "ours_ahead", where=tasks.where(task=has("strong")))
    induction = known.the(model="induction2L")
    return {
        "cmd": [cost, *sorted(by_task)],
        "known": recovered,
        "each": f"{np.mean([spent(r) / r['n_units'] for r in tasks if r['n_units'] >= 32]):.0f}",
        "text.level": span(x for way in (WAYS[0], *WAYS[3:]) for x in of(way, "cmd")),
        "text.main": span(of("main effects", "cmd")),
        "strong.one": f"{one}",
        "strong.two": f"{two}",
        "gradients.ahead": sides("integrated gradients", "ahead", "cmd"),
        "gradients.behind": sides("integrated gradients", "behind", "cmd"),
        "conditional.ahead": sides("conditional ablation", "ahead", "cpr"),
        "conditional.behind": sides("conditional ablation", "behind", "cpr"),
        "induction.evaluations": text(induction["evaluations"], 0),
        "induction.ours": text(induction["rankings"]["ours"]["roc"]),
        "induction.slopes": text(induction["rankings"]["gradient x activation"]["roc"]),
        "weak": text(known.the(model="demo, backup")["circuit_0.99"]["other_backups"], 0),
    }


# -- pruning ---------------------------------------------------------------------------------------

NUMBERS = "no one two three four five six seven eight nine ten eleven twelve".split()
MASKS = {
    "LASSO, 10 B": "10 B", "LASSO, B": "B", "best of random, 10 B": "10 B",
    "main effects": "n + 1", "surrogate, distilled": "B", "surrogate, trees": "B", "greedy": "",
}  # fmt: skip


def pruning(every: Rows) -> Stated:
    rows = [row for row in every if "left_out" not in row]

    def count(method: str, side: str, ours: str = "search") -> int:
        return sum(row["methods"][method][f"{ours} gains"][side] for row in rows)

    def line(method: str, cost: str) -> list[str]:
        sides = [
            f"{count(method, 'ahead', ours)} : {count(method, 'behind', ours)}"
            for ours in ("search", "surrogate, corrected")
        ]
        return [method, cost or f"{greedy} B", *sides]

    greedy = span((row["methods"]["greedy"]["masks"] / 6 / row["n_units"] for row in rows), 1)
    better = count("LASSO, 10 B", "behind")
    return {
        "groups": NUMBERS[len(rows)],
        "left_out": NUMBERS[len(every) - len(rows)].capitalize(),
        "levels": f"{3 * len(rows)}",
        "table": [line(method, cost) for method, cost in MASKS.items()],
        "single_as_good": f"{3 * len(rows) - count('main effects', 'ahead')}",
        "single_better": share([count("main effects", "behind") > 0]),
        "greedy.masks": greedy,
        "greedy.better": f"{count('greedy', 'behind')}",
        "greedy.worse": share([count("greedy", "ahead") > 0]),
        "lasso.better": f"at {better} levels" if better else "never",
        **knocked_out({row["part"]: row["knock_out"] for row in rows if row["knock_out"]}),
    }


def knocked_out(games: dict[str, list[Row]]) -> Stated:
    """Of each game the knock-outs of several draws."""

    def of(method: str, key: str, *names: str) -> np.ndarray:
        return np.array([draw["methods"][method][key] for name in names for draw in games[name]])

    ours, lasso = "search", "LASSO, 10 B"
    (average,) = (game for game in games if "text" in game)
    (copying,) = (game for game in games if "260k, object_copy" in game)
    others = [game for game in games if game != average]
    pairs = zip(of(ours, "heads", copying), of(lasso, "heads", copying), strict=True)
    as_few = [bool(np.all(of(ours, "heads", game) <= of(lasso, "heads", game))) for game in games]
    never = np.all(of("greedy", "heads", *games) <= of(ours, "heads", *games))
    return {
        "knock_out.as_few": f"{NUMBERS[sum(as_few)]} of {NUMBERS[len(games)]}",
        "knock_out.copying": ", ".join(f"{a} against {b}" for a, b in pairs if a != b),
        "knock_out.greedy_more": "never" if never else "sometimes",
        "knock_out.masks": span(of(ours, "masks", *others), 0),
        "knock_out.masks.greedy": span(of("greedy", "masks", *others), 0),
        "knock_out.text": span(of(ours, "heads", average), 0),
        "knock_out.text.lasso": span(of(lasso, "heads", average), 0),
        "knock_out.held_out": text(of(ours, "held_out_share", *games).max()),
        "knock_out.held_out.lasso": text(of(lasso, "held_out_share", *games).max()),
    }


# -- families --------------------------------------------------------------------------------------

PARTS = {
    "causal": "causal", "masked": "masked", "classifiers": "text classifiers",
    "images": "image classifiers", "towers": "other image models", "sounds": "speech encoders",
    "decoders": "encoder-decoders",
}  # fmt: skip
MOST = 160  # letters of a reason


def families(rows: Rows) -> Stated:
    built = Rows(row for row in rows if "not_built" not in row)
    parts = {name: built.where(part=part) for part, name in PARTS.items()}
    mixtures = built.where(part="experts")
    experts = {
        ended: [row["type"] for row in mixtures if how(row, "experts") == ended]
        for ended in ("right", "refused", "unused", "wrong")
    }

    def count(mine: Rows, of: str, *ended: str) -> int:
        return sum(how(row, of) in ended for row in mine)

    def summary(part: str, name: str) -> list[str]:
        mine = parts[name]
        wrong = sum(count(mine, of, "wrong", "failed") for of in ("heads", "neurons"))
        heads = (count(mine, "heads", ended) for ended in ("right", "part", "refused"))
        figures = (len(rows.where(part=part)), len(mine), *heads, count(mine, "neurons", "right"))
        return [name, *map(str, figures), str(wrong)]

    return {
        "experts": [[ended, ", ".join(types)] for ended, types in experts.items() if types],
        "summary": [summary(part, name) for part, name in PARTS.items()],
        "right": [
            [name, ", ".join(r["type"] for r in mine if how(r, "heads", "neurons") == "right")]
            for name, mine in parts.items()
        ],
        "heads_alone": [
            [name, row["type"], reason(row["neurons"]["why"])]
            for name, mine in parts.items()
            for row in mine
            if (how(row, "heads"), how(row, "neurons")) == ("right", "refused")
        ],
        "refused": [
            [name, row["type"], reason(row["heads"]["why"])]
            for name, mine in parts.items()
            for row in mine
            if how(row, "heads") in ("refused", "part")
        ],
    }


def how(row: Row, *of: str) -> str:
    """How one kind of unit ended, or several that ended the same way."""
    ended = {row.get(kind, {}).get("ended", "") for kind in of}
    return ended.pop() if len(ended) == 1 else ""


def reason(why: str) -> str:
    """A reason without the class of its error and what it is a reason for."""
    own = why.split(": ", 1)[-1]
    for opening in ("the model has no heads: ", "the model has no neurons: "):
        own = own.removeprefix(opening)
    own = own.rpartition("that can be told apart: ")[2].replace("|", "/")
    for ending in ("; name the output projections", " (a state-space model"):
        own = own.split(ending, 1)[0]
    return own if len(own) <= MOST else own[: MOST - 4].rsplit(" ", 1)[0] + " ..."
