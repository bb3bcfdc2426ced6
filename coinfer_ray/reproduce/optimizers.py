"""How far each optimizer ends from the best, and what its search costs: all on the same predictions.

The exact solver proves a lower bound for every scenario, so an optimizer's gap is certified: its answer is at most so
much above the best strategy that the predictor accepts. Predictions are taken as they are (confidence None) and nothing
measured takes part, since this compares searches, not answers; the network as it is takes part in all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from coinfer_kernels import Scenarios

from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.optimize import TIME_LIMIT_S
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.optimizer.solve import OPTIMIZERS, solve
from coinfer_ray.scenarios.scenario import Scenario


@dataclass(frozen=True)
class Search:
    """One optimizer's answer to one scenario. ``gap``: what it is proven to be above the best at most, a share;
    ``seconds`` and ``evaluations`` (boxes, for the exact solver) of the search."""

    model: str
    device: str
    link: str
    optimizer: str
    latency_s: float
    lower_bound_s: float
    gap: float
    seconds: float
    evaluations: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def searches(problem: Problem, scenarios: Sequence[Scenario], optimizers: Sequence[str] = OPTIMIZERS) -> list[Search]:
    """Every optimizer on every scenario, one at a time; the exact solver first, whose bounds the others are held to."""
    found: list[Search] = []
    for scenario in scenarios:
        weights = np.array([scenario.weights("latency")])
        floor = np.array([problem.base_accuracy - scenario.max_loss])
        batch = Scenarios(weights, floor, np.array([np.nan]))
        bound = np.nan
        for optimizer in sorted(optimizers, key=lambda name: name != "exact"):
            began = time.perf_counter()
            try:
                answer = solve(problem, batch, optimizer, measured=False, time_limit_s=TIME_LIMIT_S)
            except InputError:  # the extra that it needs is not installed
                continue
            seconds = time.perf_counter() - began
            latency = float(answer.objective[0])
            bound = float(answer.lower_bound[0]) if optimizer == "exact" else bound
            found.append(
                Search(
                    model=problem.graph.model,
                    device=scenario.device.name,
                    link=scenario.link.name,
                    optimizer=optimizer,
                    latency_s=latency,
                    lower_bound_s=bound,
                    gap=max(latency - bound, 0.0) / latency,
                    seconds=seconds,
                    evaluations=int(answer.evaluations[0]),
                )
            )
    return found
