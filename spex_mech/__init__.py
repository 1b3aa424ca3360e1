"""spex_mech finds which parts of a neural network interact.

The public names, imported when first used: importing the package loads no torch.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spex_mech.circuits import faithfulness_curve, find_circuit
    from spex_mech.discover import confirm, discover, measure
    from spex_mech.distill import Distillation, distill, explain
    from spex_mech.factory import GameFactory
    from spex_mech.games.architectures import Architecture
    from spex_mech.games.components import Component, Components
    from spex_mech.games.features import frozen_features
    from spex_mech.games.metrics import Task
    from spex_mech.games.model_game import ModelGame
    from spex_mech.games.prompts import Prompts
    from spex_mech.games.token_game import TokenGame
    from spex_mech.games.training_game import TrainingGame, example_groups
    from spex_mech.report import write_report
    from spex_mech.results.circuit import Circuit, Curve
    from spex_mech.results.circuit_plots import plot_circuit, plot_curve
    from spex_mech.results.examples import plot_examples
    from spex_mech.results.interactions import Interactions
    from spex_mech.results.interactive import (
        interactive_layers,
        interactive_map,
        interactive_network,
        interactive_neurons,
    )
    from spex_mech.results.interop import from_shapiq, to_shapiq
    from spex_mech.results.plots import plot_layers, plot_map, plot_network, plot_neurons
    from spex_mech.results.stability import compare, stability
    from spex_mech.results.text import plot_text
    from spex_mech.tasks import load_task, text_task
    from spex_mech.zoo import load_model, load_tokenizer

_HOMES = {
    "Architecture": "games.architectures",
    "Circuit": "results.circuit",
    "Component": "games.components",
    "Components": "games.components",
    "Curve": "results.circuit",
    "Distillation": "distill",
    "GameFactory": "factory",
    "Interactions": "results.interactions",
    "ModelGame": "games.model_game",
    "Prompts": "games.prompts",
    "Task": "games.metrics",
    "TokenGame": "games.token_game",
    "TrainingGame": "games.training_game",
    "compare": "results.stability",
    "confirm": "discover",
    "discover": "discover",
    "distill": "distill",
    "example_groups": "games.training_game",
    "explain": "distill",
    "faithfulness_curve": "circuits",
    "find_circuit": "circuits",
    "from_shapiq": "results.interop",
    "frozen_features": "games.features",
    "interactive_layers": "results.interactive",
    "interactive_map": "results.interactive",
    "interactive_network": "results.interactive",
    "interactive_neurons": "results.interactive",
    "load_model": "zoo",
    "load_task": "tasks",
    "load_tokenizer": "zoo",
    "measure": "discover",
    "plot_circuit": "results.circuit_plots",
    "plot_curve": "results.circuit_plots",
    "plot_examples": "results.examples",
    "plot_layers": "results.plots",
    "plot_map": "results.plots",
    "plot_network": "results.plots",
    "plot_neurons": "results.plots",
    "plot_text": "results.text",
    "stability": "results.stability",
    "text_task": "tasks",
    "to_shapiq": "results.interop",
    "write_report": "report",
}

__all__ = [
    "Architecture",
    "Circuit",
    "Component",
    "Components",
    "Curve",
    "Distillation",
    "GameFactory",
    "Interactions",
    "ModelGame",
    "Prompts",
    "Task",
    "TokenGame",
    "TrainingGame",
    "compare",
    "confirm",
    "discover",
    "distill",
    "example_groups",
    "explain",
    "faithfulness_curve",
    "find_circuit",
    "from_shapiq",
    "frozen_features",
    "interactive_layers",
    "interactive_map",
    "interactive_network",
    "interactive_neurons",
    "load_model",
    "load_task",
    "load_tokenizer",
    "measure",
    "plot_circuit",
    "plot_curve",
    "plot_examples",
    "plot_layers",
    "plot_map",
    "plot_network",
    "plot_neurons",
    "plot_text",
    "stability",
    "text_task",
    "to_shapiq",
    "write_report",
]

__version__ = version("spex_mech")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'spex_mech' has no attribute {name!r}")
    value = getattr(import_module(f"spex_mech.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the file discover.py would put the module where the function belongs.
        shadows = isinstance(value, ModuleType) and name in _HOMES
        super().__setattr__(name, getattr(value, name) if shadows else value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
