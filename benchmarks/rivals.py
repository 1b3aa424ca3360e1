"""What others offer for finding interactions, each at its best documented setting.

Every rival gets the same function of masks and the same number of evaluations, and returns the
pairs that it reports, strongest first. None of them validates anything. The tools for Shapley and
Banzhaf indices estimate means over all subsets, not the interaction at the intact model; where one
gives Fourier coefficients, its pairs are ranked twice, by its own index and by the interaction at
the intact model that its coefficients imply. Of several rankings the best counts.
"""

import multiprocessing
import resource
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from itertools import combinations
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from spex_mech.masks import Set
from spex_mech.search.contract import GRADIENT_COST
from spex_mech.search.random_masks import complementary_masks
from spex_mech.setfunctions import convert, parities

Values = Callable[[np.ndarray], np.ndarray]  # Bool[mask unit] -> Float[mask]
Pair = tuple[int, int]
TIME_LIMIT, GRACE = 240, 20  # of a rival, seconds
MEMORY_LIMIT = 14 * 2**30  # bytes of its process
MANY_PAIRS = 10_000
HESSIAN_STEPS = (0.02, 0.05, 0.2, 0.5)  # of a gate; with 1 it would be SPEX's gradient rows


@dataclass
class Reported:
    """Rankings of pairs, the best of which counts; Fourier terms, where there are any."""

    rankings: list[list[Pair]] = field(default_factory=list)
    fourier: dict[Set, float] | None = None
    failure: str = ""
    settings: int = 1  # that were tried, each with the whole budget
    gradients: int = 0  # of each
    evaluations: int = 0  # of each, and a gradient counts as three

    @property
    def n_pairs(self) -> int:
        """How many pairs the longest ranking has."""
        return max(map(len, self.rankings), default=0)

    def recall(self, truth: list[Pair], k: int, most: int) -> float:
        reported = [set(ranking[:most]) for ranking in self.rankings]
        shares = (float(np.mean([s in have for s in truth[:k]])) for have in reported)
        return max(shares, default=float("nan"))

    def predict(self, masks: np.ndarray) -> np.ndarray:
        assert self.fourier is not None
        return parities(masks, list(self.fourier)) @ np.array(list(self.fourier.values()))


def run_rival(
    rival: Callable[..., Reported], values: Values, *args: Any, time_limit: int = TIME_LIMIT
) -> Reported:
    """Run it with a time limit, and count what it asks. A failure is kept."""
    spent = 0

    def counted(masks: np.ndarray) -> np.ndarray:
        nonlocal spent
        spent += len(masks)
        return values(np.asarray(masks).astype(bool))

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done after {time_limit} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(time_limit)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reported = rival(counted, *args)
    except Exception as error:
        reported = Reported(failure=f"{type(error).__name__}: {str(error)[:120]}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    # A rival that ranks several times asks anew each time.
    reported.evaluations = spent // reported.settings + GRADIENT_COST * reported.gradients
    return reported


def of_rival(method: str, game: Any, budget: int, seed: int, time_limit: int) -> Reported:
    """What a rival reports of a game, within its limits of time and memory."""
    arguments = (game.mean, len(game), budget, seed)
    if method in ON_GRADIENTS:
        arguments += (game,)
    run = partial(run_rival, (ON_VALUES | ON_GRADIENTS)[method], *arguments, time_limit=time_limit)
    if method not in DEAF:
        return run()

    def child(sender: Connection) -> None:
        torch.set_num_threads(1)  # the parent's threads are not in a fork
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
        sender.send(run())

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child, args=(sender,))
    process.start()
    sender.close()
    try:
        if receiver.poll(time_limit + GRACE):
            return receiver.recv()
        return Reported(failure=f"TimeoutError: killed after {time_limit + GRACE} s")
    except EOFError:
        process.join()
        return Reported(failure=f"its process ended ({process.exitcode})")
    finally:
        process.kill()


def by_shapiq(name: str, **options: Any) -> Callable[..., Reported]:
    """An approximator of shapiq by its name, of order 2."""

    def run(values: Values, n: int, budget: int, seed: int) -> Reported:
        import shapiq

        make = getattr(shapiq, name, None)
        if make is None:
            raise ImportError(f"shapiq {version('shapiq')} has no {name}")
        approximator = make(n=n, max_order=2, random_state=seed, **options)
        if hasattr(approximator, "_process_moebius"):
            return _of_shapiq(approximator, values, budget)
        found = approximator.approximate(budget, values)
        return Reported(
            [strongest_pairs({tuple(sorted(s)): float(v) for s, v in found.interactions.items()})]
        )

    return run


# Each at its best documented setting: ProxySPEX chooses its boosted trees by cross-validation;
# degree 2 is what SPEX needs the fewest masks for; ProxySHAP is in shapiq from 1.6 on, which needs
# Python 3.12.
SHAPIQ = {
    "shapiq KernelSHAP-IQ": by_shapiq("KernelSHAPIQ", index="SII"),
    "shapiq SVARM-IQ": by_shapiq("SVARMIQ", index="SII"),
    "shapiq ProxySPEX": by_shapiq("ProxySPEX"),
    "shapiq SPEX": by_shapiq("SPEX", degree_parameter=2),
    "shapiq ProxySHAP": by_shapiq("ProxySHAP", index="SII"),
}


def _of_shapiq(approximator: Any, values: Values, budget: int) -> Reported:
    mobius: dict[Set, float] = {}
    process = approximator._process_moebius

    def keep(moebius_transform: dict[Set, float]) -> Any:
        mobius.update({tuple(int(u) for u in s): float(v) for s, v in moebius_transform.items()})
        return process(moebius_transform=moebius_transform)

    approximator._process_moebius = keep
    found = approximator.approximate(budget, values)
    own = {tuple(sorted(s)): float(v) for s, v in found.interactions.items()}
    kept = {tuple(sorted(s)): v for s, v in mobius.items()}
    # Its parities are those of kept units, as ours: (-1) to the number of kept units of the set.
    return Reported([strongest_pairs(own), strongest_pairs(convert(kept, "mobius", "intact", 2))],
                    convert(kept, "mobius", "fourier"))  # fmt: skip


def spectralexplain(values: Values, n: int, budget: int, seed: int, algorithm: str) -> Reported:
    """The papers' own package, ``algorithm`` "spex" or "proxyspex": SPEX for order 2, as larger
    ones take more masks than there are; ProxySPEX with its default trees."""
    import spectralexplain as package

    np.random.seed(seed)
    explainer = package.Explainer(
        value_function=lambda queries: values(np.array(queries)),
        features=n, sample_budget=budget, max_order=2 if algorithm == "spex" else 5,
        algorithm=algorithm,
    )  # fmt: skip
    terms = {
        tuple(np.flatnonzero(s).tolist()): float(np.real(v))
        for s, v in explainer.fourier_transform.items()
    }
    banzhaf, intact = (convert(terms, "fourier", kind, 2) for kind in ("banzhaf", "intact"))
    return Reported([strongest_pairs(banzhaf), strongest_pairs(intact)], terms)


def lasso(values: Values, n: int, budget: int, seed: int, half: bool) -> Reported:
    """LASSO on all single units and pairs, its strength by cross-validation: on parities of half
    masks, or on products of indicators of masks that ablate a tenth or three tenths. Up to
    ``MANY_PAIRS`` as scikit-learn has it, with more pairs on a coarser grid."""
    from sklearn.linear_model import LassoCV

    rng = np.random.default_rng(seed)
    pairs = np.array(list(combinations(range(n), 2)))
    coarse = {"alphas": 12, "cv": 3, "max_iter": 300, "tol": 1e-3, "eps": 1e-2}
    options = coarse if len(pairs) > MANY_PAIRS else {}
    rankings = []
    for lost in (None,) if half else (0.1, 0.3):
        masks = (
            complementary_masks(n, budget, rng) if lost is None else rng.random((budget, n)) > lost
        )
        design = _parities(masks, pairs) if lost is None else _indicators(~masks, pairs)
        model = LassoCV(random_state=seed, **options).fit(design, values(masks))
        sizes = dict(zip(map(tuple, pairs.tolist()), model.coef_[n:].tolist(), strict=True))
        rankings.append(strongest_pairs(sizes))
    return Reported(rankings, settings=len(rankings))


def _parities(masks: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    x = np.where(masks, -1.0, 1.0).astype(np.float32)
    return np.concatenate([x, x[:, pairs[:, 0]] * x[:, pairs[:, 1]]], axis=1)


def _indicators(lost: np.ndarray, pairs: np.ndarray) -> Any:
    from scipy.sparse import csc_matrix, hstack

    x = csc_matrix(lost.astype(np.float32))
    return hstack([x, x[:, pairs[:, 0]].multiply(x[:, pairs[:, 1]])]).tocsc()


def second_differences(values: Values, n: int, budget: int, seed: int) -> Reported:
    """Archipelago's ArchDetect: the mean of the squared second differences of pairs at the intact
    and at the ablated model, of as many pairs, drawn at random, as can be paid for. (It was made
    for all pairs.)"""
    n_pairs = (budget - 2 - 2 * n) // 2
    if n_pairs < 1:
        raise ValueError(f"{budget} evaluations pay for no pair beside 2 x {n} single units")
    first, second = np.triu_indices(n, 1)
    chosen = np.random.default_rng(seed).permutation(len(first))[:n_pairs]
    i, j = first[chosen], second[chosen]
    strengths = np.zeros(len(i))
    intact = np.zeros(len(i))
    for kept in (True, False):
        context = np.full((1, n), kept)
        single = np.repeat(context, n, axis=0)
        single[np.arange(n), np.arange(n)] = not kept
        both = np.repeat(context, len(i), axis=0)
        both[np.arange(len(i)), i] = both[np.arange(len(i)), j] = not kept
        alone = values(single)
        difference = values(both) - alone[i] - alone[j] + values(context)
        strengths += difference**2 / 2
        intact = abs(difference) if kept else intact
    pairs = list(zip(i.tolist(), j.tolist(), strict=True))
    return Reported(
        [strongest_pairs(dict(zip(pairs, x.tolist(), strict=True))) for x in (strengths, intact)]
    )


def hessian(values: Values, n: int, budget: int, seed: int, game: Any) -> Reported:
    """Hessian-vector products at the intact model: the second derivative of the value in two
    units' gates, a row of it by one more gradient a step away (three evaluations), of the units
    with the steepest slopes as far as the budget goes. The best of several steps counts."""
    n_rows = min(n, budget // GRADIENT_COST - 1)
    if n_rows < 1:
        raise ValueError(f"{budget} evaluations pay for no row")
    at = _slopes(game, np.ones((1, n)))[0]
    rows = np.argsort(-abs(at), kind="stable")[:n_rows]
    rankings = []
    for step in HESSIAN_STEPS:
        gates = np.ones((n_rows, n))
        gates[np.arange(n_rows), rows] -= step
        curvature = np.full((n, n), np.nan)
        curvature[rows] = (at - _slopes(game, gates)) / step
        both = np.stack([curvature, curvature.T])
        known = (~np.isnan(both)).sum(0)
        mean = np.where(known > 0, np.nansum(both, axis=0) / np.maximum(known, 1), 0.0)
        rankings.append(_of_matrix(mean))
    return Reported(rankings, settings=len(rankings), gradients=n_rows + 1)


def attribution_patching(values: Values, n: int, budget: int, seed: int, game: Any) -> Reported:
    """Products of attributions (the gates' slopes at the intact model): one gradient in all."""
    slopes = _slopes(game, np.ones((1, n)))[0]
    return Reported([_of_matrix(np.outer(slopes, slopes))], gradients=1)


def _slopes(game: Any, gates: np.ndarray) -> np.ndarray:
    return game.gradient(torch.from_numpy(gates).float()).double().cpu().numpy()


def _of_matrix(sizes: np.ndarray) -> list[Pair]:
    i, j = np.triu_indices(len(sizes), 1)
    order = np.argsort(-abs(sizes[i, j]), kind="stable")
    order = order[sizes[i, j][order] != 0]
    return list(zip(i[order].tolist(), j[order].tolist(), strict=True))


def strongest_pairs(terms: dict[Set, float]) -> list[Pair]:
    found = [s for s, v in terms.items() if len(s) == 2 and v != 0]
    return sorted(((s[0], s[1]) for s in found), key=lambda s: (-abs(terms[s]), s))


ON_VALUES = {
    **SHAPIQ,
    "spectralexplain ProxySPEX": partial(spectralexplain, algorithm="proxyspex"),
    "spectralexplain SPEX": partial(spectralexplain, algorithm="spex"),
    "LASSO on pairs, half masks": partial(lasso, half=True),
    "LASSO on pairs, near intact": partial(lasso, half=False),
    "second differences (Archipelago)": second_differences,
}
ON_GRADIENTS = {
    "Hessian-vector products": hessian,
    "attribution patching, products": attribution_patching,
}
# They hear no alarm, and ask for more memory than there is at 900 units, and so run in a process of
# their own. (The others would not survive that: numba in a fork.)
DEAF = {"shapiq KernelSHAP-IQ", "shapiq SVARM-IQ"}
