"""Measure this machine, fit, and write a device file; run again to go on where it stopped."""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from coinfer_ray.errors import InputError, check_name
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.source import ModelLike, resolve_model
from coinfer_ray.profile.fit import Fitted, Measurement, fit_times
from coinfer_ray.profile.fit_network import FittedNetwork, fit_network
from coinfer_ray.profile.halves import Half, halves_of
from coinfer_ray.profile.work import Prepared, Work, plan
from coinfer_ray.records.store import usual_input_px
from coinfer_ray.runtime.files import remove_run, run_folder, write_whole
from coinfer_ray.runtime.outputs import check_replaceable
from coinfer_ray.runtime.progress import Progress
from coinfer_ray.version import __version__

Backend = Literal["auto", "onnxruntime", "torch"]
MODELS = ("alexnet", "regnet_x_400mf")
WARM_UP_S, MEASURE_S = 0.05, 0.25  # of one piece of work, at least
FEWEST_CALLS, MOST_CALLS = 7, 200
EVICT_BYTES = 64 << 20  # more than the caches of most processors hold
BUSY_LOAD = 0.5  # processors that others keep at work, from which on times are in doubt
WIDE_SPREAD = 0.25
_PARTS = ".parts"
_PART = "measured-{:06d}.json"
_PART_NAME = r"measured-\d{6,}\.json"


@dataclass(frozen=True)
class Profile:
    """What was measured and fitted. ``document`` is the device file; ``warnings`` are for whoever reads it.

    ``networks``: those whose own times were fitted.
    """

    fitted: Fitted
    document: dict[str, Any]
    warnings: tuple[str, ...]
    done: int
    planned: int
    networks: tuple[FittedNetwork, ...] = ()


def profile(
    out: str | Path,
    *,
    models: Sequence[str] = MODELS,
    networks: Sequence[ModelLike] = (),
    input_px: int | None = None,
    minutes: float = 5.0,
    threads: int = 1,
    backend: Backend = "auto",
    name: str | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Profile:
    """Measure layers and halves of ``models`` on ``threads`` threads for at most ``minutes``, fit, and write ``out``.

    ``networks`` are those whose own times are fitted besides, each to its halves at every cut and several levels of
    pruning (:mod:`coinfer_ray.profile.fit_network`): what :func:`coinfer_ray.models.source.resolve_model` takes.

    ``out`` is YAML, or JSON by its ending, and is what ``--device`` and ``--server`` take. What is measured is kept in
    ``OUT.parts`` until the file is there; run again with the same it measures the rest. ``input_px`` is the side of the
    networks' input (default: that of their records). ``backend``: ``onnxruntime``, or ``torch`` where that is missing.

    Raises:
        InputError: unknown names, numbers out of range, a file there that is no device's, nothing to measure with, or
            too few measurements for a fit.
    """
    out = Path(out)
    if out.suffix not in (".yaml", ".yml", ".json"):
        raise InputError(f"out: {out} must end in .yaml or .json, by which --device knows a file")
    if not minutes > 0 or threads < 1:
        raise InputError(f"profile: {minutes:g} minutes on {threads} threads; both must be above 0")
    check_replaceable(out, "device")
    chosen = backend_of(backend)
    work = plan([load_graph(model, input_px or usual_input_px(model)) for model in models], seed)
    sources = [resolve_model(network) for network in networks]
    graphs = [load_graph(source, input_px or usual_input_px(source)) for source in sources]
    halves = [(graph, halves_of(graph, seed)) for graph in graphs]
    everything = [*work, *(half.work for _, each in halves for half in each)]
    settings = {
        "models": list(models),
        "input_px": input_px,
        "threads": threads,
        "backend": chosen.version(),
        "machine": _machine(),
        "seed": seed,
        "version": __version__,
        **({"networks": [f"{each.model} {each.input_px} {each.fingerprint}" for each in graphs]} if graphs else {}),
    }
    with run_folder(out.with_name(out.name + _PARTS), "profile", settings) as folder:
        order = _interleaved([len(work), *(len(each) for _, each in halves)])
        measured, load = _measure(everything, order, chosen.prepare, folder, minutes * 60, threads, quiet)
        found = _profile(measured, len(everything), settings, load, name or platform.node() or "this machine")
        found = _with_networks(found, halves, [measured.get(number) for number in range(len(work), len(everything))])
        _write(out, document_text(found.document, out.suffix))
        remove_run(folder, _PART_NAME)
    return found


def backend_of(name: Backend) -> Any:
    """The module that runs layers: :mod:`coinfer_ray.profile.onnx_layers`, or that of torch."""
    check_name("backend", name, get_args(Backend))
    if name != "torch":
        try:
            from coinfer_ray.profile import onnx_layers

            return onnx_layers
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in ("onnx", "onnxruntime"):
                raise
            if name == "onnxruntime":
                raise InputError("backend: ONNX Runtime is missing; pip install 'coinfer-ray[device]'") from None
    try:
        from coinfer_ray.profile import torch_layers
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError(
            "backend: neither ONNX Runtime nor torch is installed; pip install 'coinfer-ray[device]'"
        ) from None
    return torch_layers


def _interleaved(counts: Sequence[int]) -> list[int]:
    """The numbers of all things of several kinds, so many of each, that stand one kind behind the other: in an order of
    which any beginning holds its share of every kind."""
    first = [sum(counts[:kind]) for kind in range(len(counts))]
    place = [(k / count, start + k) for start, count in zip(first, counts, strict=True) for k in range(count)]
    return [number for _, number in sorted(place)]


def _measure(
    work: Sequence[Work],
    order: Sequence[int],
    prepare: Callable[[Work, int], Prepared],
    folder: Path,
    seconds: float,
    threads: int,
    quiet: bool,
) -> tuple[dict[int, Measurement], float]:
    """Measure what is not there yet, in that order, until the time is up; all that is measured, by its number, and the
    highest load by others."""
    kept = {number: found for number in range(len(work)) if (found := _read(folder / _PART.format(number)))}
    deadline, load = time.monotonic() + seconds, _load()
    with Progress("measurements", len(work), done=len(kept), quiet=quiet) as progress:
        for number in order:
            each = work[number]
            if number in kept:
                continue
            if time.monotonic() > deadline:
                break
            median, spread = time_calls(prepare(each, threads))
            found = Measurement(each.name, each.part, tuple(each.terms.tolist()), each.flops, median, spread)
            _write(folder / _PART.format(number), json.dumps(asdict(found)) + "\n")
            kept[number] = found
            load = max(load, _load() - threads)
            progress.advance()
    return {number: kept[number] for number in sorted(kept)}, load


def time_calls(work: Prepared, clock: Callable[[], float] = time.perf_counter) -> tuple[float, float]:
    """The median time of a call (s), and its spread: the range of the middle half over the median.

    Calls until :data:`WARM_UP_S` have passed are not counted; then until :data:`MEASURE_S` and at least
    :data:`FEWEST_CALLS`, at most :data:`MOST_CALLS`. Before each the caches are emptied and the input is read: in a
    network a layer's input has just been written, and its weights have been forgotten since the last image. (Weights
    that stay in the cache made AlexNet's linear layers nine times too fast.)
    """
    others = np.zeros(EVICT_BYTES // 8)
    begun = clock()
    while True:
        work.call()
        if clock() - begun >= WARM_UP_S:
            break
    times: list[float] = []
    while len(times) < MOST_CALLS and (len(times) < FEWEST_CALLS or sum(times) < MEASURE_S):
        np.add(others, 1.0, out=others)
        work.touch()
        before = clock()
        work.call()
        times.append(clock() - before)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
    return median, (high - low) / median


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda temporary: temporary.write_text(text))


def _read(path: Path) -> Measurement | None:
    """A measurement that is kept; None where there is none, or it is not whole: it is made again."""
    try:
        document = json.loads(path.read_text())
        return Measurement(**{**document, "terms": tuple(document["terms"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _profile(
    found: Mapping[int, Measurement], planned: int, settings: dict[str, Any], load: float, name: str
) -> Profile:
    """What is fitted for all layers, as a device file."""
    measured = list(found.values())
    fitted = fit_times(measured)
    spread = float(np.median([each.spread for each in measured]))
    warnings = []
    if load > BUSY_LOAD:
        warnings.append(f"the machine was busy with other work (load {load:.1f} besides): times may be too long")
    if spread > WIDE_SPREAD:
        warnings.append(f"times of one layer differ by {spread:.0%} (half of them): measure on a quiet machine")
    if len(measured) < planned:
        warnings.append(f"{len(measured)} of {planned} pieces of work were measured; more --minutes fit better")
    parts = {part: sum(each.part == part for each in measured) for part in ("layer", "run", "half")}
    document = {
        "name": name,
        "gflops": fitted.flops_per_s / 1e9,
        "layer_seconds": fitted.times.to_json(),
        "held_out_error": {
            "layer": fitted.layer_error,
            "end_to_end": fitted.half_error,
            "end_to_end_by_gflops": fitted.half_error_of_speed,
        },
        "measured": {
            **{key: value for key, value in settings.items() if value is not None},
            "when": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "layers": parts["layer"],
            "runs": parts["run"],
            "halves": parts["half"],
            "call_seconds": fitted.call_s,
            "median_spread": spread,
            "load_by_others": max(0.0, load),
        },
    }
    return Profile(fitted, document, tuple(warnings), len(measured), planned)


def _with_networks(
    found: Profile, halves: Sequence[tuple[LayerGraph, list[Half]]], measured: Sequence[Measurement | None]
) -> Profile:
    """With the times of networks of their own, where any are asked for; ``measured`` are their halves, in order."""
    if not halves:
        return found
    rest, fitted, entries = iter(measured), [], []
    for graph, each in halves:
        own = [(half, one.seconds) for half, one in zip(each, rest, strict=False) if one is not None]
        fitted.append(fit_network(graph, found.fitted.times, found.fitted.call_s, own))
        entries.append(_entry(graph, fitted[-1], own))
    document = {**found.document, "network_seconds": entries}
    return replace(found, networks=tuple(fitted), document=document)


def _entry(graph: LayerGraph, fitted: FittedNetwork, measured: Sequence[tuple[Half, float]]) -> dict[str, Any]:
    """A network's times as the device file holds them, with the halves that they were fitted to."""
    times = fitted.times
    return {
        "network": times.network,
        "input_px": times.input_px,
        "fingerprint": times.fingerprint,
        "call": times.call_s,
        "layers": {layer.name: list(row) for layer, row in zip(graph.layers, times.rows, strict=True)},
        "held_out_error": {"halves": fitted.error, "halves_by_layer_seconds": fitted.layer_error},
        "measured": {
            "columns": ["side", "cut", "pruned", "seconds"],
            "halves": [
                [half.side, half.cut, "held out" if half.pruned is None else half.pruned, seconds]
                for half, seconds in measured
            ],
        },
    }


def document_text(document: dict[str, Any], suffix: str) -> str:
    """A device file's content: JSON, or YAML with a line for each of many rows."""
    if suffix == ".json":
        return json.dumps(document, indent=2) + "\n"
    import yaml

    networks = document.get("network_seconds")
    text: str = yaml.safe_dump({key: document[key] for key in document if key != "network_seconds"}, sort_keys=False)
    if networks is None:
        return text
    rows: str = yaml.safe_dump({"network_seconds": networks}, sort_keys=False, default_flow_style=None, width=120)
    return text + rows


def _load() -> float:
    """Processes that ran or waited over the last minute."""
    return os.getloadavg()[0]


def _machine() -> str:
    """The processor by name, where the system says it, and how many there are."""
    named = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        named = next(line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    except (OSError, StopIteration):
        pass
    return f"{named}, {os.cpu_count()} processors"
