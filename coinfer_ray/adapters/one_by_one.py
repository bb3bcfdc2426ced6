"""The optimizer for tools that run one trial at a time, many of them at once, and in any order.

:class:`coinfer_kernels.QuantumOptimizer` asks for a batch of solutions and is told all of its answers together; here
the batch is handed out one by one, and told once the last answer is in. An answer counts for the point that was
evaluated: where that is not the one that was suggested, the suggestion goes to a later trial.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from coinfer_kernels import QuantumOptimizer
from numpy.typing import NDArray

from coinfer_ray.errors import InputError

_TRUTH = (bool, np.bool_)
WORST = np.finfo(np.float64).max  # the violation of a trial that failed


def usual_population(variables: int) -> int:
    """Solutions of a batch where the caller names no number.

    A size of its own leaves the population alone to ask (:class:`coinfer_kernels.QuantumOptimizer`): hosts hand out a
    batch to many workers at once, which batches of a few would keep waiting, and count generations of one size.
    """
    return min(100, max(20, 4 * variables))


@dataclass(frozen=True)
class Variable:
    """One parameter as the optimizer sees it, and what its numbers mean."""

    name: Hashable
    low: float
    high: float
    integer: bool
    decode: Callable[[float], Any]
    encode: Callable[[Any], float]  # the inverse; of what is no value of the parameter, a neighbour's or an error

    def place_of(self, value: Any) -> float:
        """The number from which ``value`` is decoded.

        Raises ValueError for what is no value of the parameter: outside, between two steps, of another kind.
        """
        try:
            place = self.encode(value)
            inside = self.low <= place <= self.high and _is_value(self.decode(place), value)
        except (OverflowError, TypeError):
            inside = False
        if not inside:
            raise ValueError(f"{value!r} is none of the values")
        return place


def real(name: Hashable, low: float, high: float, *, log: bool = False, step: float | None = None) -> Variable:
    """A real parameter; on a logarithmic scale, or in steps from ``low``."""
    if step is not None:
        last = math.floor((high - low) / step + 1e-9)
        decode = partial(_at_step, low=low, size=float(step), high=high)
        return Variable(name, 0, last, True, decode, partial(_step_of, low=low, size=float(step)))
    if log:
        return Variable(
            name, math.log(low), math.log(high), False, partial(_at_logarithm, low=low, high=high), math.log
        )
    return Variable(name, low, high, False, float, float)


def whole(name: Hashable, low: int, high: int, *, log: bool = False, step: int = 1) -> Variable:
    """A whole parameter within ``low`` .. ``high``, both included; on a logarithmic scale, or in steps."""
    decode: Callable[[float], Any]
    if log:
        decode = partial(_at_whole_logarithm, low=low, high=high)
        return Variable(name, math.log(low - 0.5), math.log(high + 0.5), False, decode, math.log)
    last = (high - low) // step
    decode = partial(_at_step, low=low, size=step, high=low + step * last)
    return Variable(name, 0, last, True, decode, partial(_step_of, low=low, size=step))


def multiple(name: Hashable, first: int, last: int, step: float, *, log: bool = False) -> Variable:
    """The multiples ``first`` .. ``last`` of ``step``; on a logarithmic scale."""
    counted = whole(name, first, last, log=log)
    return replace(
        counted,
        decode=partial(_times, counted=counted.decode, step=step),
        encode=partial(_over, counted=counted.encode, step=step),
    )


def choice(name: Hashable, choices: Sequence[Any]) -> Variable:
    """One of several values; neighbours in the list are neighbours to the optimizer.

    Raises InputError where there is none.
    """
    values = list(choices)
    if not values:
        raise InputError(f"space: {name} has no choices; one or more are needed")
    return Variable(name, 0, len(values) - 1, True, partial(_choice_at, values=values), partial(_place, values=values))


# Functions of the module's, so that a search can be pickled.
def _at_step(x: float, *, low: float, size: float, high: float) -> float:
    return min(low + size * round(x), high)


def _step_of(value: float, *, low: float, size: float) -> float:
    return round((value - low) / size)


def _at_logarithm(x: float, *, low: float, high: float) -> float:
    return min(max(math.exp(x), low), high)


def _at_whole_logarithm(x: float, *, low: int, high: int) -> int:
    return min(max(round(math.exp(x)), low), high)


def _times(x: float, *, counted: Callable[[float], int], step: float) -> float:
    return counted(x) * step


def _over(value: float, *, counted: Callable[[float], float], step: float) -> float:
    return counted(round(value / step))


def _choice_at(x: float, *, values: list[Any]) -> Any:
    return values[round(x)]


def _place(value: Any, *, values: list[Any]) -> float:
    for place, one in enumerate(values):
        if equal(one, value):
            return place
    raise ValueError("is none of the choices")


def _is_value(decoded: Any, given: Any) -> bool:
    """Whether a value was meant as the one decoded: the same, or off by what its arithmetic rounds."""
    if equal(decoded, given):
        return True
    if isinstance(given, _TRUTH) or not isinstance(
        decoded, float | np.floating
    ):  # a whole number is that or another one
        return False
    return math.isclose(decoded, given, abs_tol=1e-12)


def equal(one: Any, other: Any) -> bool:
    """Whether two values are the same; True is not 1 here, as the two may be two choices, and NaN is NaN."""
    if one is other:
        return True
    if isinstance(one, _TRUTH) != isinstance(other, _TRUTH):
        return False
    try:
        return bool(one == other) or (_unlike_itself(one) and _unlike_itself(other))
    except ValueError:  # arrays, whose comparison is one too
        ones, others = np.asarray(one), np.asarray(other)
        if ones.shape != others.shape:
            return False
        return bool(((ones == others) | (_unlike_itself(ones) & _unlike_itself(others))).all())


def _unlike_itself(value: Any) -> Any:
    """Whether a value, or each of an array's, is a NaN of any type."""
    itself = value
    return value != itself


def excess(violation: Any) -> float:
    """A violation, or the sum of several, as the optimizer takes it: 0 .. ``WORST``.

    What is not known not to be a violation is one: NaN, None and what is no number count as the worst.
    """
    try:
        parts = np.asarray(violation, dtype=np.float64)
    except (TypeError, ValueError):
        return WORST
    if np.isnan(parts).any():
        return WORST
    with np.errstate(over="ignore"):
        return float(min(np.maximum(parts, 0.0).sum(), WORST))


class OneByOne:
    """A :class:`QuantumOptimizer` whose solutions are handed out and answered one by one."""

    def __init__(
        self, variables: Sequence[Variable], *, population: int | None = None, seed: Any = 0, patience: float = math.inf
    ) -> None:
        """``patience``: how often in a row :meth:`suggest` may have nothing to give, in batches.

        After that the answers still awaited are given up, so that a trial that is never told costs its own place in
        the batch and no more. Raises ValueError as :class:`QuantumOptimizer` does.
        """
        self.variables = tuple(variables)
        self.optimizer = QuantumOptimizer(
            [(variable.low, variable.high) for variable in self.variables],
            [variable.integer for variable in self.variables],
            population=usual_population(len(variables)) if population is None else population,
            seed=seed,
        )
        self._patience = patience
        self._given_up: set[str] = set()
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
        self._held: dict[str, int] = {}  # the rows of those that ran when the state was saved
        self._suggested: dict[str, dict[Hashable, Any]] = {}
        self._refusals = 0
        self._others: list[tuple[NDArray[np.float64], float, float]] = []

    @property
    def awaited(self) -> tuple[str, ...]:
        """The trials whose answers are awaited before there is a next suggestion; none while there is one."""
        return () if self._waiting else tuple(self._open)

    def suggest(self, key: str) -> dict[Hashable, Any] | None:
        """Parameters for the trial ``key``, the same ones where it asks again; None while the batch's last answers are
        awaited."""
        if key in self._open:
            return dict(self._suggested[key])
        if self._held.get(key) in self._waiting:
            return self._hand_out(key, self._held.pop(key))
        if not self._waiting:
            self._refusals += 1
            if self._refusals <= self._patience * len(self._x):
                return None
            self._given_up.update(self._open)
            for lost in self.awaited:
                self._settle(self._open.pop(lost), np.inf, WORST)
        return self._hand_out(key, self._waiting[0])

    def _hand_out(self, key: str, row: int) -> dict[Hashable, Any]:
        self._waiting.remove(row)
        self._open[key] = row
        found = {
            variable.name: variable.decode(value) for variable, value in zip(self.variables, self._x[row], strict=True)
        }
        self._suggested[key] = dict(found)
        return found

    def answer(
        self, key: str, objective: float | None, violation: Any = 0.0, found: Mapping[Any, Any] | None = None
    ) -> None:
        """The objective of a trial, smaller is better; None (or NaN) if it failed. Others' trials are ignored.

        ``found`` are the parameters with which it ran, where these may be others than those suggested. Of a trial
        that did not fail they must be all of the parameters: one that lacks some says nothing of the rest.
        """
        failed = objective is None or math.isnan(objective)
        value, broken = (np.inf, WORST) if objective is None or failed else (objective, excess(violation))
        if self._held.get(key) in self._waiting:
            self._hand_out(key, self._held.pop(key))
        row = self._open.pop(key, None)
        if row is None:
            if key in self._given_up and not failed and found is not None:
                self._given_up.discard(key)
                self._observe(found, value, broken)
            return
        suggested = self._suggested.pop(key)
        if found is None or _same(suggested, found, partly=failed):
            self._settle(row, value, broken)
            return
        self._waiting.insert(0, row)
        if not failed:
            self._observe(found, value, broken)

    def observe(self, found: Mapping[Any, Any], objective: float, violation: Any = 0.0) -> bool:
        """Take the answer to parameters that were evaluated elsewhere; False where they are none of the space's.

        ``objective`` and ``violation`` as for :meth:`answer`, but of an evaluation that did not fail. It counts from
        the end of the batch on.

        Raises:
            InputError: the objective is NaN or None.
        """
        if objective is None or math.isnan(objective):
            raise InputError(f"objective: is {objective}; a number is needed, leave out what failed")
        return self._observe(found, objective, excess(violation))

    def _settle(self, row: int, objective: float, violation: float) -> None:
        self._objective[row], self._violation[row], self._answered[row] = objective, violation, True
        if self._answered.all():
            others = self._others
            self.optimizer.tell(self._x, self._objective, self._violation)
            for other in others:
                self.optimizer.observe(*other)
            self._ask()

    def _observe(self, found: Mapping[Any, Any], objective: float, violation: float) -> bool:
        """Keep the answer to a point that was not suggested until the batch ends, if it is one of the space."""
        try:
            point = np.array([variable.place_of(found[variable.name]) for variable in self.variables], dtype=np.float64)
        except (KeyError, ValueError):
            return False
        self._others.append((point, objective, violation))
        return True

    def state(self) -> dict[str, NDArray[Any]]:
        """All there is to know, as arrays for ``numpy.savez``."""
        head = {f"optimizer.{name}": value for name, value in self._before.items()}
        rows = {"answered": self._answered, "objective": self._objective, "violation": self._violation}
        others = [[*point, objective, violation] for point, objective, violation in self._others]
        held = {"others": np.array(others, dtype=np.float64).reshape(-1, len(self.variables) + 2)}
        keys = {**self._held, **self._open}
        running = {"running": np.array([*keys], np.str_), "running_rows": np.array([*keys.values()], np.int64)}
        return head | held | running | {name: value.copy() for name, value in rows.items()}

    def load(self, state: Mapping[str, NDArray[Any]], *, running: bool = False) -> None:
        """Go on from what :meth:`state` gave.

        Trials that ran then count as not handed out; with ``running`` they may still be running or start again. Their
        answers count then, and others are given what they were only when there is nothing else to give.

        Raises:
            ValueError: not such a state, or one of other parameters.
        """
        inside = {name.removeprefix("optimizer."): state[name] for name in state if name.startswith("optimizer.")}
        optimizer = QuantumOptimizer.from_state(inside)
        if not all(
            np.array_equal(getattr(optimizer, name), getattr(self.optimizer, name))
            for name in ("low", "high", "integral")
        ):
            raise ValueError("state: is of other parameters; restore it into a search over the same ones")
        self.optimizer = optimizer
        self._ask()
        done = np.asarray(state["answered"])
        self._answered[:], self._objective[:], self._violation[:] = done, state["objective"], state["violation"]
        if running and "running" in state:
            ran = zip(state["running"].tolist(), state["running_rows"].tolist(), strict=True)
            self._held = {key: row for key, row in ran if not done[row]}
        self._waiting = sorted(np.flatnonzero(~done).tolist(), key=lambda row: row in self._held.values())
        others = state["others"] if "others" in state else np.empty((0, len(self.variables) + 2))
        self._others = [(row[:-2], float(row[-2]), float(row[-1])) for row in others]


def _same(suggested: Mapping[Any, Any], found: Mapping[Any, Any], *, partly: bool) -> bool:
    """Whether a trial ran with what was suggested; ``partly``: with as much of it as it came to ask for."""
    return all(equal(found[name], value) if name in found else partly for name, value in suggested.items())
