"""The strategies behind a predictor, with the accuracies that were measured: facts beside its predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Measured:
    """M strategies that were really trained over a noise-free link.

    ``x`` (M, F): their variables' values, as the predictor sees them. ``accuracy`` (M,): the mean over ``trainings``
    (M,) int64 of each. ``feature_bits`` (M,) int64: of a value that crosses the link. ``uplink_bit`` (M,): what was
    sent of an image, in the mean.
    """

    x: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    trainings: NDArray[np.int64]
    feature_bits: NDArray[np.int64]
    uplink_bit: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.accuracy)

    @classmethod
    def of(
        cls, x: np.ndarray, y: np.ndarray, groups: np.ndarray, feature_bits: np.ndarray, uplink_bit: np.ndarray
    ) -> Measured:
        """Of records with features ``x`` (n, F), accuracies ``y`` (n,), bits of a value and bits sent (n,);
        ``groups`` (n,) number their strategies."""
        _, first, counts = np.unique(groups, return_index=True, return_counts=True)
        means = [np.bincount(groups, weights=each) / counts for each in (y, uplink_bit)]
        return cls(x[first], means[0], counts.astype(np.int64), feature_bits[first], means[1])

    @classmethod
    def none(cls, variables: int) -> Measured:
        """No strategies of so many variables."""
        numbers, whole = np.empty(0), np.empty(0, dtype=np.int64)
        return cls(np.empty((0, variables)), numbers, whole, whole, numbers)

    @property
    def fingerprint(self) -> str:
        """Of all of it: answers that rest on other measurements are other answers."""
        digest = hashlib.sha256()
        for column in vars(self).values():
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()[:16]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        return {f"measured_{name}": value for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Measured:
        """Rebuild from what :meth:`to_arrays` gave.

        Raises:
            ValueError: arrays that are no measurements.
            KeyError: an array is missing.
        """
        x, *columns = (arrays[f"measured_{field.name}"] for field in fields(cls))
        if x.ndim != 2 or any(column.shape != (len(x),) for column in columns):
            raise ValueError("its measured strategies are broken")
        return cls(x, *columns)
