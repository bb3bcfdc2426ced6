"""Widths of a value on the link as a part of the strategy: the space, its costs, and what was measured of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from coinfer_kernels import Scenarios

from coinfer_ray.atlas.atlas import Ranges, load_atlas
from coinfer_ray.atlas.build import build
from coinfer_ray.errors import InputError
from coinfer_ray.models.library import load_graph
from coinfer_ray.optimizer.optimize import optimize
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.predictor.fit import fit_predictor
from coinfer_ray.problem.costs import DelayCalculator
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.problem.strategy import Codec, Strategy
from coinfer_ray.records.choices import shipped_choices
from coinfer_ray.records.store import (
    Records,
    few_bits_beside,
    read_records,
    shipped_parts,
    shipped_records,
    write_records,
)
from coinfer_ray.refine.few_bits import base_records, few_bits_plan, knowing_widths, width_losses
from coinfer_ray.runtime.cache import CACHE_VARIABLE
from tests.synthetic import write_synthetic_records

CODEC = Codec(ratio_1=0.5, stride_1=2)


@pytest.fixture(scope="module")
def graph():  # type: ignore[no-untyped-def]
    return load_graph("alexnet", 64)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic records, ten of whose strategies with an inner cut were trained at 8 bits as well."""
    folder = tmp_path_factory.mktemp("mixed")
    floats = read_records(write_synthetic_records(folder / "floats.parquet", count=60))
    rows = floats.table.to_pylist()
    last = len(load_graph("alexnet", 64).layers)
    inner = [row for row in rows if 0 < row["partition_point"] < last][:10]
    few = [
        row
        | {
            "candidate": 1000 + number,
            "feature_bits": 8,
            "uplink_bit": row["uplink_bit"] / 5,
            "validation_accuracy": row["validation_accuracy"] - 0.001,
        }
        for number, row in enumerate(inner)
    ]
    write_records(folder / "mixed.parquet", [*rows, *few], floats.info)
    return folder / "mixed.parquet"


@pytest.fixture(scope="module")
def problem(mixed: Path) -> Problem:
    return assemble("alexnet", records=mixed, regressor="monotone_boosting")


def test_every_inner_cut_has_a_level_of_each_width_and_the_ends_have_one(graph) -> None:  # type: ignore[no-untyped-def]
    space = SearchSpace(graph, feature_bits=(32, 8))
    points = np.array(space.variables[space.cut_variable].values)
    inner = (points > 0) & (points < len(graph.layers))
    assert sorted(points[inner].tolist()) == sorted(2 * [float(point) for point in graph.cut_points[1:-1]])
    assert space.cut_bits[~inner].tolist() == [32, 32] and np.bincount(space.cut_bits[inner])[[8, 32]].tolist() == [
        20,
        20,
    ]
    zero = {prunable.name: 0.0 for prunable in graph.prunable_sets}
    for point in graph.cut_points:
        for bits in (32, 8):
            strategy = Strategy(zero, point, CODEC if space.cut_kind(point) == "spatial" else Codec(), bits)
            there = space.strategy(space.levels(strategy))
            assert there.partition_point == point
            assert there.feature_bits == (bits if 0 < point < len(graph.layers) else 32)


def test_fewer_bits_cost_the_link_their_share_and_nothing_else(graph) -> None:  # type: ignore[no-untyped-def]
    space = SearchSpace(graph, feature_bits=(32, 8))
    delay = DelayCalculator(space)
    floats = DelayCalculator(SearchSpace(graph))
    rng = np.random.default_rng(0)
    for _ in range(50):
        levels = rng.integers(0, floats.space.tables.n_levels)
        strategy = floats.space.strategy(levels)
        own = floats.costs(floats.space.levels(strategy))[0]
        few = delay.costs(space.levels(replace(strategy, feature_bits=8)))[0]
        inner = 0 < strategy.partition_point < len(graph.layers)
        assert few.tolist() == [own[0], own[1], own[2] / 4 if inner else own[2]]


def test_a_strategy_says_its_bits_and_refuses_others() -> None:
    strategy = Strategy({"conv1": 0.5}, 3, CODEC, 8)
    assert Strategy.from_json(strategy.to_json()) == strategy
    older = {name: value for name, value in strategy.to_json().items() if name != "feature_bits"}
    assert Strategy.from_json(older).feature_bits == 32
    with pytest.raises(InputError, match=r"feature bits: 9 must be within 1\.\.8, or 32"):
        Strategy.from_json(strategy.to_json() | {"feature_bits": 9})


def test_the_predictor_learns_from_floats_and_knows_what_was_measured_of_both(mixed: Path, problem: Problem) -> None:
    records = read_records(mixed)
    floats = records.where(records.feature_bits == 32)
    alone = fit_predictor(floats, regressor="monotone_boosting")
    assert problem.predictor.records == len(floats) == len(records) - 10
    x = alone.measured.x
    assert np.array_equal(problem.predictor.predict(x), alone.predict(x))
    few = problem.measured.levels[:, problem.space.cut_variable]
    eight = problem.space.cut_bits[few] == 8
    assert eight.sum() == 10
    for row in np.flatnonzero(eight):
        strategy = problem.space.strategy(problem.measured.levels[row])
        (place,) = [i for i, own in enumerate(records.strategies) if own == strategy]
        assert problem.measured.accuracy[row] == records.accuracy()[place]
        assert problem.measured.costs[row, 2] == min(
            records.costs()[place, 2], problem.delay.costs(problem.measured.levels[row])[0, 2]
        )


@pytest.mark.parametrize("optimizer", ["exact", "quantum"])
def test_answers_are_no_slower_than_with_floats_and_cost_what_was_measured(
    mixed: Path, problem: Problem, optimizer: str
) -> None:
    floats = assemble("alexnet", records=mixed, regressor="monotone_boosting", feature_bits=32)
    assert set(floats.space.cut_bits.tolist()) == {32} and len(floats.measured.accuracy) < len(
        problem.measured.accuracy
    )
    rng = np.random.default_rng(3)
    count = 40
    weights = np.column_stack(
        [10 ** rng.uniform(-12, -8, count), np.full(count, 1e-13), 10 ** rng.uniform(-9, -5, count)]
    )
    scenarios = Scenarios(weights, np.full(count, problem.base_accuracy - 0.05), np.full(count, np.nan))
    found = {}
    for name, own in (("any", problem), ("floats", floats)):
        found[name] = solve(own, scenarios, optimizer, confidence=0.9)
        answers = own.answers(found[name])
        assert np.allclose((answers.costs * weights).sum(axis=1), found[name].objective)
        assert (answers.extra["bits"] == 0).all() or name == "any"
    assert (found["any"].objective <= found["floats"].objective * (1 + 1e-9)).all()
    assert (found["any"].objective < found["floats"].objective).any()


def test_an_atlas_answers_with_fewer_bits_and_keeps_them(problem: Problem, tmp_path: Path) -> None:
    ranges = Ranges.of_speeds((1e9, 1e12), (1e13, 1e13), (1e5, 1e8))
    atlas = build(problem, ranges, max_loss=0.05, confidence=0.9, tolerance=0.01, quiet=True)
    atlas.save(tmp_path / "a.atlas")
    again = load_atlas(tmp_path / "a.atlas")
    assert again.strategies == atlas.strategies
    assert 8 in {strategy.feature_bits for strategy in atlas.strategies}
    for costs, levels in zip(atlas.table.costs, atlas.table.levels, strict=True):
        place = problem.measured.find(levels[None])[0]
        expected = problem.measured.costs[place] if place >= 0 else problem.delay.costs(levels)[0]
        assert costs.tolist() == expected.tolist()


def test_over_noisy_links_floats_are_sent() -> None:
    records = "alexnet-64px.awgn.parquet"
    assert set(assemble("alexnet", records=records).space.cut_bits.tolist()) == {32}
    with pytest.raises(InputError, match="noisy channel, over which floats are sent"):
        assemble("alexnet", records=records, feature_bits=8)
    with pytest.raises(InputError, match="feature bits: '16' is unknown"):
        assemble("alexnet", feature_bits=16)  # type: ignore[arg-type]


def test_eight_bits_at_inner_cuts_alone_need_records_of_them(mixed: Path, tmp_path: Path) -> None:
    options = {"cuts": "inner", "feature_bits": 8, "regressor": "decision_tree"}
    assert len(assemble("alexnet", records=mixed, **options).measured.accuracy)  # type: ignore[arg-type]
    floats = write_synthetic_records(tmp_path / "floats.parquet", count=40)
    with pytest.raises(InputError, match="no strategy with quantised features"):
        assemble("alexnet", records=floats, **options)  # type: ignore[arg-type]


def test_a_new_measurement_of_quantised_features_is_another_problem(mixed: Path, problem: Problem) -> None:
    records = read_records(mixed)
    fewer = records.where(np.arange(len(records)) < len(records) - 1)
    other = assemble("alexnet", records=fewer, regressor="monotone_boosting")
    mine, theirs = problem.provenance(), other.provenance()
    assert mine["predictor"]["records_hash"] == theirs["predictor"]["records_hash"]
    assert mine["measured"] != theirs["measured"]


def test_the_shipped_strategies_of_eight_bits_take_part_whatever_the_regressor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    tree, shipped = assemble("alexnet", regressor="decision_tree"), assemble("alexnet")
    eight = [(each.predictor.measured.feature_bits == 8).sum() for each in (tree, shipped)]
    assert eight[0] == eight[1] > 0


def test_the_cuts_of_a_network_without_a_codec_are_trained_from_one_seed() -> None:
    from coinfer_ray.training.verifier import Verifier

    graph = load_graph("alexnet", 64)
    verifier = object.__new__(Verifier)
    verifier.space = SearchSpace(graph)
    sparsity = {prunable.name: 0.25 for prunable in graph.prunable_sets}
    plain = [Strategy(sparsity, point, feature_bits=8) for point in (3, 13)]
    coded = [Strategy(sparsity, point, CODEC, 8) for point in (3, 6)]
    seeds = [verifier._seeded_by(each, None) for each in (*plain, *coded)]
    assert seeds[0] == seeds[1] and len(set(seeds)) == 3


def narrow_records(mixed: Path, path: Path) -> Path:
    """``mixed``, and what it has at 8 bits at 4 bits as well, for a third of the bits and 0.3 points."""
    records = read_records(mixed)
    rows = records.table.to_pylist()
    few = [
        row
        | {
            "candidate": row["candidate"] + 1000,
            "feature_bits": 4,
            "uplink_bit": row["uplink_bit"] / 3,
            "validation_accuracy": row["validation_accuracy"] - 0.003,
        }
        for row in rows
        if row["feature_bits"] == 8
    ]
    write_records(path, [*rows, *few], records.info)
    return path


def test_widths_without_a_prediction_come_behind_those_that_may_be_searched(graph) -> None:  # type: ignore[no-untyped-def]
    plain, space = (
        SearchSpace(graph, feature_bits=(32, 8)),
        SearchSpace(graph, feature_bits=(32, 8), measured_bits=(4,)),
    )
    assert space.searched_cuts == plain.searched_cuts == len(plain.cut_bits)
    points = np.array(space.variables[space.cut_variable].values)
    assert points[: space.searched_cuts].tolist() == list(plain.variables[plain.cut_variable].values)
    assert set(space.cut_bits[space.searched_cuts :].tolist()) == {4}
    assert points[space.searched_cuts :].tolist() == list(graph.cut_points[1:-1])
    strategy = Strategy({prunable.name: 0.0 for prunable in graph.prunable_sets}, 3, CODEC, 4)
    assert space.strategy(space.levels(strategy)) == strategy


@pytest.mark.parametrize("optimizer", ["exact", "quantum"])
def test_what_four_bits_cost_is_never_guessed(mixed: Path, tmp_path: Path, optimizer: str) -> None:
    narrow = narrow_records(mixed, tmp_path / "narrow.parquet")
    problem, before = (assemble("alexnet", records=path, regressor="monotone_boosting") for path in (narrow, mixed))
    rng = np.random.default_rng(3)
    weights = np.column_stack([10 ** rng.uniform(-12, -8, 40), np.full(40, 1e-13), 10 ** rng.uniform(-9, -5, 40)])
    scenarios = Scenarios(weights, np.full(40, problem.base_accuracy - 0.05), np.full(40, np.nan))
    seen = set()
    for confidence in (0.9, None):
        found = solve(problem, scenarios, optimizer, confidence=confidence)
        answers = problem.answers(found)
        bits = answers.extra["bits"]
        assert answers.trainings is not None and (answers.trainings[bits == 4] > 0).all()
        assert np.allclose((answers.costs * weights).sum(axis=1), found.objective)
        assert optimizer != "exact" or (found.lower_bound <= found.objective).all()
        without = solve(before, scenarios, optimizer, confidence=confidence)
        assert (found.objective <= without.objective * (1 + 1e-9)).all()
        assert np.allclose(found.objective[bits != 4], without.objective[bits != 4])
        seen |= {confidence} if (bits == 4).any() else set()
    assert 0.9 in seen
    for asked in (32, 8):
        own = assemble("alexnet", records=narrow, regressor="monotone_boosting", feature_bits=asked)  # type: ignore[arg-type]
        assert 4 not in own.space.cut_bits and own.searched[0] is own.space.tables


@pytest.mark.parametrize("crossings", [False, True])
def test_an_atlas_answers_with_four_bits_where_they_were_measured(mixed: Path, tmp_path: Path, crossings: bool) -> None:
    problem = assemble(
        "alexnet", records=narrow_records(mixed, tmp_path / "narrow.parquet"), regressor="monotone_boosting"
    )
    ranges = Ranges.of_speeds((1e9, 1e12), (1e13, 1e13), (1e5, 1e8))
    atlas = build(problem, ranges, max_loss=0.05, confidence=0.9, crossings=crossings, tolerance=0.01, quiet=True)
    four = [row for row, strategy in enumerate(atlas.strategies) if strategy.feature_bits == 4]
    assert four and {atlas.sources[row] for row in four} == {"measured"}
    for row, levels in enumerate(atlas.table.levels):
        place = problem.measured.find(levels[None])[0]
        expected = problem.measured.costs[place] if place >= 0 else problem.delay.costs(levels)[0]
        assert atlas.table.costs[row].tolist() == expected.tolist()
        if row in four:
            assert atlas.table.accuracy[row] == problem.measured.accuracy[place]


def test_the_plan_asks_for_what_would_win_with_fewer_bits(mixed: Path) -> None:
    """By an oracle: each measured strategy of floats with each width, at what that costs the network as it is."""
    records = read_records(mixed)
    whole = assemble("alexnet", records=mixed, regressor="monotone_boosting")
    zero = [0.0] * len(records.info.prunable_sets)
    rows = [
        records.table.to_pylist()[0]
        | {"candidate": 5000 + point * 10 + bits, "sparsity": zero, "partition_point": point, "codec": [1.0] * 8}
        | {"feature_bits": bits, "validation_accuracy": whole.base_accuracy - lost}
        | {"uplink_bit": whole.graph.layers[point - 1].output_elements * sent}
        for point in whole.graph.cut_points[1:-1]
        for bits, lost, sent in ((8, -0.001, 5.0), (6, 0.0, 4.0), (4, 0.02, 2.0), (2, 0.3, 1.5))
    ]
    floats = records.where(records.feature_bits == 32)
    problem = knowing_widths(whole, floats, Records.of(rows, records.info, "rows"))
    rng = np.random.default_rng(1)
    weights = np.column_stack([10 ** rng.uniform(-12, -8, 60), np.full(60, 1e-13), 10 ** rng.uniform(-9, -5, 60)])
    floor = problem.base_accuracy - np.tile([0.03, 0.1], 30)
    scenarios = Scenarios(weights, floor, np.full(60, np.nan))
    one, two = (few_bits_plan(problem, scenarios, confidence=None, rounds=rounds) for rounds in (1, 2))
    space, last = problem.space, len(problem.graph.layers)
    assert set(map(repr, one)) < set(map(repr, two)) and len(set(map(repr, two))) == len(two)
    assert all(each.feature_bits < 32 and 0 < each.partition_point < last for each in two)
    assert {each.feature_bits for each in two} >= {6, 4}
    # Those of one network come together.
    names = [(*each.sparsity.values(), each.codec) for each in two if each.codec == Codec()]
    assert [name for name, _ in groupby(names)] == list(dict.fromkeys(names))
    twins = []
    for levels, accuracy in zip(problem.measured.levels, problem.measured.accuracy, strict=True):
        strategy = space.strategy(levels)
        if strategy.feature_bits != 32 or not 0 < strategy.partition_point < last:
            continue
        for bits, share, lost in ((8, 5 / 8, 0.0), (6, 4 / 6, 0.0), (4, 0.5, 0.02), (2, 0.75, 0.3)):
            twin = replace(strategy, feature_bits=bits)
            costs = problem.delay.costs(space.levels(twin))[0] * (1, 1, share)
            twins.append((costs, accuracy - lost, twin))
    asked = set(map(repr, one))
    wins = 0
    for weight, own in zip(weights, floor, strict=True):
        others = [float(row @ weight) for row in problem.known_costs]
        others += [
            float(row @ weight)
            for row, reached in zip(problem.measured.costs, problem.measured.accuracy, strict=True)
            if reached >= own
        ]
        best = min((float(costs @ weight), repr(twin)) for costs, reached, twin in twins if reached >= own)
        if best[0] < min(others) * (1 - 1e-9):
            assert best[1] in asked
            wins += 1
    assert wins > 10


@pytest.mark.parametrize("model", ["alexnet", "regnet_x_400mf"])
def test_what_few_bits_cost_the_network_as_it_is_comes_from_what_ships_of_jalad(model: str) -> None:
    records, problem, choices = read_records(shipped_records(model)), assemble(model), shipped_choices(model)
    base = base_records(choices, records.info, problem.space)
    assert len(base) == 4 * len(problem.graph.cut_points[1:-1])
    assert set(base.feature_bits.tolist()) == {8, 6, 4, 2}
    own = choices.of("jalad")
    for strategy, accuracy, costs in zip(base.strategies, base.accuracy(), base.costs(), strict=True):
        assert not any(strategy.sparsity.values()) and strategy.codec == Codec()
        row = (own.partition_point == strategy.partition_point) & (own.feature_bits == strategy.feature_bits)
        assert own.accuracy[row] == pytest.approx([accuracy]) and own.costs[row].tolist() == [costs.tolist()]
    loss = width_losses(knowing_widths(problem, records, base))
    bits, inner = problem.space.cut_bits, problem.space.cut_bits < 32
    assert (loss >= 0).all() and (loss[~inner] == 0).all()
    assert loss[bits == 2].mean() > loss[bits == 4].mean() > loss[bits == 6].mean() > loss[bits == 8].mean()


@pytest.mark.parametrize("model", ["alexnet", "regnet_x_400mf"])
def test_what_jalad_chooses_from_is_among_what_ships(model: str) -> None:
    problem, theirs = assemble(model), shipped_choices(model).of("jalad")
    untouched = {prunable.name: 0.0 for prunable in problem.graph.prunable_sets}
    for point, bits, costs, lost in zip(
        theirs.partition_point.tolist(), theirs.feature_bits.tolist(), theirs.costs, theirs.loss, strict=True
    ):
        levels = problem.space.levels(Strategy(untouched, point, feature_bits=bits))
        place = problem.measured.find(levels[None])[0]
        assert place >= 0
        np.testing.assert_allclose(problem.measured.costs[place], costs, rtol=0.02)
        # Two kinds of machines, and two that calibrate on their own images, differ by an image in a thousand.
        assert problem.base_accuracy - problem.measured.accuracy[place] == pytest.approx(lost, abs=0.002)


def test_a_record_of_floats_is_the_same_whether_it_says_so_or_not(mixed: Path, tmp_path: Path) -> None:
    records = read_records(mixed)
    rows = records.table.to_pylist()
    write_records(
        tmp_path / "said.parquet", [row | {"feature_bits": row["feature_bits"] or 32} for row in rows], records.info
    )
    both = read_records([mixed, tmp_path / "said.parquet"])
    assert len(both) == len(records) and both.strategies == records.strategies


def test_what_ships_of_eight_bits_counts_wherever_the_shipped_records_are_named(tmp_path: Path) -> None:
    from coinfer_ray.refine.run import _start_records

    ships = shipped_records("alexnet")
    whole = len(read_records(shipped_parts("alexnet")))
    assert len(_start_records(None, "alexnet", 64)) == len(_start_records(ships.name, "alexnet", 64)) == whole
    own = tmp_path / ships.name
    own.write_bytes(ships.read_bytes())
    assert len(_start_records(own, "alexnet", 64)) == len(read_records(ships)) < whole


@pytest.mark.parametrize("model", ["alexnet", "regnet_x_400mf"])
def test_what_ships_of_few_bits_belongs_to_the_records_and_makes_answers_faster(model: str) -> None:
    records, few = read_records(shipped_records(model)), read_records(few_bits_beside(shipped_records(model)))
    assert set(few.feature_bits.tolist()) == {8, 6, 4, 2} and few.info.settings_hash == records.info.settings_hash
    assert len(read_records(shipped_parts(model))) == len(records) + len(few)
    whole = assemble(model)
    assert (whole.space.cut_bits[whole.measured.levels[:, whole.space.cut_variable]] < 32).sum() == len(
        {repr(strategy) for strategy in few.strategies}
    )
    scenario = {"device": "rpi4b", "server": "p100", "link": "4g"}
    any_bits, floats = optimize(model, **scenario), optimize(model, feature_bits=32, **scenario)  # type: ignore[arg-type]
    assert any_bits.strategy.feature_bits < 32 and floats.strategy.feature_bits == 32
    assert any_bits.latency_s < floats.latency_s
    assert any_bits.accuracy_source == "measured" and any_bits.accuracy_bound >= any_bits.accuracy_floor  # type: ignore[operator]
