"""What README and docs state of SmolLM2 (``stated.py``)."""

import numpy as np

from benchmarks.frame import Row
from benchmarks.rows import Rows, over, span, text
from benchmarks.stated import Stated, Table


def smollm2(rows: Rows) -> Stated:
    run = rows.the(what="run")
    return {
        "units": f"{run['units']:,}",
        "pairs": f"{run['pairs'] / 1e9:.2f} billion",
        "evaluations": f"{run['evaluations']:,}",
        "minutes": text(run["seconds"] / 60, 1),
        "gigabytes": text(run["gigabytes"], 1),
        "right": f"{run['right']} of {run['prompts']}",
        "confirmed": f"{run['confirmed']} of {run['tried']}",
        "same_sign": f"{run['same_sign']} of {run['tried']}",
        "strongest": [
            [row["pair"], f"{row['searched']:+.2f}", f"{row['again']:+.2f} ± {row['stderr']:.2f}"]
            for row in rows.where(what="pair")[:8]
        ],
    }


def smollm2_units(rows: Rows) -> Stated:
    chosen = ("attribution", "half", "effects")
    keys = [f"{name}@{k}" for name in chosen for k in (50, 100)]
    sets, searches = rows.where(part="sets"), rows.where(part="searches")
    drawn = sets.where(set="drawn")
    return {
        "searches": [
            [row["task"], f"{row['budget']:,}", *(text(row[key]) for key in keys)]
            for row in sorted(searches, key=lambda row: (row["task"], row["budget"]))
        ],
        "found": span(row[f"{name}@100"] for row in searches.where(budget=1200) for name in chosen),
        **{f"{name}.heads": _two(sets.where(set=name), "heads") for name in chosen},
        **{f"{name}.pairs": f"{sets.where(set=name)[0]['pairs']:,}" for name in chosen},
        "drawn": f"{sum(row['pairs'] for row in drawn):,}",
        "drawn.largest": f"{max(row['size_of_1th'] for row in drawn):.3f}",
        "drawn.as_strong": _none_or(sum(row["as_strong"] for row in searches)),
        "size_of_100th": span(row["size_of_100th"] for row in searches),
        "growth": [
            [f"{row['budget']:,}", text(row["recall@50"]), text(row["recall@100"])]
            for row in rows.where(part="growth")
        ],
    }


def smollm2_text(rows: Rows) -> Stated:
    words, sentences = rows.where(part="words"), rows.where(part="sentences")
    found: Stated = {"words": f"{words.where(what='map')[0]['units']}"}
    for name, part in (("words", words), ("sentences", sentences)):
        whole = part.where(what="map")
        found[f"{name}.intact"] = text(whole[0]["intact"], 1)
        for masking in (row["masking"] for row in whole):
            found[f"{name}.{masking}"] = [
                [row["units"], f"{row['value']:+.2f}", row["reading"], signed(row["alone"])]
                for row in part.where(what="set", masking=masking)
            ]
    return found | {"words.searches": of_word_searches(words.where(game="words"))}


def signed(values: list[float]) -> str:
    return ", ".join(f"{value:+.2f}" for value in values)


def of_word_searches(ran: Rows) -> Table:
    """The shares of the strongest 20 and 50 pairs that each finds, by its evaluations."""
    budgets = sorted({row["budget"] for row in ran})
    table: Table = []
    for method in dict.fromkeys(row["method"] for row in ran):
        mine = ran.where(method=method)
        shares = [[mine.mean(f"recall@{k}", budget=b) for b in budgets] for k in (20, 50)]
        table.append([method, *map(text, (*shares[0], *shares[1]))])
    return table


def _two(rows: Rows, key: str) -> str:
    """What stands in two rows, by the task."""
    return " and ".join(f"{row[key]}" for row in sorted(rows, key=lambda row: str(row["task"])))


def _none_or(count: int) -> str:
    return f"{count}" if count else "none"


# What is stated of both tasks, and of either: figures of the whole map, and how they are written.
BOTH = {
    "pairs": "{:,}", "prompts": "{}", "intact": "{:.1f}", "size_of_1th": "{:.1f}",
    "size_of_100th": "{:.2f}", "energy_of_top_10": "{:.0%}", "energy_of_top_100": "{:.0%}",
    "energy_of_top_1000": "{:.0%}", "top_100_larger_than_the_smaller_main_effect": "{:.0%}",
    "products_100": "{:.0%}",
}  # fmt: skip
OF_TASK = {
    "capitals": BOTH | {
        "units": "{}", "size_of_10th": "{:.1f}", "size_of_1000th": "{:.2f}",
        "heads_in_top_100": "{}", "median_layers_apart_of_top_100": "{:.0f}",
        "significant": "{:.0%}", "pairs_within_a_layer": "{:.1%}",
        "top_100_within_a_layer": "{:.0%}", "top_100_positive": "{:.0%}", "products_500": "{:.0%}",
    },
    "ioi": BOTH,
}  # fmt: skip
LOOKS = ("io", "s", "duplicate", "induction", "previous")


def smollm2_heads(rows: Rows) -> Stated:
    found: Stated = {}
    for task, figures in OF_TASK.items():
        mine = rows.where(task=task)
        whole = mine.the(what="map")
        across = whole["mean_size_across_layers"]
        stated: Stated = {
            **{key: form.format(whole[key]).rstrip("%") for key, form in figures.items()},
            "times_within": text(whole["mean_size_within_a_layer"] / across, 1),
            "sets": [of_sets(mine.where(what="set", size=size)) for size in (5, 10, 20, 40)],
            "again": [of_others(name, mine.the(what=what)) for what, name in OTHERS.items()],
            "strongest": [
                [row["pair"], *(f"{row[kind]:+.2f}" for kind in ("value", "same", "other"))]
                for row in mine.where(what="pair")
            ],
            "searches": of_searches(rows.where(game=task)),
        }
        if task == "ioi":
            stated["significant_pairs"] = text(whole["significant"] * whole["pairs"], 0)
            stated["roles"] = of_roles(mine.where(what="role"))
        else:
            stated["apart"] = [
                [row["ablated"] or "nothing", *(text(row[key], 1) for key in ("even", "odd"))]
                + [text(mine.the(what="sink", ablated=row["ablated"])[k]) for k in ("even", "odd")]
                for row in mine.where(what="apart")
            ]
        found |= {f"{task}.{name}": value for name, value in stated.items()}
    if audits := rows.where(what="audit"):
        found["audits"] = [of_audit(row) for row in audits]
    return found


def of_audit(row: Row) -> list[str]:
    """How often the audit cannot tell, what it says where it can, and what is true."""
    held = row["recall"]["coverage"]
    figures = [row["cannot_tell"], row["recall_true"], held, row["recall_width"]]
    return [row["task"], f"{row['budget']:,}", text(row["tests"], 0), *map(text, figures)]


def of_sets(mine: Rows) -> list[str]:
    """Together, alone and with pairs of the strongest; mean errors of drawn ones."""
    strong, drawn = mine.the(heads="strongest"), mine.where(heads="drawn")
    shown = [f"{strong[key]:+.1f}" for key in ("together", "alone", "with_pairs")]
    sizes = [abs(row["together"]) for row in drawn]
    off = [[abs(r[key] - r["together"]) for r in drawn] for key in ("alone", "with_pairs")]
    return [str(strong["size"]), *shown, *(text(float(np.mean(x))) for x in (sizes, *off))]


OTHERS = {"same": "other prompts", "other": "other templates", "zero": "zero ablation"}


def of_others(name: str, row: Row) -> list[str]:
    shares = [
        f"{row[f'{key}_{part}']:.0%}".replace("%", " %")
        for part in ("0_100", "100_500")
        for key in ("same_sign", "holds")
    ]
    last = (text(row[key]) for key in ("correlation_0_100", "size_ratio_0_100"))
    return [name, f"{row['pairs']:,}", text(row["intact"], 1), *shares, *last]


def of_roles(mine: Rows) -> Table:
    """The heads one of whose shares is over a half, largest single effect first."""
    rows = [row for row in mine if max(row[key] for key in LOOKS) > 0.5]
    return [
        [row["head"], f"{row['alone']:+.2f}", str(row["rank"]), str(row["pairs"])]
        + [f"**{row[key]:.2f}**" if row[key] > 0.5 else text(row[key]) for key in LOOKS]
        for row in sorted(rows, key=lambda row: row["rank"])
    ]


def of_searches(ran: Rows) -> Table:
    names = {
        "spex": "SPEX",
        "proxyspex": "ProxySPEX",
        "products of main effects": "products of main effects (single ablations)",
        "Hessian-vector products": "Hessian-vector products",
        "attribution patching, products": "products of attributions",
        "LASSO on pairs, near intact": "LASSO on random masks",
    }
    table: Table = []
    for method, name in names.items():
        mine = ran.where(method=method)
        if "spex" not in method and "main effects" not in method:
            mine = mine.where(n_pairs=over(0))  # 270 evaluations leave rivals no pair to name
        shares = [mine.mean("recall@100", budget=b) for b in (100, 135, 270, 350, 540)]
        if mine:
            table.append([name, *map(text, [*shares, mine.mean("recall@500", budget=540)])])
    return table


def smollm2_backups(rows: Rows) -> Stated:
    (truth,) = [row for row in rows if "backups" in row]
    return {
        "backups": str(len(truth["backups"])),
        "heads": str(truth["heads"]),
        "finders": [
            [row["finder"], f"{row['evaluations']:,}", text(row["roc"]), text(row["precision"])]
            for row in rows
            if "finder" in row
        ],
    }


OF_BOTH = ("of_top", "same_sign_0", "correlation_0")
TRIPLE_RECALLS = ("recall@20", "recall@100")


def smollm2_more(rows: Rows) -> Stated:
    third, found, whole_circuit = (rows.where(part=p) for p in ("third", "triples", "circuit"))
    found_of = {row["what"]: row for row in found}
    whole, triples = third.the(what="map"), found_of.get("triples")
    stated: Stated = {
        "third.pairs": f"{whole['pairs']:,}",
        "third.intact": text(whole["intact"], 1),
        "third.size_of_100th": text(whole["size_of_100th"]),
        "third.largest_drawn": text(whole["largest_drawn"]),
        "third.against": [
            [row["other"], *(text(row[f"{k}_100"]) for k in OF_BOTH)]
            for row in third.where(what="against")
        ],
        "third.searches": [
            [str(budget), text(third.mean("recall@100", what="search", budget=budget))]
            for budget in (270, 350, 540)
        ],
    }
    if whole_circuit:
        stated |= of_circuit(whole_circuit)
    if triples is None:
        return stated
    return stated | {
        "triples": f"{triples['triples']:,}",
        "triples.energy": text(triples["order_3_energy"] / triples["order_2_energy"]),
        "triples.sizes": [
            [f"{k}", *(text(triples[f"order_{order}_size_of_{k}th"]) for order in (2, 3))]
            for k in (1, 10, 100)
        ],
        "triples.sets": [
            [str(row["size"]), *(text(row[key]) for key in ("together", "missed_by_1"))]
            + [text(row[f"missed_by_{order}"]) for order in (2, 3)]
            for row in found.where(what="set")
        ],
        "triples.searches": [
            [f"{row['budget']:,}", str(row["measured"]), *(text(row[k]) for k in TRIPLE_RECALLS)]
            for row in found.where(what="search")
        ],
    }


def of_circuit(rows: Rows) -> Stated:
    """Of the heads that do the task."""
    whole = rows.the(what="circuit")
    kinds = ("searched", "same", "other")
    return {
        "circuit.size": str(whole["size"]),
        "circuit.evaluations": f"{whole['evaluations']:,}",
        "circuit.others": str(whole["not_among_largest_singles"]),
        "circuit.faithfulness": [
            [row["of"].replace("ours", "the circuit"), *(text(row[kind]) for kind in kinds)]
            for row in rows.where(what="faithfulness")
        ],
    }
