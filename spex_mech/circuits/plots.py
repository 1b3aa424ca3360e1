"""Pictures of circuits: the numbers first (where each unit stands), then a thin drawing.

Signs differ without colour, as in ``plots``: solid lines are positive interactions (AND-like),
dashed ones negative (OR-like). A filled unit is a member, an empty dashed one a backup that was
left out.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from spex_mech.arguments import shown, whole
from spex_mech.circuits.circuit import Circuit
from spex_mech.circuits.curve import FaithfulnessCurve, on_prompts
from spex_mech.circuits.explain import CircuitInteraction
from spex_mech.plots.network import in_columns
from spex_mech.plots.static import as_written, new_figure
from spex_mech.plots.style import BLUE, RED
from spex_mech.plots.words import shortened
from spex_mech.units import Blocks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINE_STYLES = ("-", "--", "-.", ":")
_MARKS = "os^Dv"


def circuit_positions(circuit: Circuit) -> dict[str, tuple[float, float]]:
    """Where :func:`plot_circuit` puts each unit: members, and backups that were left out; x by
    layer (units without a layer in columns of eight), y spread within it."""
    shown = {*circuit.units, *(u for group in circuit.groups for u in group.units)}
    kept = [unit for unit in circuit.unit_table if unit.label in shown]
    ordered = [unit.label for unit in kept]
    layers = Blocks.of(kept).of_unit.tolist()
    if min(layers, default=-1) < 0:
        layers = [i // 8 for i in range(len(ordered))]
    return in_columns(ordered, layers)


def _positions(circuit: Any) -> dict[str, tuple[float, float]]:
    """Raises:
    TypeError: it is no circuit.
    ValueError: the circuit is empty.
    """
    if not isinstance(circuit, Circuit):
        raise TypeError(f"circuit is {shown(circuit)}; give a Circuit, such as of find_circuit")
    positions = circuit_positions(circuit)
    if not positions:
        raise ValueError("there is nothing to draw: the circuit has no units")
    return positions


@as_written
def plot_circuit(circuit: Circuit, most: int = 30) -> "Figure":
    """The circuit by layer: members (as large as their effect inside), backups that were left out,
    and the ``most`` strongest interactions among what is shown. Groups are numbered.

    Raises:
        ImportError: matplotlib is missing (the extra ``viz``).
        ValueError: the circuit is empty, or ``most`` is negative.
    """
    positions, most = _positions(circuit), whole("most", most, 0)
    links = [link for link in circuit.links if len(link.units) == 2]
    links = [link for link in links if all(unit in positions for unit in link.units)][:most]
    columns, in_column = np.unique([x for x, _ in positions.values()], return_counts=True)
    figure, axes = new_figure(
        max(6.4, 1.1 * len(columns)), max(4.2, 1.6 + 0.55 * float(in_column.max()))
    )
    largest = max((abs(link.value) for link in links), default=1.0)
    for link in links:
        (x0, y0), (x1, y1) = (positions[unit] for unit in link.units)
        axes.annotate(
            "", (x1, y1), (x0, y0),
            arrowprops={
                "arrowstyle": "-",
                "connectionstyle": f"arc3,rad={0.35 if x0 == x1 else 0.08}",
                "color": RED if link.value * circuit.span > 0 else BLUE,
                "linestyle": _line_style(link),
                "linewidth": 0.6 + 4.4 * abs(link.value) / largest,
                "alpha": 0.85,
            },
        )  # fmt: skip
    numbers = _group_numbers(circuit)
    sizes = {label: abs(np.nan_to_num(reason.inside)) for label, reason in circuit.why.items()}
    top = max(sizes.values(), default=0.0) or 1.0
    members = {*circuit.units}
    for label, at in positions.items():
        member = label in members
        area = 60 + 540 * sizes.get(label, 0.0) / top
        axes.scatter(
            *at, s=area, zorder=3, linewidths=1.0,
            color="#d9d9d9" if member else "white",
            edgecolor="black" if member else "#666666",
            linestyle="-" if member else "--",
        )  # fmt: skip
        axes.annotate(
            " ".join([shortened(label), *numbers.get(label, [])]), at,
            xytext=(0, -np.sqrt(area) / 2 - 2), textcoords="offset points",
            ha="center", va="top", fontsize=8, zorder=4,
            bbox={"boxstyle": "square,pad=0.1", "color": "white", "alpha": 0.7, "linewidth": 0},
        )  # fmt: skip
    axes.plot([], [], color=RED, label="AND-like: damage overlaps")
    axes.plot([], [], color=BLUE, linestyle="--", label="OR-like: damage compounds")
    if any(_line_style(link) == ":" for link in circuit.links):
        axes.plot([], [], color="black", linestyle=":", label="neither fits (mixed)")
    axes.scatter([], [], color="#d9d9d9", edgecolor="black", label="member")
    if len(positions) > len(members):
        axes.scatter([], [], color="white", edgecolor="#666666", linestyle="--", label="left out")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=4, frameon=False, fontsize=8)
    axes.set_axis_off()
    axes.margins(0.15)
    axes.invert_yaxis()
    legend = "; ".join(f"{kind} {sign}" for kind, sign in (("series", "s"), ("backup", "b")))
    score = f"faithfulness {circuit.faithfulness}" if circuit.n_prompts else "not scored"
    axes.set_title(
        f"Circuit of {len(circuit)} of {len(circuit.labels):,} units, {score}"
        + (f"\ngroups: {legend}" if numbers else ""),
        fontsize=10,
    )
    return figure


def _line_style(link: CircuitInteraction) -> Any:
    """Dotted where neither reading fits, as in ``plots``."""
    if link.reading not in ("AND-like", "OR-like"):
        return ":"
    return "-" if link.reading == "AND-like" else (0, (4, 2))


@as_written
def plot_curve(curves: FaithfulnessCurve | Mapping[str, FaithfulnessCurve]) -> "Figure":
    """Faithfulness by circuit size, of one or several named curves, with bands of one standard
    error; CPR and CMD in the legend.

    Raises:
        ImportError: matplotlib is missing (the extra ``viz``).
        ValueError: no curve was given.
    """
    given = {"": curves} if isinstance(curves, FaithfulnessCurve) else curves
    own = isinstance(given, Mapping) and all(
        isinstance(curve, FaithfulnessCurve) for curve in given.values()
    )
    if not own:
        raise TypeError(
            f"curves is {shown(curves)}; give a FaithfulnessCurve, or several by name: "
            '{"ours": curve, "theirs": other}'
        )
    named = dict(given)
    if not named:
        raise ValueError("there is nothing to draw: no curve was given")
    figure, axes = new_figure(6.8, 4.4)
    for i, (name, curve) in enumerate(named.items()):
        text = f"CPR {curve.cpr.value:.3f}, CMD {curve.cmd.value:.3f}"
        (line,) = axes.plot(
            curve.sizes, curve.faithfulness,
            linestyle=_LINE_STYLES[i % len(_LINE_STYLES)], marker=_MARKS[i % len(_MARKS)],
            markersize=3, label=f"{name}: {text}" if name else text,
        )  # fmt: skip
        error = np.nan_to_num(curve.stderr)
        low, high = curve.faithfulness - error, curve.faithfulness + error
        axes.fill_between(curve.sizes, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.axhline(1, color="black", linewidth=0.7, linestyle=":")
    axes.set_xlabel("units kept")
    axes.set_ylabel("faithfulness (all units: 1, none: 0)")
    axes.legend(fontsize=8, frameon=False)
    first = next(iter(named.values()))
    axes.set_title(
        f"Circuits among {len(first.labels):,} units, on "
        + on_prompts(first.values.shape[1], first.about.get("measured_on", "prompts")),
        fontsize=10,
    )
    return figure


def _group_numbers(circuit: Circuit) -> dict[str, list[str]]:
    """Of each unit the groups that it is in: s1 is the first series, b2 the second backup group."""
    numbers: dict[str, list[str]] = {}
    count = {"series": 0, "backup": 0}
    for group in circuit.groups:
        count[group.kind] += 1
        for unit in group.units:
            numbers.setdefault(unit, []).append(f"{group.kind[0]}{count[group.kind]}")
    return numbers
