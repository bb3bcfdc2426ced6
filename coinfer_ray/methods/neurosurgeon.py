"""Neurosurgeon (Kang et al., ASPLOS 2017): the best partition point of the network as it is, and nothing else.

The paper that this project follows calls it Partition and searches the inner points 1..N-1 only
(``cuts="inner"``); with ``"all"`` the two endpoints are among its choices, as in Neurosurgeon itself.
"""

from __future__ import annotations

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.methods.partition import BaselineResult, Network, cheapest_partition, graph_of
from coinfer_ray.problem.space import Cuts


def solve(network: Network, weights: np.ndarray, *, cuts: Cuts = "all") -> BaselineResult:
    """Least latency (or energy) over the partition points, for the scenarios ``weights`` (S, 3).

    Raises:
        InputError: ``cuts="inner"`` for a network that cannot be cut inside.
    """
    graph = graph_of(network)
    points = graph.cut_points if cuts == "all" else graph.cut_points[1:-1]
    if not points:
        raise InputError(f"model: {graph.model} has no layer boundary that exactly one tensor crosses; use --cuts all")
    return cheapest_partition(network, weights, np.array(points))
