"""Games by names: what a worker, a cell of a sweep or the command line makes its game from."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

from spex_mech.arguments import shown, switch, text_of, whole

_SUCH = {
    "model": "demo", "task": "ioi", "units": "heads", "file": "passages.txt", "ablation": "mean",
    "precision": "float32", "metric": "logit_diff",
}  # fmt: skip
_LEAST = {"n_prompts": 1, "seed": 0, "batch_size": 1}
_MAY_BE_NONE = ("n_prompts", "file", "metric", "batch_size")


@dataclass(frozen=True)
class GameFactory:
    """A ``ModelGame`` to be made later, or in another process: only names and numbers, so that it
    can be sent there.

    Args:
        model: bundled name, local folder or hub name.
        task: a task's name, or a prompt file.
        units: "heads", "neurons", "heads+neurons", "kv_groups", or labels and patterns
            ("L1H*,L0N17").
        n_prompts, seed: of the task (by default 64 prompts, and of a file all rows).
        file: the text file of the task "text".
        metric: instead of the task's own: "logit_diff", "loss" and so on, or a function of yours,
            ``"my_metrics:margin"``: the module, which may be a file in the current folder, and the
            function in it.
        ablation, precision, batch_size: as of ``ModelGame``; a precision that all workers share, so
            not "auto".
        bridge: load it as a TransformerBridge.

    Raises:
        ValueError: one of them is of another type, or a number is too small, or the precision is
            "auto".

    >>> len(GameFactory("demo", n_prompts=2)())
    8
    """

    model: str
    task: str = "induction"
    units: str = "heads"
    n_prompts: int | None = None
    seed: int = 0
    file: str | None = None
    metric: str | None = None
    ablation: str = "mean"
    precision: str = "float32"
    batch_size: int | None = None
    bridge: bool = False

    def __post_init__(self) -> None:
        switch("bridge", self.bridge)
        if self.precision == "auto":
            raise ValueError(
                "precision='auto' looks at one game, and workers and cells make one each; give "
                "float32, tf32 or bfloat16: what ModelGame(..., precision='auto').precision says"
            )
        for name, such in _SUCH.items():
            self._check(name, text_of, such)
        for name, least in _LEAST.items():
            self._check(name, whole, least)

    def _check(self, name: str, check: Callable[..., Any], *more: Any) -> None:
        value = getattr(self, name)
        if value is not None or name not in _MAY_BE_NONE:
            object.__setattr__(self, name, check(name, value, *more))

    def __call__(self) -> Any:
        """Load the model and make the game."""
        from spex_mech.games.model_game import ModelGame
        from spex_mech.models import load_model
        from spex_mech.tasks import load_task

        model = load_model(self.model, bridge=self.bridge)
        extra = {} if self.file is None else {"file": self.file}
        metric = None if self.metric is None else metric_named(self.metric)
        task = load_task(self.task, model, self.n_prompts, self.seed, metric=metric, **extra)
        return ModelGame(
            model,
            task,
            self.units,
            ablation=self.ablation,
            precision=self.precision,
            batch_size=self.batch_size,
        )


_READ: dict[str, tuple[str, int, int]] = {}  # of a module's file: its path, time and size


def _imported(module: str, here: Path) -> Any:
    """A module; anew where its file in this folder was edited since, or where one of that name is
    of another folder, as in a notebook that goes on.

    Raises:
        ImportError: there is none, or one of its name that is not this file is loaded already.
    """
    file = here / f"{module.replace('.', '/')}.py"
    if file.is_file():
        stat = file.stat()
        now = (str(file.resolve()), stat.st_mtime_ns, stat.st_size)
        if _READ.setdefault(module, now) != now:
            sys.modules.pop(module, None)
            sys.path.insert(0, str(here))
            invalidate_caches()
            _READ[module] = now
    found = import_module(module)
    own = getattr(found, "__file__", None) or "built in"
    if file.is_file() and not (os.path.isfile(own) and file.samefile(own)):
        raise ImportError(f"the module {module} is {own}, and not {file}: call this file otherwise")
    return found


def metric_named(text: str) -> Any:
    """A metric's name as it is, or the function that ``module:function`` names, where the module
    may be a path, such as ``metrics/mine.py:margin``.

    Raises:
        ValueError: there is no such module, or no such function in it.
    """
    module, colon, name = text.partition(":")
    if not colon:
        return text
    folder, module = os.path.split(module.removesuffix(".py"))
    here = os.path.abspath(os.path.expanduser(folder))
    if here not in sys.path:  # as with `python -m`, and for workers too
        sys.path.insert(0, here)
    try:
        function = getattr(_imported(module, Path(here)), name)
    except ImportError as error:
        raise ValueError(f"metric {text!r}: {error}; it is looked for in {here} too") from error
    except Exception as error:  # whatever the module raises
        raise ValueError(f"metric {text!r}: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise ValueError(f"metric {text!r} is {shown(function)}; give a function")
    return function
