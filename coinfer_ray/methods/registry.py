"""The methods that the proposed one is compared with, one file each.

Every method is a function ``solve(network, weights, *, cuts)`` over a batch of scenarios: ``network`` is a
:class:`coinfer_ray.optimizer.problem.Problem`, or a :class:`coinfer_ray.problem.costs.DelayCalculator` alone where the
method needs no records; ``weights`` (S, 3) are the scenarios' costs of a device FLOP, a server FLOP and an uplink bit
(``Scenario.weights``).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from coinfer_ray.methods import all_local, all_server, neurosurgeon
from coinfer_ray.methods.partition import BaselineResult, Network
from coinfer_ray.problem.space import Cuts

__all__ = ["METHODS", "BaselineResult", "Method", "Network"]


class Method(Protocol):
    """``cuts`` matters only to a method that chooses its partition point."""

    def __call__(self, network: Network, weights: np.ndarray, *, cuts: Cuts = "all") -> BaselineResult: ...


METHODS: dict[str, Method] = {
    "all_local": all_local.solve,
    "all_server": all_server.solve,
    "neurosurgeon": neurosurgeon.solve,
}
