"""The predictor for a network without waiting for it: given, shipped, kept from an earlier fit, or fitted now.

A fit takes tens of seconds (the regressor on all records, and once more for each fold to know its errors). So the
predictors of the shipped records ship beside them, one file for every machine (a fit's last digits differ between
processors), and those of a user's records are kept in the user's cache folder under a fingerprint of all that they
depend on.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import sys
from importlib import resources
from pathlib import Path

import numpy as np

from coinfer_ray.errors import InputError, counted
from coinfer_ray.models.library import check_known, check_same_network
from coinfer_ray.models.source import ModelLike, resolve_model
from coinfer_ray.predictor.fit import (
    DEFAULT_REGRESSOR,
    FOLDS,
    RecordsSource,
    check_enough,
    fit_predictor,
    floats_of,
    opened,
    record_features,
    records_hash,
)
from coinfer_ray.predictor.predictor import PREDICTOR_FORMAT, Predictor
from coinfer_ray.records.store import Records, Split, shipped_file, shipped_records, with_few_bits
from coinfer_ray.runtime.address import as_address
from coinfer_ray.runtime.cache import cache_folder
from coinfer_ray.runtime.places import local_copy

# The code that decides what a fit gives.
_SOURCES = ("coinfer_ray.predictor", "coinfer_ray.problem", "coinfer_ray.records")


def obtain_predictor(
    source: Predictor | RecordsSource | None,
    *,
    model: ModelLike,
    input_px: int | None = None,
    regressor: str = DEFAULT_REGRESSOR,
    accuracy: Split = "validation",
) -> Predictor:
    """The predictor for a network, which ``model`` names (:func:`coinfer_ray.models.source.resolve_model`).

    ``source`` is a predictor, the npz file of one, records, or paths or addresses of them; None takes the shipped
    records of that input size (by default the largest that ships). ``regressor`` is for records; a predictor has its
    own.

    Raises:
        InputError: an unknown model, or a source of another network, another input size or the other accuracy.
    """
    named = resolve_model(model)
    if isinstance(source, str | Path) and as_address(source) is not None:
        source = local_copy(source, "records")
    if source is None:
        check_known(named)
        source = shipped_records(named.name, input_px)
    if isinstance(source, str | Path) and regressor == DEFAULT_REGRESSOR:
        source = shipped_predictor(source, accuracy) or source
    if isinstance(source, Predictor):
        predictor = source
    elif isinstance(source, str | Path) and Path(source).suffix == ".npz":
        predictor = Predictor.load(source)
    else:
        records = opened(with_few_bits(Path(source)) if isinstance(source, str | Path) else source)
        check_same_network(named, records.graph, f"records: {records.source} are")
        _check_input_px(records.source, records.input_px, input_px)
        if records is not source:  # a loop that learns as it goes, and hands in what it has, may begin with fewer
            check_enough(records)
        predictor = kept_fit(records, regressor=regressor, accuracy=accuracy)
    check_same_network(named, predictor.layer_graph, "predictor: is one")
    _check_input_px("the predictor", predictor.input_px, input_px)
    if predictor.accuracy != accuracy:
        raise InputError(
            f"predictor: was fitted to {predictor.accuracy} accuracy, not to {accuracy}; "
            f"give --accuracy {predictor.accuracy}, or records"
        )
    return predictor


def shipped_predictor(records: str | Path, accuracy: Split = "validation") -> Path | None:
    """The predictor that ships beside shipped records, by their path or bare name; None for any other file."""
    ships = shipped_file(records)
    path = None if ships is None else ships.with_suffix(f".{accuracy}.npz")
    return path if path is not None and path.is_file() else None


def kept_fit(
    records: Records, *, regressor: str = DEFAULT_REGRESSOR, accuracy: Split = "validation", folds: int = FOLDS
) -> Predictor:
    """:func:`coinfer_ray.predictor.fit.fit_predictor`, kept in the user's cache folder for the next time.

    Kept by the records, the arguments, the versions and the source code that a fit depends on. Says on stderr when it
    has to fit. Where the cache cannot be read or written it fits, as without one.

    Raises:
        InputError: as :func:`coinfer_ray.predictor.fit.fit_predictor`.
    """
    folder = cache_folder("predictors")
    path = None if folder is None else folder / f"{_fingerprint(records, regressor, accuracy, folds)}.npz"
    if path is not None and path.is_file():
        try:
            return Predictor.load(path)
        except InputError:  # cut off or damaged: fitted again and replaced
            with contextlib.suppress(OSError):
                path.unlink()
    count = len(floats_of(records))
    print(f"predictor: fitting {regressor} to {counted(count, 'record')}, once for these records", file=sys.stderr)
    predictor = fit_predictor(records, regressor=regressor, accuracy=accuracy, folds=folds)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            predictor.save(path)
        except OSError as error:
            print(f"predictor: not kept ({path}: {error.strerror}); the next start fits again", file=sys.stderr)
    return predictor


def _fingerprint(records: Records, regressor: str, accuracy: Split, folds: int) -> str:
    """Of all that a fit depends on: records, arguments, libraries, the processor and our own code."""
    x, names = record_features(records)
    document = {
        "format": PREDICTOR_FORMAT,
        "records": records_hash(
            np.column_stack([x, records.feature_bits, records.costs()[:, 2], records.losses(accuracy)[1]]),
            records.accuracy(accuracy),
        ),
        "base_accuracy": records.base_accuracy(accuracy),
        "settings": records.info.settings_hash,
        "features": names,
        "arguments": [regressor, accuracy, folds],
        "versions": [importlib.metadata.version(name) for name in ("numpy", "scipy", "scikit-learn", "coinfer-ray")],
        "machine": [platform.python_version(), platform.machine()],
        "code": _code_hash(),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:24]


def _code_hash() -> str:
    digest = hashlib.sha256()
    for package in _SOURCES:
        for path in sorted(Path(str(resources.files(package))).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _check_input_px(what: str, have: int, wanted: int | None) -> None:
    if wanted is not None and have != wanted:
        raise InputError(
            f"records: {what} holds inputs of {have} px, not of {wanted}; give --input-px {have} or other records"
        )
