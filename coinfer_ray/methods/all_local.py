"""All_Local: the whole network, as it is, on the device; nothing is sent."""

from __future__ import annotations

import numpy as np

from coinfer_ray.methods.partition import BaselineResult, Network, cheapest_partition, graph_of
from coinfer_ray.problem.space import Cuts


def solve(network: Network, weights: np.ndarray, *, cuts: Cuts = "all") -> BaselineResult:
    """Latency (or energy) of the scenarios ``weights`` (S, 3); ``cuts`` plays no part."""
    return cheapest_partition(network, weights, np.array([len(graph_of(network).layers)]))
