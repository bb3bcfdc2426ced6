"""The strategies behind a predictor, with the accuracies that were measured: facts beside its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Measured:
    """M strategies that were really trained over a noise-free link.

    ``x`` (M, F): their variables' values, as the predictor sees them. ``accuracy`` (M,): the mean over ``trainings``
    (M,) int64 of each.
    """

    x: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    trainings: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.accuracy)

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Measured:
        """Of records with features ``x`` (n, F) and accuracies ``y`` (n,); ``groups`` (n,) number their strategies."""
        _, first, counts = np.unique(groups, return_index=True, return_counts=True)
        return cls(x[first], np.bincount(groups, weights=y) / counts, counts.astype(np.int64))

    @classmethod
    def none(cls, variables: int) -> Measured:
        """No strategies of so many variables."""
        return cls(np.empty((0, variables)), np.empty(0), np.empty(0, dtype=np.int64))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return {f"measured_{name}": value for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Measured:
        """Rebuild from what :meth:`to_arrays` gave.

        Raises:
            ValueError: arrays that are no measurements.
            KeyError: an array is missing.
        """
        x, accuracy, trainings = (arrays[f"measured_{name}"] for name in ("x", "accuracy", "trainings"))
        if x.ndim != 2 or accuracy.shape != (len(x),) or trainings.shape != (len(x),):
            raise ValueError("its measured strategies are broken")
        return cls(x, accuracy, trainings)
