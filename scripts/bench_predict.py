"""Tree-ensemble prediction beside its peers: nanoseconds a sample, one thread, one run.

    python scripts/bench_predict.py [--depths 3 6 10] [--batches 1 5 100 1000 100000] [--json]

100 trees of gradient boosting on 16 features of 64 levels. Peers that are not installed (onnxruntime with skl2onnx,
tl2cgen with treelite and a C compiler) are left out with a line on stderr. Each figure is the least of several
repetitions; all predictions are compared with scikit-learn's first.
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
from sklearn.ensemble import GradientBoostingRegressor

TREES, FEATURES, LEVELS = 100, 16, 64
Predict = Callable[[np.ndarray], np.ndarray]


def fit(depth: int) -> GradientBoostingRegressor:
    rng = np.random.default_rng(0)
    x = rng.integers(0, LEVELS, (400, FEATURES)) / LEVELS
    y = 0.87 - (x**2 * np.linspace(0.02, 0.2, FEATURES)).sum(axis=1) + rng.normal(0, 0.004, len(x))
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


def seconds(call: Callable[[], object], samples: int) -> float:
    """Least time of one call, over at least 7 repetitions of at least a millisecond each."""
    call()
    calls = max(1, 2000 // samples)
    times = []
    for _ in range(7 if samples > 10_000 else 15):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - start) / calls)
    return min(times)


def contestants(depth: int) -> dict[str, tuple[Predict, type, float]]:
    """name -> (predict, type of its input, error allowed); the input of uint8 is levels, else features."""
    regressor = fit(depth)
    ensemble = TreeEnsemble.from_sklearn(regressor)
    coded = ensemble.code_levels(np.tile(np.arange(LEVELS) / LEVELS, (FEATURES, 1)))
    found: dict[str, tuple[Predict, type, float]] = {
        "scikit-learn": (regressor.predict, np.float64, 0.0),
        "coinfer_kernels": (ensemble.predict, np.float64, 1e-12),
        "coinfer_kernels, levels": (coded.predict, np.uint8, 1e-12),
    }
    for name, make in (("ONNX Runtime", onnx_runtime), ("tl2cgen", tl2cgen_library)):
        try:
            found[name] = (make(regressor), np.float32, 1e-5)
        except ImportError as error:
            print(f"{name}: left out, {error.name} is not installed", file=sys.stderr)
    return found


def measure(depth: int, batches: list[int]) -> list[dict[str, Any]]:
    rows = []
    entrants = contestants(depth)
    reference = entrants["scikit-learn"][0]
    for batch in batches:
        levels = np.random.default_rng(batch).integers(0, LEVELS, (batch, FEATURES)).astype(np.uint8)
        features = levels / LEVELS
        expected = reference(features)
        for name, (predict, kind, allowed) in entrants.items():
            x = levels if kind is np.uint8 else features.astype(kind)
            error = float(np.abs(predict(x) - expected).max())
            if error > allowed:
                raise SystemExit(f"{name}: differs from scikit-learn by {error}")
            taken = seconds(lambda predict=predict, x=x: predict(x), batch)
            rows.append({"depth": depth, "batch": batch, "name": name, "ns_per_sample": taken / batch * 1e9})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", type=int, nargs="+", default=[3, 6, 10])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 5, 100, 1000, 100_000])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [row for depth in arguments.depths for row in measure(depth, arguments.batches)]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    for depth in arguments.depths:
        print(f"\ndepth {depth}, ns a sample" + "".join(f"{batch:>12,}" for batch in arguments.batches))
        for name in dict.fromkeys(row["name"] for row in rows):
            cells = [row["ns_per_sample"] for row in rows if row["name"] == name and row["depth"] == depth]
            print(f"{name:<24}" + "".join(f"{cell:>12,.0f}" for cell in cells))


if __name__ == "__main__":
    main()
