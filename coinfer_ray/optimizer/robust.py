"""One strategy for speeds and rates that are known as ranges: the one that is never far from the best.

A strategy's latency is c . w for its costs c and the weights w of a scenario, one over each speed and the rate, and the
time of a crossing. Ranges make a box B of them. The best latency L(w) = min_k c_k . w is a least of linear functions
and concave, and the *regret* of a strategy is the share by which it may be slower than what would have been the best:

    R(c) = max_{w in B} c . w / L(w) - 1

The w at which c . w <= t L(w) are convex whatever t is, so the ratio is quasi-convex and greatest at a corner of the
box: sixteen corners at most give R exactly (the relative regret of robust optimization: Kouvelis and Yu, Robust
Discrete Optimization, 1997). A share and not seconds: in seconds the slowest corner alone would decide.

The measured strategies are few enough to look at all of them, which proves the least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, TypeAlias, TypedDict, Unpack

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.models.source import ModelLike, resolve_model
from coinfer_ray.optimizer.candidates import Candidates, Source
from coinfer_ray.optimizer.optimize import explain_infeasible, split_options
from coinfer_ray.optimizer.problem import Problem, ProblemOptions, assemble
from coinfer_ray.optimizer.solve import check_snr
from coinfer_ray.problem.strategy import Strategy
from coinfer_ray.scenarios.read import resolve
from coinfer_ray.scenarios.scenario import CostModel, Device, Given, Link, Scenario, Server

Interval: TypeAlias = "float | tuple[float, float]"
Role = Literal["least_regret", "middle", "worst_case", "plain_split"]
RANGED = ("device_gflops", "server_gflops", "rate_mbps", "round_trip_ms")


class RangeNumbers(TypedDict, total=False):
    """What a box of scenarios takes in numbers.

    ``device_gflops``, ``server_gflops`` (1e9 FLOP/s), ``rate_mbps`` (1e6 bit/s) and ``round_trip_ms`` (1e-3 s) are each
    a number or a pair, the least and the greatest. The rest is what a single scenario takes
    (:class:`coinfer_ray.scenarios.read.ScenarioNumbers`).
    """

    device_gflops: Interval | None
    server_gflops: Interval | None
    rate_mbps: Interval | None
    round_trip_ms: Interval | None
    bandwidth_mhz: float | None
    snr_db: float | None
    cost_model: CostModel | None
    server_load: float | None
    max_loss: float
    confidence: float | None


class RobustOptions(ProblemOptions, RangeNumbers, total=False):
    """Everything that may be said of a problem and of a box of scenarios."""


@dataclass(frozen=True)
class Place:
    """Where in a box: speeds in FLOP/s (None for a side whose layers' times were measured), the rate in bit/s, the
    round trip in s."""

    device_flops_per_s: float | None
    server_flops_per_s: float | None
    rate_bps: float
    round_trip_s: float

    @classmethod
    def of(cls, scenario: Scenario) -> Place:
        """That of a scenario."""
        device, server, link = scenario.device, scenario.server, scenario.link
        return cls(
            None if device.times else device.flops_per_s,
            None if server.times else server.flops_per_s,
            link.rate_bps,
            link.round_trip_s,
        )


@dataclass(frozen=True)
class Box:
    """All scenarios between ``slow``, of the least speeds and rate and the longest round trip, and ``fast``."""

    slow: Scenario
    fast: Scenario

    def corners(self) -> list[Scenario]:
        """Its corners, each once: 16 where all four are ranges, the slowest first."""
        slow, fast = self.slow, self.fast
        rates = dict.fromkeys((slow.link.rate_bps, fast.link.rate_bps))
        trips = dict.fromkeys((slow.link.round_trip_s, fast.link.round_trip_s))
        sides = dict.fromkeys((slow.device, fast.device)), dict.fromkeys((slow.server, fast.server))
        return [
            replace(slow, device=device, server=server, link=replace(slow.link, rate_bps=rate, round_trip_s=trip))
            for device, server, rate, trip in product(*sides, rates, trips)
        ]

    def middle(self) -> Scenario:
        """The geometric mean of speeds and rates, which are ratios; round trips add up, and theirs is the mean."""
        slow, fast = self.slow, self.fast
        trip = (slow.link.round_trip_s + fast.link.round_trip_s) / 2
        link = replace(slow.link, rate_bps=_between(slow.link.rate_bps, fast.link.rate_bps), round_trip_s=trip)
        return replace(
            slow,
            device=replace(slow.device, flops_per_s=_between(slow.device.flops_per_s, fast.device.flops_per_s)),
            server=replace(slow.server, flops_per_s=_between(slow.server.flops_per_s, fast.server.flops_per_s)),
            link=link,
        )


@dataclass(frozen=True)
class RobustChoice:
    """A strategy, and what a box of scenarios may do to it.

    ``chosen_as``: ``least_regret``; ``middle``, the fastest in the middle of the box; ``worst_case``, the fastest where
    all is slowest; ``plain_split``, the least regret of the network as it is, cut anywhere or nowhere. ``regret`` is
    the greatest share by which it is slower than the best there, and ``worst_at`` where that is so. Latencies in s:
    least, in the middle, greatest. ``loss`` and the accuracy as a :class:`coinfer_ray.optimizer.pareto.FrontPoint` has
    them.
    """

    chosen_as: Role
    regret: float
    worst_at: Place
    least_latency_s: float
    middle_latency_s: float
    greatest_latency_s: float
    loss: float
    accuracy: float
    accuracy_source: Source
    trainings: int
    cut_after: str
    strategy: Strategy

    def to_json(self) -> dict[str, Any]:
        """The choice as JSON can say it."""
        return vars(self) | {"worst_at": vars(self.worst_at), "strategy": self.strategy.to_json()}


@dataclass(frozen=True)
class Robust:
    """What to choose for ``model`` at ``input_px`` pixels where all that is known lies between ``slow`` and ``fast``.

    ``choices`` are those of :class:`RobustChoice`, in its order; a plain split only where ``max_loss`` allows one.
    ``looked_at``: strategies that keep to it with that ``confidence``, all compared at ``corners`` corners of the box.
    """

    model: str
    input_px: int
    base_accuracy: float
    max_loss: float
    confidence: float
    slow: Place
    fast: Place
    corners: int
    looked_at: int
    choices: tuple[RobustChoice, ...]

    @property
    def gain(self) -> float | None:
        """How many times closer to the best than the best plain split the least regret stays, at worst; None without a
        plain split: (1 + its regret) / (1 + the least)."""
        plain = next((each for each in self.choices if each.chosen_as == "plain_split"), None)
        return None if plain is None else (1 + plain.regret) / (1 + self.choices[0].regret)

    def to_json(self) -> dict[str, Any]:
        """The object that ``coinfer robust --json`` prints."""
        return vars(self) | {
            "slow": vars(self.slow),
            "fast": vars(self.fast),
            "gain": self.gain,
            "choices": [each.to_json() for each in self.choices],
        }


def robust(
    model: ModelLike,
    device: Device | Given | None = None,
    server: Server | Given | None = None,
    link: Link | Given | None = None,
    **options: Unpack[RobustOptions],
) -> Robust:
    """The strategy of the least regret over ranges of speeds, rates and round trips.

    A strategy's regret is the greatest share by which it is slower than the strategy that is the fastest there,
    anywhere in the ranges. It is exact, and so is the least: all measured strategies that lose at most ``max_loss``
    with the ``confidence``, and the network as it is at every cut, are compared at every corner of the ranges, where
    the greatest is taken. Beside it: the fastest in the middle (geometric means of speeds and rates, the mean round
    trip), the fastest where all is slowest, and the plain split of the least regret.

    ``device_gflops``, ``server_gflops``, ``rate_mbps`` and ``round_trip_ms`` are numbers or pairs, (2, 20); all else in
    ``options``, and ``model``, ``device``, ``server`` and ``link``, is what :func:`coinfer_ray.optimize` takes.

    Raises:
        InputError: as :func:`coinfer_ray.optimize` raises it; a range that falls, or is none; ``confidence=None``.
        TypeError: an option that there is not.
    """
    of_problem, of_scenario = split_options("robust", options)
    network = resolve_model(model).name
    box = box_of(network=network, device=device, server=server, link=link, **of_scenario)
    return choose(assemble(model, times=box.slow.times, **of_problem), box)


def box_of(**numbers: Any) -> Box:
    """The box of the arguments of :func:`coinfer_ray.scenarios.read.resolve`, those of :data:`RANGED` as ranges.

    Raises:
        InputError: the first of them that cannot be used.
    """
    ends = {name: ends_of(name, numbers[name]) for name in RANGED if numbers.get(name) is not None}
    least, greatest = ({name: pair[side] for name, pair in ends.items()} for side in (0, 1))
    if "round_trip_ms" in ends:  # the slowest has the longest
        least["round_trip_ms"], greatest["round_trip_ms"] = ends["round_trip_ms"][::-1]
    return Box(resolve(**{**numbers, **least}), resolve(**{**numbers, **greatest}))


def ends_of(name: str, given: Interval) -> tuple[float, float]:
    """The ends of a range, or a number twice; whether it can be a speed, a rate or a time is for others to say.

    Raises:
        InputError: neither a number nor two that rise.
    """
    pair = given if isinstance(given, tuple | list) else (given, given)
    what = name.replace("_", " ")
    try:
        low, high = (float(each) for each in pair)
    except (TypeError, ValueError):
        raise InputError(f"{what}: {given!r} is no range; give a number, or two such as (2, 20)") from None
    if not -math.inf < low <= high < math.inf:
        raise InputError(f"{what}: the range {low:g}:{high:g} must rise, from the least to the greatest, and be finite")
    return low, high


def choose(problem: Problem, box: Box) -> Robust:
    """The choices of an assembled problem for a ``box``; as :func:`robust`.

    Raises:
        InputError: predictions would have to count, no strategy loses as little as is allowed, or records of a noisy
            channel and a link without its SNR.
    """
    slow, middle = box.slow, box.middle()
    pool = comparable(problem, slow)
    corners = box.corners()
    with np.errstate(over="ignore"):
        in_middle, slowest, fastest = (pool.objective(each.weights()) for each in (middle, slow, box.fast))
    if not np.isfinite(slowest).all():
        raise InputError("ranges: where all is slowest no number holds a latency; give greater speeds and rates")
    share = shares(pool, corners)
    regret = share.max(axis=1) - 1
    # Of equal regrets the fastest in the middle; a box that is a point is then the fastest at it.
    by_regret = np.lexsort((in_middle, regret))
    rows: dict[Role, int] = {
        "least_regret": int(by_regret[0]),
        "middle": int(in_middle.argmin()),
        "worst_case": int(slowest.argmin()),
    }
    if pool.known.any():
        rows["plain_split"] = int(by_regret[pool.known[by_regret]][0])

    def choice(role: Role, row: int) -> RobustChoice:
        strategy = problem.space.strategy(pool.levels[row])
        return RobustChoice(
            chosen_as=role,
            regret=float(regret[row]),
            worst_at=Place.of(corners[int(share[row].argmax())]),
            least_latency_s=float(fastest[row]),
            middle_latency_s=float(in_middle[row]),
            greatest_latency_s=float(slowest[row]),
            loss=problem.base_accuracy - float(pool.bound[row]),
            accuracy=float(pool.accuracy[row]),
            accuracy_source=pool.source(row),
            trainings=int(pool.trainings[row]),
            cut_after=problem.graph.cut_name(strategy.partition_point),
            strategy=strategy,
        )

    return Robust(
        model=problem.graph.model,
        input_px=problem.graph.input_px,
        base_accuracy=problem.base_accuracy,
        max_loss=slow.max_loss,
        confidence=float(slow.confidence or 0),
        slow=Place.of(slow),
        fast=Place.of(box.fast),
        corners=len(corners),
        looked_at=len(pool),
        choices=tuple(choice(role, row) for role, row in rows.items()),
    )


def comparable(problem: Problem, scenario: Scenario) -> Candidates:
    """The strategies whose measured accuracy keeps to the scenario's loss with its confidence.

    Raises:
        InputError: no confidence is asked for, so that predictions would count; nothing keeps to the loss.
    """
    if scenario.confidence is None:
        raise InputError(
            "confidence: all measured strategies are compared here, and --confidence 0 takes predictions, which are "
            "too many; give a confidence such as 0.9"
        )
    check_snr(problem, np.array([np.nan if scenario.link.snr_db is None else scenario.link.snr_db]))
    every = Candidates.measured(problem.at_link(scenario.link.snr_db), scenario.confidence)
    kept = every.bound >= problem.base_accuracy - scenario.max_loss
    if not kept.any():
        raise explain_infeasible(problem, scenario, predictions=False)
    return every.take(kept)


def shares(pool: Candidates, scenarios: Sequence[Scenario]) -> np.ndarray:
    """(K, S) how many times the least latency in each scenario each of the candidates takes there."""
    latency = np.column_stack([pool.objective(each.weights()) for each in scenarios])
    found: np.ndarray = latency / latency.min(axis=0)
    return found


def _between(low: float, high: float) -> float:
    """The geometric mean; of a number and itself that number."""
    return low if low == high else math.sqrt(low) * math.sqrt(high)
