"""Weights that a user brings: whose they are, whether they are trained, and how their images are normalised."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coinfer_ray.cli import main
from coinfer_ray.errors import InputError
from coinfer_ray.models.source import resolve_model
from coinfer_ray.records.store import RecordsInfo
from coinfer_ray.runtime.executors import LocalExecutor
from coinfer_ray.training.base import build_base, read_base, save_base, train_base
from coinfer_ray.training.collect import collect
from coinfer_ray.training.data import DataSplits, load_data
from coinfer_ray.training.recipes import NORMALISED
from coinfer_ray.training.trainer import Phase
from coinfer_ray.training.verifier import images_of
from coinfer_ray.training.weights import given_weights, read_weights, unwrapped
from coinfer_ray.training.worker import CollectSettings
from tests.training.own_networks import Small

CPU = torch.device("cpu")
NONE = Phase(images=0, batch_size=32, learning_rate=1e-3, optimizer="adamw")


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(192, 192), nn.Linear(192, 192)
        self.second.weight = self.first.weight
        self.head = nn.Linear(192, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.head(self.second(torch.relu(self.first(x.flatten(1)))))
        return scores


@pytest.fixture(scope="module")
def data() -> DataSplits:
    return load_data("digits")


def test_a_module_brings_its_own_and_a_class_none() -> None:
    network = Small()
    found = given_weights(None, resolve_model(network), 10)
    assert found is not None and torch.equal(found["head.weight"], network.head.weight)
    assert given_weights(None, resolve_model(Small), 10) is None
    assert given_weights(None, resolve_model("resnet18"), 10) is None
    torch.manual_seed(0)
    built = given_weights("own", resolve_model(Small), 10)
    torch.manual_seed(0)
    assert built is not None and torch.equal(built["head.weight"], Small().head.weight)
    other = given_weights(Small().state_dict(), resolve_model(network), 10)
    assert other is not None and not torch.equal(other["head.weight"], network.head.weight)


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, torch.compile, lambda network: nn.DataParallel(torch.compile(network))],
    ids=["parallel", "compiled", "both"],
)
def test_the_name_of_a_wrapper_is_left_out(wrap: Callable[[nn.Module], nn.Module], tmp_path: Path) -> None:
    network = Small()
    state = wrap(network).state_dict()
    assert not state.keys() & network.state_dict().keys()
    torch.save(state, tmp_path / "wrapped.pt")
    found = given_weights(tmp_path / "wrapped.pt", resolve_model(Small), 10)
    assert found is not None and found.keys() == network.state_dict().keys()
    assert torch.equal(found["head.weight"], network.head.weight)


def test_a_name_that_the_network_has_is_no_wrapper() -> None:
    network = nn.Sequential(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)))
    state = network.state_dict()
    assert unwrapped(network, state).keys() == {"0.1.weight", "0.1.bias"}
    assert unwrapped(network, {f"model.{name}": each for name, each in state.items()}).keys() == state.keys()
    assert unwrapped(network, {"lonely": torch.zeros(1)}).keys() == {"lonely"}
    assert unwrapped(network, {}) == {}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_of_another_precision_are_taken_as_floats(dtype: torch.dtype, data: DataSplits) -> None:
    weights = {
        name: each.to(dtype) if each.is_floating_point() else each for name, each in Small().state_dict().items()
    }
    floats = given_weights(weights, resolve_model(Small), 10)
    assert floats is not None and floats["head.weight"].dtype == torch.float32
    base = train_base(Small, 8, data, phase=NONE, seed=0, device=CPU, precision=torch.float32, weights=floats)
    assert base.weights["head.weight"].dtype == np.float32
    assert np.array_equal(base.weights["head.weight"], weights["head.weight"].float().numpy())


def test_further_training_begins_with_them(data: DataSplits) -> None:
    """A step at a rate of next to nothing leaves them; rounded, as what was trained is."""
    weights = Small().state_dict()
    phase = Phase(images=32, batch_size=32, learning_rate=1e-9, weight_decay=0.0, optimizer="adamw")
    base = train_base(Small, 8, data, phase=phase, seed=0, device=CPU, precision=torch.float32, weights=weights)
    assert np.array_equal(base.weights["head.weight"], weights["head.weight"].bfloat16().float().numpy())
    assert not np.array_equal(base.weights["norm.running_mean"], weights["norm.running_mean"].numpy())


def test_they_are_trained_on_what_is_asked_for_alone() -> None:
    recipe = CollectSettings(base=NORMALISED.base, prunable=NORMALISED.prunable)
    settings = recipe.from_weights(None, None)
    assert (settings.base.images, settings.prunable) == (0, None)
    settings = recipe.from_weights(500, 700)
    assert settings.prunable is not None
    assert (settings.base.images, settings.prunable.images) == (500, 700)
    assert recipe.from_weights(None, 700).base.images == 0


def test_weights_that_layers_share_are_kept(data: DataSplits, tmp_path: Path) -> None:
    base = train_base(
        Tied, 8, data, phase=NONE, seed=0, device=CPU, precision=torch.float32, weights=Tied().state_dict()
    )
    save_base(base, tmp_path / "tied.safetensors")
    again = build_base(read_base(tmp_path / "tied.safetensors"), 10)
    assert again.first.weight is again.second.weight
    assert np.array_equal(again.first.weight.detach().numpy(), base.weights["second.weight"])


@pytest.mark.parametrize("content", [b"no pickle", b""])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_file_of_something_else_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"weights: .*{name}"):
        read_weights(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        read_weights(tmp_path / "none.pt")


def test_images_are_normalised_as_the_records_say(data: DataSplits) -> None:
    settings = {"normalisation": {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}}
    seen = images_of(RecordsInfo("own:Net", 8, (), settings, {}), data)
    assert (seen.mean.tolist(), seen.std.tolist()) == (
        np.float32([0.5, 0.4, 0.3]).tolist(),
        np.float32([0.1, 0.2, 0.3]).tolist(),
    )
    plain = images_of(RecordsInfo("alexnet", 64, (), {}, {}), data)
    assert plain.mean is data.mean and plain.std is data.std
    assert data.normalised_by([0, 0, 0], None).std is data.std


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--mean", "0.5,0.5", "mean: [0.5, 0.5] must be three numbers"),
        ("--std", "0.5,0,1", "std: [0.5, 0.0, 1.0] must be above 0"),
        ("--std", "nan,1,1", "must be three numbers"),
        ("--mean", "half", "--mean: 'half' is no list of numbers"),
    ],
)
def test_a_normalisation_that_is_none_is_refused(
    option: str, value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "tests.training.own_networks:Small", "--data", "digits", "--candidates", "1"]
    assert main(["collect", *arguments, "--out", str(tmp_path / "out"), "--executor", "local", option, value]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("resnet18", {}, "data: images of 8 px are scaled to 224 px; give --input-px for another size of the input\n"),
        ("resnet18", {"quiet": True}, ""),
        ("resnet18", {"input_px": 32}, ""),
        ("alexnet", {}, ""),  # at 64 px, as its records that ship
        (Small, {}, ""),  # at the images' own
    ],
)
def test_images_made_large_for_want_of_a_size_are_said(
    model: Any, options: dict[str, Any], said: str, data: DataSplits, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = tmp_path / "none.pt"
    with LocalExecutor() as executor, pytest.raises(InputError, match="does not exist"):  # before anything is trained
        collect(model, data, tmp_path / "out", 1, executor=executor, weights=none, **options)
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("digits", "nowhere/x.pt"), "train.py: OUT: nowhere is no folder; make it first"),
        (("digits", "x.pt", "10"), "train.py: IMAGES: 10 are less than a batch; 64 or more are needed"),
        (("digits",), "train.py: error: the following arguments are required: OUT"),
    ],
)
def test_the_example_of_resnet18_says_what_is_wrong_in_one_line(
    words: tuple[str, ...], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "examples" / "resnet18" / "train.py"
    monkeypatch.setattr(sys, "argv", [str(script), *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == told
