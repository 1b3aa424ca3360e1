"""Games by names: what a worker, a cell of a sweep or the command line makes its game from."""

from dataclasses import dataclass
from typing import Any


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
        ablation, precision, batch_size: as of ``ModelGame``.
        bridge: load it as a TransformerBridge.

    >>> len(GameFactory("demo", n_prompts=2)())
    8
    """

    model: str
    task: str = "induction"
    units: str = "heads"
    n_prompts: int | None = None
    seed: int = 0
    file: str | None = None
    ablation: str = "mean"
    precision: str = "float32"
    batch_size: int | None = None
    bridge: bool = False

    def __call__(self) -> Any:
        """Load the model and make the game."""
        from spex_mech.games.model_game import ModelGame
        from spex_mech.models import load_model
        from spex_mech.tasks import load_task

        model = load_model(self.model, bridge=self.bridge)
        extra = {} if self.file is None else {"file": self.file}
        task = load_task(self.task, model, self.n_prompts, self.seed, **extra)
        return ModelGame(
            model,
            task,
            self.units,
            ablation=self.ablation,
            precision=self.precision,
            batch_size=self.batch_size,
        )
