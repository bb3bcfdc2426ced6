"""Energy in grids: row for row what a single scenario's is, and only where powers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

import coinfer_ray
from coinfer_ray.atlas.atlas import Ranges, load_atlas
from coinfer_ray.atlas.build import build
from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.optimizer.problem import assemble
from coinfer_ray.predictor.predictor import Predictor
from coinfer_ray.problem.layer_times import LayerTimes
from coinfer_ray.refine.cases import cases_of
from coinfer_ray.scenarios.read import parse_grid, resolve
from coinfer_ray.sweeps.rows import COMPACT, ENERGY, FULL
from coinfer_ray.sweeps.sweep import prepare, sweep
from tests.synthetic import trusted, write_synthetic_records

PI = LayerTimes(conv_flop=5e-11, grouped_flop=2e-10, element=2e-9, weight=4e-10, layer=4e-5)
OWN: dict[str, Any] = {"name": "own", "gflops": 8, "compute_w": 3, "radio_w": 2, "idle_w": 0.5}
NO_IDLE: dict[str, Any] = {"name": "no idle", "gflops": 4, "compute_w": 5, "radio_w": 1}
MEASURED: dict[str, Any] = {"name": "pi", "layer_seconds": PI.to_json(), "compute_w": 6.4, "idle_w": 2.7}
RADIO: dict[str, Any] = {"base_w": 1.3, "w_per_mbps": 0.4, "up_to_mbps": 6}
LINKS: list[dict[str, Any]] = [
    {"rate_mbps": 0.3, "radio": RADIO},
    {"rate_mbps": 5, "radio": RADIO, "round_trip_ms": 40},
]
GRID: dict[str, Any] = {
    "model": ["alexnet"],
    "device": [OWN, NO_IDLE, "rpi4b-ncnn", MEASURED],
    "server": [{"gflops": 100, "per_crossing_ms": 3}, {"gflops": 9000}],
    "link": LINKS,
    "max_loss": [0.01, 0.05],
    "confidence": [None],
}

UNASKED: dict[str, Any] = {"solver": "exact", "certify": False, "columns": "full"}
UNASKED |= dict.fromkeys(
    ("seed", "confidence", "round_trip_ms", "time_limit_s", "solver_options", "chunk", "shard", "cost_model")
)


@pytest.fixture(scope="module")
def predictor(synthetic_predictor: Predictor) -> Predictor:
    return trusted(synthetic_predictor)


@pytest.fixture(scope="module")
def options(predictor: Predictor) -> dict[str, Any]:
    return {"executor": "local", "records": predictor, "quiet": True}


def scenarios() -> list[dict[str, Any]]:
    """The scenarios of ``GRID`` in its order, as ``optimize`` takes them."""
    return [
        {"device": device, "server": server, "link": link, "max_loss": loss, "confidence": None}
        for device in GRID["device"]
        for server in GRID["server"]
        for link in GRID["link"]
        for loss in GRID["max_loss"]
    ]


def test_weights_are_those_of_single_scenarios() -> None:
    grid = parse_grid({**GRID, "objective": "energy"})
    expected = []
    for each in scenarios():
        weights = resolve(network="alexnet", **each).weights("energy")
        expected.append((*weights, *(0.0,) * (4 - len(weights))))
    assert np.array_equal(grid.objective_weights(0, len(grid)), expected)
    assert np.array_equal(grid.energy_weights(5, 9), expected[5:9])
    assert np.array_equal(parse_grid(GRID).objective_weights(0, len(grid)), grid.weights(0, len(grid)))
    assert grid.of_times(grid.times(0)).knows_energy


def test_a_sweep_by_energy_equals_optimize_row_for_row(options: dict[str, Any], predictor: Predictor) -> None:
    rows = sweep({**GRID, "objective": "energy"}, **options).to_table().to_pylist()
    assert len(rows) == len(scenarios())
    for row, each in zip(rows, scenarios(), strict=True):
        one = coinfer_ray.optimize("alexnet", objective="energy", records=predictor, time_limit_s=None, **each)
        assert one.energy_j is not None
        assert row["energy_j"] == pytest.approx(one.energy_j, rel=1.01e-3)  # either is proven to a thousandth
        assert row["lower_bound_j"] <= one.energy_j * (1 + 1e-12)
        seconds = [row[name] for name in ("device_s", "server_s", "uplink_s", "crossing_s")]
        scenario = resolve(network="alexnet", **each)
        watts = np.array([*scenario.weights("energy"), 0.0][:4]) / np.array([*scenario.weights(), 1.0][:4])
        assert row["energy_j"] == pytest.approx(float(watts @ seconds), rel=1e-12)
        assert row["lower_bound_s"] is None
        assert row["energy_j"] * (1 - 1e-3) <= row["lower_bound_j"] <= row["energy_j"] * (1 + 1e-12)
    fastest = sweep(GRID, **options).to_table().to_pylist()
    assert "lower_bound_j" not in fastest[0]
    for quick, lean in zip(fastest, rows, strict=True):
        assert lean["energy_j"] <= quick["energy_j"] * (1 + 1e-3)
        assert quick["latency_s"] <= lean["latency_s"] * (1 + 1e-3)
        for name in ("all_local_s", "all_server_s", "neurosurgeon_s"):
            assert quick[name] == lean[name]
    assert any(lean["strategy_id"] != quick["strategy_id"] for quick, lean in zip(fastest, rows, strict=True))


def test_the_option_goes_before_the_grid(options: dict[str, Any]) -> None:
    small = {**GRID, "device": [OWN], "link": LINKS[:1], "max_loss": [0.05]}
    lean = sweep({**small, "objective": "energy"}, **options).to_table()
    assert sweep(small, objective="energy", **options).to_table().equals(lean)
    fast = sweep(small, **options).to_table()
    assert sweep({**small, "objective": "energy"}, objective="latency", **options).to_table().equals(fast)
    assert lean.schema.names == [*FULL, *ENERGY, "model"]
    assert "lower_bound_j" not in fast.schema.names


def test_full_rows_have_it_where_powers_are_known(options: dict[str, Any]) -> None:
    quick: dict[str, Any] = {**options, "solver": "paper", "solver_options": {"max_evaluations": 300}}
    unknown = {**GRID, "device": ["rpi4b", {"gflops": 5, "compute_w": 3}], "link": ["4g"], "max_loss": [0.2]}
    assert not {*ENERGY} & {*sweep(unknown, **quick).to_table().schema.names}
    asked = sweep(unknown, columns="energy_j,latency_s", **quick).to_table()
    assert asked["energy_j"].null_count == len(asked)
    some = {**unknown, "device": ["rpi4b", OWN, {"gflops": 5, "compute_w": 3}], "link": ["4g", *LINKS]}
    rows = sweep(some, **quick).to_table().to_pylist()
    known = [(row["device"], row["link"]) for row in rows if row["energy_j"] is not None]
    links = [row["link"] for row in rows[: len(some["link"])]]
    assert set(known) == {("own", link) for link in links} | {("5 GFLOPS", link) for link in links if link != "4g"}
    assert sweep(some, columns="compact", **quick).to_table().schema.names[:3] == [*COMPACT]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"device": [OWN, "rpi4b"]},
            r"^device: the powers of rpi4b are not known; for energy give it compute_w and",
        ),
        ({"link": [*LINKS, "4g"]}, r"^link: what sending draws is known neither of rpi4b-ncnn nor of 4g"),
        (
            {"link": [{"rate_mbps": [5, 7], "radio": RADIO}]},
            r"^link: .*5 to 7 Mb/s is known up to 6 Mb/s, and it has 7",
        ),
        ({"objective": "energie"}, r"^grid: objective: 'energie' is unknown; known: latency, energy"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_grid({**GRID, "objective": "energy", **changes})


def test_an_atlas_of_energies_answers_as_the_exact_solver_does(options: dict[str, Any], tmp_path: Path) -> None:
    """Powers of the devices' own and of the links' radios, measured times, round trips: joules are linear as seconds
    are, so the least of the atlas's strategies is the least of all."""
    lean = {**GRID, "device": [OWN, "rpi4b-ncnn", MEASURED], "objective": "energy"}
    exact = sweep(lean, **options).to_table().to_pylist()
    out = tmp_path / "atlas"
    found = sweep(lean, out, solver="atlas", **options).to_table().to_pylist()
    assert len(found) == len(exact) == 24
    for one, other in zip(found, exact, strict=True):
        assert one["energy_j"] == pytest.approx(other["energy_j"], rel=2.1e-3)
        assert one["energy_j"] <= other["energy_j"] * (1 + 1e-3 + 1e-9)
        assert one["lower_bound_j"] <= other["energy_j"] * (1 + 1e-9)
    kept = sorted(out.glob("_atlas-*.atlas"))
    assert kept
    assert load_atlas(kept[0], "energy").rows()[0]["rate_low_bps"] is None
    with pytest.raises(InputError, match="is of energy, for a sweep of its own; give one of latency"):
        load_atlas(kept[0])
    assert load_atlas(kept[0], None).info.objective == "energy"
    written = kept[0].read_bytes()
    problem = assemble("alexnet", records=options["records"])
    with pytest.raises(InputError, match=r'out: .* is another atlas: objective is "energy" there and "latency" here; '):
        build(problem, Ranges((1e9, 1e10), (1e12, 1e13), (1e6, 1e8)), max_loss=0.02, out=kept[0], quiet=True)
    assert kept[0].read_bytes() == written
    first = coinfer_ray.optimize("alexnet", **scenarios()[0], records=options["records"], objective="energy")
    assert found[0]["energy_j"] == pytest.approx(first.energy_j, rel=2.1e-3)


def test_what_counts_latencies_refuses_energy(options: dict[str, Any]) -> None:
    lean = {**GRID, "device": [OWN, NO_IDLE], "objective": "energy"}
    with pytest.raises(
        InputError, match="solver: an atlas of energies needs what no idle draws while it waits, above 0"
    ):
        sweep(lean, solver="atlas", **options)
    with pytest.raises(InputError, match="refine: looks for the least latency, and the grid asks for energy"):
        cases_of(parse_grid(lean), "alexnet")


def test_an_objective_that_is_not_asked_for_needs_no_powers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file's energy, for which the powers are not known, and its cost model give way to what the command asks."""
    grid = {**GRID, "device": ["rpi4b"], "objective": "energy", "cost_model": "layers"}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    command = ["sweep", str(tmp_path / "grid.yaml"), "--dry-run", "--executor", "local", "--cost-model", "flops"]
    assert main(command) == 2
    assert "the powers of rpi4b are not known" in capsys.readouterr().err
    assert main([*command, "--objective", "latency"]) == 0
    assert "8 scenarios in 8 files of" in capsys.readouterr().out
    for given in (grid, tmp_path / "grid.yaml"):
        found = prepare(given, None, **{**UNASKED, "objective": "latency", "cost_model": "flops"})
        assert (found.grid.objective, found.grid.document["cost_model"]) == ("latency", "flops")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = write_synthetic_records(tmp_path / "alexnet.parquet")
    grid = {**GRID, "device": [OWN], "max_loss": [0.2]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    command = ["sweep", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "out"), "--records", str(records)]
    command += ["--executor", "local", "--objective", "energy"]
    assert main(command) == 0
    files = list((tmp_path / "out").glob("*/chunk-*.parquet"))
    assert files
    assert all({*ENERGY} < {*pq.read_schema(file).names} for file in files)
    assert main([*command[:-1], "warmth"]) == 2
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump({**grid, "device": ["rpi4b"]}))
    capsys.readouterr()
    assert main([*command[:3], str(tmp_path / "other"), *command[4:]]) == 2
    error = capsys.readouterr().err
    assert "device: the powers of rpi4b are not known" in error
    assert error.count("\n") == 1
