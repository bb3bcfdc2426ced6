"""What was trained meanwhile: counted beside the records behind a problem, and joined to the files that ship."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc

from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.predictor.fit import measured_of
from coinfer_ray.problem.strategy import FLOAT_BITS
from coinfer_ray.records.store import SHARD_PATTERN, few_bits_beside, pack, read_records, shipped_records
from coinfer_ray.runtime.sealed import read_sealed, write_sealed


def with_trainings(problem: Problem, sources: Sequence[Path]) -> Problem:
    """The problem with what all records of ``sources`` say of the strategies that were trained; a folder of none yet
    says nothing."""
    there = [path for path in sources if not path.is_dir() or any(path.glob(SHARD_PATTERN))]
    measured = measured_of(read_records(there), problem.accuracy, problem.base_accuracy)
    return replace(problem, fitted=replace(problem.predictor, measured=measured))


def join_shipped(model: str, sources: Sequence[Path]) -> None:
    """Put the records of ``sources`` into the files that ship: of floats, and of quantised features beside them; those
    that failed, too."""
    files = [
        file for source in sources for file in (sorted(source.glob(SHARD_PATTERN)) if source.is_dir() else [source])
    ]
    floats = shipped_records(model)
    with tempfile.TemporaryDirectory() as place:
        parts: dict[Path, list[Path]] = {floats: [], few_bits_beside(floats): []}
        for number, file in enumerate(files):
            table = read_sealed(file)
            quantised = pc.less(pc.fill_null(table["feature_bits"], FLOAT_BITS), FLOAT_BITS)
            for path, own in zip(parts, (pc.invert(quantised), quantised), strict=True):
                rows = table.filter(own)
                if len(rows):
                    parts[path].append(Path(place) / f"{number}-{path.name}")
                    write_sealed(parts[path][-1], rows)
        for path, own in parts.items():
            there = [path] if path.exists() else []
            if there or own:
                print(f"{len(pack([*there, *own], path))} records in {path}")
