"""Which strategies near the answers are worth training next: moves from what wins, by what they are likely to gain.

Answers rest on what was measured, so they get better only by measuring more, and most of what lies far from them can't
be an answer. A **move** changes a few variables of a strategy that is the answer to some scenario, mixes two of them,
or narrows what crosses the link at some cut and leaves the rest alone, which is 2-Step Pruning's second step as a
search has it. What a move would gain is known: the latency that it would take off each scenario, if it kept the bound.
Whether it does is not, but a chance can be had: of strategies measured so far, and of their damage before training
(:mod:`coinfer_ray.training.damage`), a Gaussian process says what one more would lose, and how far off that may be.
Gain times chance, summed over the scenarios, is the expected improvement of Bayesian optimization (J. Mockus, 1975),
for many objectives at once, within reach of what wins, as trust regions do it.

A pruned network without a codec is one thing here, wherever it is cut, and is written as whole on the device: one
worker trains it once for all its cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from coinfer_kernels import Scenarios, canonicalize, cheapest_feasible, features
from numpy.typing import NDArray

from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.predictor.distillation import Aggregates
from coinfer_ray.predictor.gaussian_process import GaussianProcess
from coinfer_ray.problem.strategy import FLOAT_BITS, Strategy

Name = tuple[int, ...]
Damages = Callable[[Sequence[Name]], NDArray[np.float64]]
"""What is measured of strategies before training: (n, D), the larger the worse."""

MOVED_SETS = (1, 2, 3, 5, 8)
LEAST_CHANCE = 0.05  # what wins with less is not worth measuring
_SHIFT = 0.005  # loss: below the luckiest, so that its logarithm is one


@dataclass(frozen=True)
class Move:
    """One strategy to train: its name, the requests that measure it (its cuts, where it has no codec), and what it is
    expected to take off the logarithm of the latency, in the mean over the scenarios."""

    name: Name
    strategies: tuple[Strategy, ...]
    expected: float


class Neighbourhood:
    """The strategies within reach of a problem's answers to ``scenarios``, over links without noise."""

    def __init__(self, problem: Problem, scenarios: Scenarios, *, confidence: float | None) -> None:
        self.problem, self.space = problem, problem.space
        self.scenarios = scenarios
        cut = self.space.cut_variable
        self._whole = int(np.flatnonzero(np.asarray(self.space.variables[cut].values) == len(problem.graph.layers))[0])
        self._least = np.flatnonzero(_fewest_bits(self.space.cut_bits, self.space.variables[cut].values))
        self._coded_bits = self._bits_left()
        self._as_it_is = self.name_of(problem.known_levels[0])
        graph, sets = problem.graph, [each.name for each in problem.graph.prunable_sets]
        crossing = {graph.layers[point - 1].out_set for point in graph.cut_points[1:-1]}
        self._crossing = [number for number, name in enumerate(sets) if name in crossing]
        levels = np.vstack([problem.known_levels, problem.measured.levels])
        costs = np.vstack([problem.known_costs, problem.measured.costs])
        known = len(problem.known_levels)
        bound = np.concatenate([np.full(known, problem.base_accuracy), problem.measured_bound(confidence)])
        answer, self.latency_s = cheapest_feasible(costs, bound, scenarios)
        margin = 0.0
        if confidence is not None:
            margin = problem.base_accuracy - float(
                problem.predictor.calibration.bound_of_measured(np.array([problem.base_accuracy]), confidence)[0]
            )
        self.allowed = problem.base_accuracy - scenarios.accuracy_floor - margin
        names = [self.name_of(row) for row in levels]
        self.winners = sorted({names[row] for row in answer if row >= 0})
        self.known = set(names)
        accuracy = np.concatenate([np.full(known, problem.base_accuracy), problem.measured.accuracy])
        losses: dict[Name, list[float]] = {}
        for name, value in zip(names, problem.base_accuracy - accuracy, strict=True):
            losses.setdefault(name, []).append(value)
        self.losses = {name: float(np.mean(values)) for name, values in losses.items()}

    def name_of(self, levels: np.ndarray) -> Name:
        """A strategy's levels, one cut for all of a network without a codec and one width for all others."""
        levels, cut = levels.copy(), self.space.cut_variable
        if self._plain(levels):
            levels[cut] = self._whole
        else:
            points = np.asarray(self.space.variables[cut].values)
            levels[cut] = self._least[points[self._least] == points[levels[cut]]][0]
        return tuple(int(level) for level in levels)

    def moves(self, count: int, seed: int) -> list[Name]:
        """At most ``count`` strategies that have not been measured, drawn around the winners."""
        rng = np.random.default_rng(seed)
        found: set[Name] = set()
        for _ in range(count):
            levels = np.array(self.winners[rng.integers(len(self.winners))])
            other = np.array(self.winners[rng.integers(len(self.winners))])
            kind = rng.integers(5)
            if kind == 4 and self._crossing:
                found.add(self._narrowed(levels, rng))
                continue
            if kind == 0:
                self._mix(levels, other, rng)
            elif kind == 1 and not self._plain(levels):
                self._shift(levels, self.space.codec_variable + rng.choice(self._coded(levels), 1), rng)
            elif kind == 2 and self.space.sets > 1:
                self._shift_half(levels, rng)
            sets = rng.choice(self.space.sets, min(self.space.sets, rng.choice(MOVED_SETS)), replace=False)
            if kind != 1 or rng.random() < 0.5:
                self._shift(levels, sets, rng)
            found.add(self.name_of(canonicalize(self.space.tables, levels[None])[0]))
        return sorted(found - self.known)

    def gains(self, names: Sequence[Name]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(n, S) what each strategy would take off the logarithm of the latency of each scenario, 0 where nothing, and
        (n, S) the level of the cut that does."""
        gain, best = np.empty((len(names), len(self.latency_s))), np.empty((len(names), len(self.latency_s)), dtype=int)
        for row, name in enumerate(names):
            cuts = self._least if self._plain(np.array(name)) else np.array([name[self.space.cut_variable]])
            levels = np.repeat(np.array(name)[None], len(cuts), axis=0)
            levels[:, self.space.cut_variable] = cuts
            costs = self.problem.delay.costs(levels)
            costs[:, 2] *= self._coded_bits[cuts]
            latency = costs @ self.scenarios.weights[:, :3].T
            if self.scenarios.weights.shape[1] > 3:
                latency += self.scenarios.weights[:, 3] * (cuts != self._whole)[:, None]
            place = latency.argmin(axis=0)
            gain[row] = np.log(self.latency_s / latency[place, np.arange(len(place))])
            best[row] = cuts[place]
        return np.maximum(gain, 0.0), best

    def chances(self, names: Sequence[Name], damages: Damages | None = None) -> NDArray[np.float64]:
        """(n, S) how likely each strategy is to keep each scenario's bound.

        A Gaussian process over the strategies that were measured says what each loses; with ``damages`` it sees these
        as well.
        """
        known = sorted(self.losses)
        process = GaussianProcess(0).fit(self._seen(known, damages), _scaled(np.array([self.losses[n] for n in known])))
        mean, spread = process.predict_with_spread(self._seen(names, damages))
        return _normal((_scaled(self.allowed)[None] - mean[:, None]) / spread[:, None])

    def best(self, names: Sequence[Name], chances: np.ndarray, count: int) -> list[Move]:
        """The ``count`` strategies of the largest expected improvement, one after the other: each counts for what those
        before it are not expected to gain already."""
        gain, cuts = self.gains(names)
        chances = np.where(chances > LEAST_CHANCE, chances, 0.0)
        banked, chosen = np.zeros(gain.shape[1]), list[Move]()
        left = set(range(len(names)))
        while left and len(chosen) < count:
            rows = sorted(left)
            expected = (chances[rows] * np.maximum(gain[rows] - banked, 0)).mean(axis=1)
            row = rows[int(expected.argmax())]
            if expected.max() <= 0:
                break
            chosen.append(
                Move(names[row], self._requests(names[row], gain[row], chances[row], cuts[row]), expected.max())
            )
            banked = np.maximum(banked, chances[row] * gain[row])
            left.remove(row)
        return chosen

    def _requests(self, name: Name, gain: np.ndarray, chance: np.ndarray, cuts: np.ndarray) -> tuple[Strategy, ...]:
        """Where a strategy is measured: whole, which tells of raw input as well, and at each other cut that may win."""
        wanted = np.unique(cuts[(gain > 0) & (chance > 0)])
        if self._plain(np.array(name)):
            few = wanted[self.space.cut_bits[wanted] < FLOAT_BITS]
            wanted = np.append(few, self._whole)
        rows = np.repeat(np.array(name)[None], len(wanted), axis=0)
        rows[:, self.space.cut_variable] = wanted
        return tuple(self.space.strategy(row) for row in rows)

    def _seen(self, names: Sequence[Name], damages: Damages | None) -> NDArray[np.float64]:
        x = features(self.space.tables, np.array(names))
        seen = [x[:, [self.space.cut_variable]], Aggregates(self.space)(x)]
        if damages is not None:
            seen.append(np.log(np.maximum(damages(names), 0) + 1e-3))
        return np.column_stack(seen)

    def _plain(self, levels: np.ndarray) -> bool:
        first = self.space.codec_variable
        return bool((levels[first:] == self.space.tables.canonical[first:]).all())

    def _coded(self, levels: np.ndarray) -> NDArray[np.int64]:
        """The codec's parameters that mean something at the strategy's cut."""
        first = self.space.codec_variable
        return np.flatnonzero(self.space.tables.active[levels[self.space.cut_variable], first:])

    def _mix(self, levels: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> None:
        """Some sets from ``other``, and its cut with its codec half of the time."""
        some = rng.random(self.space.sets) < 0.5
        levels[: self.space.sets][some] = other[: self.space.sets][some]
        if rng.random() < 0.5:
            levels[self.space.cut_variable :] = other[self.space.cut_variable :]

    def _shift(self, levels: np.ndarray, variables: np.ndarray, rng: np.random.Generator) -> None:
        """A few levels up or, less often, down: up is more pruning, and a narrower codec."""
        steps = rng.geometric(0.3, len(variables)) * np.where(rng.random(len(variables)) < 0.65, 1, -1)
        top = self.space.tables.n_levels[variables] - 1
        levels[variables] = np.clip(levels[variables] + steps, 0, top)

    def _shift_half(self, levels: np.ndarray, rng: np.random.Generator) -> None:
        """All sets before or behind some place, by one number of levels: the device's half, or the server's."""
        place, first = rng.integers(1, self.space.sets), bool(rng.random() < 0.5)
        step = int(rng.integers(-4, 7))
        sets = np.arange(place) if first else np.arange(place, self.space.sets)
        top = self.space.tables.n_levels[sets] - 1
        levels[sets] = np.clip(levels[sets] + step, 0, top)

    def _narrowed(self, levels: np.ndarray, rng: np.random.Generator) -> Name:
        """A network without a codec in which one set that crosses at some cut keeps any number of channels: what the
        link carries is then less, and the other sets, as in ``levels`` or half of the time whole, may be left alone."""
        narrow = np.array(self._as_it_is)
        if rng.random() < 0.5:
            narrow[: self.space.sets] = levels[: self.space.sets]
        own = self._crossing[rng.integers(len(self._crossing))]
        narrow[own] = rng.integers(1, self.space.tables.n_levels[own])
        return self.name_of(narrow)

    def _bits_left(self) -> NDArray[np.float64]:
        """(C,) for each level of the cut the share of its bits that Huffman coding left of what was measured there, in
        the mean; that of all cuts where nothing was; 1 for floats."""
        measured, cut = self.problem.measured, self.space.cut_variable
        at = measured.levels[:, cut]
        few = (self.space.cut_bits < FLOAT_BITS) & (self.space.cut_bits > 0)
        rows = few[at]
        nominal = self.problem.delay.costs(measured.levels[rows])[:, 2] if rows.any() else np.empty(0)
        left = measured.costs[rows, 2] / nominal
        share = np.where(few, left.mean() if len(left) else 1.0, 1.0)
        for level in np.unique(at[rows]):
            share[level] = left[at[rows] == level].mean()
        return share


def _fewest_bits(bits: np.ndarray, points: Sequence[float]) -> NDArray[np.bool_]:
    """(C,) of the levels of each cut the one with the fewest bits."""
    at = np.asarray(points)
    least: NDArray[np.bool_] = np.array([bits[row] == bits[at == at[row]].min() for row in range(len(at))])
    return least


def _scaled(loss: np.ndarray) -> NDArray[np.float64]:
    """The logarithm of a loss (0..1): the errors of predictions grow with it."""
    scaled: NDArray[np.float64] = np.log(np.maximum(loss, 1e-4 - _SHIFT) + _SHIFT)
    return scaled


def _normal(z: np.ndarray) -> NDArray[np.float64]:
    from scipy.special import ndtr

    return np.asarray(ndtr(z))
