"""Checks of what callers pass in, made once at the boundary, so that the kernels can index without looking.

Every function returns what the kernels take: C-contiguous, writable arrays of one type each. (Arrays from Ray's
object store are read-only; as they are they would be another type to the compiler.)
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coinfer_kernels.notation import (
    CODEC_VARIABLES,
    CUT_NONE,
    CUT_RAW,
    CostTables,
    EnsembleTables,
    FloatArray,
    IntArray,
    Scenarios,
    SpaceTables,
)

FLOPS_ALONE = np.array([[[1.0, 0.0, 0.0]] * 2] * 2)  # what a codec costs where seconds are not known


def array(name: str, value: ArrayLike, dtype: type, dimensions: int) -> NDArray[Any]:
    """``value`` as a contiguous, writable array of that type.

    Raises:
        ValueError: another number of dimensions, or values that the type cannot hold.
    """
    if (
        type(value) is np.ndarray
        and value.dtype.type is dtype
        and value.ndim == dimensions
        and value.dtype.isnative
        and value.flags.carray
    ):
        return value
    try:
        given = np.asarray(value)
        if given.dtype.kind in "OUSM":
            raise TypeError(f"elements of type {given.dtype}")
        converted: NDArray[Any] = np.require(given, dtype, ["C", "W"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {str(error).splitlines()[0]}; an array of {np.dtype(dtype)} is needed") from None
    if given.dtype.kind == "f" and np.dtype(dtype).kind == "i" and not np.array_equal(converted, given):
        raise ValueError(f"{name}: holds values that are not whole numbers")
    if converted.ndim != dimensions:
        raise ValueError(f"{name}: has {converted.ndim} dimensions; {dimensions} are needed")
    return converted


def shaped(name: str, value: ArrayLike, dtype: type, shape: tuple[int, ...]) -> NDArray[Any]:
    """As :func:`array`, of exactly that shape."""
    converted = array(name, value, dtype, len(shape))
    if converted.shape != shape:
        raise ValueError(f"{name}: has shape {converted.shape}; {shape} is needed")
    return converted


def within(name: str, values: NDArray[Any], low: ArrayLike, stop: ArrayLike) -> None:
    """Raise ValueError unless ``low <= values < stop``."""
    if values.size and not ((values >= low) & (values < stop)).all():
        raise ValueError(f"{name}: holds values outside {np.min(low)} .. {np.max(stop) - 1}")


def at_least(name: str, value: int, least: int) -> int:
    """``value`` as an int; raises ValueError where it is less."""
    if value < least:
        raise ValueError(f"{name}: {value} is too small; at least {least} is needed")
    return int(value)


def finite(name: str, values: FloatArray) -> None:
    """Raise ValueError where a value is NaN or infinite."""
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: holds NaN or infinite values")


def space_tables(space: SpaceTables) -> SpaceTables:
    """Check the decision variables' tables."""
    n_levels = array("space.n_levels", space.n_levels, np.int64, 1)
    variables = len(n_levels)
    values = array("space.values", space.values, np.float64, 2)
    if variables == 0 or values.shape[0] != variables:
        raise ValueError(f"space.values: has {values.shape[0]} rows for {variables} variables; one each is needed")
    within("space.n_levels", n_levels, 1, values.shape[1] + 1)
    finite("space.values", values)
    cut = int(space.cut_variable)
    within("space.cut_variable", np.array([cut]), 0, variables)
    active = shaped("space.active", space.active, np.bool_, (int(n_levels[cut]), variables))
    if not active[:, cut].all():
        raise ValueError("space.active: the cut variable must be active at every cut")
    canonical = shaped("space.canonical", space.canonical, np.int64, (variables,))
    within("space.canonical", canonical, 0, n_levels)
    return SpaceTables(n_levels, values, cut, active, canonical)


def cost_tables(cost: CostTables) -> CostTables:
    """Check the tables of FLOPs and bits."""
    in_set = array("cost.in_set", cost.in_set, np.int64, 1)
    layers = (len(in_set),)
    kept = array("cost.kept", cost.kept, np.float64, 2)
    cut_layers = array("cost.cut_layers", cost.cut_layers, np.int64, 1)
    cuts = (len(cut_layers),)
    checked = CostTables(
        in_set=in_set,
        out_set=shaped("cost.out_set", cost.out_set, np.int64, layers),
        quadratic=shaped("cost.quadratic", cost.quadratic, np.float64, layers),
        linear=shaped("cost.linear", cost.linear, np.float64, layers),
        kept=kept,
        cut_layers=cut_layers,
        cut_kind=shaped("cost.cut_kind", cost.cut_kind, np.int64, cuts),
        cut_set=shaped("cost.cut_set", cost.cut_set, np.int64, cuts),
        cut_channels=shaped("cost.cut_channels", cost.cut_channels, np.float64, cuts),
        cut_height=shaped("cost.cut_height", cost.cut_height, np.int64, cuts),
        cut_width=shaped("cost.cut_width", cost.cut_width, np.int64, cuts),
        codec_variable=int(cost.codec_variable),
        ratio=shaped("cost.ratio", cost.ratio, np.float64, (CODEC_VARIABLES, np.shape(cost.ratio)[-1])),
        cut_bits=shaped("cost.cut_bits", cost.cut_bits, np.float64, cuts),
        input_bits=float(cost.input_bits),
        codec_flops=bool(cost.codec_flops),
        server_quadratic=_or(cost.server_quadratic, cost.quadratic, "cost.server_quadratic", layers),
        server_linear=_or(cost.server_linear, cost.linear, "cost.server_linear", layers),
        codec_price=_or(cost.codec_price, FLOPS_ALONE, "cost.codec_price", FLOPS_ALONE.shape),
    )
    for name in ("in_set", "out_set", "cut_set"):
        within(f"cost.{name}", getattr(checked, name), 0, len(kept))
    within("cost.cut_layers", cut_layers, 0, len(in_set) + 1)
    within("cost.cut_kind", checked.cut_kind, CUT_RAW, CUT_NONE + 1)
    within("cost.codec_variable", np.array([checked.codec_variable]), 0, np.iinfo(np.int64).max)
    for name in ("quadratic", "server_quadratic", "codec_price"):
        values = getattr(checked, name)
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError(f"cost.{name}: holds negative, NaN or infinite values")
    finite("cost.cut_bits", checked.cut_bits)
    finite("cost.linear", checked.linear)
    finite("cost.server_linear", checked.server_linear)
    finite("cost.ratio", checked.ratio)
    finite("cost.kept", kept)
    return checked


def _or(given: ArrayLike, instead: ArrayLike, name: str, shape: tuple[int, ...]) -> FloatArray:
    """``given``, or ``instead`` where it is empty."""
    return shaped(name, given if np.size(given) else instead, np.float64, shape)


def cost_of_space(space: SpaceTables, cost: CostTables) -> None:
    """Raise ValueError unless two checked tables speak of the same variables."""
    variables, most = space.values.shape
    sets = len(cost.kept) - 1
    if len(cost.cut_layers) != space.n_levels[space.cut_variable]:
        raise ValueError(
            f"cost.cut_layers: has {len(cost.cut_layers)} cuts; the space has {space.n_levels[space.cut_variable]}"
        )
    if sets > variables or cost.codec_variable + CODEC_VARIABLES > variables:
        raise ValueError(f"cost: {sets} prunable sets and {CODEC_VARIABLES} codec variables for {variables} variables")
    if most > cost.kept.shape[1] or most > cost.ratio.shape[1]:
        raise ValueError(
            f"cost: kept and ratio have {cost.kept.shape[1]} and {cost.ratio.shape[1]} levels; {most} are needed"
        )


def level_rows(space: SpaceTables, levels: ArrayLike) -> IntArray:
    """Check strategies (n, V) against a checked space."""
    rows = array("levels", levels, np.int64, 2)
    if rows.shape[1] != len(space.n_levels):
        raise ValueError(f"levels: has {rows.shape[1]} columns; the space has {len(space.n_levels)} variables")
    if rows.size and not ((rows >= 0) & (rows < space.n_levels)).all():
        row, variable = np.argwhere((rows < 0) | (rows >= space.n_levels))[0]
        raise ValueError(
            f"levels: row {row}, variable {variable} is {rows[row, variable]}; "
            f"0 .. {space.n_levels[variable] - 1} is right"
        )
    return rows


def ensemble_tables(tables: EnsembleTables) -> EnsembleTables:
    """Check that every walk through the trees ends at a leaf and reads no feature that isn't there."""
    feature = array("ensemble.feature", tables.feature, np.int64, 1)
    nodes = (len(feature),)
    roots = array("ensemble.roots", tables.roots, np.int64, 1)
    checked = EnsembleTables(
        feature=feature,
        threshold=shaped("ensemble.threshold", tables.threshold, np.float64, nodes),
        left=shaped("ensemble.left", tables.left, np.int64, nodes),
        right=shaped("ensemble.right", tables.right, np.int64, nodes),
        value=shaped("ensemble.value", tables.value, np.float64, nodes),
        roots=roots,
        weights=shaped("ensemble.weights", tables.weights, np.float64, roots.shape),
        median=bool(tables.median),
        intercept=float(tables.intercept),
        coefficients=array("ensemble.coefficients", tables.coefficients, np.float64, 1),
    )
    for name in ("value", "weights", "coefficients"):
        finite(f"ensemble.{name}", getattr(checked, name))
    finite("ensemble.intercept", np.array([checked.intercept]))
    within("ensemble.roots", roots, 0, len(feature))
    leaf, index = feature == -1, np.arange(len(feature))
    within("ensemble.feature", feature[~leaf], 0, len(checked.coefficients))
    if np.isnan(checked.threshold[~leaf]).any():
        raise ValueError("ensemble.threshold: holds NaN")
    for name in ("left", "right"):
        child = getattr(checked, name)
        # A child behind its parent in the arrays: no walk can go round in a circle.
        within(f"ensemble.{name}", child[~leaf], index[~leaf] + 1, len(feature))
        if not (child[leaf] == index[leaf]).all():
            raise ValueError(f"ensemble.{name}: a leaf must point at itself")
    if checked.median and len(roots) == 0:
        raise ValueError("ensemble.roots: the median of no trees is undefined")
    return checked


def scenario_batch(scenarios: Scenarios) -> Scenarios:
    """Check a batch of scenarios. NaN is allowed in ``snr_db`` (a predictor without SNR ignores it)."""
    floor = array("scenarios.accuracy_floor", scenarios.accuracy_floor, np.float64, 1)
    weights = four_weights("scenarios.weights", scenarios.weights)
    if len(weights) != len(floor):
        raise ValueError(f"scenarios.weights: has {len(weights)} rows for {len(floor)} scenarios; one each is needed")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise ValueError("scenarios.weights: holds negative, NaN or infinite values")
    finite("scenarios.accuracy_floor", floor)
    return Scenarios(weights, floor, shaped("scenarios.snr_db", scenarios.snr_db, np.float64, floor.shape))


def four_weights(name: str, value: ArrayLike) -> FloatArray:
    """Weights (S, 3) or (S, 4) as (S, 4): a crossing costs nothing by itself where nothing is said of it."""
    rows = array(name, value, np.float64, 2)
    if rows.shape[1] not in (3, 4):
        raise ValueError(
            f"{name}: has {rows.shape[1]} columns; 3 are needed (device FLOP, server FLOP, bit), or 4 (and a crossing)"
        )
    return rows if rows.shape[1] == 4 else np.column_stack([rows, np.zeros(len(rows))])


def ensemble_of_space(space: SpaceTables, ensemble: EnsembleTables, scenarios: Scenarios) -> None:
    """Raise ValueError unless the predictor sees the space's variables, or those and the SNR."""
    seen, variables = len(ensemble.coefficients), len(space.n_levels)
    if seen not in (variables, variables + 1):
        raise ValueError(f"ensemble: sees {seen} features; {variables}, or {variables + 1} with the SNR, are needed")
    if seen > variables:
        finite("scenarios.snr_db", scenarios.snr_db)
