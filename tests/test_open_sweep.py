"""What a sweep leaves behind: compact rows that say all, files that are checked, shards, estimates, SQL."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coinfer_ray import open_sweep
from coinfer_ray.atlas.atlas import Ranges, StrategyAtlas
from coinfer_ray.atlas.build import build
from coinfer_ray.atlas.sql import atlas_sql
from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.problem import assemble
from coinfer_ray.predictor.obtain import obtain_predictor
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.runtime.files import single_writer
from coinfer_ray.scenarios.grid import AXES
from coinfer_ray.scenarios.read import parse_grid
from coinfer_ray.sweeps.estimate import estimate
from coinfer_ray.sweeps.found import Found
from coinfer_ray.sweeps.manifest import MANIFEST_FILE, STRATEGIES_FILE, Manifest
from coinfer_ray.sweeps.rows import COMPACT, FULL, chosen_columns
from coinfer_ray.sweeps.sweep import _chunk_size, prepare, sweep
from tests.synthetic import trusted, write_synthetic_records

GRID: dict[str, Any] = {
    "model": ["alexnet"],
    "device": ["rpi3b+", {"name": "phone", "gflops": {"logspace": [0.1, 100, 5]}}],
    "server": ["p100"],
    "link": ["3g", {"rate_mbps": {"logspace": [0.1, 100, 4]}}],
    "max_loss": [0.03, 0.2],
    "confidence": [None, 0.8],
}
SCENARIOS = 6 * 5 * 2 * 2
QUICK: dict[str, Any] = {"solver": "paper", "solver_options": {"max_evaluations": 300}, "quiet": True}
HOW = {
    "solver": "paper",
    "seed": None,
    "confidence": None,
    "round_trip_ms": None,
    "cost_model": None,
    "certify": False,
    "time_limit_s": None,
}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    path = write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet.parquet")
    return trusted(obtain_predictor(path, model="alexnet", regressor="gradient_boosting"))


@pytest.fixture(scope="module")
def run(predictor: Predictor) -> Callable[..., pa.Table]:
    def call(out: Path | None = None, grid: Any = GRID, **changes: Any) -> pa.Table:
        return sweep(grid, out, **({"executor": "local", "records": predictor} | QUICK | changes)).to_table()

    return call


@pytest.fixture(scope="module")
def full(run: Callable[..., pa.Table]) -> pa.Table:
    return run()


def chunk_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/chunk-*.parquet"))


def test_compact_rows_say_what_full_ones_do(run: Callable[..., pa.Table], full: pa.Table, tmp_path: Path) -> None:
    """Each column that the reader joins equals the one that a full sweep writes."""
    compact = run(tmp_path, columns="compact", chunk=50)
    assert compact.schema.names == [*COMPACT, "model"]
    assert compact["latency_s"].type == pa.float32()
    opened = open_sweep(tmp_path, check=True)
    assert len(opened) == SCENARIOS
    shared = [name for name in opened.columns if name in full.schema.names and name != "latency_s"]
    assert set(FULL) - set(shared) == {
        "latency_s",
        "accuracy_floor",
        "feasible",
        "accuracy_bound",
        "lower_bound_s",
        "strategy",
        "all_local_s",
        "all_server_s",
        "neurosurgeon_s",
        "evaluations",
    }
    ours, theirs = opened.to_table([*shared, "levels", "latency_s"]).to_pylist(), full.to_pylist()
    for own, other in zip(ours, theirs, strict=True):
        assert own["levels"] == other["strategy"]
        assert own["latency_s"] == pytest.approx(other["latency_s"], rel=1e-7)
        for name in shared:
            assert own[name] == (
                pytest.approx(other[name], rel=1e-12) if isinstance(other[name], float) else other[name]
            ), name


def test_strategies_are_stored_once_and_counted(run: Callable[..., pa.Table], full: pa.Table, tmp_path: Path) -> None:
    for chunk in (7, SCENARIOS):
        run(tmp_path / str(chunk), chunk=chunk)
        strategies = open_sweep(tmp_path / str(chunk)).strategies
        ids = strategies["id"].to_pylist()
        assert len(set(ids)) == len(ids)
        counts = dict(zip(ids, strategies["scenarios"].to_pylist(), strict=True))
        expected: dict[int, int] = {}
        for number in full["strategy_id"].to_pylist():
            expected[number] = expected.get(number, 0) + 1
        assert counts == expected
        assert max(ids) < 2**52


@given(start=st.integers(0, SCENARIOS), length=st.integers(0, SCENARIOS), models=st.integers(1, 2))
def test_entries_are_the_digits_of_the_number(start: int, length: int, models: int) -> None:
    grid = parse_grid(GRID | {"model": ["alexnet", "regnet_x_400mf"][:models]})
    stop = min(len(grid), start + length)
    entries = grid.entries(start, stop)
    sizes = {name: len(grid.models if name == "model" else getattr(grid, name)) for name in AXES}
    for row, number in enumerate(range(start, stop)):
        for name in reversed(AXES):
            number, digit = divmod(number, sizes[name])
            assert entries[name][row] == digit
    assert {len(values) for values in entries.values()} == {stop - start}


def test_a_flipped_bit_anywhere_is_found_named_and_redone(
    run: Callable[..., pa.Table], full: pa.Table, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, chunk=40)
    files = chunk_files(tmp_path)
    whole = [path.read_bytes() for path in files]
    rng = np.random.default_rng(0)
    for place in (*rng.integers(0, len(whole[1]), 6).tolist(), len(whole[1]) - 1):
        files[1].write_bytes(whole[1][:place] + bytes([whole[1][place] ^ 4]) + whole[1][place + 1 :])
        assert list(Manifest.read(tmp_path).damaged()) == ["model=alexnet/chunk-000001.parquet"]
        assert main(["sweep", "--check", "--out", str(tmp_path)]) == 2
        assert "chunk-000001.parquet is not as it was written (of 3 files)" in capsys.readouterr().err
    times = [path.stat().st_mtime_ns for path in files]
    assert run(tmp_path, chunk=40).equals(full)
    assert [path.read_bytes() for path in files] == whole
    assert [before == path.stat().st_mtime_ns for before, path in zip(times, files, strict=True)] == [True, False, True]
    assert main(["sweep", "--check", "--out", str(tmp_path)]) == 0


def test_a_lost_manifest_costs_the_files_and_nothing_else(
    run: Callable[..., pa.Table], full: pa.Table, tmp_path: Path
) -> None:
    run(tmp_path, chunk=40)
    (tmp_path / MANIFEST_FILE).unlink()
    with pytest.raises(InputError, match="is not finished"):
        open_sweep(tmp_path)
    assert run(tmp_path, chunk=40).equals(full)
    (tmp_path / MANIFEST_FILE).write_text("{")
    with pytest.raises(InputError, match=r"_manifest\.json: cannot be read .*remove it"):
        run(tmp_path, chunk=40)


def test_shards_are_the_whole(run: Callable[..., pa.Table], full: pa.Table, tmp_path: Path) -> None:
    folders = [tmp_path / str(part) for part in (1, 2, 3)]
    for part, folder in enumerate(folders, 1):
        run(folder, chunk=13, shard=(part, 3))
    together = open_sweep(folders)
    assert together.to_table(full.schema.names).equals(full)
    assert sum(together.strategies["scenarios"].to_pylist()) == SCENARIOS
    assert len(set(together.strategies["id"].to_pylist())) == len(together.strategies)
    with pytest.raises(InputError, match="of the 3 shards one is given twice"):
        open_sweep([*folders, folders[0]])
    with pytest.raises(InputError, match="of the 3 shards 2/3 is missing"):
        open_sweep([folders[0], folders[2]])
    run(tmp_path / "half", chunk=13, shard=(1, 2))
    with pytest.raises(InputError, match="must be the shards of one sweep"):
        open_sweep([folders[0], tmp_path / "half"])
    run(tmp_path / "other", chunk=14, shard=(1, 3))
    with pytest.raises(InputError, match="are of different sweeps"):
        open_sweep([folders[0], tmp_path / "other"])
    for shard, message in (((0, 3), "is no part of a whole"), ((4, 3), "is no part"), ((5, 50), "is empty")):
        with pytest.raises(InputError, match=message):
            run(tmp_path / "none", chunk=60, shard=shard)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("full", FULL),
        ("compact", COMPACT),
        ("latency_s, cut_after", ("scenario", "latency_s", "cut_after")),
        (["cut_after", "scenario"], ("scenario", "cut_after")),
    ],
)
def test_columns_by_name(run: Callable[..., pa.Table], full: pa.Table, asked: Any, expected: tuple[str, ...]) -> None:
    assert chosen_columns(asked) == expected
    table = run(columns=asked)
    assert table.schema.names == [*expected, "model"]
    for name in expected:
        assert name == "latency_s" or table[name].equals(full[name])


@pytest.mark.parametrize(
    ("asked", "message"),
    [("latenzy_s", "columns: 'latenzy_s' is unknown; did you mean latency_s"), ("compact,link", "give it alone")],
)
def test_unknown_columns_are_refused(asked: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        chosen_columns(asked)


def test_by_atlas_the_rows_are_those_of_its_look_ups(synthetic_predictor: Predictor) -> None:
    """Against the atlas asked scenario by scenario; two bounds and two confidences share the grid."""
    from coinfer_ray.atlas.build import grid_atlases

    problem, grid = assemble("alexnet", records=synthetic_predictor), parse_grid(GRID)
    atlases = grid_atlases(grid, problem, tolerance=0.05, quiet=True)
    found = Found.by_atlas(problem, grid, 3, SCENARIOS, atlases)
    columns, weights = grid.columns(3, SCENARIOS), grid.weights(3, SCENARIOS)
    for row in range(SCENARIOS - 3):
        asked = columns["confidence"][row]
        floor = problem.base_accuracy - columns["max_loss"][row]
        required = problem.required_accuracy(np.array([floor]), None if np.isnan(asked) else float(asked))[0]
        (atlas,) = {id(atlas): atlas for atlas in atlases if atlas.covers(required, np.nan)}.values()
        (index,), (objective,) = atlas.table.lookup(weights[row : row + 1])
        levels = found.levels[found.index[row]]
        place = problem.measured.find(levels[None])[0]
        if place < 0 or problem.measured.accuracy[place] >= floor:
            assert found.objective[row] == objective
            assert levels.tolist() == atlas.table.levels[index].tolist()


def test_an_estimate_is_of_the_sweep_that_follows(
    run: Callable[..., pa.Table], predictor: Predictor, tmp_path: Path
) -> None:
    common = HOW | {"solver_options": QUICK["solver_options"], "columns": "full", "chunk": 30, "shard": None}
    found = estimate(prepare(GRID, None, records=predictor, **common))
    run(tmp_path, chunk=30)
    assert (found.scenarios, found.files) == (SCENARIOS, 4)
    assert found.seconds > 0 and 0 < found.sampled <= SCENARIOS * 2
    assert found.bytes == pytest.approx(Manifest.read(tmp_path).bytes, rel=0.5)


def test_large_grids_have_chunks_by_cost_and_resume_with_them(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _chunk_size(16, "exact") == 1 and _chunk_size(10**7, "exact") == 500
    assert _chunk_size(10**6, "atlas") == 1 << 16 and _chunk_size(10**9, "atlas") == 1 << 20
    monkeypatch.setattr("coinfer_ray.sweeps.sweep.LARGE_GRID", 50)
    options: dict[str, Any] = HOW | {"solver_options": QUICK["solver_options"], "columns": "full", "chunk": None}
    options |= {"shard": None, "records": predictor}
    paces = iter([1.0, 1e9])
    monkeypatch.setattr("coinfer_ray.sweeps.sweep.sample", lambda prepared: (next(paces), 0.0, 0.0, 0))
    monkeypatch.setattr("coinfer_ray.sweeps.sweep.SMALL_GRID_CHUNKS", 4)
    first = prepare(GRID, tmp_path, **options)
    assert first.settings["chunk"] == 10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coinfer_ray.sweeps.sweep.sample", lambda prepared: (1.0, 0.0, 0.0, 0))
        sweep(GRID, tmp_path, executor="local", records=predictor, **QUICK)
    again = prepare(GRID, tmp_path, **options)  # slower by now, and all the same the same chunks
    assert again.settings == first.settings and len(again.chunks) == 12


def test_shards_cut_the_grid_alike_on_any_machine(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coinfer_ray.sweeps.sweep.LARGE_GRID", 50)
    options: dict[str, Any] = HOW | {"solver_options": None, "columns": "full", "chunk": None, "records": predictor}
    numbers: list[int] = []
    for part, pace in ((1, 1e-9), (2, 1e9)):
        monkeypatch.setattr("coinfer_ray.sweeps.sweep.sample", lambda prepared, pace=pace: (pace, 0.0, 0.0, 0))
        for chunk in prepare(GRID, None, shard=(part, 2), **options).chunks:
            numbers += range(chunk.start, chunk.stop)
    assert sorted(numbers) == list(range(SCENARIOS))


@pytest.mark.parametrize("damage", ["lost", "junk", "cut"])
def test_whatever_is_damaged_is_named_and_mended(
    run: Callable[..., pa.Table], tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    """The table of strategies lost or overwritten, and the first chunk cut short so that it has no footer."""
    run(tmp_path, chunk=50, columns="compact")
    before = open_sweep(tmp_path).to_table()
    path = chunk_files(tmp_path)[0] if damage == "cut" else tmp_path / STRATEGIES_FILE
    if damage == "lost":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:90])
    assert main(["sweep", "--check", "--out", str(tmp_path)]) == 2
    assert f"{path.name} is not as it was written" in capsys.readouterr().err
    with pytest.raises(InputError, match=f"{path.name} is (missing|not as it was written)"):
        open_sweep(tmp_path)
    run(tmp_path, chunk=50, columns="compact")
    assert open_sweep(tmp_path, check=True).to_table().equals(before)


def test_a_strategy_has_one_id(run: Callable[..., pa.Table], tmp_path: Path) -> None:
    """In every sweep of its network, whatever the levels of its space; and two strategies never share one."""
    said: dict[int, str] = {}
    for cuts in ("all", "inner"):
        run(tmp_path / cuts, cuts=cuts)
        for row in open_sweep(tmp_path / cuts).strategies.to_pylist():
            what = json.dumps([row[name] for name in ("partition_point", "feature_bits", "sparsity", "codec")])
            assert said.setdefault(row["id"], what) == what
    assert len(set(said.values())) == len(said)


def test_the_manifest_lists_what_is_there(run: Callable[..., pa.Table], tmp_path: Path) -> None:
    run(tmp_path, chunk=50)
    document = json.loads((tmp_path / MANIFEST_FILE).read_text())
    assert document["complete"] is True and document["rows"] == SCENARIOS
    names = [path.relative_to(tmp_path).as_posix() for path in chunk_files(tmp_path)]
    assert sorted(document["files"]) == names
    for name, entry in document["files"].items():
        assert entry["rows"] == pq.read_metadata(tmp_path / name).num_rows
        assert entry["bytes"] == (tmp_path / name).stat().st_size


@pytest.fixture(scope="module")
def atlas(synthetic_predictor: Predictor) -> StrategyAtlas:
    problem = assemble("alexnet", records=synthetic_predictor)
    ranges = Ranges.of_speeds((1e8, 1e12), (1e13, 1.06e13), (1e5, 1e9))
    return build(problem, ranges, max_loss=0.1, tolerance=0.01, quiet=True)


def test_an_atlas_in_sql_is_the_atlas(atlas: StrategyAtlas) -> None:
    rng = np.random.default_rng(1)
    device, rate = 10 ** rng.uniform(8, 12, 5_000), 10 ** rng.uniform(5, 9, 5_000)
    index, objective = atlas.table.lookup(np.column_stack([1 / device, np.full(5_000, 1 / 1.06e13), 1 / rate]))
    scenarios = pa.table({"device": device, "rate": rate})
    with duckdb.connect() as connection:
        connection.register("scenarios", scenarios)
        connection.execute(atlas_sql(atlas, "net"))
        found = connection.sql(
            "SELECT net_latency_s(device, 1.06e13, rate) AS t, net_row(device, 1.06e13, rate) AS k FROM scenarios"
        ).to_arrow_table()
        rows = connection.sql("SELECT * FROM net_strategies()").to_arrow_table().to_pylist()
        outside = "SELECT net_latency_s(1e6, 1.06e13, 1e6), net_row(1e9, 1.06e13, 1e12)"
        assert connection.sql(outside).fetchall() == [(None, None)]
    np.testing.assert_allclose(found["t"].to_numpy(), objective, rtol=1e-14)
    chosen = atlas.table.costs[found["k"].to_numpy().astype(int)]
    own = chosen[:, 0] / device + chosen[:, 1] / 1.06e13 + chosen[:, 2] / rate
    np.testing.assert_allclose(own, objective, rtol=1e-14)
    assert (found["k"].to_numpy() == index).mean() > 0.99  # but for ties to the last bit
    assert [(row["row"], row["cut_after"], row["uplink_bit"]) for row in rows] == [
        (row["row"], row["cut_after"], row["uplink_bit"]) for row in atlas.rows()
    ]
    with pytest.raises(InputError, match="name: 'a b' is no SQL identifier"):
        atlas_sql(atlas, "a b")


def test_an_atlas_with_crossings_in_sql(synthetic_predictor: Predictor) -> None:
    problem = assemble("alexnet", records=synthetic_predictor)
    ranges = Ranges.of_speeds((1e8, 1e12), (1e13, 1.06e13), (1e5, 1e9))
    found = build(problem, ranges, max_loss=0.1, tolerance=0.01, crossings=True, quiet=True)
    rng = np.random.default_rng(2)
    device, rate, trip = 10 ** rng.uniform(8, 12, 2_000), 10 ** rng.uniform(5, 9, 2_000), rng.uniform(0, 0.1, 2_000)
    weights = np.column_stack([1 / device, np.full(2_000, 1 / 1.06e13), 1 / rate, trip])
    scenarios = pa.table({"device": device, "rate": rate, "trip": trip})
    with duckdb.connect() as connection:
        connection.register("scenarios", scenarios)
        connection.execute(atlas_sql(found, "net"))
        told = connection.sql("SELECT net_latency_s(device, 1.06e13, rate, trip) AS t FROM scenarios").to_arrow_table()
    np.testing.assert_allclose(told["t"].to_numpy(), found.lookup(weights)[1], rtol=1e-13)


def test_sql_from_the_command_line(atlas: StrategyAtlas, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "net.atlas.parquet"
    atlas.save(path)
    assert main(["atlas", "sql", str(path), "--name", "net"]) == 0
    assert capsys.readouterr().out == atlas_sql(atlas, "net")


def test_the_recipes_of_the_docs_run(
    run: Callable[..., pa.Table], atlas: StrategyAtlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every block of Python and SQL in the part on reading answers, as it is printed there."""
    page = (Path(__file__).parents[1] / "docs" / "howto" / "grid.md").read_text()
    part = page.partition("## Read the answers")[2].partition("## In Python")[0]
    blocks = re.findall(r"^```(python|sql)\n(.*?)^```$", part, re.M | re.S)
    assert [language for language, _ in blocks] == ["python", "python", "sql", "python", "sql"]
    run(tmp_path / "answers", chunk=50)
    monkeypatch.chdir(tmp_path)
    with duckdb.connect() as connection:
        connection.execute(atlas_sql(atlas, "alexnet"))
        for language, text in blocks:
            if language == "python":
                exec(compile(text, "grid.md", "exec"), {})
            else:
                statements = [one for one in re.sub(r"^--.*$", "", text, flags=re.M).split(";") if one.strip()]
                assert len(statements) == 2
                for statement in statements:
                    assert connection.sql(statement).fetchall()


def test_dry_runs_and_wrong_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid, out = tmp_path / "grid.yaml", tmp_path / "out"
    grid.write_text(json.dumps(GRID | {"confidence": [0.9]}))
    assert main(["sweep", str(grid), "--out", str(out), "--dry-run", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["scenarios"] == SCENARIOS // 2 and document["wall_s"] > 0
    assert not out.exists()
    for line, message in (
        (["--shard", "2"], "shard: '2' is not of the form I/N"),
        (["--shard", "3/2"], "shard: 3/2 is no part of a whole"),
        (["--columns", "scenarios"], "columns: 'scenarios' is unknown"),
    ):
        assert main(["sweep", str(grid), "--out", str(out), *line]) == 2
        assert message in capsys.readouterr().err
    assert main(["sweep", str(grid)]) == 2
    assert "out: no folder is given" in capsys.readouterr().err
    assert main(["sweep", "--out", str(out)]) == 2
    assert "grid: none is given" in capsys.readouterr().err
    assert main(["sweep", "--check", "--out", str(out)]) == 2
    assert "no _run.json there" in capsys.readouterr().err
    assert not out.exists()


def test_the_status_of_a_sweep(
    run: Callable[..., pa.Table], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it is held and after it, of a whole and of a shard."""
    run(tmp_path / "part", chunk=50, shard=(2, 2))
    with single_writer(tmp_path / "part"):
        assert main(["status", str(tmp_path / "part"), "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
    assert document["holder"].startswith(f"process {os.getpid()} on ")
    assert (document["kind"], document["rows"], document["scenarios"], document["complete"]) == ("sweep", 50, 50, True)
    run(tmp_path / "whole", chunk=50)
    assert main(["status", str(tmp_path / "whole")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "sweep, nobody works on it; 3 files, the last result" in lines[0]
    assert lines[1].startswith("  120 of 120 scenarios (100.0%), ") and lines[1].endswith("; complete")
    assert main(["status", str(tmp_path)]) == 2
    assert main(["status", str(tmp_path / "none")]) == 2
    assert "does not exist; give the output folder of a run" in capsys.readouterr().err
