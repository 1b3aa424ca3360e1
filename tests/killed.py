"""A search in a process of its own, which is killed, or kills itself, at a chosen moment."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

import spex_mech as sm
import spex_mech.game
from spex_mech.game import Answer, Game, Pending
from spex_mech.masks import MaskBatch
from spex_mech.runs.store import Run

MOMENTS = ("any time", "computed", "committing", "committed")


@dataclass(frozen=True)
class Job:
    """What a process does.

    Args:
        game: a name in ``GAMES``.
        options: of ``discover``.
        store: the file.
        asked: a file that each mask is written to before it is computed.
        result: where the result goes.
        moment: when to die: "computed" (before the commit begins), "committing" (all is written but
            the COMMIT) or "committed", at batch ``at``; otherwise the process waits to be killed.
        pause: seconds that each batch takes longer.
    """

    game: str
    options: dict[str, Any]
    store: Path
    asked: Path
    result: Path
    moment: str = ""
    at: int = 0
    pause: float = 0.0


def planted() -> Callable[[Tensor], Tensor]:
    """Interactions with a dense tail, whose last bits depend on what shares the batch: so that a
    search that asks for other batches than before gives another result."""
    rng = np.random.default_rng(7)
    main, pairs = rng.standard_normal(40), rng.standard_normal((40, 40)) ** 3

    def values(masks: Tensor) -> Tensor:
        lost = (~masks).numpy().astype(float)
        exact = lost @ main + np.einsum("mi,ij,mj->m", lost, pairs, lost)
        place = np.arange(len(lost)) + len(lost) * 100
        noise = np.sin(exact * 7919 + place)[:, None] * [1e-9, 2e-9, 3e-9]
        return torch.from_numpy(exact[:, None] + noise)

    return values


@dataclass(frozen=True)
class Done:
    """An answer that is there."""

    answer: Answer

    def result(self) -> Answer:
        return self.answer


def demo() -> sm.ModelGame:
    """The bundled model: its heads and some neurons, with gradients."""
    model = sm.load_model("demo")
    task = sm.load_task("induction", model, n_prompts=16)
    units = sm.Components.heads(model) + sm.Components.neurons(model, layers=1)[:24]
    return sm.ModelGame(model, task, units)


GAMES: dict[str, Callable[[], Any]] = {"planted": planted, "demo": demo}


def work(job: Job, ready: Connection | None = None) -> None:
    """Run the search, and save its result."""
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own is of all processes, and is left by a killed one
    driver: Any = import_module("spex_mech.driver")
    begin, commit = driver._begin, Run._commit
    n_commits = 0

    def logged(game: Game, masks: MaskBatch, slopes: bool, watcher: Any) -> Pending:
        kind = "gradient" if slopes else "value"
        keys = [[kind, key.hex()] for key in masks.keys()]
        with job.asked.open("a") as file:
            file.write(json.dumps(keys) + "\n")
        time.sleep(job.pause / 2)
        answer = begin(game, masks, slopes, watcher).result()
        time.sleep(job.pause / 2)
        return Done(answer)

    def committing(run: Run, *of: Any) -> None:
        nonlocal n_commits
        n_commits += 1
        now = n_commits == job.at
        if now and job.moment == "computed":
            die()
        if now and job.moment == "committing":
            run.store.connection.set_trace_callback(lambda sql: die() if sql == "COMMIT" else None)
        commit(run, *of)
        if now and job.moment == "committed":
            die()

    driver._begin = logged
    spex_mech.game.MASKS_PER_BATCH = 16
    sm.ModelGame.masks_per_batch = property(lambda game: 8)  # type: ignore[assignment]
    Run._commit = committing  # type: ignore[method-assign]
    game = GAMES[job.game]()
    n = {} if hasattr(game, "labels") else {"n": 40}
    if ready is not None:
        ready.send(True)
    sm.discover(game, progress=False, store=job.store, **n, **job.options).save(job.result)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
