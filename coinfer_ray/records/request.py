"""What is asked of whoever trains strategies, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coinfer_ray.problem.strategy import Strategy


@dataclass(frozen=True)
class Request:
    """One training that is wanted: repeats 0, 1, ... of a strategy are the same one from different seeds."""

    strategy: Strategy
    snr_db: float | None = None
    repeat: int = 0


Measure = Callable[[Sequence[Request]], Iterator[tuple[int, Mapping[str, Any]]]]
