"""The strategies behind a predictor, with the accuracies that were measured: facts beside its predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LATER = ("snr_db", "error")  # what files of earlier versions lack


@dataclass(frozen=True, eq=False)
class Measured:
    """M strategies that were really trained.

    ``x`` (M, V): their variables' values. ``accuracy`` (M,): the mean over ``trainings``
    (M,) int64 of each. ``feature_bits`` (M,) int64: of a value that crosses the link. ``uplink_bit`` (M,): what was
    sent of an image, in the mean. ``snr_db`` (M,): of the link that each was trained and measured through, NaN without
    noise. ``error`` (M,): the standard error of its loss against the base network, measured once; further trainings
    take little off it, since the images stay the same. NaN where the records do not say.
    """

    x: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    trainings: NDArray[np.int64]
    feature_bits: NDArray[np.int64]
    uplink_bit: NDArray[np.float64]
    snr_db: NDArray[np.float64]
    error: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.accuracy)

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        y: np.ndarray,
        groups: np.ndarray,
        feature_bits: np.ndarray,
        uplink_bit: np.ndarray,
        snr_db: np.ndarray,
        error: np.ndarray,
    ) -> Measured:
        """Of records with variables ``x`` (n, V), accuracies ``y``, bits of a value, bits sent, their links' ratios in
        dB, and standard errors of their losses, all (n,); ``groups`` (n,) number strategies and ratios."""
        _, first, counts = np.unique(groups, return_index=True, return_counts=True)
        accuracy, sent, variance = (np.bincount(groups, weights=each) / counts for each in (y, uplink_bit, error**2))
        trainings = counts.astype(np.int64)
        return cls(x[first], accuracy, trainings, feature_bits[first], sent, snr_db[first], np.sqrt(variance))

    def beside(self, others: Measured) -> Measured:
        """These and then ``others``, none of which is among them."""
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return Measured(*(np.concatenate(pair) for pair in pairs))

    @property
    def fingerprint(self) -> str:
        """Of all of it: answers that rest on other measurements are other answers."""
        digest = hashlib.sha256()
        for name, column in vars(self).items():
            if name in _LATER and np.isnan(column).all():
                continue  # as it was before there were any
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
        names = [f"measured_{field.name}" for field in fields(cls)]
        silent = {f"measured_{name}": np.full(len(arrays[names[0]]), np.nan) for name in _LATER}
        x, *columns = ((silent | dict(arrays))[name] for name in names)
        if x.ndim != 2 or any(column.shape != (len(x),) for column in columns):
            raise ValueError("its measured strategies are broken")
        return cls(x, *columns)
