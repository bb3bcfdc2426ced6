"""Tree-ensemble prediction beside its peers: nanoseconds a sample, one thread, one run.

    python benchmarks/bench_predict.py [--depths 3 6 10] [--batches 1 5 100 1000 100000] [--json]

100 trees of gradient boosting, and of histogram boosting at depth 3, on 16 features of 64 levels. Each figure is the
least of several rounds, in which all take turns, so that a busy moment of the machine hits all alike; all predictions
are compared with scikit-learn's first. Peers that are not installed, or do not take the trees, are left out with a
line on stderr; for all of them a C compiler is needed and

    pip install onnxruntime skl2onnx treelite tl2cgen

(They need not be in the environment of the package: a second one that sees its site-packages will do.)

The trees take one of three forms (``lanes.Form``), chosen by the processor's features. What an older processor would
run is measured on a newer one with, for AVX2,

    NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma,+bmi,+bmi2 python benchmarks/bench_predict.py

The floor is what depth 3 costs in the form that ran, at the clock that a chain of dependent multiplications shows.
AVX-512: a register of 512 bits compared a cycle, so 7 comparisons of 16 float32 a tree; for levels 7 comparisons of 64
bytes and, as one unit does both shifts and look-ups at the rate of one a cycle, 15 of these. AVX2: three instructions
a cycle; for 8 float32 7 comparisons, 3 selects and 4 additions that make a number, and for 8 values of any kind 2
look-ups, 2 shuffles and 2 additions; for 32 levels 14, 3, 4, and 3 shifts. Any: two instructions of 128 bits a cycle,
7 comparisons, 7 selects of the float64 values and an addition.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from coinfer_kernels import TreeEnsemble
from coinfer_kernels.machine_code import processor
from coinfer_kernels.trees.llvm import Form, form
from numba import njit
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor

from coinfer_ray.cli.scripts import positive_int, run_script

TREES, FEATURES, LEVELS = 100, 16, 64
ROUNDS, TURN_S = 20, 0.002
Predict = Callable[[np.ndarray], np.ndarray]


def fit(depth: int, histogram: bool = False) -> Any:
    rng = np.random.default_rng(0)
    x = rng.integers(0, LEVELS, (400, FEATURES)) / LEVELS
    y = 0.87 - (x**2 * np.linspace(0.02, 0.2, FEATURES)).sum(axis=1) + rng.normal(0, 0.004, len(x))
    if histogram:
        return HistGradientBoostingRegressor(max_iter=TREES, max_depth=depth, early_stopping=False).fit(x, y)
    return GradientBoostingRegressor(n_estimators=TREES, max_depth=depth, random_state=0).fit(x, y)


def onnx_runtime(regressor: Any) -> Predict:
    import onnxruntime
    from skl2onnx import to_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = to_onnx(regressor, np.zeros((1, FEATURES), dtype=np.float32)).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def predict(x: np.ndarray) -> np.ndarray:
        answer: np.ndarray = session.run(None, {name: x})[0]
        return answer.ravel()

    return predict


def tl2cgen_library(regressor: Any) -> Predict:
    import tl2cgen
    import treelite

    folder = tempfile.mkdtemp()
    library = os.path.join(folder, "trees.so")
    model = treelite.sklearn.import_model(regressor)
    tl2cgen.export_lib(model, toolchain="gcc", libpath=library, params={"parallel_comp": 2})
    predictor = tl2cgen.Predictor(library, nthread=1)
    return lambda x: np.ravel(predictor.predict(tl2cgen.DMatrix(x)))


@njit
def _chain(count: int) -> int:
    number = np.uint64(12345)
    for _ in range(count):
        # A multiplication (3 cycles) and an exclusive or (1), each waiting for the one before.
        number = (number * np.uint64(6364136223846793005)) ^ (number >> np.uint64(17))
    return int(number)


def clock_ghz() -> float:
    def once() -> float:
        start = time.perf_counter()
        _chain(100_000)
        return time.perf_counter() - start

    return 4 * 100_000 / min(once() for _ in range(50)) / 1e9


def floors(ghz: float) -> dict[str, float]:
    """Nanoseconds a sample at depth 3 (see the module)."""
    cycles = {
        Form.AVX512: {"float32": 7 / 16, "levels": max(7, 15) / 64},
        Form.AVX2: {"float32": (7 + 3 + 4 + 6) / 8 / 3, "levels": ((14 + 3 + 4 + 3) / 32 + 6 / 8) / 3},
        Form.ANY: {"float32": (7 / 4 + 7 / 2 + 1 / 2) / 2, "levels": (7 / 16 + 7 / 2 + 1 / 2) / 2},
    }[form()]
    return {name: TREES * each / ghz for name, each in cycles.items()}


def seconds(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def least_seconds(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Least time of one call of each, over rounds of all of them in turn; a turn is some calls, so caches are warm."""
    best = {name: min(seconds(call, 1) for _ in range(3)) for name, call in calls.items()}
    repeats = {name: max(1, int(TURN_S / taken)) for name, taken in best.items()}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            best[name] = min(best[name], seconds(call, repeats[name]))
    return best


def contestants(regressor: Any) -> dict[str, tuple[Predict, type, float]]:
    """name -> (predict, type of its input, error allowed); the input of uint8 is levels, else features."""
    ensemble = TreeEnsemble.from_sklearn(regressor)
    coded = ensemble.code_levels(np.tile(np.arange(LEVELS) / LEVELS, (FEATURES, 1)))
    found: dict[str, tuple[Predict, type, float]] = {
        "scikit-learn": (regressor.predict, np.float64, 0.0),
        "coinfer_kernels, float64": (ensemble.predict, np.float64, 1e-12),
        "coinfer_kernels, float32": (ensemble.predict, np.float32, 1e-12),
        "coinfer_kernels, levels": (coded.predict, np.uint8, 1e-12),
    }
    for name, make in (("ONNX Runtime", onnx_runtime), ("tl2cgen", tl2cgen_library)):
        try:
            found[name] = (make(regressor), np.float32, 1e-5)
        except ImportError as error:
            print(f"{name}: left out, {error.name} is not installed", file=sys.stderr)
        except ValueError as error:  # skl2onnx 1.20 with NumPy 2 writes no histogram boosting
            reason = str(error).splitlines()[0][:80]
            print(f"{name}: left out, it does not take {type(regressor).__name__}: {reason}", file=sys.stderr)
    return found


def measure(depth: int, histogram: bool, batches: list[int]) -> list[dict[str, Any]]:
    rows = []
    regressor = fit(depth, histogram)
    entrants = contestants(regressor)
    for batch in batches:
        levels = np.random.default_rng(batch).integers(0, LEVELS, (batch, FEATURES)).astype(np.uint8)
        features = levels / LEVELS
        expected = regressor.predict(features)
        calls: dict[str, Callable[[], object]] = {}
        for name, (predict, kind, allowed) in entrants.items():
            x = levels if kind is np.uint8 else features.astype(kind)
            error = float(np.abs(predict(x) - expected).max())
            if error > allowed:
                raise SystemExit(f"{name}: differs from scikit-learn by {error}")
            calls[name] = lambda predict=predict, x=x: predict(x)
        for name, taken in least_seconds(calls).items():
            trees = "histogram boosting" if histogram else "gradient boosting"
            ns = taken / batch * 1e9
            rows.append({"trees": trees, "depth": depth, "batch": batch, "name": name, "ns_per_sample": ns})
    return rows


def show(rows: list[dict[str, Any]], batches: list[int], floor: dict[str, float]) -> None:
    """One table of a kind of trees and a depth: times, and how many times ours each peer takes."""
    cell = {(row["name"], row["batch"]): row["ns_per_sample"] for row in rows}
    names = list(dict.fromkeys(row["name"] for row in rows))
    head = f"{rows[0]['trees']}, depth {rows[0]['depth']}, ns a sample"
    print(f"\n{head:<52}" + "".join(f"{batch:>12,}" for batch in batches), flush=True)
    for name in names:
        print(f"{name:<52}" + "".join(f"{cell[name, batch]:>12,.1f}" for batch in batches))
    if rows[0]["depth"] == 3:
        print(f"{'floor':<52}float32 {floor['float32']:.1f}, levels {floor['levels']:.1f}")
    ours = [name for name in names if name.startswith("coinfer")]
    for peer in (name for name in names if name not in ours):
        for name in ours:
            ratios = "".join(f"{cell[peer, batch] / cell[name, batch]:>11,.1f}x" for batch in batches)
            print(f"{peer + ' / ' + name:<52}" + ratios, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=positive_int, nargs="+", default=[3, 6, 10])
    parser.add_argument("--batches", type=positive_int, nargs="+", default=[1, 5, 100, 1000, 100_000])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    kinds = [(depth, False) for depth in arguments.depths] + [(3, True)] * (3 in arguments.depths)
    ghz = clock_ghz()
    if not arguments.json:
        print(f"clock {ghz:.2f} GHz; compiled for {processor()[1]}; trees of depth 3: form {form().value}")
    rows: list[dict[str, Any]] = []
    for depth, histogram in kinds:
        table = measure(depth, histogram, arguments.batches)
        rows += table
        if not arguments.json:
            show(table, arguments.batches, floors(ghz))
    if arguments.json:
        print(
            json.dumps(
                {
                    "clock_ghz": ghz,
                    "processor": processor()[1],
                    "form": form().value,
                    "floor_ns": floors(ghz),
                    "rows": rows,
                },
                indent=2,
            )
        )


if __name__ == "__main__":
    run_script(main)
