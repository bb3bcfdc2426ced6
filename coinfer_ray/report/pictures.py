"""Pictures of single figures: which formats there are, and how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each format's endings, and the entry of its metadata that names what wrote it.
FORMATS = {".png": "Software", ".svg": "Creator", ".pdf": "Creator"}


def check_ending(path: Path) -> None:
    """Raise InputError where a picture's name has the ending of no format."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"picture: {path.name} has none of the endings {', '.join(FORMATS)}; give one of them")


def save(figure: Figure, path: Path, mark: str) -> None:
    """Write a figure to ``path`` in the format that its ending names; its metadata name ``mark`` as what made it."""
    ending = path.suffix.lower()
    made = {FORMATS[ending]: mark}
    write_whole(
        path, lambda temporary: figure.savefig(temporary, format=ending.removeprefix("."), dpi=160, metadata=made)
    )
