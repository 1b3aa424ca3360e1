"""What others offer for finding interactions, each at its best documented setting.

Every rival gets the same function of masks and the same number of evaluations, and returns the
pairs that it reports, strongest first. None of them validates anything. Where a tool gives Fourier
coefficients, its pairs are ranked twice, by its own index and by the exact interaction at the
intact model that its coefficients imply, and the better of the two counts.
"""

import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from spex_mech.search.fourier import Set, convert, parities
from spex_mech.search.proxyspex import half_masks

Values = Callable[[np.ndarray], np.ndarray]  # Bool[mask unit] -> Float[mask]
Pair = tuple[int, int]
TIME_LIMIT = 900  # seconds


@dataclass
class Reported:
    """Rankings of pairs, the better of which counts; Fourier terms, where there are any."""

    rankings: list[list[Pair]] = field(default_factory=list)
    fourier: dict[Set, float] | None = None
    failure: str = ""
    host_seconds: float = 0.0

    def recall(self, truth: list[Pair], k: int, most: int) -> float:
        return max(
            (float(np.mean([s in set(r[:most]) for s in truth[:k]])) for r in self.rankings),
            default=float("nan"),
        )

    def predict(self, masks: np.ndarray) -> np.ndarray:
        assert self.fourier is not None
        return parities(masks, list(self.fourier)) @ np.array(list(self.fourier.values()))


def run_rival(
    rival: Callable[..., Reported], values: Values, *args: Any, time_limit: int = TIME_LIMIT
) -> Reported:
    """Run it with a time limit; its host time is all but the function's own. A failure is kept."""
    in_game = [0.0]

    def timed(masks: np.ndarray) -> np.ndarray:
        started = time.perf_counter()
        answer = values(np.asarray(masks).astype(bool))
        in_game[0] += time.perf_counter() - started
        return answer

    def stop(*_: Any) -> None:
        raise TimeoutError(f"not done after {time_limit} s")

    started = time.perf_counter()
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(time_limit)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reported = rival(timed, *args)
    except Exception as error:
        reported = Reported(failure=f"{type(error).__name__}: {str(error)[:120]}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    reported.host_seconds = time.perf_counter() - started - in_game[0]
    return reported


def shapiq_proxyspex(values: Values, n: int, budget: int, seed: int) -> Reported:
    """shapiq's ProxySPEX: boosted trees on half masks, chosen by cross-validation."""
    import shapiq

    return _of_shapiq(shapiq.ProxySPEX(n=n, max_order=2, random_state=seed), values, budget)


def shapiq_spex(values: Values, n: int, budget: int, seed: int) -> Reported:
    """shapiq's SPEX: sparse Fourier transform with a soft decoder; degree 2 needs the fewest."""
    import shapiq

    approximator = shapiq.SPEX(n=n, max_order=2, random_state=seed, degree_parameter=2)
    return _of_shapiq(approximator, values, budget)


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
    return Reported([_ranked(own), _ranked(convert(kept, "mobius", "intact", 2))],
                    convert(kept, "mobius", "fourier"))  # fmt: skip


def spectralexplain(values: Values, n: int, budget: int, seed: int, algorithm: str) -> Reported:
    """The papers' own package, ``algorithm`` "spex" or "proxyspex"."""
    import spectralexplain as package

    np.random.seed(seed)
    explainer = package.Explainer(
        value_function=lambda queries: values(np.array(queries)),
        features=n, sample_budget=budget, max_order=2, algorithm=algorithm,
    )  # fmt: skip
    terms = {
        tuple(np.flatnonzero(s).tolist()): float(np.real(v))
        for s, v in explainer.fourier_transform.items()
    }
    banzhaf, intact = (convert(terms, "fourier", kind, 2) for kind in ("banzhaf", "intact"))
    return Reported([_ranked(banzhaf), _ranked(intact)], terms)


def lasso(values: Values, n: int, budget: int, seed: int, half: bool) -> Reported:
    """LASSO on all single units and pairs, its strength by cross-validation: on parities of half
    masks, or on products of indicators of masks that ablate a tenth."""
    from scipy.sparse import csc_matrix, hstack
    from sklearn.linear_model import LassoCV

    rng = np.random.default_rng(seed)
    pairs = np.array(list(combinations(range(n), 2)))
    if half:
        masks = half_masks(n, budget, rng)
        x = np.where(masks, -1.0, 1.0).astype(np.float32)
        design: Any = np.concatenate([x, x[:, pairs[:, 0]] * x[:, pairs[:, 1]]], axis=1)
    else:
        masks = rng.random((budget, n)) > 0.1
        lost = csc_matrix((~masks).astype(np.float32))
        design = hstack([lost, lost[:, pairs[:, 0]].multiply(lost[:, pairs[:, 1]])]).tocsc()
    y = values(masks)
    model = LassoCV(alphas=12, cv=3, max_iter=300, tol=1e-3, eps=1e-2, random_state=seed)
    model.fit(design, y)
    sizes = dict(zip(map(tuple, pairs.tolist()), model.coef_[n:].tolist(), strict=True))
    return Reported([_ranked(sizes)])


def _ranked(terms: dict[Set, float]) -> list[Pair]:
    found = [s for s, v in terms.items() if len(s) == 2 and v != 0]
    return sorted(((s[0], s[1]) for s in found), key=lambda s: (-abs(terms[s]), s))
