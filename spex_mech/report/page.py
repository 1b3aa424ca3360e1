"""A result as one web page that needs no network: summary in words, maps, tables, prompts.

The numbers are those of ``plots.numbers``; this file places them, and the templates in
``templates`` beside it draw them. Jinja escapes all that comes from outside, tokens stand apart by
direction (``<bdi>``), and a content security policy lets nothing run but the page's own script.
"""

import hashlib
import math
import os
import shlex
from base64 import b64encode
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.circuits.circuit import Circuit, Score
from spex_mech.plots.numbers import (
    edge_curve,
    folded_numbers,
    layer_energy,
    layer_of,
    map_numbers,
    metric_unit,
    network_numbers,
)
from spex_mech.results.files import write_whole
from spex_mech.results.interactions import Interactions
from spex_mech.results.statistics import standard_errors

if TYPE_CHECKING:
    from spex_mech.engine.metrics import Task

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_ROWS, _MOST_UNITS, _MOST_PAIRS, _MOST_PROMPTS = 500, 40, 20, 20
_PROXIES = ("distilled", "trees")  # that can be named
_MINUS = "\N{MINUS SIGN}"


def write_report(
    found: Interactions,
    path: str | os.PathLike[str],
    *,
    task: "Task | None" = None,
    tokenizer: Any = None,
    circuit: Circuit | None = None,
    title: str | None = None,
    command: str | None = None,
) -> Path:
    """Write a result as one HTML file: what was asked and found, how sure it is, what it cost and
    missed, maps, tables that sort and filter, prompts, and how to reproduce it.

    Args:
        found: what a search measured.
        path: the file to write; its folder is made.
        task: shows the prompts, token by token.
        tokenizer: makes texts of tokens where the task does not (``tokenizer.decode([id])``);
            without one, ids are shown.
        circuit: a circuit to show, with its scores, groups and members.
        title: default: model and task.
        command: the command that made the result; default: worked out from the result.

    Returns:
        the path.

    Raises:
        ValueError: the task's prompts are not those that the result was measured on.
    """
    page = _page(found, task, tokenizer, circuit, title, command)
    return write_whole(path, lambda file: file.write(page.encode("utf-8", "backslashreplace")))


def write_all(
    found: Interactions,
    folder: str | os.PathLike[str],
    *,
    task: "Task | None" = None,
    command: str | None = None,
) -> tuple[list[str], list[str]]:
    """Write a result's files into a folder, which is made: ``interactions.npz``,
    ``interactions.csv``, ``map.png`` and ``report.html``.

    Args:
        task, command: as of :func:`write_report`.

    Returns:
        the names of the files, and why the map is not among them, if it cannot be drawn.
    """
    from spex_mech.plots.static import plot_map

    folder = Path(folder)
    figure, lacking = None, []
    try:  # first, so that nothing is written before all is worked out
        figure = plot_map(found)
    except (ImportError, ValueError) as error:
        lacking.append(f"no map: {error}")
    table = found.frame().to_csv(index=False)
    found.save(folder / "interactions.npz")
    (folder / "interactions.csv").write_text(table, encoding="utf-8")
    written = ["interactions.npz", "interactions.csv"]
    if figure is not None:
        figure.savefig(folder / "map.png", dpi=160)
        written.append("map.png")
    written.append(write_report(found, folder / "report.html", task=task, command=command).name)
    return written, lacking


def summary(found: Interactions) -> list[tuple[str, str]]:
    """What a report says in words: pairs of a question and its answer."""
    return [
        ("What was asked", _asked(found)),
        ("What was found", _found(found)),
        ("How sure this is", _sure(found)),
        ("What it cost", _cost(found)),
        ("What was missed", _missed(found)),
    ]


# -- the words ------------------------------------------------------------------------------------


def _asked(found: Interactions) -> str:
    about, n_prompts = found.about, found.values.shape[1]
    model = f" of {about['model']}" if "model" in about else ""
    task = f" on the task {about['task']}" if "task" in about else ""
    how = about.get("ablation") or about.get("masking")
    ablated = f", ablated by their {how}" if how == "mean" else f", by {how} ablation"
    metric = f" ({about['metric']})" if "metric" in about else ""
    return (
        f"Which of {len(found.labels):,} units{model} interact{task}{ablated if how else ''}? "
        f"The metric{metric} of the intact model is {_value(found.intact).removeprefix('+')}, "
        f"averaged over {_count(n_prompts, 'prompt')}."
    )


def _found(found: Interactions) -> str:
    clear = found.top(len(found))
    clear = clear.top(int((~clear.is_noise).sum()))
    if not len(clear):
        return "No interaction above the noise floor was measured."
    readings = np.array(clear.readings)
    counts = [
        f"{int((readings == reading).sum()):,} {reading}"
        for reading in ("AND-like", "OR-like", "mixed", "beyond pairs")
        if (readings == reading).any()
    ]
    meaning = {
        "AND-like": "their damage overlaps: they work in series",
        "OR-like": "their damage compounds: one backs the other up",
    }
    lines = []
    for reading, words in meaning.items():
        rows = np.flatnonzero(readings == reading)
        if len(rows):
            first = int(rows[0])
            lines.append(
                f"The strongest {reading} pair is {_names(clear, first)}, "
                f"{_value(clear.mean[first], clear.stderr[first])} "
                f"({metric_unit(found)}); {words}."
            )
    held = f"Above the noise floor are {len(clear):,} interactions: {', '.join(counts)}."
    return " ".join([*lines, held])


def _sure(found: Interactions) -> str:
    n, n_prompts = len(found), found.values.shape[1]
    origin = "Every value was measured" if n else "Nothing was measured"
    if found.about.get("estimated"):
        origin = f"The values are estimates (index {found.about.get('index')})"
    resolution = found.about.get("resolution")
    floor = "the rounding error that was measured in the same run"
    if resolution is not None:
        floor = f"what {resolution} values of their size cannot resolve"
    noise = (
        f"{origin}; "
        f"{int(found.is_noise.sum()):,} of {n:,} are at or under the noise floor of "
        f"{_value(found.noise_floor)[1:]}, {floor}."
    )
    if n_prompts < 2:
        return f"{noise} There is one prompt, so that there are no standard errors."
    return (
        f"{noise} Standard errors are over {n_prompts:,} prompts; "
        f"{int((found.q_value <= 0.05).sum()):,} have a false-discovery-rate q of 0.05 or less. "
        "That counts all that could be chosen from, but an effect that was chosen for its size is "
        "smaller on other prompts: sm.confirm(found, game) measures the strongest on those."
    )


def _cost(found: Interactions) -> str:
    cost, n = found.cost, len(found.labels)
    parts = [
        f"{_count(int(cost.get('evaluations', 0)), 'evaluation')} "
        "(one is a mask over all prompts; a gradient counts as three)"
    ]
    if cost.get("gradients"):
        parts.append(f"of them {_count(int(cost['gradients']), 'gradient')}")
    if "seconds" in cost:
        parts.append(f"{cost['seconds']:.3g} s")
    every = 1 + n + n * (n - 1) // 2
    return f"{', '.join(parts)}. All pairs would take {every:,} evaluations."


def _missed(found: Interactions) -> str:
    n = len(found.labels)
    left = n * (n - 1) // 2 - int((found.order == 2).sum())
    if left <= 0:
        return "No pair: all were measured."
    if not (audit := found.audit):
        return f"It is not known: {left:,} pairs were not measured, and none of them was audited."
    alone = audit.get("recall_by_tests", audit["recall_low"])
    blind = ""
    if alone < audit["recall_low"]:
        blind = (
            " That supposes that strong pairs are predicted to be strong more often than others; "
            f"the tests by themselves exclude a recall below {alone:.2g} only."
        )
    return (
        f"{_count(int(audit['n_tested']), 'pair')} drawn at random from those never tested were "
        f"tested. By them, an estimated {audit['recall']:.2f} of the true "
        f"{audit['k']:,} strongest pairs were found (90 % interval {audit['recall_low']:.2f} to "
        f"{audit['recall_high']:.2f}); energy (summed squares) found "
        f"{audit['energy_found']:.3g}, missed {audit['energy_missed']:.3g} "
        f"({audit['energy_low']:.3g} to {audit['energy_high']:.3g}).{blind}"
    )


def _count(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def _value(value: float, stderr: float = math.nan) -> str:
    if math.isnan(value):
        return "not measured"
    text = f"{value:+.3g}".replace("-", _MINUS)
    return text if math.isnan(stderr) else f"{text} \N{PLUS-MINUS SIGN} {stderr:.2g}"


def _names(found: Interactions, row: int) -> str:
    return " x ".join(found.names[row])


def _numbers(value: float, stderr: float, largest: float) -> dict[str, Any]:
    """What a table's row has of a value: to sort by, to show, and as a bar."""
    return {
        "percent": f"{100 * abs(value) / largest:.1f}",
        "size": abs(value),
        "value": value,
        "value_text": _value(value),
        "stderr": "" if math.isnan(stderr) else stderr,
        "stderr_text": "" if math.isnan(stderr) else f"{stderr:.2g}",
    }


# -- the page -------------------------------------------------------------------------------------


def _page(
    found: Interactions,
    task: "Task | None",
    tokenizer: Any,
    circuit: Circuit | None,
    title: str | None,
    command: str | None,
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    about, has_pairs = found.about, bool((found.order == 2).any())
    layered = has_pairs and all(layer_of(label) >= 0 for label in found.labels)
    neurons = layered and any("N" in label for label in found.labels)
    prompts = None if task is None else _prompts(found, task, tokenizer)
    shown = _circuit(circuit) if circuit is not None else None
    named = [str(about[key]) for key in ("model", "task") if key in about]
    rows, n_left_out = _rows(found)
    mains, mains_left_out = _mains(found)
    sections = {
        "summary": "Summary", "maps": "Maps", "pairs": "Interactions", "mains": "Main effects",
        "circuit": "Circuit" if shown else "", "prompts": "Prompts" if prompts else "",
        "reproduce": "How to reproduce",
    }  # fmt: skip
    return environment.get_template("report.html.j2").render(
        title=title or (f"Interactions: {', '.join(named)}" if named else "Interactions"),
        version=about.get("versions", {}).get("spex_mech", "(version not recorded)"),
        style=Markup(style),
        script=Markup(script),
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        sections=[(key, name) for key, name in sections.items() if name],
        tiles=_tiles(found),
        summary=summary(found),
        map=_unit_map(found) if has_pairs else None,
        layers=_layer_map(found) if layered else None,
        folded=_folded_map(found) if neurons else None,
        network=_network(found) if has_pairs else None,
        picture=_picture(found) if has_pairs and about.get("lens") == "tokens" else None,
        rows=rows,
        n_left_out=n_left_out,
        readings=sorted({row["reading"] for row in rows}),
        mains=mains,
        mains_left_out=mains_left_out,
        circuit=shown,
        prompts=prompts,
        command=command or _command(found),
        command_note=_command_note(found, command),
        facts=_facts(found),
    )


def _tiles(found: Interactions) -> list[dict[str, str]]:
    tiles = []
    if len(found):
        top = found.top(1)
        value = f"{_value(float(top.mean[0]), float(top.stderr[0]))}, {top.readings[0]}"
        tiles.append({"name": "Strongest", "value": _names(top, 0), "note": value})
    clear = int((~found.is_noise).sum())
    tiles += [
        {"name": "Above the noise floor", "value": f"{clear:,} of {len(found):,}", "note": ""},
        {
            "name": "Cost",
            "value": f"{found.cost.get('evaluations', 0):,.0f}",
            "note": f"evaluations ({found.about.get('method', 'unknown method')})",
        },
    ]
    if audit := found.audit:
        interval = f"{audit['recall_low']:.2f} to {audit['recall_high']:.2f}"
        name = f"Recall of the top {audit['k']:,}"
        note = f"90 % interval {interval}"
        tiles.append({"name": name, "value": f"{audit['recall']:.2f}", "note": note})
    return tiles


def _rows(found: Interactions) -> tuple[list[dict[str, Any]], int]:
    """Rows of the table, strongest first, and how many more there are."""
    top = found.top(_MOST_ROWS)
    readings, names = top.readings, top.names
    largest = abs(top.mean).max(initial=0.0) or 1.0
    rows = []
    for i in range(len(top)):
        value, stderr, q = (float(x[i]) for x in (top.mean, top.stderr, top.q_value))
        mains = [_value(float(found.main_effects[unit])) for unit in top.units[i] if unit >= 0]
        rows.append(
            {
                "units": names[i],
                **_numbers(value, stderr, largest),
                "q": "" if math.isnan(q) else q,
                "q_text": "" if math.isnan(q) else f"{q:.2g}",
                "reading": readings[i],
                "noise": bool(top.is_noise[i]),
                "mains": ", ".join(mains),
            }
        )
    return rows, len(found) - len(top)


def _mains(found: Interactions) -> tuple[list[dict[str, Any]], int]:
    mains, errors = found.main_effects, standard_errors(found.main_effects_by_prompt)
    known = np.flatnonzero(np.isfinite(mains))
    shown = known[np.argsort(-abs(mains[known]), kind="stable")][:_MOST_ROWS]
    largest = abs(mains[shown]).max(initial=0.0) or 1.0
    rows = []
    for unit in shown.tolist():
        numbers = _numbers(float(mains[unit]), float(errors[unit]), largest)
        rows.append({"unit": found.labels[unit], **numbers})
    return rows, len(known) - len(shown)


# -- the maps: numbers to places ------------------------------------------------------------------


def _unit_map(found: Interactions) -> dict[str, Any]:
    numbers = map_numbers(found, most=_MOST_UNITS)
    n, n_all = len(numbers.names), len(found.labels)
    which = f"The {n} strongest of {n_all:,} units" if n < n_all else f"All {n} units"
    tips = _pair_tips(found)
    return _heat(
        "unit-map", numbers.values, numbers.names, numbers.borders, tips,
        caption=f"{which}, in their order ({metric_unit(found)}).",
    )  # fmt: skip


def _layer_map(found: Interactions) -> dict[str, Any]:
    numbers = layer_energy(found)
    share = 100 * numbers.energy / (numbers.total or 1.0)
    tips = {
        (a, b): f"{a} x {b}\n{share[i, j]:.1f} % of the energy\n"
        f"{_count(int(numbers.n_pairs[i, j]), 'pair')} measured"
        for i, a in enumerate(numbers.names)
        for j, b in enumerate(numbers.names)
    }
    values = np.where(numbers.n_pairs > 0, share, np.nan)
    within = f"{100 * numbers.share_within:.0f} %" if numbers.total else "None"
    by_error = (
        ""
        if math.isnan(numbers.by_error)
        else f" Errors over the prompts alone would give {numbers.by_error:.2g}."
    )
    caption = (
        "Per cent of the energy (summed squares of all pairs measured) between two layers; "
        f"{within} lies within layers. In all it is {numbers.total:.3g}.{by_error}"
    )
    return _heat(
        "layer-map", values, numbers.names, [], tips, caption=caption, one_sided=True
    )  # fmt: skip


def _folded_map(found: Interactions) -> dict[str, Any]:
    numbers = folded_numbers(found)
    caption = (
        f"Rows of their own hold {100 * numbers.kept:.0f} % of the neurons' energy. The other "
        "neurons of a layer are one row (its number and how many), whose cells are the root of "
        "the summed squares of their pairs, signed by the sum."
    )
    return _heat(
        "folded-map", numbers.values, numbers.names, numbers.borders, _pair_tips(found),
        caption=caption, blocks=numbers.is_block,
    )  # fmt: skip


def _pair_tips(found: Interactions) -> dict[tuple[str, str], str]:
    readings, names, tips = found.readings, found.names, {}
    for row in np.flatnonzero(found.order == 2).tolist():
        a, b = names[row]
        value = _value(float(found.mean[row]), float(found.stderr[row]))
        tips[a, b] = tips[b, a] = f"{a} x {b}\n{value}\n{readings[row]}"
    return tips


def _heat(
    id: str,
    values: Float[np.ndarray, "row row"],
    names: list[str],
    borders: list[int],
    tips: dict[tuple[str, str], str],
    *,
    caption: str,
    one_sided: bool = False,
    blocks: Bool[np.ndarray, " row"] | None = None,
) -> dict[str, Any]:
    """Places and texts of a map's cells, in pixels."""
    n = len(names)
    cell = 40 if n <= 10 else 24 if n <= 20 else 18
    short = [name if len(name) <= 12 else f"{name[:11]}\N{HORIZONTAL ELLIPSIS}" for name in names]
    left = 14 + 7 * max(map(len, short), default=0)
    top = 16 if borders else 4
    largest = float(np.nan_to_num(abs(values)).max(initial=0.0)) or 1.0
    digits = max(0, 1 - math.floor(math.log10(largest)))
    cells = []
    for row in range(n):
        for column in range(n):
            value, pair = float(values[row, column]), (names[row], names[column])
            if math.isnan(value):
                continue
            strong = abs(value) > (0.005 if one_sided else 0.2) * largest
            number = f"{value:.0f}" if one_sided else f"{value:+.2g}".replace("-", _MINUS)
            fits = cell >= 40 and (one_sided or digits < 4)
            sign = "+" if value > 0 else _MINUS
            whole = one_sided or (blocks is not None and (blocks[row] or blocks[column]))
            energy = f"{pair[0]} x {pair[1]}\nenergy, signed by the sum: {_value(value)}"
            cells.append(
                {
                    "row": row,
                    "column": column,
                    "x": left + cell * column,
                    "y": top + cell * row,
                    "kind": "e" if one_sided else "p" if value > 0 else "n",
                    "opacity": round(abs(value) / largest, 3),
                    "text": "" if not strong else number if fits else "" if one_sided else sign,
                    "tip": tips.get(pair, energy),
                    "filter": "" if whole else " ".join(pair),
                }
            )
    return {
        "id": id,
        "cell": cell,
        "left": left,
        "top": top,
        "side": cell * n,
        "width": left + cell * n + 6,
        "height": top + cell * n + left,
        "names": [
            {"text": text, "at": top + cell * (i + 0.5), "across": left + cell * (i + 0.5)}
            for i, text in enumerate(short)
        ],
        "layers": [
            {"x": left + cell * (start + stop) / 2, "text": _layer_text(names[start], stop - start)}
            for start, stop in pairwise([0, *borders, n] if borders else [])
        ],
        "borders": [cell * border for border in borders],
        "cells": cells,
        "largest": f"{largest:.3g}",
        "caption": caption,
    }


def _layer_text(name: str, n_units: int) -> str:
    layer = layer_of(name)
    return "" if layer < 0 else f"layer {layer}" if n_units > 2 else str(layer)


def _network(found: Interactions) -> dict[str, Any]:
    numbers = network_numbers(found, _MOST_PAIRS)
    nodes = {node.label: node for node in numbers.nodes}
    layers = sorted({node.layer for node in numbers.nodes})
    layered = layers[-1] >= 0
    x = np.array([node.x for node in numbers.nodes])
    in_column = max(int((x.round(6) == place).sum()) for place in np.unique(x.round(6)))
    n_columns = len({node.x for node in numbers.nodes})
    wide = max(130, round(480 / max(n_columns - 1, 1))) if layered else 210
    high = 46 * max(in_column, 4) if layered else 210
    shift = (70, 40) if layered else (290, 250)

    def at(point: tuple[float, float]) -> tuple[float, float]:
        return round(shift[0] + wide * point[0], 1), round(shift[1] + high * point[1], 1)

    largest = max(abs(edge.value) for edge in numbers.edges) or 1.0
    dashes = {"AND-like": "", "OR-like": "7 4"}
    edges = []
    for edge in reversed(numbers.edges):
        start, control, end = map(at, edge_curve(nodes[edge.a], nodes[edge.b]))
        value = _value(edge.value, edge.stderr)
        edges.append(
            {
                "tip": f"{edge.a} x {edge.b}\n{value}\n{edge.reading}",
                "filter": f"{edge.a} {edge.b}",
                "kind": "p" if edge.value > 0 else "n",
                "path": f"M{start[0]} {start[1]}Q{control[0]} {control[1]} {end[0]} {end[1]}",
                "width": round(1 + 5 * abs(edge.value) / largest, 2),
                "dash": dashes.get(edge.reading, "2 4"),
                "sign": "+" if edge.value > 0 else _MINUS,
                "x": round((start[0] + 2 * control[0] + end[0]) / 4, 1),
                "y": round((start[1] + 2 * control[1] + end[1]) / 4, 1),
            }
        )
    mains = {node.label: abs(node.main_effect) for node in numbers.nodes}
    strongest = np.nanmax([0.0, *mains.values()]) or 1.0
    shown_nodes = []
    for node in numbers.nodes:
        size = 0.0 if math.isnan(mains[node.label]) else mains[node.label] / strongest
        place = at((node.x, node.y))
        text = node.label if len(node.label) <= 14 else f"{node.label[:13]}\N{HORIZONTAL ELLIPSIS}"
        shown_nodes.append(
            {
                "tip": f"{node.label}\nmain effect {_value(node.main_effect, node.stderr)}",
                "filter": node.label,
                "text": text,
                "x": place[0],
                "y": place[1],
                "radius": round(5 + 9 * math.sqrt(size), 1),
            }
        )
    columns = sorted({(node.x, node.layer) for node in numbers.nodes}) if layered else []
    return {
        "width": round(max([n["x"] + 75 for n in shown_nodes] + [e["x"] + 15 for e in edges])),
        "height": round(max(node["y"] for node in shown_nodes) + 45),
        "edges": edges,
        "nodes": shown_nodes,
        "layers": [
            {"x": at((place, 0.0))[0], "text": f"layer {layer}" if layer >= 0 else ""}
            for place, layer in columns
        ],
        "unclear": any(edge.reading not in dashes for edge in numbers.edges),
        "caption": f"The {len(edges)} strongest pairs. A line is as wide as its interaction is "
        "strong, a circle as large as the main effect of its unit.",
    }


def _picture(found: Interactions) -> Any:
    from markupsafe import Markup

    from spex_mech.plots.text import plot_text

    return Markup(plot_text(found).svg)


# -- circuit, prompts, reproduction ---------------------------------------------------------------


def _circuit(circuit: Circuit) -> dict[str, Any]:
    table = circuit.frame()
    scores = ("faithfulness", "completeness", "minimality")
    return {
        "members": circuit.units,
        "n_members": len(circuit),
        "n_units": len(circuit.labels),
        "measures": [(name, _score(getattr(circuit, name))) for name in scores],
        "groups": [
            {"kind": group.kind, "units": [u if u in group.kept else f"({u})" for u in group.units]}
            for group in circuit.groups
        ],
        "columns": list(table.columns),
        "rows": [[_cell(cell) for cell in row] for row in table.itertuples(index=False)],
    }


def _score(score: Score) -> str:
    return _value(score.value, score.stderr).removeprefix("+")


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.3g}".replace("-", _MINUS)


def _prompts(found: Interactions, task: "Task", tokenizer: Any) -> dict[str, Any]:
    from spex_mech.fingerprints import tokens_sha256

    prompts, intact = task.prompts, found.intact_by_prompt
    known = found.about.get("tokens_sha256")
    if len(prompts) != len(intact) or known not in (None, tokens_sha256(prompts)):
        raise ValueError(
            f"the task {task.name!r} has other prompts than those of the result: give the task "
            "that the game was made with"
        )

    def texts(ids: list[int]) -> list[str]:
        if task.decode is not None:
            return task.decode(ids)
        return [str(i) if tokenizer is None else tokenizer.decode([i]) for i in ids]

    def answers(given: Any, row: int) -> list[str]:
        ids = [] if given is None else [i for i in given[row].tolist() if i >= 0]
        return [_visible(text) for text in texts(ids)]

    shown = []
    for row in range(min(len(prompts), _MOST_PROMPTS)):
        ids, last = prompts.tokens[row][prompts.real[row]].tolist(), int(prompts.last[row])
        shown.append(
            {
                "intact": _value(float(intact[row])),
                "tokens": [
                    {
                        "text": _visible(text),
                        "read": pos == last and prompts.answers is not None,
                    }
                    for pos, text in enumerate(texts(ids))
                ],
                "answers": answers(prompts.answers, row),
                "wrong": answers(prompts.wrong_answers, row),
            }
        )
    cut = f"The first {len(shown)} of {len(prompts):,}." if len(shown) < len(prompts) else ""
    ids = "" if task.decode or tokenizer is not None else "No tokenizer was given: ids are shown."
    marked = "The marked token is where the answer is read." if prompts.answers is not None else ""
    return {"shown": shown, "note": " ".join(part for part in (cut, marked, ids) if part)}


def _visible(text: str) -> str:
    """Line ends and tabs as signs; one token stays one box."""
    signs = {"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\r": "\\r", "\t": "\\t"}
    return "".join(signs.get(c, c) for c in text) or "\N{EMPTY SET}"


def _command(found: Interactions) -> str:
    about = found.about
    search = {key: about[key] for key in ("method", "proxy", "budget", "order", "seed")
              if about.get(key) is not None}  # fmt: skip
    told = about.get("options", {})
    sayable = (
        {"model", "task", "ablation", "n_prompts"} <= set(about)
        and len(found.labels) <= 64
        and not told.keys() - {"proxy"}
        and about.get("proxy", "distilled") in _PROXIES
        and about["ablation"] != "given"  # as tensors
        and about.get("precision", "float32") == "float32"
    )
    search |= told
    if sayable:
        options = {"model": about["model"], "task": about["task"], **search}
        options |= {"n-prompts": about["n_prompts"], "ablation": about["ablation"]}
        heads = all(layer_of(u) >= 0 and "H" in u for u in found.labels)
        options["units"] = ",".join(found.labels)
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        return shlex.join(["spex-mech", "discover", *words]) if heads else _call(search)
    return _call(search)


def _call(search: dict[str, Any]) -> str:
    words = {key: repr(value) for key, value in search.items()}
    if search.get("proxy", "distilled") not in _PROXIES:
        words["proxy"] = "..."  # an object, or a smaller game
    arguments = ", ".join(f"{key}={value}" for key, value in words.items())
    return f"sm.discover(game, {arguments})" if arguments else "sm.discover(game)"


def _command_note(found: Interactions, command: str | None) -> str:
    hashes = [key for key in ("weights_sha256", "tokens_sha256") if key in found.about]
    worked_out = (
        ""
        if command
        else "Worked out from the result: where the model or the task came from a file, or the "
        "task was drawn with another seed, give what you gave. "
    )
    same = f"It is the same run if {' and '.join(hashes)} come out as below." if hashes else ""
    return f"{worked_out}{same}".strip()


def _facts(found: Interactions) -> list[tuple[str, str]]:
    facts = []
    for key, value in found.about.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {of}" for name, of in value.items())
        if value is not None:
            facts.append((key, str(value)))
    facts += [(key, f"{value:.6g}") for key, value in found.cost.items()]
    return [*facts, ("noise_floor", f"{found.noise_floor:.3g}")]
