"""Throughput: the strategy by which a stream of items moves fastest, where the slowest stage counts.

Items per second are one over the greatest of the device's, the uplink's and the server's seconds for an item. That is
no weighted sum of costs, which is what the solvers, atlases and sweeps minimise, so it is found among the measured
strategies, by looking at all of them.
"""

from __future__ import annotations

import numpy as np
from coinfer_kernels import Scenarios, Solutions

from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.candidates import Candidates
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.optimizer.solve import DEFAULT_OPTIMIZER, check_snr
from coinfer_ray.problem.costs import seconds_per_item


def check_stream(confidence: float | None, optimizer: str = DEFAULT_OPTIMIZER) -> None:
    """Raise InputError where throughput would have to be found on predictions, or by one of the solvers."""
    if confidence is None or np.isnan(confidence):
        raise InputError(
            "objective: throughput is found among measured strategies alone, and --confidence 0 takes predictions; "
            "give a confidence such as 0.9"
        )
    if optimizer != DEFAULT_OPTIMIZER:
        raise InputError(
            f"objective: for throughput all measured strategies are compared, and {optimizer} does not; leave it out"
        )


def solve_stream(problem: Problem, scenarios: Scenarios, confidence: np.ndarray) -> Solutions:
    """The measured strategy, or the network as it is, of the greatest throughput in each of S scenarios, with the
    ``confidence`` (S,) of each; the objective is seconds for an item. Of equal ones that with the least latency.

    Raises:
        InputError: predictions would have to count, or records of a noisy channel and a link without its SNR.
    """
    check_snr(problem, scenarios.snr_db)
    rows = []
    for weights, floor, snr_db, asked in zip(*scenarios, confidence, strict=True):
        check_stream(asked)
        every = Candidates.measured(problem.at_link(float(snr_db)), float(asked))
        pace, latency = seconds_per_item(every.costs, weights), every.objective(tuple(weights))
        rows.append(every.best(pace, every.bound >= floor, latency))
    return Solutions._make(np.concatenate(column) for column in zip(*rows, strict=True))
