"""Which measured strategies are worth training again with a feature of fewer bits.

Quantised to eight bits a feature costs a quarter of the time on the link and next to no accuracy, so a strategy that
would be the answer to some scenario if it lost no more at eight bits than as it was trained is worth knowing there.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from coinfer_kernels import Scenarios, cheapest_feasible

from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.problem.strategy import FLOAT_BITS, Strategy


def few_bits_plan(problem: Problem, scenarios: Scenarios, *, confidence: float | None, rounds: int) -> list[Strategy]:
    """The strategies of ``problem``'s records with a quantised feature that some of ``scenarios`` would be answered by.

    A round takes what is the answer to one at least, the most often first, and leaves it out for the next: what comes
    second counts where the first disappoints. A pruned network without a codec is asked for at each cut that sends
    less than all before it, the network as it is likewise and first of all; those of one network follow each other, for
    one training serves them all.
    """
    space, measured, cut = problem.space, problem.measured, problem.space.cut_variable
    twin = _twins(problem)
    rows = np.flatnonzero(
        (twin[measured.levels[:, cut]] >= 0) & (space.cut_bits[measured.levels[:, cut]] == FLOAT_BITS)
    )
    levels = measured.levels[rows].copy()
    levels[:, cut] = twin[levels[:, cut]]
    costs = np.vstack([measured.costs, problem.delay.costs(levels)]) if len(rows) else measured.costs
    bound = problem.measured_bound(confidence)
    bound = np.concatenate([bound, bound[rows]])
    known = len(problem.known_levels)
    all_costs = np.vstack([problem.known_costs, costs])
    asked: list[tuple[int, ...]] = [(0,) * len(space.variables)]
    names = [_name(problem, row) for row in levels]
    for _ in range(rounds):
        reached = np.concatenate([np.full(known, problem.base_accuracy), bound])
        index, _ = cheapest_feasible(all_costs, reached, scenarios)
        index = index - known - len(measured.levels)
        wins = Counter(names[i] for i in index if i >= 0)
        asked += [name for name, _ in wins.most_common()]
        bound[len(measured.levels) :][[name in wins for name in names]] = -1.0
    plan: list[Strategy] = []
    for name in asked:
        plan += _strategies(problem, np.array(name), twin)
    return plan


def _twins(problem: Problem) -> np.ndarray:
    """(C,) for each level of the cut the one at the same point with the fewest bits, -1 where that sends floats."""
    space = problem.space
    points = np.asarray(space.variables[space.cut_variable].values)
    twin = np.array(
        [int(np.flatnonzero(points == point)[space.cut_bits[points == point].argmin()]) for point in points]
    )
    return np.where(space.cut_bits[twin] < FLOAT_BITS, twin, -1)


def _name(problem: Problem, levels: np.ndarray) -> tuple[int, ...]:
    """The levels, the same ones wherever a network without a codec is cut."""
    space = problem.space
    plain = (levels[space.codec_variable :] == space.tables.canonical[space.codec_variable :]).all()
    return tuple(int(0 if plain and v == space.cut_variable else level) for v, level in enumerate(levels))


def _strategies(problem: Problem, levels: np.ndarray, twin: np.ndarray) -> list[Strategy]:
    space, cut = problem.space, problem.space.cut_variable
    if (levels[space.codec_variable :] != space.tables.canonical[space.codec_variable :]).any():
        return [space.strategy(levels)]
    found, least = [], np.inf
    for level in np.unique(twin[twin >= 0]):
        levels[cut] = level
        sent = float(problem.delay.costs(levels)[0, 2])
        if sent < least:
            found.append(space.strategy(levels))
            least = sent
    return found
