"""Moves around what wins: what they gain, what they are likely to, and what is trained of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from coinfer_kernels import Scenarios
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.problem.strategy import FLOAT_BITS, Codec
from coinfer_ray.refine.few_bits import MOST_WIDTHS, link_shares, width_losses
from coinfer_ray.refine.moves import LEAST_CHANCE, Neighbourhood, Outlook
from tests.synthetic import write_synthetic_records

ALLOWED = (0.02, 0.1, 0.3)


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    path = write_synthetic_records(tmp_path_factory.mktemp("records") / "r.parquet", count=120)
    return assemble("alexnet", records=path, regressor="monotone_boosting")


@pytest.fixture(scope="module")
def near(problem: Problem) -> Neighbourhood:
    return Neighbourhood(problem, drawn(problem, 12), confidence=None)


def drawn(problem: Problem, count: int) -> Scenarios:
    rng = np.random.default_rng(3)
    weights = np.column_stack(
        [10 ** rng.uniform(-12, -8, count), np.full(count, 1e-13), 10 ** rng.uniform(-9, -5, count)]
    )
    floor = problem.base_accuracy - np.tile(ALLOWED, count)
    return Scenarios(np.repeat(weights, len(ALLOWED), axis=0), floor, np.full(count * len(ALLOWED), np.nan))


def test_answers_are_those_of_the_measured_strategies(problem: Problem, near: Neighbourhood) -> None:
    answers = problem.answers(solve(problem, near.scenarios, confidence=0.9))
    at_confidence = Neighbourhood(problem, near.scenarios, confidence=0.9)
    np.testing.assert_allclose(at_confidence.latency_s, answers.objective, rtol=1e-9)
    assert set(at_confidence.winners) == {near.name_of(row) for row in answers.levels}
    assert (at_confidence.allowed < near.allowed).all()


def test_some_moves_narrow_nothing_but_what_crosses(problem: Problem, near: Neighbourhood) -> None:
    graph, space = problem.graph, problem.space
    crossing = {graph.layers[point - 1].out_set for point in graph.cut_points[1:-1]} - {None}
    alone = set()
    for row in np.array(near.moves(2_000, 0)):
        strategy = space.strategy(row)
        pruned = [name for name, share in strategy.sparsity.items() if share]
        if len(pruned) == 1 and strategy.codec == Codec() and strategy.partition_point == len(graph.layers):
            alone |= {(pruned[0], strategy.sparsity[pruned[0]])}
    assert {name for name, _ in alone} >= crossing & {each.name for each in graph.prunable_sets}
    assert max(share for _, share in alone) == max(space.variables[0].values)


def test_moves_are_strategies_of_the_space_that_nobody_measured(problem: Problem, near: Neighbourhood) -> None:
    names = near.moves(400, 0)
    assert names == near.moves(400, 0) and names != near.moves(400, 1) and len(names) > 200
    levels = np.array(names)
    assert problem.space.is_canonical(levels).all()
    assert (levels >= 0).all() and (levels < problem.space.tables.n_levels).all()
    assert not set(names) & near.known
    cuts = {near.space.strategy(row).feature_bits for row in levels}
    assert cuts <= {FLOAT_BITS, 8}
    for row in levels:
        strategy = near.space.strategy(row)
        assert (strategy.codec != Codec()) or strategy.partition_point == len(problem.graph.layers)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_gain_is_what_the_best_cut_and_width_take_off(problem: Problem, near: Neighbourhood, seed: int) -> None:
    """Nothing of these records is quantised, so all widths are taken to cost nothing and to be sent as they are."""
    rng = np.random.default_rng(seed)
    names = near.moves(20, seed)[:3]
    outlook = near.outlook(names)
    for name, gain, cut, chance in zip(names, outlook.gain, outlook.cut, outlook.chance, strict=True):
        strategy = near.space.strategy(np.array(name))
        plain = strategy.codec == Codec()
        points = problem.graph.cut_points if plain else (strategy.partition_point,)
        row = int(rng.integers(len(gain)))
        best = np.inf
        for point in points:
            ends = point in (0, len(problem.graph.layers))
            own = type(strategy)(strategy.sparsity, point, strategy.codec, FLOAT_BITS if ends else 2 if plain else 8)
            costs = problem.delay.costs(near.space.levels(own)[None])[0]
            best = min(best, float(costs @ near.scenarios.weights[row]))
        if chance[row]:
            assert gain[row] == pytest.approx(max(0.0, np.log(near.latency_s[row] / best)), abs=1e-9)
            assert near.space.cut_bits[cut[row]] in ((2, 32) if plain else (8,))
        else:
            assert gain[row] == 0


def test_what_was_coded_to_less_counts_as_what_it_took(problem: Problem) -> None:
    """Of synthetic records none has a quantised feature."""
    np.testing.assert_array_equal(link_shares(problem), 1.0)
    np.testing.assert_array_equal(width_losses(problem), 0.0)


def test_bits_that_cost_accuracy_lower_the_chances(problem: Problem) -> None:
    """Four bits that cost the network as it is a point are taken to cost any other as much, and are asked for where
    that may pay."""
    near = Neighbourhood(problem, drawn(problem, 6), confidence=None)
    names = [name for name in near.moves(300, 4) if near._plain(np.array(name))][:40]
    free = near.outlook(names)
    four = near.space.cut_bits <= 4
    assert four[free.cut[free.gain > 0]].any()
    near._groups = near._alike(np.where(four, 0.01, 0.0))
    costly = near.outlook(names)
    promised = costly.chance * costly.gain
    assert (promised <= free.chance * free.gain + 1e-12).all()
    asked = four[costly.cut]
    worse = asked & (costly.gain > 0)
    assert worse.any() and (near.space.cut_bits[costly.cut[~asked & (costly.gain > 0)]] > 4).all()
    same = worse & (free.cut == costly.cut)
    assert (costly.chance[same] <= free.chance[same]).all() and (costly.chance[same] < free.chance[same]).any()
    near._groups = near._alike(np.where(four, 0.5, 0.0))
    assert not four[near.outlook(names).cut].any()


def test_the_process_gives_low_chances_to_harm_and_high_ones_to_little(near: Neighbourhood) -> None:
    chances = np.array([near._chance(each, 0.0) for each in near._forecasts(near.moves(300, 2), None)])
    loose, tight = near.allowed.argmax(), near.allowed.argmin()
    assert ((chances >= 0) & (chances <= 1)).all() and (chances[:, loose] >= chances[:, tight]).all()
    measured = sorted(near.losses, key=lambda name: near.losses[name])
    least, most = near._forecasts([measured[0], measured[-1]], None)
    assert near._chance(least, 0.0)[tight] > 0.5 > near._chance(most, 0.0)[tight]
    fewer, as_it_is = near._chance(most, 0.01), near._chance(most, 0.0)
    assert (fewer <= as_it_is).all() and (fewer < as_it_is).any()


def test_damage_tells_what_nothing_else_does(near: Neighbourhood) -> None:
    """A damage that is the loss itself leaves nothing in doubt."""
    names = sorted(near.losses)
    held_out = names[::7]
    truth = dict(near.losses)
    for name in held_out:
        near.losses.pop(name)
    try:
        told, untold = (
            np.array([near._chance(each, 0.0) for each in near._forecasts(held_out, damages)])
            for damages in (lambda some: np.array([[truth[name]] for name in some]), None)
        )
    finally:
        near.losses.update(truth)
    kept = np.array([[truth[name] <= allowed for allowed in near.allowed] for name in held_out])
    assert np.abs(told - kept).mean() < 0.6 * np.abs(untold - kept).mean()


def test_each_counts_for_what_those_before_it_leave(near: Neighbourhood) -> None:
    names = near.moves(200, 5)
    outlook = near.outlook(names)
    best = near.best(names, outlook, 5)
    gains, chances = outlook.gain, outlook.chance
    assert ((chances == 0) | (chances > LEAST_CHANCE)).all()
    alone = (chances * gains).mean(axis=1)
    assert all(move.strategies for move in best)
    assert best[0].expected == pytest.approx(alone.max()) and best[0].name == names[int(alone.argmax())]
    assert all(first.expected >= second.expected - 1e-12 for first, second in pairwise(best))
    assert len({move.name for move in best}) == len(best)
    banked = chances[names.index(best[0].name)] * gains[names.index(best[0].name)]
    second = names.index(best[1].name)
    assert best[1].expected == pytest.approx((chances[second] * np.maximum(gains[second] - banked, 0)).mean())


def test_a_network_without_a_codec_is_measured_whole_and_where_it_may_win(
    problem: Problem, near: Neighbourhood
) -> None:
    names = [name for name in near.moves(400, 7) if near._plain(np.array(name))]
    shape = len(names), len(near.latency_s)
    level = int(np.flatnonzero(near.space.cut_bits == 4)[3])
    sure = Outlook(np.ones(shape), np.ones(shape), np.full(shape, level))
    (move,) = near.best(names[:1], sure, 1)
    assert [(each.partition_point, each.feature_bits) for each in move.strategies] == [
        (len(problem.graph.layers), FLOAT_BITS),
        (near.space.strategy(np.array([*names[0][: near.space.cut_variable], level, *([0] * 8)])).partition_point, 4),
    ]
    move = near.best(names, near.outlook(names), 1)[0]
    points = [strategy.partition_point for strategy in move.strategies]
    assert len(problem.graph.layers) in points and len(points) <= MOST_WIDTHS + 1
    assert len({tuple(strategy.sparsity.items()) for strategy in move.strategies}) == 1
    assert all(problem.space.cut_kind(point) != "raw" for point in points)  # the whole tells of that as well
    few = near.moves(50, 8)
    nothing = np.zeros((len(few), len(near.latency_s)))
    assert near.best(few, Outlook(nothing + 1, nothing, nothing.astype(np.int64)), 3) == []


def test_some_moves_empty_blocks_that_follow_each_other_and_touch_nothing_else() -> None:
    """Of RegNetX-400MF, whose blocks are flowed past; what crosses a cut is never among their sets."""
    problem = assemble("regnet_x_400mf")
    space, graph = problem.space, problem.graph
    crossing = {graph.layers[point - 1].out_set for point in graph.cut_points[1:-1]}
    within = [row for row, each in enumerate(graph.prunable_sets) if each.name not in crossing]
    near = Neighbourhood(problem, drawn(problem, 3), confidence=0.9)
    rows = np.array(near.moves(3_000, 0))[:, : space.sets]
    top = space.tables.n_levels[: space.sets] - 1
    emptied = rows >= top - top // 5
    runs = set()
    for row, gone in zip(rows, emptied, strict=True):
        places = np.flatnonzero(gone[within])
        others = np.delete(row, [within[place] for place in places])
        if len(places) > 2 and not others.any() and (np.diff(places) == 1).all():
            runs.add((within[places[0]], within[places[-1]]))
    assert len(runs) > 30 and {within[0], within[-1]} <= {end for run in runs for end in run}
    names = [each.name for each in graph.prunable_sets]
    assert any(names[first] in ("conv36", "conv39") and names[last] == "conv69" for first, last in runs)
    emptied = near.emptied_from("conv42")
    assert [name for name, share in emptied.sparsity.items() if share] == names[names.index("conv42") :]
    assert {share for share in emptied.sparsity.values() if share} == {0.96} and emptied.codec == Codec()
    with pytest.raises(InputError, match="set within a block: 'conv35' is unknown"):
        near.emptied_from("conv35")


def test_a_network_without_blocks_has_none_to_empty(near: Neighbourhood) -> None:
    with pytest.raises(InputError, match="emptied: no set of alexnet lies within a block that is flowed past"):
        near.emptied_from("conv3")


def test_what_is_chosen_after_others_counts_for_what_they_leave(near: Neighbourhood) -> None:
    names = near.moves(400, 5)
    outlook = near.outlook(names)
    (first, *rest) = near.best(names, outlook, 6)
    assert rest
    others = [name for name in names if name != first.name]
    after = near.best(others, near.outlook(others), 5, after=[first])
    assert [move.name for move in after] == [move.name for move in rest]
    assert [move.expected for move in after] == pytest.approx([move.expected for move in rest])
