"""Labelled images, decoded once to bytes.

``digits`` is embedded: scikit-learn's 1,797 images of handwritten digits, which trains right after installation with
nothing to download. Three other sources are told apart by what the path holds: a folder with ``train.parquet`` and
``test.parquet`` in the layout of Hugging Face's ``cifar10``; torchvision's own CIFAR-10 (``cifar10:DIR`` downloads it
into DIR first); any folder of class folders. Images stay ``uint8`` in memory (60,000 CIFAR-10 images are 184 MB), are
scaled to the network's input size a batch at a time on the training device, and are shared between Ray actors without
copies.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coinfer_ray.errors import InputError

VALIDATION_IMAGES = 5_000
DIGITS = "digits"
DIGITS_HELD = 25  # images of each class for validation, and as many for the test
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


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


def load_data(source: str | Path, *, image_px: int = 32) -> DataSplits:
    """Load the images at ``source``: a folder, ``cifar10:DIR`` or, where no folder has that name, ``digits``.

    ``image_px`` is the side to which the images of class folders are resized (the two CIFAR-10 forms keep
    their 32 pixels). 5,000 training images, or a tenth where there are fewer than 50,000, are held back as the
    validation split, the same ones every time; ``digits`` has a split of its own.

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


def decode_images(encoded: Sequence[bytes | Path], image_px: int | None) -> np.ndarray:
    """Decode to (n, height, width, 3) uint8; ``image_px`` resizes the short side and crops the centre."""
    from PIL import Image

    def one(item: bytes | Path) -> np.ndarray:
        try:
            with Image.open(io.BytesIO(item) if isinstance(item, bytes) else item) as image:
                rgb = image.convert("RGB")
        except (OSError, SyntaxError) as error:
            where = "an image of the Parquet file" if isinstance(item, bytes) else str(item)
            raise InputError(f"data: {where} cannot be decoded ({error}); remove or repair it") from None
        if image_px is not None and rgb.size != (image_px, image_px):
            scale = image_px / min(rgb.size)
            width, height = (max(image_px, round(side * scale)) for side in rgb.size)
            left, top = (width - image_px) // 2, (height - image_px) // 2
            rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
            rgb = rgb.crop((left, top, left + image_px, top + image_px))
        return np.asarray(rgb)

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(one, encoded)))


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
        encoded = [row["bytes"] for row in table[column].to_pylist()]
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
    train_root = root / "train" if (root / "train").is_dir() else root
    test_root = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    classes = tuple(sorted(path.name for path in train_root.iterdir() if path.is_dir()))
    train = _class_folders(train_root, classes, image_px)
    if test_root is None:
        order = np.random.default_rng(0).permutation(len(train))
        held = max(1, len(train) // 5)
        train, test = train.take(order[held:]), train.take(order[:held])
    else:
        test = _class_folders(test_root, classes, image_px)
    return _split(root.resolve().name, classes, train, test)


def _class_folders(root: Path, classes: tuple[str, ...], image_px: int) -> ImageSet:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (root / name).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        paths += found
        labels += [label] * len(found)
    if len(set(labels)) < 2:
        raise InputError(
            f"data: {root} holds no images of two classes; expected train.parquet and test.parquet, "
            "cifar-10-batches-py, or one folder of .jpg or .png files per class"
        )
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
