"""What all scenarios of one network share: its search space, its costs and its predictor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from coinfer_kernels.notation import CUT_NONE, CUT_RAW

from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.predictor.fit import DEFAULT_REGRESSOR
from coinfer_ray.predictor.obtain import obtain_predictor
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.costs import FEATURE_BITS, INPUT_BITS, DelayCalculator
from coinfer_ray.problem.space import Cuts, SearchSpace
from coinfer_ray.records.store import Records, Split


class Solved(NamedTuple):
    """One answer for each scenario: :class:`coinfer_kernels.Solutions`, and a lower bound where one was proven."""

    levels: np.ndarray  # (S, V)
    objective: np.ndarray  # (S,)
    accuracy: np.ndarray  # (S,) predicted, whatever confidence was asked for
    evaluations: np.ndarray  # (S,)
    feasible: np.ndarray  # (S,)
    lower_bound: np.ndarray  # (S,) no strategy that is accurate enough costs less; NaN where nothing is proven


@dataclass(frozen=True)
class Problem:
    """What all scenarios of one network share. Plain arrays inside: it travels to workers, and needs no torch."""

    space: SearchSpace
    delay: DelayCalculator
    predictor: Predictor

    @property
    def graph(self) -> LayerGraph:
        return self.space.graph

    @property
    def base_accuracy(self) -> float:
        """Measured accuracy of the network before pruning and partition."""
        return self.predictor.base_accuracy

    @cached_property
    def known_levels(self) -> np.ndarray:
        """(K, V) strategies whose accuracy is the base accuracy (see the module), one for each such cut."""
        kinds = self.delay.tables.cut_kind
        cuts = np.flatnonzero(np.isin(kinds, (CUT_RAW, CUT_NONE)) | (not self.predictor.noisy))
        levels = np.zeros((len(cuts), len(self.space.variables)), dtype=np.int64)
        levels[:, self.space.cut_variable] = cuts
        return levels

    @cached_property
    def known_costs(self) -> np.ndarray:
        """(K, 3) costs of :attr:`known_levels`."""
        return self.delay.costs(self.known_levels)

    def is_known(self, levels: np.ndarray) -> np.ndarray:
        """(n,) whether the accuracy of each strategy ``levels`` (n, V) is a fact instead of a prediction."""
        known: np.ndarray = (levels[:, None, :] == self.known_levels[None]).all(axis=2).any(axis=1)
        return known

    def required_accuracy(self, floor: np.ndarray, confidence: np.ndarray | float | None) -> np.ndarray:
        """(S,) what a strategy must be predicted to reach, to reach ``floor`` (S,) with that confidence.

        ``confidence`` is one for all or one each (S,); None and NaN take predictions as they are.

        Raises:
            InputError: a confidence that is no probability, or higher than the records can promise.
        """
        asked = _each(confidence, len(floor))
        required = floor.copy()
        for each in np.unique(asked[~np.isnan(asked)]):
            rows = asked == each
            required[rows] = self.predictor.required_accuracy(floor[rows], float(each))
        return required

    def accuracy_bound(self, solved: Solved, confidence: np.ndarray | float | None) -> np.ndarray:
        """(S,) the accuracy that each answer reaches with the confidence that was asked for.

        NaN where none was asked; the base accuracy, a fact, where the network stays as it is. ``confidence`` as in
        :meth:`required_accuracy`.
        """
        asked = _each(confidence, len(solved.accuracy))
        bound = np.full(len(asked), np.nan)
        for each in np.unique(asked[~np.isnan(asked)]):
            rows = asked == each
            bound[rows] = self.predictor.lower_bound(solved.accuracy[rows], float(each))
        facts = ~np.isnan(asked) & self.is_known(solved.levels)
        bound[facts] = solved.accuracy[facts]
        return bound

    def provenance(self) -> dict[str, Any]:
        """What an answer rests on, as JSON can say it: the predictor, its records, and how costs are counted."""
        tables = self.delay.tables
        return {
            "predictor": self.predictor.provenance(),
            "cuts": self.space.cuts,
            "codec_flops": "count" if tables.codec_flops else "neglect",
            "feature_bits": tables.feature_bits,
            "input_bits": tables.input_bits,
        }


def assemble(
    model: str,
    input_px: int | None = None,
    records: Predictor | Records | str | Path | None = None,
    cuts: Cuts = "all",
    codec_flops: bool = True,
    regressor: str = DEFAULT_REGRESSOR,
    accuracy: Split = "validation",
    input_bits: float = INPUT_BITS,
) -> Problem:
    """Read the network's graph, fit or load the predictor, and build the tables.

    ``records`` are records, a predictor, or the path of either; None takes the shipped records. The other
    arguments: :class:`SearchSpace`, :class:`DelayCalculator`, :func:`coinfer_ray.predictor.obtain.obtain_predictor`.

    Raises:
        InputError: unknown names, or records that cannot be used for this network.
    """
    check_input_bits(input_bits)
    predictor = obtain_predictor(records, model=model, input_px=input_px, regressor=regressor, accuracy=accuracy)
    space = SearchSpace(load_graph(model, predictor.input_px), cuts=cuts)
    expected = len(space.feature_names)
    if predictor.feature_names[:expected] != space.feature_names:
        raise InputError(f"predictor: sees other variables than {model} has; fit its records again with `coinfer fit`")
    delay = DelayCalculator(space, feature_bits=FEATURE_BITS, input_bits=input_bits, codec_flops=codec_flops)
    return Problem(space, delay, predictor)


def check_input_bits(input_bits: float) -> None:
    """Raise InputError unless the bits of one element of the input are a number above 0."""
    if not 0 < input_bits < np.inf:
        raise InputError(f"input bits: {input_bits} must be above 0; 8 sends an image's bytes, 32 its floats")


def _each(confidence: np.ndarray | float | None, count: int) -> np.ndarray:
    """(count,) confidences, NaN where none is asked."""
    return np.broadcast_to(np.asarray(np.nan if confidence is None else confidence, dtype=np.float64), (count,))
