"""Which candidates to train: a scrambled Sobol sequence over the decoded levels.

Candidate i is point i of the sequence, whatever the number of candidates, so a collection can be extended and any
part of it redone. Half of the coordinates are spent as the levels themselves; two more set how hard a candidate
is pruned and compressed, so that the region near the identity, where the accuracy bound lies, is covered as well
as the far corners that a uniform cube would mostly draw from.
"""

from __future__ import annotations

import numpy as np

from coinfer_ray.problem.space import SearchSpace

# This share of the candidates sends the feature as it is: methods without a codec live there.
WITHOUT_CODEC = 0.15


def plan_levels(space: SearchSpace, candidates: int, seed: int) -> np.ndarray:
    """Levels (candidates, V) int64 of the first candidates of the plan; every cut is drawn equally often."""
    from coinfer_kernels import canonicalize

    cube = _sobol(len(space.variables) + 2, candidates, seed)
    pruning, compression, variables = cube[:, 0], cube[:, 1], cube[:, 2:]
    n_levels = space.tables.n_levels
    first = space.codec_variable
    scaled = variables.copy()
    # Mean sparsity is spread evenly over 0..1/2 of the range instead of crowding around 1/2.
    scaled[:, : space.sets] *= pruning[:, None]
    coded = np.clip((compression - WITHOUT_CODEC) / (1 - WITHOUT_CODEC), 0, 1)
    scaled[:, first:] = np.where(coded[:, None] > 0, variables[:, first:], 0)
    levels = np.minimum((scaled * n_levels).astype(np.int64), n_levels - 1)
    return canonicalize(space.tables, levels)


def plan_snr_db(candidates: int, low: float, high: float, seed: int) -> np.ndarray:
    """SNR (candidates,) float64 in dB, evenly spread over [low, high] and independent of the levels."""
    return low + (high - low) * _sobol(1, candidates, seed + 1)[:, 0]


def _sobol(dimensions: int, points: int, seed: int) -> np.ndarray:
    from scipy.stats import qmc

    # Whole powers of two keep the sequence balanced and SciPy quiet; a prefix of it is still the same prefix.
    power = max(1, int(np.ceil(np.log2(max(points, 2)))))
    return np.asarray(qmc.Sobol(dimensions, scramble=True, rng=seed).random_base2(power)[:points])
