"""Minimise a function over a box, with the conventions of SciPy's global optimizers.

NumPy callables and numba-jitted ones; for the latter the whole loop is compiled.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike

from coinfer_kernels.blackbox.answers import WORST, Answers, not_a_number, read_constraints, wrong_shape
from coinfer_kernels.blackbox.optimizer import QuantumOptimizer, whole
from coinfer_kernels.blackbox.portfolio import CMA, COUNT, TURN, Portfolio, ask_portfolio, tell_portfolio
from coinfer_kernels.blackbox.shade import TOLD
from coinfer_kernels.notation import FloatArray

# What the compiled loop returns in place of the number of generations.
_FUN_NAN, _CONSTRAINTS_NAN, _FUN_SHAPE, _CONSTRAINTS_SHAPE = -1, -2, -3, -4


@dataclass(frozen=True)
class OptimizeResult:
    """The best solution of a run, with the fields of ``scipy.optimize.OptimizeResult``.

    ``x`` (D,): the solution; ``fun``: its objective; ``nfev``: solutions evaluated; ``nit``: generations; ``success``:
    whether ``x`` is feasible; ``message``: why the run ended; ``violation``: of the constraints by ``x``, 0 where
    feasible.
    """

    x: FloatArray
    fun: float
    nfev: int
    nit: int
    success: bool
    message: str
    violation: float


def minimize(
    fun: Callable[..., Any],
    bounds: ArrayLike,
    integrality: ArrayLike | None = None,
    constraints: Any = None,
    vectorized: bool = True,
    max_evaluations: int = 100_000,
    target: float | None = None,
    seed: Any = 0,
    callback: Callable[..., Any] | None = None,
    *,
    population: int | None = None,
    args: tuple[Any, ...] = (),
) -> OptimizeResult:
    """Minimise ``fun`` over a box, with the conventions of ``scipy.optimize.differential_evolution``.

    ``bounds`` (D, 2): lower and upper; ``integrality`` (D,) or one truth value: which variables are integers.
    ``population`` and ``seed`` are those of :class:`QuantumOptimizer`. ``args`` are further arguments of ``fun``.

    ``fun`` takes solutions (n, D) and returns objectives (n,); with ``vectorized=False`` one solution (D,) and one
    number. ``constraints`` is a function that likewise returns violations, (n,) or (n, m), or a number or (m,):
    positive where violated; or SciPy's ``NonlinearConstraint``, ``LinearConstraint`` or ``Bounds``; or a sequence of
    these. Where ``fun`` (and ``constraints``, if any) are numba-jitted functions and there are neither ``callback``
    nor ``args``, the whole loop runs compiled, and gives the same answer.

    The search ends at ``max_evaluations``, at a feasible objective of ``target`` or less, or when ``callback`` returns
    True or raises StopIteration. ``callback`` takes the result so far; or, as SciPy has it, the keyword
    ``intermediate_result`` alone, or the best solution and ``convergence``, which exceeds 1 where the solutions that
    the population holds differ by less than a hundredth of their mean objective.

    Raises:
        ValueError: bounds, budget or answers that cannot be used; a NaN objective among them.
    """
    budget = whole("max_evaluations", max_evaluations)
    if budget < 1:
        raise ValueError(f"max_evaluations: {budget} is too few; at least 1 is needed")
    goal = -np.inf if target is None else float(target)
    if np.isnan(goal):
        raise ValueError("target: is NaN; a number, or None for none, is needed")
    optimizer = QuantumOptimizer(bounds, integrality, population=population, seed=seed)
    objectives, limits = Answers("fun", fun, vectorized, tuple(args)), read_constraints(constraints, vectorized)
    asks_to_stop = None if callback is None else _stopper(callback, optimizer)
    jitted = [limit.answers.function for limit in limits] if callable(constraints) else []
    compiled = asks_to_stop is None and not args and len(jitted) == len(limits)
    compiled = compiled and all(hasattr(one, "py_func") for one in (fun, *jitted))
    rounds = 0
    while True:
        asked = optimizer.ask()
        x = asked[: budget - optimizer.evaluations]
        # Where the budget ends inside a generation, the rest counts as infinitely bad.
        objective, violation = np.full(len(asked), np.inf), np.full(len(asked), WORST)
        objective[: len(x)] = objectives(x)
        with np.errstate(over="ignore"):
            violation[: len(x)] = np.minimum(sum(limit.violation(x) for limit in limits), WORST)
        optimizer.tell(asked, objective, violation)
        rounds += 1
        reached = optimizer.best_violation == 0 and optimizer.best_objective <= goal
        spent = min(optimizer.evaluations, budget)
        best = optimizer.best_x, optimizer.best_objective, optimizer.best_violation
        result = _result(*best, spent, rounds, reached, goal)
        if reached or spent == budget:
            return result
        if asks_to_stop is not None and asks_to_stop(result):
            return replace(result, message="the callback asked to stop")
        if compiled and None not in (kinds := (objectives.dimensions, *(one.answers.dimensions for one in limits))):
            # Types hold for a whole run, so that the loop need look for NaN and other lengths only.
            return _minimize_compiled((fun, *jitted), kinds, vectorized, optimizer._portfolio, budget, goal)


def _stopper(callback: Callable[..., Any], optimizer: QuantumOptimizer) -> Callable[[OptimizeResult], bool]:
    """Whether ``callback``, called as its parameters ask for, wants the search to end."""
    try:
        parameters = dict(inspect.signature(callback).parameters)
    except ValueError:  # some that are written in C
        parameters = {}
    kinds = [one.kind for one in parameters.values() if one.default is one.empty]
    needed = sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)

    def stop(result: OptimizeResult) -> bool:
        try:
            if set(parameters) == {"intermediate_result"}:
                return bool(callback(intermediate_result=result))
            if "convergence" in parameters or needed == 2:
                return bool(callback(result.x.copy(), convergence=_convergence(optimizer.held)))
            return bool(callback(result))
        except StopIteration:
            return True

    return stop


def _convergence(objective: FloatArray) -> float:
    """A hundredth of the mean's size over the standard deviation, as SciPy has it; 0 with infinite objectives."""
    if not np.isfinite(objective).all():
        return 0.0
    smallest = np.finfo(np.float64).eps
    return float(0.01 / (np.std(objective) / (np.abs(np.mean(objective)) + smallest) + smallest))


def _minimize_compiled(
    functions: tuple[Any, ...],
    kinds: tuple[int | None, ...],
    vectorized: bool,
    state: Portfolio,
    max_evaluations: int,
    target: float,
) -> OptimizeResult:
    """Go on after the first generation."""
    loop = _compiled_loop(functions, kinds, vectorized)
    rounds = int(loop(state, max_evaluations, target))
    population = state.population
    told = int(population.counters[TOLD])
    if rounds in (_FUN_NAN, _CONSTRAINTS_NAN):
        raise not_a_number("fun" if rounds == _FUN_NAN else "constraints")
    if rounds in (_FUN_SHAPE, _CONSTRAINTS_SHAPE):
        count = min(int(state.counters[COUNT]), max_evaluations - told)
        trial = (state.cma if state.counters[TURN] == CMA else population).trial
        name = "fun" if rounds == _FUN_SHAPE else "constraints"
        answer = functions[name == "constraints"](trial[:count].copy())
        raise wrong_shape(name, answer.shape, count, trial.shape[1])
    violation, objective = population.best
    reached = violation == 0 and objective <= target
    spent = min(told, max_evaluations), 1 + rounds
    return _result(population.best_x.copy(), float(objective), float(violation), *spent, reached, target)


@njit(nogil=True)
def _add_number(excess: float, count: int, violation: FloatArray) -> int:
    violation[0] += max(0.0, excess) if excess == excess else np.nan
    return 0


@njit(nogil=True)
def _add_row(excess: FloatArray, count: int, violation: FloatArray) -> int:
    for j in range(excess.shape[0]):
        _add_number(excess[j], 1, violation)
    return 0


@njit(nogil=True)
def _add_each(excess: FloatArray, count: int, violation: FloatArray) -> int:
    if excess.shape[0] != count:
        return _CONSTRAINTS_SHAPE
    for i in range(count):
        _add_number(excess[i], 1, violation[i:])
    return 0


@njit(nogil=True)
def _add_rows(excess: FloatArray, count: int, violation: FloatArray) -> int:
    if excess.shape[0] != count:
        return _CONSTRAINTS_SHAPE
    for i in range(count):
        _add_row(excess[i], 1, violation[i:])
    return 0


@lru_cache(maxsize=32)
def _compiled_loop(functions: tuple[Any, ...], kinds: tuple[int, ...], vectorized: bool) -> Any:
    """The loop of :func:`minimize` around jitted functions; compiled once for each.

    ``kinds`` are the dimensions of what each returns.
    """
    fun, bound = functions[0], functions[-1]
    constrained = len(functions) > 1
    add = ((_add_number, _add_row), (_add_each, _add_each, _add_rows))[vectorized][kinds[-1]]

    @njit(nogil=True)
    def answers(x: FloatArray, count: int, objective: FloatArray, violation: FloatArray) -> int:
        if vectorized:
            found = fun(x[:count].copy())
            if found.shape[0] != count:
                return _FUN_SHAPE
            objective[:count] = found
            if constrained:
                status = add(bound(x[:count].copy()), count, violation)
                if status < 0:
                    return status
        else:
            for i in range(count):
                objective[i] = fun(x[i].copy())
                if constrained:
                    add(bound(x[i].copy()), 1, violation[i:])
        if np.isnan(objective[:count]).any():
            return _FUN_NAN
        if np.isnan(violation[:count]).any():
            return _CONSTRAINTS_NAN
        for i in range(count):
            violation[i] = min(violation[i], WORST)
        return 0

    @njit(nogil=True)
    def loop(state: Portfolio, max_evaluations: int, target: float) -> int:
        most, rounds = max(state.population.trial.shape[0], state.cma.trial.shape[0]), 0
        objectives, violations = np.empty(most), np.empty(most)
        counters, best = state.population.counters, state.population.best
        while True:
            asked = ask_portfolio(state)
            count = min(asked, max_evaluations - counters[TOLD])
            objective, violation = objectives[:asked], violations[:asked]
            objective[:] = np.inf
            violation[:count] = 0.0
            violation[count:] = WORST
            trial = state.cma.trial if state.counters[TURN] == CMA else state.population.trial
            status = answers(trial, count, objective, violation)
            if status < 0:
                return status
            tell_portfolio(state, objective, violation)
            rounds += 1
            if (best[0] == 0.0 and best[1] <= target) or counters[TOLD] >= max_evaluations:
                return rounds

    return loop


def _result(
    x: FloatArray, objective: float, violation: float, evaluations: int, rounds: int, reached: bool, target: float
) -> OptimizeResult:
    if violation > 0:
        message = f"no feasible solution in {evaluations} evaluations; the least violation is {violation:g}"
    elif objective == -np.inf:
        message = "the objective is minus infinity, and nothing is less"
    elif reached and target > -np.inf:
        message = f"the target {target:g} was reached"
    else:
        message = "the budget of evaluations is spent"
    return OptimizeResult(x, objective, evaluations, rounds, violation == 0, message, violation)
