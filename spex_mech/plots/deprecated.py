"""The four names that ``backend="plotly"`` replaced. They go with 0.3.0."""

import warnings
from typing import Any

from spex_mech.plots import pictures
from spex_mech.results.interactions import Interactions


def interactive_map(found: Interactions, by: str = "unit", most: int = 64) -> Any:
    """Deprecated: call ``plot_map(found, backend="plotly")``."""
    _warn("map")
    return pictures.plot_map(found, by, most, backend="plotly")


def interactive_layers(found: Interactions) -> Any:
    """Deprecated: call ``plot_layers(found, backend="plotly")``."""
    _warn("layers")
    return pictures.plot_layers(found, backend="plotly")


def interactive_neurons(found: Interactions, share: float = 0.9, most: int = 24) -> Any:
    """Deprecated: call ``plot_neurons(found, backend="plotly")``."""
    _warn("neurons")
    return pictures.plot_neurons(found, share, most, backend="plotly")


def interactive_network(found: Interactions, k: int = 20) -> Any:
    """Deprecated: call ``plot_network(found, backend="plotly")``."""
    _warn("network")
    return pictures.plot_network(found, k, backend="plotly")


def _warn(name: str) -> None:
    warnings.warn(
        f'interactive_{name} goes with 0.3.0; call plot_{name}(found, backend="plotly")',
        DeprecationWarning,
        stacklevel=3,
    )
