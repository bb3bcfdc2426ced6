"""The quantum-inspired optimizer for any bounded problem, by ask and tell.

Real and integer variables, constraints as violation, a state that can be saved. The algorithms are SHADE (``shade``)
and CMA-ES (``cma``), which share the budget (``portfolio``). The paper's Algorithm 1 is in ``algorithm1``, for the
mission's problem.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coinfer_kernels import checks
from coinfer_kernels.blackbox.portfolio import (
    CMA,
    TURN,
    ask_portfolio,
    new_portfolio,
    observe,
    tell_portfolio,
)
from coinfer_kernels.notation import BoolArray, FloatArray

STATE_FORMAT = 3


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
        seed: Any = 0,
    ) -> None:
        """``bounds`` (D, 2): lower and upper; ``integrality`` (D,): which variables are integers.

        ``population``: solutions held, and asked for at a time, by SHADE alone; without it SHADE and CMA-ES share the
        evaluations, and how many solutions are asked for at a time is theirs to say. ``seed``: 0 or more, below 2^63;
        None for another one each time; or a generator of NumPy's, from which one is drawn.

        Raises:
            ValueError: bounds that are no pairs, not finite, inverted, or hold no integer where one is needed; a
                population or a seed that cannot be used.
        """
        self.low, self.high, self.integral = _domain(bounds, integrality)
        start = _seed(seed)
        each = 3 if self.integral.any() else 4  # kernels/README.md compares
        size = min(100, max(20, each * len(self.low))) if population is None else whole("population", population)
        if size < 4:
            raise ValueError(f"population: {size} solutions are too few; 4 are needed")
        self.evaluations = 0
        self._asked: FloatArray | None = None
        self._best = (np.inf, np.inf)
        self._best_x = np.full(len(self.low), np.nan)
        alone = population is not None
        self._portfolio = new_portfolio(self.low, self.high, self.integral, size, alone, start)

    def ask(self) -> FloatArray:
        """Solutions (n, D) to evaluate next; n is the population's size where the caller gave it.

        Raises:
            RuntimeError: the solutions asked for before have not been told yet.
        """
        if self._asked is not None:
            raise RuntimeError("ask: the solutions asked for before have not been told; call tell() first")
        count = ask_portfolio(self._portfolio)
        state = self._portfolio
        self._asked = (state.cma if state.counters[TURN] == CMA else state.population).trial[:count].copy()
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
        tell_portfolio(self._portfolio, values, excess)
        self.evaluations += len(values)
        self._asked = None

    def observe(self, x: ArrayLike, objective: float, violation: float = 0.0) -> None:
        """Take the answer to a solution ``x`` (D,) that was not asked for; at any time.

        It replaces the worst of the solutions held if it is better, and the worst of the next ones of CMA-ES likewise.
        ``objective`` and ``violation`` as for
        :meth:`tell`.

        Raises:
            ValueError: a solution outside the bounds or of another shape, NaN, or a negative violation.
        """
        point = checks.shaped("x", x, np.float64, self.low.shape)
        if not ((point >= self.low) & (point <= self.high)).all():
            raise ValueError("x: is outside the bounds")
        if (point[self.integral] != np.rint(point[self.integral])).any():
            raise ValueError("x: has a fraction where an integer is needed")
        values, excess = _answers([objective], [violation], 1)
        answer = float(excess[0]), float(values[0])
        if answer < self._best or self.evaluations == 0:
            self._best, self._best_x = answer, point.copy()
        observe(self._portfolio, point, answer[1], answer[0])
        self.evaluations += 1

    @property
    def held(self) -> FloatArray:
        """The objectives (n,) of the solutions that the population holds; infinite before it has been told."""
        return self._portfolio.population.objective.copy()

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
        parts = {f"{part}.{name}": value.copy() for part, name, value in self._arrays()}
        return {name: np.array(value) for name, value in head.items()} | parts

    def _arrays(self) -> Iterator[tuple[str, str, NDArray[Any]]]:
        """All arrays of the optimizers: part, name and array."""
        state = self._portfolio
        for part, arrays in (("population", state.population), ("cma", state.cma)):
            for name, value in arrays._asdict().items():
                yield part, name, value
        yield "portfolio", "counters", state.counters

    @classmethod
    def from_state(cls, state: Mapping[str, NDArray[Any]]) -> QuantumOptimizer:
        """Go on from what :meth:`state` gave: the same solutions are asked for as without the stop.

        Raises:
            ValueError: not such a state.
        """
        try:
            if int(state["format"]) != STATE_FORMAT:
                raise ValueError(f"state: has format {int(state['format'])}; {STATE_FORMAT} is needed")
            size, alone = len(state["population.x"]), len(state["cma.free"]) == 0
            optimizer = cls(state["bounds"], state["integrality"], population=size)
            domain = optimizer.low, optimizer.high, optimizer.integral
            optimizer._portfolio = new_portfolio(*domain, size, alone, 0)
            for part, name, value in optimizer._arrays():
                given = checks.shaped(f"state: {part}.{name}", state[f"{part}.{name}"], value.dtype.type, value.shape)
                if name == "free" and (given != value).any():
                    raise ValueError(f"state: {part}.free names other variables than the bounds leave free")
                value[...] = given
            optimizer.evaluations = int(state["evaluations"])
            violation, objective = state["best"]
            optimizer._best = (float(violation), float(objective))
            optimizer._best_x = np.array(state["best_x"])
        except KeyError as error:
            raise ValueError(f"state: {error} is missing; state() writes all that is needed") from None
        return optimizer


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
    with np.errstate(over="ignore"):
        wide = ~np.isfinite(high - low)
    if wide.any():
        row = int(np.argmax(wide))
        raise ValueError(f"bounds: variable {row} has {pairs[row].tolist()}; their distance must be finite")
    return low, high, integral


def whole(name: str, value: Any) -> int:
    """``value`` as an int, where it is a whole number of any type; raises ValueError where it is not."""
    try:
        return operator.index(value)
    except TypeError:
        if isinstance(value, float | np.floating) and float(value).is_integer():
            return int(value)
    raise ValueError(f"{name}: {value!r} is not a whole number")


def _seed(seed: Any) -> int:
    if seed is None:
        return int(np.random.default_rng().integers(2**63))
    if isinstance(seed, np.random.Generator):
        return int(seed.integers(2**63))
    if isinstance(seed, np.random.RandomState):
        return int(seed.randint(2**31))
    number = whole("seed", seed)
    if number < 0:
        raise ValueError(f"seed: {number} is negative; 0 or more is needed")
    if number >= 2**63:
        raise ValueError(f"seed: {number} is too large; less than 2^63 is needed")
    return number


def _answers(objective: ArrayLike, violation: ArrayLike | None, count: int) -> tuple[FloatArray, FloatArray]:
    values = checks.shaped("objective", objective, np.float64, (count,))
    excess = np.zeros(count) if violation is None else checks.shaped("violation", violation, np.float64, (count,))
    if np.isnan(values).any():
        row = int(np.isnan(values).argmax())
        raise ValueError(f"objective: is NaN for solution {row}; a number, or infinity where there is none, is needed")
    if not (np.isfinite(excess) & (excess >= 0)).all():
        raise ValueError("violation: holds negative, NaN or infinite values; 0 means feasible")
    return values, excess
