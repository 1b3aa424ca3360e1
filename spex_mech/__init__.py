"""spex_mech finds which parts of a neural network interact.

The public names, imported when first used: importing the package loads no torch.
"""

import sys
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spex_mech.backups import find_backups, together
    from spex_mech.circuits.circuit import Circuit
    from spex_mech.circuits.curve import FaithfulnessCurve as FaithfulnessCurve
    from spex_mech.circuits.find import faithfulness_curve, find_circuit, score_circuit
    from spex_mech.circuits.plots import plot_circuit, plot_curve
    from spex_mech.discover import confirm, discover, measure
    from spex_mech.distill import Distillation as Distillation
    from spex_mech.distill import distill, explain
    from spex_mech.engine.architectures import Architecture
    from spex_mech.engine.components import Component as Component
    from spex_mech.engine.components import Components
    from spex_mech.engine.inspection import Inspection as Inspection
    from spex_mech.engine.inspection import inspect_model
    from spex_mech.engine.prompts import Prompts
    from spex_mech.engine.task import Task
    from spex_mech.game import Game
    from spex_mech.games.features import frozen_features
    from spex_mech.games.model_game import ModelGame
    from spex_mech.games.token_game import TokenGame
    from spex_mech.games.training_game import TrainingGame, example_groups
    from spex_mech.models import load_model, load_tokenizer
    from spex_mech.planning import Plan as Plan
    from spex_mech.planning import plan
    from spex_mech.plots.attention import plot_attention
    from spex_mech.plots.examples import plot_examples
    from spex_mech.plots.pictures import plot_layers, plot_map, plot_network, plot_neurons
    from spex_mech.plots.text import plot_text
    from spex_mech.proxy import Proxy
    from spex_mech.report.page import write_report
    from spex_mech.results.interactions import Interactions
    from spex_mech.results.shapiq import from_shapiq, to_shapiq
    from spex_mech.results.stability import compare, stability
    from spex_mech.runs.factory import GameFactory
    from spex_mech.saved import load
    from spex_mech.search.audit import Audit
    from spex_mech.search.contract import Search
    from spex_mech.tasks import load_task, text_task

_HOMES = {
    "Architecture": "engine.architectures",
    "Audit": "search.audit",
    "Circuit": "circuits.circuit",
    "Components": "engine.components",
    "Game": "game",
    "GameFactory": "runs.factory",
    "Interactions": "results.interactions",
    "ModelGame": "games.model_game",
    "Prompts": "engine.prompts",
    "Proxy": "proxy",
    "Search": "search.contract",
    "Task": "engine.task",
    "TokenGame": "games.token_game",
    "TrainingGame": "games.training_game",
    "compare": "results.stability",
    "confirm": "discover",
    "discover": "discover",
    "distill": "distill",
    "example_groups": "games.training_game",
    "explain": "distill",
    "faithfulness_curve": "circuits.find",
    "find_backups": "backups",
    "find_circuit": "circuits.find",
    "from_shapiq": "results.shapiq",
    "frozen_features": "games.features",
    "inspect_model": "engine.inspection",
    "load": "saved",
    "load_model": "models",
    "load_task": "tasks",
    "load_tokenizer": "models",
    "measure": "discover",
    "plan": "planning",
    "plot_attention": "plots.attention",
    "plot_circuit": "circuits.plots",
    "plot_curve": "circuits.plots",
    "plot_examples": "plots.examples",
    "plot_layers": "plots.pictures",
    "plot_map": "plots.pictures",
    "plot_network": "plots.pictures",
    "plot_neurons": "plots.pictures",
    "plot_text": "plots.text",
    "score_circuit": "circuits.find",
    "stability": "results.stability",
    "text_task": "tasks",
    "to_shapiq": "results.shapiq",
    "together": "backups",
    "write_report": "report.page",
}

# Types of what functions give: for annotations, and no user makes one.
_GIVEN = {
    "Component": "engine.components",
    "Distillation": "distill",
    "FaithfulnessCurve": "circuits.curve",
    "Inspection": "engine.inspection",
    "Plan": "planning",
}

_DEPRECATED = {
    f"interactive_{picture}": "plots.deprecated"
    for picture in ("layers", "map", "network", "neurons")
} | {"Curve": "circuits.curve"}

__all__ = [
    "Architecture",
    "Audit",
    "Circuit",
    "Components",
    "Game",
    "GameFactory",
    "Interactions",
    "ModelGame",
    "Prompts",
    "Proxy",
    "Search",
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
    "find_backups",
    "find_circuit",
    "from_shapiq",
    "frozen_features",
    "inspect_model",
    "load",
    "load_model",
    "load_task",
    "load_tokenizer",
    "measure",
    "plan",
    "plot_attention",
    "plot_circuit",
    "plot_curve",
    "plot_examples",
    "plot_layers",
    "plot_map",
    "plot_network",
    "plot_neurons",
    "plot_text",
    "score_circuit",
    "stability",
    "text_task",
    "to_shapiq",
    "together",
    "write_report",
]

__version__ = version("spex_mech")


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name) or _GIVEN.get(name) or _DEPRECATED.get(name)
    if home is None:
        raise AttributeError(f"module 'spex_mech' has no attribute {name!r}")
    value = getattr(import_module(f"spex_mech.{home}"), name)
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
