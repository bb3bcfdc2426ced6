"""Compared methods' trainings, collected: shards, resuming, seeds, failures, and the script around it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.records.choices import read_choices
from coinfer_ray.records.store import read_records
from coinfer_ray.runtime.executors import Envelope, LocalExecutor
from coinfer_ray.training.base import load_base
from coinfer_ray.training.candidate import CandidateTrainer
from coinfer_ray.training.collect import collect
from coinfer_ray.training.compared import collect as module
from coinfer_ray.training.compared.collect import TRAININGS, collect_choices
from coinfer_ray.training.compared.common import Row, plain_cuts
from coinfer_ray.training.data import load_data
from coinfer_ray.training.trainer import Diverged
from tests.training.collect_driver import SETTINGS

ROOT = Path(__file__).resolve().parents[2]


class Whole:
    """The network as it is, trained no further; what is asked for is its last cut, or that it diverges."""

    name = "whole"

    def plan(self, graph: LayerGraph) -> list[dict[str, Any]]:
        return [{"last": 3}, {"diverges": True}, {"last": 6}, {"last": 21}]

    def train(self, trainer: CandidateTrainer, asked: Mapping[str, Any], seed: int) -> list[Row]:
        if "diverges" in asked:
            raise Diverged("the loss is no number")
        measured = trainer.measure(trainer.base, seed) | {"images": 0}
        return plain_cuts(trainer, trainer.base, range(asked["last"] + 1), measured)


@pytest.fixture(scope="module")
def records(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("methods") / "records"
    with LocalExecutor(threads=1) as executor:
        collect("alexnet", few_images, out, 1, executor=executor, settings=SETTINGS, quiet=True)
    return out


def run(records: Path, images: Path, out: Path, executor: Any = None, **how: Any) -> int:
    info, data = read_records(records).info, load_data(images)
    base = load_base(records / "_base.safetensors", model="alexnet", input_px=64, data=data)
    with executor or LocalExecutor(threads=1) as running:
        return collect_choices(["whole"], info, data, base, running, out, quiet=True, **how)


@pytest.fixture(autouse=True)
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRAININGS, "whole", Whole)


def test_each_training_is_a_shard_and_is_done_once(records: Path, few_images: Path, tmp_path: Path) -> None:
    assert run(records, few_images, tmp_path / "out", most=2) == 2
    assert len(list((tmp_path / "out").glob("training-whole-*.parquet"))) == 2
    assert run(records, few_images, tmp_path / "out") == 2
    assert run(records, few_images, tmp_path / "out") == 0
    table = read_choices(tmp_path / "out")
    rows = table.table.to_pylist()
    asked = [json.loads(row["asked"]) for row in rows]
    assert [each["last"] for each in asked] == [3] * 4 + [6] * 7 + [21] * 22
    assert {row["seed"] for row in rows} == {rows[0]["seed"]}
    flops = {row["device_flop"] + row["server_flop"] for row in rows}
    assert len(flops) == 1
    found = table.of("whole")
    assert (found.accuracy == found.base_accuracy).all() and (found.trainings == 1).all()
    assert {row["uplink_bit"] for row in rows if row["partition_point"] == 0} == {32 * 3 * 64 * 64}
    assert {row["uplink_bit"] for row in rows if row["partition_point"] == 21} == {0}


def test_what_is_known_is_not_trained_again(records: Path, few_images: Path, tmp_path: Path) -> None:
    run(records, few_images, tmp_path / "one", most=1)
    known = read_choices(tmp_path / "one")
    assert run(records, few_images, tmp_path / "two", known=known, most=3) == 2
    assert sorted(path.name[:20] for path in (tmp_path / "two").glob("training-*")) == [
        "training-whole-001-0",
        "training-whole-002-0",
    ]


def test_repeats_have_other_seeds_and_count_as_one_choice(records: Path, few_images: Path, tmp_path: Path) -> None:
    run(records, few_images, tmp_path / "out", most=1, repeats=2)
    table = read_choices(tmp_path / "out")
    assert len({row["seed"] for row in table.table.to_pylist()}) == 2
    assert table.of("whole").trainings.tolist() == [2] * 4


class Losing(LocalExecutor):
    """Loses the first task that it is given."""

    def run(self, start: Any, shared: Any, tasks: Any) -> Iterator[Envelope[Any]]:  # type: ignore[override]
        for number, envelope in enumerate(super().run(start, shared, tasks)):
            yield envelope if number else Envelope(envelope.task_id, None, "WorkerLost: gone", 3, 0.0)


def test_a_lost_worker_leaves_no_shard_and_is_made_up_for(
    records: Path, few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(records, few_images, tmp_path / "out", Losing(threads=1), most=3) == 2
    assert 'whole {"last": 3}: WorkerLost: gone' in capsys.readouterr().err
    assert run(records, few_images, tmp_path / "out", most=3) == 1


def test_nothing_starts_when_the_time_is_up(records: Path, few_images: Path, tmp_path: Path) -> None:
    assert run(records, few_images, tmp_path / "out", seconds=0) == 0


def test_other_records_and_unknown_methods_are_refused(records: Path, few_images: Path, tmp_path: Path) -> None:
    run(records, few_images, tmp_path / "out", most=1)
    (tmp_path / "out" / "_run.json").write_text((tmp_path / "out" / "_run.json").read_text().replace("settings", "set"))
    with pytest.raises(InputError, match="another"):
        run(records, few_images, tmp_path / "out", most=1)
    info, data = read_records(records).info, load_data(few_images)
    base = load_base(records / "_base.safetensors", model="alexnet", input_px=64, data=data)
    with LocalExecutor(threads=1) as executor, pytest.raises(InputError, match="fpgm"):
        collect_choices(["fpgn"], info, data, base, executor, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_script_packs_real_trainings(records: Path, few_images: Path, tmp_path: Path) -> None:
    """FPGM and JALAD end to end on a few images, by the script."""
    packed = tmp_path / "packed.parquet"
    command = [sys.executable, str(ROOT / "scripts" / "collect_methods.py"), "--model", "alexnet"]
    command += ["--data", str(few_images), "--records", str(records), "--out", str(tmp_path / "out")]
    command += ["--methods", "fpgm,jalad", "--most", "1", "--pack", str(packed), "--executor", "local"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "fpgm" in done.stdout and f"written to {packed}" in done.stdout
    table = read_choices(packed)
    assert table.methods == ("fpgm", "jalad")
    jalad = table.of("jalad")
    assert jalad.feature_bits.tolist() == [2, 4, 6, 8] * 4
    assert jalad.partition_point.tolist() == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert module.TRAININGS["jalad"]().plan(load_graph_of(records))[0] == {"partition_points": [1, 2, 3, 4]}


def load_graph_of(records: Path) -> LayerGraph:
    from coinfer_ray.models.library import load_graph

    return load_graph(read_records(records).model, read_records(records).input_px)
