"""``coinfer profile``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import check_output, note, print_json, print_table, stdout_for_answers

if TYPE_CHECKING:
    from coinfer_ray.profile.profile import Profile

BackendChoice = Literal["auto", "onnxruntime", "torch"]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command(
        epilog="""Examples:

\b
  coinfer profile --out pi5.yaml --threads 4
  coinfer profile --out pi5.yaml --threads 4 --minutes 20 --network alexnet,regnet_x_400mf
  coinfer optimize --model alexnet --device pi5.yaml --server v100-ncnn --link 4g-typical

\b
Run the same line again after it was stopped: it goes on where it was.
""",
    )(profile)


def profile(
    out: Annotated[Path, typer.Option("--out", help="The device file (.yaml or .json), for --device and --server.")],
    minutes: Annotated[float, typer.Option("--minutes", help="Time to measure for, at most.")] = 5.0,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads to run layers on.")] = 1,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Networks whose layers to measure; default: those that ship.")
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", help="Networks, with commas, whose own halves to measure, for --cost-model profile."),
    ] = None,
    input_px: options.InputPx = None,
    backend: Annotated[
        BackendChoice, typer.Option("--backend", help="What runs the layers; auto: ONNX Runtime, else torch.")
    ] = "auto",
    name: Annotated[str | None, typer.Option("--name", help="Of the device; default: the machine's.")] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure this machine's layers and write them as a device file; run again to resume."""
    check_output(out, "device")
    with stdout_for_answers():
        from coinfer_ray.profile.profile import MODELS
        from coinfer_ray.profile.profile import profile as run

        found = run(
            out,
            models=model or MODELS,
            networks=() if network is None else [each.strip() for each in network.split(",")],
            input_px=input_px,
            minutes=minutes,
            threads=threads,
            backend=backend,
            name=name,
            seed=seed,
        )
    for warning in found.warnings:
        note(f"warning: {warning}")
    if json:
        print_json({"out": str(out), **found.document})
    else:
        _print_profile(out, found)


def _print_profile(out: Path, found: Profile) -> None:
    from rich.table import Table

    fitted = found.fitted
    table = Table("what", "takes", title=f"{out}: {found.done} of {found.planned} measured", title_justify="left")
    units = ("ps a FLOP", "ps a FLOP", "ps", "ps", "us")
    names = ("convolution", "grouped convolution", "a value read or written", "a weight", "a layer")
    scales = (1e12, 1e12, 1e12, 1e12, 1e6)
    for title, unit, scale, seconds in zip(names, units, scales, vars(fitted.times).values(), strict=True):
        table.add_row(title, f"{seconds * scale:,.4g} {unit}")
    table.add_row("a call of the runtime", f"{fitted.call_s * 1e6:,.4g} us")
    table.add_row("error by layer, held out", f"{fitted.layer_error:.1%}")
    table.add_row("error end to end, held out", f"{fitted.half_error:.1%}")
    table.add_row("  by one speed", f"{fitted.half_error_of_speed:.1%} ({fitted.flops_per_s / 1e9:,.3g} GFLOPS)")
    for each in found.networks:
        title = f"{each.times.network} at {each.times.input_px} px, held out"
        table.add_row(title, f"{each.error:.1%} (by layer {each.layer_error:.1%}), {each.fitted} halves fitted")
    print_table(table)
