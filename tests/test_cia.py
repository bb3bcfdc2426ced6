"""CIA's decision process by hand, and what a short run of its agent finds."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from math import log
from pathlib import Path

import numpy as np
import pytest

from coinfer_ray.errors import InputError
from coinfer_ray.methods.cia import Cia, candidate_cuts, learn
from coinfer_ray.methods.layerwise import (
    STATE,
    Episodes,
    Judge,
    codec_variable,
    expressible,
    level_of,
    own_sets,
    reward,
)
from coinfer_ray.methods.registry import METHODS
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.scenarios.batch import ScenarioBatch
from coinfer_ray.scenarios.read import resolve
from tests.synthetic import beyond_reach, trusted, write_synthetic_records

FLOOR = 0.78  # 6 points below the base network
WEIGHTS = np.array(resolve(device="rpi4b", server="p100", link="4g").weights())
POOL1, POOL2, AVERAGE, FC1, END = 3, 6, 15, 16, 21  # partition points of AlexNet; with all cuts also their levels


@pytest.fixture(scope="module")
def problem(synthetic_records: Path) -> Problem:
    found = assemble("alexnet", records=synthetic_records, regressor="gradient_boosting", feature_bits=32)
    return replace(found, fitted=trusted(found.predictor))


def judge(problem: Problem, confidence: float | None = None) -> Judge:
    return Judge(problem, FLOOR, confidence, np.nan)


def batch(confidence: float | None, max_loss: float = 0.06, count: int = 1) -> ScenarioBatch:
    scenario = resolve(device="rpi4b", server="p100", link="4g", max_loss=max_loss, confidence=confidence)
    return ScenarioBatch.of([scenario] * count)


def test_the_reward_in_closed_form() -> None:
    assert reward(1.0, 2.0, 0.0) == pytest.approx(log(2))
    assert reward(2.0, 1.0, 0.3) == pytest.approx(-log(2))  # accuracy to spare is worth nothing
    assert reward(1.0, 2.0, -0.01) == pytest.approx(log(2) - 0.3)


def test_actions_in_closed_form(problem: Problem) -> None:
    conv1, ratio = 0, problem.space.codec_variable
    values = problem.space.variables[conv1].values  # 64 channels, so levels of 1/64
    # 0.2 + 0.8 a of the channels: nothing removed at 1, 51.2 of 64 at 0, 25.6 at 1/2; nearest levels.
    assert [level_of(problem, conv1, action) for action in (1.0, 0.0, 0.5)] == [0, 51, 26]
    assert values[51] == 51 / 64
    assert [level_of(problem, conv1, action) for action in (1.7, -3.0)] == [0, 51]
    # 1/16 + 15/16 a: levels 0..15 are 16/16 .. 1/16.
    assert [level_of(problem, ratio, action) for action in (1.0, 0.0, 1 / 15, 0.5, -1.0)] == [0, 15, 14, 7, 15]


def test_what_is_decided_at_a_cut(problem: Problem) -> None:
    first = problem.space.codec_variable
    assert own_sets(problem, POOL1) == [0] and codec_variable(problem, POOL1) == first
    assert own_sets(problem, FC1) == [0, 1, 2, 3, 4, 5] and codec_variable(problem, FC1) == first + 6
    assert own_sets(problem, END) == list(range(7)) and codec_variable(problem, END) is None
    assert own_sets(problem, 0) == [] and codec_variable(problem, 0) is None
    regnet = assemble("regnet_x_400mf", predict=False, input_px=64, feature_bits=32)
    names = [prunable.name for prunable in regnet.graph.prunable_sets]
    points = [int(point) for point in regnet.space.variables[regnet.space.cut_variable].values]
    # After the second block's first addition (layer 26): conv6 is tied to conv12 beyond the cut, and counts.
    assert [names[row] for row in own_sets(regnet, points.index(26))] == ["conv1", "conv2", "conv3", "conv6", "conv7"]


def test_an_episode_step_by_step(problem: Problem) -> None:
    episodes = Episodes(problem, WEIGHTS, judge(problem), POOL2)
    layers = problem.graph.layers
    device = [layer.flops for layer in layers[:POOL2]]
    assert episodes.steps == 3
    sent = layers[POOL2 - 1].output_elements
    assert episodes.reference == pytest.approx(
        sum(device) * WEIGHTS[0] + sum(layer.flops for layer in layers[POOL2:]) * WEIGHTS[1] + 32 * sent * WEIGHTS[2]
    )
    link = 32 * sent * WEIGHTS[2] / episodes.reference

    # conv1: 3 -> 64, 11 x 11, stride 4; conv2: 64 -> 192, 5 x 5, stride 1; codec: 192 -> 192.
    weights = [3 * 121 * 64, 64 * 25 * 192]
    first = [0, 0, 3 / 192, 64 / 192, 1, 1, weights[0] / weights[1], 0, 1, 1, 1, link]
    np.testing.assert_allclose(episodes.reset(), first, rtol=1e-6)
    state, value, end = episodes.step(0.5)  # 26 of conv1's 64 channels go
    kept = 38
    now = [layer.flops_at(layer.in_channels, kept) for layer in layers[:3]]
    now += [layers[3].flops_at(kept, 192), *device[4:]]
    reduced, rest = 1 - sum(now) / sum(device), sum(device[3:]) / sum(device)
    second = [1 / 2, 0, 64 / 192, 1, 1 / 4, 5 / 11, 1, reduced, rest, 0.5, 1, link]
    np.testing.assert_allclose(state, second, rtol=1e-6)
    assert (value, end) == (0.0, False)
    state, value, end = episodes.step(0.0)  # conv2 keeps the nearest to a fifth of its 192 channels in steps of 3
    shares = problem.space.variables[1].values
    assert shares[episodes.levels[1]] == 153 / 192 and (value, end) == (0.0, False)
    np.testing.assert_allclose(state[[0, 1, 2, 3, 4, 6, 8, 9, 10]], [1, 1, 1, 1, 1 / 4, 0, 0, 0, 39 / 192], rtol=1e-6)
    _, value, end = episodes.step(1 / 15)
    assert end
    expected = np.zeros(len(problem.space.variables), dtype=np.int64)
    expected[[0, 1, problem.space.cut_variable, problem.space.codec_variable]] = 26, 51, POOL2, 14
    np.testing.assert_array_equal(episodes.levels, expected)
    assert episodes.objective == pytest.approx(float(problem.delay.costs(expected)[0] @ WEIGHTS))
    predicted = problem.predictor.predict(problem.space.values(problem.space.strategy(expected))[None])[0]
    assert episodes.accuracy == pytest.approx(predicted) and episodes.spare == pytest.approx(predicted - FLOOR)
    assert value == pytest.approx(log(episodes.reference / episodes.objective) + 30 * min(predicted - FLOOR, 0))
    np.testing.assert_allclose(episodes.reset(), first, rtol=1e-6)
    assert (episodes.levels[:2] == 0).all()


@pytest.mark.parametrize("cut", [POOL1, AVERAGE, FC1, END])
def test_states_lie_within_their_bounds_and_strategies_are_expressible(problem: Problem, cut: int) -> None:
    episodes, rng = Episodes(problem, WEIGHTS, judge(problem), cut), np.random.default_rng(cut)
    for _ in range(10):
        states, end = [episodes.reset()], False
        while not end:
            state, _, end = episodes.step(float(rng.uniform(-0.2, 1.2)))
            states.append(state)
        assert len(states) == episodes.steps + 1
        found = np.array(states)
        assert found.shape[1] == STATE and found.dtype == np.float32 and (found >= 0).all() and (found <= 1).all()
        assert expressible(problem, episodes.levels[None]).all()


def test_what_the_steps_cannot_say_is_not_expressible(problem: Problem) -> None:
    rows = np.zeros((6, len(problem.space.variables)), dtype=np.int64)
    rows[:, problem.space.cut_variable] = POOL1
    first = problem.space.codec_variable
    rows[1, 0] = 51
    rows[2, 0] = 52  # keeps less than a fifth
    rows[3, 1] = 1  # the server's
    rows[4, first + 1] = 1  # a larger kernel
    rows[5, first + 3] = 1  # a second stage
    assert expressible(problem, rows).tolist() == [True, True, False, False, False, False]


def test_the_judge_knows_facts_from_predictions(problem: Problem) -> None:
    rows = np.concatenate([problem.known_levels[[4]], problem.measured.levels[:2]])
    accuracy, spare = judge(problem, 0.9)(rows)
    assert accuracy.tolist() == [problem.base_accuracy, *problem.measured.accuracy[:2]]
    bound = problem.measured_bound(0.9)[:2]
    np.testing.assert_allclose(spare, [problem.base_accuracy - FLOOR, *(bound - FLOOR)])
    other = rows[:1].copy()
    other[0, 0] = 7
    accuracy, spare = judge(problem, 0.9)(other)
    assert spare[0] == pytest.approx(accuracy[0] - problem.required_accuracy(np.array([FLOOR]), 0.9)[0])


def test_the_cuts_that_are_tried(problem: Problem) -> None:
    cuts = candidate_cuts(problem, WEIGHTS)
    assert len(cuts) == 6 and 0 not in cuts
    variables = len(problem.space.variables)

    def objective(cut: int) -> float:
        levels = np.zeros(variables, dtype=np.int64)
        levels[problem.space.cut_variable] = cut
        ratio = codec_variable(problem, cut)
        if ratio is not None:
            levels[ratio] = 14
        return float(problem.delay.costs(levels)[0] @ WEIGHTS)

    of_all = {cut: objective(cut) for cut in range(1, 22)}
    assert [of_all[cut] for cut in cuts] == sorted(of_all[cut] for cut in cuts)
    assert cuts[0] == min(of_all, key=of_all.__getitem__)
    bits = [problem.graph.layers[cut - 1].output_elements for cut in cuts]
    assert len({(len(own_sets(problem, cut)), size) for cut, size in zip(cuts, bits, strict=True)}) == 6
    assert candidate_cuts(problem, WEIGHTS, 2) == cuts[:2]


def test_a_few_episodes_learn_and_repeat_and_move_nobodys_streams(problem: Problem) -> None:
    pytest.importorskip("stable_baselines3")
    import torch

    torch.manual_seed(5), np.random.seed(5), random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    threads = torch.get_num_threads()
    run = learn(problem, WEIGHTS, FLOOR, np.nan, POOL2, episodes=130, seed=3)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:] and torch.get_num_threads() == threads
    assert len(run.rewards) == len(run.best) == 130
    assert (np.diff(run.best[np.isfinite(run.best)]) <= 0).all()
    assert np.isfinite(run.best[99]) and run.objective <= run.best[99]  # never worse than the warm-up
    assert run.objective == pytest.approx(float(problem.delay.costs(run.levels)[0] @ WEIGHTS))
    accuracy, spare = judge(problem)(run.levels[None])
    assert spare[0] >= 0 and run.accuracy == accuracy[0]
    episodes = Episodes(problem, WEIGHTS, judge(problem), POOL2)
    assert run.rewards[run.best.argmin()] == pytest.approx(log(episodes.reference / run.objective))
    again = learn(problem, WEIGHTS, FLOOR, np.nan, POOL2, episodes=130, seed=3)
    np.testing.assert_array_equal(run.rewards, again.rewards)
    np.testing.assert_array_equal(run.levels, again.levels)
    other = learn(problem, WEIGHTS, FLOOR, np.nan, POOL2, episodes=5, seed=4)
    assert (other.rewards != run.rewards[:5]).any()


def test_random_decisions_are_drawn_evenly_and_play_the_same_episodes(problem: Problem) -> None:
    """A space of 52 x 16 strategies: each run is replayed by hand, and no run beats the best of all of them."""
    run = learn(problem, WEIGHTS, FLOOR, np.nan, POOL1, episodes=300, seed=6, decisions="random")
    rng, conv1, ratio = np.random.default_rng(6), 0, problem.space.codec_variable
    everything = np.zeros((52 * 16, len(problem.space.variables)), dtype=np.int64)
    everything[:, problem.space.cut_variable] = POOL1
    everything[:, conv1], everything[:, ratio] = np.divmod(np.arange(52 * 16), 16)
    costs = problem.delay.costs(everything) @ WEIGHTS
    _, spare = judge(problem)(everything)
    reference, best = Episodes(problem, WEIGHTS, judge(problem), POOL1).reference, np.inf
    assert len(run.rewards) == len(run.best) == 300
    for episode, (first, second) in enumerate(rng.random((300, 2))):
        place = 16 * level_of(problem, conv1, first) + level_of(problem, ratio, second)
        assert run.rewards[episode] == pytest.approx(reward(costs[place], reference, spare[place]))
        best = min(best, costs[place] if spare[place] >= 0 else np.inf)
        assert run.best[episode] == pytest.approx(best)
    assert np.isfinite(best) and best >= costs[spare >= 0].min()
    other = learn(problem, WEIGHTS, FLOOR, np.nan, POOL1, episodes=300, seed=7, decisions="random")
    assert (other.rewards != run.rewards).any()


def test_answers_keep_the_bound_and_lose_to_the_proven_ones(problem: Problem) -> None:
    pytest.importorskip("stable_baselines3")
    method, asked = Cia(episodes=60, cuts=2), batch(None, count=2)
    found = method.solve(problem, asked, seed=1)
    assert found.feasible.all() and (found.accuracy >= problem.base_accuracy - asked.max_loss).all()
    assert found.levels is not None and expressible(problem, found.levels).all()
    np.testing.assert_allclose((found.costs * asked.weights).sum(axis=1), found.objective, rtol=1e-12)
    plain = METHODS["neurosurgeon"].solve(problem, asked)
    assert (found.objective < plain.objective).all()
    sure = method.solve(problem, batch(0.9), seed=1)
    assert sure.feasible.all() and (problem.accuracy_bound(sure, 0.9) >= FLOOR - 1e-12).all()


def test_only_facts_count_where_predictions_do_not(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = replace(problem.predictor.calibration, rests_on="records")
    doubted = replace(problem, fitted=replace(problem.predictor, calibration=calibration))
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)  # nothing is learnt
    monkeypatch.delitem(sys.modules, "coinfer_ray.methods.ddpg", raising=False)
    asked = batch(0.9)
    found = Cia().solve(doubted, asked)
    assert found.feasible.all() and found.levels is not None
    own = doubted.measured
    able = expressible(doubted, own.levels) & (doubted.measured_bound(0.9) >= FLOOR)
    allowed = np.concatenate([doubted.known_costs, own.costs[able]]) @ WEIGHTS
    assert found.objective[0] == pytest.approx(allowed.min())
    with pytest.raises(InputError, match=r"cia: needs stable-baselines3 .* pip install 'coinfer-ray\[rl\]'"):
        Cia().solve(problem, asked)


def test_a_bound_that_nothing_keeps_has_no_answer(tmp_path: Path) -> None:
    pytest.importorskip("stable_baselines3")
    path = write_synthetic_records(tmp_path / "alexnet-64px.parquet", count=100, noisy=True)
    noisy = beyond_reach(assemble("alexnet", records=path, regressor="decision_tree"))
    scenario = resolve(device="rpi4b", server="p100", bandwidth_mhz=1, snr_db=0.0, max_loss=0.01, confidence=None)
    hopeless = ScenarioBatch.of([scenario])
    found = Cia(episodes=3, cuts=1).solve(noisy, hopeless)
    assert not found.feasible[0] and np.isposinf(found.objective[0]) and 0 < found.accuracy[0] < noisy.base_accuracy
    with pytest.raises(InputError, match="signal-to-noise"):
        Cia(episodes=3, cuts=1).solve(noisy, batch(None))


def test_what_cannot_be_learnt_is_said(problem: Problem) -> None:
    pytest.importorskip("stable_baselines3")
    with pytest.raises(InputError, match="0 episodes are too few"):
        learn(problem, WEIGHTS, FLOOR, np.nan, POOL1, episodes=0)
    for cut in (0, 22, -1):
        with pytest.raises(InputError, match=f"nothing can be decided at cut {cut} of 0 .. 21"):
            learn(problem, WEIGHTS, FLOOR, np.nan, cut)


def test_the_proven_answer_is_at_least_as_good(problem: Problem) -> None:
    """The quick search over the whole space, which holds every strategy of CIA's."""
    pytest.importorskip("stable_baselines3")
    from coinfer_kernels import Scenarios

    run = learn(problem, WEIGHTS, FLOOR, np.nan, POOL1, episodes=40, seed=0)
    best = solve(problem, Scenarios(WEIGHTS[None], np.array([FLOOR]), np.array([np.nan])), "quantum")
    assert best.objective[0] <= run.objective


def test_episodes_count_what_crossing_costs_by_itself(problem: Problem) -> None:
    crossing = np.append(WEIGHTS, 0.04)
    for cut, costs in ((POOL2, 0.04), (END, 0.0)):
        free, paid = (Episodes(problem, weights, judge(problem), cut) for weights in (WEIGHTS, crossing))
        assert paid.reference == pytest.approx(free.reference + costs, rel=1e-12)
        for episodes in (free, paid):
            for _ in range(episodes.steps):
                episodes.step(0.7)
        assert paid.objective == pytest.approx(free.objective + costs, rel=1e-12)
        assert (paid.levels == free.levels).all()
