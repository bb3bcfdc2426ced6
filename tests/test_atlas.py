"""The atlas of a network: as good as the exact solver, the same after a kill, asked and shown from the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from coinfer_kernels import Scenarios, solve_exact

from coinfer_ray.atlas.atlas import Ranges, StrategyAtlas, load_atlas, solve_by_atlas
from coinfer_ray.atlas.build import build, grid_atlases
from coinfer_ray.cli import atlas as commands
from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.report.atlas_figure import draw_atlas
from coinfer_ray.report.pictures import FORMATS
from coinfer_ray.runtime.outputs import PICTURE_MARK
from coinfer_ray.scenarios.read import parse_grid
from tests.synthetic import write_synthetic_records

RANGES = Ranges.of_speeds((2e8, 1e12), (1.06e13, 1.06e13), (1e5, 1e8))
MAX_LOSS, TOLERANCE = 0.05, 0.001


@pytest.fixture(scope="module")
def problem(synthetic_predictor: Predictor) -> Problem:
    return assemble("alexnet", records=synthetic_predictor)


@pytest.fixture(scope="module")
def atlas(problem: Problem) -> StrategyAtlas:
    return build(problem, RANGES, max_loss=MAX_LOSS, tolerance=TOLERANCE, threads=1, quiet=True)


def random_scenarios(problem: Problem, count: int, seed: int = 0) -> Scenarios:
    rng = np.random.default_rng(seed)
    device, rate = (10 ** rng.uniform(*np.log10(ends), count) for ends in ((2e8, 1e12), (1e5, 1e8)))
    weights = np.column_stack([1 / device, np.full(count, 1 / 1.06e13), 1 / rate])
    return Scenarios(weights, np.full(count, problem.base_accuracy - MAX_LOSS), np.full(count, np.nan))


def same(a: StrategyAtlas, b: StrategyAtlas) -> bool:
    arrays = zip((*a.table[:3], *a.table.region, a.known), (*b.table[:3], *b.table.region, b.known), strict=True)
    return all((one == other).all() for one, other in arrays) and a.strategies == b.strategies


def test_it_equals_the_exact_solver_within_its_tolerance(problem, atlas):
    assert atlas.info.proven
    assert atlas.info.ratio == atlas.table.ratio <= 1 + TOLERANCE
    scenarios = random_scenarios(problem, 40)
    found = solve_by_atlas(problem, scenarios, [atlas])
    exact = solve(problem, scenarios, "exact", threads=1)
    assert (found.objective <= exact.objective * (1 + TOLERANCE)).all()
    assert (found.objective >= exact.lower_bound * (1 - 1e-12)).all()
    assert (found.lower_bound <= exact.objective * (1 + 1e-12)).all()
    costs = problem.delay.costs(found.levels)
    assert found.objective == pytest.approx((costs * scenarios.weights).sum(axis=1), rel=1e-12)
    assert len(np.unique(found.levels, axis=0)) >= 3


def test_its_strategies_are_accurate_enough(problem, atlas):
    x = np.array([problem.space.values(strategy) for strategy in atlas.strategies])
    predicted, place = problem.predictor.predict(x), problem.measured.find(atlas.table.levels)
    predicted[place >= 0] = problem.measured.accuracy[place[place >= 0]]
    sources = np.where(atlas.known, "base", np.where(place >= 0, "measured", "predicted"))
    assert atlas.sources == tuple(sources.tolist())
    assert (np.where(atlas.known, problem.base_accuracy, predicted) == atlas.table.accuracy).all()
    assert (atlas.table.accuracy >= problem.base_accuracy - MAX_LOSS).all()
    assert (atlas.known == problem.is_known(atlas.table.levels)).all()


def test_no_answer_loses_to_the_network_as_it_is(problem, atlas):
    scenarios = random_scenarios(problem, 200, seed=1)
    untouched = (problem.known_costs @ scenarios.weights.T).min(axis=0)
    assert (solve_by_atlas(problem, scenarios, [atlas]).objective <= untouched * (1 + 1e-12)).all()


def test_a_confidence_asks_for_more(problem):
    sure = build(problem, RANGES, max_loss=MAX_LOSS, confidence=0.8, tolerance=0.05, threads=1, quiet=True)
    floor = np.array([problem.base_accuracy - MAX_LOSS])
    assert sure.info.accuracy_floor == problem.required_accuracy(floor, 0.8)[0] > floor[0]
    scenarios = random_scenarios(problem, 5)
    found = solve_by_atlas(problem, scenarios, [sure], 0.8)
    assert (problem.accuracy_bound(problem.answers(found), 0.8) >= floor[0] - 1e-12).all()
    with pytest.raises(InputError, match="atlas: none was built for an accuracy of"):
        solve_by_atlas(problem, scenarios, [sure])


def test_a_scenario_outside_the_ranges_is_refused(problem, atlas):
    beyond = random_scenarios(problem, 2)
    beyond.weights[1, 2] = 1 / 9e4
    with pytest.raises(InputError, match=r"weights: row 1, .* lies outside"):
        solve_by_atlas(problem, beyond, [atlas])
    with pytest.raises(InputError, match=r"device: 0\.1 GFLOPS beside a server of 10600"):
        atlas.intervals(1e8, 1.06e13)


def test_the_ends_of_the_ranges_lie_inside(problem, atlas):
    ends = np.array([(1 / device, 1 / 1.06e13, 1 / rate) for device in (2e8, 1e12) for rate in (1e5, 1e8)])
    index, _ = atlas.table.lookup(ends)
    assert (index >= 0).all()


@pytest.mark.parametrize("device", [2e8, 3.264e11])
def test_intervals_say_which_row_wins_at_a_rate(atlas, device):
    intervals = atlas.intervals(device, 1.06e13)
    assert intervals[0][1] == pytest.approx(1e5)
    assert intervals[-1][2] == pytest.approx(1e8)
    assert [high for _, _, high in intervals[:-1]] == [low for _, low, _ in intervals[1:]]
    for row, low, high in intervals:
        rates = np.geomspace(low * (1 + 1e-9), high * (1 - 1e-9), 7)
        weights = np.column_stack([np.full(7, 1 / device), np.full(7, 1 / 1.06e13), 1 / rates])
        objective = atlas.table.lookup(weights)[1]
        assert (weights @ atlas.table.costs[row]) == pytest.approx(objective, rel=1e-7)


def test_a_file_holds_all_of_it(atlas, tmp_path):
    path = tmp_path / "atlas.parquet"
    atlas.save(path)
    assert path.stat().st_size < 50_000
    again = load_atlas(path)
    assert same(atlas, again)
    assert again.info == atlas.info
    rows = pq.read_table(path).to_pylist()
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert all(row["rate_low_bps"] <= row["rate_high_bps"] for row in rows)


def test_what_is_no_atlas_is_named(tmp_path, synthetic_records):
    (tmp_path / "text").write_text("no Parquet")
    cases = (
        (tmp_path / "none", "does not exist"),
        (tmp_path / "text", "is not an atlas file"),
        (synthetic_records, "is not an atlas file"),
    )
    for path, message in cases:
        with pytest.raises(InputError, match=message):
            load_atlas(path)


def counted(monkeypatch: pytest.MonkeyPatch, fail_at: int | None = None) -> list[int]:
    """Count the weights that the exact solver gets; it fails when it is called for the ``fail_at``-th time."""
    from coinfer_kernels.atlas import build as kernels

    calls: list[int] = []

    def counting(*arguments: Any, **options: Any) -> Any:
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        calls.append(len(arguments[3].accuracy_floor))
        return solve_exact(*arguments, **options)

    monkeypatch.setattr(kernels, "solve_exact", counting)
    return calls


def test_a_build_that_was_stopped_goes_on(problem, atlas, tmp_path, monkeypatch):
    out = tmp_path / "atlas.parquet"
    options: dict[str, Any] = {"max_loss": MAX_LOSS, "tolerance": TOLERANCE, "out": out, "threads": 1, "quiet": True}
    with monkeypatch.context() as patch:
        first = counted(patch, fail_at=2)
        with pytest.raises(KeyboardInterrupt):
            build(problem, RANGES, **options)
    assert not out.exists()
    parts = tmp_path / "atlas.parquet.parts"
    assert len(list(parts.glob("solved-*.npz"))) == 2
    (parts / "solved-000001.npz").write_bytes(b"cut off")  # as a full disk leaves it
    with pytest.raises(InputError, match="belongs to another run: max_loss"):
        build(problem, RANGES, **{**options, "max_loss": 0.03})
    with monkeypatch.context() as patch:
        second = counted(patch)
        built = build(problem, RANGES, **options)
    assert sum(first[:1]) + sum(second) == built.info.solves == atlas.info.solves
    assert same(built, atlas)
    assert same(load_atlas(out), atlas)
    assert not parts.exists()
    written = out.read_bytes()
    with pytest.raises(InputError, match=r"out: .* is another atlas: max_loss is 0.05 there and 0.03 here; move it"):
        build(problem, RANGES, **{**options, "max_loss": 0.03})
    assert out.read_bytes() == written
    assert not parts.exists()
    assert same(build(problem, RANGES, **options), atlas)  # one's own is brought up to date


def test_a_grid_gets_the_atlases_that_it_needs(problem, tmp_path, monkeypatch):
    grid = parse_grid(
        {
            "model": ["alexnet"],
            "device": ["rpi3b+", "tk1"],
            "server": ["p100"],
            "link": ["3g", "wifi"],
            "max_loss": [0.05, 0.2],
            "confidence": [None],
        }
    )
    found = grid_atlases(grid, problem, tolerance=0.05, folder=tmp_path, threads=1, quiet=True)
    assert [one.info.max_loss for one in found] == [0.05, 0.2]
    columns, weights = grid.columns(0, len(grid)), grid.weights(0, len(grid))
    scenarios = Scenarios(weights, problem.base_accuracy - columns["max_loss"], columns["snr_db"])
    answers = solve_by_atlas(problem, scenarios, found)
    exact = solve(problem, scenarios, "exact", threads=1)
    assert (answers.objective <= 1.05 * exact.objective).all()
    monkeypatch.setattr(sys.modules["coinfer_ray.atlas.build"], "build_atlas", None)  # nothing is built again
    again = grid_atlases(grid, problem, tolerance=0.05, folder=tmp_path, threads=1, quiet=True)
    assert all(same(one, other) for one, other in zip(found, again, strict=True))
    wider = parse_grid({**grid.document, "link": ["3g", {"rate_mbps": 500}]})
    for grid_, tolerance in ((wider, 0.05), (grid, 0.001)):
        with pytest.raises(InputError, match="was built for other scenarios"):
            grid_atlases(grid_, problem, tolerance=tolerance, folder=tmp_path)


def test_a_noisy_predictor_has_an_atlas_for_an_interval_of_ratios(tmp_path):
    noisy = assemble("alexnet", records=write_synthetic_records(tmp_path / "noisy.parquet", noisy=True))
    ranges = Ranges.of_speeds((1e9, 1e9), (1.06e13, 1.06e13), (1e6, 2e6))
    with pytest.raises(InputError, match="snr: "):
        build(noisy, ranges)
    atlas = build(noisy, ranges, max_loss=0.1, snr_db=30.0, tolerance=0.05, threads=1, quiet=True)
    assert atlas.info.snr_db is not None
    low, high = atlas.info.snr_db
    assert low < 30.0 <= high
    weights = np.array([[1e-9, 1 / 1.06e13, 1e-6]])
    floor = np.array([noisy.base_accuracy - 0.1])
    for snr_db in (30.0, min(high, 50.0), np.nextafter(low, np.inf)):
        scenarios = Scenarios(weights, floor, np.array([snr_db]))
        exact = solve(noisy, scenarios, "exact", threads=1)
        assert solve_by_atlas(noisy, scenarios, [atlas]).objective[0] <= 1.05 * exact.objective[0]
    with pytest.raises(InputError, match="none was built"):
        solve_by_atlas(noisy, Scenarios(weights, floor, np.array([low])), [atlas])


def test_bad_input_is_named(problem):
    for call, message in (
        (lambda: build(problem, RANGES, max_loss=-0.1), "max loss: -0.1"),
        (lambda: build(problem, RANGES, tolerance=0.0), "tolerance: 0.0"),
        (lambda: Ranges.of_speeds((2, 1), (1, 1), (1, 1)), "device: the range 2:1"),
        (lambda: Ranges.of_speeds((1, 1), (1, 1), (0, 1)), "rate: the range 0:1"),
    ):
        with pytest.raises(InputError, match=message):
            call()


@pytest.mark.parametrize("ending", FORMATS)
def test_a_picture_is_drawn_anew_over_its_own_kind_alone(
    atlas: StrategyAtlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr("coinfer_ray.report.atlas_figure.POINTS", 40)
    path = tmp_path / f"picture{ending}"
    for _ in range(2):
        draw_atlas(atlas, path)
    path.write_bytes(path.read_bytes().replace(PICTURE_MARK.encode(), b"another tool"))
    with pytest.raises(InputError, match="is not a picture that coinfer drew"):
        draw_atlas(atlas, path)


@pytest.fixture
def run() -> Any:
    app = typer.Typer()
    commands.register(app)

    def call(*arguments: object) -> None:
        typer.main.get_command(app).main(["atlas", *map(str, arguments)], standalone_mode=False)

    return call


def test_build_and_show(run, synthetic_records, synthetic_predictor, tmp_path, capsys):
    saved = tmp_path / "predictor.npz"
    synthetic_predictor.save(saved)
    out = tmp_path / "a.parquet"
    speeds = ("--device-gflops", "0.2:400", "--rate-mbps", "1:60", "--max-loss", MAX_LOSS, "--tolerance", 0.05)
    run("build", "--model", "alexnet", "--records", saved, "--out", out, "--threads", 1, *speeds, "--json")
    built = json.loads(capsys.readouterr().out)
    assert built["ratio"] <= 1.05
    picture = tmp_path / "a.png"
    run("show", out, "--device", "rpi3b+", "--link", "3g", "--picture", picture, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(shown["strategies"]) == built["strategies"]
    answer = shown["answer"]
    assert answer["lower_bound_s"] <= answer["latency_s"] <= 1.05 * answer["lower_bound_s"] * (1 + 1e-9)
    at = [one for one in shown["intervals"] if one["rate_low_bps"] <= 1.19e6 <= one["rate_high_bps"]]
    assert answer["row"] in [one["row"] for one in at]
    run("show", out)
    assert "strategies for alexnet at 64 px" in capsys.readouterr().out
    for arguments, message in (
        (("show", out, "--link", "3g"), "device: missing"),
        (("show", out, "--device", "rpi3b+", "--rate-mbps", "1000"), "lies outside"),
        (("show", out, "--picture", tmp_path / "a.txt"), "picture: a.txt"),
        (("build", "--model", "alexnet", "--out", synthetic_records), "is there and is not an atlas"),
        (("build", "--model", "alexnet", "--out", out, "--rate-mbps", "fast"), "rate mbps: 'fast' is no range"),
    ):
        with pytest.raises(InputError, match=message):
            run(*arguments)
