"""What two networks measured on the same images say of each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def paired_error(gained: ArrayLike, lost: ArrayLike, images: float) -> NDArray[np.float64]:
    """The standard error of a loss, a share of the images.

    Of so many images ``gained`` are those that only the one network and ``lost`` those that only the other gets right.
    The one loses (lost - gained) / images against the other; what both get right or wrong cancels, and what is left has
    the variance (lost + gained - (lost - gained)^2 / images) / images^2 (Q. McNemar, Psychometrika 12, 1947). NaN where
    a count is.
    """
    more, less = np.asarray(gained, dtype=np.float64), np.asarray(lost, dtype=np.float64)
    error: NDArray[np.float64] = np.sqrt(more + less - (less - more) ** 2 / images) / images
    return error


def accuracy_beside(row: Mapping[str, Any], split: str, base: float) -> float:
    """The accuracy of a row of records beside a base network of that accuracy (``Records.accuracy``)."""
    reached = float(row[f"{split}_accuracy"])
    return reached if row.get(f"{split}_lost") is None else reached + (base - row[f"base_{split}_accuracy"])
