"""A loss is a difference of two networks on the same images, known with its error; a base network must be one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from coinfer_ray.errors import InputError
from coinfer_ray.records import store
from coinfer_ray.runtime.executors import LocalExecutor
from coinfer_ray.training.base import BaseNetwork, build_base, read_base, save_base
from coinfer_ray.training.collect import collect
from coinfer_ray.training.data import load_data
from coinfer_ray.training.memory import pick_precision
from coinfer_ray.training.trainer import Preprocess, accuracy
from tests.synthetic import write_synthetic_records
from tests.training.collect_driver import SETTINGS

MODEL = "regnet_x_400mf"
CPU = torch.device("cpu")
SPLITS: tuple[store.Split, ...] = ("validation", "test")


@pytest.fixture(scope="module")
def collection(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured") / "out"
    # Enough for it not to say the same of every image.
    settings = replace(SETTINGS, base=replace(SETTINGS.base, images=2_560, learning_rate=3e-3))
    with LocalExecutor(threads=1) as executor:
        collect(MODEL, few_images, out, 3, executor=executor, settings=settings, quiet=True)
    return out


def test_base_and_candidates_are_measured_on_the_same_images(collection: Path, few_images: Path) -> None:
    """50 of 100 validation images and 50 of 200 test images, not all of them."""
    records, data = store.read_records(collection), load_data(few_images)
    network = build_base(read_base(collection / "_base.safetensors"), 10)
    for split in SPLITS:
        images = getattr(data, split).take(slice(0, 50))
        expected = accuracy(network, images, Preprocess.of(data, 64), device=CPU, precision=pick_precision(CPU))
        column = records.table[f"base_{split}_accuracy"].to_pylist()
        assert column == pytest.approx([expected] * 3, abs=1 / 50)  # another memory layout may turn an image
        gained, lost = [np.array(records.table[f"{split}_{name}"].to_pylist()) for name in ("gained", "lost")]
        assert records.paired(split).all() and (gained + lost).any()
        loss, error = records.losses(split)
        assert loss == pytest.approx((lost - gained) / 50)
        # What numpy says of the images' own differences.
        for row in range(3):
            each = np.repeat([1.0, -1.0, 0.0], [lost[row], gained[row], 50 - lost[row] - gained[row]])
            assert error[row] == pytest.approx(each.std() / np.sqrt(50))


def test_files_of_earlier_versions_are_read(collection: Path, tmp_path: Path) -> None:
    """As shards, packed, and beside newer ones, whose base accuracy then counts."""
    old = store.shipped_records("regnet_x_400mf")
    columns = pq.read_schema(old).names
    if "validation_lost" in columns:
        pytest.skip("the records that ship are paired")
    records = store.read_records(old)
    loss, error = records.losses()
    assert not records.paired().any() and np.isnan(error).all() and np.isfinite(loss).all()
    for number in range(3):
        table = pq.read_table(store.shard_path(collection, number))
        if number < 2:
            place = table.column_names.index("base_validation_accuracy")
            table = table.set_column(place, "base_validation_accuracy", [[0.99]])
            table = table.drop_columns([name for name in table.column_names if name.endswith(("gained", "lost"))])
        pq.write_table(table, store.shard_path(tmp_path, number))
    assert store.pack(tmp_path, tmp_path / "packed.parquet").table.num_rows == 3
    for source in (tmp_path, tmp_path / "packed.parquet"):
        mixed = store.read_records(source)
        assert mixed.paired().tolist() == [False, False, True]
        assert mixed.base_accuracy() == store.read_records(collection).base_accuracy() != 0.99
    assert store.read_records(store.shard_path(tmp_path, 0)).base_accuracy() == 0.99


def test_records_written_without_counts_hold_nulls(tmp_path: Path) -> None:
    records = store.read_records(write_synthetic_records(tmp_path / "records.parquet"))
    assert not records.paired("test").any()


@pytest.mark.parametrize(("errors", "refused"), [(0, True), (2.7, True), (3.3, False), (float("nan"), True)])
def test_a_base_network_at_chance_is_refused(
    errors: float, refused: bool, collection: Path, few_images: Path, tmp_path: Path
) -> None:
    """On 100 images guessing one of ten classes is right 0.1 of the time, give or take an error of 0.03."""
    validation = 0.1 + errors * 0.3 / len(load_data(few_images).validation) ** 0.5
    found = read_base(collection / "_base.safetensors")
    save_base(BaseNetwork(found.weights, validation, 0.1, found.info), tmp_path / "given.safetensors")
    settings = replace(SETTINGS, any_base=False)

    def run(base: Path) -> None:
        with LocalExecutor(threads=1) as executor:
            collect(
                MODEL,
                few_images,
                tmp_path / "out",
                1,
                executor=executor,
                settings=settings,
                base=base,
                minutes=0,
                quiet=True,
            )

    if refused:
        with pytest.raises(InputError, match="is no better than guessing one of 10 classes; train it on more images"):
            run(tmp_path / "given.safetensors")
        assert not (tmp_path / "out" / "_base.safetensors").exists()
    else:
        run(tmp_path / "given.safetensors")
