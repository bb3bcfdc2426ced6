"""The best strategy within a budget: the fastest that draws no more energy, or the leanest that takes no longer, or
the one of the greatest throughput.

Among measured strategies, by looking at all of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from coinfer_kernels import Solutions

from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.candidates import Candidates
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.problem.costs import seconds_per_item
from coinfer_ray.scenarios.scenario import Goal, Objective, Scenario


@dataclass(frozen=True)
class Budget:
    """No more than ``most`` of what ``of`` names: latency in s, or energy in J."""

    of: Objective
    most: float

    @classmethod
    def given(
        cls,
        max_energy_j: float | None,
        max_latency_ms: float | None,
        *,
        objective: Goal,
        optimizer: str,
        confidence: float | None,
    ) -> Budget | None:
        """The budget that was asked for, energy in J or latency in ms, if any.

        Raises:
            InputError: a budget that is not above 0, or of the objective itself; predictions, or an optimizer that
                would have to keep it.
        """
        found = None
        asked: tuple[tuple[str, str, float | None, Objective], ...] = (
            ("max energy", "J", max_energy_j, "energy"),
            ("max latency", "ms", max_latency_ms, "latency"),
        )
        for name, unit, value, of in asked:
            if value is None:
                continue
            if not 0 < value < math.inf:
                raise InputError(f"{name}: {value:g} {unit} must be above 0, and finite")
            if of == objective:
                other = "latency" if of == "energy" else "energy"
                raise InputError(f"{name}: the objective is {of} itself, which is least already; ask for least {other}")
            if objective == "throughput" and of == "energy":
                raise InputError(
                    f"{name}: energy is counted for one request at a time, and a stream's is not known; leave it out"
                )
            found = cls(of, value) if of == "energy" else cls(of, value / 1e3)
        if found is None:
            return None
        if confidence is None:
            raise InputError(
                f"max {found.of}: a budget is kept among measured strategies alone, and --confidence 0 takes "
                "predictions; give a confidence such as 0.9"
            )
        if optimizer != "exact":
            raise InputError(
                f"max {found.of}: within a budget all measured strategies are compared, and {optimizer} does not; "
                "leave --optimizer out"
            )
        return found


def solve_within(problem: Problem, scenario: Scenario, objective: Goal, budget: Budget) -> Solutions:
    """The measured strategy, or the network as it is, of the best ``objective`` that keeps to the scenario's loss and
    to the ``budget``; one row, not feasible where none keeps to the loss.

    Raises:
        InputError: some keep to the loss, and none of them to the budget; the least that can be had is named. Energy
            of a device whose powers are not known.
    """
    every = Candidates.measured(problem, scenario.confidence)
    spent = every.objective(scenario.weights(budget.of))
    if objective == "throughput":
        value = seconds_per_item(every.costs, np.array(scenario.weights()))
    else:
        value = every.objective(scenario.weights(objective))
    accurate = every.bound >= problem.base_accuracy - scenario.max_loss
    kept = accurate & (spent <= budget.most)
    if accurate.any() and not kept.any():
        unit, scale = ("J", 1.0) if budget.of == "energy" else ("ms", 1e3)
        raise InputError(
            f"max {budget.of}: no measured strategy that loses at most {scenario.max_loss:g} keeps to "
            f"{budget.most * scale:g} {unit}; the least that can be had is "
            f"{_rounded_up(float(spent[accurate].min()) * scale)} {unit}"
        )
    return every.best(value, kept, None if objective != "throughput" else every.objective(scenario.weights()))


def _rounded_up(value: float) -> str:
    """Four digits of a number, so that a budget of them can be kept."""
    shown = f"{value:.4g}"
    if float(shown) >= value:
        return shown
    return f"{value + 10.0 ** (math.floor(math.log10(value)) - 3):.4g}"
