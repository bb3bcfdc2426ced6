"""Boosting that sees what no single variable says, distilled into trees over the variables themselves.

What a strategy costs in accuracy depends on sums and products of its variables: how much is pruned in all, how much
in each stage of the network, how much gets through the link. From some hundred records trees learn such a sum badly,
one variable at a time. Told the sums (:class:`Aggregates`) they err less. But the search wants trees over the
variables: its proofs bound an ensemble over boxes of levels.

So a **teacher** is fitted to the records: the mean of a Gaussian process over the aggregates and a few variables, which
is smooth, and of a few monotone ensembles over variables and aggregates, which are not. A **student**, one monotone
ensemble over the variables alone, is fitted to the teacher's answers for thousands of strategies of the sampling plan:
C. Bucila et al., "Model Compression" (KDD 2006). What the student then still lacks at the records themselves a second
monotone ensemble is fitted to. The sum of the two predicts, and is monotone as they are; nothing behind it knows of
the teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from coinfer_kernels.notation import CODEC_VARIABLES, CODEC_WIDTH_1
from numpy.typing import NDArray

from coinfer_ray.predictor.gaussian_process import GaussianProcess
from coinfer_ray.problem.costs import DelayCalculator
from coinfer_ray.problem.sampling import plan_levels
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import FLOAT_BITS

TEACHERS = 4  # ensembles
LESSONS = 12_000  # strategies that the teacher answers: a prefix of a plan that no collection uses
_PLAN_SEED = 0x7EAC4E5
_KERNELS = (1, 4)  # of the codec's parameters the sizes of its kernels
_RATIOS = (0, 3, 6, 7)  # of the codec's parameters those that say how many channels or values a stage makes


class Aggregates:
    """What the teacher sees of strategies beside their variables.

    For features ``x`` (n, F), the SNR may be among them, (n, A) float64: of the logarithms of the shares of channels
    kept the least, the sum over all prunable sets, that over the sets of each width alone, as a stage has one, and
    that over the sets which additions tie, whose channels run through many blocks; the logarithm of the network's
    FLOPs; the number of stages that the codec has and the logarithm of its FLOPs (for so many FLOPs it is trained: a
    costly codec sees fewer images); the logarithm of the bits on the link, of its factor that is channels, and of the
    one that is places; of the code's values to one of the feature, and of the share of places that the codec's kernels
    see, for one smaller than its stride sees not all.

    ``directions`` (A,) as in :func:`coinfer_ray.predictor.regressors.directions`.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._delay, self._without_codec = (DelayCalculator(space, codec_flops=counted) for counted in (True, False))
        sets = space.graph.prunable_sets
        widths = np.array([prunable.channels for prunable in sets])
        tied = np.array([prunable.unit == 1 and len(prunable.layers) > 1 for prunable in sets])
        self._groups = [*(widths == width for width in np.unique(widths)), tied]
        self.directions = [1] * (2 + len(self._groups)) + [0] * 6 + [1, 1]

    def __call__(self, x: np.ndarray) -> NDArray[np.float64]:
        kept, levels = np.log1p(-x[:, : self._space.sets]), self._nearest_levels(x)
        costs = self._delay.costs(levels)
        bits = np.log(np.maximum(costs[:, 2], 1.0))
        flops = self._without_codec.costs(levels)[:, :2].sum(axis=1)
        codec_flops = np.log1p(costs[:, :2].sum(axis=1) - flops)
        channels = self._channels(x, kept, levels[:, self._space.cut_variable])
        pruned = [kept.min(axis=1), kept.sum(axis=1), *(kept[:, sets].sum(axis=1) for sets in self._groups)]
        codec = x[:, self._space.codec_variable :][:, :CODEC_VARIABLES]
        convolutions, layers = codec[:, :CODEC_WIDTH_1].reshape(-1, 2, 3), codec[:, CODEC_WIDTH_1:]
        codec_stages = (convolutions != 1).any(axis=2).sum(axis=1) + (layers != 1).sum(axis=1)
        places = bits - channels - np.log(FLOAT_BITS)
        kernels, strides = convolutions[:, :, 1], convolutions[:, :, 2]
        code = np.log(codec[:, _RATIOS]).sum(axis=1) - 2 * np.log(strides).sum(axis=1)
        seen = 2 * np.log(np.minimum(kernels / strides, 1)).sum(axis=1)
        return np.column_stack([*pruned, np.log(flops), codec_stages, codec_flops, bits, channels, places, code, seen])

    def _nearest_levels(self, x: np.ndarray) -> NDArray[np.int64]:
        values = [np.asarray(variable.values) for variable in self._space.variables]
        nearest = [np.abs(column[:, None] - known).argmin(axis=1) for column, known in zip(x.T, values, strict=False)]
        return np.column_stack(nearest)

    def _channels(self, x: np.ndarray, kept: np.ndarray, at: np.ndarray) -> NDArray[np.float64]:
        """Logarithm of the channels that the encoder makes of those that reach the cut, which is at level ``at``."""
        cost, first = self._delay.tables, self._space.codec_variable
        of_set = np.column_stack([kept, np.zeros(len(kept))])[np.arange(len(kept)), cost.cut_set[at]]
        sets = np.append([prunable.channels for prunable in self._space.graph.prunable_sets], 1)
        ratios = np.log(x[:, [first + place for place in _RATIOS]]).sum(axis=1)
        total: NDArray[np.float64] = np.log(sets[cost.cut_set[at]] * cost.cut_channels[at]) + of_set + ratios
        return total


class DistilledBoosting:
    """A regressor with scikit-learn's ``fit`` and ``predict``: the sum of ``parts`` once it is fitted.

    ``build`` makes an unfitted monotone ensemble of the directions of its features and a seed.
    """

    def __init__(
        self, space: SearchSpace, directions: list[int], build: Callable[[list[int], int], Any], seed: int
    ) -> None:
        self.space, self.directions, self.build, self.seed = space, directions, build, seed
        self.parts: tuple[Any, ...] = ()

    def fit(self, x: np.ndarray, y: np.ndarray) -> DistilledBoosting:
        """Fit to features ``x`` (n, F), the SNR last where the directions have one more than the space, and ``y``."""
        lessons, answers = self._taught(x, y)
        student = self.build(self.directions, self.seed)
        student.set_params(learning_rate=0.2, max_features=1.0).fit(lessons, answers)
        correction = self.build(self.directions, self.seed)
        correction.set_params(max_iter=50, learning_rate=0.05, min_samples_leaf=5).fit(x, y - student.predict(x))
        self.parts = student, correction
        return self

    def predict(self, x: np.ndarray) -> NDArray[np.float64]:
        predicted: NDArray[np.float64] = np.sum([part.predict(x) for part in self.parts], axis=0)
        return predicted

    def _taught(self, x: np.ndarray, y: np.ndarray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lessons and what a teacher answers that was fitted to ``x`` and ``y``."""
        aggregates = Aggregates(self.space)
        lessons, shown = self._lessons(x)
        seen = np.column_stack([x, aggregates(x)])
        answers = np.zeros(len(lessons))
        for number in range(TEACHERS):
            ensemble = self.build([*self.directions, *aggregates.directions], self.seed + number)
            answers += ensemble.fit(seen, y).predict(shown) / TEACHERS
        kernels = self.space.codec_variable + np.array(_KERNELS)
        # The cut, the codec's kernels, the SNR where there is one, and the aggregates.
        smooth = np.r_[self.space.cut_variable, kernels, len(self.space.variables) : seen.shape[1]]
        process = GaussianProcess(self.seed).fit(seen[:, smooth], y)
        return lessons, (answers + process.predict(shown[:, smooth])) / 2

    def _lessons(self, x: np.ndarray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Features like ``x``, and those with the aggregates behind them."""
        values, sums = _lessons_of(self.space)
        if x.shape[1] > values.shape[1]:
            snr_db = np.random.default_rng(self.seed).choice(x[:, -1], len(values))
            values = np.column_stack([values, snr_db])
        return values, np.column_stack([values, sums])


@lru_cache(maxsize=2)  # every fold of a cross-validation asks for the same
def _lessons_of(space: SearchSpace) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features and aggregates of the strategies that a teacher of that space answers."""
    levels = plan_levels(space, LESSONS, _PLAN_SEED)
    values: NDArray[np.float64] = space.tables.values[np.arange(len(space.variables)), levels]
    return values, Aggregates(space)(values)
