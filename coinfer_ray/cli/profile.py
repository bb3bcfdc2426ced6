"""``coinfer profile``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from coinfer_ray.cli import options
from coinfer_ray.cli.output import check_output, note, print_json, print_table, stdout_for_answers
from coinfer_ray.errors import InputError, counted

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

\b
For a board that cannot have coinfer, but numpy and onnxruntime:
  coinfer profile --bundle board --network alexnet
  python3 measure.py --threads 4    (there, in the folder board)
  coinfer profile --measured measured.json --out pi5.yaml
""",
    )(profile)


def profile(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option("--out", help="The device file (.yaml or .json), for --device and --server.")
    ] = None,
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
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="Measure nothing; write a folder with which another machine measures itself."),
    ] = None,
    measured: Annotated[
        Path | None, typer.Option("--measured", help="Measure nothing; fit what a bundle's measure.py wrote.")
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Measure this machine's layers and write them as a device file; run again to resume."""
    networks = () if network is None else [each.strip() for each in network.split(",")]
    if bundle is not None:
        _refuse_others(context, "bundle", ("model", "network", "input_px", "seed", "json"))
        _bundle(bundle, model, networks, input_px, seed, json)
        return
    if out is None:
        raise InputError("out: is missing; give --out FILE.yaml, the device file, or --bundle FOLDER")
    check_output(out, "device")
    if measured is not None:
        _refuse_others(context, "measured", ("out", "name", "json"))
        with stdout_for_answers():
            from coinfer_ray.profile.bundle import fit_measured

            found = fit_measured(measured, out, name=name)
    else:
        with stdout_for_answers():
            from coinfer_ray.profile.profile import MODELS
            from coinfer_ray.profile.profile import profile as run

            found = run(
                out,
                models=model or MODELS,
                networks=networks,
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


def _refuse_others(context: typer.Context, chosen: str, taken: Sequence[str]) -> None:
    """Raise InputError for an option that is given and means nothing beside ``--chosen``."""
    for name in context.params:
        source = context.get_parameter_source(name)
        given = source is not None and source.name != "DEFAULT"
        if given and name not in (chosen, *taken):
            option = "--" + name.replace("_", "-")
            known = ", ".join("--" + each.replace("_", "-") for each in taken)
            raise InputError(f"profile: {option} means nothing beside --{chosen}, which takes {known}; leave it out")


def _bundle(
    folder: Path, models: list[str] | None, networks: Sequence[str], input_px: int | None, seed: int, json: bool
) -> None:
    with stdout_for_answers():
        from coinfer_ray.profile.bundle import write_bundle
        from coinfer_ray.profile.profile import MODELS

        written = write_bundle(folder, models=models or MODELS, networks=networks, input_px=input_px, seed=seed)
    if json:
        print_json({"bundle": str(folder), "pieces": written.pieces, "bytes": written.bytes})
        return
    print(
        f"{folder}: {written.pieces} pieces of work, {written.bytes / 1e6:.1f} MB. Take it to the machine, and there:"
    )
    print(f"  cd {folder.name} && python3 measure.py --threads N --out measured.json")
    print("then here:")
    print("  coinfer profile --measured measured.json --out DEVICE.yaml")


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
        table.add_row(
            title,
            f"{each.error:.1%} (by layer {each.layer_error:.1%}), {counted(each.fitted, 'half', 'halves')} fitted",
        )
    print_table(table)
