"""Images of any kind that Pillow reads, to bytes: found in class folders, turned upright, scaled, cropped."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from coinfer_ray.errors import InputError

Encoded = bytes | Path
SHOWN = 5  # kinds of files in a notice


def decode_images(encoded: Sequence[Encoded], image_px: int | None) -> np.ndarray:
    """Decode to (n, height, width, 3) uint8; ``image_px`` resizes the short side and crops the centre.

    Grey levels of 16 bits are scaled to 8, EXIF's orientation is applied, transparency is dropped; of several frames
    the first is taken.

    Raises:
        InputError: one that cannot be decoded, by its file's name or its row, or, without ``image_px``, one of another
            size than the first.
    """

    def one(item: tuple[int, Encoded]) -> np.ndarray:
        row, source = item
        where = f"row {row} of the Parquet file" if isinstance(source, bytes) else str(source)
        try:
            return _decoded(source, image_px)
        except Exception as error:  # Pillow's readers raise whatever a broken file makes them run into
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"data: {where} cannot be decoded ({reason}); remove or repair it") from None

    with ThreadPoolExecutor() as pool:
        images = list(pool.map(one, enumerate(encoded)))
    for row, image in enumerate(images):
        if image.shape != images[0].shape:
            size, first = (f"{each.shape[1]} x {each.shape[0]}" for each in (image, images[0]))
            raise InputError(f"data: row {row} of the Parquet file is of {size} pixels, the first of {first}; one size")
    return np.stack(images)


def _decoded(source: Encoded, image_px: int | None) -> np.ndarray:
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
        rgb = _as_rgb(ImageOps.exif_transpose(opened))
    if image_px is not None and rgb.size != (image_px, image_px):
        scale = image_px / min(rgb.size)
        width, height = (max(image_px, round(side * scale)) for side in rgb.size)
        if width * height > (Image.MAX_IMAGE_PIXELS or np.inf):
            raise ValueError(f"{rgb.size[0]} x {rgb.size[1]} pixels are too long and thin")
        left, top = (width - image_px) // 2, (height - image_px) // 2
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
        rgb = rgb.crop((left, top, left + image_px, top + image_px))
    return np.asarray(rgb)


def _as_rgb(image: Any) -> Any:
    """An image of any mode with 8 bits for red, green and blue; Pillow's own conversion clips deeper ones."""
    from PIL import Image, ImageCms

    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:  # files of 16 bits come as such a mode too
            raise ValueError("32-bit numbers of an unknown range; 8 or 16 bits are read")
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        numbers = np.asarray(image)
        if not (numbers >= 0).all() or numbers.max() > 255:
            raise ValueError("real numbers outside 0 .. 1 and 0 .. 255")
        return Image.fromarray(np.rint(numbers * (255 if numbers.max() <= 1 else 1)).astype(np.uint8)).convert("RGB")
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without a warning
    return image.convert("RGB")


def find_images(folder: Path) -> list[Path]:
    """All images below a folder, sorted; hidden files and folders are passed over, what is no image is said."""
    found: list[Path] = []
    others: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts) or not path.is_file():
            continue
        (found if path.suffix.lower() in _suffixes() or _is_image(path) else others).append(path)
    if others:
        kinds = Counter(path.suffix or path.name for path in others)
        shown = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common(SHOWN))
        more = ", and others" if len(kinds) > SHOWN else ""
        left_out = "1 file is no image that Pillow reads, and is left out"
        if len(others) > 1:
            left_out = f"{len(others):,} files are no images that Pillow reads, and are left out"
        notice(f"{folder}: {left_out} ({shown}{more})")
    return found


def notice(text: str) -> None:
    """Say on stderr what is not read."""
    print(f"data: {text}", file=sys.stderr, flush=True)


@cache
def _suffixes() -> frozenset[str]:
    """Names of pictures, which must therefore be some; Pillow's list also has those of documents and films."""
    from PIL import Image

    known = Image.registered_extensions()
    pictures = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP", "AVIF", "ICO", "PCX")
    return frozenset(suffix for suffix, kind in known.items() if kind in pictures)


def _is_image(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path):
            return True
    except Image.DecompressionBombError:
        return True  # its reader says so
    except (OSError, ValueError, SyntaxError):
        return False
