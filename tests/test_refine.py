"""The closed loop's logic, with trainings whose outcome is a known function instead of real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coinfer_kernels import TreeEnsemble

from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.predictor.fit import record_features
from coinfer_ray.predictor.regressors import MONOTONE, build_regressor
from coinfer_ray.records.request import Request
from coinfer_ray.records.store import Records, read_records
from coinfer_ray.refine.cases import Case, cases_of
from coinfer_ray.refine.facts import Facts
from coinfer_ray.refine.rounds import LoopResult, search_loop, with_rows
from coinfer_ray.scenarios.read import parse_grid, resolve
from tests.synthetic import BASE_TEST, BASE_VALIDATION, true_accuracy, write_synthetic_records

MAX_LOSS = 0.02
FLOOR = BASE_VALIDATION - MAX_LOSS
Truth = Callable[[np.ndarray], float]


class FakeTrainer:
    """Measures what ``truth`` says of a strategy's features, and remembers what it was asked for."""

    def __init__(self, problem: Problem, truth: Truth) -> None:
        self.problem = problem
        self.truth = truth
        self.trained: list[Request] = []
        self.shards: dict[tuple[bytes, int], dict[str, Any]] = {}

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        for position in reversed(range(len(requests))):  # in another order than they were asked for
            request = requests[position]
            x = self.problem.space.values(request.strategy)
            key = x.tobytes(), request.repeat
            if key not in self.shards:
                self.trained.append(request)
                self.shards[key] = self._row(request, x)
            yield position, self.shards[key]

    def _row(self, request: Request, x: np.ndarray) -> dict[str, Any]:
        accuracy = self.truth(x)
        row = {
            "candidate": 10_000 + len(self.shards),
            "sparsity": list(request.strategy.sparsity.values()),
            "partition_point": request.strategy.partition_point,
            "codec": list(request.strategy.codec.values()),
            "base_validation_accuracy": BASE_VALIDATION,
            "base_test_accuracy": BASE_TEST,
            "seed": request.repeat,
        }
        if np.isnan(accuracy):
            return row | {"status": "diverged", "error": "the loss is nan"}
        costs = self.problem.delay.costs(self.problem.space.levels(request.strategy))[0]
        names = ("device_flop", "server_flop", "uplink_bit")
        measured = {"validation_accuracy": accuracy, "test_accuracy": accuracy - 0.01, "wall_s": 1.0}
        return row | {"status": "ok"} | measured | dict(zip(names, costs.tolist(), strict=True))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Records:
    return read_records(write_synthetic_records(tmp_path_factory.mktemp("records") / "start.parquet", count=80))


@cache
def assembled(path: str) -> Problem:
    return assemble("alexnet", records=path, feature_bits=32)


def fit(records: Records) -> Problem:
    """The monotone trees without the comparison and the calibration around them: a tenth of a second a round."""
    problem = assembled(records.source)
    x, _ = record_features(records)
    trees = build_regressor(MONOTONE, 0, problem.space).set_params(max_iter=100, learning_rate=0.15)
    ensemble = TreeEnsemble.from_sklearn(trees.fit(x, records.accuracy()))
    return replace(problem, fitted=replace(problem.predictor, ensemble=ensemble))


def case(device: str, link: str, max_loss: float = MAX_LOSS, confidence: float | None = None) -> Case:
    return Case.of(resolve(device=device, server="p100", link=link, max_loss=max_loss, confidence=confidence))


CASES = (case("rpi3b+", "3g"), case("rpi4b", "4g"))


def honest(start: Records) -> Truth:
    space = fit(start).space
    return lambda x: float(true_accuracy(space, x[None])[0])


def run(start: Records, trainer: FakeTrainer, **options: Any) -> LoopResult:
    options = {"budget": 40, "optimizer": "quantum"} | options
    return search_loop(CASES, start, trainer, fit, **options)


def documents(result: LoopResult) -> list[dict[str, Any]]:
    return result.to_json()["scenarios"]


def test_every_answer_is_measured_and_keeps_to_the_bound(start: Records) -> None:
    truth = honest(start)
    trainer = FakeTrainer(fit(start), truth)
    result = run(start, trainer)
    assert result.trained == len(trainer.trained) <= 40
    for state, document in zip(result.states, documents(result), strict=True):
        assert state.best is not None and state.best_latency_s is not None
        strategy = result.problem.space.strategy(np.array(state.best.levels))
        recorded = truth(result.problem.space.values(strategy))
        if state.best.source == "verified":
            assert state.best.accuracy == recorded
        assert document["accuracy"] >= FLOOR
        costs = result.problem.delay.costs(np.array(state.best.levels))[0]
        assert document["latency_s"] == pytest.approx(costs @ np.array(state.case.weights))
        # Never slower than the network as it is, nor than a record that keeps to the bound.
        known = result.problem.known_costs @ np.array(state.case.weights)
        kept = start.accuracy() >= FLOOR
        recorded_best = (start.costs()[kept] @ np.array(state.case.weights)).min()
        assert document["latency_s"] <= min(known.min(), recorded_best) * (1 + 1e-9)
        # Each choice that trained well and was cheapest is the answer.
        met = [step for step in state.steps if step.floor_met]
        assert all(document["latency_s"] <= step.latency_s * (1 + 1e-9) for step in met)


def test_nothing_better_is_predicted_once_settled(start: Records) -> None:
    from coinfer_kernels import Scenarios

    from coinfer_ray.optimizer.solve import solve

    result = run(start, FakeTrainer(fit(start), honest(start)), budget=80)
    assert result.stopped == "settled"
    verified = {step.strategy.partition_point: step for state in result.states for step in state.steps}
    assert verified, "nothing was trained"
    for position, state in enumerate(result.states):
        assert state.best_latency_s is not None
        floor = np.array([state.accuracy_floor + state.margin])
        scenario = Scenarios(np.array([state.case.weights]), floor, np.array([np.nan]))
        found = solve(result.problem, scenario, "quantum", 0, first_scenario=position)
        assert found.objective[0] >= state.best_latency_s * (1 - 1e-3)


def test_killed_and_run_again_it_ends_the_same_and_trains_nothing_twice(start: Records) -> None:
    whole = FakeTrainer(fit(start), honest(start))
    expected = run(start, whole, budget=12)

    class Killed(Exception):
        pass

    stopped = FakeTrainer(fit(start), honest(start))
    truth, left = stopped.truth, iter(range(3))

    def dies(x: np.ndarray) -> float:
        if next(left, None) is None:
            raise Killed
        return truth(x)

    stopped.truth = dies
    with pytest.raises(Killed):
        run(start, stopped, budget=12)
    stopped.trained.pop()  # the one in flight
    assert len(stopped.shards) == 3
    stopped.truth = truth
    again = run(start, stopped, budget=12)
    assert documents(again) == documents(expected)
    assert len(stopped.trained) == len(whole.trained) == len(stopped.shards)


def test_a_truth_far_below_the_prediction_ends_and_still_answers(start: Records) -> None:
    """A cliff that no record shows: all that is pruned in conv1 by a tenth or more loses everything."""
    truth = honest(start)
    trainer = FakeTrainer(fit(start), lambda x: 0.1 if x[0] >= 0.1 else truth(x))
    result = run(start, trainer, budget=30)
    assert result.trained <= 30
    for state in result.states:
        assert state.best is not None
        assert state.best.accuracy is not None and state.best.accuracy >= FLOOR
        failed = [step for step in state.steps if not step.floor_met]
        assert failed, "the cliff was never tried"
        chosen = [result.problem.space.levels(step.strategy).tolist() for step in state.steps]
        assert len({tuple(levels) for levels in chosen}) == len(chosen), "a refuted strategy was chosen again"


def test_trainings_that_diverge_are_no_answers_and_stop_nothing(start: Records) -> None:
    trainer = FakeTrainer(fit(start), lambda x: float("nan"))
    result = run(start, trainer, budget=6)
    assert result.trained == 6
    assert all(state.best is not None and state.best.source in ("base", "records") for state in result.states)
    assert all(step.measured_accuracy is None and not step.floor_met for s in result.states for step in s.steps)


def test_a_budget_is_kept_and_a_larger_one_goes_on(start: Records) -> None:
    trainer = FakeTrainer(fit(start), honest(start))
    few = run(start, trainer, budget=3)
    assert few.trained == len(trainer.trained) == 3
    assert few.stopped == "budget"
    more = run(start, trainer, budget=6)
    assert more.trained == len(trainer.trained) == 6
    for before, after in zip(few.states, more.states, strict=True):
        assert after.best_latency_s is not None and before.best_latency_s is not None
        assert after.best_latency_s <= before.best_latency_s


def test_a_confidence_asks_more_of_the_prediction(start: Records) -> None:
    sure = [replace(one, confidence=0.9) for one in CASES]
    trainer = FakeTrainer(fit(start), honest(start))
    result = search_loop(sure, start, trainer, fit, budget=4, optimizer="quantum")
    steps = [step for state in result.states for step in state.steps]
    assert steps
    for step in steps:
        assert step.accuracy_bound is not None and FLOOR <= step.accuracy_bound < step.predicted_accuracy
    plain = run(start, FakeTrainer(fit(start), honest(start)), budget=4)
    for careful, bold in zip(result.states, plain.states, strict=True):
        assert careful.steps[0].latency_s > bold.steps[0].latency_s
    with pytest.raises(InputError, match="needs at least 999 trained strategies"):
        search_loop([case("tk1", "3g", confidence=0.999)], start, trainer, fit, budget=4)


def test_an_answer_rests_on_several_seeds_and_their_mean(start: Records) -> None:
    """Every first training of a strategy is three points lucky, every further one three points unlucky."""
    truth = honest(start)
    trainer = FakeTrainer(fit(start), truth)
    seen: dict[bytes, int] = {}

    def lucky_first(x: np.ndarray) -> float:
        seen[x.tobytes()] = seen.get(x.tobytes(), 0) + 1
        return truth(x) + (0.03 if seen[x.tobytes()] == 1 else -0.03)

    trainer.truth = lucky_first
    once = run(start, FakeTrainer(fit(start), lambda x: truth(x) + 0.03), budget=60)
    result = run(start, trainer, budget=60, repeats=2)
    assert len(trainer.trained) == result.trained <= 60
    assert {request.repeat for request in trainer.trained} == {0, 1}
    for state, careless in zip(result.states, once.states, strict=True):
        assert state.best is not None and careless.best is not None and careless.best.accuracy is not None
        assert state.settled and state.best.accuracy is not None and state.best.accuracy >= FLOOR
        assert state.best.source == "base" or state.best.trainings >= 2
        if state.best.source == "verified":
            strategy = result.problem.space.strategy(np.array(state.best.levels))
            assert state.best.accuracy == pytest.approx(truth(result.problem.space.values(strategy)))
        # What luck alone had carried over the floor is no answer any more.
        assert state.best_latency_s is not None and careless.best_latency_s is not None
        assert state.best_latency_s > careless.best_latency_s
    with pytest.raises(InputError, match="a budget of 1 trains no strategy 2 times"):
        run(start, trainer, budget=1, repeats=2)


@pytest.mark.parametrize("budget", [3, 7, 12])
def test_a_budget_that_ends_early_leaves_no_answer_in_doubt(start: Records, budget: int) -> None:
    trainer = FakeTrainer(fit(start), honest(start))
    seen: list[LoopResult] = []
    result = run(start, trainer, budget=budget, repeats=3, on_round=seen.append)
    assert result.stopped == "budget" and len(trainer.trained) == result.trained == budget
    assert all(state.best is not None for state in result.states)
    assert all(state.best.source == "base" or state.best.trainings >= 3 for state in result.states if state.best)
    assert seen[-1] is result  # what is kept last is what is returned


def test_a_record_is_confirmed_before_it_is_an_answer(start: Records) -> None:
    """Nothing that is predicted trains well, so the best record is left; its second training refutes it."""
    recorded = {fit(start).space.values(strategy).tobytes() for strategy in start.strategies}
    trainer = FakeTrainer(fit(start), lambda x: 0.2)
    result = run(start, trainer, budget=60, repeats=2)
    again = [
        request for request in trainer.trained if result.problem.space.values(request.strategy).tobytes() in recorded
    ]
    assert again, "no record was confirmed"
    assert result.stopped == "settled"
    assert all(state.best is not None and state.best.source == "base" for state in result.states)


def test_a_training_that_the_records_hold_is_no_confirmation(start: Records) -> None:
    problem = fit(start)
    facts = Facts(problem, start, "validation")
    levels = tuple(problem.space.levels(start.strategies[0]).tolist())
    known = start.table.to_pylist()[0]
    again = facts.add(levels, None, [known])
    assert (again.trainings, again.own, again.accuracy) == (1, 1, known["validation_accuracy"])
    other = facts.add(levels, None, [known | {"seed": known["seed"] + 1, "validation_accuracy": 0.5}])
    assert (other.trainings, other.own) == (2, 2)
    assert other.accuracy == pytest.approx((known["validation_accuracy"] + 0.5) / 2)


def test_measured_rows_join_the_records(start: Records) -> None:
    trainer = FakeTrainer(fit(start), honest(start))
    strategies = start.strategies[:2]
    rows = [row for _, row in trainer([Request(strategy) for strategy in strategies])]
    joined = with_rows(start, [*rows, {**rows[0], "status": "diverged"}])
    assert len(joined) == len(start) + 2
    assert joined.failed == start.failed + 1
    assert joined.accuracy()[-2:].tolist() == [row["validation_accuracy"] for row in rows]
    assert len(start) == 80


def test_a_grids_scenarios_are_its_cases() -> None:
    grid = parse_grid(
        {
            "model": ["alexnet"],
            "device": ["rpi3b+", "tk1"],
            "server": ["p100"],
            "link": ["4g"],
            "max_loss": [0.01, 0.05],
        }
    )
    cases = cases_of(grid, "alexnet")
    assert [one.name for one in cases] == [
        f"{device} p100 4g, loss {loss}" for device in ("rpi3b+", "tk1") for loss in ("0.01", "0.05")
    ]
    assert cases[0] == case("rpi3b+", "4g", 0.01)
    with pytest.raises(InputError, match="give a grid of regnet_x_400mf alone"):
        cases_of(grid, "regnet_x_400mf")


def test_results_are_json_and_say_what_was_tried(start: Records, tmp_path: Path) -> None:
    import json

    seen: list[int] = []
    trainer = FakeTrainer(fit(start), honest(start))
    result = run(start, trainer, budget=2, on_round=lambda so_far: seen.append(so_far.trained))
    assert seen == [0, 2]
    document = json.loads(json.dumps(result.to_json(), allow_nan=False))
    steps = [step for scenario in document["scenarios"] for step in scenario["steps"]]
    assert len(steps) == 2
    assert {"predicted_accuracy", "measured_accuracy", "strategy", "floor_met", "round"} <= set(steps[0])
