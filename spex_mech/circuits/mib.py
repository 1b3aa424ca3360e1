"""Circuits in the JSON format of the Mechanistic Interpretability Benchmark and of EAP-IG.

Nodes are ``input``, heads ``a0.h1``, MLPs ``m3`` and ``logits``; each node reads all that write
before it, an attention head three times (``<q>``, ``<k>``, ``<v>``). In a model with parallel
blocks the MLP of a layer does not read the heads of its layer, so that edge is not there.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from spex_mech.circuits.labels import Place, place_of, places_of
from spex_mech.circuits.scores import Score
from spex_mech.results.files import opened
from spex_mech.results.statistics import standard_errors
from spex_mech.units import Units

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the benchmark's areas
_ORDER = ("n_layers", "n_heads", "parallel_attn_mlp", "d_model")
_ALWAYS_PARALLEL = ("gptj", "phi", "codegen", "cohere", "cohere2", "cohere2_moe")


def mib_sizes(n: int) -> list[int]:
    """The sizes of circuits of ``n`` units at which the benchmark measures."""
    return [int(share * n) for share in SHARES]


def mib_json(
    units: Units,
    members: Bool[np.ndarray, " unit"],
    scores: Float[np.ndarray, " unit"],
    config: Mapping[str, Any],
) -> dict[str, Any]:
    """The node circuit of these units.

    Args:
        scores: of each unit. Nodes that are no units are never ablated: they get a score over all
            others, so that a circuit of any size has them, as it has here.
        config: ``n_layers``, ``n_heads``, ``d_model`` and ``parallel_attn_mlp``.

    Raises:
        ValueError: units that the format cannot express, or a config that lacks something.
    """
    nodes_of = [_node(place) for place in places_of(units)]
    if foreign := [unit for unit, node in zip(units, nodes_of, strict=True) if node is None]:
        label = foreign[0].label
        if foreign[0].kind == "head":
            raise ValueError(
                f"the benchmark's format has one stack of layers, each with one attention, and no "
                f"node for {label}; use to_networkx()"
            )
        raise ValueError(
            f"the benchmark's format has nodes for heads and whole MLPs, not for {label}; "
            "export a circuit of heads, or use to_networkx()"
        )
    if (why := config.get("refused")) and not _stated(config):
        raise ValueError(f"{why}; use to_networkx()")
    if unknown := [k for k in ("n_layers", "n_heads", "d_model") if k not in config]:
        raise ValueError(f"{unknown[0]} of the model is not known; give to_mib({unknown[0]}=...)")
    at = [node for node in nodes_of if node]
    names = _nodes(config["n_layers"], config["n_heads"])
    if strange := set(at) - set(names):
        raise ValueError(f"the config has no head {min(strange)}: {dict(config)}")
    kept = dict(zip(at, members.tolist(), strict=True))
    nodes: dict[str, dict[str, Any]] = {name: {"in_graph": kept.get(name, True)} for name in names}
    first = 1.0 + float(abs(scores).max(initial=0.0))
    scored = dict.fromkeys(names[:-1], first) | dict(zip(at, scores.tolist(), strict=True))
    for name, value in scored.items():
        nodes[name]["score"] = value
    edges = {
        f"{source}->{target}{letter}": {
            "score": 0.0,
            "in_graph": nodes[source]["in_graph"] and nodes[target]["in_graph"],
        }
        for source, target, letter in _edges(config)
    }
    return {"cfg": {key: config[key] for key in _ORDER}, "nodes": nodes, "edges": edges}


def read_mib(source: Mapping[str, Any] | str | os.PathLike[str]) -> tuple[dict[str, Any], str]:
    """The benchmark's JSON, and what to call it in an error.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not such JSON.
    """
    if isinstance(source, Mapping):
        read, name = dict(source), "the dictionary"
    else:
        name = str(source)
        try:
            with opened(source) as file:
                read = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} is not JSON: {error}") from error
    nodes = read.get("nodes") if isinstance(read, dict) else None
    if not isinstance(nodes, dict) or not all(
        isinstance(node, dict) and "in_graph" in node for node in nodes.values()
    ):
        raise ValueError(
            f"{name} is no circuit of the benchmark: it needs 'nodes', each with 'in_graph'"
        )
    return read, name


def mib_members(read: Mapping[str, Any]) -> dict[str, bool]:
    """The label of each head (and of each whole MLP that is left out), and whether it is kept."""
    members = {}
    for name, node in read["nodes"].items():
        place, kept = place_of(name), bool(node["in_graph"])
        if place is None or (place.kind == "mlp" and kept):
            continue
        label = f"L{place.layer}" + ("MLP" if place.kind == "mlp" else f"H{place.index}")
        members[label] = kept
    return members


def _stated(config: Mapping[str, Any]) -> bool:
    return "n_layers" in config and "n_heads" in config


def mib_config(
    model: Any, heads: Sequence[int], stacks: bool = False, parallel: bool = False
) -> dict[str, Any]:
    """What the format states of a model.

    Args:
        model: a transformers model, or one of TransformerLens.
        heads: how many each layer has.
        stacks: whether layers stand in several stacks, or attend to another.
        parallel: its blocks were seen to be; of those that were not, configurations tell.

    Returns:
        sizes; in place of ``n_layers`` and ``n_heads``, where no two numbers say them, ``refused``:
        why the format has no place for the model.
    """
    known: dict[str, Any] = {"n_layers": len(heads), "n_heads": heads[0]}
    if stacks or len(set(heads)) > 1:
        each = ", ".join(map(str, sorted(set(heads))))
        why = "this model has several" if stacks else f"the layers of this model have {each} heads"
        known = {"refused": f"the benchmark's format has one stack of equal layers, and {why}"}
    configs = [c for c in (getattr(model, "config", None), getattr(model, "cfg", None)) if c]
    widths = [
        getattr(config, name, None) for config in configs for name in ("hidden_size", "d_model")
    ]
    if width := next((width for width in widths if width), None):
        known["d_model"] = int(width)
    parallel = parallel or any(has_parallel_blocks(c) for c in configs)
    return known | {"parallel_attn_mlp": parallel}


def has_parallel_blocks(config: Any) -> bool:
    """Whether the MLP of a layer reads what its attention reads, not what it writes."""
    kind = getattr(config, "model_type", "")
    if kind == "gpt_neox":
        return bool(getattr(config, "use_parallel_residual", True))
    if kind == "falcon":
        return bool(
            getattr(config, "new_decoder_architecture", False)
            or getattr(config, "parallel_attn", False)
        )
    return kind in _ALWAYS_PARALLEL or bool(getattr(config, "parallel_attn_mlp", False))


def areas(
    faithfulness: Float[np.ndarray, " share"], influence: Float[np.ndarray, "share prompt"]
) -> tuple[Score, Score]:
    """CPR and CMD as the benchmark works them out: trapezoids over its shares, from 0.001 to 1."""
    found = []
    for height, pull in (
        (faithfulness, influence),
        (abs(1 - faithfulness), -np.sign(1 - faithfulness)[:, None] * influence),
    ):
        error = standard_errors(np.trapezoid(pull, SHARES, axis=0)[None])[0]
        found.append(Score(float(np.trapezoid(height, SHARES)), float(error)))
    return found[0], found[1]


def _node(place: Place | None) -> str | None:
    if place is None or place.kind not in ("head", "mlp"):
        return None
    return f"a{place.layer}.h{place.index}" if place.kind == "head" else f"m{place.layer}"


def _nodes(n_layers: int, n_heads: int) -> list[str]:
    names = ["input"]
    for layer in range(n_layers):
        names += [f"a{layer}.h{head}" for head in range(n_heads)] + [f"m{layer}"]
    return [*names, "logits"]


def _edges(config: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Every edge of the benchmark's graph: each node reads all that write before it."""
    before = ["input"]
    for layer in range(config["n_layers"]):
        heads = [f"a{layer}.h{head}" for head in range(config["n_heads"])]
        for source in before:
            for head in heads:
                yield from ((source, head, f"<{letter}>") for letter in "qkv")
        if config["parallel_attn_mlp"]:
            yield from ((source, f"m{layer}", "") for source in before)
            before += heads
        else:
            before += heads
            yield from ((source, f"m{layer}", "") for source in before)
        before.append(f"m{layer}")
    yield from ((source, "logits", "") for source in before)
