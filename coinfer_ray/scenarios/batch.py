"""Many scenarios as arrays: what every method and optimizer answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coinfer_ray.scenarios.grid import Grid, GridObjective
from coinfer_ray.scenarios.scenario import Goal, Objective, Scenario


@dataclass(frozen=True, eq=False)
class ScenarioBatch:
    """S scenarios.

    ``weights`` (S, 3): cost of a device FLOP, a server FLOP and an uplink bit; (S, 4) where a crossing costs something
    by itself, and that (:meth:`Scenario.weights`); ``max_loss`` (S,) shares; ``confidence`` (S,), NaN where predictions
    are taken as they are; ``snr_db`` (S,), NaN where no noise is known of. ``first`` is the number of the first one in
    the grid that the batch is a part of: with it an answer depends on the scenario's own number and the seed alone.
    ``stream``: what counts is the slowest stage by these weights (:func:`coinfer_ray.problem.costs.seconds_per_item`)
    and not their sum; methods that minimise sums alone refuse it.
    """

    weights: NDArray[np.float64]
    max_loss: NDArray[np.float64]
    confidence: NDArray[np.float64]
    snr_db: NDArray[np.float64]
    first: int = 0
    stream: bool = False

    def __len__(self) -> int:
        return len(self.weights)

    @classmethod
    def of(cls, scenarios: Sequence[Scenario], objective: Goal = "latency") -> ScenarioBatch:
        """The batch of single scenarios.

        Raises:
            InputError: energy is asked of a device whose powers are not known.
        """

        def numbers(values: Sequence[float | None]) -> NDArray[np.float64]:
            return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

        summed: Objective = "latency" if objective == "throughput" else objective
        return cls(
            weights=weight_rows([scenario.weights(summed) for scenario in scenarios]),
            max_loss=numbers([scenario.max_loss for scenario in scenarios]),
            confidence=numbers([scenario.confidence for scenario in scenarios]),
            snr_db=numbers([scenario.link.snr_db for scenario in scenarios]),
            stream=objective == "throughput",
        )

    @classmethod
    def of_grid(cls, grid: Grid, start: int, stop: int, objective: GridObjective = "latency") -> ScenarioBatch:
        """Scenarios ``start`` to ``stop - 1`` of a grid, by their latency or their energy."""
        weights = grid.weights(start, stop) if objective == "latency" else grid.energy_weights(start, stop)
        columns = grid.columns(start, stop)
        return cls(weights, columns["max_loss"], columns["confidence"], columns["snr_db"], first=start)


def weight_rows(weights: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Weights of three or four numbers each as the rows of one array: (S, 4) where any has four, else (S, 3)."""
    width = max((len(each) for each in weights), default=3)
    return np.array([[*each, *(0.0,) * (width - len(each))] for each in weights], dtype=np.float64).reshape(-1, width)
