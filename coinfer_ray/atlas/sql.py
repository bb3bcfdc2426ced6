"""An atlas as SQL: a database answers any scenario itself, and no row of a sweep is ever stored."""

from __future__ import annotations

import re

from coinfer_ray.atlas.atlas import StrategyAtlas
from coinfer_ray.errors import InputError

_WIDER = 1e-9  # as the look-up's own: the rounding of a ratio at the edge of the ranges
_DOUBLES = ("device_flop", "server_flop", "uplink_bit", "predicted_accuracy")
_COLUMNS = '"row", partition_point, cut_after, feature_bits, device_flop, server_flop, uplink_bit, accuracy, source'
_SPEEDS = ("device_flops_per_s", "server_flops_per_s", "rate_bps")


def atlas_sql(atlas: StrategyAtlas, name: str = "atlas") -> str:
    """Three macros for DuckDB, of speeds in FLOP/s and a rate in bit/s; where the atlas is one with crossings, a fourth
    argument is what crossing the link takes by itself, ``crossing_s``.

    ``NAME_latency_s(device_flops_per_s, server_flops_per_s, rate_bps)``: the least latency, NULL outside the ranges
    that the atlas is proven for. ``NAME_row(...)``: which row of the atlas has it, the first of equal ones.
    ``NAME_strategies()``: a table of the rows.

    Raises:
        InputError: ``name`` is no plain identifier.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise InputError(f"name: {name!r} is no SQL identifier; give letters, digits and underscores")
    device, server, rate = _SPEEDS
    terms = [
        " + ".join(f"{_double(cost)} / {speed}" for cost, speed in zip(costs, _SPEEDS, strict=True))
        + (" + crossing_s" if atlas.info.crossings and costs[2] > 0 else "")
        for costs in atlas.table.costs
    ]
    ranges = ((atlas.info.ranges.device, device), (atlas.info.ranges.uplink, rate))
    inside = " AND ".join(
        f"{server} / {speed} BETWEEN {_double(low * (1 - _WIDER))} AND {_double(high * (1 + _WIDER))}"
        for (low, high), speed in ranges
    )
    arguments = (*_SPEEDS, "crossing_s") if atlas.info.crossings else _SPEEDS
    shared, listed = f"({', '.join(arguments)})", ",\n    ".join(terms)
    rows = ",\n  ".join(
        f"({row['row']}, {row['partition_point']}, {_quoted(row['cut_after'])}, {row['feature_bits']}, "
        + "".join(f"{_double(row[column])}, " for column in _DOUBLES)
        + f"{_quoted(row['accuracy_source'])})"
        for row in atlas.rows()
    )
    info = atlas.info
    said = f"{info.model} at {info.input_px} px, losing at most {info.max_loss:g}, proven to {info.ratio - 1:.3%}"
    return f"""-- {said}
CREATE OR REPLACE MACRO {name}_latency_s{shared} AS
  CASE WHEN {inside} THEN least(
    {listed}) END;
CREATE OR REPLACE MACRO {name}_row{shared} AS
  list_position([
    {listed}], {name}_latency_s{shared}) - 1;
CREATE OR REPLACE MACRO {name}_strategies() AS TABLE
SELECT * FROM (VALUES
  {rows}
) AS t({_COLUMNS});
"""


def _double(value: float) -> str:
    """A number that SQL takes for a double: without an exponent it would be a decimal."""
    text = repr(float(value))
    return text if "e" in text else f"{text}e0"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
