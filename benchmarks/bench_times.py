"""Predicted times of halves of networks beside measured ones: mean absolute error of the three cost models.

    python benchmarks/bench_times.py --profile me.yaml [--networks alexnet,regnet_x_400mf] [--px 64] [--json]
    python benchmarks/bench_times.py --profile small.yaml --networks alexnet --cuts 3 --minutes 1

``--profile`` is the file of `coinfer profile --network`; where there is none it is written first, in ``--minutes`` for
each network. Then halves are measured anew: those of ``--cuts`` cuts (0: all) with all sets pruned by each of
``--levels``, which are in the fit of ``profile`` as they were measured then, and one a cut pruned set by set, which are
in none. Columns: flops, operations over the file's speed; layers, its five coefficients; profile, the network's own
times. The last two count a call of the runtime. Run it on an idle machine, with a board's cores as --threads; --px 224
is the paper's size. The whole run at 64 px takes some 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from coinfer_ray.cli.scripts import positive_int, run_script
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.problem.network_times import NetworkTimes, times_for
from coinfer_ray.problem.space import SearchSpace
from coinfer_ray.profile.fit_network import half_seconds
from coinfer_ray.profile.halves import Half, both_halves, measured_cuts, pruned_uniformly
from coinfer_ray.profile.measure import time_calls
from coinfer_ray.profile.profile import backend_of, profile
from coinfer_ray.profile.work import pruned_at_random
from coinfer_ray.runtime.progress import Progress
from coinfer_ray.scenarios.read import device_of, read_yaml

COST_MODELS = ("flops", "layers", "profile")
SEED = 1000  # of the patterns, none of which `coinfer profile` draws


def halves_of(graph: LayerGraph, levels: list[float], cuts: int) -> list[Half]:
    """Both halves at some cuts, evenly spread, at each level; and pruned set by set."""
    known, space, rng = measured_cuts(graph), SearchSpace(graph), np.random.default_rng(SEED)
    places = np.unique(np.linspace(0, len(known) - 1, cuts or len(known)).round().astype(int))
    found = []
    for cut in (known[place] for place in places):
        for level in levels:
            found += both_halves(pruned_uniformly(graph, space, level), cut, level, graph.model)
        found += both_halves(pruned_at_random(graph, rng), cut, None, graph.model)
    return found


def predictions(path: Path, graph: LayerGraph, half: Half) -> dict[str, float]:
    """Seconds of a half by each cost model, from the file."""
    call_s = read_yaml(path)["measured"]["call_seconds"]
    speed = device_of(str(path), cost_model="flops").flops_per_s
    layers = times_for(device_of(str(path), cost_model="layers").times, graph)
    own = times_for(device_of(str(path), cost_model="profile").times, graph)
    assert layers is not None and not isinstance(layers, NetworkTimes)
    assert isinstance(own, NetworkTimes)
    return {
        "flops": half.work.flops / speed,
        "layers": half_seconds(layers, call_s, half.work.layers),
        "profile": half_seconds(own, own.call_s, half.work.layers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", type=Path, required=True)
    parser.add_argument("--networks", default="alexnet,regnet_x_400mf")
    parser.add_argument("--px", type=positive_int, default=64)
    parser.add_argument("--levels", type=float, nargs="+", default=[0.0, 0.3, 0.5])
    parser.add_argument("--cuts", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--threads", type=positive_int, default=1)
    parser.add_argument("--backend", choices=("auto", "onnxruntime", "torch"), default="auto")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    networks = arguments.networks.split(",")
    shared: dict[str, Any] = {"threads": arguments.threads, "backend": arguments.backend}
    if not arguments.profile.exists():
        minutes = arguments.minutes * len(networks)
        profile(arguments.profile, networks=networks, input_px=arguments.px, minutes=minutes, **shared)
    graphs = {network: load_graph(network, arguments.px) for network in networks}
    work = [(graph, half) for graph in graphs.values() for half in halves_of(graph, arguments.levels, arguments.cuts)]
    runner, rows = backend_of(arguments.backend), []
    with Progress("halves", len(work)) as progress:
        for graph, half in work:
            seconds, spread = time_calls(runner.prepare(half.work, arguments.threads))
            row = {"network": graph.model, "side": half.side, "cut": half.cut, "pruned": half.pruned}
            rows.append({**row, "seconds": seconds, "spread": spread, **predictions(arguments.profile, graph, half)})
            progress.advance()
    errors = []
    for network in graphs:
        for pruned in (*arguments.levels, None):
            own = [row for row in rows if (row["network"], row["pruned"]) == (network, pruned)]
            means = {
                model: float(np.mean([abs(row[model] / row["seconds"] - 1) for row in own])) for model in COST_MODELS
            }
            errors.append({"network": network, "pruned": pruned, "halves": len(own), **means})
    if arguments.json:
        print(json.dumps({"px": arguments.px, "errors": errors, "halves": rows}))
        return
    print(f"{'network':<16} {'side':<7} {'cut':>4} {'pruned':>10} {'measured':>11} " + _header())
    for row in rows:
        times = " ".join(f"{row[name] * 1e3:8.3f} ms" for name in ("seconds", *COST_MODELS))
        print(f"{row['network']:<16} {row['side']:<7} {row['cut']:>4} {_pruned(row):>10} {times}")
    print(f"\nmean absolute error\n{'network':<16} {'pruned':>10} {'halves':>7} " + _header())
    for error in errors:
        shown = " ".join(f"{error[model]:11.1%}" for model in COST_MODELS)
        print(f"{error['network']:<16} {_pruned(error):>10} {error['halves']:>7} {shown}")


def _header() -> str:
    return " ".join(f"{model:>11}" for model in COST_MODELS)


def _pruned(row: dict[str, Any]) -> str:
    return "set by set" if row["pruned"] is None else f"{row['pruned']:.0%}"


if __name__ == "__main__":
    run_script(main)
