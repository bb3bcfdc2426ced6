"""Times that others measured, from a table to a device file.

A table has a row for each layer, or block of layers, of a network as it is, and how long it took. Blocks are what
Scission publishes (a network's layers between two cuts, by platform) and what nn-Meter predicts (layers that a runtime
runs as one kernel). Each block's seconds are shared out to its layers as the five coefficients fitted to all of them
(:mod:`coinfer_ray.problem.layer_times`) say, so that they come out as they were measured; how they fall with the
channels is what those coefficients say as well, for nobody measured it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coinfer_ray.errors import InputError, check_name, counted
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.source import resolve_model
from coinfer_ray.problem.layer_times import FREE, NAMES, TERMS, LayerTimes, terms_of
from coinfer_ray.profile.fit import least_relative
from coinfer_ray.profile.profile import document_text
from coinfer_ray.records.store import usual_input_px
from coinfer_ray.runtime.files import write_whole
from coinfer_ray.runtime.outputs import check_replaceable

ALSO = {"model": "network", "platform": "side", "second_prediction": "seconds"}  # what Scission calls them
UNITS = {"seconds": 1.0, "ms": 1e-3, "us": 1e-6}
RANGE = ".."
LEAST_S, MOST_S, MOST_PX = 1e-12, 1e6, 10_000  # beyond these a table is mistaken, and a fit of it has no digits left
_KNOWN = ("network", "input_px", "side", "layer", "input_layer", "output_layer", *UNITS)


@dataclass(frozen=True)
class Block:
    """Consecutive layers, ``first`` to ``last`` (numbers from 1 on), that took so many ``seconds`` together."""

    first: int
    last: int
    seconds: float

    def layers(self, graph: LayerGraph) -> range:
        """The positions of its layers in the graph."""
        return range(self.first - 1, self.last)


def import_times(
    table: str | Path, out: str | Path, *, side: str | None = None, name: str | None = None, input_px: int | None = None
) -> dict[str, Any]:
    """Read a table of times (CSV) and write the device file ``out`` (.yaml or .json); what it holds is returned.

    The columns are ``network`` (what ``--model`` takes), ``layer`` (a layer's name or number in ``coinfer models``, or
    the first and the last of a block, ``conv1..pool1``) or ``input_layer`` and ``output_layer``, and ``seconds``,
    ``ms`` or ``us``; ``side`` and ``input_px`` where there are several. ``model``, ``platform`` and
    ``second_prediction`` stand for ``network``, ``side`` and ``seconds``. ``side`` picks the rows of one of several,
    ``name`` is the device's.

    Raises:
        InputError: a table that cannot be read, the first row that is wrong, layers that are in no row or in two, rows
            too few to fit five coefficients, or a file there that is no device's.
    """
    out = Path(out)
    if out.suffix not in (".yaml", ".yml", ".json"):
        raise InputError(f"out: {out} must end in .yaml or .json, by which --device knows a file")
    check_replaceable(out, "device")
    rows = _of_side(list(_rows(Path(table))), side, table)
    blocks: dict[tuple[str, int | None], list[tuple[str, Mapping[str, str]]]] = {}
    for where, row in rows:
        pixels = row.get("input_px", "")
        if pixels and not (pixels.isdecimal() and 0 < int(pixels) <= MOST_PX):
            raise InputError(
                f"{where}: input_px: {pixels!r} must be a whole number from 1 to {MOST_PX}, the side in pixels"
            )
        blocks.setdefault((_cell(row, "network", where), int(pixels) if pixels else input_px), []).append((where, row))
    networks = []
    for (network, px), own in blocks.items():
        source = resolve_model(network)
        graph = load_graph(source, px or usual_input_px(source))
        networks.append((graph, _blocks(graph, own, table)))
    document = _document(networks, name or Path(table).stem, Path(table).name)
    write_whole(out, lambda temporary: temporary.write_text(document_text(document, out.suffix)))
    return document


def _rows(table: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows that are not empty, with where each stands, under the names that columns have here."""
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(f"{table}: cannot be read ({reason}); give a CSV file") from None
    reader = csv.reader(lines)
    given = [each.strip().lower() for each in next(reader, [])]
    columns = [ALSO.get(each, each) for each in given]
    if len(set(columns)) < len(columns):
        raise InputError(f"{table}: two columns are called {max(columns, key=columns.count)}; name each once")
    if "network" not in columns or not ({"layer"} <= set(columns) or {"input_layer", "output_layer"} <= set(columns)):
        raise InputError(
            f"{table}: the first line must name the columns network, layer and seconds (or ms, or us), and has "
            f"{', '.join(given) or 'nothing'}"
        )
    for column in columns:
        check_name(f"{table}: column", column, (*_KNOWN, *ALSO))
    if sum(unit in columns for unit in UNITS) != 1:
        raise InputError(f"{table}: needs one column of times; name it {', '.join(UNITS)}")
    for row in reader:
        if any(cell.strip() for cell in row):
            where = f"{table}: line {reader.line_num}"
            if len(row) != len(columns):
                raise InputError(f"{where}: has {counted(len(row), 'cell')}, the first line has {len(columns)}")
            yield where, dict(zip(columns, (cell.strip() for cell in row), strict=True))


def _of_side(
    rows: Sequence[tuple[str, dict[str, str]]], side: str | None, table: str | Path
) -> list[tuple[str, dict[str, str]]]:
    """The rows of one side."""
    if not rows:
        raise InputError(f"{table}: has no rows; give one for each layer, or block of layers")
    known = sorted({row.get("side", "") for _, row in rows})
    if side is None and len(known) > 1:
        raise InputError(
            f"{table}: holds the times of {', '.join(each or 'none' for each in known)}; pick one by --side"
        )
    if side is not None and known == [""]:
        raise InputError(f"{table}: has no column side; leave --side out")
    if side is not None:
        check_name("side", side, known)
    return [(where, row) for where, row in rows if side is None or row.get("side", "") == side]


def _cell(row: Mapping[str, str], column: str, where: str) -> str:
    if not row[column]:
        raise InputError(f"{where}: {column} is empty")
    return row[column]


def _blocks(graph: LayerGraph, rows: Sequence[tuple[str, Mapping[str, str]]], table: str | Path) -> list[Block]:
    """The blocks of a network's rows, which together hold every layer that takes time, and none twice."""
    numbers = {layer.name: layer.index for layer in graph.layers}

    def number(text: str, where: str) -> int:
        if text.isdecimal() and 1 <= int(text) <= len(graph.layers):
            return int(text)
        check_name(f"{where}: layer", text, list(numbers))
        return numbers[text]

    found: list[Block] = []
    taken: dict[int, str] = {}
    for where, row in rows:
        if "layer" in row:
            first, _, last = _cell(row, "layer", where).partition(RANGE)
        else:
            first, last = (_cell(row, each, where) for each in ("input_layer", "output_layer"))
        block = Block(number(first.strip(), where), number((last or first).strip(), where), _seconds_of(row, where))
        if block.last < block.first:
            raise InputError(f"{where}: {first} comes after {last} in {graph.model}; name the first of a block first")
        for position in block.layers(graph):
            if position in taken:
                raise InputError(f"{where}: {graph.layers[position].name} is in {taken[position]} already")
            taken[position] = where.rpartition(": ")[2]
        found.append(block)
    missing = [layer for layer in graph.layers if layer.kind not in FREE and layer.index - 1 not in taken]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{table}: {graph.model}: no row holds {missing[0].name}{more}; give the times of all layers")
    return found


def _seconds_of(row: Mapping[str, str], where: str) -> float:
    unit = next(each for each in UNITS if each in row)
    try:
        value = float(_cell(row, unit, where))
    except ValueError:
        value = math.nan
    seconds = value * UNITS[unit]
    if not (seconds == 0 or LEAST_S <= seconds <= MOST_S):
        raise InputError(f"{where}: {unit}: {row[unit]!r} must be 0, or between {LEAST_S:g} and {MOST_S:g} s")
    return seconds


def _document(networks: Sequence[tuple[LayerGraph, list[Block]]], name: str, source: str) -> dict[str, Any]:
    """The device file of networks and their blocks."""
    pairs = [(graph, block) for graph, blocks in networks for block in blocks if block.seconds > 0]
    x = np.array([_terms(graph, block) for graph, block in pairs]).reshape(-1, TERMS)
    y = np.array([block.seconds for _, block in pairs])
    busy = x.any(axis=1)
    if (count := int(busy.sum())) < TERMS:
        raise InputError(
            f"{source}: {counted(count, 'row')} {'says' if count == 1 else 'say'} how long a layer takes, {TERMS} are "
            "needed; give smaller blocks, or more"
        )
    x, y = x[busy], y[busy]
    layers = LayerTimes(**dict(zip(NAMES, least_relative(x, y).tolist(), strict=True)))
    return {
        "name": name,
        "layer_seconds": layers.to_json(),
        "held_out_error": {"block": _left_out_error(x, y)},
        "measured": {"imported_from": source},
        "network_seconds": [_entry(graph, blocks, layers, source) for graph, blocks in networks],
    }


def _terms(graph: LayerGraph, block: Block) -> np.ndarray:
    """(5,) what a block's layers do."""
    own = [graph.layers[position] for position in block.layers(graph)]
    terms: np.ndarray = np.sum([terms_of(layer, layer.in_channels, layer.out_channels) for layer in own], axis=0)
    return terms


def _left_out_error(x: np.ndarray, y: np.ndarray) -> float:
    """Mean amount by which predicted over measured differs from 1, each block left out of the fit in turn."""
    rows = np.arange(len(y))
    return float(np.mean([abs(x[k] @ least_relative(x[rows != k], y[rows != k]) / y[k] - 1) for k in rows]))


def _entry(graph: LayerGraph, blocks: Sequence[Block], layers: LayerTimes, source: str) -> dict[str, Any]:
    """A network's own times: each layer's coefficients, by the factor that makes its block's seconds the measured."""
    rows = {layer.name: [0.0] * 4 for layer in graph.layers}
    for block in blocks:
        own = [graph.layers[position] for position in block.layers(graph)]
        said = sum(layers.seconds(layer, layer.in_channels, layer.out_channels) for layer in own)
        for layer in own:
            if said > 0:
                rows[layer.name] = [block.seconds / said * each for each in layers.coefficients(layer)]
        if said <= 0:  # nothing that takes time by the five coefficients, and it did
            rows[own[-1].name][3] = block.seconds
    names = [graph.cut_name(layer) for layer in range(len(graph.layers) + 1)]
    return {
        "network": graph.model,
        "input_px": graph.input_px,
        "fingerprint": graph.fingerprint,
        "call": 0.0,
        "layers": rows,
        "measured": {
            "imported_from": source,
            "columns": ["first", "last", "seconds"],
            "blocks": [[names[block.first], names[block.last], block.seconds] for block in blocks],
        },
    }
