"""Plain splits chosen by published times of ResNet-50's blocks, and by one speed, beside the measured best.

    python benchmarks/bench_splits.py [--rates 200] [--json]

Scission's tables (``tests/published.py`` has the numbers and their source) are imported as `coinfer devices --import`
does it, for a Raspberry Pi and a Jetson Nano beside a GPU server, at rates from 0.05 to 5,000 Mb/s, with and without a
round trip of 67 ms. Each choice is judged by the table alone: its seconds there over the least there. "One speed" is
operations over a speed of the device and one of the server: that of this very network, all its operations over all its
seconds in the table; or the paper's, which no table of this network was needed for. Needs torchvision.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from coinfer_ray.cli.scripts import positive_int, run_script

sys.path.insert(0, str(Path(__file__).parents[1]))
ROUND_TRIPS_S = (0.0, 0.067)
PAPER = {"raspberrypi-2": "rpi4b", "jetsonnano": "tk1"}  # the paper's device of the kind; its server is the P100


def chosen_cuts(problem: Any, device: Any, server: Any, rates_bps: np.ndarray, round_trip_s: float) -> list[int]:
    """Where the best plain split cuts at each rate."""
    from coinfer_ray.methods.neurosurgeon import Neurosurgeon
    from coinfer_ray.scenarios.batch import ScenarioBatch
    from coinfer_ray.scenarios.scenario import Link, Scenario

    links = [Link("uplink", rate, round_trip_s=round_trip_s) for rate in rates_bps.tolist()]
    batch = ScenarioBatch.of([Scenario(device, server, link) for link in links])
    return [int(point) for point in Neurosurgeon().solve(problem, batch).partition_point]


def compared(rates: int) -> list[dict[str, Any]]:
    """For each device, round trip and way to count: how far above the measured best its splits are."""
    from coinfer_ray.models.library import load_graph
    from coinfer_ray.optimizer.problem import assemble
    from coinfer_ray.profile.imported import import_times
    from coinfer_ray.scenarios.read import device_of, server_of
    from coinfer_ray.scenarios.scenario import Device, Server
    from tests.published import DEVICES, SERVER, layers_ms, measured_splits, write_table

    graph, rates_bps = load_graph("resnet50", 224), np.geomspace(0.05e6, 5e9, rates)
    by_operations = assemble("resnet50", input_px=224, predict=False)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        table = write_table(Path(folder) / "times.csv", graph)
        files = {side: Path(folder) / f"{number}.yaml" for number, side in enumerate((*DEVICES, SERVER))}
        for side, file in files.items():
            import_times(table, file, side=side, input_px=224)
        for name in DEVICES:
            device, server = device_of(str(files[name])), server_of(str(files[SERVER]))
            own = [graph.flops / (sum(layers_ms(side)) / 1e3) for side in (name, SERVER)]
            by_times = assemble("resnet50", input_px=224, predict=False, times=(device.times, server.times))
            ways = {
                "imported": (by_times, device, server),
                "its own speed": (by_operations, Device("own", own[0]), Server("own", own[1])),
                "the paper's speed": (by_operations, device_of(PAPER[name]), server_of("p100")),
            }
            for round_trip_s in ROUND_TRIPS_S:
                cuts, seconds = measured_splits(graph, name, rates_bps, round_trip_s)
                for way, (problem, *sides) in ways.items():
                    points = chosen_cuts(problem, *sides, rates_bps, round_trip_s)
                    above = np.array([row[cuts.index(point)] for row, point in zip(seconds, points, strict=True)])
                    above /= seconds.min(axis=1)
                    rows.append(
                        {
                            "device": name,
                            "round_trip_ms": round_trip_s * 1e3,
                            "counted_by": way,
                            "missed": float(np.mean(above > 1 + 1e-9)),
                            "mean": float(above.mean()),
                            "worst": float(above.max()),
                            "worst_at_mbps": float(rates_bps[above.argmax()] / 1e6),
                        }
                    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=positive_int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = compared(arguments.rates)
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f"{'device':<15}{'round trip':>11}  {'counted by':<19}{'missed':>8}{'mean':>8}{'worst':>8}{'at':>12}")
    for row in rows:
        worst = f"{row['worst']:>8.3f}{row['worst_at_mbps']:>7.3g} Mb/s" if row["missed"] else f"{1:>8.3f}{'-':>12}"
        print(
            f"{row['device']:<15}{row['round_trip_ms']:>8.0f} ms  {row['counted_by']:<19}{row['missed']:>8.1%}"
            f"{row['mean']:>8.3f}{worst}"
        )


if __name__ == "__main__":
    run_script(main)
