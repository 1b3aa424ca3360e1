"""A result as one web page that needs no network: summary in words, maps, tables, prompts.

The numbers are those of ``plots``, the words those of ``words``; this file puts them together, and
the templates in ``templates`` beside it draw them. Jinja escapes all that comes from outside,
tokens stand apart by direction (``<bdi>``), and a content security policy lets nothing run but the
page's own script.
"""

import hashlib
import os
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spex_mech.circuits.circuit import Circuit
from spex_mech.notices import warn
from spex_mech.report.beside import compared
from spex_mech.report.maps import folded_map, layer_map, unit_map
from spex_mech.report.network import network
from spex_mech.report.prompts import prompts_shown
from spex_mech.report.reproduce import code_of, command_note, facts
from spex_mech.report.tables import circuit_shown, expert_rows, main_rows, pair_rows, tiles
from spex_mech.report.words import summary, verdict
from spex_mech.results.cautions import other_game
from spex_mech.results.confirmation import Confirmation
from spex_mech.results.files import write_whole
from spex_mech.results.interactions import Interactions, as_result

if TYPE_CHECKING:
    from spex_mech.engine.task import Task

_TEMPLATES = Path(__file__).parent / "templates"


def write_report(
    found: Interactions,
    path: str | os.PathLike[str],
    *,
    task: "Task | None" = None,
    tokenizer: Any = None,
    circuit: Circuit | None = None,
    title: str | None = None,
    command: str | None = None,
    confirmed: Confirmation | None = None,
    beside: Interactions | None = None,
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
        command: the command that made the result. Default: Python code, worked out from the
            result.
        confirmed: what ``confirm`` returned: the report then shows what held on other prompts.
        beside: another result of units of the same names, such as of another model or ablation:
            the report then has both values of each interaction side by side, and the other's map.

    Returns:
        the path.

    Raises:
        ValueError: the task's prompts are not those that the result was measured on, or ``beside``
            shares no unit with it.

    Warns:
        UserWarning: ``beside`` is of another metric; then no differences are shown. Or the circuit
            is of another metric, ablation or model than the result.
    """
    found = as_result(found) if confirmed is None else as_result(found).confirmed_by(confirmed)
    page = page_of(found, task, tokenizer, circuit, title, command, beside)
    return write_whole(path, lambda file: file.write(page))


def page_of(
    found: Interactions,
    task: "Task | None" = None,
    tokenizer: Any = None,
    circuit: Circuit | None = None,
    title: str | None = None,
    command: str | None = None,
    beside: Interactions | None = None,
) -> bytes:
    """The page that :func:`write_report` writes."""
    page = _page(found, task, tokenizer, circuit, title, command, beside)
    return page.encode("utf-8", "backslashreplace")


def _page(
    found: Interactions,
    task: "Task | None",
    tokenizer: Any,
    circuit: Circuit | None,
    title: str | None,
    command: str | None,
    beside: Interactions | None,
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    prompts = None if task is None else prompts_shown(found, task, tokenizer)
    shown = circuit_shown(circuit) if circuit is not None else None
    if circuit is not None and (differ := other_game(found.about, circuit.about)):
        warn(f"the circuit and the result that the page shows differ in {', '.join(differ)}")
    other = compared(found, beside)
    rows, n_left_out = pair_rows(found)
    mains, mains_left_out = main_rows(found)
    experts, experts_left_out = expert_rows(found)
    sections = {
        "summary": "Summary", "maps": "Maps", "pairs": "Interactions", "mains": "Main effects",
        "beside": "Beside another result" if other else "",
        "experts": "Experts" if experts else "", "circuit": "Circuit" if shown else "",
        "prompts": "Prompts" if prompts else "",
        "reproduce": "How to reproduce",
    }  # fmt: skip
    return environment.get_template("report.html.j2").render(
        **_frame(found, title),
        sections=[(key, name) for key, name in sections.items() if name],
        verdict=verdict(found),
        tiles=tiles(found),
        summary=summary(found),
        **_drawings(found),
        rows=rows,
        n_left_out=n_left_out,
        readings=sorted({row["reading"] for row in rows}),
        any_pale=any(row["pale"] for row in rows),
        any_confirmed=any(row["confirmed"] for row in rows),
        intact=f"{found.intact:.6g}",
        any_q=found.values.shape[1] > 1,
        mains=mains,
        mains_left_out=mains_left_out,
        experts=experts,
        experts_left_out=experts_left_out,
        experts_said=found.about["experts"]["words"] if experts else "",
        circuit=shown,
        beside=other,
        prompts=prompts,
        command=command or code_of(found),
        command_note=command_note(found, command),
        facts=facts(found),
    )


def _frame(found: Interactions, title: str | None) -> dict[str, Any]:
    """The page's title, version, style and script."""
    from markupsafe import Markup

    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    style = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    named = [str(found.about[key]) for key in ("model", "task") if key in found.about]
    return {
        "title": title or (f"Interactions: {', '.join(named)}" if named else "Interactions"),
        "version": found.about.get("versions", {}).get("spex_mech", "(version not recorded)"),
        "style": Markup(style),
        "script": Markup(script),
        "script_hash": b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }


def _drawings(found: Interactions) -> dict[str, Any]:
    """The maps and the network; None for each that the result has nothing for."""
    has_pairs = bool((found.order == 2).any())
    layered = has_pairs and bool((found.unit_table.layers >= 0).all())
    neurons = layered and "neuron" in found.unit_table.kinds
    return {
        "map": unit_map(found) if has_pairs else None,
        "layers": layer_map(found) if layered else None,
        "folded": folded_map(found) if neurons else None,
        "network": network(found) if has_pairs else None,
        "picture": _picture(found) if has_pairs and found.about.get("lens") == "tokens" else None,
    }


def _picture(found: Interactions) -> Any:
    from markupsafe import Markup

    from spex_mech.plots.text import plot_text

    return Markup(plot_text(found).svg)
