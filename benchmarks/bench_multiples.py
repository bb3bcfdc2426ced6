"""Pruned networks whose channels are kept as they come, or in multiples: seconds beside what FLOPs promise.

    python benchmarks/bench_multiples.py [--networks alexnet,regnet_x_400mf,mobilenet_v2] [--px 224] [--json]

Each network whole, and with all prunable sets pruned by each of ``--levels``, or by the share nearest to it at which
channels are kept in a multiple (`--multiple` of `coinfer optimize`; 1: as they come). Runs in ONNX Runtime and in
torch, those of both that are installed, by the very calls of `coinfer profile`. Every network is measured
``--repeats`` times in turn and the least of its medians counts. "Reached" is how many times faster than the whole
network it ran, over how many times fewer FLOPs it has: 1 where it is as fast as FLOPs promise. Half of a layer's
channels is a multiple already, so the levels are near a half and not it. Run it on an idle machine, with a board's
cores as --threads. MobileNetV2 needs torchvision.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from coinfer_ray.cli.scripts import inner_share, positive_int, run_script
from coinfer_ray.errors import InputError
from coinfer_ray.models.library import load_graph
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.profile.halves import pruned_uniformly
from coinfer_ray.profile.measure import time_calls
from coinfer_ray.profile.profile import backend_of
from coinfer_ray.profile.work import Work
from coinfer_ray.runtime.progress import Progress


def networks_of(network: str, px: int, levels: list[float], multiples: list[int]) -> list[dict[str, Any]]:
    """The whole network, and its pruned ones: their work, FLOPs, and the share of all FLOPs that is left."""
    graph = load_graph(network, px)
    found: list[dict[str, Any]] = [{"network": network, "pruned": 0.0, "multiple": None, "layers": graph.layers}]
    for level in levels:
        for multiple in multiples:
            pruned = pruned_uniformly(graph, SearchSpace(graph, multiple=multiple), level)
            found.append({"network": network, "pruned": level, "multiple": multiple, "layers": pruned.layers})
    for each in found:
        each["work"] = Work(f"{network}-{px}", "half", each.pop("layers"))
        each["mflop"] = each["work"].flops / 1e6
        each["flops_left"] = each["work"].flops / graph.flops
    return found


def runners() -> dict[str, Any]:
    """The backends that are installed, by name."""
    found = {}
    for name in ("onnxruntime", "torch"):
        try:
            found[name] = backend_of(name)
        except InputError:
            continue
    return found


def measure(cases: list[dict[str, Any]], runner: Any, threads: int, repeats: int) -> list[float]:
    """The least of each case's median seconds; the cases take turns, so that all see the same machine."""
    seconds = [float("inf")] * len(cases)
    with Progress("networks", repeats * len(cases)) as progress:
        for _ in range(repeats):
            for number, case in enumerate(cases):
                seconds[number] = min(seconds[number], time_calls(runner.prepare(case["work"], threads))[0])
                progress.advance()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default="alexnet,regnet_x_400mf,mobilenet_v2")
    parser.add_argument("--px", type=positive_int, default=224)
    parser.add_argument("--levels", type=inner_share, nargs="+", default=[0.3, 0.52])
    parser.add_argument("--multiples", type=positive_int, nargs="+", default=[1, 4, 8, 16])
    parser.add_argument("--threads", type=positive_int, default=1)
    parser.add_argument("--repeats", type=positive_int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    networks = arguments.networks.split(",")  # all of them are known before the first is measured
    for cases in [networks_of(name, arguments.px, arguments.levels, arguments.multiples) for name in networks]:
        for name, runner in runners().items():
            seconds = measure(cases, runner, arguments.threads, arguments.repeats)
            for case, taken in zip(cases, seconds, strict=True):
                speed_up = seconds[0] / taken
                shown = {key: value for key, value in case.items() if key != "work"}
                own = {
                    "backend": name,
                    "seconds": taken,
                    "speed_up": speed_up,
                    "reached": speed_up * case["flops_left"],
                }
                rows.append({**shown, **own})
    if arguments.json:
        print(json.dumps({"px": arguments.px, "rows": rows}, indent=2))
        return
    print(
        f"{'network':<16}{'backend':<13}{'pruned':>7}{'multiple':>9}{'FLOPs left':>11}{'ms':>9} {'faster':>7} reached"
    )
    for row in rows:
        multiple = "-" if row["multiple"] is None else f"{row['multiple']}"
        print(
            f"{row['network']:<16}{row['backend']:<13}{row['pruned']:>7.0%}{multiple:>9}{row['flops_left']:>11.1%}"
            f"{1e3 * row['seconds']:>9.2f}{row['speed_up']:>7.2f}x{row['reached']:>8.2f}"
        )


if __name__ == "__main__":
    run_script(main)
