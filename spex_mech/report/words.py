"""The words of a report: what was asked, found, spent and missed, as questions and answers."""

import math

import numpy as np

from spex_mech.plots.numbers import metric_unit
from spex_mech.plots.style import MINUS
from spex_mech.plots.words import relation
from spex_mech.results.audits import EARLIER, energy_text, excluded_text, recall_text
from spex_mech.results.interactions import Interactions
from spex_mech.results.printed import halves, many_choices
from spex_mech.results.variation import variation_text, varies
from spex_mech.results.verdicts import SIGNIFICANT, TOO_FEW
from spex_mech.units import JOINED

BACKUPS = "backups"  # the method of what find_backups returns


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
    n, what = len(found.labels), "interact"
    if about.get("method") == BACKUPS:
        gone = found.labels[-1].split(JOINED)
        n, is_are = n - 1, "are" if len(gone) > 1 else "is"
        what = f"are needed more once {' and '.join(gone)} {is_are} gone"
    return (
        f"Which of {n:,} units{model} {what}{task}{ablated if how else ''}? "
        f"The metric{metric} of the intact model is {value_text(found.intact).removeprefix('+')}, "
        f"averaged over {count_text(n_prompts, 'prompt')}."
    )


def verdict(found: Interactions) -> str:
    """The first sentence of a report: how much of what was measured is a finding."""
    n, n_prompts = len(found), found.values.shape[1]
    n_found = int(found.is_finding.sum())
    if not n:
        return "Nothing was measured."
    if found.is_noise.all():
        return "Nothing was found: no interaction is above the noise floor."
    if n_prompts < 2:
        which = f"{n_found:,} of {count_text(n, 'interaction')}" if n_found else "Nothing"
        many = "stand out" if n_found > 1 else "stands out"
        return f"{which} {many} from the others. There is one prompt, so that there is no q."
    if TOO_FEW in found.verdicts:
        few = f"{n_prompts} prompts of one cluster do not tell what is significant"
        return f"{few}." if n_found else f"Nothing is significant: {few}."
    if not n_found:
        return (
            f"Nothing is significant: no interaction of {n:,} has a q of {SIGNIFICANT} or less "
            f"over {n_prompts:,} prompts."
        )
    many = "are" if n_found > 1 else "is"
    return (
        f"{n_found:,} of {count_text(n, 'interaction')} {many} significant over {n_prompts:,} "
        f"prompts (q of {SIGNIFICANT} or less)."
    )


def _found(found: Interactions) -> str:
    shown = found.top(len(found))
    verdicts = np.array(shown.verdicts, dtype=object)
    lines = [verdict(found) + ("" if found.is_finding.any() else _why_nothing(found))]
    for reading in ("AND-like", "OR-like"):
        rows = np.flatnonzero(verdicts == reading)
        if len(rows):
            first = int(rows[0])
            # One that was chosen among all, as the tile at the head says it.
            half = float(halves(shown.take(rows[:1]))[0])
            value = value_text(float(shown.mean[first]), half)
            lines.append(
                f"The strongest {reading} pair is {names_text(shown, first)}, {value} "
                f"({metric_unit(found)}); {relation(shown, first)}."
            )
    counts = [
        f"{int((verdicts == reading).sum()):,} {reading}"
        for reading in ("AND-like", "OR-like", "mixed", "beyond pairs")
        if (verdicts == reading).any()
    ]
    if counts:
        lines.append(f"By their signs they are {', '.join(counts)}.")
    return " ".join([*lines, _confirmed(found)]).strip()


def _why_nothing(found: Interactions) -> str:
    """Why no q is small, where a search chose among many."""
    few = found.values.shape[1] < 2 or found.is_noise.all() or TOO_FEW in found.verdicts
    return "" if few else many_choices(found)


def _confirmed(found: Interactions) -> str:
    tried, held = int((found.confirmed >= 0).sum()), int((found.confirmed == 1).sum())
    if not tried:
        return "None was measured again on other prompts." if found.is_finding.any() else ""
    return f"Of {tried:,} that were measured again on other prompts, {held:,} are confirmed."


def _sure(found: Interactions) -> str:
    n, n_prompts = len(found), found.values.shape[1]
    origin = "Every value was measured" if n else "Nothing was measured"
    if found.about.get("estimated"):
        origin = f"The values are estimates (index {found.about.get('index')})"
    resolution = found.about.get("resolution")
    floor = "the rounding error that was measured in the same run"
    if resolution is not None:
        floor = f"what {resolution} values of their size cannot resolve"
    if varies(found.about):
        floor = "what values of the same mask differ by, and what that makes of the largest of all"
    resolved = int((~found.is_noise).sum())
    which = "All are resolved" if resolved == n else f"{resolved:,} of {n:,} are resolved"
    noise = (
        f"{origin}. {which}: they are above the noise floor of "
        f"{value_text(found.noise_floor)[1:]}, {floor}."
    )
    if variation := variation_text(found.about):
        noise += f" {variation[0].upper()}{variation[1:]}."
    if n_prompts < 2:
        return (
            f"{noise} There is one prompt, so that there are no standard errors and no q. A pair "
            "stands out if it is larger than a normal distribution of the others would make it."
        )
    return (
        f"{noise} {int(found.is_significant.sum()):,} are significant over {n_prompts:,} prompts, "
        f"with a false-discovery-rate q of {SIGNIFICANT} or less, which counts all that could be "
        "chosen from. The \N{PLUS-MINUS SIGN} is half of a 90 % interval, which is wider where "
        "what is shown was chosen. An effect that was chosen for its size is smaller on other "
        "prompts: sm.confirm(found, game) measures the strongest on those."
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
    every = f"pairs would take {1 + n + n * (n - 1) // 2:,}"
    if found.about.get("method") == BACKUPS:
        every = f"units would take {2 * n:,}"
    return f"{', '.join(parts)}. All {every} evaluations."


def _missed(found: Interactions) -> str:
    n = len(found.labels)
    if found.about.get("method") == BACKUPS:
        if not (left := n - 1 - found.n_measured):
            return "No unit: all were measured."
        were = (
            "unit was not measured, whose slope grows"
            if left == 1
            else ("units were not measured, whose slopes grow")
        )
        return f"It is not known: {left:,} {were} less."
    n_pairs, part = int((found.order == 2).sum()), ""
    if len(found) < found.n_measured:  # whose other rows are known, and not shown
        part = f"These are {len(found):,} of {found.n_measured:,} that were measured. "
        if found.units.shape[1] > 2 and not found.audit:
            return part.strip()
        n_pairs = found.n_measured
    left = n * (n - 1) // 2 - n_pairs
    if left <= 0:
        return f"{part}No pair: all were measured."
    if not (audit := found.audit):
        unknown = f"{left:,} pairs were not measured, and none of them was audited."
        return f"{part}It is not known: {unknown}"
    if "largest_tested" not in audit:
        return f"{EARLIER[0].upper()}{EARLIER[1:]}."
    said = [recall_text(audit), excluded_text(audit), energy_text(audit)]
    return part + " ".join(f"{text[0].upper()}{text[1:]}." for text in said)


def count_text(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def value_text(value: float, stderr: float = math.nan) -> str:
    if math.isnan(value):
        return "not measured"
    text = f"{value:+.3g}".replace("-", MINUS)
    return text if math.isnan(stderr) else f"{text} \N{PLUS-MINUS SIGN} {stderr:.2g}"


def names_text(found: Interactions, row: int) -> str:
    return " x ".join(found.names[row])


def cut_name(name: str, most: int = 20) -> str:
    """A name of so many letters at most. Of a unit in one of several stacks, the stack's name is
    cut and not the unit's: ``language_mo\N{HORIZONTAL ELLIPSIS}L12H31``."""
    stack, _, own = name.rpartition(".")
    if len(name) <= most:
        return name
    if stack and len(own) <= most - 4:
        return f"{stack[: most - 1 - len(own)]}\N{HORIZONTAL ELLIPSIS}{own}"
    return f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
