"""The sweep in process: right answers, whole files, resumption. On Ray: tests/cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from coinfer_kernels import Scenarios

from coinfer_ray.errors import InputError
from coinfer_ray.methods.registry import METHODS, PLAIN_METHODS
from coinfer_ray.optimizer.problem import assemble
from coinfer_ray.optimizer.solve import solve
from coinfer_ray.predictor.obtain import obtain_predictor
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.records.store import read_records, write_records
from coinfer_ray.runtime.executors import LocalExecutor
from coinfer_ray.runtime.files import single_writer
from coinfer_ray.scenarios.batch import ScenarioBatch
from coinfer_ray.scenarios.read import parse_grid
from coinfer_ray.sweeps.chunks import split_grid
from coinfer_ray.sweeps.rows import METADATA_KEY
from coinfer_ray.sweeps.sweep import FAILED_FILE, sweep
from tests.synthetic import trusted, write_synthetic_records

GRID: dict[str, Any] = {
    "model": ["alexnet"],
    "device": ["rpi3b+", "tk1"],
    "server": ["p100"],
    "link": ["3g", "wifi", {"rate_mbps": [0.1, 1]}],
    "max_loss": [0.03, 0.2],
    "confidence": [None],
}
SCENARIOS = 16
QUICK: dict[str, Any] = {"solver": "paper", "solver_options": {"max_evaluations": 1000}, "quiet": True}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    path = write_synthetic_records(tmp_path_factory.mktemp("records") / "alexnet.parquet")
    predictor = obtain_predictor(
        path, model="alexnet", input_px=None, regressor="gradient_boosting", accuracy="validation"
    )
    return trusted(predictor)


@pytest.fixture
def run(predictor: Predictor) -> Callable[..., pa.Table]:
    def call(grid: Any = GRID, out: Path | None = None, **changes: Any) -> pa.Table:
        return sweep(grid, out, **({"executor": "local", "records": predictor} | QUICK | changes)).to_table()

    return call


@pytest.fixture(scope="module")
def expected(predictor: Predictor) -> pa.Table:
    return sweep(GRID, executor="local", records=predictor, **QUICK).to_table()


def chunk_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/chunk-*.parquet"))


def test_the_answers_are_the_solvers(predictor: Predictor, expected: pa.Table) -> None:
    """Each row against the search called directly on its scenario, the baselines, and arithmetic by hand."""
    problem = assemble("alexnet", records=predictor)
    rows = expected.to_pylist()
    assert [row["scenario"] for row in rows] == list(range(SCENARIOS))
    for row in rows:
        weights = np.array([[1 / row["device_flops_per_s"], 1 / row["server_flops_per_s"], 1 / row["rate_bps"]]])
        floor = problem.base_accuracy - row["max_loss"]
        nothing = np.array([np.nan])
        one, batch = Scenarios(weights, np.array([floor]), nothing), ScenarioBatch(weights, nothing, nothing, nothing)
        found = solve(problem, one, "paper", 0, first_scenario=row["scenario"], max_evaluations=1000)
        assert row["feasible"] is bool(found.feasible[0]) is True
        assert row["strategy"] == found.levels[0].tolist()
        assert row["latency_s"] == pytest.approx(found.objective[0], rel=1e-12)
        assert row["device_s"] + row["server_s"] + row["uplink_s"] == pytest.approx(row["latency_s"], rel=1e-12)
        assert row["uplink_s"] == pytest.approx(row["uplink_bit"] / row["rate_bps"], rel=1e-12)
        assert row["predicted_accuracy"] == found.accuracy[0] >= row["accuracy_floor"] == floor
        assert row["partition_point"] == problem.space.strategy(found.levels[0]).partition_point
        assert row["cut_after"] == problem.graph.cut_name(row["partition_point"])
        assert row["evaluations"] == found.evaluations[0]
        for method in PLAIN_METHODS:
            assert row[f"{method}_s"] == pytest.approx(METHODS[method].solve(problem, batch).objective[0], rel=1e-12)
            assert row["latency_s"] <= row[f"{method}_s"] * (1 + 1e-12)
    assert {row["device"] for row in rows} == {"rpi3b+", "tk1"}
    assert [row["link"] for row in rows[:8:2]] == ["3g", "wifi", "0.1 to 1 Mb/s", "0.1 to 1 Mb/s"]
    assert expected["snr_db"].null_count == SCENARIOS


@pytest.mark.parametrize("chunk", [1, 3, SCENARIOS, 1000])
def test_chunks_do_not_change_the_answers(
    run: Callable[..., pa.Table], expected: pa.Table, tmp_path: Path, chunk: int
) -> None:
    assert run(out=tmp_path / "out", chunk=chunk).equals(expected)
    assert len(chunk_files(tmp_path / "out")) == -(-SCENARIOS // chunk)


def test_the_seed_and_the_number_matter(run: Callable[..., pa.Table], expected: pa.Table) -> None:
    other = run(seed=1)
    assert other["strategy"] != expected["strategy"]
    assert run(GRID | {"seed": 1})["strategy"] == other["strategy"]
    assert run(GRID | {"seed": 1}, seed=0)["strategy"] == expected["strategy"]


def test_other_tools_read_the_folder(run: Callable[..., pa.Table], expected: pa.Table, tmp_path: Path) -> None:
    run(out=tmp_path)
    assert pq.read_table(tmp_path).num_rows == SCENARIOS
    assert ds.dataset(tmp_path).to_table().sort_by("scenario")["latency_s"] == expected["latency_s"]
    assert b'"records_hash"' in pq.read_schema(chunk_files(tmp_path)[0]).metadata[METADATA_KEY]


class Interrupting(LocalExecutor):
    """Ctrl-C after ``after`` tasks; counts the tasks that it was given."""

    def __init__(self, after: int | None = None) -> None:
        super().__init__()
        self.after = after
        self.given: list[Any] = []

    def run(self, start: Any, shared: Any, tasks: Any) -> Any:
        def counted() -> Iterator[Any]:
            for task in tasks:
                if len(self.given) == self.after:
                    raise KeyboardInterrupt
                self.given.append(task[0])
                yield task

        yield from super().run(start, shared, counted())


def test_an_interrupted_run_goes_on(run: Callable[..., pa.Table], expected: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path, chunk=4, executor=Interrupting(after=2))
    done = {path: path.stat().st_mtime_ns for path in chunk_files(tmp_path)}
    assert [path.name for path in done] == ["chunk-000000.parquet", "chunk-000001.parquet"]

    second = Interrupting()
    assert run(out=tmp_path, chunk=4, executor=second).equals(expected)
    assert second.given == [2, 3]
    assert {path: path.stat().st_mtime_ns for path in done} == done

    third = Interrupting()
    assert run(out=tmp_path, chunk=4, executor=third).equals(expected)
    assert third.given == []


def test_damaged_and_orphaned_files_are_redone(
    run: Callable[..., pa.Table], expected: pa.Table, tmp_path: Path
) -> None:
    run(out=tmp_path, chunk=4)
    files = chunk_files(tmp_path)
    files[0].write_bytes(files[0].read_bytes()[:-100])
    pq.write_table(pq.read_table(files[1]).slice(1), files[1])
    files[2].unlink()
    orphan = files[2].with_name(".coinfer-chunk-000002.parquet.1.0123456789ab.tmp")
    orphan.write_bytes(b"PAR1")
    again = Interrupting()
    assert run(out=tmp_path, chunk=4, executor=again).equals(expected)
    assert again.given == [0, 1, 2]
    assert not orphan.exists()


class Elsewhere(LocalExecutor):
    """A worker on a machine that doesn't see the driver's folder, but one of the same name with another holder."""

    def run(self, start: Any, shared: Any, tasks: Any) -> Any:
        return super().run(start, {**shared, "holder": "process 1 on another machine"}, tasks)


def test_a_worker_elsewhere_sends_its_rows(run: Callable[..., pa.Table], expected: pa.Table, tmp_path: Path) -> None:
    assert run(out=tmp_path, chunk=5, executor=Elsewhere()).equals(expected)
    assert len(chunk_files(tmp_path)) == 4


def test_a_chunk_that_fails_stops_no_other(
    run: Callable[..., pa.Table], expected: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any, first_scenario: int, **options: Any) -> Any:
        if first_scenario == 4:
            raise MemoryError("none left")
        return solve(*arguments, first_scenario=first_scenario, **options)

    with monkeypatch.context() as patch:
        patch.setattr("coinfer_ray.sweeps.chunks.solve", failing)
        with pytest.raises(RuntimeError, match="1 of 4 chunks failed, chunk 1 so: MemoryError: none left"):
            run(out=tmp_path, chunk=4)
    assert [path.name for path in chunk_files(tmp_path)] == [f"chunk-00000{n}.parquet" for n in (0, 2, 3)]
    (kept,) = json.loads((tmp_path / FAILED_FILE).read_text())
    assert kept["chunk"] == 1 and kept["scenarios"] == [4, 8] and "Traceback" in kept["error"]
    assert run(out=tmp_path, chunk=4).equals(expected)
    assert not (tmp_path / FAILED_FILE).exists()


def test_two_networks_never_share_a_chunk(run: Callable[..., pa.Table], predictor: Predictor, tmp_path: Path) -> None:
    other = write_synthetic_records(tmp_path / "regnet.parquet", model="regnet_x_400mf")
    grid = GRID | {"model": ["alexnet", "regnet_x_400mf"], "device": ["tk1"]}
    table = run(
        grid,
        tmp_path / "out",
        chunk=5,
        records={"alexnet": predictor, "regnet_x_400mf": other},
        solver_options={"max_evaluations": 50},
    )
    assert table["model"].to_pylist() == ["alexnet"] * 8 + ["regnet_x_400mf"] * 8
    assert table["scenario"].to_pylist() == list(range(16))
    assert {len(levels) for levels in table["strategy"].to_pylist()} == {16, 36}
    sizes = [(chunk.model, chunk.start, chunk.stop) for chunk in split_grid(parse_grid(grid), 5)]
    assert sizes == [(0, 0, 5), (0, 5, 8), (1, 8, 13), (1, 13, 16)]


def test_an_infeasible_scenario_is_a_row(run: Callable[..., pa.Table], tmp_path: Path) -> None:
    """With inner cuts and 8 bits a value the network as it is takes no part, and what was measured loses something."""
    records = read_records(write_synthetic_records(tmp_path / "floats.parquet"))
    rows = [row | {"feature_bits": 8 if number % 2 else 32} for number, row in enumerate(records.table.to_pylist())]
    write_records(tmp_path / "quantised.parquet", rows, records.info)
    grid = GRID | {
        "device": ["tk1"],
        "link": [{"bandwidth_mhz": 10, "snr_db": [0, 50]}],
        "max_loss": [0, 0.2],
        "confidence": [0.9],
        "cuts": "inner",
    }
    rows = run(grid, records=tmp_path / "quantised.parquet", feature_bits=8).to_pylist()
    assert [row["feasible"] for row in rows] == [False, True, False, True]
    assert [row["snr_db"] for row in rows] == [0, 0, 50, 50]
    for row in rows:
        answers = [
            row[name] for name in ("latency_s", "device_s", "uplink_bit", "predicted_accuracy", "cut_after", "strategy")
        ]
        assert all((answer is not None) == row["feasible"] for answer in answers)
        assert row["neurosurgeon_s"] > 0
    noisy = write_synthetic_records(tmp_path / "noisy.parquet", noisy=True)
    with pytest.raises(InputError, match="link: 3g has no signal-to-noise ratio, and the records of alexnet come from"):
        run(GRID, records=noisy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"solver": "exat"}, "solver: 'exat' is unknown; "),
        ({"chunk": 0}, "chunk: 0 scenarios; at least 1 is needed"),
        ({"grid": GRID | {"model": ["alexnt"]}}, "model: 'alexnt' is unknown; did you mean alexnet"),
        ({"grid": "no-grid.yaml"}, r"no-grid\.yaml: cannot be read"),
        ({"grid": GRID | {"link": [{"rate_mbps": -1}]}}, r"grid: link\[0\]\.rate_mbps: -1 must be > 0"),
        ({"executor": "slurm"}, "executor: 'slurm' is unknown; known: local, processes, ray"),
    ],
)
def test_bad_input(run: Callable[..., pa.Table], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(**arguments)


def test_a_folder_of_another_run(run: Callable[..., pa.Table], tmp_path: Path) -> None:
    run(out=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in chunk_files(tmp_path)}
    for changes, message in (
        ({"seed": 5}, "seed is 0 there and 5 here"),
        ({"confidence": 0.9}, r"grid\.confidence\[0\] is null there and 0\.9 here"),
        ({"grid": GRID | {"max_loss": [0.03, 0.3]}}, r"grid\.max_loss\[1\] is 0\.2 there and 0\.3 here"),
        ({"cuts": "inner"}, 'cuts is "all" there and "inner" here'),
        ({"solver_options": {"max_evaluations": 10}}, "options.max_evaluations is 1000 there and 10 here"),
    ):
        with pytest.raises(InputError, match=message):
            run(out=tmp_path, **changes)
    with single_writer(tmp_path), pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
        run(out=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_refused_sweep_touches_nothing(run: Callable[..., pa.Table], tmp_path: Path) -> None:
    for name in (".notes.tmp", ".lock", "mine"):
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=r"holds files but no _run\.json"):
        run(out=tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        (".notes.tmp", ".lock", "mine"), "x"
    )


def test_confidence_is_an_axis_and_can_be_overridden(run: Callable[..., pa.Table], predictor: Predictor) -> None:
    few = GRID | {"link": ["3g"], "max_loss": [0.1], "confidence": [None, 0.9]}
    table = run(few).to_pylist()
    assert [row["confidence"] for row in table] == [None, 0.9] * 2
    problem = assemble("alexnet", records=predictor)
    for guess, sure in zip(table[::2], table[1::2], strict=True):
        assert guess["accuracy_bound"] is None
        assert sure["accuracy_bound"] >= sure["accuracy_floor"] - 1e-12
        levels = np.array([sure["strategy"]])
        if problem.measured.find(levels)[0] >= 0:
            assert sure["accuracy_bound"] == problem.measured_bound(0.9)[problem.measured.find(levels)[0]]
        elif not problem.is_known(levels)[0]:
            assert sure["accuracy_bound"] == predictor.lower_bound(sure["predicted_accuracy"], 0.9)
    guessed = run(few | {"confidence": None})
    assert guessed.column("confidence").to_pylist() == [None] * 2
    assert run(few, confidence=0) == guessed == run(few | {"confidence": 0})
    asked = run(few, confidence=0.8).to_pylist()
    assert [row["confidence"] for row in asked] == [0.8] * 2
    with pytest.raises(InputError, match=r"confidence: 0\.9999 needs at least 9999 scenarios"):
        run(few, confidence=0.9999)


@pytest.mark.parametrize("links", [["3g"], ["3g", "wifi"]])
def test_an_atlas_of_one_device_answers_too(links: list[str], synthetic_predictor: Predictor) -> None:
    """Its cone is a plane or a ray, whose edges are known to few digits."""
    grid = GRID | {"device": ["rpi3b+"], "link": links, "max_loss": [0.03]}
    common: dict[str, Any] = {"executor": "local", "records": synthetic_predictor, "quiet": True}
    exact, atlas = (sweep(grid, solver=name, **common).to_table() for name in ("exact", "atlas"))
    assert atlas["latency_s"].to_pylist() == pytest.approx(exact["latency_s"].to_pylist(), rel=1e-3)


def test_an_atlas_answers_what_the_exact_solver_does(synthetic_predictor: Predictor, tmp_path: Path) -> None:
    """Over two bounds and two confidences; the atlases lie beside the chunks and are not built twice."""
    grid = GRID | {"confidence": [None, 0.8]}
    common: dict[str, Any] = {"executor": "local", "records": synthetic_predictor, "quiet": True}
    exact = sweep(grid, solver="exact", **common).to_table().to_pylist()
    atlas = sweep(grid, tmp_path / "out", solver="atlas", **common).to_table().to_pylist()
    assert len(exact) == len(atlas) == 2 * SCENARIOS
    for proven, found in zip(exact, atlas, strict=True):
        assert found["latency_s"] == pytest.approx(proven["latency_s"], rel=2e-3)
        assert found["lower_bound_s"] <= proven["latency_s"] * (1 + 1e-9)
        assert found["lower_bound_s"] >= found["latency_s"] * (1 - 2e-3)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("_atlas-*.atlas")}
    assert len(kept) == 4
    chunk_files(tmp_path / "out")[0].unlink()
    again = sweep(grid, tmp_path / "out", solver="atlas", **common).to_table().to_pylist()
    assert again == atlas
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_certified_answers_are_the_same_answers_with_a_bound(synthetic_predictor: Predictor) -> None:
    common: dict[str, Any] = {"executor": "local", "records": synthetic_predictor} | QUICK
    plain = sweep(GRID, **common).to_table()
    certified = sweep(GRID, certify=True, **common).to_table()
    assert plain["lower_bound_s"].null_count == SCENARIOS
    assert certified.drop_columns(["lower_bound_s"]).equals(plain.drop_columns(["lower_bound_s"]))
    best = sweep(GRID, solver="exact", executor="local", records=synthetic_predictor, quiet=True).to_table()
    for bound, found, proven in zip(
        certified["lower_bound_s"].to_pylist(),
        plain["latency_s"].to_pylist(),
        best["latency_s"].to_pylist(),
        strict=True,
    ):
        assert bound <= found
        assert bound <= proven * (1 + 1e-9) and bound >= proven * (1 - 2e-3)
