"""Measured strategies beside predictions, and margins that are calibrated on answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from coinfer_kernels import Scenarios, features
from hypothesis import given
from hypothesis import strategies as st

from coinfer_ray.atlas.atlas import Ranges, solve_by_atlas
from coinfer_ray.atlas.build import build
from coinfer_ray.errors import InputError
from coinfer_ray.methods.proposed import Proposed
from coinfer_ray.methods.prune_partition import PrunePartition
from coinfer_ray.optimizer.optimize import optimize
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.predictor.calibration import MEASURED, SELECTED, Calibration
from coinfer_ray.predictor.measured import Measured
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.records.request import Request
from coinfer_ray.refine.calibrate import calibrated, needed_margins, with_calibration
from coinfer_ray.refine.cases import Case, drawn_cases
from coinfer_ray.scenarios.batch import ScenarioBatch
from tests.synthetic import nothing_measured, true_accuracy, write_synthetic_records

LADDER = (3.0, 1.5, 0.75, 0.0)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_records(tmp_path_factory.mktemp("records") / "r.parquet", repeats=2)


@pytest.fixture(scope="module")
def problem(records: Path) -> Problem:
    return assemble("alexnet", records=records, regressor="monotone_boosting")


def scenarios_of(problem: Problem, cases: Sequence[Case]) -> Scenarios:
    losses = np.array([case.max_loss for case in cases])
    weights = np.array([case.weights for case in cases])
    return Scenarios(weights, problem.base_accuracy - losses, np.full(len(cases), np.nan))


def with_measured(
    problem: Problem, levels: np.ndarray, accuracy: float, trainings: int = 1, error: float = np.nan
) -> Problem:
    """The problem with one measured strategy and no other."""
    values = problem.space.tables.values[np.arange(levels.shape[1]), levels]
    bits = problem.space.cut_bits[levels[:, problem.space.cut_variable]]
    measured = Measured(
        values, np.array([accuracy]), np.array([trainings]), bits, np.array([np.inf]), *np.array([[np.nan], [error]])
    )
    return replace(problem, fitted=replace(problem.predictor, measured=measured))


def test_the_records_strategies_are_known_with_their_means(problem: Problem) -> None:
    own, space = problem.measured, problem.space
    plain = (own.levels[:, space.codec_variable :] == 0).all(axis=1)
    trained = len(np.unique(own.levels[plain][:, : space.sets], axis=0))
    assert (~plain).sum() + trained == 120 and 0 < trained < 120
    assert (own.trainings == 2).all() and plain.sum() == trained * len(problem.graph.cut_points)
    assert (own.find(own.levels) == np.arange(len(own.levels))).all()
    values = problem.space.tables.values[np.arange(own.levels.shape[1]), own.levels]
    assert np.abs(own.accuracy - true_accuracy(space, values)).max() < 0.01
    assert (own.costs == problem.delay.costs(own.levels)).all()
    assert (own.find(problem.known_levels) == -1).all()


def test_a_network_without_a_codec_is_measured_at_every_cut_at_once(problem: Problem) -> None:
    space, sets = problem.space, problem.space.sets
    sparsity = np.zeros((2, len(space.variables)), dtype=np.int64)
    sparsity[:, :sets] = 3
    sparsity[:, space.cut_variable] = np.flatnonzero(space.cut_bits == 32)[[4, 7]]
    values = space.tables.values[np.arange(len(space.variables)), sparsity]
    fitted = replace(
        problem.predictor,
        measured=Measured(values, np.array([0.8, 0.74]), np.array([1, 2]), np.full(2, 32), *np.full((3, 2), np.nan)),
    )
    own = replace(problem, fitted=fitted).measured
    assert sorted(own.levels[:, space.cut_variable]) == np.flatnonzero(space.cut_bits == 32).tolist()
    assert (own.levels[:, :sets] == 3).all() and (own.levels[:, space.codec_variable :] == 0).all()
    assert len(own.levels) == len(problem.graph.cut_points)
    assert own.accuracy == pytest.approx((0.8 + 2 * 0.74) / 3) and (own.trainings == 3).all()


def test_prune_partition_is_the_best_strategy_without_a_codec(problem: Problem) -> None:
    cases = drawn_cases(6, 5, (0.02,))
    scenarios = scenarios_of(problem, cases)
    nothing = np.full(6, np.nan)
    batch = ScenarioBatch(scenarios.weights, np.full(6, 0.02), nothing, nothing)
    found, free = PrunePartition().solve(problem, batch), Proposed().solve(problem, batch)
    assert found.levels is not None and (found.levels[:, problem.space.codec_variable :] == 0).all()
    assert (found.objective >= free.objective * (1 - 2e-3)).all() and (found.objective > free.objective).any()
    # No single-variable step from its answers is better, among strategies that the predictor accepts.
    space = problem.space
    for row in range(6):
        steps = np.repeat(found.levels[row][None], 300, axis=0)
        rng = np.random.default_rng(row)
        which = rng.integers(0, space.codec_variable, 300)
        steps[np.arange(300), which] = rng.integers(0, problem.searched[0].n_levels[which])
        accepted = problem.predictor.predict(features(space.tables, steps, None)) >= scenarios.accuracy_floor[row]
        known = problem.measured.find(steps) >= 0
        cost = problem.delay.costs(steps) @ scenarios.weights[row]
        assert (cost[accepted & ~known] >= found.objective[row] * (1 - 2e-3)).all()


@given(st.integers(0, 2**32 - 1))
def test_find_is_equality_of_rows(seed: int) -> None:
    from coinfer_ray.optimizer.problem import MeasuredLevels, _keys

    rng = np.random.default_rng(seed)
    levels = np.unique(rng.integers(0, 3, (12, 4)), axis=0)
    order = np.argsort(_keys(levels), kind="stable")
    levels = levels[order]
    count = len(levels)
    own = MeasuredLevels(levels, np.zeros((count, 3)), *np.zeros((2, count)), np.ones(count, int), _keys(levels))
    wanted = rng.integers(0, 3, (30, 4))
    rows = levels.tolist()
    expected = [rows.index(row) if row in rows else -1 for row in wanted.tolist()]
    assert own.find(wanted).tolist() == expected


def test_a_measured_strategy_that_holds_is_the_answer_where_it_is_fastest(problem: Problem) -> None:
    cases = drawn_cases(12, 5, (0.02,))
    scenarios = scenarios_of(problem, cases)
    plain = solve(problem, scenarios, "exact", measured=False)
    assert plain.feasible.all()
    coded = np.flatnonzero((problem.measured.levels[:, problem.space.codec_variable :] > 0).any(axis=1))
    cheap = problem.measured.levels[coded[problem.measured.costs[coded, 2].argmin()]][None]
    good = with_measured(problem, cheap, problem.base_accuracy, trainings=3)
    found = solve(good, scenarios, "exact")
    answers = good.answers(found)
    assert answers.trainings is not None
    objective = good.delay.costs(cheap)[0] @ scenarios.weights.T
    wins = objective < plain.objective * (1 - 1e-9)
    assert wins.any() and not wins.all()
    assert (answers.trainings == np.where(wins, 3, 0)).all()
    assert np.allclose(found.objective, np.minimum(plain.objective, objective), rtol=2e-3)
    assert (found.accuracy[wins] == problem.base_accuracy).all()
    assert (found.lower_bound <= found.objective).all()


@pytest.mark.parametrize("optimizer", ["exact", "quantum"])
def test_an_answer_that_was_measured_too_low_is_given_up(problem: Problem, optimizer: str) -> None:
    scenarios = scenarios_of(problem, drawn_cases(1, 5, (0.02,)))
    first = solve(problem, scenarios, optimizer, measured=False)
    assert not problem.is_known(first.levels)[0]
    refuted = with_measured(problem, first.levels, problem.base_accuracy - 0.2)
    found = solve(refuted, scenarios, optimizer)
    assert (found.levels != first.levels).any() and found.feasible[0]
    assert first.objective[0] <= found.objective[0] <= (problem.known_costs @ scenarios.weights[0]).min()
    if not problem.is_known(found.levels)[0]:
        assert found.accuracy[0] >= scenarios.accuracy_floor[0]
        (before,) = problem.predictor.predict(features(problem.space.tables, first.levels, None))
        assert found.accuracy[0] > before


def test_a_confidence_asks_a_margin_of_measured_strategies_too(problem: Problem) -> None:
    scale = problem.predictor.calibration
    sure = with_calibration(problem, Calibration.of_answers(np.full(20, 2.0), scale.base_accuracy, scale.resolution))
    expected = sure.measured.accuracy - 2.0 * MEASURED * scale.resolution  # its records do not say what they err by
    assert np.allclose(sure.measured_bound(0.9), expected) and (sure.measured_bound(None) > expected).all()
    scenarios = scenarios_of(problem, drawn_cases(1, 5, (0.02,)))
    coded = np.flatnonzero((problem.measured.levels[:, problem.space.codec_variable :] > 0).any(axis=1))
    cheap = problem.measured.levels[coded[problem.measured.costs[coded, 2].argmin()]][None]
    for error, above in itertools.product((np.nan, 0.002), (1e-6, -1e-6)):
        margin = 2.0 * (MEASURED * scale.resolution if np.isnan(error) else error)
        one = with_measured(sure, cheap, float(scenarios.accuracy_floor[0]) + margin + above, error=error)
        answers = one.answers(solve(one, scenarios, "quantum", confidence=0.9))
        assert answers.trainings is not None
        fastest = float(one.delay.costs(cheap)[0] @ scenarios.weights[0])
        assert (answers.trainings[0] == 1) == (above > 0 and answers.objective[0] == fastest)


def test_optimize_says_what_an_answer_rests_on(records: Path) -> None:
    predictor = assemble("alexnet", records=records, regressor="monotone_boosting").predictor
    numbers: dict[str, Any] = {"device_gflops": 0.3, "server": "p100", "rate_mbps": 1.0, "confidence": None}
    found = optimize("alexnet", records=predictor, **numbers)
    assert found.accuracy_source in ("predicted", "measured")
    assert (found.trainings > 0) == (found.accuracy_source == "measured")
    single = replace(predictor, measured=nothing_measured(len(predictor.feature_names)))
    assert optimize("alexnet", records=single, **numbers).trainings == 0


def test_a_predictor_keeps_measurements_and_calibration(problem: Problem, tmp_path: Path) -> None:
    scale = problem.predictor.calibration
    answers = Calibration.of_answers(np.array([0.0, 1.5, np.inf]), scale.base_accuracy, scale.resolution)
    replace(problem.predictor, calibration=answers).save(tmp_path / "p.npz")
    again = Predictor.load(tmp_path / "p.npz")
    assert again.calibration.rests_on == "answers" and again.provenance()["calibrated_on"] == "answers"
    assert (again.measured.accuracy == problem.predictor.measured.accuracy).all()
    assert again.calibration.factor(0.5) == 1.5
    with pytest.raises(InputError, match=r"confidence: 0\.75 was not reached by any margin"):
        again.calibration.factor(0.75)
    with pytest.raises(InputError, match="scenarios whose answers were trained"):
        again.calibration.factor(0.9)


def test_drawn_cases_are_a_prefix_of_more_of_them() -> None:
    many = drawn_cases(200, 3, (0.01, 0.05))
    assert many[:7] == drawn_cases(7, 3, (0.01, 0.05)) and many != drawn_cases(200, 4, (0.01, 0.05))
    weights = np.array([case.weights for case in many])
    assert ((weights[:, 0] >= 1e-12) & (weights[:, 0] <= 1e-8)).all()
    assert ((weights[:, 2] >= 1e-9) & (weights[:, 2] <= 1e-5)).all()
    assert abs(np.log10(weights[:, 0]).mean() + 10) < 0.3
    assert [case.max_loss for case in many[:4]] == [0.01, 0.05, 0.01, 0.05]


class Trainer:
    """Measures strategies by a function instead of training, and counts what it is asked for."""

    def __init__(self, problem: Problem, flatter: float) -> None:
        self.problem, self.flatter, self.asked = problem, flatter, list[Request]()

    def loss(self, request: Request) -> float:
        levels = self.problem.space.levels(request.strategy)[None]
        predicted = self.problem.predictor.predict(features(self.problem.space.tables, levels, None))[0]
        return float(self.problem.base_accuracy - predicted + self.flatter)

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[int, Mapping[str, Any]]]:
        self.asked += requests
        for position, request in reversed(list(enumerate(requests))):
            row = {"status": "ok"}
            for split in ("validation", "test"):
                row |= {f"base_{split}_accuracy": 0.8, f"{split}_accuracy": 0.8 - self.loss(request)}
            yield position, row


def test_needed_margins_are_those_that_make_up_for_the_flattery(problem: Problem) -> None:
    """Every prediction is too good by the same amount: the least margin of the ladder that covers it is what is
    needed."""
    bare = replace(problem, fitted=replace(problem.predictor, measured=nothing_measured(16)))
    cases = drawn_cases(9, 2, (0.02, 0.05))
    scale = problem.predictor.calibration
    for flatter in (-0.01, 0.012):
        trainer = Trainer(bare, flatter)
        found = needed_margins(bare, cases, trainer, ladder=LADDER)
        assert len(trainer.asked) == len({repr(request) for request in trainer.asked}) or flatter > 0
        for case in found:
            qs = [step.q for step in case.steps]
            assert qs == list(LADDER[: len(qs)])
            assert all(step.kept for step in case.steps[:-1])
            for step in case.steps:
                if step.source == "base":
                    assert step.kept and step.validation_loss is None
                    continue
                assert step.validation_loss is not None and step.source == "predicted"
                assert step.kept == (step.validation_loss <= case.case.max_loss + 1e-9)
                assert step.latency_s <= step.plain_s * (1 + 1e-9)
            kept = [step.q for step in case.steps if step.kept]
            assert case.needed == (min(kept) if kept else np.inf)
        if flatter < 0:
            assert all(case.needed == 0.0 for case in found)
        else:  # a margin of q gives up q r at least
            assert all(case.needed > 0.0 or case.steps[-1].source == "base" for case in found)
    better = calibrated(problem.predictor, found)
    assert better.calibration.rests_on == "answers" and len(better.calibration.scores) == 9
    assert better.calibration.resolution == scale.resolution


def fastest_of_all(problem: Problem, scenarios: Scenarios, confidence: float) -> np.ndarray:
    """(S,) by looking at every measured strategy and every plain cut, one at a time."""
    margin = SELECTED * NormalDist().inv_cdf(confidence) * MEASURED * problem.predictor.calibration.resolution
    best = []
    for weights, floor in zip(scenarios.weights, scenarios.accuracy_floor, strict=True):
        costs = [float(one @ weights) for one in problem.known_costs]
        for one, accuracy in zip(problem.measured.costs, problem.measured.accuracy, strict=True):
            if accuracy - margin >= floor:
                costs.append(float(one @ weights))
        best.append(min(costs))
    return np.array(best)


@pytest.mark.parametrize("optimizer", ["exact", "quantum", "paper"])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_without_trust_the_best_measured_strategy_is_the_answer(
    problem: Problem, optimizer: str, confidence: float
) -> None:
    assert not problem.predictor.trusted
    scenarios = scenarios_of(problem, drawn_cases(25, 8, (0.01, 0.03, 0.1)))
    found = solve(problem, scenarios, optimizer, confidence=confidence)
    answers = problem.answers(found)
    assert answers.trainings is not None
    assert (answers.known | (answers.trainings > 0)).all() and (answers.trainings > 0).any()
    assert np.allclose(found.objective, fastest_of_all(problem, scenarios, confidence), rtol=1e-12)
    assert (found.lower_bound == found.objective).all() and (found.gap == 0).all()
    bound = problem.accuracy_bound(answers, confidence)
    assert (bound >= scenarios.accuracy_floor - 1e-12).all()


def test_confidences_and_none_side_by_side(problem: Problem) -> None:
    scenarios = scenarios_of(problem, drawn_cases(12, 8, (0.02, 0.05)))
    asked = np.resize([np.nan, 0.9, 0.6], 12)
    mixed = solve(problem, scenarios, "quantum", confidence=asked, max_evaluations=3_000)
    for each in (None, 0.9, 0.6):
        rows = np.isnan(asked) if each is None else asked == each
        alone = solve(problem, scenarios, "quantum", confidence=each, max_evaluations=3_000)
        assert (mixed.levels[rows] == alone.levels[rows]).all()


def test_an_atlas_for_a_confidence_holds_measured_strategies_alone(problem: Problem) -> None:
    ranges = Ranges.of_speeds((2e8, 1e12), (1.06e13, 1.06e13), (1e5, 1e8))
    atlases = [build(problem, ranges, max_loss=loss, confidence=0.9, threads=1, quiet=True) for loss in (0.04, 0.1)]
    rng = np.random.default_rng(3)
    device, rate = (10 ** rng.uniform(*np.log10(ends), 50) for ends in ((2e8, 1e12), (1e5, 1e8)))
    weights = np.column_stack([1 / device, np.full(50, 1 / 1.06e13), 1 / rate])
    for atlas in atlases:
        assert set(atlas.sources) <= {"base", "measured"} and "measured" in atlas.sources
        floors = np.full(50, problem.base_accuracy - atlas.info.max_loss)
        scenarios = Scenarios(weights, floors, np.full(50, np.nan))
        found = solve_by_atlas(problem, scenarios, atlases, 0.9)
        assert (found.objective <= fastest_of_all(problem, scenarios, 0.9) * 1.001).all()
        assert (found.objective >= fastest_of_all(problem, scenarios, 0.9) * (1 - 1e-9)).all()
