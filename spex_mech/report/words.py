"""The words of a report: what was asked, found, spent and missed, as questions and answers."""

import math

import numpy as np

from spex_mech.plots.numbers import metric_unit
from spex_mech.plots.style import MINUS
from spex_mech.results.interactions import Interactions


def summary(found: Interactions) -> list[tuple[str, str]]:
    """What a report says in words: pairs of a question and its answer."""
    return [
        ("What was asked", _asked(found)),
        ("What was found", _found(found)),
        ("How sure this is", _sure(found)),
        ("What it cost", _cost(found)),
        ("What was missed", _missed(found)),
    ]


def _asked(found: Interactions) -> str:
    about, n_prompts = found.about, found.values.shape[1]
    model = f" of {about['model']}" if "model" in about else ""
    task = f" on the task {about['task']}" if "task" in about else ""
    how = about.get("ablation") or about.get("masking")
    ablated = f", ablated by their {how}" if how == "mean" else f", by {how} ablation"
    metric = f" ({about['metric']})" if "metric" in about else ""
    return (
        f"Which of {len(found.labels):,} units{model} interact{task}{ablated if how else ''}? "
        f"The metric{metric} of the intact model is {value_text(found.intact).removeprefix('+')}, "
        f"averaged over {count_text(n_prompts, 'prompt')}."
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
                f"The strongest {reading} pair is {names_text(clear, first)}, "
                f"{value_text(clear.mean[first], clear.stderr[first])} "
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
        f"{value_text(found.noise_floor)[1:]}, {floor}."
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
        f"{count_text(int(cost.get('evaluations', 0)), 'evaluation')} "
        "(one is a mask over all prompts; a gradient counts as three)"
    ]
    if cost.get("gradients"):
        parts.append(f"of them {count_text(int(cost['gradients']), 'gradient')}")
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
        f"{count_text(int(audit['n_tested']), 'pair')} drawn at random from those never tested "
        f"were tested. By them, an estimated {audit['recall']:.2f} of the true "
        f"{audit['k']:,} strongest pairs were found (90 % interval {audit['recall_low']:.2f} to "
        f"{audit['recall_high']:.2f}); energy (summed squares) found "
        f"{audit['energy_found']:.3g}, missed {audit['energy_missed']:.3g} "
        f"({audit['energy_low']:.3g} to {audit['energy_high']:.3g}).{blind}"
    )


def count_text(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def value_text(value: float, stderr: float = math.nan) -> str:
    if math.isnan(value):
        return "not measured"
    text = f"{value:+.3g}".replace("-", MINUS)
    return text if math.isnan(stderr) else f"{text} \N{PLUS-MINUS SIGN} {stderr:.2g}"


def names_text(found: Interactions, row: int) -> str:
    return " x ".join(found.names[row])
