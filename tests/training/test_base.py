"""The base network's file: half the size, the same network, found beside its records."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from coinfer_ray.errors import InputError
from coinfer_ray.models import zoo
from coinfer_ray.records import store
from coinfer_ray.runtime.executors import LocalExecutor
from coinfer_ray.training.base import (
    BaseNetwork,
    base_beside,
    load_base,
    read_base,
    round_weights,
    save_base,
    train_base,
)
from coinfer_ray.training.collect import collect
from coinfer_ray.training.data import DataSplits, load_data
from coinfer_ray.training.trainer import Phase, Preprocess, accuracy
from coinfer_ray.training.verifier import obtain_base
from tests.training.collect_driver import SETTINGS

MODEL = "regnet_x_400mf"
CPU = torch.device("cpu")
PHASE = Phase(images=32, batch_size=16, learning_rate=1e-3, optimizer="adamw")


@pytest.fixture(scope="module")
def data(few_images: Path) -> DataSplits:
    return load_data(few_images)


@pytest.fixture(scope="module")
def trained(data: DataSplits) -> BaseNetwork:
    return train_base(MODEL, 64, data, phase=PHASE, seed=0, device=CPU, precision=torch.float32)


def test_what_was_measured_is_what_is_read_again(trained: BaseNetwork, data: DataSplits, tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"
    save_base(trained, path)
    read = load_base(path, model=MODEL, input_px=64, data=data)
    assert read.fingerprint == trained.fingerprint
    assert (read.validation_accuracy, read.test_accuracy) == (trained.validation_accuracy, trained.test_accuracy)
    network = zoo.build(MODEL, 10)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in read.weights.items()})
    again = accuracy(network, data.test, Preprocess.of(data, 64), device=CPU, precision=torch.float32)
    assert again == pytest.approx(trained.test_accuracy, abs=1 / len(data.test))  # another memory layout sums otherwise
    weights = sum(array.size for array in trained.weights.values())
    assert path.stat().st_size < 2.2 * weights


def test_weights_that_are_not_rounded_are_kept_whole(trained: BaseNetwork, data: DataSplits, tmp_path: Path) -> None:
    """Base networks of earlier versions: their fingerprint must survive being written again."""
    finer = {
        name: array + np.float32(1e-4) if array.dtype == np.float32 else array
        for name, array in trained.weights.items()
    }
    base = BaseNetwork(finer, 0.5, 0.5, trained.info)
    save_base(base, tmp_path / "base.safetensors")
    assert load_base(tmp_path / "base.safetensors", model=MODEL, input_px=64, data=data).fingerprint == base.fingerprint


def test_rounding_moves_a_weight_by_at_most_one_part_in_256() -> None:
    network = zoo.build(MODEL, 10)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    round_weights(network)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensor.bfloat16().to(tensor.dtype)) or not tensor.is_floating_point()
        assert ((tensor - before[name]).abs() <= before[name].abs() / 256).all()


def test_the_base_lies_beside_packed_records(few_images: Path, data: DataSplits, tmp_path: Path) -> None:
    folder, packed = tmp_path / "records", tmp_path / f"{MODEL}-64px.parquet"
    with LocalExecutor(threads=1) as executor:
        collect(MODEL, few_images, folder, 2, executor=executor, settings=SETTINGS, quiet=True)
    assert pq.read_table(folder).num_rows == 2  # the base network beside the shards is no data to a reader
    info = store.pack(folder, packed).info
    with pytest.raises(InputError, match="is needed; give --base FILE"):
        obtain_base(None, packed, info, data)
    shutil.copy(base_beside(folder), base_beside(packed))
    assert base_beside(packed).name == f"{MODEL}-64px.base.safetensors"
    assert obtain_base(None, packed, info, data).fingerprint == info.settings["base_fingerprint"]
    noisy = packed.with_suffix(".awgn.parquet")
    assert base_beside(noisy) == base_beside(packed)  # one network, whatever its candidates were trained through
    shutil.copy(base_beside(packed), noisy.with_suffix(".base.safetensors"))
    assert base_beside(noisy) == noisy.with_suffix(".base.safetensors")
    base_beside(folder).rename(folder / "base.safetensors")  # as earlier versions called it
    assert obtain_base(None, folder, info, data).fingerprint == info.settings["base_fingerprint"]


def test_base_networks_that_ship_are_those_of_their_records() -> None:
    folder = store.shipped_records("alexnet").parent
    bases = sorted(folder.glob("*.base.safetensors"))
    assert bases
    for path in bases:
        info = store.read_records(path.name.replace(".base.safetensors", ".parquet")).info
        assert read_base(path).fingerprint == info.settings["base_fingerprint"]
