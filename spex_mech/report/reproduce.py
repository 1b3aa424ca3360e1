"""How to reproduce a result: the command or the call that made it, and what is known of it."""

import shlex
from typing import Any

from spex_mech.results.interactions import Interactions

_PROXIES = ("distilled", "trees")  # that can be named
_MOST_NAMED = 64  # units that are listed by name
_SENTENCES = ("experts",)  # of which the page has a table


def command_of(found: Interactions) -> str:
    """The command that makes a result like this or, where the command line cannot say it, code."""
    about = found.about
    search = {key: about[key] for key in ("method", "proxy", "budget", "order", "seed")
              if about.get(key) is not None}  # fmt: skip
    told = about.get("options", {})
    sayable = (
        {"model", "task", "ablation", "n_prompts"} <= set(about)
        and len(found.labels) <= _MOST_NAMED
        and not told.keys() - {"proxy"}
        and about.get("proxy", "distilled") in _PROXIES
        and about["ablation"] != "given"  # as tensors
        and about.get("precision", "float32") == "float32"
    )
    search |= told
    if sayable:
        options = {"model": about["model"], "task": about["task"], **search}
        options |= {"n-prompts": about["n_prompts"], "ablation": about["ablation"]}
        heads = {*found.unit_table.kinds} == {"head"}
        options["units"] = ",".join(found.labels)
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        return shlex.join(["spex-mech", "discover", *words]) if heads else _code(found, search)
    return _code(found, search)


def _code(found: Interactions, search: dict[str, Any]) -> str:
    """Python that makes a result like this, from the import to the search."""
    about, labels = found.about, found.labels
    lines = ["import spex_mech as sm", ""]
    components = {*found.unit_table.kinds} <= {"head", "neuron", "kv_group", "expert"}
    if {"model", "task"} <= set(about) and components:
        n = f", n_prompts={about['n_prompts']}" if "n_prompts" in about else ""
        how = f", ablation={about['ablation']!r}" if "ablation" in about else ""
        how = ", ablation=references" if about.get("ablation") == "given" else how
        few = len(labels) <= _MOST_NAMED
        units = f"sm.Components.named(model, {labels})" if few else "..."
        lines += [
            f"model = sm.load_model({about['model']!r})",
            f"task = sm.load_task({about['task']!r}, model{n})",
            f"units = {units}" + ("" if few else f"  # the {len(labels):,} units of this result"),
            *(["references = ...  # the tensors that were given"] if "references" in how else []),
            f"game = sm.ModelGame(model, task, units{how})",
        ]
    else:
        lines.append(f"game = ...  # the game of {len(labels):,} units that was searched")
    return "\n".join([*lines, f"found = {_call(search)}"])


def _call(search: dict[str, Any]) -> str:
    words = {key: repr(value) for key, value in search.items()}
    if search.get("proxy", "distilled") not in _PROXIES:
        words["proxy"] = "..."  # an object, or a smaller game
    arguments = ", ".join(f"{key}={value}" for key, value in words.items())
    return f"sm.discover(game, {arguments})" if arguments else "sm.discover(game)"


def command_note(found: Interactions, command: str | None) -> str:
    hashes = [key for key in ("weights_sha256", "tokens_sha256") if key in found.about]
    worked_out = (
        ""
        if command
        else "Worked out from the result: where the model or the task came from a file, or the "
        "task was drawn with another seed, give what you gave. "
    )
    same = f"It is the same run if {' and '.join(hashes)} come out as below." if hashes else ""
    return f"{worked_out}{same}".strip()


def facts(found: Interactions) -> list[tuple[str, str]]:
    facts = []
    for key, value in found.about.items():
        if key in _SENTENCES and isinstance(value, dict) and "words" in value:
            value = value["words"]
        elif isinstance(value, dict):
            value = ", ".join(f"{name} {of}" for name, of in value.items())
        if value is not None:
            facts.append((key, str(value)))
    facts += [(key, f"{value:.6g}") for key, value in found.cost.items()]
    return [*facts, ("noise_floor", f"{found.noise_floor:.3g}")]
