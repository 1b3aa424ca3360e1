"""Circuits in files: JSON that holds all of a circuit, and graphs for other programs."""

import json
import os
from dataclasses import asdict, fields
from hashlib import sha256
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spex_mech.circuits.explain import CircuitInteraction, Group, Membership
from spex_mech.circuits.scores import Score, SubsetScore
from spex_mech.results.files import opened, write_whole
from spex_mech.results.graphs import networkx_or_error
from spex_mech.units import Units

if TYPE_CHECKING:
    import networkx

_FORMAT = 1
_KIND = "spex_mech circuit"


def save_circuit(circuit: Any, path: str | os.PathLike[str]) -> Path:
    """Write a ``Circuit`` as JSON; numbers that are not finite become null, "inf" or "-inf"."""
    data = {"kind": _KIND, "format": _FORMAT}
    data |= {f.name: _plain(getattr(circuit, f.name)) for f in fields(circuit)}
    data["sha256"] = _checksum(data)
    text = json.dumps(data, indent=1, allow_nan=False)
    return write_whole(path, lambda file: file.write(text.encode()))


def _checksum(data: dict[str, Any]) -> str:
    """Of all that a file holds, however it is laid out."""
    return sha256(json.dumps(data, allow_nan=False).encode()).hexdigest()


def load_circuit(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of the ``Circuit`` that :func:`save_circuit` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a circuit, or of a newer format.
    """
    try:
        with opened(path) as file:
            read = json.loads(file.read())
        if not isinstance(read, dict) or read.get("kind") != _KIND:
            raise ValueError("it is no circuit that Circuit.save wrote")
        said = read.pop("sha256", None)  # files of an earlier version have none
        if said is not None and said != _checksum(read):
            raise ValueError("it is damaged or was edited, as its checksum does not fit")
        del read["kind"]
        newer = read.pop("format") > _FORMAT
        circuit = None if newer else _circuit(read)
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a spex_mech circuit (JSON): {error}") from error
    if circuit is None:
        raise ValueError(f"{path} was written by a newer spex_mech; upgrade to read it")
    return circuit


def _circuit(read: dict[str, Any]) -> dict[str, Any]:
    links = tuple(_link(x) for x in read.pop("links"))
    why = {
        label: Membership(
            _number(x["main_effect"]), _number(x["inside"]),
            tuple(_link(link) for link in x["links"]), x["brought_by"],
        )
        for label, x in read.pop("why").items()
    }  # fmt: skip
    scores = {
        name: _score(read.pop(name))
        for name in ("faithfulness", "completeness", "minimality", "stability")
    }
    groups = tuple(
        Group(x["kind"], tuple(x["units"]), tuple(x["kept"]), tuple(map(tuple, x["sides"])))
        for x in read.pop("groups")
    )
    signs = read.pop("signs")
    numbers = {name: _number(read.pop(name)) for name in ("intact", "empty", "span_stderr")}
    return dict(
        members=np.array(read.pop("members"), dtype=bool),
        importance=np.array([_number(x) for x in read.pop("importance")], dtype=np.float64),
        signs=None if signs is None else np.array(signs, dtype=np.int64),
        unit_table=Units.of_columns(read["labels"], read.pop("unit_table")),
        groups=groups, links=links, why=why, **scores, **numbers, **read,
    )  # fmt: skip


def _link(x: dict[str, Any]) -> CircuitInteraction:
    value, stderr = _number(x["value"]), _number(x["stderr"])
    return CircuitInteraction(tuple(x["units"]), value, stderr, x["reading"])


def _score(x: dict[str, Any]) -> Score:
    parts = tuple(
        SubsetScore(
            tuple(p["units"]), tuple(p["given"]), _number(p["value"]), _number(p["stderr"]),
            _number(p["low"]), _number(p["high"]), p["sign"],
        )
        for p in x["by_subset"]
    )  # fmt: skip
    value, stderr = _number(x["value"]), _number(x["stderr"])
    return Score(value, stderr, parts, _number(x["low"]), _number(x["high"]), x["is_bound"])


def _number(x: Any) -> float:
    return float("nan") if x is None else float(x)


def _plain(value: Any) -> Any:
    """What JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(x) for key, x in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, Units):
        return _plain(value.as_columns())
    if isinstance(value, list | tuple):
        return [_plain(x) for x in value]
    if isinstance(value, Score | SubsetScore | Group | CircuitInteraction | Membership):
        return _plain(asdict(value))
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else "inf" if value > 0 else "-inf"
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def graph_of(circuit: Any) -> "networkx.Graph":
    """Of a ``Circuit`` every unit as a node (``member``, ``layer``, ``stack`` where there are
    several, and of members ``main_effect``,
    ``inside``, ``minimality``, ``brought_by``, ``groups``), every link of two units as an edge
    (``value``, ``stderr``, ``reading``). All attributes are plain numbers and text.

    Raises:
        ImportError: networkx is missing (the extra ``viz``).
    """
    nx = networkx_or_error()
    scores = [("faithfulness", circuit.faithfulness), ("completeness", circuit.completeness)]
    scores += [("minimality", circuit.minimality)]
    graph = nx.Graph()
    graph.graph |= {"n_prompts": circuit.n_prompts} | {name: float(s) for name, s in scores}
    least = {part.units[0]: part.value for part in circuit.minimality.by_subset}
    rows = zip(circuit.labels, circuit.members.tolist(), circuit.unit_table.places(), strict=True)
    for label, member, place in rows:
        graph.add_node(label, member=member, **place)
        named = [str(group) for group in circuit.groups if label in group.units]
        graph.nodes[label]["groups"] = "; ".join(named)
        if reason := circuit.why.get(label):
            graph.nodes[label].update(
                main_effect=reason.main_effect,
                inside=reason.inside,
                minimality=least.get(label, nan),
                brought_by=reason.brought_by,
            )
    for link in circuit.links:
        if len(link.units) == 2:
            values = {"value": link.value, "stderr": link.stderr, "reading": link.reading}
            graph.add_edge(*link.units, **values)
    return graph
