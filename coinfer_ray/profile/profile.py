"""Measure this machine, fit, and write a device file; run again to go on where it stopped."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from coinfer_ray.errors import InputError, check_name, counted
from coinfer_ray.models.layers import LayerGraph
from coinfer_ray.models.library import load_graph
from coinfer_ray.models.source import ModelLike, resolve_model
from coinfer_ray.profile.fit import Fitted, Measurement, fit_times
from coinfer_ray.profile.fit_network import FittedNetwork, fit_network
from coinfer_ray.profile.halves import Half, halves_of
from coinfer_ray.profile.measure import Prepared, doubts, load_before, machine, measure
from coinfer_ray.profile.work import Work, plan
from coinfer_ray.records.store import usual_input_px
from coinfer_ray.runtime.files import remove_run, run_folder, write_whole
from coinfer_ray.runtime.outputs import check_replaceable
from coinfer_ray.runtime.progress import Progress
from coinfer_ray.version import __version__

Backend = Literal["auto", "onnxruntime", "torch"]
MODELS = ("alexnet", "regnet_x_400mf")
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


@dataclass(frozen=True)
class Planned:
    """What is to be measured: ``work`` of ``models``, which the times of all layers are fitted to, and the ``halves``
    of each network whose own times are fitted."""

    models: tuple[LayerGraph, ...]
    work: list[Work]
    halves: list[tuple[LayerGraph, list[Half]]]

    @property
    def everything(self) -> list[Work]:
        return [*self.work, *(half.work for _, each in self.halves for half in each)]

    @property
    def order(self) -> list[int]:
        """The numbers in ``everything``, in an order of which any beginning holds its share of all."""
        return _interleaved([len(self.work), *(len(each) for _, each in self.halves)])

    def settings(
        self, models: Sequence[str], input_px: int | None, seed: int, ran: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the device file says of how it was measured; ``ran``: the threads, the backend and the machine."""
        networks = [f"{graph.model} {graph.input_px} {graph.fingerprint}" for graph, _ in self.halves]
        return {
            "models": list(models),
            "input_px": input_px,
            **{key: ran[key] for key in ("threads", "backend", "machine")},
            "seed": seed,
            "version": __version__,
            **({"networks": networks} if networks else {}),
        }


def planned_of(
    models: Sequence[ModelLike], networks: Sequence[ModelLike], input_px: int | None = None, seed: int = 0
) -> Planned:
    """What to measure of the ``models`` and ``networks``, as :func:`profile` takes them.

    Raises:
        InputError: unknown names, or a network that cannot be built or traced here.
    """
    graphs = [load_graph(model, input_px or usual_input_px(model)) for model in models]
    sources = [resolve_model(network) for network in networks]
    own = [load_graph(source, input_px or usual_input_px(source)) for source in sources]
    return Planned(tuple(graphs), plan(graphs, seed), [(graph, halves_of(graph, seed)) for graph in own])


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
    if not minutes > 0 or threads < 1:
        raise InputError(f"profile: {minutes:g} minutes on {counted(threads, 'thread')}; both must be above 0")
    check_device_file(out)
    chosen = backend_of(backend)
    planned = planned_of(models, networks, input_px, seed)
    ran = {"threads": threads, "backend": chosen.version(), "machine": machine()}
    settings = planned.settings(models, input_px, seed, ran)
    with run_folder(out.with_name(out.name + _PARTS), "profile", settings) as folder:
        measured, load = _measure(planned, chosen.prepare, folder, minutes * 60, threads, quiet)
        found = fitted_profile(planned, measured, settings, load, name or platform.node())
        write_device(out, found)
        remove_run(folder, _PART_NAME)
    return found


def check_device_file(out: Path) -> None:
    """Raise InputError where a device file can't be written to ``out``, or would destroy something else."""
    if out.suffix not in (".yaml", ".yml", ".json"):
        raise InputError(f"out: {out} must end in .yaml or .json, by which --device knows a file")
    check_replaceable(out, "device")


def write_device(out: Path, found: Profile) -> None:
    _write(out, document_text(found.document, out.suffix))


def backend_of(name: Backend) -> Any:
    """The module that runs layers: :mod:`coinfer_ray.profile.onnx_layers`, or that of torch."""
    check_name("backend", name, get_args(Backend))
    if name != "torch":
        try:
            from coinfer_ray.profile import onnx_layers

            onnx_layers.version()  # what runs the models is imported here
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
    planned: Planned,
    prepare: Callable[[Work, int], Prepared],
    folder: Path,
    seconds: float,
    threads: int,
    quiet: bool,
) -> tuple[dict[int, Measurement], float]:
    """Measure what is not there yet until the time is up; all that is measured, by its number, and the highest load by
    others."""
    work = planned.everything
    kept = {number: found for number in range(len(work)) if (found := _read(folder / _PART.format(number)))}
    rest = [number for number in planned.order if number not in kept]
    load = load_before(threads, resumed=bool(kept))
    with Progress("measurements", len(work), done=len(kept), quiet=quiet) as progress:
        for timed in measure(rest, lambda number: prepare(work[number], threads), threads, seconds):
            found = measurement_of(work[timed.number], timed.seconds, timed.spread)
            _write(folder / _PART.format(timed.number), json.dumps(asdict(found)) + "\n")
            kept[timed.number] = found
            load = max(load, timed.load)
            progress.advance()
    return {number: kept[number] for number in sorted(kept)}, load


def measurement_of(work: Work, seconds: float, spread: float) -> Measurement:
    return Measurement(work.name, work.part, tuple(work.terms.tolist()), work.flops, seconds, spread)


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda temporary: temporary.write_text(text))


def _read(path: Path) -> Measurement | None:
    """A measurement that is kept; None where there is none, or it is not whole: it is made again."""
    try:
        document = json.loads(path.read_text())
        return Measurement(**{**document, "terms": tuple(document["terms"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def fitted_profile(
    planned: Planned,
    measured: Mapping[int, Measurement],
    settings: dict[str, Any],
    load: float,
    name: str,
    when: str | None = None,
) -> Profile:
    """What is fitted to all that was ``measured``, by its number in ``planned.everything``, on the day ``when``
    (default: today) beside a ``load`` by others.

    Raises:
        InputError: too few measurements.
    """
    everything, first = planned.everything, len(planned.work)
    when = when or datetime.datetime.now(datetime.UTC).date().isoformat()
    found = _of_layers(measured, len(everything), settings, load, name or "this machine", when)
    return _with_networks(found, planned.halves, [measured.get(number) for number in range(first, len(everything))])


def _of_layers(
    found: Mapping[int, Measurement], planned: int, settings: dict[str, Any], load: float, name: str, when: str
) -> Profile:
    """What is fitted for all layers, as a device file."""
    measured = list(found.values())
    fitted = fit_times(measured)
    spread = float(np.median([each.spread for each in measured]))
    warnings = doubts(load, spread)
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
            "when": when,
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
