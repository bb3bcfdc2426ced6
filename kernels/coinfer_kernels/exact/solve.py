"""The exact optimum with its proof: branch and bound over boxes of levels.

A predictor of trees is constant on boxes of levels, and costs fall as levels rise, so a box of strategies has a bound
on either side (``bounds``): no strategy of it is more accurate than one, none is cheaper than the other. A box
that is not accurate enough, or not cheaper than the best strategy found (less the gap allowed), is done with; any other
is narrowed to the levels for which that isn't so, and split. One search runs through all cuts of a scenario, those
with the cheapest corner first, and shares its best strategy.

The bounds hold to the rounding of float64 sums (1e-12, relative).
"""

import time
from typing import NamedTuple

import numpy as np

from coinfer_kernels import checks
from coinfer_kernels.costs import cost_row, objective_of
from coinfer_kernels.exact.bounds import (
    CutTables,
    best_leaves,
    corner_cost,
    enter_cut,
    meet,
    meet_box,
    most_single,
    new_cut_tables,
    price_cut,
)
from coinfer_kernels.exact.lagrangian import (
    Relaxation,
    lagrangian_bound,
    narrow_by_reduced_costs,
    new_relaxation,
    relax_accuracy,
    relax_bits,
)
from coinfer_kernels.exact.model import ROUNDING, ExactModel, exact_model
from coinfer_kernels.jit import check_threads, copy_row, inner, kernel, run_parts
from coinfer_kernels.notation import (
    BoolArray,
    CostTables,
    EnsembleTables,
    FloatArray,
    IntArray,
    Scenarios,
    Solutions,
    SpaceTables,
)
from coinfer_kernels.problem import Problem, check_problem, empty_solutions
from coinfer_kernels.space import feature_row
from coinfer_kernels.trees.leaf_sets import Words
from coinfer_kernels.trees.walk import predict_row

NODES_PER_SLICE = 1000  # between two looks at the clock


class _Search(NamedTuple):
    """The state of one scenario's search. D: boxes on the stack."""

    low: IntArray  # (D, V) first and last position of every variable
    high: IntArray  # (D, V)
    cut: IntArray  # (D,)
    bound: FloatArray  # (D,) no strategy of the box costs less
    size: IntArray  # (1,) boxes on the stack
    nodes: IntArray  # (1,) boxes looked at
    best: FloatArray  # (1,) objective of the best strategy
    accuracy: FloatArray  # (1,) its accuracy; without one, the best seen
    levels: IntArray  # (V,) that strategy
    proven: FloatArray  # (1,) nothing that was put aside for its cost costs less
    allowed: FloatArray  # (1,) the gap
    words: Words  # (W,) leaves that the box in hand leaves open
    trial: Words  # (W,)
    x: FloatArray  # (F,) room for features
    scratch: FloatArray  # (2, T)


@inner
def _cutoff(search: _Search) -> float:
    """What a box must be able to beat."""
    best: float = search.best[0]
    return best - search.allowed[0] * abs(best) if best < np.inf else best


@inner
def _put_aside(search: _Search, bound: float) -> None:
    search.proven[0] = min(search.proven[0], bound)


@inner
def _try_strategy(problem: Problem, search: _Search, s: int, cut: int, levels: IntArray) -> None:
    """Ask the predictor itself, and keep the strategy where it is accurate enough and cheaper."""
    feature_row(problem.space, levels, problem.scenarios.snr_db[s], search.x)
    accuracy = predict_row(problem.ensemble, search.x, search.scratch)
    if accuracy >= problem.scenarios.accuracy_floor[s]:
        device, server, uplink = cost_row(problem.cost, cut, levels)
        objective = objective_of(problem.scenarios.weights[s], device, server, uplink)
        if objective < search.best[0]:
            search.best[0], search.accuracy[0] = objective, accuracy
            copy_row(levels, search.levels)
    elif search.best[0] == np.inf:
        search.accuracy[0] = max(search.accuracy[0], accuracy)


@inner
def _accurate(model: ExactModel, at: CutTables, search: _Search, v: int, low: int, high: int, needed: float) -> bool:
    """Whether a strategy of the box in hand with v in that interval may be accurate enough."""
    meet(at, model.level.shape[1], v, low, high, search.words, search.trial)
    return best_leaves(model, at, search.trial) + most_single(at, v, low, high) >= needed


@inner
def _narrow_by_accuracy(
    model: ExactModel, at: CutTables, search: _Search, v: int, low: IntArray, high: IntArray, needed: float
) -> bool:
    """Drop positions at both ends of v that are not accurate enough; whether there were any.

    ``needed`` is what the trees and v's own positions have to add. The whole interval is accurate enough.
    """
    before = high[v] - low[v]
    if not _accurate(model, at, search, v, high[v], high[v], needed):
        inside, outside = low[v], high[v]
        while outside - inside > 1:
            middle = (inside + outside) // 2
            if _accurate(model, at, search, v, middle, high[v], needed):
                inside = middle
            else:
                outside = middle
        high[v] = inside
    if high[v] > low[v] and not _accurate(model, at, search, v, low[v], low[v], needed):
        inside, outside = high[v], low[v]
        while inside - outside > 1:
            middle = (inside + outside) // 2
            if _accurate(model, at, search, v, low[v], middle, needed):
                inside = middle
            else:
                outside = middle
        low[v] = inside
    if high[v] - low[v] == before:
        return False
    meet(at, model.level.shape[1], v, low[v], high[v], search.words, search.words)
    return True


@inner
def _cost_up_to(
    problem: Problem, model: ExactModel, at: CutTables, v: int, low: IntArray, high: IntArray, last: int
) -> float:
    """Lower bound of the objective where v goes up to position ``last`` only."""
    before = high[v]
    high[v] = last
    cost = corner_cost(problem, model, at, low, high)
    high[v] = before
    return cost


@inner
def _narrow_by_cost(
    problem: Problem, model: ExactModel, at: CutTables, search: _Search, v: int, low: IntArray, high: IntArray
) -> bool:
    """Drop the first positions of v, with which no strategy is cheap enough; whether there were any."""
    cutoff = _cutoff(search)
    cost = _cost_up_to(problem, model, at, v, low, high, low[v])
    if cost < cutoff:
        return False
    dear, cheap, aside = low[v], high[v], cost
    while cheap - dear > 1:
        middle = (dear + cheap) // 2
        cost = _cost_up_to(problem, model, at, v, low, high, middle)
        if cost < cutoff:
            cheap = middle
        else:
            dear, aside = middle, cost
    _put_aside(search, aside)
    low[v] = cheap
    meet(at, model.level.shape[1], v, low[v], high[v], search.words, search.words)
    return True


@inner
def _sum_of_singles(at: CutTables, low: IntArray, high: IntArray) -> float:
    total: float = at.constant[0]
    for i in range(at.active[0]):
        v = at.variables[i]
        total += most_single(at, v, low[v], high[v])
    return total


@inner
def _narrow(
    problem: Problem, model: ExactModel, at: CutTables, search: _Search, floor: float, low: IntArray, high: IntArray
) -> float:
    """Narrow a box as long as that helps; the objective's lower bound, infinite where nothing is left."""
    meet_box(at, model.level.shape[1], low, high, search.words)
    narrowed = True
    while narrowed:
        narrowed = False
        if _sum_of_singles(at, low, high) + best_leaves(model, at, search.words) < floor:
            return np.inf
        bound = corner_cost(problem, model, at, low, high)
        if bound >= _cutoff(search):
            _put_aside(search, bound)
            return np.inf
        for i in range(at.active[0]):
            v = at.variables[i]
            if low[v] < high[v]:
                needed = floor - _sum_of_singles(at, low, high) + most_single(at, v, low[v], high[v])
                narrowed = _narrow_by_accuracy(model, at, search, v, low, high, needed) or narrowed
            if low[v] < high[v]:
                narrowed = _narrow_by_cost(problem, model, at, search, v, low, high) or narrowed
    return bound


@inner
def _choose_split(
    problem: Problem,
    model: ExactModel,
    at: CutTables,
    search: _Search,
    floor: float,
    corner: float,
    low: IntArray,
    high: IntArray,
) -> int:
    """The variable whose cheap half loses most accuracy; of two alike, the one whose dear half costs more.

    A box's most accurate strategy is its dearest, so its bound is tight only once its cheap strategies are known to be
    inaccurate: accuracy is what to split by. Weighing both sides alike looks at several times as many boxes.
    """
    most = model.level.shape[1]
    singles = _sum_of_singles(at, low, high)
    accuracy = singles + best_leaves(model, at, search.words)
    chosen, best = -1, -np.inf
    room = max(_cutoff(search) - corner if search.best[0] < np.inf else abs(corner), 1e-300)
    for i in range(at.active[0]):
        v = at.variables[i]
        if low[v] == high[v]:
            continue
        middle = (low[v] + high[v]) // 2
        meet(at, most, v, middle + 1, high[v], search.words, search.trial)
        cheap = singles - most_single(at, v, low[v], high[v]) + most_single(at, v, middle + 1, high[v])
        cheap += best_leaves(model, at, search.trial)
        dear = _cost_up_to(problem, model, at, v, low, high, middle)
        loss = (accuracy - cheap) / max(accuracy - floor, 1e-300)
        rise = min(1.0, (dear - corner) / room)
        score = (loss + 1e-2) * (rise + 1.0)
        if score > best:
            chosen, best = v, score
    return chosen


@inner
def _split(search: _Search, v: int, cut: int, bound: float) -> None:
    """Put both halves of the box on top of the stack in its place, the cheap one uppermost."""
    top = search.size[0]
    middle = (search.low[top, v] + search.high[top, v]) // 2
    copy_row(search.low[top], search.low[top + 1])
    copy_row(search.high[top], search.high[top + 1])
    search.high[top, v], search.low[top + 1, v] = middle, middle + 1
    for i in range(2):
        search.cut[top + i], search.bound[top + i] = cut, bound
    search.size[0] = top + 2


@inner
def _narrow_by_relaxation(
    problem: Problem,
    model: ExactModel,
    at: CutTables,
    relaxed: Relaxation,
    search: _Search,
    floor: float,
    low: IntArray,
    high: IntArray,
) -> float:
    """The relaxed bound of a narrowed box, which it narrows further; infinite where nothing is left."""
    relax_bits(problem, model, at, low, high, relaxed)
    relax_accuracy(model, at, low, high, search.words, relaxed)
    bound = lagrangian_bound(model, at, low, high, floor, _cutoff(search), relaxed)
    if bound >= _cutoff(search):
        _put_aside(search, bound)
        return np.inf
    dropped = narrow_by_reduced_costs(model, at, low, high, floor, _cutoff(search), relaxed)
    if dropped < np.inf:
        _put_aside(search, dropped)
        return max(bound, _narrow(problem, model, at, search, floor, low, high))
    return bound


@kernel
def _advance(
    problem: Problem, model: ExactModel, at: CutTables, relaxed: Relaxation, search: _Search, s: int, most_nodes: int
) -> None:
    """Search scenario s until so many boxes have been looked at, or none is left."""
    floor = problem.scenarios.accuracy_floor[s] - model.tolerance
    while search.size[0] > 0 and search.nodes[0] < most_nodes:
        search.size[0] -= 1
        top = search.size[0]
        if search.bound[top] >= _cutoff(search):
            _put_aside(search, search.bound[top])
            continue
        search.nodes[0] += 1
        cut = search.cut[top]
        if at.cut[0] != cut:
            enter_cut(problem, model, s, cut, at)
            relaxed.multiplier[0] = 0.0
        low, high = search.low[top], search.high[top]
        bound = _narrow(problem, model, at, search, floor, low, high)
        if bound == np.inf:
            continue
        if not model.median:
            bound = max(bound, _narrow_by_relaxation(problem, model, at, relaxed, search, floor, low, high))
            if bound == np.inf:
                continue
        corner = corner_cost(problem, model, at, low, high)
        bound = max(bound, corner)
        _try_strategy(problem, search, s, cut, at.corner)
        if bound >= _cutoff(search):
            _put_aside(search, bound)
            continue
        v = _choose_split(problem, model, at, search, floor, corner, low, high)
        if v >= 0:
            _split(search, v, cut, bound)


@kernel
def _begin(problem: Problem, model: ExactModel, s: int, search: _Search) -> tuple[CutTables, Relaxation]:
    """Put one box for each cut on the stack, that with the cheapest corner uppermost."""
    at = new_cut_tables(model)
    for cut in range(search.size[0]):
        price_cut(problem, model, s, cut, at)
        bound = corner_cost(problem, model, at, at.low, at.high)
        place = cut
        while place > 0 and search.bound[place - 1] < bound:
            search.bound[place], search.cut[place] = search.bound[place - 1], search.cut[place - 1]
            place -= 1
        search.bound[place], search.cut[place] = bound, cut
    for place in range(search.size[0]):
        price_cut(problem, model, s, search.cut[place], at)
        copy_row(at.low, search.low[place])
        copy_row(at.high, search.high[place])
    at.cut[0] = -1
    return at, new_relaxation(model)


def _new_search(problem: Problem, model: ExactModel, gap: float) -> _Search:
    variables, cuts = len(model.positions), len(model.cut_position)
    boxes = cuts + int(model.positions.sum()) + 2  # every split narrows a box and leaves one more on the stack
    words = 2 * len(model.leaf_value) // 64 + 2 * len(model.tree_start) + 2
    return _Search(
        low=np.zeros((boxes, variables), dtype=np.int64),
        high=np.zeros((boxes, variables), dtype=np.int64),
        cut=np.zeros(boxes, dtype=np.int64),
        bound=np.zeros(boxes),
        size=np.full(1, cuts),
        nodes=np.zeros(1, dtype=np.int64),
        best=np.full(1, np.inf),
        accuracy=np.full(1, -np.inf),
        levels=np.zeros(variables, dtype=np.int64),
        proven=np.full(1, np.inf),
        allowed=np.full(1, max(gap, ROUNDING)),
        words=np.zeros(words, dtype=np.uint64),
        trial=np.zeros(words, dtype=np.uint64),
        x=np.zeros(len(problem.ensemble.coefficients)),
        scratch=np.zeros((2, len(problem.ensemble.roots))),
    )


def _solve_one(
    problem: Problem,
    model: ExactModel,
    s: int,
    incumbents: Solutions | None,
    gap: float,
    max_nodes: int,
    max_seconds: float,
    out: Solutions,
) -> None:
    """Solve scenario s and write its row."""
    search = _new_search(problem, model, gap)
    if incumbents is not None and incumbents.feasible[s]:
        search.best[0], search.accuracy[0] = incumbents.objective[s], incumbents.accuracy[s]
        search.levels[:] = incumbents.levels[s]
    at, relaxed = _begin(problem, model, s, search)
    _advance(problem, model, at, relaxed, search, s, 0)  # no box yet: what is compiled here is no part of the search
    deadline = time.perf_counter() + max_seconds
    while search.size[0] and search.nodes[0] < max_nodes and time.perf_counter() < deadline:
        _advance(problem, model, at, relaxed, search, s, min(max_nodes, int(search.nodes[0]) + NODES_PER_SLICE))
    best = float(search.best[0])
    waiting = float(search.bound[: search.size[0]].min(initial=np.inf))
    out.objective[s], out.accuracy[s], out.evaluations[s] = best, search.accuracy[0], search.nodes[0]
    out.lower_bound[s] = min(best, float(search.proven[0]), waiting)
    out.feasible[s] = np.isfinite(best)
    out.levels[s] = search.levels


def solve_exact(
    space: SpaceTables,
    cost: CostTables,
    ensemble: EnsembleTables,
    scenarios: Scenarios,
    *,
    incumbents: Solutions | None = None,
    gap: float = 1e-3,
    max_nodes: int = 1_000_000,
    max_seconds: float | None = None,
    threads: int | None = None,
) -> Solutions:
    """The cheapest strategy that is accurate enough, for each scenario, with a proven lower bound.

    ``space``, ``cost`` and ``ensemble`` are the problem, ``scenarios`` the batch (:mod:`coinfer_kernels.notation`).

    ``incumbents`` are answers of another solver to the same scenarios: the better they are, the less is left to do.
    Their accuracies are taken as they stand, so a strategy whose accuracy is known otherwise than from the predictor
    may be among them; the lower bound then is one for the predictor's strategies and that one together. ``gap`` is the
    relative gap at which a scenario counts as solved. ``max_nodes`` boxes or ``max_seconds`` end the search for one
    scenario with the gap that is left. But for ``max_seconds`` the answer depends on nothing but the arguments,
    ``threads`` excluded.

    Raises:
        ValueError: tables that don't fit each other, costs that don't follow the levels, or limits out of range.
    """
    problem = check_problem(space, cost, ensemble, scenarios)
    if not 0 <= gap < np.inf:
        raise ValueError(f"gap: {gap} must be a number from 0 on; 1e-3 proves to a thousandth")
    if max_nodes < 1:
        raise ValueError(f"max_nodes: {max_nodes} is too few; at least 1 is needed")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds: {max_seconds} must be above 0")
    count, variables = len(problem.scenarios.accuracy_floor), len(problem.space.n_levels)
    known = None if incumbents is None else _checked_incumbents(problem, incumbents)
    model = exact_model(problem)
    out = empty_solutions(count, variables)._replace(lower_bound=np.full(count, -np.inf))

    def solve(start: int, stop: int) -> None:
        for s in range(start, stop):
            _solve_one(problem, model, s, known, gap, max_nodes, np.inf if max_seconds is None else max_seconds, out)

    run_parts(solve, count, 1, check_threads(threads))
    return out


@kernel
def _price_rows(problem: Problem, levels: IntArray, feasible: BoolArray, objective: FloatArray) -> None:
    for s in range(levels.shape[0]):
        objective[s] = np.inf
        if feasible[s]:
            device, server, uplink = cost_row(problem.cost, levels[s, problem.space.cut_variable], levels[s])
            objective[s] = objective_of(problem.scenarios.weights[s], device, server, uplink)


def _checked_incumbents(problem: Problem, incumbents: Solutions) -> Solutions:
    """Incumbents of the right shapes, their objectives computed again."""
    floor = problem.scenarios.accuracy_floor
    count = len(floor)
    feasible = checks.shaped("incumbents.feasible", incumbents.feasible, np.bool_, (count,))
    given = checks.shaped("incumbents.levels", incumbents.levels, np.int64, (count, len(problem.space.n_levels)))
    levels = np.where(feasible[:, None], given, problem.space.canonical)
    checks.level_rows(problem.space, levels)
    accuracy = checks.shaped("incumbents.accuracy", incumbents.accuracy, np.float64, (count,))
    if (feasible & ~(accuracy >= floor)).any():
        s = int(np.flatnonzero(feasible & ~(accuracy >= floor))[0])
        raise ValueError(f"incumbents: row {s} has accuracy {accuracy[s]}; its floor is {floor[s]}")
    objective = np.empty(count)
    _price_rows(problem, levels, feasible, objective)
    return incumbents._replace(levels=levels, objective=objective, accuracy=accuracy, feasible=feasible)
