"""Games that other processes make."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spex_mech.discover import CallableGame


class Planted:
    """Pairs among 30 units; in the last bits of a value is what shared its batch. Told to, a worker
    dies once in the middle of a batch."""

    masks_per_batch = 8

    def __init__(self, dies: Path | None = None, pause: float = 0.0) -> None:
        self.dies, self.pause = dies, pause
        self.labels = [f"u{i}" for i in range(30)]
        rng = np.random.default_rng(3)
        self.main, self.pairs = rng.normal(size=30), rng.normal(size=(30, 30)) ** 3

    def __len__(self) -> int:
        return 30

    def __call__(self, masks: Tensor) -> Tensor:
        time.sleep(self.pause)
        if self.dies is not None and not self.dies.exists():
            self.dies.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        lost = (~masks).numpy().astype(float)
        exact = lost @ self.main + np.einsum("mi,ij,mj->m", lost, self.pairs, lost)
        place = np.sin(exact * 7919 + len(lost) * 100 + np.arange(len(lost)))
        return torch.from_numpy(exact + 1e-9 * place)

    def identity(self) -> dict[str, Any]:
        return {"planted": 3}


def fails(masks: Tensor) -> Tensor:
    if (~masks).sum(dim=1).max() > 1:
        raise ValueError("two are too many")
    return masks.sum(dim=1).double()


def failing_game() -> CallableGame:
    return CallableGame(fails, ["a", "b", "c", "d"])


def pid(_: Any) -> int:
    return os.getpid()
