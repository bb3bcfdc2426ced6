"""Files that commands write where they are told to: nothing of another kind is written over.

A file that is there already may be the user's thesis. It is replaced only where it is of the kind that the command
writes (run again, it brings its own file up to date) or empty. Whether it is, its bytes say: this reads a few of
them, and needs none of the libraries that could read the whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.address import refuse_address

PAGE_MARK = '<meta name="generator" content="coinfer">'
PICTURE_MARK = "coinfer atlas"  # what its metadata names as the creator
FIGURE_MARK = "coinfer figure"  # the same of a figure of a page
FIGURE_HEAD = "panel,series,"  # how the numbers of a figure of a page begin (CSV)
FRONT_HEAD = "latency_s,energy_j,loss,"  # how a front begins (CSV)
ROBUST_HEAD = "chosen_as,regret,"  # the same of choices for ranges
REPLAY_HEAD = "seconds,duration_s,rate_mbps,latency_s,"  # the same of a replayed trace
_HEAD = 4096  # bytes of a page in which its mark stands
# What a kind is written as, whatever its file is called, and the endings that say so. Pictures, device files and layer
# graphs are not among them: those are written as their ending says.
_WRITTEN_AS = {
    "page": ("HTML", (".html", ".htm")),
    "predictor": ("a predictor", (".npz",)),
    "records": ("Parquet", (".parquet",)),
    "atlas": ("Parquet", (".parquet", ".atlas")),
    "choices": ("Parquet", (".parquet",)),
    "front": ("CSV", (".csv",)),
    "robust": ("CSV", (".csv",)),
    "replay": ("CSV", (".csv",)),
}
_ENDINGS = {ending for _, own in _WRITTEN_AS.values() for ending in own}
_ENDINGS |= {".arrow", ".db", ".feather", ".gz", ".json", ".jsonl", ".pdf", ".pickle", ".pkl", ".png", ".svg", ".tsv"}
_ENDINGS |= {".xls", ".xlsx", ".yaml", ".yml", ".zip"}


def check_replaceable(path: str | Path, kind: str) -> None:
    """Raise InputError where writing a ``kind`` (a key of :data:`KINDS`) to ``path`` would destroy something else, or
    would give it the ending of another format, by which readers would take it for that."""
    refuse_address(path)
    path = Path(path)
    if path.is_dir():
        raise InputError(f"out: {path} is a folder; give the name of a file")
    if not path.exists():
        _check_ending(path, kind)
        return
    if not path.is_file():
        raise InputError(f"out: {path} is a device or a pipe, which would be replaced by a file; give another name")
    words, recognise = KINDS[kind]
    try:
        ours = path.stat().st_size == 0 or recognise(path)
    except OSError as error:
        raise InputError(f"out: {path} cannot be read ({error.strerror}); give another name") from None
    if not ours:
        raise InputError(f"out: {path} is there and is not {words}; move it away, or give another name")
    _check_ending(path, kind)


def _check_ending(path: Path, kind: str) -> None:
    """Raise InputError where a file would be called what it is not. A predictor is known by its ending alone; for the
    rest an ending that names no format does."""
    what, own = _WRITTEN_AS.get(kind, ("", ()))
    ending = path.suffix.lower()
    if own and ending not in own and (ending in _ENDINGS or kind == "predictor"):
        called = f"ends in {path.suffix}" if path.suffix else "has no ending"
        raise InputError(f"out: {path.name} {called}, and {what} is written; end the name in {own[0]}")


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return PAGE_MARK.encode() in file.read(_HEAD)


def _is_predictor(path: Path) -> bool:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return "feature_names" in json.loads(str(arrays["metadata"]))
    except Exception:  # a foreign file breaks NumPy, zipfile, zlib and json each in its own way
        return False


def _is_picture(path: Path) -> bool:
    return PICTURE_MARK.encode() in path.read_bytes()


def _is_figure(path: Path) -> bool:
    content = path.read_bytes()
    return FIGURE_MARK.encode() in content or content.startswith(FIGURE_HEAD.encode())


def _begins_with(head: str) -> Callable[[Path], bool]:
    """Whether a file's first bytes are ``head``."""

    def recognise(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(len(head)) == head.encode()

    return recognise


def _is_graph(path: Path) -> bool:
    try:
        document = json.loads(path.read_text())
    except ValueError:
        return False
    return isinstance(document, dict) and {"model", "input_px", "layers"} <= document.keys()


def _is_device(path: Path) -> bool:
    text = path.read_text(errors="replace")
    return "layer_seconds" in text and "held_out_error" in text


def _has_parquet_key(key: bytes) -> Callable[[Path], bool]:
    """Whether a file is Parquet with ``key`` among its metadata: in its footer, whose length and magic end the file."""

    def recognise(path: Path) -> bool:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 8))
            ending = file.read()
            footer = int.from_bytes(ending[:4], "little")
            if ending[4:] != b"PAR1" or footer > size - 8:
                return False
            file.seek(size - 8 - footer)
            return key in file.read(footer)

    return recognise


KINDS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    "page": ("a page that coinfer wrote", _is_page),
    "predictor": ("a predictor", _is_predictor),
    "records": ("a file of records", _has_parquet_key(b"coinfer_ray.records")),
    "atlas": ("an atlas", _has_parquet_key(b"coinfer_ray.atlas")),
    "choices": ("a file of compared methods' choices", _has_parquet_key(b"coinfer_ray.choices")),
    "picture": ("a picture that coinfer drew", _is_picture),
    "figure": ("a figure that coinfer drew", _is_figure),
    "front": ("a front that coinfer wrote", _begins_with(FRONT_HEAD)),
    "robust": ("choices for ranges that coinfer wrote", _begins_with(ROBUST_HEAD)),
    "replay": ("a replay that coinfer wrote", _begins_with(REPLAY_HEAD)),
    "device": ("a device file that `coinfer profile` wrote", _is_device),
    "graph": ("a layer graph", _is_graph),
}
