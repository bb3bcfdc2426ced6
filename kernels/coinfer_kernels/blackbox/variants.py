"""The published forms of the optimizer, asked and told: Algorithm 1 of the paper and MPSS.

Both work in the unit cube and share the Gaussian proposals; what differs is how the scale shrinks and which
solution a proposal replaces. ``quantum`` holds Algorithm 1 compiled for the mission's own problem.
"""

import json
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from coinfer_kernels.notation import FloatArray


class Engine(Protocol):
    """What the optimizer asks for proposals (n, D) in the unit cube and tells their answers."""

    def ask(self) -> FloatArray: ...

    def tell(self, objective: FloatArray, violation: FloatArray) -> None: ...

    def arrays(self) -> dict[str, NDArray[Any]]: ...

    def load(self, arrays: dict[str, NDArray[Any]]) -> None: ...


class _Saved:
    """Saves and loads every attribute: arrays, numbers and the random generator."""

    rng: np.random.Generator

    def arrays(self) -> dict[str, NDArray[Any]]:
        saved = {name: np.array(value) for name, value in vars(self).items() if name != "rng"}
        return saved | {"rng": np.array(json.dumps(self.rng.bit_generator.state))}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        for name, value in vars(self).items():
            if name == "rng":
                self.rng.bit_generator.state = json.loads(str(arrays["rng"]))
            else:
                loaded = np.array(arrays[name])
                setattr(self, name, loaded if isinstance(value, np.ndarray) else loaded.item())


class PaperEngine(_Saved):
    """The paper's Algorithm 1, one call of ``tell`` at a time; its steps are those of ``quantum``.

    Proposals that violate a constraint are drawn again (at most ``max_tries`` times in a pass), so a call may ask
    for fewer than k solutions.
    """

    INITIALISE, STABILISE, TRANSITION = range(3)

    def __init__(self, dimensions: int, population: int, seed: int, scales: int = 20, shrink: float = 1.3) -> None:
        self.rng = np.random.default_rng(seed)
        self.x = np.zeros((population, dimensions))
        self.objective = np.full(population, np.inf)
        self.trial = np.zeros((population, dimensions))
        self.pending = np.ones(population, dtype=np.bool_)
        self.sigma = np.zeros(dimensions)
        self.phase = self.INITIALISE
        self.scale = 1.0
        self.last_scale = shrink ** -(scales - 1) * (1 - 1e-9)
        self.shrink = shrink
        self.tries = 0
        self.max_tries = 1000

    def ask(self) -> FloatArray:
        if self.phase == self.TRANSITION:
            mean: FloatArray = self.x.mean(axis=0, keepdims=True)
            return mean
        if self.phase == self.INITIALISE:
            self.trial[self.pending] = self.rng.random((int(self.pending.sum()), self.x.shape[1]))
        else:
            self.trial[self.pending] = gaussian_inside(self.rng, self.x[self.pending], self.scale)
        asked: FloatArray = self.trial[self.pending]
        return asked

    def tell(self, objective: FloatArray, violation: FloatArray) -> None:
        value = np.where(violation > 0, np.inf, objective)
        if self.phase == self.TRANSITION:
            worst = int(self.objective.argmax())
            self.x[worst], self.objective[worst] = self.x.mean(axis=0), value[0]
            self._note_spread()
            if not self.sigma.max() > self.scale:
                # Step 4; after the last scale the algorithm has ended, and goes on at that scale if asked.
                self.scale = max(self.scale / self.shrink, self.last_scale)
            self._new_pass(self.STABILISE)
            return
        rows = np.flatnonzero(self.pending)
        taken = rows[(value < self.objective[rows]) | (self.phase == self.INITIALISE)]
        answers = np.full(len(self.x), np.inf)
        answers[rows] = value
        self.x[taken], self.objective[taken] = self.trial[taken], answers[taken]
        self.pending[rows[np.isfinite(value)]] = False
        self.tries += 1
        if self.pending.any() and self.tries < self.max_tries:
            return
        change = self._note_spread()
        started = self.phase == self.INITIALISE
        self._new_pass(self.STABILISE if started or change > self.scale else self.TRANSITION)

    def _new_pass(self, phase: int) -> None:
        self.phase = phase
        self.pending[:] = True
        self.tries = 0

    def _note_spread(self) -> float:
        before, self.sigma = self.sigma, self.x.std(axis=0)
        return float(np.abs(self.sigma - before).max())


class MpssEngine(_Saved):
    """Multi-population MQHOA (MPSS, Applied Soft Computing, 2021).

    Every solution is the centre of a subpopulation; a pass draws 300 samples, shared by the cube of the centres'
    ranks. A centre moves to its best sample if that is better. After a pass with an improvement the worst centre
    becomes the mean of all; after one without, the scale is divided by 1.2.
    """

    SAMPLES, SHRINK = 300, 1.2

    def __init__(self, dimensions: int, population: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.x = self.rng.random((population, dimensions))
        self.objective = np.full(population, np.inf)
        self.violation = np.full(population, np.inf)
        self.trial = self.x.copy()
        self.owner = np.arange(population)
        self.scale = 0.5
        self.mean_row = -1  # the centre that the mean has replaced and that is to be evaluated

    def ask(self) -> FloatArray:
        if not np.isfinite(self.violation).any() or self.mean_row >= 0:
            return self.trial
        population = len(self.x)
        rank = np.empty(population)
        rank[np.lexsort((self.objective, self.violation))] = np.arange(population, 0, -1)
        share = np.maximum(1, np.rint(self.SAMPLES * rank**3 / (rank**3).sum())).astype(np.int64)
        self.owner = np.repeat(np.arange(population), share)
        trial = self.rng.normal(self.x[self.owner], self.scale)
        outside = (trial < 0) | (trial > 1)
        trial[outside] = self.rng.random(int(outside.sum()))
        self.trial = trial
        return trial

    def tell(self, objective: FloatArray, violation: FloatArray) -> None:
        first = not np.isfinite(self.violation).any()
        improved = False
        for i in np.unique(self.owner):
            rows = np.flatnonzero(self.owner == i)
            best = rows[np.lexsort((objective[rows], violation[rows]))[0]]
            if (violation[best], objective[best]) < (self.violation[i], self.objective[i]) or self.mean_row == i:
                self.x[i], self.objective[i], self.violation[i] = self.trial[best], objective[best], violation[best]
                improved = True
        if first or self.mean_row >= 0:
            self.mean_row = -1
        elif improved:
            self.mean_row = int(np.lexsort((self.objective, self.violation))[-1])
            self.trial, self.owner = self.x.mean(axis=0, keepdims=True), np.array([self.mean_row])
        else:
            self.scale /= self.SHRINK


def gaussian_inside(rng: np.random.Generator, mean: FloatArray, sigma: float) -> FloatArray:
    """N(mean, sigma^2) conditioned on the unit cube."""
    drawn: FloatArray = rng.normal(mean, sigma)
    outside = (drawn < 0) | (drawn > 1)
    while outside.any():
        drawn[outside] = rng.normal(mean[outside], sigma)
        outside = (drawn < 0) | (drawn > 1)
    return drawn
