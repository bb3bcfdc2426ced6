"""Images as users have them: of every depth and mode, turned by EXIF, in folders named in any usual way."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from coinfer_ray.errors import InputError
from coinfer_ray.training.data import load_data
from coinfer_ray.training.images import decode_images


def fill(folder: Path, count: int = 10, value: int = 100, suffix: str = ".png") -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(folder / f"{number}{suffix}")
    return folder


def decoded(image: Image.Image, kind: str, **options: object) -> np.ndarray:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return decode_images([file.getvalue()], None)[0]


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    ramp = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    for kind in ("PNG", "TIFF", "PPM"):
        found = decoded(Image.fromarray(ramp), kind)
        assert found.shape == (256, 256, 3) and (found == found[..., :1]).all()
        assert found[..., 0].mean() == pytest.approx(127.5)
        assert np.abs(found[..., 0] - ramp / 257).max() <= 0.5


def test_every_mode_has_its_colours() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    image = Image.fromarray(rgb)
    assert np.array_equal(decoded(image, "TIFF"), rgb)
    for mode in ("1", "L", "LA", "P", "RGBA"):
        converted = image.convert(mode)
        assert np.array_equal(decoded(converted, "PNG"), np.asarray(converted.convert("RGB"))), mode
    palette = image.convert("P")
    transparent = decoded(palette, "PNG", transparency=bytes(range(256)))
    assert np.array_equal(transparent, np.asarray(palette.convert("RGB")))
    assert np.array_equal(decoded(image.convert("CMYK"), "TIFF"), rgb)
    grey = rgb[..., 0]
    for numbers in (grey.astype(np.float32), (grey / 255).astype(np.float32)):
        assert np.array_equal(decoded(Image.fromarray(numbers), "TIFF")[..., 0], grey)
    lab = decoded(Image.merge("LAB", [Image.new("L", (4, 4), value) for value in (255, 128, 128)]), "TIFF")
    assert lab.min() >= 253  # white
    for numbers in (np.array([[-1, 5]], np.int32), np.array([[0, 70_000]], np.int32)):
        with pytest.raises(InputError, match=r"row 0 of the Parquet file cannot be decoded .*32-bit"):
            decoded(Image.fromarray(numbers), "TIFF")
    with pytest.raises(InputError, match="real numbers outside"):
        decoded(Image.fromarray(np.array([[np.nan, 0]], np.float32)), "TIFF")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_an_image(orientation: int) -> None:
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # the corner at the top left
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decoded(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif)
    assert np.array_equal(found, upright)


def test_all_files_that_pillow_reads_are_found_and_others_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place, suffix in enumerate((".tif", ".jfif", ".TIFF", ".gif", ".ppm", ".jp2", ".webp", ".png")):
        folder = tmp_path / "ab"[place % 2]
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 10, np.uint8)).save(folder / f"{place}{suffix}")
    (tmp_path / "a" / "without a suffix").write_bytes((tmp_path / "b" / "7.png").read_bytes())
    (tmp_path / "a" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "a" / ".cache").mkdir()
    (tmp_path / "a" / ".cache" / "thumb.png").write_bytes(b"no image")
    (tmp_path / "a" / "notes.txt").write_text("notes")
    (tmp_path / "readme.md").write_text("notes")
    (tmp_path / ".git").mkdir()
    data = load_data(tmp_path, image_px=8)
    assert data.classes == ("a", "b")
    assert len(data.train) + len(data.validation) + len(data.test) == 9
    said = capsys.readouterr().err
    assert f"data: {tmp_path / 'a'}: 1 file is no image that Pillow reads, and is left out (1 x .txt)" in said
    assert "1 file outside of the class folders is left out (readme.md first)" in said
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none holds no images; remove the folder"):
        load_data(tmp_path)


@pytest.mark.parametrize(
    ("train", "test"), [("train", "valid"), ("Training", "VAL"), ("train", "Test"), ("train", "dev")]
)
def test_splits_of_any_usual_name(tmp_path: Path, train: str, test: str) -> None:
    for name in "ab":
        fill(tmp_path / train / name, 20, 50)
        fill(tmp_path / test / name, 5, 200)
    data = load_data(tmp_path, image_px=8)
    assert data.classes == ("a", "b")
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 10)
    assert (data.test.images == 200).all() and (data.train.images == 50).all()


def test_three_splits_and_what_contradicts_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place, split in enumerate(("train", "valid", "test")):
        for name in "ab":
            fill(tmp_path / split / name, 4 + place, 50 * place)
    (tmp_path / "extra").mkdir()
    data = load_data(tmp_path, image_px=8)
    assert (len(data.train), len(data.validation), len(data.test)) == (8, 10, 12)
    assert (data.validation.images == 50).all()
    assert "extra beside train is left out" in capsys.readouterr().err
    fill(tmp_path / "test" / "c")
    with pytest.raises(InputError, match="test holds c, a class that the training images lack"):
        load_data(tmp_path)
    (tmp_path / "val").mkdir()
    with pytest.raises(InputError, match="holds val and valid, which both say validation"):
        load_data(tmp_path)
    (tmp_path / "train").rename(tmp_path / "first")
    (tmp_path / "val").rmdir()
    with pytest.raises(InputError, match="holds valid but no train"):
        load_data(tmp_path)


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large; its pixels are not there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def broken_files() -> dict[str, bytes]:
    plain, text = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64)).save(plain, "JPEG")
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "x" * 3_000_000, zip=True)
    Image.new("RGB", (8, 8)).save(text, "PNG", pnginfo=info)
    return {
        "text.png": text.getvalue(),
        "huge.png": png_of(14_000, 14_000),
        "short.jpg": plain.getvalue()[:-300],
        "empty.png": b"",
        "thin.png": _encoded(np.zeros((1, 200_000), np.uint8)),
        "page.tif": b"II*\0\x08\0\0\0\x01\0\0\1\3\0\1\0\0\0\xff",
    }


def _encoded(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", broken_files())
def test_a_file_that_cannot_be_decoded_is_named(tmp_path: Path, name: str) -> None:
    for folder in "ab":
        fill(tmp_path / folder)
    path = tmp_path / "a" / name
    path.write_bytes(broken_files()[name])
    with pytest.raises(InputError) as error:
        load_data(tmp_path)
    assert str(error.value).startswith(f"data: {path} cannot be decoded (")
    assert "\n" not in str(error.value)


def test_rows_of_a_table_that_are_no_images_of_one_size(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    small, large = (_encoded(np.zeros((side, 8, 3), np.uint8)) for side in (8, 9))

    def refused(images: list[object], labels: object, message: str) -> None:
        for name in ("train", "test"):
            pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / f"{name}.parquet")
        with pytest.raises(InputError, match=message):
            load_data(tmp_path)

    refused([small, large], [0, 1], "row 1 of the Parquet file is of 8 x 9 pixels, the first of 8 x 8")
    refused([{"bytes": small}, {"bytes": None}], [0, 1], "row 1 has no image's bytes")
    refused([small, small], ["a", "b"], "label is not a column of whole numbers")
    refused([small, small], [0, None], "label is not a column of whole numbers")
