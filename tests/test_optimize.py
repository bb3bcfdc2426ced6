"""One scenario and batches of them: what an answer claims must follow from its strategy."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from coinfer_kernels import Scenarios, Solutions, TreeEnsemble

import coinfer_ray
from coinfer_ray.errors import InputError
from coinfer_ray.methods.registry import METHODS, PLAIN_METHODS
from coinfer_ray.optimizer.optimize import answer, optimize
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import best_accuracy, solve
from coinfer_ray.predictor.fit import fit_predictor
from coinfer_ray.problem.strategy import Codec, Strategy
from coinfer_ray.scenarios.batch import ScenarioBatch
from coinfer_ray.scenarios.read import resolve
from coinfer_ray.scenarios.scenario import Device
from tests.synthetic import beyond_reach, nothing_measured, trusted, write_synthetic_records

QUICK = {"max_evaluations": 4_000, "max_tries": 200, "scales": 8}  # of the paper's algorithm
FEW = {"max_evaluations": 2_000}
DEVICES, LINKS = ("rpi3b+", "rpi4b", "tk1"), ("3g", "4g", "5g", "wifi")


@pytest.fixture(scope="module")
def records_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet-64px.parquet", count=150)


@pytest.fixture(scope="module")
def noisy_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_records(tmp_path_factory.mktemp("noisy") / "alexnet-64px.parquet", count=150, noisy=True)


@pytest.fixture(scope="module")
def problem(records_path: Path) -> Problem:
    found = assemble("alexnet", records=records_path, regressor="decision_tree")
    return replace(found, fitted=trusted(found.predictor))


def paper_scenarios(problem: Problem, max_loss: float = 0.02) -> Scenarios:
    weights = [resolve(device=device, server="p100", link=link).weights() for device in DEVICES for link in LINKS]
    floor = np.full(len(weights), problem.base_accuracy - max_loss)
    return Scenarios(np.array(weights), floor, np.full(len(weights), np.nan))


def batch_of(scenarios: Scenarios, max_loss: float) -> ScenarioBatch:
    count = len(scenarios.weights)
    return ScenarioBatch(scenarios.weights, np.full(count, max_loss), np.full(count, np.nan), scenarios.snr_db)


def assert_equal(a: Solutions, b: Solutions) -> None:
    for name in Solutions._fields:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("cuts", ["all", "inner"])
@pytest.mark.parametrize("optimizer", ["quantum", "paper", "paper-parent"])
def test_no_answer_loses_to_a_method_without_compression(records_path: Path, cuts: str, optimizer: str) -> None:
    problem = assemble("alexnet", records=records_path, cuts=cuts, regressor="decision_tree")
    scenarios = paper_scenarios(problem, max_loss=0.0)
    found = solve(problem, scenarios, optimizer, max_evaluations=200)
    assert found.feasible.all()
    baselines = PLAIN_METHODS if cuts == "all" else ("neurosurgeon",)
    for method in baselines:
        answers = METHODS[method].solve(problem, batch_of(scenarios, 0.0))
        assert (found.objective <= answers.objective * (1 + 1e-12)).all()


def test_exact_answers_are_proven(problem: Problem) -> None:
    scenarios = paper_scenarios(problem)
    begun, found = solve(problem, scenarios, "quantum"), solve(problem, scenarios)
    assert np.isnan(begun.lower_bound).all()
    assert (found.objective <= begun.objective * (1 + 1e-3)).all()
    assert (found.lower_bound <= begun.objective).all()
    assert (found.lower_bound <= found.objective).all()
    assert (1 - found.lower_bound / found.objective <= 1e-3).all()
    again = optimize("alexnet", "rpi3b+", "p100", "3g", records=problem.predictor, confidence=None)
    assert again.lower_bound_s == pytest.approx(found.lower_bound[0], rel=1e-12)
    assert again.gap is not None and again.optimizer == "exact"
    assert 0 <= again.gap <= 1e-3


@pytest.mark.parametrize(("optimizer", "options"), [("quantum", FEW), ("paper", QUICK)])
def test_solutions_are_what_they_claim(problem: Problem, optimizer: str, options: dict[str, int]) -> None:
    scenarios = paper_scenarios(problem)
    found = solve(problem, scenarios, optimizer, **options)
    costs = problem.delay.costs(found.levels)
    np.testing.assert_allclose((costs * scenarios.weights).sum(axis=1), found.objective, rtol=1e-12)
    assert (found.accuracy >= scenarios.accuracy_floor).all()
    known = problem.is_known(found.levels)
    features = np.array([problem.space.values(problem.space.strategy(levels)) for levels in found.levels])
    expected = np.where(known, problem.base_accuracy, problem.predictor.predict(features))
    place = problem.measured.find(found.levels)
    expected = np.where(place >= 0, problem.measured.accuracy[place], expected)
    np.testing.assert_allclose(found.accuracy, expected, rtol=0, atol=1e-12)


def test_a_scenarios_answer_does_not_depend_on_its_batch(problem: Problem) -> None:
    whole = paper_scenarios(problem)
    together = solve(problem, whole, "quantum", seed=5, **FEW)
    for start, stop in ((0, 5), (5, 12)):
        part = Scenarios(*(column[start:stop] for column in whole))
        apart = solve(problem, part, "quantum", seed=5, first_scenario=start, **FEW)
        assert_equal(apart, Solutions(*(column[start:stop] for column in together)))
    assert_equal(together, solve(pickle.loads(pickle.dumps(problem)), whole, "quantum", seed=5, **FEW))


def test_a_floor_above_the_base_accuracy_excludes_the_untouched_network(problem: Problem) -> None:
    scenarios = paper_scenarios(problem, max_loss=-1e-9)
    found = solve(problem, scenarios, "quantum", **FEW)
    assert not problem.is_known(found.levels[found.feasible]).any()
    assert (found.accuracy[found.feasible] > problem.base_accuracy).all()


def test_answer_follows_from_its_strategy(problem: Problem) -> None:
    scenario = resolve(device="rpi3b+", server="p100", rate_mbps=11.22)
    found = answer(problem, scenario)
    document = found.to_json()
    assert document == json.loads(json.dumps(document, allow_nan=False))
    needed = "latency_s device_s server_s uplink_s uplink_bit predicted_accuracy accuracy_floor strategy optimizer "
    needed += "evaluations seconds lower_bound_s gap"
    assert set(needed.split()) <= set(document)
    assert set(document["strategy"]) == {"sparsity", "partition_point", "codec", "feature_bits"}
    assert found.latency_s == pytest.approx(found.device_s + found.server_s + found.uplink_s, rel=1e-12)
    assert found.uplink_s == pytest.approx(found.uplink_bit / 11.22e6, rel=1e-12)
    assert found.predicted_accuracy >= found.accuracy_floor == problem.base_accuracy - 0.02
    strategy = Strategy.from_json(document)
    costs = problem.delay.costs(problem.space.levels(strategy))[0]
    assert found.device_s == pytest.approx(costs[0] / 0.2e9, rel=1e-12)
    assert found.server_s == pytest.approx(costs[1] / 10_600e9, rel=1e-12)
    assert found.cut_after == problem.graph.cut_name(strategy.partition_point)
    assert answer(problem, scenario).strategy == strategy


def test_untouched_network_is_reported_as_measured(problem: Problem) -> None:
    pessimist = TreeEnsemble(problem.predictor.ensemble.tables._replace(roots=np.empty(0), weights=np.empty(0)))
    nothing = nothing_measured(len(problem.space.variables))
    hopeless = replace(problem, fitted=replace(problem.predictor, ensemble=pessimist, measured=nothing))
    scenario = resolve(device="rpi3b+", server="p100", link="3g")
    found = answer(hopeless, scenario)
    assert (found.accuracy_source, found.predicted_accuracy) == ("base", problem.base_accuracy)
    assert not any(found.strategy.sparsity.values()) and found.strategy.codec == Codec()
    partition = METHODS["neurosurgeon"].solve(hopeless, ScenarioBatch.of([scenario]))
    assert found.latency_s == pytest.approx(partition.objective[0], rel=1e-12)


def test_energy_is_the_devices(problem: Problem) -> None:
    device = Device("board", 3e9, compute_w=5.0, radio_w=2.0, idle_w=1.0)
    scenario = resolve(device=device, server="p100", link="wifi")
    found = answer(problem, scenario, objective="energy")
    joules = 5 * found.device_s + 2 * found.uplink_s + 1 * found.server_s
    assert found.energy_j == pytest.approx(joules, rel=1e-12)
    with pytest.raises(InputError, match="powers of rpi4b"):
        answer(problem, resolve(device="rpi4b", server="p100", link="wifi"), objective="energy")


def test_codec_flops_and_input_bits_reach_the_costs(records_path: Path) -> None:
    options = {"model": "alexnet", "records": fit_predictor(records_path, regressor="decision_tree")}
    counted, neglected = assemble(**options), assemble(**options, codec_flops=False, input_bits=8)
    rng = np.random.default_rng(0)
    levels = rng.integers(0, counted.space.tables.n_levels, (200, 16))
    dear, cheap = counted.delay.costs(levels), neglected.delay.costs(levels)
    assert (cheap[:, :2] <= dear[:, :2]).all() and (cheap[:, :2] < dear[:, :2]).any()
    assert 4 * neglected.known_costs[0, 2] == counted.known_costs[0, 2]
    assert counted.provenance()["codec_flops"] == "count"
    assert json.loads(json.dumps(neglected.provenance()))["input_bits"] == 8
    with pytest.raises(InputError, match="input bits: 0"):
        assemble(**options, input_bits=0)


def test_noisy_records_need_a_snr_and_use_it(noisy_path: Path) -> None:
    problem = assemble("alexnet", records=noisy_path, regressor="bagging")
    assert len(problem.known_levels) == len(problem.graph.cut_points)  # sent as bits, noise or not
    with pytest.raises(InputError, match="signal-to-noise"):
        answer(problem, resolve(device="rpi3b+", server="p100", link="4g"))
    seconds = [
        answer(problem, resolve(device="rpi3b+", server="p100", bandwidth_mhz=1, snr_db=snr_db)).latency_s
        for snr_db in (0.0, 45.0)
    ]
    assert seconds[1] < seconds[0]


def test_impossible_bound_says_the_best_that_can_be_had(noisy_path: Path) -> None:
    problem = beyond_reach(assemble("alexnet", records=noisy_path, regressor="bagging"))
    assert len(problem.known_levels) == len(problem.measured.levels) == 0
    scenario = resolve(device="rpi3b+", server="p100", bandwidth_mhz=1, snr_db=0.0, max_loss=0.01, confidence=None)
    best = best_accuracy(problem, 0.0)
    with pytest.raises(InputError, match=f"best that can be had is {best:.4f}") as error:
        answer(problem, scenario)
    assert "\n" not in str(error.value)
    advised = float(str(error.value).partition("allow a loss of ")[2].split()[0])
    assert 0 <= advised - (problem.base_accuracy - best) < 1e-4
    levels = np.random.default_rng(0).integers(0, problem.space.tables.n_levels, (2_000, 16))
    features = np.column_stack([problem.space.tables.values[np.arange(16), levels], np.zeros(len(levels))])
    assert best >= problem.predictor.predict(features).max()


def test_a_confidence_is_kept_by_every_answer(problem: Problem) -> None:
    scenarios = paper_scenarios(problem, max_loss=0.06)
    loose, strict = solve(problem, scenarios, "exact"), solve(problem, scenarios, "exact", confidence=0.9)
    assert strict.feasible.all()
    # A stricter floor costs latency (each of the two is proven to a thousandth) and gains predicted accuracy.
    assert (strict.objective >= loose.objective * (1 - 2e-3)).all() and (
        strict.objective > loose.objective * 1.01
    ).any()
    known = problem.is_known(strict.levels)
    assert not known.all()
    bound = problem.accuracy_bound(problem.answers(strict), 0.9)
    np.testing.assert_array_equal(bound[known], problem.base_accuracy)
    np.testing.assert_array_equal(bound[~known], problem.predictor.lower_bound(strict.accuracy[~known], 0.9))
    assert (bound >= scenarios.accuracy_floor - 1e-12).all()
    assert (problem.predictor.lower_bound(loose.accuracy, 0.9) < scenarios.accuracy_floor).any()
    assert np.isnan(problem.accuracy_bound(problem.answers(loose), None)).all()


def test_each_scenario_may_ask_for_its_own_confidence(problem: Problem) -> None:
    scenarios = paper_scenarios(problem, max_loss=0.06)
    asked = np.resize([np.nan, 0.8, 0.9], len(scenarios.accuracy_floor))
    mixed = solve(problem, scenarios, "quantum", confidence=asked, **FEW)
    bound = problem.accuracy_bound(problem.answers(mixed), asked)
    np.testing.assert_array_equal(np.isnan(bound), np.isnan(asked))
    for confidence in (None, 0.8, 0.9):
        rows = np.isnan(asked) if confidence is None else asked == confidence
        alone = solve(problem, scenarios, "quantum", confidence=confidence, **FEW)
        np.testing.assert_array_equal(mixed.levels[rows], alone.levels[rows])
        np.testing.assert_array_equal(bound[rows], problem.accuracy_bound(problem.answers(alone), confidence)[rows])


def test_answers_carry_their_confidence(problem: Problem) -> None:
    options = {"records": problem.predictor, "max_loss": 0.06, "optimizer": "exact"}
    guess = optimize("alexnet", "rpi3b+", "p100", "3g", confidence=None, **options)
    assert (guess.confidence, guess.accuracy_bound) == (None, None)
    sure = optimize("alexnet", "rpi3b+", "p100", "3g", **options)
    assert sure.confidence == 0.9 and sure.accuracy_source == "predicted"
    assert sure.accuracy_bound is not None
    assert sure.accuracy_floor - 1e-12 <= sure.accuracy_bound < sure.predicted_accuracy
    # So sure of no loss at all one can only be of the network as it is, whose accuracy is a fact.
    untouched = optimize("alexnet", "rpi3b+", "p100", "3g", confidence=0.95, **options | {"max_loss": 0.0})
    assert untouched.accuracy_source == "base"
    assert untouched.accuracy_bound == untouched.predicted_accuracy == problem.base_accuracy
    for confidence, complaint in ((95.0, "is a probability"), (0.9999, "needs at least 9999 scenarios")):
        with pytest.raises(InputError, match=complaint):
            optimize("alexnet", "rpi3b+", "p100", "3g", confidence=confidence, **options)


def test_impossible_bound_counts_the_confidence(noisy_path: Path) -> None:
    found = beyond_reach(assemble("alexnet", records=noisy_path, regressor="decision_tree"))
    problem = replace(found, fitted=trusted(found.predictor))
    scenario = resolve(device="tk1", server="p100", bandwidth_mhz=1, snr_db=0.0, max_loss=0.01, confidence=0.9)
    best = float(problem.predictor.lower_bound(best_accuracy(problem, 0.0), 0.9))
    assert best_accuracy(problem, 0.0, 0.9) == pytest.approx(best)
    with pytest.raises(InputError, match=f"with a confidence of 0.9; the best that can be had is {best:.4f}"):
        answer(problem, scenario)


def test_best_accuracy_counts_the_base_network(problem: Problem) -> None:
    assert best_accuracy(problem) >= problem.base_accuracy


def test_optimize_from_names_and_files(records_path: Path, tmp_path: Path) -> None:
    saved = tmp_path / "alexnet.npz"
    fit_predictor(records_path, regressor="decision_tree").save(saved)
    found = optimize("alexnet", "rpi3b+", "p100", "4g", records=saved, optimizer="quantum", confidence=None)
    same = coinfer_ray.optimize(
        model="alexnet",
        device_gflops=0.2,
        server_gflops=10600,
        rate_mbps=11.22,
        records=str(saved),
        max_loss=0.02,
        confidence=None,
        optimizer="quantum",
    )
    assert same.strategy == found.strategy and same.latency_s == pytest.approx(found.latency_s, rel=1e-12)
    assert found.lower_bound_s is None and found.gap is None
    with pytest.raises(
        InputError, match=r"optimizer: 'annealing' is unknown; known: exact, genetic, paper, paper-parent, quantum"
    ):
        optimize("alexnet", "rpi3b+", "p100", "4g", records=saved, optimizer="annealing")
    with pytest.raises(InputError, match="rpi"):
        optimize("alexnet", "rpi3", "p100", "4g", records=saved)


def test_an_option_that_nothing_has_is_a_type_error(problem: Problem) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_lss'"):
        optimize("alexnet", "rpi3b+", "p100", "3g", records=problem.predictor, max_lss=0.1)  # type: ignore[call-arg]


def test_a_time_limit_ends_the_proof_with_an_honest_gap(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands still until the solver looks at it, then leaps: the proof ends at its first look."""
    import coinfer_kernels.exact.solve as exact

    scenarios = paper_scenarios(problem, max_loss=0.06)
    whole = solve(problem, scenarios, threads=1)
    ticks = iter(range(10**6))
    monkeypatch.setattr(exact.time, "perf_counter", lambda: 3.0 * next(ticks))
    cut_short = solve(problem, scenarios, threads=1, time_limit_s=2.0)
    begun = solve(problem, scenarios, "quantum", max_evaluations=50_000)
    # No box was looked at: the answers are those that the proof started from, and the bounds say how little is known.
    np.testing.assert_array_equal(cut_short.objective, begun.objective)
    assert (cut_short.lower_bound <= whole.lower_bound * (1 + 1e-12)).all()
    assert (cut_short.gap > 1e-3).any() and (whole.gap <= 1e-3).all()
    monkeypatch.undo()
    np.testing.assert_array_equal(solve(problem, scenarios, threads=1, time_limit_s=1e6).levels, whole.levels)
    with pytest.raises(InputError, match="time limit: 0 s must be above 0"):
        solve(problem, scenarios, time_limit_s=0)
