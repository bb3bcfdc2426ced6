"""Compared methods that choose among what they were trained to: the cheapest choice that keeps to the bound."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coinfer_ray.errors import InputError
from coinfer_ray.methods.trained import choose
from coinfer_ray.models.library import load_graph
from coinfer_ray.optimizer.answers import Answers
from coinfer_ray.optimizer.problem import Problem, assemble
from coinfer_ray.predictor.calibration import SELECTED
from coinfer_ray.records.choices import Choices, pack_choices, read_choices, shard_name, write_choices
from coinfer_ray.records.store import RecordsInfo
from coinfer_ray.runtime.sealed import read_sealed, write_sealed
from coinfer_ray.scenarios.batch import ScenarioBatch
from tests.synthetic import write_synthetic_records

GRAPH = load_graph("alexnet", 64)
PROBLEM = assemble("alexnet", predict=False, input_px=64)
WIDTHS = (2, 4, 6, 8, 32)
BASE = {"validation": 0.75, "test": 0.76}
SETS = tuple(prunable.name for prunable in GRAPH.prunable_sets)
INFO = RecordsInfo("alexnet", 64, SETS, {"data": "made up"}, {"coinfer-ray": "test"})


def row(point: int, bits: int, lost: float, **other: Any) -> dict[str, Any]:
    flops = [layer.flops for layer in GRAPH.layers]
    elements = GRAPH.layers[point - 1].output_elements
    return {
        "method": "jalad",
        "asked": json.dumps({"cut": point}),
        "training": point,
        "seed": 7,
        "partition_point": point,
        "feature_bits": bits,
        "device_flop": sum(flops[:point]) + 1000,
        "server_flop": sum(flops[point:]) + 2000,
        "codec_device_flop": 1000,
        "codec_server_flop": 2000,
        "uplink_bit": bits * elements,
        "validation_accuracy": BASE["validation"] - lost,
        "test_accuracy": BASE["test"] - 1.1 * lost,
        "images": 0,
        "wall_s": 1.0,
        **{f"base_{name}_accuracy": value for name, value in BASE.items()},
        **other,
    }


def measured(seed: int = 0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    points = GRAPH.cut_points[1:-1]
    return [row(point, bits, rng.uniform(0, 0.4) / bits) for point in points for bits in WIDTHS]


def choices_of(rows: list[dict[str, Any]], folder: Path, split: Any = "validation") -> Choices:
    write_choices(folder / "c.parquet", rows, INFO)
    return read_choices(folder / "c.parquet").of("jalad", split)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Choices]:
    folder = tmp_path_factory.mktemp("choices")
    return {split: choices_of(measured(), folder, split) for split in BASE}


def solve(choices: Choices, weights: np.ndarray, max_loss: Any, problem: Problem = PROBLEM, **how: Any) -> Answers:
    nothing = np.full(len(weights), np.nan)
    losses = np.broadcast_to(max_loss, len(weights))
    return choose(problem, ScenarioBatch(weights, losses, nothing, nothing), choices, **how)


def by_hand(weights: np.ndarray, max_loss: float, cuts: str, split: str, codec: bool, floats_only: bool) -> float:
    """Every choice, one after the other, and the network as it is, from the layers' own figures."""
    flops = [layer.flops for layer in GRAPH.layers]
    points = GRAPH.cut_points if cuts == "all" else GRAPH.cut_points[1:-1]
    found = []
    for point in points:
        elements = GRAPH.layers[point - 1].output_elements if point else GRAPH.input_elements
        bits = 0 if point == len(flops) else 32 * elements
        found.append(sum(flops[:point]) * weights[0] + sum(flops[point:]) * weights[1] + bits * weights[2])
    for each in measured():
        if each[f"{split}_accuracy"] >= BASE[split] - max_loss and (each["feature_bits"] == 32 or not floats_only):
            device = each["device_flop"] - (0 if codec else 1000)
            server = each["server_flop"] - (0 if codec else 2000)
            found.append(device * weights[0] + server * weights[1] + each["uplink_bit"] * weights[2])
    return min(found)


@settings(max_examples=60, deadline=None)
@given(
    device=st.floats(7, 12),
    rate=st.floats(4, 9),
    max_loss=st.floats(0.001, 0.2),
    cuts=st.sampled_from(["all", "inner"]),
    split=st.sampled_from(["validation", "test"]),
    codec=st.booleans(),
    floats_only=st.booleans(),
)
def test_the_answer_is_the_best_of_all_choices(
    table: dict[str, Choices],
    device: float,
    rate: float,
    max_loss: float,
    cuts: Any,
    split: Any,
    codec: bool,
    floats_only: bool,
) -> None:
    weights = np.array([[10**-device, 1 / 10.6e12, 10**-rate]])
    problem = assemble("alexnet", predict=False, input_px=64, cuts=cuts, accuracy=split, codec_flops=codec)
    result = solve(table[split], weights, max_loss, problem, widths={32} if floats_only else None)
    assert result.objective[0] == pytest.approx(by_hand(weights[0], max_loss, cuts, split, codec, floats_only))
    assert float(result.costs[0] @ weights[0]) == pytest.approx(result.objective[0])
    assert result.accuracy[0] >= BASE[split] - max_loss - 1e-9
    assert result.trainings is not None
    assert result.known[0] == (result.trainings[0] == 0)
    assert result.extra["bits"][0] in ((0,) if floats_only or result.known[0] else (0, 2, 4, 6, 8))


def test_where_one_width_may_be_sent_no_other_is(table: dict[str, Choices]) -> None:
    weights = np.array([[1e-9, 1e-13, 1e-6]])
    best = {bits: solve(table["validation"], weights, 0.5, widths={bits}) for bits in WIDTHS}
    for bits, found in best.items():
        assert found.known[0] or found.extra["bits"][0] == (0 if bits == 32 else bits)
    assert {found.extra["bits"][0] for found in best.values()} >= {2, 4, 6}
    anything = solve(table["validation"], weights, 0.5).objective[0]
    assert anything == min(found.objective[0] for found in best.values())


def test_a_batch_is_its_scenarios(table: dict[str, Choices]) -> None:
    rng = np.random.default_rng(1)
    weights = 10.0 ** -rng.uniform([7, 13, 4], [12, 13.1, 9], (50, 3))
    losses = rng.uniform(0.001, 0.1, 50)
    together = solve(table["validation"], weights, losses)
    for row in range(50):
        alone = solve(table["validation"], weights[row : row + 1], float(losses[row]))
        for name in ("objective", "costs", "partition_point", "accuracy", "feasible"):
            assert np.array_equal(getattr(together, name)[row], getattr(alone, name)[0]), name
        assert together.extra["bits"][row] == alone.extra["bits"][0]


def test_a_confidence_asks_the_margin_of_measured_strategies(tmp_path: Path) -> None:
    records = write_synthetic_records(tmp_path / "r.parquet")
    problem = assemble("alexnet", records=records, regressor="monotone_boosting")
    scale = problem.predictor.calibration
    weights = np.array([[1e-9, 1e-13, 1e-6]])
    info = replace(INFO, settings={**INFO.settings, "validation_images": 5000})
    own = {"validation_gained": 30, "validation_lost": 50}
    error = math.sqrt(80 - 20**2 / 5000) / 5000
    for spare, (counts, margin) in itertools.product(
        (-1e-6, 1e-6), (({}, scale.margin(scale.usual_error, 0.9)), (own, SELECTED * 1.2815515655 * error))
    ):
        choice = row(3, 8, 0.02 - margin - spare, **counts)
        write_choices(tmp_path / "c.parquet", [choice], info)
        batch = ScenarioBatch(weights, np.array([0.02]), np.array([0.9]), np.array([np.nan]))
        result = choose(problem, batch, read_choices(tmp_path / "c.parquet").of("jalad"))
        assert result.known[0] != (spare > 0)
        assert problem.accuracy_bound(result, 0.9)[0] == pytest.approx(
            result.accuracy[0] - (0 if result.known[0] else margin)
        )
    other = replace(choices_of([choice], tmp_path), base_fingerprint="abc")
    with pytest.raises(InputError, match="start from the base network abc, the records from None"):
        choose(problem, batch, other)


def test_repeats_of_a_training_count_as_their_mean(tmp_path: Path) -> None:
    rows = [row(3, 8, 0.01), row(3, 8, 0.03, seed=8, uplink_bit=3e6), row(3, 32, 0.0), row(6, 8, 0.02)]
    found = choices_of(rows, tmp_path)
    assert found.trainings.tolist() == [2, 1, 1]
    assert found.accuracy.tolist() == pytest.approx([0.73, 0.75, 0.73])
    assert found.costs[0, 2] == pytest.approx((rows[0]["uplink_bit"] + 3e6) / 2)
    assert found.base_accuracy == BASE["validation"]


def test_shards_are_packed_and_a_training_counts_once(tmp_path: Path) -> None:
    for number, point in enumerate((3, 6)):
        write_choices(tmp_path / shard_name("jalad", number, 0), [row(point, 8, 0.01), row(point, 4, 0.02)], INFO)
    write_choices(tmp_path / shard_name("jalad", 2, 0), [], INFO)  # it diverged
    packed = pack_choices(tmp_path, tmp_path / "all.parquet")
    assert packed.methods == ("jalad",) and len(packed.table) == 4
    again = pack_choices([tmp_path / "all.parquet", tmp_path], tmp_path / "all.parquet")
    assert again.table.equals(packed.table)
    other = replace(INFO, settings={"data": "others"})
    write_choices(tmp_path / shard_name("jalad", 3, 0), [row(8, 8, 0.0)], other)
    with pytest.raises(InputError, match=r"jalad-003-0.*differs from .* in data"):
        read_choices(tmp_path)


def test_networks_of_one_training_are_choices_of_their_own_and_older_files_have_none(tmp_path: Path) -> None:
    rows = [row(3, 8, 0.01, variant="early"), row(3, 8, 0.03, variant="late")]
    found = choices_of(rows, tmp_path)
    assert found.accuracy.tolist() == pytest.approx([0.74, 0.72]) and found.trainings.tolist() == [1, 1]
    assert [json.loads(asked) for asked in found.asked] == [{"cut": 3, "variant": name} for name in ("early", "late")]
    write_choices(tmp_path / "new.parquet", [row(3, 8, 0.01)], INFO)
    older = read_sealed(tmp_path / "new.parquet").drop_columns(["variant"])
    write_sealed(tmp_path / "older.parquet", older, compression="zstd")
    write_choices(tmp_path / "other.parquet", [row(6, 8, 0.02)], INFO)
    both = read_choices([tmp_path / "older.parquet", tmp_path / "other.parquet"])
    assert both.of("jalad").asked == ('{"cut": 3}', '{"cut": 6}')


def test_what_is_no_file_of_choices_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_choices(tmp_path / "none.parquet")
    with pytest.raises(InputError, match="holds none"):
        read_choices(tmp_path)
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(InputError, match="is no file of choices"):
        read_choices(tmp_path / "text.parquet")
    with pytest.raises(InputError, match="is not a file of compared methods' choices"):
        write_choices(tmp_path / "text.parquet", [], INFO)
    write_choices(tmp_path / "c.parquet", [row(3, 8, 0.0)], INFO)
    with pytest.raises(InputError, match=r"fpgm: .* has no trainings of it \(of: jalad\)"):
        read_choices(tmp_path / "c.parquet").of("fpgm")


def test_its_row_in_the_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coinfer_ray.methods.compare import compare

    path = tmp_path / "c.parquet"
    write_choices(path, [each for each in measured() if each["feature_bits"] < 32], INFO)
    monkeypatch.setattr("coinfer_ray.methods.trained.shipped_choices", lambda model, input_px: read_choices(path))
    asked: dict[str, Any] = {"device": "rpi4b", "server": "p100", "link": "4g", "input_px": 64}
    found, neurosurgeon = compare("alexnet", **asked, methods=["jalad", "neurosurgeon"], max_loss=0.05)
    parts = found["device_s"] + found["uplink_s"] + found["server_s"]
    assert found["latency_s"] == pytest.approx(parts) and parts < neurosurgeon["latency_s"]
    assert found["bits"] in WIDTHS and found["accuracy_source"] == "measured"
    assert 0.7 <= found["accuracy"] < 0.75
    with pytest.raises(InputError, match="no trainings of it"):
        compare("alexnet", **asked, methods=["fpgm"])
