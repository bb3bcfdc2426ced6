"""The atlas: as good as enumeration everywhere in its region, proven; the same however it was built."""

from __future__ import annotations

import numpy as np
import pytest
from coinfer_kernels.atlas.build import Draft, SolvedWeights, build_atlas
from coinfer_kernels.atlas.cells import cells
from coinfer_kernels.atlas.lookup import Atlas, make_region
from coinfer_kernels.atlas.packing import proven_share
from coinfer_kernels.costs import strategy_costs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from tests.kernels.test_exact import small_problem
from tests.reference import exact

RECTANGLE = np.array([(0.1, 1.0, 0.01), (10.0, 1.0, 0.01), (10.0, 1.0, 100.0), (0.1, 1.0, 100.0)])
EVERYTHING = np.eye(3)


def problem_and_floor(seed: int):
    """A small problem, the floor of its first scenario that some strategy reaches, and all its strategies."""
    tables, cost, ensemble, scenarios = small_problem(seed, scenarios=4)
    rows = exact.enumerate_all(tables, cost, ensemble)
    most = max(accuracy for _, _, accuracy in rows)
    floor = min(float(scenarios.accuracy_floor.min()), most - 1e-9)  # never exactly a prediction
    return (tables, cost, ensemble), floor, rows


def random_weights(rng: np.random.Generator, corners: np.ndarray, count: int) -> np.ndarray:
    """Weights in a cone: anywhere between its corners, many close to an edge."""
    shares = rng.random((count, len(corners))) ** rng.choice([1, 8], (count, 1))
    return shares @ corners * rng.choice([1e-9, 1.0, 1e5], (count, 1))


def best_of_all(rows, weights: np.ndarray, floor: float) -> np.ndarray:
    return np.array([exact.cheapest(rows, own, floor) for own in weights])


def check(atlas: Atlas, rows, floor: float, corners: np.ndarray, seed: int) -> None:
    """What is true of any atlas, finished or not: its answers are within its ratio of the best, and come from it."""
    weights = random_weights(np.random.default_rng(seed), corners, 40)
    weights = np.concatenate([weights, corners])
    best = best_of_all(rows, weights, floor)
    index, objective = atlas.lookup(weights)
    slack = 1e-9 * np.abs(best) + 1e-300
    assert (objective >= best - slack).all()
    assert (objective <= best * atlas.ratio + slack).all()
    assert objective == pytest.approx((atlas.costs[index] * weights).sum(axis=1), rel=1e-12)
    assert objective == pytest.approx((atlas.costs @ weights.T).min(axis=0), rel=1e-12)


@example(19281, 1e-6, True)  # two corners that differ by 1e-13: what is solved there must prove itself
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1e-6, 1e-3, 0.1]), st.booleans())
def test_enumeration_agrees_everywhere_in_the_region(seed, tolerance, everything):
    problem, floor, rows = problem_and_floor(seed)
    corners = EVERYTHING if everything else RECTANGLE
    atlas = build_atlas(*problem, corners, floor, tolerance=tolerance, threads=1)
    assert 1 <= atlas.ratio <= 1 + tolerance
    check(atlas, rows, floor, corners, seed)
    assert (strategy_costs(problem[1], problem[0].cut_variable, atlas.levels) == atlas.costs).all()
    assert (atlas.accuracy >= floor).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_a_limit_leaves_an_honest_ratio(seed, solves):
    problem, floor, rows = problem_and_floor(seed)
    everyone = np.array([levels for levels, _, accuracy in rows if accuracy >= floor])[:1]
    atlas = build_atlas(
        *problem, RECTANGLE, floor, known_levels=everyone, max_solves=solves, max_nodes=2, tolerance=1e-6, threads=1
    )
    check(atlas, rows, floor, RECTANGLE, seed)


@pytest.mark.parametrize("seed", [1, 4, 11])
def test_it_goes_on_where_it_stopped(seed):
    problem, floor, _ = problem_and_floor(seed)
    kept: list[SolvedWeights] = []
    whole = build_atlas(*problem, RECTANGLE, floor, batch=2, threads=1, report=lambda solved, _: kept.append(solved))
    again: list[SolvedWeights] = []
    for stop in (0, len(kept) // 2, len(kept)):
        again.clear()
        resumed = build_atlas(
            *problem,
            RECTANGLE,
            floor,
            batch=2,
            threads=3,
            solved=kept[:stop],
            report=lambda solved, _: again.append(solved),
        )
        assert len(again) == len(kept) - stop
        for one, other in zip(whole[:3], resumed[:3], strict=True):
            assert (one == other).all()
        assert one is not other
        assert resumed.ratio == whole.ratio


def test_a_known_strategy_takes_part_whatever_is_predicted():
    problem, _, rows = problem_and_floor(3)
    costs = np.array([cost for _, cost, _ in rows])
    cheapest = int((costs / costs.max(axis=0)).sum(axis=1).argmin())
    levels = np.array(rows[cheapest][0])[None]
    floor = max(accuracy for _, _, accuracy in rows)
    atlas = build_atlas(*problem, RECTANGLE, floor, known_levels=levels, threads=1)
    known = np.isinf(atlas.accuracy)
    assert known.sum() == 1
    assert (atlas.levels[known] == levels).all()
    assert atlas.ratio <= 1.001


def test_nothing_but_a_known_strategy_is_an_atlas_too():
    problem, _, rows = problem_and_floor(3)
    atlas = build_atlas(*problem, RECTANGLE, 1e6, known_levels=np.array(rows[0][0])[None], threads=1)
    assert (atlas.levels == np.array(rows[0][0])).all()
    assert atlas.ratio <= 1.001


def random_costs(rng: np.random.Generator, count: int) -> np.ndarray:
    """Points near a sphere's octant, of which many are vertices of the hull."""
    points = rng.random((count, 3)) + 0.05
    inward = 1.0 - 0.9 * points / np.linalg.norm(points, axis=1, keepdims=True)
    return inward * rng.choice([1e-6, 1.0, 1e9], 3)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_cells_are_where_their_points_win(seed, count):
    rng = np.random.default_rng(seed)
    costs = random_costs(rng, count)
    region = make_region(RECTANGLE if seed % 2 else EVERYTHING)
    rays, owner = cells(costs, region)
    values = costs @ rays.T
    assert values.min(axis=0) == pytest.approx(values[owner, np.arange(len(owner))], rel=1e-9)
    # Any weight of the region is a sum of the corners of its winner's cell, with no factor below zero.
    weights = random_weights(rng, region.corners, 20)
    for own, winner in zip(weights, (costs @ weights.T).argmin(axis=0), strict=True):
        corners = rays[owner == winner] / rays.max(axis=0)
        target = own / rays.max(axis=0)
        size = target.sum()
        found = linprog(np.zeros(len(corners)), A_eq=corners.T, b_eq=target / size)
        nearest = np.abs(costs @ own - (costs @ own).min()) <= 1e-9 * np.abs(costs @ own).max()
        assert found.status == 0 or nearest.sum() > 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_proven_shares_are_those_of_the_linear_program(seed, count):
    rng = np.random.default_rng(seed)
    solved, costs = rng.random((count, 3)) + 0.01, rng.random((30, 3))
    values = (costs @ solved.T).min(axis=0) * rng.uniform(0.9, 1.0, count)
    rays = rng.random((5, 3)) + 0.01
    above = (costs @ rays.T).min(axis=0)
    share = proven_share(solved, values, rays, above)
    assert (share <= 1 + 1e-9).all()
    for r, ray in enumerate(rays):
        columns = solved / ray * (above[r] / values)[:, None]
        best = -linprog(-np.ones(count), A_ub=columns.T, b_ub=np.ones(3)).fun
        assert share[r] == pytest.approx(best, rel=1e-6)
    units = 10.0 ** rng.integers(-9, 10, 3)  # in which FLOPs and bits are counted
    sizes = 10.0 ** rng.integers(-9, 10, count)  # a ray stands for all its multiples
    scaled = proven_share(solved * units * sizes[:, None], values * sizes, rays * units, above)
    assert scaled == pytest.approx(share, rel=1e-9)


def test_what_needs_a_weight_of_zero_proves_nothing_there():
    share = proven_share(np.eye(3), np.ones(3), np.array([(1.0, 0.0, 0.0), (1.0, 1.0, 0.0)]), np.array([2.0, 4.0]))
    assert share == pytest.approx([0.5, 0.5])


def example() -> Atlas:
    rng = np.random.default_rng(7)
    costs = random_costs(rng, 13)
    return Atlas(np.zeros((13, 2), dtype=np.int64), costs, np.ones(13), make_region(RECTANGLE), 1.001)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 1000, 70_000])
def test_lookup_is_the_first_least_dot_product(count):
    atlas = example()
    weights = random_weights(np.random.default_rng(count), RECTANGLE, count)
    expected = (
        weights[:, :1] * atlas.costs[:, 0] + weights[:, 1:2] * atlas.costs[:, 1] + weights[:, 2:] * atlas.costs[:, 2]
    )
    for threads in (1, 3):
        index, objective = atlas.lookup(weights, threads=threads)
        assert objective == pytest.approx(expected.min(axis=1), rel=1e-12)
        assert expected[np.arange(count), index] == pytest.approx(expected.min(axis=1), rel=1e-12)
    doubled = atlas._replace(costs=np.repeat(atlas.costs, 2, axis=0))
    assert (doubled.lookup(weights)[0] % 2 == 0).all()


def test_a_weight_outside_is_refused_or_marked_never_answered():
    atlas = example()
    outside = np.array(
        [
            (0.09, 1, 1),
            (11, 1, 1),
            (1, 1, 0.009),
            (1, 1, 101),
            (1, 0, 1),
            (0, 0, 0),
            (np.nan, 1, 1),
            (1, np.inf, 1),
            (-1, 1, 1),
        ]
    )
    inside = np.concatenate([RECTANGLE, [(1, 1, 1)]])
    for row in outside:
        with pytest.raises(ValueError, match=r"weights: row 1, .* lies outside"):
            atlas.lookup(np.array([inside[0], row]))
    index, objective = atlas.lookup(np.concatenate([inside, outside]), outside="mark")
    assert (index[: len(inside)] >= 0).all()
    assert (index[len(inside) :] == -1).all()
    assert np.isnan(objective[len(inside) :]).all()
    assert np.isfinite(objective[: len(inside)]).all()


def test_bad_input_is_named():
    problem, floor, _ = problem_and_floor(4)
    for call, message in (
        (lambda: build_atlas(*problem, RECTANGLE, floor, tolerance=0.0), "tolerance: 0.0"),
        (lambda: build_atlas(*problem, RECTANGLE, floor, batch=0), "batch and max_solves: 0"),
        (lambda: build_atlas(*problem, RECTANGLE, 1e9, threads=1), "accuracy_floor: no strategy reaches"),
        (lambda: build_atlas(*problem, RECTANGLE[:2], floor), "corners: has shape"),
        (lambda: build_atlas(*problem, -RECTANGLE, floor), "corners: holds negative"),
        (lambda: build_atlas(*problem, RECTANGLE[[0, 2, 1, 3]], floor), "corners: they are not those of a convex"),
        (lambda: build_atlas(*problem, RECTANGLE * (1, 0, 1), floor), "corners: one weight is zero"),
        (lambda: build_atlas(*problem, RECTANGLE, floor, known_levels=np.zeros((1, 2))), "levels: has 2 columns"),
        (lambda: example().lookup(np.zeros((2, 2))), "weights: has 2 columns"),
        (lambda: example().lookup(np.ones((2, 3)), outside="guess"), "outside: 'guess'"),
        (lambda: example().lookup(np.ones((2, 3)), threads=0), "threads: 0"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_draft_asks_for_nothing_twice():
    problem, floor, rows = problem_and_floor(5)
    good = [row for row in rows if row[2] >= floor][:1]
    levels = np.array([row[0] for row in good])
    draft = Draft(make_region(RECTANGLE), levels, np.array([row[1] for row in good]), np.ones(1))
    asked = draft.ask(1e-3, 100)
    assert len(asked) == 4
    unsolved = SolvedWeights(
        asked, np.repeat(levels, 4, axis=0), np.ones(4), np.zeros(4, dtype=bool), np.zeros(4), np.ones(4, dtype=int)
    )
    draft.tell(unsolved, strategy_costs(problem[1], problem[0].cut_variable, unsolved.levels))
    assert not len(draft.ask(1e-3, 100))
    assert draft.ratio == np.inf
