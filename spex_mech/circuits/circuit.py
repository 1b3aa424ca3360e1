"""Circuit: the units that are kept, why, and how well they do alone, measured on the model
(``circuits.find`` finds and scores it).

With F(S) the metric when the units S are kept and all others ablated, M all units and C the circuit
(Wang et al. 2022, "Interpretability in the Wild", section 4; arXiv 2211.00593):

- **faithfulness**: F(C) is close to F(M);
- **completeness**: for every part K of C, ``|F(C without K) - F(M without K)|`` is small;
- **minimality**: for every unit v of C there is a part K of C without v such that
  ``|F(C without K and v) - F(C without K)|`` is large.

All are given here as shares of ``span = F(M) - F(nothing kept)``; multiply by it for the metric's
own units. So faithfulness is ``(F(C) - F(nothing)) / (F(M) - F(nothing))``, as in the Mechanistic
Interpretability Benchmark (Mueller et al. 2025; arXiv 2504.13151), whose areas CPR and CMD a
:class:`FaithfulnessCurve` gives. Where less of the metric is better the span is negative, and
shares are what they would be with the metric turned round.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from spex_mech.circuits.curve import FaithfulnessCurve, on_prompts
from spex_mech.circuits.explain import CircuitInteraction, Group, Membership
from spex_mech.circuits.files import graph_of, load_circuit, save_circuit
from spex_mech.circuits.mib import mib_json, mib_members, read_mib
from spex_mech.circuits.scores import NOT_SCORED, Score, SubsetScore
from spex_mech.circuits.span import Span
from spex_mech.results.cautions import warn_of_other_groups
from spex_mech.results.graphs import write_graphml
from spex_mech.results.printed import html_table
from spex_mech.results.stability import compare
from spex_mech.units import Units

if TYPE_CHECKING:
    import networkx
    import pandas as pd

__all__ = ["Circuit", "FaithfulnessCurve", "Overlap", "Ranking"]


class Ranking(list[str]):
    """All labels of a circuit's units, the most important first; an order for
    ``faithfulness_curve``. Called with ``signed=True`` it gives the signed one."""

    def __init__(self, by_size: list[str], by_sign: list[str]) -> None:
        super().__init__(by_size)
        self._by_sign = by_sign

    def __call__(self, signed: bool = False) -> list[str]:
        """The labels by the size of their importance; ``signed``: what helps most first, what
        holds the metric down most last."""
        return list(self._by_sign if signed else self)


@dataclass(frozen=True)
class Overlap:
    """Two circuits side by side.

    Args:
        jaccard: units of both over units of either (1 where neither has any).
        both: the labels of units that both have.
        only_a, only_b: of those that one has alone.
        not_in_b, not_in_a: labels of members that the other circuit could not choose, as they are
            no units of its game.
    """

    jaccard: float
    both: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    not_in_b: tuple[str, ...] = ()
    not_in_a: tuple[str, ...] = ()

    def __repr__(self) -> str:
        def named(units: tuple[str, ...]) -> str:
            return ", ".join(units) or "none"

        return (
            f"overlap {self.jaccard:.2f} (units of both over units of either): both "
            f"{named(self.both)}; only the first {named(self.only_a)}; only the second "
            f"{named(self.only_b)}"
        )


@dataclass(frozen=True, eq=False)
class Circuit:
    """The units that do the task, and how well they do it alone (see the module for the scores).

    Args:
        labels: the name of every unit of the game.
        members: which of them are kept.
        why: of each member, by label.
        groups: units in series, and backups (also those that were left out, and those that no
            measured interaction shows: what can take the place of a member that is missed in the
            circuit and not in the whole model).
        links: the measured interactions behind ``why`` and ``groups``, strongest first.
        faithfulness: of the members alone.
        completeness: the largest incompleteness of the parts K that were tried; 0 is complete. On
            held-out prompts: of the K that was the worst on those of the selection, so that it
            does not profit from the choice; where another is worse there, it is called a bound.
        minimality: the smallest over members of its largest score; far from 0 is minimal. Which
            member is the least, and with which K gone, is decided on the prompts of the selection;
            on held-out ones that member with that K is measured, so that the figure does not profit
            from the choice. Another member may be smaller there: ``print`` then names it, and
            ``frame()`` has the figure of every member.
        intact: F(M) and
        empty: F(nothing kept), averaged over the prompts that were measured on.
        n_prompts: how many those are. Where prompts have clusters, or repeat each other: how many
            clusters; all errors, intervals and the stability are then those of clusters.
        importance: of every unit, member or not, the largest effect of ablating it: in the intact
            model, in the circuit, or, of a backup, in the intact model without any of the others
            of its group. As a share of the span, without a sign.
        stability: mean Jaccard overlap with the circuits that the same rule selects when the
            prompts are drawn anew (bootstrap among the sets that were run; its stderr is the
            spread). NaN for a single prompt, and for a circuit that was given.
        cost: evaluations on the prompts of the selection and on held-out ones, gradients, seconds.
        about: how it was selected, what it was measured on, and what the interactions came from.
        signs: of every unit 1 where the effect behind its importance helps the metric, -1 where it
            holds it down.
        span_stderr: standard error of the span over prompts.
        unit_table: label, kind, layer and slots of each unit; default: what the labels say.
    """

    labels: list[str]
    members: Bool[np.ndarray, " unit"]
    why: dict[str, Membership]
    groups: tuple[Group, ...]
    links: tuple[CircuitInteraction, ...]
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
    signs: Int[np.ndarray, " unit"] | None = None
    span_stderr: float = float("nan")
    unit_table: Units = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.unit_table is None or self.unit_table.labels != list(self.labels):
            object.__setattr__(self, "unit_table", Units.of_labels(self.labels))

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
    def signed_importance(self) -> Float[np.ndarray, " unit"]:
        """``importance``, negative of units that hold the metric down."""
        return self.importance if self.signs is None else self.importance * self.signs

    @property
    def ranking(self) -> Ranking:
        """All labels, the largest ``importance`` first: an order for ``faithfulness_curve`` and its
        CMD. ``ranking(signed=True)`` puts what holds the metric down last, which is right for CPR.

        Two backups both rank high, as each is missed where the other is gone: it says what takes
        part, where ``members`` are the few that are enough.
        """
        by_size = np.argsort(-np.round(self.importance, 9), kind="stable")
        by_sign = np.argsort(-np.round(self.signed_importance, 9), kind="stable")
        return Ranking([self.labels[u] for u in by_size], [self.labels[u] for u in by_sign])

    def overlap(self, other: "Circuit") -> Overlap:
        """What this circuit and another one share, by the labels of their units.

        Raises:
            TypeError: the other one is no circuit.
            ValueError: no label is in both games.
        """
        return _overlap(self, other)

    def frame(self) -> "pd.DataFrame":
        """A pandas table with a row per member, the largest effect inside the circuit first: ``unit
        main_effect inside minimality minimality_stderr given brought_by groups interactions``."""
        import pandas as pd

        rows = []
        least = {part.units[0]: part for part in self.minimality.by_subset}
        for unit, reason in self.why.items():
            part = least.get(unit, _NOT_MEASURED)
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

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything into one JSON file, all or nothing; :meth:`load` reads it."""
        return save_circuit(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Circuit":
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a circuit, or of a newer format.
        """
        read = load_circuit(path)
        if strange := read.keys() ^ {one.name for one in fields(Circuit)}:
            raise ValueError(
                f"{path} is not a spex_mech circuit (JSON), or a damaged one: {min(strange)!r} is "
                f"{'unknown' if min(strange) in read else 'missing'}"
            )
        return Circuit(**read)

    def to_mib(self, **cfg: int | bool) -> dict[str, Any]:
        """The node circuit in the JSON format of the Mechanistic Interpretability Benchmark and of
        EAP-IG: ``json.dump(circuit.to_mib(), file)``.

        Nodes are ``input``, heads ``a0.h1``, MLPs ``m3`` and ``logits``; an edge is in the circuit
        if both of its nodes are. A member's score is its minimality, that of a unit left out its
        importance; negative where it holds the metric down. What the game never ablates (``input``,
        MLPs, heads that are no units) is in, with a score of 1 more than the largest of these: it
        was not measured, and every circuit that is taken by rank has it, as this one has.

        Args:
            cfg: ``n_layers``, ``n_heads``, ``d_model``, ``parallel_attn_mlp``, where the circuit
                does not know them from the model.

        Raises:
            ValueError: units that the format cannot express (its ``neurons`` are dimensions of the
                residual stream), or a config that is not known.
        """
        scores = np.array(self.signed_importance, dtype=np.float64)
        for part in self.minimality.by_subset:
            scores[self.labels.index(part.units[0])] = part.sign * part.value
        config = {"parallel_attn_mlp": False, **self.about.get("config", {}), **cfg}
        return mib_json(self.unit_table, self.members, scores, config)

    @staticmethod
    def from_mib(source: Mapping[str, Any] | str | os.PathLike[str]) -> "Circuit":
        """The circuit of the benchmark's JSON (what :meth:`to_mib` gives, or a file of it): the
        nodes with ``in_graph``, and their scores as importance. It is not scored here:
        ``score_circuit(game, circuit)`` does that.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not such JSON.
        """
        read, name = read_mib(source)
        members = mib_members(read)
        by_label = {
            label: float(node.get("score") or 0.0)
            for label, node in zip(members, _unit_nodes(read, members), strict=True)
        }
        scores = np.array(list(by_label.values()), dtype=np.float64)
        return Circuit(
            labels=list(members),
            members=np.array(list(members.values()), dtype=bool),
            why={u: Membership(nan, nan, (), "given") for u, kept in members.items() if kept},
            groups=(), links=(),
            faithfulness=NOT_SCORED, completeness=NOT_SCORED, minimality=NOT_SCORED,
            intact=nan, empty=nan, n_prompts=0,
            importance=abs(scores), stability=NOT_SCORED,
            about={"selected": f"read from {name}", "config": dict(read.get("cfg", {}))},
            signs=np.where(scores < 0, -1, 1),
        )  # fmt: skip

    def to_networkx(self) -> "networkx.Graph":
        """Every unit as a node, every link of two units as an edge: see ``circuits.files``.

        Raises:
            ImportError: networkx is missing (the extra ``viz``).
        """
        return graph_of(self)

    def save_graphml(self, path: str | os.PathLike[str]) -> Path:
        """Write :meth:`to_networkx` as GraphML, for Gephi, Cytoscape, yEd and the like."""
        return write_graphml(self.to_networkx(), path)

    def __repr__(self) -> str:
        return "\n".join(_words(self))

    def _repr_html_(self) -> str:
        first, *rest = _words(self)
        table = self.frame().drop(columns=["minimality_stderr", "given", "interactions"])
        return html_table(first, table, [line.strip() for line in rest])


_NOT_MEASURED = SubsetScore((), (), nan, nan)
_COLUMNS = (
    "unit", "main_effect", "inside", "minimality", "minimality_stderr", "given", "brought_by",
    "groups", "interactions",
)  # fmt: skip


def _words(circuit: Circuit) -> list[str]:
    lines = [
        f"circuit of {len(circuit)} of {len(circuit.labels):,} units: "
        f"{', '.join(circuit.units[:12])}" + (", ..." if len(circuit) > 12 else "")
    ]
    if not circuit.n_prompts:
        return [
            *lines,
            f"  {circuit.about.get('selected', '')}; score_circuit(game, ...) scores it",
        ]
    where = on_prompts(circuit.n_prompts, circuit.about.get("measured_on", "prompts of its own"))
    lines += [
        f"  on {where}: faithfulness {circuit.faithfulness}, largest "
        f"incompleteness {circuit.completeness}, least minimality {circuit.minimality}"
        f"{_smaller_text(circuit.minimality)}",
        f"  shares of {Span(circuit.span, circuit.span_stderr)}, which all units do together",
    ]
    if circuit.about.get("selected"):
        again = (
            ""
            if np.isnan(circuit.stability.value)
            else f"; redrawn prompts select circuits that share {circuit.stability.value:.2f} of it"
        )
        beside = circuit.about.get("beside_budget", 0)
        of_scores = f" ({beside:,} beside the budget, for the scores)" if beside else ""
        lines.append(
            f"  {circuit.about['selected']}, {circuit.cost['evaluations']:,} evaluations{of_scores}"
            f"{again}"
        )
    return lines + [f"  {group}" for group in circuit.groups[:8]]


def _smaller_text(minimality: Score) -> str:
    """The member that is the least on these prompts, where the selection's was another one."""
    least = min(minimality.by_subset, key=lambda part: part.value, default=None)
    named = [part.units[0] for part in minimality.by_subset if part.value == minimality.value]
    if least is None or not named or least.value >= minimality.value * (1 - 1e-9):
        return ""
    return (
        f" (of {named[0]}, the least on the prompts of the selection; on these "
        f"{least.units[0]} has {Score(least.value, least.stderr)})"
    )


def _unit_nodes(read: Mapping[str, Any], members: Mapping[str, bool]) -> list[dict[str, Any]]:
    nodes = read["nodes"]
    return [
        nodes[f"m{x[1:-3]}" if x.endswith("MLP") else f"a{x[1:].replace('H', '.h')}"]
        for x in members
    ]


@compare.register(Circuit)
def _overlap(found_a: Circuit, found_b: Circuit, k: int = 20) -> Overlap:
    """Two circuits side by side, by their units' labels (``k`` is not used)."""
    if not isinstance(found_b, Circuit):
        raise TypeError(f"a circuit is compared with a circuit, not {type(found_b).__name__}")
    if not set(found_a.labels) & set(found_b.labels):
        raise ValueError(
            f"the two circuits share no unit: {found_a.labels[:3]}... and {found_b.labels[:3]}..."
        )
    warn_of_other_groups(found_a.unit_table, found_b.unit_table)
    a, b = found_a.units, found_b.units
    both = tuple(unit for unit in a if unit in b)
    return Overlap(
        jaccard=len(both) / len({*a, *b}) if a or b else 1.0,
        both=both,
        only_a=tuple(unit for unit in a if unit not in b),
        only_b=tuple(unit for unit in b if unit not in a),
        not_in_b=tuple(unit for unit in a if unit not in found_b.labels),
        not_in_a=tuple(unit for unit in b if unit not in found_a.labels),
    )
