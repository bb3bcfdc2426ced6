"""What an objective and constraints return, checked: the same for plain Python functions and compiled ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from coinfer_kernels.notation import FloatArray

WORST = float(np.finfo(np.float64).max)  # the violation that no other exceeds
_NUMBERS = (np.ndarray, np.generic, int, float)


def not_a_number(name: str) -> ValueError:
    """The error for an answer that is NaN."""
    return ValueError(f"{name}: returned NaN; a number, or infinity where there is none, is needed")


def wrong_shape(name: str, shape: tuple[int, ...], solutions: int, dimensions: int) -> ValueError:
    """The error for answers of another number than that of the solutions."""
    return ValueError(
        f"{name}: returned shape {shape} for {solutions} solutions of {dimensions} variables; one number each "
        "is needed (vectorized=False calls it with one solution at a time)"
    )


class Answers:
    """A function of solutions that returns numbers; it gets copies, so that it may write into what it is given.

    ``dimensions`` are those of what the function itself returned last; None where that was neither a number nor an
    array.
    """

    def __init__(self, name: str, function: Callable[..., Any], vectorized: bool, args: tuple[Any, ...] = ()) -> None:
        self.name, self.function, self.vectorized, self.args = name, function, vectorized, args
        self.dimensions: int | None = None
        self.most = 1 if name == "fun" else 2

    def __call__(self, x: FloatArray) -> FloatArray:
        """Answers (n,) or, of constraints, (n, m) for solutions ``x`` (n, D).

        Raises:
            ValueError: answers of other shapes, no numbers, or NaN.
        """
        given = (
            self.function(x.copy(), *self.args)
            if self.vectorized
            else [self.function(row.copy(), *self.args) for row in x]
        )
        first = given if self.vectorized else given[0]
        self.dimensions = np.ndim(first) if isinstance(first, _NUMBERS) else None
        try:
            answer = np.asarray(given)
            if answer.dtype.kind not in "biuf":
                raise TypeError
            answer = answer.astype(np.float64)
        except (TypeError, ValueError):
            what = type(first).__name__
            raise ValueError(
                f"{self.name}: returned {what} that cannot be read as real numbers, the same count for every solution"
            ) from None
        if not 1 <= answer.ndim <= self.most or len(answer) != len(x):
            raise wrong_shape(self.name, answer.shape, *x.shape)
        if np.isnan(answer).any():
            raise not_a_number(self.name)
        return answer


class Constraint:
    """A function whose positive values are violations, or, with limits, whose values outside of them are."""

    def __init__(self, answers: Answers, lower: ArrayLike = -np.inf, upper: ArrayLike = 0.0) -> None:
        self.answers = answers
        try:
            self.lower, self.upper = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
        except (TypeError, ValueError):
            raise ValueError("constraints: lb and ub must be numbers, infinite where there is no limit") from None
        if np.isnan(self.lower).any() or np.isnan(self.upper).any():
            raise ValueError("constraints: lb or ub is NaN; infinity is right where there is no limit")

    def violation(self, x: FloatArray) -> FloatArray:
        """By how much each solution of ``x`` (n, D) is outside, (n,); at most ``WORST``."""
        answer = self.answers(x)
        value = answer[:, None] if answer.ndim == 1 else answer
        try:
            lower, upper = (np.broadcast_to(limit, value.shape[1:]) for limit in (self.lower, self.upper))
        except ValueError:
            shapes = f"lb has shape {self.lower.shape}, ub {self.upper.shape}"
            raise ValueError(f"constraints: {shapes}, for {value.shape[1]} values of each solution") from None
        with np.errstate(over="ignore", invalid="ignore"):
            excess = np.where(value > upper, value - upper, 0.0)
            if (self.lower > -np.inf).any():
                excess += np.where(value < lower, lower - value, 0.0)
            total: FloatArray = np.minimum(excess.sum(axis=1), WORST)
        return total


def read_constraints(constraints: Any, vectorized: bool) -> list[Constraint]:
    """Functions, SciPy's constraint objects, or several of either, as a list.

    ``NonlinearConstraint`` has ``fun``, ``lb`` and ``ub``; ``LinearConstraint`` has ``A`` instead, ``Bounds`` neither.

    Raises:
        ValueError: anything else.
    """
    if constraints is None:
        return []
    if hasattr(constraints, "lb") and hasattr(constraints, "ub"):
        limits = constraints.lb, constraints.ub
        if callable(getattr(constraints, "fun", None)):
            return [Constraint(Answers("constraints", constraints.fun, vectorized), *limits)]
        matrix = getattr(constraints, "A", None)
        if matrix is None:
            return [Constraint(Answers("constraints", lambda x: x, True), *limits)]
        dense = np.atleast_2d(np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, np.float64))
        return [Constraint(Answers("constraints", lambda x: _linear(x, dense), True), *limits)]
    if callable(constraints):
        return [Constraint(Answers("constraints", constraints, vectorized))]
    if isinstance(constraints, Sequence) and not isinstance(constraints, str):
        return [one for part in constraints for one in read_constraints(part, vectorized)]
    raise ValueError(
        f"constraints: {type(constraints).__name__} is not understood; functions that return violations, and SciPy's "
        "NonlinearConstraint, LinearConstraint and Bounds are"
    )


def _linear(x: FloatArray, matrix: FloatArray) -> FloatArray:
    if matrix.shape[1] != x.shape[1]:
        raise ValueError(f"constraints: A has {matrix.shape[1]} columns for {x.shape[1]} variables")
    product: FloatArray = x @ matrix.T
    return product
