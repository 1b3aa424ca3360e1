"""What the page of SmolLM2's heads states (``stated.py``), from ``smollm2_heads.json``."""

from benchmarks.frame import Row
from benchmarks.stated import Rows, Stated, kept, text

_AGAIN = {"same": "other prompts", "other": "other templates", "zero": "zero ablation"}
_METHODS = {
    "spex": "SPEX",
    "proxyspex": "ProxySPEX",
    "products of main effects": "products of main effects (single ablations)",
    "Hessian-vector products": "Hessian-vector products",
    "attribution patching, products": "products of attributions",
    "LASSO on pairs, near intact": "LASSO on random masks",
}


def smollm2_heads() -> Stated:
    rows = kept("smollm2_heads")
    found: Stated = {}
    for task in Rows(rows.where(what="map")).kinds("task"):
        mine = rows.where(task=task)
        ran = rows.where(game=task)
        stated = {key: of for key, of in _of(mine, ran).items() if key not in _UNSTATED[task]}
        found |= {f"smollm2_heads.{task}.{key}": value for key, value in stated.items()}
    return found


_RIVALS = list(_METHODS)[3:]
# What the page of a task does not say.
_UNSTATED = {
    "capitals": {"roles", "significant_pairs"},
    "ioi": {
        "apart", "units", "size_of_10th", "size_of_1000th", "heads_in_top_100", "significant",
        "median_layers_apart_of_top_100", "pairs_within_a_layer", "top_100_within_a_layer",
        "top_100_positive", "products_500",
    },
}  # fmt: skip


def _of(mine: Rows, ran: Rows) -> Stated:
    whole = mine.the(what="map")
    return {
        **{key: _number(whole, key) for key in _NUMBERS},
        **{key: f"{100 * whole[key]:.{digits}f}" for key, digits in _PERCENT.items()},
        "significant_pairs": f"{whole['significant'] * whole['pairs']:.0f}",
        "times_within": text(
            whole["mean_size_within_a_layer"] / whole["mean_size_across_layers"], 1
        ),
        "apart": [_apart(row, mine) for row in mine.where(what="apart")],
        "roles": [_role(row) for row in _told_by_attention(mine)],
        "sets": [
            _set(size, mine.where(what="set", size=size))
            for size in _SIZES
            if mine.where(what="set", size=size)
        ],
        "again": [_again(name, mine) for name in _AGAIN if mine.where(what=name)],
        "strongest": [_pair(row) for row in mine.where(what="pair")],
        "searches": [row for method in _METHODS if (row := _recalls(method, ran))],
    }


_NUMBERS = {
    "units": 0, "pairs": 0, "prompts": 0, "intact": 1, "size_of_1th": 1, "size_of_10th": 1,
    "size_of_100th": 2, "size_of_1000th": 2, "heads_in_top_100": 0,
    "median_layers_apart_of_top_100": 0,
}  # fmt: skip
_PERCENT = {
    "significant": 0, "energy_of_top_10": 0, "energy_of_top_100": 0, "energy_of_top_1000": 0,
    "pairs_within_a_layer": 1, "top_100_within_a_layer": 0, "top_100_positive": 0,
    "top_100_larger_than_the_smaller_main_effect": 0, "products_100": 0,
    "products_500": 0,
}  # fmt: skip


def _number(row: Row, key: str) -> str:
    return f"{row[key]:,.{_NUMBERS[key]}f}"


def _again(name: str, mine: Rows) -> list[str]:
    row, parts = mine.the(what=name), ("0_100", "100_500")
    cells = [f"{row['pairs']:,}", text(row["intact"], 1)]
    for part in parts:
        cells += [f"{100 * row[f'{key}_{part}']:.0f} %" for key in ("same_sign", "holds")]
    return [_AGAIN[name], *cells, text(row["correlation_0_100"]), text(row["size_ratio_0_100"])]


def _apart(row: Row, mine: Rows) -> list[str]:
    """The metric in both templates, and the share of attention on the first token."""
    sinks = mine.where(what="sink", ablated=row["ablated"])
    if not sinks:
        return []
    (sink,) = sinks
    values = [f"{row[key]:.1f}" for key in ("even", "odd")]
    return [row["ablated"] or "nothing", *values, *(text(sink[key]) for key in ("even", "odd"))]


_SIZES = (5, 10, 20, 40)
_LOOKS = ("io", "s", "duplicate", "induction", "previous")


def _told_by_attention(mine: Rows) -> list[Row]:
    """The heads one of whose shares is over a half, largest single effect first."""
    rows = [row for row in mine.where(what="role") if max(row[key] for key in _LOOKS) > 0.5]
    return sorted(rows, key=lambda row: row["rank"])


def _role(row: Row) -> list[str]:
    shares = [f"**{row[key]:.2f}**" if row[key] > 0.5 else f"{row[key]:.2f}" for key in _LOOKS]
    return [row["head"], f"{row['alone']:+.2f}", str(row["rank"]), str(row["pairs"]), *shares]


def _set(size: int, mine: Rows) -> list[str]:
    """Together, alone and with pairs of the strongest; mean errors of drawn ones."""
    strong, drawn = mine.the(heads="strongest"), mine.where(heads="drawn")
    shown = [f"{strong[key]:+.1f}" for key in ("together", "alone", "with_pairs")]
    size_of = sum(abs(row["together"]) for row in drawn) / len(drawn)
    errors = [
        sum(abs(row[key] - row["together"]) for row in drawn) / len(drawn)
        for key in ("alone", "with_pairs")
    ]
    return [str(size), *shown, *(text(x) for x in (size_of, *errors))]


def _pair(row: Row) -> list[str]:
    return [row["pair"], *(f"{row[kind]:+.2f}" for kind in ("value", "same", "other"))]


def _recalls(method: str, ran: Rows) -> list[str]:
    mine = ran.where(method=method)
    if method in _RIVALS:  # a budget of one evaluation per head leaves them no pair to name
        mine = mine.where(n_pairs=lambda n_pairs: n_pairs > 0)
    if not mine:
        return []
    cells = [text(mine.mean("recall@100", budget=budget)) for budget in (100, 135, 270, 350, 540)]
    return [_METHODS[method], *cells, text(mine.mean("recall@500", budget=540))]
