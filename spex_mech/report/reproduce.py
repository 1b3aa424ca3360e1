"""How to reproduce a result: the command that made it or, where none is known, Python code that is
worked out from the result; and what is known of it.

What a result does not hold (a function, tensors, prompts of one's own) stands in the code as
``...`` with the name that it had. The code stops before the search where weights or prompts are
others than those of the result.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from spex_mech.report.words import BACKUPS
from spex_mech.results.interactions import Interactions
from spex_mech.units import JOINED

_METHODS = ("spex", "proxyspex", "exhaustive")
_PROXIES = ("distilled", "trees")  # that can be named
_TASKS = ("induction", "text", "ioi", "greater_than")
_METRICS = ("logit_diff", "prob_diff", "log_prob", "loss", "kl")
_ABLATIONS = ("mean", "zero", "mean_per_position", "resample")
_COMPONENTS = {"head", "neuron", "kv_group", "expert"}
_LABEL = re.compile(r"L(\d+)([HNGE])(\d+)")
_MOST_NAMED = 64  # units or sets that are listed by name
_FILE = "interactions.npz"
_HASHES = {"weights_sha256": "another model", "tokens_sha256": "other prompts"}
_SENTENCES = ("accuracy", "experts")  # which the page says in words
_LONG = ("prompt_hashes",)  # of which tokens_sha256 says enough


def code_of(found: Interactions) -> str:
    """Python that makes a result like this, from the import to the search."""
    return "\n".join(["import spex_mech as sm", "", *_game(found), *_search(found)])


def _game(found: Interactions) -> Iterator[str]:
    """The lines that make the game."""
    about, kinds = found.about, found.unit_table.kinds
    labels, n_single = found.labels, len(found.labels) - (about.get("method") == BACKUPS)
    labels = [
        *labels[:n_single],
        *(one for each in labels[n_single:] for one in each.split(JOINED)),
    ]
    n = f"{len(labels):,} units"
    if not ({"model", "task", "ablation"} <= about.keys() and _COMPONENTS >= {*kinds[:n_single]}):
        yield f"game = ...  # the game of {n} that was searched"
        return
    comment = "" if about["model"] == "demo" else "  # or the folder or hub name it came from"
    yield f"model = sm.load_model({about['model']!r}){comment}"
    yield from _task(about)
    yield f"units = sm.Components.named(model, {_labels(labels)})"
    given = {"ablation": repr(about["ablation"])}
    if about["ablation"] not in _ABLATIONS:
        given["ablation"] = "references"
        yield "references = ...  # the tensors that were given for the ablation"
    if "reference" in about:
        given["reference"] = "reference"
        yield "reference = ...  # the prompts that were given for the mean"
    if about.get("precision", "float32") != "float32":
        given["precision"] = repr(about["precision"])
    options = "".join(f", {name}={value}" for name, value in given.items())
    yield f"game = sm.ModelGame(model, task, units{options})"
    for name, what in _HASHES.items():
        if name in about:
            yield f"assert game.provenance()[{name!r}] == {about[name]!r}, {what!r}"


def _task(about: dict[str, Any]) -> Iterator[str]:
    metric = about.get("metric")
    own = metric is not None and (metric not in _METRICS or "own_metric" in about)
    n = f", n_prompts={about['n_prompts']}" if "n_prompts" in about else ""
    if about["task"] not in _TASKS:
        measured = "" if metric is None else f", measured by {metric}"
        prompts = f" {about['n_prompts']} prompts" if "n_prompts" in about else " prompts"
        yield f"task = ...  # the{prompts} of the task {about['task']!r}{measured}"
        return
    if own:
        yield f"metric = ...  # your function {metric!r}"
    measured = f", metric={'metric' if own else repr(metric)}" if metric is not None else ""
    yield f"task = sm.load_task({about['task']!r}, model{n}{measured})"


def _labels(labels: Sequence[str]) -> str:
    """The labels as Python: listed, as ranges or, where they are many and not in order, from the
    file of the result."""
    if len(labels) <= _MOST_NAMED:
        return repr(list(labels))
    matches = [_LABEL.fullmatch(label) for label in labels]
    if not all(matches):
        return _from_file("labels")
    places = [(m[2], int(m[1]), int(m[3])) for m in matches if m]
    parts = []
    for letter, group in groupby(places, key=lambda place: place[0]):
        held = [place[1:] for place in group]
        layers, each = max(layer for layer, _ in held) + 1, max(i for _, i in held) + 1
        if held != [(layer, i) for layer in range(layers) for i in range(each)]:
            return _from_file("labels")
        loops = f"for layer in range({layers}) for i in range({each})"
        parts.append(f'[f"L{{layer}}{letter}{{i}}" {loops}]')
    return " + ".join(parts)


def _from_file(what: str) -> str:
    return f'sm.load("{_FILE}").{what}'


def _search(found: Interactions) -> Iterator[str]:
    """The lines that search, or measure what was listed."""
    about = found.about
    method = about.get("method")
    if method == "listed sets":
        few = len(found) <= _MOST_NAMED
        yield f"sets = {found.names if few else _from_file('names')}"
        yield "found = sm.measure(game, sets)"
        return
    if method == BACKUPS:  # those of the last unit, which may be several
        of = found.labels[-1].split(JOINED)
        yield f"found = sm.find_backups(game, {of}, k={found.n_measured})"
        return
    if method is not None and method not in _METHODS:
        yield f"search = ...  # your search {method!r}"
        yield "found = sm.discover(game, search)"
        return
    search = {name: about.get(name) for name in ("method", "proxy", "budget", "order", "seed")}
    words = {name: repr(value) for name, value in search.items() if value is not None}
    words |= {name: repr(value) for name, value in about.get("options", {}).items()}
    if about.get("proxy", "distilled") not in _PROXIES:
        yield f"proxy = ...  # the proxy, or the smaller game: {about['proxy']}"
        words["proxy"] = "proxy"
    options = "".join(f", {name}={value}" for name, value in words.items())
    yield f"found = sm.discover(game{options})"


def command_note(found: Interactions, command: str | None) -> str:
    """What goes with the command or the code."""
    hashes = [key for key in _HASHES if key in found.about]
    same = f"It is the same run if {' and '.join(hashes)} come out as below." if hashes else ""
    if command:
        return same
    code = code_of(found)
    open_lines = " A line with ... is what the result does not hold." if "= ..." in code else ""
    drawn = (
        " Where prompts were drawn with a seed, give load_task the same seed."
        if "load_task(" in code
        else ""
    )
    return f"This code was worked out from the result.{open_lines}{drawn} {same}".strip()


def facts(found: Interactions) -> list[tuple[str, str]]:
    facts = []
    for key, value in found.about.items():
        if key in _SENTENCES and isinstance(value, dict) and "words" in value:
            value = value["words"]
        elif isinstance(value, dict):
            value = ", ".join(f"{name} {of}" for name, of in value.items())
        if value is not None and key not in _LONG:
            facts.append((key, str(value)))
    facts += [(key, f"{value:.6g}") for key, value in found.cost.items()]
    return [*facts, ("noise_floor", f"{found.noise_floor:.3g}")]
