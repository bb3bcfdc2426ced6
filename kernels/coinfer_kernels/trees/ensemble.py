"""Tree ensembles and linear models: their prediction, equal to scikit-learn's to the rounding of a sum (1e-12).

The form of the trees that is fastest depends on their depth, the rows' type and their number; see ``complete`` (depth
3 and less), ``forest`` (any depth) and ``leaves`` (levels, any depth). All forms give the same answer, but for sums of
leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coinfer_kernels import checks
from coinfer_kernels.jit import check_threads, entry_point, run_parts
from coinfer_kernels.notation import EnsembleTables, FloatArray
from coinfer_kernels.trees.depth3 import (
    Bytes,
    Records,
    as_columns,
    complete_trees,
    level_trees,
    predict_complete,
    predict_complete_levels,
    predict_ranked,
    ranked_trees,
    start_levels,
    start_rows,
)
from coinfer_kernels.trees.leaf_sets import LeafTables, leaf_tables, predict_levels_rows
from coinfer_kernels.trees.packed import (
    ColumnArray,
    PackedTables,
    compared_as_float32,
    packed_tables,
    predict_packed,
    widen,
)
from coinfer_kernels.trees.sklearn import read_sum
from coinfer_kernels.trees.walk import _predict_rows

ROWS_PER_PART = 4096
_BYTE, _SINGLE, _DOUBLE = np.dtype(np.uint8), np.dtype(np.float32), np.dtype(np.float64)
_NOT_FINITE = "X: holds NaN, infinity or a value too large for float32"  # scikit-learn's trees refuse them too
_Array, _empty = np.ndarray, np.empty
_Part = Callable[[ColumnArray, FloatArray], bool]
_Form = tuple[PackedTables, Records | None]
_NO_SNR, _NO_RANK = np.empty(0), np.empty(0, np.uint8)
FEW = 32  # rows; beyond, ranking the features first is faster
FORMAT = 2  # of to_arrays()


class TreeEnsemble:
    """A fitted regressor as arrays; ``tables`` are :class:`EnsembleTables`, made by :meth:`from_sklearn`."""

    def __init__(self, tables: EnsembleTables) -> None:
        """Take tables from anywhere.

        Raises:
            ValueError: tables in which a walk could leave the arrays or never end.
        """
        self.tables = checks.ensemble_tables(tables)
        self._features = len(self.tables.coefficients)

    def __reduce__(self) -> tuple[type[TreeEnsemble], tuple[EnsembleTables]]:
        return TreeEnsemble, (self.tables,)  # without what only this process can call

    @classmethod
    def from_sklearn(cls, regressor: Any, *further: Any) -> TreeEnsemble:
        """Read a fitted regressor, or the sum of several, as boosting in stages leaves it.

        ``regressor`` and ``further`` are fitted estimators of scikit-learn; the predictions of all are added.

        GradientBoosting, HistGradientBoosting, RandomForest, ExtraTrees, Bagging (with feature subsets too),
        AdaBoost (weighted median), DecisionTree, Voting, linear models of every kind (SGD and linear support vectors
        among them), a constant, and searches and RANSAC over these.

        Raises:
            ValueError: a classifier, several outputs, not fitted, categorical features, a prediction that is a
                function of the sum (the logarithm as link), a class that predicts in its own way, or another kind of
                model; of several, different features or AdaBoost's median among them.
        """
        return cls(read_sum((regressor, *further)).tables())

    @property
    def features(self) -> int:
        """F, the number of features that :meth:`predict` needs."""
        return self._features

    def predict(self, x: ArrayLike, threads: int | None = 1) -> FloatArray:
        """Predictions (n,) for features ``x`` (n, F), float32 or float64.

        ``threads`` share the samples; None for all that numba may use.

        Raises:
            ValueError: wrong shape, or NaN, infinite or beyond float32's range.
        """
        if threads == 1 and type(x) is _Array and x.flags.carray:
            # Batches of a few rows are common, and take less time than the checks of any array that may come.
            dtype, shape, part = x.dtype, x.shape, None
            if len(shape) == 2 and shape[1] == self._features:
                if dtype is _DOUBLE:
                    part = self._of_few_doubles if shape[0] <= FEW else self._of_doubles
                elif dtype is _SINGLE:
                    part = self._of_few_singles if shape[0] <= FEW else self._of_singles
            if part is not None:
                out = _empty(shape[0])
                if part(x, out):
                    return out
                raise ValueError(_NOT_FINITE)
        return self._predict_any(x, threads)

    def _predict_any(self, x: ArrayLike, threads: int | None) -> FloatArray:
        """As :meth:`predict`, of what has to be checked or converted first, or is for several threads."""
        single = isinstance(x, np.ndarray) and x.dtype == _SINGLE
        rows = checks.array("X", x, np.float32 if single else np.float64, 2)
        if rows.shape[1] != self._features:
            raise ValueError(f"X: has {rows.shape[1]} features; the regressor was fitted on {self._features}")
        part, out = self._of_singles if single else self._of_doubles, np.empty(len(rows))
        count = check_threads(threads)
        answers: list[bool] = []
        run_parts(
            lambda start, stop: answers.append(part(rows[start:stop], out[start:stop])),
            len(rows),
            ROWS_PER_PART if count > 1 else max(1, len(rows)),
            count,
        )
        if not all(answers):
            raise ValueError(_NOT_FINITE)
        return out

    @cached_property
    def _of_few_doubles(self) -> _Part:
        """The prediction of a few float64 rows into an array; False where one is not finite."""
        return self._part(_DOUBLE, self._single, few=True)

    @cached_property
    def _of_doubles(self) -> _Part:
        """As ``_of_few_doubles``, in the form that is fastest for many."""
        return self._part(_DOUBLE, self._single, few=False)

    @cached_property
    def _of_few_singles(self) -> _Part:
        """As ``_of_few_doubles``, of float32 rows, which can always be compared as such."""
        return self._part(_SINGLE, single=True, few=True)

    @cached_property
    def _of_singles(self) -> _Part:
        """As ``_of_few_singles``, in the form that is fastest for many."""
        return self._part(_SINGLE, single=True, few=False)

    def _part(self, rows: np.dtype[Any], single: bool, few: bool) -> _Part:
        tables, empty, nothing = self.tables, np.empty((0, self._features), rows), np.empty(0)
        if tables.median:
            return partial(_predict_rows, tables, self._single)
        linear, intercept = bool(tables.coefficients.any()), tables.intercept
        packed, records = self._single_form if single else self._double_form
        ranked = ranked_trees(records, self._features) if single and not few and records is not None else None
        trees: tuple[Any, ...] = (packed,)
        compiled: Callable[..., bool] = predict_packed
        if ranked is not None:
            compiled, trees = predict_ranked, tuple(ranked)
        elif records is not None:
            compiled, trees = predict_complete, (as_columns(records),)
        given = (*trees, intercept, linear)
        tree_part = partial(entry_point(compiled, *given, empty, nothing), *given)
        if not linear:
            return tree_part

        def part(x: ColumnArray, out: FloatArray) -> bool:
            start_rows(intercept, tables.coefficients, x, out)
            finite: bool = tree_part(x, out)
            return finite

        return part

    @cached_property
    def _single_form(self) -> _Form:
        packed = packed_tables(self.tables, single=True)
        return packed, complete_trees(packed)

    @cached_property
    def _double_form(self) -> _Form:
        packed = packed_tables(self.tables, single=False)
        return packed, complete_trees(packed)

    @cached_property
    def _single(self) -> bool:
        return compared_as_float32(self.tables)

    def code_levels(self, values: ArrayLike) -> LevelEnsemble:
        """The ensemble as a function of levels, for strategies of variables with features ``values`` (V, M).

        A feature after those V is the SNR. The answer is the same to the rounding of a sum.

        Raises:
            ValueError: another number of variables than the regressor was fitted on, or values not finite.
        """
        table = checks.array("values", values, np.float64, 2)
        checks.finite("values", table)
        if self.features - len(table) not in (0, 1) or table.shape[1] == 0:
            raise ValueError(
                f"values: has {len(table)} variables; the regressor sees {self.features} features, "
                "of which at most the last is no variable"
            )
        leaves = leaf_tables(self.tables, table)
        records = None if self.tables.median else self._double_form[1]
        coded = None if records is None else level_trees(records, table, leaves.snr_edges)
        return LevelEnsemble(leaves, self._features > len(table), None if coded is None else as_columns(coded))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The tables as named arrays, for ``numpy.savez``."""
        return {name: np.asarray(value) for name, value in self.tables._asdict().items()} | {"format": np.array(FORMAT)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, ArrayLike]) -> TreeEnsemble:
        """Rebuild from ``arrays``, what :meth:`to_arrays` gave, or ``numpy.load(..., allow_pickle=False)`` of it.

        Raises:
            ValueError: an array is missing, or the tables are no ensemble.
        """
        missing = [name for name in EnsembleTables._fields if name not in arrays]
        if missing:
            raise ValueError(f"ensemble: the array {missing[0]!r} is missing; to_arrays() writes all that are needed")
        fields: dict[str, Any] = {name: np.asarray(arrays[name]) for name in EnsembleTables._fields}
        for name, kind in (("median", bool), ("intercept", float)):
            if fields[name].shape != ():
                raise ValueError(f"ensemble.{name}: has shape {fields[name].shape}; a single value is needed")
            fields[name] = kind(fields[name])
        written = int(np.asarray(arrays.get("format", 1)))
        if not 1 <= written <= FORMAT:
            raise ValueError(f"ensemble: is of format {written}; 1 .. {FORMAT} can be read")
        if written == 1:  # its thresholds were for features rounded to float32
            fields["threshold"] = widen(np.asarray(fields["threshold"], dtype=np.float64))
        return cls(EnsembleTables(**fields))


class LevelEnsemble:
    """A fitted regressor as a function of levels (:class:`LeafTables`); made by :meth:`TreeEnsemble.code_levels`.

    ``tables``: the trees' leaves as sets of levels; ``with_snr``: whether :meth:`predict` needs an SNR.

    ``complete``: the same trees over bytes, where they are no deeper than 3 and a byte holds every level.
    """

    def __init__(self, tables: LeafTables, with_snr: bool, complete: Bytes | None = None) -> None:
        self.tables = tables
        self.with_snr = with_snr
        self._complete = complete
        self._variables, self._most = tables.linear.shape

    def __reduce__(self) -> tuple[type[LevelEnsemble], tuple[LeafTables, bool, Bytes | None]]:
        return LevelEnsemble, (self.tables, self.with_snr, self._complete)

    def predict(self, levels: ArrayLike, snr_db: ArrayLike | None = None, threads: int | None = 1) -> FloatArray:
        """Predictions (n,) for strategies ``levels`` (n, V), bytes or int64, at one SNR or one each.

        ``snr_db``: a number or (n,), in dB; ``threads`` share the strategies, None for all that numba may use.

        Raises:
            ValueError: wrong shapes, levels that the tables don't have, or an SNR missing or not finite.
        """
        if threads == 1 and type(levels) is _Array and levels.dtype is _BYTE and levels.flags.carray:
            part, shape = self._of_levels, levels.shape
            if part is not None and len(shape) == 2 and shape[1] == self._variables:
                out = _empty(shape[0])
                if part(levels, _NO_RANK, out):
                    return out
        return self._predict_any(levels, snr_db, threads)

    def _predict_any(self, levels: ArrayLike, snr_db: ArrayLike | None, threads: int | None) -> FloatArray:
        """As :meth:`predict`, of what has to be checked or converted first, or is for several threads."""
        as_bytes = isinstance(levels, np.ndarray) and levels.dtype == _BYTE
        rows = checks.array("levels", levels, np.uint8 if as_bytes else np.int64, 2)
        if rows.shape[1] != self._variables:
            raise ValueError(f"levels: has {rows.shape[1]} columns; there are {self._variables} variables")
        checks.within("levels", rows, 0, self._most)
        if self._complete is not None:
            rows = rows.astype(np.uint8, copy=False)
        snr, out = self._snr(snr_db, len(rows)), np.empty(len(rows))
        count = check_threads(threads)
        run_parts(
            lambda start, stop: self._predict_part(rows[start:stop], snr[start:stop], out[start:stop]),
            len(rows),
            ROWS_PER_PART if count > 1 else max(1, len(rows)),
            count,
        )
        return out

    @cached_property
    def _of_levels(self) -> Callable[[Bytes, Bytes, FloatArray], bool] | None:
        """The prediction of levels that no linear part or SNR adds to, in one call; False where one is too high."""
        if self._complete is None or self.with_snr or self.tables.has_linear:
            return None
        given = (self._complete, self.tables.intercept, False, self._most)
        empty = np.empty((0, self._variables), np.uint8)
        return partial(entry_point(predict_complete_levels, *given, empty, _NO_RANK, np.empty(0)), *given)

    def _snr(self, snr_db: ArrayLike | None, count: int) -> FloatArray:
        """One SNR for each strategy; empty where the regressor sees none."""
        if not self.with_snr:
            return _NO_SNR
        if snr_db is None:
            raise ValueError("snr_db: the regressor was fitted with it; give one number or one for each strategy")
        try:
            snr = np.broadcast_to(np.asarray(snr_db, dtype=np.float64), (count,)).copy()
        except (TypeError, ValueError):
            raise ValueError(f"snr_db: one number, or one for each of the {count} strategies, is needed") from None
        checks.finite("snr_db", snr)
        return snr

    def _predict_part(self, levels: NDArray[Any], snr: FloatArray, out: FloatArray) -> None:
        """Predict in the form that is fastest."""
        tables = self.tables
        if self._complete is None:
            predict_levels_rows(tables, levels, snr, out)
            return
        if tables.has_linear:
            start_levels(tables.intercept, tables.linear, tables.snr_coefficient, levels, snr, out)
        rank = np.searchsorted(tables.snr_edges, snr).astype(np.uint8) if self.with_snr else _NO_RANK
        predict_complete_levels(self._complete, tables.intercept, tables.has_linear, self._most, levels, rank, out)
