"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

CutsChoice = Literal["all", "inner"]
CodecFlopsChoice = Literal["count", "neglect"]
ExecutorChoice = Literal["ray", "local"]
AccuracyChoice = Literal["validation", "test"]
ObjectiveChoice = Literal["latency", "energy"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Model = Annotated[str, typer.Option("--model", help="Network, see `coinfer models`.")]
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
        "--records", help="Records (Parquet) or a predictor (`coinfer fit --out`); default: the shipped ones."
    ),
]
Accuracy = Annotated[
    AccuracyChoice, typer.Option("--accuracy", help="Images on which the records' accuracy was measured.")
]
Optimizer = Annotated[
    str, typer.Option("--optimizer", help="quantum; exact, with a proof; or paper: its Algorithm 1 as printed.")
]
Certify = Annotated[
    bool, typer.Option("--certify", help="Prove how far each answer can be from the best that the predictor allows.")
]
Objective = Annotated[ObjectiveChoice, typer.Option("--objective", help="Energy: the device's, needs its powers.")]
MaxLoss = Annotated[float, typer.Option("--max-loss", help="Allowed loss of accuracy; 0.02: 2 points.")]
Confidence = Annotated[
    float | None,
    typer.Option("--confidence", help="How sure the predictor must be of it, 0.95 say; default: its best guess."),
]
Cuts = Annotated[
    CutsChoice,
    typer.Option("--cuts", help="`all`: all on the server and all on the device count as cuts; `inner`: only 1..N-1."),
]
CodecFlops = Annotated[
    CodecFlopsChoice, typer.Option("--codec-flops", help="Whether encoder and decoder cost time (the paper: no).")
]
InputBits = Annotated[float, typer.Option("--input-bits", help="Bits of one element of the raw input on the link.")]

Device = Annotated[str | None, typer.Option("--device", help="rpi3b+, rpi4b, tk1, or a YAML file.")]
DeviceGflops = Annotated[float | None, typer.Option("--device-gflops", help="The device's speed instead of a name.")]
Server = Annotated[str | None, typer.Option("--server", help="p100, or a YAML file.")]
ServerGflops = Annotated[float | None, typer.Option("--server-gflops", help="The server's speed instead of a name.")]
Link = Annotated[str | None, typer.Option("--link", help="3g, 4g, 5g, wifi, or a YAML file.")]
RateMbps = Annotated[float | None, typer.Option("--rate-mbps", help="Uplink rate instead of a link's name.")]
BandwidthMhz = Annotated[
    float | None, typer.Option("--bandwidth-mhz", help="Bandwidth; with --snr-db it gives Shannon's rate.")
]
SnrDb = Annotated[float | None, typer.Option("--snr-db", help="Signal-to-noise ratio of the link.")]

Executor = Annotated[ExecutorChoice, typer.Option("--executor", help="Ray's workers, or this process alone.")]
Address = Annotated[str | None, typer.Option("--address", help="A running Ray cluster; default: start one here.")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Worker processes; default: one per core.")]


Data = Annotated[str, typer.Option("--data", help="Images: those of the records.")]


Base = Annotated[
    Path | None, typer.Option("--base", help="The records' base network; default: the one in their folder.")
]
