"""What strategies would have done while a link's rate moved: a trace of rates, played again.

Requests come one at a time and each sees the rate of its sample throughout. A strategy's latency is linear in the
weights of a scenario, so the mean over a trace is the latency at the mean weights (the rate's the mean of 1/R), and the
best *fixed* strategy is the single answer there. *Switching* takes the best for each sample. It is the clairvoyant
where all strategies were compared, and within the proven ratio of it where an atlas was asked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Unpack

import numpy as np
from coinfer_kernels import Scenarios, cheapest_feasible

from coinfer_ray.atlas.atlas import StrategyAtlas, load_atlas, solve_by_atlas
from coinfer_ray.errors import InputError
from coinfer_ray.models.source import ModelLike, resolve_model
from coinfer_ray.optimizer.candidates import Candidates, Source
from coinfer_ray.optimizer.optimize import OptimizeOptions, split_options
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.robust import comparable
from coinfer_ray.problem.costs import objective
from coinfer_ray.problem.strategy import Strategy
from coinfer_ray.runtime.outputs import KINDS
from coinfer_ray.scenarios.rate_trace import RateTrace, read_rate_trace
from coinfer_ray.scenarios.read import resolve
from coinfer_ray.scenarios.scenario import Device, Given, Scenario, Server

PolicyName = Literal["switching", "fixed", "plain_split"]
PERCENTILE = 0.95
OF_THE_TRACE = ("rate_mbps", "bandwidth_mhz", "snr_db")  # numbers of a link that its rates take the place of


@dataclass(frozen=True)
class Policy:
    """How a way to choose does over a trace.

    ``name``: ``switching`` to the best strategy of each sample; ``fixed``, the one strategy of the least mean; the
    ``plain_split`` of the least mean, fixed. ``mean_latency_s`` and ``p95_latency_s`` (s) weigh samples by how long
    they hold; for 95 % of the time a request takes the latter or less. ``gap`` is the share by which the mean may be
    above that of the best for each sample, known beforehand: no policy can do better. ``switches`` from one sample to
    the next; ``strategies`` that it uses; ``strategy``, the position among :attr:`Replay.strategies` of a fixed one.
    """

    name: PolicyName
    mean_latency_s: float
    p95_latency_s: float
    gap: float
    switches: int
    strategies: int
    strategy: int | None


@dataclass(frozen=True)
class Used:
    """A strategy that some policy uses: ``share`` of the time for which switching does. ``loss`` and the accuracy as a
    :class:`coinfer_ray.optimizer.pareto.FrontPoint` has them."""

    share: float
    loss: float
    accuracy: float
    accuracy_source: Source
    trainings: int
    cut_after: str
    strategy: Strategy


@dataclass(frozen=True, eq=False)
class Replay:
    """A trace of T samples played again for ``model`` at ``input_px`` pixels.

    ``ratio``: what the atlas proves, None where all strategies were compared instead. ``policies`` are those of
    :class:`Policy`, in its order; a plain split only where ``max_loss`` allows one. ``strategies`` are all that they
    use. By sample: ``chosen`` (T,) positions among them, what switching takes; ``latency_s`` (T,) of it;
    ``fixed_latency_s`` (T,) of the best fixed strategy.
    """

    model: str
    input_px: int
    base_accuracy: float
    max_loss: float
    confidence: float | None
    ratio: float | None
    policies: tuple[Policy, ...]
    strategies: tuple[Used, ...]
    trace: RateTrace
    chosen: np.ndarray
    latency_s: np.ndarray
    fixed_latency_s: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """The object that ``coinfer robust --trace --json`` prints: all but what stands by sample."""
        own = ("model", "input_px", "base_accuracy", "max_loss", "confidence", "ratio")
        return {
            **{name: getattr(self, name) for name in own},
            "samples": len(self.trace),
            "seconds": float(self.trace.duration_s.sum()),
            "policies": [vars(policy) for policy in self.policies],
            "strategies": [vars(used) | {"strategy": used.strategy.to_json()} for used in self.strategies],
        }

    def samples(self) -> list[dict[str, Any]]:
        """One dictionary for each sample, as JSON can say it, with the strategy that switching takes."""
        used = [{"cut_after": one.cut_after, "strategy": one.strategy.to_json()} for one in self.strategies]
        columns = (
            self.trace.seconds,
            self.trace.duration_s,
            self.trace.rate_bps / 1e6,
            self.latency_s,
            self.fixed_latency_s,
            self.chosen,
        )
        names = ("seconds", "duration_s", "rate_mbps", "latency_s", "fixed_latency_s", "strategy_number")
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [dict(zip(names, row, strict=True)) | used[row[-1]] for row in rows]


def replay(
    model: ModelLike,
    device: Device | Given | None = None,
    server: Server | Given | None = None,
    *,
    trace: RateTrace | str | Path,
    atlas: StrategyAtlas | str | Path | None = None,
    **options: Unpack[OptimizeOptions],
) -> Replay:
    """Play a trace of uplink rates again: the best fixed strategy, switching to each sample's best, and plain splits.

    ``trace`` is a CSV file (:func:`coinfer_ray.scenarios.rate_trace.read_rate_trace`) or what it holds. Without an
    ``atlas`` all measured strategies that lose at most ``max_loss`` with the ``confidence`` are compared, and the
    network as it is at every cut; with one (an atlas, its file, or a folder that holds it) its strategies are looked up
    for each sample and for the mean, each proven to the atlas's own ratio, predictions too where it was built without a
    confidence. ``model``, ``device``, ``server`` and ``options`` are those of :func:`coinfer_ray.optimize`, the link's
    rate left out; ``round_trip_ms`` counts.

    Raises:
        InputError: as :func:`coinfer_ray.optimize` raises it; a trace that cannot be read; a rate beside it; an atlas
            of another question; ``confidence=None`` without an atlas.
        TypeError: an option that there is not.
    """
    of_problem, of_scenario = split_options("replay", options)
    beside = [name for name in OF_THE_TRACE if of_scenario.get(name) is not None]
    if beside:
        raise InputError(f"trace: has the rates, and {beside[0]} was given too; leave it out")
    rates = trace if isinstance(trace, RateTrace) else read_rate_trace(trace)
    first = {**of_scenario, "rate_mbps": float(rates.rate_bps[0]) / 1e6}
    network = resolve_model(model).name
    scenario = resolve(**{**first, "network": network, "device": device, "server": server})  # type: ignore[arg-type]
    problem = assemble(model, times=scenario.times, **of_problem)
    return play(problem, scenario, rates, atlas)


@np.errstate(over="ignore")  # what no number holds is refused in a line of its own
def play(
    problem: Problem, scenario: Scenario, trace: RateTrace, atlas: StrategyAtlas | str | Path | None = None
) -> Replay:
    """The replay of an assembled problem: the rates are the ``trace``'s, the rest the ``scenario``'s; as
    :func:`replay`."""
    if problem.fitted is not None and problem.fitted.noisy:
        raise InputError(
            "trace: holds rates alone, and the records come from a noisy channel, whose strategies hold from some "
            "signal-to-noise ratio on; take records without noise"
        )
    weights = np.tile(np.array(scenario.weights()), (len(trace), 1))
    weights[:, 2] = 1 / trace.rate_bps
    share = trace.duration_s / trace.duration_s.sum()
    mean = share @ weights
    asked = np.vstack([weights, mean])
    if atlas is None:
        if scenario.confidence is None:
            raise InputError(
                "confidence: all measured strategies are compared here, and predictions are too many; give one such as "
                "0.9, or --atlas, built with --confidence 0 as well"
            )
        ratio, pool = None, comparable(problem, scenario)
        found, lower = cheapest_feasible(pool.costs, np.zeros(len(pool)), _scenarios(asked, scenario, 0.0))
    else:
        one = atlas_for(atlas, problem, scenario)
        ratio = one.info.ratio
        pool, found, lower = _looked_up(problem, scenario, one, asked)
    plain = Candidates.measured(problem, scenario.confidence)
    plain = plain.take(plain.known & (plain.bound >= problem.base_accuracy - scenario.max_loss))
    rows = [*found.tolist()]
    if len(plain):
        rows.append(len(pool))
        pool = pool.with_others(plain.take(np.array([objective(plain.costs, mean).argmin()])))
    pool, numbers = _in_use(pool, np.array(rows), share)
    chosen, fixed = numbers[: len(trace)], numbers[len(trace) :]
    latency = np.empty(len(trace))
    by_time = [objective(pool.costs[[number]], weights)[0] for number in range(len(pool))]
    if not np.isfinite(by_time).all():
        raise InputError("trace: at its least rate no number holds a latency; put a greater one in its place")
    for number, own in enumerate(by_time):
        latency[chosen == number] = own[chosen == number]
    bound = float(share @ np.minimum(lower[:-1], latency))
    policies = [_policy("switching", latency, share, bound, chosen)]
    names: tuple[PolicyName, ...] = ("fixed", "plain_split")
    for name, number in zip(names, fixed.tolist(), strict=False):  # a plain split may be missing
        policies.append(_policy(name, by_time[number], share, bound, np.array([number])))
    return Replay(
        model=problem.graph.model,
        input_px=problem.graph.input_px,
        base_accuracy=problem.base_accuracy,
        max_loss=scenario.max_loss,
        confidence=scenario.confidence,
        ratio=ratio,
        policies=tuple(policies),
        strategies=tuple(
            _used(problem, pool, number, float(share[chosen == number].sum())) for number in range(len(pool))
        ),
        trace=trace,
        chosen=chosen,
        latency_s=latency,
        fixed_latency_s=by_time[int(fixed[0])],
    )


def atlas_for(atlas: StrategyAtlas | str | Path, problem: Problem, scenario: Scenario) -> StrategyAtlas:
    """The atlas of a problem and a scenario's loss and confidence: itself, of a file, or among those of a folder.

    Raises:
        InputError: none is, or what is there cannot be read.
    """
    if isinstance(atlas, StrategyAtlas):
        there, where = [atlas], "the one given"
    else:
        path, where = Path(atlas), str(atlas)
        files = [path]
        if path.is_dir():
            files = [each for each in sorted(path.iterdir()) if each.is_file() and KINDS["atlas"][1](each)]
        there = [load_atlas(each) for each in files]
    floor = problem.required_accuracy(np.array([problem.base_accuracy - scenario.max_loss]), scenario.confidence)
    snr_db = np.nan if scenario.link.snr_db is None else scenario.link.snr_db
    wanted = json.loads(json.dumps(problem.provenance()))
    for each in there:
        own = json.loads(json.dumps(each.info.problem)) == wanted and each.covers(float(floor[0]), snr_db)
        if own and (each.info.crossings or not scenario.crossing_s):
            return each
    sure = "none" if scenario.confidence is None else f"{scenario.confidence:g}"
    crossings = " --crossings" if scenario.crossing_s else ""
    raise InputError(
        f"atlas: {where} has none of {problem.graph.model} from these records, for a loss of {scenario.max_loss:g} and "
        f"a confidence of {sure}; write it with `coinfer atlas build{crossings}` and the same options"
    )


def percentile(latency: np.ndarray, share: np.ndarray, wanted: float = PERCENTILE) -> float:
    """The least of ``latency`` (T,) such that for ``wanted`` of the time, of which each is a ``share`` (T,), it is no
    more."""
    order = np.argsort(latency, kind="stable")
    reached = np.cumsum(share[order]) >= wanted - 1e-12  # shares add up to 1 but for rounding
    return float(latency[order][int(reached.argmax())])


def _scenarios(weights: np.ndarray, scenario: Scenario, floor: float) -> Scenarios:
    snr_db = np.nan if scenario.link.snr_db is None else scenario.link.snr_db
    return Scenarios(weights, np.full(len(weights), floor), np.full(len(weights), snr_db))


def _looked_up(
    problem: Problem, scenario: Scenario, atlas: StrategyAtlas, weights: np.ndarray
) -> tuple[Candidates, np.ndarray, np.ndarray]:
    """The atlas's strategies for ``weights`` (n, 3) or (n, 4), which of them each takes (n,), and what none is below
    (n,)."""
    floor = problem.base_accuracy - scenario.max_loss
    found = solve_by_atlas(problem, _scenarios(weights, scenario, floor), [atlas], scenario.confidence)
    _, first, which = np.unique(found.levels, axis=0, return_index=True, return_inverse=True)
    some = type(found)._make(column[first] for column in found)
    answers = problem.answers(some)
    trainings = np.zeros(len(first), dtype=np.int64) if answers.trainings is None else answers.trainings
    bound = answers.accuracy
    if scenario.confidence is not None:
        bound = problem.accuracy_bound(answers, scenario.confidence)
    gap = np.full(len(first), atlas.info.ratio - 1)
    pool = Candidates(some.levels, answers.costs, answers.accuracy, bound, answers.known, trainings, gap)
    return pool, which.reshape(-1), found.lower_bound


def _in_use(pool: Candidates, rows: np.ndarray, share: np.ndarray) -> tuple[Candidates, np.ndarray]:
    """The candidates that ``rows`` (n,) name, each strategy once, and the number of each row among them (n,).

    Those of the samples, whose ``share`` (T,) of the time is known, come first among the rows; the strategies stand by
    how much of it is theirs.
    """
    used, which = np.unique(rows, return_inverse=True)
    _, first, same = np.unique(pool.levels[used], axis=0, return_index=True, return_inverse=True)
    numbers = same.reshape(-1)[which.reshape(-1)]
    taken = np.bincount(numbers[: len(share)], weights=share, minlength=len(first))
    order = np.argsort(-taken, kind="stable")
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return pool.take(used[first[order]]), place[numbers]


def _policy(name: PolicyName, latency: np.ndarray, share: np.ndarray, bound: float, numbers: np.ndarray) -> Policy:
    """How a policy with these latencies (T,) does that takes the strategies ``numbers``: (T,), or (1,) a fixed one."""
    mean = float(share @ latency)
    return Policy(
        name=name,
        mean_latency_s=mean,
        p95_latency_s=percentile(latency, share),
        gap=max(mean / bound - 1, 0.0),
        switches=int(np.count_nonzero(np.diff(numbers))),
        strategies=len(np.unique(numbers)),
        strategy=None if name == "switching" else int(numbers[0]),
    )


def _used(problem: Problem, pool: Candidates, row: int, share: float) -> Used:
    strategy = problem.space.strategy(pool.levels[row])
    return Used(
        share=share,
        loss=problem.base_accuracy - float(pool.bound[row]),
        accuracy=float(pool.accuracy[row]),
        accuracy_source=pool.source(row),
        trainings=int(pool.trainings[row]),
        cut_after=problem.graph.cut_name(strategy.partition_point),
        strategy=strategy,
    )
