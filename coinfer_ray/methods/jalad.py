"""JALAD (H. Li et al., "JALAD: Joint Accuracy- and Latency-Aware Deep Structure Decoupling for Edge-Cloud
Execution", ICPADS 2018): the network as it is, cut where it pays, the feature quantised to c bits a value and
Huffman-coded; no pruning, no trained codec.

For every cut and every c both the accuracy and the mean coded bits are measured on the trained network (a table that
ships beside the records, written by ``studies/measure_quantized.py``), so its row needs no predictor: it takes the
pair of least latency among those that lose no more than allowed. A feature is sent plainly packed where that is
smaller than its Huffman code. As elsewhere the two endpoints belong to the choice unless ``cuts="inner"``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coinfer_ray.errors import InputError
from coinfer_ray.methods.partition import cheapest, partition_costs
from coinfer_ray.optimizer.answers import Answers
from coinfer_ray.optimizer.problem import Problem
from coinfer_ray.records.store import shipped_records
from coinfer_ray.runtime.files import write_whole
from coinfer_ray.runtime.outputs import check_replaceable
from coinfer_ray.scenarios.batch import ScenarioBatch

QUANTIZED_FORMAT = 1
_METADATA_KEY = b"coinfer_ray.quantized"
_COLUMNS = ("partition_point", "bits", "validation_accuracy", "test_accuracy", "plain_bit", "coded_bit")


@dataclass(frozen=True)
class QuantizedTable:
    """K measured pairs of a cut and a width. Columns are arrays (K,): ``partition_point`` and ``bits`` int64, the
    others float64 as :class:`coinfer_ray.training.quantized.QuantizedCut` says.

    ``info``: ``model``, ``input_px``, the base network's accuracies and fingerprint, data and image counts.
    """

    columns: Mapping[str, np.ndarray]
    info: Mapping[str, Any]

    @property
    def uplink_bit(self) -> np.ndarray:
        """(K,) mean bits of an image on the link: coded, or packed where that is less."""
        sent: np.ndarray = np.minimum(self.columns["plain_bit"], self.columns["coded_bit"])
        return sent


class Jalad:
    """See :class:`coinfer_ray.methods.registry.Method`. ``extra["bits"]`` are those of a value, 0 at an endpoint,
    where nothing is quantised."""

    name = "jalad"
    title = "JALAD"
    predicts = False
    plain = False

    def solve(self, problem: Problem, batch: ScenarioBatch, *, seed: int = 0) -> Answers:
        """The cheapest cut and width that keep to the allowed loss, by the table beside the shipped records.

        Raises:
            InputError: no table ships for the network and input size.
        """
        graph = problem.graph
        return choose_quantized(problem, batch, read_quantized(quantized_path(graph.model, graph.input_px)))


def choose_quantized(problem: Problem, batch: ScenarioBatch, table: QuantizedTable) -> Answers:
    """:meth:`Jalad.solve` by a table of one's own.

    Raises:
        InputError: the table is of another network or input size.
    """
    graph, delay = problem.graph, problem.delay
    if (table.info["model"], table.info["input_px"]) != (graph.model, graph.input_px):
        raise InputError(
            f"jalad: the table is of {table.info['model']} at {table.info['input_px']} px, the scenario of "
            f"{graph.model} at {graph.input_px} px; measure one with studies/measure_quantized.py"
        )
    base = float(table.info[f"base_{problem.accuracy}_accuracy"])
    everywhere = partition_costs(delay)
    points, bits = table.columns["partition_point"], table.columns["bits"]
    costs = everywhere[points]
    costs[:, 2] = table.uplink_bit
    reached = table.columns[f"{problem.accuracy}_accuracy"]
    if problem.space.cuts == "all":
        ends = np.array([0, len(graph.layers)])
        points, bits = np.concatenate([ends, points]), np.concatenate([[0, 0], bits])
        costs, reached = np.vstack([everywhere[ends], costs]), np.concatenate([[base, base], reached])
    allowed = reached[None] >= base - batch.max_loss[:, None] - 1e-12
    chosen, objective = cheapest(costs, batch.weights, allowed)
    return Answers.unproven(
        objective,
        costs[chosen],
        points[chosen],
        reached[chosen],
        known=np.ones(len(batch), dtype=np.bool_),
        choices=len(points),
        extra={"bits": bits[chosen]},
    )


def quantized_path(model: str, input_px: int | None = None) -> Path:
    """Where the table of a network's shipped records lies, or belongs."""
    return shipped_records(model, input_px).with_suffix(".quantized.parquet")


def write_quantized(path: str | Path, rows: Sequence[Mapping[str, Any]], info: Mapping[str, Any]) -> None:
    """Write measured pairs (the columns of :class:`QuantizedTable`) as one whole file.

    Raises:
        InputError: ``path`` is there and no such table.
    """
    check_replaceable(path, "quantized")
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = sorted(rows, key=lambda row: (row["partition_point"], row["bits"]))
    metadata = {_METADATA_KEY: json.dumps({"format": QUANTIZED_FORMAT, **info}, sort_keys=True)}
    table = pa.table({name: [row[name] for row in ordered] for name in _COLUMNS}).replace_schema_metadata(metadata)
    write_whole(path, lambda temporary: pq.write_table(table, temporary))


def read_quantized(path: str | Path) -> QuantizedTable:
    """Read what :func:`write_quantized` wrote.

    Raises:
        InputError: no such file, or one that is no table of this format.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        info = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        columns = {name: table[name].to_numpy() for name in _COLUMNS}
        if info.pop("format") != QUANTIZED_FORMAT:
            raise ValueError(f"not of format {QUANTIZED_FORMAT}")
    except FileNotFoundError:
        raise InputError(f"jalad: {path} does not exist; measure one with studies/measure_quantized.py") from None
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"jalad: {path} is no table of quantised cuts ({reason}); measure it again") from None
    return QuantizedTable(columns, info)
