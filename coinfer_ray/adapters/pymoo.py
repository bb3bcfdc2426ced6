"""The quantum-inspired optimizer as an algorithm of pymoo.

from pymoo.optimize import minimize
from coinfer_ray.adapters.pymoo import QuantumAlgorithm

result = minimize(problem, QuantumAlgorithm(), ("n_evals", 20_000), seed=1)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from coinfer_kernels import QuantumOptimizer
from numpy.typing import NDArray
from pymoo.core.algorithm import Algorithm
from pymoo.core.population import Population
from pymoo.core.variable import Binary, Choice, Integer, Real
from pymoo.util.display.single import SingleObjectiveOutput

from coinfer_ray.adapters.one_by_one import WORST, Variable, choice, excess, real, usual_population, whole
from coinfer_ray.errors import InputError


class QuantumAlgorithm(Algorithm):  # type: ignore[misc]
    """A :class:`pymoo.core.algorithm.Algorithm` around :class:`coinfer_kernels.QuantumOptimizer`.

    For problems with one objective, any constraints, and real, integer or binary variables (``vtype``) or mixed ones
    (``vars``: ``Real``, ``Integer``, ``Binary``, ``Choice``); pymoo's constraint violation ``CV`` is the violation.
    A solution whose answer is NaN counts as the worst. The seed is the run's.
    """

    def __init__(self, population: int | None = None, **options: Any) -> None:
        super().__init__(output=SingleObjectiveOutput(), **options)
        self.population = population
        self.optimizer: QuantumOptimizer | None = None
        self._variables: list[Variable] | None = None
        self._asked: NDArray[np.float64] | None = None

    def _setup(self, problem: Any, **_: Any) -> None:
        if problem.n_obj != 1:
            raise InputError(f"problem: has {problem.n_obj} objectives; this algorithm takes one")
        if getattr(problem, "vars", None) is not None:
            self._variables = [_variable(name, variable) for name, variable in problem.vars.items()]
            bounds = [(variable.low, variable.high) for variable in self._variables]
            integral = [variable.integer for variable in self._variables]
        elif problem.vtype is bool:
            bounds, integral = [(0.0, 1.0)] * problem.n_var, [True] * problem.n_var
        elif problem.has_bounds():
            bounds = np.column_stack([problem.xl, problem.xu]).tolist()
            integral = [problem.vtype is int] * problem.n_var
        else:
            raise InputError("problem: has no bounds; xl and xu are needed")
        size = usual_population(len(bounds)) if self.population is None else self.population
        self.optimizer = QuantumOptimizer(bounds, integral, population=size, seed=self.seed or 0)

    def _initialize_infill(self) -> Population:
        return self._infill()

    def _infill(self) -> Population:
        assert self.optimizer is not None
        self._asked = self.optimizer.ask()
        return Population.new(X=self._decoded(self._asked))

    def _decoded(self, x: NDArray[np.float64]) -> NDArray[Any]:
        """Solutions as the problem has them: dictionaries for mixed variables, truth values for binary ones."""
        if self._variables is None:
            return x.astype(bool) if self.problem.vtype is bool else x
        rows = [
            {one.name: one.decode(value) for one, value in zip(self._variables, row, strict=True)} for row in x.tolist()
        ]
        return np.array(rows, dtype=object)

    def _initialize_advance(self, infills: Population | None = None, **options: Any) -> None:
        self._advance(infills, **options)

    def _advance(self, infills: Population | None = None, **_: Any) -> None:
        assert self.optimizer is not None and self._asked is not None and infills is not None
        if len(infills) != len(self._asked):
            raise InputError(f"infills: are {len(infills)}; all {len(self._asked)} of the last ask are needed")
        objective = infills.get("F")[:, 0].astype(np.float64)
        violation = np.array([excess(value) for value in infills.get("CV")[:, 0]])
        same = np.array([_same(*pair) for pair in zip(infills.get("X"), self._decoded(self._asked), strict=True)])
        # What was evaluated in place of a solution says nothing of it.
        failed = np.isnan(objective) | ~same
        self.optimizer.tell(self._asked, np.where(failed, np.inf, objective), np.where(failed, WORST, violation))
        self.pop = infills if self.opt is None else Population.merge(infills, self.opt)


def _same(one: Any, other: Any) -> bool:
    return bool(one == other) if isinstance(other, dict) else np.array_equal(one, other)


def _variable(name: str, variable: Any) -> Variable:
    if isinstance(variable, Choice):
        return choice(name, variable.options)
    if isinstance(variable, Binary):
        return choice(name, [False, True])
    if not isinstance(variable, Real | Integer) or None in variable.bounds:
        raise InputError(f"problem: {name} is {type(variable).__name__} without bounds, or of no known kind")
    return real(name, *variable.bounds) if isinstance(variable, Real) else whole(name, *variable.bounds)
