"""What all scenarios of one network share: its search space, its costs and its predictor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypedDict, Unpack

import numpy as np
from coinfer_kernels.notation import CostTables, Solutions, SpaceTables
from coinfer_kernels.problem import with_cuts

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.source import ModelLike, resolve_model
from coinfer_ray.optimizer.answers import Answers
from coinfer_ray.predictor.calibration import SELECTED
from coinfer_ray.predictor.fit import DEFAULT_REGRESSOR, RecordsSource
from coinfer_ray.predictor.obtain import obtain_predictor
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.costs import INPUT_BITS, DelayCalculator, Times
from coinfer_ray.problem.space import Cuts, SearchSpace
from coinfer_ray.problem.strategy import FLOAT_BITS
from coinfer_ray.records.store import Split, usual_input_px
from coinfer_ray.scenarios.scenario import check_confidence

FeatureBits = Literal["any", "auto", 32, 8]
FEATURE_BITS = {
    "any": (FLOAT_BITS, 8),
    "auto": (FLOAT_BITS, 8),
    "32": (FLOAT_BITS,),
    "8": (8,),
}  # widths by what is asked for
MEASURED_BITS = (6, 4, 2)  # of ``any``: what they cost depends on the cut, so they take part where that was measured
UNREACHABLE = 2.0  # an accuracy that nothing is predicted to reach


@dataclass(frozen=True)
class Problem:
    """What all scenarios of one network share. Plain arrays inside: it travels to workers, and needs no torch.

    Without a predictor only methods that need no records can answer (:mod:`coinfer_ray.methods.registry`).
    ``accuracy`` names the measured accuracy that counts. ``snr_db``: of a link for which measured strategies are looked
    up where the records come from a noisy channel; :meth:`by_snr` sets it.
    """

    space: SearchSpace
    delay: DelayCalculator
    fitted: Predictor | None
    accuracy: Split = "validation"
    snr_db: float | None = None

    @property
    def graph(self) -> LayerGraph:
        return self.space.graph

    @cached_property
    def searched(self) -> tuple[SpaceTables, CostTables]:
        """What an optimizer may choose from by predictions: the tables without the levels of the cut at which only what
        was measured takes part, which are the last ones."""
        tables, cuts = (self.space.tables, self.delay.tables), self.space.searched_cuts
        return tables if cuts == len(self.space.cut_bits) else with_cuts(*tables, np.arange(cuts))

    @property
    def predictor(self) -> Predictor:
        """The predictor.

        Raises:
            InputError: the problem was assembled without records.
        """
        if self.fitted is None:
            raise InputError(f"records: predictions for {self.graph.model} need some; give --records PATH")
        return self.fitted

    @property
    def base_accuracy(self) -> float:
        """Measured accuracy of the network before pruning and partition; NaN without records."""
        return np.nan if self.fitted is None else self.fitted.base_accuracy

    @cached_property
    def known_levels(self) -> np.ndarray:
        """(K, V) strategies whose accuracy is the base accuracy (see the module), one for each such cut."""
        cuts = np.flatnonzero(self.space.cut_bits == FLOAT_BITS)
        levels = np.zeros((len(cuts), len(self.space.variables)), dtype=np.int64)
        levels[:, self.space.cut_variable] = cuts
        return levels

    @cached_property
    def known_costs(self) -> np.ndarray:
        """(K, 3) costs of :attr:`known_levels`."""
        return self.delay.costs(self.known_levels)

    def is_known(self, levels: np.ndarray) -> np.ndarray:
        """(n,) whether each strategy ``levels`` (n, V) is the network as it is, whose accuracy is the base accuracy."""
        known: np.ndarray = (levels[:, None, :] == self.known_levels[None]).all(axis=2).any(axis=1)
        return known

    @cached_property
    def measured(self) -> MeasuredLevels:
        """The strategies of the records that lie in this space, with the accuracies that training gave them.

        Of a noisy channel's those that hold at :attr:`snr_db`; without one, those without a codec, which send bits.
        """
        return MeasuredLevels.of(self)

    def by_snr(self, snr_db: np.ndarray | None) -> list[tuple[Problem, np.ndarray]]:
        """This problem for links of so many dB (S,), as pairs of a problem whose :attr:`measured` hold there and of the
        rows (n,) that it is for: one pair, with itself, where no channel is noisy or :attr:`snr_db` is set."""
        if snr_db is None or self.fitted is None or not self.fitted.noisy or self.snr_db is not None:
            return [(self, np.arange(0 if snr_db is None else len(snr_db)))]
        ratios = self.measured_ratios
        step = np.searchsorted(ratios, np.nan_to_num(snr_db, nan=-np.inf), side="right")
        return [(self._at_steps[each], np.flatnonzero(step == each)) for each in np.unique(step).tolist()]

    def at_link(self, snr_db: float | None) -> Problem:
        """This problem for one link, as :meth:`by_snr`; None and NaN where its ratio is not known."""
        (own, _), *_ = self.by_snr(np.array([np.nan if snr_db is None else snr_db]))
        return own

    @property
    def measured_ratios(self) -> np.ndarray:
        """(N,) the ratios in dB, rising, at which strategies were measured through noise."""
        ratios = self.predictor.measured.snr_db
        return np.unique(ratios[~np.isnan(ratios)])

    @cached_property
    def _at_steps(self) -> list[Problem]:
        """For links below the first of :attr:`measured_ratios`, and from each of them on."""
        return [replace(self, snr_db=ratio) for ratio in (-np.inf, *self.measured_ratios.tolist())]

    def measured_bound(self, confidence: float | None) -> np.ndarray:
        """(M,) the accuracy of each measured strategy, less the calibration's margin for its own error."""
        own = self.measured
        if confidence is None:
            return own.accuracy
        return own.accuracy - self.predictor.calibration.margin(own.error, confidence)

    def required_accuracy(self, floor: np.ndarray, confidence: np.ndarray | float | None) -> np.ndarray:
        """(S,) what a strategy must be predicted to reach, to reach ``floor`` (S,) with that confidence.

        ``confidence`` is one for all or one each (S,); None and NaN take predictions as they are. Where the predictor
        is not to be trusted with one (:attr:`Predictor.trusted`) it is above :data:`UNREACHABLE`, and still other for
        every floor and confidence.

        Raises:
            InputError: a confidence that is no probability, or higher than the records can promise.
        """
        asked = each_confidence(confidence, len(floor))
        required = floor.copy()
        for each in np.unique(asked[~np.isnan(asked)]):
            rows = asked == each
            check_confidence(float(each))
            if self.predictor.trusted:
                required[rows] = self.predictor.required_accuracy(floor[rows], float(each))
            else:  # above what can be reached by the accuracy that has to be measured
                scale = self.predictor.calibration
                required[rows] = UNREACHABLE + floor[rows] + scale.margin(scale.usual_error, float(each))
        return required

    def accuracy_bound(self, answers: Answers, confidence: np.ndarray | float | None) -> np.ndarray:
        """(S,) the accuracy that each answer reaches with the confidence that was asked for.

        NaN where none was asked or nothing is known; the measured accuracy where it is one. ``confidence`` as in
        :meth:`required_accuracy`.
        """
        asked = each_confidence(confidence, len(answers))
        bound = np.full(len(asked), np.nan)
        if self.fitted is None:
            return bound
        error = np.full(len(asked), np.nan) if answers.error is None else answers.error
        for each in np.unique(asked[~np.isnan(asked)]):
            rows = asked == each
            bound[rows] = self.bound_of(answers.accuracy[rows], answers.known[rows], error[rows], float(each))
        return bound

    def bound_of(self, accuracy: np.ndarray, known: np.ndarray, error: np.ndarray, confidence: float) -> np.ndarray:
        """(n,) what strategies of an ``accuracy`` (n,) reach with that confidence: that accuracy where ``known`` (n,)
        says that it is the network as it is, else less a margin, a measurement's where its standard ``error`` (n,) is
        one and not NaN."""
        bound = accuracy.copy()
        trained = ~np.isnan(error) & ~known
        predicted = ~(trained | known)
        if predicted.any():
            bound[predicted] = self.predictor.lower_bound(accuracy[predicted], confidence)
        bound[trained] -= self.predictor.calibration.margin(error[trained], confidence)
        return bound

    def answers(self, solutions: Solutions, snr_db: np.ndarray | None = None) -> Answers:
        """The strategies ``solutions`` of this problem's space with what they cost; ``snr_db`` (S,) of their links,
        which records of a noisy channel need."""
        levels = np.where(solutions.feasible[:, None], solutions.levels, 0)
        points = np.array(self.space.variables[self.space.cut_variable].values, dtype=np.int64)
        costs, bits = self.delay.costs(levels), self.space.cut_bits[levels[:, self.space.cut_variable]]
        trainings, error = np.zeros(len(levels), dtype=np.int64), np.full(len(levels), np.nan)
        for own, rows in self.by_snr(np.full(len(levels), np.nan) if snr_db is None else snr_db):
            place = own.measured.find(levels[rows])
            rows, place = rows[place >= 0], place[place >= 0]
            costs[rows], trainings[rows] = own.measured.costs[place], own.measured.trainings[place]
            error[rows] = own.measured.error[place]
        return Answers(
            objective=solutions.objective,
            costs=costs,
            partition_point=points[levels[:, self.space.cut_variable]],
            accuracy=solutions.accuracy,
            known=self.is_known(levels),
            feasible=solutions.feasible,
            lower_bound=solutions.lower_bound,
            evaluations=solutions.evaluations,
            levels=levels,
            trainings=trainings,
            error=error,
            extra={"bits": np.where(bits == FLOAT_BITS, 0, bits)},
        )

    def provenance(self) -> dict[str, Any]:
        """What an answer rests on, as JSON can say it: the predictor, its records, and how costs are counted."""
        tables, (device, server) = self.delay.tables, self.delay.counted
        measured = {"device": device and device.to_json(), "server": server and server.to_json()}
        return {
            **({"layer_seconds": measured} if any(measured.values()) else {}),
            "predictor": None if self.fitted is None else self.fitted.provenance(),
            "measured": None if self.fitted is None else self.fitted.measured.fingerprint,
            "margin": SELECTED,
            "cuts": self.space.cuts,
            "codec_flops": "count" if tables.codec_flops else "neglect",
            "feature_bits": list(self.space.feature_bits),
            **({"measured_bits": list(self.space.measured_bits)} if self.space.measured_bits else {}),
            "input_bits": tables.input_bits,
            **({} if self.space.multiple == 1 else {"multiple": self.space.multiple}),
        }


@dataclass(frozen=True, eq=False)
class MeasuredLevels:
    """M measured strategies of a search space: ``levels`` (M, V), ``costs`` (M, 3), ``accuracy`` (M,), ``error`` (M,)
    the standard error of its loss, the usual one where the records do not say, ``trainings`` (M,), in the order of
    ``keys`` (M,), by which they are found.

    A pruned network without a codec that sends floats computes the same wherever it is cut, so one that was trained is
    measured at every cut; what was trained of it at several is one measurement. A quantised feature costs the link what
    was left of it after Huffman coding, where that is less than its bits.

    Through noise a codec is measured, at its own cut; it holds at the ratio that it was measured at and above, where
    there is less noise; of several ratios the best counts, for its network may be shipped. What has no codec is sent as
    bits, which arrive as they were: it is measured as above.
    """

    levels: np.ndarray
    costs: np.ndarray
    accuracy: np.ndarray
    error: np.ndarray
    trainings: np.ndarray
    keys: np.ndarray

    @classmethod
    def of(cls, problem: Problem) -> MeasuredLevels:
        """Those of the problem's predictor, if it has one, that lie on the levels of its space and are not the network
        as it is."""
        space = problem.space
        columns = [np.asarray(variable.values) for variable in space.variables]
        if problem.fitted is None:
            none = np.empty((0, len(columns)), dtype=np.int64)
            nothing = np.empty(0)
            return cls(none, np.empty((0, 3)), nothing, nothing, nothing.astype(np.int64), _keys(none))
        measured, cut, bits = problem.fitted.measured, space.cut_variable, problem.fitted.measured.feature_bits
        x = measured.x[:, : len(columns)]
        floats = bits == FLOAT_BITS
        error = np.where(np.isnan(measured.error), problem.fitted.calibration.usual_error, measured.error)
        plain = (x[:, space.codec_variable :] == 1).all(axis=1) & floats
        others = [variable for variable in range(len(columns)) if variable != cut]
        levels = np.column_stack(
            [np.abs(own[:, None] - known).argmin(1) for own, known in zip(x.T, columns, strict=True)]
        )
        levels = levels.astype(np.int64).reshape(-1, len(columns))
        same = (x[:, cut, None] == columns[cut]) & (bits[:, None] == space.cut_bits)
        levels[:, cut] = same.argmax(axis=1)
        near = np.isclose(space.tables.values[np.arange(len(columns)), levels], x, rtol=0, atol=1e-9)
        on_levels, heard = near[:, others].all(axis=1), np.ones(len(x), dtype=np.bool_)
        if problem.predictor.noisy:
            link = -np.inf if problem.snr_db is None else problem.snr_db
            holds = on_levels & same.any(axis=1) & (measured.snr_db <= link)
            heard = _best(levels, np.where(holds, measured.accuracy, -np.inf))
        here, anywhere = on_levels & same.any(axis=1) & ~plain & heard, on_levels & plain
        pooled, accuracy, variance, trainings = _pooled(
            levels[anywhere][:, others], measured.accuracy[anywhere], error[anywhere] ** 2, measured.trainings[anywhere]
        )
        float_cuts = np.flatnonzero(space.cut_bits == FLOAT_BITS)
        cuts = len(float_cuts)
        spread = np.insert(np.repeat(pooled, cuts, axis=0), cut, 0, axis=1)
        spread[:, cut] = np.tile(float_cuts, len(pooled))
        levels = np.vstack([levels[here], spread])
        accuracy = np.concatenate([measured.accuracy[here], np.repeat(accuracy, cuts)])
        error = np.concatenate([error[here], np.repeat(np.sqrt(variance), cuts)])
        trainings = np.concatenate([measured.trainings[here], np.repeat(trainings, cuts)])
        sent = np.where(floats, np.inf, measured.uplink_bit)[here]
        sent = np.concatenate([sent, np.full(len(spread), np.inf)])
        inside = space.is_canonical(levels) & ~problem.is_known(levels)
        order = np.flatnonzero(inside)[np.argsort(_keys(levels[inside]), kind="stable")]
        levels = levels[order]
        costs = problem.delay.costs(levels) if len(levels) else np.empty((0, 3))
        costs[:, 2] = np.minimum(costs[:, 2], sent[order])
        return cls(levels, costs, accuracy[order], error[order], trainings[order], _keys(levels))

    def errors_of(self, levels: np.ndarray) -> np.ndarray:
        """(n,) the standard error of each strategy's loss ``levels`` (n, V), NaN where it is none of these."""
        errors: np.ndarray = np.append(self.error, np.nan)[self.find(levels)]
        return errors

    def find(self, levels: np.ndarray) -> np.ndarray:
        """(n,) the position of each strategy ``levels`` (n, V) among these, -1 where it is none of them."""
        if not len(self.keys):
            return np.full(len(levels), -1)
        wanted = _keys(levels)
        position = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[position] == wanted, position, -1)


def _pooled(
    levels: np.ndarray, accuracy: np.ndarray, variance: np.ndarray, trainings: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of ``levels`` (n, W) that are equal as one: levels, mean accuracy and variance over all trainings, their
    number."""
    rows, which = np.unique(levels, axis=0, return_inverse=True)
    which = which.reshape(-1)  # (n, 1) in NumPy 2.0
    count = np.bincount(which, weights=trainings, minlength=len(rows))
    means = [np.bincount(which, weights=each * trainings, minlength=len(rows)) / count for each in (accuracy, variance)]
    return rows, means[0], means[1], count.astype(np.int64)


def _best(levels: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """(n,) bool: the row of the highest accuracy (n,) of each strategy ``levels`` (n, V); none whose is -inf."""
    order = np.lexsort((-accuracy, _keys(levels)))
    keys = _keys(levels)[order]
    first = np.ones(len(keys), dtype=np.bool_)
    first[1:] = keys[1:] != keys[:-1]
    best = np.zeros(len(keys), dtype=np.bool_)
    best[order[first]] = True
    return best & (accuracy > -np.inf)


def _keys(levels: np.ndarray) -> np.ndarray:
    """(n,) one value for each row of levels (n, V), which fit two bytes each, equal where the rows are."""
    rows = np.ascontiguousarray(levels, dtype=np.int16)
    return rows.view(f"S{2 * rows.shape[1]}").reshape(-1) if len(rows) else np.empty(0, dtype=f"S{2 * rows.shape[1]}")


class ProblemOptions(TypedDict, total=False):
    """What decides a :class:`Problem`, apart from the network; everything may be left out.

    ``input_px``: side of the input in pixels (default: the records'). ``records``: records, a predictor, or the path of
    either (default: the shipped records; a sweep takes a mapping by network as well). ``cuts``: ``all`` partition
    points, or the ``inner`` ones 1..N-1 as in the paper. ``feature_bits``: of a value of the feature on the link, 32 (a
    float, as in the paper), 8, or ``any``: the better of the two, or 6, 4 or 2 where a strategy was measured with them;
    over noisy links floats alone. ``multiple``: kept channels of a
    pruned set in multiples of it (default 1). ``codec_flops``: whether the codec's own FLOPs count. ``input_bits``:
    bits of one element of the raw input on the link. ``accuracy``: the measured accuracy that counts, ``validation`` or
    ``test``. ``regressor``: what is fitted to records (:data:`coinfer_ray.predictor.regressors.REGRESSORS`).
    """

    input_px: int | None
    records: Predictor | RecordsSource | Mapping[str, Any] | None
    cuts: Cuts
    feature_bits: FeatureBits
    multiple: int
    codec_flops: bool
    input_bits: float
    accuracy: Split
    regressor: str


def assemble(
    model: ModelLike, *, predict: bool = True, times: Times = (None, None), **options: Unpack[ProblemOptions]
) -> Problem:
    """Read the network's graph, load or fit the predictor, and build the tables.

    ``model`` is what :func:`coinfer_ray.models.source.resolve_model` takes; where the records carry a layer graph that
    one counts, and none is read or traced. ``predict=False`` leaves the predictor out: for methods that need no
    records, at any ``input_px`` (default: that of the shipped records or of the graph's file, else the paper's 224).

    ``times`` are the scenarios' (:attr:`coinfer_ray.scenarios.scenario.Scenario.times`): where the layers of a side
    were measured its costs are seconds.

    Raises:
        InputError: unknown names, or records that cannot be used for this network.
    """
    input_bits = options.get("input_bits", INPUT_BITS)
    check_input_bits(input_bits)
    accuracy, input_px = options.get("accuracy", "validation"), options.get("input_px")
    source = resolve_model(model)
    predictor = None
    if predict:
        records = options.get("records")
        if isinstance(records, Mapping):
            raise InputError("records: a mapping by network is for a sweep; give the records of the one network")
        predictor = obtain_predictor(
            records,
            model=source,
            input_px=input_px,
            regressor=options.get("regressor", DEFAULT_REGRESSOR),
            accuracy=accuracy,
        )
        input_px = predictor.input_px
    asked = options.get("feature_bits", "any")
    check_name("feature bits", str(asked), tuple(FEATURE_BITS))
    widths, measured_bits = FEATURE_BITS[str(asked)], MEASURED_BITS if asked in ("any", "auto") else ()
    if predictor is not None and predictor.noisy:
        if FLOAT_BITS not in widths:
            raise InputError("feature bits: the records come from a noisy channel, over which floats are sent; give 32")
        widths, measured_bits = (FLOAT_BITS,), ()
    graph = load_graph(source, input_px or usual_input_px(source)) if predictor is None else predictor.layer_graph
    space = SearchSpace(
        graph,
        cuts=options.get("cuts", "all"),
        feature_bits=widths,
        measured_bits=measured_bits,
        multiple=options.get("multiple", 1),
    )
    expected = len(space.feature_names)
    if predictor is not None and predictor.feature_names[:expected] != space.feature_names:
        raise InputError(
            f"predictor: sees other variables than {graph.model} has; fit its records again with `coinfer fit`"
        )
    delay = DelayCalculator(space, input_bits=input_bits, codec_flops=options.get("codec_flops", True), times=times)
    problem = Problem(space, delay, predictor, accuracy)
    noise_free = predictor is not None and not predictor.noisy
    if noise_free and not len(problem.known_levels) and not len(problem.measured.accuracy):
        raise InputError(
            "feature bits: the records have no strategy with quantised features, and inner cuts leave none other; give "
            "--feature-bits any, --cuts all, or records that have some"
        )
    return problem


def check_input_bits(input_bits: float) -> None:
    """Raise InputError unless the bits of one element of the input are a number above 0."""
    if not 0 < input_bits < np.inf:
        raise InputError(f"input bits: {input_bits} must be above 0; 8 sends an image's bytes, 32 its floats")


def each_confidence(confidence: np.ndarray | float | None, count: int) -> np.ndarray:
    """(count,) confidences, NaN where none is asked."""
    return np.broadcast_to(np.asarray(np.nan if confidence is None else confidence, dtype=np.float64), (count,))
