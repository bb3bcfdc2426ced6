"""Options that several commands share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, overload

import typer

from coinfer_ray.errors import InputError
from coinfer_ray.runtime.address import as_address
from coinfer_ray.runtime.places import local_copy

Command = TypeVar("Command", bound=Callable[..., None])

CutsChoice = Literal["all", "inner"]
CodecFlopsChoice = Literal["count", "neglect"]
FeatureBitsChoice = Literal["any", "auto", "32", "8"]
ExecutorChoice = Literal["ray", "local", "processes"]
AccuracyChoice = Literal["validation", "test"]
ObjectiveChoice = Literal["latency", "energy", "weighted", "throughput"]
CostModelChoice = Literal["flops", "layers", "profile"]


@overload
def as_place(text: str) -> str: ...
@overload
def as_place(text: None) -> None: ...
def as_place(text: str | None) -> str | None:
    """An option's folder or address as it is shown: paths without needless slashes."""
    return None if text is None else as_address(text) or str(Path(text))


def fetched(records: Path | None) -> Path | None:
    """An option's records; those at an address as a copy of this machine."""
    return None if records is None else local_copy(records, "records")


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Network: a name (see `coinfer models`), package.module:callable, or a layer graph (.json); default: that "
        "of --records.",
    ),
]
TrainedModel = Annotated[
    str, typer.Option("--model", help="Network: a name (see `coinfer models`), or package.module:callable.")
]
InputPx = Annotated[
    int | None,
    typer.Option(
        "--input-px",
        min=1,
        help="Side of the network's input, in pixels; default: that of its records, 224 where there are none.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed; the same one gives the same answer.")]
Records = Annotated[
    Path | None,
    typer.Option(
        "--records",
        callback=fetched,
        help="Records (Parquet) or a predictor (`coinfer fit --out`), a path or an address; default: the shipped ones.",
    ),
]
Accuracy = Annotated[
    AccuracyChoice, typer.Option("--accuracy", help="Images on which the records' accuracy was measured.")
]
Optimizer = Annotated[
    str,
    typer.Option(
        "--optimizer", help="exact, with a proof; quantum; genetic; paper: its Algorithm 1 as printed; paper-parent."
    ),
]
TimeLimit = Annotated[
    float | None, typer.Option("--time-limit", help="Seconds for one scenario; then the answer says what is proven.")
]
Certify = Annotated[
    bool, typer.Option("--certify", help="Prove how far each answer can be from the best that the predictor allows.")
]
Objective = Annotated[
    ObjectiveChoice,
    typer.Option(
        "--objective",
        help="Energy: the device's, needs its powers. Weighted: seconds and priced energy. "
        "Throughput: of a stream, among measured strategies.",
    ),
]
SecondsPerJoule = Annotated[
    float | None,
    typer.Option("--seconds-per-joule", help="With --objective weighted: seconds that a joule of the device is worth."),
]
MaxLoss = Annotated[float, typer.Option("--max-loss", help="Allowed loss of accuracy; 0.02: 2 points.")]
Confidence = Annotated[
    float | None,
    typer.Option(
        "--confidence",
        callback=lambda value: value or None,
        help="How sure it must be that the bound is kept; 0: take predictions as they are.",
    ),
]
Cuts = Annotated[
    CutsChoice,
    typer.Option("--cuts", help="`all`: all on the server and all on the device count as cuts; `inner`: only 1..N-1."),
]
CodecFlops = Annotated[
    CodecFlopsChoice, typer.Option("--codec-flops", help="Whether encoder and decoder cost time (the paper: no).")
]
FeatureBits = Annotated[
    FeatureBitsChoice,
    typer.Option(
        "--feature-bits",
        help="Of a feature's value on the link: 32 (floats, as in the paper), 8, or what is best (any, auto): one of "
        "these, or 6, 4 or 2 where that was measured.",
    ),
]
Multiple = Annotated[
    int, typer.Option("--multiple", min=1, help="Keep channels of pruned layers in multiples of this, such as 8.")
]
InputBits = Annotated[float, typer.Option("--input-bits", help="Bits of one element of the raw input on the link.")]

Device = Annotated[str | None, typer.Option("--device", help="A name (`coinfer devices` lists them), or a YAML file.")]
DeviceGflops = Annotated[float | None, typer.Option("--device-gflops", help="The device's speed instead of a name.")]
Server = Annotated[str | None, typer.Option("--server", help="A name (`coinfer devices` lists them), or a YAML file.")]
ServerGflops = Annotated[float | None, typer.Option("--server-gflops", help="The server's speed instead of a name.")]
Link = Annotated[str | None, typer.Option("--link", help="A name (`coinfer devices` lists them), or a YAML file.")]
RateMbps = Annotated[float | None, typer.Option("--rate-mbps", help="Uplink rate instead of a link's name.")]
BandwidthMhz = Annotated[
    float | None, typer.Option("--bandwidth-mhz", help="Bandwidth; with --snr-db it gives Shannon's rate.")
]
RoundTripMs = Annotated[
    float | None,
    typer.Option("--round-trip-ms", help="Time that crossing the link takes besides; default: the link's own."),
]
ServerLoad = Annotated[
    float | None,
    typer.Option("--server-load", help="Other work on the server: all takes 1 + that as long; default: its file's."),
]
CostModel = Annotated[
    CostModelChoice | None,
    typer.Option(
        "--cost-model",
        help="Operations over a speed, measured times of layers, or of the network; default: the last that a file has.",
    ),
]
SnrDb = Annotated[float | None, typer.Option("--snr-db", help="Signal-to-noise ratio of the link.")]

Executor = Annotated[
    ExecutorChoice, typer.Option("--executor", help="Ray's workers, this process alone, or several on this machine.")
]
Address = Annotated[str | None, typer.Option("--address", help="A running Ray cluster; default: start one here.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes; default: one per core.")]
Data = Annotated[str, typer.Option("--data", help="Images: those of the records.")]
Base = Annotated[
    Path | None, typer.Option("--base", help="The records' base network; default: the one in their folder.")
]

# Options by parameter name, with their defaults: what decides a scenario, and what decides the problem that it is of.
Group = Mapping[str, tuple[Any, Any]]
SCENARIO: Group = {
    "device": (Device, None),
    "device_gflops": (DeviceGflops, None),
    "server": (Server, None),
    "server_gflops": (ServerGflops, None),
    "link": (Link, None),
    "rate_mbps": (RateMbps, None),
    "bandwidth_mhz": (BandwidthMhz, None),
    "snr_db": (SnrDb, None),
    "round_trip_ms": (RoundTripMs, None),
    "server_load": (ServerLoad, None),
    "cost_model": (CostModel, None),
    "max_loss": (MaxLoss, 0.02),
    "confidence": (Confidence, 0.9),
}
PROBLEM: Group = {
    "records": (Records, None),
    "accuracy": (Accuracy, "validation"),
    "input_px": (InputPx, None),
    "cuts": (Cuts, "all"),
    "feature_bits": (FeatureBits, "any"),
    "multiple": (Multiple, 1),
    "codec_flops": (CodecFlops, "count"),
    "input_bits": (InputBits, 32.0),
}


def takes(*groups: Group) -> Callable[[Command], Command]:
    """Let a command take the options of ``groups`` as well: they arrive in its ``**chosen``.

    In its help they stand behind its own positional parameters and before those that are keywords only.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        leading = [one for one in own if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        added = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for group in groups
            for name, (annotation, default) in group.items()
        ]
        parameters = [*leading, *added, *own[len(leading) :]]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": None}
        return command

    return decorate


def network_of(model: str | None, records: Path | None) -> Any:
    """What a command's ``--model`` names; without one the network of its ``--records``.

    Raises:
        InputError: neither is given.
    """
    if model is not None:
        return model
    if records is None:
        raise InputError("model: missing; give --model, or the --records of a network")
    from coinfer_ray.predictor.predictor import Predictor
    from coinfer_ray.records.store import read_records

    return Predictor.load(records).layer_graph if records.suffix == ".npz" else read_records(records).graph


def given(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A command's ``**chosen`` as the functions of the library take it."""
    meant = dict(chosen)
    if "codec_flops" in meant:
        meant["codec_flops"] = meant["codec_flops"] == "count"
    if meant.get("feature_bits", "any") not in ("any", "auto"):
        meant["feature_bits"] = int(meant["feature_bits"])
    return meant


def read_range(name: str, text: str, unit: float) -> tuple[float, float]:
    """``LOW:HIGH`` or one number, in SI units.

    Raises:
        InputError: it is neither.
    """
    low, colon, high = text.partition(":")
    try:
        return float(low) * unit, float(high if colon else low) * unit
    except ValueError:
        raise InputError(f"{name}: {text!r} is no range; give LOW:HIGH, such as 0.1:100, or one number") from None
