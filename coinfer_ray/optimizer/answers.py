"""What any method answers: one row for each scenario."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Answers:
    """One answer for each of S scenarios.

    Where ``feasible`` (S,) bool is false no choice of the method keeps to the accuracy bound: ``objective`` is infinite
    and the row means nothing else. ``objective`` (S,) is the weighted cost: seconds or joules, as the weights say.
    ``costs`` (S, 3) are device FLOPs, server FLOPs and uplink bits; ``partition_point`` (S,) counts the layers on the
    device; ``accuracy`` (S,) is NaN where nothing is known of it, ``known`` (S,) bool says whether it was measured on
    the network as it is. ``lower_bound`` (S,): no strategy that the predictor accepts has a lower objective, NaN where
    nothing is proven. ``evaluations`` (S,): strategies looked at. ``levels`` (S, V) are the strategies in the
    problem's search space, None for a method whose choices do not lie in it; ``trainings`` (S,) how many are behind an
    accuracy that was measured on the strategy itself, 0 where none is, None for such a method, and ``error`` (S,) the
    standard error of its loss, NaN where none is; ``extra`` holds columns (S,) of the method's own.
    """

    objective: Floats
    costs: Floats
    partition_point: Integers
    accuracy: Floats
    known: NDArray[np.bool_]
    feasible: NDArray[np.bool_]
    lower_bound: Floats
    evaluations: Integers
    levels: Integers | None = None
    trainings: Integers | None = None
    error: Floats | None = None
    extra: Mapping[str, Integers] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.objective)

    @classmethod
    def unproven(
        cls,
        objective: Floats,
        costs: Floats,
        partition_point: Integers,
        accuracy: Floats,
        known: NDArray[np.bool_],
        choices: int,
        trainings: Integers | None = None,
        error: Floats | None = None,
        extra: Mapping[str, Integers] | None = None,
    ) -> Answers:
        """Answers of a method that went through ``choices`` choices of its own; infinite objectives are infeasible."""
        return cls(
            objective,
            costs,
            partition_point,
            accuracy,
            known,
            feasible=np.isfinite(objective),
            lower_bound=np.full(len(objective), np.nan),
            evaluations=np.full(len(objective), choices, dtype=np.int64),
            trainings=trainings,
            error=error,
            extra=extra or {},
        )
