"""Random streams that belong to what is computed, not to the thread that computes it.

A stream is four words of state (4,) uint64 of xoshiro256** (Blackman and Vigna, 2021), seeded through SplitMix64
from (seed, scenario, solution). A result is therefore the same for any number of threads or workers.
"""

from math import log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coinfer_kernels.jit import inner, kernel

# All operands are uint64: with a signed one, numba would compute in float64.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_5, _7, _9, _11, _17, _19, _27, _30, _31, _45, _57 = (
    np.uint64(number) for number in (5, 7, 9, 11, 17, 19, 27, 30, 31, 45, 57)
)
_TO_UNIT = 2.0**-53

Stream = NDArray[np.uint64]


@inner
def _mix(z: Any) -> Any:
    z = (z ^ (z >> _30)) * _MIX_1
    z = (z ^ (z >> _27)) * _MIX_2
    return z ^ (z >> _31)


@kernel
def seed_stream(stream: Stream, seed: int, scenario: int, solution: int) -> None:
    """Fill the state of the stream that belongs to (seed, scenario, solution)."""
    z = _mix(np.uint64(seed) + _GOLDEN)
    z = _mix((z ^ np.uint64(scenario)) + _GOLDEN)
    z = _mix((z ^ np.uint64(solution)) + _GOLDEN)
    for word in range(4):
        z += _GOLDEN
        stream[word] = _mix(z)


@kernel
def uniform(stream: Stream) -> float:
    """Next number, uniform in [0, 1) with 53 bits."""
    s1 = stream[1]
    r = s1 * _5
    r = ((r << _7) | (r >> _57)) * _9
    stream[2] ^= stream[0]
    stream[3] ^= s1
    stream[1] ^= stream[2]
    stream[0] ^= stream[3]
    stream[2] ^= s1 << _17
    stream[3] = (stream[3] << _45) | (stream[3] >> _19)
    unit: float = (r >> _11) * _TO_UNIT
    return unit


@kernel
def normal(stream: Stream) -> float:
    """Next number of N(0, 1), by Marsaglia's polar method."""
    while True:
        a = 2.0 * uniform(stream) - 1.0
        b = 2.0 * uniform(stream) - 1.0
        square = a * a + b * b
        if 0.0 < square < 1.0:
            return a * sqrt(-2.0 * log(square) / square)
