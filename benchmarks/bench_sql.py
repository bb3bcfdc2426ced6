"""Scenarios answered by a database from an atlas as SQL, none of them stored: seconds and memory, beside the look-up.

    python benchmarks/bench_sql.py [--model alexnet] [--scenarios 1e8 1e9] [--threads 2] [--json]

Devices of 0.1 to 1,000 GFLOPS by rates of 0.1 to 1,000 Mb/s, 10,000 rates each, at a loss of 2 points with confidence
0.9. DuckDB makes the scenarios by `range`, answers each by the macros of `coinfer atlas sql` and adds up: how many
scenarios each strategy answers, and the sum of their latencies. Beside it the same sums by the atlas's own look-up, on
as many threads. Both must agree: where they do not, the command ends with status 1. DuckDB comes with the `dev` extra.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from dataclasses import dataclass

import duckdb
import numba
import numpy as np

from coinfer_ray.atlas.atlas import Ranges, StrategyAtlas
from coinfer_ray.atlas.build import build
from coinfer_ray.atlas.sql import atlas_sql
from coinfer_ray.cli.scripts import positive_int, positive_number, run_script
from coinfer_ray.optimizer.problem import assemble

DEVICE, SERVER, RATE = (8.0, 12.0), 1.06e13, (5.0, 9.0)  # decades of FLOP/s and bit/s, and a P100
RATES = 10_000
SLICE = 1 << 20  # scenarios that the look-up answers at a time
SQL = """
SELECT strategy, count(*) AS scenarios, sum(latency_s) AS latency_s FROM (
  SELECT net_row(device, {server}, rate) AS strategy, net_latency_s(device, {server}, rate) AS latency_s
  FROM (SELECT pow(10, {device[0]} + {device_step} * n) AS device FROM range({devices}) AS devices(n))
  CROSS JOIN (SELECT pow(10, {rate[0]} + {rate_step} * n) AS rate FROM range({rates}) AS rates(n)))
GROUP BY strategy ORDER BY strategy
"""


@dataclass
class Sums:
    """Of the atlas's rows: ``scenarios`` (K,) that each answers, and ``latency_s`` (K,) of these in all."""

    scenarios: np.ndarray
    latency_s: np.ndarray
    seconds: float

    def differs(self, other: Sums) -> float:
        """The larger share by which all scenarios' latencies, and each row's scenarios, are not the same.

        Two strategies may be level to the last bit, and either may then be named.
        """
        moved = np.abs(self.scenarios - other.scenarios).sum() / self.scenarios.sum()
        apart = abs(self.latency_s.sum() / other.latency_s.sum() - 1)
        return float(max(moved, apart))


def steps(devices: int, rates: int) -> tuple[float, float]:
    """Decades from one device, and from one rate, to the next."""
    return (DEVICE[1] - DEVICE[0]) / max(devices - 1, 1), (RATE[1] - RATE[0]) / max(rates - 1, 1)


def by_database(atlas: StrategyAtlas, devices: int, rates: int, threads: int) -> Sums:
    device_step, rate_step = steps(devices, rates)
    query = SQL.format(
        server=SERVER,
        device=DEVICE,
        rate=RATE,
        device_step=repr(device_step),
        rate_step=repr(rate_step),
        devices=devices,
        rates=rates,
    )
    with duckdb.connect(config={"threads": threads}) as connection:
        connection.execute(atlas_sql(atlas, "net"))
        began = time.perf_counter()
        found = connection.execute(query).fetchnumpy()
        seconds = time.perf_counter() - began
    sums = Sums(np.zeros(len(atlas), dtype=np.int64), np.zeros(len(atlas)), seconds)
    rows = np.asarray(found["strategy"], dtype=np.int64)
    sums.scenarios[rows], sums.latency_s[rows] = found["scenarios"], found["latency_s"]
    return sums


def by_look_up(atlas: StrategyAtlas, devices: int, rates: int, threads: int) -> Sums:
    began = time.perf_counter()
    device_step, rate_step = steps(devices, rates)
    per_bit = 10 ** -(RATE[0] + rate_step * np.arange(rates))
    sums = Sums(np.zeros(len(atlas), dtype=np.int64), np.zeros(len(atlas)), 0.0)
    at_once = max(1, SLICE // rates)
    for start in range(0, devices, at_once):
        numbers = np.arange(start, min(start + at_once, devices))
        weights = np.empty((len(numbers), rates, 3))
        weights[..., 0] = 10 ** -(DEVICE[0] + device_step * numbers)[:, None]
        weights[..., 1], weights[..., 2] = 1 / SERVER, per_bit
        row, latency_s = atlas.table.lookup(weights.reshape(-1, 3), threads=threads)
        sums.scenarios += np.bincount(row, minlength=len(atlas))
        sums.latency_s += np.bincount(row, latency_s, minlength=len(atlas))
    sums.seconds = time.perf_counter() - began
    return sums


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="alexnet")
    parser.add_argument("--scenarios", type=positive_number, nargs="+", default=[1e8])
    parser.add_argument("--threads", type=positive_int, default=numba.config.NUMBA_NUM_THREADS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    ranges = Ranges.of_speeds((10 ** DEVICE[0], 10 ** DEVICE[1]), (SERVER, SERVER), (10 ** RATE[0], 10 ** RATE[1]))
    atlas = build(assemble(given.model), ranges, max_loss=0.02, confidence=0.9, quiet=True)
    by_look_up(atlas, 1, 10, given.threads)  # compiles
    documents = []
    for scenarios in given.scenarios:
        rates = min(RATES, max(1, int(scenarios)))
        devices = max(1, int(scenarios) // rates)
        database = by_database(atlas, devices, rates, given.threads)
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        own = by_look_up(atlas, devices, rates, given.threads)
        document = {
            "processors": os.cpu_count(),
            "threads": given.threads,
            "strategies": len(atlas),
            "scenarios": devices * rates,
            "database_s": database.seconds,
            "look_up_s": own.seconds,
            "peak_mb": peak_mb,
            "differ": database.differs(own),
        }
        documents.append(document)
        if not given.json:
            print_one(document)
    if given.json:
        print(json.dumps(documents))
    if any(each["differ"] > 1e-6 for each in documents):
        sys.exit("bench_sql.py: the database and the look-up do not agree")


def print_one(one: dict[str, float]) -> None:
    each = 1e9 / one["scenarios"]
    print(
        f"{one['scenarios']:,} scenarios by an atlas of {one['strategies']} strategies, {one['threads']} thread(s): "
        f"the database {one['database_s']:.1f} s ({each * one['database_s']:.0f} ns each), the look-up "
        f"{one['look_up_s']:.1f} s ({each * one['look_up_s']:.0f} ns), {one['peak_mb']:.0f} MB at most; sums differ by "
        f"{one['differ']:.1e}",
        flush=True,
    )


if __name__ == "__main__":
    run_script(main)
