"""The weighted median, AdaBoost's way to make one prediction of many."""

from coinfer_kernels.jit import inner
from coinfer_kernels.notation import FloatArray


@inner
def _sort_pairs(keys: FloatArray, partners: FloatArray) -> None:
    """Sort both by ``keys``, in place (Shell sort: numba's own sort takes seconds to compile)."""
    gap = keys.shape[0] // 2
    while gap > 0:
        for i in range(gap, keys.shape[0]):
            key, partner = keys[i], partners[i]
            j = i
            while j >= gap and keys[j - gap] > key:
                keys[j], partners[j] = keys[j - gap], partners[j - gap]
                j -= gap
            keys[j], partners[j] = key, partner
        gap //= 2


@inner
def weighted_median(values: FloatArray, weights: FloatArray) -> float:
    """The smallest value whose cumulative weight reaches half of all (AdaBoost.R2, Drucker, 1997); sorts in place."""
    _sort_pairs(values, weights)
    total = 0.0
    for t in range(values.shape[0]):
        total += weights[t]
    cumulated = 0.0
    for t in range(values.shape[0]):
        cumulated += weights[t]
        if cumulated >= 0.5 * total:
            break
    median: float = values[t]
    return median
