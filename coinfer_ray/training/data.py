"""Labelled images, decoded once to bytes.

``digits`` is embedded: scikit-learn's 1,797 images of handwritten digits, which trains right after installation with
nothing to download. Three other sources are told apart by what the path holds: a folder with ``train.parquet`` and
``test.parquet`` in the layout of Hugging Face's ``cifar10``; torchvision's own CIFAR-10 (``cifar10:DIR`` downloads it
into DIR first); any folder of class folders, or of ``train``, ``val`` and ``test`` that hold them, with files that
Pillow reads. Images stay ``uint8`` in memory (60,000 CIFAR-10 images are 184 MB), are
scaled to the network's input size a batch at a time on the training device, and are shared between Ray actors without
copies.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.training.images import decode_images, find_images, notice

VALIDATION_IMAGES = 5_000
DIGITS = "digits"
DIGITS_HELD = 25  # images of each class for validation, and as many for the test
SPLITS = {  # what their folders are called, in small letters
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class ImageSet:
    """``images`` (n, height, width, 3) uint8; ``labels`` (n,) int64."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray | slice) -> ImageSet:
        return ImageSet(self.images[rows], self.labels[rows])


@dataclass(frozen=True)
class DataSplits:
    """Training, validation and test images of one source.

    ``mean`` and ``std`` (3,) float32 are the training images' channel statistics in 0..1; ``fingerprint`` is a
    hash of the test images and all labels, so that records of different data are told apart.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    mean: np.ndarray
    std: np.ndarray
    fingerprint: str

    def normalised_by(self, mean: Sequence[float] | None, std: Sequence[float] | None) -> DataSplits:
        """The same images, normalised by other channel statistics in 0..1 where some are given.

        Raises:
            InputError: not three numbers, or a deviation that is not above 0.
        """
        means = self.mean if mean is None else np.array(mean, np.float32)
        deviations = self.std if std is None else np.array(std, np.float32)
        for name, values in (("mean", means), ("std", deviations)):
            if values.shape != (3,) or not np.isfinite(values).all():
                raise InputError(f"{name}: {values.tolist()} must be three numbers in 0..1, for red, green and blue")
        if std is not None and (deviations <= 0).any():
            raise InputError(f"std: {list(std)} must be above 0; the images are divided by it")
        return replace(self, mean=means, std=deviations)


def load_data(source: str | Path, *, image_px: int = 32) -> DataSplits:
    """Load the images at ``source``: a folder, ``cifar10:DIR`` or, where no folder has that name, ``digits``.

    ``image_px`` is the side to which the images of class folders are resized (the two CIFAR-10 forms keep
    their 32 pixels). 5,000 training images, or a tenth where there are fewer than 50,000, are held back as the
    validation split, the same ones every time; ``digits`` has a split of its own, and so have folders of ``train``,
    ``val`` and ``test``. Where one of the latter two is missing, the other one is the test.

    Raises:
        InputError: nothing usable at ``source``.
    """
    text = str(source)
    if text == DIGITS and not Path(text).is_dir():
        return _digits()
    download = text.startswith("cifar10:")
    root = Path(text.removeprefix("cifar10:"))
    if not download and not root.is_dir():
        raise InputError(
            f"data: {root} is not a folder; give a folder of images, cifar10:DIR to download into DIR, or digits"
        )
    if download or (root / "cifar-10-batches-py").is_dir():
        return _from_torchvision(root, download)
    if (root / "train.parquet").is_file() and (root / "test.parquet").is_file():
        return _from_parquet(root)
    return _from_folders(root, image_px)


def _digits() -> DataSplits:
    """scikit-learn's copy of the test set of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak,
    1998; CC BY 4.0): 8 x 8 pixels of 17 grey levels. 1,297 images train, 250 validate and 250 test, each class alike.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    grey = np.rint(found.images * (255 / 16)).astype(np.uint8)
    every = ImageSet(np.repeat(grey[..., None], 3, axis=3), found.target.astype(np.int64))
    rng = np.random.default_rng(0)
    classes = [rng.permutation(np.flatnonzero(every.labels == label)) for label in range(10)]
    held = [np.sort(np.concatenate([rows[part] for rows in classes])) for part in _DIGITS_PARTS]
    return _described("digits (scikit-learn)", tuple(map(str, range(10))), *(every.take(rows) for rows in held))


_DIGITS_PARTS = (
    slice(2 * DIGITS_HELD, None),
    slice(0, DIGITS_HELD),
    slice(DIGITS_HELD, 2 * DIGITS_HELD),
)


def _from_parquet(root: Path) -> DataSplits:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sets = []
    for split in ("train", "test"):
        path = root / f"{split}.parquet"
        try:
            table = pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"data: {path} is not a readable Parquet file ({reason}); copy it again") from None
        column = "img" if "img" in table.column_names else "image"
        if column not in table.column_names or "label" not in table.column_names:
            raise InputError(
                f"data: {path} has the columns {table.column_names}; an image column `img` (struct with `bytes`) "
                "and `label` are needed"
            )
        encoded: list[Any] = [row.get("bytes") if isinstance(row, dict) else row for row in table[column].to_pylist()]
        bad = next((row for row, item in enumerate(encoded) if not isinstance(item, bytes)), None)
        if bad is not None or not pa.types.is_integer(table["label"].type) or table["label"].null_count:
            what = "label is not a column of whole numbers" if bad is None else f"row {bad} has no image's bytes"
            raise InputError(f"data: {path}: {what}; an image file's `bytes` and a `label` are needed in every row")
        sets.append(ImageSet(decode_images(encoded, None), np.asarray(table["label"], dtype=np.int64)))
    train, test = sets
    classes = tuple(str(label) for label in range(int(train.labels.max()) + 1))
    return _split("CIFAR-10 (JPEG copy)" if len(classes) == 10 else root.name, classes, train, test)


def _from_torchvision(root: Path, download: bool) -> DataSplits:
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(str(root), train=train, download=download) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"data: CIFAR-10 could not be had at {root} ({reason}); download it there first") from None
    train, test = (ImageSet(part.data, np.asarray(part.targets, dtype=np.int64)) for part in parts)
    return _split("CIFAR-10", tuple(parts[0].classes), train, test)


def _from_folders(root: Path, image_px: int) -> DataSplits:
    folders = _folders(root)
    splits = {split: _one_folder(root, folders, split) for split in SPLITS}
    train_root, held_root, test_root = splits.values()
    if train_root is None:
        for path in filter(None, (held_root, test_root)):
            if _folders(path):
                raise InputError(f"data: {root} holds {path.name} but no train; name the training images' folder so")
        train_root, held_root, test_root = root, None, None
    elif others := sorted(set(folders) - {path for path in splits.values() if path}):
        notice(f"{root}: {', '.join(path.name for path in others)} beside {train_root.name} is left out")
    if test_root is None:  # a validation folder alone is what networks are tested on
        held_root, test_root = None, held_root
    classes = tuple(path.name for path in _folders(train_root))
    train = _class_folders(train_root, classes, image_px)
    if test_root is None:
        order = np.random.default_rng(0).permutation(len(train))
        held = max(1, len(train) // 5)
        train, test = train.take(order[held:]), train.take(order[:held])
    else:
        test = _class_folders(test_root, classes, image_px)
    name = root.resolve().name
    if held_root is None:
        return _split(name, classes, train, test)
    return _described(name, classes, train, _class_folders(held_root, classes, image_px), test)


def _folders(root: Path) -> list[Path]:
    """The folders in a folder, sorted, but for hidden ones."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _one_folder(root: Path, folders: list[Path], split: str) -> Path | None:
    """The folder of a split, by any of its names; None where there is none."""
    found = [path for path in folders if path.name.lower() in SPLITS[split]]
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise InputError(f"data: {root} holds {names}, which both say {split}; leave one of them")
    return found[0] if found else None


def _class_folders(root: Path, classes: tuple[str, ...], image_px: int) -> ImageSet:
    paths: list[Path] = []
    labels: list[int] = []
    there = {path.name for path in _folders(root)}
    if unknown := sorted(there - set(classes)):
        raise InputError(f"data: {root} holds {unknown[0]}, a class that the training images lack; name it as there")
    found = {name: find_images(root / name) for name in classes if name in there}
    if len([name for name in found if found[name]]) < 2:
        raise InputError(
            f"data: {root} holds no images of two classes; expected train.parquet and test.parquet, "
            "cifar-10-batches-py, or one folder of images per class"
        )
    for name, images in found.items():
        if not images:
            raise InputError(f"data: {root / name} holds no images; remove the folder, or fill it")
        paths += images
        labels += [classes.index(name)] * len(images)
    if loose := [path for path in root.iterdir() if path.is_file() and not path.name.startswith(".")]:
        left_out = "1 file outside of the class folders is left out"
        if len(loose) > 1:
            left_out = f"{len(loose):,} files outside of the class folders are left out"
        notice(f"{root}: {left_out} ({min(loose).name} first)")
    return ImageSet(decode_images(paths, image_px), np.asarray(labels, dtype=np.int64))


def _split(name: str, classes: tuple[str, ...], train: ImageSet, test: ImageSet) -> DataSplits:
    order = np.random.default_rng(0).permutation(len(train))
    held = min(VALIDATION_IMAGES, max(1, len(train) // 10))
    return _described(name, classes, train.take(order[held:]), train.take(order[:held]), test)


def _described(name: str, classes: tuple[str, ...], kept: ImageSet, validation: ImageSet, test: ImageSet) -> DataSplits:
    """The splits with their fingerprint and the training images' statistics."""
    digest = hashlib.sha256()
    for part in (kept.labels, validation.labels, test.labels, test.images):
        digest.update(np.ascontiguousarray(part).tobytes())
    # float32 means of 45,000 images would lose digits; one channel at a time keeps the temporary small.
    channels = [kept.images[..., channel] for channel in range(3)]
    return DataSplits(
        name=name,
        classes=classes,
        train=kept,
        validation=validation,
        test=test,
        mean=np.array([channel.mean(dtype=np.float64) / 255 for channel in channels], dtype=np.float32),
        std=np.array([channel.std(dtype=np.float64) / 255 for channel in channels], dtype=np.float32),
        fingerprint=digest.hexdigest()[:16],
    )
