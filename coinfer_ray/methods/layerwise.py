"""A strategy decided layer by layer: what an agent sees, what its actions mean, and what the whole is worth.

The decision process of AMC (Y. He et al., "AMC: AutoML for Model Compression and Acceleration on Mobile Devices", ECCV
2018) on the lines of this project's space: at one cut, one step for each prunable set that has a layer on the device,
in the network's order, and a last one for the codec. What runs on the server alone is not pruned. A set that additions
tie across the cut counts as one of the device's, since its channels are what the device computes and sends.

The codec has one ratio: a convolution of kernel and stride 1 that leaves that share of the channels, or one linear
layer where a vector crosses. Where nothing crosses there is no such step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from coinfer_kernels import features
from coinfer_kernels.notation import CODEC_RATIO_1, CODEC_WIDTH_1, CUT_NONE, CUT_RAW, CUT_SPATIAL
from numpy.typing import NDArray

from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.problem.costs import objective

LEAST_KEPT = 0.2  # of a set's channels, as in AMC
SLOPE = 30.0  # what each unit of accuracy that is lacking takes off the reward
STATE = 12  # numbers
_KINDS = ("conv", "grouped", "fc", "codec")


@dataclass(frozen=True)
class Judge:
    """Whether strategies are accurate enough for one scenario: measured ones by their measured accuracy, all others by
    what is predicted of them.

    ``floor``: the accuracy to be reached, with ``confidence`` (None: predictions as they are); ``snr_db`` in dB, NaN
    where the predictor needs none, and ``problem`` the one for that link
    (:meth:`coinfer_ray.optimizer.problem.Problem.by_snr`).
    """

    problem: Problem
    floor: float
    confidence: float | None
    snr_db: float

    def __call__(self, levels: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n,) accuracies of canonical strategies ``levels`` (n, V), and (n,) how much more that is than is needed."""
        problem = self.problem
        x = features(problem.space.tables, levels, self.snr_db if problem.predictor.noisy else None)
        accuracy = problem.predictor.predict(x)
        spare = accuracy - problem.required_accuracy(np.array([self.floor]), self.confidence)[0]
        known, place = problem.is_known(levels), problem.measured.find(levels)
        accuracy[known], spare[known] = problem.base_accuracy, problem.base_accuracy - self.floor
        trained = place >= 0
        accuracy[trained] = problem.measured.accuracy[place[trained]]
        spare[trained] = problem.measured_bound(self.confidence)[place[trained]] - self.floor
        return accuracy, spare


def reward(objective: float, reference: float, spare: float) -> float:
    """What an episode's strategy is worth: ln(reference / objective), by which factor it is better than the network as
    it is at that cut, less :data:`SLOPE` times the accuracy that is lacking (``spare`` < 0). A hundredth too little
    weighs as much as a latency 1.35 times as long.

    (A wall, one low reward for all that is not accurate enough, was tried and left nothing to learn from: the agent
    retreats to the network as it is. The bound is held by what is taken from the episodes instead.)
    """
    return float(np.log(reference / objective)) + SLOPE * min(spare, 0.0)


def own_sets(problem: Problem, cut: int) -> list[int]:
    """The variables of the prunable sets with a layer on the device at cut level ``cut``, in the layers' order."""
    graph, point = problem.graph, int(problem.space.variables[problem.space.cut_variable].values[cut])
    first = {layer.name: layer.index for layer in graph.layers}
    starts = [min(first[name] for name in prunable.layers) for prunable in graph.prunable_sets]
    return sorted((row for row, start in enumerate(starts) if start <= point), key=starts.__getitem__)


def codec_variable(problem: Problem, cut: int) -> int | None:
    """The variable of the codec's ratio at cut level ``cut``; None where it has none."""
    kind = problem.delay.tables.cut_kind[cut]
    if kind in (CUT_RAW, CUT_NONE):
        return None
    return problem.space.codec_variable + (CODEC_RATIO_1 if kind == CUT_SPATIAL else CODEC_WIDTH_1)


def level_of(problem: Problem, variable: int, action: float) -> int:
    """The level nearest to an ``action`` in 0..1: the share of channels kept, from :data:`LEAST_KEPT` or the codec's
    least ratio at 0 to everything at 1."""
    values = np.asarray(problem.space.variables[variable].values)
    kept = 1 - values if variable < problem.space.sets else values
    least = LEAST_KEPT if variable < problem.space.sets else float(kept.min())
    return int(np.abs(kept - (least + (1 - least) * min(max(action, 0.0), 1.0))).argmin())


def expressible(problem: Problem, levels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(n,) whether the steps at its cut can lead to each canonical strategy ``levels`` (n, V)."""
    space = problem.space
    found = np.zeros(len(levels), dtype=np.bool_)
    for cut in np.unique(levels[:, space.cut_variable]):
        rows = levels[:, space.cut_variable] == cut
        most = np.zeros(len(space.variables), dtype=np.int64)
        most[space.cut_variable] = cut
        for variable in own_sets(problem, int(cut)):
            most[variable] = level_of(problem, variable, 0.0)
        ratio = codec_variable(problem, int(cut))
        if ratio is not None:
            most[ratio] = level_of(problem, ratio, 0.0)
        found[rows] = (levels[rows] <= most).all(axis=1)
    return found


class Episodes:
    """The episodes of one scenario ``weights`` (3,) or (4,) at the cut level ``cut``, an inner one or the last.

    A state has :data:`STATE` numbers in 0..1. Of the step: its number, the kind of its layer, input channels, output
    channels, stride, kernel size and weights, each a share of the most that a step has. Then what AMC calls reduced,
    the share of the device's operations that decisions so far have saved, and rest, the share in the layers from this
    step on; the last action; the bits at the cut as a share of the unpruned feature's, and the link's share of the
    objective of the network as it is. That last one is constant within a scenario, and stands for the rate.

    ``levels`` (V,) is the strategy as it was decided so far; after the last step ``objective``, ``accuracy`` and
    ``spare`` (:class:`Judge`) are its own.
    """

    def __init__(self, problem: Problem, weights: NDArray[np.float64], judge: Judge, cut: int) -> None:
        self.problem, self.weights, self.judge = problem, weights, judge
        ratio = codec_variable(problem, cut)
        self.variables = own_sets(problem, cut) + ([] if ratio is None else [ratio])
        self._plain = np.zeros((1, len(problem.space.variables)), dtype=np.int64)
        self._plain[0, problem.space.cut_variable] = cut
        self._plain_costs = problem.delay.costs(self._plain)[0]
        self.reference = float(objective(self._plain_costs, weights))
        self._static, self._rest = self._of_steps(int(problem.delay.tables.cut_layers[cut]))
        self._link = float(self._plain_costs[2] * weights[2] / self.reference) if self.reference else 0.0
        self.objective, self.accuracy, self.spare = np.inf, 0.0, -np.inf
        self.reset()

    @property
    def steps(self) -> int:
        return len(self.variables)

    def reset(self) -> NDArray[np.float32]:
        """The first state (:data:`STATE`,) of a new episode."""
        self.levels = self._plain[0].copy()
        self._step, self._action = 0, 1.0
        return self._state(self._plain_costs)

    def step(self, action: float) -> tuple[NDArray[np.float32], float, bool]:
        """Take an ``action`` in 0..1 (:func:`level_of`): the next state, the reward (0 before the end), the end."""
        variable = self.variables[self._step]
        self.levels[variable] = level_of(self.problem, variable, action)
        self._step, self._action = self._step + 1, min(max(action, 0.0), 1.0)
        strategy = self.levels[None]
        costs = self.problem.delay.costs(strategy)[0]
        if self._step < self.steps:
            return self._state(costs), 0.0, False
        self.objective = float(objective(costs, self.weights))
        accuracy, spare = self.judge(strategy)
        self.accuracy, self.spare = float(accuracy[0]), float(spare[0])
        return self._state(costs), reward(self.objective, self.reference, self.spare), True

    def _state(self, costs: NDArray[np.float64]) -> NDArray[np.float32]:
        step = min(self._step, self.steps - 1)
        device, _, bits = self._plain_costs
        reduced = 1 - costs[0] / device if device else 0.0
        sent = costs[2] / bits if bits else 0.0
        now = [reduced, self._rest[step], self._action, sent, self._link]
        state = np.concatenate([self._static[step], now]).astype(np.float32)
        return np.clip(state, 0.0, 1.0, out=state)

    def _of_steps(self, device_layers: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(steps, 7) what a state says of its step alone, and (steps,) the share of operations from it on."""
        graph = self.problem.graph
        layers = {layer.name: layer for layer in graph.layers[:device_layers]}
        flops = np.array([layer.flops for layer in layers.values()], dtype=np.float64)
        rows, rest = [], []
        for number, variable in enumerate(self.variables):
            if variable >= self.problem.space.sets:
                sent = graph.layers[device_layers - 1].out_channels
                rows.append([number, _KINDS.index("codec"), sent, sent, 1, 1, 0])
                rest.append(0.0)
                continue
            own = [layers[name] for name in graph.prunable_sets[variable].layers if name in layers]
            first = own[0]
            kind = "fc" if first.kind == "fc" else "grouped" if first.group_width else "conv"
            stride = max(1, round(first.in_height / first.out_height)) if kind != "fc" else 1
            weights = sum(
                (layer.group_width or layer.in_channels * (layer.in_height * layer.in_width if kind == "fc" else 1))
                * layer.kernel_area
                * layer.out_channels
                for layer in own
            )
            sizes = first.in_channels, first.out_channels, stride, first.kernel_area**0.5, weights
            rows.append([number, _KINDS.index(kind), *sizes])
            rest.append(float(flops[first.index - 1 :].sum() / max(flops.sum(), 1.0)))
        table = np.array(rows, dtype=np.float64)
        return table / np.maximum(table.max(axis=0), 1.0), np.array(rest)
