"""The network as it is, cut at a point: what the methods without compression choose from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.problem.costs import DelayCalculator

if TYPE_CHECKING:
    from coinfer_ray.optimizer.problem import Problem

Network: TypeAlias = "Problem | DelayCalculator"


@dataclass(frozen=True)
class BaselineResult:
    """One row for each of S scenarios.

    ``objective`` (S,) is the weighted cost: seconds or joules, as the weights say; ``costs`` (S, 3) are device
    FLOPs, server FLOPs and uplink bits; ``partition_point`` (S,) int64; ``accuracy`` (S,) is NaN where no records
    say what the base network reaches.
    """

    objective: np.ndarray
    costs: np.ndarray
    partition_point: np.ndarray
    accuracy: np.ndarray


def graph_of(network: Network) -> LayerGraph:
    return _delay_of(network).space.graph


def partition_costs(delay: DelayCalculator) -> np.ndarray:
    """(N + 1, 3) device FLOPs, server FLOPs and uplink bits of the untouched network at points 0..N.

    At 0 the input is sent, at N nothing; rows of points at which more than one tensor crosses mean nothing.
    """
    graph, tables = delay.space.graph, delay.tables
    flops = np.concatenate([[0.0], np.cumsum([layer.flops for layer in graph.layers], dtype=np.float64)])
    bits = [graph.input_elements * tables.input_bits]
    bits += [layer.output_elements * tables.feature_bits for layer in graph.layers[:-1]]
    return np.column_stack([flops, flops[-1] - flops, [*bits, 0.0]])


def cheapest_partition(network: Network, weights: np.ndarray, points: np.ndarray) -> BaselineResult:
    """The cheapest of the partition ``points`` in each scenario ``weights`` (S, 3); ties go to the first.

    One pass over the points, so the scenarios' product with them is never stored.
    """
    costs = partition_costs(_delay_of(network))
    objective = np.full(len(weights), np.inf)
    chosen = np.full(len(weights), points[0], dtype=np.int64)
    for point in points:
        # Summed in one order whatever the batch: a product of matrices rounds differently with its size.
        value = weights[:, 0] * costs[point, 0] + weights[:, 1] * costs[point, 1] + weights[:, 2] * costs[point, 2]
        better = value < objective
        objective[better], chosen[better] = value[better], point
    accuracy = np.nan if isinstance(network, DelayCalculator) else network.base_accuracy
    return BaselineResult(objective, costs[chosen], chosen, np.full(len(weights), accuracy))


def _delay_of(network: Network) -> DelayCalculator:
    return network if isinstance(network, DelayCalculator) else network.delay
