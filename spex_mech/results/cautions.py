"""What the values of a result say against trusting its errors and q-values."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from spex_mech.arguments import counted
from spex_mech.notices import warn
from spex_mech.results.measured import Measured
from spex_mech.results.statistics import (
    FEW,
    by_cluster,
    is_discrete,
    n_independent,
    repeated_prompts,
    skewness,
)
from spex_mech.results.variation import variation_text
from spex_mech.units import Units

# What two games of one result have in common, and what a description calls it.
_SAME = {
    "ablation": "ablation", "masking": "masking", "mask_id": "mask token",
    "weights_sha256": "weights", "training_sha256": "training examples",
}  # fmt: skip
_LOOKED_AT = 200  # strongest interactions
_DISTINCT = 16  # values on a prompt, without which it may equal another by chance
_SKEWED = 1.0  # typical skewness; of 16 normal prompts it is 0.4, of 16 exponential ones 1.3,
_SKEWED_FEW = 0.75  # and of 8 it is 0.45 and 0.95
MEASURED_INDEX = "Co-Moebius"  # what shapiq calls the interactions that a search measures
OF_A_SEARCH = "trust what is significant here and again in confirm()"


def clusters_of(found: Measured) -> Int[np.ndarray, " prompt"] | None:
    """The number of each prompt's cluster: as the game gave them (``about["clusters"]``), and equal
    prompts in one. None where every prompt stands for itself."""
    n_prompts = found.values.shape[1]
    given = found.about.get("clusters")
    clusters = np.arange(n_prompts) if given is None else np.asarray(given, dtype=np.int64)
    if len(clusters) != n_prompts:
        raise ValueError(f"{len(clusters)} clusters for {n_prompts} prompts; give one for each")
    if n_prompts > 1:
        repeats = repeats_of(found)
        for number in np.unique(repeats[repeats != np.arange(n_prompts)]):
            same = repeats == number
            clusters = np.where(np.isin(clusters, clusters[same]), clusters[number], clusters)
    return None if len(np.unique(clusters)) == n_prompts else clusters


def shared_clusters(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[int, int]:
    """How many clusters of the prompts measured now are clusters of those measured before, by
    number or word, and how many there are; none where it is not known."""
    each = []
    for told in (before, now):
        # A game of a model tells the numbers that were given apart from those of its clusters.
        given = told.get("cluster_ids") if "tokens_sha256" in told else told.get("clusters")
        each.append(set() if given is None else set(given))
    return len(each[0] & each[1]), len(each[1])


def with_shared_clusters(about: Mapping[str, Any], again: Mapping[str, Any]) -> dict[str, Any]:
    """What a result says of itself, with what was said of clusters where it was confirmed."""
    shared = again.get("shared_clusters")
    return dict(about) if shared is None else {**about, "shared_clusters": shared}


def repeats_of(found: Measured) -> Int[np.ndarray, " prompt"]:
    """The number of the first prompt on which all values are the same: prompts that come twice.
    Prompts on which hardly anything happens may look alike and be different ones."""
    mains = found.main_effects_by_prompt
    rows = [
        found.intact_by_prompt[None].astype(np.float64),
        mains[np.isfinite(mains).all(axis=1)],
        found.values[_strongest(found)].astype(np.float64),
    ]
    table = np.concatenate(rows)
    rich = np.array([len(np.unique(column)) >= _DISTINCT for column in table.T])
    repeats = np.arange(table.shape[1])
    if rich.any():
        here = np.flatnonzero(rich)
        repeats[here] = here[repeated_prompts(table[:, here], found.noise_floor / 4)]
    return repeats


def cautions_of(found: Measured, clusters: Int[np.ndarray, " prompt"] | None) -> list[str]:
    """Sentences; none where nothing speaks against the errors and q-values."""
    n_prompts = found.values.shape[1]
    variation = variation_text(found.about)
    said = [variation] if variation else []
    if n_prompts < 2 or not len(found.values):
        return said
    repeats = repeats_of(found)
    if twice := int((repeats != np.arange(n_prompts)).sum()):
        said.append(f"{twice} of {n_prompts} prompts repeat others; errors and q count them as one")
    count = n_independent(found.values, clusters)
    if found.about.get("clusters") is not None and count < n_prompts:
        said.append(f"errors and q are those of {counted(count, 'cluster')} of {n_prompts} prompts")
    if shared := found.about.get("shared_clusters"):
        said.append(
            f"{shared[0]} of {shared[1]} clusters of the prompts that confirm are of the search "
            "too: what holds may hold for these alone"
        )
    if count < FEW:
        what = counted(count, "prompt" if count == n_prompts else "independent prompt")
        least = 2.0 ** (1 - count)
        said.append(
            f"{what} {'are' if count > 1 else 'is'} few: no p can be under {least:.2g}, whatever "
            f"they say; use {FEW} or more"
        )
    shown = found.values[_strongest(found)]
    tested = shown if clusters is None else by_cluster(shown, clusters)  # as p_values tests them
    shown = shown[:, np.unique(repeats)]
    if is_discrete(tested).mean() > 0.5:
        said.append("values repeat each other, as those of accuracy do: q is by exact sign tests")
    elif (skew := skewness(shown)) > (_SKEWED if count > 12 else _SKEWED_FEW):
        said.append(
            f"values are skewed over prompts ({skew:.1f}), so that q is too small: {OF_A_SEARCH}"
        )
    return said


def _strongest(found: Measured) -> Int[np.ndarray, " row"]:
    sizes = abs(found.values.mean(axis=1, dtype=np.float64))
    return np.argsort(-sizes, kind="stable")[:_LOOKED_AT]


def index_of(about: Mapping[str, Any]) -> str:
    """What shapiq calls the interactions of a result, by what it says of itself."""
    return str(about.get("index", MEASURED_INDEX))


def other_game(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what the games of two results differ beside their prompts, by what they say of themselves:
    the metric, the ablation, the weights, what is trained on. Nothing, where it is not known."""
    metrics = other_metric(before, now)
    return ([f"metric {metrics}"] if metrics else []) + [
        name if key.endswith("_sha256") else f"{name} {before[key]!r} and {now[key]!r}"
        for key, name in _SAME.items()
        if differ_in(key, before, now)
    ]


def other_groups(before: Units, now: Units) -> str:
    """That groups of the same name hold other members in two results; "" where none does."""
    labels = before.other_groups(now)
    if not labels:
        return ""
    named = ", ".join(map(repr, labels[:4])) + (", ..." if len(labels) > 4 else "")
    return f"{named} {'holds' if len(labels) == 1 else 'hold'} other components in each of the two"


def warn_of_other_groups(before: Units, now: Units) -> None:
    """For what compares units by their names."""
    if groups := other_groups(before, now):
        warn(f"{groups}, and is compared by its name alone; group the same, or name it otherwise")


def differ_in(key: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two results say another thing of themselves; no, where one says nothing."""
    told = before.get(key), now.get(key)
    return None not in told and told[0] != told[1]


def other_metric(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the metrics of two results differ, or the indices of what was read from shapiq, by what
    they say of them; "" where they do not, or where it is not known."""
    indices = [index_of(told) for told in (before, now)]
    if indices[0] != indices[1]:
        first, second = (
            "interactions at the intact model" if index == MEASURED_INDEX else f"shapiq's {index}"
            for index in indices
        )
        return f"{first} and {second}"
    named = [told.get("metric") for told in (before, now)]
    if None in named:
        return ""
    if named[0] != named[1]:
        return f"{named[0]!r} and {named[1]!r}"
    owns = [bool(told.get("own_metric")) for told in (before, now)]
    if owns[0] != owns[1]:
        first, second = (
            f"a function of your own called {named[0]!r}" if own else f"the built-in {named[0]!r}"
            for own in owns
        )
        return f"{first} and {second}"
    hashes = [told.get("metric_sha256") for told in (before, now)]
    same_python = before.get("metric_python") == now.get("metric_python")
    if None in hashes or hashes[0] == hashes[1] or not same_python:
        return ""
    return f"two functions called {named[0]!r}, whose code, or what they read, is not the same"
