"""Methods that train in a way of their own, and choose among what they were really trained to.

Their choices ship beside the records (:mod:`coinfer_ray.records.choices`), each trained from the same base network, by
the same means and on as many images as a candidate of ours where the method's own paper leaves that open
(:mod:`coinfer_ray.training.compared`), so their rows need no predictor. Every method may also leave the network as it
is, cut anywhere: that is what its smallest setting comes to. With a confidence a measured accuracy counts less a margin
by its own standard error, as that of a measured strategy of ours does.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.methods.partition import cheapest, partition_costs
from coinfer_ray.optimizer.answers import Answers
from coinfer_ray.optimizer.problem import Problem, each_confidence
from coinfer_ray.problem.strategy import FLOAT_BITS
from coinfer_ray.records.choices import Choices, shipped_choices
from coinfer_ray.scenarios.batch import ScenarioBatch


@dataclass(frozen=True)
class Trained:
    """See :class:`coinfer_ray.methods.registry.Method`. ``floats_only`` leaves out choices that send values at fewer
    bits than a float has, as the paper's comparison does; ``in_paper``: whether that comparison has the method;
    ``encodes``: what it sends is a learned codec's, which a channel's noise reaches. No choice was trained for noise,
    so where the records come from a noisy channel such a method leaves the network as it is.

    ``extra["bits"]`` are those of a value, 0 where it is a float.
    """

    name: str
    title: str
    floats_only: bool = False
    in_paper: bool = True
    encodes: bool = False
    predicts = False
    plain = False

    def available(self, model: str, input_px: int) -> bool:
        """Whether choices of it ship for the network, of those that it may take."""
        try:
            choices = shipped_choices(model, input_px).of(self.name)
        except InputError:
            return False
        return bool((choices.feature_bits == FLOAT_BITS).any()) or not self.floats_only

    def solve(self, problem: Problem, batch: ScenarioBatch, *, seed: int = 0) -> Answers:
        """The cheapest of its choices that keep to the allowed loss.

        Raises:
            InputError: no choices of it ship for the network and input size, or see :func:`choose`.
        """
        graph = problem.graph
        choices = shipped_choices(graph.model, graph.input_px).of(self.name, problem.accuracy)
        widths = {FLOAT_BITS} if self.floats_only else set(problem.space.feature_bits)
        # Where floats and 8 bits may be chosen from, so may what a method has of other widths.
        return choose(problem, batch, choices, widths=None if len(widths) > 1 else widths, encodes=self.encodes)


def choose(
    problem: Problem,
    batch: ScenarioBatch,
    choices: Choices,
    *,
    widths: Collection[int] | None = None,
    encodes: bool = False,
) -> Answers:
    """:meth:`Trained.solve` by choices of one's own; ``widths``: the bits of a value that may be sent, None for all.

    Raises:
        InputError: they started from another base network than the problem's records, or costs are measured seconds.
    """
    if any(problem.delay.times):
        raise InputError(
            "methods: what trained methods cost is known in operations alone; leave them out, or give the device's and "
            "the server's speed"
        )
    points = np.unique(problem.space.variables[problem.space.cut_variable].values).astype(np.int64)
    base = choices.base_accuracy
    if problem.fitted is not None:
        # One network measured on two kinds of machines differs in an image or two; losses are of one machine each.
        base = problem.base_accuracy
        wanted = problem.predictor.settings.get("base_fingerprint")
        if wanted != choices.base_fingerprint:
            raise InputError(
                f"methods: the choices start from the base network {choices.base_fingerprint}, the records from "
                f"{wanted}; compare them with the shipped records, or train choices for yours with "
                "scripts/collect_methods.py"
            )
    usable = np.isin(choices.partition_point, points)
    if widths is not None:
        ends = np.isin(choices.partition_point, (0, len(problem.graph.layers)))  # where nothing is quantised
        usable &= ends | np.isin(choices.feature_bits, list(widths))
    if encodes and problem.fitted is not None and problem.fitted.noisy:
        usable[:] = False
    costs = choices.costs[usable]
    if not problem.delay.tables.codec_flops:
        costs = costs - np.column_stack([choices.codec_flop[usable], np.zeros(len(costs))])
    # The network as it is first: it wins a tie.
    reached = np.concatenate([np.full(len(points), base), base - choices.loss[usable]])
    error = np.concatenate([np.full(len(points), np.nan), _errors(problem, choices)[usable]])
    bits = np.concatenate([np.full(len(points), FLOAT_BITS), choices.feature_bits[usable]])
    costs = np.vstack([partition_costs(problem.delay)[points], costs])
    trainings = np.concatenate([np.zeros(len(points), dtype=np.int64), choices.trainings[usable]])
    where = np.concatenate([points, choices.partition_point[usable]])
    floor = base - batch.max_loss[:, None] - 1e-12
    allowed = reached - _quantiles(problem, batch)[:, None] * np.nan_to_num(error) >= floor
    chosen, objective = cheapest(costs, batch, allowed)
    return Answers.unproven(
        objective,
        costs[chosen],
        where[chosen],
        reached[chosen],
        known=trainings[chosen] == 0,
        choices=len(where),
        trainings=trainings[chosen],
        error=error[chosen],
        extra={"bits": np.where(bits[chosen] == FLOAT_BITS, 0, bits[chosen])},
    )


def _errors(problem: Problem, choices: Choices) -> np.ndarray:
    """(K,) what the choices' losses err by; where they do not say, what is usual of the problem's records."""
    if problem.fitted is None:
        return choices.error
    usual: np.ndarray = np.where(np.isnan(choices.error), problem.fitted.calibration.usual_error, choices.error)
    return usual


def _quantiles(problem: Problem, batch: ScenarioBatch) -> np.ndarray:
    """(S,) how many standard errors a measured accuracy counts less, with each scenario's confidence."""
    quantiles = np.zeros(len(batch))
    if problem.fitted is None:
        return quantiles
    asked = each_confidence(batch.confidence, len(batch))
    for each in np.unique(asked[~np.isnan(asked)]):
        quantiles[asked == each] = problem.predictor.calibration.margin(1.0, float(each))
    return quantiles
