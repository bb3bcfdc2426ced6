"""Prune_Partition, the paper's ablation: layers are pruned and the network is cut, the feature is sent as it is.

The proposed method in a smaller space, then: the same optimizer, predictor and measured strategies, without a codec.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from coinfer_ray.methods.proposed import Proposed
from coinfer_ray.optimizer.answers import Answers
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.scenarios.batch import ScenarioBatch


@dataclass(frozen=True)
class PrunePartition(Proposed):
    """See :class:`coinfer_ray.methods.registry.Method`, and :class:`coinfer_ray.methods.proposed.Proposed` for the
    fields."""

    name = "prune_partition"
    title = "Prune_Partition"

    def solve(self, problem: Problem, batch: ScenarioBatch, *, seed: int = 0) -> Answers:
        """The optimizer's strategies without a codec."""
        own = problem.space
        space = SearchSpace(
            problem.graph,
            cuts=own.cuts,
            codec=False,
            feature_bits=own.feature_bits,
            measured_bits=own.measured_bits,
            multiple=own.multiple,
        )
        return super().solve(replace(problem, space=space), batch, seed=seed)
