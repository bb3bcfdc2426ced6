"""The optimizer for tools that run one trial at a time, many of them at once, and in any order.

:class:`coinfer_kernels.QuantumOptimizer` asks for a batch of solutions and is told all of its answers together; here
the batch is handed out one by one, and told once the last answer is in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from coinfer_kernels import QuantumOptimizer
from numpy.typing import NDArray

WORST = np.finfo(np.float64).max  # the violation of a trial that failed


@dataclass(frozen=True)
class Variable:
    """One parameter as the optimizer sees it, and what its numbers mean."""

    name: str
    low: float
    high: float
    integer: bool
    decode: Callable[[float], Any]


def real(name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> Variable:
    """A real parameter; on a logarithmic scale, or in steps from ``low``."""
    if step is not None:
        size, last = float(step), math.floor((high - low) / step + 1e-9)
        return Variable(name, 0, last, True, lambda x: min(low + size * round(x), high))
    if log:
        return Variable(name, math.log(low), math.log(high), False, lambda x: min(max(math.exp(x), low), high))
    return Variable(name, low, high, False, float)


def whole(name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> Variable:
    """A whole parameter within ``low`` .. ``high``, both included; on a logarithmic scale, or in steps."""
    if log:
        return Variable(
            name,
            math.log(low - 0.5),
            math.log(high + 0.5),
            False,
            lambda x: min(max(round(math.exp(x)), low), high),
        )
    return Variable(name, 0, (high - low) // step, True, lambda x: low + step * round(x))


def choice(name: str, choices: Sequence[Any]) -> Variable:
    """One of several values; neighbours in the list are neighbours to the optimizer."""
    values = list(choices)
    return Variable(name, 0, len(values) - 1, True, lambda x: values[round(x)])


class OneByOne:
    """A :class:`QuantumOptimizer` whose solutions are handed out and answered one by one."""

    def __init__(self, variables: Sequence[Variable], *, population: int | None = None, seed: int = 0) -> None:
        """Raises ValueError as :class:`QuantumOptimizer` does."""
        self.variables = tuple(variables)
        self.optimizer = QuantumOptimizer(
            [(variable.low, variable.high) for variable in self.variables],
            [variable.integer for variable in self.variables],
            population=population,
            seed=seed,
        )
        self._ask()

    def _ask(self) -> None:
        self._before = self.optimizer.state()
        self._x = self.optimizer.ask()
        count = len(self._x)
        self._waiting = list(range(count))
        self._answered = np.zeros(count, dtype=np.bool_)
        self._objective = np.full(count, np.inf)
        self._violation = np.zeros(count)
        self._open: dict[str, int] = {}

    def suggest(self, key: str) -> dict[str, Any] | None:
        """Parameters for the trial ``key``; None while the batch's last answers are awaited."""
        if not self._waiting:
            return None
        row = self._open[key] = self._waiting.pop(0)
        return {
            variable.name: variable.decode(value) for variable, value in zip(self.variables, self._x[row], strict=True)
        }

    def answer(self, key: str, objective: float | None, violation: float = 0.0) -> None:
        """The objective of a trial, smaller is better; None (or NaN) if it failed. Others' trials are ignored."""
        row = self._open.pop(key, None)
        if row is None:
            return
        failed = objective is None or math.isnan(objective)
        self._objective[row] = np.inf if objective is None or failed else objective
        self._violation[row] = WORST if failed else violation
        self._answered[row] = True
        if self._answered.all():
            self.optimizer.tell(self._x, self._objective, self._violation)
            self._ask()

    def state(self) -> dict[str, NDArray[Any]]:
        """All there is to know, as arrays for ``numpy.savez``; trials that are running count as not handed out."""
        head = {f"optimizer.{name}": value for name, value in self._before.items()}
        rows = {"answered": self._answered, "objective": self._objective, "violation": self._violation}
        return head | {name: value.copy() for name, value in rows.items()}

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what :meth:`state` gave.

        Raises:
            ValueError: not such a state, or one of other parameters.
        """
        inside = {name.removeprefix("optimizer."): state[name] for name in state if name.startswith("optimizer.")}
        optimizer = QuantumOptimizer.from_state(inside)
        if not np.array_equal(optimizer.low, self.optimizer.low) or not np.array_equal(
            optimizer.high, self.optimizer.high
        ):
            raise ValueError("state: is of other parameters; restore it into a search over the same ones")
        self.optimizer = optimizer
        self._ask()
        done = np.asarray(state["answered"])
        self._answered[:], self._objective[:], self._violation[:] = done, state["objective"], state["violation"]
        self._waiting = np.flatnonzero(~done).tolist()
