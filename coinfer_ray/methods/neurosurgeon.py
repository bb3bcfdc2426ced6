"""Neurosurgeon (Kang et al., ASPLOS 2017): the best partition point of the network as it is, and nothing else.

The paper that this project follows calls it Partition and searches the inner points 1..N-1 only
(``cuts="inner"``); with ``"all"`` the two endpoints are among its choices, as in Neurosurgeon itself.
"""

from __future__ import annotations

import numpy as np

from coinfer_ray.methods.partition import cheapest_partition
from coinfer_ray.optimizer.answers import Answers
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.scenarios.batch import ScenarioBatch


class Neurosurgeon:
    """See :class:`coinfer_ray.methods.registry.Method`."""

    name = "neurosurgeon"
    title = "Neurosurgeon"
    predicts = False
    plain = True
    in_paper = True

    def solve(self, problem: Problem, batch: ScenarioBatch, *, seed: int = 0) -> Answers:
        """Least latency (or energy) over the partition points of the problem's space; ``seed`` plays no part."""
        points = problem.space.variables[problem.space.cut_variable].values
        return cheapest_partition(problem, batch, np.unique(points).astype(np.int64))
