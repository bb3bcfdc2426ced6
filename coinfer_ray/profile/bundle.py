"""Measurements of a machine that cannot have coinfer: what it is to run as a folder, and what it measured as a device
file.

The folder (a bundle) holds ``models/``, ONNX models but for their weights, ``plan.json``, which says what each of them
is, and ``measure.py``, which is :mod:`coinfer_ray.profile.measure` word for word: the machine measures as ``coinfer
profile`` would there. What comes back says by what the bundle was planned: the same is planned again for the fit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from coinfer_ray.errors import InputError
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph, shipped_graphs, ships
from coinfer_ray.models.source import ModelLike, graph_from
from coinfer_ray.profile import measure
from coinfer_ray.profile.fit import Measurement
from coinfer_ray.profile.profile import (
    MODELS,
    Planned,
    Profile,
    check_device_file,
    fitted_profile,
    measurement_of,
    planned_of,
    write_device,
)
from coinfer_ray.profile.work import Work
from coinfer_ray.runtime.address import refuse_address
from coinfer_ray.runtime.progress import Progress
from coinfer_ray.version import __version__

SCRIPT, FOLDER = "measure.py", "models"
_OURS = {SCRIPT, FOLDER, measure.PLAN}


@dataclass(frozen=True)
class Bundle:
    """What was written: so many ``pieces`` of work, in files of so many ``bytes`` together."""

    folder: Path
    pieces: int
    bytes: int


def write_bundle(
    folder: str | Path,
    *,
    models: Sequence[str] = MODELS,
    networks: Sequence[ModelLike] = (),
    input_px: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Bundle:
    """Write what :func:`coinfer_ray.profile.profile.profile` would measure of the same networks as a ``folder``.

    It appears whole, and in the place of nothing but an earlier bundle or an empty folder.

    Raises:
        InputError: unknown names, layers that have no ONNX form, no onnx, or something else in that place.
    """
    folder = Path(folder)
    if folder.is_symlink():
        folder = folder.resolve()
    check_bundle_folder(folder)
    onnx_layers = _writer()
    planned = planned_of(models, networks, input_px, seed)
    made = {
        "version": __version__,
        "models": list(models),
        "input_px": input_px,
        "seed": seed,
        "graphs": [_reference(graph) for graph in planned.models],
        "networks": [_reference(graph) for graph, _ in planned.halves],
    }
    temporary = folder.with_name(f".coinfer-{folder.name}.{os.getpid()}.{secrets.token_hex(6)}.tmp")
    try:
        (temporary / FOLDER).mkdir(parents=True)
        pieces = []
        everything = planned.everything
        with Progress("models", len(everything), quiet=quiet) as progress:
            for number in planned.order:
                pieces.append(_piece(number, everything[number], onnx_layers, temporary))
                progress.advance()
        plan = {"format": measure.FORMAT, "bundle": _digest(made, planned), "made": made, "pieces": pieces}
        _write(temporary / measure.PLAN, (json.dumps(plan) + "\n").encode())
        _write(temporary / SCRIPT, Path(measure.__file__).read_bytes())
        size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
        _into_place(temporary, folder)
    except OSError as error:
        raise InputError(f"bundle: {folder} cannot be written ({error.strerror}); give another folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Bundle(folder, len(pieces), size)


def fit_measured(measured: str | Path, out: str | Path, *, name: str | None = None) -> Profile:
    """Fit what a bundle's ``measure.py`` wrote on its machine, and write the device file ``out`` (.yaml or .json), as
    :func:`coinfer_ray.profile.profile.profile` does of its own measurements.

    Raises:
        InputError: a file that is not whole, of another format, of other work than is planned here, or with times that
            are none; a file at ``out`` that is no device's; too few measurements for a fit.
    """
    measured, out = Path(measured), Path(out)
    check_device_file(out)
    document = _read(measured)
    made = document["made"]
    graphs = {
        key: [_graph_of(each, f"{measured}: made.{key}[{k}]") for k, each in enumerate(made[key])]
        for key in ("graphs", "networks")
    }
    planned = planned_of(graphs["graphs"], graphs["networks"], None, made["seed"])
    if _digest(made, planned) != document["bundle"]:
        raise InputError(
            f"{measured}: its work is not what coinfer {__version__} plans for it here (its bundle was written by "
            f"{made['version']}); write the bundle again and measure it, or fit where it was written"
        )
    settings = {
        **planned.settings(made["models"], made["input_px"], made["seed"], document),
        "version": made["version"],
    }
    found = fitted_profile(
        planned,
        _measurements(document["measured"], planned, measured),
        {**settings, "version": made["version"]},
        document["load_by_others"],
        name or document["node"],
        document["when"],
    )
    write_device(out, found)
    return found


def check_bundle_folder(folder: Path) -> None:
    """Raise InputError where a bundle in the place of ``folder`` would destroy something else."""
    refuse_address(folder)
    if not folder.absolute().parent.is_dir():
        raise InputError(f"bundle: {folder.parent} is no folder; create it, or write {folder.name} elsewhere")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"bundle: {folder} is a file; give the name of a folder")
    there = {path.name for path in folder.iterdir()}
    if there and not _is_plan(folder / measure.PLAN):
        raise InputError(f"bundle: {folder} is there and is no earlier bundle; give an empty or a new folder")
    if others := sorted(there - _OURS):
        raise InputError(f"bundle: {folder} holds {others[0]} beside an earlier bundle; move it away")


def _is_plan(path: Path) -> bool:
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and {"format", "bundle", "made", "pieces"} <= document.keys()


def _writer() -> ModuleType:
    try:
        from coinfer_ray.profile import onnx_layers
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "onnx":
            raise
        raise InputError("bundle: onnx is missing; pip install 'coinfer-ray[device]'") from None
    return onnx_layers


def _piece(number: int, work: Work, onnx_layers: ModuleType, folder: Path) -> dict[str, Any]:
    """Write the model of one piece of work; what the plan says of it."""
    model, file = onnx_layers.model_of(work), f"{FOLDER}/{number:06d}.onnx"
    _write(folder / file, model.content)
    return {
        "number": number,
        "name": work.name,
        "part": work.part,
        "file": file,
        "sha256": hashlib.sha256(model.content).hexdigest(),
        "input": list(work.input_shape),
        "weights": {weight: list(shape) for weight, shape in model.weights.items()},
        "terms": work.terms.tolist(),
        "flops": work.flops,
    }


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())  # the folder's name must never reach the disk before what is in it


def _into_place(temporary: Path, folder: Path) -> None:
    """Move a finished bundle to where an earlier one may lie, which has no place to go but out of the way."""
    check_bundle_folder(folder)
    if folder.exists() and any(folder.iterdir()):
        earlier = temporary.with_name(temporary.name.replace(".tmp", ".earlier.tmp"))
        folder.replace(earlier)
        temporary.replace(folder)
        shutil.rmtree(earlier)
    else:
        temporary.replace(folder)


def _reference(graph: LayerGraph) -> dict[str, Any]:
    """A layer graph: where it ships, its name is enough."""
    return {"model": graph.model, "input_px": graph.input_px} if ships(graph) else graph.to_json(derived=False)


def _graph_of(reference: Mapping[str, Any], where: str) -> LayerGraph:
    if reference.keys() == {"model", "input_px"}:
        name, pixels = str(reference["model"]), _whole(reference["input_px"], f"{where}.input_px")
        if (name, pixels) not in shipped_graphs():  # any other name might be one of code to import
            raise InputError(
                f"{where}: {name} at {pixels} px does not ship with coinfer {__version__}; fit where it was planned"
            )
        return load_graph(name, pixels)
    return graph_from(reference, where)


def _digest(made: Mapping[str, Any], planned: Planned) -> str:
    """Of what a bundle was planned by, and of the work in it."""
    work = [[each.name, each.part, each.terms.tolist(), each.flops] for each in planned.everything]
    document = json.dumps({"made": made, "work": work}, sort_keys=True)
    return hashlib.sha256(document.encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Any]:
    """What a machine measured, with keys that are what they must be."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give what measure.py wrote") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is not whole; copy what measure.py wrote again") from None
    if not isinstance(document, dict) or document.get("kind") != "measured":
        raise InputError(f"{path}: is nothing that measure.py of a bundle wrote; give its measured.json")
    if document.get("format") != measure.FORMAT:
        raise InputError(
            f"{path}: is of format {document.get('format')!r}, coinfer {__version__} reads {measure.FORMAT}; write the "
            "bundle again and measure it"
        )
    kinds = {"bundle": str, "backend": str, "machine": str, "node": str, "when": str, "made": dict, "measured": dict}
    _check_kinds(document, kinds, f"{path}: ")
    made = {"version": str, "models": list, "graphs": list, "networks": list}
    _check_kinds(document["made"], made, f"{path}: made.")
    _whole(document.get("threads"), f"{path}: threads")
    _whole(document["made"].get("seed"), f"{path}: made.seed", least=0)
    if document["made"].get("input_px") is not None:
        _whole(document["made"]["input_px"], f"{path}: made.input_px")
    if "input_px" not in document["made"]:
        raise InputError(f"{path}: made.input_px is missing; copy what measure.py wrote again")
    for key in ("graphs", "networks"):
        if not all(isinstance(each, dict) for each in document["made"][key]):
            raise InputError(f"{path}: made.{key}: must hold layer graphs; copy what measure.py wrote again")
    load = document.get("load_by_others")
    if not _is_number(load):
        raise InputError(f"{path}: load_by_others: {load!r} must be a number; copy what measure.py wrote again")
    return document


def _check_kinds(document: Mapping[str, Any], kinds: Mapping[str, type], where: str) -> None:
    for key, kind in kinds.items():
        if not isinstance(document.get(key), kind):
            raise InputError(f"{where}{key}: is missing or broken; copy what measure.py wrote again")


def _whole(value: Any, where: str, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{where}: {value!r} must be a whole number from {least} on")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf


def _measurements(rows: Mapping[str, Any], planned: Planned, path: Path) -> dict[int, Measurement]:
    """What was measured, by the number of the piece of work, in order."""
    everything, found = planned.everything, {}
    for key, row in rows.items():
        if not key.isdecimal() or int(key) >= len(everything):
            raise InputError(f"{path}: measured: {key!r} is no piece of its bundle, which has {len(everything)}")
        where = f"{path}: measured: {key} ({everything[int(key)].name})"
        if not isinstance(row, list) or len(row) != 2 or not all(map(_is_number, row)):
            raise InputError(f"{where}: {json.dumps(row)[:60]} must be seconds and their spread")
        if not row[0] > 0 or row[1] < 0:
            raise InputError(f"{where}: {row[0]:g} s and a spread of {row[1]:g}; they must be above 0, and from 0 on")
        found[int(key)] = measurement_of(everything[int(key)], row[0], row[1])
    return dict(sorted(found.items()))
