"""The pictures of interactions that a user calls: a map, layers, neurons and a network.

Each is drawn by matplotlib (a still picture) or by plotly (one that answers to the pointer and has
menus), from the same numbers and in the same colours.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spex_mech.arguments import whole
from spex_mech.plots import interactive, static
from spex_mech.results.interactions import Interactions, as_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_map(
    found: Interactions,
    by: str = "unit",
    most: int = 64,
    *,
    backend: str = "matplotlib",
) -> "Figure | Any":
    """Draw a heat map of the pair interactions, unit by unit or layer by layer.

    Args:
        found: the result to draw.
        by: "unit" draws each pair. "layer" draws the energy between two layers (the root of the
            summed squares of their pairs), signed by the sum of those pairs.
        most: how many units are shown at most: those with the most energy.
        backend: "matplotlib" draws a still picture. "plotly" draws one that shows value, error and
            reading where the pointer is, with a menu that shows only some of the pairs. By unit,
            another menu goes to the pairs of two layers. By layer, a click on a cell lists its
            strongest pairs.

    Returns:
        A matplotlib figure (save it with ``.savefig("map.png")``), or a plotly figure. Save that
        with ``.write_html("map.html")``, which puts ``plotly.min.js`` beside the page for all pages
        of the folder, or with ``include_plotlyjs=True`` as a page that stands alone (5 MB).

    Raises:
        ValueError: no pairs were measured, ``by`` or ``backend`` has another value, the units have
            no layers for "layer", or ``most`` is under 2.
        ImportError: matplotlib or plotly is missing (the extra ``viz``).
    """
    return _drawn(backend, static.draw_map, interactive.draw_map, found, by, most)


def plot_layers(found: Interactions, *, backend: str = "matplotlib") -> "Figure | Any":
    """Draw where the energy of the pair interactions lies: between which two layers, in per cent of
    the total, and how much of it lies within and across layers. Half of what two layers share goes
    to each of them.

    Args:
        found: the result to draw.
        backend: "matplotlib" or "plotly", as of :func:`plot_map`.

    Raises:
        ValueError: no pairs were measured, the units have no layers, or ``backend`` has another
            value.
        ImportError: matplotlib or plotly is missing (the extra ``viz``).
    """
    return _drawn(backend, static.draw_layers, interactive.draw_layers, found)


def plot_neurons(
    found: Interactions, share: float = 0.9, most: int = 24, *, backend: str = "matplotlib"
) -> "Figure | Any":
    """Draw a map of the heads and of the neurons that matter. The other neurons of each layer are
    folded into one row, whose cells are energies signed by the sum (as in
    ``plot_map(found, by="layer")``).

    Args:
        found: the result to draw.
        share: the part of the neurons' energy that gets rows of its own.
        most: how many neurons get rows of their own at most.
        backend: "matplotlib" or "plotly", as of :func:`plot_map`.

    Raises:
        ValueError: there are no pairs or no neurons, ``share`` is not between 0 and 1, ``most`` is
            under 1, or ``backend`` has another value.
        ImportError: matplotlib or plotly is missing (the extra ``viz``).
    """
    return _drawn(backend, static.draw_neurons, interactive.draw_neurons, found, share, most)


def plot_network(
    found: Interactions, k: int = 20, *, backend: str = "matplotlib"
) -> "Figure | Any":
    """Draw the k strongest pairs as a network, with the layers from left to right. Units without
    layers stand in a circle.

    Positive interactions are solid red lines marked with a plus, negative ones dashed blue lines
    marked with a minus; a line is as wide as its interaction is strong. Where neither AND-like nor
    OR-like fits, the line is dotted. A node is as large as its main effect.

    Args:
        found: the result to draw.
        k: how many pairs are drawn. Pairs under the noise floor are left out, unless there are no
            others.
        backend: "matplotlib" draws a still picture. "plotly" draws one that shows a pair where the
            pointer is on the middle of its line. One menu shows only some of the pairs, another one
            those of two layers, and the legend hides and shows pairs by reading and strength.

    Raises:
        ValueError: no pairs were measured, ``k`` is under 1, or ``backend`` has another value.
        ImportError: matplotlib or plotly is missing (the extra ``viz``).
    """
    whole("k", k, 1)
    return _drawn(backend, static.draw_network, interactive.draw_network, found, k)


def _drawn(
    backend: str,
    still: Callable[..., Any],
    moving: Callable[..., Any],
    found: Interactions,
    *options: Any,
) -> Any:
    if backend not in ("matplotlib", "plotly"):
        raise ValueError(f"backend is {backend!r}; choose 'matplotlib' or 'plotly'")
    return (still if backend == "matplotlib" else moving)(as_result(found), *options)
