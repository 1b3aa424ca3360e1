"""Circuit: the units that are kept, why, and how well they do alone, measured on the model
(``spex_mech.circuits.find`` finds and scores it).

With F(S) the metric when the units S are kept and all others ablated, M all units and C the circuit
(Wang et al. 2022, "Interpretability in the Wild", section 4; arXiv 2211.00593):

- **faithfulness**: F(C) is close to F(M);
- **completeness**: for every part K of C, ``|F(C without K) - F(M without K)|`` is small;
- **minimality**: for every unit v of C there is a part K of C without v such that
  ``|F(C without K and v) - F(C without K)|`` is large.

All are given here as shares of ``span = F(M) - F(nothing kept)``; multiply by it for the metric's
own units. So faithfulness is ``(F(C) - F(nothing)) / (F(M) - F(nothing))``, as in the Mechanistic
Interpretability Benchmark (Mueller et al. 2025; arXiv 2504.13151), whose areas CPR and CMD a
:class:`Curve` gives.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.plots.numbers import layer_of
from spex_mech.results.statistics import ratios, standard_errors

if TYPE_CHECKING:
    import networkx
    import pandas as pd

Kind = Literal["series", "backup"]


@dataclass(frozen=True)
class Part:
    """One measured share: of these units, given those."""

    units: tuple[str, ...]
    given: tuple[str, ...]
    value: float
    stderr: float


@dataclass(frozen=True)
class Score:
    """A share of the span with its standard error over prompts (NaN for a single prompt).

    Args:
        parts: completeness: each K (``units``); minimality: each member with its K (``given``).
    """

    value: float
    stderr: float
    parts: tuple[Part, ...] = ()

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        error = "" if np.isnan(self.stderr) else f" +- {self.stderr:.2g}"
        return f"{self.value:.3g}{error}"


@dataclass(frozen=True)
class Link:
    """A measured interaction that counts in a circuit: of its units at least one is a member."""

    units: tuple[str, ...]
    value: float
    stderr: float
    reading: str

    def __str__(self) -> str:
        return f"{' x '.join(self.units)} {self.value:+.3g} {self.reading}"


@dataclass(frozen=True)
class Reason:
    """Why a unit is a member, in the metric's own units.

    Args:
        main_effect: of ablating it alone in the intact model.
        inside: of ablating it in the circuit, where what is not a member is gone already.
        links: the interactions that it takes part in, strongest first.
        brought_by: "main effect": by its main effect alone it would be among as many units;
            "interactions": it would not, but has links; "ablations": neither, it was found by
            ablating on the way.
    """

    main_effect: float
    inside: float
    links: tuple[Link, ...]
    brought_by: Literal["main effect", "interactions", "ablations"]


@dataclass(frozen=True)
class Group:
    """Units that belong together.

    Args:
        kind: "series": each one's damage is mostly that of the others (AND-like); "backup": one
            takes over when another is gone (OR-like).
        units: their labels.
        kept: those of them that are members; a backup that was left out is not.
    """

    kind: Kind
    units: tuple[str, ...]
    kept: tuple[str, ...]

    def __str__(self) -> str:
        names = ", ".join(u if u in self.kept else f"({u})" for u in self.units)
        return f"{self.kind}: {names}"


@dataclass(frozen=True, eq=False)
class Circuit:
    """The units that do the task, and how well they do it alone (see the module for the scores).

    Args:
        labels: the name of every unit of the game.
        members: which of them are kept.
        why: of each member, by label.
        groups: units in series, and backups (also those that were left out).
        links: the measured interactions behind ``why`` and ``groups``, strongest first.
        faithfulness: of the members alone.
        completeness: the largest incompleteness of the parts K that were tried; 0 is complete.
        minimality: the smallest over members of its largest score; far from 0 is minimal.
        intact: F(M) and
        empty: F(nothing kept), averaged over the prompts that were measured on.
        n_prompts: how many those are.
        importance: of every unit, member or not, the largest effect of ablating it: in the intact
            model, in the circuit, or, of a backup, in the intact model without the other. As a
            share of the span, without a sign.
        stability: mean Jaccard overlap with the circuits that are selected when the prompts are
            drawn anew (bootstrap among the sets that were run; its stderr is the spread).
        cost: evaluations on the prompts of the selection and on held-out ones, gradients, seconds.
        about: how it was selected, what it was measured on, and what the interactions came from.
    """

    labels: list[str]
    members: Bool[np.ndarray, " unit"]
    why: dict[str, Reason]
    groups: tuple[Group, ...]
    links: tuple[Link, ...]
    faithfulness: Score
    completeness: Score
    minimality: Score
    intact: float
    empty: float
    n_prompts: int
    importance: Float[np.ndarray, " unit"]
    stability: Score
    cost: dict[str, int | float] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.members.sum())

    @property
    def units(self) -> list[str]:
        """The members' labels."""
        return [self.labels[u] for u in np.flatnonzero(self.members)]

    @property
    def span(self) -> float:
        """What all units together do for the metric: the scores' unit."""
        return self.intact - self.empty

    @property
    def ranking(self) -> list[str]:
        """All labels, the largest ``importance`` first; an order for ``faithfulness_curve``.

        Two backups both rank high, as each is missed where the other is gone: it says what takes
        part, where ``members`` are the few that are enough.
        """
        order = np.argsort(-self.importance, kind="stable")
        return [self.labels[u] for u in order]

    def frame(self) -> "pd.DataFrame":
        """A pandas table with a row a member, the largest effect inside the circuit first: ``unit
        main_effect inside minimality minimality_stderr given brought_by groups interactions``."""
        import pandas as pd

        rows = []
        least = {part.units[0]: part for part in self.minimality.parts}
        for unit, reason in self.why.items():
            part = least[unit]
            named = [str(group) for group in self.groups if unit in group.units]
            rows.append(
                {
                    "unit": unit,
                    "main_effect": reason.main_effect,
                    "inside": reason.inside,
                    "minimality": part.value,
                    "minimality_stderr": part.stderr,
                    "given": ", ".join(part.given),
                    "brought_by": reason.brought_by,
                    "groups": "; ".join(named),
                    "interactions": "; ".join(str(link) for link in reason.links[:3]),
                }
            )
        table = pd.DataFrame(rows, columns=list(_COLUMNS))
        strongest = np.argsort(-abs(table["inside"].to_numpy(dtype=float)), kind="stable")
        return table.iloc[strongest].reset_index(drop=True)

    def to_mib(self, **cfg: int | bool) -> dict[str, Any]:
        """The node circuit in the JSON format of the Mechanistic Interpretability Benchmark and of
        EAP-IG: ``json.dump(circuit.to_mib(), file)``.

        Nodes are ``input``, heads ``a0.h1``, MLPs ``m3`` and ``logits``; an edge is in the circuit
        if both of its nodes are. What the game never ablates (MLPs, heads that are no units) is in,
        without a score: the benchmark keeps such nodes. A member's score is its minimality, that of
        a head left out 0.

        Args:
            cfg: ``n_layers``, ``n_heads``, ``d_model``, ``parallel_attn_mlp``, where the circuit
                does not know them from the model.

        Raises:
            ValueError: units that the format cannot express (its ``neurons`` are dimensions of the
                residual stream), or a config that is not known.
        """
        heads = [re.fullmatch(r"L(\d+)H(\d+)", label) for label in self.labels]
        if foreign := [x for x, head in zip(self.labels, heads, strict=True) if head is None]:
            raise ValueError(
                f"the benchmark's format has nodes for heads and whole MLPs, not for {foreign[0]}; "
                "export a circuit of heads, or use to_networkx()"
            )
        config = {"parallel_attn_mlp": False, **self.about.get("config", {}), **cfg}
        if unknown := [k for k in ("n_layers", "n_heads", "d_model") if k not in config]:
            raise ValueError(
                f"{unknown[0]} of the model is not known; give to_mib({unknown[0]}=...)"
            )
        at = [f"a{head[1]}.h{head[2]}" for head in heads if head]
        kept = dict(zip(at, self.members.tolist(), strict=True))
        score = dict.fromkeys(at, 0.0)
        for part in self.minimality.parts:
            score[at[self.labels.index(part.units[0])]] = part.value
        names = _mib_nodes(config["n_layers"], config["n_heads"])
        if strange := set(at) - set(names):
            raise ValueError(f"the config has no head {min(strange)}: {config}")
        nodes: dict[str, dict[str, Any]] = {
            name: {"in_graph": kept.get(name, True)} for name in names
        }
        for name, value in score.items():
            nodes[name]["score"] = value
        edges = {
            f"{source}->{target}{letter}": {
                "score": 0.0,
                "in_graph": nodes[source]["in_graph"] and nodes[target]["in_graph"],
            }
            for source, target, letter in _mib_edges(config)
        }
        order = ("n_layers", "n_heads", "parallel_attn_mlp", "d_model")
        return {"cfg": {key: config[key] for key in order}, "nodes": nodes, "edges": edges}

    def to_networkx(self) -> "networkx.Graph":
        """Every unit as a node (``member``, ``layer``, and of members ``main_effect``, ``inside``,
        ``minimality``, ``brought_by``, ``groups``), every link of two units as an edge (``value``,
        ``stderr``, ``reading``). All attributes are plain numbers and text.

        Raises:
            ImportError: networkx is missing (the extra ``viz``).
        """
        try:
            import networkx as nx
        except ImportError as error:
            raise ImportError("this needs networkx: pip install 'spex_mech[viz]'") from error
        scores = [("faithfulness", self.faithfulness), ("completeness", self.completeness)]
        scores += [("minimality", self.minimality)]
        graph = nx.Graph()
        graph.graph |= {"n_prompts": self.n_prompts} | {name: float(s) for name, s in scores}
        least = {part.units[0]: part.value for part in self.minimality.parts}
        for label, member in zip(self.labels, self.members.tolist(), strict=True):
            graph.add_node(label, member=member)
            if (layer := layer_of(label)) >= 0:
                graph.nodes[label]["layer"] = layer
            named = [str(group) for group in self.groups if label in group.units]
            graph.nodes[label]["groups"] = "; ".join(named)
            if reason := self.why.get(label):
                graph.nodes[label].update(
                    main_effect=reason.main_effect,
                    inside=reason.inside,
                    minimality=least[label],
                    brought_by=reason.brought_by,
                )
        for link in self.links:
            if len(link.units) == 2:
                values = {"value": link.value, "stderr": link.stderr, "reading": link.reading}
                graph.add_edge(*link.units, **values)
        return graph

    def save_graphml(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`to_networkx` as GraphML, for Gephi, Cytoscape, yEd and the like."""
        graph = self.to_networkx()
        import networkx as nx

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        nx.write_graphml(graph, path)
        return path

    def __repr__(self) -> str:
        where = self.about.get("measured_on", "prompts of its own")
        lines = [
            f"circuit of {len(self)} of {len(self.labels):,} units: {', '.join(self.units[:12])}"
            + (", ..." if len(self) > 12 else ""),
            f"  on {self.n_prompts} {where}: faithfulness {self.faithfulness}, largest "
            f"incompleteness {self.completeness}, least minimality {self.minimality}",
        ]
        if self.about.get("selected"):
            lines.append(
                f"  {self.about['selected']}, {self.cost['evaluations']:,} evaluations; redrawn "
                f"prompts select circuits that share {self.stability.value:.2f} of it"
            )
        lines += [f"  {group}" for group in self.groups[:8]]
        return "\n".join(lines)


_COLUMNS = (
    "unit", "main_effect", "inside", "minimality", "minimality_stderr", "given", "brought_by",
    "groups", "interactions",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Curve:
    """The best circuit of each size, and how faithful it is.

    Args:
        labels: the name of every unit.
        circuits: which units each kept; sizes ascend, from none to all.
        values: the metric of each circuit on each prompt.
        about: what ordered or searched the circuits, and what they were measured on.
    """

    labels: list[str]
    circuits: Bool[np.ndarray, "size unit"]
    values: Float[np.ndarray, "size prompt"]
    cost: dict[str, int | float] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> Int[np.ndarray, " size"]:
        """How many units each keeps."""
        return self.circuits.sum(axis=1)

    @cached_property
    def pulls(self) -> Float[np.ndarray, "size prompt"]:
        """Each prompt's pull on each faithfulness: for errors of sums and differences of curves
        that were measured on the same prompts."""
        return self._ratios[1]

    @cached_property
    def faithfulness(self) -> Float[np.ndarray, " size"]:
        """Of each size: 0 for nothing kept, 1 for everything."""
        return self._ratios[0]

    @cached_property
    def stderr(self) -> Float[np.ndarray, " size"]:
        """Standard error of each faithfulness over prompts (NaN for a single prompt)."""
        return standard_errors(self.pulls)

    @property
    def cpr(self) -> Score:
        """Area under faithfulness over the share of units kept, from 0 to 1: higher is better."""
        return self._area(self.faithfulness, self.pulls)

    @property
    def cmd(self) -> Score:
        """Area between faithfulness and 1: lower is better."""
        off = 1 - self.faithfulness
        return self._area(abs(off), -np.sign(off)[:, None] * self.pulls)

    def frame(self) -> "pd.DataFrame":
        """A pandas table with a row a size: ``size faithfulness stderr units``."""
        import pandas as pd

        names = np.array(self.labels)
        data = {"size": self.sizes, "faithfulness": self.faithfulness, "stderr": self.stderr}
        return pd.DataFrame({**data, "units": [", ".join(names[kept]) for kept in self.circuits]})

    def __repr__(self) -> str:
        on = f"{self.values.shape[1]} {self.about.get('measured_on', 'prompts')}"
        return (
            f"faithfulness of circuits of {len(self.sizes)} sizes among {len(self.labels):,} "
            f"units, on {on}: CPR {self.cpr}, CMD {self.cmd}"
        )

    @cached_property
    def _ratios(self) -> tuple[Float[np.ndarray, " size"], Float[np.ndarray, "size prompt"]]:
        return ratios(self.values - self.values[0], self.values[-1] - self.values[0])

    def _area(self, height: Float[np.ndarray, " size"], pulls: Any) -> Score:
        share = self.sizes / len(self.labels)
        error = standard_errors(np.trapezoid(pulls, share, axis=0)[None])[0]
        return Score(float(np.trapezoid(height, share)), float(error))


def _mib_nodes(n_layers: int, n_heads: int) -> list[str]:
    names = ["input"]
    for layer in range(n_layers):
        names += [f"a{layer}.h{head}" for head in range(n_heads)] + [f"m{layer}"]
    return [*names, "logits"]


def _mib_edges(config: dict[str, Any]) -> Iterable[tuple[str, str, str]]:
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
