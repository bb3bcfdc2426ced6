"""Output folders in the hands of other tools: pandas, DuckDB and Polars see the rows that our own reader gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from coinfer_ray.atlas.build import rename_old_atlases
from coinfer_ray.predictor.obtain import obtain_predictor
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.sweeps.sweep import SOLVERS, sweep
from tests.synthetic import write_synthetic_records

GRID: dict[str, Any] = {
    "model": ["alexnet"],
    "device": ["rpi3b+", "tk1"],
    "server": ["p100"],
    "link": ["3g", {"rate_mbps": [0.1]}],
    "max_loss": [0.2],
}
LESS_WORK: dict[str, dict[str, Any]] = {
    "paper": {"max_evaluations": 500},
    "paper-parent": {"max_evaluations": 500},
    "genetic": {"max_evaluations": 500},
    "atlas": {"tolerance": 0.05},
}
READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "pandas, the folder": lambda folder: pd.read_parquet(folder).to_dict("records"),
    "pyarrow, the folder": lambda folder: pq.read_table(folder).to_pylist(),
    "DuckDB": lambda folder: (
        duckdb.sql(f"select * from read_parquet('{folder}/*/*.parquet')").to_arrow_table().to_pylist()
    ),
    "Polars, by pattern": lambda folder: (
        pl.scan_parquet(folder / "*/*.parquet", hive_partitioning=True).collect().to_dicts()
    ),
    "Polars, the folder": lambda folder: pl.scan_parquet(folder, hidden_file_prefix=["_", "."]).collect().to_dicts(),
}


def plain(value: Any) -> Any:
    """None for whatever a tool says instead of it, lists for its arrays."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(one) for one in value]
    return None if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) else value


def by_scenario(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    cells = [{name: plain(value) for name, value in row.items()} for row in rows]
    return sorted(cells, key=lambda row: row["scenario"])


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    path = write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet.parquet")
    return obtain_predictor(path, model="alexnet", regressor="gradient_boosting")


@pytest.fixture(scope="module")
def answered(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, pa.Table]]:
    """Each solver's folder, in several chunks, with our reader's table; solved once."""
    kept: dict[str, tuple[Path, pa.Table]] = {}

    def once(solver: str) -> tuple[Path, pa.Table]:
        if solver not in kept:
            folder = tmp_path_factory.mktemp(solver)
            found = sweep(
                GRID,
                folder,
                solver=solver,
                executor="local",
                records=predictor,
                chunk=3,
                quiet=True,
                solver_options=LESS_WORK.get(solver),
            )
            kept[solver] = folder, found.to_table()
        return kept[solver]

    return once


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_tool_reads_the_answers_of_every_solver(
    answered: Callable[[str], tuple[Path, pa.Table]], solver: str
) -> None:
    folder, table = answered(solver)
    ours = by_scenario(table.to_pylist())
    assert [row["scenario"] for row in ours] == [0, 1, 2, 3]
    assert len(list(folder.glob("*/chunk-*.parquet"))) == 2
    for name, read in READERS.items():
        assert by_scenario(read(folder)) == ours, name


def test_all_solvers_give_the_same_columns(answered: Callable[[str], tuple[Path, pa.Table]]) -> None:
    """Names, their order and types, in every chunk: folders of several solvers can be read together."""
    schemas = {
        (solver, path.name): pq.read_schema(path).remove_metadata()
        for solver in SOLVERS
        for path in answered(solver)[0].glob("*/chunk-*.parquet")
    }
    first = next(iter(schemas.values()))
    assert len(schemas) == 2 * len(SOLVERS)
    assert {place: schema for place, schema in schemas.items() if not schema.equals(first)} == {}
    assert not any(pa.types.is_null(field.type) for field in first)


def test_side_files_are_hidden_or_begin_with_an_underscore(
    answered: Callable[[str], tuple[Path, pa.Table]],
) -> None:
    for solver in SOLVERS:
        for path in answered(solver)[0].iterdir():
            assert path.name.startswith(("_", ".")) or path.name == "model=alexnet", path
        for path in (answered(solver)[0] / "model=alexnet").iterdir():
            assert path.name.startswith(("chunk-", ".")), path


def test_two_networks_in_one_folder(predictor: Predictor, tmp_path: Path) -> None:
    """Their strategies differ in length and their cuts in name."""
    records = write_synthetic_records(tmp_path / "regnet.parquet", model="regnet_x_400mf")
    other = obtain_predictor(records, model="regnet_x_400mf", regressor="decision_tree")
    grid = GRID | {"model": ["alexnet", "regnet_x_400mf"]}
    out = tmp_path / "out"
    table = sweep(
        grid,
        out,
        solver="paper",
        executor="local",
        records={"alexnet": predictor, "regnet_x_400mf": other},
        solver_options={"max_evaluations": 50},
        quiet=True,
    ).to_table()
    ours = by_scenario(table.to_pylist())
    assert {row["model"] for row in ours} == {"alexnet", "regnet_x_400mf"}
    for name, read in READERS.items():
        assert by_scenario(read(out)) == ours, name


def test_a_folder_of_an_earlier_version_goes_on_under_the_new_names(predictor: Predictor, tmp_path: Path) -> None:
    """Its atlas file was called as a data file is; a begun atlas had a folder of the same name and an ending."""
    out = tmp_path / "out"
    options: dict[str, Any] = {"solver": "atlas", "tolerance": 0.05, "executor": "local", "records": predictor}
    before = sweep(GRID, out, quiet=True, **options).to_table()
    atlas = out / "_atlas-alexnet-000.atlas"
    content = atlas.read_bytes()
    old = atlas.rename(out / "atlas-alexnet-000.parquet")
    (out / "atlas-notes.parquet").write_text("the user's")
    sweep(GRID, out, quiet=True, **options)
    assert atlas.read_bytes() == content and not old.exists()
    assert (out / "atlas-notes.parquet").read_text() == "the user's"
    (out / "atlas-notes.parquet").unlink()
    assert pq.read_table(out).num_rows == len(before)

    begun = out / "atlas-alexnet-001.parquet.parts"
    begun.mkdir()
    (begun / "solved-000000.npz").write_text("x")
    rename_old_atlases(out)
    assert begun.exists()  # without a claim it is not ours
    (begun / "_run.json").write_text("{}")
    rename_old_atlases(out)
    assert (out / "_atlas-alexnet-001.atlas.parts" / "solved-000000.npz").exists() and not begun.exists()
