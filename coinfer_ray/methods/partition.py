"""The network as it is, cut at a point: what the methods without compression choose from."""

from __future__ import annotations

import numpy as np

from coinfer_ray.optimizer.answers import Answers
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.problem.costs import DelayCalculator
from coinfer_ray.problem.strategy import FLOAT_BITS
from coinfer_ray.scenarios.batch import ScenarioBatch


def partition_costs(delay: DelayCalculator) -> np.ndarray:
    """(N + 1, 3) device FLOPs, server FLOPs (or seconds) and uplink bits of the unmodified network at points 0..N.

    At 0 the input is sent, at N nothing, between them floats; rows of points at which more than one tensor crosses
    mean nothing.
    """
    graph, tables = delay.space.graph, delay.tables
    device, server = np.concatenate([np.zeros((1, 2)), np.cumsum(delay.layer_costs(), axis=0)]).T
    bits = [graph.input_elements * tables.input_bits]
    bits += [layer.output_elements * FLOAT_BITS for layer in graph.layers[:-1]]
    return np.column_stack([device, server[-1] - server, [*bits, 0.0]])


def cheapest(
    costs: np.ndarray, batch: ScenarioBatch, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Which of the choices ``costs`` (K, 3) is the cheapest in each of the batch's S scenarios, and its objective.

    ``allowed`` (S, K) bool leaves choices out; where none is left the objective is infinite. Ties go to the first.
    One pass over the choices, so the scenarios' product with them is never stored.
    """
    weights = batch.weights
    objective = np.full(len(weights), np.inf)
    chosen = np.zeros(len(weights), dtype=np.int64)
    for choice, (device, server, uplink) in enumerate(costs):
        if batch.stream:
            value = (weights[:, :3] * (device, server, uplink)).max(axis=1)
        else:
            # Summed in one order whatever the batch: a product of matrices rounds differently with its size.
            value = weights[:, 0] * device + weights[:, 1] * server + weights[:, 2] * uplink
            if uplink > 0 and weights.shape[1] == 4:
                value += weights[:, 3]
        better = value < objective if allowed is None else allowed[:, choice] & (value < objective)
        objective[better], chosen[better] = value[better], choice
    return chosen, objective


def cheapest_partition(problem: Problem, batch: ScenarioBatch, points: np.ndarray) -> Answers:
    """The cheapest of the partition ``points`` (K,) of the unmodified network in each scenario. Its feature is sent as
    bits, so that no channel's noise reaches it."""
    sure = problem.fitted is not None
    costs = partition_costs(problem.delay)[points]
    chosen, objective = cheapest(costs, batch)
    return Answers.unproven(
        objective,
        costs[chosen],
        np.asarray(points, dtype=np.int64)[chosen],
        accuracy=np.full(len(batch), problem.base_accuracy if sure else np.nan),
        known=np.full(len(batch), sure),
        choices=len(points),
    )
