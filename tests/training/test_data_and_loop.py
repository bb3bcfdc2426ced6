"""Images from every source, and a training loop that resumes where it stopped."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from coinfer_ray.errors import InputError
from coinfer_ray.models.library import load_graph
from coinfer_ray.training import trainer as loop
from coinfer_ray.training.data import DataSplits, ImageSet, load_data
from coinfer_ray.training.memory import pick_precision
from coinfer_ray.training.recipes import for_images, recipe_for
from coinfer_ray.training.trainer import Diverged, Phase, Preprocess, ResidentImages, accuracy, train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(few_images: Path) -> DataSplits:
    return load_data(few_images)


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


@pytest.fixture(scope="module")
def cifar(few_of_cifar10: Path) -> DataSplits:
    return load_data(few_of_cifar10)


def side(data: DataSplits) -> int:
    """The images' own size: to be left as it is."""
    return data.train.images.shape[1]


def test_digits_are_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image of scikit-learn's once, in a fixed split that holds each class alike."""
    from sklearn.datasets import load_digits

    data = load_data("digits")
    parts = (data.train, data.validation, data.test)
    assert [len(part) for part in parts] == [1297, 250, 250]
    assert data.train.images.dtype == np.uint8 and data.train.images.shape[1:] == (8, 8, 3)
    assert data.train.labels.dtype == np.int64 and data.classes == tuple("0123456789")
    for part in parts[1:]:
        assert np.bincount(part.labels).tolist() == [25] * 10
    found = load_digits()
    images = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    ours = {(image[..., 0].tobytes(), label) for image, label in zip(images, labels, strict=True)}
    grey = np.rint(found.images * 255 / 16).astype(np.uint8)
    assert ours == {(image.tobytes(), label) for image, label in zip(grey, found.target, strict=True)}
    assert images.max() == 255 and (images == images[..., :1]).all()
    assert data.fingerprint == load_data("digits").fingerprint == "40ba6a28c033d024"

    monkeypatch.chdir(tmp_path)  # a folder of that name is what it says
    (tmp_path / "digits").mkdir()
    with pytest.raises(InputError, match="data: digits holds no images of two classes"):
        load_data("digits")


def test_few_images_are_not_repeated_as_often_as_many() -> None:
    whole = recipe_for(load_graph("resnet18", 32)).base
    assert for_images(whole, 45_000) == whole
    few = for_images(whole, 1_297)
    assert few == replace(whole, images=16 * 1_297, batch_size=64)
    assert for_images(replace(whole, images=100), 50) == replace(whole, images=100)


def test_parquet_images_are_split_without_overlap(cifar: DataSplits) -> None:
    data = cifar
    assert (len(data.train), len(data.validation), len(data.test)) == (900, 100, 200)
    assert data.train.images.dtype == np.uint8
    assert data.train.images.shape[1:] == (32, 32, 3)
    held = {image.tobytes() for image in data.validation.images}
    assert not held & {image.tobytes() for image in data.train.images}


def test_torchvisions_cifar10_folder_is_read(
    cifar: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official archive's layout (pickled batches), made from real images; its checksums are not ours to match."""
    data = cifar
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = data.train.images.transpose(0, 3, 1, 2).reshape(len(data.train), -1)
    for number in range(5):
        rows = slice(number * 100, (number + 1) * 100)
        batch = {"data": pixels[rows], "labels": data.train.labels[rows].tolist()}
        (folder / f"data_batch_{number + 1}").write_bytes(pickle.dumps(batch))
    (folder / "test_batch").write_bytes(
        pickle.dumps({"data": pixels[500:600], "labels": data.train.labels[500:600].tolist()})
    )
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    found = load_data(tmp_path)
    assert found.classes[3] == "cat"
    assert len(found.train) + len(found.validation) == 500
    assert np.array_equal(found.test.images, data.train.images[500:600])


def test_class_folders_are_read_resized_and_split(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("cats", 12), ("dogs", 8)):
        (tmp_path / name).mkdir()
        for number in range(count):
            picture = rng.integers(0, 256, (50, 40 + number, 3), dtype=np.uint8)
            Image.fromarray(picture).save(tmp_path / name / f"{number}.png")
    found = load_data(tmp_path, image_px=24)
    assert found.classes == ("cats", "dogs")
    assert found.train.images.shape[1:] == (24, 24, 3)
    assert len(found.train) + len(found.validation) + len(found.test) == 20


def test_folders_without_usable_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        load_data(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images of two classes"):
        load_data(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken.jpg").write_bytes(b"not an image")
    with pytest.raises(InputError, match="empty holds no images; remove the folder"):
        load_data(tmp_path)
    (tmp_path / "empty").rmdir()
    with pytest.raises(InputError, match="cannot be decoded"):
        load_data(tmp_path)


def test_truncated_parquet_is_refused(few_of_cifar10: Path, tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"{name}.parquet").write_bytes((few_of_cifar10 / f"{name}.parquet").read_bytes()[:5000])
    with pytest.raises(InputError, match="not a readable Parquet file"):
        load_data(tmp_path)


def pixels(data: DataSplits) -> torch.Tensor:
    return ResidentImages.of(data.train, CPU).images


def test_preprocessing_normalises_and_scales(data: DataSplits) -> None:
    x = Preprocess.of(data, 48)(pixels(data))
    assert x.shape == (len(data.train), 3, 48, 48)
    plain = Preprocess.of(data, side(data))(pixels(data))
    assert plain.mean((0, 2, 3)).abs().max() < 1e-4
    assert (plain.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_augmentation_only_flips_and_shifts(data: DataSplits) -> None:
    """Every augmented image must be a flipped or plain crop of its reflected original."""
    preprocess = Preprocess.of(data, side(data))
    images = pixels(data)[:20]
    plain = preprocess(images)
    moved = preprocess(images, np.random.default_rng(0))
    pad = side(data) // 8
    padded = torch.nn.functional.pad(plain, (pad, pad, pad, pad), mode="reflect")
    for original, image in zip(padded, moved, strict=True):
        crops = original.unfold(1, side(data), 1).unfold(2, side(data), 1)  # (3, 9, 9, 32, 32) of CIFAR-10
        same = [(crops == other[:, None, None]).all(dim=(0, 3, 4)).any() for other in (image, image.flip(-1))]
        assert any(same)
    assert not torch.equal(plain, moved)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_learns_and_repeats_itself(data: DataSplits, optimizer: str) -> None:
    phase = Phase(images=4_000, batch_size=50, learning_rate=0.01, optimizer=optimizer)
    preprocess = Preprocess.of(data, 32)
    networks = []
    for _ in range(2):
        network = small_network()
        train(network, data.train, preprocess, phase, seed=3, device=CPU, precision=torch.float32)
        networks.append(network)
    assert accuracy(networks[0], data.test, preprocess, device=CPU, precision=torch.float32) > 0.2
    for one, other in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_parameter_with_a_rate_of_its_own_moves_by_it(data: DataSplits) -> None:
    """The first step of Adam is the learning rate, whatever the gradient."""
    network = small_network()
    own, *others = network.parameters()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    phase = Phase(images=50, batch_size=50, learning_rate=1e-3, weight_decay=0, warmup=0, optimizer="adamw")
    train(
        network,
        data.train,
        Preprocess.of(data, 32),
        phase,
        seed=0,
        device=CPU,
        precision=torch.float32,
        rates={own: 1e-5},
    )
    moved = [(new - old).abs().max().item() for new, old in zip([own, *others], before, strict=True)]
    assert moved == pytest.approx([1e-5, *[1e-3] * len(others)], rel=0.1)  # less where a gradient is nearly 0


def test_interrupted_training_resumes_to_the_same_weights(
    data: DataSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0.0)
    phase = Phase(images=1_000, batch_size=50, learning_rate=0.01, optimizer="adamw")
    preprocess = Preprocess.of(data, 32)

    def run(network: nn.Module, checkpoint: Path | None, stop_after: int | None = None) -> None:
        seen = 0

        def count(images: int) -> None:
            nonlocal seen
            seen += images
            if stop_after is not None and seen >= stop_after:
                raise KeyboardInterrupt

        train(
            network,
            data.train,
            preprocess,
            phase,
            seed=1,
            device=CPU,
            precision=torch.float32,
            on_images=count,
            checkpoint=checkpoint,
        )

    straight = small_network()
    run(straight, None)
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        run(small_network(), checkpoint, stop_after=800)
    assert checkpoint.exists()
    resumed = small_network(seed=9)
    run(resumed, checkpoint)
    assert not checkpoint.exists()
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])


def test_as_many_images_are_counted_as_were_asked_for(data: DataSplits) -> None:
    """Batches are whole; what the last one has beyond them is not of those that were asked for."""
    seen: list[int] = []
    phase = Phase(images=120, batch_size=50, learning_rate=1e-3, optimizer="adamw")
    preprocess, network = Preprocess.of(data, 32), small_network()
    train(network, data.train, preprocess, phase, seed=0, device=CPU, precision=torch.float32, on_images=seen.append)
    assert seen == [50, 50, 20]


def test_a_loss_that_is_no_number_is_said(data: DataSplits) -> None:
    phase = Phase(images=500, batch_size=50, learning_rate=0.01)
    network = small_network()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="the loss is nan"):
        train(network, data.train, replace(Preprocess.of(data, 32)), phase, seed=0, device=CPU, precision=torch.float32)


def test_resident_images_are_the_arrays_themselves_on_a_cpu(data: DataSplits, recwarn: pytest.WarningsRecorder) -> None:
    images = data.train.images[:10]
    images.flags.writeable = False  # as Ray's object store hands them out
    resident = ResidentImages.of(ImageSet(images, data.train.labels[:10]), CPU)
    assert resident.images.data_ptr() == images.ctypes.data and len(resident) == 10
    assert ResidentImages.of(resident, CPU).images.data_ptr() == images.ctypes.data
    assert np.array_equal(resident.take(slice(2, 5)).images.numpy(), images[2:5])
    assert not recwarn.list


@pytest.mark.parametrize(("size", "scaled"), [(1e-3, False), (1e3, True)])
def test_large_gradients_alone_are_scaled(size: float, scaled: bool) -> None:
    parameters = [nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2))]
    optimizer = torch.optim.SGD(parameters, lr=1.0, fused=True)
    for _ in range(2):  # the second step starts from the same gradients: what one step scales, the next does not know
        for parameter in parameters[:2]:
            parameter.grad = torch.full_like(parameter, size)
            parameter.data.zero_()
        loop._clip(parameters, optimizer)
        optimizer.step()
        moved = float(torch.cat([parameter.detach() for parameter in parameters[:2]]).norm())
        assert moved == pytest.approx(loop.MAX_GRADIENT if scaled else size * 7**0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("has", "precision"),
    [
        ({"amx_bf16": True, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "Intel Xeon"}, torch.float32),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": "AMD EPYC 9654"}, torch.bfloat16),
        ({"avx512_bf16": False, "cpu_name": "AMD EPYC 7763"}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_half_precision_only_where_it_is_faster(
    has: dict[str, object], precision: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert pick_precision(CPU) == precision


def test_training_leaves_the_processors_denormal_numbers_as_they_were(data: DataSplits) -> None:
    seen = []

    class Watching(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(float(torch.tensor(1e-39) * 1.0))
            return super().forward(x)

    network = nn.Sequential(nn.Flatten(), Watching(3 * 32 * 32, 10))
    phase = Phase(images=50, batch_size=50, learning_rate=0.01)
    train(network, data.train, Preprocess.of(data, 32), phase, seed=0, device=CPU, precision=torch.float32)
    assert seen == [0.0]
    assert float(torch.tensor(1e-39) * 1.0) > 0


def test_a_square_is_erased_from_every_image() -> None:
    """Zeros within half the square's side of a centre that lies in the image, and nothing else touched."""
    x = torch.rand(40, 3, 12, 10) + 1
    erased = loop._erased(x, np.random.default_rng(0), 0.5)
    gone = erased == 0
    assert (
        torch.equal(erased[~gone], x[~gone]) and (gone[:, 0] == gone[:, 1]).all() and (gone[:, 0] == gone[:, 2]).all()
    )
    centres = np.random.default_rng(0)
    rows, columns = (centres.random(40) * side for side in (12, 10))
    for image in range(40):
        for row in range(12):
            for column in range(10):
                inside = abs(row + 0.5 - rows[image]) <= 3 and abs(column + 0.5 - columns[image]) <= 2.5
                assert bool(gone[image, 0, row, column]) == inside


def test_erasing_belongs_to_the_phase(data: DataSplits) -> None:
    preprocess = Preprocess.of(data, side(data))
    images = torch.from_numpy(data.train.images[:64])
    plain, erased = (preprocess(images, np.random.default_rng(1), share) for share in (0.0, 0.5))
    same = (plain == erased).float().mean()
    assert 0.7 < float(same) < 0.95 and (erased[plain != erased] == 0).all()
    assert torch.equal(preprocess(images, None, 0.5), preprocess(images))  # only what is augmented
