"""The quantum-inspired optimizer as an algorithm of pymoo.

from pymoo.optimize import minimize
from coinfer_ray.adapters.pymoo import QuantumAlgorithm

result = minimize(problem, QuantumAlgorithm(), ("n_evals", 20_000), seed=1)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from coinfer_kernels import QuantumOptimizer
from pymoo.core.algorithm import Algorithm
from pymoo.core.population import Population
from pymoo.util.display.single import SingleObjectiveOutput

from coinfer_ray.errors import InputError


class QuantumAlgorithm(Algorithm):  # type: ignore[misc]
    """A :class:`pymoo.core.algorithm.Algorithm` around :class:`coinfer_kernels.QuantumOptimizer`.

    For problems with one objective, real or integer variables (``vtype``) and any constraints; pymoo's constraint
    violation ``CV`` is the violation. The seed is the run's.
    """

    def __init__(self, population: int | None = None, **options: Any) -> None:
        super().__init__(output=SingleObjectiveOutput(), **options)
        self.population = population
        self.optimizer: QuantumOptimizer | None = None

    def _setup(self, problem: Any, **_: Any) -> None:
        if problem.n_obj != 1:
            raise InputError(f"problem: has {problem.n_obj} objectives; this algorithm takes one")
        if not problem.has_bounds():
            raise InputError("problem: has no bounds; xl and xu are needed")
        self.optimizer = QuantumOptimizer(
            np.column_stack([problem.xl, problem.xu]),
            np.full(problem.n_var, problem.vtype is int),
            population=self.population,
            seed=self.seed or 0,
        )

    def _initialize_infill(self) -> Population:
        return self._infill()

    def _infill(self) -> Population:
        assert self.optimizer is not None
        return Population.new(X=self.optimizer.ask())

    def _initialize_advance(self, infills: Population | None = None, **options: Any) -> None:
        self._advance(infills, **options)

    def _advance(self, infills: Population | None = None, **_: Any) -> None:
        assert self.optimizer is not None and infills is not None
        self.optimizer.tell(infills.get("X").astype(float), infills.get("F")[:, 0], infills.get("CV")[:, 0])
        self.pop = infills if self.opt is None else Population.merge(infills, self.opt)
