"""The quantum-inspired optimizer for any bounded problem: ask and tell, or :func:`minimize`.

Real and integer variables, constraints as violation, NumPy callables and numba-jitted ones, a state that can be
saved. The algorithm is SHADE's (``shade``). The paper's Algorithm 1 is in ``algorithm1``, for the mission's problem.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from coinfer_kernels import checks
from coinfer_kernels.blackbox.shade import HISTORY, TOLD, PopulationState, ask_population, tell_population
from coinfer_kernels.notation import BoolArray, FloatArray
from coinfer_kernels.rng import seed_stream

STATE_FORMAT = 2


class QuantumOptimizer:
    """Ask for solutions, evaluate them, tell the answers; repeat.

    Any number of processes may evaluate; the optimizer itself draws no random number that depends on them. The
    same ``seed`` asks for the same solutions, given the same answers.
    """

    def __init__(
        self,
        bounds: ArrayLike,
        integrality: ArrayLike | None = None,
        *,
        population: int | None = None,
        seed: int = 0,
    ) -> None:
        """``bounds`` (D, 2): lower and upper; ``integrality`` (D,): which variables are integers.

        ``population``: solutions held at a time; without it, what suits D. ``seed``: 0 or more.

        Raises:
            ValueError: bounds that are no pairs, not finite, inverted, or hold no integer where one is needed.
        """
        self.low, self.high, self.integral = _domain(bounds, integrality)
        if seed < 0:
            raise ValueError(f"seed: {seed} is negative; 0 or more is needed")
        size = min(100, max(20, 4 * len(self.low))) if population is None else int(population)
        if size < 4:
            raise ValueError(f"population: {size} solutions are too few; 4 are needed")
        self.evaluations = 0
        self._asked: FloatArray | None = None
        self._best = (np.inf, np.inf)
        self._best_x = np.full(len(self.low), np.nan)
        self._population = new_population(self.low, self.high, self.integral, size, seed)

    def ask(self) -> FloatArray:
        """Solutions (n, D) to evaluate next, n the population's size.

        Raises:
            RuntimeError: the solutions asked for before have not been told yet.
        """
        if self._asked is not None:
            raise RuntimeError("ask: the solutions asked for before have not been told; call tell() first")
        ask_population(self._population)
        self._asked = self._population.trial.copy()
        return self._asked.copy()

    def tell(self, x: ArrayLike, objective: ArrayLike, violation: ArrayLike | None = None) -> None:
        """Answers to the solutions ``x`` (n, D) of the last :meth:`ask`.

        ``objective`` (n,), smaller is better, infinity allowed; ``violation`` (n,), 0 where feasible.

        Raises:
            RuntimeError: nothing has been asked for.
            ValueError: other solutions than those asked for, wrong shapes, NaN, or a negative violation.
        """
        if self._asked is None:
            raise RuntimeError("tell: nothing has been asked for; call ask() first")
        if not np.array_equal(np.asarray(x), self._asked):
            raise ValueError("tell: x are not the solutions of the last ask(); tell them in the order asked")
        values, excess = _answers(objective, violation, len(self._asked))
        row = int(np.lexsort((values, excess))[0])
        if (excess[row], values[row]) < self._best or self.evaluations == 0:
            self._best, self._best_x = (float(excess[row]), float(values[row])), self._asked[row].copy()
        tell_population(self._population, values, excess)
        self.evaluations += len(values)
        self._asked = None

    @property
    def best_x(self) -> FloatArray:
        """The best solution told (D,); NaN before the first."""
        return self._best_x.copy()

    @property
    def best_objective(self) -> float:
        """Its objective; infinite before the first."""
        return self._best[1]

    @property
    def best_violation(self) -> float:
        """Its violation; infinite before the first."""
        return self._best[0]

    def state(self) -> dict[str, NDArray[Any]]:
        """All there is to know, as arrays for ``numpy.savez``; between a tell and an ask."""
        if self._asked is not None:
            raise RuntimeError("state: solutions have been asked for and not told; call tell() first")
        head = {
            "format": STATE_FORMAT,
            "bounds": np.stack([self.low, self.high], axis=1),
            "integrality": self.integral,
            "evaluations": self.evaluations,
            "best": self._best,
            "best_x": self._best_x,
        }
        population = {f"population.{name}": value.copy() for name, value in self._population._asdict().items()}
        return {name: np.array(value) for name, value in head.items()} | population

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> QuantumOptimizer:
        """Go on from what :meth:`state` gave: the same solutions are asked for as without the stop.

        Raises:
            ValueError: not such a state.
        """
        try:
            if int(state["format"]) != STATE_FORMAT:
                raise ValueError(f"state: has format {int(state['format'])}; {STATE_FORMAT} is needed")
            optimizer = cls(state["bounds"], state["integrality"], population=len(state["population.x"]))
            for name, value in optimizer._population._asdict().items():
                value[...] = state[f"population.{name}"]
            optimizer.evaluations = int(state["evaluations"])
            violation, objective = state["best"]
            optimizer._best = (float(violation), float(objective))
            optimizer._best_x = np.array(state["best_x"])
        except KeyError as error:
            raise ValueError(f"state: {error} is missing; state() writes all that is needed") from None
        return optimizer


def new_population(low: FloatArray, high: FloatArray, integral: BoolArray, size: int, seed: int) -> PopulationState:
    """A population that has not been asked yet."""
    dimensions = len(low)
    stream = np.empty(4, dtype=np.uint64)
    seed_stream(stream, seed, 0, 0)
    return PopulationState(
        low=low.copy(),
        high=high.copy(),
        integral=integral.copy(),
        x=np.zeros((size, dimensions)),
        objective=np.full(size, np.inf),
        violation=np.full(size, np.inf),
        trial=np.zeros((size, dimensions)),
        reach=np.zeros(size),
        crossing=np.zeros(size),
        reach_history=np.zeros(HISTORY),
        crossing_history=np.zeros(HISTORY),
        archive=np.zeros((size, dimensions)),
        counters=np.zeros(5, dtype=np.int64),
        best_x=np.full(dimensions, np.nan),
        best=np.full(2, np.inf),
        stream=stream,
    )


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


Callback = Callable[[OptimizeResult], bool | None]


def minimize(
    fun: Callable[..., Any],
    bounds: ArrayLike,
    integrality: ArrayLike | None = None,
    constraints: Callable[..., Any] | None = None,
    vectorized: bool = True,
    max_evaluations: int = 100_000,
    target: float | None = None,
    seed: int = 0,
    callback: Callback | None = None,
    *,
    population: int | None = None,
) -> OptimizeResult:
    """Minimise ``fun`` over a box, with the conventions of ``scipy.optimize.differential_evolution``.

    ``bounds`` (D, 2): lower and upper; ``integrality`` (D,) or one truth value: which variables are integers.
    ``population`` and ``seed`` are those of :class:`QuantumOptimizer`.

    ``fun`` takes solutions (n, D) and returns objectives (n,); with ``vectorized=False`` one solution (D,) and one
    number. ``constraints`` likewise returns violations, (n,) or (n, m), or a number or (m,): positive where
    violated. Where ``fun`` (and ``constraints``, if any) are numba-jitted and there is no ``callback``, the whole loop
    runs compiled, and gives the same answer. The search ends at ``max_evaluations``,
    at a feasible objective of ``target`` or less, or when ``callback`` returns True.

    Raises:
        ValueError: bounds, budget or answers that cannot be used; a NaN objective among them.
    """
    if max_evaluations < 1:
        raise ValueError(f"max_evaluations: {max_evaluations} is too few; at least 1 is needed")
    optimizer = QuantumOptimizer(bounds, integrality, population=population, seed=seed)
    goal = -np.inf if target is None else float(target)
    jitted = all(hasattr(one, "py_func") for one in (fun, constraints) if one is not None)
    if jitted and callback is None:
        return _minimize_compiled(fun, constraints, vectorized, optimizer._population, max_evaluations, goal)
    rounds = 0
    while True:
        asked = optimizer.ask()
        x = asked[: max_evaluations - optimizer.evaluations]
        # Where the budget ends inside a generation, the rest counts as infinitely bad.
        objective, violation = np.full(len(asked), np.inf), np.full(len(asked), np.finfo(np.float64).max)
        objective[: len(x)] = _evaluated("fun", fun, x, vectorized)
        violation[: len(x)] = 0.0
        if constraints is not None:
            violation[: len(x)] = _excess(_evaluated("constraints", constraints, x, vectorized))
        optimizer.tell(asked, objective, violation)
        rounds += 1
        reached = optimizer.best_violation == 0 and optimizer.best_objective <= goal
        spent = min(optimizer.evaluations, max_evaluations)
        best = optimizer.best_x, optimizer.best_objective, optimizer.best_violation
        result = _result(*best, spent, rounds, reached, goal)
        if reached or spent == max_evaluations or (callback is not None and callback(result)):
            return result


def _minimize_compiled(
    fun: Any, constraints: Any, vectorized: bool, state: PopulationState, max_evaluations: int, target: float
) -> OptimizeResult:
    loop = _compiled_loop(fun, constraints, vectorized)
    rounds = int(loop(state, max_evaluations, target))
    if rounds < 0:
        raise ValueError("fun: returned NaN; a number, or infinity where there is none, is needed")
    violation, objective = state.best
    reached = violation == 0 and objective <= target
    evaluations = min(int(state.counters[TOLD]), max_evaluations)
    return _result(state.best_x.copy(), float(objective), float(violation), evaluations, rounds, reached, target)


@lru_cache(maxsize=32)
def _compiled_loop(fun: Any, constraints: Any, vectorized: bool) -> Any:
    """The loop of :func:`minimize` around jitted functions; compiled once for each."""
    constrained = constraints is not None
    bound = constraints if constrained else fun

    @njit(nogil=True)
    def answers(x: FloatArray, count: int, objective: FloatArray, violation: FloatArray) -> bool:
        if vectorized:
            objective[:count] = fun(x[:count])
            if constrained:
                excess = bound(x[:count]).reshape(count, -1)
                for i in range(count):
                    for j in range(excess.shape[1]):
                        violation[i] += max(0.0, excess[i, j])
        else:
            for i in range(count):
                objective[i] = fun(x[i])
                if constrained:
                    violation[i] = np.maximum(0.0, bound(x[i])).sum()
        return not (np.isnan(objective).any() or np.isnan(violation).any())

    @njit(nogil=True)
    def loop(state: PopulationState, max_evaluations: int, target: float) -> int:
        solutions, rounds = state.x.shape[0], 0
        objective, violation = np.empty(solutions), np.empty(solutions)
        while True:
            ask_population(state)
            count = min(solutions, max_evaluations - state.counters[TOLD])
            objective[:] = np.inf
            violation[:count] = 0.0
            violation[count:] = np.finfo(np.float64).max
            if not answers(state.trial, count, objective, violation):
                return -1
            tell_population(state, objective, violation)
            rounds += 1
            reached = state.best[0] == 0.0 and state.best[1] <= target
            if reached or state.counters[TOLD] >= max_evaluations:
                return rounds

    return loop


def _result(
    x: FloatArray, objective: float, violation: float, evaluations: int, rounds: int, reached: bool, target: float
) -> OptimizeResult:
    if violation > 0:
        message = f"no feasible solution in {evaluations} evaluations; the least violation is {violation:g}"
    elif reached and target > -np.inf:
        message = f"the target {target:g} was reached"
    else:
        message = "the budget of evaluations is spent"
    return OptimizeResult(x, objective, evaluations, rounds, violation == 0, message, violation)


def _domain(bounds: ArrayLike, integrality: ArrayLike | None) -> tuple[FloatArray, FloatArray, BoolArray]:
    """Lower and upper bounds (D,) and which variables are integers; an integer's bounds are integers."""
    if hasattr(bounds, "lb") and hasattr(bounds, "ub"):  # scipy.optimize.Bounds
        bounds = np.stack(np.broadcast_arrays(bounds.lb, bounds.ub), axis=-1)
    pairs = checks.array("bounds", bounds, np.float64, 2)
    if pairs.shape[1] != 2 or len(pairs) == 0:
        raise ValueError(f"bounds: has shape {pairs.shape}; one pair (lower, upper) for each variable is needed")
    checks.finite("bounds", pairs)
    integral = np.zeros(len(pairs), dtype=np.bool_)
    if integrality is not None:
        try:
            integral[:] = np.broadcast_to(np.asarray(integrality, dtype=np.bool_), (len(pairs),))
        except ValueError:
            raise ValueError(f"integrality: one truth value, or one for each of {len(pairs)} variables") from None
    low = np.where(integral, np.ceil(pairs[:, 0]), pairs[:, 0])
    high = np.where(integral, np.floor(pairs[:, 1]), pairs[:, 1])
    if (low > high).any():
        row = int(np.argmax(low > high))
        what = "no integer lies between" if pairs[row, 0] <= pairs[row, 1] else "the lower must not exceed the upper"
        raise ValueError(f"bounds: variable {row} has {pairs[row].tolist()}; {what}")
    return low, high, integral


def _answers(objective: ArrayLike, violation: ArrayLike | None, count: int) -> tuple[FloatArray, FloatArray]:
    values = checks.shaped("objective", objective, np.float64, (count,))
    excess = np.zeros(count) if violation is None else checks.shaped("violation", violation, np.float64, (count,))
    if np.isnan(values).any():
        row = int(np.isnan(values).argmax())
        raise ValueError(f"objective: is NaN for solution {row}; a number, or infinity where there is none, is needed")
    if not (np.isfinite(excess) & (excess >= 0)).all():
        raise ValueError("violation: holds negative, NaN or infinite values; 0 means feasible")
    return values, excess


def _evaluated(name: str, function: Callable[..., Any], x: FloatArray, vectorized: bool) -> FloatArray:
    """``function`` of every row; (n,) or (n, m)."""
    answer = np.asarray(function(x) if vectorized else [function(row) for row in x], dtype=np.float64)
    if answer.ndim == 0 or len(answer) != len(x) or (name == "fun" and answer.ndim != 1):
        raise ValueError(
            f"{name}: returned shape {answer.shape} for {len(x)} solutions of {x.shape[1]} variables; one number each "
            "is needed (vectorized=False calls it with one solution at a time)"
        )
    if np.isnan(answer).any():
        raise ValueError(f"{name}: returned NaN; a number, or infinity where there is none, is needed")
    return answer


def _excess(answer: FloatArray) -> FloatArray:
    violation: FloatArray = np.maximum(answer.reshape(len(answer), -1), 0.0).sum(axis=1)
    return violation
