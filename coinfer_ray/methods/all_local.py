"""All_Local: the whole network, as it is, on the device; nothing is sent."""

from __future__ import annotations

import numpy as np

from coinfer_ray.methods.partition import cheapest_partition
from coinfer_ray.optimizer.answers import Answers
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.scenarios.batch import ScenarioBatch


class AllLocal:
    """See :class:`coinfer_ray.methods.registry.Method`. Whatever the problem's cuts, its own endpoint is its answer."""

    name = "all_local"
    title = "All_Local"
    predicts = False
    plain = True
    in_paper = True

    def solve(self, problem: Problem, batch: ScenarioBatch, *, seed: int = 0) -> Answers:
        """The one choice there is, in every scenario; ``seed`` plays no part."""
        return cheapest_partition(problem, batch, np.array([len(problem.graph.layers)]))
