"""Pairs as a graph, for other programs: networkx, GraphML, Neuronpedia's graph viewer."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spex_mech.notices import warn
from spex_mech.results.files import write_whole
from spex_mech.results.measured import Shown

if TYPE_CHECKING:
    import networkx

_OUTPUT = "output"  # the node of the metric, on which units act by their main effects


def graph_of(found: Shown) -> "networkx.Graph":
    """What :meth:`Interactions.to_networkx` returns."""
    nx = networkx_or_error()
    of_all = {"metric": found.about.get("metric"), "intact": found.intact_by_prompt.mean()}
    graph = nx.Graph(**_plain(of_all))
    places = found.unit_table.places()
    for unit, place, effect in zip(
        found.unit_table, places, found.main_effects.tolist(), strict=True
    ):
        graph.add_node(unit.label, **_plain({"kind": unit.kind, **place, "main_effect": effect}))
    columns = {
        "value": found.mean,
        "stderr": found.stderr,
        "q_value": found.q_value,
        "reading": found.readings,
        "verdict": found.verdicts,
        "significant": found.is_significant,
        "confirmed": found.confirmed,
    }
    names = found.names
    for row in _pairs(found):
        graph.add_edge(*names[row], **_plain({key: of[row] for key, of in columns.items()}))
    return graph


def write_graphml(graph: "networkx.Graph", path: str | os.PathLike[str]) -> Path:
    """A graph as a GraphML file for Gephi, Cytoscape, yEd and the like, all or nothing."""
    nx = networkx_or_error()
    return write_whole(path, lambda file: nx.write_graphml(graph, file))


def networkx_or_error() -> Any:
    """networkx, which is imported only when asked for.

    Raises:
        ImportError: it is missing (the extra ``viz``).
    """
    try:
        import networkx
    except ImportError as error:
        raise ImportError("this needs networkx: pip install 'spex_mech[viz]'") from error
    return networkx


def neuronpedia_of(found: Shown, tokens: Sequence[str]) -> dict[str, Any]:
    """What :meth:`Interactions.to_neuronpedia` returns. Its layers are numbers in the order of a
    pass, also in a model of several stacks: the viewer knows no names of layers."""
    if isinstance(tokens, str):
        raise ValueError(f"tokens is {tokens!r}; give a list with the text of each token")
    layers = found.unit_table.layers
    # The viewer takes a highest layer of 0 for none at all.
    shown = np.maximum(layers, 1 if layers.max(initial=0) <= 0 else 0)
    last, at = int(shown.max(initial=1)) + 1, max(len(tokens) - 1, 0)
    ids = [f"{layer}_{number}_{at}" for number, layer in enumerate(shown.tolist())]
    output = f"{last}_0_{at}"
    names, effects = found.labels, found.main_effects.tolist()
    nodes = [
        _node(ids[u], str(layer), _pairing(layer, u), at, "cross layer transcoder", names[u])
        for u, layer in enumerate(shown.tolist())
    ]
    metric = str(found.about.get("metric", "value"))
    # The viewer reads an output's probability behind "(p=", and fails where there is none.
    nodes.append(_node(output, str(last), 0, at, "logit", f"{_OUTPUT}: '{metric}' (p=1)"))
    links = [
        # A main effect is what ablation does, so that a unit that helps has a positive link.
        {"source": ids[u], "target": output, "weight": -effect}
        for u, effect in enumerate(effects)
        if np.isfinite(effect)
    ]
    for row in _pairs(found):
        a, b = sorted(found.units[row][:2].tolist(), key=lambda u: layers[u])
        links.append({"source": ids[a], "target": ids[b], "weight": float(found.mean[row])})
    findings = found.units[found.is_finding]
    pinned = [*(ids[u] for u in np.unique(findings[findings >= 0])), output]
    scan = str(found.about.get("model", "custom"))
    metadata = {
        "slug": f"spex-mech-{found.about.get('task', 'task')!s}",
        "scan": scan,
        "prompt": "".join(tokens),
        "prompt_tokens": list(tokens) or [""],
        "node_threshold": 1.0,
        "schema_version": 1,
        "info": {
            "title": "Interactions of components",
            "description": "A link of two units is their interaction (ablated together, minus "
            "each alone); a link to the output is minus the main effect.",
        },
    }
    params = {"linkType": "both", "pinnedIds": pinned, "supernodes": [], "clickedId": output}
    return {"metadata": metadata, "qParams": params, "nodes": nodes, "links": links}


def _pairing(layer: int, number: int) -> int:
    """A layer and a number in it as one number, as the viewer reads ``feature``: Cantor's."""
    return (layer + number) * (layer + number + 1) // 2 + number


def _node(name: str, layer: str, feature: int, at: int, kind: str, label: str) -> dict[str, Any]:
    return {
        "node_id": name,
        "jsNodeId": f"{name}-0",
        "feature": feature,
        "layer": layer,
        "ctx_idx": at,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "feature_type": kind,
        "clerp": label,
        "token_prob": 0.0,
        "is_target_logit": kind == "logit",
        "influence": None,
        "activation": None,
    }


def _pairs(found: Shown) -> list[int]:
    """The rows of pairs. It warns of interactions of more units, for which a graph has no place."""
    is_pair = found.order == 2
    if more := int((~is_pair).sum()):
        warn(
            f"{more:,} interactions of more than two units are left out: a graph has only pairs; "
            "frame() has them all"
        )
    return np.flatnonzero(is_pair).tolist()


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """What GraphML can hold: plain numbers and text, and nothing that is missing."""
    plain = {key: v.item() if isinstance(v, np.generic) else v for key, v in values.items()}
    return {
        key: value
        for key, value in plain.items()
        if value is not None and not (isinstance(value, float) and np.isnan(value))
    }
