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

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.predictor.distillation import Aggregates
from coinfer_ray.predictor.gaussian_process import GaussianProcess
from coinfer_ray.problem.strategy import FLOAT_BITS, Strategy
from coinfer_ray.refine.few_bits import MOST_WIDTHS, link_shares, width_losses

Name = tuple[int, ...]
Damages = Callable[[Sequence[Name]], NDArray[np.float64]]
"""What is measured of strategies before training: (n, D), the larger the worse."""

MOVED_SETS = (1, 2, 3, 5, 8)
LEAST_CHANCE = 0.05  # what wins with less is not worth measuring
LOSSES_OF_WIDTHS = (0.0, 0.001, 0.0025, 0.005, 0.01, 0.015)  # what few bits cost, rounded up; more is left out
_ENOUGH = 0.98  # of what a network is expected to gain, by the cuts and widths at which it is measured
_MOST_LOST = 0.1  # of the strategies by which the error of a loss is judged
_SHIFT = 0.005  # loss: below the luckiest, so that its logarithm is one


@dataclass(frozen=True)
class Move:
    """One strategy to train: its name, the requests that measure it (its cuts, where it has no codec), and what it is
    expected to take off the logarithm of the latency, in the mean over the scenarios."""

    name: Name
    strategies: tuple[Strategy, ...]
    expected: float


@dataclass(frozen=True)
class Outlook:
    """What n strategies promise in S scenarios, each (n, S), at the cut and the width at which gain times chance is the
    greatest: what it would take off the logarithm of the latency, how likely it is to keep the bound (0 for less than
    :data:`LEAST_CHANCE`), and the level of the cut."""

    gain: NDArray[np.float64]
    chance: NDArray[np.float64]
    cut: NDArray[np.int64]


class Neighbourhood:
    """The strategies within reach of a problem's answers to ``scenarios``, over links without noise."""

    def __init__(self, problem: Problem, scenarios: Scenarios, *, confidence: float | None) -> None:
        self.problem, self.space = problem, problem.space
        self.scenarios = scenarios
        cut = self.space.cut_variable
        self._whole = int(np.flatnonzero(np.asarray(self.space.variables[cut].values) == len(problem.graph.layers))[0])
        self._shares = link_shares(problem)
        self._groups = self._alike(width_losses(problem))
        self._as_it_is = self.name_of(problem.known_levels[0])
        graph, sets = problem.graph, [each.name for each in problem.graph.prunable_sets]
        crossing = {graph.layers[point - 1].out_set for point in graph.cut_points[1:-1]}
        self._crossing = [number for number, name in enumerate(sets) if name in crossing]
        self._within = [number for number, name in enumerate(sets) if name not in crossing]
        levels = np.vstack([problem.known_levels, problem.measured.levels])
        costs = np.vstack([problem.known_costs, problem.measured.costs])
        known = len(problem.known_levels)
        bound = np.concatenate([np.full(known, problem.base_accuracy), problem.measured_bound(confidence)])
        answer, self.latency_s = cheapest_feasible(costs, bound, scenarios)
        self.allowed = problem.base_accuracy - scenarios.accuracy_floor
        if confidence is not None:
            self.allowed = self._less_margins(problem.predictor.calibration.margin(1.0, confidence))
        names = [self.name_of(row) for row in levels]
        self.winners = sorted({names[row] for row in answer if row >= 0})
        self.known = set(names)
        lost = np.concatenate([np.zeros(known), problem.base_accuracy - problem.measured.accuracy])
        losses: dict[Name, list[float]] = {}
        for row in np.flatnonzero(levels[:, cut] < self.space.searched_cuts):  # others lose by their width as well
            losses.setdefault(names[row], []).append(lost[row])
        self.losses = {name: float(np.mean(values)) for name, values in losses.items()}

    def _less_margins(self, factor: np.ndarray) -> NDArray[np.float64]:
        """(S,) the most that a strategy may lose to keep each bound, if the standard error of its loss, ``factor``
        times, counts as lost: its square grows with the loss, along a line through the measured strategies."""
        start, slope = self._error_line()
        allowed = self.allowed
        # The x for which x + factor sqrt(start + slope x) is what is allowed.
        half = slope * factor**2 / 2
        root = np.sqrt(np.maximum(half**2 + factor**2 * (start + slope * allowed), 0.0))
        most: NDArray[np.float64] = allowed + half - root
        return most

    def _error_line(self) -> tuple[float, float]:
        """Start and slope, neither negative, of the squared standard error over the loss."""
        from scipy.optimize import nnls

        own = self.problem.measured
        lost = self.problem.base_accuracy - own.accuracy
        near = lost < _MOST_LOST  # the line is bent beyond
        if not near.any():
            return float(self.problem.predictor.calibration.usual_error**2), 0.0
        (start, slope), _ = nnls(np.column_stack([np.ones(near.sum()), lost[near].clip(0)]), own.error[near] ** 2)
        return float(start), float(slope)

    def name_of(self, levels: np.ndarray) -> Name:
        """A strategy's levels, one cut for all of a network without a codec and one width for all others: the fewest
        bits at which its accuracy is predicted."""
        levels, cut = levels.copy(), self.space.cut_variable
        if self._plain(levels):
            levels[cut] = self._whole
        else:
            points = np.asarray(self.space.variables[cut].values)
            same = np.flatnonzero(points[: self.space.searched_cuts] == points[levels[cut]])
            levels[cut] = same[self.space.cut_bits[same].argmin()]
        return tuple(int(level) for level in levels)

    def emptied_from(self, name: str) -> Strategy:
        """The network as it is but for the sets within blocks from the one of that name on.

        These keep as few channels as may be: as if the network ended there, but for what flows past.

        Raises:
            InputError: no set of that name lies within a block.
        """
        sets = [each.name for each in self.problem.graph.prunable_sets]
        if not self._within:
            raise InputError(f"emptied: no set of {self.problem.graph.model} lies within a block that is flowed past")
        check_name("set within a block", name, [sets[row] for row in self._within])
        levels = np.array(self._as_it_is)
        run = [row for row in self._within if row >= sets.index(name)]
        levels[run] = self.space.tables.n_levels[run] - 1
        return self.space.strategy(levels)

    def moves(self, count: int, seed: int) -> list[Name]:
        """At most ``count`` strategies that have not been measured, drawn around the winners."""
        rng = np.random.default_rng(seed)
        found: set[Name] = set()
        for _ in range(count):
            levels = np.array(self.winners[rng.integers(len(self.winners))])
            other = np.array(self.winners[rng.integers(len(self.winners))])
            kind = rng.integers(6 if self._within else 5)
            if kind == 4 and self._crossing:
                found.add(self._narrowed(levels, rng))
                continue
            if kind == 5:
                self._emptied(levels, rng)
            if kind == 0:
                self._mix(levels, other, rng)
            elif kind == 1 and not self._plain(levels):
                self._shift(levels, self.space.codec_variable + rng.choice(self._coded(levels), 1), rng)
            elif kind == 2 and self.space.sets > 1:
                self._shift_half(levels, rng)
            sets = rng.choice(self.space.sets, min(self.space.sets, rng.choice(MOVED_SETS)), replace=False)
            if kind not in (1, 5) or rng.random() < 0.5:
                self._shift(levels, sets, rng)
            found.add(self.name_of(canonicalize(self.space.tables, levels[None])[0]))
        return sorted(found - self.known)

    def outlook(self, names: Sequence[Name], damages: Damages | None = None) -> Outlook:
        """What strategies promise.

        A Gaussian process over the strategies that were measured says what each loses; with ``damages`` it sees these
        as well. What fewer bits cost the network as it is they are taken to cost any other at that cut.
        """
        forecasts = self._forecasts(names, damages)
        shape = len(names), len(self.latency_s)
        found = Outlook(np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int64))
        for row, (name, forecast) in enumerate(zip(names, forecasts, strict=True)):
            for lost, group in self._groups:
                gain, cut = self._gain(name, group)
                chance = self._chance(forecast, lost)
                chance = np.where(chance > LEAST_CHANCE, chance, 0.0)
                better = chance * gain > found.chance[row] * found.gain[row]
                for column, own in ((found.gain, gain), (found.chance, chance), (found.cut, cut)):
                    column[row, better] = own[better]
        return found

    def _forecasts(self, names: Sequence[Name], damages: Damages | None) -> NDArray[np.float64]:
        """(n, 2) what each strategy loses with floats, as :func:`_scaled` has it: its mean and its spread."""
        known = sorted(self.losses)
        process = GaussianProcess(0).fit(self._seen(known, damages), _scaled(np.array([self.losses[n] for n in known])))
        return np.column_stack(process.predict_with_spread(self._seen(names, damages)))

    def _chance(self, forecast: np.ndarray, lost: float) -> NDArray[np.float64]:
        """(S,) how likely what has that ``forecast`` (2,) is to keep each bound if its width costs it ``lost`` more."""
        mean, spread = forecast
        return _normal((_scaled(self.allowed - lost) - mean) / spread)

    def _gain(self, name: Name, cuts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """(S,) what a strategy would take off the logarithm of each latency with the best of the levels ``cuts`` of the
        cut, 0 where nothing, and that level. With a codec it has its own alone."""
        own, nothing = name[self.space.cut_variable], np.zeros(len(self.latency_s))
        if not self._plain(np.array(name)):
            cuts = cuts[cuts == own]
        if not len(cuts):
            return nothing, nothing.astype(np.int64)
        levels = np.repeat(np.array(name)[None], len(cuts), axis=0)
        levels[:, self.space.cut_variable] = cuts
        costs = self.problem.delay.costs(levels)
        costs[:, 2] *= self._shares[cuts]
        latency = costs @ self.scenarios.weights[:, :3].T
        if self.scenarios.weights.shape[1] > 3:
            latency += self.scenarios.weights[:, 3] * (cuts != self._whole)[:, None]
        place = latency.argmin(axis=0)
        gain = np.log(self.latency_s / latency[place, np.arange(len(place))])
        return np.maximum(gain, 0.0), cuts[place]

    def best(self, names: Sequence[Name], outlook: Outlook, count: int, after: Sequence[Move] = ()) -> list[Move]:
        """The ``count`` strategies of the largest expected improvement, one after the other: each counts for what those
        before it, and those of ``after``, are not expected to gain already."""
        gain, chance = outlook.gain, outlook.chance
        banked, chosen = np.zeros(gain.shape[1]), list[Move]()
        if after:
            others = self.outlook([move.name for move in after])
            banked = (others.gain * others.chance).max(axis=0)
        left = set(range(len(names)))
        while left and len(chosen) < count:
            rows = sorted(left)
            expected = (chance[rows] * np.maximum(gain[rows] - banked, 0)).mean(axis=1)
            row = rows[int(expected.argmax())]
            if expected.max() <= 0:
                break
            strategies = self._requests(names[row], chance[row] * gain[row], outlook.cut[row])
            chosen.append(Move(names[row], strategies, expected.max()))
            banked = np.maximum(banked, chance[row] * gain[row])
            left.remove(row)
        return chosen

    def _requests(self, name: Name, promised: np.ndarray, cuts: np.ndarray) -> tuple[Strategy, ...]:
        """Where a strategy is measured: whole, which tells of raw input and of floats as well, and at each other cut
        that may win, those first by which most of what is ``promised`` (S,) would come."""
        sums = np.bincount(cuts, weights=promised)
        wanted = np.argsort(-sums, kind="stable")[: np.count_nonzero(sums)]
        if self._plain(np.array(name)):
            few = wanted[self.space.cut_bits[wanted] < FLOAT_BITS]
            enough = 1 + np.searchsorted(np.cumsum(sums[few]), _ENOUGH * sums[few].sum())
            wanted = np.append(few[: min(enough, MOST_WIDTHS)], self._whole)
        rows = np.repeat(np.array(name)[None], len(wanted), axis=0)
        rows[:, self.space.cut_variable] = np.sort(wanted)
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

    def _emptied(self, levels: np.ndarray, rng: np.random.Generator) -> None:
        """A run of sets within blocks keeps as few channels as may be, or nearly so. What is left of these blocks is
        what flows past them, as if the network were less deep. Half of the time all other sets stay whole."""
        if rng.random() < 0.5:
            levels[:] = self._as_it_is
        first, last = np.sort(rng.choice(len(self._within) + 1, 2, replace=False))
        run = self._within[first:last]
        top = self.space.tables.n_levels[run] - 1
        levels[run] = top - rng.integers(0, 1 + top // 5)

    def _narrowed(self, levels: np.ndarray, rng: np.random.Generator) -> Name:
        """A network without a codec in which one set that crosses at some cut keeps any number of channels: what the
        link carries is then less, and the other sets, as in ``levels`` or half of the time whole, may be left alone."""
        narrow = np.array(self._as_it_is)
        if rng.random() < 0.5:
            narrow[: self.space.sets] = levels[: self.space.sets]
        own = self._crossing[rng.integers(len(self._crossing))]
        narrow[own] = rng.integers(1, self.space.tables.n_levels[own])
        return self.name_of(narrow)

    def _alike(self, lost: np.ndarray) -> list[tuple[float, NDArray[np.int64]]]:
        """The levels of the cut, but for floats at an inner one, by what their width costs, ``lost`` (C,), rounded up:
        the loss and the levels."""
        few = np.flatnonzero(self._few_or_end())
        step = np.searchsorted(LOSSES_OF_WIDTHS, lost[few])
        return [(loss, few[step == row]) for row, loss in enumerate(LOSSES_OF_WIDTHS) if (step == row).any()]

    def _few_or_end(self) -> NDArray[np.bool_]:
        """(C,) which levels of the cut no other one at the same point beats by its bits alone."""
        points, bits = np.asarray(self.space.variables[self.space.cut_variable].values), self.space.cut_bits
        alone = np.array([(points == point).sum() == 1 for point in points])
        few: NDArray[np.bool_] = alone | (bits < FLOAT_BITS)
        return few


def _scaled(loss: np.ndarray) -> NDArray[np.float64]:
    """The logarithm of a loss (0..1): the errors of predictions grow with it."""
    scaled: NDArray[np.float64] = np.log(np.maximum(loss, 1e-4 - _SHIFT) + _SHIFT)
    return scaled


def _normal(z: np.ndarray) -> NDArray[np.float64]:
    from scipy.special import ndtr

    return np.asarray(ndtr(z))
