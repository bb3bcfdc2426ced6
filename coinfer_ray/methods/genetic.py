"""A genetic algorithm on the proposed method's problem: the same choices, predictions and measured strategies, another
search (:mod:`coinfer_ray.optimizer.genetic`)."""

from __future__ import annotations

from dataclasses import dataclass

from coinfer_ray.methods.proposed import Proposed


@dataclass(frozen=True)
class Genetic(Proposed):
    """See :class:`coinfer_ray.methods.registry.Method`."""

    optimizer: str = "genetic"
    name = "genetic"
    title = "Genetic algorithm"
