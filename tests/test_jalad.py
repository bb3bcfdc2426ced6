"""JALAD's row: the cheapest measured pair of cut and width that keeps to the bound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer_ray.errors import InputError
from coinfer_ray.methods.jalad import QuantizedTable, choose_quantized, read_quantized, write_quantized
from coinfer_ray.models.library import load_graph
from coinfer_ray.optimizer.answers import Answers
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.scenarios.batch import ScenarioBatch

GRAPH = load_graph("alexnet", 64)
PROBLEM = assemble("alexnet", predict=False, input_px=64)
WIDTHS = (2, 4, 6, 8)
INFO = {"model": "alexnet", "input_px": 64, "base_validation_accuracy": 0.75, "base_test_accuracy": 0.76}


def measured(seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for point in GRAPH.cut_points[1:-1]:
        elements = GRAPH.layers[point - 1].output_elements
        for bits in WIDTHS:
            lost = rng.uniform(0, 0.4) / bits
            rows.append(
                {
                    "partition_point": point,
                    "bits": bits,
                    "validation_accuracy": 0.75 - lost,
                    "test_accuracy": 0.76 - 1.1 * lost,
                    "plain_bit": bits * elements,
                    "coded_bit": bits * elements * rng.uniform(0.3, 1.2),
                }
            )
    return rows


def table_of(rows: list[dict[str, Any]], tmp_path: Path) -> QuantizedTable:
    write_quantized(tmp_path / "table.parquet", rows, INFO)
    return read_quantized(tmp_path / "table.parquet")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> QuantizedTable:
    return table_of(measured(), tmp_path_factory.mktemp("jalad"))


def solve(table: QuantizedTable, weights: np.ndarray, max_loss: Any, problem: Problem = PROBLEM) -> Answers:
    nothing = np.full(len(weights), np.nan)
    return choose_quantized(
        problem, ScenarioBatch(weights, np.broadcast_to(max_loss, len(weights)), nothing, nothing), table
    )


def by_hand(weights: np.ndarray, max_loss: float, cuts: str, split: str) -> float:
    """Every pair, one after the other, from the layers' own figures."""
    flops = [layer.flops for layer in GRAPH.layers]
    base = INFO[f"base_{split}_accuracy"]
    found = []
    if cuts == "all":
        found += [sum(flops) * weights[0], sum(flops) * weights[1] + 32 * GRAPH.input_elements * weights[2]]
    for row in measured():
        point = row["partition_point"]
        if row[f"{split}_accuracy"] >= base - max_loss:
            bits = min(row["plain_bit"], row["coded_bit"])
            found.append(sum(flops[:point]) * weights[0] + sum(flops[point:]) * weights[1] + bits * weights[2])
    return min(found, default=np.inf)


@settings(max_examples=60, deadline=None)
@given(
    device=st.floats(7, 12),
    rate=st.floats(4, 9),
    max_loss=st.floats(0.001, 0.2),
    cuts=st.sampled_from(["all", "inner"]),
    split=st.sampled_from(["validation", "test"]),
)
def test_the_row_is_the_best_of_all_pairs(
    table: QuantizedTable, device: float, rate: float, max_loss: float, cuts: Any, split: Any
) -> None:
    weights = np.array([[10**-device, 1 / 10.6e12, 10**-rate]])
    problem = assemble("alexnet", predict=False, input_px=64, cuts=cuts, accuracy=split)
    result = solve(table, weights, max_loss, problem)
    best = by_hand(weights[0], max_loss, cuts, split)
    assert result.objective[0] == pytest.approx(best, rel=1e-12)
    if np.isfinite(best):
        assert float(result.costs[0] @ weights[0]) == pytest.approx(best, rel=1e-12)
        assert result.accuracy[0] >= INFO[f"base_{split}_accuracy"] - max_loss - 1e-9
        assert (result.extra["bits"][0] == 0) == (result.partition_point[0] in (0, len(GRAPH.layers)))


def test_a_batch_is_its_scenarios(table: QuantizedTable) -> None:
    rng = np.random.default_rng(1)
    weights = 10.0 ** -rng.uniform([7, 13, 4], [12, 13.1, 9], (50, 3))
    losses = rng.uniform(0.001, 0.1, 50)
    together = solve(table, weights, losses)
    for row in range(50):
        alone = solve(table, weights[row : row + 1], float(losses[row]))
        for name in ("objective", "costs", "partition_point", "accuracy", "feasible"):
            assert np.array_equal(getattr(together, name)[row], getattr(alone, name)[0]), name
        assert together.extra["bits"][row] == alone.extra["bits"][0]


def test_a_bound_that_no_inner_cut_meets_is_infeasible(table: QuantizedTable) -> None:
    weights = np.array([[1e-9, 1e-13, 1e-6]])
    inner = assemble("alexnet", predict=False, input_px=64, cuts="inner")
    assert not solve(table, weights, -0.01, inner).feasible[0]


def test_other_networks_and_other_files_are_refused(table: QuantizedTable, tmp_path: Path) -> None:
    other = assemble("alexnet", predict=False, input_px=128)
    with pytest.raises(InputError, match="the table is of alexnet at 64 px, the scenario of alexnet at 128 px"):
        solve(table, np.ones((1, 3)), 0.02, other)
    with pytest.raises(InputError, match="does not exist"):
        read_quantized(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match="is no table of quantised cuts"):
        read_quantized(tmp_path / "text.parquet")


def test_its_row_in_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coinfer_ray.methods.compare import compare

    path = tmp_path / "table.parquet"
    monkeypatch.setattr("coinfer_ray.methods.jalad.quantized_path", lambda model, input_px: path)
    asked: dict[str, Any] = {"device": "rpi4b", "server": "p100", "link": "4g", "input_px": 64}
    with pytest.raises(InputError, match="measure one with"):
        compare("alexnet", **asked, methods=["jalad"])
    write_quantized(path, measured(), INFO)
    row, neurosurgeon = compare("alexnet", **asked, methods=["jalad", "neurosurgeon"], max_loss=0.05)
    parts = row["device_s"] + row["uplink_s"] + row["server_s"]
    assert row["latency_s"] == pytest.approx(parts) and parts < neurosurgeon["latency_s"]
    assert row["bits"] in WIDTHS and row["accuracy_source"] == "measured"
    assert 0.7 <= row["accuracy"] < 0.75
    with pytest.raises(InputError, match=r"jalad: no choice keeps the loss within -0\.01; raise --max-loss"):
        compare("alexnet", **asked, methods=["jalad"], max_loss=-0.01, cuts="inner")
